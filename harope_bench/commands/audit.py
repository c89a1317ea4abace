"""The command `audit`: training captions that match a benchmark's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    RegisteredName,
)
from harope_bench.commands.options import (
    json_object_text,
    json_option,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.analysis.contamination import Audit, Kind

CAPTIONS_PATH = click.Path(path_type=Path)


@cloup.command()
@cloup.option(
    "--captions",
    type=CAPTIONS_PATH,
    multiple=True,
    required=True,
    metavar="FILE",
    help=(
        "File of training captions: .jsonl, .csv, .tsv, or .txt with a caption on each line, each"
        " also as .gz. May be repeated."
    ),
)
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    required=True,
    metavar="NAME",
    help="Benchmark: geneval, dpg-bench or t2i-compbench; or any name together with --prompts.",
)
@cloup.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help=(
        "Prompt file or folder of the benchmark as its repository has it, or a text file with a"
        " prompt on each line. Default: the fetched prompts (`fetch NAME`)."
    ),
)
@cloup.option(
    "--field",
    metavar="NAME",
    help=(
        "Field (.jsonl) or column (.csv, .tsv) that holds the caption. Default: the first that"
        " exists of text, caption, prompt."
    ),
)
@cloup.option(
    "--examples",
    type=click.IntRange(0),
    default=3,
    help=(
        "Number of matching captions to print for each kind of match in each task (category of"
        " prompts)."
    ),
)
@json_option
def audit(
    captions: tuple[Path, ...],
    suite: str,
    prompts: Path | None,
    field: str | None,
    examples: int,
    json_: bool,
) -> None:
    """Find training captions that match a benchmark's prompts.

    A model that was trained on such captions may have learned the benchmark. A caption matches when
    it equals a prompt, contains one, or, for GenEval, follows one of its templates ("a photo of
    ...") with its objects.

    \b
    harope-bench audit --captions captions.jsonl --suite geneval \\
        --prompts evaluation_metadata.jsonl
    """
    from harope_bench.analysis.contamination import audit_captions

    caption_audit = audit_captions(captions, suite, prompts, field, examples)
    if json_:
        echo(json_object_text(audit_json(caption_audit)))
        return
    for line in audit_lines(caption_audit):
        echo(line)


def audit_json(audit: Audit) -> dict[str, object]:
    """Return the audit as JSON values."""
    from harope_bench.analysis.contamination import KINDS

    kinds = {
        kind: {
            "n_captions": audit.count_kind(kind),
            "tasks": _captions_by_task(audit, kind),
            "n_distinct_prompts": len(audit.matched_prompts[kind]),
        }
        for kind in KINDS
    }
    return {
        "suite": audit.suite,
        "n_prompts": audit.prompts,
        "n_captions": audit.captions,
        "n_matched": audit.n_matched,
        "kinds": kinds,
        "examples": [example._asdict() for example in audit.examples],
    }


def _captions_by_task(audit: Audit, kind: Kind) -> dict[str, int]:
    """Return the number of captions with one kind of match, by task, in alphabetical order."""
    return {
        task: n_captions
        for (task_kind, task), n_captions in sorted(audit.counts.items())
        if task_kind == kind
    }


def audit_lines(audit: Audit) -> list[str]:
    """Return the audit as text: the number of captions by kind and task, then examples."""
    from harope_bench.analysis.contamination import KINDS

    lines = [
        f"{audit.captions:,} captions against {audit.prompts:,} prompts of {audit.suite}:"
        f" {audit.n_matched:,} match"
    ]
    for kind in KINDS:
        # A template has no single prompt that a caption could match.
        n_prompts = f"{len(audit.matched_prompts[kind]):,} of {audit.prompts:,} prompts"
        prompts_text = "" if kind == "template" else f", {n_prompts}"
        lines.append(f"{kind:10} {audit.count_kind(kind):>10,} captions{prompts_text}")
        for task, n_captions in _captions_by_task(audit, kind).items():
            lines.append(f"  {task:16} {n_captions:>10,}")

    if audit.examples:
        lines.append("examples:")
    for example in sorted(audit.examples, key=lambda e: (KINDS.index(e.kind), e.task)):
        prompt = f"  <- {example.prompt}" if example.kind == "contained" else ""
        lines.append(
            f"  {example.kind}, {example.task}, {example.file}:{example.line} "
            f" {example.caption}{prompt}"
        )
    return lines
