"""How far attention looks: queries and keys as they meet in a network that draws, softmax written
out.

Source: Figure 5 of the paper, which states neither model, times, images nor guidance; the defaults
here are ours and are recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harope_bench.analysis.attention_hooks import QueryKeyRecorder, make_runner
from harope_bench.core.chart_schema import CheckpointDistances
from harope_bench.core.limits import MAX_ATTENTION_IMAGES, check_maximum
from harope_bench.core.schema import Plan
from harope_bench.models.load_checkpoint import open_checkpoint

TIMES = (100.0, 300.0, 500.0, 700.0, 900.0)  # of 1,000; a flow's time is the same share of its way
MAX_PROBABILITIES = 2**24  # probabilities held at once


def attention_distances(q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
    """Mean over queries of sum_j P_ij |pos_i - pos_j|, P the softmax of the scaled scores.

    Args:
        q, k: (B, heads, N, head_dim) after everything that acts on them. positions: (N, axes) in
            tokens; the last two axes count.
            Where tokens are left out of both, the rows of P are those of the whole sequence
            renormalised.

    Returns:
        (B, heads), float64, in tokens. Taken head by head and in chunks of queries, so that N x N
        is never held whole.
    """
    found = torch.zeros(q.shape[:2], dtype=torch.float64)
    for part, apart in _token_distances(
        positions, max(1, MAX_PROBABILITIES // (q.shape[0] * q.shape[2]))
    ):
        far = apart.to(q.device, torch.float32)
        for head in range(q.shape[1]):
            scores = (
                q[:, head, part].float() @ k[:, head].float().mT / math.sqrt(q.shape[-1])
            )  # (B, rows, N)
            found[:, head] += (scores.softmax(-1) * far).sum((-1, -2)).double().cpu()
    return found / q.shape[2]


def _token_distances(positions: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Distances (rows, N) of each chunk of tokens from all, in tokens."""
    places = positions[:, -2:].double()
    for start in range(0, len(places), rows):
        part = slice(start, start + rows)
        yield part, torch.cdist(places[part], places)


def uniform_distance(positions: Tensor) -> float:
    """The distance of attention spread evenly over all tokens, in tokens."""
    rows = max(1, MAX_PROBABILITIES // len(positions))
    return (
        float(sum(apart.sum() for _, apart in _token_distances(positions, rows)))
        / len(positions) ** 2
    )


class _DistanceSums:
    """Distances summed by layer and head over all rows that were seen."""

    def __init__(self) -> None:
        self.total: dict[int, Tensor] = {}
        self.count: dict[int, int] = {}

    def add(self, layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        found = attention_distances(q, k, positions)  # (rows, heads)
        self.total[layer] = self.total.get(layer, 0) + found.sum(0)
        self.count[layer] = self.count.get(layer, 0) + len(found)


def measure_distances(
    plan: Plan, images: int, times: Sequence[float] = TIMES, place: Path | None = None
) -> CheckpointDistances:
    """Distances of a checkpoint, mean over the first `images` requests and the times on its own way
    from noise to image.

    A classifier has no times: the mean is over so many pictures of its suite, in `place` where the
    suite ships none. Text and class
    tokens are left out.

    Raises:
        BenchError: the backbone's network shows no queries and keys. OptionError: more than
            WATCHED_IMAGES images.
    """
    check_maximum("--count", images, MAX_ATTENTION_IMAGES)
    opened = open_checkpoint(plan.checkpoint, plan.settings)
    sums = _DistanceSums()
    way = make_runner(opened, plan, place)
    watch = QueryKeyRecorder(times, sums.add)
    way.run(plan, images, watch)
    assert watch.positions is not None
    settings = plan.settings
    stride = settings.resolution / (float(watch.positions[:, -1].max()) + 1)
    pixels = [sums.total[layer] / sums.count[layer] * stride for layer in sorted(sums.total)]
    return CheckpointDistances(
        checkpoint=plan.checkpoint.name,
        encoding=plan.checkpoint.encoding,
        sha256=plan.checkpoint.sha256,
        pixels=tuple(tuple(layer.tolist()) for layer in pixels),
        standard_deviation=tuple(float(layer.std(correction=0)) for layer in pixels),
        uniform_distance=uniform_distance(watch.positions) * stride,
        token_pixels=stride,
        tokens=len(watch.positions),
        excluded_tokens=way.excluded_tokens,
        images=images,
        timesteps=tuple(watch.recorded_times),
        resolution=settings.resolution,
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
    )


def settings_text(runs: Sequence[CheckpointDistances], images: int, asked: Sequence[float]) -> str:
    """What was looked at, with the settings that the paper leaves open."""
    drawing = [run for run in runs if run.timesteps]
    said = [f"{images} images"]
    if drawing:
        said.append(
            f"mean over times {', '.join(f'{time:g}' for time in asked)} of 1,000 (nearest steps)"
        )
        said.append(
            "labelled branch"
            if all(not run.excluded_tokens for run in drawing)
            else "branch with the label or the prompt"
        )
    if len(drawing) < len(runs):
        said.append("classifiers on real pictures spread evenly over the suite")
    said += [
        f"{one} left out of queries and keys"
        for one in sorted({run.excluded_tokens for run in runs} - {""})
    ]
    return f"{', '.join(said)}; the paper states none of these."
