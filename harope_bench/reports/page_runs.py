"""What a measured cell leads to: a run with its numbers, protocol, images and commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harope_bench.core.schema import Checkpoint, Measurement
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.table_spec import DASH
from harope_bench.reports.run_names import slug, unique_anchors, unique_run_names
from harope_bench.reports.runs import ReportedRun


@dataclass(frozen=True)
class MeasurementRow:
    """One measurement of a run. `anchor` is the id that cells of tables lead to."""

    anchor: str
    evaluator: str
    name: str
    value: str
    standard_error: str
    interval: str
    interval_method: str
    scored_text: str
    sort_value: str


@dataclass(frozen=True)
class RunCommand:
    """A recorded command, with the id that the copy button names."""

    anchor: str
    text: str


@dataclass(frozen=True)
class RunDetails:
    """A run as the page shows it.

    images_text: how many images there are, and where.
    protocol: how it was generated and evaluated, by field.
    missing_fields: fields of the protocol that nobody recorded.
    notes: what a reader has to know of the run as a whole.
    """

    anchor: str
    id: str
    name: str
    summary: str
    measurements: tuple[MeasurementRow, ...]
    protocol: tuple[tuple[str, str], ...]
    missing_fields: tuple[str, ...]
    images_text: str
    commands: tuple[RunCommand, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunList:
    """The runs of a page. Notes and missing fields of all runs are not repeated in each run."""

    runs: tuple[RunDetails, ...]
    common_notes: tuple[str, ...]
    common_missing_fields: tuple[str, ...]


@dataclass(frozen=True)
class RunLinks:
    """The ids of runs by their id, and of measurements by result path and name."""

    runs: Mapping[str, str]
    measurements: Mapping[tuple[Path, str], str]

    def find(self, stored_result: StoredResult, measurement: Measurement) -> str:
        """Return the id of a measurement, empty where the page has none."""
        return self.measurements.get((stored_result.path, measurement.name), "")


def link_runs(runs: Sequence[ReportedRun]) -> RunLinks:
    """Return an id for every run and measurement. They do not depend on the order of the runs."""
    run_anchors = unique_anchors(sorted(run.id for run in runs), "run")
    measurement_anchors: dict[tuple[Path, str], str] = {}
    counts: Counter[str] = Counter()
    for run in sorted(runs, key=lambda run: run.id):
        for stored_result in run.results:
            for measurement in stored_result.result.measurements:
                parts = (run_anchors[run.id], slug(stored_result.path.stem), slug(measurement.name))
                anchor = "-".join(parts)
                counts[anchor] += 1
                if counts[anchor] > 1:
                    anchor = f"{anchor}--{counts[anchor]}"
                measurement_anchors[stored_result.path, measurement.name] = anchor
    return RunLinks(run_anchors, measurement_anchors)


def describe_runs(
    runs: Sequence[ReportedRun], links: RunLinks, table_paths: Iterable[Path]
) -> RunList:
    """Return the details of every run, in the order of the runs.

    What several runs have in common without exception is stated once.

    Args:
        table_paths: of the results that fill a cell of a table of this page.
    """
    names = unique_run_names(runs)
    paths = set(table_paths)
    details = [_describe_run(run, names[run.id], links, paths) for run in runs]
    if len(details) < 2:
        return RunList(tuple(details), (), ())
    common_notes = _common_texts([run.notes for run in details])
    common_fields = _common_texts([run.missing_fields for run in details])
    return RunList(
        tuple(
            replace(
                run,
                notes=tuple(text for text in run.notes if text not in common_notes),
                missing_fields=tuple(
                    field for field in run.missing_fields if field not in common_fields
                ),
            )
            for run in details
        ),
        common_notes,
        common_fields,
    )


def _common_texts(texts_by_run: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the texts of the first run that every run has."""
    return tuple(
        text for text in texts_by_run[0] if all(text in texts for texts in texts_by_run[1:])
    )


def _describe_run(
    run: ReportedRun, name: str, links: RunLinks, table_paths: set[Path]
) -> RunDetails:
    """Return the details of a run."""
    anchor = links.runs[run.id]
    measurements = [
        row for stored_result in run.results for row in _measurement_rows(stored_result, links)
    ]
    fields = _protocol(run)
    commands = dict.fromkeys(
        stored_result.result.provenance.command for stored_result in run.results
    )
    return RunDetails(
        anchor,
        run.id,
        name,
        _summary(run, len(measurements)),
        tuple(measurements),
        tuple((field, text) for field, text in fields.items() if text),
        tuple(field for field, text in fields.items() if not text),
        _images_text(run),
        tuple(
            RunCommand(f"{anchor}-command-{number}", text)
            for number, text in enumerate(filter(None, commands), 1)
        ),
        tuple(_run_notes(run, table_paths)),
    )


