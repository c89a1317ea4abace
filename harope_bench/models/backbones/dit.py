"""DiT: the diffusion transformer with adaptive layer norm, at any size, with any encoding.

Source: Peebles and Xie 2023; layout and parameter names as in facebookresearch/DiT:models.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.encodings import base as encodings
from harope_bench.models.backbones import dit_keys, folding, latents
from harope_bench.models.backbones.base import (
    GENERATION_SETTINGS,
    DetectedFields,
    NetworkDescription,
    ProfilingInputs,
    SupportedSettings,
)
from harope_bench.models.backbones.dit_blocks import (
    DiTBlock,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    initialise_projections,
    unpatchify,
)
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.backbones.network_sizes import (
    DTYPES,
    FoldingBackbone,
    NetworkSizes,
    build_encoding,
    check_encoding,
    check_resolution,
    counted_layer,
    grid_positions,
    middle_times,
    parse_sizes,
    ramp,
    rescale,
)
from harope_bench.models.backbones.sampler_generator import SamplerImageGenerator
from harope_bench.models.backbones.sampler_generator import to_uint8 as to_uint8  # DiT's rule
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.samplers.base import load_sampler

RELEASE_DEFAULTS: CheckpointFields = {
    "sampler": "ddpm",
    "steps": 250,
    "guidance": 1.5,
}  # the release's sample/inference script
# Settings; 8 rows with and without label fit a small GPU at 512
LATENT_DEFAULTS: dict[str, Option] = {"tile": 8, "guidance_channels": "3", "vae_tiling": False}


class DitConfig(NetworkSizes):
    """Size of a DiT. `size` is the side of what it was trained on: pixels, or latents where
    `latent` (pixels / 8).

    learn_sigma: twice the channels come out, noise and a share of the variance (DiT's own form).
    null_label: the table of labels
    has a last row for "no label", which guidance needs (class_dropout_prob above 0 in DiT's code).
    """

    hidden: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: int = Field(gt=0)
    classes: int = Field(gt=0)
    learn_sigma: bool = False
    latent: bool = False
    null_label: bool = True

    @property
    def pixels_per_value(self) -> int:
        """Pixels along a side of one value of the network's input."""
        return latents.VAE_SCALE_FACTOR if self.latent else 1

    @property
    def layers(self) -> int:
        """Attention layers."""
        return self.depth

    @property
    def out_channels(self) -> int:
        """Channels that come out."""
        return self.channels * (2 if self.learn_sigma else 1)


def configure(options: Mapping[str, Option]) -> DitConfig:
    """A checked Config; OptionError names the field."""
    hint = (
        "; --config size=N is the side at training, in pixels or latents (image size / 8)"
        if "size" not in options
        else ""
    )
    return parse_sizes(DitConfig, "dit", options, hint, "give the side the network was trained on")


class DiT(EncodedNetwork):
    """The network: noised images, times and labels to a prediction of the images' shape."""

    def __init__(self, config: DitConfig, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch, config.channels, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.y_embedder = LabelEmbedder(config.classes, config.hidden, config.null_label)
        self.blocks = nn.ModuleList(
            DiTBlock(config.hidden, config.heads) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(config.hidden, config.patch**2 * config.out_channels)
        self.encoding = encoding
        self._initialise()

    def _initialise(self) -> None:
        """DiT's own start: Xavier layers, small embeddings, zero gates and zero output."""
        initialise_projections(self.modules(), self.x_embedder)
        for _, parameter in self._parameters_with_prefix(
            "x_embedder.proj.bias", "final_layer.linear"
        ):
            nn.init.zeros_(parameter)
        for name, parameter in self._parameters_with_prefix("y_embedder", "t_embedder"):
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if ".adaLN_modulation." in name:
                nn.init.zeros_(parameter)

    def _parameters_with_prefix(self, *starts: str) -> list[tuple[str, nn.Parameter]]:
        """Parameters whose name starts so, in the order of `starts`."""
        return [
            (name, p)
            for start in starts
            for name, p in self.named_parameters()
            if name.startswith(start)
        ]

    @property
    def qkv_projections(self) -> list[nn.Linear]:
        """The projections to queries, keys and values, layer by layer."""
        return [block.attn.qkv for block in self.blocks if isinstance(block, DiTBlock)]

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Prediction (B, C, H, W), or (B, 2C, H, W) with learned sigma, for x (B, C, H, W), times
        (B,), labels (B,); patch divides H, W.
        """
        rows = x.shape[2] // self.config.patch
        columns = x.shape[3] // self.config.patch
        positions = grid_positions(rows, columns)
        tokens = self.encoding.embed(self.x_embedder(x), positions)  # (B, N, hidden)
        c = self.t_embedder(time) + self.y_embedder(labels)  # (B, hidden)
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, c, self.encoding, positions, layer)
        return unpatchify(self.final_layer(tokens, c), rows, columns, self.config.patch)


class DitImageGenerator(SamplerImageGenerator[DiT]):
    """Draws images from a DiT, in pixel space or through an autoencoder's decoder; grey ones get
    three equal channels.
    """

    def __init__(
        self,
        network: DiT,
        device: torch.device,
        dtype: torch.dtype,
        decode: latents.Decoder | None = None,
    ):
        super().__init__(network, device, dtype)
        self.channels = network.config.channels
        self.decoder = decode

    def input_side(self, resolution: int) -> int:
        """Pixels or latents of a side."""
        return resolution // self.network.config.pixels_per_value

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Labels (B,); OptionError for a request without one where the network has no row for
        that.
        """
        config = self.network.config
        if not config.null_label and (bare := [r.index for r in requests if r.label is None]):
            raise OptionError(
                f"this network has no row for no label, sample {bare[0]} has none; choose a suite"
                " of labels"
            )
        return torch.tensor([config.classes if r.label is None else r.label for r in requests])

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """The row for no label."""
        return torch.full_like(conditions, self.network.config.classes)

    def decode(self, images: Tensor) -> Tensor:
        """Latents through the decoder, pixels as they are."""
        return self.decoder(images).nan_to_num() if self.decoder else images


class DitBackbone(FoldingBackbone[DiT]):
    """DiT in pixel space (the micro checkpoints) and in latent space (the official and the released
    ones).
    """

    tile = 25
    lookalikes = re.compile(r"(?<![A-Za-z])SiT(?![a-z])")

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> DiT:
        """A freshly initialised DiT; errors name the option or the field."""
        size = configure(config)
        return DiT(size, build_encoding(encoding, options, size))

    def recognise(self, state: Mapping[str, Tensor]) -> DetectedFields | None:
        """Sizes and, where it left a trace, the encoding, read off the keys of this package, of DiT
        or of the release.
        """
        sizes = dit_keys.detect_sizes(dit_keys.convert_keys(state))
        if sizes is None:
            return None
        config, told = sizes
        drawing = dict(LATENT_DEFAULTS) if config.get("latent") else {}
        if (
            drawing
            and told
            and "heads" in config
            and build_encoding(
                told.encoding, told.options, configure({"size": config["patch"], **config})
            ).properties.foldable
        ):
            drawing["fold"] = True
        defaults: CheckpointFields = (
            {**RELEASE_DEFAULTS} if drawing and config.get("learn_sigma") else {}
        )
        if drawing:
            defaults["drawing"] = drawing
        return DetectedFields(
            told and told.encoding, config, told.options if told else {}, defaults
        )

    def recall(self, args: Mapping[str, object]) -> dict[str, Option]:
        """Return the sizes of DiT's training arguments; WeightsError for another network."""
        return dit_keys.config_from_training_args(args)

    def usual_settings(
        self, config: Mapping[str, Option], stated: CheckpointFields
    ) -> CheckpointFields:
        """Return the release's steps and guidance for latents whose sampler is stated to be
        DDPM's.
        """
        if not config.get("latent") or stated.get("sampler") != RELEASE_DEFAULTS["sampler"]:
            return {}
        return {
            **RELEASE_DEFAULTS,
            "guidance": RELEASE_DEFAULTS["guidance"] if config.get("null_label", True) else 1.0,
        }

    def set_class_count(self, clue: DetectedFields, classes: int) -> DetectedFields:
        """Return the clue where the file or the user tells the number of labels: a table of just so
        many rows has none for "no label".
        """
        if classes != int(clue.config["classes"]) + 1:
            return clue
        defaults: CheckpointFields = {**clue.defaults}
        if "guidance" in defaults:
            defaults["guidance"] = 1.0
        return clue._replace(
            config={**clue.config, "classes": classes, "null_label": False}, defaults=defaults
        )

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the labels; those with a row for "no label" also generate without one."""
        size = configure(config)
        return Conditioning("labels", size.classes, is_optional=size.null_label)

    def settings_read(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return what every generating network reads, what latents need, and `fold` where there are
        matrices.
        """
        config = configure(checkpoint.config)
        fields = set(GENERATION_SETTINGS | {"spacing"})
        reasons = {"mu_policy": "it is FLUX's time shift"}
        if config.latent:
            fields |= {"vae", "vae_tiling", "guidance_channels"}
        else:
            reasons |= dict.fromkeys(
                ("vae", "vae_tiling"), "it generates pixels and uses no autoencoder"
            )
            reasons["guidance_channels"] = "it generates pixels, whose channels are guided alike"
        with torch.random.fork_rng(devices=[]):
            return folding.settings_with_fold(
                build_encoding(checkpoint.encoding, checkpoint.options, config), fields, reasons
            )

    def process(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return what the network predicts by its sampler, its labels and its side at training."""
        config = configure(checkpoint.config)
        predicts = load_sampler(str(checkpoint.sampler)).prediction_type + (
            " and its variance" if config.learn_sigma else ""
        )
        taken = f"{config.classes:,} labels" + (
            " and a row for no label" if config.null_label else ", none for no label"
        )
        return NetworkDescription(predicts, taken, config.size * config.pixels_per_value)

    def doubts(
        self, state: Mapping[str, Tensor], encoding: str, config: Mapping[str, Option]
    ) -> None:
        """Refuses foreign latent weights that are to run with a table but hold none: official and
        released APE files always do.
        """
        if (
            encoding == "ape"
            and config.get("latent")
            and dit_keys.TABLE_KEY not in dit_keys.convert_keys(state)
        ):
            raise OptionError(
                f"these weights hold no {dit_keys.TABLE_KEY}, so they were not trained with ape;"
                " give --encoding rope-axial or another"
            )

    def check(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses a resolution that the patches do not tile and whatever else these weights cannot
        be drawn with.
        """
        config = configure(checkpoint.config)
        check_resolution(config, settings.resolution)
        if not config.null_label and settings.guidance not in (None, 1):
            raise OptionError(
                f"checkpoint {checkpoint.name} has no row for no label, so guidance"
                f" {settings.guidance:g} has nothing to start from; --guidance 1 generates without"
            )
        assert settings.sampler is not None  # a plan that draws has one
        if config.learn_sigma and load_sampler(settings.sampler).prediction_type != "noise":
            raise OptionError(
                f"a network with learned sigma predicts noise, {settings.sampler} needs another"
                " prediction; use ddpm or ddim"
            )
        encoding = check_encoding(checkpoint, config, settings)
        if settings.fold:
            folding.check_foldable(encoding)
        if config.latent:
            latents.check_vae(settings.vae, config.channels, f"checkpoint {checkpoint.name}")

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """The settings with the autoencoder's hash."""
        if not configure(checkpoint.config).latent:
            return settings
        return settings.model_copy(
            update={"vae_sha256": latents.vae_sha256(settings.vae, f"checkpoint {checkpoint.name}")}
        )

    def own_names(self, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this package's, DiT's or the release's file, without the table that is
        computed here.
        """
        return dit_keys.drop_position_table(dit_keys.convert_keys(state), checkpoint.encoding)

    def open(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings
    ) -> DitImageGenerator:
        """The network with these weights, ready to draw."""
        network = self.load(checkpoint, state)
        rescale(network.encoding, network.config, settings)
        if settings.fold:
            self.fold(network, f"checkpoint {checkpoint.name}")
        decode = (
            latents.load_decoder(settings, f"checkpoint {checkpoint.name}")
            if network.config.latent
            else None
        )
        return DitImageGenerator(
            network, torch.device(settings.device), DTYPES[settings.dtype], decode
        )

    def probe(self, network: DiT, resolution: int, batch: int) -> ProfilingInputs:
        """A ramp of pixels, the middle of the process, classes in turn."""
        config = network.config
        one = next(network.parameters())
        rows, columns = config.grid_at(resolution)
        shape = (batch, config.channels, rows * config.patch, columns * config.patch)
        inputs = {
            "x": ramp(shape, one),
            "time": middle_times(batch, one),
            "labels": torch.arange(batch, device=one.device) % config.classes,
        }
        return ProfilingInputs(inputs, counted_layer(config), rows * columns)

    def fold(self, network: DiT, what: str) -> None:
        """Move the encoding's matrices into the projections, in place; tried with one random
        forward pass.
        """
        side = min(network.config.grid[0], 8) * network.config.patch
        x = torch.randn(
            (1, network.config.channels, side, side), generator=torch.Generator().manual_seed(0)
        )
        arguments = x, torch.tensor([500.0]), torch.zeros(1, dtype=torch.long)
        folding.fold_network(network, network.qkv_projections, lambda: network(*arguments), what)


PLUGIN = DitBackbone()
