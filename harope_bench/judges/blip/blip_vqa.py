"""Judge blip-vqa: the share of yes that BLIP VQA base gives a question, T2I-CompBench's attribute
judge.

`of(model)` takes the hub's conversion (Salesforce/blip-vqa-base) in the same steps; its positions
were cut to 384 pixels and are stretched
again, so it is a substitute. Run here with random weights only: what the real ones answer was not
seen.

Source: Karine-Huang/T2I-CompBench:BLIPvqa_eval/BLIP/train_vqa_func.py, models/blip_vqa.py,
data/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harope_bench.assets import local_files
from harope_bench.core.annotations import Annotation, Query, VqaAnnotation, VqaAnswer, VqaQuery
from harope_bench.core.errors import MissingAssetError, OptionError
from harope_bench.core.state_dicts import load_weights
from harope_bench.judges.base import AnnotationCheck, Annotator, LoadedAnnotator, NamedCheck
from harope_bench.judges.blip import blip_network
from harope_bench.judges.clip.clip_network import MEAN, STD
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import find_weights_file
from harope_bench.judges.generic.self_check import (
    answers_beside_and_alone,
    check_red_first,
    red_image,
)
from harope_bench.judges.generic.vision_tower import normalize_images, resize_square
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

VOCABULARY = "vocab.txt"
PROBABILITY_TOLERANCE = 1e-4  # shares are compared at four decimals
PREPROCESSING = (
    "480 x 480, PIL bicubic with antialias; CLIP's mean and deviation; question in lower case"
    " without marks, [ENC] first, 35 tokens, no padding; yes / (yes + no) of the first word;"
    " float32"
)


def pixels(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8 as (1, 3, 480, 480) float32, stretched where not square."""
    return normalize_images(
        resize_square([image], blip_network.SIDE, Image.Resampling.BICUBIC), MEAN, STD
    )


