"""The records that the stages exchange: frozen, validated, written as JSON with sorted keys.

Each stage reads records of the stage before: plan, samples, measurements, results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from harope_bench.core import limits
from harope_bench.core.device import DEVICE_PATTERN, device_type
from harope_bench.core.json_file import JsonObject
from harope_bench.core.record_base import FileRecord, Label, Name, Option, Record

# Sizes of a network, by the name of the parameter.
Config = Annotated[dict[str, Option], AfterValidator(limits.validate_config)]
REPEATABLE_KEY = "is_repeatable"  # of a config; False where one request gave different images
# The fields of a checkpoint that go into the digest of a plan.
DIGEST_FIELDS = ("name", "backbone", "encoding", "options", "config", "sha256")
# Settings that records of earlier versions do not have; they are written only where they are set.
NEUTRAL_PIPELINE_OPTIONS = ("enable_model_cpu_offload",)  # decide where a pipeline runs alone
LATER_SETTINGS = ("guidance_interval", "shift", "diffusion", "pipeline_options", "tf32")
# Two numbers from 0 to 1, such as 0..0.9.
INTERVAL_PATTERN = r"^(0(\.\d{1,9})?|1(\.0{1,9})?)\.\.(0(\.\d{1,9})?|1(\.0{1,9})?)$"
# Entries of a config that decide no pixel: the folder of the base model, which the manifest's hash
# identifies, and the environment variable of an API key.
API_KEY_VARIABLE = "api_key_variable"
NEUTRAL_CONFIG_KEYS = ("base", API_KEY_VARIABLE)
UNKNOWN_SHA256 = "0" * 64  # recorded where the hash of weights is unknown


class Settings(Record):
    """How samples are generated. Every field can change pixels and is part of the plan.

    A field is None if it does not apply to the backbone.

    Attributes:
        resolution: Side of the image in pixels.
        sampler: Name of the sampler.
        steps: Number of its steps.
        guidance: Scale of classifier-free guidance; 1 is no guidance.
        seed: Seed of the initial noise.
        tile: Number of images generated in one forward pass of fixed, padded size. Sample i is
            always in row i % tile, so its pixels do not depend on which others are requested.
        device: Where the network runs. The digest contains the device without its number.
        dtype: Precision of the network.
        pos_scaling: Method for positions beyond the training grid (encodings/scaling.py).
        guidance_channels: Latent channels that are guided: the first three, as in DiT, or all.
        mu_policy: FLUX's time shift for image sizes beyond its training sizes.
        vae: Folder or hub id of the autoencoder.
        vae_sha256: Hash of the autoencoder's weights. The digest contains it instead of `vae`.
        vae_tiling: Whether the autoencoder decodes the latent in tiles.
        fold: Whether matrices before the rotation are folded into the query and key projections.
            Results differ in the last bits.
        spacing: Which training timesteps a sampler with fewer steps uses, if not the sampler's
            default (models/samplers/ddpm.py).
        labels: Distribution of the class labels.
        guidance_interval: "LOW..HIGH": guidance acts where LOW <= t <= HIGH; t is 0 at the image
            and 1 at pure noise.
        shift: Factor by which a sampler of flows shifts its times towards noise.
        diffusion: How much noise a stochastic sampler of flows adds along the way
            (models/samplers/flow_sde.py).
        pipeline_options: Options of a library's pipeline by name: arguments of its call that are
            no other field, such as negative_prompt, with their defaults.
        tf32: Whether CUDA may round the factors of float32 products to TF32. None leaves torch's
            defaults.
    """

    resolution: int = Field(gt=0, le=limits.MAX_RESOLUTION)
    sampler: Name | None = None
    steps: int | None = Field(default=None, gt=0, le=limits.MAX_STEPS)
    guidance: float | None = Field(default=None, ge=0, le=limits.MAX_GUIDANCE)
    seed: int = Field(default=0, ge=0, le=limits.MAX_SEED)
    tile: int = Field(gt=0, le=limits.MAX_PADDED_BATCH_SIZE)
    device: str = Field(default="cpu", pattern=DEVICE_PATTERN)
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
    guidance_interval: str | None = Field(default=None, pattern=INTERVAL_PATTERN)
    shift: float | None = Field(default=None, gt=0, le=limits.MAX_SHIFT)
    diffusion: Literal["sigma", "constant", "decreasing", "increasing-decreasing"] | None = None
    pipeline_options: dict[str, Option] | None = None
    tf32: Literal[True] | None = None

    @model_serializer(mode="wrap")
    def _omit_absent_settings(self, serialize: SerializerFunctionWrapHandler) -> JsonObject:
        """Return the fields; without later settings a record has the bytes of earlier versions."""
        fields: JsonObject = serialize(self)
        return {k: v for k, v in fields.items() if v is not None or k not in LATER_SETTINGS}

    @field_validator("tile")
    @classmethod
    def _check_batch_pixels(cls, tile: int, info: ValidationInfo) -> int:
        """Return the padded batch size; raise ValueError if its images have too many pixels."""
        if tile * info.data.get("resolution", 1) ** 2 > limits.MAX_PADDED_BATCH_PIXELS:
            raise ValueError(
                f"a tile of {tile} images of this resolution has more than"
                f" {limits.MAX_PADDED_BATCH_PIXELS:,} pixels; lower the tile or the resolution"
            )
        return tile

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, interval: str | None) -> str | None:
        """Return an interval; raise ValueError if its ends are the other way round."""
        if interval is not None:
            low, high = map(float, interval.split(".."))
            if low > high:
                raise ValueError(f"LOW is above HIGH in {interval}; write it as {high:g}..{low:g}")
        return interval

    @property
    def sampling_text(self) -> str:
        """Return sampler, steps and guidance in words.

        A classifier has no sampler. Some networks take no guidance. A pipeline that is run as it is
        has a scheduler of its own.
        """
        numbers = (self.steps, self.guidance)
        if self.sampler is None and self.pipeline_options is None and numbers == (None, None):
            return "no sampler"
        unnamed = "sampler not stated" if self.pipeline_options is None else "own scheduler"
        sampler = self.sampler or unnamed
        steps = "steps not set" if self.steps is None else f"{self.steps:,} steps"
        guidance = "no guidance" if self.guidance is None else f"guidance {self.guidance:g}"
        options = [
            f"{name.replace('_', ' ')} {value}" for name, value in self.sampling_options.items()
        ]
        return ", ".join([sampler, steps, guidance, *options])

    @property
    def sampling_options(self) -> dict[str, Option]:
        """Return the set options that change images and that few samplers or pipelines have."""
        values: dict[str, Option | None] = {
            "guidance_interval": self.guidance_interval,
            "shift": self.shift,
            "diffusion": self.diffusion,
            **(self.pipeline_options or {}),
        }
        return {
            name: value
            for name, value in values.items()
            if value is not None and name not in NEUTRAL_PIPELINE_OPTIONS
        }


class Checkpoint(Record):
    """Registered weights and everything that is needed to run them.

    A classifier generates no images: it has no sampler, steps or guidance.

    Attributes:
        name: Name, as `list checkpoints` prints it.
        backbone: Architecture of the network.
        encoding: Positional encoding.
        options: Options of the encoding.
        config: Sizes of the network.
        weights: Path of the weights, sha256: their hash. For an image endpoint the address of its
            server, and UNKNOWN_SHA256.
        source: Where the weights come from, as text for people.
        scale: Small model of this project ("micro") or a model of the paper ("paper").
        suite, sampler, steps, guidance: Default of a run.
        drawing: Defaults of further fields of Settings for generating images, by field name.
        recipe: Name of the recipe that the weights were trained with.
        recipe_sha256: Hash of the recipe.
        training_seed: Seed of the training.
        training_steps: Number of training steps.
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

    @property
    def is_repeatable(self) -> bool:
        """Return whether equal requests give equal images; registration tests it for pipelines."""
        return self.config.get(REPEATABLE_KEY) is not False

    @property
    def has_known_weights(self) -> bool:
        """Return whether the weights have a hash."""
        return self.sha256 != UNKNOWN_SHA256

    @property
    def identity(self) -> str:
        """Return the hash that distinguishes checkpoints.

        It is that of the weights or, where these are unknown, of all fields that decide pixels.
        """
        if self.has_known_weights:
            return self.sha256
        fields = self.model_dump(mode="json", include=set(DIGEST_FIELDS))
        fields["config"] = drop_neutral_config(fields["config"])
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def weights_text(self) -> str:
        """Return the start of the hash of the weights, or in words that they are unknown."""
        if self.has_known_weights:
            return f"weights {self.sha256[:12]}"
        repeats = ", not repeatable" if not self.is_repeatable else ""
        return f"weights unknown, {self.weights}{repeats}"


