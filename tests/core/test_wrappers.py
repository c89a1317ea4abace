"""Wrappers of training tools around every backbone's weights; shards; single transformer files;
what predicts is told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_files import SMALL_CONFIG, release_state, state_of, training_file
from safetensors.torch import load_file, save_file
from torch import Tensor

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError, WeightsError
from harope_bench.core.schema import Request, Settings
from harope_bench.core.state_dicts import load_weights, read_weights, weights_sha256
from harope_bench.core.storage import home
from harope_bench.core.weight_wrappers import unwrap_state_dict
from harope_bench.models.load_checkpoint import find_weights_path, load_checkpoint_record
from harope_bench.models.register_checkpoint import description_lines, register
from harope_bench.pipeline.generate import make_plan

State = dict[str, Tensor]
PIXELS = {
    "hidden": 16,
    "depth": 1,
    "heads": 2,
    "patch": 7,
    "size": 28,
    "channels": 1,
    "classes": 10,
}
WORDS = {
    "hidden": 16,
    "double": 1,
    "single": 1,
    "heads": 2,
    "patch": 4,
    "size": 16,
    "channels": 3,
    "places": 4,
    "words": "a red ring",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "dit": PIXELS,
    "deit": {**PIXELS, "normalised": "half"},
    "mmdit-micro": WORDS,
}


def state(backbone: str) -> State:
    network = registry.load_by_name("backbones", backbone).build("harope", {}, NETWORKS[backbone])
    return {key: value.detach().clone() for key, value in network.state_dict().items()}


def under(prefix: str) -> Callable[[State], State]:
    return lambda weights: {prefix + key: value for key, value in weights.items()}


def shift_weights(weights: State) -> State:
    """Another network of these keys."""
    return {key: value + 1 for key, value in weights.items()}


COUNT = {"n_averaged": torch.tensor(7)}
EMA = {"initted": torch.tensor(True), "step": torch.tensor(7)}
WRAPPERS: dict[str, Callable[[State], Any]] = {
    "compiled": under("_orig_mod."),
    "ddp": under("module."),
    "ddp twice": under("module.module."),
    "ddp of compiled": under("module._orig_mod."),
    "compiled ddp": under("_orig_mod.module."),
    "compiled blocks": lambda s: {
        key.replace("blocks.0.", "blocks.0._orig_mod."): value for key, value in s.items()
    },
    "fsdp": under("_fsdp_wrapped_module."),
    "lightning": lambda s: {
        "state_dict": under("model.")(s),
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
    },
    "lightning, compiled": lambda s: {"state_dict": under("model._orig_mod.")(s)},
    "lightning with average": lambda s: {
        "state_dict": {**under("model.")(shift_weights(s)), **under("ema_model.")(s)}
    },
    "averaged": lambda s: {**COUNT, **under("module.")(s)},
    "ema_pytorch": lambda s: {
        **EMA,
        **under("ema_model.")(s),
        **under("online_model.")(shift_weights(s)),
    },
    "ema_pytorch alone": lambda s: {**EMA, **under("ema_model.")(s)},
    "dit": lambda s: {"model": shift_weights(s), "ema": s, "opt": {"state": {}}},
    "dit, ddp": lambda s: {"model": under("module.")(shift_weights(s)), "ema": under("module.")(s)},
    "timm": lambda s: {"state_dict": shift_weights(s), "state_dict_ema": s, "arch": "x"},
    "deit": lambda s: {"model": shift_weights(s), "model_ema": s},
    "nested": lambda s: {"model": {"state_dict": s}},
    "plain": lambda s: {"model_state_dict": s},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_is_stripped_for_every_backbone(tmp_path: Path, wrapper: str) -> None:
    for backbone in NETWORKS:
        weights = state(backbone)
        torch.save(WRAPPERS[wrapper](weights), tmp_path / f"{backbone}.pt")
        read = load_weights(tmp_path / f"{backbone}.pt")
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[key], weights[key]) for key in weights), (
            f"{backbone}: the plain network was taken for its average"
        )
        clue = registry.load_by_name("backbones", backbone).detect_fields(read)
        assert clue is not None and clue.encoding == "harope"


@pytest.mark.parametrize("wrapper", ["compiled", "ddp twice", "averaged", "lightning with average"])
def test_a_wrapped_file_registers_and_says_what_was_taken(tmp_path: Path, wrapper: str) -> None:
    torch.save(WRAPPERS[wrapper](state("dit")), tmp_path / "w.pt")
    register("mine", tmp_path / "w.pt", {"sampler": "flow", "config": {"size": 28}})
    checkpoint_record = load_checkpoint_record("mine")
    text = "\n".join(description_lines(checkpoint_record))
    assert "weights taken from" in text and ("it also holds model." in text) == (
        wrapper == "lightning with average"
    )
    settings = Settings(resolution=28, sampler="flow", steps=1, guidance=1, tile=1)
    drawer = registry.load_by_name("backbones", "dit").open(
        checkpoint_record,
        load_weights(find_weights_path(checkpoint_record), checkpoint_record.sha256),
        settings,
    )
    assert drawer.generate([Request(index=0, label=1)], settings).images.shape == (1, 28, 28, 3)


def test_a_safetensors_file_is_unwrapped_too_and_an_unwrapped_one_is_left_alone(
    tmp_path: Path,
) -> None:
    weights = state("dit")
    save_file(under("_orig_mod.")(weights), tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors").keys() == weights.keys()
    save_file(weights, tmp_path / "bare.safetensors")
    assert read_weights(tmp_path / "bare.safetensors").wrappers == ()


def test_adapters_and_networks_beside_others_keep_their_prefixes() -> None:
    lora = {"diffusion_model.x.lora_A.weight": torch.zeros(2, 2)}
    mixed_fields = {"model.x.weight": torch.zeros(2), "loss.weight": torch.zeros(2)}
    for contents in (lora, mixed_fields):
        unwrapped_unwrap_state_dict = unwrap_state_dict(contents)
        assert (
            unwrapped_unwrap_state_dict is not None
            and unwrapped_unwrap_state_dict.state.keys() == contents.keys()
            and unwrapped_unwrap_state_dict.wrappers == ()
        )


def test_a_key_that_stands_twice_is_rejected() -> None:
    with pytest.raises(WeightsError, match="x.weight is in the file twice"):
        unwrap_state_dict({"_orig_mod.x.weight": torch.zeros(2), "x.weight": torch.ones(2)})
    assert unwrap_state_dict({"opt": {"lr": 1}}) is None


def test_a_network_beside_a_loss_is_asked_to_be_saved_alone(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {**under("model.")(state("dit")), "loss.weight": torch.zeros(2)}},
        tmp_path / "l.ckpt",
    )
    with pytest.raises(
        WeightsError, match="if loss, model are several networks, save one of them alone"
    ):
        register("mine", tmp_path / "l.ckpt", {"sampler": "flow"})


# ------------------------------------------------------------------------------------- shards


def write_shards(folder: Path, weights: State) -> Path:
    """Two shards with their index, as the hub's libraries write them."""
    folder.mkdir()
    names, keys = [f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)], sorted(weights)
    parts = (keys[::2], keys[1::2])
    for name, part in zip(names, parts, strict=True):
        save_file({key: weights[key] for key in part}, folder / name)
    names_result = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names_result}))
    return index


