"""T2I-CompBench's aggregates: the product of BLIP's answers, and the 3-in-1 mean of three scores.

Source: BLIPvqa_eval/BLIP_vqa.py and 3_in_1_eval/3_in_1.py at 1b709499. compbench_quirks.py lists
their oddities.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from harope_bench.evaluators.rules.compbench_quirks import RuleOutcome, Rules

MAX_CHUNKS = 8  # noun chunks of a prompt that become questions
IMAGES_PER_PROMPT = 10  # which the 3-in-1 script assumes
COMPLEX_PARTS = {  # scores that are averaged, by kind of complex prompt
    "spatial": ("spatial", "attribute"),
    "action": ("action", "attribute"),
    "both": ("attribute", "spatial", "action"),
}


def attribute_score(yes_probabilities: Sequence[float], rules: Rules) -> RuleOutcome:
    """Return the product of the probabilities of yes of a prompt's noun chunks.

    >>> attribute_score([0.5, 0.33333], "official").value
    0.1666
    """
    factors = " x ".join(f"{probability:.4f}" for probability in yes_probabilities)
    if rules == "corrected":
        if not yes_probabilities:
            return RuleOutcome(None, "no noun chunk was read in the prompt")
        return RuleOutcome(math.prod(yes_probabilities), factors)

    # The official script rounds every factor and the product to 4 decimals, in float32.
    product = np.float32(1)
    for probability in yes_probabilities[:MAX_CHUNKS]:
        product *= np.float32(f"{probability:.4f}")
    reason = factors or "no noun chunk was read in the prompt: 1"
    return RuleOutcome(float(f"{product:.4f}"), reason)


def complex_kind(
    prompt: str, prompts_by_kind: Mapping[str, Collection[str]], rules: Rules
) -> str | None:
    """Return whether a complex prompt names a position ("spatial"), an action or both.

    Args:
        prompt: text of the prompt.
        prompts_by_kind: the prompts of "spatial", "action" and "both".
        rules: the official rules compare the first sentences and default to "both".

    Returns:
        None under the corrected rules, if no list contains the prompt.
    """
    if rules == "corrected":
        return next((kind for kind in COMPLEX_PARTS if prompt in prompts_by_kind[kind]), None)
    sentence = _first_sentence(prompt)
    for kind in ("spatial", "action"):
        if sentence in {_first_sentence(text) for text in prompts_by_kind[kind]}:
            return kind
    return "both"


def _first_sentence(prompt: str) -> str:
    return prompt.split(".")[0].lower()


def three_in_one(kind: str | None, scores: Mapping[str, float | None]) -> RuleOutcome:
    """Return the mean of the scores that a complex prompt of this kind has; None is excluded."""
    if kind is None:
        return RuleOutcome(None, "the prompt is in none of the three lists")
    scores_of_kind = {name: scores[name] for name in COMPLEX_PARTS[kind]}
    reason = ", ".join(
        f"{name} {'not known' if score is None else format(score, '.4f')}"
        for name, score in scores_of_kind.items()
    )
    values = [score for score in scores_of_kind.values() if score is not None]
    if not values:
        return RuleOutcome(None, reason)
    # The script multiplies by 0.5 and divides by 3, which rounds differently.
    mean = sum(values) * 0.5 if len(values) == 2 else sum(values) / len(values)
    return RuleOutcome(mean, reason)


def join_by_position(
    prompt_kinds: Sequence[str], scores: Mapping[str, Sequence[float]]
) -> list[float]:
    """Return the 3-in-1 scores of three lists of scores, joined by position as the script does.

    Args:
        prompt_kinds: key of COMPLEX_PARTS for each prompt, which names the parts that count.
        scores: scores of "attribute", "spatial" and "action", in the order of their files.

    Returns:
        One score for each of ten images of each prompt.

    Raises:
        ValueError: The lists have different lengths. The script raises it too.
    """
    mean_scores = np.zeros(IMAGES_PER_PROMPT * len(prompt_kinds))
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    for k, kind in enumerate(prompt_kinds):
        rows = slice(k * IMAGES_PER_PROMPT, (k + 1) * IMAGES_PER_PROMPT)
        first_part, *other_parts = (arrays[name][rows] for name in COMPLEX_PARTS[kind])
        total = sum(other_parts, first_part)
        mean_scores[rows] = total * 0.5 if len(other_parts) == 1 else total / 3
    return [float(score) for score in mean_scores]
