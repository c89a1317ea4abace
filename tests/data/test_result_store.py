"""The store of results: one builder and one writer, what is current, what is damaged, whose a
folder is, and who may write there.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import fake_runs
import numpy as np
import pytest

import harope_bench
from harope_bench.core import checksums
from harope_bench.core.errors import (
    AlteredFileError,
    FormatError,
    OptionError,
    PlanMismatchError,
    StorageError,
)
from harope_bench.core.json_lines import read_lines
from harope_bench.core.schema import (
    Measurement,
    Result,
    ResultWarning,
    RuleDifference,
    WarningCode,
    make_warnings,
)
from harope_bench.core.storage import sha256_bytes, write_text
from harope_bench.data import result_store
from harope_bench.data.array_checks import check_sample_arrays
from harope_bench.data.result_paths import result_path, sample_scores_path
from harope_bench.data.result_store import (
    ResultMethod,
    ResultSubject,
    StoredResult,
    build_result,
    check_results_belong,
    find_current_result,
    read_arrays,
    read_result,
    read_result_or_none,
    read_results,
    set_label,
    write_result,
)
from harope_bench.data.sample_set import SampleSet

PLAN = fake_runs.plan(fake_runs.checkpoint())
JUDGE = fake_runs.result(PLAN, []).judge
DIFFERENCE = RuleDifference(metric="colors", official=0.5, corrected=0.75, decimals=4)


class Toy(NamedTuple):
    """An evaluator, as far as a result records it."""

    version: int = 3
    profile: str = "toy"
    parity: str = "exact"


class ToyScore(NamedTuple):
    """What an evaluator answers, as far as a result records it."""

    measurements: tuple[Measurement, ...] = (fake_runs.measurement("colors", 0.5),)
    warnings: tuple[str, ...] = ("colors: its error is small",)
    rule_differences: tuple[RuleDifference, ...] = (DIFFERENCE,)


SUBJECT = ResultSubject("run", sha256_bytes(b"images"), PLAN, "digits", 28)
METHOD = ResultMethod("toy", Toy(), JUDGE, "prompts", sha256_bytes(b"prompts"))
ARRAYS = {"colors": np.array([0.0, 1.0]), "indices": np.arange(2)}
ROWS = '{"index": 0}\n{"index": 1}\n'


def build(
    path: Path, subject: ResultSubject = SUBJECT, method: ResultMethod = METHOD, **fields: Any
) -> Result:
    return build_result(
        path,
        subject,
        method,
        ToyScore(),
        fake_runs.provenance(),
        make_warnings("images", ["images: grey"]),
        **fields,
    )


def write(folder: Path, subject: ResultSubject = SUBJECT, method: ResultMethod = METHOD) -> Path:
    path = result_path(folder, "toy")
    write_result(path, build(path, subject, method, has_sample_scores=True), ARRAYS, ROWS)
    return path


# ------------------------------------------------------------------------------------------- round
# trips


def test_a_result_comes_back_with_its_arrays_and_rows_and_everything_has_its_hash(
    tmp_path: Path,
) -> None:
    path = write(tmp_path)
    result = build(path, has_sample_scores=True)
    assert read_result(path) == result == read_result_or_none(path)
    assert read_results(tmp_path) == [StoredResult(result, path)]
    arrays = read_arrays(StoredResult(result, path))
    assert arrays.keys() == ARRAYS.keys() and all(
        np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS
    )
    assert read_lines(sample_scores_path(path)) == [{"index": 0}, {"index": 1}]
    assert checksums.read_checksums(path.parent).keys() == {
        "toy.json",
        "toy.npz",
        "toy.sample_scores.jsonl",
    }
    assert all(
        checksums.file_state(path.parent, name) == "same"
        for name in checksums.read_checksums(path.parent)
    )


def test_a_result_says_in_typed_fields_what_its_warnings_say_in_words(tmp_path: Path) -> None:
    result = build(tmp_path / "toy.json", method=METHOD._replace(is_lenient=True))
    assert result.is_lenient and result.rule_differences == (DIFFERENCE,)
    assert [(warning.code, warning.text) for warning in result.warnings] == [
        ("images", "images: grey"),
        ("evaluator", "colors: its error is small"),
    ]
    difference = "rules: colors is 0.5000 official, 0.7500 corrected"
    assert result.warning_texts == ("images: grey", "colors: its error is small", difference)


def test_leniency_is_a_field_and_no_words_make_it() -> None:
    words = make_warnings(
        "images",
        [
            "missing: scored although images, answers or whole tasks may be missing"
            " (--allow-missing)"
        ],
    )
    assert not fake_runs.result(PLAN, [], warnings=words).is_lenient
    assert fake_runs.result(PLAN, [], is_lenient=True).is_lenient


@pytest.mark.parametrize("code", ["", "Images", "rule", "other"])
def test_a_warning_has_one_of_the_known_codes(code: str) -> None:
    with pytest.raises(ValueError, match="code"):
        ResultWarning.model_validate({"code": code, "text": "a"})
    assert {"images", "evaluator", "judge-paths"} <= set(WarningCode.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (DIFFERENCE, "colors is 0.5000 official, 0.7500 corrected"),
        (
            RuleDifference(metric="dpg", official=None, corrected=66.666, decimals=1),
            "dpg is none official, 66.7 corrected",
        ),
        (
            RuleDifference(metric="dpg", official=1e-9, corrected=None, decimals=2),
            "dpg is 0.00 official, none corrected",
        ),
        (
            RuleDifference(metric="color", official=0.779531, corrected=0.779533, decimals=5),
            "color is 0.779531 official, 0.779533 corrected",
        ),
    ],
)
def test_a_difference_between_rules_keeps_its_values_and_prints_its_digits(
    difference: RuleDifference, text: str
) -> None:
    assert difference.text == text
    assert RuleDifference.model_validate_json(difference.to_json()) == difference


def test_a_label_survives_a_new_result_and_is_written_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert set_label(path, read_result(path), "mine").label == "mine"
    assert read_result(path).label == "mine" and checksums.is_intact(path.parent, path.name)
    write(tmp_path, method=METHOD._replace(evaluator_object=Toy(version=4)))
    assert read_result(path).label == "mine" and read_result(path).version == 4
    with pytest.raises(OptionError, match="label"):
        set_label(path, read_result(path), " ")


def test_a_new_label_does_not_vouch_for_a_result_that_was_altered(tmp_path: Path) -> None:
    path = write(tmp_path)
    document = json.loads(path.read_text())
    write_text(path, json.dumps({**document, "target": "another"}))
    set_label(path, read_result(path, needs_matching_hash=False), "mine")
    assert checksums.file_state(path.parent, path.name) == "altered"


# ------------------------------------------------------------------------------------- current, or
# not

OTHER_JUDGE = JUDGE.model_copy(update={"version": 2})
OTHER_PLAN = fake_runs.plan(fake_runs.checkpoint(), seed=1)
OTHERS_FIELDS: dict[str, tuple[ResultSubject, ResultMethod]] = {
    "images": (SUBJECT._replace(samples_sha256="0" * 64), METHOD),
    "target": (SUBJECT._replace(target="other"), METHOD),
    "plan": (SUBJECT._replace(plan=OTHER_PLAN), METHOD),
    "evaluator": (SUBJECT, METHOD._replace(evaluator="other")),
    "version": (SUBJECT, METHOD._replace(evaluator_object=Toy(version=4))),
    "profile": (SUBJECT, METHOD._replace(evaluator_object=Toy(profile="other"))),
    "rules": (SUBJECT, METHOD._replace(rules="corrected")),
    "judge": (SUBJECT, METHOD._replace(judge=OTHER_JUDGE)),
    "judges": (SUBJECT, METHOD._replace(judges={"detector": OTHER_JUDGE})),
    "answers": (SUBJECT, METHOD._replace(annotations_sha256="0" * 64)),
    "reference": (SUBJECT, METHOD._replace(reference_sha256="0" * 64)),
    "leniency": (SUBJECT, METHOD._replace(is_lenient=True)),
}


def test_a_result_of_exactly_this_work_is_current(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert find_current_result(path, SUBJECT, METHOD) == read_result(path)
    moved_replace = SUBJECT._replace(suite="other", resolution=None)
    assert find_current_result(path, moved_replace, METHOD) is not None  # the plan says both


@pytest.mark.parametrize("name", OTHERS_FIELDS)
def test_a_result_of_other_work_is_not_current(name: str, tmp_path: Path) -> None:
    assert find_current_result(write(tmp_path), *OTHERS_FIELDS[name]) is None


@pytest.mark.parametrize("change", [{"suite": "shapes"}, {"resolution": 32}, {"resolution": None}])
def test_without_a_plan_suite_and_side_decide_too(change: dict[str, Any], tmp_path: Path) -> None:
    subject = SUBJECT._replace(plan=None)
    path = write(tmp_path, subject)
    assert (
        find_current_result(path, subject, METHOD) is not None
        and find_current_result(path, subject._replace(**change), METHOD) is None
    )


def rewrite(path: Path, **fields: Any) -> None:
    write_text(path, json.dumps({**json.loads(path.read_text()), **fields}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an altered result": lambda path: rewrite(path, parity="another"),
    "altered arrays": lambda path: path.with_suffix(".npz").write_bytes(b"PK"),
    "arrays that are gone": lambda path: path.with_suffix(".npz").unlink(),
    "a result that is gone": lambda path: path.unlink(),
    "hashes that are gone": lambda path: (path.parent / checksums.CHECKSUMS_FILE).unlink(),
    "half a result": lambda path: path.write_bytes(path.read_bytes()[:100]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_result_that_is_not_as_it_was_written_is_not_current(name: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    DAMAGES[name](path)
    assert find_current_result(path, SUBJECT, METHOD) is None


# ---------------------------------------------------------------------------------------- damaged
# files

BROKEN_FIELDS = {
    "no JSON": (b"{", "not JSON"),
    "nested too deeply": (b"[" * 100_000, "not JSON"),
    "no object": (b"[1]", "wanted a JSON object"),
    "nothing": (b"", "not JSON"),
}


@pytest.mark.parametrize("name", BROKEN_FIELDS)
def test_a_damaged_result_is_a_named_error_to_read_and_none_to_find(
    name: str, tmp_path: Path
) -> None:
    path = result_path(tmp_path, "toy")
    data, words = BROKEN_FIELDS[name]
    path.parent.mkdir()
    path.write_bytes(data)
    assert read_result_or_none(path) is None
    for read in (lambda: read_result(path), lambda: read_results(tmp_path)):
        with pytest.raises(StorageError, match=words) as excinfo:
            read()
        assert str(path) in str(excinfo.value) and "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", "three"), ("warnings", ["text alone"]), ("surprise", 1), ("rules", "mine")],
)
def test_a_field_that_does_not_fit_is_named(field: str, value: object, tmp_path: Path) -> None:
    path = write(tmp_path)
    rewrite(path, **{field: value})
    checksums.record_file_hashes(path.parent, [path.name])
    with pytest.raises(StorageError, match=f"is not a result .*{field}"):
        read_result(path)
    assert read_result_or_none(path) is None


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "one result": (".json", read_result),
    "results of a table": (".json", lambda path: read_results(path.parent.parent)),
    "arrays": (".npz", lambda path: read_arrays(StoredResult(read_result(path), path))),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_the_recorded_file_is_refused_and_may_be_read_unchecked(
    name: str, tmp_path: Path
) -> None:
    path = write(tmp_path)
    suffix, read = READERS[name]
    read(path)
    altered_with_suffix = path.with_suffix(suffix)
    altered_with_suffix.write_bytes(altered_with_suffix.read_bytes() + b"\n")
    with pytest.raises(
        AlteredFileError,
        match="is not the one in SHA256SUMS beside it; bring that one back, or run eval again",
    ) as excinfo:
        read(path)
    assert str(altered_with_suffix) in str(excinfo.value)
    assert read_result(path, needs_matching_hash=False) == read_result_or_none(path)
    (path.parent / checksums.CHECKSUMS_FILE).unlink()  # results of other tools have none
    read(path)


def test_a_result_that_is_not_there_is_an_error_to_read_and_none_to_find(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use"):
        read_result(tmp_path / "results/toy.json")
    assert read_result_or_none(tmp_path / "results/toy.json") is None
    with pytest.raises(StorageError, match="nowhere does not exist; give a run folder"):
        read_results(tmp_path / "nowhere")


def test_nothing_is_written_over_a_result_of_another_version(tmp_path: Path) -> None:
    path = write(tmp_path)
    rewrite(path, format=7)
    before = path.read_bytes()
    checksums.record_file_hashes(path.parent, [path.name])
    for call in (
        lambda: find_current_result(path, SUBJECT, METHOD),
        lambda: write(tmp_path),
        lambda: check_results_belong(tmp_path, samples()),
    ):
        with pytest.raises(FormatError, match="wanted format 1, found 7"):
            call()
    assert path.read_bytes() == before


# -------------------------------------------------------------------------------------------------
# claim


def samples(*hashes: str, **fields: Any) -> SampleSet:
    recorded_fields = dict(enumerate(hashes or ("a", "b")))
    files = {index: Path(f"{index}.png") for index in recorded_fields}
    sample_set = SampleSet(
        "run",
        Path("run"),
        PLAN,
        len(recorded_fields),
        {},
        list(recorded_fields),
        files,
        recorded_fields,
        {},
    )
    return replace(sample_set, **fields)


def test_a_folder_with_results_of_other_images_is_not_claimed(tmp_path: Path) -> None:
    own_sample_set = samples()
    path = write(
        tmp_path, SUBJECT._replace(samples_sha256=result_store.sample_set_digest(own_sample_set))
    )
    check_results_belong(tmp_path, own_sample_set)
    check_results_belong(tmp_path, samples("a", "b", "c"))  # a run that grew is the same work
    check_results_belong(
        tmp_path, samples("a", "b", plan=None)
    )  # the same images without their plan
    for other_sample_set in (samples("a", "c", plan=None), samples("a", "c", plan=OTHER_PLAN)):
        with pytest.raises(PlanMismatchError, match="is the result of other images"):
            check_results_belong(tmp_path, other_sample_set)
    path.write_bytes(b"{")  # what cannot be read is made again
    check_results_belong(tmp_path, samples("a", "c", plan=None))


def test_a_result_of_the_network_alone_claims_no_folder(tmp_path: Path) -> None:
    write(tmp_path, SUBJECT._replace(samples_sha256=result_store.NO_SAMPLES_SHA256))
    check_results_belong(tmp_path, samples("x", plan=None))


# ------------------------------------------------------------------------------------------ one
# writer

ROOT = Path(harope_bench.__file__).parent
STORE = "data/result_store.py"
WRITERS = {
    "write_text",
    "write_bytes",
    "write_arrays",
    "append_line",
    "write_atomically",
    "copy_file",
    "record_file_hashes",
}
PLACES_TEXTS = {
    "RESULTS_FOLDER",
    "result_path",
    "sample_scores_path",
    "arrays_path",
    "recorded_arrays_path",
    "result_text",
}


def names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
    }


def callee_name(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def offences(source: str) -> Iterator[str]:
    """Yield calls that build a result, or that write to a path made by the store or in a folder of
    results.
    """
    tree = ast.parse(source)
    for function in [
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Module))
    ]:
        body = [
            node
            for node in ast.walk(function)
            if isinstance(node, (ast.Assign, ast.NamedExpr, ast.Call))
        ]
        names = set(PLACES_TEXTS)
        for node in body:
            if isinstance(node, (ast.Assign, ast.NamedExpr)) and (
                names_in(node.value) & PLACES_TEXTS or "results" in strings(node.value)
            ):
                names |= names_in(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        for node in (node for node in body if isinstance(node, ast.Call)):
            if callee_name(node) == "Result" or ast.unparse(node.func) == "Result.model_validate":
                yield f"line {node.lineno} builds a Result"
            if callee_name(node) in WRITERS and isinstance(function, ast.FunctionDef):
                target = node.args[0] if node.args else node
                if names_in(target) & names or "results" in strings(target):
                    yield f"line {node.lineno} writes {ast.unparse(target)}"


def strings(node: ast.AST) -> set[str]:
    return {
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


def test_no_module_outside_the_store_builds_a_result_or_writes_where_results_are() -> None:
    wrong_records = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name != STORE and (names := sorted(set(offences(path.read_text())))):
            wrong_records[name] = names
    assert not wrong_records
    assert any("builds a Result" in line for line in offences((ROOT / STORE).read_text()))


def test_the_finder_of_writers_finds_them() -> None:
    source = """
def one(out, data):
    path = out / RESULTS_FOLDER / "a.json"
    storage.write_text(path, data)
def two(out):
    write_arrays(result_path(out, "a").with_suffix(".npz"), {})
def three(out):
    write_bytes(out / "results" / "a.json", b"")
def four():
    return schema.Result(evaluator="a")
def five(out):
    write_text(out / "plan.json", "")
"""
    names = set(offences(source))
    assert {line.split()[1] for line in names} == {"4", "6", "8", "10"}


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e101, -1e300])
def test_contributions_whose_squares_overflow_are_rejected(tmp_path: Path, value: float) -> None:
    with pytest.raises(StorageError, match="beyond 1e\\+100"):
        check_sample_arrays(tmp_path / "a.npz", {"fid": np.array([1.0, value])}, ["fid"])
    check_sample_arrays(tmp_path / "a.npz", {"fid": np.array([1.0, np.nan, 1e99])}, ["fid"])
