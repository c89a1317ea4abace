"""UniDet as T2I-CompBench runs it, in another Python: one plug-in per network."""

from __future__ import annotations

from harope_bench.core.annotations import Role
from harope_bench.judges.generic.external_annotator import ExternalAnnotator


def make_unidet(backbone: str, role: Role) -> ExternalAnnotator:
    """Return the plug-in of the network with this backbone (R50 or RS200)."""
    return ExternalAnnotator(
        title=f"UniDet {backbone}",
        role=role,
        runner="unidet.py",
        preprocessing=(
            f"UniDet {backbone}: antialiased by PIL to a shorter side of 479, the longer at most"
            " 480; BGR; scores from 0.5; float16 on CUDA"
        ),
        requirements="detectron2 and the benchmark's code",
        option="checkout=FOLDER",
        alternative_advice="import what the official script wrote",
    )
