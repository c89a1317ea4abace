"""One flipped bit in any file that is read back is found, or is shown to change nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from plugin_scans import cached_scans
from result_folders import (
    RESULT_FOLDERS,
    ResultFolder,
    flipped_files,
    make_classifier_run,
    result_folder,
    twelve_prompts,
)
from toy_prompts import toy

from harope_bench.core.index_ranges import parse_indices
from harope_bench.core.json_lines import read_lines
from harope_bench.data import feature_rows

__all__ = ["cached_scans", "result_folder", "toy", "twelve_prompts"]  # the fixtures
FLIPS = 3  # of each file; `pytest -m simulation` takes more
MANY_FLIPS = 60


def reads_the_same(path: Path, before: bytes, after: bytes) -> bool:
    """Whether what the package reads from a file is the same for both bytes; only for files that no
    hash is of.
    """
    if path.name == "requests.jsonl":
        parsed_records = []
        for data in (before, after):
            path.write_bytes(data)
            parsed_records.append(
                {i for line in read_lines(path) for i in parse_indices(line["indices"])}
            )
        return parsed_records[0] == parsed_records[1]
    if path.suffix == ".npy":
        parsed_records = []
        for data in (before, after):
            path.write_bytes(data)
            parsed_records.append(
                (
                    feature_rows.read_rows_header(path),
                    data[feature_rows.read_rows_header(path).start :],
                )
            )  # type: ignore[union-attr]
        return parsed_records[0] == parsed_records[1]
    return False


def count_flips(result_folder: ResultFolder, count: int) -> tuple[Counter[str], list[str]]:
    """Return how many flips were found and how many change nothing, and the paths of those that
    were lost.
    """
    rng, tally, lost_records = np.random.default_rng(0), Counter[str](), []
    for path in result_folder.files:
        before = path.read_bytes()
        for after in flipped_files(path, count, rng):
            path.write_bytes(after)
            status = result_folder.verify().status
            if status == "altered":
                tally["found"] += 1
            elif status == "ok" and reads_the_same(path, before, after):
                tally["without effect"] += 1
            else:
                lost_records.append(f"{path}: {status}")
        path.write_bytes(before)
    return tally, lost_records


@pytest.mark.parametrize("result_folder", RESULT_FOLDERS, indirect=True)
def test_one_flipped_bit_in_any_file_is_found(result_folder: ResultFolder) -> None:
    assert result_folder.verify().status == "ok", result_folder.verify()
    tally, lost_flip = count_flips(result_folder, FLIPS)
    print(
        f"{result_folder.folder.name}: {sum(tally.values())} flips, {dict(tally)}"
    )  # counted in docs/security.md
    assert lost_flip == []
    assert tally["found"] >= 2 * len(result_folder.files) and tally["without effect"] <= 2
    assert result_folder.verify().status == "ok"


# Each of these was damaged by one bit, or a few, in a way that numpy's parser of headers answers
# with an error of its own.
HEADERS = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape':  6, 10), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 10), }   (",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 10), ",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, '''), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, -10), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 900 + b"6, 10), }",
    b"{'descr': '<f\xff', 'fortran_order': False, 'shape': (6, 10), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (6, 10), }",
]


@pytest.mark.parametrize("text", HEADERS)
def test_a_damaged_header_of_rows_is_no_header(text: bytes, tmp_path: Path) -> None:
    """In observations it means that the judge looks again, in `verify` that they were altered."""
    path = tmp_path / "features.npy"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + bytes(240)
    )
    assert (
        feature_rows.read_rows_header(path) is None
        and feature_rows.rows_sha256(path, 0, 6) is None
        and not feature_rows.is_complete(path)
    )


def test_a_classifiers_run_that_asks_for_no_picture_is_altered(tmp_path: Path) -> None:
    result_folder = make_classifier_run(tmp_path)
    (result_folder.folder / "requests.jsonl").write_text('{"indices": "0-29"')
    assert any("requests no image" in line for line in result_folder.verify().altered_messages)


@pytest.mark.simulation
@pytest.mark.parametrize("result_folder", RESULT_FOLDERS, indirect=True)
def test_many_flipped_bits_are_all_found(result_folder: ResultFolder) -> None:
    tally, lost_flip = count_flips(result_folder, MANY_FLIPS)
    assert lost_flip == [] and tally["found"] > 20 * len(result_folder.files)
