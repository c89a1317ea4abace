"""What a network takes against what a suite asks for, and settings that mean nothing: one named
error, nothing written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import save_file

from harope_bench.core import registry
from harope_bench.core.conditioning import (
    Conditioning,
    backbone_conditioning,
    check_checkpoint_suite,
    check_requests,
    suite_conditioning,
)
from harope_bench.core.errors import BenchError, OptionError
from harope_bench.core.schema import Plan, Request, Settings
from harope_bench.models.load_checkpoint import check_settings, load_checkpoint_record
from harope_bench.models.register_checkpoint import register
from harope_bench.pipeline import classify
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.classify import RealImageSelection, make_classifier_plan
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.plan_study import plan_for
from harope_bench.pipeline.row_plans import RunOptions
from harope_bench.pipeline.row_plans import plan_row as plan_of_row
from harope_bench.pipeline.table_runs import PlannedRun
from harope_bench.training.run_recipe import run_recipe as train

SHIPPED_FIELDS = {
    "dit": "digits-harope",
    "deit": "digits-deit-harope",
    "mmdit-micro": "shapes-harope",
}


def register_fourteen_classes(folder: Path) -> str:
    """A registered DiT of 14 classes."""
    config = {**tiny.CONFIG, "classes": 14}
    network = registry.load_by_name("backbones", "dit").build("rope-axial", {}, config)
    save_file(network.state_dict(), folder / "fourteen.safetensors")
    fields = {
        "sampler": "flow",
        "steps": 2,
        "guidance": 1.5,
        "config": {"heads": 2, "size": 28, "classes": 14},
    }
    register("fourteen", folder / "fourteen.safetensors", {"encoding": "rope-axial", **fields})
    return "fourteen"


# ------------------------------------------------------------------------------------- the contract
# of both sides


def test_every_backbone_says_what_it_takes_and_every_suite_what_it_asks_for() -> None:
    assert all(
        hasattr(registry.load_by_name("backbones", name), "conditioning")
        for name in registry.list_names("backbones")
    )
    assert all(
        isinstance(registry.load_by_name("suites", name).requested_conditioning, Conditioning)
        for name in registry.list_names("suites")
    )


def first_request(name: str, suite: str, out: Path, steps: int | None) -> None:
    """Everything that `eval` does of a checkpoint's first request, up to its image or its class."""
    if (
        backbone_conditioning(
            load_checkpoint_record(name).backbone, load_checkpoint_record(name).config
        ).kind
        == "images"
    ):
        classify.classify(make_classifier_plan(name, suite, {}), out, RealImageSelection(count=1))
        return
    generate(
        make_plan(name, suite, {"steps": steps, "resolution": 32 if suite == "shapes" else None}),
        [0],
        out,
    )


def runs_or_is_rejected(name: str, folder: Path, steps: int | None = None) -> dict[str, str]:
    """The error of each suite that is rejected; fails unless every other one leaves an image or a
    class.
    """
    errors: dict[str, str] = {}
    for suite in registry.list_names("suites"):
        out = folder / suite
        try:
            first_request(name, suite, out, steps)
        except BenchError as error:
            errors[suite] = str(error)
        works = any(out.rglob("*.png")) or any(out.rglob("*.npz"))
        assert works if suite not in errors else not out.exists(), (
            f"{name} on {suite} left {out} behind"
        )
    assert not [text for text in errors.values() if "\n" in text]
    return errors


@pytest.mark.parametrize(
    ("backbone", "served_names"),
    [
        ("dit", {"digits", "digits-16", "digits-40"}),
        ("deit", {"digits-held-out"}),
        ("mmdit-micro", {"shapes"}),
    ],
)
def test_a_first_request_runs_or_is_rejected_before_anything_is_written(
    tmp_path: Path, backbone: str, served_names: set[str]
) -> None:
    errors = runs_or_is_rejected(
        SHIPPED_FIELDS[backbone], tmp_path, None if backbone == "deit" else 2
    )
    misfits = {
        suite
        for suite in errors
        if not backbone_conditioning(
            backbone, load_checkpoint_record(SHIPPED_FIELDS[backbone]).config
        ).is_compatible_with(suite_conditioning(suite))
    }
    assert all(
        f"suite {suite} asks for" in errors[suite] and SHIPPED_FIELDS[backbone] in errors[suite]
        for suite in misfits
    )
    assert len(misfits) >= 7
    suites_that_ran = set(registry.list_names("suites")) - errors.keys()
    assert served_names <= suites_that_ran
    assert not misfits & suites_that_ran


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_a_pipelines_first_request_runs_or_is_rejected_before_anything_is_written(
    tmp_path: Path, kind: str
) -> None:
    pipelines = pytest.importorskip("tiny_pipelines")
    pipelines.needs_t2i()
    register("pipe", pipelines.save_pipeline(tmp_path / "base", kind), {"steps": 1})
    errors = runs_or_is_rejected("pipe", tmp_path / "runs", 1)
    suites_that_ran = set(registry.list_names("suites")) - errors.keys()
    assert "shapes" in suites_that_ran
    assert all(suite_conditioning(suite).kind == "prompts" for suite in suites_that_ran)
    assert (
        "is conditioned on prompts, but suite digits asks for 10 classes; choose a suite that asks"
        " for prompts:" in errors["digits"]
    )
    assert "is no classifier" in errors["digits-held-out"]


