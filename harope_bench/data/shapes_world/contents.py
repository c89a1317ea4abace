"""What a scene holds, as one number: the shapes with their counts, and which colours there are."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from harope_bench.data.shapes_world.draw import Scene
from harope_bench.data.shapes_world.words import COLOURS, NUMBERS, SHAPES

Content = tuple[tuple[str, int], ...]  # (shape, count) in the order of SHAPES

CONTENTS: tuple[Content, ...] = (
    *(((shape, 1),) for shape in SHAPES),
    *(((shape, count),) for shape in SHAPES for count in NUMBERS),
    *(((one, 1), (other, 1)) for one, other in combinations(SHAPES, 2)),
)
MARKS = 2 ** len(COLOURS)


def label(scene: Scene) -> int:
    """Number of its content in CONTENTS, times 64, plus a bit for each colour that occurs."""
    shapes = Counter(thing.shape for thing in scene.things)
    content = tuple((shape, shapes[shape]) for shape in SHAPES if shapes[shape])
    painted = {thing.colour for thing in scene.things}
    return CONTENTS.index(content) * MARKS + sum(1 << i for i, colour in enumerate(COLOURS) if colour in painted)
