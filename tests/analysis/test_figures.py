"""Figures: attention distance against a slow reference, matrices against their algebra, logs of
three forms, safe embedding.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fake_runs
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from slow_attention import slow_distance

from harope_bench.analysis import attention_distance, attention_hooks, learned_matrices
from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.chart_schema import (
    AttentionDistanceChart,
    CheckpointDistances,
    HeadMatrix,
    LossChart,
    LossCurve,
    MatrixChart,
    read_chart,
)
from harope_bench.core.errors import OptionError, StorageError
from harope_bench.encodings import base as encodings
from harope_bench.models.samplers.base import load_sampler
from harope_bench.pipeline.generate import make_plan
from harope_bench.reports import attention_panels, charts_svg
from harope_bench.reports.chart_files import write_figure
from harope_bench.reports.loss_logs import read_losses, running_average
from harope_bench.reports.report_page import write_report

GRID = torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()


def run(*words: object, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == exit_code, f"{words}\n{result.output}\n{result.exception!r}"
    return result


# ------------------------------------------------------------------------------------- attention
# distance


def some_heads(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 16, 8, generator=rng), torch.randn(2, 3, 16, 8, generator=rng)


def test_distance_equals_a_slow_sum() -> None:
    q, k = some_heads()
    attention_distances = attention_distance.attention_distances(q, k, GRID)
    expected = [
        [
            slow_distance(q[b, h].double().numpy(), k[b, h].double().numpy(), GRID.numpy())
            for h in range(3)
        ]
        for b in range(2)
    ]
    np.testing.assert_allclose(attention_distances.numpy(), expected, rtol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = some_heads()
    whole_attention_distances = attention_distance.attention_distances(q, k, GRID)
    monkeypatch.setattr(
        attention_distance, "MAX_PROBABILITIES", 2 * 16 * 3
    )  # three queries at a time, the last chunk is short
    torch.testing.assert_close(
        attention_distance.attention_distances(q, k, GRID),
        whole_attention_distances,
        rtol=1e-6,
        atol=0,
    )


def test_even_attention_has_the_reference_distance() -> None:
    q = torch.zeros(1, 1, 16, 8)
    assert float(
        attention_distance.attention_distances(q, some_heads()[1][:1, :1], GRID)
    ) == pytest.approx(attention_distance.uniform_distance(GRID), rel=1e-6)


def test_attention_on_itself_has_distance_zero() -> None:
    one_hot = 1000 * torch.eye(16)[None, None]
    assert float(attention_distance.attention_distances(one_hot, one_hot, GRID)) == 0


def test_attention_on_the_right_neighbour_has_a_tokens_distance() -> None:
    """Tokens in one row of which each looks at the next: 15 of 16 are a step away, the last one
    looks 15 steps back.
    """
    tensor = torch.stack((torch.zeros(16), torch.arange(16.0)), -1)
    q, k = 1000 * torch.eye(16)[None, None], 1000 * torch.eye(16).roll(1, 0)[None, None]
    k = k.roll(-2, 2)  # key j + 1 answers query j
    assert float(attention_distance.attention_distances(q, k, tensor)) == pytest.approx(
        (15 * 1 + 15) / 16
    )


def test_even_reference_of_two_tokens() -> None:
    assert attention_distance.uniform_distance(torch.tensor([[0.0, 0.0], [0.0, 3.0]])) == 1.5


def test_only_places_in_the_image_count() -> None:
    """Of three axes the first is FLUX's, along which no image lies."""
    q, k = some_heads()
    three = torch.cat((7 * torch.ones(16, 1), GRID), -1)
    assert torch.equal(
        attention_distance.attention_distances(q, k, three),
        attention_distance.attention_distances(q, k, GRID),
    )


def test_the_nearest_times_are_taken_once() -> None:
    assert attention_hooks.nearest_times([100, 300, 900], [1000.0, 750.0, 500.0, 250.0]) == [
        1000.0,
        250.0,
    ]


