"""Sample grids: the same indices of every run, so that eyes compare like with like."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from harope_bench.records import SampleRecord
from harope_bench.reports.runs import Run

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN, COLUMNS = 40, 10  # four rows of ten; the labels of the digits suite run through a row
LARGEST = 96  # pixels a side of one thumbnail
MOST_GRIDS = 24  # keeps the file under 5 MB: a full grid of noise has 0.2 MB or less
GAP = 2
MISSING = (128, 128, 128)


@dataclass(frozen=True)
class Sheet:
    """One run's samples as one picture."""

    run: str
    title: str
    caption: str
    alt: str
    uri: str
    width: int
    height: int
    missing: tuple[str, ...]


def sheets(runs: Sequence[Run]) -> list[Sheet]:
    """A sheet for every run that has images, up to MOST_GRIDS."""
    drawn = (sheet for run in runs if (sheet := _sheet(run)) is not None)
    return list(islice(drawn, MOST_GRIDS))


def left_out(runs: Sequence[Run]) -> int:
    """How many runs with samples have no sheet for want of room."""
    return max(0, sum(bool(run.samples) for run in runs) - MOST_GRIDS)


def _sheet(run: Run) -> Sheet | None:
    records = [record for record in run.samples if record.index < SHOWN]
    if not records:
        return None
    missing: list[str] = []
    pictures = {record.index: _open(run, record, missing) for record in records}
    first = next((picture for picture in pictures.values() if picture is not None), None)
    side = _side(first)
    page = _paste(pictures, side)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Sheet(run.id, run.title, _caption(run), _alt(run, records, missing), uri, page.width, page.height, tuple(missing))


def _open(run: Run, record: SampleRecord, missing: list[str]) -> Image | None:
    """The image, or None with the reason added to `missing`."""
    from PIL import Image

    path = run.picture(record)
    if path is None:
        missing.append(f"sample {record.index}: {record.reason or 'failed' if record.status != 'ok' else 'no file inside the run'}")
        return None
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not there" if isinstance(error, FileNotFoundError) else "not a readable PNG"
        missing.append(f"sample {record.index}: {reason}")
        return None


def _side(first: Image | None) -> int:
    """Small pictures are doubled, large ones reduced."""
    if first is None:
        return 56
    return first.width * 2 if first.width * 2 <= LARGEST else min(first.width, LARGEST)


def _paste(pictures: dict[int, Image | None], side: int) -> Image:
    from PIL import Image

    rows = max(pictures) // COLUMNS + 1
    step = side + GAP
    page = Image.new("RGBA", (COLUMNS * step - GAP, rows * step - GAP))  # gaps show the page, light or dark
    for index, picture in pictures.items():
        place = (index % COLUMNS * step, index // COLUMNS * step)
        page.paste(_thumbnail(picture, side), place)
    return page


def _thumbnail(picture: Image | None, side: int) -> Image:
    from PIL import Image, ImageDraw

    if picture is not None:
        kind = Image.Resampling.NEAREST if picture.width <= side else Image.Resampling.LANCZOS
        return picture.resize((side, side), kind)
    blank = Image.new("RGB", (side, side), MISSING)
    pen = ImageDraw.Draw(blank)
    pen.line((0, 0, side, side), fill=(0, 0, 0))
    pen.line((0, side, side, 0), fill=(0, 0, 0))
    return blank


def _caption(run: Run) -> str:
    if run.plan is None:
        return "images without a plan: how they were drawn is not known"
    settings = run.plan.settings
    return (
        f"{run.plan.checkpoint.encoding}; seed {settings.seed}, {settings.sampler} {settings.steps} steps, guidance {settings.guidance:g}"
    )


def _alt(run: Run, records: list[SampleRecord], missing: list[str]) -> str:
    labels = [record.label for record in records[:COLUMNS]]
    known = [str(label) for label in labels if label is not None]
    classes = f", columns by class {', '.join(known)}" if len(known) == len(labels) else ""
    lost = f"; {len(missing)} missing, shown as crossed boxes" if missing else ""
    return f"{run.title}: samples {records[0].index} to {records[-1].index} in rows of {COLUMNS}{classes}{lost}"