def drop_neutral_config(config: JsonObject) -> JsonObject:
    """Return a config without the entries that decide no pixel."""
    return {key: value for key, value in config.items() if key not in NEUTRAL_CONFIG_KEYS}


class Request(Record):
    """One requested image.

    Attributes:
        index: Its index in the suite.
        label: Class label, in a suite of labels.
        prompt: Text, in a suite of prompts.
    """

    index: int = Field(ge=0)
    label: int | None = None
    prompt: str | None = None


class Plan(FileRecord):
    """Everything that, together with its index, decides the pixels of a sample.

    Attributes:
        checkpoint: The checkpoint that generates.
        suite: Name of the suite.
        suite_version: Version of the suite.
        settings: How samples are generated.
        preset: Name of the set of settings that the user chose. It is not part of the digest.
    """

    kind = "plan"

    checkpoint: Checkpoint
    suite: Name
    suite_version: int
    settings: Settings
    preset: Name | None = None

    def digest_fields(self) -> JsonObject:
        """Return the fields that decide pixels, and the checkpoint's name.

        Paths of files and the defaults of the checkpoint are not among them.
        """
        fields = self.model_dump(mode="json")
        settings = {name: value for name, value in fields["settings"].items() if value is not None}
        if "vae_sha256" in settings:
            settings.pop("vae", None)  # the path of the autoencoder decides nothing
        settings["device"] = device_type(settings["device"])  # all of one machine's are equal
        fields["settings"] = settings

        fields["checkpoint"] = {name: fields["checkpoint"][name] for name in DIGEST_FIELDS}
        fields["checkpoint"]["config"] = drop_neutral_config(fields["checkpoint"]["config"])
        del fields["preset"]  # a name for the settings, which are in the digest themselves
        return fields

    @property
    def digest(self) -> str:
        """Return the hex sha256 of the fields that decide pixels."""
        return hashlib.sha256(json.dumps(self.digest_fields(), sort_keys=True).encode()).hexdigest()


