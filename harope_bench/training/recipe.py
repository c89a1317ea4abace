"""Recipes: the facts of a training, read from TOML and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from harope_bench.core import limits, registry
from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Name, Record, validation_summary
from harope_bench.core.schema import Config
from harope_bench.core.storage import sha256_bytes
from harope_bench.core.toml_file import parse_toml, read_toml_bytes


class Schedule(Record):
    """Optimisation: AdamW without weight decay, warm-up, then half a cosine to zero or the same
    rate to the end, clipped gradients.

    threads: of the sums, whose last bits depend on them; as the machine has it where left out.
    """

    steps: int = Field(gt=0, le=limits.MAX_TRAINING_STEPS)
    batch: int = Field(gt=0, le=limits.MAX_TRAINING_BATCH_SIZE)
    lr: float = Field(gt=0, le=1_000)
    warmup: int = Field(ge=0, le=limits.MAX_TRAINING_STEPS)
    clip: float = Field(gt=0, le=1_000_000)
    seed: int = Field(ge=0, le=limits.MAX_SEED)
    snapshot: int = Field(gt=0, le=limits.MAX_TRAINING_STEPS)
    decay: Literal["cosine", "none"] = "cosine"
    threads: int | None = Field(default=None, gt=0, le=limits.MAX_THREADS)


class ModelRecipe(Record):
    """Base class of recipes of a model of one encoding, which becomes a checkpoint; `ema` is the
    rate of the running average.
    """

    name: Name
    suite: Name
    backbone: Name
    config: Config
    schedule: Schedule
    ema: float = Field(ge=0, lt=1)


class GeneratorRecipe(ModelRecipe):
    """Base class of recipes of a model that generates; steps and guidance are its checkpoint's
    defaults.
    """

    sampler: Name
    draw_steps: int = Field(gt=0, le=limits.MAX_STEPS)
    guidance: float = Field(ge=0, le=limits.MAX_GUIDANCE)


class JudgeRecipe(Record):
    """Base class of recipes of a judge's network, trained on the training split of `suite` and
    measured on the held-out one.
    """

    name: Name
    suite: Name
    judge: Name
    schedule: Schedule
    least_accuracy: float = Field(ge=0, le=1)


class DenoiserRecipe(GeneratorRecipe):
    """A diffusion or flow model of one encoding."""

    kind: Literal["denoiser"]
    label_drop: float = Field(ge=0, le=1)


class TextToImageRecipe(GeneratorRecipe):
    """A flow model of captions, of one encoding.

    scenes: how many are rendered; spare: share of those of one thing that is used. precision: of
    the matrix products in training.
    keep: steps whose running average is kept as a checkpoint of its own, each one of a snapshot.
    base: the checkpoint that an encoding goes on from, by encoding; `default` for any that is not
    named.
    """

    kind: Literal["painter"]
    text_drop: float = Field(ge=0, le=1)
    scenes: int = Field(gt=0, le=limits.MAX_SCENES)
    spare: float = Field(default=1.0, ge=0, le=1)
    keep: tuple[int, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    base: dict[str, Name] = {}

    @model_validator(mode="after")
    def _kept_at_snapshots(self) -> TextToImageRecipe:
        plan = self.schedule
        if lost := [
            step for step in self.keep if step % plan.snapshot or not 0 < step < plan.steps
        ]:
            raise ValueError(
                f"keep {lost}: wanted multiples of snapshot {plan.snapshot} below {plan.steps}"
            )
        return self


class ClassifierRecipe(ModelRecipe):
    """An image classifier of one encoding, trained on the training split of `suite` and registered
    for the suite `tested_on`.
    """

    kind: Literal["vit"]
    tested_on: Name
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class DigitsJudgeRecipe(JudgeRecipe):
    """The network of a judge of digits."""

    kind: Literal["classifier"]


class ShapesJudgeRecipe(JudgeRecipe):
    """The network of a judge of drawn scenes; its held-out split is scenes of test captions."""

    kind: Literal["scene-reader"]


class ReferenceRecipe(Record):
    """Reference statistics of a suite's images of a split as a judge sees them; `made` says in a
    word where these come from.
    """

    kind: Literal["reference"]
    name: Name
    suite: Name
    judge: Name
    split: str
    made: str = "real"


class JudgeErrorRecipe(Record):
    """How often a judge without weights errs in that many scenes of known truth."""

    kind: Literal["exam"]
    name: Name
    judge: Name
    scenes: int = Field(gt=0, le=limits.MAX_SCENES)


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
    """A recipe by its name or by the path of a TOML file, and the sha256 of the file.

    Raises:
        UnknownName: no such recipe. OptionError: a field is missing, unknown or out of range.
    """
    path = Path(name) if name.endswith(".toml") else registry.find_entry("recipes", name).path
    assert path is not None
    if not path.exists():
        raise OptionError(
            f"recipe {path} is not there; give a recipe's name or the path of its TOML"
        )
    data = read_toml_bytes(path)
    facts = parse_toml(data, path)
    try:
        recipe: AnyRecipe = TypeAdapter(Recipe).validate_python(facts)
    except ValidationError as error:
        raise OptionError(
            f"recipe {path}: {validation_summary(error)}; correct the field"
        ) from error
    return recipe, sha256_bytes(data)
