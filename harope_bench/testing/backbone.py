"""The contract of a backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.testing.contract_violations import ContractViolations, UncheckedContractError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harope_bench.core.record_base import Option
    from harope_bench.core.schema import Checkpoint, Request, Settings
    from harope_bench.models.backbones.base import ImageGenerator, LoadedCheckpoint
    from harope_bench.models.backbones.encoded_network import EncodedNetwork


class _TrialModel(NamedTuple):
    """A checkpoint with its weights and settings, for a test."""

    checkpoint: Checkpoint
    settings: Settings
    state: dict[str, Tensor]


def check_backbone(
    name: str,
    config: Mapping[str, Option] | None = None,
    encoding: str = "rope-axial",
    options: Mapping[str, Option] | None = None,
    resolution: int | None = None,
    sampler: str = "flow",
    make_request: Callable[[int], Request] | None = None,
    settings: Mapping[str, Option] | None = None,
) -> int:
    """Check a registered backbone against the contract of models/backbones/base.py.

    A small network is built with random weights, and generates or classifies a few images.

    Args:
        name: a registered backbone.
        config: sizes of a small network; by default the backbone's `example_config`.
        encoding: the encoding that it is built with.
        options: of that encoding.
        resolution: of the images; by default the config's `size`.
        sampler: generates the images, in two steps.
        make_request: returns the request of an index. By default labels run through the config's
            `classes`, and prompts are the backbone's `example_prompts` or contain the index.
        settings: values of other fields of Settings that generation needs, such as an
            autoencoder.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The backbone violates the contract; every violation is listed.
        UncheckedContractError: No config is given, and the backbone has no `example_config`.
    """
    from harope_bench.models.backbones.base import load_backbone

    backbone = load_backbone(name)
    if not backbone.has_weights_file:
        raise UncheckedContractError(
            f"backbone {name} stands for a Python generator, which no file holds",
            advice="harope_bench.generate checks the generator as it runs",
        )
    if not backbone.has_encoding:
        raise UncheckedContractError(
            f"backbone {name} runs whole pipelines, and has no network of its own",
            advice="register a pipeline: its trial images show whether it repeats its images",
        )
    config = config or backbone.example_config
    if not config:
        raise UncheckedContractError(
            f"backbone {name} declares no example_config, the sizes of a small network",
            advice="pass a config to check_backbone, such as base=FOLDER for a library's pipeline",
        )
    is_classifier = backbone.task == "classify"
    contract_class = _ClassifierContract if is_classifier else _BackboneContract
    contract = contract_class(
        name,
        dict(config),
        encoding,
        dict(options or {}),
        resolution or int(config["size"]),
        sampler,
        make_request,
        dict(settings or {}),
    )
    shared_checks = [
        contract.check_padded_batch_size,
        contract.check_conditioning_and_settings,
        contract.check_seeded_initialization,
        contract.check_strict_loading,
        contract.check_state_dict_recognition,
        contract.check_foreign_weights_rejected,
    ]
    return contract.violations.run_checks([*shared_checks, *contract.task_checks()])


class _BackboneContract:
    """The contract of one backbone, one method for each requirement."""

    BATCH_ROWS = 4  # size of the padded batch, small enough for a test

    def __init__(
        self,
        name: str,
        config: dict[str, Option],
        encoding: str,
        options: dict[str, Option],
        resolution: int,
        sampler: str,
        make_request: Callable[[int], Request] | None,
        settings: dict[str, Option],
    ):
        from harope_bench.models.backbones.base import load_backbone

        self.backbone = load_backbone(name)
        self.name = name
        self.config = config
        self.encoding = encoding
        self.options = options
        self.resolution = resolution
        self.sampler = sampler
        self.extra_settings = settings
        self.make_request = make_request or self.default_request
        self.violations = ContractViolations(f"backbone {name} with {encoding}")
        self.expect = self.violations.expect
        self.add_violation = self.violations.add_violation

    def default_request(self, index: int) -> Request:
        """Return a request whose label and prompt depend on the index."""
        from harope_bench.core.schema import Request

        prompts = self.backbone.example_prompts or (f"image number {index}",)
        return Request(
            index=index,
            label=index % int(self.config.get("classes", 1)),
            prompt=prompts[index % len(prompts)],
        )

    def build(self, seed: int = 0) -> EncodedNetwork:
        """Return a new network, the same for the same seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.backbone.build(self.encoding, self.options, self.config)

    def make_trial(self, seed: int = 0, weights_seed: int = 0) -> _TrialModel:
        """Return a checkpoint with noise on all weights.

        `seed` is that of the generation settings, `weights_seed` that of the noise on the weights.
        Without noise a new network may generate nothing (adaLN-Zero).
        """
        import torch

        from harope_bench.core.schema import Checkpoint, Settings

        rng = torch.Generator().manual_seed(weights_seed)
        state = {
            k: v + 0.05 * torch.randn(v.shape, generator=rng)
            for k, v in self.build().state_dict().items()
        }
        checkpoint = Checkpoint(
            name="trial",
            backbone=self.name,
            encoding=self.encoding,
            options=self.options,
            config=self.config,
            weights="trial.safetensors",
            sha256="0" * 64,
            source="check_backbone",
            sampler=self.sampler,
            steps=2,
            guidance=1.5,
        )
        settings = Settings(
            resolution=self.resolution,
            sampler=self.sampler,
            steps=2,
            guidance=1.5,
            tile=self.BATCH_ROWS,
            seed=seed,
            **self.extra_settings,
        )
        return _TrialModel(checkpoint, settings, state)

    def load(self, trial: _TrialModel) -> LoadedCheckpoint:
        """Return the trial's loaded network, ready to generate or to classify."""
        return self.backbone.open(trial.checkpoint, trial.state, trial.settings)

    def load_generator(self, trial: _TrialModel) -> ImageGenerator:
        """Return the trial's generator; raise AssertionError for an object of another type."""
        from harope_bench.models.backbones.base import ImageGenerator

        generator = self.load(trial)
        assert isinstance(generator, ImageGenerator), (
            f"`open` returns a {type(generator).__name__}, wanted a subclass of ImageGenerator"
        )
        return generator

    def generate(self, trial: _TrialModel, indices: Sequence[int]) -> np.ndarray:
        """Return the images (B, H, W, 3) of these indices, generated as one padded batch."""
        requests = [self.make_request(i) for i in indices]
        return self.load_generator(trial).generate(requests, trial.settings).images

    def task_checks(self) -> list[Callable[[], None]]:
        """Return the checks of a backbone that generates images."""
        return [
            self.check_generated_images,
            self.check_image_row_independence,
            self.check_seed_and_weights_determine_images,
            self.check_global_generators_unchanged,
        ]

    # Each method below checks one requirement.

    def check_padded_batch_size(self) -> None:
        """Check that the padded batch size is a positive number."""
        tile = getattr(self.backbone, "tile", None)  # getattr: a plug-in may lack it
        self.expect(
            isinstance(tile, int) and tile > 0, f"`tile` is {tile!r}, wanted a positive integer"
        )

    def check_conditioning_and_settings(self) -> None:
        """Check conditioning, supported settings and training resolution, which plans depend on."""
        from harope_bench.core.conditioning import Conditioning
        from harope_bench.core.schema import Settings

        conditioning = self.backbone.conditioning(self.config)
        self.expect(
            isinstance(conditioning, Conditioning),
            f"`conditioning` returns {conditioning!r}, wanted a Conditioning",
        )
        checkpoint = self.make_trial().checkpoint
        fields = self.backbone.supported_settings(checkpoint).setting_names
        self.expect(
            fields <= Settings.model_fields.keys(),
            f"reads settings that do not exist: {sorted(fields - Settings.model_fields.keys())}",
        )
        self.expect(
            {"resolution", "tile", "device", "dtype"} <= fields,
            "does not read resolution, tile, device and dtype",
        )
        resolution = self.backbone.describe_network(checkpoint).resolution
        self.expect(resolution is None or resolution > 0, f"was trained at {resolution} pixels")

    def check_seeded_initialization(self) -> None:
        """Check that a seed decides the weights, and that unknown names are rejected."""
        import torch

        from harope_bench.core.errors import OptionError, UnknownNameError

        state_a = self.build().state_dict()
        state_b = self.build().state_dict()
        self.expect(
            state_a.keys() == state_b.keys()
            and all(torch.equal(state_a[k], state_b[k]) for k in state_a),
            "two builds from one seed differ",
        )
        unknown_option = (self.encoding, {"no_such_option": 1}, self.config)
        unknown_field = (self.encoding, self.options, {**self.config, "no_such_field": 1})
        unknown_encoding: tuple[str, dict[str, Option], dict[str, Option]]
        unknown_encoding = ("no-such-encoding", {}, self.config)
        for error_class, description, arguments in (
            (OptionError, "option no_such_option", unknown_option),
            (OptionError, "config field no_such_field", unknown_field),
            (UnknownNameError, "encoding no-such-encoding", unknown_encoding),
        ):
            self._expect_rejected(
                error_class,
                partial(self.backbone.build, *arguments),
                f"build with {description}",
                description.split()[-1],
            )

    def check_strict_loading(self) -> None:
        """Check that a missing, an unexpected and a mis-shaped key are each rejected by name."""
        from harope_bench.core.errors import WeightsError

        trial = self.make_trial()
        key = sorted(trial.state)[0]
        without_key = {k: v for k, v in trial.state.items() if k != key}
        for description, state, expected_name in (
            ("a missing key", without_key, key),
            ("an unexpected key", {**trial.state, "no.such.key": trial.state[key]}, "no.such.key"),
            ("a mis-shaped key", {**trial.state, key: trial.state[key][None]}, key),
        ):
            self._expect_rejected(
                WeightsError,
                partial(self.load, trial._replace(state=state)),
                f"open with {description}",
                expected_name,
            )

    def _expect_rejected(
        self,
        error_class: type[Exception],
        call: Callable[[], object],
        description: str,
        expected_name: str,
    ) -> None:
        """Expect a call to raise an error of this class that contains the name."""
        try:
            call()
        except error_class as error:
            self.expect(
                expected_name in str(error),
                f"{description} is rejected without naming {expected_name}: {error}",
            )
        except Exception as error:  # noqa: BLE001 - the wrong kind of error is the finding
            self.add_violation(
                f"{description} ends in {type(error).__name__} ({error}), wanted"
                f" {error_class.__name__}",
            )
        else:
            self.add_violation(f"{description} is accepted, wanted {error_class.__name__}")

    def check_state_dict_recognition(self) -> None:
        """Check that fields detected from a state dict build the same network again."""
        from harope_bench.core.state_dicts import load_state_strictly

        trial = self.make_trial()
        detected_fields = self.backbone.detect_fields(trial.state)
        if detected_fields is None:
            self.add_violation("does not recognise its own state dict")
            return
        self.expect(
            detected_fields.encoding in (None, self.encoding),
            f"takes its {self.encoding} weights for {detected_fields.encoding}",
        )
        wrong_fields = {k: v for k, v in detected_fields.config.items() if self.config.get(k) != v}
        config_fields = {k: self.config.get(k) for k in wrong_fields}
        self.expect(
            not wrong_fields, f"detects {wrong_fields} from its keys, built with {config_fields}"
        )
        network = self.backbone.build(
            detected_fields.encoding or self.encoding,
            self.options,
            {**self.config, **detected_fields.config},
        )
        load_state_strictly(network, trial.state, "its own weights")

    def check_foreign_weights_rejected(self) -> None:
        """Check that foreign keys are not recognised, and that valid settings are accepted."""
        import torch

        self.expect(self.backbone.detect_fields({}) is None, "recognises an empty state dict")
        self.expect(
            self.backbone.detect_fields({"foreign.weight": torch.zeros(2, 2)}) is None,
            "recognises a foreign state dict",
        )
        trial = self.make_trial()
        self.backbone.check_inputs(trial.checkpoint, trial.settings)

    def check_generated_images(self) -> None:
        """Check shape, dtype and variety of a batch, and that non-finite rows are failures."""
        import numpy as np

        images = self.generate(self.make_trial(), range(self.BATCH_ROWS))
        expected_shape = (self.BATCH_ROWS, self.resolution, self.resolution, 3)
        self.expect(
            images.shape == expected_shape and images.dtype == np.uint8,
            f"generates {images.shape} {images.dtype}, wanted {expected_shape} uint8",
        )
        self.expect(
            len({image.tobytes() for image in images}) == self.BATCH_ROWS,
            "generates equal images for different indices",
        )

        trial = self.make_trial()
        nan_trial = trial._replace(state={k: v * math.nan for k, v in trial.state.items()})
        requests = [self.make_request(i) for i in range(self.BATCH_ROWS)]
        output = self.load_generator(nan_trial).generate(requests, nan_trial.settings)
        self.expect(
            set(output.failures) == set(range(self.BATCH_ROWS)),
            "does not report a row that is not finite as a failure",
        )

    def check_image_row_independence(self) -> None:
        """Check that an image has the same bits whatever the other rows are, at any call."""
        import numpy as np

        trial = self.make_trial()
        generator = self.load_generator(trial)
        expected = self.generate(trial, range(self.BATCH_ROWS))
        for row in range(self.BATCH_ROWS):
            other_requests = [row if i == row else 100 + i for i in range(self.BATCH_ROWS)]
            for indices in (other_requests, [row] * self.BATCH_ROWS):
                requests = [self.make_request(i) for i in indices]
                images = generator.generate(requests, trial.settings).images
                self.expect(
                    np.array_equal(images[row], expected[row]),
                    f"row {row} changes with its neighbours {indices}: a sample may depend on its"
                    " own request alone",
                )

    def check_seed_and_weights_determine_images(self) -> None:
        """Check that images depend on seed and weights, and on nothing else."""
        import numpy as np

        indices = range(self.BATCH_ROWS)
        expected = self.generate(self.make_trial(), indices)
        self.expect(
            not np.array_equal(self.generate(self.make_trial(seed=1), indices), expected),
            "another seed generates the same images",
        )
        self.expect(
            not np.array_equal(self.generate(self.make_trial(weights_seed=1), indices), expected),
            "other weights generate the same images",
        )
        self.expect(
            np.array_equal(self.generate(self.make_trial(), indices), expected),
            "a checkpoint loaded again generates other images",
        )

    def check_global_generators_unchanged(self) -> None:
        """Check that loading and generating neither read nor move torch's or numpy's generators."""
        import numpy as np
        import torch

        expected = self.generate(self.make_trial(), range(self.BATCH_ROWS))
        torch.manual_seed(99)
        torch_state = torch.get_rng_state()
        numpy_state = _numpy_state()
        images = self.generate(self.make_trial(), range(self.BATCH_ROWS))
        self.expect(
            torch.equal(torch_state, torch.get_rng_state()) and _numpy_state() == numpy_state,
            "moves a global random generator",
        )
        self.expect(
            np.array_equal(images, expected), "its images depend on a global random generator"
        )


