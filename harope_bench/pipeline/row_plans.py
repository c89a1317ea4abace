"""The plans of a table's rows: which tables, and how each row's run is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Plan
from harope_bench.models.load_checkpoint import SettingValue, load_checkpoint_record
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.classify import is_classification_suite, make_classifier_plan
from harope_bench.pipeline.generate import make_plan
from harope_bench.pipeline.table_runs import PlannedRun
from harope_bench.suites.base import load_suite

ALL_TABLES = "all"  # instead of names: every registered table
NO_OVERRIDES: Mapping[str, SettingValue] = {}


def select_table_names(names: Sequence[str]) -> Sequence[str]:
    """Return the names of the tables; those of all registered tables for `all` alone."""
    return registry.list_names("tables") if list(names) == [ALL_TABLES] else names


class RunOptions(NamedTuple):
    """Options of all runs of a call: how images are generated and annotated."""

    device: str
    seed: int
    scaling: str | None
    judge: str | None
    annotator_options: AnnotatorOptions
    overrides: Mapping[str, SettingValue] = NO_OVERRIDES


def plan_row(run: PlannedRun, options: RunOptions) -> Plan:
    """Return the plan of a run; a classifier's has no seed, because it generates nothing."""
    if is_classification_suite(run.suite):
        return make_classifier_plan(run.checkpoint, run.suite, {"device": options.device})
    overrides: dict[str, SettingValue] = {
        **options.overrides,
        "device": options.device,
        "seed": options.seed,
        "resolution": run.resolution,
        "pos_scaling": options.scaling if exceeds_training_size(run) else None,
    }
    if overrides.get("preset") not in load_suite(run.suite).presets:
        overrides["preset"] = None  # another row's suite has it
    return make_plan(run.checkpoint, run.suite, overrides)


def exceeds_training_size(run: PlannedRun) -> bool:
    """Return whether a run is larger than the recorded training size of its checkpoint."""
    if run.resolution is None:
        return False
    return run.resolution > int(load_checkpoint_record(run.checkpoint).config.get("size", 0))


def check_preset(overrides: Mapping[str, SettingValue], runs: Sequence[PlannedRun]) -> None:
    """Raise OptionError if no run has a suite with the preset that the user chose."""
    preset = overrides.get("preset")
    suites = list(dict.fromkeys(run.suite for run in runs))
    presets = list(dict.fromkeys(name for suite in suites for name in load_suite(suite).presets))
    if preset is not None and runs and preset not in presets:
        advice = f"choose one of {', '.join(presets)}" if presets else "leave --preset out"
        raise OptionError(f"no suite of {', '.join(suites)} has a preset {preset!r}; {advice}")
