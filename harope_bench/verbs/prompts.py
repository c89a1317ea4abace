"""The part of the verb eval that is of suites of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from harope_bench.verbs.options import wanted_indices
from harope_bench.verbs.targets import Drawing, Place, Wish, names_pictures, of_network, resolve


def prompts_of(target: str, suite: str | None) -> str | None:
    """The suite of a target if its images are marked prompt by prompt, else None."""
    from harope_bench import registry
    from harope_bench.catalogue import checkpoint
    from harope_bench.marking import of_prompts
    from harope_bench.samples import Run

    path = Path(target)
    if suite is None and path.is_dir():
        plan = Run(path).plan
        suite = plan.suite if plan else None
    elif suite is None and target in registry.entries("checkpoints"):
        suite = checkpoint(target).suite
    if suite is not None:
        registry.find("suites", suite)
    return suite if suite is not None and of_prompts(suite) else None


class Marked(NamedTuple):
    """Results of prompts, where the images lie and what is found goes, and the suite's evaluators that look at images otherwise."""

    scored: list[Any]
    place: Path
    folder: Path
    others: list[str]


def marked(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> Marked:
    """Images of prompts, drawn first where the target is a checkpoint, asked about and marked; or a finished official run read."""
    from harope_bench import registry
    from harope_bench.generate import generate
    from harope_bench.marking import brought, mark, ready

    assert wish.suite is not None
    asked = marking(wish, drawing)
    foreign = out or Path("runs") / f"eval-{Path(target).stem}"
    of_side = replace(asked, side=drawing["resolution"])  # a finished run does not say how large its images were
    if Path(target).exists() and (found := brought(Path(target), foreign, of_side)) is not None:
        return Marked([found], foreign, foreign, [])
    if cut_by_side(Path(target), wish.suite):
        asked, drawing = replace(asked, side=drawing["resolution"]), {**drawing, "resolution": None}
    place, folder, _, plan = resolve(target, wish, out, drawing)
    rules = ready(asked, names)  # what can fail cheaply comes before the first image is drawn
    others = [name for name in names or registry.load("suites", wish.suite).evaluators if name not in rules]
    if plan is not None:
        generate(plan, wanted_indices(plan.suite, wish.count, None), folder, wish.batch)
    return Marked(mark(place, folder, asked, rules, wish.count) if rules else [], place, folder, others)


def cut_by_side(folder: Path, suite: str) -> bool:
    """Whether a folder holds pictures of several images, whose side --resolution tells."""
    from harope_bench.layouts.base import recognised
    from harope_bench.samples import PLAN

    return folder.is_dir() and not (folder / PLAN).exists() and bool(getattr(recognised(folder, suite), "TILED", False))


def marking(wish: Wish, drawing: Drawing) -> Any:
    """How a suite's images are to be marked."""
    from harope_bench.marking import Marking
    from harope_bench.perceive import Terms

    terms = Terms(drawing["device"], wish.rescore, wish.python, {key: str(value) for key, value in wish.runner})
    return Marking(str(wish.suite), wish.rules, wish.judge, wish.lenient, terms)


def prepared(target: str, wishes: list[Wish], names: list[str] | None, runs: list[Place], drawing: Drawing) -> None:
    """Of several runs of a checkpoint: every plan can be made, and each suite's prompts and judges are here; else their errors."""
    from harope_bench import registry
    from harope_bench.generate import make_plan
    from harope_bench.marking import ready

    if Path(target).exists() or target not in registry.entries("checkpoints") or names_pictures(target):
        return
    known = set()
    for wish, run in zip(wishes, runs, strict=True):
        make_plan(target, wish.suite, {**drawing, "resolution": run.side})
        suite = prompts_of(target, wish.suite)
        if suite is not None and suite not in known:
            ready(marking(replace(wish, suite=suite), drawing), [name for name in names or [] if not of_network(name)] or None)
            known.add(suite)


def portions(judge: str | None, suites: list[str | None]) -> dict[str | None, str | None]:
    """What of `--judge` goes to each suite: of several, the roles that it has."""
    from harope_bench.marking import shared

    named = [suite for suite in dict.fromkeys(suites) if suite is not None]
    if judge is None or len(named) < 2:
        return dict.fromkeys(suites, judge)
    return shared(judge, named)
