"""On what terms a measured number may stand beside a printed one: judge, profile, reference and number of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.schema import JudgeRecord, Result
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.match_runs import SCALES, Picked, Picks, Scale, aside, pick
from harope_bench.leaderboards.table_spec import Column, Table

__all__ = ["general", "incomparable", "named", "of_rules"]


def incomparable(table: Table, column: Column, picked: Picked) -> str | None:
    """Why a measured number says nothing of the paper's; None where it was made as the paper's was, as far as the paper says."""
    result = picked.found.result
    if result.scale == "micro":
        return "micro"
    if result.judge.judge_class in ("substitute", "micro"):
        return f"{result.judge.judge_class} judge"
    if differs := _other_measure(table, picked):
        return differs
    images = column.n_images or table.protocol.get("samples")
    if images is None:
        return "the paper does not state how many images"
    if picked.measurement.n_scored != images:
        return f"{picked.measurement.n_scored:,} against {images:,} images"
    return None


def _other_measure(table: Table, picked: Picked) -> str | None:
    """Other formulas or another reference than the paper's program has; None where the table states no profile."""
    result, profile = picked.found.result, table.protocol.get("profile")
    if profile is None:
        return None
    if result.profile != profile:
        return f"profile {result.profile}, the paper's is {profile}"
    published = _published_reference(str(picked.found.result.suite_name))
    return f"reference {result.reference}, not the one that is published" if published not in (None, result.reference) else None


def _published_reference(suite: str) -> str | None:
    """The title of the reference that is published for a suite, None where there is none."""
    asset = f"{suite}-reference"
    return local_files.asset(asset).title if asset in registry.entries("assets") else None


def of_rules(picked: Picked) -> list[str]:
    """What a reader must know of a number of prompts: judges that stand in for others, and rules that give another value."""
    result, metric = picked.found.result, picked.measurement.metric
    told = [f"Judge {_eyes(record)} stands in for the official {role}." for role, record in _stand_ins(result)]
    if result.rules != "official":
        told.append(f"Rules {result.rules}, not those of the published scorer.")
    if result.is_lenient:
        told.append("Scored with --allow-missing: images, answers or whole tasks may be missing.")
    return told + [f"{difference.text}." for difference in result.rule_differences if difference.metric == metric]


def _eyes(record: JudgeRecord) -> str:
    return f"{record.name} with {record.model} (weights {record.weights_sha256[:12]})" if record.model else record.name


def _stand_ins(result: Result) -> list[tuple[str, JudgeRecord]]:
    return [(role, record) for role, record in sorted(result.judges.items()) if record.judge_class == "substitute"]


def named(table: Table, picks: Picks) -> tuple[str, list[str]]:
    """Profiles of the measured numbers for a title, and their references, each named once."""
    drawn = [picked.found.result for (_, key), picked in picks.items() if table.column(key).of == "images"]
    profiles = sorted({result.profile for result in drawn})
    references = sorted({f"{result.reference} ({result.reference_sha256[:12]})" for result in drawn})
    return f"profile {' and '.join(profiles)}", references


def general(table: Table, found: Sequence[StoredResult], scale: Scale | None, picks: Picks) -> list[str]:
    """Notes on the measured numbers of a table as a whole."""
    if scale is None:
        return ["No run that was found belongs to this table."]
    texts = []
    if scale == "micro":
        texts.append("Micro: small networks, small pictures, a micro judge. Differences from the paper's numbers compare unlike things.")
        texts += stand_ins(table, picks)
    if any(pick(table, found, other) for other in SCALES if other != scale):
        texts.append(f"Results at {'paper' if scale == 'micro' else 'micro'} scale were found too; they are not shown beside these.")
    if counted := sorted({table.column(key).printed for _, key in picks if table.column(key).of == "network"}):
        texts.append(
            f"{' and '.join(counted)}: counted from the shapes of one layer, as the paper counts; percentages are against the block's "
            "baseline, cut after one decimal. A number that rounds to the printed digits is as printed (=), any other differs. Counted are "
            "the matrices' products on queries and keys and their building; flags that name other numbers count added parameters times "
            "tokens."
        )
    texts += [_left_out(table, differs, cells) for differs, cells in aside(table, found, scale).items()]
    if references := named(table, picks)[1]:
        texts.append(f"Measured against {', '.join(references)}.")
    texts.append(
        "Bold among measured numbers: the best of its block, and every number not shown to be worse than it (5%, Holm over the block). "
        "Differences from the baseline are another family (Holm over the table): a number that is not bold may be not resolved there."
    )
    return texts


def _left_out(table: Table, differs: str, cells: list[tuple[str, str]]) -> str:
    few = ", ".join(f"{row} {table.column(key).printed}" for row, key in cells[:3]) + (" ..." if len(cells) > 3 else "")
    return f"Measured but not shown, since a column has one kind of judge, rules and profile: {few} ({differs})."


def stand_ins(table: Table, picks: Picks) -> list[str]:
    """Which sides and training steps of the small world stand where the paper prints its own."""
    rows = [(table.row(row), picked.plan) for (row, key), picked in picks.items() if table.column(key).of == "images"]
    sides = {row.res: plan.settings.resolution for row, plan in rows if row.res and plan}
    steps = {row.training_steps: plan.checkpoint.training_steps for row, plan in rows if row.training_steps and plan}
    told = []
    if sides:
        told.append(f"Sides of {_listed(sides)} stand for {_listed(sides.values())} pixels here.")
    if steps:
        told.append(f"{_listed(steps)} training steps stand for {_listed(steps.values())} here.")
    return told


def _listed(numbers: Iterable[int | None]) -> str:
    return ", ".join(f"{number:,}" for number in numbers if number is not None)
