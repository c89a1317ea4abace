"""Runner of judges unidet and unidet-rs200, T2I-CompBench's detectors.

It is for an environment that has detectron2 and the benchmark's code.

    PYTHON runners/unidet.py --folder FOLDER --checkout T2I-CompBench [--weights FILE-OR-FOLDER]
        [--device cuda] [--sha256 HEX]

The checkout is the user's: the runner uses its network and its list of labels (UniDet_eval), and
nothing of it is part of harope-bench. As in the published scripts, role detector-2d uses
ResNeSt-200 and role detector ResNet-50. The runner was not tested with the published weights, whose
hash is not known here: the judge is a substitute unless --sha256 states it.

Source: Karine-Huang/T2I-CompBench 1b709499:UniDet_eval/2D_spatial_eval.py, numeracy_eval.py,
experts/model_bank.py, experts/obj_detection/generate_dataset.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import common  # type: ignore[import-not-found,unused-ignore]  # beside this file, which is executed and not imported

DetectronObject = Any  # a network or output of detectron2, which is not installed here
VERSION = 1
BACKBONES = ("R50", "RS200")
JUDGE_BY_ROLE = {"detector": ("unidet", "R50"), "detector-2d": ("unidet-rs200", "RS200")}
MIN_SCORE = 0.5
FRAME_SHORT_SIDE = 479
FRAME_LONG_SIDE = 480
STEPS = (
    "antialiased by PIL to a shorter side of 479, the longer at most 480; BGR to the network"
    " whatever its config says; scores from 0.5"
)
OPTIONS = {
    "checkout": (
        "folder of Karine-Huang/T2I-CompBench; its UniDet_eval/experts/expert_weights is the"
        " default of --weights"
    ),
    "sha256": (
        "published hash of the weights file, which you trust; without it the judge is a substitute"
    ),
}


def requested_judge(folder: Path) -> tuple[str, str, str]:
    """Return role, judge and backbone of the folder's queries; stop unless they have one role."""
    path = folder / common.QUERIES
    if not path.is_file():
        common.stop(f"{path} is missing; let `harope-bench eval` write it")
    roles = sorted({str(line.get("role")) for line in common.read_lines(path)})
    if len(roles) != 1 or roles[0] not in JUDGE_BY_ROLE:
        common.stop(
            "{} has queries for {}, wanted one of {}; use a folder for each".format(
                path, " and ".join(roles) or "nothing", ", ".join(JUDGE_BY_ROLE)
            )
        )
    return (roles[0], *JUDGE_BY_ROLE[roles[0]])


def find_evaluation_folder(checkout: str | None) -> Path:
    """Return the folder UniDet_eval of the benchmark; stop where it is missing."""
    if checkout is None:
        common.stop(
            "unidet needs the benchmark's code; add --judge-option checkout=FOLDER of"
            " Karine-Huang/T2I-CompBench"
        )
    folder = Path(checkout or "").expanduser().resolve()
    if folder.name != "UniDet_eval":
        folder = folder / "UniDet_eval"
    if not (folder / "experts" / "obj_detection").is_dir():
        common.stop(
            f"{folder} has no experts/obj_detection; give the checkout of"
            " Karine-Huang/T2I-CompBench"
        )
    return folder


def find_weights(weights: Path | None, evaluation_folder: Path, backbone: str) -> Path:
    """Return the weights file of a backbone; stop where it is missing or of another backbone.

    Args:
        weights: a file, a folder with the files of both backbones, or None for the checkout's.
    """
    path = evaluation_folder / "experts" / "expert_weights"
    if weights is not None:
        path = weights.expanduser().resolve()
    if path.is_file():
        _check_backbone(path, backbone)
        return path
    for suffix in ("6x+2x", "6x-2x"):
        file = path / f"Unified_learned_OCIM_{backbone}_{suffix}.pth"
        if file.is_file():
            return file
    common.stop(
        f"{path} holds no Unified_learned_OCIM_{backbone}_6x+2x.pth; add --judge-option"
        " weights=FOLDER"
    )
    raise SystemExit(1)


def _check_backbone(path: Path, backbone: str) -> None:
    """Stop where the name of a weights file states another backbone."""
    named_backbones = {name for name in BACKBONES if name in path.name}
    if {*BACKBONES} - {backbone} & named_backbones:
        common.stop(
            f"{path} is of another backbone, this role needs {backbone}; give the folder that holds"
            " both files"
        )


def check_trusted(path: Path, trusted_sha256: str | None) -> str:
    """Return the hash of a weights file that is safe to unpickle, which detectron2 does.

    It is safe if the user trusts its hash, or if it holds tensors alone; stop otherwise.
    """
    sha256 = str(common.file_sha256(path))
    if trusted_sha256 is not None:
        if trusted_sha256.lower() != sha256:
            common.stop(
                f"{path} has sha256 {sha256}, trusted is {trusted_sha256}; download the file again"
            )
        return sha256
    import torch

    try:
        torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - an old torch does not know the argument, a new one rejects in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        common.stop(
            f"{path} cannot be read as tensors alone ({reason}); if you trust it, add"
            f" --judge-option sha256={sha256}"
        )
    return sha256


