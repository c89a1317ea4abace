"""Scenes that fulfil a caption. What the caption leaves open is random.

One object is near the centre. Two different objects are beside or above each other: as the relation
says, or in reading order without a relation. Counted objects fill cells of a 2 x 2 grid.
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

# Lengths are fractions of the side of the image.
CELLS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # centres (x, y) of a 2 x 2 grid
JITTER = 0.03  # maximum random shift of a centre
SMALL_RADII = (0.17, 0.21)  # range of the radius in a scene of several objects
LARGE_RADII = (0.24, 0.30)  # range of the radius of a single object
MAX_COLOUR_SHIFT = 10.0  # maximum random change of an RGB channel, of 255
# Directions (x, y) from the first object to the second.
READING_DIRECTIONS = ((1, 0), (0, 1))
RELATION_DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class Style:
    """The variety of scenes.

    Attributes:
        textured_fraction: Fraction of scenes with a textured background.
        min_level, max_level: Range of the grey level of a plain background, 0 to 255.
        has_one_colour: Whether counted objects all have the same colour.
    """

    textured_fraction: float = 0.0
    min_level: float = 30.0
    max_level: float = 60.0
    has_one_colour: bool = False


def scene_rng(split: str, index: int) -> np.random.Generator:
    """Return the random generator of one scene of a split."""
    digest = hashlib.sha256(f"scene/{split}/{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def compose_scene(
    caption: SceneCaption, rng: np.random.Generator, style: Style | None = None
) -> Scene:
    """Return a random scene that fulfils all clauses of a caption and contains nothing else."""
    style = style or Style()
    # One clause for each object.
    object_clauses = [clause for clause in caption.clauses for _ in range(clause.count)]
    n_objects = len(object_clauses)
    centres = _object_centres(caption.clauses, n_objects, rng)
    radius_range = LARGE_RADII if n_objects == 1 else SMALL_RADII
    if style.has_one_colour and caption.task == "counting":
        object_clauses = [replace(object_clauses[0], colour=_random_colour(rng))] * n_objects
    objects = tuple(
        _make_object(clause, centre, radius_range, rng)
        for clause, centre in zip(object_clauses, centres, strict=True)
    )
    return Scene(_make_background(rng, style), objects)


def _object_centres(
    clauses: tuple[CaptionClause, ...], n_objects: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Return the centre (x, y) of each object, in the order of the clauses."""
    if n_objects == 1:
        return [_jitter((0.5, 0.5), rng)]
    if len(clauses) == 1:  # counted objects
        return [_jitter(CELLS[i], rng) for i in rng.permutation(len(CELLS))[:n_objects]]

    relation = next((clause.position[0] for clause in clauses if clause.position), None)
    if relation:
        x_step, y_step = RELATION_DIRECTIONS[relation]
    else:
        x_step, y_step = READING_DIRECTIONS[int(rng.integers(len(READING_DIRECTIONS)))]
    return [
        _jitter((0.5 + sign * 0.25 * x_step, 0.5 + sign * 0.25 * y_step), rng) for sign in (-1, 1)
    ]


def _jitter(centre: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
    """Return a centre (x, y) with a random shift."""
    x = centre[0] + float(rng.uniform(-JITTER, JITTER))
    y = centre[1] + float(rng.uniform(-JITTER, JITTER))
    return x, y


def _random_colour(rng: np.random.Generator) -> str:
    return COLOURS[int(rng.integers(len(COLOURS)))]


def _make_object(
    clause: CaptionClause,
    centre: tuple[float, float],
    radius_range: tuple[float, float],
    rng: np.random.Generator,
) -> SceneObject:
    """Return an object of a clause with random radius and shade, and colour if it has none."""
    colour = clause.colour or _random_colour(rng)
    colour_shift = rng.uniform(-MAX_COLOUR_SHIFT, MAX_COLOUR_SHIFT, 3)
    red, green, blue = np.clip(np.array(COLOUR_RGB[colour]) + colour_shift, 0, 255)
    radius = float(rng.uniform(*radius_range))
    rgb = (float(red), float(green), float(blue))
    return SceneObject(clause.shape, colour, *centre, radius, rgb)


def _make_background(rng: np.random.Generator, style: Style) -> Background:
    """Return a random plain or textured background."""
    low_level = float(rng.uniform(style.min_level, style.max_level))
    if rng.random() >= style.textured_fraction:
        return Background(low_level=low_level, high_level=low_level)
    pattern = PATTERNS[int(rng.integers(1, len(PATTERNS)))]  # pattern 0 is the plain one
    return Background(
        pattern,
        low_level=low_level,
        high_level=low_level + float(rng.uniform(12, 30)),
        period=float(rng.uniform(0.2, 0.5)),
        is_vertical=bool(rng.integers(2)),
        seed=int(rng.integers(2**31)),
    )
