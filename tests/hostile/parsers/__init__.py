"""Every parser of something from outside.

`test_fuzz_parsers.py` changes one thing in one of the files and reads the folder; it also holds
that every function of the package
that opens such a file is reached from here.
"""

from __future__ import annotations

from hostile.parsers import (
    answers,
    assets,
    endpoints,
    files,
    images,
    layouts,
    names,
    parts,
    prompts,
    records,
    results,
    weights,
)

MODULES = (
    files,
    weights,
    images,
    results,
    records,
    answers,
    prompts,
    assets,
    names,
    layouts,
    endpoints,
    parts,
)
PARSERS = [parser for module in MODULES for parser in module.TABLE.parsers]
