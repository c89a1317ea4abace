"""Option types, groups of options and JSON output that several commands share."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    DeviceType,
    FiniteFloat,
    KeyValueType,
    ProfileName,
    RegisteredName,
    ShardType,
    WorkerCountType,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harope_bench.pipeline.run_costs import CostEstimate


CommandFunction = Callable[..., None]  # the function of a command, called with its options by name
OptionDecorator = Callable[[CommandFunction], CommandFunction]

EXIT_NO = 3  # exit code of a command with a negative result
EXIT_NOT_CHECKED = 1  # exit code of `verify` if something could not be checked


def with_options_record(
    command: CommandFunction,
    parameter: str,
    load: Callable[[], Callable[..., object]],
    groups: Mapping[str, Sequence[OptionDecorator]],
) -> CommandFunction:
    """Add options to a command; the command receives their values as one record.

    Args:
        parameter: Name of the command's parameter that receives the record.
        load: Imports and returns the record's class or function. It is called when the command
            runs, so that the help pages do not import the pipeline.
        groups: The options to add, by the title of their group in the help page. A value that is
            no parameter of the record is passed to the command unchanged.
    """

    @functools.wraps(command)
    def with_fields(**values: object) -> None:
        make_record = load()
        field_names = [n for n in inspect.signature(make_record).parameters if n in values]
        fields = {name: values.pop(name) for name in field_names}
        command(**{parameter: make_record(**fields)}, **values)

    # A decorator prepends its options, so the last group is added first.
    for title, options in reversed([*groups.items()]):
        with_fields = cloup.option_group(title, *options)(with_fields)
    return with_fields


def entry_options(command: CommandFunction) -> CommandFunction:
    """Add the options `--add` and `--row`, which put a user's runs into tables."""
    options: list[OptionDecorator] = [
        cloup.option(
            "--add",
            multiple=True,
            metavar="NAME[=LABEL]",
            help=(
                "Add a row with the title LABEL to each table, filled from the runs named NAME."
                " NAME is the checkpoint of a run, its folder, its target in `eval`, or its"
                " --label. Default of LABEL: the stored --label, otherwise NAME. May be"
                " repeated."
            ),
        ),
        cloup.option(
            "--row",
            multiple=True,
            metavar="ROW_ID=NAME",
            help=(
                "Fill the existing row ROW_ID with the runs named NAME; `table NAME --format"
                " csv` lists the row ids. May be repeated."
            ),
        ),
    ]
    return cloup.option_group("Your own rows", *options)(command)


JUDGE_HELP = (
    "Judges to use instead of those of the suite, or for evaluators that the suite does not name; "
    "see `list judges`. A judge is a network that looks at images. For a suite of labels, give "
    "the NAME of a feature extractor. For a suite of prompts, give annotators as ROLE=NAME or "
    "ROLE=NAME:MODEL, comma-separated, where MODEL is a folder or Hugging Face Hub id. A role is "
    "a kind of question about an image: detector, detector-2d, vqa, colours, depth or similarity. "
    "Each choice of judges writes its own result files."
)
JUDGE_PYTHON_HELP = (
    "Python interpreter (bin/python of an environment) that runs a judge whose packages cannot be"
    " installed here: mplug, unidet or unidet-rs200."
)
JUDGE_OPTION_HELP = (
    "Option for the script that --judge-python runs: weights=FILE, checkout=FOLDER (a clone of"
    " T2I-CompBench, for unidet) or sha256=HASH (of the published weights). May be repeated."
)
SCALING_HELP = (
    "none: positions continue. linear, interpolate: positions are divided by s (interpolate is for"
    " ape, whose learned tables are resized). ntk, ntk-by-parts, yarn: rotary frequencies are"
    " lowered as in the methods of these names. extend: for ape with sines and cosines, which are"
    " computed beyond the grid."
)
DEVICE_HELP = (
    "One of auto, cpu, cuda, cuda:N (N is a number from 0) and mps. auto is the first that is"
    " available of cuda, mps and cpu."
)


