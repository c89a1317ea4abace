"""A disk that refuses, places that are something else, and files that go or are somebody else's
meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.room import (
    IMAGES,
    RESULT,
    RUN,
    Case,
    Room,
    file_writer,
    odd_file,
    run_builders,
    run_case,
    table,
)

from harope_bench.core.index_ranges import IndexRanges
from harope_bench.data.run_folder import RunFolder

REFERENCE = ("--reference", "reference.npz")
GENERATE = ("generate", "tiny", "--count", "2", "--out", "new")
SCORE = ("eval", IMAGES, "--suite", "digits", *REFERENCE, "--out", "new")
CONVERT = ("convert", IMAGES, "out.npz", "--to", "adm")
TO_PNG = ("convert", RUN, "out", "--to", "png")
REPORT = ("report", "--runs", RUN, "--out", "report.html")
SITE = ("leaderboard", "build", RUN, "--out", "site")
UPDATE = ("gate", "baseline.json", RUN, "--update", "--reason", "first")
GATE = ("gate", RUN, RUN, "--junit", "gate.xml", "--summary", "summary.md")
EXPORT = ("export", "tiny", "out.safetensors")
REGISTER = ("register", "mine", "--weights", "home/checkpoints/tiny.safetensors", "--encoding", "rope-axial", "--config", "heads=2",
            "--config", "size=28", "--suite", "digits", "--sampler", "flow")  # fmt: skip
FIGURE = ("figure", "loss", "log.csv", "--out", "a.svg")
BUILD = ("reference", IMAGES, "r.npz", "--judge", "digits-net")
TRAIN = ("train", "shapes-vision", "--out", "new")
TINY_TEXTS = ("train", "recipe.toml", "--encoding", "rope-axial", "--out", "new")
OTHERS_TEXT = "was not written by a training and would be lost"
RECIPE = file_writer(
    "recipe.toml",
    """
