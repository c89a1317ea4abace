"""Judge depth: any depth network of transformers that the user provides, `depth:MODEL`.

It is always a substitute. The steps from image to tensor are those of the model's folder. The
network's map is converted to "larger is nearer" by the type of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.annotations import Annotation, DepthQuery, Query
from harope_bench.core.errors import OptionError
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.depth import depth_map
from harope_bench.judges.generic.library_types import ModelConfig, Network
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import import_transformers, load_strictly
from harope_bench.judges.weights.precision import full_float32, without_gradients

if TYPE_CHECKING:
    from torch import Tensor

# inverse depth up to scale and shift: larger is nearer
INVERSE_DEPTH_MODELS = {"dpt", "depth_anything"}
# distance: larger is farther
METRIC_DEPTH_MODELS = {"zoedepth", "depth_pro", "glpn", "prompt_depth_anything"}


def inverse_depth(depth: Tensor, config: ModelConfig) -> Tensor:
    """Return a network's depth map with larger values nearer.

    Raises:
        OptionError: The direction of this type of model is not known.
    """
    # only configurations of model types with both outputs have this field
    estimation_type = getattr(config, "depth_estimation_type", None)
    if config.model_type in METRIC_DEPTH_MODELS or estimation_type == "metric":
        return 1 / depth.clamp_min(1e-6)
    if config.model_type in INVERSE_DEPTH_MODELS:
        return depth
    model_types = ", ".join(sorted(INVERSE_DEPTH_MODELS | METRIC_DEPTH_MODELS))
    raise OptionError(
        f"it is not known whether larger is nearer in networks of type {config.model_type}; choose"
        f" one of {model_types}"
    )


class LoadedDepth(LoadedAnnotator):
    """A depth network with its weights and its own steps from image to tensor."""

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

    @without_gradients
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the mean inverse depth in each box of the query."""
        if role != "depth" or not isinstance(query, DepthQuery):
            raise OptionError(
                f"judge depth has the role depth, wanted {role}; choose another judge"
            )
        inputs = self.prepare(images=Image.fromarray(image), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device)  # (1, 3, H', W')
        with full_float32():
            depth = self.network(pixel_values=pixels).predicted_depth[0].float()  # (h, w)
        return depth_map.depths_of_boxes(
            inverse_depth(depth, self.network.config), image.shape[:2], query.boxes
        )


class DepthAnnotator(LocalAnnotator):
    """The plug-in; `with_model` binds it to a model."""

    name = "depth"
    preprocessing = f"the model's own image steps; float32; {depth_map.STEPS}"
    roles = ("depth",)

    def open(self, device: str = "cpu") -> LoadedDepth:
        """Load the network and its image processor.

        Raises:
            MissingAssetError: The model is missing.
            WeightsError: The weights do not fill the network.
            OptionError: It is no depth network, or of a type whose direction is not known.
        """
        import torch

        model = self.find_model()
        transformers = import_transformers()
        network = load_strictly(
            transformers.AutoModelForDepthEstimation, model.path, "depth network"
        )
        inverse_depth(torch.ones(1), network.config)  # raises for an unknown type
        prepare = transformers.AutoImageProcessor.from_pretrained(
            model.path, local_files_only=True, trust_remote_code=False
        )
        return LoadedDepth(network, prepare, model.sha256, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return checks of the steps after the network, which hold for any model."""
        return depth_map.STACK_CHECKS


PLUGIN = DepthAnnotator()
