"""Every further encoding and option against its formula, written out by hand in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor, nn

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.encodings import base, detect_encoding
from harope_bench.encodings.scaling import Scaling, frequencies
from harope_bench.testing import check_encoding

D, HEADS, LAYERS = 16, 3, 2
CLOSE_VALUE = 3e-5  # float32 exponentials, and products of 16 terms of size up to 5


def grid(rows: int, columns: int) -> Tensor:
    return torch.tensor([(r, c) for r in range(rows) for c in range(columns)], dtype=torch.float32)


def make(
    name: str,
    d: int = D,
    heads: int = HEADS,
    layers: int = LAYERS,
    seed: int = 0,
    **options: object,
) -> base.Encoding:
    shape = base.ModelShape(width=heads * d, heads=heads, head_dim=d, layers=layers, grid=(4, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return base.build_encoding(registry.load_by_name("encodings", name), shape, options)


def train(encoding: base.Encoding, deviation: float = 0.3) -> base.Encoding:
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, parameter in sorted(encoding.named_parameters()):
            parameter.add_(deviation * torch.randn(parameter.shape, generator=rng))
    return encoding


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plane_turn(x: np.ndarray, angles: np.ndarray, half_split: bool = False) -> np.ndarray:
    """One vector (d,) turned by angles (d/2,)."""
    out = x.copy()
    for j, angle in enumerate(angles):
        a, b = (j, j + len(angles)) if half_split else (2 * j, 2 * j + 1)
        out[a] = x[a] * math.cos(angle) - x[b] * math.sin(angle)
        out[b] = x[a] * math.sin(angle) + x[b] * math.cos(angle)
    return out


def axial(row: float, column: float, d: int = D, theta: float = 10000.0) -> np.ndarray:
    """Angles (d/2,), row first."""
    speeds = np.array([theta ** (-4 * i / d) for i in range(d // 4)])
    return np.concatenate([row * speeds, column * speeds])


def check(
    encoding: base.Encoding,
    expected_value: object,
    positions: Tensor | None = None,
    layer: int = 1,
    tolerance: float = CLOSE_VALUE,
) -> None:
    """rotate(q, k) equals expected_value(vector, head, position, "q" or "k"), vector by vector."""
    positions = grid(2, 3) if positions is None else positions
    q, k = random(2, 1, encoding.shape.heads, len(positions), encoding.shape.head_dim)
    with torch.no_grad():
        rotated_pair = encoding.rotate(q, k, positions, layer)
    for kind, before, after in zip("qk", (q, k), rotated_pair, strict=True):
        for h, n in np.ndindex(*before.shape[1:3]):
            expected = expected_value(
                before[0, h, n].double().numpy(), h, positions[n].tolist(), kind
            )  # type: ignore[operator]
            np.testing.assert_allclose(after[0, h, n].numpy(), expected, rtol=0, atol=tolerance)


# -----------------------------------------------------------------------------------------
# contracts


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[
            ("rope-matrix", {"matrix": matrix, "per_head": per_head, **mode})
            for matrix in ("normal", "orthogonal", "svd")
            for per_head in (False, True)
            for mode in ({}, {"qk_mode": "same"}, {"qk_mode": "dual"})
        ],
        *[
            ("string", {"map": m, "per_head": p})
            for m in ("exp", "cayley", "circulant")
            for p in (False, True)
        ],
        ("string", {"learn_freqs": True}),
        ("string", {"map": "cayley", "per_head": True, "learn_freqs": True}),
        ("head-freq", {"theta": 5000}),
        ("head-freq", {"theta": 50000, "base_progression": "geometric"}),
        ("head-freq", {"bases": "100,1000,10000"}),
        ("harope", {"axis_order": "column-first", "layout": "half-split", "base": 100}),
        ("rope-axial", {"axis_order": "column-first"}),
        ("videorope", {"layout": "half-split"}),
        ("ape", {"form": "sd3", "table": 400}),
    ],
)
def test_encoding_keeps_its_promises_with_these_options(
    name: str, options: dict[str, object]
) -> None:
    check_encoding(name, head_dim=16, grids=[(4, 4), (3, 5)], options=options)


# ---------------------------------------------------------------------------------- axial and its
# options


def test_column_first_swaps_the_halves_and_half_split_pairs_distant_channels() -> None:
    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        return plane_turn(x, axial(at[1], at[0], theta=100.0), half_split=True)

    check(
        make("rope-axial", base=100, axis_order="column-first", layout="half-split"),
        expected_turn,
        tolerance=2e-6,
    )


def test_axes_of_unequal_width_turn_their_own_channels_as_in_flux() -> None:
    shape = base.ModelShape(
        width=128, heads=1, head_dim=128, layers=1, axes=3, axes_dims=(16, 56, 56)
    )
    encoding = base.build_encoding(registry.load_by_name("encodings", "rope-axial"), shape, {})

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        angles = [
            p * 10000 ** (-2 * i / d)
            for p, d in zip(at, (16, 56, 56), strict=True)
            for i in range(d // 2)
        ]
        return plane_turn(x, np.array(angles))

    check(
        encoding,
        expected_turn,
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 127.0], [0.0, 63.0, 1.0]]),
        layer=0,
        tolerance=2e-6,
    )


def test_axes_dims_that_do_not_fill_the_head_are_refused() -> None:
    shape = base.ModelShape(width=32, heads=1, head_dim=32, layers=1, axes=3, axes_dims=(8, 8, 8))
    encoding = base.build_encoding(registry.load_by_name("encodings", "rope-axial"), shape, {})
    with pytest.raises(OptionError, match="add up to the head size 32"):
        encoding.rotate(random(1, 1, 2, 32), random(1, 1, 2, 32), torch.zeros(2, 3), 0)


# ---------------------------------------------------------------------------------- the family of
# Table 6


def on_both(encoding: base.Encoding, layer: int, head: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrices on q and k of a rope-matrix, from its parameters by the paper's formulas."""
    options = encoding.options
    group = head if options.per_head else 0

    def get(name: str) -> np.ndarray:
        return getattr(encoding, name)[layer, group].detach().double().numpy()

    def rotation(a: np.ndarray) -> np.ndarray:
        return expm((a - a.T) / 2)

    if options.matrix == "normal":
        m = get("matrix")
    elif options.matrix == "orthogonal":
        m = rotation(get("orthogonal"))
    else:
        m = (
            rotation(get("A_u"))
            @ np.diag(np.log1p(np.exp(get("sigma"))) + 1e-6)
            @ rotation(get("A_v")).T
        )
    mode = options.qk_mode or ("dual" if options.matrix == "svd" else "same")
    return m, (m if mode == "same" else np.linalg.inv(m).T)


