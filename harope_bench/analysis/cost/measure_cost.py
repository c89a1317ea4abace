"""Measurement of a network's cost: operations are counted and forward passes are timed."""

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
from harope_bench.core.device import device_type
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
    is_unaltered,
    read_result_or_none,
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
    """Count a checkpoint's operations, time its forward passes, and write the result to `out`/cost.

    Operations are those of the network as trained, without LoRA. The timed network is the one that
    generates images: it may have folded matrices, and LoRA is merged into its weights. A result of
    the same plan, device and software is returned without measuring again.

    Args:
        count: number of timed forward passes; None for FORWARDS.
        batch: images in each forward pass; None for 1.

    Raises:
        SampleError: `rescore` is set and no forward passes are stored.
        WeightsError: The weights are missing, altered or do not fit.
    """
    batch_size = batch or 1
    forward_count = count or FORWARDS
    setup_text = describe_setup(plan.settings, batch_size, forward_count)
    if load_backbone(plan.checkpoint.backbone).has_lora:
        setup_text += ", LoRA merged"
    return _cached_or_measured(
        plan,
        out,
        setup_text,
        rescore,
        lambda: _measure_arrays(plan, forward_count, batch_size),
    )


def count_cost(plan: Plan, out: Path) -> EvaluatedResult:
    """Count the operations of a plan's network without weights, and write to `out`/cost."""
    return _cached_or_measured(
        plan, out, COUNTED_TEXT, rescore=False, make_arrays=lambda: _count_arrays(plan)
    )


def plan_without_weights(
    backbone: str,
    encoding: str,
    options: Mapping[str, Option],
    config: Mapping[str, Option],
    resolution: int,
    suite: str,
) -> Plan:
    """Return a plan of one forward pass of a network without weights.

    The sha256 of its checkpoint is that of backbone, encoding, options and config.
    """
    sizes = {
        "backbone": backbone,
        "encoding": encoding,
        "options": dict(options),
        "config": dict(config),
    }
    checkpoint = Checkpoint.model_validate(
        {
            **sizes,
            "name": f"counted-{backbone}-{resolution}-{encoding}",
            "weights": "none",
            "sha256": sha256_bytes(json.dumps(sizes, sort_keys=True).encode()),
            "source": (
                "built on the meta device from its sizes, without weights; sha256 is of these sizes"
            ),
            "sampler": "none",
            "steps": 1,
            "guidance": 1.0,
        }
    )
    return Plan(
        checkpoint=checkpoint,
        suite=suite,
        suite_version=0,
        settings=Settings(resolution=resolution, sampler="none", steps=1, guidance=1, tile=1),
    )


def describe_setup(settings: Settings, batch: int, count: int) -> str:
    """Return device, software and `count`, the number of forward passes, as text.

    Latencies with different texts are not comparable.
    """
    if device_type(settings.device) == "cuda":
        device = torch.cuda.get_device_name(settings.device)
    else:
        device = f"{platform.processor() or platform.machine()} {settings.device}"
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
    make_arrays: Callable[[], dict[str, np.ndarray]],
) -> EvaluatedResult:
    """Return the stored result of the same plan and setup, or make its arrays and evaluate them.

    Args:
        preprocessing: device, software and number of forward passes, which the result's judge
            record states in the field of this name.
        rescore: only stored arrays are used.
        make_arrays: returns the arrays of the evaluator `cost`.
    """
    start_time = utc_now()
    evaluator = load_feature_evaluator(EVALUATOR)
    path = result_path(out / FOLDER, EVALUATOR)
    forwards_path = out / FOLDER / FORWARDS_FOLDER / FORWARDS_FILE
    judge = JudgeRecord(
        name="profiler",
        version=1,
        judge_class="equivalent",
        weights_sha256=sha256_bytes(preprocessing.encode()),
        preprocessing=preprocessing,
    )

    # Return the stored result if it is up to date.
    stored_result = _stored_result(path, forwards_path)
    has_forwards = stored_result is not None and (
        (stored_result.plan_digest, stored_result.judge) == (plan.digest, judge)
    )
    is_up_to_date = has_forwards and not rescore
    if stored_result is not None and is_up_to_date and stored_result.version == evaluator.version:
        return EvaluatedResult(stored_result, path, is_new=False)
    if rescore and not has_forwards:
        raise SampleError(
            f"{forwards_path} holds no forwards of this plan on this device; run eval --with"
            f" {EVALUATOR} without --rescore once"
        )
    if not rescore and not has_forwards:
        write_arrays(forwards_path, arrays_with_format("forwards", make_arrays()))
        checksums.record_file_hashes(forwards_path.parent, [forwards_path.name])

    score = evaluator.evaluate(read_forwards(forwards_path, evaluator), {})
    result = build_result(
        path,
        ResultSubject(plan.checkpoint.name, NO_SAMPLES_SHA256, plan),
        ResultMethod(EVALUATOR, evaluator, judge, "none", sha256_bytes(b"")),
        score,
        make_provenance(start_time, plan.settings.device),
        scale=plan.checkpoint.scale,
        has_arrays=False,
    )
    return EvaluatedResult(write_result(path, result, arrays={}), path, is_new=True)


def _stored_result(path: Path, forwards_path: Path) -> Result | None:
    """Return the stored result, whatever its plan and device; None if a file was altered."""
    return read_result_or_none(path) if is_unaltered(path) and is_unaltered(forwards_path) else None


