"""The leaderboard as static pages: an index with a section per protocol, and a page per run.

Equal records give pages with equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harope_bench import __version__
from harope_bench.core.errors import StorageError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.core.storage import convert_os_errors, read_if_present, sha256_bytes, write_text
from harope_bench.leaderboards.comparisons import CHECKPOINT_EVIDENCE
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries
from harope_bench.leaderboards.rankings import (
    NOT_RECORDED,
    LeaderboardProtocol,
    ProtocolSection,
    RankedResult,
    build_sections,
    unrecorded_protocol_fields,
)
from harope_bench.leaderboards.table_spec import DASH
from harope_bench.reports.leaderboard_metadata import (
    NO_METADATA,
    LeaderboardMetadata,
    RunDescription,
    describe_runs,
    read_added_runs,
)
from harope_bench.reports.run_card import (
    ReportCheck,
    RunCard,
    build_cards,
    collect_checks,
    time_range,
)
from harope_bench.reports.runs import ReportedRun, read_runs
from harope_bench.reports.table_layout import format_difference, format_standard_error
from harope_bench.reports.tables import template_environment
from harope_bench.statistics.significance import format_p_value

# a page with this line may be overwritten or removed by a later build
PAGE_MARKER = '<meta name="generator" content="harope-bench leaderboard">'
# interval bars, in SVG units
BAR_WIDTH = 120.0
BAR_EDGE = 4.0
PROTOCOL_LABELS = {
    "suite": "Suite",
    "resolution": "Resolution",
    "image_counts": "Images",
    "evaluator": "Evaluator",
    "profile": "Profile",
    "rules": "Rules",
    "judge": "Judge",
    "judge_class": "Judge class",
    "reference": "Reference",
    "scale": "Scale",
}


@dataclass(frozen=True)
class IntervalBar:
    """An interval and its value as positions on the column's axis, in SVG units."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class LeaderboardCell:
    """One number of a row.

    sort_value: the number in full, empty for none. rank: "#1", with "=" if tied.
    difference_text: difference from the result ranked before it.
    """

    text: str
    sort_value: str
    rank: str = ""
    bar: IntervalBar | None = None
    difference_text: str = ""


@dataclass(frozen=True)
class LeaderboardRow:
    """One row of a section. `page` is the file name of the run's page."""

    page: str
    run: str
    description: RunDescription
    model: str
    generation: str
    cells: tuple[LeaderboardCell, ...]


@dataclass(frozen=True)
class LeaderboardSection:
    """One section as printed. `order_title` is the title of the metric that orders the rows.

    is_open: whether its table is shown at first; others are folded.
    """

    anchor: str
    title: str
    protocol: tuple[tuple[str, str], ...]
    column_titles: tuple[str, ...]
    order_title: str
    rows: tuple[LeaderboardRow, ...]
    notes: tuple[str, ...]
    is_open: bool = False

    @property
    def own_labels(self) -> tuple[str, ...]:
        """Return the labels of the rows that the user added."""
        return tuple(row.description.label for row in self.rows if row.description.is_own)


@dataclass(frozen=True)
class RunRanking:
    """The cells of a run in one section, for the run's page."""

    anchor: str
    title: str
    cells: tuple[tuple[str, LeaderboardCell], ...]


@dataclass(frozen=True)
class RunPage:
    """The page of one run."""

    name: str
    run: ReportedRun
    description: RunDescription
    rankings: tuple[RunRanking, ...]
    cards: tuple[RunCard, ...]
    checks: tuple[ReportCheck, ...]


@dataclass(frozen=True)
class Leaderboard:
    """The data of all pages."""

    version: str
    metadata: LeaderboardMetadata
    evidence: str
    time_range: tuple[str, str] | None
    n_results: int
    sections: tuple[LeaderboardSection, ...]
    run_pages: tuple[RunPage, ...]
    runs_without_results: tuple[str, ...]


