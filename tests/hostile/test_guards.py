"""Each guard of the package is needed: with it taken out, a hostile case goes wrong.

A guard is one check. A row says how it is taken out and the cases that hold it; they pass with the
guard (their own tests) and at least
one must fail without it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import torch
from hostile import (
    test_disk,
    test_environment,
    test_flags,
    test_images,
    test_names,
    test_npz,
    test_text,
    test_weights,
)
from hostile.room import Case, Room, run_case

import harope_bench
from harope_bench.cli import ErrorReportingGroup
from harope_bench.commands.option_types import FiniteFloat
from harope_bench.core import (
    array_archive,
    array_file,
    checksums,
    escaping,
    json_file,
    regular_file,
    state_dicts,
    storage,
    text_file,
    toml_file,
)
from harope_bench.core.conditioning import check_checkpoint_suite, check_requests
from harope_bench.core.limits import check_maximum
from harope_bench.data import image_io, run_folder, sample_set
from harope_bench.judges import base as judges_base
from harope_bench.metrics.moment_checks import moments_complaint
from harope_bench.metrics.row_checks import first_bad_row
from harope_bench.reports.tables import template_environment
from harope_bench.statistics.gate import render

MODULES = (
    test_disk,
    test_environment,
    test_flags,
    test_images,
    test_names,
    test_npz,
    test_text,
    test_weights,
)
Remove = Callable[[pytest.MonkeyPatch], Any]


class Guard(NamedTuple):
    """A check of the package. remove: takes it out. cases: `module/id` of cases of which at least
    one turns red.
    """

    name: str
    remove: Remove
    cases: tuple[str, ...]


def cases() -> dict[str, Case]:
    """Every row of every table, by the name of its module and its id."""
    fields: dict[str, Case] = {}
    for module in MODULES:
        for test in vars(module).values():
            for mark in getattr(test, "pytestmark", ()) if callable(test) else ():
                if mark.name == "parametrize" and mark.args[0] == "case":
                    fields |= {
                        f"{module.__name__.rpartition('.')[2].removeprefix('test_')}/{case.id}": case
                        for case in mark.args[1]
                    }
    return fields


@pytest.fixture(scope="module", autouse=True)
def _every_module() -> None:
    """Import the whole package first: a module that is imported while a guard is out would keep
    what stands in its place.
    """
    for module in pkgutil.walk_packages(harope_bench.__path__, f"{harope_bench.__name__}."):
        if ".runners." not in module.name:
            importlib.import_module(module.name)


def everywhere(function: Any, second: Any) -> Remove:
    """Put another function in place of one, in every module of the package that has it under any
    name.
    """

    def remove(patch: pytest.MonkeyPatch) -> None:
        result_count = 0
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == harope_bench.__name__:
                for attribute, value in list(vars(module).items()):
                    if value is function:
                        patch.setattr(module, attribute, second)
                        result_count += 1
        assert result_count, f"nobody has {function}"

    return remove


def attribute(owner: Any, name: str, value: Any) -> Remove:
    return lambda patch: patch.setattr(owner, name, value)


def remove_several(*removes: Remove) -> Remove:
    def remove(patch: pytest.MonkeyPatch) -> None:
        for remove_result in removes:
            remove_result(patch)

    return remove


def check_nothing(*_: Any, **__: Any) -> None:
    """Check nothing."""


def opened_as_it_is(path: Any, flags: int) -> int:
    import os

    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def any_header(archive: Any, name: str, size: int) -> Any:
    with archive.open(archive.getinfo(name)) as member:
        return array_file.read_header(member)


def header_of_objects(member: Any) -> Any:
    np.lib.format.read_magic(member)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    return array_file.ArrayHeader(shape, dtype, fortran)


def unescaped_templates() -> Any:
    """The templates, made anew: those that are kept must not learn of it."""
    wrapped_result = template_environment.__wrapped__()
    wrapped_result.autoescape = False
    return wrapped_result


REAL_LOAD = np.load


def load_pickles(file: Any, **options: Any) -> Any:
    return REAL_LOAD(file, **{**options, "allow_pickle": True})


GUARDS = (
    Guard("only regular files are opened", attribute(regular_file, "_open_handle", opened_as_it_is), ("images/place-pipe", "images/place-device")),
    Guard("a TOML file has a largest size", attribute(toml_file, "TOML_BYTES", 1 << 30), ("text/policy-large",)),
    Guard("image formats are on a list", attribute(image_io, "IMAGE_FORMATS", (*image_io.IMAGE_FORMATS, "GIF", "TIFF")), ("images/gif", "images/tiff")),
    Guard("an image has a largest number of pixels", attribute(image_io, "MAX_PIXELS", 2**62), ("images/too-wide",)),
    Guard("an image has one frame", lambda patch: patch.setattr(image_io, "getattr", lambda *_: 1, raising=False), ("images/animated-png",)),
    Guard("16 bits are not cut to 8", attribute(image_io, "_is_16_bit_png", lambda data: False), ("images/sixteen-bits",)),
    Guard("arrays of objects are refused", remove_several(everywhere(array_file.read_member_header, any_header), attribute(array_file, "read_header", header_of_objects), attribute(np, "load", load_pickles)),
          ("npz/judge-a-pickle",)),
    Guard("an npz holds what its headers claim", everywhere(array_file.read_member_header, any_header), ("npz/less-than-there-is", "npz/far-more")),
    Guard("an npz does not unpack to more than its bound", attribute(array_file, "check_unpacked_size", check_nothing), ("npz/reference-bomb",)),
    Guard("an array stands once in an npz", everywhere(array_archive.repeated_member, check_nothing), ("npz/twice",)),
    Guard("torch files are unpickled as tensors alone",
          attribute(state_dicts, "_load_torch_file", lambda path: torch.load(path, map_location="cpu", weights_only=False)), ("weights/zip-pt",)),
    Guard("weights have the network's keys and shapes", attribute(state_dicts, "check_state_dict", check_nothing), ("weights/key-missing", "weights/integers")),
    Guard("weights have the recorded hash", everywhere(state_dicts.check_sha256, check_nothing), ("weights/registered-flip", "weights/export-flip")),
    Guard("text that steers a terminal is blanked", attribute(escaping, "_replace_unprintable", lambda text, allowed_characters="": text), ("weights/key-that-steers",)),
    Guard("no csv cell is a formula", attribute(escaping, "csv_cell", lambda value: value), ("names/csv-formula", "names/csv-at")),
    Guard("pages escape texts", everywhere(template_environment, unescaped_templates), ("names/report-script", "names/site-script")),
    Guard("a record names a file of its folder", everywhere(sample_set.path_inside, lambda folder, name, index: folder / name),
          ("text/line-file-through-link", "text/line-file-outside")),
    Guard("a report is written over reports alone", everywhere(storage.check_overwrite, check_nothing), ("disk/report-onto-text",)),
    Guard("the gate looks at its files before it writes", everywhere(render.check_outputs, check_nothing), ("disk/junit-onto-text",)),
    Guard("links and pipes are not written over", everywhere(regular_file.check_regular_or_missing, check_nothing), ("disk/report-onto-dangling",)),
    Guard("numbers of options have bounds", everywhere(check_maximum, check_nothing), ("flags/reference-images-huge",)),
    Guard("numbers of options are finite", attribute(FiniteFloat, "convert", click.FloatRange.convert), ("flags/guidance-nan",)),
    Guard("words are UTF-8", attribute(ErrorReportingGroup, "parse_args", click.Group.parse_args), ("names/generate-half-character",)),
    Guard("JSON is parsed by one door", everywhere(json_file.parse_json, json_file.json.loads), ("text/baseline-nested", "text/line-nested")),
    Guard("a reference is a mean and a covariance", everywhere(moments_complaint, check_nothing), ("npz/covariance-asymmetric", "npz/covariance-negative", "npz/covariance-huge", "npz/mean-complex")),
    Guard("features are finite", everywhere(first_bad_row, check_nothing), ("npz/features-not-finite",)),
    Guard("a judge of features is no annotator", everywhere(judges_base.load_feature_extractor, judges_base.load_judge), ("flags/judge-that-annotates",)),
    Guard("a suite asks for what a network takes", remove_several(everywhere(check_checkpoint_suite, check_nothing), everywhere(check_requests, check_nothing)),
          ("flags/suite-of-prompts",)),
    Guard("text is read as its byte order mark says", everywhere(text_file.detect_charset, lambda start: "utf-8"), ("text/log-marked", "text/log-utf-16")),
    Guard("a refusal of the disk says what to do", everywhere(storage.convert_os_errors, lambda path, keeps_file_not_found=False: nullcontext()),
          ("disk/read-only-report",)),
    Guard("a file that is read back is the recorded one", everywhere(checksums.check_recorded_hash, check_nothing), ("text/result-in-report",)),
    Guard("a run folder is of one plan", attribute(run_folder.RunFolder, "tie_to_plan", check_nothing), ("disk/another-plan",)),
)  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name.replace(" ", "-") for guard in GUARDS])
def test_without_its_guard_a_case_goes_wrong(guard: Guard, room: Room) -> None:
    table = cases()
    guard.remove(room.patch)
    for name in guard.cases:
        try:
            run_case(table[name], room)
        except (AssertionError, pytest.fail.Exception):
            return
    raise pytest.fail.Exception(
        f"without the guard {guard.name!r} all of {', '.join(guard.cases)} still pass"
    )


def test_the_tables_hold_as_many_cases_as_the_page_of_security_says() -> None:
    counts: dict[str, int] = {}
    for name in cases():
        theme = name.partition("/")[0]
        counts[theme] = counts.get(theme, 0) + 1
    print(
        ", ".join(f"{theme} {number}" for theme, number in counts.items()),
        f"= {sum(counts.values())} cases, {len(GUARDS)} guards",
    )
    assert sum(counts.values()) >= 250 and len(GUARDS) >= 20
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    assert f"| hostile cases from tables | {sum(counts.values())} |" in page
    assert f"each with a case that then fails | {len(GUARDS)} |" in page
