"""The command eval: images of a folder, of a file or of a checkpoint, a classifier's answers, and
what a network costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import (
    ResolutionList,
    check_count,
    generation_options,
    json_object_text,
    prompt_folder_options,
    real_image_options,
    record_json,
    scoring_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.schema import Result
    from harope_bench.data.result_store import EvaluatedResult
    from harope_bench.pipeline.eval_options import (
        GenerationOptions,
        RealImageOptions,
        ScoringOptions,
    )
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions


@click.command("eval")
@click.argument("target")
@click.option(
    "--suite",
    "suites",
    help=(
        "Suite, several comma-separated for a checkpoint; the run's or the checkpoint's own if left"
        " out."
    ),
)
@scoring_options
@generation_options
@click.option(
    "--resolution",
    "sides",
    type=ResolutionList(),
    multiple=True,
    help="Side in pixels, several make a run each (28,56); the suite's own if left out.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help=(
        "Samples 0 to COUNT - 1; all of a target, the suite's own number of a checkpoint if left"
        " out."
    ),
)
@real_image_options
@prompt_folder_options
@click.option(
    "--label",
    help=(
        "Text of the row that these results get in tables; kept in the results, also of finished"
        " runs."
    ),
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder; the target itself, or runs/NAME."
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def eval_(
    target: str,
    suites: str | None,
    scoring: ScoringOptions,
    generation: GenerationOptions,
    batch: int | None,
    resolutions: tuple[tuple[int, ...], ...],
    count: int | None,
    real_images: RealImageOptions,
    prompt_folder: PromptFolderOptions,
    label: str | None,
    out: Path | None,
    json_: bool,
) -> None:
    """Score TARGET: a run folder, an image folder, an ADM .npz, or a checkpoint (drawn from first;
    a classifier names real pictures).

    \b
    harope-bench eval digits-harope --suite digits --count 500 --out runs/harope
    harope-bench eval digits-harope --with cost --count 100   # 100 timed forwards, no image
    harope-bench eval my-flux --suite geneval,dpg-bench --resolution 512,1024,2048 --out
    runs/my-flux
    harope-bench eval results.jsonl --suite geneval --label "FLUX + ours" --out runs/ours
    """
    from harope_bench.core.record_base import check_label
    from harope_bench.pipeline.eval_options import EvalOptions
    from harope_bench.pipeline.evaluate_target import evaluate_target

    check_count(count)
    options = EvalOptions(
        **vars(scoring),
        count=count,
        batch=batch,
        generation=generation,
        real_images=real_images,
        folder_options=prompt_folder,
        label=None if label is None else check_label(label),
        out=out,
    )
    names = [name.strip() for name in suites.split(",")] if suites else []
    evaluation = evaluate_target(
        target, options, names, [side for group in resolutions for side in group]
    )
    pending = evaluation.pending_error
    print_results(evaluation.results, json_ and pending is None)
    if pending is not None:
        raise pending


def print_results(results: Sequence[EvaluatedResult], as_json: bool) -> None:
    """Print results: one JSON object, or each in words."""
    from harope_bench.pipeline.evaluate_target import is_network_evaluator

    if as_json:
        echo(
            json_object_text(
                {
                    "results": [
                        {"path": str(s.path), "fresh": s.is_new, "result": record_json(s.result)}
                        for s in results
                    ]
                }
            )
        )
        return
    for scored in results:
        echo(
            f"{scored.path}:"
            f" {result_title(scored.result)}{'' if scored.is_new else ' (stood already, no work done)'}"
        )
        for line in result_lines(
            scored.result, "forwards" if is_network_evaluator(scored.result.evaluator) else "images"
        ):
            echo("  " + line)


def result_title(result: Result) -> str:
    """Return which implementation of a metric and which judge a result is of."""
    return (
        f"{result.evaluator}@{result.version}, profile {result.profile}, judge {result.judge.name}"
    )


def result_lines(result: Result, samples: str) -> list[str]:
    """Return a result in words, one measurement a line, full precision.

    Args:
        samples: What the evaluator counts, `images` or `forwards`.
    """
    lines = []
    for m in result.measurements:
        value = (
            f"{m.value:.6g}" + (f" +- {m.se:.2g}" if m.se is not None else "")
            if m.value is not None
            else f"none: {m.reason}"
        )
        lines.append(
            f"{m.name:14} {value}  ({m.n_scored:,} of {m.n_asked:,}"
            f" {samples}{', ' + m.interval if m.interval else ''})"
        )
    return [*lines, *(f"warning: {text}" for text in result.warning_texts)]
