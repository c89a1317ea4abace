"""The commands `register`, `unregister` and `export`, which manage checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    KeyValueType,
    OwnCheckpoint,
    RegisteredName,
    WeightsType,
)
from harope_bench.commands.options import device_option
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option


@cloup.command()
@click.argument("name")
@cloup.option(
    "--weights",
    type=WeightsType(),
    required=True,
    help=(
        "One of: a .safetensors file; a torch file (.pt, .pth) with a state dict or a DiT training"
        " checkpoint; the folder of a diffusers pipeline (with model_index.json), or its id on the"
        " Hugging Face Hub, OWNER/NAME or OWNER/NAME@REVISION, if it is in the local cache (from"
        " `fetch hub:OWNER/NAME`); a LoRA that diffusers or peft wrote, with --config"
        " base=FOLDER for the pipeline that it changes; the folder of a LoRA with a manifest of"
        " this package, which names its base and encoding; or the address of an image endpoint"
        " (http://HOST:PORT), with --config model=NAME."
    ),
)
@cloup.option(
    "--encoding-weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=(
        "Weights of the learned matrices of the encoding, for a LoRA without a manifest. Default:"
        " encoding.safetensors in the folder of --weights."
    ),
)
@cloup.option(
    "--backbone",
    type=RegisteredName("backbones"),
    metavar="NAME",
    help=(
        "Network architecture; see `list backbones`. Default: inferred from the parameter names in"
        " the weights file."
    ),
)
@cloup.option(
    "--encoding",
    type=RegisteredName("encodings"),
    metavar="NAME",
    help=(
        "Positional encoding; see `list encodings`. Default: read from the metadata of the weights"
        " file, or inferred from its parameter names."
    ),
)
@cloup.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding, such as base=100; may be repeated. Default: read from the file.",
)
@cloup.option(
    "--config",
    type=KeyValueType(),
    multiple=True,
    help=(
        "Setting of the architecture that cannot be read from the shapes of the weights: heads"
        " (attention heads), size (image side in pixels), family (sit or repa for weights with the"
        " keys of DiT); or base=FOLDER, the pipeline of a LoRA. Of an endpoint: model,"
        " api_key_variable, negative_prompt, true_cfg_scale, is_repeatable. May be repeated."
    ),
)
@cloup.option(
    "--drawing",
    type=KeyValueType(),
    multiple=True,
    help=(
        "Default of a generation setting for this checkpoint; may be repeated. Keys: vae,"
        " vae_tiling, fold, pos_scaling, guidance_channels, mu_policy, spacing, guidance_interval,"
        " shift, diffusion, dtype (as the options of `generate`), and tile, the batch size of the"
        " network. For a diffusers pipeline also the options of its call, such as negative_prompt,"
        " true_cfg_scale or max_sequence_length, and enable_model_cpu_offload. For an endpoint also"
        " resolution."
    ),
)
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    metavar="NAME",
    help=(
        "Suite that `eval` and `generate` use if they get no --suite: what to generate, and what to"
        " compare it with; see `list suites`."
    ),
)
@cloup.option(
    "--sampler",
    type=RegisteredName("samplers"),
    metavar="NAME",
    help=(
        "Sampler that fits the training, see `list samplers`: ddpm, ddim, or flow and flow-... for"
        " rectified flow. Required if neither the weights file nor a base model states it."
    ),
)
@cloup.option(
    "--steps",
    type=click.IntRange(1),
    help=(
        "Number of sampler steps of this checkpoint. Default: the number in the file or of the base"
        " model; otherwise 250 for latent models with the ddpm sampler, and 50 for others."
    ),
)
@cloup.option(
    "--guidance",
    type=click.FloatRange(0),
    help=(
        "Scale of classifier-free guidance of this checkpoint. Default: the scale in the file or of"
        " the base model; otherwise 1.5 for latent models with the ddpm sampler, and 1 for others."
    ),
)
@cloup.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    help=(
        "Which tables show its results. micro: those of the small models that this package"
        " includes. paper: those of models as large as in the paper. They are never ranked"
        " together. Default: as in the file, otherwise paper."
    ),
)
@device_option(
    "Device on which a diffusers pipeline that runs as it is generates its trial images: one of"
    " them again, and again after another one. They show whether its images can be repeated."
)
@cloup.option(
    "--trial/--no-trial",
    "has_trial",
    default=True,
    help=(
        "Generate the trial images of such a pipeline, which loads it. --no-trial: register it"
        " without, for example where it does not fit into memory."
    ),
)
@cloup.option("--replace", is_flag=True, help="Replace the checkpoint that is registered as NAME.")
def register(
    name: str,
    weights: Path | str,
    encoding_weights: Path | None,
    backbone: str | None,
    encoding: str | None,
    options: Sequence[tuple[str, Option]],
    config: Sequence[tuple[str, Option]],
    drawing: Sequence[tuple[str, Option]],
    suite: str | None,
    sampler: str | None,
    steps: int | None,
    guidance: float | None,
    scale: str | None,
    device: str,
    has_trial: bool,
    replace: bool,
) -> None:
    """Register weights as checkpoint NAME, with their sha256.

    Other commands then find the weights, the network architecture (backbone), the positional
    encoding and the default settings by NAME. The weights stay where they are; they are loaded once
    to check that they fit the backbone and the encoding.

    \b
    harope-bench register my-pe --weights my.safetensors --encoding harope \\
        --config heads=4 --config size=28 --sampler flow
    harope-bench register dit-harope --weights 0400000.pt \\
        --drawing vae=/models/sd-vae-ft-mse
    harope-bench register my-flux --weights lora-folder \\
        --config base=/models/FLUX.1-dev
    harope-bench register qwen --weights Qwen/Qwen-Image \\
        --drawing true_cfg_scale=4 --drawing negative_prompt=blurry
    harope-bench register my-server --weights http://127.0.0.1:8000 \\
        --config model=Qwen/Qwen-Image --suite geneval
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("register")

    from harope_bench.core import registry
    from harope_bench.models.checkpoint_fields import known_fields
    from harope_bench.models.load_checkpoint import load_checkpoint_record
    from harope_bench.models.register_checkpoint import description_lines, register_checkpoint
    from harope_bench.models.register_pipeline import Trial

    if sampler is not None:
        registry.find_entry("samplers", sampler)
    if suite is not None:
        registry.find_entry("suites", suite)
    fields = {
        "backbone": backbone,
        "encoding": encoding,
        "options": dict(options),
        "config": dict(config),
        "drawing": dict(drawing),
        "suite": suite,
        "sampler": sampler,
        "steps": steps,
        "guidance": guidance,
        "scale": scale,
    }
    registration = register_checkpoint(
        name,
        weights,
        known_fields(fields),
        encoding_weights,
        replace,
        Trial(device, is_skipped=not has_trial),
    )
    echo(registration.path)  # the only line on stdout
    if not registration.is_changed:
        echo("  up to date: these weights are registered with these settings", err=True)
    for line in description_lines(load_checkpoint_record(name)):
        echo(f"  {line}", err=True)


