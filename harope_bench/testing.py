"""Public contracts: what an encoding, backbone, judge, evaluator or table must keep. Plug-ins use them in their own tests.

Each check takes a registered name or the thing itself, returns nothing when every promise holds, and
raises one AssertionError that lists everything that does not. Nothing heavy is imported before a check runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harope_bench.backbones.base import Drawer
    from harope_bench.encodings.base import Encoding, Shape
    from harope_bench.evaluators.base import Observations, Score
    from harope_bench.records import Checkpoint, Request, Settings

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BATCH = 2
LAYERS = 2
HEADS = 3
SPREAD = 0.3  # standard deviation of the noise that stands for training

# Angles are float64, rotated values float32: products of about 16 terms of size 1 lose a few 1e-7 each.
SAME = 1e-4
# A promise that does not hold moves scores by their own size; 1% is far from rounding.
OTHER = 1e-2
# bfloat16 keeps 8 bits (0.4%); a head's sum of 16 such terms stays well inside.
COARSE = 5e-2
FEW = 60  # tokens of a large grid that are tried
LARGE = (2, 300)  # wider than any training grid, and than the 256 integers bfloat16 can count


class Complaints:
    """Collects what does not hold, so that an author sees all of it at once."""

    def __init__(self, what: str):
        self.what = what
        self.lines: list[str] = []

    def expect(self, holds: object, line: str) -> None:
        """Notes `line` unless it holds."""
        if not holds:
            self.lines.append(line)

    def run(self, promises: Iterable[Callable[[], None]]) -> None:
        """Runs every promise; one that crashes is a complaint, not the end.

        Raises:
            AssertionError: listing every complaint.
        """
        for promise in promises:
            try:
                promise()
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises belongs in the list
                self.lines.append(f"{promise.__name__.strip('_')}: {type(error).__name__}: {error}")
        if self.lines:
            raise AssertionError(f"{self.what} breaks its contract:\n" + "\n".join(f"- {line}" for line in self.lines))


def gap(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest wanted magnitude; infinite where shapes differ or something is not finite."""
    if found.shape != wanted.shape or not (found.isfinite().all() and wanted.isfinite().all()):
        return math.inf
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


# --------------------------------------------------------------------------------------- encodings