class CommandVariableFirst(cloup.Option):
    """Option with a variable for all commands, below the variable of the one command.

    `HAROPE_BENCH_GENERATE_DEVICE` says more than `HAROPE_BENCH_DEVICE`.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value of the command's own variable, or else of the one for all."""
        own_variable = f"{ctx.auto_envvar_prefix}_{self.name}".upper()
        return os.environ.get(own_variable) or super().resolve_envvar_value(ctx)


def device_option(help_text: str) -> OptionDecorator:
    """Return the option `--device`; the command receives the resolved device."""
    return cloup.option(
        "--device",
        cls=CommandVariableFirst,
        type=DeviceType(),
        default="auto",
        envvar="HAROPE_BENCH_DEVICE",
        help=f"{help_text} {DEVICE_HELP}",
    )


def shard_option(help_text: str) -> OptionDecorator:
    """Return the option `--shard`."""
    return cloup.option("--shard", type=ShardType(), metavar="I/N", help=help_text)


def worker_options(command: CommandFunction) -> CommandFunction:
    """Add `--workers`, `--ray`, `--mixed-devices`; the command receives `WorkerOptions`."""

    def load() -> Callable[..., object]:
        from harope_bench.pipeline.worker_options import WorkerOptions

        return WorkerOptions

    options: list[OptionDecorator] = [
        cloup.option(
            "--workers",
            type=WorkerCountType(),
            metavar="N|auto",
            help=(
                "Number of processes on this machine that share the work, through Ray (extra ray)."
                " auto: one for each GPU. Images and results do not depend on it. Default: this"
                " process alone."
            ),
        ),
        cloup.option(
            "--ray",
            metavar="ADDRESS|auto",
            help="Share the work among the workers of a running Ray cluster, or N of them.",
        ),
        cloup.option(
            "--mixed-devices",
            is_flag=True,
            help="Let workers have devices of several kinds, whose last bits may differ.",
        ),
    ]
    return with_options_record(command, "processes", load, {"Workers": options})


json_option = cloup.option("--json", "json_", is_flag=True, help="Print one JSON object.")

SCALINGS = ("none", "linear", "ntk", "ntk-by-parts", "yarn", "extend", "interpolate")


def scaling_option(help_text: str) -> OptionDecorator:
    """Return the option `--pos-scaling` with a help text."""
    return cloup.option("--pos-scaling", type=click.Choice(SCALINGS), help=help_text)


def scoring_options(command: CommandFunction) -> CommandFunction:
    """Add the options of scoring; the command receives `ScoringOptions` as `scoring`."""
    scoring: list[OptionDecorator] = [
        cloup.option(
            "--with",
            "evaluators",
            type=RegisteredName("evaluators"),
            metavar="NAMES",
            help=(
                "Evaluators to run, comma-separated; see `list evaluators`. An evaluator computes"
                " a group of metrics. Default: the evaluators of the suite."
            ),
        ),
        cloup.option(
            "--reference",
            type=click.Path(path_type=Path),
            help=(
                "An .npz file with the mean mu and the covariance sigma of the features of real"
                " images. Default: the reference of the suite."
            ),
        ),
        cloup.option(
            "--rules",
            type=click.Choice(["official", "corrected"]),
            default="official",
            help=(
                "How prompt benchmarks are scored. official: as the published code of the"
                " benchmark, with its known errors. corrected: without these errors."
            ),
        ),
        cloup.option(
            "--profile",
            "profiles",
            type=ProfileName(),
            metavar="NAMES",
            help=(
                "Profiles of evaluator fidelity, comma-separated. A profile is the published"
                " implementation whose numbers are reproduced. adm: OpenAI's guided-diffusion,"
                " with its float16 distances. adm-exact: the same in float64. torch-fidelity,"
                " clean (clean-fid), fd-dinov2 and cmmd: the programs or metrics of these names."
                " Each profile writes its own result. Default: the profile of the suite."
            ),
        ),
        cloup.option(
            "--subset",
            type=click.IntRange(0),
            metavar="SEED",
            help=(
                "Evaluate --count images that are chosen at random with this seed. Default: the"
                " first --count images."
            ),
        ),
        cloup.option(
            "--rescore",
            is_flag=True,
            help=(
                "Compute the metrics again from the features and annotations that the run folder"
                " stores. No judge is loaded."
            ),
        ),
    ]
    judges: list[OptionDecorator] = [
        cloup.option(
            "--judge",
            type=RegisteredName("judges"),
            metavar="JUDGES",
            help=JUDGE_HELP,
        ),
        cloup.option(
            "--allow-missing",
            is_flag=True,
            help=(
                "For prompt suites: compute the metrics even if some images, some annotations or"
                " whole categories of prompts are missing, from those that exist."
            ),
        ),
        cloup.option(
            "--judge-python",
            type=click.Path(path_type=Path),
            help=JUDGE_PYTHON_HELP,
        ),
        cloup.option(
            "--judge-option",
            "judge_options",
            type=KeyValueType(),
            multiple=True,
            help=JUDGE_OPTION_HELP,
        ),
    ]
    return with_options_record(
        command, "scoring", _load_scoring_parser, {"Scoring": scoring, "Judges": judges}
    )


