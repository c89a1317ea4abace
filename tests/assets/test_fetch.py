"""fetch: files come whole or not at all, go on where they broke, and are the ones that were
wanted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harope_bench.assets import download as fetching
from harope_bench.assets import local_files
from harope_bench.assets.download import fetch_asset
from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.errors import (
    BenchError,
    FetchError,
    MissingAssetError,
    StorageError,
    UnknownNameError,
    WeightsError,
)
from harope_bench.core.storage import git_blob_id
from harope_bench.core.toml_file import toml_text
from harope_bench.pipeline import doctor

BODY = bytes(range(256)) * 9000  # 2.3 MB
SHA256 = hashlib.sha256(BODY).hexdigest()


class Site:
    """A server that can break: `cut` closes after so many bytes, once, with `reset` by a reset;
    `ranges` off ignores Range; `careless`
    ignores If-Range; `status` answers with that; `to` sends on to there; an empty `etag` is not
    sent, nor an empty `date`."""

    def __init__(self) -> None:
        self.body, self.cut, self.ranges, self.status, self.etag = BODY, None, True, 200, '"one"'
        self.date, self.to, self.reset, self.careless = "", "", False, False
        self.asked: list[dict[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/thing.bin"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append({k.lower(): v for k, v in request.headers.items()})
        start, headers = 0, request.headers.get("Range")
        flag = request.headers.get("If-Range") in (None, self.etag or self.date) or self.careless
        if headers and self.ranges and flag:
            start = int(headers.removeprefix("bytes=").removesuffix("-"))
        if self.to:
            request.send_response(302)
            request.send_header("Location", self.to)
            request.end_headers()
            return
        if self.status != 200:
            request.send_error(self.status)
            return
        part = self.body[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(part)))
        for name, etag in (("ETag", self.etag), ("Last-Modified", self.date)):
            if etag:
                request.send_header(name, etag)
        if start:
            request.send_header(
                "Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
            )
        request.end_headers()
        if self.cut is not None:
            part, self.cut = part[: self.cut], None
            if self.reset:
                request.wfile.write(part)
                request.wfile.flush()
                time.sleep(0.3)  # what was sent is read before the reset throws it away
                request.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                request.connection.close()
                return
        request.wfile.write(part)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes an asset known under the name thing."""
    folder = tmp_path / "assets"
    folder.mkdir()
    monkeypatch.setitem(registry.PLUGIN_KINDS, "assets", registry.PluginKind(str(folder), ".toml"))

    def make(*files: dict[str, Any]) -> None:
        fields = {"title": "A thing", "licence": "CC0", "source": "a test"}
        body = "".join(f"\n[[files]]\n{toml_text(file)}" for file in files)
        (folder / "thing.toml").write_text(toml_text(fields) + body)

    return make


def one_file(site: Site, **fields: Any) -> dict[str, Any]:
    return {"name": "thing.bin", "urls": [site.url], "sha256": SHA256, **fields}


def test_a_file_can_be_known_by_its_git_blob_id_alone(site: Site, register: Any) -> None:
    blob = hashlib.sha1(b"blob " + str(len(BODY)).encode() + b"\0" + BODY).hexdigest()
    fields = {"name": "thing.bin", "urls": [site.url]}
    register({**fields, "git_blob": "0" * 40})
    with pytest.raises(FetchError, match=f"has git blob id {blob[:12]}..., wanted 000000000000"):
        fetch_asset("thing")
    register({**fields, "git_blob": blob})
    (asset,) = fetch_asset("thing")
    assert asset.has_known_hash and asset.path.read_bytes() == BODY
    (again,) = fetch_asset("thing")
    assert again.is_unchanged and again.has_known_hash


