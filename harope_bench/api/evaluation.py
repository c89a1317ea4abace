"""`evaluate`: metrics of images, of a run, of a checkpoint or of a Python generator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from harope_bench.api.frames import make_frame
from harope_bench.api.generation import Run, check_count, generate, generation_options
from harope_bench.api.generators import (
    Generator,
    as_generator,
    check_images,
    is_pipeline,
    open_python_generator,
)
from harope_bench.api.html import table_html, title_html
from harope_bench.core import registry
from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.record_base import Option, validate_user_label
from harope_bench.core.schema import Measurement, Result
from harope_bench.data.folder_writer import write_folder
from harope_bench.data.result_store import EvaluatedResult
from harope_bench.evaluators.base import load_evaluator
from harope_bench.pipeline import evaluate_prompts
from harope_bench.pipeline.eval_options import (
    EvalOptions,
    feature_scorings,
    parse_profiles,
    prompt_scoring,
    required_scoring,
)
from harope_bench.pipeline.evaluate import check_feature_scoring
from harope_bench.pipeline.evaluate_prompts import is_prompt_suite
from harope_bench.pipeline.evaluate_target import evaluate_target
from harope_bench.pipeline.requirements import suite_requirements
from harope_bench.pipeline.target import resolve_target
from harope_bench.pipeline.unmet_requirements import raise_missing
from harope_bench.reports.result_rows import RESULT_COLUMNS, measurement_rows
from harope_bench.suites.base import load_suite
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions
from harope_bench.suites.prompt_files import resolve_suite_name

if TYPE_CHECKING:
    from pandas import DataFrame

IMAGES_FOLDER = "images"  # folder of an array's images in the folder of their results
INDEX_PATTERN = "{index}.png"  # pattern of these images' names
TEMPORARY_NOTE = (
    "The images and results were in a temporary folder, which is deleted; give out=FOLDER to keep"
    " them."
)


class EvaluationResults(Sequence[Result]):
    """The results of one call of `evaluate`, one for each evaluator and profile.

    Attributes:
        results: The records, as they are written to the files.
        path: Folder of the results; None if it was temporary.
    """

    def __init__(
        self,
        evaluated_results: Sequence[EvaluatedResult],
        path: Path | None,
        metric_names: Sequence[str] = (),
    ):
        self.results = tuple(entry.result for entry in evaluated_results)
        self.path = path
        self._files = tuple(entry.path for entry in evaluated_results)
        self._metric_names = tuple(metric_names)

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self.results)

    @overload
    def __getitem__(self, position: int) -> Result: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[Result]: ...

    def __getitem__(self, position: int | slice) -> Result | Sequence[Result]:
        """Return a result, or several of a slice."""
        return self.results[position]

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files of the results; empty if they were temporary."""
        return self._files if self.path is not None else ()

    @property
    def metrics(self) -> dict[str, Measurement]:
        """Return the measurements by metric, such as `fid`.

        Only the metrics that were named are returned, if any was. Where several profiles measured a
        metric, the keys of the later ones contain the profile, as `fid/clean`.
        """
        measurements: dict[str, Measurement] = {}
        for result in self.results:
            for measurement in self._measurements(result):
                name = measurement.metric
                key = f"{name}/{result.profile}" if name in measurements else name
                measurements[key] = measurement
        return measurements

    def _measurements(self, result: Result) -> Iterator[Measurement]:
        """Yield the measurements of a result that were asked for."""
        for measurement in result.measurements:
            if not self._metric_names or measurement.metric in self._metric_names:
                yield measurement

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of all results, each once."""
        return tuple(dict.fromkeys(text for r in self.results for text in r.warning_texts))

    def _rows(self) -> list[dict[str, object]]:
        return [
            row
            for result, path in zip(self.results, self._files, strict=True)
            for row in measurement_rows(result, path, self.path or path.parent.parent)
            if not self._metric_names or row["metric"] in self._metric_names
        ]

    def to_frame(self) -> DataFrame:
        """Return the measurements with the columns of `read_results`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return make_frame(self._rows(), RESULT_COLUMNS)

    def __repr__(self) -> str:
        """Return the metrics with their standard errors."""
        parts = []
        for name, measurement in self.metrics.items():
            error = "" if measurement.se is None else f" +- {measurement.se:.2g}"
            value = "none" if measurement.value is None else f"{measurement.value:.6g}"
            parts.append(f"{name} {value}{error}")
        return f"EvaluationResults({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return the measurements as a table with warnings, for a notebook."""
        columns = ["name", "value", "se", "low", "high", "n", "judge", "profile", "reason"]
        notes = [*self.warnings]
        if self.path is None:
            notes.insert(0, TEMPORARY_NOTE)
        title = self.results[0].target if self.results else "no result"
        return title_html(title) + table_html(columns, self._rows()) + title_html("", notes)


