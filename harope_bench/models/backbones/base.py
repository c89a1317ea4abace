"""Contracts of the backbones: networks that generate images or classify them.

A backbone builds a network, loads a checkpoint's weights into it, and returns an object that
generates a batch of images (`ImageGenerator`) or classifies one (`Classifier`).
Nothing here imports torch, so commands and plans can read a backbone's contract cheaply.
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
    """What parameter names and shapes in a state dict reveal about its network.

    Attributes:
        encoding: Name of the positional encoding; None if the keys do not reveal it.
        config: Sizes of the network, those that the keys reveal.
        options: Options of the encoding, those that the keys reveal.
        defaults: Fields of Checkpoint (sampler, steps, guidance, drawing) that checkpoints of this
            family use unless the user states others.
    """

    encoding: str | None
    config: dict[str, Option]
    options: dict[str, Option] = {}
    defaults: CheckpointFields = {}


class ExportedWeights(NamedTuple):
    """A network's state dict under this package's names.

    Attributes:
        state_dict: Tensors by name.
        changed_fields: The fields of Checkpoint that differ from those of the exported checkpoint.
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
        "tf32",
    }
)
# Settings that a loaded generator reads for each batch, and not when it is opened.
SETTINGS_OF_GENERATE = (
    *("sampler", "steps", "guidance", "guidance_channels", "spacing"),
    *("seed", "tile", "labels", "tf32"),
)
CLASSIFICATION_SETTINGS = frozenset({"resolution", "tile", "device", "dtype", "pos_scaling"})


class SupportedSettings(NamedTuple):
    """The generation settings that apply to a checkpoint, and why others do not.

    Attributes:
        fields: Names of the fields of Settings that apply; any other field is rejected.
        reasons: Reason why a setting does not apply, by its name.
        other_reason: Reason why any other setting does not apply; None for the usual one.
    """

    setting_names: frozenset[str]
    reasons: Mapping[str, str] = {}
    other_reason: str | None = None


class NetworkDescription(NamedTuple):
    """What registration prints of a network.

    Attributes:
        prediction_type: What the network predicts from a noised input, such as "velocity".
        conditioning: What the network takes beside noise, in words, such as "1,000 classes".
        resolution: Side of the training images in pixels; None if it is not known.
    """

    prediction_type: str
    conditioning: str
    resolution: int | None


class GeneratedBatch(NamedTuple):
    """A padded batch of generated images.

    Attributes:
        images: (B, H, W, 3) uint8.
        failures: By row, why its image failed; the pixels of such a row are meaningless.
    """

    images: np.ndarray
    failures: dict[int, str]


class ProfilingInputs(NamedTuple):
    """The inputs of one forward pass whose cost is counted or timed.

    Attributes:
        inputs: Keyword arguments of the forward pass, on the network's device.
        layer: Sizes of the attention layer that is counted.
        tokens: Number of tokens in that layer.
    """

    inputs: Mapping[str, Tensor]
    layer: AttentionSizes
    tokens: int


class LoadedCheckpoint:
    """Base class of a network with a checkpoint's weights, on its device."""

    # The network whose cost and attention can be measured; None if neither is possible.
    network: EncodedNetwork | None = None


class ImageGenerator(LoadedCheckpoint):
    """Base class of loaded checkpoints that generate images."""

    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Generate the images of a full batch of requests; row i depends on requests[i] alone."""
        raise MissingMemberError(self, "generate")


class Classifier(LoadedCheckpoint):
    """Base class of loaded checkpoints that classify images.

    A backbone whose `task` is "classify" loads one.
    """

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return logits (B, classes) float32 of images (B, H, W, 3) uint8.

        Row i depends on images[i] alone.
        """
        raise MissingMemberError(self, "classify")