def _load_scoring_parser() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import parse_scoring

    return parse_scoring


preset_option = cloup.option(
    "--preset",
    metavar="NAME",
    help=(
        "Named set of generation settings of an ImageNet suite: harope-release (the settings of"
        " HARoPE's published code: ddpm, 250 steps, guidance 1.5, and TF32 on CUDA),"
        " harope-release-balanced (with balanced labels) or harope-release-large-gpu (with --tile"
        " 64). Other options override it. Default: none."
    ),
)
precision_options: list[OptionDecorator] = [
    cloup.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help=(
            "Precision of the network that generates images. Default: from the checkpoint (bfloat16"
            " for FLUX and SD3); otherwise float32."
        ),
    ),
    cloup.option(
        "--tf32/--no-tf32",
        default=None,
        help=(
            "Let CUDA round the factors of float32 products to TF32, which is about four times as"
            " fast for DiT. The images differ slightly. Default: from the preset; otherwise off."
        ),
    ),
    cloup.option(
        "--tile",
        type=click.IntRange(1),
        help=(
            "Number of images in one forward pass of the network. The images differ in the last"
            " bits. Default: from the preset or the checkpoint (8 for DiT on latents)."
        ),
    ),
]


estimate_options: list[OptionDecorator] = [
    cloup.option(
        "--gpus",
        type=click.IntRange(1, 100_000),
        metavar="N",
        help="GPUs that share the work, for the wall time of the estimate. Default: 1.",
    ),
    cloup.option(
        "--rates",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help=(
            "Rates measured by benchmarks/gpu_check.py of the repository (JSON). Default: rates of"
            " an H100 that are inferred, not measured."
        ),
    ),
]


def echo_estimate(estimate: CostEstimate, missing: Sequence[str], is_json: bool) -> None:
    """Print an estimate and what is missing, as lines or as one JSON object."""
    from harope_bench.pipeline.run_costs import cost_fields, cost_lines

    if is_json:
        echo(json_object_text(cost_fields(estimate, missing)))
    else:
        echo("\n".join(cost_lines(estimate, missing)))


