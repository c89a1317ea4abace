"""An annotator that another Python runs, because its libraries do not fit into this environment."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from harope_bench.core.annotations import Role
from harope_bench.core.errors import MissingAssetError
from harope_bench.judges.base import Annotator

RUNNERS = Path(__file__).parents[1] / "runners"


class ExternalAnnotator(Annotator):
    """A plug-in that describes an external judge; its runner records what ran.

    Args:
        title: of the judge, for messages.
        runner: file name of the runner in judges/runners.
        requirements: what the other Python must have installed.
        option: the `--judge-option` that the runner needs.
        alternative_advice: what a user without such a Python can do.
    """

    version = 1
    judge_class = "official"

    def __init__(
        self,
        title: str,
        role: Role,
        runner: str,
        preprocessing: str,
        requirements: str,
        option: str,
        alternative_advice: str,
    ):
        self.roles = (role,)
        self.runner = RUNNERS / runner
        self.preprocessing = preprocessing
        self.title = title
        self.requirements = requirements
        self.advice = f"add --judge-python PYTHON --judge-option {option}, or {alternative_advice}"

    def weights_sha256(self) -> str:
        """Raise MissingAssetError: the weights belong to the other environment."""
        raise self._missing_python_error()

    def open(self, device: str) -> NoReturn:
        """Raise MissingAssetError: the runner loads the judge in the other environment."""
        raise self._missing_python_error()

    def _missing_python_error(self) -> MissingAssetError:
        """Return the error that asks for the other Python."""
        return MissingAssetError(
            f"{self.title} runs in a separate Python that has {self.requirements}",
            advice=self.advice,
        )
