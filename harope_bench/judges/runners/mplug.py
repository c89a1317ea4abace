"""Runner of judge mplug, DPG-Bench's own network: answers questions in an environment that has
modelscope.

    PYTHON runners/mplug.py --folder ANNOTATIONS --weights MODEL-FOLDER [--device cuda] [--sha256
    HEX]

The model's folder is brought in that environment by `modelscope download --model
damo/mplug_visual-question-answering_coco_large_en
--local_dir MODEL-FOLDER`; nothing is downloaded here. modelscope's own pipeline does all of it, in
float32: the published script asks for
half precision where it has no effect. That loader unpickles the weights, so take them from their
publisher alone. Their hash is not
known here: give the one that the publisher's page states of pytorch_model.bin as --sha256, else the
answers are a substitute's. Not
run with the published weights.

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
    "sha256": "published hash of pytorch_model.bin; without it the answers are a substitute's"
}
STEPS = (
    "modelscope's pipeline: bicubic to the model's square, 25 question tokens, beam of 5, float32"
)


def load_pipeline(folder: Path, device: str) -> Pipeline:
    """modelscope's pipeline on a local folder."""
    try:
        from modelscope.pipelines import pipeline  # type: ignore[import-not-found]
    except ImportError as error:
        common.stop(
            f"this Python cannot import modelscope ({error}); pip install modelscope there, or give"
            " --judge-python another"
        )
    return pipeline(
        "visual-question-answering", model=str(folder), device=device.replace("cuda", "gpu")
    )


def revision(folder: Path) -> str:
    """What modelscope noted of the version it downloaded."""
    note = folder / ".mv"
    found = (
        re.search(r"Revision:([\w.-]+)", note.read_text(encoding="utf-8", errors="replace"))
        if note.is_file()
        else None
    )
    return found[1] if found else "not recorded"


def main() -> None:
    """Answers the folder's questions."""
    args = common.parse_arguments(OPTIONS)
    folder = args.weights
    if folder is None or not folder.is_dir():
        common.stop("mplug needs its model's folder; add --judge-option weights=FOLDER")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        common.stop(
            f"{folder} lacks {', '.join(missing)}; bring the model again with modelscope download"
        )
    judge_class, why = common.judge_class_of(common.file_sha256(folder / FILES[-1]), args.sha256)
    asked = load_pipeline(folder, args.device)

    def see(role: str, image: Path, ask: common.Json) -> common.Json:
        if role != "vqa":
            raise ValueError(f"mplug answers questions (vqa), not {role}")
        picture = common.load_image(image)
        texts = [
            asked({"image": picture, "question": question})["text"] for question in ask["questions"]
        ]
        return {"answers": [{"text": str(text)} for text in texts]}

    told = (
        f"{STEPS}; {why}; revision {revision(folder)};"
        f" {common.package_versions('modelscope', 'transformers', 'torch', 'pillow')}"
    )
    common.annotate_queries(
        args, NAME, VERSION, judge_class, told, common.file_sha256(folder, FILES), see
    )


if __name__ == "__main__":
    main()
