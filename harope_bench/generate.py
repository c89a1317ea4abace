"""Plan to sample set: draws what is missing, tile by tile. Knows no model and no metric."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from harope_bench import registry
from harope_bench.catalogue import checkpoint, open_drawer
from harope_bench.device import require
from harope_bench.errors import OptionError
from harope_bench.records import Plan, Request, Settings
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
    chosen = suite or found.suite
    if chosen is None:
        raise OptionError(f"checkpoint {name} has no suite of its own; add --suite, one of: {', '.join(registry.names('suites'))}")
    plugin = registry.load("suites", chosen)
    backbone = registry.load("backbones", found.backbone)
    defaults = {
        "resolution": plugin.resolution,
        "sampler": found.sampler,
        "steps": found.steps,
        "guidance": found.guidance,
        "tile": backbone.tile,
    }
    settings = Settings(**{**defaults, **{k: v for k, v in overrides.items() if v is not None}})
    registry.load("samplers", settings.sampler).check(settings.steps)
    require(settings.device)
    backbone.check(found, settings)
    return Plan(checkpoint=found, suite=chosen, suite_version=plugin.version, settings=settings)


def generate(plan: Plan, indices: Sequence[int], out: Path, batch: int | None = None) -> Drawn:
    """Draws the missing ones of `indices` into the folder; a finished folder is left as it is.

    Args:
        batch: samples between two writes, rounded up to whole tiles; it never changes a pixel.

    Raises:
        PlanMismatch: the folder is another plan's. WeightsError: weights missing, altered or not fitting.
    """
    run = Run(out)
    check_hash(Path(plan.checkpoint.weights), plan.checkpoint.sha256)
    run.claim(plan)
    run.ask(indices)
    missing = run.missing(indices)
    if missing:
        _draw(run, plan, missing, batch or plan.settings.tile)
        run.settle()
    failed = sum(run.records()[i].status == "failed" for i in indices)
    return Drawn(out, plan, len(indices), len(missing), failed)


def _draw(run: Run, plan: Plan, missing: Sequence[int], batch: int) -> None:
    drawer = open_drawer(plan.checkpoint, plan.settings)
    requests = {r.index: r for r in registry.load("suites", plan.suite).requests(missing)}
    waiting: list[Made] = []
    with tqdm(total=len(missing), desc=f"draw {plan.checkpoint.name}", unit="image", file=sys.stderr, disable=None) as bar:
        for wanted in tiles(missing, plan.settings.tile):
            waiting += _tile(drawer, [requests[i] for i in wanted], plan.settings)
            if len(waiting) >= batch or wanted[-1] == missing[-1]:
                for made in waiting:
                    run.add(*made)
                bar.update(len(waiting))
                waiting = []


def tiles(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Ascending indices grouped by the tile they belong to, i // size."""
    for _, group in groupby(sorted(indices), key=lambda i: i // size):
        yield list(group)


class Made(NamedTuple):
    """One request drawn: its image (H, W, 3) uint8, or why there is none."""

    request: Request
    image: Any
    fault: str | None


def _tile(drawer: Any, requests: Sequence[Request], settings: Settings) -> list[Made]:
    """Draws one tile. Index i sits in row i % tile; rows nobody asked for repeat a request and are dropped."""
    rows = [requests[0]] * settings.tile
    for request in requests:
        rows[request.index % settings.tile] = request
    drawn = drawer.draw(rows, settings)
    done = []
    for request in requests:
        row = request.index % settings.tile
        fault = drawn.faults.get(row)
        done.append(Made(request, None if fault else drawn.images[row], fault))
    return done


def draw_one(drawer: Any, plan: Plan, index: int) -> Any:
    """The image (H, W, 3) uint8 of one index, drawn now; None if its row is a fault."""
    (request,) = registry.load("suites", plan.suite).requests([index])
    (made,) = _tile(drawer, [request], plan.settings)
    return made.image
