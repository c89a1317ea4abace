"""Noise of the samplers, from one CPU generator per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from harope_bench.core.sample_seeds import sample_seed


def unit_noise(shape: tuple[int, ...], generators: Sequence[Generator]) -> Tensor:
    """Return float32 CPU noise (B, *shape); row i comes from generators[i]."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def expand_like(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, ..., 1), so that they multiply a tensor (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def index_generator(seed: int, index: int) -> Generator:
    """Return the CPU generator of one sample, a function of the run's seed and the index alone."""
    return torch.Generator().manual_seed(sample_seed(seed, index))
