"""Runner of judges unidet and unidet-rs200, T2I-CompBench's own detectors, in an environment that
has detectron2 and the benchmark's code.

    PYTHON runners/unidet.py --folder ANNOTATIONS --checkout T2I-CompBench [--weights
    FILE-OR-FOLDER] [--device cuda] [--sha256 HEX]

The checkout is the user's own: its network and label list are used where they lie (UniDet_eval),
nothing of it is part of harope-bench.
Role detector-2d is seen by ResNeSt-200, role detector by ResNet-50, as the published scripts have
it. Not run with the published weights,
whose hash is not known here: the answers are a substitute's unless --sha256 names it.

Source: Karine-Huang/T2I-CompBench 1b709499:UniDet_eval/2D_spatial_eval.py, numeracy_eval.py,
experts/model_bank.py,
experts/obj_detection/generate_dataset.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import common  # type: ignore[import-not-found,unused-ignore]  # beside this file, which is executed and not imported

DetectronObject = (
    Any  # a network of detectron2, or what it found: the library is not installed here
)
VERSION = 1
JUDGE_BY_ROLE = {"detector": ("unidet", "R50"), "detector-2d": ("unidet-rs200", "RS200")}  # by role
MIN_SCORE = 0.5
FRAME_SHORT_SIDE = 479
FRAME_LONG_SIDE = 480
STEPS = (
    "antialiased by PIL to a shorter side of 479, the longer at most 480; BGR to the network"
    " whatever its config says; scores from 0.5"
)
OPTIONS = {
    "checkout": (
        "folder of Karine-Huang/T2I-CompBench; --weights then is UniDet_eval/experts/expert_weights"
        " if not given"
    ),
    "sha256": (
        "published hash of the weights file, which you trust; without it the answers are a"
        " substitute's"
    ),
}


def requested_judge(folder: Path) -> tuple[str, str, str]:
    """Role, judge and backbone that the folder's questions ask for."""
    path = folder / common.QUERIES
    if not path.is_file():
        common.stop(f"{path} is not there; let `harope-bench eval` write it")
    roles = sorted({str(line.get("role")) for line in common.read_lines(path)})
    if len(roles) != 1 or roles[0] not in JUDGE_BY_ROLE:
        common.stop(
            "{} asks for {}, wanted one of {}; use a folder for each".format(
                path, " and ".join(roles) or "nothing", ", ".join(JUDGE_BY_ROLE)
            )
        )
    return (roles[0], *JUDGE_BY_ROLE[roles[0]])


def find_evaluation_folder(checkout: str | None) -> Path:
    """The benchmark's UniDet_eval."""
    if checkout is None:
        common.stop(
            "unidet needs the benchmark's code; add --judge-option checkout=FOLDER of"
            " Karine-Huang/T2I-CompBench"
        )
    place = Path(checkout or "").expanduser().resolve()
    place = place if place.name == "UniDet_eval" else place / "UniDet_eval"
    if not (place / "experts" / "obj_detection").is_dir():
        common.stop(
            f"{place} has no experts/obj_detection; give the checkout of Karine-Huang/T2I-CompBench"
        )
    return place


def find_weights(given: Path | None, place: Path, backbone: str) -> Path:
    """The weights file: the one given, or in the folder given or the checkout's own the one of this
    backbone.
    """
    given = place / "experts" / "expert_weights" if given is None else given.expanduser().resolve()
    if given.is_file():
        if {"R50", "RS200"} - {backbone} & {
            part for part in ("R50", "RS200") if part in given.name
        }:
            common.stop(
                f"{given} is of another backbone, this role is seen by {backbone}; give the folder"
                " that holds both files"
            )
        return given
    for name in (
        f"Unified_learned_OCIM_{backbone}_6x+2x.pth",
        f"Unified_learned_OCIM_{backbone}_6x-2x.pth",
    ):
        if (given / name).is_file():
            return given / name
    common.stop(
        f"{given} holds no Unified_learned_OCIM_{backbone}_6x+2x.pth; add --judge-option"
        " weights=FOLDER"
    )
    raise SystemExit(1)


def check_trusted(path: Path, told: str | None) -> str:
    """The file's hash, once it is known to be tensors alone or the one that the user trusts:
    detectron2 unpickles what it is given.
    """
    found = str(common.file_sha256(path))
    if told is not None:
        if told.lower() != found:
            common.stop(f"{path} has sha256 {found}, trusted is {told}; bring the file again")
        return found
    import torch

    try:
        torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - an old torch does not know the word, a new one refuses in many ways
        why = (str(error).splitlines() or [type(error).__name__])[0][:100]
        common.stop(
            f"{path} cannot be read as tensors alone ({why}); if you trust it, add --judge-option"
            f" sha256={found}"
        )
    return found


