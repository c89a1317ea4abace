"""Contracts of the backbones: build the network, read it back, draw a tile of samples or classify
one of pictures.

Nothing here imports torch, so that commands and plans can ask a backbone's contract before a
network is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.plugin_contracts import BackboneContract, Task
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.core.state_dicts import load_state_strictly
from harope_bench.metrics.attention_cost import AttentionSizes
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.lora_manifest import LibraryConfig, LoraFiles

if TYPE_CHECKING:
    from torch import Tensor

    from harope_bench.encodings.base import ModelShape
    from harope_bench.models.backbones.encoded_network import EncodedNetwork

NetworkT = TypeVar("NetworkT", bound="EncodedNetwork")


class DetectedFields(NamedTuple):
    """What the keys of a state dict tell: None where they do not tell.

    defaults: fields of Checkpoint (sampler, steps, guidance, drawing) that checkpoints of this
    family are drawn with unless more is said.
    """

    encoding: str | None
    config: dict[str, Option]
    options: dict[str, Option] = {}
    defaults: CheckpointFields = {}


class ExportedWeights(NamedTuple):
    """A network's state dict under this package's names, and the fields of Checkpoint that changed
    with it.
    """

    state_dict: dict[str, Tensor]
    changed_fields: CheckpointFields


GENERATION_SETTINGS = frozenset(
    {
        "resolution",
        "seed",
        "tile",
        "device",
        "dtype",
        "labels",
        "sampler",
        "steps",
        "guidance",
        "pos_scaling",
    }
)
CLASSIFICATION_SETTINGS = frozenset({"resolution", "tile", "device", "dtype", "pos_scaling"})


class SupportedSettings(NamedTuple):
    """The fields of Settings that change what a checkpoint makes, and why some of the others do
    not.
    """

    fields: frozenset[str]
    reasons: Mapping[str, str] = {}


class NetworkDescription(NamedTuple):
    """What registration prints of a network.

    predicts: what the network says of a noised input. taken: what it takes beside noise, in words.
    resolution: side in
    pixels at training, None where nothing tells it.
    """

    prediction_type: str
    conditioning: str
    resolution: int | None


class GeneratedTile(NamedTuple):
    """A tile: images (B, H, W, 3) uint8, and why a row has none (its pixels are then
    meaningless).
    """

    images: np.ndarray
    failures: dict[int, str]


class ProfilingInputs(NamedTuple):
    """One forward to count or time: keyword inputs on the network's device, its counted attention
    layer, and the tokens that layer sees.
    """

    inputs: Mapping[str, Tensor]
    layer: AttentionSizes
    tokens: int


class LoadedCheckpoint:
    """Base class of what a backbone opens: a network with a checkpoint's weights, on its device."""

    network: EncodedNetwork | None = (
        None  # whose cost and attention can be measured; None: it shows none
    )


class ImageGenerator(LoadedCheckpoint):
    """Base class of opened checkpoints that generate."""

    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedTile:
        """Return a full tile of requests drawn; row i depends on requests[i] alone."""
        raise MissingMemberError(self, "draw")


