"""Suite t2i-compbench: all eight categories of T2I-CompBench's validation prompts."""

from __future__ import annotations

from harope_bench.suites.compbench_suite import CompBenchSuite

PLUGIN = CompBenchSuite("T2I-CompBench: 8 categories of 300 validation prompts, 10 images each")
