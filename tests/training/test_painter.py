"""Training from captions: the gauge of the words, kept steps, weights to start from, resuming."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from harope_bench.core import registry
from harope_bench.core.errors import MissingAssetError, OptionError, WeightsError
from harope_bench.core.schema import Checkpoint
from harope_bench.core.state_dicts import load_weights, weights_bytes
from harope_bench.core.storage import sha256_file
from harope_bench.training import loop, run_recipe, text_to_image
from harope_bench.training.model_training import TrainingSpec, base_weights_path, load_base_weights
from harope_bench.training.recipe import Schedule, TextToImageRecipe, read_recipe

RECIPE = """
kind = "painter"
name = "tiny"
suite = "shapes"
backbone = "mmdit-micro"
sampler = "flow"
draw_steps = 2
guidance = 2.0
text_drop = 0.5
ema = 0.5
scenes = 60
keep = [4]

[config]
hidden = 16
double = 1
single = 1
heads = 2
patch = 8
size = 32
channels = 3
words = "{words}"
places = 10

[schedule]
steps = 8
batch = 6
lr = 0.001
warmup = 2
decay = "none"
clip = 1.0
seed = 3
snapshot = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    words = read_recipe("shapes-base")[0].config["words"]  # type: ignore[union-attr]
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.replace("{words}", str(words)))
    return path


def train(
    recipe: Path, folder: Path, encoding: str = "rope-axial", base: Path | None = None
) -> Checkpoint:
    read, digest = read_recipe(str(recipe))
    assert isinstance(read, TextToImageRecipe)
    return text_to_image.train_text_to_image(
        read, TrainingSpec(read, digest, encoding, {}, base), f"tiny-{encoding}", folder, True
    )


def read_small_recipe(recipe: Path) -> TextToImageRecipe:
    read = read_recipe(str(recipe))[0]
    assert isinstance(read, TextToImageRecipe)
    return read


class TextOnlyNetwork(nn.Module):
    """Predicts from the words alone, and remembers what it was told."""

    def __init__(self, right: Tensor):
        super().__init__()
        self.right, self.seen = right, list[Tensor]()

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        self.seen.append(words)
        return x * 0 + (words == self.right).all(1)[:, None, None, None]


