"""Evaluator dpg-bench: share of a prompt's questions that an image answers with yes, parents before
children, and its categories.

The rule is evaluators/rules/dpg.py; it reads the words that a visual question answering judge says.
Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harope_bench.core.annotations import Query, VqaAnnotation, VqaQuery
from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Metric
from harope_bench.evaluators.base import (
    AnnotatedImage,
    Annotations,
    AnnotatorRole,
    Metadata,
    SampleScore,
    WeightedScore,
)
from harope_bench.evaluators.prompt_scores import PromptEvaluator
from harope_bench.evaluators.rules import dpg as rule

METRICS = ("dpg", *rule.L1, *rule.L2)
SCALE = 100.0
NO_ANSWERS = "no answers"  # evidence of an image that nobody was asked about


def vqa_query(facts: Metadata, seen: Annotations) -> Query | None:
    """Every question of the item's rows, those too that the official rules skip."""
    return VqaQuery(
        questions=tuple(q.question for q in rule.DpgItem.model_validate(facts).questions)
    )


def _metric(name: str) -> Metric:
    title = "DPG-Bench score" if name == "dpg" else name.replace("-", ", ", 1)
    return Metric(name=name, title=title, direction="higher", unit="score0-100", decimals=2)


class DpgBenchEvaluator(PromptEvaluator):
    """The score, five broad categories and twelve of the thirteen detailed ones (the thirteenth is
    all of `global`).

    scores: the official script's own, of 0 to 1 by index, in place of the rule's under the official
    rules (imported results).
    """

    version = 3
    profile = "ella"
    parity = (
        "the rule equals a slow one written from the script's description, on random tables and on"
        " every edge case (tests/evaluators/test_dpg.py); finished runs are read back to the digit;"
        " categories are those of a run in one process; the judge's parity is its own"
    )
    metrics = tuple(map(_metric, METRICS))
    metadata_key = "dpg"
    annotator_roles = (AnnotatorRole("vqa", vqa_query),)

    def __init__(self, scores: Mapping[int, float] | None = None):
        self.scores = scores

    def task(self, facts: Metadata) -> str:
        """All prompts are of one task."""
        return "dpg"

    def metrics_of_prompt(self, facts: Metadata) -> tuple[str, ...]:
        """The score and every category that a question of the item has."""
        held = {
            name for question in facts["questions"] for name in rule.categories(question["tuple"])
        }
        return ("dpg", *(name for name in METRICS if name in held))

    def score_sample(self, facts: Metadata, seen: Annotations, rules: str) -> SampleScore:
        """Score of one image and its part in each category, with the questions that were not
        answered with yes.
        """
        item = rule.DpgItem.model_validate(facts)
        answers = _answer_texts(item, seen)
        tile = rule.score_answers(item, answers, rules)
        read = rule.row_indices(item, rules)
        parts = {"dpg": WeightedScore(SCALE * tile.score)}
        if tile.failure is None:
            sums = rule.category_sums(item, tile, rules)
            parts |= {
                name: WeightedScore(SCALE * total, count)
                for name, (total, count) in sums.items()
                if name in METRICS
            }
        blank = sum(not answers[place].strip() for place in read.values())
        evidence = _evidence(item, answers, tile, read)
        if self.scores is not None and blank == len(read):
            return SampleScore("dpg", parts, NO_ANSWERS, evidence={NO_ANSWERS: True})
        return SampleScore("dpg", parts, _reason(tile), blank, evidence)

    def finalize_scores(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
    ) -> Sequence[SampleScore | None]:
        """Marks once all are known: which items the rules lose, which image speaks for the
        categories, what an image weighs.
        """
        if rules == "corrected":
            heard = [
                None if mark is None or NO_ANSWERS in mark.evidence else mark for mark in marks
            ]
            return _equal_item_weights(sights, heard)
        if self.scores is not None:
            scores = self.scores
            imported = [
                _with_official_score(mark, scores.get(sight.index))
                for sight, mark in zip(sights, marks, strict=True)
            ]
            return _equal_item_weights(sights, _last_tile(sights, imported))
        gone = {
            s.prompt_index
            for s, m in zip(sights, marks, strict=True)
            if m is None or "lost" in m.evidence
        }
        kept = [
            None if sight.prompt_index in gone else mark
            for sight, mark in zip(sights, marks, strict=True)
        ]
        return _equal_item_weights(sights, _last_tile(sights, kept))

    def notes(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
    ) -> tuple[str, ...]:
        """What the rules lose, answers that are neither yes nor no, texts that are not the official
        ones, what categories rest on.
        """
        told = [
            *_excluded_items_note(sights, marks, rules),
            *_unclear_answers_note(sights, marks),
            *_prompt_texts_note(sights),
            *_unknown_categories_note(sights),
        ]
        if rules == "official":
            told.append(
                "categories: of the last image of each item alone and before dependencies, as the"
                " script counts them in one process"
            )
        return (*told, *self._agreement_note(sights))

    def _agreement_note(self, sights: Sequence[AnnotatedImage]) -> tuple[str, ...]:
        if not self.scores:
            return ()
        held = [
            (s, self.score_sample(s.metadata, s.annotations, "official"))
            for s in sights
            if s.index in self.scores and s.failure is None
        ]
        heard = [
            (s, mark.scores["dpg"].total) for s, mark in held if NO_ANSWERS not in mark.evidence
        ]
        if not heard:
            return (
                (
                    "scores: the official script's; its answers are not here, so the rule could not"
                    " be held against them"
                ),
            )
        other = [s.index for s, score in heard if abs(score - SCALE * self.scores[s.index]) > 1e-9]
        where = (
            f"; not on {', '.join(map(str, other[:5]))}{' ...' * (len(other) > 5)}" if other else ""
        )
        return (
            (
                "scores: the official script's; the rule on its answers agrees on"
                f" {len(heard) - len(other):,} of {len(heard):,}{where}"
            ),
        )


