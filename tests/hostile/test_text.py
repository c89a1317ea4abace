"""JSON, TOML, CSV and plain text that is nested, marked, cut, of other types, of other encodings,
or means to steer.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

from hostile.room import (
    IMAGES,
    RESULT,
    RUN,
    Case,
    Outcome,
    Room,
    edit_json,
    file_writer,
    odd_file,
    run_builders,
    run_case,
    table,
)

from harope_bench.suites import coco_fid

REFERENCE = ("--reference", "reference.npz")
VERIFY = ("verify", RUN, "--redraw", "0", *REFERENCE)
REPORT = ("report", "--runs", ".", "--out", "report.html")
SCORE = ("eval", RUN, *REFERENCE)
COMPARE = ("compare", RUN, RUN)
BUILD = ("leaderboard", "build", ".", "--out", "site")

# What no JSON document may be, whichever it is.
BAD_JSON: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"a": 1',
    "nested": b"[" * 100_000,
    "nested-objects": b'{"a":' * 50_000,
    "list": b"[1, 2]",
    "null": b"null",
    "not-utf8": b'{"a": "\xff"}',
    "half-character": b'{"a": "\\ud800"}',
    "utf-16-unmarked": '{"a": 1}'.encode("utf-16-le"),
    "binary": bytes(range(256)),
    "huge-number": b'{"a": ' + b"9" * 5000 + b"}",
}

# Each JSON document of the room with a command that reads it.
DOCUMENTS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "plan": ("run/plan.json", SCORE, 1),
    "result": (RESULT, REPORT, 1),
    "result-compared": (RESULT, COMPARE, 1),
    "baseline": ("baseline.json", ("gate", "baseline.json", RUN), 1),
    "figure": ("figures/a.json", REPORT, 1),
}
JSON = [
    Case(f"{document}-{kind}", file_writer(name, data), call, code, name.rpartition("/")[2])
    for document, (name, call, code) in DOCUMENTS.items()
    for kind, data in BAD_JSON.items()
    if document in ("plan", "result")
    or kind in ("cut", "nested", "list", "half-character", "huge-number")
]


def result(**fields: Any) -> Callable[[Room], None]:
    return edit_json(RESULT, lambda result: result.update(fields))


def edit_measurement(**fields: Any) -> Callable[[Room], None]:
    return edit_json(RESULT, lambda result: result["measurements"][0].update(fields))


def plan(**fields: Any) -> Callable[[Room], None]:
    return edit_json("run/plan.json", lambda result: result.update(fields))


def settings(**fields: Any) -> Callable[[Room], None]:
    return edit_json("run/plan.json", lambda result: result["settings"].update(fields))


def network(**fields: Any) -> Callable[[Room], None]:
    return edit_json("run/plan.json", lambda result: result["checkpoint"].update(fields))


FIELDS = [
    Case("result-more-fields", result(more=1), REPORT, 1, "fidelity"),
    Case("result-fewer-fields", edit_json(RESULT, lambda result_value: result_value.pop("judge")), REPORT, 1, "fidelity"),
    Case("result-of-text", result(version="one"), REPORT, 1, "fidelity"),
    Case("result-of-null", result(measurements=None), REPORT, 1, "fidelity"),
    Case("result-value-of-text", edit_measurement(value="many"), REPORT, 1, "fidelity"),
    Case("result-value-nan", edit_measurement(value=float("nan")), REPORT, 1, "fidelity"),
    Case("result-value-infinite", edit_measurement(value=float("inf")), REPORT, 1, "fidelity"),
    Case("result-count-negative", edit_measurement(n_scored=-1), REPORT, 1, "fidelity"),
    Case("result-rows-outside", result(arrays_file="../../x.npz"), COMPARE, 1, "fidelity|x.npz"),
    Case("result-rows-absolute", result(arrays_file="/etc/passwd"), COMPARE, 1, "fidelity|passwd"),
    Case("result-unknown-evaluator", result(evaluator="nobody"), COMPARE, 1, "nobody"),
    Case("plan-more-fields", plan(more=1), SCORE, 1, "plan"),
    Case("plan-fewer-fields", edit_json("run/plan.json", lambda result_value: result_value.pop("suite")), SCORE, 1, "plan"),
    Case("plan-unknown-suite", plan(suite="nobody"), SCORE, 1, "nobody"),
    Case("plan-suite-outside", plan(suite="../../x"), SCORE, 1, "plan"),
    Case("plan-suite-a-list", plan(suite=["digits"]), SCORE, 1, "plan"),
    Case("plan-version-huge", plan(suite_version=10**30), VERIFY, 3, "plan.json"),
    Case("plan-tile-huge", settings(tile=10**9), SCORE, 1, "plan"),
    Case("plan-tile-negative", settings(tile=-1), SCORE, 1, "plan"),
    Case("plan-side-huge", settings(resolution=10**9), SCORE, 1, "plan"),
    Case("plan-guidance-nan", settings(guidance=float("nan")), SCORE, 1, "plan"),
    Case("plan-steps-of-text", settings(steps="many"), SCORE, 1, "plan"),
    Case("plan-name-outside", network(name="../x"), SCORE, 1, "plan"),
    Case("plan-weights-edited", network(sha256="0" * 64), VERIFY, 3, "plan.json"),
    Case("plan-backbone-outside", network(backbone="os"), VERIFY, 3, "plan.json"),
    Case("plan-config-huge", network(config={"hidden": 10**9}), SCORE, 1, "plan"),
    Case("plan-pipe", odd_file("run/plan.json", "pipe"), SCORE, 1, "plan.json"),
    Case("plan-device", odd_file("run/plan.json", "device"), SCORE, 1, "plan.json"),
    Case("plan-sparse", odd_file("run/plan.json", "sparse"), SCORE, 1, "plan.json"),
    Case("result-pipe", odd_file(RESULT, "pipe"), REPORT, 1, "fidelity"),
    Case("result-device", odd_file(RESULT, "device"), REPORT, 1, "fidelity"),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# JSON lines


def line(**fields: Any) -> bytes:
    good_fields = {
        "index": 0,
        "file": "images/000000.png",
        "sha256": "ab" * 32,
        "status": "ok",
        "label": 0,
    }
    return json.dumps({**good_fields, **fields}).encode() + b"\n"


def records(data: bytes) -> Callable[[Room], None]:
    """Put lines before those of the run."""

    def build(room: Room) -> None:
        path = room.run / "samples.jsonl"
        path.write_bytes(data + path.read_bytes())

    return build


def requests(data: bytes) -> Callable[[Room], None]:
    return file_writer("run/requests.jsonl", data)


TO_ADM = ("convert", RUN, "out.npz", "--to", "adm")
LINES = [
    Case("line-list", records(b"[]\n"), TO_ADM, 1, "samples.jsonl line 1 is not a JSON object"),
    Case("line-text", records(b"hello\n"), TO_ADM, 1, "samples.jsonl line 1 is not JSON"),
    Case("line-nested", records(b"[" * 100_000 + b"\n"), TO_ADM, 1, "samples.jsonl line 1 is not JSON"),
    Case("line-not-utf8", records(b'{"a": "\xff"}\n'), TO_ADM, 1, "samples.jsonl line 1"),
    Case("line-half-character", records(b'{"file": "\\udc80"}\n'), TO_ADM, 1, "samples.jsonl line 1"),
    Case("line-nul", records(b"\0\0\0\0\n"), TO_ADM, 1, "samples.jsonl line 1"),
    Case("line-fewer-fields", records(b'{"index": 0}\n'), TO_ADM, 1, "samples.jsonl"),
    Case("line-more-fields", records(line(more=1)), TO_ADM, 1, "samples.jsonl"),
    Case("line-index-negative", records(line(index=-1)), TO_ADM, 1, "samples.jsonl"),
    Case("line-file-outside", lambda room: _edit_last_sample(room, file=f"../{IMAGES}/000000.png"), TO_ADM, 1, "points outside the folder"),
    Case("line-file-absolute", lambda room: _edit_last_sample(room, file="/etc/passwd"), TO_ADM, 1, "samples.jsonl|outside"),
    Case("line-file-through-link", lambda room: _through_link(room), TO_ADM, 1, "outside"),
    Case("line-status-unknown", records(line(status="fine")), TO_ADM, 1, "samples.jsonl"),
    Case("line-hash-of-text", lambda room: _edit_last_sample(room, sha256="no"), TO_ADM, 1, "000000.png"),
    Case("lines-pipe", odd_file("run/samples.jsonl", "pipe"), TO_ADM, 1, "samples.jsonl"),
    Case("lines-sparse", odd_file("run/samples.jsonl", "sparse"), TO_ADM, 1, "samples.jsonl"),
    Case("requests-list", requests(b"[1]\n{}\n"), TO_ADM, 1, "requests.jsonl line 1"),
    Case("requests-number", requests(b'{"indices": 3}\n{}\n'), TO_ADM, 1, "requests.jsonl"),
    Case("requests-text", requests(b'{"indices": "all"}\n'), TO_ADM, 1, "requests.jsonl"),
    Case("requests-backwards", requests(b'{"indices": "9-0"}\n'), TO_ADM, 1, "requests.jsonl"),
    Case("requests-huge", requests(b'{"indices": "0-99999999999"}\n'), TO_ADM, 1, "99,999,999,996 missing"),
    Case("requests-digits", requests(b'{"indices": "' + b"9" * 5000 + b'"}\n'), TO_ADM, 1, "requests.jsonl"),
    Case("requests-more-fields", requests(b'{"more": 1}\n{}\n'), TO_ADM, 1, "requests.jsonl"),
    Case("sums-of-text", file_writer("run/SHA256SUMS", b"hello\n"), VERIFY, 3, "SHA256SUMS"),
    Case("sums-outside", file_writer("run/SHA256SUMS", b"00" * 32 + b"  ../../x\n"), VERIFY, 3, "SHA256SUMS"),
    Case("sums-pipe", odd_file("run/SHA256SUMS", "pipe"), VERIFY, 3, "SHA256SUMS"),
]  # fmt: skip


def _edit_last_sample(room: Room, **fields: Any) -> None:
    """Change the last line of the first sample, which is the one that counts."""
    path = room.run / "samples.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[0].update(fields)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _through_link(room: Room) -> None:
    (room.run / "more").symlink_to("..")
    _edit_last_sample(room, file=f"more/{IMAGES}/000000.png")


# ------------------------------------------------------------------------------------------------
# TOML


BAD_TOML: dict[str, bytes] = {
    "cut": b"[default",
    "nested": b"a = " + b"[" * 100_000,
    "not-utf8": b'a = "\xff"',
    "twice": b"a = 1\na = 2\n",
    "json": b'{"a": 1}',
    "nul": b"a\0 = 1\n",
    "large": b"# " + b"x" * (2 << 20),
    "huge-number": b"a = " + b"9" * 5000,
}
GATE = ("gate", RUN, RUN, "--config", "gate.toml")
TRAIN = ("train", "recipe.toml", "--encoding", "rope-axial", "--out", "new")
GENERATE = ("generate", "tiny", "--count", "2", "--out", "new")
TOML = [
    Case(f"{name}-{kind}", file_writer(path, data), call, 1, words)
    for name, (path, call, words) in {
        "policy": ("gate.toml", GATE, "gate.toml"),
        "recipe": ("recipe.toml", TRAIN, "recipe.toml"),
        "checkpoint": ("home/checkpoints/tiny.toml", GENERATE, "tiny.toml"),
    }.items()
    for kind, data in BAD_TOML.items()
    if name == "policy" or kind in ("cut", "nested", "large")
]
TOML += [
    Case(f"policy-{name}", file_writer("gate.toml", text), GATE, 1, "gate.toml|no metric named")
    for name, text in {
        "margin-nan": "[default]\nmargin = nan\n",
        "margin-negative": "[default]\nmargin = -1\n",
        "margin-of-text": '[default]\nmargin = "a lot"\n',
        "margin-true": "[default]\nmargin = true\n",
        "margin-a-list": "[default]\nmargin = [1]\n",
        "margin-steers": '[default]\nmargin = "\\u001b[2J"\n',
        "margin-digits": f'[default]\nmargin = "{"9" * 400}%"\n',
        "confidence-of-one": "[default]\nconfidence = 1.0\n",
        "confidence-nan": "[default]\nconfidence = nan\n",
        "unknown-field": "[default]\nmargim = 1\n",
        "default-a-number": "default = 3\n",
        "metric-a-list": "metric = [1]\n",
        "metric-unknown": "[metric.nobody]\nmargin = 1\n",
        "metric-that-steers": '[metric."\\u001b[2J"]\nmargin = 1\n',
    }.items()
]
TOML += [
    Case("policy-pipe", odd_file("gate.toml", "pipe"), GATE, 1, "gate.toml"),
    Case("policy-folder", odd_file("gate.toml", "folder"), GATE, 1, "gate.toml"),
    Case("policy-missing", None, GATE, 1, "gate.toml"),
    Case("recipe-unknown-kind", file_writer("recipe.toml", 'kind = "nobody"\n'), TRAIN, 1, "recipe.toml"),
    Case("recipe-empty", file_writer("recipe.toml", ""), TRAIN, 1, "recipe.toml"),
    Case("recipe-device", odd_file("recipe.toml", "device"), TRAIN, 1, "recipe.toml"),
    Case("checkpoint-empty", file_writer("home/checkpoints/tiny.toml", ""), GENERATE, 1, "tiny.toml"),
    Case("checkpoint-pipe", odd_file("home/checkpoints/tiny.toml", "pipe"), GENERATE, 1, "tiny.toml"),
    Case("checkpoint-another-name", lambda room: _edit_checkpoint(room, '"tiny"', '"small"'), GENERATE, 1, "is the file of a checkpoint named small"),
    Case("checkpoint-weights-device", lambda room: _edit_checkpoint(room, '"tiny.safetensors"', '"/dev/zero"'), GENERATE, 1, "/dev/zero"),
    Case("checkpoint-hash-of-text", lambda room: _edit_checkpoint(room, "sha256 = ", 'sha256 = "no"\nold = '), GENERATE, 1, "tiny.toml"),
]  # fmt: skip


def _edit_checkpoint(room: Room, old_text: str, new_text: str) -> None:
    path = room.home / "checkpoints/tiny.toml"
    text = path.read_text()
    assert old_text in text
    path.write_text(text.replace(old_text, new_text, 1))


# ------------------------------------------------------------------------------------------------
# csv and text


LOSS = ("figure", "loss", "log.csv", "--out", "loss.svg")
PNG = ("convert", IMAGES, "out", "--to", "png", "--suite", "shapes", "--file-list")
AUDIT = ("audit", "--suite", "mine", "--prompts", "prompts.txt", "--captions")
LABELS = ("generate", "tiny", "--count", "2", "--out", "new", "--labels", "labels.txt")
PROMPTS = file_writer("prompts.txt", "a red square\n")

TEXT = [
    Case("log-empty", file_writer("log.csv", ""), LOSS, 1, "log.csv"),
    Case("log-nan", file_writer("log.csv", "step,loss\n1,nan\n"), LOSS, 1, "no finite losses"),
    Case("log-infinite", file_writer("log.csv", "step,loss\n1,1e999\n"), LOSS, 1, "no finite losses"),
    Case("log-of-text", file_writer("log.csv", "step,loss\n1,=cmd\n"), LOSS, 1, "'=cmd' where a number should be"),
    Case("log-steers", file_writer("log.csv", "step,loss\n1,\x1b[2J\n"), LOSS, 1, "where a number should be"),
    Case("log-backwards", file_writer("log.csv", "step,loss\n2,1\n1,1\n"), LOSS, 1, "do not increase"),
    Case("log-more-cells", file_writer("log.csv", "step,loss\n1,2,3,4,5\n"), LOSS, 1, "is not step,loss"),
    Case("log-fewer-cells", file_writer("log.csv", "step,loss\n1\n"), LOSS, 1, "is not step,loss"),
    Case("log-one-cell-of-megabytes", file_writer("log.csv", "step,loss\n1," + "9" * 300_000 + "\n"), LOSS, 1, "log.csv line 2 is not readable"),
    Case("log-not-utf8", file_writer("log.csv", b"step,loss\n1,\xff\n"), LOSS, 1, "log.csv line 2 is not UTF-8"),
    Case("log-nul", file_writer("log.csv", b"step,loss\n1,\0\n"), LOSS, 1, "NUL"),
    Case("log-sparse", odd_file("log.csv", "sparse"), LOSS, 1, "log.csv"),
    Case("log-pipe", odd_file("log.csv", "pipe"), LOSS, 1, "log.csv"),
    Case("captions-missing", PROMPTS, (*AUDIT, "none.jsonl"), 1, "none.jsonl"),
    Case("captions-nested", run_builders(PROMPTS, file_writer("c.jsonl", b"[" * 100_000)), (*AUDIT, "c.jsonl"), 1, "line 1 is not"),
    Case("captions-a-list", run_builders(PROMPTS, file_writer("c.jsonl", b"[1]\n")), (*AUDIT, "c.jsonl"), 1, "line 1 is not"),
    Case("captions-other-field", run_builders(PROMPTS, file_writer("c.jsonl", b'{"x": "a"}\n')), (*AUDIT, "c.jsonl"), 1, "c.jsonl"),
    Case("captions-no-zip", run_builders(PROMPTS, file_writer("c.txt.gz", b"hello")), (*AUDIT, "c.txt.gz"), 1, "c.txt.gz"),
    Case("captions-one-line", run_builders(PROMPTS, file_writer("c.txt", b"a" * (2 << 20))), (*AUDIT, "c.txt"), 1, "longer than 1,048,576"),
    Case("captions-pipe", run_builders(PROMPTS, odd_file("c.txt", "pipe")), (*AUDIT, "c.txt"), 1, "c.txt"),
    Case("captions-pdf", run_builders(PROMPTS, file_writer("c.pdf", b"%PDF")), (*AUDIT, "c.pdf"), 1, "no .jsonl"),
    Case("captions-open-quote", run_builders(PROMPTS, file_writer("c.csv", 'text\n"' + "a\n" * 300_000)), (*AUDIT, "c.csv"), 1, "c.csv"),
]  # fmt: skip


def curve(text: str | bytes) -> Callable[[Room], None]:
    return file_writer("log.csv", text)


def check_svg(room: Room, outcome: Outcome) -> None:
    assert (room.folder / "loss.svg").read_text().count("<svg") == 1


def one_line_each(room: Room, outcome: Outcome) -> None:
    check_svg(room, outcome)
    svg, rows = (
        (room.folder / "loss.svg").read_text(),
        list(csv.reader(io.StringIO((room.folder / "loss.csv").read_text()))),
    )
    assert "<script>" not in svg
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)


OUT = ("loss.*",)
RIGHT = [
    Case("log-marked", curve(b"\xef\xbb\xbfstep,loss\n1,2\n2,1\n"), LOSS, 0, "loss 1.0", OUT, check_svg),
    Case("log-of-windows", curve("step,loss\r\n1,2\r\n2,1\r\n"), LOSS, 0, "loss 1.0", OUT, check_svg),
    Case("log-of-old-macs", curve("step,loss\r1,2\r2,1\r"), LOSS, 0, "loss 1.0", OUT, check_svg),
    Case("log-utf-16", curve("step,loss\n1,2\n2,1\n".encode("utf-16")), LOSS, 0, "loss 1.0", OUT, check_svg),
    Case("log-utf-32", curve("step,loss\n1,2\n2,1\n".encode("utf-32")), LOSS, 0, "loss 1.0", OUT, check_svg),
    Case("run-a-formula", curve("step,loss,run\n1,2,=cmd|' /C calc'!A0\n"), LOSS, 0, "loss 2.0", OUT, one_line_each),
    Case("run-a-script", curve("step,loss,run\n1,2,<script>alert(1)</script>\n"), LOSS, 0, "loss 2.0", OUT, one_line_each),
    Case("run-that-steers", curve("step,loss,run\n1,2,\x1b[2J\u202eevil\n"), LOSS, 0, "loss 2.0", OUT, one_line_each),
    Case("plan-marked", lambda room: _add_byte_order_mark(room), VERIFY, 3, "plan.json"),
    Case("policy-of-windows", file_writer("gate.toml", b"\xef\xbb\xbf[default]\r\nmargin = 1\r\n"), GATE, 4, r"1\.000   pass"),
    Case("policy-utf-16", file_writer("gate.toml", "[default]\nmargin = 1\n".encode("utf-16")), GATE, 4, r"1\.000   pass"),
]  # fmt: skip


def _add_byte_order_mark(room: Room) -> None:
    path = room.run / "plan.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def twice(room: Room) -> None:
    """Write COCO's archive with two members of one name."""
    with warnings.catch_warnings(), zipfile.ZipFile(room.folder / "coco.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for caption in ("a", "b"):
            rows = [{"image_id": 1, "id": 1, "caption": caption}]
            archive.writestr(coco_fid.CAPTIONS_MEMBER, json.dumps({"annotations": rows}))


def captions(room: Room) -> object:
    return coco_fid.read_captions(room.folder / "coco.zip")


ARCHIVES = [
    Case("archive-twice", twice, captions, 1, "has annotations/captions_val2014.json twice"),
    Case("archive-text", file_writer("coco.zip", b"hello"), captions, 1, "is not COCO's annotations"),
    Case("archive-pipe", odd_file("coco.zip", "pipe"), captions, 1, "coco.zip"),
    Case("archive-missing", None, captions, 1, "coco.zip"),
]  # fmt: skip


@table(*ARCHIVES)
def test_an_archive_of_captions_that_is_none_is_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*JSON, *FIELDS)
def test_json_that_is_no_record_is_named(case: Case, room: Room) -> None:
    run_case(case, room)


