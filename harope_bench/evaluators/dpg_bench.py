"""Evaluator dpg-bench: share of a prompt's questions that an image answers with yes, parents before children, and its categories.

The rule is evaluators/rules/dpg.py; it reads the words that a visual question answering judge says.
Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harope_bench.core.annotations import Answers, Ask, Questions
from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Metric
from harope_bench.evaluators.base import Facts, Look, Mark, Part, Seen, Sight
from harope_bench.evaluators.prompt_scores import Prompts
from harope_bench.evaluators.rules import dpg as rule

METRICS = ("dpg", *rule.L1, *rule.L2)
SCALE = 100.0
SILENT = "no answers"  # evidence of an image that nobody was asked about


def ask_questions(facts: Facts, seen: Seen) -> Ask | None:
    """Every question of the item's rows, those too that the official rules skip."""
    return Questions(questions=tuple(q.question for q in rule.Item.model_validate(facts).questions))


def _metric(name: str) -> Metric:
    title = "DPG-Bench score" if name == "dpg" else name.replace("-", ", ", 1)
    return Metric(name=name, title=title, direction="higher", unit="score0-100", decimals=2)


class DpgBench(Prompts):
    """The score, five broad categories and twelve of the thirteen detailed ones (the thirteenth is all of `global`).

    scores: the official script's own, of 0 to 1 by index, in place of the rule's under the official rules (imported results).
    """

    version = 3
    profile = "ella"
    parity = (
        "the rule equals a slow one written from the script's description, on random tables and on every edge case "
        "(tests/evaluators/test_dpg.py);"
        " finished runs are read back to the digit; categories are those of a run in one process; the judge's parity is its own"
    )
    metrics = tuple(map(_metric, METRICS))
    form = "dpg"
    looks = (Look("vqa", ask_questions),)

    def __init__(self, scores: Mapping[int, float] | None = None):
        self.scores = scores

    def task(self, facts: Facts) -> str:
        """All prompts are of one task."""
        return "dpg"

    def counts_for(self, facts: Facts) -> tuple[str, ...]:
        """The score and every category that a question of the item has."""
        held = {name for question in facts["questions"] for name in rule.categories(question["tuple"])}
        return ("dpg", *(name for name in METRICS if name in held))

    def mark(self, facts: Facts, seen: Seen, rules: str) -> Mark:
        """Score of one image and its part in each category, with the questions that were not answered with yes."""
        item = rule.Item.model_validate(facts)
        answers = _texts(item, seen)
        tile = rule.scored(item, answers, rules)
        read = rule.places(item, rules)
        parts = {"dpg": Part(SCALE * tile.score)}
        if tile.lost is None:
            sums = rule.by_category(item, tile, rules)
            parts |= {name: Part(SCALE * total, count) for name, (total, count) in sums.items() if name in METRICS}
        blank = sum(not answers[place].strip() for place in read.values())
        evidence = _evidence(item, answers, tile, read)
        if self.scores is not None and blank == len(read):
            return Mark("dpg", parts, SILENT, evidence={SILENT: True})
        return Mark("dpg", parts, _reason(tile), blank, evidence)

    def settle(self, sights: Sequence[Sight], marks: Sequence[Mark | None], rules: str) -> Sequence[Mark | None]:
        """Marks once all are known: which items the rules lose, which image speaks for the categories, what an image weighs."""
        if rules == "corrected":
            heard = [None if mark is None or SILENT in mark.evidence else mark for mark in marks]
            return _weighed(sights, heard)
        if self.scores is not None:
            scores = self.scores
            imported = [_told(mark, scores.get(sight.index)) for sight, mark in zip(sights, marks, strict=True)]
            return _weighed(sights, _last_tile(sights, imported))
        gone = {s.prompt for s, m in zip(sights, marks, strict=True) if m is None or "lost" in m.evidence}
        kept = [None if sight.prompt in gone else mark for sight, mark in zip(sights, marks, strict=True)]
        return _weighed(sights, _last_tile(sights, kept))

    def notes(self, sights: Sequence[Sight], marks: Sequence[Mark | None], rules: str) -> tuple[str, ...]:
        """What the rules lose, answers that are neither yes nor no, texts that are not the official ones, what categories rest on."""
        told = [*_lost(sights, marks, rules), *_neither(sights, marks), *_texts_told(sights), *_odd_categories(sights)]
        if rules == "official":
            told.append(
                "categories: of the last image of each item alone and before dependencies, as the script counts them in one process"
            )
        return (*told, *self._agreement(sights))

    def _agreement(self, sights: Sequence[Sight]) -> tuple[str, ...]:
        if not self.scores:
            return ()
        held = [(s, self.mark(s.facts, s.seen, "official")) for s in sights if s.index in self.scores and s.fault is None]
        heard = [(s, mark.parts["dpg"].total) for s, mark in held if SILENT not in mark.evidence]
        if not heard:
            return ("scores: the official script's; its answers are not here, so the rule could not be held against them",)
        other = [s.index for s, score in heard if abs(score - SCALE * self.scores[s.index]) > 1e-9]
        where = f"; not on {', '.join(map(str, other[:5]))}{' ...' * (len(other) > 5)}" if other else ""
        return (f"scores: the official script's; the rule on its answers agrees on {len(heard) - len(other):,} of {len(heard):,}{where}",)


