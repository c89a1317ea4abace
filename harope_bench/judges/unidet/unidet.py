"""Judge unidet: T2I-CompBench's detector for numeracy and 3D, UniDet R50 with 722 labels; it runs
in another Python.

Its code needs detectron2, of which the package index has no release, and is licensed for
non-commercial use, so the user's own checkout
runs it (runners/unidet.py).

Source: Karine-Huang/T2I-CompBench 1b709499:UniDet_eval/numeracy_eval.py, 3D_spatial_eval.py.
"""

from __future__ import annotations

from harope_bench.judges.unidet.unidet_annotator import make_unidet

PLUGIN = make_unidet("R50", "detector")