class Backbone(BackboneContract, Generic[NetworkT]):
    """Base class of all backbones.

    `conditioning` declares what a network takes beside noise, and `supported_settings` declares
    which settings change its images. Plans reject everything else
    (`conditioning.check_suite`, `load_checkpoint.check_settings`).
    """

    # Rows of the padded batch. A family that needs another number puts it into
    # `DetectedFields.defaults["drawing"]`.
    tile: int

    # "generate": `open` returns an ImageGenerator. "classify": it returns a Classifier.
    task: Task = "generate"

    # Whether the network has an encoding of this package. Without one it runs as it is, and its
    # checkpoints record the encoding "none".
    has_encoding = True

    # Whether checkpoints have a weights file. Without one the generator exists in a process alone.
    has_weights_file = True

    # Optional packages that `open` imports.
    packages: tuple[str, ...] = ()

    # Sizes of a small network, with which `harope-bench check` tests the backbone; empty where a
    # test needs a file of the user. `example_prompts`: prompts that such a network can read.
    example_config: Mapping[str, Option] = {}
    example_prompts: tuple[str, ...] = ()

    # Whether a network may carry LoRA, which `merge_lora` adds into its weights.
    has_lora: bool = False

    # File names of other networks that have the same keys but another prediction type.
    conflicting_file_names: re.Pattern[str] | None = None

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> NetworkT:
        """Return a freshly initialised network; OptionError names a wrong option or size."""
        raise MissingMemberError(self, "build")

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return what the keys of a state dict reveal; None if the network is not this
        backbone's.
        """
        raise MissingMemberError(self, "detect_fields")

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return which settings apply to this checkpoint, and why others do not."""
        raise MissingMemberError(self, "supported_settings")

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return what registration prints of this checkpoint's network."""
        raise MissingMemberError(self, "describe_network")

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError if the checkpoint cannot run with these settings."""
        raise MissingMemberError(self, "check_inputs")

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> LoadedCheckpoint:
        """Return the network with these weights, strictly loaded and ready for use."""
        raise MissingMemberError(self, "open")

    # The methods below have defaults; a backbone overrides those that it needs.

    def environment_variables(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return the names of environment variables that `open` reads, such as an API key's."""
        return ()

    def convert_keys(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the weights of a file under the names that they have in the network.

        Raises:
            WeightsError: No network of this backbone has such keys.
        """
        return dict(state_dict)

    def load(self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]) -> NetworkT:
        """Return the network of a checkpoint with these weights, under our or published names.

        Raises:
            WeightsError: A key is missing, unexpected or of another shape.
        """
        import torch

        # the random initialisation must not advance the caller's generator
        with torch.random.fork_rng(devices=[]):
            network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        load_state_strictly(
            network, self.convert_keys(checkpoint, state_dict), f"checkpoint {checkpoint.name}"
        )
        return network

    def config_from_training_args(self, args: Mapping[str, object]) -> dict[str, Option] | None:
        """Return the sizes that a training file's arguments state.

        Returns:
            None for a backbone that reads no training files.

        Raises:
            WeightsError: The arguments describe another network.
        """
        return None

    def describe_ignored_keys(self, state_dict: Mapping[str, Tensor]) -> str | None:
        """Return in words which tensors of a file the network does not need; None if all."""
        return None

    def nearest_network(self, state_dict: Mapping[str, Tensor]) -> str | None:
        """Return in words the network that a file's keys are nearest to; None if none is near."""
        return None

    def set_class_count(self, detected_fields: DetectedFields, classes: int) -> DetectedFields:
        """Return the detected fields, corrected for a known number of class labels."""
        return detected_fields

    def default_options(self, encoding: str) -> dict[str, Option]:
        """Return a published network's options for this encoding; they complete the user's."""
        return {}

    def published_defaults(
        self, config: Mapping[str, Option], user_fields: CheckpointFields
    ) -> CheckpointFields:
        """Return the fields of Checkpoint that this network was published with.

        Raises:
            OptionError: The user must state a field, because the files do not reveal it.
        """
        return {}

    def check_foreign_weights(
        self, state_dict: Mapping[str, Tensor], encoding: str, config: Mapping[str, Option]
    ) -> None:
        """Check weights that another package wrote.

        Raises:
            OptionError: They contradict the stated encoding, or a needed size is not stated.
        """

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """Return checked settings, completed by what is read from files (autoencoder's hash)."""
        return settings

    def opening_settings(self, settings: Settings) -> Settings:
        """Return settings that are equal wherever `open` returns the same network.

        A network that is loaded then serves both. By default all settings count but those that
        only `generate` reads.
        """
        return settings.model_copy(update=dict.fromkeys(SETTINGS_OF_GENERATE))

    def export(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], is_folded: bool
    ) -> ExportedWeights:
        """Return the weights under this package's names.

        Args:
            is_folded: Whether learned matrices are folded into the projections.

        Raises:
            OptionError: The backbone cannot export such weights.
        """
        raise OptionError(
            f"backbone {checkpoint.backbone} has no export; use its weights file as it is"
        )

    def profiling_inputs(
        self, network: NetworkT, resolution: int, batch: int
    ) -> ProfilingInputs | None:
        """Return the inputs of one forward pass of `batch` images, also on the meta device.

        Returns:
            None if the cost of the network is not counted.
        """
        return None

    def merge_lora(self, network: NetworkT) -> None:
        """Merge LoRA into the weights, once before a network is timed."""

    def expose_attention(self, network: NetworkT) -> None:
        """Make a network call its `attention_callback` in every layer; outputs stay the same."""


