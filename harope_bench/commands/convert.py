"""The command `convert`: samples in the layouts of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    RegisteredName,
)
from harope_bench.commands.options import (
    prompt_folder_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions


@cloup.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@cloup.option(
    "--to",
    type=click.Choice(["adm", "png", "geneval", "dpg", "compbench"]),
    required=True,
    help=(
        "Layout to write. adm: an .npz file with images arr_0 and labels arr_1, as of OpenAI's"
        " guided-diffusion. png: a folder with 000000.png, 000001.png, ... geneval, dpg, compbench:"
        " folders as the scoring scripts of GenEval, DPG-Bench and T2I-CompBench read them."
    ),
)
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    metavar="NAME",
    help=(
        "Suite whose prompts the images show, such as geneval; see `list suites`. Required if"
        " SOURCE is no run folder and has no known layout."
    ),
)
@prompt_folder_options
@cloup.option(
    "--resolution",
    "side",
    type=click.IntRange(1),
    help=(
        "Side in pixels of each image that is joined with others in a file of a DPG-Bench folder;"
        " an alternative to --tiles."
    ),
)
@cloup.option(
    "--count",
    type=click.IntRange(1),
    help="Number of samples: those with the indices 0 to COUNT - 1. Default: all.",
)
@cloup.option(
    "--replace", is_flag=True, help="Overwrite an .npz file TARGET that exists with other content."
)
def convert(
    source: Path,
    target: Path,
    to: str,
    suite: str | None,
    prompt_folder: PromptFolderOptions,
    count: int | None,
    replace: bool,
) -> None:
    """Convert samples to another layout.

    SOURCE is a run folder, an image folder, an .npz file, or a folder that the generation script of
    GenEval, DPG-Bench or T2I-CompBench wrote. TARGET is the file or folder to write. SOURCE is not
    changed.

    \b
    harope-bench convert runs/harope harope.npz --to adm
    harope-bench convert images/ folders/ --to geneval --suite geneval \\
        --pattern '{prompt_index}_{copy}.png'
    """
    from harope_bench.suites.official_layouts.conversion import convert

    conversion, n_failed = convert(source, target, to, suite, count, prompt_folder, replace)
    excluded = f", {n_failed:,} failed samples excluded" if n_failed else ""
    lines = [f"{target}: {conversion.image_count:,} images{excluded}", *conversion.warnings]
    echo("\n  ".join(lines))
