"""Which of the published benchmarks' own layouts a folder or a file has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harope_bench.evaluators.base import Score
from harope_bench.layouts import compbench, dpg, geneval
from harope_bench.samples import SampleSet

LAYOUTS = {"geneval": geneval, "dpg-bench": dpg, "t2i-compbench": compbench}


def find(folder: Path) -> Callable[[Path, Any], SampleSet] | None:
    """The reader of the layout that the folder is recognised to have, None for plain images."""
    return next((layout.open_layout for layout in LAYOUTS.values() if layout.recognise(folder)), None)


def results(path: Path, evaluator: str) -> Score | None:
    """What a finished official run says, in the measurements of that evaluator; None where it is no such file."""
    layout = LAYOUTS.get(evaluator)
    return layout.imported(path) if layout is not None and layout.is_result(path) else None