def altered_case(
    name: str, build: Callable[[Room], Any], call: tuple[str, ...], words: str
) -> Case:
    """Return a row whose file is altered while SHA256SUMS stays as it was."""
    return Case(name, build, call, 1, words, is_forged=False)


# A file that still says what it should, or would be refused for something else, if nobody looked at
# its hash.
RECORDED_ALTERED_CASES = [
    altered_case("result-in-report", edit_measurement(value=0.0), REPORT, "fidelity_ref-.*json was altered: .*SHA256SUMS"),
    altered_case("result-on-leaderboard", edit_measurement(value=0.0), BUILD, "fidelity_ref-.*json was altered: .*SHA256SUMS"),
    altered_case("result-in-comparison", result(evaluator="nobody"), COMPARE, "fidelity_ref-.*json was altered: .*SHA256SUMS"),
    altered_case("plan", settings(seed=5), TO_ADM, "plan.json was altered: .*SHA256SUMS"),
    altered_case("plan-no-json", file_writer("run/plan.json", b"{"), SCORE, "plan.json was altered: .*SHA256SUMS"),
    altered_case("samples", lambda room: _edit_last_sample(room, sha256="0" * 64), TO_ADM, "samples.jsonl was altered: .*SHA256SUMS"),
    altered_case("samples-no-json", records(b"hello\n"), REPORT, "samples.jsonl was altered: .*SHA256SUMS"),
    altered_case("plan-sparse", odd_file("run/plan.json", "sparse"), SCORE, "plan.json has 1,099,511,627,776 bytes"),
    altered_case("samples-sparse", odd_file("run/samples.jsonl", "sparse"), TO_ADM, "samples.jsonl has 1,099,511,627,776 bytes"),
    altered_case("result-sparse", odd_file(RESULT, "sparse"), REPORT, "fidelity_ref-.*json has 1,099,511,627,776 bytes"),
    altered_case("arrays-sparse", odd_file(RESULT.replace(".json", ".npz"), "sparse"), COMPARE, "npz has 1,099,511,627,776 bytes"),
]  # fmt: skip


@table(*RECORDED_ALTERED_CASES)
def test_a_file_whose_hash_is_not_the_recorded_one_is_not_read(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*LINES)
def test_lines_that_are_no_records_are_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*TOML)
def test_toml_that_says_nothing_is_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*TEXT)
def test_text_that_is_no_log_and_no_list_is_named(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*RIGHT)
def test_text_of_other_editors_and_names_that_steer_are_read(case: Case, room: Room) -> None:
    run_case(case, room)
