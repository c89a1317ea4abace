"""Backbones: the contract over the registry, and DiT's structure against its paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.schema import Request, Settings
from harope_bench.models.backbones import dit, dit_blocks, dit_network
from harope_bench.models.backbones.base import GeneratedBatch, ManifestBackbone, load_backbone
from harope_bench.testing import check_backbone

B2 = {
    "hidden": 768,
    "depth": 12,
    "heads": 12,
    "patch": 2,
    "size": 32,
    "channels": 4,
    "classes": 1000,
}
CONFIGS = {
    "dit": {
        "hidden": 16,
        "depth": 2,
        "heads": 2,
        "patch": 2,
        "size": 8,
        "channels": 1,
        "classes": 10,
    }
}
CONFIGS["deit"] = {**CONFIGS["dit"], "normalised": "half"}


def build(config: dict[str, int], encoding: str = "rope-axial", **options: Any) -> dit.DiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return registry.load_by_name("backbones", "dit").build(encoding, options, config)


def noisy(network: dit.DiT, seed: int = 0, deviation: float = 0.05) -> dit.DiT:
    """With noise on all weights: a fresh DiT predicts zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=rng))
    return network


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------- contracts


def backbones_with_example() -> list[str]:
    """Registered backbones that declare a small network; mmdit-micro has tests of its own."""
    names = registry.list_names("backbones")
    return [name for name in names if load_backbone(name).example_config and name != "mmdit-micro"]


@pytest.mark.parametrize("name", registry.list_names("backbones"))
def test_a_backbone_has_a_small_network_or_runs_a_pipeline_of_the_user(name: str) -> None:
    backbone = load_backbone(name)
    if not backbone.has_weights_file:  # the network is the user's own Python object
        return
    assert bool(backbone.example_config) != isinstance(backbone, ManifestBackbone)


@pytest.mark.parametrize("encoding", registry.list_names("encodings"))
@pytest.mark.parametrize("name", backbones_with_example())
def test_backbone_keeps_its_promises(name: str, encoding: str) -> None:
    check_backbone(name, encoding=encoding)


def test_backbone_keeps_its_promises_with_a_sampler_that_adds_noise() -> None:
    check_backbone("dit", CONFIGS["dit"], sampler="ddpm")


class LeakyDrawer(dit.DitImageGenerator):
    """Brightens by the mean of the tile: rows see each other."""

    def generate(self, requests: Any, settings: Settings) -> GeneratedBatch:
        generated_samples = super().generate(requests, settings)
        return generated_samples._replace(
            images=generated_samples.images + np.uint8(generated_samples.images.sum() % 251)
        )


class BatchNoise(dit.DitImageGenerator):
    """One generator for the whole tile, seeded by its first request."""

    def generate(self, requests: Any, settings: Settings) -> GeneratedBatch:
        first_index = requests[0].index
        moved_values = [
            r.model_copy(update={"index": 1000 * first_index + i}) for i, r in enumerate(requests)
        ]
        return super().generate(moved_values, settings)


class HidesFaults(dit.DitImageGenerator):
    """Says nothing of rows that are not finite."""

    def generate(self, requests: Any, settings: Settings) -> GeneratedBatch:
        return super().generate(requests, settings)._replace(failures={})


class GlobalNoise(dit.DitImageGenerator):
    """Stirs in torch's global generator."""

    def generate(self, requests: Any, settings: Settings) -> GeneratedBatch:
        generated_samples = super().generate(requests, settings)
        return generated_samples._replace(
            images=generated_samples.images
            + torch.randint(0, 2, generated_samples.images.shape).numpy().astype(np.uint8)
        )


class LoosePlugin(dit.DitBackbone):
    """Loads with strict=False, recognises everything as a string checkpoint, and ignores unknown
    config fields.
    """

    def build(self, encoding: str, options: Any, config: Any) -> dit.DiT:
        return super().build(
            encoding, options, {k: v for k, v in config.items() if k != "no_such_field"}
        )

    def detect_fields(self, state: Any) -> dit.DetectedFields | None:
        return dit.DetectedFields("string", {"depth": 1})

    def open(self, checkpoint: Any, state: Any, settings: Settings) -> dit.DitImageGenerator:
        network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        fits = {
            k: v
            for k, v in state.items()
            if k in network.state_dict() and v.shape == network.state_dict()[k].shape
        }
        network.load_state_dict(fits, strict=False)
        return dit.DitImageGenerator(network, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("drawer", "message"),
    [
        (LeakyDrawer, "changes with its neighbours"),
        (BatchNoise, "changes with its neighbours"),
        (HidesFaults, "does not report a row that is not finite as a failure"),
        (GlobalNoise, "moves a global random generator"),
    ],
)
def test_the_contract_catches_a_drawer_that_breaks_it(
    monkeypatch: pytest.MonkeyPatch, drawer: type[dit.DitImageGenerator], message: str
) -> None:
    monkeypatch.setattr(dit, "DitImageGenerator", drawer)
    with pytest.raises(AssertionError, match=message):
        check_backbone("dit", CONFIGS["dit"])


