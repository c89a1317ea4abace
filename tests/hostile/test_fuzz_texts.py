"""What is written comes back equal, and text from outside leaves by its doors harmless, whatever
the characters.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import fake_runs
from hostile.fuzz_settings import DEEP_COUNT, fuzz
from hostile.strategies import ODD_KEYS, odd_texts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from harope_bench.core import (
    array_archive,
    checksums,
    escaping,
    index_ranges,
    json_file,
    json_lines,
    record_base,
    schema,
    toml_file,
)
from harope_bench.core.annotations import Detection, DetectionAnnotation
from harope_bench.core.errors import BenchError
from harope_bench.core.record_base import FileRecord, Record
from harope_bench.core.schema import (
    Checkpoint,
    JudgeRecord,
    Measurement,
    Plan,
    Request,
    ResultWarning,
    SampleRecord,
    Settings,
    WarningCode,
)
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.suites.official_layouts.file_pattern import compile_pattern

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | odd_texts.filter(
    lambda text: text.isprintable() or text.isascii()
)
names = st.from_regex(record_base.NAME_PATTERN, fullmatch=True).filter(
    lambda name: ".." not in name
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
options = st.dictionaries(
    texts, texts | st.booleans() | st.integers(-(2**53), 2**53) | numbers, max_size=4
)


def attempt(call: Callable[[Any], Any], text: Any) -> tuple[Any, ValueError | BenchError | None]:
    """A call's value, and the error that it may raise in its place."""
    try:
        return call(text), None
    except (ValueError, BenchError) as error:
        return None, error


# ------------------------------------------------------------------------------------------------
# records

settings_of = st.builds(
    Settings, resolution=st.integers(1, 512), sampler=st.none() | names, steps=st.none() | st.integers(1, 1000),
    guidance=st.none() | st.floats(0, 1000), seed=st.integers(0, 2**63 - 1), tile=st.integers(1, 64), vae=st.none() | texts,
)  # fmt: skip
checkpoints = st.builds(
    Checkpoint, name=names, backbone=names, encoding=names, options=options, weights=texts, sha256=st.just(fake_runs.HASH), source=texts,
    drawing=options, sampler=st.none() | names, steps=st.none() | st.integers(1, 1000), guidance=st.none() | st.floats(0, 1000),
)  # fmt: skip
plans = st.builds(
    Plan,
    checkpoint=checkpoints,
    suite=names,
    suite_version=st.integers(),
    settings=settings_of,
    preset=st.none() | names,
)
judges = st.builds(JudgeRecord, name=names, version=st.integers(), judge_class=st.sampled_from(schema.JUDGE_CLASSES), weights_sha256=texts,
                   preprocessing=texts, model=st.none() | texts)  # fmt: skip
measurements = st.builds(
    Measurement, metric=names, name=names, value=numbers, se=st.none() | st.floats(0, 1e300), low=st.none() | numbers,
    n_asked=st.just(7), n_scored=st.just(4), n_failed=st.just(2), n_abstained=st.just(1), reason=st.none() | texts,
)  # fmt: skip
warnings = st.lists(
    st.builds(ResultWarning, code=st.sampled_from(get_args(WarningCode)), text=texts), max_size=3
).map(tuple)
results = st.builds(
    fake_runs.result, plans, st.lists(measurements, max_size=3), target=texts, warnings=warnings, judge=judges
)  # fmt: skip
boxes = st.tuples(numbers, numbers, numbers, numbers)
sightings = st.builds(
    DetectionAnnotation, size=st.tuples(st.integers(1, 99), st.integers(1, 99)),
    detections=st.lists(st.builds(Detection, label=texts, score=st.floats(0, 1), box=boxes), max_size=3).map(tuple),
)  # fmt: skip
generated_builds = st.builds(
    SampleRecord, index=st.integers(0, 2**53), file=texts.filter(bool), sha256=st.none() | texts, label=st.none() | st.integers(),
    prompt=st.none() | texts,
)  # fmt: skip
requests = st.builds(
    Request, index=st.integers(0, 2**53), label=st.none() | st.integers(), prompt=st.none() | texts
)


@fuzz
@given(st.one_of(plans, judges, measurements, results, sightings, generated_builds, requests))
def test_a_record_comes_back_equal_from_its_json(record: Record) -> None:
    text = record.to_json()
    again = read_back(type(record), text)
    assert again == record and again.to_json() == text
    assert (
        isinstance(record, FileRecord)
        or type(record).model_validate(json_file.parse_json(text)) == record
    )


