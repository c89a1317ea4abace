"""The one door to the terminal: names and texts from outside cannot steer it."""

from __future__ import annotations

import click

from harope_bench.core.escaping import terminal_text


def echo(message: object = "", err: bool = False, nl: bool = True) -> None:
    """Print lines of text, to standard error with `err`; characters that steer a terminal become
    blanks.
    """
    click.echo(terminal_text(str(message)), err=err, nl=nl)
