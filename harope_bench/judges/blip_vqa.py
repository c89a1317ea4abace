"""Judge blip-vqa: the share of yes that BLIP VQA base gives a question, T2I-CompBench's attribute judge.

`of(model)` takes the hub's conversion (Salesforce/blip-vqa-base) in the same steps; its positions were cut to 384 pixels and are stretched
again, so it is a substitute. Run here with random weights only: what the real ones answer was not seen.

Source: Karine-Huang/T2I-CompBench:BLIPvqa_eval/BLIP/train_vqa_func.py, models/blip_vqa.py, data/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harope_bench import fetched
from harope_bench.errors import NotHere, OptionError
from harope_bench.judges import _blip
from harope_bench.judges._clip import MEAN, STD
from harope_bench.judges._files import Source, Weights
from harope_bench.judges._local import Local, local, weights_file
from harope_bench.judges._published import Published, fitted
from harope_bench.judges._tower import full_float32, scaled
from harope_bench.judges.base import Trial
from harope_bench.perceptions import Answer, Answered, Answers, Ask, Questions
from harope_bench.store import load_weights

VOCABULARY = "vocab.txt"
STEPS = (
    "480 x 480, PIL bicubic with antialias; CLIP's mean and deviation; question in lower case without marks, [ENC] first, 35 tokens, no "
    "padding; yes / (yes + no) of the first word; float32"
)


def pixels(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8 as (1, 3, 480, 480) float32, stretched where not square."""
    square = Image.fromarray(image).resize((_blip.SIDE, _blip.SIDE), Image.Resampling.BICUBIC)
    return scaled(np.array(square)[None], MEAN, STD)


class OpenedBlip:
    """The network with weights, and its words."""

    def __init__(self, network: Any, words: _blip.Words, weights_sha256: str, device: str):
        self.network, self.words, self.weights_sha256, self.device = network.to(device), words, weights_sha256, device

    @torch.inference_mode()
    def see(self, role: str, image: np.ndarray, ask: Ask) -> Answer:
        """Of each question the share of yes, and the likelier of yes and no."""
        if role != "vqa" or not isinstance(ask, Questions):
            raise OptionError(f"blip-vqa answers questions, it is no {role}; ask another judge")
        with full_float32():
            shares = _blip.yes_shares(self.network, pixels(image).to(self.device), [self.words.tokens(q) for q in ask.questions])
        return Answers(answers=tuple(Answered(text="yes" if share > 0.5 else "no", yes=share) for share in shares))


class Blip(Published):
    """The plug-in; `vision` and `text` replace sizes of the network, so that tests make it small."""

    title = "BLIP VQA base"
    preprocessing = STEPS
    roles = ("vqa",)
    source = Source("blip-vqa", "HAROPE_BENCH_BLIP_VQA")

    def __init__(self, vision: Mapping[str, int] = _blip.VISION, text: Mapping[str, int] = _blip.TEXT):
        self.vision, self.text = vision, text

    def of(self, model: str) -> Converted:
        """The same steps on a conversion: a folder or a hub id of the local cache."""
        return Converted(self, model)

    def open(self, device: str = "cpu") -> OpenedBlip:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: weights or words are not here, altered, unsafe, or of another network. MissingExtra: no transformers.
        """
        found = self.source.found()
        beside = found.path.with_name(VOCABULARY)
        own = beside.is_file() and beside.parent != fetched.folder(self.source.asset)
        words = _blip.Words(beside if own else fetched.checked(self.source.asset, VOCABULARY).path)
        return self.opened(found, load_weights(found.path, found.sha256), words, device)

    def opened(self, found: Weights, state: Mapping[str, Tensor], words: _blip.Words, device: str) -> OpenedBlip:
        """The network with these tensors."""
        network = _blip.built(self.vision, self.text)
        fitted(network, _blip.arranged(state), found, self.title, self.source.asset)
        return OpenedBlip(network, words, found.sha256, device)

    def canary(self) -> tuple[Trial, ...]:
        """A red disc is rather red than blue; right only with the real weights, and not yet seen with them."""
        y, x = np.mgrid[:256, :256]
        image = np.where(((y - 128) ** 2 + (x - 128) ** 2 < 90**2)[..., None], (220, 20, 20), 255).astype(np.uint8)

        def right(answer: Answer) -> bool:
            shares = [a.yes or 0.0 for a in answer.answers] if isinstance(answer, Answers) else [0.0, 0.0]
            return shares[0] > shares[1]

        return (
            Trial("a red circle is red rather than blue", "vqa", image, Questions(questions=("a red circle?", "a blue circle?")), right),
        )


class Converted:
    """The judge on a user's conversion."""

    version = 1
    judge_class: Literal["substitute"] = "substitute"
    preprocessing = f"{STEPS}; positions of another size stretched bicubic"
    roles = ("vqa",)

    def __init__(self, plugin: Blip, model: str):
        self.plugin, self.model = plugin, model

    def found(self) -> Local:
        """Where the model lies."""
        return local(self.model)

    def weights_sha256(self) -> str:
        """Hash of the folder; NotHere with the command that brings it."""
        return self.found().sha256

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        return ("judge: a conversion of BLIP VQA base, its positions may be of another image size",)

    def open(self, device: str = "cpu") -> OpenedBlip:
        """Loads the folder's weights strictly."""
        folder, sha256 = self.found()
        path = weights_file(folder)
        state = _blip.stretched(_blip.arranged(load_weights(path)))
        return self.plugin.opened(Weights(path, sha256), state, _blip.Words(self._vocabulary(folder)), device)

    def _vocabulary(self, folder: Path) -> Path:
        if (folder / VOCABULARY).is_file():
            return folder / VOCABULARY
        raise NotHere(f"{folder} holds no {VOCABULARY}; copy bert-base-uncased's there")


PLUGIN = Blip()