class SampleRecord(Record):
    """One line of samples.jsonl, written after the image file is complete.

    Attributes:
        index: Index of the request.
        file: Path of the image, relative to the run folder.
        sha256: Hash of the image file.
        label: Class label that was requested.
        prompt: Prompt that was requested.
        status: Whether the image was generated.
        reason: Why it was not generated.
    """

    index: int = Field(ge=0)
    file: str | None = None
    sha256: str | None = None
    label: int | None = None
    prompt: str | None = None
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None

    def model_post_init(self, _: object) -> None:
        """Raise ValueError if a generated sample has no file or a failed one no reason."""
        if self.status == "ok" and not self.file:
            raise ValueError(f"sample {self.index}: generated, without a file")
        if self.status == "failed" and not self.reason:
            raise ValueError(f"sample {self.index}: failed without a reason")


# The least and the greatest value of each unit.
UNIT_BOUNDS = {
    "fraction": (0.0, 1.0),
    "score0-1": (0.0, 1.0),
    "clip-cosine": (-1.0, 1.0),
    "percent": (0.0, 100.0),
    "score0-100": (0.0, 100.0),
}


class Metric(Record):
    """A metric: its title, direction, unit and the number of decimals that are printed.

    needs_equal_copies: The value depends on the number of images per prompt, so values are
    comparable only for equal numbers.
    """

    name: Name
    title: str
    direction: Literal["higher", "lower"]
    unit: str
    decimals: int
    needs_equal_copies: bool = False

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the least and the greatest possible value; None for a unit without bounds."""
        return UNIT_BOUNDS.get(self.unit)


class Measurement(Record):
    """One value of a metric with its standard error and confidence interval, or None with a reason.

    Attributes:
        metric: The metric's name.
        name: The metric's name with the number of images, such as fid-50k.
        value: The value; None if it could not be computed.
        se: Standard error.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        interval: Method of the interval.
        n_asked: Number of requested images; equals n_scored + n_failed + n_abstained.
        n_scored: Number of images that were scored.
        n_failed: Number of images that are missing or could not be read or annotated.
        n_abstained: Number of images that no rule scores.
        reason: Why the value is None.
    """

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
        """Raise ValueError if the counts do not add up or a missing value has no reason."""
        if self.n_asked != self.n_scored + self.n_failed + self.n_abstained:
            raise ValueError(
                f"{self.name}: asked {self.n_asked} is not scored + failed + abstained"
            )
        if self.value is None and not self.reason:
            raise ValueError(f"{self.name}: a missing value needs a reason")


class Provenance(Record):
    """How a record was made.

    Attributes:
        version: Version of harope-bench.
        commit: Commit of the git checkout.
        dirty: Whether the checkout had uncommitted changes.
        python: Version of Python.
        platform: Operating system and processor.
        device: Device of the networks.
        packages: Versions of the libraries that decide numbers.
        flags: Settings of the libraries that decide last bits.
        command: The command line.
        started: Time of the start (ISO 8601, UTC).
        finished: Time of the end (ISO 8601, UTC).
    """

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


NO_JUDGE = "none"  # name of the JudgeRecord of a result that needed no judge
# Whose network a judge is: the paper's ("official"), the same weights and preprocessing in other
# code ("equivalent"), a small one ("micro") or another one ("substitute").
JudgeClass = Literal["official", "equivalent", "micro", "substitute"]
LENIENT_WARNING = (
    "missing: scored although images, answers or whole tasks may be missing (--allow-missing)"
)
# What a warning of a result is about.
WarningCode = Literal[
    "images",  # format, order, layout or colours of the images
    "protocol",  # number or size of the images, or several images of one prompt
    "judge",  # weights, class or numerics of the judge
    "judge-changed",  # the judge now installed is not the one that made the features
    "judge-paths",  # shards of features were computed on different code paths
    "devices",  # workers had devices of several kinds
    "substitute",  # another judge replaces the official one
    "imported",  # the numbers come from an official script that ran elsewhere
    "reference",  # content or origin of the reference
    "lenient",  # scored although images or answers may be missing
    "evaluator",  # a remark of the evaluator on its own numbers
]
# From the judge of the paper to the least similar one.
JUDGE_CLASSES: tuple[JudgeClass, ...] = ("official", "equivalent", "micro", "substitute")


class JudgeRecord(Record):
    """The network that extracted features or annotated images.

    Attributes:
        name: Name of the judge.
        version: Version of the judge; another one gives other features or annotations.
        judge_class: Whose network it is: `official`, `equivalent`, `micro` or `substitute`.
        weights_sha256: Hash of the weights.
        preprocessing: How images are resized and normalised, in words.
        model: Folder or hub id of a network that the user chose.
    """

    name: Name
    version: int
    judge_class: JudgeClass
    weights_sha256: str
    preprocessing: str
    model: str | None = None

    @property
    def has_known_weights(self) -> bool:
        """Return whether the weights have a hash, or no judge was needed."""
        return self.weights_sha256 != UNKNOWN_SHA256 or self.name == NO_JUDGE


class ErrorRate(Record):
    """How often a judge was wrong on cases of one kind whose ground truth is known."""

    case_kind: str
    n_wrong: int = Field(ge=0)
    n_cases: int = Field(gt=0)

    @property
    def rate(self) -> float:
        """Return the fraction of wrong cases."""
        return self.n_wrong / self.n_cases

    @property
    def text(self) -> str:
        """Return the counts and the kind of cases in words."""
        return f"{self.n_wrong:,} of {self.n_cases:,} {self.case_kind}"


def highest_error_text(rates: Sequence[ErrorRate]) -> str:
    """Return the highest error rate in words, or that no case of any kind was wrong."""
    highest = max(rates, key=lambda rate: rate.rate)
    if highest.n_wrong:
        return f"at worst {highest.text}"
    n_cases = sum(rate.n_cases for rate in rates)
    return f"no error in {n_cases:,} cases of {len(rates)} kinds"


class ImageSource(Record):
    """The location of images outside the run folder, so that `verify` can score them again.

    Attributes:
        suite: Suite whose protocol was used.
        path: Folder or file of the images, relative to the run folder.
        count, subset_seed: Which of the images were scored.
        order, pattern, file_list, side, tiles: Layout of the image folder as the user stated it.
            The path of `file_list` is relative to the run folder.
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
    """A warning about a result: a text for people and a code for programs."""

    code: WarningCode
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text


