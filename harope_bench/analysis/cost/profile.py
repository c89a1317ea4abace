"""A network to its cost: what a forward takes is observed here, the evaluator `cost` makes numbers of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harope_bench.analysis.cost import latency, published_shapes
from harope_bench.analysis.cost.forwards import FILE, read_forwards
from harope_bench.analysis.cost.operation_count import Counts, counts, learned
from harope_bench.core import checksums, registry
from harope_bench.core.array_archive import write_arrays
from harope_bench.core.array_file import arrays_with_format
from harope_bench.core.errors import BenchError, MissingExtra, SampleError
from harope_bench.core.provenance import now, provenance
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, JudgeRecord, Plan, Result, Settings
from harope_bench.core.storage import sha256_bytes
from harope_bench.data.result_paths import result_path
from harope_bench.data.result_store import (
    NO_SAMPLES,
    Method,
    Scored,
    Subject,
    build_result,
    find_result,
    is_as_written,
    write_result,
)
from harope_bench.data.run_folder import OBSERVATIONS
from harope_bench.evaluators.base import load_feature_evaluator
from harope_bench.metrics.attention_cost import Attention, Learned
from harope_bench.models.backbones.base import Probe, load_backbone
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.load_checkpoint import open_checkpoint

EVALUATOR, FOLDER, FORWARDS = "cost", "cost", 30
COUNTED = "counted on the meta device in one forward of one image; nothing was run"


def weigh(plan: Plan, out: Path, count: int | None = None, batch: int | None = None, rescore: bool = False) -> Scored:
    """Counts a checkpoint's network and times `count` forwards of `batch` images on the plan's device; goes to `out`/cost.

    The counts are those of the network as trained, without LoRA; what runs is what draws, which may have its matrices folded and has
    LoRA merged into its weights. What stands for the same plan, device and software is kept.

    Raises:
        SampleError: `rescore` is set and nothing was observed. WeightsError: weights missing, altered or not fitting.
    """
    size, forwards = batch or 1, count or FORWARDS
    merged = ", LoRA merged" if load_backbone(plan.checkpoint.backbone).has_lora else ""
    return _kept_or_made(plan, out, instrument(plan.settings, size, forwards) + merged, rescore, lambda: _run(plan, forwards, size))


def count(plan: Plan, out: Path) -> Scored:
    """Counts a plan's network without weights; goes to `out`/cost."""
    return _kept_or_made(plan, out, COUNTED, False, lambda: _count(plan))


def weightless(
    backbone: str, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option], resolution: int, suite: str
) -> Plan:
    """The plan of one forward of a network that has no weights; its sha256 is that of these facts."""
    facts = {"backbone": backbone, "encoding": encoding, "options": dict(options), "config": dict(config)}
    found = Checkpoint.model_validate(
        {
            **facts,
            "name": f"counted-{backbone}-{resolution}-{encoding}",
            "weights": "none",
            "sha256": sha256_bytes(json.dumps(facts, sort_keys=True).encode()),
            "source": "built on the meta device from its sizes, without weights; sha256 is of these sizes",
            "sampler": "none",
            "steps": 1,
            "guidance": 1.0,
        }
    )
    return Plan(
        checkpoint=found,
        suite=suite,
        suite_version=0,
        settings=Settings(resolution=resolution, sampler="none", steps=1, guidance=1, tile=1),
    )


def instrument(settings: Settings, batch: int, count: int) -> str:
    """What measured: device, software and how often; latencies of two instruments are not compared."""
    device = (
        torch.cuda.get_device_name() if settings.device == "cuda" else f"{platform.processor() or platform.machine()} {settings.device}"
    )
    if settings.device == "cpu":
        device += f" ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"
    return f"{device}, torch {torch.__version__}, {settings.dtype}, {count} forwards of {batch} images after {latency.WARM} to warm up"


def _kept_or_made(plan: Plan, out: Path, preprocessing: str, rescore: bool, observe: Callable[[], dict[str, np.ndarray]]) -> Scored:
    started, evaluator = now(), load_feature_evaluator(EVALUATOR)
    path = result_path(out / FOLDER, EVALUATOR)
    seen_at = out / FOLDER / OBSERVATIONS / FILE
    judge = JudgeRecord(
        name="meter", version=1, judge_class="equivalent", weights_sha256=sha256_bytes(preprocessing.encode()), preprocessing=preprocessing
    )
    subject, method = Subject(plan.checkpoint.name, NO_SAMPLES, plan), Method(EVALUATOR, evaluator, judge, "none", sha256_bytes(b""))
    stored = _stored(path, seen_at)
    same = stored is not None and (stored.plan_digest, stored.judge) == (plan.digest, judge)
    if stored is not None and same and stored.version == evaluator.version and not rescore:
        return Scored(stored, path, False)
    if rescore and not same:
        raise SampleError(f"{seen_at} holds no forwards of this plan on this device; run eval --with {EVALUATOR} without --rescore once")
    if not rescore and not same:
        write_arrays(seen_at, arrays_with_format("forwards", observe()))
        checksums.record_files(seen_at.parent, [seen_at.name])
    score = evaluator.score(read_forwards(seen_at, evaluator), {})
    made_by = provenance(started, plan.settings.device)
    result = build_result(path, subject, method, score, made_by, scale=plan.checkpoint.scale, has_arrays=False)
    return Scored(write_result(path, result, {}), path, True)