def _numpy_state() -> bytes:
    """Return the state of numpy's global random generator."""
    import numpy as np

    return np.random.get_state()[1].tobytes()  # type: ignore[index]


class _ClassifierContract(_BackboneContract):
    """The contract of a backbone that classifies images."""

    def task_checks(self) -> list[Callable[[], None]]:
        """Return the checks of a backbone that classifies images."""
        return [
            self.check_logits,
            self.check_logits_row_independence,
            self.check_weights_determine_logits,
        ]

    def random_images(self, seed: int = 0) -> np.ndarray:
        """Return random images (BATCH_ROWS, H, W, 3) uint8."""
        import numpy as np

        return np.random.default_rng(seed).integers(
            0, 256, (self.BATCH_ROWS, self.resolution, self.resolution, 3), dtype=np.uint8
        )

    def logits(self, images: np.ndarray, weights_seed: int = 0) -> np.ndarray:
        """Return the logits (B, classes) of images (B, H, W, 3)."""
        from harope_bench.models.backbones.base import Classifier

        classifier = self.load(self.make_trial(weights_seed=weights_seed))
        assert isinstance(classifier, Classifier), (
            f"`open` returns a {type(classifier).__name__}, wanted a subclass of Classifier"
        )
        return classifier.classify(images)

    def check_logits(self) -> None:
        """Check the logits: (B, classes), finite, float32, different for different images.

        torch's global generator must not move.
        """
        import numpy as np
        import torch

        torch_state = torch.get_rng_state()
        logits = self.logits(self.random_images())
        self.expect(
            torch.equal(torch_state, torch.get_rng_state()),
            "moves torch's global random generator",
        )
        expected_shape = (self.BATCH_ROWS, int(self.config["classes"]))
        self.expect(
            logits.shape == expected_shape and logits.dtype == np.float32,
            f"gives {logits.shape} {logits.dtype}, wanted {expected_shape} float32",
        )
        self.expect(np.isfinite(logits).all(), "gives logits that are not finite")
        self.expect(
            len({row.tobytes() for row in logits}) == self.BATCH_ROWS,
            "gives the same logits for different images",
        )

    def check_logits_row_independence(self) -> None:
        """Check that the logits of row i have the same bits whatever the other rows are."""
        import numpy as np

        images = self.random_images()
        other_images = self.random_images(1)
        expected = self.logits(images)
        for row in range(self.BATCH_ROWS):
            batch = other_images.copy()
            batch[row] = images[row]
            self.expect(
                np.array_equal(self.logits(batch)[row], expected[row]),
                f"row {row} changes with its neighbours",
            )

    def check_weights_determine_logits(self) -> None:
        """Check that logits depend on the weights, and are equal when these are loaded again."""
        import numpy as np

        images = self.random_images()
        self.expect(
            not np.array_equal(self.logits(images), self.logits(images, weights_seed=1)),
            "other weights give the same logits",
        )
        self.expect(
            np.array_equal(self.logits(images), self.logits(images)),
            "a checkpoint loaded again gives other logits",
        )
