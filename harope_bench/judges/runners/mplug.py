"""Runner of judge mplug, DPG-Bench's network, for an environment that has modelscope.

    PYTHON runners/mplug.py --folder FOLDER --weights MODEL-FOLDER [--device cuda] [--sha256 HEX]

Download the model's folder in that environment with `modelscope download --model
damo/mplug_visual-question-answering_coco_large_en --local_dir MODEL-FOLDER`; the runner downloads
nothing. modelscope's pipeline runs in float32: the published script requests half precision where
that has no effect. Its loader unpickles the weights, so use only those of their publisher. Their
hash is not known here. Pass the hash of pytorch_model.bin that the publisher's page states as
--sha256, or the judge is a substitute. The runner was not tested with the published weights.

Source: TencentQQGYLab/ELLA:dpg_bench/compute_dpg_bench.py; modelscope/modelscope,
pipelines/multi_modal/visual_question_answering_pipeline.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Dict  # noqa: UP035 - read by Python 3.8

import common  # type: ignore[import-not-found]  # beside this file, which is executed and not imported

NAME = "mplug"
VERSION = 1
Pipeline = Callable[[Dict[str, object]], Dict[str, object]]  # noqa: UP006 - Python 3.8
FILES = ("configuration.json", "config.yaml", "vocab.txt", "pytorch_model.bin")
OPTIONS = {
    "sha256": "published hash of pytorch_model.bin; without it the judge is a substitute",
}
STEPS = (
    "modelscope's pipeline: bicubic to the model's square, 25 question tokens, beam of 5, float32"
)


def load_pipeline(folder: Path, device: str) -> Pipeline:
    """Return modelscope's pipeline on a local folder."""
    try:
        from modelscope.pipelines import pipeline  # type: ignore[import-not-found]
    except ImportError as error:
        common.stop(
            f"this Python cannot import modelscope ({error}); run `pip install modelscope` there,"
            " or use another Python for --judge-python"
        )
    return pipeline(
        "visual-question-answering", model=str(folder), device=device.replace("cuda", "gpu")
    )


def revision(folder: Path) -> str:
    """Return the revision that modelscope recorded when it downloaded the folder."""
    path = folder / ".mv"
    if not path.is_file():
        return "not recorded"
    match = re.search(r"Revision:([\w.-]+)", path.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else "not recorded"


def check_model_folder(folder: Path | None) -> Path:
    """Return the model's folder; stop where it or one of its files is missing."""
    if folder is None or not folder.is_dir():
        common.stop("mplug needs its model's folder; add --judge-option weights=FOLDER")
        raise SystemExit(1)  # `stop` exits, which mypy cannot know
    missing_files = [name for name in FILES if not (folder / name).is_file()]
    if missing_files:
        common.stop(
            f"{folder} lacks {', '.join(missing_files)}; download the model again with modelscope"
            " download"
        )
    return folder


def make_annotate(pipeline: Pipeline) -> common.Annotate:
    """Return the function that answers the questions of a query."""

    def annotate(role: str, image_path: Path, query: common.Json) -> common.Json:
        if role != "vqa":
            raise ValueError(f"mplug has the role vqa, wanted {role}")
        image = common.load_image(image_path)
        texts = [
            pipeline({"image": image, "question": question})["text"]
            for question in query["questions"]
        ]
        return {"answers": [{"text": str(text)} for text in texts]}

    return annotate


def run() -> None:
    """Annotate the queries of the folder on the command line."""
    args = common.parse_arguments(OPTIONS)
    folder = check_model_folder(args.weights)
    weights_sha256 = common.file_sha256(folder / "pytorch_model.bin")
    judge_class, reason = common.judge_class_of(weights_sha256, args.sha256)
    pipeline = load_pipeline(folder, args.device)
    versions = common.package_versions("modelscope", "transformers", "torch", "pillow")
    common.annotate_queries(
        args,
        NAME,
        VERSION,
        judge_class,
        f"{STEPS}; {reason}; revision {revision(folder)}; {versions}",
        common.file_sha256(folder, FILES),
        make_annotate(pipeline),
    )


if __name__ == "__main__":
    run()