def read_back(kind: type[Record], text: str) -> Record:
    """Return the record of a text; one that is a file of its own says its format version there."""
    return (
        kind.from_json(text.encode(), Path("x.json"))
        if issubclass(kind, FileRecord)
        else kind.model_validate_json(text)
    )


@fuzz
@given(plans)
def test_plans_that_are_equal_have_equal_digests_and_another_seed_has_another(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json().encode(), Path("plan.json")).digest == plan.digest
    other_settings = plan.settings.model_copy(update={"seed": plan.settings.seed ^ 1})
    assert plan.model_copy(update={"settings": other_settings}).digest != plan.digest


@fuzz
@given(st.lists(generated_builds, max_size=4))
def test_lines_that_are_added_come_back_in_their_order(lines: list[SampleRecord]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            json_lines.append_line(Path(folder) / "x.jsonl", line.to_json())
        assert [
            SampleRecord.model_validate(line)
            for line in json_lines.read_lines(Path(folder) / "x.jsonl")
        ] == lines


# ----------------------------------------------------------------------------------------- TOML,
# npz, hashes

toml_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | numbers | texts,
    lambda inner_value: (
        st.lists(inner_value, max_size=3) | st.dictionaries(texts, inner_value, max_size=3)
    ),
    max_leaves=8,
)


@fuzz
@given(st.dictionaries(texts, toml_values, max_size=4))
def test_facts_come_back_equal_from_toml(fields: dict[str, Any]) -> None:
    text = toml_file.toml_text(fields)
    assert tomllib.loads(text) == fields == toml_file.parse_toml(text.encode(), Path("x.toml"))


kinds = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "|u1", "|b1", "<U5"])
any_arrays = arrays_of.arrays(
    kinds, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
)


@fuzz
@given(st.dictionaries(st.from_regex(r"[a-z_0-9]{1,9}", fullmatch=True), any_arrays, max_size=4))
def test_arrays_come_back_equal_to_the_bit(arrays: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        array_archive.write_arrays(Path(folder) / "x.npz", arrays)
        again = array_archive.load_arrays(Path(folder) / "x.npz")
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (again[name].dtype, again[name].shape, again[name].tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )


file_names = st.from_regex(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,20}", fullmatch=True)


@fuzz
@given(st.dictionaries(file_names, st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=4))
def test_recorded_hashes_come_back_for_any_name_of_a_file(hashes: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checksums.record_hashes(Path(folder), hashes)
        assert checksums.read_checksums(Path(folder)) == hashes


# ------------------------------------------------------------------------------------------- ranges
# and entries


@fuzz
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 5)), min_size=1, max_size=8))
def test_ranges_come_back_equal_and_count_as_a_set_does(spans: list[tuple[int, int]]) -> None:
    ranges = index_ranges.IndexRanges(
        (first_value, first_value + more_value) for first_value, more_value in spans
    )
    plain_indexes = sorted(
        {
            index
            for first_value, more_value in spans
            for index in range(first_value, first_value + more_value + 1)
        }
    )
    assert (
        index_ranges.parse_ranges(str(ranges))
        == ranges
        == index_ranges.IndexRanges.from_indices(plain_indexes)
    )
    assert (
        list(ranges) == plain_indexes
        and len(ranges) == len(plain_indexes)
        and all(ranges[k] == index for k, index in enumerate(plain_indexes))
    )


@fuzz
@given(odd_texts | st.from_regex(r"[0-9,\- ²٣+_.e]{0,30}", fullmatch=True))
def test_a_text_is_ranges_or_one_line_of_an_error(text: str) -> None:
    ranges, error = attempt(index_ranges.parse_indices, text)
    if error is not None:
        assert isinstance(error, ValueError) and len(str(error)) < 300 and "\n" not in str(error)
    else:
        assert len(ranges) <= index_ranges.MAX_INDICES and set(text) <= set(
            "0123456789,- \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003\u3000"
        )
    number = index_ranges.parse_whole_number(text)
    assert number is None or str(number) == text.lstrip("0").rjust(1, "0")


@fuzz
@given(names, st.none() | texts, names, names)
def test_entries_keep_name_label_and_row(
    name: str, label: str | None, row: str, other_text: str
) -> None:
    text = name if label is None else f"{name}={label}"
    entries, error = attempt(lambda words: parse_entries([words], [f"{row}={other_text}"]), text)
    if error is not None:
        assert (
            isinstance(error, BenchError)
            and str(error).isprintable()
            and (
                label is not None
                and (not label.strip() or not label.isprintable() or len(label) > 100)
            )
        )
        return
    assert [tuple(entry) for entry in entries.additions] == [
        (name, None if label is None else label.strip())
    ]
    assert [tuple(entry) for entry in entries.substitutions] == [(row, other_text)]


