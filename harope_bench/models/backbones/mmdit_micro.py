"""A small joint text-image transformer in pixel space, built as FLUX and SD3 are: words as tokens
beside patches of the image.

Text tokens come first and stand at the origin, image tokens at their row and column; queries and
keys are normed, then meet the
encoding. The pooled caption and the time modulate all blocks. Source: Esser et al. 2024;
black-forest-labs/flux; paper section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.encodings import base as encodings
from harope_bench.encodings import detect_encoding
from harope_bench.models.backbones.base import (
    GENERATION_SETTINGS,
    Backbone,
    DetectedFields,
    NetworkDescription,
    ProfilingInputs,
    SupportedSettings,
)
from harope_bench.models.backbones.dit_blocks import (
    FinalLayer,
    PatchEmbed,
    TimestepEmbedder,
    initialise_projections,
    unpatchify,
)
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.backbones.mmdit_blocks import MMDiTBlock, WordEmbedder
from harope_bench.models.backbones.network_sizes import (
    DTYPES,
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
from harope_bench.models.samplers.base import load_sampler

REQUIRED_KEYS = {
    "x_embedder.proj.weight",
    "words.word.weight",
    "words.place.weight",
    "blocks.0.streams.0.norm_q.weight",
}


class MMDiTConfig(NetworkSizes):
    """Sizes. `double` blocks with two streams come first, then `single` ones.

    size: side in pixels of the training images. words: the vocabulary, separated by spaces. places:
    words a caption can have.
    """

    hidden: int = Field(gt=0)
    double_blocks: int = Field(ge=0)
    single_blocks: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: int = Field(default=3, gt=0)
    words: str
    max_words: int = Field(gt=0)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The known words; word i has number i + 1."""
        return tuple(self.words.split())

    @property
    def layers(self) -> int:
        """Attention layers."""
        return self.double_blocks + self.single_blocks


def parse_config(options: Mapping[str, Option]) -> MMDiTConfig:
    """A checked Config; OptionError names the field."""
    return parse_sizes(MMDiTConfig, "mmdit-micro", options)


class MMDiT(EncodedNetwork):
    """The network: noised images, times and words to a prediction of the images' shape."""

    def __init__(self, config: MMDiTConfig, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch, config.channels, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.words = WordEmbedder(len(config.vocabulary), config.max_words, config.hidden)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, 6 * config.hidden))
        streams = [2] * config.double_blocks + [1] * config.single_blocks
        self.blocks = nn.ModuleList(
            MMDiTBlock(config.hidden, config.heads, count) for count in streams
        )
        self.final_layer = FinalLayer(config.hidden, config.patch**2 * config.channels)
        self.encoding = encoding
        self._position_cache: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._initialise()

    def _initialise(self) -> None:
        """Xavier layers, small embeddings, zero gates and zero output, as in DiT."""
        outside_encoding = (
            module for name, module in self.named_modules() if not name.startswith("encoding")
        )
        initialise_projections(outside_encoding, self.x_embedder)
        for embedding in (self.words.word, self.words.place):
            nn.init.normal_(embedding.weight, std=0.5)
        for name, parameter in self.named_parameters():
            if name.startswith(
                ("modulation.", "final_layer.linear.", "final_layer.adaLN_modulation.")
            ):
                nn.init.zeros_(parameter)

    def positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Positions of all tokens (places + rows * columns, 2), text at the origin, and of the
        image's alone; always the same tensors.
        """
        if (rows, columns) not in self._position_cache:
            image = grid_positions(rows, columns)
            self._position_cache[rows, columns] = (
                torch.cat((torch.zeros(self.config.max_words, 2), image)),
                image,
            )
        return self._position_cache[rows, columns]

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Prediction (B, C, H, W) for x (B, C, H, W), times (B,) and words (B, places); patch
        divides H and W.
        """
        patch = self.config.patch
        rows = x.shape[2] // patch
        columns = x.shape[3] // patch
        everywhere, grid = self.positions(rows, columns)
        image = self.encoding.embed(self.x_embedder(x), grid)  # (B, N, hidden)
        tokens, pooled = self.words(words)
        c = self.t_embedder(time) + pooled  # (B, hidden)
        shared = self.modulation(c).unflatten(-1, (6, -1))
        parts = [tokens, image]
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, MMDiTBlock)
            if block.is_single_stream and len(parts) > 1:
                parts = [torch.cat(parts, 1)]
            parts = block(parts, shared, self.encoding, everywhere, layer)
        return unpatchify(self.final_layer(parts[-1][:, -len(grid) :], c), rows, columns, patch)


