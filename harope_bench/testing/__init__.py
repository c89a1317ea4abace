"""Public contracts of plug-ins: encodings, backbones, judges, evaluators and tables.

Plug-ins call these checks in their own tests. Each check takes a registered name or the plug-in
itself. It returns nothing when the contract holds, and otherwise raises one AssertionError that
lists every violation. Heavy packages are imported when a check runs.
"""

from __future__ import annotations

from harope_bench.testing.annotator import check_annotation_evaluator, check_annotator
from harope_bench.testing.backbone import check_backbone
from harope_bench.testing.encoding import check_encoding
from harope_bench.testing.evaluator import check_evaluator
from harope_bench.testing.feature_extractor import check_judge
from harope_bench.testing.table import check_table

__all__ = [
    "check_annotation_evaluator",
    "check_annotator",
    "check_backbone",
    "check_encoding",
    "check_evaluator",
    "check_judge",
    "check_table",
]
