"""Contamination audit: training captions that repeat, contain, or resemble a benchmark's prompts.

Captions are read as a stream, and torch is not imported.

Texts are compared as words: lower case, punctuation dropped, spaces single. A caption counts once,
as the first of these kinds:

- exact: it is a prompt;
- template: it is no prompt, and the whole caption is one of GenEval's six templates with the
  benchmark's objects, colours and relations;
- contained: it contains a prompt word for word.

Templates are GenEval's; other suites have exact and contained only.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, BinaryIO, Literal, NamedTuple

from harope_bench.core.errors import OptionError, StorageError, UnknownNameError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_file import parse_json
from harope_bench.core.regular_file import check_regular, open_regular
from harope_bench.core.storage import convert_os_errors, home
from harope_bench.core.text_file import detect_charset

Kind = Literal["exact", "template", "contained"]
KINDS: tuple[Kind, ...] = ("exact", "template", "contained")
OFFICIAL_FILES = {
    "geneval": (
        "evaluation_metadata.jsonl (or generation_prompts.txt) of djghosh13/geneval, folder"
        " prompts/"
    ),
    "dpg-bench": "the folder dpg_bench/prompts/ of TencentQQGYLab/ELLA",
    "t2i-compbench": (
        "a *_val.txt, or a folder with several, of Karine-Huang/T2I-CompBench, folder"
        " examples/dataset/"
    ),
}
TEXT_FIELDS = ("text", "caption", "prompt")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
NUMBERS = ("two", "three", "four", "2", "3", "4")
RELATIONS = ("left of", "right of", "above", "below")
EXAMPLE_LENGTH = 200  # characters of a caption that is shown as an example
ENCODING_BYTES = 4096  # bytes of a file that its encoding is detected from
MAX_LINE_LENGTH = 1 << 20  # characters; a small compressed file may unpack to an endless line
# Errors of reading text from outside, compressed or not.
READ_ERRORS = (ValueError, EOFError, gzip.BadGzipFile, zlib.error)


class BenchmarkPrompt(NamedTuple):
    """A benchmark prompt and its task."""

    text: str
    task: str


class CaptionMatch(NamedTuple):
    """A match of a caption with the benchmark.

    prompt: None for a template, which is no prompt of the benchmark.
    """

    kind: Kind
    task: str
    prompt: str | None


class MatchExample(NamedTuple):
    """A caption that matched, with its file and line."""

    kind: Kind
    task: str
    file: str
    line: int
    caption: str
    prompt: str | None


@dataclass
class Audit:
    """Counts and examples of one audit.

    prompts: distinct prompts of the benchmark.
    captions: captions that were read.
    counts: captions by kind and task.
    matched_prompts: distinct prompts by kind.
    """

    suite: str
    prompts: int
    captions: int = 0
    counts: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    matched_prompts: dict[Kind, set[str]] = field(
        default_factory=lambda: {kind: set() for kind in KINDS}
    )
    examples: list[MatchExample] = field(default_factory=list)

    @property
    def n_matched(self) -> int:
        """Return the number of captions that matched."""
        return sum(self.counts.values())

    def count_kind(self, kind: Kind) -> int:
        """Return the number of captions with this kind of match."""
        return sum(n for (k, _), n in self.counts.items() if k == kind)


def audit_captions(
    captions: Sequence[Path],
    suite: str,
    prompts: Path | None = None,
    column: str | None = None,
    max_examples: int = 3,
) -> Audit:
    """Read all captions once and count their matches with the suite's prompts.

    Args:
        captions: paths of the files of training captions.
        prompts: path of the official prompt file or folder; None for HAROPE_BENCH_HOME's.
        column: field of a .jsonl or column of a .csv; None for the first of text, caption, prompt.
        max_examples: number of captions that are listed of each kind and task.

    Raises:
        UnknownNameError: The suite has no known prompts and `prompts` is None.
        StorageError, OptionError: A file cannot be read.
    """
    benchmark_prompts = read_prompts(prompts or find_prompts(suite), suite)
    matcher = Matcher(benchmark_prompts, has_templates=suite == "geneval")
    audit = Audit(suite, len(matcher.prompts))
    for path in captions:
        for line, caption in read_captions(path, column):
            audit.captions += 1
            match = matcher.match(caption)
            if match is not None:
                text = shorten_caption(caption)
                example = MatchExample(match.kind, match.task, path.name, line, text, match.prompt)
                _count_match(audit, match, example, max_examples)
    return audit


def _count_match(
    audit: Audit, match: CaptionMatch, example: MatchExample, max_examples: int
) -> None:
    """Count a match, and add it to the examples while there are few."""
    audit.counts[match.kind, match.task] += 1
    if match.prompt is not None:
        audit.matched_prompts[match.kind].add(match.prompt)
    if audit.counts[match.kind, match.task] <= max_examples:
        audit.examples.append(example)


def shorten_caption(text: str) -> str:
    """Return a caption on one line of at most EXAMPLE_LENGTH characters."""
    line = printable_line(text).encode("utf-8", "replace").decode()
    return line if len(line) <= EXAMPLE_LENGTH else line[: EXAMPLE_LENGTH - 3] + "..."


def normalized_words(text: str) -> tuple[str, ...]:
    """Return the words of a text as they are compared.

    >>> normalized_words("A photo of  a Tennis-racket!")
    ('a', 'photo', 'of', 'a', 'tennis', 'racket')
    """
    lower_text = unicodedata.normalize("NFKC", text).lower()
    without_apostrophes = lower_text.replace("'", "").replace("\u2019", "")
    return tuple(re.findall(r"\w+", without_apostrophes))


# ------------------------------------------------------------------------------------------------
# matching


class Matcher:
    """Index of prompts; a caption takes a few look-ups, however many prompts there are."""

    def __init__(self, prompts: Iterable[BenchmarkPrompt], has_templates: bool):
        self.prompts: dict[tuple[str, ...], BenchmarkPrompt] = {}
        for prompt in prompts:
            self.prompts.setdefault(normalized_words(prompt.text), prompt)
        self.prompts.pop((), None)
        self.by_ending: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for words in self.prompts:
            self.by_ending.setdefault(words[-2:], []).append(words)
        self.has_single_words = any(len(words) == 1 for words in self.prompts)
        self.templates = Templates(self.prompts) if has_templates else None

    def match(self, caption: str) -> CaptionMatch | None:
        """Return the match of a caption with the prompts; None where there is none."""
        words = normalized_words(caption)
        if prompt := self.prompts.get(words):
            return CaptionMatch("exact", prompt.task, prompt.text)
        if self.templates and (task := self.templates.task(words)):
            return CaptionMatch("template", task, prompt=None)
        if prompt := self._contained_prompt(words):
            return CaptionMatch("contained", prompt.task, prompt.text)
        return None

    def _contained_prompt(self, words: tuple[str, ...]) -> BenchmarkPrompt | None:
        """Return the longest prompt that these words contain; None where they contain none."""
        # Ends of the caption's words where a prompt may end: by its last two words, or its only.
        endings: list[tuple[int, tuple[str, ...]]] = [
            (end, pair) for end, pair in enumerate(pairwise(words), 2) if pair in self.by_ending
        ]
        if self.has_single_words:
            endings += [
                (end, (word,)) for end, word in enumerate(words, 1) if (word,) in self.by_ending
            ]
        longest: tuple[str, ...] = ()
        for end, ending in endings:
            for prompt_words in self.by_ending[ending]:
                length = len(prompt_words)
                if len(longest) < length <= end and words[end - length : end] == prompt_words:
                    longest = prompt_words
        return self.prompts[longest] if longest else None


class Templates:
    """GenEval's six templates with the objects of its prompts."""

    def __init__(self, prompts: Iterable[tuple[str, ...]]):
        self.objects: set[str] = set()
        self.plurals: set[str] = set()
        for words in prompts:
            self._add_objects(words)
        self.plurals |= {plural for name in self.objects for plural in plurals(name)}

    def _add_objects(self, words: tuple[str, ...]) -> None:
        """Add the objects of one prompt, if it has the form of a template."""
        if match := _match_template(words):
            self._objects_of_task(match.task).update(match.objects)

    def _objects_of_task(self, task: str) -> set[str]:
        return self.plurals if task == "counting" else self.objects

    def task(self, words: tuple[str, ...]) -> str | None:
        """Return the task whose template the words are, with known objects; None otherwise."""
        match = _match_template(words)
        if match and self._objects_of_task(match.task).issuperset(match.objects):
            return match.task
        return None


