"""The small convolutional network of the micro feature extractors. It needs torch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.judges.micro.network_sizes import FEATURES, MicroOutputs


class SmallNetwork(nn.Module):
    """Four 3 x 3 convolutions, a hidden layer of 64 and logits without bias.

    Args:
        channels: of the image and of the four convolutions.
        side: of the image in pixels.
        spatial_channels: channels of the last map that sFID uses.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int, int],
        side: int,
        spatial_channels: int,
        classes: int,
    ):
        super().__init__()
        self.spatial_channels = spatial_channels
        self.conv1 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[1], channels[2], 3, padding=1)
        self.conv3 = nn.Conv2d(channels[2], channels[3], 3, padding=1)
        self.conv4 = nn.Conv2d(channels[3], channels[4], 3, padding=1)
        self.hidden = nn.Linear(channels[4] * (side // 4) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, classes, bias=False)

    def forward(self, x: Tensor) -> MicroOutputs:
        """Return features, map and logits of images (B, C, side, side) in [-1, 1]."""
        x = F.silu(self.conv2(F.silu(self.conv1(x))))  # (B, C2, side, side)
        x = F.max_pool2d(x, 2)  # (B, C2, side / 2, side / 2)
        x = F.max_pool2d(F.silu(self.conv3(x)), 2)  # (B, C3, side / 4, side / 4)
        x = F.silu(self.conv4(x))  # (B, C4, side / 4, side / 4)
        # SiLU and not ReLU: a feature that is always 0 would make the covariance singular
        features = F.silu(self.hidden(x.flatten(1)))  # (B, 64)
        spatial = x[:, : self.spatial_channels].permute(0, 2, 3, 1)  # (B, side / 4, side / 4, C)
        return MicroOutputs(features, spatial, self.head(features))
