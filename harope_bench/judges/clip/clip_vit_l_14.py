"""Judge clip-vit-l-14: the colour of a detected object, by GenEval's zero-shot CLIP.

The object is cut out of the image by its mask over flat grey, cropped to its box, and compared with
three sentences per colour. The judge was tested with random weights only, because the published
weights were not available.

Source: djghosh13/geneval:evaluation/evaluate_images.py (colour classification);
LAION-AI/CLIP_benchmark, zero-shot classifier.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.annotations import (
    Annotation,
    ColourAnnotation,
    ColourObject,
    ColourQuery,
    Query,
    decode_mask,
    encode_mask,
)
from harope_bench.core.errors import OptionError, ShapeError
from harope_bench.judges.base import AnnotationCheck, NamedCheck
from harope_bench.judges.clip.clip_network import (
    STACK_CHECKS,
    ClipAnnotator,
    ClipTowers,
    LoadedClip,
)
from harope_bench.judges.generic.self_check import red_image
from harope_bench.judges.weights.asset_files import WeightsSource
from harope_bench.judges.weights.precision import full_float32

if TYPE_CHECKING:
    from torch import Tensor

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
# of two colours with equal scores the first wins
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
BACKGROUND = (0x99, 0x99, 0x99)
SCALE = 100.0  # of cosines, in place of the scale that CLIP learned


def crop_object(image: np.ndarray, colour_object: ColourObject) -> Image.Image:
    """Return an object of an image (H, W, 3) uint8 over grey, cropped to its box.

    Corners are rounded half to even and may be outside the image.

    Raises:
        ShapeError: The mask is of another size, or the box holds no pixel.
    """
    pil_image = Image.fromarray(image)
    if colour_object.mask is not None:
        if colour_object.mask.size != image.shape[:2]:
            raise ShapeError(
                f"a mask of size {colour_object.mask.size} for an image of size"
                f" {image.shape[:2]}; run the detector again"
            )
        background = Image.new("RGB", pil_image.size, BACKGROUND)
        mask = Image.fromarray(decode_mask(colour_object.mask))
        pil_image = Image.composite(pil_image, background, mask)

    left, top, right, bottom = (round(corner) for corner in colour_object.box)
    if right <= left or bottom <= top:
        raise ShapeError(
            f"the box {colour_object.box} of a {colour_object.name} holds no pixel; run the"
            " detector again"
        )
    return pil_image.crop((left, top, right, bottom))


def colour_classifier(towers: ClipTowers, name: str, candidates: Iterable[str]) -> Tensor:
    """Return one embedding of length 1 per candidate colour, (C, D).

    It is the mean of the embeddings of the three sentences, normalised again.
    """
    import torch
    from torch import nn

    means = []
    for colour in candidates:
        sentences = [template.format(colour=colour, name=name) for template in TEMPLATES]
        means.append(towers.texts(sentences).mean(0))  # (D,)
    with torch.inference_mode(), towers.autocast():
        return nn.functional.normalize(torch.stack(means), dim=-1)  # (C, D)


class LoadedColours(LoadedClip):
    """CLIP with its weights; the sentences about an object are embedded once."""

    def __init__(self, towers: ClipTowers):
        super().__init__(towers)
        self.embedding_cache: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the probabilities of the candidate colours for each object of the query."""
        if role != "colours" or not isinstance(query, ColourQuery):
            raise OptionError(
                f"judge clip-vit-l-14 has the role colours, wanted {role}; choose another judge"
            )
        return ColourAnnotation(
            probabilities=tuple(
                self._probabilities(image, colour_object, query.candidates)
                for colour_object in query.objects
            )
        )

    def _probabilities(
        self, image: np.ndarray, colour_object: ColourObject, candidates: tuple[str, ...]
    ) -> tuple[float, ...]:
        """Return the softmax of 100 times the cosines of object and colours, (C,)."""
        import torch

        key = (colour_object.name, candidates)
        if key not in self.embedding_cache:
            self.embedding_cache[key] = colour_classifier(self.towers, *key)
        embedding = self.towers.images([crop_object(image, colour_object)])  # (1, D)
        with torch.inference_mode(), full_float32(), self.towers.autocast():
            logits = (SCALE * embedding @ self.embedding_cache[key].T)[0]  # (C,)
        return tuple(logits.double().softmax(-1).tolist())


class ClipColours(ClipAnnotator):
    """The plug-in."""

    title = "OpenAI's CLIP ViT-L/14"
    model = "ViT-L-14-quickgelu"
    preprocessing = (
        "thing over #999 by its mask, cropped to its box (half to even); shorter side to 224, PIL"
        " bicubic with antialias, middle square; CLIP's mean and deviation; QuickGELU; 3 sentences"
        " a colour; float32, on cuda float16 autocast"
    )
    roles = ("colours",)
    source = WeightsSource("clip-vit-l-14", "HAROPE_BENCH_CLIP_L14")

    def open(self, device: str = "cpu") -> LoadedColours:
        """Load the weights; the errors are those of `load_towers`."""
        return LoadedColours(self.load_towers(device, is_half_precision=True))

    def self_checks(self) -> tuple[NamedCheck | AnnotationCheck, ...]:
        """Return checks for any weights, and balls of flat colours for the published weights.

        The checks with balls were never run with the published weights.
        """
        ball_colours = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 220)}
        ball_checks = [_ball_check(colour, rgb) for colour, rgb in ball_colours.items()]
        return (
            *STACK_CHECKS,
            NamedCheck("an object is cut out over grey", check_object_crop),
            *self.checks_of_published(*ball_checks),
        )


def check_object_crop(judge: LoadedColours) -> str | None:
    """Return what is wrong with the crop of a red object, or None.

    The object must keep its pixels, its background must become #999, and corners at .5 must be
    rounded to even.
    """
    mask = np.zeros((8, 8), dtype=bool)
    mask[3:5, 3:5] = True
    ball = ColourObject(name="ball", box=(2.5, 2.5, 5.5, 5.5), mask=encode_mask(mask))
    crop = np.asarray(crop_object(red_image()[:8, :8], ball))

    expected_crop = np.full((4, 4, 3), BACKGROUND[0], dtype=np.uint8)
    expected_crop[1:3, 1:3] = (255, 0, 0)
    if np.array_equal(crop, expected_crop):
        return None
    return f"a red object on grey is cut to {crop.shape} with {crop[0, 0].tolist()} in the corner"


def _ball_check(colour: str, rgb: tuple[int, ...]) -> AnnotationCheck:
    """Return the check that the judge names the colour of a ball."""
    y, x = np.mgrid[:224, :224]
    in_ball = (y - 112) ** 2 + (x - 112) ** 2 < 90**2
    image = np.where(in_ball[..., None], rgb, BACKGROUND).astype(np.uint8)
    ball = ColourObject(name="sports ball", box=(0, 0, 224, 224))
    query = ColourQuery(objects=(ball,), candidates=COLOURS)

    def is_correct(annotation: Annotation) -> bool:
        return (
            isinstance(annotation, ColourAnnotation)
            and COLOURS[int(np.argmax(annotation.probabilities[0]))] == colour
        )

    return AnnotationCheck(f"a {colour} ball is {colour}", "colours", image, query, is_correct)


PLUGIN = ClipColours()
