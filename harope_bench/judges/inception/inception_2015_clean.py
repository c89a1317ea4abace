"""Judge inception-2015-clean: the network of inception-2015 after clean-fid's antialiased resize.

Its numbers are not those of inception-2015.

Source: GaParmar/clean-fid:cleanfid/resize.py, mode `clean`; clean-fid runs NVIDIA's copy of the
2015 graph.
"""

from __future__ import annotations

from harope_bench.judges.inception.inception_network import Inception, resize_like_cleanfid

PLUGIN = Inception(
    "PIL bicubic with antialias to 299 x 299, each channel as floats; cut to [0, 255]; (x - 128)"
    " / 128",
    resize_like_cleanfid,
)