def load_network(
    evaluation_folder: Path, weights: Path, backbone: str, device: str
) -> tuple[DetectronObject, list[str], str]:
    """Return the benchmark's network with its weights, its labels, and its configuration's name."""
    import argparse

    import torch

    os.chdir(evaluation_folder)  # its configurations have paths relative to this folder
    sys.path.insert(0, str(evaluation_folder))
    sys.argv = sys.argv[:1]  # its modules parse the command line
    config = Path("experts/obj_detection/configs") / f"Unified_learned_OCIM_{backbone}_6x+2x.yaml"
    if not config.is_file():
        common.stop(
            f"{evaluation_folder / config} is missing; update the checkout to 1b709499 or later"
        )
    try:
        from detectron2.engine.defaults import DefaultPredictor  # type: ignore[import-not-found,unused-ignore]
        from experts.obj_detection.utils import setup_cfg  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        common.stop(
            f"this Python cannot import the benchmark's detector ({error}); install detectron2"
            " there, or use another Python for --judge-python"
        )

    arguments = argparse.Namespace(
        config_file=str(config),
        opts=["MODEL.WEIGHTS", str(weights), "MODEL.DEVICE", device],
        confidence_threshold=MIN_SCORE,
    )
    network = DefaultPredictor(setup_cfg(arguments)).model
    features = torch.load("dataset/detection_features.pt", map_location="cpu", weights_only=True)
    return network.eval(), [str(label) for label in features["labels"]], config.name


def make_annotate(
    network: DetectronObject, labels: list[str], device: str, runner_role: str
) -> common.Annotate:
    """Return the function that detects objects, with boxes in pixels of the original image.

    `labels` are the class names in the order of the network.
    """
    import numpy as np
    import torch
    from torchvision.transforms import Resize  # type: ignore[import-untyped,unused-ignore]

    resize = Resize(size=FRAME_SHORT_SIDE, max_size=FRAME_LONG_SIDE)

    def annotate(role: str, image_path: Path, query: common.Json) -> common.Json:
        if role != runner_role:
            raise ValueError(f"this runner was started for role {runner_role}, not {role}")
        image = common.load_image(image_path)
        frame = resize(image)
        rgb = np.asarray(frame, dtype=np.float32)  # (h, w, 3)
        bgr_planes = rgb[:, :, ::-1].transpose(2, 0, 1).copy()  # (3, h, w)
        inputs = {
            "image": torch.from_numpy(bgr_planes),
            "height": frame.height,
            "width": frame.width,
        }

        # float16 on CUDA, as in the published scripts
        precision: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if device.startswith("cuda"):
            precision = torch.autocast("cuda", dtype=torch.float16)
        with torch.no_grad(), precision:
            fields = network([inputs])[0]["instances"].to("cpu").get_fields()
        return make_detection_annotation(fields, labels, image.size, frame.size)

    return annotate


def make_detection_annotation(
    fields: DetectronObject,
    labels: list[str],
    image_size: tuple[int, int],
    frame_size: tuple[int, int],
) -> common.Json:
    """Return detectron2's fields as an annotation, the highest score first.

    Args:
        labels: Class names in the order of the network.
        image_size, frame_size: (width, height) of the original image and of the network's input.
    """
    x_scale = image_size[0] / frame_size[0]
    y_scale = image_size[1] / frame_size[1]
    rows = zip(  # noqa: B905 - Python 3.8 does not know strict
        fields["pred_boxes"].tensor.float().tolist(),
        fields["scores"].float().tolist(),
        fields["pred_classes"].tolist(),
    )
    detections = [
        {
            "label": labels[class_number],
            "score": score,
            "box": [box[0] * x_scale, box[1] * y_scale, box[2] * x_scale, box[3] * y_scale],
        }
        for box, score, class_number in rows
    ]
    detections.sort(key=lambda detection: -detection["score"])
    return {"size": list(image_size), "detections": detections}


def run() -> None:
    """Annotate the queries of the folder on the command line."""
    args = common.parse_arguments(OPTIONS)
    args.folder = args.folder.resolve()  # `load_network` changes the working directory
    role, name, backbone = requested_judge(args.folder)
    evaluation_folder = find_evaluation_folder(args.checkout)
    weights = find_weights(args.weights, evaluation_folder, backbone)
    sha256 = check_trusted(weights, args.sha256)
    judge_class, reason = common.judge_class_of(sha256, args.sha256)
    network, labels, config_name = load_network(evaluation_folder, weights, backbone, args.device)

    precision = "float32, the scripts have float16 autocast on CUDA"
    if args.device.startswith("cuda"):
        precision = "float16 autocast"
    versions = common.package_versions("torch", "torchvision", "detectron2", "pillow")
    common.annotate_queries(
        args,
        name,
        VERSION,
        judge_class,
        f"{STEPS}; {reason}; {config_name}; {precision}; {versions}",
        sha256,
        make_annotate(network, labels, args.device, role),
    )


if __name__ == "__main__":
    run()
