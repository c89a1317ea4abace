"""Code that all runners share: a judge in another environment that communicates by files alone.

A runner is executed by a Python that does not have harope-bench, so it needs only the standard
library and Pillow, Python 3.8 or later. Its folder holds `queries.jsonl` with one JSON object per
line: `key`, `index`, `role`, `image` (an absolute path, or one relative to the folder), `sha256` of
the image file, and `query`. The runner writes `judge.json`, the record of the judge, and appends
lines to `annotations.jsonl` with `key`, `index`, and `annotation` or `error`. Queries that have an
annotation are skipped, those that failed are tried again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Dict  # noqa: UP035 - read by Python 3.8

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

QUERIES = "queries.jsonl"
ANNOTATIONS = "annotations.jsonl"
JUDGE = "judge.json"
# of judge.json and of the files beside it; a test holds it equal to harope_bench.core.formats
FORMAT = 1
# failures without any annotation after which the judge is at fault, and not the image
MAX_FAILURES = 5
REPORT_SECONDS = 10.0  # between two lines of progress
CHUNK_BYTES = 1 << 20
LINES_BYTES = 1 << 30  # largest file of lines, as in harope_bench.core.regular_file
# As in harope_bench.data.image_io, which states the reasons; a test holds them equal.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MAX_PIXELS = 2**26

Json = Dict[str, Any]  # noqa: UP006 - a JSON object whose values depend on the role
# role, image file and query to the annotation of that role
Annotate = Callable[[str, Path, Json], Json]


def stop(message: str) -> None:
    """Print one line to stderr, which the caller shows to the user, and exit with code 1."""
    line = " ".join(message.split())
    sys.stderr.write("".join(c if c.isprintable() else " " for c in line) + "\n")
    raise SystemExit(1)


def parse_arguments(
    runner_options: Mapping[str, str] | None = None, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Return the parsed options --folder, --weights, --device and those of the runner.

    Args:
        runner_options: help text by name; their values are text or None.
    """
    parser = argparse.ArgumentParser(description="Annotate the images that a folder queries.")
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="folder with queries.jsonl; annotations.jsonl is written there",
    )
    parser.add_argument("--weights", type=Path, help="file or folder of the network's weights")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or another device that the network supports"
    )
    for name, help_text in (runner_options or {}).items():
        parser.add_argument("--" + name, help=help_text)
    _remove_own_folder_from_path()
    return parser.parse_args(argv)


