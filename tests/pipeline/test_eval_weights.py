"""Models on the first day: `eval` of a folder or of a hub id that is not registered, from the fetch
to the numbers of three prompt benchmarks, with tiny pipelines and tiny judges.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import library_pipelines
import plugin_scans
import pytest
import tiny_judges
import tiny_pipelines as tiny
import tiny_prompts
from click.testing import CliRunner

tiny.needs_t2i()

from harope_bench.assets import hub  # noqa: E402
from harope_bench.cli import main  # noqa: E402
from harope_bench.core.json_lines import read_lines  # noqa: E402
from harope_bench.data.run_folder import RunFolder  # noqa: E402
from harope_bench.models.load_checkpoint import load_checkpoint_record  # noqa: E402
from harope_bench.pipeline.target import (  # noqa: E402
    TargetKind,
    checkpoint_name,
    is_weights_path,
    resolve_target,
)

SUITES = ("geneval", "dpg-bench", "t2i-compbench")
IMAGES = 16
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIPELINES = ("sdxl", "z-image")


class FirstDay:
    """Home, judges and models of this file's tests."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.home = folder / "home"
        self.cache = folder / "cache"
        self.judge = ""

    def words(self, target: str | Path, out: Path) -> list[str]:
        """An eval of the three suites."""
        suites = ["--suite", ",".join(SUITES), "--judge", self.judge]
        sizes = ["--resolution", "32", "--count", str(IMAGES), "--steps", "1"]
        return ["eval", str(target), *suites, *sizes, "--out", str(out)]

    def put_into_cache(self, model: str, folder: Path) -> Path:
        """Copy a pipeline into the hub's cache as the commit of `main`, and return its folder."""
        root = self.cache / f"models--{model.replace('/', '--')}"
        snapshot = shutil.copytree(folder, root / "snapshots" / COMMIT)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs/main").write_text(COMMIT)
        return snapshot


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstDay]:
    first_day = FirstDay(tmp_path_factory.mktemp("first-day"))
    with pytest.MonkeyPatch.context() as patch:
        plugin_scans.cache_scans(patch)
        tiny_prompts.prompts(first_day.home)
        first_day.judge = tiny_judges.models(first_day.folder)
        tiny_judges.stand_in(patch, first_day.folder, first_day.home)
        patch.setattr(hub, "_cache_folder", lambda: first_day.cache)
        yield first_day


@pytest.fixture(autouse=True)
def bench_home(day: FirstDay) -> Path:
    """In place of the empty home of other tests: one for this file."""
    return day.home


def output_of(words: list[str], code: int = 0) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("name", PIPELINES)
def test_three_benchmarks_of_a_model_that_nobody_registered(
    day: FirstDay, library_pipeline: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    target: str | Path = library_pipeline(name)
    if name == "z-image":
        day.put_into_cache("tiny-org/z-image", library_pipeline(name))
        target = "tiny-org/z-image"
    words = day.words(target, tmp_path)
    output = output_of(words)
    assert "repeatable" not in output

    checkpoint = load_checkpoint_record("tiny-org--z-image" if name == "z-image" else name)
    assert checkpoint.backbone == "diffusers" and checkpoint.is_repeatable
    for suite in SUITES:
        run = RunFolder(tmp_path / suite)
        assert run.plan is not None
        assert run.plan.checkpoint == checkpoint
        assert run.plan.settings.pipeline_options
        assert len(read_lines(run.folder / "samples.jsonl")) == IMAGES
        results = [json.loads(path.read_text()) for path in run.folder.glob("results/*.json")]
        assert results
        for result in results:
            assert result["plan_digest"] == run.plan.digest
            assert any(m["value"] is not None for m in result["measurements"])

    # The same command again does no work.
    def fail(*_: Any) -> None:
        pytest.fail("an image was generated again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "add_sample", fail)
        again = output_of(words)
    assert again.count("(up to date)") == output.count(": geneval@") + output.count(
        ": dpg-bench@"
    ) + output.count(": t2i-compbench@")


def test_everything_that_is_missing_is_one_list(
    day: FirstDay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "empty"))
    out = tmp_path / "run"
    words = ["eval", "some-org/some-model", "--suite", "geneval,dpg-bench", "--out", str(out)]
    output = output_of(words, code=1)
    assert len(output.strip().splitlines()) == 1
    for command in (
        "fetch hub:some-org/some-model",
        "fetch geneval",
        "fetch dpg-bench",
    ):
        assert output.count(f"harope-bench {command}") == 1, output
    assert not out.exists() and not (tmp_path / "empty/checkpoints").exists()


def test_a_folder_that_cannot_run_is_in_the_list(
    day: FirstDay,
    library_pipeline: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "empty"))
    folder = shutil.copytree(library_pipeline("sdxl"), tmp_path / "broken")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    output = output_of(["eval", str(folder), "--suite", "geneval"], code=1)
    assert "has no diffusion_pytorch_model.safetensors - copy the whole base" in output
    assert "harope-bench fetch geneval" in output
    assert len(output.strip().splitlines()) == 1


