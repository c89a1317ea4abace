"""Plan to sample set: draws what is missing, tile by tile. Knows no model and no metric."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from pydantic import ValidationError
from tqdm import tqdm

from harope_bench.core.conditioning import (
    backbone_conditioning,
    check_checkpoint_suite,
    check_requests,
    compatible_suites,
)
from harope_bench.core.device import require_device
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MAX_INDICES, IndexRanges, group_by_padded_batch
from harope_bench.core.limits import check_maximum
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import Checkpoint, Plan, Request, Settings
from harope_bench.core.state_dicts import check_sha256
from harope_bench.data.run_folder import RunFolder
from harope_bench.models.backbones.base import ImageGenerator, load_backbone
from harope_bench.models.load_checkpoint import (
    SettingValue,
    check_settings,
    drop_neutral_settings,
    load_checkpoint_record,
    open_generator,
    weights_path,
)
from harope_bench.models.samplers.base import load_sampler, load_settings_sampler
from harope_bench.suites.base import Suite, load_suite


@dataclass(frozen=True)
class GenerationSummary:
    """What a call of `generate` did."""

    folder: Path
    plan: Plan
    n_requested: int
    n_generated: int
    n_failed: int


def make_plan(name: str, suite: str | None, overrides: Mapping[str, SettingValue]) -> Plan:
    """The plan of a checkpoint and a suite; None values in `overrides` take the checkpoint's
    defaults.

    Raises:
        UnknownName, OptionError: before anything is loaded or written.
    """
    found = load_checkpoint_record(name)
    chosen = suite or found.suite
    if chosen is None:
        raise OptionError(
            f"checkpoint {name} has no suite of its own; add --suite, one of: {suites_for(found)}"
        )
    plugin = load_suite(chosen)
    check_checkpoint_suite(found, chosen)
    if backbone_conditioning(found.backbone, found.config).kind == "images":
        raise OptionError(
            f"checkpoint {name} ({found.backbone}) is a classifier and cannot generate images;"
            f" harope-bench eval {name}"
        )
    backbone = load_backbone(found.backbone)
    chosen_preset = _optional_text(overrides.get("preset"))
    if overrides.get("pos_scaling") == "none" and "pos_scaling" not in found.drawing:
        overrides = {**overrides, "pos_scaling": None}  # to say so is to leave it out
    stated = {
        field: value
        for field, value in overrides.items()
        if value is not None and field != "preset"
    }
    said = drop_neutral_settings(
        found, {**preset_settings(chosen, plugin, chosen_preset), **stated}
    )
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
        settings = Settings(
            **{
                **defaults,
                **said,
                "labels": label_policy(chosen, plugin, _optional_text(said.get("labels"))),
            }
        )
    except ValidationError as error:
        raise OptionError(
            f"{validation_summary(error)}; give --{error.errors()[0]['loc'][0]} another value"
        ) from error
    settings = _check_sampler(found, settings)
    require_device(settings.device)
    backbone.check_inputs(found, settings)
    settings = backbone.resolve_settings(found, settings)
    return Plan(
        checkpoint=found,
        suite=chosen,
        suite_version=plugin.version,
        settings=settings,
        preset=chosen_preset,
    )


def _optional_text(value: SettingValue) -> str | None:
    return None if value is None else str(value)


def preset_settings(suite: str, plugin: Suite, name: str | None) -> dict[str, Option]:
    """The settings that a suite's preset stands for; OptionError if it has none of that name."""
    known = plugin.presets
    if name is not None and name not in known:
        raise OptionError(
            f"suite {suite} has {', '.join(known) or 'no'} presets, not {name}; leave --preset out"
            " or choose one of these"
        )
    return dict(known[name]) if name else {}


def label_policy(suite: str, plugin: Suite, asked: str | None) -> str | None:
    """What the plan records of the labels; None for a suite that leaves no choice."""
    recorded = plugin.label_policy(asked)
    if recorded is None and asked is not None:
        raise OptionError(f"suite {suite} leaves no choice of labels; leave --labels out")
    return recorded


def _check_sampler(found: Checkpoint, settings: Settings) -> Settings:
    """Return the settings, without a spacing that is the sampler's own; OptionError where the
    sampler does not fit.
    """
    read = load_backbone(found.backbone).supported_settings(found).fields
    said = {"sampler": settings.sampler, "steps": settings.steps, "guidance": settings.guidance}
    missing = [field for field, value in said.items() if field in read and value is None]
    if missing or found.sampler is None or settings.sampler is None or settings.steps is None:
        raise OptionError(
            f"checkpoint {found.name} does not say its {(missing or ['sampler'])[0]}; register it"
            " with one"
        )
    trained = found.sampler
    sampler = load_sampler(settings.sampler)
    own = load_sampler(trained)
    load_settings_sampler(settings).check_steps(settings.steps)
    if sampler.prediction_type != own.prediction_type:
        raise OptionError(
            f"the checkpoint predicts {own.prediction_type} (sampler {trained}), {settings.sampler}"
            f" needs {sampler.prediction_type}; leave --sampler out"
        )
    is_own = settings.spacing is not None and settings.spacing == sampler.spacings[0]
    return settings.model_copy(update={"spacing": None}) if is_own else settings


