"""T2I-CompBench's sums: the product of BLIP's answers, and 3-in-1 of attribute, spatial and action score.

Source: BLIPvqa_eval/BLIP_vqa.py and 3_in_1_eval/3_in_1.py at 1b709499; what is odd stands in compbench_quirks.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from harope_bench.evaluators.rules.compbench_quirks import Rules, Verdict

CHUNKS = 8  # noun chunks that are asked
IMAGES = 10  # of a prompt, which 3-in-1 counts on
PARTS = {"spatial": ("spatial", "attribute"), "action": ("action", "attribute"), "both": ("attribute", "spatial", "action")}


def product(shares: Sequence[float], rules: Rules) -> Verdict:
    """The product of the shares of yes of a prompt's noun chunks.

    >>> product([0.5, 0.33333], "official").value
    0.1666
    """
    told = " x ".join(f"{share:.4f}" for share in shares)
    if rules == "corrected":
        return Verdict(math.prod(shares), told) if shares else Verdict(None, "no noun chunk was read in the prompt")
    found = np.float32(1)
    for share in shares[:CHUNKS]:
        found *= np.float32(f"{share:.4f}")
    return Verdict(float(f"{found:.4f}"), told or "no noun chunk was read in the prompt: 1")


def kind(prompt: str, lists: Mapping[str, Collection[str]], rules: Rules) -> str | None:
    """Whether a complex prompt names a place (`spatial`), an action or both; None (corrected) where no list has it.

    Args:
        lists: prompts of `spatial`, `action` and `both`.
    """
    if rules == "official":
        start = _start(prompt)
        return next((name for name in ("spatial", "action") if start in {_start(text) for text in lists[name]}), "both")
    return next((name for name in PARTS if prompt in lists[name]), None)


def _start(prompt: str) -> str:
    return prompt.split(".")[0].lower()


def three_in_one(which: str | None, parts: Mapping[str, float | None]) -> Verdict:
    """The mean of the parts that a prompt of this kind has; a part that is None is left out."""
    if which is None:
        return Verdict(None, "the prompt is in none of the three lists")
    found = {name: parts[name] for name in PARTS[which]}
    values = [value for value in found.values() if value is not None]
    told = ", ".join(f"{name} {'not known' if value is None else format(value, '.4f')}" for name, value in found.items())
    if not values:
        return Verdict(None, told)
    return Verdict(sum(values) * 0.5 if len(values) == 2 else sum(values) / len(values), told)


def joined(kinds: Sequence[str], answers: Mapping[str, Sequence[float]]) -> list[float]:
    """3-in-1 of three lists joined by place, ten images a prompt, as the official script does it.

    Args:
        kinds: of each prompt. answers: `attribute`, `spatial` and `action`, in the order of their files.

    Returns:
        A value for each of ten images of each prompt.

    Raises:
        ValueError: lists that do not reach as far as each other, as in the script.
    """
    found = np.zeros(IMAGES * len(kinds))
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in answers.items()}
    for k, which in enumerate(kinds):
        rows = slice(k * IMAGES, (k + 1) * IMAGES)
        first, *others = (arrays[name][rows] for name in PARTS[which])
        total = sum(others, first)
        found[rows] = total * 0.5 if len(others) == 1 else total / 3
    return [float(value) for value in found]
