"""The contract of a feature extractor."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import PLAIN_NAME_PATTERN, ContractViolations

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor


SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


def check_judge(
    name: str | FeatureExtractor, images: np.ndarray | None = None, device: str = "cpu"
) -> None:
    """Holds a judge to the contract of judges/base.py.

    Args:
        name: a registered feature extractor, or the plug-in itself.
        images: (B, H, W, 3) uint8 it is shown, at least three; random ones of 28 x 28 if not given.
        device: where it is opened.

    Raises:
        AssertionError: lists every promise that does not hold. WeightsError: its weights are not
            here.
    """
    import numpy as np

    from harope_bench.judges.base import load_feature_extractor

    plugin = load_feature_extractor(name) if isinstance(name, str) else name
    complaints = ContractViolations(
        f"judge {name if isinstance(name, str) else type(name).__qualname__}"
    )
    shown = (
        np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)
        if images is None
        else images
    )
    opened = plugin.open(device)
    bench = _FeatureExtractorContract(plugin, opened, shown, complaints)
    complaints.run_checks(
        [
            bench.declares_required_members,
            bench.returns_declared_arrays,
            bench.extracts_images_independently,
        ]
    )


class _FeatureExtractorContract:
    """One judge on the bench, one method a promise."""

    # A batch of another size may take another kernel; 1e-4 of the largest value is far below what a
    # score shows.
    BATCH_TOLERANCE = 1e-4

    def __init__(
        self,
        plugin: FeatureExtractor,
        opened: LoadedFeatureExtractor,
        images: np.ndarray,
        complaints: ContractViolations,
    ):
        self.plugin = plugin
        self.loaded = opened
        self.images = images
        self.expect = complaints.expect

    def declares_required_members(self) -> None:
        """Version, class, preprocessing, names of arrays, and the hash of its weights."""
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
            "says nothing of its preprocessing",
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
            SHA256_PATTERN.fullmatch(str(self.loaded.weights_sha256)),
            f"weights_sha256 is {self.loaded.weights_sha256!r}, wanted 64 hex digits",
        )
        recorded = plugin.weights_sha256()
        expect(
            recorded == self.loaded.weights_sha256,
            f"records weights {recorded}, opens {self.loaded.weights_sha256}",
        )
        expect(
            isinstance(plugin.batch_size, int) and plugin.batch_size > 0,
            f"batch is {plugin.batch_size!r}, wanted a positive integer",
        )

    def returns_declared_arrays(self) -> None:
        """Exactly the arrays it names: float32, finite, one row an image, images untouched."""
        import numpy as np

        before = self.images.copy()
        seen = self.loaded.extract(self.images)
        self.expect(np.array_equal(before, self.images), "changes the images it is shown")
        self.expect(
            set(seen) == set(self.plugin.arrays),
            f"returns {sorted(seen)}, declares {sorted(self.plugin.arrays)}",
        )
        for name, array in seen.items():
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
        again = self.loaded.extract(self.images)
        self.expect(
            all(np.array_equal(seen[k], again[k]) for k in seen),
            "sees something else at the second look",
        )

    def extracts_images_independently(self) -> None:
        """What it says of an image does not depend on the images beside it."""
        import numpy as np

        seen = self.loaded.extract(self.images)
        order = np.roll(np.arange(len(self.images)), 1)
        turned = self.loaded.extract(self.images[order])
        alone = self.loaded.extract(self.images[:1])
        for name, array in seen.items():
            for what, found, wanted in (
                ("in another order", turned[name], array[order]),
                ("on its own", alone[name], array[:1]),
            ):
                scale = max(float(np.abs(array).max()), 1e-12)
                off = (
                    float(np.abs(found - wanted).max()) / scale
                    if found.shape == wanted.shape
                    else math.inf
                )
                self.expect(
                    off <= self.BATCH_TOLERANCE, f"{name} of an image shown {what} is {off:.2e} off"
                )
