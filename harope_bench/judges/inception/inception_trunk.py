"""The layers of Inception after preprocessing. They need torch."""

from __future__ import annotations

from torch import Tensor, nn

from harope_bench.judges.inception.inception_outputs import SPATIAL_CHANNELS, InceptionOutputs

TRUNK_LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1",
    "Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b",
    "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool",
)  # fmt: skip


class Trunk(nn.Module):
    """The network after preprocessing, in torch-fidelity's layers."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> InceptionOutputs:
        """Return the outputs for images (B, 3, 299, 299) in [-1, 0.9921875]."""
        spatial = x
        for name in TRUNK_LAYERS:
            layer = self.network.get_submodule(name)
            if name == "Mixed_6d":  # TensorFlow's mixed_6/conv
                branch = layer.get_submodule("branch1x1")(x)  # (B, 192, 17, 17)
                spatial = branch[:, :SPATIAL_CHANNELS]  # (B, 7, 17, 17)
            x = layer(x)
        features = x.flatten(1)  # (B, 2048)
        weight = self.network.get_parameter("fc.weight")  # (1008, 2048)
        logits = features @ weight.T  # (B, 1008)
        return InceptionOutputs(features.float(), spatial.float(), logits.float())