ARTICLE = "(?:an?|the|one)"
SLOT = r"(\w+(?: \w+)?)"
COLOUR = f"(?:{'|'.join(COLOURS)})"
RELATION = f"(?:{'|'.join(RELATIONS)})"
NUMBER = f"(?:{'|'.join(NUMBERS)})"
START = r"(?:an? )?(?:photo|photograph|picture|image) of "
# The most specific template is first.
TEMPLATE_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (task, re.compile(START + template))
    for task, template in (
        ("color_attr", f"{ARTICLE} {COLOUR} {SLOT} and {ARTICLE} {COLOUR} {SLOT}"),
        ("position", f"{ARTICLE} {SLOT} (?:to the )?{RELATION} {ARTICLE} {SLOT}"),
        ("two_object", f"{ARTICLE} {SLOT} and {ARTICLE} {SLOT}"),
        ("counting", f"{NUMBER} {SLOT}"),
        ("colors", f"{ARTICLE} {COLOUR} {SLOT}"),
        ("single_object", f"{ARTICLE} {SLOT}"),
    )
)
MAX_TEMPLATE_WORDS = 16  # no template is longer


class TemplateMatch(NamedTuple):
    """The task of a template, and the objects in its slots."""

    task: str
    objects: tuple[str, ...]


def _match_template(words: tuple[str, ...]) -> TemplateMatch | None:
    """Return the first template that the words match.

    A colour is never part of an object: "a red car" matches the template of colors only.
    """
    if len(words) > MAX_TEMPLATE_WORDS:
        return None
    text = " ".join(words)
    for task, pattern in TEMPLATE_PATTERNS:
        if match := pattern.fullmatch(text):
            return TemplateMatch(task, match.groups())
    return None