def test_two_runs_are_equal_and_an_interrupted_one_is_too(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight_checkpoint = train(recipe, tmp_path / "straight")
    assert train(recipe, tmp_path / "again").sha256 == straight_checkpoint.sha256
    train_step = loop.Trainer._train_step

    def failing(self: loop.Trainer, loss: loop.LossFunction) -> float:
        if self.step == 6:
            raise KeyboardInterrupt
        return train_step(self, loss)

    monkeypatch.setattr(loop.Trainer, "_train_step", failing)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken")
    monkeypatch.setattr(loop.Trainer, "_train_step", train_step)
    assert train(recipe, tmp_path / "broken").sha256 == straight_checkpoint.sha256
    assert (tmp_path / "broken/log.csv").read_text() == (tmp_path / "straight/log.csv").read_text()


def test_kept_steps_are_checkpoints_of_their_own(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path)
    early_weight, late_weight = (
        load_weights(tmp_path / f"tiny-rope-axial{tail}.safetensors") for tail in ("-at-4", "")
    )
    assert early_weight.keys() == late_weight.keys() and any(
        not torch.equal(early_weight[key], late_weight[key]) for key in early_weight
    )
    assert "training_steps = 4" in (tmp_path / "tiny-rope-axial-at-4.toml").read_text()


def test_the_log_says_what_true_and_shuffled_captions_cost(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [list(row) for row in rows] == [
        ["step", "loss", "loss_own_captions", "loss_shuffled_captions"]
    ] * 2
    assert [int(row["step"]) for row in rows] == [4, 8]


def test_the_gauge_opens_for_a_network_that_uses_the_words(recipe: Path) -> None:
    """Captions move on within their task, so that words which say the task alone would not open
    it.
    """
    read = read_small_recipe(recipe)
    scenes = text_to_image.render_scenes(
        read, range(read.n_scenes, read.n_scenes + text_to_image.N_VALIDATION_SCENES)
    )
    only_network = TextOnlyNetwork(scenes.caption_tokens)
    true_value, shuffled_value = text_to_image.validation_metrics(read).measure(only_network)
    assert true_value != shuffled_value
    moved_seen = only_network.seen[1]
    assert torch.equal(only_network.seen[0], scenes.caption_tokens) and not torch.equal(
        moved_seen, scenes.caption_tokens
    )
    assert torch.equal(moved_seen[6:], scenes.caption_tokens[:-6])


def test_captions_are_dropped_at_the_recipes_rate(recipe: Path) -> None:
    read = read_small_recipe(recipe).model_copy(
        update={"schedule": read_small_recipe(recipe).schedule.model_copy(update={"batch": 400})}
    )
    scenes = text_to_image.render_scenes(read, range(60))
    network = TextOnlyNetwork(torch.zeros(400, 10, dtype=torch.long))
    text_to_image.text_to_image_loss(read, scenes)(network, Generator().manual_seed(0))
    dropped_mean_value = (network.seen[0] == 0).all(1).float().mean()
    assert 0.42 < dropped_mean_value < 0.58


@pytest.mark.parametrize(("spare_value", "count"), [(1.0, 20), (0.5, 10), (0.0, 0)])
def test_scenes_of_one_thing_are_spared(recipe: Path, spare_value: float, count: int) -> None:
    """Of 60 scenes 20 show one thing; all that is drawn from in 600 examples are as many different
    ones as are left.
    """
    schedule = read_small_recipe(recipe).schedule.model_copy(update={"batch": 600})
    read = read_small_recipe(recipe).model_copy(
        update={
            "single_object_fraction": spare_value,
            "caption_dropout": 0.0,
            "schedule": schedule,
        }
    )
    scenes = text_to_image.render_scenes(read, range(60))
    numbered_captioned_scenes = text_to_image.CaptionedScenes(
        scenes.images, torch.arange(1, 61)[:, None].expand(60, 10), scenes.is_single_object
    )
    network = TextOnlyNetwork(torch.zeros(600, 10, dtype=torch.long))
    text_to_image.text_to_image_loss(read, numbered_captioned_scenes)(
        network, Generator().manual_seed(0)
    )
    rows = [row for row in range(60) if (network.seen[0][:, 0] == row + 1).any()]
    assert sum(bool(scenes.is_single_object[row]) for row in rows) == count
    assert len(rows) == 40 + count


def model(recipe: Path, encoding: str, **config: Any) -> TrainingSpec:
    read, digest = read_recipe(str(recipe))
    assert isinstance(read, TextToImageRecipe)
    return TrainingSpec(
        read.model_copy(update={"config": {**read.config, **config}}), digest, encoding, {}
    )


def test_a_training_starts_from_the_weights_it_is_given(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "base")
    base = tmp_path / "base/tiny-rope-axial.safetensors"
    network = registry.load_by_name("backbones", "mmdit-micro").build(
        "harope", {}, read_small_recipe(recipe).config
    )
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_base_weights(network, model(recipe, "harope"), base)
    state, weights = network.state_dict(), load_weights(base)
    for key, value in state.items():
        assert torch.equal(
            value, before[key] if key.startswith("encoding.") else weights[key].float()
        ), key
    checkpoint = train(recipe, tmp_path / "on", "harope", base)
    assert checkpoint.source.endswith(
        f"--encoding harope --base tiny-rope-axial.safetensors ({sha256_file(base)[:12]})"
    )


def test_a_base_of_another_network_is_refused(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "base")
    base, network = tmp_path / "base/tiny-rope-axial.safetensors", nn.Linear(1, 1)
    with pytest.raises(OptionError, match="another config than recipe tiny"):
        load_base_weights(network, model(recipe, "harope", words="green a circle"), base)
    with pytest.raises(OptionError, match="trained with rope-axial, which adds positions where"):
        load_base_weights(network, model(recipe, "ape"), base)


@pytest.mark.parametrize("note", ["hello", "[1]", '{"config": 3}'])
def test_a_note_of_another_program_is_no_note(recipe: Path, tmp_path: Path, note: str) -> None:
    train(recipe, tmp_path / "base")
    base = tmp_path / "noted.safetensors"
    base.write_bytes(
        weights_bytes(
            load_weights(tmp_path / "base/tiny-rope-axial.safetensors"), {"checkpoint": note}
        )
    )
    load_base_weights(
        registry.load_by_name("backbones", "mmdit-micro").build(
            "harope", {}, read_small_recipe(recipe).config
        ),
        model(recipe, "harope"),
        base,
    )


def test_a_base_that_lacks_more_than_the_encoding_is_refused(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "base")
    state = load_weights(tmp_path / "base/tiny-rope-axial.safetensors")
    bare_path = tmp_path / "bare.safetensors"  # without a note: whoever wrote it
    bare_path.write_bytes(
        weights_bytes(
            {key: value for key, value in state.items() if not key.startswith("blocks.1")}, {}
        )
    )
    network = registry.load_by_name("backbones", "mmdit-micro").build(
        "harope", {}, read_small_recipe(recipe).config
    )
    with pytest.raises(WeightsError, match="blocks.1"):
        load_base_weights(network, model(recipe, "harope"), bare_path)


def test_a_recipe_names_what_its_encodings_go_on_from(
    monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path
) -> None:
    shipped_recipe = read_recipe("shapes-mmdit")[0]
    assert isinstance(shipped_recipe, TextToImageRecipe)
    for encoding, name in (
        ("harope", "shapes-base-rope-axial"),
        ("my-pe", "shapes-base-rope-axial"),
    ):
        path = base_weights_path(shipped_recipe, encoding)
        assert path is not None and path.stem == name
    with pytest.raises(MissingAssetError, match="train shapes-base --encoding ape"):
        base_weights_path(shipped_recipe, "ape")
    assert base_weights_path(read_small_recipe(recipe), "harope") is None
    path = base_weights_path(shipped_recipe, "harope")
    monkeypatch.setattr(
        "harope_bench.training.model_training.find_weights_path", lambda result: recipe
    )
    with pytest.raises(WeightsError):
        base_weights_path(shipped_recipe, "harope")


def test_a_kill_between_keeping_and_saving_loses_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, tmp_path / "straight")
    save = loop.Trainer.save_snapshot

    def failing(self: loop.Trainer) -> None:
        if self.step == 4:
            raise KeyboardInterrupt
        save(self)

    monkeypatch.setattr(loop.Trainer, "save_snapshot", failing)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken")
    monkeypatch.setattr(loop.Trainer, "save_snapshot", save)
    train(recipe, tmp_path / "broken")
    for name in ("tiny-rope-axial-at-4.safetensors", "tiny-rope-axial.safetensors", "log.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes()


@pytest.mark.parametrize("keep", [3, 8, 12])
def test_a_step_that_could_not_be_kept_is_refused(recipe: Path, keep: int) -> None:
    recipe.write_text(recipe.read_text().replace("keep = [4]", f"keep = [4, {keep}]"))
    with pytest.raises(OptionError, match=rf"keep \[{keep}\]"):
        read_recipe(str(recipe))


def test_threads_are_the_recipes_while_it_trains_and_then_as_before(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(recipe.read_text() + "threads = 3\n")
    before, records, train_step = torch.get_num_threads(), set[int](), loop.Trainer._train_step

    def counting(self: loop.Trainer, loss: loop.LossFunction) -> float:
        records.add(torch.get_num_threads())
        return train_step(self, loss)

    monkeypatch.setattr(loop.Trainer, "_train_step", counting)
    train(recipe, tmp_path)
    assert records == {3} and torch.get_num_threads() == before


def test_the_rate_stays_where_it_is_not_to_decay() -> None:
    schedule = Schedule(
        steps=100, batch=1, lr=0.5, warmup=10, clip=1, seed=0, snapshot=1, decay="none"
    )
    assert [loop.learning_rate(schedule, step) for step in (0, 9, 10, 50, 99)] == pytest.approx(
        [0.05, 0.5, 0.5, 0.5, 0.5]
    )


def test_recipes_without_a_base_refuse_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--base"):
        run_recipe.run_recipe("digits-dit", "harope", {}, None, tmp_path, True, tmp_path)


def test_bfloat16_products_are_trained_with_where_the_recipe_says_so(recipe: Path) -> None:
    read, records = read_small_recipe(recipe), []

    class Product(nn.Module):
        def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
            records.append((x.flatten(1) @ x.flatten(1).mT).dtype)
            return x

    values = torch.zeros(1, 3, 32, 32)
    for precision in ("float32", "bfloat16"):
        changed_read = read.model_copy(update={"precision": precision})
        assert (
            text_to_image.predict_target(
                Product(),
                changed_read,
                values,
                torch.zeros(1),
                torch.zeros(1, 10, dtype=torch.long),
            ).dtype
            == torch.float32
        )
    assert records == [torch.float32, torch.bfloat16]
