"""The contracts of judges, evaluators and tables hold for the shipped ones and catch what breaks
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harope_bench import testing
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
from harope_bench.leaderboards import table_spec
from harope_bench.metrics.moments import Moments
from harope_bench.testing.contract_violations import ContractViolations


class LoadedToy(LoadedFeatureExtractor):
    """A toy judge whose plug-in and opened form are apart, as in judges/base.py."""

    def __init__(self, see: Callable[[np.ndarray], dict[str, np.ndarray]], sha256: str = "ab" * 32):
        self.extract, self.weights_sha256 = see, sha256


def judge(
    see: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None,
    opened_sha256: str = "ab" * 32,
    **fields: Any,
) -> Any:
    see = see or (lambda images: {"colour": images.mean((1, 2)).astype(np.float32)})
    plain_fields = {
        "version": 1,
        "judge_class": "micro",
        "preprocessing": "none",
        "arrays": ("colour",),
        "batch_size": 10,
    }
    members = {
        **plain_fields,
        **fields,
        "weights_sha256": lambda self: "ab" * 32,
        "open": lambda self, device: LoadedToy(see, opened_sha256),
    }
    return type("Toy", (FeatureExtractor,), members)()


def colour(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2)).astype(np.float32)


def overwriting(images: np.ndarray) -> dict[str, np.ndarray]:
    images[0] = 0
    return {"colour": colour(images)}


def test_a_judge_that_keeps_its_promises_passes() -> None:
    testing.check_judge(judge())
    testing.check_judge(
        judge(), images=np.random.default_rng(1).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    )


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (judge(version=0), "version is 0"),
        (judge(judge_class="real"), "judge_class is 'real'"),
        (judge(preprocessing=" "), "does not describe its preprocessing"),
        (judge(arrays=()), "wanted a tuple of names"),
        (judge(arrays=("col our",)), "array name 'col our' is not plain"),
        (judge(arrays=("colour", "shape")), "declares ['colour', 'shape']"),
        (judge(opened_sha256="no"), "wanted 64 hex digits"),
        (judge(opened_sha256="cd" * 32), "records weights"),
        (judge(lambda i: {"colour": colour(i).astype(np.float64)}), "is float64, wanted float32"),
        (judge(lambda i: {"colour": colour(i)[1:]}), "has 4 rows for 5 images"),
        (judge(lambda i: {"colour": colour(i) * np.float32(np.nan)}), "is not finite"),
        (judge(lambda i: {"colour": colour(i) - colour(i).mean(0)}), "extracted alone is"),
        (
            judge(lambda i: {"colour": colour(i) + np.arange(len(i), dtype=np.float32)[:, None]}),
            "in another order is",
        ),
        (
            judge(lambda i: {"colour": np.ones((len(i), 3), np.float32)}),
            "is the same for different images",
        ),
        (
            judge(lambda i: {"colour": colour(i) + np.float32(np.random.default_rng().random())}),
            "at the second call",
        ),
        (judge(overwriting), "changes its input images"),
    ],
)
def test_the_contract_catches_a_judge_that_breaks_it(liar: Any, message: str) -> None:
    with pytest.raises(AssertionError) as excinfo:
        testing.check_judge(liar)
    assert message in str(excinfo.value)


def gaussian(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = {"features": 8, "spatial": 6, "logits": 10}
    return {
        name: (2 * rng.normal(size=(n, width))).astype(np.float32) for name, width in widths.items()
    }


def synthetic() -> tuple[Features, dict[str, np.ndarray]]:
    """Sixty images seen and the reference statistics of eighty, in the arrays of the
    class-conditional judges.
    """
    real = gaussian(80, seed=1)
    reference = {"features": real["features"]}
    for name, suffix in (("features", ""), ("spatial", "_s")):
        reference[f"mu{suffix}"] = real[name].astype(np.float64).mean(0)
        reference[f"sigma{suffix}"] = np.cov(real[name].astype(np.float64), rowvar=False)
    return Features(np.arange(60), np.arange(60) % 10, gaussian(60, seed=0), failed=2), reference


def test_the_evaluator_fidelity_keeps_its_promises() -> None:
    testing.check_evaluator("fidelity", *synthetic())


class ToyEvaluator(FeatureEvaluator):
    """The mean of one feature."""

    version = 1
    profile = "toy"
    parity = "none: a toy"
    metrics = (Metric(name="mean", title="Mean", direction="higher", unit="none", decimals=2),)

    def evaluate(self, features: Features, reference: Any) -> EvaluatorOutput:
        rows = features.arrays["features"][:, 0].astype(np.float64)
        return EvaluatorOutput(
            (self.measure(rows, features.failed),), {"mean": rows} if len(rows) else {}, ()
        )

    def measure(self, rows: np.ndarray, failed: int) -> Measurement:
        value = float(rows.mean()) if len(rows) else None
        return make_measurement(value, len(rows), failed)


def make_measurement(value: float | None, scored: int, failed: int, **changes: Any) -> Measurement:
    fields = {
        "metric": "mean",
        "name": "mean",
        "value": value,
        "n_asked": scored + failed,
        "n_scored": scored,
        "n_failed": failed,
    }
    return Measurement(
        **{**fields, "reason": None if value is not None else "no images", **changes}
    )


def evaluator(measure: Callable[..., Measurement] | None = None, **fields: Any) -> Any:
    members = {
        **fields,
        **({"measure": lambda self, rows, failed: measure(rows, failed)} if measure else {}),
    }
    return type("Liar", (ToyEvaluator,), members)()


def clobbering(self: Any, features: Features, reference: Any) -> EvaluatorOutput:
    if len(features.indices):
        features.arrays["features"][0, 0] += 1
    return ToyEvaluator.evaluate(self, features, reference)


def test_an_evaluator_that_keeps_its_promises_passes() -> None:
    testing.check_evaluator(ToyEvaluator(), *synthetic())


def with_contributions(change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return an evaluator whose contributions are changed."""

    def evaluate(self: Any, features: Features, reference: Any) -> EvaluatorOutput:
        output = ToyEvaluator.evaluate(self, features, reference)
        arrays = {name: change(values) for name, values in output.per_sample.items()}
        return output._replace(per_sample=arrays)

    return evaluator(evaluate=evaluate)


