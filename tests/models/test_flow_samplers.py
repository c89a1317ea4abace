"""The samplers of flows by Heun, by Dormand and Prince, and as a stochastic equation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Settings
from harope_bench.models.samplers import flow_dopri5, flow_sde
from harope_bench.models.samplers.base import load_settings_sampler

MEAN, SPREAD = 2.0, 0.5  # of the images: every value is a Gaussian of its own


def best_velocity(x: Tensor, time: Tensor, spread: float = SPREAD) -> Tensor:
    """The velocity E[noise - image | x] of Gaussian images, whose noised values are Gaussian."""
    t = (time.double() / 1000).view(-1, *[1] * (x.dim() - 1))
    variance = (1 - t) ** 2 * spread**2 + t**2
    away = x.double() - (1 - t) * MEAN
    return ((t - (1 - t) * spread**2) / variance * away - MEAN).to(x.dtype)


def load_sampler(name: str) -> Any:
    return registry.load_by_name("samplers", name)


def starts(rows: int = 4, width: int = 50) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


# ------------------------------------------------------------------------------------------- Heun


def test_heuns_error_falls_with_the_square_of_the_step_and_eulers_with_the_step() -> None:
    """The exact flow takes noise to MEAN + SPREAD * noise."""
    noise = starts()
    errors = {
        (name, steps): float(
            (
                load_sampler(name).sample(best_velocity, noise, steps, generators(4))
                - (MEAN + SPREAD * noise)
            )
            .abs()
            .max()
        )
        for name in ("flow", "flow-heun")
        for steps in (40, 80)
    }
    assert 1.7 < errors["flow", 40] / errors["flow", 80] < 2.3
    assert errors["flow-heun", 40] / errors["flow-heun", 80] > 3
    assert errors["flow-heun", 40] < errors["flow", 80] / 5


def test_heun_takes_the_mean_of_both_ends_and_ends_with_euler() -> None:
    calls: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        calls.append(float(time[0]))
        return x * time.view(-1, 1).double() / 1000

    x = load_sampler("flow-heun").sample(network, torch.ones(1, 1).double(), 2, generators(1))
    assert calls == [1000, 500, 500]
    first = 1.0 - 0.5 * (1.0 * 1.0 + 0.5 * 0.5) / 2  # slopes x t at both ends; Euler ends at 0.5
    assert float(x) == pytest.approx(first - 0.5 * first * 0.5, rel=1e-12)


# -------------------------------------------------------------------------------------------- SDE


@pytest.mark.parametrize("diffusion", list(flow_sde.DIFFUSIONS))
def test_the_noise_on_the_way_changes_no_distribution(diffusion: str) -> None:
    """20,000 values of deviation 2: mean and deviation differ by 4 standard errors at most. The
    last step without noise makes samples narrower by up to 0.04 / 2^2, a fraction of 0.01.
    """
    noise, spread = starts(4, 5000).float(), 2.0

    def network(x: Tensor, time: Tensor) -> Tensor:
        return best_velocity(x, time, spread)

    sampler = load_sampler("flow-sde").with_options({"diffusion": diffusion})
    x = sampler.sample(network, noise, 400, generators(4))
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * spread / math.sqrt(20_000) + 0.01)
    assert float(x.std()) == pytest.approx(spread, abs=4 * spread / math.sqrt(40_000) + 0.03)
    # It is no flow: equal starts end elsewhere.
    flow = load_sampler("flow").sample(network, noise, 400, generators(4))
    assert float((x - flow).std()) > 0.4


def sit_step(
    x: float, velocity: float, t: float, next_t: float, weight: float, noise: float
) -> float:
    """One step of SiT's sampler in its own time, from 0 at noise to 1 at the image: its score is
    (t v - x) / (1 - t), with v the velocity image - noise.
    """
    score = (t * velocity - x) / ((1 - t) ** 2 + t * (1 - t))
    dt = next_t - t
    return x + (velocity + weight * score) * dt + math.sqrt(2 * weight * dt) * noise


@pytest.mark.parametrize(
    ("diffusion", "weight"),
    [
        ("sigma", lambda t: 1 - t),
        ("constant", lambda t: 1.0),
        ("decreasing", lambda t: 0.25 * (math.cos(math.pi * t) + 1) ** 2),
        ("increasing-decreasing", lambda t: math.sin(math.pi * t) ** 2),
    ],
)
def test_every_step_is_sits(diffusion: str, weight: object) -> None:
    assert callable(weight)
    sampler = load_sampler("flow-sde").with_options({"diffusion": diffusion})
    start = torch.tensor([[0.7]], dtype=torch.float64)
    x = sampler.sample(lambda x, time: x.sin() + time.view(-1, 1) / 1000, start, 4, generators(1))

    noise_generator, expected = generators(1)[0], 0.7
    times = [0.0, 0.32, 0.64, 0.96]
    for t, next_t in zip(times, [*times[1:], 1.0], strict=True):
        velocity = -(math.sin(expected) + (1 - t))
        if next_t < 1:
            noise = float(torch.randn(1, generator=noise_generator))
            expected = sit_step(expected, velocity, t, next_t, weight(t), noise)
        else:
            score = (t * velocity - expected) / (1 - t)
            expected += 0.04 * (velocity + weight(t) * score)
    assert float(x) == pytest.approx(expected, rel=1e-6)


# ----------------------------------------------------------------------------- Dormand and Prince


def test_dopri5_is_within_its_tolerance_and_takes_few_steps() -> None:
    noise = starts()
    calls = 0

    def network(x: Tensor, time: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return best_velocity(x, time)

    x = load_sampler("flow-dopri5").sample(network, noise, 250, generators(4))
    # A step tolerates 1e-3 of values up to 4, and the last one is interpolated.
    assert float((x - (MEAN + SPREAD * noise)).abs().max()) < 0.06
    assert calls < 60
    euler = load_sampler("flow").sample(best_velocity, noise, calls, generators(4))
    assert (x - MEAN - SPREAD * noise).std() < (euler - MEAN - SPREAD * noise).std() / 2


def test_dopri5s_step_is_of_order_five() -> None:
    """x' = x: the error of a step falls by 2^6 with half of its length, the estimate by 2^5."""
    one = torch.ones(1, 1, dtype=torch.float64)
    results = {}
    for length in (0.2, 0.1):
        lengths = torch.tensor([length], dtype=torch.float64)
        step = flow_dopri5.try_step(lambda x, times: x, one, one, torch.zeros(1).double(), lengths)
        middle = flow_dopri5.interpolate(one, step, lengths, torch.tensor([0.5]))
        assert float(middle) == pytest.approx(math.exp(length / 2), rel=1e-6)
        results[length] = (abs(float(step.x) - math.exp(length)), float(step.error))
    assert 50 < results[0.2][0] / results[0.1][0] < 80
    assert 20 < results[0.2][1] / results[0.1][1] < 45


