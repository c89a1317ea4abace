"""Judge unidet: T2I-CompBench's detector for numeracy and 3D, UniDet R50 with 722 labels.

Its code needs detectron2, which has no release on PyPI, and its licence allows non-commercial use
only. So the user's checkout of the benchmark runs it in another Python (runners/unidet.py).

Source: Karine-Huang/T2I-CompBench 1b709499:UniDet_eval/numeracy_eval.py, 3D_spatial_eval.py.
"""

from __future__ import annotations

from harope_bench.judges.unidet.unidet_annotator import make_unidet

PLUGIN = make_unidet("R50", "detector")
