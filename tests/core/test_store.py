"""Store: writes are whole or absent, reads never run code, and every refusal is one line that names
the place.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harope_bench.core import array_archive, json_lines, state_dicts, storage
from harope_bench.core.errors import BenchError, StorageError, WeightsError

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and /dev/full are Linux's")


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text, "a user reads one line"
    return text


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("old_content", [None, b"the old bytes"])
def test_a_kill_in_the_middle_leaves_the_old_file_or_none(
    tmp_path: Path, old_content: bytes | None
) -> None:
    target = tmp_path / "thing.bin"
    if old_content is not None:
        target.write_bytes(old_content)
    script = (
        "import sys\nfrom pathlib import Path\nfrom harope_bench.core.storage import"
        " write_atomically\nwith write_atomically(Path(sys.argv[1])) as file:\n    file.write(b'new"
        " ' * 100_000)\n    file.flush()\n    print('half', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (target.read_bytes() if target.exists() else None) == old_content
    storage.write_bytes(target, b"whole")  # what the kill left behind does not stand in the way
    assert target.read_bytes() == b"whole"


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "thing.bin"
    target.write_bytes(b"old")

    def fail() -> None:
        with storage.write_atomically(target) as file:
            file.write(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert leftovers(tmp_path) == ["thing.bin"]
    assert target.read_bytes() == b"old"


def test_writing_makes_folders_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "note.txt"
    storage.write_text(target, "Grüße\n")
    storage.write_text(target, "again\n")
    assert target.read_bytes() == b"again\n"
    assert leftovers(target.parent) == ["note.txt"]
    assert target.stat().st_mode & 0o777 == 0o644


WRITERS: list[Callable[[Path], object]] = [
    lambda path: storage.write_bytes(path, b"x"),
    lambda path: storage.write_text(path, "x"),
    lambda path: array_archive.write_arrays(path, {"a": np.zeros(3)}),
    lambda path: storage.make_folder(path),
]


@pytest.mark.parametrize("write", [*WRITERS, lambda path: json_lines.append_line(path, "{}")])
def test_a_file_in_place_of_a_folder_is_one_line(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot use") as excinfo:
        write(tmp_path / "file" / "thing")
    assert str(tmp_path / "file") in one_line(excinfo.value)


@pytest.mark.parametrize("write", WRITERS)
@linux
def test_a_place_that_cannot_be_written_is_one_line(write: Callable[[Path], object]) -> None:
    with pytest.raises(StorageError, match="cannot use /proc/none"):
        write(Path("/proc/none/there"))


def test_a_full_disk_says_what_to_do_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_disk_full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", raise_disk_full)
    with pytest.raises(
        StorageError, match="No space left on device; free some space or choose another --out"
    ) as excinfo:
        storage.write_bytes(tmp_path / "thing", b"x" * 1000)
    one_line(excinfo.value)
    assert leftovers(tmp_path) == []


@linux
def test_a_full_device_is_told_by_a_real_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="/dev/full is a device and is not written over"):
        json_lines.append_line(Path("/dev/full"), "{}")
    monkeypatch.setattr(
        json_lines, "open_for_append", lambda path: os.open(path, os.O_WRONLY | os.O_APPEND)
    )
    with pytest.raises(StorageError, match="cannot use /dev/full: No space left on device"):
        json_lines.append_line(Path("/dev/full"), "{}")


def test_a_line_that_the_disk_takes_only_half_of_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "log.jsonl", os.write
    json_lines.append_line(path, '{"i": 0}')
    with monkeypatch.context() as patch:
        patch.setattr(
            storage.os, "write", lambda handle, data: write(handle, data[: len(data) // 2])
        )
        with pytest.raises(StorageError, match="No space left"):
            json_lines.append_line(path, '{"i": 1}')
    json_lines.append_line(path, '{"i": 2}')
    assert json_lines.read_lines(path) == [{"i": 0}, {"i": 2}]


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO]
)
def test_a_refusing_disk_is_named_and_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.os, "replace", refuse)
    with pytest.raises(StorageError, match=os.strerror(number)) as excinfo:
        storage.write_bytes(tmp_path / "thing", b"x")
    assert str(tmp_path / "thing") in one_line(excinfo.value)
    assert leftovers(tmp_path) == []


# -------------------------------------------------------------------------------------------- lines


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for i in range(3):
        json_lines.append_line(path, json.dumps({"i": i}))
    assert json_lines.read_lines(path) == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert json_lines.read_lines(tmp_path / "none.jsonl") == []


def test_only_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    path, whole_content = tmp_path / "log.jsonl", b'{"i": 0}\n{"name": "\xc3\xa4"}\n'
    for cut in range(len(b'{"i": 0}\n'), len(whole_content)):
        path.write_bytes(whole_content[:cut])
        flag = cut >= len(whole_content) - 1  # without its newline the last line is still whole
        assert json_lines.read_lines(path) == [{"i": 0}, *([{"name": "ä"}] if flag else [])]
    path.write_bytes(b'{"i": 0}\n{"i": \n{"i": 2}\n')
    with pytest.raises(StorageError, match="line 2 is not JSON"):
        json_lines.read_lines(path)
    path.write_bytes(b'{"i": 0}\n{"i": \n')
    with pytest.raises(StorageError, match="line 2 is not JSON"):
        json_lines.read_lines(path)


def test_processes_can_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    script = (
        "import sys, json\nfrom pathlib import Path\nfrom harope_bench.core.json_lines import"
        " append_line\nfor i in range(200): append_line(Path(sys.argv[1]), json.dumps({'who':"
        " sys.argv[2], 'i': i, 'pad': 'x' * 300}))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    lines = json_lines.read_lines(path)
    assert {name: [line["i"] for line in lines if line["who"] == name] for name in "ab"} == {
        name: list(range(200)) for name in "ab"
    }


# ------------------------------------------------------------------------------------------- arrays


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "ints": np.arange(6).reshape(2, 3),
        "scalar": np.array(3.5),
        "text": np.array("key"),
        "none": np.zeros((0, 4), np.float32),
        "turned": np.arange(12.0).reshape(3, 4).T,
    }
    for compress in (False, True):
        array_archive.write_arrays(tmp_path / "a.npz", arrays, compress)
        back = array_archive.load_arrays(tmp_path / "a.npz")
        assert back.keys() == arrays.keys()
        for name, array in arrays.items():
            assert back[name].shape == array.shape
            assert back[name].dtype == array.dtype
            assert np.array_equal(back[name], array)


@pytest.mark.parametrize("compress", [False, True])
def test_equal_arrays_give_equal_bytes_at_any_time(
    tmp_path: Path, compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    array_archive.write_arrays(tmp_path / "one.npz", {"b": rows, "a": rows[:2]}, compress)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    array_archive.write_arrays(tmp_path / "two.npz", {"a": rows[:2].copy(), "b": rows}, compress)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


def test_the_trap_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_an_npz_of_python_objects_is_refused_unopened_and_named(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "bad.npz",
        good=np.zeros(3),
        bad=np.array([Trap(tmp_path / "mark")], dtype=object),
    )
    with pytest.raises(StorageError, match=r"bad\.npz: bad cannot be read .*Python objects"):
        array_archive.load_arrays(tmp_path / "bad.npz")
    assert not (tmp_path / "mark").exists()


def test_a_bare_pickle_in_place_of_an_npz_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(StorageError, match=r"bad\.npz"):
        array_archive.load_arrays(tmp_path / "bad.npz")
    assert not (tmp_path / "mark").exists()


def test_a_single_array_in_place_of_an_npz_is_named_for_what_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(StorageError, match=r"one\.npy holds a single array \(\.npy\).*np\.savez"):
        array_archive.load_arrays(tmp_path / "one.npy")


@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_or_damaged_npz_is_a_named_error_whatever_the_damage(
    tmp_path: Path, compress: bool
) -> None:
    path, rng = tmp_path / "cut.npz", random.Random(0)
    array_archive.write_arrays(path, {"a": np.arange(100.0), "b": np.arange(50)}, compress)
    whole_content = path.read_bytes()
    for cut in range(0, len(whole_content) - 1, 37):
        path.write_bytes(whole_content[:cut])
        with pytest.raises(StorageError, match=r"cut\.npz"):
            array_archive.load_arrays(path)
    for _ in range(
        300
    ):  # the zip reader and the header parser fail in a dozen ways; none may reach a user
        bent_content = bytearray(whole_content)
        for _ in range(rng.randint(1, 4)):
            bent_content[rng.randrange(len(bent_content))] = rng.randrange(256)
        path.write_bytes(bytes(bent_content))
        try:
            array_archive.load_arrays(path)
        except StorageError as error:
            one_line(error)


def test_a_header_that_promises_more_than_memory_is_a_named_error(tmp_path: Path) -> None:
    for shape in ((10**13,), (10**18,), (10**30,), (-5,)):
        with (
            zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive,
            archive.open("a.npy", "w") as member,
        ):
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f8", "fortran_order": False, "shape": shape}
            )
        with pytest.raises(StorageError, match=r"huge\.npz: a cannot be read"):
            array_archive.load_arrays(tmp_path / "huge.npz")


def test_a_missing_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.npz: No such file"):
        array_archive.load_arrays(tmp_path / "none.npz")


# ------------------------------------------------------------------------------------------ weights


def layer() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))


def test_weights_come_back_from_both_formats(tmp_path: Path) -> None:
    state = layer().state_dict()
    save_file(state, tmp_path / "w.safetensors", metadata={"encoding": "harope"})
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        path = tmp_path / name
        back = state_dicts.load_weights(path, storage.sha256_file(path))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[k], state[k]) for k in state)
    assert state_dicts.weights_metadata(tmp_path / "w.safetensors") == {"encoding": "harope"}
    assert state_dicts.weights_metadata(tmp_path / "w.pt") == {}


def test_equal_weights_and_notes_give_equal_bytes_that_others_can_read(tmp_path: Path) -> None:
    state = {
        "b": torch.arange(3.0).half(),
        "a": torch.arange(10.0).reshape(2, 5).T,
        "n": torch.tensor(7),
    }
    note = {
        f"key{i}": "ä" * i for i in range(6)
    }  # safetensors itself would write them in another order each time
    turned_fields = dict(reversed(state.items())), dict(reversed(note.items()))
    data = {
        state_dicts.weights_bytes(weights, words)
        for weights, words in ((state, note), turned_fields)
        for _ in range(5)
    }
    assert len(data) == 1
    path = tmp_path / "w.safetensors"
    path.write_bytes(data.pop())
    assert state_dicts.weights_metadata(path) == note
    for back in (load_file(path), state_dicts.load_weights(path)):
        assert back.keys() == state.keys()
        assert all(
            torch.equal(back[k], state[k]) and back[k].dtype == state[k].dtype for k in state
        )


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt"])
def test_a_hostile_pickle_is_refused_and_its_code_not_run(
    tmp_path: Path, name: str, protocol: int
) -> None:
    trap = {"model": Trap(tmp_path / "mark"), "weight": torch.zeros(2)}
    for method in ("torch", "legacy", "bare"):
        if method == "bare":
            (tmp_path / name).write_bytes(pickle.dumps(trap, protocol))
        else:
            torch.save(
                trap,
                tmp_path / name,
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=method == "torch",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols it does not know
            with pytest.raises(
                WeightsError, match=f"{name} holds Python objects.*was not opened"
            ) as excinfo:
                state_dicts.load_weights(tmp_path / name)
        one_line(excinfo.value)
        assert not (tmp_path / "mark").exists()


def test_a_hostile_pickle_named_safetensors_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        state_dicts.load_weights(tmp_path / "w.safetensors")
    assert not (tmp_path / "mark").exists()


def test_damaged_weights_are_a_named_error_whatever_the_damage(tmp_path: Path) -> None:
    rng = random.Random(0)
    save_file({"a": torch.arange(6.0)}, tmp_path / "w.safetensors")
    torch.save({"a": torch.arange(6.0)}, tmp_path / "w.pt")
    torch.save({"a": torch.arange(6.0)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused_records = []
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt", tmp_path / "old.pt"):
        whole_content = path.read_bytes()
        for _ in range(150):
            bent_content = bytearray(
                whole_content[: rng.randrange(len(whole_content))]
                if rng.random() < 0.4
                else whole_content
            )
            for _ in range(rng.randint(1, 4) if bent_content else 0):
                bent_content[rng.randrange(len(bent_content))] = rng.randrange(256)
            path.write_bytes(bytes(bent_content))
            state_dicts.weights_metadata(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of pickle protocols it does not know
                try:
                    state_dicts.load_weights(path)
                except WeightsError as error:
                    refused_records.append((path.name, error))
    assert len(refused_records) > 200
    assert all(name in one_line(error) for name, error in refused_records)


@pytest.mark.parametrize(
    "header", [b"[1]", b"null", b'{"__metadata__": 5}', b'{"__metadata__": [1]}', b"\xff", b""]
)
def test_the_note_of_a_damaged_header_is_empty(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert state_dicts.weights_metadata(tmp_path / "w.safetensors") == {}


@pytest.mark.parametrize(
    "item",
    [
        torch.zeros(3),
        {"model": {"a": 1}},
        {"model": None, "ema": None},
        {1: torch.zeros(1)},
        {"step": 5},
        [torch.zeros(1)],
    ],
)
def test_what_is_no_bare_state_dict_is_refused(tmp_path: Path, item: object) -> None:
    torch.save(item, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="is not a bare state dict"):
        state_dicts.load_weights(tmp_path / "w.pt")


def test_altered_weights_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(
        WeightsError, match=r"w\.pt has sha256 [0-9a-f]{12}\.\.\., recorded 000000000000\.\.\."
    ):
        state_dicts.load_weights(path, "0" * 64)
    assert not (tmp_path / "mark").exists()
    with pytest.raises(WeightsError, match=r"weights file .*none\.pt does not exist"):
        state_dicts.load_weights(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"none\.pt is missing"):
        state_dicts.load_weights(tmp_path / "none.pt", "0" * 64)


def test_fit_lists_every_missing_unexpected_and_misshaped_key() -> None:
    module = layer()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = {
        "0.weight": torch.zeros(2, 4),
        "1.bias": torch.zeros(4, 1),
        "extra.a": torch.zeros(1),
        "extra.b": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as excinfo:
        state_dicts.load_state_strictly(module, state, "checkpoint x")
    assert one_line(excinfo.value).startswith(
        "checkpoint x does not fit: missing 0.bias, 1.weight; unexpected extra.a, extra.b; "
        "mis-shaped 0.weight (2, 4) for (2, 3), 1.bias (4, 1) for (4,); "
    )
    assert all(
        torch.equal(v, before[k]) for k, v in module.state_dict().items()
    )  # nothing was half loaded


def test_fit_casts_to_the_modules_dtype() -> None:
    module, other_module = layer(), layer()
    state_dicts.load_state_strictly(
        module, {k: v.half() for k, v in other_module.state_dict().items()}, "x"
    )
    assert {v.dtype for v in module.state_dict().values()} == {torch.float32}
    assert torch.equal(module[0].weight, other_module[0].weight.half().float())  # type: ignore[index]


# --------------------------------------------------------------------------------------------
# places


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256_bytes(b"abc") == storage.sha256_file(tmp_path / "abc") == expected
    state_dicts.check_sha256(tmp_path / "abc", expected)
    with pytest.raises(StorageError, match="cannot use"):
        storage.sha256_file(tmp_path)


def test_home_is_the_environments_or_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "x"))
    assert storage.home() == tmp_path / "x"
    monkeypatch.setenv("HAROPE_BENCH_HOME", "~/bench")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.home() == tmp_path / "bench"
    monkeypatch.delenv("HAROPE_BENCH_HOME")
    assert storage.home() == tmp_path / ".harope-bench"


def test_every_error_kind_is_a_bench_error() -> None:
    assert issubclass(StorageError, BenchError)
    assert issubclass(WeightsError, BenchError)
