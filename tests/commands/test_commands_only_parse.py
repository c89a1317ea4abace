"""Commands parse, call one function and print: what a target is they never ask, and options reach
them as typed records.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import harope_bench
from harope_bench.cli import main
from harope_bench.commands import options as command_options
from harope_bench.pipeline import evaluate_target
from harope_bench.pipeline.eval_options import (
    EvalOptions,
    GenerationOptions,
    RealImageOptions,
    parse_profiles,
)
from harope_bench.pipeline.evaluate_target import Evaluation
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

COMMANDS = sorted((Path(harope_bench.__file__).parent / "commands").glob("*.py"))
QUESTIONS = {
    "exists",
    "is_dir",
    "is_file",
    "is_symlink",
    "iterdir",
    "glob",
    "rglob",
    "stat",  # of a path
    "reader",
    "recognised",
    "names_pictures",
    "reads",
    "of_prompts",
    "is_tiled",  # of what it holds
}


def questions(source: str) -> Iterator[str]:
    """Every call by which a module asks what a path or a name is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if name in QUESTIONS:
                yield f"{node.lineno}: {ast.unparse(node)}"
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "plan"
            and isinstance(node.value, ast.Call)
        ):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_no_command_asks_what_a_target_is(path: Path) -> None:
    assert list(questions(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "if not Path(target).exists(): pass",
        "run = path.is_dir() and (path / PLAN).exists()",
        "plan = Run(path).plan",
        "known = reader(Path(target)) is not None",
        (
            "plans = [reading_plan if names_pictures(checkpoint(name)) else make_plan for name in"
            " names]"
        ),
    ],
)
def test_the_finder_of_questions_finds_them(source: str) -> None:
    assert list(questions(source))


def test_every_command_names_its_parameters() -> None:
    """A bag of keyword arguments hides which options a command takes."""
    loose_texts = [
        f"{path.stem}.{node.name}"
        for path in COMMANDS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None
    ]
    assert loose_texts == ["options.with_fields"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `eval` calls its one function with."""
    calls: list[Any] = []

    def evaluate(*arguments: Any) -> Evaluation:
        calls.append(arguments)
        return Evaluation(())

    monkeypatch.setattr(evaluate_target, "evaluate_target", evaluate)
    return calls


def eval_arguments(calls: list[Any], *words: str) -> tuple[str, EvalOptions, list[str], list[int]]:
    command_result = CliRunner().invoke(main, ["eval", *words])
    assert command_result.exit_code == 0, (command_result.output, command_result.exception)
    (arguments,) = calls
    return arguments


def test_eval_without_options_says_nothing(calls: list[Any]) -> None:
    assert eval_arguments(calls, "runs/x") == ("runs/x", EvalOptions(), [], [])


def test_every_option_of_eval_reaches_its_field(calls: list[Any]) -> None:
    words = """t --suite digits, --with fidelity,cost --reference r.npz
        --rules corrected --profile adm,clean,adm
        --judge detector=a
        --allow-missing --judge-python p --judge-option weights=3 --judge-option checkout=d
        --subset 4 --rescore
        --steps 5 --guidance 1.5
        --sampler flow --seed 6 --labels balanced --preset one --dtype float16 --pos-scaling ntk
        --guidance-channels 3
        --spacing leading --mu-policy clamp --vae v --no-vae-tiling --fold --batch 7
        --resolution 28,56 --resolution 84 --count 8
        --images i --ground-truth l --crop-ratio 0.5 --order copy-major --pattern p --file-list f
        --tiles 4 --label mine --out o"""
    text, options, suites, resolutions = eval_arguments(calls, *words.split())
    assert (text, suites, resolutions) == ("t", ["digits", ""], [28, 56, 84])
    assert options == EvalOptions(
        evaluators=("fidelity", "cost"),
        count=8,
        batch=7,
        subset=4,
        reference=Path("r.npz"),
        rules="corrected",
        profiles=("adm", "clean"),
        judge="detector=a",
        is_rescored=True,
        is_lenient=True,
        python=Path("p"),
        runner_options={"weights": "3", "checkout": "d"},
        generation=GenerationOptions(
            5,
            1.5,
            "flow",
            6,
            "balanced",
            "one",
            "cpu",
            "float16",
            None,
            None,
            "ntk",
            "3",
            "leading",
            "clamp",
            "v",
            False,
            True,
            None,
        ),
        real_images=RealImageOptions(Path("i"), Path("l"), 0.5),
        folder_options=PromptFolderOptions("copy-major", "p", Path("f"), None, 4),
        label="mine",
        out=Path("o"),
    )


def test_no_field_of_a_record_is_without_an_option() -> None:
    """A field that no option of `eval` fills would be a default that a user can never change."""
    spelled_names = {parameter.name for parameter in main.commands["eval"].params}
    assert {
        field.name for record in (GenerationOptions, RealImageOptions) for field in fields(record)
    } - spelled_names == {"resolution"}
    assert {field.name for field in fields(PromptFolderOptions)} - spelled_names == {
        "side"
    }  # --resolution, where files join several images


def test_a_record_takes_its_own_options_and_leaves_the_others() -> None:
    calls: list[dict[str, object]] = []

    @click.command()
    @command_options.real_image_options
    @command_options.generation_options
    @click.option("--other")
    def command(**values: object) -> None:
        calls.append(values)

    command_result = CliRunner().invoke(
        command, ["--steps", "3", "--ground-truth", "t", "--other", "o", "--batch", "2"]
    )
    assert command_result.exit_code == 0, command_result.output
    assert calls == [
        {
            "generation": GenerationOptions(steps=3),
            "real_images": RealImageOptions(ground_truth=Path("t")),
            "other": "o",
            "batch": 2,
        }
    ]


@pytest.mark.parametrize("text", ["", ",", "adm,", " , adm"])
def test_an_empty_profile_is_named(text: str) -> None:
    with pytest.raises(harope_bench.core.errors.OptionError, match="has an empty name"):
        parse_profiles(text)
    assert parse_profiles(None) == (None,)


def test_more_samples_than_a_request_may_name_are_wrong_usage(calls: list[Any]) -> None:
    command_result = CliRunner().invoke(main, ["eval", "digits-ape", "--count", "1000001"])
    assert (
        command_result.exit_code == 2 and "is more than 1,000,000 samples" in command_result.output
    )
    assert not calls
