"""The doors for what comes from outside: files, images, JSON, TOML, arrays, indices, numbers, and
text on its way out.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import os
import socket
import struct
import subprocess
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError

import harope_bench
from harope_bench.analysis import contamination
from harope_bench.cli import main
from harope_bench.core import (
    array_archive,
    chart_schema,
    checksums,
    escaping,
    index_ranges,
    json_file,
    json_lines,
    registry,
    state_dicts,
    storage,
    text_file,
    toml_file,
)
from harope_bench.core.errors import (
    BenchError,
    FileTooLargeError,
    IrregularFileError,
    OptionError,
    SampleError,
    StorageError,
)
from harope_bench.core.limits import validate_config
from harope_bench.core.regular_file import open_regular, read_regular
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.data import adm_npz, feature_rows, image_io
from harope_bench.data.result_store import read_result
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.runners import common
from harope_bench.statistics.gate.baseline import load_baseline_or_runs
from harope_bench.suites import real_images
from harope_bench.suites.imagenet_val import FileImages
from harope_bench.suites.official_layouts import dpg
from harope_bench.training.recipe import Schedule, read_recipe

ROOT = Path(harope_bench.__file__).parent
linux = pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero and pipes")

# Every reader of a file that somebody else may have put there, by what it reads.
READERS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: read_regular(path, 10),
    "text": text_file.read_text,
    "json": json_file.read_json,
    "toml": toml_file.read_toml,
    "lines": json_lines.read_lines,
    "hash": storage.sha256_file,
    "blob": storage.git_blob_id,
    "copy": lambda path: storage.copy_file(path, path.with_name("copy")),
    "mend": json_lines.drop_partial_line,
    "arrays": array_archive.load_arrays,
    "weights": state_dicts.load_weights,
    "npz": adm_npz.images_shape,
    "result": read_result,
    "baseline": load_baseline_or_runs,
    "chart": chart_schema.read_chart,
    "recipe": lambda path: read_recipe(str(path)),
    "captions": lambda path: list(contamination.read_captions(path)),
    "image": image_io.read_image_bytes,
    "picture": lambda path: FileImages([path], [0], True).read_bytes(0),
    "sums": lambda path: checksums.read_checksums(path.parent),
    "plan": lambda path: RunFolder(path.parent).plan,
    "runner": common.file_sha256,
    "runner-image": common.load_image,
}
NAMES = {
    "weights": "x.safetensors",
    "npz": "x.npz",
    "recipe": "x.toml",
    "captions": "x.txt",
    "sums": "SHA256SUMS",
    "plan": "plan.json",
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as first_socket:
        folder = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            first_socket.bind(path.name)
        finally:
            os.chdir(folder)


@linux
@pytest.mark.parametrize("kind", [pipe, device, listener])
@pytest.mark.parametrize("reader", sorted(READERS))
def test_what_is_no_regular_file_is_never_waited_for_nor_read(
    reader: str, kind: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / NAMES.get(reader, "x.bin")
    kind(path)
    with pytest.raises((BenchError, OSError, ValueError)) as excinfo:
        READERS[reader](path)
    assert "\n" not in str(excinfo.value)
    if isinstance(excinfo.value, BenchError):
        assert path.name in str(excinfo.value)


@linux
def test_a_regular_file_behind_a_link_is_read_and_a_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "b", 3) == b"abc"
    with pytest.raises(FileTooLargeError, match="has 3 bytes, at most 2 are read"):
        read_regular(tmp_path / "b", 2)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_sparse_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    for name, read in {
        "x.json": json_file.read_json,
        "x.toml": toml_file.read_toml,
        "x.txt": text_file.read_text,
        "x.png": image_io.read_image_bytes,
    }.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(BenchError, match=r"1,099,511,627,776 bytes, at most [\d,]+ are read"):
            read(tmp_path / name)


# ----------------------------------------------------------------------------------------------
# writing


@linux
@pytest.mark.parametrize("kind", [pipe, device, lambda path: path.symlink_to("elsewhere.txt")])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: storage.write_text(path, "x"),
        lambda path: json_lines.append_line(path, "{}"),
        lambda path: array_archive.write_arrays(path, {"a": np.zeros(2)}),
        lambda path: adm_npz.write_npz(
            path, iter([np.zeros((1, 2, 2, 3), np.uint8)]), (1, 2, 2, 3)
        ),
    ],
)
def test_nothing_but_a_regular_file_is_written_over(
    write: Callable[[Path], None], kind: Callable[[Path], None], tmp_path: Path
) -> None:
    kind(path := tmp_path / "out")
    before = os.lstat(path)
    with pytest.raises(IrregularFileError, match="is not written over"):
        write(path)
    after = os.lstat(path)
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino) and os.listdir(
        tmp_path
    ) == ["out"]


def test_text_that_is_none_is_a_named_error_and_leaves_nothing(tmp_path: Path) -> None:
    for write in (
        lambda: storage.write_text(tmp_path / "a", "x\udc80"),
        lambda: json_lines.append_line(tmp_path / "a", "x\udc80"),
    ):
        with pytest.raises(StorageError, match="not Unicode text"):
            write()
    with pytest.raises(StorageError, match="not Unicode text"):
        toml_file.toml_text({"name": "x\ud800"})
    assert os.listdir(tmp_path) == []


# -----------------------------------------------------------------------------------------------
# images


def image_bytes(form: str, size: tuple[int, int] = (8, 8)) -> bytes:
    Image.new("RGB", size).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


DECODERS: dict[str, Callable[[Path], Any]] = {
    "decode": lambda path: image_io.decode_image(path.read_bytes(), path.name),
    "picture": lambda path: real_images.decode_and_crop(path.read_bytes(), path.name, 8, 1.0),
    "folder": lambda path: open_samples(path.parent).check_image(0),
    "runner": common.load_image,
}


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("form", ["EPS", "TIFF", "GIF", "PPM", "TGA", "PDF", "ICNS"])
def test_a_format_that_is_not_on_the_list_is_not_opened_whatever_its_name(
    decoder: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"
        if form == "EPS"
        else b"%PDF-1.4"
        if form == "PDF"
        else image_bytes(form)
    )
    (path := tmp_path / "x.png").write_bytes(data)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(
        subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started")
    )
    with pytest.raises((SampleError, OSError)):
        DECODERS[decoder](path)


@pytest.mark.parametrize("form", image_io.IMAGE_FORMATS)
def test_each_format_on_the_list_is_read_by_its_bytes(form: str, tmp_path: Path) -> None:
    (path := tmp_path / "x.png").write_bytes(image_bytes(form))
    for decode in DECODERS.values():
        decode(path)
    assert dpg.tile_boxes(path, tiles=1) == [(0, 0, 8, 8)]


def png_of(width: int, height: int) -> bytes:
    """A PNG that states a size; its pixels are not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8193, 13_000, 60_000])
