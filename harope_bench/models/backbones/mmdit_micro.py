"""A small joint text-image transformer in pixel space, built like FLUX and SD3.

Words are tokens beside the patches of the image. Text tokens come first and have position (0, 0);
image tokens have their row and column. The encoding acts on normalised queries and keys. The
pooled caption and the time modulate all blocks.
Source: Esser et al. 2024; black-forest-labs/flux; paper section 4.3.
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
    build_checked_encoding,
    build_encoding,
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
    """Sizes of the network.

    The keys of `double_blocks`, `single_blocks` and `max_words` in files are "double", "single" and
    "places".

    Attributes:
        hidden, heads: Width of a token and number of heads.
        double_blocks: Number of blocks with a text stream and an image stream; they come first.
        single_blocks: Number of blocks with one stream.
        patch, size: Sides of a patch and of the training images in pixels.
        channels: Channels of the images.
        words: The vocabulary, separated by spaces.
        max_words: Largest number of words in a caption.
    """

    # Shipped weights and recipes are hashed with the keys that the aliases state.
    hidden: int = Field(gt=0)
    double_blocks: int = Field(ge=0, alias="double")
    single_blocks: int = Field(gt=0, alias="single")
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: int = Field(default=3, gt=0)
    words: str
    max_words: int = Field(gt=0, alias="places")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The known words; word i has token id i + 1."""
        return tuple(self.words.split())

    @property
    def layers(self) -> int:
        """Number of attention layers."""
        return self.double_blocks + self.single_blocks


def parse_config(options: Mapping[str, Option]) -> MMDiTConfig:
    """Return validated sizes; OptionError names the wrong field."""
    return parse_sizes(MMDiTConfig, "mmdit-micro", options)


class MMDiT(EncodedNetwork):
    """The network: noised images, times and words to a prediction in the shape of the images."""

    def __init__(self, config: MMDiTConfig, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch, config.channels, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.words = WordEmbedder(len(config.vocabulary), config.max_words, config.hidden)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, 6 * config.hidden))
        stream_counts = [2] * config.double_blocks + [1] * config.single_blocks
        self.blocks = nn.ModuleList(
            MMDiTBlock(config.hidden, config.heads, n_streams) for n_streams in stream_counts
        )
        self.final_layer = FinalLayer(config.hidden, config.patch**2 * config.channels)
        self.encoding = encoding
        self._position_cache: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as DiT does: Xavier layers, small embeddings, zero gates and zero output."""
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
        """Return the coordinates of all tokens and of the image tokens alone.

        Text comes first, at (0, 0). The tensors are cached per grid, because encodings cache angles
        per position tensor.

        Returns:
            (max_words + rows * columns, 2) and (rows * columns, 2), float32.
        """
        if (rows, columns) not in self._position_cache:
            image_positions = grid_positions(rows, columns)
            text_positions = torch.zeros(self.config.max_words, 2)
            all_positions = torch.cat((text_positions, image_positions))
            self._position_cache[rows, columns] = (all_positions, image_positions)
        return self._position_cache[rows, columns]

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Return the prediction (B, C, H, W) for noised images.

        Args:
            x: (B, C, H, W); the patch size divides H and W.
            time: (B,), from 0 (image) to 1000 (noise).
            words: (B, max_words) int64.
        """
        patch = self.config.patch
        rows = x.shape[2] // patch
        columns = x.shape[3] // patch
        all_positions, image_positions = self.positions(rows, columns)

        image_tokens = self.encoding.embed(self.x_embedder(x), image_positions)  # (B, N, hidden)
        text_tokens, caption_vector = self.words(words)  # (B, max_words, hidden), (B, hidden)
        c = self.t_embedder(time) + caption_vector  # (B, hidden)
        shared_modulation = self.modulation(c).unflatten(-1, (6, -1))  # (B, 6, hidden)

        # Two streams until the first single block, then one stream of all tokens.
        stream_tokens = [text_tokens, image_tokens]
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, MMDiTBlock)
            if block.is_single_stream and len(stream_tokens) > 1:
                stream_tokens = [torch.cat(stream_tokens, 1)]
            stream_tokens = block(
                stream_tokens, shared_modulation, self.encoding, all_positions, layer
            )

        image_tokens = stream_tokens[-1][:, -len(image_positions) :]  # (B, N, hidden)
        return unpatchify(self.final_layer(image_tokens, c), rows, columns, patch)


