"""A warning of a result states a cause that was established, and no cause is missed for want of a
look.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clouds import cloud, make_features, peaked_logits, reference_of, value_of
from PIL import Image

from harope_bench.data.image_folder import list_images
from harope_bench.evaluators.base import EvaluatorOutput, Features
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.inception_score import inception_score, order_effect
from harope_bench.metrics.row_checks import repeat_counts

COPIES = "each repeated 3 times or more"


def adm(generated_values: np.ndarray, real: np.ndarray) -> EvaluatorOutput:
    return PLUGIN.with_profile("adm").evaluate(make_features(generated_values), reference_of(real))


def radii(score: EvaluatorOutput) -> list[str]:
    return [w for w in score.warnings if "zero radius" in w]


# ------------------------------------------------------------------------------------ balls of
# radius 0


def test_features_that_float16_cannot_tell_apart_are_not_called_copies() -> None:
    generated_cloud, real = cloud(0, 80, 8, scale=1e-5), cloud(1, 90, 8, scale=1e-5)
    radii_result = radii(adm(generated_cloud, real))
    assert radii_result == [
        f"{metric}: zero radius around {n} of {n} {of_set}, whose features differ: float16 (float32"
        " where that overflows) rounds their distances to 0"
        for metric, n, of_set in (
            ("precision", 90, "reference images"),
            ("recall", 80, "samples"),
        )
    ]
    assert (
        radii(PLUGIN.evaluate(make_features(generated_cloud), reference_of(real))) == []
    )  # adm-exact: float64 tells them apart


def test_close_features_far_from_zero_are_not_called_copies() -> None:
    """Not small themselves: their differences are below float16's step at 100."""
    generated_cloud, real = (
        cloud(2, 60, 4, shift=20.0, scale=1e-4),
        cloud(3, 70, 4, shift=20.0, scale=1e-4),
    )
    radii_result = radii(adm(generated_cloud, real))
    assert radii_result and not any(COPIES in w for w in radii_result)


def test_overflowing_features_whose_distances_cancel_are_not_called_copies() -> None:
    """Beyond float16 ADM's float32 takes over, and squares of 1e6 swallow differences of 1."""
    generated_cloud, real = cloud(2, 60, 4, shift=1e6), cloud(3, 70, 4, shift=1e6)
    radii_result = radii(adm(generated_cloud, real))
    assert radii_result and all(
        "rounds their distances to 0" in w and COPIES not in w for w in radii_result
    )


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_true_copies_and_rounded_distances_are_counted_apart(scale: float) -> None:
    base = cloud(4, 50, 8, scale=scale)
    generated_values = np.concatenate([base[:5]] * 4 + [base[5:]])
    values = [w for w in radii(adm(generated_values, cloud(5, 90, 8))) if w.startswith("recall")]
    assert values[0] == f"recall: zero radius around 20 of 65 samples, {COPIES}"
    assert len(values) == (1 if scale == 1 else 2)
    if scale != 1:
        assert values[1].startswith(
            "recall: zero radius around 45 of 65 samples, whose features differ"
        )


def test_two_equal_rows_are_no_cause_of_a_radius_of_zero() -> None:
    base = cloud(6, 40, 8, scale=1e-5)
    (result_value,) = [
        w
        for w in radii(adm(np.concatenate([base, base]), cloud(7, 90, 8)))
        if w.startswith("recall")
    ]
    assert "around 80 of 80 samples, whose features differ" in result_value


