"""Inception of December 2015, as FID uses it: features, a spatial map and logits from one pass.

They are pool_3, the map of sFID, and logits without bias. The network is torch-fidelity's class
with its weights (`fetch inception-2015`, or a file that HAROPE_BENCH_INCEPTION names). It runs
folded (convolution and batch norm in one) and channels-last. The first images also go through the
plain network. Where the two differ by more than rounding, the plain network is used and the result
states it.
"""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.errors import WeightsError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import load_weights
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
from harope_bench.judges.inception.inception_outputs import SPATIAL_CHANNELS, InceptionOutputs
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource
from harope_bench.judges.weights.precision import full_float32, without_gradients
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

if TYPE_CHECKING:
    from torch import Tensor, nn

ASSET = "inception-2015"
ENVIRONMENT_VARIABLE = "HAROPE_BENCH_INCEPTION"  # names a weights file of the user
# 1 for torch.compile, which takes a minute and saves time from some thousand images on
COMPILE = "HAROPE_BENCH_COMPILE"
SIDE = 299
MAX_RESIZE_PIXELS = 1 << 18  # pixels of images that are resized at once, which a cache holds
FEATURES = 2048
# Folding and the memory layout change a feature by 2.5e-5 of its standard deviation. A wrong fold
# changes it by far more than this.
ROUNDING = 1e-3
COMPARED_IMAGES = 8  # images of the first batch that also go through the plain network
Forward = Callable[["Tensor"], InceptionOutputs]


def resize_like_tensorflow1(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, 299, 299), resized as TensorFlow 1 does.

    Bilinear without half-pixel centres and without antialias, then (x - 128) / 128. The function of
    torch-fidelity is bit-exact with TensorFlow 1 on the CPU. Each image is resized alone, so the
    slices that bound memory change no bit.
    """
    import torch

    images_at_once = max(1, MAX_RESIZE_PIXELS // (images.shape[1] * images.shape[2]))
    slices = [
        _resize_like_tensorflow1(images[start : start + images_at_once])
        for start in range(0, len(images), images_at_once)
    ]
    return torch.cat(slices)  # (B, 3, 299, 299)


def _resize_like_tensorflow1(images: np.ndarray) -> Tensor:
    """Return `resize_like_tensorflow1` of images that fit in memory as floats.

    The operations on a pixel are those of torch-fidelity, in its order, so the bits are equal. The
    columns are interpolated once for each row of the image that is needed, not for each row of the
    output, and pixels become floats after they are selected.

    Source: toshas/torch-fidelity:torch_fidelity/interpolate_compat_tensorflow.py,
    `resample_manually`; tests/judges/test_inception.py compares them.
    """
    import torch

    x = torch.from_numpy(images)  # (B, H, W, 3)
    top, bottom, row_fraction = _tensorflow1_neighbours(x.shape[1])
    left, right, column_fraction = _tensorflow1_neighbours(x.shape[2])
    rows, positions = torch.cat((top, bottom)).unique(return_inverse=True)

    x = x.index_select(1, rows)  # (B, R, W, 3)
    left_pixels = x.index_select(2, left).float()  # (B, R, 299, 3)
    right_pixels = x.index_select(2, right).float()
    # left + (right - left) * fraction, in place
    lines = right_pixels.sub_(left_pixels).mul_(column_fraction.view(1, 1, SIDE, 1))
    lines = lines.add_(left_pixels)
    top_lines = lines.index_select(1, positions[:SIDE])  # (B, 299, 299, 3)
    bottom_lines = lines.index_select(1, positions[SIDE:])
    resized_images = bottom_lines.sub_(top_lines).mul_(row_fraction.view(1, SIDE, 1, 1))
    resized_images = resized_images.add_(top_lines)
    return resized_images.sub_(128).div_(128).permute(0, 3, 1, 2)  # (B, 3, 299, 299)


def _tensorflow1_neighbours(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two neighbours of each output pixel on an axis and the weight of the second.

    All are (299,). There are no half-pixel centres.
    """
    import torch

    centres = torch.arange(0, SIDE, dtype=torch.float32) * torch.tensor(size / SIDE)
    low = centres.long()
    high = (low + 1).clamp_max(size - 1)
    return low, high, centres - low.float()