def check_encoding(
    name: str | type[Encoding],
    head_dim: int = 16,
    grids: Sequence[tuple[int, int]] = ((4, 4), (3, 5)),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Holds an encoding to the contract of encodings/base.py and to each of its declared Facts.

    Args:
        name: a registered encoding, or a class.
        head_dim: of the heads it is tried with.
        grids: (rows, columns) it is tried on; a large one is always added.
        options: as a checkpoint would give them.

    Raises:
        AssertionError: lists every promise that does not hold. OptionError: these options are refused.
    """
    from harope_bench import registry

    kind: type[Encoding] = registry.load("encodings", name) if isinstance(name, str) else name
    bench = _EncodingBench(kind, head_dim, [*grids, LARGE], dict(options or {}))
    bench.complaints.run(
        [
            bench.declares_itself,
            bench.refuses_unknown_options,
            bench.starts_without_a_trace,
            bench.keeps_shapes_and_dtypes,
            bench.is_precise_in_bfloat16,
            bench.is_relative_as_declared,
            bench.keeps_lengths_as_declared,
            bench.starts_as_axial_as_declared,
            bench.tells_heads_apart_as_declared,
            bench.folds_if_declared,
            bench.trains_every_parameter,
            bench.follows_the_order_of_tokens,
            bench.remembers_nothing_between_calls,
            bench.survives_a_state_dict,
            bench.sees_positions,
        ]
    )


class _EncodingBench:
    """One encoding on the bench: fresh and perturbed copies, random inputs, and one method a promise."""

    def __init__(self, kind: type[Encoding], head_dim: int, grids: list[tuple[int, int]], options: dict[str, Any]):
        from harope_bench.encodings.base import Shape

        self.kind, self.options, self.grids = kind, options, grids
        self.shape: Shape = Shape(width=HEADS * head_dim, heads=HEADS, head_dim=head_dim, layers=LAYERS)
        self.complaints = Complaints(f"encoding {kind.__module__}.{kind.__qualname__}")
        self.expect = self.complaints.expect
        self.build(options)  # options that are refused are the caller's mistake, not a broken promise

    def build(self, options: dict[str, Any]) -> Encoding:
        """A freshly initialised encoding, the same one every time."""
        import torch

        from harope_bench.encodings.base import build

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build(self.kind, self.shape, options)

    def fresh(self) -> Encoding:
        """As before training."""
        return self.build(self.options)

    def trained(self, seed: int = 1) -> Encoding:
        """Fresh, with noise on every parameter in place of a training."""
        import torch

        rng, encoding = torch.Generator().manual_seed(seed), self.fresh()
        with torch.no_grad():
            for _, parameter in sorted(encoding.named_parameters()):
                parameter.add_(SPREAD * torch.randn(parameter.shape, generator=rng))
        return encoding

    def tokens(self, n: int, seed: int = 2) -> Tensor:
        """Random tokens (BATCH, n, width)."""
        import torch

        return torch.randn(BATCH, n, self.shape.width, generator=torch.Generator().manual_seed(seed))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Fixed random projections of tokens to queries and keys (BATCH, heads, n, head_dim)."""
        import torch

        weights = torch.randn(2, self.shape.width, self.shape.width, generator=torch.Generator().manual_seed(3)) / self.shape.width**0.5
        q, k = ((tokens.float() @ w).unflatten(-1, (HEADS, -1)).transpose(1, 2).to(tokens.dtype) for w in weights)
        return q, k

    def queries(self, n: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (BATCH, heads, n, head_dim) that have not met the encoding."""
        return self.project(self.tokens(n))

    def scores(self, encoding: Encoding, positions: Tensor, layer: int = 0, order: Sequence[int] | None = None) -> Tensor:
        """Attention scores (BATCH, heads, n, n), float64, of random tokens that pass through embed, projections and rotate."""
        tokens = self.tokens(len(positions))
        if order is not None:
            tokens = tokens[:, order]
        q, k = encoding.rotate(*self.project(encoding.embed(tokens, positions)), positions, layer)
        return (q.double() @ k.double().mT).detach()

    # Each method below is one promise.

    def declares_itself(self) -> None:
        """Facts, options and source are there, and something is overridden."""
        from harope_bench.encodings.base import Encoding, Facts, Options

        self.expect(isinstance(getattr(self.kind, "facts", None), Facts), "declares no `facts` of type Facts")
        self.expect(issubclass(self.kind.Options, Options), "its `Options` is not a subclass of encodings.base.Options")
        self.expect(str(getattr(self.kind, "source", "")).strip(), "declares no `source`: name the paper's equation or the code it follows")
        self.expect(
            self.kind.embed is not Encoding.embed or self.kind.rotate is not Encoding.rotate,
            "overrides neither `embed` nor `rotate`, so it encodes nothing",
        )

    def refuses_unknown_options(self) -> None:
        """An option nobody knows is an OptionError that names the known ones."""
        from harope_bench.errors import OptionError

        try:
            self.build({**self.options, "no_such_option": 1})
        except OptionError as error:
            unnamed = [field for field in (*self.kind.Options.model_fields, "no_such_option") if field not in str(error)]
            self.expect(not unnamed, f"refuses an unknown option without naming {', '.join(unnamed)}: {error}")
        else:
            self.expect(False, "takes an option nobody knows; let Options forbid extra fields and build with encodings.base.build")

    def starts_without_a_trace(self) -> None:
        """Two builds from one seed are equal, and calls draw nothing from the global generator."""
        import torch

        one, other = self.trained(), self.trained()
        equal = all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
        self.expect(equal, "two builds from one seed differ; draw initial values from torch's generator alone")
        positions, before = _positions(self.grids[0]), torch.get_rng_state()
        first = self.scores(one, positions)
        self.expect(torch.equal(before, torch.get_rng_state()), "draws random numbers when it is called")
        self.expect(torch.equal(first, self.scores(one, positions)), "gives other results at the second call with the same inputs")

    def keeps_shapes_and_dtypes(self) -> None:
        """Any grid, float32 and bfloat16: what comes out has the shape and dtype of what went in, and is finite."""
        import torch

        for grid in [(1, 1), *self.grids]:
            positions = _positions(grid)
            for dtype in (torch.float32, torch.bfloat16):
                encoding, tokens = self.trained().to(dtype), self.tokens(len(positions)).to(dtype)
                embedded = encoding.embed(tokens, positions)
                rotated = [encoding.rotate(*self.project(tokens), positions, layer) for layer in range(LAYERS)]
                pairs = [("embed", embedded, tokens)]
                pairs += [(f"rotate {w}", r, before) for qk in rotated for w, r, before in zip("qk", qk, self.project(tokens), strict=True)]
                for what, after, before in pairs:
                    self.expect(
                        after.shape == before.shape and after.dtype == before.dtype,
                        f"{what} on grid {grid} turns {tuple(before.shape)} {before.dtype} into {tuple(after.shape)} {after.dtype}",
                    )
                    self.expect(after.isfinite().all(), f"{what} on grid {grid} in {dtype} is not finite")

    def is_precise_in_bfloat16(self) -> None:
        """Low precision costs rounding, not positions: bfloat16 cannot count beyond 256."""
        import copy

        import torch

        low, positions = self.trained().to(torch.bfloat16), _positions(LARGE)
        high, tokens = copy.deepcopy(low).float(), self.tokens(len(positions)).bfloat16()
        q, k = self.project(tokens)
        pairs = [("embed", low.embed(tokens, positions), high.embed(tokens.float(), positions))]
        pairs += zip(("rotate q", "rotate k"), low.rotate(q, k, positions, 0), high.rotate(q.float(), k.float(), positions, 0), strict=True)
        for what, rough, fine in pairs:
            off = gap(rough, fine)
            self.expect(off < COARSE, f"{what} in bfloat16 is {off:.1%} off on grid {LARGE}; keep angles in float32 or better")

    def is_relative_as_declared(self) -> None:
        """Scores at positions p and p + c agree on every grid, or, where not promised, differ on some."""
        import torch

        encoding, shifts = self.trained(), ((5.0, 7.0), (-2.0, 3.0))
        moved = {
            (grid, shift): gap(self.scores(encoding, _positions(grid) + torch.tensor(shift)), self.scores(encoding, _positions(grid)))
            for grid in self.grids
            for shift in shifts
        }
        if self.kind.facts.relative:
            for (grid, shift), off in moved.items():
                self.expect(off < SAME, f"declares relative, but a shift by {shift} on grid {grid} moves scores by {off:.2%}")
        else:
            self.expect(max(moved.values()) > OTHER, "declares relative=False, but scores do not change when all positions are shifted")

    def keeps_lengths_as_declared(self) -> None:
        """`rotate` keeps the length of queries and keys also after training, or, where not promised, does not."""
        encoding, worst = self.trained(), 0.0
        for grid in self.grids:
            positions = _positions(grid)
            q, k = self.queries(len(positions))
            for before, after in zip((q, k), encoding.rotate(q, k, positions, 0), strict=True):
                worst = max(worst, gap(after.norm(dim=-1) / before.norm(dim=-1), before.norm(dim=-1) / before.norm(dim=-1)))
        if self.kind.facts.orthogonal:
            self.expect(worst < SAME, f"declares orthogonal, but rotate changes lengths by up to {worst:.2%} once its parameters move")
        else:
            self.expect(worst > OTHER, "declares orthogonal=False, but rotate keeps all lengths")

    def starts_as_axial_as_declared(self) -> None:
        """Before training, scores equal those of rope-axial with the same options, or, where not promised, differ."""
        from harope_bench import registry
        from harope_bench.encodings.base import build

        axial_kind = registry.load("encodings", "rope-axial")
        encoding: Any = self.fresh()
        shared = {k: v for k, v in encoding.options.model_dump().items() if k in axial_kind.Options.model_fields}
        axial = build(axial_kind, self.shape, shared)
        worst = max(
            gap(self.scores(encoding, _positions(grid), layer), self.scores(axial, _positions(grid), layer))
            for grid in self.grids
            for layer in range(LAYERS)
        )
        if self.kind.facts.identity_at_init:
            self.expect(worst < SAME, f"declares identity_at_init, but its first scores are {worst:.2%} from rope-axial's")
        else:
            self.expect(worst > OTHER, "declares identity_at_init=False, but it starts as rope-axial")

    def tells_heads_apart_as_declared(self) -> None:
        """Equal queries in all heads come out equal unless per_head is declared; then they do not."""
        encoding, positions = self.trained(), _positions(self.grids[0])
        q, k = (x[:, :1].expand(-1, HEADS, -1, -1) for x in self.queries(len(positions)))
        for layer in range(LAYERS):
            worst = max(gap(x, x[:, :1].expand_as(x)) for x in encoding.rotate(q, k, positions, layer))
            if self.kind.facts.per_head:
                self.expect(worst > OTHER, f"declares per_head, but after training the heads of layer {layer} do the same")
            else:
                self.expect(worst < SAME, f"declares per_head=False, but the heads of layer {layer} differ by {worst:.2%}")

    def folds_if_declared(self) -> None:
        """What `rotate` does at the origin, moved into the projections of a fresh encoding, gives the trained one."""
        import torch

        if not self.kind.facts.foldable:
            return
        encoding, fresh, positions, d = self.trained(), self.fresh(), _positions(self.grids[-1]), self.shape.head_dim
        basis = torch.eye(d).expand(1, HEADS, d, d)  # row i is channel i at the origin
        q, k = self.queries(len(positions))
        for layer in range(LAYERS):
            on_q, on_k = encoding.rotate(basis, basis, torch.zeros(d, 2), layer)  # (1, heads, d, d): x -> x @ on
            folded, wanted = fresh.rotate(q @ on_q, k @ on_k, positions, layer), encoding.rotate(q, k, positions, layer)
            worst = max(gap(f, w) for f, w in zip(folded, wanted, strict=True))
            self.expect(worst < SAME, f"declares foldable, but folded into the projections layer {layer} is {worst:.2%} off")

    def trains_every_parameter(self) -> None:
        """Gradients are finite at the start, and after training reach every parameter, the tokens, queries and keys."""
        for state, encoding in (("at the start", self.fresh()), ("after training", self.trained())):
            positions = _positions(self.grids[0])
            tokens = self.tokens(len(positions)).requires_grad_()
            embedded = encoding.embed(tokens, positions)
            total = embedded.square().sum()
            for layer in range(LAYERS):
                q, k = encoding.rotate(*self.project(embedded), positions, layer)
                total = total + (q @ k.mT).softmax(-1).square().sum()
            total.backward()
            for what, leaf in [("the tokens", tokens), *encoding.named_parameters()]:
                if leaf.grad is None:
                    self.expect(False, f"no gradient reaches {what} {state}")
                else:
                    self.expect(leaf.grad.isfinite().all(), f"the gradient of {what} {state} is not finite")
                    self.expect(leaf.grad.abs().max() > 0 or state == "at the start", f"the gradient of {what} {state} is zero everywhere")

    def follows_the_order_of_tokens(self) -> None:
        """Tokens permuted together with their positions give the same scores, permuted."""
        import torch

        encoding = self.trained()
        for grid in self.grids:
            positions = _positions(grid)
            order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(4)).tolist()
            wanted = self.scores(encoding, positions)[:, :, order][..., order]
            off = gap(self.scores(encoding, positions[order], order=order), wanted)
            self.expect(off < SAME, f"on grid {grid} a token's place in the sequence matters ({off:.2%}), not its position alone")

    def remembers_nothing_between_calls(self) -> None:
        """A call at other positions, or after a parameter moved, is not answered from the call before."""
        import torch

        wide = _positions((max(self.grids[0]), max(self.grids[0]) + 2))
        tall = wide.flip(1)  # rows and columns exchanged
        used, unused = self.trained(), self.trained()
        first = self.scores(used, wide)
        second = self.scores(used, tall)
        equal = torch.equal(second, self.scores(unused, tall))
        self.expect(equal, "gives old results at new positions of the same number; never cache by length")
        self.expect(gap(second, first) > OTHER, "scores stay when rows and columns are exchanged")
        if parameters := list(used.parameters()):
            rng = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.add_(SPREAD * torch.randn(parameter.shape, generator=rng))
            moved = gap(self.scores(used, tall), second)
            self.expect(moved > OTHER, "gives old results after its parameters moved; never cache across steps")

    def survives_a_state_dict(self) -> None:
        """The state dict carries everything, loads strictly into a used copy, and does not know the grid."""
        import torch

        encoding, other, positions = self.trained(), self.trained(seed=6), _positions(self.grids[0])
        self.scores(other, positions)
        self.scores(encoding, _positions(LARGE))
        state = {key: value.clone() for key, value in encoding.state_dict().items()}
        shapes = {key: value.shape for key, value in self.fresh().state_dict().items()}
        self.expect({key: value.shape for key, value in state.items()} == shapes, "its state dict changes with the grid it was used on")
        other.load_state_dict(state, strict=True)
        for layer in range(LAYERS):
            equal = torch.equal(self.scores(other, positions, layer), self.scores(encoding, positions, layer))
            self.expect(equal, f"layer {layer} differs after a state dict round trip: something that matters is not in the state dict")

    def sees_positions(self) -> None:
        """Scores change when two tokens swap their positions, and the untouched parts leave their inputs alone."""
        import torch

        from harope_bench.encodings.base import Encoding

        encoding, positions = self.trained(), _positions(self.grids[0])
        swapped = positions.flip(0)
        self.expect(gap(self.scores(encoding, swapped), self.scores(encoding, positions)) > OTHER, "scores do not depend on positions")
        tokens, (q, k) = self.tokens(len(positions)), self.queries(len(positions))
        kept = [x.clone() for x in (tokens, q, k, positions)]
        embedded, rotated = encoding.embed(tokens, positions), encoding.rotate(q, k, positions, 0)
        untouched = all(torch.equal(a, b) for a, b in zip(kept, (tokens, q, k, positions), strict=True))
        self.expect(untouched, "changes its inputs in place")
        if self.kind.embed is Encoding.embed:
            self.expect(torch.equal(embedded, kept[0]), "does not override `embed`, yet it changes tokens")
        if self.kind.rotate is Encoding.rotate:
            identity = torch.equal(rotated[0], kept[1]) and torch.equal(rotated[1], kept[2])
            self.expect(identity, "does not override `rotate`, yet it changes q or k")


def _positions(grid: tuple[int, int]) -> Tensor:
    """Row-major coordinates (rows * columns, 2), float32; of a large grid every few, because any set of positions must do."""
    import torch

    every = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
    return every[:: len(every) // FEW | 1]  # an odd step, so that odd and even columns are met


# --------------------------------------------------------------------------------------- backbones


class _Trial(NamedTuple):
    """What a backbone is tried with."""

    checkpoint: Checkpoint
    settings: Settings
    state: dict[str, Tensor]


def check_backbone(
    name: str,
    config: Mapping[str, Any],
    encoding: str = "rope-axial",
    options: Mapping[str, Any] | None = None,
    resolution: int | None = None,
    sampler: str = "flow",
    request: Callable[[int], Request] | None = None,
) -> None:
    """Holds a registered backbone to the contract of backbones/base.py: built small, given random weights, drawn from.

    Args:
        name: a registered backbone.
        config: sizes of a small network.
        encoding: the encoding it is built with.
        options: of that encoding.
        resolution: of the images; the config's `size` if not given.
        sampler: what it is drawn with, in two steps.
        request: the request of an index; by default labels run through the config's `classes`, prompts name the index.

    Raises:
        AssertionError: lists every promise that does not hold.
    """
    bench = _BackboneBench(name, dict(config), encoding, dict(options or {}), resolution or int(config["size"]), sampler, request)
    bench.complaints.run(
        [
            bench.declares_its_tile,
            bench.builds_the_same_from_one_seed,
            bench.loads_strictly,
            bench.reads_its_own_state_dict,
            bench.refuses_what_it_does_not_know,
            bench.draws_images,
            bench.draws_each_row_alone,
            bench.draws_from_seed_and_weights,
            bench.leaves_global_generators_alone,
        ]
    )


class _BackboneBench:
    """One backbone on the bench, one method a promise."""

    ROWS = 4  # a tile small enough for a test

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        encoding: str,
        options: dict[str, Any],
        resolution: int,
        sampler: str,
        request: Callable[[int], Request] | None,
    ):
        from harope_bench import registry

        self.backbone: Any = registry.load("backbones", name)
        self.name, self.config, self.encoding, self.options = name, config, encoding, options
        self.resolution, self.sampler = resolution, sampler
        self.request = request or self.numbered
        self.complaints = Complaints(f"backbone {name} with {encoding}")
        self.expect = self.complaints.expect

    def numbered(self, index: int) -> Request:
        """A request whose label and prompt follow from the index."""
        from harope_bench.records import Request

        return Request(index=index, label=index % int(self.config.get("classes", 1)), prompt=f"image number {index}")

    def build(self, seed: int = 0) -> Any:
        """A fresh network, the same for the same seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.backbone.build(self.encoding, self.options, self.config)

    def trial(self, seed: int = 0, weights: int = 0) -> _Trial:
        """A checkpoint with noise on all weights, because a fresh network may draw nothing (adaLN-Zero)."""
        import torch

        from harope_bench.records import Checkpoint, Settings

        rng = torch.Generator().manual_seed(weights)
        state = {k: v + 0.05 * torch.randn(v.shape, generator=rng) for k, v in self.build().state_dict().items()}
        checkpoint = Checkpoint(
            name="trial", backbone=self.name, encoding=self.encoding, options=self.options, config=self.config,
            weights="trial.safetensors", sha256="0" * 64, source="check_backbone", sampler=self.sampler, steps=2, guidance=1.5,
        )  # fmt: skip
        settings = Settings(resolution=self.resolution, sampler=self.sampler, steps=2, guidance=1.5, tile=self.ROWS, seed=seed)
        return _Trial(checkpoint, settings, state)

    def open(self, trial: _Trial) -> Drawer:
        """The trial's drawer."""
        drawer: Drawer = self.backbone.open(trial.checkpoint, trial.state, trial.settings)
        return drawer

    def draw(self, trial: _Trial, indices: Sequence[int]) -> np.ndarray:
        """Images of these indices, one tile."""
        return self.open(trial).draw([self.request(i) for i in indices], trial.settings).images

    # Each method below is one promise.

    def declares_its_tile(self) -> None:
        """The padded batch shape is a positive number."""
        tile = getattr(self.backbone, "tile", None)
        self.expect(isinstance(tile, int) and tile > 0, f"`tile` is {tile!r}, wanted a positive integer")

    def builds_the_same_from_one_seed(self) -> None:
        """Initial weights follow from torch's seed; unknown options and encodings are refused."""
        import torch

        from harope_bench.errors import OptionError, UnknownName

        one, other = self.build().state_dict(), self.build().state_dict()
        self.expect(one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one), "two builds from one seed differ")
        for kind, what, arguments in (
            (OptionError, "option no_such_option", (self.encoding, {"no_such_option": 1}, self.config)),
            (OptionError, "config field no_such_field", (self.encoding, self.options, {**self.config, "no_such_field": 1})),
            (UnknownName, "encoding no-such-encoding", ("no-such-encoding", {}, self.config)),
        ):
            self._refuses(kind, lambda a=arguments: self.backbone.build(*a), f"build with {what}", what.split()[-1])  # type: ignore[misc]

    def loads_strictly(self) -> None:
        """A missing, an unexpected and a mis-shaped key are each refused by name."""
        from harope_bench.errors import WeightsError

        trial = self.trial()
        key = sorted(trial.state)[0]
        without = {k: v for k, v in trial.state.items() if k != key}
        for what, state, named in (
            ("a missing key", without, key),
            ("an unexpected key", {**trial.state, "no.such.key": trial.state[key]}, "no.such.key"),
            ("a mis-shaped key", {**trial.state, key: trial.state[key][None]}, key),
        ):
            bad = trial._replace(state=state)
            self._refuses(WeightsError, lambda t=bad: self.open(t), f"open with {what}", named)  # type: ignore[misc]

    def _refuses(self, kind: type[Exception], call: Callable[[], object], what: str, named: str = "") -> None:
        try:
            call()
        except kind as error:
            self.expect(named in str(error), f"{what} is refused without naming {named}: {error}")
        except Exception as error:  # noqa: BLE001 - the wrong kind of error is the finding
            self.expect(False, f"{what} ends in {type(error).__name__} ({error}), wanted {kind.__name__}")
        else:
            self.expect(False, f"{what} is taken, wanted {kind.__name__}")

    def reads_its_own_state_dict(self) -> None:
        """`recognise` tells sizes that build the same network again, and never a wrong encoding."""
        from harope_bench.store import fit

        trial = self.trial()
        clue = self.backbone.recognise(trial.state)
        if clue is None:
            self.expect(False, "does not recognise its own state dict")
            return
        self.expect(clue.encoding in (None, self.encoding), f"takes its {self.encoding} weights for {clue.encoding}")
        wrong = {k: v for k, v in clue.config.items() if self.config.get(k) != v}
        self.expect(not wrong, f"reads {wrong} off its keys, built with { {k: self.config.get(k) for k in wrong} }")
        again = self.backbone.build(clue.encoding or self.encoding, self.options, {**self.config, **clue.config})
        fit(again, trial.state, "its own weights")

    def refuses_what_it_does_not_know(self) -> None:
        """Foreign keys are not recognised, and settings it can draw are not refused."""
        import torch

        self.expect(self.backbone.recognise({}) is None, "recognises an empty state dict")
        self.expect(self.backbone.recognise({"foreign.weight": torch.zeros(2, 2)}) is None, "recognises a foreign state dict")
        trial = self.trial()
        self.backbone.check(trial.checkpoint, trial.settings)

    def draws_images(self) -> None:
        """A tile comes out as uint8 (B, H, W, 3), and its images differ."""
        import numpy as np

        images = self.draw(self.trial(), range(self.ROWS))
        wanted = (self.ROWS, self.resolution, self.resolution, 3)
        self.expect(images.shape == wanted and images.dtype == np.uint8, f"draws {images.shape} {images.dtype}, wanted {wanted} uint8")
        self.expect(len({image.tobytes() for image in images}) == self.ROWS, "draws equal images for different indices")
        trial = self.trial()
        spoiled = trial._replace(state={k: v * math.nan for k, v in trial.state.items()})
        faults = self.open(spoiled).draw([self.request(i) for i in range(self.ROWS)], spoiled.settings).faults
        self.expect(set(faults) == set(range(self.ROWS)), "does not call a row that is not finite a fault")

    def draws_each_row_alone(self) -> None:
        """The request in row i has the same bits whatever stands in the other rows, and whenever it is drawn."""
        import numpy as np

        trial = self.trial()
        drawer, wanted = self.open(trial), self.draw(trial, range(self.ROWS))
        for row in range(self.ROWS):
            rows = [row if i == row else 100 + i for i in range(self.ROWS)]
            for indices in (rows, [row] * self.ROWS):
                images = drawer.draw([self.request(i) for i in indices], trial.settings).images
                same = np.array_equal(images[row], wanted[row])
                self.expect(same, f"row {row} changes with its neighbours {indices}: a sample may depend on its own request alone")

    def draws_from_seed_and_weights(self) -> None:
        """Another seed or other weights: other images; the same: the same."""
        import numpy as np

        wanted, indices = self.draw(self.trial(), range(self.ROWS)), range(self.ROWS)
        self.expect(not np.array_equal(self.draw(self.trial(seed=1), indices), wanted), "another seed draws the same images")
        self.expect(not np.array_equal(self.draw(self.trial(weights=1), indices), wanted), "other weights draw the same images")
        self.expect(np.array_equal(self.draw(self.trial(), indices), wanted), "a checkpoint opened again draws other images")

    def leaves_global_generators_alone(self) -> None:
        """Opening and drawing neither read nor move torch's or numpy's global generators."""
        import numpy as np
        import torch

        wanted = self.draw(self.trial(), range(self.ROWS))
        torch.manual_seed(99)
        state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]
        trial = self.trial()
        images = self.draw(trial, range(self.ROWS))
        moved = not torch.equal(state, torch.get_rng_state()) or np.random.get_state()[1].tobytes() != numpy_state  # type: ignore[index]
        self.expect(not moved, "moves a global random generator")
        self.expect(np.array_equal(images, wanted), "its images depend on a global random generator")


