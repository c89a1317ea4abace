"""Training: seeded by step, killed and resumed without a trace, refused when the folder is
another's.
"""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harope_bench.core import registry
from harope_bench.core.errors import (
    BenchError,
    OptionError,
    PlanMismatchError,
    UnknownNameError,
    WeightsError,
)
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import sha256_file
from harope_bench.core.toml_file import read_versioned_toml, toml_text
from harope_bench.training import denoiser, loop
from harope_bench.training.model_training import TrainingSpec
from harope_bench.training.recipe import DenoiserRecipe, JudgeErrorRecipe, Schedule, read_recipe

KEPT_TEXTS = ("digits-harope.safetensors", "digits-harope.toml", "log.csv", "snapshot.pt")

# A real process that trains; it tells its parent of every snapshot, and every step takes a little,
# so that it can be hit between two.
SLOWLY = """
import sys, time
from pathlib import Path
from harope_bench.training import denoiser, loop
from harope_bench.training.model_training import TrainingSpec
from harope_bench.training.recipe import read_recipe

one, save = loop.Trainer._train_step, loop.Trainer.save_snapshot
def slow(self, loss):
    time.sleep(0.01)
    return one(self, loss)
def telling(self):
    save(self)
    print(self.step, flush=True)
loop.Trainer._train_step, loop.Trainer.save_snapshot = slow, telling
recipe, digest = read_recipe(sys.argv[1])
model = TrainingSpec(recipe, digest, "harope", {})
denoiser.train_denoiser(recipe, model, "digits-harope", Path(sys.argv[2]), True)
"""


def train(
    recipe: Path, folder: Path, encoding: str = "harope", resume: bool = True, **options: Any
) -> Checkpoint:
    read, digest = read_recipe(str(recipe))
    assert isinstance(read, DenoiserRecipe)
    return denoiser.train_denoiser(
        read, TrainingSpec(read, digest, encoding, options), f"digits-{encoding}", folder, resume
    )


def left(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in KEPT_TEXTS}


# ------------------------------------------------------------------------------------------- seeds


def test_two_runs_of_one_recipe_are_equal_bit_for_bit(tiny_recipe: Path, tmp_path: Path) -> None:
    train(tiny_recipe, tmp_path / "one")
    torch.manual_seed(5)  # the global generator has no say
    torch.rand(3)
    train(tiny_recipe, tmp_path / "two")
    assert left(tmp_path / "one") == left(tmp_path / "two")


