"""Readers of weights, LoRA files, pipelines and snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hostile import documents as d
from hostile.parsers.homes import at_home
from hostile.parsers.table import Files, Table

from harope_bench.core import json_file, state_dicts, storage, text_file, weight_wrappers
from harope_bench.judges.mmdet import weights_file
from harope_bench.models import (
    load_checkpoint,
    lora_manifest,
    pipeline_checks,
    pipeline_manifest,
    register_checkpoint,
    register_pipeline,
)
from harope_bench.models.backbones import latents, lora_files, lora_names
from harope_bench.pipeline import describe_plugins
from harope_bench.training.loop import Trainer
from harope_bench.training.recipe import Schedule

TABLE = Table()
parser = TABLE.add


def read_weights(path: Path) -> object:
    return (
        state_dicts.load_weights(path),
        state_dicts.weights_header(path),
        state_dicts.weights_metadata(path),
        register_checkpoint.read_checkpoint_note(path),
        state_dicts.weights_sha256(path),
        describe_plugins._size_of_weights(path),
    )


parser(
    "safetensors",
    lambda: {"x.safetensors": d.weights()},
    lambda f: read_weights(f / "x.safetensors"),
)
parser("shards", d.sharded_weights, lambda f: read_weights(f / "model.safetensors.index.json"))
parser(
    "torch file", lambda: {"x.pt": d.torch_file()}, lambda f: (state_dicts.load_weights(f / "x.pt"), state_dicts.training_arguments(f / "x.pt"))
)  # fmt: skip
parser(
    "mmdet's file",
    lambda: {"x.pth": d.torch_file(False)},
    lambda f: weights_file.load_state(
        weights_file.WeightsFile(f / "x.pth", storage.sha256_file(f / "x.pth"))
    ),
)
parser("snapshot", lambda: {"snapshot.pt": d.snapshot()}, lambda f: trainer(f).resume())


def trainer(folder: Path) -> Trainer:
    import torch

    schedule = Schedule(steps=9, batch=1, lr=0.1, warmup=0, clip=1.0, seed=0, snapshot=3)
    return Trainer(torch.nn.Linear(2, 2), schedule, 0.9, folder, "tiny")


def read_checkpoint_file(folder: Path) -> object:
    at_home(folder / "home")
    register_checkpoint.register(
        "mine", folder / "x.safetensors", {"suite": "digits", "source": "a test"}
    )
    return register_checkpoint.description_lines(load_checkpoint.load_checkpoint_record("mine"))


parser("weights to register", lambda: {"x.safetensors": d.dit_weights()}, read_checkpoint_file)


class Library:
    """A pipeline class whose converters know these names already."""

    @staticmethod
    def lora_state_dict(
        state: dict[str, Any], **_: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return state, {}, {}


LAYERS = ("transformer_blocks.0.attn.to_q",)


def read_lora(folder: Path) -> object:
    path = folder / "adapter_model.safetensors"
    bare_lora_files = lora_manifest.find_lora_files(folder)
    return (
        bare_lora_files,
        lora_manifest.is_lora_file(path),
        lora_files.read_lora(Library, path, lambda: LAYERS),
    )


PEFT = b'{"r": 4, "lora_alpha": 8, "target_modules": ["to_q"], "use_dora": false, "alpha_pattern": {"to_q": 2}}'
parser("LoRA", lambda: {"adapter_model.safetensors": d.lora()}, read_lora)
parser(
    "peft's LoRA", lambda: {"adapter_model.safetensors": d.lora("base_model.model."), "adapter_config.json": PEFT}, read_lora,
    "adapter_config.json",
)  # fmt: skip


def read_keys(folder: Path) -> object:
    import torch

    keys = text_file.read_text(folder / "keys.txt").split("\n")
    state = dict.fromkeys(keys, torch.zeros(4, 4))
    lora_names.reject_unsupported_formats(keys, "x")
    return (
        lora_names.convert_to_diffusers_keys(state, lambda: LAYERS),
        weight_wrappers.strip_prefixes(state),
        weight_wrappers.unwrap_state_dict({"model": state}),
    )


KEYS = "module.ema_model.a.weight\nmodule.ema_model._orig_mod.b\nlora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight\nn_averaged"
parser("names of weights", {"keys.txt": KEYS.encode()}, read_keys)


def read_pipeline(folder: Path) -> object:
    lora_manifest.check_base_loads(folder)
    return (
        lora_manifest.pipeline_class_name(folder),
        lora_manifest.describe_base(folder, "base"),
        lora_manifest.scheduler_config(folder),
    )


parser("pipeline", d.pipeline, read_pipeline)
parser(
    "manifest",
    {"manifest.json": d.json_bytes(d.MANIFEST)},
    lambda f: lora_manifest.read_manifest(f / "manifest.json"),
)
parser(
    "adapter folder",
    lambda: {
        **{f"base/{name}": data for name, data in d.pipeline().items()},
        "manifest.json": d.json_bytes(
            {**d.MANIFEST, "files": {}, "base": {"id": "base", "config": {"num_layers": 1}}}
        ),
    },
    lambda f: lora_manifest.check_adapter(f / "manifest.json", adapter_checkpoint(f / "base")),
    "manifest.json",
    "base/transformer/config.json",
)


def adapter_checkpoint(folder: Path) -> Any:
    return d.fake_runs.checkpoint(
        "x",
        "harope",
        backbone="flux",
        options={"theta": 100.0},
        config={"base": str(folder), "encoded_tokens": "image"},
    )


parser(
    "autoencoder",
    {"config.json": d.json_bytes(d.VAE), "diffusion_pytorch_model.safetensors": b""},
    lambda f: latents.check_vae(str(f), 4, "x"),
    "config.json",
)


def pipeline_run_as_it_is() -> Files:
    """A pipeline's folder, and the manifest with which it was registered."""
    files = {f"base/{name}": data for name, data in d.pipeline().items()}
    manifest = {
        "id": "base",
        "revision": None,
        "pipeline_class": "FluxPipeline",
        "files": {
            name: {"sha256": storage.sha256_bytes(data), "bytes": len(data)}
            for name, data in d.pipeline().items()
        },
    }
    return {**files, "manifest.json": d.file_of("pipeline", manifest)}