# ------------------------------------------------------------------------------------------ judges


def check_judge(name: str | Any, images: np.ndarray | None = None, device: str = "cpu") -> None:
    """Holds a judge to the contract of judges/base.py.

    Args:
        name: a registered judge, or the plug-in itself.
        images: (B, H, W, 3) uint8 it is shown, at least three; random ones of 28 x 28 if not given.
        device: where it is opened.

    Raises:
        AssertionError: lists every promise that does not hold. WeightsError: its weights are not here.
    """
    import numpy as np

    from harope_bench import registry

    plugin: Any = registry.load("judges", name) if isinstance(name, str) else name
    complaints = Complaints(f"judge {name if isinstance(name, str) else type(name).__qualname__}")
    shown = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8) if images is None else images
    opened = plugin.open(device)
    bench = _JudgeBench(plugin, opened, shown, complaints)
    complaints.run([bench.declares_itself, bench.returns_what_it_names, bench.sees_each_image_alone])


class _JudgeBench:
    """One judge on the bench, one method a promise."""

    # A batch of another size may take another kernel; 1e-4 of the largest value is far below what a score shows.
    BESIDE = 1e-4

    def __init__(self, plugin: Any, opened: Any, images: np.ndarray, complaints: Complaints):
        self.plugin, self.opened, self.images, self.expect = plugin, opened, images, complaints.expect

    def declares_itself(self) -> None:
        """Version, class, preprocessing, names of arrays, and the hash of its weights."""
        expect, plugin = self.expect, self.plugin
        expect(isinstance(plugin.version, int) and plugin.version >= 1, f"version is {plugin.version!r}, wanted an integer from 1")
        classes = ("official", "equivalent", "substitute", "micro")
        expect(plugin.judge_class in classes, f"judge_class is {plugin.judge_class!r}, wanted one of {', '.join(classes)}")
        expect(isinstance(plugin.preprocessing, str) and plugin.preprocessing.strip(), "says nothing of its preprocessing")
        expect(isinstance(plugin.arrays, tuple) and plugin.arrays, f"arrays is {plugin.arrays!r}, wanted a tuple of names")
        for array in plugin.arrays:
            expect(PLAIN.fullmatch(str(array)), f"array name {array!r} is not plain")
        expect(len(set(plugin.arrays)) == len(plugin.arrays), f"array names repeat: {plugin.arrays}")
        expect(SHA256.fullmatch(str(self.opened.weights_sha256)), f"weights_sha256 is {self.opened.weights_sha256!r}, wanted 64 hex digits")
        if hasattr(plugin, "weights_sha256"):
            recorded = plugin.weights_sha256()
            expect(recorded == self.opened.weights_sha256, f"records weights {recorded}, opens {self.opened.weights_sha256}")
        if hasattr(plugin, "batch"):
            expect(isinstance(plugin.batch, int) and plugin.batch > 0, f"batch is {plugin.batch!r}, wanted a positive integer")

    def returns_what_it_names(self) -> None:
        """Exactly the arrays it names: float32, finite, one row an image, images untouched."""
        import numpy as np

        before = self.images.copy()
        seen = self.opened.observe(self.images)
        self.expect(np.array_equal(before, self.images), "changes the images it is shown")
        self.expect(set(seen) == set(self.plugin.arrays), f"returns {sorted(seen)}, declares {sorted(self.plugin.arrays)}")
        for name, array in seen.items():
            self.expect(array.dtype == np.float32, f"{name} is {array.dtype}, wanted float32")
            self.expect(len(array) == len(self.images), f"{name} has {len(array)} rows for {len(self.images)} images")
            self.expect(np.isfinite(array).all(), f"{name} is not finite")
            self.expect(len(array) < 2 or not np.array_equal(array[0], array[1]), f"{name} is the same for different images")
        again = self.opened.observe(self.images)
        self.expect(all(np.array_equal(seen[k], again[k]) for k in seen), "sees something else at the second look")

    def sees_each_image_alone(self) -> None:
        """What it says of an image does not depend on the images beside it."""
        import numpy as np

        seen, order = self.opened.observe(self.images), np.roll(np.arange(len(self.images)), 1)
        turned, alone = self.opened.observe(self.images[order]), self.opened.observe(self.images[:1])
        for name, array in seen.items():
            for what, found, wanted in (("in another order", turned[name], array[order]), ("on its own", alone[name], array[:1])):
                scale = max(float(np.abs(array).max()), 1e-12)
                off = float(np.abs(found - wanted).max()) / scale if found.shape == wanted.shape else math.inf
                self.expect(off <= self.BESIDE, f"{name} of an image shown {what} is {off:.2e} off")


