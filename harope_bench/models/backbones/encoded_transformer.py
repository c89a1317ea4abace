"""A transformer of diffusers with a positional encoding of ours, shared by FLUX and SD3."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base as encodings
from harope_bench.models.backbones import folding
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.backbones.library_types import AttentionLayer, Inputs, Norm, Transformer

# Relative difference that is tolerated between outputs that should be equal, by dtype.
RELATIVE_TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class TokenPositions(NamedTuple):
    """Coordinates of the tokens of one forward pass.

    Attributes:
        positions: Of all tokens in the order of the joint sequence, (N, axes).
        image_slice: Which of these tokens belong to the image.
        image_positions: Coordinates of the image tokens alone, (N_image, axes).
    """

    positions: Tensor
    image_slice: slice
    image_positions: Tensor


def token_positions(positions: Tensor, image_slice: slice) -> TokenPositions:
    """Return the positions of one forward pass.

    They are created once per forward pass, because encodings cache angles per position tensor.
    """
    return TokenPositions(positions, image_slice, positions[image_slice])


class SequenceSpec(NamedTuple):
    """The token sequence that a pipeline uses.

    Attributes:
        text_tokens: Number of text tokens in the joint sequence.
        pixels_per_token: Pixels along a side of an image token.
    """

    text_tokens: int
    pixels_per_token: int


class EncodedTransformer(EncodedNetwork):
    """A transformer of diffusers whose attention processors call a positional encoding.

    Attributes:
        transformer: The library's transformer.
        encoded_tokens: "all", or "image" if text tokens are not rotated.
        token_positions: Positions of the current forward pass, set before its blocks run.
        sequence_spec: The pipeline's tokens; None until the pipeline is known.
        is_matrix_applied: Whether queries and keys arrive with the learned matrix applied.
        attention_callback: If set, it is called with the layer and the final queries and keys
            (B, heads, N, head_dim), whose products are the scores.
    """

    transformer: Transformer

    def __init__(
        self, transformer: nn.Module, encoding: encodings.Encoding, encoded_tokens: str = "all"
    ):
        super().__init__()
        self.transformer = transformer
        self.encoding = encoding
        self.encoded_tokens = encoded_tokens
        self.token_positions: TokenPositions | None = None
        self.sequence_spec: SequenceSpec | None = None
        self.is_matrix_applied = False
        self.attention_callback: Callable[[int, Tensor, Tensor], None] | None = None

    def forward(self, *args: Inputs, **kwargs: Inputs) -> Inputs:
        """Run the library's transformer with its own arguments."""
        return self.transformer(*args, **kwargs)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Return attention outputs (B, heads, N, head_dim) with the positional encoding applied.

        Args:
            q, k, v: Normalised queries, keys and values, (B, heads, N, head_dim). N is the joint
                sequence, or the image tokens alone in a layer that attends to them alone.
        """
        assert self.token_positions is not None
        positions, encoded_slice = self._encoded_positions(q.shape[2])

        # Rotate the encoded tokens of queries and keys.
        encode = self.encoding.apply_rotation if self.is_matrix_applied else self.encoding.rotate
        rotated_queries, rotated_keys = encode(
            q[:, :, encoded_slice], k[:, :, encoded_slice], positions, layer
        )
        q = replace_tokens(q, rotated_queries, encoded_slice)
        k = replace_tokens(k, rotated_keys, encoded_slice)
        if self.attention_callback is not None:
            self.attention_callback(layer, q, k)

        # Some encodings also transform values and outputs.
        encoded_values = self.encoding.transform_values(v[:, :, encoded_slice], layer)
        v = replace_tokens(v, encoded_values, encoded_slice)
        outputs = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, head_dim)
        encoded_outputs = self.encoding.transform_outputs(outputs[:, :, encoded_slice], layer)
        return replace_tokens(outputs, encoded_outputs, encoded_slice)

    def _encoded_positions(self, n_tokens: int) -> tuple[Tensor, slice]:
        """Return the coordinates of the encoded tokens, and which of `n_tokens` these are."""
        assert self.token_positions is not None
        if n_tokens != len(self.token_positions.positions):
            return self.token_positions.image_positions, slice(0, n_tokens)  # image tokens alone
        if self.encoded_tokens == "image":
            return self.token_positions.image_positions, self.token_positions.image_slice
        return self.token_positions.positions, slice(0, n_tokens)


class EncodedAttnProcessor:
    """Attention processor of one layer; subclasses define how the library calls it.

    Attributes:
        network: The network that the layer belongs to.
        layer: Index of the layer, by which the encoding selects its parameters.
        folded_matrices: Products A diag(g) of matrix and norm weights after `fold_into_norms`.
            Keys: "q" and "k" of the image, "text_q" and "text_k" of text with its own norm.
    """

    def __init__(self, network: EncodedTransformer, layer: int):
        self.network = network
        self.layer = layer
        self.folded_matrices: dict[str, Tensor] = {}

    def project_text(
        self, attn: AttentionLayer, states: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, heads, N, size) of text with its own projections.

        Args:
            states: Text tokens, (B, N, width).
            size: Channels of a head.
        """
        q = split_heads(attn.add_q_proj(states), size)
        k = split_heads(attn.add_k_proj(states), size)
        v = split_heads(attn.add_v_proj(states), size)
        q = apply_norm(q, attn.norm_added_q, self.folded_matrices.get("text_q"))
        k = apply_norm(k, attn.norm_added_k, self.folded_matrices.get("text_k"))
        return q, k, v


