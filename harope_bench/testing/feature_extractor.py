"""The contract of a feature extractor."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harope_bench.testing.contract_violations import PLAIN_NAME_PATTERN, ContractViolations

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.judges.base import (
        FeatureExtractor,
        Judge,
        LoadedAnnotator,
        LoadedFeatureExtractor,
    )

Expect = Callable[[object, str], None]  # adds a message unless a condition holds

SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


def check_feature_extractor(
    name: str | FeatureExtractor, images: np.ndarray | None = None, device: str = "cpu"
) -> int:
    """Check a feature extractor against the contract of judges/base.py.

    Args:
        name: a registered feature extractor, or the plug-in itself.
        images: (B, H, W, 3) uint8, at least three; by default random ones of 28 x 28.
        device: where it is loaded.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The extractor violates the contract; every violation is listed.
        UncheckedContractError: Its weights are missing; what needs none was checked.
    """
    import numpy as np

    from harope_bench.judges.base import load_feature_extractor

    plugin = load_feature_extractor(name) if isinstance(name, str) else name
    violations = ContractViolations(
        f"judge {name if isinstance(name, str) else type(name).__qualname__}"
    )
    if images is None:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)
    contract = _FeatureExtractorContract(plugin, device, images, violations)
    return violations.run_checks(
        [
            contract.check_required_members,
            contract.check_recorded_weights,
            contract.check_judge_self_checks,
            contract.check_declared_arrays,
            contract.check_image_independence,
        ]
    )


def check_weights_hash(
    plugin: Judge[Any], loaded_judge: LoadedFeatureExtractor | LoadedAnnotator, expect: Expect
) -> None:
    """Expect that a judge loads the weights whose hash it records."""
    loaded_sha256 = loaded_judge.weights_sha256
    expect(
        SHA256_PATTERN.fullmatch(str(loaded_sha256)),
        f"weights_sha256 is {loaded_sha256!r}, wanted 64 hex digits",
    )
    recorded_sha256 = plugin.weights_sha256()
    expect(
        recorded_sha256 == loaded_sha256,
        f"records weights {recorded_sha256}, loads {loaded_sha256}",
    )


def check_self_checks(
    plugin: Judge[Any], loaded_judge: LoadedFeatureExtractor | LoadedAnnotator, expect: Expect
) -> None:
    """Expect that a loaded judge passes its self-checks."""
    for self_check in plugin.self_checks():
        complaint = self_check.check(loaded_judge)
        expect(complaint is None, f"fails its self-check {self_check.name}: {complaint}")


class _FeatureExtractorContract:
    """The contract of one feature extractor, one method for each requirement."""

    # Relative to the largest value. A batch of another size may use another kernel; this is far
    # below what changes a metric.
    BATCH_TOLERANCE = 1e-4

    def __init__(
        self,
        plugin: FeatureExtractor,
        device: str,
        images: np.ndarray,
        violations: ContractViolations,
    ):
        self.plugin = plugin
        self.device = device
        self.images = images
        self.expect = violations.expect

    @cached_property
    def extractor(self) -> LoadedFeatureExtractor:
        """Return the extractor with its weights; raise WeightsError where they are missing."""
        return self.plugin.open(self.device)

    def check_required_members(self) -> None:
        """Check version, class, preprocessing, batch size, and names of arrays."""
        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        classes = ("official", "equivalent", "substitute", "micro")
        expect(
            plugin.judge_class in classes,
            f"judge_class is {plugin.judge_class!r}, wanted one of {', '.join(classes)}",
        )
        expect(
            isinstance(plugin.preprocessing, str) and plugin.preprocessing.strip(),
            "does not describe its preprocessing",
        )
        expect(
            isinstance(plugin.arrays, tuple) and plugin.arrays,
            f"arrays is {plugin.arrays!r}, wanted a tuple of names",
        )
        for array in plugin.arrays:
            expect(PLAIN_NAME_PATTERN.fullmatch(str(array)), f"array name {array!r} is not plain")
        expect(
            len(set(plugin.arrays)) == len(plugin.arrays), f"array names repeat: {plugin.arrays}"
        )
        expect(
            isinstance(plugin.batch_size, int) and plugin.batch_size > 0,
            f"batch_size is {plugin.batch_size!r}, wanted a positive integer",
        )

    def check_recorded_weights(self) -> None:
        """Check that the hash of the loaded weights is the recorded one."""
        check_weights_hash(self.plugin, self.extractor, self.expect)

    def check_judge_self_checks(self) -> None:
        """Check what `open_judge` checks before every use."""
        check_self_checks(self.plugin, self.extractor, self.expect)

    def check_declared_arrays(self) -> None:
        """Check the arrays: exactly the declared ones, float32, finite, one row for each image.

        The input images must not change.
        """
        import numpy as np

        images_copy = self.images.copy()
        features = self.extractor.extract(self.images)
        self.expect(np.array_equal(images_copy, self.images), "changes its input images")
        self.expect(
            set(features) == set(self.plugin.arrays),
            f"returns {sorted(features)}, declares {sorted(self.plugin.arrays)}",
        )
        for name, array in features.items():
            self.expect(array.dtype == np.float32, f"{name} is {array.dtype}, wanted float32")
            self.expect(
                len(array) == len(self.images),
                f"{name} has {len(array)} rows for {len(self.images)} images",
            )
            self.expect(np.isfinite(array).all(), f"{name} is not finite")
            width = self.plugin.widths.get(name, array.shape[1])
            self.expect(
                array.shape[1] == width,
                f"{name} has rows of {array.shape[1]} numbers, declares {width}",
            )
            self.expect(
                len(array) < 2 or not np.array_equal(array[0], array[1]),
                f"{name} is the same for different images",
            )
        repeated_features = self.extractor.extract(self.images)
        self.expect(
            all(np.array_equal(features[k], repeated_features[k]) for k in features),
            "gives other features at the second call",
        )

    def check_image_independence(self) -> None:
        """Check that the features of an image do not depend on the other images of its batch."""
        import numpy as np

        features = self.extractor.extract(self.images)
        order = np.roll(np.arange(len(self.images)), 1)
        reordered_features = self.extractor.extract(self.images[order])
        single_features = self.extractor.extract(self.images[:1])
        for name, array in features.items():
            scale = max(float(np.abs(array).max()), 1e-12)
            for batch_text, output, expected in (
                ("in another order", reordered_features[name], array[order]),
                ("alone", single_features[name], array[:1]),
            ):
                deviation = math.inf
                if output.shape == expected.shape:
                    deviation = float(np.abs(output - expected).max()) / scale
                self.expect(
                    deviation <= self.BATCH_TOLERANCE,
                    f"{name} of an image extracted {batch_text} is {deviation:.2e} off",
                )