def plurals(name: str) -> set[str]:
    """Return possible plurals of an object's name by the rules of English spelling.

    The name itself is one, for words like sheep and scissors.
    """
    forms = {name, f"{name}s", f"{name}es"}
    if name.endswith("y"):
        forms.add(f"{name[:-1]}ies")
    if name.endswith("fe"):
        forms.add(f"{name[:-2]}ves")
    if name.endswith("person"):
        forms.add(f"{name[:-6]}people")
    if name.endswith("mouse"):
        forms.add(f"{name[:-5]}mice")
    return forms


# ------------------------------------------------------------------------------------------------
# reading


def find_prompts(suite: str) -> Path:
    """Return the user's copy of a suite's prompts: HAROPE_BENCH_HOME/prompts/SUITE.

    Raises:
        UnknownNameError: The suite has no known prompts.
        StorageError: The file is missing; the message names the official one.
    """
    path = home() / "prompts" / suite
    if path.exists():
        return path
    if suite not in OFFICIAL_FILES:
        raise UnknownNameError("suite with known prompts", suite, OFFICIAL_FILES)
    raise StorageError(
        f"the prompts of {suite} are not at {path} and are not part of this package; pass --prompts"
        f" with {OFFICIAL_FILES[suite]}"
    )


def read_prompts(path: Path, suite: str) -> list[BenchmarkPrompt]:
    """Return the prompts of a metadata .jsonl (prompt, tag), a .txt with one a line, or a folder.

    The task is the tag, or the file's stem. In a folder of one-line files (DPG-Bench) it is the
    suite.

    Raises:
        StorageError: The path is missing, not readable, or has no prompt.
    """
    if not path.exists():
        raise StorageError(
            f"{path} does not exist; pass --prompts with"
            f" {OFFICIAL_FILES.get(suite, 'a .jsonl or .txt of prompts')}"
        )
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".txt", ".jsonl")]
        prompts = [p for file in files for p in _read_prompt_file(file, suite, is_in_folder=True)]
    else:
        prompts = _read_prompt_file(path, suite, is_in_folder=False)
    if not prompts:
        raise StorageError(
            f"{path} holds no prompts; pass a .jsonl with a field prompt, a .txt with one a line,"
            " or a folder of those"
        )
    return prompts


def _read_prompt_file(path: Path, suite: str, is_in_folder: bool) -> list[BenchmarkPrompt]:
    if path.suffix == ".jsonl":
        return [
            BenchmarkPrompt(_field(path, n, fields, "prompt"), str(fields.get("tag", suite)))
            for n, fields in _json_lines(path)
        ]
    lines = [line.strip() for _, line in _read_lines(path) if line.strip()]
    task = suite if is_in_folder and len(lines) == 1 else path.stem
    return [BenchmarkPrompt(line, task) for line in lines]


