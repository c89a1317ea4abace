"""FLUX.1: diffusers' pipeline with any axial encoding between the q/k norm and the scores.

Text and image share one matrix per layer (paper Table 9 counts one), after the norm and before
the rotation. Layers are numbered through: first the double blocks, then the single ones.
Source: diffusers:models/transformers/transformer_flux.py, pipelines/flux/pipeline_flux.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.encodings import base as encodings
from harope_bench.metrics import attention_cost
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.adapter_pipelines import AdapterPipelineBackbone
from harope_bench.models.backbones.base import SupportedSettings
from harope_bench.models.backbones.diffusers_networks import DiffusersConfig, PipelineImageGenerator
from harope_bench.models.backbones.encoded_transformer import (
    EncodedAttnProcessor,
    EncodedTransformer,
    apply_and_check_outputs,
    apply_norm,
    fold_into_norms,
    replace_tokens,
    split_heads,
    token_positions,
)
from harope_bench.models.backbones.library_types import (
    AttentionLayer,
    Inputs,
    Pipeline,
    Transformer,
)
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.lora_manifest import LibraryConfig


class FluxProcessor(EncodedAttnProcessor):
    """Attention of a double or a single block: norm, matrix, rotation, scores."""

    def __call__(
        self,
        attn: AttentionLayer,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: object = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the tokens (B, N, width) after attention.

        Args:
            hidden_states: Image tokens of a double block, or all tokens of a single block.
            encoder_hidden_states: Text tokens of a double block.

        Returns:
            Image and text tokens of a double block, or all tokens of a single block.
        """
        q = split_heads(attn.to_q(hidden_states), attn.head_dim)  # (B, heads, N, head_dim)
        k = split_heads(attn.to_k(hidden_states), attn.head_dim)
        v = split_heads(attn.to_v(hidden_states), attn.head_dim)

        if encoder_hidden_states is None:
            q, k = self._normalise_single(attn, q, k)
            outputs = self.network.attend(q, k, v, self.layer)
            return outputs.transpose(1, 2).flatten(2).to(q.dtype)  # (B, N, width)

        # Double block: text comes first in the joint sequence.
        text_q, text_k, text_v = self.project_text(attn, encoder_hidden_states, attn.head_dim)
        q = apply_norm(q, attn.norm_q, self.folded_matrices.get("q"))
        k = apply_norm(k, attn.norm_k, self.folded_matrices.get("k"))
        q = torch.cat((text_q, q), 2)
        k = torch.cat((text_k, k), 2)
        v = torch.cat((text_v, v), 2)
        outputs = self.network.attend(q, k, v, self.layer)
        outputs = outputs.transpose(1, 2).flatten(2).to(q.dtype)  # (B, N, width)

        n_text = encoder_hidden_states.shape[1]
        image_outputs = attn.to_out[1](attn.to_out[0](outputs[:, n_text:].contiguous()))
        text_outputs = attn.to_add_out(outputs[:, :n_text].contiguous())
        return image_outputs, text_outputs

    def _normalise_single(
        self, attn: AttentionLayer, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return normalised queries and keys (B, heads, N, head_dim) of a single block.

        Text and image share one norm. If text is not encoded, the folded matrix acts on the image
        tokens alone.
        """
        if not self.folded_matrices or self.network.encoded_tokens == "all":
            q = apply_norm(q, attn.norm_q, self.folded_matrices.get("q"))
            k = apply_norm(k, attn.norm_k, self.folded_matrices.get("k"))
            return q, k

        assert self.network.token_positions is not None
        image = self.network.token_positions.image_slice
        image_q = apply_norm(q[:, :, image], attn.norm_q, self.folded_matrices["q"])
        image_k = apply_norm(k[:, :, image], attn.norm_k, self.folded_matrices["k"])
        q = replace_tokens(attn.norm_q(q), image_q, image)
        k = replace_tokens(attn.norm_k(k), image_k, image)
        return q, k


def position_hook(
    network: EncodedTransformer,
) -> Callable[[nn.Module, Inputs, dict[str, Tensor]], None]:
    """Return a forward hook that reads the tokens' positions from the transformer's inputs.

    Text comes first and has position (0, 0, 0).
    """

    def read_positions(_: nn.Module, __: Inputs, kwargs: dict[str, Tensor]) -> None:
        text_ids, image_ids = (
            ids[0] if ids.ndim == 3 else ids for ids in (kwargs["txt_ids"], kwargs["img_ids"])
        )  # (N, 3)
        n_text = len(text_ids)
        network.token_positions = token_positions(
            torch.cat((text_ids, image_ids)).cpu().float(),
            slice(n_text, n_text + len(image_ids)),
        )

    return read_positions


def has_guidance(base: Path) -> bool:
    """Return whether the transformer of a base model has a guidance embedding.

    A model without one was distilled to need no guidance.
    """
    return bool(lora_manifest.transformer_config(base).get("guidance_embeds"))


def has_shift(base: Path) -> bool:
    """Return whether the scheduler of a base model shifts its times by the size of the image."""
    return bool(lora_manifest.scheduler_config(base).get("use_dynamic_shifting"))


def clamp_time_shift(scheduler: Pipeline) -> Pipeline:
    """Return the scheduler with its largest time shift for every size of image."""
    max_shift = scheduler.config.get("max_shift", 1.15)
    return type(scheduler).from_config(scheduler.config, base_shift=max_shift, max_shift=max_shift)


class FluxImageGenerator(PipelineImageGenerator):
    """Generates images with FLUX, whose latents are packed into tokens."""

    def initial_noise(self, index: int, settings: Settings) -> Tensor:
        """Return unit latents (1, tokens, 4 * channels) of a sample."""
        noise = super().initial_noise(index, settings)
        packed_noise: Tensor = self.pipe._pack_latents(noise, *noise.shape)
        return packed_noise


class FluxBackbone(AdapterPipelineBackbone):
    """FLUX.1-dev and models of the same classes."""

    name = "flux"
    pipeline_class_name = "FluxPipeline"
    transformer_class_name = "FluxTransformer2DModel"
    patch_size = 2
    base_encoding = ("rope-axial", {})
    default_fields = {
        "steps": 28,
        "guidance": 3.5,
        "drawing": {"mu_policy": "extrapolate", "vae_tiling": True, "dtype": "bfloat16"},
    }
    # Defaults of a model without guidance embedding, as FLUX.1-schnell is published.
    distilled_defaults: ClassVar[CheckpointFields] = {
        "steps": 4,
        "config": {"text_tokens": 256},
        "drawing": {"vae_tiling": True, "dtype": "bfloat16"},
    }
    generator_class = FluxImageGenerator
    counted_projections = attention_cost.QKV_PROJECTIONS

    def published_defaults(
        self, config: Mapping[str, Option], user_fields: CheckpointFields
    ) -> CheckpointFields:
        """Return dev's defaults for a base model with guidance embedding, else schnell's."""
        folder = lora_manifest.find_base_folder(self.parse_config(config).base)
        if has_guidance(folder):
            defaults = super().published_defaults(config, user_fields)
        else:
            defaults = {"sampler": "flow", **self.distilled_defaults}

        if not has_shift(folder):
            drawing = defaults["drawing"]
            defaults["drawing"] = {
                key: value for key, value in drawing.items() if key != "mu_policy"
            }
        return defaults

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the settings of every pipeline, and guidance and time shift if they apply."""
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        pipeline_settings = super().supported_settings(checkpoint)
        reasons: dict[str, str] = {}
        if not has_guidance(folder):
            reasons["guidance"] = (
                "its base model has no guidance embedding (FLUX.1-schnell and similar models)"
            )
        if not has_shift(folder):
            reasons["mu_policy"] = (
                "the scheduler of its base model does not shift times by the size of the image"
            )
        fields = (pipeline_settings.setting_names | {"mu_policy"}) - reasons.keys()
        return SupportedSettings(fields, {**pipeline_settings.reasons, **reasons})

    def shape(self, config: LibraryConfig) -> encodings.ModelShape:
        """Return three axes: one on which all tokens have position 0, then rows and columns."""
        heads = config["num_attention_heads"]
        head_dim = config["attention_head_dim"]
        layers = config["num_layers"] + config["num_single_layers"]
        axes = tuple(config["axes_dims_rope"])
        return encodings.ModelShape(
            heads * head_dim, heads, head_dim, layers, len(axes), axes, static_axes=len(axes) - 2
        )

    def attach_encoding(
        self,
        transformer: Transformer,
        encoding: str,
        options: Mapping[str, Option],
        encoded_tokens: str = "all",
    ) -> EncodedTransformer:
        """Return the transformer with a fresh encoding; OptionError for one without axes."""
        network = super().attach_encoding(transformer, encoding, options, encoded_tokens)
        if not isinstance(network.encoding.options, encodings.RotaryOptions):
            axes = ", ".join(map(str, transformer.config["axes_dims_rope"]))
            raise OptionError(
                f"flux rotates axes of {axes} channels, {encoding} has no such axes; choose"
                " rope-axial or an encoding derived from it"
            )
        return network

    def install_processors(self, network: EncodedTransformer) -> None:
        """Install one processor per layer, and the hook that reads token positions."""
        names = network.transformer.attn_processors
        network.transformer.set_attn_processor(
            {name: FluxProcessor(network, layer) for layer, name in enumerate(names)}
        )
        network.transformer.register_forward_pre_hook(position_hook(network), with_kwargs=True)

    def prepare_pipeline(
        self,
        pipe: Pipeline,
        network: EncodedTransformer,
        config: DiffusersConfig,
        settings: Settings,
    ) -> PipelineImageGenerator:
        """Return a generator of the pipeline.

        With `mu_policy` "clamp" the time shift does not grow beyond the largest training size.
        """
        side = settings.resolution // (2 * pipe.vae_scale_factor)
        if settings.mu_policy == "clamp" and side**2 > pipe.scheduler.config.get(
            "max_image_seq_len", 4096
        ):
            pipe.scheduler = clamp_time_shift(pipe.scheduler)
        return super().prepare_pipeline(pipe, network, config, settings)

    def fold_matrices(self, network: EncodedTransformer) -> None:
        """Fold each matrix into the norm before it, and check that the outputs are the same.

        The norm is nonlinear, so the matrix cannot be folded into the projection before the norm.
        The diagonal norm weights g and the matrix A become one matrix A diag(g).

        Raises:
            WeightsError: The output of a small forward pass differs by more than rounding.
        """
        if network.encoding.matrices(0) is None:  # then no layer has a matrix
            return
        apply_and_check_outputs(
            network,
            lambda: fold_into_norms(network),
            lambda: self.trial_inputs(network),
            network.encoding.registered_name(),
        )

    def random_inputs(
        self, network: EncodedTransformer, side: int, text: int, batch: int
    ) -> dict[str, Tensor]:
        """Return random inputs of one step with side x side image tokens, on the network's device.

        For a network on the meta device the token ids stay on the CPU, because positions are read
        from them.
        """
        config = network.transformer.config
        weight = next(network.parameters())
        with torch.device("cpu"):
            rng = torch.Generator().manual_seed(0)
            axis = torch.arange(float(side))
            rows_and_columns = torch.cartesian_prod(axis, axis)  # (side**2, 2)
            token_ids = {
                "img_ids": torch.cat((torch.zeros(side**2, 1), rows_and_columns), 1),
                "txt_ids": torch.zeros(text, 3),
            }
            image_shape = (batch, side**2, config["in_channels"])
            text_shape = (batch, text, config["joint_attention_dim"])
            pooled_shape = (batch, config["pooled_projection_dim"])
            inputs: dict[str, Tensor] = {
                "hidden_states": torch.randn(image_shape, generator=rng),
                "encoder_hidden_states": torch.randn(text_shape, generator=rng),
                "pooled_projections": torch.randn(pooled_shape, generator=rng),
                "timestep": torch.full((batch,), 0.5),
            }
            if config["guidance_embeds"]:
                inputs["guidance"] = torch.full((batch,), 3.5)

        inputs = {key: value.to(weight) for key, value in inputs.items()}
        if not weight.is_meta:
            token_ids = {key: value.to(weight) for key, value in token_ids.items()}
        return {**inputs, **token_ids}

    def has_network_keys(self, keys: Collection[str]) -> bool:
        """Return whether there are single blocks, which FLUX alone has."""
        return any(key.startswith("transformer.single_transformer_blocks.") for key in keys)


PLUGIN = FluxBackbone()
