"""Work that was lost or refused without need: races of two processes, parts that a kill left,
second runs, files written over.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from PIL import Image

from harope_bench.assets import local_files
from harope_bench.cli import main
from harope_bench.core import array_archive, json_lines, part_files, storage
from harope_bench.core.errors import NameClashError, SampleError
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.core.schema import Settings
from harope_bench.core.storage import home
from harope_bench.data import adm_npz, feature_rows, result_store, run_folder, sample_set
from harope_bench.data.result_store import read_result_or_none
from harope_bench.models.register_checkpoint import register, register_checkpoint
from harope_bench.pipeline import moments_cache
from harope_bench.pipeline.annotation_folder import read_judge_record
from harope_bench.pipeline.extract_features import delete_features, read_record
from harope_bench.reports.gallery import run_caption
from harope_bench.reports.runs import read_runs

linux = pytest.mark.skipif(sys.platform != "linux", reason="locks of a kernel")


def run(*words: object, exit_code: int = 0) -> Result:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == exit_code, command_result.output
    return command_result


# ------------------------------------------------------------------------------------ D1: settings
# that are None


CLASSIFIER: dict[str, Any] = {"sampler": None, "steps": None, "guidance": None}
DISTILLED_FIELDS: dict[str, Any] = {"sampler": "flow", "steps": 4, "guidance": None}


@pytest.mark.parametrize(
    ("settings", "words"),
    [(CLASSIFIER, "no sampler"), (DISTILLED_FIELDS, "flow, 4 steps, no guidance")],
)
def test_a_leaderboard_tells_settings_that_a_network_does_not_have(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    of = fake_runs.plan(fake_runs.checkpoint(**settings), **settings)
    folder = tmp_path / "runs/none"
    storage.write_text(folder / "plan.json", of.to_json() + "\n")
    fake_runs.write_result(folder, fake_runs.result(of, [fake_runs.measurement("fid", 12.0)]))
    for _ in range(2):  # built again without a word
        run("leaderboard", "build", tmp_path / "runs", "--out", tmp_path / "site")
    page = (tmp_path / "site/index.html").read_text()
    assert words in page and "None" not in page
    (read,) = read_runs(tmp_path / "runs")
    assert words in run_caption(read)
    run("report", "--runs", tmp_path / "runs", "--out", tmp_path / "report.html")


def test_guidance_stands_in_words_where_there_is_one() -> None:
    base: dict[str, Any] = {"resolution": 28, "tile": 1}
    assert (
        Settings(**base, sampler="ddpm", steps=1250, guidance=1.5).sampling_text
        == "ddpm, 1,250 steps, guidance 1.5"
    )
    assert (
        Settings(**base, sampler="flow", guidance=1).sampling_text
        == "flow, steps not set, guidance 1"
    )


def test_plans_differ_in_words() -> None:
    plan, two = (fake_runs.plan(fake_runs.checkpoint(), guidance=value) for value in (None, 3.0))
    assert run_folder.plan_differences(plan, two) == [
        "settings.guidance is 3.0 in the folder, not set requested"
    ]


def test_a_line_of_a_sweep_without_guidance_says_so(tmp_path: Path) -> None:
    from harope_bench.leaderboards.sweep import build_sweep_chart

    for guidance in (None, 1.5):
        of = fake_runs.plan(fake_runs.checkpoint(), guidance=guidance)
        fake_runs.write_result(
            tmp_path / str(guidance), fake_runs.result(of, [fake_runs.measurement("fid", 12.0)])
        )
    labels = [
        line.label
        for line in build_sweep_chart(
            result_store.read_results(tmp_path), None, "fid", "resolution"
        ).lines
    ]
    assert sorted(labels) == ["digits-ape, guidance 1.5", "digits-ape, no guidance"]


# ------------------------------------------------------------------------------------ D2: two
# processes, one folder


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let a file be gone from the first look on: what asks whether it is there still hears yes, as
    in a race.
    """

    def vanish(path: Path) -> None:
        path.unlink(missing_ok=True)
        for name in ("exists", "is_file"):
            real = getattr(Path, name)
            monkeypatch.setattr(
                Path, name, lambda self, *a, _real=real, **k: self == path or _real(self, *a, **k)
            )
        real_glob = Path.glob
        monkeypatch.setattr(
            Path,
            "glob",
            lambda self, *a, **k: [
                *real_glob(self, *a, **k),
                *([path] if path.is_relative_to(self) else []),
            ],
        )

    return vanish