def _texts(item: rule.Item, seen: Seen) -> list[str]:
    answer = seen.get("vqa")
    texts = [one.text for one in answer.answers] if isinstance(answer, Answers) else []
    if len(texts) != len(item.questions):
        raise ShapeError(f"item {item.item} has {len(item.questions)} questions, the judge gave {len(texts)} answers; judge it again")
    return texts


def _reason(tile: rule.Tile) -> str:
    if tile.lost is not None:
        return tile.lost
    yes, zeroed = sum(map(bool, tile.raw.values())), sum(tile.raw[number] > 0 for number in tile.zeroed)
    return f"{yes} of {len(tile.raw)} answered yes" + (f", {zeroed} of them 0 by what they depend on" if zeroed else "")


def _evidence(item: rule.Item, answers: Sequence[str], tile: rule.Tile, read: Mapping[int, int]) -> Facts:
    """The questions that are 0, with what they depend on; `by` is the parent that made one 0."""
    zero = []
    for number, place in read.items():
        if tile.final.get(number) == 0:
            asked = item.questions[place]
            row: dict[str, object] = {"id": number, "question": asked.question, "answer": answers[place], "category": asked.categories[-1]}
            row |= {"parents": [p for p in asked.parents if p]} if any(asked.parents) else {}
            zero.append(row | ({"by": tile.zeroed[number]} if number in tile.zeroed else {}))
    found: dict[str, object] = {"item": item.item, "questions": len(read), "zero": zero}
    return found | ({"lost": tile.lost} if tile.lost is not None else {})


def _told(mark: Mark | None, score: float | None) -> Mark | None:
    """The mark with the script's own score; none where the script has none."""
    if mark is None or score is None:
        return None
    if SILENT in mark.evidence:
        return replace(mark, parts={"dpg": Part(SCALE * score)}, reason="the script's score; its answers are not here")
    return replace(mark, parts={**mark.parts, "dpg": Part(SCALE * score)}, evidence={k: v for k, v in mark.evidence.items() if k != "lost"})


def _last_tile(sights: Sequence[Sight], marks: Sequence[Mark | None]) -> list[Mark | None]:
    """Marks without categories but for the last image of each item."""
    last: dict[int, int] = {}
    for sight, mark in zip(sights, marks, strict=True):
        if mark is not None:
            last[sight.prompt] = max(sight.copy, last.get(sight.prompt, 0))
    return [
        mark if mark is None or last[sight.prompt] == sight.copy else replace(mark, parts={"dpg": mark.parts["dpg"]})
        for sight, mark in zip(sights, marks, strict=True)
    ]


def _weighed(sights: Sequence[Sight], marks: Sequence[Mark | None]) -> list[Mark | None]:
    """An item weighs the same in the score however many of its images there are."""
    images = Counter(sight.prompt for sight, mark in zip(sights, marks, strict=True) if mark is not None)
    most = max(images.values(), default=1)
    return [_at_weight(mark, most / images[sight.prompt]) if mark else None for sight, mark in zip(sights, marks, strict=True)]


def _at_weight(mark: Mark, weight: float) -> Mark:
    if weight == 1:
        return mark
    return replace(mark, parts={**mark.parts, "dpg": Part(weight * mark.parts["dpg"].total, weight)})


def _lost(sights: Sequence[Sight], marks: Sequence[Mark | None], rules: str) -> list[str]:
    gone: dict[str, int] = defaultdict(int)
    for sight, mark in zip(sights, marks, strict=True):
        if mark is None and sight.fault is None:
            gone[str(sight.facts["item"])] += 1
    if not gone:
        return []
    names = ", ".join(list(gone)[:5]) + " ..." * (len(gone) > 5)
    return [f"items: {len(gone):,} with {sum(gone.values()):,} images left out under the {rules} rules: {names}"]


def _neither(sights: Sequence[Sight], marks: Sequence[Mark | None]) -> list[str]:
    """Open-ended judges also say other words, which are worth as little as a no."""
    words: Counter[str] = Counter()
    for sight, mark in zip(sights, marks, strict=True):
        answer = sight.seen.get("vqa")
        if mark is not None and isinstance(answer, Answers):
            words.update(one.text for one in answer.answers)
    other = {word: n for word, n in words.items() if word.strip() and word.strip().lower().removesuffix(".") not in (rule.YES, "no")}
    if not other:
        return []
    most = ", ".join(repr(word[:30]) for word, _ in Counter(other).most_common(3))
    return [f"answers: {sum(other.values()):,} of {words.total():,} are neither yes nor no and count as no, most often {most}"]


def _texts_told(sights: Sequence[Sight]) -> list[str]:
    by_prompt = {s.prompt: s.facts.get("official_text") for s in sights}
    other = sum(known is False for known in by_prompt.values())  # None: a suite without official texts
    return [f"prompts: {other:,} of {len(by_prompt):,} texts of the table are not those of the official prompt files"] if other else []


def _odd_categories(sights: Sequence[Sight]) -> list[str]:
    phrases = {question["tuple"] for sight in sights for question in sight.facts["questions"]}
    odd = sorted({name for phrase in phrases for name in rule.categories(phrase)} - set(METRICS))
    return [f"categories: {', '.join(odd[:5])} are none of DPG-Bench's; they count in the score alone"] if odd else []


PLUGIN = DpgBench()