def test_the_contract_lists_all_that_a_loose_backbone_lets_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dit, "PLUGIN", LoosePlugin())
    with pytest.raises(AssertionError) as excinfo:
        check_backbone("dit", CONFIGS["dit"])
    for message in (
        "open with a missing key is accepted",
        "open with an unexpected key is accepted",
        "open with a mis-shaped key is accepted",
        "takes its rope-axial weights for string",
        "detects {'depth': 1} from its keys, built with {'depth': 2}",
        "recognises an empty state dict",
        "recognises a foreign state dict",
        "build with config field no_such_field is accepted",
        "moves a global random generator",
    ):
        assert message in str(excinfo.value)


# ------------------------------------------------------------------------------------- structure


def total(network: dit.DiT) -> int:
    return sum(p.numel() for p in network.parameters())


def by_formula(hidden: int, depth: int, patch: int, channels: int, classes: int, out: int) -> int:
    """Parameters of a DiT written out layer by layer; `out` is the number of channels it
    predicts.
    """
    patches = patch**2 * channels * hidden + hidden
    times = (256 * hidden + hidden) + (hidden * hidden + hidden)
    labels = (classes + 1) * hidden
    attention = (hidden * 3 * hidden + 3 * hidden) + (hidden * hidden + hidden)
    mlp = (hidden * 4 * hidden + 4 * hidden) + (4 * hidden * hidden + hidden)
    block = attention + mlp + (hidden * 6 * hidden + 6 * hidden)
    final_hidden = (hidden * patch**2 * out + patch**2 * out) + (hidden * 2 * hidden + 2 * hidden)
    return patches + times + labels + depth * block + final_hidden


@pytest.fixture(scope="module")
def b2() -> Callable[[str], int]:
    """Parameter totals of DiT-B/2 without allocating it."""

    def count(encoding: str) -> int:
        with torch.device("meta"):
            return total(build(B2, encoding))

    return count


def test_dit_b2_has_the_papers_parameters_less_the_learned_sigma(b2: Callable[[str], int]) -> None:
    # specs/pe.md: DiT-B/2 with RoPE, whose last layer predicts noise and sigma: 8 channels
    with_sigma = 130_315_808
    assert by_formula(768, 12, 2, 4, 1000, out=8) == with_sigma
    sigma = (
        2**2 * 4 * 768 + 2**2 * 4
    )  # weights and biases of four more channels a patch: 12,288 + 16
    assert sigma == 12_304
    assert (
        b2("rope-axial")
        == with_sigma - sigma
        == by_formula(768, 12, 2, 4, 1000, out=4)
        == 130_303_504
    )


def test_harope_adds_99072_parameters_a_layer_and_ape_none_that_train(
    b2: Callable[[str], int],
) -> None:
    assert b2("harope") - b2("rope-axial") == 12 * 99_072 == 131_504_672 - 130_315_808
    assert b2("string") - b2("rope-axial") == 12 * 4_096
    assert (
        b2("ape") == b2("rope-vanilla") == b2("videorope") == b2("rope-axial")
    )  # the frozen table is no parameter here


def test_parameter_names_are_dits_own() -> None:
    names = set(build(CONFIGS["dit"], "rope-axial").state_dict())
    assert {
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight",
        "t_embedder.mlp.2.bias",
        "y_embedder.embedding_table.weight",
        "blocks.1.attn.qkv.weight",
        "blocks.1.attn.proj.bias",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.bias",
        "blocks.0.adaLN_modulation.1.weight",
        "final_layer.linear.weight",
        "final_layer.adaLN_modulation.1.bias",
    } <= names


@pytest.mark.parametrize("encoding", registry.list_names("encodings"))
def test_a_fresh_network_predicts_zero(encoding: str) -> None:
    """adaLN-Zero: gates and output start at zero, so every block starts as the identity."""
    out = build(CONFIGS["dit"], encoding)(
        images(3, 1, 8, 8), torch.tensor([0.0, 500.0, 999.0]), torch.tensor([0, 5, 10])
    )
    assert out.shape == (3, 1, 8, 8)
    assert not out.any()


