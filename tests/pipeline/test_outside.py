"""Judges of another environment: questions and answers lie in a folder, a kill loses nothing, and
what goes wrong is one line.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harope_bench.core import registry
from harope_bench.core.annotations import ANNOTATION_TYPES as KINDS
from harope_bench.core.errors import BenchError, JudgeError, MissingAssetError, OptionError
from harope_bench.core.json_lines import read_lines
from harope_bench.core.storage import sha256_bytes, sha256_file
from harope_bench.pipeline import external_annotator
from harope_bench.pipeline.annotation_folder import read_judge_record

RUNNERS = Path(external_annotator.__file__).parents[1] / "judges" / "runners"
STDLIB = {*sys.stdlib_module_names, "PIL", "common"}

# Answers how many bytes an image has, in words of the role vqa; obeys the questions `die`, `fail`,
# `nan`.
STAND_IN = """
import os, signal, sys, time
import common
args = common.parse_arguments({"mood": "how it behaves"})
assert "harope_bench" not in sys.modules
assert "PYTHONPATH" not in os.environ and "SECRET" not in os.environ
assert not any(path.endswith("stand_in") for path in sys.path)
def annotate(role, image, query):
    questions = query["questions"]
    if "fail" in questions:
        raise RuntimeError("cannot see this\\nat all")
    if "die" in questions and args.mood == "mortal":
        os.kill(os.getpid(), signal.SIGKILL)
    yes = float("nan") if "nan" in questions else 0.5
    answer = {"text": "%d bytes" % image.stat().st_size, "yes_probability": yes}
    return {"answers": [answer for _ in questions]}
if args.mood == "rude":
    print("some library talks")
    common.stop("no  weights\\nhere")
if args.mood == "silent":
    raise SystemExit(0)
if args.mood == "odd":
    sys.exit(7)
