"""Judge dinov2-vit-l-14: the class token of DINOv2 ViT-L/14 (no registers), 1,024 features for
FD-DINOv2.

The network is timm's, the weights are those of facebookresearch/dinov2, and the positions are
brought to 16 x 16 as that repository
does; timm itself would do it with antialias. That both networks give equal features with these
weights was not verified: neither the
weights nor torch.hub were at hand.

Source: layer6ai-labs/dgm-eval:dgm_eval/models/dinov2.py;
facebookresearch/dinov2:dinov2/models/vision_transformer.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.core.errors import WeightsError
from harope_bench.judges.generic.vision_tower import VisionTower, normalize_images, resize_square
from harope_bench.judges.weights.asset_files import WeightsSource

SIDE = 224
PATCH = 14
GRID = SIDE // PATCH  # 16 patches a side
STORED_GRID = 37  # patches a side in the published weights, of images of 518
# the scale is (16 + 0.1) / 37: the original guards its rounding so, and its features depend on it
OFFSET = 0.1
SIZES = {"embed_dim": 1024, "depth": 24, "num_heads": 16}  # of the published network
# ImageNet's
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resize_positions(stored: Tensor) -> Tensor:
    """Positions (1, 1 + 37 * 37, D) to (1, 1 + 16 * 16, D): bicubic (a = -0.75) without antialias,
    the class token's as it is.

    Place i of the new grid lies at (i + 1/2) * 37 / 16.1 - 1/2 of the old one.

    Source: facebookresearch/dinov2:dinov2/models/vision_transformer.py, interpolate_pos_encoding.
    """
    grid = (
        stored[:, 1:].float().reshape(1, STORED_GRID, STORED_GRID, -1).permute(0, 3, 1, 2)
    )  # (1, D, 37, 37)
    scale = (GRID + OFFSET) / STORED_GRID
    fitted = nn.functional.interpolate(
        grid, scale_factor=(scale, scale), mode="bicubic"
    )  # (1, D, 16, 16)
    return torch.cat([stored[:, :1].float(), fitted.flatten(2).transpose(1, 2)], dim=1)


class DinoV2(VisionTower):
    """The plug-in; `sizes` are timm's embed_dim, depth and num_heads."""

    title = "DINOv2 ViT-L/14"
    preprocessing = (
        "PIL bicubic with antialias to 224 x 224 on uint8, stretched where not square; x / 255,"
        " ImageNet's mean and deviation"
    )
    batch_size = 50
    width_option = ("embed_dim", SIZES["embed_dim"])
    source = WeightsSource("dinov2-vit-l-14", "HAROPE_BENCH_DINOV2")

    def build_network(self) -> nn.Module:
        """timm's vit_large_patch14_dinov2 for images of 224; gives the class token after the last
        norm.
        """
        import timm

        sizes = {**SIZES, **self.sizes}
        return timm.create_model(
            "vit_large_patch14_dinov2",
            pretrained=False,
            num_classes=0,
            img_size=SIDE,
            embed_dim=sizes["embed_dim"],
            depth=sizes["depth"],
            num_heads=sizes["num_heads"],
        )

    def prepare(self, images: np.ndarray) -> Tensor:
        """Images (B, H, W, 3) uint8 to (B, 3, 224, 224) float32."""
        return normalize_images(resize_square(images, SIDE, Image.Resampling.BICUBIC), MEAN, STD)

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the mask token, which only training uses, and with positions for 16 x 16
        patches.
        """
        found = {name: tensor for name, tensor in state.items() if name != "mask_token"}
        stored = found.get("pos_embed")
        if stored is not None:
            if stored.ndim != 3 or stored.shape[:2] != (1, 1 + STORED_GRID**2):
                raise WeightsError(
                    f"the file does not fit: mis-shaped pos_embed {tuple(stored.shape)} for (1,"
                    f" {1 + STORED_GRID**2}, width)"
                )
            found["pos_embed"] = resize_positions(stored)
        return found


PLUGIN = DinoV2()
