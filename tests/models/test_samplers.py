"""Samplers: exact on distributions whose best network is known in closed form."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Settings
from harope_bench.models.samplers import ddim, ddpm
from harope_bench.models.samplers.base import load_settings_sampler
from harope_bench.models.samplers.flow import TIME_SCALE, Flow
from harope_bench.models.samplers.noise import index_generator, unit_noise
from harope_bench.pipeline.generate import make_plan

MEAN, DEVIATION = 0.7, 0.25  # of the one-dimensional Gaussian that is to be drawn
FLOW, DDPM, DDIM = (registry.load_by_name("samplers", name) for name in ("flow", "ddpm", "ddim"))


def generators(n: int, seed: int = 0) -> list[Generator]:
    return [index_generator(seed, i) for i in range(n)]


def alphas_bar() -> list[float]:
    """Products of 1 - beta with betas from 1e-4 to 0.02, one at a time."""
    product, records = 1.0, []
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        records.append(product)
    return records


A = alphas_bar()


def best_velocity(x: Tensor, time: Tensor) -> Tensor:
    """E[noise - clean | x_t] of the Gaussian, t = time / 1000."""
    t = float(time[0]) / TIME_SCALE
    variance = (1 - t) ** 2 * DEVIATION**2 + t**2
    clean_count = MEAN + (1 - t) * DEVIATION**2 / variance * (x - (1 - t) * MEAN)
    noise = t / variance * (x - (1 - t) * MEAN)
    return noise - clean_count


def best_noise(x: Tensor, time: Tensor) -> Tensor:
    """E[noise | x_t] of the Gaussian at training step `time`."""
    a = A[int(time[0])]
    return (1 - a) ** 0.5 * (x - a**0.5 * MEAN) / (a * DEVIATION**2 + 1 - a)


def test_the_registry_has_both_samplers() -> None:
    assert {"flow", "ddpm", "ddim"} <= set(registry.list_names("samplers"))


# ------------------------------------------------------------------------------------------- flow


def test_flow_with_the_best_velocity_maps_noise_to_the_gaussian_point_by_point() -> None:
    """The exact flow between two Gaussians is x = mean + spread * noise; Euler's error halves with
    the step.
    """
    noise = unit_noise((64,), generators(4))
    expected = MEAN + DEVIATION * noise
    error = {
        steps: float((FLOW.sample(best_velocity, noise, steps, []) - expected).abs().max())
        for steps in (100, 200, 1600)
    }
    assert error[1600] < 5e-3
    assert error[100] / error[200] == pytest.approx(2, rel=0.2)


def test_flow_draws_the_right_mean_and_variance() -> None:
    generated_sample = FLOW.sample(best_velocity, unit_noise((5000,), generators(4)), 400, [])
    n = generated_sample.numel()
    assert float(generated_sample.mean()) == pytest.approx(MEAN, abs=4 * DEVIATION / math.sqrt(n))
    assert float(generated_sample.std()) == pytest.approx(
        DEVIATION, rel=4 / math.sqrt(2 * n) + 0.01
    )  # 1% of Euler error


def test_flow_asks_equal_steps_from_noise_to_data() -> None:
    items: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == (2,)
        assert time[0] == time[1]
        items.append(float(time[0]))
        return torch.ones_like(x)

    out = FLOW.sample(network, torch.zeros(2, 3), 4, [])
    assert items == [1000, 750, 500, 250]
    assert out.tolist() == [[-1.0] * 3] * 2  # a constant velocity is integrated exactly


def test_flow_pairs_lie_on_straight_lines_at_logit_normal_times() -> None:
    clean_unit_noise, noise = (
        unit_noise((2, 3), generators(3)),
        unit_noise((2, 3), generators(3, seed=1)),
    )
    uniform = torch.tensor([0.1, 0.5, 0.9])
    pair = FLOW.training_example(clean_unit_noise, noise, uniform)
    for i, u in enumerate(uniform.tolist()):
        t = 1 / (1 + math.exp(-NormalDist().inv_cdf(u)))
        assert float(pair.time[i]) == pytest.approx(1000 * t, rel=1e-5)
        torch.testing.assert_close(
            pair.noised_input[i], (1 - t) * clean_unit_noise[i] + t * noise[i], rtol=1e-5, atol=1e-6
        )
    assert torch.equal(pair.target, noise - clean_unit_noise)
    assert (
        FLOW.training_example(clean_unit_noise, noise, torch.tensor([0.0, 0.5, 1 - 2**-24]))
        .time.isfinite()
        .all()
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_shift_moves_times_towards_noise_and_keeps_both_ends(shift: float) -> None:
    items: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        items.append(float(time[0]) / TIME_SCALE)
        return torch.ones_like(x)

    out = Flow(shift).sample(network, torch.zeros(1, 3), 4, [])
    assert items == pytest.approx(
        [shift * t / (1 + (shift - 1) * t) for t in (1, 0.75, 0.5, 0.25)], rel=1e-6
    )
    assert items[1] == pytest.approx(
        {1.0: 0.75, 3.0: 0.9}[shift]
    )  # sd3's shift 3 by hand: 2.25 / 2.5
    assert out.tolist() == [pytest.approx([-1.0] * 3)]


# ------------------------------------------------------------------------------------------- ddpm


@pytest.mark.parametrize("steps", [1000, 50])
def test_ddpm_with_the_best_noise_draws_the_gaussian(steps: int) -> None:
    """Sampling a Gaussian with the exact network is linear: mean and variance follow from a
    recursion, and so must the draws.
    """
    generators_of_rows = generators(8)
    noise = unit_noise((2000,), generators_of_rows)
    generated_sample = DDPM.sample(best_noise, noise, steps, generators_of_rows).double()
    mean, variance = by_recursion(steps)
    n = generated_sample.numel()
    assert float(generated_sample.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert float(generated_sample.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
    assert mean == pytest.approx(MEAN, abs=0.01)
    # The smaller, posterior variance draws too narrow in few steps (Nichol and Dhariwal 2021,
    # section 3.1): 18% at 50, 1% at 1,000.
    assert DEVIATION * (0.98 if steps == 1000 else 0.8) < math.sqrt(variance) < DEVIATION


def by_recursion(steps: int) -> tuple[float, float]:
    """Mean and variance of what ancestral sampling with the best network ends in."""
    kept_linspace_timesteps = ddpm.linspace_timesteps(steps)
    mean, variance = 0.0, 1.0
    for t, s in reversed(
        list(zip(kept_linspace_timesteps, [None, *kept_linspace_timesteps[:-1]], strict=True))
    ):
        gain, shift, noise = posterior_line(t, s)
        mean, variance = gain * mean + shift, gain**2 * variance + noise
    return mean, variance


def posterior_line(t: int, s: int | None) -> tuple[float, float, float]:
    """x_s = gain x_t + shift + noise of that variance, with x_0 replaced by its best guess from
    x_t.
    """
    a, b = A[t], 1.0 if s is None else A[s]
    guess_gain = (
        a**0.5 * DEVIATION**2 / (a * DEVIATION**2 + 1 - a)
    )  # E[x_0 | x_t] = MEAN + guess_gain (x_t - sqrt(a) MEAN)
    per_clean, per_noised, noise = posterior(a, b)
    return per_clean * guess_gain + per_noised, per_clean * MEAN * (1 - guess_gain * a**0.5), noise


def posterior(a: float, b: float) -> tuple[float, float, float]:
    """q(x_s | x_t, x_0) by conditioning the joint Gaussian of (x_s, x_t) given x_0: slow, and
    unlike the sampler's formula.

    Means sqrt(b) x_0 and sqrt(a) x_0; variances 1 - b and 1 - a; covariance sqrt(a / b) (1 - b).
    Returns the weights of x_0 and x_t in the mean, and the variance.
    """
    covariance = math.sqrt(a / b) * (1 - b)
    gain = covariance / (1 - a)
    return math.sqrt(b) - gain * math.sqrt(a), gain, (1 - b) - covariance * gain


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_every_ddpm_step_is_the_posterior(steps: int) -> None:
    """Step by step against the joint Gaussian, with a network that is wrong on purpose, so that
    nothing cancels.
    """
    items: list[Tensor] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        items.append(x)
        return 0.3 * x + 0.1

    rows = 3
    noise = unit_noise((4,), generators(rows))
    result = DDPM.sample(network, noise, steps, generators(rows, seed=1))
    kept_linspace_timesteps, fresh_generators = (
        ddpm.linspace_timesteps(steps),
        generators(rows, seed=1),
    )
    assert len(items) == steps
    for i, (before, after) in enumerate(zip(items, [*items[1:], result], strict=True)):
        steps_result = steps - 1 - i
        a, b = (
            A[kept_linspace_timesteps[steps_result]],
            A[kept_linspace_timesteps[steps_result - 1]] if steps_result else 1.0,
        )
        clean_before = (before.double() - math.sqrt(1 - a) * (0.3 * before + 0.1)) / math.sqrt(a)
        per_clean, per_noised, variance = posterior(a, b)
        expected = per_clean * clean_before + per_noised * before
        if steps_result:
            expected = expected + math.sqrt(variance) * unit_noise((4,), fresh_generators)
        torch.testing.assert_close(
            after.double(), expected, rtol=1e-4, atol=1e-4 * float(clean_before.abs().max())
        )


def test_the_last_ddpm_step_adds_no_noise() -> None:
    noise = unit_noise((4,), generators(2))
    first_sample, second_sample = (
        DDPM.sample(best_noise, noise, 1, generators(2, seed=s)) for s in (1, 2)
    )
    assert torch.equal(first_sample, second_sample)


def test_ddpm_pairs_are_noised_by_the_schedule() -> None:
    clean_unit_noise, noise = (
        unit_noise((2, 3), generators(4)),
        unit_noise((2, 3), generators(4, seed=1)),
    )
    pair = DDPM.training_example(
        clean_unit_noise, noise, torch.tensor([0.0, 0.2505, 0.9999, 1 - 2**-24])
    )
    assert pair.time.tolist() == [0, 250, 999, 999]
    for i, step in enumerate([0, 250, 999, 999]):
        torch.testing.assert_close(
            pair.noised_input[i],
            math.sqrt(A[step]) * clean_unit_noise[i] + math.sqrt(1 - A[step]) * noise[i],
            rtol=1e-5,
            atol=1e-6,
        )
    assert torch.equal(pair.target, noise)
    assert pair.time.dtype == torch.float32


def test_the_schedule_is_linear_in_beta() -> None:
    np.testing.assert_allclose(DDPM.alphas_cumprod.numpy(), A, rtol=1e-12)
    assert A[-1] == pytest.approx(
        4.04e-5, rel=0.01
    )  # Ho et al. 2020: nearly nothing of the image is left


def test_kept_steps_include_both_ends_and_never_repeat() -> None:
    for steps in (2, 3, 7, 50, 250, 501, 997, 998, 999, 1000):
        kept_linspace_timesteps = ddpm.linspace_timesteps(steps)
        assert (
            kept_linspace_timesteps[0],
            kept_linspace_timesteps[-1],
            len(kept_linspace_timesteps),
        ) == (0, 999, steps)
        assert all(b > a for a, b in pairwise(kept_linspace_timesteps))
        strides = {b - a for a, b in pairwise(kept_linspace_timesteps)}
        assert max(strides) - min(strides) <= 1
    assert ddpm.linspace_timesteps(1000) == list(range(1000))


def test_a_single_step_starts_from_pure_noise() -> None:
    assert ddpm.linspace_timesteps(1) == [999]


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_steps_that_were_never_trained_are_refused(steps: int) -> None:
    with pytest.raises(
        OptionError, match=f"1 to 1000 steps, found {steps}; give --steps in that range"
    ):
        DDPM.sample(best_noise, unit_noise((4,), generators(1)), steps, generators(1))


def test_respacing_is_dits_for_its_own_number_of_steps() -> None:
    """250 sections of 1,000: exact fractions have no tie to round, so summed floats must give the
    same.
    """
    assert ddpm.linspace_timesteps(250) == [round(Fraction(999 * i, 249)) for i in range(250)]
    assert ddpm.linspace_timesteps(250)[:4] + ddpm.linspace_timesteps(250)[-2:] == [
        0,
        4,
        8,
        12,
        995,
        999,
    ]


def speaker(x: Tensor, time: Tensor) -> Tensor:
    """A network with learned sigma: noise, and a share of the variance that is neither end of the
    range; a function of x and time.
    """
    return torch.cat((0.4 * x + 0.1, (x + time[:, None, None, None] / 700).sin()), 1)


def by_formulas(start: Tensor, steps: int, fresh_generator: Generator) -> Tensor:
    """Ancestral sampling with a learned range, number by number in float64 (Nichol and Dhariwal
    2021, equations 14 and 15; 19).
    """
    times = [round(i * 999 / (steps - 1)) for i in range(steps)]
    x = start.double()
    for folder in reversed(range(steps)):
        t = times[folder]
        a, before = A[t], A[times[folder - 1]] if folder else 1.0
        beta = 1 - a / before
        speaker_result = speaker(x.float(), torch.tensor([float(t)])).double()
        noise, share = speaker_result[:, : x.shape[1]], speaker_result[:, x.shape[1] :]
        clean_value = (x - math.sqrt(1 - a) * noise) / math.sqrt(a)
        per_clean, per_noised, smallest = posterior(a, before)
        x = per_clean * clean_value + per_noised * x
        if folder:
            part = (share + 1) / 2
            deviation = torch.exp((part * math.log(beta) + (1 - part) * math.log(smallest)) / 2)
            x = x + deviation * torch.randn(x.shape, generator=fresh_generator).double()
    return x


@pytest.mark.parametrize("steps", [2, 7, 250])
def test_a_learned_sigma_moves_the_variance_between_the_posteriors_and_beta(steps: int) -> None:
    start = unit_noise((4, 2, 2), generators(1))
    sample = DDPM.sample(speaker, start, steps, generators(1, seed=1))
    expected = by_formulas(start, steps, generators(1, seed=1)[0])
    torch.testing.assert_close(
        sample.double(), expected, rtol=2e-4, atol=2e-4 * float(expected.abs().max())
    )  # float32 over many steps
    silent_sample = DDPM.sample(
        lambda x, time: speaker(x, time)[:, :4], start, steps, generators(1, seed=1)
    )
    assert (
        silent_sample - sample
    ).abs().max() > 1e-3  # without a share the posterior's variance stands


def test_the_network_is_told_the_training_process_own_step() -> None:
    items: list[float] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        items.append(float(time[0]))
        return torch.zeros_like(x)

    DDPM.sample(network, torch.zeros(1, 4), 4, generators(1))
    assert items == [999, 666, 333, 0]


@pytest.mark.parametrize("steps", [1000, 50])
def test_ddpm_agrees_with_diffusers(steps: int) -> None:
    """DDPMScheduler with learned_range on evenly spread steps: the same schedule from another hand,
    in float32.
    """
    schedulers = pytest.importorskip("diffusers", reason="needs the extra t2i")
    library_scheduler = schedulers.DDPMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        variance_type="learned_range",
        clip_sample=False,
        timestep_spacing="linspace",
    )
    library_scheduler.set_timesteps(steps)
    x = start = unit_noise((4, 2, 2), generators(1))
    fresh_generator = generators(1, seed=1)[0]
    for t in library_scheduler.timesteps:
        x = library_scheduler.step(
            speaker(x, t[None].float()), t, x, generator=fresh_generator
        ).prev_sample
    sample = DDPM.sample(speaker, start, steps, generators(1, seed=1))
    assert library_scheduler.timesteps.tolist() == ddpm.linspace_timesteps(steps)[::-1]
    torch.testing.assert_close(
        sample, x, rtol=1e-3, atol=1e-3 * float(x.abs().max())
    )  # their products of alphas are float32


# ------------------------------------------------------------------------------------------- ddim


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [50, 250])
def test_ddim_agrees_with_diffusers(steps: int, eta: float) -> None:
    """DDIMScheduler with leading steps, which are DiT's "ddimN" where N divides 1,000."""
    schedulers = pytest.importorskip("diffusers", reason="needs the extra t2i")
    library_scheduler = schedulers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="leading"
    )
    library_scheduler.set_timesteps(steps)
    x = start = unit_noise((4, 2, 2), generators(1))
    fresh_generator = generators(1, seed=1)[0]
    for t in library_scheduler.timesteps:
        x = library_scheduler.step(
            speaker(x, t[None].float())[:, :4], t, x, eta=eta, generator=fresh_generator
        ).prev_sample
    sample = ddim.Ddim(eta).sample(speaker, start, steps, generators(1, seed=1))
    torch.testing.assert_close(sample, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_ddim_without_noise_maps_noise_to_the_gaussian_point_by_point() -> None:
    """The exact map between two Gaussians is x = mean + spread * noise; no generator is asked."""
    noise = unit_noise((64,), generators(4))
    error = [
        float((DDIM.sample(best_noise, noise, steps, []) - (MEAN + DEVIATION * noise)).abs().max())
        for steps in (50, 500)
    ]
    assert error[1] < 0.02
    assert error[1] < error[0] / 5


def test_ddim_with_full_noise_is_the_posterior_of_each_step() -> None:
    """eta = 1 is ancestral sampling (Song et al. 2020, section 4.1): equal draws where the kept
    steps are the same, all of them.
    """
    noise = unit_noise((8,), generators(2))
    first_sample, second_sample = (
        s.sample(best_noise, noise, 1000, generators(2, seed=1)) for s in (ddim.Ddim(1.0), DDPM)
    )
    torch.testing.assert_close(first_sample, second_sample, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("steps", "near_text"), [(999, "1000"), (1, "2"), (0, "2"), (300, "334"), (1001, "1000")]
)
def test_steps_that_no_stride_gives_are_refused(steps: int, near_text: str) -> None:
    with pytest.raises(
        OptionError,
        match=f"no constant stride gives {steps} of 1000 steps; --steps {near_text} works",
    ):
        DDIM.check_steps(steps)
    assert ddim.leading_timesteps(int(near_text))[0] == 0
    assert [len(ddim.leading_timesteps(n)) for n in (2, 50, 100, 250, 500)] == [
        2,
        50,
        100,
        250,
        500,
    ]
    assert ddim.leading_timesteps(250) == list(range(0, 1000, 4))


# ------------------------------------------------------------------------------- rows and
# generators


def sine_network(x: Tensor, time: Tensor) -> Tensor:
    """Any network that treats rows alike."""
    return 0.3 * x.sin() + 0.001 * time[:, None]


@pytest.mark.parametrize("name", registry.list_names("samplers"))
def test_each_row_draws_from_its_own_generator_alone(name: str) -> None:
    sampler, order = registry.load_by_name("samplers", name), [2, 0, 3, 1]
    start = unit_noise((5,), generators(4))
    straight_sample = sampler.sample(sine_network, start, 6, generators(4, seed=1))
    shuffled_sample = sampler.sample(
        sine_network, start[order], 6, [generators(4, seed=1)[i] for i in order]
    )
    assert torch.equal(shuffled_sample, straight_sample[order])
    alone_sample = sampler.sample(sine_network, start[1:2], 6, generators(4, seed=1)[1:2])
    assert torch.equal(alone_sample, straight_sample[1:2])


@pytest.mark.parametrize("name", registry.list_names("samplers"))
def test_samplers_leave_their_inputs_and_the_global_generator_alone(name: str) -> None:
    start, state = unit_noise((5,), generators(2)), torch.get_rng_state()
    before = start.clone()
    registry.load_by_name("samplers", name).sample(sine_network, start, 3, generators(2))
    assert torch.equal(start, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_samples_generator_is_a_function_of_seed_and_index() -> None:
    first_values = {
        (s, i): float(torch.randn((), generator=index_generator(s, i)))
        for s in range(3)
        for i in range(12)
    }
    assert len(set(first_values.values())) == len(
        first_values
    )  # (1, 12) and (11, 2) may not meet either
    assert float(torch.randn((), generator=index_generator(1, 12))) != float(
        torch.randn((), generator=index_generator(11, 2))
    )
    assert float(torch.randn((), generator=index_generator(2, 7))) == first_values[2, 7]


def test_the_noise_of_index_0_is_pinned() -> None:
    """Published runs are redrawn from these bits; a change here is a change of every image."""
    assert unit_noise((3,), [index_generator(0, 0)])[0].tolist() == pytest.approx(
        PINNED_VALUES, abs=1e-6
    )


PINNED_VALUES = [1.2861531, -0.7996154, 1.0627854]


# ------------------------------------------------------------------------------------- spacing of
# the training steps


def called_times(sampler: Any, steps: int) -> list[int]:
    """The times that a sampler calls its network with, ascending."""
    times: list[int] = []

    def network(x: Tensor, time: Tensor) -> Tensor:
        times.append(int(time[0]))
        return x

    sampler.sample(network, torch.zeros(1, 1), steps, generators(1))
    return times[::-1]


def settings(**changes: Any) -> Settings:
    return Settings(
        **{"resolution": 28, "sampler": "ddim", "steps": 10, "guidance": 1, "tile": 1, **changes}
    )


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_both_spacings_of_dits_create_diffusion_are_taken_by_name(name: str) -> None:
    even_counts = [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]  # create_diffusion("10")
    stride = list(range(0, 1000, 100))  # create_diffusion("ddim10")
    assert (
        called_times(load_settings_sampler(settings(sampler=name, spacing="linspace")), 10)
        == even_counts
    )
    assert (
        called_times(load_settings_sampler(settings(sampler=name, spacing="leading")), 10) == stride
    )
    assert called_times(load_settings_sampler(settings(sampler=name)), 10) == (
        stride if name == "ddim" else even_counts
    )
    assert called_times(registry.load_by_name("samplers", name), 10) == (
        stride if name == "ddim" else even_counts
    )  # the shared one is left alone


def test_a_number_of_steps_is_checked_by_the_spacing() -> None:
    load_settings_sampler(settings(spacing="linspace")).check_steps(300)  # no stride gives 300
    with pytest.raises(OptionError, match="no constant stride gives 300 of 1000 steps"):
        load_settings_sampler(settings(sampler="ddpm", spacing="leading")).check_steps(300)
    with pytest.raises(OptionError, match="spacing leading does not apply to sampler flow"):
        load_settings_sampler(settings(sampler="flow", spacing="leading"))


def test_a_spacing_that_is_not_named_or_is_the_samplers_own_keeps_a_plans_digest(
    make_checkpoint: Any, bench_home: Path
) -> None:
    make_checkpoint("noise")
    path = bench_home / "checkpoints" / "noise.toml"
    path.write_text(path.read_text().replace('sampler = "flow"', 'sampler = "ddim"'))
    plain_plan, own_plan, other_plan = (
        make_plan("noise", None, {"resolution": 8, "spacing": s})
        for s in (None, "leading", "linspace")
    )
    assert plain_plan.digest == own_plan.digest != other_plan.digest
    assert "spacing" not in plain_plan.digest_fields()["settings"]
