"""Benchmark and evaluation harness for positional encodings in image transformers.

>>> import harope_bench as hb
>>> "digits-harope" in hb.list_plugins("checkpoints")
True

The functions are described in docs/guides/python.md. Importing the package imports neither torch
nor numpy nor pandas; a function imports what it needs when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from harope_bench.api.comparison import Comparison as Comparison
    from harope_bench.api.comparison import GateOutcome as GateOutcome
    from harope_bench.api.comparison import compare as compare
    from harope_bench.api.comparison import gate as gate
    from harope_bench.api.encodings import load_encoding as load_encoding
    from harope_bench.api.evaluation import EvaluationResults as EvaluationResults
    from harope_bench.api.evaluation import evaluate as evaluate
    from harope_bench.api.frames import read_results as read_results
    from harope_bench.api.frames import read_samples as read_samples
    from harope_bench.api.generation import Run as Run
    from harope_bench.api.generation import generate as generate
    from harope_bench.api.generators import GenerationRequest as GenerationRequest
    from harope_bench.api.generators import Generator as Generator
    from harope_bench.api.tables import TableView as TableView
    from harope_bench.api.tables import list_plugins as list_plugins
    from harope_bench.api.tables import table as table
    from harope_bench.core.errors import BenchError as BenchError

# The module of each public name, which is imported when the name is first used.
PUBLIC_NAMES = {
    "BenchError": "core.errors",
    "Comparison": "api.comparison",
    "EvaluationResults": "api.evaluation",
    "GateOutcome": "api.comparison",
    "GenerationRequest": "api.generators",
    "Generator": "api.generators",
    "Run": "api.generation",
    "TableView": "api.tables",
    "compare": "api.comparison",
    "evaluate": "api.evaluation",
    "gate": "api.comparison",
    "generate": "api.generation",
    "list_plugins": "api.tables",
    "load_encoding": "api.encodings",
    "read_results": "api.frames",
    "read_samples": "api.frames",
    "table": "api.tables",
}


if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        """Return a public name, importing its module; raise AttributeError for another name."""
        if name not in PUBLIC_NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"{__name__}.{PUBLIC_NAMES[name]}")
        public_object: object = getattr(module, name)
        globals()[name] = public_object  # the next use needs no import
        return public_object


def __dir__() -> list[str]:
    """Return the names of the module, those that are not imported yet included."""
    return sorted({"__version__", "__doc__", *PUBLIC_NAMES})
