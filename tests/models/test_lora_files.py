"""LoRA as other tools save it, registered without our manifest; against diffusers' own
load_lora_weights.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, NameClashError, OptionError, WeightsError
from harope_bench.core.schema import Request
from harope_bench.core.state_dicts import weights_bytes
from harope_bench.core.storage import home, sha256_file
from harope_bench.models import lora_manifest

tiny.needs_t2i()

from harope_bench.cli import main  # noqa: E402
from harope_bench.models.backbones import lora_files  # noqa: E402
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator  # noqa: E402
from harope_bench.models.register_checkpoint import register, register_checkpoint  # noqa: E402

KINDS = ("flux", "sd3")
RED = Request(index=0, prompt="a photo of a red cat")
FILE = lora_manifest.DIFFUSERS_LORA


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny pipeline a kind."""
    return {
        kind: tiny.save_pipeline(tmp_path_factory.mktemp(kind) / "base", kind) for kind in KINDS
    }


def backbone(kind: str) -> Any:
    return registry.load_by_name("backbones", kind)


def load_pipeline(kind: str, bases: dict[str, Path]) -> Any:
    """The library's pipeline, ours nowhere in it."""
    return backbone(kind).load_pipeline(bases[kind], tiny.settings())


def save_lora(
    kind: str, bases: dict[str, Path], folder: Path, note: bool = True, **config: Any
) -> Path:
    """A folder with the LoRA file that diffusers writes for random low-rank weights of that peft
    configuration.
    """
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = load_pipeline(kind, bases)
    lora_config = LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 4,
            "target_modules": ["attn.to_q", "attn.to_k", "attn.to_v"],
            **config,
        }
    )
    pipe.transformer.add_adapter(lora_config)
    rng = torch.Generator().manual_seed(3)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    layers = get_peft_model_state_dict(pipe.transformer)
    metadata = {"transformer_lora_adapter_metadata": lora_config.to_dict()} if note else {}
    pipe.save_lora_weights(folder, transformer_lora_layers=layers, **metadata)
    return folder


def library_image(kind: str, bases: dict[str, Path], folder: Path | None) -> np.ndarray:
    """What diffusers itself draws, with that folder's LoRA or without."""
    pipe, package_backbone = load_pipeline(kind, bases), backbone(kind)
    if folder is not None:
        pipe.load_lora_weights(folder, weight_name=FILE, local_files_only=True)
    latents = package_backbone.generator_class(
        pipe, None, package_backbone.parse_config({"base": "x"})
    ).initial_noise(RED.index, tiny.settings())
    length = package_backbone.parse_config({"base": "x"}).text_tokens
    generated_pipe = pipe(
        RED.prompt,
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.5,
        latents=latents,
        max_sequence_length=length,
        output_type="np",
    )
    return (255 * generated_pipe.images[0]).round().astype(int)


