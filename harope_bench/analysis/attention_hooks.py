"""Networks at work, watched: which forward is at one of the asked times, and the queries and keys
of the image's own tokens.
"""

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
from harope_bench.core.index_ranges import group_by_padded_batch
from harope_bench.core.schema import Plan
from harope_bench.encodings.base import Encoding
from harope_bench.models.backbones.base import (
    Classifier,
    ImageGenerator,
    LoadedCheckpoint,
    load_backbone,
)
from harope_bench.models.backbones.diffusers_networks import PipelineImageGenerator
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.samplers.base import load_settings_sampler
from harope_bench.models.samplers.noise import index_generator
from harope_bench.suites.base import load_classification_suite, load_suite

RecordQueryKey = Callable[
    [int, Tensor, Tensor, Tensor], None
]  # layer, queries and keys (B, heads, N, head_dim), positions (N, axes)


class StopForwardError(Exception):
    """All times were seen; the rest of the way need not be drawn."""


@contextmanager
def record_rotations(encoding: Encoding, see: RecordQueryKey) -> Iterator[None]:
    """Shows `see` what `rotate` returns, with its layer and positions; the encoding is as before
    afterwards.
    """
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


def sampler_times(plan: Plan) -> list[float]:
    """The times that the plan's sampler calls its network with, in their order."""
    called: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        called.append(float(time[0]))
        return x

    assert plan.settings.steps is not None  # the networks looked at here draw
    load_settings_sampler(plan.settings).sample(
        network, torch.zeros(1, 1, 1, 1), plan.settings.steps, [index_generator(0, 0)]
    )
    return called


def nearest_times(wanted: Sequence[float], called: Sequence[float]) -> list[float]:
    """For each wanted time the called one closest to it, each once, falling."""
    return sorted(
        {min(called, key=lambda time: (abs(time - want), time)) for want in wanted}, reverse=True
    )


