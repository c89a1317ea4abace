"""Suite t2i-compbench-table5: the five categories of T2I-CompBench in Table 5 of the paper."""

from __future__ import annotations

from harope_bench.suites.compbench_suite import CompBenchSuite

PLUGIN = CompBenchSuite(
    "T2I-CompBench as in Table 5: 5 categories of 300 validation prompts, 10 images each",
    ("numeracy", "spatial", "3d_spatial", "complex", "non_spatial"),
)
