"""Suite my-prompts: six prompts, each about one coloured shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Request, Settings
from harope_bench.suites.base import PromptCase, PromptSuite

OBJECTS = (
    ("red", "circle"),
    ("green", "square"),
    ("blue", "triangle"),
    ("yellow", "cross"),
    ("purple", "ring"),
    ("white", "circle"),
)


class MyPrompts(PromptSuite):
    """Six prompts with two images each; index = copy * 6 + prompt index."""

    version = 1  # raise it where prompts or metadata change
    title = "six prompts of one coloured shape, two images each, 32 x 32"
    copies = 2
    count = copies * len(OBJECTS)
    resolution = 32
    requested_conditioning = Conditioning("prompts")
    judges = {"geneval": {"detector": "shapes-vision", "colours": "shapes-vision"}}
    evaluators = ("geneval",)

    def case(self, index: int) -> PromptCase:
        """Return the prompt of an index, with the metadata that evaluators read by their key."""
        if not 0 <= index < self.count:
            raise OptionError(
                f"my-prompts has {self.count} images, wanted sample {index}; ask for fewer"
            )
        copy, prompt_index = divmod(index, len(OBJECTS))
        colour, shape = OBJECTS[prompt_index]
        prompt = f"a photo of a {colour} {shape}"
        # A line of GenEval's metadata: what an image of the prompt must include.
        include = [{"class": shape, "count": 1, "color": colour}]
        metadata = {"geneval": {"tag": "colors", "include": include, "prompt": prompt}}
        return PromptCase(prompt_index, copy, prompt, metadata)

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the request of each index."""
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Return a name for the prompts and the sha256 of all that evaluators read of them."""
        metadata = [self.case(i).metadata for i in range(len(OBJECTS))]
        text = json.dumps(metadata, sort_keys=True)
        return "my_prompts.py, OBJECTS", hashlib.sha256(text.encode()).hexdigest()


PLUGIN = MyPrompts()