def load_network(
    place: Path, weights: Path, backbone: str, device: str
) -> tuple[DetectronObject, list[str], str]:
    """The benchmark's network with weights, its labels, and the names of both in words."""
    import argparse

    import torch

    os.chdir(place)  # its configs name files relative to this folder
    sys.path.insert(0, str(place))
    sys.argv = sys.argv[:1]  # its modules parse the command line
    config = Path("experts/obj_detection/configs") / f"Unified_learned_OCIM_{backbone}_6x+2x.yaml"
    if not config.is_file():
        common.stop(f"{place / config} is not there; update the checkout to 1b709499 or later")
    try:
        from detectron2.engine.defaults import DefaultPredictor  # type: ignore[import-not-found,unused-ignore]
        from experts.obj_detection.utils import setup_cfg  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        common.stop(
            f"this Python cannot import the benchmark's detector ({error}); install detectron2"
            " there, or give --judge-python another"
        )
    options = ["MODEL.WEIGHTS", str(weights), "MODEL.DEVICE", device]
    built = DefaultPredictor(
        setup_cfg(
            argparse.Namespace(
                config_file=str(config), opts=options, confidence_threshold=MIN_SCORE
            )
        )
    ).model
    labels = torch.load("dataset/detection_features.pt", map_location="cpu", weights_only=True)[
        "labels"
    ]
    return built.eval(), [str(label) for label in labels], config.name


def make_annotate(
    model: DetectronObject, labels: list[str], device: str, wanted: str
) -> common.Annotate:
    """A function that sees an image: everything found, boxes in the image's own pixels."""
    import numpy as np
    import torch
    from torchvision.transforms import Resize  # type: ignore[import-untyped,unused-ignore]

    resize = Resize(size=FRAME_SHORT_SIDE, max_size=FRAME_LONG_SIDE)

    def see(role: str, image: Path, ask: common.Json) -> common.Json:
        if role != wanted:
            raise ValueError(f"this runner was started for {wanted}, not {role}")
        whole = common.load_image(image)
        small = resize(whole)
        planes = (
            np.asarray(small, dtype=np.float32)[:, :, ::-1].transpose(2, 0, 1).copy()
        )  # blue, green, red
        shown = {"image": torch.from_numpy(planes), "height": small.height, "width": small.width}
        half = (
            torch.autocast("cuda", dtype=torch.float16)
            if device.startswith("cuda")
            else contextlib.nullcontext()
        )
        with torch.no_grad(), half:
            found = model([shown])[0]["instances"].to("cpu").get_fields()
        return make_detection_annotation(found, labels, whole.size, small.size)

    return see


def make_detection_annotation(
    found: DetectronObject, labels: list[str], size: tuple[int, int], seen: tuple[int, int]
) -> common.Json:
    """detectron2's fields as an answer, the surest first."""
    across = size[0] / seen[0]
    down = size[1] / seen[1]
    rows = zip(
        found["pred_boxes"].tensor.float().tolist(),
        found["scores"].float().tolist(),
        found["pred_classes"].tolist(),
    )
    told = [
        {
            "label": labels[kind],
            "score": score,
            "box": [box[0] * across, box[1] * down, box[2] * across, box[3] * down],
        }
        for box, score, kind in rows
    ]
    return {"size": list(size), "found": sorted(told, key=lambda one: -one["score"])}


def main() -> None:
    """Answers the folder's questions."""
    args = common.parse_arguments(OPTIONS)
    args.folder = args.folder.resolve()
    role, name, backbone = requested_judge(args.folder)
    place = find_evaluation_folder(args.checkout)
    weights = find_weights(args.weights, place, backbone)
    sha256 = check_trusted(weights, args.sha256)
    judge_class, why = common.judge_class_of(sha256, args.sha256)
    model, labels, config = load_network(place, weights, backbone, args.device)
    half = (
        "float16 autocast"
        if args.device.startswith("cuda")
        else "float32, the scripts have float16 autocast on CUDA"
    )
    told = (
        f"{STEPS}; {why}; {config}; {half};"
        f" {common.package_versions('torch', 'torchvision', 'detectron2', 'pillow')}"
    )
    common.annotate_queries(
        args,
        name,
        VERSION,
        judge_class,
        told,
        sha256,
        make_annotate(model, labels, args.device, role),
    )


if __name__ == "__main__":
    main()
