"""The contract of a backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.testing.contract_violations import ContractViolations

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harope_bench.core.record_base import Option
    from harope_bench.core.schema import Checkpoint, Request, Settings
    from harope_bench.models.backbones.base import ImageGenerator, LoadedCheckpoint
    from harope_bench.models.backbones.encoded_network import EncodedNetwork


class _TrialModel(NamedTuple):
    """What a backbone is tried with."""

    checkpoint: Checkpoint
    settings: Settings
    state: dict[str, Tensor]


def check_backbone(
    name: str,
    config: Mapping[str, Option],
    encoding: str = "rope-axial",
    options: Mapping[str, Option] | None = None,
    resolution: int | None = None,
    sampler: str = "flow",
    request: Callable[[int], Request] | None = None,
    drawing: Mapping[str, Option] | None = None,
) -> None:
    """Holds a registered backbone to the contract of models/backbones/base.py: built small, given
    random weights, drawn from or read with.

    Args:
        name: a registered backbone.
        config: sizes of a small network.
        encoding: the encoding it is built with.
        options: of that encoding.
        resolution: of the images; the config's `size` if not given.
        sampler: what it is drawn with, in two steps.
        request: the request of an index; by default labels run through the config's `classes`,
            prompts name the index.
        drawing: further Settings, by field, without which it does not draw (an autoencoder).

    Raises:
        AssertionError: lists every promise that does not hold.
    """
    from harope_bench.models.backbones.base import load_backbone

    is_classifier = load_backbone(name).task == "classify"
    kind = _ClassifierContract if is_classifier else _BackboneContract
    side = resolution or int(config["size"])
    bench = kind(
        name,
        dict(config),
        encoding,
        dict(options or {}),
        side,
        sampler,
        request,
        dict(drawing or {}),
    )
    shared = [
        bench.declares_its_tile,
        bench.declares_conditioning_and_settings,
        bench.builds_the_same_from_one_seed,
        bench.loads_strictly,
        bench.recognises_its_state_dict,
        bench.rejects_foreign_weights,
    ]
    bench.complaints.run_checks([*shared, *bench.task_checks()])


class _BackboneContract:
    """One backbone on the bench, one method a promise."""

    BATCH_ROWS = 4  # a tile small enough for a test

    def __init__(
        self,
        name: str,
        config: dict[str, Option],
        encoding: str,
        options: dict[str, Option],
        resolution: int,
        sampler: str,
        request: Callable[[int], Request] | None,
        drawing: dict[str, Option],
    ):
        from harope_bench.models.backbones.base import load_backbone

        self.backbone = load_backbone(name)
        self.name = name
        self.config = config
        self.encoding = encoding
        self.options = options
        self.resolution = resolution
        self.sampler = sampler
        self.drawing = drawing
        self.request = request or self.default_request
        self.complaints = ContractViolations(f"backbone {name} with {encoding}")
        self.expect = self.complaints.expect

    def default_request(self, index: int) -> Request:
        """A request whose label and prompt follow from the index."""
        from harope_bench.core.schema import Request

        return Request(
            index=index,
            label=index % int(self.config.get("classes", 1)),
            prompt=f"image number {index}",
        )

    def build(self, seed: int = 0) -> EncodedNetwork:
        """A fresh network, the same for the same seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.backbone.build(self.encoding, self.options, self.config)

    def make_trial(self, seed: int = 0, weights: int = 0) -> _TrialModel:
        """A checkpoint with noise on all weights, because a fresh network may draw nothing
        (adaLN-Zero).
        """
        import torch

        from harope_bench.core.schema import Checkpoint, Settings

        rng = torch.Generator().manual_seed(weights)
        state = {
            k: v + 0.05 * torch.randn(v.shape, generator=rng)
            for k, v in self.build().state_dict().items()
        }
        checkpoint = Checkpoint(
            name="trial", backbone=self.name, encoding=self.encoding, options=self.options, config=self.config,
            weights="trial.safetensors", sha256="0" * 64, source="check_backbone", sampler=self.sampler, steps=2, guidance=1.5,
        )  # fmt: skip
        settings = Settings(
            resolution=self.resolution, sampler=self.sampler, steps=2, guidance=1.5, tile=self.BATCH_ROWS, seed=seed, **self.drawing
        )  # fmt: skip
        return _TrialModel(checkpoint, settings, state)

    def load(self, trial: _TrialModel) -> LoadedCheckpoint:
        """The trial's network, ready to draw or to classify."""
        return self.backbone.open(trial.checkpoint, trial.state, trial.settings)

    def load_generator(self, trial: _TrialModel) -> ImageGenerator:
        """The trial's drawer; AssertionError where the backbone opens something else."""
        from harope_bench.models.backbones.base import ImageGenerator

        opened = self.load(trial)
        assert isinstance(opened, ImageGenerator), (
            f"`open` gives a {type(opened).__name__}, wanted one derived from Drawer"
        )
        return opened

    def generate(self, trial: _TrialModel, indices: Sequence[int]) -> np.ndarray:
        """Images of these indices, one tile."""
        return (
            self.load_generator(trial)
            .generate([self.request(i) for i in indices], trial.settings)
            .images
        )

    def task_checks(self) -> list[Callable[[], None]]:
        """The promises of a backbone that draws."""
        return [
            self.generates_images,
            self.generates_rows_independently,
            self.generates_from_seed_and_weights,
            self.leaves_global_generators_alone,
        ]

    # Each method below is one promise.

    def declares_its_tile(self) -> None:
        """The padded batch shape is a positive number."""
        tile = getattr(
            self.backbone, "tile", None
        )  # getattr: a plug-in that forgets it is what is looked for
        self.expect(
            isinstance(tile, int) and tile > 0, f"`tile` is {tile!r}, wanted a positive integer"
        )

    def declares_conditioning_and_settings(self) -> None:
        """Plans learn from the backbone alone what its networks take, which settings they read, and
        what registration prints.
        """
        from harope_bench.core.conditioning import Conditioning
        from harope_bench.core.schema import Settings

        taken = self.backbone.conditioning(self.config)
        self.expect(
            isinstance(taken, Conditioning),
            f"`conditioning` gives {taken!r}, wanted a Conditioning",
        )
        checkpoint = self.make_trial().checkpoint
        read = self.backbone.supported_settings(checkpoint).fields
        self.expect(
            read <= Settings.model_fields.keys(),
            f"reads settings that nobody has: {sorted(read - Settings.model_fields.keys())}",
        )
        self.expect(
            {"resolution", "tile", "device", "dtype"} <= read,
            "does not read resolution, tile, device and dtype",
        )
        side = self.backbone.describe_network(checkpoint).resolution
        self.expect(side is None or side > 0, f"was trained at {side} pixels")

    def builds_the_same_from_one_seed(self) -> None:
        """Initial weights follow from torch's seed; unknown options and encodings are refused."""
        import torch

        from harope_bench.core.errors import OptionError, UnknownNameError

        one = self.build().state_dict()
        other = self.build().state_dict()
        self.expect(
            one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one),
            "two builds from one seed differ",
        )
        for kind, what, arguments in (
            (
                OptionError,
                "option no_such_option",
                (self.encoding, {"no_such_option": 1}, self.config),
            ),
            (
                OptionError,
                "config field no_such_field",
                (self.encoding, self.options, {**self.config, "no_such_field": 1}),
            ),
            (UnknownNameError, "encoding no-such-encoding", ("no-such-encoding", {}, self.config)),
        ):
            self._expect_rejected(
                kind,
                lambda a=arguments: self.backbone.build(*a),
                f"build with {what}",
                what.split()[-1],
            )  # type: ignore[misc]

    def loads_strictly(self) -> None:
        """A missing, an unexpected and a mis-shaped key are each refused by name."""
        from harope_bench.core.errors import WeightsError

        trial = self.make_trial()
        key = sorted(trial.state)[0]
        without = {k: v for k, v in trial.state.items() if k != key}
        for what, state, named in (
            ("a missing key", without, key),
            ("an unexpected key", {**trial.state, "no.such.key": trial.state[key]}, "no.such.key"),
            ("a mis-shaped key", {**trial.state, key: trial.state[key][None]}, key),
        ):
            bad = trial._replace(state=state)
            self._expect_rejected(
                WeightsError, lambda t=bad: self.load(t), f"open with {what}", named
            )  # type: ignore[misc]

    def _expect_rejected(
        self, kind: type[Exception], call: Callable[[], object], what: str, named: str = ""
    ) -> None:
        try:
            call()
        except kind as error:
            self.expect(named in str(error), f"{what} is refused without naming {named}: {error}")
        except Exception as error:  # noqa: BLE001 - the wrong kind of error is the finding
            self.expect(
                False, f"{what} ends in {type(error).__name__} ({error}), wanted {kind.__name__}"
            )
        else:
            self.expect(False, f"{what} is taken, wanted {kind.__name__}")

    def recognises_its_state_dict(self) -> None:
        """`recognise` tells sizes that build the same network again, and never a wrong encoding."""
        from harope_bench.core.state_dicts import load_state_strictly

        trial = self.make_trial()
        clue = self.backbone.detect_fields(trial.state)
        if clue is None:
            self.expect(False, "does not recognise its own state dict")
            return
        self.expect(
            clue.encoding in (None, self.encoding),
            f"takes its {self.encoding} weights for {clue.encoding}",
        )
        wrong = {k: v for k, v in clue.config.items() if self.config.get(k) != v}
        self.expect(
            not wrong,
            f"reads {wrong} off its keys, built with { {k: self.config.get(k) for k in wrong} }",
        )
        again = self.backbone.build(
            clue.encoding or self.encoding, self.options, {**self.config, **clue.config}
        )
        load_state_strictly(again, trial.state, "its own weights")

    def rejects_foreign_weights(self) -> None:
        """Foreign keys are not recognised, and settings it can draw are not refused."""
        import torch

        self.expect(self.backbone.detect_fields({}) is None, "recognises an empty state dict")
        self.expect(
            self.backbone.detect_fields({"foreign.weight": torch.zeros(2, 2)}) is None,
            "recognises a foreign state dict",
        )
        trial = self.make_trial()
        self.backbone.check_inputs(trial.checkpoint, trial.settings)

    def generates_images(self) -> None:
        """A tile comes out as uint8 (B, H, W, 3), and its images differ."""
        import numpy as np

        images = self.generate(self.make_trial(), range(self.BATCH_ROWS))
        wanted = (self.BATCH_ROWS, self.resolution, self.resolution, 3)
        self.expect(
            images.shape == wanted and images.dtype == np.uint8,
            f"draws {images.shape} {images.dtype}, wanted {wanted} uint8",
        )
        self.expect(
            len({image.tobytes() for image in images}) == self.BATCH_ROWS,
            "draws equal images for different indices",
        )
        trial = self.make_trial()
        spoiled = trial._replace(state={k: v * math.nan for k, v in trial.state.items()})
        faults = (
            self.load_generator(spoiled)
            .generate([self.request(i) for i in range(self.BATCH_ROWS)], spoiled.settings)
            .failures
        )
        self.expect(
            set(faults) == set(range(self.BATCH_ROWS)),
            "does not call a row that is not finite a fault",
        )

    def generates_rows_independently(self) -> None:
        """The request in row i has the same bits whatever stands in the other rows, and whenever it
        is drawn.
        """
        import numpy as np

        trial = self.make_trial()
        drawer = self.load_generator(trial)
        wanted = self.generate(trial, range(self.BATCH_ROWS))
        for row in range(self.BATCH_ROWS):
            rows = [row if i == row else 100 + i for i in range(self.BATCH_ROWS)]
            for indices in (rows, [row] * self.BATCH_ROWS):
                images = drawer.generate([self.request(i) for i in indices], trial.settings).images
                same = np.array_equal(images[row], wanted[row])
                self.expect(
                    same,
                    f"row {row} changes with its neighbours {indices}: a sample may depend on its"
                    " own request alone",
                )

    def generates_from_seed_and_weights(self) -> None:
        """Another seed or other weights: other images; the same: the same."""
        import numpy as np

        wanted = self.generate(self.make_trial(), range(self.BATCH_ROWS))
        indices = range(self.BATCH_ROWS)
        self.expect(
            not np.array_equal(self.generate(self.make_trial(seed=1), indices), wanted),
            "another seed draws the same images",
        )
        self.expect(
            not np.array_equal(self.generate(self.make_trial(weights=1), indices), wanted),
            "other weights draw the same images",
        )
        self.expect(
            np.array_equal(self.generate(self.make_trial(), indices), wanted),
            "a checkpoint opened again draws other images",
        )

    def leaves_global_generators_alone(self) -> None:
        """Opening and drawing neither read nor move torch's or numpy's global generators."""
        import numpy as np
        import torch

        wanted = self.generate(self.make_trial(), range(self.BATCH_ROWS))
        torch.manual_seed(99)
        # type: ignore[index]
        state = torch.get_rng_state()
        numpy_state = np.random.get_state()[1].tobytes()
        trial = self.make_trial()
        images = self.generate(trial, range(self.BATCH_ROWS))
        moved = (
            not torch.equal(state, torch.get_rng_state())
            or np.random.get_state()[1].tobytes() != numpy_state
        )  # type: ignore[index]
        self.expect(not moved, "moves a global random generator")
        self.expect(
            np.array_equal(images, wanted), "its images depend on a global random generator"
        )


