"""Figures as inline SVG, readable without scripts and in the page's text colour.

Equal input gives equal bytes.
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

TEXT_COLOUR = "#010203"  # replaced by currentColor, the text colour of the page
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
# Any: matplotlib types the keys as literals that change with its version
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
    """Return a forest plot: differences with 95% intervals around the zero line.

    Thin ticks show the smallest detectable difference.

    Args:
        name: prefix of every id in the SVG.
        heading: name of the measurement.
        direction: "higher" or "lower", whichever is better.
        rows: label and comparison, from top to bottom. Those without a difference are omitted.
    """
    import matplotlib
    from matplotlib.figure import Figure

    plotted_rows = [
        (label, comparison)
        for label, comparison in rows
        if comparison.difference.delta is not None and comparison.difference.low is not None
    ]
    with matplotlib.rc_context({**RC_PARAMS, "svg.hashsalt": name}):
        figure = Figure(
            figsize=(4.6, 0.85 + 0.32 * max(1, len(plotted_rows))), layout="constrained"
        )
        axes = figure.add_subplot()
        for y, (_, comparison) in enumerate(reversed(plotted_rows)):
            _add_interval(axes, y, comparison)
        axes.axvline(0, color=TEXT_COLOUR, linewidth=0.8)
        axes.set_yticks(
            range(len(plotted_rows)),
            [label for label, _ in reversed(plotted_rows)],
            parse_math=False,
        )
        axes.set_ylim(-0.6, len(plotted_rows) - 0.4)
        axes.set_xlabel(f"{heading}, difference ({direction} is better)", parse_math=False)
        _remove_spines(axes)
        return figure_svg(figure, name)


def _add_interval(axes: Axes, y: int, comparison: RowComparison) -> None:
    """Add the interval, the value and the detectable difference of one comparison at height y."""
    difference = comparison.difference
    colour = VERDICT_COLOURS[comparison.verdict]
    ends = [value for value in (difference.low, difference.high) if value is not None]
    axes.plot(ends, [y] * len(ends), color=colour, linewidth=1.6, solid_capstyle="butt")
    face_colour = "none" if comparison.verdict == "not resolved" else colour
    axes.plot(
        [difference.delta or 0.0],
        [y],
        VERDICT_MARKERS[comparison.verdict],
        color=colour,
        markerfacecolor=face_colour,
        markersize=7,
    )
    if comparison.detectable_difference is not None:
        axes.plot(
            [-comparison.detectable_difference, comparison.detectable_difference],
            [y, y],
            "|",
            color=TEXT_COLOUR,
            alpha=0.55,
            markersize=9,
            markeredgewidth=0.8,
        )


def loss_svg(name: str, curves: Mapping[str, np.ndarray]) -> str:
    """Return a figure of training loss against step, one line per checkpoint.

    Args:
        name: prefix of every id in the SVG.
        curves: rows of (step, loss) by checkpoint, (N, 2).
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    with matplotlib.rc_context({**RC_PARAMS, "svg.hashsalt": name}):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for i, (label, curve) in enumerate(curves.items()):
            points = _thin_curve(curve)
            colour = LINE_COLOURS[i % len(LINE_COLOURS)]

            # beyond the number of colours the style tells lines of one colour apart
            style_index = i if i < len(LINE_COLOURS) else i // len(LINE_COLOURS)
            line_style = LINE_STYLES[style_index % len(LINE_STYLES)]
            axes.plot(
                points[:, 0],
                points[:, 1],
                color=colour,
                linestyle=line_style,
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
    """Return at most MAX_CURVE_POINTS rows (step, loss), each the mean of a part of the curve."""
    pieces = np.array_split(curve, min(MAX_CURVE_POINTS, len(curve)))
    return np.stack([piece.mean(axis=0) for piece in pieces])


def _remove_spines(axes: Axes) -> None:
    """Remove the frame at the top and at the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(width=0.6, length=3)


def _strip_control_characters(figure: Figure) -> None:
    """Replace the control characters in a figure's texts, which its font cannot show."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    for text in figure.findobj(Text):
        text.set_text(page_text(text.get_text()))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
            formatter.seq = [page_text(str(label)) for label in formatter.seq]


def figure_svg(figure: Figure, name: str) -> str:
    """Return the <svg> element of a figure, without date, size, styles and comments.

    Args:
        name: prefix of every id, so that several figures fit on one page.
    """
    _strip_control_characters(figure)
    buffer = io.StringIO()
    no_metadata: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = page_text(buffer.getvalue())
    text = text[text.index("<svg") :].strip()

    # unique ids, and links to them
    text = re.sub(r'(\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text)

    # the page sets size and fonts
    text = re.sub(
        r"<svg[^>]*>",
        lambda match: re.sub(r' (?:width|height)="[^"]*"', "", match[0]),
        text,
        count=1,
    )
    text = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", text)
    text = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL
    )
    return text.replace(TEXT_COLOUR, "currentColor").replace(
        "<svg", '<svg aria-hidden="true" focusable="false"', 1
    )
