"""Same request, same image: whatever the batch, the order, the split, or a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import tiny
import torch

from harope_bench.core import checksums
from harope_bench.core.errors import (
    OptionError,
    PlanMismatchError,
    SampleError,
    UnknownNameError,
    WeightsError,
)
from harope_bench.core.index_ranges import group_by_padded_batch
from harope_bench.core.schema import Plan, Request
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import open_samples
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.suites.digits import DigitsSuite


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})


def bits(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the log of what was asked."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "requests.jsonl"
    }


@pytest.fixture
def uninterrupted_bits(plan: Plan, tmp_path: Path) -> dict[str, bytes]:
    """A run of 60 samples in one go: three tiles, the last one part empty."""
    generate(plan, range(60), tmp_path / "straight")
    return bits(tmp_path / "straight")


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batch_changes_no_bit(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path, batch: int
) -> None:
    generate(plan, range(60), tmp_path / "other", batch)
    assert bits(tmp_path / "other") == uninterrupted_bits


def test_order_and_split_change_no_bit(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    chunks = [
        list(range(40, 60)),
        [3],
        list(range(7, 33)),
        [*range(3), *range(4, 7), *range(33, 40)],
    ]
    for chunk in chunks:
        generate(plan, chunk, tmp_path / "other")
    assert bits(tmp_path / "other") == uninterrupted_bits


def test_two_processes_worth_of_indices_meet_in_one_folder(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    generate(plan, range(0, 60, 2), tmp_path / "other")
    generate(plan, range(1, 60, 2), tmp_path / "other")
    assert bits(tmp_path / "other") == uninterrupted_bits


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit_here(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generate(plan, range(60), tmp_path / "other")
    finally:
        torch.set_num_threads(before)
    assert bits(tmp_path / "other") == uninterrupted_bits


def test_samples_differ_from_each_other_and_between_seeds(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    pictures = [v for k, v in uninterrupted_bits.items() if k.endswith(".png")]
    assert len(set(pictures)) == 60
    other_plan = plan.model_copy(update={"settings": plan.settings.model_copy(update={"seed": 1})})
    generate(other_plan, range(60), tmp_path / "other")
    assert not set(pictures) & set(bits(tmp_path / "other").values())


def test_a_second_call_draws_nothing(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "straight").rglob("*")}
    assert generate(plan, range(60), tmp_path / "straight").n_generated == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "straight").rglob("*")}


def test_a_suite_that_changed_its_requests_with_its_version_unchanged_is_an_error(
    plan: Plan,
    uninterrupted_bits: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "straight"

    def four_labels(
        suite: DigitsSuite, indices: Iterable[int], settings: object = None
    ) -> list[Request]:
        return [Request(index=i, label=i % 4) for i in indices]

    monkeypatch.setattr(DigitsSuite, "requests", four_labels)
    message = "sample 4 has label 4, the suite requests label 0.; raise the version of the suite"
    for indices in (range(60), range(60, 64)):
        with pytest.raises(PlanMismatchError, match=message):
            generate(plan, indices, folder)
    with pytest.raises(PlanMismatchError, match=message):
        evaluate(folder, folder, FeatureScoring("digits"))
    assert bits(folder) == uninterrupted_bits

    # With another version the plan tells the runs apart.
    monkeypatch.setattr(DigitsSuite, "version", plan.suite_version + 1)
    with pytest.raises(PlanMismatchError, match="suite_version is"):
        generate(make_plan("tiny", None, {}), range(60), folder)


def test_a_lost_image_is_drawn_again(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "straight/images/000017.png").unlink()
    assert generate(plan, range(60), tmp_path / "straight").n_generated == 1
    assert bits(tmp_path / "straight") == uninterrupted_bits


def test_another_plan_in_the_folder_names_the_field(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    other_plan = plan.model_copy(
        update={"settings": plan.settings.model_copy(update={"steps": 4, "guidance": 2.0})}
    )
    with pytest.raises(
        PlanMismatchError,
        match=(
            r"settings.guidance is 1.5 in the folder, 2.0 requested; settings.steps is 3 in the"
            r" folder, 4 requested"
        ),
    ):
        generate(other_plan, range(60), tmp_path / "straight")
    assert bits(tmp_path / "straight") == uninterrupted_bits


def test_more_samples_later_keep_the_first(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    assert generate(plan, range(80), tmp_path / "straight").n_generated == 20
    after = bits(tmp_path / "straight")
    assert all(
        after[name] == data for name, data in uninterrupted_bits.items() if name.endswith(".png")
    )


def test_a_network_that_diverges_is_a_failed_row_not_a_black_picture(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.models.backbones.dit import DiT

    straightforward = DiT.forward

    def diverging(
        self: DiT, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return straightforward(self, x, time, labels).masked_fill(
            (labels == 3)[:, None, None, None], float("nan")
        )

    monkeypatch.setattr(DiT, "forward", diverging)
    assert generate(plan, range(20), tmp_path / "run").n_failed == 2
    samples = open_samples(tmp_path / "run")
    assert sorted(samples.failed) == [3, 13]
    assert (samples.n_asked, len(samples.indices)) == (20, 18)
    assert not (tmp_path / "run/images/000003.png").exists()


def test_an_unfinished_run_is_not_scored(plan: Plan, tmp_path: Path) -> None:
    generate(plan, range(30), tmp_path / "run")
    RunFolder(tmp_path / "run").record_request(range(40))
    with pytest.raises(SampleError, match="40 requested, 10 missing"):
        open_samples(tmp_path / "run")


def test_tiles_follow_the_index_not_the_request() -> None:
    assert list(group_by_padded_batch([60, 3, 24, 25, 49, 50], 25)) == [[3, 24], [25, 49], [50, 60]]


def test_what_cannot_be_drawn_is_said_before_anything_is_written(tmp_path: Path) -> None:
    name = tiny.register_tiny(tmp_path / "weights")
    with pytest.raises(
        OptionError,
        match="30 pixels does not divide into patches of 7 pixels; choose --resolution 28",
    ):
        make_plan(name, None, {"resolution": 30})
    with pytest.raises(UnknownNameError, match="did you mean tiny"):
        make_plan("tinny", None, {})
    with pytest.raises(UnknownNameError, match="did you mean digits"):
        make_plan(name, "digit", {})
    (tmp_path / "weights/tiny.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsError, match="has sha256"):
        generate(make_plan(name, None, {}), range(2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_larger_and_smaller_resolutions_are_drawn(plan: Plan, tmp_path: Path) -> None:
    for side in (14, 56):
        other_plan = plan.model_copy(
            update={"settings": plan.settings.model_copy(update={"resolution": side})}
        )
        generate(other_plan, range(2), tmp_path / str(side))
        samples = open_samples(tmp_path / str(side))
        assert next(samples.batches([0, 1], 2)).images.shape == (2, side, side, 3)


@pytest.mark.no_numbers
def test_kill_nine_at_random_points_loses_nothing(plan: Plan, tmp_path: Path) -> None:
    """A real process is killed at random moments until it gets through; the bits are those of a
    straight run.
    """
    count = 400
    generate(plan, range(count), tmp_path / "straight")
    command = [
        sys.executable,
        "-m",
        "harope_bench.cli",
        "generate",
        "tiny",
        "--count",
        str(count),
        "--batch",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    rng, kills, partial_count = random.Random(0), 0, 0
    for _ in range(20):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if kills < 4:
            before = len(RunFolder(tmp_path / "run").read_records())
            deadline = time.monotonic() + 60
            # wait until it draws, so that the kill falls into the work and not into the imports
            while (
                len(RunFolder(tmp_path / "run").read_records()) == before
                and process.poll() is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            result_count = len(RunFolder(tmp_path / "run").read_records())
            partial_count += 0 < result_count < count
            for index, record in RunFolder(tmp_path / "run").read_records().items():
                assert (tmp_path / "run" / str(record.file)).is_file(), (
                    f"sample {index} was reported done and is gone"
                )
        elif process.wait() == 0:
            break
    assert kills >= 1
    assert partial_count >= 1
    left = {k: v for k, v in bits(tmp_path / "run").items() if not k.endswith(".part")}
    assert left == bits(tmp_path / "straight")


def test_a_line_cut_by_a_power_failure_does_not_spoil_the_next(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    for name in ("samples.jsonl", "requests.jsonl"):
        with (tmp_path / "straight" / name).open("ab") as file:
            file.write(b'{"index": 59, "fi')
    checksums.drop_hashes(
        tmp_path / "straight", ["samples.jsonl"]
    )  # as it is while lines are added
    generate(plan, range(60), tmp_path / "straight")
    generate(plan, range(61), tmp_path / "straight")
    assert len(open_samples(tmp_path / "straight").indices) == 61


def test_steps_a_sampler_cannot_take_are_said_first(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="steps: .* give --steps"):
        make_plan(tiny.register_tiny(tmp_path / "weights"), None, {"steps": 0})
    with pytest.raises(OptionError, match="1 to 1000 steps, found 1001"):
        make_plan("tiny", None, {"sampler": "ddpm", "steps": 1001})


@pytest.mark.no_numbers
def test_processes_on_one_folder_lose_nothing(plan: Plan, tmp_path: Path) -> None:
    """Three real processes draw interleaved parts of one run at the same time."""
    generate(plan, range(240), tmp_path / "straight")
    parts = ["0-79", "80-159", "160-239"]
    command = [
        sys.executable,
        "-m",
        "harope_bench.cli",
        "generate",
        "tiny",
        "--out",
        str(tmp_path / "run"),
        "--indices",
    ]
    running = [
        subprocess.Popen(
            [*command, part], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for part in parts
    ]
    for process in running:
        _, communicate = process.communicate()
        assert process.returncode == 0, communicate
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")


def test_a_finished_run_is_read_once_however_long(
    plan: Plan,
    uninterrupted_bits: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, records = [], RunFolder.read_records
    monkeypatch.setattr(RunFolder, "read_records", lambda self: calls.append(1) or records(self))
    generate(plan, range(60), tmp_path / "straight")
    assert len(calls) <= 3


def test_unsorted_and_repeated_indices_are_drawn_once(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    generated_samples = generate(plan, [5, 3, 59, 3, *range(60)], tmp_path / "other", 7)
    assert (generated_samples.n_requested, generated_samples.n_generated) == (60, 60)
    assert bits(tmp_path / "other") == uninterrupted_bits


def test_a_sampler_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"predicts velocity \(sampler flow\), ddpm needs noise"):
        make_plan(tiny.register_tiny(tmp_path / "weights"), None, {"sampler": "ddpm"})


def test_a_setting_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="guidance: .* give --guidance another value"):
        make_plan(tiny.register_tiny(tmp_path / "weights"), None, {"guidance": float("nan")})


def test_halves_that_a_kill_left_long_ago_are_swept(
    plan: Plan, uninterrupted_bits: dict[str, bytes], tmp_path: Path
) -> None:
    old_path, new_path = (
        tmp_path / "straight/images/.000001.png.a.part",
        tmp_path / "straight/images/.000002.png.b.part",
    )
    for part in (old_path, new_path):
        part.write_bytes(b"half")
    os.utime(old_path, (0, 0))
    generate(plan, range(60), tmp_path / "straight")
    assert (old_path.exists(), new_path.exists()) == (False, True)
