"""ImageNet, class-conditional, by ADM's protocol: 50,000 samples against the statistics of the training set.

Sources: openai/guided-diffusion (protocol and references), Studentxll/HARoPE:sample/inference_HARoPE.py (the release's settings).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from harope_bench.assets import local_files
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import NotHere, OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Request, Settings
from harope_bench.suites import label_files
from harope_bench.suites.base import LabelSuite, Reference

CLASSES = 1000
NETWORK = "inception-2015"
RELEASE: dict[str, Option] = {"sampler": "ddpm", "steps": 250, "guidance": 1.5, "guidance_channels": "3"}


class ImageNet(LabelSuite):
    """One resolution. Labels follow the plan's policy, uniform if it names none."""

    version = 1
    count = 50_000
    asks = Conditioning("labels", CLASSES)
    exact = True
    labels = "uniform"
    judges = {"fidelity": NETWORK, "fidelity/clean": f"{NETWORK}-clean"}
    evaluators = ("fidelity",)
    profiles = {"fidelity": "adm"}
    # 250 respaced steps, guidance 1.5 on three of four latent channels, random labels; as published, their script draws 50,176 images
    presets = {
        "harope-release": {**RELEASE, "labels": "uniform"},
        "harope-release-balanced": {**RELEASE, "labels": "balanced"},
    }

    def __init__(self, resolution: int):
        self.resolution = resolution
        self.title = f"ImageNet, class-conditional, {resolution} x {resolution}"

    def policy(self, asked: str | None) -> str:
        """What the plan records of a label policy that is asked for."""
        return label_files.policy(asked or self.labels, CLASSES)

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Requests with the labels of the plan's policy and seed."""
        policy, seed = (settings.labels or self.labels, settings.seed) if settings else (self.labels, 0)
        wanted = list(indices)
        return [Request(index=i, label=label) for i, label in zip(wanted, label_files.labels(policy, CLASSES, seed, wanted), strict=True)]

    def reference(self, judge: str) -> Reference:
        """ADM's reference, for the network that made it."""
        if judge not in (NETWORK, f"{NETWORK}-preview"):
            raise NotHere(
                f"nobody publishes ImageNet statistics of {judge}",
                advice="build them from the training set, "
                f"`harope-bench reference FOLDER OUT.npz --judge {judge} --crop {self.resolution}`, and give --reference OUT.npz",
            )
        asset = f"imagenet-{self.resolution}-reference"
        held = local_files.checked(asset)
        made_by = str(local_files.asset(NETWORK).files[0].sha256)
        return Reference(local_files.asset(asset).title, held.path, held.sha256, made_by)

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """ImageNet's pictures cannot be shipped."""
        raise OptionError(f"ImageNet's {split} images are not part of this package; train from your own copy")
