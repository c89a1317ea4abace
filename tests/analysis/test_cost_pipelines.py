"""Cost of FLUX and SD3: counted as published and as registered, and one denoising step timed with
inputs of the pipeline's own shapes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner

from harope_bench.core import registry
from harope_bench.pipeline.generate import make_plan

tiny.needs_t2i()

from harope_bench.analysis.cost import latency, measure_cost, published_shapes  # noqa: E402
from harope_bench.analysis.cost.operation_count import count_operations  # noqa: E402
from harope_bench.cli import main  # noqa: E402
from harope_bench.models.backbones import lora  # noqa: E402
from harope_bench.models.backbones.encoded_transformer import SequenceSpec  # noqa: E402
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator  # noqa: E402
from harope_bench.models.register_checkpoint import register  # noqa: E402

KINDS = ("flux", "sd3")
TEXT = {"flux": 512, "sd3": 77 + 256}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny pipeline a kind."""
    return {
        kind: tiny.save_pipeline(tmp_path_factory.mktemp(kind) / "base", kind) for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["rope-axial", "harope"])
def test_a_full_size_network_is_counted_as_the_published_one(kind: str, encoding: str) -> None:
    """Our network with the encoding in it, operator by operator, against the library's own plus the
    encoding's arithmetic.

    The operator counter sees U diag(s) V^T built and its inverse's product, and matrix times token;
    nothing else is added.
    """
    backbone = registry.load_by_name("backbones", kind)
    with torch.device("meta"):
        transformer = published_shapes.PUBLISHED_TRANSFORMERS[kind].build()
        network = backbone.attach_encoding(transformer, encoding, {})
        network.sequence_spec = SequenceSpec(TEXT[kind], 16)
        probe = backbone.profiling_inputs(network, 512, 1)
    operations = count_operations(network, probe.inputs)
    layer = published_shapes.counted_layer(kind, encoding, {}, 512)
    expected = published_shapes.count_published(kind, layer, 512)
    assert (operations.parameters, operations.macs) == (expected.parameters, expected.macs)
    assert (probe.layer, probe.tokens) == (layer.attention, layer.tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_has_the_shapes_that_the_pipeline_gives(
    bases: dict[str, Path], kind: str
) -> None:
    register("plain", bases[kind], {})
    drawer, records = open_generator(load_checkpoint_record("plain"), tiny.settings()), []
    hook = drawer.network.transformer.register_forward_pre_hook(
        lambda _, __, keywords: records.append(keywords), with_kwargs=True
    )
    drawer.generate(tiny.PLUGIN.requests([0]), tiny.settings())
    hook.remove()
    branches = {"flux": 1, "sd3": 2}[kind]  # SD3 draws the prompt and no prompt at once
    probe = registry.load_by_name("backbones", kind).profiling_inputs(drawer.network, 64, branches)
    shapes = {
        key: tuple(value.shape)
        for key, value in records[0].items()
        if isinstance(value, torch.Tensor)
    }
    assert {key: tuple(value.shape) for key, value in probe.inputs.items()} == shapes
    assert probe.tokens == 16 + TEXT[kind]
    with torch.inference_mode():
        assert drawer.network(**probe.inputs)[0].isfinite().all()


def write_adapter(kind: str, base: Path, folder: Path) -> Path:
    """An adapter folder with LoRA and a learned encoding."""
    backbone = registry.load_by_name("backbones", kind)
    network = tiny.train_encoding(
        backbone.attach_encoding(
            backbone.load_pipeline(base, tiny.settings()).transformer, "harope", {}
        )
    )
    lora.add_lora(network, backbone.targets, rank=4)
    folded_path: Path = backbone.save_adapter(folder, network, str(base))
    return folded_path


@pytest.mark.parametrize("kind", KINDS)
def test_eval_with_cost_times_a_step(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """LoRA is in the weights before anything is timed and in no count; the sizes are the base's
    own.
    """
    tiny.register_prompts(monkeypatch)
    register(
        "mine",
        write_adapter(kind, bases[kind], tmp_path / "a"),
        {"config": {"base": str(bases[kind])}},
    )
    timed_items: list[bool] = []
    original_peak_bytes = latency.peak_bytes
    monkeypatch.setattr(
        latency,
        "peak_bytes",
        lambda run, network, device: (
            timed_items.append(lora.has_lora(network)) or original_peak_bytes(run, network, device)
        ),
    )
    words = (
        "eval",
        "mine",
        "--with",
        "cost",
        "--suite",
        "four-prompts",
        "--count",
        "10",
        "--out",
        str(tmp_path / "run"),
        "--json",
    )
    command_result = CliRunner().invoke(main, words)
    assert command_result.exit_code == 0, command_result.output
    result = json.loads(command_result.stdout)["results"][0]["result"]
    entries = {m["metric"]: m["value"] for m in result["measurements"]}
    assert timed_items == [False]
    assert result["judge"]["preprocessing"].endswith("LoRA merged")
    assert (
        0 < entries["latency_ms_p10"] <= entries["latency_ms_median"] <= entries["latency_ms_p90"]
    )
    network = registry.load_by_name("backbones", kind).build(
        "harope", {}, {"base": str(bases[kind])}
    )
    assert entries["params_model"] * 1e6 == pytest.approx(
        sum(p.numel() for p in network.parameters())
    )
    assert entries["peak_memory_mb"] > 4 * entries["params_model"]
    d, heads = (16, 2) if kind == "flux" else (8, 4)
    width, added_heads = d * heads, heads * (2 * d * d + d)
    assert entries["params_m"] * 1e6 == pytest.approx(
        {"flux": 3, "sd3": 4}[kind] * (width**2 + width) + added_heads
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bases_without_adapter_are_timed_too(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """SD3 with its own table and with rotation, FLUX as published; two images, at another side."""
    tiny.register_prompts(monkeypatch)
    for name, records in (("plain", {}), ("turned", {"encoding": "rope-axial"})):
        register(name, bases[kind], records)
        plan = make_plan(name, "four-prompts", {"resolution": 128})
        result = measure_cost.measure_cost(plan, tmp_path / name, 2, 2).result
        median = result.find_measurement("latency_ms_median")
        assert median is not None
        assert median.value is not None
        assert median.value > 0


def test_rows_without_weights_are_counted_as_published(tmp_path: Path) -> None:
    result = measure_cost.count_cost(
        measure_cost.plan_without_weights("flux", "rope-axial", {}, {}, 512, "none"), tmp_path
    ).result
    whole_measurement = result.find_measurement("params_model")
    assert whole_measurement is not None
    assert whole_measurement.value == pytest.approx(11_901.408320)
