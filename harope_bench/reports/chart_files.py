"""A figure's files: the data as JSON and CSV, and the picture, which is always drawn from the
data.
"""

from __future__ import annotations

import re
from pathlib import Path

from harope_bench.core.chart_schema import Chart, read_chart
from harope_bench.core.errors import BenchError, OptionError, StorageError
from harope_bench.core.escaping import csv_text
from harope_bench.core.storage import write_text
from harope_bench.reports.charts_svg import CSV_COLUMNS, chart_rows, render_chart

FIGURES_FOLDER = "figures"  # of a runs folder; the report shows what lies there


def write_figure(chart: Chart, out: Path) -> list[Path]:
    """Writes OUT.svg with .json and .csv beside it, and returns the three.

    Raises:
        OptionError: `out` does not end in .svg. StorageError: a file beside it is not of a figure,
            so it would be lost.
    """
    if out.suffix != ".svg":
        raise OptionError(f"{out} should end in .svg; the data go beside it as .json and .csv")
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    texts = {
        out.with_suffix(".json"): chart.to_json()
        + "\n",  # first: by it the next call knows what an interrupted one left
        out.with_suffix(".csv"): chart_csv(chart),
        out: head + _standalone_svg(render_chart(chart, _svg_id(out))) + "\n",
    }
    _check_overwritten(out)
    for path, text in texts.items():
        write_text(path, text)
    return [out, *(path for path in texts if path != out)]


def _check_overwritten(out: Path) -> None:
    """Refuse to write over data that are no figure's; a figure is drawn again over its earlier
    self.
    """
    data = out.with_suffix(".json")
    present = [path for path in map(out.with_suffix, (".svg", ".json", ".csv")) if path.exists()]
    if not present:
        return
    try:
        read_chart(data)
    except BenchError as error:
        names = ", ".join(path.name for path in present)
        raise StorageError(
            f"{out.parent} holds {names}, which no figure wrote; choose another --out"
        ) from error


def read_figures(runs: Path) -> dict[str, Chart]:
    """The figures of a runs folder by the name of their data; a picture that lies there is never
    read.
    """
    return {path.stem: read_chart(path) for path in sorted((runs / FIGURES_FOLDER).glob("*.json"))}


def _svg_id(out: Path) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", out.stem)


def _standalone_svg(svg: str) -> str:
    """With a text colour and a ground of its own, which a page would give."""
    return svg.replace("<svg", '<svg style="color:#1b1d21;background:#fff"', 1)


def chart_csv(chart: Chart) -> str:
    """The figure's numbers as csv."""
    return csv_text([CSV_COLUMNS[chart.kind], *chart_rows(chart)])
