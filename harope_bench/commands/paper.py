"""Verbs of the published tables: paper check, paper noise."""

from __future__ import annotations

import click

from harope_bench.commands.options import json_object_text
from harope_bench.commands.terminal import echo


@click.group()
def paper() -> None:
    """What the published tables say of themselves, from the printed digits alone.

    \b
    harope-bench paper check
    harope-bench paper noise 2
    """


@paper.command()
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def check(json_: bool) -> None:
    """Arithmetic audit of the published tables: printed, recomputed, arithmetic. Exits 0 whatever
    it finds.

    \b
    harope-bench paper check --json
    """
    from harope_bench.leaderboards import table_spec
    from harope_bench.leaderboards.paper_audit import audit
    from harope_bench.reports import audit_text

    findings = audit.audit_tables(table_spec.load_tables())
    echo(
        json_object_text(audit_text.findings_json(findings))
        if json_
        else audit_text.findings_text(findings)
    )


@paper.command()
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def noise(name: str, json_: bool) -> None:
    """Which differences of a published table (2 or table2) exceed the noise assumed for them, with
    the constants.

    \b
    harope-bench paper noise 2
    """
    from harope_bench.leaderboards import assumed_noise, table_spec
    from harope_bench.reports import audit_text

    found = assumed_noise.assess_differences(table_spec.load_table(name), table_spec.load_tables())
    echo(json_object_text(audit_text.noise_json(found)) if json_ else audit_text.noise_text(found))
