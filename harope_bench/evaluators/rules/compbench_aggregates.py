"""T2I-CompBench's sums: the product of BLIP's answers, and 3-in-1 of attribute, spatial and action
score.

Source: BLIPvqa_eval/BLIP_vqa.py and 3_in_1_eval/3_in_1.py at 1b709499; what is odd stands in
compbench_quirks.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from harope_bench.evaluators.rules.compbench_quirks import RuleOutcome, Rules

MAX_CHUNKS = 8  # noun chunks that are asked
IMAGES_PER_PROMPT = 10  # of a prompt, which 3-in-1 counts on
COMPLEX_PARTS = {
    "spatial": ("spatial", "attribute"),
    "action": ("action", "attribute"),
    "both": ("attribute", "spatial", "action"),
}


def attribute_score(shares: Sequence[float], rules: Rules) -> RuleOutcome:
    """The product of the shares of yes of a prompt's noun chunks.

    >>> product([0.5, 0.33333], "official").value
    0.1666
    """
    told = " x ".join(f"{share:.4f}" for share in shares)
    if rules == "corrected":
        return (
            RuleOutcome(math.prod(shares), told)
            if shares
            else RuleOutcome(None, "no noun chunk was read in the prompt")
        )
    found = np.float32(1)
    for share in shares[:MAX_CHUNKS]:
        found *= np.float32(f"{share:.4f}")
    return RuleOutcome(float(f"{found:.4f}"), told or "no noun chunk was read in the prompt: 1")


def complex_kind(prompt: str, lists: Mapping[str, Collection[str]], rules: Rules) -> str | None:
    """Whether a complex prompt names a place (`spatial`), an action or both; None (corrected) where
    no list has it.

    Args:
        lists: prompts of `spatial`, `action` and `both`.
    """
    if rules == "official":
        start = _first_sentence(prompt)
        return next(
            (
                name
                for name in ("spatial", "action")
                if start in {_first_sentence(text) for text in lists[name]}
            ),
            "both",
        )
    return next((name for name in COMPLEX_PARTS if prompt in lists[name]), None)


def _first_sentence(prompt: str) -> str:
    return prompt.split(".")[0].lower()


def three_in_one(which: str | None, parts: Mapping[str, float | None]) -> RuleOutcome:
    """The mean of the parts that a prompt of this kind has; a part that is None is left out."""
    if which is None:
        return RuleOutcome(None, "the prompt is in none of the three lists")
    found = {name: parts[name] for name in COMPLEX_PARTS[which]}
    values = [value for value in found.values() if value is not None]
    told = ", ".join(
        f"{name} {'not known' if value is None else format(value, '.4f')}"
        for name, value in found.items()
    )
    if not values:
        return RuleOutcome(None, told)
    return RuleOutcome(sum(values) * 0.5 if len(values) == 2 else sum(values) / len(values), told)


def join_by_position(kinds: Sequence[str], answers: Mapping[str, Sequence[float]]) -> list[float]:
    """3-in-1 of three lists joined by place, ten images a prompt, as the official script does it.

    Args:
        kinds: of each prompt. answers: `attribute`, `spatial` and `action`, in the order of their
            files.

    Returns:
        A value for each of ten images of each prompt.

    Raises:
        ValueError: lists that do not reach as far as each other, as in the script.
    """
    found = np.zeros(IMAGES_PER_PROMPT * len(kinds))
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in answers.items()}
    for k, which in enumerate(kinds):
        rows = slice(k * IMAGES_PER_PROMPT, (k + 1) * IMAGES_PER_PROMPT)
        first, *others = (arrays[name][rows] for name in COMPLEX_PARTS[which])
        total = sum(others, first)
        found[rows] = total * 0.5 if len(others) == 1 else total / 3
    return [float(value) for value in found]
