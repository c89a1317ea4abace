"""Counts of a network on the meta device, where shapes are real and numbers are not: nothing is
loaded, nothing is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harope_bench.encodings import base as encodings
from harope_bench.metrics.attention_cost import LearnedParameters


class OperationCounts(NamedTuple):
    """Parameters (learned ones, and frozen ones among all) and multiply-adds of one forward, each
    counted once.
    """

    parameters: int
    frozen_parameters: int
    macs: int


def count_operations(network: nn.Module, inputs: Mapping[str, torch.Tensor]) -> OperationCounts:
    """Counts of a network on the meta device.

    Multiply-adds are those of matrix products and convolutions, halved from torch's operator
    counter. On the meta device scaled dot
    product attention is taken apart into its two products, so both are counted; on a real device
    some fused kernels would be missed.
    Not counted: additions, norms, softmax, rotations, Fourier transforms, matrix exponentials,
    solves and inverses.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(**inputs)
    every = list(network.parameters())
    frozen = sum(p.numel() for p in every if not p.requires_grad)
    return OperationCounts(sum(p.numel() for p in every), frozen, counter.get_total_flops() // 2)


def count_learned(encoding: encodings.Encoding) -> LearnedParameters:
    """What an encoding learns in one attention layer, by the shapes of its parameters (an added
    table is not in the layer).
    """
    shape = encoding.shape
    own = list(encoding.parameters())
    total = sum(p.numel() for p in own if shape.layers in p.shape[:2])
    squares = [p for p in own if p.dim() >= 3 and p.shape[-2:] == (shape.head_dim, shape.head_dim)]
    if not squares:
        return LearnedParameters(total // shape.layers)
    matrices = squares[0].numel() // (shape.layers * shape.head_dim**2)
    return LearnedParameters(total // shape.layers, matrices, shape.head_dim, len(squares))
