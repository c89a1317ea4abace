"""The nouns of the house: frozen, validated, written as JSON with sorted keys and no NaN.

Every stage reads what the stage before wrote; these classes are the whole of that agreement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from harope_bench.core import limits
from harope_bench.core.json_file import JsonObject
from harope_bench.core.record_base import FileRecord, Label, Name, Option, Record

Config = Annotated[dict[str, Option], AfterValidator(limits.check_config)]  # of a network
DIGEST_FIELDS = (
    "name",
    "backbone",
    "encoding",
    "options",
    "config",
    "sha256",
)  # of a checkpoint, for the pixels of a plan


class Settings(Record):
    """How a sample is drawn; everything here changes pixels and is part of the plan.

    `tile` is the padded batch shape of the network: sample i always sits in row i % tile, so its
    bits do not depend on what was asked for beside it. What is None has no meaning for the
    backbone.

    pos_scaling: how positions beyond the training grid are met (encodings/scaling.py).
    guidance_channels: of a latent, guided as
    DiT does ("3") or all. mu_policy: FLUX's time shift beyond its training sizes. vae: folder or
    hub id of the autoencoder, vae_sha256
    what it holds, which decides pixels in its place. fold: matrices before the rotation are moved
    into the projections (last bits differ).
    spacing: which training steps a sampler of fewer steps takes, where it is not the sampler's own
    way (models/samplers/ddpm.py).
    """

    resolution: int = Field(gt=0, le=limits.MAX_RESOLUTION)
    sampler: Name | None = None
    steps: int | None = Field(default=None, gt=0, le=limits.MAX_STEPS)
    guidance: float | None = Field(default=None, ge=0, le=limits.MAX_GUIDANCE)
    seed: int = Field(default=0, ge=0, le=limits.MAX_SEED)
    tile: int = Field(gt=0, le=limits.MAX_PADDED_BATCH_SIZE)
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    pos_scaling: (
        Literal["none", "linear", "ntk", "ntk-by-parts", "yarn", "extend", "interpolate"] | None
    ) = None
    guidance_channels: Literal["3", "all"] | None = None
    mu_policy: Literal["extrapolate", "clamp"] | None = None
    vae: str | None = None
    vae_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    vae_tiling: bool | None = None
    fold: bool | None = None
    spacing: Literal["linspace", "leading"] | None = None
    labels: str | None = Field(default=None, pattern=r"^(uniform|balanced|file:[0-9a-f]{64})$")

    @field_validator("tile")
    @classmethod
    def _fits_in_memory(cls, tile: int, info: ValidationInfo) -> int:
        """Refuse a padded batch whose images alone fill the memory."""
        if tile * info.data.get("resolution", 1) ** 2 > limits.MAX_PADDED_BATCH_PIXELS:
            raise ValueError(
                f"a tile of {tile} images of this resolution has more than"
                f" {limits.MAX_PADDED_BATCH_PIXELS:,} pixels; lower one"
            )
        return tile

    @property
    def sampling_text(self) -> str:
        """Return sampler, steps and guidance in words; a classifier has none of them, some networks
        take no guidance.
        """
        if self.sampler is None:
            return "no sampler"
        steps = "steps not set" if self.steps is None else f"{self.steps:,} steps"
        return (
            f"{self.sampler}, {steps},"
            f" {'no guidance' if self.guidance is None else f'guidance {self.guidance:g}'}"
        )


class Checkpoint(Record):
    """Registered weights and all that is needed to run them. `drawing` holds defaults of further
    Settings, by field.

    A classifier draws nothing: it has no sampler, steps or guidance.
    """

    name: Name
    backbone: Name
    encoding: Name
    options: dict[str, Option] = {}
    config: Config = {}
    weights: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    source: str
    scale: Literal["micro", "paper"] = "paper"
    suite: Name | None = None
    sampler: Name | None = None
    steps: int | None = Field(default=None, gt=0, le=limits.MAX_STEPS)
    guidance: float | None = Field(default=None, ge=0, le=limits.MAX_GUIDANCE)
    drawing: dict[str, Option] = {}
    recipe: str | None = None
    recipe_sha256: str | None = None
    training_seed: int | None = None
    training_steps: int | None = None


class Request(Record):
    """One image that is asked for."""

    index: int = Field(ge=0)
    label: int | None = None
    prompt: str | None = None


class Plan(FileRecord):
    """What every sample of a run is a function of, together with its index. `preset` names where
    the settings came from.
    """

    kind = "plan"

    checkpoint: Checkpoint
    suite: Name
    suite_version: int
    settings: Settings
    preset: Name | None = None

    def digest_fields(self) -> JsonObject:
        """The fields that decide pixels, and the checkpoint's name; not where its weights or its
        base lie nor its defaults.
        """
        body = self.model_dump(mode="json")
        body["settings"] = {
            field: value for field, value in body["settings"].items() if value is not None
        }
        if "vae_sha256" in body["settings"]:
            body["settings"].pop("vae", None)  # where it lies decides nothing
        body["checkpoint"] = {field: body["checkpoint"][field] for field in DIGEST_FIELDS}
        body["checkpoint"]["config"].pop(
            "base", None
        )  # the base is known by its hash, which the manifest holds
        del body["preset"]  # a name for the settings, which decide
        return body

    @property
    def digest(self) -> str:
        """Hex sha256 of the deciding fields."""
        return hashlib.sha256(json.dumps(self.digest_fields(), sort_keys=True).encode()).hexdigest()


class SampleRecord(Record):
    """One line of samples.jsonl: written after the image is in its place."""

    index: int = Field(ge=0)
    file: str | None = None
    sha256: str | None = None
    label: int | None = None
    prompt: str | None = None
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None

    def model_post_init(self, _: object) -> None:
        """Holds that a drawn sample names its image and a failed one its reason."""
        if self.status == "ok" and not self.file:
            raise ValueError(f"sample {self.index}: drawn, without a file")
        if self.status == "failed" and not self.reason:
            raise ValueError(f"sample {self.index}: failed without a reason")


UNIT_BOUNDS = {
    "fraction": (0.0, 1.0),
    "score0-1": (0.0, 1.0),
    "clip-cosine": (-1.0, 1.0),
    "percent": (0.0, 100.0),
    "score0-100": (0.0, 100.0),
}  # by unit: no value of it lies outside


class Metric(Record):
    """What a measurement's name means.

    needs_equal_copies: Its value moves with the number of images of a prompt, so that values of
    other numbers never compare.
    """

    name: Name
    title: str
    direction: Literal["higher", "lower"]
    unit: str
    decimals: int
    needs_equal_copies: bool = False

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the most that a value can be, by its unit; None where the unit has no such
        bounds.
        """
        return UNIT_BOUNDS.get(self.unit)


