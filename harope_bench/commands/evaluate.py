"""The verb eval: images of a folder, of a file or of a checkpoint, a classifier's answers, and what a network costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from harope_bench.commands.evaluate_prompts import marked, portions, prepared, prompts_of
from harope_bench.commands.needs import demand
from harope_bench.commands.options import KeyValue, Sides, as_json, drawing_options, dump, folder_options, pictures_options, wanted_indices
from harope_bench.commands.targets import (
    Drawing,
    Wish,
    folder_form,
    names_pictures,
    naming_plan,
    of_network,
    places,
    refuse,
    resolve,
    wanted_profiles,
)
from harope_bench.commands.terminal import echo


@click.command("eval")
@click.argument("target")
@click.option("--suite", "suites", help="Suite, several comma-separated for a checkpoint; the run's or the checkpoint's own if left out.")
@click.option("--with", "evaluators", help="Evaluators, comma-separated; the suite's own if left out.")
@click.option("--reference", type=click.Path(path_type=Path), help="An .npz with mu and sigma in place of the suite's own.")
@click.option(
    "--rules", type=click.Choice(["official", "corrected"]), default="official", help="Rules with their known quirks, or corrected."
)
@click.option(
    "--profile", "profiles", help="Whose formulas (adm, adm-exact, torch-fidelity, clean), comma-separated; the suite's own if left out."
)
@click.option(
    "--judge", help="Judge in place of the suite's own, for prompts ROLE=NAME or ROLE=NAME:MODEL, comma-separated; results have own files."
)
@click.option("--allow-missing", "lenient", is_flag=True, help="Score although images, answers, tasks or listed pictures are missing.")
@click.option("--judge-python", "python", type=click.Path(path_type=Path), help="Python that runs a judge of another environment.")
@click.option(
    "--judge-option", "runner", type=KeyValue(), multiple=True, help="key=value for that judge's runner (weights=F, checkout=DIR)."
)
@click.option("--subset", type=click.IntRange(0), metavar="SEED", help="Score --count images chosen at random by SEED, not the first ones.")
@click.option("--rescore", is_flag=True, help="Score the stored observations again; loads no network.")
@drawing_options
@click.option(
    "--resolution",
    "sides",
    type=Sides(),
    multiple=True,
    help="Side in pixels, several make a run each (28,56); the suite's own if left out.",
)
@click.option(
    "--count", type=click.IntRange(1), help="Samples 0 to COUNT - 1; all of a target, the suite's own number of a checkpoint if left out."
)
@pictures_options
@folder_options
@click.option("--label", help="Text of the row that these results get in tables; kept in the results, also of finished runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the target itself, or runs/NAME.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def eval_(
    target: str,
    evaluators: str | None,
    sides: tuple[tuple[int, ...], ...],
    out: Path | None,
    label: str | None,
    json_: bool,
    suites: str | None,
    count: int | None,
    batch: int | None,
    rescore: bool,
    reference: Path | None,
    rules: Any,
    profiles: str | None,
    judge: str | None,
    subset: int | None,
    images: Path | None,
    truth: Path | None,
    crop_ratio: float | None,
    lenient: bool,
    python: Path | None,
    runner: tuple[tuple[str, Any], ...],
    order: Any,
    pattern: str | None,
    file_list: Path | None,
    tiles: str | None,
    **drawing: Any,
) -> None:
    """Score TARGET: a run folder, an image folder, an ADM .npz, or a checkpoint (drawn from first; a classifier names real pictures).

    \b
    harope-bench eval digits-harope --suite digits --count 500 --out runs/harope
    harope-bench eval digits-harope --with cost --count 100   # 100 timed forwards, no image
    harope-bench eval my-flux --suite geneval,dpg-bench --resolution 512,1024,2048 --out runs/my-flux
    harope-bench eval results.jsonl --suite geneval --label "FLUX + ours" --out runs/ours
    """
    from harope_bench.core.errors import Waiting
    from harope_bench.core.schema import check_label

    label = None if label is None else check_label(label)
    wish = Wish(None, count, batch, rescore, reference, rules, profiles, judge, subset, images, truth, crop_ratio, lenient, python, runner)
    wish = replace(wish, order=order, pattern=pattern, file_list=file_list, tiles=int(tiles) if tiles else None)
    names = evaluators.split(",") if evaluators else None
    wanted = [side for group in sides for side in group]
    runs = places(target, suites, wanted, out)
    judges = portions(judge, [run.suite for run in runs])
    wishes = [replace(wish, suite=run.suite, judge=judges[run.suite]) for run in runs]
    demand(target, wishes, names, runs, drawing)
    if len(runs) > 1:  # what is missing for the last run is said before the first one is drawn
        prepared(target, wishes, names, runs, drawing)
    scored: list[Any] = []
    waiting: list[Waiting] = []
    for run in runs:
        mine = replace(wish, suite=run.suite, judge=judges[run.suite])
        try:
            scored += labelled(one_side(target, mine, names, run.folder, {**drawing, "resolution": run.side}), label)
        except Waiting as error:  # of several runs the others go on
            waiting.append(error)
    tell(scored, json_ and not waiting)
    if waiting:
        more = f" (and {len(waiting) - 1} more runs wait)" if len(waiting) > 1 else ""
        raise Waiting(f"{waiting[0]}{more}")


def labelled(scored: list[Any], label: str | None) -> list[Any]:
    """Return the results with the label that is given; finished ones are written again with it, not scored again."""
    from harope_bench.data.result_store import Scored, relabel

    return scored if label is None else [Scored(relabel(s.path, s.result, label), s.path, s.fresh) for s in scored]


def tell(scored: list[Any], as_object: bool) -> None:
    """Prints results: one JSON object, or each in words."""
    if as_object:
        echo(as_json({"results": [{"path": str(s.path), "fresh": s.fresh, "result": dump(s.result)} for s in scored]}))
        return
    for s in scored:
        echo(f"{s.path}: {measure(s.result)}{'' if s.fresh else ' (stood already, no work done)'}")
        for line in spoken(s.result):
            echo("  " + line)


def one_side(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """Everything that is asked of the target at one resolution."""
    weighing = [name for name in names or [] if of_network(name)]
    rest = [name for name in names or [] if name not in weighing] or None
    scored = [weighed(target, wish, out, drawing)] if weighing else []
    if weighing and rest is None:
        return scored
    if names_pictures(target):
        refuse("names real pictures", target, reference=wish.reference, batch=wish.batch, labels=drawing["labels"], **wish.placing)
        return scored + named(target, wish, rest, out, drawing)
    refuse("is no classifier", target, images=wish.images, truth=wish.truth, crop_ratio=wish.crop_ratio)
    if (suite := prompts_of(target, wish.suite)) is not None:
        found = marked(target, replace(wish, suite=suite), rest, out, drawing)
        plain, of_images = replace(wish, suite=suite, judge=None, side=found.side), {"device": drawing["device"]}
        more = seen(str(found.place), plain, found.others, found.folder, of_images) if found.others else []
        return scored + found.scored + more
    refuse("asks for no prompts", target, allow_missing=wish.lenient or None, judge_python=wish.python, **wish.placing)
    return scored + seen(target, wish, rest, out, drawing)


def named(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """A classifier's answers, scored."""
    from harope_bench.pipeline.classify import Wanted, classify

    plan, folder, asked_before = naming_plan(target, wish.suite, out, drawing)
    wanted = Wanted(wish.images, wish.truth, wish.count or asked_before, wish.crop_ratio, wish.rescore, wish.lenient)
    return list(classify(plan, folder, wanted, names))


