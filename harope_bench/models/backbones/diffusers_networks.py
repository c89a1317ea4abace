"""Networks of diffusers with our encodings: what FLUX and SD3 share.

The whole pipeline is read from a local folder; nothing is downloaded. Images are generated one
by one, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
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
from harope_bench.core.progress import report_step
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
    GeneratedBatch,
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

# Layers that carry LoRA: the projections of an attention. The paper does not state its layers.
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


# Names of distilled base models, which need few steps. They have the sizes of the model that they
# were distilled from.
DISTILLED_NAMES = re.compile(
    r"turbo|schnell|lightning|distill|hyper-?sd|\blcm\b|\btcd\b", re.IGNORECASE
)


class DiffusersConfig(BaseModel):
    """How a base model is used.

    Attributes:
        base: Folder or hub id of the whole pipeline.
        encoded_tokens: Tokens that the encoding acts on; "image" leaves text tokens unrotated.
        text_tokens: Number of tokens to which a prompt is padded or cut.
        merge_lora: Whether LoRA is merged into the base weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    encoded_tokens: Literal["all", "image"] = "all"
    text_tokens: int = Field(default=512, gt=0, le=512)
    merge_lora: bool = False


def import_diffusers() -> DiffusersModule:
    """Import diffusers now, and turn its progress bars off.

    Raises:
        MissingExtraError: diffusers, transformers or peft is not installed.
    """
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


