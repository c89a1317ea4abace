"""Whether a measured number can be compared with a printed one, and the notes that say so.

Judge, profile, reference and number of images must be those of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.schema import JudgeRecord, Result
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.match_runs import (
    MatchedMeasurement,
    MatchesByCell,
    Scale,
    excluded_cells,
    match_measurements,
)
from harope_bench.leaderboards.table_spec import Column, Table

__all__ = [
    "TOP_MARK_NOTE",
    "general_notes",
    "incomparability_reason",
    "profiles_and_references",
    "rule_notes",
]

# explains the default marks of measured numbers
TOP_MARK_NOTE = (
    "Bold among measured numbers: the best number of a block and every number that is not"
    " shown to be worse (5% level, Holm-adjusted within the block). Differences from the"
    " baseline are Holm-adjusted within the whole table instead. A number that is not bold may"
    " therefore have the verdict 'not resolved' there."
)


def incomparability_reason(table: Table, column: Column, match: MatchedMeasurement) -> str | None:
    """Return why a measured number cannot be compared with the printed one.

    None if everything that the paper states about the measurement agrees.
    """
    result = match.stored_result.result
    if result.scale == "micro":
        return "micro"
    if result.judge.judge_class in ("substitute", "micro"):
        return f"{result.judge.judge_class} judge"
    if reason := _profile_difference(table, match):
        return reason
    n_images = column.n_images or table.protocol.get("samples")
    if n_images is None:
        return "the paper does not state how many images"
    if match.measurement.n_scored != n_images:
        return f"{match.measurement.n_scored:,} against {n_images:,} images"
    return None


def _profile_difference(table: Table, match: MatchedMeasurement) -> str | None:
    """Return how profile or reference differ from the paper's.

    None if they agree, or if the table states no profile.
    """
    result = match.stored_result.result
    profile = table.protocol.get("profile")
    if profile is None:
        return None
    if result.profile != profile:
        return f"profile {result.profile}, the paper's is {profile}"
    published_reference = _published_reference(str(match.stored_result.result.suite_name))
    if published_reference not in (None, result.reference):
        return f"reference {result.reference}, not the one that is published"
    return None


def _published_reference(suite: str) -> str | None:
    """Return the title of the published reference of a suite, None where there is none."""
    asset = f"{suite}-reference"
    return local_files.load_asset(asset).title if asset in registry.list_entries("assets") else None


def rule_notes(match: MatchedMeasurement) -> list[str]:
    """Return the notes on substitute judges and on rules that give another value."""
    result = match.stored_result.result
    metric = match.measurement.metric
    notes = [
        f"Judge {_judge_text(record)} replaces the official {role}."
        for role, record in _substitute_judges(result)
    ]
    if result.rules != "official":
        notes.append(f"Scored by the {result.rules} rules, not those of the published scorer.")
    if result.is_lenient:
        notes.append("Scored with --allow-missing: images, answers or whole tasks may be missing.")

    # a metric whose value by another set of rules differs has a note that says so
    return notes + [
        f"{difference.text}."
        for difference in result.rule_differences
        if difference.metric == metric
    ]


def _judge_text(record: JudgeRecord) -> str:
    """Return a judge's name, with model and weights where it has a model."""
    if not record.model:
        return record.name
    return f"{record.name} with {record.model} (weights {record.weights_sha256[:12]})"


def _substitute_judges(result: Result) -> list[tuple[str, JudgeRecord]]:
    """Return (role, judge) of every judge that replaces an official one."""
    return [
        (role, record)
        for role, record in sorted(result.judges.items())
        if record.judge_class == "substitute"
    ]


def profiles_and_references(table: Table, matches: MatchesByCell) -> tuple[str, list[str]]:
    """Return the profiles of the measured numbers as a text, and their references."""
    image_results = [
        match.stored_result.result
        for (_, key), match in matches.items()
        if table.find_column(key).measured_on == "images"
    ]
    profiles = sorted({result.profile for result in image_results})
    references = sorted(
        {f"{result.reference} ({result.reference_sha256[:12]})" for result in image_results}
    )
    return f"profile {' and '.join(profiles)}", references


def general_notes(
    table: Table, results: Sequence[StoredResult], scale: Scale | None, matches: MatchesByCell
) -> list[str]:
    """Return the notes on the measured numbers of a table as a whole.

    Args:
        results: all results, of which some may be of the other scale.
        scale: scale of the measured numbers; None if no run belongs to the table.
        matches: the measured numbers by (row id, column key).
    """
    if scale is None:
        return ["No run belongs to this table."]
    notes = []
    if scale == "micro":
        notes.append(
            "Micro scale: small networks on small images, scored by small judge networks. These"
            " numbers cannot be compared with those of the HARoPE paper."
        )
        notes += micro_scale_notes(table, matches)
    other_scale: Scale = "paper" if scale == "micro" else "micro"
    if match_measurements(table, results, other_scale):
        notes.append(f"There are results at {other_scale} scale too; they are not shown here.")

    columns = [table.find_column(column_key) for _, column_key in matches]
    if cost_titles := sorted({c.title for c in columns if c.measured_on == "network"}):
        notes.append(
            f"{' and '.join(cost_titles)}: counted from the shapes of one attention layer, as in"
            " the HARoPE paper. A percentage is the increase over the baseline of the block,"
            " truncated to one decimal. The verdict is 'as printed' (=) if the count rounds to the"
            " printed digits, otherwise 'differs'. FLOPs are multiply-adds; they include the"
            " construction of the learned matrices and their application to queries and keys."
            " Where a note on the paper states other FLOPs, they are added parameters times"
            " tokens."
        )

    notes += [
        _excluded_note(table, reason, cells)
        for reason, cells in excluded_cells(table, results, scale).items()
    ]
    _, references = profiles_and_references(table, matches)
    if references:
        notes.append(f"Measured against {', '.join(references)}.")
    return [*notes, TOP_MARK_NOTE]


def _excluded_note(table: Table, reason: str, cells: list[tuple[str, str]]) -> str:
    """Return the note on measured numbers that have another protocol than their column.

    Args:
        cells: (row id, column key) of these numbers.
    """
    examples = ", ".join(f"{row} {table.find_column(key).title}" for row, key in cells[:3])
    ellipsis = " ..." if len(cells) > 3 else ""
    return (
        "Measured but not shown, because all numbers of a column have the same kind of judge,"
        " rules and profile:"
        f" {examples}{ellipsis} ({reason})."
    )


def micro_scale_notes(table: Table, matches: MatchesByCell) -> list[str]:
    """Return which micro resolutions and training steps replace those of the paper."""
    rows_and_plans = [
        (table.find_row(row_id), match.plan)
        for (row_id, key), match in matches.items()
        if table.find_column(key).measured_on == "images"
    ]
    micro_resolutions = {
        row.resolution: plan.settings.resolution
        for row, plan in rows_and_plans
        if row.resolution and plan
    }
    micro_steps = {
        row.training_steps: plan.checkpoint.training_steps
        for row, plan in rows_and_plans
        if row.training_steps and plan
    }
    notes = []
    if micro_resolutions:
        notes.append(
            f"Resolutions {_join_numbers(micro_resolutions)} are replaced by"
            f" {_join_numbers(micro_resolutions.values())} pixels here."
        )
    if micro_steps:
        notes.append(
            f"{_join_numbers(micro_steps)} training steps are replaced by"
            f" {_join_numbers(micro_steps.values())} here."
        )
    return notes


def _join_numbers(numbers: Iterable[int | None]) -> str:
    return ", ".join(f"{number:,}" for number in numbers if number is not None)
