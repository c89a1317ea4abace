"""The verb eval: images of a folder, of a file or of a checkpoint, a classifier's answers, and what a network costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from harope_bench.verbs.options import KeyValue, Sides, as_json, drawing_options, dump, pictures_options, wanted_indices

Drawing = dict[str, Any]  # fields of Settings as they were given


@dataclass(frozen=True)
class Wish:
    """What was asked for beside the target, the evaluators and how to draw."""

    suite: str | None
    count: int | None
    batch: int | None
    rescore: bool
    reference: Path | None
    rules: Any
    profiles: str | None
    judge: str | None
    subset: int | None
    images: Path | None
    truth: Path | None
    crop_ratio: float | None
    lenient: bool
    python: Path | None
    runner: tuple[tuple[str, Any], ...]


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
@click.option("--allow-missing", "lenient", is_flag=True, help="Score prompts although images, answers or whole tasks are missing.")
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
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the target itself, or runs/NAME.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def eval_(
    target: str,
    evaluators: str | None,
    sides: tuple[tuple[int, ...], ...],
    out: Path | None,
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
    **drawing: Any,
) -> None:
    """Score TARGET: a run folder, an image folder, an ADM .npz, or a checkpoint (drawn from first; a classifier names real pictures).

    \b
    harope-bench eval digits-harope --suite digits --count 500 --out runs/harope
    harope-bench eval digits-harope --with cost --count 100   # 100 timed forwards, no image
    harope-bench eval my-flux --suite geneval,dpg-bench --resolution 512,1024,2048 --out runs/my-flux
    """
    wish = Wish(None, count, batch, rescore, reference, rules, profiles, judge, subset, images, truth, crop_ratio, lenient, python, runner)
    names = evaluators.split(",") if evaluators else None
    wanted = [side for group in sides for side in group]
    scored: list[Any] = []
    for suite, side, below in places(target, suites, wanted, out):
        scored += one_side(target, replace(wish, suite=suite), names, below, {**drawing, "resolution": side})
    if json_:
        click.echo(as_json({"results": [{"path": str(s.path), "fresh": s.fresh, "result": dump(s.result)} for s in scored]}))
        return
    for s in scored:
        click.echo(f"{s.path}: {measure(s.result)}{'' if s.fresh else ' (stood already, no work done)'}")
        for line in spoken(s.result):
            click.echo("  " + line)


def places(target: str, suites: str | None, sides: list[int], out: Path | None) -> list[tuple[str | None, int | None, Path | None]]:
    """Suite, side and folder of each run; the folder names what there are several of."""
    chosen: list[str | None] = [*dict.fromkeys(name.strip() for name in suites.split(","))] if suites else [None]
    found: list[tuple[str | None, int | None, Path | None]] = []
    for suite in chosen:
        for side in sides or (None,):
            parts = [part for part, several in ((suite, len(chosen) > 1), (f"r{side}", len(sides) > 1)) if several and part]
            found.append((suite, side, (out or Path("runs") / Path(target).stem).joinpath(*parts) if parts else out))
    return found


def one_side(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """Everything that is asked of the target at one resolution."""
    weighing = [name for name in names or [] if of_network(name)]
    rest = [name for name in names or [] if name not in weighing] or None
    scored = [weighed(target, wish, out, drawing)] if weighing else []
    if weighing and rest is None:
        return scored
    if names_pictures(target):
        refuse("names real pictures", target, reference=wish.reference, batch=wish.batch, labels=drawing["labels"])
        return scored + named(target, wish, rest, out, drawing)
    refuse("is no classifier", target, images=wish.images, truth=wish.truth, crop_ratio=wish.crop_ratio)
    if (suite := prompts_of(target, wish.suite)) is not None:
        return scored + marked(target, replace(wish, suite=suite), rest, out, drawing)
    refuse("asks for no prompts", target, allow_missing=wish.lenient or None, judge_python=wish.python)
    return scored + seen(target, wish, rest, out, drawing)


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


def marked(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """Images of prompts asked about and marked, a finished official run read, and what else the suite measures of the same images."""
    from harope_bench import registry
    from harope_bench.generate import generate
    from harope_bench.marking import Marking, brought, mark, ready
    from harope_bench.perceive import Terms

    assert wish.suite is not None
    terms = Terms(drawing["device"], wish.rescore, wish.python, {key: str(value) for key, value in wish.runner})
    asked = Marking(wish.suite, wish.rules, wish.judge, wish.lenient, terms)
    suite = registry.load("suites", wish.suite)
    if Path(target).exists() and (found := brought(Path(target), out or Path("runs") / f"eval-{Path(target).stem}", asked)) is not None:
        return [found]
    place, folder, _, plan = resolve(target, wish, out, drawing)
    rules = ready(asked, names)  # what can fail cheaply comes before the first image is drawn
    others = [name for name in names or suite.evaluators if name not in rules]
    if plan is not None:
        generate(plan, wanted_indices(plan.suite, wish.count, None), folder, wish.batch)
    scored = list(mark(place, folder, asked, rules, wish.count)) if rules else []
    return scored + (seen(str(place), replace(wish, judge=None), others, folder, {"device": drawing["device"]}) if others else [])


def named(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """A classifier's answers, scored."""
    from harope_bench.classify import Wanted, classify

    plan, folder, asked_before = naming_plan(target, wish.suite, out, drawing)
    wanted = Wanted(wish.images, wish.truth, wish.count or asked_before, wish.crop_ratio, wish.rescore)
    return list(classify(plan, folder, wanted, names))