def attention_modules(network: EncodedTransformer) -> list[AttentionLayer]:
    """Return the attention modules with our processors, in the order of the layers."""
    return [
        module
        for module in network.transformer.modules()
        # getattr: only the library's attention modules have a processor
        if isinstance(getattr(module, "processor", None), EncodedAttnProcessor)
    ]


@torch.no_grad()
def fold_into_norms(network: EncodedTransformer) -> None:
    """Fold each layer's matrix A into the weights g of the norm before it.

    Each processor receives A diag(g), computed in float32 and stored in the network's dtype.
    """
    for attn in attention_modules(network):
        layer = attn.processor.layer
        matrices = network.encoding.matrices(layer)
        assert matrices is not None
        matrices_and_norms = {"q": (matrices.q, attn.norm_q), "k": (matrices.k, attn.norm_k)}
        if network.encoded_tokens == "all" and attn.added_kv_proj_dim is not None:
            matrices_and_norms["text_q"] = (matrices.q, attn.norm_added_q)
            matrices_and_norms["text_k"] = (matrices.k, attn.norm_added_k)

        description = f"{network.encoding.registered_name()} in layer {layer}"
        attn.processor.folded_matrices = {
            name: checked_norm_scaling(matrix, norm, attn.to_q.weight, description)
            for name, (matrix, norm) in matrices_and_norms.items()
        }
    network.is_matrix_applied = True


def unfold_from_norms(network: EncodedTransformer) -> None:
    """Undo `fold_into_norms`: apply norm and matrix one after the other in every forward pass."""
    for attn in attention_modules(network):
        attn.processor.folded_matrices = {}
    network.is_matrix_applied = False


def replace_tokens(x: Tensor, replacement: Tensor, token_slice: slice) -> Tensor:
    """Return x (B, heads, N, d) with the tokens of a slice replaced."""
    if replacement.shape[2] == x.shape[2]:
        return replacement
    before = x[:, :, : token_slice.start]
    after = x[:, :, token_slice.stop :]
    return torch.cat((before, replacement, after), 2)  # (B, heads, N, d)


def split_heads(x: Tensor, size: int) -> Tensor:
    """Return tokens (B, N, heads * size) as (B, heads, N, size)."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def apply_norm(x: Tensor, norm: Norm, folded_matrix: Tensor | None) -> Tensor:
    """Return x (B, heads, N, d), normalised and, if a matrix is given, multiplied by it.

    Args:
        norm: The library's RMS norm, or None.
        folded_matrix: A diag(g) (heads or 1, d, d). It contains the weights of the norm, so the
            norm is applied without them.
    """
    if folded_matrix is None:
        return x if norm is None else norm(x)
    normalised_x = x if norm is None else F.rms_norm(x, x.shape[-1:], None, norm.eps)
    return normalised_x @ folded_matrix.mT


def scale_by_norm_weights(matrix: Tensor, norm: Norm, like: Tensor) -> Tensor:
    """Return A diag(g) (heads or 1, d, d) for a matrix A and the weights g of the norm before it.

    Args:
        like: Tensor whose dtype and device the result has.
    """
    weights = 1.0 if norm is None or norm.weight is None else norm.weight.detach().float()
    return (matrix.detach().float() * weights).to(like)


def checked_norm_scaling(matrix: Tensor, norm: Norm, like: Tensor, description: str) -> Tensor:
    """Return `scale_by_norm_weights`, checked per head on four random tokens in float32.

    Raises:
        WeightsError: The result differs from norm and matrix one after the other.
    """
    folded_matrix = scale_by_norm_weights(matrix, norm, like)
    shape = (len(matrix), 4, matrix.shape[-1])  # (heads or 1, N, d)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device)

    float32_norm = None if norm is None else copy.deepcopy(norm).float()
    expected_output = (
        apply_norm(x, float32_norm, folded_matrix=None) @ matrix.detach().float().to(like.device).mT
    )
    folded_output = apply_norm(x, norm, folded_matrix.float())
    folding.check_heads_equal(expected_output, folded_output, like.dtype, description)
    return folded_matrix


def apply_and_check_outputs(
    network: nn.Module,
    change: Callable[[], None],
    trial_inputs: Callable[[], Mapping[str, Tensor]],
    description: str,
) -> None:
    """Change a network in place, and check on one forward pass that its output is the same.

    Args:
        change: Changes the network.
        trial_inputs: Returns the keyword arguments of the forward pass.
        description: Name of the change for an error message.

    Raises:
        WeightsError: The output differs by more than the rounding of the dtype.
    """
    inputs = trial_inputs()
    with torch.inference_mode():
        before = network(**inputs, return_dict=False)[0].float()
        change()
        after = network(**inputs, return_dict=False)[0].float()
    tolerance = RELATIVE_TOLERANCES[next(network.parameters()).dtype]
    folding.check_outputs_equal(before, after, description, tolerance)