def write_leaderboard(
    runs: Path,
    out: Path,
    entries: Entries = NO_ENTRIES,
    metadata: LeaderboardMetadata = NO_METADATA,
) -> list[Path]:
    """Write index.html and runs/*.html, remove the pages of removed runs, and return the paths.

    Args:
        entries: runs that the user marks as own ones; they may be in folders outside of `runs`.
        metadata: what is stated about the leaderboard and its runs.

    Raises:
        UnknownNameError: an entry or the metadata names no run.
        StorageError: the folder has no result, a file of a run is invalid (the message names it),
            or index.html is not a leaderboard page.
    """
    leaderboard = build_leaderboard(runs, entries, metadata)
    index = out / "index.html"
    old_index = _read_page(index)
    if old_index is not None and PAGE_MARKER not in old_index:
        raise StorageError(f"{index} is not a leaderboard page; choose another --out")

    paths = [_write_page(index, "leaderboard.html", leaderboard=leaderboard)]
    for page in leaderboard.run_pages:
        path = out / "runs" / page.name
        paths.append(_write_page(path, "leaderboard_run.html", leaderboard=leaderboard, page=page))

    # remove the pages of runs that no longer exist
    for path in sorted((out / "runs").glob("*.html")):
        if path not in paths and PAGE_MARKER in (_read_page(path) or ""):
            with convert_os_errors(path):
                path.unlink(missing_ok=True)
    return paths


def _write_page(path: Path, template: str, **context: object) -> Path:
    """Write a page from a template and return its path."""
    html = template_environment().get_template(template).render(page_marker=PAGE_MARKER, **context)
    write_text(path, html)
    return path


def _read_page(path: Path) -> str | None:
    """Return a page's text, None if the file is missing."""
    data = read_if_present(path)
    return None if data is None else data.decode(errors="replace")


def build_leaderboard(
    runs: Path, entries: Entries = NO_ENTRIES, metadata: LeaderboardMetadata = NO_METADATA
) -> Leaderboard:
    """Return the data of the pages. Arguments and errors are those of write_leaderboard."""
    all_runs = read_runs(runs)
    all_runs += read_added_runs(all_runs, entries)
    descriptions = describe_runs(all_runs, entries, metadata)
    evaluated_runs = [run for run in all_runs if run.results]
    if not evaluated_runs:
        raise StorageError(
            f"{runs} has no result (**/results/*.json); `harope-bench eval` writes one"
        )
    results = [stored_result for run in evaluated_runs for stored_result in run.results]
    runs_by_path = {
        stored_result.path: run for run in evaluated_runs for stored_result in run.results
    }

    protocol_sections = build_sections(results)
    page_sections = []
    for section in protocol_sections:
        section_runs = [runs_by_path[entry.stored_result.path] for entry in section.results]
        page_sections.append(_build_section(section, section_runs, descriptions))
    sections = _with_open_sections(_with_unique_titles(page_sections))

    return Leaderboard(
        version=__version__,
        metadata=metadata,
        evidence=CHECKPOINT_EVIDENCE,
        time_range=time_range(evaluated_runs),
        n_results=len(results),
        sections=sections,
        run_pages=tuple(
            _make_run_page(run, descriptions[run.id], protocol_sections, sections)
            for run in evaluated_runs
        ),
        runs_without_results=tuple(run.id for run in all_runs if not run.results),
    )


def page_name(run_id: str) -> str:
    """Return the file name of a run's page: readable characters and a hash of the run's id."""
    readable_name = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:60] or "run"
    return f"{readable_name}-{sha256_bytes(run_id.encode())[:8]}.html"


def _build_section(
    section: ProtocolSection,
    runs: Sequence[ReportedRun],
    descriptions: Mapping[str, RunDescription],
) -> LeaderboardSection:
    """Return the printed section of a protocol.

    Args:
        runs: those of its results, in their order.
        descriptions: what is stated about each run, by its id.
    """
    axis_ranges = {metric.name: _axis_range(section, metric.name) for metric in section.metrics}
    short_names = _short_names(section, runs, descriptions)
    rows = [
        LeaderboardRow(
            page_name(run.id),
            run.id,
            descriptions[run.id],
            _model_text(run),
            _generation_text(run),
            tuple(_make_cell(entry, m, axis_ranges[m.name], short_names) for m in section.metrics),
        )
        for entry, run in zip(section.results, runs, strict=True)
    ]

    # titles carry the measurement's name, as in fid-500
    measurement_names = {
        m.metric: m.name
        for entry in section.results
        for m in entry.stored_result.result.measurements
    }
    column_titles = tuple(
        _column_title(m, measurement_names[m.name], m.name in section.ranked_metrics)
        for m in section.metrics
    )
    ranked_titles = [m.title for m in section.metrics if m.name in section.ranked_metrics]
    return LeaderboardSection(
        anchor=_section_anchor(section.protocol),
        title=_section_title(section.protocol),
        protocol=_protocol_fields(section.protocol),
        column_titles=column_titles,
        order_title=ranked_titles[0] if ranked_titles else "nothing",
        rows=tuple(rows),
        notes=_section_notes(section),
    )