# ------------------------------------------------------------------------------------- every entry


@pytest.mark.parametrize(
    ("name", "suite", "message"),
    [
        (
            "digits-harope",
            "shapes",
            (
                "is conditioned on 10 classes, but suite shapes asks for prompts; choose a suite"
                " that asks for 10 classes: digits, digits-16, digits-40"
            ),
        ),
        (
            "digits-harope",
            "imagenet-256",
            "is conditioned on 10 classes, but suite imagenet-256 asks for 1,000 classes",
        ),
        (
            "digits-harope",
            "digits-held-out",
            "is no classifier, but suite digits-held-out asks for images of 10 classes",
        ),
        (
            "shapes-harope",
            "digits",
            (
                "is conditioned on prompts, but suite digits asks for 10 classes; choose a suite"
                " that asks for prompts"
            ),
        ),
        (
            "digits-deit-harope",
            "digits",
            "is a classifier of 10 classes and cannot generate images",
        ),
        (
            "digits-deit-harope",
            "shapes",
            "is a classifier of 10 classes and cannot generate images",
        ),
        (
            "digits-deit-harope",
            "imagenet-val",
            (
                "classifies images of 10 classes, but suite imagenet-val asks for images of 1,000"
                " classes"
            ),
        ),
    ],
)
def test_a_mismatch_names_both_sides_from_every_entry(
    tmp_path: Path, name: str, suite: str, message: str
) -> None:
    checkpoint_record = load_checkpoint_record(name)
    settings = Settings(resolution=28, sampler="flow", steps=1, guidance=1, tile=1)
    plan = Plan(
        checkpoint=checkpoint_record, suite=suite, suite_version=1, settings=settings
    )  # as a Python user may make one
    entries = (
        lambda: make_plan(name, suite, {}),
        lambda: make_classifier_plan(name, suite, {}),
        lambda: plan_for(name, suite, None, "cpu"),
        lambda: plan_of_row(
            PlannedRun(name, suite), RunOptions("cpu", 0, None, None, AnnotatorOptions())
        ),
        lambda: generate(plan, [0], tmp_path / "run"),
        lambda: classify.classify(plan, tmp_path / "run", RealImageSelection(count=1)),
        lambda: check_checkpoint_suite(checkpoint_record, suite),
    )
    for entry in entries:
        with pytest.raises(OptionError) as excinfo:
            entry()
        assert name in str(excinfo.value) and message in str(excinfo.value)
    assert not (tmp_path / "run").exists()


def test_fourteen_classes_fit_no_suite_of_ten_or_a_thousand(tmp_path: Path) -> None:
    name = register_fourteen_classes(tmp_path)
    for suite, count in (("digits", "10"), ("imagenet-256", "1,000")):
        with pytest.raises(
            OptionError,
            match=(
                f"is conditioned on 14 classes, but suite {suite} asks for {count} classes; no"
                " registered suite asks for 14"
            ),
        ):
            make_plan(name, suite, {})
    with pytest.raises(
        OptionError, match="is conditioned on 14 classes, but suite digits asks for 10 classes"
    ):
        register(
            "late",
            tmp_path / "fourteen.safetensors",
            {"encoding": "rope-axial", "sampler": "flow", "suite": "digits"}
            | {"config": {"heads": 2, "size": 28, "classes": 14}},
        )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(index=3, label=10), "takes labels 0 to 9, sample 3 has label 10"),
        (Request(index=4, label=-1), "sample 4 has label -1"),
        (Request(index=5, prompt="a ring"), "takes 10 classes, sample 5 has a prompt"),
    ],
)
def test_a_request_that_a_network_cannot_serve_is_named(request_: Request, message: str) -> None:
    check_requests(
        load_checkpoint_record("digits-harope"), [Request(index=0, label=9), Request(index=1)]
    )  # it also generates without a label
    with pytest.raises(OptionError, match=message):
        check_requests(load_checkpoint_record("digits-harope"), [request_])