@pytest.mark.parametrize("mode", [None, "same", "dual"])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("matrix", ["normal", "orthogonal", "svd"])
def test_the_family_of_table_6_is_a_matrix_then_axial(
    matrix: str, per_head: bool, mode: str | None
) -> None:
    encoding = train(make("rope-matrix", matrix=matrix, per_head=per_head, qk_mode=mode))

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        on_q, on_k = on_both(encoding, 1, h)
        return plane_turn((on_q if kind == "q" else on_k) @ x, axial(*at))

    check(
        encoding, expected_turn, tolerance=2e-4 if matrix == "normal" else CLOSE_VALUE
    )  # the inverse of a free matrix is less well conditioned


def test_the_shared_orthogonal_member_is_string_and_the_svd_member_per_head_is_harope() -> None:
    q, k = random(2, 1, HEADS, 6, D)
    string, shared_encoding = train(make("string")), make("rope-matrix", matrix="orthogonal")
    harope, member = train(make("harope")), make("rope-matrix", matrix="svd", per_head=True)
    with torch.no_grad():
        shared_encoding.orthogonal.copy_(string.skew[:, None])
        member.load_state_dict(harope.state_dict())
    for first_string, second in ((string, shared_encoding), (harope, member)):
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                first_string.rotate(q, k, grid(2, 3), 0),
                second.rotate(q, k, grid(2, 3), 0),
                strict=True,
            )
        )


# ---------------------------------------------------------------------------------------- STRING's
# maps


