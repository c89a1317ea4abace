"""Option types, groups of options and JSON output that several commands share."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harope_bench.core.index_ranges import IndexRanges
    from harope_bench.core.record_base import Option

CommandFunction = Callable[..., None]  # the function of a command, called with its options by name

EXIT_NO = 3  # exit code of a command with a negative result
EXIT_NOT_CHECKED = 1  # exit code of `verify` if something could not be checked


class IndicesType(click.ParamType):
    """The option type of sample indices: `0-499`, `7` or `0-9,20-29`."""

    name = "indices"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> IndexRanges:
        """Return the indices in ascending order; raise a usage error if the text is invalid."""
        from harope_bench.core.index_ranges import parse_indices

        try:
            return parse_indices(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FiniteFloat(click.FloatRange):
    """The option type of a finite number in a range."""

    # Any: what click's own range takes, which differs between its versions
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; raise a usage error for nan, infinity or a number out of range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class ResolutionList(click.ParamType):
    """The option type of one or more resolutions: `56` or `28,56,112`."""

    name = "resolutions"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the resolutions in pixels; raise a usage error if one is not positive."""
        from harope_bench.core.index_ranges import whole_number

        sides = [whole_number(part.strip()) for part in str(value).split(",")]
        positive_sides = tuple(side for side in sides if side)
        if len(positive_sides) < len(sides):
            self.fail(f"{str(value)[:80]!r} is not a resolution; write 28 or 28,56", param, ctx)
        return positive_sides


class KeyValueType(click.ParamType):
    """The option type of `key=value`; a number, true or false is converted, other text is kept."""

    name = "key=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Option]:
        """Return the key and the value; raise a usage error without a key or an equals sign."""
        from harope_bench.core.json_file import parse_json

        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not key=value", param, ctx)
        try:
            json_value = parse_json(text)
        except ValueError:
            return key, text
        return key, json_value if isinstance(json_value, (bool, int, float)) else text


def with_options_record(
    command: CommandFunction,
    parameter: str,
    load: Callable[[], Callable[..., object]],
    options: Sequence[Callable[[CommandFunction], CommandFunction]],
) -> CommandFunction:
    """Add options to a command; the command receives their values as one record.

    Args:
        parameter: Name of the command's parameter that receives the record.
        load: Imports and returns the record's class or function. It is called when the command
            runs, so that the help pages do not import the pipeline.
        options: The click options to add. A value that is no parameter of the record is passed to
            the command unchanged.
    """

    @functools.wraps(command)
    def with_fields(**values: object) -> None:
        make_record = load()
        field_names = [n for n in inspect.signature(make_record).parameters if n in values]
        fields = {name: values.pop(name) for name in field_names}
        command(**{parameter: make_record(**fields)}, **values)

    return _with_options(with_fields, options)


def _with_options(
    command: CommandFunction, options: Sequence[Callable[[CommandFunction], CommandFunction]]
) -> CommandFunction:
    """Add options to a command; the help page lists them in this order."""
    # A click decorator prepends its option, so the last option is added first.
    for option in reversed(options):
        command = option(command)
    return command


def entry_options(command: CommandFunction) -> CommandFunction:
    """Add the options `--add` and `--row`, which put a user's runs into tables."""
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "--add",
            multiple=True,
            metavar="NAME[=LABEL]",
            help=(
                "Add a table row for the runs whose checkpoint, folder, target or label is NAME;"
                " may be repeated."
            ),
        ),
        click.option(
            "--row",
            multiple=True,
            metavar="ROW_ID=NAME",
            help="Fill the row ROW_ID of the table with the runs of NAME; may be repeated.",
        ),
    ]
    return _with_options(command, options)


SCALINGS = ("none", "linear", "ntk", "ntk-by-parts", "yarn", "extend", "interpolate")


def scaling_option(help_text: str) -> Callable[[CommandFunction], CommandFunction]:
    """Return the option `--pos-scaling` with a help text."""
    return click.option("--pos-scaling", type=click.Choice(SCALINGS), help=help_text)


def scoring_options(command: CommandFunction) -> CommandFunction:
    """Add the options of scoring; the command receives `ScoringOptions` as `scoring`."""
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "--with",
            "evaluators",
            help="Evaluators, comma-separated. Default: the suite's evaluators.",
        ),
        click.option(
            "--reference",
            type=click.Path(path_type=Path),
            help="An .npz file with mu and sigma, instead of the suite's reference.",
        ),
        click.option(
            "--rules",
            type=click.Choice(["official", "corrected"]),
            default="official",
            help="Scoring rules: official, with their known quirks, or corrected.",
        ),
        click.option(
            "--profile",
            "profiles",
            help=(
                "Implementations of the metric to imitate (adm, adm-exact, torch-fidelity, clean),"
                " comma-separated. Default: the suite's profile."
            ),
        ),
        click.option(
            "--judge",
            help=(
                "Judge instead of the suite's, or of an evaluator that the suite does not name."
                " For prompt suites: ROLE=NAME or ROLE=NAME:MODEL, comma-separated. Results of"
                " another judge are stored in other files."
            ),
        ),
        click.option(
            "--allow-missing",
            is_flag=True,
            help="Compute the metrics although images, annotations or tasks are missing.",
        ),
        click.option(
            "--judge-python",
            type=click.Path(path_type=Path),
            help="Python interpreter of the environment in which an external judge runs.",
        ),
        click.option(
            "--judge-option",
            "judge_options",
            type=KeyValueType(),
            multiple=True,
            help="key=value for the script of the external judge (weights=FILE, checkout=FOLDER).",
        ),
        click.option(
            "--subset",
            type=click.IntRange(0),
            metavar="SEED",
            help="Evaluate --count images chosen at random with this seed, not the first ones.",
        ),
        click.option(
            "--rescore",
            is_flag=True,
            help="Compute the metrics again from stored features and annotations, without a judge.",
        ),
    ]
    return with_options_record(command, "scoring", _load_scoring_parser, options)