class Classifier(LoadedCheckpoint):
    """Base class of opened checkpoints that classify; a backbone whose `task` is "classify" opens
    one.
    """

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return logits (B, classes) float32 of images (B, H, W, 3) uint8; row i depends on
        images[i] alone.
        """
        raise MissingMemberError(self, "classify")


class Backbone(BackboneContract, Generic[NetworkT]):
    """Base class of all backbones.

    `conditioning` and `settings_read` are the only places that say what a network takes and which
    settings it reads; plans
    reject everything else (`conditioning.check_suite`, `load_checkpoint.check_settings`).
    """

    # padded batch shape; a family that wants another puts it into its Clue's `defaults["drawing"]`
    tile: int
    task: Task = "generate"  # "generate" opens a generator, "classify" a classifier
    packages: tuple[str, ...] = ()  # optional packages that opening a checkpoint imports
    has_lora: bool = False  # whether a network may carry LoRA, which `merge` adds into its weights
    conflicting_file_names: re.Pattern[str] | None = (
        None  # names of files whose networks have these keys and predict something else
    )

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> NetworkT:
        """Return a freshly initialised network; OptionError names the option or the field."""
        raise MissingMemberError(self, "build")

    def detect_fields(self, state: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return what a state dict's keys tell, or None if it is not this backbone's."""
        raise MissingMemberError(self, "recognise")

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the settings that change what this checkpoint makes; any other one is rejected by
        name.
        """
        raise MissingMemberError(self, "settings_read")

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return what registration prints of this checkpoint's network."""
        raise MissingMemberError(self, "process")

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError if the checkpoint cannot be drawn from with these settings."""
        raise MissingMemberError(self, "check")

    def open(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings
    ) -> LoadedCheckpoint:
        """Return the network with these weights, strictly loaded, ready to draw or to classify."""
        raise MissingMemberError(self, "open")

    # Optional from here on.

    def convert_keys(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return a file's weights under the names that they have in the network; WeightsError for
        what no network here has.
        """
        return dict(state)

    def load(self, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> NetworkT:
        """Return the network with these weights, whosever names the file has; WeightsError unless
        every key finds its place.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        load_state_strictly(
            network, self.convert_keys(checkpoint, state), f"checkpoint {checkpoint.name}"
        )
        return network

    def config_from_training_args(self, args: Mapping[str, object]) -> dict[str, Option] | None:
        """Return the sizes that a training file's arguments state; None for a backbone that knows
        no training files.

        Raises:
            WeightsError: They name a network that is not this one.
        """
        return None

    def set_class_count(self, clue: DetectedFields, classes: int) -> DetectedFields:
        """Return the clue again where the number of labels is told."""
        return clue

    def default_options(self, encoding: str) -> dict[str, Option]:
        """Return the options that a published network of this encoding has where nothing says
        them.
        """
        return {}

    def published_defaults(
        self, config: Mapping[str, Option], stated: CheckpointFields
    ) -> CheckpointFields:
        """Return the fields of Checkpoint that a base is published with; OptionError where they
        must be stated.
        """
        return {}

    def check_foreign_weights(
        self, state: Mapping[str, Tensor], encoding: str, config: Mapping[str, Option]
    ) -> None:
        """Raise OptionError for foreign weights that are not what they are said to be, or that
        leave something open.
        """

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """Return checked settings with what only the disk tells, such as the hash of an
        autoencoder.
        """
        return settings

    def export(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], folded: bool
    ) -> ExportedWeights:
        """Return the weights under this package's names, with matrices folded if asked; OptionError
        where that cannot be.
        """
        raise OptionError(
            f"backbone {checkpoint.backbone} has no export; use its weights file as it is"
        )

    def profiling_inputs(
        self, network: NetworkT, resolution: int, batch: int
    ) -> ProfilingInputs | None:
        """Return inputs of one forward of so many images, also on the meta device; None: the
        network is not counted.
        """
        return None

    def merge_lora(self, network: NetworkT) -> None:
        """Do what is done once before a network is timed, such as adding LoRA into its weights."""

    def expose_attention(self, network: NetworkT) -> None:
        """Make a network show its queries and keys where something else is at work; outputs stay as
        they are.
        """


class AdapterBackbone(Backbone[NetworkT]):
    """Base class of backbones on a pipeline of a library, whose checkpoints may also be adapter
    folders (models/lora_manifest.py).
    """

    pipeline_class_name: ClassVar[str]  # the library's class
    base_encoding: ClassVar[
        tuple[str, dict[str, Option]]
    ]  # encoding and options of the base as it is published

    def shape(self, config: LibraryConfig) -> ModelShape:
        """Return what an encoding may know of a transformer of that configuration."""
        raise MissingMemberError(self, "shape")

    def open_folder(
        self, checkpoint: Checkpoint, path: Path, settings: Settings
    ) -> LoadedCheckpoint:
        """Return the base with an adapter folder's weights, strictly loaded; `path` is its
        manifest, hash checked already.
        """
        raise MissingMemberError(self, "open_folder")

    def check_folder(self, checkpoint: Checkpoint, path: Path) -> None:
        """Raise WeightsError unless base and adapter fit together; compares names and shapes
        without making the base.
        """
        raise MissingMemberError(self, "check_folder")

    def create_adapter_folder(
        self, folder: Path, bare: LoraFiles, base: str, said: CheckpointFields
    ) -> Path:
        """Make an adapter folder of a LoRA without manifest, and return the manifest's path."""
        raise MissingMemberError(self, "adopt")


def load_backbone(name: str) -> Backbone[EncodedNetwork]:
    """Return the backbone of that name.

    Raises:
        UnknownName: No such backbone. PluginError: It is not derived from Backbone. BenchError: It
            does not load.
    """
    return registry.load_plugin("backbones", name, Backbone)


def load_adapter_backbone(name: str) -> AdapterBackbone[EncodedNetwork]:
    """Return the backbone of that name; errors as `load_backbone`, and OptionError where it reads
    no adapter folders.
    """
    message = f"backbone {name} reads no adapter folders; give a file of its weights"
    return registry.require_kind(load_backbone(name), AdapterBackbone, message)
