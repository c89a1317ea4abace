"""The house: who may import whom, what starts without torch, and contracts that catch what breaks them.

Files are found, not listed: a new module is held to the rules of its room, and a new room must be given a floor in FLOORS.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import harope_bench
from harope_bench import testing
from harope_bench.core import registry
from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import FeatureEvaluator, Observations, Score
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor, load_judge
from harope_bench.testing.complaints import Complaints

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
    {"testing", "pipeline"},
    {"commands"},
    {"cli"},
]
RANK = {room: rank for rank, rooms in enumerate(FLOORS) for room in rooms}
# Beyond the floors: rules and networks never meet, and neither knows how an image was generated.
STRANGERS = {
    "judges": {"encodings"},
    "evaluators": {"encodings"},
    "suites": {"encodings", "models", "judges"},
}
KINDS = ("encodings", "backbones", "samplers", "suites", "judges", "evaluators")  # plug-ins in Python, called by name
NETWORKS = {"torch", "torchvision", "torch_fidelity", "safetensors", "open_clip", "cleanfid", "transformers", "diffusers", "timm"}
NEVER_TORCH = {"core", "data", "assets", "metrics", "statistics", "evaluators", "leaderboards", "reports"}
TORCH_INSIDE_FUNCTIONS = {"suites", "testing", "pipeline", "commands", "cli"}
TORCH_INSIDE_FUNCTIONS_MODULES = {
    f"{PACKAGE}.{name}"
    for name in ("core.device", "core.state_dicts", "core.provenance", "models.load_checkpoint", "models.register_checkpoint")
}


def never_names_torch(module: str) -> bool:
    """Whether a module may not import a network's library at all."""
    return room(module) in NEVER_TORCH and module not in TORCH_INSIDE_FUNCTIONS_MODULES


def starts_without_torch(module: str) -> bool:
    """Whether importing a module may not import torch."""
    return never_names_torch(module) or room(module) in TORCH_INSIDE_FUNCTIONS or module in TORCH_INSIDE_FUNCTIONS_MODULES


class Import(NamedTuple):
    """One imported module, where it stands, and whether it is met when the file is imported."""

    module: str
    line: int
    on_import: bool


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if "__pycache__" not in p.parts)


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a module of this package; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


