"""Elements of a chart as SVG text, and panels that hold them. Equal numbers give equal bytes.

Lengths are in CSS pixels, with y downwards. Text is <text> in one size, in the colour of the page.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harope_bench.core.escaping import page_text, printable_line

FONT_SIZE = 12.0  # of every text of every chart
LINE_HEIGHT = 16.0
FONT_FAMILY = "system-ui, -apple-system, Segoe UI, Noto Sans, sans-serif"
GAP = 16.0  # between the panels of a figure
PIXELS_PER_REM = 16.0
QUIET_OPACITY = 0.65  # opacity of lines and texts that are not data
RIBBON_OPACITY = 0.18
MARK_SIZE = 8.0  # side of a square with the area of a mark

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
Mark = Literal[
    "circle", "square", "diamond", "right-triangle", "left-triangle", "plus", "star", "hourglass"
]
COLOUR_VARIABLE = re.compile(r"var\(--[a-z0-9-]+, (#[0-9a-f]{6})\)")

# Widths of characters in a wide font, in thousandths of the font size; others are as a digit.
NARROW_CHARACTERS = dict.fromkeys("ijl|'", 280) | dict.fromkeys("ftrI.,:;!/ []()\\-", 370)
WIDE_CHARACTERS = dict.fromkeys("ABEKPSVXYR&", 690) | dict.fromkeys("CDGHNOQUw", 790)
CHARACTER_WIDTHS = NARROW_CHARACTERS | WIDE_CHARACTERS | dict.fromkeys("mMW@%", 970)
DEFAULT_WIDTH = 630
FULL_WIDTH = 1000  # of characters beyond the alphabets, such as Chinese ones
FIRST_FULL_WIDTH = "\u2e80"

# Diverging and safe for colour-blind readers: blue, white, orange.
NEGATIVE_COLOUR = (11, 87, 150)
CENTRE_COLOUR = (250, 250, 250)
POSITIVE_COLOUR = (186, 74, 0)


@dataclass(frozen=True)
class Panel:
    """A rectangle with elements, and what it shows in words.

    Attributes:
        title: Name of the panel for screen readers.
        description: What the panel shows, in a sentence.
        elements: SVG elements whose origin is the upper left corner of the panel.
    """

    title: str
    description: str
    width: float
    height: float
    elements: tuple[str, ...]


def escape_text(text: str) -> str:
    """Return text for an element or an attribute: one line, no control characters, no markup."""
    return html.escape(page_text(printable_line(text)))


def format_length(value: float) -> str:
    """Return a length with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def make_element(tag: str, content: str = "", **attributes: str | float | None) -> str:
    """Return an element; attributes that are None are left out.

    Args:
        tag: Name of the element.
        content: Markup inside it, already escaped.
        attributes: By name, with `_` for `-`.
    """
    texts = [
        f' {name.replace("_", "-")}="{_attribute_text(value)}"'
        for name, value in attributes.items()
        if value is not None
    ]
    return f"<{tag}{''.join(texts)}>{content}</{tag}>" if content else f"<{tag}{''.join(texts)}/>"


def _attribute_text(value: str | float) -> str:
    return html.escape(value) if isinstance(value, str) else format_length(value)


def text_width(text: str) -> float:
    """Return an estimate of the width of a text."""
    return sum(map(character_width, text))


def character_width(character: str) -> float:
    """Return an estimate of the width of a character."""
    width = CHARACTER_WIDTHS.get(character, DEFAULT_WIDTH)
    return (FULL_WIDTH if character >= FIRST_FULL_WIDTH else width) * FONT_SIZE / 1000


def shorten_text(text: str, width: float) -> str:
    """Return a text that fits into a width, with an ellipsis where it was cut."""
    if text_width(text) <= width:
        return text
    position = FONT_SIZE  # the ellipsis
    n_characters = 0
    for character in text:
        position += character_width(character)
        if position > width:
            break
        n_characters += 1
    return text[:n_characters].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def make_text(
    x: float,
    y: float,
    text: str,
    anchor: Anchor = "start",
    max_width: float | None = None,
    is_bold: bool = False,
    is_quiet: bool = False,
    colour: str | None = None,
) -> str:
    """Return a text with its baseline at y; a text that is cut has its whole as a tooltip.

    Args:
        max_width: Width that the text is cut to; None for no limit.
        is_quiet: Whether the text is fainter than data.
    """
    visible_text = text if max_width is None else shorten_text(text, max_width)
    tooltip = "" if visible_text == text else tooltip_element(text)
    return make_element(
        "text",
        escape_text(visible_text) + tooltip or " ",
        x=x,
        y=y,
        text_anchor=None if anchor == "start" else anchor,
        font_weight="600" if is_bold else None,
        fill_opacity=0.8 if is_quiet else None,
        fill=colour,
    )