def test_another_seed_trains_other_weights(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (3, 4):
        train(make_recipe(name=f"seed{seed}", seed=seed), tmp_path / str(seed))
    first_file, second_file = (load_file(tmp_path / str(seed) / KEPT_TEXTS[0]) for seed in (3, 4))
    assert any(not torch.equal(first_file[k], second_file[k]) for k in first_file)


def test_training_leaves_the_global_generator_alone(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    train(make_recipe(steps=2), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_steps_generator_is_a_function_of_seed_and_step() -> None:
    first_values = {
        (seed, step): float(torch.rand((), generator=loop.step_generator(seed, step)))
        for seed in range(3)
        for step in range(12)
    }
    assert len(set(first_values.values())) == len(first_values)
    assert float(torch.rand((), generator=loop.step_generator(1, 12))) != float(
        torch.rand((), generator=loop.step_generator(11, 2))
    )


# ------------------------------------------------------------------------------- killed and resumed


def test_a_killed_and_resumed_training_equals_one_that_ran_through(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    snapshot = 7  # not on a line of the log
    recipe = make_recipe(steps=45, snapshot=snapshot)
    train(recipe, tmp_path / "through")
    broken_path, rng = tmp_path / "broken", random.Random()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(recipe), str(broken_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    counts = [
        int(process.stdout.readline()) for _ in range(rng.randint(1, 2))
    ]  # killed somewhere after its first or second snapshot
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0.0, 0.04))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert counts[-1] in (snapshot, 2 * snapshot)
    assert not (broken_path / KEPT_TEXTS[0]).exists()
    stood_tensor = torch.load(broken_path / "snapshot.pt", weights_only=True)["step"]
    assert counts[-1] <= stood_tensor < 45  # nothing that was reported done is lost
    train(recipe, broken_path)
    assert left(broken_path) == left(tmp_path / "through")


def test_a_kill_between_snapshot_and_log_loses_no_line(tiny_recipe: Path, tmp_path: Path) -> None:
    train(tiny_recipe, tmp_path / "run")
    whole_fields = left(tmp_path / "run")
    (tmp_path / "run" / "log.csv").unlink()
    (tmp_path / "run" / KEPT_TEXTS[0]).unlink()
    train(tiny_recipe, tmp_path / "run")
    assert left(tmp_path / "run") == whole_fields


def test_a_finished_training_is_not_done_again(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_recipe, tmp_path / "run")
    monkeypatch.setattr(loop.Trainer, "_train_step", lambda *_: pytest.fail("trained again"))
    train(tiny_recipe, tmp_path / "run")


def test_without_resume_a_training_starts_over(tiny_recipe: Path, tmp_path: Path) -> None:
    train(tiny_recipe, tmp_path / "run")
    whole_fields = left(tmp_path / "run")
    train(tiny_recipe, tmp_path / "run", resume=False)
    assert left(tmp_path / "run") == whole_fields


def test_a_snapshot_of_another_recipe_is_refused_and_both_are_named(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    package_recipe, other_recipe = (
        make_recipe(name="mine", steps=3),
        make_recipe(name="other", steps=4),
    )
    train(package_recipe, tmp_path / "run")
    before = left(tmp_path / "run")
    with pytest.raises(PlanMismatchError) as excinfo:
        train(other_recipe, tmp_path / "run")
    text = str(excinfo.value)
    assert f"recipe mine {sha256_file(package_recipe)[:12]}, encoding harope" in text
    assert f"wanted recipe other {sha256_file(other_recipe)[:12]}, encoding harope" in text
    assert "\n" not in text
    assert left(tmp_path / "run") == before


@pytest.mark.parametrize("change", [{"encoding": "rope-axial"}, {"qk_mode": "same"}])
def test_a_snapshot_of_another_encoding_or_option_is_refused(
    tiny_recipe: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    train(tiny_recipe, tmp_path / "run")
    with pytest.raises(PlanMismatchError, match=f"wanted .*{next(iter(change.values()))}"):
        train(tiny_recipe, tmp_path / "run", **change)


def test_a_recipe_changed_in_one_number_is_another_recipe(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    train(make_recipe(name="r", steps=3), tmp_path / "run")
    with pytest.raises(PlanMismatchError):
        train(make_recipe(name="r", steps=3, seed=4), tmp_path / "run")


# -------------------------------------------------------------------------------- what is left
# behind


def test_a_training_leaves_a_checkpoint_that_draws(tiny_recipe: Path, tmp_path: Path) -> None:
    checkpoint = train(tiny_recipe, tmp_path / "run")
    versioned_toml = read_versioned_toml("checkpoint", tmp_path / "run" / "digits-harope.toml")
    model_validate = Checkpoint.model_validate(versioned_toml)
    assert model_validate == checkpoint
    assert (
        model_validate.sampler,
        model_validate.steps,
        model_validate.guidance,
        model_validate.training_seed,
        model_validate.training_steps,
    ) == ("flow", 2, 1.5, 3, 25)
    assert model_validate.recipe_sha256 == sha256_file(tiny_recipe)
    path = tmp_path / "run" / model_validate.weights
    assert model_validate.sha256 == sha256_file(path)
    state = load_file(path)
    assert {v.dtype for v in state.values()} == {torch.float16}  # half the file
    from harope_bench.core.schema import Request, Settings

    settings = Settings(resolution=28, sampler="flow", steps=2, guidance=1.5, tile=2)
    drawer = registry.load_by_name("backbones", "dit").open(model_validate, state, settings)
    generated_samples = drawer.generate([Request(index=i, label=i) for i in range(2)], settings)
    assert generated_samples.images.shape == (2, 28, 28, 3)
    assert not generated_samples.failures


def test_the_log_has_a_line_for_every_ten_steps_every_snapshot_and_the_end(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    train(make_recipe(steps=23, snapshot=7), tmp_path / "run")
    head, *lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert head == "step,loss"
    assert [int(line.split(",")[0]) for line in lines] == [7, 10, 14, 20, 21, 23]
    assert all(math.isfinite(float(line.split(",")[1])) for line in lines)


def test_training_lowers_the_loss(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    train(make_recipe(steps=200, snapshot=200), tmp_path / "run")
    losses = [
        float(line.split(",")[1])
        for line in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]
    ]
    # a fresh DiT predicts zero, so it starts at E|noise - x|^2, between 1 and 2; the mean of ten
    # steps wanders by about 0.1
    assert 1.2 < losses[0] < 2.2
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]


def test_the_kept_weights_are_the_running_average(
    make_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_items: list[dict[str, torch.Tensor]] = []
    train_step = loop.Trainer._train_step

    def spy(self: loop.Trainer, loss: Any) -> float:
        value = train_step(self, loss)
        passed_items.append({k: v.detach().clone() for k, v in self.network.state_dict().items()})
        return value

    monkeypatch.setattr(loop.Trainer, "_train_step", spy)
    train(make_recipe(steps=12), tmp_path / "run")
    state = load_file(tmp_path / "run" / KEPT_TEXTS[0])
    for key, kept_state in state.items():
        # the start weighs 1 x 2 x ... and is zero here: step 1 takes 10/11 of itself, and so on up
        # to the recipe's 0.9
        average, decays = None, [min(0.9, step / (step + 10)) for step in range(1, 13)]
        for decay, weights in zip(decays, passed_items, strict=True):
            average = initial(key) if average is None else average
            average = decay * average + (1 - decay) * weights[key].double()
        assert average is not None
        torch.testing.assert_close(
            kept_state.double(), average, rtol=2e-3, atol=1e-5
        )  # float16 keeps 11 bits


def initial(key: str) -> torch.Tensor:
    """The weights before the first step of the tiny recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = {
            "hidden": 16,
            "depth": 1,
            "heads": 2,
            "patch": 7,
            "size": 28,
            "channels": 1,
            "classes": 10,
        }
        return (
            registry.load_by_name("backbones", "dit")
            .build("harope", {}, config)
            .state_dict()[key]
            .double()
        )


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=110, batch=1, lr=2.0, warmup=10, clip=1, seed=0, snapshot=1)
    rates = [loop.learning_rate(schedule, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)  # half of the cosine
    assert rates[109] == pytest.approx(0, abs=1e-3)
    assert all(b <= a for a, b in pairwise(rates[9:]))
    assert (
        loop.learning_rate(
            Schedule(steps=5, batch=1, lr=2.0, warmup=0, clip=1, seed=0, snapshot=1), 0
        )
        == 2.0
    )


def test_labels_are_dropped_at_the_recipes_rate(tiny_recipe: Path) -> None:
    recipe, _ = read_recipe(str(tiny_recipe))
    assert isinstance(recipe, DenoiserRecipe)
    recipe = recipe.model_copy(
        update={
            "label_dropout": 0.25,
            "schedule": recipe.schedule.model_copy(update={"batch": 400}),
        }
    )
    items: list[torch.Tensor] = []

    def network(x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        items.append(labels)
        assert x.min() >= -6
        return torch.zeros_like(x)

    loss = denoiser.denoising_loss(recipe)
    for step in range(10):
        loss(network, loop.step_generator(0, step))
    labels = torch.cat(items)
    assert float((labels == 10).double().mean()) == pytest.approx(
        0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000)
    )
    assert set(labels.tolist()) == set(range(11))


# ------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", registry.list_names("recipes"))
def test_every_shipped_recipe_is_read_and_named_by_its_file(name: str) -> None:
    recipe, digest = read_recipe(name)
    assert recipe.name == name
    path = registry.find_entry("recipes", name).path
    assert path is not None
    assert digest == sha256_file(path)
    if isinstance(recipe, JudgeErrorRecipe):
        registry.find_entry("judges", recipe.judge)
        return
    registry.find_entry("suites", recipe.suite)
    if isinstance(recipe, DenoiserRecipe):
        for encoding in registry.list_names("encodings"):
            registry.load_by_name("backbones", recipe.backbone).build(encoding, {}, recipe.config)
        registry.find_entry("samplers", recipe.sampler)


@pytest.mark.parametrize(
    ("wrong_text", "right", "message"),
    [
        ("ema = 0.9", "ema = 0.9\nmomentum = 0.9", "momentum: Extra inputs are not permitted"),
        (
            "batch = 4",
            "batch = 4\nbatchsize = 4",
            r"schedule\.batchsize: Extra inputs are not permitted",
        ),
        ("clip = 1.0\n", "", r"schedule\.clip: Field required"),
        ("ema = 0.9", "ema = 1.0", "ema: Input should be less than 1"),
        ("label_drop = 0.1", "label_drop = 1.1", "label_drop"),
        ("steps = 25", "steps = 0", r"schedule\.steps"),
        ("lr = 0.01", "lr = nan", r"schedule\.lr"),
        ('kind = "denoiser"', 'kind = "denoisr"', "denoisr"),
        ('suite = "digits"', 'suite = "../digits"', "is not a plain name"),
    ],
)
def test_a_recipe_with_a_wrong_field_is_refused_by_file_and_field(
    tiny_recipe: Path, wrong_text: str, right: str, message: str
) -> None:
    text = tiny_recipe.read_text()
    assert wrong_text in text
    tiny_recipe.write_text(text.replace(wrong_text, right))
    with pytest.raises(OptionError, match=rf"recipe .*tiny\.toml: .*{message}") as excinfo:
        read_recipe(str(tiny_recipe))
    assert "\n" not in str(excinfo.value)


def test_a_config_field_that_the_backbone_does_not_know_is_refused_before_training(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    tiny_recipe.write_text(tiny_recipe.read_text().replace("patch = 7", "patch = 7\nwindow = 3"))
    with pytest.raises(OptionError, match="dit config window: Extra inputs are not permitted"):
        train(tiny_recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe_encoding_or_option_is_refused_before_training(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UnknownNameError, match="no recipe named 'digits-di'; did you mean digits-dit"
    ):
        read_recipe("digits-di")
    with pytest.raises(UnknownNameError, match="did you mean harope"):
        train(tiny_recipe, tmp_path / "run", encoding="haropee")
    with pytest.raises(OptionError, match="its options: base, .*qk_mode"):
        train(tiny_recipe, tmp_path / "run", mode="same")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"name": 'quotes " and \\ and \n lines', "umlaut": "äöü €"},
        {
            "flag": True,
            "off": False,
            "count": 3,
            "small": 1e-05,
            "large": 1e22,
            "whole": 2.0,
            "list": ["a", "b"],
        },
        {"last": 1, "table": {"a": 1, "b": "x"}, "empty": {}},
    ],
)
def test_facts_come_back_from_their_toml(fields: dict[str, Any]) -> None:
    back = tomllib.loads(toml_text(fields))
    assert back == fields
    assert {k: type(v) for k, v in back.items()} == {k: type(v) for k, v in fields.items()}


def test_a_damaged_snapshot_and_a_diverged_loss_are_one_line(tmp_path: Path) -> None:
    network, schedule = (
        torch.nn.Linear(1, 1),
        Schedule(steps=3, batch=1, lr=0.1, warmup=0, clip=1.0, seed=0, snapshot=10),
    )
    trainer = loop.Trainer(network, schedule, 0.9, tmp_path, "me")
    with pytest.raises(BenchError, match="the loss is nan at step 0"):
        trainer.train(lambda net, rng: net(torch.full((1, 1), float("nan"))).sum(), "t")
    (tmp_path / "snapshot.pt").write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="delete it or pass --no-resume"):
        trainer.resume()
