"""On what terms a measured number may stand beside a printed one: judge, profile, reference and
number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.schema import JudgeRecord, Result
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.match_runs import (
    SCALES,
    MatchedMeasurement,
    Matches,
    Scale,
    excluded_cells,
    match_measurements,
)
from harope_bench.leaderboards.table_spec import Column, Table

__all__ = ["general_notes", "incomparability_reason", "profiles_and_references", "rule_notes"]


def incomparability_reason(table: Table, column: Column, picked: MatchedMeasurement) -> str | None:
    """Why a measured number says nothing of the paper's; None where it was made as the paper's was,
    as far as the paper says.
    """
    result = picked.stored_result.result
    if result.scale == "micro":
        return "micro"
    if result.judge.judge_class in ("substitute", "micro"):
        return f"{result.judge.judge_class} judge"
    if differs := _profile_difference(table, picked):
        return differs
    images = column.n_images or table.protocol.get("samples")
    if images is None:
        return "the paper does not state how many images"
    if picked.measurement.n_scored != images:
        return f"{picked.measurement.n_scored:,} against {images:,} images"
    return None


def _profile_difference(table: Table, picked: MatchedMeasurement) -> str | None:
    """Other formulas or another reference than the paper's program has; None where the table states
    no profile.
    """
    result = picked.stored_result.result
    profile = table.protocol.get("profile")
    if profile is None:
        return None
    if result.profile != profile:
        return f"profile {result.profile}, the paper's is {profile}"
    published = _published_reference(str(picked.stored_result.result.suite_name))
    return (
        f"reference {result.reference}, not the one that is published"
        if published not in (None, result.reference)
        else None
    )


def _published_reference(suite: str) -> str | None:
    """The title of the reference that is published for a suite, None where there is none."""
    asset = f"{suite}-reference"
    return local_files.load_asset(asset).title if asset in registry.list_entries("assets") else None


def rule_notes(picked: MatchedMeasurement) -> list[str]:
    """What a reader must know of a number of prompts: judges that stand in for others, and rules
    that give another value.
    """
    result = picked.stored_result.result
    metric = picked.measurement.metric
    told = [
        f"Judge {_judge_text(record)} stands in for the official {role}."
        for role, record in _substitute_judges(result)
    ]
    if result.rules != "official":
        told.append(f"Rules {result.rules}, not those of the published scorer.")
    if result.is_lenient:
        told.append("Scored with --allow-missing: images, answers or whole tasks may be missing.")
    return told + [
        f"{difference.text}."
        for difference in result.rule_differences
        if difference.metric == metric
    ]


def _judge_text(record: JudgeRecord) -> str:
    return (
        f"{record.name} with {record.model} (weights {record.weights_sha256[:12]})"
        if record.model
        else record.name
    )


def _substitute_judges(result: Result) -> list[tuple[str, JudgeRecord]]:
    return [
        (role, record)
        for role, record in sorted(result.judges.items())
        if record.judge_class == "substitute"
    ]


def profiles_and_references(table: Table, picks: Matches) -> tuple[str, list[str]]:
    """Profiles of the measured numbers for a title, and their references, each named once."""
    drawn = [
        picked.stored_result.result
        for (_, key), picked in picks.items()
        if table.find_column(key).of == "images"
    ]
    profiles = sorted({result.profile for result in drawn})
    references = sorted(
        {f"{result.reference} ({result.reference_sha256[:12]})" for result in drawn}
    )
    return f"profile {' and '.join(profiles)}", references


def general_notes(
    table: Table, results: Sequence[StoredResult], scale: Scale | None, picks: Matches
) -> list[str]:
    """Notes on the measured numbers of a table as a whole."""
    if scale is None:
        return ["No run that was found belongs to this table."]
    texts = []
    if scale == "micro":
        texts.append(
            "Micro: small networks, small pictures, a micro judge. Differences from the paper's"
            " numbers compare unlike things."
        )
        texts += micro_scale_notes(table, picks)
    if any(match_measurements(table, results, other) for other in SCALES if other != scale):
        texts.append(
            f"Results at {'paper' if scale == 'micro' else 'micro'} scale were found too; they are"
            " not shown beside these."
        )
    if counted := sorted(
        {
            table.find_column(key).printed
            for _, key in picks
            if table.find_column(key).of == "network"
        }
    ):
        texts.append(
            f"{' and '.join(counted)}: counted from the shapes of one layer, as the paper counts;"
            " percentages are against the block's baseline, cut after one decimal. A number that"
            " rounds to the printed digits is as printed (=), any other differs. Counted are the"
            " matrices' products on queries and keys and their building; flags that name other"
            " numbers count added parameters times tokens."
        )
    texts += [
        _excluded_note(table, differs, cells)
        for differs, cells in excluded_cells(table, results, scale).items()
    ]
    if references := profiles_and_references(table, picks)[1]:
        texts.append(f"Measured against {', '.join(references)}.")
    texts.append(
        "Bold among measured numbers: the best of its block, and every number not shown to be worse"
        " than it (5%, Holm over the block). Differences from the baseline are another family (Holm"
        " over the table): a number that is not bold may be not resolved there."
    )
    return texts


def _excluded_note(table: Table, differs: str, cells: list[tuple[str, str]]) -> str:
    few = ", ".join(f"{row} {table.find_column(key).printed}" for row, key in cells[:3]) + (
        " ..." if len(cells) > 3 else ""
    )
    return (
        f"Measured but not shown, since a column has one kind of judge, rules and profile: {few}"
        f" ({differs})."
    )


def micro_scale_notes(table: Table, picks: Matches) -> list[str]:
    """Which sides and training steps of the small world stand where the paper prints its own."""
    rows = [
        (table.find_row(row), picked.plan)
        for (row, key), picked in picks.items()
        if table.find_column(key).of == "images"
    ]
    sides = {row.res: plan.settings.resolution for row, plan in rows if row.res and plan}
    steps = {
        row.training_steps: plan.checkpoint.training_steps
        for row, plan in rows
        if row.training_steps and plan
    }
    told = []
    if sides:
        told.append(
            f"Sides of {_join_numbers(sides)} stand for {_join_numbers(sides.values())} pixels"
            " here."
        )
    if steps:
        told.append(
            f"{_join_numbers(steps)} training steps stand for {_join_numbers(steps.values())} here."
        )
    return told


def _join_numbers(numbers: Iterable[int | None]) -> str:
    return ", ".join(f"{number:,}" for number in numbers if number is not None)
