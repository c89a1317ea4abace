"""Attention distance of FLUX and SD3 against the library's own attention, every pair of image
tokens by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner
from slow_attention import slow_distance

from harope_bench.analysis import attention_distance
from harope_bench.core import registry
from harope_bench.core.chart_schema import CheckpointDistances, read_chart
from harope_bench.core.schema import Plan
from harope_bench.core.state_dicts import weights_bytes
from harope_bench.pipeline.generate import make_plan

tiny.needs_t2i()

from harope_bench.cli import main  # noqa: E402
from harope_bench.models.register_checkpoint import register  # noqa: E402

STEPS, TIMES = 4, (600.0,)
GRID = np.array([(row, column) for row in range(4) for column in range(4)], dtype=float)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny pipeline a kind."""
    return {
        kind: tiny.save_pipeline(tmp_path_factory.mktemp(kind) / "base", kind)
        for kind in ("flux", "sd3")
    }


def prompt_plan(name: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Plan:
    tiny.register_prompts(monkeypatch)
    settings = {"steps": STEPS, "guidance": 3.5, "dtype": "float32", **settings}
    return make_plan(name, "four-prompts", settings)


class Spy:
    """The library's processor, noting the queries and keys of the image tokens that its norms and
    its rotation leave.
    """

    def __init__(self, kind: str, inner_value: Any, items: list[tuple[np.ndarray, np.ndarray]]):
        self.kind, self.inner, self.caught = kind, inner_value, items

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Any = None,
        *inputs: Any,
        **fields: Any,
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        q, k = (
            to(hidden_states).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k)
        )  # (B, N, heads, d)
        if self.kind == "flux":
            q, k = attn.norm_q(q), attn.norm_k(k)
            cos, sin = inputs[1]
            table = (
                (cos, sin)
                if encoder_hidden_states is None
                else (cos[-q.shape[1] :], sin[-q.shape[1] :])
            )
            q, k = (apply_rotary_emb(x, table, sequence_dim=1) for x in (q, k))
        q, k = (
            x[-1, -16:].transpose(0, 1).double().numpy() for x in (q, k)
        )  # the last row, its image tokens: (heads, 16, d)
        self.caught.append((q, k))
        return self.inner(attn, hidden_states, encoder_hidden_states, *inputs, **fields)