def _load_scoring_parser() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import parse_scoring

    return parse_scoring


def generation_options(command: CommandFunction) -> CommandFunction:
    """Add the options of generation.

    The command receives `GenerationOptions` as `generation`, and `batch`.
    """
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "--steps",
            type=click.IntRange(1),
            help="Sampler steps. Default: the checkpoint's.",
        ),
        click.option(
            "--guidance",
            type=FiniteFloat(0),
            help="Guidance scale; 1 is no guidance. Default: the checkpoint's.",
        ),
        click.option("--sampler", help="Sampler. Default: the checkpoint's."),
        click.option(
            "--seed",
            type=click.IntRange(0),
            help="Base seed; sample i depends on this seed and i only. Default: 0.",
        ),
        click.option(
            "--labels",
            help=(
                "Class labels of an ImageNet suite: uniform, balanced, or a file with one label on"
                " each line."
            ),
        ),
        click.option(
            "--preset",
            help="Named settings of the suite (harope-release); other options override them.",
        ),
        click.option(
            "--device",
            type=click.Choice(["cpu", "cuda", "mps"]),
            default="cpu",
            help="Device of the networks.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Precision of the generating network. Default: float32.",
        ),
        scaling_option("Scaling of positions beyond the training grid. Default: none."),
        click.option(
            "--guidance-channels",
            type=click.Choice(["3", "all"]),
            help="Latent channels to which guidance applies; DiT's release uses 3.",
        ),
        click.option(
            "--spacing",
            type=click.Choice(["linspace", "leading"]),
            help=(
                "Timesteps of ddpm and ddim: linspace 0, 111, ..., 999 (default of ddpm) or leading"
                " 0, 100, ..., 900 (default of ddim)."
            ),
        ),
        click.option(
            "--mu-policy",
            type=click.Choice(["extrapolate", "clamp"]),
            help="FLUX's time shift at sizes beyond its training sizes.",
        ),
        click.option(
            "--vae", help="Folder or hub id of the autoencoder. Default: the checkpoint's."
        ),
        click.option(
            "--vae-tiling/--no-vae-tiling",
            default=None,
            help="Decode large images in tiles with blended seams, or at once.",
        ),
        click.option(
            "--fold/--no-fold",
            default=None,
            help=(
                "Fold the learned matrices into the projections, or apply them separately. Default:"
                " the checkpoint's."
            ),
        ),
        click.option(
            "--batch",
            type=click.IntRange(1),
            help="Samples generated before each write; does not change the images.",
        ),
    ]
    return with_options_record(command, "generation", _load_generation_options, options)


def _load_generation_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import GenerationOptions

    return GenerationOptions


def real_image_options(command: CommandFunction) -> CommandFunction:
    """Add the options of a classifier's real images.

    The command receives `RealImageOptions` as `real_images`.
    """
    options = [
        click.option(
            "--images",
            type=click.Path(path_type=Path),
            help="Folder of real images for a classifier, if the suite includes none.",
        ),
        click.option(
            "--ground-truth",
            type=click.Path(path_type=Path),
            help="Label file with lines 'name index', for images that are not in class folders.",
        ),
        click.option(
            "--crop-ratio",
            type=FiniteFloat(0.1, 1),
            help=(
                "Resolution divided by the side that images are resized to before the crop."
                " Default: the suite's ratio."
            ),
        ),
    ]
    return with_options_record(command, "real_images", _load_real_image_options, options)


def _load_real_image_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import RealImageOptions

    return RealImageOptions


def prompt_folder_options(command: CommandFunction) -> CommandFunction:
    """Add the options that match the image files of a folder with prompts.

    The command receives `PromptFolderOptions` as `prompt_folder`.
    """
    options = [
        click.option(
            "--order",
            type=click.Choice(["copy-major", "prompt-major"]),
            help=(
                "Order of the files in a folder. copy-major: one image of every prompt, then the"
                " next image of every prompt. prompt-major: all images of the first prompt, then"
                " of the next."
            ),
        ),
        click.option(
            "--pattern",
            metavar="PATTERN",
            help=(
                "Pattern of the file names, as '{prompt_index}_{copy}.png'. Placeholders: {prompt},"
                " {prompt_index}, {id}, {copy}, {index}; numbers start at 0. It may contain"
                " folders."
            ),
        ),
        click.option(
            "--file-list",
            type=click.Path(path_type=Path),
            help=(
                "A .csv, .tsv or .jsonl file with the columns file and index; or file, copy, and"
                " one of prompt_index, prompt and id."
            ),
        ),
        click.option(
            "--tiles",
            type=click.Choice([1, 2, 4]),
            help="Number of images in each tiled file of DPG-Bench.",
        ),
    ]
    return with_options_record(command, "prompt_folder", _load_prompt_folder_options, options)


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
