"""CLIP's image tower with embeddings of length 1. It needs torch."""

from __future__ import annotations

from torch import Tensor, nn


class NormalizedTower(nn.Module):
    """The image tower with embeddings scaled to length 1."""

    def __init__(self, visual: nn.Module):
        super().__init__()
        self.visual = visual

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, 336, 336)."""
        return nn.functional.normalize(self.visual(x), dim=-1)
