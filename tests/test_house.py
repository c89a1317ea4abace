"""The house: who may import whom, and what starts without torch.

Files are found, not listed: a new module is held to the rules of its room, and a new room must be
given a floor in FLOORS.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import harope_bench
from harope_bench.core import registry

ROOT = Path(harope_bench.__file__).parent
PACKAGE = "harope_bench"

# Imports run downwards: a room may import those of lower floors, and itself.
FLOORS: list[set[str]] = [
    {"core"},
    {"data", "assets", "metrics", "encodings"},
    {"statistics"},
    {"models", "evaluators", "judges"},
    {"leaderboards", "suites"},
    {"analysis", "training", "reports"},
    {"testing", "pipeline", "examples"},
    {"commands", "api"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(FLOORS) for room in rooms}
# Beyond the floors: rules and networks never meet, and neither knows how an image was generated.
STRANGERS = {
    "judges": {"encodings"},
    "evaluators": {"encodings"},
    "suites": {"encodings", "models", "judges"},
}
KINDS = (
    "encodings",
    "backbones",
    "samplers",
    "suites",
    "judges",
    "evaluators",
)  # plug-ins in Python, called by name
NETWORKS = {
    "torch",
    "torchvision",
    "torch_fidelity",
    "safetensors",
    "open_clip",
    "cleanfid",
    "transformers",
    "diffusers",
    "timm",
}
NEVER_TORCH = {
    "core",
    "data",
    "assets",
    "metrics",
    "statistics",
    "evaluators",
    "leaderboards",
    "reports",
}
TORCH_INSIDE_FUNCTIONS = {"suites", "testing", "pipeline", "commands", "api", "cli"}
TORCH_INSIDE_FUNCTIONS_MODULES = {
    f"{PACKAGE}.{name}"
    for name in (
        "core.device",
        "core.state_dicts",
        "core.provenance",
        "models.load_checkpoint",
        "models.register_checkpoint",
    )
}


def never_names_torch(module: str) -> bool:
    """Whether a module may not import a network's library at all."""
    return room(module) in NEVER_TORCH and module not in TORCH_INSIDE_FUNCTIONS_MODULES


def starts_without_torch(module: str) -> bool:
    """Whether importing a module may not import torch."""
    return (
        never_names_torch(module)
        or room(module) in TORCH_INSIDE_FUNCTIONS
        or module in TORCH_INSIDE_FUNCTIONS_MODULES
    )


class Import(NamedTuple):
    """One imported module, where it stands, and whether it is met when the file is imported."""

    module: str
    line: int
    on_import: bool


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if "__pycache__" not in p.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a module of this package; empty for the package itself.

    The examples of plug-ins are a room of their own: some are networks.
    """
    if module.startswith(f"{PACKAGE}.testing.examples"):
        return "examples"
    return module.split(".")[1] if "." in module else ""


MODULES = {module_name(path): path for path in files()}


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Everything a module of this package imports, names of modules in full."""
    return tuple(sorted(set(imports_in_node(ast.parse(MODULES[module].read_text()), module, True))))


def imports_in_node(node: ast.AST, module: str, on_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, on_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(name, child.lineno, on_import) for name in names_of(child, module))
        inside = isinstance(
            child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        ) or for_types(child)
        yield from imports_in_node(child, module, on_import and not inside)


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def names_of(node: ast.ImportFrom, module: str) -> list[str]:
    """Modules that `from ... import ...` reaches, relative ones in full."""
    origin = node.module or ""
    if node.level:
        package = (
            [*module.split("."), ""] if MODULES[module].name == "__init__.py" else module.split(".")
        )
        origin = ".".join([*package[: -node.level], *filter(None, [node.module])])
    whole_texts = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else origin for name in whole_texts]


def own_imports(module: str) -> list[Import]:
    return [
        import_result
        for import_result in imports(module)
        if import_result.module.split(".")[0] == PACKAGE
    ]


# -------------------------------------------------------------------------------------------- rules


def test_every_room_has_a_place_in_the_house() -> None:
    rooms = {room(module) for module in MODULES} - {"", "__main__"}
    assert rooms <= set(RANK), f"give {sorted(rooms - set(RANK))} a floor in FLOORS"
    assert len(RANK) == sum(map(len, FLOORS)), "a room is on two floors"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m)))
