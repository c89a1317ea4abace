"""The files of a figure: its data as JSON and CSV, and the SVG that is rendered from the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harope_bench.core.chart_schema import Chart, read_chart
from harope_bench.core.errors import BenchError, OptionError, StorageError
from harope_bench.core.escaping import csv_text
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import write_text
from harope_bench.reports.charts_svg import (
    CSV_COLUMNS,
    chart_rows,
    checkpoint_context,
    render_chart,
)

FIGURES_FOLDER = "figures"  # inside a runs folder; the report shows its figures


def write_figure(chart: Chart, out: Path, checkpoints: Sequence[Checkpoint] = ()) -> list[Path]:
    """Write OUT.svg, OUT.json and OUT.csv, and return the three paths.

    Args:
        checkpoints: Checkpoints that the chart names: they have the colours of their encodings.

    Raises:
        OptionError: `out` does not end in .svg.
        StorageError: one of the files exists and belongs to no figure.
    """
    if out.suffix != ".svg":
        raise OptionError(
            f"{out} does not end in .svg; choose such an --out, the data are written beside it as"
            " .json and .csv"
        )
    context = checkpoint_context(checkpoints)
    xml_declaration = '<?xml version="1.0" encoding="utf-8"?>\n'

    # the JSON file comes first: _check_overwritten recognises an interrupted figure by it
    texts = {
        out.with_suffix(".json"): chart.to_json() + "\n",
        out.with_suffix(".csv"): chart_csv(chart),
        out: xml_declaration + render_chart(chart, _svg_id(out), context) + "\n",
    }
    _check_overwritten(out)
    for path, text in texts.items():
        write_text(path, text)
    return [out, *(path for path in texts if path != out)]


def _check_overwritten(out: Path) -> None:
    """Raise StorageError if files of another origin would be overwritten.

    The files of an earlier figure may be overwritten.
    """
    data_path = out.with_suffix(".json")
    existing_paths = [
        path for path in map(out.with_suffix, (".svg", ".json", ".csv")) if path.exists()
    ]
    if not existing_paths:
        return
    try:
        read_chart(data_path)
    except BenchError as error:
        names = ", ".join(path.name for path in existing_paths)
        raise StorageError(
            f"{out.parent} holds {names}, which no figure wrote; choose another --out"
        ) from error


def read_figures(runs: Path) -> dict[str, Chart]:
    """Return the figures of a runs folder by name, read from their JSON data."""
    return {path.stem: read_chart(path) for path in sorted((runs / FIGURES_FOLDER).glob("*.json"))}


def _svg_id(out: Path) -> str:
    """Return the prefix of every id in the SVG."""
    return re.sub(r"[^A-Za-z0-9-]", "-", out.stem)


def chart_csv(chart: Chart) -> str:
    """Return the figure's numbers as CSV."""
    return csv_text([CSV_COLUMNS[chart.kind], *chart_rows(chart)])
