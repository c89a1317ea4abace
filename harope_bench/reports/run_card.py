"""The run card: everything that is needed to reproduce the numbers, and what was checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harope_bench.core.schema import Result, highest_error_text
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.table_spec import DASH
from harope_bench.reports.runs import ReportedRun

FieldTexts = dict[str, str]
NOT_RECORDED = "not recorded"
UNKNOWN_WEIGHTS = "weights unknown"
SERVER_SETTING = "decided by the server"
CHECKPOINT_GROUP = "Checkpoint"
GENERATION_GROUP = "Generation"
EVALUATION_GROUP = "Evaluation by"
MACHINE_GROUP = "Machine and versions of"
# fields of a plan that are no settings
PLAN_FIELDS = ("suite", "suite version", "preset", "plan digest", "format", "kind")


@dataclass(frozen=True)
class CardGroup:
    """The fields of a run card that belong together: checkpoint, generation, one evaluation.

    Fields that no run records are not among them. A run that does not record a differing field
    has a dash.
    """

    heading: str
    shared_fields: tuple[tuple[str, str], ...]
    differing_fields: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class RunCard:
    """The fields that all runs share, and the values of each field in which they differ."""

    heading: str
    runs: tuple[str, ...]
    shared_fields: tuple[tuple[str, str], ...]
    differing_fields: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def groups(self) -> tuple[CardGroup, ...]:
        """Return the recorded fields in groups, in the order of the fields."""
        names = [name for name, _ in (*self.shared_fields, *self.differing_fields)]
        groups = []
        for heading in sorted(dict.fromkeys(map(_field_group, names)), key=_group_order):
            shared_fields = [
                (name, value)
                for name, value in self.shared_fields
                if _field_group(name) == heading and value != NOT_RECORDED
            ]
            differing_fields = [
                (name, tuple(DASH if value == NOT_RECORDED else value for value in values))
                for name, values in self.differing_fields
                if _field_group(name) == heading
            ]
            if shared_fields or differing_fields:
                groups.append(CardGroup(heading, tuple(shared_fields), tuple(differing_fields)))
        return tuple(groups)

    @property
    def missing_fields(self) -> tuple[str, ...]:
        """Return the fields that no run records."""
        return tuple(name for name, value in self.shared_fields if value == NOT_RECORDED)

    @property
    def text(self) -> str:
        """Return the card as plain text, which can be sent to others."""
        lines = [self.heading]
        for group in self.groups:
            lines += ["", group.heading]
            lines += [f"  {name}: {value}" for name, value in group.shared_fields]
            for name, values in group.differing_fields:
                lines.append(f"  {name}:")
                pairs = zip(self.runs, values, strict=True)
                lines += [f"    {run}: {value}" for run, value in pairs]
        if self.missing_fields:
            lines += ["", f"Not recorded: {', '.join(self.missing_fields)}"]
        return "\n".join(lines) + "\n"


def _field_group(name: str) -> str:
    """Return the heading of the group that a field belongs to."""
    first_word, _, rest = name.partition(" ")
    if first_word == "checkpoint":
        return CHECKPOINT_GROUP
    if first_word in ("settings", "samples") or name in PLAN_FIELDS:
        return GENERATION_GROUP
    if rest.startswith("provenance"):
        return f"{MACHINE_GROUP} {first_word}"
    return f"{EVALUATION_GROUP} {first_word}"


def _group_order(heading: str) -> tuple[int, str]:
    """Return the sort key of a group: checkpoint, generation, evaluations, then machines."""
    starts = (CHECKPOINT_GROUP, GENERATION_GROUP, EVALUATION_GROUP, MACHINE_GROUP)
    return next(i for i, start in enumerate(starts) if heading.startswith(start)), heading


@dataclass(frozen=True)
class ReportCheck:
    """One statement on the runs.

    status: "yes", "no", "open" (not checked, or not recorded by every result) or "claim" (stated by
        an evaluator or judge).
    """

    status: str
    text: str


def build_cards(runs: Sequence[ReportedRun]) -> list[RunCard]:
    """Return a card of the runs with a plan and a card of those without one.

    The two kinds share hardly any field.
    """
    groups = (
        ("Runs with a plan", [run for run in runs if run.plan]),
        ("Images without a plan", [run for run in runs if not run.plan]),
    )
    return [_build_card(f"{heading} ({len(group)})", group) for heading, group in groups if group]


def _build_card(heading: str, runs: Sequence[ReportedRun]) -> RunCard:
    """Return a card of these runs; a field in which all agree is listed once."""
    fields_by_run = [run_fields(run) for run in runs]
    names = list(dict.fromkeys(name for fields in fields_by_run for name in fields))
    shared_fields = []
    differing_fields = []
    for name in names:
        values = tuple(fields.get(name, NOT_RECORDED) for fields in fields_by_run)
        if len(set(values)) == 1:
            shared_fields.append((name, values[0]))
        else:
            differing_fields.append((name, values))
    run_ids = tuple(run.id for run in runs)
    return RunCard(heading, run_ids, tuple(shared_fields), tuple(differing_fields))


def run_fields(run: ReportedRun) -> FieldTexts:
    """Return every field of a run by name: plan, samples, and the fields of each result."""
    fields: FieldTexts = {}
    if run.plan is not None:
        plan = run.plan.model_dump(mode="json")
        # digest_fields leaves out settings that do not apply to the backbone
        plan["settings"] = run.plan.digest_fields()["settings"]
        if not run.plan.checkpoint.has_known_weights:
            plan["checkpoint"]["sha256"] = UNKNOWN_WEIGHTS
            plan["settings"] |= dict.fromkeys(("device", "dtype"), SERVER_SETTING)
        fields |= _flatten_fields(prefix="", value=plan)
        fields["plan digest"] = run.plan.digest
    if run.samples:
        n_ok = sum(sample.status == "ok" for sample in run.samples)
        fields["samples generated"] = f"{n_ok:,} ok, {len(run.samples) - n_ok:,} failed"
    for stored_result in run.results:
        fields |= _flatten_fields(stored_result.path.stem, _result_fields(stored_result))
    return fields


def _result_fields(stored_result: StoredResult) -> dict[str, object]:
    """Return a result's fields without plan, label and measured values.

    Suite and resolution are omitted too where the plan has them. Measurements become counts.
    """
    excluded_fields = {"plan", "measurements", "plan_digest", "label"}
    if stored_result.result.plan:
        excluded_fields |= {"suite", "resolution"}
    fields = stored_result.result.model_dump(mode="json", exclude=excluded_fields)
    fields["judge"]["class"] = fields["judge"].pop("judge_class")
    fields["judge_error_rates"] = {
        name: [rate.text for rate in rates]
        for name, rates in stored_result.result.judge_error_rates.items()
    }
    fields["warnings"] = list(stored_result.result.warning_texts)
    fields["counts"] = {
        m.name: (
            f"{m.n_asked:,} asked, {m.n_scored:,} scored, {m.n_failed:,} failed, {m.n_abstained:,}"
            " abstained"
        )
        for m in stored_result.result.measurements
    }
    return fields


def _flatten_fields(prefix: str, value: object) -> FieldTexts:
    """Return nested fields as texts by names such as 'judge weights sha256'.

    Underscores in names become blanks, except in package names.
    """
    if isinstance(value, dict) and value:
        fields: FieldTexts = {}
        for key, inner_value in value.items():
            name = key if prefix.endswith("packages") else key.replace("_", " ")
            fields |= _flatten_fields(f"{prefix} {name}".strip(), inner_value)
        return fields
    if isinstance(value, list | tuple):
        return {prefix: "; ".join(map(str, value)) or "none"}
    return {prefix: _field_text(value)}


def _field_text(value: object) -> str:
    """Return a single value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOT_RECORDED
    return "none" if value == {} else str(value)


