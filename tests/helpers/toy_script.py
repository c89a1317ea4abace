"""A script that answers the queries of the toy judge in another Python."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from toy_prompts import ToyEye

from harope_bench.judges.runners import __file__ as runners_file
from harope_bench.pipeline.eval_options import EvalOptions
from harope_bench.pipeline.evaluate_target import evaluate_target
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

# Answers both roles of the toy rules without a look at the image.
SOURCE = """
import common
args = common.parse_arguments({})
def annotate(role, image, query):
    if role == "detector":
        box = {"label": "square", "score": 0.9, "box": [0, 0, 4, 4]}
        return {"size": [8, 8], "detections": [box]}
    return {"answers": [{"text": "yes", "yes_probability": 0.5} for _ in query["questions"]]}
weights = common.file_sha256(args.weights)
common.annotate_queries(args, "toy-eye", 1, "substitute", "none", weights, annotate)
"""


def write_toy_script(folder: Path) -> Path:
    """Write the script and what it imports; return its path, for `ToyEye.runner`."""
    folder.mkdir(parents=True)
    shutil.copy(Path(str(runners_file)).parent / "common.py", folder)
    script = folder / "stand_in.py"
    script.write_text(SOURCE)
    return script


def annotate_with_script(images: Path, folder: Path) -> list[str]:
    """Evaluate images with the script; return the sorted lines of the annotations."""
    options = EvalOptions(
        suite="toy",
        out=folder,
        python=Path(sys.executable),
        runner_options={"weights": str(ToyEye.runner)},
        folder_options=PromptFolderOptions(order="copy-major"),
    )
    evaluate_target(str(images), options)
    return sorted((folder / "annotations/toy-eye/annotations.jsonl").read_text().splitlines())
