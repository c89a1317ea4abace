"""Suite digits-held-out: the 1,000 digits that no training uses, for classifiers."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.suites.base import ClassificationSuite
from harope_bench.suites.digits import CLASSES, SIDE
from harope_bench.suites.digits import PLUGIN as DIGITS
from harope_bench.suites.real_images import ArrayImages


class DigitsHeldOutSuite(ClassificationSuite):
    """The last 100 images of each digit, in the order of the file."""

    version = 1
    title = "handwritten digits to be classified, 28 x 28"
    count = 1000
    classes = CLASSES
    requested_conditioning = Conditioning("images", CLASSES)
    resolution = SIDE
    crop_ratio = 1.0
    judges: dict[str, str] = {}
    evaluators = ("top1",)

    def real_images(self, folder: Path | None, labels: Path | None) -> ArrayImages:
        """Return all 1,000 images.

        Raises:
            OptionError: A folder or labels are given, although the images ship with the package.
        """
        if folder is not None or labels is not None:
            raise OptionError(
                "suite digits-held-out has its own images; leave --images and --ground-truth out"
            )
        held_out_images, held_out_labels = DIGITS.images("held-out")
        return ArrayImages(held_out_images, held_out_labels.tolist())


PLUGIN = DigitsHeldOutSuite()