class _ClassifierContract(_BackboneContract):
    """A backbone that names pictures."""

    def task_checks(self) -> list[Callable[[], None]]:
        """The promises of a backbone that names pictures."""
        return [
            self.returns_logits,
            self.classifies_rows_independently,
            self.classifies_by_its_weights,
        ]

    def random_images(self, seed: int = 0) -> np.ndarray:
        """Random pictures (ROWS, H, W, 3) uint8."""
        import numpy as np

        return np.random.default_rng(seed).integers(
            0, 256, (self.BATCH_ROWS, self.resolution, self.resolution, 3), dtype=np.uint8
        )

    def logits(self, images: np.ndarray, weights: int = 0) -> np.ndarray:
        """What an opened classifier says of images."""
        from harope_bench.models.backbones.base import Classifier

        opened = self.load(self.make_trial(weights=weights))
        assert isinstance(opened, Classifier), (
            f"`open` gives a {type(opened).__name__}, wanted one derived from Classifier"
        )
        return opened.classify(images)

    def returns_logits(self) -> None:
        """Finite float32 (B, classes) that differ between pictures; the global generators stay as
        they are.
        """
        import numpy as np
        import torch

        state = torch.get_rng_state()
        found = self.logits(self.random_images())
        self.expect(
            torch.equal(state, torch.get_rng_state()), "moves torch's global random generator"
        )
        wanted = (self.BATCH_ROWS, int(self.config["classes"]))
        self.expect(
            found.shape == wanted and found.dtype == np.float32,
            f"gives {found.shape} {found.dtype}, wanted {wanted} float32",
        )
        self.expect(np.isfinite(found).all(), "gives logits that are not finite")
        self.expect(
            len({row.tobytes() for row in found}) == self.BATCH_ROWS,
            "says the same of different pictures",
        )

    def classifies_rows_independently(self) -> None:
        """What is said of row i has the same bits whatever stands in the other rows."""
        import numpy as np

        images = self.random_images()
        others = self.random_images(1)
        wanted = self.logits(images)
        for row in range(self.BATCH_ROWS):
            mixed = others.copy()
            mixed[row] = images[row]
            self.expect(
                np.array_equal(self.logits(mixed)[row], wanted[row]),
                f"row {row} changes with its neighbours",
            )

    def classifies_by_its_weights(self) -> None:
        """Other weights say something else; the same, opened again, the same."""
        import numpy as np

        images = self.random_images()
        self.expect(
            not np.array_equal(self.logits(images), self.logits(images, weights=1)),
            "other weights say the same",
        )
        self.expect(
            np.array_equal(self.logits(images), self.logits(images)),
            "a checkpoint opened again says something else",
        )
