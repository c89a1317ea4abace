"""Whoever reads a recorded file back refuses one that was altered since; nothing is written, and
nothing vouches for it afterwards.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner, Result
from result_folders import COPY_MAJOR, write_moments_reference
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, toy

from harope_bench.cli import main
from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.errors import AlteredFileError
from harope_bench.data.result_store import read_results
from harope_bench.data.run_folder import RunFolder
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.evaluate_prompts import PromptScoring, evaluate_prompts
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.verify import verify

__all__ = ["toy"]  # the fixture
COUNT = 4


@pytest.fixture(scope="module")
def scored_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a checkpoint, and a run of it that was scored; tests copy both."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAROPE_BENCH_HOME", str(folder / "home"))
        generate(
            make_plan(tiny.register_tiny(folder / "weights"), None, {}),
            range(COUNT),
            folder / "runs/a",
        )
        evaluate(
            folder / "runs/a",
            folder / "runs/a",
            FeatureScoring("digits", write_moments_reference(folder)),
        )
    shutil.copytree(folder / "runs/a", folder / "runs/b")
    return folder


@pytest.fixture
def scored_copy(scored_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(scored_home / "runs", tmp_path / "runs")
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(scored_home / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state_of(folder: Path) -> dict[str, bytes]:
    """Every file that is no lock."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def call(*words: str) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter JSON, or the second line of a .jsonl, and tell nobody."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else ["", path.read_text()]
    document = json.loads(lines[1])
    change(document)
    lines[1] = json.dumps(document)
    path.write_text("\n".join(lines).strip() + "\n")


def result_of(run: Path) -> Path:
    """The one result; its name holds the hash of its reference."""
    (path,) = (run / "results").glob("*.json")
    return path


def value(fields: dict[str, Any]) -> None:
    fields["measurements"][0]["value"] = 1.5


def alter_result(run: Path) -> None:
    edit(result_of(run), value)


def alter_arrays(run: Path) -> None:
    path = result_of(run).with_suffix(".npz")
    arrays = load_arrays(path)
    write_arrays(path, {**arrays, "is": arrays["is"] + 1})


def alter_records(run: Path) -> None:
    edit(run / "samples.jsonl", lambda line: line.update(label=7))


def alter_plan(run: Path) -> None:
    edit(run / "plan.json", lambda fields: fields["settings"].update(guidance=4.0))


RESULTS_ARE_READ = [
    ["table", "2", "--runs", "runs"],
    ["compare", "runs/a", "runs/b"],
    ["report", "--runs", "runs", "--out", "report.html"],
    ["gate", "runs/a", "runs/b"],
    ["gate", "new.json", "runs/b", "--update", "--reason", "first"],
    ["leaderboard", "build", "runs", "--out", "board"],
]
ARRAYS_ARE_READ = [
    ["compare", "runs/a", "runs/b"],
    ["gate", "new.json", "runs/b", "--update", "--reason", "first"],
]
RECORDS_ARE_READ = [
    ["report", "--runs", "runs", "--out", "report.html"],
    ["compare", "runs/a", "runs/b"],
    ["eval", "runs/b"],
    ["convert", "runs/b", "out.npz", "--to", "adm"],
    ["convert", "runs/b", "out", "--to", "png"],
    ["generate", "tiny", "--count", "5", "--out", "runs/b"],
]
PLAN_IS_READ = [
    ["report", "--runs", "runs", "--out", "report.html"],
    ["eval", "runs/b"],
    ["convert", "runs/b", "out.npz", "--to", "adm"],
    ["generate", "tiny", "--count", "5", "--out", "runs/b"],
]
ROWS = [
    *((alter_result, words, ".json") for words in RESULTS_ARE_READ),
    *((alter_arrays, words, ".npz") for words in ARRAYS_ARE_READ),
    *((alter_records, words, "samples.jsonl") for words in RECORDS_ARE_READ),
    *((alter_plan, words, "plan.json") for words in PLAN_IS_READ),
]