class MMDiTImageGenerator(SamplerImageGenerator[MMDiT]):
    """Generates images from captions, in pixel space; a request may have no prompt."""

    def __init__(self, network: MMDiT, device: torch.device, dtype: torch.dtype):
        super().__init__(network, device, dtype)
        self.channels = network.config.channels

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Return words (B, max_words) int64 of the prompts."""
        return torch.stack([tokenize(r.prompt or "", self.network.config) for r in requests])

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """Return the words of "no text", for every sample."""
        return torch.zeros_like(conditions)


def tokenize(prompt: str, config: MMDiTConfig) -> Tensor:
    """Return the token ids of a prompt, (max_words,) int64, with 0 after its end.

    Raises:
        OptionError: A word is not in the vocabulary, or there are too many words.
    """
    token_ids = {word: token_id for token_id, word in enumerate(config.vocabulary, 1)}
    words = prompt.lower().split()
    unknown_words = [word for word in words if word not in token_ids]
    if unknown_words:
        raise OptionError(
            f"mmdit-micro does not know the word {unknown_words[0]!r} of {prompt!r}; it knows"
            f" {', '.join(token_ids)}"
        )
    if len(words) > config.max_words:
        raise OptionError(
            f"mmdit-micro reads {config.max_words} words, {prompt!r} has {len(words)}; shorten it"
        )
    padding = [0] * (config.max_words - len(words))
    return torch.tensor([token_ids[word] for word in words] + padding)


class MMDiTMicroBackbone(Backbone[MMDiT]):
    """Generates small images from captions of a fixed vocabulary.

    Its matrices cannot be folded, because norms are between projection and matrix.
    """

    tile = 24
    example_config = {
        "hidden": 16,
        "double": 1,
        "single": 1,
        "heads": 2,
        "patch": 4,
        "size": 16,
        "channels": 3,
        "places": 4,
        "words": "a red blue ring",
    }
    example_prompts = ("a red ring", "a blue ring", "red a", "ring")

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> MMDiT:
        """Return a freshly initialised network; OptionError names the wrong option or size."""
        sizes = parse_config(config)
        return MMDiT(sizes, build_encoding(encoding, options, sizes))

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return sizes and encoding, read from the keys; None if they are not this network's.

        The keys reveal neither the vocabulary nor the side of the training images.
        """
        if not state_dict.keys() >= REQUIRED_KEYS:
            return None
        if state_dict["x_embedder.proj.weight"].dim() != 4:
            return None

        hidden, channels, patch, _ = state_dict["x_embedder.proj.weight"].shape
        head_dim = len(state_dict["blocks.0.streams.0.norm_q.weight"])
        block_keys = [key for key in state_dict if key.startswith("blocks.")]
        blocks = {key.split(".")[1] for key in block_keys}
        double_blocks = {key.split(".")[1] for key in block_keys if ".streams.1." in key}
        config: dict[str, Option] = {
            "hidden": hidden,
            "channels": channels,
            "patch": patch,
            "double": len(double_blocks),
            "single": len(blocks) - len(double_blocks),
            "heads": hidden // head_dim,
            "places": len(state_dict["words.place.weight"]),
        }

        encoding = detect_encoding.detect_from_state_dict(state_dict)
        if encoding is None:
            return DetectedFields(encoding=None, config=config)
        return DetectedFields(encoding.encoding, config, encoding.options)

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the conditioning: prompts, which are optional."""
        return Conditioning("prompts", is_optional=True)

    def check_request(self, checkpoint: Checkpoint, request: Request) -> None:
        """Raise OptionError for a prompt with unknown words or with too many words."""
        tokenize(request.prompt or "", parse_config(checkpoint.config))

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the generation settings, without those of latents and without `fold`."""
        reasons = dict.fromkeys(
            ("guidance_channels", "mu_policy", "vae", "vae_tiling"),
            "it generates pixels, without an autoencoder",
        )
        reasons["fold"] = (
            "it norms queries and keys before the matrix, which therefore does not fold"
        )
        return SupportedSettings(GENERATION_SETTINGS | {"spacing"}, reasons)

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return the prediction type, the prompts and the side of the training images in pixels."""
        config = parse_config(checkpoint.config)
        words = f"prompts of up to {config.max_words} of its {len(config.vocabulary)} words"
        return NetworkDescription(
            load_sampler(str(checkpoint.sampler)).prediction_type, words, config.size
        )

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for a resolution or a position scaling that the network cannot take."""
        config = parse_config(checkpoint.config)
        check_resolution(config, settings.resolution)
        build_checked_encoding(checkpoint, config, settings)

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> MMDiTImageGenerator:
        """Return the network with these weights, strictly loaded and ready to generate images."""
        network = self.load(checkpoint, state_dict)
        rescale(network.encoding, network.config, settings)
        return MMDiTImageGenerator(network, torch.device(settings.device), DTYPES[settings.dtype])

    def profiling_inputs(self, network: MMDiT, resolution: int, batch: int) -> ProfilingInputs:
        """Return images with linearly rising values, the middle timestep and words 1, 2, 3, ...

        The layer whose cost is counted is the attention of a single block.
        """
        config = network.config
        weight = next(network.parameters())
        word_indices = torch.arange(config.max_words, device=weight.device)
        token_ids = word_indices % len(config.vocabulary) + 1  # (max_words,)
        inputs = {
            "x": ramp((batch, config.channels, resolution, resolution), weight),
            "time": middle_times(batch, weight),
            "words": token_ids.repeat(batch, 1),  # (B, max_words)
        }
        tokens = config.max_words + (resolution // config.patch) ** 2
        return ProfilingInputs(inputs, counted_layer(config), tokens)


PLUGIN = MMDiTMicroBackbone()