kind = "denoiser"
name = "recipe"
suite = "digits"
backbone = "dit"
sampler = "flow"
draw_steps = 2
guidance = 1.5
label_drop = 0.1
ema = 0.9
config = { hidden = 16, depth = 1, heads = 2, patch = 7, size = 28, channels = 1, classes = 10 }
schedule = { steps = 2, batch = 2, lr = 0.01, warmup = 1, clip = 1.0, seed = 0, snapshot = 2 }
""",
)
VERIFY = ("verify", RUN, "--redraw", "0", *REFERENCE)
LOG = file_writer("log.csv", "step,loss\n1,2\n2,1\n")
WRITERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "generate": (GENERATE, ("new*",)),
    "eval": (SCORE, ("new*",)),
    "convert": (CONVERT, ()),
    "convert-png": (TO_PNG, ("out*",)),
    "report": (REPORT, ()),
    "site": (SITE, ("site*",)),
    "update": (UPDATE, ("baseline*",)),
    "export": (EXPORT, ()),
    "register": (REGISTER, ()),
    "figure": (FIGURE, ("a.*",)),
    "reference": (BUILD, (".r.npz.*",)),
    "summary": (GATE, ("gate.xml",)),
}


# ------------------------------------------------------------------------------------------------
# the disk refuses


def refusing(
    name: str, number: int, only_function: Callable[..., bool] = lambda *_: True, after: int = 0
) -> Callable[[Room], None]:
    """Let a function of os fail with an errno, from the call after so many on."""

    def build(room: Room) -> None:
        real, calls = getattr(os, name), [0]

        def refuse(*args: Any, **options: Any) -> Any:
            if only_function(*args):
                calls[0] += 1
                if calls[0] > after:
                    raise OSError(number, os.strerror(number))
            return real(*args, **options)

        room.patch.setattr(os, name, refuse)

    return build


def writes(path: Any, flags: int, *_: Any) -> bool:
    """Whether `os.open` is asked to make a file of the room."""
    return bool(flags & os.O_CREAT) and not str(path).endswith(".lock") and "/dev" not in str(path)


def reads(name: str) -> Callable[..., bool]:
    return lambda path, flags, *_: (
        not flags & (os.O_WRONLY | os.O_RDWR) and str(path).endswith(name)
    )


FULL_TEXT = "No space left on device"
REFUSALS = [
    Case(
        f"full-{verb}",
        run_builders(LOG, refusing("open", errno.ENOSPC, writes)),
        call,
        1,
        FULL_TEXT,
        left,
    )
    for verb, (call, left) in WRITERS.items()
]
REFUSALS += [
    Case(
        f"read-only-{verb}",
        run_builders(LOG, refusing("open", errno.EROFS, writes)),
        WRITERS[verb][0],
        1,
        "Read-only file system.*may write",
        WRITERS[verb][1],
    )
    for verb in ("generate", "convert", "report", "export", "register")
]
REFUSALS += [
    Case("late-generate", refusing("fsync", errno.ENOSPC), GENERATE, 1, FULL_TEXT, ("new*",)),
    Case("late-convert", refusing("fsync", errno.ENOSPC), CONVERT, 1, FULL_TEXT),
    Case("late-report", refusing("fsync", errno.EIO), REPORT, 1, "Input/output error"),
    Case("late-export", refusing("fsync", errno.EDQUOT), EXPORT, 1, "quota"),
    Case("rename-report", refusing("replace", errno.EACCES), REPORT, 1, "Permission denied"),
    Case("rename-generate", refusing("replace", errno.EXDEV), GENERATE, 1, "cross-device", ("new*",)),
    Case("link-refused", refusing("link", errno.EPERM), EXPORT, 0, "out.safetensors", ("out.safetensors",)),
    Case("line-refused", refusing("write", errno.ENOSPC), GENERATE, 1, FULL_TEXT, ("new*",)),
    Case("folder-refused", refusing("mkdir", errno.EACCES), GENERATE, 1, "Permission denied.*may write"),
    Case("folder-full", refusing("mkdir", errno.ENOSPC), SITE, 1, FULL_TEXT),
    Case("read-weights", refusing("open", errno.EIO, reads("tiny.safetensors")), GENERATE, 1, "tiny.safetensors: Input/output error"),
    Case("read-image", refusing("open", errno.EACCES, reads("000001.png")), CONVERT, 1, r"000001.png\) cannot be read: Permission denied"),
    Case("read-plan", refusing("open", errno.EIO, reads("plan.json")), ("eval", RUN, *REFERENCE), 1, "plan.json: Input/output error"),
    Case("read-result", refusing("open", errno.EACCES, reads(Path(RESULT).name)), REPORT, 1, "Permission denied"),
    Case("read-reference", refusing("open", errno.EACCES, reads("reference.npz")), SCORE, 1, "reference.npz: Permission denied", ("new*",)),
    Case("read-too-many-open", refusing("open", errno.EMFILE, reads(".png")), CONVERT, 1, "Too many open files"),
    Case("verify-unreadable", refusing("open", errno.EIO, reads("000001.png")), VERIFY, 1, "NOT CHECKED"),
    Case("look-refused", refusing("listdir", errno.EACCES, lambda path=".", *_: str(path).endswith(IMAGES)), CONVERT, 1, "Permission denied"),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# places that are something else


def link_out(name: str, target: str) -> Callable[[Room], None]:
    return lambda room: (room.folder / name).symlink_to(target)


FILE = file_writer("new", b"mine")
PLACES_CASES = [
    Case("generate-into-file", FILE, GENERATE, 1, "cannot use new"),
    Case("eval-into-file", FILE, SCORE, 1, "new"),
    Case("site-into-file", file_writer("site", b"mine"), SITE, 1, "site"),
    Case("train-into-file", FILE, TRAIN, 1, "new"),
    Case("generate-into-device", None, ("generate", "tiny", "--count", "2", "--out", "/dev/null"), 1, "/dev/null"),
    Case("generate-into-proc", None, ("generate", "tiny", "--count", "2", "--out", "/proc/new"), 1, "/proc/new"),
    Case("generate-into-pipe", odd_file("new", "pipe"), GENERATE, 1, "new"),
    Case("generate-into-loop", odd_file("new", "loop"), GENERATE, 1, "new"),
    Case("generate-below-file", FILE, ("generate", "tiny", "--count", "2", "--out", "new/more"), 1, "new"),
    Case("generate-long-name", None, ("generate", "tiny", "--count", "2", "--out", "x" * 300), 1, "File name too long"),
    Case("generate-images-a-file", file_writer("new/images", b"mine"), GENERATE, 1, "images", ("new/*",)),
    Case("generate-into-link", run_builders(lambda room: Path("real").mkdir(), link_out("new", "real")), GENERATE, 0, "2 generated", ("real*",)),
    Case("report-onto-text", file_writer("report.html", b"<html>mine</html>"), REPORT, 1, "is no report and would be lost"),
    Case("report-onto-weights", None, (*REPORT[:-1], "home/checkpoints/tiny.safetensors"), 1, "is no report and would be lost"),
    Case("report-onto-plan", None, (*REPORT[:-1], "run/plan.json"), 1, "is no report and would be lost"),
    Case("report-onto-folder", lambda room: Path("report.html").mkdir(), REPORT, 1, "report.html is not a file"),
    Case("report-onto-pipe", odd_file("report.html", "pipe"), REPORT, 1, "report.html is not a file"),
    Case("report-onto-link", run_builders(file_writer("mine.html", b"mine"), link_out("report.html", "mine.html")), REPORT, 1, "report.html"),
    Case("report-onto-dangling", odd_file("report.html", "dangling"), REPORT, 1, "is a link and is not written over"),
    Case("site-onto-page", file_writer("site/index.html", b"<html>mine</html>"), SITE, 1, "is not a leaderboard page"),
    Case("junit-onto-text", file_writer("gate.xml", b"<mine/>"), GATE, 1, "is no JUnit XML of the gate and would be lost"),
    Case("junit-onto-plan", None, ("gate", RUN, RUN, "--junit", "run/plan.json"), 1, "is no JUnit XML of the gate"),
    Case("junit-onto-link", run_builders(file_writer("mine.xml", b"x"), link_out("gate.xml", "mine.xml")), GATE, 1, "gate.xml"),
    Case("summary-onto-pipe", odd_file("summary.md", "pipe"), GATE, 1, "summary.md is a pipe"),
    Case("summary-onto-device", odd_file("summary.md", "device"), GATE, 1, "summary.md is a link"),
    Case("summary-onto-link", run_builders(file_writer("mine.md", b"x"), link_out("summary.md", "mine.md")), GATE, 1, "summary.md is a link"),
    Case("summary-onto-folder", lambda room: Path("summary.md").mkdir(), GATE, 1, "summary.md"),
    Case("update-onto-text", file_writer("baseline.json", b'{"mine": 1}'), UPDATE, 1, "is no baseline and would be lost"),
    Case("update-onto-plan", None, ("gate", "run/plan.json", RUN, "--update", "--reason", "x"), 1, "is no baseline and would be lost"),
    Case("update-onto-pipe", odd_file("baseline.json", "pipe"), UPDATE, 1, "baseline.json"),
    Case("figure-onto-text", run_builders(LOG, file_writer("a.svg", b"mine")), FIGURE, 1, "which no figure wrote"),
    Case("figure-onto-data", run_builders(LOG, file_writer("a.json", b'{"mine": 1}')), FIGURE, 1, "which no figure wrote"),
    Case("figure-onto-log", file_writer("log.csv", "step,loss\n1,2\n2,1\n"), ("figure", "loss", "log.csv", "--out", "log.svg"), 1, "which no figure wrote"),
    Case("reference-onto-text", file_writer("r.npz", b"mine"), BUILD, 1, "is no reference of these images"),
    Case("train-onto-text", file_writer("new/shapes_vision.toml", 'mine = "yes"\n'), TRAIN, 1, OTHERS_TEXT),
    Case("train-onto-weights", run_builders(RECIPE, file_writer("new/mine.safetensors", b"mine")), (*TINY_TEXTS, "--name", "mine"), 1, OTHERS_TEXT),
    Case("train-onto-facts", run_builders(RECIPE, file_writer("new/mine.toml", "a = 1")), (*TINY_TEXTS, "--name", "mine"), 1, OTHERS_TEXT),
    Case("train-onto-log", run_builders(RECIPE, file_writer("new/log.csv", "a,b\n1,2\n")), TINY_TEXTS, 1, OTHERS_TEXT),
    Case("train-onto-log-pipe", run_builders(RECIPE, odd_file("new/log.csv", "pipe")), TINY_TEXTS, 1, "log.csv is not a file"),
    Case("train-onto-snapshot", run_builders(RECIPE, file_writer("new/snapshot.pt", b"mine")), (*TINY_TEXTS, "--no-resume"), 1, OTHERS_TEXT),
    Case("train-onto-reference", file_writer("new/digits-reference.npz", b"mine"), ("train", "digits-reference", "--out", "new"), 1, OTHERS_TEXT),
    Case("train-onto-judge", file_writer("new/digits_net.safetensors", b"mine"), ("train", "digits-net", "--out", "new"), 1, OTHERS_TEXT),
    Case("train-snapshot-pipe", run_builders(RECIPE, odd_file("new/snapshot.pt", "pipe")), TINY_TEXTS, 1, "snapshot.pt is a pipe"),
    Case("train-snapshot-text", run_builders(RECIPE, file_writer("new/snapshot.pt", b"mine")), TINY_TEXTS, 1, "snapshot.pt cannot be read"),
    Case("train-snapshot-device", run_builders(RECIPE, odd_file("new/snapshot.pt", "device")), TINY_TEXTS, 1, "snapshot.pt is a device"),
    Case("train-from-pipe", odd_file("base.safetensors", "pipe"), ("train", "shapes-mmdit", "--encoding", "ape", "--base", "base.safetensors", "--out", "new"), 1, "base.safetensors"),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------
# somebody else, meanwhile


def copy_other_run(room: Room) -> None:
    """Another plan's run stands in the folder."""
    shutil.copytree(room.run, room.folder / "new")


