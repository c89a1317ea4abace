"""Inception of December 2015, as FID has it: one pass gives pool_3, sFID's map and logits without
bias.

The network is torch-fidelity's class with its weights (`fetch inception-2015`, or a file that
HAROPE_BENCH_INCEPTION names). It runs
folded (convolution and batch norm in one) and channels-last; the first images are also shown to the
plain network, and where
the two differ by more than rounding the plain one is used and the result says so.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.core.errors import WeightsError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import load_weights
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

ASSET = "inception-2015"
ENVIRONMENT_VARIABLE = "HAROPE_BENCH_INCEPTION"  # a weights file of one's own
# 1: torch.compile, which takes a minute and pays from some thousand images on
COMPILE = "HAROPE_BENCH_COMPILE"
SIDE = 299
MAX_RESIZE_PIXELS = 1 << 22  # of images held as floats at once while they are made smaller, 50 MB
SPATIAL_CHANNELS = 7  # of Mixed_6d.branch1x1, the first ones: 17 x 17 x 7 = 2023 numbers
FEATURES = 2048
TRUNK_LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2",
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
    "AvgPool",
)  # fmt: skip
# Folding and another layout of memory move a feature by 2.5e-5 of its spread, a wrong fold by far
# more than this.
ROUNDING = 1e-3
COMPARED_IMAGES = 8  # images of the first batch that the plain network sees too
Forward = Callable[[Tensor], "InceptionOutputs"]


class InceptionOutputs(NamedTuple):
    """What one pass gives: pool_3 (B, 2048), map (B, 7, 17, 17) after its ReLU, logits without bias
    (B, 1008); float32.
    """

    features: Tensor
    spatial: Tensor
    logits: Tensor


class Trunk(nn.Module):
    """The network from prepared images on, in torch-fidelity's own layers."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> InceptionOutputs:
        """Images (B, 3, 299, 299) in [-1, 0.9921875] to features, map and logits."""
        spatial = x
        for name in TRUNK_LAYERS:
            layer = self.network.get_submodule(name)
            if name == "Mixed_6d":
                spatial = layer.get_submodule("branch1x1")(x)[
                    :, :SPATIAL_CHANNELS
                ]  # (B, 7, 17, 17); TF's mixed_6/conv
            x = layer(x)
        features = x.flatten(1)  # (B, 2048)
        weight = self.network.get_parameter("fc.weight")  # (1008, 2048)
        return InceptionOutputs(features.float(), spatial.float(), (features @ weight.T).float())


def resize_like_tensorflow1(images: np.ndarray) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, 3, 299, 299): TF1's bilinear without half pixel and
    antialias, then (x - 128) / 128.

    torch-fidelity's form of it is bit-exact with TF1's on the CPU. Each image is resized for
    itself, so slices move no bit.
    """
    each = max(1, MAX_RESIZE_PIXELS // (images.shape[1] * images.shape[2]))
    return torch.cat(
        [
            _resize_like_tensorflow1(images[start : start + each])
            for start in range(0, len(images), each)
        ]
    )


def _resize_like_tensorflow1(images: np.ndarray) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return (
        interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False) - 128
    ) / 128


def resize_like_cleanfid(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, 299, 299) float32: `clean_resize`, then (x - 128)
    / 128.
    """
    x = torch.from_numpy(np.stack([clean_resize(image) for image in images])).permute(
        0, 3, 1, 2
    )  # (B, 3, 299, 299)
    return (x - 128) / 128


def clean_resize(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 as (299, 299, 3) float32 in [0, 255]: PIL's antialiased
    bicubic on channels of floats.

    Source: GaParmar/clean-fid:cleanfid/resize.py, `build_resizer("clean")`;
    tests/judges/test_inception.py compares them.
    """
    channels = [
        Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)
    ]  # of PIL's mode F, no rounding to uint8
    resized = [
        np.asarray(channel.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for channel in channels
    ]
    return np.stack(resized, axis=-1).clip(0, 255)


def load_network(path: Path, sha256: str) -> nn.Module:
    """torch-fidelity's extractor with the weights of the file, checked before it is opened; nothing
    but tensors is unpickled.

    Raises:
        WeightsError: altered, unsafe, or of another network.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    safe = io.BytesIO()
    torch.save(
        load_weights(path, sha256), safe
    )  # the class unpickles what it is given; so it gets our own bytes
    safe.seek(0)
    try:
        built = FeatureExtractorInceptionV3(
            "inception-2015", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
        )
    except RuntimeError as error:
        told = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} does not fit Inception of 2015: {told}; harope-bench fetch {ASSET}"
        ) from error
    return built.eval()


def fold_batch_norms(plain: nn.Module) -> nn.Module:
    """A copy in which each batch norm is part of its convolution, laid out channels-last."""
    import copy

    from torch.nn.utils.fusion import fuse_conv_bn_eval

    quick = copy.deepcopy(plain)
    blocks = [(module, dict(module.named_children())) for module in quick.modules()]
    for block, layers in blocks:
        conv = layers.get("conv")
        norm = layers.get("bn")
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return quick.to(memory_format=torch.channels_last)


