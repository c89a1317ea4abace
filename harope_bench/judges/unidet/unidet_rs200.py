"""Judge unidet-rs200: T2I-CompBench's detector for 2D, UniDet RS200 with 722 labels.

It runs in another Python. Its configuration asks for RGB, but the published script feeds BGR, so
red and blue are exchanged. The runner does the same.

Source: Karine-Huang/T2I-CompBench 1b709499:UniDet_eval/2D_spatial_eval.py.
"""

from __future__ import annotations

from harope_bench.judges.unidet.unidet_annotator import make_unidet

PLUGIN = make_unidet("RS200", "detector-2d")
