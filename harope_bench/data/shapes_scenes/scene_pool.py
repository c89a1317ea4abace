"""Many rendered scenes with their captions. Scene i of a split depends only on the split and i."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harope_bench.data.shapes_scenes.grammar import TASKS, SceneCaption, Split, list_captions
from harope_bench.data.shapes_scenes.layout import Style, compose_scene, scene_rng
from harope_bench.data.shapes_scenes.scene_images import Scene, render_scene


class ScenePool(NamedTuple):
    """Images (N, side, side, 3) uint8 and the caption of each."""

    images: np.ndarray
    captions: Sequence[SceneCaption]


def compose_indexed_scene(
    split: Split, index: int, style: Style | None = None
) -> tuple[SceneCaption, Scene]:
    """Return the caption and the scene of an index.

    The task is index mod 6. The caption is a random one of the task.
    """
    rng = scene_rng(split, index)
    task_captions = _captions_by_task(split)[TASKS[index % len(TASKS)]]
    caption = task_captions[int(rng.integers(len(task_captions)))]
    return caption, compose_scene(caption, rng, style)


def render_pool(
    split: Split, indices: Iterable[int], side: int, style: Style | None = None
) -> ScenePool:
    """Return the rendered scenes of the given indices, with a side in pixels."""
    pairs = [compose_indexed_scene(split, index, style) for index in indices]
    images = np.stack([render_scene(scene, side) for _, scene in pairs])  # (N, side, side, 3)
    return ScenePool(images, [caption for caption, _ in pairs])


@lru_cache(maxsize=2)
def _captions_by_task(split: Split) -> dict[str, list[SceneCaption]]:
    captions = list_captions(split)
    return {task: [caption for caption in captions if caption.task == task] for task in TASKS}
