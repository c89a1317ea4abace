"""Suite shapes: the test captions of drawn scenes, four images each, 32 x 32; its cases hold what three benchmarks' rules read.

The captions are those of scenes/grammar.py that no training sees. The official scores drop the first row of DPG-Bench's table; here
questions are numbered from row 1, so the official rules read them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

import numpy as np

from harope_bench.errors import OptionError, WeightsError
from harope_bench.records import Request, Settings
from harope_bench.scenes import grammar
from harope_bench.scenes.grammar import TASKS
from harope_bench.scenes.pool import pool
from harope_bench.scenes.questions import compbench, item
from harope_bench.suites.base import Case, Reference

SIDE = 32
COPIES = 4
RENDERED = {"train": 6000, "held-out": 1200}  # scenes of `images`; held-out ones show test captions


@cache
def cases() -> tuple[grammar.Case, ...]:
    """The suite's captions in order."""
    return grammar.cases("test")


@cache
def facts(prompt: int) -> Mapping[str, Mapping[str, object]]:
    """What the evaluators read of a caption, by form."""
    case = cases()[prompt]
    first = 1 + sum(len(facts(earlier)["dpg"]["questions"]) for earlier in range(prompt))  # type: ignore[misc, arg-type]
    told = {"geneval": case.metadata(), "dpg": item(case, f"shapes{prompt:03d}", first)}
    bench = compbench(case, prompt)
    return told if bench is None else {**told, "compbench": bench}


class Shapes:
    """Index = copy * captions + caption."""

    task = "prompts"
    version = 1
    title = "drawn scenes of shapes: 109 captions of six tasks, four images each, 32 x 32"
    copies = COPIES
    resolution = SIDE
    judges: Mapping[str, Mapping[str, str]] = {
        "geneval": {"detector": "shapes-vision", "colours": "shapes-vision"},
        "dpg-bench": {"vqa": "shapes-vision"},
        "t2i-compbench": {"detector": "shapes-vision", "detector-2d": "shapes-vision", "vqa": "shapes-vision"},
    }
    evaluators = ("geneval", "dpg-bench", "t2i-compbench")

    @property
    def count(self) -> int:
        """Captions times copies."""
        return len(cases()) * COPIES

    def case(self, index: int) -> Case:
        """The caption and copy at an index, copy by copy; OptionError beyond the last."""
        copy, prompt = divmod(index, len(cases()))
        if not 0 <= copy < COPIES:
            raise OptionError(f"shapes has {self.count:,} images, sample {index} is none; ask for fewer")
        return Case(prompt, copy, cases()[prompt].prompt, facts(prompt))

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The caption of each index."""
        return [Request(index=i, prompt=self.case(i).text) for i in indices]

    def source(self) -> tuple[str, str]:
        """The captions with their facts, and their sha256."""
        told = json.dumps([facts(prompt) for prompt in range(len(cases()))], sort_keys=True)
        return "scenes/grammar.py, test captions", hashlib.sha256(told.encode()).hexdigest()

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Rendered scenes (N, 32, 32, 3) uint8 of split train or held-out, and the number of each one's task (N,) int64."""
        if split not in RENDERED:
            raise OptionError(f"shapes has splits {' and '.join(RENDERED)}, not {split!r}")
        return _rendered(split)

    def reference(self, judge: str) -> Reference:
        """None is made for this suite; its judge reads scenes exactly."""
        raise WeightsError(f"suite shapes has no reference statistics for {judge}; score it with {', '.join(self.evaluators)}")


@lru_cache(maxsize=2)
def _rendered(split: str) -> tuple[np.ndarray, np.ndarray]:
    drawn = pool("train" if split == "train" else "test", range(RENDERED[split]), SIDE)
    return drawn.images, np.array([TASKS.index(case.task) for case in drawn.cases], dtype=np.int64)


PLUGIN = Shapes()
