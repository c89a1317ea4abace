"""Evaluator dpg-bench: fraction of a prompt's questions that an image answers with yes.

A question whose parent question scores 0 scores 0. Scores are also given by category. The rule is
evaluators/rules/dpg.py. It reads the answers of a visual question answering (VQA) annotator.

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
NO_ANSWERS = "no answers"  # key of the evidence of an image without answers
MAX_LISTED = 5  # indices or names that a note lists
SCORE_TOLERANCE = 1e-9  # below which the rule and the official script agree

OptionalScores = Sequence[SampleScore | None]


def vqa_query(metadata: Metadata, annotations: Annotations) -> Query | None:
    """Return the query with every question of the item, also those the official rules skip."""
    item = rule.DpgItem.model_validate(metadata)
    return VqaQuery(questions=tuple(question.question for question in item.questions))


def _metric(name: str) -> Metric:
    title = "DPG-Bench score" if name == "dpg" else name.replace("-", ", ", 1)
    return Metric(name=name, title=title, direction="higher", unit="score0-100", decimals=2)


class DpgBenchEvaluator(PromptEvaluator):
    """Evaluator of the DPG-Bench score and its categories.

    There are five broad and twelve of the thirteen detailed categories. The thirteenth is equal to
    `global`.

    Args:
        official_scores: scores of the official script, 0 to 1, by sample index, from imported
            results. Under the official rules they replace those of the rule.
    """

    version = 3
    title = "DPG-Bench"
    profile = "ella"
    parity = (
        "the rule equals a slow one written from the script's description, on random tables and on"
        " every edge case (tests/evaluators/test_dpg.py); results of the script are reproduced to"
        " the last digit; categories are those of a run in one process; the judge states its own"
        " parity"
    )
    metrics = tuple(map(_metric, METRICS))
    metadata_key = "dpg"
    annotator_roles = (AnnotatorRole("vqa", vqa_query),)

    def __init__(self, official_scores: Mapping[int, float] | None = None):
        self.official_scores = official_scores

    def task(self, metadata: Metadata) -> str:
        """Return the single task of all prompts."""
        return "dpg"

    def metrics_of_prompt(self, metadata: Metadata) -> tuple[str, ...]:
        """Return the score and every category of the item's questions."""
        names = {
            name
            for question in metadata["questions"]
            for name in rule.categories(question["tuple"])
        }
        return ("dpg", *(name for name in METRICS if name in names))

    def score_sample(self, metadata: Metadata, annotations: Annotations, rules: str) -> SampleScore:
        """Return the score of one image, also by category, with the questions that scored 0."""
        item = rule.DpgItem.model_validate(metadata)
        answers = _answer_texts(item, annotations)
        image_score = rule.score_answers(item, answers, rules)
        row_indices = rule.row_indices(item, rules)

        scores = {"dpg": WeightedScore(SCALE * image_score.score)}
        if image_score.failure is None:
            for name, (total, count) in rule.category_sums(item, image_score, rules).items():
                if name in METRICS:
                    scores[name] = WeightedScore(SCALE * total, count)

        n_blank = sum(not answers[index].strip() for index in row_indices.values())
        if self.official_scores is not None and n_blank == len(row_indices):
            return SampleScore("dpg", scores, NO_ANSWERS, evidence={NO_ANSWERS: True})
        evidence = _evidence(item, answers, image_score, row_indices)
        return SampleScore("dpg", scores, _reason(image_score), n_blank, evidence)

    def finalize_scores(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: OptionalScores,
        rules: str,
    ) -> OptionalScores:
        """Return the scores after the rules that read all images of an item.

        Every item gets the same weight. Under the official rules, items with a failure are
        excluded, and only the last image of each item counts in the categories.
        """
        if rules == "corrected":
            with_answers = [
                None if score is None or NO_ANSWERS in score.evidence else score
                for score in sample_scores
            ]
            return _weight_items_equally(annotated_images, with_answers)

        if self.official_scores is not None:
            official_scores = self.official_scores
            included_scores = [
                _with_official_score(score, official_scores.get(image.index))
                for image, score in zip(annotated_images, sample_scores, strict=True)
            ]
        else:
            included_scores = _without_failed_items(annotated_images, sample_scores)
        scores = _keep_categories_of_last_copy(annotated_images, included_scores)
        return _weight_items_equally(annotated_images, scores)

    def notes(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: OptionalScores,
        rules: str,
    ) -> tuple[str, ...]:
        """Return notes on excluded items, unclear answers, unofficial texts and categories."""
        notes = [
            *_excluded_items_note(annotated_images, sample_scores, rules),
            *_unclear_answers_note(annotated_images, sample_scores),
            *_prompt_texts_note(annotated_images),
            *_unknown_categories_note(annotated_images),
        ]
        if rules == "official":
            notes.append(
                "categories: each is scored on the last image of its prompts only and without"
                " dependencies between questions, as the official script does in one process"
            )
        return (*notes, *self._agreement_note(annotated_images))

    def _agreement_note(self, annotated_images: Sequence[AnnotatedImage]) -> tuple[str, ...]:
        """Return how many imported scores the rule reproduces; empty without imported ones."""
        if not self.official_scores:
            return ()
        rule_scores: dict[int, float] = {}  # by sample index
        for image in annotated_images:
            if image.index not in self.official_scores or image.failure is not None:
                continue
            score = self.score_sample(image.metadata, image.annotations, "official")
            if NO_ANSWERS not in score.evidence:
                rule_scores[image.index] = score.scores["dpg"].total
        if not rule_scores:
            return (
                (
                    "scores: those of the official script; its answers are missing, so the rule"
                    " could not be compared with them"
                ),
            )

        differing_indices = [
            index
            for index, score in rule_scores.items()
            if abs(score - SCALE * self.official_scores[index]) > SCORE_TOLERANCE
        ]
        exceptions = f"; not on {_list_first(differing_indices)}" if differing_indices else ""
        n_agreeing = len(rule_scores) - len(differing_indices)
        return (
            (
                "scores: those of the official script; the rule on its answers agrees on"
                f" {n_agreeing:,} of {len(rule_scores):,}{exceptions}"
            ),
        )


