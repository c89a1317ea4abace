"""Brings assets: the only part that uses the network. Files resume, are checked, and appear whole or not at all."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple

from filelock import FileLock
from tqdm import tqdm

from harope_bench import fetched
from harope_bench.errors import FetchError
from harope_bench.fetched import AssetFile
from harope_bench.store import disk, make_folder, sha256_file, write_text

TRIES = 3  # connections that bring nothing new before the transfer is given up
TIMEOUT = 60  # seconds without a byte
PIECE = 1 << 20


class Brought(NamedTuple):
    """One file that is here now; `kept` if it was before, `known` if its hash was known beforehand."""

    path: Path
    sha256: str
    kept: bool
    known: bool


class Span(NamedTuple):
    """An answer of a server: its body, the byte where that begins, and the whole length where it is told."""

    body: IO[bytes]
    start: int
    total: int | None


def fetch(name: str, source: Path | None = None) -> list[Brought]:
    """Brings every file of an asset into the user's home, from its pinned addresses or from `source`.

    Args:
        source: a file (of an asset of one file) or a folder with files of these names; nothing is then downloaded.

    Raises:
        UnknownName: no such asset. FetchError: not reachable, cut short, or not the file that was wanted.
    """
    known = fetched.asset(name)
    place = make_folder(fetched.folder(name))
    if source is not None and source.is_file() and len(known.files) > 1:
        raise FetchError(f"{name} has files {', '.join(f.name for f in known.files)}; give --from the folder that holds them")
    with disk(place), FileLock(place / ".lock"):
        return [_one(name, file, source) for file in known.files]


def _one(name: str, file: AssetFile, source: Path | None) -> Brought:
    path, recorded = fetched.folder(name) / file.name, fetched.receipts(name).get(file.name)
    known = file.sha256 is not None or file.sha256_prefix is not None
    if path.is_file() and (there := sha256_file(path)) == recorded and file.refuses(there, path.stat().st_size) is None:
        return Brought(path, there, True, known)
    part = path.with_name(f".{file.name}.part")
    if source is None:
        _download(name, file, part)
    else:
        _copy(source / file.name if source.is_dir() else source, part)
    sha256, size = sha256_file(part), part.stat().st_size
    if why := file.refuses(sha256, size) or _changed(recorded, sha256):
        _drop(part)
        told = f"{source} is not {file.name}: it" if source else f"{file.name} came whole but"
        raise FetchError(f"{told} {why}; nothing was kept, {'give another file' if source else 'run fetch again or use --from'}")
    write_text(path.with_name(fetched.RECEIPT), json.dumps({**fetched.receipts(name), file.name: sha256}, indent=1, sort_keys=True) + "\n")
    with disk(path):
        part.replace(path)
    _drop(part)
    return Brought(path, sha256, False, known)


def _changed(recorded: str | None, sha256: str) -> str | None:
    """Where nothing is published of a file's hash, the first fetch's is binding."""
    return None if recorded in (None, sha256) else f"has sha256 {sha256[:12]}..., the first fetch brought {(recorded or '')[:12]}..."


def _copy(source: Path, part: Path) -> None:
    if not source.is_file():
        raise FetchError(f"{source} is not there; give --from the file itself or the folder that holds it")
    with disk(source):
        shutil.copyfile(source, part)


def _drop(part: Path) -> None:
    for path in (part, _tag(part)):
        with disk(path):
            path.unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    """Where the server's name for the version of a half-loaded file is kept."""
    return part.with_suffix(".etag")


def _download(name: str, file: AssetFile, part: Path) -> None:
    """Fills `part` from the first address that gives the whole file."""
    if not file.urls:
        raise FetchError(f"{file.name} has no public address; bring it yourself and give --from ({fetched.asset(name).source})")
    faults = []
    for url in file.urls:
        try:
            return _from(url, file, part)
        except FetchError as error:
            faults.append(str(error))
    raise FetchError("; ".join(faults))


def _from(url: str, file: AssetFile, part: Path) -> None:
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url} is no web address; correct the asset's file")
    fault = ""
    for _ in range(TRIES):
        try:
            if _append(url, file, part):
                return
            fault = "the connection closed early"
        except urllib.error.HTTPError as error:
            fault = f"the server says {error.code} {error.reason}"
            error.close()
            if error.code == 416:  # what is there does not fit what the server has: begin anew
                _drop(part)
        except (urllib.error.URLError, HTTPException, OSError) as error:
            fault = str(getattr(error, "reason", error)) or type(error).__name__
    got = part.stat().st_size if part.is_file() else 0
    raise FetchError(f"{url}: {fault}, {got:,} bytes are kept; run the same command again to go on, or use --from with a copy")


def _append(url: str, file: AssetFile, part: Path) -> bool:
    """Loads what is missing; whether the file is whole by the length that the server or the asset tells."""
    have = part.stat().st_size if part.is_file() else 0
    if file.bytes is not None and have >= file.bytes:
        return True
    span = _ask(url, part, have)
    total = span.total or file.bytes
    with span.body, disk(part), part.open("r+b" if span.start else "wb") as out:
        out.seek(span.start)
        out.truncate()
        with tqdm(total=total, initial=span.start, desc=file.name, unit="B", unit_scale=True, file=sys.stderr, disable=None) as bar:
            while piece := span.body.read(PIECE):
                out.write(piece)
                bar.update(len(piece))
    return total is None or part.stat().st_size >= total


def _ask(url: str, part: Path, have: int) -> Span:
    """Opens the rest of the file where the server can go on and still has the same version, else the whole."""
    tag = _tag(part).read_text() if have and _tag(part).is_file() else ""
    headers = {"User-Agent": "harope-bench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if tag:
        headers["If-Range"] = tag
    answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)  # noqa: S310 - http(s), checked above
    length = answer.headers.get("Content-Length")
    if (new := answer.headers.get("ETag", "")) and not new.startswith("W/"):
        write_text(_tag(part), new)
    start = have if answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
    if answer.status == 206 and not start:
        raise HTTPException("it sent another part of the file than was asked for")
    return Span(answer, start, start + int(length) if length and length.isdecimal() else None)
