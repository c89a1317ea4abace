"""Shards of one run: processes that share a run folder end in the bytes of one process, and any
other second writer is a named error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from shard_runs import BATCH, call, contents, tiny_name
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, toy

from harope_bench.cli import main
from harope_bench.core.errors import PlanMismatchError, RunBusyError
from harope_bench.core.index_ranges import IndexRanges
from harope_bench.core.shard import Shard, parse_shard
from harope_bench.data import run_claim
from harope_bench.data.run_claim import RunPart, claim_run
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.base import load_feature_extractor
from harope_bench.pipeline.generate import generate, make_plan, shard_part

__all__ = ["tiny_name", "toy"]  # the fixtures
COUNT = 70


# ------------------------------------------------------------------------------------ the partition


@given(st.lists(st.integers(0, 300), unique=True), st.integers(1, 9), st.integers(1, 12))
def test_shards_hold_every_sample_once_and_whole_batches(
    indices: list[int], size: int, count: int
) -> None:
    parts = [Shard(k, count).take_batches(indices, size) for k in range(1, count + 1)]
    assert [i for part in parts for i in part] == sorted(indices)
    batches = [{i // size for i in part} for part in parts]
    assert sum(map(len, batches)) == len(set().union(*batches))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "1/100001", ""])
def test_a_shard_outside_of_its_count_is_wrong_usage(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard|give"):
        parse_shard(text)
    for command in ("generate", "eval"):
        call(command, "digits-ape", "--out", tmp_path / "out", "--shard", text, exit_code=2)
    assert not (tmp_path / "out").exists()


def test_shard_and_indices_exclude_each_other(tiny_name: str, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "out", "--shard", "1/2", "--indices", "0-9")
    assert "exclude" in call("generate", tiny_name, *words, exit_code=2).output


# -------------------------------------------------------------------------------- the bytes of one


def evaluate_digits(folder: Path, *words: object) -> str:
    return call("eval", "tiny", "--count", COUNT, "--out", folder, *words).output


@pytest.fixture
def straight_files(tiny_name: str, tmp_path: Path) -> dict[str, bytes]:
    evaluate_digits(tmp_path / "straight/run")
    return contents(tmp_path / "straight/run")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2,), ()])
def test_shards_in_any_order_end_in_the_bytes_of_one_process(
    straight_files: dict[str, bytes], tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Shards that are left out were killed before they began."""
    for number in order:
        evaluate_digits(tmp_path / "shared/run", "--shard", f"{number}/3")
    assert not (tmp_path / "shared/run/results").exists()
    evaluate_digits(tmp_path / "shared/run")
    assert contents(tmp_path / "shared/run") == straight_files