def test_rows_of_dopri5_have_steps_of_their_own() -> None:
    """A row that is hard must not change its neighbour, and ends without image if the bound is
    too small.
    """

    def network(x: Tensor, time: Tensor) -> Tensor:
        frequencies = torch.tensor([1.0, 300.0]).view(-1, 1)[: len(x)]
        return torch.cos(frequencies * time.view(-1, 1) / 1000) * x.abs().sqrt()

    noise = torch.full((2, 3), 2.0)
    sampler = load_sampler("flow-dopri5")
    both = sampler.sample(network, noise, 20, generators(2))
    alone = sampler.sample(network, noise[:1], 20, generators(1))
    assert torch.equal(both[0], alone[0]) and both[0].isfinite().all()
    assert both[1].isnan().all()


# ----------------------------------------------------------------------------------------- options


def test_the_settings_of_a_plan_reach_the_sampler() -> None:
    settings: dict[str, Any] = {"resolution": 8, "tile": 1, "steps": 2}
    shifted: Any = load_settings_sampler(Settings(**settings, sampler="flow-heun", shift=3.0))
    assert shifted.shift == 3.0
    assert load_sampler("flow-heun").shift == 1.0
    constant: Any = load_settings_sampler(
        Settings(**settings, sampler="flow-sde", diffusion="constant")
    )
    assert constant.diffusion == "constant"
    with pytest.raises(OptionError, match="shift does not apply to sampler ddpm"):
        load_settings_sampler(Settings(**settings, sampler="ddpm", shift=3.0))


def test_lightningdits_shift_of_data_times_is_ours_of_noise_times() -> None:
    """Its t -> s t / (1 + (s - 1) t) with s = 0.3 counts from noise to data."""
    times = load_sampler("flow").with_options({"shift": 1 / 0.3}).times(9)
    expected = [1 - 0.3 * t / (1 - 0.7 * t) for t in (i / 9 for i in range(10))]
    assert times == pytest.approx(expected, abs=1e-12)