def generation_options(command: CommandFunction) -> CommandFunction:
    """Add the options of generation.

    The command receives `GenerationOptions` as `generation`, and `batch`.
    """
    sampling: list[OptionDecorator] = [
        cloup.option(
            "--steps",
            type=click.IntRange(1),
            help="Number of sampler steps. Default: from the checkpoint (32 for digits-harope).",
        ),
        cloup.option(
            "--guidance",
            type=FiniteFloat(0),
            help=(
                "Scale of classifier-free guidance; 1 is no guidance. Default: from the checkpoint"
                " (1.5 for digits-harope)."
            ),
        ),
        cloup.option(
            "--sampler",
            type=RegisteredName("samplers"),
            metavar="NAME",
            help=(
                "Sampler, see `list samplers`: ddpm, ddim, or flow and flow-... for rectified flow"
                " (flow takes Euler steps). It must fit the training. Default: from the"
                " checkpoint (flow for digits-harope)."
            ),
        ),
        cloup.option(
            "--seed",
            type=click.IntRange(0),
            help=(
                "Seed of the run. Sample i depends on this seed and on i, not on the other"
                " samples. Default: 0."
            ),
        ),
        cloup.option(
            "--labels",
            metavar="LABELS",
            help=(
                "Class labels of an ImageNet suite. uniform: each label at random. balanced: all"
                " classes equally often. Or a text file with one class index (0 to 999) on each"
                " line. Default: uniform."
            ),
        ),
        preset_option,
        device_option("Device that the networks run on."),
        *precision_options,
        cloup.option(
            "--batch",
            type=click.IntRange(1),
            help=(
                "Number of samples that are generated between two writes to disk. It changes"
                " neither the images nor the batch size of the network. Default: one batch of the"
                " network."
            ),
        ),
    ]
    network: list[OptionDecorator] = [
        scaling_option(
            "How an encoding reaches images larger than the training images; s is the ratio of the"
            f" sides. {SCALING_HELP} Default: none."
        ),
        cloup.option(
            "--guidance-channels",
            type=click.Choice(["3", "all"]),
            help=(
                "Latent channels that are guided, for DiT on latents: the first 3, as in DiT's"
                " published code, or all. Default: 3."
            ),
        ),
        cloup.option(
            "--drawing",
            type=KeyValueType(),
            multiple=True,
            help=(
                "Option of a diffusers pipeline that has no option of its own here, such as"
                " negative_prompt=TEXT, true_cfg_scale=4 or max_sequence_length=256; may be"
                " repeated. The pipeline's class decides which there are. Default: as registered"
                " with the checkpoint; otherwise the default of the class."
            ),
        ),
        cloup.option(
            "--spacing",
            type=click.Choice(["linspace", "leading"]),
            help=(
                "Which of the 1,000 training timesteps ddpm and ddim use. For 10 steps, linspace"
                " takes 0, 111, ..., 999 and leading takes 0, 100, ..., 900. Default: linspace"
                " for ddpm, leading for ddim."
            ),
        ),
        cloup.option(
            "--guidance-interval",
            metavar="LOW..HIGH",
            help=(
                "Times at which guidance acts, from 0 (image) to 1 (noise), such as 0..0.7."
                " Default: as registered with the checkpoint; otherwise all times."
            ),
        ),
        cloup.option(
            "--shift",
            type=click.FloatRange(min=0, min_open=True),
            help=(
                "Factor s by which samplers of flows shift their times t towards noise:"
                " s t / (1 + (s - 1) t). Default: as registered with the checkpoint; otherwise 1."
            ),
        ),
        cloup.option(
            "--diffusion",
            type=click.Choice(["sigma", "constant", "decreasing", "increasing-decreasing"]),
            help=(
                "How much noise flow-sde adds at time t, from 0 (image) to 1 (noise): sigma: t."
                " constant: 1. decreasing, increasing-decreasing: as in SiT. Default: sigma."
            ),
        ),
        cloup.option(
            "--mu-policy",
            type=click.Choice(["extrapolate", "clamp"]),
            help=(
                "FLUX shifts its timesteps by a number mu that grows with the image. extrapolate:"
                " mu grows beyond the training sizes. clamp: mu stays at its value for the largest"
                " training size. Default: extrapolate."
            ),
        ),
        cloup.option(
            "--vae",
            metavar="FOLDER|ID",
            help=(
                "Autoencoder of a latent model: a folder, or its id on the Hugging Face Hub if it"
                " is in the local cache. Default: the one registered with the checkpoint."
            ),
        ),
        cloup.option(
            "--vae-tiling/--no-vae-tiling",
            default=None,
            help=(
                "Let the autoencoder decode large images in overlapping tiles (parts of the"
                " image), which needs less memory, or in one piece. Default: tiles for FLUX and"
                " SD3, one piece for DiT."
            ),
        ),
        cloup.option(
            "--fold/--no-fold",
            default=None,
            help=(
                "Encodings such as harope multiply queries and keys by learned matrices. --fold:"
                " multiply these matrices into the weights of the query and key projections first."
                " --no-fold: apply them separately. The images differ in the last bits only."
                " Default: as registered with the checkpoint; otherwise --fold for FLUX and SD3,"
                " and --no-fold for others."
            ),
        ),
    ]
    return with_options_record(
        command,
        "generation",
        _load_generation_options,
        {"Generation (of a checkpoint)": sampling, "Generation, details of the network": network},
    )


def _load_generation_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import GenerationOptions

    return GenerationOptions


