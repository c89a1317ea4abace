"""Documents with one thing wrong: the mutations that fuzz tests draw.

Random text dies at the first check of a parser. So a valid document is taken, and one field, line,
cell, array or byte of it is
changed for a value that a careless reader does not expect.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import tomli_w
from hypothesis import strategies as st

DEEP_COUNT = 300  # levels of nesting that the writers here still write
LONG_DIGITS = "9" * 5000  # more digits than int() takes of a text
# Texts that steer a terminal, choose a path, look like another type or are longer than anybody
# thought.
ODD_TEXTS = (
    "", " ", "\x1b[31mred\x1b[0m", "two\nlines", "a\rb\tc", "\x00", "\x7f", "\u202eleft", "\ufeff", "../../../etc/passwd", "/etc/passwd",
    "a/b", "..", "=1+1", "@SUM(A1)", "<script>", "NaN", "inf", "-1", "0", "1e999", "1_000", LONG_DIGITS, "²", "١٢", "x" * 3000, "{}",
    "[]", "null", "true", "%s%n", "{0}", "{", "%", "C:\\x", "file:" + "0" * 64, "0" * 64, "é", "😀",
)  # fmt: skip
ODD_NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    2**31,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
    1e16,
)
NOT_FINITE = (math.nan, math.inf, -math.inf)
ODD_KEYS = (
    "",
    "extra",
    "\x1b[31m\n",
    "__class__",
    "a.b",
    "k" * 300,
    "index",
    "file",
    "prompt",
    "\u202e",
    "²",
    "0",
)


def nest_value(levels: int, key: str | None = None) -> Any:
    """A list in a list in a list, or objects likewise."""
    value: Any = []
    for _ in range(levels):
        value = [value] if key is None else {key: value}
    return value


LONE_TEXT = "\ud800"  # half a character, which JSON can hold and no file
ODD_SHAPES = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"a": None},
    [1, "a", None],
    {"": {"": ""}},
    [[1.0, 2.0], [3.0]],
)
odd_texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=20))
odd_values = st.one_of(
    odd_texts,
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_SHAPES),
    st.sampled_from(NOT_FINITE),
    st.just(LONE_TEXT),
    st.sampled_from([nest_value(DEEP_COUNT), nest_value(DEEP_COUNT, "a")]),
    st.integers(-5, 5),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner_value: st.lists(inner_value, max_size=3),
        max_leaves=4,
    ),
)


def value_paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, its root too."""
    yield path
    inner_document = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in inner_document:
        yield from value_paths(value, (*path, key))


def value_at(document: Any, path: Sequence[Any]) -> Any:
    """The value at a path."""
    for key in path:
        document = document[key]
    return document


@st.composite
def changed_documents(
    draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = odd_values
) -> Any:
    """A document of plain values with one to three changes: a value replaced, dropped, repeated, or
    a key added.
    """
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        document = draw(_changed_once(document, values))
    return document


