"""Judge dpt-depth: how near what a box holds is, by DPT-Hybrid (MiDaS), T2I-CompBench's 3D judge.

Run here with random weights only: what the real ones answer was not seen.

Source: Karine-Huang/T2I-CompBench:UniDet_eval/3D_spatial_eval.py.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harope_bench.core.annotations import Annotation, DepthQuery, Query
from harope_bench.core.errors import OptionError
from harope_bench.core.state_dicts import load_weights
from harope_bench.judges.base import Annotator, LoadedAnnotator, NamedCheck
from harope_bench.judges.depth import depth_map, dpt_network
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.self_check import check_red_first, red_image
from harope_bench.judges.generic.vision_tower import normalize_images, resize_square
from harope_bench.judges.weights.asset_files import WeightsSource
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

HALF = (0.5, 0.5, 0.5)


def pixels(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8 as (1, 3, 480, 480) float32 from -1 to 1, stretched where not
    square.
    """
    return normalize_images(
        resize_square([image], dpt_network.SIDE, Image.Resampling.BILINEAR), HALF, HALF
    )


class LoadedDpt(LoadedAnnotator):
    """The network with weights."""

    def __init__(self, network: Network, weights_sha256: str, device: str):
        self.network = network.to(device)
        self.weights_sha256 = weights_sha256
        self.device = device

    @torch.inference_mode()
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Of each box its mean nearness."""
        if role != "depth" or not isinstance(query, DepthQuery):
            raise OptionError(f"dpt-depth tells depth, it is no {role}; ask another judge")
        with (
            full_float32(),
            torch.autocast("cuda", dtype=torch.float16, enabled=self.device == "cuda"),
        ):
            nearness = self.network(pixels(image).to(self.device)).predicted_depth[0]  # (480, 480)
        return depth_map.depths_of_boxes(nearness.float(), image.shape[:2], query.boxes)


class Dpt(PublishedWeightsJudge[LoadedAnnotator], Annotator):
    """The plug-in; `sizes` replaces those of the network, so that tests make it small."""

    title = "DPT-Hybrid (MiDaS)"
    packages = ("transformers",)
    preprocessing = (
        "480 x 480, PIL bilinear with antialias, -1 to 1; float32, on cuda float16 autocast;"
        f" {depth_map.STEPS}"
    )
    roles = ("depth",)
    source = WeightsSource("dpt-depth", "HAROPE_BENCH_DPT")

    def __init__(self, sizes: dpt_network.Sizes = dpt_network.SIZES):
        self.sizes = sizes

    def open(self, device: str = "cpu") -> LoadedDpt:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: not here, altered, unsafe, or of another network. MissingExtra: no
                transformers.
        """
        found = self.source.find()
        state = load_weights(found.path, found.sha256)
        network = self.fill_network(
            dpt_network.build_network(self.sizes), dpt_network.convert_state(state), found
        )
        return LoadedDpt(network, found.sha256, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """The stack, whatever the weights; what the published ones see in a picture was not seen
        here and is not asked.
        """
        return (
            NamedCheck(
                "red reaches the network first", lambda opened: check_red_first(pixels(red_image()))
            ),
            *depth_map.STACK,
        )


PLUGIN = Dpt()
