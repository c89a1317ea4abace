"""One image: file bytes to pixels and back, and the crop that references are made with."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from harope_bench.core.errors import IrregularFileError, SampleError, StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.regular_file import IMAGE_BYTES, open_regular, read_regular
from harope_bench.core.storage import convert_os_errors

FORMAT_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
    b"GIF8": "GIF",
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}
SUFFIX_FORMATS = {".png": "PNG", ".bmp": "BMP", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
IMAGE_FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "WEBP",
)  # that are read; judges/runners/common.py has the same
MAX_PIXELS = 2**26  # of one image: 8192 x 8192, 200 MB as RGB
# Pillow's decoders fail in all these ways on damaged bytes; of many pixels it warns before it
# refuses.
DECODE_ERRORS = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
RIFF_HEADER_BYTES = 12  # bytes before the first chunk of a WebP
LOSSY_FORMATS = ("JPEG", "WEBP", "JPEG2000")  # formats that may have lost something


class DecodedImage(NamedTuple):
    """An image (H, W, 3) uint8 and the mode of its file: RGB, L (grey), P (palette) or 1."""

    image: np.ndarray
    mode: str


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an image (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


@contextmanager
def open_image(data: bytes, what: str) -> Iterator[Image.Image]:
    """Open the bytes of an image file, by the one plug-in of Pillow that reads the format which
    they show.

    Pillow has plug-ins for 40 formats. One of them starts Ghostscript, and a file's name does not
    choose among them.

    Raises:
        SampleError: Names `what`: of another format than FORMATS, of more than PIXELS pixels, or
            damaged, also where that shows
            only as the caller decodes.
    """
    form = detect_image_format(data[:16])
    if form not in IMAGE_FORMATS:
        shown = f"it is {form}" if form else "it begins like none"
        raise SampleError(
            f"{what} is not a readable image ({shown}, wanted {', '.join(IMAGE_FORMATS)}); draw or"
            " copy it again"
        )
    try:
        with Image.open(io.BytesIO(data), formats=[form]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SampleError(
                    f"{what} is {image.width}x{image.height}, at most {MAX_PIXELS:,} pixels are"
                    " read; make it smaller"
                )
            yield image
    except DECODE_ERRORS as error:
        why = (
            "its bytes hold no such image"
            if isinstance(error, UnidentifiedImageError)
            else printable_line(str(error))
        )
        raise SampleError(
            f"{what} is not a readable image ({form}: {why}); draw or copy it again"
        ) from error


def read_image_bytes(path: Path) -> bytes:
    """Return the bytes of an image file; SampleError where it cannot be read, is no regular file or
    has more than IMAGE_BYTES.
    """
    try:
        return read_regular(path, IMAGE_BYTES)
    except OSError as error:
        raise SampleError(
            f"image {path} cannot be read: {error.strerror}; copy it again"
        ) from error
    except StorageError as error:
        raise SampleError(f"image {error}") from error


def decode_image(data: bytes, image_name: str) -> DecodedImage:
    """Return the image in file bytes as (H, W, 3) uint8; SampleError names `what`, as `open_image`.

    Also where the image carries alpha, CMYK, 16 bits or frames.
    """
    with open_image(data, image_name) as image:
        mode = (
            image.mode
            + " with transparency" * ("transparency" in image.info)
            + ", 16 bits" * _is_16_bit_png(data)
        )
        if mode not in ("RGB", "L", "P", "1"):
            raise SampleError(
                f"{image_name} has mode {mode}, wanted RGB of 8 bits; convert it first, alpha and"
                " CMYK are not guessed"
            )
        if (frames := getattr(image, "n_frames", 1)) > 1:  # of formats with frames alone
            raise SampleError(
                f"{image_name} has {frames} frames, wanted one picture; save the frame that is"
                " meant"
            )
        return DecodedImage(np.asarray(image.convert("RGB")), mode)


def detect_image_format(head: bytes) -> str | None:
    """Return the format that the first 16 bytes of a file show, by Pillow's name; None where it is
    none of these.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in FORMAT_SIGNATURES.items() if head.startswith(start)), None)


class ImageFileFormat(NamedTuple):
    """A file and the format that its first bytes show; None where they show none that is known, or
    cannot be read.
    """

    path: Path
    format: str | None

    @property
    def is_misnamed(self) -> bool:
        """Whether the suffix names another format."""
        named = SUFFIX_FORMATS.get(self.path.suffix.lower())
        return None not in (self.format, named) and self.format != named

    @property
    def is_lossy(self) -> bool:
        """Whether its format loses detail: by its bytes, by its suffix where these show none. A
        WebP may be of the lossless kind.
        """
        form = self.format or SUFFIX_FORMATS.get(self.path.suffix.lower())
        return form in LOSSY_FORMATS and not (form == "WEBP" and _is_lossless_webp(self.path))


def _is_lossless_webp(path: Path) -> bool:
    with convert_os_errors(path), open_regular(path) as file:
        file.seek(RIFF_HEADER_BYTES)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def file_formats(paths: Iterable[Path]) -> list[ImageFileFormat]:
    """Return the format of each file by its first 16 bytes; one that cannot be opened raises its
    error where it is decoded.
    """
    return [ImageFileFormat(path, _read_image_format(path)) for path in paths]


def misnamed_files_text(paths: Iterable[Path]) -> str | None:
    """Return in words how many files hold another format than their suffix names, and the first;
    None where all agree.
    """
    formats = file_formats(paths)
    wrong = [file for file in formats if file.is_misnamed]
    if not wrong:
        return None
    return (
        f"{len(wrong):,} of {len(formats):,} hold another format than their names say"
        f" ({wrong[0].path.name} is {wrong[0].format})"
    )


def _read_image_format(path: Path) -> str | None:
    try:
        with open_regular(path) as file:
            return detect_image_format(file.read(16))
    except (OSError, IrregularFileError):
        return None


def crop_to_box(
    image: DecodedImage, box: tuple[int, int, int, int] | None, what: str
) -> DecodedImage:
    """The part (x0, y0, x1, y1) of an image, all of it where None; SampleError names `what` if it
    does not reach so far.
    """
    if box is None:
        return image
    x0, y0, x1, y1 = box
    height, width = image.image.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise SampleError(
            f"{what} is part {box} of a picture, which is {width}x{height}; it changed, open the"
            " folder again"
        )
    return image._replace(image=image.image[y0:y1, x0:x1])


def _is_16_bit_png(data: bytes) -> bool:
    """Whether a PNG has 16 bits a channel (the bit depth of its IHDR), which pillow would cut to 8
    in silence.
    """
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square of an image (H, W, 3) uint8 at `side` pixels, as ADM prepares ImageNet.

    Halved by box filters while the shorter side is at least twice as long, then bicubic to it, then
    cut.

    Source: openai/guided-diffusion:guided_diffusion/image_datasets.py, `center_crop_arr`.
    """
    picture = Image.fromarray(image)
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )
    left = (picture.width - side) // 2
    top = (picture.height - side) // 2
    return np.asarray(picture)[top : top + side, left : left + side]
