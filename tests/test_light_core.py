"""The core runs without its extras: every package that it lacks is blocked in these processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from core_commands import COMMANDS, write_inputs

import harope_bench
from harope_bench.core.errors import MissingExtraError
from harope_bench.core.extras import (
    EXTRAS,
    extra_of_module,
    install_command,
    is_installed,
    missing_extra_error,
    require_packages,
)

ROOT = Path(harope_bench.__file__).parents[1]
# Packages that only extras install, and modules that one operating system alone has.
BLOCKED_PACKAGES = sorted(
    {module for modules in EXTRAS.values() for module in modules} | {"accelerate"}
)
ONE_SYSTEM = ("resource", "termios", "pwd", "grp", "tty", "pty", "syslog", "winreg", "msvcrt")
# Runs each command in one process, where the import of a blocked package fails as if it were not
# installed, and prints the exit codes.
RUNNER = """
import json
import sys

BLOCKED_PACKAGES = set(json.loads(sys.argv[1]))


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED_PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
from harope_bench.cli import main

codes = []
for arguments in json.loads(sys.argv[2]):
    print("==", *arguments, flush=True)
    try:
        main(arguments)
    except SystemExit as exit:
        sys.stdout.flush()
        codes.append(exit.code or 0)
print("codes", json.dumps(codes))
print("loaded", json.dumps(sorted(BLOCKED_PACKAGES & {name.split(".")[0] for name in sys.modules})))
"""


def run_blocked(
    folder: Path, commands: list[tuple[str, ...]], variables: dict[str, str] | None = None
) -> tuple[list[int], str]:
    """Run commands in a process without extras; return their exit codes and all they printed."""
    process = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            RUNNER,
            json.dumps(BLOCKED_PACKAGES),
            json.dumps(commands),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:]
    *_, codes_line, loaded_line = process.stdout.strip().splitlines()
    assert loaded_line == "loaded []"
    return json.loads(codes_line.removeprefix("codes ")), process.stdout


def test_the_core_runs_its_commands(tmp_path: Path) -> None:
    variables = write_inputs(tmp_path)
    codes, output = run_blocked(tmp_path, [arguments for arguments, _ in COMMANDS], variables)
    assert codes == [code for _, code in COMMANDS], output[-3000:]
    for extra_name in EXTRAS:  # of the doctor
        assert f"-> {install_command(extra_name)}" in output

    # the report names the extra that draws its charts once
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("charts of this report are not drawn") == 1
    assert page.count("harope-bench[figures]") == 1


# By command, the extras that it names before it starts.
REJECTED_COMMANDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("generate", "digits-harope", "--count", "2", "--out", "out"), "torch"),
    (("eval", "digits-harope", "--suite", "digits", "--count", "9", "--out", "out"), "torch"),
    (("eval", "digits-deit-ape", "--count", "9", "--out", "out"), "torch"),
    (("eval", "digits-harope", "--with", "cost", "--out", "out"), "torch"),
    (("eval", "images", "--suite", "digits", "--out", "out"), "torch"),
    (("reproduce", "table2", "--scale", "micro", "--count", "9", "--out", "out"), "torch"),
    (("train", "digits-dit", "--encoding", "harope", "--out", "out"), "torch"),
    (("register", "mine", "--weights", "mine.safetensors"), "torch"),
    (("export", "digits-harope", "out"), "torch"),
    (("reference", "images", "out.npz", "--judge", "digits-net"), "torch"),
    (("plan", "digits-harope", "--difference", "3"), "torch"),
    (("figure", "matrices", "digits-harope", "--out", "out.svg"), "torch,figures"),
    (("figure", "attention-distance", "digits-harope", "--out", "out.svg"), "torch,figures"),
    (("figure", "loss", "log.csv", "--out", "out.svg"), "figures"),
    (("figure", "sweep", "images", "--metric", "fid", "--out", "out.svg"), "figures"),
)


def test_a_command_names_its_extra_before_it_writes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(9):
        (tmp_path / "images" / f"{i}.png").write_bytes(_png(i))
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n", encoding="utf-8")
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    before = sorted(tmp_path.rglob("*"))
    home = {"HAROPE_BENCH_HOME": str(tmp_path / "home")}

    codes, output = run_blocked(tmp_path, [arguments for arguments, _ in REJECTED_COMMANDS], home)
    assert codes == [1] * len(REJECTED_COMMANDS), output
    parts = output.split("== ")[1:]
    for (arguments, extra_names), part in zip(REJECTED_COMMANDS, parts, strict=True):
        _, line, *rest = part.strip().splitlines()
        assert install_command(extra_names) in line, (arguments, line)
        assert line.count("pip install") == 1, (arguments, line)
        assert not rest or part is parts[-1], (arguments, rest)
    assert sorted(tmp_path.rglob("*")) == before


def _png(value: int) -> bytes:
    import numpy as np

    from harope_bench.data.image_io import encode_png

    return encode_png(np.full((28, 28, 3), 20 * value, dtype=np.uint8))


@pytest.mark.parametrize("words", [["--help"], ["list"], ["eval", "--help"], ["list", "suites"]])
def test_help_and_lists_load_no_library_that_computes(words: list[str]) -> None:
    """So that they answer at once: numpy and pydantic alone take half a second."""
    code = (
        "import sys\nfrom harope_bench.cli import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        f"heavy = {{'numpy', 'pydantic', 'jinja2', 'PIL', *{BLOCKED_PACKAGES!r}}}"
        " & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


def test_the_readers_of_official_results_load_without_extras(tmp_path: Path) -> None:
    modules = ("geneval_results", "dpg_results", "compbench_results", "prompt_folder")
    code = (
        "import sys\nfor name in sys.argv[2:]: sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    __import__(f'harope_bench.suites.official_layouts.{name}')\n"
        "import harope_bench.evaluators.t2i_compbench\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "-", *BLOCKED_PACKAGES],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr


def test_no_module_needs_one_operating_system() -> None:
    """fcntl alone is imported, and core/part_files.py works without it."""
    import ast

    for path in (ROOT / "harope_bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            packages = {name.partition(".")[0] for name in names}
            assert not packages & set(ONE_SYSTEM), path
            assert "fcntl" not in packages or path.name == "part_files.py"


# ------------------------------------------------------------------------------------------------
# core/extras.py


def test_every_module_has_one_extra() -> None:
    modules = [module for modules in EXTRAS.values() for module in modules]
    assert len(modules) == len(set(modules))
    assert extra_of_module("torch.nn") == "torch" and extra_of_module("numpy") is None


def test_all_missing_extras_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harope_bench.core.extras.is_installed", lambda module: module == "torch")
    require_packages("this", "torch")
    with pytest.raises(MissingExtraError) as error:
        require_packages("this", "torch", "safetensors", "matplotlib")
    assert str(error.value) == (
        "this needs the extras torch and figures: safetensors, matplotlib are not installed;"
        " run: pip install 'harope-bench[torch,figures]'"
    )
    with pytest.raises(MissingExtraError, match=r"the extra frames: pandas is not installed"):
        require_packages("this", "pandas")


def test_an_import_error_names_the_extra_of_a_missing_module_only() -> None:
    missing = missing_extra_error("judge x", ModuleNotFoundError("", name="timm.models"))
    assert missing is not None and missing.advice == "pip install 'harope-bench[torch]'"
    assert str(missing).startswith("judge x needs the extra torch: timm.models is not installed")
    assert missing_extra_error("x", ModuleNotFoundError("", name="unknown")) is None
    assert missing_extra_error("x", ImportError("cannot import name", name="torch")) is None
    assert not is_installed("no_such_package.part") and is_installed("json")


def test_a_plugin_of_another_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.core import registry

    (tmp_path / "their_plugin.py").write_text("import matplotlib_of_nobody\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("harope_bench.core.extras.EXTRAS", {"figures": ("matplotlib_of_nobody",)})
    entry = registry.RegistryEntry("judges", "theirs", "their package", None, "their_plugin")
    with pytest.raises(MissingExtraError, match=r"judge theirs needs the extra figures.*pip"):
        registry.load_entry(entry)