# -------------------------------------------------------------------------------------- evaluators


def check_evaluator(name: str | Any, seen: Observations, reference: Mapping[str, np.ndarray]) -> None:
    """Holds an evaluator to the contract of evaluators/base.py on synthetic observations.

    Args:
        name: a registered evaluator, or the plug-in itself.
        seen: enough rows that every metric has a value.
        reference: the arrays it compares with.

    Raises:
        AssertionError: lists every promise that does not hold.
    """
    from harope_bench import registry

    plugin: Any = registry.load("evaluators", name) if isinstance(name, str) else name
    bench = _EvaluatorBench(plugin, seen, reference, Complaints(f"evaluator {name if isinstance(name, str) else type(name).__qualname__}"))
    bench.complaints.run(
        [
            bench.declares_itself,
            bench.measures_everything_it_declares,
            bench.counts_failures,
            bench.says_why_a_value_is_missing,
            bench.repeats_itself,
        ]
    )


class _EvaluatorBench:
    """One evaluator on the bench, one method a promise."""

    def __init__(self, plugin: Any, seen: Observations, reference: Mapping[str, np.ndarray], complaints: Complaints):
        self.plugin, self.seen, self.reference = plugin, seen, reference
        self.complaints, self.expect = complaints, complaints.expect

    def score(self, seen: Observations) -> Score:
        """What the evaluator says of these observations."""
        score: Score = self.plugin.score(seen, self.reference)
        return score

    def first(self, n: int) -> Observations:
        """The first n rows alone."""
        seen = self.seen
        arrays = {name: array[:n] for name, array in seen.arrays.items()}
        return seen._replace(indices=seen.indices[:n], labels=None if seen.labels is None else seen.labels[:n], arrays=arrays, failed=0)

    def declares_itself(self) -> None:
        """Version, profile, parity claim, and metrics with plain, unique names."""
        expect, plugin = self.expect, self.plugin
        expect(isinstance(plugin.version, int) and plugin.version >= 1, f"version is {plugin.version!r}, wanted an integer from 1")
        expect(isinstance(plugin.profile, str) and plugin.profile.strip(), "says nothing of its profile")
        expect(isinstance(plugin.parity, str) and plugin.parity.strip(), "makes no parity claim; say against what, or that there is none")
        expect(plugin.metrics, "declares no metric")
        names = [metric.name for metric in plugin.metrics]
        expect(len(set(names)) == len(names), f"metric names repeat: {names}")
        for metric in plugin.metrics:
            expect(PLAIN.fullmatch(metric.name), f"metric name {metric.name!r} is not plain")
            expect(metric.decimals >= 0, f"metric {metric.name} has {metric.decimals} decimals")

    def measures_everything_it_declares(self) -> None:
        """Each declared metric once, with a finite value, honest counts and an ordered interval."""
        self._whole("on all rows", self.score(self.seen), len(self.seen.indices), self.seen.failed)
        for m in self.score(self.seen).measurements:
            self.expect(m.value is not None, f"{m.metric} has no value on {len(self.seen.indices)} good rows: {m.reason}")

    def _whole(self, when: str, score: Score, rows: int, failed: int) -> None:
        import numpy as np

        declared, found = [m.name for m in self.plugin.metrics], [m.metric for m in score.measurements]
        self.expect(sorted(declared) == sorted(found), f"{when} it measures {found}, declares {declared}")
        for m in score.measurements:
            self.expect(PLAIN.fullmatch(m.name), f"{when} measurement name {m.name!r} is not plain")
            self.expect(m.n_asked == rows + failed, f"{when} {m.name} says {m.n_asked} asked, there were {rows} rows and {failed} failed")
            self.expect(m.n_asked == m.n_scored + m.n_failed + m.n_abstained, f"{when} {m.name}: asked is not scored + failed + abstained")
            self.expect(m.n_failed >= failed, f"{when} {m.name} says {m.n_failed} failed, there were {failed}")
            numbers = [x for x in (m.value, m.se, m.low, m.high) if x is not None]
            self.expect(all(map(math.isfinite, numbers)), f"{when} {m.name} holds a number that is not finite: {numbers}")
            self.expect(m.value is not None or (m.reason or "").strip(), f"{when} {m.name} is None without a reason")
            if m.low is not None and m.high is not None and m.value is not None:
                self.expect(m.low <= m.value <= m.high, f"{when} {m.name}: {m.value} is outside its interval {m.low} to {m.high}")
                self.expect(m.interval, f"{when} {m.name} has an interval without a name")
        lengths = {rows, *(len(array) for array in self.reference.values() if array.ndim)}  # recall has a row a reference image
        for metric, contributions in score.per_sample.items():
            known = {*declared, *(f"{name}_drawn" for name in declared), "indices", "prompts", "tasks"}
            self.expect(metric in known, f"{when} per_sample has {metric!r}, which is no declared metric")
            self.expect(len(contributions) in lengths, f"{when} per_sample of {metric} has {len(contributions)} rows for {rows} samples")
            left_out = np.isnan(contributions) if "prompts" in score.per_sample else np.zeros(len(contributions), dtype=bool)
            self.expect(np.isfinite(contributions[~left_out]).all(), f"{when} per_sample of {metric} is not finite")

    def counts_failures(self) -> None:
        """Images that could not be judged are counted and change no value."""
        good, worse = self.score(self.seen), self.score(self.seen._replace(failed=self.seen.failed + 3))
        self._whole("with three more failures", worse, len(self.seen.indices), self.seen.failed + 3)
        values = {m.metric: m.value for m in good.measurements}
        for m in worse.measurements:
            wanted = values.get(m.metric)
            self.expect(m.value == wanted, f"{m.metric} is {m.value} with three failures, {wanted} without: a failure must not be scored")

    def says_why_a_value_is_missing(self) -> None:
        """No rows, one row, two rows: None with a reason where nothing can be said, never a crash or a made-up number."""
        for n in (0, 1, 2):
            self._whole(f"on {n} rows", self.score(self.first(n)), n, 0)
        for m in self.score(self.first(0)).measurements:
            self.expect(m.value is None, f"{m.metric} is {m.value} on no images at all, wanted None with a reason")

    def repeats_itself(self) -> None:
        """The same observations give the same score, and are not changed."""
        import numpy as np

        held = {**{f"seen {k}": v for k, v in self.seen.arrays.items()}, **{f"reference {k}": v for k, v in self.reference.items()}}
        kept = {name: array.copy() for name, array in held.items()}
        one, other = self.score(self.seen), self.score(self.seen)
        self.expect(one.measurements == other.measurements, "says something else the second time")
        for name, array in held.items():
            self.expect(np.array_equal(array, kept[name]), f"changes its input {name}")


