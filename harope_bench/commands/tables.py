"""The commands `table`, `reproduce` and `report`, which render tables and reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    FormatType,
    KeyValueType,
    RegisteredName,
)
from harope_bench.commands.options import (
    JUDGE_OPTION_HELP,
    JUDGE_PYTHON_HELP,
    SCALING_HELP,
    device_option,
    echo_estimate,
    entry_options,
    estimate_options,
    precision_options,
    preset_option,
    scaling_option,
    worker_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option
    from harope_bench.leaderboards.board import Show
    from harope_bench.leaderboards.match_runs import Scale
    from harope_bench.pipeline.reproduce import ReproduceSummary
    from harope_bench.pipeline.worker_options import WorkerOptions
    from harope_bench.reports.table_layout import MarkRule


@cloup.command()
@click.argument("names", type=RegisteredName("tables"), nargs=-1, required=True)
@cloup.option(
    "--runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that contains run folders; their results are the measured values.",
)
@cloup.option(
    "--format",
    "format_",
    type=FormatType(["md", "markdown", "csv", "tex", "latex", "html", "json"]),
    default="md",
    help="Output format; markdown stands for md, latex for tex.",
)
@cloup.option(
    "--show",
    type=click.Choice(["published", "measured", "both"]),
    help=(
        "published: the values printed in the paper. measured: the results in --runs. Default: both"
        " with --runs, otherwise published."
    ),
)
@cloup.option_group(
    "Style",
    cloup.option(
        "--no-se",
        is_flag=True,
        help="Print measured numbers without their standard errors (md, latex, html).",
    ),
    cloup.option(
        "--mark",
        type=click.Choice(["top", "best"]),
        help=(
            "Marks of numbers in a block of rows (md, latex, html). top: the best measured number"
            " and those that are not shown to be worse are bold. best: the best value is bold"
            " and the second underlined, whatever their uncertainty. Default: top."
        ),
    ),
    cloup.option(
        "--rows-only",
        is_flag=True,
        help="Print the rows alone, for a tabular of your own (latex).",
    ),
)
@entry_options
def table(
    names: tuple[str, ...],
    runs: Path | None,
    format_: str,
    show: Show | None,
    no_se: bool,
    mark: MarkRule | None,
    rows_only: bool,
    add: tuple[str, ...],
    row: tuple[str, ...],
) -> None:
    """Print tables of the paper with measured values.

    NAMES are tables of the HARoPE paper: 2 or table2, and so on (see `list tables`). Rows, columns
    and decimals are those of the paper, and measured values are next to the published ones.

    \b
    harope-bench table 2 --runs runs/table2 --show both --format md
    harope-bench table 2 --runs runs/table2 --add my-pe="MyPE (ours)"
    # LaTeX with the paper's columns, measured numbers and your own row last:
    harope-bench table 2 --runs runs/table2 --add my-pe="MyPE (ours)" --show measured \\
        --format latex --no-se --mark best > table2.tex
    """
    from harope_bench.data.result_store import read_results
    from harope_bench.leaderboards import board
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports import tables
    from harope_bench.reports.table_layout import TableStyle

    if show in ("measured", "both") and runs is None:
        raise click.UsageError(f"--show {show} needs --runs DIR")
    if (add or row) and (runs is None or show == "published"):
        raise click.UsageError(
            "--add and --row show measured runs; give --runs DIR and leave --show published out"
        )
    if (no_se or mark) and format_ in ("csv", "json"):
        raise click.UsageError(f"--no-se and --mark do not apply to --format {format_}")
    if rows_only and format_ != "tex":
        raise click.UsageError("--rows-only applies to --format latex alone")

    specs = [board.load_table(name) for name in names]
    entries = parse_entries(add, row, runs)
    results = read_results(runs) if runs else []
    shown_values = show or ("both" if runs else "published")
    boards = board.build_boards(specs, results, shown_values, None, entries)

    style = TableStyle(not no_se, mark or "top", rows_only)
    texts = [tables.render_table(filled_board, format_, style) for filled_board in boards]
    if format_ == "json" and len(texts) > 1:
        texts = [f'{{"tables": [\n{",".join(texts)}]}}\n']  # one JSON object for all tables
    echo("\n".join(texts), nl=False)


@cloup.command()
@click.argument("names", type=RegisteredName("tables"), nargs=-1, required=True)
@cloup.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    required=True,
    help=(
        "Which checkpoints fill the rows. micro: the small ones that this package includes; two CPU"
        " cores suffice. paper: large ones, which you have to `register` first with --scale paper."
    ),
)
@cloup.option(
    "--count",
    type=click.IntRange(2),
    help=(
        "Number of samples that are generated for each row. Default: the number of the table's"
        " suite (the set of labels or prompts)."
    ),
)
@cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for all run folders, the tables and the report.",
)
@device_option("Device that the networks run on.")
@cloup.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    help="Seed of every run. Sample i of a run depends on this seed and on i.",
)
@cloup.option_group("Generation", preset_option, *precision_options)
@scaling_option(
    "How an encoding reaches images larger than the training images, for the rows of a table with"
    f" such images; s is the ratio of the sides. {SCALING_HELP} Default: none."
)
@cloup.option(
    "--judge",
    type=RegisteredName("judges"),
    metavar="ROLE=NAME,...",
    help=(
        "For the tables of prompts: judges (networks that look at images) instead of those of the"
        " benchmark, as ROLE=NAME or ROLE=NAME:MODEL, comma-separated. See `eval --help`."
    ),
)
@cloup.option(
    "--judge-python",
    type=click.Path(path_type=Path),
    help=JUDGE_PYTHON_HELP,
)
@cloup.option(
    "--judge-option",
    "judge_options",
    type=KeyValueType(),
    multiple=True,
    help=JUDGE_OPTION_HELP,
)
@cloup.option_group(
    "Estimate",
    cloup.option(
        "--dry-run",
        is_flag=True,
        help=(
            "Print what is missing, the images, GPU hours, wall time and disk space, and generate"
            " nothing."
        ),
    ),
    *estimate_options,
    cloup.option("--json", "json_", is_flag=True, help="Print one JSON object (with --dry-run)."),
)
@entry_options
@worker_options
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
    preset: str | None,
    dtype: str | None,
    tf32: bool | None,
    tile: int | None,
    dry_run: bool,
    gpus: int | None,
    rates: Path | None,
    json_: bool,
    processes: WorkerOptions,
) -> None:
    """Generate and evaluate all rows of tables of the HARoPE paper.

    NAMES are 2 or table2, and so on (see `list tables`), or `all`. Every row gets a run folder with
    its images and results below --out, and the tables and a report are written there too. If the
    command is interrupted, run it again: it resumes, and it skips what is finished.

    \b
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    # Add your own run, which `eval` wrote to runs/table2/my-pe, or a registered checkpoint, which
    # is generated:
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2 \\
        --add my-pe="MyPE (ours)"
    # What the paper's tables need on eight GPUs:
    harope-bench reproduce all --scale paper --out runs/paper --dry-run --gpus 8
    """
    if (gpus or rates or json_) and not dry_run:
        raise click.UsageError("--gpus, --rates and --json are for --dry-run; add it")
    from harope_bench.core.extras import require_network_packages

    require_network_packages("reproduce")

    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.pipeline.annotator_choice import AnnotatorOptions
    from harope_bench.pipeline.reproduce import reproduce
    from harope_bench.pipeline.table_costs import estimate_costs
    from harope_bench.pipeline.worker_options import use_workers

    overrides: dict[str, Option | None] = {
        "preset": preset,
        "dtype": dtype,
        "tf32": tf32,
        "tile": tile,
    }
    entries = parse_entries(add, row, out)
    if dry_run:
        estimate, missing = estimate_costs(
            names, scale, count, out, device, overrides, entries, gpus or 1, rates
        )
        echo_estimate(estimate, missing, json_)
        return
    annotator_options = AnnotatorOptions(
        device,
        python=judge_python,
        runner_options={key: str(value) for key, value in judge_options},
    )
    with use_workers(processes, device, out):
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
            entries,
            overrides,
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


@cloup.command()
@click.argument(
    "folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@cloup.option(
    "--runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    hidden=True,
    help="The same as FOLDER.",
)
@cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write. Default: report.html or report.md in FOLDER.",
)
@cloup.option(
    "--format",
    "format_",
    type=FormatType(["html", "md", "markdown"]),
    help=(
        "html: one page with images. md: Markdown below 60 kB, for a pull request. Default: md if"
        " FILE ends in .md, otherwise html."
    ),
)
@cloup.option(
    "--table",
    "tables",
    type=RegisteredName("tables"),
    multiple=True,
    metavar="NAME",
    help=(
        "Table to show, as 2 or table2; may be repeated, the first one is at the top. Default: the"
        " table whose rows the runs fill for the most part, otherwise a comparison of the runs."
    ),
)
@cloup.option(
    "--assets",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=(
        "Write the shown images in full size to this folder, which must be new or empty, and link"
        " them from the report. Default: the report has reduced images only."
    ),
)
@cloup.option(
    "--no-images",
    is_flag=True,
    help="Show no images, only the score and the reason of each image.",
)
@entry_options
def report(
    folder: Path | None,
    runs: Path | None,
    out: Path | None,
    format_: str | None,
    tables: tuple[str, ...],
    assets: Path | None,
    no_images: bool,
    add: tuple[str, ...],
    row: tuple[str, ...],
) -> None:
    """Write an HTML report of all runs below FOLDER.

    The report is one HTML file. It starts with the question, a verdict, a plot and a table;
    differences, charts, images and settings are folded below. It includes everything it shows, so
    it can be sent to others.

    \b
    harope-bench report runs/table2 --table 2
    harope-bench report runs/table2 -o report.html --add my-pe="MyPE (ours)"
    harope-bench report runs/shapes-harope -o report.html --assets report-images
    # For a pull request:
    harope-bench report runs/table2 -o report.md
    """
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports.gallery_records import GalleryOptions
    from harope_bench.reports.report_markdown import write_report_markdown
    from harope_bench.reports.report_page import write_report

    if assets is not None and no_images:
        raise click.UsageError("--assets writes images; leave --no-images out")
    if (folder is None) == (runs is None):
        raise click.UsageError("give one FOLDER that contains run folders")
    runs_folder = folder or runs
    assert runs_folder is not None
    if format_ is None:
        format_ = "md" if out and out.suffix.lower() == ".md" else "html"
    if format_ == "md" and (assets is not None or no_images):
        raise click.UsageError("--assets and --no-images do not apply to --format md")
    path = out or runs_folder / f"report.{format_}"
    entries = parse_entries(add, row, runs_folder)
    if format_ == "md":
        write_report_markdown(runs_folder, path, entries, tables)
    else:
        gallery_options = GalleryOptions(not no_images, assets, page_folder=path.parent)
        write_report(runs_folder, path, entries, tables=tables, gallery_options=gallery_options)
    echo(path)
