"""Judge mask2former: GenEval's detector weights in transformers' class, with mmdet 2.x's steps.

With shared random weights, every tensor perturbed, mmdet 3.3 gives the same detections
(tests/judges/test_mask2former_mmdet.py). So did mmdet 2.28.2's complete inference from image files:
labels and boxes equal, scores within 1.5e-4. The published weights were not available.

Source: djghosh13/geneval af4902f2:evaluation/evaluate_images.py; open-mmlab/mmdetection v2.28.2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from harope_bench.core.annotations import DetectionAnnotation, Query
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import check_state_dict
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.instance_detection import (
    CLASSES,
    POSTPROCESSING,
    InstanceLogits,
    PreparedImage,
    instances,
    prepare_image,
)
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_model import import_transformers
from harope_bench.judges.generic.self_check import (
    check_exclusive_boxes,
    check_mask_boxes,
    check_red_first,
    noise_image,
    red_image,
)
from harope_bench.judges.mmdet import key_map, weights_file
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import shorten_mismatch_error

if TYPE_CHECKING:
    from torch import Tensor, nn

ASSET = "mask2former"
SWIN: Mapping[str, object] = {
    "embed_dim": 96,
    "depths": [2, 2, 18, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
# As a fraction of the logits' standard deviation. Rounding on another device is far below it, a
# wrong kernel far above.
MAX_DRIFT = 1e-2


def build_network() -> nn.Module:
    """Return transformers' Mask2Former with Swin-S and 80 classes, with any weights.

    The state of the process's random numbers does not change.
    """
    import torch

    transformers = import_transformers()
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN), num_labels=len(CLASSES)
    )
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = transformers.Mask2FormerForUniversalSegmentation(config)
    return network.eval()


def load_network_weights(network: nn.Module, state: dict[str, Tensor], file_name: str) -> nn.Module:
    """Load mmdet's tensors into the network and return it.

    Every tensor is used, and every tensor of the network that inference reads is set.

    Raises:
        WeightsError: Keys are missing, unexpected or mis-shaped, or the windows of the backbone
            count their positions in another order.
    """
    network_state = network.state_dict()
    tensors = key_map.convert_state(state)
    _check_position_buffers(network, tensors, file_name)

    unread_tensors = {
        key: tensor
        for key, tensor in network_state.items()
        if key.startswith(key_map.UNFILLED_PREFIXES)
    }
    read_tensors = {
        key: tensor for key, tensor in network_state.items() if key not in unread_tensors
    }
    with shorten_mismatch_error(file_name, "Mask2Former Swin-S", ASSET):
        check_state_dict(read_tensors, tensors, file_name)
    network.load_state_dict({**tensors, **unread_tensors}, strict=True)
    return network


def _check_position_buffers(network: nn.Module, tensors: dict[str, Tensor], file_name: str) -> None:
    """Remove the position indices of windows from `tensors`, which are buffers and no weights.

    Raises:
        WeightsError: They differ from those of the network.
    """
    import torch

    weights = network.state_dict()
    buffers = dict(network.named_buffers())
    buffer_keys = [key for key in tensors if key in buffers and key not in weights]
    for key in buffer_keys:
        if not torch.equal(tensors.pop(key).flatten(), buffers[key].flatten()):
            raise WeightsError(
                f"{file_name} does not fit Mask2Former Swin-S: {key} counts positions in another"
                f" order; run: harope-bench fetch {ASSET}"
            )


class LoadedMask2Former(LoadedAnnotator):
    """Mask2Former with its weights; `scale` is (longer, shorter) side of the resized image."""

    def __init__(
        self, network: nn.Module, weights_sha256: str, device: str, scale: tuple[int, int]
    ):
        self.network: Network = network.to(device).eval()
        self.weights_sha256 = weights_sha256
        self.device = device
        self.scale = scale

    def annotate(self, role: str, image: np.ndarray, query: Query) -> DetectionAnnotation:
        """Return the detections in an image (H, W, 3) uint8, whatever names the query has.

        The set of classes is closed.
        """
        return self.finish_annotation(self.run_network(role, image, query))

    def run_network(self, role: str, image: np.ndarray, query: Query) -> InstanceLogits:
        """Return the logits of an image (H, W, 3) uint8."""
        prepared_image = prepare_image(image, self.scale)
        return InstanceLogits(*self.logits(prepared_image), prepared_image)

    def finish_annotation(self, outputs: InstanceLogits) -> DetectionAnnotation:
        """Return the detections: masks at the size of the image, their boxes and run lengths."""
        import torch

        with torch.inference_mode():
            return instances(*outputs)

    def logits(self, prepared_image: PreparedImage) -> tuple[Tensor, Tensor]:
        """Return class logits (100, 81) and mask logits (100, H' / 4, W' / 4)."""
        import torch

        with torch.inference_mode(), full_float32():
            output = self.network(pixel_values=prepared_image.tensor.to(self.device))
        return output.class_queries_logits[0], output.masks_queries_logits[0]


def check_device(judge: LoadedMask2Former) -> str | None:
    """Return how the device's logits differ from the CPU's beyond rounding, or None.

    A build for a GPU once gave detections near zero (djghosh13/geneval issue 15).
    """
    if judge.device == "cpu":
        return None
    network = copy.deepcopy(judge.network)
    cpu_judge = LoadedMask2Former(network, judge.weights_sha256, "cpu", judge.scale)
    return check_logits(judge, cpu_judge)


def check_logits(judge: LoadedMask2Former, cpu_judge: LoadedMask2Former) -> str | None:
    """Return how the logits of a small image differ from the CPU's beyond rounding, or None."""
    prepared_image = prepare_image(noise_image(64, 64, pixel_size=4), (256, 256))
    for logits, cpu_logits in zip(
        judge.logits(prepared_image), cpu_judge.logits(prepared_image), strict=True
    ):
        drift = float((logits.cpu() - cpu_logits).abs().mean() / cpu_logits.std())
        if not drift <= MAX_DRIFT:  # true for NaN
            return (
                f"logits on {judge.device} differ from the CPU's by {drift:.1e} of their standard"
                f" deviation in the mean, wanted at most {MAX_DRIFT:g}, which is rounding"
            )
    return None