def _short_names(
    section: ProtocolSection,
    runs: Sequence[ReportedRun],
    descriptions: Mapping[str, RunDescription],
) -> dict[Path, str]:
    """Return a short name of each run by result path: its label, or the last part of its id.

    The whole id is taken where two runs share the short name.
    """
    labels = [descriptions[run.id].label for run in runs]
    last_parts = [
        run.id.rsplit("/", 1)[-1] if label == run.id else label
        for run, label in zip(runs, labels, strict=True)
    ]
    return {
        entry.stored_result.path: run.id if last_parts.count(last_part) > 1 else last_part
        for entry, run, last_part in zip(section.results, runs, last_parts, strict=True)
    }


def _section_anchor(protocol: LeaderboardProtocol) -> str:
    """Return the id by which links point to a section."""
    return f"p-{sha256_bytes(repr(tuple(protocol)).encode())[:10]}"


def _section_title(protocol: LeaderboardProtocol) -> str:
    """Return the suite, resolution, evaluator, number of images and scale as a title."""
    image_counts = ", ".join(f"{n:,}" for n in protocol.image_counts) or "no"
    suite_text = f"{protocol.suite} at {protocol.resolution}"
    if protocol.suite == NOT_RECORDED:
        suite_text = f"suite {NOT_RECORDED}"
    return f"{suite_text}, {protocol.evaluator}, {image_counts} images, {protocol.scale}"


def _with_unique_titles(sections: Sequence[LeaderboardSection]) -> tuple[LeaderboardSection, ...]:
    """Return the sections with unique titles.

    Sections of one title get the end of their anchor, and a note on the fields that differ.
    """
    unique_sections = []
    for section in sections:
        namesakes = [s for s in sections if s.title == section.title]
        differing_fields = [
            f"{name}: {value}"
            for i, (name, value) in enumerate(section.protocol)
            if len({s.protocol[i] for s in namesakes}) > 1
        ]
        if differing_fields:
            note = f"Differs from the other section of this title: {'; '.join(differing_fields)}."
            title = f"{section.title} ({section.anchor[-4:]})"
            section = replace(section, title=title, notes=(note, *section.notes))
        unique_sections.append(section)
    return tuple(unique_sections)


def _with_open_sections(
    sections: Sequence[LeaderboardSection],
) -> tuple[LeaderboardSection, ...]:
    """Return the sections with those open that show the user's rows, or else the longest one."""
    open_sections = [section for section in sections if section.own_labels]
    if not open_sections:
        open_sections = [max(sections, key=lambda section: len(section.rows))]
    return tuple(replace(section, is_open=section in open_sections) for section in sections)


def _protocol_fields(protocol: LeaderboardProtocol) -> tuple[tuple[str, str], ...]:
    """Return (label, value) of every field of a protocol."""
    texts = protocol._asdict() | {
        "image_counts": ", ".join(f"{n:,}" for n in protocol.image_counts) or "none"
    }
    return tuple((PROTOCOL_LABELS[name], text) for name, text in texts.items())


def _column_title(metric: Metric, measurement_name: str, is_ranked: bool) -> str:
    """Return the metric's title with the count of its measurement, and its direction if ranked."""
    count_suffix = measurement_name.removeprefix(metric.name)
    direction_text = f", {metric.direction} is better" if is_ranked else ""
    return f"{metric.title}{count_suffix.upper()}{direction_text}"


def _section_notes(section: ProtocolSection) -> tuple[str, ...]:
    """Return the notes on metrics that are not ranked, missing fields and differing settings."""
    notes = []
    if len(section.ranked_metrics) < len(section.metrics):
        notes.append(
            "Numbers of an evaluator that is not installed here have no known direction and are not"
            " ranked."
        )
    missing_fields = unrecorded_protocol_fields(section)
    if len(section.results) > 1 and missing_fields:
        notes.append(
            f"These rows may differ in fields that were not recorded: {', '.join(missing_fields)}."
        )
    if len({_sampling_settings(entry) for entry in section.results} - {None}) > 1:
        notes.append(
            "Rows differ in sampler, steps or guidance. A protocol leaves these open; see the"
            " column Generated with."
        )
    return tuple(notes)


def _sampling_settings(entry: RankedResult) -> tuple[object, ...] | None:
    """Return sampler, steps and guidance of a result, None without a plan."""
    plan = entry.stored_result.result.plan
    return (plan.settings.sampler, plan.settings.steps, plan.settings.guidance) if plan else None


