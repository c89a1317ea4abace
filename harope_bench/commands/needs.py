"""What the verb eval asks before any work: everything that its runs lack, at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harope_bench.commands.targets import Drawing, Place, Wish, names_pictures, of_network, wanted_profiles


@dataclass(frozen=True)
class _Request:
    """One run that is asked for."""

    wish: Wish
    place: Place


def demand(target: str, wishes: list[Wish], names: list[str] | None, places: list[Place], drawing: Drawing) -> None:
    """Raise one error that names everything which the runs of a target lack; nothing is written.

    Raises:
        MissingRequirementsError: something is missing. OptionError, UnknownName: a setting, judge or evaluator does not fit.
    """
    from harope_bench.pipeline.requirements import raise_missing

    scored = [name for name in names or [] if not of_network(name)]
    if names and not scored:
        return
    requests = [_Request(wish, place) for wish, place in zip(wishes, places, strict=True)]
    if Path(target).exists():
        raise_missing([item for request in requests for item in _of_images(Path(target), request, scored or None)])
    elif _is_generating(target):
        raise_missing([item for request in requests for item in _of_run(target, request, scored or None, drawing)])


def _is_generating(target: str) -> bool:
    from harope_bench.core import registry

    return target in registry.entries("checkpoints") and not names_pictures(target)


def _of_run(target: str, request: _Request, names: list[str] | None, drawing: Drawing) -> list[Any]:
    """Return what one run of a checkpoint lacks."""
    from harope_bench.models.load_checkpoint import checkpoint
    from harope_bench.pipeline.generate import make_plan
    from harope_bench.pipeline.requirements import Requirement, missing_of_suites, missing_requirements, plan_or_requirement

    plan = plan_or_requirement(lambda: make_plan(target, request.wish.suite, {**drawing, "resolution": request.place.side}))
    scoring = _scoring(request.wish, names)
    if not isinstance(plan, Requirement):
        return missing_requirements(plan, scoring)
    suite = request.wish.suite or checkpoint(target).suite
    return [plan, *(missing_of_suites([suite], scoring) if suite else [])]


def _of_images(target: Path, request: _Request, names: list[str] | None) -> list[Any]:
    """Return the prompts and judges that images of prompts lack before anything is known of them; later errors know their kinds."""
    from harope_bench.pipeline.evaluate_prompts import of_prompts
    from harope_bench.pipeline.requirements import missing_of_suites, prompts_requirement
    from harope_bench.suites.official_layouts.base import reader

    suite = request.wish.suite
    if suite is None or not of_prompts(suite) or (lacking := prompts_requirement(suite)) is None:
        return []
    if reader(target) is not None:  # a finished run needs no judge
        return [lacking]
    return missing_of_suites([suite], _scoring(request.wish, names))


def _scoring(wish: Wish, names: list[str] | None) -> Any:
    from harope_bench.pipeline.requirements import Scoring

    profiles = tuple(wanted_profiles(wish.profiles))
    return Scoring(names, wish.judge, profiles, wish.rules, wish.reference, wish.python, wish.rescore)