def check_exact_gelu(judge: LoadedMask2Former) -> str | None:
    """Return how the backbone's activations differ from the exact GELU, or None.

    Swin was trained with the exact GELU. Its tanh form or QuickGELU would change every score.
    """
    import torch

    activations = [
        module
        for name, module in judge.network.named_modules()
        if "swin" in name and name.endswith("activation_fn")
    ]
    x = torch.linspace(-3, 3, 61, device=judge.device)
    exact_gelu = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    differences = (float((activation(x) - exact_gelu).abs().max()) for activation in activations)
    largest = max(differences, default=float("inf"))
    if largest < 1e-5:
        return None
    return f"activations of the backbone are {largest:.1e} off the exact GELU"


class Mask2Former(weights_file.GenEvalDetector):
    """The plug-in; tests make its scale small."""

    asset = ASSET
    packages = ("torch", "transformers", "cv2")
    published_class: JudgeClass = "equivalent"
    preprocessing = (
        "mmdet 2.x: OpenCV bilinear without antialias on uint8, ratio kept, into 1333 x 800; grey"
        " 128 to a multiple of 32, then ImageNet's mean and deviation; masks bilinear to the"
        f" image's size; {POSTPROCESSING}"
    )

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return checks that hold for any weights."""
        return (
            NamedCheck("channels", _check_channels),
            NamedCheck("boxes", _check_boxes),
            NamedCheck("activation", check_exact_gelu),
            NamedCheck("device", check_device),
        )

    def open(self, device: str = "cpu") -> LoadedMask2Former:
        """Load the weights strictly after checking their hash.

        Raises:
            MissingAssetError: The weights are missing.
            WeightsError: The weights are altered, unsafe, or of another network.
            MissingExtraError: transformers is not installed.
        """
        file = self.find_weights()
        state = dict(weights_file.load_state(file))
        network = load_network_weights(build_network(), state, str(file.path))
        return LoadedMask2Former(network, file.sha256, device, self.scale)


def _check_channels(judge: LoadedMask2Former) -> str | None:
    """Return what is wrong with a red image as input of the network, or None."""
    return check_red_first(prepare_image(red_image(), judge.scale).tensor)


def _check_boxes(judge: LoadedMask2Former) -> str | None:
    """Return what is wrong with the boxes of a rectangle and of noise, or None."""
    return check_exclusive_boxes(instances) or check_mask_boxes(judge)


PLUGIN = Mask2Former()
