"""The contract of a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harope_bench.models.samplers.base import Predictor, Sampler

N_ROWS = 4
WIDTH = 5
N_STEPS = 6
N_TIMES = 2_001  # times at which the ideal prediction is tabulated
IDEAL_STEPS = 20
# Tabulated times end a little before pure noise, which moves the image by less than this.
IDEAL_TOLERANCE = 0.1


def check_sampler(name: str | Sampler) -> int:
    """Check a sampler against the contract of models/samplers/base.py.

    Args:
        name: a registered sampler, or the plug-in itself.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The sampler violates the contract; every violation is listed.
    """
    from harope_bench.models.samplers.base import load_sampler

    sampler = load_sampler(name) if isinstance(name, str) else name
    violations = ContractViolations(
        f"sampler {name if isinstance(name, str) else type(name).__qualname__}"
    )
    contract = _SamplerContract(sampler, violations)
    return violations.run_checks(
        [
            contract.check_required_members,
            contract.check_training_examples,
            contract.check_sampled_images,
            contract.check_sample_row_independence,
            contract.check_inputs_unchanged,
            contract.check_network_determines_samples,
            contract.check_predicted_image_is_sampled,
        ]
    )


class _SamplerContract:
    """The contract of one sampler, one method for each requirement."""

    def __init__(self, sampler: Sampler, violations: ContractViolations):
        self.sampler = sampler
        self.expect = violations.expect

    def sample(
        self, network: Predictor, noise: Tensor, steps: int = N_STEPS, seed: int = 0
    ) -> Tensor:
        """Return images sampled from noise, with a generator for each row."""
        return self.sampler.sample(network, noise, steps, _generators(len(noise), seed))

    # Each method below checks one requirement.

    def check_required_members(self) -> None:
        """Check prediction type and spacings."""
        from harope_bench.models.samplers.base import Sampler

        prediction_type = getattr(self.sampler, "prediction_type", None)  # a plug-in may lack it
        self.expect(
            isinstance(prediction_type, str) and prediction_type.strip(),
            f"prediction_type is {prediction_type!r}, wanted a text",
        )
        for spacing in self.sampler.spacings:
            spaced_sampler = self.sampler.with_spacing(spacing)
            self.expect(
                isinstance(spaced_sampler, Sampler),
                f"with_spacing({spacing!r}) returns a {type(spaced_sampler).__name__}",
            )
        self.sampler.check_steps(N_STEPS)

    def check_training_examples(self) -> None:
        """Check shapes, finite values and unchanged inputs of a training example."""
        import torch

        clean = _noise(N_ROWS, 1)
        noise = _noise(N_ROWS, 2)
        uniform = torch.linspace(0, 0.999, N_ROWS)
        copies = [x.clone() for x in (clean, noise, uniform)]
        example = self.sampler.training_example(clean, noise, uniform)
        for field, tensor, shape in (
            ("noised_input", example.noised_input, clean.shape),
            ("time", example.time, uniform.shape),
            ("target", example.target, clean.shape),
        ):
            self.expect(
                tensor.shape == shape,
                f"training_example has {field} of {tuple(tensor.shape)}, wanted {tuple(shape)}",
            )
            self.expect(
                tensor.isfinite().all(), f"training_example has a {field} that is not finite"
            )
        self.expect(
            all(torch.equal(a, b) for a, b in zip((clean, noise, uniform), copies, strict=True)),
            "training_example changes its inputs",
        )

    def check_sampled_images(self) -> None:
        """Check shape, dtype and finite values of samples, and that calls are deterministic."""
        import torch

        noise = _noise(N_ROWS, 3)
        images = self.sample(_bent_network, noise)
        self.expect(
            images.shape == noise.shape and images.dtype == noise.dtype,
            f"samples {tuple(images.shape)} {images.dtype}, wanted {tuple(noise.shape)}"
            f" {noise.dtype}",
        )
        self.expect(images.isfinite().all(), "samples images that are not finite")
        self.expect(
            torch.equal(images, self.sample(_bent_network, noise)),
            "samples other images at the second call",
        )

    def check_sample_row_independence(self) -> None:
        """Check that a row depends on its own noise and generator alone."""
        import torch

        noise = _noise(N_ROWS, 3)
        images = self.sample(_bent_network, noise)
        order = [2, 0, 3, 1]
        generators = _generators(N_ROWS, 0)
        shuffled_images = self.sampler.sample(
            _bent_network, noise[order], N_STEPS, [generators[i] for i in order]
        )
        self.expect(
            torch.equal(shuffled_images, images[order]),
            "a row changes with its position: take its noise from generators[i]",
        )
        single_image = self.sampler.sample(
            _bent_network, noise[1:2], N_STEPS, _generators(N_ROWS, 0)[1:2]
        )
        self.expect(torch.equal(single_image, images[1:2]), "a row changes with its neighbours")

    def check_inputs_unchanged(self) -> None:
        """Check that neither the noise nor torch's global generator changes."""
        import torch

        noise = _noise(N_ROWS, 3)
        noise_copy = noise.clone()
        state = torch.get_rng_state()
        self.sample(_bent_network, noise)
        self.expect(torch.equal(noise, noise_copy), "changes its noise in place")
        self.expect(
            torch.equal(torch.get_rng_state(), state), "moves torch's global random generator"
        )

    def check_network_determines_samples(self) -> None:
        """Check that a network is called as often as declared, and that it decides the images."""
        import torch

        n_calls = 0

        def counting_network(x: Tensor, time: Tensor) -> Tensor:
            nonlocal n_calls
            n_calls += 1
            return _bent_network(x, time)

        noise = _noise(N_ROWS, 3)
        images = self.sample(counting_network, noise)
        n_declared = self.sampler.network_calls(N_STEPS)
        is_expected = n_calls == n_declared
        if self.sampler.is_adaptive:
            is_expected = 0 < n_calls <= n_declared
        self.expect(
            is_expected,
            f"calls its network {n_calls} times in {N_STEPS} steps, wanted {n_declared}",
        )
        other_images = self.sample(lambda x, time: -_bent_network(x, time), noise)
        self.expect(not torch.equal(images, other_images), "another network gives equal images")

    def check_predicted_image_is_sampled(self) -> None:
        """Check that the ideal prediction for one image, as in training, samples this image."""
        clean = _noise(1, 5)
        network = self._ideal_network(clean)
        images = self.sample(network, _noise(N_ROWS, 6), steps=IDEAL_STEPS)
        deviation = float((images - clean).abs().max())
        self.expect(
            deviation < IDEAL_TOLERANCE + 4 * self.sampler.residual_noise,
            f"samples an image that is {deviation:.2f} off where the network predicts as in"
            " training_example; both must agree in time and prediction",
        )

    def _ideal_network(self, clean: Tensor) -> Predictor:
        """Return the exact predictor of data that is one image, (1, WIDTH).

        A noised input is a * image + s * noise and a target is c * image + d * noise, with
        numbers of the time alone, which training examples reveal.
        """
        import numpy as np
        import torch

        uniform = torch.arange(N_TIMES, dtype=torch.float64) / N_TIMES
        zeros = torch.zeros(N_TIMES, 1, dtype=torch.float64)
        of_image = self.sampler.training_example(zeros + 1, zeros, uniform)
        of_noise = self.sampler.training_example(zeros, zeros + 1, uniform)
        order = np.argsort(of_image.time.numpy(), kind="stable")
        times = of_image.time.numpy()[order]
        columns = [
            tensor[:, 0].double().numpy()[order]
            for tensor in (
                of_image.noised_input,
                of_noise.noised_input,
                of_image.target,
                of_noise.target,
            )
        ]

        def network(x: Tensor, time: Tensor) -> Tensor:
            a, s, c, d = (
                torch.from_numpy(np.interp(time.double().numpy(), times, column))[:, None]
                for column in columns
            )
            noise = (x.double() - a * clean.double()) / s.clamp(min=1e-6)
            return (c * clean.double() + d * noise).to(x.dtype)

        return network


def _noise(n: int, seed: int) -> Tensor:
    """Return unit noise (n, WIDTH)."""
    import torch

    return torch.randn((n, WIDTH), generator=torch.Generator().manual_seed(seed))


def _generators(n: int, seed: int) -> list[Generator]:
    """Return a generator for each row."""
    import torch

    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(n)]


def _bent_network(x: Tensor, time: Tensor) -> Tensor:
    """Return a prediction (B, WIDTH) that treats rows alike."""
    return 0.3 * x.sin() + 0.001 * time[:, None]