def test_the_samplers_own_times(make_checkpoint: Callable[..., Any]) -> None:
    make_checkpoint()
    assert attention_hooks.sampler_times(make_plan("tiny", None, {"steps": 4})) == [
        1000.0,
        750.0,
        500.0,
        250.0,
    ]


@pytest.mark.parametrize("sampler", registry.list_names("samplers"))
def test_every_sampler_falls_from_noise_and_passes_the_default_times(
    make_checkpoint: Callable[..., Any], sampler: str
) -> None:
    make_checkpoint()
    plan = make_plan("tiny", None, {})
    settings = plan.settings.model_copy(update={"sampler": sampler, "steps": 50})
    if load_sampler(sampler).is_adaptive:
        with pytest.raises(OptionError, match="chooses its times while it samples"):
            attention_hooks.sampler_times(plan.model_copy(update={"settings": settings}))
        return
    sampler_times = attention_hooks.sampler_times(plan.model_copy(update={"settings": settings}))
    assert sampler_times == sorted(sampler_times, reverse=True)
    nearest_times = attention_hooks.nearest_times(attention_distance.TIMES, sampler_times)
    assert len(nearest_times) == len(attention_distance.TIMES)
    assert all(
        abs(time - expected) <= 11
        for time, expected in zip(
            nearest_times, sorted(attention_distance.TIMES, reverse=True), strict=True
        )
    )


