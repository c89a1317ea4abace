"""Noise of the samplers, from one CPU generator per sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from harope_bench.core.sample_seeds import sample_seed
from harope_bench.core.threaded_work import map_in_threads, thread_count

NOISES_AHEAD = 2  # noises of later steps that wait in memory


def unit_noise(shape: tuple[int, ...], generators: Sequence[Generator]) -> Tensor:
    """Return float32 CPU noise (B, *shape); row i comes from generators[i]."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def step_noises(
    shape: tuple[int, ...], generators: Sequence[Generator], count: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield `unit_noise` `count` times, on a device.

    One thread draws the next noise while the network computes, so the order of the draws, and with
    it every bit, is that of calling `unit_noise` at each step. For CUDA the noise is copied without
    waiting.
    """
    is_cuda = device.type == "cuda"

    def draw(_: int) -> Tensor:
        noise = unit_noise(shape, generators)
        return noise.pin_memory() if is_cuda else noise

    n_threads = min(1, thread_count())
    for noise in map_in_threads(draw, range(count), NOISES_AHEAD, n_threads):
        yield noise.to(device, non_blocking=is_cuda)


def expand_like(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, ..., 1), so that they multiply a tensor (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def index_generator(seed: int, index: int) -> Generator:
    """Return the CPU generator of one sample, a function of the run's seed and the index alone."""
    return torch.Generator().manual_seed(sample_seed(seed, index))