@pytest.mark.parametrize("inputs", ["index", "folder"])
def test_shards_are_read_by_their_index_and_every_shard_is_hashed(
    tmp_path: Path, inputs: str
) -> None:
    weights = state("dit")
    index = write_shards(tmp_path / "shards", under("module.")(weights))
    register(
        "mine",
        index if inputs == "index" else index.parent,
        {"sampler": "flow", "config": {"size": 28}},
    )
    checkpoint_record = load_checkpoint_record("mine")
    read = load_weights(find_weights_path(checkpoint_record), checkpoint_record.sha256)
    assert all(torch.equal(read[key], weights[key]) for key in weights)
    second = index.parent / "model-00002-of-00002.safetensors"
    save_file(shift_weights(load_file(second)), second)
    with pytest.raises(WeightsError, match="has sha256"):
        load_weights(find_weights_path(checkpoint_record), checkpoint_record.sha256)
    assert weights_sha256(index) != checkpoint_record.sha256


def test_shards_that_are_not_whole_are_rejected_in_one_line(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "shards", state("dit"))
    first_path, second = sorted(index.parent.glob("*.safetensors"))
    for weights, message in (
        (first_path, "is one of 2 shards; give their index model.safetensors.index.json"),
        (index, "which is missing"),
    ):
        second.unlink(missing_ok=True) if weights == index else None
        with pytest.raises(WeightsError, match=message):
            register("mine", weights, {"sampler": "flow"})
    text = index.read_text()
    for wrong_text, message in (
        (text.replace(first_path.name, "../x.safetensors"), "wanted .safetensors files beside it"),
        ("[]", "is not an index"),
    ):
        index.write_text(wrong_text)
        with pytest.raises(WeightsError, match=message):
            register("mine", index, {"sampler": "flow"})
    assert not list((home() / "checkpoints").glob("mine*"))


