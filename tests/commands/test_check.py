"""The command check: what it prints and its exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from plugin_package import install_plugins

from harope_bench.cli import main

SOURCE = '''
from dataclasses import replace

from harope_bench.encodings.rope_axial import RopeAxial


class Careless(RopeAxial):
    """Declares what it is not."""

    properties = replace(RopeAxial.properties, relative=False)
    source = " "


GOOD = RopeAxial
'''


def check(*words: str) -> tuple[int, list[str]]:
    """Exit code and lines of the command."""
    process = CliRunner().invoke(main, ["check", *words])
    return process.exit_code, process.output.strip().splitlines()


def test_a_contract_that_holds_is_one_line() -> None:
    code, lines = check("table", "table2")
    assert code == 0
    assert len(lines) == 1
    assert re.fullmatch(r"table table2: contract holds \(4 checks, \d+\.\d s\)", lines[0])
    assert check("tables", "table2")[0] == 0


def test_violations_are_a_list_and_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_plugins(
        monkeypatch, tmp_path, SOURCE, {"encodings": {"careless": "Careless", "good": "GOOD"}}
    )
    code, lines = check("encoding", "careless")
    assert code == 3
    assert lines[0] == "encoding careless: contract violated"
    assert all(line.startswith("  - ") for line in lines[1:])
    assert any("declares no `source`" in line for line in lines)
    code, lines = check("encoding", "good")
    assert (code, lines[0][:31]) == (0, "encoding good: contract holds (")


def test_what_is_missing_is_named_and_exit_code_4() -> None:
    code, (line,) = check("judge", "inception-2015")
    assert code == 4
    assert line.startswith("cannot tell: judge inception-2015: 1 of 5 checks hold,")
    assert "harope-bench fetch inception-2015" in line
    code, (line,) = check("judge", "detector")
    assert code == 4
    assert "runs a model that you provide" in line
    code, (line,) = check("backbone", "flux")
    assert code == 4
    assert "example_config" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("encodng", "ape"), "no kind named 'encodng'; did you mean encoding"),
        (("encoding", "hrope"), "no encoding named 'hrope'; did you mean harope"),
        (("recipe", "digits-dti"), "no recipe named 'digits-dti'; did you mean digits-dit"),
        (("judge", "digits-net:folder"), "has its own weights and takes no model"),
        (("table", "table77"), "no table named 'table77'"),
    ],
)
def test_an_unknown_kind_or_name_is_one_line_and_exit_code_1(
    words: tuple[str, ...], expected: str
) -> None:
    code, lines = check(*words)
    assert code == 1
    assert len(lines) == 1
    assert expected in lines[0]
