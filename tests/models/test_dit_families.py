"""The successors of DiT: against slow networks straight from their authors' keys, and their files
as their training scripts write them.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_files import state_of, with_table
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from harope_bench.analysis.attention_hooks import LabelRunner, QueryKeyRecorder
from harope_bench.core import registry
from harope_bench.core.errors import BenchError, MissingVaeError, OptionError, WeightsError
from harope_bench.core.schema import Request, Settings
from harope_bench.core.state_dicts import load_weights
from harope_bench.models.backbones import dit_keys, latents
from harope_bench.models.backbones.dit import DitImageGenerator, to_uint8
from harope_bench.models.backbones.sampler_generator import guidance_scales
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator
from harope_bench.models.register_checkpoint import description_lines, register
from harope_bench.models.samplers.base import load_sampler
from harope_bench.models.samplers.noise import index_generator, unit_noise
from harope_bench.pipeline.generate import make_plan

PLUGIN = registry.load_by_name("backbones", "dit")
SIZES = {"hidden": 48, "depth": 2, "heads": 3, "patch": 2, "size": 8, "channels": 4, "classes": 10}
HEADS = 3
LABELS = torch.tensor([2, 10])
TIMES = torch.tensor([30.0, 812.0])  # the second of DiT's thousand; 0 is the image
# The parts of a family that its keys show, in the words of DitConfig.
PARTS: dict[str, dict[str, Any]] = {
    "sit": {"learn_sigma": True, "latent": True},
    "repa": {"qk_norm": "layer", "latent": True},
    "lightningdit": {"norm": "rms", "mlp": "swiglu", "mlp_width": 128, "latent": True},
    "lightningdit-plain": {"qk_norm": "layer", "has_shift": False, "latent": True},
    "jit": {
        **{"norm": "rms", "qk_norm": "rms", "mlp": "swiglu", "mlp_width": 128, "channels": 3},
        **{"bottleneck": 6, "context_tokens": 5, "context_start": 1},
    },
}


# ------------------------------------------------------------------------------ as authors write


def rope_tables(side: int, context: int = 0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a head of 16 channels, one number at a time: the row turns the first
    eight channels, the column the others, and the tokens of the label not at all.
    """
    cos, sin = torch.ones(context + side * side, 16), torch.zeros(context + side * side, 16)
    for token in range(side * side):
        for channel in range(16):
            position = token // side if channel < 8 else token % side
            angle = position / 10000 ** ((channel % 8 // 2) / 4)
            cos[context + token, channel] = math.cos(angle)
            sin[context + token, channel] = math.sin(angle)
    return cos, sin


def official_state(family: str) -> dict[str, Tensor]:
    """A file of the family under its authors' names, with random weights."""
    state = with_table(state_of({**SIZES, **PARTS[family]}, "rope-axial"))
    if family == "repa":
        for layer, shape in enumerate([(32, 48), (32, 32), (7, 32)]):
            state[f"projectors.0.{2 * layer}.weight"] = torch.randn(shape)
            state[f"projectors.0.{2 * layer}.bias"] = torch.randn(shape[0])
    if family.startswith("lightningdit"):
        state["feat_rope.freqs_cos"], state["feat_rope.freqs_sin"] = rope_tables(4)
    return state


def with_jits_rope(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """JiT's file with the tables that its code computes; some copies of the code save them."""
    cos, sin = rope_tables(4)
    context_cos, context_sin = rope_tables(4, context=5)
    return {
        **state,
        **{"feat_rope.freqs_cos": cos, "feat_rope.freqs_sin": sin},
        "feat_rope_incontext.freqs_cos": context_cos,
        "feat_rope_incontext.freqs_sin": context_sin,
    }


def register_file(path: Path, name: str = "f", **fields: Any) -> Any:
    """The registered record of a file."""
    user_fields: Any = {"drawing": {"tile": 2}, **fields}
    register(name, path, user_fields)
    return load_checkpoint_record(name)


CONFIGS: dict[str, dict[str, Any]] = {
    "sit": {"family": "sit", "heads": HEADS},
    "lightningdit-plain": {},
    "jit": {"context_start": 1},
}


def register_family(tmp_path: Path, family: str, **fields: Any) -> tuple[Any, dict[str, Tensor]]:
    state = official_state(family)
    torch.save({"model": {k: v + 1 for k, v in state.items()}, "ema": state}, tmp_path / "f.pt")
    return register_file(tmp_path / "f.pt", config=CONFIGS.get(family, {}), **fields), state


# ------------------------------------------------------------------------- the networks, slowly


def layer(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].flatten(1).T + state.get(f"{name}.bias", torch.zeros(()))


def norm(state: dict[str, Tensor], name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm where the file has a scale alone, else LayerNorm."""
    scale, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if scale is not None and bias is None:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * scale
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    return x if scale is None or bias is None else x * scale + bias


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned_channels = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    return x * cos + turned_channels * sin


def attention(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Queries and keys of each head are normalised where the file says so, then turned."""
    qkv = layer(state, f"{name}.qkv", x).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv)
    if f"{name}.q_norm.weight" in state:
        eps = 1e-5 if f"{name}.q_norm.bias" in state else 1e-6
        q, k = norm(state, f"{name}.q_norm", q, eps), norm(state, f"{name}.k_norm", k, eps)
    for table in ("feat_rope", "feat_rope_incontext"):
        cos = state.get(f"{table}.freqs_cos")
        if cos is not None and len(cos) == x.shape[1]:
            q, k = (turn(part, cos, state[f"{table}.freqs_sin"]) for part in (q, k))
    weights = (q @ k.transpose(2, 3) / 4).softmax(-1)
    return layer(state, f"{name}.proj", (weights @ v).transpose(1, 2).flatten(2))


def mlp(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    if f"{name}.w12.weight" not in state:
        return layer(
            state, f"{name}.fc2", F.gelu(layer(state, f"{name}.fc1", x), approximate="tanh")
        )
    gate, values = layer(state, f"{name}.w12", x).chunk(2, -1)
    return layer(state, f"{name}.w3", gate * torch.sigmoid(gate) * values)


def by_hand(state: dict[str, Tensor], x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
    """The output of a network at its own time, from 0 to 1, straight from a file's keys."""
    side = x.shape[-1] // 2
    squares = [
        x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
        for i in range(side)
        for j in range(side)
    ]
    tokens = torch.stack(squares, 1)
    for name in ("x_embedder.proj", "x_embedder.proj1", "x_embedder.proj2"):
        tokens = layer(state, name, tokens) if f"{name}.weight" in state else tokens
    tokens = tokens + state["pos_embed"]
    waves = [
        wave(time * math.exp(-math.log(10000) * i / 128))
        for wave in (torch.cos, torch.sin)
        for i in range(128)
    ]
    y = state["y_embedder.embedding_table.weight"][labels]
    hidden_time = F.silu(layer(state, "t_embedder.mlp.0", torch.stack(waves, -1)))
    c = F.silu(layer(state, "t_embedder.mlp.2", hidden_time) + y)[:, None]
    context = 0
    parts: tuple[Tensor, ...]
    for i in range(2):
        if i == 1 and "in_context_posemb" in state:
            context_embeddings = y[:, None] + state["in_context_posemb"]
            context, tokens = (
                context_embeddings.shape[1],
                torch.cat((context_embeddings, tokens), 1),
            )
        modulation = layer(state, f"blocks.{i}.adaLN_modulation.1", c)
        if modulation.shape[-1] == 4 * 48:
            a, b, d, e = modulation.chunk(4, -1)
            parts = (torch.zeros_like(a), a, b, torch.zeros_like(a), d, e)
        else:
            parts = modulation.chunk(6, -1)
        branch_input = norm(state, f"blocks.{i}.norm1", tokens) * (1 + parts[1]) + parts[0]
        tokens = tokens + parts[2] * attention(state, f"blocks.{i}.attn", branch_input)
        branch_input = norm(state, f"blocks.{i}.norm2", tokens) * (1 + parts[4]) + parts[3]
        tokens = tokens + parts[5] * mlp(state, f"blocks.{i}.mlp", branch_input)
    tokens = tokens[:, context:]
    shift, scale = layer(state, "final_layer.adaLN_modulation.1", c).chunk(2, -1)
    branch_input = norm(state, "final_layer.norm_final", tokens) * (1 + scale) + shift
    out = layer(state, "final_layer.linear", branch_input).unflatten(-1, (2, 2, -1))
    picture = torch.zeros(len(x), out.shape[-1], x.shape[2], x.shape[3])
    for token in range(side * side):
        i, j = 2 * (token // side), 2 * (token % side)
        picture[:, :, i : i + 2, j : j + 2] = out[:, token].permute(0, 3, 1, 2)
    return picture


def velocity_by_hand(family: str, state: dict[str, Tensor], x: Tensor) -> Tensor:
    """noise - image, from what each family's network returns at the time that it is given."""
    fraction = TIMES / 1000
    if family == "repa":
        return by_hand(state, x, fraction, LABELS)
    if family == "jit":
        output = by_hand(with_jits_rope(state), x, 1 - fraction, LABELS)
        return (x - output) / fraction.clamp(min=0.05)[:, None, None, None]
    return -by_hand(state, x, 1 - fraction, LABELS)[:, :4]


@pytest.mark.parametrize("family", list(PARTS))
def test_an_official_file_computes_what_its_authors_network_computes(
    tmp_path: Path, family: str
) -> None:
    record, state = register_family(tmp_path, family)
    channels = PARTS[family].get("channels", 4)
    x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        velocity = PLUGIN.load(record, load_weights(tmp_path / "f.pt"))(x, TIMES, LABELS)
        expected = velocity_by_hand(family, state, x)
    assert expected.std() > 0.1
    torch.testing.assert_close(
        velocity, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max())
    )
    assert record.config["family"] == family.removesuffix("-plain")
    assert record.encoding == ("ape" if family in ("sit", "repa") else "rope-axial")


def test_a_file_of_jit_with_tables_is_the_same_network(tmp_path: Path) -> None:
    record, state = register_family(tmp_path, "jit")
    torch.save(with_jits_rope(state), tmp_path / "t.pt")
    other_record = register_file(tmp_path / "t.pt", "t", config=CONFIGS["jit"])
    assert (
        other_record.config == record.config
        and other_record.encoding == record.encoding == "rope-axial"
    )


@pytest.mark.parametrize("family", ["lightningdit", "jit"])
def test_another_encoding_can_be_trained_in_a_family_and_starts_as_its_rope(family: str) -> None:
    """HARoPE's matrices are the identity at the start, also for the tokens of the label."""
    config = {**SIZES, **PARTS[family], "family": family, "has_table": True}
    rope, harope = (PLUGIN.build(name, {}, config) for name in ("rope-axial", "harope"))
    state = state_of(config, "rope-axial")
    rope.load_state_dict(state)
    harope.load_state_dict({**harope.state_dict(), **state})
    channels = PARTS[family].get("channels", 4)
    x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = rope(x, TIMES, LABELS)
        torch.testing.assert_close(
            harope(x, TIMES, LABELS), expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max())
        )


# ------------------------------------------------------------------------------- what files tell


def test_the_published_sampling_of_each_family(tmp_path: Path) -> None:
    sampling = {}
    for family in ("sit", "repa", "lightningdit", "jit"):
        (tmp_path / family).mkdir()
        state = official_state(family)
        torch.save(state, tmp_path / family / "f.pt")
        config = dict(CONFIGS.get(family, {}))
        register(family, tmp_path / family / "f.pt", {"config": config})
        record = load_checkpoint_record(family)
        sampling[family] = (record.sampler, record.steps, record.guidance)
    assert sampling == {
        "sit": ("flow-sde", 250, 1.5),
        "repa": ("flow-sde", 250, 1.8),
        "lightningdit": ("flow", 249, 10.0),
        "jit": ("flow-heun", 50, 3.0),
    }
    assert load_checkpoint_record("lightningdit").drawing["shift"] == pytest.approx(10 / 3)
    assert load_checkpoint_record("lightningdit").drawing["guidance_channels"] == "3"
    assert load_checkpoint_record("repa").drawing["guidance_channels"] == "all"


def test_training_arguments_tell_sit_from_repa(tmp_path: Path) -> None:
    """Both name the network SiT-B/2; only REPA has an encoder of images."""
    config = dict(zip(("hidden", "depth", "heads"), dit_keys.MODEL_SIZES["B"], strict=True))
    args = {"model": "SiT-B/2", "num_classes": 10, "path_type": "linear"}
    assert PLUGIN.config_from_training_args({**args, "image_size": 64}) == {
        **config,
        **{"family": "sit", "patch": 2, "channels": 4, "size": 8, "classes": 10},
    }
    repa = PLUGIN.config_from_training_args({**args, "resolution": 64, "enc_type": "dinov2-vit-b"})
    assert (repa["family"], repa["size"]) == ("repa", 8)
    jit = PLUGIN.config_from_training_args(
        {"model": "JiT-H/32", "img_size": 512, "class_num": 1000, "noise_scale": 2.0}
    )
    assert (jit["size"], jit["heads"], jit["noise_scale"]) == (512, 16, 2.0)
    for wrong_argument in ({"path_type": "GVP"}, {"prediction": "score"}):
        with pytest.raises(WeightsError, match="which no sampler here supports"):
            PLUGIN.config_from_training_args({**args, **wrong_argument})


def test_repas_projections_are_set_aside_and_said(tmp_path: Path) -> None:
    record, _ = register_family(tmp_path, "repa")
    assert description_lines(record)[-1] == (
        "6 tensors of projectors.* are set aside: only REPA's training loss uses them"
    )


def test_older_files_of_repa_number_their_blocks_anew(tmp_path: Path) -> None:
    state = official_state("repa")
    old_state = {
        key.replace("blocks.1.", "decoder_blocks.0."): value for key, value in state.items()
    }
    assert old_state.keys() != state.keys()
    torch.save(old_state, tmp_path / "last.pt")
    record = register_file(tmp_path / "last.pt")
    assert record.config["depth"] == 2


def test_jits_first_average_is_taken(tmp_path: Path) -> None:
    state = {f"net.{key}": value for key, value in official_state("jit").items()}
    plain_state = {key: value + 1 for key, value in state.items()}
    args = argparse.Namespace(noise_scale=1.0, class_num=10)
    torch.save(
        {
            "model": plain_state,
            "model_ema1": state,
            "model_ema2": plain_state,
            "epoch": 1,
            "args": args,
        },
        tmp_path / "checkpoint-last.pth",
    )
    register_file(tmp_path / "checkpoint-last.pth", config=CONFIGS["jit"])
    loaded_state = load_weights(tmp_path / "checkpoint-last.pth")
    assert torch.equal(loaded_state["in_context_posemb"], state["net.in_context_posemb"])


def test_jit_at_512_pixels_starts_with_twice_the_noise(tmp_path: Path) -> None:
    fields = PLUGIN.published_defaults({"family": "jit", "depth": 24, "size": 512}, {})
    assert (fields["config"], fields["guidance"]) == ({"noise_scale": 2.0}, 2.5)
    record, _ = register_family(tmp_path, "jit")
    record = record.model_copy(update={"config": {**record.config, "noise_scale": 2.0}})
    with pytest.raises(OptionError, match="flow-sde needs unit noise, this network starts"):
        PLUGIN.check_inputs(record, sde_settings())


def sde_settings() -> Settings:
    return Settings(resolution=8, sampler="flow-sde", steps=2, guidance=1.0, tile=2)


# ------------------------------------------------------------------------------ every form of file


@pytest.mark.parametrize("form", ["compiled", "ddp", "state_dict", "shards", "safetensors"])
@pytest.mark.parametrize("family", ["repa", "jit"])
def test_every_form_of_file_loads(tmp_path: Path, family: str, form: str) -> None:
    state = {key: value.contiguous() for key, value in official_state(family).items()}
    path = tmp_path / "w.pt"
    if form == "compiled":
        torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, path)
    elif form == "ddp":
        torch.save({"ema": {f"module.{key}": value for key, value in state.items()}}, path)
    elif form == "state_dict":
        torch.save({"state_dict": {"model": state}}, path)
    elif form == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    else:
        path = write_shards(tmp_path, state)
    record = register_file(path, config=CONFIGS.get(family, {}))
    assert record.config["family"] == family


def write_shards(folder: Path, state: dict[str, Tensor]) -> Path:
    """Two shards with their index; the path is their folder."""
    keys = sorted(state)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves = (keys[::2], keys[1::2])
    for name, half in zip(names, halves, strict=True):
        save_file({key: state[key] for key in half}, folder / name)
    index = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    return folder


# ------------------------------------------------------------------------------------- bad input


def check_error(path: Path, message: str, **fields: Any) -> None:
    with pytest.raises(BenchError, match=message) as excinfo:
        register_file(path, **fields)
    assert "\n" not in str(excinfo.value)


def test_missing_and_unexpected_keys_are_one_line_with_the_nearest_family(tmp_path: Path) -> None:
    state = official_state("lightningdit")
    broken_state = {
        key: value for key, value in state.items() if not key.startswith("blocks.1.mlp")
    }
    broken_state.update({f"blocks.1.mlp.fc{i}.weight": torch.zeros(1) for i in range(1, 6)})
    torch.save(broken_state, tmp_path / "a.pt")
    check_error(
        tmp_path / "a.pt",
        r"missing blocks.1.mlp.w12.bias, blocks.1.mlp.w12.weight, blocks.1.mlp.w3.bias and 1 more;"
        r" unexpected blocks.1.mlp.fc1.weight, .* and 2 more; the keys are nearest to those of"
        r" LightningDiT",
    )
    del state["final_layer.linear.weight"]
    torch.save(state, tmp_path / "b.pt")
    check_error(
        tmp_path / "b.pt",
        r"nearest is LightningDiT of backbone dit, without final_layer.linear.weight; check",
    )


def test_a_rope_that_is_not_the_families_is_rejected(tmp_path: Path) -> None:
    state = official_state("lightningdit")
    state["feat_rope.freqs_cos"] = state["feat_rope.freqs_cos"].flip(0)
    torch.save(state, tmp_path / "a.pt")
    check_error(tmp_path / "a.pt", "feat_rope.freqs_cos differs from the table of rope-axial")
    check_error(tmp_path / "a.pt", "contains rope-axial parameters, not harope", encoding="harope")


def test_a_sampler_of_noise_is_rejected(tmp_path: Path) -> None:
    torch.save(official_state("jit"), tmp_path / "a.pt")
    check_error(
        tmp_path / "a.pt",
        "JiT predicts velocity, sampler ddpm needs noise; use flow, flow-heun",
        sampler="ddpm",
        config=CONFIGS["jit"],
    )


def test_the_block_of_label_tokens_must_be_stated_where_the_depth_is_not_published(
    tmp_path: Path,
) -> None:
    torch.save(official_state("jit"), tmp_path / "a.pt")
    check_error(tmp_path / "a.pt", "context_start is None, wanted the index below 2 of the block")
    check_error(
        tmp_path / "a.pt",
        "context_start is 2, wanted",
        config={**CONFIGS["jit"], "context_start": 2},
    )


def test_an_autoencoder_of_other_latents_is_named(tmp_path: Path) -> None:
    state = official_state("lightningdit")
    wide_state = state_of({**SIZES, **PARTS["lightningdit"], "channels": 32}, "rope-axial")
    state.update(
        {key: wide_state[key] for key in wide_state if key.startswith(("x_emb", "final_layer.lin"))}
    )
    torch.save(state, tmp_path / "a.pt")
    record = register_file(tmp_path / "a.pt", name="wide", suite="digits")
    assert (record.config["latent_scale"], record.config["channels"]) == (16, 32)
    with pytest.raises(MissingVaeError) as excinfo:
        make_plan("wide", "digits", {"resolution": 64})
    assert "VA-VAE f16d32 of LightningDiT" in excinfo.value.advice
    folder = tmp_path / "vae"
    folder.mkdir()
    sizes = {"latent_channels": 32, "block_out_channels": [4] * 5}
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(OptionError, match="has 0 values of latents_mean .* wanted 32 of each"):
        make_plan("wide", "digits", {"resolution": 64, "vae": str(folder)})


# --------------------------------------------------------------------------------------- guidance


def test_tokens_of_the_label_are_not_recorded_as_tokens_of_the_image(tmp_path: Path) -> None:
    record, _ = register_family(tmp_path, "jit", suite="digits")
    plan = make_plan("f", "digits", {"resolution": 8, "steps": 2})
    generator = open_generator(record, plan.settings)
    shapes: dict[int, tuple[int, int]] = {}

    def note_shapes(layer: int, q: Tensor, k: Tensor, positions: Tensor) -> None:
        shapes[layer] = (q.shape[2], len(positions))

    assert generator.network is not None
    runner = LabelRunner(generator, generator.network)
    assert runner.excluded_tokens == "label tokens"
    runner.run(plan, 1, QueryKeyRecorder([500], note_shapes))
    assert shapes == {0: (16, 16), 1: (16, 16)}
    adaptive = make_plan("f", "digits", {"resolution": 8, "sampler": "flow-dopri5"})
    with pytest.raises(OptionError, match="flow-dopri5 chooses its times while it samples"):
        runner.run(adaptive, 1, QueryKeyRecorder([500], note_shapes))


def test_jits_images_are_those_of_its_own_sampler(tmp_path: Path) -> None:
    """Heun in JiT's time, from noise to image, guided above 0.1, the last step Euler; each image
    alone, where the package generates two in one batch.
    """
    record, state = register_family(tmp_path, "jit", suite="digits")
    settings = make_plan("f", "digits", {"resolution": 8, "steps": 3}).settings
    requests = [Request(index=i, label=3 + i) for i in range(2)]
    images = open_generator(record, settings).generate(requests, settings).images
    full_state = with_jits_rope(state)

    def velocity(z: Tensor, t: float, label: int) -> Tensor:
        predictions = [
            (by_hand(full_state, z, torch.tensor([t]), torch.tensor([y])) - z) / max(1 - t, 0.05)
            for y in (label, 10)
        ]
        scale = 3.0 if t > 0.1 else 1.0
        return predictions[1] + scale * (predictions[0] - predictions[1])

    for request, image in zip(requests, images, strict=True):
        assert request.label is not None
        z = unit_noise((3, 8, 8), [index_generator(0, request.index)])
        for t, next_t in ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0)):
            slope = velocity(z, t, request.label)
            if next_t < 1:
                slope = (slope + velocity(z + slope / 3, next_t, request.label)) / 2
            z = z + slope / 3
        # Levels that are half way differ by one where sums are in another order.
        difference = image.astype(int) - to_uint8(z)[0].astype(int)
        assert abs(difference).max() <= 1 and (difference != 0).mean() < 0.02
        assert image.std() > 10


def test_guidance_acts_inside_of_its_interval_row_by_row() -> None:
    times = torch.tensor([0.0, 299.9, 300.0, 700.0, 1000.0])
    assert guidance_scales(times, 3.0, "0.3..0.7").tolist() == [1, 1, 3, 3, 1]
    assert guidance_scales(times, 3.0, "0..0.6999").tolist() == [3, 3, 3, 1, 1]
    assert guidance_scales(times, 3.0, "0..1").tolist() == [3] * 5
    assert guidance_scales(times, 3.0, None).tolist() == [3] * 5


def test_a_setting_that_a_sampler_does_not_have_is_rejected(tmp_path: Path) -> None:
    register_family(tmp_path, "jit", suite="digits")
    overrides = {"resolution": 8, "steps": 2}
    with pytest.raises(OptionError, match="shift does not apply to sampler flow-sde"):
        make_plan("f", "digits", {**overrides, "sampler": "flow-sde", "shift": 2.0})
    with pytest.raises(OptionError, match="diffusion does not apply to sampler flow-heun"):
        make_plan("f", "digits", {**overrides, "diffusion": "constant"})
    with pytest.raises(OptionError, match="guidance_interval"):
        make_plan("f", "digits", {**overrides, "guidance_interval": "0..2"})
    plan = make_plan("f", "digits", overrides)
    assert plan.settings.guidance_interval == "0..0.8999"
    assert load_sampler("flow-heun").network_calls(50) == 99


# ------------------------------------------------------------------------------- latents to pixels


class Copier:
    """An autoencoder that shows three channels of its latents."""

    class config:
        latents_mean = (1.0, 2.0, 3.0, 4.0)
        latents_std = (0.5, 1.0, 2.0, 4.0)
        scaling_factor = 0.5

    def decode(self, latents: Tensor) -> Any:
        return argparse.Namespace(sample=latents[:, :3])


def test_normalised_latents_get_their_mean_and_deviation_back() -> None:
    latents_given = torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 9.0]])[..., None, None]
    pixel_values = latents.Decoder(Copier(), is_normalised=True)(latents_given)
    assert pixel_values.flatten(1).tolist() == [[1.5, 1.0, 4.0], [1.0, 2.0, 3.0]]
    assert latents.Decoder(Copier())(latents_given).flatten(1).tolist()[0] == [2.0, -2.0, 1.0]


