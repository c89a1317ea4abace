"""ImageNet, class-conditional, in ADM's protocol: 50,000 samples against the training set.

Sources: openai/guided-diffusion (protocol and references),
Studentxll/HARoPE:sample/inference_HARoPE.py (settings of the release).
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
    "tf32": True,  # argument --tf32 of the published script, on by default
}
LARGE_GPU_TILE = 64  # images in a forward pass; 8 by default, which leaves a large GPU waiting


class ImageNetSuite(LabelSuite):
    """ImageNet at one resolution; labels follow the plan's policy, by default uniform."""

    version = 1
    count = 50_000
    requested_conditioning = Conditioning("labels", CLASSES)
    has_exact_count = True
    default_label_policy = "uniform"
    judges = {"fidelity": JUDGE, "fidelity/clean": f"{JUDGE}-clean"}
    evaluators = ("fidelity",)
    profiles = {"fidelity": "adm"}
    # 250 respaced steps, guidance 1.5 on three of four latent channels, random labels. The
    # published script generates 50,176 images.
    presets = {
        "harope-release": {**RELEASE_SETTINGS, "labels": "uniform"},
        "harope-release-balanced": {**RELEASE_SETTINGS, "labels": "balanced"},
        "harope-release-large-gpu": {
            **RELEASE_SETTINGS,
            "labels": "uniform",
            "tile": LARGE_GPU_TILE,
        },
    }

    def __init__(self, resolution: int):
        self.resolution = resolution
        self.title = f"ImageNet, class-conditional, {resolution} x {resolution}"

    def label_policy(self, requested_policy: str | None) -> str:
        """Return the label policy that a plan records; errors of `resolve_label_policy`."""
        policy = requested_policy or self.default_label_policy
        return label_policies.resolve_label_policy(policy, CLASSES)

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the requests with these indices, with labels of the plan's policy and seed."""
        policy = self.default_label_policy
        seed = 0
        if settings:
            policy = settings.labels or policy
            seed = settings.seed
        requested_indices = list(indices)
        labels = label_policies.assign_labels(policy, CLASSES, seed, requested_indices)
        return [
            Request(index=i, label=label)
            for i, label in zip(requested_indices, labels, strict=True)
        ]

    def reference(self, judge: str) -> ReferenceFile:
        """Return ADM's reference, for the Inception network that computed it.

        Raises:
            MissingAssetError: The judge is another network, or the file is not fetched.
        """
        if judge not in (JUDGE, f"{JUDGE}-preview"):
            raise MissingAssetError(
                f"no ImageNet statistics of {judge} are published",
                advice=(
                    "build them from the training set, `harope-bench reference FOLDER OUT.npz"
                    f" --judge {judge} --crop {self.resolution}`, and give --reference OUT.npz"
                ),
            )
        asset = f"imagenet-{self.resolution}-reference"
        file = local_files.verify_local_file(asset)
        judge_sha256 = str(local_files.load_asset(JUDGE).files[0].sha256)
        title = local_files.load_asset(asset).title
        return ReferenceFile(title, file.path, file.sha256, judge_sha256)

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Raise OptionError: the package may not ship ImageNet's images."""
        raise OptionError(
            f"ImageNet's {split} images are not part of this package; train from your own copy"
        )