class Measurement(Record):
    """One number with its error, or None with a reason. asked = scored + failed + abstained."""

    metric: Name
    name: Name
    value: float | None
    se: float | None = Field(default=None, ge=0)
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    n_asked: int = Field(ge=0)
    n_scored: int = Field(ge=0)
    n_failed: int = Field(default=0, ge=0)
    n_abstained: int = Field(default=0, ge=0)
    reason: str | None = None

    def model_post_init(self, _: object) -> None:
        """Holds asked = scored + failed + abstained, and a reason beside each missing value."""
        if self.n_asked != self.n_scored + self.n_failed + self.n_abstained:
            raise ValueError(
                f"{self.name}: asked {self.n_asked} is not scored + failed + abstained"
            )
        if self.value is None and not self.reason:
            raise ValueError(f"{self.name}: a missing value needs a reason")


class Provenance(Record):
    """Who made a record, with what, where and when (ISO 8601, UTC)."""

    version: str
    commit: str | None
    dirty: bool | None
    python: str
    platform: str
    device: str
    packages: dict[str, str]
    flags: dict[str, Option]
    command: str
    started: str
    finished: str


UNKNOWN_SHA256 = "0" * 64  # hash of a judge's weights that a file of results does not tell
NO_JUDGE = "none"  # name of the record of images that no judge had to look at
JudgeClass = Literal["official", "equivalent", "micro", "substitute"]
# a result's warning
LENIENT_WARNING = (
    "missing: scored although images, answers or whole tasks may be missing (--allow-missing)"
)
WarningCode = Literal[
    "images",  # their format, order, placing or colours
    "protocol",  # their number or size is not the suite's, or several are of one prompt
    "judge",  # its weights, its class, or how it computed
    "judge-changed",  # the judge that is here now is not the one that looked
    "judge-paths",  # shards were looked at in different ways
    "substitute",  # a judge stands in for the official one
    "imported",  # the numbers are of an official script that ran elsewhere
    "reference",  # what it holds, or who made it
    "lenient",  # scored although something may be missing
    "evaluator",  # what the rule says of its own numbers
]
JUDGE_CLASSES: tuple[JudgeClass, ...] = (
    "official",
    "equivalent",
    "micro",
    "substitute",
)  # the paper's own first


class JudgeRecord(Record):
    """Which network looked at the images; `model` is the folder or hub id of one that the user
    named.
    """

    name: Name
    version: int
    judge_class: JudgeClass
    weights_sha256: str
    preprocessing: str
    model: str | None = None

    @property
    def has_known_weights(self) -> bool:
        """Whether the network is known: its weights have a hash, or no image needed one."""
        return self.weights_sha256 != UNKNOWN_SHA256 or self.name == NO_JUDGE