def _summary(run: ReportedRun, n_measurements: int) -> str:
    """Return folder, number of images and of measurements in one line."""
    n_images = _count_images(run)
    images = f"{n_images:,} image{'' if n_images == 1 else 's'}" if n_images else "no images here"
    numbers = f"{n_measurements} number{'' if n_measurements == 1 else 's'}"
    return f"{run.id}: {images}, {numbers}"


def _count_images(run: ReportedRun) -> int:
    """Return how many images of a run exist by its records."""
    return sum(sample.status == "ok" for sample in run.samples)


def _images_text(run: ReportedRun) -> str:
    """Return where the images of a run are, how many there are, and how many failed."""
    n_images = _count_images(run)
    n_failed = len(run.samples) - n_images
    if n_images:
        failed_text = f", {n_failed:,} failed" if n_failed else ""
        return f"{n_images:,} in the run folder {run.id}{failed_text}"
    sources = dict.fromkeys(
        stored_result.result.source.path
        for stored_result in run.results
        if stored_result.result.source is not None
    )
    if sources:
        return f"not in the run folder; scored where they are: {', '.join(sources)}"
    return "none in the run folder"


def _run_notes(run: ReportedRun, table_paths: set[Path]) -> Iterable[str]:
    """Yield what a reader has to know of a run: no table, no plan, no result, warnings."""
    if run.results and not any(stored_result.path in table_paths for stored_result in run.results):
        yield "These results belong to no table of this page."
    if run.plan is None:
        yield "Imported: without a plan, how these images were generated is not known."
    if not run.results:
        yield "Generated, not evaluated yet."
    warnings = dict.fromkeys(
        text for stored_result in run.results for text in stored_result.result.warning_texts
    )
    yield from (f"Warning: {text}" for text in warnings)


def _checkpoint_text(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint, and the start of the hash of its weights if it is known."""
    if checkpoint.has_known_weights:
        return f"{checkpoint.name} ({checkpoint.sha256[:12]})"
    return f"{checkpoint.name} ({checkpoint.weights_text})"


def _protocol(run: ReportedRun) -> dict[str, str]:
    """Return how a run was generated and evaluated by field; an unrecorded field is empty."""
    plan = run.plan
    results = [stored_result.result for stored_result in run.results]
    checkpoint = plan.checkpoint if plan else None
    settings = plan.settings if plan else None
    training = ""
    if checkpoint and checkpoint.training_steps:
        seed = "not recorded" if checkpoint.training_seed is None else checkpoint.training_seed
        training = f"{checkpoint.training_steps:,} steps, seed {seed}"
    sides = dict.fromkeys(str(r.side) for r in results if r.side)
    suites = dict.fromkeys(r.suite_name for r in results if r.suite_name)
    resolution = str(settings.resolution) if settings else ", ".join(sides)
    fields = {
        "Checkpoint": _checkpoint_text(checkpoint) if checkpoint else "",
        "Training": training,
        "Suite": plan.suite if plan else ", ".join(suites),
        "Resolution": f"{resolution} px" if resolution else "",
        "Sampler": settings.sampling_text if settings else "",
        "Seed": str(settings.seed) if settings else "",
    }
    if not results:
        return fields
    return fields | {
        "Evaluator": _join(
            f"{r.evaluator}@{r.version} ({r.profile}, {r.rules} rules)" for r in results
        ),
        "Judge": _join(
            f"{judge.name}@{judge.version}, {judge.judge_class}"
            for r in results
            for judge in (r.judges or {"judge": r.judge}).values()
        ),
        "Reference": _join(f"{r.reference} ({r.reference_sha256[:12]})" for r in results),
        "Evaluated on": _join(f"{r.provenance.device}, {r.provenance.platform}" for r in results),
        "Evaluated at": _join(r.provenance.finished for r in results),
    }


def _join(texts: Iterable[str]) -> str:
    """Return different texts as a list."""
    return "; ".join(dict.fromkeys(texts))


def _measurement_rows(stored_result: StoredResult, links: RunLinks) -> list[MeasurementRow]:
    """Return the rows of a result's measurements."""
    return [
        MeasurementRow(
            links.find(stored_result, m),
            f"{stored_result.result.evaluator}@{stored_result.result.version}",
            m.name,
            f"no value: {m.reason}" if m.value is None else f"{m.value:.4g}",
            DASH if m.se is None else f"{m.se:.2g}",
            DASH if m.low is None or m.high is None else f"{m.low:.4g} to {m.high:.4g}",
            m.interval or DASH,
            f"{m.n_scored:,} of {m.n_asked:,}",
            "" if m.value is None else repr(m.value),
        )
        for m in stored_result.result.measurements
    ]
