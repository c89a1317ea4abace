"""Suite geneval: 553 prompts of six tasks, four images each.

The official generator sets seed 42 before each prompt and generates its four images one after
another, so that each image depends on those before it. Here each image has its own random
generator, so images differ from those of the official generator with equal weights.

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
    """Return the metadata of each prompt, in the order of the file.

    Raises:
        StorageError: A line is invalid; the message has its number.
    """
    metadata = []
    for line_number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            prompt_metadata = parse_json(line)
            PromptSpec.model_validate(prompt_metadata)
        except ValidationError as error:
            raise StorageError(
                f"{path} line {line_number} is no GenEval prompt ({validation_summary(error)});"
                f" harope-bench fetch {ASSET}"
            ) from error
        except ValueError as error:
            raise StorageError(
                f"{path} line {line_number} is not JSON; run: harope-bench fetch {ASSET}"
            ) from error
        metadata.append(prompt_metadata)
    return tuple(metadata)


class GenEvalSuite(PromptSuite):
    """GenEval; the metadata of a case is its line of the official file, unchanged."""

    requested_conditioning = Conditioning("prompts")
    version = 1
    title = "GenEval: 553 prompts of six tasks, four images each"
    copies = COPIES
    resolution = 512
    judges = {"geneval": {"detector": "mask2former", "colours": "clip-vit-l-14"}}
    evaluators = ("geneval",)

    @property
    def count(self) -> int:
        """Return the number of images; the official number where the file is not fetched."""
        file = local_files.find_local_file(ASSET, METADATA_FILE)
        n_prompts = PROMPT_COUNT if file is None else len(read_metadata(file.path))
        return self.copies * n_prompts

    def case(self, index: int) -> PromptCase:
        """Return the prompt and copy at an index.

        Raises:
            OptionError: The index is beyond the last one.
            MissingAssetError: The prompts are not fetched.
        """
        all_metadata = read_metadata(local_files.require_local_file(ASSET, METADATA_FILE).path)
        copy, prompt_index = divmod(index, len(all_metadata))
        if not 0 <= copy < self.copies:
            raise OptionError(
                f"geneval has {len(all_metadata) * self.copies:,} images, sample {index} is none;"
                " request fewer"
            )
        metadata = all_metadata[prompt_index]
        return PromptCase(prompt_index, copy, str(metadata["prompt"]), {"geneval": metadata})

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the requests with these indices, after the file's sha256 was verified."""
        local_files.verify_local_file(ASSET, METADATA_FILE)
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Return name and sha256 of the metadata file."""
        return METADATA_FILE, local_files.verify_local_file(ASSET, METADATA_FILE).sha256


PLUGIN = GenEvalSuite()
