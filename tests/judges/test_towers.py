"""Judges of FD-DINOv2 and CMMD: the published networks' shapes and steps, held to slow ones on
small networks with random weights.
"""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from harope_bench import testing
from harope_bench.assets import local_files
from harope_bench.cli import main
from harope_bench.core import registry
from harope_bench.core.errors import WeightsError
from harope_bench.core.storage import sha256_file
from harope_bench.judges.clip import clip_vit_l_14_336
from harope_bench.judges.dinov2 import dinov2_vit_l_14
from harope_bench.judges.weights import asset_files

DINO, CLIP = "dinov2-vit-l-14", "clip-vit-l-14-336"
SMALL_FIELDS = {
    DINO: {"embed_dim": 32, "depth": 2, "num_heads": 2},
    CLIP: {"width": 32, "layers": 2, "heads": 2, "output_dim": 16},
}
WIDTH = {DINO: 32, CLIP: 16}
PROFILE = {DINO: "fd-dinov2", CLIP: "cmmd"}


def random_state(shapes: dict[str, torch.Size], seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def shapes_of(plugin: Any) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in plugin.build_network().state_dict().items()}


def published_form(name: str) -> dict[str, Tensor]:
    """Random weights of a small network under the names and with the extras of the published
    file.
    """
    shapes = shapes_of(registry.load_by_name("judges", name))
    if name == DINO:
        shapes |= {"pos_embed": torch.Size([1, 1370, 32]), "mask_token": torch.Size([1, 32])}
    else:
        shapes |= {
            "text_projection": torch.Size([8, 16]),
            "transformer.resblocks.0.ln_1.weight": torch.Size([8]),
            "logit_scale": torch.Size(),
        }
    return random_state(shapes)


@pytest.fixture
def small_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Both judges made small, each with a weights file that its variable names."""
    paths = {}
    for name in SMALL_FIELDS:
        plugin = registry.load_by_name("judges", name)
        monkeypatch.setattr(plugin, "sizes", SMALL_FIELDS[name])
        paths[name] = tmp_path / f"{name}.pth"
        torch.save(published_form(name), paths[name])
        monkeypatch.setenv(plugin.source.environment_variable, str(paths[name]))
    return paths


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four images of 70 x 53 with large and small structure."""
    rng = np.random.default_rng(0)
    coarse_value = rng.integers(0, 256, (4, 10, 8, 3)).repeat(7, 1).repeat(7, 2)[:, :, :53]
    return np.clip(coarse_value + rng.integers(-40, 41, (4, 70, 53, 3)), 0, 255).astype(np.uint8)


