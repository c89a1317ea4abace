"""Top-1: the count, its interval, the real pictures, runs that resume, and everything that reads
them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from harope_bench.cli import main
from harope_bench.core import array_archive, checksums, registry, state_dicts
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import OptionError, PlanMismatchError, SampleError, ShapeError
from harope_bench.core.schema import Measurement
from harope_bench.data.result_store import read_results, write_result
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.top1 import PLUGIN
from harope_bench.leaderboards.board import build_board, load_table
from harope_bench.models import register_checkpoint
from harope_bench.pipeline import classify, predictions
from harope_bench.pipeline.classify import RealImageSelection, make_classifier_plan
from harope_bench.pipeline.generate import make_plan
from harope_bench.pipeline.reproduce import reproduce
from harope_bench.pipeline.verify import verify
from harope_bench.statistics.intervals.paired_fractions import bonett_price_interval
from harope_bench.statistics.pairing import compare_results
from harope_bench.suites.real_images import resize_and_crop
from harope_bench.testing import check_evaluator

MICRO = {
    "hidden": 16,
    "depth": 1,
    "heads": 2,
    "patch": 7,
    "size": 28,
    "channels": 1,
    "classes": 10,
    "normalised": "half",
}
WIDE_FIELDS = {"hidden": 16, "depth": 1, "heads": 2, "patch": 16, "size": 32}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HAROPE_BENCH_IMAGENET_VAL", raising=False)
    return tmp_path / "home"


def register_classifier(
    folder: Path,
    name: str,
    config: dict[str, Any] = MICRO,
    seed: int = 0,
    encoding: str = "rope-axial",
    **fields: Any,
) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = registry.load_by_name("backbones", "deit").build(encoding, {}, config)
        state = {k: v + 0.3 * torch.randn_like(v) for k, v in network.state_dict().items()}
    save_file(state, folder / f"{name}.safetensors")
    facts_fields = {
        "encoding": encoding,
        "config": config,
        "suite": "digits-held-out",
        "scale": "micro",
        **fields,
    }
    register_checkpoint.register(name, folder / f"{name}.safetensors", facts_fields)
    return name


def observations(n: int = 40, failed: int = 0, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    ranked_value = np.argsort(rng.random((n, 10)), axis=1)[:, :5]
    return Features(np.arange(n), rng.integers(0, 10, n), {"ranked_classes": ranked_value}, failed)


# -------------------------------------------------------------------------------------------------
# rule


def test_top1_keeps_its_promises() -> None:
    check_evaluator("top1", observations(failed=2), {})


def test_top1_counts_first_answers_and_top5_any_of_five() -> None:
    ranked_values = np.array([[3, 1, 2, 4, 5], [1, 3, 2, 4, 5], [1, 2, 4, 5, 3], [1, 2, 4, 5, 6]])
    score = PLUGIN.evaluate(
        Features(np.arange(4), np.full(4, 3), {"ranked_classes": ranked_values}, failed=1), {}
    )
    top1, top5 = score.measurements
    assert (top1.value, top5.value) == (25.0, 75.0)
    assert (top1.n_asked, top1.n_scored, top1.n_failed) == (5, 4, 1)
    assert score.per_sample["top1"].tolist() == [100, 0, 0, 0] and score.per_sample[
        "top5"
    ].tolist() == [100, 100, 100, 0]
    assert score.warnings == ("top1: 1 of 5 images failed; accuracy is over the other 4",)


def test_top1_equals_sklearns_and_its_interval_is_wilsons() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(300, 10)), rng.integers(0, 10, 300)
    ranked_value = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    for m, k in zip(
        PLUGIN.evaluate(
            Features(np.arange(300), labels, {"ranked_classes": ranked_value}), {}
        ).measurements,
        (1, 5),
        strict=True,
    ):
        share = metrics.top_k_accuracy_score(labels, logits, k=k)
        assert m.value == pytest.approx(100 * share, abs=1e-12)
        z, p, n = 1.959963984540054, share, 300  # Wilson 1927, written out
        middle, half = (
            (p + z * z / 2 / n) / (1 + z * z / n),
            z / (1 + z * z / n) * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5,
        )
        assert (m.low, m.high) == (
            pytest.approx(100 * (middle - half)),
            pytest.approx(100 * (middle + half)),
        )


def test_top1_refuses_what_does_not_fit() -> None:
    features = observations()
    for bad_replace in (
        features._replace(labels=None),
        features._replace(arrays={}),
        features._replace(labels=np.zeros(3)),
    ):
        with pytest.raises(ShapeError, match="ranked classes of each of 40"):
            PLUGIN.evaluate(bad_replace, {})


# ---------------------------------------------------------------------------------------------
# pictures


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (50, 50), (97, 33), (224, 300)])
@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_pictures_are_cut_as_torchvision_cuts_them(size: tuple[int, int], ratio: float) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    resize = transforms.Resize(int(32 / ratio), interpolation=transforms.InterpolationMode.BICUBIC)
    expected = np.asarray(transforms.CenterCrop(32)(resize(image)))
    np.testing.assert_array_equal(resize_and_crop(image, 32, ratio), expected)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 class folders, one small picture each but for a few: grey, CMYK, a palette, a damaged
    file and an empty class.
    """
    folder, rng = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    for label in range(1000):
        below = folder / f"n{label + 1440000:08d}"
        below.mkdir()
        path = below / f"ILSVRC2012_val_{(label * 7) % 1000 + 1:08d}.JPEG"
        image = Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8))
        if label == 3:
            path.write_bytes(b"\xff\xd8 no picture")
        elif label != 4:
            image.convert({0: "L", 1: "CMYK"}.get(label, "RGB")).save(path, format="JPEG")
    return folder


