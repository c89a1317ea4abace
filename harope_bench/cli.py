"""The command line: one group, and the one place where a named error becomes a line and an exit
code.

The commands are in commands/: each parses, calls one function, prints. Answers go to stdout,
progress to stderr.
Exit 0 done, 1 a named error, 2 wrong usage, 3 the answer is no, 4 the gate cannot tell.
"""

from __future__ import annotations

from typing import Any

import click

from harope_bench import __version__
from harope_bench.commands import (
    audit,
    compare,
    evaluate,
    failures,
    fetch,
    figure,
    generate,
    leaderboard,
    paper,
    plan,
    setup,
    tables,
    train,
)
from harope_bench.commands.terminal import echo
from harope_bench.core.errors import BenchError
from harope_bench.core.escaping import message_line, printable_line, usage_text


class ErrorReportingGroup(click.Group):
    """Catches named errors at the one place where they become a line and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse words that are no Unicode text, which no plan and no result could hold; see
        click.
        """
        if odd := [
            word
            for word in args
            if not word.isascii() and word.encode("utf-8", "replace").decode() != word
        ]:
            raise click.UsageError(f"{odd[0]!a} is not UTF-8; rename the file or folder")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb; a BenchError is one line and exit 1 unless --debug asks for the
        traceback.
        """
        try:
            return super().invoke(ctx)
        except BenchError as error:
            if ctx.params.get("debug"):
                raise
            echo(f"harope-bench: {message_line(str(error))}", err=True)
            ctx.exit(1)
        except (KeyboardInterrupt, click.Abort):
            echo(
                "harope-bench: interrupted; what was reported done is kept, the same command goes"
                " on from there",
                err=True,
            )
            ctx.exit(130)
        except click.ClickException as error:
            error.message = usage_text(error.message)  # type: ignore[misc]  # final for subclasses, not for us
            raise
        except click.exceptions.Exit:
            raise
        except OSError as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            echo(
                f"harope-bench: {printable_line(str(error.filename or 'the system'))}:"
                f" {error.strerror or error}; check the path and the disk",
                err=True,
            )
            ctx.exit(1)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            first = printable_line(str(error).splitlines()[0]) if str(error) else ""
            echo(
                f"harope-bench: unexpected {type(error).__name__}: {first}; run again with --debug"
                " and report what it prints",
                err=True,
            )
            ctx.exit(1)


@click.group(
    cls=ErrorReportingGroup,
    context_settings={
        "auto_envvar_prefix": "HAROPE_BENCH",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
)
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Print tracebacks.")
def main(debug: bool) -> None:
    """Compare positional encodings of image transformers: draw, judge, tabulate, report.

    \b
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    """


for verb in (
    setup.list_,
    setup.doctor,
    setup.register,
    setup.export,
    fetch.fetch,
    fetch.reference,
    generate.generate,
    evaluate.eval_,
    generate.verify,
    generate.convert,
    tables.table,
    tables.reproduce,
    tables.report,
    train.train,
    paper.paper,
    audit.audit,
    leaderboard.leaderboard,
    compare.compare,
    compare.gate,
    plan.plan,
    figure.figure,
    failures.failures,
):
    main.add_command(verb)

if __name__ == "__main__":
    main()
