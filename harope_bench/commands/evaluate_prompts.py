"""The part of the verb eval that is of suites of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from harope_bench.commands.options import wanted_indices
from harope_bench.commands.targets import Drawing, Place, Wish, folder_form, names_pictures, of_network, refuse, resolve


def prompts_of(target: str, suite: str | None) -> str | None:
    """The suite of a target if its images are marked prompt by prompt, else None."""
    from harope_bench.core import registry
    from harope_bench.data.run_folder import Run
    from harope_bench.models.load_checkpoint import checkpoint
    from harope_bench.pipeline.evaluate_prompts import of_prompts

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
    side: int | None = None  # of a tile, where --resolution means that


def marked(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> Marked:
    """Images of prompts, drawn first where the target is a checkpoint, asked about and marked; or a finished official run read."""
    from harope_bench.core import registry
    from harope_bench.pipeline.evaluate_prompts import brought, mark, ready
    from harope_bench.pipeline.generate import generate
    from harope_bench.suites.official_layouts.base import reader

    assert wish.suite is not None
    if cut_by_side(Path(target), wish.suite):
        wish, drawing = replace(wish, side=drawing["resolution"]), {**drawing, "resolution": None}
    asked = marking(wish, drawing)
    foreign = out or Path("runs") / f"eval-{Path(target).stem}"
    if not Path(target).exists():
        refuse("is no folder of images", target, **wish.placing)
    elif reader(Path(target)) is not None:
        refuse("is a finished run of an official script", target, **wish.placing)
        of_side = replace(
            asked, form=replace(asked.form, side=drawing["resolution"] or wish.side)
        )  # such a run does not say its images' size
        return Marked([brought(Path(target), foreign, of_side)], foreign, foreign, [])
    place, folder, _, plan = resolve(target, wish, out, drawing)
    # What can fail cheaply comes before the first image is drawn.
    rules = ready(asked, names, place if plan is None else None, wish.count)
    others = [name for name in names or registry.load("suites", asked.suite).evaluators if name not in rules]
    if plan is not None:
        generate(plan, wanted_indices(plan.suite, wish.count, None), folder, wish.batch)
    return Marked(mark(place, folder, asked, rules, wish.count) if rules else [], place, folder, others, wish.side)


def cut_by_side(folder: Path, suite: str) -> bool:
    """Return whether a folder holds a suite's pictures of several images, whose side --resolution tells."""
    from harope_bench.data.run_folder import PLAN
    from harope_bench.suites.official_layouts.prompt_folder import is_tiled

    return folder.is_dir() and not (folder / PLAN).exists() and is_tiled(suite)


def marking(wish: Wish, drawing: Drawing) -> Any:
    """How a suite's images are to be marked."""
    from harope_bench.pipeline.annotate import Terms
    from harope_bench.pipeline.evaluate_prompts import Marking

    terms = Terms(drawing["device"], wish.rescore, wish.python, {key: str(value) for key, value in wish.runner})
    return Marking(str(wish.suite), wish.rules, wish.judge, wish.lenient, terms, folder_form(wish))


def prepared(target: str, wishes: list[Wish], names: list[str] | None, runs: list[Place], drawing: Drawing) -> None:
    """Of several runs of a checkpoint: every plan can be made, and each suite's prompts and judges are here; else their errors."""
    from harope_bench.core import registry
    from harope_bench.pipeline.evaluate_prompts import ready
    from harope_bench.pipeline.generate import make_plan

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
    from harope_bench.pipeline.evaluate_prompts import shared

    named = [suite for suite in dict.fromkeys(suites) if suite is not None]
    if judge is None or len(named) < 2:
        return dict.fromkeys(suites, judge)
    return shared(judge, named)
