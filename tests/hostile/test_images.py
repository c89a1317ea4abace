"""Image files that are something else, too large, cut, animated, or no files at all."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile.room import IMAGES, SIDE, Case, Outcome, Room, file_writer, odd_file, run_case, table
from PIL import Image, PngImagePlugin

FILE = f"{IMAGES}/000003.png"
CONVERT = ("convert", IMAGES, "out.npz", "--to", "adm")


def encode_image(
    form: str, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE), **options: Any
) -> bytes:
    Image.new(mode, size).save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    pixels: bytes = b"",
    content: bytes = b"",
    depth: int = 8,
    colour: int = 2,
) -> bytes:
    """A PNG of this header, whatever its pixels are."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + content
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def encode_animation(form: str) -> bytes:
    frames = [Image.new("RGB", (SIDE, SIDE), (60 * n, 0, 0)) for n in range(3)]
    frames[0].save(buffer := io.BytesIO(), form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def encode_with_comment() -> bytes:
    note = PngImagePlugin.PngInfo()
    note.add_itxt("Title", "\x1b[2J<script>alert(1)</script>=cmd")
    return encode_image("PNG", pnginfo=note)


GOOD_CONTENT = png(SIDE, SIDE, (b"\0" + bytes(3 * SIDE)) * SIDE)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(canary) (w) file closefile\nshowpage\n"

# Files whose name ends in .png and that hold something else: the answer names the file and what it
# shows.
FORMATS: dict[str, bytes] = {
    "eps": EPS,
    "eps-binary": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS,
    "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
    "tiff": encode_image("TIFF"),
    "gif": encode_image("GIF", "P"),
    "gif-animated": encode_animation("GIF"),
    "ico": encode_image("ICO"),
    "ppm": encode_image("PPM"),
    "tga": encode_image("TGA"),
    "jpeg2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40),
    "html": b"<!doctype html><script>alert(1)</script>",
    "zip": b"PK\x03\x04" + bytes(60),
    "elf": b"\x7fELF" + bytes(60),
    "text": b"just text",
    "empty": b"",
    "zeros": bytes(1000),
    "fits": b"SIMPLE  =                    T" + bytes(100),
    "mpo-of-nothing": b"\xff\xd8\xff\xe0" + bytes(50),
    "webp-of-nothing": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(20),
    "bmp-of-nothing": b"BM" + bytes(50),
}

DAMAGED_FIELDS: dict[str, tuple[bytes, str]] = {
    "header-alone": (GOOD_CONTENT[:33], "not a readable image"),
    "cut-at-once": (GOOD_CONTENT[:12], "not a readable image"),
    "cut-in-pixels": (png(SIDE, SIDE, bytes(300)), "not a readable image"),
    "wrong-checksum": (GOOD_CONTENT[:40] + b"\0\0\0\0" + GOOD_CONTENT[44:], "not a readable image"),
    "size-of-zero": (png(0, 0), "not a readable image"),
    "size-of-2-31": (png(2**31 - 1, 2**31 - 1), "not a readable image|at most"),
    "too-wide": (png(8193, 8193), "at most 67,108,864 pixels"),
    "bomb": (png(60_000, 60_000), "at most|exceeds limit|not a readable"),
    "thin-bomb": (png(2**27, 1), "at most|exceeds limit"),
    "text-bomb": (
        png(SIDE, SIDE, b"", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
        "not a readable image",
    ),
    "profile-bomb": (
        png(SIDE, SIDE, b"", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
        "not a readable image",
    ),
    "another-size": (
        encode_image("PNG", size=(8, 8)),
        "image 3 of pictures is 8x8, image 0 is 28x28",
    ),
    "alpha": (encode_image("PNG", "RGBA"), "has mode RGBA"),
    "alpha-grey": (encode_image("PNG", "LA"), "has mode LA"),
    "transparent-palette": (encode_image("PNG", "P", transparency=0), "with transparency"),
    "sixteen-bits": (png(SIDE, SIDE, (b"\0" + bytes(6 * SIDE)) * SIDE, depth=16), "16 bits"),
    "cmyk": (encode_image("JPEG", "CMYK"), "has mode CMYK"),
    "animated-png": (encode_animation("PNG"), "has 3 frames"),
    "animated-webp": (encode_animation("WEBP"), "has 3 frames"),
}

ODD_CASES = [
    Case(f"place-{kind}", odd_file(FILE, kind), CONVERT, 1, rf"000003.png.* {words}")
    for kind, words in {
        "pipe": "is a pipe", "device": "is a device", "loop": "Too many levels", "dangling": "No such file", "sparse": "at most",
    }.items()
]  # fmt: skip


def is_image(room: Room, outcome: Outcome) -> None:
    with np.load(room.folder / "out.npz") as arrays:
        assert arrays["arr_0"].shape == (4, SIDE, SIDE, 3)


# Odd and still what they seem: the right result, with a warning where the name lies.
RIGHT = [
    Case("jpeg-called-png", file_writer(FILE, encode_image("JPEG")), CONVERT, 0, r"000003.png is JPEG", ("out.npz",), is_image),
    Case("webp-called-png", file_writer(FILE, encode_image("WEBP", lossless=True)), CONVERT, 0, r"000003.png is WEBP", ("out.npz",), is_image),
    Case("bmp-called-png", file_writer(FILE, encode_image("BMP")), CONVERT, 0, r"000003.png is BMP", ("out.npz",), is_image),
    Case("comment-that-steers", file_writer(FILE, encode_with_comment()), CONVERT, 0, "4 images", ("out.npz",), is_image),
    Case("bytes-after-the-end", file_writer(FILE, GOOD_CONTENT + b"PK\x03\x04" + bytes(99)), CONVERT, 0, "4 images", ("out.npz",), is_image),
    Case("grey", file_writer(FILE, encode_image("PNG", "L")), CONVERT, 0, "4 images", ("out.npz",), is_image),
    Case("one-bit", file_writer(FILE, encode_image("PNG", "1")), CONVERT, 0, "4 images", ("out.npz",), is_image),
    Case("folder-beside", lambda room: Path(IMAGES, "more.png").mkdir(), CONVERT, 0, "ignored 1 folder next to the images", ("out.npz",)),
    Case("link-to-a-file", lambda room: os.symlink("000000.png", room.folder / FILE), CONVERT, 0, "4 images", ("out.npz",), is_image),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# in a run, as reference, in a judge's folder


RECORDED_TEXT = "run/images/000001.png"
SCORE = ("eval", "run", "--reference", "reference.npz")
RUNS = [
    Case(f"{verb}-{kind}", build, call, code, "000001.png|is unfinished: 4 requested, 1 missing")
    for kind, build in {
        "eps": file_writer(RECORDED_TEXT, EPS),
        "empty": file_writer(RECORDED_TEXT, b""),
        "another": file_writer(RECORDED_TEXT, GOOD_CONTENT),
        "bomb": file_writer(RECORDED_TEXT, png(60_000, 60_000)),
        "pipe": odd_file(RECORDED_TEXT, "pipe"),
        "device": odd_file(RECORDED_TEXT, "device"),
        "missing": odd_file(RECORDED_TEXT, "missing"),
    }.items()
    for verb, call, code in (
        ("verify", ("verify", "run", "--redraw", "0", "--reference", "reference.npz"), 3),
        ("convert", ("convert", "run", "out.npz", "--to", "adm"), 1),
    )
]

OTHERS_CASES = [
    Case("reference-eps", file_writer(FILE, EPS), ("reference", IMAGES, "r.npz", "--judge", "digits-net"), 1, "000003.png", (".r.npz.*",)),
    Case("reference-crop-bomb", file_writer(FILE, png(60_000, 60_000)), ("reference", IMAGES, "r.npz", "--judge", "digits-net", "--crop", "28"), 1, "000003.png", (".r.npz.*",)),
    Case("eval-eps", file_writer(FILE, EPS), ("eval", IMAGES, "--suite", "digits", "--reference", "reference.npz", "--out", "new"), 1, "000003.png", ("new*",)),
    Case("no-image", lambda room: Path("none").mkdir(), ("convert", "none", "out.npz", "--to", "adm"), 1, "none"),
    Case("text-alone", file_writer("none/readme.txt", b"x"), ("convert", "none", "out.npz", "--to", "adm"), 1, "none"),
    Case("dpg-tiles-bomb", file_writer(FILE, png(60_000, 60_000)), ("convert", IMAGES, "out", "--to", "png", "--suite", "dpg-bench", "--tiles", "4"), 1, "."),
    Case("into-itself", None, ("convert", IMAGES, IMAGES, "--to", "png"), 1, "."),
    Case("onto-a-file", file_writer("out.npz", b"mine"), CONVERT, 1, "out.npz exists and holds something else"),
    Case("onto-a-folder", lambda room: Path("out.npz").mkdir(), CONVERT, 1, "out.npz is not a file"),
    Case("onto-a-pipe", odd_file("out.npz", "pipe"), (*CONVERT, "--replace"), 1, "out.npz"),
    Case("onto-a-device", odd_file("out.npz", "device"), (*CONVERT, "--replace"), 1, "out.npz"),
    Case("png-onto-others", file_writer("out/mine.png", b"mine"), ("convert", IMAGES, "out", "--to", "png"), 1, "out"),
]  # fmt: skip


def cases(table: dict[str, bytes], words: str) -> list[Case]:
    return [
        Case(name, file_writer(FILE, data), CONVERT, 1, rf"000003\.png\) {words}")
        for name, data in table.items()
    ]


def damaged_cases() -> list[Case]:
    return [
        Case(name, file_writer(FILE, data), CONVERT, 1, words)
        for name, (data, words) in DAMAGED_FIELDS.items()
    ]


def no_program(room: Room) -> None:
    """Ghostscript and the like are started by a process; none may be."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    for name in ("subprocess.Popen", "os.system", "os.posix_spawn"):
        room.patch.setattr(name, refuse)


@table(*cases(FORMATS, "is not a readable image"), *damaged_cases())
def test_an_image_file_that_is_none_is_named(case: Case, room: Room) -> None:
    no_program(room)
    run_case(case, room)


@table(*ODD_CASES, *OTHERS_CASES)
def test_what_is_no_image_file_is_named(case: Case, room: Room) -> None:
    no_program(room)
    run_case(case, room)


@table(*RIGHT)
def test_an_odd_image_file_is_read_as_what_it_is(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*RUNS)
def test_an_image_of_a_run_that_changed_is_named(case: Case, room: Room) -> None:
    no_program(room)
    run_case(case, room)


Builder = Callable[[Room], Any]
