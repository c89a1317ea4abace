"""DiT: the diffusion transformer with adaptive layer norm, at any size, with any encoding.

Source: Peebles and Xie 2023; layout and parameter names as in facebookresearch/DiT:models.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from harope_bench.core import registry
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Checkpoint, Request, Settings, fault
from harope_bench.core.storage import fit
from harope_bench.encodings import base as encodings
from harope_bench.encodings.scaling import Scaling
from harope_bench.metrics import attention_cost
from harope_bench.models.backbones import dit_keys, folding, latents
from harope_bench.models.backbones.base import GENERATED, Clue, Drawn, Exported, Probe, Process, SettingsRead
from harope_bench.models.backbones.dit_blocks import Attention as Attention  # other transformers of this form take it from here
from harope_bench.models.backbones.dit_blocks import Block, FinalLayer, LabelEmbedder, PatchEmbed, TimestepEmbedder
from harope_bench.models.samplers.base import chosen_sampler, index_generator, unit_noise

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RELEASED = {"sampler": "ddpm", "steps": 250, "guidance": 1.5}  # the release's sample/inference script
LATENT = {"tile": 8, "guidance_channels": "3", "vae_tiling": False}  # Settings; 8 rows with and without label fit a small GPU at 512


class Config(BaseModel):
    """Size of a DiT. `size` is the side of what it was trained on: pixels, or latents where `latent` (pixels / 8).

    learn_sigma: twice the channels come out, noise and a share of the variance (DiT's own form). null_label: the table of labels
    has a last row for "no label", which guidance needs (class_dropout_prob above 0 in DiT's code).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    def scale(self) -> int:
        """Pixels along a side of one value of the network's input."""
        return latents.FACTOR if self.latent else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at training."""
        return (self.size // self.patch, self.size // self.patch)

    @property
    def out(self) -> int:
        """Channels that come out."""
        return self.channels * (2 if self.learn_sigma else 1)

    def grid_at(self, resolution: int) -> tuple[int, int]:
        """Rows and columns of tokens of an image of that side in pixels."""
        side = resolution // (self.scale * self.patch)
        return (side, side)


def configure(options: Mapping[str, Any]) -> Config:
    """A checked Config; OptionError names the field."""
    try:
        config = Config(**options)
    except ValidationError as error:
        size = "; --config size=N is the side at training, in pixels or latents (image size / 8)" if "size" not in options else ""
        raise OptionError(f"dit config {fault(error)}; its fields: {', '.join(Config.model_fields)}{size}") from error
    if config.hidden % config.heads:
        raise OptionError(f"dit hidden {config.hidden} does not divide into {config.heads} heads; choose another number")
    if config.size % config.patch:
        raise OptionError(
            f"dit size {config.size} does not divide into patches of {config.patch}; give the side the network was trained on"
        )
    return config


def encode(encoding: str, options: Mapping[str, Any], config: Config) -> encodings.Encoding:
    """A freshly initialised encoding for a network of this size."""
    shape = encodings.Shape(config.hidden, config.heads, config.hidden // config.heads, config.depth, grid=config.grid)
    return encodings.build(registry.load("encodings", encoding), shape, dict(options))


def grid_positions(rows: int, columns: int) -> Tensor:
    """Row-major coordinates (rows * columns, 2), float32, on the CPU: row, column."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()


class DiT(nn.Module):
    """The network: noised images, times and labels to a prediction of the images' shape."""

    def __init__(self, config: Config, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch, config.channels, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.y_embedder = LabelEmbedder(config.classes, config.hidden, config.null_label)
        self.blocks = nn.ModuleList(Block(config.hidden, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(config.hidden, config.patch**2 * config.out)
        self.encoding = encoding
        self._initialise()

    def _initialise(self) -> None:
        """DiT's own start: Xavier layers, small embeddings, zero gates and zero output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.hidden, -1))
        for _, parameter in self._named("x_embedder.proj.bias", "final_layer.linear"):
            nn.init.zeros_(parameter)
        for name, parameter in self._named("y_embedder", "t_embedder"):
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if ".adaLN_modulation." in name:
                nn.init.zeros_(parameter)

    def _named(self, *starts: str) -> list[tuple[str, nn.Parameter]]:
        """Parameters whose name starts so, in the order of `starts`."""
        return [(name, p) for start in starts for name, p in self.named_parameters() if name.startswith(start)]

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Prediction (B, C, H, W), or (B, 2C, H, W) with learned sigma, for x (B, C, H, W), times (B,), labels (B,); patch divides H, W."""
        rows, columns = x.shape[2] // self.config.patch, x.shape[3] // self.config.patch
        positions = grid_positions(rows, columns)
        tokens = self.encoding.embed(self.x_embedder(x), positions)  # (B, N, hidden)
        c = self.t_embedder(time) + self.y_embedder(labels)  # (B, hidden)
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, c, self.encoding, positions, layer)
        patches = self.final_layer(tokens, c).unflatten(1, (rows, columns))
        patches = patches.unflatten(-1, (self.config.patch, self.config.patch, -1))  # (B, rows, cols, p, p, C)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, *x.shape[2:])


class DitDrawer:
    """Draws images from a DiT, in pixel space or through an autoencoder's decoder."""

    def __init__(self, network: DiT, device: torch.device, dtype: torch.dtype, decode: latents.Decoder | None = None):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device, self.dtype, self.decode = device, dtype, decode

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request], settings: Settings) -> Drawn:
        """A tile of images; grey ones get three equal channels. A row that is not finite is a fault."""
        assert settings.steps is not None and settings.guidance is not None  # make_plan refuses
        sampler = chosen_sampler(settings)
        config = self.network.config
        generators = [index_generator(settings.seed, r.index) for r in requests]
        side = settings.resolution // config.scale
        noise = unit_noise((config.channels, side, side), generators)
        if not config.null_label and (bare := [r.index for r in requests if r.label is None]):
            raise OptionError(f"this network has no row for no label, sample {bare[0]} has none; choose a suite of labels")
        labels = torch.tensor([config.classes if r.label is None else r.label for r in requests], device=self.device)
        network = self._guided(labels, settings.guidance, settings.guidance_channels)
        images = sampler.sample(network, noise.to(self.device), settings.steps, generators)
        finite = images.flatten(1).isfinite().all(1).tolist()
        faults = {row: "the network's output is not finite" for row, good in enumerate(finite) if not good}
        images = images.nan_to_num()
        return Drawn(to_uint8(self.decode(images).nan_to_num() if self.decode else images), faults)

    def _guided(self, labels: Tensor, guidance: float, channels: str | None = None) -> Any:
        """The network with labels bound; classifier-free guidance unless it is exactly 1.

        Only predicted noise is guided, of the first three channels ("3") or of all; the rest is the labelled prediction's.
        Source: facebookresearch/DiT:models.py:251-266, forward_with_cfg, whose code guides three of four channels.
        """
        empty = torch.full_like(labels, self.network.config.classes)
        guided = 3 if channels == "3" else self.network.config.channels

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if guidance == 1:
                return self.network(x.to(self.dtype), time, labels).float()
            both = self.network(torch.cat((x, x)).to(self.dtype), torch.cat((time, time)), torch.cat((labels, empty)))
            told, untold = both.float().chunk(2)
            noise = untold[:, :guided] + guidance * (told[:, :guided] - untold[:, :guided])
            return torch.cat((noise, told[:, guided:]), dim=1)

        return predict


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] to (B, H, W, 3) uint8 by DiT's rule: clamp(127.5 x + 128), cut."""
    levels = (127.5 * images + 128).clamp(0, 255).to("cpu", torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


class DitBackbone:
    """DiT in pixel space (the micro checkpoints) and in latent space (the official and the released ones)."""

    tile = 25

    def build(self, encoding: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> DiT:
        """A freshly initialised DiT; errors name the option or the field."""
        size = configure(config)
        return DiT(size, encode(encoding, options, size))

    def recognise(self, state: Mapping[str, Tensor]) -> Clue | None:
        """Sizes and, where it left a trace, the encoding, read off the keys of this package, of DiT or of the release."""
        sizes = dit_keys.sizes(dit_keys.own(state))
        if sizes is None:
            return None
        config, told = sizes
        drawing = dict(LATENT) if config.get("latent") else {}
        if (
            drawing
            and told
            and "heads" in config
            and encode(told.encoding, told.options, configure({"size": config["patch"], **config})).facts.foldable
        ):
            drawing["fold"] = True
        defaults = {**(RELEASED if drawing and config.get("learn_sigma") else {}), **({"drawing": drawing} if drawing else {})}
        return Clue(told and told.encoding, config, told.options if told else {}, defaults)

    recall = staticmethod(dit_keys.arguments)

    lookalikes = re.compile(r"(?<![A-Za-z])SiT(?![a-z])")

    def usual_settings(self, config: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the release's steps and guidance for latents whose sampler is stated to be DDPM's."""
        if not config.get("latent") or stated.get("sampler") != RELEASED["sampler"]:
            return {}
        return {**RELEASED, "guidance": RELEASED["guidance"] if config.get("null_label", True) else 1.0}

    def relabelled(self, clue: Clue, classes: int) -> Clue:
        """Return the clue where the file or the user tells the number of labels: a table of just so many rows has none for "no label"."""
        if classes != int(clue.config["classes"]) + 1:
            return clue
        defaults = {**clue.defaults, **({"guidance": 1.0} if "guidance" in clue.defaults else {})}
        return clue._replace(config={**clue.config, "classes": classes, "null_label": False}, defaults=defaults)

    def conditioning(self, config: Mapping[str, Any]) -> Conditioning:
        """Return the labels; those with a row for "no label" also generate without one."""
        size = configure(config)
        return Conditioning("labels", size.classes, is_optional=size.null_label)

    def settings_read(self, checkpoint: Checkpoint) -> SettingsRead:
        """Return what every generating network reads, what latents need, and `fold` where there are matrices."""
        config = configure(checkpoint.config)
        fields, reasons = set(GENERATED | {"spacing"}), {"mu_policy": "it is FLUX's time shift"}
        if config.latent:
            fields |= {"vae", "vae_tiling", "guidance_channels"}
        else:
            reasons |= dict.fromkeys(("vae", "vae_tiling"), "it generates pixels and uses no autoencoder")
            reasons["guidance_channels"] = "it generates pixels, whose channels are guided alike"
        with torch.random.fork_rng(devices=[]):
            return folding.settings_read(encode(checkpoint.encoding, checkpoint.options, config), fields, reasons)

    def process(self, checkpoint: Checkpoint) -> Process:
        """Return what the network predicts by its sampler, its labels and its side at training."""
        config = configure(checkpoint.config)
        predicts = registry.load("samplers", str(checkpoint.sampler)).predicts + (" and its variance" if config.learn_sigma else "")
        taken = f"{config.classes:,} labels" + (" and a row for no label" if config.null_label else ", none for no label")
        return Process(predicts, taken, config.size * config.scale)

    def doubts(self, state: Mapping[str, Tensor], encoding: str, config: Mapping[str, Any]) -> None:
        """Refuses foreign latent weights that are to run with a table but hold none: official and released APE files always do."""
        if encoding == "ape" and config.get("latent") and dit_keys.TABLE not in dit_keys.own(state):
            raise OptionError(
                f"these weights hold no {dit_keys.TABLE}, so they were not trained with ape; give --encoding rope-axial or another"
            )

    def check(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses a resolution that the patches do not tile and whatever else these weights cannot be drawn with."""
        config = configure(checkpoint.config)
        unit = config.patch * config.scale
        if settings.resolution % unit:
            near = max(unit, round(settings.resolution / unit) * unit)
            what = f"patches of {config.patch}{' latents' if config.latent else ''}"
            raise OptionError(f"resolution {settings.resolution} does not divide into {what}; --resolution {near} does")
        if not config.null_label and settings.guidance not in (None, 1):
            raise OptionError(
                f"checkpoint {checkpoint.name} has no row for no label, so guidance {settings.guidance:g} has nothing to start from; "
                "--guidance 1 generates without"
            )
        assert settings.sampler is not None  # a plan that draws has one
        if config.learn_sigma and registry.load("samplers", settings.sampler).predicts != "noise":
            raise OptionError(f"a network with learned sigma predicts noise, {settings.sampler} needs another prediction; use ddpm or ddim")
        self._check_encoding(checkpoint, config, settings)
        if config.latent:
            latents.check(settings.vae, config.channels, f"checkpoint {checkpoint.name}")

    def _check_encoding(self, checkpoint: Checkpoint, config: Config, settings: Settings) -> None:
        """Heads that the axes do not divide, a scaling without meaning, a fold that cannot be: found with one token and no network."""
        with torch.random.fork_rng(devices=[]):
            encoding = encode(checkpoint.encoding, checkpoint.options, config)
        rescale(encoding, config, settings)
        one = torch.zeros(1, config.heads, 1, config.hidden // config.heads)
        encoding.embed(torch.zeros(1, 1, config.hidden), grid_positions(1, 1))
        encoding.rotate(one, one, grid_positions(1, 1), 0)
        if settings.fold:
            folding.foldable(encoding)

    def settled(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """The settings with the autoencoder's hash."""
        if not configure(checkpoint.config).latent:
            return settings
        return settings.model_copy(update={"vae_sha256": latents.identity(settings.vae, f"checkpoint {checkpoint.name}")})

    def load(self, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> DiT:
        """The network with these weights, whosever names the file has; every key must find its place."""
        with torch.random.fork_rng(devices=[]):
            network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        state = dit_keys.without_table(dit_keys.own(state), checkpoint.encoding)
        fit(network, state, f"checkpoint {checkpoint.name}")
        return network

    def open(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings) -> DitDrawer:
        """The network with these weights, ready to draw."""
        network = self.load(checkpoint, state)
        rescale(network.encoding, network.config, settings)
        if settings.fold:
            fold(network, f"checkpoint {checkpoint.name}")
        decode = latents.opened(settings, f"checkpoint {checkpoint.name}") if network.config.latent else None
        return DitDrawer(network, torch.device(settings.device), DTYPES[settings.dtype], decode)

    def probe(self, network: DiT, resolution: int, batch: int) -> Probe:
        """A ramp of pixels, the middle of the process, classes in turn."""
        config, one = network.config, next(network.parameters())
        rows, columns = config.grid_at(resolution)
        shape = (batch, config.channels, rows * config.patch, columns * config.patch)
        inputs = {
            "x": torch.linspace(-1, 1, math.prod(shape), device=one.device, dtype=one.dtype).view(shape),
            "time": torch.full((batch,), 500.0, device=one.device),
            "labels": torch.arange(batch, device=one.device) % config.classes,
        }
        layer = attention_cost.Attention(config.hidden, config.heads, attention_cost.WHOLE)
        return Probe(inputs, layer, rows * columns)

    def export(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], folded: bool) -> Exported:
        """The weights under this package's names, as they are or folded into a model of the plain encoding."""
        network = self.load(checkpoint, state)
        if not folded:
            return Exported(network.state_dict(), {})
        fold(network, f"checkpoint {checkpoint.name}")
        return Exported(network.state_dict(), folding.left_over(network.encoding, checkpoint.drawing))


def rescale(encoding: encodings.Encoding, config: Config, settings: Settings) -> None:
    """Tells the encoding how to meet the grid of these settings; nothing is told where nothing is asked.

    Raises:
        OptionError: a kind of scaling that means nothing to it.
    """
    if settings.pos_scaling is not None:
        encoding.rescale(Scaling(settings.pos_scaling, config.grid, config.grid_at(settings.resolution)))


def fold(network: DiT, what: str) -> None:
    """Moves the encoding's matrices into the projections, in place; tried with one random forward pass."""
    side = min(network.config.grid[0], 8) * network.config.patch
    rng = torch.Generator().manual_seed(0)
    x = torch.randn((1, network.config.channels, side, side), generator=rng)
    arguments = x, torch.tensor([500.0]), torch.zeros(1, dtype=torch.long)
    fused = [cast(Block, block).attn.qkv for block in network.blocks]
    folding.fold_network(network, fused, lambda: cast(Tensor, network(*arguments)), what)


PLUGIN = DitBackbone()