class ErrorRate(Record):
    """How often a judge was wrong where the truth is known: `wrong` of `of` cases of a kind."""

    case_kind: str
    n_wrong: int = Field(ge=0)
    n_cases: int = Field(gt=0)

    @property
    def rate(self) -> float:
        """Of one."""
        return self.n_wrong / self.n_cases

    @property
    def text(self) -> str:
        """Count and kind."""
        return f"{self.n_wrong:,} of {self.n_cases:,} {self.case_kind}"


def highest_error_text(rates: Sequence[ErrorRate]) -> str:
    """The most frequent error in words, or that there was none in any case."""
    most = max(rates, key=lambda rate: rate.rate)
    return (
        f"at worst {most.text}"
        if most.n_wrong
        else f"no error in {sum(rate.n_cases for rate in rates):,} cases of {len(rates)} kinds"
    )


class ImageSource(Record):
    """Where the images of a result lie that are not in its own run folder, so that `verify` can
    score them again.

    suite: whose protocol. path: from the run folder. count, subset: which of them were scored.
    order, pattern, file_list (from the run
    folder), side, tiles: what the user stated of a folder's images.
    """

    suite: Name
    path: str
    count: int | None = None
    subset_seed: int | None = None
    order: Literal["copy-major", "prompt-major"] | None = None
    pattern: str | None = None
    file_list: str | None = None
    side: int | None = None
    tiles: int | None = None


class ResultWarning(Record):
    """What a reader must know of a result: the text for people, and a code by which programs tell
    warnings apart.
    """

    code: WarningCode
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text


def make_warnings(code: WarningCode, texts: Iterable[str]) -> tuple[ResultWarning, ...]:
    """Return warnings of one code, in the order of their texts."""
    return tuple(ResultWarning(code=code, text=text) for text in texts)


class RuleDifference(Record):
    """The values of one metric under both sets of rules, where they differ; None where no image
    counts under a set.

    decimals: how many of each value are printed.
    """

    metric: Name
    official: float | None
    corrected: float | None
    decimals: int = Field(ge=0)

    @property
    def text(self) -> str:
        """Return both values in words, the official one first."""
        values = {"official": self.official, "corrected": self.corrected}
        shown = (
            f"{'none' if value is None else f'{value:.{self.decimals}f}'} {rules}"
            for rules, value in values.items()
        )
        return f"{self.metric} is {', '.join(shown)}"


class Result(FileRecord):
    """What one evaluator said of one sample set. judges: by role, where several looked; `judge`
    then stands for them together.

    judge_errors: how often each judge was wrong, by name, where that was measured on known cases.

    rows: name of the file beside the result that holds verdict and reason of each image. source: of
    images that lie elsewhere.

    suite: for which the images were evaluated, resolution: their side in pixels where they are
    square; a result without a plan
    has no other record of them. label: the text of its row in tables, as the user gave it.

    is_lenient: It was scored although images, answers or whole tasks may be missing
    (--allow-missing).

    rule_differences: the metrics to which the other set of rules gives another value; `warnings` do
    not repeat them.
    """

    kind = "result"

    evaluator: Name
    version: int
    profile: str
    rules: Literal["official", "corrected"]
    parity: str
    scale: Literal["micro", "paper"]
    target: str
    label: Label | None = None
    suite: Name | None = None
    resolution: int | None = Field(default=None, gt=0)
    plan: Plan | None
    plan_digest: str | None
    samples_sha256: str
    judge: JudgeRecord
    judges: dict[str, JudgeRecord] = {}
    judge_error_rates: dict[str, tuple[ErrorRate, ...]] = {}
    annotations_sha256: str | None = None
    reference: str
    reference_sha256: str
    measurements: tuple[Measurement, ...]
    is_lenient: bool = False
    rule_differences: tuple[RuleDifference, ...] = ()
    warnings: tuple[ResultWarning, ...] = ()
    arrays_file: str | None = None
    sample_scores_file: str | None = None
    source: ImageSource | None = None
    provenance: Provenance

    @property
    def warning_texts(self) -> tuple[str, ...]:
        """Return what its warnings say, in order, and behind them the differences between the
        rules.
        """
        differences = (f"rules: {difference.text}" for difference in self.rule_differences)
        return (*(warning.text for warning in self.warnings), *differences)

    @property
    def suite_name(self) -> str | None:
        """Return the suite that the images were evaluated for; None where that is not recorded."""
        return self.plan.suite if self.plan else self.suite

    @property
    def side(self) -> int | None:
        """Return the side of the images in pixels; None where it is not recorded."""
        return self.plan.settings.resolution if self.plan else self.resolution

    def find_measurement(self, metric: str) -> Measurement | None:
        """The measurement of that metric, whatever number of images its name carries."""
        return next((m for m in self.measurements if m.metric == metric), None)
