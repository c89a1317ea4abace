"""The contract of an annotator, and of an evaluator on annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harope_bench.core.schema import CLASSES
from harope_bench.testing.complaints import PLAIN, Complaints
from harope_bench.testing.judge import SHA256

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.core.annotations import Ask
    from harope_bench.evaluators.base import AnnotationEvaluator, Score, Sight
    from harope_bench.judges.base import Annotator, LoadedAnnotator


def usual_asks() -> dict[str, Ask]:
    """Something to ask in each role."""
    from harope_bench.core import annotations as p

    whole = (0.0, 0.0, 20.0, 20.0)
    return {
        "detector": p.Names(names=("circle", "square")),
        "detector-2d": p.Names(names=("circle", "square")),
        "colours": p.Objects(objects=(p.Object(name="circle", box=whole),), candidates=("red", "green")),
        "vqa": p.Questions(questions=("is there a circle?", "is the square red?")),
        "depth": p.Boxes(boxes=(whole, (4.0, 4.0, 12.0, 9.0))),
        "similarity": p.Texts(texts=("a circle", "a red square")),
    }


def check_witness(
    name: str | Annotator, images: Sequence[np.ndarray] | None = None, asks: Mapping[str, Ask] | None = None, device: str = "cpu"
) -> None:
    """Holds a judge that is asked in roles to the contract of judges/base.py.

    Args:
        name: a registered judge, or the plug-in itself, bound to its model where it needs one.
        images: at least two of (H, W, 3) uint8; random ones of 32 x 40 if not given. asks: by role, in place of `usual_asks`.

    Raises:
        AssertionError: lists every promise that does not hold. WeightsError: its weights are not here.
    """
    import numpy as np

    from harope_bench.judges.base import JudgeChoice

    plugin = JudgeChoice(name).annotator if isinstance(name, str) else name
    rng = np.random.default_rng(0)
    shown = images or [rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(2)]
    complaints = Complaints(f"judge {name if isinstance(name, str) else type(name).__qualname__}")
    bench = _AnnotatorBench(plugin, plugin.open(device), shown, {**usual_asks(), **(asks or {})}, complaints)
    complaints.run([bench.declares_itself, bench.answers_what_is_asked, bench.repeats_itself])


class _AnnotatorBench:
    """One annotator on the bench, one method a promise."""

    def __init__(
        self, plugin: Annotator, opened: LoadedAnnotator, images: Sequence[np.ndarray], asks: Mapping[str, Ask], complaints: Complaints
    ):
        self.plugin, self.opened, self.images, self.asks, self.expect = plugin, opened, images, asks, complaints.expect

    def declares_itself(self) -> None:
        """Version, class, preprocessing, roles, and the hash of its weights."""
        from harope_bench.core.annotations import ASKS

        expect, plugin = self.expect, self.plugin
        expect(isinstance(plugin.version, int) and plugin.version >= 1, f"version is {plugin.version!r}, wanted an integer from 1")
        expect(plugin.judge_class in CLASSES, f"judge_class is {plugin.judge_class!r}, wanted one of {', '.join(CLASSES)}")
        expect(isinstance(plugin.preprocessing, str) and plugin.preprocessing.strip(), "says nothing of its preprocessing")
        expect(isinstance(plugin.roles, tuple) and plugin.roles, f"roles is {plugin.roles!r}, wanted a tuple of names")
        for role in plugin.roles:
            expect(role in ASKS, f"role {role!r} is none of {', '.join(ASKS)}")
        expect(SHA256.fullmatch(str(self.opened.weights_sha256)), f"weights_sha256 is {self.opened.weights_sha256!r}, wanted 64 hex digits")
        recorded = plugin.weights_sha256()
        expect(recorded == self.opened.weights_sha256, f"records weights {recorded}, opens {self.opened.weights_sha256}")

    def answers_what_is_asked(self) -> None:
        """In each role an answer of that role's kind, with a part for each thing asked; the image stays as it was."""
        from harope_bench.core.annotations import ANSWER_TYPES, fits

        for role in self.plugin.roles:
            before = self.images[0].copy()
            answer = self.opened.see(role, self.images[0], self.asks[role])
            self.expect((before == self.images[0]).all(), f"{role} changes the image it is shown")
            self.expect(
                isinstance(answer, ANSWER_TYPES[role]), f"{role} answers {type(answer).__name__}, wanted {ANSWER_TYPES[role].__name__}"
            )
            self.expect(fits(self.asks[role], answer), f"{role} answers another number of things than are asked")
            again = ANSWER_TYPES[role].model_validate_json(answer.to_json())
            self.expect(again == answer, f"{role} gives an answer that JSON does not keep")

    def repeats_itself(self) -> None:
        """The same image gets the same answer, whatever was shown between."""
        for role in self.plugin.roles:
            one = self.opened.see(role, self.images[0], self.asks[role])
            self.opened.see(role, self.images[1], self.asks[role])
            self.expect(self.opened.see(role, self.images[0], self.asks[role]) == one, f"{role} says something else the second time")


