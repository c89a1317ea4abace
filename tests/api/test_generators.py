"""Python callables and loaded pipelines generate like checkpoints: planned, resumed, compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from python_generators import noise_generator, noise_images, seeded_images

import harope_bench as hb
from harope_bench.api.generators import SampleGenerators
from harope_bench.core.errors import (
    BenchError,
    GeneratorOutputError,
    OptionError,
    PlanMismatchError,
    UnknownNameError,
)
from harope_bench.core.sample_seeds import sample_seed
from harope_bench.models.samplers.noise import index_generator
from harope_bench.pipeline.generate import generate as generate_samples

HELPERS = Path(__file__).parents[1] / "helpers"


def file_bytes(folder: Path) -> dict[str, bytes]:
    """The bytes of plan, records, requests and images by relative path."""
    names = ("plan.json", "samples.jsonl", "requests.jsonl", "SHA256SUMS")
    files = [*(folder / name for name in names), *sorted((folder / "images").iterdir())]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path_script = f"import sys; sys.path.insert(0, {str(HELPERS)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", path_script + script, *arguments], capture_output=True, text=True
    )


# ----------------------------------------------------------------------------------------- equality


def test_a_killed_callable_resumes_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole_run = hb.generate(noise_generator(), "digits", count=13, out=tmp_path / "whole")
    script = (
        "import sys; from pathlib import Path; from python_generators import *\n"
        "generate_killed_after(Path(sys.argv[1]), 2, 13)"
    )
    killed = run_python(script, str(tmp_path / "killed"))
    assert killed.returncode == 9, killed.stderr
    partial_images = list((tmp_path / "killed" / "images").glob("*.png"))
    assert 0 < len(partial_images) < 13

    resumed_run = hb.generate(noise_generator(), "digits", count=13, out=tmp_path / "killed")
    assert file_bytes(resumed_run.path) == file_bytes(whole_run.path)


def test_a_finished_run_calls_the_generator_no_more(tmp_path: Path) -> None:
    hb.generate(noise_generator(), "digits", count=3, out=tmp_path)

    def failing_images(requests: object, generators: object) -> None:
        raise AssertionError("called again")

    run = hb.generate(noise_generator(call=failing_images), "digits", count=3, out=tmp_path)
    assert run.count == 3


def test_images_depend_on_neither_order_nor_count_nor_batch(tmp_path: Path) -> None:
    whole_run = hb.generate(noise_generator(), "digits", count=10, out=tmp_path / "whole")
    parts_folder = tmp_path / "parts"
    for count in (3, 10):
        parts_run = hb.generate(noise_generator(), "digits", count=count, out=parts_folder, batch=1)
    assert whole_run.records == parts_run.records

    from harope_bench.api.generators import open_python_generator

    reversed_folder = tmp_path / "reversed"
    generator = open_python_generator(noise_generator(), "digits")
    for index in reversed(range(10)):
        generate_samples(whole_run.plan, [index], reversed_folder, None, generator)
    assert (reversed_folder / "samples.jsonl").read_bytes() == (
        whole_run.path / "samples.jsonl"
    ).read_bytes()


def test_another_batch_size_is_another_plan_with_equal_images(tmp_path: Path) -> None:
    runs = [
        hb.generate(noise_generator(size), "digits", count=6, out=tmp_path / str(size))
        for size in (1, 4)
    ]
    assert runs[0].records == runs[1].records
    assert runs[0].plan.digest != runs[1].plan.digest


def test_a_call_always_has_a_full_batch_with_the_generators_of_checkpoints() -> None:
    seen_seeds: list[list[int]] = []

    def recording_images(requests: Sequence[Any], generators: Sequence[Any]) -> torch.Tensor:
        seen_seeds.append([request.seed for request in requests])
        for request, generator in zip(requests, generators, strict=True):
            expected = index_generator(5, request.index)
            assert torch.equal(generator.get_state(), expected.get_state())
        return noise_images(requests, generators)

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        hb.generate(
            noise_generator(4, call=recording_images), "digits", count=5, seed=5, out=folder
        )
    assert seen_seeds == [
        [sample_seed(5, i) for i in (0, 1, 2, 3)],
        [sample_seed(5, i) for i in (4, 4, 4, 4)],
    ]


def test_a_callable_that_uses_seeds_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from harope_bench.api.generators import SampleGenerators\n"
        "from harope_bench.core.errors import MissingExtraError\n"
        "generators = SampleGenerators([1, 2])\n"
        "assert len(generators) == 2\n"
        "try: generators[0]\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = run_python(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "a random generator (request.seed needs no package) needs torch, which is not installed;"
        " run: pip install 'harope-bench[torch]'"
    )
    run = hb.generate(noise_generator(call=seeded_images), "digits", count=2, out=tmp_path)
    assert len(list(run.images())) == 2


def test_sample_generators_are_a_sequence_whose_items_stay() -> None:
    generators = SampleGenerators([3, 4])
    assert generators[0] is generators[0]
    assert generators[-1] is generators[1]
    assert generators[:] == [generators[0], generators[1]]
    with pytest.raises(IndexError):
        generators[2]


# --------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "another"}, "checkpoint.name"),
        ({"version": "2"}, "checkpoint.config.version"),
        ({"settings": {"cfg": 3.0}}, "checkpoint.config.setting.cfg"),
        ({"settings": {"base": 3}}, "checkpoint.config.setting.base"),
        ({"encoding": "harope"}, "checkpoint.encoding"),
        ({"batch_size": 5}, "settings.tile"),
    ],
)
def test_another_generator_in_the_same_folder_is_the_error_that_names_the_field(
    tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    hb.generate(noise_generator(), "digits", count=2, out=tmp_path)
    with pytest.raises(PlanMismatchError, match=f"{field} is .* in the folder, .* requested"):
        hb.generate(noise_generator(**fields), "digits", count=2, out=tmp_path)


def test_seed_and_resolution_are_settings_of_the_plan(tmp_path: Path) -> None:
    run = hb.generate(
        noise_generator(), "digits", count=2, seed=7, resolution=16, out=tmp_path / "a"
    )
    assert (run.plan.settings.seed, run.plan.settings.resolution) == (7, 16)
    assert next(run.images()).shape == (16, 16, 3)
    other_run = hb.generate(noise_generator(), "digits", count=2, resolution=16, out=tmp_path / "b")
    assert run.records[0].sha256 != other_run.records[0].sha256


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "a/b"}, "is not a plain name"),
        ({"name": "digits-harope"}, "is a registered checkpoint"),
        ({"version": None}, "has no version, and code has no hash; give version='1'"),
        ({"batch_size": 0}, "batch_size 0 is not a whole number from 1 to"),
        ({"settings": {"sizes": [1, 2]}}, "setting 'sizes' of generator noise is of type list"),
        ({"call": 5}, "is of type int; give a callable"),
    ],
)
def test_a_generator_without_identity_is_rejected(call: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        noise_generator(**call)


def test_a_bare_callable_is_told_how_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="harope_bench.Generator\\(call, name='my-model', "):
        hb.generate(noise_images, "digits", out=tmp_path)
    with pytest.raises(OptionError, match="int is no generator"):
        hb.generate(5, "digits", out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"suite": None}, OptionError, "has no default suite"),
        ({"suite": "digitz"}, UnknownNameError, "did you mean digits"),
        ({"suite": "digits-held-out"}, OptionError, "is for classifiers"),
        ({"steps": 5}, OptionError, r"steps does not apply .* state it in Generator\(settings"),
        ({"wrong": 5}, OptionError, "wrong is no setting of generation; settings: steps"),
        ({"count": 0}, OptionError, "count 0 is no number of samples"),
        ({"labels": "uniform"}, OptionError, "leaves no choice of labels"),
        ({"resolution": -1}, OptionError, "resolution"),
    ],
)
def test_wrong_arguments_are_named_and_write_nothing(
    tmp_path: Path, arguments: dict[str, Any], error: type[BenchError], message: str
) -> None:
    options = {"suite": "digits", "count": 2, **arguments}
    with pytest.raises(error, match=message) as caught:
        hb.generate(noise_generator(), out=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------- wrong output


def numbers(shape: tuple[int, ...], dtype: Any = np.uint8) -> Any:
    return lambda requests, generators: np.zeros(shape, dtype)


def not_finite(requests: Any, generators: Any) -> torch.Tensor:
    return torch.full((4, 28, 28, 3), float("nan"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (numbers((4, 28, 28, 3), np.float32), "generator noise returned float32 values; return"),
        (not_finite, "generator noise returned float32 values with values that are not finite;"),
        (
            lambda requests, generators: np.full((4, 28, 28, 3), np.inf),
            "generator noise returned float64 values with values that are not finite;",
        ),
        (numbers((3, 28, 28, 3)), r"returned the shape \(3, 28, 28, 3\); return uint8 images"),
        (numbers((4, 3, 28, 28)), r"returned the shape \(4, 3, 28, 28\)"),
        (numbers((4, 28, 28)), r"returned the shape \(4, 28, 28\)"),
        (numbers((4, 32, 32, 3)), r"return uint8 images \(4, 28, 28, 3\), numpy or torch"),
        (lambda requests, generators: [1, 2, 3, 4], "generator noise returned list;"),
        (lambda requests, generators: None, "generator noise returned NoneType;"),
        (
            lambda requests, generators: torch.zeros(4, 28, 28, 3, dtype=torch.bfloat16),
            "generator noise returned bfloat16 values;",
        ),
    ],
)
def test_a_wrong_return_is_named_in_one_line(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(GeneratorOutputError, match=message) as caught:
        hb.generate(noise_generator(call=call), "digits", count=4, out=tmp_path)
    assert "\n" not in str(caught.value)
    run = hb.generate(noise_generator(), "digits", count=4, out=tmp_path)
    assert len(list(run.images())) == 4


# ----------------------------------------------------------------------------- other commands on it


def test_every_later_command_works_on_the_run(tmp_path: Path) -> None:
    run = hb.generate(noise_generator(), "digits", count=20, out=tmp_path / "noise")
    results = hb.evaluate(run)
    checkpoint_results = hb.evaluate(
        "digits-harope", count=20, steps=2, out=tmp_path / "digits-harope"
    )
    assert hb.compare(checkpoint_results, run).verdicts["precision"] in (
        "worse",
        "not resolved",
    )
    assert hb.gate(run, results, metrics="precision").is_pass
    view = hb.table(2, runs=tmp_path, add="noise=My noise")
    assert "My noise" in view.to_markdown()

    from click.testing import CliRunner

    from harope_bench.cli import main

    for arguments in (
        ["verify", str(run.path), "--redraw", "0"],
        ["eval", str(run.path)],
        ["report", "--runs", str(tmp_path), "--out", str(tmp_path / "report.html")],
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
    redraw = CliRunner().invoke(main, ["verify", str(run.path)])
    assert "is a Python generator, which is in no file" in redraw.output
    cost = CliRunner().invoke(main, ["eval", str(run.path), "--with", "cost"])
    assert cost.exit_code == 1
    assert "has no network of its own" in cost.output


def test_a_checkpoint_generates_the_bytes_of_the_command(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from harope_bench.cli import main

    run = hb.generate("digits-harope", count=3, steps=2, seed=4, out=tmp_path / "api")
    arguments = ["--count", "3", "--steps", "2", "--seed", "4", "--out", str(tmp_path / "cli")]
    done = CliRunner().invoke(main, ["generate", "digits-harope", *arguments])
    assert done.exit_code == 0, done.output
    assert file_bytes(run.path) == file_bytes(tmp_path / "cli")
    assert "digits-harope" in run._repr_html_()
    assert run._repr_html_().count("<img") == 3
    assert "3 samples" in repr(run)


# ---------------------------------------------------------------------------------------- pipelines


@pytest.fixture
def pipeline() -> Any:
    """A pipeline of diffusers whose images depend on prompt, generator, steps and guidance."""
    diffusers: Any = pytest.importorskip("diffusers")

    class TinyPipeline(diffusers.DiffusionPipeline):
        def __init__(self, network: torch.nn.Module):
            super().__init__()
            self.register_modules(network=network)

        def __call__(
            self,
            prompt: Any = None,
            height: int = 64,
            width: int = 64,
            num_inference_steps: int = 4,
            guidance_scale: float = 1.0,
            brightness: float = 0.0,
            generator: Any = None,
            output_type: str = "pil",
        ) -> Any:
            assert output_type == "np"
            noise = torch.stack([torch.rand(3, height, width, generator=g) for g in generator])
            lengths = torch.tensor([len(text) for text in prompt]).view(-1, 1, 1, 1)
            images = self.network(noise) / num_inference_steps + guidance_scale * lengths / 1000
            images = (images + brightness).detach().permute(0, 2, 3, 1).numpy()
            images[0] = images[0] * (float("nan") if brightness == 9 else 1)
            return type("Output", (), {"images": images})()

    class TinyNetwork(torch.nn.Conv2d):
        device = torch.device("cpu")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyPipeline(TinyNetwork(3, 3, 1))


def test_a_loaded_pipeline_generates_with_its_settings(tmp_path: Path, pipeline: Any) -> None:
    run = hb.generate(pipeline, "shapes", count=2, steps=3, guidance=2.0, out=tmp_path / "a")
    config = run.plan.checkpoint.config
    assert (run.plan.settings.steps, run.plan.settings.guidance) == (3, 2.0)
    assert (run.plan.checkpoint.name, config["conditioning"]) == ("TinyPipeline", "prompts")
    assert len(str(config["version"])) == 64

    generator = torch.Generator().manual_seed(sample_seed(0, 1))
    record = run.records[1]
    side = run.plan.settings.resolution
    output = pipeline(
        prompt=[record.prompt],
        height=side,
        width=side,
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=[generator],
        output_type="np",
    )
    expected = (output.images[0].clip(0, 1) * 255).round().astype(np.uint8)
    assert np.array_equal([*run.images()][1], expected)


def test_other_weights_of_a_pipeline_are_another_plan(tmp_path: Path, pipeline: Any) -> None:
    hb.generate(pipeline, "shapes", count=1, out=tmp_path)
    with torch.no_grad():
        next(pipeline.network.parameters()).add_(1)
    with pytest.raises(PlanMismatchError, match=r"checkpoint\.config\.version"):
        hb.generate(pipeline, "shapes", count=1, out=tmp_path)


def test_settings_of_a_pipeline_are_arguments_of_its_call(tmp_path: Path, pipeline: Any) -> None:
    runs = [
        hb.generate(
            hb.Generator(pipeline, name="tiny", version="1", settings={"brightness": value}),
            "shapes",
            count=1,
            out=tmp_path / str(value),
        )
        for value in (0.0, 0.5)
    ]
    assert runs[0].records[0].sha256 != runs[1].records[0].sha256


def test_a_row_of_a_pipeline_that_is_not_finite_has_failed(tmp_path: Path, pipeline: Any) -> None:
    generator = hb.Generator(
        pipeline, name="tiny", version="1", settings={"brightness": 9}, batch_size=2
    )
    run = hb.generate(generator, "shapes", count=2, out=tmp_path)
    assert [record.status for record in run.records.values()] == ["failed", "ok"]
    assert run.records[0].reason == "the pipeline's output is not finite"


def test_a_pipeline_without_the_needed_argument_is_rejected(tmp_path: Path, pipeline: Any) -> None:
    with pytest.raises(OptionError, match="takes no class_labels, suite digits asks for labels"):
        hb.generate(pipeline, "digits", count=1, out=tmp_path / "run")
    with pytest.raises(OptionError, match="is on cpu, device cuda asked for"):
        hb.generate(pipeline, "shapes", count=1, device="cuda", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