class LoadedInception(LoadedFeatureExtractor):
    """The network with weights, ready to look; `notes` say what was not as it should be."""

    def __init__(
        self,
        found: WeightsFile,
        prepare: Callable[[np.ndarray], Tensor],
        device: str,
        preview: bool = False,
    ):
        self.weights_sha256 = found.sha256
        self.prepare = prepare
        self.device = device
        self.preview = preview
        self.reference_network = Trunk(load_network(*found)).to(device)
        self.selected_network: Forward | None = None  # chosen at the first batch
        self.network_kind = "plain"
        self.notes: list[str] = []

    @property
    def numerics(self) -> Mapping[str, Option]:
        """Which of the networks looked, and that no product was rounded to TF32."""
        return {"path": self.network_kind, "tf32": False}

    @torch.inference_mode()
    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """features (B, 2048), spatial (B, 2023) in NHWC order, logits (B, 1008) without bias;
        float32.
        """
        x = self.prepare(images).to(self.device, memory_format=torch.channels_last)
        with full_float32():
            if self.selected_network is None:
                self.selected_network, seen = self._choose_network(x)
            else:
                seen = self.selected_network(x)
        return {
            "features": seen.features.cpu().numpy(),
            "spatial": seen.spatial.permute(0, 2, 3, 1).flatten(1).cpu().numpy(),
            "logits": seen.logits.cpu().numpy(),
        }

    def _choose_network(self, x: Tensor) -> tuple[Forward, InceptionOutputs]:
        """The quick network if it says what the plain one says of the first batch, else the plain
        one; and what it said.
        """
        quick = Trunk(fold_batch_norms(self.reference_network.network))
        if self.preview:
            half = self._half_precision(quick)
            self.network_kind = "folded, bfloat16"
            return half, half(x)
        wanted = self.reference_network(x[:COMPARED_IMAGES])
        if (
            os.environ.get(COMPILE) == "1"
            and (found := self._compiled(quick, x)) is not None
            and not self._deviation(found[1], wanted)
        ):
            self.network_kind = "compiled"
            return found
        said = quick(x)
        if off := self._deviation(said, wanted):
            self.notes.append(
                f"inception: the folded network is {off:.1e} of a spread off the plain one, the"
                " plain one was used"
            )
            return self.reference_network, self.reference_network(x)
        self.network_kind = "folded"
        return quick, said

    def _compiled(self, quick: nn.Module, x: Tensor) -> tuple[Forward, InceptionOutputs] | None:
        try:
            compiled: Forward = torch.compile(quick, dynamic=True)
            said = compiled(x)
        except (
            RuntimeError,
            ImportError,
            OSError,
        ) as error:  # dynamo's and inductor's errors are RuntimeErrors; a compiler may be missing
            self.notes.append(
                f"inception: torch.compile failed ({type(error).__name__}), the folded network was"
                " used without it"
            )
            return None
        return compiled, said

    def _half_precision(self, quick: nn.Module) -> Forward:
        def look(x: Tensor) -> InceptionOutputs:
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                seen: InceptionOutputs = quick(x)
            return seen

        return look

    def _deviation(self, found: InceptionOutputs, wanted: InceptionOutputs) -> float:
        """The largest difference, as a share of the array's spread; 0 where it is rounding."""
        shares = [
            float((a[:COMPARED_IMAGES] - b).abs().max() / b.std().clamp_min(1e-12))
            for a, b in zip(found, wanted, strict=True)
        ]
        worst = max(share if np.isfinite(share) else float("inf") for share in shares)
        return worst if worst > ROUNDING else 0.0


@lru_cache(maxsize=1)
def load_inception(
    file: WeightsFile,
    prepare: Callable[[np.ndarray], Tensor],
    device: str,
    preview: bool,
    compiled: bool,
) -> LoadedInception:
    """The network of these weights; kept, so that it is compared with the plain one once."""
    return LoadedInception(file, prepare, device, preview)


class Inception(PublishedWeightsJudge[LoadedFeatureExtractor], FeatureExtractor):
    """The plug-in: facts, and the door to the network. One class for every way to prepare images
    and to compute.
    """

    title = "Inception of 2015"
    source = WeightsSource(ASSET, ENVIRONMENT_VARIABLE)
    arrays = ("features", "spatial", "logits")
    widths = {"features": FEATURES, "spatial": 17 * 17 * SPATIAL_CHANNELS}
    batch_size = 50

    def __init__(
        self, preprocessing: str, prepare: Callable[[np.ndarray], Tensor], preview: bool = False
    ):
        self.preprocessing = preprocessing
        self.prepare = prepare
        self.preview = preview

    @property
    def judge_class(self) -> JudgeClass:
        """Equivalent with the published weights in float32; anything else is a substitute."""
        return "substitute" if self.preview else super().judge_class

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        preview = ("judge: preview in bfloat16, not for a reported number",) if self.preview else ()
        return (*super().warnings(), *preview)

    def open(self, device: str = "cpu") -> LoadedInception:
        """Loads the weights, hash checked first; the same network serves samples and reference of
        one process.
        """
        return load_inception(
            self.source.find(), self.prepare, device, self.preview, os.environ.get(COMPILE) == "1"
        )