@st.composite
def _changed_once(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any]) -> Any:
    document = copy.deepcopy(document)
    path = draw(st.sampled_from(list(value_paths(document))))
    if not path:
        return (
            {**document, draw(st.sampled_from(ODD_KEYS)): draw(values)}
            if isinstance(document, dict)
            else draw(values)
        )
    parent, key = value_at(document, path[:-1]), path[-1]
    change = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add", "repeat"]))
    if change == "drop":
        del parent[key]
    elif change == "add" and isinstance(parent[key], dict):
        parent[key][draw(st.sampled_from(ODD_KEYS))] = draw(values)
    elif change == "repeat" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[key] = draw(values)
    return document


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which one is another, a piece is gone, repeated or new, or that end early."""
    folder = draw(st.integers(0, max(0, len(data) - 1)))
    size = draw(st.sampled_from([1, 1, 2, 4, 16, 64]))
    change = draw(st.sampled_from(["flip", "flip", "cut", "drop", "repeat", "insert"]))
    if change == "flip":
        return (
            data[:folder] + bytes([data[folder] ^ draw(st.integers(1, 255))]) + data[folder + 1 :]
            if data
            else b"\xff"
        )
    if change == "cut":
        return data[:folder]
    if change == "drop":
        return data[:folder] + data[folder + size :]
    if change == "repeat":
        return data[: folder + size] + data[folder:]
    odd_value = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([text.encode() for text in ODD_TEXTS if text]),
    )
    return data[:folder] + draw(odd_value) + data[folder:]


# ------------------------------------------------------------------------------------------ files
# by their form


def json_bytes(document: Any) -> bytes:
    """A document as a foreign program writes it: NaN and half characters go through."""
    return json.dumps(document).encode()


def changed_json(data: bytes) -> st.SearchStrategy[bytes]:
    return changed_documents(json.loads(data)).map(json_bytes)


@st.composite
def changed_lines(draw: st.DrawFn, data: bytes) -> bytes:
    """JSON lines of which one is another document, or stands twice, elsewhere or not at all."""
    lines = [line for line in data.split(b"\n") if line]
    folder = draw(st.integers(0, len(lines) - 1))
    change = draw(
        st.sampled_from(["document", "document", "document", "document", "drop", "repeat", "last"])
    )
    if change == "document":
        lines[folder] = json_bytes(draw(changed_documents(json.loads(lines[folder]))))
    elif change == "drop":
        del lines[folder]
    elif change == "repeat":
        lines.insert(folder, lines[-1])
    else:
        lines.append(lines.pop(folder))
    return b"".join(line + b"\n" for line in lines)


toml_values = st.one_of(
    odd_texts.filter(lambda text: LONE_TEXT not in text),
    st.sampled_from(
        [number for number in ODD_NUMBERS if abs(number) < 2**80 or isinstance(number, float)]
    ),
    st.sampled_from([True, False, [], {}, [[]], [1, "a"], {"": {"": ""}}, [{"a": 1}]]),
    st.sampled_from(NOT_FINITE),
    st.sampled_from([nest_value(60), nest_value(60, "a")]),
    st.dates(),
    st.times(),
)


def changed_toml(data: bytes) -> st.SearchStrategy[bytes]:
    import tomllib

    return changed_documents(tomllib.loads(data.decode()), toml_values).map(_toml)


def _toml(document: Any) -> bytes:
    return tomli_w.dumps(document if isinstance(document, dict) else {"value": document}).encode()


@st.composite
def changed_text(draw: st.DrawFn, data: bytes) -> bytes:
    """Text of which one line, or one number, word or sign of it, is another; in another encoding
    now and then.
    """
    lines = data.decode().split("\n")
    folder = draw(st.integers(0, len(lines) - 1))
    line = lines[folder]
    change = draw(st.sampled_from(["line", "word", "word", "word", "drop", "repeat"]))
    if change == "line":
        lines[folder] = draw(odd_texts)
    elif change == "drop":
        del lines[folder]
    elif change == "repeat":
        lines.insert(folder, line)
    else:
        words = line.replace(",", " , ").replace("|", " | ").split(" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(odd_texts)
        lines[folder] = " ".join(words).replace(" , ", ",").replace(" | ", "|")
    encoding = draw(
        st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
    )
    return "\n".join(lines).encode(encoding, "replace")


@st.composite
def changed_table(draw: st.DrawFn, data: bytes, separator: str = ",") -> bytes:
    """A csv of which one cell, row or column is another."""
    rows = list(csv.reader(io.StringIO(data.decode()), delimiter=separator))
    row = rows[draw(st.integers(0, len(rows) - 1))]
    change = draw(st.sampled_from(["cell", "cell", "cell", "short", "long", "repeat"]))
    if change == "cell":
        row[draw(st.integers(0, len(row) - 1))] = draw(odd_texts)
    elif change == "short":
        row.pop()
    elif change == "long":
        row.append(draw(odd_texts))
    else:
        rows.append(row)
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


# ------------------------------------------------------------------------------------------ arrays
# and weights


def npz_bytes(arrays: dict[str, np.ndarray], kind: int = zipfile.ZIP_STORED) -> bytes:
    """An npz of these arrays, objects among them too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array))
            archive.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()


