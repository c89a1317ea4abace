"""Judge clip-vit-l-14-336: projected image embeddings of OpenAI's CLIP ViT-L/14 at 336 pixels, of
length 1; 768 features for CMMD.

The network is open_clip's image tower with QuickGELU, as OpenAI trained it. That it gives the
embeddings of google-research's JAX network
or of sayakpaul/cmmd-pytorch's to the last digits was not verified: the weights were not at hand.

Source: google-research/google-research:cmmd/embedding.py, cmmd/io_util.py;
sayakpaul/cmmd-pytorch:embedding.py, io_util.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch import Tensor, nn

from harope_bench.judges.clip.clip_network import MEAN, STD, torchscript_state
from harope_bench.judges.generic.vision_tower import VisionTower, normalize_images
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource

SIDE = 336
SIZES = {"patch_size": 14, "width": 1024, "layers": 24, "heads": 16, "output_dim": 768}
TEXT_TOWER_KEYS = (  # what a CLIP file holds beside its image tower, `visual`
    "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale",
    "input_resolution", "context_length", "vocab_size",
)  # fmt: skip


def crop_and_resize(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 as (336, 336, 3): the middle square, an odd pixel left over at the
    end, then pillow's bicubic filter.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    square = Image.fromarray(image).crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


class NormalizedTower(nn.Module):
    """The image tower, its embeddings brought to length 1."""

    def __init__(self, visual: nn.Module):
        super().__init__()
        self.visual = visual

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, 336, 336) to embeddings (B, D)."""
        return nn.functional.normalize(self.visual(x), dim=-1)


class ClipImageTower(VisionTower):
    """The plug-in; `sizes` are open_clip's patch_size, width, layers, heads and output_dim."""

    title = "CLIP ViT-L/14 at 336 pixels"
    preprocessing = (
        "middle square, PIL bicubic with antialias to 336 x 336 on uint8; x / 255, CLIP's mean and"
        " deviation"
    )
    batch_size = 25
    width_option = ("output_dim", SIZES["output_dim"])
    source = WeightsSource("clip-vit-l-14-336", "HAROPE_BENCH_CLIP_336")

    def build_network(self) -> nn.Module:
        """open_clip's image tower of ViT-L-14-336-quickgelu."""
        from open_clip.transformer import QuickGELU, VisionTransformer

        sizes = {**SIZES, **self.sizes}
        return NormalizedTower(
            VisionTransformer(image_size=SIDE, mlp_ratio=4.0, act_layer=QuickGELU, **sizes)
        )

    def prepare(self, images: np.ndarray) -> Tensor:
        """Images (B, H, W, 3) uint8 to (B, 3, 336, 336) float32."""
        return normalize_images(np.stack([crop_and_resize(image) for image in images]), MEAN, STD)

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The image tower; the text tower may be in the file or not."""
        return {
            name: tensor for name, tensor in state.items() if not name.startswith(TEXT_TOWER_KEYS)
        }

    def load_state(self, found: WeightsFile) -> Mapping[str, Tensor]:
        """OpenAI's archive by TorchScript, and only if it has the published hash; any other file as
        all weights here.
        """
        if found.sha256 == self.source.known_sha256():
            return torchscript_state(found)
        return super().load_state(found)


PLUGIN = ClipImageTower()
