"""DiT at its own sizes: against the obvious networks, and from the files that DiT and the HARoPE
release write.
"""

from __future__ import annotations

import math
import os
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_files import (
    SMALL_CONFIG,
    autoencoder,
    register_dit,
    release_state,
    state_of,
    training_file,
    with_table,
)
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.state_dicts import load_weights
from harope_bench.models.backbones import dit_keys
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.models.register_checkpoint import register
from harope_bench.pipeline.generate import make_plan

pytest.importorskip("diffusers", reason="needs the extra t2i")
PLUGIN = registry.load_by_name("backbones", "dit")


def b2(encoding: str, **changes: Any) -> Any:
    """A DiT of the paper's size that allocates nothing."""
    hidden, depth, heads = dit_keys.MODEL_SIZES["B"]
    config = {
        "hidden": hidden,
        "depth": depth,
        "heads": heads,
        "patch": 2,
        "size": 32,
        "channels": 4,
        "classes": 1000,
        **changes,
    }
    with torch.device("meta"):
        return PLUGIN.build(encoding, {}, {**config, "learn_sigma": True, "latent": True})


# ----------------------------------------------------------------------------------------------
# sizes


def test_dit_b2_has_the_papers_parameters_and_the_releases_tensors() -> None:
    plain_value, harope = b2("rope-axial"), b2("harope")
    assert sum(p.numel() for p in plain_value.parameters()) == 130_315_808
    assert sum(p.numel() for p in harope.parameters()) == 131_504_672
    assert len(release_state(harope.state_dict())) == 167
    table = {dit_keys.TABLE_KEY: torch.empty(1, 256, 768, device="meta")}
    assert len({**b2("ape").state_dict(), **table}) == 132
    assert sum(v.numel() for v in {**b2("ape").state_dict(), **table}.values()) == 130_512_416


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_the_four_sizes_are_those_of_the_dit_paper(size: str, millions: int) -> None:
    """Peebles and Xie 2023, table 1, counts patch 2; other patches change the first and last layer
    alone.
    """
    hidden, depth, heads = dit_keys.MODEL_SIZES[size]
    for patch in dit_keys.PATCH_SIZES:
        network = b2("rope-axial", hidden=hidden, depth=depth, heads=heads, patch=patch)
        count = sum(p.numel() for p in network.parameters())
        assert round(count / 1e6) == millions if patch == 2 else abs(count / 1e6 - millions) < 1
        assert network.final_layer.linear.out_features == patch**2 * 8


@pytest.mark.parametrize(("pixels", "tokens"), [(128, 64), (256, 256), (512, 1024)])
def test_tokens_at_the_papers_resolutions(pixels: int, tokens: int) -> None:
    rows, columns = b2("rope-axial").config.grid_at(pixels)
    assert rows * columns == tokens


# ---------------------------------------------------------------------------------------------
# parity


