"""The verbs: parse, call one function, print. The only file that imports click.

Answers go to stdout, progress to stderr. Exit 0 done, 1 a named error, 2 wrong usage, 3 the answer is no.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import click

from harope_bench import __version__
from harope_bench.errors import BenchError, TooFewImages

NO = 3


class Indices(click.ParamType):
    """`0-499`, `7` or `0-9,20-29`."""

    name = "indices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A sorted list of indices; a usage error otherwise."""
        from harope_bench.samples import parse_indices

        try:
            return parse_indices(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Sides(click.ParamType):
    """`56` or `28,56,112`."""

    name = "sides"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of positive integers; a usage error otherwise."""
        parts = str(value).split(",")
        if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no resolution; write 28 or 28,56", param, ctx)
        return tuple(int(part) for part in parts)


class KeyValue(click.ParamType):
    """`key=value`; the value is a number or true/false where it reads as one."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """(key, value)."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not key=value", param, ctx)
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = text
        return key, parsed if isinstance(parsed, (bool, int, float)) else text


class Bench(click.Group):
    """Catches named errors at the one place where they become a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb; a BenchError is one line and exit 1 unless --debug asks for the traceback."""
        try:
            return super().invoke(ctx)
        except BenchError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"harope-bench: {' '.join(str(error).split())}", err=True)
            ctx.exit(1)
        except (KeyboardInterrupt, click.Abort):
            click.echo("harope-bench: interrupted; what was reported done is kept, the same command goes on from there", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except OSError as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"harope-bench: {error.filename or 'the system'}: {error.strerror or error}; check the path and the disk", err=True)
            ctx.exit(1)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            first = str(error).splitlines()[0] if str(error) else ""
            click.echo(
                f"harope-bench: unexpected {type(error).__name__}: {first}; run again with --debug and report what it prints", err=True
            )
            ctx.exit(1)


@click.group(
    cls=Bench, context_settings={"auto_envvar_prefix": "HAROPE_BENCH", "help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Print tracebacks.")
def main(debug: bool) -> None:
    """Compare positional encodings of image transformers: draw, judge, tabulate, report.

    \b
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    """


def drawing_options(verb: Any) -> Any:
    """The options that say how samples are drawn."""
    options = [
        click.option("--steps", type=click.IntRange(1), help="Sampler steps; the checkpoint's own if left out."),
        click.option("--guidance", type=click.FloatRange(0), help="Guidance scale, 1 is none; the checkpoint's own if left out."),
        click.option("--sampler", help="Sampler; the checkpoint's own if left out."),
        click.option("--seed", type=click.IntRange(0), default=0, help="Base seed; sample i is a function of it and i."),
        click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), default="cpu", help="Where the networks run."),
        click.option(
            "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", help="Precision of the drawing network."
        ),
        click.option("--batch", type=click.IntRange(1), help="Samples between two writes (whole tiles); changes no pixel."),
    ]
    return functools.reduce(lambda f, option: option(f), reversed(options), verb)


