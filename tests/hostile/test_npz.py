"""Arrays that hold objects, lie in their headers, unpack to gigabytes or are no statistics."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile.room import (
    RUN,
    SIDE,
    Case,
    Outcome,
    Payload,
    Room,
    odd_file,
    run_builders,
    run_case,
    table,
)

from harope_bench.core import array_file
from harope_bench.core.array_file import arrays_with_format
from harope_bench.data import adm_npz

IMAGES = np.zeros((4, SIDE, SIDE, 3), np.uint8)
TO_PNG = ("convert", "x.npz", "out", "--to", "png")
AGAINST = ("eval", RUN, "--reference", "x.npz", "--rescore")


def save_arrays(**arrays: Any) -> Callable[[Room], None]:
    """Write x.npz with these arrays."""
    return lambda room: np.savez(room.folder / "x.npz", **arrays)


def npy(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def npy_bytes(text: str, body: bytes = b"", version: int = 1) -> bytes:
    """A .npy of this header text."""
    data = (text + "\n").encode()
    size = struct.pack("<H" if version == 1 else "<I", len(data))
    return b"\x93NUMPY" + bytes([version, 0]) + size + data + body


def header(
    shape: str = f"(4, {SIDE}, {SIDE}, 3)", descr: str = "'|u1'", order: str = "False"
) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def members(*pairs: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", kind) as archive:
        for name, data in pairs:
            archive.writestr(name, data)
    return buffer.getvalue()


def zip_writer(
    *pairs: tuple[str, bytes],
    kind: int = zipfile.ZIP_DEFLATED,
    change: Callable[[bytearray], Any] | None = None,
) -> Any:
    """Write x.npz with these members, its bytes changed afterwards."""

    def build(room: Room) -> None:
        data = bytearray(members(*pairs, kind=kind))
        if change is not None:
            change(data)
        (room.folder / "x.npz").write_bytes(data)

    return build


def objects(room: Room) -> None:
    """Write x.npz whose images are a pickle that makes the canary."""
    array = np.array([Payload(room.canary)], dtype=object)
    np.savez(room.folder / "x.npz", arr_0=array, mu=array, sigma=array)


def twice(room: Room) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zip_writer(("arr_0.npy", npy(IMAGES)), ("arr_0.npy", npy(IMAGES + 1)))(room)


def encrypt(data: bytearray) -> None:
    """Set the flag of an encrypted member in both of its headers."""
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1


def claim_size(data: bytearray) -> None:
    """Let the directory state 4 GB less one byte."""
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = b"\xff\xff\xff\xfe"


def bound(module: Any, name: str, value: int) -> Callable[[Room], None]:
    """Lower a bound, so that a small file is beyond it."""
    return lambda room: room.patch.setattr(module, name, value)


def zero_filled_npy(size: int, shape: str, descr: str = "'|u1'") -> bytes:
    return npy_bytes(header(shape, descr), bytes(size))


ARR = "arr_0.npy"
BODY = npy(IMAGES)

SAMPLES = [
    Case("objects", objects, TO_PNG, 1, "x.npz"),
    Case("objects-stated", zip_writer((ARR, npy_bytes(header(descr="'|O'"), b"cposix\nsystem\n"))), TO_PNG, 1, "Python objects"),
    Case("no-zip", lambda room: (room.folder / "x.npz").write_bytes(b"hello"), TO_PNG, 1, "not a readable npz"),
    Case("empty", lambda room: (room.folder / "x.npz").write_bytes(b""), TO_PNG, 1, "not a readable npz"),
    Case("single-array", lambda room: (room.folder / "x.npz").write_bytes(BODY), TO_PNG, 1, "not a readable npz"),
    Case("zip-of-nothing", zip_writer(), TO_PNG, 1, "has no arr_0"),
    Case("cut", lambda room: (room.folder / "x.npz").write_bytes(members((ARR, BODY))[:-30]), TO_PNG, 1, "not a readable npz"),
    Case("more-than-there-is", zip_writer((ARR, npy_bytes(header("(9, 28, 28, 3)"), IMAGES.tobytes()))), TO_PNG, 1, "claims"),
    Case("less-than-there-is", zip_writer((ARR, npy_bytes(header("(1, 28, 28, 3)"), IMAGES.tobytes()))), TO_PNG, 1, "claims"),
    Case("far-more", zip_writer((ARR, npy_bytes(header("(9999999999, 28, 28, 3)")))), TO_PNG, 1, "claims"),
    Case("more-than-2-63", zip_writer((ARR, npy_bytes(header("(4294967296, 4294967296, 4294967296, 3)")))), TO_PNG, 1, "claims"),
    Case("negative-shape", zip_writer((ARR, npy_bytes(header("(-4, 28, 28, 3)")))), TO_PNG, 1, "not a readable npz"),
    Case("shape-of-floats", zip_writer((ARR, npy_bytes(header("(4.0, 28, 28, 3)")))), TO_PNG, 1, "not a readable npz"),
    Case("header-runs-code", zip_writer((ARR, npy_bytes(header(descr="__import__('os').system('touch canary')")))), TO_PNG, 1, "not a readable npz"),
    Case("header-nested", zip_writer((ARR, npy_bytes("(" * 20_000))), TO_PNG, 1, "not a readable npz"),
    Case("header-of-megabytes", zip_writer((ARR, npy_bytes(header() + " " * (1 << 22), version=2))), TO_PNG, 1, "not a readable npz"),
    Case("header-of-version-9", zip_writer((ARR, b"\x93NUMPY\x09\x00" + BODY[8:])), TO_PNG, 1, "not a readable npz"),
    Case("no-numpy", zip_writer((ARR, b"hello")), TO_PNG, 1, "not a readable npz"),
    Case("member-of-nothing", zip_writer((ARR, b"")), TO_PNG, 1, "not a readable npz"),
    Case("twice", twice, TO_PNG, 1, "holds arr_0 twice"),
    Case("twice-by-suffix", zip_writer((ARR, BODY), ("arr_0", BODY)), TO_PNG, 1, "holds arr_0 twice"),
    Case("encrypted", zip_writer((ARR, BODY), change=encrypt), TO_PNG, 1, "encrypted"),
    Case("lying-directory", zip_writer((ARR, BODY), change=claim_size), TO_PNG, 1, "x.npz"),
    Case("bzip2", zip_writer((ARR, BODY), kind=zipfile.ZIP_BZIP2), TO_PNG, 1, "compression 12"),
    Case("lzma", zip_writer((ARR, BODY), kind=zipfile.ZIP_LZMA), TO_PNG, 1, "compression 14"),
    Case("floats", save_arrays(arr_0=IMAGES.astype(np.float32)), TO_PNG, 1, "is float32"),
    Case("signed", save_arrays(arr_0=IMAGES.astype(np.int8)), TO_PNG, 1, "is int8"),
    Case("three-axes", save_arrays(arr_0=IMAGES[0]), TO_PNG, 1, "wanted uint8"),
    Case("four-channels", save_arrays(arr_0=np.zeros((2, 8, 8, 4), np.uint8)), TO_PNG, 1, "wanted uint8"),
    Case("channels-first", save_arrays(arr_0=np.zeros((2, 3, 8, 8), np.uint8)), TO_PNG, 1, "wanted uint8"),
    Case("no-images", save_arrays(arr_0=IMAGES[:0]), TO_PNG, 1, "holds no images"),
    Case("images-of-nothing", save_arrays(arr_0=np.zeros((2, 0, 0, 3), np.uint8)), TO_PNG, 1, "holds no images"),
    Case("too-many-pixels", run_builders(bound(adm_npz, "MAX_PIXELS", 700), zip_writer((ARR, BODY))), TO_PNG, 1, "at most 700 pixels"),
    Case("other-names", save_arrays(images=IMAGES), TO_PNG, 1, "has no arr_0"),
    Case("names-that-steer", zip_writer(("\x1b[2J\u202e.npy", BODY)), TO_PNG, 1, "has no arr_0"),
    Case("names-that-are-many", zip_writer(*((f"member-{n}.npy", b"") for n in range(2000))), TO_PNG, 1, "has no arr_0"),
    Case("statistics-among-samples", save_arrays(arr_0=IMAGES, mu=np.zeros(2)), TO_PNG, 1, "contains mu"),
    Case("pipe", odd_file("x.npz", "pipe"), TO_PNG, 1, "x.npz"),
    Case("device", odd_file("x.npz", "device"), TO_PNG, 1, "x.npz"),
    Case("sparse", odd_file("x.npz", "sparse"), TO_PNG, 1, "x.npz"),
    Case("labels-of-another-length", save_arrays(arr_0=IMAGES, arr_1=np.arange(9)), TO_PNG, 1, "arr_1"),
    Case("labels-of-text", save_arrays(arr_0=IMAGES, arr_1=np.array(list("abcd"))), TO_PNG, 1, "arr_1"),
    Case("labels-not-finite", save_arrays(arr_0=IMAGES, arr_1=np.full(4, np.nan)), TO_PNG, 1, "arr_1"),
    Case("labels-of-halves", save_arrays(arr_0=IMAGES, arr_1=np.full(4, 0.5)), TO_PNG, 1, "arr_1"),
]  # fmt: skip


def four(room: Room, outcome: Outcome) -> None:
    assert len(list((room.folder / "out").glob("*.png"))) == 4


RIGHT = [
    Case("members-outside", zip_writer((ARR, BODY), ("../../canary", b"x"), ("/tmp/canary.npy", BODY)), TO_PNG, 0, "4 images", ("out*",), four),
    Case("fortran", save_arrays(arr_0=np.asfortranarray(IMAGES)), TO_PNG, 0, "4 images", ("out*",), four),
    Case("unpacked", zip_writer((ARR, BODY), kind=zipfile.ZIP_STORED), TO_PNG, 0, "4 images", ("out*",), four),
    Case("objects-beside", lambda room: np.savez(room.folder / "x.npz", arr_0=IMAGES, other=np.array([Payload(room.canary)], object)), TO_PNG, 0, "4 images", ("out*",), four),
    Case("behind-a-prefix", lambda room: (room.folder / "x.npz").write_bytes(b"#!/bin/sh\ntouch canary\n" + members((ARR, BODY))), TO_PNG, 0, "4 images", ("out*",), four),
]  # fmt: skip

MU, SIGMA = np.zeros(64), np.eye(64)
FORMAT = arrays_with_format("reference", {})  # of a file that says who looked


def changed_sigma(row: int, column: int, value: float) -> np.ndarray:
    sigma = SIGMA.copy()
    sigma[row, column] = value
    return sigma


REFERENCES = [
    Case("reference-objects", objects, AGAINST, 1, "x.npz"),
    Case("reference-empty", zip_writer(), AGAINST, 1, "x.npz"),
    Case("reference-no-zip", lambda room: (room.folder / "x.npz").write_bytes(b"hello"), AGAINST, 1, "x.npz"),
    Case("reference-pipe", odd_file("x.npz", "pipe"), AGAINST, 1, "x.npz"),
    Case("reference-missing", None, AGAINST, 1, "x.npz does not exist"),
    Case("mean-alone", save_arrays(mu=MU), AGAINST, 1, "wanted mu and sigma"),
    Case("covariance-alone", save_arrays(sigma=SIGMA), AGAINST, 1, "wanted mu and sigma"),
    Case("mean-not-finite", save_arrays(mu=MU * np.nan, sigma=SIGMA), AGAINST, 1, "finite"),
    Case("mean-complex", save_arrays(mu=MU * 1j, sigma=SIGMA), AGAINST, 1, "complex"),
    Case("mean-of-text", save_arrays(mu=np.array(["a"] * 64), sigma=SIGMA), AGAINST, 1, "mu and sigma"),
    Case("mean-of-another-width", save_arrays(mu=np.zeros(80), sigma=np.eye(80)), AGAINST, 1, "has width 80"),
    Case("widths-that-differ", save_arrays(mu=MU, sigma=np.eye(63)), AGAINST, 1, "mu and sigma"),
    Case("covariance-asymmetric", save_arrays(mu=MU, sigma=changed_sigma(0, 1, 0.5)), AGAINST, 1, r"entries \(i, j\) and \(j, i\) differ"),
    Case("covariance-negative", save_arrays(mu=MU, sigma=-SIGMA), AGAINST, 1, "mu and sigma"),
    Case("covariance-huge", save_arrays(mu=MU, sigma=SIGMA * 1e300), AGAINST, 1, "mu and sigma"),
    Case("covariance-not-finite", save_arrays(mu=MU, sigma=changed_sigma(3, 3, np.inf)), AGAINST, 1, "finite"),
    Case("covariance-of-nothing", save_arrays(mu=np.zeros(0), sigma=np.zeros((0, 0))), AGAINST, 1, "mu"),
    Case("features-not-finite", save_arrays(mu=MU, sigma=SIGMA, features=np.full((9, 64), np.nan, np.float32)), AGAINST, 1, "not finite"),
    Case("features-of-no-image", save_arrays(mu=MU, sigma=SIGMA, features=np.zeros((0, 64), np.float32)), AGAINST, 1, "of no image"),
    Case("features-of-text", save_arrays(mu=MU, sigma=SIGMA, features=np.array([["a"] * 64])), AGAINST, 1, "features of reference"),
    Case("judge-another", save_arrays(**FORMAT, mu=MU, sigma=SIGMA, judge=np.array("inception-2015")), AGAINST, 1, "was made by inception-2015"),
    Case("judge-that-steers", save_arrays(**FORMAT, mu=MU, sigma=SIGMA, judge=np.array("\x1b[2J\u202e" + "x" * 99)), AGAINST, 1, "was made by"),
    Case("judge-a-pickle", lambda room: np.savez(room.folder / "x.npz", mu=MU, sigma=SIGMA, judge=np.array([Payload(room.canary)], object)), AGAINST, 1, "judge cannot be read"),
    Case("reference-bomb", run_builders(bound(array_file, "SMALL_ARCHIVE_BYTES", 1 << 20), zip_writer(("mu.npy", npy(MU)), ("sigma.npy", zero_filled_npy(3_000_000, "(3000000,)")))), AGAINST, 1, "unpack to"),
]  # fmt: skip


@table(*SAMPLES)
def test_an_npz_that_lies_is_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*RIGHT)
def test_an_odd_npz_is_read_as_what_it_is(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*REFERENCES)
def test_a_reference_that_is_none_is_named(case: Case, room: Room) -> None:
    run_case(case, room)