def tooltip_element(text: str) -> str:
    """Return the element that a browser shows when the pointer rests on its parent."""
    return f"<title>{escape_text(text)}</title>" if text else ""


def make_line(
    start: Point,
    end: Point,
    colour: str = "currentColor",
    width: float | None = None,
    opacity: float | None = None,
    dashes: str | None = None,
) -> str:
    """Return a straight line."""
    return make_element(
        "line",
        x1=start[0],
        y1=start[1],
        x2=end[0],
        y2=end[1],
        stroke=colour,
        stroke_width=width,
        stroke_opacity=opacity,
        stroke_dasharray=dashes,
    )


def make_segments(
    segments: Sequence[tuple[Point, Point]],
    colour: str = "currentColor",
    width: float | None = None,
    opacity: float | None = None,
) -> str:
    """Return several straight lines as one element; empty without lines."""
    if not segments:
        return ""
    path = "".join(
        f"M{format_length(x1)} {format_length(y1)}"
        + (
            f"H{format_length(x2)}"
            if y1 == y2
            else f"V{format_length(y2)}"
            if x1 == x2
            else f"L{format_length(x2)} {format_length(y2)}"
        )
        for (x1, y1), (x2, y2) in segments
    )
    return make_element("path", d=path, stroke=colour, stroke_width=width, stroke_opacity=opacity)


def make_curve(
    points: Sequence[Point],
    colour: str,
    width: float = 1.6,
    opacity: float | None = None,
    dashes: str | None = None,
) -> str:
    """Return a line through points."""
    return make_element(
        "polyline",
        points=join_points(points),
        fill="none",
        stroke=colour,
        stroke_width=width,
        stroke_opacity=opacity,
        stroke_dasharray=dashes,
        stroke_linejoin="round",
    )


def make_ribbon(lower_points: Sequence[Point], upper_points: Sequence[Point], colour: str) -> str:
    """Return the area between two lines whose points have equal x."""
    outline = [*lower_points, *reversed(upper_points)]
    return make_element(
        "polygon", points=join_points(outline), fill=colour, fill_opacity=RIBBON_OPACITY
    )


def make_bar(
    x: float, y: float, width: float, height: float, colour: str, opacity: float | None = None
) -> str:
    """Return a filled rectangle."""
    return make_element(
        "rect", x=x, y=y, width=width, height=height, fill=colour, fill_opacity=opacity
    )


def join_points(points: Sequence[Point]) -> str:
    """Return points as the attribute of a polyline."""
    return " ".join(f"{format_length(x)},{format_length(y)}" for x, y in points)


def make_mark(
    mark: Mark,
    x: float,
    y: float,
    colour: str,
    size: float = MARK_SIZE,
    is_hollow: bool = False,
    tooltip: str = "",
    opacity: float | None = None,
) -> str:
    """Return a mark around a point. All marks of one size have about the same area.

    Args:
        is_hollow: Whether only the outline is drawn; the page shows through a hollow mark.
    """
    paint: dict[str, str | float | None] = {"fill": colour, "fill_opacity": opacity}
    if is_hollow:
        paint = {
            "fill": "none",
            "stroke": colour,
            "stroke_width": 1.4,
            "stroke_opacity": opacity,
        }
    content = tooltip_element(tooltip)
    if mark == "circle":
        return make_element("circle", content, cx=x, cy=y, r=0.564 * size, **paint)
    outline = [(x + size * dx, y + size * dy) for dx, dy in MARK_OUTLINES[mark]]
    return make_element("polygon", content, points=join_points(outline), **paint)


def _star_outline() -> tuple[Point, ...]:
    """Return the corners of a five-pointed star."""
    angles = -np.pi / 2 + np.pi / 5 * np.arange(10)
    radii = np.where(np.arange(10) % 2 == 0, 0.78, 0.36)
    return tuple(
        (float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)
    )


