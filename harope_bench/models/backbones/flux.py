"""FLUX.1: diffusers' pipeline with any axial encoding between the q/k norm and the scores.

One matrix a layer for text and image (paper Table 9 counts one), after the norm and before the
rotation. Layers are numbered
through: the double blocks first, then the single ones. Source:
diffusers:models/transformers/transformer_flux.py,
pipelines/flux/pipeline_flux.py.
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
    apply_checked_change,
    apply_norm,
    fold_norms,
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
        """Image tokens, and text tokens (B, N, width) where the block keeps them apart, after
        attention.
        """
        q, k, v = (
            split_heads(to(hidden_states), attn.head_dim)
            for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        text = 0
        if encoder_hidden_states is None:
            q, k = self._normalise_single(attn, q, k)
        else:
            text = encoder_hidden_states.shape[1]
            q_text, k_text, v_text = self.project_text(attn, encoder_hidden_states, attn.head_dim)
            q = apply_norm(q, attn.norm_q, self.folded_matrices.get("q"))
            k = apply_norm(k, attn.norm_k, self.folded_matrices.get("k"))
            q = torch.cat((q_text, q), 2)
            k = torch.cat((k_text, k), 2)
            v = torch.cat((v_text, v), 2)
        found = (
            self.network.attend(q, k, v, self.layer).transpose(1, 2).flatten(2).to(q.dtype)
        )  # (B, N, width)
        if encoder_hidden_states is None:
            return found
        return attn.to_out[1](attn.to_out[0](found[:, text:].contiguous())), attn.to_add_out(
            found[:, :text].contiguous()
        )

    def _normalise_single(
        self, attn: AttentionLayer, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Text and image together under one norm; only the part that is acted on has the folded
        matrix.
        """
        if not self.folded_matrices or self.network.encoded_tokens == "all":
            return apply_norm(q, attn.norm_q, self.folded_matrices.get("q")), apply_norm(
                k, attn.norm_k, self.folded_matrices.get("k")
            )
        assert self.network.token_positions is not None
        part = self.network.token_positions.image_slice
        on_q = apply_norm(q[:, :, part], attn.norm_q, self.folded_matrices["q"])
        on_k = apply_norm(k[:, :, part], attn.norm_k, self.folded_matrices["k"])
        return replace_tokens(attn.norm_q(q), on_q, part), replace_tokens(
            attn.norm_k(k), on_k, part
        )


def position_hook(
    network: EncodedTransformer,
) -> Callable[[nn.Module, Inputs, dict[str, Tensor]], None]:
    """A hook that reads the tokens' ids off a forward of the transformer: text first, at the
    origin.
    """

    def see(_: nn.Module, __: Inputs, named: dict[str, Tensor]) -> None:
        text, image = (
            ids[0] if ids.ndim == 3 else ids for ids in (named["txt_ids"], named["img_ids"])
        )
        network.token_positions = token_positions(
            torch.cat((text, image)).cpu().float(), slice(len(text), len(text) + len(image))
        )

    return see


def has_guidance(base: Path) -> bool:
    """Return whether the transformer of a base is told a guidance scale; a base without was
    distilled to need none.
    """
    return bool(lora_manifest.transformer_config(base).get("guidance_embeds"))


def has_shift(base: Path) -> bool:
    """Return whether the scheduler of a base shifts its times by the size of the image."""
    return bool(lora_manifest.scheduler_config(base).get("use_dynamic_shifting"))


def clamp_time_shift(scheduler: Pipeline) -> Pipeline:
    """The scheduler with one time shift for every size, its largest."""
    shift = scheduler.config.get("max_shift", 1.15)
    return type(scheduler).from_config(scheduler.config, base_shift=shift, max_shift=shift)


class FluxImageGenerator(PipelineImageGenerator):
    """Noise is packed as the pipeline packs its own."""

    def initial_noise(self, index: int, settings: Settings) -> Tensor:
        """Unit latents (1, tokens, 4 * channels) of an index."""
        noise = super().initial_noise(index, settings)
        packed: Tensor = self.pipe._pack_latents(noise, *noise.shape)
        return packed


