"""Encodings: contracts over the registry, and each against its formula written out by hand."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor, nn

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.encodings import base
from harope_bench.encodings.ape import Ape
from harope_bench.encodings.harope import Harope
from harope_bench.encodings.rope_axial import RopeAxial
from harope_bench.encodings.string import String
from harope_bench.encodings.videorope import VideoRope
from harope_bench.testing import check_encoding

TABLE_2 = {"ape", "harope", "rope-axial", "rope-vanilla", "string", "videorope"}
# Rotations happen in float32: values of size 4 times a few roundings of 6e-8.
FLOAT32 = 2e-6


def grid(rows: int, columns: int) -> Tensor:
    return torch.tensor([(r, c) for r in range(rows) for c in range(columns)], dtype=torch.float32)


def make(
    name: str, head_dim: int = 16, heads: int = 2, layers: int = 2, **options: object
) -> base.Encoding:
    shape = base.ModelShape(width=heads * head_dim, heads=heads, head_dim=head_dim, layers=layers)
    return base.build_encoding(registry.load_by_name("encodings", name), shape, options)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train(
    encoding: base.Encoding, deviation: float = 0.4, skip: tuple[str, ...] = ()
) -> base.Encoding:
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(encoding.named_parameters()):
            if name not in skip:
                parameter.add_(deviation * noise(*parameter.shape, seed=seed))
    return encoding


def scores(
    encoding: base.Encoding, q: Tensor, k: Tensor, positions: Tensor, layer: int = 0
) -> Tensor:
    q, k = encoding.rotate(q, k, positions, layer)
    return (q.double() @ k.double().mT).detach()


# ------------------------------------------------------------------------------------- contracts


def test_every_encoding_of_table_2_is_registered() -> None:
    assert set(registry.list_names("encodings")) >= TABLE_2


@pytest.mark.parametrize("name", registry.list_names("encodings"))
def test_encoding_keeps_its_promises(name: str) -> None:
    check_encoding(name, head_dim=16, grids=[(4, 4), (3, 5)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("harope", {"qk_mode": "same"}),
        ("harope", {"base": 100.0}),
        ("videorope", {"temporal_fraction": 0.0}),
        ("string", {"base": 30000}),
    ],
)
def test_encoding_keeps_its_promises_with_options(name: str, options: dict[str, object]) -> None:
    check_encoding(name, head_dim=32, grids=[(4, 4), (5, 2)], options=options)


class CachedByLength(RopeAxial):
    """Answers from the first call with as many tokens."""

    def __init__(self, shape: base.ModelShape, options: base.EncodingOptions):
        super().__init__(shape, options)
        self.tables: dict[int, base.RotationAngles] = {}

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        angles = self.tables.setdefault(
            len(positions),
            base.axial_angles(positions, self.shape, self.options, self.scaling, "x"),
        )
        return base.rotate_planes(q, angles), base.rotate_planes(k, angles)


class CachedMatrix(String):
    """Keeps the basis it was built with."""

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "kept"):
            self.kept = self.skew.detach().clone()
        angles = base.axial_angles(positions, self.shape, self.options, self.scaling, "x")
        basis = torch.linalg.matrix_exp((self.kept[layer] - self.kept[layer].mT) / 2).to(q.dtype)
        return base.rotate_planes(q @ basis.mT, angles), base.rotate_planes(k @ basis.mT, angles)


class CoarsePositions(RopeAxial):
    """Takes positions to the dtype of q: bfloat16 cannot count beyond 256."""

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return super().rotate(q, k, positions.to(q.dtype), layer)


class ClaimsRelative(Ape):
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )


class ClaimsAbsolute(RopeAxial):
    properties = base.EncodingProperties(
        relative=False, orthogonal=True, identity_at_init=True, per_head=False, foldable=False
    )


class ClaimsOrthogonal(Harope):
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=True, per_head=True, foldable=True
    )


class ClaimsStretching(String):
    properties = base.EncodingProperties(
        relative=True, orthogonal=False, identity_at_init=True, per_head=False, foldable=True
    )


class ClaimsPerHead(String):
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=True, per_head=True, foldable=True
    )


class ClaimsShared(Harope):
    properties = base.EncodingProperties(
        relative=True, orthogonal=False, identity_at_init=True, per_head=False, foldable=True
    )


class ClaimsAxialStart(VideoRope):
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=True, per_head=False, foldable=False
    )


class ClaimsOtherStart(RopeAxial):
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )


class MatrixAfterRotation(String):
    """Breaks relativity and cannot be folded, whatever it claims."""

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        angles = base.axial_angles(positions, self.shape, self.options, self.scaling, "x")
        m = torch.eye(q.shape[-1], dtype=q.dtype) + self.skew[layer]
        return base.rotate_planes(q, angles) @ m, base.rotate_planes(k, angles) @ m


class UnusedParameter(RopeAxial):
    def __init__(self, shape: base.ModelShape, options: base.EncodingOptions):
        super().__init__(shape, options)
        self.idle = nn.Parameter(torch.zeros(3))


class RandomInside(RopeAxial):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return super().rotate(q + torch.randn_like(q), k, positions, layer)


class HiddenState(RopeAxial):
    """A tensor that matters and is in no state dict."""

    def __init__(self, shape: base.ModelShape, options: base.EncodingOptions):
        super().__init__(shape, options)
        self.scale = nn.Parameter(torch.ones(1))
        self.first: Tensor | None = None

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self.first = self.scale.detach().clone() if self.first is None else self.first
        q, k = super().rotate(
            q * self.first * self.scale / self.scale.detach(), k, positions, layer
        )
        return q, k


class SequenceOrder(RopeAxial):
    """Uses the place in the sequence and ignores the positions it is given."""

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        tensor = torch.stack((torch.arange(len(positions)), torch.arange(len(positions))), 1)
        return super().rotate(q, k, tensor, layer)


class BagOfOptions(RopeAxial):
    class Options(base.EncodingOptions):
        model_config = {"extra": "allow"}
        base: float = 10000.0


class WidensResults(RopeAxial):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        q, k = super().rotate(q, k, positions, layer)
        return q.float(), k.float()


class InPlace(Ape):
    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            tokens.copy_(super().embed(tokens, positions))
        return tokens


class UnseededScale(RopeAxial):
    """A random factor of queries that is in no state dict."""

    def __init__(self, shape: base.ModelShape, options: base.EncodingOptions):
        super().__init__(shape, options)
        self.scale = torch.rand(())

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return super().rotate(self.scale.to(q.dtype) * q, k, positions, layer)


class UnseededValues(RopeAxial):
    """A random vector that is added to values and is in no state dict."""

    offset: Tensor

    def __init__(self, shape: base.ModelShape, options: base.EncodingOptions):
        super().__init__(shape, options)
        self.make_offset(shape)

    def make_offset(self, shape: base.ModelShape) -> None:
        self.offset = torch.randn(shape.head_dim)

    def transform_values(self, v: Tensor, layer: int) -> Tensor:
        return v + self.offset.to(v.dtype)


class SavedValues(UnseededValues):
    def make_offset(self, shape: base.ModelShape) -> None:
        self.register_buffer("offset", torch.randn(shape.head_dim))


class SeededValues(UnseededValues):
    def make_offset(self, shape: base.ModelShape) -> None:
        self.offset = torch.randn(shape.head_dim, generator=torch.Generator().manual_seed(0))


class IdentityEncoding(base.Encoding):
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = "nowhere"


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (CachedByLength, "never cache by length"),
        (CachedMatrix, "never cache across steps"),
        (CoarsePositions, "in bfloat16"),
        (ClaimsRelative, "declares relative, but"),
        (ClaimsAbsolute, "declares relative=False"),
        (ClaimsOrthogonal, "declares orthogonal, but"),
        (ClaimsStretching, "declares orthogonal=False"),
        (ClaimsPerHead, "declares per_head, but"),
        (ClaimsShared, "declares per_head=False"),
        (ClaimsAxialStart, "declares identity_at_init, but"),
        (ClaimsOtherStart, "declares identity_at_init=False"),
        (MatrixAfterRotation, "declares foldable, but"),
        (MatrixAfterRotation, "declares relative, but"),
        (UnusedParameter, "no gradient reaches idle"),
        (RandomInside, "draws random numbers"),
        (HiddenState, "not in the state dict"),
        (UnseededScale, "register random constants as buffers, or make them from a seeded"),
        (UnseededValues, "register random constants as buffers, or make them from a seeded"),
        (SequenceOrder, "index in the sequence matters"),
        (BagOfOptions, "accepts an unknown option"),
        (WidensResults, "torch.bfloat16 into"),
        (InPlace, "changes its inputs in place"),
        (IdentityEncoding, "encodes nothing"),
        (IdentityEncoding, "scores do not depend on positions"),
    ],
)
def test_the_contract_catches_a_broken_promise(liar: type[base.Encoding], message: str) -> None:
    with pytest.raises(AssertionError, match="breaks its contract") as excinfo:
        check_encoding(liar)
    assert message in str(excinfo.value)


@pytest.mark.parametrize("encoding_class", [SavedValues, SeededValues])
def test_random_constants_in_the_state_dict_or_of_a_seed_hold(
    encoding_class: type[base.Encoding],
) -> None:
    assert check_encoding(encoding_class) == 16


# ------------------------------------------------------------------------------ formulas by hand


def test_ape_is_dits_table_column_first() -> None:
    width, rows, columns = 32, 3, 5
    encoding = make("ape")
    table = encoding.embed(torch.zeros(1, rows * columns, width), grid(rows, columns))[0].numpy()
    quarter = width // 4
    for r in range(rows):
        for c in range(columns):
            expected = []
            for p in (c, r):  # DiT's meshgrid(grid_w, grid_h): "here w goes first"
                frequencies = [1 / 10000 ** (i / quarter) for i in range(quarter)]
                expected += [math.sin(p * w) for w in frequencies] + [
                    math.cos(p * w) for w in frequencies
                ]
            np.testing.assert_allclose(
                table[r * columns + c], np.array(expected, dtype=np.float32), rtol=0, atol=1e-7
            )  # one rounding
    row_first = np.concatenate([table[:, 2 * quarter :], table[:, : 2 * quarter]], 1)
    assert np.abs(row_first - table).max() > 0.5  # the wrong order would not have passed


def test_ape_adds_and_leaves_queries_alone() -> None:
    encoding, tokens, (q, k) = make("ape"), noise(2, 6, 32), noise(2, 1, 2, 6, 16)
    positions = grid(2, 3)
    assert torch.equal(
        encoding.embed(tokens, positions),
        tokens + encoding.embed(torch.zeros_like(tokens), positions),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(encoding.rotate(q, k, positions, 0), (q, k), strict=True)
    )


def by_complex_numbers(x: Tensor, angle_of: object) -> np.ndarray:
    """Rotates plane j = channels (2j, 2j+1) of x (B, heads, N, d) by angle_of(n, j), one number at
    a time.
    """
    values = x.double().numpy()
    out = np.empty_like(values)
    for b, h, n, j in np.ndindex(*values.shape[:3], values.shape[3] // 2):
        turned_complex = complex(*values[b, h, n, 2 * j : 2 * j + 2]) * cmath.exp(
            1j * angle_of(n, j)
        )  # type: ignore[operator]
        out[b, h, n, 2 * j : 2 * j + 2] = turned_complex.real, turned_complex.imag
    return out


def assert_turned(encoding: base.Encoding, positions: Tensor, angle_of: object) -> None:
    d = encoding.shape.head_dim
    q, k = noise(2, 1, 2, len(positions), d)
    for before, after in zip((q, k), encoding.rotate(q, k, positions, 0), strict=True):
        np.testing.assert_allclose(
            after.numpy(), by_complex_numbers(before, angle_of), rtol=0, atol=FLOAT32
        )


def test_axial_turns_the_first_half_with_the_row_and_the_second_with_the_column() -> None:
    d, positions = 16, grid(3, 5)

    def angle(n: int, j: int) -> float:
        i, axis = j % (d // 4), j // (d // 4)
        return float(positions[n, axis]) * 10000 ** (-2 * i / (d / 2))

    assert_turned(make("rope-axial", head_dim=d), positions, angle)


def test_axial_takes_another_base() -> None:
    d, positions = 8, grid(2, 4)
    assert_turned(
        make("rope-axial", head_dim=d, base=100),
        positions,
        lambda n, j: float(positions[n, j // 2]) * 100 ** (-2 * (j % 2) / (d / 2)),
    )


def test_axial_keeps_precision_at_far_positions() -> None:
    positions = grid(1, 2) + torch.tensor([0.0, 4095.0])
    assert_turned(
        make("rope-axial"),
        positions,
        lambda n, j: float(positions[n, j // 4]) * 10000 ** (-2 * (j % 4) / 8),
    )


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 7)])
def test_vanilla_turns_all_planes_with_the_raster_index(shape: tuple[int, int]) -> None:
    d = 16
    assert_turned(
        make("rope-vanilla", head_dim=d), grid(*shape), lambda n, j: n * 10000 ** (-2 * j / d)
    )


def test_videorope_of_64_channels_rests_8_planes_and_alternates_12_rows_and_12_columns() -> None:
    d, positions = 64, grid(3, 5)
    axis = ["row", "column"] * 12 + ["time"] * 8
    assert (axis.count("row"), axis.count("column"), axis.count("time"), len(axis)) == (
        12,
        12,
        8,
        d // 2,
    )

    def angle(n: int, j: int) -> float:
        row, column = positions[n].tolist()
        return {"row": row, "column": column, "time": 0.0}[axis[j]] * 10000 ** (-2 * j / d)

    encoding = make("videorope", head_dim=d)
    assert_turned(encoding, positions, angle)
    q, k = noise(2, 1, 2, len(positions), d)
    assert torch.equal(encoding.rotate(q, k, positions, 0)[0][..., -16:], q[..., -16:])


def test_videorope_without_time_moves_every_plane() -> None:
    d, positions = 16, grid(3, 4)
    assert_turned(
        make("videorope", head_dim=d, temporal_fraction=0),
        positions,
        lambda n, j: float(positions[n, j % 2]) * 10000 ** (-2 * j / d),
    )


def rotation(d: int, row: float, column: float) -> np.ndarray:
    """Axial R(row, column) as a matrix (d, d)."""
    out = np.zeros((d, d))
    for j in range(d // 2):
        angle = (row, column)[j // (d // 4)] * 10000 ** (-2 * (j % (d // 4)) / (d / 2))
        out[2 * j : 2 * j + 2, 2 * j : 2 * j + 2] = [
            [math.cos(angle), -math.sin(angle)],
            [math.sin(angle), math.cos(angle)],
        ]
    return out


def exponential_of_skew_part(raw_tensor: Tensor) -> np.ndarray:
    a = raw_tensor.detach().double().numpy()
    return expm((a - a.T) / 2)


def assert_matrices(
    encoding: base.Encoding,
    positions: Tensor,
    layer: int,
    on_q: list[np.ndarray],
    on_k: list[np.ndarray],
) -> None:
    """rotate equals R(p) Mq q and R(p) Mk k, head by head, vector by vector."""
    d = encoding.shape.head_dim
    q, k = noise(2, 2, encoding.shape.heads, len(positions), d)
    for before, after, matrices in zip(
        (q, k), encoding.rotate(q, k, positions, layer), (on_q, on_k), strict=True
    ):
        for b, h, n in np.ndindex(*before.shape[:3]):
            expected = (
                rotation(d, *positions[n].tolist()) @ matrices[h] @ before[b, h, n].double().numpy()
            )
            # float32 expm and products of 16 terms of size up to 5
            np.testing.assert_allclose(after[b, h, n].detach().numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_string_is_one_orthogonal_basis_then_axial(layer: int) -> None:
    encoding = train(make("string"))
    basis = exponential_of_skew_part(encoding.skew[layer])
    np.testing.assert_allclose(basis @ basis.T, np.eye(16), atol=1e-12)
    assert np.abs(basis - np.eye(16)).max() > 0.1
    assert_matrices(encoding, grid(2, 3), layer, [basis] * 2, [basis] * 2)


def svd_form(encoding: base.Encoding, layer: int, head: int) -> np.ndarray:
    """M = U diag(s) V^T of one head, in float64."""
    u, v = (
        exponential_of_skew_part(encoding.A_u[layer, head]),
        exponential_of_skew_part(encoding.A_v[layer, head]),
    )
    s = np.log1p(np.exp(encoding.sigma[layer, head].detach().double().numpy())) + 1e-6
    return u @ np.diag(s) @ v.T


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("mode", ["dual", "same"])
def test_harope_puts_m_on_queries_and_its_inverse_transpose_or_itself_on_keys(
    mode: str, layer: int
) -> None:
    encoding = train(make("harope", qk_mode=mode))
    on_q = [svd_form(encoding, layer, head) for head in range(2)]
    on_k = [np.linalg.inv(m).T for m in on_q] if mode == "dual" else on_q
    assert max(np.linalg.cond(m) for m in on_q) > 2  # far from orthogonal, so the two forms differ
    assert_matrices(encoding, grid(2, 3), layer, on_q, on_k)


@pytest.mark.parametrize("mode", ["dual", "same"])
def test_harope_starts_as_axial(mode: str) -> None:
    positions, (q, k) = grid(4, 7), noise(2, 2, 2, 28, 16)
    for layer in range(2):
        # the release starts with s = 1.000001: it cancels in the dual form and scales scores by
        # 2e-6 in the same form
        torch.testing.assert_close(
            scores(make("harope", qk_mode=mode), q, k, positions, layer),
            scores(make("rope-axial"), q, k, positions),
            rtol=1e-5,
            atol=1e-5,
        )


def test_the_dual_form_leaves_scores_at_offset_zero_alone_and_the_same_form_does_not() -> None:
    (q, k), positions = noise(2, 2, 2, 12, 16), grid(3, 4)
    plain_total = (q.double() * k.double()).sum(-1)
    moved_diagonals = {
        mode: scores(train(make("harope", qk_mode=mode)), q, k, positions).diagonal(
            dim1=-2, dim2=-1
        )
        for mode in ("dual", "same")
    }
    # M^T M^-T = I up to float32: products of 16 terms, condition number below 50
    torch.testing.assert_close(moved_diagonals["dual"], plain_total, rtol=0, atol=2e-4)
    assert (moved_diagonals["same"] - plain_total).abs().max() > 1


def test_both_forms_coincide_where_m_is_orthogonal() -> None:
    (q, k), positions = noise(2, 1, 2, 12, 16), grid(3, 4)
    dual, encoding = (
        train(make("harope", qk_mode=mode), skip=("sigma",)) for mode in ("dual", "same")
    )
    # s = 1.000001 is left: one part in a million twice
    torch.testing.assert_close(
        scores(dual, q, k, positions), scores(encoding, q, k, positions), rtol=1e-5, atol=2e-5
    )
    stretched_encoding = train(make("harope", qk_mode="same"))
    assert (
        scores(stretched_encoding, q, k, positions) - scores(dual, q, k, positions)
    ).abs().max() > 1


def test_a_common_factor_of_m_cancels_in_the_dual_form() -> None:
    (q, k), positions = noise(2, 1, 2, 6, 16), grid(2, 3)
    encoding, scaled_encoding = (train(make("harope"), skip=("sigma",)) for _ in range(2))
    with torch.no_grad():
        scaled_encoding.sigma.fill_(2.0)
    torch.testing.assert_close(
        scores(encoding, q, k, positions),
        scores(scaled_encoding, q, k, positions),
        rtol=0,
        atol=5e-5,
    )


def test_harope_equals_string_with_the_same_orthogonal_matrix() -> None:
    (q, k), positions = noise(2, 1, 2, 12, 16), grid(3, 4)
    string, harope = train(make("string")), make("harope", qk_mode="same")
    with torch.no_grad():
        harope.A_u.copy_(string.skew[:, None].expand_as(harope.A_u))
    torch.testing.assert_close(
        scores(harope, q, k, positions), scores(string, q, k, positions), rtol=1e-5, atol=5e-5
    )


@pytest.mark.parametrize(
    ("name", "heads", "head_dim", "layers", "expected"),
    [
        ("harope", 12, 64, 1, 99_072),  # DiT-B/2, one layer: 2 H d^2 + H d
        ("harope", 12, 64, 12, 1_188_864),
        ("harope", 24, 128, 1, 789_504),  # FLUX
        ("string", 12, 64, 1, 4_096),  # stored d^2, shared by the heads
        ("rope-axial", 12, 64, 12, 0),
        ("rope-vanilla", 12, 64, 12, 0),
        ("videorope", 12, 64, 12, 0),
        ("ape", 12, 64, 12, 0),
    ],
)
def test_parameter_counts_are_the_papers(
    name: str, heads: int, head_dim: int, layers: int, expected: int
) -> None:
    assert sum(p.numel() for p in make(name, head_dim, heads, layers).parameters()) == expected


def test_harope_has_the_releases_start_and_shapes() -> None:
    encoding = make("harope", head_dim=8, heads=3, layers=2)
    assert {name: tuple(p.shape) for name, p in encoding.named_parameters()} == {
        "A_u": (2, 3, 8, 8),
        "A_v": (2, 3, 8, 8),
        "sigma": (2, 3, 8),
    }
    assert not encoding.A_u.any()
    assert not encoding.A_v.any()
    assert encoding.sigma.detach().numpy() == pytest.approx(0.5413, abs=1e-4)
    on_q, on_k = encoding.matrices(0)
    assert on_q[0].detach().numpy() == pytest.approx(1.000001 * np.eye(8), abs=1e-6)
    assert on_k[0].detach().numpy() == pytest.approx(np.eye(8) / 1.000001, abs=1e-6)


def test_harope_moves_both_its_bases_together_at_the_start() -> None:
    """Since S is the identity there, dL/dA_v = -dL/dA_u."""
    encoding, (q, k) = make("harope"), noise(2, 1, 2, 12, 16)
    q, k = encoding.rotate(q, k, grid(3, 4), 0)
    (q @ k.mT).softmax(-1).square().sum().backward()
    torch.testing.assert_close(encoding.A_v.grad, -encoding.A_u.grad, rtol=1e-3, atol=1e-6)
    assert encoding.A_u.grad[0].abs().max() > 1e-3
    assert not encoding.A_u.grad[1].any()  # the other layer's


# ---------------------------------------------------------------------------------------- refusals


def test_an_unknown_encoding_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no encoding named 'harop'; did you mean harope"):
        registry.load_by_name("encodings", "harop")


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(
        OptionError, match=r"'qkmode' of harope.*its options: base, axis_order, layout, qk_mode"
    ):
        make("harope", qkmode="dual")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("harope", {"qk_mode": "paper"}),
        ("videorope", {"temporal_fraction": 1.0}),
        ("videorope", {"temporal_fraction": -0.1}),
        *[
            (name, {"base": bad_count})
            for name in sorted(TABLE_2)
            for bad_count in (0, -1.0, math.inf, math.nan, "much")
        ],
    ],
)
def test_a_value_an_option_does_not_take_is_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "head_dim"), [("rope-axial", 6), ("harope", 18), ("string", 10), ("rope-vanilla", 7)]
)
def test_a_head_that_does_not_divide_into_planes_is_refused(name: str, head_dim: int) -> None:
    q = noise(1, 2, 4, head_dim)
    with pytest.raises(OptionError, match=f"{name} needs a head size divisible by"):
        make(name, head_dim=head_dim).rotate(q, q, grid(2, 2), 0)