# corners of each mark of size 1
MARK_OUTLINES: dict[Mark, tuple[Point, ...]] = {
    "square": ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)),
    "diamond": ((0.0, -0.72), (0.72, 0.0), (0.0, 0.72), (-0.72, 0.0)),
    "right-triangle": ((-0.5, -0.68), (0.7, 0.0), (-0.5, 0.68)),
    "left-triangle": ((0.5, -0.68), (-0.7, 0.0), (0.5, 0.68)),
    "plus": (
        *((-0.22, -0.68), (0.22, -0.68), (0.22, -0.22), (0.68, -0.22), (0.68, 0.22), (0.22, 0.22)),
        *((0.22, 0.68), (-0.22, 0.68), (-0.22, 0.22), (-0.68, 0.22), (-0.68, -0.22)),
        (-0.22, -0.22),
    ),
    "star": _star_outline(),
    "hourglass": ((-0.62, -0.66), (0.62, -0.66), (-0.62, 0.66), (0.62, 0.66)),
}


def make_heat_map(
    values: np.ndarray,
    limit: float,
    corner: Point,
    width: float,
    height: float,
    tooltip: str = "",
) -> str:
    """Return a matrix (rows, columns) as an image with one pixel for each number.

    Args:
        limit: Absolute value at which the colours end; 0 is the centre of the colours.
        corner: Upper left corner.
    """
    from PIL import Image

    image = Image.fromarray(diverging_colours(values, limit))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return make_element(
        "image",
        tooltip_element(tooltip),
        x=corner[0],
        y=corner[1],
        width=width,
        height=height,
        preserveAspectRatio="none",
        style="image-rendering:pixelated",
        href=uri,
    )


def diverging_colours(values: np.ndarray, limit: float) -> np.ndarray:
    """Return the colours (rows, columns, 3) uint8 of numbers between -limit and limit."""
    clipped_values = np.clip(np.asarray(values, dtype=np.float64), -limit, limit)
    positions = (clipped_values / (limit or 1.0))[..., None]  # -1 to 1
    ends = np.where(positions < 0, NEGATIVE_COLOUR, POSITIVE_COLOUR)
    colours = CENTRE_COLOUR + np.abs(positions) * (ends - np.array(CENTRE_COLOUR, dtype=np.float64))
    return np.rint(colours).astype(np.uint8)


def panel_svg(panel: Panel, name: str) -> str:
    """Return a panel as the <svg> element of a page, which keeps the size of its type.

    Args:
        name: Prefix of every id in the element.
    """
    size = f"width:{_rem(panel.width)}rem;height:{_rem(panel.height)}rem"
    return _make_svg(panel, name, f'style="{size}"')


def file_svg(panel: Panel, name: str) -> str:
    """Return a panel as the <svg> element of a file.

    It has fixed colours and a white ground, since a file has no page around it.

    Args:
        name: Prefix of every id in the element.
    """
    width, height = (format_length(side + 2 * GAP) for side in (panel.width, panel.height))
    attributes = (
        f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        ' style="color:#1b1d21;background:#ffffff"'
    )
    return COLOUR_VARIABLE.sub(r"\1", _make_svg(panel, name, attributes, GAP))


def arrange_panels(panels: Sequence[Panel], n_columns: int, title: str, description: str) -> Panel:
    """Return a panel with panels in a grid, `n_columns` in each row."""
    elements = []
    y = width = 0.0
    for first_index in range(0, len(panels), n_columns):
        x = 0.0
        row_panels = panels[first_index : first_index + n_columns]
        for panel in row_panels:
            content = "".join(panel.elements)
            shift = f"translate({format_length(x)} {format_length(y)})"
            elements.append(make_element("g", content, transform=shift))
            x += panel.width + GAP
        y += max(panel.height for panel in row_panels) + GAP
        width = max(width, x - GAP)
    return Panel(title, description, width, max(0.0, y - GAP), tuple(elements))


def _make_svg(panel: Panel, name: str, attributes: str, margin: float = 0.0) -> str:
    """Return the <svg> element of a panel with its title and description.

    Args:
        attributes: Further attributes as text.
        margin: Free space around the panel.
    """
    corners = (-margin, -margin, panel.width + 2 * margin, panel.height + 2 * margin)
    view_box = " ".join(map(format_length, corners))
    return (
        f'<svg {attributes} class="chart" role="img" viewBox="{view_box}"'
        f' aria-labelledby="{name}-title {name}-desc" font-family="{FONT_FAMILY}"'
        f' font-size="{format_length(FONT_SIZE)}" fill="currentColor">'
        f'<title id="{name}-title">{escape_text(panel.title)}</title>'
        f'<desc id="{name}-desc">{escape_text(panel.description)}</desc>'
        f"{''.join(panel.elements)}</svg>"
    )


def _rem(pixels: float) -> str:
    return format_length(pixels / PIXELS_PER_REM)