class ManifestBackbone(Backbone[NetworkT]):
    """Base class of backbones whose checkpoints may be a manifest instead of a weights file."""

    def open_folder(
        self, checkpoint: Checkpoint, path: Path, settings: Settings
    ) -> LoadedCheckpoint:
        """Return what the manifest describes, ready for use.

        Args:
            path: The manifest, whose hash was checked already.
        """
        raise MissingMemberError(self, "open_folder")


class AdapterBackbone(ManifestBackbone[NetworkT]):
    """Base class of backbones that run a library's pipeline with an encoding in its network.

    Their checkpoints may also be adapter folders (models/lora_manifest.py).
    """

    # Name of the library's pipeline class.
    pipeline_class_name: ClassVar[str]

    # Encoding and options of the base model as it is published.
    base_encoding: ClassVar[tuple[str, dict[str, Option]]]

    def shape(self, config: LibraryConfig) -> ModelShape:
        """Return what an encoding needs to know of a transformer with this configuration."""
        raise MissingMemberError(self, "shape")

    def check_folder(self, checkpoint: Checkpoint, path: Path) -> None:
        """Raise WeightsError unless base model and adapter fit together.

        Only names and shapes are compared; the base model is not loaded.
        """
        raise MissingMemberError(self, "check_folder")

    def create_adapter_folder(
        self, folder: Path, lora_files: LoraFiles, base: str, user_fields: CheckpointFields
    ) -> Path:
        """Write an adapter folder for a LoRA without manifest, and return the manifest's path.

        Args:
            folder: The new folder.
            lora_files: The LoRA and, if there is one, the file of its encoding's weights.
            base: Folder or Hugging Face Hub id of the base model.
            user_fields: `encoding`, `options` and `config` if the user states them.
        """
        raise MissingMemberError(self, "create_adapter_folder")


def load_backbone(name: str) -> Backbone[EncodedNetwork]:
    """Return the backbone of that name.

    Raises:
        UnknownNameError: No backbone has that name.
        PluginError: The class is not derived from Backbone.
        BenchError: The module does not load.
    """
    return registry.load_plugin("backbones", name, Backbone)


def load_manifest_backbone(name: str) -> ManifestBackbone[EncodedNetwork]:
    """Return the backbone of that name; see `load_backbone` for errors.

    Raises:
        OptionError: The backbone does not support adapter folders.
    """
    message = f"backbone {name} does not support adapter folders; give a file of its weights"
    return registry.require_kind(load_backbone(name), ManifestBackbone, message)


def load_adapter_backbone(name: str) -> AdapterBackbone[EncodedNetwork]:
    """Return the backbone of that name; see `load_backbone` for errors.

    Raises:
        OptionError: The backbone does not support adapter folders.
    """
    message = f"backbone {name} does not support adapter folders; give a file of its weights"
    return registry.require_kind(load_backbone(name), AdapterBackbone, message)
