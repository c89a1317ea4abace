"""Folding: the same outputs without the matrices, in the network, in a file, and in a plan that
says so.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dit_files import SMALL_CONFIG, state_of
from torch import Tensor, nn

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.encodings.base import QueryKeyMatrices
from harope_bench.models.backbones import dit, folding
from harope_bench.models.export_checkpoint import export_checkpoint
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator
from harope_bench.models.register_checkpoint import register
from harope_bench.pipeline.generate import generate_one, make_plan

PLUGIN = registry.load_by_name("backbones", "dit")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(encoding: str, **options: Any) -> dit.DiT:
    built_network: dit.DiT = PLUGIN.build(encoding, options, SMALL_CONFIG)
    built_network.load_state_dict(state_of(SMALL_CONFIG, encoding, 0.2, **options))
    return built_network


# ------------------------------------------------------------------------------------------
# projections


@pytest.mark.parametrize("count", [3, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_projection_is_the_matrix_after_the_projection(count: int, bias: bool) -> None:
    """Separate layers, as in SD3: every head by its own matrix, or all by one."""
    layer, matrix, x = nn.Linear(10, 3 * 4, bias=bias), noise(count, 4, 4), noise(5, 10, seed=1)
    with torch.no_grad():
        heads = layer(x).unflatten(-1, (3, 4))  # (5, heads, d)
        expected = (
            torch.stack([matrix[h % count] @ heads[:, h].T for h in range(3)])
            .permute(2, 0, 1)
            .flatten(1)
        )
        folding.fold_linear(layer, matrix)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_fused_projections_fold_queries_and_keys_and_leave_values(bias: bool) -> None:
    """Fused layers, as in DiT and DeiT."""
    layer, x = nn.Linear(10, 3 * 12, bias=bias), noise(5, 10, seed=1)
    pair = QueryKeyMatrices(noise(3, 4, 4), noise(3, 4, 4, seed=2))
    with torch.no_grad():
        parts = layer(x).unflatten(-1, (3, 3, 4))
        expected = parts.clone()
        for head in range(3):
            expected[:, 0, head] = parts[:, 0, head] @ pair.q[head].T
            expected[:, 1, head] = parts[:, 1, head] @ pair.k[head].T
        folding.fold_fused(layer, pair)
        torch.testing.assert_close(
            layer(x).unflatten(-1, (3, 3, 4)), expected, rtol=1e-5, atol=1e-5
        )


def test_products_are_taken_in_float64_and_keep_their_dtype() -> None:
    """Numbers that float32 sums lose: 1e8 + 1 - 1e8."""
    weight = torch.tensor([[1e8], [1.0], [-1e8]])
    fold_projection = folding.fold_projection(
        folding.Projection(weight, weight[:, 0]), torch.ones(1, 3, 3)
    )
    assert fold_projection.weight.dtype == torch.float32
    assert fold_projection.weight.tolist() == [[1.0]] * 3
    assert fold_projection.bias is not None
    assert fold_projection.bias.tolist() == [1.0] * 3


# ----------------------------------------------------------------------------------------------
# networks

FOLDABLE = [
    ("harope", {}),
    ("harope", {"qk_mode": "same"}),
    ("harope", {"base": 100.0, "axis_order": "column-first"}),
    ("rope-matrix", {"matrix": "normal", "per_head": True}),
    ("rope-matrix", {"matrix": "orthogonal", "layout": "half-split"}),
    ("rope-matrix", {"matrix": "svd", "per_head": False}),
    ("string", {}),
    ("string", {"map": "cayley", "per_head": True}),
]


@pytest.mark.parametrize(("encoding", "options"), FOLDABLE)
def test_a_folded_dit_computes_the_same_on_any_grid(encoding: str, options: dict[str, Any]) -> None:
    net = network(encoding, **options)
    cases = [
        (noise(2, 4, *shape), torch.tensor([3.0, 900.0]), torch.tensor([1, 10]))
        for shape in ((8, 8), (6, 12))
    ]
    with torch.no_grad():
        before = [net(*case) for case in cases]
        PLUGIN.fold(net, "a test")
        assert net.encoding.properties.foldable is False
        assert type(net.encoding).__name__ == "RopeAxial"
        assert not list(net.encoding.parameters())
        for case, expected in zip(cases, before, strict=True):
            off = (net(*case) - expected).square().mean().sqrt()
            assert off <= 1e-5 * expected.square().mean().sqrt()
            assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("rope-axial", {}),
        ("rope-mixed", {}),
        ("rope-svd-control", {}),
        ("string", {"map": "circulant"}),
    ],
)
def test_what_has_no_matrix_before_the_rotation_does_not_fold(
    encoding: str, options: dict[str, Any]
) -> None:
    with pytest.raises(
        OptionError,
        match=(
            f"{encoding} with these options has no matrix that can be folded into the"
            " projections; run it with --no-fold"
        ),
    ):
        PLUGIN.fold(network(encoding, **options), "a test")


def test_a_fold_that_changes_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's form folded as the released one: keys get the wrong matrix."""
    right = folding.float64_matrices
    monkeypatch.setattr(
        folding,
        "float64_matrices",
        lambda encoding: [QueryKeyMatrices(pair.q, pair.q) for pair in right(encoding)],
    )
    with pytest.raises(
        WeightsError, match="a test differs after folding by .*generate with --no-fold"
    ):
        PLUGIN.fold(network("harope"), "a test")