def test_imports_run_downwards(module: str) -> None:
    package_room = room(module)
    wrong_records = []
    for own_import in own_imports(module):
        library_room = room(own_import.module)
        if not library_room or library_room == package_room:
            continue
        if RANK[library_room] >= RANK[package_room] or library_room in STRANGERS.get(
            package_room, set()
        ):
            wrong_records.append(f"{module}:{own_import.line} imports {own_import.module}")
    assert not wrong_records


def test_no_imports_go_in_a_circle() -> None:
    """Also not through imports inside functions: a circle that is only put off is still one."""
    graph = {
        module: {own_import.module for own_import in own_imports(module)} & set(MODULES) - {PACKAGE}
        for module in MODULES
    }
    assert circle(graph) is None


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A path that comes back to its start, or None."""
    names: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in names:
            return None
        for other_graph in sorted(graph[module]):
            if walk_result := walk(other_graph, [*path, module]):
                return walk_result
        names.add(module)
        return None

    return next(
        (walk_result for module in sorted(graph) if (walk_result := walk(module, []))), None
    )


def test_the_import_finder_finds_every_kind_of_import() -> None:
    source = """
import torch.nn as nn, harope_bench.core.storage
from typing import TYPE_CHECKING
from harope_bench.core import registry
from harope_bench import __version__
from .base import Suite
from ..core.schema import Request
if TYPE_CHECKING:
    import typed
class C:
    import bodily
    def method(self):
        from harope_bench.models.backbones import dit
try:
    import tried
except ImportError:
    pass
