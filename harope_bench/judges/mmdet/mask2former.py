"""Judge mask2former: GenEval's own detector weights in transformers' class, with mmdet 2.x's way in
and out.

With shared random weights, every tensor perturbed, mmdet 3.3 gives the same detections
(tests/judges/test_mask2former_mmdet.py),
and so did mmdet
2.28.2's whole inference from image files: labels and boxes equal, scores within 1.5e-4. The
published weights were not at hand.

Source: djghosh13/geneval af4902f2:evaluation/evaluate_images.py; open-mmlab/mmdetection v2.28.2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from harope_bench.core.annotations import DetectionAnnotation, Query
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import check_state_dict
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.instance_detection import (
    CLASSES,
    POSTPROCESSING,
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
    red_image,
)
from harope_bench.judges.mmdet import key_map, weights_file
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import explain_misfit

ASSET = "mask2former"
SWIN: Mapping[str, object] = {
    "embed_dim": 96,
    "depths": [2, 2, 18, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
# of the logits' spread: rounding of another device stays far below, a wrong kernel far above
MAX_DRIFT = 1e-2


def build_network() -> nn.Module:
    """transformers' Mask2Former with Swin-S and 80 classes; its numbers do not matter. The process
    keeps its random numbers.
    """
    library = import_transformers()
    config = library.Mask2FormerConfig(
        backbone_config=library.SwinConfig(**SWIN), num_labels=len(CLASSES)
    )
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = library.Mask2FormerForUniversalSegmentation(config)
    return network.eval()


def fill_network(network: nn.Module, state: dict[str, Tensor], what: str) -> nn.Module:
    """The network with mmdet's tensors: every one is used, and every one of the network that is
    read is given.

    Raises:
        WeightsError: missing, unexpected or mis-shaped names, or windows that count their places
            another way.
    """
    own = network.state_dict()
    given = key_map.convert_state(state)
    buffers = dict(network.named_buffers())
    for name in [
        name for name in given if name in buffers and name not in own
    ]:  # the places of a window: numbers, not weights
        if not torch.equal(given.pop(name).flatten(), buffers[name].flatten()):
            raise WeightsError(
                f"{what} does not fit Mask2Former Swin-S: {name} counts places another way;"
                f" harope-bench fetch {ASSET}"
            )
    unread = {
        name: tensor for name, tensor in own.items() if name.startswith(key_map.UNFILLED_PREFIXES)
    }
    with explain_misfit(what, "Mask2Former Swin-S", ASSET):
        check_state_dict(
            {name: tensor for name, tensor in own.items() if name not in unread}, given, what
        )
    network.load_state_dict({**given, **unread}, strict=True)
    return network


class LoadedMask2Former(LoadedAnnotator):
    """The detector with weights, ready to look."""

    def __init__(
        self, network: nn.Module, weights_sha256: str, device: str, scale: tuple[int, int]
    ):
        self.network: Network = network.to(device).eval()
        self.weights_sha256 = weights_sha256
        self.device = device
        self.scale = scale

    def annotate(self, role: str, image: np.ndarray, query: Query) -> DetectionAnnotation:
        """Everything found in an image (H, W, 3) uint8; what is asked changes nothing, the set of
        classes is closed.
        """
        seen = prepare_image(image, self.scale)
        with torch.inference_mode(), full_float32():
            return instances(*self.logits(seen), seen)

    def logits(self, seen: PreparedImage) -> tuple[Tensor, Tensor]:
        """Class logits (100, 81) and mask logits (100, H' / 4, W' / 4)."""
        with torch.inference_mode(), full_float32():
            out = self.network(pixel_values=seen.tensor.to(self.device))
        return out.class_queries_logits[0], out.masks_queries_logits[0]


def check_device(opened: LoadedMask2Former) -> str | None:
    """Whether the device computes what the CPU does; a GPU's build once gave detections near zero
    (djghosh13/geneval issue 15).
    """
    if opened.device == "cpu":
        return None
    return check_logits(
        opened,
        LoadedMask2Former(
            copy.deepcopy(opened.network), opened.weights_sha256, "cpu", opened.scale
        ),
    )


def check_logits(opened: LoadedMask2Former, wanted: LoadedMask2Former) -> str | None:
    """Whether the logits of a small image differ by more than rounding."""
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (64, 64, 3), dtype=np.uint8)
        .repeat(4, 0)
        .repeat(4, 1)
    )
    seen = prepare_image(image, (256, 256))
    for here, there in zip(opened.logits(seen), wanted.logits(seen), strict=True):
        off = float((here.cpu() - there).abs().mean() / there.std())
        if not off <= MAX_DRIFT:
            return (
                f"logits on {opened.device} are {off:.1e} of their spread off the CPU's in the"
                f" mean, at most {MAX_DRIFT:g} is rounding"
            )
    return None


def check_exact_gelu(opened: LoadedMask2Former) -> str | None:
    """Swin was trained with the exact GELU; a stack that puts in its tanh form or QuickGELU shifts
    every score.
    """
    acts = [
        m for n, m in opened.network.named_modules() if "swin" in n and n.endswith("activation_fn")
    ]
    x = torch.linspace(-3, 3, 61, device=opened.device)
    wanted = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    off = max((float((act(x) - wanted).abs().max()) for act in acts), default=float("inf"))
    return None if off < 1e-5 else f"activations of the backbone are {off:.1e} off the exact GELU"


class Mask2Former(weights_file.GenEvalDetector):
    """The plug-in; tests make its scale small."""

    asset = ASSET
    packages = ("transformers",)
    published_class: JudgeClass = "equivalent"
    preprocessing = (
        "mmdet 2.x: OpenCV bilinear without antialias on uint8, ratio kept, into 1333 x 800; grey"
        " 128 to a multiple of 32, then ImageNet's mean and deviation; masks bilinear to the"
        f" image's size; {POSTPROCESSING}"
    )

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Checks of the stack that hold for any weights; what the published ones see in a known
        image could not be recorded here.
        """
        return (
            NamedCheck(
                "channels",
                lambda opened: check_red_first(prepare_image(red_image(), opened.scale).tensor),
            ),
            NamedCheck(
                "boxes", lambda opened: check_exclusive_boxes(instances) or check_mask_boxes(opened)
            ),
            NamedCheck("activation", check_exact_gelu),
            NamedCheck("device", check_device),
        )

    def open(self, device: str = "cpu") -> LoadedMask2Former:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: not here, altered, unsafe, or of another network. MissingExtra:
                transformers is not installed.
        """
        file = self.find_weights()
        network = fill_network(build_network(), dict(weights_file.load_state(file)), str(file.path))
        return LoadedMask2Former(network, file.sha256, device, self.scale)


PLUGIN = Mask2Former()