def test_a_prompt_with_unknown_words_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("shapes-harope", None, {"steps": 1})
    suite = registry.load_by_name("suites", "shapes")
    monkeypatch.setattr(type(suite), "requests", lambda *_: [Request(index=0, prompt="a zeppelin")])
    with pytest.raises(OptionError, match="does not know the word 'zeppelin'"):
        generate(plan, [0], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_leave_no_folder(tmp_path: Path) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path / "w"), None, {})
    other_plan = plan.model_copy(
        update={"checkpoint": plan.checkpoint.model_copy(update={"encoding": "harope"})}
    )
    with pytest.raises(BenchError, match="does not fit: missing encoding"):
        generate(other_plan, [0], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old_text", "new_text", "message"),
    [
        (
            "classes = 10",
            "classes = 14",
            r"recipe tiny \(backbone dit\) is conditioned on 14 classes, but suite digits asks for"
            " 10 classes",
        ),
        (
            'suite = "digits"',
            'suite = "shapes"',
            "is conditioned on 10 classes, but suite shapes asks for prompts",
        ),
        (
            'backbone = "dit"',
            'backbone = "deit"',
            "is a classifier of 10 classes and cannot generate images",
        ),
    ],
)
def test_a_recipe_whose_suite_gives_something_else_is_rejected(
    tiny_recipe: Path, tmp_path: Path, old_text: str, new_text: str, message: str
) -> None:
    text = tiny_recipe.read_text().replace(old_text, new_text)
    tiny_recipe.write_text(text)
    with pytest.raises(OptionError, match=message):
        train(str(tiny_recipe), "rope-axial", {}, None, tmp_path / "out", True)
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_scored_by_a_suite_that_asks_for_something_else(tmp_path: Path) -> None:
    from harope_bench.pipeline.eval_options import EvalOptions
    from harope_bench.pipeline.evaluate_target import evaluate_target

    plan = make_plan(tiny.register_tiny(tmp_path / "w"), None, {})
    generate(plan, [0], tmp_path / "run")
    with pytest.raises(
        OptionError,
        match=(
            "was generated for suite digits, which asks for 10 classes, but suite shapes asks for"
            " prompts"
        ),
    ):
        evaluate_target(str(tmp_path / "run"), EvalOptions(suite="shapes"))
    assert not (tmp_path / "run" / "results").exists()


# ------------------------------------------------------------------------------------- settings
# that mean nothing

MEANINGLESS: list[tuple[str, dict[str, Any], str]] = [
    ("dit", {"guidance_channels": "3"}, "it generates pixels, and guides all channels alike"),
    ("dit", {"mu_policy": "clamp"}, "only FLUX shifts its times"),
    ("dit", {"vae": "x"}, "uses no autoencoder"),
    ("dit", {"vae_tiling": False}, "uses no autoencoder"),
    ("mmdit-micro", {"fold": True}, "does not fold"),
    ("mmdit-micro", {"guidance_channels": "3"}, "without an autoencoder"),
    ("mmdit-micro", {"mu_policy": "clamp"}, "it generates pixels"),
    ("deit", {"steps": 3}, "it is a classifier and generates no images"),
    ("deit", {"sampler": "flow"}, "it is a classifier and generates no images"),
    ("deit", {"guidance": 2.0}, "it is a classifier and generates no images"),
    ("deit", {"labels": "uniform"}, "it is a classifier and generates no images"),
    ("deit", {"spacing": "leading"}, "it is a classifier and generates no images"),
]


@pytest.mark.parametrize(("backbone", "fields", "message"), MEANINGLESS)
def test_a_setting_that_a_network_ignores_is_rejected_by_name(
    backbone: str, fields: dict[str, Any], message: str
) -> None:
    (field,) = fields
    plan = make_classifier_plan if backbone == "deit" else make_plan
    with pytest.raises(
        OptionError,
        match=(
            f"{field} does not apply to checkpoint {SHIPPED_FIELDS[backbone]}: .*{message}.*leave"
            f" --{field.replace('_', '-')}"
        ),
    ):
        plan(SHIPPED_FIELDS[backbone], None, fields)


