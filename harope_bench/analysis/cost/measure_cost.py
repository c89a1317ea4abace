"""A network to its cost: what a forward takes is observed here, the evaluator `cost` makes numbers
of it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harope_bench.analysis.cost import latency, published_shapes
from harope_bench.analysis.cost.forwards import FORWARDS_FILE, read_forwards
from harope_bench.analysis.cost.operation_count import (
    OperationCounts,
    count_learned,
    count_operations,
)
from harope_bench.core import checksums, registry
from harope_bench.core.array_archive import write_arrays
from harope_bench.core.array_file import arrays_with_format
from harope_bench.core.errors import BenchError, MissingExtraError, SampleError
from harope_bench.core.provenance import make_provenance, utc_now
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, JudgeRecord, Plan, Result, Settings
from harope_bench.core.storage import sha256_bytes
from harope_bench.data.result_paths import result_path
from harope_bench.data.result_store import (
    NO_SAMPLES_SHA256,
    EvaluatedResult,
    ResultMethod,
    ResultSubject,
    build_result,
    find_result,
    is_unaltered,
    write_result,
)
from harope_bench.data.run_folder import FORWARDS_FOLDER
from harope_bench.evaluators.base import load_feature_evaluator
from harope_bench.metrics.attention_cost import AttentionSizes, LearnedParameters
from harope_bench.models.backbones.base import ProfilingInputs, load_backbone
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.load_checkpoint import open_checkpoint

EVALUATOR = "cost"
FOLDER = "cost"
FORWARDS = 30
COUNTED_TEXT = "counted on the meta device in one forward of one image; nothing was run"


def measure_cost(
    plan: Plan, out: Path, count: int | None = None, batch: int | None = None, rescore: bool = False
) -> EvaluatedResult:
    """Counts a checkpoint's network and times `count` forwards of `batch` images on the plan's
    device; goes to `out`/cost.

    The counts are those of the network as trained, without LoRA; what runs is what draws, which may
    have its matrices folded and has
    LoRA merged into its weights. What stands for the same plan, device and software is kept.

    Raises:
        SampleError: `rescore` is set and nothing was observed. WeightsError: weights missing,
            altered or not fitting.
    """
    size = batch or 1
    forwards = count or FORWARDS
    merged = ", LoRA merged" if load_backbone(plan.checkpoint.backbone).has_lora else ""
    return _cached_or_measured(
        plan,
        out,
        describe_setup(plan.settings, size, forwards) + merged,
        rescore,
        lambda: _measure_arrays(plan, forwards, size),
    )


def count_cost(plan: Plan, out: Path) -> EvaluatedResult:
    """Counts a plan's network without weights; goes to `out`/cost."""
    return _cached_or_measured(plan, out, COUNTED_TEXT, False, lambda: _count_arrays(plan))


