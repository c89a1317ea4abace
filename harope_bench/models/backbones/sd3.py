"""Stable Diffusion 3: diffusers' pipeline with its own table or with a rotary encoding instead.

The paper gives no detail of its SD3 runs. Here the table is dropped, image tokens are rotated by
row and column, text tokens have position (0, 0), and the matrix acts on all tokens.
Source: diffusers:models/transformers/transformer_sd3.py, models/attention_processor.py
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
    apply_and_check_outputs,
    apply_norm,
    attention_modules,
    fold_into_norms,
    split_heads,
    token_positions,
)
from harope_bench.models.backbones.library_types import AttentionLayer, Inputs, Transformer
from harope_bench.models.backbones.network_sizes import grid_positions
from harope_bench.models.lora_manifest import LibraryConfig

TABLE_KEY = "transformer.pos_embed.pos_embed"


class Sd3Processor(EncodedAttnProcessor):
    """Joint attention, image first, then text; or attention of the image alone.

    SD3.5 has a second attention of the image alone in some blocks.
    """

    def __call__(
        self,
        attn: AttentionLayer,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *_: Inputs,
        **__: Inputs,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return image tokens and, if text is given, text tokens (B, N, width) after attention."""
        head_dim = attn.inner_dim // attn.heads
        q = split_heads(attn.to_q(hidden_states), head_dim)  # (B, heads, N, head_dim)
        k = split_heads(attn.to_k(hidden_states), head_dim)
        v = split_heads(attn.to_v(hidden_states), head_dim)
        q = apply_norm(q, attn.norm_q, self.folded_matrices.get("q"))
        k = apply_norm(k, attn.norm_k, self.folded_matrices.get("k"))
        if encoder_hidden_states is not None:
            text_q, text_k, text_v = self.project_text(attn, encoder_hidden_states, head_dim)
            q = torch.cat((q, text_q), 2)
            k = torch.cat((k, text_k), 2)
            v = torch.cat((v, text_v), 2)

        outputs = self.network.attend(q, k, v, self.layer)
        outputs = outputs.transpose(1, 2).flatten(2).to(q.dtype)  # (B, N, width)

        n_image = hidden_states.shape[1]
        image_outputs: Tensor = attn.to_out[1](attn.to_out[0](outputs[:, :n_image]))
        if encoder_hidden_states is None:
            return image_outputs
        text_outputs = outputs[:, n_image:]
        if not attn.context_pre_only:
            text_outputs = attn.to_add_out(text_outputs)
        return image_outputs, text_outputs


