"""Networks at work, watched: which forward is at one of the asked times, and the queries and keys of the image's own tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harope_bench.core.errors import BenchError, OptionError
from harope_bench.core.index_ranges import tiles
from harope_bench.core.schema import Plan
from harope_bench.encodings.base import Encoding
from harope_bench.models.backbones.base import Classifier, Drawer, LoadedCheckpoint, load_backbone
from harope_bench.models.backbones.diffusers_networks import PipelineDrawer
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.samplers.base import chosen_sampler
from harope_bench.models.samplers.noise import index_generator
from harope_bench.suites.base import load_picture_suite, load_suite

See = Callable[[int, Tensor, Tensor, Tensor], None]  # layer, queries and keys (B, heads, N, head_dim), positions (N, axes)


class Enough(Exception):
    """All times were seen; the rest of the way need not be drawn."""


@contextmanager
def watched(encoding: Encoding, see: See) -> Iterator[None]:
    """Shows `see` what `rotate` returns, with its layer and positions; the encoding is as before afterwards."""
    rotate = encoding.rotate

    def seen(q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        q, k = rotate(q, k, positions, layer)
        see(layer, q, k, positions)
        return q, k

    encoding.__dict__["rotate"] = seen  # in front of the method of its class
    try:
        yield
    finally:
        del encoding.__dict__["rotate"]


def times_of(plan: Plan) -> list[float]:
    """The times that the plan's sampler calls its network with, in their order."""
    called: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        called.append(float(time[0]))
        return x

    assert plan.settings.steps is not None  # the networks looked at here draw
    chosen_sampler(plan.settings).sample(network, torch.zeros(1, 1, 1, 1), plan.settings.steps, [index_generator(0, 0)])
    return called


def nearest(wanted: Sequence[float], called: Sequence[float]) -> list[float]:
    """For each wanted time the called one closest to it, each once, falling."""
    return sorted({min(called, key=lambda time: (abs(time - want), time)) for want in wanted}, reverse=True)


