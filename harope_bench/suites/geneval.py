"""Suite geneval: 553 prompts of six tasks, four images each.

The official generator seeds everything with 42 before each prompt and draws its four images one
after another, so that sample k
depends on those before it; here each image has a generator of its own, so images differ from the
official generator's of equal weights.

Source: djghosh13/geneval af4902f2, prompts/evaluation_metadata.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from harope_bench.assets import local_files
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import validation_summary
from harope_bench.core.schema import Request, Settings
from harope_bench.core.text_file import read_text
from harope_bench.evaluators.base import Metadata
from harope_bench.evaluators.rules.geneval import PromptSpec
from harope_bench.suites.base import PromptCase, PromptSuite

ASSET = "geneval"
METADATA_FILE = "evaluation_metadata.jsonl"
PROMPT_COUNT = 553
COPIES = 4


@lru_cache(maxsize=2)
def read_metadata(path: Path) -> tuple[Metadata, ...]:
    """The metadata of each prompt, in file order; StorageError names a line that is none."""
    found = []
    texts = [line for line in read_text(path).split("\n") if line.strip()]
    for number, text in enumerate(texts, 1):
        try:
            facts = parse_json(text)
            PromptSpec.model_validate(facts)
        except ValidationError as error:
            raise StorageError(
                f"{path} line {number} is no GenEval prompt ({validation_summary(error)});"
                f" harope-bench fetch {ASSET}"
            ) from error
        except ValueError as error:
            raise StorageError(
                f"{path} line {number} is not JSON; harope-bench fetch {ASSET}"
            ) from error
        found.append(facts)
    return tuple(found)


class GenEvalSuite(PromptSuite):
    """A case is a line of the metadata and a copy; the line as it stands is its facts."""

    requested_conditioning = Conditioning("prompts")
    version = 1
    title = "GenEval: 553 prompts of six tasks, four images each"
    copies = COPIES
    resolution = 512
    judges = {"geneval": {"detector": "mask2former", "colours": "clip-vit-l-14"}}
    evaluators = ("geneval",)

    @property
    def count(self) -> int:
        """Images of all prompts of the file, of the official ones before it came."""
        found = local_files.find_local_file(ASSET, METADATA_FILE)
        return self.copies * (PROMPT_COUNT if found is None else len(read_metadata(found.path)))

    def case(self, index: int) -> PromptCase:
        """The prompt and copy at an index, copy by copy; OptionError beyond the last, NotHere
        before the prompts came.
        """
        known = read_metadata(local_files.require_local_file(ASSET, METADATA_FILE).path)
        copy, prompt = divmod(index, len(known))
        if not 0 <= copy < self.copies:
            raise OptionError(
                f"geneval has {len(known) * self.copies:,} images, sample {index} is none; ask for"
                " fewer"
            )
        facts = known[prompt]
        return PromptCase(prompt, copy, str(facts["prompt"]), {"geneval": facts})

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The prompt of each index; the metadata file is hashed first."""
        local_files.verify_local_file(ASSET, METADATA_FILE)
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Name and sha256 of the metadata file."""
        return METADATA_FILE, local_files.verify_local_file(ASSET, METADATA_FILE).sha256


PLUGIN = GenEvalSuite()