def as_list(imagenet: Path, folder: Path) -> Path:
    """The other layout: the same files in one folder, with val.txt."""
    lines = []
    for label, kind in enumerate(sorted(imagenet.iterdir())):
        for path in kind.iterdir():
            os.link(path, folder / path.name)
            lines.append(f"{path.name} {label}")
    (folder / "val.txt").write_text("\n".join(sorted(lines)) + "\n")
    return folder


def test_both_layouts_are_the_same_pictures_in_the_same_order(
    imagenet: Path, tmp_path: Path
) -> None:
    suite = registry.load_by_name("suites", "imagenet-val")
    folders, flat_real_images = (
        suite.real_images(imagenet, None),
        suite.real_images(as_list(imagenet, tmp_path), None),
    )
    assert (
        folders.names == flat_real_images.names == sorted(folders.names)
        and folders.labels == flat_real_images.labels
    )
    assert len(folders.names) == 999 and not folders.is_complete
    assert folders.labels[:2] == [0, 143]  # file 2 is of the class with 7 label = 1 modulo 1,000


def test_an_environment_variable_names_the_folder(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_IMAGENET_VAL", str(imagenet))
    assert len(registry.load_by_name("suites", "imagenet-val").real_images(None, None).names) == 999


def check_refusal(folder: Path | None, message: str, labels: Path | None = None) -> None:
    with pytest.raises(OptionError, match=message) as excinfo:
        registry.load_by_name("suites", "imagenet-val").real_images(folder, labels)
    assert "\n" not in str(excinfo.value)


def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    check_refusal(None, "give --images FOLDER or set HAROPE_BENCH_IMAGENET_VAL")
    check_refusal(tmp_path / "none", "is no folder")
    check_refusal(tmp_path, "val.txt is missing")
    (tmp_path / "n01440764").mkdir()
    check_refusal(tmp_path, "has 1 class folders, wanted 1,000")
    (tmp_path / "tench").mkdir()
    check_refusal(tmp_path, "has the folder tench, wanted only wnids")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("490\n361\n", "counts classes in another order"),
        ("a.JPEG 1000\n", "index below 1,000"),
        ("../a.JPEG 3\n", "wanted 'name index'"),
        ("a.JPEG\n", "wanted 'name index'"),
        ("\n", "has no line"),
        ("a.JPEG 3\nb.JPEG 3\na.JPEG 4\n", "lists a.JPEG more than once"),
        ("a.JPEG 3\n", "has none of the 1 images"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "list.txt").write_text(text)
    check_refusal(tmp_path, message, tmp_path / "list.txt")


# --------------------------------------------------------------------------------------------------
# runs


def test_a_classifier_is_scored_on_pictures_and_damaged_ones_are_counted(
    imagenet: Path, tmp_path: Path
) -> None:
    register_classifier(tmp_path, "wide", WIDE_FIELDS, suite="imagenet-val", scale="paper")
    plan = make_classifier_plan("wide", None, {"resolution": 32})
    (scored,) = classify.classify(plan, tmp_path / "run", RealImageSelection(folder=imagenet))
    top1 = scored.result.find_measurement("top1")
    assert top1 is not None and (top1.n_asked, top1.n_scored, top1.n_failed) == (999, 998, 1)
    assert (
        scored.result.judge.judge_class == "substitute"
    )  # 999 pictures are not the validation set
    damaged_first_item = next(
        i
        for i, name in enumerate(
            registry.load_by_name("suites", "imagenet-val").real_images(imagenet, None).names
        )
        if name.endswith("0022.JPEG")
    )
    assert scored.result.warning_texts[0].startswith(
        f"image {damaged_first_item} failed: ILSVRC2012_val_00000022.JPEG is not a readable image"
    )
    assert verify(tmp_path / "run", 3, 0, images=imagenet).altered_messages == []


def test_a_list_saved_with_a_byte_order_mark_loses_no_picture_and_missing_ones_leave_no_number(
    tmp_path: Path,
) -> None:
    """Read as plain UTF-8 the mark is part of the first name, whose picture is then missing."""
    register_classifier(tmp_path, "wide", WIDE_FIELDS, suite="imagenet-val", scale="paper")
    plan, folder = make_classifier_plan("wide", None, {"resolution": 32}), tmp_path / "flat"
    folder.mkdir()
    for k in range(6):
        Image.fromarray(np.full((36, 36, 3), 40 * k, dtype=np.uint8)).save(folder / f"{k}.png")
    lines = "".join(f"{k}.png {k}\n" for k in range(6))
    (folder / "val.txt").write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    (whole_classify,) = classify.classify(
        plan, tmp_path / "whole", RealImageSelection(folder=folder)
    )
    top1 = whole_classify.result.find_measurement("top1")
    assert (
        top1 is not None
        and (top1.n_asked, top1.n_scored, top1.n_failed) == (6, 6, 0)
        and top1.value is not None
    )

    (folder / "0.png").unlink()
    (part,) = classify.classify(plan, tmp_path / "part", RealImageSelection(folder=folder))
    for metric in part.result.measurements:
        assert (metric.value, metric.low, metric.n_asked, metric.n_scored, metric.n_failed) == (
            None,
            None,
            6,
            5,
            1,
        )
        assert metric.reason is not None and metric.reason.startswith(
            "1 images are missing, damaged or without a prediction; fix"
        )
    assert verify(tmp_path / "part", 0, 0, images=folder).altered_messages == []
    (lenient,) = classify.classify(
        plan, tmp_path / "part", RealImageSelection(folder=folder, is_lenient=True)
    )
    top1 = lenient.result.find_measurement("top1")
    assert (
        top1 is not None and top1.value is not None and lenient.result.is_lenient and lenient.is_new
    )
    assert verify(tmp_path / "part", 0, 0, images=folder).altered_messages == []


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "empty": lambda path: path.write_bytes(b""),
    "of a format that is not read": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_listed_picture_that_cannot_be_read_leaves_no_number(damage: str, tmp_path: Path) -> None:
    """A top-1 over the rest is that of another set of pictures, and looks like the benchmark's."""
    register_classifier(tmp_path, "wide", WIDE_FIELDS, suite="imagenet-val", scale="paper")
    plan, folder = make_classifier_plan("wide", None, {"resolution": 32}), tmp_path / "flat"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(np.full((36, 36, 3), 40 * k, dtype=np.uint8)).save(folder / f"{k}.png")
    (folder / "val.txt").write_text("".join(f"{k}.png {k}\n" for k in range(4)))
    DAMAGES[damage](folder / "2.png")

    (part,) = classify.classify(plan, tmp_path / "run", RealImageSelection(folder=folder))
    assert [(m.value, m.low, m.n_scored, m.n_failed) for m in part.result.measurements] == [
        (None, None, 3, 1)
    ] * 2
    assert any(line.startswith("image 2 failed: ") for line in part.result.warning_texts)
    assert verify(tmp_path / "run", 0, 0, images=folder).altered_messages == []
    (lenient,) = classify.classify(
        plan, tmp_path / "run", RealImageSelection(folder=folder, is_lenient=True)
    )
    assert (
        all(m.value is not None for m in lenient.result.measurements) and lenient.result.is_lenient
    )


def test_a_number_over_the_rest_that_a_version_before_kept_is_not_up_to_date(
    tmp_path: Path,
) -> None:
    register_classifier(tmp_path, "wide", WIDE_FIELDS, suite="imagenet-val", scale="paper")
    plan, folder = make_classifier_plan("wide", None, {"resolution": 32}), tmp_path / "flat"
    folder.mkdir()
    Image.fromarray(np.zeros((36, 36, 3), dtype=np.uint8)).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "val.txt").write_text("0.png 0\n1.png 1\n")
    (lenient,) = classify.classify(
        plan, tmp_path / "run", RealImageSelection(folder=folder, is_lenient=True)
    )
    old_result = lenient.result.model_copy(
        update={"warnings": lenient.result.warnings[1:], "is_lenient": False}
    )
    write_result(
        lenient.path, old_result, array_archive.load_arrays(lenient.path.with_suffix(".npz"))
    )
    assert not old_result.is_lenient and old_result.measurements[0].value is not None
    (again,) = classify.classify(plan, tmp_path / "run", RealImageSelection(folder=folder))
    assert again.is_new and again.result.measurements[0].value is None


