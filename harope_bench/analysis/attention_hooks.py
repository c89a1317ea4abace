"""Recording of queries and keys at requested timesteps while a network generates or classifies.

Only the image's tokens are recorded.
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

# Called with layer, queries and keys (B, heads, N, head_dim), and positions (N, axes).
RecordQueryKey = Callable[[int, Tensor, Tensor, Tensor], None]


class StopForwardError(Exception):
    """The signal that ends a generation early, since all requested times were recorded.

    It reports no failure. `NetworkRunner`s catch it around `generate`.
    """


@contextmanager
def record_rotations(encoding: Encoding, callback: RecordQueryKey) -> Iterator[None]:
    """Call `callback` with layer, queries, keys and positions of each `rotate` in the block."""
    rotate = encoding.rotate

    def recording_encode(
        q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        q, k = rotate(q, k, positions, layer)
        callback(layer, q, k, positions)
        return q, k

    # An attribute of the instance takes precedence over the method of its class.
    encoding.__dict__["rotate"] = recording_encode
    try:
        yield
    finally:
        del encoding.__dict__["rotate"]


def sampler_times(plan: Plan) -> list[float]:
    """Return the times that the plan's sampler calls its network with, in order.

    Raises:
        OptionError: The times depend on what the network returns.
    """
    sampler = load_settings_sampler(plan.settings)
    if sampler.is_adaptive:
        raise OptionError(
            f"sampler {plan.settings.sampler} chooses its times while it samples, so none can be"
            " requested; choose another --sampler"
        )
    network_times: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        network_times.append(float(time[0]))
        return x

    assert plan.settings.steps is not None  # a classifier has no sampler and is not passed here
    sampler.sample(network, torch.zeros(1, 1, 1, 1), plan.settings.steps, [index_generator(0, 0)])
    return network_times


def nearest_times(requested_times: Sequence[float], network_times: Sequence[float]) -> list[float]:
    """Return the network time nearest to each requested time, each once, in falling order."""
    nearest = {
        min(network_times, key=lambda time: (abs(time - requested_time), time))
        for requested_time in requested_times
    }
    return sorted(nearest, reverse=True)


class QueryKeyRecorder:
    """Passes queries and keys of some rows of a batch, at the requested times, to `consume`.

    For a network without times every forward pass is recorded.
    """

    def __init__(self, requested_times: Sequence[float], consume: RecordQueryKey):
        self.requested_times = requested_times
        self.consume = consume
        self.recorded_times: list[float] = []
        self.remaining_times: list[float] = []
        self.rows: list[int] = []
        self.is_recording = False
        self.positions: Tensor | None = None

    def start(self, rows: list[int], network_times: Sequence[float] = ()) -> None:
        """Start recording a batch.

        Args:
            rows: indices of the rows of the batch that are recorded.
            network_times: the times that the network will be called with; empty for one forward
                pass without a time.
        """
        self.rows = rows
        self.is_recording = not network_times
        self.recorded_times = []
        if network_times:
            self.recorded_times = nearest_times(self.requested_times, network_times)
        self.remaining_times = list(self.recorded_times)

    def start_forward(self, time: float) -> None:
        """Decide at the start of a forward pass whether it is recorded.

        Args:
            time: the network's time, in the unit of the sampler's times.

        Raises:
            StopForwardError: All times were recorded.
        """
        self.is_recording = bool(self.remaining_times) and math.isclose(
            time, self.remaining_times[0], abs_tol=1e-3
        )
        if self.is_recording:
            self.remaining_times.pop(0)
        elif not self.remaining_times:
            raise StopForwardError

    def record(self, layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        """Pass on the rows of q and k (B, heads, N, head_dim) with their positions (N, axes)."""
        if self.is_recording:
            self.positions = positions
            self.consume(layer, q[self.rows], k[self.rows], positions)


class NetworkRunner(Protocol):
    """Runs a network on requests or images while its queries and keys are recorded.

    excluded_tokens: name of the tokens that are no part of the image; empty where there are none.
    """

    excluded_tokens: str

    def run(self, plan: Plan, n_images: int, recorder: QueryKeyRecorder) -> None:
        """Run the network on `n_images` requests or real images of the plan's suite."""


def make_network_runner(
    loaded_checkpoint: LoadedCheckpoint, plan: Plan, images_folder: Path | None
) -> NetworkRunner:
    """Return the runner for a checkpoint's network: for prompts, for labels or for real images.

    Args:
        plan: the plan of the run; its backbone is named in the error.
        images_folder: real images for a classifier whose suite ships none.

    Raises:
        BenchError: The network does not expose queries and keys.
    """
    network = loaded_checkpoint.network
    if isinstance(network, EncodedNetwork):
        if isinstance(loaded_checkpoint, PipelineImageGenerator):
            return PromptRunner(loaded_checkpoint)
        if isinstance(loaded_checkpoint, Classifier):
            return ClassifierRunner(loaded_checkpoint, network, images_folder)
        if isinstance(loaded_checkpoint, ImageGenerator):
            return LabelRunner(loaded_checkpoint, network)
    raise BenchError(
        f"backbone {plan.checkpoint.backbone} does not expose queries and keys; use a checkpoint of"
        " dit, deit, flux or sd3"
    )


