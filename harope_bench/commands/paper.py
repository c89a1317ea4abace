"""The commands `paper check` and `paper noise`, which examine the published tables."""

from __future__ import annotations

import click
import cloup

from harope_bench.commands.options import (
    json_object_text,
    json_option,
)
from harope_bench.commands.terminal import echo


@cloup.group()
def paper() -> None:
    """Examine the printed digits of the HARoPE paper's tables.

    \b
    harope-bench paper check
    harope-bench paper noise 2
    """


@paper.command()
@json_option
def check(json_: bool) -> None:
    """List printed values that contradict other printed values of the paper.

    Averages, differences and values that several tables repeat are computed again. The exit code is
    0 whatever the check finds.

    \b
    harope-bench paper check --json
    """
    from harope_bench.leaderboards import table_spec
    from harope_bench.leaderboards.paper_audit import audit
    from harope_bench.reports import audit_text

    findings = audit.audit_tables(table_spec.load_tables())
    if json_:
        echo(json_object_text(audit_text.findings_json(findings)))
    else:
        echo(audit_text.findings_text(findings))


@paper.command()
@click.argument("name")
@json_option
def noise(name: str, json_: bool) -> None:
    """List which differences of a table exceed the noise.

    NAME is a table of the HARoPE paper: 2 or table2, and so on (see `list tables`). The paper
    prints no confidence intervals, so the noise is estimated from published constants; the output
    states them.

    \b
    harope-bench paper noise 2
    """
    from harope_bench.leaderboards import assumed_noise, table_spec
    from harope_bench.reports import audit_text

    assessment = assumed_noise.assess_differences(
        table_spec.load_table(name), table_spec.load_tables()
    )
    if json_:
        echo(json_object_text(audit_text.noise_json(assessment)))
    else:
        echo(audit_text.noise_text(assessment))
