"""Networks of diffusers with our encodings: what FLUX and SD3 share when a whole pipeline lies in a
local folder.

Nothing is downloaded. An image is drawn alone, so its bits do not depend on what is drawn beside
it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from harope_bench.core import registry
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import (
    MissingExtraError,
    MissingMemberError,
    OptionError,
    WeightsError,
)
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.encodings import base as encodings
from harope_bench.encodings import detect_encoding
from harope_bench.metrics import attention_cost
from harope_bench.models import lora_manifest
from harope_bench.models.backbones import folding, lora
from harope_bench.models.backbones.base import (
    GENERATION_SETTINGS,
    AdapterBackbone,
    DetectedFields,
    GeneratedTile,
    ImageGenerator,
    NetworkDescription,
    ProfilingInputs,
    SupportedSettings,
)
from harope_bench.models.backbones.encoded_transformer import EncodedTransformer, SequenceSpec
from harope_bench.models.backbones.library_types import (
    DiffusersModule,
    Pipeline,
    PipelineClass,
    Transformer,
)
from harope_bench.models.backbones.network_sizes import DTYPES
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.lora_manifest import LibraryConfig
from harope_bench.models.samplers.noise import index_generator, unit_noise

# The projections of an attention; the paper does not state what its LoRA is on.
LORA_TARGETS = tuple(
    f"attn.{layer}"
    for layer in (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )
)


# Names of bases that take few steps; they have the sizes of the base that they were distilled from.
DISTILLED_NAMES = re.compile(
    r"turbo|schnell|lightning|distill|hyper-?sd|\blcm\b|\btcd\b", re.IGNORECASE
)


class DiffusersConfig(BaseModel):
    """How a base is used.

    base: folder or hub id of the whole pipeline. tokens: which tokens the encoding acts on; text
    left out stays as the
    projections made it. merge: LoRA is added into the base weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    encoded_tokens: Literal["all", "image"] = "all"
    text_tokens: int = Field(default=512, gt=0, le=512)
    merge_lora: bool = False


def import_diffusers() -> DiffusersModule:
    """diffusers, imported now and without its bars; MissingExtra names the install."""
    try:
        import diffusers
        import peft  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"text-to-image pipelines need diffusers, transformers and peft ({error})",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def is_transformer_file(state: Mapping[str, Tensor]) -> bool:
    """Return whether no key has the prefixes of a whole network here, as in the library's own
    transformer files.
    """
    return bool(state) and not any(key.startswith(("transformer.", "encoding.")) for key in state)


def add_transformer_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the library's transformer weights under the names that they have in a whole
    network.
    """
    return {f"transformer.{key}": value for key, value in state.items()}


class PipelineImageGenerator(ImageGenerator):
    """Draws with the pipeline's own scheduler from noise of our generators."""

    network: EncodedTransformer

    def __init__(self, pipe: Pipeline, network: EncodedTransformer, config: DiffusersConfig):
        self.pipe = pipe
        self.network = network
        self.config = config

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedTile:
        """Images of these requests, one after the other. One that is not finite is a fault."""
        pictures = []
        faults = {}
        for row, request in enumerate(requests):
            if request.prompt is None:
                raise OptionError(
                    f"a text-to-image pipeline draws from prompts, request {request.index} has"
                    " none; choose another suite"
                )
            image = self.generate_image(request, settings).float()  # (3, H, W)
            if not image.isfinite().all():
                faults[row] = "the network's output is not finite"
            pictures.append(
                (255 * image.nan_to_num()).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
            )
        return GeneratedTile(np.stack(pictures), faults)

    def generate_image(self, request: Request, settings: Settings) -> Tensor:
        """One image (3, H, W) in [0, 1]."""
        drawn: torch.Tensor = self.pipe(
            prompt=request.prompt,
            height=settings.resolution,
            width=settings.resolution,
            num_inference_steps=settings.steps,
            **({} if settings.guidance is None else {"guidance_scale": settings.guidance}),
            latents=self.initial_noise(request.index, settings),
            max_sequence_length=self.config.text_tokens,
            output_type="pt",
        ).images[0]
        return drawn

    def initial_noise(self, index: int, settings: Settings) -> Tensor:
        """Unit latents (1, channels, rows, columns) of an index, on the CPU in float32."""
        side = settings.resolution // self.pipe.vae_scale_factor
        return unit_noise(
            (self.pipe.vae.config.latent_channels, side, side),
            [index_generator(settings.seed, index)],
        )