def plan_without_weights(
    backbone: str,
    encoding: str,
    options: Mapping[str, Option],
    config: Mapping[str, Option],
    resolution: int,
    suite: str,
) -> Plan:
    """The plan of one forward of a network that has no weights; its sha256 is that of these
    facts.
    """
    facts = {
        "backbone": backbone,
        "encoding": encoding,
        "options": dict(options),
        "config": dict(config),
    }
    found = Checkpoint.model_validate(
        {
            **facts,
            "name": f"counted-{backbone}-{resolution}-{encoding}",
            "weights": "none",
            "sha256": sha256_bytes(json.dumps(facts, sort_keys=True).encode()),
            "source": (
                "built on the meta device from its sizes, without weights; sha256 is of these sizes"
            ),
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


def describe_setup(settings: Settings, batch: int, count: int) -> str:
    """What measured: device, software and how often; latencies of two instruments are not
    compared.
    """
    device = (
        torch.cuda.get_device_name()
        if settings.device == "cuda"
        else f"{platform.processor() or platform.machine()} {settings.device}"
    )
    if settings.device == "cpu":
        device += f" ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"
    return (
        f"{device}, torch {torch.__version__}, {settings.dtype}, {count} forwards of {batch} images"
        f" after {latency.WARM_UP_FORWARDS} to warm up"
    )


def _cached_or_measured(
    plan: Plan,
    out: Path,
    preprocessing: str,
    rescore: bool,
    observe: Callable[[], dict[str, np.ndarray]],
) -> EvaluatedResult:
    started = utc_now()
    evaluator = load_feature_evaluator(EVALUATOR)
    path = result_path(out / FOLDER, EVALUATOR)
    seen_at = out / FOLDER / FORWARDS_FOLDER / FORWARDS_FILE
    judge = JudgeRecord(
        name="meter",
        version=1,
        judge_class="equivalent",
        weights_sha256=sha256_bytes(preprocessing.encode()),
        preprocessing=preprocessing,
    )
    subject = ResultSubject(plan.checkpoint.name, NO_SAMPLES_SHA256, plan)
    method = ResultMethod(EVALUATOR, evaluator, judge, "none", sha256_bytes(b""))
    stored = _stored_result(path, seen_at)
    same = stored is not None and (stored.plan_digest, stored.judge) == (plan.digest, judge)
    if stored is not None and same and stored.version == evaluator.version and not rescore:
        return EvaluatedResult(stored, path, False)
    if rescore and not same:
        raise SampleError(
            f"{seen_at} holds no forwards of this plan on this device; run eval --with {EVALUATOR}"
            " without --rescore once"
        )
    if not rescore and not same:
        write_arrays(seen_at, arrays_with_format("forwards", observe()))
        checksums.record_file_hashes(seen_at.parent, [seen_at.name])
    score = evaluator.evaluate(read_forwards(seen_at, evaluator), {})
    made_by = make_provenance(started, plan.settings.device)
    result = build_result(
        path, subject, method, score, made_by, scale=plan.checkpoint.scale, has_arrays=False
    )
    return EvaluatedResult(write_result(path, result, {}), path, True)


def _stored_result(path: Path, seen: Path) -> Result | None:
    """Return the result of forwards that are as they were written, whatever plan and device it is
    of.
    """
    return find_result(path) if all(is_unaltered(file) for file in (path, seen)) else None


class ForwardCounts(NamedTuple):
    """What is known of a forward before it is run: the whole network if it could be built, its
    layer, and why something lacks.
    """

    counts: OperationCounts | None
    learned: LearnedParameters
    attention: AttentionSizes | None
    tokens: int
    reason: str = ""


def _count_arrays(plan: Plan) -> dict[str, np.ndarray]:
    return _arrays(
        _forward_counts(plan, 1), 1, [float("nan")], float("nan"), f"not run: {COUNTED_TEXT}"
    )


def _forward_counts(plan: Plan, batch: int) -> ForwardCounts:
    """The counts of a plan's network: by its backbone, else by the published class, else of the
    counted layer alone.

    A plan without weights names no base, so its sizes are those that are published.
    """
    found = plan.checkpoint
    is_sized = found.backbone not in published_shapes.PUBLISHED or "base" in found.config
    built = (
        _build_probed(plan, batch)
        if is_sized and found.backbone in registry.list_names("backbones")
        else None
    )
    if built is not None:
        network, probe = built
        return ForwardCounts(
            count_operations(network, probe.inputs),
            count_learned(network.encoding),
            probe.layer,
            probe.tokens,
        )
    if found.backbone not in published_shapes.PUBLISHED:
        return ForwardCounts(
            None,
            LearnedParameters(),
            None,
            0,
            f"backbone {found.backbone} gives no forward to count",
        )
    one = published_shapes.counted_layer(
        found.backbone, found.encoding, found.options, plan.settings.resolution
    )
    try:
        whole = published_shapes.count_published(found.backbone, one, plan.settings.resolution)
    except MissingExtraError as error:
        return ForwardCounts(None, one.learned, one.attention, one.tokens, str(error))
    return ForwardCounts(whole, one.learned, one.attention, one.tokens)


class ProbedNetwork(NamedTuple):
    """A network on the meta device and one forward of it."""

    network: EncodedNetwork
    probe: ProfilingInputs


def _build_probed(plan: Plan, batch: int) -> ProbedNetwork | None:
    """Return a plan's network with the forward that is counted; None where its backbone gives
    none.
    """
    found = plan.checkpoint
    backbone = load_backbone(plan.checkpoint.backbone)
    with torch.device("meta"):
        network = backbone.build(found.encoding, found.options, found.config)
        probe = backbone.profiling_inputs(network, plan.settings.resolution, batch)
    return None if probe is None else ProbedNetwork(network, probe)


def _measure_arrays(plan: Plan, count: int, batch: int) -> dict[str, np.ndarray]:
    """Counts on the meta device, then the opened network's times and memory."""
    seen = _forward_counts(plan, batch)
    device = torch.device(plan.settings.device)
    network = open_checkpoint(plan.checkpoint, plan.settings).network
    backbone = load_backbone(plan.checkpoint.backbone)
    if network is not None:
        backbone.merge_lora(network)
    probe = (
        None
        if network is None
        else backbone.profiling_inputs(network, plan.settings.resolution, batch)
    )
    if network is None or probe is None:
        raise BenchError(
            f"backbone {plan.checkpoint.backbone} gives no network to time; evaluate another"
            " checkpoint"
        )
    inputs = probe.inputs

    def forward() -> None:
        with torch.inference_mode():
            network(**inputs)

    return _arrays(
        seen,
        batch,
        latency.time_forwards(forward, count, device),
        latency.peak_bytes(forward, network, device),
        "",
    )


def _arrays(
    seen: ForwardCounts, batch: int, seconds: list[float], peak: float, why_run: str
) -> dict[str, np.ndarray]:
    """The evaluator's arrays, a row a forward."""
    nan = float("nan")
    layer = seen.attention
    own = seen.learned
    whole = seen.counts or (nan, nan, nan)
    sizes = (layer.hidden, layer.heads, layer.projections, seen.tokens) if layer else (nan,) * 4
    values = (
        *sizes,
        own.parameters,
        own.matrices,
        own.width,
        own.factors,
        batch,
        *whole,
        0.0,
        peak,
    )
    names = load_feature_evaluator(EVALUATOR).arrays
    rows = {
        name: np.full(len(seconds), value, dtype=np.float64)
        for name, value in zip(names, values, strict=True)
    }
    whys = {
        "why_model": np.array([seen.reason] * len(seconds)),
        "why_run": np.array([why_run] * len(seconds)),
    }
    return {**rows, "seconds": np.array(seconds), **whys}
