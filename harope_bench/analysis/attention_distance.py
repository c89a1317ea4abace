"""Mean attention distance of each head, from queries and keys recorded during generation.

Source: Figure 5 of the paper, which states neither model, timesteps, images nor guidance. The
defaults here are this package's, and the figure records them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harope_bench.analysis.attention_hooks import QueryKeyRecorder, make_network_runner
from harope_bench.core.chart_schema import CheckpointDistances
from harope_bench.core.limits import MAX_ATTENTION_IMAGES, check_maximum
from harope_bench.core.schema import Plan
from harope_bench.models.load_checkpoint import open_checkpoint

TIMES = (100.0, 300.0, 500.0, 700.0, 900.0)  # of 1,000; a flow's time is the same fraction of 1
MAX_PROBABILITIES = 2**24  # attention probabilities in memory at once


def attention_distances(q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
    """Return the mean over queries i of sum_j P_ij |pos_i - pos_j|, P = softmax(Q K^T / sqrt(d)).

    It is computed head by head and in chunks of queries, so N x N is never in memory.

    Args:
        q, k: (B, heads, N, head_dim), after everything that acts on them. Where some tokens are
            left out of both, the rows of P are those of all tokens, renormalised.
        positions: (N, axes) in tokens; the last two axes count.

    Returns:
        (B, heads), float64, in tokens.
    """
    batch, heads, token_count, head_dim = q.shape
    sums = torch.zeros((batch, heads), dtype=torch.float64)
    chunk_size = max(1, MAX_PROBABILITIES // (batch * token_count))
    for chunk, chunk_distances in _token_distances(positions, chunk_size):
        distances = chunk_distances.to(q.device, torch.float32)  # (chunk, N)
        for head in range(heads):
            products = q[:, head, chunk].float() @ k[:, head].float().mT  # (B, chunk, N)
            probabilities = (products / math.sqrt(head_dim)).softmax(-1)  # (B, chunk, N)
            sums[:, head] += (probabilities * distances).sum((-1, -2)).double().cpu()  # (B,)
    return sums / token_count


def _token_distances(positions: Tensor, chunk_size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield chunks of tokens with their distances (chunk, N) from all tokens, in tokens."""
    coordinates = positions[:, -2:].double()  # (N, 2)
    for start in range(0, len(coordinates), chunk_size):
        chunk = slice(start, start + chunk_size)
        yield chunk, torch.cdist(coordinates[chunk], coordinates)


def uniform_distance(positions: Tensor) -> float:
    """Return the mean attention distance of uniform attention, in tokens."""
    chunk_size = max(1, MAX_PROBABILITIES // len(positions))
    total = sum(distances.sum() for _, distances in _token_distances(positions, chunk_size))
    return float(total) / len(positions) ** 2


class _DistanceSums:
    """Sums of distances and numbers of images, by layer."""

    def __init__(self) -> None:
        self.total: dict[int, Tensor] = {}
        self.count: dict[int, int] = {}

    def add(self, layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        """Add the distances of a batch: q and k (B, heads, N, head_dim), positions (N, axes)."""
        distances = attention_distances(q, k, positions)  # (B, heads)
        self.total[layer] = self.total.get(layer, 0) + distances.sum(0)  # (heads,)
        self.count[layer] = self.count.get(layer, 0) + len(distances)


def measure_distances(
    plan: Plan,
    n_images: int,
    requested_times: Sequence[float] = TIMES,
    images_folder: Path | None = None,
) -> CheckpointDistances:
    """Return the attention distances of a checkpoint, as a mean over images and timesteps.

    Text and class tokens are left out.

    Args:
        n_images: number of requests, from the first; for a classifier, number of images, spread
            evenly over its suite.
        requested_times: timesteps in [0, 1000]; ignored for a classifier, which has none.
        images_folder: images of a classifier's suite that ships none.

    Raises:
        BenchError: The backbone does not expose queries and keys.
        OptionError: There are more than MAX_ATTENTION_IMAGES images.
    """
    check_maximum("--count", n_images, MAX_ATTENTION_IMAGES)
    loaded_checkpoint = open_checkpoint(plan.checkpoint, plan.settings)
    sums = _DistanceSums()
    runner = make_network_runner(loaded_checkpoint, plan, images_folder)
    recorder = QueryKeyRecorder(requested_times, sums.add)
    runner.run(plan, n_images, recorder)
    assert recorder.positions is not None

    # Convert tokens to pixels: the side of the image over the number of tokens in a row.
    settings = plan.settings
    token_pixels = settings.resolution / (float(recorder.positions[:, -1].max()) + 1)
    layers = sorted(sums.total)
    pixels = [sums.total[layer] / sums.count[layer] * token_pixels for layer in layers]  # (heads,)
    return CheckpointDistances(
        checkpoint=plan.checkpoint.name,
        encoding=plan.checkpoint.encoding,
        sha256=plan.checkpoint.sha256,
        pixels=tuple(tuple(layer.tolist()) for layer in pixels),
        standard_deviation=tuple(float(layer.std(correction=0)) for layer in pixels),
        uniform_distance=uniform_distance(recorder.positions) * token_pixels,
        token_pixels=token_pixels,
        tokens=len(recorder.positions),
        excluded_tokens=runner.excluded_tokens,
        images=n_images,
        timesteps=tuple(recorder.recorded_times),
        resolution=settings.resolution,
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
    )


def settings_text(
    runs: Sequence[CheckpointDistances], n_images: int, requested_times: Sequence[float]
) -> str:
    """Return the settings of a figure as one sentence, because the paper leaves them open."""
    parts = [f"{n_images} images"]
    generator_runs = [run for run in runs if run.timesteps]
    if generator_runs:
        times_text = ", ".join(f"{time:g}" for time in requested_times)
        parts.append(f"mean over times {times_text} of 1,000 (nearest steps)")
        has_text = any(run.excluded_tokens for run in generator_runs)
        parts.append("branch with the label or the prompt" if has_text else "branch with the label")
    if len(generator_runs) < len(runs):
        parts.append("classifiers on real images spread evenly over the suite")
    excluded_tokens = sorted({run.excluded_tokens for run in runs} - {""})
    parts += [f"{tokens} left out of queries and keys" for tokens in excluded_tokens]
    return f"{', '.join(parts)}; the paper states none of these."
