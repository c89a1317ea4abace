"""The options of `eval` as one typed record, and their conversion to the pipeline's records.

None means that the user did not give the option; the target, the suite or the checkpoint decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.classify import RealImageSelection
from harope_bench.pipeline.evaluate import FeatureScoring
from harope_bench.pipeline.evaluate_prompts import PromptScoring, judges_by_suite
from harope_bench.pipeline.requirements import RequiredScoring
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

RUNS = Path("runs")  # parent folder of results without --out


@dataclass(frozen=True)
class GenerationOptions:
    """How samples are generated: the fields of a plan's settings, and the name of a preset.

    Attributes:
        drawing: Options of a library's pipeline: a mapping, or pairs of name and value.
    """

    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    seed: int | None = None
    labels: str | None = None
    preset: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    tf32: bool | None = None
    tile: int | None = None
    pos_scaling: str | None = None
    guidance_channels: str | None = None
    spacing: str | None = None
    mu_policy: str | None = None
    vae: str | None = None
    vae_tiling: bool | None = None
    fold: bool | None = None
    resolution: int | None = None
    guidance_interval: str | None = None
    shift: float | None = None
    diffusion: str | None = None
    drawing: Mapping[str, Option] | Sequence[tuple[str, Option]] = ()

    def overrides(self) -> dict[str, Option | None]:
        """Return all settings by field name, for `make_plan`; None where one is not given."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "drawing"}
        return {**settings, **dict(self.drawing)}

    @property
    def stated_options(self) -> list[str]:
        """Return the given options that would change images, as typed, in alphabetical order."""
        names = [name for name, value in self.overrides().items() if value is not None]
        stated = {
            "--drawing" if name in dict(self.drawing) else f"--{name.replace('_', '-')}"
            for name in names
            if name != "device"
        }
        return sorted(stated)


@dataclass(frozen=True)
class RealImageOptions:
    """The real images of a classifier: their folder, their label file and the crop.

    Attributes:
        crop_ratio: Resolution divided by the side that images are resized to before the crop.
    """

    images: Path | None = None
    ground_truth: Path | None = None
    crop_ratio: float | None = None


@dataclass(frozen=True)
class ScoringOptions:
    """How images are scored.

    Attributes:
        evaluators: Names of evaluators. None selects the suite's.
        subset: Seed of a random choice of `count` images. None selects the first `count`.
        reference: An .npz file to use instead of the suite's reference.
        profiles: Each profile makes a result of its own. None selects the suite's profile.
        judge: NAME, or `ROLE=NAME,...` for prompt suites.
        is_rescored: Only stored features and annotations are used; no judge is loaded.
        is_lenient: Scores are computed although images are missing.
        python: Python interpreter that runs an external judge.
        runner_options: Options of the external judge's script, by name.
    """

    evaluators: tuple[str, ...] | None = None
    subset: int | None = None
    reference: Path | None = None
    rules: Literal["official", "corrected"] = "official"
    profiles: tuple[str | None, ...] = (None,)
    judge: str | None = None
    is_rescored: bool = False
    is_lenient: bool = False
    python: Path | None = None
    runner_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalOptions(ScoringOptions):
    """All options of `eval`.

    Attributes:
        count: Number of samples. None selects all of a target, or the suite's number.
        batch: Samples generated before each write, or images in a timed forward.
        folder_options: How the files of an image folder match prompts.
        label: Row label of the results in tables.
        out: Folder for the results. None selects the target or a folder below `RUNS`.
    """

    suite: str | None = None
    count: int | None = None
    batch: int | None = None
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    real_images: RealImageOptions = field(default_factory=RealImageOptions)
    folder_options: PromptFolderOptions = field(default_factory=PromptFolderOptions)
    label: str | None = None
    out: Path | None = None

    def conditional_options(self) -> dict[str, object]:
        """Return the options that apply to some kinds of targets only.

        Keys are the option names with underscores; a value is None where the option is not given.
        """
        return {
            **asdict(self.real_images),
            **asdict(self.folder_options),
            "reference": self.reference,
            "batch": self.batch,
            "labels": self.generation.labels,
            "allow_missing": self.is_lenient or None,
            "judge_python": self.python,
        }


def parse_scoring(
    evaluators: str | None,
    reference: Path | None,
    rules: Literal["official", "corrected"],
    profiles: str | None,
    judge: str | None,
    allow_missing: bool,
    judge_python: Path | None,
    judge_options: Sequence[tuple[str, Option]],
    subset: int | None,
    rescore: bool,
) -> ScoringOptions:
    """Return the scoring options of the command line.

    Args:
        evaluators, profiles: Names, separated by commas.
        judge_options: Options of the external judge's script: (name, value).

    Raises:
        OptionError: The name of a profile is empty.
    """
    return ScoringOptions(
        evaluators=tuple(evaluators.split(",")) if evaluators else None,
        subset=subset,
        reference=reference,
        rules=rules,
        profiles=parse_profiles(profiles),
        judge=judge,
        is_rescored=rescore,
        is_lenient=allow_missing,
        python=judge_python,
        runner_options={key: str(value) for key, value in judge_options},
    )


