"""Judge clip-vit-l-14: the colour of a found thing, by GenEval's zero-shot CLIP.

The thing is cut out of the picture by its mask over flat grey, cropped to its box, and compared
with three sentences a colour. Run here
with random weights only: what the real ones answer was not seen.

Source: djghosh13/geneval:evaluation/evaluate_images.py (colour classification);
LAION-AI/CLIP_benchmark, zero-shot classifier.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

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
from harope_bench.judges.clip.clip_network import STACK, ClipAnnotator, ClipTowers, LoadedClip
from harope_bench.judges.generic.self_check import red_image
from harope_bench.judges.weights.asset_files import WeightsSource
from harope_bench.judges.weights.precision import full_float32

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)  # of two equal ones the first wins
BACKGROUND = (0x99, 0x99, 0x99)
SCALE = 100.0  # of cosines, in place of the scale that CLIP learned


def crop_object(image: np.ndarray, thing: ColourObject) -> Image.Image:
    """A thing of an image (H, W, 3) uint8 over grey, cropped to its box; corners are rounded half
    to even and may lie outside.

    Raises:
        ShapeError: the mask is of another size, or the box holds no pixel.
    """
    picture = Image.fromarray(image)
    if thing.mask is not None:
        if thing.mask.size != image.shape[:2]:
            raise ShapeError(
                f"a mask of {thing.mask.size} for an image of {image.shape[:2]}; ask the detector"
                " again"
            )
        picture = Image.composite(
            picture,
            Image.new("RGB", picture.size, BACKGROUND),
            Image.fromarray(decode_mask(thing.mask)),
        )
    left, top, right, bottom = (round(corner) for corner in thing.box)
    if right <= left or bottom <= top:
        raise ShapeError(
            f"the box {thing.box} of a {thing.name} holds no pixel; ask the detector again"
        )
    return picture.crop((left, top, right, bottom))


def colour_classifier(towers: ClipTowers, name: str, candidates: Iterable[str]) -> Tensor:
    """(C, D): for each colour the sentences' embeddings, of length 1 before and after their
    mean.
    """
    rows = [
        towers.texts([t.format(colour=colour, name=name) for t in TEMPLATES]).mean(0)
        for colour in candidates
    ]
    with torch.inference_mode(), towers.autocast():
        return nn.functional.normalize(torch.stack(rows), dim=-1)


class LoadedColours(LoadedClip):
    """The network with weights; sentences of a thing are embedded once."""

    def __init__(self, towers: ClipTowers):
        super().__init__(towers)
        self.embedding_cache: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Of each object the candidates' shares: softmax of 100 cosines."""
        if role != "colours" or not isinstance(query, ColourQuery):
            raise OptionError(f"clip-vit-l-14 names colours, not {role}; ask another judge")
        return ColourAnnotation(
            probabilities=tuple(self._shares(image, thing, query.candidates) for thing in query.objects)
        )

    def _shares(
        self, image: np.ndarray, thing: ColourObject, candidates: tuple[str, ...]
    ) -> tuple[float, ...]:
        key = (thing.name, candidates)
        if key not in self.embedding_cache:
            self.embedding_cache[key] = colour_classifier(self.towers, *key)
        embedding = self.towers.images([crop_object(image, thing)])  # (1, D)
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
        """Loads the weights strictly, hash checked first; WeightsError where they are missing,
        altered, or the activation is another.
        """
        return LoadedColours(self.load_towers(device, half=True))

    def self_checks(self) -> tuple[NamedCheck | AnnotationCheck, ...]:
        """The stack, whatever the weights; with the published ones also balls of plain colours,
        which were not yet seen with them.
        """
        balls = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 220)}
        return (
            *STACK,
            NamedCheck("a thing is cut out over grey", check_object_crop),
            *self.checks_of_published(*(_colour_check(*ball) for ball in balls.items())),
        )


def check_object_crop(opened: LoadedColours) -> str | None:
    """Whether a thing keeps its pixels, its surroundings become #999, and halves are rounded to
    even.
    """
    mask = np.zeros((8, 8), dtype=bool)
    mask[3:5, 3:5] = True
    found = np.asarray(
        crop_object(
            red_image()[:8, :8],
            ColourObject(name="ball", box=(2.5, 2.5, 5.5, 5.5), mask=encode_mask(mask)),
        )
    )
    wanted = np.full((4, 4, 3), BACKGROUND[0], dtype=np.uint8)
    wanted[1:3, 1:3] = (255, 0, 0)
    return (
        None
        if np.array_equal(found, wanted)
        else (
            f"a red thing on grey is cut to {found.shape} with {found[0, 0].tolist()} in the corner"
        )
    )


def _colour_check(colour: str, rgb: tuple[int, ...]) -> AnnotationCheck:
    y, x = np.mgrid[:224, :224]
    image = np.where(((y - 112) ** 2 + (x - 112) ** 2 < 90**2)[..., None], rgb, BACKGROUND).astype(
        np.uint8
    )
    ask = ColourQuery(
        objects=(ColourObject(name="sports ball", box=(0, 0, 224, 224)),), candidates=COLOURS
    )

    def right(answer: Annotation) -> bool:
        return (
            isinstance(answer, ColourAnnotation)
            and COLOURS[int(np.argmax(answer.probabilities[0]))] == colour
        )

    return AnnotationCheck(f"a {colour} ball is {colour}", "colours", image, ask, right)


PLUGIN = ClipColours()
