"""The small text-image transformer: the contract, text at the origin, words, larger images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.models.backbones import mmdit_micro
from harope_bench.testing import check_backbone

SMALL_FIELDS: dict[str, Any] = {
    "hidden": 16,
    "double": 1,
    "single": 1,
    "heads": 2,
    "patch": 4,
    "size": 16,
    "channels": 3,
    "places": 4,
    "words": "a red blue ring",
}
PROMPTS = ("a red ring", "a blue ring", "red a", "ring")


def request(index: int) -> Request:
    return Request(index=index, prompt=PROMPTS[index % len(PROMPTS)])


def network(
    encoding: str = "rope-axial", deviation: float = 0.1, **options: Any
) -> mmdit_micro.MMDiT:
    """With noise on all weights: a fresh network predicts zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built_network: mmdit_micro.MMDiT = registry.load_by_name("backbones", "mmdit-micro").build(
            encoding, options, SMALL_FIELDS
        )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built_network.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=rng))
    return built_network.eval()


def inputs(*prompts: str, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn((len(prompts), 3, side, side), generator=torch.Generator().manual_seed(1))
    words = torch.stack(
        [mmdit_micro.tokenize(prompt, mmdit_micro.parse_config(SMALL_FIELDS)) for prompt in prompts]
    )
    return x, torch.full((len(prompts),), 500.0), words


@pytest.mark.parametrize("encoding", registry.list_names("encodings"))
def test_backbone_keeps_its_promises(encoding: str) -> None:
    check_backbone("mmdit-micro", SMALL_FIELDS, encoding=encoding, make_request=request)


@pytest.mark.parametrize("resolution", [16, 32])
def test_larger_images_than_those_of_the_training_are_drawn(resolution: int) -> None:
    check_backbone("mmdit-micro", SMALL_FIELDS, resolution=resolution, make_request=request)


@torch.no_grad()
def test_words_and_their_order_decide_the_prediction() -> None:
    x, time, words = inputs("a red ring", "red a ring", "a blue ring", "")
    same_value = network()(x[:1].expand(4, -1, -1, -1), time, words)
    for i in range(4):
        for j in range(i):
            assert (same_value[i] - same_value[j]).abs().max() > 1e-4


@torch.no_grad()
def test_text_stands_at_the_origin_and_image_tokens_at_row_and_column() -> None:
    everywhere, grid = network().positions(2, 3)
    assert everywhere[:4].tolist() == [[0.0, 0.0]] * 4
    assert (
        everywhere[4:].tolist() == grid.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    )


@torch.no_grad()
def test_a_matrix_at_its_start_changes_nothing() -> None:
    plain_network, with_matrix = (
        network("rope-axial", deviation=0.0),
        network("harope", deviation=0.0),
    )
    rng = torch.Generator().manual_seed(3)
    state = {
        key: 0.1 * torch.randn(value.shape, generator=rng)
        for key, value in plain_network.state_dict().items()
    }
    plain_network.load_state_dict(state)
    own_values = {
        key: value for key, value in with_matrix.state_dict().items() if key.startswith("encoding.")
    }
    assert own_values
    with_matrix.load_state_dict({**state, **own_values})
    torch.testing.assert_close(
        with_matrix(*inputs("a red ring")),
        plain_network(*inputs("a red ring")),
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_encoding_acts_on_text_and_image_queries_behind_the_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built_network, records = network(), []

    def rotate(q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        records.append((q, k, positions, layer))
        return q, k

    monkeypatch.setattr(built_network.encoding, "rotate", rotate)
    built_network(*inputs("a red ring"))
    assert [layer for *_, layer in records] == [0, 1]
    for q, k, positions, layer in records:
        assert q.shape == k.shape == (1, 2, 4 + 16, 8) and positions.shape == (20, 2)
        for x, norms in (
            (q, [s.norm_q for s in built_network.blocks[layer].streams]),
            (k, [s.norm_k for s in built_network.blocks[layer].streams]),
        ):
            weight = torch.cat(
                [
                    n.weight.expand(1, 1, c, -1)
                    for n, c in zip(norms, (4, 16) if len(norms) == 2 else (20,), strict=True)
                ],
                2,
            )
            torch.testing.assert_close(
                (x / weight).square().mean(-1), torch.ones(1, 2, 20), rtol=1e-3, atol=1e-3
            )


@torch.no_grad()
def test_image_tokens_alone_are_given_the_table() -> None:
    built_network, records = network("ape"), []
    whole_embed = built_network.encoding.embed
    built_network.encoding.embed = lambda tokens, positions: (
        records.append(tokens.shape) or whole_embed(tokens, positions)
    )  # type: ignore[method-assign, func-returns-value]
    built_network(*inputs("a red ring"))
    assert records == [(1, 16, 16)]


@pytest.mark.parametrize(
    ("prompt", "keywords"), [("a green ring", "green"), ("a a a a a", "4 words")]
)
def test_unknown_words_and_long_prompts_are_refused(prompt: str, keywords: str) -> None:
    with pytest.raises(OptionError, match=keywords):
        mmdit_micro.tokenize(prompt, mmdit_micro.parse_config(SMALL_FIELDS))


def generate_sample(resolution: int, **changes: Any) -> np.ndarray:
    state = network().state_dict()
    checkpoint = Checkpoint(
        name="small",
        backbone="mmdit-micro",
        encoding="rope-axial",
        config=SMALL_FIELDS,
        weights="w.safetensors",
        sha256="0" * 64,
        source="test",
    )
    settings = Settings(
        **{
            "resolution": resolution,
            "sampler": "flow",
            "steps": 2,
            "guidance": 2.0,
            "tile": 4,
            **changes,
        }
    )
    backbone = registry.load_by_name("backbones", "mmdit-micro")
    backbone.check_inputs(checkpoint, settings)
    images: np.ndarray = (
        backbone.open(checkpoint, state, settings)
        .generate([request(i) for i in range(4)], settings)
        .images
    )
    return images


def test_position_scaling_changes_larger_images_only() -> None:
    assert np.array_equal(generate_sample(16), generate_sample(16, pos_scaling="linear"))
    assert not np.array_equal(generate_sample(32), generate_sample(32, pos_scaling="linear"))


def test_guidance_changes_the_images() -> None:
    assert not np.array_equal(generate_sample(16), generate_sample(16, guidance=1.0))


def test_a_side_that_patches_do_not_tile_is_refused() -> None:
    with pytest.raises(OptionError, match="patches of 4"):
        generate_sample(18)


@pytest.mark.parametrize("field", ["fold", "mu_policy", "vae", "vae_tiling", "guidance_channels"])
def test_settings_without_a_meaning_are_not_read(field: str) -> None:
    read = registry.load_by_name("backbones", "mmdit-micro").supported_settings(None)
    assert field not in read.setting_names and read.reasons[field]


def test_a_network_can_be_counted() -> None:
    built_network = network()
    probe = registry.load_by_name("backbones", "mmdit-micro").profiling_inputs(built_network, 32, 2)
    assert built_network(**probe.inputs).shape == (2, 3, 32, 32)
    assert probe.tokens == 4 + 64