def test_measured_distance_equals_one_made_by_hand(make_checkpoint: Callable[..., Any]) -> None:
    """A tile drawn with the network's own code; its queries and keys caught at the wanted time; the
    labelled half alone.
    """
    from harope_bench.models.load_checkpoint import open_generator

    make_checkpoint("tiny", encoding="harope")
    plan = make_plan("tiny", None, {"steps": 4})
    distances = attention_distance.measure_distances(plan, 3, (500.0,))
    drawer = open_generator(plan.checkpoint, plan.settings)
    items: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    rotate = drawer.network.encoding.rotate

    def spy(
        q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k = rotate(q, k, positions, layer)
        items.append((q, k, positions))
        return q, k

    drawer.network.encoding.rotate = spy
    requests = {r.index: r for r in registry.load_by_name("suites", "digits").requests(range(3))}
    drawer.generate(
        [requests.get(i, requests[0]) for i in range(plan.settings.tile)], plan.settings
    )
    layers = drawer.network.config.depth
    for layer in range(layers):
        q, k, positions = items[2 * layers + layer]  # the third of four calls is at time 500
        assert len(q) == 2 * plan.settings.tile
        stride = 28 / math.sqrt(q.shape[2])
        for head in range(q.shape[1]):
            mean = np.mean(
                [
                    slow_distance(
                        q[b, head].double().numpy(), k[b, head].double().numpy(), positions.numpy()
                    )
                    for b in range(3)
                ]
            )
            assert distances.pixels[layer][head] == pytest.approx(mean * stride, rel=1e-5)
    assert distances.token_pixels == stride
    assert distances.timesteps == (500.0,)
    assert distances.images == 3


def test_measuring_does_not_depend_on_the_tiles_other_rows(
    make_checkpoint: Callable[..., Any],
) -> None:
    make_checkpoint()
    plan = make_plan("tiny", None, {"steps": 2})
    distances, first_distances = (
        attention_distance.measure_distances(plan, 26, (500.0,)),
        attention_distance.measure_distances(plan, 25, (500.0,)),
    )
    last_count = 26 * np.array(distances.pixels) - 25 * np.array(
        first_distances.pixels
    )  # the 26th alone, drawn in a tile of its own
    assert (last_count > 0).all()
    assert not np.allclose(last_count, first_distances.pixels)


def test_a_classifiers_distance_is_of_its_patches_alone(tmp_path: Path) -> None:
    """Queries and keys made by hand of each block's input; the class token, which stands first, in
    neither.
    """
    from harope_bench.models.backbones import deit
    from harope_bench.models.load_checkpoint import load_checkpoint_record, open_classifier
    from harope_bench.pipeline.classify import make_classifier_plan

    plan = make_classifier_plan("digits-deit-harope", None, {})
    distances = attention_distance.measure_distances(plan, 3)
    reader, inputs = open_classifier(plan.checkpoint, plan.settings), []
    for block in reader.network.blocks:
        block.attn.qkv.register_forward_pre_hook(
            lambda _, inputs_value: inputs.append(inputs_value[0].clone())
        )
    pictures = registry.load_by_name("suites", "digits-held-out").real_images(None, None)
    chosen_counts = [i * 1000 // 3 for i in range(3)]
    assert (
        len({pictures.labels[i] for i in chosen_counts}) == 3
    )  # not the first three, which are of one class
    reader.classify(
        np.stack([pictures.decode(i, pictures.read_bytes(i), 28, 1.0) for i in chosen_counts])
    )
    grid, heads = (
        deit.grid_positions(7, 7),
        load_checkpoint_record("digits-deit-harope").config["heads"],
    )
    for layer, (block, kept_pair) in enumerate(
        zip(reader.network.blocks, list(inputs), strict=True)
    ):
        with torch.inference_mode():
            x = kept_pair[:3]
            q, k, _ = block.attn.qkv(x).unflatten(-1, (3, int(heads), -1)).permute(2, 0, 3, 1, 4)
            q, k = reader.network.encoding.rotate(q, k, torch.cat((torch.zeros(1, 2), grid)), layer)
        q, k = (part[:, :, 1:].double().numpy() for part in (q, k))
        for head in range(int(heads)):
            mean = np.mean([slow_distance(q[b, head], k[b, head], grid.numpy()) for b in range(3)])
            assert distances.pixels[layer][head] == pytest.approx(4 * mean, rel=1e-5)
    assert (
        distances.excluded_tokens,
        distances.tokens,
        distances.token_pixels,
        distances.timesteps,
        distances.steps,
    ) == ("class token", 49, 4.0, (), None)
    assert distances.uniform_distance == pytest.approx(
        4 * attention_distance.uniform_distance(grid)
    )


def test_pictures_that_are_not_there_are_refused_in_one_line(tmp_path: Path) -> None:
    words = (
        "figure",
        "attention-distance",
        "digits-deit-harope",
        "--count",
        1001,
        "--out",
        tmp_path / "d.svg",
    )
    assert "has 1,000 images here, but --count requests 1,001" in run(*words, exit_code=1).output


def test_a_figure_says_what_it_leaves_out(
    make_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    make_checkpoint()
    words = (
        "figure",
        "attention-distance",
        "tiny",
        "digits-deit-ape",
        "--count",
        2,
        "--timesteps",
        "500",
        "--device",
        "cpu",
    )
    output = run(*words, "--out", tmp_path / "d.svg").output
    assert "digits-deit-ape: standard deviation over heads by layer" in output
    assert output.strip().endswith("px; class token excluded")
    chart = read_chart(tmp_path / "d.json")
    assert (
        "classifiers on real images spread evenly over the suite, class token left out of queries"
        " and keys" in chart.settings_text
    )
    assert "without class token" in (tmp_path / "d.svg").read_text()


def test_even_attention_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_uniform_distance = attention_distance.uniform_distance(GRID)
    monkeypatch.setattr(attention_distance, "MAX_PROBABILITIES", 16 * 3)
    assert attention_distance.uniform_distance(GRID) == pytest.approx(
        whole_uniform_distance, rel=1e-12
    )


def test_the_encoding_is_left_as_it_was(make_checkpoint: Callable[..., Any]) -> None:
    shape = encodings.ModelShape(16, 2, 8, 1)
    encoding = encodings.build_encoding(registry.load_by_name("encodings", "rope-axial"), shape, {})
    with attention_hooks.record_rotations(encoding, lambda *_: None):
        assert "rotate" in vars(encoding)
    assert "rotate" not in vars(encoding)


# ---------------------------------------------------------------------------
# matrices


@pytest.fixture
def harope(make_checkpoint: Callable[..., Any]) -> Any:
    """Trained-looking matrices: every parameter shaken."""
    return make_checkpoint("tiny-harope", encoding="harope")


def test_the_drawn_matrix_is_what_acts_on_queries(harope: Any) -> None:
    matrices = learned_matrices.measure_matrices(harope, "m", ((1.0, 0.0),), None)
    encoding = learned_matrices._encoding(harope)
    for matrix in matrices.matrices:
        expected = encoding.matrices(matrix.layer).q[matrix.head].detach().numpy()
        np.testing.assert_allclose(matrix.values, expected, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(matrix.singular_values, np.linalg.svd(expected)[1], rtol=1e-9)
        assert matrix.distance_from_identity == pytest.approx(
            np.linalg.norm(expected - np.eye(len(expected)))
        )
        assert matrix.condition_number == pytest.approx(np.linalg.cond(expected))


def test_what_is_shown_by_name(harope: Any) -> None:
    m, minus, inverse = (
        np.array(learned_matrices.measure_matrices(harope, show, (), None).matrices[0].values)
        for show in ("m", "m-i", "m-inverse-t")
    )
    np.testing.assert_allclose(minus, m - np.eye(len(m)), atol=1e-5)
    np.testing.assert_allclose(inverse @ m.T, np.eye(len(m)), atol=1e-5)


def test_the_operator_is_what_a_score_takes(harope: Any) -> None:
    """q^T T_D k equals the score of q at the origin and k at D."""
    encoding = learned_matrices._encoding(harope)
    matrices = learned_matrices.measure_matrices(harope, "operator", ((2.0, -1.0),), None)
    d, heads = encoding.shape.head_dim, encoding.shape.heads
    rng = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, heads, 1, d, generator=rng, dtype=torch.float64) for _ in range(2))
    with torch.inference_mode():
        at_q, _ = encoding.rotate(q, q, torch.zeros(1, 2), 0)
        _, at_k = encoding.rotate(k, k, torch.tensor([[2.0, -1.0]]), 0)
    for matrix in matrices.matrices[:heads]:
        score = float(at_q[0, matrix.head, 0] @ at_k[0, matrix.head, 0])
        value = float(
            q[0, matrix.head, 0]
            @ torch.tensor(matrix.values, dtype=torch.float64)
            @ k[0, matrix.head, 0]
        )
        assert value == pytest.approx(score, rel=1e-4, abs=1e-4)


def test_a_change_that_no_score_sees_moves_m_and_not_the_operator(harope: Any) -> None:
    """Left-multiplied by a complex factor a plane, M is another matrix and scores are the same."""
    encoding = learned_matrices._encoding(harope)
    pair, d = encoding.matrices(0), encoding.shape.head_dim
    m, k = pair.q[0].detach(), pair.k[0].detach()
    block = torch.zeros(d, d, dtype=m.dtype)
    for plane in range(d // 2):
        a, b = 0.5 + plane, 0.3 * plane - 1
        block[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2] = torch.tensor(
            [[a, -b], [b, a]]
        )
    other_block, other_mT = block @ m, torch.linalg.inv(block).mT @ k
    turn = learned_matrices.rotation(encoding, (1.0, 0.0), 0)[0]
    assert (other_block - m).norm() > 0.1
    torch.testing.assert_close(other_block.mT @ turn @ other_mT, m.mT @ turn @ k, rtol=0, atol=1e-6)


def test_an_untrained_matrix_moves_nothing(make_checkpoint: Callable[..., Any]) -> None:
    shape = encodings.ModelShape(32, 2, 16, 1)
    encoding = encodings.build_encoding(
        registry.load_by_name("encodings", "harope"), shape, {}
    ).double()
    with torch.inference_mode():
        layer_matrix = learned_matrices._layer_matrices(encoding, 0, "m", ((1.0, 0.0),))[0]
    assert layer_matrix.distance_from_identity == pytest.approx(0, abs=1e-5)
    assert layer_matrix.condition_number == pytest.approx(1)
    assert layer_matrix.axis_coupling == 0
    assert layer_matrix.operator_change[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("layout", "inside"), [("interleaved", (0, 1)), ("half-split", (0, 4))])
def test_coupling_is_energy_between_the_axes(layout: str, inside: tuple[int, int]) -> None:
    """With 8 channels: interleaved ones 0 to 3 turn with the row; half-split ones 0, 1, 4, 5."""
    encoding = encodings.build_encoding(
        registry.load_by_name("encodings", "harope"),
        encodings.ModelShape(16, 2, 8, 1),
        {"layout": layout},
    )
    m = torch.eye(8, dtype=torch.float64)
    m[inside] = 1.0
    assert learned_matrices.matrix_statistics(m, encoding)["axis_coupling"] == 0
    m[0, 2 if layout == "half-split" else 4] = 3.0
    assert learned_matrices.matrix_statistics(m, encoding)["axis_coupling"] == pytest.approx(9 / 18)


def test_a_singular_matrix_has_no_condition_number() -> None:
    encoding = encodings.build_encoding(
        registry.load_by_name("encodings", "harope"), encodings.ModelShape(16, 2, 8, 1), {}
    )
    assert (
        learned_matrices.matrix_statistics(
            torch.diag(torch.tensor([1.0] * 7 + [0.0]).double()), encoding
        )["condition_number"]
        is None
    )


def test_an_encoding_without_a_matrix_is_refused(
    make_checkpoint: Callable[..., Any], harope: Any
) -> None:
    with pytest.raises(OptionError, match="learns no matrix"):
        learned_matrices.measure_matrices(make_checkpoint("plain"), "m", (), None)
    with pytest.raises(OptionError, match="axes"):
        learned_matrices.measure_matrices(harope, "m", ((1.0, 0.0, 0.0),), None)
    with pytest.raises(OptionError, match="layers"):
        learned_matrices.measure_matrices(harope, "m", (), (99,))


# ---------------------------------------------------------------------------
# losses

RELEASE = """[\x1b[34m2025-10-11 12:00:00\x1b[0m] Starting rank=0
[\x1b[34m2025-10-11 12:00:01\x1b[0m] (step=0000100) Train Loss: 0.9000, Train Steps/Sec: 1.23
[2025-10-11 12:00:02] (step=0000200) Train Loss: 0.5000, Train Steps/Sec: 1.23
[2025-10-11 12:00:03] Saved checkpoint to x.pt
[2025-10-11 12:00:04] (step=0000300) Train Loss: 0.2500, Train Steps/Sec: 1.23
"""


def test_three_forms_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/log.csv").write_text("step,loss\n10,1.0\n20,0.5\n")
    (tmp_path / "release.txt").write_text(RELEASE)
    (tmp_path / "both.csv").write_text("step,loss,run\n1,3,a\n1,4,b\n2,2,a\n")
    losses = read_losses(
        [tmp_path / "mine/log.csv", tmp_path / "release.txt", tmp_path / "both.csv"], 0
    )
    curves = {run.label: (run.steps, run.loss) for run in losses.curves}
    assert curves == {
        "mine": ((10, 20), (1.0, 0.5)),
        "release": ((100, 200, 300), (0.9, 0.5, 0.25)),
        "a": ((1, 2), (3, 2)),
        "b": ((1,), (4,)),
    }


def test_the_running_average_is_the_weighted_mean_of_the_past() -> None:
    values = np.array([4.0, 2.0, 1.0])
    weights = [np.array([1.0]), np.array([0.5, 1.0]), np.array([0.25, 0.5, 1.0])]
    expected = [float((w * values[: len(w)]).sum() / w.sum()) for w in weights]
    np.testing.assert_allclose(running_average(values, 0.5), expected)
    np.testing.assert_allclose(running_average(np.full(50, 3.0), 0.99), 3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "no finite losses"),
        ("step,loss\n1,nan\n", "no finite"),
        ("step,loss\n1,x\n", "where a number"),
        ("step,loss\n1\n", "not step,loss"),
        ("step,loss\n5,1\n4,1\n", "do not increase"),
        ("step,loss\n", "no finite"),
    ],
)
def test_a_file_that_is_no_log_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(StorageError, match=message):
        read_losses([tmp_path / "x.csv"], 0)


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.txt"):
        (tmp_path / name).write_text("step,loss\n1,1\n")
    with pytest.raises(StorageError, match="two runs"):
        read_losses([tmp_path / "a.csv", tmp_path / "a.txt"], 0)


def test_a_long_log_is_thinned_by_means(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        "step,loss\n" + "".join(f"{i},{i % 2}\n" for i in range(1, 4001))
    )
    (curve,) = read_losses([tmp_path / "x.csv"], 0).curves
    assert len(curve.steps) == 400
    assert set(curve.loss) == {0.5}


# ---------------------------------------------------------------------------
# pictures

HOSTILE = '<script>alert(1)</script> $x$ & "quoted"'


def distances(**changes: Any) -> CheckpointDistances:
    fields: dict[str, Any] = {
        "checkpoint": "digits-harope",
        "encoding": "harope",
        "sha256": "ab" * 32,
        "pixels": ((1.0, 2.0), (3.0, 4.0)),
        "standard_deviation": (0.5, 0.5),
        "uniform_distance": 5.0,
        "token_pixels": 4.0,
        "tokens": 49,
        "images": 2,
        "timesteps": (500.0,),
        "resolution": 28,
        "sampler": "flow",
        "steps": 4,
        "guidance": 1.5,
        "seed": 0,
    }
    return CheckpointDistances(**{**fields, **changes})


def some_charts() -> dict[str, Any]:
    head_matrix = HeadMatrix(
        layer=0,
        head=None,
        values=((1.0, 0.0), (0.0, -2.0)),
        distance_from_identity=3,
        condition_number=None,
        singular_values=(2, 1),
        axis_coupling=0,
        operator_change=(0.1,),
    )
    fields = {
        "checkpoint": "x",
        "encoding": "harope",
        "sha256": "ab" * 32,
        "offsets": ((1.0, 0.0),),
    }
    return {
        "distance": AttentionDistanceChart(
            settings_text="two images", checkpoints=(distances(), distances(checkpoint=HOSTILE))
        ),
        "matrices": MatrixChart(
            **fields,
            operator="m",
            matrices=(head_matrix, head_matrix.model_copy(update={"layer": 1})),
        ),
        "operator": MatrixChart(
            **fields,
            operator="operator",
            matrices=(head_matrix.model_copy(update={"offset": (1.0, 0.0)}),),
        ),
        "loss": LossChart(
            smoothing=0.5,
            curves=(LossCurve(label=HOSTILE, steps=(1, 2), loss=(1, 0.5), smoothed_loss=(1, 0.7)),),
        ),
        "negative": LossChart(
            smoothing=0, curves=(LossCurve(label="one", steps=(1,), loss=(-1,)),)
        ),
    }


@pytest.mark.parametrize("name", some_charts())
def test_a_figure_is_equal_bytes_of_equal_data_and_reads_back(name: str, tmp_path: Path) -> None:
    chart = some_charts()[name]
    first_contents = [path.read_bytes() for path in write_figure(chart, tmp_path / f"{name}.svg")]
    again = [
        path.read_bytes()
        for path in write_figure(read_chart(tmp_path / f"{name}.json"), tmp_path / f"{name}.svg")
    ]
    assert first_contents == again
    assert b"<script" not in first_contents[0]
    ElementTree.fromstring(first_contents[0])
    lines = list(csv.reader((tmp_path / f"{name}.csv").read_text().splitlines()))
    assert len({len(line) for line in lines}) == 1
    assert len(lines) > 1


def test_matrices_have_one_symmetric_scale() -> None:
    chart = some_charts()["matrices"]
    assert attention_panels.largest_entry([chart]) == 2.0
    (panel,) = charts_svg.chart_panels(chart, charts_svg.ChartContext())
    assert "from \N{MINUS SIGN}2 (blue) over 0 (white) to 2 (orange)" in panel.description
    larger = chart.model_copy(
        update={"matrices": (chart.matrices[0].model_copy(update={"values": ((3.0,),)}),)}
    )
    panels = charts_svg.matrix_panels([chart, larger], charts_svg.ChartContext())
    assert all("2 (blue)" not in panel.description for panel in panels)
    assert all("3 (blue)" in panel.description for panel in panels)


def test_every_panel_of_distances_has_the_same_axis() -> None:
    panels = charts_svg.chart_panels(some_charts()["distance"], charts_svg.ChartContext())
    ticks = [
        [e for e in panel.elements if e.startswith("<text") and 'text-anchor="end">' in e][1:]
        for panel in panels
    ]
    assert ticks[0] == ticks[1]
    assert attention_panels.largest_distance(some_charts()["distance"].checkpoints) == 5.0


def test_a_matrix_figure_warns_that_m_is_not_identified() -> None:
    assert "up to a complex factor" in charts_svg.chart_caption(some_charts()["matrices"])


def test_a_picture_must_be_named_svg(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.svg"):
        write_figure(some_charts()["loss"], tmp_path / "x.png")


# --------------------------------------------------------------------------------------- verbs and
# report


def test_figures_from_the_command_line_stand_in_the_report(
    harope: Any, make_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    make_checkpoint("tiny-rope")
    runs = tmp_path / "runs"
    run("generate", "tiny-rope", "--count", 2, "--steps", 1, "--out", runs / "tiny-rope")
    words = ("--count", 2, "--timesteps", "500", "--steps", 2)
    output = run(
        "figure",
        "attention-distance",
        "tiny-rope",
        "tiny-harope",
        *words,
        "--out",
        runs / "figures/distance.svg",
    ).stdout
    assert "uniform attention" in output
    output = run(
        "figure",
        "matrices",
        "tiny-harope",
        "--show",
        "operator",
        "--offset",
        "1,0",
        "--out",
        runs / "figures/heads.svg",
    ).stdout
    assert "note: M is defined only up to" in output
    (tmp_path / "log.txt").write_text(RELEASE)
    run("figure", "loss", tmp_path / "log.txt", "--ema", 0.9, "--out", runs / "figures/loss.svg")
    run("report", "--runs", runs, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert "up to a complex factor" in page
    assert "uniform attention" in page
    data = json.loads((runs / "figures/distance.json").read_text())
    assert {first_data["checkpoint"] for first_data in data["checkpoints"]} == {
        "tiny-rope",
        "tiny-harope",
    }


def test_the_report_draws_from_data_and_never_takes_a_foreign_picture(tmp_path: Path) -> None:
    fake_runs.micro_run(tmp_path / "run", "harope", samples=2)
    write_figure(some_charts()["distance"], tmp_path / "figures/d.svg")
    (tmp_path / "figures/d.svg").write_text("<svg><script>steal()</script></svg>")
    (tmp_path / "figures/other.svg").write_text("<svg><script>steal()</script></svg>")
    page = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert "steal" not in page
    assert "<script>alert" not in page
    assert "digits-harope" in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_damaged_data_are_named(tmp_path: Path) -> None:
    fake_runs.micro_run(tmp_path / "run", "harope", samples=2)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.json").write_text('{"kind": "loss", "smoothing": 0, "curves": []}')
    with pytest.raises(StorageError, match=r"x\.json"):
        write_report(tmp_path, tmp_path / "report.html")


def test_loss_and_report_need_no_torch(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    (tmp_path / "log.txt").write_text(RELEASE)
    arguments = ["figure", "loss", str(tmp_path / "log.txt"), "--out", str(tmp_path / "x.svg")]
    code = (
        "import sys\nfrom harope_bench.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy()
    )
    assert process.returncode == 0, process.stderr[-2000:]
