"""From a caption's clauses to a scene that fulfils them; what the caption leaves open is drawn by a
generator.

One thing stands near the middle. Two named things stand side by side or one above the other: as the
relation says, and in reading
order where the caption names none. Things that are counted fill cells of a 2 x 2 grid.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from harope_bench.data.shapes_scenes.grammar import CaptionClause, SceneCaption
from harope_bench.data.shapes_scenes.scene_images import (
    COLOUR_RGB,
    PATTERNS,
    Background,
    Scene,
    SceneObject,
)
from harope_bench.data.shapes_scenes.words import COLOURS

CELLS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # centres (x, y) of a 2 x 2 grid
JITTER = 0.03
SMALL_RADII = (0.17, 0.21)  # radii in a scene of several things
LARGE_RADII = (0.24, 0.30)  # of one thing alone
MAX_COLOUR_SHIFT = 10.0  # largest change of a channel of a colour
READING_DIRECTIONS = ((1, 0), (0, 1))  # the second thing to the right of the first, or below it
RELATION_DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class Style:
    """How varied scenes are: the share of textured grounds, the darkest and lightest grey of a
    plain one, one colour for counted things.
    """

    textured_fraction: float = 0.0
    dark: float = 30.0
    light: float = 60.0
    has_one_colour: bool = False


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The generator of one scene of a split."""
    digest = hashlib.sha256(f"scene/{split}/{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def compose_scene(
    case: SceneCaption, rng: np.random.Generator, style: Style | None = None
) -> Scene:
    """A scene in which everything the case asks for is true, and nothing else is drawn."""
    wanted = [clause for clause in case.clauses for _ in range(clause.count)]
    places = _object_centres(case.clauses, len(wanted), rng)
    radii = LARGE_RADII if len(wanted) == 1 else SMALL_RADII
    style = style or Style()
    if style.has_one_colour and case.task == "counting":
        wanted = [replace(wanted[0], colour=COLOURS[int(rng.integers(len(COLOURS)))])] * len(wanted)
    things = tuple(
        _make_object(clause, place, radii, rng)
        for clause, place in zip(wanted, places, strict=True)
    )
    return Scene(_make_background(rng, style), things)


def _object_centres(
    include: tuple[CaptionClause, ...], count: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Centres, one for each thing in the order of the clauses."""
    if count == 1:
        return [_jitter((0.5, 0.5), rng)]
    if len(include) == 1:
        return [_jitter(CELLS[i], rng) for i in rng.permutation(len(CELLS))[:count]]
    relation = next((clause.position[0] for clause in include if clause.position), None)
    right, down = (
        RELATION_DIRECTIONS[relation]
        if relation
        else READING_DIRECTIONS[int(rng.integers(len(READING_DIRECTIONS)))]
    )
    return [_jitter((0.5 + side * 0.25 * right, 0.5 + side * 0.25 * down), rng) for side in (-1, 1)]


def _jitter(place: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    return (
        place[0] + float(rng.uniform(-JITTER, JITTER)),
        place[1] + float(rng.uniform(-JITTER, JITTER)),
    )


def _make_object(
    clause: CaptionClause,
    place: tuple[float, float],
    radii: tuple[float, float],
    rng: np.random.Generator,
) -> SceneObject:
    colour = clause.colour or COLOURS[int(rng.integers(len(COLOURS)))]
    paint = np.clip(
        np.array(COLOUR_RGB[colour]) + rng.uniform(-MAX_COLOUR_SHIFT, MAX_COLOUR_SHIFT, 3), 0, 255
    )
    return SceneObject(
        clause.shape,
        colour,
        *place,
        float(rng.uniform(*radii)),
        (float(paint[0]), float(paint[1]), float(paint[2])),
    )


def _make_background(rng: np.random.Generator, style: Style) -> Background:
    dark = float(rng.uniform(style.dark, style.light))
    if rng.random() >= style.textured_fraction:
        return Background(dark=dark, light=dark)
    pattern = PATTERNS[int(rng.integers(1, len(PATTERNS)))]
    return Background(
        pattern,
        dark,
        dark + float(rng.uniform(12, 30)),
        float(rng.uniform(0.2, 0.5)),
        bool(rng.integers(2)),
        int(rng.integers(2**31)),
    )