READERS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "result.json": (read_result_or_none, None),
    "00000.json": (read_record, {}),
    "judge.json": (lambda path: read_judge_record(path.parent), None),
    "plan.json": (lambda path: run_folder.RunFolder(path.parent).plan, None),
    "samples.jsonl": (lambda path: run_folder.RunFolder(path.parent).read_records(), {}),
    "requests.jsonl": (
        lambda path: run_folder.RunFolder(path.parent).requested_indices(),
        IndexRanges(),
    ),
    "annotations.jsonl": (json_lines.drop_partial_line, None),
    "rows.npy": (feature_rows.read_rows_header, None),
    "digest.npy": (lambda path: feature_rows.rows_sha256(path, 0, 1), None),
    "stamp": (storage.file_stamp, None),
    "bytes": (storage.read_if_present, None),
    "results/a.json": (lambda path: result_store.read_results(path.parent.parent), []),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_goes_between_the_look_and_the_read_counts_as_not_there(
    name: str, tmp_path: Path, vanishing: Callable[[Path], None]
) -> None:
    read, absent_value = READERS[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    vanishing(tmp_path / name)
    assert read(tmp_path / name) == absent_value


def test_a_part_that_its_writer_renames_during_the_sweep_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_path = tmp_path / ".000001.png.a.part"
    old_path.write_bytes(b"half")
    os.utime(old_path, (0, 0))
    real = os.scandir

    class Racing:
        def __init__(self, folder: Path):
            with real(folder) as entries:
                self.entries = list(entries)
            old_path.unlink(missing_ok=True)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(part_files.os, "scandir", Racing)
    run_folder.remove_stale_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_receipt_that_goes_is_no_receipt(vanishing: Callable[[Path], None]) -> None:
    vanishing(local_files.asset_folder("thing") / local_files.RECEIPT)
    assert local_files.read_receipts("thing") == {}


def test_moments_that_go_are_summed_again(
    tmp_path: Path, vanishing: Callable[[Path], None]
) -> None:
    data = np.random.default_rng(0).normal(size=(moments_cache.BLOCK_ROWS, 2))
    vanishing(tmp_path / "m.npz")
    cached_moments = moments_cache.sum_cached_moments(
        tmp_path / "m.npz", data, moments_cache.ShardHashes(["x"], moments_cache.BLOCK_ROWS)
    )
    assert cached_moments.count == len(data)


def test_two_processes_clear_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(
        Path, "rmdir", lambda self: (_ for _ in ()).throw(FileNotFoundError(2, "gone"))
    )
    delete_features(tmp_path / "work", ["features"])


def test_a_line_is_not_cut_while_another_process_writes_it(tmp_path: Path) -> None:
    """`drop_partial_line` waits for the writer's lock; without it the half line would be taken for
    one that a power cut left.
    """
    path = tmp_path / "annotations.jsonl"
    path.write_bytes(b'{"key": 1}\n{"key"')
    code = (
        "import sys; from pathlib import Path;"
        " from harope_bench.core.json_lines import drop_partial_line;"
        " print('go', flush=True); "
    )
    code += "drop_partial_line(Path(sys.argv[1]))"
    with path.open("ab") as file:
        part_files.lock_handle_exclusively(file.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        file.write(b": 2}\n")
    process.stdout.close()
    assert process.wait(60) == 0
    assert json_lines.read_lines(path) == [{"key": 1}, {"key": 2}]


# ------------------------------------------------------------------------------------ D4: what a
# kill leaves


KILLED_TEXT = """
import os, sys
from pathlib import Path
from harope_bench.core import storage
with storage.write_atomically(Path(sys.argv[1])) as file:
    file.write(b"half" * 1000)
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


@linux
def test_the_part_of_a_killed_writer_goes_at_the_next_write_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    target = tmp_path / "moments.npz"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_TEXT, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    storage.write_bytes(tmp_path / "other.json", b"{}")
    assert len(list(tmp_path.glob(".moments.npz.*.part"))) == 1
    process.kill()
    process.wait(60)
    process.stdin.close()
    process.stdout.close()
    assert len(list(tmp_path.glob(".moments.npz.*.part"))) == 1
    storage.write_bytes(target, b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moments.npz", "other.json"]


@pytest.mark.parametrize(
    ("name", "age", "goes"),
    [
        (".a.npz.abcd1234.part", 7200, True),  # of an earlier version
        (".a.npz.abcd1234.part", 60, False),
        (".a.npz.00000000-12345678.part", 7200, True),  # of another machine on a shared disk
        (".a.npz.00000000-12345678.part", 60, False),
        (".other.npz.abcd1234.part", 7200, False),  # perhaps of another program
        (".a.npz.part", 7200, False),  # a download that goes on
    ],
)
def test_where_no_lock_tells_the_age_and_the_name_of_a_part_decide(
    tmp_path: Path, name: str, age: int, goes: bool
) -> None:
    (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / name, (time.time() - age,) * 2)
    storage.write_bytes(tmp_path / "a.npz", b"whole")
    assert (tmp_path / name).exists() is not goes


def test_parts_in_a_folder_of_many_files_are_looked_for_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        (tmp_path / f"{number}.png").touch()
    calls = []
    real = part_files.remove_stale_parts
    monkeypatch.setattr(part_files, "remove_stale_parts", lambda *a: calls.append(1) or real(*a))
    for number in range(12):
        storage.write_bytes(tmp_path / f"{number}.png", b"x")
    assert 2 <= len(calls) <= 4


def test_a_long_name_leaves_room_for_its_part(tmp_path: Path) -> None:
    name = "ä" * 120 + ".png"  # 244 bytes
    storage.write_bytes(tmp_path / name, b"x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def pictures(folder: Path, count: int = 5) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(
            np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        ).save(folder / f"{index}.png")
    return folder


def test_a_killed_conversion_to_png_goes_on_and_keeps_what_is_there(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in")
    run("convert", source, tmp_path / "out", "--to", "png")
    whole_contents = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    original_st_mtime_ns = (tmp_path / "out/000000.png").stat().st_mtime_ns
    for index in (2, 3, 4):
        (tmp_path / f"out/00000{index}.png").unlink()
    (tmp_path / "out/.000002.png.abcd1234.part").write_bytes(b"half")
    run("convert", source, tmp_path / "out", "--to", "png")
    (tmp_path / "out/.000002.png.abcd1234.part").unlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole_contents
    assert (tmp_path / "out/000000.png").stat().st_mtime_ns == original_st_mtime_ns
    run("convert", source, tmp_path / "out", "--to", "png")  # finished: up to date


def test_a_folder_of_something_else_is_not_converted_into(tmp_path: Path) -> None:
    source, out = pictures(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert (
        "mine.txt is no file of this conversion"
        in run("convert", source, out, "--to", "png", exit_code=1).output
    )
    (out / "mine.txt").unlink()
    shutil.copy(source / "1.png", out / "000000.png")
    assert (
        "000000.png holds something else"
        in run("convert", source, out, "--to", "png", exit_code=1).output
    )
    assert [path.name for path in out.iterdir()] == ["000000.png"]


# ------------------------------------------------------------------------------------ D3, D5: names
# and files, a second time


def test_registering_the_same_again_is_up_to_date(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path / "w.safetensors", "harope")
    words = (
        "register",
        "mine",
        "--weights",
        weights,
        "--config",
        "size=28",
        "--suite",
        "digits",
        "--sampler",
        "flow",
        "--steps",
        2,
    )
    toml = Path(run(*words).stdout.splitlines()[0])
    before = toml.read_bytes(), toml.stat().st_mtime_ns
    assert "up to date" in run(*words).output
    assert (toml.read_bytes(), toml.stat().st_mtime_ns) == before
    refused_output = run(*words[:-1], 3, exit_code=1).output
    assert (
        "registered already" in refused_output
        and "steps is 2 there and 3 now" in refused_output
        and "--replace" in refused_output
    )
    assert toml.read_bytes() == before[0]
    run(*words[:-1], 3, "--replace")
    assert "steps = 3" in toml.read_text()


def test_weights_that_moved_are_registered_at_their_new_place(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path / "w.safetensors", "harope")
    register("mine", weights, {"config": {"size": 28}, "sampler": "flow"})
    moved_value = weights.rename(tmp_path / "moved.safetensors")
    checkpoint = register_checkpoint(
        "mine", moved_value, {"config": {"size": 28}, "sampler": "flow"}
    )
    assert not checkpoint.is_changed and "moved.safetensors" in checkpoint.path.read_text()


def test_of_two_processes_that_register_one_name_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either wrote; what counts is what stands there when the TOML is
    written.
    """
    from harope_bench.core import registry

    weights, two = (
        tiny.weights(tmp_path / "a.safetensors", "harope"),
        tiny.weights(tmp_path / "b.safetensors"),
    )
    before = registry.list_entries("checkpoints")
    path = register("mine", weights, {"config": {"size": 28}, "sampler": "flow"})
    real = registry.list_entries
    monkeypatch.setattr(
        registry, "list_entries", lambda kind: before if kind == "checkpoints" else real(kind)
    )
    with pytest.raises(NameClashError, match="registered already"):
        register(
            "mine",
            two,
            {"config": {"size": 28, "heads": 2}, "encoding": "rope-axial", "sampler": "flow"},
        )
    assert "harope" in path.read_text()


def test_a_shipped_name_is_not_taken_even_with_replace(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path / "w.safetensors", "harope")
    with pytest.raises(NameClashError, match="registered already"):
        register("digits-harope", weights, {"config": {"size": 28}}, replace=True)
    assert not (home() / "checkpoints/digits-harope.toml").exists()


def test_export_writes_over_nothing_and_never_over_its_own_weights(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path / "w.safetensors", "harope")
    register("mine", weights, {"config": {"size": 28}, "sampler": "flow"})
    data = weights.read_bytes()
    for record in ((), ("--replace",)):
        assert (
            "is also an input file" in run("export", "mine", weights, *record, exit_code=1).output
        )
    other_path = tmp_path / "other.safetensors"
    other_path.write_bytes(b"precious")
    assert (
        "exists and holds something else" in run("export", "mine", other_path, exit_code=1).output
    )
    assert (weights.read_bytes(), other_path.read_bytes()) == (data, b"precious")
    run("export", "mine", other_path, "--replace")
    run("export", "mine", other_path)  # the same again
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.safetensors",
        "w.safetensors",
    ]


def test_converting_to_npz_writes_over_nothing_and_never_over_its_input(tmp_path: Path) -> None:
    source, out = pictures(tmp_path / "in"), tmp_path / "out.npz"
    run("convert", source, out, "--to", "adm")
    data = out.read_bytes()
    run("convert", source, out, "--to", "adm")  # the same again
    assert (
        "is also an input file"
        in run("convert", out, out, "--to", "adm", "--count", 2, "--replace", exit_code=1).output
    )
    assert (
        "holds something else"
        in run("convert", source, out, "--to", "adm", "--count", 2, exit_code=1).output
    )
    precious = tmp_path / "w.safetensors"
    precious.write_bytes(b"precious")
    assert (
        "holds something else"
        in run("convert", source, precious, "--to", "adm", exit_code=1).output
    )
    assert (
        "which is read"
        in run("convert", source, source / "1.png", "--to", "adm", "--replace", exit_code=1).output
    )
    assert (out.read_bytes(), precious.read_bytes()) == (data, b"precious")
    run("convert", source, out, "--to", "adm", "--count", 2, "--replace")
    assert np.load(out)["arr_0"].shape == (2, 8, 8, 3)


def test_a_reference_writes_over_nothing_and_is_made_again_in_silence(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "reference.npz"
    source.mkdir()
    for index in range(5):
        Image.fromarray(
            np.random.default_rng(index).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        ).save(source / f"{index}.png")
    words = ("reference", source, out, "--judge", "digits-net")
    run(*words)
    data = out.read_bytes()
    run(*words)
    assert out.read_bytes() == data
    run("convert", source, tmp_path / "mine.npz", "--to", "adm")
    package_content = (tmp_path / "mine.npz").read_bytes()
    refused_output = run(
        "reference", source, tmp_path / "mine.npz", "--judge", "digits-net", exit_code=1
    ).output
    assert "is no reference of these images" in refused_output
    own_original_output = run(
        "reference",
        tmp_path / "mine.npz",
        tmp_path / "mine.npz",
        "--judge",
        "digits-net",
        "--replace",
        exit_code=1,
    ).output
    assert (
        "is also an input file" in own_original_output
        and (tmp_path / "mine.npz").read_bytes() == package_content
    )
    assert "exists and holds something else" in run(*words, "--image-count", 4, exit_code=1).output
    run(*words, "--image-count", 4, "--replace")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "mine.npz", "reference.npz"]


def test_a_baseline_updated_by_the_same_run_is_up_to_date_and_other_json_is_kept(
    tmp_path: Path,
) -> None:
    folder = fake_runs.micro_run(tmp_path / "run", "ape", 20)
    words = ("--update", "--reason", "first")
    run("gate", tmp_path / "baseline.json", folder, *words)
    before = (tmp_path / "baseline.json").read_bytes()
    assert "up to date" in run("gate", tmp_path / "baseline.json", folder, *words).output
    assert (tmp_path / "baseline.json").read_bytes() == before
    run("gate", tmp_path / "baseline.json", folder, "--update", "--reason", "second")
    assert (tmp_path / "baseline.json").read_bytes() != before
    (tmp_path / "package.json").write_text('{"name": "mine"}')
    assert (
        "is no baseline"
        in run("gate", tmp_path / "package.json", folder, *words, exit_code=1).output
    )


def test_a_figure_is_drawn_again_and_over_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    words = ("figure", "loss", tmp_path / "log.csv", "--out")
    for _ in range(2):
        run(*words, tmp_path / "loss.svg")
    (tmp_path / "a.json").write_text("{}")
    assert "a.json, which no figure wrote" in run(*words, tmp_path / "a.svg", exit_code=1).output
    assert (
        "log.csv, which no figure wrote" in run(*words, tmp_path / "log.svg", exit_code=1).output
    )  # what was read
    assert not (tmp_path / "a.svg").exists() and (tmp_path / "a.json").read_text() == "{}"


# ------------------------------------------------------------------------------------ D10: the
# user's umask


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: storage.write_bytes(path, b"x"),
    "line": lambda path: json_lines.append_line(path, "{}"),
    "arrays": lambda path: array_archive.write_arrays(path, {"a": np.zeros(1)}),
    "rows": lambda path: feature_rows.reserve_rows(path, 1, np.zeros(2)),
}


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_files_and_folders_get_the_permissions_that_the_umask_leaves(
    tmp_path: Path, umask: int, mode: int
) -> None:
    former_umask = os.umask(umask)
    try:
        for name, write in WRITERS.items():
            write(storage.make_folder(tmp_path / "new") / name)
    finally:
        os.umask(former_umask)
    assert {
        name: (tmp_path / "new" / name).stat().st_mode & 0o777 for name in WRITERS
    } == dict.fromkeys(WRITERS, mode)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


