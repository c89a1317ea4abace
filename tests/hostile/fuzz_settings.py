"""How many examples a fuzz test tries, and which."""

from __future__ import annotations

import os

from hypothesis import settings

# More examples, and others each time, where somebody looks for faults: HAROPE_BENCH_FUZZ=2000
# pytest tests/hostile/test_fuzz_parsers.py
DEEP_COUNT = int(os.environ.get("HAROPE_BENCH_FUZZ", "0"))
EXAMPLES = 25
fuzz = settings(
    max_examples=DEEP_COUNT or EXAMPLES,
    deadline=None,
    derandomize=not DEEP_COUNT,
    database=None,
    print_blob=True,
)