def _stored(path: Path, seen: Path) -> Result | None:
    """Return the result of forwards that are as they were written, whatever plan and device it is of."""
    return find_result(path) if all(is_as_written(file) for file in (path, seen)) else None


class Seen(NamedTuple):
    """What is known of a forward before it is run: the whole network if it could be built, its layer, and why something lacks."""

    counts: Counts | None
    learned: Learned
    layer: Attention | None
    tokens: int
    why: str = ""


def _count(plan: Plan) -> dict[str, np.ndarray]:
    return _arrays(_seen(plan, 1), 1, [float("nan")], float("nan"), f"not run: {COUNTED}")


def _seen(plan: Plan, batch: int) -> Seen:
    """The counts of a plan's network: by its backbone, else by the published class, else of the counted layer alone.

    A plan without weights names no base, so its sizes are those that are published.
    """
    found = plan.checkpoint
    is_sized = found.backbone not in published_shapes.PUBLISHED or "base" in found.config
    built = _built(plan, batch) if is_sized and found.backbone in registry.names("backbones") else None
    if built is not None:
        network, probe = built
        return Seen(counts(network, probe.inputs), learned(network.encoding), probe.layer, probe.tokens)
    if found.backbone not in published_shapes.PUBLISHED:
        return Seen(None, Learned(), None, 0, f"backbone {found.backbone} gives no forward to count")
    one = published_shapes.layer(found.backbone, found.encoding, found.options, plan.settings.resolution)
    try:
        whole = published_shapes.count(found.backbone, one, plan.settings.resolution)
    except MissingExtra as error:
        return Seen(None, one.learned, one.layer, one.tokens, str(error))
    return Seen(whole, one.learned, one.layer, one.tokens)


class Built(NamedTuple):
    """A network on the meta device and one forward of it."""

    network: EncodedNetwork
    probe: Probe


def _built(plan: Plan, batch: int) -> Built | None:
    """Return a plan's network with the forward that is counted; None where its backbone gives none."""
    found, backbone = plan.checkpoint, load_backbone(plan.checkpoint.backbone)
    with torch.device("meta"):
        network = backbone.build(found.encoding, found.options, found.config)
        probe = backbone.probe(network, plan.settings.resolution, batch)
    return None if probe is None else Built(network, probe)


def _run(plan: Plan, count: int, batch: int) -> dict[str, np.ndarray]:
    """Counts on the meta device, then the opened network's times and memory."""
    seen, device = _seen(plan, batch), torch.device(plan.settings.device)
    network = open_checkpoint(plan.checkpoint, plan.settings).network
    backbone = load_backbone(plan.checkpoint.backbone)
    if network is not None:
        backbone.merge(network)
    probe = None if network is None else backbone.probe(network, plan.settings.resolution, batch)
    if network is None or probe is None:
        raise BenchError(f"backbone {plan.checkpoint.backbone} gives no network to time; evaluate another checkpoint")
    inputs = probe.inputs

    def forward() -> None:
        with torch.inference_mode():
            network(**inputs)

    return _arrays(seen, batch, latency.seconds(forward, count, device), latency.peak_bytes(forward, network, device), "")


def _arrays(seen: Seen, batch: int, seconds: list[float], peak: float, why_run: str) -> dict[str, np.ndarray]:
    """The evaluator's arrays, a row a forward."""
    nan, layer, own = float("nan"), seen.layer, seen.learned
    whole = seen.counts or (nan, nan, nan)
    sizes = (layer.hidden, layer.heads, layer.projections, seen.tokens) if layer else (nan,) * 4
    values = (*sizes, own.parameters, own.matrices, own.width, own.factors, batch, *whole, 0.0, peak)
    names = load_feature_evaluator(EVALUATOR).arrays
    rows = {name: np.full(len(seconds), value, dtype=np.float64) for name, value in zip(names, values, strict=True)}
    whys = {"why_model": np.array([seen.why] * len(seconds)), "why_run": np.array([why_run] * len(seconds))}
    return {**rows, "seconds": np.array(seconds), **whys}