class MMDiTImageGenerator(SamplerImageGenerator[MMDiT]):
    """Draws images from captions, in pixel space; a request without a prompt is drawn without
    text.
    """

    def __init__(self, network: MMDiT, device: torch.device, dtype: torch.dtype):
        super().__init__(network, device, dtype)
        self.channels = network.config.channels

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Words (B, places)."""
        return torch.stack([tokenize(r.prompt or "", self.network.config) for r in requests])

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """No text."""
        return torch.zeros_like(conditions)


def tokenize(prompt: str, config: MMDiTConfig) -> Tensor:
    """A prompt as numbers of words (places,) int64, 0 after its end.

    Raises:
        OptionError: a word that the network never learned, or more words than it has places for.
    """
    known = {word: number for number, word in enumerate(config.vocabulary, 1)}
    words = prompt.lower().split()
    if strange := [word for word in words if word not in known]:
        raise OptionError(
            f"mmdit-micro never learned the word {strange[0]!r} of {prompt!r}; it knows"
            f" {', '.join(known)}"
        )
    if len(words) > config.max_words:
        raise OptionError(
            f"mmdit-micro reads {config.max_words} words, {prompt!r} has {len(words)}; shorten it"
        )
    return torch.tensor([known[word] for word in words] + [0] * (config.max_words - len(words)))


class MMDiTMicroBackbone(Backbone[MMDiT]):
    """Draws small pictures from captions of a fixed vocabulary. No folding: the norms stand between
    projection and matrix.
    """

    tile = 24

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> MMDiT:
        """A freshly initialised network; errors name the option or the field."""
        size = parse_config(config)
        return MMDiT(size, build_encoding(encoding, options, size))

    def detect_fields(self, state: Mapping[str, Tensor]) -> DetectedFields | None:
        """Sizes off the keys; the words and the training size leave no trace there."""
        if not state.keys() >= REQUIRED_KEYS:
            return None
        if state["x_embedder.proj.weight"].dim() != 4:
            return None
        hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
        blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        double = {
            key.split(".")[1] for key in state if key.startswith("blocks.") and ".streams.1." in key
        }
        told = detect_encoding.detect_from_state_dict(state)
        config: dict[str, Option] = {
            "hidden": hidden, "channels": channels, "patch": patch, "double": len(double), "single": len(blocks) - len(double),
            "heads": hidden // len(state["blocks.0.streams.0.norm_q.weight"]), "places": len(state["words.place.weight"]),
        }  # fmt: skip
        return DetectedFields(told and told.encoding, config, told.options if told else {})

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return prompts, of the words that it knows; it also generates without one."""
        return Conditioning("prompts", is_optional=True)

    def check_request(self, checkpoint: Checkpoint, request: Request) -> None:
        """Raise OptionError for a prompt with words that the network never learned, or with too
        many.
        """
        tokenize(request.prompt or "", parse_config(checkpoint.config))

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return what every generating network reads."""
        pixels = dict.fromkeys(
            ("guidance_channels", "mu_policy", "vae", "vae_tiling"),
            "it generates pixels, without an autoencoder",
        )
        folds = {
            "fold": "it norms queries and keys before the matrix, which therefore does not fold"
        }
        return SupportedSettings(GENERATION_SETTINGS | {"spacing"}, {**pixels, **folds})

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return what the network predicts by its sampler, its words and its side at training."""
        config = parse_config(checkpoint.config)
        words = f"prompts of up to {config.max_words} of its {len(config.vocabulary)} words"
        return NetworkDescription(
            load_sampler(str(checkpoint.sampler)).prediction_type, words, config.size
        )

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses a resolution that the patches do not tile and a scaling without a meaning
        here.
        """
        config = parse_config(checkpoint.config)
        check_resolution(config, settings.resolution)
        check_encoding(checkpoint, config, settings)

    def open(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings
    ) -> MMDiTImageGenerator:
        """The network with these weights, strictly loaded, ready to draw."""
        network = self.load(checkpoint, state)
        rescale(network.encoding, network.config, settings)
        return MMDiTImageGenerator(network, torch.device(settings.device), DTYPES[settings.dtype])

    def profiling_inputs(self, network: MMDiT, resolution: int, batch: int) -> ProfilingInputs:
        """A ramp of pixels, the middle of the process, the vocabulary's first words; the counted
        layer is a block of one stream.
        """
        config = network.config
        one = next(network.parameters())
        inputs = {
            "x": ramp((batch, config.channels, resolution, resolution), one),
            "time": middle_times(batch, one),
            "words": (
                (
                    torch.arange(config.max_words, device=one.device) % len(config.vocabulary) + 1
                ).repeat(batch, 1)
            ),
        }
        tokens = config.max_words + (resolution // config.patch) ** 2
        return ProfilingInputs(inputs, counted_layer(config), tokens)


PLUGIN = MMDiTMicroBackbone()