def suites_for(found: Checkpoint) -> str:
    """Return the suites that the checkpoint can serve, as one line."""
    return (
        ", ".join(compatible_suites(backbone_conditioning(found.backbone, found.config)))
        or "none is registered that it can serve"
    )


def requested_indices(suite: str, count: int | None) -> IndexRanges:
    """Return the first `count` indices of a suite, all of them if None."""
    return IndexRanges.from_count(count or load_suite(suite).count)


def generate(
    plan: Plan, indices: Sequence[int], out: Path, batch: int | None = None
) -> GenerationSummary:
    """Draws the missing ones of `indices` into the folder; a finished folder is left as it is.

    Args:
        batch: samples between two writes, rounded up to whole tiles; it never changes a pixel.

    Raises:
        PlanMismatch: the folder is another plan's. WeightsError: weights missing, altered or not
            fitting. OptionError: more than
            MOST samples.
    """
    check_maximum("a request of samples:", len(indices), MAX_INDICES)
    run = RunFolder(out)
    indices = IndexRanges.from_indices(indices)
    check_checkpoint_suite(plan.checkpoint, plan.suite)
    check_sha256(weights_path(plan.checkpoint), plan.checkpoint.sha256)
    absent = missing_requests(plan, indices, run)
    if run.plan is not None:
        run.tie_to_plan(plan)  # another plan's folder is rejected before a network is loaded
    drawer = open_generator(plan.checkpoint, plan.settings) if absent else None

    # Nothing is written above this line: what cannot be generated leaves no folder behind.
    run.tie_to_plan(plan)
    requests = missing_requests(plan, indices, run)
    run.record_request(indices)
    if requests:
        _generate_tiles(run, plan, requests, batch or plan.settings.tile, drawer)
    if requests or not run.is_final:  # a kill may fall between the last image and this
        run.finalize_records()
    records = run.read_records()
    return GenerationSummary(
        out, plan, len(indices), len(requests), sum(records[i].status == "failed" for i in indices)
    )


def missing_requests(plan: Plan, indices: Sequence[int], run: RunFolder) -> dict[int, Request]:
    """What is still to be drawn of `indices`, by index.

    Raises:
        OptionError: the suite has no such sample, or the network cannot serve it. NotHere: its
            prompts are not fetched.
    """
    absent = run.missing_indices(indices)
    return {r.index: r for r in _requests(plan, absent)} if absent else {}


def _requests(plan: Plan, indices: Sequence[int]) -> list[Request]:
    """Return the suite's requests of these indices; OptionError for one that the checkpoint's
    network cannot serve.
    """
    requests = load_suite(plan.suite).requests(indices, plan.settings)
    check_requests(plan.checkpoint, requests)
    return requests


def _generate_tiles(
    run: RunFolder,
    plan: Plan,
    requests: Mapping[int, Request],
    batch: int,
    drawer: ImageGenerator | None,
) -> None:
    drawer = drawer or open_generator(plan.checkpoint, plan.settings)
    waiting: list[GeneratedImage] = []
    with tqdm(
        total=len(requests),
        desc=f"draw {plan.checkpoint.name}",
        unit="image",
        file=sys.stderr,
        disable=None,
    ) as bar:
        for tile in group_by_padded_batch([*requests], plan.settings.tile):
            waiting += _tile(drawer, [requests[i] for i in tile], plan.settings)
            if len(waiting) >= batch:
                _store_images(run, waiting, bar)
                waiting = []
        _store_images(run, waiting, bar)


def _store_images(run: RunFolder, made: Sequence[GeneratedImage], bar: tqdm[NoReturn]) -> None:
    for one in made:
        run.add_sample(*one)
    bar.update(len(made))


class GeneratedImage(NamedTuple):
    """One request drawn: its image (H, W, 3) uint8, or why there is none."""

    request: Request
    image: np.ndarray | None
    reason: str | None


def _tile(
    drawer: ImageGenerator, requests: Sequence[Request], settings: Settings
) -> list[GeneratedImage]:
    """Draws one tile. Index i sits in row i % tile; rows nobody asked for repeat a request and are
    dropped.
    """
    rows = [requests[0]] * settings.tile
    for request in requests:
        rows[request.index % settings.tile] = request
    drawn = drawer.generate(rows, settings)
    done = []
    for request in requests:
        row = request.index % settings.tile
        reason = drawn.failures.get(row)
        done.append(GeneratedImage(request, None if reason else drawn.images[row], reason))
    return done


def generate_one(drawer: ImageGenerator, plan: Plan, index: int) -> np.ndarray | None:
    """The image (H, W, 3) uint8 of one index, drawn now; None if its row is a fault."""
    (request,) = _requests(plan, [index])
    (made,) = _tile(drawer, [request], plan.settings)
    return made.image
