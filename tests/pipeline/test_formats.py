"""Format versions: every kind of file that the package writes and reads back carries one, and
another one is a named error.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fake_runs
import numpy as np
import pytest
import torch

import harope_bench
from harope_bench.analysis.cost.forwards import read_forwards
from harope_bench.assets import local_files
from harope_bench.assets.local_files import Receipt, receipt_text
from harope_bench.core import formats, registry
from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.array_file import arrays_with_format
from harope_bench.core.errors import BenchError, FormatError
from harope_bench.core.formats import (
    FILE_FORMATS,
    FORMAT_KEY,
    FileKind,
    add_format_version,
    format_version,
    versioned_json_text,
)
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import home, write_text
from harope_bench.core.toml_file import read_toml, toml_text, versioned_toml_text
from harope_bench.data import result_store
from harope_bench.data.image_folder import FILE_LIST
from harope_bench.data.run_folder import RunFolder
from harope_bench.evaluators.base import load_feature_evaluator
from harope_bench.judges.micro import digits_net, shapes_net
from harope_bench.judges.micro.micro_extractor import MicroExtractor
from harope_bench.judges.runners import common
from harope_bench.models import lora_manifest, pipeline_manifest
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline import reference_stats
from harope_bench.pipeline.annotation_folder import read_judge_record
from harope_bench.pipeline.extract_features import find_extractor_record
from harope_bench.pipeline.predictions import find_shard
from harope_bench.reports.runs import read_runs
from harope_bench.statistics.gate import baseline
from harope_bench.suites import digits
from harope_bench.suites.official_layouts.file_list import open_recorded_images
from harope_bench.suites.prompt_files import StoredPrompts, load_prompt_file
from harope_bench.suites.prompt_rows import PromptRow
from harope_bench.training.loop import Trainer
from harope_bench.training.recipe import Schedule

PLAN = fake_runs.plan(fake_runs.checkpoint())
JUDGE = JudgeRecord(
    name="digits-net",
    version=1,
    judge_class="micro",
    weights_sha256="ab" * 32,
    preprocessing="none",
)


class File(NamedTuple):
    """How a file of a kind comes to be in a folder, and one way in which the package reads it
    back.
    """

    kind: FileKind
    write: Callable[[Path], Path]
    read: Callable[[Path], object]


def text_writer(name: str, text: Callable[[], str]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_text(folder / name, text())
        return folder / name

    return write


def a_result(folder: Path) -> Path:
    return fake_runs.write_result(
        folder, fake_runs.result(PLAN, [fake_runs.measurement("fid", 9.0)])
    )


def a_baseline(folder: Path) -> Path:
    run = fake_runs.micro_run(folder / "run", "harope", n=40)
    baseline.write_baseline(folder / "b.json", run, "a test")
    return folder / "b.json"


def arrays_file(kind: FileKind) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_arrays(
            folder / "a.npz",
            arrays_with_format(
                kind, {"key": np.array("k"), "seconds": np.ones(2), "judge": np.array("x")}
            ),
        )
        return folder / "a.npz"

    return write


def trainer(folder: Path) -> Trainer:
    schedule = Schedule(
        steps=1, batch=1, lr=0.1, warmup=0, decay="none", clip=1.0, seed=0, snapshot=1
    )
    return Trainer(torch.nn.Linear(2, 1), schedule, 0.9, folder, "a test")


def a_snapshot(folder: Path) -> Path:
    trainer(folder).save_snapshot()
    return folder / "snapshot.pt"


def a_checkpoint(folder: Path) -> Path:
    path = home() / "checkpoints" / "mine.toml"
    write_text(
        path,
        versioned_toml_text(
            "checkpoint", fake_runs.checkpoint("mine").model_dump(mode="json", exclude_none=True)
        ),
    )
    return path


PROMPTS = StoredPrompts(
    source="my.txt", sha256="ab" * 32, copies=1, prompts=(PromptRow(id="0", prompt="a dog"),)
)
PROMPT_FIELDS = PROMPTS.model_dump(mode="json")


def a_receipt(folder: Path) -> Path:
    path = local_files.asset_folder("geneval") / local_files.RECEIPT
    write_text(path, receipt_text({"a.jsonl": Receipt(sha256="ab" * 32, is_from_url=True)}))
    return path


def of_suite(folder: Path) -> Path:
    write_text(folder / "digits.toml", (digits.SUITES_FOLDER / "digits.toml").read_text())
    return folder / "digits.toml"


def of_judge(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        module = {"digits_net": digits_net, "shapes_net": shapes_net}[name]
        write_text(
            folder / f"{name}.toml", (Path(module.__file__).with_name(f"{name}.toml")).read_text()
        )
        return folder / f"{name}.toml"

    return write


def manifest() -> str:
    base = lora_manifest.AdapterBase(id="a", config={})
    return lora_manifest.AdapterManifest(backbone="flux", base=base, encoding="ape").to_json(
        indent=1
    )


def pipeline_manifest_text() -> str:
    return pipeline_manifest.PipelineManifest(
        id="a", pipeline_class="SanaPipeline", files={}
    ).to_json(indent=1)


def call_patched(owner: Any, name: str, value: Path, call: Callable[[], object]) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        return call()


def weights_of(judge: MicroExtractor, metadata_path: Path) -> str:
    return str(call_patched(judge, "metadata_path", metadata_path, judge.weights_sha256))


FEATURES = {"judge": JUDGE.model_dump(mode="json"), "warnings": []}
LINE = {"index": 0, "status": "failed", "reason": "a test", "prompt": "a"}
FILES = {
    "plan.json of a run": File(
        "plan",
        text_writer("plan.json", lambda: PLAN.to_json(indent=1)),
        lambda path: RunFolder(path.parent).plan,
    ),
    "plan.json in a report": File(
        "plan",
        text_writer("plan.json", lambda: PLAN.to_json(indent=1)),
        lambda path: read_runs(path.parent),
    ),
    "a result": File("result", a_result, result_store.read_result),
    "a result that may be missing": File("result", a_result, result_store.read_result_or_none),
    "results of a table": File(
        "result", a_result, lambda path: result_store.read_results(path.parent.parent)
    ),
    "who looked": File(
        "features",
        text_writer("judge.json", lambda: versioned_json_text("features", FEATURES)),
        lambda path: find_extractor_record("digits-net", path.parent, True),
    ),
    "who answered": File(
        "annotations",
        text_writer("judge.json", lambda: versioned_json_text("annotations", JUDGE.model_dump())),
        lambda path: read_judge_record(path.parent),
    ),
    "predictions": File(
        "predictions", arrays_file("predictions"), lambda path: find_shard(path, "k", ())
    ),
    "forwards": File("forwards", arrays_file("forwards"), lambda path: forwards_of(path)),
    "a baseline": File("baseline", a_baseline, baseline.load_baseline_or_runs),
    "a snapshot": File("snapshot", a_snapshot, lambda path: trainer(path.parent).resume()),
    "a suite's reference": File(
        "reference",
        of_suite,
        lambda path: call_patched(
            digits,
            "SUITES_FOLDER",
            path.parent,
            lambda: registry.load_by_name("suites", "digits").reference("digits-net"),
        ),
    ),
    "a reference of a user": File(
        "reference",
        arrays_file("reference"),
        lambda path: reference_stats._judge_warnings(
            path, load_arrays(path), "x", reference_stats.ReferenceExtraction(recorded_judge=JUDGE)
        ),
    ),
    "digits-net": File(
        "judge", of_judge("digits_net"), lambda path: weights_of(digits_net.PLUGIN, path)
    ),
    "shapes-net": File(
        "judge", of_judge("shapes_net"), lambda path: weights_of(shapes_net.PLUGIN, path)
    ),
    "a checkpoint": File("checkpoint", a_checkpoint, lambda path: load_checkpoint_record("mine")),
    "an adapter": File(
        "adapter", text_writer("manifest.json", manifest), lora_manifest.read_manifest
    ),
    "a pipeline": File(
        "pipeline",
        text_writer("manifest.json", pipeline_manifest_text),
        pipeline_manifest.read_pipeline_manifest,
    ),
    "a receipt": File("receipt", a_receipt, lambda path: local_files.read_receipts("geneval")),
    "a list of images": File(
        "image-list",
        text_writer(FILE_LIST, lambda: json.dumps(add_format_version("image-list", LINE)) + "\n"),
        lambda path: open_recorded_images(
            path.parent, registry.load_by_name("suites", "shapes"), "shapes"
        ),
    ),
    "prompts": File(
        "prompts",
        text_writer(f"{PROMPTS.name}.json", lambda: versioned_json_text("prompts", PROMPT_FIELDS)),
        lambda path: load_prompt_file.__wrapped__(path),
    ),
}


def forwards_of(path: Path) -> object:
    return read_forwards(path, load_feature_evaluator("cost"))


def set_format(path: Path, version: object) -> None:
    """Write a file again with another format version, with none where it is None."""
    if path.suffix == ".npz":
        arrays = {name: array for name, array in load_arrays(path).items() if name != FORMAT_KEY}
        write_arrays(path, arrays if version is None else {**arrays, FORMAT_KEY: np.array(version)})
        return
    if path.suffix == ".pt":
        tensor = torch.load(path, weights_only=True)
    elif path.suffix == ".toml":
        tensor = read_toml(path)
    else:
        tensor = json.loads(path.read_text())
    tensor = {name: value for name, value in tensor.items() if name != FORMAT_KEY} | (
        {} if version is None else {FORMAT_KEY: version}
    )
    if path.suffix == ".pt":
        torch.save(tensor, path)
    else:
        write_text(path, toml_text(tensor) if path.suffix == ".toml" else json.dumps(tensor) + "\n")


def test_every_kind_of_file_is_tried_here() -> None:
    assert {file.kind for file in FILES.values()} == set(FILE_FORMATS)


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_this_version_is_read(name: str, tmp_path: Path) -> None:
    file = FILES[name]
    path = file.write(tmp_path)
    assert not isinstance(problem(file, path), FormatError)


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("version", [0, 7, None, "1", True, 1.0])
@pytest.mark.parametrize("name", [name for name in FILES if name != "a snapshot"])
def test_another_version_is_an_error_that_names_both_and_the_remedy(
    name: str, version: object, tmp_path: Path
) -> None:
    check_error(FILES[name], version, tmp_path)


@pytest.mark.parametrize("version", [7, None])
def test_a_snapshot_of_another_version_is_not_resumed(version: object, tmp_path: Path) -> None:
    check_error(FILES["a snapshot"], version, tmp_path)


def problem(file: File, path: Path) -> BenchError | None:
    """Return the error of reading a file; the rest of a toy may not be of a real run, such as its
    prompt.
    """
    try:
        file.read(path)
    except BenchError as error:
        return error
    return None


def check_error(file: File, version: object, folder: Path) -> None:
    path = file.write(folder)
    set_format(path, version)
    before = path.read_bytes()
    with pytest.raises(FormatError) as excinfo:
        file.read(path)
    message = str(excinfo.value)
    shown_text = "none" if version is None else str(version)
    assert (
        f"wanted format {format_version(file.kind)}, found {shown_text}; made by another version of"
        " harope-bench: " in message
    )
    assert (
        str(path) in message and FILE_FORMATS[file.kind].advice in message and "\n" not in message
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["\x1b[31m7", "7\n8", "9" * 200])
def test_a_hostile_version_steers_no_terminal_and_stays_short(text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as excinfo:
        formats.check_format("plan", text, tmp_path / "plan.json")
    assert str(excinfo.value).isprintable() and len(str(excinfo.value)) < 300 + len(str(tmp_path))


def test_the_format_decides_no_pixel() -> None:
    """The digest is of the deciding fields: a number in the file must not move it, nor what a judge
    is known by.
    """
    text = PLAN.to_json()
    assert json.loads(text)[FORMAT_KEY] == format_version("plan")
    again = type(PLAN).from_json(text.encode(), Path("plan.json"))
    assert (
        again == PLAN
        and again.digest == PLAN.digest
        and FORMAT_KEY not in json.dumps(PLAN.digest_fields())
    )
    assert FORMAT_KEY not in json.loads(JUDGE.to_json())


def test_a_runner_of_another_python_writes_the_format_of_the_package() -> None:
    assert format_version("annotations") == common.FORMAT


@pytest.mark.parametrize("kind", ["checkpoint", "judge"])
def test_shipped_files_have_the_format_of_their_kind(kind: FileKind) -> None:
    root = Path(harope_bench.__file__).parent
    folders = {"checkpoint": "models/checkpoints", "judge": "judges/micro"}
    paths = sorted((root / folders[kind]).glob("*.toml"))
    assert paths and all(read_toml(path)[FORMAT_KEY] == format_version(kind) for path in paths)


def numbered_literals(tree: ast.AST) -> Iterator[int]:
    """Return the lines that give a field or key `format` a number of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            numbers = [
                v
                for k, v in pairs
                if isinstance(k, ast.Constant)
                and k.value == FORMAT_KEY
                and isinstance(v, ast.Constant)
            ]
            yield from (v.lineno for v in numbers if isinstance(v.value, int))
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == FORMAT_KEY
        ):
            numbers = [
                child
                for child in ast.walk(node)
                if isinstance(child, ast.Constant) and type(child.value) is int
            ]
            yield from (number.lineno for number in numbers[:1])


def test_the_numbers_have_one_owner() -> None:
    """No module but core/formats.py states a format version; the runners, which run without the
    package, are held to it above.
    """
    root = Path(harope_bench.__file__).parent
    lines = {
        str(p.relative_to(root)): list(numbered_literals(ast.parse(p.read_text())))
        for p in root.rglob("*.py")
    }
    assert not {name: line for name, line in lines.items() if line}
    assert list(
        numbered_literals(ast.parse('class A:\n    format: int = 2\nb = {"format": 3}'))
    ) == [2, 3]
