"""Judge clip-vit-l-14-336: image embeddings of OpenAI's CLIP ViT-L/14 at 336 pixels, for CMMD.

The 768 features are projected embeddings of length 1. The network is open_clip's image tower with
QuickGELU, as OpenAI trained it. Whether it gives the embeddings of google-research's JAX network or
of sayakpaul/cmmd-pytorch to the last digits was not verified, because the weights were not
available.

Source: google-research/google-research:cmmd/embedding.py, cmmd/io_util.py;
sayakpaul/cmmd-pytorch:embedding.py, io_util.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.judges.clip.clip_network import MEAN, STD, torchscript_state
from harope_bench.judges.generic.vision_tower import VisionTower, normalize_images
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 336
SIZES = {"patch_size": 14, "width": 1024, "layers": 24, "heads": 16, "output_dim": 768}
TEXT_TOWER_KEYS = (  # keys of a CLIP file that are not those of its image tower, `visual`
    "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection",
    "logit_scale", "input_resolution", "context_length", "vocab_size",
)  # fmt: skip


def crop_and_resize(image: np.ndarray) -> np.ndarray:
    """Return the centre square of an image (H, W, 3) uint8 as (336, 336, 3), by Pillow's bicubic.

    Where an odd number of pixels is cut, the extra one is cut at the end.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    square = Image.fromarray(image).crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


class ClipImageTower(VisionTower):
    """The plug-in; `sizes` are open_clip's patch_size, width, layers, heads and output_dim."""

    title = "CLIP ViT-L/14 at 336 pixels"
    packages = ("torch", "safetensors", "open_clip")
    preprocessing = (
        "middle square, PIL bicubic with antialias to 336 x 336 on uint8; x / 255, CLIP's mean and"
        " deviation"
    )
    batch_size = 25
    width_option = ("output_dim", SIZES["output_dim"])
    source = WeightsSource("clip-vit-l-14-336", "HAROPE_BENCH_CLIP_336")

    def build_network(self) -> nn.Module:
        """Return open_clip's image tower of ViT-L-14-336-quickgelu."""
        from open_clip.transformer import QuickGELU, VisionTransformer

        from harope_bench.judges.clip.normalized_tower import NormalizedTower

        sizes = {**SIZES, **self.sizes}
        return NormalizedTower(
            VisionTransformer(image_size=SIDE, mlp_ratio=4.0, act_layer=QuickGELU, **sizes)
        )

    def prepare(self, images: np.ndarray) -> Tensor:
        """Return images (B, H, W, 3) uint8 as (B, 3, 336, 336) float32."""
        return normalize_images(np.stack([crop_and_resize(image) for image in images]), MEAN, STD)

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the image tower; the file may hold the text tower, too."""
        return {
            name: tensor for name, tensor in state.items() if not name.startswith(TEXT_TOWER_KEYS)
        }

    def load_state(self, weights_file: WeightsFile) -> Mapping[str, Tensor]:
        """Return the tensors of OpenAI's TorchScript archive or of any other weights file.

        TorchScript is used only for a file with the published hash.
        """
        if weights_file.sha256 == self.source.published_sha256():
            return torchscript_state(weights_file)
        return super().load_state(weights_file)


PLUGIN = ClipImageTower()