def vanishing(name: str) -> Callable[[Room], None]:
    """Let a listed file be gone at the moment it is opened."""

    def build(room: Room) -> None:
        real = os.open

        def raise_file_missing(path: Any, *args: Any, **options: Any) -> int:
            if str(path).endswith(name):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return real(path, *args, **options)

        room.patch.setattr(os, "open", raise_file_missing)

    return build


MEANWHILE = [
    Case("another-plan", copy_other_run, (*GENERATE, "--seed", "5"), 1, "settings.seed is"),
    Case("another-network", copy_other_run, ("generate", "digits-ape", "--count", "2", "--out", "new"), 1, "new holds|checkpoint"),
    Case("same-plan", copy_other_run, GENERATE, 0, "0 generated"),
    Case("image-vanishes", vanishing("000001.png"), CONVERT, 1, "000001.png"),
    Case("image-of-run-vanishes", vanishing("000001.png"), ("convert", RUN, "out.npz", "--to", "adm"), 1, "000001.png"),
    Case("weights-vanish", vanishing("tiny.safetensors"), GENERATE, 1, "tiny.safetensors"),
    Case("reference-vanishes", vanishing("reference.npz"), SCORE, 1, "reference.npz", ("new*",)),
    Case("checkpoint-vanishes", vanishing("tiny.toml"), GENERATE, 1, "tiny.toml"),
    Case("plan-vanishes", vanishing("plan.json"), ("convert", RUN, "out.npz", "--to", "adm"), 0, "4 images", ("out.npz",)),
    Case("samples-vanish", vanishing("samples.jsonl"), ("convert", RUN, "out.npz", "--to", "adm"), 1, "4 missing"),
    Case("result-vanishes", vanishing(Path(RESULT).name), REPORT, 0, "report.html", ("report.html",)),
    Case("parts-of-others", file_writer("new/.mine.part", b"mine"), GENERATE, 0, "2 generated", ("new/*",)),
    Case("files-of-others", file_writer("new/images/mine.txt", b"mine"), GENERATE, 0, "2 generated", ("new/*",)),
]  # fmt: skip