@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_an_image_of_too_many_pixels_is_refused_by_its_header(
    decoder: str, side: int, tmp_path: Path
) -> None:
    (path := tmp_path / "x.png").write_bytes(png_of(side, side))
    with pytest.raises(
        (SampleError, ValueError, Image.DecompressionBombError), match="at most|exceeds limit"
    ):
        DECODERS[decoder](path)


def test_runners_read_what_the_package_reads() -> None:
    assert (common.FORMATS, common.MAX_PIXELS) == (image_io.IMAGE_FORMATS, image_io.MAX_PIXELS)


CALLS = {  # what only the doors may call
    "Image.open": {"data.image_io", "judges.runners.common"},
    "json.loads": {
        "core.json_file",
        "judges.runners.common",
        "core.state_dicts",
        "judges.runners.unidet",
    },
    "json.load": set(),
    "tomllib.loads": {"core.toml_file"},
    "tomllib.load": set(),
    "csv.writer": {"core.escaping"},
    "click.echo": {"commands.terminal"},
    "click.secho": set(),
    "print": set(),
    "open": {"data.feature_rows"},  # of a handle
    "os.open": {
        "core.regular_file",
        "core.part_files",
        "data.feature_rows",
        "judges.runners.common",
    },
    "os.fdopen": {"core.regular_file", "core.storage", "judges.runners.common"},
    "io.open": set(),
    "codecs.open": set(),
    "np.load": {
        "core.array_archive",
        "data.feature_rows",
        "pipeline.verify_results",
    },  # the last of rows that it has just written
    "np.loadtxt": set(),
    "np.genfromtxt": set(),
    "np.fromfile": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "zipfile.ZipFile": {"core.array_file", "data.adm_npz", "core.array_archive", "suites.coco_fid"},
    "gzip.open": {"analysis.contamination"},
    # a method of RealImages, which is no path
    "real_images.read_bytes": {"analysis.attention_hooks", "pipeline.predictions"},
    "eval": set(),
    "exec": set(),
    "os.system": set(),
}
WRITERS = {
    "assets.download",
    "judges.runners.common",
}  # their own half-loaded files; answers of a runner
METHODS = {
    "read_bytes": {
        "suites.official_layouts.base",
        "core.registry",
        "judges.micro.shapes_vision",
        "judges.runners.common",
        "testing.examples.my_annotator",
        "testing.examples.my_extractor",
    },
    "read_text": {
        "testing.new_plugin",
        "core.part_files",
        "suites.dpg_bench",
        "judges.runners.mplug",
        "judges.runners.common",
    },
}


