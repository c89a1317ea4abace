"""ImageNet and COCO: labels that are a function of seed and index, presets that are recorded,
references that say what is missing.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.assets import local_files
from harope_bench.assets.download import fetch_asset
from harope_bench.core import registry
from harope_bench.core.errors import (
    MissingAssetError,
    OptionError,
    StorageError,
    TooManyImagesError,
)
from harope_bench.core.schema import Checkpoint, Plan, Settings
from harope_bench.data.sample_set import SampleSet
from harope_bench.pipeline.evaluate import (
    FeatureScoring,
    count_notes,
    repeated_prompts_notes,
    resolve_profile,
)
from harope_bench.pipeline.generate import make_plan
from harope_bench.suites import coco_fid, label_policies
from harope_bench.suites.imagenet_suite import ImageNetSuite

IMAGENET = ["imagenet-128", "imagenet-256", "imagenet-512"]
DRAWING = {"resolution": 256, "sampler": "ddpm", "steps": 250, "guidance": 1.5, "tile": 8}


def settings(**changes: Any) -> Settings:
    return Settings(**{**DRAWING, **changes})


def labels_of(policy: str | None, count: int = 3000, seed: int = 0) -> list[int]:
    requests = ImageNetSuite(256).requests(range(count), settings(labels=policy, seed=seed))
    return [int(r.label or 0) for r in requests]


def test_uniform_labels_depend_on_seed_and_index_alone() -> None:
    whole_labels_of = labels_of("uniform")
    suite = ImageNetSuite(256)
    for indices in ([2999], [7, 3, 500]):
        assert [r.label for r in suite.requests(indices, settings(labels="uniform"))] == [
            whole_labels_of[i] for i in indices
        ]
    assert labels_of("uniform", seed=1) != whole_labels_of
    assert labels_of(None) == whole_labels_of  # the suite's own policy


def test_uniform_labels_are_random_and_balanced_ones_interleaved() -> None:
    uniform, balanced_counts = (
        Counter(labels_of("uniform", 50_000)),
        Counter(labels_of("balanced", 50_000)),
    )
    assert set(balanced_counts.values()) == {50} and labels_of("balanced", 3) == [0, 1, 2]
    counts = np.array([uniform[i] for i in range(1000)])
    chi2 = ((counts - 50) ** 2 / 50).sum()
    assert abs(chi2 - 999) < 5 * np.sqrt(2 * 999), "50,000 multinomial draws over 1,000 classes"


def test_labels_from_a_file_travel_with_the_plan_not_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(str((7 * i) % 1000) for i in range(50)))
    recorded_label_policy = ImageNetSuite(256).label_policy(str(path))
    assert recorded_label_policy.startswith("file:") and settings(labels=recorded_label_policy)
    path.unlink()
    assert labels_of(recorded_label_policy, 50) == [(7 * i) % 1000 for i in range(50)]
    assert ImageNetSuite(256).label_policy(recorded_label_policy) == recorded_label_policy
    with pytest.raises(OptionError, match="sample 50 has no label, the file has 50"):
        labels_of(recorded_label_policy, 51)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1\n1000\n", "label 2 is '1000'"), ("cat", "'cat'"), ("", "has no labels"), ("-1", "'-1'")],
)
def test_a_bad_label_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(OptionError, match=message):
        ImageNetSuite(256).label_policy(str(tmp_path / "l.txt"))


def test_an_altered_label_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("3\n1\n4\n")
    recorded_label_policy = ImageNetSuite(256).label_policy(str(tmp_path / "l.txt"))
    label_policies.stored_labels_path(recorded_label_policy).write_text("3\n1\n5\n")
    for use in (
        lambda: labels_of(recorded_label_policy, 3),
        lambda: ImageNetSuite(256).label_policy(recorded_label_policy),
    ):
        with pytest.raises(OptionError, match="its name says"):
            use()
    ImageNetSuite(256).label_policy(str(tmp_path / "l.txt"))
    assert labels_of(recorded_label_policy, 3) == [3, 1, 4]


def test_an_unknown_policy_and_a_lost_file_are_named() -> None:
    with pytest.raises(OptionError, match="--labels sorted is no policy"):
        ImageNetSuite(256).label_policy("sorted")
    with pytest.raises(OptionError, match="are missing"):
        ImageNetSuite(256).label_policy("file:" + "0" * 64)
    with pytest.raises(OptionError, match="are missing"):
        label_policies.stored_labels_path("file:../../etc/passwd")


def test_a_setting_that_is_not_used_leaves_the_digest_alone(tiny_checkpoint: Checkpoint) -> None:
    plain_plan = Plan(
        checkpoint=tiny_checkpoint, suite="digits", suite_version=1, settings=settings()
    )
    assert (
        "labels" not in plain_plan.digest_fields()["settings"]
        and "preset" not in plain_plan.digest_fields()
    )
    keywords = plain_plan.model_copy(update={"preset": "harope-release"})
    assert keywords.digest == plain_plan.digest
    second = plain_plan.model_copy(update={"settings": settings(labels="balanced")})
    assert second.digest != plain_plan.digest


def test_the_releases_settings_are_a_named_preset(make_checkpoint: Any) -> None:
    checkpoint = make_checkpoint("mine")
    path = registry.find_entry("checkpoints", "mine").path
    assert path is not None
    path.write_text(
        path.read_text()
        .replace('sampler = "flow"', 'sampler = "ddpm"')
        .replace('suite = "digits"', 'suite = "imagenet-256"')
        .replace("classes = 10", "classes = 1000")
    )
    with pytest.raises(
        OptionError,
        match=(
            "guidance_channels does not apply to checkpoint mine: it generates pixels.*channels all"
            " where a preset"
        ),
    ):
        make_plan("mine", None, {"preset": "harope-release", "resolution": 8})
    plan = make_plan(
        "mine", None, {"preset": "harope-release", "resolution": 8, "guidance_channels": "all"}
    )
    assert (plan.preset, plan.suite) == ("harope-release", "imagenet-256")
    assert (plan.settings.steps, plan.settings.guidance, plan.settings.labels) == (
        250,
        1.5,
        "uniform",
    )
    other_plan = make_plan(
        "mine",
        None,
        {
            "preset": "harope-release",
            "resolution": 8,
            "labels": "balanced",
            "steps": 10,
            "guidance_channels": "all",
        },
    )
    assert (other_plan.settings.steps, other_plan.settings.labels) == (10, "balanced")
    with pytest.raises(
        OptionError, match="suite imagenet-256 has no preset 'mine'; choose one of harope-release, "
    ):
        make_plan("mine", None, {"preset": "mine", "resolution": 8})
    assert checkpoint.suite == "digits"


def test_digits_leave_no_choice_of_labels(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(OptionError, match="suite digits leaves no choice of labels"):
        make_plan("tiny", "digits", {"labels": "uniform"})
    assert make_plan("tiny", "digits", {"resolution": 8}).settings.labels is None


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_is_scored_by_adm_on_exactly_fifty_thousand(name: str) -> None:
    suite = registry.load_by_name("suites", name)
    chosen_resolve_profile = resolve_profile(suite, "fidelity", FeatureScoring(name))
    assert (
        chosen_resolve_profile.evaluator.profile,
        chosen_resolve_profile.judge,
        chosen_resolve_profile.suffix,
        suite.count,
    ) == (
        "adm",
        "inception-2015",
        "",
        50_000,
    )
    clean_resolve_profile = resolve_profile(
        suite, "fidelity", FeatureScoring(name, profile="clean")
    )
    assert (clean_resolve_profile.judge, clean_resolve_profile.suffix) == (
        "inception-2015-clean",
        "_clean",
    )


def images(count: int) -> SampleSet:
    return SampleSet("x", Path("x"), None, count, {}, list(range(count)), {}, {}, {})


def test_images_that_share_prompts_are_no_independent_draws_and_it_is_said() -> None:
    shapes = registry.load_by_name("suites", "shapes")
    prompts = shapes.count // shapes.copies
    (repeated_prompts_note,) = repeated_prompts_notes(images(prompts + 7), shapes)
    assert (
        repeated_prompts_note.startswith(f"prompts: {prompts + 7:,} images of {prompts:,} prompts")
        and "errors are too small" in repeated_prompts_note
    )
    assert (
        repeated_prompts_notes(images(prompts), shapes) == ()
        and repeated_prompts_notes(images(500), registry.load_by_name("suites", "digits")) == ()
    )


def test_the_releases_50176_images_are_not_scored_unasked() -> None:
    suite = registry.load_by_name("suites", "imagenet-256")
    with pytest.raises(
        TooManyImagesError,
        match=(
            r"50,176 images, imagenet-256 is scored on 50,000; --count 50000 takes the"
            r" first.*--subset"
        ),
    ):
        count_notes(images(50_176), suite, "imagenet-256")
    assert count_notes(images(50_000), suite, "imagenet-256") == ()
    assert "asks for 50,000" in count_notes(images(10_000), suite, "imagenet-256")[0]
    assert count_notes(images(10_000), registry.load_by_name("suites", "digits"), "digits") == ()


def test_a_missing_reference_names_its_command(tmp_path: Path) -> None:
    suite = registry.load_by_name("suites", "imagenet-256")
    with pytest.raises(MissingAssetError, match="harope-bench fetch imagenet-256-reference"):
        suite.reference("inception-2015")
    with pytest.raises(
        MissingAssetError,
        match=(
            "no ImageNet statistics of inception-2015-clean are published; build them .*--crop 256"
        ),
    ):
        suite.reference("inception-2015-clean")
    (tmp_path / "VIRTUAL_imagenet256_labeled.npz").write_bytes(b"npz")
    fetch_asset("imagenet-256-reference", tmp_path)
    reference = suite.reference("inception-2015")
    assert (
        reference.path.read_bytes() == b"npz"
        and reference.judge_sha256 == local_files.load_asset("inception-2015").files[0].sha256
    )


# -------------------------------------------------------------------------------------------------
# coco


def archive(path: Path, images: int = 50) -> Path:
    rows = [
        {"image_id": 10 * i, "id": 5 * i + k, "caption": f" picture {i}\nsaid {k} "}
        for i in range(images)
        for k in (3, 1, 2)
    ]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(coco_fid.CAPTIONS_MEMBER, json.dumps({"annotations": rows}))
    return path


def test_coco_takes_one_caption_an_image_in_an_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_asset = local_files.load_asset("coco-captions")
    unpinned_files = [
        file.model_copy(update={"bytes": None, "md5": None}) for file in published_asset.files
    ]  # ours is small
    monkeypatch.setattr(
        local_files,
        "load_asset",
        lambda name: published_asset.model_copy(update={"files": tuple(unpinned_files)}),
    )
    fetch_asset("coco-captions", archive(tmp_path / "annotations_trainval2014.zip"))
    requests = registry.load_by_name("suites", "coco-fid").requests(range(50))
    prompts = [str(r.prompt) for r in requests]
    assert len(set(prompts)) == 50 and all(
        p.endswith("said 1") and p.startswith("picture") for p in prompts
    )
    assert prompts != sorted(prompts, key=lambda p: int(p.split()[1]))
    assert registry.load_by_name("suites", "coco-fid").requests([7])[0].prompt == prompts[7]
    with pytest.raises(OptionError, match="50 captions, sample 50 has none"):
        registry.load_by_name("suites", "coco-fid").requests([50])


def test_coco_says_what_it_lacks(tmp_path: Path) -> None:
    suite = registry.load_by_name("suites", "coco-fid")
    with pytest.raises(MissingAssetError, match="harope-bench fetch coco-captions"):
        suite.requests([0])
    with pytest.raises(
        MissingAssetError,
        match=(
            "harope-bench reference VAL2014 .*/coco-val2014-512-inception-2015-clean.npz --judge"
            " inception-2015-clean --crop 512"
        ),
    ):
        suite.reference("inception-2015-clean")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(StorageError, match="is not COCO's annotations"):
        coco_fid.read_captions(tmp_path / "bad.zip")


@pytest.mark.parametrize("name", [*IMAGENET, "coco-fid"])
def test_pictures_are_not_shipped(name: str) -> None:
    with pytest.raises(OptionError, match="not part of this package"):
        registry.load_by_name("suites", name).images("train")
