"""Axes of charts: scales, ticks at round numbers, and the elements that show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harope_bench.reports.svg_elements import (
    FONT_SIZE,
    LINE_HEIGHT,
    QUIET_OPACITY,
    make_segments,
    make_text,
    text_width,
)

TICK_LENGTH = 4.0
TEXT_DISTANCE = 6.0  # from an axis to the texts of its ticks
ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
GRID_OPACITY = 0.14
LARGEST_NUMBER = 1e100  # larger ones are at the end of an axis
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """The positions of numbers along an axis.

    Attributes:
        low, high: Numbers at the ends.
        start, end: Positions of these numbers in pixels.
        is_log: Whether equal ratios have equal lengths; low is then positive.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def position(self, value: float) -> float:
        """Return the position of a number in pixels."""
        transform = math.log if self.is_log else float
        value = bounded_number(value, self.is_log)
        low = transform(self.low)
        fraction = (transform(value) - low) / (transform(self.high) - low)
        return self.start + fraction * (self.end - self.start)

    def ticks(self, max_ticks: int) -> list[float]:
        """Return round numbers on the axis, about `max_ticks` at most."""
        if self.is_log:
            return log_ticks(self.low, self.high, max_ticks)
        return round_ticks(self.low, self.high, max_ticks)


def bounded_number(value: float, is_log: bool = False) -> float:
    """Return a number whose differences and powers are finite: at most 1e100 in size.

    Args:
        is_log: Whether the number must be positive as well.
    """
    return min(max(value, 1 / LARGEST_NUMBER if is_log else -LARGEST_NUMBER), LARGEST_NUMBER)


def make_scale(
    values: Sequence[float],
    start: float,
    end: float,
    is_log: bool = False,
    padding: float = 0.06,
) -> Scale:
    """Return a scale that holds all numbers, with a margin at both ends.

    Args:
        padding: Margin as a fraction of the range.
    """
    values = [bounded_number(value, is_log) for value in values]
    if is_log:
        ratio = max(values) / min(values)
        margin = ratio**padding if ratio > 1 else 2.0
        return Scale(min(values) / margin, max(values) * margin, start, end, is_log)
    span = max(values) - min(values)
    margin = padding * span if span else abs(max(values)) * 0.1 or 1.0
    return Scale(min(values) - margin, max(values) + margin, start, end)


def round_ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten between two numbers.

    The step is the smallest one with at most `max_ticks` ticks.
    """
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    exponent = math.floor(math.log10(span / max(1, max_ticks)))
    steps = [step * 10.0**power for power in range(exponent, exponent + 3) for step in ROUND_STEPS]
    for step in steps:
        first_count = math.ceil(low / step - 1e-9)
        last_count = math.floor(high / step + 1e-9)
        if last_count - first_count + 1 <= max_ticks:
            counts = range(first_count, last_count + 1)
            return [_round_multiple(count, step) for count in counts]
    return []


def _round_multiple(count: int, step: float) -> float:
    """Return count * step rounded to 12 digits: 0.3, not 0.30000000000000004."""
    return float(f"{count * step:.12g}")


def log_ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two positive numbers, or round ticks.

    Powers of ten alone are returned where more would be too many. A range that holds fewer than
    three of these numbers gets round ticks.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates: list[list[float]] = []
    for factors in ((1, 2, 5), (1,)):
        ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
        candidates.append([tick for tick in ticks if low <= tick <= high])
    if len(candidates[0]) < 3:
        return [tick for tick in round_ticks(low, high, max_ticks) if tick > 0]
    if len(candidates[0]) <= max_ticks:
        return candidates[0]
    every = -(-len(candidates[1]) // max_ticks) or 1
    return candidates[1][::every]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return the ticks as texts with the decimals that the finest of them needs."""
    if any(tick and not 1e-4 <= abs(tick) < 1e7 for tick in ticks):
        return [f"{tick:g}".replace("-", MINUS) for tick in ticks]
    decimals = max((_count_decimals(tick) for tick in ticks), default=0)
    ratios_are_wide = ticks and min(ticks) > 0 and max(ticks) / min(ticks) >= 50
    if ratios_are_wide:  # a logarithmic axis: 0.01, 0.1, 1
        return [f"{tick:g}" for tick in ticks]
    return [f"{tick:,.{decimals}f}".replace("-", MINUS) for tick in ticks]


def _count_decimals(value: float) -> int:
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def bottom_axis(
    scale: Scale,
    y: float,
    title: str,
    ticks: Sequence[float],
    labels: Sequence[str] | None = None,
    grid_top: float | None = None,
) -> list[str]:
    """Return a horizontal axis with its ticks; labels that would overlap are left out.

    Args:
        y: Height of the axis.
        labels: Texts of the ticks; None for the numbers.
        grid_top: Upper end of lines through the ticks; None for no lines.
    """
    positions = [scale.position(tick) for tick in ticks]
    axis_lines = [((x, y), (x, y + TICK_LENGTH)) for x in positions]
    axis_lines.append(((scale.start, y), (scale.end, y)))
    grid_lines = [] if grid_top is None else [((x, grid_top), (x, y)) for x in positions]
    elements = [
        make_segments(grid_lines, opacity=GRID_OPACITY),
        make_segments(axis_lines, opacity=QUIET_OPACITY),
    ]
    next_label_start = -math.inf
    for x, label in zip(positions, labels or tick_labels(ticks), strict=True):
        half_width = text_width(label) / 2
        if x - half_width > next_label_start:
            elements.append(make_text(x, y + TEXT_DISTANCE + FONT_SIZE, label, "middle"))
            next_label_start = x + half_width + FONT_SIZE / 2
    centre = (scale.start + scale.end) / 2
    if title:
        title_y = y + TEXT_DISTANCE + FONT_SIZE + LINE_HEIGHT
        elements.append(make_text(centre, title_y, title, "middle", is_quiet=True))
    return elements


def left_axis(
    scale: Scale,
    x: float,
    ticks: Sequence[float],
    labels: Sequence[str] | None = None,
    grid_right: float | None = None,
) -> list[str]:
    """Return a vertical axis with its ticks and lines to `grid_right`, None for no lines."""
    positions = [scale.position(tick) for tick in ticks]
    axis_lines = [((x - TICK_LENGTH, y), (x, y)) for y in positions]
    axis_lines.append(((x, scale.start), (x, scale.end)))
    grid_lines = [] if grid_right is None else [((x, y), (grid_right, y)) for y in positions]
    texts = [
        make_text(x - TEXT_DISTANCE, y + FONT_SIZE / 3, label, "end")
        for y, label in zip(positions, labels or tick_labels(ticks), strict=True)
    ]
    return [
        make_segments(grid_lines, opacity=GRID_OPACITY),
        make_segments(axis_lines, opacity=QUIET_OPACITY),
        *texts,
    ]


def label_width(labels: Sequence[str]) -> float:
    """Return the width that the texts of a vertical axis need."""
    return max(map(text_width, labels), default=0.0) + TEXT_DISTANCE + 2
