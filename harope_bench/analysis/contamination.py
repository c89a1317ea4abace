"""Contamination audit: training captions that repeat, contain, or are formed like a benchmark's
prompts. Streams; no torch.

Texts are compared as words: lower case, punctuation dropped, spaces single. A caption counts once,
as the first of: exact (it is a
prompt), template (the whole caption is one of GenEval's six forms, filled with the benchmark's own
objects, colours and relations, but no
prompt), contained (a prompt stands in it, word for word). Templates are GenEval's; other suites
have exact and contained alone.
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
EXAMPLE_LENGTH = 200  # letters of a caption shown as an example
ENCODING_BYTES = 4096  # bytes of a file that show its encoding
MAX_LINE_LENGTH = (
    1 << 20
)  # characters of a line; a packed file of one line may be small and have no end
READ_ERRORS = (
    ValueError,
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
)  # of text, packed or not, from outside


class BenchmarkPrompt(NamedTuple):
    """One benchmark prompt and the task it belongs to."""

    text: str
    task: str


class CaptionMatch(NamedTuple):
    """How a caption meets the benchmark; `prompt` is None for a template, which is nobody's
    prompt.
    """

    kind: Kind
    task: str
    prompt: str | None


class MatchedCaption(NamedTuple):
    """One caption that matched, with its place."""

    kind: Kind
    task: str
    file: str
    line: int
    caption: str
    prompt: str | None


@dataclass
class Audit:
    """What was read and what was met. `prompts_met` counts distinct prompts by kind."""

    suite: str
    prompts: int
    captions: int = 0
    counts: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    matched_prompts: dict[Kind, set[str]] = field(
        default_factory=lambda: {kind: set() for kind in KINDS}
    )
    examples: list[MatchedCaption] = field(default_factory=list)

    @property
    def n_matched(self) -> int:
        """Captions that matched in any way."""
        return sum(self.counts.values())

    def count_kind(self, kind: Kind) -> int:
        """Captions that matched in this way."""
        return sum(n for (k, _), n in self.counts.items() if k == kind)


def audit_captions(
    captions: Sequence[Path],
    suite: str,
    prompts: Path | None = None,
    column: str | None = None,
    keep: int = 3,
) -> Audit:
    """Reads all captions once and counts how they meet the suite's prompts.

    Args:
        prompts: the official prompt file or folder; looked for below HAROPE_BENCH_HOME if None.
        column: field of a .jsonl or column of a .csv; the first of text, caption, prompt if None.
        keep: examples of each kind and task.

    Raises:
        UnknownName: a suite of another name without `prompts`. StorageError, OptionError: a file
            that cannot be read so.
    """
    known = read_prompts(prompts or find_prompts(suite), suite)
    matcher = Matcher(known, templates=suite == "geneval")
    found = Audit(suite, len(matcher.prompts))
    for path in captions:
        for line, caption in read_captions(path, column):
            found.captions += 1
            if match := matcher.match(caption):
                _count_match(
                    found,
                    match,
                    MatchedCaption(
                        match.kind,
                        match.task,
                        path.name,
                        line,
                        shorten_caption(caption),
                        match.prompt,
                    ),
                    keep,
                )
    return found


def _count_match(found: Audit, match: CaptionMatch, example: MatchedCaption, keep: int) -> None:
    found.counts[match.kind, match.task] += 1
    if match.prompt is not None:
        found.matched_prompts[match.kind].add(match.prompt)
    if found.counts[match.kind, match.task] <= keep:
        found.examples.append(example)


def shorten_caption(text: str) -> str:
    """A caption on one line, cut where it is long."""
    line = printable_line(text).encode("utf-8", "replace").decode()
    return line if len(line) <= EXAMPLE_LENGTH else line[: EXAMPLE_LENGTH - 3] + "..."


def normalized_words(text: str) -> tuple[str, ...]:
    """The words of a text as they are compared.

    >>> words("A photo of  a Tennis-racket!")
    ('a', 'photo', 'of', 'a', 'tennis', 'racket')
    """
    return tuple(
        re.findall(
            r"\w+",
            unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("\u2019", ""),
        )
    )


# -------------------------------------------------------------------------------------------------------
# matching


class Matcher:
    """Prompts made ready: a caption costs a handful of look-ups, however many prompts there are."""

    def __init__(self, prompts: Iterable[BenchmarkPrompt], templates: bool):
        self.prompts: dict[tuple[str, ...], BenchmarkPrompt] = {}
        for prompt in prompts:
            self.prompts.setdefault(normalized_words(prompt.text), prompt)
        self.prompts.pop((), None)
        self.by_ending: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for form in self.prompts:
            self.by_ending.setdefault(form[-2:], []).append(form)
        self.has_single_words = any(len(form) == 1 for form in self.prompts)
        self.templates = Templates(self.prompts) if templates else None

    def match(self, caption: str) -> CaptionMatch | None:
        """How a caption meets the prompts; None where it does not."""
        said = normalized_words(caption)
        if prompt := self.prompts.get(said):
            return CaptionMatch("exact", prompt.task, prompt.text)
        if self.templates and (task := self.templates.task(said)):
            return CaptionMatch("template", task, None)
        inside = self._contained_prompt(said)
        return CaptionMatch("contained", inside.task, inside.text) if inside else None

    def _contained_prompt(self, said: tuple[str, ...]) -> BenchmarkPrompt | None:
        """The longest prompt that stands in these words."""
        best: tuple[str, ...] = ()
        tails: list[tuple[int, tuple[str, ...]]] = [
            (end, pair) for end, pair in enumerate(pairwise(said), 2) if pair in self.by_ending
        ]
        if self.has_single_words:
            tails += [
                (end, (word,)) for end, word in enumerate(said, 1) if (word,) in self.by_ending
            ]
        for end, tail in tails:
            for form in self.by_ending[tail]:
                if len(best) < len(form) <= end and said[end - len(form) : end] == form:
                    best = form
        return self.prompts[best] if best else None


class Templates:
    """GenEval's six forms over the objects that its prompts name."""

    def __init__(self, known: Iterable[tuple[str, ...]]):
        self.objects: set[str] = set()
        self.plurals: set[str] = set()
        for form in known:
            self._learn(form)
        self.plurals |= {plural for name in self.objects for plural in plurals(name)}

    def _learn(self, form: tuple[str, ...]) -> None:
        """The objects of one prompt; a prompt of another form teaches nothing."""
        for task, slots in _template_slots(form):
            (self.plurals if task == "counting" else self.objects).update(slots)

    def task(self, said: tuple[str, ...]) -> str | None:
        """The task whose form the words have, filled with known objects; None for any other
        words.
        """
        for task, slots in _template_slots(said):
            if all(
                slot in (self.plurals if task == "counting" else self.objects) for slot in slots
            ):
                return task
        return None


