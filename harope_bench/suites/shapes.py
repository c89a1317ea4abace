"""Suite shapes: the test captions of rendered scenes, six images each, 32 x 32.

The metadata of its prompts serves the rules of three benchmarks. The captions are those of
data/shapes_scenes/grammar.py that no training uses. The official scores of DPG-Bench leave out the
first row of its table. Here questions are numbered from row 1, so the official rules use all.
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
# Scenes of each split of `images`: a split of captions, and indices of its scenes. A judge is
# trained on both, because it has to know every combination.
SPLIT_SCENES: Mapping[str, tuple[tuple[Split, range], ...]] = {
    "train": (("train", range(6000)), ("test", range(4800, 10800))),
    "held-out": (("test", range(4800)),),
}
CAPTIONS = "captions"
SCENES_PER_CAPTION = 65
REFERENCE_TOML = Path(__file__).parent / "shapes.toml"


@cache
def caption_cases() -> tuple[grammar.SceneCaption, ...]:
    """Return the captions of the suite in their order."""
    return grammar.list_captions("test")


@cache
def prompt_metadata(prompt_index: int) -> Mapping[str, Metadata]:
    """Return the metadata of a caption, by the key of an evaluator."""
    caption = caption_cases()[prompt_index]
    n_earlier_questions = sum(
        len(prompt_metadata(earlier_index)["dpg"]["questions"])
        for earlier_index in range(prompt_index)
    )
    metadata = {
        "geneval": caption.geneval_metadata(),
        "dpg": dpg_item(caption, f"shapes{prompt_index:03d}", 1 + n_earlier_questions),
    }
    compbench_metadata = compbench_item(caption, prompt_index)
    if compbench_metadata is None:
        return metadata
    return {**metadata, "compbench": compbench_metadata}


class ShapesSuite(PromptSuite):
    """Captions of rendered scenes; index = copy * number of captions + caption index."""

    requested_conditioning = Conditioning("prompts")
    version = 2
    title = "rendered scenes of shapes: 67 captions of six tasks, six images each, 32 x 32"
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
        """Return the number of images, captions times copies."""
        return len(caption_cases()) * COPIES

    def case(self, index: int) -> PromptCase:
        """Return the caption and copy at an index; raise OptionError beyond the last index."""
        captions = caption_cases()
        copy, prompt_index = divmod(index, len(captions))
        if not 0 <= copy < COPIES:
            raise OptionError(
                f"shapes has {self.count:,} images, sample {index} is none; request fewer"
            )
        prompt = captions[prompt_index].prompt
        return PromptCase(prompt_index, copy, prompt, prompt_metadata(prompt_index))

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the requests with these indices."""
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Return a name for the captions with their metadata, and their sha256."""
        metadata = [prompt_metadata(i) for i in range(len(caption_cases()))]
        text = json.dumps(metadata, sort_keys=True)
        name = "data/shapes_world/grammar.py, test captions"
        return name, hashlib.sha256(text.encode()).hexdigest()

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return rendered scenes (N, 32, 32, 3) uint8 and their contents (N,) int64.

        The contents are numbered by data/shapes_scenes/contents.py.

        Args:
            split: `held-out`: scenes of test captions. `train`: scenes of training and of test
                captions. Both have equally many scenes of each task. `captions`: 65 scenes of each
                test caption, in the proportions of the suite's samples.

        Raises:
            OptionError: There is no such split.
        """
        splits = (*SPLIT_SCENES, CAPTIONS)
        if split not in splits:
            raise OptionError(f"shapes has splits {', '.join(splits)}, not {split!r}")
        return _render_split(split)

    def reference(self, judge: str) -> ReferenceFile:
        """Return the statistics of the split `captions` for a judge.

        `harope-bench train shapes-reference` builds the file again.

        Raises:
            WeightsError: The statistics are of another judge, or the sha256 of the file differs.
        """
        fields = read_versioned_toml("reference", REFERENCE_TOML)
        if fields["judge"] != judge:
            raise WeightsError(
                f"suite shapes has reference statistics for {fields['judge']}, not for {judge}",
                advice=(
                    f"use that judge, or make one, `harope-bench reference IMAGES {judge}.npz"
                    f" --judge {judge}`, and give --reference {judge}.npz"
                ),
            )
        path = REFERENCE_TOML.parent / fields["file"]
        check_sha256(path, fields["sha256"])
        return ReferenceFile(fields["name"], path, fields["sha256"], fields["judge_sha256"])


@lru_cache(maxsize=2)
def _render_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and contents of a split, as `ShapesSuite.images` does."""
    if split == CAPTIONS:
        captions = caption_cases()
        scenes = [
            compose_scene(captions[i % len(captions)], scene_rng(CAPTIONS, i))
            for i in range(SCENES_PER_CAPTION * len(captions))
        ]
    else:
        scenes = [
            compose_indexed_scene(caption_split, index)[1]
            for caption_split, indices in SPLIT_SCENES[split]
            for index in indices
        ]
    images = np.stack([render_scene(scene, SIDE) for scene in scenes])  # (N, 32, 32, 3)
    labels = np.array([scene_label(scene) for scene in scenes], dtype=np.int64)
    return images, labels


PLUGIN = ShapesSuite()