def by_hand(kind: str, base: Path, plan: Plan, images: int) -> tuple[np.ndarray, float]:
    """Distances (layers, heads) in tokens of the untouched pipeline at the step whose time is
    nearest, and that time.
    """
    backbone = registry.load_by_name("backbones", kind)
    pipe, records, result = backbone.load_pipeline(base, plan.settings), [], []
    names = pipe.transformer.attn_processors
    pipe.transformer.set_attn_processor(
        {name: Spy(kind, inner_name, records) for name, inner_name in names.items()}
    )
    drawer = backbone.generator_class(pipe, None, backbone.parse_config({"base": str(base)}))
    for request in tiny.PLUGIN.requests(range(images)):
        records.clear()
        drawer.generate([request], plan.settings)
        assert len(records) == STEPS * len(names)
        values = pipe.scheduler.timesteps.tolist()
        step = min(range(STEPS), key=lambda n: abs(values[n] - TIMES[0]))
        layers = records[step * len(names) : (step + 1) * len(names)]
        result.append(
            [[slow_distance(q[head], k[head], GRID) for head in range(len(q))] for q, k in layers]
        )
    return np.mean(result, 0), values[step]


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_distance_of_the_plain_pipeline_equals_one_made_by_hand(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """FLUX with its rotation, SD3 with its table; the prompt's branch alone where both are drawn
    together.
    """
    register("plain", bases[kind], {})
    plan = prompt_plan("plain", monkeypatch)
    distances = attention_distance.measure_distances(plan, 2, TIMES)
    expected, time = by_hand(kind, bases[kind], plan, 2)
    np.testing.assert_allclose(distances.pixels, 16 * expected, rtol=1e-4)  # 16 pixels a token
    assert distances.timesteps == pytest.approx((time,))
    assert (
        distances.excluded_tokens,
        distances.tokens,
        distances.token_pixels,
        distances.images,
    ) == (
        "text tokens",
        16,
        16.0,
        2,
    )
    assert distances.uniform_distance == pytest.approx(
        16 * np.mean([np.linalg.norm(GRID - first_value, axis=1).mean() for first_value in GRID])
    )
    np.testing.assert_allclose(
        distances.standard_deviation, np.std(16 * expected, axis=1), rtol=1e-3
    )


def register_trial(kind: str, base: Path, path: Path, encoding: str, **options: Any) -> Any:
    """Registers `trial` with an encoding that is no longer the identity, and returns its
    network.
    """
    backbone = registry.load_by_name("backbones", kind)
    network = tiny.train_encoding(
        backbone.attach_encoding(
            backbone.load_pipeline(base, tiny.settings()).transformer, encoding, options
        )
    )
    path.write_bytes(weights_bytes(network.state_dict(), {}))
    register(
        "trial", path, {"config": {"base": str(base)}, "encoding": encoding, "options": options}
    )
    return network


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_a_fold_is_seen_as_what_it_is(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Matrices in the weights or beside them: the same scores; without them others."""
    register_trial(kind, bases[kind], tmp_path / "w.safetensors", "harope", qk_mode="same")
    distances = {
        fold: attention_distance.measure_distances(
            prompt_plan("trial", monkeypatch, fold=fold), 1, TIMES
        )
        for fold in (True, False)
    }
    np.testing.assert_allclose(distances[True].pixels, distances[False].pixels, rtol=1e-4)
    register("plain", bases[kind], {"encoding": "rope-axial"})
    plain_distances = attention_distance.measure_distances(
        prompt_plan("plain", monkeypatch), 1, TIMES
    )
    assert not np.allclose(plain_distances.pixels, distances[True].pixels, rtol=1e-2)


def test_the_control_counts_with_its_matrix_after_the_rotation(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first layer alone are the inputs those of the plain network at the first step."""
    network = register_trial(
        "flux", bases["flux"], tmp_path / "w.safetensors", "rope-svd-control", qk_mode="same"
    )
    distances = attention_distance.measure_distances(
        prompt_plan("trial", monkeypatch), 1, (1000.0,)
    )
    register("plain", bases["flux"], {})
    items: list[Any] = []
    original_add = attention_distance._DistanceSums.add
    monkeypatch.setattr(
        attention_distance._DistanceSums,
        "add",
        lambda self, *inputs: items.append(inputs) or original_add(self, *inputs),
    )
    attention_distance.measure_distances(prompt_plan("plain", monkeypatch), 1, (1000.0,))
    layer, q, k, positions = items[0]
    pair = network.encoding.control_matrices(layer)
    expected = attention_distance.attention_distances(
        q @ pair.q.detach().mT, k @ pair.k.detach().mT, positions
    )
    np.testing.assert_allclose(distances.pixels[0], 16 * expected[0].numpy(), rtol=1e-4)


def test_a_second_attention_of_the_image_alone_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SD3.5 has one in its first layers; the figure is of the joint attention."""
    base = tiny.save_pipeline(
        tmp_path / "base", "sd3", dual_attention_layers=(0,), qk_norm="rms_norm"
    )
    register("dual", base, {})
    calls: list[int] = []
    original_add = attention_distance._DistanceSums.add
    monkeypatch.setattr(
        attention_distance._DistanceSums,
        "add",
        lambda self, layer, *inputs: calls.append(layer) or original_add(self, layer, *inputs),
    )
    distances = attention_distance.measure_distances(prompt_plan("dual", monkeypatch), 1, TIMES)
    assert calls == [0, 1]
    assert len(distances.pixels) == 2


def test_watching_a_table_leaves_the_output(bases: dict[str, Path]) -> None:
    backbone = registry.load_by_name("backbones", "sd3")
    network = backbone.attach_encoding(
        backbone.load_pipeline(bases["sd3"], tiny.settings()).transformer, *backbone.base_encoding
    )
    inputs = backbone.trial_inputs(network)
    before = tiny.outputs(network, inputs)
    backbone.expose_attention(network)
    assert tiny.relative_distance(tiny.outputs(network, inputs), before) <= 1e-6
    assert network.token_positions is not None


def test_only_the_asked_way_is_drawn(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first step there is nothing more to see, so one forward more stops it."""
    register("plain", bases["flux"], {})
    from diffusers import FluxTransformer2DModel

    calls: list[int] = []
    original_forward = FluxTransformer2DModel.forward
    monkeypatch.setattr(
        FluxTransformer2DModel,
        "forward",
        lambda self, *a, **n: calls.append(1) or original_forward(self, *a, **n),
    )
    attention_distance.measure_distances(prompt_plan("plain", monkeypatch), 3, (1000.0,))
    assert len(calls) == 3


def test_the_figure_of_a_pipeline(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.register_prompts(monkeypatch)
    register("plain", bases["flux"], {})
    words = (
        "figure",
        "attention-distance",
        "plain",
        "--suite",
        "four-prompts",
        "--count",
        "2",
        "--steps",
        "4",
        "--out",
    )
    command_result = CliRunner().invoke(main, [*words, str(tmp_path / "d.svg")])
    assert command_result.exit_code == 0, command_result.output
    assert command_result.output.strip().endswith("px; text tokens excluded")
    chart = read_chart(tmp_path / "d.json")
    assert "text tokens left out of queries and keys" in chart.settings_text
    run = chart.checkpoints[0]
    assert isinstance(run, CheckpointDistances)
    assert run.timesteps == pytest.approx(
        (826.064, 612.866, 345.419)
    )  # of five asked for, the nearest steps, each once