class DiffusersBackbone(AdapterBackbone[EncodedTransformer]):
    """Base class of backbones on a diffusers pipeline: networks and drawing. `name` is ours,
    `transformer` the library's class.

    defaults: steps, guidance and drawing as the library has them. other_text: tokens of text beside
    Config.text_tokens. projections: of
    the layer whose cost is told (metrics/attention_cost.py).
    """

    tile = 1
    packages = ("diffusers", "transformers", "peft")
    has_lora = True
    name: ClassVar[str]
    transformer_class_name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]] = LORA_TARGETS
    default_fields: ClassVar[CheckpointFields]
    patch_size: ClassVar[int]
    extra_text_tokens: ClassVar[int] = 0
    counted_projections: ClassVar[int] = attention_cost.ALL_PROJECTIONS
    generator_class: ClassVar[type[PipelineImageGenerator]] = PipelineImageGenerator
    config_class: ClassVar[type[DiffusersConfig]] = DiffusersConfig

    def parse_config(self, options: Mapping[str, Option]) -> DiffusersConfig:
        """A checked Config; OptionError names the field."""
        try:
            return self.config_class.model_validate(dict(options))
        except ValidationError as error:
            raise OptionError(
                f"{self.name} config {validation_summary(error)}; its fields:"
                f" {', '.join(self.config_class.model_fields)}"
            ) from error

    def install_processors(self, network: EncodedTransformer) -> None:
        """Puts our processors into the transformer."""
        raise MissingMemberError(self, "install")

    def fold_matrices(self, network: EncodedTransformer) -> None:
        """Moves the learned matrix into weights, as far as that is exact."""
        raise MissingMemberError(self, "prepare")

    def random_inputs(
        self, network: EncodedTransformer, side: int, text: int, batch: int
    ) -> dict[str, Tensor]:
        """Random inputs of one denoising step: side x side image tokens and so many of text, on the
        network's device.
        """
        raise MissingMemberError(self, "inputs")

    def trial_inputs(self, network: EncodedTransformer) -> dict[str, Tensor]:
        """Random inputs of a small forward: 4 x 4 image tokens and 8 of text."""
        return self.random_inputs(network, 4, 8, 1)

    def profiling_inputs(
        self, network: EncodedTransformer, resolution: int, batch: int
    ) -> ProfilingInputs:
        """One denoising step of the transformer at that side in pixels, with random inputs; text
        and image tokens are counted.
        """
        assert network.sequence_spec is not None
        side = resolution // network.sequence_spec.pixels_per_token
        text = network.sequence_spec.text_tokens
        shape = self.shape(network.transformer.config)
        layer = attention_cost.AttentionSizes(shape.width, shape.heads, self.counted_projections)
        return ProfilingInputs(
            self.random_inputs(network, side, text, batch), layer, side**2 + text
        )

    def merge_lora(self, network: EncodedTransformer) -> None:
        """Adds LoRA into the base weights, as anyone does who draws more than once; nothing where
        there is none.
        """
        lora.merge_lora(network)

    def attach_encoding(
        self,
        transformer: Transformer,
        encoding: str,
        options: Mapping[str, Option],
        tokens: str = "all",
    ) -> EncodedTransformer:
        """The transformer with a fresh encoding between its norms and its scores; errors name the
        option.
        """
        built = encodings.build_encoding(
            encodings.load_encoding(encoding), self.shape(transformer.config), options
        )
        network = EncodedTransformer(transformer, built, tokens)
        self.install_processors(network)
        return network

    @property
    def pipeline_class(self) -> PipelineClass:
        """The library's class of the pipeline."""
        return getattr(
            import_diffusers(), self.pipeline_class_name
        )  # the library has no types, and each backbone names a class of it

    def build_transformer(self, config: LibraryConfig) -> Transformer:
        """A freshly initialised transformer of the library, of that configuration."""
        return getattr(import_diffusers(), self.transformer_class_name).from_config(
            dict(config)
        )  # as `pipe_class`

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> EncodedTransformer:
        """A freshly initialised network of the base's sizes; errors name the option or the
        field.
        """
        used = self.parse_config(config)
        registry.find_entry("encodings", encoding)
        folder = lora_manifest.find_base_folder(used.base)
        network = self.attach_encoding(
            self.build_transformer(lora_manifest.transformer_config(folder)),
            encoding,
            options,
            used.encoded_tokens,
        )
        network.sequence_spec = SequenceSpec(
            used.text_tokens + self.extra_text_tokens, self.pixels_per_token(folder)
        )
        return network

    def detect_fields(self, state: Mapping[str, Tensor]) -> DetectedFields | None:
        """The encoding of a whole network's state dict, as saved from `build`."""
        if is_transformer_file(state) and self.has_network_keys(
            add_transformer_prefix(state).keys()
        ):
            return DetectedFields(
                self.base_encoding[0], {}, dict(self.base_encoding[1])
            )  # the library knows no other encoding than the base's own
        if not self.has_network_keys(state.keys()):
            return None
        told = detect_encoding.detect_from_state_dict(state)
        if told is not None:
            return DetectedFields(told.encoding, {}, told.options)
        return DetectedFields(self.encoding_without_weights(state.keys()), {})

    def convert_keys(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weights of a whole network, or of the library's transformer alone."""
        return add_transformer_prefix(state) if is_transformer_file(state) else dict(state)

    def has_network_keys(self, keys: Collection[str]) -> bool:
        """Whether these are the keys of such a network."""
        raise MissingMemberError(self, "owns")

    def encoding_without_weights(self, keys: Collection[str]) -> str | None:
        """The encoding that leaves no parameters, where the keys tell it all the same."""
        return None

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses what the pipeline cannot draw, and settings that mean nothing to it."""
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        unit = self.pixels_per_token(folder)
        if settings.resolution % unit:
            near = max(unit, round(settings.resolution / unit) * unit)
            raise OptionError(
                f"resolution {settings.resolution} does not divide into tokens of {unit};"
                f" --resolution {near} does"
            )
        if settings.sampler != "flow":
            raise OptionError(
                f"{self.name} draws with its own flow scheduler, not {settings.sampler}; leave"
                " --sampler out"
            )
        self._check_scaling(checkpoint, folder, settings)

    def _check_scaling(self, checkpoint: Checkpoint, folder: Path, settings: Settings) -> None:
        """Raise OptionError for a position scaling that the encoding or the text's scores cannot
        take.
        """
        config = self.parse_config(checkpoint.config)
        scaling = self.position_scaling(
            config.encoded_tokens,
            lora_manifest.transformer_config(folder),
            self.pixels_per_token(folder),
            settings,
        )
        if scaling.kind != "none":
            self.build_layer_encoding(checkpoint).rescale(scaling)

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return prompts of any words."""
        return Conditioning("prompts")

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return what every generating network reads, tiles of the decoder, and `fold` where there
        are matrices.
        """
        fields = set(GENERATION_SETTINGS | {"vae_tiling"})
        reasons = dict.fromkeys(
            ("vae", "guidance_channels"), f"the base of {self.name} has its own autoencoder"
        )
        reasons["mu_policy"] = f"the time shift of {self.name} is fixed"
        reasons["spacing"] = f"{self.name} generates with its base's own scheduler"
        if self.has_foldable_matrix(checkpoint):
            return SupportedSettings(frozenset({*fields, "fold"}), reasons)
        return SupportedSettings(
            frozenset(fields), {**reasons, "fold": folding.no_matrix_reason(checkpoint.encoding)}
        )

    def published_defaults(
        self, config: Mapping[str, Option], stated: CheckpointFields
    ) -> CheckpointFields:
        """Return the fields of Checkpoint that this base is published with.

        Args:
            stated: Fields of Checkpoint that the user states.

        Raises:
            OptionError: The base is distilled by its name, and nobody states its steps and
                guidance.
        """
        base = str(self.parse_config(config).base)
        mark = DISTILLED_NAMES.search(lora_manifest.base_name(base))
        if mark and not {"steps", "guidance"} <= stated.keys():
            raise OptionError(
                f"base {base} is distilled by its name ({mark[0]}), and its files do not tell its"
                " steps and guidance; add --steps and --guidance as its authors publish them"
            )
        return {"sampler": "flow", **self.default_fields}

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return what the base's scheduler takes the prediction for, its text, and its side at
        training.
        """
        config = self.parse_config(checkpoint.config)
        folder = lora_manifest.find_base_folder(config.base)
        side = self.training_side(lora_manifest.transformer_config(folder)) * self.pixels_per_token(
            folder
        )
        return NetworkDescription("velocity", f"prompts of up to {config.text_tokens} tokens", side)

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """The settings with `fold`, which is on where there is a matrix and nothing else is
        said.
        """
        if settings.fold is None and self.has_foldable_matrix(checkpoint):
            return settings.model_copy(update={"fold": True})
        return settings

    def has_foldable_matrix(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint's encoding has matrices before the rotation; told without its
        weights.
        """
        with torch.inference_mode():
            return self.build_layer_encoding(checkpoint).matrices(0) is not None

    def build_layer_encoding(self, checkpoint: Checkpoint) -> encodings.Encoding:
        """Return a fresh encoding of one layer of the checkpoint's base."""
        shape = self.shape(
            lora_manifest.transformer_config(
                lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
            )
        )
        with torch.random.fork_rng(devices=[]):
            return encodings.build_encoding(
                encodings.load_encoding(checkpoint.encoding),
                replace(shape, layers=1),
                checkpoint.options,
            )

    def pixels_per_token(self, folder: Path) -> int:
        """Pixels of a token's side."""
        return int(
            self.patch_size
            * 2 ** (len(lora_manifest.component_config(folder, "vae")["block_out_channels"]) - 1)
        )

    def open(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings
    ) -> PipelineImageGenerator:
        """A pipeline of the base whose transformer and encoding have these weights."""
        config = self.parse_config(checkpoint.config)
        network = self.load(checkpoint, state)
        with torch.random.fork_rng(devices=[]):
            nn.Module.to(
                network.transformer, DTYPES[settings.dtype]
            )  # the library's own warns of modules that it does not have
            pipe = self.load_pipeline(
                lora_manifest.find_base_folder(config.base),
                settings,
                transformer=network.transformer,
            )
        return self.prepare_pipeline(pipe, network, config, settings)

    def check_pipeline_folder(self, folder: Path) -> None:
        """WeightsError unless the folder is a pipeline of this kind with nothing foreign in it."""
        if (found := lora_manifest.pipeline_class_name(folder)) != self.pipeline_class_name:
            raise WeightsError(
                f"{folder} holds a {found}, {self.name} needs a {self.pipeline_class_name}",
                advice="--config base=FOLDER names another",
            )

    def load_pipeline(self, folder: Path, settings: Settings, **parts: nn.Module) -> Pipeline:
        """The pipeline of that folder in the asked dtype, from safetensors alone."""
        self.check_pipeline_folder(folder)
        try:
            pipe = self.pipeline_class.from_pretrained(
                folder,
                dtype=DTYPES[settings.dtype],
                local_files_only=True,
                use_safetensors=True,
                **parts,
            )
        except (OSError, ValueError, KeyError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"{folder} does not load as a {self.pipeline_class_name}: {line}",
                advice="copy the base again",
            ) from error
        if pipe.scheduler.config.get("stochastic_sampling"):
            raise WeightsError(
                f"the scheduler of {folder} adds noise of the global generator",
                advice="set stochastic_sampling to false in it",
            )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def prepare_pipeline(
        self,
        pipe: Pipeline,
        network: EncodedTransformer,
        config: DiffusersConfig,
        settings: Settings,
    ) -> PipelineImageGenerator:
        """Everything on its device, scaled for the resolution, merged and folded as configured."""
        pipe.to(settings.device)
        network.to(settings.device).eval()
        network.sequence_spec = SequenceSpec(
            config.text_tokens + self.extra_text_tokens, pipe.vae_scale_factor * self.patch_size
        )
        if config.merge_lora:
            lora.merge_lora(network)
        self.rescale_positions(network, pipe, settings)
        if settings.fold:
            self.fold_matrices(network)
        if settings.vae_tiling:
            pipe.vae.enable_tiling()
        return self.generator_class(pipe, network, config)

    def rescale_positions(
        self, network: EncodedTransformer, pipe: Pipeline, settings: Settings
    ) -> None:
        """Position scaling of the two image axes; an axis before them has length 1."""
        unit = pipe.vae_scale_factor * self.patch_size
        network.encoding.rescale(
            self.position_scaling(
                network.encoded_tokens, network.transformer.config, unit, settings
            )
        )

    def position_scaling(
        self, tokens: str, config: LibraryConfig, unit: int, settings: Settings
    ) -> encodings.Scaling:
        """Return the position scaling of the two image axes; an axis before them has length 1.

        Args:
            config: The transformer's. unit: Pixels of a token's side.

        Raises:
            OptionError: A scaling that would also change text, which `tokens` leaves alone.
        """
        kind = settings.pos_scaling or "none"
        if kind == "yarn" and tokens == "image":
            raise OptionError(
                "pos_scaling yarn also scales the text's scores, which tokens=image leaves alone;"
                " use tokens=all or ntk"
            )
        before = (1,) * (self.shape(config).axes - 2)
        trained = self.training_side(config)
        sides = settings.resolution // unit
        return encodings.Scaling(kind, (*before, trained, trained), (*before, sides, sides))

    def training_side(self, config: LibraryConfig) -> int:
        """Tokens of a side at training."""
        return 64
