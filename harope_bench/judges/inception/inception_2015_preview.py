"""Judge inception-2015-preview: inception-2015 in bfloat16, faster and less exact.

Features differ by up to a fifth of their standard deviation. Its numbers are not for a report.
"""

from __future__ import annotations

from harope_bench.judges.inception.inception_network import Inception, resize_like_tensorflow1

PLUGIN = Inception(
    "TF1 bilinear to 299 x 299; (x - 128) / 128; preview in bfloat16",
    resize_like_tensorflow1,
    is_preview=True,
)
