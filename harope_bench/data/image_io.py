"""One image: decoding and encoding of its file, and the centre crop of references."""

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
from harope_bench.core.regular_file import MAX_IMAGE_BYTES, open_regular, read_regular
from harope_bench.core.storage import convert_os_errors

# Formats by the first bytes of a file.
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
# Formats that are read. judges/runners/common.py has the same list.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MAX_PIXELS = 2**26  # 8192 x 8192 pixels, 200 MB as RGB
# What Pillow raises on damaged bytes, or warns of for an image with too many pixels.
DECODE_ERRORS = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, IndexError),
    *(OverflowError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
# Levels of zlib in a PNG. Generated images are written fast; images inside a report are small.
FAST_COMPRESSION = 1
SMALL_COMPRESSION = 6
FAST_PIXELS = 128 * 128  # pixels from which an image is compressed fast
RIFF_HEADER_BYTES = 12  # bytes before the first chunk of a WebP file
LOSSY_FORMATS = ("JPEG", "WEBP", "JPEG2000")  # formats that can be lossy


class DecodedImage(NamedTuple):
    """An image (H, W, 3) uint8 and the mode of its file: RGB, L (grey), P (palette) or 1 (black
    and white).
    """

    image: np.ndarray
    mode: str


def encode_png(image: np.ndarray, compress_level: int | None = None) -> bytes:
    """Return the PNG bytes of an image (H, W, 3) uint8.

    Args:
        compress_level: zlib's level; it changes the size and the time, not the pixels. None is
            FAST_COMPRESSION, but for small images SMALL_COMPRESSION: they take no time, and their
            bytes stay those of earlier versions.
    """
    if compress_level is None:
        is_large = image.shape[0] * image.shape[1] >= FAST_PIXELS
        compress_level = FAST_COMPRESSION if is_large else SMALL_COMPRESSION
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


@contextmanager
def open_image(data: bytes, image_name: str) -> Iterator[Image.Image]:
    """Yield the Pillow image in the bytes of a file.

    Only Pillow's decoder of the format that the bytes show is allowed. Pillow has decoders for 40
    formats, one of which starts Ghostscript.

    Args:
        image_name: The image, for messages.

    Raises:
        SampleError: The format is not one of IMAGE_FORMATS, the image has more than MAX_PIXELS
            pixels, or it is damaged, even if that shows only while the caller decodes it.
    """
    image_format = detect_image_format(data[:16])
    if image_format not in IMAGE_FORMATS:
        format_text = f"it is {image_format}" if image_format else "its format is not known"
        raise SampleError(
            f"{image_name} is not a readable image ({format_text}, wanted"
            f" {', '.join(IMAGE_FORMATS)}); generate or copy it again"
        )
    try:
        with Image.open(io.BytesIO(data), formats=[image_format]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SampleError(
                    f"{image_name} is {image.width}x{image.height}, at most {MAX_PIXELS:,} pixels"
                    " are read; make it smaller"
                )
            yield image
    except DECODE_ERRORS as error:
        if isinstance(error, UnidentifiedImageError):
            reason = "its bytes hold no such image"
        else:
            reason = printable_line(str(error))
        raise SampleError(
            f"{image_name} is not a readable image ({image_format}: {reason}); generate or copy it"
            " again"
        ) from error


def image_size(data: bytes, image_name: str) -> tuple[int, int]:
    """Return width and height of the image in the bytes of a file, without decoding it.

    Args:
        image_name: The image, for messages.

    Raises:
        SampleError: As `open_image`.
    """
    with open_image(data, image_name) as image:
        return image.size


def read_image_bytes(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        SampleError: The file cannot be read, is not a regular file or has more than
            MAX_IMAGE_BYTES.
    """
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except OSError as error:
        raise SampleError(
            f"image {path} cannot be read: {error.strerror}; check the file or copy it again"
        ) from error
    except StorageError as error:
        raise SampleError(f"image {error}") from error


def decode_image(data: bytes, image_name: str) -> DecodedImage:
    """Return the image in the bytes of a file.

    Args:
        image_name: The image, for messages.

    Raises:
        SampleError: As `open_image`, or the image has alpha, CMYK, 16 bits or several frames.
    """
    with open_image(data, image_name) as image:
        mode = image.mode
        if "transparency" in image.info:
            mode += " with transparency"
        if _is_16_bit_png(data):
            mode += ", 16 bits"
        if mode not in ("RGB", "L", "P", "1"):
            raise SampleError(
                f"{image_name} has mode {mode}, wanted RGB of 8 bits; convert it first, alpha and"
                " CMYK are not guessed"
            )

        n_frames = getattr(image, "n_frames", 1)  # only formats with frames have the attribute
        if n_frames > 1:
            raise SampleError(
                f"{image_name} has {n_frames} frames, wanted one image; save the frame that is"
                " meant"
            )
        return DecodedImage(np.asarray(image.convert("RGB")), mode)  # (H, W, 3)


def detect_image_format(start: bytes) -> str | None:
    """Return Pillow's name of the format that the first 16 bytes show; None if it is not known."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    for signature, image_format in FORMAT_SIGNATURES.items():
        if start.startswith(signature):
            return image_format
    return None


class ImageFileFormat(NamedTuple):
    """A file and the format that its first bytes show; None if it is unknown or unreadable."""

    path: Path
    format: str | None

    @property
    def suffix_format(self) -> str | None:
        """Return the format that the suffix of the file names; None for another suffix."""
        return SUFFIX_FORMATS.get(self.path.suffix.lower())

    @property
    def is_misnamed(self) -> bool:
        """Return whether the suffix names another format than the bytes show."""
        if self.format is None or self.suffix_format is None:
            return False
        return self.format != self.suffix_format

    @property
    def is_lossy(self) -> bool:
        """Return whether the format is lossy. The suffix counts if the bytes show no format."""
        image_format = self.format or self.suffix_format
        if image_format == "WEBP":
            return not _is_lossless_webp(self.path)
        return image_format in LOSSY_FORMATS


def _is_lossless_webp(path: Path) -> bool:
    """Return whether the image chunk of a WebP file is VP8L (lossless) and not VP8 (lossy)."""
    with convert_os_errors(path), open_regular(path) as file:
        file.seek(RIFF_HEADER_BYTES)
        while len(chunk_header := file.read(8)) == 8:
            chunk_name = chunk_header[:4]
            if chunk_name in (b"VP8 ", b"VP8L"):
                return chunk_name == b"VP8L"
            chunk_bytes = int.from_bytes(chunk_header[4:], "little")
            file.seek(chunk_bytes + chunk_bytes % 2, os.SEEK_CUR)  # chunks have an even length
    return False


def file_formats(paths: Iterable[Path]) -> list[ImageFileFormat]:
    """Return the format of each file by its first 16 bytes.

    A file that cannot be opened has the format None. Decoding it raises the error.
    """
    return [ImageFileFormat(path, _read_image_format(path)) for path in paths]


def wrong_suffixes_text(paths: Iterable[Path]) -> str | None:
    """Return in words how many files have another format than their suffix names; None if none."""
    formats = file_formats(paths)
    misnamed_files = [file for file in formats if file.is_misnamed]
    if not misnamed_files:
        return None
    example = misnamed_files[0]
    return (
        f"{len(misnamed_files):,} of {len(formats):,} hold another format than their names say"
        f" ({example.path.name} is {example.format})"
    )


def _read_image_format(path: Path) -> str | None:
    """Return the format that the first bytes of a file show; None if it cannot be read."""
    try:
        with open_regular(path) as file:
            return detect_image_format(file.read(16))
    except (OSError, IrregularFileError):
        return None


def crop_to_box(
    image: DecodedImage, box: tuple[int, int, int, int] | None, image_name: str
) -> DecodedImage:
    """Return the part (x0, y0, x1, y1) of an image; the complete image if the box is None.

    Raises:
        SampleError: The box reaches beyond the image. The message names the image.
    """
    if box is None:
        return image
    x0, y0, x1, y1 = box
    height, width = image.image.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise SampleError(
            f"{image_name} is part {box} of an image, which is {width}x{height}; it changed, open"
            " the folder again"
        )
    return image._replace(image=image.image[y0:y1, x0:x1])  # (y1 - y0, x1 - x0, 3)


def _is_16_bit_png(data: bytes) -> bool:
    """Return whether a PNG has 16 bits per channel (the bit depth in its IHDR chunk).

    Pillow would reduce such an image to 8 bits without a warning.
    """
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Return the central square of an image (H, W, 3) uint8, resized to `side` pixels.

    ADM prepares ImageNet in this way.

    Source: openai/guided-diffusion:guided_diffusion/image_datasets.py, `center_crop_arr`.
    """
    # Halve the image with a box filter while its shorter side is at least twice the target.
    pil_image = Image.fromarray(image)
    while min(pil_image.size) >= 2 * side:
        half_size = (pil_image.width // 2, pil_image.height // 2)
        pil_image = pil_image.resize(half_size, Image.Resampling.BOX)

    # Resize the shorter side to the target.
    scale = side / min(pil_image.size)
    size = (round(pil_image.width * scale), round(pil_image.height * scale))
    pil_image = pil_image.resize(size, Image.Resampling.BICUBIC)

    left = (pil_image.width - side) // 2
    top = (pil_image.height - side) // 2
    return np.asarray(pil_image)[top : top + side, left : left + side]  # (side, side, 3)