def position_hook(
    network: EncodedTransformer,
) -> Callable[[nn.Module, Inputs, dict[str, Tensor]], None]:
    """Return a forward hook that computes the tokens' positions from the transformer's inputs.

    The image's grid comes first, then text at (0, 0).
    """

    def compute_positions(
        transformer: Transformer, args: Inputs, kwargs: dict[str, Tensor]
    ) -> None:
        latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]
        rows, columns = (side // transformer.config["patch_size"] for side in latents.shape[-2:])
        image_positions = grid_positions(rows, columns)
        text_positions = torch.zeros(text.shape[1], 2)
        network.token_positions = token_positions(
            torch.cat((image_positions, text_positions)), slice(0, len(image_positions))
        )

    return compute_positions


class Sd3Config(DiffusersConfig):
    """The configuration of every pipeline, with 256 T5 tokens of text by default.

    77 tokens of CLIP are added (`Sd3Backbone.extra_text_tokens`).
    """

    text_tokens: int = Field(default=256, gt=0, le=512)


class Sd3Backbone(AdapterPipelineBackbone):
    """SD3-medium and SD3.5. Matrices of SD3.5 are folded into its norms, not its projections."""

    name = "sd3"
    pipeline_class_name = "StableDiffusion3Pipeline"
    transformer_class_name = "SD3Transformer2DModel"
    patch_size = 2
    base_encoding = ("ape", {"form": "sd3"})
    default_fields = {
        "steps": 28,
        "guidance": 7.0,
        "drawing": {"vae_tiling": True, "dtype": "bfloat16"},
    }
    config_class = Sd3Config
    extra_text_tokens = 77  # Of CLIP.

    def shape(self, config: LibraryConfig) -> encodings.ModelShape:
        """Return two axes, rows and columns, with half of a head each."""
        heads = config["num_attention_heads"]
        head_dim = config["attention_head_dim"]
        side = self.training_side(config)
        return encodings.ModelShape(
            heads * head_dim, heads, head_dim, config["num_layers"], grid=(side, side)
        )

    def training_side(self, config: LibraryConfig) -> int:
        """Return the image tokens along a side at training."""
        return int(config["sample_size"]) // int(config["patch_size"])

    def attach_encoding(
        self,
        transformer: Transformer,
        encoding: str,
        options: Mapping[str, Option],
        encoded_tokens: str = "all",
    ) -> EncodedTransformer:
        """Return the transformer with a fresh encoding; "ape" is the library's own table.

        Raises:
            OptionError: An "ape" of another form than "sd3".
        """
        network = super().attach_encoding(transformer, encoding, options, encoded_tokens)
        if isinstance(network.encoding, Ape) and not has_table(network):
            raise OptionError(
                f"sd3 has its own table, found ape form {network.encoding.options.form}; give"
                " --option form=sd3"
            )
        return network

    def install_processors(self, network: EncodedTransformer) -> None:
        """Drop the table and install one processor per layer; do nothing if the table is
        used.
        """
        if has_table(network):
            return
        network.transformer.pos_embed.pos_embed = None
        install_processors(network)

    def expose_attention(self, network: EncodedTransformer) -> None:
        """Install our processors beside the table, which does not rotate."""
        if has_table(network):
            install_processors(network)

    def fold_matrices(self, network: EncodedTransformer) -> None:
        """Fold the matrices into the projections, or into the norms of a model with q/k norms.

        LoRA is merged before matrices are folded into projections.
        """
        if network.encoding.matrices(0) is None:
            return
        has_no_norm = network.transformer.config["qk_norm"] is None
        folds_into_projections = has_no_norm and network.encoding.properties.foldable
        if folds_into_projections:
            lora.merge_lora(network)
        fold = fold_projections if folds_into_projections else fold_into_norms
        apply_and_check_outputs(
            network,
            lambda: fold(network),
            lambda: self.trial_inputs(network),
            network.encoding.registered_name(),
        )

    def random_inputs(
        self, network: EncodedTransformer, side: int, text: int, batch: int
    ) -> dict[str, Tensor]:
        """Return random inputs of one step with side x side image tokens, on its device."""
        config = network.transformer.config
        weight = next(network.parameters())
        with torch.device("cpu"):
            rng = torch.Generator().manual_seed(0)
            latent_side = side * config["patch_size"]
            image_shape = (batch, config["in_channels"], latent_side, latent_side)
            text_shape = (batch, text, config["joint_attention_dim"])
            pooled_shape = (batch, config["pooled_projection_dim"])
            inputs = {
                "hidden_states": torch.randn(image_shape, generator=rng),
                "encoder_hidden_states": torch.randn(text_shape, generator=rng),
                "pooled_projections": torch.randn(pooled_shape, generator=rng),
                "timestep": torch.full((batch,), 500.0),
            }
        return {key: value.to(weight) for key, value in inputs.items()}

    def has_network_keys(self, keys: Collection[str]) -> bool:
        """Return whether there are a patch embedding and a text embedder, which is SD3's mark."""
        required_keys = {"transformer.pos_embed.proj.weight", "transformer.context_embedder.weight"}
        return required_keys <= set(keys)

    def encoding_without_weights(self, keys: Collection[str]) -> str | None:
        """Return "ape" if the library's table is among the keys."""
        return "ape" if TABLE_KEY in keys else None

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for settings that the pipeline or its table cannot take."""
        if checkpoint.encoding == "ape":
            self._check_table(checkpoint, settings)
        super().check_inputs(checkpoint, settings)

    def _check_table(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for an image larger than the library's table, or for a scaling of
        it.
        """
        folder = lora_manifest.find_base_folder(self.parse_config(checkpoint.config).base)
        table_side = lora_manifest.transformer_config(folder)["pos_embed_max_size"]
        max_resolution = table_side * self.pixels_per_token(folder)
        if settings.resolution > max_resolution:
            raise OptionError(
                f"the table of sd3 has {table_side} tokens a side, for at most {max_resolution} px,"
                f" found --resolution {settings.resolution}; give a smaller one"
            )
        if settings.pos_scaling not in (None, "none"):
            raise OptionError(
                f"pos_scaling {settings.pos_scaling} does not apply to sd3's table, whose middle is"
                " used; leave --pos-scaling out"
            )


def has_table(network: EncodedTransformer) -> bool:
    """Return whether positions come from the library's table."""
    return isinstance(network.encoding, Ape) and network.encoding.options.form == "sd3"


def install_processors(network: EncodedTransformer) -> None:
    """Install one processor per attention, and the hook that computes token positions.

    The second attention of a block has the layer index of its block.
    """
    names = network.transformer.attn_processors
    processors = {name: Sd3Processor(network, int(name.split(".")[1])) for name in names}
    network.transformer.set_attn_processor(processors)
    network.transformer.register_forward_pre_hook(position_hook(network), with_kwargs=True)


def fold_projections(network: EncodedTransformer) -> None:
    """Fold each layer's matrices into its projections, and leave the encoding without matrices.

    The projections of text are folded too if the encoding acts on text.
    """
    matrices = folding.float64_matrices(network.encoding)
    for attn in attention_modules(network):
        layer_matrices = matrices[attn.processor.layer]
        folds = [(attn.to_q, layer_matrices.q), (attn.to_k, layer_matrices.k)]
        if network.encoded_tokens == "all" and attn.add_q_proj is not None:
            folds.append((attn.add_q_proj, layer_matrices.q))
            folds.append((attn.add_k_proj, layer_matrices.k))

        description = f"{network.encoding.registered_name()} in layer {attn.processor.layer}"
        for projection, matrix in folds:
            fold_and_check(projection, matrix, description)
    network.encoding = network.encoding.without_matrices()


@torch.no_grad()
def fold_and_check(projection: nn.Linear, matrix: Tensor, description: str) -> None:
    """Fold a matrix into a projection, and check each head on four random tokens in float64.

    Raises:
        WeightsError: The result differs from projection and matrix one after the other.
    """
    x = torch.randn(
        (4, projection.in_features), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def project_heads() -> Tensor:
        bias = None if projection.bias is None else projection.bias.double().cpu()
        projection_output = F.linear(x, projection.weight.double().cpu(), bias)  # (N, width)
        return split_heads(projection_output[None], matrix.shape[-1])[0]  # (heads, N, d)

    expected_heads = project_heads() @ matrix.double().cpu().mT
    folding.fold_linear(projection, matrix)
    folding.check_heads_equal(expected_heads, project_heads(), projection.weight.dtype, description)


PLUGIN = Sd3Backbone()
