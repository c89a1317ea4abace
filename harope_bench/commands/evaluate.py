"""The command `eval`: evaluate images, a classifier, or the cost of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    RegisteredName,
    ResolutionList,
)
from harope_bench.commands.options import (
    check_count,
    generation_options,
    json_object_text,
    json_option,
    prompt_folder_options,
    real_image_options,
    record_json,
    scoring_options,
    shard_option,
    worker_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.schema import Measurement, Result
    from harope_bench.core.shard import Shard
    from harope_bench.data.result_store import EvaluatedResult
    from harope_bench.pipeline.eval_options import (
        GenerationOptions,
        RealImageOptions,
        ScoringOptions,
    )
    from harope_bench.pipeline.evaluate_shard import ShardSummary
    from harope_bench.pipeline.worker_options import WorkerOptions
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions


@cloup.command("eval")
@click.argument("target", type=RegisteredName("checkpoints", can_be_path=True))
@cloup.option_group(
    "What is evaluated",
    cloup.option(
        "--suite",
        "suites",
        type=RegisteredName("suites"),
        metavar="NAMES",
        help=(
            "Suite, or several for a checkpoint, comma-separated; see `list suites`. Default: the"
            " suite of the run, the suite registered with the checkpoint, or the benchmark whose"
            " layout the folder or file has."
        ),
    ),
    cloup.option(
        "--resolution",
        "resolutions",
        type=ResolutionList(),
        multiple=True,
        help=(
            "Side of the generated images in pixels. With several, as 28,56, there is one run for"
            " each. Default: the resolution of the suite."
        ),
    ),
    cloup.option(
        "--count",
        type=click.IntRange(1),
        help=(
            "Number of samples: those with the indices 0 to COUNT - 1. Default: all images of a"
            " folder or file; for a checkpoint, the number of samples of the suite."
        ),
    ),
)
@scoring_options
@generation_options
@cloup.option_group(
    "Shared work",
    shard_option(
        "Generate, extract, annotate or classify only part I of N parts, as 2/16, for example in a"
        " job array, and score nothing. Then run the same command without --shard."
    ),
)
@worker_options
@real_image_options
@prompt_folder_options
@cloup.option_group(
    "Output",
    cloup.option(
        "--label",
        help=(
            "Row label of these results in tables. It is stored in the results; existing results of"
            " this evaluation are relabelled too. Default: the name of the checkpoint or target."
        ),
    ),
    cloup.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        help=(
            "Folder for the results. Default: the run folder TARGET; runs/NAME for checkpoint NAME;"
            " runs/eval-NAME for images and result files called NAME."
        ),
    ),
    json_option,
)
def eval_(
    target: str,
    suites: str | None,
    scoring: ScoringOptions,
    generation: GenerationOptions,
    batch: int | None,
    shard: Shard | None,
    resolutions: tuple[tuple[int, ...], ...],
    count: int | None,
    real_images: RealImageOptions,
    prompt_folder: PromptFolderOptions,
    label: str | None,
    out: Path | None,
    processes: WorkerOptions,
    json_: bool,
) -> None:
    """Evaluate TARGET and print its metrics.

    TARGET is one of these:

    \b
    - the name of a registered checkpoint (see `list checkpoints`). If it is a
      generator, its images are generated first. If it is a classifier, it
      classifies the real images of the suite.
    - weights: what `register --weights` takes, or OWNER/NAME of a model on the
      Hugging Face Hub that `fetch hub:OWNER/NAME` brought. They are registered
      first, under the name of the folder, or as OWNER--NAME.
    - a run folder: what `generate` or `eval` wrote for one checkpoint, suite and
      set of settings.
    - a folder of images, or an .npz file with samples as OpenAI's
      guided-diffusion (ADM) writes it.
    - the results file that the scoring script of GenEval, DPG-Bench or
      T2I-CompBench wrote.

    A suite is a task: labels or prompts to generate from, the number and size of the images, and
    what the images are compared with. An evaluator computes metrics from what a judge extracts
    from the images. A judge is a network that looks at images.

    \b
    harope-bench eval digits-harope --suite digits --count 500 --out runs/harope
    # Time 100 forward passes; no image is generated:
    harope-bench eval digits-harope --with cost --count 100
    harope-bench eval my-flux --suite geneval,dpg-bench \\
        --resolution 512,1024,2048 --out runs/my-flux
    harope-bench eval results.jsonl --suite geneval --label "FLUX + ours" \\
        --out runs/ours
    """
    from harope_bench.core.record_base import validate_user_label
    from harope_bench.pipeline.eval_options import EvalOptions
    from harope_bench.pipeline.evaluate_target import evaluate_target, folder_of_work
    from harope_bench.pipeline.worker_options import use_workers

    check_count(count)
    options = EvalOptions(
        **vars(scoring),
        count=count,
        batch=batch,
        generation=generation,
        real_images=real_images,
        folder_options=prompt_folder,
        label=None if label is None else validate_user_label(label),
        out=out,
    )
    suite_names = [name.strip() for name in suites.split(",")] if suites else []
    sides = [side for group in resolutions for side in group]
    shared_folder = folder_of_work(target, out)
    if shard is not None:
        from harope_bench.pipeline.evaluate_shard import evaluate_shard

        with use_workers(processes, generation.device, shared_folder):
            summaries = evaluate_shard(target, options, shard, suite_names, sides)
        print_shards(summaries, shard, json_)
        return
    with use_workers(processes, generation.device, shared_folder):
        evaluation = evaluate_target(target, options, suite_names, sides)

    pending = evaluation.pending_error
    print_results(evaluation.results, json_ and pending is None)
    if pending is not None:
        raise pending


def print_shards(summaries: Sequence[ShardSummary], shard: Shard, as_json: bool) -> None:
    """Print what a shard did in each run folder, as one JSON object or as text."""
    if as_json:
        entries = [{**summary._asdict(), "out": str(summary.out)} for summary in summaries]
        echo(json_object_text({"shard": str(shard), "runs": entries}))
        return
    for summary in summaries:
        counts = {
            "generated": summary.n_generated,
            "extracted": summary.n_extracted,
            "annotated": summary.n_annotated,
            "classified": summary.n_classified,
        }
        parts = [f"{count:,} {name}" for name, count in counts.items() if count]
        echo(
            f"{summary.out}: shard {shard}, {summary.n_samples:,} samples:"
            f" {', '.join(parts) or 'up to date'}; run eval without --shard to score"
        )


def print_results(results: Sequence[EvaluatedResult], as_json: bool) -> None:
    """Print results as one JSON object, or as text."""
    from harope_bench.pipeline.evaluate_target import is_network_evaluator

    if as_json:
        entries = [
            {"path": str(r.path), "is_new": r.is_new, "result": record_json(r.result)}
            for r in results
        ]
        echo(json_object_text({"results": entries}))
        return
    for evaluated_result in results:
        state = "" if evaluated_result.is_new else " (up to date)"
        echo(f"{evaluated_result.path}: {result_title(evaluated_result.result)}{state}")
        is_of_network = is_network_evaluator(evaluated_result.result.evaluator)
        for line in result_lines(
            evaluated_result.result, "forwards" if is_of_network else "images"
        ):
            echo("  " + line)


def result_title(result: Result) -> str:
    """Return the evaluator with its version, the profile and the judge of a result."""
    return (
        f"{result.evaluator}@{result.version}, profile {result.profile}, judge {result.judge.name}"
    )


def result_lines(result: Result, samples: str) -> list[str]:
    """Return a result as text: one line for each measurement, then the warnings.

    Args:
        samples: What the evaluator counts, `images` or `forwards`.
    """
    lines = []
    for m in result.measurements:
        interval = f", {m.interval}" if m.interval else ""
        counts = f"{m.n_scored:,} of {m.n_asked:,} {samples}{interval}"
        lines.append(f"{m.name:14} {_value_text(m)}  ({counts})")
    return [*lines, *(f"warning: {text}" for text in result.warning_texts)]


def _value_text(measurement: Measurement) -> str:
    """Return the value and its standard error, or the reason why there is no value."""
    if measurement.value is None:
        return f"none: {measurement.reason}"
    error = "" if measurement.se is None else f" +- {measurement.se:.2g}"
    return f"{measurement.value:.6g}{error}"
