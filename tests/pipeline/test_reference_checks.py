"""What is no mean and covariance, or no rows of features, is rejected as a reference before
anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from clouds import cloud, make_features, reference_of, value_of

from harope_bench.cli import main
from harope_bench.core.errors import BenchError, InvalidMomentsError, SampleError, ShapeError
from harope_bench.data.image_io import encode_png
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.frechet import covariance_root, frechet_distance
from harope_bench.metrics.moment_checks import moments_complaint
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.pipeline.reference_stats import (
    ReferenceExtraction,
    open_reference,
    reference_origin,
)
from harope_bench.suites.digits import PLUGIN as DIGITS

WIDTH, SPATIAL = 64, 196  # of judge digits-net
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def sound() -> Arrays:
    """Statistics as a file of other people holds them: float64, without a judge's name."""
    real, spatial = cloud(1, 400, WIDTH), cloud(2, 400, SPATIAL)
    (mu, sigma), (mu_s, sigma_s) = (
        Moments.from_rows(real).to_gaussian(),
        Moments.from_rows(spatial).to_gaussian(),
    )
    return {"mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s, "features": real}


def asymmetric(matrix: np.ndarray) -> np.ndarray:
    return np.triu(matrix) + 3 * np.tril(matrix, -1)


def with_a_hole(array: np.ndarray, value: float = np.nan) -> np.ndarray:
    array = array.copy()
    array.flat[array.size // 2] = value
    return array


def indefinite(matrix: np.ndarray) -> np.ndarray:
    """One eigenvalue of -1e-4 of the largest, which no look at the diagonal shows."""
    values, vectors = np.linalg.eigh(matrix)
    values[0] = -1e-4 * values[-1]
    changed_vectors = (vectors * values) @ vectors.T
    assert np.diag(changed_vectors).min() > 0
    return (changed_vectors + changed_vectors.T) / 2


Change = Callable[[Arrays], Mapping[str, object]]
MOMENTS: dict[str, tuple[Change, str]] = {
    "asymmetric": (
        lambda a: {"sigma": asymmetric(a["sigma"])},
        r"entries \(i, j\) and \(j, i\) differ",
    ),
    "negative": (lambda a: {"sigma": -a["sigma"]}, "an eigenvalue is -"),
    "complex-mu": (
        lambda a: {"mu": a["mu"] + 1j},
        "dtype complex128 and float64, wanted real float32 or float64",
    ),
    "huge": (lambda a: {"sigma": a["sigma"] * 1e300}, "hold values up to"),
    "nan-mu": (lambda a: {"mu": with_a_hole(a["mu"])}, "are not finite"),
    # siblings: other arrays, kinds and shapes
    "asymmetric-spatial": (lambda a: {"sigma_s": asymmetric(a["sigma_s"])}, "mu_s and sigma_s"),
    "indefinite": (lambda a: {"sigma": indefinite(a["sigma"])}, "an eigenvalue is -"),
    "negative-variance": (
        lambda a: {"sigma": a["sigma"] - 9 * np.diag(np.eye(WIDTH)[5])},
        "an eigenvalue is -",
    ),
    "cross-terms": (
        lambda a: {"sigma": a["sigma"] + 50 * (1 - np.eye(WIDTH))},
        "an eigenvalue is -",
    ),
    "correlation-without-variance": (
        lambda a: {"sigma": a["sigma"] * (1 - np.eye(WIDTH))},
        "an eigenvalue is -",
    ),
    "negative-spatial": (lambda a: {"sigma_s": -a["sigma_s"]}, "an eigenvalue is -"),
    "complex-sigma": (lambda a: {"sigma": a["sigma"].astype(np.complex64)}, "complex64"),
    "integers": (lambda a: {"sigma": np.eye(WIDTH, dtype=np.int64)}, "int64"),
    "booleans": (lambda a: {"sigma": np.eye(WIDTH, dtype=bool)}, "bool"),
    "text": (lambda a: {"mu": a["mu"].astype(str)}, "dtype <U"),
    "half": (lambda a: {"sigma": a["sigma"].astype(np.float16)}, "float16"),
    "infinite": (lambda a: {"sigma": with_a_hole(a["sigma"], np.inf)}, "are not finite"),
    "nan-spatial": (lambda a: {"sigma_s": with_a_hole(a["sigma_s"])}, "are not finite"),
    "huge-mu": (lambda a: {"mu": a["mu"] + 1e200}, "hold values up to"),
    "huge-negative-mu": (lambda a: {"mu": a["mu"] - 1e200}, "hold values up to"),
    "diagonal": (
        lambda a: {"sigma": np.diag(a["sigma"])},
        r"shapes \(64,\) and \(64,\), wanted \(D,\) and \(D, D\)",
    ),
    "row": (lambda a: {"mu": a["mu"][None]}, r"shapes \(1, 64\) and"),
    "number": (lambda a: {"mu": np.float64(1.0)}, r"shapes \(\) and"),
    "empty": (lambda a: {"mu": a["mu"][:0], "sigma": a["sigma"][:0, :0]}, r"shapes \(0,\)"),
    "narrow-sigma": (lambda a: {"sigma": a["sigma"][:, :9]}, r"\(64, 9\)"),
}
ROWS: dict[str, tuple[Change, str]] = {
    "integer-rows": (
        lambda a: {"features": a["features"].astype(np.int32)},
        "dtype int32, wanted real floating-point",
    ),
    "complex-rows": (lambda a: {"features": a["features"] + 1j}, "complex"),
    "boolean-rows": (lambda a: {"features": a["features"] > 0}, "dtype bool"),
    "no-rows": (lambda a: {"features": a["features"][:0]}, "of no image"),
    "one-axis": (lambda a: {"features": a["features"][0]}, r"shape \(64,\), wanted rows"),
    "three-axes": (lambda a: {"features": a["features"][None]}, r"wanted rows"),
    "nan-row": (lambda a: {"features": with_a_hole(a["features"])}, "not finite, first in row 200"),
    "huge-row": (
        lambda a: {"features": with_a_hole(a["features"].astype(np.float64), 1e200)},
        "not finite, first in row 200",
    ),
}
WIDTHS: dict[str, tuple[Change, str]] = {
    "moments": (
        lambda a: {"mu": a["mu"][:9], "sigma": a["sigma"][:9, :9]},
        "width 9, judge digits-net gives 64",
    ),
    "spatial": (
        lambda a: {"mu_s": a["mu"], "sigma_s": a["sigma"]},
        "width 64, judge digits-net gives 196",
    ),
    "rows": (lambda a: {"features": a["features"][:, :9]}, "width 9, judge digits-net gives 64"),
}


def write(path: Path, arrays: Mapping[str, object]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def reference_arrays(path: Path) -> Mapping[str, np.ndarray]:
    return open_reference(DIGITS, "digits-net", path, ReferenceExtraction(is_rescored=True)).arrays


@pytest.mark.parametrize("case", MOMENTS)
def test_what_is_no_mean_and_covariance_is_no_reference(
    case: str, sound: Arrays, tmp_path: Path
) -> None:
    change, words = MOMENTS[case]
    with pytest.raises(InvalidMomentsError, match=words) as excinfo:
        reference_arrays(write(tmp_path / "bad.npz", {**sound, **change(sound)}))
    assert (
        "\n" not in str(excinfo.value)
        and "bad.npz" in str(excinfo.value)
        and "harope-bench reference" in str(excinfo.value)
    )


@pytest.mark.parametrize("case", ROWS)
def test_what_is_no_rows_of_features_is_no_reference(
    case: str, sound: Arrays, tmp_path: Path
) -> None:
    change, words = ROWS[case]
    with pytest.raises(SampleError, match=words):
        reference_arrays(write(tmp_path / "bad.npz", {**sound, **change(sound)}))


@pytest.mark.parametrize("case", WIDTHS)
def test_a_reference_of_another_width_is_of_another_judge(
    case: str, sound: Arrays, tmp_path: Path
) -> None:
    change, words = WIDTHS[case]
    with pytest.raises(ShapeError, match=words):
        reference_arrays(write(tmp_path / "bad.npz", {**sound, **change(sound)}))


@pytest.mark.parametrize("missing", ["mu", "sigma", "mu_s", "sigma_s"])
def test_half_a_pair_of_statistics_is_an_error(missing: str, sound: Arrays, tmp_path: Path) -> None:
    arrays = {name: array for name, array in sound.items() if name != missing}
    with pytest.raises(BenchError, match=f"lacks {missing}|wanted mu and sigma or arr_0"):
        reference_arrays(write(tmp_path / "half.npz", arrays))


def test_objects_are_never_unpickled(sound: Arrays, tmp_path: Path) -> None:
    path = write(tmp_path / "objects.npz", {**sound, "mu": sound["mu"].astype(object)})
    with pytest.raises(BenchError, match="mu cannot be read"):
        reference_arrays(path)


@pytest.mark.parametrize("profile", ["adm", "torch-fidelity", "clean", "fd-dinov2"])
@pytest.mark.parametrize(
    "case", ["asymmetric", "negative", "complex-mu", "huge", "nan-mu", "indefinite", "half"]
)
def test_the_evaluator_itself_scores_no_such_reference(
    case: str, profile: str, sound: Arrays
) -> None:
    change, words = MOMENTS[case]
    features = make_features(cloud(5, 90, WIDTH), spatial=cloud(6, 90, SPATIAL))
    with pytest.raises(InvalidMomentsError, match=words):
        PLUGIN.with_profile(profile).evaluate(features, {**sound, **change(sound)})


@pytest.mark.parametrize("profile", ["clean", "cmmd", "torch-fidelity"])
def test_kernel_distances_take_no_rows_of_another_kind(profile: str, sound: Arrays) -> None:
    for case in ("integer-rows", "complex-rows", "nan-row"):
        with pytest.raises(SampleError):
            PLUGIN.with_profile(profile).evaluate(
                make_features(cloud(5, 90, WIDTH)), {**sound, **ROWS[case][0](sound)}
            )


def test_nothing_is_written_before_a_reference_is_rejected(sound: Arrays, tmp_path: Path) -> None:
    generated_path = tmp_path / "drawn"
    generated_path.mkdir()
    for i, image in enumerate(DIGITS.images("held-out")[0][:5]):
        (generated_path / f"{i}.png").write_bytes(encode_png(np.repeat(image[..., None], 3, -1)))
    cases = {name: MOMENTS[name] for name in ("asymmetric", "negative", "complex-mu", "huge")}
    for case, (change, _) in {
        **cases,
        "nan-row": ROWS["nan-row"],
        "width": WIDTHS["spatial"],
    }.items():
        path = write(tmp_path / "bad.npz", {**sound, **change(sound)})
        words = [
            "eval",
            str(generated_path),
            "--suite",
            "digits",
            "--reference",
            str(path),
            "--out",
            str(tmp_path / "out"),
        ]
        command_result = CliRunner().invoke(main, words)
        assert command_result.exit_code == 1 and len(command_result.output.splitlines()) == 1, (
            case,
            command_result.output,
        )
        assert not (tmp_path / "out").exists(), case


def test_sound_references_of_other_programs_are_taken(sound: Arrays, tmp_path: Path) -> None:
    """float32 statistics, a covariance of few images, dead columns, and rounding in symmetry and in
    eigenvalues.
    """
    few_gaussian, dead_gaussian = (
        Moments.from_rows(cloud(3, 20, WIDTH)).to_gaussian(),
        Moments.from_rows(cloud(3, 90, WIDTH) * (np.arange(WIDTH) % 3 > 0)).to_gaussian(),
    )
    noise = np.random.default_rng(4).normal(size=(WIDTH, WIDTH)) * 1e-9
    rows = cloud(3, 90, WIDTH)
    summed_values = np.cov(rows, rowvar=False, dtype=np.float32)
    changes: list[Mapping[str, np.ndarray]] = [
        {"mu": sound["mu"].astype(np.float32), "sigma": sound["sigma"].astype(np.float32)},
        {"mu": few_gaussian.mean, "sigma": few_gaussian.covariance},
        {"mu": few_gaussian.mean, "sigma": few_gaussian.covariance.astype(np.float32)},
        {"mu": dead_gaussian.mean, "sigma": dead_gaussian.covariance},
        {"mu": rows.mean(0), "sigma": summed_values},
        {"sigma": sound["sigma"] + noise},
        {"sigma": np.zeros((WIDTH, WIDTH))},
        {"sigma": np.asfortranarray(sound["sigma"])},
        {"sigma": sound["sigma"] * 1e-30},
        {"features": sound["features"].astype(np.float16)},
    ]
    for i, change in enumerate(changes):
        arrays = reference_arrays(write(tmp_path / f"{i}.npz", {**sound, **change}))
        assert value_of(PLUGIN.evaluate(make_features(cloud(5, 90, WIDTH)), arrays), "fid") >= 0


@pytest.mark.parametrize(
    "case", ["asymmetric", "negative", "indefinite", "complex-sigma", "huge", "nan-mu", "integers"]
)
@pytest.mark.parametrize("side", ["drawn", "real"])
def test_no_distance_is_computed_of_what_is_no_gaussian(
    case: str, side: str, sound: Arrays
) -> None:
    bad_fields = {**sound, **MOMENTS[case][0](sound)}
    pair = [Gaussian(bad_fields["mu"], bad_fields["sigma"]), Gaussian(sound["mu"], sound["sigma"])]
    with pytest.raises(InvalidMomentsError):
        frechet_distance(*(pair if side == "drawn" else pair[::-1]))


def test_without_the_check_these_references_gave_numbers(sound: Arrays) -> None:
    """The formula alone: asymmetric halves a trace too much, and of a negative covariance nothing
    is left but the traces.
    """
    generated_gaussian = Moments.from_rows(cloud(5, 900, WIDTH)).to_gaussian()
    root = covariance_root(generated_gaussian.covariance)

    def formula(sigma: np.ndarray) -> float:
        values = np.linalg.eigvalsh(root.T @ sigma @ root)
        return float(
            np.trace(generated_gaussian.covariance + sigma)
            - 2 * np.sqrt(np.clip(values, 0, None)).sum()
        )

    assert formula(asymmetric(sound["sigma"])) < -1
    assert abs(formula(-generated_gaussian.covariance)) < 1e-9


def test_a_distance_of_zero_is_not_reported_below_zero() -> None:
    """Rounding goes either way; what it made is said, and the reported distance is 0."""
    records = []
    for seed in range(40):
        features = cloud(seed, 30, 6)
        score = PLUGIN.evaluate(make_features(features), reference_of(features))
        assert 0 <= value_of(score, "fid") < 1e-9
        records += [w for w in score.warnings if "fid: rounding made -" in w]
        assert (value_of(score, "fid") == 0) or not records or records[-1] not in score.warnings
    assert records


def test_stored_sums_are_held_to_the_same_rules() -> None:
    arrays = Moments.from_rows(cloud(7, 40, 5)).to_arrays()
    changes = (
        {"scatter": asymmetric(arrays["scatter"])},
        {"scatter": -arrays["scatter"]},
        {"mean": arrays["mean"] * 1j},
        {"mean": with_a_hole(arrays["mean"])},
        {"count": np.array(40.0)},
        {"count": np.array(-3)},
    )
    for change in changes:
        with pytest.raises(InvalidMomentsError, match="make the file again"):
            Moments.from_arrays({**arrays, **change})
    assert Moments.from_arrays(arrays).count == 40


def test_a_count_of_images_below_one_is_not_believed(sound: Arrays, tmp_path: Path) -> None:
    for count, expected in ((7, 7), (0, None), (-4, None), (2.5, None)):
        assert (
            reference_origin(
                write(tmp_path / "counted.npz", {**sound, "images": np.array(count)})
            ).image_count
            == expected
        )


def test_the_check_is_relative_to_the_matrix(sound: Arrays) -> None:
    mu, sigma = sound["mu"], sound["sigma"]
    for scale in (1e-200, 1e-9, 1.0, 1e9, 1e70):
        assert moments_complaint(mu, sigma * scale) is None
        assert "differ" in str(moments_complaint(mu, asymmetric(sigma) * scale))
        assert "eigenvalue" in str(moments_complaint(mu, indefinite(sigma) * scale))
