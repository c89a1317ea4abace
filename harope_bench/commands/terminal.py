"""Safe printing to the terminal: control characters in names and texts are neutralized."""

from __future__ import annotations

import click

from harope_bench.core.escaping import terminal_text


def echo(message: object = "", err: bool = False, nl: bool = True) -> None:
    """Print text to stdout, or to stderr with `err`; replace control characters with blanks."""
    click.echo(terminal_text(str(message)), err=err, nl=nl)
