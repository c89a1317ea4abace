"""Rendered scenes in bulk, each with the case it was drawn for. Scene i of a split is a function of
the split and i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harope_bench.data.shapes_scenes.grammar import TASKS, SceneCaption, Split, list_captions
from harope_bench.data.shapes_scenes.layout import Style, compose_scene, scene_rng
from harope_bench.data.shapes_scenes.scene_images import Scene, render_scene


class ScenePool(NamedTuple):
    """Pictures (N, side, side, 3) uint8 and their cases."""

    images: np.ndarray
    cases: Sequence[SceneCaption]


def compose_indexed_scene(
    split: Split, index: int, style: Style | None = None
) -> tuple[SceneCaption, Scene]:
    """Scene `index` of a split: its task is index mod 6, its caption one of that task's, drawn
    evenly.
    """
    rng = scene_rng(split, index)
    of_task = _captions_by_task(split)[TASKS[index % len(TASKS)]]
    case = of_task[int(rng.integers(len(of_task)))]
    return case, compose_scene(case, rng, style)


def render_pool(
    split: Split, indices: Iterable[int], side: int, style: Style | None = None
) -> ScenePool:
    """These scenes of a split, drawn at a side in pixels."""
    found = [compose_indexed_scene(split, index, style) for index in indices]
    return ScenePool(
        np.stack([render_scene(one, side) for _, one in found]), [case for case, _ in found]
    )


@lru_cache(maxsize=2)
def _captions_by_task(split: Split) -> dict[str, list[SceneCaption]]:
    return {task: [case for case in list_captions(split) if case.task == task] for task in TASKS}
