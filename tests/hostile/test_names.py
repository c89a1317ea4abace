"""Names and texts that would choose a path, steer a terminal, run in a spreadsheet or in a page."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from hostile.room import IMAGES, RUN, Case, Outcome, Room, edit_json, file_writer, run_case, table

# Names that are none: of a checkpoint, a suite, a judge, a recipe, a table, an asset.
NAMES: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "parent": "..",
    "outside": "../../x",
    "absolute": "/etc/passwd",
    "in-a-folder": "a/b",
    "backslashes": "..\\..\\x",
    "clears-screen": "\x1b[2J",
    "sets-title": "\x1b]0;mine\x07",
    "turns-writing": "x\u202egnp.exe",
    "carriage-return": "x\rgood",
    "line-feed": "x\nharope-bench: all is well",
    "formula": "=cmd|' /C calc'!A0",
    "script": "<script>alert(1)</script>",
    "very-long": "x" * 5000,
    "percent": "%s%n%x",
    "braces": "{0.__class__}",
    "template": "{{ 7 * 7 }}",
    "half-character": "x\udc80",
    "module": "os.path",
    "wide": "\uff0e\uff0e\uff0fx",
}
VERBS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "generate": lambda name: ("generate", "--count", "2", "--out", "new", "--", name),
    "suite": lambda name: ("eval", IMAGES, "--suite", name, "--out", "new"),
    "register": lambda name: ("register", "--weights", "home/checkpoints/tiny.safetensors", "--encoding", "rope-axial", "--config", "heads=2",
                              "--config", "size=28", "--suite", "digits", "--sampler", "flow", "--", name),
    "judge": lambda name: ("reference", IMAGES, "r.npz", "--judge", name),
    "fetch": lambda name: ("fetch", "--", name),
    "train": lambda name: ("train", "--encoding", "rope-axial", "--out", "new", "--", name),
    "sampler": lambda name: ("generate", "tiny", "--count", "2", "--out", "new", "--sampler", name),
}  # fmt: skip
EVERYWHERE = (
    "outside",
    "clears-screen",
    "line-feed",
    "very-long",
    "half-character",
    "empty",
)  # the others at two verbs

UNKNOWN_CASES = [
    Case(
        f"{verb}-{kind}",
        None,
        words(name),
        2 if kind == "half-character" else 1,
        "harope-bench: |not UTF-8",
    )
    for verb, words in VERBS.items()
    for kind, name in NAMES.items()
    if (verb in ("generate", "register") or kind in EVERYWHERE)
    and (verb, kind) != ("register", "module")
]

LABEL = ("eval", RUN, "--reference", "reference.npz", "--label")
BAD_LABELS = [
    Case(f"label-{kind}", None, (*LABEL, NAMES[kind]), 2 if kind == "half-character" else 1, "label|UTF-8")
    for kind in ("empty", "blank", "clears-screen", "sets-title", "carriage-return", "line-feed", "very-long", "half-character")
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# texts on their way out


def label_result(text: str) -> Callable[[Room], None]:
    """Give the run's result a label, as a file from elsewhere has it."""
    return edit_json_result(lambda result: result.update(label=text))


def edit_json_result(change: Callable[[dict], object]) -> Callable[[Room], None]:
    def build(room: Room) -> None:
        (path,) = room.run.glob("results/*.json")
        edit_json(str(path.relative_to(room.folder)), change)(room)

    return build


def set_target(text: str) -> Callable[[Room], None]:
    return edit_json_result(lambda result: result.update(target=text, plan=None, plan_digest=None))


def plain_page(room: Room, outcome: Outcome) -> None:
    """A page holds the text as text: no tag, no template that was filled, no control character."""
    for page in [*room.folder.glob("*.html"), *room.folder.glob("site/**/*.html")]:
        text = page.read_text()
        assert "<script>alert" not in text and "<img src=x" not in text
        assert all(c.isprintable() or c in "\n\t\u00a0\u2007\u2008\u2009\u200a\u202f" for c in text)