ARTICLE = "(?:an?|the|one)"
SLOT = r"(\w+(?: \w+)?)"
COLOUR, RELATION, NUMBER = (f"(?:{'|'.join(each)})" for each in (COLOURS, RELATIONS, NUMBERS))
START = r"(?:an? )?(?:photo|photograph|picture|image) of "
FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (task, re.compile(START + form))
    for task, form in (
        ("color_attr", f"{ARTICLE} {COLOUR} {SLOT} and {ARTICLE} {COLOUR} {SLOT}"),
        ("position", f"{ARTICLE} {SLOT} (?:to the )?{RELATION} {ARTICLE} {SLOT}"),
        ("two_object", f"{ARTICLE} {SLOT} and {ARTICLE} {SLOT}"),
        ("counting", f"{NUMBER} {SLOT}"),
        ("colors", f"{ARTICLE} {COLOUR} {SLOT}"),
        ("single_object", f"{ARTICLE} {SLOT}"),
    )
)


def _template_slots(said: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The form that the words have, the most particular first, with what stands in its slots.

    A colour is never read as part of an object: "a red car" is of the form colors alone.
    """
    if len(said) > 16:  # no form is longer
        return
    text = " ".join(said)
    for task, form in FORMS:
        if match := form.fullmatch(text):
            yield task, match.groups()
            return


def plurals(name: str) -> set[str]:
    """How several of an object may be written, by the rules of English spelling; the name itself
    for sheep and scissors.
    """
    made = {name, f"{name}s", f"{name}es"}
    if name.endswith("y"):
        made.add(f"{name[:-1]}ies")
    if name.endswith("fe"):
        made.add(f"{name[:-2]}ves")
    if name.endswith("person"):
        made.add(f"{name[:-6]}people")
    if name.endswith("mouse"):
        made.add(f"{name[:-5]}mice")
    return made


# --------------------------------------------------------------------------------------------------------
# reading


def find_prompts(suite: str) -> Path:
    """Where a suite's prompts lie if the user brought them: HAROPE_BENCH_HOME/prompts/SUITE, a file
    or a folder.

    Raises:
        UnknownName, StorageError: nothing is there; the official file is named.
    """
    place = home() / "prompts" / suite
    if place.exists():
        return place
    if suite not in OFFICIAL_FILES:
        raise UnknownNameError("suite with known prompts", suite, OFFICIAL_FILES)
    raise StorageError(
        f"the prompts of {suite} are not at {place} and do not ship here; pass --prompts with"
        f" {OFFICIAL_FILES[suite]}"
    )


def read_prompts(path: Path, suite: str) -> list[BenchmarkPrompt]:
    """Prompts of a metadata .jsonl (prompt, tag), a .txt with one a line, or a folder of those.

    The task is the tag, or the file's stem; in a folder of one-line files (DPG-Bench) it is the
    suite.

    Raises:
        StorageError: not there, not readable, or without a prompt.
    """
    if not path.exists():
        raise StorageError(
            f"{path} is not there; pass --prompts with"
            f" {OFFICIAL_FILES.get(suite, 'a .jsonl or .txt of prompts')}"
        )
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".txt", ".jsonl")]
        found = [prompt for file in files for prompt in _read_prompt_file(file, suite, inside=True)]
    else:
        found = _read_prompt_file(path, suite)
    if not found:
        raise StorageError(
            f"{path} holds no prompts; pass a .jsonl with a field prompt, a .txt with one a line,"
            " or a folder of those"
        )
    return found


def _read_prompt_file(path: Path, suite: str, inside: bool = False) -> list[BenchmarkPrompt]:
    if path.suffix == ".jsonl":
        return [
            BenchmarkPrompt(_field(path, n, facts, "prompt"), str(facts.get("tag", suite)))
            for n, facts in _json_lines(path)
        ]
    lines = [line.strip() for _, line in _read_lines(path) if line.strip()]
    return [
        BenchmarkPrompt(line, suite if inside and len(lines) == 1 else path.stem) for line in lines
    ]


def read_captions(path: Path, column: str | None = None) -> Iterator[tuple[int, str]]:
    """(line number, caption) of a .jsonl, .csv, .tsv or .txt, also .gz, one at a time.

    Raises:
        StorageError: not there or not readable; the line is named. OptionError: no such field, or
            another kind of file.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind == ".jsonl":
        for line, facts in _json_lines(path):
            yield line, _field(path, line, facts, column)
    elif kind in (".csv", ".tsv"):
        yield from _table_rows(path, "\t" if kind == ".tsv" else ",", column)
    elif kind == ".txt":
        yield from ((line, text) for line, text in _read_lines(path) if text.strip())
    else:
        raise OptionError(
            f"{path} is no .jsonl, .csv, .tsv or .txt (also .gz); convert the captions to one of"
            " these"
        )


def _field(path: Path, line: int, facts: dict[str, object], column: str | None) -> str:
    name = column or next((each for each in TEXT_FIELDS if each in facts), None)
    if name is None or not isinstance(facts.get(name), str):
        raise OptionError(
            f"{path} line {line} has no text in {name or ', '.join(TEXT_FIELDS)}; name the field"
            f" with --field, here: {_first_names(facts)}"
        )
    return str(facts[name])


def _first_names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:8]) or "none"


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in _read_lines(path):
        if not line.strip():
            continue
        try:
            facts = parse_json(line)
        except ValueError as error:
            raise StorageError(
                f"{path} line {number} is not JSON; correct or delete the line"
            ) from error
        if not isinstance(facts, dict):
            raise StorageError(
                f"{path} line {number} is not a JSON object; correct or delete the line"
            )
        yield number, facts


