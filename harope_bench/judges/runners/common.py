"""What every runner shares: a judge that answers from another environment, by files alone.

A runner is executed by a Python that does not have harope-bench, so it needs the standard library
and Pillow alone, version 3.8 or later.
In its folder it finds `asks.jsonl`, one line of JSON a question: `key`, `index`, `role`, `image`
(absolute, or beside the file), `sha256`
of that image file, `ask`. It writes `judge.json` (who answers) and adds to `answers.jsonl` lines of
`key`, `index` and `answer` or `error`.
Questions that have an answer are not asked again, those that failed are.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    IO,
    TYPE_CHECKING,
    Any,
    Dict,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

QUERIES = "asks.jsonl"
ANNOTATIONS = "answers.jsonl"
JUDGE = "judge.json"
# of judge.json and of the files beside it; equal to harope_bench.core.formats, which a test holds
FORMAT = 1
# failures from the start on, without an answer, after which the judge is at fault and not the image
MAX_FAILURES = 5
REPORT_SECONDS = 10.0  # seconds between two lines of progress
CHUNK_BYTES = 1 << 20
LINES_BYTES = 1 << 30  # of a file of lines, as harope_bench.core.regular_file has it
# Equal to harope_bench.data.image_io, whose reasons are told there; a test holds them equal.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MAX_PIXELS = 2**26

Json = Dict[str, Any]  # noqa: UP006 - an object of a line of JSON, whose values each role reads for itself
Annotate = Callable[[str, Path, Json], Json]


def stop(message: str) -> None:
    """Ends the runner with one line; its caller repeats it."""
    sys.stderr.write(
        "".join(c if c.isprintable() else " " for c in " ".join(message.split())) + "\n"
    )
    raise SystemExit(1)


def parse_arguments(
    extra: Mapping[str, str] | None = None, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """The options of a runner: --folder, --weights, --device, and those of `extra` (name to help),
    which are text or None.
    """
    parser = argparse.ArgumentParser(description="Answers the questions of a folder.")
    parser.add_argument(
        "--folder", type=Path, required=True, help="holds asks.jsonl; answers are written beside it"
    )
    parser.add_argument("--weights", type=Path, help="file or folder of the network's weights")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or another that the network takes"
    )
    for name, text in (extra or {}).items():
        parser.add_argument("--" + name, help=text)
    here = os.path.dirname(
        os.path.abspath(__file__)
    )  # a runner's name must not stand for the package that it runs
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    return parser.parse_args(argv)


def file_sha256(path: Path, names: Sequence[str] = ()) -> str:
    """Hex sha256 of a file, or of these files of a folder: of their names and hashes, in the order
    given.
    """
    if names:
        told = [f"{name} {file_sha256(path / name)}" for name in names]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()
    total = hashlib.sha256()
    with open_regular(path) as file:
        for piece in iter(lambda: file.read(CHUNK_BYTES), b""):
            total.update(piece)
    return total.hexdigest()


def judge_class_of(found: str, told: str | None) -> tuple[str, str]:
    """Judge class and the reason in words: official for weights of the published hash, which the
    user names; else a substitute.

    Raises:
        SystemExit: 1 with one line, where the weights have another hash than the user named.
    """
    if told is None:
        return (
            "substitute",
            (
                "a substitute: no --judge-option sha256=HEX says that these weights are the"
                " published ones"
            ),
        )
    if told.lower() != found:
        stop(f"the weights have sha256 {found}, wanted is {told}; bring the file again")
    return "official", "weights of the sha256 that the user names as the published one"


def load_image(path: Path) -> Picture:
    """The image as Pillow's RGB."""
    from PIL import Image

    with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{path} is {image.width}x{image.height}, at most {MAX_PIXELS} pixels are read"
            )
        return image.convert("RGB")


