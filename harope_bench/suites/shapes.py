"""Suite shapes: the test captions of drawn scenes, six images each, 32 x 32; its cases hold what
three benchmarks' rules read.

The captions are those of data/shapes_world/grammar.py that no training sees. The official scores
drop the first row of DPG-Bench's
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
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.data.shapes_scenes import grammar
from harope_bench.data.shapes_scenes.contents import scene_label
from harope_bench.data.shapes_scenes.grammar import Split
from harope_bench.data.shapes_scenes.layout import compose_scene, scene_rng
from harope_bench.data.shapes_scenes.questions import compbench_item, dpg_item
from harope_bench.data.shapes_scenes.scene_images import render_scene
from harope_bench.data.shapes_scenes.scene_pool import compose_indexed_scene
from harope_bench.evaluators.base import Metadata
from harope_bench.suites.base import PromptCase, PromptSuite, ReferenceFile

SIDE = 32
COPIES = 6
SPLIT_SCENES: Mapping[
    str, tuple[tuple[Split, range], ...]
] = {  # scenes of `images`; a judge has to know every combination
    "train": (("train", range(6000)), ("test", range(4800, 10800))),
    "held-out": (("test", range(4800)),),
}
CAPTIONS = "captions"
SCENES_PER_CAPTION = 65
REFERENCE_TOML = Path(__file__).parent / "shapes.toml"


@cache
def caption_cases() -> tuple[grammar.SceneCaption, ...]:
    """The suite's captions in order."""
    return grammar.list_captions("test")


@cache
def prompt_metadata(prompt: int) -> Mapping[str, Metadata]:
    """What the evaluators read of a caption, by form."""
    case = caption_cases()[prompt]
    first = 1 + sum(len(prompt_metadata(earlier)["dpg"]["questions"]) for earlier in range(prompt))
    told = {"geneval": case.geneval_metadata(), "dpg": dpg_item(case, f"shapes{prompt:03d}", first)}
    bench = compbench_item(case, prompt)
    return told if bench is None else {**told, "compbench": bench}


class ShapesSuite(PromptSuite):
    """Index = copy * captions + caption."""

    requested_conditioning = Conditioning("prompts")
    version = 2
    title = "drawn scenes of shapes: 67 captions of six tasks, six images each, 32 x 32"
    copies = COPIES
    resolution = SIDE
    judges = {
        "fidelity": "shapes-net",
        "geneval": {"detector": "shapes-vision", "colours": "shapes-vision"},
        "dpg-bench": {"vqa": "shapes-vision"},
        "t2i-compbench": {
            "detector": "shapes-vision",
            "detector-2d": "shapes-vision",
            "vqa": "shapes-vision",
        },
    }
    evaluators = ("geneval", "dpg-bench", "t2i-compbench", "fidelity")

    @property
    def count(self) -> int:
        """Captions times copies."""
        return len(caption_cases()) * COPIES

    def case(self, index: int) -> PromptCase:
        """The caption and copy at an index, copy by copy; OptionError beyond the last."""
        copy, prompt = divmod(index, len(caption_cases()))
        if not 0 <= copy < COPIES:
            raise OptionError(
                f"shapes has {self.count:,} images, sample {index} is none; ask for fewer"
            )
        return PromptCase(prompt, copy, caption_cases()[prompt].prompt, prompt_metadata(prompt))

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The caption of each index."""
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """The captions with their facts, and their sha256."""
        told = json.dumps(
            [prompt_metadata(prompt) for prompt in range(len(caption_cases()))], sort_keys=True
        )
        return "data/shapes_world/grammar.py, test captions", hashlib.sha256(
            told.encode()
        ).hexdigest()

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Scenes for a judge: (N, 32, 32, 3) uint8 of a split, and what each holds (N,) int64, as
        data/shapes_world/contents.py says.

        Held-out scenes are of test captions, training ones of both kinds, with as many of each
        task; `captions` are 65 of each test
        caption, the proportions that samples are drawn in.
        """
        if split not in (*SPLIT_SCENES, CAPTIONS):
            raise OptionError(
                f"shapes has splits {', '.join((*SPLIT_SCENES, CAPTIONS))}, not {split!r}"
            )
        return _render_split(split)

    def reference(self, judge: str) -> ReferenceFile:
        """The split `captions` as the judge saw it; rebuilt by `harope-bench train
        shapes-reference`.
        """
        facts = read_versioned_toml("reference", REFERENCE_TOML)
        if facts["judge"] != judge:
            raise WeightsError(
                f"suite shapes has reference statistics for {facts['judge']}, not for {judge}",
                advice="use that judge",
            )
        path = REFERENCE_TOML.parent / facts["file"]
        check_sha256(path, facts["sha256"])
        return ReferenceFile(facts["name"], path, facts["sha256"], facts["judge_sha256"])


@lru_cache(maxsize=2)
def _render_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    if split == CAPTIONS:
        each = range(SCENES_PER_CAPTION * len(caption_cases()))
        drawn = [
            compose_scene(caption_cases()[i % len(caption_cases())], scene_rng(CAPTIONS, i))
            for i in each
        ]
    else:
        drawn = [
            compose_indexed_scene(part, index)[1]
            for part, indices in SPLIT_SCENES[split]
            for index in indices
        ]
    return np.stack([render_scene(one, SIDE) for one in drawn]), np.array(
        [scene_label(one) for one in drawn], dtype=np.int64
    )


PLUGIN = ShapesSuite()
