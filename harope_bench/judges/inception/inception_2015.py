"""Judge inception-2015: FID's Inception behind TensorFlow 1's bilinear resize, as ADM's evaluator
and torch-fidelity have it.

Source: openai/guided-diffusion:evaluations/evaluator.py;
toshas/torch-fidelity:torch_fidelity/feature_extractor_inceptionv3.py.
"""

from __future__ import annotations

from harope_bench.judges.inception.inception_network import Inception, resize_like_tensorflow1

PLUGIN = Inception(
    "TF1 bilinear to 299 x 299, no half-pixel shift, no antialias; (x - 128) / 128",
    resize_like_tensorflow1,
)
