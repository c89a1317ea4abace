"""Judge mplug: DPG-Bench's own network, mPLUG-large, asked in the words of the benchmark; it runs in another Python.

No library that harope-bench can sit beside has this network, so `runner` is executed by an environment with modelscope that the user
names (`--judge-python`). Only the exact text `yes` counts in DPG-Bench; the network gives texts, no share of yes.

Source: TencentQQGYLab/ELLA:dpg_bench/compute_dpg_bench.py; damo/mplug_visual-question-answering_coco_large_en on modelscope.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from harope_bench.core.errors import NotHere


class Mplug:
    """The plug-in: facts, and the runner's path. What ran is recorded by the runner."""

    version = 1
    judge_class = "official"
    preprocessing = "modelscope's pipeline: bicubic to the model's square, 25 question tokens, beam of 5, float32"
    roles = ("vqa",)
    runner = Path(__file__).parents[1] / "runners" / "mplug.py"

    def weights_sha256(self) -> str:
        """NotHere: the other environment holds them."""
        self._elsewhere()

    def open(self, device: str) -> NoReturn:
        """NotHere: the other environment opens it."""
        self._elsewhere()

    def _elsewhere(self) -> NoReturn:
        raise NotHere(
            "mplug runs in a Python of its own, with modelscope; add --judge-python PYTHON --judge-option weights=FOLDER, "
            "or import answers that the official script wrote"
        )


PLUGIN = Mplug()
