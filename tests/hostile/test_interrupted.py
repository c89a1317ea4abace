"""What a kill between two files must not leave: each test ends a command at the moment at which an
earlier version lost something.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock, Timeout
from PIL import Image
from toy_prompts import ToyEye, ToyRule, ToySuite, toy

from harope_bench.cli import main
from harope_bench.core import checksums, storage
from harope_bench.core.errors import SampleError
from harope_bench.data import folder_writer
from harope_bench.data.image_folder import UNFINISHED_MARKER
from harope_bench.data.sample_set import open_samples
from harope_bench.pipeline import annotate, annotator_choice, external_annotator, predictions
from harope_bench.reports import chart_files
from harope_bench.suites.official_layouts.prompt_folder import open_prompt_images

__all__ = ["toy"]


def run(*words: object, code: int = 0) -> Result:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == code, command_result.output
    return command_result


def pictures(folder: Path, count: int = 8) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (8, 8), (30 * index, 0, 0)).save(folder / f"{index}.png")
    return folder


def interrupting(real: Callable[..., Any], after: int) -> Callable[..., Any]:
    """Return a function that does what another does, but for the first time after so many calls:
    then the command ends.
    """
    calls: list[int] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return real(*args, **options)

    return call


# ------------------------------------------------------------------------------------------------
# conversions


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of five images of eight, which an interrupted conversion left."""
    source = pictures(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(folder_writer, "write_bytes", interrupting(storage.write_bytes, 5))
        run("convert", source, tmp_path / "part", "--to", "png", code=130)
    assert len(list((tmp_path / "part").glob("*.png"))) == 5
    return tmp_path / "part"


READERS: dict[str, tuple[str, ...]] = {
    "eval": ("eval", "{part}", "--suite", "digits", "--out", "{new}"),
    "count": ("eval", "{part}", "--suite", "digits", "--count", "4", "--out", "{new}"),
    "convert": ("convert", "{part}", "{new}", "--to", "adm"),
    "png": ("convert", "{part}", "{new}", "--to", "png"),
    "reference": ("reference", "{part}", "{new}.npz", "--judge", "digits-net"),
    "order": ("eval", "{part}", "--suite", "shapes", "--order", "copy-major", "--out", "{new}"),
    "pattern": (
        "eval",
        "{part}",
        "--suite",
        "shapes",
        "--pattern",
        "{{index}}.png",
        "--out",
        "{new}",
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_part_of_a_conversion_is_read_by_nobody(reader: str, part: Path) -> None:
    before = sorted(path.name for path in part.parent.iterdir())
    words = [word.format(part=part, new=part.parent / "new") for word in READERS[reader]]
    assert (
        "is unfinished: convert was interrupted; run the same convert again"
        in run(*words, code=1).output
    )
    assert sorted(path.name for path in part.parent.iterdir()) == before


def test_a_part_of_a_conversion_of_prompts_is_read_by_nobody(part: Path, toy: ToyEye) -> None:
    with pytest.raises(SampleError, match="is unfinished"):
        open_prompt_images(part, "toy", ToySuite())


def test_a_conversion_that_went_on_is_a_set(part: Path) -> None:
    run("convert", part.parent / "in", part, "--to", "png")
    assert sorted(path.name for path in part.iterdir()) == [
        f"{index:06d}.png" for index in range(8)
    ]
    assert len(open_samples(part).indices) == 8


def test_a_conversion_that_is_done_is_not_marked_again(
    part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("convert", part.parent / "in", part, "--to", "png")
    monkeypatch.setattr(folder_writer, "write_text", interrupting(storage.write_text, 0))
    run("convert", part.parent / "in", part, "--to", "png")


def test_who_wants_the_part_can_have_it(part: Path) -> None:
    (part / UNFINISHED_MARKER).unlink()
    assert len(open_samples(part).indices) == 5


# ------------------------------------------------------------------------------------------------
# what vouches for what


def annotate_folder(folder: Path, out: Path) -> Any:
    samples = open_samples(folder)
    cases = {index: ToySuite().case(index) for index in samples.indices}
    judges = annotator_choice.parse_judges(None, ToySuite.judges["toy-rule"])
    return annotate.annotate_samples(
        samples,
        cases,
        "toy",
        ToyRule.annotator_roles,
        judges,
        out,
        annotator_choice.AnnotatorOptions(),
    )


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("faster_at", [0, 3, 7])
def test_answers_of_two_processes_are_vouched_for_whoever_is_faster(
    tmp_path: Path, toy: ToyEye, monkeypatch: pytest.MonkeyPatch, is_killed: bool, faster_at: int
) -> None:
    """A second process asks everything and records the answers while the first has one of its own
    still to write.
    """
    folder, out, real, calls = (
        pictures(tmp_path / "i"),
        tmp_path / "o",
        ToyEye.annotate,
        list[int](),
    )

    def annotate_image(self: ToyEye, *args: Any) -> Any:
        calls.append(1)
        answer = real(self, *args)
        if len(calls) == faster_at + 1:
            annotate_folder(folder, out)
        if (
            is_killed and len(calls) == faster_at + 2 + 12
        ):  # of the second process: eight detections and four answers
            raise KeyboardInterrupt
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(ToyEye, "annotate", annotate_image)
        try:
            annotate_folder(folder, out)
        except KeyboardInterrupt:
            assert is_killed
    sights, _ = annotate_folder(folder, out)
    assert [sight.failure for sight in sights] == [None] * 8
    assert checksums.file_state(out / "toy-eye", external_annotator.ANNOTATIONS_FILE) == "same"


def test_altered_answers_are_refused_still(tmp_path: Path, toy: ToyEye) -> None:
    folder, out = pictures(tmp_path / "i"), tmp_path / "o"
    annotate_folder(folder, out)
    answers = out / "toy-eye" / external_annotator.ANNOTATIONS_FILE
    answers.write_text(
        answers.read_text().replace('"yes"', '"no"').replace('"score": 0.9', '"score": 0.8') + "\n"
    )
    with pytest.raises(storage.StorageError, match="differs from its hash"):
        annotate_folder(folder, out)


def test_files_are_hashed_while_no_other_process_can_record_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashed before, a file that a second process writes and records meanwhile would get the hash
    of its former bytes.
    """
    (tmp_path / "a.json").write_text("{}")
    is_alone: list[bool] = []

    def hash_under_lock(path: Path, **options: bool) -> str:
        try:
            FileLock(
                tmp_path / f".{checksums.CHECKSUMS_FILE}.lock", timeout=0
            ).acquire().lock.release()
        except Timeout:
            is_alone.append(True)
        return storage.sha256_file(path, **options)

    monkeypatch.setattr(checksums, "sha256_file", hash_under_lock)
    checksums.record_file_hashes(tmp_path, ["a.json"])
    assert is_alone == [True] and checksums.file_state(tmp_path, "a.json") == "same"


@pytest.mark.parametrize("shard", [0, 1])
def test_every_shard_of_predictions_is_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(predictions, "SHARD_SIZE", 8)
    words = ("eval", "digits-deit-harope", "--count", "16", "--out")
    run(*words, tmp_path / "straight")
    real = predictions.write_bytes

    def write(path: Path, data: bytes) -> None:
        real(path, data)
        if path.name == f"{shard:05d}.npz":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "write_bytes", write)
        run(*words, tmp_path / "killed", code=130)
    run(*words, tmp_path / "killed")
    straight_checksum, killed_checksum = (
        checksums.read_checksums(tmp_path / name / "predictions/digits-deit-harope")
        for name in ("straight", "killed")
    )
    assert killed_checksum == straight_checksum and len(straight_checksum) == 2


# ------------------------------------------------------------------------------------------------ a
# figure's three files


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_figure_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    words = ("figure", "loss", tmp_path / "log.csv", "--out", tmp_path / "out/loss.svg")
    with monkeypatch.context() as patch:
        patch.setattr(chart_files, "write_text", interrupting(storage.write_text, after))
        run(*words, code=130)
    assert len(list((tmp_path / "out").iterdir())) == after
    run(*words)
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    run(*words[:-1], tmp_path / "again/loss.svg")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "loss.csv",
        "loss.json",
        "loss.svg",
    ]
