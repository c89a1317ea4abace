"""fetch hub:OWNER/NAME: what is needed of a model arrives, its commit is recorded, and nothing else
of the hub is used. The hub is a small server on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from harope_bench.assets import hub
from harope_bench.cli import main
from harope_bench.core.errors import FetchError, MissingAssetError

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "model_index.json": b"{}",
    "README.md": b"not needed",
    "checkpoint.safetensors": b"the whole model in one file, not needed",
    "unet/config.json": b"{}",
    "unet/model.safetensors": b"weights",
    "unet/model.bin": b"not needed",
    "unet/model.fp16.safetensors": b"a variant, not needed",
    "tokenizer/merges.txt": b"a b",
    "code.py": b"not needed",
}
NEEDED_FILES = {
    "model_index.json",
    "unet/config.json",
    "unet/model.safetensors",
    "tokenizer/merges.txt",
}


class Hub:
    """A server with one model, `tiny/model`, whose branch `main` is COMMIT."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.requests: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self, has_body=True)

            def do_HEAD(self) -> None:
                site.answer(self, has_body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, has_body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append(path)
        listing = [
            {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
            for name, data in self.files.items()
        ]
        start = f"/tiny/model/resolve/{COMMIT}/"
        if path.startswith("/api/models/tiny/model/tree/"):
            self._send(request, json.dumps(listing).encode(), "application/json", has_body)
        elif path in (f"/api/models/tiny/model/revision/{r}" for r in ("main", COMMIT)) or (
            path == "/api/models/tiny/model"
        ):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": "tiny/model", "sha": COMMIT, "siblings": siblings}
            self._send(request, json.dumps(info).encode(), "application/json", has_body)
        elif path.startswith(start) and path.removeprefix(start) in self.files:
            data = self.files[path.removeprefix(start)]
            self._send(request, data, "application/octet-stream", has_body)
        else:
            request.send_response(404)
            request.send_header("X-Error-Code", "RepoNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()

    def _send(
        self, request: BaseHTTPRequestHandler, data: bytes, content_type: str, has_body: bool
    ) -> None:
        request.send_response(200)
        request.send_header("Content-Type", content_type)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        request.end_headers()
        if has_body:
            request.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Hub]:
    site = Hub()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hf/hub"
    monkeypatch.setattr(hub, "_cache_folder", lambda: folder)
    return folder


def fetch(server: Hub, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `fetch` in another process, because the library reads its environment once."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_CACHE": str(tmp_path / "hf/hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "harope_bench", "fetch", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_model_arrives_with_its_commit(server: Hub, cache: Path, tmp_path: Path) -> None:
    process = fetch(server, tmp_path, "hub:tiny/model")
    assert process.returncode == 0, process.stderr
    snapshot = cache / "models--tiny--model/snapshots" / COMMIT
    assert f"{snapshot}: commit {COMMIT}, 4 files, " in process.stdout
    files = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()}
    assert files == NEEDED_FILES
    assert all((snapshot / name).read_bytes() == FILES[name] for name in NEEDED_FILES)
    assert {path.removeprefix(f"/tiny/model/resolve/{COMMIT}/") for path in server.requests} >= (
        NEEDED_FILES
    )

    # The id stands for the commit now, without a network and without the branch.
    assert not (cache / "models--tiny--model/refs/main").exists()
    assert hub.require_snapshot(hub.ModelId("tiny/model")) == snapshot
    with pytest.raises(MissingAssetError, match="run: harope-bench fetch hub:tiny/model@other"):
        hub.require_snapshot(hub.ModelId("tiny/model", "other"))

    again = fetch(server, tmp_path, "hub:tiny/model@main", "--json")
    (entry,) = json.loads(again.stdout)["models"]
    assert (entry["commit"], entry["n_files"], entry["folder"]) == (COMMIT, 4, str(snapshot))


def test_a_model_that_is_not_there_is_one_line(server: Hub, tmp_path: Path) -> None:
    process = fetch(server, tmp_path, "hub:tiny/none")
    assert process.returncode == 1
    assert process.stderr.startswith("harope-bench: tiny/none cannot be downloaded: ")
    assert len(process.stderr.strip().splitlines()) == 1


def test_weights_that_are_not_read_are_not_downloaded() -> None:
    model = hub.ModelId("tiny/model")
    with pytest.raises(FetchError, match=r"tiny/model has no \.safetensors weights"):
        hub._needed_patterns(model, ["model_index.json", "unet/model.bin"])
    assert hub._needed_patterns(model, ["lora.safetensors"]) == hub.MODEL_FILES


def test_a_text_that_is_no_model_is_one_line() -> None:
    for words in (["fetch", "hub:nothing"], ["fetch", "hub:a/b", "--from", "folder"]):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1