def parse_profiles(text: str | None) -> tuple[str | None, ...]:
    """Return the profile names in `adm,clean` without repetitions.

    The result is (None,) for None, which selects the suite's profile.

    Raises:
        OptionError: A name is empty.
    """
    if text is None:
        return (None,)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise OptionError(f"--profile {text!r} has an empty name; write it as adm,clean")
    return names


# --------------------------------------------------------------------------------- several runs


def options_of_runs(
    name: str, options: EvalOptions, suites: Sequence[str], resolutions: Sequence[int]
) -> list[EvalOptions]:
    """Return the options of each run: one run for each pair of suite and resolution.

    A run has at most one suite and one resolution, and the judges of its suite. If there are
    several runs, each has a subfolder of `options.out`.

    Args:
        name: The target; names the folder of the results if `options.out` is None.
        suites, resolutions: If empty, the suite and the resolution in `options` are used.

    Raises:
        UnknownNameError: A suite does not exist.
        OptionError: No suite has a role that `options.judge` names.
    """
    suite_names: list[str | None] = [*dict.fromkeys(suites)] or [options.suite]
    sides: list[int | None] = [*resolutions] or [options.generation.resolution]
    judges = _judges_of_suites(options.judge, suite_names, options.evaluators or ())
    runs = []
    for suite in suite_names:
        for side in sides:
            # The subfolder names only what the runs differ in: suite, resolution or both.
            subfolders = [suite] if suite is not None and len(suite_names) > 1 else []
            subfolders += [f"r{side}"] if len(sides) > 1 else []
            out = options.out
            if subfolders:
                out = (options.out or RUNS / Path(name).stem).joinpath(*subfolders)

            generation = replace(options.generation, resolution=side)
            runs.append(
                replace(options, suite=suite, judge=judges[suite], generation=generation, out=out)
            )
    return runs


def _judges_of_suites(
    judge: str | None, suites: Sequence[str | None], evaluators: Sequence[str]
) -> Mapping[str | None, str | None]:
    """Return the value of `--judge` for each suite.

    Of several suites, each receives the roles that it has.
    """
    suite_names = [suite for suite in suites if suite is not None]
    if judge is None or len(suite_names) < 2:
        return dict.fromkeys(suites, judge)
    return judges_by_suite(judge, suite_names, evaluators)


# ----------------------------------------------------------------- conversion to pipeline records


def feature_scorings(options: EvalOptions, suite: str, judge: str | None) -> list[FeatureScoring]:
    """Return how evaluators of features score a suite's images: one record for each profile.

    Args:
        judge: The feature extractor. None selects the suite's. For images of prompts, parts of
            `--judge` with a role name annotators.
    """
    return [
        FeatureScoring(
            suite=suite,
            reference=options.reference,
            rules=options.rules,
            is_rescored=options.is_rescored,
            device=options.generation.device,
            profile=profile,
            judge=judge,
            subset=options.subset,
            folder_options=options.folder_options,
        )
        for profile in options.profiles
    ]


def prompt_scoring(options: EvalOptions, suite: str) -> PromptScoring:
    """Return how evaluators of annotations score the images of a prompt suite."""
    annotator_options = AnnotatorOptions(
        device=options.generation.device,
        is_rescored=options.is_rescored,
        python=options.python,
        runner_options=options.runner_options,
    )
    return PromptScoring(
        suite=suite,
        rules=options.rules,
        judge=options.judge,
        is_lenient=options.is_lenient,
        annotator_options=annotator_options,
        folder_options=options.folder_options,
    )


def real_image_selection(options: EvalOptions, count: int | None) -> RealImageSelection:
    """Return which real images a classifier classifies: the first `count`, or all if None."""
    return RealImageSelection(
        folder=options.real_images.images,
        labels=options.real_images.ground_truth,
        count=count,
        crop_ratio=options.real_images.crop_ratio,
        is_rescored=options.is_rescored,
        is_lenient=options.is_lenient,
    )


def required_scoring(options: EvalOptions, evaluators: Sequence[str] | None) -> RequiredScoring:
    """Return the options that decide which judges, references and packages scoring needs."""
    return RequiredScoring(
        evaluators=evaluators,
        judge=options.judge,
        profiles=options.profiles,
        rules=options.rules,
        reference=options.reference,
        python=options.python,
        is_rescored=options.is_rescored,
    )