def read_captions(path: Path, column: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number, caption) of a .jsonl, .csv, .tsv or .txt, each also as .gz.

    Raises:
        StorageError: The file is missing or not readable; the message names the line.
        OptionError: The file has no such field, or another suffix.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".jsonl":
        for line, fields in _json_lines(path):
            yield line, _field(path, line, fields, column)
    elif suffix in (".csv", ".tsv"):
        yield from _table_rows(path, "\t" if suffix == ".tsv" else ",", column)
    elif suffix == ".txt":
        yield from ((line, text) for line, text in _read_lines(path) if text.strip())
    else:
        raise OptionError(
            f"{path} is no .jsonl, .csv, .tsv or .txt (also .gz); convert the captions to one of"
            " these"
        )


def _field(path: Path, line: int, fields: dict[str, object], column: str | None) -> str:
    """Return the text in a column, or in the first of TEXT_FIELDS that a line has."""
    name = column or next((field for field in TEXT_FIELDS if field in fields), None)
    if name is None or not isinstance(fields.get(name), str):
        raise OptionError(
            f"{path} line {line} has no text in {name or ', '.join(TEXT_FIELDS)}; name the field"
            f" with --field, here: {_name_list(fields)}"
        )
    return str(fields[name])


def _name_list(names: Iterable[str]) -> str:
    """Return up to 8 names as text."""
    return ", ".join(sorted(names)[:8]) or "none"


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in _read_lines(path):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise StorageError(
                f"{path} line {number} is not JSON; correct or delete the line"
            ) from error
        if not isinstance(fields, dict):
            raise StorageError(
                f"{path} line {number} is not a JSON object; correct or delete the line"
            )
        yield number, fields


def _table_rows(path: Path, separator: str, column: str | None) -> Iterator[tuple[int, str]]:
    with _open_text(path) as file:
        rows = csv.DictReader(_bounded_lines(file), delimiter=separator)
        try:
            columns = rows.fieldnames or []
            name = column or next((field for field in TEXT_FIELDS if field in columns), None)
            if name not in columns:
                raise OptionError(
                    f"{path} has no column {name or ' or '.join(TEXT_FIELDS)}; name one with"
                    f" --field, here: {_name_list(columns)}"
                )
            for row in rows:
                yield rows.line_num, row[name] or ""
        except (csv.Error, *READ_ERRORS) as error:
            raise StorageError(
                f"{path} line {rows.line_num + 1} is not readable ({error}); repair the file"
            ) from error


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    with _open_text(path) as file:
        try:
            for number, line in enumerate(_bounded_lines(file), 1):
                yield number, line
        except READ_ERRORS as error:
            raise StorageError(
                f"{path} line {number + 1} is not readable ({error}); repair the file"
            ) from error


def _bounded_lines(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file; raise ValueError for one longer than MAX_LINE_LENGTH."""
    while line := file.readline(MAX_LINE_LENGTH + 1):
        if len(line) > MAX_LINE_LENGTH:
            raise ValueError(f"it is longer than {MAX_LINE_LENGTH:,} characters")
        yield line


def _open_text(path: Path) -> IO[str]:
    """Open a text file, uncompressed where its name ends in .gz.

    The encoding is UTF-8, or what the byte order mark states.

    Raises:
        StorageError: The file cannot be opened, or looks like UTF-16 without a mark.
    """
    with convert_os_errors(path):
        check_regular(path)
        raw_file = gzip.open(path, "rb") if path.suffix == ".gz" else open_regular(path)  # noqa: SIM115 (the caller closes it)
    file: BinaryIO = raw_file  # type: ignore[assignment]
    try:
        start = file.read(ENCODING_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        start = b""  # the error is raised again, with a line number, when lines are read
    encoding = detect_charset(start)
    if encoding == "utf-8" and b"\0" in start:
        file.close()
        raise StorageError(
            f"{path} holds NUL bytes, as UTF-16 without a byte order mark does; save it as UTF-8"
        )
    file.seek(0)
    return io.TextIOWrapper(
        file, encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline=None
    )
