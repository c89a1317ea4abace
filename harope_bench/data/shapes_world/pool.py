"""Rendered scenes in bulk, each with the case it was drawn for. Scene i of a split is a function of the split and i."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harope_bench.data.shapes_world.draw import Scene, draw
from harope_bench.data.shapes_world.grammar import TASKS, Case, Split, cases
from harope_bench.data.shapes_world.layout import Style, compose, generator


class Pool(NamedTuple):
    """Pictures (N, side, side, 3) uint8 and their cases."""

    images: np.ndarray
    cases: Sequence[Case]


def scene(split: Split, index: int, style: Style | None = None) -> tuple[Case, Scene]:
    """Scene `index` of a split: its task is index mod 6, its caption one of that task's, drawn evenly."""
    rng = generator(split, index)
    of_task = _by_task(split)[TASKS[index % len(TASKS)]]
    case = of_task[int(rng.integers(len(of_task)))]
    return case, compose(case, rng, style)


def pool(split: Split, indices: Iterable[int], side: int, style: Style | None = None) -> Pool:
    """These scenes of a split, drawn at a side in pixels."""
    found = [scene(split, index, style) for index in indices]
    return Pool(np.stack([draw(one, side) for _, one in found]), [case for case, _ in found])


@lru_cache(maxsize=2)
def _by_task(split: Split) -> dict[str, list[Case]]:
    return {task: [case for case in cases(split) if case.task == task] for task in TASKS}
