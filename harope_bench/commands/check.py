"""The command `check`: the contract of a plug-in."""

from __future__ import annotations

import sys
import time

import click
import cloup

from harope_bench.commands.option_types import KindName, NameOfKind
from harope_bench.commands.options import EXIT_NO
from harope_bench.commands.terminal import echo

EXIT_UNDECIDED = 4  # exit code of a contract that could not be checked as a whole


@cloup.command()
@click.argument("kind", type=KindName())
@click.argument("name", type=NameOfKind())
def check(kind: str, name: str) -> None:
    """Check a plug-in against the contract of its KIND.

    KIND is encoding, backbone, sampler, checkpoint, suite, judge, evaluator, table, recipe or
    asset. The exit code is 3 if the contract is violated, and 4 if something that a check needs is
    missing.

    \b
    harope-bench check encoding my-pe
    harope-bench check judge vlm:/models/Qwen2-VL-2B-Instruct
    """
    from harope_bench.core import registry
    from harope_bench.core.escaping import printable_line
    from harope_bench.testing import UncheckedContractError, check_plugin
    from harope_bench.testing.plugin import plural_kind

    title = f"{registry.singular_name(plural_kind(kind))} {name}"
    start_time = time.monotonic()
    try:
        check_count = check_plugin(kind, name)
    except AssertionError as error:
        echo(f"{title}: contract violated")
        _, _, violations = str(error).partition("\n")
        for line in violations.splitlines() or [str(error)]:
            echo(f"  {printable_line(line)}")
        sys.exit(EXIT_NO)
    except UncheckedContractError as error:
        echo(f"cannot tell: {error}")
        sys.exit(EXIT_UNDECIDED)
    seconds = time.monotonic() - start_time
    echo(f"{title}: contract holds ({check_count} checks, {seconds:.1f} s)")