def _answer_texts(item: rule.DpgItem, seen: Annotations) -> list[str]:
    answer = seen.get("vqa")
    texts = [one.text for one in answer.answers] if isinstance(answer, VqaAnnotation) else []
    if len(texts) != len(item.questions):
        raise ShapeError(
            f"item {item.item} has {len(item.questions)} questions, the judge gave {len(texts)}"
            " answers; judge it again"
        )
    return texts


def _reason(tile: rule.ImageScore) -> str:
    if tile.failure is not None:
        return tile.failure
    yes = sum(map(bool, tile.raw_answers.values()))
    zeroed = sum(tile.raw_answers[number] > 0 for number in tile.zeroed_by)
    return f"{yes} of {len(tile.raw_answers)} answered yes" + (
        f", {zeroed} of them 0 by what they depend on" if zeroed else ""
    )


def _evidence(
    item: rule.DpgItem, answers: Sequence[str], tile: rule.ImageScore, read: Mapping[int, int]
) -> Metadata:
    """The questions that are 0, with what they depend on; `by` is the parent that made one 0."""
    zero = []
    for number, place in read.items():
        if tile.final_answers.get(number) == 0:
            asked = item.questions[place]
            row: dict[str, object] = {
                "id": number,
                "question": asked.question,
                "answer": answers[place],
                "category": asked.categories[-1],
            }
            row |= {"parents": [p for p in asked.parents if p]} if any(asked.parents) else {}
            zero.append(row | ({"by": tile.zeroed_by[number]} if number in tile.zeroed_by else {}))
    found: dict[str, object] = {"item": item.item, "questions": len(read), "zero": zero}
    return found | ({"lost": tile.failure} if tile.failure is not None else {})


