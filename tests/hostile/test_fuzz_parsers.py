"""Every parser on files with one thing wrong: a value or one line of a named error, never anything
else.
"""

from __future__ import annotations

import ast
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hostile import documents
from hostile.fuzz_settings import fuzz
from hostile.parsers import PARSERS, homes
from hostile.parsers.table import Files, Parser
from hostile.strategies import changed_file
from hypothesis import given
from hypothesis import strategies as st

import harope_bench
from harope_bench.core.errors import BenchError

ROOT = Path(harope_bench.__file__).parent
CPU_SECONDS = 30  # of one example on any machine; without a bound it would be for ever
MEMORY = 1 << 30  # bytes that the process may grow by at one parser


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples, with the benchmarks' prompts in its `prompts`."""
    folder = tmp_path_factory.mktemp("fuzz")
    homes.PROMPT_HOME = folder / "prompts"
    write(folder / "prompts", {**documents.prompt_home(), "dpg_script.csv": documents.dpg_table()})
    return folder


def write(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@contextmanager
def limit_cpu_time() -> Iterator[None]:
    """Stop what takes more than CPU_SECONDS; time of other processes does not count."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"a parser took more than {CPU_SECONDS} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak() -> int:
    """The most memory that the process had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(parser: Parser, room: Path, files: Files) -> BaseException | None:
    """Read a folder of these files in a place of its own; return the error that it may give, None
    where it gives a value.
    """
    folder = Path(tempfile.mkdtemp(dir=room))
    try:
        write(folder, files)
        with limit_cpu_time():
            parser.read(folder)
    except (BenchError, *parser.errors) as error:
        return error
    finally:
        shutil.rmtree(folder)
    return None


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_file_with_one_thing_wrong_is_a_value_or_one_line_of_a_named_error(
    parser: Parser, room: Path
) -> None:
    files, memory = parser.files(), peak()

    @fuzz
    @given(st.data())
    def run(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(parser.mutable or sorted(files)), label="file")
        changed_value = data.draw(changed_file(name, files[name]), label="bytes")
        error = read(parser, room, {**files, name: changed_value})
        if isinstance(error, BenchError):
            assert str(error) and str(error).isprintable(), (
                f"no single printable line: {str(error)!r}"
            )

    run()
    assert peak() - memory < MEMORY


# ------------------------------------------------------------------------------ nobody opens a file
# that is not in the table

# What opens a file from outside, or makes a value of its text. A function that calls one of these
# is a parser.
DOORS = {
    "open_regular", "read_regular", "open_regular_for_update", "read_if_present", "read_text", "decode_text", "parse_json", "read_json",
    "read_toml", "read_toml_bytes", "parse_toml", "read_lines", "read_lines_by_field", "read_checksums", "open_npz", "read_header", "load_arrays",
    "load_weights", "read_weights", "weights_header", "weights_metadata", "open_image", "read_image_bytes", "model_validate", "model_validate_json", "from_json", "read_versioned_toml", "parse_versioned_json",
    "validate_json", "validate_python", "load_file", "np.load", "torch.load", "DictReader", "parse_ranges", "parse_indices", "json.loads",
    "tomllib.loads", "gzip.open", "Image.open", "parse_whole_number", "compile_pattern",
}  # fmt: skip
OF_THE_PACKAGE = "reads a file of the package itself or of the kernel"
BY_HASH = "weights of a recorded hash, which go strictly into a network; store.load_weights is in the table"
CHECKED_TEXT = "makes a record of values that were checked as they were read, or of arguments"
WRITES = "reads what this process has just made"
RUNS = "the middle of a verb, which the tests of that verb run; the readers that it calls are in the table"
ELSEWHERE = "runs in another Python, on weights that the user names"
SOURCE = "reads the source of an installed package, which an import would run"
# Parsers that the table does not reach, by the beginning of their names, each with the reason.
EXCEPTIONS = {
    "models.backbones.lora.load_adapter": BY_HASH, "models.backbones.adapter_pipelines.": BY_HASH, "models.load_checkpoint.open_checkpoint": BY_HASH, "analysis.learned_matrices.": BY_HASH,
    "training.model_training.load_base_weights": BY_HASH, "models.export_checkpoint.export": BY_HASH, "judges.clip.clip_network.": BY_HASH, "judges.inception.inception_network.": BY_HASH,
    "judges.generic.vision_tower.": BY_HASH, "judges.blip.blip_vqa.": BY_HASH, "judges.depth.dpt_depth.": BY_HASH, "judges.micro.micro_extractor.": OF_THE_PACKAGE,
    "judges.micro.shapes_vision.": OF_THE_PACKAGE, "judges.runners.mplug.": ELSEWHERE,
    "judges.runners.unidet.": ELSEWHERE, "suites.noun_chunks.": OF_THE_PACKAGE, "suites.digits.": OF_THE_PACKAGE,
    "suites.shapes.": OF_THE_PACKAGE, "suites.dpg_bench.official_hashes": OF_THE_PACKAGE,
    "leaderboards.table_spec.load_published_flags": OF_THE_PACKAGE, "core.part_files.boot_token": OF_THE_PACKAGE,
    "pipeline.classify._find_stored_shards": RUNS, "pipeline.classify._classify_again": RUNS, "pipeline.classify._stored_arrays": RUNS,
    "pipeline.classify._make_settings": CHECKED_TEXT,
    "judges.runners.common._record_judge": RUNS, "judges.runners.common.annotate_queries": RUNS,
    "pipeline.classify.drop_values_if_images_missing": CHECKED_TEXT, "testing.": CHECKED_TEXT, "models.backbones.diffusers_networks.": CHECKED_TEXT,
    "analysis.cost.measure_cost.plan_without_weights": CHECKED_TEXT, "pipeline.evaluate.make_source": CHECKED_TEXT,
    "evaluators.dpg_bench.": CHECKED_TEXT, "evaluators.geneval.": CHECKED_TEXT, "leaderboards.entries.": CHECKED_TEXT, "assets.download._copy": WRITES,
    "pipeline.reproduce._write": RUNS, "core.storage.copy_file": WRITES,
    "api.comparison._make_policy": CHECKED_TEXT, "core.class_attributes._parse": SOURCE,
    "pipeline.annotate_externally.ExternalAnnotationWorker.": RUNS,
    "pipeline.worker_machines._nvidia_driver": OF_THE_PACKAGE,
    "core.state_dicts.weights_bytes": WRITES, "training.training_files.": WRITES,
}  # fmt: skip


def calls_of_doors() -> dict[str, set[str]]:
    """The doors that each function of the package calls, by its module and qualified name."""
    fields: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name, call in calls_in(ast.parse(path.read_text()), ()):
            if call in DOORS or call.rpartition(".")[2] in DOORS:
                fields.setdefault(f"{module}.{name}", set()).add(call)
    return fields


def calls_in(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every call with the function, outside of any other, in which it stands."""
    for child in ast.iter_child_nodes(node):
        is_scope = isinstance(child, ast.FunctionDef | ast.ClassDef)
        inner_names = (*names, child.name) if is_scope and not is_inner(names, node) else names  # type: ignore[attr-defined]
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name | ast.Attribute):
            yield ".".join(names), ast.unparse(child.func)
        yield from calls_in(child, inner_names)


def is_inner(names: tuple[str, ...], node: ast.AST) -> bool:
    """Whether a node is a function, whose inner functions count as itself."""
    return bool(names) and isinstance(node, ast.FunctionDef)


def reached_functions(room: Path) -> set[str]:
    """Every function of the package that the parsers of the table run on valid files."""
    names: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(ROOT)):
            module = ".".join(Path(code.co_filename).relative_to(ROOT).with_suffix("").parts)
            names.add(f"{module}.{code.co_qualname.partition('.<locals>')[0]}")

    for parser in PARSERS:
        files = parser.files()
        sys.setprofile(note)
        try:
            read(parser, room, files)
        finally:
            sys.setprofile(None)
    return names


def test_every_function_that_opens_a_file_from_outside_is_in_the_table(room: Path) -> None:
    callers, names = calls_of_doors(), reached_functions(room)
    missing = {
        name for name in callers if name not in names and not name.startswith(tuple(EXCEPTIONS))
    }
    assert not missing, "add to tests/hostile/parsers: " + ", ".join(sorted(missing))
    rest = [
        start for start, reason in EXCEPTIONS.items() if reason != OF_THE_PACKAGE
    ]  # which may be read once a process
    idle = [
        start
        for start in rest
        if not any(name.startswith(start) and name not in names for name in callers)
    ]
    assert not idle, f"these exceptions are none any more: {idle}"


def test_a_door_without_a_parser_is_found() -> None:
    """The search for callers sees methods, inner functions and doors by any name of their
    module.
    """
    source = "class A:\n def f(self):\n  def g():\n   return store.read_lines(1)\n  return g\ndef h():\n return [parse_json(x) for x in y]\n"
    assert {
        name for name, call in calls_in(ast.parse(source), ()) if call.rpartition(".")[2] in DOORS
    } == {"A.f", "h"}
