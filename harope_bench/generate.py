"""Plan to sample set: draws what is missing, tile by tile. Knows no model and no metric."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from tqdm import tqdm

from harope_bench import registry
from harope_bench.catalogue import checkpoint, open_drawer, weights_path
from harope_bench.device import require
from harope_bench.errors import OptionError
from harope_bench.records import Checkpoint, Plan, Request, Settings, fault
from harope_bench.samples import Run
from harope_bench.store import check_hash


@dataclass(frozen=True)
class Drawn:
    """What a call of `generate` did."""

    folder: Path
    plan: Plan
    asked: int
    drawn: int
    failed: int


def make_plan(name: str, suite: str | None, overrides: Mapping[str, Any]) -> Plan:
    """The plan of a checkpoint and a suite; None values in `overrides` take the checkpoint's defaults.

    Raises:
        UnknownName, OptionError: before anything is loaded or written.
    """
    found = checkpoint(name)
    if getattr(registry.load("backbones", found.backbone), "task", "draw") != "draw":
        raise OptionError(f"checkpoint {name} ({found.backbone}) names pictures, it draws none; harope-bench eval {name}")
    chosen = suite or found.suite
    if chosen is None:
        raise OptionError(f"checkpoint {name} has no suite of its own; add --suite, one of: {', '.join(registry.names('suites'))}")
    plugin = registry.load("suites", chosen)
    if getattr(plugin, "task", "draw") == "classify":
        raise OptionError(f"suite {chosen} has pictures to be named, {name} ({found.backbone}) draws; give another --suite or a classifier")
    backbone = registry.load("backbones", found.backbone)
    chosen_preset = overrides.get("preset")
    if overrides.get("pos_scaling") == "none" and "pos_scaling" not in found.drawing:
        overrides = {**overrides, "pos_scaling": None}  # to say so is to leave it out
    said = {**preset(chosen, plugin, chosen_preset), **{k: v for k, v in overrides.items() if v is not None and k != "preset"}}
    defaults = {
        "resolution": plugin.resolution,
        "sampler": found.sampler,
        "steps": found.steps,
        "guidance": found.guidance,
        "tile": backbone.tile,
        **found.drawing,
    }
    try:
        settings = Settings(**{**defaults, **said, "labels": label_policy(chosen, plugin, said.get("labels"))})
    except ValidationError as error:
        raise OptionError(f"{fault(error)}; give --{error.errors()[0]['loc'][0]} another value") from error
    _check_sampler(found, settings)
    require(settings.device)
    backbone.check(found, settings)
    if hasattr(backbone, "settled"):
        settings = backbone.settled(found, settings)
    return Plan(checkpoint=found, suite=chosen, suite_version=plugin.version, settings=settings, preset=chosen_preset)


def preset(suite: str, plugin: Any, name: str | None) -> dict[str, Any]:
    """The settings that a suite's preset stands for; OptionError if it has none of that name."""
    known = getattr(plugin, "presets", {})
    if name is not None and name not in known:
        raise OptionError(f"suite {suite} has {', '.join(known) or 'no'} presets, not {name}; leave --preset out or choose one of these")
    return dict(known[name]) if name else {}


def label_policy(suite: str, plugin: Any, asked: str | None) -> str | None:
    """What the plan records of the labels; None for a suite that leaves no choice."""
    if hasattr(plugin, "policy"):
        recorded: str = plugin.policy(asked)
        return recorded
    if asked is not None:
        raise OptionError(f"suite {suite} leaves no choice of labels; leave --labels out")
    return None


def _check_sampler(found: Checkpoint, settings: Settings) -> None:
    missing = [field for field in ("sampler", "steps", "guidance") if getattr(settings, field) is None]
    if missing or found.sampler is None or settings.sampler is None or settings.steps is None:
        raise OptionError(f"checkpoint {found.name} does not say its {(missing or ['sampler'])[0]}; register it with one")
    trained = found.sampler
    sampler, own = registry.load("samplers", settings.sampler), registry.load("samplers", trained)
    sampler.check(settings.steps)
    if sampler.predicts != own.predicts:
        raise OptionError(
            f"the checkpoint predicts {own.predicts} (sampler {trained}), {settings.sampler} needs {sampler.predicts}; leave --sampler out"
        )


def generate(plan: Plan, indices: Sequence[int], out: Path, batch: int | None = None) -> Drawn:
    """Draws the missing ones of `indices` into the folder; a finished folder is left as it is.

    Args:
        batch: samples between two writes, rounded up to whole tiles; it never changes a pixel.

    Raises:
        PlanMismatch: the folder is another plan's. WeightsError: weights missing, altered or not fitting.
    """
    run, indices = Run(out), sorted(set(indices))
    check_hash(weights_path(plan.checkpoint), plan.checkpoint.sha256)
    missing(plan, indices, run)  # what the suite does not have is refused before anything is noted; a claimed folder is asked again
    run.claim(plan)
    requests = missing(plan, indices, run)
    run.ask(indices)
    if requests:
        _draw(run, plan, requests, batch or plan.settings.tile)
    if requests or not run.is_settled:  # a kill may fall between the last image and this
        run.settle()
    records = run.records()
    return Drawn(out, plan, len(indices), len(requests), sum(records[i].status == "failed" for i in indices))


def missing(plan: Plan, indices: Sequence[int], run: Run) -> dict[int, Request]:
    """What is still to be drawn of `indices`, by index.

    Raises:
        OptionError: the suite has no such sample. NotHere: its prompts are not fetched.
    """
    wanted = run.missing(sorted(set(indices)))
    return {r.index: r for r in registry.load("suites", plan.suite).requests(wanted, plan.settings)} if wanted else {}


def _draw(run: Run, plan: Plan, requests: Mapping[int, Request], batch: int) -> None:
    drawer = open_drawer(plan.checkpoint, plan.settings)
    waiting: list[Made] = []
    with tqdm(total=len(requests), desc=f"draw {plan.checkpoint.name}", unit="image", file=sys.stderr, disable=None) as bar:
        for tile in tiles([*requests], plan.settings.tile):
            waiting += _tile(drawer, [requests[i] for i in tile], plan.settings)
            if len(waiting) >= batch:
                _keep(run, waiting, bar)
                waiting = []
        _keep(run, waiting, bar)


def _keep(run: Run, made: Sequence[Made], bar: Any) -> None:
    for one in made:
        run.add(*one)
    bar.update(len(made))


def tiles(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Ascending indices grouped by the tile they belong to, i // size."""
    for _, group in groupby(sorted(indices), key=lambda i: i // size):
        yield list(group)


class Made(NamedTuple):
    """One request drawn: its image (H, W, 3) uint8, or why there is none."""

    request: Request
    image: Any
    reason: str | None


def _tile(drawer: Any, requests: Sequence[Request], settings: Settings) -> list[Made]:
    """Draws one tile. Index i sits in row i % tile; rows nobody asked for repeat a request and are dropped."""
    rows = [requests[0]] * settings.tile
    for request in requests:
        rows[request.index % settings.tile] = request
    drawn = drawer.draw(rows, settings)
    done = []
    for request in requests:
        row = request.index % settings.tile
        reason = drawn.faults.get(row)
        done.append(Made(request, None if reason else drawn.images[row], reason))
    return done


def draw_one(drawer: Any, plan: Plan, index: int) -> Any:
    """The image (H, W, 3) uint8 of one index, drawn now; None if its row is a fault."""
    (request,) = registry.load("suites", plan.suite).requests([index], plan.settings)
    (made,) = _tile(drawer, [request], plan.settings)
    return made.image