MODULES = {dotted(path): path for path in files()}


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Everything a module of this package imports, names of modules in full."""
    return tuple(sorted(set(found_in(ast.parse(MODULES[module].read_text()), module, True))))


def found_in(node: ast.AST, module: str, on_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, on_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(name, child.lineno, on_import) for name in names_of(child, module))
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or for_types(child)
        yield from found_in(child, module, on_import and not inside)


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def names_of(node: ast.ImportFrom, module: str) -> list[str]:
    """Modules that `from ... import ...` reaches, relative ones in full."""
    origin = node.module or ""
    if node.level:
        package = [*module.split("."), ""] if MODULES[module].name == "__init__.py" else module.split(".")
        origin = ".".join([*package[: -node.level], *filter(None, [node.module])])
    whole = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else origin for name in whole]


def own(module: str) -> list[Import]:
    return [found for found in imports(module) if found.module.split(".")[0] == PACKAGE]


# -------------------------------------------------------------------------------------------- rules


def test_every_room_has_a_place_in_the_house() -> None:
    rooms = {room(module) for module in MODULES} - {"", "__main__"}
    assert rooms <= set(RANK), f"give {sorted(rooms - set(RANK))} a floor in FLOORS"
    assert len(RANK) == sum(map(len, FLOORS)), "a room is on two floors"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m)))
def test_imports_run_downwards(module: str) -> None:
    mine = room(module)
    wrong = []
    for found in own(module):
        theirs = room(found.module)
        if not theirs or theirs == mine:
            continue
        if RANK[theirs] >= RANK[mine] or theirs in STRANGERS.get(mine, set()):
            wrong.append(f"{module}:{found.line} imports {found.module}")
    assert not wrong


def test_no_imports_go_in_a_circle() -> None:
    """Also not through imports inside functions: a circle that is only put off is still one."""
    graph = {module: {found.module for found in own(module)} & set(MODULES) - {PACKAGE} for module in MODULES}
    assert circle(graph) is None


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A path that comes back to its start, or None."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for other in sorted(graph[module]):
            if found := walk(other, [*path, module]):
                return found
        done.add(module)
        return None

    return next((found for module in sorted(graph) if (found := walk(module, []))), None)


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
    found = {(f.module, f.on_import) for f in found_in(ast.parse(source), f"{PACKAGE}.suites.digits", True)}
    here = {f"{PACKAGE}.core.storage", f"{PACKAGE}.core.registry", PACKAGE, f"{PACKAGE}.suites.base", f"{PACKAGE}.core.schema"}
    met = {"torch.nn", "typing", "bodily", "tried"} | here
    assert found == {(name, True) for name in met} | {("typed", False), (f"{PACKAGE}.models.backbones.dit", False)}


def test_the_circle_finder_finds_circles() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"a"}}) == ["a", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("module", sorted(filter(starts_without_torch, MODULES)))
def test_rooms_that_start_without_torch_do_not_name_it(module: str) -> None:
    wrong = [
        f"{module}:{found.line} imports {found.module}"
        for found in imports(module)
        if found.module.split(".")[0] in NETWORKS and (found.on_import or (never_names_torch(module) and not typed_only(module, found)))
    ]
    assert not wrong


def typed_only(module: str, found: Import) -> bool:
    """Whether an import stands under TYPE_CHECKING."""
    tree = ast.parse(MODULES[module].read_text())
    return any(
        for_types(node) and node.lineno < found.line <= (node.end_lineno or 0) for node in ast.walk(tree) if isinstance(node, ast.If)
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
    done = subprocess.run([sys.executable, "-c", script, json.dumps(modules)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


PLUGINS = {entry.module for kind in KINDS for entry in registry.entries(kind).values()}
PIPELINE = sorted(m for m in MODULES if room(m) == "pipeline")


@pytest.mark.parametrize("module", PIPELINE)
def test_the_pipeline_reaches_plugins_by_name(module: str) -> None:
    """Of a room of plug-ins it may import the contract (base), and what suites share with no plug-in: the official layouts."""
    wrong = []
    for found in own(module):
        parts = found.module.split(".")[1:]
        shared = parts[-1] == "base" or parts[:2] in (["suites", "official_layouts"],) or (parts[0] == "models" and len(parts) == 2)
        if parts[:1] in (["encodings"], ["models"], ["suites"], ["judges"], ["evaluators"]) and not shared:
            wrong.append(f"{module}:{found.line} imports {found.module}")
    assert not wrong
    assert not {found.module for found in own(module)} & PLUGINS


@pytest.mark.parametrize("stage", ["generate", "extract_features", "evaluate", "classify"])
def test_stages_know_no_plugins_name(stage: str) -> None:
    known = {name for kind in KINDS for name in registry.names(kind)}
    constants = {
        node.value for node in ast.walk(ast.parse(MODULES[f"{PACKAGE}.pipeline.{stage}"].read_text())) if isinstance(node, ast.Constant)
    }
    assert not constants & known


def test_only_the_command_line_imports_click() -> None:
    importers = {room(m) for m in MODULES if any(f.module.split(".")[0] == "click" for f in imports(m))}
    assert importers == {"cli", "commands"}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m) in ("cli", "commands", "testing")))
def test_the_doors_to_everything_import_rooms_inside_functions(module: str) -> None:
    rooms, modules = {"", "commands", "testing"}, {f"{PACKAGE}.core.{name}" for name in ("errors", "escaping", "schema")}
    wrong = [f for f in own(module) if f.on_import and room(f.module) not in rooms and f.module not in modules]
    assert not [f"{module}:{found.line} imports {found.module}" for found in wrong]


def test_rooms_inits_are_empty() -> None:
    """Apart from the two that users import from."""
    public = (ROOT, ROOT / "testing")
    assert not [str(p) for p in files() if p.name == "__init__.py" and p.parent not in public and p.read_text().strip()]
    folders = {p.parent for p in files() if p.parent != ROOT}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_caught_blindly(module: str) -> None:
    """No bare except; what catches everything raises again or is the door to the user."""
    tree = ast.parse(MODULES[module].read_text())
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    assert not [f"{module}:{h.lineno} bare except" for h in handlers if h.type is None]
    silent = [
        f"{module}:{h.lineno} swallows {ast.unparse(h.type)}"
        for h in handlers
        if h.type is not None
        and "Exception" in ast.unparse(h.type).split(".")
        and all(isinstance(s, (ast.Pass, ast.Continue)) for s in h.body)
    ]
    assert not silent


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m != PACKAGE and room(m) not in ("cli",)))
def test_only_the_command_line_prints(module: str) -> None:
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)]
    assert not [f"{module}:{c.lineno} prints" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_tests_are_beside_their_rooms() -> None:
    tests = Path(__file__).parent
    folders = {p.relative_to(tests).parts[0] for p in tests.rglob("*.py") if p.parent != tests}
    assert folders <= set(RANK) | {"helpers", "hostile"}


# ------------------------------------------------------------------------------------ torch-free verbs


def run_verb(*arguments: str) -> tuple[int, str, bool]:
    """Exit code, standard output, and whether torch was imported."""
    script = (
        "import sys\nfrom harope_bench.cli import main\ncode = 0\n"
        "try: main(sys.argv[1:], prog_name='harope-bench')\n"
        "except SystemExit as end: code = end.code or 0\n"
        "sys.stdout.flush()\nprint('torch' in sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("list",), ("list", "encodings", "-v"), ("list", "--json"), ("table", "2", "--show", "published")],
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
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


# -------------------------------------------------------------- the other contracts, on toys and liars


@pytest.mark.parametrize("name", registry.names("tables"))
def test_table_keeps_its_promises(name: str) -> None:
    testing.check_table(name)


def shipped_judges() -> list[str]:
    """Judges whose weights ship with the package; the others are tried where their weights are."""
    judges = ((name, load_judge(name)) for name in registry.names("judges"))
    return [name for name, judge in judges if judge.judge_class == "micro" and isinstance(judge, FeatureExtractor)]


@pytest.mark.parametrize("name", shipped_judges())
def test_judge_keeps_its_promises(name: str) -> None:
    testing.check_judge(name)


class LoadedToy(LoadedFeatureExtractor):
    """A toy judge whose plug-in and opened form are apart, as in judges/base.py."""

    def __init__(self, see: Callable[[np.ndarray], dict[str, np.ndarray]], sha256: str = "ab" * 32):
        self.observe, self.weights_sha256 = see, sha256


def judge(see: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None, opened_sha256: str = "ab" * 32, **facts: Any) -> Any:
    see = see or (lambda images: {"colour": images.mean((1, 2)).astype(np.float32)})
    plain = {"version": 1, "judge_class": "micro", "preprocessing": "none", "arrays": ("colour",), "batch": 10}
    members = {**plain, **facts, "weights_sha256": lambda self: "ab" * 32, "open": lambda self, device: LoadedToy(see, opened_sha256)}
    return type("Toy", (FeatureExtractor,), members)()


def colour(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2)).astype(np.float32)


def overwriting(images: np.ndarray) -> dict[str, np.ndarray]:
    images[0] = 0
    return {"colour": colour(images)}


def test_a_judge_that_keeps_its_promises_passes() -> None:
    testing.check_judge(judge())
    testing.check_judge(judge(), images=np.random.default_rng(1).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("liar", "said"),
    [
        (judge(version=0), "version is 0"),
        (judge(judge_class="real"), "judge_class is 'real'"),
        (judge(preprocessing=" "), "says nothing of its preprocessing"),
        (judge(arrays=()), "wanted a tuple of names"),
        (judge(arrays=("col our",)), "array name 'col our' is not plain"),
        (judge(arrays=("colour", "shape")), "declares ['colour', 'shape']"),
        (judge(opened_sha256="no"), "wanted 64 hex digits"),
        (judge(opened_sha256="cd" * 32), "records weights"),
        (judge(lambda i: {"colour": colour(i).astype(np.float64)}), "is float64, wanted float32"),
        (judge(lambda i: {"colour": colour(i)[1:]}), "has 4 rows for 5 images"),
        (judge(lambda i: {"colour": colour(i) * np.float32(np.nan)}), "is not finite"),
        (judge(lambda i: {"colour": colour(i) - colour(i).mean(0)}), "on its own is"),
        (judge(lambda i: {"colour": colour(i) + np.arange(len(i), dtype=np.float32)[:, None]}), "in another order is"),
        (judge(lambda i: {"colour": np.ones((len(i), 3), np.float32)}), "is the same for different images"),
        (judge(lambda i: {"colour": colour(i) + np.float32(np.random.default_rng().random())}), "at the second look"),
        (judge(overwriting), "changes the images it is shown"),
    ],
)
def test_the_contract_catches_a_judge_that_breaks_it(liar: Any, said: str) -> None:
    with pytest.raises(AssertionError) as caught:
        testing.check_judge(liar)
    assert said in str(caught.value)


def gaussian(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths = {"features": 8, "spatial": 6, "logits": 10}
    return {name: (2 * rng.normal(size=(n, width))).astype(np.float32) for name, width in widths.items()}


def synthetic() -> tuple[Observations, dict[str, np.ndarray]]:
    """Sixty images seen and the reference statistics of eighty, in the arrays of the class-conditional judges."""
    real = gaussian(80, seed=1)
    reference = {"features": real["features"]}
    for name, suffix in (("features", ""), ("spatial", "_s")):
        reference[f"mu{suffix}"] = real[name].astype(np.float64).mean(0)
        reference[f"sigma{suffix}"] = np.cov(real[name].astype(np.float64), rowvar=False)
    return Observations(np.arange(60), np.arange(60) % 10, gaussian(60, seed=0), failed=2), reference


def test_the_evaluator_fidelity_keeps_its_promises() -> None:
    testing.check_evaluator("fidelity", *synthetic())


class ToyEvaluator(FeatureEvaluator):
    """The mean of one feature."""

    version = 1
    profile = "toy"
    parity = "none: a toy"
    metrics = (Metric(name="mean", title="Mean", direction="higher", unit="none", decimals=2),)

    def score(self, seen: Observations, reference: Any) -> Score:
        rows = seen.arrays["features"][:, 0].astype(np.float64)
        return Score((self.measure(rows, seen.failed),), {"mean": rows} if len(rows) else {}, ())

    def measure(self, rows: np.ndarray, failed: int) -> Measurement:
        value = float(rows.mean()) if len(rows) else None
        return measured(value, len(rows), failed)


def measured(value: float | None, scored: int, failed: int, **changes: Any) -> Measurement:
    facts = {"metric": "mean", "name": "mean", "value": value, "n_asked": scored + failed, "n_scored": scored, "n_failed": failed}
    return Measurement(**{**facts, "reason": None if value is not None else "no images", **changes})


def evaluator(measure: Callable[..., Measurement] | None = None, **facts: Any) -> Any:
    members = {**facts, **({"measure": lambda self, rows, failed: measure(rows, failed)} if measure else {})}
    return type("Liar", (ToyEvaluator,), members)()


def clobbering(self: Any, seen: Observations, reference: Any) -> Score:
    if len(seen.indices):
        seen.arrays["features"][0, 0] += 1
    return ToyEvaluator.score(self, seen, reference)


def test_an_evaluator_that_keeps_its_promises_passes() -> None:
    testing.check_evaluator(ToyEvaluator(), *synthetic())


METRIC = ToyEvaluator.metrics[0]


@pytest.mark.parametrize(
    ("liar", "said"),
    [
        (evaluator(version="1"), "version is '1'"),
        (evaluator(parity=""), "makes no parity claim"),
        (evaluator(metrics=()), "declares no metric"),
        (evaluator(metrics=(METRIC, METRIC)), "metric names repeat"),
        (evaluator(metrics=(METRIC, METRIC.model_copy(update={"name": "other"}))), "it measures ['mean'], declares ['mean', 'other']"),
        (evaluator(lambda rows, failed: measured(1.0, len(rows), 0)), "asked, there were 60 rows and 2 failed"),
        (evaluator(lambda rows, failed: measured(1.0 + failed, len(rows), failed)), "a failure must not be scored"),
        (evaluator(lambda rows, failed: measured(0.0, len(rows), failed)), "on no images at all, wanted None"),
        (evaluator(lambda rows, failed: measured(float(rows[0]), len(rows), failed)), "says why a value is missing: IndexError"),
        (evaluator(lambda rows, failed: measured(None, len(rows), failed)), "has no value on 60 good rows"),
        (evaluator(lambda rows, failed: measured(1.0, len(rows), failed, low=2.0, high=3.0, interval="x")), "is outside its interval"),
        (evaluator(lambda rows, failed: measured(1.0, len(rows), failed, low=0.0, high=3.0)), "has an interval without a name"),
        (
            evaluator(lambda rows, failed: measured(np.random.default_rng().random(), len(rows), failed)),
            "says something else the second time",
        ),
        (evaluator(score=clobbering), "changes its input seen features"),
        (
            evaluator(score=lambda self, seen, ref: ToyEvaluator.score(self, seen, ref)._replace(per_sample={"mean": np.zeros(7)})),
            "per_sample of mean has 7 rows for 60 samples",
        ),
    ],
)
def test_the_contract_catches_an_evaluator_that_breaks_it(liar: Any, said: str) -> None:
    with pytest.raises(AssertionError) as caught:
        testing.check_evaluator(liar, *synthetic())
    assert said.replace("_", " ") in str(caught.value).replace("_", " ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"published": {"fid": "9.49 FID"}}, "prints '9.49 FID', wanted a number"),
        ({"published": {"fid": "9.4"}}, "prints '9.4', the column has 2 decimals"),
        ({"best_by_value": {"all": {"fid": ["one"]}}}, "one/fid is marked best with 9.49, the best of its block is 8.90"),
        ({"printed": "Two"}, "prints the same name as another"),
        ({}, None),
        ({"published": {"fid": "9.49 (+4.1%)"}}, None),
    ],
)
def test_the_contract_reads_a_table_as_a_reader_does(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str | None) -> None:
    layout = pytest.importorskip("harope_bench.leaderboards.table_spec")
    best = change.get("best_by_value", {"all": {"fid": ["two"]}})
    first = {"id": "one", "printed": "One", "published": {"fid": "9.49"}, **{k: v for k, v in change.items() if k != "best_by_value"}}
    facts = {
        "id": "T", "number": 99, "title": "A table", "best_by_value": best,
        "columns": [{"key": "fid", "printed": "FID", "direction": "lower", "decimals": 2}],
        "rows": [first, {"id": "two", "printed": "Two", "published": {"fid": "8.90"}}],
    }  # fmt: skip
    monkeypatch.setattr("harope_bench.leaderboards.board.load_table", lambda name: layout.check_table(facts, "a test"))
    if said is None:
        testing.check_table("table99")
        return
    with pytest.raises(AssertionError) as caught:
        testing.check_table("table99")
    assert said.replace("the column", "its column") in str(caught.value)


def test_a_contract_lists_everything_that_does_not_hold_and_survives_a_crash() -> None:
    complaints = Complaints("thing x")

    def crashes() -> None:
        raise KeyError("gone")

    def lies() -> None:
        complaints.expect(False, "lies")
        complaints.expect(True, "holds")

    with pytest.raises(AssertionError) as caught:
        complaints.run([crashes, lies])
    assert str(caught.value) == "thing x breaks its contract:\n- crashes: KeyError: 'gone'\n- lies"
    Complaints("thing y").run([])
