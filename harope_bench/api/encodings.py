"""`load_encoding`: a positional encoding as a module of torch, for one's own training code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harope_bench.api.packages import require_torch
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option

if TYPE_CHECKING:
    from harope_bench.encodings.base import Encoding


def load_encoding(
    name: str,
    *,
    heads: int,
    head_dim: int,
    layers: int,
    width: int | None = None,
    grid: tuple[int, int] | None = None,
    axes_dims: Sequence[int] | None = None,
    **options: Option,
) -> Encoding:
    """Return a new positional encoding, an `nn.Module` with the parameters of all layers.

    A model calls it as follows. B is the batch, N the number of tokens, and positions (N, axes) are
    coordinates such as row and column.

    - `embed(tokens, positions)`: tokens (B, N, width) in, the same shape out; once, before the
      first layer. Only additive encodings change them.
    - `rotate(q, k, positions, layer)`: queries and keys (B, heads, N, head_dim) in, a pair of these
      shapes out; in each layer, before the attention.
    - `transform_values(v, layer)` and `transform_outputs(out, layer)`: (B, heads, N, head_dim) in
      and out, before and after the attention.

    The keys of its state dict are those under `encoding.` in the weights of a checkpoint of the
    same sizes and options.

    Args:
        name: Name of the encoding, as `harope-bench list encodings` prints it.
        heads: Attention heads.
        head_dim: Channels of a head.
        layers: Attention layers.
        width: Channels of a token. None takes heads times head_dim.
        grid: Rows and columns of tokens at training; only a learned table needs it.
        axes_dims: Channels of a head that each axis rotates. None divides them equally between
            rows and columns.
        options: Options of the encoding, such as base=10000.

    Raises:
        MissingExtraError: torch is not installed.
        UnknownNameError: There is no such encoding. The message suggests similar ones.
        OptionError: A size or an option is invalid. The message lists the options.

    Examples:
        >>> import torch
        >>> encoding = load_encoding("harope", heads=2, head_dim=8, layers=3)
        >>> positions = torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()
        >>> q, k = torch.randn(2, 1, 2, 16, 8)
        >>> q, k = encoding.rotate(q, k, positions, layer=0)
        >>> q.shape
        torch.Size([1, 2, 16, 8])
    """
    sizes = {"heads": heads, "head_dim": head_dim, "layers": layers}
    if width is not None:
        sizes["width"] = width
    for size_name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise OptionError(f"{size_name} {size!r} is no number of 1 or more; give another")

    require_torch("an encoding")
    import torch

    from harope_bench.encodings import base

    shape = base.ModelShape(
        width=width or heads * head_dim,
        heads=heads,
        head_dim=head_dim,
        layers=layers,
        axes=2 if axes_dims is None else len(axes_dims),
        axes_dims=None if axes_dims is None else tuple(axes_dims),
        grid=grid,
    )
    encoding = base.build_encoding(base.load_encoding(name), shape, options)

    # Head sizes that an encoding cannot split are rejected by its first rotation: rotate one token.
    with torch.no_grad():
        token = torch.zeros(1, heads, 1, head_dim)
        encoding.rotate(token, token, torch.zeros(1, shape.axes), layer=0)
    return encoding
