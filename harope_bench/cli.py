"""The command line: one click group, which turns errors into one line and an exit code.

The commands are in commands/. Each command parses its options, calls one function and prints.
Results go to stdout, progress and warnings to stderr.

Exit codes: 0 success; 1 an error; 2 wrong usage; 3 a negative result (an altered file, a
regression, a broken installation, a violated contract); 4 the gate, or the check of a contract,
could not decide.
"""

from __future__ import annotations

from typing import Any, NoReturn

import click
import cloup

from harope_bench import __version__
from harope_bench.commands import (
    audit,
    check,
    compare,
    convert,
    doctor,
    evaluate,
    failures,
    fetch,
    figure,
    generate,
    leaderboard,
    list_,
    new,
    paper,
    plan,
    register,
    results,
    tables,
    train,
    verify,
)
from harope_bench.commands.terminal import echo
from harope_bench.core.errors import BenchError
from harope_bench.core.escaping import message_line, printable_line, usage_text


class ErrorReportingGroup(cloup.Group):
    """A group of commands that reports every error in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments like click; reject one that is not UTF-8.

        A plan or a result could not store such a text.
        """
        for argument in args:
            if not _is_utf8(argument):
                raise click.UsageError(f"{argument!a} is not UTF-8; rename the file or folder")
        return super().parse_args(ctx, args)

    # Any: the return type of click's own method
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print an error as one line and exit.

        With --debug the error is raised, so that Python prints its traceback.
        """
        is_debugging = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except BenchError as error:
            if is_debugging:
                raise
            _exit_with(ctx, message_line(str(error)))
        except (KeyboardInterrupt, click.Abort):
            _exit_with(ctx, "interrupted; run the same command again to resume", exit_code=130)
        except click.ClickException as error:
            error.message = usage_text(error.message)  # type: ignore[misc]  # final for subclasses, not for us
            raise
        except click.exceptions.Exit:
            raise
        except OSError as error:
            if is_debugging or isinstance(error, BrokenPipeError):
                raise
            subject = printable_line(str(error.filename or "the system"))
            _exit_with(ctx, f"{subject}: {error.strerror or error}; check the path and the disk")
        except Exception as error:
            if is_debugging:
                raise
            from harope_bench.core.extras import missing_extra_error

            purpose = f"harope-bench {ctx.invoked_subcommand}"
            if isinstance(error, ImportError) and (missing := missing_extra_error(purpose, error)):
                _exit_with(ctx, str(missing))
            _exit_with(
                ctx,
                f"unexpected {type(error).__name__}: {_error_headline(error)}; run again with"
                " --debug and report what it prints",
            )


def _is_utf8(text: str) -> bool:
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


def _error_headline(error: Exception) -> str:
    """Return the first line of an error's text; empty if it has none."""
    lines = str(error).splitlines()
    return printable_line(lines[0]) if lines else ""


def _exit_with(ctx: click.Context, message: str, exit_code: int = 1) -> NoReturn:
    """Print a message to stderr and exit."""
    echo(f"harope-bench: {message}", err=True)
    ctx.exit(exit_code)


@cloup.group(
    cls=ErrorReportingGroup,
    context_settings={
        "auto_envvar_prefix": "HAROPE_BENCH",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
)
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Print the traceback of an error.")
def main(debug: bool) -> None:
    """Compare positional encodings of image transformers.

    The commands generate images, compute metrics, and render tables and reports.

    \b
    # Small models of all encodings, on two CPU cores:
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    # One checkpoint (weights with a name) on one suite (what to generate, and
    # what to compare it with):
    harope-bench eval digits-harope --suite digits --count 500 --out runs/harope

    A run folder, such as runs/harope, holds the images, settings and metrics of one checkpoint on
    one suite. Most commands read such folders. `harope-bench list` shows all names.
    """


SECTIONS = {
    "Run": (generate.generate, evaluate.eval_, tables.reproduce, train.train),
    "Evaluate and compare": (
        compare.compare,
        compare.gate,
        plan.plan,
        verify.verify,
        failures.failures,
    ),
    "Show": (
        tables.table,
        tables.report,
        figure.figure,
        leaderboard.leaderboard,
        results.results,
        list_.list_,
    ),
    "Paper": (paper.paper, audit.audit),
    "Set up": (
        doctor.doctor,
        fetch.fetch,
        register.register,
        register.unregister,
        register.export,
        convert.convert,
        fetch.reference,
        new.write_plugin,
        check.check,
    ),
}
for title, commands in SECTIONS.items():
    main.add_section(cloup.Section(title, commands))

if __name__ == "__main__":
    main()