def test_cayley_is_i_minus_s_times_the_inverse_of_i_plus_s() -> None:
    encoding = train(make("string", map="cayley", per_head=True))

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        a = encoding.skew[1, h].detach().double().numpy()
        s = (a - a.T) / 2
        basis = (np.eye(D) - s) @ np.linalg.inv(np.eye(D) + s)
        np.testing.assert_allclose(basis @ basis.T, np.eye(D), atol=1e-12)
        return plane_turn(basis @ x, axial(*at))

    check(encoding, expected_turn)


def test_circulant_is_the_exponential_of_commuting_circulant_generators() -> None:
    encoding = train(make("string", map="circulant"), deviation=0.1)

    def generator(column: np.ndarray) -> np.ndarray:
        c = np.array(
            [np.roll(column, j) for j in range(D)]
        ).T  # circulant: column j is the first, rolled j times
        return c - c.T

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        rows, columns = (generator(c) for c in encoding.circulant[1].detach().double().numpy())
        np.testing.assert_allclose(rows @ columns, columns @ rows, atol=1e-6)
        return expm(at[0] * rows + at[1] * columns) @ x

    check(encoding, expected_turn)


def test_circulant_learns_nothing_for_an_axis_that_no_image_moves_along() -> None:
    """FLUX: 57 layers of heads of 128 channels, axes of 16, 56, 56 of which the first stands still;
    the paper's 2 d a layer.
    """
    flux = base.ModelShape(3072, 24, 128, 57, 3, (16, 56, 56), static_axes=1)
    still_encoding = base.build_encoding(
        registry.load_by_name("encodings", "string"), flux, {"map": "circulant"}
    )
    assert still_encoding.circulant.numel() == 57 * 256 == 14_592
    q = torch.randn((1, 24, 2, 128), generator=torch.Generator().manual_seed(0))
    rotate, moved_rotate, away_rotate = (
        still_encoding.rotate(q, q, torch.tensor([[a, 2.0, 3.0], [a, r, 3.0]]), 0)[0]
        for a, r in ((0, 5), (9, 5), (0, 6))
    )
    assert torch.equal(rotate, moved_rotate) and not torch.equal(rotate, away_rotate)


def test_circulant_starts_with_the_axial_speeds() -> None:
    speeds = 2 * torch.fft.rfft(make("string", map="circulant").circulant[0].detach().double()).imag
    rows = [10000 ** (-i / 3) for i in range(3)]
    columns = [10000 ** (-i / 4) for i in range(4)]
    np.testing.assert_allclose(speeds[0], [0, *rows, *[0] * 4, 0], atol=1e-6)
    np.testing.assert_allclose(speeds[1], [0, *[0] * 3, *columns, 0], atol=1e-6)


