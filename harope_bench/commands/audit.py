"""The verb audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import json_object_text
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.analysis.contamination import Audit

CAPTIONS_PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--captions",
    type=CAPTIONS_PATH,
    multiple=True,
    required=True,
    help=".jsonl, .csv, .tsv or .txt, also .gz; may be repeated.",
)
@click.option(
    "--suite", required=True, help="geneval, dpg-bench, t2i-compbench, or any name with --prompts."
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="The suite's official prompt file or folder; it does not ship here.",
)
@click.option(
    "--field",
    help="Field or column of the captions; the first of text, caption, prompt if left out.",
)
@click.option(
    "--examples", type=click.IntRange(0), default=3, help="Captions shown of each kind and task."
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def audit(
    captions: tuple[Path, ...],
    suite: str,
    prompts: Path | None,
    field: str | None,
    examples: int,
    json_: bool,
) -> None:
    """Training captions that repeat, contain, or are formed like a benchmark's prompts.

    \b
    harope-bench audit --captions captions.jsonl --suite geneval --prompts evaluation_metadata.jsonl
    """
    from harope_bench.analysis.contamination import audit_captions

    found = audit_captions(captions, suite, prompts, field, examples)
    if json_:
        echo(json_object_text(audit_json(found)))
    else:
        for line in audit_lines(found):
            echo(line)


def audit_json(found: Audit) -> dict[str, object]:
    """The audit as JSON values."""
    from harope_bench.analysis.contamination import KINDS

    tasks = {
        kind: {task: n for (k, task), n in sorted(found.counts.items()) if k == kind}
        for kind in KINDS
    }
    kinds = {
        k: {
            "captions": found.count_kind(k),
            "tasks": tasks[k],
            "distinct_prompts": len(found.matched_prompts[k]),
        }
        for k in KINDS
    }
    return {
        "suite": found.suite,
        "prompts": found.prompts,
        "captions": found.captions,
        "matched": found.n_matched,
        "kinds": kinds,
        "examples": [example._asdict() for example in found.examples],
    }


def audit_lines(found: Audit) -> list[str]:
    """The audit in words: counts by kind and task, then examples."""
    from harope_bench.analysis.contamination import KINDS

    lines = [
        f"{found.captions:,} captions against {found.prompts:,} prompts of {found.suite}:"
        f" {found.n_matched:,} match"
    ]
    for kind in KINDS:
        met = (
            f", {len(found.matched_prompts[kind]):,} of {found.prompts:,} prompts"
            if kind != "template"
            else ""
        )
        lines.append(f"{kind:10} {found.count_kind(kind):>10,} captions{met}")
        lines += [
            f"  {task:16} {n:>10,}" for (k, task), n in sorted(found.counts.items()) if k == kind
        ]
    if found.examples:
        lines.append("examples:")
    for example in sorted(found.examples, key=lambda e: (KINDS.index(e.kind), e.task)):
        prompt = f"  <- {example.prompt}" if example.kind == "contained" else ""
        lines.append(
            f"  {example.kind}, {example.task}, {example.file}:{example.line} "
            f" {example.caption}{prompt}"
        )
    return lines
