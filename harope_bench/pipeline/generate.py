"""Plan to sample set: draws what is missing, tile by tile. Knows no model and no metric."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from tqdm import tqdm

from harope_bench.core import registry
from harope_bench.core.conditioning import check_requests, check_suite, fitting_suites, taken_by
from harope_bench.core.device import require
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import IndexRanges, tiles
from harope_bench.core.schema import Checkpoint, Plan, Request, Settings, fault
from harope_bench.core.storage import check_hash
from harope_bench.data.run_folder import Run
from harope_bench.models.load_checkpoint import check_settings, checkpoint, open_drawer, weights_path, without_neutral


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
        raise OptionError(f"checkpoint {name} has no suite of its own; add --suite, one of: {suites_for(found)}")
    plugin = registry.load("suites", chosen)
    check_suite(found, chosen)
    if taken_by(found.backbone, found.config).kind == "pictures":
        raise OptionError(f"checkpoint {name} ({found.backbone}) is a classifier and cannot generate images; harope-bench eval {name}")
    backbone = registry.load("backbones", found.backbone)
    chosen_preset = overrides.get("preset")
    if overrides.get("pos_scaling") == "none" and "pos_scaling" not in found.drawing:
        overrides = {**overrides, "pos_scaling": None}  # to say so is to leave it out
    said = {**preset(chosen, plugin, chosen_preset), **{k: v for k, v in overrides.items() if v is not None and k != "preset"}}
    said = without_neutral(found, said)
    defaults = {
        "resolution": plugin.resolution,
        "sampler": found.sampler,
        "steps": found.steps,
        "guidance": found.guidance,
        "tile": backbone.tile,
        **found.drawing,
    }
    check_settings(found, {**defaults, **said})
    try:
        settings = Settings(**{**defaults, **said, "labels": label_policy(chosen, plugin, said.get("labels"))})
    except ValidationError as error:
        raise OptionError(f"{fault(error)}; give --{error.errors()[0]['loc'][0]} another value") from error
    settings = _check_sampler(found, settings)
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


def _check_sampler(found: Checkpoint, settings: Settings) -> Settings:
    """Return the settings, without a spacing that is the sampler's own; OptionError where the sampler does not fit."""
    from harope_bench.models.samplers.base import chosen_sampler

    read = registry.load("backbones", found.backbone).settings_read(found).fields
    missing = [field for field in ("sampler", "steps", "guidance") if field in read and getattr(settings, field) is None]
    if missing or found.sampler is None or settings.sampler is None or settings.steps is None:
        raise OptionError(f"checkpoint {found.name} does not say its {(missing or ['sampler'])[0]}; register it with one")
    trained = found.sampler
    sampler, own = registry.load("samplers", settings.sampler), registry.load("samplers", trained)
    chosen_sampler(settings).check(settings.steps)
    if sampler.predicts != own.predicts:
        raise OptionError(
            f"the checkpoint predicts {own.predicts} (sampler {trained}), {settings.sampler} needs {sampler.predicts}; leave --sampler out"
        )
    is_own = settings.spacing is not None and settings.spacing == sampler.spacings[0]
    return settings.model_copy(update={"spacing": None}) if is_own else settings


def suites_for(found: Checkpoint) -> str:
    """Return the suites that the checkpoint can serve, as one line."""
    return ", ".join(fitting_suites(taken_by(found.backbone, found.config))) or "none is registered that it can serve"


def generate(plan: Plan, indices: Sequence[int], out: Path, batch: int | None = None) -> Drawn:
    """Draws the missing ones of `indices` into the folder; a finished folder is left as it is.

    Args:
        batch: samples between two writes, rounded up to whole tiles; it never changes a pixel.

    Raises:
        PlanMismatch: the folder is another plan's. WeightsError: weights missing, altered or not fitting.
    """
    run, indices = Run(out), IndexRanges.of(indices)
    check_suite(plan.checkpoint, plan.suite)
    check_hash(weights_path(plan.checkpoint), plan.checkpoint.sha256)
    absent = missing(plan, indices, run)
    if run.plan is not None:
        run.claim(plan)  # another plan's folder is rejected before a network is loaded
    drawer = open_drawer(plan.checkpoint, plan.settings) if absent else None

    # Nothing is written above this line: what cannot be generated leaves no folder behind.
    run.claim(plan)
    requests = missing(plan, indices, run)
    run.ask(indices)
    if requests:
        _draw(run, plan, requests, batch or plan.settings.tile, drawer)
    if requests or not run.is_settled:  # a kill may fall between the last image and this
        run.settle()
    records = run.records()
    return Drawn(out, plan, len(indices), len(requests), sum(records[i].status == "failed" for i in indices))


def missing(plan: Plan, indices: Sequence[int], run: Run) -> dict[int, Request]:
    """What is still to be drawn of `indices`, by index.

    Raises:
        OptionError: the suite has no such sample, or the network cannot serve it. NotHere: its prompts are not fetched.
    """
    absent = run.missing(indices)
    return {r.index: r for r in _requests(plan, absent)} if absent else {}


def _requests(plan: Plan, indices: Sequence[int]) -> list[Request]:
    """Return the suite's requests of these indices; OptionError for one that the checkpoint's network cannot serve."""
    requests: list[Request] = registry.load("suites", plan.suite).requests(indices, plan.settings)
    check_requests(plan.checkpoint, requests)
    return requests


def _draw(run: Run, plan: Plan, requests: Mapping[int, Request], batch: int, drawer: Any = None) -> None:
    drawer = drawer or open_drawer(plan.checkpoint, plan.settings)
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
    (request,) = _requests(plan, [index])
    (made,) = _tile(drawer, [request], plan.settings)
    return made.image
