"""Verbs that look around and make things known: list, doctor, register, export."""

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


@click.command("list")
@click.argument("kind", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Also where each comes from.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def list_(kind: str | None, verbose: bool, json_: bool) -> None:
    """Names of encodings, backbones, checkpoints, suites, judges, evaluators, tables.

    \b
    harope-bench list encodings -v
    """
    from harope_bench.core import registry

    wanted = [kind] if kind else list(registry.PLUGIN_KINDS)
    found = {k: registry.list_entries(k) for k in wanted}
    if json_:
        echo(
            json_object_text(
                {
                    k: [entry_json(e, verbose) for e in entries.values()]
                    for k, entries in found.items()
                }
            )
        )
        return
    for k, entries in found.items():
        if not kind:
            echo(f"{k}:")
        for entry in entries.values():
            facts = entry_json(entry, verbose)
            echo(
                ("  " if not kind else "")
                + "  ".join(
                    str(facts[f])
                    for f in ("name", "origin", "version", "parity", "trust")
                    if f in facts
                )
            )


def entry_json(entry: RegistryEntry, verbose: bool) -> dict[str, str | int]:
    """Name, and with `verbose` origin, version and parity where the thing states them."""
    from harope_bench.assets.local_files import load_asset
    from harope_bench.evaluators.base import load_evaluator
    from harope_bench.judges.base import load_judge
    from harope_bench.suites.base import load_suite

    if not verbose:
        return {"name": entry.name}
    facts: dict[str, str | int] = {"name": entry.name, "origin": entry.origin}
    if entry.kind == "suites":
        facts["version"] = load_suite(entry.name).version
    if entry.kind == "judges":
        facts["version"] = load_judge(entry.name).version
    if entry.kind == "evaluators":
        evaluator = load_evaluator(entry.name)
        facts |= {"version": evaluator.version, "parity": evaluator.parity}
    if entry.kind == "assets":
        facts["trust"] = "; ".join(
            sorted({file.verification for file in load_asset(entry.name).files})
        )
    return facts


@click.command()
@click.option(
    "--golden",
    is_flag=True,
    help="Score OpenAI's public samples against their published numbers, where they are here.",
)
@click.option(
    "--golden-from",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder that holds these samples and references.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Where the judge of --golden runs.",
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def doctor(golden: bool, folder: Path | None, device: str, json_: bool) -> None:
    """What can run here, what is missing, and the command that brings it.

    \b
    harope-bench doctor
    """
    from harope_bench.pipeline.doctor import check_installation

    findings = check_installation(golden or folder is not None, folder, device)
    if json_:
        echo(json_object_text({"findings": [f._asdict() for f in findings]}))
    else:
        for f in findings:
            fix = f"  -> {f.fix}" if f.fix else ""
            echo(f"{f.status:8} {f.area:11} {f.name:18} {f.detail}{fix}")
    if any(f.status == "broken" for f in findings):
        sys.exit(EXIT_NO)


@click.command()
@click.argument("name")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    required=True,
    help=(
        ".safetensors; a torch file (a state dict, or DiT's training file); an adapter folder; a"
        " pipeline folder; a diffusers LoRA, which needs --config base=FOLDER."
    ),
)
@click.option(
    "--encoding-weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Encoding of a LoRA without manifest; encoding.safetensors beside it if left out.",
)
@click.option("--backbone", help="Backbone; found from the keys if left out.")
@click.option(
    "--encoding", help="Encoding; found from the keys or the file's note where they tell."
)
@click.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding, key=value.",
)
@click.option(
    "--config",
    type=KeyValueType(),
    multiple=True,
    help="Size that the keys do not tell (heads, size), or a base, key=value.",
)
@click.option(
    "--drawing",
    type=KeyValueType(),
    multiple=True,
    help="Default of another setting (vae, fold, tile, ...), key=value.",
)
@click.option("--suite", help="Suite it was trained for; eval and generate then need no --suite.")
@click.option(
    "--sampler",
    help=(
        "Sampler it was trained for, which says what it predicts; needed where the file does not"
        " tell."
    ),
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Default sampler steps; the file's or the base's own, 250 for DDPM latents, else 50.",
)
@click.option(
    "--guidance",
    type=click.FloatRange(0),
    help="Default guidance; the file's or the base's own, 1.5 for DDPM latents, else 1.",
)
@click.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    help="What its numbers count as; paper if neither this nor the file says.",
)
@click.option("--replace", is_flag=True, help="Take NAME from the checkpoint that has it.")
def register(
    name: str,
    weights: Path,
    encoding_weights: Path | None,
    options: Sequence[tuple[str, Option]],
    config: Sequence[tuple[str, Option]],
    drawing: Sequence[tuple[str, Option]],
    replace: bool,
    **said: str | int | float | None,
) -> None:
    """Register weights under NAME, with their sha256, after loading them strictly once; the same
    again is up to date.

    \b
    harope-bench register my-pe --weights my.safetensors --encoding harope --config heads=4 --config
    size=28
    harope-bench register dit-harope --weights 0400000.pt --drawing vae=/models/sd-vae-ft-mse
    harope-bench register my-flux --weights lora-folder --config base=/models/FLUX.1-dev
    """
    from harope_bench.core import registry
    from harope_bench.models.checkpoint_fields import known_fields
    from harope_bench.models.load_checkpoint import load_checkpoint_record
    from harope_bench.models.register_checkpoint import description_lines, register_checkpoint

    for kind in ("sampler", "suite"):
        if said[kind] is not None:
            registry.find_entry(f"{kind}s", str(said[kind]))
    facts = {**said, "options": dict(options), "config": dict(config), "drawing": dict(drawing)}
    registered = register_checkpoint(name, weights, known_fields(facts), encoding_weights, replace)
    echo(registered.path)
    if not registered.is_changed:
        echo("  up to date: these weights are registered with these facts", err=True)
    for line in description_lines(load_checkpoint_record(name)):
        echo(f"  {line}", err=True)  # the answer is the path


@click.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--folded",
    is_flag=True,
    help="Learned matrices moved into the projections: a checkpoint of plain RoPE, equal outputs.",
)
@click.option("--replace", is_flag=True, help="Write over a TARGET that holds something else.")
def export(name: str, target: Path, folded: bool, replace: bool) -> None:
    """Write the weights of checkpoint NAME as one .safetensors file with the facts that `register`
    needs.

    \b
    harope-bench export digits-harope plain.safetensors --folded
    """
    from harope_bench.models.export_checkpoint import export_checkpoint

    echo(export_checkpoint(name, target, folded, replace))