def test_learned_frequencies_start_axial_and_then_are_their_own() -> None:
    fixed_encoding, learned_encoding = make("string"), make("string", learn_freqs=True)
    q, k = random(2, 1, HEADS, 6, D)
    for a, b in zip(
        fixed_encoding.rotate(q, k, grid(2, 3), 0),
        learned_encoding.rotate(q, k, grid(2, 3), 0),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)
    trained_encoding = train(learned_encoding, 0.1)

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        a = trained_encoding.skew[1].detach().double().numpy()
        speeds = trained_encoding.freqs[1].detach().double().numpy()
        return plane_turn(expm((a - a.T) / 2) @ x, speeds * np.repeat(at, D // 4))

    check(trained_encoding, expected_turn)


# ----------------------------------------------------------------------------------------- mixed,
# Table 1


def test_mixed_turns_each_plane_by_its_own_mixture_column_first() -> None:
    encoding = train(make("rope-mixed"))

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        freqs = encoding.freqs[:, 1].detach().double().numpy().reshape(2, HEADS, D // 2)
        return plane_turn(x, at[1] * freqs[0, h] + at[0] * freqs[1, h])

    check(encoding, expected_turn)


def test_mixed_starts_in_a_random_direction_a_head_and_at_right_angles_to_it() -> None:
    freqs = make("rope-mixed").freqs.detach().double().numpy().reshape(2, LAYERS, HEADS, D // 2)
    sizes = np.array([10 ** (-4 * i / D) for i in range(D // 4)])
    np.testing.assert_allclose(
        np.hypot(*freqs), np.broadcast_to(np.tile(sizes, 2), freqs.shape[1:]), rtol=1e-5
    )
    angle = np.arctan2(freqs[1], freqs[0])
    np.testing.assert_allclose(np.diff(angle[..., : D // 4]), 0, atol=1e-5)
    turned_angle = (angle[..., D // 4 :] - angle[..., : D // 4]) % (2 * math.pi)
    np.testing.assert_allclose(turned_angle, math.pi / 2, atol=1e-5)
    assert len(np.unique(angle[..., 0].round(6))) == LAYERS * HEADS


# ---------------------------------------------------------------------------------------- Table 9
# control


def control_matrices(
    encoding: base.Encoding, layer: int, head: int
) -> tuple[np.ndarray, np.ndarray]:
    get = {
        n: p[layer, head].detach().double().numpy() for n, p in encoding.control.named_parameters()
    }
    u, v = (expm((a - a.T) / 2) for a in (get["A_u"], get["A_v"]))
    m = u @ np.diag(np.log1p(np.exp(get["sigma"])) + 1e-6) @ v.T
    return m, (m if encoding.options.qk_mode == "same" else np.linalg.inv(m).T)


@pytest.mark.parametrize("mode", ["same", "dual"])
def test_the_control_acts_after_the_rotation(mode: str) -> None:
    encoding = train(make("rope-svd-control", qk_mode=mode))

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        on_q, on_k = control_matrices(encoding, 1, h)
        return (on_q if kind == "q" else on_k) @ plane_turn(x, axial(*at))

    check(encoding, expected_turn)
    v = random(1, HEADS, 6, D)
    assert torch.equal(encoding.transform_values(v, 0), v)


def test_the_dual_control_cancels_out_of_every_score() -> None:
    q, k = random(2, 1, HEADS, 12, D)
    with torch.no_grad():
        (a, b), (c, d) = (
            e.rotate(q, k, grid(3, 4), 0)
            for e in (train(make("rope-svd-control", qk_mode="dual")), make("rope-axial"))
        )
    torch.testing.assert_close(a @ b.mT, c @ d.mT, rtol=0, atol=2e-4)


def test_the_control_on_values_and_outputs_leaves_scores_alone() -> None:
    encoding = train(make("rope-svd-control", placement="value-output"))
    check(encoding, lambda x, h, at, kind: plane_turn(x, axial(*at)), tolerance=2e-6)
    v = random(1, HEADS, 5, D)
    with torch.no_grad():
        fields = {
            "values": encoding.transform_values(v, 1),
            "outputs": encoding.transform_outputs(v, 1),
        }
    for h, n in np.ndindex(HEADS, 5):
        first_control_matrix, second = control_matrices(encoding, 1, h)
        np.testing.assert_allclose(
            fields["values"][0, h, n],
            first_control_matrix @ v[0, h, n].double().numpy(),
            rtol=0,
            atol=CLOSE_VALUE,
        )
        np.testing.assert_allclose(
            fields["outputs"][0, h, n],
            second @ v[0, h, n].double().numpy(),
            rtol=0,
            atol=CLOSE_VALUE,
        )


# ---------------------------------------------------------------------------
# Table 10


@pytest.mark.parametrize(
    ("options", "bases"),
    [
        ({"theta": 5000}, [5000] * 3),
        ({"theta": 40000, "base_progression": "geometric"}, [10000, 20000, 40000]),
        ({"theta": 5000, "bases": "50,500.5,5000"}, [50, 500.5, 5000]),
    ],
)
def test_every_head_turns_by_its_base(options: dict[str, object], bases: list[float]) -> None:
    check(
        make("head-freq", **options),
        lambda x, h, at, kind: plane_turn(x, axial(*at, theta=bases[h])),
        tolerance=2e-6,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"bases": "100,200"},
        {"bases": "100,1,100"},
        {"bases": "a,b,c"},
        {"base_progression": "wide"},
    ],
)
def test_bases_that_do_not_fit_the_heads_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="head-freq"):
        make("head-freq", **options)


# ---------------------------------------------------------------------------
# APE


def test_sd3s_table_is_the_librarys_for_even_and_odd_crops() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings", reason="needs the extra t2i")
    library = embeddings.PatchEmbed(
        height=64,
        width=64,
        patch_size=1,
        in_channels=4,
        embed_dim=48,
        pos_embed_max_size=24,
        interpolation_scale=1,
    )
    library.base_size = 8
    table = (
        embeddings.get_2d_sincos_pos_embed(48, 24, base_size=8, output_type="pt")
        .float()
        .unsqueeze(0)
    )
    library.pos_embed = table
    encoding = make("ape", form="sd3", table=24, base_grid=8)
    for rows, columns in ((8, 8), (5, 12), (24, 24)):
        expected = library.cropped_pos_embed(rows, columns)
        embed = encoding.embed(torch.zeros(1, rows * columns, 48), grid(rows, columns))
        torch.testing.assert_close(embed, expected.float(), rtol=0, atol=1e-6)


def test_sd3s_table_ends_where_it_ends() -> None:
    with pytest.raises(
        OptionError, match="has a table of 192 tokens a side, the image has 193 x 2"
    ):
        make("ape", form="sd3").embed(torch.zeros(1, 386, 48), grid(193, 2))


def test_a_learned_table_is_looked_up_by_position_and_enlarged_bicubically() -> None:
    encoding = make("ape", form="learned")
    table = encoding.table.detach()
    assert table.shape == (1, 16, 48)
    assert table.std().item() == pytest.approx(0.02, rel=0.1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(encoding.embed(torch.zeros(1, 16, 48), grid(4, 4)[order]), table[:, order])
    wider = encoding.embed(torch.zeros(1, 30, 48), grid(5, 6))
    image = table[0].T.reshape(1, 48, 4, 4)
    expected = (
        nn.functional.interpolate(image, (5, 6), mode="bicubic", align_corners=False).flatten(2).mT
    )
    torch.testing.assert_close(wider, expected)


def test_a_learned_table_needs_its_grid() -> None:
    shape = base.ModelShape(width=32, heads=2, head_dim=16, layers=1)
    with pytest.raises(OptionError, match="needs the training grid"):
        base.build_encoding(registry.load_by_name("encodings", "ape"), shape, {"form": "learned"})


@pytest.mark.parametrize(
    ("kind", "step"), [("none", 1.0), ("extend", 1.0), ("interpolate", 0.5), ("linear", 0.5)]
)
def test_a_fixed_table_is_extended_or_interpolated(kind: str, step: float) -> None:
    encoding = make("ape")
    encoding.rescale(Scaling(kind, (4, 4), (8, 8)))
    expected = make("ape").embed(torch.zeros(1, 64, 48), grid(8, 8) * step)
    torch.testing.assert_close(encoding.embed(torch.zeros(1, 64, 48), grid(8, 8)), expected)


# ------------------------------------------------------------------------------------ position
# scaling


def by_hand(kind: str, planes: int, theta: float, s: float, length: int) -> list[float]:
    """Scaled frequencies one at a time, d = 2 planes channels of the axis."""
    d = 2 * planes

    def corner(
        turns: float,
    ) -> float:  # the plane that makes so many turns over the training length
        return d * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def kept_fraction(i: int, fast_value: float, slow_value: float) -> float:
        low, high = (
            max(math.floor(corner(fast_value)), 0),
            min(math.ceil(corner(slow_value)), d - 1),
        )
        high = high + 0.001 if low == high else high
        return 1 - min(max((i - low) / (high - low), 0), 1)

    out = []
    for i in range(planes):
        plain_theta = theta ** (-2 * i / d)
        ntk = (theta * s ** (d / (d - 2))) ** (-2 * i / d)
        if kind == "linear":
            out.append(plain_theta / s)
        elif kind == "ntk":
            out.append(ntk)
        elif kind == "yarn":
            share = kept_fraction(i, 32, 1)
            out.append(plain_theta / s * (1 - share) + plain_theta * share)
        else:
            inner_kept_fraction = kept_fraction(i, 1.25, 0.75)
            mixed_value = plain_theta / s * (1 - inner_kept_fraction) + ntk * inner_kept_fraction
            outer_kept_fraction = kept_fraction(i, 16, 2)
            out.append(mixed_value * (1 - outer_kept_fraction) + plain_theta * outer_kept_fraction)
    return out


@pytest.mark.parametrize("length", [7, 64, 1024])
@pytest.mark.parametrize("kind", ["linear", "ntk", "ntk-by-parts", "yarn"])
def test_frequencies_are_scaled_by_the_formula(kind: str, length: int) -> None:
    scaling = Scaling(kind, (length, length), (length, 3 * length))
    np.testing.assert_allclose(
        frequencies(16, 10000.0, scaling, 1), by_hand(kind, 16, 10000.0, 3.0, length), rtol=1e-12
    )
    np.testing.assert_allclose(
        frequencies(16, 10000.0, scaling, 0), [10000 ** (-i / 16) for i in range(16)], rtol=1e-12
    )


def test_ntk_keeps_the_fastest_plane_and_interpolates_the_slowest() -> None:
    scaled_frequencies, plain_frequencies = (
        frequencies(16, 10000.0, Scaling("ntk", (64,), (256,)), 0),
        frequencies(16, 10000.0, Scaling(), 0),
    )
    assert scaled_frequencies[0] == plain_frequencies[0]
    assert (plain_frequencies[-1] / scaled_frequencies[-1]).item() == pytest.approx(4.0)
    assert all(a < b for a, b in pairwise((plain_frequencies / scaled_frequencies).tolist()))


def test_a_smaller_image_is_not_scaled() -> None:
    assert torch.equal(
        frequencies(8, 100.0, Scaling("linear", (64,), (32,)), 0),
        frequencies(8, 100.0, Scaling(), 0),
    )


def test_yarn_multiplies_queries_and_keys_so_that_scores_grow_by_its_square() -> None:
    encoding = make("rope-axial")
    encoding.rescale(Scaling("yarn", (4, 4), (16, 16)))
    q, k = random(2, 1, HEADS, 1, D)
    a, b = encoding.rotate(q, k, torch.zeros(1, 2), 0)
    factor = 0.1 * math.log(4) + 1
    torch.testing.assert_close((a * b).sum(-1), (q * k).sum(-1) * factor**2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "rope-axial",
        "rope-vanilla",
        "videorope",
        "harope",
        "string",
        "rope-matrix",
        "head-freq",
        "rope-mixed",
    ],
)
def test_linear_scaling_turns_as_far_as_positions_divided_by_the_factor(name: str) -> None:
    encoding, plain_encoding, (q, k) = (
        train(make(name)),
        train(make(name)),
        random(2, 1, HEADS, 16, D),
    )
    encoding.rescale(Scaling("linear", (4, 4), (8, 8)))
    if name == "rope-vanilla":  # its one axis is as long as the whole image
        expected, rotate = (
            [by_raster(x, 4.0) for x in (q, k)],
            encoding.rotate(q, k, grid(1, 16), 0),
        )
    else:
        expected, rotate = (
            plain_encoding.rotate(q, k, grid(4, 4) / 2, 0),
            encoding.rotate(q, k, grid(4, 4), 0),
        )
    for a, b in zip(rotate, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def by_raster(x: Tensor, factor: float) -> Tensor:
    """Vanilla rotation of tokens in one line, indices divided by `factor`."""
    speeds = torch.tensor([10000 ** (-2 * j / D) for j in range(D // 2)], dtype=torch.float64)
    return base.rotate_planes(
        x,
        base.RotationAngles(
            torch.outer(torch.arange(x.shape[2], dtype=torch.float64) / factor, speeds)
        ),
    )


def test_scaling_leaves_the_learned_matrix_alone() -> None:
    encoding = train(make("harope"))
    before = encoding.matrices(0)
    encoding.rescale(Scaling("ntk", (4, 4), (8, 8)))
    assert all(torch.equal(a, b) for a, b in zip(before, encoding.matrices(0), strict=True))
    assert encoding.without_matrices().scaling == encoding.scaling


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("rope-mixed", {}, "ntk"),
        ("ape", {}, "yarn"),
        ("rope-axial", {}, "extend"),
        ("string", {"map": "circulant"}, "linear"),
        ("string", {"learn_freqs": True}, "ntk"),
    ],
)
def test_a_scaling_without_a_meaning_is_refused(
    name: str, options: dict[str, object], kind: str
) -> None:
    with pytest.raises(OptionError, match=f"pos_scaling {kind}"):
        make(name, **options).rescale(Scaling(kind, (4, 4), (8, 8)))


# ------------------------------------------------------------------------------------ counts and
# clues


@pytest.mark.parametrize(
    ("name", "options", "heads", "d", "layers", "expected"),
    [
        ("rope-mixed", {}, 12, 64, 12, 9_216),
        ("rope-mixed", {}, 16, 64, 1, 1_024),
        ("rope-mixed", {}, 24, 128, 57, 175_104),
        ("string", {}, 12, 64, 12, 49_152),
        ("string", {}, 24, 128, 57, 933_888),
        ("string", {"map": "circulant"}, 12, 64, 12, 1_536),
        ("string", {"map": "circulant"}, 24, 128, 57, 14_592),
        ("rope-matrix", {"matrix": "normal"}, 12, 64, 1, 4_096),
        ("rope-matrix", {"matrix": "normal", "per_head": True}, 12, 64, 12, 589_824),
        ("rope-matrix", {"matrix": "orthogonal", "per_head": True}, 24, 64, 1, 98_304),
        ("rope-matrix", {"matrix": "svd"}, 12, 64, 12, 99_072),
        ("rope-matrix", {"matrix": "svd"}, 24, 128, 57, 1_875_072),
        ("harope", {}, 16, 64, 1, 132_096),
        ("harope", {}, 24, 64, 1, 198_144),
        ("harope", {}, 24, 128, 57, 45_001_728),
        ("rope-svd-control", {}, 12, 64, 1, 99_072),
        ("rope-svd-control", {"placement": "value-output"}, 24, 128, 1, 789_504),
        ("head-freq", {}, 12, 64, 12, 0),
    ],
)
def test_parameters_are_as_many_as_the_published_shapes_say(
    name: str, options: dict[str, object], heads: int, d: int, layers: int, expected: int
) -> None:
    with torch.device("meta"):
        shape = base.ModelShape(width=heads * d, heads=heads, head_dim=d, layers=layers)
        encoding = base.build_encoding(registry.load_by_name("encodings", name), shape, options)
    assert sum(p.numel() for p in encoding.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("harope", {}),
        ("rope-svd-control", {}),
        ("rope-mixed", {}),
        ("ape", {"form": "learned"}),
        ("string", {"per_head": False}),
        ("string", {"per_head": True}),
        ("string", {"per_head": False, "map": "circulant"}),
        ("string", {"per_head": False, "learn_freqs": True}),
        *[
            ("rope-matrix", {"matrix": m, "per_head": p})
            for m in ("normal", "orthogonal")
            for p in (False, True)
        ],
        ("rope-matrix", {"matrix": "svd", "per_head": False}),
    ],
)
def test_parameters_tell_whose_they_are(name: str, options: dict[str, object]) -> None:
    shapes = {key: tuple(value.shape) for key, value in make(name, **options).state_dict().items()}
    detect_from_shapes = detect_encoding.detect_from_shapes(shapes)
    assert detect_from_shapes is not None
    assert (detect_from_shapes.encoding, detect_from_shapes.options) == (name, options)
    assert detect_from_shapes.heads in (0, HEADS)
    assert detect_from_shapes.head_dim in (0, D)


@pytest.mark.parametrize("name", ["rope-axial", "rope-vanilla", "videorope", "head-freq", "ape"])
def test_encodings_without_parameters_leave_no_clue(name: str) -> None:
    assert (
        detect_encoding.detect_from_shapes(
            {key: tuple(value.shape) for key, value in make(name).state_dict().items()}
        )
        is None
    )


def test_column_first_exchanges_row_and_column_and_leaves_the_axis_before_them() -> None:
    shape = base.ModelShape(width=32, heads=1, head_dim=32, layers=1, axes=3, axes_dims=(8, 12, 12))
    encoding = base.build_encoding(
        registry.load_by_name("encodings", "rope-axial"), shape, {"axis_order": "column-first"}
    )

    def expected_turn(x: np.ndarray, h: int, at: list[float], kind: str) -> np.ndarray:
        angles = [
            p * 10000 ** (-2 * i / d)
            for p, d in ((at[0], 8), (at[2], 12), (at[1], 12))
            for i in range(d // 2)
        ]
        return plane_turn(x, np.array(angles))

    check(
        encoding,
        expected_turn,
        torch.tensor([[1.0, 2.0, 3.0], [0.0, 5.0, 7.0]]),
        layer=0,
        tolerance=2e-6,
    )
