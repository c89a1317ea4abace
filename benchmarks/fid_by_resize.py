"""Show how the resize of a tool changes FID: the same images, six resizes, six values.

    python benchmarks/fid_by_resize.py --write   # docs/assets/fid-by-resize.svg and the table

536 rendered scenes of 128 pixels are resized to the 32 pixels of `shapes-net`, the feature
extractor of micro scale, each time by the code of another tool. The reference is that of suite
`shapes`: the same kind of scenes, rendered at 32 pixels. So the values show the effect of the
resize, not of a generator, and they are no FID with Inception's features.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from cleanfid.resize import build_resizer
from measure import write_between
from PIL import Image
from torch.nn import functional as F
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from harope_bench.core.array_archive import load_arrays
from harope_bench.data.shapes_scenes.layout import compose_scene, scene_rng
from harope_bench.data.shapes_scenes.scene_images import render_scene
from harope_bench.judges.inception import inception_network
from harope_bench.judges.micro.shapes_net import PLUGIN as SHAPES_NET
from harope_bench.metrics.frechet import frechet_distance
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.reports import chart_axes, svg_elements
from harope_bench.suites.shapes import PLUGIN as SHAPES
from harope_bench.suites.shapes import caption_cases

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs/assets/fid-by-resize.svg"
PAGE = ROOT / "docs/reference/metrics.md"
SCENES_PER_CAPTION = 8  # each of the 67 captions of the suite, as in its reference
IMAGE_SIDE = 128
FEATURE_SIDE = 32  # of the network's input
INCEPTION_SIDE = 299
COMPARED_IMAGES = 4
LABEL_WIDTH = 360.0
PLOT_WIDTH = 300.0
ROW_HEIGHT = 26.0
EQUAL_COLOUR = "#0b5796"
OTHER_COLOUR = "#9a9a9a"
Resize = Callable[[np.ndarray, int], np.ndarray]


class Tool(NamedTuple):
    """A resize of images (B, H, W, 3) uint8 to floats of 0 to 255, and who uses it.

    Attributes:
        profiles: Profiles of this package that use the same resize; empty for none.
    """

    name: str
    resize: Resize
    profiles: str = ""


class ToolValue(NamedTuple):
    """The FID of the images after the resize of a tool."""

    tool: Tool
    fid: float


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Return images (B, H, W, 3) as (B, 3, H, W) float32."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def to_array(x: torch.Tensor) -> np.ndarray:
    """Return a tensor (B, 3, H, W) as images (B, H, W, 3)."""
    array: np.ndarray = x.permute(0, 2, 3, 1).numpy()
    return array


def resize_like_tensorflow1(images: np.ndarray, side: int) -> np.ndarray:
    """Return images as torch-fidelity resizes them, bit-exact with TensorFlow 1."""
    x = interpolate_bilinear_2d_like_tensorflow1x(
        to_tensor(images), size=(side, side), align_corners=False
    )
    return to_array(x)


def resize_like_pytorch_fid(images: np.ndarray, side: int) -> np.ndarray:
    """Return images as pytorch-fid resizes them: bilinear, half-pixel centres, no antialias."""
    x = F.interpolate(to_tensor(images), (side, side), mode="bilinear", align_corners=False)
    return to_array(x)


def resize_like_torchvision(images: np.ndarray, side: int) -> np.ndarray:
    """Return images as torchvision's transforms resize them: bilinear with antialias."""
    return to_array(F.interpolate(to_tensor(images), (side, side), mode="bilinear", antialias=True))


def resize_like_opencv(images: np.ndarray, side: int) -> np.ndarray:
    """Return images as cv2.resize does by default: bilinear, no antialias, rounded to uint8."""
    return np.stack([cv2.resize(image, (side, side)) for image in images]).astype(np.float32)


def resize_like_cleanfid(images: np.ndarray, side: int) -> np.ndarray:
    """Return images as clean-fid resizes them: bicubic with antialias, by Pillow, as floats."""
    resizer = build_resizer("clean") if side == INCEPTION_SIDE else clean_resizer(side)
    return np.stack([resizer(image) for image in images])


def clean_resizer(side: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the resize of clean-fid's mode `clean` for another side than Inception's."""
    from cleanfid.resize import make_resizer

    resizer: Callable[[np.ndarray], np.ndarray] = make_resizer(
        "PIL", False, "bicubic", (side, side)
    )
    return resizer


def compress_as_jpeg(images: np.ndarray) -> np.ndarray:
    """Return images after JPEG of quality 75, Pillow's default."""
    compressed_images = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=75)
        compressed_images.append(np.asarray(Image.open(file)))
    return np.stack(compressed_images)


def resize_then_jpeg(images: np.ndarray, side: int) -> np.ndarray:
    """Return images as clean-fid resizes them, rounded to uint8 and saved as JPEG."""
    resized_images = resize_like_cleanfid(images, side).round().astype(np.uint8)
    return compress_as_jpeg(resized_images).astype(np.float32)


