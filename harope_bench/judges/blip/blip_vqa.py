"""Judge blip-vqa: the probability of yes that BLIP VQA base gives a question about an image.

It is T2I-CompBench's attribute judge. `with_model` binds the steps to a conversion on the hub
(Salesforce/blip-vqa-base). The conversion's position embeddings were cut to 384 pixels and are
resized again, so it is a substitute. The judge was tested with random weights only, because the
published weights were not available.

Source: Karine-Huang/T2I-CompBench:BLIPvqa_eval/BLIP/train_vqa_func.py, models/blip_vqa.py,
data/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

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
    answers_batched_and_alone,
    check_red_first,
    red_image,
)
from harope_bench.judges.generic.vision_tower import normalize_images, resize_square
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource
from harope_bench.judges.weights.precision import full_float32, without_gradients
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = "vocab.txt"
SEPARATOR = 102  # token [SEP]
PROBABILITY_TOLERANCE = 1e-4  # the benchmark compares four decimals
PREPROCESSING = (
    "480 x 480, PIL bicubic with antialias; CLIP's mean and deviation; question in lower case"
    " without marks, [ENC] first, 35 tokens, no padding; yes / (yes + no) of the first word;"
    " float32"
)


def pixels(image: np.ndarray) -> Tensor:
    """Return an image (H, W, 3) uint8 as (1, 3, 480, 480) float32, stretched if not square."""
    return normalize_images(
        resize_square([image], blip_network.SIDE, Image.Resampling.BICUBIC), MEAN, STD
    )


class LoadedBlipVqa(LoadedAnnotator):
    """BLIP VQA with its weights and its tokenizer."""

    def __init__(
        self,
        network: Network,
        tokenizer: blip_network.BlipTokenizer,
        weights_sha256: str,
        device: str,
    ):
        self.network = network.to(device)
        self.tokenizer = tokenizer
        self.weights_sha256 = weights_sha256
        self.device = device

    @without_gradients
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the probability of yes for each question, and the likelier of yes and no."""
        if role != "vqa" or not isinstance(query, VqaQuery):
            raise OptionError(
                f"judge blip-vqa has the role vqa, wanted {role}; choose another judge"
            )
        questions = [self.tokenizer.tokenize(question) for question in query.questions]
        with full_float32():
            probabilities = blip_network.yes_probabilities(
                self.network, pixels(image).to(self.device), questions
            )
        return VqaAnnotation(
            answers=tuple(
                VqaAnswer(text="yes" if probability > 0.5 else "no", yes_probability=probability)
                for probability in probabilities
            )
        )


def check_question_independence(judge: LoadedBlipVqa) -> str | None:
    """Return how an answer changes beside a longer question, or None where it does not.

    Padding would change it.
    """
    questions = ("red?", "is it a long red car with a green door?")
    batched_probability, alone_probability = (
        answer.yes_probability or 0.0
        for answer in answers_batched_and_alone(judge, questions, 0, side=32)
    )
    if abs(batched_probability - alone_probability) < PROBABILITY_TOLERANCE:
        return None
    return (
        f"beside a longer question yes has {batched_probability:.5f}, alone {alone_probability:.5f}"
    )


def check_question_start(judge: LoadedBlipVqa) -> str | None:
    """Return what is wrong with the first and last token of a question, or None."""
    tokens = judge.tokenizer.tokenize("red?")
    if tokens[0] == blip_network.ENCODE and tokens[-1] == SEPARATOR:
        return None
    return f"a question becomes {tokens}, wanted {blip_network.ENCODE} ... {SEPARATOR}"


STACK_CHECKS = (
    NamedCheck("red reaches the network first", lambda _: check_red_first(pixels(red_image()))),
    NamedCheck("a question begins with [ENC]", check_question_start),
    NamedCheck("other questions do not change an answer", check_question_independence),
)