@pytest.mark.parametrize("fields", [{"fold": True}, {"fold": False}])
@pytest.mark.parametrize("name", ["digits-ape", "digits-rope-axial", "digits-rope-svd-control"])
def test_fold_means_nothing_where_there_is_no_matrix_to_move(
    name: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(
        OptionError, match="has no matrix that can be folded into the projections; leave --fold out"
    ):
        make_plan(name, None, fields)
    assert make_plan("digits-harope", None, fields).settings.fold is fields["fold"]


def test_labels_are_the_choice_of_no_prompt_suite_and_a_default_is_told_from_an_option() -> None:
    with pytest.raises(OptionError, match="suite shapes leaves no choice of labels"):
        make_plan("shapes-harope", None, {"labels": "uniform"})
    spoiled_checkpoint_record = load_checkpoint_record("digits-harope").model_copy(
        update={"drawing": {"vae_tiling": True}}
    )
    with pytest.raises(
        OptionError,
        match="digits-harope was registered with this default, register it again without",
    ):
        check_settings(spoiled_checkpoint_record, spoiled_checkpoint_record.drawing)


@pytest.mark.parametrize("name", sorted(SHIPPED_FIELDS.values()))
def test_settings_that_every_network_reads_keep_their_plans(name: str) -> None:
    plan = make_classifier_plan if name == SHIPPED_FIELDS["deit"] else make_plan
    assert plan(name, None, {"dtype": "bfloat16", "device": "cpu"}).settings.dtype == "bfloat16"


# ------------------------------------------------------------------------------------- distilled
# bases


def schnell(folder: Path) -> Path:
    """A tiny FLUX base without guidance embedding and without a time shift by size, as
    FLUX.1-schnell is published.
    """
    pipelines = pytest.importorskip("tiny_pipelines")
    pipelines.needs_t2i()
    base: Path = pipelines.save_pipeline(folder, "flux", guidance_embeds=False)
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(
        scheduler.read_text().replace(
            '"use_dynamic_shifting": true', '"use_dynamic_shifting": false'
        )
    )
    return base


def test_a_base_without_guidance_has_schnells_defaults_and_rejects_guidance(tmp_path: Path) -> None:
    register("fast", schnell(tmp_path / "base"), {})
    checkpoint_record = load_checkpoint_record("fast")
    assert (
        checkpoint_record.steps,
        checkpoint_record.guidance,
        checkpoint_record.config["text_tokens"],
        checkpoint_record.drawing,
    ) == (
        4,
        None,
        256,
        {"vae_tiling": True, "dtype": "bfloat16"},
    )
    plan = make_plan("fast", "shapes", {"resolution": 32, "steps": 1})
    assert plan.settings.guidance is None and plan.settings.mu_policy is None
    assert generate(plan, [0], tmp_path / "run").n_failed == 0
    for fields, message in (
        ({"guidance": 7.0}, "no guidance embedding"),
        ({"mu_policy": "clamp"}, "does not shift times"),
    ):
        with pytest.raises(OptionError, match=f"does not apply to checkpoint fast: .*{message}"):
            make_plan("fast", "shapes", {"resolution": 32, **fields})
    with pytest.raises(OptionError, match="guidance does not apply to checkpoint slow"):
        register("slow", tmp_path / "base", {"guidance": 3.5})
    assert not (tmp_path / "slow").exists() and "slow" not in registry.list_entries("checkpoints")


def test_a_base_that_is_distilled_by_name_must_be_told_its_steps_and_guidance(
    tmp_path: Path,
) -> None:
    pipelines = pytest.importorskip("tiny_pipelines")
    pipelines.needs_t2i()
    base = pipelines.save_pipeline(tmp_path / "sd3.5-large-turbo", "sd3")
    with pytest.raises(
        OptionError, match="is distilled by its name .turbo., .* add --steps and --guidance"
    ):
        register("turbo", base, {})
    with pytest.raises(OptionError, match="is distilled by its name"):
        register("turbo", base, {"steps": 4})
    register("turbo", base, {"steps": 4, "guidance": 1.0})
    assert (load_checkpoint_record("turbo").steps, load_checkpoint_record("turbo").guidance) == (
        4,
        1.0,
    )


def test_a_dev_base_keeps_its_defaults(tmp_path: Path) -> None:
    pipelines = pytest.importorskip("tiny_pipelines")
    pipelines.needs_t2i()
    register("dev", pipelines.save_pipeline(tmp_path / "base", "flux"), {})
    checkpoint_record = load_checkpoint_record("dev")
    assert (checkpoint_record.steps, checkpoint_record.guidance, checkpoint_record.drawing) == (
        28,
        3.5,
        {"mu_policy": "extrapolate", "vae_tiling": True, "dtype": "bfloat16"},
    )
    assert "text_tokens" not in checkpoint_record.config
    assert make_plan("dev", "shapes", {"resolution": 32, "guidance": 7.0}).settings.guidance == 7.0
    for field in ({"vae": "x"}, {"guidance_channels": "3"}, {"spacing": "leading"}, {"fold": True}):
        with pytest.raises(OptionError, match="does not apply to checkpoint dev"):
            make_plan("dev", "shapes", {"resolution": 32, **field})


def test_sd3_has_no_time_shift_of_its_own(tmp_path: Path) -> None:
    pipelines = pytest.importorskip("tiny_pipelines")
    pipelines.needs_t2i()
    register("three", pipelines.save_pipeline(tmp_path / "base", "sd3"), {})
    with pytest.raises(
        OptionError,
        match="mu_policy does not apply to checkpoint three: the time shift of sd3 is fixed",
    ):
        make_plan("three", "shapes", {"resolution": 32, "mu_policy": "clamp"})