class LoadedBlipVqa(LoadedAnnotator):
    """The network with weights, and its words."""

    def __init__(
        self, network: Network, words: blip_network.BlipTokenizer, weights_sha256: str, device: str
    ):
        self.network = network.to(device)
        self.tokenizer = words
        self.weights_sha256 = weights_sha256
        self.device = device

    @torch.inference_mode()
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Of each question the share of yes, and the likelier of yes and no."""
        if role != "vqa" or not isinstance(query, VqaQuery):
            raise OptionError(f"blip-vqa answers questions, it is no {role}; ask another judge")
        with full_float32():
            shares = blip_network.yes_probabilities(
                self.network,
                pixels(image).to(self.device),
                [self.tokenizer.tokenize(q) for q in query.questions],
            )
        return VqaAnnotation(
            answers=tuple(
                VqaAnswer(text="yes" if share > 0.5 else "no", yes_probability=share)
                for share in shares
            )
        )


def check_question_independence(opened: LoadedBlipVqa) -> str | None:
    """Return what differs where a question is answered alone and beside a longer one, or None:
    padding would show.
    """
    beside, alone = answers_beside_and_alone(
        opened, ("red?", "is it a long red car with a green door?"), 0, side=32
    )
    shares = [answer.yes_probability or 0.0 for answer in (beside, alone)]
    return (
        None
        if abs(shares[0] - shares[1]) < PROBABILITY_TOLERANCE
        else f"beside a longer question yes has {shares[0]:.5f}, alone {shares[1]:.5f}"
    )


def check_question_start(opened: LoadedBlipVqa) -> str | None:
    """Whether a question begins with [ENC]."""
    found = opened.tokenizer.tokenize("red?")
    return (
        None
        if found[0] == blip_network.ENCODE and found[-1] == 102
        else f"a question becomes {found}, wanted {blip_network.ENCODE} ... 102"
    )


STACK_CHECKS = (
    NamedCheck(
        "red reaches the network first", lambda opened: check_red_first(pixels(red_image()))
    ),
    NamedCheck("a question begins with [ENC]", check_question_start),
    NamedCheck("a question's neighbours do not count", check_question_independence),
)


class BlipVqa(PublishedWeightsJudge[LoadedAnnotator], Annotator):
    """The plug-in; `vision` and `text` replace sizes of the network, so that tests make it
    small.
    """

    title = "BLIP VQA base"
    packages = ("transformers",)
    preprocessing = PREPROCESSING
    roles = ("vqa",)
    source = WeightsSource("blip-vqa", "HAROPE_BENCH_BLIP_VQA")

    def __init__(
        self,
        vision: Mapping[str, int] = blip_network.VISION,
        text: Mapping[str, int] = blip_network.TEXT,
    ):
        self.vision = vision
        self.text = text

    def with_model(self, model: str) -> ConvertedBlipVqa:
        """The same steps on a conversion: a folder or a hub id of the local cache."""
        return ConvertedBlipVqa(model, self)

    def open(self, device: str = "cpu") -> LoadedBlipVqa:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: weights or words are not here, altered, unsafe, or of another network.
                MissingExtra: no transformers.
        """
        found = self.source.find()
        beside = found.path.with_name(VOCABULARY)
        own = beside.is_file() and beside.parent != local_files.asset_folder(self.source.asset)
        words = blip_network.BlipTokenizer(
            beside if own else local_files.verify_local_file(self.source.asset, VOCABULARY).path
        )
        return self.build_loaded(found, load_weights(found.path, found.sha256), words, device)

    def build_loaded(
        self,
        found: WeightsFile,
        state: Mapping[str, Tensor],
        words: blip_network.BlipTokenizer,
        device: str,
    ) -> LoadedBlipVqa:
        """The network with these tensors."""
        network = self.fill_network(
            blip_network.build_network(self.vision, self.text),
            blip_network.convert_state(state),
            found,
        )
        return LoadedBlipVqa(network, words, found.sha256, device)

    def self_checks(self) -> tuple[NamedCheck | AnnotationCheck, ...]:
        """The stack, whatever the weights; with the published ones also a red disc's colour, which
        was not yet seen with them.
        """
        y, x = np.mgrid[:256, :256]
        image = np.where(
            ((y - 128) ** 2 + (x - 128) ** 2 < 90**2)[..., None], (220, 20, 20), 255
        ).astype(np.uint8)

        def right(answer: Annotation) -> bool:
            shares = (
                [a.yes_probability or 0.0 for a in answer.answers]
                if isinstance(answer, VqaAnnotation)
                else [0.0, 0.0]
            )
            return shares[0] > shares[1]

        ask = VqaQuery(questions=("a red circle?", "a blue circle?"))
        return (
            *STACK_CHECKS,
            *self.checks_of_published(
                AnnotationCheck("a red circle is red rather than blue", "vqa", image, ask, right)
            ),
        )


class ConvertedBlipVqa(LocalAnnotator):
    """The judge on a user's conversion."""

    name = "blip-vqa"
    preprocessing = f"{PREPROCESSING}; positions of another size stretched bicubic"
    roles = ("vqa",)

    def __init__(self, model: str | None = None, plugin: BlipVqa | None = None):
        super().__init__(model)
        self.plugin = plugin or BlipVqa()

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        return ("judge: a conversion of BLIP VQA base, its positions may be of another image size",)

    def open(self, device: str = "cpu") -> LoadedBlipVqa:
        """Loads the folder's weights strictly."""
        folder, sha256 = self.find_model()
        path = find_weights_file(folder)
        state = blip_network.resize_positions(blip_network.convert_state(load_weights(path)))
        return self.plugin.build_loaded(
            WeightsFile(path, sha256),
            state,
            blip_network.BlipTokenizer(self._vocabulary(folder)),
            device,
        )

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """The stack, whatever the weights."""
        return STACK_CHECKS

    def _vocabulary(self, folder: Path) -> Path:
        if (folder / VOCABULARY).is_file():
            return folder / VOCABULARY
        raise MissingAssetError(
            f"{folder} holds no {VOCABULARY}", advice="copy bert-base-uncased's there"
        )


PLUGIN = BlipVqa()
