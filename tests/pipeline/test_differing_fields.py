"""Two records of one kind: which fields differ, and with which values."""

from __future__ import annotations

from pathlib import Path

import fake_runs as fake

from harope_bench.core.schema import Result
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.rescore_prompts import field_differences, file_name_differences


def stored_result() -> Result:
    return fake.result(None, [])


def test_each_field_that_differs_is_named_with_both_values_in_the_order_of_the_record() -> None:
    stored_value = stored_result()
    expected = stored_value.model_copy(
        update={"parity": "another", "version": stored_value.version + 1, "label": "ours"}
    )
    differences = differing_fields(stored_value, expected)
    assert list(differences) == ["version", "parity", "label"]
    assert differences["label"].stored is None and differences["label"].expected == "ours"
    assert differing_fields(stored_value, stored_value.model_copy()) == {}


def test_a_difference_inside_a_nested_record_is_one_of_its_field() -> None:
    stored_value = stored_result()
    judge = stored_value.judge.model_copy(update={"version": stored_value.judge.version + 1})
    assert list(
        differing_fields(stored_value, stored_value.model_copy(update={"judge": judge}))
    ) == ["judge"]


def test_what_need_not_come_out_the_same_is_no_difference_of_a_result() -> None:
    stored_value = stored_result()
    moved_value = stored_value.model_copy(
        update={
            "target": "elsewhere",
            "label": "ours",
            "sample_scores_file": "x.sample_scores.jsonl",
        }
    )
    assert field_differences(stored_value, moved_value) == []
    assert field_differences(
        stored_value, stored_value.model_copy(update={"rules": "corrected"})
    ) == ["rules is official, should be corrected"]


def test_a_result_that_names_the_files_of_another_is_found_out(tmp_path: Path) -> None:
    update = {"arrays_file": "other.npz", "sample_scores_file": None}
    stored_value = stored_result().model_copy(update=update)
    assert file_name_differences(stored_value, tmp_path / "geneval.json") == [
        "arrays_file is other.npz, should be geneval.npz"
    ]
