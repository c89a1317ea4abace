"""The contract of an annotator, and of an evaluator on annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harope_bench.core.schema import JUDGE_CLASSES
from harope_bench.testing.contract_violations import PLAIN_NAME_PATTERN, ContractViolations
from harope_bench.testing.feature_extractor import SHA256_PATTERN

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.core.annotations import Query
    from harope_bench.evaluators.base import AnnotatedImage, AnnotationEvaluator, EvaluatorOutput
    from harope_bench.judges.base import Annotator, LoadedAnnotator


def default_queries() -> dict[str, Query]:
    """Something to ask in each role."""
    from harope_bench.core import annotations as p

    whole = (0.0, 0.0, 20.0, 20.0)
    return {
        "detector": p.DetectionQuery(names=("circle", "square")),
        "detector-2d": p.DetectionQuery(names=("circle", "square")),
        "colours": p.ColourQuery(
            objects=(p.ColourObject(name="circle", box=whole),), candidates=("red", "green")
        ),
        "vqa": p.VqaQuery(questions=("is there a circle?", "is the square red?")),
        "depth": p.DepthQuery(boxes=(whole, (4.0, 4.0, 12.0, 9.0))),
        "similarity": p.SimilarityQuery(texts=("a circle", "a red square")),
    }


def check_annotator(
    name: str | Annotator,
    images: Sequence[np.ndarray] | None = None,
    asks: Mapping[str, Query] | None = None,
    device: str = "cpu",
) -> None:
    """Holds a judge that is asked in roles to the contract of judges/base.py.

    Args:
        name: a registered judge, or the plug-in itself, bound to its model where it needs one.
        images: at least two of (H, W, 3) uint8; random ones of 32 x 40 if not given. asks: by role,
            in place of `usual_asks`.

    Raises:
        AssertionError: lists every promise that does not hold. WeightsError: its weights are not
            here.
    """
    import numpy as np

    from harope_bench.judges.base import JudgeChoice

    plugin = JudgeChoice(name).annotator if isinstance(name, str) else name
    rng = np.random.default_rng(0)
    shown = images or [rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(2)]
    complaints = ContractViolations(
        f"judge {name if isinstance(name, str) else type(name).__qualname__}"
    )
    bench = _AnnotatorContract(
        plugin, plugin.open(device), shown, {**default_queries(), **(asks or {})}, complaints
    )
    complaints.run_checks(
        [bench.declares_required_members, bench.annotates_every_query, bench.is_deterministic]
    )


class _AnnotatorContract:
    """One annotator on the bench, one method a promise."""

    def __init__(
        self,
        plugin: Annotator,
        opened: LoadedAnnotator,
        images: Sequence[np.ndarray],
        asks: Mapping[str, Query],
        complaints: ContractViolations,
    ):
        self.plugin = plugin
        self.loaded = opened
        self.images = images
        self.queries = asks
        self.expect = complaints.expect

    def declares_required_members(self) -> None:
        """Version, class, preprocessing, roles, and the hash of its weights."""
        from harope_bench.core.annotations import QUERY_TYPES

        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        expect(
            plugin.judge_class in JUDGE_CLASSES,
            f"judge_class is {plugin.judge_class!r}, wanted one of {', '.join(JUDGE_CLASSES)}",
        )
        expect(
            isinstance(plugin.preprocessing, str) and plugin.preprocessing.strip(),
            "says nothing of its preprocessing",
        )
        expect(
            isinstance(plugin.roles, tuple) and plugin.roles,
            f"roles is {plugin.roles!r}, wanted a tuple of names",
        )
        for role in plugin.roles:
            expect(role in QUERY_TYPES, f"role {role!r} is none of {', '.join(QUERY_TYPES)}")
        expect(
            SHA256_PATTERN.fullmatch(str(self.loaded.weights_sha256)),
            f"weights_sha256 is {self.loaded.weights_sha256!r}, wanted 64 hex digits",
        )
        recorded = plugin.weights_sha256()
        expect(
            recorded == self.loaded.weights_sha256,
            f"records weights {recorded}, opens {self.loaded.weights_sha256}",
        )

    def annotates_every_query(self) -> None:
        """In each role an answer of that role's kind, with a part for each thing asked; the image
        stays as it was.
        """
        from harope_bench.core.annotations import ANNOTATION_TYPES, is_complete_annotation

        for role in self.plugin.roles:
            before = self.images[0].copy()
            answer = self.loaded.annotate(role, self.images[0], self.queries[role])
            self.expect((before == self.images[0]).all(), f"{role} changes the image it is shown")
            self.expect(
                isinstance(answer, ANNOTATION_TYPES[role]),
                f"{role} answers {type(answer).__name__}, wanted {ANNOTATION_TYPES[role].__name__}",
            )
            self.expect(
                is_complete_annotation(self.queries[role], answer),
                f"{role} answers another number of things than are asked",
            )
            again = ANNOTATION_TYPES[role].model_validate_json(answer.to_json())
            self.expect(again == answer, f"{role} gives an answer that JSON does not keep")

    def is_deterministic(self) -> None:
        """The same image gets the same answer, whatever was shown between."""
        for role in self.plugin.roles:
            one = self.loaded.annotate(role, self.images[0], self.queries[role])
            self.loaded.annotate(role, self.images[1], self.queries[role])
            self.expect(
                self.loaded.annotate(role, self.images[0], self.queries[role]) == one,
                f"{role} says something else the second time",
            )


def check_annotation_evaluator(
    name: str | AnnotationEvaluator, sights: Sequence[AnnotatedImage]
) -> None:
    """Holds an evaluator of prompts to the contract of evaluators/base.py.

    Args:
        name: a registered evaluator, or the plug-in itself.
        sights: answered images of every task, at least two prompts of each, none of them failed.

    Raises:
        AssertionError: lists every promise that does not hold.
    """
    from harope_bench.evaluators.base import load_annotation_evaluator

    plugin = load_annotation_evaluator(name) if isinstance(name, str) else name
    complaints = ContractViolations(
        f"evaluator {name if isinstance(name, str) else type(name).__qualname__}"
    )
    bench = _AnnotationEvaluatorContract(plugin, sights, complaints)
    complaints.run_checks(
        [
            bench.declares_required_members,
            bench.measures_every_metric,
            bench.counts_failures_without_scoring,
            bench.is_deterministic,
        ]
    )


class _AnnotationEvaluatorContract:
    """One evaluator of prompts on the bench, one method a promise."""

    def __init__(
        self,
        plugin: AnnotationEvaluator,
        sights: Sequence[AnnotatedImage],
        complaints: ContractViolations,
    ):
        self.plugin = plugin
        self.annotated_images = sights
        self.expect = complaints.expect

    def declares_required_members(self) -> None:
        """Version, profile, parity, both sets of rules, form, looks, and metrics with plain, unique
        names.
        """
        from harope_bench.core.annotations import QUERY_TYPES

        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        for what, text in (
            ("profile", plugin.profile),
            ("parity", plugin.parity),
            ("form", plugin.metadata_key),
        ):
            expect(isinstance(text, str) and text.strip(), f"says nothing of its {what}")
        expect(
            set(plugin.rules) <= {"official", "corrected"} and plugin.rules,
            f"rules are {plugin.rules}, wanted official or corrected",
        )
        names = [metric.name for metric in plugin.metrics]
        expect(
            names and len(set(names)) == len(names), f"metric names are missing or repeat: {names}"
        )
        for metric in names:
            expect(PLAIN_NAME_PATTERN.fullmatch(metric), f"metric name {metric!r} is not plain")
        for look in plugin.annotator_roles:
            expect(
                look.role in QUERY_TYPES,
                f"looks for role {look.role!r}, which is none of {', '.join(QUERY_TYPES)}",
            )

    def measures_every_metric(self) -> None:
        """Under each set of rules each declared metric once, finite, inside its interval, with
        honest counts and a row an image.
        """
        import numpy as np

        for rules in self.plugin.rules:
            score: EvaluatorOutput = self.plugin.evaluate(self.annotated_images, rules, False)
            found = [m.metric for m in score.measurements]
            declared = [m.name for m in self.plugin.metrics]
            self.expect(
                sorted(found) == sorted(declared),
                f"under {rules} rules it measures {found}, declares {declared}",
            )
            for m in score.measurements:
                self.expect(
                    m.value is not None,
                    f"{m.metric} has no value under {rules} rules on good images: {m.reason}",
                )
                numbers = [x for x in (m.value, m.se, m.low, m.high) if x is not None]
                self.expect(
                    all(map(math.isfinite, numbers)),
                    f"{m.metric} holds a number that is not finite: {numbers}",
                )
                if m.value is not None and m.low is not None and m.high is not None:
                    self.expect(
                        m.low <= m.value <= m.high,
                        f"{m.metric}: {m.value} is outside its interval {m.low} to {m.high}",
                    )
            for key, rows in score.per_sample.items():
                self.expect(
                    len(np.asarray(rows)) == len(self.annotated_images),
                    f"{key} has {len(rows)} rows for {len(self.annotated_images)} images",
                )
            self.expect(
                len(score.sample_scores) == len(self.annotated_images),
                f"tells of {len(score.sample_scores)} of {len(self.annotated_images)} images",
            )
            self.expect(
                all(str(row.get("reason", "")).strip() for row in score.sample_scores),
                f"under {rules} rules an image has no reason",
            )

    def counts_failures_without_scoring(self) -> None:
        """A failed image is counted; its metrics are None unless asked for what is left, and never
        a 0.
        """
        broken = [
            replace(self.annotated_images[0], failure="no answer", annotations={}),
            *self.annotated_images[1:],
        ]
        own = set(self.plugin.metrics_of_prompt(self.annotated_images[0].metadata))
        strict = {
            m.metric: m
            for m in self.plugin.evaluate(broken, self.plugin.rules[0], False).measurements
        }
        for metric in own:
            m = strict[metric]
            self.expect(
                m.value is None and m.n_failed >= 1,
                f"{metric} is {m.value} with {m.n_failed} failed, wanted None and the failure"
                " counted",
            )
        for m in self.plugin.evaluate(broken, self.plugin.rules[0], True).measurements:
            self.expect(
                m.n_asked == m.n_scored + m.n_failed + m.n_abstained,
                f"{m.metric}: asked is not scored + failed + abstained",
            )

    def is_deterministic(self) -> None:
        """The same answers give the same score."""
        one, other = (
            self.plugin.evaluate(self.annotated_images, self.plugin.rules[0], False)
            for _ in range(2)
        )
        self.expect(
            one.measurements == other.measurements and one.sample_scores == other.sample_scores,
            "says something else the second time",
        )
