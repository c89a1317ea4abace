"""Rectified flow, sampled by Heun's method: two calls of the network in every step but the last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor
from harope_bench.models.samplers.flow import Flow, predict_velocity


class FlowHeun(Flow):
    """The flow of `flow`, integrated by Heun's method; the last step is one of Euler.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1; the sampler of JiT (Li and He 2025).
    """

    def network_calls(self, steps: int) -> int:
        """Return two calls for every step but the last."""
        return 2 * steps - 1

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Integrate the velocity from time 1 to time 0; no noise is added between the steps."""
        x = noise
        for time, next_time in pairwise(self.times(steps)):
            velocity = predict_velocity(network, x, time)
            if next_time > 0:
                # The mean of the velocities at both ends of Euler's step.
                end = x + (next_time - time) * velocity
                velocity = 0.5 * (velocity + predict_velocity(network, end, next_time))
            x = x + (next_time - time) * velocity
        return x


PLUGIN = FlowHeun()
