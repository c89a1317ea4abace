"""Download of assets. Beside requests to image endpoints, nothing else uses the network.

Downloads resume. A file is verified before it appears under its name.
"""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from harope_bench.assets import local_files
from harope_bench.assets.local_files import AssetFile, Receipt
from harope_bench.core.errors import FetchError
from harope_bench.core.index_ranges import parse_whole_number
from harope_bench.core.progress import Progress
from harope_bench.core.regular_file import JSON_BYTES, open_regular, read_regular
from harope_bench.core.storage import convert_os_errors, make_folder, sha256_file, write_text

TRIES = 3  # Connections before a transfer is given up.
TIMEOUT = 60  # Seconds without a byte.
DOWNLOAD_CHUNK_BYTES = 1 << 20


class FetchedFile(NamedTuple):
    """One file of an asset that is now on this machine.

    Attributes:
        path: Where it is.
        sha256: Its hash.
        is_unchanged: Whether it was there before.
        has_known_hash: Whether its hash was known before it arrived.
        is_from_url: Whether it was downloaded from one of its addresses.
        verification: How it was verified to be the published file, in words.
    """

    path: Path
    sha256: str
    is_unchanged: bool
    has_known_hash: bool
    is_from_url: bool
    verification: str


class ServedVersion(NamedTuple):
    """The version of a file that a server sends.

    Attributes:
        validator: Its strong ETag, else the date of its last change, else empty.
        total: Bytes of the whole file, if the server states them.
    """

    validator: str
    total: int | None


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https, or from http to http; FetchError for any other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request to the new address; see urllib for the arguments."""
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (req.type, scheme) != ("http", "http"):
            fp.close()
            raise FetchError(
                f"{req.full_url} redirects to {newurl[:80]!r}, wanted https; download the file"
                " yourself and give --from"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class PartialResponse(NamedTuple):
    """The answer of a server.

    Attributes:
        body: The bytes that it sends.
        start: Index of the first of these bytes in the file.
        total: Bytes of the whole file, if the server states them.
    """

    body: IO[bytes]
    start: int
    total: int | None


def fetch_asset(name: str, source: Path | None = None) -> list[FetchedFile]:
    """Store every file of an asset in the user's home.

    Args:
        source: A file (of an asset with one file) or a folder with files of these names. Nothing
            is then downloaded.

    Raises:
        UnknownNameError: No asset has that name.
        FetchError: A file is not reachable, incomplete, or not the published one.
    """
    asset = local_files.load_asset(name)
    folder = make_folder(local_files.asset_folder(name))
    if source is not None and source.is_file() and len(asset.files) > 1:
        raise FetchError(
            f"{name} has files {', '.join(f.name for f in asset.files)}; give --from their folder"
        )
    with convert_os_errors(folder), FileLock(folder / ".lock"):
        return [_fetch_file(name, file, source) for file in asset.files]


def _fetch_file(name: str, file: AssetFile, source: Path | None) -> FetchedFile:
    """Store one file of an asset, unless it is there already."""
    path = local_files.asset_folder(name) / file.name
    receipt = local_files.read_receipts(name).get(file.name)
    is_receipt_binding = receipt is not None and (
        file.has_known_hash or receipt.is_from_url or source is not None or not file.urls
    )
    if receipt and is_receipt_binding and _is_unchanged(path, file, receipt):
        return FetchedFile(
            path,
            receipt.sha256,
            is_unchanged=True,
            has_known_hash=file.has_known_hash,
            is_from_url=receipt.is_from_url,
            verification=file.verification,
        )

    # The file is written under a temporary name and verified there.
    part = path.with_name(f".{file.name}.part")
    if source is None:
        _download(name, file, part)
    else:
        _copy_local_file(source / file.name if source.is_dir() else source, file, part)
    sha256 = sha256_file(part)
    mismatch = file.find_mismatch(part, sha256)
    if mismatch is None and is_receipt_binding:
        mismatch = _hash_change(receipt, sha256)
    if mismatch:
        _remove_part(part)
        raise _mismatch_error(file, source, mismatch)

    # The receipt is written first, so a file under its own name always has one.
    receipts = {
        **local_files.read_receipts(name),
        file.name: Receipt(sha256=sha256, is_from_url=source is None),
    }
    write_text(path.with_name(local_files.RECEIPT), local_files.receipt_text(receipts))
    with convert_os_errors(path):
        part.replace(path)
    _remove_part(part)
    return FetchedFile(
        path,
        sha256,
        is_unchanged=False,
        has_known_hash=file.has_known_hash,
        is_from_url=source is None,
        verification=file.verification,
    )


def _is_unchanged(path: Path, file: AssetFile, receipt: Receipt) -> bool:
    """Return whether the file at a path is the one of its receipt and is the published file."""
    if not path.is_file() or sha256_file(path) != receipt.sha256:
        return False
    return file.find_mismatch(path, receipt.sha256) is None


def _mismatch_error(file: AssetFile, source: Path | None, mismatch: str) -> FetchError:
    """Return the error for a file that is not the published one."""
    if source is None:
        return FetchError(
            f"{file.name} was downloaded completely, but {mismatch}; it was removed, run fetch"
            " again or use --from"
        )
    return FetchError(
        f"{source} is not {file.name}: it {mismatch}; it was not stored, give another file"
    )


def _hash_change(receipt: Receipt | None, sha256: str) -> str | None:
    """Return how a file differs from the first one that was stored, or None if it does not.

    This binds files whose hash is not published to the first one.
    """
    if receipt is None or receipt.sha256 == sha256:
        return None
    return f"has sha256 {sha256[:12]}..., the first fetch stored {receipt.sha256[:12]}..."


def _copy_local_file(source: Path, file: AssetFile, part: Path) -> None:
    """Copy the user's file, or the file of this name in the folder `source`, to `part`.

    Raises:
        FetchError: It is missing or too large.
    """
    if not source.exists():
        raise FetchError(
            f"--from {source} does not exist; give the file itself or the folder that contains it"
        )
    with convert_os_errors(source), open_regular(source) as source_file:
        size = os.fstat(source_file.fileno()).st_size
        if size > file.limit:
            raise FetchError(
                f"{source} is not {file.name}: it has {size:,} bytes, wanted {file.limit:,} at"
                " most; give another file"
            )
        with part.open("wb") as out:
            shutil.copyfileobj(source_file, out)


def _remove_part(part: Path) -> None:
    """Remove a partial file and the record of its version."""
    for path in (part, _etag_path(part)):
        with convert_os_errors(path):
            path.unlink(missing_ok=True)


def _etag_path(part: Path) -> Path:
    """Return the path of the record of a partial file: its address, version and length."""
    return part.with_suffix(".etag")


def _read_version(part: Path, url: str) -> ServedVersion | None:
    """Return the version of a partial file; None if it is unknown or from another address."""
    if not _etag_path(part).is_file():
        return None
    with convert_os_errors(part):
        lines = read_regular(_etag_path(part), JSON_BYTES).decode("utf-8", "replace").splitlines()
    if len(lines) != 3 or lines[0] != url:
        return None
    return ServedVersion(lines[1], parse_whole_number(lines[2]))


def _download(name: str, file: AssetFile, part: Path) -> None:
    """Download a file to `part`, from the first address that sends all of it."""
    if not file.urls:
        raise FetchError(
            f"{file.name} has no public address; download it yourself and give --from"
            f" ({local_files.load_asset(name).source})"
        )
    errors = []
    for url in file.urls:
        try:
            return _download_from(url, file, part)
        except FetchError as error:
            errors.append(str(error))
    raise FetchError("; ".join(errors))


def _download_from(url: str, file: AssetFile, part: Path) -> None:
    """Download a file from one address, with up to TRIES connections.

    Raises:
        FetchError: The file is incomplete afterwards.
    """
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url} is no web address; correct the asset's file")
    failure = ""
    for _ in range(TRIES):
        try:
            if _download_missing_bytes(url, file, part):
                return
            failure = "the connection closed early"
        except urllib.error.HTTPError as error:
            failure = f"the server says {error.code} {error.reason}"
            error.close()
            if error.code == 416:  # the partial file is longer than the server's: start again
                _remove_part(part)
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            failure = str(reason) or type(error).__name__

    n_bytes = part.stat().st_size if part.is_file() else 0
    raise FetchError(
        f"{url}: {failure}, {n_bytes:,} bytes are kept; run the same command again to resume, or"
        " use --from with a copy"
    )


def _download_missing_bytes(url: str, file: AssetFile, part: Path) -> bool:
    """Download the bytes that are missing.

    Returns:
        Whether the file is complete, by the length that the server or the asset states.
    """
    n_present = part.stat().st_size if part.is_file() else 0
    if file.bytes is not None and n_present >= file.bytes:
        return True

    response = _request_missing_bytes(url, file, part, n_present)
    total = response.total or file.bytes
    if response.total is not None and response.total > file.limit:
        response.body.close()
        raise _too_large_error(url, file, part)

    progress = Progress(file.name, total, "B", initial=response.start, is_scaled=True)
    with response.body, _open_part(part, response.start) as out, progress:
        remaining = file.limit - response.start
        # Reading is outside `convert_os_errors`: a broken connection is tried again.
        while chunk := response.body.read(DOWNLOAD_CHUNK_BYTES):
            remaining -= len(chunk)
            if remaining < 0:
                raise _too_large_error(url, file, part)
            with convert_os_errors(part):
                out.write(chunk)
                out.flush()
            progress.advance(len(chunk))
    return total is None or part.stat().st_size >= total


def _too_large_error(url: str, file: AssetFile, part: Path) -> FetchError:
    """Remove the partial file, and return the error for an address that sends too many bytes."""
    _remove_part(part)
    limit = f"the limit of {file.limit:,} bytes"
    if file.bytes:
        limit = f"its known size of {file.bytes:,} bytes"
    return FetchError(
        f"{url} sends more of {file.name} than {limit}; it was removed, use --from with a copy"
    )


def _open_part(part: Path, start: int) -> IO[bytes]:
    """Return the partial file, cut at `start` and open for writing there."""
    with convert_os_errors(part):
        out = part.open("r+b" if start else "wb")
        out.seek(start)
        out.truncate()
    return out


def _request_missing_bytes(
    url: str, file: AssetFile, part: Path, n_present: int
) -> PartialResponse:
    """Request the bytes after the first `n_present` ones, or the whole file.

    Only the rest is requested if it can be verified to be of the same version, by the server or
    later by the hash.

    Raises:
        HTTPException: The server sent other bytes or another version; the partial file is removed.
    """
    partial_version = _read_version(part, url) if n_present else None
    if partial_version is None and not file.has_known_hash:
        n_present = 0
    headers = {"User-Agent": "harope-bench", "Accept-Encoding": "identity"}
    if n_present:
        headers["Range"] = f"bytes={n_present}-"
    if n_present and partial_version:
        headers["If-Range"] = partial_version.validator
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s), checked by the caller
    response = urllib.request.build_opener(SafeRedirects).open(request, timeout=TIMEOUT)

    # 206 is a part of the file. Any other answer is the whole file.
    content_range = response.headers.get("Content-Range", "")
    is_partial = response.status == 206
    is_requested_part = is_partial and content_range.startswith(f"bytes {n_present}-")
    start = n_present if is_requested_part else 0
    version = _served_version(response, start)
    if is_partial and (not start or _is_other_version(partial_version, version)):
        response.close()
        _remove_part(part)
        raise HTTPException("it sent another part of the file than requested, or another version")

    if not start:
        _start_part(part, url, version)
    return PartialResponse(response, start, version.total)


def _served_version(response: HTTPResponse, start: int) -> ServedVersion:
    """Return the version of a file that an answer sends.

    A weak ETag is not used, because it does not identify bytes (RFC 9110, 13.1.5).

    Args:
        start: Index of the first byte that the answer sends.
    """
    etag = response.headers.get("ETag", "")
    is_strong = bool(etag) and not etag.startswith("W/")
    validator = etag if is_strong else response.headers.get("Last-Modified", "")

    # "bytes 100-199/200" states the total. Otherwise it is the start plus the bytes that follow.
    total = parse_whole_number(response.headers.get("Content-Range", "").rpartition("/")[2])
    n_following = parse_whole_number(response.headers.get("Content-Length") or "")
    if total is None and n_following is not None:
        total = start + n_following
    return ServedVersion(validator, total)


def _is_other_version(partial_version: ServedVersion | None, served_version: ServedVersion) -> bool:
    """Return whether a server sends another version than that of the partial file.

    This is needed for servers that ignore If-Range.
    """
    if partial_version is None:
        return False
    served_validator = served_version.validator or partial_version.validator
    if served_validator != partial_version.validator:
        return True
    totals = (partial_version.total, served_version.total)
    return None not in totals and totals[0] != totals[1]


def _start_part(part: Path, url: str, version: ServedVersion) -> None:
    """Remove the partial file and record the version that is about to arrive.

    In this order an interruption never leaves a record beside bytes of another version.
    """
    _remove_part(part)
    if version.validator:
        write_text(
            _etag_path(part),
            f"{url}\n{version.validator}\n{'' if version.total is None else version.total}\n",
        )