def make_warnings(code: WarningCode, texts: Iterable[str]) -> tuple[ResultWarning, ...]:
    """Return one warning per text, all with the same code."""
    return tuple(ResultWarning(code=code, text=text) for text in texts)


class RuleDifference(Record):
    """The two values of a metric whose official and corrected rules disagree.

    A value is None if no image counts under that set of rules. `decimals` is the number of
    decimals that are printed.
    """

    metric: Name
    official: float | None
    corrected: float | None
    decimals: int = Field(ge=0)

    @property
    def text(self) -> str:
        """Return both values in words, the official one first."""
        official_text = f"{self._format_value(self.official)} official"
        corrected_text = f"{self._format_value(self.corrected)} corrected"
        return f"{self.metric} is {official_text}, {corrected_text}"

    def _format_value(self, value: float | None) -> str:
        return "none" if value is None else f"{value:.{self.decimals}f}"


class Result(FileRecord):
    """The measurements of one evaluator on one sample set.

    Attributes:
        evaluator: Name of the evaluator.
        version: Version of the evaluator.
        profile: Implementation of the metrics that is imitated.
        rules: Official rules of the benchmark, or the corrected ones.
        parity: How closely the evaluator reproduces the official implementation.
        scale: Scale of the numbers.
        target: Path of the run folder or of the images.
        label: Text of its row in tables, if the user gave one.
        suite: Suite of a result without a plan.
        resolution: Side in pixels (square images) of a result without a plan.
        plan: Plan of the run; None for images of other programs.
        plan_digest: Digest of the plan.
        samples_sha256: Digest of the sample set.
        judge: The judge, or one record that summarises all of `judges`.
        judges: By role, if the evaluator uses several.
        judge_error_rates: By name of the judge, if measured on images with known ground truth.
        annotations_sha256: Hash of the annotations that were scored.
        reference: Name of what the images are measured against.
        reference_sha256: Its hash.
        measurements: The values.
        is_lenient: Whether images, answers or whole tasks may be missing (--allow-missing).
        rule_differences: Metrics whose value differs under the other set of rules. `warnings` do
            not repeat them.
        warnings: Warnings about the images, the judge, the reference and the numbers.
        arrays_file: Name of the .npz with per-sample arrays beside the result.
        sample_scores_file: Name of the file with score and reason of each image.
        source: Location of the images if they are not in the run folder.
        provenance: How the result was made.
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
        """Return the texts of the warnings, followed by the differences between the rules."""
        differences = (f"rules: {difference.text}" for difference in self.rule_differences)
        return (*(warning.text for warning in self.warnings), *differences)

    @property
    def suite_name(self) -> str | None:
        """Return the suite that the images were evaluated for; None if it is not recorded."""
        return self.plan.suite if self.plan else self.suite

    @property
    def side(self) -> int | None:
        """Return the side of the images in pixels; None if it is not recorded."""
        return self.plan.settings.resolution if self.plan else self.resolution

    def find_measurement(self, metric: str) -> Measurement | None:
        """Return the measurement of a metric, for any number of images; None if there is none."""
        return next((m for m in self.measurements if m.metric == metric), None)
