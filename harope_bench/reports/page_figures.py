"""Figures as inline SVG: readable without scripts, in the page's own colours, equal bytes for equal
input.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harope_bench.core.escaping import page_text
from harope_bench.leaderboards.comparisons import RowComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT_COLOUR = "#010203"  # stands for the page's text colour and is replaced by currentColor
VERDICT_COLOURS = {
    "better": "#1478b8",
    "worse": "#cf5a00",
    "not resolved": TEXT_COLOUR,
    "not comparable": TEXT_COLOUR,
}
VERDICT_MARKERS = {"better": "^", "worse": "v", "not resolved": "o", "not comparable": "x"}
LINE_STYLES = ("-", "--", ":", "-.")
LINE_COLOURS = ("#1478b8", "#cf5a00", "#218a5b", "#b0559a", "#8a7400", "#6a6fd0")
MAX_CURVE_POINTS = 120  # of a loss curve
# Any: matplotlib types the keys as literals, other ones in each version
RC_PARAMS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.linewidth": 0.6,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"),
        TEXT_COLOUR,
    ),
}


def forest_svg(
    name: str, heading: str, direction: str, rows: Sequence[tuple[str, RowComparison]]
) -> str:
    """Differences with 95% intervals against the zero line; ticks show the smallest detectable
    difference.

    Args:
        name: prefix of every id in the SVG.
        heading: the number's name.
        better: "higher" or "lower".
        rows: label and comparison, top to bottom; those without a difference are left out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = [
        (label, item)
        for label, item in rows
        if item.difference.delta is not None and item.difference.low is not None
    ]
    with matplotlib.rc_context({**RC_PARAMS, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.6, 0.85 + 0.32 * max(1, len(shown))), layout="constrained")
        axes = figure.add_subplot()
        for y, (_, item) in enumerate(reversed(shown)):
            _add_interval(axes, y, item)
        axes.axvline(0, color=TEXT_COLOUR, linewidth=0.8)
        axes.set_yticks(
            range(len(shown)), [label for label, _ in reversed(shown)], parse_math=False
        )
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel(f"{heading}, difference ({direction} is better)", parse_math=False)
        _remove_spines(axes)
        return figure_svg(figure, name)


def _add_interval(axes: Axes, y: int, item: RowComparison) -> None:
    found = item.difference
    colour = VERDICT_COLOURS[item.verdict]
    ends = [value for value in (found.low, found.high) if value is not None]
    axes.plot(ends, [y] * len(ends), color=colour, linewidth=1.6, solid_capstyle="butt")
    face = "none" if item.verdict == "not resolved" else colour
    axes.plot(
        [found.delta or 0.0],
        [y],
        VERDICT_MARKERS[item.verdict],
        color=colour,
        markerfacecolor=face,
        markersize=7,
    )
    if item.detectable_difference is not None:
        axes.plot(
            [-item.detectable_difference, item.detectable_difference],
            [y, y],
            "|",
            color=TEXT_COLOUR,
            alpha=0.55,
            markersize=9,
            markeredgewidth=0.8,
        )


def loss_svg(name: str, curves: Mapping[str, np.ndarray]) -> str:
    """Training loss against step, one line a checkpoint; curves hold rows of (step, loss)."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    with matplotlib.rc_context({**RC_PARAMS, "svg.hashsalt": name}):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for i, (label, curve) in enumerate(curves.items()):
            thin = _thin_curve(curve)
            tone = LINE_COLOURS[i % len(LINE_COLOURS)]
            line = (
                LINE_STYLES[i // len(LINE_COLOURS) % len(LINE_STYLES)]
                if i >= len(LINE_COLOURS)
                else LINE_STYLES[i % len(LINE_STYLES)]
            )
            axes.plot(
                thin[:, 0],
                thin[:, 1],
                color=tone,
                linestyle=line,
                linewidth=1.3,
                label=label.replace("$", r"\$"),
            )
        axes.set_xlabel("training step")
        axes.set_ylabel("loss (log scale)")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=8, ncols=2)
        _remove_spines(axes)
        return figure_svg(figure, name)


def _thin_curve(curve: np.ndarray) -> np.ndarray:
    """At most POINTS rows, each the mean of a stretch of the log."""
    pieces = np.array_split(curve, min(MAX_CURVE_POINTS, len(curve)))
    return np.stack([piece.mean(axis=0) for piece in pieces])


def _remove_spines(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(width=0.6, length=3)


def _strip_control_characters(figure: Figure) -> None:
    """Take control characters out of a figure's names, for which the font has no shape either."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    for text in figure.findobj(Text):
        text.set_text(page_text(text.get_text()))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
            formatter.seq = [page_text(str(label)) for label in formatter.seq]


def figure_svg(figure: Figure, name: str) -> str:
    """The <svg> element alone, without date, with ids that no other figure has."""
    _strip_control_characters(figure)
    buffer = io.StringIO()
    nothing: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = page_text(buffer.getvalue())
    text = text[text.index("<svg") :].strip()
    text = re.sub(r'(\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text)
    text = re.sub(
        r"<svg[^>]*>", lambda m: re.sub(r' (?:width|height)="[^"]*"', "", m[0]), text, count=1
    )
    text = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", text)
    text = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL
    )
    return text.replace(TEXT_COLOUR, "currentColor").replace(
        "<svg", '<svg aria-hidden="true" focusable="false"', 1
    )
