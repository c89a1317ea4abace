"""Judges that the user names with `--judge`, for evaluators that a suite does not name.

An evaluator of a plug-in is named by no suite. It scores any suite once its judges are named.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, MissingAssetError, OptionError
from harope_bench.evaluators.base import (
    AnnotationEvaluator,
    Evaluator,
    FeatureEvaluator,
    load_evaluator,
    load_feature_evaluator,
)
from harope_bench.judges.base import (
    FeatureExtractor,
    Judge,
    LoadedAnnotator,
    LoadedFeatureExtractor,
    load_judge,
)
from harope_bench.suites.base import PromptSuite, Suite


def evaluator_roles(evaluator: AnnotationEvaluator) -> tuple[str, ...]:
    """Return the roles of an evaluator's annotators, each once, in the order of their queries."""
    return tuple(dict.fromkeys(r.role for r in evaluator.annotator_roles))


def missing_judge_error(
    suite_name: str, evaluator_name: str, evaluator: Evaluator, missing_roles: Sequence[str] = ()
) -> OptionError:
    """Return the error about an evaluator whose judges neither the suite nor the user names.

    Args:
        missing_roles: of an evaluator of annotations, the roles without a judge.
    """
    message = f"suite {suite_name} names no judge for evaluator {evaluator_name}"
    if isinstance(evaluator, AnnotationEvaluator):
        choices = ",".join(f"{role}=NAME" for role in missing_roles)
        known_judges = "; ".join(
            f"{role}: {', '.join(_judges_of_role(role)) or 'none'}" for role in missing_roles
        )
        return OptionError(message, f"name one with --judge {choices} ({known_judges})")
    return OptionError(
        message,
        f"name one with --judge NAME (feature extractors: {', '.join(_feature_extractors())})",
    )


def _loadable_judges() -> dict[str, Judge[LoadedFeatureExtractor | LoadedAnnotator]]:
    """Return every registered judge that loads, by name."""
    judges = {}
    for name in registry.list_names("judges"):
        with suppress(BenchError):
            judges[name] = load_judge(name)
    return judges


def _feature_extractors() -> list[str]:
    """Return the names of all feature extractors."""
    return [
        name for name, judge in _loadable_judges().items() if isinstance(judge, FeatureExtractor)
    ]


def _judges_of_role(role: str) -> list[str]:
    """Return the names of all annotators with a role."""
    return [name for name, judge in _loadable_judges().items() if role in judge.roles]


def load_evaluator_of_suite(suite: Suite, suite_name: str, name: str) -> FeatureEvaluator:
    """Return an evaluator of features, for a suite that is scored with features.

    Raises:
        OptionError: The evaluator scores annotations of prompts.
    """
    if isinstance(load_evaluator(name), AnnotationEvaluator) and not isinstance(suite, PromptSuite):
        raise OptionError(
            f"evaluator {name} scores annotations of prompts, suite {suite_name} has no prompts",
            advice="choose a suite of prompts, or an evaluator of features",
        )
    return load_feature_evaluator(name)


def check_metadata(
    suite: PromptSuite, suite_name: str, evaluator_name: str, evaluator: AnnotationEvaluator
) -> None:
    """Raise OptionError if no prompt of a suite has the metadata that an evaluator reads.

    Missing prompts are no error here; `Suite.prompts_source` reports them.
    """
    key = evaluator.metadata_key
    known_keys: set[str] = set()
    with suppress(MissingAssetError):
        for prompt_index in range(suite.count // suite.copies):
            case = suite.case(prompt_index)
            if case.metadata_for(key) is not None:
                return
            known_keys.update(case.metadata)
        raise OptionError(
            f"evaluator {evaluator_name} reads metadata {key!r} of prompts; the prompts of suite"
            f" {suite_name} have {_metadata_text(known_keys)}",
            advice="choose another evaluator or suite",
        )


def _metadata_text(keys: Collection[str]) -> str:
    return f"the metadata {', '.join(map(repr, sorted(keys)))}" if keys else "no metadata"


def chosen_feature_extractor(judge: str | None, has_annotation_evaluators: bool) -> str | None:
    """Return the feature extractor that `--judge` names for a suite of prompts; None for none.

    It is the part without a role. Where annotators are named too, it must be a feature extractor.

    Raises:
        OptionError: There are two such parts.
    """
    names = [part for part in _parts(judge) if "=" not in part]
    if has_annotation_evaluators:
        names = [name for name in names if _is_feature_extractor(name)]
    if len(names) > 1:
        raise OptionError(
            f"--judge names feature extractors {' and '.join(names)}, one is used; name one"
        )
    return names[0] if names else None


def without_feature_extractor(judge: str | None) -> str | None:
    """Return the parts of `--judge` that name annotators; None where there is none."""
    parts = [part for part in _parts(judge) if "=" in part or not _is_feature_extractor(part)]
    return ",".join(parts) or None


def _parts(judge: str | None) -> list[str]:
    return [part.strip() for part in (judge or "").split(",") if part.strip()]


def _is_feature_extractor(name: str) -> bool:
    return name in registry.list_entries("judges") and isinstance(
        load_judge(name), FeatureExtractor
    )
