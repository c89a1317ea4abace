"""DiT and its successors SiT, REPA, LightningDiT and JiT, with any positional encoding.

The network is in dit_network.py, and what the families differ in is in dit_families.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.core.state_dicts import load_state_strictly
from harope_bench.encodings.detect_encoding import DetectedEncoding
from harope_bench.models.backbones import dit_keys, folding, latents
from harope_bench.models.backbones.base import (
    GENERATION_SETTINGS,
    DetectedFields,
    NetworkDescription,
    ProfilingInputs,
    SupportedSettings,
)
from harope_bench.models.backbones.dit_families import FAMILIES, check_sampler, family_defaults
from harope_bench.models.backbones.dit_key_check import check_keys, nearest_family
from harope_bench.models.backbones.dit_network import DiT, configure
from harope_bench.models.backbones.dit_network import DitConfig as DitConfig
from harope_bench.models.backbones.dit_training_args import config_from_training_args
from harope_bench.models.backbones.network_sizes import (
    DTYPES,
    FoldingBackbone,
    build_checked_encoding,
    build_encoding,
    check_resolution,
    counted_layer,
    middle_times,
    ramp,
    rescale,
)
from harope_bench.models.backbones.sampler_generator import SamplerImageGenerator
from harope_bench.models.backbones.sampler_generator import to_uint8 as to_uint8
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.samplers.base import load_sampler

# Sampling of the HARoPE release, from its inference script.
RELEASE_DEFAULTS: CheckpointFields = {
    "sampler": "ddpm",
    "steps": 250,
    "guidance": 1.5,
}

# Default settings of latent networks. A batch of 8, with and without labels, fits a small GPU at
# 512 x 512 pixels.
LATENT_DEFAULTS: dict[str, Option] = {"tile": 8, "guidance_channels": "3", "vae_tiling": False}


class DitImageGenerator(SamplerImageGenerator[DiT]):
    """Generates images with a DiT, in pixel space or through an autoencoder's decoder.

    Grey images get three equal channels.
    """

    def __init__(
        self,
        network: DiT,
        device: torch.device,
        dtype: torch.dtype,
        decoder: latents.Decoder | None = None,
    ):
        super().__init__(network, device, dtype)
        self.channels = network.config.channels
        self.noise_scale = network.config.noise_scale
        self.decoder = decoder

    def input_side(self, resolution: int) -> int:
        """Return the side of the network's input, in pixels or latents."""
        return resolution // self.network.config.vae_scale_factor

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Return labels (B,) int64; `classes` stands for "no label".

        Raises:
            OptionError: A request has no label and the network has no row for "no label".
        """
        config = self.network.config
        unlabelled_indices = [r.index for r in requests if r.label is None]
        if not config.null_label and unlabelled_indices:
            raise OptionError(
                f"this network has no embedding for 'no label', but sample {unlabelled_indices[0]}"
                " has no label; choose a suite of labels"
            )
        return torch.tensor([config.classes if r.label is None else r.label for r in requests])

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """Return the label that stands for "no label", for every sample."""
        return torch.full_like(conditions, self.network.config.classes)

    def decode(self, images: Tensor) -> Tensor:
        """Return pixels: latents pass through the decoder, pixels stay as they are."""
        pixels = self.decoder(images).nan_to_num() if self.decoder else images
        if self.network.config.family == "repa":
            # sihyun-yu/REPA:generate.py rounds levels down, so half a level less than `to_uint8`.
            pixels = pixels - 0.5 / 127.5
        return pixels


class DitBackbone(FoldingBackbone[DiT]):
    """DiT in pixel space (micro checkpoints) and in latent space (official and HARoPE release)."""

    tile = 25
    example_config = {
        "hidden": 16,
        "depth": 2,
        "heads": 2,
        "patch": 2,
        "size": 8,
        "channels": 1,
        "classes": 10,
    }
    conflicting_file_names = re.compile(r"(?<![A-Za-z])SiT(?![a-z])")

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> DiT:
        """Return a freshly initialised DiT; OptionError names the wrong option or size."""
        size = configure(config)
        return DiT(size, build_encoding(encoding, options, size))

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return sizes and encoding, read from the keys of this package, DiT or the release.

        Returns:
            None if the keys are not those of a DiT. The encoding is None if the keys do not
            reveal it.
        """
        sizes = dit_keys.detect_sizes(dit_keys.convert_keys(state_dict))
        if sizes is None:
            return None
        config, encoding = sizes

        defaults: CheckpointFields = {}
        if config.get("latent"):
            if config.get("learn_sigma") and "family" not in config:
                defaults = {**RELEASE_DEFAULTS}
            defaults["drawing"] = dict(LATENT_DEFAULTS)
            if encoding is not None and _has_foldable_matrix(encoding, config):
                defaults["drawing"]["fold"] = True
        if encoding is None:
            return DetectedFields(encoding=None, config=config, options={}, defaults=defaults)
        return DetectedFields(encoding.encoding, config, encoding.options, defaults)

    def config_from_training_args(self, args: Mapping[str, object]) -> dict[str, Option]:
        """Return the sizes in training arguments; WeightsError for another network."""
        return config_from_training_args(args)

    def describe_ignored_keys(self, state_dict: Mapping[str, Tensor]) -> str | None:
        """Return which tensors only the training used: REPA's projections."""
        n_projector_keys = sum(key.startswith(dit_keys.PROJECTOR_PREFIX) for key in state_dict)
        if n_projector_keys == 0:
            return None
        return (
            f"{n_projector_keys} tensors of {dit_keys.PROJECTOR_PREFIX}* are set aside: only REPA's"
            " training loss uses them"
        )

    def nearest_network(self, state_dict: Mapping[str, Tensor]) -> str | None:
        """Return the published network whose keys are nearest, and which keys it lacks."""
        return nearest_family(state_dict)

    def published_defaults(
        self, config: Mapping[str, Option], user_fields: CheckpointFields
    ) -> CheckpointFields:
        """Return the sampling of the network's family, or the release's steps and guidance for a
        latent DiT with a stated ddpm sampler.
        """
        if config.get("family", "dit") != "dit":
            return family_defaults(config, user_fields)
        if not config.get("latent") or user_fields.get("sampler") != RELEASE_DEFAULTS["sampler"]:
            return {}
        has_null_label = config.get("null_label", True)
        guidance = RELEASE_DEFAULTS["guidance"] if has_null_label else 1.0
        return {**RELEASE_DEFAULTS, "guidance": guidance}

    def set_class_count(self, detected_fields: DetectedFields, classes: int) -> DetectedFields:
        """Return the detected fields, corrected for a known number of labels.

        Detection takes the last row of the label table for "no label". A table of exactly `classes`
        rows has no such row.
        """
        n_rows = int(detected_fields.config["classes"]) + 1
        if classes != n_rows:
            return detected_fields

        config = {**detected_fields.config, "classes": classes, "null_label": False}
        defaults: CheckpointFields = {**detected_fields.defaults}
        if "guidance" in defaults:
            defaults["guidance"] = 1.0
        return detected_fields._replace(config=config, defaults=defaults)

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the conditioning: labels, optional if the network has a row for "no label"."""
        size = configure(config)
        return Conditioning("labels", size.classes, is_optional=size.null_label)

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the generation settings, those of latents, and `fold` for a foldable encoding."""
        config = configure(checkpoint.config)
        check_sampler(config.family, checkpoint.sampler)
        fields = set(GENERATION_SETTINGS | {"spacing", "shift", "diffusion", "guidance_interval"})
        reasons = {"mu_policy": "only FLUX shifts its times by the size of the image"}
        if config.latent:
            fields |= {"vae", "vae_tiling", "guidance_channels"}
        else:
            reasons["vae"] = "it generates pixels and uses no autoencoder"
            reasons["vae_tiling"] = "it generates pixels and uses no autoencoder"
            reasons["guidance_channels"] = "it generates pixels, and guides all channels alike"

        if config.qk_norm != "none":
            reasons["fold"] = "its queries and keys are normalised before the matrices"
            return SupportedSettings(frozenset(fields), reasons)

        with torch.random.fork_rng(devices=[]):
            encoding = build_encoding(checkpoint.encoding, checkpoint.options, config)
        return folding.settings_with_fold(encoding, fields, reasons)

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return the prediction type, the labels and the side of the training images in pixels."""
        config = configure(checkpoint.config)
        prediction_type = load_sampler(str(checkpoint.sampler)).prediction_type
        if config.learn_sigma and config.family == "dit":
            prediction_type += " and its variance"
        if config.family != "dit":
            prediction_type += f" (as {FAMILIES[config.family].title})"
        null_label = " and 'no label'" if config.null_label else ", without 'no label'"
        labels = f"{config.classes:,} classes{null_label}"
        return NetworkDescription(prediction_type, labels, config.size * config.vae_scale_factor)

    def check_foreign_weights(
        self, state_dict: Mapping[str, Tensor], encoding: str, config: Mapping[str, Option]
    ) -> None:
        """Raise OptionError for latent weights of another package without the table of "ape".

        Official and released files of that encoding always contain it.
        """
        if encoding != "ape" or not config.get("latent"):
            return
        if dit_keys.TABLE_KEY not in dit_keys.convert_keys(state_dict):
            raise OptionError(
                f"these weights contain no {dit_keys.TABLE_KEY}, so they were not trained with ape;"
                " give --encoding rope-axial or another"
            )

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for settings that this checkpoint cannot generate images with."""
        config = configure(checkpoint.config)
        check_resolution(config, settings.resolution)

        if not config.null_label and settings.guidance not in (None, 1):
            raise OptionError(
                f"guidance {settings.guidance:g} needs an embedding for 'no label', which"
                f" checkpoint {checkpoint.name} does not have; give --guidance 1"
            )

        assert settings.sampler is not None  # a plan that generates has one
        check_sampler(config.family, settings.sampler)
        is_stochastic = "diffusion" in load_sampler(settings.sampler).option_names
        if is_stochastic and config.noise_scale != 1:
            raise OptionError(
                f"{settings.sampler} needs unit noise, this network starts with noise of"
                f" {config.noise_scale:g}; use flow or flow-heun"
            )
        predicts_sigma = config.learn_sigma and config.family == "dit"
        if predicts_sigma and load_sampler(settings.sampler).prediction_type != "noise":
            raise OptionError(
                f"a network with learned sigma predicts noise, {settings.sampler} needs another"
                " prediction; use ddpm or ddim"
            )

        encoding = build_checked_encoding(checkpoint, config, settings)
        if settings.fold:
            folding.check_foldable(encoding)
        if config.latent:
            latents.check_vae(
                settings.vae,
                config.channels,
                f"checkpoint {checkpoint.name}",
                config.latent_scale,
            )

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """Return the settings with the hash of the autoencoder."""
        if not configure(checkpoint.config).latent:
            return settings
        vae_sha256 = latents.vae_sha256(settings.vae, f"checkpoint {checkpoint.name}")
        return settings.model_copy(update={"vae_sha256": vae_sha256})

    def convert_keys(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the weights of a file of this package or of a publisher under our names.

        Fixed tables of positions are dropped, because they are computed. Projections that only the
        training used are set aside.
        """
        state = {
            key: tensor
            for key, tensor in dit_keys.convert_keys(state_dict).items()
            if not key.startswith(dit_keys.PROJECTOR_PREFIX)
        }
        state = dit_keys.drop_rope_tables(state, checkpoint.encoding)
        has_table = checkpoint.config.get("has_table") is True
        return dit_keys.drop_position_table(state, checkpoint.encoding, has_table)

    def load(self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]) -> DiT:
        """Return the network with these weights; WeightsError names the first keys that differ."""
        with torch.random.fork_rng(devices=[]):
            network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        state = self.convert_keys(checkpoint, state_dict)
        description = f"checkpoint {checkpoint.name}"
        check_keys(network.state_dict(), state, description)
        load_state_strictly(network, state, description)
        return network

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> DitImageGenerator:
        """Return the network with these weights, ready to generate images."""
        description = f"checkpoint {checkpoint.name}"
        network = self.load(checkpoint, state_dict)
        rescale(network.encoding, network.config, settings)
        if settings.fold:
            self.fold(network, description)
        decoder = None
        if network.config.latent:
            decoder = latents.load_decoder(settings, description, network.config.latent_scale)
        return DitImageGenerator(
            network, torch.device(settings.device), DTYPES[settings.dtype], decoder
        )

    def profiling_inputs(self, network: DiT, resolution: int, batch: int) -> ProfilingInputs:
        """Return inputs with linearly rising values, the middle timestep and labels 0, 1, 2, ...

        The values are latents for a latent network, else pixels.
        """
        config = network.config
        weight = next(network.parameters())
        rows, columns = config.grid_at(resolution)
        shape = (batch, config.channels, rows * config.patch, columns * config.patch)
        inputs = {
            "x": ramp(shape, weight),
            "time": middle_times(batch, weight),
            "labels": torch.arange(batch, device=weight.device) % config.classes,
        }
        return ProfilingInputs(inputs, counted_layer(config), rows * columns)

    def fold(self, network: DiT, description: str) -> None:
        """Fold the encoding's matrices into the projections, in place.

        Raises:
            WeightsError: One random forward pass gives other outputs afterwards.
        """
        side = min(network.config.grid[0], 8) * network.config.patch
        shape = (1, network.config.channels, side, side)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        time = torch.tensor([500.0])
        labels = torch.zeros(1, dtype=torch.long)
        folding.fold_network(
            network, network.qkv_projections, lambda: network(x, time, labels), description
        )


def _has_foldable_matrix(encoding: DetectedEncoding, config: Mapping[str, Option]) -> bool:
    """Return whether the encoding of detected weights has foldable matrices.

    The side of the training images does not matter, so an unknown one is replaced by one patch.
    """
    if "heads" not in config:
        return False
    sizes = configure({"size": config["patch"], **config})
    return build_encoding(encoding.encoding, encoding.options, sizes).properties.foldable


PLUGIN = DitBackbone()
