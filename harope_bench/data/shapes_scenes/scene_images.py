"""Rendering of scenes: anti-aliased shapes on plain or textured backgrounds, at any size.

Coordinates and lengths are fractions of the side of the image, so a scene is the same at every
size.
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
SUPERSAMPLING = 4  # sample points per pixel along each axis
RING_HOLE_RADIUS = 0.5  # in radii of the ring
CROSS_ARM_WIDTH = 1 / 3  # half the width of an arm, in radii of the cross

Pattern = Literal["plain", "stripes", "checks", "gradient", "grain"]
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "checks", "gradient", "grain")


@dataclass(frozen=True)
class SceneObject:
    """A shape with centre (x, y) and radius (half the side of its box).

    Attributes:
        colour: Name of the colour.
        rgb: The exact shade, 0 to 255.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Background:
    """A pattern of grey levels.

    Attributes:
        low_level, high_level: Range of the grey levels, 0 to 255. A plain background has the lower.
        period: Period of stripes and checks.
        is_vertical: Whether stripes are vertical, or a gradient goes from left to right.
        seed: Seed of a grain.
    """

    pattern: Pattern = "plain"
    low_level: float = 40.0
    high_level: float = 40.0
    period: float = 0.25
    is_vertical: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A background and the objects on it. A later object covers an earlier one."""

    background: Background
    objects: tuple[SceneObject, ...]


def shape_mask(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return whether points are inside a shape, bool, in the broadcast shape of u and v.

    The shape fits into the square of half side 1 around the origin. The base of the triangle is
    at the bottom.

    Args:
        u, v: Coordinates from the centre in radii, u to the right and v down.
    """
    if shape == "circle":
        return u * u + v * v <= 1
    if shape == "ring":
        squared_distance = u * u + v * v
        return (squared_distance <= 1) & (squared_distance >= RING_HOLE_RADIUS**2)
    box = (np.abs(u) <= 1) & (np.abs(v) <= 1)
    if shape == "square":
        return box & (np.abs(u) <= 0.9) & (np.abs(v) <= 0.9)
    if shape == "triangle":
        return box & (np.abs(u) <= (v + 1) / 2)
    return box & ((np.abs(u) <= CROSS_ARM_WIDTH) | (np.abs(v) <= CROSS_ARM_WIDTH))


def render_scene(scene: Scene, side: int) -> np.ndarray:
    """Return the image of a scene, (side, side, 3) uint8."""
    background = render_background(scene.background, side)
    canvas = np.repeat(background[..., None], 3, axis=2)  # (side, side, 3)
    for scene_object in scene.objects:
        # Blend the object over the canvas by the covered fraction of each pixel.
        rows, columns, coverage = pixel_coverage(scene_object, side)
        pixels = canvas[rows, columns]  # (height, width, 3)
        colour = np.array(scene_object.rgb)
        canvas[rows, columns] = pixels + coverage[..., None] * (colour - pixels)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def pixel_coverage(scene_object: SceneObject, side: int) -> tuple[slice, slice, np.ndarray]:
    """Return the fraction of each pixel that an object covers.

    Args:
        side: Side of the image in pixels.

    Returns:
        The rows and columns of the pixels around the object, and their covered fractions
        (height, width) float64.
    """
    rows, v = _sample_points(scene_object.y, scene_object.radius, side)
    columns, u = _sample_points(scene_object.x, scene_object.radius, side)
    samples = shape_mask(scene_object.shape, u[None, :], v[:, None])  # (4 * height, 4 * width)
    height = rows.stop - rows.start
    width = columns.stop - columns.start
    pixel_samples = samples.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING)
    return rows, columns, pixel_samples.mean((1, 3))  # (height, width)


def _sample_points(centre: float, radius: float, side: int) -> tuple[slice, np.ndarray]:
    """Return the pixels around an object along one axis, and the sample points in these pixels.

    The sample points are relative to the centre, in radii.
    """
    start = max(0, int((centre - radius) * side))
    stop = min(side, int((centre + radius) * side) + 1)
    sample_numbers = np.arange(start * SUPERSAMPLING, stop * SUPERSAMPLING)  # (4 * pixels,)
    points = (sample_numbers + 0.5) / (SUPERSAMPLING * side)
    return slice(start, stop), (points - centre) / radius


def render_background(background: Background, side: int) -> np.ndarray:
    """Return the grey levels of a background, (side, side) float64."""
    if background.pattern == "plain":
        return np.full((side, side), background.low_level)
    mix = _pattern_values(background, side)
    return background.low_level + mix * (background.high_level - background.low_level)


def _pattern_values(background: Background, side: int) -> np.ndarray:
    """Return the values of a pattern between 0 (low level) and 1 (high level), (side, side)."""
    if background.pattern == "grain":
        return np.random.default_rng(background.seed).random((side, side))

    pixel_centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(pixel_centres, pixel_centres)  # (side, side) each
    if background.pattern == "gradient":
        return x if background.is_vertical else y

    x_wave = np.sin(2 * np.pi * x / background.period)
    y_wave = np.sin(2 * np.pi * y / background.period)
    if background.pattern == "checks":
        return (x_wave * y_wave > 0).astype(float)
    return ((x_wave if background.is_vertical else y_wave) > 0).astype(float)
