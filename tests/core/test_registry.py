"""Registry: file stems are names, listing imports nothing, and a name belongs to one place."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from harope_bench.core import registry
from harope_bench.core.errors import (
    BenchError,
    MissingMemberError,
    NameClashError,
    PluginError,
    UnknownNameError,
)
from harope_bench.encodings.base import Encoding
from harope_bench.encodings.rope_axial import RopeAxial


def install_plugins(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Pretends that packages are installed whose entry points are `name="module:attribute"` of kind
    encodings.
    """

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        return (
            [metadata.EntryPoint(name, value, group) for name, value in points.items()]
            if group == "harope_bench.encodings"
            else []
        )

    monkeypatch.setattr(metadata, "entry_points", entry_points)


# ------------------------------------------------------------------------------------------ listing


def test_listing_every_kind_imports_no_torch_and_none_of_the_things() -> None:
    script = (
        "import json, sys\nfrom harope_bench.core import registry\n"
        "names = {kind: registry.list_names(kind) for kind in registry.PLUGIN_KINDS}\n"
        "print(json.dumps([names, sorted(sys.modules)]))"
    )
    names, modules = json.loads(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, check=True, text=True
        ).stdout
    )
    assert {"ape", "harope"} <= set(names["encodings"])
    rooms = {kind.folder.replace("/", ".") for kind in registry.PLUGIN_KINDS.values()}
    assert not [
        m
        for m in modules
        if m in ("torch", "numpy") or any(m.startswith(f"harope_bench.{room}") for room in rooms)
    ]


@pytest.mark.parametrize("kind", sorted(registry.PLUGIN_KINDS))
def test_names_of_a_kind_are_the_stems_of_its_files(kind: str) -> None:
    room = registry.PLUGIN_KINDS[kind]
    files = [
        p
        for p in (registry.PACKAGE / room.folder).rglob(f"*{room.suffix}")
        if p.stem not in ("flags", "__init__")
    ]
    if room.suffix == ".py":
        modules = [
            ".".join(p.relative_to(registry.PACKAGE.parent).with_suffix("").parts)
            for p in files
            if "runners" not in p.parts
        ]
        stems = {
            module.rpartition(".")[2]
            for module in modules
            if hasattr(importlib.import_module(module), "PLUGIN")
        }
    else:
        stems = {p.stem for p in files}
    assert set(registry.list_names(kind)) == {stem.replace("_", "-") for stem in stems}


@pytest.mark.parametrize("kind", sorted(registry.PLUGIN_KINDS))
def test_every_listed_thing_loads(kind: str) -> None:
    for name in registry.list_names(kind):
        assert registry.load_by_name(kind, name) is not None
        entry = registry.find_entry(kind, name)
        assert entry.name == name
        assert entry.origin.startswith("harope_bench/")


def test_listing_an_unknown_kind_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="no kind named 'encoding'; did you mean encodings"):
        registry.list_names("encoding")


