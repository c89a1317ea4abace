"""Judge clip-vit-l-14: the colour of a found thing, by GenEval's zero-shot CLIP.

The thing is cut out of the picture by its mask over flat grey, cropped to its box, and compared with three sentences a colour. Run here
with random weights only: what the real ones answer was not seen.

Source: djghosh13/geneval:evaluation/evaluate_images.py (colour classification); LAION-AI/CLIP_benchmark, zero-shot classifier.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.core.annotations import Answer, Ask, Colours, Object, Objects, decode_mask, encode_mask
from harope_bench.core.errors import OptionError, ShapeError
from harope_bench.judges.base import Canary, Trial
from harope_bench.judges.clip.clip_network import STACK, ClipAnnotator, LoadedClip, Towers
from harope_bench.judges.generic.self_check import red_image
from harope_bench.judges.weights.asset_files import Source
from harope_bench.judges.weights.precision import full_float32

TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")  # of two equal ones the first wins
GROUND = (0x99, 0x99, 0x99)
SCALE = 100.0  # of cosines, in place of the scale that CLIP learned


def cut_out(image: np.ndarray, thing: Object) -> Image.Image:
    """A thing of an image (H, W, 3) uint8 over grey, cropped to its box; corners are rounded half to even and may lie outside.

    Raises:
        ShapeError: the mask is of another size, or the box holds no pixel.
    """
    picture = Image.fromarray(image)
    if thing.mask is not None:
        if thing.mask.size != image.shape[:2]:
            raise ShapeError(f"a mask of {thing.mask.size} for an image of {image.shape[:2]}; ask the detector again")
        picture = Image.composite(picture, Image.new("RGB", picture.size, GROUND), Image.fromarray(decode_mask(thing.mask)))
    left, top, right, bottom = (round(corner) for corner in thing.box)
    if right <= left or bottom <= top:
        raise ShapeError(f"the box {thing.box} of a {thing.name} holds no pixel; ask the detector again")
    return picture.crop((left, top, right, bottom))


def classifier(towers: Towers, name: str, candidates: Iterable[str]) -> Tensor:
    """(C, D): for each colour the sentences' embeddings, of length 1 before and after their mean."""
    rows = [towers.texts([t.format(colour=colour, name=name) for t in TEMPLATES]).mean(0) for colour in candidates]
    with torch.inference_mode(), towers.cast():
        return nn.functional.normalize(torch.stack(rows), dim=-1)


class LoadedColours(LoadedClip):
    """The network with weights; sentences of a thing are embedded once."""

    def __init__(self, towers: Towers):
        super().__init__(towers)
        self.known: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def see(self, role: str, image: np.ndarray, ask: Ask) -> Answer:
        """Of each object the candidates' shares: softmax of 100 cosines."""
        if role != "colours" or not isinstance(ask, Objects):
            raise OptionError(f"clip-vit-l-14 names colours, not {role}; ask another judge")
        return Colours(shares=tuple(self._shares(image, thing, ask.candidates) for thing in ask.objects))

    def _shares(self, image: np.ndarray, thing: Object, candidates: tuple[str, ...]) -> tuple[float, ...]:
        key = (thing.name, candidates)
        if key not in self.known:
            self.known[key] = classifier(self.towers, *key)
        embedding = self.towers.images([cut_out(image, thing)])  # (1, D)
        with torch.inference_mode(), full_float32(), self.towers.cast():
            logits = (SCALE * embedding @ self.known[key].T)[0]  # (C,)
        return tuple(logits.double().softmax(-1).tolist())


class ClipColours(ClipAnnotator):
    """The plug-in."""

    title, model = "OpenAI's CLIP ViT-L/14", "ViT-L-14-quickgelu"
    preprocessing = (
        "thing over #999 by its mask, cropped to its box (half to even); shorter side to 224, PIL bicubic with antialias, middle square; "
        "CLIP's mean and deviation; QuickGELU; 3 sentences a colour; float32, on cuda float16 autocast"
    )
    roles = ("colours",)
    source = Source("clip-vit-l-14", "HAROPE_BENCH_CLIP_L14")

    def open(self, device: str = "cpu") -> LoadedColours:
        """Loads the weights strictly, hash checked first; WeightsError where they are missing, altered, or the activation is another."""
        return LoadedColours(self.towers(device, half=True))

    def canary(self) -> tuple[Canary | Trial, ...]:
        """The stack, whatever the weights; with the published ones also balls of plain colours, which were not yet seen with them."""
        balls = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 220)}
        return (*STACK, Canary("a thing is cut out over grey", grey_around), *self.seen(*(_trial(*ball) for ball in balls.items())))


def grey_around(opened: LoadedColours) -> str | None:
    """Whether a thing keeps its pixels, its surroundings become #999, and halves are rounded to even."""
    mask = np.zeros((8, 8), dtype=bool)
    mask[3:5, 3:5] = True
    found = np.asarray(cut_out(red_image()[:8, :8], Object(name="ball", box=(2.5, 2.5, 5.5, 5.5), mask=encode_mask(mask))))
    wanted = np.full((4, 4, 3), GROUND[0], dtype=np.uint8)
    wanted[1:3, 1:3] = (255, 0, 0)
    return (
        None if np.array_equal(found, wanted) else f"a red thing on grey is cut to {found.shape} with {found[0, 0].tolist()} in the corner"
    )


def _trial(colour: str, rgb: tuple[int, ...]) -> Trial:
    y, x = np.mgrid[:224, :224]
    image = np.where(((y - 112) ** 2 + (x - 112) ** 2 < 90**2)[..., None], rgb, GROUND).astype(np.uint8)
    ask = Objects(objects=(Object(name="sports ball", box=(0, 0, 224, 224)),), candidates=COLOURS)

    def right(answer: Answer) -> bool:
        return isinstance(answer, Colours) and COLOURS[int(np.argmax(answer.shares[0]))] == colour

    return Trial(f"a {colour} ball is {colour}", "colours", image, ask, right)


PLUGIN = ClipColours()
