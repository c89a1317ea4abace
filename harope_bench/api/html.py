"""HTML with which objects show themselves in a notebook. All texts are escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harope_bench.core.escaping import page_text

THUMBNAIL_SIDE = 96  # pixels
MAX_ROWS = 200  # rows of a table in a notebook


def escape_text(value: object) -> str:
    """Return a value as escaped text; empty for None, a float with six digits."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(page_text(text))


def table_html(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as an HTML table, at most MAX_ROWS of them.

    >>> table_html(["metric"], [{"metric": "<fid>"}])
    '<table><thead><tr><th>metric</th></tr></thead><tbody><tr><td>&lt;fid&gt;</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escape_text(column)}</th>" for column in columns)
    lines = [
        "<tr>" + "".join(f"<td>{escape_text(row.get(name))}</td>" for name in columns) + "</tr>"
        for row in rows[:MAX_ROWS]
    ]
    n_further = len(rows) - MAX_ROWS
    if n_further > 0:
        lines.append(f'<tr><td colspan="{len(columns)}">{n_further:,} further rows</td></tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def title_html(title: str, notes: Iterable[str] = ()) -> str:
    """Return a title and notes below it as paragraphs."""
    paragraphs = [f"<p><b>{escape_text(title)}</b></p>"]
    paragraphs += [f"<p>{escape_text(note)}</p>" for note in notes]
    return "".join(paragraphs)


def thumbnails_html(images: Iterable[np.ndarray]) -> str:
    """Return images (H, W, 3) uint8 as one line of thumbnails inside the page."""
    from PIL import Image

    tags = []
    for pixels in images:
        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        tags.append(f'<img alt="sample" src="data:image/png;base64,{data}">')
    return f"<p>{' '.join(tags)}</p>" if tags else ""