def test_patches_go_out_as_they_came_in() -> None:
    """Every pixel of a marked image comes back to its own place, rows, columns and channels told
    apart.
    """
    network = build({**CONFIGS["dit"], "channels": 3, "patch": 2, "hidden": 16, "depth": 1})
    marked_values = torch.arange(1.0, 1 + 2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patches = torch.zeros(2, 2 * 3, 2 * 2 * 3)
    for b, i, j, p, q, c in np.ndindex(
        2, 2, 3, 2, 2, 3
    ):  # patch (i, j), pixel (p, q), channel c: DiT's order nhwpqc
        patches[b, i * 3 + j, (p * 2 + q) * 3 + c] = marked_values[b, c, 2 * i + p, 2 * j + q]
    network.final_layer.forward = lambda tokens, c: patches  # type: ignore[method-assign,assignment]
    assert torch.equal(
        network(torch.zeros_like(marked_values), torch.zeros(2), torch.zeros(2, dtype=torch.long)),
        marked_values,
    )


def test_tokens_are_row_major() -> None:
    embed = dit_blocks.PatchEmbed(2, 1, 4)
    with torch.no_grad():
        embed.proj.weight.fill_(0.25)
        embed.proj.bias.zero_()
    picture = torch.zeros(1, 1, 4, 6)
    picture[0, 0, 2:4, 4:6] = 1.0  # row 1, column 2
    assert embed(picture)[0, :, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert dit_network.grid_positions(2, 3).tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [1, 2],
    ]


@pytest.mark.parametrize("encoding", registry.list_names("encodings"))
@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (16, 16)])
def test_wide_tall_and_larger_images_take_the_same_path(
    encoding: str, shape: tuple[int, int]
) -> None:
    network = noisy(build(CONFIGS["dit"], encoding))
    out = network(images(2, 1, *shape), torch.tensor([3.0, 700.0]), torch.tensor([1, 2]))
    assert out.shape == (2, 1, *shape)
    assert out.isfinite().all()
    assert out.std() > 0.01