# ------------------------------------------------------------------------------------ D11: forms of
# images


def fortran_npz(path: Path, images: np.ndarray, is_compressed: bool = False) -> Path:
    (np.savez_compressed if is_compressed else np.savez)(
        path, arr_0=np.asfortranarray(images), arr_1=np.arange(len(images))
    )
    return path


@pytest.mark.parametrize("is_compressed", [False, True])
def test_an_npz_in_fortran_order_holds_the_same_images(tmp_path: Path, is_compressed: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    samples = sample_set.open_samples(fortran_npz(tmp_path / "f.npz", images, is_compressed))
    np.savez(tmp_path / "c.npz", arr_0=images)
    assert samples.shape == (4, 5, 3) and samples.labels == {i: i for i in range(7)}
    assert np.array_equal(
        np.concatenate([batch.images for batch in samples.batches(samples.indices, 3)]), images
    )
    assert samples.hashes == sample_set.open_samples(tmp_path / "c.npz").hashes


def test_an_npz_in_fortran_order_that_is_too_large_to_turn_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fortran_npz(tmp_path / "f.npz", np.zeros((7, 4, 5, 3), dtype=np.uint8))
    monkeypatch.setattr(adm_npz, "MAX_FORTRAN_BYTES", 100)
    with pytest.raises(SampleError, match=r"is in Fortran order, .* save np.ascontiguousarray"):
        sample_set.open_samples(path)


def test_a_folder_whose_images_lie_in_folders_says_which_to_give(tmp_path: Path) -> None:
    pictures(tmp_path / "cats", 2)
    (tmp_path / "b").mkdir()
    pictures(tmp_path / "b/dogs", 3)
    with pytest.raises(
        SampleError, match=r"folders below it do: b/dogs/ \(3\), cats/ \(2\); give one of these"
    ):
        sample_set.open_samples(tmp_path)
    shutil.copy(tmp_path / "cats/0.png", tmp_path / "top.png")
    assert sample_set.open_samples(tmp_path).warnings == (
        "images: ignored 2 folders with 5 images next to the images",
    )


def test_a_folder_without_any_image_is_told_as_before(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    pictures(tmp_path / "results/x", 1)  # of scoring, not the user's
    with pytest.raises(SampleError, match="holds no images .*and no plan.json"):
        sample_set.open_samples(tmp_path)
