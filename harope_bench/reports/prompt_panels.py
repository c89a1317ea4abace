"""Panels of prompt benchmarks: scores by category with intervals, and prompts of A against B."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harope_bench.core.schema import Measurement
from harope_bench.reports.chart_axes import Scale, bottom_axis, label_width, left_axis, tick_labels
from harope_bench.reports.encoding_styles import EncodingStyle
from harope_bench.reports.line_panels import (
    AXIS_HEIGHT,
    HEADING_HEIGHT,
    MAX_TICKS,
    PANEL_WIDTH,
    heading_text,
)
from harope_bench.reports.svg_elements import (
    FONT_SIZE,
    LINE_HEIGHT,
    MARK_SIZE,
    QUIET_OPACITY,
    Panel,
    make_bar,
    make_line,
    make_mark,
    make_segments,
    make_text,
    text_width,
)

BAR_HEIGHT = 13.0
BAR_STEP = 16.0
BAR_OPACITY = 0.55
CATEGORY_GAP = 8.0
WHISKER_CAP = 3.0
LARGEST_MARK = 30.0  # of the point with the most prompts
MAX_TOOLTIPS = 200  # more marks than this are merged and have no tooltip
SCORE_STEPS = 50
SMALLEST_MARK = 4.0
SCATTER_SIDE = 270.0
TIE_TOLERANCE = 1e-9  # below which two scores are equal but for rounding of sums


@dataclass(frozen=True)
class Category:
    """One category of a benchmark.

    measurements: one for each run, None where a run has no value.
    """

    title: str
    decimals: int
    measurements: tuple[Measurement | None, ...]


@dataclass(frozen=True)
class PromptPair:
    """The scores of one prompt in two runs."""

    prompt: int
    task: str
    baseline: float
    value: float

    @property
    def outcome(self) -> str:
        """Return win, tie or loss of the value."""
        if math.isclose(self.value, self.baseline, abs_tol=TIE_TOLERANCE):
            return "tie"
        return "win" if self.value > self.baseline else "loss"


def measurement_text(measurement: Measurement | None, decimals: int) -> str:
    """Return the value of a measurement with its interval."""
    if measurement is None or measurement.value is None:
        return ""
    text = f"{measurement.value:.{decimals}f}"
    if measurement.low is None or measurement.high is None:
        return text
    return f"{text} ({measurement.low:.{decimals}f} to {measurement.high:.{decimals}f})"


def category_panel(
    heading: str,
    categories: Sequence[Category],
    styles: Sequence[EncodingStyle],
    labels: Sequence[str],
    bound: float,
) -> Panel:
    """Return a bar for each run and category, with the 95% interval as a line.

    Args:
        styles, labels: Style and name of each run.
        bound: Greatest possible value.
    """
    left = 14.0
    value_texts = [
        f"{m.value:.{category.decimals}f}"
        for category in categories
        for m in category.measurements
        if m is not None and m.value is not None
    ]
    right = PANEL_WIDTH - max(map(text_width, value_texts), default=0.0) - 8
    scale = Scale(0.0, _bar_end(categories, bound), left, right)
    elements = [heading_text(heading)]
    y = HEADING_HEIGHT
    for category in categories:
        elements.append(make_text(0, y + FONT_SIZE, category.title, max_width=PANEL_WIDTH))
        y += LINE_HEIGHT + 2
        for measurement, style, label in zip(category.measurements, styles, labels, strict=True):
            elements += _bar(category, measurement, style, label, scale, y)
            y += BAR_STEP
        y += CATEGORY_GAP
    elements += bottom_axis(scale, y, "", scale.ticks(MAX_TICKS), grid_top=HEADING_HEIGHT)
    description = f"Scores of {', '.join(labels)} in {len(categories)} categories."
    return Panel(heading, description, PANEL_WIDTH, y + AXIS_HEIGHT / 2 + 6, tuple(elements))


def _bar_end(categories: Sequence[Category], bound: float) -> float:
    """Return the end of the axis: the bound, or less if every interval ends far below it."""
    measurements = [m for category in categories for m in category.measurements if m is not None]
    largest = max((m.high or m.value or 0.0 for m in measurements), default=bound)
    return bound if largest > 0.6 * bound or largest <= 0 else largest * 1.1


def _bar(
    category: Category,
    measurement: Measurement | None,
    style: EncodingStyle,
    label: str,
    scale: Scale,
    top: float,
) -> Iterator[str]:
    """Yield the bar of one run in one category, its interval, mark and value."""
    middle = top + BAR_HEIGHT / 2
    if measurement is None or measurement.value is None:
        yield style.mark_at(6, middle, label, 7)
        yield make_text(scale.start + 4, middle + FONT_SIZE / 3, "no value", is_quiet=True)
        return
    text = measurement_text(measurement, category.decimals)
    yield style.mark_at(6, middle, f"{label}, {category.title}: {text}", 7)
    end = scale.position(max(0.0, measurement.value))
    opacity = BAR_OPACITY / (2 if style.is_hollow else 1)
    yield make_bar(scale.start, top, end - scale.start, BAR_HEIGHT, style.colour, opacity)
    if measurement.low is not None and measurement.high is not None:
        low = scale.position(max(0.0, measurement.low))
        high = min(scale.position(measurement.high), scale.end)
        caps = [((x, middle - WHISKER_CAP), (x, middle + WHISKER_CAP)) for x in (low, high)]
        yield make_segments([((low, middle), (high, middle)), *caps], width=1.3)
    value_text = f"{measurement.value:.{category.decimals}f}"
    yield make_text(PANEL_WIDTH, middle + FONT_SIZE / 3, value_text, "end")


def scatter_panel(
    pairs: Sequence[PromptPair],
    labels: tuple[str, str],
    styles: tuple[EncodingStyle, EncodingStyle],
    bound: float,
    size_text: str = "",
) -> Panel:
    """Return the prompts as marks: the score in the first run to the right, in the second upwards.

    Prompts with equal scores are one mark, whose area is their number. It has the colour and mark
    of the run that scores higher; ties are hollow.

    Args:
        labels, styles: Of both runs, the baseline first.
        bound: Greatest possible score.
        size_text: Size of the images in words.
    """
    counts = _count_equal_scores(pairs, bound)
    low = min(0.0, *(min(p.baseline, p.value) for p in pairs))
    margin = 0.06 * (bound - low)
    top = HEADING_HEIGHT + LINE_HEIGHT + 4
    plot_bottom = top + SCATTER_SIDE
    y_scale = Scale(low - margin, bound + margin, plot_bottom, top)
    ticks = [tick for tick in y_scale.ticks(6) if low <= tick <= bound]
    left = label_width(tick_labels(ticks))
    x_scale = Scale(low - margin, bound + margin, left, left + SCATTER_SIDE)

    outcomes = outcome_counts(pairs)
    elements = [
        styles[1].mark_at(6, FONT_SIZE - 4),
        make_text(16, FONT_SIZE, f"{labels[1]} \N{UPWARDS ARROW}", max_width=PANEL_WIDTH - 90),
        make_text(PANEL_WIDTH, FONT_SIZE, size_text, "end", is_quiet=True),
    ]
    outcome_text = (
        f"higher in {outcomes['win']:,}, equal in {outcomes['tie']:,}, lower in"
        f" {outcomes['loss']:,} of {len(pairs):,} prompts"
    )
    elements.append(make_text(16, FONT_SIZE + LINE_HEIGHT, outcome_text, is_quiet=True))
    elements += left_axis(y_scale, left, ticks, grid_right=x_scale.end)
    elements += bottom_axis(x_scale, plot_bottom, "", ticks, grid_top=top)
    title_y = plot_bottom + AXIS_HEIGHT - 8
    elements.append(styles[0].mark_at(left + 6, title_y - 4))
    elements.append(
        make_text(left + 16, title_y, f"{labels[0]} \N{RIGHTWARDS ARROW}", max_width=SCATTER_SIDE)
    )
    diagonal = [(x_scale.position(x), y_scale.position(x)) for x in (x_scale.low, x_scale.high)]
    elements.append(make_line(diagonal[0], diagonal[1], opacity=QUIET_OPACITY, dashes="4 3"))
    largest_count = max(counts.values())
    for (baseline, value, outcome), count in sorted(counts.items(), key=lambda item: -item[1]):
        size = _mark_size(count, largest_count)
        tooltip = (
            ""
            if len(counts) > MAX_TOOLTIPS
            else (
                f"{labels[0]} {baseline:.3g}, {labels[1]} {value:.3g}: {count:,}"
                f" {'prompt' if count == 1 else 'prompts'}"
            )
        )
        x = x_scale.position(baseline)
        y = y_scale.position(value)
        elements.append(_prompt_mark(outcome, x, y, styles, size, tooltip))
    description = (
        f"{len(pairs):,} prompts: {labels[1]} scores higher in {outcomes['win']:,}, {labels[0]} in"
        f" {outcomes['loss']:,}, equal in {outcomes['tie']:,}."
    )
    name = f"{labels[1]} against {labels[0]}"
    width = max(PANEL_WIDTH, left + SCATTER_SIDE)
    return Panel(name, description, width, title_y + 6, tuple(elements))


def _count_equal_scores(
    pairs: Sequence[PromptPair], bound: float
) -> Counter[tuple[float, float, str]]:
    """Return how many prompts have the same two scores and outcome.

    Where many scores differ, those within 1/SCORE_STEPS of the bound count as equal.
    """
    counts = Counter((round(p.baseline, 6), round(p.value, 6), p.outcome) for p in pairs)
    if len(counts) <= MAX_TOOLTIPS:
        return counts
    step = bound / SCORE_STEPS
    return Counter(
        (round(p.baseline / step) * step, round(p.value / step) * step, p.outcome) for p in pairs
    )


def outcome_counts(pairs: Sequence[PromptPair]) -> Counter[str]:
    """Return how many prompts are wins, ties and losses of the second run."""
    return Counter(pair.outcome for pair in pairs)


def _mark_size(count: int, largest_count: int) -> float:
    """Return the size of a mark for several prompts, with an area by their number."""
    unit = min(MARK_SIZE, LARGEST_MARK / math.sqrt(largest_count))
    return max(SMALLEST_MARK, unit * math.sqrt(count))


def _prompt_mark(
    outcome: str,
    x: float,
    y: float,
    styles: tuple[EncodingStyle, EncodingStyle],
    size: float,
    tooltip: str,
) -> str:
    """Return the mark of a point, in the style of the run that scores higher."""
    if outcome == "tie":
        return make_mark("circle", x, y, "currentColor", size, True, tooltip, QUIET_OPACITY)
    style = styles[1] if outcome == "win" else styles[0]
    return make_mark(style.mark, x, y, style.colour, size, style.is_hollow, tooltip, 0.75)