def our_image(name: str, **settings: Any) -> np.ndarray:
    settings_result = tiny.settings(**settings)
    return (
        open_generator(load_checkpoint_record(name), settings_result)
        .generate([RED], settings_result)
        .images[0]
        .astype(int)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("note", "config"),
    [
        (False, {}),
        (True, {"lora_alpha": 16}),
        (True, {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_v": 12}}),
        (False, {"rank_pattern": {"to_q": 2}}),
    ],
)
def test_a_bare_lora_draws_what_the_library_draws(
    bases: dict[str, Path], tmp_path: Path, kind: str, note: bool, config: dict[str, Any]
) -> None:
    folder = save_lora(kind, bases, tmp_path / "lora", note, **config)
    register("mine", folder, {"config": {"base": str(bases[kind])}})
    expected = library_image(kind, bases, folder)
    assert np.abs(our_image("mine") - expected).max() <= 1  # a rounding of pixels
    assert np.abs(library_image(kind, bases, None) - expected).max() > 8  # and it does something
    checkpoint_record, manifest = (
        load_checkpoint_record("mine"),
        lora_manifest.read_manifest(home() / "checkpoints/mine/manifest.json"),
    )
    assert (checkpoint_record.backbone, checkpoint_record.encoding, checkpoint_record.options) == (
        kind,
        *backbone(kind).base_encoding,
    )
    assert manifest.files == {
        "lora.safetensors": sha256_file(folder / FILE)
    }  # the user's file, byte by byte
    assert sha256_file(home() / "checkpoints/mine/lora.safetensors") == sha256_file(folder / FILE)


def test_merged_it_draws_the_same(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = save_lora("flux", bases, tmp_path / "lora", lora_alpha=16)
    register("merged", folder, {"config": {"base": str(bases["flux"]), "merge_lora": True}})
    assert np.abs(our_image("merged") - library_image("flux", bases, folder)).max() <= 1


def kohya(folder: Path, target: Path) -> Path:
    """FLUX weights of the double blocks' image projections by the names and with the alphas that
    kohya's scripts write.
    """
    rng, state = torch.Generator().manual_seed(4), {}
    for part, (wide_name, narrow_field) in {
        "img_attn_proj": (32, 32),
        "txt_attn_proj": (32, 32),
        "img_mlp_0": (128, 32),
    }.items():
        name = f"lora_unet_double_blocks_0_{part}"
        state[f"{name}.lora_down.weight"] = 0.3 * torch.randn(4, narrow_field, generator=rng)
        state[f"{name}.lora_up.weight"] = 0.3 * torch.randn(wide_name, 4, generator=rng)
        state[f"{name}.alpha"] = torch.tensor(8.0)
    target.mkdir()
    save_file(state, target / FILE)
    return target


def test_another_tools_names_are_translated_by_the_library(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = kohya(bases["flux"], tmp_path / "kohya")
    register("kohya", folder / FILE, {"config": {"base": str(bases["flux"])}})
    expected = library_image("flux", bases, folder)
    assert np.abs(our_image("kohya") - expected).max() <= 1
    assert np.abs(library_image("flux", bases, None) - expected).max() > 8
    manifest = lora_manifest.read_manifest(home() / "checkpoints/kohya/manifest.json")
    assert manifest.training == {"lora_converted_from_sha256": sha256_file(folder / FILE)}


def test_alphas_in_the_file_are_kept(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = save_lora("flux", bases, tmp_path / "lora", note=False)
    state = load_file(folder / FILE)
    for number, layer in enumerate(sorted({key.rsplit(".lora_", 1)[0] for key in state})):
        state[f"{layer}.alpha"] = torch.tensor(2.0 if number else 12.0)
    save_file(state, folder / FILE)
    register("alphas", folder, {"config": {"base": str(bases["flux"])}})
    assert np.abs(our_image("alphas") - library_image("flux", bases, folder)).max() <= 1


# ------------------------------------------------------------------------------------- with an
# encoding


def encoding_file(
    kind: str,
    bases: dict[str, Path],
    path: Path,
    encoding: str = "harope",
    note: bool = False,
    **options: Any,
) -> Any:
    """Writes the weights of an encoding that is no longer the identity, and returns the network
    that has them.
    """
    network = tiny.train_encoding(
        backbone(kind).attach_encoding(load_pipeline(kind, bases).transformer, encoding, options)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        weights_bytes(network.encoding.state_dict(), {"encoding": encoding} if note else {})
    )
    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beside", [True, False])
def test_the_encodings_weights_travel_with_it(
    bases: dict[str, Path], tmp_path: Path, kind: str, beside: bool
) -> None:
    folder = save_lora(kind, bases, tmp_path / "lora")
    path = folder / "encoding.safetensors" if beside else tmp_path / "mine.safetensors"
    network = encoding_file(kind, bases, path, qk_mode="same")
    fields = {
        "config": {"base": str(bases[kind])},
        "options": {"qk_mode": "same"},
        "encoding": None if beside else "harope",
    }
    register("both", folder, fields, None if beside else path)
    checkpoint_record = load_checkpoint_record("both")
    assert (checkpoint_record.encoding, checkpoint_record.options) == (
        "harope",
        {"qk_mode": "same"},
    )
    network.transformer.load_lora_adapter(load_file(folder / FILE))
    inputs = backbone(kind).trial_inputs(network)
    network_result = open_generator(checkpoint_record, tiny.settings(fold=False)).network
    assert (
        tiny.relative_distance(tiny.outputs(network_result, inputs), tiny.outputs(network, inputs))
        <= 2e-6
    )  # other kernels run on mapped files


def test_the_note_of_an_encodings_file_names_it(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = save_lora("flux", bases, tmp_path / "lora")
    encoding_file("flux", bases, folder / "encoding.safetensors", "string", note=True)
    register("noted", folder, {"config": {"base": str(bases["flux"])}})
    assert load_checkpoint_record("noted").encoding == "string"


# ------------------------------------------------------------------------------------- refusals


def check_refusal(
    name: str,
    weights: Path,
    fields: dict[str, Any],
    kind: type[BenchError],
    words: str,
    encoding: Path | None = None,
) -> None:
    """Holds that registering fails with one line of these words and leaves nothing at home."""
    with pytest.raises(kind, match=words) as excinfo:
        register(name, weights, fields, encoding)
    assert len(str(excinfo.value).splitlines()) == 1
    assert not (home() / "checkpoints" / name).exists()
    assert name not in registry.list_entries("checkpoints")


def test_what_is_missing_is_asked_for(bases: dict[str, Path], tmp_path: Path) -> None:
    folder, fields = (
        save_lora("flux", bases, tmp_path / "lora"),
        {"config": {"base": str(bases["flux"])}},
    )
    advice = "is a LoRA without its base model; add --config base=FOLDER"
    check_refusal("a", folder, {}, OptionError, advice)
    check_refusal("a", folder, {"config": {"base": "/no/such/base"}}, WeightsError, "is no folder")
    check_refusal(
        "a", folder, {**fields, "backbone": "sd3"}, OptionError, "is a pipeline of flux, not sd3"
    )
    check_refusal(
        "a",
        folder,
        {**fields, "encoding": "harope"},
        OptionError,
        "has weights, .* has none of them; add --encoding-weights FILE",
    )
    odd_path = tmp_path / "odd.safetensors"
    save_file({"surprise": torch.zeros(2)}, odd_path)
    check_refusal(
        "a", folder, fields, OptionError, "do not reveal the encoding; add --encoding", odd_path
    )
    check_refusal(
        "a", folder, {**fields, "encoding": "harope"}, WeightsError, "missing A_u", odd_path
    )
    message = "--encoding-weights is for a LoRA without manifest"
    check_refusal("a", bases["flux"], fields, OptionError, message, odd_path)
    encoding_file("flux", bases, tmp_path / "e.safetensors", note=True)
    check_refusal(
        "a",
        folder,
        {**fields, "encoding": "string"},
        WeightsError,
        "unexpected A_u",
        tmp_path / "e.safetensors",
    )
    (tmp_path / "empty").mkdir()
    check_refusal(
        "a", tmp_path / "empty", fields, WeightsError, "wanted a manifest.json, .* found no LoRA"
    )
    for name in ("one", "two"):
        shutil.copy(folder / FILE, tmp_path / "empty" / f"{name}.safetensors")
    check_refusal(
        "a",
        tmp_path / "empty",
        fields,
        WeightsError,
        "one.safetensors, two.safetensors; give one file",
    )


def without_a_layer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key: value
        for key, value in state.items()
        if not key.endswith("transformer_blocks.0.attn.to_q.lora_A.weight")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {k: v[:, :3] if k.endswith("A.weight") else v for k, v in s.items()},
            "mis-shaped transformer.",
        ),
        (
            lambda s: {k: v[:2] if k.endswith("B.weight") else v for k, v in s.items()},
            "mis-shaped transformer.",
        ),
        (without_a_layer, "does not fit"),
        (lambda s: {k.replace("to_q", "to_x"): v for k, v in s.items()}, "unexpected transformer"),
        (lambda s: {k.replace("attn", "nowhere"): v for k, v in s.items()}, "none is a layer here"),
        (
            lambda s: {**s, "text_encoder.x.lora_A.weight": torch.zeros(1, 1)},
            "wanted LoRA of the transformer",
        ),
        (
            lambda s: {**s, "transformer.norm_out.linear.weight": torch.zeros(1)},
            "wanted LoRA of the transformer",
        ),
        (
            lambda s: {**s, "transformer.x.lora_magnitude_vector": torch.zeros(1)},
            "DoRA is not attached",
        ),
        (
            lambda s: {
                f"base_model.model.{k.removeprefix('transformer.')}": v for k, v in s.items()
            },
            "whose scale is in adapter_config",
        ),
        (
            lambda s: {**s, "transformer.x.lokr_w1": torch.zeros(1)},
            "has transformer.x.lokr_w1: LoKr .LyCORIS. is not attached",
        ),
        (
            lambda s: {**s, "transformer.x.hada_w1_a": torch.zeros(1)},
            "LoHa .LyCORIS. is not attached",
        ),
        (lambda s: {**s, "transformer.x.oft_R.weight": torch.zeros(1)}, "OFT is not attached"),
        (
            lambda s: {**s, "lora_te1_x.lora_down.weight": torch.zeros(1, 1)},
            "lora_te1_x.lora_down.weight of a text encoder",
        ),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_that_does_not_fit_is_refused(
    bases: dict[str, Path], tmp_path: Path, kind: str, change: Any, message: str
) -> None:
    folder = save_lora(kind, bases, tmp_path / "lora", note=False)
    save_file(
        {key: value.contiguous() for key, value in change(load_file(folder / FILE)).items()},
        folder / FILE,
    )
    check_refusal("odd", folder, {"config": {"base": str(bases[kind])}}, BenchError, message)


def as_unprefixed(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The file that diffusers' save_lora_adapter writes: layers by their bare names."""
    save_file(
        {key.removeprefix("transformer."): value for key, value in weights.items()}, folder / FILE
    )


def as_peft(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The folder that peft's save_pretrained writes: the scale is in adapter_config.json."""
    (folder / FILE).unlink()
    save_file(
        {f"base_model.model.{key.removeprefix('transformer.')}": v for key, v in weights.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["to_q"]})
    )


def as_onetrainer(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The file that OneTrainer writes: layers with underscores, factors called down and up, an
    alpha each.
    """
    state = {}
    for key, value in weights.items():
        layer, factor = key.removeprefix("transformer.").rsplit(".lora_", 1)
        name = f"lora_transformer_{layer.replace('.', '_')}"
        state[f"{name}.lora_{'down' if factor.startswith('A') else 'up'}.weight"] = value
        state[f"{name}.alpha"] = torch.tensor(12.0)
    save_file(state, folder / FILE)


def as_kohya_of_diffusers(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Layers by their dotted names, factors called down and up."""
    names = {"lora_A": "lora_down", "lora_B": "lora_up"}
    state = {
        re.sub("lora_[AB]", lambda m: names[m[0]], key): value for key, value in weights.items()
    }
    state |= {key.rsplit(".lora_", 1)[0] + ".alpha": torch.tensor(12.0) for key in weights}
    save_file(state, folder / FILE)


@pytest.mark.parametrize(
    ("form", "alpha"),
    [(as_unprefixed, 4), (as_peft, 12), (as_onetrainer, 12), (as_kohya_of_diffusers, 12)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_in_another_tools_form_is_the_same_adapter(
    bases: dict[str, Path], tmp_path: Path, kind: str, form: Callable[..., None], alpha: int
) -> None:
    folder = save_lora(kind, bases, tmp_path / "lora", note=False)
    weights = load_file(folder / FILE)
    form(folder, weights)
    register("mine", folder, {"config": {"base": str(bases[kind])}})
    manifest = lora_manifest.read_manifest(home() / "checkpoints/mine/manifest.json")
    assert manifest.lora is not None
    read = load_file(home() / "checkpoints/mine" / manifest.lora.file)
    assert read.keys() == weights.keys()
    for layer in {
        key.rsplit(".lora_", 1)[0] for key in weights
    }:  # the product and its scale are what is attached
        name = layer.removeprefix("transformer.")
        scale = manifest.lora.layer_alphas.get(
            name, manifest.lora.alpha
        ) / manifest.lora.layer_ranks.get(name, manifest.lora.rank)
        delta, expected = (
            s[f"{layer}.lora_B.weight"] @ s[f"{layer}.lora_A.weight"] for s in (read, weights)
        )
        torch.testing.assert_close(scale * delta, alpha / 4 * expected)


@pytest.mark.parametrize(
    "config",
    ["{}", "[]", '{"r": 4, "lora_alpha": -1}', '{"r": 4, "lora_alpha": 8, "use_dora": true}'],
)
def test_a_peft_configuration_that_tells_no_scale_is_refused(
    bases: dict[str, Path], tmp_path: Path, config: str
) -> None:
    folder = save_lora("flux", bases, tmp_path / "lora", note=False)
    as_peft(folder, load_file(folder / FILE))
    (folder / "adapter_config.json").write_text(config)
    check_refusal(
        "odd",
        folder,
        {"config": {"base": str(bases["flux"])}},
        WeightsError,
        "adapter_config.json .*(not peft|above 0|use_dora)",
    )


def quantise_base(base: Path) -> None:
    path = base / "transformer/config.json"
    path.write_text(
        json.dumps(
            {
                **json.loads(path.read_text()),
                "quantization_config": {"quant_method": "bitsandbytes"},
            }
        )
    )


def variant(part: str) -> Callable[[Path], None]:
    def rename(base: Path) -> None:
        file = next((base / part).glob("*.safetensors"))
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))

    return rename


def pickle_encoder(base: Path) -> None:
    file = next((base / "text_encoder").glob("*.safetensors"))
    file.rename(file.with_name("pytorch_model.bin"))


def without_weights(base: Path) -> None:
    next((base / "vae").glob("*.safetensors")).unlink()


def without_a_shard(base: Path) -> None:
    fields = {"x": "diffusion_pytorch_model-00001-of-00001.safetensors"}
    (base / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": fields})
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (quantise_base, "transformer is quantised .'bitsandbytes'."),
        (variant("transformer"), "transformer has only the variant 'fp16'"),
        (variant("text_encoder"), "text_encoder has only the variant 'fp16'"),
        (pickle_encoder, "text_encoder has only .bin files"),
        (without_weights, "vae has no diffusion_pytorch_model.safetensors"),
        (without_a_shard, "which is missing"),
    ],
)
@pytest.mark.parametrize("adapter", [True, False])
def test_a_base_that_would_not_load_is_refused_when_registered(
    bases: dict[str, Path],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    message: str,
    adapter: bool,
) -> None:
    base = Path(shutil.copytree(bases["flux"], tmp_path / "base"))
    spoil(base)
    weights = save_lora("flux", bases, tmp_path / "lora") if adapter else base
    check_refusal(
        "broken", weights, {"config": {"base": str(base)}} if adapter else {}, WeightsError, message
    )


@pytest.mark.parametrize("field", [{"use_dora": True}, {"use_rslora": True}])
def test_what_a_note_says_and_nothing_here_does_is_refused(
    bases: dict[str, Path], tmp_path: Path, field: dict[str, Any]
) -> None:
    folder = save_lora("flux", bases, tmp_path / "lora", note=False)
    note = json.dumps({f"transformer.{key}": value for key, value in field.items()})
    save_file(
        load_file(folder / FILE),
        folder / FILE,
        metadata={lora_files.LORA_METADATA_KEY: note, "format": "pt"},
    )
    check_refusal(
        "odd",
        folder,
        {"config": {"base": str(bases["flux"])}},
        WeightsError,
        f"uses {next(iter(field))} = True",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_was_altered_or_a_base_of_other_sizes_is_refused_when_opened(
    bases: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    folder = save_lora(kind, bases, tmp_path / "lora")
    base = Path(shutil.copytree(bases[kind], tmp_path / "base"))
    register("kept", folder, {"config": {"base": str(base)}})
    shutil.rmtree(folder)  # the copy at home is enough
    our_image("kept")
    shutil.rmtree(base)
    tiny.save_pipeline(base, kind, num_layers=3)
    with pytest.raises(WeightsError, match="num_layers"):
        our_image("kept")
    copy = home() / "checkpoints/kept/lora.safetensors"
    shutil.rmtree(base)
    shutil.copytree(bases[kind], base)
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="has sha256"):
        our_image("kept")


def test_a_folder_of_something_else_at_home_is_left_alone(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_lora("flux", bases, tmp_path / "lora")
    (home() / "checkpoints/taken").mkdir(parents=True)
    (home() / "checkpoints/taken/mine.txt").write_text("mine")
    with pytest.raises(NameClashError, match="contains files of something else"):
        register("taken", folder, {"config": {"base": str(bases["flux"])}})
    assert (home() / "checkpoints/taken/mine.txt").read_text() == "mine"


def test_a_lora_registered_again_is_up_to_date_and_a_killed_registration_is_no_obstacle(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder, fields = (
        save_lora("flux", bases, tmp_path / "lora"),
        {"config": {"base": str(bases["flux"])}},
    )
    path_result = home() / "checkpoints"
    toml = register("twice", folder, fields)
    files = {path.name: path.stat().st_mtime_ns for path in (path_result / "twice").iterdir()}
    assert not register_checkpoint("twice", folder, fields).is_changed
    assert {
        path.name: path.stat().st_mtime_ns for path in (path_result / "twice").iterdir()
    } == files

    (path_result / ".twice.registering").mkdir()  # killed while the folder was built
    (path_result / ".twice.registering/lora.safetensors").write_bytes(b"half")
    toml.unlink()  # killed between the folder and its TOML
    assert register_checkpoint("twice", folder, fields).is_changed and toml.is_file()

    (path_result / "twice/lora.safetensors").write_bytes(b"damaged")
    register("twice", folder, fields)
    our_image("twice")
    assert sorted(path.name for path in path_result.iterdir() if "lock" not in path.name) == [
        "twice",
        "twice.toml",
    ]


def test_another_lora_takes_a_name_only_when_told(bases: dict[str, Path], tmp_path: Path) -> None:
    fields = {"config": {"base": str(bases["flux"])}}
    register("name", save_lora("flux", bases, tmp_path / "one"), fields)
    before = (home() / "checkpoints/name.toml").read_bytes()
    with pytest.raises(NameClashError, match="registered already.*drawing"):
        register("name", tmp_path / "one", {**fields, "drawing": {"vae_tiling": False}})
    assert (home() / "checkpoints/name.toml").read_bytes() == before
    register("name", tmp_path / "one", {**fields, "drawing": {"vae_tiling": False}}, replace=True)
    our_image("name")


# ------------------------------------------------------------------------------------- the command
# line


@pytest.mark.parametrize("kind", KINDS)
def test_register_and_generate(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tiny.register_prompts(monkeypatch)
    folder = save_lora(kind, bases, tmp_path / "lora")
    encoding_file(kind, bases, tmp_path / "e.safetensors")
    monkeypatch.chdir(bases[kind].parent)  # a base beside the user is kept in full
    words = (
        "register",
        "my-lora",
        "--weights",
        folder,
        "--backbone",
        kind,
        "--config",
        "base=base",
    )
    for text in (
        ("--encoding-weights", tmp_path / "e.safetensors"),
        ("--drawing", "vae_tiling=false"),
    ):
        words = (*words, *text)
    command_result = CliRunner().invoke(main, list(map(str, words)))
    assert command_result.exit_code == 0, command_result.output
    checkpoint_record = load_checkpoint_record("my-lora")
    assert checkpoint_record.config["base"] == str(bases[kind])
    assert checkpoint_record.drawing == {
        **backbone(kind).default_fields["drawing"],
        "vae_tiling": False,
    }
    monkeypatch.chdir(tmp_path)
    generated_texts = (
        "generate",
        "my-lora",
        "--suite",
        "four-prompts",
        "--count",
        "1",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "run"),
    )
    assert CliRunner().invoke(main, generated_texts).exit_code == 0
    assert json.loads((tmp_path / "run/plan.json").read_text())["settings"]["fold"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_whole_network_keep_the_backbones_drawing(
    bases: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    network = backbone(kind).attach_encoding(load_pipeline(kind, bases).transformer, "harope", {})
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(network.state_dict(), {}))
    register(
        "whole",
        tmp_path / "w.safetensors",
        {"config": {"base": str(bases[kind])}, "drawing": {"dtype": "bfloat16"}},
    )
    assert load_checkpoint_record("whole").drawing == {
        **backbone(kind).default_fields["drawing"],
        "dtype": "bfloat16",
    }
