"""Backbone my-backbone: a small transformer that removes noise, with any registered encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.encodings.base import Encoding
from harope_bench.models.backbones import base, dit_blocks, network_sizes
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.backbones.sampler_generator import SamplerImageGenerator


class MyBackboneSizes(network_sizes.NetworkSizes):
    """The table [config] of a recipe: sizes of the network, its images and its labels."""

    hidden: int
    depth: int
    heads: int
    patch: int
    size: int
    classes: int

    @property
    def layers(self) -> int:
        """Number of attention layers, for which the encoding has parameters."""
        return self.depth


class MyBackboneNetwork(EncodedNetwork):
    """Noised grey images, times and labels to a prediction in the shape of the images."""

    def __init__(self, sizes: MyBackboneSizes, encoding: Encoding):
        super().__init__()
        self.sizes = sizes
        self.encoding = encoding
        self.patches = dit_blocks.PatchEmbed(sizes.patch, 1, sizes.hidden)
        self.times = dit_blocks.TimestepEmbedder(sizes.hidden)
        self.labels = dit_blocks.LabelEmbedder(sizes.classes, sizes.hidden)
        self.blocks = nn.ModuleList(
            dit_blocks.DiTBlock(sizes.hidden, sizes.heads) for _ in range(sizes.depth)
        )
        self.output = nn.Linear(sizes.hidden, sizes.patch**2)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction (B, 1, H, W); label `classes` means "no label".

        `time` (B,) is from 0 (image) to 1000 (noise).
        """
        rows = x.shape[2] // self.sizes.patch
        columns = x.shape[3] // self.sizes.patch
        positions = network_sizes.grid_positions(rows, columns)  # (N, 2)
        tokens = self.encoding.embed(self.patches(x), positions)  # (B, N, hidden)
        condition = self.times(time) + self.labels(labels)  # (B, hidden)
        for layer, block in enumerate(self.blocks):  # each block calls `encoding.rotate`
            tokens = block(tokens, condition, self.encoding, positions, layer)
        return dit_blocks.unpatchify(self.output(tokens), rows, columns, self.sizes.patch)


class MyBackboneGenerator(SamplerImageGenerator[MyBackboneNetwork]):
    """A loaded network; its base class runs the sampler and classifier-free guidance."""

    channels = 1

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Return labels (B,) int64."""
        n_classes = self.network.sizes.classes
        return torch.tensor([n_classes if r.label is None else r.label for r in requests])

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """Return the label that means "no label", for every sample."""
        return torch.full_like(conditions, self.network.sizes.classes)


class MyBackbone(base.Backbone[MyBackboneNetwork]):
    """The plug-in: it builds the network, recognises its weights and declares what it reads."""

    tile = 25  # rows of the padded batch
    # Sizes of a small network, which `harope-bench check` builds.
    example_config = {"hidden": 16, "depth": 1, "heads": 2, "patch": 4, "size": 8, "classes": 10}

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> MyBackboneNetwork:
        """Return a freshly initialised network."""
        sizes = network_sizes.parse_sizes(MyBackboneSizes, "my-backbone", config)
        return MyBackboneNetwork(sizes, network_sizes.build_encoding(encoding, options, sizes))

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> base.DetectedFields | None:
        """Return the sizes that the keys reveal; None for the weights of another network."""
        if not {"patches.proj.weight", "output.weight"} <= state_dict.keys():
            return None
        patch_shape = state_dict["patches.proj.weight"].shape  # (hidden, 1, patch, patch)
        config: dict[str, Option] = {"hidden": patch_shape[0], "patch": patch_shape[-1]}
        return base.DetectedFields(None, config)

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return labels, which may be left out."""
        sizes = network_sizes.parse_sizes(MyBackboneSizes, "my-backbone", config)
        return Conditioning("labels", sizes.classes, is_optional=True)

    def supported_settings(self, checkpoint: Checkpoint) -> base.SupportedSettings:
        """Return the settings that change images; all others are rejected."""
        return base.SupportedSettings(base.GENERATION_SETTINGS)

    def describe_network(self, checkpoint: Checkpoint) -> base.NetworkDescription:
        """Return what `harope-bench register` prints."""
        sizes = network_sizes.parse_sizes(MyBackboneSizes, "my-backbone", checkpoint.config)
        return base.NetworkDescription("what its sampler needs", "labels", sizes.size)

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for settings that the network cannot generate images with."""
        sizes = network_sizes.parse_sizes(MyBackboneSizes, "my-backbone", checkpoint.config)
        network_sizes.check_resolution(sizes, settings.resolution)
        network_sizes.build_checked_encoding(checkpoint, sizes, settings)

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> MyBackboneGenerator:
        """Return the network with these weights, strictly loaded."""
        network = self.load(checkpoint, state_dict)
        network_sizes.rescale(network.encoding, network.sizes, settings)
        dtype = network_sizes.DTYPES[settings.dtype]
        return MyBackboneGenerator(network, torch.device(settings.device), dtype)


PLUGIN = MyBackbone()
