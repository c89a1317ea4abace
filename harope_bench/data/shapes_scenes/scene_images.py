"""Scenes to pixels: anti-aliased shapes on plain or textured grounds, at any size.

Coordinates are shares of the side: a scene is the same whatever size it is drawn at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

COLOUR_RGB = {
    "red": (215, 45, 40),
    "yellow": (235, 210, 45),
    "green": (50, 175, 75),
    "blue": (45, 95, 225),
    "purple": (170, 60, 195),
    "white": (240, 240, 240),
}
SUPERSAMPLING = 4  # samples along a side of a pixel
RING_HOLE_RADIUS = 0.5  # of a ring's radius
CROSS_ARM_WIDTH = 1 / 3  # half width of a cross's arm, of its radius

Pattern = Literal["plain", "stripes", "checks", "gradient", "grain"]
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "checks", "gradient", "grain")


@dataclass(frozen=True)
class SceneObject:
    """A shape of a colour around (x, y) with half side `radius`; `paint` is its RGB, 0 to 255."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Background:
    """Grey levels between `dark` and `light`; `period` of a pattern as a share of the side, `seed`
    of a grain.
    """

    pattern: Pattern = "plain"
    dark: float = 40.0
    light: float = 40.0
    period: float = 0.25
    is_vertical: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """What is drawn: the ground, then the things in order."""

    background: Background
    objects: tuple[SceneObject, ...]


def shape_mask(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points (u to the right, v down, in radii from the centre) lie in the shape; bool,
    their broadcast shape.

    All shapes but the circle and the ring touch the square of half side 1; the triangle stands on
    its base.
    """
    if shape == "circle":
        return u * u + v * v <= 1
    if shape == "ring":
        far = u * u + v * v
        return (far <= 1) & (far >= RING_HOLE_RADIUS**2)
    box = (np.abs(u) <= 1) & (np.abs(v) <= 1)
    if shape == "square":
        return box & (np.abs(u) <= 0.9) & (np.abs(v) <= 0.9)
    if shape == "triangle":
        return box & (np.abs(u) <= (v + 1) / 2)
    return box & ((np.abs(u) <= CROSS_ARM_WIDTH) | (np.abs(v) <= CROSS_ARM_WIDTH))


def render_scene(scene: Scene, side: int) -> np.ndarray:
    """The scene as (side, side, 3) uint8."""
    canvas = np.repeat(render_background(scene.background, side)[..., None], 3, axis=2)
    for thing in scene.objects:
        rows, columns, share = pixel_coverage(thing, side)
        part = canvas[rows, columns]
        canvas[rows, columns] = part + share[..., None] * (np.array(thing.rgb) - part)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def pixel_coverage(thing: SceneObject, side: int) -> tuple[slice, slice, np.ndarray]:
    """Rows, columns and, for the pixels there, the share of each that the thing covers, float64."""
    rows, v = _sample_points(thing.y, thing.radius, side)
    columns, u = _sample_points(thing.x, thing.radius, side)
    fine = shape_mask(thing.shape, u[None, :], v[:, None])
    height = rows.stop - rows.start
    width = columns.stop - columns.start
    return rows, columns, fine.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean((1, 3))


def _sample_points(centre: float, radius: float, side: int) -> tuple[slice, np.ndarray]:
    """The pixels a thing may touch along an axis, and its sample points there in radii."""
    first = max(0, int((centre - radius) * side))
    last = min(side, int((centre + radius) * side) + 1)
    fine = (np.arange(first * SUPERSAMPLING, last * SUPERSAMPLING) + 0.5) / (SUPERSAMPLING * side)
    return slice(first, last), (fine - centre) / radius


def render_background(ground: Background, side: int) -> np.ndarray:
    """The ground's levels (side, side), float64."""
    middle = (np.arange(side) + 0.5) / side
    across, down = np.meshgrid(middle, middle)
    if ground.pattern == "plain":
        return np.full((side, side), ground.dark)
    if ground.pattern == "grain":
        share = np.random.default_rng(ground.seed).random((side, side))
    elif ground.pattern == "gradient":
        share = across if ground.is_vertical else down
    else:
        wave = np.sin(2 * np.pi * across / ground.period)
        share = (
            (wave > 0).astype(float)
            if ground.is_vertical
            else (np.sin(2 * np.pi * down / ground.period) > 0).astype(float)
        )
        if ground.pattern == "checks":
            share = (wave * np.sin(2 * np.pi * down / ground.period) > 0).astype(float)
    return ground.dark + share * (ground.light - ground.dark)
