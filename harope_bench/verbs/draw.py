"""Verbs of samples: generate, eval, verify, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harope_bench.verbs.options import NO, Indices, Sides, as_json, drawing_options, dump


@click.command()
@click.argument("checkpoint")
@click.option("--suite", help="What to draw; the checkpoint's own if left out.")
@drawing_options
@click.option("--resolution", type=click.IntRange(1), help="Side in pixels; the suite's own if left out.")
@click.option("--count", type=click.IntRange(1), help="Samples 0 to COUNT - 1; the suite's own number if left out.")
@click.option("--indices", type=Indices(), help="Just these samples, as 0-499 or 0-9,20-29.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; a finished part is kept.")
@click.option("--dry-run", is_flag=True, help="Print the plan and what is missing; draw nothing.")
def generate(
    checkpoint: str,
    suite: str | None,
    batch: int | None,
    count: int | None,
    indices: list[int] | None,
    out: Path,
    dry_run: bool,
    **drawing: Any,
) -> None:
    """Draw samples from a registered CHECKPOINT; a second call draws what is missing.

    \b
    harope-bench generate digits-harope --suite digits --count 500 --out runs/harope
    """
    from harope_bench.generate import generate, make_plan
    from harope_bench.samples import Run

    plan = make_plan(checkpoint, suite, drawing)
    wanted = wanted_indices(plan.suite, count, indices)
    if dry_run:
        missing = Run(out).missing(wanted)
        click.echo(as_json({"plan": dump(plan), "digest": plan.digest, "asked": len(wanted), "missing": len(missing)}))
        return
    drawn = generate(plan, wanted, out, batch)
    click.echo(f"{drawn.folder}: {drawn.asked:,} asked, {drawn.drawn:,} drawn now, {drawn.failed:,} failed")


def wanted_indices(suite: str, count: int | None, indices: list[int] | None) -> list[int]:
    """The indices that --count or --indices ask for."""
    from harope_bench import registry

    if count is not None and indices is not None:
        raise click.UsageError("--count and --indices are two ways to say the same; give one")
    return indices if indices is not None else list(range(count or registry.load("suites", suite).count))


@click.command("eval")
@click.argument("target")
@click.option("--suite", help="Suite; the run's or the checkpoint's own if left out.")
@click.option("--with", "evaluators", help="Evaluators, comma-separated; the suite's own if left out.")
@click.option("--reference", type=click.Path(path_type=Path), help="An .npz with mu and sigma in place of the suite's own.")
@click.option(
    "--rules", type=click.Choice(["official", "corrected"]), default="official", help="Rules with their known quirks, or corrected."
)
@click.option(
    "--profile", "profiles", help="Whose formulas (adm, adm-exact, torch-fidelity, clean), comma-separated; the suite's own if left out."
)
@click.option("--judge", help="Judge in place of the suite's own; its results have files of their own.")
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
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the target itself, or runs/NAME.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def eval_(
    target: str,
    suite: str | None,
    evaluators: str | None,
    reference: Path | None,
    rules: Any,
    profiles: str | None,
    judge: str | None,
    subset: int | None,
    rescore: bool,
    sides: tuple[tuple[int, ...], ...],
    batch: int | None,
    count: int | None,
    out: Path | None,
    json_: bool,
    **drawing: Any,
) -> None:
    """Score TARGET: a run folder, an image folder, an ADM .npz, or a checkpoint (drawn from first).

    \b
    harope-bench eval digits-harope --suite digits --count 500 --out runs/harope
    """
    from harope_bench.evaluate import Asked, evaluate

    names = evaluators.split(",") if evaluators else None
    wanted = [side for group in sides for side in group]
    scored = []
    for side in wanted or (None,):
        below = None if len(wanted) < 2 else (out or Path("runs") / Path(target).stem) / f"r{side}"
        place, folder, known = resolve(target, suite, below or out, count, batch, {**drawing, "resolution": side})
        for profile in profiles.split(",") if profiles else (None,):
            asked = Asked(known, reference, rules, rescore, drawing["device"], profile, judge, subset)
            scored += evaluate(place, folder, asked, names, count)
    if json_:
        click.echo(as_json({"results": [{"path": str(s.path), "fresh": s.fresh, "result": dump(s.result)} for s in scored]}))
        return
    for s in scored:
        click.echo(f"{s.path}{'' if s.fresh else ' (stood already, no work done)'}")
        for line in spoken(s.result):
            click.echo("  " + line)


def resolve(
    target: str, suite: str | None, out: Path | None, count: int | None, batch: int | None, drawing: dict[str, Any]
) -> tuple[Path, Path, str]:
    """Images to judge, folder for what is found, and suite; a checkpoint's name is drawn from first."""
    from harope_bench import registry
    from harope_bench.errors import OptionError, UnknownName
    from harope_bench.generate import generate, make_plan
    from harope_bench.samples import PLAN, Run

    path = Path(target)
    if not path.exists():
        if target not in registry.entries("checkpoints"):
            raise UnknownName("file, folder or checkpoint", target, registry.names("checkpoints"))
        plan = make_plan(target, suite, drawing)
        folder = out or Path("runs") / target
        generate(plan, wanted_indices(plan.suite, count, None), folder, batch)
        return folder, folder, plan.suite
    if given := sorted(
        key for key in ("resolution", "steps", "guidance", "sampler", "seed", "dtype", "labels", "preset") if drawing[key] is not None
    ):
        raise OptionError(f"{target} is drawn already, --{given[0]} would change nothing; leave it out or give a checkpoint's name")
    run = path.is_dir() and (path / PLAN).exists()
    found = Run(path).plan if run else None
    known = suite or (found.suite if found else None)
    if known is None:
        raise OptionError(f"{target} does not say its suite; add --suite, one of: {', '.join(registry.names('suites'))}")
    return path, out or (path if run else Path("runs") / f"eval-{path.stem}"), known


