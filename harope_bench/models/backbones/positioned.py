"""A transformer of diffusers that asks one of our encodings where its tokens are: what the attentions of FLUX and SD3 share."""

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

SLACK = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # relative, of outputs that should be equal


class Places(NamedTuple):
    """Coordinates (N, axes) of all tokens in the order of the joint sequence, which of them are the image's, and theirs alone."""

    positions: Tensor
    image: slice
    of_image: Tensor


def places(positions: Tensor, image: slice) -> Places:
    """Where tokens are, made once a forward: encodings keep angles by the tensor that they are given."""
    return Places(positions, image, positions[image])


class Takes(NamedTuple):
    """What a forward takes when the pipeline draws: all text tokens of the joint sequence, and pixels of an image token's side."""

    text: int
    unit: int


class Positioned(EncodedNetwork):
    """A transformer of diffusers with the encoding that its attention processors ask.

    `places` is set at each forward, before the blocks run; `takes` where the whole pipeline is known. `ready` says that queries and
    keys come with the matrix applied. `watch`, if set, is called with the layer and the queries and keys (B, heads, N, head_dim)
    whose products are the scores.
    """

    transformer: Transformer

    def __init__(self, transformer: nn.Module, encoding: encodings.Encoding, tokens: str = "all"):
        super().__init__()
        self.transformer, self.encoding, self.tokens = transformer, encoding, tokens
        self.places: Places | None = None
        self.takes: Takes | None = None
        self.ready = False
        self.watch: Callable[[int, Tensor, Tensor], None] | None = None

    def forward(self, *inputs: Inputs, **named: Inputs) -> Inputs:
        """The transformer's own forward."""
        return self.transformer(*inputs, **named)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """What the heads find (B, heads, N, head_dim) for normed queries, keys and values of that shape.

        N is the joint sequence, or its image tokens alone where a layer has such an attention.
        """
        assert self.places is not None
        whole = q.shape[2] == len(self.places.positions)
        part = self.places.image if whole and self.tokens == "image" else slice(0, q.shape[2])
        positions = self.places.positions if whole and self.tokens == "all" else self.places.of_image
        act = self.encoding.turned if self.ready else self.encoding.rotate
        q_seen, k_seen = act(q[:, :, part], k[:, :, part], positions, layer)
        q, k = put(q, q_seen, part), put(k, k_seen, part)
        if self.watch is not None:
            self.watch(layer, q, k)
        found = F.scaled_dot_product_attention(q, k, put(v, self.encoding.values(v[:, :, part], layer), part))
        return put(found, self.encoding.outputs(found[:, :, part], layer), part)


class Processor:
    """Our attention processor of a layer; a kind of transformer says how it is called.

    `folded` holds A diag(g) by name, once matrices are kept: `q`, `k` of the image, `text_q`, `text_k` of text with its own norm.
    """

    def __init__(self, network: Positioned, layer: int):
        self.network, self.layer = network, layer
        self.folded: dict[str, Tensor] = {}

    def text_of(self, attn: AttentionLayer, states: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, size) of text that has its own projections."""
        q, k, v = (heads_of(to(states), size) for to in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        return normed(q, attn.norm_added_q, self.folded.get("text_q")), normed(k, attn.norm_added_k, self.folded.get("text_k")), v


def attentions(network: Positioned) -> list[AttentionLayer]:
    """Attention modules with our processors, in the order of the layers."""
    modules = network.transformer.modules()
    return [
        module
        for module in modules
        if isinstance(getattr(module, "processor", None), Processor)  # few modules of the library have one
    ]


@torch.no_grad()
def keep(network: Positioned) -> None:
    """Gives every processor A diag(g), g the weights of the norm before it; built in float32, kept in the network's dtype."""
    for attn in attentions(network):
        layer = attn.processor.layer
        pair, like, what = network.encoding.matrices(layer), attn.to_q.weight, f"{network.encoding.named()} in layer {layer}"
        assert pair is not None
        chosen = {"q": (pair.q, attn.norm_q), "k": (pair.k, attn.norm_k)}
        if network.tokens == "all" and attn.added_kv_proj_dim is not None:
            chosen |= {"text_q": (pair.q, attn.norm_added_q), "text_k": (pair.k, attn.norm_added_k)}
        attn.processor.folded = {name: kept(matrix, norm, like, what) for name, (matrix, norm) in chosen.items()}
    network.ready = True


def unkeep(network: Positioned) -> None:
    """Back to norm, then matrix, in every forward."""
    for attn in attentions(network):
        attn.processor.folded = {}
    network.ready = False


def put(x: Tensor, new: Tensor, part: slice) -> Tensor:
    """x (B, heads, N, d) with tokens `part` replaced."""
    if new.shape[2] == x.shape[2]:
        return new
    return torch.cat((x[:, :, : part.start], new, x[:, :, part.stop :]), 2)


def heads_of(x: Tensor, size: int) -> Tensor:
    """Tokens (B, N, heads * size) as (B, heads, N, size)."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def normed(x: Tensor, norm: Norm, matrix: Tensor | None) -> Tensor:
    """x (B, heads, N, d) under a norm that may be None; with `matrix`, which holds the norm's weights, without them."""
    if matrix is None:
        return x if norm is None else norm(x)
    bare = x if norm is None else F.rms_norm(x, x.shape[-1:], None, norm.eps)
    return bare @ matrix.mT


def with_weights(matrix: Tensor, norm: Norm, like: Tensor) -> Tensor:
    """A diag(g) (heads or 1, d, d) in the dtype and on the device of `like`, of a matrix A and the weights g of the norm before it."""
    weights = 1.0 if norm is None or norm.weight is None else norm.weight.detach().float()
    return (matrix.detach().float() * weights).to(like)


def kept(matrix: Tensor, norm: Norm, like: Tensor, what: str) -> Tensor:
    """`with_weights`, held to norm and matrix on four random tokens, head by head, in float32; WeightsError names what differs."""
    made = with_weights(matrix, norm, like)
    x = torch.randn((len(matrix), 4, matrix.shape[-1]), generator=torch.Generator().manual_seed(0)).to(like.device)
    wide = None if norm is None else copy.deepcopy(norm).float()
    wanted = normed(x, wide, None) @ matrix.detach().float().to(like.device).mT
    folding.same_heads(wanted, normed(x, norm, made.float()), like.dtype, what)
    return made


def agree(network: nn.Module, change: Callable[[], None], trial: Callable[[], Mapping[str, Tensor]], what: str) -> None:
    """Makes a change that must not move the output, and holds it to that on one random forward.

    Raises:
        WeightsError: it moves by more than the dtype's rounding explains.
    """
    inputs = trial()
    with torch.inference_mode():
        before = network(**inputs, return_dict=False)[0].float()
        change()
        after = network(**inputs, return_dict=False)[0].float()
    folding.same_outputs(before, after, what, SLACK[next(network.parameters()).dtype])