def calls(path: Path) -> set[str]:
    nodes = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    return {ast.unparse(node) for node in nodes if isinstance(node, (ast.Name, ast.Attribute))}


def opens(path: Path) -> list[str]:
    """The calls of `.open` that open a path: those without arguments or with a mode."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    methods = [
        node for node in nodes if isinstance(node.func, ast.Attribute) and node.func.attr == "open"
    ]
    return [ast.unparse(node) for node in methods if not node.args or is_mode(node.args[0])]


def is_mode(node: ast.expr) -> bool:
    alternatives = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
    values = [
        alternative_result.value
        for alternative_result in alternatives
        if isinstance(alternative_result, ast.Constant)
    ]
    return bool(values) and all(
        isinstance(value, str) and set(value) <= set("rwaxbt+") for value in values
    )


def test_no_module_opens_a_path_by_itself() -> None:
    texts = [
        (".".join(path.relative_to(ROOT).with_suffix("").parts), call)
        for path in sorted(ROOT.rglob("*.py"))
        for call in opens(path)
    ]
    assert [f"{module}: {call}" for module, call in texts if module not in WRITERS] == []
    assert {module for module, _ in texts} == WRITERS, "an exception that is none any more"


def test_no_module_goes_round_the_doors() -> None:
    """The exceptions read files of the package itself, or are executed without it."""
    wrong_records = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for call in calls(path):
            allowed_value = CALLS.get(
                call, METHODS.get(call.rpartition(".")[2] if "." in call else "", {module})
            )
            if module not in allowed_value:
                wrong_records.append(f"{module} calls {call}")
    assert wrong_records == []


# ------------------------------------------------------------------------------------------ JSON
# and TOML

DEEP_CONTENT = b"[" * 100_000
HOSTILE_JSON = {
    "deep": DEEP_CONTENT,
    "deep objects": b'{"a":' * 100_000,
    "surrogate": b'{"a": "\\ud800"}',
    "bytes": b'{"a": "\xff"}',
    "cut": b'{"a": 1',
}


@pytest.mark.parametrize("name", sorted(HOSTILE_JSON))
def test_hostile_json_is_one_kind_of_error_for_every_reader(name: str, tmp_path: Path) -> None:
    data = HOSTILE_JSON[name]
    with pytest.raises(ValueError, match="."):
        json_file.parse_json(data)
    (path := tmp_path / "x.json").write_bytes(data)
    for read in (json_file.read_json, read_result, load_baseline_or_runs, chart_schema.read_chart):
        with pytest.raises(BenchError) as excinfo:
            read(path)
        assert "\n" not in str(excinfo.value)
    (lines := tmp_path / "x.jsonl").write_bytes(data + b"\n{}\n")
    for read_line in (json_lines.read_lines, lambda path: list(contamination.read_captions(path))):
        with pytest.raises(BenchError, match="line 1 is not"):
            read_line(lines)


@pytest.mark.parametrize("line", [b"[]", b"1", b'"text"', b"null"])
def test_a_line_that_is_no_object_is_a_named_error(line: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "requests.jsonl").write_bytes(b'{"indices": "0"}\n' + line + b"\n")
    for read in (lambda: json_lines.read_lines(path), RunFolder(tmp_path).requested_indices):
        with pytest.raises(StorageError, match="line 2 is not a JSON object"):
            read()
    (asks := tmp_path / "queries.jsonl").write_bytes(line + b"\n")
    with pytest.raises(SystemExit):
        list(common.read_lines(asks))


def test_a_safetensors_header_nested_too_deeply_is_no_header(tmp_path: Path) -> None:
    (path := tmp_path / "x.safetensors").write_bytes(
        struct.pack("<Q", len(DEEP_CONTENT)) + DEEP_CONTENT
    )
    assert state_dicts.weights_header(path) == {} and state_dicts.weights_metadata(path) == {}
    with pytest.raises(BenchError, match="not a readable safetensors"):
        state_dicts.load_weights(path)


def test_toml_from_the_library_comes_back_whatever_the_characters(tmp_path: Path) -> None:
    odd_text = "".join(map(chr, [*range(32), 0x7F, 0x80, 0x2028, 0xFEFF, 0x1F600])) + '\\"\'\'\'"""'
    fields = {"text": odd_text, "list": [odd_text, odd_text], "table": {"in": {"deep": odd_text}}}
    assert tomllib.loads(toml_file.toml_text(fields)) == fields
    (path := tmp_path / "x.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(BenchError, match="is not readable TOML"):
        toml_file.read_toml(path)
    path.write_bytes(b'a = "\xff"')
    with pytest.raises(BenchError, match="is not readable TOML"):
        toml_file.read_toml(path)


# -----------------------------------------------------------------------------------------------
# arrays


def write_zeros(path: Path, *shapes: tuple[int, ...], dtype: str = "<f8") -> Path:
    """An npz of zeros, written without holding them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, shape in enumerate(shapes):
            with archive.open(f"arr_{number}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": dtype, "fortran_order": False, "shape": shape}
                )
                left = int(np.prod(shape)) * np.dtype(dtype).itemsize
                while left > 0:
                    left -= member.write(bytes(min(left, 1 << 20)))
    return path


def test_a_small_npz_of_much_is_refused_by_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.core import array_file

    monkeypatch.setattr(array_file, "SMALL_ARCHIVE_BYTES", 1 << 20)  # 256 MB as shipped
    monkeypatch.setattr(
        np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was unpacked")
    )
    for shapes in (((1 << 18,),), ((1 << 16,), (1 << 16,), (1 << 16,))):
        with pytest.raises(
            StorageError, match=r"bytes unpack to [\d,]+, at most 1,048,576 are read"
        ):
            array_archive.load_arrays(write_zeros(tmp_path / "x.npz", *shapes))
    assert array_file.MAX_UNPACK_RATIO * (18 << 20) < 4 << 30, "18 MB that hold 4 GB"


def test_what_is_used_of_an_npz_is_what_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.core import array_file

    monkeypatch.setattr(array_file, "SMALL_ARCHIVE_BYTES", 1 << 20)
    path = write_zeros(tmp_path / "x.npz", (4,), (1 << 18,))
    assert array_archive.load_arrays(path, names=["arr_0"])["arr_0"].shape == (4,)


def test_images_of_an_npz_are_read_in_bounded_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zeros(tmp_path / "x.npz", (9, 4, 4, 3), dtype="|u1")
    monkeypatch.setattr(adm_npz, "BATCH_BYTES", 100)  # two images of 48 bytes
    assert [len(batch) for batch in adm_npz.read_batches(path, 9)] == [2, 2, 2, 2, 1]
    monkeypatch.setattr(adm_npz, "MAX_PIXELS", 15)
    with pytest.raises(SampleError, match="at most 15 pixels"):
        adm_npz.images_shape(path)


@pytest.mark.parametrize("name", ["x.txt.gz", "x.jsonl.gz", "x.csv.gz"])
def test_a_packed_file_of_one_line_has_a_bound(name: str, tmp_path: Path) -> None:
    with gzip.open(path := tmp_path / name, "wb") as file:
        for _ in range(4):
            file.write(b"a" * (1 << 19))
    with pytest.raises(StorageError, match="longer than 1,048,576 characters"):
        list(contamination.read_captions(path))


# ----------------------------------------------------------------------------------- indices and
# numbers


def test_ranges_are_as_long_as_they_are_and_no_larger() -> None:
    ranges = index_ranges.parse_ranges("0-99999999999,5")
    assert (
        len(ranges) == 10**11
        and 10**11 - 1 in ranges
        and 10**11 not in ranges
        and ranges[-1] == 10**11 - 1
    )
    assert str(ranges.difference(range(3))) == "3-99999999999"
    with pytest.raises(ValueError, match="at most 1,000,000 in one request"):
        index_ranges.parse_indices("0-99999999")
    with pytest.raises(ValueError, match="at most 1,000,000 in one request"):
        index_ranges.parse_indices(",".join(f"{k}00000-{k}99999" for k in range(11)))
    with pytest.raises(ValueError, match="is no index range"):
        index_ranges.parse_indices("9" * 5000)


def test_ranges_agree_with_sets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (set(rng.integers(0, 30, rng.integers(0, 20)).tolist()) for _ in range(2))
        from_indices, two = (
            index_ranges.IndexRanges.from_indices(a),
            index_ranges.IndexRanges.from_indices(b),
        )
        assert (
            list(from_indices) == sorted(a)
            and len(from_indices) == len(a)
            and [from_indices[k] for k in range(len(a))] == sorted(a)
        )
        assert list(from_indices.difference(b)) == sorted(a - b) and list(
            from_indices.union(two)
        ) == sorted(a | b)
        assert all((i in from_indices) == (i in a) for i in range(-1, 31))


def test_a_run_that_was_asked_for_too_much_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "requests.jsonl").write_text('{"indices": "0-99999999"}\n' * 3)
    assert (
        len(RunFolder(tmp_path).requested_indices()) == 10**8
        and len(RunFolder(tmp_path).missing_indices(RunFolder(tmp_path).requested_indices()))
        == 10**8
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--indices", "0-99999999"],
        ["--count", "1000000000"],
        ["--resolution", "1000000000"],
        ["--steps", "1000000000"],
        ["--seed", str(2**64)],
    ],
)
def test_absurd_numbers_end_generate_before_anything_is_written(
    words: list[str], tmp_path: Path
) -> None:
    command_result = CliRunner().invoke(
        main, ["generate", "digits-harope", "--out", str(tmp_path / "out"), *words]
    )
    assert (
        command_result.exit_code in (1, 2)
        and "unexpected" not in command_result.output
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"resolution": 10**9, "tile": 1},
        {"resolution": 8, "tile": 10**9},
        {"resolution": 8192, "tile": 4096},
        {"resolution": 8, "tile": 1, "steps": 10**9},
    ],
)
def test_settings_have_upper_bounds(fields: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Settings(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        "threads = 1000000",
        "batch = 1000000000",
        "steps = 1000000000000",
        "seed = 99999999999999999999",
        "hidden = 1000000000",
        "classes = 1000000000",
    ],
)
def test_every_number_of_a_recipe_has_an_upper_bound(line: str, tmp_path: Path) -> None:
    lines = registry.find_entry("recipes", "digits-dit").path.read_text().splitlines()  # type: ignore[union-attr]
    key = line.split(" = ")[0]
    changed_texts = [text for text in lines if not text.startswith(f"{key} = ")]
    section = "[config]" if key in ("hidden", "classes") else "[schedule]"
    changed_texts.insert(changed_texts.index(section) + 1, line)
    (path := tmp_path / "digits-dit.toml").write_text("\n".join(changed_texts))
    with pytest.raises(OptionError, match=f"recipe .*{key}"):
        read_recipe(str(path))


def test_the_numbers_of_shipped_recipes_and_checkpoints_are_within_the_bounds() -> None:
    for name in registry.list_names("recipes"):
        assert read_recipe(name)[0].name == name
    for name, entry in registry.list_entries("checkpoints").items():
        document = toml_file.read_versioned_toml("checkpoint", entry.path)  # type: ignore[arg-type]
        assert Checkpoint.model_validate(document).name == name


@pytest.mark.parametrize(
    "config",
    [
        {"depth": 10**6},
        {"hidden": 16_384, "depth": 512},
        {"size": 8192, "patch": 1, "hidden": 64},
        {"mlp": 10**9},
    ],
)
def test_a_network_that_fills_the_memory_is_not_built(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="too large|more than"):
        validate_config(config)
    validate_config(
        {"hidden": 1152, "depth": 28, "patch": 2, "size": 32, "classes": 1000}
    )  # DiT-XL/2


def test_a_schedule_states_its_threads() -> None:
    with pytest.raises(ValidationError):
        Schedule(steps=1, batch=1, lr=0.1, warmup=0, clip=1, seed=0, snapshot=1, threads=10**6)


# ------------------------------------------------------------------------------------------- text
# going out

STEERING = "\x1b]0;own\x07 \x1b[2J\x9b31m \u202egnp\u2066 \x00\x7f\u2028 \udc80 a"


@pytest.mark.parametrize(
    "door",
    [escaping.terminal_text, escaping.printable_line, escaping.page_text, escaping.progress_text],
)
def test_no_door_lets_control_characters_out(door: Callable[[str], str]) -> None:
    door_result = door(STEERING)
    assert all(c.isprintable() for c in door_result) and "a" in door_result
    door_result.encode()
    assert door("naïve 图 ½\u00a0x") != "" and "图" in door("图")


def test_lines_stay_lines_on_the_terminal() -> None:
    assert escaping.terminal_text("a\tb\r\nc") == "a b \nc"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        ("@x", "'@x"),
        ("\t=1", "' =1"),
        ("\r=1", "' =1"),
        ("a\rb\tc\nd", "a b c d"),
        ("-0.5", "-0.5"),
        ("+1.5e-3", "+1.5e-3"),
        ("-", "-"),
        ("plain", "plain"),
        (None, ""),
        (-2, -2),
    ],
)
def test_a_cell_is_no_formula_and_one_line(text: object, cell: object) -> None:
    assert escaping.csv_cell(text) == cell
    assert list(csv.reader(io.StringIO(escaping.csv_text([[text, "x"]])))) == [[str(cell), "x"]]


def test_a_figure_of_steering_names_is_still_xml() -> None:
    from harope_bench.reports import charts_svg

    curve = chart_schema.LossCurve(
        label="a\x01\x1b[2J <b> & \ufffe", steps=(1.0, 2.0), loss=(1.0, 0.5)
    )
    svg = charts_svg.render_chart(chart_schema.LossChart(smoothing=0.0, curves=(curve,)), "x")
    ElementTree.fromstring(
        svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
        if "xmlns:xlink" not in svg
        else svg
    )
    assert "\x1b" not in svg and "<b>" not in svg


def test_pages_hold_no_control_characters() -> None:
    from harope_bench.reports.tables import template_environment

    page = (
        template_environment()
        .from_string("<p>{{ name }}</p>")
        .render(name="a\x1b[2J\x00<b>\u202e\nline")
    )
    assert page == "<p>a [2J &lt;b&gt; \nline</p>"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "x\x1b[2J"],
        ["list", "\x1b]0;own\x07", "--json"],
        ["eval", "gone\x1b[2J"],
        ["table", "2\x1b[31m"],
    ],
)
def test_no_message_of_the_command_line_steers_the_terminal(words: list[str]) -> None:
    command_result = CliRunner().invoke(main, words)
    assert command_result.exit_code in (1, 2) and all(
        c.isprintable() or c == "\n" for c in command_result.output
    )


def test_an_argument_that_is_not_utf8_is_a_named_error() -> None:
    code = (
        "import os, sys; from harope_bench.cli import main; sys.argv = ['harope-bench',"
        " *map(os.fsdecode, [b'verify', b'a\\xff'])]; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert (
        process.returncode == 2
        and b"is not UTF-8" in process.stderr
        and b"Traceback" not in process.stderr
    )


def test_rows_do_not_wait_for_a_pipe(tmp_path: Path) -> None:
    assert feature_rows.read_rows_header(tmp_path / "none.npy") is None
    os.mkfifo(path := tmp_path / "x.npy")
    for read in (
        feature_rows.read_rows_header,
        json_lines.drop_partial_line,
        lambda pipe: feature_rows.rows_sha256(pipe, 0, 1),
        storage.read_if_present,
    ):
        with pytest.raises(IrregularFileError):
            read(path)