small_integers = st.integers(0, 10**8)


@fuzz
@given(
    small_integers,
    small_integers,
    st.sampled_from(["_", "-", "/", ".x.", "{{", " (", "+*?"]),
    st.sampled_from(["", "img_"]),
)
def test_a_pattern_reads_the_numbers_of_the_name_that_it_writes(
    prompt: int, copy: int, between_text: str, before: str
) -> None:
    pattern = f"{before}{{prompt_index}}{between_text}{{copy}}.png"
    match = compile_pattern(pattern).fullmatch(pattern.format(prompt_index=prompt, copy=copy))
    assert match is not None and (int(match["prompt_index"]), int(match["copy"])) == (prompt, copy)


# ---------------------------------------------------------------------------------------------------
# the doors

any_text = st.text(max_size=40) | odd_texts


@fuzz
@given(any_text)
def test_a_message_is_one_printable_line_and_what_is_printable_stays(text: str) -> None:
    line = escaping.printable_line(text)
    assert line.isprintable()
    assert str(BenchError(text)) == line
    if text.isprintable() and " ".join(text.split()) == text:
        assert line == text


@fuzz
@given(any_text)
def test_the_terminal_gets_the_same_lines_without_what_steers_it(text: str) -> None:
    shown_terminal_text = escaping.terminal_text(text)
    assert (
        len(shown_terminal_text) == len(text)
        and shown_terminal_text.count("\n") == text.count("\n")
        and escaping.terminal_text(shown_terminal_text) == shown_terminal_text
    )
    assert all(
        char == "\n" or char in escaping.BLANKS or char.isprintable()
        for char in shown_terminal_text
    )
    assert all(
        old_text == new_value or new_value == " "
        for old_text, new_value in zip(text, shown_terminal_text, strict=True)
    )


@fuzz
@given(
    st.lists(
        st.lists(any_text | numbers | st.integers() | st.none(), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_csv_keeps_rows_and_cells_and_no_cell_is_a_formula(rows: list[list[Any]]) -> None:
    again = list(csv.reader(io.StringIO(escaping.csv_text(rows))))
    assert [len(row) for row in again] == [len(row) for row in rows]
    for row, cells in zip(rows, again, strict=True):
        for value, cell in zip(row, cells, strict=True):
            if isinstance(value, str):
                assert cell.removeprefix("'") == escaping.csv_cell(value).removeprefix("'")
                assert cell.isprintable() and (
                    not cell.lstrip().startswith(escaping.FORMULA_STARTS)
                    or escaping.NUMBER_PATTERN.fullmatch(cell)
                )
            elif value is not None:
                assert math.isclose(float(cell), value)


@fuzz
@given(any_text)
def test_a_page_takes_any_text_and_gives_it_back(text: str) -> None:
    shown_page_text = escaping.page_text(text)
    assert ElementTree.fromstring(f"<a>{escape(shown_page_text)}</a>").text == (
        shown_page_text or None
    )
    assert len(shown_page_text) == len(text) and all(
        old_text == new_value or new_value == " "
        for old_text, new_value in zip(text, shown_page_text, strict=True)
    )


@fuzz
@given(any_text, any_text)
def test_a_shortened_text_is_one_line_of_its_length(text: str, field: str) -> None:
    assert (
        len(record_base.shorten_text(text)) <= record_base.LABEL_LENGTH
        and record_base.shorten_text(text).isprintable()
    )
    label, error = attempt(record_base.validate_user_label, text)
    if error is not None:
        assert isinstance(error, BenchError) and str(error).isprintable()
    else:
        assert label == text.strip() and label.isprintable()


@fuzz
@given(st.dictionaries(st.sampled_from(ODD_KEYS) | any_text, any_text, max_size=3))
def test_json_that_is_read_can_be_written(value: dict[str, str]) -> None:
    """Half a character is refused as it is read; it could be written to no file and no terminal."""
    data = json.dumps(value)
    again, error = attempt(json_file.parse_json, data)
    if error is not None:
        assert any(
            0xD800 <= ord(char) < 0xE000 for text in (*value, *value.values()) for char in text
        )
        return
    assert again == value and json.dumps(again, ensure_ascii=False).encode()


def test_somebody_who_looks_for_faults_gets_more_examples() -> None:
    assert (
        fuzz.max_examples == (DEEP_COUNT or 25)
        and fuzz.derandomize != bool(DEEP_COUNT)
        and fuzz.deadline is None
    )
