"""What a scene holds, as one number: the shapes with their counts, and which colours there are."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from harope_bench.data.shapes_scenes.scene_images import Scene
from harope_bench.data.shapes_scenes.words import COLOURS, NUMBERS, SHAPES

Content = tuple[tuple[str, int], ...]  # (shape, count) in the order of SHAPES

CONTENTS: tuple[Content, ...] = (
    *(((shape, 1),) for shape in SHAPES),
    *(((shape, count),) for shape in SHAPES for count in NUMBERS),
    *(((one, 1), (other, 1)) for one, other in combinations(SHAPES, 2)),
)
N_COLOUR_SETS = 2 ** len(COLOURS)


def scene_label(scene: Scene) -> int:
    """Number of its content in CONTENTS, times 64, plus a bit for each colour that occurs."""
    shapes = Counter(thing.shape for thing in scene.objects)
    content = tuple((shape, shapes[shape]) for shape in SHAPES if shapes[shape])
    painted = {thing.colour for thing in scene.objects}
    return CONTENTS.index(content) * N_COLOUR_SETS + sum(
        1 << i for i, colour in enumerate(COLOURS) if colour in painted
    )