def check_prompt_evaluator(name: str | AnnotationEvaluator, sights: Sequence[Sight]) -> None:
    """Holds an evaluator of prompts to the contract of evaluators/base.py.

    Args:
        name: a registered evaluator, or the plug-in itself.
        sights: answered images of every task, at least two prompts of each, none of them failed.

    Raises:
        AssertionError: lists every promise that does not hold.
    """
    from harope_bench.evaluators.base import load_annotation_evaluator

    plugin = load_annotation_evaluator(name) if isinstance(name, str) else name
    complaints = Complaints(f"evaluator {name if isinstance(name, str) else type(name).__qualname__}")
    bench = _MarkBench(plugin, sights, complaints)
    complaints.run([bench.declares_itself, bench.measures_everything, bench.a_failure_is_no_score, bench.repeats_itself])


class _MarkBench:
    """One evaluator of prompts on the bench, one method a promise."""

    def __init__(self, plugin: AnnotationEvaluator, sights: Sequence[Sight], complaints: Complaints):
        self.plugin, self.sights, self.expect = plugin, sights, complaints.expect

    def declares_itself(self) -> None:
        """Version, profile, parity, both sets of rules, form, looks, and metrics with plain, unique names."""
        from harope_bench.core.annotations import ASKS

        expect, plugin = self.expect, self.plugin
        expect(isinstance(plugin.version, int) and plugin.version >= 1, f"version is {plugin.version!r}, wanted an integer from 1")
        for what, text in (("profile", plugin.profile), ("parity", plugin.parity), ("form", plugin.form)):
            expect(isinstance(text, str) and text.strip(), f"says nothing of its {what}")
        expect(set(plugin.rules) <= {"official", "corrected"} and plugin.rules, f"rules are {plugin.rules}, wanted official or corrected")
        names = [metric.name for metric in plugin.metrics]
        expect(names and len(set(names)) == len(names), f"metric names are missing or repeat: {names}")
        for metric in names:
            expect(PLAIN.fullmatch(metric), f"metric name {metric!r} is not plain")
        for look in plugin.looks:
            expect(look.role in ASKS, f"looks for role {look.role!r}, which is none of {', '.join(ASKS)}")

    def measures_everything(self) -> None:
        """Under each set of rules each declared metric once, finite, inside its interval, with honest counts and a row an image."""
        import numpy as np

        for rules in self.plugin.rules:
            score: Score = self.plugin.assess(self.sights, rules, False)
            found, declared = [m.metric for m in score.measurements], [m.name for m in self.plugin.metrics]
            self.expect(sorted(found) == sorted(declared), f"under {rules} rules it measures {found}, declares {declared}")
            for m in score.measurements:
                self.expect(m.value is not None, f"{m.metric} has no value under {rules} rules on good images: {m.reason}")
                numbers = [x for x in (m.value, m.se, m.low, m.high) if x is not None]
                self.expect(all(map(math.isfinite, numbers)), f"{m.metric} holds a number that is not finite: {numbers}")
                if m.value is not None and m.low is not None and m.high is not None:
                    self.expect(m.low <= m.value <= m.high, f"{m.metric}: {m.value} is outside its interval {m.low} to {m.high}")
            for key, rows in score.per_sample.items():
                self.expect(len(np.asarray(rows)) == len(self.sights), f"{key} has {len(rows)} rows for {len(self.sights)} images")
            self.expect(len(score.rows) == len(self.sights), f"tells of {len(score.rows)} of {len(self.sights)} images")
            self.expect(all(str(row.get("reason", "")).strip() for row in score.rows), f"under {rules} rules an image has no reason")

    def a_failure_is_no_score(self) -> None:
        """A failed image is counted; its metrics are None unless asked for what is left, and never a 0."""
        broken = [replace(self.sights[0], fault="no answer", seen={}), *self.sights[1:]]
        own = set(self.plugin.counts_for(self.sights[0].facts))
        strict = {m.metric: m for m in self.plugin.assess(broken, self.plugin.rules[0], False).measurements}
        for metric in own:
            m = strict[metric]
            self.expect(
                m.value is None and m.n_failed >= 1, f"{metric} is {m.value} with {m.n_failed} failed, wanted None and the failure counted"
            )
        for m in self.plugin.assess(broken, self.plugin.rules[0], True).measurements:
            self.expect(m.n_asked == m.n_scored + m.n_failed + m.n_abstained, f"{m.metric}: asked is not scored + failed + abstained")

    def repeats_itself(self) -> None:
        """The same answers give the same score."""
        one, other = (self.plugin.assess(self.sights, self.plugin.rules[0], False) for _ in range(2))
        self.expect(one.measurements == other.measurements and one.rows == other.rows, "says something else the second time")