def evaluate(
    target: Any,  # Any: a name, a path, a Run, an array, a tensor, a callable or a pipeline
    suite: str | None = None,
    *,
    metrics: str | Sequence[str] | None = None,
    judge: str | Mapping[str, str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    profile: str | Sequence[str] | None = None,
    rules: Literal["official", "corrected"] = "official",
    count: int | None = None,
    label: str | None = None,
    order: Literal["copy-major", "prompt-major"] | None = None,
    pattern: str | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Option | None,
) -> EvaluationResults:
    """Compute the metrics of images and return them with confidence intervals.

    Results that exist and are current are returned without computing them again.

    Args:
        target: Name of a checkpoint, path of a run folder, an image folder or an .npz file, a
            `Run`, images (N, H, W, 3) uint8 in memory (numpy or torch), or a `Generator` or a
            loaded pipeline, whose images are generated first.
        suite: Suite of the images. None takes that of the run or checkpoint.
        metrics: Names of metrics or evaluators, in any case. None takes the suite's evaluators.
        judge: Judge instead of the suite's; for a suite of prompts a dict of names by role.
        reference: An .npz file with mu and sigma instead of the suite's reference.
        profile: Implementations of a metric to imitate, such as "adm" or "clean".
        rules: Official rules of a benchmark, or the corrected ones.
        count: Number of samples. None takes all, or for a checkpoint the suite's number.
        label: Row label of the results in tables.
        order: Order of the files of an image folder, as `--order` of `harope-bench eval`.
        pattern: Pattern of their names, as `--pattern`. Image i in memory is sample i of the suite.
        out: Folder of the results. None takes the run folder, or runs/NAME for a checkpoint and for
            other paths. Images in memory then use a temporary folder, which is deleted. A
            `Generator` needs one.
        settings: Settings of generation, as for `generate`.

    Raises:
        UnknownNameError: A name is not registered. The message suggests similar ones.
        MissingRequirementsError: Something is not installed. The message names the command.
        BenchError: An option or an image is wrong.

    Examples:
        >>> import numpy as np
        >>> images = np.zeros((4, 28, 28, 3), np.uint8)
        >>> results = evaluate(images, "digits", metrics=["IS"])
        >>> float(round(results.metrics["is"].value, 3))
        1.0
    """
    check_count(count)
    options = EvalOptions(
        suite=None if suite is None else resolve_suite_name(suite),
        reference=None if reference is None else Path(reference),
        profiles=parse_profiles(profile if isinstance(profile, str | None) else ",".join(profile)),
        rules=rules,
        judge=judge_text(judge),
        count=count,
        label=None if label is None else validate_user_label(label),
        folder_options=PromptFolderOptions(order=order, pattern=pattern),
        out=None if out is None else Path(out),
        generation=generation_options(settings),
    )
    if isinstance(target, (str, os.PathLike)):
        return _evaluate_text(os.fspath(target), options, metrics)
    if isinstance(target, Run):
        return _evaluate_text(str(target.path), options, metrics)
    if isinstance(target, Generator) or is_pipeline(target) or callable(target):
        return _evaluate_generator(as_generator(target), options, metrics, settings)
    return _evaluate_images(target, options, metrics)


def judge_text(judge: str | Mapping[str, str] | None) -> str | None:
    """Return a judge, or judges by role, as the text of the option `--judge`."""
    if judge is None or isinstance(judge, str):
        return judge
    return ",".join(f"{role}={name}" for role, name in judge.items())


# ------------------------------------------------------------------------ one function for a target


def _evaluate_text(
    text: str, options: EvalOptions, metrics: str | Sequence[str] | None
) -> EvaluationResults:
    """Evaluate the name of a checkpoint, or a path."""
    target = resolve_target(text, options)
    evaluators, metric_names = select_metrics(metrics, target.suite)
    evaluation = evaluate_target(text, replace(options, evaluators=evaluators))
    if evaluation.pending_error is not None:
        raise evaluation.pending_error
    return EvaluationResults(evaluation.results, target.out, metric_names)


def _evaluate_generator(
    generator: Generator,
    options: EvalOptions,
    metrics: str | Sequence[str] | None,
    settings: dict[str, Option | None],
) -> EvaluationResults:
    """Generate the images of a Python generator and evaluate them.

    Judges and references are checked before the first image is generated.
    """
    if options.out is None:
        raise OptionError(
            f"the images of generator {generator.name} need a folder; give out=FOLDER"
        )
    if options.suite is None:
        raise OptionError(f"generator {generator.name} has no default suite; give suite=...")
    load_suite(options.suite)
    open_python_generator(generator, options.suite)
    evaluators, _ = select_metrics(metrics, options.suite)
    check_scoring(replace(options, evaluators=evaluators), options.out)

    stated_settings: dict[str, Any] = dict(settings)
    run = generate(
        generator, options.suite, out=options.out, count=options.count, **stated_settings
    )
    images_options = replace(options, generation=generation_options({"device": _device(settings)}))
    return _evaluate_text(str(run.path), images_options, metrics)


def _device(settings: Mapping[str, Option | None]) -> Option:
    """Return the device of the judges."""
    return settings.get("device") or "cpu"


def check_scoring(options: EvalOptions, out: Path) -> None:
    """Check judges, references and packages that scoring needs, before images are generated.

    Raises:
        MissingRequirementsError: Something is missing; the message names each command.
        OptionError: A name does not apply.
    """
    suite = str(options.suite)
    evaluators = options.evaluators
    raise_missing(suite_requirements([suite], required_scoring(options, evaluators)))
    if is_prompt_suite(suite):
        evaluate_prompts.check_prompt_scoring(prompt_scoring(options, suite), evaluators)
    else:
        scorings = feature_scorings(options, suite, options.judge)
        check_feature_scoring(out, scorings, evaluators, options.count)


def _evaluate_images(
    images: object, options: EvalOptions, metrics: str | Sequence[str] | None
) -> EvaluationResults:
    """Evaluate images in memory, which are stored as PNG files below the folder of the results."""
    array = check_images(images, None, "evaluate: the target")
    if options.suite is None:
        suites = ", ".join(registry.list_names("suites"))
        raise OptionError(f"images in memory have no suite; give suite=..., one of: {suites}")
    load_suite(options.suite)
    if options.folder_options != PromptFolderOptions():
        raise OptionError(
            "image i in memory is sample i of the suite, so order and pattern have no effect; leave"
            " them out"
        )
    if options.out is not None:
        return _evaluate_array(array, options, options.out, metrics)
    with tempfile.TemporaryDirectory(prefix="harope-bench-") as folder:
        results = _evaluate_array(array, options, Path(folder), metrics)
        results.path = None
        return results


def _evaluate_array(
    images: np.ndarray, options: EvalOptions, out: Path, metrics: str | Sequence[str] | None
) -> EvaluationResults:
    """Store images (N, H, W, 3) as out/images/000000.png, ... and evaluate that folder."""
    positions = {f"{position:06d}.png": position for position in range(len(images))}
    folder = out / IMAGES_FOLDER
    write_folder(folder, list(positions), lambda names: (images[positions[n]] for n in names))
    if is_prompt_suite(str(options.suite)):
        # Prompts without an image were not asked for.
        folder_options = PromptFolderOptions(pattern=INDEX_PATTERN)
        count = options.count or len(images)
        options = replace(options, folder_options=folder_options, count=count)
    return _evaluate_text(str(folder), replace(options, out=out), metrics)


# ------------------------------------------------------------------------------------------ metrics


def select_metrics(
    metrics: str | Sequence[str] | None, suite: str | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the evaluators of metrics, and the names of the metrics.

    An evaluator's name stands for all its metrics. The evaluators of the suite are searched first.

    Args:
        metrics: Names of metrics or evaluators in any case; None selects the suite's evaluators.
        suite: Name of the suite; None if it is not known.

    Returns:
        None and no names if `metrics` is None. No names also stand for all metrics.

    Raises:
        UnknownNameError: No evaluator has a metric of this name.
    """
    if metrics is None:
        return None, ()
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise OptionError("metrics is empty; leave it out for the suite's evaluators")

    evaluator_names = list(load_suite(suite).evaluators) if suite is not None else []
    evaluator_names += registry.list_names("evaluators")
    evaluators: list[str] = []
    metric_names: list[str] = []
    known_names: list[str] = []
    for name in names:
        key = _metric_key(name)
        for evaluator in dict.fromkeys(evaluator_names):
            all_names = [metric.name for metric in load_evaluator(evaluator).metrics]
            matches = all_names if key == _metric_key(evaluator) else []
            matches = matches or [n for n in all_names if _metric_key(n) == key]
            known_names += [evaluator, *all_names]
            if matches:
                evaluators.append(evaluator)
                metric_names += matches
                break
        else:
            raise UnknownNameError("metric or evaluator", name, dict.fromkeys(known_names))
    return tuple(dict.fromkeys(evaluators)), tuple(dict.fromkeys(metric_names))


def _metric_key(name: str) -> str:
    """Return a name in lower case with dashes, by which metrics are found."""
    return name.strip().lower().replace("_", "-").replace(" ", "-")
