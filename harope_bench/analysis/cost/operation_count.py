"""Counts of a network on the meta device, which has shapes and no numbers: nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harope_bench.encodings import base as encodings
from harope_bench.metrics.attention_cost import LearnedParameters


class OperationCounts(NamedTuple):
    """Parameters and multiply-adds of one forward pass.

    parameters: all, each counted once.
    frozen_parameters: those among them that are not trained.
    macs: multiply-adds.
    """

    parameters: int
    frozen_parameters: int
    macs: int


def count_operations(network: nn.Module, inputs: Mapping[str, torch.Tensor]) -> OperationCounts:
    """Return the counts of a network on the meta device.

    Multiply-adds are those of matrix products and convolutions: half of what torch's operator
    counter reports. On the meta device scaled dot product attention is two products, which are both
    counted; on a real device some fused kernels would be missed. Not counted are additions, norms,
    softmax, rotations, Fourier transforms, matrix exponentials, solves and inverses.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(**inputs)
    parameters = list(network.parameters())
    total_count = sum(p.numel() for p in parameters)
    frozen_count = sum(p.numel() for p in parameters if not p.requires_grad)
    return OperationCounts(total_count, frozen_count, counter.get_total_flops() // 2)


def count_learned(encoding: encodings.Encoding) -> LearnedParameters:
    """Return what an encoding learns in one attention layer, by the shapes of its parameters.

    A table that is added to the tokens is in no layer.
    """
    shape = encoding.shape
    head_dim = shape.head_dim
    parameters = list(encoding.parameters())
    layer_parameters = sum(p.numel() for p in parameters if shape.layers in p.shape[:2])
    layer_parameters //= shape.layers
    matrices = [p for p in parameters if p.dim() >= 3 and p.shape[-2:] == (head_dim, head_dim)]
    if not matrices:
        return LearnedParameters(layer_parameters)
    matrices_per_layer = matrices[0].numel() // (shape.layers * head_dim**2)
    return LearnedParameters(layer_parameters, matrices_per_layer, head_dim, len(matrices))