@pytest.mark.parametrize(
    ("encoding", "moves"), [("harope", False), ("rope-vanilla", False), ("ape", True)]
)
def test_only_an_absolute_encoding_sees_where_the_grid_begins(
    encoding: str, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x, plain_grid_positions = (
        noisy(build(CONFIGS["dit"], encoding), deviation=0.2),
        images(1, 1, 8, 8),
        dit_network.grid_positions,
    )
    arguments = torch.tensor([300.0]), torch.tensor([4])
    expected = network(x, *arguments)
    monkeypatch.setattr(
        dit_network,
        "grid_positions",
        lambda r, c: plain_grid_positions(r, c) + torch.tensor([7.0, -3.0]),
    )
    # two blocks of float32 sums over 16 tokens
    assert torch.allclose(network(x, *arguments), expected, rtol=1e-4, atol=1e-5) is not moves


def test_the_label_after_the_last_class_means_no_label() -> None:
    """Guidance and training drop labels to `classes`; its row is its own, and the next one does not
    exist.
    """
    network = noisy(build(CONFIGS["dit"]), deviation=0.2)
    x, time = images(1, 1, 8, 8), torch.tensor([300.0])
    predictions = [network(x, time, torch.tensor([label])) for label in range(11)]
    assert network.y_embedder.embedding_table.weight.shape[0] == 10 + 1
    assert all(not torch.equal(predictions[10], p) for p in predictions[:10])
    with pytest.raises(IndexError):
        network(x, time, torch.tensor([11]))


def test_times_are_embedded_with_cosines_first() -> None:
    embedder = dit_blocks.TimestepEmbedder(16)
    items: list[Tensor] = []
    embedder.mlp.register_forward_pre_hook(lambda module, args: items.append(args[0]))
    embedder(torch.tensor([0.0, 250.0]))
    expected = [
        [f(t * 10000 ** (-i / 128)) for f in (math.cos, math.sin) for i in range(128)]
        for t in (0.0, 250.0)
    ]
    # float32 angles up to 250 are good to 1.5e-5
    torch.testing.assert_close(items[0], torch.tensor(expected), rtol=0, atol=5e-5)


# --------------------------------------------------------------------------------------- drawing


def settings(**changes: Any) -> Settings:
    return Settings(
        **{"resolution": 8, "sampler": "flow", "steps": 2, "guidance": 1.5, "tile": 2, **changes}
    )


def drawer(network: dit.DiT) -> dit.DitImageGenerator:
    return dit.DitImageGenerator(network, torch.device("cpu"), torch.float32)


def test_guidance_extrapolates_from_no_label_to_the_label() -> None:
    network = noisy(build(CONFIGS["dit"]), deviation=0.2)
    x, time, labels = images(2, 1, 8, 8), torch.full((2,), 400.0), torch.tensor([3, 7])
    network_result, untold = network(x, time, labels), network(x, time, torch.tensor([10, 10]))
    assert (network_result - untold).abs().max() > 1e-3
    for scale in (0.0, 1.0, 1.5, 4.0):
        # one batch of four against two of two: the same products in another kernel
        torch.testing.assert_close(
            drawer(network)._guided_network(labels, scale)(x, time),
            untold + scale * (network_result - untold),
            rtol=1e-4,
            atol=1e-5,
        )


def test_a_request_without_a_label_is_drawn_without_one() -> None:
    network = noisy(build(CONFIGS["dit"]), deviation=0.2)
    images = [
        drawer(network).generate([Request(index=5, label=label)] * 2, settings(guidance=3.0)).images
        for label in (None, 10, 1)
    ]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_pixels_follow_dits_rule_and_grey_fills_three_channels() -> None:
    levels = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    pixels = dit.to_uint8(levels.reshape(1, 1, 1, 7))
    expected = [int(min(max(127.5 * v + 128, 0), 255)) for v in levels.tolist()]  # cut, not rounded
    assert pixels.shape == (1, 1, 7, 3)
    assert pixels.dtype == np.uint8
    assert all(pixels[0, 0, :, channel].tolist() == expected for channel in range(3))
    assert dit.to_uint8(
        torch.stack([torch.zeros(4, 4), torch.ones(4, 4), -torch.ones(4, 4)])[None]
    )[0, 0, 0].tolist() == [128, 255, 0]


def test_a_row_that_is_not_finite_is_a_fault_and_the_others_stand() -> None:
    network = noisy(build(CONFIGS["dit"]))
    with torch.no_grad():
        network.y_embedder.embedding_table.weight[3] = math.nan
    generated_samples = drawer(network).generate(
        [Request(index=0, label=3), Request(index=1, label=4)], settings()
    )
    assert generated_samples.failures == {0: "the network's output is not finite"}
    sound = drawer(noisy(build(CONFIGS["dit"]))).generate(
        [Request(index=0, label=3), Request(index=1, label=4)], settings()
    )
    assert np.array_equal(generated_samples.images[1], sound.images[1])


def test_bfloat16_draws_nearly_the_same_image() -> None:
    network = noisy(build(CONFIGS["dit"]))
    requests = [Request(index=i, label=i) for i in range(2)]
    fine_images = drawer(network).generate(requests, settings()).images.astype(int)
    coarse_images = (
        dit.DitImageGenerator(network, torch.device("cpu"), torch.bfloat16)
        .generate(requests, settings(dtype="bfloat16"))
        .images.astype(int)
    )
    assert 0 < np.abs(fine_images - coarse_images).mean() < 4  # of 255 grey levels


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 17}, "hidden 17 does not divide into 2 heads"),
        ({"depth": 0}, "depth"),
        ({"width": 3}, "'?width'?: Extra inputs are not permitted; its fields: hidden, depth"),
        ({"patch": "two"}, "patch"),
    ],
)
def test_a_config_that_does_not_hold_together_is_refused_by_field(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        build({**CONFIGS["dit"], **change})


def test_a_resolution_that_patches_do_not_tile_names_one_that_they_do(tiny_checkpoint: Any) -> None:
    with pytest.raises(
        OptionError,
        match="30 pixels does not divide into patches of 4 pixels; choose --resolution 32",
    ):
        registry.load_by_name("backbones", "dit").check_inputs(
            tiny_checkpoint, settings(resolution=30)
        )


def test_weights_of_another_encoding_are_listed_key_by_key(tiny_checkpoint: Any) -> None:
    state = build(tiny_checkpoint.config, "harope").state_dict()
    with pytest.raises(
        WeightsError,
        match=(
            r"checkpoint tiny does not fit: unexpected encoding.A_u, encoding.A_v, encoding.sigma"
        ),
    ):
        registry.load_by_name("backbones", "dit").open(tiny_checkpoint, state, settings())


def test_keys_tell_sizes_and_learned_encodings_and_say_nothing_of_what_they_cannot() -> None:
    config, plugin = CONFIGS["dit"], registry.load_by_name("backbones", "dit")
    clues = {
        name: plugin.detect_fields(build(config, name).state_dict())
        for name in registry.list_names("encodings")
    }
    assert clues["harope"].encoding == "harope"
    assert clues["string"].encoding == "string"
    assert clues["harope"].config["heads"] == clues["string"].config["heads"] == 2
    for silent_text in ("ape", "rope-axial", "rope-vanilla", "videorope"):
        assert clues[silent_text].encoding is None
        assert "heads" not in clues[silent_text].config
        assert clues[silent_text].config == {
            k: config[k] for k in ("hidden", "channels", "patch", "classes", "depth")
        }
