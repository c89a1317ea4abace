"""The contract of a feature extractor."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from harope_bench.testing.complaints import PLAIN, Complaints

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor


SHA256 = re.compile(r"[0-9a-f]{64}")


def check_judge(name: str | FeatureExtractor, images: np.ndarray | None = None, device: str = "cpu") -> None:
    """Holds a judge to the contract of judges/base.py.

    Args:
        name: a registered feature extractor, or the plug-in itself.
        images: (B, H, W, 3) uint8 it is shown, at least three; random ones of 28 x 28 if not given.
        device: where it is opened.

    Raises:
        AssertionError: lists every promise that does not hold. WeightsError: its weights are not here.
    """
    import numpy as np

    from harope_bench.judges.base import load_feature_extractor

    plugin = load_feature_extractor(name) if isinstance(name, str) else name
    complaints = Complaints(f"judge {name if isinstance(name, str) else type(name).__qualname__}")
    shown = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8) if images is None else images
    opened = plugin.open(device)
    bench = _JudgeBench(plugin, opened, shown, complaints)
    complaints.run([bench.declares_itself, bench.returns_what_it_names, bench.sees_each_image_alone])


class _JudgeBench:
    """One judge on the bench, one method a promise."""

    # A batch of another size may take another kernel; 1e-4 of the largest value is far below what a score shows.
    BESIDE = 1e-4

    def __init__(self, plugin: FeatureExtractor, opened: LoadedFeatureExtractor, images: np.ndarray, complaints: Complaints):
        self.plugin, self.opened, self.images, self.expect = plugin, opened, images, complaints.expect

    def declares_itself(self) -> None:
        """Version, class, preprocessing, names of arrays, and the hash of its weights."""
        expect, plugin = self.expect, self.plugin
        expect(isinstance(plugin.version, int) and plugin.version >= 1, f"version is {plugin.version!r}, wanted an integer from 1")
        classes = ("official", "equivalent", "substitute", "micro")
        expect(plugin.judge_class in classes, f"judge_class is {plugin.judge_class!r}, wanted one of {', '.join(classes)}")
        expect(isinstance(plugin.preprocessing, str) and plugin.preprocessing.strip(), "says nothing of its preprocessing")
        expect(isinstance(plugin.arrays, tuple) and plugin.arrays, f"arrays is {plugin.arrays!r}, wanted a tuple of names")
        for array in plugin.arrays:
            expect(PLAIN.fullmatch(str(array)), f"array name {array!r} is not plain")
        expect(len(set(plugin.arrays)) == len(plugin.arrays), f"array names repeat: {plugin.arrays}")
        expect(SHA256.fullmatch(str(self.opened.weights_sha256)), f"weights_sha256 is {self.opened.weights_sha256!r}, wanted 64 hex digits")
        recorded = plugin.weights_sha256()
        expect(recorded == self.opened.weights_sha256, f"records weights {recorded}, opens {self.opened.weights_sha256}")
        expect(isinstance(plugin.batch, int) and plugin.batch > 0, f"batch is {plugin.batch!r}, wanted a positive integer")

    def returns_what_it_names(self) -> None:
        """Exactly the arrays it names: float32, finite, one row an image, images untouched."""
        import numpy as np

        before = self.images.copy()
        seen = self.opened.observe(self.images)
        self.expect(np.array_equal(before, self.images), "changes the images it is shown")
        self.expect(set(seen) == set(self.plugin.arrays), f"returns {sorted(seen)}, declares {sorted(self.plugin.arrays)}")
        for name, array in seen.items():
            self.expect(array.dtype == np.float32, f"{name} is {array.dtype}, wanted float32")
            self.expect(len(array) == len(self.images), f"{name} has {len(array)} rows for {len(self.images)} images")
            self.expect(np.isfinite(array).all(), f"{name} is not finite")
            width = self.plugin.widths.get(name, array.shape[1])
            self.expect(array.shape[1] == width, f"{name} has rows of {array.shape[1]} numbers, declares {width}")
            self.expect(len(array) < 2 or not np.array_equal(array[0], array[1]), f"{name} is the same for different images")
        again = self.opened.observe(self.images)
        self.expect(all(np.array_equal(seen[k], again[k]) for k in seen), "sees something else at the second look")

    def sees_each_image_alone(self) -> None:
        """What it says of an image does not depend on the images beside it."""
        import numpy as np

        seen, order = self.opened.observe(self.images), np.roll(np.arange(len(self.images)), 1)
        turned, alone = self.opened.observe(self.images[order]), self.opened.observe(self.images[:1])
        for name, array in seen.items():
            for what, found, wanted in (("in another order", turned[name], array[order]), ("on its own", alone[name], array[:1])):
                scale = max(float(np.abs(array).max()), 1e-12)
                off = float(np.abs(found - wanted).max()) / scale if found.shape == wanted.shape else math.inf
                self.expect(off <= self.BESIDE, f"{name} of an image shown {what} is {off:.2e} off")
