"""A transformer of diffusers that asks one of our encodings where its tokens are: what the
attentions of FLUX and SD3 share.
"""

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

RELATIVE_TOLERANCES = {
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}  # relative, of outputs that should be equal


class TokenPositions(NamedTuple):
    """Coordinates (N, axes) of all tokens in the order of the joint sequence, which of them are the
    image's, and theirs alone.
    """

    positions: Tensor
    image_slice: slice
    image_positions: Tensor


def token_positions(positions: Tensor, image: slice) -> TokenPositions:
    """Where tokens are, made once a forward: encodings keep angles by the tensor that they are
    given.
    """
    return TokenPositions(positions, image, positions[image])


class SequenceSpec(NamedTuple):
    """What a forward takes when the pipeline draws: all text tokens of the joint sequence, and
    pixels of an image token's side.
    """

    text_tokens: int
    pixels_per_token: int


class EncodedTransformer(EncodedNetwork):
    """A transformer of diffusers with the encoding that its attention processors ask.

    `places` is set at each forward, before the blocks run; `takes` where the whole pipeline is
    known. `ready` says that queries and
    keys come with the matrix applied. `watch`, if set, is called with the layer and the queries and
    keys (B, heads, N, head_dim)
    whose products are the scores.
    """

    transformer: Transformer

    def __init__(self, transformer: nn.Module, encoding: encodings.Encoding, tokens: str = "all"):
        super().__init__()
        self.transformer = transformer
        self.encoding = encoding
        self.encoded_tokens = tokens
        self.token_positions: TokenPositions | None = None
        self.sequence_spec: SequenceSpec | None = None
        self.is_matrix_applied = False
        self.attention_callback: Callable[[int, Tensor, Tensor], None] | None = None

    def forward(self, *inputs: Inputs, **named: Inputs) -> Inputs:
        """The transformer's own forward."""
        return self.transformer(*inputs, **named)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """What the heads find (B, heads, N, head_dim) for normed queries, keys and values of that
        shape.

        N is the joint sequence, or its image tokens alone where a layer has such an attention.
        """
        assert self.token_positions is not None
        whole = q.shape[2] == len(self.token_positions.positions)
        part = (
            self.token_positions.image_slice
            if whole and self.encoded_tokens == "image"
            else slice(0, q.shape[2])
        )
        positions = (
            self.token_positions.positions
            if whole and self.encoded_tokens == "all"
            else self.token_positions.image_positions
        )
        act = self.encoding.apply_rotation if self.is_matrix_applied else self.encoding.rotate
        q_seen, k_seen = act(q[:, :, part], k[:, :, part], positions, layer)
        q = replace_tokens(q, q_seen, part)
        k = replace_tokens(k, k_seen, part)
        if self.attention_callback is not None:
            self.attention_callback(layer, q, k)
        found = F.scaled_dot_product_attention(
            q, k, replace_tokens(v, self.encoding.transform_values(v[:, :, part], layer), part)
        )
        return replace_tokens(
            found, self.encoding.transform_outputs(found[:, :, part], layer), part
        )