def reading(array: str) -> Any:
    """Return an evaluator that reads an array."""

    def evaluate(self: Any, features: Features, reference: Any) -> EvaluatorOutput:
        features.arrays[array]
        return ToyEvaluator.evaluate(self, features, reference)

    return evaluator(evaluate=evaluate)


def test_centred_contributions_of_samples_are_influence_values() -> None:
    centred = with_contributions(lambda values: values - values.mean())
    assert testing.check_evaluator(centred, *synthetic()) == 6


def test_an_array_that_is_missing_is_named_once() -> None:
    with pytest.raises(AssertionError) as excinfo:
        testing.check_evaluator(reading("patch_tokens"))
    assert str(excinfo.value).count("patch_tokens") == 1
    assert "KeyError" not in str(excinfo.value)


def test_features_name_the_evaluator_and_the_judge_of_a_missing_array() -> None:
    features = synthetic()[0].for_evaluator("contrast", "digits-net")
    assert "patch_tokens" not in features.arrays
    assert features.arrays.get("patch_tokens") is None
    assert features.arrays["logits"] is features.arrays.get("logits")
    message = (
        "evaluator contrast reads array patch_tokens, judge digits-net gives features, spatial,"
        " logits; choose another judge (see list judges -v)"
    )
    cached_features = features._replace(cached_moments=lambda name: Moments.from_rows(np.ones(1)))
    for read in (
        lambda: features.arrays["patch_tokens"],
        lambda: cached_features.moments("patch_tokens"),
    ):
        with pytest.raises(OptionError) as excinfo:
            read()
        assert str(excinfo.value) == message


