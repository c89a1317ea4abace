"""Suites of a user's own prompts: `prompts:FILE` with a .txt, .csv, .tsv or .jsonl file.

The prompts are copied into the user's home under a name that contains the hash of the file, so a
plan with that name always has the same prompts, and a changed file is another suite.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.formats import parse_versioned_json, versioned_json_text
from harope_bench.core.index_ranges import MAX_INDICES, parse_whole_number
from harope_bench.core.limits import check_maximum
from harope_bench.core.progress import write_line
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.regular_file import LINES_BYTES, read_regular
from harope_bench.core.schema import Request, Settings
from harope_bench.core.storage import convert_os_errors, home, sha256_bytes, write_text
from harope_bench.suites.base import OWN_PROMPTS, PromptCase, PromptSuite
from harope_bench.suites.prompt_rows import PromptRow, read_prompt_rows

PREFIX = "prompts:"
OPTION = re.compile(r",(copies|prompt|id)=([^,]*)$")
METADATA_KEY = "prompts"
MAX_COPIES = 1_000
STEM_LENGTH = 40  # characters of the file's name in the name of the suite
HASH_LENGTH = 16  # hex digits in the name of the suite
ADVICE = "write prompts:FILE or prompts:FILE,copies=4,prompt=COLUMN,id=COLUMN"


class StoredPrompts(Record):
    """The file of a suite in the user's home.

    Attributes:
        source: Name of the user's file, without its folder.
        sha256: Hash of the user's file.
        copies: Number of images of each prompt.
    """

    source: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    copies: int = Field(gt=0, le=MAX_COPIES)
    prompts: tuple[PromptRow, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        """Return the name of the suite, which contains a hash of everything but `source`."""
        fields = self.model_dump(mode="json", exclude={"source"})
        digest = sha256_bytes(json.dumps(fields, sort_keys=True).encode())
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.source).stem)[:STEM_LENGTH].strip("-")
        return f"{OWN_PROMPTS}{stem or 'file'}-{digest[:HASH_LENGTH]}"


class PromptFileSuite(PromptSuite):
    """Prompts of a user; index = copy * number of prompts + prompt index."""

    requested_conditioning = Conditioning("prompts")
    version = 1
    resolution = 1024
    has_exact_resolution = False
    judges = {}
    evaluators = ()

    def __init__(self, stored_prompts: StoredPrompts):
        self._stored_prompts = stored_prompts
        self.copies = stored_prompts.copies
        count = len(stored_prompts.prompts)
        self.title = f"{count:,} prompts of {stored_prompts.source}, {self.copies} images each"

    @property
    def count(self) -> int:
        """Return the number of images, prompts times copies."""
        return len(self._stored_prompts.prompts) * self.copies

    def case(self, index: int) -> PromptCase:
        """Return the prompt and copy at an index; its metadata is the id.

        Raises:
            OptionError: The index is beyond the last one.
        """
        if not 0 <= index < self.count:
            raise OptionError(
                f"{self.title}: {self.count:,} images, sample {index} is none; request fewer, or"
                " write copies=N after the file"
            )
        copy, prompt_index = divmod(index, len(self._stored_prompts.prompts))
        row = self._stored_prompts.prompts[prompt_index]
        return PromptCase(prompt_index, copy, row.prompt, {METADATA_KEY: {"item": row.id}})

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the requests with these indices."""
        return [Request(index=i, prompt=self.case(i).prompt) for i in indices]

    def prompts_source(self) -> tuple[str, str]:
        """Return the name and the sha256 of the user's file."""
        return self._stored_prompts.source, self._stored_prompts.sha256


def resolve_suite_name(text: str) -> str:
    """Return the name of the suite of `prompts:FILE`, and every other text as it is.

    The prompts are stored in the user's home, unless they are there already.

    Raises:
        OptionError: An option after the file is wrong, or a line of the file is no prompt.
        StorageError: The file cannot be read.
    """
    if not text.startswith(PREFIX):
        return text
    path_text = text.removeprefix(PREFIX)
    options: dict[str, str] = {}
    while match := OPTION.search(path_text):
        if match[1] in options or not match[2]:
            raise OptionError(f"{match[1]} is given twice or is empty; {ADVICE}")
        options[match[1]] = match[2]
        path_text = path_text[: match.start()]
    if not path_text:
        raise OptionError(f"{text[:80]!r} names no file; {ADVICE}")

    copies = parse_whole_number(options.get("copies", "1"))
    if not copies or copies > MAX_COPIES:
        raise OptionError(
            f"copies is {options['copies'][:20]!r}, wanted 1 to {MAX_COPIES:,}; correct it"
        )
    path = Path(path_text)
    stored_prompts = _read_user_file(path, copies, options.get("prompt"), options.get("id"))
    return _store(stored_prompts)


def _read_user_file(
    path: Path, copies: int, prompt_column: str | None, id_column: str | None
) -> StoredPrompts:
    """Return the prompts of a user's file; see `read_prompt_rows` for errors."""
    rows, data = read_prompt_rows(path, prompt_column, id_column)
    check_maximum(f"{path}: prompts times copies", len(rows) * copies, MAX_INDICES)
    return StoredPrompts(
        source=path.name, sha256=sha256_bytes(data), copies=copies, prompts=tuple(rows)
    )


def _store(stored_prompts: StoredPrompts) -> str:
    """Write the file of a suite unless it exists, and return the name of the suite."""
    name = stored_prompts.name
    path = home() / "suites" / f"{name}.json"
    if path.is_file() and load_prompt_file(path)._stored_prompts == stored_prompts:
        return name
    write_text(path, versioned_json_text("prompts", stored_prompts.model_dump(mode="json")))
    load_prompt_file.cache_clear()
    counts = Counter(row.prompt for row in stored_prompts.prompts)
    n_repeated = sum(count > 1 for count in counts.values())
    repetition_text = f", {n_repeated:,} of them more than once" if n_repeated else ""
    write_line(f"{stored_prompts.source}: {len(counts):,} prompts{repetition_text}; suite {name}")
    return name


@lru_cache(maxsize=16)
def load_prompt_file(path: Path) -> PromptFileSuite:
    """Return the suite in a file of the user's home.

    Raises:
        StorageError: The file is damaged, or was changed after it was written.
    """
    advice = "delete it and give --suite prompts:FILE again"
    try:
        with convert_os_errors(path):
            data = read_regular(path, LINES_BYTES)
        fields = parse_versioned_json("prompts", data, path)
        stored_prompts = StoredPrompts.model_validate(fields)
    except (ValidationError, ValueError) as error:
        reason = validation_summary(error) if isinstance(error, ValidationError) else str(error)
        raise StorageError(f"{path} is no list of prompts ({reason}); {advice}") from error
    if stored_prompts.name != path.stem:
        raise StorageError(f"{path} was changed, its hash is that of other prompts; {advice}")
    return PromptFileSuite(stored_prompts)