def relative_error(values: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the wanted array's spread."""
    return float(np.abs(values - expected).max() / expected.std())


# ------------------------------------------------------------------------------------------------
# both


@pytest.mark.parametrize("name", SMALL_FIELDS)
def test_judges_keep_their_promises(
    name: str, small_weights: dict[str, Path], images: np.ndarray
) -> None:
    testing.check_judge(name, images)
    assert registry.load_by_name("judges", name).open("cpu").extract(images)["features"].shape == (
        4,
        WIDTH[name],
    )


@pytest.mark.parametrize(
    ("name", "parameters", "width"), [(DINO, 303_227_904, 1024), (CLIP, 304_293_888, 768)]
)
def test_networks_of_full_size(name: str, parameters: int, width: int) -> None:
    """Without memory: 24 blocks of 12 D^2 + 13 D numbers, and what stands around them."""
    plugin = registry.load_by_name("judges", name)
    with torch.device("meta"):
        network = plugin.build_network()
        side = dinov2_vit_l_14.SIDE if name == DINO else clip_vit_l_14_336.SIDE
        assert network(torch.zeros(2, 3, side, side)).shape == (2, width)
    dim = 1024
    blocks, patches, side_result = (
        24 * (12 * dim**2 + 13 * dim),
        3 * 14 * 14 * dim,
        ((side // 14) ** 2 + 1) * dim,
    )
    around = (
        patches + dim + side_result + dim + 2 * dim
    )  # patches, class token, positions, bias of patches or its norm's half, last norm
    around += (
        24 * 2 * dim if name == DINO else dim + dim * width
    )  # scales of both branches; rest of the first norm and the projection
    assert sum(p.numel() for p in network.parameters()) == parameters == blocks + around
    assert not list(network.buffers()), "a number that no weights file fills"


@pytest.mark.parametrize("name", SMALL_FIELDS)
def test_other_weights_make_a_substitute_and_published_ones_do_not(
    name: str, small_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", name)
    assert plugin.judge_class == "substitute" and "other weights than" in plugin.warnings()[0]
    assert plugin.weights_sha256() == sha256_file(small_weights[name])
    monkeypatch.setattr(
        asset_files.WeightsSource, "published_sha256", lambda self: sha256_file(small_weights[name])
    )
    assert plugin.judge_class == "equivalent" and plugin.warnings() == ()


@pytest.mark.parametrize("name", SMALL_FIELDS)
def test_without_weights_the_command_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plugin = registry.load_by_name("judges", name)
    with pytest.raises(WeightsError, match=f"harope-bench fetch {name}"):
        plugin.open("cpu")
    assert plugin.judge_class == "substitute"
    monkeypatch.setenv(plugin.source.environment_variable, str(tmp_path / "absent.pth"))
    with pytest.raises(WeightsError, match=r"absent\.pth, which is missing"):
        plugin.weights_sha256()


@pytest.mark.parametrize("name", SMALL_FIELDS)
def test_weights_that_run_code_or_do_not_fit_are_refused(
    name: str, small_weights: dict[str, Path]
) -> None:
    plugin, state = registry.load_by_name("judges", name), published_form(name)
    small_weights[name].write_bytes(pickle.dumps(print))
    with pytest.raises(WeightsError):
        plugin.open("cpu")
    torch.save({**state, "register_tokens": torch.zeros(1, 4, 32)}, small_weights[name])
    with pytest.raises(
        WeightsError,
        match=f"does not fit .*unexpected register_tokens; run: harope-bench fetch {name}",
    ):
        plugin.open("cpu")
    torch.save(
        {
            k: v
            for k, v in state.items()
            if not k.endswith("mlp.c_fc.bias") and not k.endswith("mlp.fc1.bias")
        },
        small_weights[name],
    )
    with pytest.raises(WeightsError, match="missing "):
        plugin.open("cpu")


@pytest.mark.parametrize("name", SMALL_FIELDS)
def test_the_process_keeps_its_precision_and_its_random_numbers(
    name: str, small_weights: dict[str, Path], images: np.ndarray
) -> None:
    before, state = torch.get_float32_matmul_precision(), torch.random.get_rng_state()
    registry.load_by_name("judges", name).open("cpu").extract(images)
    assert torch.get_float32_matmul_precision() == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", SMALL_FIELDS)
def test_eval_scores_with_a_reference_that_was_built(
    name: str, small_weights: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    for kind, low in (("real", 0), ("drawn", 60)):
        (tmp_path / kind).mkdir()
        for i in range(6):
            Image.fromarray(rng.integers(low, 256, (48, 48, 3), dtype=np.uint8)).save(
                tmp_path / kind / f"{i:06d}.png"
            )
    reference, out = tmp_path / "real.npz", tmp_path / "out"
    built_command_result = CliRunner().invoke(
        main, ["reference", str(tmp_path / "real"), str(reference), "--judge", name]
    )
    assert built_command_result.exit_code == 0, built_command_result.output
    records = {}
    for kind in ("drawn", "real"):
        words = [
            "eval",
            str(tmp_path / kind),
            "--suite",
            "coco-fid",
            "--profile",
            PROFILE[name],
            "--judge",
            name,
        ]
        scored = CliRunner().invoke(
            main, [*words, "--reference", str(reference), "--out", str(out / kind)]
        )
        assert scored.exit_code == 0, scored.output
        (path,) = (out / kind / "results").glob("*.json")
        result = json.loads(path.read_text())
        (measured_result,) = result["measurements"]
        assert (
            measured_result["metric"] == PROFILE[name]
            and result["judge"]["judge_class"] == "substitute"
        )
        assert any("other weights" in w["text"] for w in result["warnings"])
        records[kind] = measured_result["value"]
    assert records["drawn"] > 10 * abs(records["real"]) and abs(records["real"]) < 1e-3


# ---------------------------------------------------------------------------------------------
# DINOv2


def bicubic(x: float) -> float:
    """Keys' kernel with a = -3/4, that of torch without antialias."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampling(step: float) -> np.ndarray:
    """(16, 37): row i has the shares of the old places in new place i, edges repeated."""
    rows = np.zeros((16, 37))
    for i in range(16):
        at = (i + 0.5) * step - 0.5
        for near_value in range(math.floor(at) - 1, math.floor(at) + 3):
            rows[i, min(max(near_value, 0), 36)] += bicubic(at - near_value)
    return rows


def test_positions_are_resampled_as_the_original_does() -> None:
    stored_values = torch.randn(1, 1370, 3, generator=torch.Generator().manual_seed(0))
    grid = stored_values[0, 1:].double().numpy().reshape(37, 37, 3)
    resize_positions = dinov2_vit_l_14.resize_positions(stored_values)
    assert torch.equal(resize_positions[:, 0], stored_values[:, 0])
    guarded_value, plain_value = (
        np.einsum("ia,jb,abd->ijd", rows, rows, grid)
        for rows in (resampling(37 / 16.1), resampling(37 / 16))
    )
    assert np.abs(resize_positions[0, 1:].numpy().reshape(16, 16, 3) - guarded_value).max() < 1e-5
    assert np.abs(guarded_value - plain_value).max() > 0.1  # without the 0.1 it would show


def slow_features(state: dict[str, Tensor], x: Tensor, heads: int = 2) -> Tensor:
    """DINOv2's forward pass written out in float64: pre-norm blocks with a scale on each branch,
    exact GELU, norms of 1e-6.
    """
    w = {name: tensor.double() for name, tensor in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred_mean_value = x - x.mean(-1, keepdim=True)
        return (
            centred_mean_value
            / (centred_mean_value.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    tiles = (
        x.double()
        .unfold(2, 14, 14)
        .unfold(3, 14, 14)
        .permute(0, 2, 3, 1, 4, 5)
        .flatten(3)
        .flatten(1, 2)
    )  # (B, 256, 588)
    patches = tiles @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = (
        torch.cat([w["cls_token"].expand(len(x), -1, -1), patches], 1)
        + dinov2_vit_l_14.resize_positions(state["pos_embed"]).double()
    )
    for block in range(2):
        at = f"blocks.{block}"
        split = (
            linear(norm(x, f"{at}.norm1"), f"{at}.attn.qkv")
            .unflatten(-1, (3, heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        shares = (split[0] @ split[1].transpose(-1, -2) / split.shape[-1] ** 0.5).softmax(-1)
        x = x + w[f"{at}.ls1.gamma"] * linear(
            (shares @ split[2]).transpose(1, 2).flatten(2), f"{at}.attn.proj"
        )
        inner_linear = linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")
        x = x + w[f"{at}.ls2.gamma"] * linear(
            inner_linear * (1 + torch.erf(inner_linear / 2**0.5)) / 2, f"{at}.mlp.fc2"
        )
    return norm(x, "norm")[:, 0]


def test_features_are_those_of_the_formula(
    small_weights: dict[str, Path], images: np.ndarray
) -> None:
    plugin = registry.load_by_name("judges", DINO)
    expected = slow_features(published_form(DINO), plugin.prepare(images)).numpy()
    assert relative_error(plugin.open("cpu").extract(images)["features"], expected) < 1e-4


def test_dgm_evals_preparation(images: np.ndarray) -> None:
    """torchvision's own steps on pillow images, as dgm-eval chains them; what is not square is
    stretched.
    """
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

    chain = Compose(
        [
            Resize((224, 224), InterpolationMode.BICUBIC),
            ToTensor(),
            Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected = torch.stack([chain(Image.fromarray(image)) for image in images])
    result = registry.load_by_name("judges", DINO).prepare(images)
    assert result.shape == (4, 3, 224, 224) and torch.allclose(result, expected, atol=1e-6)


def test_positions_of_another_grid_are_refused(small_weights: dict[str, Path]) -> None:
    torch.save({**published_form(DINO), "pos_embed": torch.zeros(1, 257, 32)}, small_weights[DINO])
    with pytest.raises(WeightsError, match=r"mis-shaped pos_embed \(1, 257, 32\)"):
        registry.load_by_name("judges", DINO).open("cpu")


# -----------------------------------------------------------------------------------------------
# CLIP


def test_sizes_and_constants_are_open_clips() -> None:
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    known_model_config = open_clip.get_model_config("ViT-L-14-336-quickgelu")
    vision, sizes = known_model_config["vision_cfg"], clip_vit_l_14_336.SIZES
    assert known_model_config["quick_gelu"] and vision["image_size"] == clip_vit_l_14_336.SIDE
    assert (vision["layers"], vision["width"], vision["patch_size"]) == (
        sizes["layers"],
        sizes["width"],
        sizes["patch_size"],
    )
    assert known_model_config["embed_dim"] == sizes["output_dim"]
    assert (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD) == (
        clip_vit_l_14_336.MEAN,
        clip_vit_l_14_336.STD,
    )


def test_embeddings_are_open_clips(small_weights: dict[str, Path], images: np.ndarray) -> None:
    """open_clip's whole model with the same weights; with plain GELU it would differ."""
    from open_clip.model import CLIP as OpenClip

    vision = {"image_size": 336, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14}
    text = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
    state, plugin = published_form(CLIP), registry.load_by_name("judges", CLIP)
    feature = plugin.open("cpu").extract(images)["features"]
    records = {}
    for quick_flag in (True, False):
        with torch.random.fork_rng(devices=[]):
            whole_open_clip = OpenClip(16, vision, text, quick_gelu=quick_flag).eval()
        whole_open_clip.visual.load_state_dict(
            {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
        )
        with torch.inference_mode():
            records[quick_flag] = whole_open_clip.encode_image(
                plugin.prepare(images), normalize=True
            ).numpy()
    assert relative_error(feature, records[True]) < 1e-5
    assert relative_error(records[False], records[True]) > 1e-3
    assert np.allclose(np.linalg.norm(feature, axis=1), 1, atol=1e-6)


def test_the_middle_square_is_cmmds(images: np.ndarray) -> None:
    """70 x 53: eight rows are cut above, nine below; then pillow's filter, x / 255 and CLIP's
    constants.
    """
    cut = images[0][8:61]
    expected = np.asarray(Image.fromarray(cut).resize((336, 336), Image.Resampling.BICUBIC)) / 255.0
    expected = (expected - np.array(clip_vit_l_14_336.MEAN)) / np.array(clip_vit_l_14_336.STD)
    result = registry.load_by_name("judges", CLIP).prepare(images)
    assert result.shape == (4, 3, 336, 336)
    assert np.abs(result[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5


class Holder(nn.Module):
    """A module whose state dict has the names and tensors of a CLIP file."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def holder(state: dict[str, Tensor]) -> nn.Module:
    top: Any = Holder()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        top_result = top
        for step in path:
            if step not in top_result._modules:
                top_result.add_module(step, Holder())
            top_result = top_result._modules[step]
        top_result.register_parameter(leaf, nn.Parameter(tensor.half()))
    return top


def test_openais_archive_is_opened_only_with_its_hash(
    small_weights: dict[str, Path], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is TorchScript with float16 weights; any other archive is refused."""
    state, plugin = published_form(CLIP), registry.load_by_name("judges", CLIP)
    torch.save({name: tensor.half() for name, tensor in state.items()}, small_weights[CLIP])
    expected = plugin.open("cpu").extract(images)["features"]
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(holder(state)), str(small_weights[CLIP]))
    with pytest.raises(WeightsError):
        plugin.open("cpu")
    published_sha256_file = sha256_file(small_weights[CLIP])
    monkeypatch.setattr(
        asset_files.WeightsSource, "published_sha256", lambda self: published_sha256_file
    )
    assert np.array_equal(plugin.open("cpu").extract(images)["features"], expected)
    with pytest.raises(WeightsError, match="recorded"):
        clip_vit_l_14_336.torchscript_state(
            asset_files.WeightsFile(small_weights[DINO], published_sha256_file)
        )


def test_the_address_of_openais_file_carries_its_hash() -> None:
    (file,) = local_files.load_asset(CLIP).files
    assert file.urls[0].split("/")[-2:] == [file.sha256, file.name]