def seen(target: str, wish: Wish, names: list[str] | None, out: Path | None, drawing: Drawing) -> list[Any]:
    """Images judged and scored, once for each profile; those of a checkpoint are drawn when all that judges them is there."""
    from harope_bench.evaluate import Asked, evaluate_each, ready
    from harope_bench.generate import generate

    profiles = wanted_profiles(wish.profiles)
    place, folder, known, plan = resolve(target, wish, out, drawing)
    wanted = [
        Asked(known, wish.reference, wish.rules, wish.rescore, drawing["device"], profile, wish.judge, wish.subset) for profile in profiles
    ]
    if plan is not None:
        ready(folder, wanted, names, wish.count)
        generate(plan, wanted_indices(plan.suite, wish.count, None), folder, wish.batch)
    return evaluate_each(place, folder, wanted, names, wish.count)


def wanted_profiles(text: str | None) -> list[str | None]:
    """The profiles asked for, each once; None is the suite's own. OptionError for an empty name."""
    from harope_bench.errors import OptionError

    if text is None:
        return [None]
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise OptionError(f"--profile {text!r} has an empty name; write one or more, as adm,clean")
    return [*names]


def names_pictures(target: str) -> bool:
    """Whether the target is a classifier's checkpoint or a run of one."""
    from harope_bench import registry
    from harope_bench.catalogue import checkpoint
    from harope_bench.classify import names_pictures, reads
    from harope_bench.samples import Run

    if Path(target).exists():
        plan = Run(Path(target)).plan if Path(target).is_dir() else None
        return plan is not None and reads(plan.suite)
    return target in registry.entries("checkpoints") and names_pictures(checkpoint(target))


def refuse(what: str, target: str, **options: Any) -> None:
    """OptionError for an option that means nothing to this kind of target."""
    from harope_bench.errors import OptionError

    if given := [key for key, value in options.items() if value is not None]:
        raise OptionError(f"{target} {what}, --{given[0].replace('_', '-')} means nothing to it; leave it out")


def naming_plan(target: str, suite: str | None, out: Path | None, drawing: Drawing) -> tuple[Any, Path, int | None]:
    """Plan, folder and number of pictures (None: all) of a classifier's run; those of a run that is there already."""
    from harope_bench.classify import reading_plan
    from harope_bench.errors import OptionError
    from harope_bench.samples import Run

    if not Path(target).exists():
        return reading_plan(target, suite, drawing), out or Path("runs") / target, None
    if given := sorted(key for key, value in drawing.items() if key != "device" and value is not None):
        raise OptionError(f"{target} has its plan already, --{given[0].replace('_', '-')} would change nothing; leave it out")
    run = Run(Path(target))
    return run.plan, out or run.folder, len(run.asked())


def resolve(target: str, wish: Wish, out: Path | None, drawing: Drawing) -> tuple[Path, Path, str, Any]:
    """Images to judge, folder for what is found, suite, and for a checkpoint's name the plan by which they are still to be drawn."""
    from harope_bench import registry
    from harope_bench.errors import OptionError, UnknownName
    from harope_bench.generate import make_plan
    from harope_bench.samples import PLAN, Run

    path = Path(target)
    if not path.exists():
        if target not in registry.entries("checkpoints"):
            raise UnknownName("file, folder or checkpoint", target, registry.names("checkpoints"))
        plan = make_plan(target, wish.suite, drawing)
        folder = out or Path("runs") / target
        return folder, folder, plan.suite, plan
    if given := sorted(key for key, value in drawing.items() if key != "device" and value is not None):
        raise OptionError(f"{target} is drawn already, --{given[0].replace('_', '-')} would change nothing; leave it out")
    run = path.is_dir() and (path / PLAN).exists()
    found = Run(path).plan if run else None
    known = wish.suite or (found.suite if found else None)
    if known is None:
        raise OptionError(f"{target} does not say its suite; add --suite, one of: {', '.join(registry.names('suites'))}")
    return path, out or (path if run else Path("runs") / f"eval-{path.stem}"), known, None


def of_network(evaluator: str) -> bool:
    """Whether an evaluator looks at the network itself, not at images."""
    from harope_bench import registry

    return getattr(registry.load("evaluators", evaluator), "looks_at", "images") == "network"


def weighed(target: str, wish: Wish, out: Path | None, drawing: Drawing) -> Any:
    """The cost of a checkpoint, or of the one that a run folder was drawn from, as that run drew."""
    from harope_bench.classify import reading_plan
    from harope_bench.costing.weigh import weigh
    from harope_bench.errors import OptionError
    from harope_bench.generate import make_plan
    from harope_bench.samples import Run

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
    return [*lines, *(f"warning: {w}" for w in result.warnings)]