def real_image_options(command: CommandFunction) -> CommandFunction:
    """Add the options of a classifier's real images.

    The command receives `RealImageOptions` as `real_images`.
    """
    options = [
        cloup.option(
            "--images",
            type=click.Path(path_type=Path),
            help=(
                "Folder of real images that a classifier classifies, if the suite includes none"
                " (imagenet-val)."
            ),
        ),
        cloup.option(
            "--ground-truth",
            type=click.Path(path_type=Path),
            help=(
                "Text file with a line `file-name class-index` for each image of --images, such as"
                " `ILSVRC2012_val_00000001.JPEG 65`. Default: the class is the subfolder."
            ),
        ),
        cloup.option(
            "--crop-ratio",
            type=FiniteFloat(0.1, 1),
            help=(
                "Crop ratio of a classifier's images (timm's crop_pct): the shorter side is resized"
                " to resolution / ratio, then the centre is cropped. Default: the suite's ratio."
            ),
        ),
    ]
    return with_options_record(
        command,
        "real_images",
        _load_real_image_options,
        {"Real images (for a classifier)": options},
    )


def _load_real_image_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import RealImageOptions

    return RealImageOptions


def prompt_folder_options(command: CommandFunction) -> CommandFunction:
    """Add the options that match the image files of a folder with prompts.

    The command receives `PromptFolderOptions` as `prompt_folder`.
    """
    options = [
        cloup.option(
            "--order",
            type=click.Choice(["copy-major", "prompt-major"]),
            help=(
                "How the image files of a folder, sorted by name, belong to prompts, if their names"
                " do not tell. The images of one prompt are its copies. copy-major: the first copy"
                " of every prompt, then the second of every prompt. prompt-major: all copies of the"
                " first prompt, then of the second. Required, unless --pattern, --file-list or a"
                " known folder layout tells."
            ),
        ),
        cloup.option(
            "--pattern",
            metavar="PATTERN",
            help=(
                "Pattern of the file names, such as '{prompt_index}_{copy}.png'. Placeholders:"
                " {prompt} (its text), {prompt_index}, {id} (of the prompt in the benchmark),"
                " {copy} (number of the image among those of its prompt), {index} (of the sample)."
                " Numbers start at 0. The pattern may contain folders."
            ),
        ),
        cloup.option(
            "--file-list",
            type=click.Path(path_type=Path),
            help=(
                "Table of the images: a .csv, .tsv or .jsonl file with the columns file and index,"
                " or with file, copy and one of prompt_index, prompt and id (see --pattern)."
            ),
        ),
        cloup.option(
            "--tiles",
            type=click.Choice([1, 2, 4]),
            help=(
                "Number of images that are joined in each file of a DPG-Bench folder (1, 2 side by"
                " side, or 4 in a 2 x 2 grid). Default: inferred from the size of the files;"
                " required if they are square."
            ),
        ),
    ]
    return with_options_record(
        command,
        "prompt_folder",
        _load_prompt_folder_options,
        {"Image folders (for prompt suites)": options},
    )


def _load_prompt_folder_options() -> Callable[..., object]:
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

    return PromptFolderOptions


def check_count(count: int | None) -> None:
    """Raise a usage error if `--count` exceeds the number of samples of one request."""
    from harope_bench.core.index_ranges import MAX_INDICES

    if count is not None and count > MAX_INDICES:
        raise click.UsageError(
            f"--count {count:,} is more than {MAX_INDICES:,} samples, the most of one request;"
            " generate them in parts with --indices"
        )


def select_indices(suite: str, count: int | None, indices: Sequence[int] | None) -> Sequence[int]:
    """Return the sample indices of `--count` or `--indices`; of neither, all of the suite.

    Raises:
        UsageError: Both are given, or the count is too large.
    """
    from harope_bench.pipeline.generate import requested_indices

    if count is not None and indices is not None:
        raise click.UsageError("--count and --indices exclude each other; give one of them")
    check_count(count)
    return indices if indices is not None else requested_indices(suite, count)


def json_object_text(value: object) -> str:
    """Return a value as JSON text with sorted keys; raise ValueError for NaN or infinity."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1)


def record_json(record: BaseModel) -> dict[str, object]:
    """Return a record as JSON values."""
    return record.model_dump(mode="json")
