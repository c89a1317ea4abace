"""Suite my-suite: the odd handwritten digits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harope_bench.core.array_archive import load_arrays
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.schema import Request, Settings
from harope_bench.core.storage import sha256_file
from harope_bench.suites.base import LabelSuite, ReferenceFile
from harope_bench.suites.digits import PLUGIN as DIGITS

ODD_DIGITS = (1, 3, 5, 7, 9)


class MySuite(LabelSuite):
    """Odd digits in turn: image 0 shows a 1, image 1 a 3, and image 5 a 1 again."""

    version = 1  # raise it where requests, reference or images change
    title = "odd handwritten digits, class-conditional, 28 x 28"
    count = 250
    resolution = 28
    # The networks that serve this suite know ten digits.
    requested_conditioning = Conditioning("labels", 10)
    judges = {"fidelity": "digits-net"}
    evaluators = ("fidelity",)

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the request of each index, which depends on nothing but the index."""
        return [Request(index=i, label=ODD_DIGITS[i % len(ODD_DIGITS)]) for i in indices]

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the real images (N, 28, 28) uint8 of split train or held-out, and their labels."""
        images, labels = DIGITS.images(split)
        is_odd = labels % 2 == 1
        return images[is_odd], labels[is_odd]

    def reference(self, judge: str) -> ReferenceFile:
        """Return the file that `harope-bench reference` wrote to the folder of this module."""
        path = Path(__file__).with_name(f"my_suite-{judge}.npz")
        if not path.is_file():  # the error then names the command that writes it
            return ReferenceFile("odd digits, split train", path, sha256="", judge_sha256="")
        judge_sha256 = str(load_arrays(path, ("judge_sha256",))["judge_sha256"])
        return ReferenceFile("odd digits, split train", path, sha256_file(path), judge_sha256)


PLUGIN = MySuite()