class QueryKeyRecorder:
    """Hands queries and keys of the asked rows at the chosen times to `take`, and keeps the
    positions.

    `chosen` is empty for a network that knows no times: then every forward counts.
    """

    def __init__(
        self, wanted: Sequence[float], take: Callable[[int, Tensor, Tensor, Tensor], None]
    ):
        self.wanted = wanted
        self.consume = take
        self.recorded_times: list[float] = []
        self.remaining_times: list[float] = []
        self.rows: list[int] = []
        self.is_recording = False
        self.positions: Tensor | None = None

    def start(self, rows: list[int], called: Sequence[float] = ()) -> None:
        """A new way from noise to image, whose network is called at these times, or one forward
        that has none.
        """
        self.rows = rows
        self.is_recording = not called
        self.recorded_times = nearest_times(self.wanted, called) if called else []
        self.remaining_times = list(self.recorded_times)

    def start_forward(self, now: float) -> None:
        """At the start of a forward: is this one of the times?"""
        self.is_recording = bool(self.remaining_times) and math.isclose(
            now, self.remaining_times[0], abs_tol=1e-3
        )
        if self.is_recording:
            self.remaining_times.pop(0)
        elif not self.remaining_times:
            raise StopForwardError

    def record(self, layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        """Queries and keys of the image's tokens (B, heads, N, head_dim) of a layer, and where
        these are.
        """
        if self.is_recording:
            self.positions = positions
            self.consume(layer, q[self.rows], k[self.rows], positions)


class RecordedRunner(Protocol):
    """How an opened network is run while it is watched. `left_out`: tokens that are no part of the
    image.
    """

    excluded_tokens: str

    def run(self, plan: Plan, images: int, watch: QueryKeyRecorder) -> None:
        """Runs it on the first `images` requests or pictures of the plan's suite."""


def make_runner(opened: LoadedCheckpoint, plan: Plan, place: Path | None) -> RecordedRunner:
    """The way of what `open_checkpoint` returned; BenchError for a network that shows no queries
    and keys.
    """
    network = opened.network
    if isinstance(network, EncodedNetwork):
        if isinstance(opened, PipelineImageGenerator):
            return PromptRunner(opened)
        if isinstance(opened, Classifier):
            return ClassifierRunner(opened, network, place)
        if isinstance(opened, ImageGenerator):
            return LabelRunner(opened, network)
    raise BenchError(
        f"backbone {plan.checkpoint.backbone} shows no queries and keys; look at a checkpoint of"
        " dit, deit, flux or sd3"
    )


class LabelRunner:
    """A network that draws from labels; the labelled branch stands first in a guided batch, so the
    asked rows are the same in both.
    """

    excluded_tokens = ""

    def __init__(self, opened: ImageGenerator, network: EncodedNetwork):
        self.loaded = opened
        self.network = network

    def run(self, plan: Plan, images: int, watch: QueryKeyRecorder) -> None:
        """Tiles of requests, as they are drawn; the padding is not looked at."""
        tile = plan.settings.tile
        called = sampler_times(plan)
        requests = {r.index: r for r in load_suite(plan.suite).requests(range(images))}
        hook = self.network.register_forward_pre_hook(
            lambda _, given: watch.start_forward(float(given[1][0]))
        )
        try:
            with record_rotations(self.network.encoding, watch.record):
                for group in group_by_padded_batch(list(requests), tile):
                    rows = [requests[group[0]]] * tile
                    for index in group:
                        rows[index % tile] = requests[index]
                    watch.start([index % tile for index in group], called)
                    with suppress(StopForwardError):
                        self.loaded.generate(rows, plan.settings)
        finally:
            hook.remove()


class PromptRunner:
    """A pipeline that draws one prompt at a time; where it guides by a second branch, the prompt's
    stands last.
    """

    excluded_tokens = "text tokens"

    def __init__(self, opened: PipelineImageGenerator):
        self.opened = opened

    def run(self, plan: Plan, images: int, watch: QueryKeyRecorder) -> None:
        """Requests one by one; the scheduler's times are known when the transformer is first
        called.
        """
        opened = self.opened
        network = self.opened.network
        steps: Iterator[float] = iter(())
        load_backbone(plan.checkpoint.backbone).expose_attention(network)

        def before(_: nn.Module, __: object) -> None:
            nonlocal steps
            if not watch.rows:
                called = [float(time) for time in opened.pipe.scheduler.timesteps]
                watch.start([-1], called)
                steps = iter(called)
            watch.start_forward(next(steps))

        def see(layer: int, q: Tensor, k: Tensor) -> None:
            assert network.token_positions is not None  # set by the hook of every forward
            whole, image, of_image = network.token_positions
            if q.shape[2] == len(whole):  # SD3.5 has a second attention, of the image alone
                watch.record(layer, q[:, :, image], k[:, :, image], of_image)

        hook = network.transformer.register_forward_pre_hook(before)
        network.attention_callback = see
        try:
            for request in load_suite(plan.suite).requests(range(images)):
                watch.rows = []
                with suppress(StopForwardError):
                    opened.draw([request], plan.settings)
        finally:
            hook.remove()
            network.attention_callback = None


class ClassifierRunner:
    """A network that names pictures: one forward each, no times."""

    excluded_tokens = "class token"

    def __init__(self, opened: Classifier, network: EncodedNetwork, place: Path | None):
        self.opened = opened
        self.network = network
        self.place = place

    def run(self, plan: Plan, images: int, watch: QueryKeyRecorder) -> None:
        """Pictures spread evenly over the suite; the network's `extra` tokens, if it has some,
        stand before those of the patches.
        """
        suite = load_classification_suite(plan.suite)
        tile = plan.settings.tile
        skip = self.network.num_prefix_tokens
        pictures = suite.real_images(self.place, None)
        if (held := len(pictures.names)) < images:
            raise OptionError(
                f"suite {plan.suite} has {held:,} pictures here, --count asks for {images:,};"
                " lower it"
            )

        def see(layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
            watch.record(layer, q[:, :, skip:], k[:, :, skip:], positions[skip:])

        with record_rotations(self.network.encoding, see):
            for group in group_by_padded_batch(list(range(images)), tile):
                chosen = [i * held // images for i in group]
                looks = [
                    pictures.decode(
                        i, pictures.read_bytes(i), plan.settings.resolution, suite.crop_ratio
                    )
                    for i in chosen
                ]
                watch.start(list(range(len(looks))))
                self.opened.classify(np.stack([*looks, *[looks[0]] * (tile - len(looks))]))