def test_rows_are_equal_by_value() -> None:
    rows = np.array([[0.0, 1.0], [-0.0, 1.0], [1e-30, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert repeat_counts(rows).tolist() == [3, 3, 1, 3]


def test_equal_features_say_nothing_of_the_images() -> None:
    score = PLUGIN.evaluate(
        make_features(np.ones((40, 4), dtype=np.float32)), reference_of(cloud(8, 90, 4))
    )
    message = " | ".join(score.warnings)
    assert (
        "fid: constant features, those of every sample are the same" in message
        and "constant images" not in message
    )
    assert (
        "fidelity: duplicates in features, 39 of 40 samples repeat those of another one exactly"
        in message
    )


# -------------------------------------------------------------------------------- the order of the
# images


def scored(logits: np.ndarray, labels: np.ndarray | None) -> EvaluatorOutput:
    return PLUGIN.evaluate(Features(np.arange(len(logits)), labels, {"logits": logits}), {})


def orders(score: EvaluatorOutput) -> list[str]:
    return [w for w in score.warnings if w.startswith("is: ") and "order" in w]


def shuffled_score(logits: np.ndarray, block: int = 5000) -> float:
    """An independent random order, by another generator than the evaluator's."""
    return inception_score(logits[np.random.RandomState(123).permutation(len(logits))], block).value


# Peaks so low that sorting costs a few percent, below what was once warned of.
@pytest.mark.parametrize(
    ("classes", "peak", "with_labels"),
    [(10, 1.9, True), (10, 1.9, False), (100, 3.2, False), (10, 1.0, True)],
)
def test_sorted_labels_are_warned_of_with_the_score_of_random_orders(
    classes: int, peak: float, with_labels: bool
) -> None:
    labels = np.sort(np.arange(10_000) % classes)
    logits = peaked_logits(labels, classes, peak=peak)
    score, usual_shuffled_score = (
        scored(logits, labels if with_labels else None),
        shuffled_score(logits),
    )
    lost_count = 1 - value_of(score, "is") / usual_shuffled_score
    assert 0.004 < lost_count < 0.06
    (order,) = orders(score)
    assert (
        f"blocks of 5,000 hold different {'labels' if with_labels else 'predicted classes'}"
        in order
    )
    number = float(order.split("random orders give ")[1].split()[0])
    assert number == pytest.approx(usual_shuffled_score, rel=0.002)
    assert float(order.split("about ")[1].split("%")[0]) == pytest.approx(100 * lost_count, abs=0.3)


def test_classes_in_any_sequence_of_runs_are_sorted_too() -> None:
    labels = np.random.default_rng(0).permutation(10)[np.arange(20_000) // 2000]
    score = scored(peaked_logits(labels, 10, peak=8.0), labels)
    assert orders(score)[0].startswith(
        "is: class-sorted order, blocks of 5,000 hold different labels"
    )
    assert orders(scored(peaked_logits(labels, 10, peak=8.0), None))[0].startswith(
        "is: class-sorted order, blocks of 5,000 hold different pred"
    )


def test_a_drift_of_the_samples_is_not_called_sorted_by_class() -> None:
    """Labels are mixed, but the second half shows class 0 whatever it was asked for."""
    labels = np.random.default_rng(1).integers(0, 10, 10_000)
    shown_values = np.where(
        (np.arange(10_000) >= 5000) & (np.random.default_rng(2).random(10_000) < 0.5), 0, labels
    )
    (order,) = orders(scored(peaked_logits(shown_values, 10, peak=9.0), labels))
    assert order.startswith("is: uneven order, blocks of 5,000 hold different predicted classes")


@pytest.mark.parametrize(
    ("images", "classes", "peak"),
    [(10_000, 10, 3.0), (10_000, 2, 4.0), (5100, 10, 2.0), (11_000, 300, 9.0)],
)
def test_random_orders_raise_no_warning(images: int, classes: int, peak: float) -> None:
    for seed in range(1 + (classes < 99)):
        labels = np.random.default_rng(seed).integers(0, classes, images)
        logits = peaked_logits(labels, classes, seed, peak)
        assert orders(scored(logits, labels)) == [] == orders(scored(logits, None))
        assert (
            orders(
                scored(
                    peaked_logits(np.arange(images) % classes, classes, seed, peak),
                    np.arange(images) % classes,
                )
            )
            == []
        )


def test_sorted_labels_of_one_block_change_nothing() -> None:
    labels = np.sort(np.arange(5000) % 10)
    logits = peaked_logits(labels, 10)
    assert (
        order_effect(inception_score(logits), logits, labels) is None
        and orders(scored(logits, labels)) == []
    )


def test_the_order_is_nothing_to_shuffled_splits() -> None:
    labels = np.sort(np.arange(6000) % 10)
    score = PLUGIN.with_profile("torch-fidelity").evaluate(
        Features(np.arange(6000), labels, {"logits": peaked_logits(labels, 10)}), {}
    )
    assert orders(score) == []


# --------------------------------------------------------------------------------------------
# others


def test_a_lossless_webp_is_not_called_lossy(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    image.save(tmp_path / "0.webp", lossless=True)
    image.save(tmp_path / "1.webp", lossless=True, icc_profile=b"x" * 301)
    assert list_images(tmp_path).warnings == ()
    image.save(tmp_path / "2.webp", quality=60)
    image.save(tmp_path / "3.jpg")
    (tmp_path / "4.webp").write_bytes(b"no picture")
    assert list_images(tmp_path).warnings == (
        "3 of 5 images have a lossy format, which changes FID",
    )