def test_features_of_shards_are_not_extracted_again(
    straight_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        output = evaluate_digits(tmp_path / "shared/run", "--shard", f"{number}/2")
        assert "extracted" in output
    extractor_class = type(load_feature_extractor("digits-net").open("cpu"))
    calls, extract = list[int](), extractor_class.extract_preprocessed

    def count_images(self: Any, inputs: Any) -> Any:
        calls.append(len(inputs))
        return extract(self, inputs)

    monkeypatch.setattr(extractor_class, "extract_preprocessed", count_images)
    evaluate_digits(tmp_path / "shared/run")
    # at most the batch that lies in both shards, and the judge's self-check
    assert sum(size for size in calls if size == BATCH) <= 2 * BATCH
    assert contents(tmp_path / "shared/run") == straight_files


def test_killed_shards_are_finished_by_the_next_eval(
    straight_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_digits(tmp_path / "shared/run", "--shard", "2/2")
    add_sample, n_added = RunFolder.add_sample, list[int]()

    def add_some(self: RunFolder, sample: Any) -> None:
        n_added.append(1)
        if len(n_added) > 7:
            raise KeyboardInterrupt
        add_sample(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_sample", add_some)
        arguments = ["eval", "tiny", "--count", str(COUNT), "--out", str(tmp_path / "shared/run")]
        assert CliRunner().invoke(main, [*arguments, "--shard", "1/2"]).exit_code == 130
    assert len(RunFolder(tmp_path / "shared/run").read_records()) > 7
    call("eval", tmp_path / "shared/run", exit_code=1)  # a run folder alone is unfinished
    evaluate_digits(tmp_path / "shared/run")
    assert contents(tmp_path / "shared/run") == straight_files


def test_an_unfinished_share_can_be_read_and_says_so(tiny_name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number in (1, 2):
        call("generate", tiny_name, "--count", 40, "--out", run, "--shard", f"{number}/2")
    assert len(open_samples(run).indices) == 40
    assert "eval" in call("verify", run, "--redraw", 0, exit_code=1).output
    call("eval", run)
    call("verify", run, "--redraw", 1, "--seed", 0)


def test_shards_of_a_folder_of_prompts_are_annotated_once(
    toy: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy_images(tmp_path / "images", COLOURS)
    words = ("eval", tmp_path / "images", "--suite", "toy", "--order", "copy-major", "--out")
    call(*words, tmp_path / "straight/run")
    for number in (2, 1):
        call(*words, tmp_path / "shared/run", "--shard", f"{number}/2")

    def fail(*_: object) -> None:
        raise AssertionError("annotated again")

    with monkeypatch.context() as patch:
        patch.setattr(ToyEye, "annotate", fail)
        call(*words, tmp_path / "shared/run")
    assert contents(tmp_path / "shared/run") == contents(tmp_path / "straight/run")


def test_shards_of_a_classifier_end_in_the_bytes_of_one_process(tmp_path: Path) -> None:
    words = ("eval", "digits-deit-harope", "--count", 300, "--out")
    call(*words, tmp_path / "straight/run")
    for number in (2, 1):
        call(*words, tmp_path / "shared/run", "--shard", f"{number}/2")
    call(*words, tmp_path / "shared/run")
    assert contents(tmp_path / "shared/run") == contents(tmp_path / "straight/run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rescore",), "only scores"),
        (("--subset", "1", "--count", "5"), "chooses from all images"),
        (("--with", "cost"), "has no shards"),
    ],
)
def test_what_has_no_shards_is_said_before_work_starts(
    tiny_name: str, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    output = call("eval", tiny_name, "--out", tmp_path / "o", "--shard", "1/2", *words, exit_code=1)
    assert message in output.output
    assert not (tmp_path / "o").exists()


# -------------------------------------------------------------------------------- a second writer


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that claims the folder `run`."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from harope_bench.data.run_claim import claim_run\n"
        "with claim_run(Path(sys.argv[1])):\n"
        "    print('claimed', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_second_writer_is_an_error_that_names_the_first(
    other_process: subprocess.Popen[str], tiny_name: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for words in (
        ("generate",),
        ("eval",),
        ("eval", "--shard", "1/2"),
        ("generate", "--indices", "0"),
    ):
        output = call(words[0], tiny_name, *words[1:], "--out", run, exit_code=1).output
        assert f"is being written by process {other_process.pid} on" in output
        assert "--shard 1/N" in output and output.count("\n") == 1
    assert not (run / "plan.json").exists()

    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    call("generate", tiny_name, "--count", 2, "--out", run)
    assert not (run / run_claim.WRITER_FILE).exists()


def test_reproduce_claims_its_folder(other_process: subprocess.Popen[str], tmp_path: Path) -> None:
    words = ("reproduce", "2", "--scale", "micro", "--count", 2, "--out", tmp_path / "run")
    assert "is being written by" in call(*words, exit_code=1).output


def part(name: str, start: int, end: int) -> RunPart:
    indices = IndexRanges([(start, end)])
    return RunPart(name, indices, indices)


def claim_in_thread(folder: Path, claimed_part: RunPart | None) -> RunBusyError | None:
    """Claim in another thread, which is another writer; return its error."""
    errors: list[RunBusyError] = []

    def claim() -> None:
        try:
            with claim_run(folder, claimed_part):
                pass
        except RunBusyError as error:
            errors.append(error)

    thread = threading.Thread(target=claim)
    thread.start()
    thread.join()
    return errors[0] if errors else None


def test_parts_of_other_samples_share_a_folder_and_all_else_excludes(tmp_path: Path) -> None:
    with claim_run(tmp_path / "run", part("a", 0, 9)):
        assert claim_in_thread(tmp_path / "run", part("b", 10, 19)) is None
        for other_part in (part("a", 0, 9), part("c", 9, 12), None):
            assert "samples 0-9" in str(claim_in_thread(tmp_path / "run", other_part))
    with claim_run(tmp_path / "run"):
        with claim_run(tmp_path / "run"):
            pass
        for other_part in (part("a", 0, 9), None):
            assert claim_in_thread(tmp_path / "run", other_part) is not None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("claimed_part", [None, part("a", 0, 4)])
def test_a_writer_of_another_node_counts_while_it_gives_signs(
    tmp_path: Path, claimed_part: RunPart | None
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "kept").touch()
    writer = {"host": "node7", "process": 11, "start_time": "2026", "boot": "another"}
    path = run / run_claim.WRITER_FILE
    path.write_text(json.dumps(writer))
    with (
        pytest.raises(RunBusyError, match=rf"process 11 on node7 .* delete {path}"),
        claim_run(run, claimed_part),
    ):
        pass
    assert path.exists()
    os.utime(path, (0, 0))
    with claim_run(run, claimed_part):
        pass


def test_a_folder_that_may_not_be_written_raises_its_own_error(
    tiny_name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    output = call("generate", tiny_name, "--out", tmp_path / "file/run", exit_code=1).output
    assert "cannot use" in output and "being written" not in output


def test_a_shard_of_another_plan_is_refused(tiny_name: str, tmp_path: Path) -> None:
    plan = make_plan(tiny_name, None, {})
    generate(plan, range(4), tmp_path / "run")
    other_plan = make_plan(tiny_name, None, {"seed": 5})
    shard = shard_part(Shard(1, 2), range(40), other_plan.settings.tile)
    with pytest.raises(PlanMismatchError, match="seed is 0 in the folder, 5 requested"):
        generate(other_plan, shard.indices, tmp_path / "run", part=shard)
    assert len(open_samples(tmp_path / "run").indices) == 4


def test_a_damaged_batch_of_a_shard_is_named(tiny_name: str, tmp_path: Path) -> None:
    evaluate_digits(tmp_path / "run", "--shard", "1/2")
    path = next((tmp_path / "run").glob("parts/*/features/*/*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    words = ("eval", "tiny", "--count", COUNT, "--out", tmp_path / "run")
    output = call(*words, exit_code=1).output
    assert f"{path} is no batch of features or is damaged; delete it" in output
    shutil.rmtree(path.parent)
    evaluate_digits(tmp_path / "run")


PAGE = Path(__file__).parents[2] / "docs/guides/many-gpus.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not beside the tests")
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for one machine, on a CPU and with few images."""
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text().partition("## One machine")[2].partition("\n## ")[0]
    lines = re.findall(r"harope-bench (eval [^&\n]*)", section)
    assert [("--workers" in line, "--shard" in line) for line in lines] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    straight_line, shard_line, last_line = [
        line.replace("--device cuda", "--device cpu --count 8 --steps 2") for line in lines
    ]
    call(*straight_line.split())  # --workers auto is this process on a CPU
    straight_files = contents(tmp_path / "runs/harope")
    shutil.rmtree(tmp_path / "runs")
    for i in (1, 2, 3, 4):
        call(*shard_line.replace("$i", str(i)).split())
    call(*last_line.split())
    assert contents(tmp_path / "runs/harope") == straight_files
