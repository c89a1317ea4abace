"""Suite dpg-bench: 1,065 long prompts with four images each, and a graph of questions for each.

Prompts are in the order of their first rows in the table of questions. The table has the texts of
the prompts too. The official generation reads one file for each prompt; the hashes of these files
ship here, and the metadata of a prompt says whether its text equals that of the file.

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
# Each line: an item, and the first 16 digits of the sha256 of its stripped prompt.
HASHES_FILE = Path(__file__).parent / "dpg-bench-prompts.txt"
PROMPT_COUNT = 1065
COPIES = 4


class DpgPrompt(NamedTuple):
    """A prompt and its metadata, which `evaluators.rules.dpg.DpgItem` validates."""

    prompt: str
    metadata: Metadata


@cache
def official_hashes() -> dict[str, str]:
    """Return the start of the sha256 of the stripped official prompt, by item."""
    return dict(line.split() for line in HASHES_FILE.read_text(encoding="ascii").splitlines())


@lru_cache(maxsize=2)
def read_prompts(path: Path) -> tuple[DpgPrompt, ...]:
    """Return the prompts of the table in the order of their first rows.

    Raises:
        StorageError: A row is invalid; the message has its number.
    """
    prompts_by_item: dict[str, DpgPrompt] = {}
    try:
        with convert_os_errors(path):
            data = read_regular(path, TEXT_BYTES)
        text = data.decode("utf-8-sig")
        for row_number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""))):
            _add_question(prompts_by_item, row_number, row)
    except (
        ValidationError,
        ValueError,
        ArithmeticError,
        TypeError,
        KeyError,
        AttributeError,
        csv.Error,
    ) as error:
        reason = first_line(error)
        if isinstance(error, ValidationError):
            reason = validation_summary(error)
        row_number = sum(len(p.metadata["questions"]) for p in prompts_by_item.values())
        raise StorageError(
            f"{path}: row {row_number} is none of DPG-Bench's ({reason}); run: harope-bench fetch"
            f" {ASSET}"
        ) from error
    return tuple(prompts_by_item.values())


def _add_question(
    prompts_by_item: dict[str, DpgPrompt], row_number: int, row: Mapping[str, str]
) -> None:
    """Add the question of a row of the table to its prompt."""
    item = validate_name(row["item_id"].strip())
    prompt = row["text"].strip()
    if item not in prompts_by_item:
        metadata: Metadata = {
            "item": item,
            "questions": [],
            "official_text": _is_official(item, prompt),
        }
        prompts_by_item[item] = DpgPrompt(prompt, metadata)
    question = {
        "row": row_number,
        "id": int(float(row["proposition_id"])),  # as pandas reads it
        "question": row["question_natural_language"],
        "parents": [int(parent) for parent in row["dependency"].split(",")],
        "broad": row["category_broad"],
        "detailed": row["category_detailed"],
        "tuple": row["tuple"],
    }
    DpgItem.model_validate({"item": item, "questions": [question]})
    prompts_by_item[item].metadata["questions"].append(question)


def _is_official(item: str, prompt: str) -> bool | None:
    """Return whether a prompt equals the official file of its item, None without such a file."""
    hash_start = official_hashes().get(item)
    return None if hash_start is None else sha256_bytes(prompt.encode()).startswith(hash_start)


class DpgBenchSuite(PromptSuite):
    """DPG-Bench; the copies of a prompt are the tiles of the official 2 x 2 grid, row by row."""

    requested_conditioning = Conditioning("prompts")
    version = 1
    title = "DPG-Bench: 1,065 long prompts, four images each"
    copies = COPIES
    resolution = 512
    judges = {"dpg-bench": {"vqa": "mplug"}}
    evaluators = ("dpg-bench",)

    @property
    def count(self) -> int:
        """Return the number of images; the official number where the table is not fetched."""
        table = local_files.find_local_file(ASSET, TABLE_FILE)
        n_prompts = PROMPT_COUNT if table is None else len(read_prompts(table.path))
        return self.copies * n_prompts

    def case(self, index: int) -> PromptCase:
        """Return the prompt and copy at an index.

        Raises:
            OptionError: The index is beyond the last one.
            MissingAssetError: The table is not fetched.
            StorageError: The table has another number of prompts.
        """
        path = local_files.require_local_file(ASSET, TABLE_FILE).path
        prompts = read_prompts(path)
        if len(prompts) * self.copies != self.count:
            raise StorageError(
                f"{path} has {len(prompts):,} items, wanted {self.count // self.copies:,};"
                f" harope-bench fetch {ASSET}"
            )
        copy, prompt_index = divmod(index, len(prompts))
        if not 0 <= copy < self.copies:
            raise OptionError(
                f"dpg-bench has {len(prompts) * self.copies:,} images, sample {index} is none;"
                " request fewer"
            )
        prompt, metadata = prompts[prompt_index]
        return PromptCase(prompt_index, copy, prompt, {"dpg": metadata})

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the requests with these indices, after the table's sha256 was verified."""
        local_files.verify_local_file(ASSET, TABLE_FILE)
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Return name and sha256 of the table."""
        return TABLE_FILE, local_files.verify_local_file(ASSET, TABLE_FILE).sha256


PLUGIN = DpgBenchSuite()
