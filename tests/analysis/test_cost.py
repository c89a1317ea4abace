"""Cost: Table 9 cell by cell, counts against torch's counter and slow formulas, real times and
memory, the verbs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from harope_bench import testing
from harope_bench.analysis.cost import latency, measure_cost
from harope_bench.analysis.cost.operation_count import count_learned, count_operations
from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import BenchError, SampleError
from harope_bench.core.schema import Result
from harope_bench.data.result_store import read_results
from harope_bench.encodings import base as encodings
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.cost import ARRAYS, LAYER_ARRAYS
from harope_bench.leaderboards import board
from harope_bench.leaderboards.table_spec import half_unit, leading_number, load_table
from harope_bench.metrics.attention_cost import (
    PAPER_LAYERS,
    AttentionSizes,
    LearnedParameters,
    flux_tokens,
)
from harope_bench.pipeline.generate import make_plan

B2 = {
    "hidden": 768,
    "depth": 12,
    "heads": 12,
    "patch": 2,
    "size": 32,
    "channels": 4,
    "classes": 1000,
    "learn_sigma": True,
    "latent": True,
}
EVALUATOR = registry.load_by_name("evaluators", "cost")


def run(*words: object, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == exit_code, f"{words}\n{result.output}\n{result.exception!r}"
    return result


def values(result: Result) -> dict[str, float | None]:
    return {m.metric: m.value for m in result.measurements}


def forward_features(rows: int = 20, **changes: Any) -> Features:
    """Forwards of DiT-B/2 with HARoPE at 256, with made-up times."""
    fields = dict(zip(LAYER_ARRAYS, (768, 12, 4, 256, 99_072, 12, 64, 2), strict=True))
    fields |= {
        "batch": 2,
        "parameters": 131_504_672,
        "frozen_parameters": 0,
        "macs": 2 * 23_379_443_712,
        "peak_bytes": 6e8,
        "seconds": 0.0,
        **changes,
    }
    arrays = {name: np.full(rows, fields[name], dtype=np.float64) for name in ARRAYS}
    arrays["seconds"] = np.linspace(0.1, 0.2, rows) if rows else arrays["seconds"]
    return Features(
        np.arange(rows),
        None,
        {
            **arrays,
            "reason_model": np.array(["no model"] * rows),
            "reason_run": np.array(["not run"] * rows),
        },
    )


# ---------------------------------------------------------------------------
# table 9


@pytest.fixture(scope="module")
def table9_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table9")
    run("reproduce", "table9", "--scale", "paper", "--out", out)
    return out


def test_15_of_the_16_distinct_numbers_of_table_9_come_out(table9_folder: Path) -> None:
    cells = json.loads((table9_folder / "table9.json").read_text())["rows"]
    printed_records = {}
    for row in cells:
        for key in ("params_m", "flops_g"):
            if row["encoding"] != "rope-svd-control":
                printed_records[row["id"], key] = row["cells"][key]
    assert len(printed_records) == 16
    differing = {
        name
        for name, cell in printed_records.items()
        if not cell["verdict"].startswith("as printed")
    }
    assert differing == {("f1024-harope", "flops_g")}
    assert printed_records["f1024-harope", "flops_g"]["measured"] == pytest.approx(134.184173568)


def test_the_control_repeats_haropes_cost_cells(table9_folder: Path) -> None:
    rows = {
        row["id"]: row["cells"]
        for row in json.loads((table9_folder / "table9.json").read_text())["rows"]
    }
    for package_text, library_text in (
        ("dit-ropesvd", "dit-harope"),
        *((f"f{r}-ropesvd", f"f{r}-harope") for r in (512, 1024, 2048)),
    ):
        for key in ("params_m", "flops_g"):
            assert rows[package_text][key]["measured"] == rows[library_text][key]["measured"]


def test_reproduce_prints_both_numbers_and_says_what_was_not_run(table9_folder: Path) -> None:
    for kind in ("md", "csv", "tex", "html", "json"):
        assert (table9_folder / f"table9.{kind}").stat().st_size > 1000
    text = (table9_folder / "table9.md").read_text()
    line = next(line for line in text.splitlines() if "FLUX (1024)" in line and "HARoPE" in line)
    assert "134.1 (+2.8%)" in line
    assert "134.2 (+2.8%)" in line
    assert "≠ differs" in line
    assert "not run" in line
    assert "+4.4%; the paper prints +4.1%" in text
    report = (table9_folder / "report.html").read_text()
    assert "macs_model-whole-model" in report
    assert (
        "22 of 24 cost cells are equal to the printed ones; differing: FLUX (1024) RoPE+SVD FLOPs"
        " (G), FLUX (1024) HARoPE FLOPs (G)." in report
    )


def test_a_second_reproduction_does_no_work(table9_folder: Path) -> None:
    before = {path: path.read_bytes() for path in table9_folder.rglob("*") if path.is_file()}
    assert (
        "up to date"
        in run("reproduce", "table9", "--scale", "paper", "--out", table9_folder).stdout
    )
    assert {
        path: path.read_bytes() for path in table9_folder.rglob("*") if path.is_file()
    } == before


def test_the_shapes_of_the_audit_are_those_of_the_rows(table9_folder: Path) -> None:
    """The tables' audit reads LAYERS, the count reads the network that is built; they are one
    fact.
    """
    for row in load_table("9").rows:
        if row.encoding == "rope-axial" and row.backbone:
            arrays = load_arrays(
                table9_folder
                / f"counted-{row.backbone}-{row.resolution}-rope-axial/cost/forwards/forwards.npz"
            )
            layer = PAPER_LAYERS[row.backbone]
            assert [arrays[name][0] for name in LAYER_ARRAYS[:3]] == [
                layer.hidden,
                layer.heads,
                layer.projections,
            ]


def test_a_percentage_is_cut_as_the_paper_does() -> None:
    layer = PAPER_LAYERS["dit"]
    exact_fraction = Fraction(layer.harope_matrices.parameters, layer.parameters) * 100
    assert "4.1" == f"{int(exact_fraction * 10) / 10}" != f"{float(exact_fraction):.1f}"


# ---------------------------------------------------------------------------
# counts


@pytest.mark.parametrize(
    ("layer", "tokens", "encoding", "expected"),
    [
        ("dit", 256, LearnedParameters(), 705_429_504),
        ("dit", 256, PAPER_LAYERS["dit"].harope_matrices, 736_886_784),
        ("flux", 1536, LearnedParameters(), 43_486_543_872),
        ("flux", 1536, PAPER_LAYERS["flux"].harope_matrices, 44_795_166_720),
    ],
)
def test_the_papers_convention_in_exact_integers(
    layer: str, tokens: int, encoding: LearnedParameters, expected: int
) -> None:
    """The two DiT numbers are what ptflops 0.7.5 returns on the authors' module with unfused
    attention.
    """
    assert PAPER_LAYERS[layer].multiply_adds(tokens, encoding) == expected


def test_token_counts_of_flux() -> None:
    assert [flux_tokens(side) for side in (512, 1024, 2048)] == [1536, 4608, 16896]


@pytest.mark.parametrize("encoding", ["rope-axial", "harope", "rope-matrix", "string"])
def test_the_convention_is_what_torch_counts_on_the_built_layer(encoding: str) -> None:
    """torch's counter leaves bias additions out and counts a product twice; the formula is that of
    the dual form.
    """
    tokens, layer = 49, AttentionSizes(64, 4, 4)
    with torch.device("meta"):
        network = registry.load_by_name("backbones", "dit").build(
            encoding, {}, {**B2, "hidden": 64, "heads": 4, "depth": 3}
        )
        block, x = network.blocks[0].attn, torch.empty(1, tokens, 64)
    positions = torch.zeros(tokens, 2)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        block(x, network.encoding, positions, 0)
    biases = tokens * 4 * 64
    assert (
        layer.multiply_adds(tokens, count_learned(network.encoding)) - biases
        == counter.get_total_flops() // 2
    )


@pytest.mark.parametrize(
    ("encoding", "options", "expected"),
    [
        ("harope", {}, LearnedParameters(99_072, 12, 64, 2)),
        ("rope-svd-control", {}, LearnedParameters(99_072, 12, 64, 2)),
        (
            "rope-matrix",
            {"matrix": "normal", "per_head": True},
            LearnedParameters(49_152, 12, 64, 1),
        ),
        ("rope-matrix", {"matrix": "svd"}, LearnedParameters(8_256, 1, 64, 2)),
        ("string", {}, LearnedParameters(4_096, 1, 64, 1)),
        ("string", {"map": "circulant"}, LearnedParameters(128)),
        ("rope-mixed", {}, LearnedParameters(768)),
        ("rope-axial", {}, LearnedParameters()),
    ],
)
def test_what_an_encoding_learns_in_a_layer(
    encoding: str, options: dict[str, Any], expected: LearnedParameters
) -> None:
    shape = encodings.ModelShape(768, 12, 64, 12, grid=(16, 16))
    assert (
        count_learned(
            encodings.build_encoding(registry.load_by_name("encodings", encoding), shape, options)
        )
        == expected
    )


@pytest.mark.parametrize(("side", "giga"), [(128, 5.56), (256, 23.0), (512, 106.4)])
def test_whole_dit_b2(side: int, giga: float) -> None:
    plan = measure_cost.plan_without_weights("dit", "rope-axial", {}, B2, side, "none")
    forward_counts = measure_cost._forward_counts(plan, 1)
    assert forward_counts.counts is not None
    assert forward_counts.counts.parameters == 130_315_808
    assert f"{forward_counts.counts.macs / 1e9:.{len(str(giga).split('.')[1])}f}" == str(giga)


def test_whole_dit_counts_equal_a_slow_sum() -> None:
    """Every linear layer, the patch convolution and the two attention products, written out."""
    config = {**B2, "hidden": 64, "heads": 4, "depth": 2, "classes": 10}
    plan = measure_cost.plan_without_weights("dit", "rope-axial", {}, config, 64, "none")
    forward_counts, d, n = measure_cost._forward_counts(plan, 1), 64, 16
    assert forward_counts.counts is not None
    per_block = n * 3 * d * d + n * d * d + 2 * n * n * d + n * 8 * d * d + 6 * d * d
    time = 256 * d + d * d
    ends = n * 16 * d + 2 * d * d + n * d * 4 * 8
    assert forward_counts.counts.macs == 2 * per_block + time + ends


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("flux", 11_901_408_320), ("sd3", 2_028_328_000)]
)
def test_whole_published_transformers(backbone: str, parameters: int) -> None:
    pytest.importorskip("diffusers")
    from harope_bench.analysis.cost import published_shapes

    layers = {
        encoding: published_shapes.counted_layer(backbone, encoding, {}, 512)
        for encoding in ("rope-axial", "harope")
    }
    plain_published, matrix = (
        published_shapes.count_published(backbone, layer, 512) for layer in layers.values()
    )
    assert plain_published.parameters == parameters
    assert (
        matrix.parameters - parameters
        == published_shapes.PUBLISHED_TRANSFORMERS[backbone].n_layers
        * layers["harope"].attention.harope_matrices.parameters
    )
    if backbone == "flux":
        assert f"{plain_published.macs / 1e12:.2f}" == "10.75"
        assert matrix.parameters - parameters == 45_001_728
        assert f"{matrix.macs / plain_published.macs - 1:.2%}" == "0.69%"


def test_without_the_extra_the_layer_is_counted_and_the_model_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from harope_bench.analysis.cost import published_shapes
    from harope_bench.core.errors import MissingExtraError

    def raise_missing_extra(*_: Any) -> Any:
        raise MissingExtraError("diffusers is not installed; pip install 'harope-bench[t2i]'")

    monkeypatch.setattr(published_shapes, "_published_counts", raise_missing_extra)
    monkeypatch.setattr(registry, "list_names", lambda kind: [])
    result = measure_cost.count_cost(
        measure_cost.plan_without_weights("flux", "harope", {}, {}, 512, "none"), tmp_path
    ).result
    assert values(result)["flops_g"] == pytest.approx(44.7951667)
    missing = result.find_measurement("params_model")
    assert missing is not None
    assert missing.value is None
    assert "t2i" in (missing.reason or "")


def test_counting_needs_no_memory() -> None:
    with torch.device("meta"):
        network = registry.load_by_name("backbones", "dit").build("harope", {}, B2)
    probe = registry.load_by_name("backbones", "dit").profiling_inputs(network, 256, 1)
    assert {t.device.type for t in (*network.parameters(), *probe.inputs.values())} == {"meta"}
    assert count_operations(network, probe.inputs).parameters == sum(
        p.numel() for p in network.parameters()
    )


# ---------------------------------------------------------------------------
# evaluator


def test_cost_keeps_the_evaluators_contract() -> None:
    testing.check_evaluator("cost", forward_features(), {})


def test_the_measurements_of_known_forwards() -> None:
    entries = {m.metric: m for m in EVALUATOR.evaluate(forward_features(), {}).measurements}
    assert entries["params_m"].value == 2.46144
    assert entries["params_m"].name == "params_m-attention-layer"
    assert entries["flops_g"].value == 0.736886784
    assert entries["macs_model"].value == pytest.approx(23.379443712)
    assert entries["latency_ms_median"].value == pytest.approx(150)
    assert entries["latency_ms_p10"].value == pytest.approx(110)
    assert entries["latency_ms_p90"].value == pytest.approx(190)
    assert entries["peak_memory_mb"].value == 600


def test_the_scope_is_said_in_every_name() -> None:
    flux = EVALUATOR.evaluate(forward_features(projections=3, hidden=3072, heads=24), {})
    assert {m.name.split("-", 1)[1] for m in flux.measurements} == {"qkv-projection", "whole-model"}
    assert all("layer" in m.title or "whole model" in m.title for m in EVALUATOR.metrics)


def test_what_was_not_had_is_none_with_its_reason() -> None:
    nan = float("nan")
    forward_features_result = forward_features(
        parameters=nan, macs=nan, frozen_parameters=nan, peak_bytes=nan
    )
    forward_features_result.arrays["seconds"][:] = nan
    entries = {m.metric: m for m in EVALUATOR.evaluate(forward_features_result, {}).measurements}
    assert (entries["params_model"].value, entries["params_model"].reason) == (None, "no model")
    assert (entries["latency_ms_median"].value, entries["latency_ms_median"].reason) == (
        None,
        "not run",
    )
    assert entries["params_m"].value is not None


def test_few_forwards_have_no_deciles() -> None:
    entries = {m.metric: m for m in EVALUATOR.evaluate(forward_features(9), {}).measurements}
    assert entries["latency_ms_median"].value is not None
    assert "needs 10" in (entries["latency_ms_p90"].reason or "")


# --------------------------------------------------------------------------------------- time and
# memory


def test_peak_memory_of_known_tensors() -> None:
    """Three tensors of 4,000 bytes, of which two live at once; a view and a write in place hold
    nothing new.
    """
    x = torch.ones(1000)

    def forward() -> torch.Tensor:
        a = x + 1  # 4,000 held
        a = a.view(10, 100).mul_(2)
        b = a * 3  # 8,000 held
        del a  # 4,000
        return b + 1  # 8,000

    with latency.LiveMemory() as live:
        forward()
    assert live.peak_bytes == 8000
    assert live.current_bytes == 0


def test_memory_counts_the_weights() -> None:
    network = torch.nn.Linear(100, 100, bias=False)
    x = torch.ones(1, 100)
    with torch.inference_mode():
        assert latency.peak_bytes(lambda: network(x), network, torch.device("cpu")) == 4 * (
            100 * 100 + 100
        )


def test_warm_up_is_not_timed() -> None:
    calls: list[int] = []
    assert len(latency.time_forwards(lambda: calls.append(1), 5, torch.device("cpu"))) == 5
    assert len(calls) == 5 + latency.WARM_UP_FORWARDS


@pytest.fixture
def cost_result(tiny_checkpoint: Any, tmp_path: Path) -> Result:
    return measure_cost.measure_cost(make_plan("tiny", None, {}), tmp_path / "run", 12).result


def test_a_checkpoint_is_weighed(cost_result: Result, tmp_path: Path) -> None:
    result = values(cost_result)
    assert all(value is not None for value in result.values())
    assert 0 < result["latency_ms_p10"] <= result["latency_ms_median"] <= result["latency_ms_p90"]  # type: ignore[operator]
    assert result["peak_memory_mb"] > 4 * result["params_model"]  # type: ignore[operator]
    assert {m.n_scored for m in cost_result.measurements} == {12}
    assert "threads" in cost_result.judge.preprocessing
    assert (tmp_path / "run/cost/results/cost.json").is_file()


def test_what_stands_is_kept_and_another_count_is_made_anew(
    cost_result: Result, tmp_path: Path
) -> None:
    plan = make_plan("tiny", None, {})
    assert not measure_cost.measure_cost(plan, tmp_path / "run", 12).is_new
    again = measure_cost.measure_cost(plan, tmp_path / "run", 12, rescore=True)
    assert again.is_new
    assert values(again.result) == values(cost_result)
    with pytest.raises(SampleError, match="without --rescore"):
        measure_cost.measure_cost(plan, tmp_path / "run", 13, rescore=True)
    assert measure_cost.measure_cost(plan, tmp_path / "run", 13).is_new


def test_eval_with_cost_draws_no_image(tiny_checkpoint: Any, tmp_path: Path) -> None:
    command_result = run("eval", "tiny", "--with", "cost", "--count", 10, "--out", tmp_path / "run")
    assert "forwards" in command_result.stdout
    assert "params_m-attention-layer" in command_result.stdout
    assert not (tmp_path / "run/images").exists()
    document = json.loads(
        run(
            "eval", "tiny", "--with", "cost", "--count", 10, "--out", tmp_path / "run", "--json"
        ).stdout
    )
    assert document["results"][0]["is_new"] is False


def test_cost_and_images_go_together(tiny_checkpoint: Any, tmp_path: Path) -> None:
    run("eval", "tiny", "--with", "cost,fidelity", "--count", 12, "--out", tmp_path / "run")
    assert (tmp_path / "run/results/fidelity.json").is_file()
    assert (tmp_path / "run/cost/results/cost.json").is_file()
    run("eval", tmp_path / "run", "--with", "cost", "--count", 12)
    assert "0 differences" in run("verify", tmp_path / "run", "--redraw", 1).stdout


def test_images_without_a_plan_have_no_cost(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    command_result = CliRunner().invoke(
        main, ["eval", str(tmp_path / "pictures"), "--with", "cost"]
    )
    assert command_result.exit_code == 1
    assert "checkpoint" in command_result.stderr


# ------------------------------------------------------------------------------- the table at micro
# scale


def micro_table9(names: dict[str, str]) -> Any:
    table = load_table("9")
    rows = tuple(
        row.model_copy(update={"micro_checkpoint": names.get(row.id)}) for row in table.rows
    )
    scope = table.paper_scale.model_copy(update={"suite": "digits", "baseline": ("dit-rope",)})
    return table.model_copy(update={"rows": rows, "micro_scale": scope})


def test_micro_rows_have_cost_and_fidelity(
    make_checkpoint: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.pipeline import reproduce

    make_checkpoint("tiny-rope", encoding="rope-axial")
    make_checkpoint("tiny-harope", encoding="harope")
    table = micro_table9({"dit-rope": "tiny-rope", "dit-harope": "tiny-harope"})
    monkeypatch.setattr(board, "load_table", lambda name: table)
    reproduce.reproduce(["9"], "micro", 12, tmp_path, "cpu", 0)
    board_result = board.build_board(table, read_results(tmp_path), "both", "micro")
    for row in ("dit-rope", "dit-harope"):
        for column in ("params_m", "flops_g", "fid"):
            assert board_result.cells[row, column].status == "measured" or column == "fid"
    assert board_result.cells["dit-harope", "params_m"].percent_above_baseline is not None
    assert board_result.cells["dit-rope", "params_m"].percent_above_baseline is None
    assert str(board_result.cells["dit-harope", "params_m"].verdict) == "not comparable (micro)"
    assert "(+" in (tmp_path / "table9.md").read_text()


def test_a_number_that_rounds_to_the_printed_one_is_as_printed() -> None:
    printed_text = "134.1 (+2.8%)"
    assert float(leading_number(printed_text)) + float(half_unit(printed_text)) < 134.184 < 134.25
    with pytest.raises(BenchError):
        load_table("99")


def test_a_classifier_is_counted_and_timed_too(tmp_path: Path) -> None:
    command_result = CliRunner().invoke(
        main,
        [
            "eval",
            "digits-deit-harope",
            "--with",
            "cost",
            "--count",
            "2",
            "--out",
            str(tmp_path),
            "--json",
        ],
    )
    assert command_result.exit_code == 0, command_result.output
    measured_entries = {
        m["metric"]: m["value"]
        for m in json.loads(command_result.stdout)["results"][0]["result"]["measurements"]
    }
    d, heads, tokens = 16, 3, 50  # 7 x 7 tokens and the class token
    width = d * heads
    assert measured_entries["params_m"] * 1e6 == pytest.approx(
        4 * width**2 + 4 * width + heads * (2 * d * d + d)
    )
    assert measured_entries["flops_g"] * 1e9 == pytest.approx(
        4 * tokens * width**2
        + 2 * tokens**2 * width
        + 4 * tokens * width
        + 2 * tokens * heads * d * d
        + 2 * heads * d**3
    )
    assert measured_entries["latency_ms_median"] > 0