class LabelRunner:
    """Runner of a network that generates from labels.

    In a guided batch the branch with labels is first, so its rows are those of the requests.
    """

    def __init__(self, generator: ImageGenerator, network: EncodedNetwork):
        self.generator = generator
        self.network = network
        n_layers = network.encoding.shape.layers
        has_label_tokens = any(network.count_prefix_tokens(layer) for layer in range(n_layers))
        self.excluded_tokens = "label tokens" if has_label_tokens else ""

    def run(self, plan: Plan, n_images: int, recorder: QueryKeyRecorder) -> None:
        """Generate the requests in padded batches; padding rows are not recorded.

        Tokens of the label (JiT) are before those of the image.
        """
        tile = plan.settings.tile
        network_times = sampler_times(plan)
        requests = {r.index: r for r in load_suite(plan.suite).requests(range(n_images))}
        hook = self.network.register_forward_pre_hook(
            lambda _, inputs: recorder.start_forward(float(inputs[1][0]))
        )

        def record_image_tokens(layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
            n_prefix = self.network.count_prefix_tokens(layer)
            image_positions = positions[n_prefix:] if n_prefix else positions
            recorder.record(layer, q[:, :, n_prefix:], k[:, :, n_prefix:], image_positions)

        try:
            with record_rotations(self.network.encoding, record_image_tokens):
                for indices in group_by_padded_batch(list(requests), tile):
                    # Index i is in row i % tile; other rows repeat a request.
                    rows = [requests[indices[0]]] * tile
                    for index in indices:
                        rows[index % tile] = requests[index]
                    recorder.start([index % tile for index in indices], network_times)
                    with suppress(StopForwardError):
                        self.generator.generate(rows, plan.settings)
        finally:
            hook.remove()


class PromptRunner:
    """Runner of a pipeline that generates one prompt at a time.

    With guidance by a second branch, the branch with the prompt is last.
    """

    excluded_tokens = "text tokens"

    def __init__(self, generator: PipelineImageGenerator):
        self.generator = generator

    def run(self, plan: Plan, n_images: int, recorder: QueryKeyRecorder) -> None:
        """Generate the requests one by one.

        The scheduler's times are known when the transformer is first called.
        """
        generator = self.generator
        network = generator.network
        remaining_times: Iterator[float] = iter(())
        load_backbone(plan.checkpoint.backbone).expose_attention(network)

        def start_forward(_: nn.Module, __: object) -> None:
            nonlocal remaining_times
            if not recorder.rows:
                network_times = [float(time) for time in generator.pipe.scheduler.timesteps]
                recorder.start([-1], network_times)
                remaining_times = iter(network_times)
            recorder.start_forward(next(remaining_times))

        def record_attention(layer: int, q: Tensor, k: Tensor) -> None:
            assert network.token_positions is not None  # set by the hook of every forward pass
            positions, image_slice, image_positions = network.token_positions
            # SD3.5 has a second attention, of image tokens alone, which is not recorded.
            if q.shape[2] == len(positions):
                image_q = q[:, :, image_slice]  # (B, heads, image tokens, head_dim)
                image_k = k[:, :, image_slice]  # (B, heads, image tokens, head_dim)
                recorder.record(layer, image_q, image_k, image_positions)

        hook = network.transformer.register_forward_pre_hook(start_forward)
        network.attention_callback = record_attention
        try:
            for request in load_suite(plan.suite).requests(range(n_images)):
                recorder.rows = []
                with suppress(StopForwardError):
                    generator.generate([request], plan.settings)
        finally:
            hook.remove()
            network.attention_callback = None


class ClassifierRunner:
    """Runner of a classifier: one forward pass for each image, without times."""

    excluded_tokens = "class token"

    def __init__(self, classifier: Classifier, network: EncodedNetwork, images_folder: Path | None):
        self.classifier = classifier
        self.network = network
        self.images_folder = images_folder

    def run(self, plan: Plan, n_images: int, recorder: QueryKeyRecorder) -> None:
        """Classify images spread evenly over the suite.

        Prefix tokens of the network, such as a class token, are before those of the image.
        """
        suite = load_classification_suite(plan.suite)
        settings = plan.settings
        n_prefix = self.network.num_prefix_tokens
        real_images = suite.real_images(self.images_folder, None)
        available_count = len(real_images.names)
        if available_count < n_images:
            raise OptionError(
                f"suite {plan.suite} has {available_count:,} images here, but --count requests"
                f" {n_images:,}; lower it"
            )

        def record_image_tokens(layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
            image_q = q[:, :, n_prefix:]  # (B, heads, image tokens, head_dim)
            image_k = k[:, :, n_prefix:]  # (B, heads, image tokens, head_dim)
            recorder.record(layer, image_q, image_k, positions[n_prefix:])

        with record_rotations(self.network.encoding, record_image_tokens):
            for group in group_by_padded_batch(list(range(n_images)), settings.tile):
                decoded_images = []
                for i in (number * available_count // n_images for number in group):
                    data = real_images.read_bytes(i)
                    decoded_images.append(
                        real_images.decode(i, data, settings.resolution, suite.crop_ratio)
                    )
                recorder.start(list(range(len(decoded_images))))
                padding = [decoded_images[0]] * (settings.tile - len(decoded_images))
                self.classifier.classify(np.stack([*decoded_images, *padding]))  # (tile, H, W, 3)
