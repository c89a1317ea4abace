"""Public contracts of plug-ins of every kind.

Plug-ins call these checks in their own tests, and `harope-bench check KIND NAME` runs them. Each
check takes a registered name, most take the plug-in itself. It returns the number of its checks
when the contract holds, and otherwise raises one AssertionError that lists every violation. Where
weights or prompts are missing it raises UncheckedContractError. Heavy packages are imported when a
check runs.
"""

from __future__ import annotations

from harope_bench.testing.annotator import check_annotation_evaluator, check_annotator
from harope_bench.testing.asset import check_asset
from harope_bench.testing.backbone import check_backbone
from harope_bench.testing.checkpoint import check_checkpoint
from harope_bench.testing.contract_violations import UncheckedContractError
from harope_bench.testing.encoding import check_encoding
from harope_bench.testing.evaluator import check_evaluator, check_feature_evaluator
from harope_bench.testing.feature_extractor import check_feature_extractor
from harope_bench.testing.judge import check_judge
from harope_bench.testing.plugin import check_plugin
from harope_bench.testing.recipe import check_recipe
from harope_bench.testing.sampler import check_sampler
from harope_bench.testing.suite import check_suite
from harope_bench.testing.table import check_table

__all__ = [
    "UncheckedContractError",
    "check_annotation_evaluator",
    "check_annotator",
    "check_asset",
    "check_backbone",
    "check_checkpoint",
    "check_encoding",
    "check_evaluator",
    "check_feature_evaluator",
    "check_feature_extractor",
    "check_judge",
    "check_plugin",
    "check_recipe",
    "check_sampler",
    "check_suite",
    "check_table",
]
