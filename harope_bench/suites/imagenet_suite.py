"""ImageNet, class-conditional, by ADM's protocol: 50,000 samples against the statistics of the
training set.

Sources: openai/guided-diffusion (protocol and references),
Studentxll/HARoPE:sample/inference_HARoPE.py (the release's settings).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from harope_bench.assets import local_files
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import MissingAssetError, OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Request, Settings
from harope_bench.suites import label_policies
from harope_bench.suites.base import LabelSuite, ReferenceFile

CLASSES = 1000
JUDGE = "inception-2015"
RELEASE_SETTINGS: dict[str, Option] = {
    "sampler": "ddpm",
    "steps": 250,
    "guidance": 1.5,
    "guidance_channels": "3",
}


class ImageNetSuite(LabelSuite):
    """One resolution. Labels follow the plan's policy, uniform if it names none."""

    version = 1
    count = 50_000
    requested_conditioning = Conditioning("labels", CLASSES)
    has_exact_count = True
    default_label_policy = "uniform"
    judges = {"fidelity": JUDGE, "fidelity/clean": f"{JUDGE}-clean"}
    evaluators = ("fidelity",)
    profiles = {"fidelity": "adm"}
    # 250 respaced steps, guidance 1.5 on three of four latent channels, random labels; as
    # published, their script draws 50,176 images
    presets = {
        "harope-release": {**RELEASE_SETTINGS, "labels": "uniform"},
        "harope-release-balanced": {**RELEASE_SETTINGS, "labels": "balanced"},
    }

    def __init__(self, resolution: int):
        self.resolution = resolution
        self.title = f"ImageNet, class-conditional, {resolution} x {resolution}"

    def label_policy(self, asked: str | None) -> str:
        """What the plan records of a label policy that is asked for."""
        return label_policies.resolve_label_policy(asked or self.default_label_policy, CLASSES)

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Requests with the labels of the plan's policy and seed."""
        policy, seed = (
            (settings.labels or self.default_label_policy, settings.seed)
            if settings
            else (self.default_label_policy, 0)
        )
        wanted = list(indices)
        return [
            Request(index=i, label=label)
            for i, label in zip(
                wanted, label_policies.assign_labels(policy, CLASSES, seed, wanted), strict=True
            )
        ]

    def reference(self, judge: str) -> ReferenceFile:
        """ADM's reference, for the network that made it."""
        if judge not in (JUDGE, f"{JUDGE}-preview"):
            raise MissingAssetError(
                f"nobody publishes ImageNet statistics of {judge}",
                advice=(
                    "build them from the training set, `harope-bench reference FOLDER OUT.npz"
                    f" --judge {judge} --crop {self.resolution}`, and give --reference OUT.npz"
                ),
            )
        asset = f"imagenet-{self.resolution}-reference"
        held = local_files.verify_local_file(asset)
        made_by = str(local_files.load_asset(JUDGE).files[0].sha256)
        return ReferenceFile(local_files.load_asset(asset).title, held.path, held.sha256, made_by)

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """ImageNet's pictures cannot be shipped."""
        raise OptionError(
            f"ImageNet's {split} images are not part of this package; train from your own copy"
        )
