"""What verbs share: parameter types, groups of options that a command gets as one record, JSON."""

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

EXIT_NO = 3  # exit code of a verb whose answer is no
EXIT_NOT_CHECKED = 1  # of a verify that could not check something


class IndicesType(click.ParamType):
    """`0-499`, `7` or `0-9,20-29`."""

    name = "indices"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> IndexRanges:
        """Return ascending indices; a usage error otherwise."""
        from harope_bench.core.index_ranges import parse_indices

        try:
            return parse_indices(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FiniteFloat(click.FloatRange):
    """A float range that nan and infinity are not in."""

    # Any: what click's own range takes, which differs between its versions
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; a usage error for nan, infinity and what is out of range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class ResolutionList(click.ParamType):
    """`56` or `28,56,112`."""

    name = "sides"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """A tuple of positive integers; a usage error otherwise."""
        from harope_bench.core.index_ranges import whole_number

        parts = str(value).split(",")
        sides = tuple(side for part in parts if (side := whole_number(part.strip())))
        if len(sides) < len(parts):
            self.fail(f"{str(value)[:80]!r} is no resolution; write 28 or 28,56", param, ctx)
        return sides


class KeyValueType(click.ParamType):
    """`key=value`; the value is a number or true/false where it reads as one."""

    name = "key=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Option]:
        """(key, value)."""
        from harope_bench.core.json_file import parse_json

        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not key=value", param, ctx)
        try:
            parsed = parse_json(text)
        except ValueError:
            parsed = text
        return key, parsed if isinstance(parsed, (bool, int, float)) else text


def with_options_record(
    command: CommandFunction,
    parameter: str,
    load: Callable[[], Callable[..., object]],
    options: Sequence[Callable[[CommandFunction], CommandFunction]],
) -> CommandFunction:
    """Return the command with more options, which it gets as one record.

    Args:
        parameter: Of the command, for the record. load: Imports the record's class when the command
            runs, so that the help starts fast; options that are no field of it stay as they are.
    """

    @functools.wraps(command)
    def with_fields(**values: object) -> None:
        record = load()
        fields = {
            name: values.pop(name)
            for name in inspect.signature(record).parameters
            if name in values
        }
        command(**{parameter: record(**fields)}, **values)

    wrapped: CommandFunction = with_fields
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _with_options(
    verb: CommandFunction, options: Sequence[Callable[[CommandFunction], CommandFunction]]
) -> CommandFunction:
    """Add options in the order in which the help lists them."""
    for option in reversed(options):
        verb = option(verb)
    return verb


def entry_options(verb: CommandFunction) -> CommandFunction:
    """Add the options that put named runs into tables."""
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "--add",
            multiple=True,
            metavar="NAME[=LABEL]",
            help=(
                "Add a row for the runs of a checkpoint, folder, target or label NAME; may be"
                " repeated."
            ),
        ),
        click.option(
            "--row",
            multiple=True,
            metavar="ROW_ID=NAME",
            help="Fill one of the table's own rows with the runs of NAME; may be repeated.",
        ),
    ]
    return _with_options(verb, options)


SCALINGS = ("none", "linear", "ntk", "ntk-by-parts", "yarn", "extend", "interpolate")


def scaling_option(help_text: str) -> Callable[[CommandFunction], CommandFunction]:
    """The option that names a position scaling."""
    return click.option("--pos-scaling", type=click.Choice(SCALINGS), help=help_text)


def scoring_options(command: CommandFunction) -> CommandFunction:
    """Add the options of scoring: `ScoringOptions` in `scoring`."""
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "--with", "evaluators", help="Evaluators, comma-separated; the suite's own if left out."
        ),
        click.option(
            "--reference",
            type=click.Path(path_type=Path),
            help="An .npz with mu and sigma in place of the suite's own.",
        ),
        click.option(
            "--rules",
            type=click.Choice(["official", "corrected"]),
            default="official",
            help="Rules with their known quirks, or corrected.",
        ),
        click.option(
            "--profile",
            "profiles",
            help=(
                "Whose formulas (adm, adm-exact, torch-fidelity, clean), comma-separated; the"
                " suite's own if left out."
            ),
        ),
        click.option(
            "--judge",
            help=(
                "Judge in place of the suite's own, for prompts ROLE=NAME or ROLE=NAME:MODEL,"
                " comma-separated; results have own files."
            ),
        ),
        click.option(
            "--allow-missing",
            "lenient",
            is_flag=True,
            help="Score although images, answers, tasks or listed pictures are missing or damaged.",
        ),
        click.option(
            "--judge-python",
            "python",
            type=click.Path(path_type=Path),
            help="Python that runs a judge of another environment.",
        ),
        click.option(
            "--judge-option",
            "runner",
            type=KeyValueType(),
            multiple=True,
            help="key=value for that judge's runner (weights=F, checkout=DIR).",
        ),
        click.option(
            "--subset",
            type=click.IntRange(0),
            metavar="SEED",
            help="Score --count images chosen at random by SEED, not the first ones.",
        ),
        click.option(
            "--rescore", is_flag=True, help="Score the stored observations again; loads no network."
        ),
    ]
    return with_options_record(command, "scoring", _scoring_options, options)


def _scoring_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import parse_scoring

    return parse_scoring


