"""`harope-bench new` writes a package or adds to one, and overwrites nothing."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.errors import BenchError, NameClashError, OptionError, StorageError
from harope_bench.testing.new_plugin import EXAMPLES, STARTERS, class_name, create_plugin


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def entry_points(folder: Path) -> dict[str, dict[str, str]]:
    fields: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
    return fields["project"]["entry-points"]


# ------------------------------------------------------------------------------------ the examples


@pytest.mark.parametrize("kind", STARTERS)
def test_the_example_of_a_kind_is_a_module_with_that_plug_in(kind: str) -> None:
    starter = STARTERS[kind]
    source = (EXAMPLES / f"{starter.example.replace('-', '_')}.py").read_text()
    assert source.splitlines()[0].count(starter.example) == 1
    assert "\nPLUGIN = " in source
    assert registry.PLUGIN_KINDS[starter.registry_kind].group == (
        f"harope_bench.{starter.registry_kind}"
    )


def test_every_kind_that_packages_can_add_has_an_example() -> None:
    kinds = {name for name, kind in registry.PLUGIN_KINDS.items() if kind.group}
    assert {starter.registry_kind for starter in STARTERS.values()} == kinds


# ------------------------------------------------------------------------------------- new packages


@pytest.mark.parametrize("kind", STARTERS)
def test_a_plug_in_has_the_users_name_and_nothing_of_the_examples(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "their-things"
    plugin = create_plugin(kind, "turned-2d", folder)
    module = folder / "src/their_things/turned_2d.py"
    assert (
        {str(path.relative_to(folder)) for path in plugin.paths}
        == set(tree(folder))
        == {
            "README.md",
            "pyproject.toml",
            "src/their_things/__init__.py",
            "src/their_things/turned_2d.py",
            "tests/test_turned_2d.py",
        }
    )
    example = STARTERS[kind].example
    for text in (module.read_text(), (folder / "README.md").read_text()):
        for name in (example, example.replace("-", "_"), class_name(example)):
            assert name not in text
    ast.parse(module.read_text())
    ast.parse((folder / "tests/test_turned_2d.py").read_text())
    assert entry_points(folder) == {
        f"harope_bench.{STARTERS[kind].registry_kind}": {"turned-2d": "their_things.turned_2d"}
    }


def test_the_module_by_the_name_of_the_example_is_the_example(tmp_path: Path) -> None:
    create_plugin("encoding", "my-encoding", tmp_path / "p")
    written = (tmp_path / "p/src/p/my_encoding.py").read_bytes()
    assert written == (EXAMPLES / "my_encoding.py").read_bytes()


def test_the_command_prints_files_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = CliRunner().invoke(main, ["new", "encoding", "my-pe"])
    assert process.exit_code == 0
    assert "my-pe-plugin/src/my_pe_plugin/my_pe.py" in process.stdout.splitlines()
    assert [line.strip() for line in process.stderr.splitlines()][:3] == [
        "next:",
        "pip install -e my-pe-plugin",
        "harope-bench check encoding my-pe",
    ]


def test_an_unknown_kind_is_rejected_and_the_help_page_lists_all() -> None:
    process = CliRunner().invoke(main, ["new", "encodin", "my-pe"])
    assert process.exit_code == 1
    assert "no kind named 'encodin'; did you mean encoding?" in process.stderr
    page = CliRunner().invoke(main, ["new", "--help"]).output
    listed_names = re.split(
        r",| or ", " ".join(page.partition("KIND is ")[2].partition(".")[0].split())
    )
    assert [kind.strip() for kind in listed_names] == list(STARTERS)


# ------------------------------------------------------------------------------------ a second one


def test_a_second_plug_in_changes_one_line_of_the_package(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    create_plugin("suite", "odd", folder)
    first = tree(folder)
    create_plugin("prompt-suite", "six", folder)
    create_plugin("evaluator", "far", folder)
    second = tree(folder)
    assert set(second) - set(first) == {
        "src/mine/six.py",
        "tests/test_six.py",
        "src/mine/far.py",
        "tests/test_far.py",
    }
    assert {name for name in first if first[name] != second[name]} == {"pyproject.toml"}
    removed = set(first["pyproject.toml"].splitlines()) - set(second["pyproject.toml"].splitlines())
    assert not removed
    assert entry_points(folder) == {
        "harope_bench.suites": {"odd": "mine.odd", "six": "mine.six"},
        "harope_bench.evaluators": {"far": "mine.far"},
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n# the end\n"])
def test_the_rest_of_pyproject_stays_to_the_byte(tmp_path: Path, newline: str, end: str) -> None:
    folder = tmp_path / "mine"
    create_plugin("suite", "odd", folder)
    path = folder / "pyproject.toml"
    text = f"# ours\n[tool.theirs]\nx = [ 1,2 ]   # kept\n\n{path.read_text().rstrip()}{end}"
    path.write_bytes(text.replace("\n", newline).encode())
    before = path.read_bytes()
    create_plugin("encoding", "turned", folder)
    after = path.read_bytes()
    assert after.startswith(before)
    assert after[len(before) :].decode().split() == [
        '[project.entry-points."harope_bench.encodings"]',
        "turned",
        "=",
        '"mine.turned"',
    ]
    assert b"\n" not in after.replace(newline.encode(), b"")


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../up",
        "a/b",
        "A",
        "my_pe",
        "2d",
        "-a",
        "a-",
        "a--b",
        "a.b",
        "a b",
        "class",
        "a" * 61,
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "a\n",
    ],
)
def test_a_name_that_is_no_module_is_rejected(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match="is no name of a plug-in, wanted at most 60"
    ) as error_info:
        create_plugin("encoding", name, tmp_path / "p")
    assert "\n" not in str(error_info.value)
    assert not list(tmp_path.iterdir())


def refuse(error: type[BenchError], match: str, folder: Path, name: str = "turned") -> None:
    before = tree(folder.parent)
    with pytest.raises(error, match=match):
        create_plugin("encoding", name, folder)
    assert tree(folder.parent) == before


def test_a_registered_name_is_rejected_with_its_origin(tmp_path: Path) -> None:
    refuse(
        NameClashError, r"encoding 'ape' is registered by harope_bench/enc", tmp_path / "p", "ape"
    )


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    create_plugin("suite", "odd", folder)
    for file in ("src/mine/turned.py", "tests/test_turned.py"):
        (folder / file).write_text("theirs")
        refuse(StorageError, rf"{file} exists; choose another name", folder)
        (folder / file).unlink()
    (folder / "src/mine/turned.py").symlink_to(tmp_path / "nowhere")
    refuse(StorageError, r"turned.py exists", folder)


def test_an_entry_point_is_not_written_twice(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    create_plugin("encoding", "turned", folder)
    (folder / "src/mine/turned.py").unlink()
    refuse(NameClashError, "has an entry point turned in harope_bench.encodings", folder)


def test_a_folder_that_is_no_package_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    refuse(OptionError, r"photos exists and has no pyproject.toml", folder)
    refuse(OptionError, r"'1 2' is no name of a package", tmp_path / "1 2")
    refuse(NameClashError, r"a package numpy is installed", tmp_path / "numpy")


def test_a_package_of_another_form_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "pyproject.toml"
    path.write_text("[project]\nname = 'theirs'\n")
    refuse(OptionError, r"has 0 packages below src, wanted one", folder)
    for name in ("a", "b"):
        (folder / "src" / name).mkdir(parents=True)
        (folder / "src" / name / "__init__.py").write_text("")
    refuse(OptionError, r"has 2 packages below src, wanted one", folder)
    (folder / "src/b/__init__.py").unlink()
    path.write_text("[project]\nentry-points = { 'harope_bench.encodings' = { x = 'a.x' } }\n")
    refuse(OptionError, r"in another form; add turned = \"a.turned\" to harope_bench.enc", folder)
    path.write_text("[project\n")
    refuse(StorageError, r"pyproject.toml is not readable TOML: .*; correct it", folder)
    path.write_bytes(b"\xff")
    refuse(StorageError, r"pyproject.toml is not UTF-8", folder)


def test_class_names() -> None:
    assert class_name("my-2d-encoding") == "My2dEncoding"