def time_range(runs: Iterable[ReportedRun]) -> tuple[str, str] | None:
    """Return the first start and the last end of all results, None without results."""
    provenances = [stored_result.result.provenance for run in runs for stored_result in run.results]
    return (
        (min(p.started for p in provenances), max(p.finished for p in provenances))
        if provenances
        else None
    )


def collect_checks(runs: Sequence[ReportedRun]) -> list[ReportCheck]:
    """Return statements of evaluators and judges, agreement of results, warnings, open points."""
    results = [stored_result for run in runs for stored_result in run.results]
    return [
        *_parity_checks(results),
        *_agreement_checks(results),
        *_warning_checks(runs),
        *_open_checks(runs),
    ]


def _parity_checks(stored_results: Sequence[StoredResult]) -> Iterator[ReportCheck]:
    """Yield each evaluator's statement on parity, and the class and error rates of each judge."""
    results = [stored_result.result for stored_result in stored_results]
    evaluators = {(r.evaluator, r.version, r.profile, r.rules, r.parity) for r in results}
    for evaluator, version, profile, rules, parity in sorted(evaluators):
        yield ReportCheck("claim", f"{evaluator}@{version} ({profile}, {rules} rules): {parity}")

    judges = {(r.judge.name, r.judge.version, r.judge.judge_class) for r in results}
    for name, version, judge_class in sorted(judges):
        limit = ""
        if judge_class in ("micro", "substitute"):
            limit = "; compare its numbers only with numbers of the same judge"
        yield ReportCheck("claim", f"judge {name}@{version} is of class {judge_class}{limit}")

    error_rates = {item for r in results for item in r.judge_error_rates.items()}
    for name, rates in sorted(error_rates, key=lambda item: item[0]):
        yield ReportCheck(
            "claim", f"judge {name} on cases with a known answer: {highest_error_text(rates)}"
        )


