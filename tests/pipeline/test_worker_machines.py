"""The machines of a cluster: what they lack, of which kind they are, what results say of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, annotate_toy_images, toy
from unreliable_executor import UnreliableExecutor

from harope_bench.cli import main
from harope_bench.core.errors import AlteredFileError, OptionError
from harope_bench.data.run_folder import WARNINGS_FILE, RunFolder
from harope_bench.judges.base import load_judge
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline import worker_machines
from harope_bench.pipeline.requirements import MachineJudge, worker_requirements
from harope_bench.pipeline.unmet_requirements import UnmetRequirement
from harope_bench.pipeline.worker_machines import (
    WorkerMachine,
    check_machines,
    describe_machine,
    mixed_devices_warnings,
    token_file,
)
from harope_bench.pipeline.workers import use_executor

__all__ = ["toy"]  # the fixture
MACHINE = WorkerMachine("node1", "1.0", "2.9", "NVIDIA H100", "CUDA 12.8, driver 570.1", True)
MIXED = ("workers: devices of 2 kinds (a; b), whose last bits may differ",)


def reliable_executor() -> UnreliableExecutor:
    return UnreliableExecutor(iter(()))


def call(*words: object, exit_code: int = 0) -> str:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == exit_code, command_result.output
    return command_result.output


# ------------------------------------------------------------------------------- kinds and folders


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("package", "1.1"),
        ("torch", "2.8"),
        ("device", "NVIDIA A100"),
        ("driver", "CUDA 12.8, driver 550.2"),
    ],
)
def test_machines_of_several_kinds_are_an_error_that_names_both(field: str, value: str) -> None:
    machines = [MACHINE, MACHINE._replace(host="node2", **{field: value})]  # type: ignore[arg-type]
    with pytest.raises(OptionError) as error_info:
        check_machines(machines, None, allows_mixed=False)
    message = str(error_info.value)
    assert value in message and "(node1)" in message and "(node2)" in message
    assert message.startswith("workers of one kind are needed, found 2: ")
    assert "--mixed-devices" in message
    kinds = check_machines(machines, None, allows_mixed=True)
    assert len(kinds) == 2
    (warning,) = mixed_devices_warnings(kinds)
    assert all(kind in warning for kind in kinds)


def test_machines_of_one_kind_pass_without_a_warning() -> None:
    kinds = check_machines([MACHINE, MACHINE._replace(host="node2")], None, allows_mixed=False)
    assert kinds == ["harope-bench 1.0, torch 2.9, NVIDIA H100, CUDA 12.8, driver 570.1"]
    assert mixed_devices_warnings(kinds) == ()


def test_a_machine_that_does_not_see_the_folder_is_named() -> None:
    machines = [MACHINE, MACHINE._replace(host="node2", sees_folder=False)]
    with pytest.raises(OptionError, match="^node2 does not see /runs; judges on several machines"):
        check_machines(machines, Path("/runs"), allows_mixed=True)


def test_this_machine_describes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = describe_machine("cpu", str(tmp_path))
    assert machine.sees_folder and machine.driver == "" and machine.device
    assert not describe_machine("cpu", str(tmp_path / "absent")).sees_folder
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    monkeypatch.setattr(worker_machines, "NVIDIA_DRIVER_FILE", path)
    assert describe_machine("cuda", None).driver.endswith("driver 570.86.15")
    path.unlink()
    assert describe_machine("cuda", None).driver.endswith("driver unknown")


def test_the_file_that_other_machines_look_for_is_in_the_nearest_folder(tmp_path: Path) -> None:
    with token_file(tmp_path / "runs/mine") as path:
        assert path is not None and path.parent == tmp_path and path.exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with token_file(tmp_path / "file/run") as path:  # cannot be written; the command names it
        assert path == tmp_path / "file"
    with token_file(None) as path:
        assert path is None


# ------------------------------------------------------------------------------------- requirements


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "tiny", "--count", 8),
        ("eval", "tiny", "--count", 8),
        ("eval", "digits-deit-harope", "--count", 8),
        ("reproduce", "2", "--scale", "micro", "--count", 2),
    ],
)
def test_what_a_machine_lacks_is_an_error_before_work_starts(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    tiny.register_tiny(tmp_path / "weights")
    executor = reliable_executor()
    requirement = UnmetRequirement("checkpoint", "x", "weights /w are missing", "register them")
    executor.machines = {"node7": [requirement]}
    with use_executor(executor):
        output = call(*words, "--out", tmp_path / "out", exit_code=1)
    assert output.splitlines()[-1] == "harope-bench: node7: weights /w are missing; register them"
    assert executor.n_parts == 0
    assert not list(tmp_path.glob("out/**/*.png"))


def test_machines_are_asked_for_weights_and_judges_of_all_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of a machine that has everything is empty, and then the work is done."""
    tiny.register_tiny(tmp_path / "weights")
    questions: list[tuple[list[str], list[str]]] = []
    executor = reliable_executor()

    def ask(function: Callable[..., object], checkpoints: list, judges: list) -> list:
        assert function(checkpoints, judges) == []
        questions.append(([c.name for c in checkpoints], [judge.name for judge in judges]))
        return []

    monkeypatch.setattr(executor, "ask_machines", ask)
    with use_executor(executor):
        call("eval", "tiny", "--count", 8, "--out", tmp_path / "run")
        call("eval", tmp_path / "run")
    assert questions[0] == (["tiny"], ["digits-net"])
    assert ([], ["digits-net"]) in questions