def _model_text(run: ReportedRun) -> str:
    """Return encoding and backbone, after the checkpoint where the run has another name."""
    if run.plan is None:
        return run.title
    checkpoint = run.plan.checkpoint
    text = f"{checkpoint.encoding} on {checkpoint.backbone}"
    if checkpoint.name == run.id.rsplit("/", 1)[-1]:
        return text
    return f"{checkpoint.name}: {text}"


def _generation_text(run: ReportedRun) -> str:
    """Return the sampling settings and the seed of a run."""
    if run.plan is None:
        return "no plan"
    return f"{run.plan.settings.sampling_text}, seed {run.plan.settings.seed}"


def _axis_range(section: ProtocolSection, metric: str) -> tuple[float, float] | None:
    """Return the lowest and the highest end of the intervals of a column, None for one point."""
    measurements = [
        m
        for entry in section.results
        if (m := entry.find_measurement(metric)) and m.value is not None
    ]
    ends = [end for m in measurements for end in (m.value, m.low, m.high) if end is not None]
    return (min(ends), max(ends)) if ends and max(ends) > min(ends) else None


def _make_cell(
    entry: RankedResult,
    metric: Metric,
    axis_range: tuple[float, float] | None,
    names: Mapping[Path, str],
) -> LeaderboardCell:
    """Return one cell: value, standard error, rank, interval bar and difference.

    Args:
        axis_range: range of the column's axis.
        names: short names of the runs by result path.
    """
    measurement = entry.find_measurement(metric.name)
    if measurement is None:
        return LeaderboardCell(DASH, sort_value="")
    if measurement.value is None:
        return LeaderboardCell(f"no value: {measurement.reason}", sort_value="")

    error_text = ", no standard error"
    if measurement.se is not None:
        error_text = f" ± {format_standard_error(measurement.se, metric.decimals)}"
    position = entry.ranks.get(metric.name)
    rank_text = f"#{position.rank}{'=' if position.is_tied else ''}" if position else ""
    return LeaderboardCell(
        text=f"{measurement.value:.{metric.decimals}f}{error_text}",
        sort_value=repr(measurement.value),
        rank=rank_text,
        bar=_make_bar(measurement, axis_range),
        difference_text=_difference_text(entry, metric, names),
    )


def _difference_text(entry: RankedResult, metric: Metric, names: Mapping[Path, str]) -> str:
    """Return the difference from the result ranked before as a text, empty for the first one."""
    position = entry.ranks.get(metric.name)
    if position is None or position.difference is None or position.previous_result is None:
        return ""
    name = names[position.previous_result.path]
    difference = position.difference
    if difference.delta is None:
        standard_errors = [
            m.se
            for stored_result in (position.previous_result, entry.stored_result)
            if (m := stored_result.result.find_measurement(metric.name))
        ]
        reason = difference.reason
        if None in standard_errors:
            reason = "a standard error is missing"
        return f"not comparable with {name}: {reason}"

    delta_text = format_difference(difference.delta, metric.decimals + 1)
    pairing_text = "paired" if difference.is_paired else "unpaired"
    p_text = "" if position.p_adjusted is None else f", p {format_p_value(position.p_adjusted)}"
    return f"{delta_text} from {name}, {pairing_text}{p_text}"


def _make_bar(
    measurement: Measurement, axis_range: tuple[float, float] | None
) -> IntervalBar | None:
    """Return the bar of a measurement on its column's axis, None without axis or value."""
    if axis_range is None or measurement.value is None:
        return None
    axis_start, axis_end = axis_range
    units_per_value = (BAR_WIDTH - 2 * BAR_EDGE) / (axis_end - axis_start)

    def position(value: float) -> float:
        return round(BAR_EDGE + (value - axis_start) * units_per_value, 1)

    # a measurement without an interval is a point
    low = measurement.value if measurement.low is None else measurement.low
    high = measurement.value if measurement.high is None else measurement.high
    return IntervalBar(position(low), position(measurement.value), position(high))


def _make_run_page(
    run: ReportedRun,
    description: RunDescription,
    protocol_sections: Sequence[ProtocolSection],
    sections: Sequence[LeaderboardSection],
) -> RunPage:
    """Return the page of a run, with its row of every section."""
    rankings = []
    for protocol_section, section in zip(protocol_sections, sections, strict=True):
        for entry, row in zip(protocol_section.results, section.rows, strict=True):
            if entry.stored_result in run.results:
                cells = tuple(zip(section.column_titles, row.cells, strict=True))
                rankings.append(RunRanking(section.anchor, section.title, cells))
    return RunPage(
        page_name(run.id),
        run,
        description,
        tuple(rankings),
        tuple(build_cards([run])),
        tuple(collect_checks([run])),
    )