# ------------------------------------------------------------------------------------- a pipeline's
# transformer alone


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_a_librarys_transformer_file_registers_with_its_base(tmp_path: Path, kind: str) -> None:
    pipelines = pytest.importorskip("tiny_pipelines")
    pipelines.needs_t2i()
    base = pipelines.save_pipeline(tmp_path / "base", kind)
    folder = tmp_path / "tuned"
    getattr(pipelines, kind)(7).transformer.save_pretrained(folder)
    for name, weights in (
        ("file", folder / "diffusion_pytorch_model.safetensors"),
        ("folder", folder),
    ):
        register(name, weights, {"config": {"base": str(base)}, "steps": 1})
        checkpoint_record, backbone = (
            load_checkpoint_record(name),
            registry.load_by_name("backbones", kind),
        )
        assert (
            checkpoint_record.backbone,
            checkpoint_record.encoding,
            checkpoint_record.options,
        ) == (kind, *backbone.base_encoding)
    loaded_state = backbone.load(
        checkpoint_record, load_weights(find_weights_path(checkpoint_record))
    ).state_dict()
    tuned_file = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert all(
        torch.equal(loaded_state[f"transformer.{key}"], value) for key, value in tuned_file.items()
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "FLUX under its authors' names"),
        ("x.lora_A.weight", "a LoRA in a torch file"),
    ],
)
def test_known_networks_under_other_names_are_named(tmp_path: Path, key: str, message: str) -> None:
    torch.save({key: torch.zeros(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message):
        register("mine", tmp_path / "w.pt", {})


# ------------------------------------------------------------------------------------- what
# predicts is told, never guessed


def check_rejection(path: Path, message: str, **fields: Any) -> None:
    with pytest.raises(BenchError, match=message) as excinfo:
        register("guess", path, fields)
    assert "\n" not in str(excinfo.value) and "guess" not in registry.list_entries("checkpoints")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("SiT-B/2", "state hidden = 768, its parameters have 48"),
        ("LightningDiT-XL/4", "name the network LightningDiT-XL/4, which is not a DiT"),
        ("SiD2-B/4", "name the network SiD2-B/4, which is not a DiT"),
        ("DiT-B/3", "which is not a DiT"),
        ("evil\x1b[31m\nname", "which is not a DiT"),
    ],
)
def test_a_training_file_of_another_network_is_rejected_by_name(
    tmp_path: Path, model: str, message: str
) -> None:
    path = training_file(
        tmp_path / "0000001.pt", release_state(state_of(SMALL_CONFIG, "harope")), model=model
    )
    check_rejection(path, message)
    check_rejection(path, message, sampler="ddpm")


@pytest.mark.parametrize("model", ["vit_base_patch16_224", "resnet50"])
def test_a_training_file_of_another_classifier_is_rejected_by_name(
    tmp_path: Path, model: str
) -> None:
    weights = state("deit")
    torch.save({"model": weights, "args": argparse.Namespace(model=model)}, tmp_path / "a.pth")
    check_rejection(tmp_path / "a.pth", f"name the network {model}, which is not a DeiT")
    torch.save(
        {"model": weights, "args": argparse.Namespace(model="deit_small_patch16_LS")},
        tmp_path / "b.pth",
    )
    register("named", tmp_path / "b.pth", {"config": {"size": 28, "normalised": "half"}})


def test_a_bare_file_that_is_called_sit_must_be_told_its_sampler(tmp_path: Path) -> None:
    for name in ("SiT-XL-2-256x256.pt", "my_SiT.pt"):
        torch.save(release_state(state_of(SMALL_CONFIG, "harope")), tmp_path / name)
        check_rejection(
            tmp_path / name,
            "SiT in its name is a network that predicts something else; add --config family=sit",
            config={"heads": 3},
        )
    torch.save(release_state(state_of(SMALL_CONFIG, "harope")), tmp_path / "site-a.pt")
    register("site", tmp_path / "site-a.pt", {"config": {"heads": 3, "size": 8}})