ODD_ARRAYS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda a: np.array(3.0),
    lambda a: np.zeros((0,)),
    lambda a: a[:0] if a.ndim else a,
    lambda a: np.concatenate([a, a]) if a.ndim else a,
    lambda a: a[..., None],
    lambda a: a.astype(np.complex128) if a.dtype.kind in "iuf" else a,
    lambda a: a.astype(object),
    lambda a: a.astype(np.float16) if a.dtype.kind in "iuf" else a,
    lambda a: a.astype(">f8") if a.dtype.kind in "iuf" else a,
    lambda a: np.full(a.shape, np.nan),
    lambda a: np.full(a.shape, np.inf),
    lambda a: np.full(a.shape, -1.0),
    lambda a: np.full(a.shape, 1e300),
    lambda a: np.full(a.shape, -1, dtype=np.int64),
    lambda a: np.full(a.shape, 2**62, dtype=np.int64),
    lambda a: np.full(a.shape, "\x1b[31m\ntext"),
    lambda a: np.full(a.shape, b"bytes"),
    lambda a: np.full(a.shape, True),
    lambda a: np.zeros(a.shape, dtype="datetime64[s]"),
    lambda a: np.zeros(a.shape, dtype=[("x", "<f8"), ("y", "<i4")]),
    lambda a: np.asfortranarray(a),
)


@st.composite
def changed_npz(draw: st.DrawFn, data: bytes) -> bytes:
    """An npz of which one array is another, has another name or is gone, or one byte is another."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(data))
    with np.load(io.BytesIO(data)) as values:
        arrays = dict(values)
    name = draw(st.sampled_from(sorted(arrays)))
    change = draw(st.sampled_from(["array", "array", "array", "drop", "rename"]))
    if change == "array":
        arrays[name] = draw(st.sampled_from(ODD_ARRAYS))(arrays[name])
    else:
        value = arrays.pop(name)
        if change == "rename":
            arrays[draw(st.sampled_from(["x", "../x", "\x1b[31m", "", "a/b"]))] = value
    return npz_bytes(
        arrays, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    )


@st.composite
def changed_safetensors(draw: st.DrawFn, data: bytes) -> bytes:
    """Weights of which the header says something else, or one byte is another."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(data))
    (size,) = struct.unpack("<Q", data[:8])
    header = json_bytes(draw(changed_documents(json.loads(data[8 : 8 + size]))))
    length = draw(st.sampled_from([len(header)] * 5 + [0, 1, len(header) + 1, 2**40, 2**63]))
    return struct.pack("<Q", length) + header + data[8 + size :]


@st.composite
def changed_zip(draw: st.DrawFn, data: bytes) -> bytes:
    """A zip whose JSON members say something else, or of which one byte is another."""
    if draw(st.integers(0, 2)) == 0:
        return draw(changed_bytes(data))
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old_zip_file,
        zipfile.ZipFile(buffer, "w") as new_zip_file,
    ):
        for name in old_zip_file.namelist():
            new_zip_file.writestr(name, draw(changed_json(old_zip_file.read(name))))
    return buffer.getvalue()


FORMS: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    ".json": lambda data: st.one_of(changed_json(data), changed_json(data), changed_bytes(data)),
    ".jsonl": lambda data: st.one_of(changed_lines(data), changed_lines(data), changed_bytes(data)),
    ".toml": lambda data: st.one_of(changed_toml(data), changed_toml(data), changed_bytes(data)),
    ".csv": lambda data: st.one_of(changed_table(data), changed_text(data), changed_bytes(data)),
    ".tsv": lambda data: st.one_of(changed_table(data, "\t"), changed_bytes(data)),
    ".txt": lambda data: st.one_of(changed_text(data), changed_text(data), changed_bytes(data)),
    ".npz": changed_npz,
    ".safetensors": changed_safetensors,
    ".zip": changed_zip,
}
TEXT_NAMES = ("SHA256SUMS",)


def changed_file(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes of a file of that name with one thing wrong, by the form that its name says."""
    if name.endswith(".plain.json"):  # a document whose root may be anything
        return FORMS[".json"](data)
    form = FORMS.get(
        PurePath(name).suffix, changed_text if PurePath(name).name in TEXT_NAMES else changed_bytes
    )
    return form(data)