def _remove_own_folder_from_path() -> None:
    """Remove this folder from sys.path, so that mplug.py is not imported in place of a package."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]


def file_sha256(path: Path, names: Sequence[str] = ()) -> str:
    """Return the hex sha256 of a file, or of the names and hashes of these files of a folder."""
    if names:
        lines = [f"{name} {file_sha256(path / name)}" for name in names]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def judge_class_of(sha256: str, published_sha256: str | None) -> tuple[str, str]:
    """Return the judge class of weights with this sha256, and its reason in words.

    It is official for weights of the published hash, which the user states, and else a substitute.

    Raises:
        SystemExit: 1 with one line, where the weights have another hash than the user states.
    """
    if published_sha256 is None:
        return (
            "substitute",
            "a substitute: no --judge-option sha256=HEX says that these weights are the published"
            " ones",
        )
    if published_sha256.lower() != sha256:
        stop(
            f"the weights have sha256 {sha256}, wanted {published_sha256}; download the file again"
        )
    return "official", "weights of the sha256 that the user names as the published one"


def load_image(path: Path) -> PilImage:
    """Return the image of a file as Pillow's RGB image.

    Raises:
        OSError: The file cannot be read as an image.
        ValueError: It is no regular file, or it has too many pixels.
    """
    from PIL import Image

    with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{path} is {image.width}x{image.height}, at most {MAX_PIXELS} pixels are read"
            )
        return image.convert("RGB")


def open_regular(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open a regular file.

    The type of the open file is checked, so that no other file can replace it in between.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is a pipe, a device or a socket, which would block or has no end.
    """
    nonblock = getattr(os, "O_NONBLOCK", 0)  # Windows does not have it
    binary = getattr(os, "O_BINARY", 0)  # only Windows has it
    handle = os.open(str(path), flags | nonblock | binary)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is no regular file")
    return os.fdopen(handle, "rb" if flags == os.O_RDONLY else "r+b")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file of lines.

    Raises:
        SystemExit: 1 with one line, where it is missing, no regular file or too large.
    """
    try:
        with open_regular(path) as file:
            data = bytes(file.read(LINES_BYTES + 1))
    except (OSError, ValueError) as error:
        stop(f"{path} cannot be read ({error}); let `harope-bench eval` write it")
    if len(data) > LINES_BYTES:
        stop(f"{path} has more than {LINES_BYTES} bytes; let `harope-bench eval` write it")
    return data


def package_versions(*packages: str) -> str:
    """Return the versions of Python and of these packages, for the record of the judge."""
    from importlib import metadata

    versions = ["python {}.{}.{}".format(*sys.version_info[:3])]
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    return ", ".join(versions)


class Progress:
    """Counts of annotated and failed queries, reported to stderr."""

    def __init__(self, name: str, n_queries: int, n_annotated: int):
        self.name = name
        self.n_queries = n_queries
        self.n_annotated = n_annotated  # earlier ones included
        self.n_failed = 0
        self.start_time = time.monotonic()
        self.report_time = self.start_time

    def count(self, line: Json) -> None:
        """Count a line of annotations.jsonl; stop where the judge fails from the start on."""
        self.n_failed += "error" in line
        self.n_annotated += "annotation" in line
        if self.n_failed == MAX_FAILURES and not self.n_annotated:
            stop(
                f"{self.name} failed on each of its first {MAX_FAILURES} images ({line['error']});"
                " fix the cause and run again"
            )

    def report(self, number: int) -> None:
        """Print a line after `number` queries if REPORT_SECONDS have passed or all are done."""
        seconds = time.monotonic()
        if seconds - self.report_time <= REPORT_SECONDS and number != self.n_queries:
            return
        self.report_time = seconds
        sys.stderr.write(
            f"{self.name}: {number} of {self.n_queries} images, {self.n_failed} failed,"
            f" {(seconds - self.start_time) / number:.2f} s each\n"
        )
        sys.stderr.flush()


def annotate_queries(
    args: argparse.Namespace,
    name: str,
    version: int,
    judge_class: str,
    preprocessing: str,
    weights_sha256: str,
    annotate: Annotate,
) -> None:
    """Annotate every query of args.folder that has no annotation yet.

    Args:
        name, version, judge_class, preprocessing, weights_sha256: record of the judge.
        annotate: returns the annotation for role, image file and query, as JSON values. What it
            raises becomes the query's error.

    Raises:
        SystemExit: 1 with one line, where files cannot be read, the folder has annotations of
            another judge, or the judge fails from the start on.
    """
    folder = args.folder
    record = {
        "name": name,
        "version": version,
        "judge_class": judge_class,
        "preprocessing": preprocessing,
        "weights_sha256": weights_sha256,
    }
    _record_judge(folder, record)
    lines = list(read_lines(folder / QUERIES))
    annotated_keys = _annotated_keys(folder / ANNOTATIONS)
    open_lines = [line for line in lines if line["key"] not in annotated_keys]

    progress = Progress(name, len(open_lines), len(annotated_keys))
    with (folder / ANNOTATIONS).open("ab") as file:
        for number, query_line in enumerate(open_lines, 1):
            line = _annotate_line(query_line, folder, annotate)
            _append_line(file, line)
            progress.count(line)
            progress.report(number)


def _annotate_line(query_line: Json, folder: Path, annotate: Annotate) -> Json:
    """Return the line of annotations.jsonl for a line of queries.jsonl."""
    line = {"key": query_line["key"], "index": query_line.get("index")}
    path = folder / query_line["image"]  # an absolute path stays as it is
    try:
        if file_sha256(path) != query_line["sha256"]:
            return dict(line, error=f"{path} is not the image that was queried; run eval again")
        annotation = annotate(query_line["role"], path, query_line["query"])
        json.dumps(annotation, allow_nan=False)  # raises ValueError for NaN
        return dict(line, annotation=annotation)
    except Exception as error:  # noqa: BLE001 - networks of others raise any error; the line states it
        message = (str(error).splitlines() or ["no message"])[0]
        return dict(line, error=f"{type(error).__name__}: {message}")


def _append_line(file: IO[bytes], line: Json) -> None:
    """Append a line to a file and write it to disk."""
    file.write((json.dumps(line, sort_keys=True, allow_nan=False) + "\n").encode())
    file.flush()
    os.fsync(file.fileno())


def _record_judge(folder: Path, record: Json) -> None:
    """Write judge.json; stop where the folder has that of another judge."""
    if not re.match(r"[0-9a-f]{64}$", record["weights_sha256"]):
        stop(
            "weights_sha256 is {!r}, wanted 64 hex digits; correct the runner".format(
                record["weights_sha256"]
            )
        )
    path = folder / JUDGE
    if path.is_file():
        (recorded_judge,) = read_lines(path, is_single_object=True)
        _check_same_judge(folder, recorded_judge, record)
        return
    # each process writes a file of its own and renames it
    part = folder / f"{JUDGE}.{os.getpid()}.part"
    part.write_text(
        json.dumps(dict(record, format=FORMAT), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    os.replace(str(part), str(path))


def _check_same_judge(folder: Path, recorded_judge: Json, record: Json) -> None:
    """Stop where judge.json is of another format version, or of another judge than `record`."""
    if recorded_judge.get("format") != FORMAT:
        version = str(recorded_judge.get("format"))[:40]
        stop(
            f"{folder / JUDGE} is not of this version: wanted format {FORMAT}, found {version};"
            " made by another version of harope-bench: delete its folder"
        )
    for field in sorted(record):
        if recorded_judge.get(field) != record[field]:
            recorded_value = str(recorded_judge.get(field))[:40]
            value = str(record[field])[:40]
            stop(
                f"{folder} has annotations of another judge: {field} is {recorded_value} there and"
                f" {value} now; delete it or use another folder"
            )


def read_lines(path: Path, is_single_object: bool = False) -> Iterator[Json]:
    """Yield the objects of a file of lines, each with a `key`, or the only object of a file.

    Raises:
        SystemExit: 1 with one line, where the file is missing or a line is not such an object.
    """
    if not path.is_file():
        stop(f"{path} is missing; let `harope-bench eval` write it")
    data = read_bytes(path)
    texts = [data] if is_single_object else data.split(b"\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        value = _parse_json(text)
        if not isinstance(value, dict):
            stop(f"{path} line {number} is not a JSON object; delete the line and run again")
        if not is_single_object and not isinstance(value.get("key"), str):
            stop(f"{path} line {number} has no `key` with a text; delete the line and run again")
        yield value


def _parse_json(text: bytes) -> Any:  # the type depends on the text
    """Return the JSON value of a text, None where it is not JSON."""
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None


def _annotated_keys(path: Path) -> set[str]:
    """Return the keys of the queries that have an annotation.

    A last line that was cut short by a kill is removed first, so that the next line does not
    continue it.
    """
    if not path.is_file():
        return set()
    data = read_bytes(path)
    if data and not data.endswith(b"\n"):
        with open_regular(path, os.O_RDWR) as file:
            file.truncate(data.rfind(b"\n") + 1)
    return {line["key"] for line in read_lines(path) if "annotation" in line}