def _table_rows(path: Path, separator: str, column: str | None) -> Iterator[tuple[int, str]]:
    with _open_text(path) as file:
        rows = csv.DictReader(_bounded_lines(file), delimiter=separator)
        try:
            heads = rows.fieldnames or []
            name = column or next((each for each in TEXT_FIELDS if each in heads), None)
            if name not in heads:
                raise OptionError(
                    f"{path} has no column {name or ' or '.join(TEXT_FIELDS)}; name one with"
                    f" --field, here: {_first_names(heads)}"
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
    """Return the lines of a file; ValueError at one that is longer than LINE characters, whose end
    may be far.
    """
    while line := file.readline(MAX_LINE_LENGTH + 1):
        if len(line) > MAX_LINE_LENGTH:
            raise ValueError(f"it is longer than {MAX_LINE_LENGTH:,} characters")
        yield line


def _open_text(path: Path) -> IO[str]:
    """Open text for reading, unpacked where the name ends in .gz; its encoding is UTF-8 or what its
    byte order mark states.

    Raises:
        StorageError: The file cannot be opened, or looks like UTF-16 without a mark.
    """
    with convert_os_errors(path):
        check_regular(path)
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else open_regular(path)  # noqa: SIM115 (the caller closes it)
    file: BinaryIO = opened  # type: ignore[assignment]
    try:
        start = file.read(ENCODING_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        start = b""  # reading on raises again, with the line
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