def test_weights_that_are_missing_or_others_on_a_machine_are_found(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    checkpoint = load_checkpoint_record("tiny")
    judge = load_judge("digits-net")
    machine_judge = MachineJudge("digits-net", judge, judge.weights_sha256())
    assert worker_requirements([checkpoint], [machine_judge]) == []
    path = Path(checkpoint.weights)
    data = path.read_bytes()
    path.write_bytes(data + b" ")
    (altered,) = worker_requirements([checkpoint], [])
    assert "has sha256" in altered.detail and "share HAROPE_BENCH_HOME" in altered.command
    path.unlink()
    (absent,) = worker_requirements([checkpoint], [])
    assert absent.detail == f"{path} is missing"
    (other,) = worker_requirements([], [machine_judge._replace(weights_sha256="0" * 64)])
    assert other.detail == "weights of judge digits-net differ from those of the driver"


# ---------------------------------------------------------------------------------- mixed devices


def result_warnings(folder: Path) -> list[tuple[str, str]]:
    (path,) = (folder / "results").glob("*.json")
    return [(w["code"], w["text"]) for w in json.loads(path.read_text())["warnings"]]


def test_results_of_mixed_devices_have_a_warning_and_verify(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    executor = reliable_executor()
    executor.warnings = MIXED
    with use_executor(executor):
        call("eval", "tiny", "--count", 20, "--out", tmp_path / "run")
    warnings = result_warnings(tmp_path / "run")
    assert ("images", MIXED[0]) in warnings and ("devices", MIXED[0]) in warnings
    call("verify", tmp_path / "run", "--redraw", 1, "--seed", 0)


def test_images_of_mixed_devices_are_remembered_by_later_results(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    executor = reliable_executor()
    executor.warnings = MIXED
    words = ("generate", "tiny", "--count", 20, "--out", tmp_path / "run")
    with use_executor(executor):
        call(*words)
    assert (tmp_path / "run" / WARNINGS_FILE).read_text() == f"{MIXED[0]}\n"
    call(*words)
    call("eval", tmp_path / "run")
    assert ("images", MIXED[0]) in result_warnings(tmp_path / "run")
    assert "devices of 2 kinds" in call("eval", tmp_path / "run")
    (tmp_path / "run" / WARNINGS_FILE).write_text("")
    with pytest.raises(AlteredFileError, match=WARNINGS_FILE):
        RunFolder(tmp_path / "run").read_warnings()


def test_annotations_and_predictions_of_mixed_devices_have_a_warning(
    toy: ToyEye, tmp_path: Path
) -> None:
    write_toy_images(tmp_path / "images", COLOURS)
    executor = reliable_executor()
    executor.warnings = MIXED
    with use_executor(executor):
        annotate_toy_images(tmp_path / "images", tmp_path / "toy/run")
        call("eval", "digits-deit-harope", "--count", 50, "--out", tmp_path / "digits/run")
    assert ("devices", MIXED[0]) in result_warnings(tmp_path / "toy/run")
    assert ("devices", MIXED[0]) in result_warnings(tmp_path / "digits/run")
