"""spaCy's parses of T2I-CompBench's prompts: nouns, noun chunks and text without adjectives.

The official scripts use spaCy 3.5.3 with en_core_web_sm 3.5.0, which cannot be installed on later
Pythons, and other versions of the model parse some prompts differently. Therefore the parses of two
versions (3.6.0, 3.8.0) ship, and a score does not depend on the installed packages.

The file has no word of a prompt. A parse is a line of character spans under the first digits of the
prompt's sha256. It has no meaning without the official prompts, which `fetch` downloads (MIT, as
these parses).
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
# The version nearest to the official one. Other versions have only the rows that differ from it.
BASE_VERSION = "3.6.0"
KEY_LENGTH = 12  # digits of a prompt's sha256
TOKEN = re.compile(r"'s|\w+|[^\w\s]")

Span = tuple[int, int]  # first character, character after the last


class PromptParse(NamedTuple):
    """A parse of a prompt.

    nouns: NOUN tokens in order. chunks: noun chunks.
    objects: the two objects around a preposition.
    text_without_adjectives: the text without ADJ tokens.
    """

    nouns: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    text_without_adjectives: str = ""


class ParsesFile(NamedTuple):
    """The shipped file: by version of the model, a description of the parser, and rows of spans."""

    parser_descriptions: Mapping[str, str]
    rows: Mapping[str, Mapping[str, str]]


def find_parse(prompt: str, version: str) -> PromptParse:
    """Return the parse of a prompt by a version of the model.

    Raises:
        StorageError: The file has no parse of this prompt.
    """
    row = _rows(version).get(prompt_key(prompt))
    if row is None:
        raise StorageError(
            f"no parse of {prompt[:60]!r} by en_core_web_sm {version} ships; run: harope-bench"
            " fetch t2i-compbench"
        )
    return parse_row(prompt, row)


def parser_versions() -> tuple[str, ...]:
    """Return the versions of the model whose parses ship."""
    return tuple(_read_parses().rows)


def parser_description(version: str) -> str:
    """Return the description of the parser that a version of the model belongs to."""
    return _read_parses().parser_descriptions[version]


def parses_sha256() -> str:
    """Return the sha256 of the file with all parses."""
    return sha256_file(PARSES_FILE)


def prompt_key(prompt: str) -> str:
    """Return the key of a prompt in the file."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:KEY_LENGTH]


def parse_row(prompt: str, row: str) -> PromptParse:
    """Return the parse of a prompt from its row of spans."""
    fields = [[prompt[start:end] for start, end in _spans(field)] for field in row.split("|")]
    nouns, chunks, objects, text_parts = fields[:4]
    return PromptParse(tuple(nouns), tuple(chunks), tuple(objects), " ".join(text_parts))


def format_row(prompt: str, parse: PromptParse) -> str:
    """Return the row of spans of a parse; raise ValueError for a word that is not in the prompt."""
    words = parse.text_without_adjectives.split()
    fields = [
        _find_in_order(prompt, parse.nouns),
        _find_in_order(prompt, parse.chunks),
        _find_anywhere(prompt, parse.objects),
        _merge_spans(prompt, list(_find_in_order(prompt, words))),
    ]
    return "|".join(" ".join(f"{start}-{end}" for start, end in spans) for spans in fields)


def _spans(field: str) -> Iterator[Span]:
    """Yield the spans of a field, which are written as `start-end`."""
    for span in field.split():
        start, _, end = span.partition("-")
        yield int(start), int(end)


def _find_in_order(prompt: str, words: Sequence[str]) -> Iterator[Span]:
    """Yield the span of each word, which is a token or a run of tokens after the previous one."""
    start = 0
    for word in words:
        span = _search(prompt, word, start)
        yield span
        start = span[1]


def _find_anywhere(prompt: str, words: Sequence[str]) -> Iterator[Span]:
    """Return the span of the first occurrence of each word."""
    return (_search(prompt, word, 0) for word in words)


def _search(prompt: str, word: str, start: int) -> Span:
    """Return the span of a word at or after `start`; raise ValueError where there is none."""
    no_word_before = r"(?<!\w)" if word[0].isalnum() else ""
    no_word_after = r"(?!\w)" if word[-1].isalnum() else ""
    match = re.compile(no_word_before + re.escape(word) + no_word_after).search(prompt, start)
    if match is None:
        raise ValueError(f"{word!r} is not in {prompt!r} after character {start}")
    return match.span()


def _merge_spans(prompt: str, spans: Sequence[Span]) -> list[Span]:
    """Return the spans with neighbours merged that are separated by one space."""
    merged_spans: list[Span] = []
    for start, end in spans:
        if merged_spans and prompt[merged_spans[-1][1] : start] == " ":
            merged_spans[-1] = (merged_spans[-1][0], end)
        else:
            merged_spans.append((start, end))
    return merged_spans


@lru_cache(maxsize=1)
def _read_parses() -> ParsesFile:
    """Return the contents of the shipped file."""
    content = read_toml(PARSES_FILE)
    return ParsesFile(content["made_with"], content["rows"])


@lru_cache(maxsize=4)
def _rows(version: str) -> Mapping[str, str]:
    """Return the rows of a version, by key of the prompt; raise OptionError for another version."""
    rows_by_version = _read_parses().rows
    if version not in rows_by_version:
        raise OptionError(
            f"no parses by en_core_web_sm {version} ship; choose one of"
            f" {', '.join(rows_by_version)}"
        )
    return {**rows_by_version[BASE_VERSION], **rows_by_version[version]}