@cloup.command()
@click.argument("name", type=OwnCheckpoint())
def unregister(name: str) -> None:
    """Remove the registration of your checkpoint NAME.

    The weights and the runs of the checkpoint stay where they are. The checkpoints of this package
    cannot be unregistered.

    \b
    harope-bench unregister my-pe
    """
    from harope_bench.models.register_checkpoint import unregister_checkpoint

    echo(f"{unregister_checkpoint(name)}: removed")


@cloup.command()
@click.argument("name", type=RegisteredName("checkpoints"))
@click.argument("target", type=click.Path(path_type=Path))
@cloup.option(
    "--folded",
    "is_folded",
    is_flag=True,
    help=(
        "Multiply the learned matrices of the encoding into the weights of the query and key"
        " projections. The result is a checkpoint with plain RoPE that gives the same outputs (up"
        " to rounding). Only for encodings with such matrices, as harope."
    ),
)
@cloup.option("--replace", is_flag=True, help="Overwrite TARGET if it exists with other content.")
def export(name: str, target: Path, is_folded: bool, replace: bool) -> None:
    """Write checkpoint NAME to the .safetensors file TARGET.

    The file can be given to others: its metadata holds the architecture, the encoding and the
    sampler, so that `register` needs no further options.

    \b
    harope-bench export digits-harope plain.safetensors --folded
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("export")

    from harope_bench.models.export_checkpoint import export_checkpoint

    echo(export_checkpoint(name, target, is_folded, replace))
