"""Stable Diffusion 3: diffusers' pipeline with its own table, or with a rotary encoding in the
table's place.

The paper gives no detail of its SD3 runs. What is done here: the table is dropped, image tokens
turn by row and column, text stands at
the origin, the matrix acts on all tokens. Source: diffusers:models/transformers/transformer_sd3.py,
models/attention_processor.py
(JointAttnProcessor2_0), models/embeddings.py (PatchEmbed).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.encodings import base as encodings
from harope_bench.encodings.ape import Ape
from harope_bench.models import lora_manifest
from harope_bench.models.backbones import folding, lora
from harope_bench.models.backbones.adapter_pipelines import AdapterPipelineBackbone
from harope_bench.models.backbones.diffusers_networks import DiffusersConfig
from harope_bench.models.backbones.encoded_transformer import (
    EncodedAttnProcessor,
    EncodedTransformer,
    apply_checked_change,
    apply_norm,
    attention_modules,
    fold_norms,
    split_heads,
    token_positions,
)
from harope_bench.models.backbones.library_types import AttentionLayer, Inputs, Transformer
from harope_bench.models.lora_manifest import LibraryConfig

TABLE_KEY = "transformer.pos_embed.pos_embed"


class Sd3Processor(EncodedAttnProcessor):
    """Joint attention, image first, then text; or attention of the image alone (SD3.5's second
    one).
    """

    def __call__(
        self,
        attn: AttentionLayer,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *_: Inputs,
        **__: Inputs,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Image tokens, and text tokens (B, N, width) where they are given, after attention."""
        size = attn.inner_dim // attn.heads
        image = hidden_states.shape[1]
        q, k, v = (split_heads(to(hidden_states), size) for to in (attn.to_q, attn.to_k, attn.to_v))
        q = apply_norm(q, attn.norm_q, self.folded_matrices.get("q"))
        k = apply_norm(k, attn.norm_k, self.folded_matrices.get("k"))
        if encoder_hidden_states is not None:
            q_text, k_text, v_text = self.project_text(attn, encoder_hidden_states, size)
            q = torch.cat((q, q_text), 2)
            k = torch.cat((k, k_text), 2)
            v = torch.cat((v, v_text), 2)
        found = (
            self.network.attend(q, k, v, self.layer).transpose(1, 2).flatten(2).to(q.dtype)
        )  # (B, N, width)
        out: Tensor = attn.to_out[1](attn.to_out[0](found[:, :image]))
        if encoder_hidden_states is None:
            return out
        text = found[:, image:]
        return out, text if attn.context_pre_only else attn.to_add_out(text)