weights = common.file_sha256(args.weights) if args.weights else "ab" * 32
preprocessing = "counts bytes on " + args.device
common.annotate_queries(args, "stand-in", 2, "substitute", preprocessing, weights, annotate)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment without any package."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    folder = tmp_path / "stand_in"
    folder.mkdir()
    shutil.copy(RUNNERS / "common.py", folder)
    (folder / "stand_in.py").write_text(STAND_IN)
    return folder / "stand_in.py"


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a folder of questions, one an image of that many bytes, and returns
    it.
    """

    def write(*questions: str, name: str = "annotations") -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for i, question in enumerate(questions):
            image = folder / "images" / f"{i}.png"
            image.write_bytes(b"x" * (i + 1))
            location = str(image) if i % 2 else f"images/{i}.png"  # both forms
            fields = {
                "index": i,
                "role": "vqa",
                "image": location,
                "sha256": sha256_file(image),
                "query": {"questions": [question]},
            }
            lines.append({**fields, "key": sha256_bytes(json.dumps(fields).encode())})
        (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return write


def answer_texts(folder: Path) -> dict[int, Any]:
    return {
        line["index"]: line["annotation"]["answers"][0]["text"]
        for line in read_lines(folder / "annotations.jsonl")
        if "annotation" in line
    }


def test_a_bare_environment_answers_every_question(
    python: Path,
    runner: Path,
    ask: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SECRET", "ours")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    folder = ask(*["how large?"] * 4)
    assert external_annotator.run_annotator(
        python, runner, folder, {"device": "cpu"}
    ) == external_annotator.AnnotationCounts(4, 0)
    assert answer_texts(folder) == {i: f"{i + 1} bytes" for i in range(4)}
    record = read_judge_record(folder)
    assert record is not None
    assert (record.name, record.version, record.preprocessing) == (
        "stand-in",
        2,
        "counts bytes on cpu",
    )
    assert "4 of 4 images, 0 failed" in capsys.readouterr().err
    for line in read_lines(folder / "annotations.jsonl"):
        KINDS["vqa"].model_validate(line["annotation"])


def test_a_kill_loses_nothing_and_nothing_is_asked_twice(
    python: Path, runner: Path, ask: Callable[..., Path]
) -> None:
    folder = ask("a", "b", "die", "d")
    with pytest.raises(
        JudgeError, match=r"stand_in\.py in .* was ended by signal 9: .*run eval again"
    ):
        external_annotator.run_annotator(python, runner, folder, {"mood": "mortal"})
    assert answer_texts(folder) == {0: "1 bytes", 1: "2 bytes"}
    with (folder / "annotations.jsonl").open("ab") as file:
        file.write(b'{"key": "half a li')  # as a power cut leaves it
    first_part = (folder / "annotations.jsonl").read_bytes().rpartition(b"\n")[0]
    assert external_annotator.run_annotator(
        python, runner, folder, {"mood": "calm"}
    ) == external_annotator.AnnotationCounts(4, 0)
    whole_content = (folder / "annotations.jsonl").read_bytes()
    assert whole_content.startswith(first_part + b"\n") and len(whole_content.splitlines()) == 4
    external_annotator.run_annotator(python, runner, folder, {"mood": "calm"})
    assert (folder / "annotations.jsonl").read_bytes() == whole_content


def test_our_own_end_ends_the_runner(
    python: Path, runner: Path, ask: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    pids = []

    def interrupt_runner(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "write", interrupt_runner)
        with pytest.raises(KeyboardInterrupt):
            external_annotator.run_annotator(python, runner, ask("a"), {})
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pids[0], 0)
        except ProcessLookupError:
            return
    pytest.fail("the runner outlived us")


def test_failures_are_lines_and_are_asked_again(
    python: Path, runner: Path, ask: Callable[..., Path]
) -> None:
    folder = ask("fine", "fail", "nan", "altered")
    (folder / "images" / "3.png").write_bytes(b"another image")
    assert external_annotator.run_annotator(
        python, runner, folder, {}
    ) == external_annotator.AnnotationCounts(1, 3)
    errors = {
        line["index"]: line["error"]
        for line in read_lines(folder / "annotations.jsonl")
        if "error" in line
    }
    assert errors[1] == "RuntimeError: cannot see this"
    assert errors[2].startswith("ValueError: Out of range float")
    assert "is not the image that was queried" in errors[3]
    (folder / "images" / "3.png").write_bytes(b"xxxx")
    assert external_annotator.run_annotator(
        python, runner, folder, {}
    ) == external_annotator.AnnotationCounts(2, 2)


def test_a_judge_that_fails_from_the_start_is_stopped(
    python: Path, runner: Path, ask: Callable[..., Path]
) -> None:
    with pytest.raises(
        JudgeError, match=r"failed on each of its first 5 images \(RuntimeError: cannot see this\)"
    ):
        external_annotator.run_annotator(python, runner, ask(*["fail"] * 9), {})
    folder = ask("fine", *["fail"] * 9, name="other")
    assert external_annotator.run_annotator(
        python, runner, folder, {}
    ) == external_annotator.AnnotationCounts(1, 9)
    assert external_annotator.run_annotator(
        python, runner, folder, {}
    ) == external_annotator.AnnotationCounts(1, 9), (
        "it saw an image before, so these are the images' fault"
    )


def test_what_goes_wrong_is_one_line(
    python: Path, runner: Path, ask: Callable[..., Path], tmp_path: Path
) -> None:
    folder = ask("a")
    cases = {
        "rude": r"ended with code 1: no weights here; ",
        "odd": "ended with code 7: it printed nothing",
        "silent": "did not write its judge record",
    }
    for mood, case in cases.items():
        with pytest.raises(JudgeError, match=case) as excinfo:
            external_annotator.run_annotator(python, runner, folder, {"mood": mood})
        assert "\n" not in str(excinfo.value)
    with pytest.raises(
        JudgeError, match="ended with code 2: .*unrecognized arguments: --colour blue"
    ):
        external_annotator.run_annotator(python, runner, folder, {"colour": "blue"})
    for wrong_path in (tmp_path / "absent", tmp_path, runner):
        with pytest.raises(OptionError, match="is no program"):
            external_annotator.run_annotator(wrong_path, runner, folder, {})
    broken_path = tmp_path / "broken"
    broken_path.write_bytes(b"no program at all")
    broken_path.chmod(0o755)
    with pytest.raises(OptionError, match="does not start"):
        external_annotator.run_annotator(broken_path, runner, folder, {})


def test_answers_of_another_judge_are_not_mixed(
    python: Path, runner: Path, ask: Callable[..., Path], tmp_path: Path
) -> None:
    folder, weights = ask("a", "b"), tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    external_annotator.run_annotator(python, runner, folder, {"weights": str(weights)})
    assert (
        record := read_judge_record(folder)
    ) is not None and record.weights_sha256 == sha256_file(weights)
    weights.write_bytes(b"two")
    with pytest.raises(JudgeError, match="has annotations of another judge: weights_sha256"):
        external_annotator.run_annotator(python, runner, folder, {"weights": str(weights)})


def test_questions_without_answer_are_found(
    tmp_path: Path, ask: Callable[..., Path], runner: Path
) -> None:
    folder = ask("a", "b")
    (folder / "judge.json").write_text("{}")
    key = read_lines(folder / "queries.jsonl")[0]["key"]
    line = {"key": key, "index": 0, "annotation": {}}
    (folder / "annotations.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(JudgeError, match="left 1 of 2 queries without an annotation"):
        external_annotator.count_annotations(folder, runner)


@pytest.mark.parametrize("path", sorted(RUNNERS.glob("*.py")), ids=lambda path: path.stem)
def test_runners_read_as_python_3_8_and_need_nothing_of_ours(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in (
        tree.body
    ):  # what is imported at once; a network's own libraries are imported inside functions
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert {name.split(".")[0] for name in names} <= STDLIB, path
    assert not [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("harope_bench")
    ]


# ------------------------------------------------------------------------------------------- mplug

MODELSCOPE = """
class Asked:
    def __init__(self, task, model, device):
        assert task == "visual-question-answering"
        self.word = open(model + "/vocab.txt").read()
    def __call__(self, data):
        assert data["image"].mode == "RGB"
        return {"text": self.word + " " + data["question"]}
