"""Files that the official scorers wrote: whose they are, and what they say in our measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harope_bench.evaluators.base import Score
from harope_bench.layouts import dpg_results, geneval_results
from harope_bench.suites.base import PromptSuite

READERS: Mapping[str, Any] = {"dpg-bench": dpg_results, "geneval": geneval_results}  # by evaluator


def results(path: Path, evaluator: str, suite: PromptSuite, lenient: bool, rules: str) -> Score | None:
    """What a finished official run says, in the measurements of that evaluator; None where it is no such file.

    Raises:
        StorageError: such a file, with a line that cannot be read. SampleError: prompts that the suite does not have.
    """
    reader = READERS.get(evaluator)
    return reader.imported(path, suite, lenient, rules) if reader is not None and reader.recognise(path) else None
