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
@click.option("-v", "--verbose", is_flag=True, help="Also print origin, version and parity.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
def list_(kind: str | None, verbose: bool, json_: bool) -> None:
    """List checkpoints, encodings, suites, judges and more.

    KIND limits the list to one kind: backbones, checkpoints, encodings, evaluators, judges, suites
    and so on.

    \b
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
    if not verbose:
        return {"name": entry.name}

    # imported here, because a list of names takes a quarter of the time without them
    from harope_bench.assets.local_files import load_asset
    from harope_bench.evaluators.base import load_evaluator
    from harope_bench.judges.base import load_judge
    from harope_bench.suites.base import load_suite

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
    help="Also score OpenAI's public samples and compare with their published metrics.",
)
@click.option(
    "--golden-from",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder with these samples and references. Default: the fetched ones.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Device of the judge for --golden.",
)
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
def doctor(has_golden_sets: bool, folder: Path | None, device: str, json_: bool) -> None:
    """Check the installation.

    The output states what works, what is missing, what is broken, and the command that fixes it.
    The exit code is 3 if something is broken.

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
        "A .safetensors file, a torch file (state dict or DiT training checkpoint), an adapter"
        " folder, a pipeline folder, or a diffusers LoRA (with --config base=FOLDER)."
    ),
)
@click.option(
    "--encoding-weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=(
        "Weights of the encoding, for a LoRA without a manifest. Default: encoding.safetensors in"
        " the same folder."
    ),
)
@click.option("--backbone", help="Backbone. Default: inferred from the names of the weights.")
@click.option(
    "--encoding",
    help="Positional encoding. Default: inferred from the weights or read from their metadata.",
)
@click.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding as key=value; may be repeated.",
)
@click.option(
    "--config",
    type=KeyValueType(),
    multiple=True,
    help=(
        "Architecture setting that the weights do not show (heads, size), or base=FOLDER; may be"
        " repeated."
    ),
)
@click.option(
    "--drawing",
    type=KeyValueType(),
    multiple=True,
    help="Default of a generation setting (vae, fold, tile, ...) as key=value; may be repeated.",
)
@click.option(
    "--suite", help="Suite it was trained for; `eval` and `generate` then need no --suite."
)
@click.option(
    "--sampler",
    help="Sampler it was trained for; required if the weights file does not state it.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help=(
        "Default number of sampler steps. If left out: the file's or the base model's number, 250"
        " for DDPM latents, otherwise 50."
    ),
)
@click.option(
    "--guidance",
    type=click.FloatRange(0),
    help=(
        "Default guidance scale. If left out: the file's or the base model's scale, 1.5 for DDPM"
        " latents, otherwise 1."
    ),
)
@click.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    help=(
        "Scale at which its results are reported. If left out: the scale in the file, otherwise"
        " paper."
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

    The weights are loaded once to check that they fit the backbone and the encoding.

    \b
    harope-bench register my-pe --weights my.safetensors --encoding harope --config heads=4 --config
    size=28
    harope-bench register dit-harope --weights 0400000.pt --drawing vae=/models/sd-vae-ft-mse
    harope-bench register my-flux --weights lora-folder --config base=/models/FLUX.1-dev
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("register")

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
        "Multiply the learned matrices into the projections; the result is a plain RoPE checkpoint"
        " with equal outputs."
    ),
)
@click.option("--replace", is_flag=True, help="Overwrite a TARGET with other content.")
def export(name: str, target: Path, is_folded: bool, replace: bool) -> None:
    """Write checkpoint NAME to the .safetensors file TARGET.

    The command `register` can read the file. Its metadata holds the settings that `register` needs.

    \b
    harope-bench export digits-harope plain.safetensors --folded
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("export")

    from harope_bench.models.export_checkpoint import export_checkpoint

    echo(export_checkpoint(name, target, is_folded, replace))
