"""The prompts in a file of a user: a text file, a table with named columns, or JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import Record
from harope_bench.core.regular_file import TEXT_BYTES, read_regular
from harope_bench.core.storage import convert_os_errors
from harope_bench.core.text_file import decode_text

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
PROMPT_COLUMN = "prompt"
ID_COLUMN = "id"
MAX_PROMPTS = 1_000_000
MAX_PROMPT_LENGTH = 10_000  # characters
MAX_ID_LENGTH = 100  # characters
ALLOWED_CONTROLS = "\n\t"

Line = tuple[int, Mapping[str, object]]  # a line number and the cells by column


class PromptRow(Record):
    """One prompt of a file, and its id."""

    id: str
    prompt: str


def read_prompt_rows(
    path: Path, prompt_column: str | None = None, id_column: str | None = None
) -> tuple[list[PromptRow], bytes]:
    """Return the prompts of a file in its order, and the bytes of the file.

    Blank lines are skipped. Without ids the position of a prompt, with five digits, is its id.

    Args:
        prompt_column, id_column: Names of the columns of a table; `prompt` and, where the file
            has it, `id` by default.

    Raises:
        OptionError: The suffix is another one, a column is missing, or a line is no prompt.
        StorageError: The file cannot be read or is not UTF-8.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"{path} is no {', '.join(SUFFIXES)}; give it the suffix of its format")
    with convert_os_errors(path):
        is_file = path.is_file()
    if not is_file:
        raise OptionError(f"{path} is no file; give the path of a file of prompts")
    if suffix == ".txt" and (prompt_column or id_column):
        raise OptionError(f"{path} has no columns; leave prompt= and id= out, or give a .csv")
    with convert_os_errors(path):
        data = read_regular(path, TEXT_BYTES)
    text = decode_text(data, path)

    column = prompt_column or PROMPT_COLUMN
    rows: list[PromptRow] = []
    line_by_id: dict[str, int] = {}
    for line, cells in _lines(path, suffix, text):
        if len(rows) == MAX_PROMPTS:
            raise OptionError(f"{path} has more than {MAX_PROMPTS:,} prompts; give fewer")
        prompt = _prompt(path, line, column, cells)
        item = _id(path, line, id_column, cells, len(rows))
        if item in line_by_id:
            raise OptionError(
                f"{path} line {line}: id {item!r} is that of line {line_by_id[item]}; give each"
                " prompt its own"
            )
        line_by_id[item] = line
        rows.append(PromptRow(id=item, prompt=prompt))
    if not rows:
        raise OptionError(f"{path} has no prompt; write one on each line")
    return rows, data


def _lines(path: Path, suffix: str, text: str) -> Iterator[Line]:
    """Yield the lines of a file that are not blank."""
    if suffix == ".txt":
        for line, prompt in enumerate(text.split("\n"), 1):
            if prompt.strip():
                yield line, {PROMPT_COLUMN: prompt}
    elif suffix == ".jsonl":
        yield from _json_lines(path, text)
    else:
        yield from _table_lines(path, SEPARATORS[suffix], text)


def _json_lines(path: Path, text: str) -> Iterator[Line]:
    for line, json_text in enumerate(text.split("\n"), 1):
        if not json_text.strip():
            continue
        try:
            value = parse_json(json_text)
        except ValueError as error:
            raise OptionError(f"{path} line {line} is not JSON; correct the line") from error
        if not isinstance(value, dict):
            raise OptionError(f'{path} line {line} is no JSON object; write {{"prompt": "..."}}')
        yield line, value


def _table_lines(path: Path, separator: str, text: str) -> Iterator[Line]:
    table = csv.DictReader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        names = list(table.fieldnames or ())
        repeated_names = sorted({name for name in names if names.count(name) > 1})
        if repeated_names:
            raise OptionError(
                f"{path} has column {repeated_names[0]!r} twice; give each its own name"
            )
        for row in table:
            if None in row:
                raise OptionError(
                    f"{path} line {table.line_num} has more cells than the first line has columns;"
                    " quote a prompt that contains the separator"
                )
            yield table.line_num, row
    except csv.Error as error:
        raise OptionError(
            f"{path} line {table.line_num + 1} is not readable ({error}); correct the file"
        ) from error


def _prompt(path: Path, line: int, column: str, cells: Mapping[str, object]) -> str:
    """Return the prompt of a line without outer blanks.

    Raises:
        OptionError: It is missing, empty, too long or contains control characters.
    """
    if column not in cells:
        raise OptionError(
            f"{path} line {line} has columns {', '.join(map(str, cells)) or 'nothing'}, wanted"
            f" {column}; write prompt=COLUMN after the file"
        )
    value = cells[column]
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{path} line {line} has no text in column {column}; write a prompt")
    prompt = value.strip()
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise OptionError(
            f"{path} line {line} has {len(prompt):,} characters, at most {MAX_PROMPT_LENGTH:,} are"
            " a prompt; shorten it"
        )
    controls = [c for c in prompt if _is_control(c) and c not in ALLOWED_CONTROLS]
    if controls:
        raise OptionError(
            f"{path} line {line} has the control character U+{ord(controls[0]):04X}; remove it"
        )
    return prompt


def _is_control(character: str) -> bool:
    """Return whether a character is a control of C0 or C1."""
    return ord(character) < 32 or 127 <= ord(character) < 160


def _id(
    path: Path, line: int, column: str | None, cells: Mapping[str, object], position: int
) -> str:
    """Return the id of a line, by default its position.

    Raises:
        OptionError: It is missing, or cannot be part of a file name.
    """
    if column is None and ID_COLUMN not in cells:
        return f"{position:05d}"
    value = cells.get(column or ID_COLUMN)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    item = str(value).strip() if isinstance(value, str) or is_number else ""
    is_file_name = item.isprintable() and not set(item) & set("/\\:") and item.strip(".")
    if not is_file_name or len(item) > MAX_ID_LENGTH:
        raise OptionError(
            f"{path} line {line} has id {str(value)[:40]!r}, wanted 1 to {MAX_ID_LENGTH} printable"
            " characters without slash, backslash and colon; correct it"
        )
    return item
