"""The run card: every fact by which somebody else could make the same numbers, and what was
checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harope_bench.core.schema import Result, highest_error_text
from harope_bench.data.result_store import StoredResult
from harope_bench.reports.runs import ReportedRun

FieldTexts = dict[str, str]
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class RunCard:
    """Facts that all runs share, and a row for each fact in which they differ."""

    heading: str
    runs: tuple[str, ...]
    shared_fields: tuple[tuple[str, str], ...]
    differing_fields: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class ReportCheck:
    """One thing looked at. `state` is yes, no or open (nobody looked, or not every result records
    it).
    """

    status: str
    text: str


def build_cards(runs: Sequence[ReportedRun]) -> list[RunCard]:
    """A card for the runs with a plan and one for those without: they share next to nothing."""
    planned = [run for run in runs if run.plan]
    others = [run for run in runs if not run.plan]
    made = (("Runs with a plan", planned), ("Images without a plan", others))
    return [_build_card(f"{heading} ({len(group)})", group) for heading, group in made if group]


def _build_card(heading: str, runs: Sequence[ReportedRun]) -> RunCard:
    """All facts of these runs, each stated once where it is common."""
    facts = [run_fields(run) for run in runs]
    names = list(dict.fromkeys(name for one in facts for name in one))
    shared = []
    differing = []
    for name in names:
        values = tuple(one.get(name, NOT_RECORDED) for one in facts)
        if len(set(values)) == 1:
            shared.append((name, values[0]))
        else:
            differing.append((name, values))
    return RunCard(heading, tuple(run.id for run in runs), tuple(shared), tuple(differing))


def run_fields(run: ReportedRun) -> FieldTexts:
    """Every fact of a run by name: plan, samples, and each result's judge, reference, counts and
    provenance.
    """
    facts: FieldTexts = {}
    if run.plan is not None:
        plan = run.plan.model_dump(mode="json")
        plan["settings"] = run.plan.digest_fields()[
            "settings"
        ]  # without those that the backbone has no use for
        facts |= _flatten_fields("", plan)
        facts["plan digest"] = run.plan.digest
    if run.samples:
        facts["samples drawn"] = (
            f"{sum(s.status == 'ok' for s in run.samples):,} ok,"
            f" {sum(s.status != 'ok' for s in run.samples):,} failed"
        )
    for item in run.results:
        facts |= _flatten_fields(item.path.stem, _result_fields(item))
    return facts


def _result_fields(item: StoredResult) -> dict[str, object]:
    """The result without its plan (stated once, with suite and side) and with its measurements as
    counts; a label is no fact.
    """
    stated = {"suite", "resolution"} if item.result.plan else set()
    facts = item.result.model_dump(
        mode="json", exclude={"plan", "measurements", "plan_digest", "label", *stated}
    )
    facts["judge"]["class"] = facts["judge"].pop("judge_class")
    facts["judge_errors"] = {
        name: [rate.text for rate in rates] for name, rates in item.result.judge_error_rates.items()
    }
    facts["counts"] = {
        m.name: (
            f"{m.n_asked:,} asked, {m.n_scored:,} scored, {m.n_failed:,} failed, {m.n_abstained:,}"
            " abstained"
        )
        for m in item.result.measurements
    }
    return facts


def _flatten_fields(prefix: str, value: object) -> FieldTexts:
    """Nested facts as 'a b c' names in a fixed order."""
    if isinstance(value, dict) and value:
        named = {
            key if prefix.endswith("packages") else key.replace("_", " "): inner
            for key, inner in value.items()
        }
        return {
            name: text
            for key, inner in named.items()
            for name, text in _flatten_fields(f"{prefix} {key}".strip(), inner).items()
        }
    if isinstance(value, list | tuple):
        return {prefix: "; ".join(map(str, value)) or "none"}
    return {prefix: _field_text(value)}


def _field_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOT_RECORDED if value is None else "none" if value == {} else str(value)


def time_range(runs: Iterable[ReportedRun]) -> tuple[str, str] | None:
    """First start and last finish among the records; None without results."""
    made = [item.result.provenance for run in runs for item in run.results]
    return (min(p.started for p in made), max(p.finished for p in made)) if made else None


def collect_checks(runs: Sequence[ReportedRun]) -> list[ReportCheck]:
    """What was compared with what, what was warned of, and what this page did not look at."""
    found = [item for run in runs for item in run.results]
    return [
        *_parity_checks(found),
        *_agreement_checks(found),
        *_warning_checks(runs),
        *_open_checks(runs),
    ]


def _parity_checks(found: Sequence[StoredResult]) -> Iterator[ReportCheck]:
    claims = {
        (f.result.evaluator, f.result.version, f.result.profile, f.result.rules, f.result.parity)
        for f in found
    }
    for evaluator, version, profile, rules, parity in sorted(claims):
        yield ReportCheck("claim", f"{evaluator}@{version} ({profile}, {rules} rules): {parity}")
    judges = {
        (f.result.judge.name, f.result.judge.version, f.result.judge.judge_class) for f in found
    }
    for name, version, kind in sorted(judges):
        own = "; its numbers compare only with its own" if kind in ("micro", "substitute") else ""
        yield ReportCheck("claim", f"judge {name}@{version} is of class {kind}{own}")
    known = {(name, rates) for f in found for name, rates in f.result.judge_error_rates.items()}
    for name, rates in sorted(known, key=lambda one: one[0]):
        yield ReportCheck(
            "claim", f"judge {name} on cases whose truth is known: {highest_error_text(rates)}"
        )


def _agreement_checks(found: Sequence[StoredResult]) -> Iterator[ReportCheck]:
    if len(found) < 2:
        return
    same: dict[str, Callable[[Result], object]] = {
        "judge weights": lambda r: r.judge.weights_sha256 if r.judge.has_known_weights else None,
        "reference": lambda r: r.reference_sha256,
        "number of images scored": lambda r: max(
            (m.n_scored for m in r.measurements), default=None
        ),
        "seed": lambda r: r.plan.settings.seed if r.plan else None,
        "sampler, steps and guidance": _sampling_settings,
        "version of this package": lambda r: r.provenance.version,
        "commit of this package": lambda r: r.provenance.commit,
    }
    for what, of in same.items():
        yield check_agreement(what, [of(item.result) for item in found])


def check_agreement(field: str, values: Sequence[object]) -> ReportCheck:
    """Return whether all results share a value; None is a value that a result does not record, and
    agrees with nothing.
    """
    recorded = [repr(value) for value in values if value is not None]
    missing = len(values) - len(recorded)
    if not recorded:
        return ReportCheck("open", f"{field} is {NOT_RECORDED} in any result")
    rest = f"; it is {NOT_RECORDED} in {missing:,} of {len(values):,}" if missing else ""
    if (count := len(set(recorded))) > 1:
        return ReportCheck("no", f"results differ in {field} ({count} values){rest}")
    if missing:
        return ReportCheck(
            "open", f"{len(recorded):,} of {len(values):,} results share one {field}{rest}"
        )
    return ReportCheck("yes", f"all results share one {field}")


def _sampling_settings(result: Result) -> object:
    settings = result.plan.settings if result.plan else None
    return settings and (settings.sampler, settings.steps, settings.guidance)


def _warning_checks(runs: Sequence[ReportedRun]) -> Iterator[ReportCheck]:
    for run in runs:
        for item in run.results:
            for warning in item.result.warning_texts:
                yield ReportCheck("no", f"{run.id}, {item.result.evaluator}: {warning}")
            if item.result.provenance.dirty:
                yield ReportCheck(
                    "no",
                    f"{run.id}, {item.result.evaluator}: made with uncommitted changes in the"
                    " package",
                )
            elif item.result.provenance.dirty is None:
                yield ReportCheck(
                    "open",
                    f"{run.id}, {item.result.evaluator}: whether the package had uncommitted"
                    f" changes is {NOT_RECORDED}",
                )
        if failed := sum(sample.status != "ok" for sample in run.samples):
            yield ReportCheck("no", f"{run.id}: {failed:,} of {len(run.samples):,} samples failed")


def _open_checks(runs: Sequence[ReportedRun]) -> Iterator[ReportCheck]:
    yield ReportCheck(
        "open",
        "Nothing was recomputed for this page; harope-bench verify RUN recomputes hashes and"
        " scores.",
    )
    for run in runs:
        if run.plan is None:
            yield ReportCheck(
                "open", f"{run.id}: there is no plan, so how these images were made is not known"
            )
        if not run.results:
            yield ReportCheck("open", f"{run.id}: drawn, not scored yet")
    if any(run.results for run in runs):
        yield ReportCheck(
            "open",
            "Whether training again with another seed gives the same numbers was not looked at.",
        )
