"""How far attention looks: queries and keys as they meet in a network that draws, softmax written out.

Source: Figure 5 of the paper, which states neither model, times, images nor guidance; the defaults here are ours and are recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from harope_bench import registry
from harope_bench.catalogue import checkpoint, open_drawer
from harope_bench.charts import Distances
from harope_bench.errors import BenchError
from harope_bench.generate import tiles
from harope_bench.records import Plan
from harope_bench.samplers.base import index_generator

TIMES = (100.0, 300.0, 500.0, 700.0, 900.0)  # of 1,000; a flow's time is the same share of its way
LARGEST = 2**24  # probabilities held at once
See = Callable[[int, Tensor, Tensor, Tensor], None]


def distances(q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
    """Mean over queries of sum_j P_ij |pos_i - pos_j|, P the softmax of the scaled scores.

    Args:
        q, k: (B, heads, N, head_dim) after everything that acts on them. positions: (N, axes) in tokens; the last two axes count.

    Returns:
        (B, heads), float64, in tokens. Taken head by head and in chunks of queries, so that N x N is never held whole.
    """
    apart = torch.cdist(positions[:, -2:].double(), positions[:, -2:].double()).to(q.device, torch.float32)  # (N, N)
    rows = max(1, LARGEST // (q.shape[0] * q.shape[2]))
    found = torch.zeros(q.shape[:2], dtype=torch.float64)
    for head in range(q.shape[1]):
        for start in range(0, q.shape[2], rows):
            part = slice(start, start + rows)
            scores = q[:, head, part].float() @ k[:, head].float().mT / math.sqrt(q.shape[-1])  # (B, rows, N)
            found[:, head] += (scores.softmax(-1) * apart[part]).sum((-1, -2)).double().cpu()
    return found / q.shape[2]


def uniform(positions: Tensor) -> float:
    """The distance of attention spread evenly over all tokens, in tokens."""
    places = positions[:, -2:].double()
    return float(torch.cdist(places, places).mean())


class Enough(Exception):
    """All times were seen; the rest of the way need not be drawn."""


@contextmanager
def watched(encoding: Any, see: See) -> Iterator[None]:
    """Shows `see` what `rotate` returns, with its layer and positions; the encoding is as before afterwards."""
    rotate = encoding.rotate

    def seen(q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        q, k = rotate(q, k, positions, layer)
        see(layer, q, k, positions)
        return q, k

    encoding.rotate = seen
    try:
        yield
    finally:
        del encoding.rotate


def times_of(plan: Plan) -> list[float]:
    """The times that the plan's sampler calls its network with, in their order."""
    called: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        called.append(float(time[0]))
        return x

    assert plan.settings.sampler is not None and plan.settings.steps is not None  # the networks looked at here draw
    sampler = registry.load("samplers", plan.settings.sampler)
    sampler.sample(network, torch.zeros(1, 1, 1, 1), plan.settings.steps, [index_generator(0, 0)])
    return called


def nearest(wanted: Sequence[float], called: Sequence[float]) -> list[float]:
    """For each wanted time the called one closest to it, each once, falling."""
    return sorted({min(called, key=lambda time: (abs(time - want), time)) for want in wanted}, reverse=True)


class _Watch:
    """Sums distances by layer and head over the asked rows at the chosen times."""

    def __init__(self, chosen: Sequence[float]):
        self.left, self.chosen = list(chosen), list(chosen)
        self.rows: list[int] = []
        self.on = False
        self.total: dict[int, Tensor] = {}
        self.count: dict[int, int] = {}
        self.positions: Tensor | None = None

    def begin(self, rows: list[int]) -> None:
        self.rows, self.left = rows, list(self.chosen)

    def before(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """At the start of a forward: is this one of the times?"""
        now = float(args[1][0])
        self.on = bool(self.left) and math.isclose(now, self.left[0], abs_tol=1e-3)
        if self.on:
            self.left.pop(0)
        elif not self.left:
            raise Enough

    def see(self, layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        """The labelled branch stands first in a guided batch, so the asked rows are the same in both."""
        if not self.on:
            return
        found = distances(q[self.rows], k[self.rows], positions)  # (rows, heads)
        self.positions = positions
        self.total[layer] = self.total.get(layer, 0) + found.sum(0)
        self.count[layer] = self.count.get(layer, 0) + len(found)


def able(name: str) -> None:
    """BenchError, before anything is opened or drawn, unless this registered checkpoint's way can be watched."""
    kind = checkpoint(name).backbone
    backbone = registry.load("backbones", kind)
    if getattr(backbone, "task", "draw") != "draw" or hasattr(backbone, "pipeline"):
        raise BenchError(f"attention distance is taken of networks that draw from class labels, {name} is of {kind}; give a dit checkpoint")


def measure(plan: Plan, images: int, times: Sequence[float] = TIMES) -> Distances:
    """Distances of a checkpoint on its own way from noise to image, mean over the first `images` requests and the times.

    Raises:
        BenchError: the backbone's network has no encoding to look at, or does not draw by times.
    """
    able(plan.checkpoint.name)
    drawer = open_drawer(plan.checkpoint, plan.settings)
    network = getattr(drawer, "network", None)
    if network is None or not hasattr(network, "encoding") or not hasattr(drawer, "draw"):
        raise BenchError(f"backbone {plan.checkpoint.backbone} shows no queries and keys of a drawing network; look at a dit checkpoint")
    watch = _Watch(nearest(times, times_of(plan)))
    hook = network.register_forward_pre_hook(watch.before)
    try:
        with watched(network.encoding, watch.see):
            _draw(drawer, plan, images, watch)
    finally:
        hook.remove()
    return _found(plan, images, watch)


def _draw(drawer: Any, plan: Plan, images: int, watch: _Watch) -> None:
    tile = plan.settings.tile
    requests = {r.index: r for r in registry.load("suites", plan.suite).requests(range(images))}
    for group in tiles(list(requests), tile):
        rows = [requests[group[0]]] * tile
        for index in group:
            rows[index % tile] = requests[index]
        watch.begin([index % tile for index in group])
        with suppress(Enough):
            drawer.draw(rows, plan.settings)


def _found(plan: Plan, images: int, watch: _Watch) -> Distances:
    assert watch.positions is not None
    settings = plan.settings
    stride = settings.resolution / (float(watch.positions[:, -1].max()) + 1)
    pixels = [watch.total[layer] / watch.count[layer] * stride for layer in sorted(watch.total)]
    return Distances(
        checkpoint=plan.checkpoint.name,
        encoding=plan.checkpoint.encoding,
        sha256=plan.checkpoint.sha256,
        pixels=tuple(tuple(layer.tolist()) for layer in pixels),
        spread=tuple(float(layer.std(correction=0)) for layer in pixels),
        uniform=uniform(watch.positions) * stride,
        token_pixels=stride,
        tokens=len(watch.positions),
        images=images,
        times=tuple(watch.chosen),
        resolution=settings.resolution,
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
    )
