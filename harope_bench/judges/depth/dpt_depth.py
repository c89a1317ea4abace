"""Judge dpt-depth: the mean inverse depth in boxes by DPT-Hybrid (MiDaS), T2I-CompBench's 3D judge.

The judge was tested with random weights only, because the published weights were not available.

Source: Karine-Huang/T2I-CompBench:UniDet_eval/3D_spatial_eval.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.annotations import Annotation, DepthQuery, Query
from harope_bench.core.device import device_type
from harope_bench.core.errors import OptionError
from harope_bench.core.state_dicts import load_weights
from harope_bench.judges.base import Annotator, LoadedAnnotator, NamedCheck
from harope_bench.judges.depth import depth_map, dpt_network
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.self_check import check_red_first, red_image
from harope_bench.judges.generic.vision_tower import normalize_images, resize_square
from harope_bench.judges.weights.asset_files import WeightsSource
from harope_bench.judges.weights.precision import full_float32, without_gradients
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

if TYPE_CHECKING:
    from torch import Tensor

# mean and standard deviation that map 0..1 to -1..1
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def pixels(image: np.ndarray) -> Tensor:
    """Return an image (H, W, 3) uint8 as (1, 3, 480, 480) float32 in [-1, 1].

    An image that is not square is stretched.
    """
    return normalize_images(
        resize_square([image], dpt_network.SIDE, Image.Resampling.BILINEAR), MEAN, STD
    )


class LoadedDpt(LoadedAnnotator):
    """DPT-Hybrid with its weights."""

    def __init__(self, network: Network, weights_sha256: str, device: str):
        self.network = network.to(device)
        self.weights_sha256 = weights_sha256
        self.device = device

    @without_gradients
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the mean inverse depth in each box of the query."""
        import torch

        if role != "depth" or not isinstance(query, DepthQuery):
            raise OptionError(
                f"judge dpt-depth has the role depth, wanted {role}; choose another judge"
            )
        autocast = torch.autocast(
            "cuda", dtype=torch.float16, enabled=device_type(self.device) == "cuda"
        )
        with full_float32(), autocast:
            output = self.network(pixels(image).to(self.device))
            inverse_depth = output.predicted_depth[0]  # (480, 480)
        return depth_map.depths_of_boxes(inverse_depth.float(), image.shape[:2], query.boxes)


class Dpt(PublishedWeightsJudge[LoadedAnnotator], Annotator):
    """The plug-in.

    Args:
        sizes: of the network; tests make it small.
    """

    title = "DPT-Hybrid (MiDaS)"
    packages = ("torch", "safetensors", "torchvision", "transformers")
    preprocessing = (
        "480 x 480, PIL bilinear with antialias, -1 to 1; float32, on cuda float16 autocast;"
        f" {depth_map.STEPS}"
    )
    roles = ("depth",)
    source = WeightsSource("dpt-depth", "HAROPE_BENCH_DPT")

    def __init__(self, sizes: dpt_network.Sizes = dpt_network.SIZES):
        self.sizes = sizes

    def open(self, device: str = "cpu") -> LoadedDpt:
        """Load the weights strictly after checking their hash.

        Raises:
            MissingAssetError: The weights are missing.
            WeightsError: The weights are altered, unsafe, or of another network.
            MissingExtraError: transformers is not installed.
        """
        weights_file = self.source.find()
        state = load_weights(weights_file.path, weights_file.sha256)
        network = self.load_network_weights(
            dpt_network.build_network(self.sizes), dpt_network.convert_state(state), weights_file
        )
        return LoadedDpt(network, weights_file.sha256, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return checks that hold for any weights."""
        red_check = NamedCheck(
            "red reaches the network first", lambda _: check_red_first(pixels(red_image()))
        )
        return (red_check, *depth_map.STACK_CHECKS)


PLUGIN = Dpt()