def plain_cells(room: Room, outcome: Outcome) -> None:
    """No cell of a csv begins like a formula, unless it is a number."""
    cells = [cell for row in csv.reader(io.StringIO(outcome.stdout)) for cell in row]
    assert not [
        cell
        for cell in cells
        if re.match(r"\s*[=+@-]", cell) and not re.fullmatch(r"[+-]?[\d.,e%+-]*", cell)
    ]


TEXTS = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "quote": "\"'><script>alert(1)</script>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "formula": "=HYPERLINK(1)",
    "at": "@SUM(1)",
    "turns": "a\u202eb\u2066c",
    "steers": "\x1b[2J\x9b31m\x07",
    "link": "[x](javascript:alert(1))",
    "latex": "\\input{/etc/passwd}$x_1^2$ & % #",
    "bars": "a | b || c",
}
REPORT = ("report", "--runs", ".", "--out", "report.html")
BUILD = ("leaderboard", "build", ".", "--out", "site")


def table_of(form: str) -> tuple[str, ...]:
    return ("table", "2", "--runs", ".", "--format", form, "--add", "mine")


def no_command(room: Room, outcome: Outcome) -> None:
    assert "\\input{" not in outcome.stdout.replace("\\textbackslash{}input", "")


OUTPUTS = [
    Case(f"{verb}-{kind}", set_target(text), call, 0, "html", ("report.html", "site*"), plain_page)
    for kind, text in TEXTS.items()
    for verb, call in (("report", REPORT), ("site", BUILD))
    if verb == "report" or kind in ("script", "quote", "steers", "turns")
]
OUTPUTS += [
    Case(
        f"csv-{kind}",
        set_target(text),
        ("table", "2", "--runs", ".", "--format", "csv", "--add", f"run={text}"),
        code,
        words,
        (),
        plain_cells,
    )
    for kind, text, code, words in (
        ("formula", TEXTS["formula"], 0, "'=HYPERLINK"),
        ("at", TEXTS["at"], 0, "'@SUM"),
        ("steers", TEXTS["steers"], 1, "label"),
    )
]
OUTPUTS += [
    Case(f"{form}-{kind}", None, ("table", "2", "--runs", ".", "--format", form, "--add", f"run={TEXTS[kind]}"), 0, words)
    for form, kind, words in (
        ("tex", "latex", r"textbackslash"),
        ("md", "bars", r"a \\\| b|a &#124; b"),
        ("md", "script", r"\\<script>"),
        ("html", "script", "&lt;script&gt;"),
        ("html", "quote", "&lt;script&gt;"),
        ("html", "template", r"7 \* 7"),
        ("json", "quote", "script"),
    )
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# names of files


def rename_image(name: str) -> Callable[[Room], None]:
    """Let an image of the folder have a name."""
    return lambda room: os.rename(
        room.pictures / "000002.png", os.fsencode(room.pictures) + b"/" + os.fsencode(name)
    )


def folder_called(name: str) -> Callable[[Room], None]:
    return lambda room: os.rename(
        room.pictures, os.fsencode(room.folder) + b"/" + os.fsencode(name)
    )


EVAL = ("eval", IMAGES, "--suite", "digits", "--reference", "reference.npz", "--out", "new")
PROMPTS = ("convert", IMAGES, "out", "--to", "png", "--suite", "shapes", "--pattern")
FILES = [
    Case("file-steers", rename_image("\x1b[2J.png"), EVAL, 0, "3 of 3 images", ("new*",)),
    Case("file-formula", rename_image("=cmd.png"), EVAL, 0, "3 of 3 images", ("new*",)),
    Case("file-dash", rename_image("--help.png"), EVAL, 0, "3 of 3 images", ("new*",)),
    Case("file-line-feed", rename_image("a\nb.png"), EVAL, 0, "3 of 3 images", ("new*",)),
    Case("file-digits", rename_image("9" * 240 + ".png"), EVAL, 0, "3 of 3 images", ("new*",)),
    Case("file-not-utf8", rename_image("x\udcff.png"), EVAL, 0, "3 of 3 images", ("new*",)),
    Case("file-hidden", rename_image(".000002.png"), EVAL, 0, "of . images", ("new*",)),
    Case("folder-steers", folder_called("\x1b[2J"), ("eval", "\x1b[2J", *EVAL[2:]), 0, "3 of 3 images", ("new*",)),
    Case("folder-not-utf8", folder_called("x\udcff"), ("eval", "x\udcff", *EVAL[2:]), 2, "not UTF-8"),
    Case("pattern-empty", None, (*PROMPTS, ""), 1, "pattern"),
    Case("pattern-no-field", None, (*PROMPTS, "*.png"), 1, "pattern"),
    Case("pattern-unknown-field", None, (*PROMPTS, "{x}.png"), 1, "pattern"),
    Case("pattern-outside", None, (*PROMPTS, "../{index}.png"), 1, "pattern"),
    Case("pattern-attribute", None, (*PROMPTS, "{index.__class__}.png"), 1, "pattern"),
    Case("pattern-open", None, (*PROMPTS, "{index.png"), 1, "pattern"),
    Case("pattern-twice", None, (*PROMPTS, "{index}{index}.png"), 1, "pattern"),
    Case("pattern-regex", None, (*PROMPTS, "(a+)+{index}.png"), 1, "."),
    Case("pattern-steers", None, (*PROMPTS, "\x1b[2J{x}"), 1, "pattern"),
    Case("list-missing", None, ("convert", IMAGES, "out", "--to", "png", "--suite", "shapes", "--file-list", "none.csv"), 1, "none.csv"),
]  # fmt: skip


def write_file_list(text: str) -> tuple[Callable[[Room], None], tuple[str, ...]]:
    return file_writer("list.csv", text), (
        "convert",
        IMAGES,
        "out",
        "--to",
        "png",
        "--suite",
        "shapes",
        "--file-list",
        "list.csv",
    )


FILES += [
    Case(f"list-{kind}", *write_file_list(text), 1, words)
    for kind, text, words in (
        ("empty", "", "list.csv"),
        ("no-columns", "a,b\n1,2\n", "list.csv"),
        ("outside", "file,index\n../run/images/000000.png,0\n", "list.csv|outside"),
        ("absolute", "file,index\n/etc/passwd,0\n", "list.csv|outside"),
        ("unknown-file", "file,index\nnone.png,0\n", "none of the listed images is in pictures"),
        ("index-of-text", "file,index\n000000.png,first\n", "first"),
        ("index-negative", "file,index\n000000.png,-1\n", "-1"),
        ("index-huge", f"file,index\n000000.png,{'9' * 30}\n", "9999"),
        (
            "index-twice",
            "file,index\n000000.png,0\n000001.png,0\n",
            "line 3 lists an image or a file again",
        ),
        ("more-cells", "file,index\n000000.png,0,1,2\n", "list.csv"),
        ("cell-of-megabytes", "file,index\n" + "x" * 300_000 + ",0\n", "list.csv"),
        ("steers", "file,index\n\x1b[2J.png,0\n", "list.csv|png"),
    )
]


def out_of_room(room: Room, outcome: Outcome) -> None:
    assert not (room.folder.parent / "x").exists() and not Path("/tmp/x").exists()


@table(*UNKNOWN_CASES, *BAD_LABELS)
def test_a_name_that_is_none_is_one_line(case: Case, room: Room) -> None:
    run_case(case, room)
    out_of_room(room, Outcome(0, "", ""))


@table(*OUTPUTS)
def test_texts_of_results_go_out_as_text(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*FILES)
def test_names_of_files_choose_nothing(case: Case, room: Room) -> None:
    run_case(case, room)


def test_a_run_whose_folder_steers_is_listed_as_json_that_is_read_back(room: Room) -> None:
    os.rename(room.run, room.folder / "\x1b[2J")
    outcome = run_case(
        Case("json", None, ("compare", "\x1b[2J", "\x1b[2J", "--json"), 0, "baseline"), room
    )
    assert json.loads(outcome.stdout)
