"""The commands `list`, `doctor`, `register` and `export`, which manage the installation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import EXIT_NO, KeyValueType, json_object_text
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option
    from harope_bench.core.registry import RegistryEntry

LISTED_FIELDS = ("name", "origin", "version", "parity", "trust")


@click.command("list")
@click.argument("kind", required=False)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help=(
        "Also print where each comes from, the version of suites, judges and evaluators, with which"
        " published code an evaluator agrees, and how the files of an asset are verified."
    ),
)
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
def list_(kind: str | None, verbose: bool, json_: bool) -> None:
    """List checkpoints, encodings, suites, judges and more.

    KIND limits the list to one of these kinds:

    \b
    encodings    positional encodings
    backbones    network architectures
    samplers     sampling methods of diffusion and flow models
    checkpoints  weights with a name: those of this package and registered ones
    suites       what to generate, and what to compare it with
    judges       networks that look at images: feature extractors and annotators
    evaluators   groups of metrics
    tables       tables of the paper
    recipes      training recipes of this package, for `train`
    assets       files of other people, for `fetch`

    \b
    harope-bench list
    harope-bench list encodings -v
    """
    from harope_bench.core import registry

    kinds = [kind] if kind else list(registry.PLUGIN_KINDS)
    descriptions = {
        name: [entry_json(entry, verbose) for entry in registry.list_entries(name).values()]
        for name in kinds
    }
    if json_:
        echo(json_object_text(descriptions))
        return
    indent = "" if kind else "  "
    for name, entries in descriptions.items():
        if not kind:
            echo(f"{name}:")
        for fields in entries:
            echo(indent + "  ".join(str(fields[f]) for f in LISTED_FIELDS if f in fields))


def entry_json(entry: RegistryEntry, verbose: bool) -> dict[str, str | int]:
    """Return the name of a registered object and, with `verbose`, its other fields.

    These are the origin, and the version, parity or trust where its kind has them.
    """
    from harope_bench.assets.local_files import load_asset
    from harope_bench.evaluators.base import load_evaluator
    from harope_bench.judges.base import load_judge
    from harope_bench.suites.base import load_suite

    if not verbose:
        return {"name": entry.name}
    fields: dict[str, str | int] = {"name": entry.name, "origin": entry.origin}
    if entry.kind == "suites":
        fields["version"] = load_suite(entry.name).version
    elif entry.kind == "judges":
        fields["version"] = load_judge(entry.name).version
    elif entry.kind == "evaluators":
        evaluator = load_evaluator(entry.name)
        fields |= {"version": evaluator.version, "parity": evaluator.parity}
    elif entry.kind == "assets":
        verifications = {file.verification for file in load_asset(entry.name).files}
        fields["trust"] = "; ".join(sorted(verifications))
    return fields


@click.command()
@click.option(
    "--golden",
    "has_golden_sets",
    is_flag=True,
    help=(
        "Also evaluate the samples that OpenAI published for ADM, and compare the metrics with the"
        " published ones. Needs `fetch` of golden-imagenet-128 or golden-imagenet-256, and of"
        " inception-2015."
    ),
)
@click.option(
    "--golden-from",
    "folder",
    type=click.Path(path_type=Path),
    help=(
        "Like --golden, with the samples and references in this folder instead of the fetched ones."
    ),
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Device that the feature extractor of --golden runs on.",
)
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
def doctor(has_golden_sets: bool, folder: Path | None, device: str, json_: bool) -> None:
    """Check the installation.

    The output has a line for each checkpoint, judge, set of prompts, reference and optional
    package: whether it works, is missing or is broken, and the command that fixes it. Nothing is
    changed. The exit code is 3 if something is broken; missing is not broken.

    \b
    harope-bench doctor
    """
    from harope_bench.pipeline.doctor import check_installation

    findings = check_installation(has_golden_sets or folder is not None, folder, device)
    if json_:
        echo(json_object_text({"findings": [finding._asdict() for finding in findings]}))
    else:
        for finding in findings:
            fix = f"  -> {finding.fix}" if finding.fix else ""
            echo(f"{finding.status:8} {finding.area:11} {finding.name:18} {finding.detail}{fix}")
    if any(finding.status == "broken" for finding in findings):
        sys.exit(EXIT_NO)


@click.command()
@click.argument("name")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    required=True,
    help=(
        "One of: a .safetensors file; a torch file (.pt, .pth) with a state dict or a DiT training"
        " checkpoint; the folder of a diffusers pipeline (with model_index.json); a LoRA that"
        " diffusers or peft wrote, with --config base=FOLDER for the pipeline that it changes; or"
        " the folder of a LoRA with a manifest of this package, which names its base and encoding."
    ),
)
@click.option(
    "--encoding-weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=(
        "Weights of the learned matrices of the encoding, for a LoRA without a manifest. Default:"
        " encoding.safetensors in the folder of --weights."
    ),
)
@click.option(
    "--backbone",
    metavar="NAME",
    help=(
        "Network architecture; see `list backbones`. Default: inferred from the parameter names in"
        " the weights file."
    ),
)
@click.option(
    "--encoding",
    metavar="NAME",
    help=(
        "Positional encoding; see `list encodings`. Default: read from the metadata of the weights"
        " file, or inferred from its parameter names."
    ),
)
@click.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding, such as base=100; may be repeated. Default: read from the file.",
)
@click.option(
    "--config",
    type=KeyValueType(),
    multiple=True,
    help=(
        "Setting of the architecture that cannot be read from the shapes of the weights: heads"
        " (attention heads), size (image side in pixels); or base=FOLDER, the pipeline of a LoRA."
        " May be repeated."
    ),
)
@click.option(
    "--drawing",
    type=KeyValueType(),
    multiple=True,
    help=(
        "Default of a generation setting for this checkpoint; may be repeated. Keys: vae,"
        " vae_tiling, fold, pos_scaling, guidance_channels, mu_policy, spacing, dtype (as the"
        " options of `generate`), and tile, the batch size of the network."
    ),
)
@click.option(
    "--suite",
    metavar="NAME",
    help=(
        "Suite that `eval` and `generate` use if they get no --suite: what to generate, and what to"
        " compare it with; see `list suites`."
    ),
)
@click.option(
    "--sampler",
    metavar="NAME",
    help=(
        "Sampler that fits the training: ddpm, ddim or flow (rectified flow). Required if neither"
        " the weights file nor a base model states it."
    ),
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help=(
        "Number of sampler steps of this checkpoint. Default: the number in the file or of the base"
        " model; otherwise 250 for latent models with the ddpm sampler, and 50 for others."
    ),
)
@click.option(
    "--guidance",
    type=click.FloatRange(0),
    help=(
        "Scale of classifier-free guidance of this checkpoint. Default: the scale in the file or of"
        " the base model; otherwise 1.5 for latent models with the ddpm sampler, and 1 for others."
    ),
)
@click.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    help=(
        "Which tables show its results. micro: those of the small models that this package"
        " includes. paper: those of models as large as in the paper. They are never ranked"
        " together. Default: as in the file, otherwise paper."
    ),
)
@click.option("--replace", is_flag=True, help="Replace the checkpoint that is registered as NAME.")
def register(
    name: str,
    weights: Path,
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
    """
    from harope_bench.core import registry
    from harope_bench.models.checkpoint_fields import known_fields
    from harope_bench.models.load_checkpoint import load_checkpoint_record
    from harope_bench.models.register_checkpoint import description_lines, register_checkpoint

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
        name, weights, known_fields(fields), encoding_weights, replace
    )
    echo(registration.path)  # the only line on stdout
    if not registration.is_changed:
        echo("  up to date: these weights are registered with these settings", err=True)
    for line in description_lines(load_checkpoint_record(name)):
        echo(f"  {line}", err=True)


@click.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--folded",
    "is_folded",
    is_flag=True,
    help=(
        "Multiply the learned matrices of the encoding into the weights of the query and key"
        " projections. The result is a checkpoint with plain RoPE that gives the same outputs (up"
        " to rounding). Only for encodings with such matrices, as harope."
    ),
)
@click.option("--replace", is_flag=True, help="Overwrite TARGET if it exists with other content.")
def export(name: str, target: Path, is_folded: bool, replace: bool) -> None:
    """Write checkpoint NAME to the .safetensors file TARGET.

    The file can be given to others: its metadata holds the architecture, the encoding and the
    sampler, so that `register` needs no further options.

    \b
    harope-bench export digits-harope plain.safetensors --folded
    """
    from harope_bench.models.export_checkpoint import export_checkpoint

    echo(export_checkpoint(name, target, is_folded, replace))