@pytest.mark.parametrize(
    ("unknown_name", "message"),
    [
        ("harope2", "did you mean harope"),
        ("rope_axial", "did you mean rope-axial"),
        ("zzz", "known: ape, harope, head-freq, rope-axial"),
        ("", "known: ape"),
        ("Harope", "did you mean harope"),
    ],
)
def test_an_unknown_name_offers_the_nearest_or_all(unknown_name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no encoding named {unknown_name!r}; {message}"):
        registry.find_entry("encodings", unknown_name)


@pytest.mark.parametrize(
    "name",
    ["../errors", "encodings/ape", "/etc/passwd", "ape.py", "..", "ape\x00", "__init__", "base"],
)
@pytest.mark.parametrize("kind", ["encodings", "checkpoints", "tables", "recipes"])
def test_a_name_never_chooses_a_path(kind: str, name: str) -> None:
    with pytest.raises(UnknownNameError):
        registry.load_by_name(kind, name)


# -------------------------------------------------------------------------------------------- order


def test_names_are_in_natural_order(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ["table1", "table2", "table9", "table10", "table11"]
    assert sorted(random.Random(0).sample(expected, 5), key=registry.natural_sort_key) == expected
    install_plugins(monkeypatch, **dict.fromkeys(random.Random(1).sample(expected, 5), "x:y"))
    listed_names = registry.list_names("encodings")
    assert [name for name in listed_names if name.startswith("table")] == expected
    assert listed_names == sorted(listed_names, key=registry.natural_sort_key)
    tables = registry.list_names("tables")
    assert tables.index("table2") < tables.index("table10")


@pytest.mark.parametrize("name", ["", "7", "a1b22", "v2.10", "ünï", "a-b_c.d"])
def test_any_name_has_a_place_in_the_order(name: str) -> None:
    assert sorted([name, "table2", "9"], key=registry.natural_sort_key)


# ------------------------------------------------------------------------------------- entry points


def test_another_package_adds_a_thing_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugins(
        monkeypatch,
        mine="harope_bench.encodings.rope_axial:RopeAxial",
        plain="harope_bench.encodings.rope_axial",
    )
    assert {"mine", "plain", "ape"} <= set(registry.list_names("encodings"))
    assert registry.load_by_name("encodings", "mine") is RopeAxial
    assert (
        registry.load_by_name("encodings", "plain") is RopeAxial
    )  # without an attribute it is the module's PLUGIN
    assert (
        "harope_bench.encodings.rope_axial:RopeAxial"
        in registry.find_entry("encodings", "mine").origin
    )
    assert "mine" not in registry.list_names("backbones")


def test_listing_a_broken_plug_in_works_and_loading_it_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_plugins(monkeypatch, gone="no_such_package.thing:PLUGIN", hollow="json:PLUGIN")
    assert {"gone", "hollow"} <= set(registry.list_names("encodings"))
    with pytest.raises(
        BenchError,
        match=(
            r"encoding 'gone' of .*no_such_package.* does not load: No module named"
            r" 'no_such_package'"
        ),
    ):
        registry.load_by_name("encodings", "gone")
    with pytest.raises(
        BenchError,
        match=r"encoding 'hollow' of .* does not load: module 'json' has no attribute 'PLUGIN'",
    ):
        registry.load_by_name("encodings", "hollow")


def test_a_name_claimed_by_two_packages_or_by_one_and_this_names_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_plugins(monkeypatch, ape="other.package:Ape")
    with pytest.raises(
        NameClashError,
        match=(
            r"encoding 'ape' is claimed by harope_bench/encodings/ape\.py and by"
            r" .*other\.package:Ape"
        ),
    ):
        registry.list_names("encodings")


def test_a_users_checkpoint_with_a_shipped_name_names_both(
    bench_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    for folder in (tmp_path / "models/checkpoints", bench_home / "checkpoints"):
        folder.mkdir(parents=True)
        (folder / "digits-ape.toml").write_text("name = 'digits-ape'")
    with pytest.raises(NameClashError) as excinfo:
        registry.list_names("checkpoints")
    assert "harope_bench/models/checkpoints/digits-ape.toml" in str(excinfo.value)
    assert str(bench_home / "checkpoints" / "digits-ape.toml") in str(excinfo.value)


@pytest.mark.parametrize(
    ("value", "actual_text"),
    [
        ("json:JSONDecoder", "the class JSONDecoder"),
        ("json:loads", "of type function"),
        ("harope_bench.core.registry:PACKAGE", "of type PosixPath"),
        ("harope_bench.core.registry:PLUGIN_KINDS", "of type dict"),
    ],
)
def test_a_plug_in_of_another_base_is_named_with_the_base_it_needs(
    monkeypatch: pytest.MonkeyPatch, value: str, actual_text: str
) -> None:
    install_plugins(monkeypatch, stranger=value)
    message = (
        "PLUGIN of encoding 'stranger' must be a class derived from"
        f" harope_bench.encodings.base.Encoding, it is {actual_text}"
    )
    with pytest.raises(PluginError, match=f"^{message}$"):
        registry.load_plugin_class("encodings", "stranger", Encoding)
    with pytest.raises(
        PluginError,
        match=(
            r"must be an instance of a class derived from harope_bench\.encodings\.base\.Encoding"
        ),
    ):
        registry.load_plugin("encodings", "stranger", Encoding)


def test_a_class_is_no_instance_and_an_instance_no_class() -> None:
    assert registry.load_plugin_class("encodings", "rope-axial", Encoding) is RopeAxial
    with pytest.raises(PluginError, match="it is the class RopeAxial"):
        registry.load_plugin("encodings", "rope-axial", Encoding)


def test_what_a_plug_in_does_not_define_is_named_with_its_class() -> None:
    assert (
        str(MissingMemberError(registry.PLUGIN_KINDS["suites"], "requests"))
        == "harope_bench.core.registry.PluginKind does not define `requests`, which every plug-in"
        " of its kind must"
    )


# -------------------------------------------------------------------------------------------- cache


def test_entry_points_are_looked_for_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[str] = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        scans.append(group)
        return []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    for _ in range(3):
        registry.load_by_name("encodings", "ape")
        registry.list_names("suites")
    assert sorted(scans) == ["harope_bench.encodings", "harope_bench.suites"]
    registry.clear_cache()
    registry.list_names("suites")
    assert len(scans) == 3


def test_a_file_that_appears_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        registry,
        "PLUGIN_KINDS",
        {
            "recipes": registry.PluginKind(str(tmp_path), ".toml"),
            "suites": registry.PluginKind(str(tmp_path), ".py"),
        },
    )
    assert (registry.list_names("recipes"), registry.list_names("suites")) == ([], [])
    (tmp_path / "late.toml").write_text("")
    (tmp_path / "late_one.py").write_text("x = 1\nPLUGIN = x\n")
    (tmp_path / "shared.py").write_text("x = 1\n")
    assert (registry.list_names("recipes"), registry.list_names("suites")) == (
        ["late"],
        ["late-one"],
    )


def test_a_package_that_appears_on_the_path_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one that a test or a notebook adds to sys.path."""
    assert "late" not in registry.list_names("encodings")
    (tmp_path / "late-1.dist-info").mkdir()
    (tmp_path / "late-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: late\nVersion: 1\n"
    )
    (tmp_path / "late-1.dist-info" / "entry_points.txt").write_text(
        "[harope_bench.encodings]\nlate = late_package\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "late (late_package)" in registry.find_entry("encodings", "late").origin
    monkeypatch.undo()
    assert "late" not in registry.list_names("encodings")


# -------------------------------------------------------------------------------------- user's home


def test_a_users_checkpoints_are_listed_from_home(make_checkpoint: Any, bench_home: Path) -> None:
    before = registry.list_names("checkpoints")
    make_checkpoint("mine10")
    make_checkpoint("mine9")
    assert [n for n in registry.list_names("checkpoints") if n not in before] == ["mine9", "mine10"]
    assert (
        registry.find_entry("checkpoints", "mine9").path
        == bench_home / "checkpoints" / "mine9.toml"
    )
    assert registry.load_by_name("checkpoints", "mine9")["encoding"] == "rope-axial"


@pytest.mark.parametrize("content", [b"name = ", b"a = \x80", b"a = 1\na = 2\n"])
def test_a_toml_that_is_none_is_named(bench_home: Path, content: bytes) -> None:
    (bench_home / "checkpoints").mkdir()
    (bench_home / "checkpoints" / "broken.toml").write_bytes(content)
    assert "broken" in registry.list_names("checkpoints")  # listing reads names only
    with pytest.raises(BenchError, match=r"broken\.toml is not readable TOML"):
        registry.load_by_name("checkpoints", "broken")