pipeline = Asked
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("configuration.json", "config.yaml", "vocab.txt", "pytorch_model.bin"):
        (folder / name).write_text("yes")
    (folder / ".mv").write_text("Revision:v1.0.1,CreatedAt:1")
    return folder


def imitation(tmp_path: Path) -> Path:
    """A folder with a package modelscope that answers by its vocabulary, and Pillow's place."""
    package = tmp_path / "packages" / "modelscope"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "pipelines.py").write_text(MODELSCOPE)
    (package.parent / "PIL").mkdir()
    (package.parent / "PIL" / "__init__.py").write_text("")
    (package.parent / "PIL" / "Image.py").write_text(
        "class Picture:\n    mode, width, height = 'RGB', 8, 8\n    def __enter__(self): return"
        " self\n    def __exit__(self, *_): pass\n    def convert(self, mode): return self\ndef"
        " open(path, formats): return Picture()\n"
    )
    return package.parent


def test_mplug_answers_in_the_pipelines_words(
    python: Path, ask: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    """modelscope itself is not here: an imitation of its interface shows what the runner asks of it
    and records.
    """
    plugin = registry.load_by_name("judges", "mplug")
    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    (site / "imitation.pth").write_text(str(imitation(tmp_path)) + "\n")
    try:
        folder = ask("Is the man wise?", "Is it red?")
        assert external_annotator.run_annotator(
            python, plugin.runner, folder, {"device": "cpu", "weights": str(model)}
        ) == external_annotator.AnnotationCounts(2, 0)
    finally:
        (site / "imitation.pth").unlink()
    assert answer_texts(folder) == {0: "yes Is the man wise?", 1: "yes Is it red?"}
    record = read_judge_record(folder)
    assert record is not None
    assert (record.name, record.judge_class) == (
        "mplug",
        "substitute",
    ) and "revision v1.0.1; python 3." in record.preprocessing
    assert "a substitute: no --judge-option sha256=HEX" in record.preprocessing


def test_mplug_is_official_by_a_hash_alone(
    python: Path, ask: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    plugin = registry.load_by_name("judges", "mplug")
    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    (site / "imitation.pth").write_text(str(imitation(tmp_path)) + "\n")
    try:
        folder, options = ask("Is it red?"), {"device": "cpu", "weights": str(model)}
        with pytest.raises(JudgeError, match="wanted 00"):
            external_annotator.run_annotator(
                python, plugin.runner, folder, {**options, "sha256": "0" * 64}
            )
        known_sha256_file = sha256_file(model / "pytorch_model.bin")
        assert external_annotator.run_annotator(
            python, plugin.runner, folder, {**options, "sha256": known_sha256_file}
        ) == external_annotator.AnnotationCounts(1, 0)
    finally:
        (site / "imitation.pth").unlink()
    record = read_judge_record(folder)
    assert record is not None
    assert (
        record.judge_class == "official"
        and "the user names as the published one" in record.preprocessing
    )


def test_mplug_says_what_it_lacks(python: Path, ask: Callable[..., Path], model: Path) -> None:
    plugin = registry.load_by_name("judges", "mplug")
    folder = ask("a")
    with pytest.raises(
        JudgeError, match="mplug needs its model's folder; add --judge-option weights=FOLDER"
    ):
        external_annotator.run_annotator(python, plugin.runner, folder, {})
    with pytest.raises(JudgeError, match="this Python cannot import modelscope"):
        external_annotator.run_annotator(python, plugin.runner, folder, {"weights": str(model)})
    (model / "vocab.txt").unlink()
    with pytest.raises(JudgeError, match=r"lacks vocab\.txt"):
        external_annotator.run_annotator(python, plugin.runner, folder, {"weights": str(model)})
    for door in (plugin.weights_sha256, lambda: plugin.open("cpu")):
        with pytest.raises(MissingAssetError, match="--judge-python") as excinfo:
            door()
        assert isinstance(excinfo.value, BenchError) and "\n" not in str(excinfo.value)
    assert plugin.roles == ("vqa",) and plugin.judge_class == "official" and plugin.runner.is_file()
