"""Verbs that ask whether a difference is real: compare, gate."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harope_bench.commands.options import json_object_text
from harope_bench.commands.terminal import echo


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="Only this metric (may be repeated); all if left out. Holm adjusts over these.",
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def compare(baseline: Path, new: Path, metrics: tuple[str, ...], json_: bool) -> None:
    """Is NEW different from BASELINE: differences, intervals, verdicts.

    Each side is a run folder, or a folder of runs of one method trained with several seeds.
    Differences are NEW minus BASELINE,
    paired by sample where both drew the same requests, by prompt where both score the same prompts,
    by picture where a classifier's
    pictures are equal.

    \b
    harope-bench compare runs/rope-axial runs/harope
    """
    from harope_bench.statistics.compare import (
        compare_runs,
        comparison_json,
        comparison_text,
        load_compared_runs,
    )

    found = compare_runs(load_compared_runs(baseline), load_compared_runs(new), metrics)
    echo(json_object_text(comparison_json(found)) if json_ else "\n".join(comparison_text(found)))


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="gate.toml: margin, confidence, on_inconclusive. Default: margin 5%, 0.95.",
)
@click.option(
    "--junit", type=click.Path(path_type=Path), help="Write JUnit XML here, a test a metric."
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    help="Add a Markdown summary to this file (GITHUB_STEP_SUMMARY).",
)
@click.option(
    "--update", is_flag=True, help="Write NEW's numbers to BASELINE (a .json) in place of gating."
)
@click.option("--reason", help="Why the baseline changes; --update needs it.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def gate(
    baseline: Path,
    new: Path,
    config: Path | None,
    junit: Path | None,
    summary: Path | None,
    update: bool,
    reason: str | None,
    json_: bool,
) -> None:
    """Has NEW become worse than BASELINE by more than a margin: pass, regression, cannot tell.

    BASELINE is a run folder or a baseline.json. Exit 0 pass, 3 regression, 4 cannot tell or not
    comparable.

    \b
    harope-bench gate baseline.json runs/new --config gate.toml --junit gate.xml
    """
    from harope_bench.statistics.gate import baseline as baselines
    from harope_bench.statistics.gate import decide, policy, render

    if update != (reason is not None):
        raise click.UsageError(
            "--update and --reason go together: a baseline changes for a stated reason"
        )
    if update:
        echo(f"{baseline}: {baselines.write_baseline(baseline, new, str(reason))}")
        return
    rules = policy.read_policy(config)
    render.check_outputs(junit, summary)
    verdict = decide.run_gate(
        baselines.load_baseline_or_runs(baseline), baselines.load_baseline_or_runs(new), rules
    )
    if junit is not None:
        render.write_junit(verdict, junit)
    if summary is not None:
        render.add_summary(verdict, summary)
    echo(
        json_object_text(render.gate_json(verdict))
        if json_
        else "\n".join(render.gate_text(verdict))
    )
    sys.exit(verdict.exit_code)
