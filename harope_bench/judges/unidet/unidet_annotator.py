"""UniDet as T2I-CompBench runs it, in another Python: two plug-ins, one for each of its networks."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from harope_bench.core.errors import NotHere


class UniDet:
    """The plug-in: facts, and the runner's path. What ran is recorded by the runner."""

    version = 1
    judge_class = "official"
    runner = Path(__file__).parents[1] / "runners" / "unidet.py"

    def __init__(self, backbone: str, role: str):
        self.backbone, self.roles = backbone, (role,)
        self.preprocessing = (
            f"UniDet {backbone}: antialiased by PIL to a shorter side of 479, the longer at most 480; BGR; scores from 0.5; float16 on CUDA"
        )

    def weights_sha256(self) -> str:
        """NotHere: the other environment holds them."""
        self._elsewhere()

    def open(self, device: str) -> NoReturn:
        """NotHere: the other environment opens it."""
        self._elsewhere()

    def _elsewhere(self) -> NoReturn:
        raise NotHere(
            f"UniDet {self.backbone} runs in a Python of its own, with detectron2 and the benchmark's code; add --judge-python PYTHON "
            "--judge-option checkout=FOLDER, or import what the official script wrote"
        )
