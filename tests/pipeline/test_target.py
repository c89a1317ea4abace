"""What a target is: each kind, wrong targets, the plan of each, and the options that do not apply
to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest
import tiny
from PIL import Image

from harope_bench.core.errors import (
    BenchError,
    OptionError,
    PlanMismatchError,
    StorageError,
    UnknownNameError,
)
from harope_bench.core.schema import Plan
from harope_bench.pipeline import evaluate_prompts
from harope_bench.pipeline.classify import make_classifier_plan
from harope_bench.pipeline.eval_options import (
    EvalOptions,
    GenerationOptions,
    RealImageOptions,
    options_of_runs,
)
from harope_bench.pipeline.evaluate_target import (
    EVALUATE,
    evaluate_target,
    prepare_runs,
    resolve_run,
)
from harope_bench.pipeline.generate import make_plan
from harope_bench.pipeline.rejected_options import REJECTED_OPTIONS, check_options
from harope_bench.pipeline.target import (
    CHECKPOINTS,
    TargetKind,
    plan_checkpoint,
    plan_target,
    resolve_target,
)
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

CLASSIFIER = "digits-deit-harope"
GENEVAL_LINE = {
    "filename": "x/00000/samples/00000.png",
    "tag": "colors",
    "prompt": "a",
    "correct": True,
    "reason": "",
}


def run_folder(folder: Path, plan: Plan) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    return folder


@pytest.fixture
def target_folder(tmp_path: Path) -> Path:
    """One of everything that a path can be."""
    run_folder(tmp_path / "run", fake.plan(fake.checkpoint()))
    run_folder(
        tmp_path / "prompt-run",
        fake.plan(fake.checkpoint("shapes-ape", backbone="mmdit-micro", suite="shapes"), "shapes"),
    )
    run_folder(
        tmp_path / "classifier-run",
        fake.plan(
            fake.checkpoint("c", backbone="deit", suite="digits-held-out"), "digits-held-out"
        ),
    )
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/0.png")
    (tmp_path / "images.npz").write_bytes(b"")
    (tmp_path / "results.jsonl").write_text(json.dumps(GENEVAL_LINE) + "\n")
    (tmp_path / "dpg.txt").write_text("images/0.png, 0.5, 0.5\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


KINDS: list[tuple[str, str | None, TargetKind, str | None]] = [
    ("digits-ape", None, TargetKind.CHECKPOINT, "digits"),
    ("digits-ape", "shapes", TargetKind.PROMPT_CHECKPOINT, "shapes"),
    ("shapes-ape", None, TargetKind.PROMPT_CHECKPOINT, "shapes"),
    (CLASSIFIER, None, TargetKind.CLASSIFIER, "digits-held-out"),
    (CLASSIFIER, "digits", TargetKind.CLASSIFIER, "digits"),
    ("run", None, TargetKind.RUN, "digits"),
    ("run", "digits", TargetKind.RUN, "digits"),
    ("run", "shapes", TargetKind.PROMPT_RUN, "shapes"),
    ("prompt-run", None, TargetKind.PROMPT_RUN, "shapes"),
    ("prompt-run", "digits", TargetKind.RUN, "digits"),
    ("classifier-run", None, TargetKind.CLASSIFIER_RUN, "digits-held-out"),
    ("classifier-run", "shapes", TargetKind.CLASSIFIER_RUN, "digits-held-out"),
    ("images", None, TargetKind.IMAGE_FOLDER, None),
    ("images", "digits", TargetKind.IMAGE_FOLDER, "digits"),
    ("images", "geneval", TargetKind.PROMPT_FOLDER, "geneval"),
    ("empty", "dpg-bench", TargetKind.PROMPT_FOLDER, "dpg-bench"),
    ("images.npz", None, TargetKind.IMAGE_FILE, None),
    ("images.npz", "digits", TargetKind.IMAGE_FILE, "digits"),
    ("images.npz", "shapes", TargetKind.PROMPT_FILE, "shapes"),
    ("results.jsonl", "geneval", TargetKind.OFFICIAL_RESULTS, "geneval"),
    ("results.jsonl", "dpg-bench", TargetKind.OFFICIAL_RESULTS, "dpg-bench"),
    ("results.jsonl", "digits", TargetKind.IMAGE_FILE, "digits"),
    ("results.jsonl", None, TargetKind.OFFICIAL_RESULTS, "geneval"),
    ("dpg.txt", None, TargetKind.OFFICIAL_RESULTS, "dpg-bench"),
]


def locate_target(folder: Path, name: str) -> str:
    """A path below the fixture's folder; the name of a checkpoint as it is."""
    return str(folder / name) if (folder / name).exists() else name


