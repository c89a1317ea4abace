"""Base classes of the judges: what is optional has a default, what is missing is named, and there
is one way to open a judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.annotations import Annotation, DetectionAnnotation, DetectionQuery, Query
from harope_bench.core.errors import JudgeError, MissingMemberError, OptionError, PluginError
from harope_bench.core.schema import JudgeRecord
from harope_bench.judges.base import (
    AnnotationCheck,
    Annotator,
    FeatureExtractor,
    JudgeChoice,
    LoadedAnnotator,
    LoadedFeatureExtractor,
    NamedCheck,
    judge_record,
    load_feature_extractor,
    load_judge,
    open_judge,
)


class Mean(LoadedFeatureExtractor):
    """The mean of an image."""

    weights_sha256 = "1" * 64

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": images.mean((1, 2, 3), keepdims=True)[..., 0, 0].astype(np.float32)}


class MeanJudge(FeatureExtractor):
    """A plug-in that defines what it must and nothing else."""

    version, judge_class, preprocessing, arrays = 1, "micro", "none", ("mean",)

    def weights_sha256(self) -> str:
        return "1" * 64

    def open(self, device: str) -> Mean:
        return Mean()


class Blind(LoadedAnnotator):
    """Finds nothing."""

    weights_sha256 = "2" * 64

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        return DetectionAnnotation(size=(image.shape[1], image.shape[0]), detections=())


class BlindJudge(Annotator):
    """An annotator that runs any model."""

    version, judge_class, preprocessing, roles = 3, "substitute", "none", ("detector",)

    def __init__(self, model: str | None = None):
        self.model = model

    def with_model(self, model: str) -> BlindJudge:
        return BlindJudge(model)

    def weights_sha256(self) -> str:
        return ("2" if self.model is None else "3") * 64

    def open(self, device: str) -> Blind:
        return Blind()


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Judges that a test registers."""
    extra_fields: dict[str, Any] = {"mean": MeanJudge(), "blind": BlindJudge()}
    load = registry.load_by_name
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: (
            extra_fields[name] if kind == "judges" and name in extra_fields else load(kind, name)
        ),
    )
    return extra_fields


@pytest.mark.parametrize("name", registry.list_names("judges"))
def test_every_shipped_judge_extracts_features_or_annotates(name: str) -> None:
    judge = load_judge(name)
    assert isinstance(judge, FeatureExtractor) != isinstance(judge, Annotator)
    assert bool(judge.arrays) == isinstance(judge, FeatureExtractor) and bool(
        judge.roles
    ) == isinstance(judge, Annotator)
    assert (
        judge.judge_class in ("official", "equivalent", "substitute", "micro")
        and judge.version >= 1
    )
    assert judge.runner is None or judge.runner.is_file()


def test_what_a_judge_leaves_out_has_a_default() -> None:
    judge = MeanJudge()
    assert (
        judge.packages,
        judge.needs_model,
        judge.runner,
        judge.roles,
        judge.widths,
        judge.batch_size,
    ) == ((), False, None, (), {}, 50)
    assert (
        judge.self_checks(),
        judge.warnings(),
        judge.error_rates(),
        judge.with_model("some/model"),
    ) == ((), (), (), None)
    assert (Mean().notes, Mean().numerics) == ((), {})


@pytest.mark.parametrize(
    ("call", "member"),
    [
        (lambda: FeatureExtractor().judge_class, "judge_class"),
        (lambda: Annotator().weights_sha256(), "weights_sha256"),
        (lambda: FeatureExtractor().open("cpu"), "open"),
        (lambda: LoadedFeatureExtractor().extract(np.zeros((1, 2, 2, 3), np.uint8)), "extract"),
        (
            lambda: LoadedAnnotator().annotate(
                "detector", np.zeros((2, 2, 3), np.uint8), DetectionQuery()
            ),
            "annotate",
        ),
    ],
)
def test_what_a_judge_must_define_is_named_where_it_is_missing(call: Any, member: str) -> None:
    with pytest.raises(MissingMemberError, match=f"does not define `{member}`"):
        call()


def test_a_judge_that_only_looks_like_one_is_refused(judges: dict[str, Any]) -> None:
    judges["duck"] = type("Duck", (), vars(MeanJudge) | {"__dict__": None, "__weakref__": None})
    with pytest.raises(
        PluginError,
        match=(
            r"judge 'duck' must be an instance of a class derived from"
            r" harope_bench\.judges\.base\.Judge"
        ),
    ):
        load_judge("duck")


def test_a_judge_of_the_other_kind_is_refused_before_it_is_opened(judges: dict[str, Any]) -> None:
    with pytest.raises(
        OptionError, match="judge blind extracts no features, its roles are detector"
    ):
        load_feature_extractor("blind")
    with pytest.raises(OptionError, match="judge mean extracts features, wanted an annotator"):
        _ = JudgeChoice("mean").annotator


def test_a_model_is_bound_where_the_judge_takes_one(judges: dict[str, Any]) -> None:
    assert judge_record("blind").weights_sha256 == "2" * 64
    bound = judge_record("blind", "some/model")
    assert bound == JudgeRecord(
        name="blind",
        version=3,
        judge_class="substitute",
        weights_sha256="3" * 64,
        preprocessing="none",
        model="some/model",
    )
    with pytest.raises(
        OptionError, match=r"judge mean has its own weights and takes no model, found some/model"
    ):
        judge_record("mean", "some/model")
    judges["blind"].needs_model = True
    with pytest.raises(OptionError, match="judge blind runs a model that you provide"):
        judge_record("blind")


def test_two_models_of_one_judge_have_folders_of_their_own() -> None:
    folders = {
        JudgeChoice("blind").folder_name,
        JudgeChoice("blind", "a").folder_name,
        JudgeChoice("blind", "b").folder_name,
    }
    assert len(folders) == 3 and all(Path(folder).name == folder for folder in folders)


@pytest.mark.parametrize("kind", ["extractor", "annotator"])
def test_a_judge_of_either_kind_is_opened_only_if_it_passes_its_self_check(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge: FeatureExtractor | Annotator = MeanJudge() if kind == "extractor" else BlindJudge()
    checked_items: list[Any] = []
    good_named_check = NamedCheck("good", lambda loaded_value: checked_items.append(loaded_value))
    monkeypatch.setattr(type(judge), "self_checks", lambda self: (good_named_check,))
    assert open_judge("toy", judge, "cpu") is checked_items[0]
    monkeypatch.setattr(
        type(judge),
        "self_checks",
        lambda self: (good_named_check, NamedCheck("bad", lambda loaded_value: "it is blind")),
    )
    with pytest.raises(JudgeError, match="toy fails its self-check bad: it is blind"):
        open_judge("toy", judge, "cpu")


def test_a_trial_asks_the_annotator_and_shows_a_wrong_answer() -> None:
    image, annotation_check = (
        np.zeros((4, 5, 3), np.uint8),
        AnnotationCheck(
            "it sees", "detector", np.zeros((4, 5, 3), np.uint8), DetectionQuery(), lambda a: False
        ),
    )
    assert annotation_check.name == "it sees" and str(annotation_check.check(Blind())).startswith(
        'it answers {"detections": []'
    )
    assert (
        AnnotationCheck(
            "it sees nothing",
            "detector",
            image,
            DetectionQuery(),
            lambda answer: answer == DetectionAnnotation(size=(5, 4), detections=()),
        ).check(Blind())
        is None
    )
