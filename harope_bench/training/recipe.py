"""Recipes: the settings of a training, read from TOML and validated.

A field whose TOML key differs from its name has the key as its alias.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from harope_bench.core import limits, registry
from harope_bench.core.errors import OptionError, PluginError
from harope_bench.core.record_base import Name, Record, validation_summary
from harope_bench.core.schema import Config
from harope_bench.core.storage import sha256_bytes
from harope_bench.core.toml_file import parse_toml, read_toml_bytes


class Schedule(Record):
    """The optimisation: AdamW without weight decay, clipped gradients, linear warm-up.

    decay: after the warm-up, half a cosine to zero, or a constant learning rate.
    snapshot_interval: steps from one snapshot to the next.
    threads: number of threads, which decides the last bits of sums; the machine's if left out.
    """

    steps: int = Field(gt=0, le=limits.MAX_TRAINING_STEPS)
    batch: int = Field(gt=0, le=limits.MAX_TRAINING_BATCH_SIZE)
    lr: float = Field(gt=0, le=1_000)
    warmup_steps: int = Field(alias="warmup", ge=0, le=limits.MAX_TRAINING_STEPS)
    max_grad_norm: float = Field(alias="clip", gt=0, le=1_000_000)
    seed: int = Field(ge=0, le=limits.MAX_SEED)
    snapshot_interval: int = Field(alias="snapshot", gt=0, le=limits.MAX_TRAINING_STEPS)
    decay: Literal["cosine", "none"] = "cosine"
    threads: int | None = Field(default=None, gt=0, le=limits.MAX_THREADS)


class ModelRecipe(Record):
    """Base class of the recipes of a model of one encoding, which becomes a checkpoint."""

    name: Name
    suite: Name
    backbone: Name
    config: Config
    schedule: Schedule
    ema_decay: float = Field(alias="ema", ge=0, lt=1)


class GeneratorRecipe(ModelRecipe):
    """Base class of the recipes of a model that generates.

    sampler_steps, guidance: the defaults of its checkpoint.
    """

    sampler: Name
    sampler_steps: int = Field(alias="draw_steps", gt=0, le=limits.MAX_STEPS)
    guidance: float = Field(ge=0, le=limits.MAX_GUIDANCE)


class JudgeRecipe(Record):
    """Base class of the recipes of a judge's network.

    The judge is trained on the training split of `suite` and its accuracy is measured on the
    held-out split.
    """

    name: Name
    suite: Name
    judge: Name
    schedule: Schedule
    min_accuracy: float = Field(alias="least_accuracy", ge=0, le=1)


class DenoiserRecipe(GeneratorRecipe):
    """A diffusion or flow model with class labels, of one encoding.

    label_dropout: probability that an example is trained without its label.
    """

    kind: Literal["denoiser"]
    label_dropout: float = Field(alias="label_drop", ge=0, le=1)


class TextToImageRecipe(GeneratorRecipe):
    """A flow model with captions, of one encoding.

    caption_dropout: probability that an example is trained without its caption.
    n_scenes: number of rendered training scenes.
    single_object_fraction: fraction of the scenes with a single object that is used.
    precision: of the matrix products in training.
    checkpoint_steps: steps whose EMA weights become checkpoints too, each at a snapshot.
    base_checkpoints: the checkpoint that training starts from, by encoding; `default` is for all
        other encodings.
    """

    kind: Literal["painter"]
    caption_dropout: float = Field(alias="text_drop", ge=0, le=1)
    n_scenes: int = Field(alias="scenes", gt=0, le=limits.MAX_SCENES)
    single_object_fraction: float = Field(alias="spare", default=1.0, ge=0, le=1)
    checkpoint_steps: tuple[int, ...] = Field(alias="keep", default=())
    precision: Literal["float32", "bfloat16"] = "float32"
    base_checkpoints: dict[str, Name] = Field(alias="base", default={})

    @model_validator(mode="after")
    def _check_checkpoint_steps(self) -> TextToImageRecipe:
        """Raise ValueError unless every checkpoint step is the step of a snapshot."""
        interval = self.schedule.snapshot_interval
        last_step = self.schedule.steps
        invalid_steps = [
            step for step in self.checkpoint_steps if step % interval or not 0 < step < last_step
        ]
        if invalid_steps:
            raise ValueError(
                f"keep {invalid_steps}: wanted multiples of snapshot {interval} below {last_step}"
            )
        return self


class ClassifierRecipe(ModelRecipe):
    """An image classifier of one encoding.

    It is trained on the training split of `suite` and registered for the suite `test_suite`.
    """

    kind: Literal["vit"]
    test_suite: Name = Field(alias="tested_on")
    label_smoothing: float = Field(alias="smoothing", default=0.0, ge=0, lt=1)


class DigitsJudgeRecipe(JudgeRecipe):
    """The network of a judge of digits."""

    kind: Literal["classifier"]


class ShapesJudgeRecipe(JudgeRecipe):
    """The network of a judge of rendered scenes; its held-out split has test captions."""

    kind: Literal["scene-reader"]


class ReferenceRecipe(Record):
    """Reference statistics of a judge's features on the images of a suite's split.

    image_origin: a word for the origin of the images (real, rendered).
    """

    kind: Literal["reference"]
    name: Name
    suite: Name
    judge: Name
    split: str
    image_origin: str = Field(alias="made", default="real")


class JudgeErrorRecipe(Record):
    """The error rates of a judge without weights in `n_scenes` scenes of known contents."""

    kind: Literal["exam"]
    name: Name
    judge: Name
    n_scenes: int = Field(alias="scenes", gt=0, le=limits.MAX_SCENES)


AnyRecipe = (
    DenoiserRecipe
    | TextToImageRecipe
    | ClassifierRecipe
    | DigitsJudgeRecipe
    | ShapesJudgeRecipe
    | ReferenceRecipe
    | JudgeErrorRecipe
)
Recipe = Annotated[AnyRecipe, Field(discriminator="kind")]


def read_recipe(name: str) -> tuple[AnyRecipe, str]:
    """Return a recipe and the sha256 of its file.

    Of a recipe that another package adds as a dict, the hash is that of its fields as JSON.

    Args:
        name: the name of a recipe or the path of a TOML file.

    Raises:
        UnknownNameError: There is no such recipe.
        PluginError: The recipe of another package is no dict of plain values.
        OptionError: The file is missing, or a field is missing, unknown or out of range.
    """
    if name.endswith(".toml"):
        path = Path(name)
    else:
        entry = registry.find_entry("recipes", name)
        if entry.path is None:
            return _read_installed_recipe(entry)
        path = entry.path
    if not path.exists():
        raise OptionError(
            f"recipe {path} does not exist; give the name of a recipe or the path of its TOML file"
        )
    data = read_toml_bytes(path)
    return _parse_recipe(parse_toml(data, path), path), sha256_bytes(data)


def _read_installed_recipe(entry: registry.RegistryEntry) -> tuple[AnyRecipe, str]:
    """Return the recipe that a package adds as a dict, and the sha256 of its fields as JSON."""
    fields = registry.load_entry(entry)
    try:
        data = json.dumps(fields, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"PLUGIN of recipe {entry.name!r} must be a dict of plain values: {error}; write the"
            " keys of a recipe's TOML"
        ) from error
    recipe = _parse_recipe(fields, entry.origin)
    if recipe.name != entry.name:
        raise PluginError(
            f"recipe {entry.name!r} of {entry.origin} has name {recipe.name!r}; give both the same"
            " name"
        )
    return recipe, sha256_bytes(data)


def _parse_recipe(fields: object, origin: Path | str) -> AnyRecipe:
    """Return the recipe that a dict describes; raise OptionError for a field that is wrong."""
    try:
        recipe: AnyRecipe = TypeAdapter(Recipe).validate_python(fields)
    except ValidationError as error:
        raise OptionError(
            f"recipe {origin}: {validation_summary(error)}; correct the field"
        ) from error
    return recipe