METRIC = ToyEvaluator.metrics[0]


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (evaluator(version="1"), "version is '1'"),
        (evaluator(parity=""), "declares no parity"),
        (evaluator(metrics=()), "declares no metric"),
        (evaluator(metrics=(METRIC, METRIC)), "metric names repeat"),
        (
            evaluator(metrics=(METRIC, METRIC.model_copy(update={"name": "other"}))),
            "it measures ['mean'], declares ['mean', 'other']",
        ),
        (
            evaluator(lambda rows, failed: make_measurement(1.0, len(rows), 0)),
            "asked, there were 60 rows and 2 failed",
        ),
        (
            evaluator(lambda rows, failed: make_measurement(1.0 + failed, len(rows), failed)),
            "a failure must not be scored",
        ),
        (
            evaluator(lambda rows, failed: make_measurement(0.0, len(rows), failed)),
            "on no images at all, wanted None",
        ),
        (
            evaluator(lambda rows, failed: make_measurement(float(rows[0]), len(rows), failed)),
            "check_reasons_for_missing_values: IndexError",
        ),
        (
            evaluator(lambda rows, failed: make_measurement(None, len(rows), failed)),
            "has no value on 60 good rows",
        ),
        (
            evaluator(
                lambda rows, failed: make_measurement(
                    1.0, len(rows), failed, low=2.0, high=3.0, interval="x"
                )
            ),
            "is outside its interval",
        ),
        (
            evaluator(
                lambda rows, failed: make_measurement(1.0, len(rows), failed, low=0.0, high=3.0)
            ),
            "has an interval without a name",
        ),
        (
            evaluator(
                lambda rows, failed: make_measurement(
                    np.random.default_rng().random(), len(rows), failed
                )
            ),
            "gives another result at the second call",
        ),
        (evaluator(evaluate=clobbering), "changes its input features features"),
        (
            evaluator(
                evaluate=lambda self, records, ref: ToyEvaluator.evaluate(
                    self, records, ref
                )._replace(per_sample={"mean": np.zeros(7)})
            ),
            "per_sample of mean has 7 rows for 60 samples",
        ),
        (with_contributions(lambda values: values + 1), "per_sample of mean has the mean 1."),
        (with_contributions(lambda values: 100 * values), "give contributions in its unit whose"),
        (
            with_contributions(lambda values: np.full(len(values), values.mean())),
            "per_sample of mean is equal for all samples, but fewer samples change its value from",
        ),
        (
            with_contributions(np.zeros_like),
            "per_sample of mean is equal for all samples, but fewer samples change its value from",
        ),
        (
            reading("patch_tokens"),
            "it reads array patch_tokens, check_evaluator gives features, spatial, logits; pass"
            " features with this array",
        ),
    ],
)
def test_the_contract_catches_an_evaluator_that_breaks_it(liar: Any, message: str) -> None:
    with pytest.raises(AssertionError) as excinfo:
        testing.check_evaluator(liar, *synthetic())
    assert message in str(excinfo.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"published": {"fid": "9.49 FID"}}, "prints '9.49 FID', wanted a number"),
        ({"published": {"fid": "9.4"}}, "prints '9.4', its column has 2 decimals"),
        (
            {"best_by_value": {"all": {"fid": ["one"]}}},
            "one/fid is marked best with 9.49, the best of its block is 8.90",
        ),
        ({"title": "Two"}, "has the same title as another"),
        ({}, None),
        ({"published": {"fid": "9.49 (+4.1%)"}}, None),
    ],
)
def test_the_contract_reads_a_table_as_a_reader_does(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str | None
) -> None:
    best = change.get("best_by_value", {"all": {"fid": ["two"]}})
    first_fields = {
        "id": "one",
        "title": "One",
        "published": {"fid": "9.49"},
        **{k: v for k, v in change.items() if k != "best_by_value"},
    }
    fields = {
        "id": "T", "number": 99, "title": "A table", "best_by_value": best,
        "columns": [{"key": "fid", "title": "FID", "direction": "lower", "decimals": 2}],
        "rows": [first_fields, {"id": "two", "title": "Two", "published": {"fid": "8.90"}}],
    }  # fmt: skip
    monkeypatch.setattr(
        "harope_bench.leaderboards.board.load_table",
        lambda name: table_spec.parse_table(fields, "a test"),
    )
    if message is None:
        testing.check_table("table99")
        return
    with pytest.raises(AssertionError) as excinfo:
        testing.check_table("table99")
    assert message in str(excinfo.value)


def test_a_contract_lists_everything_that_does_not_hold_and_survives_a_crash() -> None:
    violations = ContractViolations("thing x")

    def crashes() -> None:
        raise KeyError("gone")

    def lies() -> None:
        violations.expect(False, "lies")
        violations.expect(True, "holds")

    with pytest.raises(AssertionError) as excinfo:
        violations.run_checks([crashes, lies])
    assert str(excinfo.value) == "thing x breaks its contract:\n- crashes: KeyError: 'gone'\n- lies"
    ContractViolations("thing y").run_checks([])
