"""Readers of assets, receipts and downloads."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
from hostile import documents as d
from hostile.parsers.homes import at_home
from hostile.parsers.images import JUDGE
from hostile.parsers.table import Table

from harope_bench.assets import download, hub, local_files
from harope_bench.core import text_file, toml_file
from harope_bench.suites import coco_fid

TABLE = Table()
parser = TABLE.add

parser(
    "asset",
    {"x.toml": d.toml(d.ASSET)},
    lambda f: local_files.Asset.model_validate(toml_file.read_toml(f / "x.toml")),
    errors=(ValueError,),
)


def read_asset(folder: Path) -> object:
    at_home(folder)
    receipts = (
        local_files.read_receipts("geneval"),
        local_files.find_local_file("geneval", "evaluation_metadata.jsonl"),
    )
    return receipts, local_files.verify_local_file("geneval", "evaluation_metadata.jsonl")


def read_coco_reference(folder: Path) -> object:
    at_home(folder)
    return coco_fid.PLUGIN.reference(JUDGE)


COCO_REFERENCE = f"references/coco-val2014-512-{JUDGE}.npz"
parser(
    "COCO's reference",
    lambda: {COCO_REFERENCE: d.npz_of("reference", {"judge_sha256": np.array(d.HASH)})},
    read_coco_reference,
)


class Answer:
    """What a server says of a file."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers


def read_headers(folder: Path) -> object:
    lines = (
        line.partition(": ") for line in text_file.read_text(folder / "headers.txt").split("\n")
    )
    return download._served_version(Answer({name: value for name, _, value in lines}), 3)


HEADERS = b'ETag: "x"\nContent-Length: 5\nContent-Range: bytes 3-7/8'
parser("a server's headers", {"headers.txt": HEADERS}, read_headers)
parser("receipt", d.prompt_home, read_asset, "assets/geneval/receipt.json")
TAG = b'https://a.test/x\n"etag"\n123\n'
parser(
    "half a download",
    {"x.etag": TAG, "x.part": b"half"},
    lambda f: download._read_version(f / "x.part", "https://a.test/x"),
    "x.etag",
)
COMMIT = "0123456789" * 4
HUB = f"models--owner--name/snapshots/{COMMIT}/model_index.json"


def find_model(folder: Path) -> object:
    at_home(folder / "home")
    models = [hub.ModelId("owner/name", revision) for revision in (None, "main", COMMIT, "v1")]
    with mock.patch.object(hub, "_cache_folder", return_value=folder):
        return [hub.find_snapshot(model) for model in models]


parser(
    "hub's copy",
    {
        "home/hub/owner--name.json": d.file_of("receipt", {"repository": "owner/name", "commit": COMMIT}),
        "models--owner--name/refs/main": COMMIT.encode(),
        HUB: b"{}",
    },
    find_model,
    "home/hub/owner--name.json",
    "models--owner--name/refs/main",
)  # fmt: skip