@pytest.mark.parametrize(
    ("alter", "words", "file"),
    ROWS,
    ids=[f"{file}-{'-'.join(words[:2])}" for _, words, file in ROWS],
)
def test_what_was_altered_is_not_read_back(
    scored_copy: Path, alter: Callable[[Path], None], words: list[str], file: str
) -> None:
    alter(scored_copy / "runs/b")
    before = state_of(scored_copy)
    result = call(*words)
    assert result.exit_code == 1, result.output
    assert (
        re.search(rf"runs/b/\S*{re.escape(file)} was altered", result.output)
        and len(result.stderr.strip().splitlines()) == 1
    )
    assert state_of(scored_copy) == before


def test_nothing_vouches_for_altered_records_after_the_run_grew(scored_copy: Path) -> None:
    """New lines are added to the file and its hash is recorded anew: of the old lines nobody would
    know.
    """
    alter_records(scored_copy / "runs/b")
    call("generate", "tiny", "--count", str(COUNT + 1), "--out", "runs/b")
    assert verify(scored_copy / "runs/b", 0).status == "altered"


def test_verify_still_says_what_is_wrong_in_altered_records(scored_copy: Path) -> None:
    alter_records(scored_copy / "runs/b")
    wrong_altered_messages = verify(scored_copy / "runs/b", 0, reference=None).altered_messages
    assert any("samples.jsonl: its sha256" in line for line in wrong_altered_messages) and any(
        "label or prompt of samples 1 " in line for line in wrong_altered_messages
    )


def test_altered_verdicts_are_not_listed(tmp_path: Path, toy: ToyEye) -> None:
    evaluate_prompts(
        write_toy_images(tmp_path / "images", COLOURS),
        tmp_path / "out",
        PromptScoring("toy", folder_options=COPY_MAJOR),
    )
    assert call("failures", tmp_path).exit_code == 0
    edit(
        tmp_path / "out/results/toy-rule.sample_scores.jsonl",
        lambda row: row.update(verdict="right", scores={"toy": 1.0}),
    )
    assert "toy-rule.sample_scores.jsonl was altered" in call("failures", tmp_path).output


def test_results_without_recorded_hashes_are_read(scored_copy: Path) -> None:
    """Those of other tools, and those that were copied alone."""
    (scored_copy / "runs/b/results/SHA256SUMS").unlink()
    alter_result(scored_copy / "runs/b")
    assert [result.result.measurements[0].value for result in read_results(scored_copy / "runs")][
        1
    ] == 1.5


def test_a_result_whose_hash_is_about_to_be_written_is_waited_for(scored_copy: Path) -> None:
    """A table that is made while `eval` writes: between the file and its hash there is a moment."""
    path = result_of(scored_copy / "runs/b")
    reader_failures: list[AlteredFileError] = []

    def read() -> None:
        try:
            checksums.check_recorded_hash(path, "")
        except AlteredFileError as error:
            reader_failures.append(error)

    with checksums.lock_folder(path.parent):
        alter_result(scored_copy / "runs/b")
        reader = threading.Thread(target=read)
        reader.start()
        checksums.record_file_hashes(path.parent, [path.name])
    reader.join()
    assert reader_failures == []


def test_altered_results_of_a_folder_that_may_not_be_written_are_refused(
    scored_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no lock to take, and nobody who writes."""

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    alter_result(scored_copy / "runs/b")
    monkeypatch.setattr(checksums, "FileLock", refuse)
    with pytest.raises(AlteredFileError):
        read_results(scored_copy / "runs")


def test_plain_runs_are_read_by_every_command(scored_copy: Path) -> None:
    """So that the refusals above are of the alteration."""
    assert RunFolder(scored_copy / "runs/b").read_records().keys() == set(range(COUNT))
    for words in RESULTS_ARE_READ[:3] + RECORDS_ARE_READ[2:5]:
        assert call(*words).exit_code == 0, words
