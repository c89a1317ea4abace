"""Suite shapes: the test captions of drawn scenes, six images each, 32 x 32; its cases hold what three benchmarks' rules read.

The captions are those of data/shapes_world/grammar.py that no training sees. The official scores drop the first row of DPG-Bench's
table; here questions are numbered from row 1, so the official rules read them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.schema import Request, Settings
from harope_bench.core.state_dicts import check_hash
from harope_bench.core.toml_file import read_facts
from harope_bench.data.shapes_world import grammar
from harope_bench.data.shapes_world.contents import label
from harope_bench.data.shapes_world.draw import draw
from harope_bench.data.shapes_world.grammar import Split
from harope_bench.data.shapes_world.layout import compose, generator
from harope_bench.data.shapes_world.pool import scene
from harope_bench.data.shapes_world.questions import compbench, item
from harope_bench.evaluators.base import Facts
from harope_bench.suites.base import Case, PromptSuite, Reference

SIDE = 32
COPIES = 6
RENDERED: Mapping[str, tuple[tuple[Split, range], ...]] = {  # scenes of `images`; a judge has to know every combination
    "train": (("train", range(6000)), ("test", range(4800, 10800))),
    "held-out": (("test", range(4800)),),
}
CAPTIONS, EACH = "captions", 65
FACTS = Path(__file__).parent / "shapes.toml"


@cache
def cases() -> tuple[grammar.Case, ...]:
    """The suite's captions in order."""
    return grammar.cases("test")


@cache
def facts(prompt: int) -> Mapping[str, Facts]:
    """What the evaluators read of a caption, by form."""
    case = cases()[prompt]
    first = 1 + sum(len(facts(earlier)["dpg"]["questions"]) for earlier in range(prompt))
    told = {"geneval": case.metadata(), "dpg": item(case, f"shapes{prompt:03d}", first)}
    bench = compbench(case, prompt)
    return told if bench is None else {**told, "compbench": bench}


class Shapes(PromptSuite):
    """Index = copy * captions + caption."""

    asks = Conditioning("prompts")
    version = 2
    title = "drawn scenes of shapes: 67 captions of six tasks, six images each, 32 x 32"
    copies = COPIES
    resolution = SIDE
    judges = {
        "fidelity": "shapes-net",
        "geneval": {"detector": "shapes-vision", "colours": "shapes-vision"},
        "dpg-bench": {"vqa": "shapes-vision"},
        "t2i-compbench": {"detector": "shapes-vision", "detector-2d": "shapes-vision", "vqa": "shapes-vision"},
    }
    evaluators = ("geneval", "dpg-bench", "t2i-compbench", "fidelity")

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
        return "data/shapes_world/grammar.py, test captions", hashlib.sha256(told.encode()).hexdigest()

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Scenes for a judge: (N, 32, 32, 3) uint8 of a split, and what each holds (N,) int64, as data/shapes_world/contents.py says.

        Held-out scenes are of test captions, training ones of both kinds, with as many of each task; `captions` are 65 of each test
        caption, the proportions that samples are drawn in.
        """
        if split not in (*RENDERED, CAPTIONS):
            raise OptionError(f"shapes has splits {', '.join((*RENDERED, CAPTIONS))}, not {split!r}")
        return _rendered(split)

    def reference(self, judge: str) -> Reference:
        """The split `captions` as the judge saw it; rebuilt by `harope-bench train shapes-reference`."""
        facts = read_facts("reference", FACTS)
        if facts["judge"] != judge:
            raise WeightsError(f"suite shapes has reference statistics for {facts['judge']}, not for {judge}", advice="use that judge")
        path = FACTS.parent / facts["file"]
        check_hash(path, facts["sha256"])
        return Reference(facts["name"], path, facts["sha256"], facts["judge_sha256"])


@lru_cache(maxsize=2)
def _rendered(split: str) -> tuple[np.ndarray, np.ndarray]:
    if split == CAPTIONS:
        each = range(EACH * len(cases()))
        drawn = [compose(cases()[i % len(cases())], generator(CAPTIONS, i)) for i in each]
    else:
        drawn = [scene(part, index)[1] for part, indices in RENDERED[split] for index in indices]
    return np.stack([draw(one, SIDE) for one in drawn]), np.array([label(one) for one in drawn], dtype=np.int64)


PLUGIN = Shapes()
