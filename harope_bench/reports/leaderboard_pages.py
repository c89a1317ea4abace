"""A leaderboard as static pages: an index with a section a protocol, and a page a run. Equal bytes
for equal records.
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
from harope_bench.leaderboards.rankings import (
    NOT_RECORDED,
    LeaderboardProtocol,
    ProtocolSection,
    RankedResult,
    build_sections,
    unrecorded_protocol_fields,
)
from harope_bench.leaderboards.table_spec import DASH
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

# by which a later build knows a page as its own
PAGE_MARKER = '<meta name="generator" content="harope-bench leaderboard">'
BAR_WIDTH = 120.0
BAR_EDGE = 4.0
PROTOCOL_LABELS = {
    "suite": "Suite", "resolution": "Resolution", "images": "Images", "evaluator": "Evaluator", "profile": "Profile",
    "rules": "Rules", "judge": "Judge", "judge_class": "Judge class", "reference": "Reference", "scale": "Scale",
}  # fmt: skip


@dataclass(frozen=True)
class IntervalBar:
    """An interval and its point on the section's common axis, in units of the drawing."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class LeaderboardCell:
    """One number: text, raw value for sorting, place, and what was said of the row above."""

    text: str
    sort_value: str
    rank: str = ""
    bar: IntervalBar | None = None
    difference_text: str = ""


@dataclass(frozen=True)
class LeaderboardRow:
    """One row of a section."""

    page: str
    run: str
    model: str
    generation: str
    cells: tuple[LeaderboardCell, ...]


