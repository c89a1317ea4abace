"""Everything that a run lacks is named at once, with the command that brings it, before anything is
written.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest
import tiny
import tiny_prompts
from click.testing import CliRunner

import harope_bench
from harope_bench.cli import main
from harope_bench.core.errors import (
    BenchError,
    MissingAssetError,
    MissingExtraError,
    MissingRequirementsError,
    MissingVaeError,
    OptionError,
    StorageError,
    WeightsError,
)
from harope_bench.core.schema import Plan
from harope_bench.pipeline import doctor, requirements
from harope_bench.pipeline.generate import make_plan
from harope_bench.pipeline.requirements import (
    RequiredScoring,
    missing_requirements,
    suite_requirements,
)
from harope_bench.pipeline.unmet_requirements import (
    UnmetRequirement,
    plan_or_requirement,
    raise_missing,
)
from harope_bench.suites.base import load_prompt_suite

SUITES = ("geneval", "dpg-bench", "t2i-compbench")


def error_line(*words: object) -> str:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == 1, (command_result.output, command_result.exception)
    (line,) = command_result.output.strip().splitlines()
    return line


def flux_plans() -> list[Plan]:
    """Plans of a FLUX that is not registered, for the three benchmarks of prompts."""
    name = fake.checkpoint("my-flux", "harope", backbone="flux", scale="paper", suite="geneval")
    return [fake.plan(name, suite, resolution=512) for suite in SUITES]


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """No optional package is installed; those that a test adds to the set are."""
    installed_names: set[str] = set()
    monkeypatch.setattr("harope_bench.core.extras.is_installed", installed_names.__contains__)
    return installed_names


def keys(missing: list[UnmetRequirement]) -> set[tuple[str, str]]:
    return {(item.area, item.name) for item in missing}


def test_a_bare_box_lacks_everything_at_once_and_what_comes_leaves_the_list(
    no_extras: set[str], bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = missing_requirements(flux_plans())
    judges = {
        "mask2former",
        "clip-vit-l-14",
        "mplug",
        "blip-vqa",
        "unidet",
        "unidet-rs200",
        "clipscore",
        "dpt-depth",
    }
    assert keys(missing) == {
        ("checkpoint", "my-flux"),
        ("extra", "torch"),
        ("extra", "t2i"),
        *(("prompts", suite) for suite in SUITES),
        *(("judge", name) for name in judges),
    }
    assert all(item.command for item in missing)
    assert {item.name for item in missing if not item.is_blocking} == {
        "mplug",
        "unidet",
        "unidet-rs200",
    }, "they answer elsewhere, later"
    tiny_prompts.prompts(bench_home)
    monkeypatch.setattr(
        "harope_bench.suites.geneval.PLUGIN.prompts_source",
        lambda: ("prompts", "0" * 64),
        raising=False,
    )
    assert ("prompts", "geneval") not in keys(missing_requirements(flux_plans()))
    no_extras.update({"transformers", "diffusers", "peft", "cv2"})
    assert ("extra", "t2i") not in keys(missing_requirements(flux_plans()))
    monkeypatch.setattr(
        "harope_bench.judges.mmdet.mask2former.PLUGIN.weights_sha256",
        lambda: "1" * 64,
        raising=False,
    )
    left = keys(missing_requirements(flux_plans()))
    assert ("judge", "mask2former") not in left and ("judge", "clip-vit-l-14") in left


def test_an_extra_is_asked_for_by_what_uses_it_alone(no_extras: set[str]) -> None:
    no_extras.update(
        {"diffusers", "transformers", "cv2"}
    )  # the pipeline needs peft too, the judges do not
    assert ("extra", "t2i") not in keys(suite_requirements(["geneval"]))
    assert ("extra", "t2i") in keys(missing_requirements(flux_plans()[:1]))
    assert keys(suite_requirements(["digits", "shapes"])) == {("extra", "torch")}
    no_extras.update({"torch", "safetensors", "scipy"})
    assert suite_requirements(["digits", "shapes", "digits-held-out"]) == []


def test_the_judges_that_are_asked_for_count_and_stored_answers_need_none(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    names = keys(
        suite_requirements(["geneval"], RequiredScoring(judge=f"detector=detector:{model}"))
    )
    assert ("judge", "mask2former") not in names and ("judge", "clip-vit-l-14") in names
    assert keys(suite_requirements(["geneval"], RequiredScoring(is_rescored=True))) == {
        ("prompts", "geneval")
    }
    assert ("judge", "mplug") not in keys(
        suite_requirements(["dpg-bench"], RequiredScoring(python=tmp_path / "python"))
    )
    with pytest.raises(OptionError, match="names no role"):
        suite_requirements(["geneval"], RequiredScoring(judge="detektor=mask2former"))


def test_features_need_their_network_and_their_reference(tmp_path: Path) -> None:
    assert keys(suite_requirements(["imagenet-256"])) == {
        ("judge", "inception-2015"),
        ("reference", "imagenet-256"),
    }
    assert keys(
        suite_requirements(["imagenet-256"], RequiredScoring(reference=tmp_path / "r.npz"))
    ) == {("judge", "inception-2015")}
    profiles = suite_requirements(
        ["imagenet-256"], RequiredScoring(profiles=("adm-exact", "clean"))
    )
    assert [item.area for item in profiles].count("judge") == 1, (
        "the judges of two profiles share one file, which is named once"
    )
    assert [item.area for item in profiles].count("reference") == 2
    assert keys(suite_requirements(["coco-fid"])) >= {
        ("judge", "inception-2015-clean"),
        ("reference", "coco-fid"),
    }


def test_weights_that_went_away_are_a_missing_checkpoint(tmp_path: Path) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    assert missing_requirements(plan) == []
    (tmp_path / "weights/tiny.safetensors").unlink()
    (lacking,) = missing_requirements(plan)
    assert (lacking.area, lacking.name, lacking.command) == (
        "checkpoint",
        "tiny",
        "harope-bench register tiny --weights FILE",
    )
    assert "are missing; run: harope-bench register tiny" in error_line(
        "eval", "tiny", "--count", 3, "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()
    assert (
        "weights"
        in {(f.name, f.status): f.detail for f in doctor._checkpoint_findings()}["tiny", "broken"]
    )


@pytest.mark.parametrize(
    "error",
    [
        WeightsError("base B is no folder", advice="copy it"),
        MissingVaeError("no autoencoder", advice="add --vae FOLDER"),
    ],
)
def test_what_keeps_a_plan_from_being_made_is_a_requirement(error: BenchError) -> None:
    def fails() -> Any:
        raise error

    lacking = plan_or_requirement(fails)
    assert isinstance(lacking, UnmetRequirement) and (lacking.detail, lacking.command) == (
        error.detail,
        error.advice,
    )
    with pytest.raises(MissingRequirementsError) as raised_excinfo:
        raise_missing([lacking])
    assert str(raised_excinfo.value) == str(error)


SEMICOLONS = "the library does not load (no module a; none of b)"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MissingAssetError(SEMICOLONS, advice="harope-bench fetch x"), "missing"),
        (MissingExtraError(SEMICOLONS, advice="pip install x"), "missing"),
        (WeightsError(SEMICOLONS, advice="copy it again"), "broken"),
        (StorageError(SEMICOLONS), "broken"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_wrong_and_what_to_do_are_not_split_at_a_semicolon_of_the_message(
    error: BenchError, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> tuple[str, str]:
        raise error

    monkeypatch.setattr(load_prompt_suite("geneval"), "prompts_source", fails)
    lacking = requirements.prompts_requirement("geneval")
    assert lacking is not None and (lacking.status, lacking.detail) == (state, SEMICOLONS)
    assert lacking.command == (error.advice or "harope-bench fetch geneval")
    run = "run: " if error.advice.startswith(("harope-bench ", "pip ")) else ""
    assert str(error) == (f"{SEMICOLONS}; {run}{error.advice}" if error.advice else SEMICOLONS)


def test_the_parts_of_a_message_cannot_steer_a_terminal() -> None:
    error = MissingAssetError("no \x1b[2Jfile\nhere", advice="fetch \x1b[31mit\n")
    assert (
        str(error) == f"{error.detail}; {error.advice}"
        and "\x1b" not in str(error)
        and "\n" not in str(error)
    )


ABSENCE_ERRORS = ("MissingAssetError", "MissingExtraError", "MissingVaeError")
COPY_FORMATS = sorted(Path(harope_bench.__file__).parent.rglob("*.py"))


def hidden_advice(source: str) -> list[int]:
    """Return the lines on which something is said to be missing without its advice as an argument
    of its own.
    """
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in ABSENCE_ERRORS
        and [keyword.arg for keyword in call.keywords] != ["advice"]
    ]


def test_everything_that_is_missing_has_its_advice_apart() -> None:
    hidden = {
        str(path): lines for path in COPY_FORMATS if (lines := hidden_advice(path.read_text()))
    }
    assert hidden == {}, "write MissingAssetError(what, advice=command): no message is parsed"
    source = 'raise MissingAssetError("weights are not here; harope-bench fetch x")'
    assert hidden_advice(source) == [1]


def test_one_thing_is_told_as_it_tells_itself_and_several_with_their_count() -> None:
    prompts = UnmetRequirement("prompts", "x", "prompts are not here", "harope-bench fetch x")
    judge = UnmetRequirement("judge", "y", "weights; of two parts", "harope-bench fetch y")
    later_replace = judge._replace(is_blocking=False)
    with pytest.raises(
        MissingRequirementsError, match="^prompts are not here; run: harope-bench fetch x$"
    ):
        raise_missing([prompts, prompts])
    with pytest.raises(MissingRequirementsError) as error:
        raise_missing([prompts, judge])
    assert (
        str(error.value)
        == "2 requirements are not met: (1) prompts are not here - run: harope-bench fetch x;"
        " (2) weights, of two parts - run: harope-bench fetch y"
    )
    raise_missing([later_replace])
    with pytest.raises(MissingRequirementsError, match="2 requirements are not met"):
        raise_missing([prompts, later_replace])


def test_eval_names_prompts_and_judges_of_all_its_suites_and_writes_nothing(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    error_line_result = error_line(
        "eval", pictures, "--suite", "geneval", "--out", tmp_path / "out"
    )
    assert (
        error_line_result.startswith("harope-bench: 3 requirements are not met")
        or "3 requirements are not met" in error_line_result
    )
    assert all(
        f"harope-bench fetch {name}" in error_line_result
        for name in ("geneval", "mask2former", "clip-vit-l-14")
    )
    assert not (tmp_path / "out").exists()


def test_reproduce_names_checkpoints_prompts_and_judges_together(tmp_path: Path) -> None:
    error_line_result = error_line(
        "reproduce", "table4", "--scale", "paper", "--out", tmp_path / "out"
    )
    assert (
        "needs checkpoints of rope-axial, harope" in error_line_result
        and "harope-bench register NAME --weights FILE" in error_line_result
    )
    for name in ("geneval", "dpg-bench", "mask2former", "clip-vit-l-14"):
        assert f"harope-bench fetch {name}" in error_line_result
    assert not (tmp_path / "out").exists()


def test_doctor_says_of_each_thing_what_a_run_is_told(no_extras: set[str]) -> None:
    status = {
        (f.area, f.name): (f.status, f.detail, f.fix)
        for f in (*doctor._extra_findings(), *doctor._suite_findings())
    }
    for item in (
        *suite_requirements(["geneval", "imagenet-256"]),
        *requirements.package_requirements(("transformers", "diffusers", "peft")),
    ):
        if item.area in ("prompts", "reference"):
            assert status[item.area, item.name] == (item.status, item.detail, item.command)
    assert status["extra", "t2i"][:2] == (
        "missing",
        "transformers, diffusers, peft, cv2 are not installed",
    )


def test_an_altered_file_is_broken_not_missing(bench_home: Path) -> None:
    tiny_prompts.prompts(bench_home)
    path = bench_home / "assets/geneval/evaluation_metadata.jsonl"
    path.write_text(path.read_text().replace("cat", "dog", 1))
    lacking = requirements.prompts_requirement("geneval")
    assert (
        lacking is not None
        and lacking.status == "broken"
        and "harope-bench fetch geneval" in lacking.command
    )
    assert json.loads(json.dumps(lacking._asdict()))["area"] == "prompts"