def test_predictions_are_those_of_the_network_one_by_one(tmp_path: Path) -> None:
    """Against a loop without shards or tiles."""
    plan = make_classifier_plan(register_classifier(tmp_path, "tiny"), None, {})
    (scored,) = classify.classify(plan, tmp_path / "run", RealImageSelection(count=300))
    network = (
        registry.load_by_name("backbones", "deit")
        .load(plan.checkpoint, state_dicts.load_weights(tmp_path / "tiny.safetensors"))
        .eval()
    )
    images, labels = registry.load_by_name("suites", "digits").images("held-out")
    x = torch.from_numpy(images[:300]).float()[:, None] / 127.5 - 1
    with torch.inference_mode():
        predicted_argmax = network(x).argmax(1).numpy()
    hits = predicted_argmax == labels[:300]
    rows = load_arrays(tmp_path / "run/results/top1.npz")
    assert rows["top1"].tolist() == (100 * hits).tolist()
    top1 = scored.result.find_measurement("top1")
    assert (
        top1 is not None
        and top1.value == pytest.approx(100 * hits.mean(), abs=1e-12)
        and 0 < hits.sum() < 300
    )


def test_a_killed_run_keeps_its_shards_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_classifier_plan(register_classifier(tmp_path, "tiny"), None, {})
    classify.classify(plan, tmp_path / "straight", RealImageSelection())
    classify_images, calls = predictions.classify_images, []

    def dies(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return classify_images(*arguments)

    monkeypatch.setattr(predictions, "classify_images", dies)
    with pytest.raises(KeyboardInterrupt):
        classify.classify(plan, tmp_path / "killed", RealImageSelection())
    (scored,) = classify.classify(plan, tmp_path / "killed", RealImageSelection())
    assert len(calls) == 5  # two shards, the kill, and the two that were missing
    assert scored.is_new
    for path in sorted((tmp_path / "straight").rglob("*.npz")):
        assert (
            path.read_bytes()
            == (tmp_path / "killed" / path.relative_to(tmp_path / "straight")).read_bytes()
        )
    (again,) = classify.classify(plan, tmp_path / "killed", RealImageSelection())
    assert not again.is_new and len(calls) == 5


@pytest.mark.parametrize(
    "expected",
    [
        RealImageSelection(count=60, crop_ratio=0.5),
        RealImageSelection(count=20),
        RealImageSelection(count=60, crop_ratio=0.9),
    ],
)
def test_a_command_that_is_refused_changes_no_run(
    expected: RealImageSelection, tmp_path: Path
) -> None:
    """Else the pictures that it asked for are missing from then on, and the run is unfinished or
    altered.
    """
    plan = make_classifier_plan(register_classifier(tmp_path, "tiny"), None, {})
    classify.classify(plan, tmp_path / "run", RealImageSelection(count=30))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises((PlanMismatchError, OptionError)):
        classify.classify(plan, tmp_path / "run", expected)
    assert {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    } == before
    assert verify(tmp_path / "run", 0).status == "ok"


def test_a_folder_takes_no_other_crop_count_or_pictures(imagenet: Path, tmp_path: Path) -> None:
    register_classifier(tmp_path, "wide", WIDE_FIELDS, suite="imagenet-val", scale="paper")
    plan = make_classifier_plan("wide", None, {"resolution": 32})
    classify.classify(plan, tmp_path / "run", RealImageSelection(folder=imagenet, count=50))
    with pytest.raises(PlanMismatchError, match="another crop"):
        classify.classify(
            plan, tmp_path / "run", RealImageSelection(folder=imagenet, count=50, crop_ratio=0.875)
        )
    with pytest.raises(OptionError, match="--count 20 would score a part"):
        classify.classify(plan, tmp_path / "run", RealImageSelection(folder=imagenet, count=20))
    with pytest.raises(OptionError, match="999 images here, --count asks for 2,000"):
        classify.classify(plan, tmp_path / "run", RealImageSelection(folder=imagenet, count=2000))
    with pytest.raises(PlanMismatchError, match="resolution"):
        classify.classify(
            make_classifier_plan("wide", None, {"resolution": 48}),
            tmp_path / "run",
            RealImageSelection(folder=imagenet),
        )
    with pytest.raises(SampleError, match="run eval without --rescore"):
        classify.classify(
            plan,
            tmp_path / "fresh",
            RealImageSelection(folder=imagenet, count=50, is_rescored=True),
        )


def test_what_does_not_go_together_is_refused_in_one_line(tmp_path: Path) -> None:
    register_classifier(tmp_path, "tiny")
    for call, message in (
        (
            lambda: make_classifier_plan("digits-harope", "digits-held-out", {}),
            "is no classifier, but suite digits-held-out",
        ),
        (
            lambda: make_classifier_plan("tiny", "digits", {}),
            "is a classifier of 10 classes and cannot generate",
        ),
        (
            lambda: make_classifier_plan("tiny", "imagenet-val", {}),
            "classifies images of 10 classes, but suite imagenet-val",
        ),
        (
            lambda: make_classifier_plan("tiny", None, {"steps": 3}),
            "steps does not apply to checkpoint tiny",
        ),
        (
            lambda: make_classifier_plan("tiny", None, {"resolution": 30}),
            "does not divide into patches of 7",
        ),
        (lambda: make_plan("tiny", "digits", {}), "cannot generate images"),
        (lambda: make_plan("digits-harope", "digits-held-out", {}), "is no classifier"),
        (
            lambda: classify.classify(
                make_classifier_plan("tiny", None, {}),
                tmp_path / "r",
                RealImageSelection(),
                ["fidelity"],
            ),
            "scored by top1",
        ),
        (
            lambda: classify.classify(
                make_classifier_plan("tiny", None, {}),
                tmp_path / "r",
                RealImageSelection(folder=tmp_path),
            ),
            "has its own images; leave --images and --ground-truth out",
        ),
    ):
        with pytest.raises(OptionError, match=message) as excinfo:
            call()
        assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("text", ["prediction", "row", "measurement", "label"])
def test_verify_finds_what_was_altered(tmp_path: Path, text: str) -> None:
    plan = make_classifier_plan(register_classifier(tmp_path, "tiny"), None, {})
    run = tmp_path / "run"
    classify.classify(plan, run, RealImageSelection(count=60))
    assert verify(run, 2, 0).altered_messages == []
    shard, result = run / "predictions/tiny/00000.npz", run / "results/top1.json"
    target = {"prediction": shard, "row": run / "results/top1.npz"}.get(text, result)
    if target is result:
        document = json.loads(result.read_text())
        if text == "measurement":
            document["measurements"][0]["value"] += 0.5
        else:
            document["reference_sha256"] = "0" * 64
        result.write_text(json.dumps(document))
    else:
        arrays = load_arrays(target)
        name = "ranked_classes" if text == "prediction" else "top1"
        arrays[name] = arrays[name][::-1].copy()
        np.savez(target, **arrays)
    assert verify(run, 0, 0).altered_messages


# ----------------------------------------------------------------------------------- those who read
# results


def test_two_classifiers_are_compared_picture_by_picture(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        classify.classify(
            make_classifier_plan(register_classifier(tmp_path, name, seed=seed), None, {}),
            tmp_path / "runs" / name,
            RealImageSelection(),
        )
    old_result, new_result = read_results(tmp_path / "runs")
    results = compare_results("top1", "higher", old_result, new_result)
    rows = [
        load_arrays(item.path.with_suffix(".npz"))["top1"] > 0 for item in (old_result, new_result)
    ]
    assert (results.is_paired, results.test) == (True, "McNemar, exact")
    assert (results.wins, results.losses) == (
        int((rows[1] & ~rows[0]).sum()),
        int((rows[0] & ~rows[1]).sum()),
    )
    assert results.delta == pytest.approx(100 * (rows[1].mean() - rows[0].mean()))
    around = bonett_price_interval(
        results.wins or 0, results.losses or 0, results.ties or 0, 1.959964
    )
    assert results.se == pytest.approx(100 * around.se)  # in percent, as the values are
    assert results.reason == "paired by image"


def test_a_run_of_the_papers_size_finds_its_row(tmp_path: Path) -> None:
    """Facts alone: a network of DeiT-B's width on the paper's suite stands in the row of its
    encoding.
    """
    register_classifier(tmp_path, "tiny")
    classify.classify(
        make_classifier_plan("tiny", None, {}), tmp_path / "runs/a", RealImageSelection(count=50)
    )
    path = tmp_path / "runs/a/results/top1.json"
    document = json.loads(path.read_text())
    document["scale"] = document["plan"]["checkpoint"]["scale"] = "paper"
    document["judge"]["judge_class"] = "official"
    document["plan"]["suite"], document["plan"]["checkpoint"]["config"]["hidden"] = (
        "imagenet-val",
        1024,
    )
    path.write_text(json.dumps(document))
    checksums.record_file_hashes(path.parent, [path.name])
    board = build_board(load_table("1"), read_results(tmp_path / "runs"))
    cells = {key for key, cell in board.cells.items() if cell.measured is not None}
    assert cells == {("l-axial", "top1")}
    assert (
        str(board.cells["l-axial", "top1"].verdict) == "not comparable (50 against 50,000 images)"
    )


def test_table_1_is_reproduced_at_micro_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.pipeline import reproduce as conductor

    shipped_names = set(registry.list_names("checkpoints"))
    rows = [row.micro_checkpoint for row in load_table("1").rows]
    assert [name in shipped_names for name in rows] == [True] * 5 + [
        False
    ] * 5  # the Large rows have no small stand-in
    process = reproduce(["1"], "micro", 100, tmp_path / "out", "cpu", 0)
    assert (process.n_rows, process.n_generated, process.n_scored) == (5, 0, 5)
    board = build_board(load_table("1"), read_results(tmp_path / "out"))
    assert (
        board.scale == "micro"
        and sum(cell.measured is not None for cell in board.cells.values()) == 5
    )
    assert {str(cell.verdict) for cell in board.cells.values()} == {
        "not comparable (micro)",
        "None",
    }
    assert conductor.reproduce(["1"], "micro", 100, tmp_path / "out", "cpu", 0).n_scored == 0
    assert "DeiT-Large" in (tmp_path / "out/table1.md").read_text()
    assert (tmp_path / "out/report.html").is_file()


def run_verb(*arguments: Any, exit_code: int = 0) -> Any:
    command_result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert command_result.exit_code == exit_code, command_result.output + command_result.stderr
    return command_result


def test_the_verbs_name_verify_and_report_a_classifiers_run(tmp_path: Path) -> None:
    register_classifier(tmp_path, "tiny")
    out = run_verb(
        "eval",
        "tiny",
        "--suite",
        "digits-held-out",
        "--with",
        "top1",
        "--count",
        60,
        "--out",
        tmp_path / "runs/r",
    ).stdout
    assert "top1" in out and "60 of 60 images, Wilson" in out
    again = json.loads(run_verb("eval", tmp_path / "runs/r", "--json").stdout)
    assert [r["is_new"] for r in again["results"]] == [False]
    assert (
        Measurement.model_validate(again["results"][0]["result"]["measurements"][0]).interval
        == "Wilson"
    )
    assert (
        "2 images classified again" in run_verb("verify", tmp_path / "runs/r", "--redraw", 2).stdout
    )
    assert (
        "is a classifier and cannot generate images"
        in run_verb("generate", "tiny", "--out", tmp_path / "x", exit_code=1).stderr
    )
    assert (
        "--steps"
        in run_verb("eval", "tiny", "--steps", 3, "--out", tmp_path / "y", exit_code=1).stderr
    )
    assert (
        "--reference does not apply"
        in run_verb(
            "eval", "tiny", "--reference", "a.npz", "--out", tmp_path / "y", exit_code=1
        ).stderr
    )
    assert (
        "--images does not apply"
        in run_verb(
            "eval", "digits-ape", "--images", tmp_path, "--out", tmp_path / "y", exit_code=1
        ).stderr
    )
    run_verb("report", "--runs", tmp_path / "runs", "--out", tmp_path / "report.html")