def _list_first(names: Sequence[object]) -> str:
    """Return the first few names, separated by commas."""
    name_list = ", ".join(map(str, names[:MAX_LISTED]))
    return f"{name_list} ..." if len(names) > MAX_LISTED else name_list


def _answer_texts(item: rule.DpgItem, annotations: Annotations) -> list[str]:
    """Return the answer to each of the item's questions.

    Raises:
        ShapeError: The number of answers is not the number of questions.
    """
    annotation = annotations.get("vqa")
    texts = []
    if isinstance(annotation, VqaAnnotation):
        texts = [answer.text for answer in annotation.answers]
    if len(texts) != len(item.questions):
        raise ShapeError(
            f"item {item.item} has {len(item.questions)} questions, the judge gave {len(texts)}"
            " answers; annotate it again"
        )
    return texts


def _reason(image_score: rule.ImageScore) -> str:
    """Return how many questions were answered with yes, and how many of these became 0."""
    if image_score.failure is not None:
        return image_score.failure
    n_yes = sum(map(bool, image_score.raw_answers.values()))
    n_zeroed = sum(image_score.raw_answers[number] > 0 for number in image_score.zeroing_parents)
    reason = f"{n_yes} of {len(image_score.raw_answers)} answered yes"
    if n_zeroed:
        reason += f", {n_zeroed} of them 0 by what they depend on"
    return reason


def _evidence(
    item: rule.DpgItem,
    answers: Sequence[str],
    image_score: rule.ImageScore,
    row_indices: Mapping[int, int],
) -> Metadata:
    """Return the questions that scored 0, with their parents, as JSON values.

    Args:
        item: the prompt's questions.
        answers: one answer for each of them.
        image_score: the scored answers.
        row_indices: index in `item.questions` of each scored question, by its id.
    """
    zero_questions = []
    for number, index in row_indices.items():
        if image_score.final_answers.get(number) != 0:
            continue
        question = item.questions[index]
        row: dict[str, object] = {
            "id": number,
            "question": question.question,
            "answer": answers[index],
            "category": question.categories[-1],
        }
        if any(question.parents):
            row["parents"] = [parent for parent in question.parents if parent]
        if number in image_score.zeroing_parents:
            row["zeroed_by"] = image_score.zeroing_parents[number]
        zero_questions.append(row)

    evidence: dict[str, object] = {
        "item": item.item,
        "questions": len(row_indices),
        "zero_questions": zero_questions,
    }
    if image_score.failure is not None:
        evidence["failure"] = image_score.failure
    return evidence


def _with_official_score(
    sample_score: SampleScore | None, official_score: float | None
) -> SampleScore | None:
    """Return the score with the script's own score; None if the script has none."""
    if sample_score is None or official_score is None:
        return None
    dpg = WeightedScore(SCALE * official_score)
    if NO_ANSWERS in sample_score.evidence:
        reason = "score of the official script; its answers are missing"
        return replace(sample_score, scores={"dpg": dpg}, reason=reason)
    evidence = {key: value for key, value in sample_score.evidence.items() if key != "failure"}
    return replace(sample_score, scores={**sample_score.scores, "dpg": dpg}, evidence=evidence)


def _without_failed_items(
    annotated_images: Sequence[AnnotatedImage], sample_scores: OptionalScores
) -> list[SampleScore | None]:
    """Return the scores without all images of items of which one image has no score or failed."""
    failed_prompts = {
        image.prompt_index
        for image, score in zip(annotated_images, sample_scores, strict=True)
        if score is None or "failure" in score.evidence
    }
    return [
        None if image.prompt_index in failed_prompts else score
        for image, score in zip(annotated_images, sample_scores, strict=True)
    ]