def test_a_checkpoint_precedes_a_folder_of_its_weights(
    library_pipeline: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(library_pipeline("sdxl"), tmp_path / "models/mine")
    monkeypatch.chdir(tmp_path / "models")
    words = ["register", "mine", "--weights", "mine", "--no-trial"]
    output_of([*words, "--drawing", "negative_prompt=blurry"])
    target = resolve_target("mine")
    assert (target.kind, target.weights) == (TargetKind.CHECKPOINT, None)
    # Another path of the same weights would be registered under the same name, without the option.
    output = output_of(["eval", "../models/mine", "--with", "cost", "--suite", "geneval"], code=1)
    assert "would be registered as mine, which is another checkpoint" in output
    assert "harope-bench register NAME --weights ../models/mine" in output


@pytest.mark.parametrize("target", ["no-folder/no-name", "runs/none"])
def test_a_missing_path_in_a_folder_is_no_model(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    output = output_of(["eval", target, "--suite", "geneval"], code=1)
    is_path = target.startswith("runs")
    assert ("no file, folder or checkpoint named" in output) == is_path
    assert ("fetch hub:no-folder/no-name" in output) != is_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen-Image", ("Qwen/Qwen-Image", None)),
        ("stabilityai/sd-v1.5@fp16", ("stabilityai/sd-v1.5", "fp16")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        ("weights/model.safetensors", None),
        ("Qwen-Image", None),
        ("a/b/c", None),
        ("../b", None),
        ("a/..b", None),
        ("a/b@../../c", None),
        ("a b/c", None),
    ],
)
def test_what_is_the_id_of_a_model(text: str, expected: tuple[str, str | None] | None) -> None:
    assert hub.parse_model_id(text) == expected


def test_a_registered_model_is_the_commit_that_was_fetched_last(
    day: FirstDay, library_pipeline: Callable[[str], Path]
) -> None:
    snapshot = day.put_into_cache("org/two", library_pipeline("sdxl"))
    other_snapshot = snapshot.with_name("f" * 40)
    shutil.copytree(snapshot, other_snapshot)
    model = hub.ModelId("org/two")
    assert hub.find_snapshot(model) == snapshot
    assert hub.find_snapshot(model._replace(revision="f" * 40)) == other_snapshot
    assert hub.find_snapshot(model._replace(revision="e" * 40)) is None
    hub._record_commit(model, "f" * 40)
    assert hub.find_snapshot(model) == other_snapshot


def test_which_paths_are_weights(library_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    assert is_weights_path(library_pipeline("sdxl"))
    assert not is_weights_path(tmp_path)
    for name in ("a.safetensors", "b.pt", "c.safetensors.index.json", "d.npz", "e.json"):
        (tmp_path / name).write_bytes(b"")
        assert is_weights_path(tmp_path / name) == (name[0] in "abc")
    assert checkpoint_name(tmp_path / "c.safetensors.index.json") == "c"
    assert checkpoint_name(Path("org/name@main")) == "org--name"
    assert library_pipelines.PIPELINES.keys() >= set(PIPELINES)
