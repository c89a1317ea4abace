"""Suite geneval: 553 prompts of six tasks, four images each.

The official generator seeds everything with 42 before each prompt and draws its four images one after another, so that sample k
depends on those before it; here each image has a generator of its own, so images differ from the official generator's of equal weights.

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
from harope_bench.core.record_base import fault
from harope_bench.core.schema import Request, Settings
from harope_bench.core.text_file import read_text
from harope_bench.evaluators.base import Facts
from harope_bench.evaluators.rules.geneval import Wanted
from harope_bench.suites.base import Case, PromptSuite

ASSET, FILE = "geneval", "evaluation_metadata.jsonl"
PROMPTS, COPIES = 553, 4


@lru_cache(maxsize=2)
def lines(path: Path) -> tuple[Facts, ...]:
    """The metadata of each prompt, in file order; StorageError names a line that is none."""
    found = []
    texts = [line for line in read_text(path).split("\n") if line.strip()]
    for number, text in enumerate(texts, 1):
        try:
            facts = parse_json(text)
            Wanted.model_validate(facts)
        except ValidationError as error:
            raise StorageError(f"{path} line {number} is no GenEval prompt ({fault(error)}); harope-bench fetch {ASSET}") from error
        except ValueError as error:
            raise StorageError(f"{path} line {number} is not JSON; harope-bench fetch {ASSET}") from error
        found.append(facts)
    return tuple(found)


class GenEval(PromptSuite):
    """A case is a line of the metadata and a copy; the line as it stands is its facts."""

    asks = Conditioning("prompts")
    version = 1
    title = "GenEval: 553 prompts of six tasks, four images each"
    copies = COPIES
    resolution = 512
    judges = {"geneval": {"detector": "mask2former", "colours": "clip-vit-l-14"}}
    evaluators = ("geneval",)

    @property
    def count(self) -> int:
        """Images of all prompts of the file, of the official ones before it came."""
        found = local_files.held(ASSET, FILE)
        return self.copies * (PROMPTS if found is None else len(lines(found.path)))

    def case(self, index: int) -> Case:
        """The prompt and copy at an index, copy by copy; OptionError beyond the last, NotHere before the prompts came."""
        known = lines(local_files.bring(ASSET, FILE).path)
        copy, prompt = divmod(index, len(known))
        if not 0 <= copy < self.copies:
            raise OptionError(f"geneval has {len(known) * self.copies:,} images, sample {index} is none; ask for fewer")
        facts = known[prompt]
        return Case(prompt, copy, str(facts["prompt"]), {"geneval": facts})

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The prompt of each index; the metadata file is hashed first."""
        local_files.checked(ASSET, FILE)
        return [Request(index=i, prompt=self.case(i).text) for i in indices]

    def source(self) -> tuple[str, str]:
        """Name and sha256 of the metadata file."""
        return FILE, local_files.checked(ASSET, FILE).sha256


PLUGIN = GenEval()
