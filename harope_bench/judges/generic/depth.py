"""Judge depth: any depth network of transformers on a folder or hub id of the user's,
`depth:MODEL`; always a substitute.

The network's own image steps come from its folder. What it tells is brought to "larger is nearer"
by what is known of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harope_bench.core.annotations import Annotation, DepthQuery, Query
from harope_bench.core.errors import OptionError
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.depth import depth_map
from harope_bench.judges.generic.library_types import ModelConfig, Network
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import import_transformers, load_strictly
from harope_bench.judges.weights.precision import full_float32

INVERSE_DEPTH_MODELS = {
    "dpt",
    "depth_anything",
}  # inverse depth up to scale and shift: larger is nearer
METRIC_DEPTH_MODELS = {
    "zoedepth",
    "depth_pro",
    "glpn",
    "prompt_depth_anything",
}  # distance: larger is farther


def inverse_depth(depth: Tensor, config: ModelConfig) -> Tensor:
    """A network's map as larger is nearer; OptionError where its kind does not tell which way it
    runs.
    """
    estimated = getattr(
        config, "depth_estimation_type", None
    )  # only kinds that can give either have this field
    if config.model_type in METRIC_DEPTH_MODELS or estimated == "metric":
        return 1 / depth.clamp_min(1e-6)
    if config.model_type in INVERSE_DEPTH_MODELS:
        return depth
    raise OptionError(
        f"it is not known whether larger is nearer in networks of kind {config.model_type}; take"
        f" one of {_kinds()}"
    )


def _kinds() -> str:
    return ", ".join(sorted(INVERSE_DEPTH_MODELS | METRIC_DEPTH_MODELS))


class LoadedDepth(LoadedAnnotator):
    """A network with its weights and its own image steps."""

    def __init__(
        self,
        network: Network,
        prepare: Callable[..., Mapping[str, Tensor]],
        weights_sha256: str,
        device: str,
    ):
        self.network = network.to(device).eval()
        self.prepare = prepare
        self.weights_sha256 = weights_sha256
        self.device = device

    @torch.inference_mode()
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Of each box its mean nearness."""
        if role != "depth" or not isinstance(query, DepthQuery):
            raise OptionError(f"judge depth tells depth, it is no {role}; ask another judge")
        inputs = self.prepare(images=Image.fromarray(image), return_tensors="pt")[
            "pixel_values"
        ].to(self.device)
        with full_float32():
            found = self.network(pixel_values=inputs).predicted_depth[0].float()  # (h, w)
        return depth_map.depths_of_boxes(
            inverse_depth(found, self.network.config), image.shape[:2], query.boxes
        )


class DepthAnnotator(LocalAnnotator):
    """The plug-in; bound to a model by `of`."""

    name = "depth"
    preprocessing = f"the model's own image steps; float32; {depth_map.STEPS}"
    roles = ("depth",)

    def open(self, device: str = "cpu") -> LoadedDepth:
        """Loads network and image steps.

        Raises:
            WeightsError: not here, or weights that do not fill the network. OptionError: no depth
                network, or of an unknown kind.
        """
        found = self.find_model()
        library = import_transformers()
        network = load_strictly(library.AutoModelForDepthEstimation, found.path, "depth network")
        inverse_depth(torch.ones(1), network.config)
        prepare = library.AutoImageProcessor.from_pretrained(
            found.path, local_files_only=True, trust_remote_code=False
        )
        return LoadedDepth(network, prepare, found.sha256, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """The steps behind the network, whatever the model."""
        return depth_map.STACK


PLUGIN = DepthAnnotator()