class FluxBackbone(AdapterPipelineBackbone):
    """FLUX.1-dev and whatever has its classes."""

    name = "flux"
    pipeline_class_name = "FluxPipeline"
    transformer_class_name = "FluxTransformer2DModel"
    patch_size = 2
    base_encoding = ("rope-axial", {})
    default_fields = {
        "steps": 28,
        "guidance": 3.5,
        "drawing": {"mu_policy": "extrapolate", "vae_tiling": True},
    }
    distilled_defaults: ClassVar[CheckpointFields] = {
        "steps": 4,
        "config": {"text_tokens": 256},
        "drawing": {"vae_tiling": True},
    }  # as FLUX.1-schnell is published
    generator_class = FluxImageGenerator
    counted_projections = attention_cost.QKV_PROJECTIONS

    def published_defaults(
        self, config: Mapping[str, Option], stated: CheckpointFields
    ) -> CheckpointFields:
        """Return schnell's settings for a base without guidance embedding, dev's for one with
        it.
        """
        folder = lora_manifest.find_base_folder(self.parse_config(config).base)
        usual = (
            super().published_defaults(config, stated)
            if has_guidance(folder)
            else {"sampler": "flow", **self.distilled_defaults}
        )
        if not has_shift(folder):
            usual["drawing"] = {
                key: value for key, value in usual["drawing"].items() if key != "mu_policy"
            }
        return usual

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return those of every pipeline, without guidance or time shift where the base has
        none.
        """
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        read = super().supported_settings(checkpoint)
        absent: dict[str, str] = {}
        if not has_guidance(folder):
            absent["guidance"] = "its base has no guidance embedding (FLUX.1-schnell and its kin)"
        if not has_shift(folder):
            absent["mu_policy"] = (
                "the scheduler of its base does not shift times by the size of the image"
            )
        return SupportedSettings(
            (read.fields | {"mu_policy"}) - absent.keys(), {**read.reasons, **absent}
        )

    def shape(self, config: LibraryConfig) -> encodings.ModelShape:
        """Three axes: one that no image moves along, rows, columns."""
        heads = config["num_attention_heads"]
        size = config["attention_head_dim"]
        layers = config["num_layers"] + config["num_single_layers"]
        axes = tuple(config["axes_dims_rope"])
        return encodings.ModelShape(
            heads * size, heads, size, layers, len(axes), axes, static_axes=len(axes) - 2
        )

    def attach_encoding(
        self,
        transformer: Transformer,
        encoding: str,
        options: Mapping[str, Option],
        tokens: str = "all",
    ) -> EncodedTransformer:
        """The transformer with a fresh encoding; OptionError for one that is not made of axes."""
        network = super().attach_encoding(transformer, encoding, options, tokens)
        if not isinstance(network.encoding.options, encodings.RotaryOptions):
            axes = ", ".join(map(str, transformer.config["axes_dims_rope"]))
            raise OptionError(
                f"flux turns axes of {axes} channels, {encoding} knows no such axes; choose"
                " rope-axial or one built on it"
            )
        return network

    def install_processors(self, network: EncodedTransformer) -> None:
        """One processor a layer, and the hook that tells them where tokens are."""
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
        """As every pipeline; `mu_policy` clamp holds the time shift at that of the largest training
        size.
        """
        side = settings.resolution // (2 * pipe.vae_scale_factor)
        if settings.mu_policy == "clamp" and side**2 > pipe.scheduler.config.get(
            "max_image_seq_len", 4096
        ):
            pipe.scheduler = clamp_time_shift(pipe.scheduler)
        return super().prepare_pipeline(pipe, network, config, settings)

    def fold_matrices(self, network: EncodedTransformer) -> None:
        """Multiplies each matrix into the weights of the norm before it; a norm keeps it from going
        further.
        """
        if network.encoding.matrices(0) is None:
            return
        apply_checked_change(
            network,
            lambda: fold_norms(network),
            lambda: self.trial_inputs(network),
            network.encoding.registered_name(),
        )

    def random_inputs(
        self, network: EncodedTransformer, side: int, text: int, batch: int
    ) -> dict[str, Tensor]:
        """Random inputs; ids stay on the CPU for a network on the meta device, since positions are
        read off them.
        """
        config = network.transformer.config
        like = next(network.parameters())
        with torch.device("cpu"):
            rng = torch.Generator().manual_seed(0)
            grid = torch.arange(float(side))
            ids = {
                "img_ids": torch.cat(
                    (torch.zeros(side**2, 1), torch.cartesian_prod(grid, grid)), 1
                ),
                "txt_ids": torch.zeros(text, 3),
            }
            wanted: dict[str, Tensor] = {
                "hidden_states": torch.randn(batch, side**2, config["in_channels"], generator=rng),
                "encoder_hidden_states": torch.randn(
                    batch, text, config["joint_attention_dim"], generator=rng
                ),
                "pooled_projections": torch.randn(
                    batch, config["pooled_projection_dim"], generator=rng
                ),
                "timestep": torch.full((batch,), 0.5),
                **({"guidance": torch.full((batch,), 3.5)} if config["guidance_embeds"] else {}),
            }
        placed = ids if like.is_meta else {key: value.to(like) for key, value in ids.items()}
        return {**{key: value.to(like) for key, value in wanted.items()}, **placed}

    def has_network_keys(self, keys: Collection[str]) -> bool:
        """Single blocks are FLUX's alone."""
        return any(key.startswith("transformer.single_transformer_blocks.") for key in keys)


PLUGIN = FluxBackbone()