# ------------------------------------------------------------------------------------------ plans,
# files


def test_a_shipped_checkpoint_is_folded_only_where_the_plan_says_so() -> None:
    plain_plan, folded_plan = (
        make_plan("digits-harope", None, {"steps": 2}),
        make_plan("digits-harope", None, {"steps": 2, "fold": True}),
    )
    assert plain_plan.settings.fold is None
    assert "fold" not in plain_plan.digest_fields()["settings"]  # runs of before keep their digest
    assert folded_plan.digest != plain_plan.digest
    generated_ones = [
        generate_one(open_generator(p.checkpoint, p.settings), p, 3).astype(int)
        for p in (plain_plan, folded_plan)
    ]
    assert (
        np.abs(generated_ones[0] - generated_ones[1]).max() <= 1
    )  # of 255: rounding may cut a level elsewhere
    with pytest.raises(
        OptionError,
        match=(
            "fold does not apply to checkpoint digits-rope-axial: rope-axial with these options has"
            " no matrix that can be folded into the projections"
        ),
    ):
        make_plan("digits-rope-axial", None, {"fold": True})


def test_an_exported_fold_is_a_plain_rope_checkpoint_with_the_same_images(tmp_path: Path) -> None:
    path = export_checkpoint("digits-harope", tmp_path / "plain.safetensors", is_folded=True)
    document = tomllib.loads(register("plain", path, {}).read_text())
    assert document["encoding"] == "rope-axial"
    assert document["options"] == {
        "base": 10000.0,
        "axis_order": "row-first",
        "layout": "interleaved",
    }
    original = load_checkpoint_record("digits-harope")
    for text in (
        "config",
        "sampler",
        "steps",
        "guidance",
        "suite",
        "scale",
        "recipe_sha256",
        "training_seed",
    ):
        assert document[text] == getattr(original, text)
    generated_records = []
    for name in ("digits-harope", "plain"):
        plan = make_plan(name, None, {"steps": 4})
        generated_records.append(
            generate_one(open_generator(plan.checkpoint, plan.settings), plan, 3).astype(int)
        )
    assert np.abs(generated_records[0] - generated_records[1]).max() <= 1
    assert generated_records[0].std() > 10


def test_an_export_without_folding_draws_the_same_bits(tmp_path: Path) -> None:
    register(
        "again",
        export_checkpoint("digits-string", tmp_path / "again.safetensors", is_folded=False),
        {},
    )
    assert load_checkpoint_record("again").encoding == "string"
    generated_records = []
    for name in ("digits-string", "again"):
        plan = make_plan(name, None, {"steps": 2})
        generated_records.append(
            generate_one(open_generator(plan.checkpoint, plan.settings), plan, 3)
        )
    assert np.array_equal(*generated_records)
    assert (
        export_checkpoint(
            "digits-string", tmp_path / "twice.safetensors", is_folded=False
        ).read_bytes()
        == (tmp_path / "again.safetensors").read_bytes()
    )


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="rope-axial with these options has no matrix"):
        export_checkpoint("digits-rope-axial", tmp_path / "x.safetensors", is_folded=True)
    with pytest.raises(OptionError, match="has another suffix than .safetensors"):
        export_checkpoint("digits-harope", tmp_path / "x.pt", is_folded=True)
    assert not list(tmp_path.iterdir())