def spoken(result: Any) -> list[str]:
    """A result in words, one measurement a line, full precision."""
    lines = []
    for m in result.measurements:
        value = f"{m.value:.6g}" + (f" +- {m.se:.2g}" if m.se is not None else "") if m.value is not None else f"none: {m.reason}"
        lines.append(f"{m.name:14} {value}  ({m.n_scored:,} of {m.n_asked:,} images{', ' + m.interval if m.interval else ''})")
    return [*lines, *(f"warning: {w}" for w in result.warnings)]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--redraw", type=click.IntRange(0), default=3, help="Samples to draw again, chosen at random.")
@click.option("--seed", type=click.IntRange(0), help="Of that choice, to make the same one again.")
@click.option(
    "--reference", type=click.Path(path_type=Path), help="The file that results were scored against, where it is not the suite's own."
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def verify(run: Path, redraw: int, seed: int | None, reference: Path | None, json_: bool) -> None:
    """Judge and score a run's images again, compare everything recorded, draw some samples again; exit 3 if anything differs.

    \b
    harope-bench verify runs/harope --redraw 5
    """
    from harope_bench.verify import verify

    findings = verify(run, redraw, seed, reference)
    if json_:
        click.echo(as_json({"checked": findings.checked, "wrong": findings.wrong, "ok": not findings.wrong}))
    else:
        for line in findings.checked:
            click.echo(line)
        for line in findings.wrong:
            click.echo(f"WRONG {line}")
    if findings.wrong:
        sys.exit(NO)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["adm", "png"]), required=True, help="adm: .npz with arr_0 (and labels arr_1); png: 000000.png ...")
@click.option("--count", type=click.IntRange(1), help="Only the first COUNT samples.")
def convert(source: Path, target: Path, to: str, count: int | None) -> None:
    """Convert samples between layouts: run folder, image folder or .npz to ADM .npz or PNG folder.

    \b
    harope-bench convert runs/harope harope.npz --to adm
    """
    from harope_bench.samples import open_samples, to_adm, to_png

    samples = open_samples(source, count)
    (to_adm if to == "adm" else to_png)(samples, target)
    left_out = f", {samples.left_out:,} failed samples left out" if samples.left_out else ""
    click.echo(f"{target}: {len(samples.indices):,} images{left_out}")
