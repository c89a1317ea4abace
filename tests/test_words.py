"""The script that CI runs over names and sentences: what counts, and what does not."""

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci/words"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the script is not in a source package")


@pytest.fixture(scope="module")
def words() -> ModuleType:
    loader = SourceFileLoader("words", str(SCRIPT))
    spec = spec_from_loader("words", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["words"] = module
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    ["found", "told2", "found_x", "_wanted", "others", "whole", "loaded", "given_here", "HELD"],
)
def test_a_bare_participle_pronoun_or_adjective_counts(words: ModuleType, name: str) -> None:
    assert words.is_bare(name)


@pytest.mark.parametrize(
    "name", ["found_objects", "cached", "token", "is_loaded", "seed", "missing_indices", "low", "x"]
)
def test_a_name_that_says_what_it_holds_does_not_count(words: ModuleType, name: str) -> None:
    assert not words.is_bare(name)


def run_script(folder: Path, source: str) -> tuple[int, str]:
    (folder / "module.py").write_text(source)
    command = [sys.executable, str(SCRIPT), "--list", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True)
    return process.returncode, process.stdout


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def told():\n    pass\n", "function told"),
        ("class Wanted:\n    pass\n", "class wanted"),
        ("def f(image):\n    found = image\n    return found\n", "variable found"),
        ("a, b = 1, 2\n", "a, b = (1, 2)"),
        ('"""Work goes on from where it stopped."""\n', "goes on from"),
    ],
)
def test_each_kind_of_fault_fails_the_script(tmp_path: Path, source: str, text: str) -> None:
    code, output = run_script(tmp_path, source)
    assert code == 1
    assert text in output


def test_a_class_name_of_two_modules_fails_the_script(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("class Line:\n    pass\n")
    code, output = run_script(tmp_path, "class Line:\n    pass\n")
    assert (code, "class twice: Line" in output) == (1, True)


def test_clean_code_passes_the_script(tmp_path: Path) -> None:
    source = "def load_image(path):\n    pixels = path\n    return pixels\n"
    assert run_script(tmp_path, source)[0] == 0


def test_a_phrase_in_a_toml_value_counts_unless_an_exception_names_it(
    words: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "table.toml"
    path.write_text('title = "a picture"\n[config]\nwords = ["picture"]\n')
    assert [line.split(": ", 1)[1] for line in words.toml_phrases(path)] == [
        "title: 'picture': image"
    ]


def test_names_of_tests_and_benchmarks_are_read_too(
    words: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "TEST_FOLDERS", (tmp_path,))
    (tmp_path / "test_a.py").write_text("def test_found(value):\n    return value\n")
    assert words.check_test_names() == (True, [])
    (tmp_path / "test_b.py").write_text("def drawn():\n    return 1\n")
    passes, lines = words.check_test_names()
    assert (passes, len(lines)) == (False, 1)