def test_repas_levels_are_rounded_down_and_the_others_to_the_nearest() -> None:
    pixels = torch.tensor([-1.0, 0.0, 0.3, 0.999, 1.0]).view(1, 1, 1, 5)
    for family in ("repa", "sit"):
        network = PLUGIN.build("ape", {}, {**SIZES, "latent": True, "family": family})
        generator = DitImageGenerator(network, torch.device("cpu"), torch.float32)
        levels = to_uint8(generator.decode(pixels))[0, 0, :, 0].tolist()
        exact_levels = (255 * (pixels.double() + 1) / 2).flatten()
        expected_levels = exact_levels.floor() if family == "repa" else (exact_levels + 0.5).floor()
        assert levels == expected_levels.clamp(0, 255).int().tolist()


def test_an_adaptive_sampler_guides_a_row_as_it_does_alone() -> None:
    """Rows of flow-dopri5 have times of their own, so some may be inside of the interval."""
    torch.manual_seed(0)
    config = {
        "hidden": 32,
        "depth": 2,
        "heads": 4,
        "patch": 2,
        "size": 8,
        "channels": 1,
        "classes": 10,
        "family": "sit",
    }
    network = PLUGIN.build("ape", {}, config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.25)
    generator = DitImageGenerator(network, torch.device("cpu"), torch.float32)
    settings = Settings(
        resolution=8,
        sampler="flow-dopri5",
        steps=200,
        guidance=4.0,
        tile=4,
        guidance_interval="0.3..0.7",
    )
    latents: list[torch.Tensor] = []
    decode = generator.decode
    generator.decode = lambda images: (latents.append(images.clone()), decode(images))[1]  # type: ignore[method-assign]
    requests = [Request(index=index, label=index) for index in range(4)]
    generator.generate(requests, settings)
    generator.generate([requests[0]] * 4, settings)
    assert torch.equal(latents[0][0], latents[1][0])


def test_an_interval_that_is_the_wrong_way_round_is_an_error() -> None:
    with pytest.raises(ValueError, match="LOW is above HIGH"):
        Settings(resolution=8, tile=1, guidance_interval="0.9..0.1")
