"""Brings assets: the only part that uses the network. Files resume, are checked, and appear whole
or not at all.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm import tqdm

from harope_bench.assets import local_files
from harope_bench.assets.local_files import AssetFile, Receipt
from harope_bench.core.errors import FetchError
from harope_bench.core.index_ranges import whole_number
from harope_bench.core.regular_file import JSON_BYTES, open_regular, read_regular
from harope_bench.core.storage import convert_os_errors, make_folder, sha256_file, write_text

TRIES = 3  # connections before the transfer is given up
TIMEOUT = 60  # seconds without a byte
DOWNLOAD_CHUNK_BYTES = 1 << 20


class FetchedFile(NamedTuple):
    """One file that is here now.

    kept: it was here before. known: its hash was known beforehand. addressed: as its receipt.
    trust: what shows in words that it is
    the published file.
    """

    path: Path
    sha256: str
    is_unchanged: bool
    has_known_hash: bool
    is_from_url: bool
    verification: str


class ServedVersion(NamedTuple):
    """Which version of a file a server sent: its strong ETag or else the date of its last change,
    and its whole length.
    """

    validator: str
    total: int | None


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https, or to http where the way was http so far; FetchError for any
    other.
    """

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that goes on; see urllib."""
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (req.type, scheme) != ("http", "http"):
            fp.close()
            raise FetchError(
                f"{req.full_url} sends on to {newurl[:80]!r}, wanted https; bring the file yourself"
                " and give --from"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class PartialResponse(NamedTuple):
    """An answer of a server: its body, the byte where that begins, and the whole length where it is
    told.
    """

    body: IO[bytes]
    start: int
    total: int | None


def fetch_asset(name: str, source: Path | None = None) -> list[FetchedFile]:
    """Brings every file of an asset into the user's home, from its pinned addresses or from
    `source`.

    Args:
        source: a file (of an asset of one file) or a folder with files of these names; nothing is
            then downloaded.

    Raises:
        UnknownName: no such asset. FetchError: not reachable, cut short, or not the file that was
            wanted.
    """
    known = local_files.load_asset(name)
    place = make_folder(local_files.asset_folder(name))
    if source is not None and source.is_file() and len(known.files) > 1:
        raise FetchError(
            f"{name} has files {', '.join(f.name for f in known.files)}; give --from the folder"
            " that holds them"
        )
    with convert_os_errors(place), FileLock(place / ".lock"):
        return [_fetch_file(name, file, source) for file in known.files]


def _fetch_file(name: str, file: AssetFile, source: Path | None) -> FetchedFile:
    path = local_files.asset_folder(name) / file.name
    recorded = local_files.read_receipts(name).get(file.name)
    enough = recorded is not None and (
        file.is_pinned or recorded.is_from_url or source is not None or not file.urls
    )
    if (
        recorded
        and enough
        and path.is_file()
        and sha256_file(path) == recorded.sha256
        and file.find_mismatch(path, recorded.sha256) is None
    ):
        return FetchedFile(
            path, recorded.sha256, True, file.is_pinned, recorded.is_from_url, file.verification
        )
    part = path.with_name(f".{file.name}.part")
    if source is None:
        _download(name, file, part)
    else:
        _copy_local_file(source / file.name if source.is_dir() else source, file, part)
    sha256 = sha256_file(part)
    if why := file.find_mismatch(part, sha256) or (
        _hash_change(recorded, sha256) if enough else None
    ):
        _remove_part(part)
        told = f"{source} is not {file.name}: it" if source else f"{file.name} came whole but"
        raise FetchError(
            f"{told} {why}; nothing was kept,"
            f" {'give another file' if source else 'run fetch again or use --from'}"
        )
    noted = {
        **local_files.read_receipts(name),
        file.name: Receipt(sha256=sha256, is_from_url=source is None),
    }
    write_text(path.with_name(local_files.RECEIPT), local_files.receipt_text(noted))
    with convert_os_errors(path):
        part.replace(path)
    _remove_part(part)
    return FetchedFile(path, sha256, False, file.is_pinned, source is None, file.verification)


def _hash_change(recorded: Receipt | None, sha256: str) -> str | None:
    """Where nothing is published of a file's hash, the first fetch's is binding; against an
    address, a file of --from is not.
    """
    if recorded is None or recorded.sha256 == sha256:
        return None
    return f"has sha256 {sha256[:12]}..., the first fetch brought {recorded.sha256[:12]}..."


def _copy_local_file(source: Path, file: AssetFile, part: Path) -> None:
    if not source.exists():
        raise FetchError(
            f"{source} is not there; give --from the file itself or the folder that holds it"
        )
    with convert_os_errors(source), open_regular(source) as copied:
        if (size := os.fstat(copied.fileno()).st_size) > file.limit:
            raise FetchError(
                f"{source} is not {file.name}: it has {size:,} bytes, wanted {file.limit:,} at"
                " most; give another file"
            )
        with part.open("wb") as out:
            shutil.copyfileobj(copied, out)


def _remove_part(part: Path) -> None:
    for path in (part, _etag_path(part)):
        with convert_os_errors(path):
            path.unlink(missing_ok=True)


def _etag_path(part: Path) -> Path:
    """Where it is kept which version, of which address, a half-loaded file is."""
    return part.with_suffix(".etag")


def _read_version(part: Path, url: str) -> ServedVersion | None:
    """The version of a half-loaded file, if it is from this address and was told."""
    if not _etag_path(part).is_file():
        return None
    with convert_os_errors(part):
        lines = read_regular(_etag_path(part), JSON_BYTES).decode("utf-8", "replace").splitlines()
    if len(lines) != 3 or lines[0] != url:
        return None
    return ServedVersion(lines[1], whole_number(lines[2]))


def _download(name: str, file: AssetFile, part: Path) -> None:
    """Fills `part` from the first address that gives the whole file."""
    if not file.urls:
        raise FetchError(
            f"{file.name} has no public address; bring it yourself and give --from"
            f" ({local_files.load_asset(name).source})"
        )
    faults = []
    for url in file.urls:
        try:
            return _download_from(url, file, part)
        except FetchError as error:
            faults.append(str(error))
    raise FetchError("; ".join(faults))


def _download_from(url: str, file: AssetFile, part: Path) -> None:
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url} is no web address; correct the asset's file")
    fault = ""
    for _ in range(TRIES):
        try:
            if _download_missing_bytes(url, file, part):
                return
            fault = "the connection closed early"
        except urllib.error.HTTPError as error:
            fault = f"the server says {error.code} {error.reason}"
            error.close()
            if error.code == 416:  # what is there does not fit what the server has: begin anew
                _remove_part(part)
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            fault = str(reason) or type(error).__name__
    got = part.stat().st_size if part.is_file() else 0
    raise FetchError(
        f"{url}: {fault}, {got:,} bytes are kept; run the same command again to go on, or use"
        " --from with a copy"
    )


def _download_missing_bytes(url: str, file: AssetFile, part: Path) -> bool:
    """Loads what is missing; whether the file is whole by the length that the server or the asset
    tells.
    """
    have = part.stat().st_size if part.is_file() else 0
    if file.bytes is not None and have >= file.bytes:
        return True
    span = _request_missing_bytes(url, file, part, have)
    total = span.total or file.bytes
    if span.total is not None and span.total > file.limit:
        span.body.close()
        raise _too_large_error(url, file, part)
    bar = tqdm(
        total=total,
        initial=span.start,
        desc=file.name,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=None,
    )
    with span.body, _open_part(part, span.start) as out, bar:
        room = file.limit - span.start
        while piece := span.body.read(
            DOWNLOAD_CHUNK_BYTES
        ):  # outside `disk`: a connection that breaks is tried again
            room -= len(piece)
            if room < 0:
                raise _too_large_error(url, file, part)
            with convert_os_errors(part):
                out.write(piece)
                out.flush()
            bar.update(len(piece))
    return total is None or part.stat().st_size >= total


def _too_large_error(url: str, file: AssetFile, part: Path) -> FetchError:
    """Drop what came and return the error of an address that sends more than the file can be."""
    _remove_part(part)
    size = (
        f"{file.bytes:,} bytes, its known size"
        if file.bytes
        else f"{file.limit:,} bytes, the most that is taken of it"
    )
    return FetchError(
        f"{url} sends more of {file.name} than {size}; nothing was kept, use --from with a copy"
    )


def _open_part(part: Path, start: int) -> IO[bytes]:
    """The half-loaded file, open to write from `start` on."""
    with convert_os_errors(part):
        out = part.open("r+b" if start else "wb")
        out.seek(start)
        out.truncate()
    return out


def _request_missing_bytes(url: str, file: AssetFile, part: Path, have: int) -> PartialResponse:
    """Opens the rest of the file where it can be told that it is of the same version, by the server
    or later by the hash; else the whole.

    Raises:
        HTTPException: another part, or a part of another version, came; what was there is then
            dropped.
    """
    held = _read_version(part, url) if have else None
    if held is None and not file.is_pinned:
        have = 0
    headers = {"User-Agent": "harope-bench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and held:
        headers["If-Range"] = held.validator
    asked = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s), checked by the caller
    answer = urllib.request.build_opener(SafeRedirects).open(asked, timeout=TIMEOUT)
    start = (
        have
        if answer.status == 206
        and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        else 0
    )
    if answer.status == 206 and (
        not start or _is_other_version(held, _served_version(answer, start))
    ):
        answer.close()
        _remove_part(part)
        raise HTTPException(
            "it sent another part of the file than was asked for, or of another version"
        )
    version = _served_version(answer, start)
    if not start:
        _start_part(part, url, version)
    return PartialResponse(answer, start, version.total)


def _served_version(answer: HTTPResponse, start: int) -> ServedVersion:
    """What an answer tells of the file's version; a weak ETag does not vouch for the bytes (RFC
    9110, 13.1.5).
    """
    etag = answer.headers.get("ETag", "")
    length = answer.headers.get("Content-Length") or ""
    validator = (
        etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
    )
    told = answer.headers.get("Content-Range", "").rpartition("/")[2]
    total = whole_number(told)
    rest = whole_number(length)
    return ServedVersion(validator, total if total is not None or rest is None else start + rest)


def _is_other_version(held: ServedVersion | None, now: ServedVersion) -> bool:
    """Whether an answer is of another version than the bytes that are here, for servers that take
    no notice of If-Range.
    """
    if held is None:
        return False
    return (now.validator or held.validator) != held.validator or (
        None not in (held.total, now.total) and held.total != now.total
    )


def _start_part(part: Path, url: str, version: ServedVersion) -> None:
    """Drops what is there and notes what comes, in this order, so that a kill never leaves a note
    beside other bytes.
    """
    _remove_part(part)
    if version.validator:
        write_text(
            _etag_path(part),
            f"{url}\n{version.validator}\n{'' if version.total is None else version.total}\n",
        )
