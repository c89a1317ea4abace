"""Judge inception-2015: FID's Inception after TensorFlow 1's bilinear resize.

ADM's evaluator and torch-fidelity preprocess images this way.

Source: openai/guided-diffusion:evaluations/evaluator.py;
toshas/torch-fidelity:torch_fidelity/feature_extractor_inceptionv3.py.
"""

from __future__ import annotations

from harope_bench.judges.inception.inception_network import Inception, resize_like_tensorflow1

PLUGIN = Inception(
    "TF1 bilinear to 299 x 299, no half-pixel shift, no antialias; (x - 128) / 128",
    resize_like_tensorflow1,
)