def check_pipeline(folder: Path) -> object:
    path, checkpoint = folder / "manifest.json", pipeline_checkpoint(folder / "base")
    manifest = pipeline_manifest.read_pipeline_manifest(path)
    names = sorted(pipeline_manifest.pipeline_files(folder / "base"))
    pipeline_manifest.check_manifest(path, checkpoint)
    folders = pipeline_manifest.check_pipeline_files(path, checkpoint, has_hashes=True)
    return manifest, names, folders


def pipeline_checkpoint(folder: Path) -> Any:
    return d.fake_runs.checkpoint(
        "x", "none", backbone="diffusers", sampler=None, config={"base": str(folder)}
    )


parser(
    "pipeline that is run as it is",
    pipeline_run_as_it_is,
    check_pipeline,
    "manifest.json",
    "base/model_index.json",
)
parser(
    "tokenizer of a pipeline",
    lambda: {
        "tokenizer_config.json": b'{"model_max_length": 77, "tokenizer_class": "T5Tokenizer"}'
    },
    lambda f: pipeline_checks._reject_own_code(f),
)
DRAWN = {"resolution": 512, "seed": 3, "dtype": "float16", "negative_prompt": "blur", "tf32": True}


def read_defaults(folder: Path) -> object:
    """Settings of trial images, from defaults that were checked as `register` checks them."""
    drawing = json_file.read_json(folder / "drawing.json")
    fields = register_checkpoint.Settings.model_fields
    known = {name: value for name, value in drawing.items() if name in fields}
    checked = register_checkpoint.validate_default_settings(known)
    checkpoint = pipeline_checkpoint(folder).model_copy(update={"drawing": checked})
    device, dtype = text_file.read_text(folder / "trial.txt").partition(" ")[::2]
    trials = (register_pipeline.Trial(), register_pipeline.Trial(device, dtype))
    return [register_pipeline.trial_settings(checkpoint, trial, 64) for trial in trials]


parser(
    "defaults of a pipeline",
    {"drawing.json": d.json_bytes(DRAWN), "trial.txt": b"cuda:1 bfloat16"},
    read_defaults,
)
