"""The commands `compare` and `gate`, which test whether two runs differ."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import cloup

from harope_bench.commands.option_types import (
    MetricName,
)
from harope_bench.commands.options import (
    json_object_text,
    json_option,
)
from harope_bench.commands.terminal import echo


@cloup.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("new_runs", metavar="NEW", type=click.Path(path_type=Path))
@cloup.option(
    "--metric",
    "metrics",
    type=MetricName(),
    multiple=True,
    help=(
        "Name of a metric to compare, such as fid; may be repeated. The p values are corrected for"
        " the number of compared metrics (Holm). Default: all metrics that both sides have."
    ),
)
@json_option
def compare(baseline: Path, new_runs: Path, metrics: tuple[str, ...], json_: bool) -> None:
    """Compare the metrics of NEW with those of BASELINE.

    BASELINE and NEW are run folders that `eval` has evaluated. Either may also be a folder with
    several runs of one method, each with weights from another training seed.

    For each metric, the output states the difference (NEW minus BASELINE), its 95% confidence
    interval, a p value and a verdict: better, worse, not resolved (the Holm-adjusted p value is 5%
    or more) or not comparable (evaluated in different ways).

    The difference is paired, which makes its interval smaller, where both runs have the same
    samples: the same seeds and labels or prompts (paired by sample), the same prompts (by prompt),
    or the same real images for two classifiers (by image).

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


@cloup.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("new_runs", metavar="NEW", type=click.Path(path_type=Path))
@cloup.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=(
        "TOML file with the tables [default] and [metric.NAME] and these keys. margin: how much"
        " worse a metric may be, as a number in its unit or as a percentage of its baseline value;"
        " default '5%'. confidence: that of the interval of the difference; default 0.95."
        " on_inconclusive: what an inconclusive test counts as, pass, fail or cannot-tell; default"
        " cannot-tell. See docs/guides/gate.md. Default: no file, the defaults for every metric."
    ),
)
@cloup.option(
    "--junit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a JUnit XML file with one test case for each metric.",
)
@cloup.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also append a Markdown summary to this file, for example $GITHUB_STEP_SUMMARY.",
)
@cloup.option(
    "--update",
    is_flag=True,
    help="Do not test; write the results of the run folder NEW to the baseline file BASELINE.",
)
@cloup.option(
    "--reason",
    help="Why the baseline is written; it is stored in the file. Required with --update.",
)
@json_option
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

    A regression is a metric that is significantly worse, and by more than a margin. BASELINE is a
    run folder, or a baseline file (.json) that --update wrote from one. NEW is a run folder.

    Exit code 0: no regression. 3: a regression. 4: inconclusive (there are too few samples to
    conclude either) or not comparable (evaluated in different ways).

    \b
    # Accept a run as the baseline, then test another run against it:
    harope-bench gate baseline.json runs/old --update --reason "first release"
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