@table(*REFUSALS)
def test_a_refusal_of_the_disk_is_one_line_and_leaves_nothing_half(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*PLACES_CASES)
def test_what_is_not_of_our_making_is_not_written_over(case: Case, room: Room) -> None:
    run_case(case, room)


@table(*MEANWHILE)
def test_what_others_do_meanwhile_is_one_line_or_no_matter(case: Case, room: Room) -> None:
    run_case(case, room)


def test_reports_and_the_files_of_a_gate_are_written_again(room: Room) -> None:
    for _ in range(2):
        run_case(Case("report", None, REPORT, 0, "report.html", ("report.html",)), room)
        run_case(Case("gate", None, GATE, 4, "not comparable", ("gate.xml", "summary.md")), room)
    assert (room.folder / "summary.md").read_text().count("## harope-bench gate") == 2


def test_a_run_that_was_refused_is_finished_when_the_disk_has_room(room: Room) -> None:
    with room.patch.context() as patch:
        build = refusing("replace", errno.ENOSPC, after=2)
        run_case(
            Case(
                "full", lambda _: build(Room(room.folder, patch)), GENERATE, 1, FULL_TEXT, ("new*",)
            ),
            room,
        )
    run_case(Case("room", None, GENERATE, 0, "new", ("new*",)), room)
    assert RunFolder(room.folder / "new").missing_indices(IndexRanges.from_count(2)) == []
    assert not list((room.folder / "new").rglob("*.part"))