TOOLS = (
    Tool("clean-fid: bicubic with antialias", resize_like_cleanfid, "clean"),
    Tool("torchvision: bilinear with antialias", resize_like_torchvision),
    Tool("clean-fid, then saved as JPEG 75", resize_then_jpeg),
    Tool(
        "torch-fidelity, ADM: TensorFlow 1 bilinear",
        resize_like_tensorflow1,
        "adm, adm-exact, torch-fidelity",
    ),
    Tool("pytorch-fid: bilinear without antialias", resize_like_pytorch_fid),
    Tool("OpenCV: default of cv2.resize", resize_like_opencv),
)


def check_profiles(images: np.ndarray) -> None:
    """Raise ValueError unless our resizes to Inception's size equal those of the tools."""
    compared_images = images[:COMPARED_IMAGES]
    pairs = (
        (inception_network.resize_like_cleanfid, resize_like_cleanfid),
        (inception_network.resize_like_tensorflow1, resize_like_tensorflow1),
    )
    for our_resize, tool_resize in pairs:
        expected_pixels = (tool_resize(compared_images, INCEPTION_SIDE) - 128) / 128
        if not np.array_equal(to_array(our_resize(compared_images)), expected_pixels):
            raise ValueError(f"{our_resize.__name__} differs from {tool_resize.__name__}")


def fid_of_tool(tool: Tool, images: np.ndarray, reference: Gaussian) -> float:
    """Return the FID of the resized images, with the features of `shapes-net`."""
    network = SHAPES_NET.open("cpu").network
    with torch.no_grad():
        x = torch.from_numpy(tool.resize(images, FEATURE_SIDE)).permute(0, 3, 1, 2)
        features = network(x / 127.5 - 1).features.numpy()  # (N, 64)
    return frechet_distance(Moments.from_rows(features).to_gaussian(), reference)


def render_images() -> np.ndarray:
    """Return other scenes of the captions that the reference has, (N, 128, 128, 3) uint8."""
    captions = caption_cases()
    scenes = [
        compose_scene(captions[i % len(captions)], scene_rng("resize", i))
        for i in range(SCENES_PER_CAPTION * len(captions))
    ]
    return np.stack([render_scene(scene, IMAGE_SIDE) for scene in scenes])


def measure_tools() -> list[ToolValue]:
    """Return the FID after the resize of each tool."""
    images = render_images()
    check_profiles(images)
    arrays = load_arrays(SHAPES.reference("shapes-net").path, ("mu", "sigma"))
    reference = Gaussian(arrays["mu"], arrays["sigma"])
    return [ToolValue(tool, fid_of_tool(tool, images, reference)) for tool in TOOLS]


def figure(values: list[ToolValue]) -> str:
    """Return the figure as an SVG file."""
    bottom = ROW_HEIGHT * len(values)
    scale = chart_axes.Scale(
        0.0, 1.15 * max(value.fid for value in values), LABEL_WIDTH, LABEL_WIDTH + PLOT_WIDTH
    )
    elements = chart_axes.bottom_axis(
        scale, bottom, "FID-536 (features of shapes-net)", scale.ticks(6), grid_top=0.0
    )
    for row, value in enumerate(values):
        y = ROW_HEIGHT * (row + 0.5)
        x = scale.position(value.fid)
        colour = EQUAL_COLOUR if value.tool.profiles else OTHER_COLOUR
        label_x = LABEL_WIDTH - svg_elements.GAP
        elements.append(svg_elements.make_text(label_x, y + 4, value.tool.name, "end"))
        elements.append(svg_elements.make_bar(LABEL_WIDTH, y - 7, x - LABEL_WIDTH, 14, colour))
        note = f"{value.fid:.2f}"
        if value.tool.profiles:
            note += f"  = profile {value.tool.profiles}"
        elements.append(svg_elements.make_text(x + 6, y + 4, note))
    panel = svg_elements.Panel(
        "FID of the same images after six resizes",
        "Blue bars are resizes that a profile of harope-bench reproduces.",
        LABEL_WIDTH + PLOT_WIDTH + 230,
        bottom + 46,
        tuple(elements),
    )
    return svg_elements.file_svg(panel, "fid-by-resize")


def table(values: list[ToolValue]) -> str:
    """Return the values as a Markdown table."""
    rows = [
        f"| {value.tool.name} | {value.fid:.2f} | {value.tool.profiles or 'none'} |"
        for value in values
    ]
    head = "| tool and resize | FID-536 | profile with this resize |\n|---|--:|---|\n"
    return head + "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the figure and the table")
    options = parser.parse_args()
    tool_values = measure_tools()
    print(table(tool_values))
    if options.write:
        FIGURE.write_text(figure(tool_values))
        write_between("fid-by-resize", table(tool_values), PAGE)
