"""The contract of an encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations, relative_difference

if TYPE_CHECKING:
    from torch import Tensor

    from harope_bench.core.record_base import Option
    from harope_bench.encodings.base import Encoding, EncodingProperties, ModelShape

BATCH_SIZE = 2
N_LAYERS = 2
N_HEADS = 3
PERTURBATION_STANDARD_DEVIATION = 0.3  # standard deviation of the noise that stands for training

# Angles are float64, rotated values float32: products of about 16 terms of size 1 lose a few 1e-7
# each.
EQUAL_TOLERANCE = 1e-4
# A promise that does not hold moves scores by their own size; 1% is far from rounding.
MIN_DIFFERENCE = 1e-2
# bfloat16 keeps 8 bits (0.4%); a head's sum of 16 such terms stays well inside.
BFLOAT16_TOLERANCE = 5e-2
MAX_TOKENS = 60  # tokens of a large grid that are tried
LARGE_GRID = (2, 300)  # wider than any training grid, and than the 256 integers bfloat16 can count


def check_encoding(
    name: str | type[Encoding],
    head_dim: int = 16,
    grids: Sequence[tuple[int, int]] = ((4, 4), (3, 5)),
    options: Mapping[str, Option] | None = None,
) -> None:
    """Holds an encoding to the contract of encodings/base.py and to each of its declared Facts.

    Args:
        name: a registered encoding, or a class.
        head_dim: of the heads it is tried with.
        grids: (rows, columns) it is tried on; a large one is always added.
        options: as a checkpoint would give them.

    Raises:
        AssertionError: lists every promise that does not hold. OptionError: these options are
            refused.
    """
    from harope_bench.encodings.base import load_encoding

    kind = load_encoding(name) if isinstance(name, str) else name
    bench = _EncodingContract(kind, head_dim, [*grids, LARGE_GRID], dict(options or {}))
    bench.complaints.run_checks(
        [
            bench.declares_required_members,
            bench.rejects_unknown_options,
            bench.is_deterministic,
            bench.keeps_shapes_and_dtypes,
            bench.is_precise_in_bfloat16,
            bench.is_relative_as_declared,
            bench.is_orthogonal_as_declared,
            bench.is_identity_at_init_as_declared,
            bench.is_per_head_as_declared,
            bench.is_foldable_as_declared,
            bench.trains_every_parameter,
            bench.is_permutation_equivariant,
            bench.keeps_no_cache_between_calls,
            bench.reloads_from_state_dict,
            bench.depends_on_positions,
        ]
    )


class _EncodingContract:
    """One encoding on the bench: fresh and perturbed copies, random inputs, and one method a
    promise.
    """

    def __init__(
        self,
        kind: type[Encoding],
        head_dim: int,
        grids: list[tuple[int, int]],
        options: dict[str, Option],
    ):
        from harope_bench.encodings.base import ModelShape

        self.kind = kind
        self.options = options
        self.grids = grids
        self.shape: ModelShape = ModelShape(
            width=N_HEADS * head_dim, heads=N_HEADS, head_dim=head_dim, layers=N_LAYERS
        )
        self.complaints = ContractViolations(f"encoding {kind.__module__}.{kind.__qualname__}")
        self.expect = self.complaints.expect
        self.build(
            options
        )  # options that are refused are the caller's mistake, not a broken promise

    def build(self, options: dict[str, Option]) -> Encoding:
        """A freshly initialised encoding, the same one every time."""
        import torch

        from harope_bench.encodings.base import build_encoding

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_encoding(self.kind, self.shape, options)

    @property
    def declared_properties(self) -> EncodingProperties:
        """What it declares with these options."""
        return self.build_untrained().properties

    @property
    def is_rotary(self) -> bool:
        """Whether it touches queries and keys."""
        from harope_bench.encodings.base import Encoding

        kind = self.kind
        return (
            kind.rotate is not Encoding.rotate
            or kind.apply_rotation is not Encoding.apply_rotation
            or kind.matrices is not Encoding.matrices
        )

    def build_untrained(self) -> Encoding:
        """As before training."""
        return self.build(self.options)

    def build_perturbed(self, seed: int = 1) -> Encoding:
        """Fresh, with noise on every parameter in place of a training."""
        import torch

        rng = torch.Generator().manual_seed(seed)
        encoding = self.build_untrained()
        with torch.no_grad():
            for _, parameter in sorted(encoding.named_parameters()):
                parameter.add_(
                    PERTURBATION_STANDARD_DEVIATION * torch.randn(parameter.shape, generator=rng)
                )
        return encoding

    def random_tokens(self, n: int, seed: int = 2) -> Tensor:
        """Random tokens (BATCH, n, width)."""
        import torch

        return torch.randn(
            BATCH_SIZE, n, self.shape.width, generator=torch.Generator().manual_seed(seed)
        )

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Fixed random projections of tokens to queries and keys (BATCH, heads, n, head_dim)."""
        import torch

        weights = (
            torch.randn(
                2, self.shape.width, self.shape.width, generator=torch.Generator().manual_seed(3)
            )
            / self.shape.width**0.5
        )
        q, k = (
            (tokens.float() @ w).unflatten(-1, (N_HEADS, -1)).transpose(1, 2).to(tokens.dtype)
            for w in weights
        )
        return q, k

    def random_queries(self, n: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (BATCH, heads, n, head_dim) that have not met the encoding."""
        return self.project(self.random_tokens(n))

    def scores(
        self,
        encoding: Encoding,
        positions: Tensor,
        layer: int = 0,
        order: Sequence[int] | None = None,
    ) -> Tensor:
        """Attention scores (BATCH, heads, n, n), float64, of random tokens that pass through embed,
        projections and rotate.
        """
        tokens = self.random_tokens(len(positions))
        if order is not None:
            tokens = tokens[:, order]
        q, k = encoding.rotate(*self.project(encoding.embed(tokens, positions)), positions, layer)
        return (q.double() @ k.double().mT).detach()

    # Each method below is one promise.

    def declares_required_members(self) -> None:
        """Facts, options and source are there, and something is overridden."""
        from harope_bench.encodings.base import Encoding, EncodingOptions, EncodingProperties

        has_facts = self.kind.properties is not Encoding.properties and isinstance(
            self.declared_properties, EncodingProperties
        )
        self.expect(has_facts, "declares no `facts` of type Facts")
        self.expect(
            issubclass(self.kind.Options, EncodingOptions),
            "its `Options` is not a subclass of encodings.base.Options",
        )
        self.expect(
            self.kind.source.strip(),
            "declares no `source`: name the paper's equation or the code it follows",
        )
        self.expect(
            self.kind.embed is not Encoding.embed or self.is_rotary,
            "overrides neither `embed` nor `rotate` nor its steps, so it encodes nothing",
        )

    def rejects_unknown_options(self) -> None:
        """An option nobody knows is an OptionError that names the known ones."""
        from harope_bench.core.errors import OptionError

        try:
            self.build({**self.options, "no_such_option": 1})
        except OptionError as error:
            unnamed = [
                field
                for field in (*self.kind.Options.model_fields, "no_such_option")
                if field not in str(error)
            ]
            self.expect(
                not unnamed,
                f"refuses an unknown option without naming {', '.join(unnamed)}: {error}",
            )
        else:
            self.expect(
                False,
                "takes an option nobody knows; let Options forbid extra fields and build with"
                " encodings.base.build",
            )

    def is_deterministic(self) -> None:
        """Two builds from one seed are equal, and calls draw nothing from the global generator."""
        import torch

        one = self.build_perturbed()
        other = self.build_perturbed()
        equal = all(
            torch.equal(a, b)
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )
        self.expect(
            equal,
            "two builds from one seed differ; draw initial values from torch's generator alone",
        )
        positions = _positions(self.grids[0])
        before = torch.get_rng_state()
        first = self.scores(one, positions)
        self.expect(
            torch.equal(before, torch.get_rng_state()), "draws random numbers when it is called"
        )
        self.expect(
            torch.equal(first, self.scores(one, positions)),
            "gives other results at the second call with the same inputs",
        )

    def keeps_shapes_and_dtypes(self) -> None:
        """Any grid, float32 and bfloat16: what comes out has the shape and dtype of what went in,
        and is finite.
        """
        import torch

        for grid in [(1, 1), *self.grids]:
            positions = _positions(grid)
            for dtype in (torch.float32, torch.bfloat16):
                encoding = self.build_perturbed().to(dtype)
                tokens = self.random_tokens(len(positions)).to(dtype)
                embedded = encoding.embed(tokens, positions)
                rotated = [
                    encoding.rotate(*self.project(tokens), positions, layer)
                    for layer in range(N_LAYERS)
                ]
                pairs = [("embed", embedded, tokens)]
                pairs += [
                    (f"rotate {w}", r, before)
                    for qk in rotated
                    for w, r, before in zip("qk", qk, self.project(tokens), strict=True)
                ]
                for what, after, before in pairs:
                    self.expect(
                        after.shape == before.shape and after.dtype == before.dtype,
                        f"{what} on grid {grid} turns {tuple(before.shape)} {before.dtype} into"
                        f" {tuple(after.shape)} {after.dtype}",
                    )
                    self.expect(
                        after.isfinite().all(), f"{what} on grid {grid} in {dtype} is not finite"
                    )

    def is_precise_in_bfloat16(self) -> None:
        """Low precision costs rounding, not positions: bfloat16 cannot count beyond 256."""
        import copy

        import torch

        low = self.build_perturbed().to(torch.bfloat16)
        positions = _positions(LARGE_GRID)
        high = copy.deepcopy(low).float()
        tokens = self.random_tokens(len(positions)).bfloat16()
        q, k = self.project(tokens)
        pairs = [("embed", low.embed(tokens, positions), high.embed(tokens.float(), positions))]
        pairs += zip(
            ("rotate q", "rotate k"),
            low.rotate(q, k, positions, 0),
            high.rotate(q.float(), k.float(), positions, 0),
            strict=True,
        )
        for what, rough, fine in pairs:
            off = relative_difference(rough, fine)
            self.expect(
                off < BFLOAT16_TOLERANCE,
                f"{what} in bfloat16 is {off:.1%} off on grid {LARGE_GRID}; keep angles in float32"
                " or better",
            )

    def is_relative_as_declared(self) -> None:
        """Scores at positions p and p + c agree on every grid, or, where not promised, differ on
        some.
        """
        import torch

        encoding = self.build_perturbed()
        shifts = ((5.0, 7.0), (-2.0, 3.0))
        moved = {
            (grid, shift): relative_difference(
                self.scores(encoding, _positions(grid) + torch.tensor(shift)),
                self.scores(encoding, _positions(grid)),
            )
            for grid in self.grids
            for shift in shifts
        }
        if self.declared_properties.relative:
            for (grid, shift), off in moved.items():
                self.expect(
                    off < EQUAL_TOLERANCE,
                    f"declares relative, but a shift by {shift} on grid {grid} moves scores by"
                    f" {off:.2%}",
                )
        else:
            self.expect(
                max(moved.values()) > MIN_DIFFERENCE,
                "declares relative=False, but scores do not change when all positions are shifted",
            )

    def is_orthogonal_as_declared(self) -> None:
        """`rotate` keeps the length of queries and keys also after training, or, where not
        promised, does not.
        """
        encoding = self.build_perturbed()
        worst = 0.0
        for grid in self.grids:
            positions = _positions(grid)
            q, k = self.random_queries(len(positions))
            for before, after in zip((q, k), encoding.rotate(q, k, positions, 0), strict=True):
                worst = max(
                    worst,
                    relative_difference(
                        after.norm(dim=-1) / before.norm(dim=-1),
                        before.norm(dim=-1) / before.norm(dim=-1),
                    ),
                )
        if self.declared_properties.orthogonal:
            self.expect(
                worst < EQUAL_TOLERANCE,
                f"declares orthogonal, but rotate changes lengths by up to {worst:.2%} once its"
                " parameters move",
            )
        else:
            self.expect(
                worst > MIN_DIFFERENCE, "declares orthogonal=False, but rotate keeps all lengths"
            )

    def is_identity_at_init_as_declared(self) -> None:
        """Before training, scores equal those of rope-axial with the same options, or, where not
        promised, differ.
        """
        from harope_bench.encodings.base import build_encoding, load_encoding

        axial_kind = load_encoding("rope-axial")
        encoding = self.build_untrained()
        shared = {
            k: v
            for k, v in encoding.options.model_dump().items()
            if k in axial_kind.Options.model_fields
        }
        axial = build_encoding(axial_kind, self.shape, shared)
        worst = max(
            relative_difference(
                self.scores(encoding, _positions(grid), layer),
                self.scores(axial, _positions(grid), layer),
            )
            for grid in self.grids
            for layer in range(N_LAYERS)
        )
        if self.declared_properties.identity_at_init:
            self.expect(
                worst < EQUAL_TOLERANCE,
                f"declares identity_at_init, but its first scores are {worst:.2%} from"
                " rope-axial's",
            )
        else:
            self.expect(
                worst > MIN_DIFFERENCE,
                "declares identity_at_init=False, but it starts as rope-axial",
            )

    def is_per_head_as_declared(self) -> None:
        """Equal queries in all heads come out equal unless per_head is declared; then they do
        not.
        """
        encoding = self.build_perturbed()
        positions = _positions(self.grids[0])
        q, k = (x[:, :1].expand(-1, N_HEADS, -1, -1) for x in self.random_queries(len(positions)))
        for layer in range(N_LAYERS):
            worst = max(
                relative_difference(x, x[:, :1].expand_as(x))
                for x in encoding.rotate(q, k, positions, layer)
            )
            if self.declared_properties.per_head:
                self.expect(
                    worst > MIN_DIFFERENCE,
                    f"declares per_head, but after training the heads of layer {layer} do the same",
                )
            else:
                self.expect(
                    worst < EQUAL_TOLERANCE,
                    f"declares per_head=False, but the heads of layer {layer} differ by"
                    f" {worst:.2%}",
                )

    def is_foldable_as_declared(self) -> None:
        """`matrices` moved into the projections, with what `plain` leaves, equal it; where not
        promised, `plain` refuses.
        """
        from harope_bench.core.errors import OptionError

        encoding = self.build_perturbed()
        positions = _positions(self.grids[-1])
        if not self.declared_properties.foldable:
            try:
                encoding.without_matrices()
            except OptionError:
                return
            self.expect(False, "declares foldable=False, but `plain` gives an encoding")
            return
        q, k = self.random_queries(len(positions))
        for layer in range(N_LAYERS):
            pair = encoding.matrices(layer)
            if pair is None:
                self.expect(False, "declares foldable, but `matrices` gives none")
                return
            folded = encoding.without_matrices().rotate(
                q @ pair.q.mT, k @ pair.k.mT, positions, layer
            )
            worst = max(
                relative_difference(f, w)
                for f, w in zip(folded, encoding.rotate(q, k, positions, layer), strict=True)
            )
            self.expect(
                worst < EQUAL_TOLERANCE,
                f"declares foldable, but folded into the projections layer {layer} is"
                f" {worst:.2%} off",
            )

    def trains_every_parameter(self) -> None:
        """Gradients are finite at the start, and after training reach every parameter, the tokens,
        queries and keys.
        """
        for state, encoding in (
            ("at the start", self.build_untrained()),
            ("after training", self.build_perturbed()),
        ):
            positions = _positions(self.grids[0])
            tokens = self.random_tokens(len(positions)).requires_grad_()
            embedded = encoding.embed(tokens, positions)
            total = embedded.square().sum()
            for layer in range(N_LAYERS):
                q, k = encoding.rotate(*self.project(embedded), positions, layer)
                found = (q @ k.mT).softmax(-1) @ encoding.transform_values(q, layer)
                total = total + encoding.transform_outputs(found, layer).square().sum()
            total.backward()
            for what, leaf in [("the tokens", tokens), *encoding.named_parameters()]:
                if leaf.grad is None:
                    self.expect(False, f"no gradient reaches {what} {state}")
                else:
                    self.expect(
                        leaf.grad.isfinite().all(), f"the gradient of {what} {state} is not finite"
                    )
                    self.expect(
                        leaf.grad.abs().max() > 0 or state == "at the start",
                        f"the gradient of {what} {state} is zero everywhere",
                    )

    def is_permutation_equivariant(self) -> None:
        """Tokens permuted together with their positions give the same scores, permuted."""
        import torch

        encoding = self.build_perturbed()
        for grid in self.grids:
            positions = _positions(grid)
            order = torch.randperm(
                len(positions), generator=torch.Generator().manual_seed(4)
            ).tolist()
            wanted = self.scores(encoding, positions)[:, :, order][..., order]
            off = relative_difference(self.scores(encoding, positions[order], order=order), wanted)
            self.expect(
                off < EQUAL_TOLERANCE,
                f"on grid {grid} a token's place in the sequence matters ({off:.2%}), not its"
                " position alone",
            )

    def keeps_no_cache_between_calls(self) -> None:
        """A call at other positions, or after a parameter moved, is not answered from the call
        before.
        """
        import torch

        wide = _positions((max(self.grids[0]), max(self.grids[0]) + 2))
        tall = wide.flip(1)  # rows and columns exchanged
        used = self.build_perturbed()
        unused = self.build_perturbed()
        first = self.scores(used, wide)
        second = self.scores(used, tall)
        equal = torch.equal(second, self.scores(unused, tall))
        self.expect(
            equal, "gives old results at new positions of the same number; never cache by length"
        )
        self.expect(
            relative_difference(second, first) > MIN_DIFFERENCE,
            "scores stay when rows and columns are exchanged",
        )
        if parameters := list(used.parameters()):
            rng = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.add_(
                        PERTURBATION_STANDARD_DEVIATION
                        * torch.randn(parameter.shape, generator=rng)
                    )
            moved = relative_difference(self.scores(used, tall), second)
            self.expect(
                moved > MIN_DIFFERENCE,
                "gives old results after its parameters moved; never cache across steps",
            )

    def reloads_from_state_dict(self) -> None:
        """The state dict carries everything, loads strictly into a used copy, and does not know the
        grid.
        """
        import torch

        encoding = self.build_perturbed()
        other = self.build_perturbed(seed=6)
        positions = _positions(self.grids[0])
        self.scores(other, positions)
        self.scores(encoding, _positions(LARGE_GRID))
        state = {key: value.clone() for key, value in encoding.state_dict().items()}
        shapes = {key: value.shape for key, value in self.build_untrained().state_dict().items()}
        self.expect(
            {key: value.shape for key, value in state.items()} == shapes,
            "its state dict changes with the grid it was used on",
        )
        other.load_state_dict(state, strict=True)
        for layer in range(N_LAYERS):
            equal = torch.equal(
                self.scores(other, positions, layer), self.scores(encoding, positions, layer)
            )
            self.expect(
                equal,
                f"layer {layer} differs after a state dict round trip: something that matters is"
                " not in the state dict",
            )

    def depends_on_positions(self) -> None:
        """Scores change when two tokens swap their positions, and the untouched parts leave their
        inputs alone.
        """
        import torch

        from harope_bench.encodings.base import Encoding

        encoding = self.build_perturbed()
        positions = _positions(self.grids[0])
        swapped = positions.flip(0)
        self.expect(
            relative_difference(self.scores(encoding, swapped), self.scores(encoding, positions))
            > MIN_DIFFERENCE,
            "scores do not depend on positions",
        )
        tokens = self.random_tokens(len(positions))
        q, k = self.random_queries(len(positions))
        kept = [x.clone() for x in (tokens, q, k, positions)]
        embedded = encoding.embed(tokens, positions)
        rotated = encoding.rotate(q, k, positions, 0)
        untouched = all(
            torch.equal(a, b) for a, b in zip(kept, (tokens, q, k, positions), strict=True)
        )
        self.expect(untouched, "changes its inputs in place")
        if self.kind.embed is Encoding.embed:
            self.expect(
                torch.equal(embedded, kept[0]), "does not override `embed`, yet it changes tokens"
            )
        if not self.is_rotary:
            identity = torch.equal(rotated[0], kept[1]) and torch.equal(rotated[1], kept[2])
            self.expect(identity, "does not override `rotate`, yet it changes q or k")


def _positions(grid: tuple[int, int]) -> Tensor:
    """Row-major coordinates (rows * columns, 2), float32; of a large grid every few, because any
    set of positions must do.
    """
    import torch

    every = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
    return every[
        :: len(every) // MAX_TOKENS | 1
    ]  # an odd step, so that odd and even columns are met
