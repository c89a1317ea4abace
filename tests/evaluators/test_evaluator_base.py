"""Base classes of the evaluators: what is optional has a default, what is missing is named, every
shipped one is of one kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError, PluginError
from harope_bench.evaluators.base import (
    AnnotationEvaluator,
    FeatureEvaluator,
    Features,
    load_annotation_evaluator,
    load_evaluator,
    load_feature_evaluator,
)
from harope_bench.evaluators.prompt_scores import PromptEvaluator


class MinimalEvaluator(FeatureEvaluator):
    """An evaluator that defines what it must and nothing else."""

    version, profile, parity, metrics = 1, "plain", "none", ()


@pytest.mark.parametrize("name", registry.list_names("evaluators"))
def test_every_shipped_evaluator_scores_features_or_annotations(name: str) -> None:
    evaluator = load_evaluator(name)
    assert isinstance(evaluator, FeatureEvaluator) != isinstance(evaluator, AnnotationEvaluator)
    assert evaluator.profile in evaluator.profiles and set(
        evaluator.profiles_with_own_judge
    ) <= set(evaluator.profiles)
    assert evaluator.with_profile(evaluator.profile).metrics == evaluator.metrics
    with pytest.raises(OptionError):
        evaluator.with_profile("nobody's")


def test_what_an_evaluator_leaves_out_has_a_default() -> None:
    plain_minimal_evaluator = MinimalEvaluator()
    assert (
        plain_minimal_evaluator.rules,
        plain_minimal_evaluator.profiles,
        plain_minimal_evaluator.profiles_with_own_judge,
        plain_minimal_evaluator.subject,
        plain_minimal_evaluator.arrays,
    ) == (("official",), ("plain",), (), "images", ())
    assert plain_minimal_evaluator.with_profile("plain") is plain_minimal_evaluator


@pytest.mark.parametrize(
    ("call", "member"),
    [
        (lambda: MinimalEvaluator().evaluate(Features(np.arange(0), None, {}), {}), "evaluate"),
        (lambda: AnnotationEvaluator().evaluate([], "official", False), "evaluate"),
        (lambda: AnnotationEvaluator().metrics_of_prompt({}), "metrics_of_prompt"),
        (lambda: PromptEvaluator().task({}), "task"),
        (lambda: PromptEvaluator().score_sample({}, {}, "official"), "score_sample"),
    ],
)
def test_what_an_evaluator_must_define_is_named_where_it_is_missing(call: Any, member: str) -> None:
    with pytest.raises(MissingMemberError, match=f"does not define `{member}`"):
        call()


def test_an_evaluator_of_the_other_kind_or_of_none_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(OptionError, match="evaluator geneval scores annotations"):
        load_feature_evaluator("geneval")
    with pytest.raises(OptionError, match="evaluator fidelity scores features"):
        load_annotation_evaluator("fidelity")
    monkeypatch.setattr(
        registry, "load_by_name", lambda kind, name: type("Duck", (), {"version": 1})()
    )
    with pytest.raises(
        PluginError,
        match=(
            r"evaluator 'duck' must be an instance of a class derived from"
            r" harope_bench\.evaluators\.base"
        ),
    ):
        load_evaluator("duck")