@pytest.mark.parametrize(("name", "suite", "kind", "known_text"), KINDS)
def test_every_kind_is_told_from_the_others(
    target_folder: Path, name: str, suite: str | None, kind: TargetKind, known_text: str | None
) -> None:
    text = locate_target(target_folder, name)
    target = resolve_target(text, EvalOptions(suite=suite))
    assert (target.kind, target.suite, target.name) == (kind, known_text, text)
    is_run = (target_folder / name / "plan.json").exists()
    assert (target.plan is not None) == is_run
    if kind in CHECKPOINTS:
        assert target.path == target.out == Path("runs") / name
    else:
        assert target.path == target_folder / name
        assert target.out == (target.path if is_run else Path("runs") / f"eval-{Path(name).stem}")
    out = target_folder / "out"
    moved_resolve_target = resolve_target(text, EvalOptions(suite=suite, out=out))
    assert (moved_resolve_target.kind, moved_resolve_target.out, moved_resolve_target.path) == (
        kind,
        out,
        out if kind in CHECKPOINTS else target.path,
    )


def test_the_cases_above_are_of_every_kind() -> None:
    assert (
        {kind for _, _, kind, _ in KINDS}
        == set(TargetKind)
        == set(EVALUATE)
        == set(REJECTED_OPTIONS)
    )