"""
    modules = {
        (f.module, f.on_import)
        for f in imports_in_node(ast.parse(source), f"{PACKAGE}.suites.digits", True)
    }
    texts = {
        f"{PACKAGE}.core.storage",
        f"{PACKAGE}.core.registry",
        PACKAGE,
        f"{PACKAGE}.suites.base",
        f"{PACKAGE}.core.schema",
    }
    texts_result = {"torch.nn", "typing", "bodily", "tried"} | texts
    assert modules == {(name, True) for name in texts_result} | {
        ("typed", False),
        (f"{PACKAGE}.models.backbones.dit", False),
    }


def test_the_circle_finder_finds_circles() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"a"}}) == ["a", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("module", sorted(filter(starts_without_torch, MODULES)))
def test_rooms_that_start_without_torch_do_not_name_it(module: str) -> None:
    wrong_texts = [
        f"{module}:{import_result.line} imports {import_result.module}"
        for import_result in imports(module)
        if import_result.module.split(".")[0] in NETWORKS
        and (
            import_result.on_import
            or (never_names_torch(module) and not typed_only(module, import_result))
        )
    ]
    assert not wrong_texts


def typed_only(module: str, import_result: Import) -> bool:
    """Whether an import stands under TYPE_CHECKING."""
    tree = ast.parse(MODULES[module].read_text())
    return any(
        for_types(node) and node.lineno < import_result.line <= (node.end_lineno or 0)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
    )


def test_rooms_that_start_without_torch_do_not_bring_it_by_others() -> None:
    modules = sorted(filter(starts_without_torch, MODULES))
    script = (
        "import importlib, json, sys\nbringers = []\n"
        "for module in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules: bringers.append(module); break\n"
        "print(json.dumps(bringers))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, json.dumps(modules)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(process.stdout) == []


PLUGINS = {entry.module for kind in KINDS for entry in registry.list_entries(kind).values()}
PIPELINE = sorted(m for m in MODULES if room(m) == "pipeline")


@pytest.mark.parametrize("module", PIPELINE)
def test_the_pipeline_reaches_plugins_by_name(module: str) -> None:
    """Of a room of plug-ins it may import the contract (base), and what suites share with no
    plug-in: the official layouts and their references.
    """
    wrong_records = []
    for own_import in own_imports(module):
        parts = own_import.module.split(".")[1:]
        shared_flag = (
            parts[-1] in ("base", "suite_reference")
            or parts[:2] in (["suites", "official_layouts"],)
            or (parts[0] == "models" and len(parts) == 2)
        )
        if (
            parts[:1] in (["encodings"], ["models"], ["suites"], ["judges"], ["evaluators"])
            and not shared_flag
        ):
            wrong_records.append(f"{module}:{own_import.line} imports {own_import.module}")
    assert not wrong_records
    assert not {own_import.module for own_import in own_imports(module)} & PLUGINS


@pytest.mark.parametrize("stage", ["generate", "extract_features", "evaluate", "classify"])
def test_stages_know_no_plugins_name(stage: str) -> None:
    known_names = {name for kind in KINDS for name in registry.list_names(kind)}
    constants = {
        node.value
        for node in ast.walk(ast.parse(MODULES[f"{PACKAGE}.pipeline.{stage}"].read_text()))
        if isinstance(node, ast.Constant)
    }
    assert not constants & known_names


def test_only_the_command_line_imports_click() -> None:
    importers = {
        room(m) for m in MODULES if any(f.module.split(".")[0] == "click" for f in imports(m))
    }
    assert importers == {"cli", "commands"}


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if room(m) in ("cli", "commands", "testing"))
)
def test_the_doors_to_everything_import_rooms_inside_functions(module: str) -> None:
    rooms, modules = (
        {"", "commands", "testing"},
        {f"{PACKAGE}.core.{name}" for name in ("errors", "escaping", "schema")},
    )
    wrong_values = [
        f
        for f in own_imports(module)
        if f.on_import and room(f.module) not in rooms and f.module not in modules
    ]
    assert not [f"{module}:{result.line} imports {result.module}" for result in wrong_values]


def test_rooms_inits_are_empty() -> None:
    """Apart from the two that users import from."""
    public_records = (ROOT, ROOT / "testing")
    assert not [
        str(p)
        for p in files()
        if p.name == "__init__.py" and p.parent not in public_records and p.read_text().strip()
    ]
    folders = {p.parent for p in files() if p.parent != ROOT}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_caught_blindly(module: str) -> None:
    """No bare except; what catches everything raises again or is the door to the user."""
    tree = ast.parse(MODULES[module].read_text())
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    assert not [f"{module}:{h.lineno} bare except" for h in handlers if h.type is None]
    silent_texts = [
        f"{module}:{h.lineno} swallows {ast.unparse(h.type)}"
        for h in handlers
        if h.type is not None
        and "Exception" in ast.unparse(h.type).split(".")
        and all(isinstance(s, (ast.Pass, ast.Continue)) for s in h.body)
    ]
    assert not silent_texts


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if m != PACKAGE and room(m) not in ("cli",))
)
def test_only_the_command_line_prints(module: str) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call)
    ]
    assert not [
        f"{module}:{c.lineno} prints"
        for c in calls
        if isinstance(c.func, ast.Name) and c.func.id == "print"
    ]


def test_tests_are_beside_their_rooms() -> None:
    tests = Path(__file__).parent
    folders = {p.relative_to(tests).parts[0] for p in tests.rglob("*.py") if p.parent != tests}
    assert folders <= set(RANK) | {"browser", "helpers", "hostile"}


# ------------------------------------------------------------------------------------ torch-free
# verbs


def run_verb(*arguments: str) -> tuple[int, str, bool]:
    """Exit code, standard output, and whether torch was imported."""
    script = (
        "import sys\nfrom harope_bench.cli import main\ncode = 0\n"
        "try: main(sys.argv[1:], prog_name='harope-bench')\n"
        "except SystemExit as end: code = end.code or 0\n"
        "sys.stdout.flush()\nprint('torch' in sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )
    return process.returncode, process.stdout, process.stderr.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("list",),
        ("list", "encodings", "-v"),
        ("list", "--json"),
        ("table", "2", "--show", "published"),
    ],
)
def test_looking_around_starts_without_torch(arguments: tuple[str, ...]) -> None:
    code, out, torch = run_verb(*arguments)
    assert code == 0
    assert out.strip()
    assert not torch


def test_every_verbs_help_starts_without_torch() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom harope_bench.cli import main\n"
        "for verb in sorted(main.commands):\n"
        "    done = CliRunner().invoke(main, [verb, '--help'])\n"
        "    assert done.exit_code == 0 and len(done.output) > 80, (verb, done.output)\n"
        "assert 'torch' not in sys.modules\nprint(len(main.commands))"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) >= 10
