"""The class label of a scene: its shapes with their counts, and its set of colours."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from harope_bench.data.shapes_scenes.scene_images import Scene
from harope_bench.data.shapes_scenes.words import COLOURS, NUMBERS, SHAPES

Content = tuple[tuple[str, int], ...]  # (shape, count) in the order of SHAPES

CONTENTS: tuple[Content, ...] = (
    *(((shape, 1),) for shape in SHAPES),
    *(((shape, count),) for shape in SHAPES for count in NUMBERS),
    *(((shape_a, 1), (shape_b, 1)) for shape_a, shape_b in combinations(SHAPES, 2)),
)
N_COLOUR_SETS = 2 ** len(COLOURS)


def scene_label(scene: Scene) -> int:
    """Return the class label of a scene.

    It is the position of the scene's content in CONTENTS times N_COLOUR_SETS, plus one bit for each
    colour in the scene.
    """
    shape_counts = Counter(item.shape for item in scene.objects)
    content = tuple((shape, shape_counts[shape]) for shape in SHAPES if shape_counts[shape])
    scene_colours = {item.colour for item in scene.objects}
    colour_bits = sum(1 << i for i, colour in enumerate(COLOURS) if colour in scene_colours)
    return CONTENTS.index(content) * N_COLOUR_SETS + colour_bits
