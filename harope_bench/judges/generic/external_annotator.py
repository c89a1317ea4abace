"""An annotator that another Python runs, because no environment beside this one holds its
libraries.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from harope_bench.core.annotations import Role
from harope_bench.core.errors import MissingAssetError
from harope_bench.judges.base import Annotator

RUNNERS = Path(__file__).parents[1] / "runners"


class ExternalAnnotator(Annotator):
    """The plug-in: facts, and the runner's path. What ran is recorded by the runner.

    Args:
        title: of the judge, for errors. needs: what the other Python has. option: the
            `--judge-option` that it needs. otherwise: what
            a user can do who has no such Python.
    """

    version = 1
    judge_class = "official"

    def __init__(
        self,
        title: str,
        role: Role,
        runner: str,
        preprocessing: str,
        needs: str,
        option: str,
        otherwise: str,
    ):
        self.roles = (role,)
        self.runner = RUNNERS / runner
        self.preprocessing = preprocessing
        self.title = title
        self.needs = needs
        self.advice = f"add --judge-python PYTHON --judge-option {option}, or {otherwise}"

    def weights_sha256(self) -> str:
        """Raise NotHere: the other environment holds them."""
        raise self._missing()

    def open(self, device: str) -> NoReturn:
        """Raise NotHere: the other environment opens it."""
        raise self._missing()

    def _missing(self) -> MissingAssetError:
        return MissingAssetError(
            f"{self.title} runs in a Python of its own, with {self.needs}", advice=self.advice
        )