def test_git_itself_gives_that_id(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not here")
    for body in (b"", b"one\n", BODY):
        (tmp_path / "f").write_bytes(body)
        message = subprocess.run(
            ["git", "hash-object", str(tmp_path / "f")], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert git_blob_id(tmp_path / "f") == message


def test_a_file_comes_once_and_whole(site: Site, register: Any) -> None:
    register(one_file(site))
    with pytest.raises(MissingAssetError, match="harope-bench fetch thing"):
        local_files.require_local_file("thing")
    (asset,) = fetch_asset("thing")
    assert asset.path.read_bytes() == BODY and (asset.is_unchanged, asset.has_known_hash) == (
        False,
        True,
    )
    assert local_files.verify_local_file("thing") == (asset.path, SHA256, True)
    assert sorted(p.name for p in asset.path.parent.iterdir() if not p.name.startswith(".")) == [
        "receipt.json",
        "thing.bin",
    ]
    (again,) = fetch_asset("thing")
    assert again.is_unchanged and len(site.asked) == 1
    assert not list(asset.path.parent.glob(".*.part")) and not list(
        asset.path.parent.glob("*.etag")
    )


def test_a_broken_transfer_goes_on_where_it_broke(site: Site, register: Any) -> None:
    register(one_file(site))
    site.cut = 1_500_000
    (asset,) = fetch_asset("thing")
    assert asset.path.read_bytes() == BODY
    assert site.asked[1]["range"] == "bytes=1500000-" and site.asked[1]["if-range"] == '"one"'


def test_the_next_call_goes_on_too(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(one_file(site))
    monkeypatch.setattr(fetching, "TRIES", 1)
    site.cut = 700_000
    with pytest.raises(
        FetchError, match="closed early, 700,000 bytes are kept; run the same command again"
    ):
        fetch_asset("thing")
    assert local_files.find_local_file("thing") is None
    assert fetch_asset("thing")[0].path.read_bytes() == BODY
    assert site.asked[1]["range"] == "bytes=700000-"


def test_a_file_that_changed_meanwhile_is_begun_anew(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(one_file(site))
    monkeypatch.setattr(fetching, "TRIES", 1)
    site.cut, site.body, site.etag = 700_000, b"\1" * 900_000, '"old"'
    with pytest.raises(FetchError):
        fetch_asset("thing")
    site.body, site.etag = BODY, '"one"'
    assert fetch_asset("thing")[0].path.read_bytes() == BODY


def test_a_connection_that_is_reset_is_tried_again(site: Site, register: Any) -> None:
    register(one_file(site))
    site.cut, site.reset = 1_500_000, True
    assert fetch_asset("thing")[0].path.read_bytes() == BODY
    assert len(site.asked) == 2 and site.asked[1]["if-range"] == '"one"'


def test_a_full_disk_is_told_at_once(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    register(one_file(site))
    monkeypatch.setattr(fetching, "_open_part", lambda part, start: FullDisk())
    with pytest.raises(StorageError, match="No space left.*free some space"):
        fetch_asset("thing")
    assert len(site.asked) == 1


OLD_TEXT, NEW_TEXT = "Sat, 01 Aug 2026 00:00:00 GMT", "Sun, 02 Aug 2026 00:00:00 GMT"


def half_of_another(site: Site, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Leaves 700,000 bytes of an older version, and the server with the one that is wanted, told of
    by these facts.
    """
    monkeypatch.setattr(fetching, "TRIES", 1)
    site.cut, site.body = 700_000, b"\1" * len(BODY)
    with pytest.raises(FetchError, match="700,000 bytes are kept"):
        fetch_asset("thing")
    site.body = BODY
    for name, value in fields.items():
        setattr(site, name, value)


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_hash_or_a_version_it_begins_anew(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch, etag: str
) -> None:
    """Two versions in one file would get a hash of their own, binding from then on."""
    register({"name": "thing.bin", "urls": [site.url]})
    site.etag = etag
    half_of_another(site, monkeypatch)
    assert fetch_asset("thing")[0].path.read_bytes() == BODY
    assert "range" not in site.asked[1]


def test_the_date_of_the_last_change_stands_in_for_an_etag(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register({"name": "thing.bin", "urls": [site.url]})
    site.etag, site.date = "", OLD_TEXT
    half_of_another(site, monkeypatch, date=NEW_TEXT)
    assert fetch_asset("thing")[0].path.read_bytes() == BODY
    assert (site.asked[1]["range"], site.asked[1]["if-range"]) == ("bytes=700000-", OLD_TEXT)


@pytest.mark.parametrize(
    "fields", [{"etag": '"two"'}, {"body": BODY + b"more"}], ids=["etag", "length"]
)
def test_a_server_that_ignores_if_range_is_found_out(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    register({"name": "thing.bin", "urls": [site.url]})
    half_of_another(site, monkeypatch, careless=True, **fields)
    with pytest.raises(FetchError, match="another version, 0 bytes are kept"):
        fetch_asset("thing")
    assert fetch_asset("thing")[0].path.read_bytes() == site.body


def test_a_half_of_another_address_is_not_gone_on_with(
    site: Site, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register({"name": "thing.bin", "urls": [site.url]})
    half_of_another(site, monkeypatch)
    register({"name": "thing.bin", "urls": [site.url + "?mirror"]})
    assert fetch_asset("thing")[0].path.read_bytes() == BODY
    assert "range" not in site.asked[1]


@pytest.mark.parametrize("to", ["ftp://127.0.0.1:9/thing.bin", "/next"])
def test_a_redirect_leads_to_the_web_alone(site: Site, register: Any, to: str) -> None:
    register(one_file(site))
    site.to = to
    expected = (
        "redirects to 'ftp://.*wanted https" if to.startswith("ftp") else "302"
    )  # a circle: urllib gives it up
    with pytest.raises(FetchError, match=expected):
        fetch_asset("thing")


@pytest.mark.parametrize(
    ("first_text", "then_text"),
    [("https", "https"), ("http", "http"), ("http", "https"), ("https", "http"), ("http", "ftp")],
)
def test_a_redirect_never_leaves_https(first_text: str, then_text: str) -> None:
    def on() -> urllib.request.Request | None:
        request = urllib.request.Request(f"{first_text}://a.test/x")
        return fetching.SafeRedirects().redirect_request(
            request, io.BytesIO(), 302, "Found", {}, f"{then_text}://b.test/y"
        )

    if then_text == "https" or first_text == then_text:
        assert on().full_url == f"{then_text}://b.test/y"  # type: ignore[union-attr]
        return
    with pytest.raises(FetchError, match="wanted https; download the file yourself"):
        on()


def test_a_server_without_ranges_sends_the_whole_again(site: Site, register: Any) -> None:
    register(one_file(site))
    site.cut, site.ranges = 700_000, False
    assert fetch_asset("thing")[0].path.read_bytes() == BODY


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": "0" * 64},
        {"bytes": len(BODY) + 1},
        {"sha256_prefix": "abcdef12"},
        {"md5": "0" * 32},
    ],
)
def test_another_file_than_the_one_wanted_is_not_kept(
    site: Site, register: Any, fields: dict[str, Any]
) -> None:
    expected = {k: v for k, v in one_file(site).items() if k != "sha256"} | fields
    register(expected)
    with pytest.raises(
        FetchError,
        match="thing.bin was downloaded completely, but has .* wanted .*; it was removed",
    ):
        fetch_asset("thing")
    assert (
        local_files.find_local_file("thing") is None
        and not (local_files.asset_folder("thing") / "thing.bin").exists()
    )


class Endless(Site):
    """A server that sends without end, and says so (`honest`) or says nothing of the length."""

    honest = True

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if self.honest:
            request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        self.sent = 0
        with contextlib.suppress(OSError):
            while self.sent < 200 << 20:
                self.sent += request.wfile.write(bytes(1 << 20))


@pytest.mark.parametrize("is_honest", [True, False])
@pytest.mark.parametrize(
    "fields", [{"bytes": 300_000}, {"max_bytes": 300_000}, {"bytes": 300_000, "sha256": None}]
)
def test_a_server_that_sends_without_end_is_left_at_the_size_of_the_file(
    is_honest: bool, fields: dict[str, Any], register: Any
) -> None:
    site = Endless()
    site.honest = is_honest
    known_fields = {"name": "thing.bin", "urls": [site.url], "sha256": SHA256, **fields}
    register({key: value for key, value in known_fields.items() if value is not None})
    with pytest.raises(
        FetchError, match=r"sends more of thing.bin than .* 300,000 bytes.*it was removed"
    ):
        fetch_asset("thing")
    assert not list(local_files.asset_folder("thing").glob("*thing*")), "no piece of it stays"
    site.server.shutdown()
    site.server.server_close()


def test_a_file_of_unknown_size_has_a_bound_and_a_copy_keeps_to_it(
    register: Any, tmp_path: Path
) -> None:
    assert local_files.AssetFile(name="x").limit == 16 << 30
    register({"name": "thing.bin", "max_bytes": 10})
    (large_path := tmp_path / "large.bin").write_bytes(bytes(11))
    with pytest.raises(FetchError, match="it has 11 bytes, wanted 10 at most"):
        fetch_asset("thing", large_path)
    with pytest.raises(StorageError, match="is a device"):
        fetch_asset("thing", Path("/dev/zero"))
    (tmp_path / "link.bin").symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="is a device"):
        fetch_asset("thing", tmp_path / "link.bin")


def test_what_shows_that_a_file_is_the_published_one_is_said(site: Site, register: Any) -> None:
    whole_fields = (
        {"name": "a", "sha256": SHA256},
        {"name": "b", "git_blob": "0" * 40},
        {"name": "c", "md5": "0" * 32},
    )
    assert [local_files.AssetFile(**fields).verification.split()[0] for fields in whole_fields] == [
        "sha256",
        "git",
        "md5",
    ]
    assert "32 bits" in local_files.AssetFile(name="d", sha256_prefix="0" * 8).verification
    register({"name": "thing.bin", "urls": [site.url]})
    assert "trust on first use" in CliRunner().invoke(main, ["fetch", "thing"]).stdout
    assert "trust on first use" in CliRunner().invoke(main, ["list", "assets", "-v"]).stdout
    assert any(
        f.area == "asset" and "trust on first use" in f.detail for f in doctor._asset_findings()
    )


def test_an_md5_that_users_publish_is_checked(site: Site, register: Any) -> None:
    md5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    register({"name": "thing.bin", "urls": [site.url], "md5": md5})
    (asset,) = fetch_asset("thing")
    assert asset.has_known_hash and asset.verification == "md5 known"


def test_a_prefix_is_checked_and_the_whole_hash_recorded(site: Site, register: Any) -> None:
    register({"name": "thing.bin", "urls": [site.url], "sha256_prefix": SHA256[:8]})
    assert fetch_asset("thing")[0].has_known_hash
    assert local_files.read_receipts("thing") == {
        "thing.bin": local_files.Receipt(sha256=SHA256, is_from_url=True)
    }


def test_where_no_hash_is_published_the_first_one_binds(site: Site, register: Any) -> None:
    register({"name": "thing.bin", "urls": [site.url]})
    (asset,) = fetch_asset("thing")
    assert (asset.sha256, asset.has_known_hash) == (SHA256, False)
    asset.path.unlink()
    site.body = BODY[:-1] + b"?"
    with pytest.raises(FetchError, match="the first fetch stored"):
        fetch_asset("thing")
    site.body = BODY
    assert fetch_asset("thing")[0].sha256 == SHA256


def test_a_file_of_ones_own_is_vouched_for_by_a_hash_alone(
    site: Site, register: Any, tmp_path: Path
) -> None:
    (own_path := tmp_path / "own.bin").write_bytes(b"junk")
    register({"name": "thing.bin", "urls": [site.url]})
    (asset,) = fetch_asset("thing", own_path)
    assert not asset.is_from_url and local_files.require_local_file("thing").is_verified is False
    command_result = CliRunner().invoke(main, ["fetch", "thing", "--from", str(own_path)])
    assert (
        "came by --from, so nothing shows that it is the published file" in command_result.output
        and "binding" not in command_result.output
    )
    (genuine,) = fetch_asset("thing")  # the address outranks it
    assert (
        genuine.sha256,
        genuine.is_from_url,
        local_files.require_local_file("thing").is_verified,
    ) == (SHA256, True, True)
    assert fetch_asset("thing", own_path)[0].is_unchanged
    genuine.path.unlink()
    with pytest.raises(FetchError, match="the first fetch stored"):
        fetch_asset("thing", own_path)
    register({"name": "other.bin", "urls": [site.url], "sha256": SHA256})
    own_path.write_bytes(BODY)
    assert (
        fetch_asset("thing", own_path)[0].has_known_hash
        and local_files.require_local_file("thing").is_verified
    ), "a known hash says enough"


def test_an_altered_file_is_refused_and_brought_again(site: Site, register: Any) -> None:
    register(one_file(site))
    (asset,) = fetch_asset("thing")
    asset.path.write_bytes(BODY[:-1] + b"?")
    with pytest.raises(WeightsError, match="which it arrived with"):
        local_files.verify_local_file("thing")
    assert not fetch_asset("thing")[0].is_unchanged
    assert local_files.verify_local_file("thing").sha256 == SHA256


def test_the_second_address_is_tried_and_both_faults_are_told(site: Site, register: Any) -> None:
    register(one_file(site, urls=["http://127.0.0.1:9/thing.bin", site.url]))
    assert fetch_asset("thing")[0].path.read_bytes() == BODY
    register(one_file(site, name="other.bin", urls=["http://127.0.0.1:9/a", site.url]))
    site.status = 404
    with pytest.raises(
        FetchError, match=r"127.0.0.1:9/a: .*refused.*; .*the server says 404 .*--from"
    ):
        fetch_asset("thing")


def test_a_part_that_does_not_fit_is_dropped(site: Site, register: Any) -> None:
    register(one_file(site))
    part = local_files.asset_folder("thing") / ".thing.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(BODY) + 5))
    site.status = 416
    with pytest.raises(FetchError, match="416"):
        fetch_asset("thing")
    assert not part.exists()
    site.status = 200
    assert fetch_asset("thing")[0].path.read_bytes() == BODY


def test_a_local_file_or_folder_is_checked_the_same_way(
    site: Site, register: Any, tmp_path: Path
) -> None:
    register(one_file(site), {"name": "two.bin", "sha256": hashlib.sha256(b"two").hexdigest()})
    folder = tmp_path / "have"
    folder.mkdir()
    (folder / "thing.bin").write_bytes(BODY)
    (folder / "two.bin").write_bytes(b"2")
    with pytest.raises(FetchError, match="is not two.bin: it has sha256"):
        fetch_asset("thing", folder)
    (folder / "two.bin").write_bytes(b"two")
    assert [b.path.name for b in fetch_asset("thing", folder)] == ["thing.bin", "two.bin"]
    assert site.asked == []
    with pytest.raises(FetchError, match="give --from their folder"):
        fetch_asset("thing", folder / "two.bin")
    with pytest.raises(BenchError, match="has no file three.bin"):
        local_files.find_local_file("thing", "three.bin")
    assert local_files.verify_local_file("thing", "two.bin").path.read_bytes() == b"two"


def test_what_has_no_address_says_where_it_comes_from(register: Any) -> None:
    register({"name": "thing.bin"})
    with pytest.raises(
        FetchError, match=r"no public address; download it yourself and give --from \(a test\)"
    ):
        fetch_asset("thing")
    register({"name": "thing.bin", "urls": ["file:///etc/passwd"]})
    with pytest.raises(FetchError, match="no web address"):
        fetch_asset("thing")


def test_faults_of_an_assets_file_are_named(register: Any) -> None:
    register({"name": "../../thing.bin"})
    with pytest.raises(BenchError, match="not a plain name"):
        fetch_asset("thing")
    with pytest.raises(UnknownNameError, match="did you mean thing"):
        fetch_asset("thign")


def test_the_verb_says_what_it_did(site: Site, register: Any) -> None:
    register({"name": "thing.bin", "urls": [site.url]})
    command_result = CliRunner().invoke(main, ["fetch", "thing"])
    assert command_result.exit_code == 0
    assert (
        f"fetched, sha256 {SHA256} (no hash is published" in command_result.stdout
        and "Licence: CC0" in command_result.stdout
    )
    assert "up to date" in CliRunner().invoke(main, ["fetch", "thing"]).stdout
    assert '"is_unchanged": true' in CliRunner().invoke(main, ["fetch", "thing", "--json"]).stdout


@pytest.mark.parametrize("name", registry.list_names("assets"))
def test_every_shipped_asset_is_well_formed(name: str) -> None:
    known_asset = local_files.load_asset(name)
    assert all(url.startswith("http") for file in known_asset.files for url in file.urls)
    assert known_asset.licence and known_asset.source
    assert "rust on first use" in known_asset.note or all(
        file.has_known_hash for file in known_asset.files
    ), "a file without a hash says so"
    assert all(url.startswith("https://") for file in known_asset.files for url in file.urls), (
        "what lies between can alter http"
    )
    moving = [
        file
        for file in known_asset.files
        if any("/main/" in url or "/master/" in url or "=master" in url for url in file.urls)
    ]
    assert all(file.sha256 for file in moving) or "revision" in known_asset.note, (
        "an address that moves says so or has a whole hash"
    )