def locate(network: EncodedTransformer) -> Callable[[nn.Module, Inputs, dict[str, Tensor]], None]:
    """A hook that knows from a forward's inputs where tokens are: the image's grid, then text at
    the origin.
    """

    def see(transformer: Transformer, given: Inputs, named: dict[str, Tensor]) -> None:
        latents = named["hidden_states"] if "hidden_states" in named else given[0]
        text = named["encoder_hidden_states"] if "encoder_hidden_states" in named else given[1]
        rows, columns = (side // transformer.config["patch_size"] for side in latents.shape[-2:])
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        network.token_positions = token_positions(
            torch.cat((grid, torch.zeros(text.shape[1], 2))), slice(0, len(grid))
        )

    return see


class Sd3Config(DiffusersConfig):
    """Those of every pipeline; text of 256 T5 tokens beside CLIP's 77."""

    text_tokens: int = Field(default=256, gt=0, le=512)


class Sd3Backbone(AdapterPipelineBackbone):
    """SD3-medium; SD3.5 draws too, its matrices are kept beside the norm and not folded further."""

    name = "sd3"
    pipeline_class_name = "StableDiffusion3Pipeline"
    transformer_class_name = "SD3Transformer2DModel"
    patch_size = 2
    base_encoding = ("ape", {"form": "sd3"})
    default_fields = {"steps": 28, "guidance": 7.0, "drawing": {"vae_tiling": True}}
    config_class = Sd3Config
    extra_text_tokens = 77  # CLIP's

    def shape(self, config: LibraryConfig) -> encodings.ModelShape:
        """Rows and columns, half of a head each."""
        heads = config["num_attention_heads"]
        size = config["attention_head_dim"]
        side = self.training_side(config)
        return encodings.ModelShape(
            heads * size, heads, size, config["num_layers"], grid=(side, side)
        )

    def training_side(self, config: LibraryConfig) -> int:
        """Tokens of a side at training."""
        return int(config["sample_size"]) // int(config["patch_size"])

    def attach_encoding(
        self,
        transformer: Transformer,
        encoding: str,
        options: Mapping[str, Option],
        tokens: str = "all",
    ) -> EncodedTransformer:
        """The transformer with a fresh encoding; for ape it is the library's, untouched."""
        network = super().attach_encoding(transformer, encoding, options, tokens)
        if isinstance(network.encoding, Ape) and not has_table(network):
            raise OptionError(
                f"sd3 has its own table, ape form {network.encoding.options.form} would be another;"
                " say --option form=sd3"
            )
        return network

    def install_processors(self, network: EncodedTransformer) -> None:
        """Drops the table, and one processor a layer; nothing where the encoding is the table."""
        if has_table(network):
            return
        network.transformer.pos_embed.pos_embed = None
        install_processors(network)

    def expose_attention(self, network: EncodedTransformer) -> None:
        """Our processors beside the table, which turns nothing."""
        if has_table(network):
            install_processors(network)

    def fold_matrices(self, network: EncodedTransformer) -> None:
        """Folds the matrix into the projections, exactly; beside the norm where a model has one.
        LoRA is merged first.
        """
        if network.encoding.matrices(0) is None:
            return
        free = (
            network.transformer.config["qk_norm"] is None and network.encoding.properties.foldable
        )
        if free:
            lora.merge_lora(network)
        apply_checked_change(
            network,
            lambda: (fold_projections if free else fold_norms)(network),
            lambda: self.trial_inputs(network),
            network.encoding.registered_name(),
        )

    def random_inputs(
        self, network: EncodedTransformer, side: int, text: int, batch: int
    ) -> dict[str, Tensor]:
        """Random inputs of one denoising step."""
        config = network.transformer.config
        like = next(network.parameters())
        with torch.device("cpu"):
            rng = torch.Generator().manual_seed(0)
            pixels = side * config["patch_size"]
            wanted = {
                "hidden_states": torch.randn(
                    batch, config["in_channels"], pixels, pixels, generator=rng
                ),
                "encoder_hidden_states": torch.randn(
                    batch, text, config["joint_attention_dim"], generator=rng
                ),
                "pooled_projections": torch.randn(
                    batch, config["pooled_projection_dim"], generator=rng
                ),
                "timestep": torch.full((batch,), 500.0),
            }
        return {key: value.to(like) for key, value in wanted.items()}

    def has_network_keys(self, keys: Collection[str]) -> bool:
        """A patch embedding in a joint transformer is SD3's."""
        return {"transformer.pos_embed.proj.weight", "transformer.context_embedder.weight"} <= set(
            keys
        )

    def encoding_without_weights(self, keys: Collection[str]) -> str | None:
        """The table, where it is there."""
        return "ape" if TABLE_KEY in keys else None

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses what the pipeline cannot draw; the table ends at 192 tokens a side."""
        if checkpoint.encoding == "ape":
            self._check_table(checkpoint, settings)
        super().check_inputs(checkpoint, settings)

    def _check_table(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for a side beyond the library's table, or for a scaling of it."""
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        most = lora_manifest.transformer_config(folder)["pos_embed_max_size"]
        scale = self.pixels_per_token(folder)
        if settings.resolution > most * scale:
            raise OptionError(
                f"the table of sd3 ends at {most} tokens a side, {most * scale} px;"
                f" {settings.resolution} asked for, draw it smaller"
            )
        if settings.pos_scaling not in (None, "none"):
            raise OptionError(
                f"pos_scaling {settings.pos_scaling} means nothing to sd3's table, which is cut"
                " from its middle; leave it at none"
            )


def has_table(network: EncodedTransformer) -> bool:
    """Whether positions come from the library's table."""
    return isinstance(network.encoding, Ape) and network.encoding.options.form == "sd3"


def install_processors(network: EncodedTransformer) -> None:
    """One processor a layer, and the hook that tells where tokens are."""
    names = network.transformer.attn_processors
    layers = {
        name: int(name.split(".")[1]) for name in names
    }  # a block's second attention shares its layer
    network.transformer.set_attn_processor(
        {name: Sd3Processor(network, layer) for name, layer in layers.items()}
    )
    network.transformer.register_forward_pre_hook(locate(network), with_kwargs=True)


def fold_projections(network: EncodedTransformer) -> None:
    """Moves each layer's matrix into its projections, of the image and, where it acts on them, of
    the text; then RoPE is left.
    """
    pairs = folding.float64_matrices(network.encoding)
    for attn in attention_modules(network):
        pair = pairs[attn.processor.layer]
        chosen = [(attn.to_q, pair.q), (attn.to_k, pair.k)]
        if network.encoded_tokens == "all" and attn.add_q_proj is not None:
            chosen += [(attn.add_q_proj, pair.q), (attn.add_k_proj, pair.k)]
        for projection, matrix in chosen:
            fold_and_check(
                projection,
                matrix,
                f"{network.encoding.registered_name()} in layer {attn.processor.layer}",
            )
    network.encoding = network.encoding.without_matrices()


@torch.no_grad()
def fold_and_check(projection: nn.Linear, matrix: Tensor, what: str) -> None:
    """Folds one projection and holds it, head by head, to the matrix after the projection on four
    random tokens.
    """
    x = torch.randn(
        (4, projection.in_features), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def heads() -> Tensor:
        bias = None if projection.bias is None else projection.bias.double().cpu()
        return split_heads(
            F.linear(x, projection.weight.double().cpu(), bias)[None], matrix.shape[-1]
        )[0]

    wanted = heads() @ matrix.double().cpu().mT
    folding.fold_linear(projection, matrix)
    folding.check_heads_equal(wanted, heads(), projection.weight.dtype, what)


PLUGIN = Sd3Backbone()