def generation_options(command: CommandFunction) -> CommandFunction:
    """Add the options of generation: `GenerationOptions` in `generation`, and `batch`."""
    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "--steps",
            type=click.IntRange(1),
            help="Sampler steps; the checkpoint's own if left out.",
        ),
        click.option(
            "--guidance",
            type=FiniteFloat(0),
            help="Guidance scale, 1 is none; the checkpoint's own if left out.",
        ),
        click.option("--sampler", help="Sampler; the checkpoint's own if left out."),
        click.option(
            "--seed",
            type=click.IntRange(0),
            help="Base seed, 0 if left out; sample i is a function of it and i.",
        ),
        click.option(
            "--labels",
            help=(
                "Label policy of an ImageNet suite: uniform, balanced, or a file of one label a"
                " line."
            ),
        ),
        click.option(
            "--preset",
            help="Named settings of the suite (harope-release); single options go before it.",
        ),
        click.option(
            "--device",
            type=click.Choice(["cpu", "cuda", "mps"]),
            default="cpu",
            help="Where the networks run.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Precision of the drawing network, float32 if left out.",
        ),
        scaling_option("How positions beyond the training grid are met; none if left out."),
        click.option(
            "--guidance-channels",
            type=click.Choice(["3", "all"]),
            help="Latent channels that guidance acts on; DiT's own code guides 3.",
        ),
        click.option(
            "--spacing",
            type=click.Choice(["linspace", "leading"]),
            help=(
                "Training steps that ddpm and ddim take: linspace 0, 111, ..., 999 (ddpm's own),"
                " leading 0, 100, ..., 900 (ddim's own)."
            ),
        ),
        click.option(
            "--mu-policy",
            type=click.Choice(["extrapolate", "clamp"]),
            help="FLUX's time shift beyond its training sizes.",
        ),
        click.option(
            "--vae", help="Folder or hub id of the autoencoder; the checkpoint's own if left out."
        ),
        click.option(
            "--vae-tiling/--no-vae-tiling",
            default=None,
            help="Decode large images in pieces; the seams are blended.",
        ),
        click.option(
            "--fold/--no-fold",
            default=None,
            help="Learned matrices moved into the projections; the checkpoint's own if left out.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(1),
            help="Samples between two writes (whole tiles); changes no pixel.",
        ),
    ]
    return with_options_record(command, "generation", _load_generation_options, options)


def _load_generation_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import GenerationOptions

    return GenerationOptions


def real_image_options(command: CommandFunction) -> CommandFunction:
    """Add the options of a classifier's real pictures: `PictureOptions` in `pictures`."""
    options = [
        click.option(
            "--images",
            type=click.Path(path_type=Path),
            help="Folder of the real pictures, where the suite ships none.",
        ),
        click.option(
            "--truth",
            type=click.Path(path_type=Path),
            help="List of lines 'name index', where there are no class folders.",
        ),
        click.option(
            "--crop-ratio",
            type=FiniteFloat(0.1, 1),
            help="Resolution over the side resized to before the crop; the suite's own.",
        ),
    ]
    return with_options_record(command, "pictures", _load_real_image_options, options)


def _load_real_image_options() -> Callable[..., object]:
    from harope_bench.pipeline.eval_options import RealImageOptions

    return RealImageOptions


def prompt_folder_options(command: CommandFunction) -> CommandFunction:
    """Add the options that say which image is of which prompt: `FolderForm` in `form`."""
    options = [
        click.option(
            "--order",
            type=click.Choice(["copy-major", "prompt-major"]),
            help=(
                "How a folder's files count: one image of each prompt, then the next ones, or all"
                " images of a prompt in turn."
            ),
        ),
        click.option(
            "--pattern",
            metavar="PATTERN",
            help=(
                "How files are named: '{prompt_index}_{copy}.png', also {prompt}, {id}, {index} and"
                " folders; numbers count from 0."
            ),
        ),
        click.option(
            "--file-list",
            type=click.Path(path_type=Path),
            help=(
                "A .csv, .tsv or .jsonl with file and index, or file, one of prompt_index, prompt,"
                " id, and copy."
            ),
        ),
        click.option(
            "--tiles", type=click.Choice([1, 2, 4]), help="Images in each of DPG-Bench's pictures."
        ),
    ]
    return with_options_record(command, "form", _load_folder_form, options)


def _load_folder_form() -> Callable[..., object]:
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

    return PromptFolderOptions


def check_count(count: int | None) -> None:
    """Raise a usage error where `--count` asks for more samples than one request may name."""
    from harope_bench.core.index_ranges import MAX_INDICES

    if count is not None and count > MAX_INDICES:
        raise click.UsageError(
            f"--count {count:,} is more than {MAX_INDICES:,} samples, the most of one request; use"
            " --indices in parts"
        )


def select_indices(suite: str, count: int | None, indices: Sequence[int] | None) -> Sequence[int]:
    """Return the indices that --count or --indices ask for; a usage error where they are too many
    for one request.
    """
    from harope_bench.pipeline.generate import requested_indices

    if count is not None and indices is not None:
        raise click.UsageError("--count and --indices are two ways to say the same; give one")
    check_count(count)
    return indices if indices is not None else requested_indices(suite, count)


def json_object_text(value: object) -> str:
    """One JSON object, keys sorted, NaN forbidden."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1)


def record_json(record: BaseModel) -> dict[str, object]:
    """A record as plain JSON values."""
    return record.model_dump(mode="json")