class EncodedAttnProcessor:
    """Our attention processor of a layer; a kind of transformer says how it is called.

    `folded` holds A diag(g) by name, once matrices are kept: `q`, `k` of the image, `text_q`,
    `text_k` of text with its own norm.
    """

    def __init__(self, network: EncodedTransformer, layer: int):
        self.network = network
        self.layer = layer
        self.folded_matrices: dict[str, Tensor] = {}

    def project_text(
        self, attn: AttentionLayer, states: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, size) of text that has its own projections."""
        q, k, v = (
            split_heads(to(states), size)
            for to in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        return (
            apply_norm(q, attn.norm_added_q, self.folded_matrices.get("text_q")),
            apply_norm(k, attn.norm_added_k, self.folded_matrices.get("text_k")),
            v,
        )


def attention_modules(network: EncodedTransformer) -> list[AttentionLayer]:
    """Attention modules with our processors, in the order of the layers."""
    modules = network.transformer.modules()
    return [
        module
        for module in modules
        if isinstance(
            getattr(module, "processor", None), EncodedAttnProcessor
        )  # few modules of the library have one
    ]


@torch.no_grad()
def fold_norms(network: EncodedTransformer) -> None:
    """Gives every processor A diag(g), g the weights of the norm before it; built in float32, kept
    in the network's dtype.
    """
    for attn in attention_modules(network):
        layer = attn.processor.layer
        pair = network.encoding.matrices(layer)
        like = attn.to_q.weight
        what = f"{network.encoding.registered_name()} in layer {layer}"
        assert pair is not None
        chosen = {"q": (pair.q, attn.norm_q), "k": (pair.k, attn.norm_k)}
        if network.encoded_tokens == "all" and attn.added_kv_proj_dim is not None:
            chosen |= {"text_q": (pair.q, attn.norm_added_q), "text_k": (pair.k, attn.norm_added_k)}
        attn.processor.folded = {
            name: checked_norm_scaling(matrix, norm, like, what)
            for name, (matrix, norm) in chosen.items()
        }
    network.is_matrix_applied = True


def unfold_norms(network: EncodedTransformer) -> None:
    """Back to norm, then matrix, in every forward."""
    for attn in attention_modules(network):
        attn.processor.folded = {}
    network.is_matrix_applied = False


def replace_tokens(x: Tensor, new: Tensor, part: slice) -> Tensor:
    """x (B, heads, N, d) with tokens `part` replaced."""
    if new.shape[2] == x.shape[2]:
        return new
    return torch.cat((x[:, :, : part.start], new, x[:, :, part.stop :]), 2)


def split_heads(x: Tensor, size: int) -> Tensor:
    """Tokens (B, N, heads * size) as (B, heads, N, size)."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def apply_norm(x: Tensor, norm: Norm, matrix: Tensor | None) -> Tensor:
    """x (B, heads, N, d) under a norm that may be None; with `matrix`, which holds the norm's
    weights, without them.
    """
    if matrix is None:
        return x if norm is None else norm(x)
    bare = x if norm is None else F.rms_norm(x, x.shape[-1:], None, norm.eps)
    return bare @ matrix.mT


def scale_by_norm_weights(matrix: Tensor, norm: Norm, like: Tensor) -> Tensor:
    """A diag(g) (heads or 1, d, d) in the dtype and on the device of `like`, of a matrix A and the
    weights g of the norm before it.
    """
    weights = 1.0 if norm is None or norm.weight is None else norm.weight.detach().float()
    return (matrix.detach().float() * weights).to(like)


def checked_norm_scaling(matrix: Tensor, norm: Norm, like: Tensor, what: str) -> Tensor:
    """`with_weights`, held to norm and matrix on four random tokens, head by head, in float32;
    WeightsError names what differs.
    """
    made = scale_by_norm_weights(matrix, norm, like)
    x = torch.randn(
        (len(matrix), 4, matrix.shape[-1]), generator=torch.Generator().manual_seed(0)
    ).to(like.device)
    wide = None if norm is None else copy.deepcopy(norm).float()
    wanted = apply_norm(x, wide, None) @ matrix.detach().float().to(like.device).mT
    folding.check_heads_equal(wanted, apply_norm(x, norm, made.float()), like.dtype, what)
    return made


def apply_checked_change(
    network: nn.Module,
    change: Callable[[], None],
    trial: Callable[[], Mapping[str, Tensor]],
    what: str,
) -> None:
    """Makes a change that must not move the output, and holds it to that on one random forward.

    Raises:
        WeightsError: it moves by more than the dtype's rounding explains.
    """
    inputs = trial()
    with torch.inference_mode():
        before = network(**inputs, return_dict=False)[0].float()
        change()
        after = network(**inputs, return_dict=False)[0].float()
    folding.check_outputs_equal(
        before, after, what, RELATIVE_TOLERANCES[next(network.parameters()).dtype]
    )