def test_a_path_goes_before_a_checkpoint_of_that_name(
    target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(target_folder)
    assert resolve_target("digits-ape").kind is TargetKind.CHECKPOINT
    (target_folder / "digits-ape").mkdir()
    assert resolve_target("digits-ape").kind is TargetKind.IMAGE_FOLDER
    assert plan_checkpoint("digits-ape", None, GenerationOptions()).checkpoint.name == "digits-ape"


def test_a_checkpoint_without_a_suite_is_one_and_its_plan_asks_for_a_suite(
    tmp_path: Path, bench_home: Path
) -> None:
    tiny.register_tiny(tmp_path / "w")
    (path,) = bench_home.rglob("tiny.toml")
    path.write_text(path.read_text().replace('suite = "digits"\n', ""))
    target = resolve_target("tiny")
    assert (target.kind, target.suite) == (TargetKind.CHECKPOINT, None)
    with pytest.raises(OptionError, match="has no default suite; add --suite"):
        evaluate_target("tiny", EvalOptions(is_lenient=True, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_official_results_in_a_folder_are_told_from_images(tmp_path: Path) -> None:
    folder = tmp_path / "color"
    (folder / "annotation_blip").mkdir(parents=True)
    (folder / "annotation_blip/vqa_result.json").write_text(
        json.dumps([{"question_id": 0, "answer": "0.5"}])
    )
    options = EvalOptions(suite="t2i-compbench")
    assert resolve_target(str(folder), options).kind is TargetKind.OFFICIAL_RESULTS
    (folder / "samples").mkdir()
    assert resolve_target(str(folder), options).kind is TargetKind.PROMPT_FOLDER


# -------------------------------------------------------------------------------- wrong targets


def spoil(folder: Path) -> None:
    folder.mkdir()
    (folder / "plan.json").write_text('{"format": 1}')


WRONG_ITEMS: list[tuple[str, str | None, type[BenchError], str]] = [
    (
        "digits-apee",
        None,
        UnknownNameError,
        "no file, folder or checkpoint named 'digits-apee'; did you mean digits-ape",
    ),
    ("nothing/like/it", None, UnknownNameError, "no file, folder or checkpoint named"),
    ("nothing.npz", "digits", UnknownNameError, "no file, folder or checkpoint named"),
    ("../digits-ape", None, UnknownNameError, "no file, folder or checkpoint named"),
    ("digits-ape.toml", None, UnknownNameError, "did you mean digits-ape"),
    ("digits\0ape", None, UnknownNameError, "no file, folder or checkpoint named"),
    ("x" * 5000, None, StorageError, "File name too long"),
    ("digits-ape", "digit", UnknownNameError, "no suite named 'digit'; did you mean digits"),
    ("run", "digit", UnknownNameError, "no suite named 'digit'"),
    ("images", "genevall", UnknownNameError, "no suite named 'genevall'; did you mean geneval"),
    ("classifier-run", "imagenet", UnknownNameError, "no suite named 'imagenet'"),
    ("dangling", None, UnknownNameError, "no file, folder or checkpoint named"),
    ("spoiled", None, PlanMismatchError, "plan.json is not a plan this version reads"),
    ("spoiled", "geneval", PlanMismatchError, "plan.json is not a plan this version reads"),
    ("foreign-run", None, UnknownNameError, "no suite named 'of-another-package'"),
]


@pytest.mark.parametrize(("name", "suite", "error", "message"), WRONG_ITEMS)
def test_what_is_no_target_is_named(
    target_folder: Path, name: str, suite: str | None, error: type[BenchError], message: str
) -> None:
    spoil(target_folder / "spoiled")
    run_folder(target_folder / "foreign-run", fake.plan(fake.checkpoint(), "of-another-package"))
    (target_folder / "dangling").symlink_to(target_folder / "gone")
    is_path = name in ("spoiled", "foreign-run", "dangling") or (
        len(name) < 200 and "\0" not in name and (target_folder / name).exists()
    )
    with pytest.raises(error, match=message) as excinfo:
        resolve_target(str(target_folder / name) if is_path else name, EvalOptions(suite=suite))
    assert "\n" not in str(excinfo.value)


def test_a_pipe_is_no_file_of_images_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    os.mkfifo(tmp_path / "results.jsonl")
    assert (
        resolve_target(str(tmp_path / "pipe.npz"), EvalOptions(suite="digits")).kind
        is TargetKind.IMAGE_FILE
    )
    assert (
        resolve_target(str(tmp_path / "results.jsonl"), EvalOptions(suite="geneval")).kind
        is TargetKind.PROMPT_FILE
    )
    with pytest.raises(BenchError, match="is no run folder, image folder or .npz"):
        evaluate_target(
            str(tmp_path / "pipe.npz"), EvalOptions(suite="digits", out=tmp_path / "out")
        )


# ---------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("name", "generation", "make"),
    [
        ("digits-ape", GenerationOptions(steps=3), make_plan),
        ("shapes-ape", GenerationOptions(seed=5, dtype="bfloat16"), make_plan),
        (CLASSIFIER, GenerationOptions(resolution=56), make_classifier_plan),
    ],
)
def test_a_checkpoints_plan_is_of_its_kind(
    name: str, generation: GenerationOptions, make: Callable[..., Plan]
) -> None:
    values = {key: value for key, value in generation.overrides().items() if value is not None}
    options = EvalOptions(generation=generation)
    expected = make(name, None, values)
    assert (
        plan_target(resolve_target(name, options), options)
        == plan_checkpoint(name, None, generation)
        == expected
    )


def test_options_of_generation_are_named_as_they_are_typed() -> None:
    assert (
        GenerationOptions().stated_options == GenerationOptions(device="cuda").stated_options == []
    )
    assert GenerationOptions(vae_tiling=False, fold=False, seed=0).stated_options == [
        "--fold",
        "--seed",
        "--vae-tiling",
    ]


# --------------------------------------------------------------- options that are rejected

NO_CLASSIFIER, REAL = "is no classifier, ", "classifies real images, "
NO_PROMPTS, NOTHING_TEXT = "has no prompts, ", " does not apply; leave it out"
FORM = PromptFolderOptions(order="copy-major")

REJECTIONS: list[tuple[str, EvalOptions, str]] = [
    (
        "digits-ape",
        EvalOptions(real_images=RealImageOptions(images=Path("x"))),
        f"{NO_CLASSIFIER}--images{NOTHING_TEXT}",
    ),
    (
        "shapes-ape",
        EvalOptions(real_images=RealImageOptions(crop_ratio=0.5)),
        f"{NO_CLASSIFIER}--crop-ratio{NOTHING_TEXT}",
    ),
    (
        "run",
        EvalOptions(real_images=RealImageOptions(ground_truth=Path("x"))),
        f"{NO_CLASSIFIER}--ground-truth{NOTHING_TEXT}",
    ),
    (
        "results.jsonl",
        EvalOptions(suite="geneval", real_images=RealImageOptions(ground_truth=Path("x"))),
        f"{NO_CLASSIFIER}--ground-truth{NOTHING_TEXT}",
    ),
    (
        "images",
        EvalOptions(real_images=RealImageOptions(ground_truth=Path("x"))),
        f"{NO_CLASSIFIER}--ground-truth{NOTHING_TEXT}",
    ),
    ("digits-ape", EvalOptions(is_lenient=True), f"{NO_PROMPTS}--allow-missing{NOTHING_TEXT}"),
    ("run", EvalOptions(python=Path("x")), f"{NO_PROMPTS}--judge-python{NOTHING_TEXT}"),
    (
        "images",
        EvalOptions(suite="digits", folder_options=FORM),
        f"{NO_PROMPTS}--order{NOTHING_TEXT}",
    ),
    (
        "images.npz",
        EvalOptions(suite="digits", folder_options=PromptFolderOptions(file_list=Path("x"))),
        f"{NO_PROMPTS}--file-list{NOTHING_TEXT}",
    ),
    (
        "shapes-ape",
        EvalOptions(folder_options=PromptFolderOptions(pattern="x")),
        f"is no folder of images, --pattern{NOTHING_TEXT}",
    ),
    (
        "results.jsonl",
        EvalOptions(suite="geneval", folder_options=PromptFolderOptions(tiles=4)),
        f"finished run of an official script, --tiles{NOTHING_TEXT}",
    ),
    (CLASSIFIER, EvalOptions(reference=Path("x")), f"{REAL}--reference{NOTHING_TEXT}"),
    (
        CLASSIFIER,
        EvalOptions(generation=GenerationOptions(labels="balanced")),
        f"{REAL}--labels{NOTHING_TEXT}",
    ),
    ("classifier-run", EvalOptions(batch=3), f"{REAL}--batch{NOTHING_TEXT}"),
    ("classifier-run", EvalOptions(folder_options=FORM), f"{REAL}--order{NOTHING_TEXT}"),
    (
        "classifier-run",
        EvalOptions(generation=GenerationOptions(resolution=56)),
        "has a plan already, --resolution would have",
    ),
    (
        "run",
        EvalOptions(generation=GenerationOptions(seed=0)),
        "is generated already, --seed would have no effect",
    ),
    (
        "prompt-run",
        EvalOptions(generation=GenerationOptions(fold=False)),
        "is generated already, --fold would have no effect",
    ),
    (
        "images",
        EvalOptions(suite="geneval", generation=GenerationOptions(steps=1)),
        "is generated already, --steps would have no effect",
    ),
    (
        "images.npz",
        EvalOptions(suite="digits", generation=GenerationOptions(vae="x")),
        "is generated already, --vae would have no effect",
    ),
    (
        "images",
        EvalOptions(generation=GenerationOptions(seed=7)),
        "is generated already, --seed would have no effect",
    ),
    ("images", EvalOptions(), "does not record its suite; add --suite, one of: "),
    (
        "images",
        EvalOptions(is_lenient=True, folder_options=FORM),
        "does not record its suite; add --suite, one of: ",
    ),
    ("images.npz", EvalOptions(), "does not record its suite; add --suite, one of: "),
    (
        "run",
        EvalOptions(suite="shapes"),
        (
            "was generated for suite digits, which asks for 10 classes, but suite shapes asks for"
            " prompts"
        ),
    ),
    (
        "prompt-run",
        EvalOptions(suite="digits"),
        "was generated for suite shapes, which asks for prompts",
    ),
]


@pytest.mark.parametrize(("name", "options", "message"), REJECTIONS)
def test_options_that_do_not_apply_are_rejected(
    target_folder: Path, name: str, options: EvalOptions, message: str
) -> None:
    with pytest.raises(OptionError) as excinfo:
        check_options(*resolve_run(locate_target(target_folder, name), options))
    assert message in str(excinfo.value) and locate_target(target_folder, name) in str(
        excinfo.value
    )


@pytest.mark.parametrize("name", ["digits-ape", CLASSIFIER, "run", "classifier-run", "images"])
def test_a_rejected_option_leaves_no_folder(target_folder: Path, name: str) -> None:
    options = EvalOptions(
        suite="digits" if name == "images" else None, folder_options=FORM, out=target_folder / "out"
    )
    with pytest.raises(OptionError, match="--order does not apply"):
        evaluate_target(locate_target(target_folder, name), options)
    assert not (target_folder / "out").exists() and not (target_folder / name / "results").exists()


ACCEPTED_ITEMS: list[tuple[str, EvalOptions]] = [
    (
        "digits-ape",
        EvalOptions(generation=GenerationOptions(steps=3), batch=2, reference=Path("x")),
    ),
    ("shapes-ape", EvalOptions(is_lenient=True, python=Path("x"))),
    (
        CLASSIFIER,
        EvalOptions(real_images=RealImageOptions(Path("x"), Path("y"), 0.5), is_lenient=True),
    ),
    ("classifier-run", EvalOptions(real_images=RealImageOptions(crop_ratio=0.5))),
    ("run", EvalOptions(generation=GenerationOptions(device="cuda"))),
    ("images", EvalOptions(suite="geneval", folder_options=FORM, is_lenient=True)),
    (
        "images",
        EvalOptions(
            suite="dpg-bench",
            generation=GenerationOptions(resolution=64),
            folder_options=PromptFolderOptions(tiles=4),
        ),
    ),
    (
        "results.jsonl",
        EvalOptions(suite="geneval", generation=GenerationOptions(resolution=64), is_lenient=True),
    ),
    ("results.jsonl", EvalOptions()),
]


@pytest.mark.parametrize(("name", "options"), ACCEPTED_ITEMS)
def test_options_that_apply_are_not(target_folder: Path, name: str, options: EvalOptions) -> None:
    check_options(*resolve_run(locate_target(target_folder, name), options))


@pytest.mark.parametrize(
    ("name", "suite", "is_side"),
    [
        ("images", "dpg-bench", True),
        ("results.jsonl", "geneval", True),
        ("images", "geneval", False),
        ("run", None, False),
    ],
)
def test_resolution_is_the_side_of_an_image_where_files_join_several(
    target_folder: Path, name: str, suite: str | None, is_side: bool
) -> None:
    eval_options = EvalOptions(suite=suite, generation=GenerationOptions(resolution=64))
    _, options = resolve_run(locate_target(target_folder, name), eval_options)
    assert (options.folder_options.side, options.generation.resolution) == (
        (64, None) if is_side else (None, 64)
    )


# ------------------------------------------------------------------------------------- several runs


def test_several_suites_and_resolutions_are_runs_in_folders_of_their_own() -> None:
    eval_options = EvalOptions(count=3, judge="vqa=vlm:a,detector=detector:b")
    runs = options_of_runs(
        "my-flux", eval_options, ["geneval", "dpg-bench", "geneval"], [512, 1024]
    )
    assert [(run.suite, run.generation.resolution, str(run.out)) for run in runs] == [
        (suite, side, f"runs/my-flux/{suite}/r{side}")
        for suite in ("geneval", "dpg-bench")
        for side in (512, 1024)
    ]
    assert {run.suite: run.judge for run in runs} == {
        "geneval": "detector=detector:b",
        "dpg-bench": "vqa=vlm:a",
    }
    assert {run.count for run in runs} == {3}
    (single_options_of_run,) = options_of_runs(
        "a/b.npz", replace(eval_options, out=Path("o")), ["geneval"], [512]
    )
    assert (single_options_of_run.out, single_options_of_run.judge) == (
        Path("o"),
        eval_options.judge,
    )
    assert [run.out for run in options_of_runs("a/b.npz", eval_options, [], [1, 2])] == [
        Path("runs/b/r1"),
        Path("runs/b/r2"),
    ]
    assert options_of_runs("x", eval_options, [], []) == [eval_options]


def test_the_cost_of_several_runs_needs_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        evaluate_prompts, "check_prompt_scoring", lambda *_: pytest.fail("judges were looked for")
    )
    runs = [
        resolve_run("shapes-ape", o)
        for o in options_of_runs("shapes-ape", EvalOptions(evaluators=("cost",)), [], [28, 56])
    ]
    assert [target.plan.settings.resolution for target, _ in prepare_runs(runs) if target.plan] == [
        28,
        56,
    ]


def test_each_plan_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For latents and pipelines a plan hashes files of gigabytes."""
    calls: list[Any] = []
    monkeypatch.setattr(
        "harope_bench.pipeline.target.make_plan",
        lambda *arguments: calls.append(arguments) or make_plan(*arguments),
    )
    evaluate_target(tiny.register_tiny(tmp_path / "w"), EvalOptions(count=20, out=tmp_path / "run"))
    assert len(calls) == 1


def test_an_option_that_only_a_later_suite_rejects_is_rejected_before_the_first_one_generates(
    tmp_path: Path,
) -> None:
    tiny.register_tiny(tmp_path / "w")
    runs = [
        resolve_run("tiny", EvalOptions(suite="digits")),
        resolve_run("tiny", EvalOptions(suite="digits", is_lenient=True)),
    ]
    with pytest.raises(OptionError, match="--allow-missing does not apply"):
        prepare_runs(runs)
