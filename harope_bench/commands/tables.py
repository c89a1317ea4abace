"""The commands `table`, `reproduce` and `report`, which render tables and reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import KeyValueType, entry_options, scaling_option
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option
    from harope_bench.leaderboards.board import Show
    from harope_bench.leaderboards.match_runs import Scale
    from harope_bench.pipeline.reproduce import ReproduceSummary


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of runs whose results are the measured values.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["md", "csv", "tex", "html", "json"]),
    default="md",
    help="Output format.",
)
@click.option(
    "--show",
    type=click.Choice(["published", "measured", "both"]),
    help="Values to show. Default: both with --runs, otherwise published.",
)
@entry_options
def table(
    names: tuple[str, ...],
    runs: Path | None,
    format_: str,
    show: Show | None,
    add: tuple[str, ...],
    row: tuple[str, ...],
) -> None:
    """Print tables of the paper with measured values.

    Rows, columns and decimals are those of the paper, and measured values are next to the published
    ones. NAMES are 2, table2 and so on.

    \b
    harope-bench table 2 --runs runs/table2 --show both --format md
    harope-bench table 2 --runs runs/table2 --add my-pe="MyPE (ours)"
    """
    from harope_bench.data.result_store import read_results
    from harope_bench.leaderboards import board
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports import tables

    if show in ("measured", "both") and runs is None:
        raise click.UsageError(f"--show {show} needs --runs DIR")
    if (add or row) and (runs is None or show == "published"):
        raise click.UsageError(
            "--add and --row show measured runs; give --runs DIR and leave --show published out"
        )

    specs = [board.load_table(name) for name in names]
    entries = parse_entries(add, row, runs)
    results = read_results(runs) if runs else []
    shown_values = show or ("both" if runs else "published")
    boards = board.build_boards(specs, results, shown_values, None, entries)

    texts = [tables.render_table(filled_board, format_) for filled_board in boards]
    if format_ == "json" and len(texts) > 1:
        texts = [f'{{"tables": [\n{",".join(texts)}]}}\n']  # one JSON object for all tables
    echo("\n".join(texts), nl=False)


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    required=True,
    help="micro: the small checkpoints of this package, on two CPU cores. paper: registered ones.",
)
@click.option(
    "--count",
    type=click.IntRange(2),
    help="Samples of each row. Default: the suite's number.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for all runs, tables and the report.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Device of the networks.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Base seed.")
@scaling_option(
    "Scaling of positions beyond the training grid, in rows larger than the training resolution."
    " Default: none."
)
@click.option(
    "--judge",
    help=(
        "Judges instead of those of the prompt suites: ROLE=NAME or ROLE=NAME:MODEL,"
        " comma-separated."
    ),
)
@click.option(
    "--judge-python",
    type=click.Path(path_type=Path),
    help="Python interpreter of the environment in which an external judge runs.",
)
@click.option(
    "--judge-option",
    "judge_options",
    type=KeyValueType(),
    multiple=True,
    help="key=value for the script of the external judge (weights=FILE, checkout=FOLDER).",
)
@entry_options
def reproduce(
    names: tuple[str, ...],
    scale: Scale,
    count: int | None,
    out: Path,
    device: str,
    seed: int,
    pos_scaling: str | None,
    judge: str | None,
    judge_python: Path | None,
    judge_options: tuple[tuple[str, Option], ...],
    add: tuple[str, ...],
    row: tuple[str, ...],
) -> None:
    """Generate and evaluate all rows of tables.

    NAMES are table2 and so on, or `all`. The tables and a report are written to --out. An
    interrupted call resumes, and a finished one does nothing.

    \b
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    harope-bench reproduce table2 --scale micro --out runs/table2 --add my-pe="MyPE (ours)"
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("reproduce")

    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.pipeline.annotate import AnnotatorOptions
    from harope_bench.pipeline.reproduce import reproduce

    annotator_options = AnnotatorOptions(
        device,
        python=judge_python,
        runner_options={key: str(value) for key, value in judge_options},
    )
    summary = reproduce(
        names,
        scale,
        count,
        out,
        device,
        seed,
        judge,
        annotator_options,
        pos_scaling,
        parse_entries(add, row, out),
    )
    for line in reproduce_lines(summary):
        echo(line)


def reproduce_lines(summary: ReproduceSummary) -> list[str]:
    """Return what `reproduce` prints: written files, counts, then the missing checkpoints."""
    has_worked = bool(summary.n_generated or summary.n_scored)
    counts = (
        f"{summary.n_rows} rows: {summary.n_generated:,} images generated,"
        f" {summary.n_scored} results computed{'' if has_worked else '; up to date'}"
    )
    return [*map(str, summary.written_paths), counts, *summary.missing_checkpoints]


@click.command()
@click.option(
    "--runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder of runs.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .html file.")
@entry_options
def report(runs: Path, out: Path, add: tuple[str, ...], row: tuple[str, ...]) -> None:
    """Write a report of all runs below a folder.

    The report is one HTML file that needs no network.

    \b
    harope-bench report --runs runs/table2 --out report.html
    harope-bench report --runs runs/table2 --out report.html --add my-pe="MyPE (ours)"
    """
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports.report_page import write_report

    write_report(runs, out, parse_entries(add, row, runs))
    echo(out)