def resize_like_cleanfid(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, 299, 299) float32, resized as clean-fid does.

    `clean_resize`, then (x - 128) / 128.
    """
    import torch

    resized_images = np.stack([clean_resize(image) for image in images])  # (B, 299, 299, 3)
    x = torch.from_numpy(resized_images).permute(0, 3, 1, 2)  # (B, 3, 299, 299)
    return (x - 128) / 128


def clean_resize(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 as (299, 299, 3) float32 in [0, 255].

    Pillow resizes each channel as floats, bicubic with antialias.

    Source: GaParmar/clean-fid:cleanfid/resize.py, `build_resizer("clean")`;
    tests/judges/test_inception.py compares them.
    """
    resized_channels = []
    for c in range(3):
        channel = Image.fromarray(image[..., c].astype(np.float32))  # mode F: no rounding to uint8
        resized_channels.append(np.asarray(channel.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(resized_channels, axis=-1).clip(0, 255)


def load_network(path: Path, sha256: str) -> nn.Module:
    """Return torch-fidelity's network with the weights of a file of this sha256.

    Nothing but tensors is unpickled.

    Raises:
        WeightsError: The file is altered, unsafe, or of another network.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # the class unpickles the file it gets, so it gets one that was saved here
    safe_file = io.BytesIO()
    torch.save(load_weights(path, sha256), safe_file)
    safe_file.seek(0)
    try:
        network = FeatureExtractorInceptionV3(
            "inception-2015", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe_file
        )
    except RuntimeError as error:
        complaint = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} does not fit Inception of 2015: {complaint}; run: harope-bench fetch {ASSET}"
        ) from error
    return network.eval()


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy with each batch norm folded into its convolution, in channels-last layout."""
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded_network = copy.deepcopy(network)
    blocks = [(module, dict(module.named_children())) for module in folded_network.modules()]
    for block, layers in blocks:
        conv = layers.get("conv")
        norm = layers.get("bn")
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv = fuse_conv_bn_eval(conv, norm)
            block.bn = nn.Identity()
    return folded_network.to(memory_format=torch.channels_last)


class LoadedInception(LoadedFeatureExtractor):
    """Inception with its weights; `notes` tell where a fallback was used.

    reference_network: the plain network. selected_network: the network that extracts features,
    selected at the first batch. network_kind: plain, folded or compiled.
    """

    def __init__(
        self,
        weights_file: WeightsFile,
        prepare: Callable[[np.ndarray], Tensor],
        device: str,
        is_preview: bool = False,
    ):
        from harope_bench.judges.inception.inception_trunk import Trunk

        self.weights_sha256 = weights_file.sha256
        self.prepare = prepare
        self.device = device
        self.is_preview = is_preview
        self.reference_network = Trunk(load_network(*weights_file)).to(device)
        self.selected_network: Forward | None = None
        self.network_kind = "plain"
        self.notes: list[str] = []

    @property
    def numerics(self) -> Mapping[str, Option]:
        """Return which network extracted features, and that no product was rounded to TF32."""
        return {"network": self.network_kind, "tf32": False}

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the three arrays of images (B, H, W, 3) uint8, float32.

        features (B, 2048), spatial (B, 2023) in NHWC order, and logits (B, 1008) without bias.
        """
        return self.extract_preprocessed(self.preprocess(images))

    @without_gradients
    def preprocess(self, images: np.ndarray) -> Tensor:
        """Return the network's input (B, 3, 299, 299), on the CPU."""
        return self.prepare(images)

    @without_gradients
    def extract_preprocessed(self, inputs: Tensor) -> dict[str, np.ndarray]:
        """Return the three arrays of `extract` for the network's input (B, 3, 299, 299)."""
        import torch

        x = inputs.to(self.device, memory_format=torch.channels_last)
        with full_float32():
            if self.selected_network is None:
                self.selected_network, outputs = self._choose_network(x)
            else:
                outputs = self.selected_network(x)
        spatial = outputs.spatial.permute(0, 2, 3, 1).flatten(1)  # (B, 17 * 17 * 7)
        return {
            "features": outputs.features.cpu().numpy(),
            "spatial": spatial.cpu().numpy(),
            "logits": outputs.logits.cpu().numpy(),
        }

    def _choose_network(self, x: Tensor) -> tuple[Forward, InceptionOutputs]:
        """Return the fastest network that agrees with the plain one, and its outputs for `x`."""
        from harope_bench.judges.inception.inception_trunk import Trunk

        folded_network = Trunk(fold_batch_norms(self.reference_network.network))
        if self.is_preview:
            preview_network = _autocast_to_bfloat16(folded_network)
            self.network_kind = "folded, bfloat16"
            return preview_network, preview_network(x)

        reference_outputs = self.reference_network(x[:COMPARED_IMAGES])
        if os.environ.get(COMPILE) == "1":
            compilation = self._compile_network(folded_network, x)
            if compilation is not None and not _deviation(compilation[1], reference_outputs):
                self.network_kind = "compiled"
                return compilation

        outputs = folded_network(x)
        if deviation := _deviation(outputs, reference_outputs):
            self.notes.append(
                f"inception: the folded network differs from the plain one by {deviation:.1e} of a"
                " standard deviation, so the plain one was used"
            )
            return self.reference_network, self.reference_network(x)
        self.network_kind = "folded"
        return folded_network, outputs

    def _compile_network(
        self, network: nn.Module, x: Tensor
    ) -> tuple[Forward, InceptionOutputs] | None:
        """Return the compiled network and its outputs for `x`, or None where compiling fails."""
        import torch

        try:
            compiled_network: Forward = torch.compile(network, dynamic=True)
            outputs = compiled_network(x)
        # errors of dynamo and inductor are RuntimeErrors; a C++ compiler may be missing
        except (RuntimeError, ImportError, OSError) as error:
            self.notes.append(
                f"inception: torch.compile failed ({type(error).__name__}), so the folded network"
                " was used without it"
            )
            return None
        return compiled_network, outputs


def _autocast_to_bfloat16(network: nn.Module) -> Forward:
    """Return the network as a function that computes in bfloat16."""
    import torch

    def forward(x: Tensor) -> InceptionOutputs:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            outputs: InceptionOutputs = network(x)
        return outputs

    return forward


def _deviation(outputs: InceptionOutputs, reference_outputs: InceptionOutputs) -> float:
    """Return the largest difference in standard deviations of its array; 0 if it is rounding."""
    deviations = [
        float((array[:COMPARED_IMAGES] - reference).abs().max() / reference.std().clamp_min(1e-12))
        for array, reference in zip(outputs, reference_outputs, strict=True)
    ]
    largest = max(deviation if np.isfinite(deviation) else float("inf") for deviation in deviations)
    return largest if largest > ROUNDING else 0.0


@lru_cache(maxsize=1)
def load_inception(
    file: WeightsFile,
    prepare: Callable[[np.ndarray], Tensor],
    device: str,
    is_preview: bool,
    is_compiled: bool,
) -> LoadedInception:
    """Load the network; cached, so that it is compared with the plain network once.

    `is_compiled` is part of the cache's key only: the environment variable decides.
    """
    return LoadedInception(file, prepare, device, is_preview)


class Inception(PublishedWeightsJudge[LoadedFeatureExtractor], FeatureExtractor):
    """The plug-in, for every preprocessing and precision.

    Args:
        preprocessing: the steps of `prepare` in words.
        prepare: images (B, H, W, 3) uint8 to the network's input (B, 3, 299, 299).
        is_preview: compute in bfloat16.
    """

    title = "Inception of 2015"
    packages = ("torch", "safetensors", "torch_fidelity")
    source = WeightsSource(ASSET, ENVIRONMENT_VARIABLE)
    arrays = ("features", "spatial", "logits")
    widths = {"features": FEATURES, "spatial": 17 * 17 * SPATIAL_CHANNELS}
    batch_size = 50

    def __init__(
        self, preprocessing: str, prepare: Callable[[np.ndarray], Tensor], is_preview: bool = False
    ):
        self.preprocessing = preprocessing
        self.prepare = prepare
        self.is_preview = is_preview

    @property
    def published_class(self) -> JudgeClass:
        """Return "equivalent" for computation in float32, "substitute" for the preview."""
        return "substitute" if self.is_preview else super().published_class

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about other weights and about the preview's precision."""
        if not self.is_preview:
            return super().warnings()
        return (*super().warnings(), "judge: preview in bfloat16, not for a reported number")

    def open(self, device: str = "cpu") -> LoadedInception:
        """Load the weights after checking their hash.

        Samples and reference of one process share the network.
        """
        is_compiled = os.environ.get(COMPILE) == "1"
        return load_inception(
            self.source.find(), self.prepare, device, self.is_preview, is_compiled
        )