def _agreement_checks(results: Sequence[StoredResult]) -> Iterator[ReportCheck]:
    """Yield a check for each field of the protocol: whether all results share its value."""
    if len(results) < 2:
        return
    getters: dict[str, Callable[[Result], object]] = {
        "judge weights": lambda result: (
            result.judge.weights_sha256 if result.judge.has_known_weights else None
        ),
        "reference": lambda result: result.reference_sha256,
        "number of images scored": lambda result: max(
            (m.n_scored for m in result.measurements), default=None
        ),
        "seed": lambda result: result.plan.settings.seed if result.plan else None,
        "sampler, steps and guidance": _sampling_settings,
        "version of this package": lambda result: result.provenance.version,
        "commit of this package": lambda result: result.provenance.commit,
    }
    for field, getter in getters.items():
        yield check_agreement(field, [getter(stored_result.result) for stored_result in results])


def check_agreement(field: str, values: Sequence[object]) -> ReportCheck:
    """Return a statement on whether all results share the value of a field.

    Args:
        field: name of the field in words.
        values: its value in each result; None if a result does not record it.
    """
    recorded_values = [repr(value) for value in values if value is not None]
    n_missing = len(values) - len(recorded_values)
    if not recorded_values:
        return ReportCheck("open", f"{field} is {NOT_RECORDED} in any result")
    missing_text = (
        f"; it is {NOT_RECORDED} in {n_missing:,} of {len(values):,}" if n_missing else ""
    )
    n_values = len(set(recorded_values))
    if n_values > 1:
        return ReportCheck("no", f"results differ in {field} ({n_values} values){missing_text}")
    if n_missing:
        return ReportCheck(
            "open",
            f"{len(recorded_values):,} of {len(values):,} results share one {field}{missing_text}",
        )
    return ReportCheck("yes", f"all results share one {field}")


def _sampling_settings(result: Result) -> object:
    """Return sampler, steps and guidance of a result, None without a plan."""
    settings = result.plan.settings if result.plan else None
    return settings and (settings.sampler, settings.steps, settings.guidance)


def _warning_checks(runs: Sequence[ReportedRun]) -> Iterator[ReportCheck]:
    """Yield warnings of results, uncommitted changes and failed samples.

    What several results have in common is yielded once, with how many they are.
    """
    sources: dict[ReportCheck, list[str]] = {}
    for run in runs:
        for stored_result in run.results:
            for check in _result_warnings(stored_result.result):
                source = f"{run.id}, {stored_result.result.evaluator}"
                sources.setdefault(check, []).append(source)
    n_results = sum(len(run.results) for run in runs)
    for check, names in sources.items():
        text = names[0] if len(names) == 1 else f"{len(names)} of {n_results} results"
        yield replace(check, text=f"{text}: {check.text}")
    for run in runs:
        n_failed = sum(sample.status != "ok" for sample in run.samples)
        if n_failed:
            text = f"{run.id}: {n_failed:,} of {len(run.samples):,} samples failed"
            yield ReportCheck("no", text)


def _result_warnings(result: Result) -> Iterator[ReportCheck]:
    """Yield the warnings of a result, and whether the package had uncommitted changes."""
    for warning in result.warning_texts:
        yield ReportCheck("no", warning)
    if result.provenance.dirty:
        yield ReportCheck("no", "the package had uncommitted changes")
    elif result.provenance.dirty is None:
        text = f"whether the package had uncommitted changes is {NOT_RECORDED}"
        yield ReportCheck("open", text)


def _open_checks(runs: Sequence[ReportedRun]) -> Iterator[ReportCheck]:
    """Yield what the page does not check, and what is missing from each run."""
    yield ReportCheck(
        "open",
        "Nothing was recomputed for this page; harope-bench verify RUN recomputes hashes and"
        " scores.",
    )
    for run in runs:
        if run.plan is None:
            yield ReportCheck(
                "open", f"{run.id}: without a plan, how these images were generated is not known"
            )
        if not run.results:
            yield ReportCheck("open", f"{run.id}: generated, not evaluated yet")
    if any(run.results for run in runs):
        yield ReportCheck(
            "open",
            "The variation between training seeds was not measured.",
        )