def tilde(angles: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin with each plane's value written twice, as the release's tables have them."""
    return (
        angles.cos().repeat_interleave(2, -1).float(),
        angles.sin().repeat_interleave(2, -1).float(),
    )


def release_turn(x: Tensor, side: int) -> Tensor:
    """Rotation of (B, heads, N, d): first half of the head by row, second by column, planes of
    neighbouring channels.
    """
    d = x.shape[-1]
    speeds = torch.tensor(
        [10000.0 ** (-2 * i / (d / 2)) for i in range(d // 4)], dtype=torch.float64
    )
    tensor = torch.tensor([(r, c) for r in range(side) for c in range(side)], dtype=torch.float64)
    cos, sin = tilde(torch.cat((tensor[:, :1] * speeds, tensor[:, 1:] * speeds), -1))
    swapped_value = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    return x * cos + swapped_value * sin


def release_attention(state: dict[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    """The release's attention, over rows: q M^T and k M^-1 per head, then the rotation
    (model/models_HARoPE.py:25-52, 94-100).
    """
    batch, count, width = x.shape
    q, k, v = (x @ state[f"{name}.qkv.weight"].T + state[f"{name}.qkv.bias"]).chunk(3, -1)
    q, k, v = (part.view(batch, count, heads, -1).transpose(1, 2) for part in (q, k, v))
    if f"{name}.learnable_rot.A_u" in state:
        a_u, a_v, sigma = (
            state[f"{name}.learnable_rot.{part}"] for part in ("A_u", "A_v", "sigma")
        )
        u, v_ = (
            torch.matrix_exp((a_u - a_u.transpose(1, 2)) / 2),
            torch.matrix_exp((a_v - a_v.transpose(1, 2)) / 2),
        )
        s = torch.log(1 + torch.exp(sigma)) + 1e-6
        m, m_inverse = (
            u @ torch.diag_embed(s) @ v_.transpose(1, 2),
            v_ @ torch.diag_embed(1 / s) @ u.transpose(1, 2),
        )
        q, k = q @ m.transpose(1, 2), k @ m_inverse
    if dit_keys.TABLE_KEY not in state:
        q, k = release_turn(q, math.isqrt(count)), release_turn(k, math.isqrt(count))
    weights = (q @ k.transpose(2, 3) / math.sqrt(width // heads)).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(batch, count, width) @ state[
        f"{name}.proj.weight"
    ].T + state[f"{name}.proj.bias"]


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def layer(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def dit_by_hand(
    state: dict[str, Tensor], x: Tensor, time: Tensor, labels: Tensor, heads: int
) -> Tensor:
    """DiT (with the table if there is one) straight from a file's keys: patches by loops,
    everything else as its paper's formulas.
    """
    batch, channels, side, _ = x.shape
    patch = state["x_embedder.proj.weight"].shape[-1]
    n = side // patch
    squares = [
        x[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].flatten(1)
        for i in range(n)
        for j in range(n)
    ]
    tokens = (
        torch.stack(squares, 1) @ state["x_embedder.proj.weight"].flatten(1).T
        + state["x_embedder.proj.bias"]
    )
    tokens = tokens + state.get(dit_keys.TABLE_KEY, torch.zeros(()))
    angles = time[:, None] * torch.tensor(
        [math.exp(-math.log(10000) * i / 128) for i in range(128)]
    )
    waves = torch.cat((angles.cos(), angles.sin()), -1)
    c = (
        layer(state, "t_embedder.mlp.2", F.silu(layer(state, "t_embedder.mlp.0", waves)))
        + state["y_embedder.embedding_table.weight"][labels]
    )
    for i in range(dit_keys.block_count(state)):
        parts = layer(state, f"blocks.{i}.adaLN_modulation.1", F.silu(c))[:, None].chunk(6, -1)
        tokens = tokens + parts[2] * release_attention(
            state, f"blocks.{i}.attn", norm(tokens) * (1 + parts[1]) + parts[0], heads
        )
        inner_layer = layer(state, f"blocks.{i}.mlp.fc1", norm(tokens) * (1 + parts[4]) + parts[3])
        tokens = tokens + parts[5] * layer(
            state, f"blocks.{i}.mlp.fc2", F.gelu(inner_layer, approximate="tanh")
        )
    shift, scale = layer(state, "final_layer.adaLN_modulation.1", F.silu(c))[:, None].chunk(2, -1)
    out = layer(state, "final_layer.linear", norm(tokens) * (1 + scale) + shift)
    picture = torch.zeros(batch, 2 * channels, side, side)
    for folder in range(n * n):
        rows, columns = (folder // n) * patch, (folder % n) * patch
        square = out[:, folder].view(batch, patch, patch, 2 * channels).permute(0, 3, 1, 2)
        picture[:, :, rows : rows + patch, columns : columns + patch] = square
    return picture


def inputs(side: int = 8, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(rows, 4, side, side, generator=torch.Generator().manual_seed(5))
    return x, torch.tensor([3.0, 812.0][:rows]), torch.tensor([2, 10][:rows])


def check_close(tensor: Tensor, expected: Tensor) -> None:
    """Float32 sums in another order, through a few blocks."""
    torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("encoding", ["harope", "rope-axial"])
def test_a_released_file_computes_what_the_released_code_computes(
    tmp_path: Path, encoding: str, side: int
) -> None:
    state = release_state(state_of(SMALL_CONFIG, encoding))
    name = register_dit(
        tmp_path,
        file=training_file(tmp_path / "r.pt", state),
        **({"encoding": encoding} if encoding != "harope" else {}),
    )
    with torch.no_grad():
        network = PLUGIN.load(load_checkpoint_record(name), state)
        network_result, expected = (
            network(*inputs(side)),
            dit_by_hand(state, *inputs(side), heads=3),
        )
    check_close(network_result, expected)
    assert expected.std() > 0.1
    if encoding == "harope":  # the paper's form is another operator: it would be noticed
        other_checkpoint_record = load_checkpoint_record(name).model_copy(
            update={"options": {"qk_mode": "same"}}
        )
        assert (
            PLUGIN.load(other_checkpoint_record, state)(*inputs(side)) - expected
        ).abs().max() > 1e-2


def test_an_official_file_computes_what_dit_and_diffusers_compute(tmp_path: Path) -> None:
    from diffusers import DiTTransformer2DModel

    state = with_table(state_of(SMALL_CONFIG, "ape"))
    torch.save(state, tmp_path / "DiT.pt")
    checkpoint_record = load_checkpoint_record(register_dit(tmp_path, file=tmp_path / "DiT.pt"))
    assert (checkpoint_record.encoding, checkpoint_record.config["size"]) == ("ape", 8)
    library_transformer = DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_eps=1e-6,
    ).eval()
    table = {"pos_embed.pos_embed"}  # a buffer that diffusers computes
    assert table >= set(
        library_transformer.load_state_dict(in_diffusers(state), strict=False).missing_keys
    )
    for block in library_transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = (
            0  # diffusers divides by 127 where DiT's code divides by 128
        )
    x, time, labels = inputs()
    with torch.no_grad():
        package_value = PLUGIN.load(checkpoint_record, state)(x, time, labels)
        check_close(package_value, dit_by_hand(state, x, time, labels, heads=3))
        check_close(
            package_value, library_transformer(x, timestep=time, class_labels=labels).sample
        )


def in_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DiT's names in diffusers' words; its time and class embedders lie in every block."""
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    embedders = {
        "t_embedder.mlp.0": "timestep_embedder.linear_1",
        "t_embedder.mlp.2": "timestep_embedder.linear_2",
    }
    parts = {
        "adaLN_modulation.1": "norm1.linear",
        "attn.proj": "attn1.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
    }
    records = {}
    for kind in ("weight", "bias"):
        records |= {
            f"{new_name}.{kind}": state[f"{old_name}.{kind}"]
            for old_name, new_name in names.items()
        }
        for i in range(3):
            block = f"transformer_blocks.{i}"
            records |= {
                f"{block}.{new_name}.{kind}": state[f"blocks.{i}.{old_name}.{kind}"]
                for old_name, new_name in parts.items()
            }
            records |= {
                f"{block}.norm1.emb.{new_name}.{kind}": state[f"{old_name}.{kind}"]
                for old_name, new_name in embedders.items()
            }
            thirds = state[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            records |= {
                f"{block}.attn1.to_{which_text}.{kind}": third
                for which_text, third in zip("qkv", thirds, strict=True)
            }
            table = f"{block}.norm1.emb.class_embedder.embedding_table.weight"
            records[table] = state["y_embedder.embedding_table.weight"]
    return records


# -------------------------------------------------------------------------------------------
# register


def test_a_training_file_tells_everything_and_gives_its_average(tmp_path: Path) -> None:
    state = release_state(state_of(SMALL_CONFIG, "harope"))
    path = training_file(tmp_path / "0400000.pt", state)
    document = tomllib.loads(
        register("r", path, {"drawing": {"vae": str(autoencoder(tmp_path / "vae"))}}).read_text()
    )
    assert (document["backbone"], document["encoding"], document["scale"]) == (
        "dit",
        "harope",
        "paper",
    )
    assert document["config"] == SMALL_CONFIG
    assert (document["sampler"], document["steps"], document["guidance"]) == ("ddpm", 250, 1.5)
    assert document["drawing"] == {
        "tile": 8,
        "guidance_channels": "3",
        "vae_tiling": False,
        "fold": True,
        "vae": str((tmp_path / "vae").resolve()),
    }
    network = PLUGIN.load(load_checkpoint_record("r"), load_weights(path))
    assert torch.equal(
        network.state_dict()["encoding.sigma"][1], state["blocks.1.attn.learnable_rot.sigma"]
    )  # ema, not model
    assert make_plan("r", "digits", {"resolution": 64}).settings.tile == 8


@pytest.mark.parametrize("form", ["model", "bare", "ddp", "legacy", "safetensors"])
def test_every_form_of_file_loads(tmp_path: Path, form: str) -> None:
    state = release_state(state_of(SMALL_CONFIG, "harope"))
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        fields = {
            "model": {"model": state},
            "ddp": {f"module.{k}": v for k, v in state.items()},
        }.get(form, state)
        torch.save(fields, path, _use_new_zipfile_serialization=form != "legacy")
    name = register_dit(tmp_path, file=path, config={"size": 8})
    assert load_checkpoint_record(name).encoding == "harope"
    result = PLUGIN.load(load_checkpoint_record(name), load_weights(path))
    assert torch.equal(
        result.state_dict()["blocks.2.attn.qkv.weight"], state["blocks.2.attn.qkv.weight"]
    )


def test_one_matrix_for_all_heads_is_table_6s_shared_svd(tmp_path: Path) -> None:
    state = release_state(state_of(SMALL_CONFIG, "rope-matrix", matrix="svd", per_head=False))
    assert state["blocks.0.attn.learnable_rot.A_u"].shape == (1, 16, 16)
    checkpoint_record = load_checkpoint_record(
        register_dit(tmp_path, file=training_file(tmp_path / "s.pt", state))
    )
    assert (checkpoint_record.encoding, checkpoint_record.options) == (
        "rope-matrix",
        {"matrix": "svd", "per_head": False},
    )
    check_close(
        PLUGIN.load(checkpoint_record, state)(*inputs()), dit_by_hand(state, *inputs(), heads=3)
    )


def test_keys_without_a_trace_must_be_told_their_encoding(tmp_path: Path) -> None:
    path = training_file(tmp_path / "p.pt", state_of(SMALL_CONFIG, "rope-axial"))
    with pytest.raises(
        OptionError, match="the keys of .* do not reveal the encoding; add --encoding, one of: ape"
    ):
        register_dit(tmp_path, file=path)
    assert (
        load_checkpoint_record(register_dit(tmp_path, file=path, encoding="videorope")).encoding
        == "videorope"
    )


def test_the_official_size_is_known_by_its_heads(tmp_path: Path) -> None:
    """DiT-S/8 without --config: width and depth tell the heads, the table tells the grid."""
    hidden, depth, heads = dit_keys.MODEL_SIZES["S"]
    size = {
        **SMALL_CONFIG,
        "hidden": hidden,
        "depth": depth,
        "heads": heads,
        "patch": 8,
        "size": 32,
        "classes": 1000,
    }
    state = {key: value.half() for key, value in with_table(state_of(size, "ape")).items()}
    save_file(state, tmp_path / "s8.safetensors")
    register("s8", tmp_path / "s8.safetensors", {})
    assert load_checkpoint_record("s8").config == size


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"model": "DiT-B/2"}, "its training arguments state hidden = 768, its parameters have 48"),
        (
            {"num_classes": 1000},
            "its training arguments state classes = 1000, its parameters have 10",
        ),
    ],
)
def test_arguments_that_contradict_the_keys_are_refused(
    tmp_path: Path, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        register_dit(
            tmp_path,
            file=training_file(
                tmp_path / "x.pt", release_state(state_of(SMALL_CONFIG, "harope")), **args
            ),
        )
    table = with_table(state_of(SMALL_CONFIG, "ape"))
    with pytest.raises(
        WeightsError, match="its training arguments state size = 32, its parameters have 8"
    ):
        register_dit(tmp_path, file=training_file(tmp_path / "y.pt", table, image_size=256))


def test_a_table_that_is_not_dits_is_refused_and_a_drifted_average_is_not(tmp_path: Path) -> None:
    state = with_table(state_of(SMALL_CONFIG, "ape"))
    for name, table, good_flag in (
        ("drifted", state[dit_keys.TABLE_KEY] * (1 - 3e-4), True),
        ("learned", state[dit_keys.TABLE_KEY] + 0.01, False),
        ("rowsfirst", state[dit_keys.TABLE_KEY].roll(24, -1), False),
        ("oblong", state[dit_keys.TABLE_KEY][:, :12], False),
    ):
        torch.save({**state, dit_keys.TABLE_KEY: table}, tmp_path / f"{name}.pt")
        if good_flag:
            register_dit(tmp_path, name, file=tmp_path / f"{name}.pt")
            continue
        with pytest.raises(
            WeightsError, match="differs from DiT's sin-cos table of 4 x 4|has shape"
        ):
            register_dit(tmp_path, name, file=tmp_path / f"{name}.pt")


def test_weights_under_an_encoding_they_were_not_trained_with_are_refused(tmp_path: Path) -> None:
    harope, ape = (
        release_state(state_of(SMALL_CONFIG, "harope")),
        with_table(state_of(SMALL_CONFIG, "ape")),
    )
    for state, encoding, message in (
        (harope, "rope-axial", "contains harope parameters"),
        (ape, "rope-axial", "contains ape parameters"),
    ):
        with pytest.raises(OptionError, match=message):
            register_dit(tmp_path, file=training_file(tmp_path / "w.pt", state), encoding=encoding)
    checkpoint_record = load_checkpoint_record(
        register_dit(tmp_path, file=training_file(tmp_path / "w.pt", ape))
    )
    with pytest.raises(WeightsError, match="were trained with ape, not with rope-axial"):
        PLUGIN.load(checkpoint_record.model_copy(update={"encoding": "rope-axial"}), ape)
    with pytest.raises(WeightsError, match="unexpected encoding.A_u"):
        PLUGIN.load(checkpoint_record.model_copy(update={"encoding": "rope-axial"}), harope)
    with pytest.raises(WeightsError, match="missing encoding.A_u"):
        PLUGIN.load(
            checkpoint_record.model_copy(update={"encoding": "harope"}), state_of(SMALL_CONFIG)
        )
    broken_values = {
        key: value for key, value in harope.items() if key != "blocks.1.attn.learnable_rot.A_v"
    }
    with pytest.raises(WeightsError, match="A_v is in 2 of 3 blocks"):
        register_dit(tmp_path, "b", file=training_file(tmp_path / "b.pt", broken_values))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, location: str):
        self.place = location

    def __reduce__(self) -> Any:
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_training_file_with_anything_else_in_it_is_not_opened(
    tmp_path: Path, is_zipped: bool
) -> None:
    path = training_file(
        tmp_path / "t.pt",
        release_state(state_of(SMALL_CONFIG, "harope")),
        extra=Trap(str(tmp_path / "mark")),
    )
    whole_fields = {"model": {}, "args": Trap(str(tmp_path / "mark"))}
    if not is_zipped:
        path.write_bytes(pickle.dumps(whole_fields, protocol=2))
    with pytest.raises(WeightsError, match="holds Python objects beside tensors"):
        register_dit(tmp_path, file=path)
    assert not (tmp_path / "mark").exists()


def test_weights_without_a_table_are_not_taken_for_ape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    path = training_file(
        tmp_path / "0000001.pt", release_state(state_of(SMALL_CONFIG, "rope-axial"))
    )
    with pytest.raises(
        OptionError, match="contain no pos_embed, so they were not trained with ape"
    ):
        register("relape", path, {"encoding": "ape"})


def test_a_time_shift_of_flux_is_refused() -> None:
    with pytest.raises(
        OptionError,
        match="mu_policy does not apply to checkpoint digits-harope: only FLUX shifts its times",
    ):
        make_plan("digits-harope", None, {"mu_policy": "clamp"})