# ------------------------------------------------------------------------------------------ tables

PRINTED = re.compile(r"(-?\d+(?:\.(\d+))?)(?: ?\([+-]\d+(?:\.\d+)?%\))?")


def check_table(name: str) -> None:
    """Holds a registered table to its contract: printed strings are numbers, decimals agree, the best are the best.

    Raises:
        AssertionError: lists every promise that does not hold. BenchError: the table does not load at all.
    """
    from harope_bench.leaderboards.board import load_table

    bench = _TableBench(load_table(name), Complaints(f"table {name}"))
    bench.complaints.run([bench.prints_numbers, bench.agrees_on_decimals, bench.marks_the_best, bench.names_every_row])


class _TableBench:
    """One table on the bench, one method a promise."""

    def __init__(self, table: Any, complaints: Complaints):
        self.table, self.complaints, self.expect = table, complaints, complaints.expect

    def cells(self) -> list[tuple[Any, Any, str]]:
        """Row, column and printed string of every published cell."""
        pairs = [(row, column) for row in self.table.rows for column in self.table.columns]
        return [(row, column, row.published[column.key]) for row, column in pairs if column.key in row.published]

    def prints_numbers(self) -> None:
        """A published string is a decimal number, with at most a bracketed percentage after it."""
        for row, column, printed in self.cells():
            self.expect(PRINTED.fullmatch(printed), f"{row.id}/{column.key} prints {printed!r}, wanted a number, or a number and (+x.y%)")
        self.expect(self.cells() or self.table.number is None, "is a published table without a published number")

    def agrees_on_decimals(self) -> None:
        """Where a column states its decimals, every printed number of it has that many."""
        for row, column, printed in self.cells():
            match = PRINTED.fullmatch(printed)
            if match and column.decimals is not None:
                found = len(match[2] or "")
                self.expect(
                    found == column.decimals, f"{row.id}/{column.key} prints {printed!r}, its column has {column.decimals} decimals"
                )

    def marks_the_best(self) -> None:
        """A cell marked best has the best number of its block, by its column's direction."""
        from decimal import Decimal

        values = {(row.id, column.key): Decimal(match[1]) for row, column, printed in self.cells() if (match := PRINTED.fullmatch(printed))}
        for row, column, _ in self.cells():
            if not self.table.is_best(row, column) or (row.id, column.key) not in values:
                continue
            block = [
                values[r.id, c.key]
                for r, c, _ in self.cells()
                if (r.id, c.key) in values and self.table.block_of(r, c) == self.table.block_of(row, column)
            ]
            best = max(block) if column.direction == "higher" else min(block)
            mine = values[row.id, column.key]
            self.expect(mine == best, f"{row.id}/{column.key} is marked best with {mine}, the best of its block is {best}")

    def names_every_row(self) -> None:
        """Rows and columns have something to print, and rows can be told apart."""
        heads = [tuple(row.text(head) for head in self.table.heads) for row in self.table.rows]
        for row, texts in zip(self.table.rows, heads, strict=True):
            self.expect(any(text.strip() for text in texts), f"row {row.id} prints no name")
            self.expect(heads.count(texts) == 1, f"row {row.id} prints the same name as another: {texts}")
        for column in self.table.columns:
            self.expect(column.printed.strip(), f"column {column.key} prints no head")
