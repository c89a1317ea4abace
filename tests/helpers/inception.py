"""Inception of 2015 with random weights: torch-fidelity's own format, so that everything but the
numbers is as with the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def extractor(path: Path) -> Any:
    """torch-fidelity's extractor as its users have it."""
    return FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )


def write_weights(path: Path, seed: int = 0) -> Path:
    """Saves random weights whose batch norms fit their inputs, so that features spread as real ones
    do and none dies.
    """
    unloaded_object = mock.patch.object(
        FeatureExtractorInceptionV3, "load_state_dict", return_value=None
    )
    with (
        mock.patch.object(theirs, "load_state_dict_from_url", return_value=None),
        unloaded_object,
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(seed)
        network: Any = FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
                module.momentum = 1.0
        network.train()
        with torch.no_grad():
            network(torch.randint(0, 256, (16, 3, 75, 75), dtype=torch.uint8))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.eval().state_dict(), path)
    return path
