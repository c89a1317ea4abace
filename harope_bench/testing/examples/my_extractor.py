"""Judge my-extractor: a thumbnail of 4 x 4 grey values as the features of an image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor

SIDE = 4
WEIGHTS_SHA256 = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


class MyExtractor(FeatureExtractor):
    """The plug-in, which describes the extractor and loads nothing."""

    version = 1  # raise it where features change
    judge_class = "micro"  # or official, equivalent, substitute: see docs/concepts.md
    preprocessing = "grey, antialiased bilinear to 4 x 4, divided by 255"
    arrays = ("features",)
    widths = {"features": SIDE**2}

    def weights_sha256(self) -> str:
        """Return the hash of this file, which stands for weights."""
        return WEIGHTS_SHA256

    def open(self, device: str) -> LoadedMyExtractor:
        """Return the extractor; a network would be loaded to the device here."""
        return LoadedMyExtractor()


class LoadedMyExtractor(LoadedFeatureExtractor):
    """The extractor that is ready for images."""

    weights_sha256 = WEIGHTS_SHA256

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return `features` (B, 16) float32 of images (B, H, W, 3) uint8."""
        thumbnails = [
            Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            for image in images
        ]
        grey_values = np.stack([np.asarray(thumbnail) for thumbnail in thumbnails])  # (B, 4, 4)
        return {"features": grey_values.reshape(len(images), -1).astype(np.float32) / 255}


PLUGIN = MyExtractor()