def _keep_categories_of_last_copy(
    annotated_images: Sequence[AnnotatedImage], sample_scores: OptionalScores
) -> list[SampleScore | None]:
    """Return the scores; of each prompt, only the last scored copy keeps its category scores.

    The official script overwrites an item's category scores with those of the next copy. The other
    copies keep the score "dpg" alone.
    """
    last_copies: dict[int, int] = {}  # by prompt index
    for image, score in zip(annotated_images, sample_scores, strict=True):
        if score is not None:
            last_copy = last_copies.get(image.prompt_index, 0)
            last_copies[image.prompt_index] = max(image.copy, last_copy)

    scores: list[SampleScore | None] = []
    for image, score in zip(annotated_images, sample_scores, strict=True):
        if score is None or last_copies[image.prompt_index] == image.copy:
            scores.append(score)
        else:
            scores.append(replace(score, scores={"dpg": score.scores["dpg"]}))
    return scores


def _weight_items_equally(
    annotated_images: Sequence[AnnotatedImage], sample_scores: OptionalScores
) -> list[SampleScore | None]:
    """Return the scores, weighted so that every item counts the same in the DPG score."""
    image_counts = Counter(
        image.prompt_index
        for image, score in zip(annotated_images, sample_scores, strict=True)
        if score is not None
    )
    max_images = max(image_counts.values(), default=1)
    return [
        _with_weight(score, max_images / image_counts[image.prompt_index]) if score else None
        for image, score in zip(annotated_images, sample_scores, strict=True)
    ]


def _with_weight(sample_score: SampleScore, weight: float) -> SampleScore:
    if weight == 1:
        return sample_score
    dpg = WeightedScore(weight * sample_score.scores["dpg"].total, weight)
    return replace(sample_score, scores={**sample_score.scores, "dpg": dpg})


def _excluded_items_note(
    annotated_images: Sequence[AnnotatedImage], sample_scores: OptionalScores, rules: str
) -> list[str]:
    """Return a note on the items that the rules exclude."""
    image_counts: dict[str, int] = defaultdict(int)  # by item
    for image, score in zip(annotated_images, sample_scores, strict=True):
        if score is None and image.failure is None:
            image_counts[str(image.metadata["item"])] += 1
    if not image_counts:
        return []
    return [
        f"items: the {rules} rules exclude {len(image_counts):,} with"
        f" {sum(image_counts.values()):,} images: {_list_first(list(image_counts))}"
    ]


def _unclear_answers_note(
    annotated_images: Sequence[AnnotatedImage], sample_scores: OptionalScores
) -> list[str]:
    """Return a note on answers other than yes and no, which open-ended judges may give."""
    counts: Counter[str] = Counter()
    for image, score in zip(annotated_images, sample_scores, strict=True):
        annotation = image.annotations.get("vqa")
        if score is not None and isinstance(annotation, VqaAnnotation):
            counts.update(answer.text for answer in annotation.answers)
    unclear_counts = {
        text: count
        for text, count in counts.items()
        if text.strip() and text.strip().lower().removesuffix(".") not in (rule.YES, "no")
    }
    if not unclear_counts:
        return []
    commonest = ", ".join(repr(text[:30]) for text, _ in Counter(unclear_counts).most_common(3))
    return [
        f"answers: {sum(unclear_counts.values()):,} of {counts.total():,} are neither yes nor no"
        f" and count as no, most often {commonest}"
    ]


def _prompt_texts_note(annotated_images: Sequence[AnnotatedImage]) -> list[str]:
    """Return a note on prompts whose text is not the official one."""
    # None: the suite has no official texts
    is_official = {
        image.prompt_index: image.metadata.get("official_text") for image in annotated_images
    }
    n_unofficial = sum(official is False for official in is_official.values())
    if not n_unofficial:
        return []
    return [
        f"prompts: {n_unofficial:,} of {len(is_official):,} texts of the table are not those of the"
        " official prompt files"
    ]


def _unknown_categories_note(annotated_images: Sequence[AnnotatedImage]) -> list[str]:
    """Return a note on categories that are not DPG-Bench's."""
    phrases = {
        question["tuple"] for image in annotated_images for question in image.metadata["questions"]
    }
    names = {name for phrase in phrases for name in rule.categories(phrase)}
    unknown_names = sorted(names - set(METRICS))
    if not unknown_names:
        return []
    name_list = ", ".join(unknown_names[:MAX_LISTED])
    return [f"categories: {name_list} are none of DPG-Bench's; they count in the score alone"]


PLUGIN = DpgBenchEvaluator()