def seen(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """Images judged and scored, once for each profile; those of a checkpoint are drawn when all that judges them is there."""
    from harope_bench.pipeline.evaluate import Asked, evaluate_each, ready
    from harope_bench.pipeline.generate import generate

    profiles = wanted_profiles(wish.profiles)
    place, folder, known, plan = resolve(target, wish, out, drawing)
    wanted = [
        Asked(known, wish.reference, wish.rules, wish.rescore, drawing["device"], profile, wish.judge, wish.subset, folder_form(wish))
        for profile in profiles
    ]
    if plan is not None:
        ready(folder, wanted, names, wish.count)
        generate(plan, wanted_indices(plan.suite, wish.count, None), folder, wish.batch)
    return evaluate_each(place, folder, wanted, names, wish.count)


def weighed(target: str, wish: Wish, out: Path | None, drawing: Drawing) -> Any:
    """The cost of a checkpoint, or of the one that a run folder was drawn from, as that run drew."""
    from harope_bench.analysis.cost.profile import weigh
    from harope_bench.core.errors import OptionError
    from harope_bench.data.run_folder import Run
    from harope_bench.pipeline.classify import reading_plan
    from harope_bench.pipeline.generate import make_plan

    path = Path(target)
    if not path.exists():
        make = reading_plan if names_pictures(target) else make_plan
        return weigh(make(target, wish.suite, drawing), out or Path("runs") / target, wish.count, wish.batch, wish.rescore)
    plan = Run(path).plan if path.is_dir() else None
    if plan is None:
        raise OptionError(f"{target} does not say which network drew it; give a checkpoint's name or a run folder")
    return weigh(plan, out or path, wish.count, wish.batch, wish.rescore)


def measure(result: Any) -> str:
    """Whose formulas and whose eyes a result has."""
    return f"{result.evaluator}@{result.version}, profile {result.profile}, judge {result.judge.name}"


def spoken(result: Any) -> list[str]:
    """A result in words, one measurement a line, full precision."""
    lines, what = [], "forwards" if of_network(result.evaluator) else "images"
    for m in result.measurements:
        value = f"{m.value:.6g}" + (f" +- {m.se:.2g}" if m.se is not None else "") if m.value is not None else f"none: {m.reason}"
        lines.append(f"{m.name:14} {value}  ({m.n_scored:,} of {m.n_asked:,} {what}{', ' + m.interval if m.interval else ''})")
    return [*lines, *(f"warning: {w}" for w in result.warning_texts)]
