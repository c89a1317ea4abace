"""The contract of an encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations, relative_difference

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from harope_bench.core.record_base import Option
    from harope_bench.encodings.base import Encoding, EncodingProperties, ModelShape

BATCH_SIZE = 2
N_LAYERS = 2
N_HEADS = 3
PERTURBATION_STANDARD_DEVIATION = 0.3  # of the noise that replaces training

# Angles are float64, rotated values float32: sums of about 16 products of size 1 lose a few 1e-7.
EQUAL_TOLERANCE = 1e-4
# A property that does not hold changes scores by their own size; 1% is far from rounding.
MIN_DIFFERENCE = 1e-2
# bfloat16 has 8 significant bits (0.4%); a head's sum of 16 such products stays well below this.
BFLOAT16_TOLERANCE = 5e-2
MAX_TOKENS = 60  # tokens of a large grid that are tested
LARGE_GRID = (2, 300)  # wider than any training grid, and than the 256 integers of bfloat16


def check_encoding(
    name: str | type[Encoding],
    head_dim: int = 16,
    grids: Sequence[tuple[int, int]] = ((4, 4), (3, 5)),
    options: Mapping[str, Option] | None = None,
) -> int:
    """Check an encoding against the contract of encodings/base.py and its declared properties.

    Args:
        name: a registered encoding, or a class.
        head_dim: of the heads that it is tested with.
        grids: (rows, columns) that it is tested on; a large one is always added.
        options: as a checkpoint would record them.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The encoding violates the contract; every violation is listed.
        OptionError: These options are rejected.
    """
    from harope_bench.encodings.base import load_encoding

    encoding_class = load_encoding(name) if isinstance(name, str) else name
    contract = _EncodingContract(
        encoding_class, head_dim, [*grids, LARGE_GRID], dict(options or {})
    )
    return contract.violations.run_checks(
        [
            contract.check_required_members,
            contract.check_unknown_options_rejected,
            contract.check_determinism,
            contract.check_shapes_and_dtypes,
            contract.check_bfloat16_precision,
            contract.check_declared_relative,
            contract.check_declared_orthogonal,
            contract.check_declared_identity_at_init,
            contract.check_declared_per_head,
            contract.check_declared_foldable,
            contract.check_every_parameter_trains,
            contract.check_permutation_equivariance,
            contract.check_no_cache_between_calls,
            contract.check_state_dict_reload,
            contract.check_random_constants_saved,
            contract.check_position_dependence,
        ]
    )


class _EncodingContract:
    """The contract of one encoding, one method for each requirement."""

    def __init__(
        self,
        encoding_class: type[Encoding],
        head_dim: int,
        grids: list[tuple[int, int]],
        options: dict[str, Option],
    ):
        from harope_bench.encodings.base import ModelShape

        self.encoding_class = encoding_class
        self.options = options
        self.grids = grids
        self.shape: ModelShape = ModelShape(
            width=N_HEADS * head_dim, heads=N_HEADS, head_dim=head_dim, layers=N_LAYERS
        )
        self.violations = ContractViolations(
            f"encoding {encoding_class.__module__}.{encoding_class.__qualname__}"
        )
        self.expect = self.violations.expect
        self.add_violation = self.violations.add_violation
        # Options that are rejected are the caller's mistake, so they raise here.
        self.build(options)

    def build(self, options: dict[str, Option], seed: int = 0) -> Encoding:
        """Return a newly initialised encoding.

        Args:
            seed: of torch's global generator.
        """
        import torch

        from harope_bench.encodings.base import build_encoding

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_encoding(self.encoding_class, self.shape, options)

    @property
    def declared_properties(self) -> EncodingProperties:
        """Return the properties that the encoding declares with these options."""
        return self.build_untrained().properties

    @property
    def is_rotary(self) -> bool:
        """Return whether the encoding changes queries and keys."""
        from harope_bench.encodings.base import Encoding

        return (
            self.encoding_class.rotate is not Encoding.rotate
            or self.encoding_class.apply_rotation is not Encoding.apply_rotation
            or self.encoding_class.matrices is not Encoding.matrices
        )

    def build_untrained(self) -> Encoding:
        """Return the encoding as before training."""
        return self.build(self.options)

    def build_perturbed(self, seed: int = 1) -> Encoding:
        """Return the encoding with noise on every parameter, which replaces training."""
        import torch

        encoding = self.build_untrained()
        _perturb(encoding, torch.Generator().manual_seed(seed))
        return encoding

    def random_tokens(self, n: int, seed: int = 2) -> Tensor:
        """Return random tokens (BATCH_SIZE, n, width)."""
        import torch

        return torch.randn(
            BATCH_SIZE, n, self.shape.width, generator=torch.Generator().manual_seed(seed)
        )

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return fixed random projections of tokens to queries and keys (B, heads, n, head_dim)."""
        import torch

        width = self.shape.width
        rng = torch.Generator().manual_seed(3)
        weights = torch.randn(2, width, width, generator=rng) / width**0.5
        q, k = (
            (tokens.float() @ w)  # (B, n, width)
            .unflatten(-1, (N_HEADS, -1))  # (B, n, heads, head_dim)
            .transpose(1, 2)  # (B, heads, n, head_dim)
            .to(tokens.dtype)
            for w in weights
        )
        return q, k

    def random_queries(self, n: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys (BATCH_SIZE, heads, n, head_dim) without position information."""
        return self.project(self.random_tokens(n))

    def scores(
        self,
        encoding: Encoding,
        positions: Tensor,
        layer: int = 0,
        order: Sequence[int] | None = None,
    ) -> Tensor:
        """Return attention scores (BATCH_SIZE, heads, n, n), float64, of random tokens.

        The tokens pass through `embed`, the projections and `rotate`.

        Args:
            order: permutation of the tokens before `embed`.
        """
        tokens = self.random_tokens(len(positions))
        if order is not None:
            tokens = tokens[:, order]
        q, k = encoding.rotate(*self.project(encoding.embed(tokens, positions)), positions, layer)
        return (q.double() @ k.double().mT).detach()  # (B, heads, n, n)

    # Each method below checks one requirement.
    def check_required_members(self) -> None:
        """Check properties, options and source, and that the encoding overrides something."""
        from harope_bench.encodings.base import Encoding, EncodingOptions, EncodingProperties

        encoding_class = self.encoding_class
        has_properties = encoding_class.properties is not Encoding.properties and isinstance(
            self.declared_properties, EncodingProperties
        )
        self.expect(has_properties, "declares no `properties` of type EncodingProperties")
        self.expect(
            issubclass(encoding_class.Options, EncodingOptions),
            "its `Options` is not a subclass of encodings.base.EncodingOptions",
        )
        self.expect(
            encoding_class.source.strip(),
            "declares no `source`: name the paper's equation or the code it follows",
        )
        self.expect(
            encoding_class.embed is not Encoding.embed or self.is_rotary,
            "overrides neither `embed` nor `rotate` nor its steps, so it encodes nothing",
        )

    def check_unknown_options_rejected(self) -> None:
        """Check that an unknown option is an OptionError that names the known ones."""
        from harope_bench.core.errors import OptionError

        try:
            self.build({**self.options, "no_such_option": 1})
        except OptionError as error:
            fields = (*self.encoding_class.Options.model_fields, "no_such_option")
            missing_fields = [field for field in fields if field not in str(error)]
            self.expect(
                not missing_fields,
                f"rejects an unknown option without naming {', '.join(missing_fields)}: {error}",
            )
        else:
            self.add_violation(
                "accepts an unknown option; let Options forbid extra fields and build with"
                " encodings.base.build_encoding",
            )

    def check_determinism(self) -> None:
        """Check that builds from one seed are equal, and that calls use no global generator."""
        import torch

        encoding_a = self.build_perturbed()
        encoding_b = self.build_perturbed()
        states = (encoding_a.state_dict().values(), encoding_b.state_dict().values())
        self.expect(
            all(torch.equal(a, b) for a, b in zip(*states, strict=True)),
            "two builds from one seed differ; draw initial values from torch's generator alone",
        )
        positions = _positions(self.grids[0])
        generator_state = torch.get_rng_state()
        scores = self.scores(encoding_a, positions)
        self.expect(
            torch.equal(generator_state, torch.get_rng_state()),
            "draws random numbers when it is called",
        )
        self.expect(
            torch.equal(scores, self.scores(encoding_a, positions)),
            "gives other results at the second call with the same inputs",
        )

    def check_shapes_and_dtypes(self) -> None:
        """Check that outputs are finite, with shape and dtype of their inputs, on every grid."""
        import torch

        for grid in [(1, 1), *self.grids]:
            for dtype in (torch.float32, torch.bfloat16):
                self._check_shapes(grid, dtype)

    def _check_shapes(self, grid: tuple[int, int], dtype: torch.dtype) -> None:
        """Check the outputs of `embed` and `rotate` on one grid in one dtype."""
        positions = _positions(grid)
        encoding = self.build_perturbed().to(dtype)
        tokens = self.random_tokens(len(positions)).to(dtype)
        inputs_and_outputs = [("embed", tokens, encoding.embed(tokens, positions))]
        q, k = self.project(tokens)
        for layer in range(N_LAYERS):
            output_q, output_k = encoding.rotate(*self.project(tokens), positions, layer)
            inputs_and_outputs.append(("rotate q", q, output_q))
            inputs_and_outputs.append(("rotate k", k, output_k))
        for call, call_input, output in inputs_and_outputs:
            self.expect(
                output.shape == call_input.shape and output.dtype == call_input.dtype,
                f"{call} on grid {grid} turns {tuple(call_input.shape)} {call_input.dtype} into"
                f" {tuple(output.shape)} {output.dtype}",
            )
            self.expect(output.isfinite().all(), f"{call} on grid {grid} in {dtype} is not finite")

    def check_bfloat16_precision(self) -> None:
        """Check that bfloat16 changes outputs by rounding only, although it cannot count to 257."""
        import copy

        import torch

        bfloat16_encoding = self.build_perturbed().to(torch.bfloat16)
        float32_encoding = copy.deepcopy(bfloat16_encoding).float()
        positions = _positions(LARGE_GRID)
        tokens = self.random_tokens(len(positions)).bfloat16()
        q, k = self.project(tokens)
        embedded_tokens = bfloat16_encoding.embed(tokens, positions)
        output_q, output_k = bfloat16_encoding.rotate(q, k, positions, 0)
        expected_q, expected_k = float32_encoding.rotate(q.float(), k.float(), positions, 0)
        for call, output, expected in (
            ("embed", embedded_tokens, float32_encoding.embed(tokens.float(), positions)),
            ("rotate q", output_q, expected_q),
            ("rotate k", output_k, expected_k),
        ):
            difference = relative_difference(output, expected)
            self.expect(
                difference < BFLOAT16_TOLERANCE,
                f"{call} in bfloat16 is {difference:.1%} off on grid {LARGE_GRID}; keep angles in"
                " float32 or better",
            )

    def check_declared_relative(self) -> None:
        """Check that scores at positions p and p + c agree exactly where `relative` is declared."""
        import torch

        encoding = self.build_perturbed()
        shifts = ((5.0, 7.0), (-2.0, 3.0))
        differences = {
            (grid, shift): relative_difference(
                self.scores(encoding, _positions(grid) + torch.tensor(shift)),
                self.scores(encoding, _positions(grid)),
            )
            for grid in self.grids
            for shift in shifts
        }
        if self.declared_properties.relative:
            for (grid, shift), difference in differences.items():
                self.expect(
                    difference < EQUAL_TOLERANCE,
                    f"declares relative, but a shift by {shift} on grid {grid} changes scores by"
                    f" {difference:.2%}",
                )
        else:
            self.expect(
                max(differences.values()) > MIN_DIFFERENCE,
                "declares relative=False, but scores do not change when all positions are shifted",
            )

    def check_declared_orthogonal(self) -> None:
        """Check that `rotate` preserves lengths after training if `orthogonal` is declared."""
        encoding = self.build_perturbed()
        max_difference = 0.0
        for grid in self.grids:
            positions = _positions(grid)
            q, k = self.random_queries(len(positions))
            rotated_pair = encoding.rotate(q, k, positions, 0)
            for vectors, rotated_vectors in zip((q, k), rotated_pair, strict=True):
                lengths = vectors.norm(dim=-1)  # (B, heads, n)
                difference = relative_difference(
                    rotated_vectors.norm(dim=-1) / lengths, lengths / lengths
                )
                max_difference = max(max_difference, difference)
        if self.declared_properties.orthogonal:
            self.expect(
                max_difference < EQUAL_TOLERANCE,
                f"declares orthogonal, but rotate changes lengths by up to {max_difference:.2%}"
                " once its parameters change",
            )
        else:
            self.expect(
                max_difference > MIN_DIFFERENCE,
                "declares orthogonal=False, but rotate preserves all lengths",
            )

    def check_declared_identity_at_init(self) -> None:
        """Check that untrained scores equal rope-axial's where `identity_at_init` is declared."""
        from harope_bench.encodings.base import build_encoding, load_encoding

        axial_class = load_encoding("rope-axial")
        encoding = self.build_untrained()
        shared_options = {
            k: v
            for k, v in encoding.options.model_dump().items()
            if k in axial_class.Options.model_fields
        }
        axial_encoding = build_encoding(axial_class, self.shape, shared_options)
        max_difference = max(
            relative_difference(
                self.scores(encoding, _positions(grid), layer),
                self.scores(axial_encoding, _positions(grid), layer),
            )
            for grid in self.grids
            for layer in range(N_LAYERS)
        )
        if self.declared_properties.identity_at_init:
            self.expect(
                max_difference < EQUAL_TOLERANCE,
                f"declares identity_at_init, but its first scores are {max_difference:.2%} from"
                " rope-axial's",
            )
        else:
            self.expect(
                max_difference > MIN_DIFFERENCE,
                "declares identity_at_init=False, but it starts as rope-axial",
            )

    def check_declared_per_head(self) -> None:
        """Check that heads rotate equal queries differently where `per_head` is declared."""
        encoding = self.build_perturbed()
        positions = _positions(self.grids[0])
        q, k = (
            x[:, :1].expand(-1, N_HEADS, -1, -1)  # (B, heads, n, head_dim), equal in all heads
            for x in self.random_queries(len(positions))
        )
        for layer in range(N_LAYERS):
            max_difference = max(
                relative_difference(x, x[:, :1].expand_as(x))
                for x in encoding.rotate(q, k, positions, layer)
            )
            if self.declared_properties.per_head:
                self.expect(
                    max_difference > MIN_DIFFERENCE,
                    f"declares per_head, but after training the heads of layer {layer} are equal",
                )
            else:
                self.expect(
                    max_difference < EQUAL_TOLERANCE,
                    f"declares per_head=False, but the heads of layer {layer} differ by"
                    f" {max_difference:.2%}",
                )

    def check_declared_foldable(self) -> None:
        """Check that matrices folded into the projections give the same queries and keys.

        Where `foldable` is not declared, `without_matrices` must raise OptionError.
        """
        from harope_bench.core.errors import OptionError

        encoding = self.build_perturbed()
        positions = _positions(self.grids[-1])
        if not self.declared_properties.foldable:
            try:
                encoding.without_matrices()
            except OptionError:
                return
            self.add_violation(
                "declares foldable=False, but `without_matrices` returns an encoding"
            )
            return

        q, k = self.random_queries(len(positions))
        for layer in range(N_LAYERS):
            pair = encoding.matrices(layer)
            if pair is None:
                self.add_violation("declares foldable, but `matrices` returns none")
                return
            folded_pair = encoding.without_matrices().rotate(
                q @ pair.q.mT, k @ pair.k.mT, positions, layer
            )
            rotated_pair = encoding.rotate(q, k, positions, layer)
            max_difference = max(map(relative_difference, folded_pair, rotated_pair))
            self.expect(
                max_difference < EQUAL_TOLERANCE,
                f"declares foldable, but folded into the projections layer {layer} is"
                f" {max_difference:.2%} off",
            )

    def check_every_parameter_trains(self) -> None:
        """Check that gradients are finite, and after training reach every parameter and token."""
        for stage, encoding in (
            ("at the start", self.build_untrained()),
            ("after training", self.build_perturbed()),
        ):
            positions = _positions(self.grids[0])
            tokens = self.random_tokens(len(positions)).requires_grad_()  # (B, n, width)
            embedded_tokens = encoding.embed(tokens, positions)
            loss = embedded_tokens.square().sum()
            for layer in range(N_LAYERS):
                q, k = encoding.rotate(*self.project(embedded_tokens), positions, layer)
                probabilities = (q @ k.mT).softmax(-1)  # (B, heads, n, n)
                attention_output = probabilities @ encoding.transform_values(q, layer)
                loss = loss + encoding.transform_outputs(attention_output, layer).square().sum()
            loss.backward()

            for name, leaf in [("the tokens", tokens), *encoding.named_parameters()]:
                if leaf.grad is None:
                    self.add_violation(f"no gradient reaches {name} {stage}")
                    continue
                self.expect(
                    leaf.grad.isfinite().all(), f"the gradient of {name} {stage} is not finite"
                )
                self.expect(
                    leaf.grad.abs().max() > 0 or stage == "at the start",
                    f"the gradient of {name} {stage} is zero everywhere",
                )

    def check_permutation_equivariance(self) -> None:
        """Check that tokens permuted with their positions give the same scores, permuted."""
        import torch

        encoding = self.build_perturbed()
        for grid in self.grids:
            positions = _positions(grid)
            rng = torch.Generator().manual_seed(4)
            order = torch.randperm(len(positions), generator=rng).tolist()
            expected = self.scores(encoding, positions)[:, :, order][..., order]
            permuted_scores = self.scores(encoding, positions[order], order=order)
            difference = relative_difference(permuted_scores, expected)
            self.expect(
                difference < EQUAL_TOLERANCE,
                f"on grid {grid} a token's index in the sequence matters ({difference:.2%}), not"
                " its position alone",
            )

    def check_no_cache_between_calls(self) -> None:
        """Check that other positions, or changed parameters, give results of their own."""
        import torch

        wide_positions = _positions((max(self.grids[0]), max(self.grids[0]) + 2))
        tall_positions = wide_positions.flip(1)  # rows and columns exchanged
        encoding = self.build_perturbed()
        uncalled_encoding = self.build_perturbed()
        wide_scores = self.scores(encoding, wide_positions)
        tall_scores = self.scores(encoding, tall_positions)
        self.expect(
            torch.equal(tall_scores, self.scores(uncalled_encoding, tall_positions)),
            "gives old results at new positions of the same number; never cache by length",
        )
        self.expect(
            relative_difference(tall_scores, wide_scores) > MIN_DIFFERENCE,
            "scores do not change when rows and columns are exchanged",
        )

        if list(encoding.parameters()):
            # In the order of registration, unlike `build_perturbed`.
            rng = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in encoding.parameters():
                    noise = torch.randn(parameter.shape, generator=rng)
                    parameter.add_(PERTURBATION_STANDARD_DEVIATION * noise)
            new_scores = self.scores(encoding, tall_positions)
            self.expect(
                relative_difference(new_scores, tall_scores) > MIN_DIFFERENCE,
                "gives old results after its parameters changed; never cache across steps",
            )

    def check_state_dict_reload(self) -> None:
        """Check that a state dict is complete, loads strictly, and does not depend on the grid."""
        import torch

        encoding = self.build_perturbed()
        reloaded_encoding = self.build_perturbed(seed=6)
        positions = _positions(self.grids[0])
        self.scores(reloaded_encoding, positions)
        self.scores(encoding, _positions(LARGE_GRID))
        state = {key: value.clone() for key, value in encoding.state_dict().items()}
        untrained_state = self.build_untrained().state_dict()
        self.expect(
            {key: value.shape for key, value in state.items()}
            == {key: value.shape for key, value in untrained_state.items()},
            "its state dict changes with the grid it was used on",
        )
        reloaded_encoding.load_state_dict(state, strict=True)
        for layer in range(N_LAYERS):
            self.expect(
                torch.equal(
                    self.scores(reloaded_encoding, positions, layer),
                    self.scores(encoding, positions, layer),
                ),
                f"layer {layer} differs after a state dict round trip: something that matters is"
                " not in the state dict",
            )

    def check_random_constants_saved(self) -> None:
        """Check that a state dict makes encodings equal that were built from other seeds."""
        import torch

        encoding = self.build_perturbed()
        reloaded_encoding = self.build(self.options, seed=7)
        reloaded_encoding.load_state_dict(encoding.state_dict(), strict=True)
        positions = _positions(self.grids[0])
        for layer in range(N_LAYERS):
            pairs = zip(
                self._layer_outputs(reloaded_encoding, positions, layer),
                self._layer_outputs(encoding, positions, layer),
                strict=True,
            )
            self.expect(
                all(torch.equal(reloaded_output, output) for reloaded_output, output in pairs),
                f"layer {layer} differs in an encoding that another seed built, after it loaded the"
                " same state dict; register random constants as buffers, or make them from a"
                " seeded generator",
            )

    def _layer_outputs(self, encoding: Encoding, positions: Tensor, layer: int) -> list[Tensor]:
        """Return the scores of a layer, and its changed values and attention outputs."""
        values, attention_outputs = self.random_queries(len(positions))
        return [
            self.scores(encoding, positions, layer),
            encoding.transform_values(values, layer),
            encoding.transform_outputs(attention_outputs, layer),
        ]

    def check_position_dependence(self) -> None:
        """Check that scores depend on positions, and that inputs do not change in place.

        A step that is not overridden must return its input.
        """
        import torch

        from harope_bench.encodings.base import Encoding

        encoding = self.build_perturbed()
        positions = _positions(self.grids[0])
        difference = relative_difference(
            self.scores(encoding, positions.flip(0)), self.scores(encoding, positions)
        )
        self.expect(difference > MIN_DIFFERENCE, "scores do not depend on positions")

        tokens = self.random_tokens(len(positions))
        q, k = self.random_queries(len(positions))
        inputs = (tokens, q, k, positions)
        copies = [x.clone() for x in inputs]
        embedded_tokens = encoding.embed(tokens, positions)
        output_q, output_k = encoding.rotate(q, k, positions, 0)
        self.expect(all(map(torch.equal, copies, inputs)), "changes its inputs in place")
        token_copy, q_copy, k_copy, _ = copies
        if self.encoding_class.embed is Encoding.embed:
            self.expect(
                torch.equal(embedded_tokens, token_copy),
                "does not override `embed`, yet it changes tokens",
            )
        if not self.is_rotary:
            self.expect(
                torch.equal(output_q, q_copy) and torch.equal(output_k, k_copy),
                "does not override `rotate`, yet it changes q or k",
            )


def _perturb(encoding: Encoding, rng: Generator) -> None:
    """Add normal noise to every parameter, in order of their names."""
    import torch

    with torch.no_grad():
        for _, parameter in sorted(encoding.named_parameters()):
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.add_(PERTURBATION_STANDARD_DEVIATION * noise)


def _positions(grid: tuple[int, int]) -> Tensor:
    """Return row-major coordinates (n, 2) of a grid, float32.

    Of a large grid they are about MAX_TOKENS evenly spaced tokens, since any set of positions must
    work. The step is odd, so that odd and even columns occur.
    """
    import torch

    coordinates = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
    odd_step = (len(coordinates) // MAX_TOKENS) | 1
    return coordinates[::odd_step]  # (n, 2)
