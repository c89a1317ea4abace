"""What the package imports is declared, and what is declared is imported: base, and each extra."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import harope_bench
from harope_bench.pipeline import doctor

PACKAGE = Path(harope_bench.__file__).parent
TESTS = Path(__file__).parent
PYPROJECT = TESTS.parent / "pyproject.toml"

# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "cv2": "opencv-python-headless",
    "mmcv": "mmcv-lite",
    "open_clip": "open-clip-torch",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Declared although nothing here imports it: another package that we call needs it and does not ask
# for it.
FOR_OTHERS = {
    "accelerate": (
        "diffusers loads a pipeline through it where it is there, else with twice the memory"
    ),
    "setuptools": "mmengine imports its pkg_resources",
}
BROUGHT_TEXTS = {"tokenizers"}  # imported by tests alone, and a part of transformers
STAND_ALONE = (
    PACKAGE / "judges" / "runners"
)  # executed by a Python of the user's with packages of its own
RUN_TIME = ("t2i", "mmdet")  # extras that the package imports; the others are for tests and tools
TOOLS = {"pytest-xdist", "mypy", "ruff", "types-tqdm", "harope-bench"}  # started by name


def project() -> dict[str, object]:
    return dict(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])


def names(requirements: object) -> set[str]:
    assert isinstance(requirements, list)
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in requirements}


def base() -> set[str]:
    return names(project()["dependencies"])


def extra_packages(*chosen_text: str) -> set[str]:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    return set().union(*(names(extras[name]) for name in chosen_text))


def modules(source: str) -> Iterator[str]:
    """Top-level names of all modules that a file imports, also inside functions, or asks pytest to
    import.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
            "importorskip",
            "import_module",
        ):
            yield from (
                str(a.value).split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant)
            )


@cache
def distributions(folder: Path) -> set[str]:
    """Distributions of other people that the files below a folder import."""
    files = [path for path in folder.rglob("*.py") if STAND_ALONE not in path.parents]
    package_texts = {"harope_bench", "hostile"} | {path.stem for path in TESTS.rglob("*.py")}
    modules_result = {
        module for path in files for module in modules(path.read_text(encoding="utf-8"))
    }
    foreign_names = modules_result - set(sys.stdlib_module_names) - package_texts
    return {DISTRIBUTIONS.get(module, module.lower().replace("_", "-")) for module in foreign_names}


def on_import(source: str) -> set[str]:
    """Modules that are met when a file is imported: outside functions and outside TYPE_CHECKING."""
    waiting: list[ast.AST] = [ast.parse(source)]
    names: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_for_types(node):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= set(modules(ast.unparse(node)))
        waiting.extend(ast.iter_child_nodes(node))
    return names


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def test_what_the_package_imports_is_declared() -> None:
    assert distributions(PACKAGE) - base() - extra_packages(*RUN_TIME) == set()


def test_what_is_declared_is_imported() -> None:
    imported_distributions = distributions(PACKAGE)
    assert base() - imported_distributions == set()
    for name in RUN_TIME:
        assert extra_packages(name) - imported_distributions - set(FOR_OTHERS) == set(), name
        assert not extra_packages(name) & base(), name


def test_what_tests_import_is_declared_and_used() -> None:
    imported_distributions = distributions(TESTS)
    assert (
        imported_distributions
        - base()
        - extra_packages(*RUN_TIME, "test", "parity")
        - BROUGHT_TEXTS
        == set()
    )
    assert (
        extra_packages("test", "parity", "dev") - imported_distributions - TOOLS - set(FOR_OTHERS)
        == set()
    )


def test_every_extra_is_known_here() -> None:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict) and set(extras) == {*RUN_TIME, "parity", "test", "dev"}


def test_exceptions_are_exceptions() -> None:
    """One that is imported by now, or declared no more, has to go."""
    declared_base = base() | extra_packages(*RUN_TIME, "parity")
    assert set(FOR_OTHERS) <= declared_base and not set(FOR_OTHERS) & distributions(PACKAGE)
    assert set(DISTRIBUTIONS.values()) <= declared_base


def test_the_base_install_is_not_held_back_by_a_program_of_the_tests() -> None:
    """clean-fid stops at scipy 1.17; the package does not."""
    (scipy,) = [line for line in project()["dependencies"] if str(line).startswith("scipy")]  # type: ignore[attr-defined]
    assert "<" not in scipy and "==" not in scipy


def test_modules_start_without_the_extras() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if STAND_ALONE not in path.parents]
    names = {
        path.name: {
            DISTRIBUTIONS.get(m, m.lower().replace("_", "-"))
            for m in on_import(path.read_text("utf-8"))
        }
        for path in files
    }
    assert {
        name: modules__result
        for name, modules_ in names.items()
        if (modules__result := modules_ & extra_packages(*RUN_TIME))
    } == {}


def test_the_doctor_asks_for_what_is_declared() -> None:
    assert set(doctor.REQUIRED_PACKAGES) <= base()
    assert set(doctor.EXTRAS) == set(RUN_TIME)
    for name, EXTRAS in doctor.EXTRAS.items():
        assert {DISTRIBUTIONS.get(module, module) for module in EXTRAS} <= extra_packages(name)


def test_the_finder_sees_every_kind_of_import() -> None:
    source = (
        "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i\n   "
        " pytest.importorskip('j.k')\n"
    )
    assert set(modules(source)) == {"a", "c", "d", "i", "j"}
    assert on_import(source) == {"a", "c", "d"}
