"""Everything that a user can tell `eval` as one typed record, and what the pipeline makes of it.

None means that the user did not say it: the target, the suite or the checkpoint decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.pipeline.annotate import AnnotatorOptions
from harope_bench.pipeline.classify import RealImageSelection
from harope_bench.pipeline.evaluate import FeatureScoring
from harope_bench.pipeline.evaluate_prompts import PromptScoring, judges_by_suite
from harope_bench.pipeline.requirements import RequiredScoring
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

RUNS = Path("runs")  # where results go if the user does not say


@dataclass(frozen=True)
class GenerationOptions:
    """How samples are generated: fields of a plan's settings, a preset among them."""

    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    seed: int | None = None
    labels: str | None = None
    preset: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    pos_scaling: str | None = None
    guidance_channels: str | None = None
    spacing: str | None = None
    mu_policy: str | None = None
    vae: str | None = None
    vae_tiling: bool | None = None
    fold: bool | None = None
    resolution: int | None = None

    def overrides(self) -> dict[str, Option | None]:
        """Return the settings by field, as `make_plan` takes them."""
        return asdict(self)

    @property
    def stated_options(self) -> list[str]:
        """Return the options that would change images, as they are typed, in alphabetical order."""
        names = [name for name, value in self.overrides().items() if value is not None]
        return [f"--{name.replace('_', '-')}" for name in sorted(names) if name != "device"]


@dataclass(frozen=True)
class RealImageOptions:
    """Which real pictures a classifier is shown: folder, list of labels and crop."""

    images: Path | None = None
    truth: Path | None = None
    crop_ratio: float | None = None


@dataclass(frozen=True)
class ScoringOptions:
    """How images are scored.

    evaluators: None is the suite's own. profiles: each is evaluated; None is the suite's own.
    judge: a NAME, or `ROLE=NAME,...` for suites of prompts. subset: seed of a random choice of
    `count` images. is_rescored: only stored features and annotations count. is_lenient: scores
    although images are missing. python, runner_options: run a judge of another environment.
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
    """What a user tells `eval` beside the target.

    batch: samples between two writes, or images of a timed forward. form: which file of a folder
    is of which prompt. out: folder of the results.
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
        """Return the options that apply to some targets alone, by name on the command line."""
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
    lenient: bool,
    python: Path | None,
    runner: Sequence[tuple[str, Option]],
    subset: int | None,
    rescore: bool,
) -> ScoringOptions:
    """Return the options of scoring as they are typed.

    Args:
        evaluators, profiles: Names separated by commas. runner: Options of a runner, by key.

    Raises:
        OptionError: A profile's name is empty.
    """
    return ScoringOptions(
        evaluators=tuple(evaluators.split(",")) if evaluators else None,
        subset=subset,
        reference=reference,
        rules=rules,
        profiles=parse_profiles(profiles),
        judge=judge,
        is_rescored=rescore,
        is_lenient=lenient,
        python=python,
        runner_options={key: str(value) for key, value in runner},
    )


def parse_profiles(text: str | None) -> tuple[str | None, ...]:
    """Return the profiles of `adm,clean`, each once; of None the suite's own.

    Raises:
        OptionError: A name is empty.
    """
    if text is None:
        return (None,)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise OptionError(f"--profile {text!r} has an empty name; write one or more, as adm,clean")
    return names


# --------------------------------------------------------------------------------- several runs


def options_of_runs(
    name: str, options: EvalOptions, suites: Sequence[str], resolutions: Sequence[int]
) -> list[EvalOptions]:
    """Return the options of every run that several suites and resolutions ask for.

    Each run has at most one suite and one resolution, its part of `--judge`, and, where there are
    several runs, a folder of its own below `options.out`.

    Args:
        name: The target, after which the folder is named if the user does not say it.

    Raises:
        UnknownName: No such suite. OptionError: A role of `--judge` that no suite has.
    """
    names: list[str | None] = [*dict.fromkeys(suites)] or [options.suite]
    sides: list[int | None] = [*resolutions] or [options.generation.resolution]
    judges = _judges_of_suites(options.judge, names)
    runs = []
    for suite in names:
        for side in sides:
            parts = [suite] if suite is not None and len(names) > 1 else []
            parts += [f"r{side}"] if len(sides) > 1 else []
            out = (options.out or RUNS / Path(name).stem).joinpath(*parts) if parts else options.out
            generation = replace(options.generation, resolution=side)
            runs.append(
                replace(options, suite=suite, judge=judges[suite], generation=generation, out=out)
            )
    return runs


def _judges_of_suites(
    judge: str | None, suites: Sequence[str | None]
) -> Mapping[str | None, str | None]:
    """Return what of `--judge` goes to each suite: of several suites, the roles that each has."""
    names = [suite for suite in suites if suite is not None]
    if judge is None or len(names) < 2:
        return dict.fromkeys(suites, judge)
    return judges_by_suite(judge, names)


# --------------------------------------------------------------------------- the pipeline's records


def feature_scorings(options: EvalOptions, suite: str, judge: str | None) -> list[FeatureScoring]:
    """Return how evaluators of features score images of a suite, one record for each profile.

    Args:
        judge: In place of the suite's own; None for images of prompts, whose `--judge` names roles.
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
    """Return how evaluators of annotations score images of a suite of prompts."""
    terms = AnnotatorOptions(
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
        annotator_options=terms,
        folder_options=options.folder_options,
    )


def real_image_selection(options: EvalOptions, count: int | None) -> RealImageSelection:
    """Return which real pictures a classifier is shown; `count` takes the first, None all."""
    return RealImageSelection(
        folder=options.real_images.images,
        labels=options.real_images.truth,
        count=count,
        crop_ratio=options.real_images.crop_ratio,
        is_rescored=options.is_rescored,
        is_lenient=options.is_lenient,
    )


def required_scoring(options: EvalOptions, evaluators: Sequence[str] | None) -> RequiredScoring:
    """Return what decides the judges, references and packages that scoring requires."""
    return RequiredScoring(
        evaluators=evaluators,
        judge=options.judge,
        profiles=options.profiles,
        rules=options.rules,
        reference=options.reference,
        python=options.python,
        is_rescored=options.is_rescored,
    )
