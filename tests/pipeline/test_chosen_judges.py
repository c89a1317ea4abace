"""Evaluators that no suite names score any suite with the judges that --judge names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from PIL import Image
from plugin_package import install_plugins
from toy_rules import ENTRIES, SOURCE

from harope_bench import testing
from harope_bench.cli import main
from harope_bench.core.errors import OptionError, PluginError
from harope_bench.pipeline.chosen_judges import chosen_feature_extractor, without_feature_extractor
from harope_bench.pipeline.evaluate_prompts import judges_by_suite
from harope_bench.training.recipe import read_recipe

N_IMAGES = 8
EYES = "detector=my-eye,vqa=my-eye"


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package of plug-ins, installed."""
    install_plugins(monkeypatch, tmp_path, SOURCE, ENTRIES)


def run(*words: object, code: int = 0) -> str:
    """What a command prints; exactly one line where it fails."""
    process = CliRunner().invoke(main, [str(word) for word in words])
    assert process.exit_code == code, (process.output, process.exception)
    if code == 1:
        assert len(process.output.strip().splitlines()) == 1
    return process.output


@pytest.fixture
def digits_run(tmp_path: Path) -> Path:
    """A run of the suite digits."""
    tiny.register_tiny(tmp_path / "weights")
    run("generate", "tiny", "--count", N_IMAGES, "--out", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def shapes_folder(tmp_path: Path) -> Path:
    """Images of the first prompts of the suite shapes, every other one bright."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        pixels = rng.integers(0, 60, (32, 32, 3)) + 180 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:05d}.png")
    return folder


def result(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


# --------------------------------------------------------------------------- evaluators of features


def test_without_a_judge_the_error_names_the_feature_extractors(digits_run: Path) -> None:
    text = run("eval", digits_run, "--with", "my-rule", code=1)
    assert "suite digits names no judge for evaluator my-rule; name one with --judge" in text
    assert "digits-net" in text and "my-eye" not in text


def test_a_feature_evaluator_scores_a_suite_that_does_not_name_it(
    digits_run: Path, tmp_path: Path
) -> None:
    words = ("eval", digits_run, "--with", "my-rule", "--judge", "digits-net")
    assert "first" in run(*words)
    path = digits_run / "results" / "my-rule_digits-net.json"
    first_result = result(path)
    assert first_result["measurements"][0]["n_scored"] == N_IMAGES
    assert "up to date" in run(*words)
    run(*words, "--rescore")
    assert result(path)["measurements"] == first_result["measurements"]
    assert "0 differences" in run("verify", digits_run)

    # a part of an image folder, and what reads results
    folder_words = ("eval", digits_run / "images", "--suite", "digits", *words[2:])
    run(*folder_words, "--count", 4, "--out", tmp_path / "part")
    part = result(tmp_path / "part" / "results" / "my-rule_digits-net.json")
    assert part["measurements"][0]["n_scored"] == 4
    run("compare", digits_run, digits_run)
    run("report", "--runs", digits_run, "--out", tmp_path / "report.html")
    assert "first" in (tmp_path / "report.html").read_text()


def test_a_gate_compares_a_metric_that_is_in_no_table(digits_run: Path, tmp_path: Path) -> None:
    run("eval", digits_run, "--with", "my-rule", "--judge", "digits-net")
    baseline = tmp_path / "baseline.json"
    run("gate", baseline, digits_run, "--update", "--reason", "the first one")
    policy = tmp_path / "gate.toml"
    policy.write_text("[metric.first]\nmargin = 1000.0\n")
    assert "first" in run("gate", baseline, digits_run, "--config", policy)


def test_missing_weights_of_the_judge_are_named_before_work(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    out = tmp_path / "out"
    text = run(
        "eval", "tiny", "--with", "my-rule", "--judge", "inception-2015", "--count", 4,
        "--out", out, code=1,
    )  # fmt: skip
    assert "harope-bench fetch inception-2015" in text
    assert not out.exists()


def test_an_annotation_evaluator_on_a_suite_of_labels_is_refused(digits_run: Path) -> None:
    text = run("eval", digits_run, "--with", "my-prompts", "--judge", EYES, code=1)
    assert "my-prompts scores annotations of prompts, suite digits has no prompts" in text


# ------------------------------------------------------------------------ evaluators of annotations


def evaluate_folder(folder: Path, out: Path, *words: object, code: int = 0) -> str:
    options = ("--suite", "shapes", "--order", "copy-major", "--out", out)
    return run("eval", folder, *options, *words, code=code)


@pytest.mark.parametrize("evaluator", ["my-prompts", "my-metadata"])
def test_an_annotation_evaluator_scores_a_suite_that_does_not_name_it(
    shapes_folder: Path, tmp_path: Path, evaluator: str
) -> None:
    out = tmp_path / "out"
    words = ("--with", evaluator, "--judge", EYES)
    evaluate_folder(shapes_folder, out, *words)
    path = out / "results" / f"{evaluator}_detector-my-eye_vqa-my-eye.json"
    measurement = result(path)["measurements"][0]
    assert (measurement["value"], measurement["n_scored"]) == (0.5, N_IMAGES)
    assert set(result(path)["judges"]) == {"detector", "vqa"}
    rows = path.with_name(path.name.replace(".json", ".sample_scores.jsonl")).read_text()
    assert ("found for no prompt" in rows) == (evaluator == "my-metadata")
    assert "up to date" in evaluate_folder(shapes_folder, out, *words)
    evaluate_folder(shapes_folder, out, *words, "--rescore")
    assert result(path)["measurements"][0] == measurement
    assert "0 differences" in run("verify", out)
    run("failures", out)
    run("report", "--runs", out, "--out", tmp_path / "report.html")
    assert "hits" in (tmp_path / "report.html").read_text()


def test_a_role_that_no_image_needed_is_missing_in_the_result_and_verifies(
    shapes_folder: Path, tmp_path: Path
) -> None:
    for path in shapes_folder.glob("*[02468].png"):
        path.write_bytes((shapes_folder / "00001.png").read_bytes())
    out = tmp_path / "out"
    evaluate_folder(shapes_folder, out, "--with", "my-prompts", "--judge", EYES)
    (path,) = (out / "results").glob("my-prompts*.json")
    assert set(result(path)["judges"]) == {"detector"}
    assert "0 differences" in run("verify", out)


def test_both_kinds_take_their_part_of_the_judges(shapes_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judges = f"{EYES},shapes-net"
    evaluate_folder(shapes_folder, out, "--with", "my-prompts,my-rule", "--judge", judges)
    names = {path.name for path in (out / "results").glob("my-*.json")}
    assert names == {
        "my-prompts_detector-my-eye_vqa-my-eye.json",
        "my-rule_shapes-net.json",
    }
    evaluate_folder(shapes_folder, tmp_path / "b", "--with", "my-rule", "--judge", "shapes-net")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--with", "my-prompts"),
            "suite shapes names no judge for evaluator my-prompts; name one with --judge"
            " detector=NAME,vqa=NAME (detector: ",
        ),
        (("--with", "my-prompts", "--judge", "detector=my-eye"), "with --judge vqa=NAME (vqa: "),
        (("--with", "my-prompts", "--judge", f"{EYES},nose=my-eye"), "'nose=my-eye' names no role"),
        (
            ("--with", "my-prompts", "--judge", "detector=digits-net"),
            "judge digits-net does not have role detector; its roles: none",
        ),
        (
            ("--with", "my-nobody", "--judge", EYES),
            "evaluator my-nobody reads metadata 'nobody' of prompts; the prompts of suite shapes"
            " have the metadata 'compbench', 'dpg', 'geneval'; choose another",
        ),
        (("--with", "my-rule", "--judge", "my-eye"), "judge my-eye extracts no features"),
        (("--with", "my-rule", "--judge", "a,b"), "names feature extractors a and b"),
        (("--with", "my-rule"), "suite shapes names no judge for evaluator my-rule"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    shapes_folder: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    text = evaluate_folder(shapes_folder, tmp_path / "out", *words, code=1)
    assert expected in text
    assert not (tmp_path / "out").exists()


def test_parts_of_the_judges_are_split_by_kind() -> None:
    judges = f"{EYES},digits-net"
    assert chosen_feature_extractor(judges, True) == "digits-net"
    assert chosen_feature_extractor(EYES, True) is None
    assert chosen_feature_extractor(None, False) is None
    assert chosen_feature_extractor("my-eye", False) == "my-eye"
    assert without_feature_extractor(judges) == EYES
    assert without_feature_extractor("digits-net") is None
    assert without_feature_extractor("my-eye") == "my-eye"


def test_several_suites_take_the_roles_of_an_evaluator_that_they_do_not_name() -> None:
    with pytest.raises(OptionError, match="names no role of these suites"):
        judges_by_suite("similarity=my-eye", ["shapes", "digits"])
    parts = judges_by_suite("vqa=my-eye", ["shapes", "digits"], ["my-prompts"])
    assert parts == {"shapes": "vqa=my-eye", "digits": "vqa=my-eye"}


# --------------------------------------------------------------------------------------- references


def test_a_suite_without_a_reference_names_the_command_that_makes_one(
    digits_run: Path, tmp_path: Path
) -> None:
    folder = digits_run / "images"
    out = tmp_path / "out"
    text = run("eval", folder, "--suite", "my-suite", "--out", out, code=1)
    assert "the suite has no reference for digits-net (my labels); make one" in text
    assert "`harope-bench reference IMAGES digits-net.npz --judge digits-net --crop 28`" in text
    assert "give --reference digits-net.npz" in text
    reference = tmp_path / "digits-net.npz"
    run("reference", folder, reference, "--judge", "digits-net", "--crop", 28)
    run("eval", folder, "--suite", "my-suite", "--out", out, "--reference", reference)


def test_a_reference_that_a_suite_does_not_find_names_where_it_is_searched(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lost.npz"
    monkeypatch.setenv("MY_REFERENCE", str(path))
    folder = digits_run / "images"
    words = ("eval", folder, "--suite", "my-lost-suite", "--out", tmp_path / "out")
    text = run(*words, code=1)
    assert f"harope-bench reference IMAGES {path} --judge digits-net --crop 28" in text
    assert "the suite finds it there" in text
    tiny.register_tiny(tmp_path / "weights2", "tiny2")
    text = run("eval", "tiny2", *words[2:], code=1)
    assert f"harope-bench reference IMAGES {path}" in text


# ------------------------------------------------------------------------------------------ recipes


def test_a_recipe_of_a_package_trains(tmp_path: Path) -> None:
    assert "my-recipe" in run("list", "recipes")
    out = tmp_path / "trained"
    run("train", "my-recipe", "--encoding", "ape", "--name", "mine", "--out", out)
    assert (out / "mine.safetensors").is_file()
    recipe, sha256 = read_recipe("my-recipe")
    assert recipe.name == "my-recipe"
    assert sha256 in (out / "mine.toml").read_text()


def test_a_wrong_recipe_of_a_package_is_named_with_its_field() -> None:
    with pytest.raises(
        OptionError, match=r"recipe toy_plugins \(toy_plugins:BAD_RECIPE\).*guidance"
    ):
        read_recipe("my-bad-recipe")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("X = {1, 2}", "must be a dict of plain values"),
        (SOURCE.replace('"name": "my-recipe"', '"name": "other"') + "\nX = RECIPE", "'other'"),
    ],
)
def test_a_recipe_that_is_none_is_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, expected: str
) -> None:
    install_plugins(
        monkeypatch, tmp_path / "x", source, {"recipes": {"x": "X"}}, module="other_plugins"
    )
    with pytest.raises(PluginError, match=expected):
        read_recipe("x")


# ---------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("evaluator", "my-rule"),
        ("evaluator", "my-prompts"),
        ("evaluator", "my-metadata"),
        ("judge", "my-eye"),
        ("suite", "my-suite"),
        ("recipe", "my-recipe"),
    ],
)
def test_the_toys_keep_their_contracts(kind: str, name: str) -> None:
    assert testing.check_plugin(kind, name) >= 4


def test_what_no_suite_has_cannot_be_checked() -> None:
    with pytest.raises(testing.UncheckedContractError, match="no suite whose prompts are here"):
        testing.check_plugin("evaluator", "my-nobody")