class BlipVqa(PublishedWeightsJudge[LoadedAnnotator], Annotator):
    """The plug-in.

    Args:
        vision, text: sizes of the image tower and of the text towers; tests make them small.
    """

    title = "BLIP VQA base"
    packages = ("torch", "safetensors", "transformers")
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
        """Return the judge on a conversion: a folder, or a hub id in the local cache."""
        return ConvertedBlipVqa(model, self)

    def open(self, device: str = "cpu") -> LoadedBlipVqa:
        """Load the weights strictly after checking their hash, and the vocabulary.

        Raises:
            MissingAssetError: Weights or vocabulary are missing.
            WeightsError: They are altered, unsafe, or of another network.
            MissingExtraError: transformers is not installed.
        """
        weights_file = self.source.find()
        tokenizer = blip_network.BlipTokenizer(self._vocabulary_path(weights_file))
        state = load_weights(weights_file.path, weights_file.sha256)
        return self.build_loaded(weights_file, state, tokenizer, device)

    def _vocabulary_path(self, weights_file: WeightsFile) -> Path:
        """Return the vocabulary beside a weights file of the user, or else the fetched one."""
        path = weights_file.path.with_name(VOCABULARY)
        if path.is_file() and path.parent != local_files.asset_folder(self.source.asset):
            return path
        return local_files.verify_local_file(self.source.asset, VOCABULARY).path

    def build_loaded(
        self,
        weights_file: WeightsFile,
        state: Mapping[str, Tensor],
        tokenizer: blip_network.BlipTokenizer,
        device: str,
    ) -> LoadedBlipVqa:
        """Return the loaded judge with the tensors of `state`."""
        network = self.load_network_weights(
            blip_network.build_network(self.vision, self.text),
            blip_network.convert_state(state),
            weights_file,
        )
        return LoadedBlipVqa(network, tokenizer, weights_file.sha256, device)

    def self_checks(self) -> tuple[NamedCheck | AnnotationCheck, ...]:
        """Return checks for any weights, and a check of a red disc for the published weights.

        The check of the disc was never run with the published weights.
        """
        y, x = np.mgrid[:256, :256]
        in_disc = (y - 128) ** 2 + (x - 128) ** 2 < 90**2
        image = np.where(in_disc[..., None], (220, 20, 20), 255).astype(np.uint8)
        query = VqaQuery(questions=("a red circle?", "a blue circle?"))

        def is_correct(annotation: Annotation) -> bool:
            if not isinstance(annotation, VqaAnnotation):
                return False
            red, blue = (answer.yes_probability or 0.0 for answer in annotation.answers)
            return red > blue

        disc_check = AnnotationCheck(
            "a red circle is red rather than blue", "vqa", image, query, is_correct
        )
        return (*STACK_CHECKS, *self.checks_of_published(disc_check))


class ConvertedBlipVqa(LocalAnnotator):
    """The judge on a conversion of the weights that the user provides."""

    name = "blip-vqa"
    preprocessing = f"{PREPROCESSING}; positions of another size stretched bicubic"
    roles = ("vqa",)

    def __init__(self, model: str | None = None, plugin: BlipVqa | None = None):
        super().__init__(model)
        self.plugin = plugin or BlipVqa()

    def warnings(self) -> tuple[str, ...]:
        """Return the warning that the weights are a conversion."""
        return ("judge: a conversion of BLIP VQA base, its positions may be of another image size",)

    def open(self, device: str = "cpu") -> LoadedBlipVqa:
        """Load the folder's weights strictly.

        Raises:
            MissingAssetError: The folder or its vocabulary is missing.
            WeightsError: The weights are unsafe or of another network.
        """
        folder, folder_sha256 = self.find_model()
        path = find_weights_file(folder)
        state = blip_network.resize_positions(blip_network.convert_state(load_weights(path)))
        tokenizer = blip_network.BlipTokenizer(self._vocabulary_path(folder))
        return self.plugin.build_loaded(WeightsFile(path, folder_sha256), state, tokenizer, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return checks that hold for any weights."""
        return STACK_CHECKS

    def _vocabulary_path(self, folder: Path) -> Path:
        """Return the vocabulary in the folder; raise MissingAssetError where it is missing."""
        if (folder / VOCABULARY).is_file():
            return folder / VOCABULARY
        raise MissingAssetError(
            f"{folder} has no {VOCABULARY}", advice="copy that of bert-base-uncased there"
        )


PLUGIN = BlipVqa()
