"""The command `list`: registered names and their facts."""

from __future__ import annotations

import click
import cloup

from harope_bench.commands.option_types import KindName
from harope_bench.commands.options import json_object_text, json_option
from harope_bench.commands.terminal import echo


@cloup.command("list")
@click.argument("kind", required=False, type=KindName())
@cloup.option(
    "-v",
    "--verbose",
    is_flag=True,
    help=(
        "Also print the facts of each name, such as encoding, size, scale, version and hash, and"
        " whether it is ready or what is missing."
    ),
)
@json_option
def list_(kind: str | None, verbose: bool, json_: bool) -> None:
    """List checkpoints, encodings, suites, judges and more.

    KIND is one of backbones, checkpoints, encodings, samplers, suites, judges, evaluators, tables,
    recipes and assets. Default: all kinds. --json prints the facts that -v prints, by name of the
    fact.

    \b
    harope-bench list
    harope-bench list checkpoints -v
    """
    from harope_bench.core import registry

    entries = {name: registry.list_entries(name).values() for name in _kinds(kind)}
    if not verbose and not json_:
        for name, kind_entries in entries.items():
            _print_names(name, [entry.name for entry in kind_entries], has_title=kind is None)
        return

    from harope_bench.pipeline.describe_plugins import describe_plugin

    descriptions = {name: list(map(describe_plugin, values)) for name, values in entries.items()}
    if json_:
        echo(
            json_object_text(
                {name: [d.to_json() for d in values] for name, values in descriptions.items()}
            )
        )
        return
    for name, values in descriptions.items():
        width = max((len(d.name) for d in values), default=0)
        lines = [f"{d.name:{width}}  {d.line}" for d in values]
        _print_names(name, lines, has_title=kind is None)


def _kinds(kind: str | None) -> list[str]:
    """Return the requested kind, or all kinds."""
    from harope_bench.core import registry

    return [kind] if kind else list(registry.PLUGIN_KINDS)


def _print_names(kind: str, lines: list[str], has_title: bool) -> None:
    """Print one line for each name, below the name of the kind if several kinds are printed."""
    if has_title:
        echo(f"{kind}:")
    for line in lines:
        echo(f"  {line}" if has_title else line)