def _with_official_score(mark: SampleScore | None, score: float | None) -> SampleScore | None:
    """The mark with the script's own score; none where the script has none."""
    if mark is None or score is None:
        return None
    if NO_ANSWERS in mark.evidence:
        return replace(
            mark,
            scores={"dpg": WeightedScore(SCALE * score)},
            reason="the script's score; its answers are not here",
        )
    return replace(
        mark,
        scores={**mark.scores, "dpg": WeightedScore(SCALE * score)},
        evidence={k: v for k, v in mark.evidence.items() if k != "lost"},
    )


def _last_tile(
    sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None]
) -> list[SampleScore | None]:
    """Marks without categories but for the last image of each item."""
    last: dict[int, int] = {}
    for sight, mark in zip(sights, marks, strict=True):
        if mark is not None:
            last[sight.prompt_index] = max(sight.copy, last.get(sight.prompt_index, 0))
    return [
        (
            mark
            if mark is None or last[sight.prompt_index] == sight.copy
            else replace(mark, scores={"dpg": mark.scores["dpg"]})
        )
        for sight, mark in zip(sights, marks, strict=True)
    ]


def _equal_item_weights(
    sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None]
) -> list[SampleScore | None]:
    """An item weighs the same in the score however many of its images there are."""
    images = Counter(
        sight.prompt_index for sight, mark in zip(sights, marks, strict=True) if mark is not None
    )
    most = max(images.values(), default=1)
    return [
        _with_weight(mark, most / images[sight.prompt_index]) if mark else None
        for sight, mark in zip(sights, marks, strict=True)
    ]


def _with_weight(mark: SampleScore, weight: float) -> SampleScore:
    if weight == 1:
        return mark
    return replace(
        mark,
        scores={**mark.scores, "dpg": WeightedScore(weight * mark.scores["dpg"].total, weight)},
    )


def _excluded_items_note(
    sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
) -> list[str]:
    gone: dict[str, int] = defaultdict(int)
    for sight, mark in zip(sights, marks, strict=True):
        if mark is None and sight.failure is None:
            gone[str(sight.metadata["item"])] += 1
    if not gone:
        return []
    names = ", ".join(list(gone)[:5]) + " ..." * (len(gone) > 5)
    return [
        f"items: {len(gone):,} with {sum(gone.values()):,} images left out under the {rules} rules:"
        f" {names}"
    ]


def _unclear_answers_note(
    sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None]
) -> list[str]:
    """Open-ended judges also say other words, which are worth as little as a no."""
    words: Counter[str] = Counter()
    for sight, mark in zip(sights, marks, strict=True):
        answer = sight.annotations.get("vqa")
        if mark is not None and isinstance(answer, VqaAnnotation):
            words.update(one.text for one in answer.answers)
    other = {
        word: n
        for word, n in words.items()
        if word.strip() and word.strip().lower().removesuffix(".") not in (rule.YES, "no")
    }
    if not other:
        return []
    most = ", ".join(repr(word[:30]) for word, _ in Counter(other).most_common(3))
    return [
        f"answers: {sum(other.values()):,} of {words.total():,} are neither yes nor no and count as"
        f" no, most often {most}"
    ]


def _prompt_texts_note(sights: Sequence[AnnotatedImage]) -> list[str]:
    by_prompt = {s.prompt_index: s.metadata.get("official_text") for s in sights}
    other = sum(
        known is False for known in by_prompt.values()
    )  # None: a suite without official texts
    return (
        [
            f"prompts: {other:,} of {len(by_prompt):,} texts of the table are not those of the"
            " official prompt files"
        ]
        if other
        else []
    )


def _unknown_categories_note(sights: Sequence[AnnotatedImage]) -> list[str]:
    phrases = {question["tuple"] for sight in sights for question in sight.metadata["questions"]}
    odd = sorted({name for phrase in phrases for name in rule.categories(phrase)} - set(METRICS))
    return (
        [f"categories: {', '.join(odd[:5])} are none of DPG-Bench's; they count in the score alone"]
        if odd
        else []
    )


PLUGIN = DpgBenchEvaluator()