class ForwardCounts(NamedTuple):
    """Counts of a network that are known without running it.

    counts: of the whole network; None where it cannot be built.
    learned_parameters: parameters of the encoding in one layer.
    attention: sizes of the counted layer; None where they are unknown.
    tokens: of that layer's sequence.
    reason: why a count is missing.
    """

    counts: OperationCounts | None
    learned_parameters: LearnedParameters
    attention: AttentionSizes | None
    tokens: int
    reason: str = ""


def _count_arrays(plan: Plan) -> dict[str, np.ndarray]:
    """Return the evaluator's arrays with counts, and NaN for what must be measured."""
    nan = float("nan")
    return _arrays(_forward_counts(plan, 1), 1, [nan], nan, f"not run: {COUNTED_TEXT}")


def _forward_counts(plan: Plan, batch: int) -> ForwardCounts:
    """Return the counts of a plan's network: by its backbone, else by the published transformer.

    Where neither can be built, the counts are of one layer. A plan without weights has no base
    model, so its sizes are the published ones.
    """
    checkpoint = plan.checkpoint
    is_published = checkpoint.backbone in published_shapes.PUBLISHED_TRANSFORMERS
    has_sizes = not is_published or "base" in checkpoint.config
    if has_sizes and checkpoint.backbone in registry.list_names("backbones"):
        probed_network = _build_probed(plan, batch)
        if probed_network is not None:
            return ForwardCounts(
                count_operations(probed_network.network, probed_network.probe.inputs),
                count_learned(probed_network.network.encoding),
                probed_network.probe.layer,
                probed_network.probe.tokens,
            )
    if not is_published:
        reason = f"backbone {checkpoint.backbone} gives no forward to count"
        return ForwardCounts(
            counts=None,
            learned_parameters=LearnedParameters(),
            attention=None,
            tokens=0,
            reason=reason,
        )

    resolution = plan.settings.resolution
    layer = published_shapes.counted_layer(
        checkpoint.backbone, checkpoint.encoding, checkpoint.options, resolution
    )
    try:
        counts = published_shapes.count_published(checkpoint.backbone, layer, resolution)
    except MissingExtraError as error:
        return ForwardCounts(
            counts=None,
            learned_parameters=layer.learned_parameters,
            attention=layer.attention,
            tokens=layer.tokens,
            reason=str(error),
        )
    return ForwardCounts(counts, layer.learned_parameters, layer.attention, layer.tokens)


class ProbedNetwork(NamedTuple):
    """A network on the meta device and the inputs of one forward pass."""

    network: EncodedNetwork
    probe: ProfilingInputs


def _build_probed(plan: Plan, batch: int) -> ProbedNetwork | None:
    """Return a plan's network on the meta device; None where its backbone gives no inputs."""
    checkpoint = plan.checkpoint
    backbone = load_backbone(checkpoint.backbone)
    with torch.device("meta"):
        network = backbone.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        probe = backbone.profiling_inputs(network, plan.settings.resolution, batch)
    return None if probe is None else ProbedNetwork(network, probe)


def _measure_arrays(plan: Plan, count: int, batch: int) -> dict[str, np.ndarray]:
    """Return the evaluator's arrays: counts on the meta device, then measured time and memory."""
    counts = _forward_counts(plan, batch)
    device = torch.device(plan.settings.device)
    network = open_checkpoint(plan.checkpoint, plan.settings).network
    backbone = load_backbone(plan.checkpoint.backbone)
    probe = None
    if network is not None:
        backbone.merge_lora(network)
        probe = backbone.profiling_inputs(network, plan.settings.resolution, batch)
    if network is None or probe is None:
        raise BenchError(
            f"backbone {plan.checkpoint.backbone} gives no network to time; evaluate another"
            " checkpoint"
        )
    inputs = probe.inputs

    def forward() -> None:
        with torch.inference_mode():
            network(**inputs)

    seconds = latency.time_forwards(forward, count, device)
    peak_bytes = latency.peak_bytes(forward, network, device)
    return _arrays(counts, batch, seconds, peak_bytes, reason_not_run="")


def _arrays(
    counts: ForwardCounts,
    batch: int,
    seconds: list[float],
    peak_bytes: float,
    reason_not_run: str,
) -> dict[str, np.ndarray]:
    """Return the evaluator's arrays, one row for each forward pass."""
    nan = float("nan")
    layer = counts.attention
    layer_sizes: tuple[float, ...] = (nan,) * 4
    if layer:
        layer_sizes = (layer.hidden, layer.heads, layer.projections, counts.tokens)
    learned_parameters = counts.learned_parameters
    values = (
        *layer_sizes,
        learned_parameters.parameters,
        learned_parameters.matrices,
        learned_parameters.width,
        learned_parameters.factors,
        batch,
        *(counts.counts or (nan, nan, nan)),
        0.0,
        peak_bytes,
    )
    names = load_feature_evaluator(EVALUATOR).arrays
    rows = {
        name: np.full(len(seconds), value, dtype=np.float64)
        for name, value in zip(names, values, strict=True)
    }
    reasons = {
        "reason_model": np.array([counts.reason] * len(seconds)),
        "reason_run": np.array([reason_not_run] * len(seconds)),
    }
    return {**rows, "seconds": np.array(seconds), **reasons}
