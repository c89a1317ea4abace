"""What every test gets: its own HAROPE_BENCH_HOME, one thread, and small things to work on."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from isolation import pytest_runtest_makereport
from recipe_text import RECIPE

from harope_bench.cli import main

__all__ = ["pytest_runtest_makereport"]


# Options and choices of a user are not those of the tests; files that the user names stay.
COMMANDS = tuple(f"HAROPE_BENCH_{name.upper().replace('-', '_')}_" for name in main.commands)
CHOICES = {"HAROPE_BENCH_COMPILE", "HAROPE_BENCH_DEBUG", "HAROPE_BENCH_THREADS"}
for variable in [*os.environ]:
    if variable in CHOICES or variable.startswith(COMMANDS):
        del os.environ[variable]
# Tests are collected with an empty home too: plug-ins of the user would be cases of tests.
COLLECTION_HOME = tempfile.TemporaryDirectory(prefix="harope-bench-")
os.environ["HAROPE_BENCH_HOME"] = COLLECTION_HOME.name

# Before torch is imported, here and in every process a test starts: sums split over threads differ
# in the last bit.
# A pass that asks for another number of threads (.ci/run) has it.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
# `--device auto` would take a GPU, whose last bits differ too.
os.environ["HAROPE_BENCH_DEVICE"] = "cpu"
os.environ["MKL_NUM_THREADS"] = os.environ.get("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

# A busy machine is no failure.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")

# What does not come with the project: beside the checkout, or where HAROPE_BENCH_SHARED says.
SHARED_PATH = Path(
    os.environ.get("HAROPE_BENCH_SHARED") or Path(__file__).resolve().parents[2] / "shared"
)
TINY_FIELDS = {
    "hidden": 16,
    "depth": 1,
    "heads": 2,
    "patch": 4,
    "size": 8,
    "channels": 1,
    "classes": 10,
}


NUMERIC_TEXTS = {"np", "numpy", "scipy", "torch"}  # a module that names one of these computes
# These compute only to have something to write, read, kill, refuse or show.
FILES_AND_WORDS = {
    "test_chosen_judges",
    "test_cli",
    "test_compbench_layout",
    "test_conditioning",
    "test_contamination",
    "test_contract_mutations",
    "test_contracts",
    "test_cost",
    "test_cost_pipelines",
    "test_device",
    "test_digits_file",
    "test_docs",
    "test_doors",
    "test_dpg_layout",
    "test_edited_files",
    "test_entries",
    "test_evaluation",
    "test_evaluator_base",
    "test_extrapolation",
    "test_failures",
    "test_fetch",
    "test_flipped_bits",
    "test_formats",
    "test_gallery",
    "test_generators",
    "test_geneval_layout",
    "test_house",
    "test_images_api",
    "test_interface",
    "test_leftover_parts",
    "test_judge_base",
    "test_leaderboards",
    "test_library_pipelines",
    "test_lora_files",
    "test_misnamed_contents",
    "test_official_chain",
    "test_outside",
    "test_prompt_errors",
    "test_prompt_folder",
    "test_ray",
    "test_ready",
    "test_recognise_suite",
    "test_recorded",
    "test_records",
    "test_registry",
    "test_reports",
    "test_reproduce",
    "test_requirements",
    "test_result_store",
    "test_rows",
    "test_samples",
    "test_scale",
    "test_shards",
    "test_site",
    "test_snapshots",
    "test_store",
    "test_suites",
    "test_tables",
    "test_textfile",
    "test_verify",
    "test_work_lost",
    "test_worker_machines",
    "test_workers",
    "test_wrappers",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of a module that computes as `numeric`: its answer may not depend on the
    processor.
    """
    for item in items:
        names = vars(getattr(item, "module", None) or object)
        if (
            NUMERIC_TEXTS & names.keys()
            and names["__name__"] not in FILES_AND_WORDS
            and "hostile" not in item.path.parts
            and item.get_closest_marker("no_numbers") is None
        ):
            item.add_marker(pytest.mark.numeric)


@pytest.fixture(autouse=True)
def bench_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of the user, so that no test meets another's checkpoints."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(home))
    return home


@pytest.fixture
def shared_path() -> Callable[[str], Path]:
    """A function that finds a file or folder which users do not have; it skips the test where that
    is not here.
    """

    def find(path: str) -> Path:
        if not (path_result := SHARED_PATH / path).exists():
            pytest.skip(f"{path_result} is not here; users do not have it")
        return path_result

    return find


@pytest.fixture(scope="session")
def library_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder of a tiny pipeline of diffusers, built once; it is only
    read.
    """
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        import library_pipelines

        if name not in folders:
            folders[name] = library_pipelines.save(tmp_path_factory.mktemp("pipeline") / name, name)
        return folders[name]

    return folder


@pytest.fixture
def tiny_config() -> dict[str, int]:
    """Sizes of a DiT that draws 8 x 8 images in a millisecond."""
    return dict(TINY_FIELDS)


@pytest.fixture
def make_checkpoint(bench_home: Path) -> Callable[..., Any]:
    """A function that registers a tiny checkpoint with random weights and returns its record."""

    def make(
        name: str = "tiny", encoding: str = "rope-axial", seed: int = 0, **options: Any
    ) -> Any:
        import torch
        from safetensors.torch import save

        from harope_bench.core import registry
        from harope_bench.core.storage import sha256_bytes, write_bytes, write_text
        from harope_bench.core.toml_file import versioned_toml_text
        from harope_bench.models.load_checkpoint import load_checkpoint_record

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = registry.load_by_name("backbones", "dit").build(
                encoding, options, TINY_FIELDS
            )
        rng = torch.Generator().manual_seed(seed)
        data = save(
            {
                k: (v + 0.05 * torch.randn(v.shape, generator=rng)).contiguous()
                for k, v in network.state_dict().items()
            }
        )
        write_bytes(bench_home / "checkpoints" / f"{name}.safetensors", data)
        fields = {
            "name": name,
            "backbone": "dit",
            "encoding": encoding,
            "weights": f"{name}.safetensors",
            "sha256": sha256_bytes(data),
            "source": "a test",
            "scale": "micro",
            "suite": "digits",
            "sampler": "flow",
            "steps": 2,
            "guidance": 1.5,
            "config": TINY_FIELDS,
            "options": options,
        }
        write_text(
            bench_home / "checkpoints" / f"{name}.toml", versioned_toml_text("checkpoint", fields)
        )
        return load_checkpoint_record(name)

    return make


@pytest.fixture
def tiny_checkpoint(make_checkpoint: Callable[..., Any]) -> Any:
    """The record of a registered checkpoint named tiny."""
    return make_checkpoint()


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the TOML of a tiny denoiser's recipe and returns its path."""

    def make(
        name: str = "tiny", steps: int = 25, seed: int = 3, snapshot: int = 7, extra_text: str = ""
    ) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(
            extra_text + RECIPE.format(name=name, steps=steps, seed=seed, snapshot=snapshot)
        )
        return path

    return make


@pytest.fixture
def tiny_recipe(make_recipe: Callable[..., Path]) -> Path:
    """The TOML file of a training that takes a second."""
    return make_recipe()


@pytest.fixture(autouse=True)
def _networks_of_one_test() -> Iterator[None]:
    """A judge's network is kept for the process; a test has its own."""
    yield
    if (module := sys.modules.get("harope_bench.judges.inception.inception_network")) is not None:
        module.load_inception.cache_clear()
