"""Suite dpg-bench: 1,065 long prompts, each with questions that depend on each other, four images
each.

Prompts are in the order in which the table of questions names them first. The table holds the
prompts' texts too, and generation is
officially from one file a prompt; the hash of each such file ships here, and a case says whether
its text is that file's.

Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/dpg_bench.csv and dpg_bench/prompts/ (git tree
ac3ba27b).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from harope_bench.assets import local_files
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.record_base import validate_name, validation_summary
from harope_bench.core.regular_file import TEXT_BYTES, read_regular
from harope_bench.core.schema import Request, Settings
from harope_bench.core.storage import convert_os_errors, first_line, sha256_bytes
from harope_bench.evaluators.base import Metadata
from harope_bench.evaluators.rules.dpg import DpgItem
from harope_bench.suites.base import PromptCase, PromptSuite

ASSET = "dpg-bench"
TABLE_FILE = "dpg_bench.csv"
HASHES_FILE = (
    Path(__file__).parent / "dpg-bench-prompts.txt"
)  # item, and the first 16 digits of its stripped prompt's sha256
PROMPT_COUNT = 1065
COPIES = 4


class DpgPrompt(NamedTuple):
    """A prompt's text and its facts, as `rules.dpg.Item` reads them."""

    prompt: str
    metadata: Metadata


@cache
def official_hashes() -> dict[str, str]:
    """By item, the beginning of the sha256 of its official prompt, blanks around it stripped."""
    return dict(line.split() for line in HASHES_FILE.read_text(encoding="ascii").splitlines())


@lru_cache(maxsize=2)
def read_prompts(path: Path) -> tuple[DpgPrompt, ...]:
    """The table's items in the order of their first rows; StorageError names a row that is none."""
    found: dict[str, DpgPrompt] = {}
    try:
        with convert_os_errors(path):
            data = read_regular(path, TEXT_BYTES)
        for number, row in enumerate(
            csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        ):
            _add_question(found, number, row)
    except (
        ValidationError,
        ValueError,
        ArithmeticError,
        TypeError,
        KeyError,
        AttributeError,
        csv.Error,
    ) as error:
        told = (
            validation_summary(error) if isinstance(error, ValidationError) else first_line(error)
        )
        at = sum(len(p.metadata["questions"]) for p in found.values())
        raise StorageError(
            f"{path}: row {at} is none of DPG-Bench's ({told}); harope-bench fetch {ASSET}"
        ) from error
    return tuple(found.values())


def _add_question(found: dict[str, DpgPrompt], number: int, row: Mapping[str, str]) -> None:
    item = validate_name(row["item_id"].strip())
    text = row["text"].strip()
    if item not in found:
        found[item] = DpgPrompt(
            text, {"item": item, "questions": [], "official_text": _is_official(item, text)}
        )
    question = {
        "row": number,
        "id": int(float(row["proposition_id"])),  # as pandas reads it
        "question": row["question_natural_language"],
        "parents": [int(parent) for parent in row["dependency"].split(",")],
        "broad": row["category_broad"],
        "detailed": row["category_detailed"],
        "tuple": row["tuple"],
    }
    DpgItem.model_validate({"item": item, "questions": [question]})
    found[item].metadata["questions"].append(question)


def _is_official(item: str, text: str) -> bool | None:
    wanted = official_hashes().get(item)
    return None if wanted is None else sha256_bytes(text.encode()).startswith(wanted)


class DpgBenchSuite(PromptSuite):
    """A case is an item and a copy; copies are the tiles of the official 2 x 2 grid, row by row."""

    requested_conditioning = Conditioning("prompts")
    version = 1
    title = "DPG-Bench: 1,065 long prompts, four images each"
    copies = COPIES
    resolution = 512
    judges = {"dpg-bench": {"vqa": "mplug"}}
    evaluators = ("dpg-bench",)

    @property
    def count(self) -> int:
        """Images of all prompts of the table, of the official ones before it came."""
        found = local_files.find_local_file(ASSET, TABLE_FILE)
        return self.copies * (PROMPT_COUNT if found is None else len(read_prompts(found.path)))

    def case(self, index: int) -> PromptCase:
        """The prompt and copy at an index; OptionError beyond the last, NotHere before the table
        came, StorageError for another table.
        """
        path = local_files.require_local_file(ASSET, TABLE_FILE).path
        known = read_prompts(path)
        if len(known) * self.copies != self.count:
            raise StorageError(
                f"{path} has {len(known):,} items, wanted {self.count // self.copies:,};"
                f" harope-bench fetch {ASSET}"
            )
        copy, prompt = divmod(index, len(known))
        if not 0 <= copy < self.copies:
            raise OptionError(
                f"dpg-bench has {len(known) * self.copies:,} images, sample {index} is none; ask"
                " for fewer"
            )
        return PromptCase(prompt, copy, known[prompt].prompt, {"dpg": known[prompt].metadata})

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The prompt of each index; the table is hashed first."""
        local_files.verify_local_file(ASSET, TABLE_FILE)
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Name and sha256 of the table."""
        return TABLE_FILE, local_files.verify_local_file(ASSET, TABLE_FILE).sha256


PLUGIN = DpgBenchSuite()