def is_transformer_file(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether the keys have no prefix, as in the library's own transformer files.

    Whole networks of this package have the prefixes "transformer." and "encoding.".
    """
    return bool(state_dict) and not any(
        key.startswith(("transformer.", "encoding.")) for key in state_dict
    )


def add_transformer_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the library's transformer weights under the names that they have in a whole
    network.
    """
    return {f"transformer.{key}": value for key, value in state_dict.items()}


class LastCall:
    """A function that keeps its last result, for calls with equal arguments.

    The copies of a prompt follow each other, so its text embeddings are computed once. A call with
    a tensor is not kept.
    """

    def __init__(self, function: Callable[..., object]):
        self.function = function
        self.arguments: object = None
        self.result: object = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Return the function's result."""
        arguments = (args, kwargs)
        if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
            return self.function(*args, **kwargs)
        if self.arguments != arguments:
            self.result = self.function(*args, **kwargs)
            self.arguments = arguments
        return self.result


class PipelineImageGenerator(ImageGenerator):
    """Generates images with the pipeline's own scheduler, from noise of our generators."""

    network: EncodedTransformer

    def __init__(self, pipe: Pipeline, network: EncodedTransformer, config: DiffusersConfig):
        self.pipe = pipe
        self.network = network
        self.config = config
        pipe.encode_prompt = LastCall(pipe.encode_prompt)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Generate the images one by one; an image with a value that is not finite has failed."""
        images = []
        failures = {}
        for row, request in enumerate(requests):
            if request.prompt is None:
                raise OptionError(
                    f"a text-to-image pipeline needs prompts, request {request.index} has none;"
                    " choose another suite"
                )
            image = self.generate_image(request, settings).float()  # (3, H, W) in [0, 1]
            if not image.isfinite().all():
                failures[row] = "the network's output is not finite"
            levels = (255 * image.nan_to_num()).round().to("cpu", torch.uint8)
            images.append(levels.permute(1, 2, 0).numpy())  # (H, W, 3)
        return GeneratedBatch(np.stack(images), failures)

    def generate_image(self, request: Request, settings: Settings) -> Tensor:
        """Return one image (3, H, W) in [0, 1]."""
        guidance = {} if settings.guidance is None else {"guidance_scale": settings.guidance}
        image: torch.Tensor = self.pipe(
            prompt=request.prompt,
            height=settings.resolution,
            width=settings.resolution,
            num_inference_steps=settings.steps,
            latents=self.initial_noise(request.index, settings),
            max_sequence_length=self.config.text_tokens,
            output_type="pt",
            callback_on_step_end=_step_callback(settings.steps or 1),
            **guidance,
        ).images[0]
        return image

    def initial_noise(self, index: int, settings: Settings) -> Tensor:
        """Return unit latents (1, channels, rows, columns) of a sample, float32 on the CPU."""
        side = settings.resolution // self.pipe.vae_scale_factor
        return unit_noise(
            (self.pipe.vae.config.latent_channels, side, side),
            [index_generator(settings.seed, index)],
        )


TensorDict = dict[str, object]


def _step_callback(steps: int) -> Callable[[object, int, object, TensorDict], TensorDict]:
    """Return the callback that reports a pipeline's finished steps and returns its tensors."""

    def report(pipe: object, step: int, timestep: object, tensors: TensorDict) -> TensorDict:
        report_step(step + 1, steps)
        return tensors

    return report


class DiffusersBackbone(AdapterBackbone[EncodedTransformer]):
    """Base class of backbones on a diffusers pipeline: networks and image generation.

    Attributes:
        name: Name of the backbone.
        transformer_class_name: Name of the library's transformer class.
        targets: Names of the layers that carry LoRA.
        default_fields: Steps, guidance and settings that the library publishes.
        patch_size: Side of an image token in latents.
        extra_text_tokens: Text tokens beside `DiffusersConfig.text_tokens`.
        counted_projections: Projections of the layer whose cost is counted
            (metrics/attention_cost.py).
        generator_class: Class of the generator that `open` returns.
        config_class: Class of the configuration.
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
        """Return the validated configuration; OptionError names the wrong field."""
        try:
            return self.config_class.model_validate(dict(options))
        except ValidationError as error:
            raise OptionError(
                f"{self.name} config {validation_summary(error)}; its fields:"
                f" {', '.join(self.config_class.model_fields)}"
            ) from error

    def install_processors(self, network: EncodedTransformer) -> None:
        """Replace the transformer's attention processors by ours."""
        raise MissingMemberError(self, "install_processors")

    def fold_matrices(self, network: EncodedTransformer) -> None:
        """Fold the learned matrices into weights as far as the outputs stay the same."""
        raise MissingMemberError(self, "fold_matrices")

    def random_inputs(
        self, network: EncodedTransformer, side: int, text: int, batch: int
    ) -> dict[str, Tensor]:
        """Return random inputs of one denoising step, on the network's device.

        Args:
            side: Image tokens along a side.
            text: Number of text tokens.
            batch: Number of samples.
        """
        raise MissingMemberError(self, "random_inputs")

    def trial_inputs(self, network: EncodedTransformer) -> dict[str, Tensor]:
        """Return random inputs of a small forward pass: 4 x 4 image tokens and 8 text tokens."""
        return self.random_inputs(network, 4, 8, 1)

    def profiling_inputs(
        self, network: EncodedTransformer, resolution: int, batch: int
    ) -> ProfilingInputs:
        """Return random inputs of one denoising step; text and image tokens are counted."""
        assert network.sequence_spec is not None
        side = resolution // network.sequence_spec.pixels_per_token
        text = network.sequence_spec.text_tokens
        shape = self.shape(network.transformer.config)
        layer = attention_cost.AttentionSizes(shape.width, shape.heads, self.counted_projections)
        return ProfilingInputs(
            self.random_inputs(network, side, text, batch), layer, side**2 + text
        )

    def merge_lora(self, network: EncodedTransformer) -> None:
        """Merge LoRA, if there is any, into the base weights."""
        lora.merge_lora(network)

    def attach_encoding(
        self,
        transformer: Transformer,
        encoding: str,
        options: Mapping[str, Option],
        encoded_tokens: str = "all",
    ) -> EncodedTransformer:
        """Return the transformer with a fresh encoding between its norms and its scores.

        Raises:
            OptionError: An option of the encoding is wrong; the message names it.
        """
        built_encoding = encodings.build_encoding(
            encodings.load_encoding(encoding), self.shape(transformer.config), options
        )
        network = EncodedTransformer(transformer, built_encoding, encoded_tokens)
        self.install_processors(network)
        return network

    @property
    def pipeline_class(self) -> PipelineClass:
        """The library's class of the pipeline."""
        # getattr: the library has no types, and each backbone names a class of it
        return getattr(import_diffusers(), self.pipeline_class_name)

    def build_transformer(self, config: LibraryConfig) -> Transformer:
        """Return a freshly initialised transformer of the library."""
        # getattr: as in `pipeline_class`
        transformer_class = getattr(import_diffusers(), self.transformer_class_name)
        return transformer_class.from_config(dict(config))

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> EncodedTransformer:
        """Return a freshly initialised network with the sizes of the base model.

        Raises:
            OptionError: An option or a field is wrong; the message names it.
        """
        parsed_config = self.parse_config(config)
        registry.find_entry("encodings", encoding)
        folder = lora_manifest.find_base_folder(parsed_config.base)
        transformer = self.build_transformer(lora_manifest.transformer_config(folder))
        network = self.attach_encoding(transformer, encoding, options, parsed_config.encoded_tokens)
        network.sequence_spec = SequenceSpec(
            parsed_config.text_tokens + self.extra_text_tokens, self.pixels_per_token(folder)
        )
        return network

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return the encoding of a network, read from its keys.

        The file is a whole network of this package, or the library's transformer alone, which has
        the encoding of the base model.
        """
        if is_transformer_file(state_dict):
            prefixed_state = add_transformer_prefix(state_dict)
            if self.has_network_keys(prefixed_state.keys()):
                encoding_name, options = self.base_encoding
                return DetectedFields(encoding_name, config={}, options=dict(options))

        if not self.has_network_keys(state_dict.keys()):
            return None
        encoding = detect_encoding.detect_from_state_dict(state_dict)
        if encoding is not None:
            return DetectedFields(encoding.encoding, config={}, options=encoding.options)
        return DetectedFields(self.encoding_without_weights(state_dict.keys()), config={})

    def convert_keys(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the weights of a whole network, or of the library's transformer, under our
        names.
        """
        if is_transformer_file(state_dict):
            return add_transformer_prefix(state_dict)
        return dict(state_dict)

    def has_network_keys(self, keys: Collection[str]) -> bool:
        """Return whether these are the keys of such a network."""
        raise MissingMemberError(self, "has_network_keys")

    def encoding_without_weights(self, keys: Collection[str]) -> str | None:
        """Return an encoding without parameters, if other keys reveal it."""
        return None

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for settings that the pipeline cannot generate images with."""
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        pixels_per_token = self.pixels_per_token(folder)
        if settings.resolution % pixels_per_token:
            nearest = round(settings.resolution / pixels_per_token) * pixels_per_token
            raise OptionError(
                f"a resolution of {settings.resolution} pixels does not divide into tokens of"
                f" {pixels_per_token} pixels; choose --resolution {max(pixels_per_token, nearest)}"
            )
        if settings.sampler != "flow":
            raise OptionError(
                f"{self.name} generates with its own flow scheduler, not {settings.sampler}; leave"
                " --sampler out"
            )
        self._check_scaling(checkpoint, folder, settings)

    def _check_scaling(self, checkpoint: Checkpoint, folder: Path, settings: Settings) -> None:
        """Raise OptionError for a position scaling that does not apply to the encoding."""
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
        """Return the conditioning: prompts of any words."""
        return Conditioning("prompts")

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the generation settings, `vae_tiling`, and `fold` if the encoding is foldable."""
        setting_names = set(GENERATION_SETTINGS | {"vae_tiling"})
        reasons = {
            "vae": f"the base model of {self.name} has its own autoencoder",
            "guidance_channels": f"{self.name} guides all latent channels",
            "mu_policy": f"the time shift of {self.name} is fixed",
            "spacing": f"{self.name} generates with the scheduler of its base model",
        }
        if self.has_foldable_matrix(checkpoint):
            setting_names.add("fold")
        else:
            reasons["fold"] = folding.no_matrix_reason(checkpoint.encoding)
        return SupportedSettings(frozenset(setting_names), reasons)

    def published_defaults(
        self, config: Mapping[str, Option], user_fields: CheckpointFields
    ) -> CheckpointFields:
        """Return the fields of Checkpoint that the base model was published with.

        Args:
            user_fields: Fields of Checkpoint that the user states.

        Raises:
            OptionError: The base model is distilled by its name, and the user does not state steps
                and guidance.
        """
        base = str(self.parse_config(config).base)
        distilled_mark = DISTILLED_NAMES.search(lora_manifest.base_name(base))
        if distilled_mark and not {"steps", "guidance"} <= user_fields.keys():
            raise OptionError(
                f"base {base} is distilled by its name ({distilled_mark[0]}), and its files do not"
                " state its steps and guidance; add --steps and --guidance as published"
            )
        return {"sampler": "flow", **self.default_fields}

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return the prediction type, the prompts and the side of the training images in pixels."""
        config = self.parse_config(checkpoint.config)
        folder = lora_manifest.find_base_folder(config.base)
        training_side = self.training_side(lora_manifest.transformer_config(folder))
        prompts = f"prompts of up to {config.text_tokens} tokens"
        return NetworkDescription(
            "velocity", prompts, training_side * self.pixels_per_token(folder)
        )

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """Return the settings with `fold`, which is on by default if there is a foldable matrix."""
        if settings.fold is None and self.has_foldable_matrix(checkpoint):
            return settings.model_copy(update={"fold": True})
        return settings

    def opening_settings(self, settings: Settings) -> Settings:
        """Return settings that are equal wherever `open` returns the same pipeline.

        Without position scaling and with a time shift that grows, one pipeline generates images of
        every size.
        """
        opening_settings = super().opening_settings(settings)
        is_scaled = settings.pos_scaling not in (None, "none")
        if is_scaled or settings.mu_policy == "clamp":
            return opening_settings
        return opening_settings.model_copy(update={"resolution": None})

    def has_foldable_matrix(self, checkpoint: Checkpoint) -> bool:
        """Return whether the encoding has matrices before the rotation; no weights are read."""
        with torch.inference_mode():
            return self.build_layer_encoding(checkpoint).matrices(0) is not None

    def build_layer_encoding(self, checkpoint: Checkpoint) -> encodings.Encoding:
        """Return a fresh encoding of one layer of the checkpoint's base model."""
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        shape = self.shape(lora_manifest.transformer_config(folder))
        with torch.random.fork_rng(devices=[]):
            return encodings.build_encoding(
                encodings.load_encoding(checkpoint.encoding),
                replace(shape, layers=1),
                checkpoint.options,
            )

    def pixels_per_token(self, folder: Path) -> int:
        """Return the side of an image token in pixels."""
        levels = len(lora_manifest.component_config(folder, "vae")["block_out_channels"])
        return int(self.patch_size * 2 ** (levels - 1))

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> PipelineImageGenerator:
        """Return a pipeline of the base model with these weights in transformer and encoding."""
        config = self.parse_config(checkpoint.config)
        network = self.load(checkpoint, state_dict)
        with torch.random.fork_rng(devices=[]):
            # The library's own `to` warns of modules that it does not have.
            nn.Module.to(network.transformer, DTYPES[settings.dtype])
            pipe = self.load_pipeline(
                lora_manifest.find_base_folder(config.base),
                settings,
                transformer=network.transformer,
            )
        return self.prepare_pipeline(pipe, network, config, settings)

    def check_pipeline_folder(self, folder: Path) -> None:
        """Raise WeightsError unless the folder contains a pipeline of this class."""
        class_name = lora_manifest.pipeline_class_name(folder)
        if class_name != self.pipeline_class_name:
            raise WeightsError(
                f"{folder} contains a {class_name}, {self.name} needs a {self.pipeline_class_name}",
                advice="give another folder by --config base=FOLDER",
            )

    def load_pipeline(self, folder: Path, settings: Settings, **components: nn.Module) -> Pipeline:
        """Return the pipeline of a folder in the settings' dtype, from safetensors alone.

        Args:
            components: Parts of the pipeline that are not read from the folder.

        Raises:
            WeightsError: The pipeline does not load, or its scheduler adds noise that our
                generators do not control.
        """
        self.check_pipeline_folder(folder)
        try:
            pipe = self.pipeline_class.from_pretrained(
                folder,
                dtype=DTYPES[settings.dtype],
                local_files_only=True,
                use_safetensors=True,
                **components,
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
                advice="set stochastic_sampling to false in its configuration",
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
        """Return a generator: pipeline and network on their device, scaled, merged and folded."""
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
        """Apply the position scaling of the settings to the network's encoding."""
        scaling = self.position_scaling(
            network.encoded_tokens,
            network.transformer.config,
            pipe.vae_scale_factor * self.patch_size,
            settings,
        )
        network.encoding.rescale(scaling)

    def position_scaling(
        self,
        encoded_tokens: str,
        config: LibraryConfig,
        pixels_per_token: int,
        settings: Settings,
    ) -> encodings.Scaling:
        """Return the position scaling of the two image axes; an axis before them has length 1.

        Args:
            encoded_tokens: "all" or "image".
            config: Configuration of the transformer.
            pixels_per_token: Side of an image token in pixels.

        Raises:
            OptionError: The scaling would also change the scores of text, which is not encoded.
        """
        kind = settings.pos_scaling or "none"
        if kind == "yarn" and encoded_tokens == "image":
            raise OptionError(
                "pos_scaling yarn also scales the scores of text, which encoded_tokens=image leaves"
                " unchanged; use encoded_tokens=all or ntk"
            )
        static_axes = (1,) * (self.shape(config).axes - 2)
        training_side = self.training_side(config)
        side = settings.resolution // pixels_per_token
        return encodings.Scaling(
            kind, (*static_axes, training_side, training_side), (*static_axes, side, side)
        )

    def training_side(self, config: LibraryConfig) -> int:
        """Return the image tokens along a side at training."""
        return 64