def open_regular(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open a regular file; the open handle is asked, so that nobody can put another file in its
    place meanwhile.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is a pipe, a device or a socket, which would wait for ever or has no end.
    """
    nonblock = getattr(os, "O_NONBLOCK", 0)  # Windows has none
    binary = getattr(os, "O_BINARY", 0)  # Windows alone has it
    handle = os.open(str(path), flags | nonblock | binary)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is no regular file")
    return os.fdopen(handle, "rb" if flags == os.O_RDONLY else "r+b")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file of lines; stops where it is not there, is no regular file or is
    too large.
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
    """Python's and these packages' versions, for `preprocessing`: they are part of what a judge
    is.
    """
    from importlib import metadata

    found = ["python {}.{}.{}".format(*sys.version_info[:3])]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def annotate_queries(
    args: argparse.Namespace,
    name: str,
    version: int,
    judge_class: str,
    preprocessing: str,
    weights_sha256: str,
    see: Annotate,
) -> None:
    """Answers every question of args.folder that has no answer yet.

    Args:
        see: role, image file and ask to the answer of that role, as JSON values; what it raises
            becomes the question's error.

    Raises:
        SystemExit: 1 with one line, where files cannot be read, another judge answered here, or the
            judge fails from the start on.
    """
    folder = args.folder
    facts = {
        "name": name,
        "version": version,
        "judge_class": judge_class,
        "preprocessing": preprocessing,
        "weights_sha256": weights_sha256,
    }
    _record_judge(folder, facts)
    asks = list(read_lines(folder / QUERIES))
    done = _annotated_keys(folder / ANNOTATIONS)
    todo = [ask for ask in asks if ask["key"] not in done]
    started = time.monotonic()
    told = time.monotonic()
    failed = 0
    good = len(done)
    with (folder / ANNOTATIONS).open("ab") as out:
        for number, ask in enumerate(todo, 1):
            line = _annotate_line(ask, folder, see)
            _append_line(out, line)
            failed = failed + ("error" in line)
            good = good + ("answer" in line)
            if failed == MAX_FAILURES and not good:
                stop(
                    "{} failed on each of its first {} images ({}); mend that and run again".format(
                        name, MAX_FAILURES, line["error"]
                    )
                )
            if time.monotonic() - told > REPORT_SECONDS or number == len(todo):
                told = time.monotonic()
                sys.stderr.write(
                    f"{name}: {number} of {len(todo)} images, {failed} failed,"
                    f" {(told - started) / number:.2f} s each\n"
                )
                sys.stderr.flush()


def _annotate_line(ask: Json, folder: Path, see: Annotate) -> Json:
    """The line that answers a question."""
    line = {"key": ask["key"], "index": ask.get("index")}
    path = folder / ask["image"]  # an absolute path stays itself
    try:
        if file_sha256(path) != ask["sha256"]:
            return dict(line, error=f"{path} is not the image that was asked about; run eval again")
        found = dict(line, answer=see(ask["role"], path, ask["ask"]))
        json.dumps(found, allow_nan=False)
        return found
    except Exception as error:  # noqa: BLE001 - networks of others fail in any way; the line says how
        return dict(
            line,
            error="{}: {}".format(
                type(error).__name__, (str(error).splitlines() or ["no message"])[0]
            ),
        )


def _append_line(out: IO[bytes], line: Json) -> None:
    out.write((json.dumps(line, sort_keys=True, allow_nan=False) + "\n").encode())
    out.flush()
    os.fsync(out.fileno())


def _record_judge(folder: Path, facts: Json) -> None:
    """Says who answers; stops where someone else did."""
    if not re.match(r"[0-9a-f]{64}$", facts["weights_sha256"]):
        stop(
            "weights_sha256 is {!r}, wanted 64 hex digits; mend the runner".format(
                facts["weights_sha256"]
            )
        )
    # of each process its own
    path = folder / JUDGE
    part = folder / f"{JUDGE}.{os.getpid()}.part"
    if path.is_file():
        (kept,) = read_lines(path, whole=True)
        if kept.get("format") != FORMAT:
            message = (
                "{} is not of this version: wanted format {}, found {}; made by another version of"
                " harope-bench: delete its folder"
            )
            stop(message.format(path, FORMAT, str(kept.get("format"))[:40]))
        for field in sorted(facts):
            if kept.get(field) != facts[field]:
                told = (folder, field, str(kept.get(field))[:40], str(facts[field])[:40])
                stop(
                    "{} has answers of another judge: {} {} there, {} now; delete it or use another"
                    " folder".format(*told)
                )
        return
    part.write_text(
        json.dumps(dict(facts, format=FORMAT), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    os.replace(str(part), str(path))


def read_lines(path: Path, whole: bool = False) -> Iterator[Json]:
    """The objects of a file of lines, each with a `key`, or the one of the `whole` file; stops
    where one is none or nothing is there.
    """
    if not path.is_file():
        stop(f"{path} is not there; let `harope-bench eval` write it")
    data = read_bytes(path)
    for number, line in enumerate([data] if whole else data.split(b"\n"), 1):
        if line.strip():
            try:
                value = json.loads(line.decode())
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                stop(f"{path} line {number} is not a JSON object; delete the line and run again")
            if not whole and not isinstance(value.get("key"), str):
                stop(
                    f"{path} line {number} has no key that is a text; delete the line and run again"
                )
            yield value


def _annotated_keys(path: Path) -> set[str]:
    """Keys that have an answer. A last line that a kill cut short is dropped first, so that the
    next does not grow onto it.
    """
    if not path.is_file():
        return set()
    data = read_bytes(path)
    if data and not data.endswith(b"\n"):
        with open_regular(path, os.O_RDWR) as file:
            file.truncate(data.rfind(b"\n") + 1)
    return {line["key"] for line in read_lines(path) if "answer" in line}
