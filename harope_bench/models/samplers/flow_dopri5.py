"""Rectified flow, sampled by the adaptive method of Dormand and Prince: the ODE sampler of SiT."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor
from harope_bench.models.samplers.flow import TIME_SCALE, Flow
from harope_bench.models.samplers.noise import expand_like

# Tolerances of willisma/SiT:train_utils.py.
ABSOLUTE_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-3

# Dormand and Prince 1980: nodes, coefficients of the stages, and of the difference between the
# solutions of order 5 and 4. The middle of a step is that of Shampine 1986.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR_WEIGHTS = (
    35 / 384 - 1951 / 21600,
    0.0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    -2187 / 6784 + 12231 / 42400,
    11 / 84 - 649 / 6300,
    -1 / 60,
)
MIDDLE_WEIGHTS = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
ORDER = 5
# The next step is at most this much longer or shorter.
MAX_GROWTH = 10.0
MIN_GROWTH = 0.2
SAFETY = 0.9

# (x (B, ...), data times (B,) from 0 at noise to 1 at the image) -> dx/dt (B, ...).
Derivative = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """A trial step of every row.

    Attributes:
        x: (B, ...) after the step.
        slopes: The derivatives of the stages, (B, ...) each; the last is that at the end.
        error: Estimated error relative to the tolerance, (B,) float64; 1 is tolerated.
    """

    x: Tensor
    slopes: list[Tensor]
    error: Tensor


class FlowDopri5(Flow):
    """The flow of `flow`, integrated by steps whose length follows from the estimated error.

    Every row has its own steps, so that an image does not depend on its neighbours. `steps` bounds
    the number of trial steps; a row that needs more has no image. As in torchdiffeq, with which SiT
    samples, the last step passes the image's time and the image is interpolated in it.
    Source: willisma/SiT:transport/integrators.py; rtqichen/torchdiffeq; Hairer, Norsett and Wanner
    1993, section II.4 (length of steps).
    """

    option_names = ()
    is_adaptive = True

    def network_calls(self, steps: int) -> int:
        """Return the largest number of calls: six in a trial step, two before the first."""
        return 6 * steps + 2

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Integrate the velocity from noise to image; a row without image is not a number."""

        def derivative(x: Tensor, times: Tensor) -> Tensor:
            return -network(x, ((1 - times) * TIME_SCALE).float().to(x.device))

        x = noise
        times = torch.zeros(len(x), dtype=torch.float64)  # (B,)
        slope = derivative(x, times)
        lengths = first_lengths(derivative, x, slope)
        images = torch.full_like(x, math.nan)
        is_finished = torch.zeros(len(x), dtype=torch.bool)

        for _ in range(steps):
            step = try_step(derivative, x, slope, times, lengths)
            is_accepted = (step.error <= 1) & ~is_finished
            is_last = is_accepted & (times + lengths >= 1)
            fraction = ((1 - times) / lengths).clamp(max=1)
            image = interpolate(x, step, lengths, fraction)
            images = select_rows(is_last, image, images)
            is_finished |= is_last
            if bool(is_finished.all()):
                return images

            is_moving = is_accepted & ~is_finished
            x = select_rows(is_moving, step.x, x)
            slope = select_rows(is_moving, step.slopes[-1], slope)
            times = torch.where(is_moving, times + lengths, times)
            lengths = torch.where(is_finished, lengths, lengths * growth(step.error))
        return images


def select_rows(is_selected: Tensor, rows: Tensor, other_rows: Tensor) -> Tensor:
    """Return the selected rows of the first tensor, and the others of the second."""
    return torch.where(expand_like(is_selected.to(rows.device), rows), rows, other_rows)


def row_norm(x: Tensor) -> Tensor:
    """Return the root mean square of every row of x (B, ...), as (B,) float64 on the CPU."""
    return x.flatten(1).square().mean(1).sqrt().double().cpu()


def scale_rows(factors: Tensor, x: Tensor) -> Tensor:
    """Return x (B, ...) with every row multiplied by its factor (B,)."""
    return expand_like(factors.to(x), x) * x


def weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return the sum of weights * slopes, (B, ...)."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = total + weight * slope
    return total


def first_lengths(derivative: Derivative, x: Tensor, slope: Tensor) -> Tensor:
    """Return the length of every row's first step, (B,) float64."""
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * x.abs()
    x_norm = row_norm(x / tolerance)
    slope_norm = row_norm(slope / tolerance)
    is_flat = (x_norm < 1e-5) | (slope_norm < 1e-5)
    trial = torch.where(is_flat, torch.full_like(x_norm, 1e-6), 0.01 * x_norm / slope_norm)

    # The change of the slope along a trial step of Euler.
    trial_slope = derivative(x + scale_rows(trial, slope), trial)
    bend = row_norm((trial_slope - slope) / tolerance) / trial
    steepest = torch.maximum(slope_norm, bend)
    length = torch.where(
        steepest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** (1 / ORDER)
    )
    return torch.minimum(100 * trial, length)


def try_step(
    derivative: Derivative, x: Tensor, slope: Tensor, times: Tensor, lengths: Tensor
) -> Step:
    """Return one step of every row from x (B, ...) at its time, of its length (B,)."""
    slopes = [slope]
    end = x
    for node, weights in zip(NODES, STAGES, strict=True):
        end = x + scale_rows(lengths, weighted_sum(weights, slopes))
        slopes.append(derivative(end, times + node * lengths))
    error = scale_rows(lengths, weighted_sum(ERROR_WEIGHTS, slopes))
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * torch.maximum(x.abs(), end.abs())
    return Step(end, slopes, row_norm(error / tolerance))


def interpolate(x: Tensor, step: Step, lengths: Tensor, fraction: Tensor) -> Tensor:
    """Return the polynomial of degree 4 through a step, at a fraction (B,) of its length.

    It has the values of start, middle and end, and the slopes of start and end.
    """
    middle = x + scale_rows(lengths, weighted_sum(MIDDLE_WEIGHTS, step.slopes))
    start_slope = scale_rows(lengths, step.slopes[0])
    end_slope = scale_rows(lengths, step.slopes[-1])
    coefficients = (
        2 * (end_slope - start_slope) - 8 * (step.x + x) + 16 * middle,
        5 * start_slope - 3 * end_slope + 18 * x + 14 * step.x - 32 * middle,
        end_slope - 4 * start_slope - 11 * x - 5 * step.x + 16 * middle,
        start_slope,
        x,
    )
    value = torch.zeros_like(x)
    for coefficient in coefficients:
        value = scale_rows(fraction, value) + coefficient
    return value


def growth(error: Tensor) -> Tensor:
    """Return the factor (B,) from the length of a step to that of the next trial."""
    factor = SAFETY / error ** (1 / ORDER)
    smallest = torch.where(error < 1, 1.0, MIN_GROWTH)
    return torch.maximum(factor, smallest.double()).clamp(max=MAX_GROWTH)


PLUGIN = FlowDopri5()
