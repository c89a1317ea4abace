"""Weights files that lie, that are cut, that hold code, or that are none."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile.room import Case, Payload, Room, file_writer, odd_file, run_builders, run_case, table
from safetensors.torch import load_file, save

OPTIONS = (
    "--encoding",
    "rope-axial",
    "--config",
    "heads=2",
    "--config",
    "size=28",
    "--suite",
    "digits",
    "--sampler",
    "flow",
)
TINY_TEXT = "home/checkpoints/tiny.safetensors"


def register(name: str) -> tuple[str, ...]:
    return ("register", "mine", "--weights", name, *OPTIONS)


# ------------------------------------------------------------------------------------------------
# safetensors


def tensors(header: Any, data: bytes = bytes(64), size: int | None = None) -> bytes:
    """A file of this header, which may state another length than it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(start: int = 0, end: int = 64, dtype: str = "F32", shape: Any = (16,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS: dict[str, bytes] = {
    "empty": b"",
    "seven-bytes": bytes(7),
    "header-beyond-end": tensors({"a": tensor()}, size=1 << 30),
    "header-of-all-ones": tensors({"a": tensor()}, size=2**64 - 1),
    "header-of-nothing": tensors({}, data=b""),
    "header-no-json": tensors(b"{not json"),
    "header-not-utf8": tensors(b'{"\xff": 1}'),
    "header-a-list": tensors([1, 2]),
    "header-nested": tensors(b"[" * 100_000),
    "header-nested-note": tensors(b'{"__metadata__":' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
    "overlapping": tensors({"a": tensor(0, 64), "b": tensor(32, 96)}, data=bytes(96)),
    "beyond-end": tensors({"a": tensor(0, 4096, shape=(1024,))}),
    "reversed": tensors({"a": tensor(64, 0)}),
    "hole": tensors({"a": tensor(0, 32, shape=(8,)), "b": tensor(48, 64, shape=(4,))}),
    "trailing-bytes": tensors({"a": tensor()}, data=bytes(100)),
    "negative-offset": tensors({"a": tensor(-64, 0)}),
    "unknown-dtype": tensors({"a": tensor(dtype="F99")}),
    "dtype-of-another-size": tensors({"a": tensor(dtype="F64")}),
    "negative-shape": tensors({"a": tensor(shape=(-16,))}),
    "overflowing-shape": tensors({"a": tensor(shape=(2**62, 2**62))}),
    "shape-no-list": tensors({"a": tensor(shape="16")}),
    "text-for-offsets": tensors({"a": {"dtype": "F32", "shape": [16], "data_offsets": "0-64"}}),
    "tensor-of-null": tensors({"a": None}),
    "note-of-numbers": tensors({"__metadata__": {"checkpoint": 1}, "a": tensor()}),
    "note-a-list": tensors({"__metadata__": [1], "a": tensor()}),
    "html": b"<!doctype html><title>404</title>",
    "pointer-of-git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
}  # fmt: skip

HEADER_CASES = [
    Case(
        name,
        file_writer("x.safetensors", data),
        register("x.safetensors"),
        1,
        r"x\.safetensors is not a readable safetensors|of no known backbone",
    )
    for name, data in HEADERS.items()
]


def change_weights(
    change: Callable[[dict[str, Any]], Any], note: dict[str, str] | None = None
) -> Callable[[Room], None]:
    """Write x.safetensors: the weights of tiny after a change, with another note."""

    def build(room: Room) -> None:
        state: dict[str, Any] = load_file(room.folder / TINY_TEXT)
        change(state)
        (room.folder / "x.safetensors").write_bytes(save(state, note))

    return build


def write_note(**fields: Any) -> Callable[[Room], None]:
    return change_weights(lambda state: None, {"checkpoint": json.dumps(fields)})


def first_matrix_name(state: dict[str, Any]) -> str:
    return next(name for name in sorted(state) if state[name].ndim == 2)


STATES = [
    Case("key-missing", change_weights(lambda s: s.pop(first_matrix_name(s))), register("x.safetensors"), 1, "missing "),
    Case("key-more", change_weights(lambda s: s.update(more=torch.zeros(1))), register("x.safetensors"), 1, "unexpected more"),
    Case("key-that-steers", change_weights(lambda s: s.update({"\x1b[2J\u202e": torch.zeros(1)})), register("x.safetensors"), 1, "unexpected "),
    Case("key-of-a-path", change_weights(lambda s: s.update({"../../x": torch.zeros(1)})), register("x.safetensors"), 1, "unexpected ../../x"),
    Case("key-very-long", change_weights(lambda s: s.update({"k" * 10_000: torch.zeros(1)})), register("x.safetensors"), 1, "unexpected k"),
    Case("no-key", change_weights(lambda s: s.clear()), register("x.safetensors"), 1, "of no known backbone"),
    Case("shape", change_weights(lambda s: s.update({first_matrix_name(s): s[first_matrix_name(s)][:1].clone()})), register("x.safetensors"), 1, "mis-shaped|of no"),
    Case("integers", change_weights(lambda s: s.update({k: v.int() for k, v in s.items()})), register("x.safetensors"), 1, "of another kind .* int32 for float32"),
    Case("note-other-encoding", write_note(encoding="ape"), register("x.safetensors"), 1, "contains ape parameters, not rope-axial"),
    Case("note-unknown-backbone", write_note(backbone="../../x"), register("x.safetensors"), 1, "backbone"),
    Case("note-unknown-suite", write_note(suite="../x"), ("register", "mine", "--weights", "x.safetensors", *OPTIONS[:6], "--sampler", "flow"), 1, "suite"),
    Case("note-no-json", change_weights(lambda s: None, {"checkpoint": "{"}), register("x.safetensors"), 0, "mine", ("home/checkpoints/*mine.*",)),
    Case(
        "note-nested", change_weights(lambda s: None, {"checkpoint": "[" * 9999}), register("x.safetensors"), 0, "mine", ("home/checkpoints/*mine.*",)
    ),
    Case("note-bad-sizes", write_note(config={"hidden": 10**9}), register("x.safetensors"), 1, "hidden"),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# pickles


def write_pickle(
    name: str,
    write: Callable[[Any, Path], None],
    wrap: Callable[[Any], Any] = lambda payload: payload,
) -> Callable[[Room], None]:
    """Write a file that makes the canary when it is unpickled."""
    return lambda room: write(wrap(Payload(room.canary)), room.folder / name)


def save_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def dump_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def torch_bytes(value: Any) -> bytes:
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


def rebuild_zip(
    data: bytes, change: Callable[[zipfile.ZipInfo, bytes], list[tuple[zipfile.ZipInfo, bytes]]]
) -> bytes:
    """A zip archive again, each of its members as `change` gives it."""
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old_zip_file,
        zipfile.ZipFile(buffer := io.BytesIO(), "w") as new_zip_file,
    ):
        for info in old_zip_file.infolist():
            for member, content in change(info, old_zip_file.read(info)):
                new_zip_file.writestr(member, content)
    return buffer.getvalue()


GOOD_TORCH_BYTES = torch_bytes({"a": torch.zeros(2)})
NOT_OPENED = "holds Python objects beside tensors|is not a readable torch file"
PICKLES = [
    Case(
        f"{kind}-{suffix}",
        write_pickle(f"x.{suffix}", write),
        register(f"x.{suffix}"),
        1,
        NOT_OPENED,
    )
    for kind, write in {"zip": save_zip, "legacy": legacy, "bare": dump_pickle}.items()
    for suffix in ("pt", "pth", "bin", "ckpt", "pkl")
]
PICKLES += [
    Case("payload-in-state", write_pickle("x.pt", save_zip, lambda p: {"a": torch.zeros(1), "b": p}), register("x.pt"), 1, NOT_OPENED),
    Case("payload-in-ema", write_pickle("x.pt", save_zip, lambda p: {"ema": {"a": torch.zeros(1)}, "opt": p}), register("x.pt"), 1, NOT_OPENED),
    Case(
        "payload-in-args", write_pickle("x.pt", save_zip, lambda p: {"ema": {}, "args": argparse.Namespace(model=p)}), register("x.pt"), 1, NOT_OPENED
    ),
    Case("payload-called-safetensors", write_pickle("x.safetensors", save_zip), register("x.safetensors"), 1, "is not a readable safetensors"),
    Case("pickle-bare-safetensors", write_pickle("x.safetensors", dump_pickle), register("x.safetensors"), 1, "is not a readable safetensors"),
    Case("torch-empty", file_writer("x.pt", b""), register("x.pt"), 1, "is not a readable torch file"),
    Case("torch-text", file_writer("x.pt", b"hello\n"), register("x.pt"), 1, "x.pt "),
    Case("torch-cut", file_writer("x.pt", GOOD_TORCH_BYTES[: len(GOOD_TORCH_BYTES) // 2]), register("x.pt"), 1, "x.pt "),
    Case("torch-without-pickle", file_writer("x.pt", rebuild_zip(GOOD_TORCH_BYTES, lambda i, b: [] if "data.pkl" in i.filename else [(i, b)])), register("x.pt"), 1, "x.pt "),
    Case("torch-without-data", file_writer("x.pt", rebuild_zip(GOOD_TORCH_BYTES, lambda i, b: [] if "/data/" in i.filename else [(i, b)])), register("x.pt"), 1, "x.pt "),
    Case("torch-list", file_writer("x.pt", torch_bytes([torch.zeros(1)])), register("x.pt"), 1, "not a bare state dict"),
    Case("torch-number", file_writer("x.pt", torch_bytes(3)), register("x.pt"), 1, "not a bare state dict"),
    Case("torch-no-tensors", file_writer("x.pt", torch_bytes({"a": 1})), register("x.pt"), 1, "not a bare state dict"),
    Case("torch-empty-dict", file_writer("x.pt", torch_bytes({})), register("x.pt"), 1, "not a bare state dict"),
    Case("torch-numbers-for-keys", file_writer("x.pt", torch_bytes({1: torch.zeros(1)})), register("x.pt"), 1, "x.pt|no backbone"),
    Case("safetensors-called-pt", lambda room: (room.folder / "x.pt").write_bytes((room.folder / TINY_TEXT).read_bytes()), register("x.pt"), 1, "x.pt "),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# what is no file, shards, what changed


def index(**fields: str) -> Callable[[Room], None]:
    return file_writer("x.safetensors.index.json", json.dumps({"weight_map": fields}))


SHARDED_ITEMS = register("x.safetensors.index.json")
PLACES_CASES = [
    Case(
        f"{kind}-{suffix}",
        odd_file(f"x.{suffix}", kind),
        register(f"x.{suffix}"),
        1,
        rf"x\.{suffix}",
    )
    for kind in ("pipe", "device", "loop", "dangling", "folder", "missing", "sparse")
    for suffix in ("safetensors", "pt")
    if (kind, suffix) != ("sparse", "pt")
]
PLACES_CASES += [
    Case("index-leaves-folder", index(a="../x.safetensors"), SHARDED_ITEMS, 1, "wanted .safetensors files beside it"),
    Case("index-absolute", index(a="/etc/passwd"), SHARDED_ITEMS, 1, "wanted .safetensors files beside it"),
    Case("index-of-pickles", index(a="x.bin"), SHARDED_ITEMS, 1, "wanted .safetensors files beside it"),
    Case("index-missing-shard", index(a="a.safetensors"), SHARDED_ITEMS, 1, "which is missing"),
    Case("index-no-json", file_writer("x.safetensors.index.json", b"{"), SHARDED_ITEMS, 1, "is not an index of weights"),
    Case("index-nested", file_writer("x.safetensors.index.json", b"[" * 100_000), SHARDED_ITEMS, 1, "is not an index of weights"),
    Case("index-map-a-list", file_writer("x.safetensors.index.json", b'{"weight_map": [1]}'), SHARDED_ITEMS, 1, "is not an index of weights"),
    Case("index-without-map", file_writer("x.safetensors.index.json", b"{}"), SHARDED_ITEMS, 1, "is not an index of weights"),
    Case("index-pipe", odd_file("x.safetensors.index.json", "pipe"), SHARDED_ITEMS, 1, "is a pipe"),
    Case("index-shard-pipe", run_builders(index(a="a.safetensors"), odd_file("a.safetensors", "pipe")), SHARDED_ITEMS, 1, "a.safetensors"),
    Case(
        "index-other-keys", run_builders(index(a="a.safetensors"), file_writer("a.safetensors", tensors({"b": tensor()}))), SHARDED_ITEMS, 1, "disagree about 'a'"
    ),
    Case("index-steers", index(a="\x1b[2J.safetensors"), SHARDED_ITEMS, 1, "safetensors"),
    Case("manifest-empty", file_writer("lora/manifest.json", b"{}"), register("lora"), 1, "manifest"),
    Case("manifest-nested", file_writer("lora/manifest.json", b"[" * 100_000), register("lora"), 1, "manifest"),
    Case("manifest-pipe", odd_file("lora/manifest.json", "pipe"), register("lora"), 1, "manifest"),
]  # fmt: skip

GENERATE = ("generate", "tiny", "--count", "2", "--out", "new")
REGISTERED_TEXT = "home/checkpoints/tiny"


def flip(room: Room) -> None:
    path = room.folder / TINY_TEXT
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CHANGED_CASES = [
    Case("registered-flip", flip, GENERATE, 1, "has sha256 "),
    Case("registered-cut", lambda room: os.truncate(room.folder / TINY_TEXT, 100), GENERATE, 1, "has sha256 "),
    Case("registered-missing", odd_file(TINY_TEXT, "missing"), GENERATE, 1, "is missing"),
    Case("registered-pipe", odd_file(TINY_TEXT, "pipe"), GENERATE, 1, "tiny.safetensors"),
    Case("registered-device", odd_file(TINY_TEXT, "device"), GENERATE, 1, "/dev/zero"),
    Case("export-flip", flip, ("export", "tiny", "out.safetensors"), 1, "has sha256 "),
    Case("figure-flip", flip, ("figure", "attention-distance", "tiny", "--count", "1", "--out", "a.svg"), 1, "has sha256 "),
    Case("export-onto-weights", None, ("export", "tiny", TINY_TEXT, "--replace"), 1, "is also an input file"),
    Case("export-onto-file", file_writer("out.safetensors", b"mine"), ("export", "tiny", "out.safetensors"), 1, "holds something else"),
    Case("export-onto-pipe", odd_file("out.safetensors", "pipe"), ("export", "tiny", "out.safetensors", "--replace"), 1, "not a file"),
]  # fmt: skip


@table(*HEADER_CASES, *STATES)
def test_safetensors_that_lie_are_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*PICKLES)
def test_pickles_run_no_code(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*PLACES_CASES)
def test_what_is_no_file_of_weights_is_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*CHANGED_CASES)
def test_registered_weights_that_changed_are_not_used(case: Case, room: Room) -> None:
    run_case(case, room)


def test_the_payload_is_one(room: Room) -> None:
    """Unpickled as others do, it makes the canary; so the cases above can fail."""
    dump_pickle(Payload(room.canary), room.folder / "x.pkl")
    pickle.loads((room.folder / "x.pkl").read_bytes())
    assert room.canary.exists()