def test_a_latent_network_without_learned_sigma_must_be_told_what_it_predicts(
    tmp_path: Path,
) -> None:
    plain_fields = {**SMALL_CONFIG, "learn_sigma": False}
    path = training_file(tmp_path / "a.pt", release_state(state_of(plain_fields, "harope")))
    check_rejection(
        path,
        r"does not reveal what its network predicts; add the --sampler .* ddpm \(noise\), flow"
        r" \(velocity\)",
    )
    register("noise", path, {"sampler": "ddpm"})
    checkpoint_record = load_checkpoint_record("noise")
    assert (checkpoint_record.sampler, checkpoint_record.steps, checkpoint_record.guidance) == (
        "ddpm",
        250,
        1.5,
    )
    assert description_lines(checkpoint_record)[0].startswith(
        "predicts noise; sampler ddpm, 250 steps, guidance 1.5"
    )
    register("speed", path, {"sampler": "flow", "steps": 20, "guidance": 2.0})
    assert description_lines(load_checkpoint_record("speed"))[0].startswith(
        "predicts velocity; sampler flow, 20 steps, guidance 2"
    )


@pytest.mark.parametrize("backbone", ["dit", "mmdit-micro"])
def test_no_other_network_is_guessed_either(tmp_path: Path, backbone: str) -> None:
    torch.save(state(backbone), tmp_path / "w.pt")
    config = {
        key: NETWORKS[backbone][key] for key in ("size", "words") if key in NETWORKS[backbone]
    }
    check_rejection(tmp_path / "w.pt", "does not reveal what its network predicts", config=config)
    register("told", tmp_path / "w.pt", {"sampler": "flow", "config": config})


@pytest.mark.parametrize("message", ["args", "config", "suite", "null_label"])
def test_the_last_class_is_not_taken_for_no_label(tmp_path: Path, message: str) -> None:
    weights = state_of({**SMALL_CONFIG, "null_label": False}, "harope")
    assert len(weights["y_embedder.embedding_table.weight"]) == 10
    fields: dict[str, Any] = {"config": {"heads": 3, "size": 8}, "drawing": {"vae": "x"}}
    if message == "args":
        path = training_file(
            tmp_path / "a.pt", release_state(weights), num_classes=10, image_size=64
        )
    else:
        path = tmp_path / "a.pt"
        torch.save(release_state(weights), path)
    if message == "suite":
        fields["suite"] = "digits"
    if message in ("config", "null_label"):
        fields["config"] |= {"classes": 10} if message == "config" else {"null_label": False}
    register("ten", path, fields)
    checkpoint_record = load_checkpoint_record("ten")
    assert (
        checkpoint_record.config["classes"],
        checkpoint_record.config["null_label"],
        checkpoint_record.guidance,
    ) == (10, False, 1.0)
    assert "takes 10 classes, without 'no label'" in description_lines(checkpoint_record)[1]
    with pytest.raises(
        OptionError,
        match=r"guidance 1.5 needs an embedding for 'no label', which .*; give --guidance 1",
    ):
        make_plan("ten", "digits", {"guidance": 1.5, "resolution": 64})
    with pytest.raises(
        OptionError, match="found no config.json"
    ):  # guidance 1 gets as far as its autoencoder
        make_plan("ten", "digits", {"resolution": 64})


def test_a_table_that_nobody_counts_is_met_by_a_hint(tmp_path: Path) -> None:
    torch.save(
        release_state(state_of({**SMALL_CONFIG, "null_label": False}, "harope")), tmp_path / "a.pt"
    )
    register("nine", tmp_path / "a.pt", {"config": {"heads": 3, "size": 8}})
    with pytest.raises(
        OptionError,
        match=(
            "is conditioned on 9 classes, but suite digits asks for 10 classes; .*, or register it"
            " with --config classes=10"
        ),
    ):
        make_plan("nine", "digits", {})


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("rope.freqs", (32,)),
        ("freqs", ()),
        ("pos_embed", (5,)),
        ("encoding.sigma", (4,)),
        ("encoding.freqs", (3,)),
    ],
)
def test_parameters_of_a_shape_that_no_encoding_has_are_one_line(
    tmp_path: Path, key: str, shape: tuple[int, ...]
) -> None:
    for backbone in NETWORKS:
        weights = {
            name: value
            for name, value in state(backbone).items()
            if not name.startswith("encoding.")
        }
        torch.save({**weights, key: torch.ones(shape)}, tmp_path / "w.pt")
        config = {
            field: value
            for field, value in NETWORKS[backbone].items()
            if field in ("size", "words", "normalised", "heads")
        }
        with pytest.raises(BenchError) as excinfo:
            register(
                "odd",
                tmp_path / "w.pt",
                {"sampler": "flow", "config": config} if backbone != "deit" else {"config": config},
            )
        assert "\n" not in str(excinfo.value)
