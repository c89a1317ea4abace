"""The commands `compare` and `gate`, which test whether two runs differ."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harope_bench.commands.options import json_object_text
from harope_bench.commands.terminal import echo


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("new_runs", metavar="NEW", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help=(
        "Metric to compare; may be repeated. Default: all. The Holm correction covers the metrics"
        " that are compared."
    ),
)
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
def compare(baseline: Path, new_runs: Path, metrics: tuple[str, ...], json_: bool) -> None:
    """Compare the metrics of NEW with those of BASELINE.

    The output has the difference, its confidence interval and a verdict for each metric. BASELINE
    and NEW are run folders, or folders with several runs of one method (one training seed each). A
    difference is NEW minus BASELINE. It is paired by sample if both runs generated the same
    requests, by prompt if both scored the same prompts, and by image if both are classifiers on the
    same images.

    \b
    harope-bench compare runs/rope-axial runs/harope
    """
    from harope_bench.statistics.compare import (
        compare_runs,
        comparison_json,
        comparison_text,
        load_compared_runs,
    )

    comparison = compare_runs(load_compared_runs(baseline), load_compared_runs(new_runs), metrics)
    if json_:
        echo(json_object_text(comparison_json(comparison)))
    else:
        echo("\n".join(comparison_text(comparison)))


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("new_runs", metavar="NEW", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="gate.toml with margin, confidence and on_inconclusive. Default: margin 5%, 0.95.",
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path),
    help="Write a JUnit XML file with one test for each metric.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    help="Append a Markdown summary to this file (for example $GITHUB_STEP_SUMMARY).",
)
@click.option(
    "--update",
    is_flag=True,
    help="Write the measurements of NEW to BASELINE (a .json file) instead of testing them.",
)
@click.option("--reason", help="Why the baseline changes; required by --update.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
def gate(
    baseline: Path,
    new_runs: Path,
    config: Path | None,
    junit: Path | None,
    summary: Path | None,
    update: bool,
    reason: str | None,
    json_: bool,
) -> None:
    """Test NEW for a regression against BASELINE.

    It is a regression if a metric is worse by more than a margin. BASELINE is a run folder or a
    baseline.json. Exit code 0: pass. 3: regression. 4: inconclusive or not comparable.

    \b
    harope-bench gate baseline.json runs/new --config gate.toml --junit gate.xml
    """
    from harope_bench.statistics.gate import baseline as baselines
    from harope_bench.statistics.gate import decide, policy, render

    if update != (reason is not None):
        raise click.UsageError(
            "--update and --reason need each other; give both, or leave both out"
        )
    if update:
        echo(f"{baseline}: {baselines.write_baseline(baseline, new_runs, str(reason))}")
        return

    rules = policy.read_policy(config)
    render.check_outputs(junit, summary)
    verdict = decide.run_gate(
        baselines.load_baseline_or_runs(baseline), baselines.load_baseline_or_runs(new_runs), rules
    )
    if junit is not None:
        render.write_junit(verdict, junit)
    if summary is not None:
        render.add_summary(verdict, summary)
    if json_:
        echo(json_object_text(render.gate_json(verdict)))
    else:
        echo("\n".join(render.gate_text(verdict)))
    sys.exit(verdict.exit_code)
