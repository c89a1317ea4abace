"""Suite digits-held-out: the 1,000 digits that no training sees, to be named by a classifier."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.suites.base import ClassificationSuite
from harope_bench.suites.digits import CLASSES, SIDE
from harope_bench.suites.digits import PLUGIN as DIGITS
from harope_bench.suites.real_images import ArrayImages


class DigitsHeldOutSuite(ClassificationSuite):
    """The last 100 of each digit, in the file's order."""

    version = 1
    title = "handwritten digits to be named, 28 x 28"
    count = 1000
    classes = CLASSES
    asks = Conditioning("pictures", CLASSES)
    resolution = SIDE
    crop_ratio = 1.0
    judges: dict[str, str] = {}
    evaluators = ("top1",)

    def pictures(self, place: Path | None, labels: Path | None) -> ArrayImages:
        """All 1,000; they ship with the package, so no folder is taken."""
        if place is not None or labels is not None:
            raise OptionError(
                "suite digits-held-out brings its own pictures; leave --images and --ground-truth out"
            )
        images, named = DIGITS.images("held-out")
        return ArrayImages(images, named.tolist())


PLUGIN = DigitsHeldOutSuite()
