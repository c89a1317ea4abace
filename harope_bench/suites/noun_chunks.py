"""What a tagger read in T2I-CompBench's prompts, kept as positions of characters: nouns, noun
chunks and what is left without adjectives.

The official scripts ask spaCy 3.5.3 with en_core_web_sm 3.5.0, which later Pythons cannot install,
and another version of the model
reads some prompts in another way. So the readings of two versions (3.6.0, 3.8.0) ship, made once; a
score does not depend on what is
installed. They hold no word of a prompt: a reading is a line of spans under the first digits of the
prompt's sha256, and means
nothing without the official prompts, which `fetch` brings (MIT, as these readings).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.registry import read_toml
from harope_bench.core.storage import sha256_file

PARSES_FILE = Path(__file__).with_name("t2i-compbench-parses.toml")
# the version nearest to the official one; the rows of others are those that differ from it
BASE_VERSION = "3.6.0"
KEY_LENGTH = 12  # of a prompt's sha256
TOKEN = re.compile(r"'s|\w+|[^\w\s]")

Span = tuple[int, int]


class PromptParse(NamedTuple):
    """A reading: NOUN tokens in order, noun chunks, the two objects around a preposition, the text
    without ADJ tokens.
    """

    nouns: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    no_adj: str = ""


class ParsesFile(NamedTuple):
    """What the shipped file holds: who read, and the rows of spans, both by version of the
    model.
    """

    parser_descriptions: Mapping[str, str]
    rows: Mapping[str, Mapping[str, str]]


def find_parse(prompt: str, version: str) -> PromptParse:
    """The reading of a prompt by that version of the model; StorageError for a text that was never
    read.
    """
    rows = _rows(version)
    row = rows.get(prompt_key(prompt))
    if row is None:
        raise StorageError(
            f"no reading of {prompt[:60]!r} by en_core_web_sm {version} ships; harope-bench fetch"
            " t2i-compbench"
        )
    return parse_row(prompt, row)


def parser_versions() -> tuple[str, ...]:
    """Versions of the model whose readings ship."""
    return tuple(_read_parses().rows)


def parser_description(version: str) -> str:
    """Who read the prompts, in words."""
    return _read_parses().parser_descriptions[version]


def parses_sha256() -> str:
    """Of the file with all readings."""
    return sha256_file(PARSES_FILE)


def prompt_key(prompt: str) -> str:
    """What a prompt is known by."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:KEY_LENGTH]


def parse_row(prompt: str, row: str) -> PromptParse:
    """The reading that a row of spans gives of its prompt."""
    parts = [[prompt[a:b] for a, b in _spans(field)] for field in row.split("|")]
    return PromptParse(tuple(parts[0]), tuple(parts[1]), tuple(parts[2]), " ".join(parts[3]))


def format_row(prompt: str, reading: PromptParse) -> str:
    """The row of a reading; ValueError where a word of it does not stand in the prompt."""
    pieces = _merge_spans(prompt, list(_find_in_order(prompt, reading.no_adj.split())))
    fields = [
        _find_in_order(prompt, reading.nouns),
        _find_in_order(prompt, reading.chunks),
        _find_anywhere(prompt, reading.objects),
        pieces,
    ]
    return "|".join(" ".join(f"{a}-{b}" for a, b in spans) for spans in fields)


def _spans(field: str) -> Iterator[Span]:
    for span in field.split():
        first, _, last = span.partition("-")
        yield int(first), int(last)


def _find_in_order(prompt: str, words: Sequence[str]) -> Iterator[Span]:
    """Where words stand that follow each other in the prompt, each a token or a run of tokens."""
    place = 0
    for word in words:
        found = _search(prompt, word, place)
        yield found
        place = found[1]


def _find_anywhere(prompt: str, words: Sequence[str]) -> Iterator[Span]:
    return (_search(prompt, word, 0) for word in words)


def _search(prompt: str, word: str, place: int) -> Span:
    before = r"(?<!\w)" if word[0].isalnum() else ""
    after = r"(?!\w)" if word[-1].isalnum() else ""
    found = re.compile(before + re.escape(word) + after).search(prompt, place)
    if found is None:
        raise ValueError(f"{word!r} does not stand in {prompt!r} after character {place}")
    return found.span()


def _merge_spans(prompt: str, spans: Sequence[Span]) -> list[Span]:
    """Neighbours with one space between them as one span."""
    found: list[Span] = []
    for first, last in spans:
        if found and prompt[found[-1][1] : first] == " ":
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


@lru_cache(maxsize=1)
def _read_parses() -> ParsesFile:
    facts = read_toml(PARSES_FILE)
    return ParsesFile(facts["made_with"], facts["rows"])


@lru_cache(maxsize=4)
def _rows(version: str) -> Mapping[str, str]:
    known = _read_parses().rows
    if version not in known:
        raise OptionError(
            f"no reading by en_core_web_sm {version} ships; there are {', '.join(known)}"
        )
    return {**known[BASE_VERSION], **known[version]}
