"""A leaderboard as static pages: an index with a section a protocol, and a page a run. Equal bytes for equal records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harope_bench import __version__
from harope_bench.core.errors import StorageError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.core.storage import disk, read_if_present, sha256_bytes, write_text
from harope_bench.leaderboards.comparisons import EVIDENCE
from harope_bench.leaderboards.site import UNKNOWN, Entry, Protocol, Section, sections, unrecorded
from harope_bench.leaderboards.table_spec import DASH
from harope_bench.reports.card import Card, Check, cards, checks, span
from harope_bench.reports.grid import shown_error, signed
from harope_bench.reports.runs import Run, read_runs
from harope_bench.reports.tables import environment
from harope_bench.statistics.significance import probability

MARK = '<meta name="generator" content="harope-bench leaderboard">'  # by which a later build knows a page as its own
BAR_WIDTH, BAR_EDGE = 120.0, 4.0
WORDS = {
    "suite": "Suite", "resolution": "Resolution", "images": "Images", "evaluator": "Evaluator", "profile": "Profile",
    "rules": "Rules", "judge": "Judge", "judge_class": "Judge class", "reference": "Reference", "scale": "Scale",
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """An interval and its point on the section's common axis, in units of the drawing."""

    low: float
    point: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One number: text, raw value for sorting, place, and what was said of the row above."""

    text: str
    raw: str
    place: str = ""
    bar: Bar | None = None
    said: str = ""


@dataclass(frozen=True)
class Line:
    """One row of a section."""

    page: str
    run: str
    model: str
    drawn: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Block:
    """One section as printed."""

    anchor: str
    title: str
    protocol: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    ordered: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a run stands in one section, for the run's own page."""

    anchor: str
    title: str
    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class RunPage:
    """One run's page."""

    name: str
    run: Run
    places: tuple[Place, ...]
    cards: tuple[Card, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Site:
    """Everything the templates ask for."""

    version: str
    evidence: str
    span: tuple[str, str] | None
    results: int
    blocks: tuple[Block, ...]
    pages: tuple[RunPage, ...]
    unscored: tuple[str, ...]


def write_site(runs: Path, out: Path) -> list[Path]:
    """Writes index.html and runs/*.html; pages of runs that are gone are removed. Returns the pages.

    Raises:
        StorageError: the folder holds no result, or a file of a run is broken (named).
    """
    site = read_site(runs)
    index = out / "index.html"
    if (page := _read(index)) is not None and MARK not in page:
        raise StorageError(f"{index} is a page of something else; choose another --out")
    written = [_write(out / "index.html", "site.html", site=site)]
    written += [_write(out / "runs" / page.name, "site_run.html", site=site, page=page) for page in site.pages]
    for old in sorted((out / "runs").glob("*.html")):
        if old not in written and MARK in (_read(old) or ""):
            with disk(old):
                old.unlink(missing_ok=True)
    return written


def _write(path: Path, template: str, **facts: object) -> Path:
    write_text(path, environment().get_template(template).render(mark=MARK, **facts))
    return path


def _read(path: Path) -> str | None:
    """Return a page's text, None where there is none (any more)."""
    data = read_if_present(path)
    return None if data is None else data.decode(errors="replace")


def read_site(runs: Path) -> Site:
    """The data of the pages."""
    folders = read_runs(runs)
    scored = [run for run in folders if run.found]
    if not scored:
        raise StorageError(f"{runs} holds no result (**/results/*.json); harope-bench eval makes one")
    found = [item for run in scored for item in run.found]
    of_path = {item.path: run for run in scored for item in run.found}
    built = sections(found)
    blocks = _told_apart([_block(section, [of_path[entry.found.path] for entry in section.entries]) for section in built])
    pages = tuple(_page(run, built, blocks) for run in scored)
    return Site(__version__, EVIDENCE, span(scored), len(found), blocks, pages, tuple(run.id for run in folders if not run.found))


def page_name(run: str) -> str:
    """The file name of a run's page: readable, plain, and different for different runs."""
    return f"{re.sub(r'[^a-z0-9]+', '-', run.lower()).strip('-')[:60] or 'run'}-{sha256_bytes(run.encode())[:8]}.html"


def _block(section: Section, runs: Sequence[Run]) -> Block:
    scales = {metric.name: _scale(section, metric.name) for metric in section.metrics}
    ids = _short(section, runs)
    lines = [
        Line(page_name(run.id), run.id, _model(run), _drawn(run), tuple(_cell(entry, m, scales[m.name], ids) for m in section.metrics))
        for entry, run in zip(section.entries, runs, strict=True)
    ]
    names = {m.metric: m.name for entry in section.entries for m in entry.found.result.measurements}
    heads = tuple(_head(metric, names[metric.name], metric.name in section.ranked) for metric in section.metrics)
    ordered = next((metric.title for metric in section.metrics if metric.name in section.ranked), "nothing")
    return Block(
        _anchor(section.protocol), _title(section.protocol), _facts(section.protocol), heads, ordered, tuple(lines), _notes(section)
    )


def _short(section: Section, runs: Sequence[Run]) -> dict[Path, str]:
    """What a row is called by its neighbours: the last part of its id, or the whole where two share that part."""
    ends = [run.id.rsplit("/", 1)[-1] for run in runs]
    return {entry.found.path: run.id if ends.count(end) > 1 else end for entry, run, end in zip(section.entries, runs, ends, strict=True)}


def _anchor(key: Protocol) -> str:
    return f"p-{sha256_bytes(repr(tuple(key)).encode())[:10]}"


def _title(key: Protocol) -> str:
    images = ", ".join(f"{n:,}" for n in key.images) or "no"
    drawn = f"{key.suite} at {key.resolution}" if key.suite != UNKNOWN else f"suite {UNKNOWN}"
    return f"{drawn}, {key.evaluator}, {images} images, {key.scale}"


def _told_apart(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Sections of one title get the end of their anchor, and a note of what sets them apart."""
    told = []
    for block in blocks:
        alike = [other for other in blocks if other.title == block.title]
        differing = [name for i, (name, _) in enumerate(block.protocol) if len({other.protocol[i] for other in alike}) > 1]
        if differing:
            said = "; ".join(f"{name}: {dict(block.protocol)[name]}" for name in differing)
            note = f"Set apart from the other section of this title by {said}."
            block = replace(block, title=f"{block.title} ({block.anchor[-4:]})", notes=(note, *block.notes))
        told.append(block)
    return tuple(told)


def _facts(key: Protocol) -> tuple[tuple[str, str], ...]:
    texts = key._asdict() | {"images": ", ".join(f"{n:,}" for n in key.images) or "none"}
    return tuple((WORDS[name], text) for name, text in texts.items())


def _head(metric: Metric, name: str, ranked: bool) -> str:
    end = name.removeprefix(metric.name)
    return f"{metric.title}{end.upper()}{f', {metric.direction} is better' if ranked else ''}"


def _notes(section: Section) -> tuple[str, ...]:
    notes = []
    if len(section.ranked) < len(section.metrics):
        notes.append("Numbers of an evaluator that is not installed here have no known direction and are not ranked.")
    if len(section.entries) > 1 and (missing := unrecorded(section)):
        notes.append(f"Not recorded, so nobody knows whether these rows agree in it: {', '.join(missing)}.")
    if len({_sampling(entry) for entry in section.entries} - {None}) > 1:
        notes.append("Rows differ in sampler, steps or guidance; these are the entrant's choice and stand in the column Drawn with.")
    return tuple(notes)


def _sampling(entry: Entry) -> tuple[object, ...] | None:
    plan = entry.found.result.plan
    return (plan.settings.sampler, plan.settings.steps, plan.settings.guidance) if plan else None


def _model(run: Run) -> str:
    """Encoding and backbone, and the checkpoint where the run does not have its name."""
    if run.plan is None:
        return run.title
    who = run.plan.checkpoint
    return f"{'' if who.name == run.id.rsplit('/', 1)[-1] else f'{who.name}: '}{who.encoding} on {who.backbone}"


def _drawn(run: Run) -> str:
    if run.plan is None:
        return "no plan"
    return f"{run.plan.settings.sampling}, seed {run.plan.settings.seed}"


def _scale(section: Section, metric: str) -> tuple[float, float] | None:
    """The lowest and highest end of any interval of this column."""
    found = [m for entry in section.entries if (m := entry.measured(metric)) and m.value is not None]
    ends = [end for m in found for end in (m.value, m.low, m.high) if end is not None]
    return (min(ends), max(ends)) if ends and max(ends) > min(ends) else None


def _cell(entry: Entry, metric: Metric, scale: tuple[float, float] | None, names: Mapping[Path, str]) -> Cell:
    m = entry.measured(metric.name)
    if m is None or m.value is None:
        return Cell(f"no value: {m.reason}" if m else DASH, "")
    error = f" ± {shown_error(m.se, metric.decimals)}" if m.se is not None else ", no error"
    rank = entry.ranks.get(metric.name)
    place = f"#{rank.place}{'=' if rank.shared else ''}" if rank else ""
    return Cell(f"{m.value:.{metric.decimals}f}{error}", repr(m.value), place, _bar(m, scale), _said(entry, metric, names))


def _said(entry: Entry, metric: Metric, names: Mapping[Path, str]) -> str:
    """The difference from the result ranked before, in words."""
    rank = entry.ranks.get(metric.name)
    if rank is None or rank.step is None or rank.before is None:
        return ""
    name = names[rank.before.path]
    if rank.step.delta is None:
        errors = [m.se for item in (rank.before, entry.found) if (m := item.result.measured(metric.name))]
        return f"not comparable with {name}: {'a standard error is missing' if None in errors else rank.step.why}"
    p = "" if rank.p_adjusted is None else f", p {probability(rank.p_adjusted)}"
    return f"{signed(rank.step.delta, metric.decimals + 1)} from {name}, {'paired' if rank.step.paired else 'unpaired'}{p}"


def _bar(m: Measurement, scale: tuple[float, float] | None) -> Bar | None:
    if scale is None or m.value is None:
        return None
    ends = (m.value if m.low is None else m.low, m.value, m.value if m.high is None else m.high)
    room = (BAR_WIDTH - 2 * BAR_EDGE) / (scale[1] - scale[0])
    return Bar(*(round(BAR_EDGE + (end - scale[0]) * room, 1) for end in ends))


def _page(run: Run, built: Sequence[Section], blocks: Sequence[Block]) -> RunPage:
    places = []
    for section, block in zip(built, blocks, strict=True):
        for entry, line in zip(section.entries, block.lines, strict=True):
            if entry.found in run.found:
                places.append(Place(block.anchor, block.title, tuple(zip(block.heads, line.cells, strict=True))))
    return RunPage(page_name(run.id), run, tuple(places), tuple(cards([run])), tuple(checks([run])))
