"""Judge dinov2-vit-l-14: the class token of DINOv2 ViT-L/14 without registers, for FD-DINOv2.

It has 1,024 features. The network is timm's, the weights are those of facebookresearch/dinov2, and
the position embeddings are resized to 16 x 16 as that repository does; timm would resize them with
antialias. Whether both networks give equal features with these weights was not verified, because
neither the weights nor torch.hub were available.

Source: layer6ai-labs/dgm-eval:dgm_eval/models/dinov2.py;
facebookresearch/dinov2:dinov2/models/vision_transformer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.errors import WeightsError
from harope_bench.judges.generic.vision_tower import VisionTower, normalize_images, resize_square
from harope_bench.judges.weights.asset_files import WeightsSource

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 224
PATCH = 14
GRID = SIDE // PATCH  # 16 patches per side
STORED_GRID = 37  # patches per side in the published weights, for images of 518 pixels
# The scale is (16 + 0.1) / 37: the original adds the offset against rounding, and its features
# depend on it.
OFFSET = 0.1
SIZES = {"embed_dim": 1024, "depth": 24, "num_heads": 16}  # of the published network
# of ImageNet
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resize_positions(positions: Tensor) -> Tensor:
    """Return position embeddings (1, 1 + 37 * 37, D) as (1, 1 + 16 * 16, D).

    The grid is resized bicubic (a = -0.75) without antialias, and the class token's embedding stays
    as it is. Position i of the new grid is at (i + 1/2) * 37 / 16.1 - 1/2 of the old one.

    Source: facebookresearch/dinov2:dinov2/models/vision_transformer.py, interpolate_pos_encoding.
    """
    import torch
    from torch import nn

    class_position = positions[:, :1].float()  # (1, 1, D)
    grid = positions[:, 1:].float().reshape(1, STORED_GRID, STORED_GRID, -1)  # (1, 37, 37, D)
    grid = grid.permute(0, 3, 1, 2)  # (1, D, 37, 37)
    scale = (GRID + OFFSET) / STORED_GRID
    grid = nn.functional.interpolate(
        grid, scale_factor=(scale, scale), mode="bicubic"
    )  # (1, D, 16, 16)
    patch_positions = grid.flatten(2).transpose(1, 2)  # (1, 256, D)
    return torch.cat([class_position, patch_positions], dim=1)  # (1, 257, D)


class DinoV2(VisionTower):
    """The plug-in; `sizes` are timm's embed_dim, depth and num_heads."""

    title = "DINOv2 ViT-L/14"
    packages = ("torch", "safetensors", "timm")
    preprocessing = (
        "PIL bicubic with antialias to 224 x 224 on uint8, stretched where not square; x / 255,"
        " ImageNet's mean and deviation"
    )
    batch_size = 50
    width_option = ("embed_dim", SIZES["embed_dim"])
    source = WeightsSource("dinov2-vit-l-14", "HAROPE_BENCH_DINOV2")

    def build_network(self) -> nn.Module:
        """Return timm's vit_large_patch14_dinov2 for images of 224 pixels.

        Its output is the class token after the last norm.
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
        """Return images (B, H, W, 3) uint8 as (B, 3, 224, 224) float32."""
        return normalize_images(resize_square(images, SIDE, Image.Resampling.BICUBIC), MEAN, STD)

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors without the mask token, with positions for 16 x 16 patches.

        Only training uses the mask token.

        Raises:
            WeightsError: The positions are not those of 37 x 37 patches.
        """
        tensors = {name: tensor for name, tensor in state.items() if name != "mask_token"}
        positions = tensors.get("pos_embed")
        if positions is None:
            return tensors
        if positions.ndim != 3 or positions.shape[:2] != (1, 1 + STORED_GRID**2):
            raise WeightsError(
                f"the file does not fit: mis-shaped pos_embed {tuple(positions.shape)} for (1,"
                f" {1 + STORED_GRID**2}, width)"
            )
        tensors["pos_embed"] = resize_positions(positions)
        return tensors


PLUGIN = DinoV2()