def as_json(value: Any) -> str:
    """One JSON object, keys sorted, NaN forbidden."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1)


def dump(record: Any) -> Any:
    """A record as plain JSON values."""
    return record.model_dump(mode="json")


@main.command("list")
@click.argument("kind", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Also where each comes from.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def list_(kind: str | None, verbose: bool, json_: bool) -> None:
    """Names of encodings, backbones, checkpoints, suites, judges, evaluators, tables.

    \b
    harope-bench list encodings -v
    """
    from harope_bench import registry

    wanted = [kind] if kind else list(registry.KINDS)
    found = {k: registry.entries(k) for k in wanted}
    if json_:
        click.echo(as_json({k: [describe(e, verbose) for e in entries.values()] for k, entries in found.items()}))
        return
    for k, entries in found.items():
        if not kind:
            click.echo(f"{k}:")
        for entry in entries.values():
            facts = describe(entry, verbose)
            click.echo(("  " if not kind else "") + "  ".join(str(facts[f]) for f in ("name", "origin", "version", "parity") if f in facts))


def describe(entry: Any, verbose: bool) -> dict[str, Any]:
    """Name, and with `verbose` origin, version and parity where the thing states them."""
    from harope_bench import registry

    if not verbose:
        return {"name": entry.name}
    facts: dict[str, Any] = {"name": entry.name, "origin": entry.origin}
    if entry.kind in ("suites", "judges", "evaluators"):
        plugin = registry.load(entry.kind, entry.name)
        facts["version"] = plugin.version
        if entry.kind == "evaluators":
            facts["parity"] = plugin.parity
    return facts


@main.command()
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def doctor(json_: bool) -> None:
    """What can run here, what is missing, and the command that brings it.

    \b
    harope-bench doctor
    """
    from harope_bench.doctor import examine

    findings = examine()
    if json_:
        click.echo(as_json({"findings": [f._asdict() for f in findings]}))
    else:
        for f in findings:
            fix = f"  -> {f.fix}" if f.fix else ""
            click.echo(f"{f.state:8} {f.area:11} {f.name:18} {f.detail}{fix}")
    if any(f.state == "broken" for f in findings):
        sys.exit(NO)


@main.command()
@click.argument("name")
@click.option("--weights", type=click.Path(path_type=Path), required=True, help=".safetensors, or a torch file of a bare state dict.")
@click.option("--backbone", help="Backbone; found from the keys if left out.")
@click.option("--encoding", help="Encoding; found from the keys or the file's note where they tell.")
@click.option("--option", "options", type=KeyValue(), multiple=True, help="Option of the encoding, key=value.")
@click.option("--config", type=KeyValue(), multiple=True, help="Size of the backbone the keys do not tell (heads, size), key=value.")
@click.option("--suite", help="Suite it was trained for; eval and generate then need no --suite.")
@click.option("--sampler", default="flow", help="Sampler it was trained for.")
@click.option("--steps", type=click.IntRange(1), default=50, help="Default sampler steps.")
@click.option("--guidance", type=click.FloatRange(0), default=1.0, help="Default guidance scale.")
@click.option("--scale", type=click.Choice(["micro", "paper"]), default="paper", help="What its numbers count as.")
def register(name: str, weights: Path, backbone: str | None, encoding: str | None, options: Any, config: Any, **drawing: Any) -> None:
    """Register weights under NAME, with their sha256, after loading them strictly once.

    \b
    harope-bench register my-pe --weights my.safetensors --encoding harope --config heads=4 --config size=28
    """
    from harope_bench import registry
    from harope_bench.catalogue import register

    registry.find("samplers", drawing["sampler"])
    if drawing["suite"] is None:
        del drawing["suite"]
    else:
        registry.find("suites", drawing["suite"])
    click.echo(register(name, weights, backbone, encoding, dict(options), dict(config), drawing))


@main.command()
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


@main.command("eval")
@click.argument("target")
@click.option("--suite", help="Suite; the run's or the checkpoint's own if left out.")
@click.option("--with", "evaluators", help="Evaluators, comma-separated; the suite's own if left out.")
@click.option("--reference", type=click.Path(path_type=Path), help="An .npz with mu and sigma in place of the suite's own.")
@click.option(
    "--rules", type=click.Choice(["official", "corrected"]), default="official", help="Rules with their known quirks, or corrected."
)
@click.option("--rescore", is_flag=True, help="Score the stored observations again; loads no network.")
@drawing_options
@click.option(
    "--resolution",
    "sides",
    type=Sides(),
    multiple=True,
    help="Side in pixels, several make a run each (28,56); the suite's own if left out.",
)
@click.option("--count", type=click.IntRange(1), help="Samples to draw if TARGET is a checkpoint; the suite's own number if left out.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the target itself, or runs/NAME.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def eval_(
    target: str,
    suite: str | None,
    evaluators: str | None,
    reference: Path | None,
    rules: Any,
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
    from harope_bench.evaluate import evaluate

    names = evaluators.split(",") if evaluators else None
    wanted = [side for group in sides for side in group]
    scored = []
    for side in wanted or (None,):
        below = None if len(wanted) < 2 else (out or Path("runs") / Path(target).stem) / f"r{side}"
        place, folder, known = resolve(target, suite, below or out, count, batch, {**drawing, "resolution": side})
        scored += evaluate(place, folder, known, names, reference, rules, rescore, drawing["device"])
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
    if given := sorted(key for key in ("resolution", "steps", "guidance", "sampler") if drawing[key] is not None):
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


@main.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--runs", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder with runs to measure from.")
@click.option("--format", "format_", type=click.Choice(["md", "csv", "tex", "html", "json"]), default="md", help="Output format.")
@click.option("--show", type=click.Choice(["published", "measured", "both"]), help="Default: both with --runs, else published.")
def table(names: tuple[str, ...], runs: Path | None, format_: str, show: Any) -> None:
    """The paper's tables, same rows, columns and decimals, with measured values beside them.

    \b
    harope-bench table 2 --runs runs/table2 --show both --format md
    """
    from harope_bench.leaderboards import board
    from harope_bench.reports import tables

    if show in ("measured", "both") and runs is None:
        raise click.UsageError(f"--show {show} needs --runs DIR")
    results = board.collect(runs) if runs else []
    for name in names:
        built = board.build(board.load_table(name), results, show or ("both" if runs else "published"))
        click.echo(tables.render(built, format_))


@main.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--scale", type=click.Choice(["micro", "paper"]), required=True, help="micro: shipped checkpoints, two CPU cores.")
@click.option("--count", type=click.IntRange(2), help="Samples of each row; the suite's own number if left out.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of all runs, tables and the report.")
@click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), default="cpu", help="Where the networks run.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Base seed.")
def reproduce(names: tuple[str, ...], scale: Any, count: int | None, out: Path, device: str, seed: int) -> None:
    """Every row of the named tables: draw, score, tabulate, report. A second call does what is missing.

    \b
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    """
    from harope_bench.reproduce import reproduce

    done = reproduce(names, scale, count, out, device, seed)
    for path in done.written:
        click.echo(path)
    click.echo(
        f"{done.rows} rows: {done.drawn:,} images drawn, {done.scored} results scored"
        + ("" if done.drawn or done.scored else "; everything stood already, no work done")
    )


@main.command()
@click.option("--runs", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Folder with runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The HTML file.")
def report(runs: Path, out: Path) -> None:
    """One offline HTML file about all runs below a folder.

    \b
    harope-bench report --runs runs/table2 --out report.html
    """
    from harope_bench.reports.html import write_report

    write_report(runs, out)
    click.echo(out)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--redraw", type=click.IntRange(0), default=3, help="Samples to draw again.")
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def verify(run: Path, redraw: int, json_: bool) -> None:
    """Recompute a run's hashes and scores and draw some of its samples again; exit 3 if anything differs.

    \b
    harope-bench verify runs/harope --redraw 5
    """
    from harope_bench.verify import verify

    findings = verify(run, redraw)
    if json_:
        click.echo(as_json({"checked": findings.checked, "wrong": findings.wrong, "ok": not findings.wrong}))
    else:
        for line in findings.checked:
            click.echo(line)
        for line in findings.wrong:
            click.echo(f"WRONG {line}")
    if findings.wrong:
        sys.exit(NO)


@main.command()
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

    samples = open_samples(source)
    if count is not None:
        if count > len(samples.indices):
            raise TooFewImages(f"{source} holds {len(samples.indices):,} images, --count asks for {count:,}; lower it")
        samples = samples.first(count)
    (to_adm if to == "adm" else to_png)(samples, target)
    click.echo(f"{target}: {len(samples.indices):,} images")


@main.command()
@click.argument("recipe")
@click.option("--encoding", help="Encoding to train, for recipes of a denoiser.")
@click.option("--option", "options", type=KeyValue(), multiple=True, help="Option of the encoding, key=value.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/train/NAME if left out.")
@click.option("--resume/--no-resume", default=True, help="Go on from the folder's snapshot.")
def train(recipe: str, encoding: str | None, options: Any, out: Path | None, resume: bool) -> None:
    """Carry out a RECIPE (name or .toml): a micro checkpoint, a judge, or reference statistics.

    \b
    harope-bench train digits-dit --encoding harope --out runs/train/harope
    """
    from harope_bench.training.run import run

    folder, what = run(recipe, encoding, dict(options), out, resume)
    click.echo(f"{folder}: {what}")


if __name__ == "__main__":
    main()
