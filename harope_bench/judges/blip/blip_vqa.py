"""Judge blip-vqa: the share of yes that BLIP VQA base gives a question, T2I-CompBench's attribute judge.

`of(model)` takes the hub's conversion (Salesforce/blip-vqa-base) in the same steps; its positions were cut to 384 pixels and are stretched
again, so it is a substitute. Run here with random weights only: what the real ones answer was not seen.

Source: Karine-Huang/T2I-CompBench:BLIPvqa_eval/BLIP/train_vqa_func.py, models/blip_vqa.py, data/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harope_bench.assets import local_files
from harope_bench.core.annotations import Answer, Answered, Answers, Ask, Questions
from harope_bench.core.errors import NotHere, OptionError
from harope_bench.core.state_dicts import load_weights
from harope_bench.judges.base import Annotator, Canary, LoadedAnnotator, Trial
from harope_bench.judges.blip import blip_network
from harope_bench.judges.clip.clip_network import MEAN, STD
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import weights_file
from harope_bench.judges.generic.self_check import answers_beside_and_alone, red_comes_first, red_image
from harope_bench.judges.generic.vision_tower import scaled, stretched
from harope_bench.judges.weights.asset_files import Source, Weights
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published import Published

VOCABULARY = "vocab.txt"
ALIKE = 1e-4  # shares are compared at four decimals
STEPS = (
    "480 x 480, PIL bicubic with antialias; CLIP's mean and deviation; question in lower case without marks, [ENC] first, 35 tokens, no "
    "padding; yes / (yes + no) of the first word; float32"
)


def pixels(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8 as (1, 3, 480, 480) float32, stretched where not square."""
    return scaled(stretched([image], blip_network.SIDE, Image.Resampling.BICUBIC), MEAN, STD)


class LoadedBlip(LoadedAnnotator):
    """The network with weights, and its words."""

    def __init__(self, network: Network, words: blip_network.Words, weights_sha256: str, device: str):
        self.network, self.words, self.weights_sha256, self.device = network.to(device), words, weights_sha256, device

    @torch.inference_mode()
    def see(self, role: str, image: np.ndarray, ask: Ask) -> Answer:
        """Of each question the share of yes, and the likelier of yes and no."""
        if role != "vqa" or not isinstance(ask, Questions):
            raise OptionError(f"blip-vqa answers questions, it is no {role}; ask another judge")
        with full_float32():
            shares = blip_network.yes_shares(self.network, pixels(image).to(self.device), [self.words.tokens(q) for q in ask.questions])
        return Answers(answers=tuple(Answered(text="yes" if share > 0.5 else "no", yes=share) for share in shares))


def neighbours_do_not_count(opened: LoadedBlip) -> str | None:
    """Return what differs where a question is answered alone and beside a longer one, or None: padding would show."""
    beside, alone = answers_beside_and_alone(opened, ("red?", "is it a long red car with a green door?"), 0, side=32)
    shares = [answer.yes or 0.0 for answer in (beside, alone)]
    return None if abs(shares[0] - shares[1]) < ALIKE else f"beside a longer question yes has {shares[0]:.5f}, alone {shares[1]:.5f}"


def begins_rightly(opened: LoadedBlip) -> str | None:
    """Whether a question begins with [ENC]."""
    found = opened.words.tokens("red?")
    return (
        None
        if found[0] == blip_network.ENCODE and found[-1] == 102
        else f"a question becomes {found}, wanted {blip_network.ENCODE} ... 102"
    )


STACK = (
    Canary("red reaches the network first", lambda opened: red_comes_first(pixels(red_image()))),
    Canary("a question begins with [ENC]", begins_rightly),
    Canary("a question's neighbours do not count", neighbours_do_not_count),
)


class Blip(Published[LoadedAnnotator], Annotator):
    """The plug-in; `vision` and `text` replace sizes of the network, so that tests make it small."""

    title = "BLIP VQA base"
    packages = ("transformers",)
    preprocessing = STEPS
    roles = ("vqa",)
    source = Source("blip-vqa", "HAROPE_BENCH_BLIP_VQA")

    def __init__(self, vision: Mapping[str, int] = blip_network.VISION, text: Mapping[str, int] = blip_network.TEXT):
        self.vision, self.text = vision, text

    def of(self, model: str) -> Converted:
        """The same steps on a conversion: a folder or a hub id of the local cache."""
        return Converted(model, self)

    def open(self, device: str = "cpu") -> LoadedBlip:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: weights or words are not here, altered, unsafe, or of another network. MissingExtra: no transformers.
        """
        found = self.source.found()
        beside = found.path.with_name(VOCABULARY)
        own = beside.is_file() and beside.parent != local_files.folder(self.source.asset)
        words = blip_network.Words(beside if own else local_files.checked(self.source.asset, VOCABULARY).path)
        return self.opened(found, load_weights(found.path, found.sha256), words, device)

    def opened(self, found: Weights, state: Mapping[str, Tensor], words: blip_network.Words, device: str) -> LoadedBlip:
        """The network with these tensors."""
        network = self.filled(blip_network.built(self.vision, self.text), blip_network.arranged(state), found)
        return LoadedBlip(network, words, found.sha256, device)

    def canary(self) -> tuple[Canary | Trial, ...]:
        """The stack, whatever the weights; with the published ones also a red disc's colour, which was not yet seen with them."""
        y, x = np.mgrid[:256, :256]
        image = np.where(((y - 128) ** 2 + (x - 128) ** 2 < 90**2)[..., None], (220, 20, 20), 255).astype(np.uint8)

        def right(answer: Answer) -> bool:
            shares = [a.yes or 0.0 for a in answer.answers] if isinstance(answer, Answers) else [0.0, 0.0]
            return shares[0] > shares[1]

        ask = Questions(questions=("a red circle?", "a blue circle?"))
        return (*STACK, *self.seen(Trial("a red circle is red rather than blue", "vqa", image, ask, right)))


class Converted(LocalAnnotator):
    """The judge on a user's conversion."""

    name = "blip-vqa"
    preprocessing = f"{STEPS}; positions of another size stretched bicubic"
    roles = ("vqa",)

    def __init__(self, model: str | None = None, plugin: Blip | None = None):
        super().__init__(model)
        self.plugin = plugin or Blip()

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        return ("judge: a conversion of BLIP VQA base, its positions may be of another image size",)

    def open(self, device: str = "cpu") -> LoadedBlip:
        """Loads the folder's weights strictly."""
        folder, sha256 = self.found()
        path = weights_file(folder)
        state = blip_network.stretched(blip_network.arranged(load_weights(path)))
        return self.plugin.opened(Weights(path, sha256), state, blip_network.Words(self._vocabulary(folder)), device)

    def canary(self) -> tuple[Canary, ...]:
        """The stack, whatever the weights."""
        return STACK

    def _vocabulary(self, folder: Path) -> Path:
        if (folder / VOCABULARY).is_file():
            return folder / VOCABULARY
        raise NotHere(f"{folder} holds no {VOCABULARY}", advice="copy bert-base-uncased's there")


PLUGIN = Blip()