class Watch:
    """Hands queries and keys of the asked rows at the chosen times to `take`, and keeps the positions.

    `chosen` is empty for a network that knows no times: then every forward counts.
    """

    def __init__(self, wanted: Sequence[float], take: Callable[[int, Tensor, Tensor, Tensor], None]):
        self.wanted, self.take = wanted, take
        self.chosen: list[float] = []
        self.left: list[float] = []
        self.rows: list[int] = []
        self.on = False
        self.positions: Tensor | None = None

    def begin(self, rows: list[int], called: Sequence[float] = ()) -> None:
        """A new way from noise to image, whose network is called at these times, or one forward that has none."""
        self.rows, self.on = rows, not called
        self.chosen = nearest(self.wanted, called) if called else []
        self.left = list(self.chosen)

    def tick(self, now: float) -> None:
        """At the start of a forward: is this one of the times?"""
        self.on = bool(self.left) and math.isclose(now, self.left[0], abs_tol=1e-3)
        if self.on:
            self.left.pop(0)
        elif not self.left:
            raise Enough

    def see(self, layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        """Queries and keys of the image's tokens (B, heads, N, head_dim) of a layer, and where these are."""
        if self.on:
            self.positions = positions
            self.take(layer, q[self.rows], k[self.rows], positions)


class Way(Protocol):
    """How an opened network is run while it is watched. `left_out`: tokens that are no part of the image."""

    left_out: str

    def run(self, plan: Plan, images: int, watch: Watch) -> None:
        """Runs it on the first `images` requests or pictures of the plan's suite."""


def way_of(opened: LoadedCheckpoint, plan: Plan, place: Path | None) -> Way:
    """The way of what `open_checkpoint` returned; BenchError for a network that shows no queries and keys."""
    network = opened.network
    if isinstance(network, EncodedNetwork):
        if isinstance(opened, PipelineDrawer):
            return Prompted(opened)
        if isinstance(opened, Classifier):
            return Named(opened, network, place)
        if isinstance(opened, Drawer):
            return Labelled(opened, network)
    raise BenchError(f"backbone {plan.checkpoint.backbone} shows no queries and keys; look at a checkpoint of dit, deit, flux or sd3")


class Labelled:
    """A network that draws from labels; the labelled branch stands first in a guided batch, so the asked rows are the same in both."""

    left_out = ""

    def __init__(self, opened: Drawer, network: EncodedNetwork):
        self.opened, self.network = opened, network

    def run(self, plan: Plan, images: int, watch: Watch) -> None:
        """Tiles of requests, as they are drawn; the padding is not looked at."""
        tile, called = plan.settings.tile, times_of(plan)
        requests = {r.index: r for r in load_suite(plan.suite).requests(range(images))}
        hook = self.network.register_forward_pre_hook(lambda _, given: watch.tick(float(given[1][0])))
        try:
            with watched(self.network.encoding, watch.see):
                for group in tiles(list(requests), tile):
                    rows = [requests[group[0]]] * tile
                    for index in group:
                        rows[index % tile] = requests[index]
                    watch.begin([index % tile for index in group], called)
                    with suppress(Enough):
                        self.opened.draw(rows, plan.settings)
        finally:
            hook.remove()


class Prompted:
    """A pipeline that draws one prompt at a time; where it guides by a second branch, the prompt's stands last."""

    left_out = "text tokens"

    def __init__(self, opened: PipelineDrawer):
        self.opened = opened

    def run(self, plan: Plan, images: int, watch: Watch) -> None:
        """Requests one by one; the scheduler's times are known when the transformer is first called."""
        opened, network = self.opened, self.opened.network
        steps: Iterator[float] = iter(())
        load_backbone(plan.checkpoint.backbone).reveal(network)

        def before(_: nn.Module, __: object) -> None:
            nonlocal steps
            if not watch.rows:
                called = [float(time) for time in opened.pipe.scheduler.timesteps]
                watch.begin([-1], called)
                steps = iter(called)
            watch.tick(next(steps))

        def see(layer: int, q: Tensor, k: Tensor) -> None:
            assert network.places is not None  # set by the hook of every forward
            whole, image, of_image = network.places
            if q.shape[2] == len(whole):  # SD3.5 has a second attention, of the image alone
                watch.see(layer, q[:, :, image], k[:, :, image], of_image)

        hook = network.transformer.register_forward_pre_hook(before)
        network.watch = see
        try:
            for request in load_suite(plan.suite).requests(range(images)):
                watch.rows = []
                with suppress(Enough):
                    opened.draw([request], plan.settings)
        finally:
            hook.remove()
            network.watch = None


class Named:
    """A network that names pictures: one forward each, no times."""

    left_out = "class token"

    def __init__(self, opened: Classifier, network: EncodedNetwork, place: Path | None):
        self.opened, self.network, self.place = opened, network, place

    def run(self, plan: Plan, images: int, watch: Watch) -> None:
        """Pictures spread evenly over the suite; the network's `extra` tokens, if it has some, stand before those of the patches."""
        suite, tile, skip = load_picture_suite(plan.suite), plan.settings.tile, self.network.extra
        pictures = suite.pictures(self.place, None)
        if (held := len(pictures.names)) < images:
            raise OptionError(f"suite {plan.suite} has {held:,} pictures here, --images asks for {images:,}; lower it")

        def see(layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
            watch.see(layer, q[:, :, skip:], k[:, :, skip:], positions[skip:])

        with watched(self.network.encoding, see):
            for group in tiles(list(range(images)), tile):
                chosen = [i * held // images for i in group]
                looks = [pictures.look(i, pictures.data(i), plan.settings.resolution, suite.crop_ratio) for i in chosen]
                watch.begin(list(range(len(looks))))
                self.opened.classify(np.stack([*looks, *[looks[0]] * (tile - len(looks))]))