@dataclass(frozen=True)
class LeaderboardSection:
    """One section as printed."""

    anchor: str
    title: str
    protocol: tuple[tuple[str, str], ...]
    column_titles: tuple[str, ...]
    ordered_by: str
    rows: tuple[LeaderboardRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunRanking:
    """Where a run stands in one section, for the run's own page."""

    anchor: str
    title: str
    cells: tuple[tuple[str, LeaderboardCell], ...]


@dataclass(frozen=True)
class RunPage:
    """One run's page."""

    name: str
    run: ReportedRun
    rankings: tuple[RunRanking, ...]
    cards: tuple[RunCard, ...]
    checks: tuple[ReportCheck, ...]


@dataclass(frozen=True)
class Leaderboard:
    """Everything the templates ask for."""

    version: str
    evidence: str
    time_range: tuple[str, str] | None
    n_results: int
    sections: tuple[LeaderboardSection, ...]
    run_pages: tuple[RunPage, ...]
    runs_without_results: tuple[str, ...]


def write_leaderboard(runs: Path, out: Path) -> list[Path]:
    """Writes index.html and runs/*.html; pages of runs that are gone are removed. Returns the
    pages.

    Raises:
        StorageError: the folder holds no result, or a file of a run is broken (named).
    """
    site = build_leaderboard(runs)
    index = out / "index.html"
    if (page := _read_page(index)) is not None and PAGE_MARKER not in page:
        raise StorageError(f"{index} is a page of something else; choose another --out")
    written = [_write_page(out / "index.html", "site.html", site=site)]
    written += [
        _write_page(out / "runs" / page.name, "site_run.html", site=site, page=page)
        for page in site.run_pages
    ]
    for old in sorted((out / "runs").glob("*.html")):
        if old not in written and PAGE_MARKER in (_read_page(old) or ""):
            with convert_os_errors(old):
                old.unlink(missing_ok=True)
    return written


def _write_page(path: Path, template: str, **facts: object) -> Path:
    write_text(
        path, template_environment().get_template(template).render(mark=PAGE_MARKER, **facts)
    )
    return path


def _read_page(path: Path) -> str | None:
    """Return a page's text, None where there is none (any more)."""
    data = read_if_present(path)
    return None if data is None else data.decode(errors="replace")


def build_leaderboard(runs: Path) -> Leaderboard:
    """The data of the pages."""
    folders = read_runs(runs)
    scored = [run for run in folders if run.results]
    if not scored:
        raise StorageError(
            f"{runs} holds no result (**/results/*.json); harope-bench eval makes one"
        )
    found = [item for run in scored for item in run.results]
    of_path = {item.path: run for run in scored for item in run.results}
    built = build_sections(found)
    blocks = _with_unique_titles(
        [
            _build_section(
                section, [of_path[entry.stored_result.path] for entry in section.results]
            )
            for section in built
        ]
    )
    pages = tuple(_make_run_page(run, built, blocks) for run in scored)
    return Leaderboard(
        __version__,
        CHECKPOINT_EVIDENCE,
        time_range(scored),
        len(found),
        blocks,
        pages,
        tuple(run.id for run in folders if not run.results),
    )


def page_name(run: str) -> str:
    """The file name of a run's page: readable, plain, and different for different runs."""
    return f"{re.sub(r'[^a-z0-9]+', '-', run.lower()).strip('-')[:60] or 'run'}-{sha256_bytes(run.encode())[:8]}.html"


def _build_section(section: ProtocolSection, runs: Sequence[ReportedRun]) -> LeaderboardSection:
    scales = {metric.name: _axis_range(section, metric.name) for metric in section.metrics}
    ids = _short_names(section, runs)
    lines = [
        LeaderboardRow(
            page_name(run.id),
            run.id,
            _model_text(run),
            _generation_text(run),
            tuple(_make_cell(entry, m, scales[m.name], ids) for m in section.metrics),
        )
        for entry, run in zip(section.results, runs, strict=True)
    ]
    names = {
        m.metric: m.name
        for entry in section.results
        for m in entry.stored_result.result.measurements
    }
    heads = tuple(
        _column_title(metric, names[metric.name], metric.name in section.ranked_metrics)
        for metric in section.metrics
    )
    ordered = next(
        (metric.title for metric in section.metrics if metric.name in section.ranked_metrics),
        "nothing",
    )
    return LeaderboardSection(
        _section_anchor(section.protocol),
        _section_title(section.protocol),
        _protocol_fields(section.protocol),
        heads,
        ordered,
        tuple(lines),
        _section_notes(section),
    )


def _short_names(section: ProtocolSection, runs: Sequence[ReportedRun]) -> dict[Path, str]:
    """What a row is called by its neighbours: the last part of its id, or the whole where two share
    that part.
    """
    ends = [run.id.rsplit("/", 1)[-1] for run in runs]
    return {
        entry.stored_result.path: run.id if ends.count(end) > 1 else end
        for entry, run, end in zip(section.results, runs, ends, strict=True)
    }


def _section_anchor(key: LeaderboardProtocol) -> str:
    return f"p-{sha256_bytes(repr(tuple(key)).encode())[:10]}"


def _section_title(key: LeaderboardProtocol) -> str:
    images = ", ".join(f"{n:,}" for n in key.image_counts) or "no"
    drawn = (
        f"{key.suite} at {key.resolution}" if key.suite != NOT_RECORDED else f"suite {NOT_RECORDED}"
    )
    return f"{drawn}, {key.evaluator}, {images} images, {key.scale}"


def _with_unique_titles(blocks: Sequence[LeaderboardSection]) -> tuple[LeaderboardSection, ...]:
    """Sections of one title get the end of their anchor, and a note of what sets them apart."""
    told = []
    for block in blocks:
        alike = [other for other in blocks if other.title == block.title]
        differing = [
            name
            for i, (name, _) in enumerate(block.protocol)
            if len({other.protocol[i] for other in alike}) > 1
        ]
        if differing:
            said = "; ".join(f"{name}: {dict(block.protocol)[name]}" for name in differing)
            note = f"Set apart from the other section of this title by {said}."
            block = replace(
                block, title=f"{block.title} ({block.anchor[-4:]})", notes=(note, *block.notes)
            )
        told.append(block)
    return tuple(told)


def _protocol_fields(key: LeaderboardProtocol) -> tuple[tuple[str, str], ...]:
    texts = key._asdict() | {"images": ", ".join(f"{n:,}" for n in key.image_counts) or "none"}
    return tuple((PROTOCOL_LABELS[name], text) for name, text in texts.items())


def _column_title(metric: Metric, name: str, ranked: bool) -> str:
    end = name.removeprefix(metric.name)
    return f"{metric.title}{end.upper()}{f', {metric.direction} is better' if ranked else ''}"


def _section_notes(section: ProtocolSection) -> tuple[str, ...]:
    notes = []
    if len(section.ranked_metrics) < len(section.metrics):
        notes.append(
            "Numbers of an evaluator that is not installed here have no known direction and are not"
            " ranked."
        )
    if len(section.results) > 1 and (missing := unrecorded_protocol_fields(section)):
        notes.append(
            f"Not recorded, so nobody knows whether these rows agree in it: {', '.join(missing)}."
        )
    if len({_sampling_settings(entry) for entry in section.results} - {None}) > 1:
        notes.append(
            "Rows differ in sampler, steps or guidance; these are the entrant's choice and stand in"
            " the column Drawn with."
        )
    return tuple(notes)


def _sampling_settings(entry: RankedResult) -> tuple[object, ...] | None:
    plan = entry.stored_result.result.plan
    return (plan.settings.sampler, plan.settings.steps, plan.settings.guidance) if plan else None


def _model_text(run: ReportedRun) -> str:
    """Encoding and backbone, and the checkpoint where the run does not have its name."""
    if run.plan is None:
        return run.title
    who = run.plan.checkpoint
    return (
        f"{'' if who.name == run.id.rsplit('/', 1)[-1] else f'{who.name}: '}{who.encoding} on"
        f" {who.backbone}"
    )


def _generation_text(run: ReportedRun) -> str:
    if run.plan is None:
        return "no plan"
    return f"{run.plan.settings.sampling_text}, seed {run.plan.settings.seed}"


def _axis_range(section: ProtocolSection, metric: str) -> tuple[float, float] | None:
    """The lowest and highest end of any interval of this column."""
    found = [
        m
        for entry in section.results
        if (m := entry.find_measurement(metric)) and m.value is not None
    ]
    ends = [end for m in found for end in (m.value, m.low, m.high) if end is not None]
    return (min(ends), max(ends)) if ends and max(ends) > min(ends) else None


def _make_cell(
    entry: RankedResult,
    metric: Metric,
    scale: tuple[float, float] | None,
    names: Mapping[Path, str],
) -> LeaderboardCell:
    m = entry.find_measurement(metric.name)
    if m is None or m.value is None:
        return LeaderboardCell(f"no value: {m.reason}" if m else DASH, "")
    error = (
        f" ± {format_standard_error(m.se, metric.decimals)}" if m.se is not None else ", no error"
    )
    rank = entry.ranks.get(metric.name)
    place = f"#{rank.rank}{'=' if rank.is_tied else ''}" if rank else ""
    return LeaderboardCell(
        f"{m.value:.{metric.decimals}f}{error}",
        repr(m.value),
        place,
        _make_bar(m, scale),
        _difference_text(entry, metric, names),
    )


def _difference_text(entry: RankedResult, metric: Metric, names: Mapping[Path, str]) -> str:
    """The difference from the result ranked before, in words."""
    rank = entry.ranks.get(metric.name)
    if rank is None or rank.difference is None or rank.previous_result is None:
        return ""
    name = names[rank.previous_result.path]
    if rank.difference.delta is None:
        errors = [
            m.se
            for item in (rank.previous_result, entry.stored_result)
            if (m := item.result.find_measurement(metric.name))
        ]
        return (
            f"not comparable with {name}:"
            f" {'a standard error is missing' if None in errors else rank.difference.reason}"
        )
    p = "" if rank.p_adjusted is None else f", p {format_p_value(rank.p_adjusted)}"
    return (
        f"{format_difference(rank.difference.delta, metric.decimals + 1)} from {name},"
        f" {'paired' if rank.difference.is_paired else 'unpaired'}{p}"
    )


def _make_bar(m: Measurement, scale: tuple[float, float] | None) -> IntervalBar | None:
    if scale is None or m.value is None:
        return None
    ends = (m.value if m.low is None else m.low, m.value, m.value if m.high is None else m.high)
    room = (BAR_WIDTH - 2 * BAR_EDGE) / (scale[1] - scale[0])
    return IntervalBar(*(round(BAR_EDGE + (end - scale[0]) * room, 1) for end in ends))


def _make_run_page(
    run: ReportedRun, sections: Sequence[ProtocolSection], blocks: Sequence[LeaderboardSection]
) -> RunPage:
    places = []
    for section, block in zip(sections, blocks, strict=True):
        for entry, line in zip(section.results, block.rows, strict=True):
            if entry.stored_result in run.results:
                places.append(
                    RunRanking(
                        block.anchor,
                        block.title,
                        tuple(zip(block.column_titles, line.cells, strict=True)),
                    )
                )
    return RunPage(
        page_name(run.id),
        run,
        tuple(places),
        tuple(build_cards([run])),
        tuple(collect_checks([run])),
    )
