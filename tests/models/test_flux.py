"""FLUX: positions at the right place, adapter folders, drawing; against the untouched pipeline and
a slow reference.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner

from harope_bench.core import registry
from harope_bench.core.errors import MissingExtraError, OptionError, WeightsError
from harope_bench.core.schema import Request
from harope_bench.core.storage import sha256_file
from harope_bench.models import lora_manifest
from harope_bench.testing import check_backbone

tiny.needs_t2i()

from harope_bench.cli import main  # noqa: E402
from harope_bench.models.backbones import encoded_transformer, flux, lora  # noqa: E402
from harope_bench.models.load_checkpoint import load_checkpoint_record  # noqa: E402
from harope_bench.models.register_checkpoint import register  # noqa: E402

BACKBONE = flux.PLUGIN
REDS = [
    Request(index=0, prompt="a photo of a red cat"),
    Request(index=1, prompt="a blue dog on the cat"),
]
AT_START = {
    "rope-axial": {},
    "harope": {},
    "rope-matrix": {"matrix": "orthogonal"},
    "string": {},
    "rope-svd-control": {"placement": "value-output"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny FluxPipeline."""
    return tiny.save_pipeline(tmp_path_factory.mktemp("flux") / "base", "flux")


@pytest.fixture
def pipe(base: Path) -> Any:
    return BACKBONE.load_pipeline(base, tiny.settings())


def attach_encoding(
    base: Path, encoding: str = "harope", tokens: str = "all", **options: Any
) -> encoded_transformer.EncodedTransformer:
    """The base's transformer with that encoding."""
    return BACKBONE.attach_encoding(
        BACKBONE.load_pipeline(base, tiny.settings()).transformer, encoding, options, tokens
    )


# ------------------------------------------------------------------------------------- the right
# place


@pytest.mark.parametrize(("encoding", "options"), AT_START.items())
def test_at_its_start_it_is_the_untouched_transformer(
    base: Path, pipe: Any, encoding: str, options: dict[str, Any]
) -> None:
    network = attach_encoding(base, encoding, **options)
    inputs = BACKBONE.trial_inputs(network)
    assert (
        tiny.relative_distance(
            tiny.outputs(network, inputs), tiny.outputs(pipe.transformer, inputs)
        )
        <= 1e-6
    )


def test_rope_axial_draws_what_the_untouched_pipeline_draws(base: Path, pipe: Any) -> None:
    drawer = plain_drawer(base)
    generated_samples = drawer.generate(REDS, tiny.settings())
    for request, image in zip(REDS, generated_samples.images, strict=True):
        latents = drawer.initial_noise(request.index, tiny.settings())
        expected = pipe(
            request.prompt,
            height=64,
            width=64,
            num_inference_steps=2,
            guidance_scale=3.5,
            latents=latents,
            output_type="np",
        ).images[0]
        assert np.abs(image.astype(int) - (255 * expected).round().astype(int)).max() <= 1
    assert generated_samples.failures == {}


class SlowProcessor:
    """Norm, matrix, rotation and softmax written out, with the library's own rotation."""

    def __init__(self, network: encoded_transformer.EncodedTransformer, layer: int, text: int):
        self.pair, self.text, self.tokens = (
            network.encoding.matrices(layer),
            text,
            network.encoded_tokens,
        )

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        streams = [(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)]
        if encoder_hidden_states is not None:
            text = (
                encoder_hidden_states,
                attn.add_q_proj,
                attn.add_k_proj,
                attn.add_v_proj,
                attn.norm_added_q,
                attn.norm_added_k,
            )
            streams.insert(0, text)
        parts = []
        for x, to_q, to_k, to_v, norm_q, norm_k in streams:
            split = [to(x).unflatten(-1, (attn.heads, -1)) for to in (to_q, to_k, to_v)]
            parts.append((norm_q(split[0]), norm_k(split[1]), split[2]))
        q, k, v = (torch.cat(pair, 1) for pair in zip(*parts, strict=True))  # (B, N, heads, d)
        if self.pair is not None:
            start = 0 if self.tokens == "all" else self.text
            q, k = (
                torch.cat(
                    (
                        x[:, :start],
                        torch.einsum("hij,bnhj->bnhi", m.expand(attn.heads, -1, -1), x[:, start:]),
                    ),
                    1,
                )
                for x, m in ((q, self.pair.q), (k, self.pair.k))
            )
        q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        share = torch.einsum("bnhd,bmhd->bhnm", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        result = torch.einsum("bhnm,bmhd->bnhd", share, v).flatten(2)
        if encoder_hidden_states is None:
            return result
        return attn.to_out[0](result[:, self.text :]), attn.to_add_out(result[:, : self.text])


@pytest.mark.parametrize("tokens", ["all", "image"])
@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("harope", {"qk_mode": "dual"}),
        ("harope", {"qk_mode": "same"}),
        ("rope-matrix", {"matrix": "normal", "per_head": False}),
        ("string", {}),
    ],
)
def test_the_matrix_stands_between_norm_and_rotation(
    base: Path, pipe: Any, encoding: str, options: dict[str, Any], tokens: str
) -> None:
    network = tiny.train_encoding(attach_encoding(base, encoding, tokens, **options))
    inputs = BACKBONE.trial_inputs(network)
    slow_processors = {
        name: SlowProcessor(network, layer, 8)
        for layer, name in enumerate(pipe.transformer.attn_processors)
    }
    before = tiny.outputs(pipe.transformer, inputs)
    pipe.transformer.set_attn_processor(slow_processors)
    expected = tiny.outputs(pipe.transformer, inputs)
    assert tiny.relative_distance(tiny.outputs(network, inputs), expected) <= 1e-5
    assert tiny.relative_distance(before, expected) > 1e-2  # and it does something


@pytest.mark.parametrize("tokens", ["all", "image"])
def test_the_layers_of_a_forward_share_their_angles(
    base: Path, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    network, records = attach_encoding(base, "harope", tokens), []
    original = flux.encodings._compute_axial_angles
    monkeypatch.setattr(
        flux.encodings,
        "_compute_axial_angles",
        lambda *inputs_value: records.append(inputs_value[0]) or original(*inputs_value),
    )
    inputs = BACKBONE.trial_inputs(network)
    for forwards in (1, 2):
        tiny.outputs(network, inputs)
        assert len(records) == forwards


def test_the_control_acts_after_the_rotation(base: Path) -> None:
    network, records = (
        tiny.train_encoding(attach_encoding(base, "rope-svd-control", qk_mode="same")),
        {},
    )
    inputs = BACKBONE.trial_inputs(network)
    network.attention_callback = lambda layer, q, k: records.__setitem__(layer, (q, k))
    tiny.outputs(network, inputs)
    plain_attach_encoding, turned_records = attach_encoding(base, "rope-axial"), {}
    plain_attach_encoding.attention_callback = lambda layer, q, k: turned_records.__setitem__(
        layer, (q, k)
    )
    tiny.outputs(plain_attach_encoding, inputs)
    pair = network.encoding.control_matrices(0)  # type: ignore[operator]
    torch.testing.assert_close(
        records[0][0], turned_records[0][0] @ pair.q.detach().mT, rtol=1e-4, atol=1e-5
    )  # the first layer's inputs are the same
    assert sorted(records) == [0, 1]
    assert records[1][0].shape == (1, 2, 24, 16)


@pytest.mark.parametrize("tokens", ["all", "image"])
@pytest.mark.parametrize("encoding", ["harope", "string"])
def test_folded_into_the_norm_it_says_the_same(base: Path, encoding: str, tokens: str) -> None:
    network = tiny.train_encoding(attach_encoding(base, encoding, tokens))
    inputs = BACKBONE.trial_inputs(network)
    expected = tiny.outputs(network, inputs)
    BACKBONE.fold_matrices(network)
    assert network.is_matrix_applied
    assert tiny.relative_distance(tiny.outputs(network, inputs), expected) <= 1e-5
    encoded_transformer.unfold_from_norms(network)
    assert torch.equal(tiny.outputs(network, inputs), expected)


def test_a_fold_that_moves_the_output_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny.train_encoding(attach_encoding(base))
    monkeypatch.setattr(
        encoded_transformer, "scale_by_norm_weights", lambda matrix, norm, like: matrix.detach()
    )  # forgets the norm's weights
    with pytest.raises(WeightsError, match="harope in layer 0, head 0, differs after folding"):
        BACKBONE.fold_matrices(network)


def test_in_low_precision_a_fold_wrong_in_one_head_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = encoded_transformer.scale_by_norm_weights

    def fold_wrongly(matrix: torch.Tensor, norm: Any, like: torch.Tensor) -> torch.Tensor:
        right_result = right(matrix, norm, like).clone()
        right_result[-1] *= 1.05
        return right_result

    network = tiny.train_encoding(attach_encoding(base))
    network.transformer.to(torch.bfloat16)
    BACKBONE.fold_matrices(network)
    encoded_transformer.unfold_from_norms(network)
    monkeypatch.setattr(encoded_transformer, "scale_by_norm_weights", fold_wrongly)
    with pytest.raises(WeightsError, match="harope in layer 0, head 1, differs after folding"):
        BACKBONE.fold_matrices(network)


@pytest.mark.parametrize(
    "encoding", ["ape", "rope-vanilla", "rope-mixed", "videorope", "head-freq"]
)
def test_an_encoding_without_axes_is_refused(base: Path, encoding: str) -> None:
    with pytest.raises(OptionError) as excinfo:
        attach_encoding(base, encoding)
    assert len(str(excinfo.value).splitlines()) == 1


def test_flux_at_full_size_has_the_papers_parameters() -> None:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        network = BACKBONE.attach_encoding(
            FluxTransformer2DModel(guidance_embeds=True), "harope", {}
        )
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(network.transformer) == 11_901_408_320
    assert count(network.encoding) == 45_001_728 == 57 * 789_504
    assert network.encoding.shape.axes_dims == (16, 56, 56)
    assert (
        BACKBONE.attach_encoding(network.transformer, "rope-svd-control", {})
        .encoding.state_dict()
        .keys()
        != network.encoding.state_dict().keys()
    )


# ------------------------------------------------------------------------------------- adapter
# folders


def write_adapter(
    base: Path, folder: Path, encoding: str = "harope", tokens: str = "all"
) -> tuple[encoded_transformer.EncodedTransformer, Path]:
    """A network with LoRA and encoding as after a training, and its adapter folder's manifest."""
    network = tiny.train_encoding(attach_encoding(base, encoding, tokens))
    lora.add_lora(network, BACKBONE.targets)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.transformer.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))
    return network, BACKBONE.save_adapter(
        folder, network, str(base), {"dataset": "none", "steps": 4000}
    )


def load_pipeline(base: Path, manifest: Path, tokens: str = "all", **fields: Any) -> Any:
    read = lora_manifest.read_manifest(manifest)
    config = {"base": str(base), "encoded_tokens": tokens, **fields}
    checkpoint = tiny.checkpoint("flux", read.encoding, options=read.options, config=config)
    return BACKBONE.open_folder(checkpoint, manifest, tiny.settings())


def test_an_adapter_folder_comes_back_as_it_was_saved(base: Path, tmp_path: Path) -> None:
    network, manifest = write_adapter(base, tmp_path / "a")
    inputs = BACKBONE.trial_inputs(network)
    again = load_pipeline(base, manifest).network
    assert (
        tiny.relative_distance(tiny.outputs(again, inputs), tiny.outputs(network, inputs)) <= 2e-6
    )  # other kernels run on mapped files
    document = json.loads(manifest.read_text())
    assert document["encoding"] == "harope"
    ends = {
        "targets": sorted(BACKBONE.targets),
        "has_full_names": False,
        "layer_ranks": {},
        "layer_alphas": {},
    }
    assert document["lora"] == {"file": "lora.safetensors", "rank": 32, "alpha": 32, **ends}
    assert document["files"] == {
        name: sha256_file(tmp_path / "a" / name)
        for name in ("lora.safetensors", "encoding.safetensors")
    }
    assert document["training"] == {"dataset": "none", "steps": 4000}
    assert str(tmp_path) not in manifest.read_text()


def test_lora_goes_on_and_off_and_merges(base: Path, tmp_path: Path) -> None:
    network, _ = write_adapter(base, tmp_path / "a")
    inputs = BACKBONE.trial_inputs(network)
    without = tiny.outputs(tiny.train_encoding(attach_encoding(base)), inputs)
    on = tiny.outputs(network, inputs)
    lora.set_lora_enabled(network, False)
    assert tiny.relative_distance(tiny.outputs(network, inputs), without) <= 1e-6
    assert tiny.relative_distance(on, without) > 1e-2
    lora.set_lora_enabled(network, True)
    assert torch.equal(tiny.outputs(network, inputs), on)
    lora.merge_lora(network)
    assert not lora.has_lora(network)
    assert tiny.relative_distance(tiny.outputs(network, inputs), on) <= 1e-5
    assert not any("lora" in name for name, _ in network.named_parameters())


def test_fresh_lora_changes_nothing_and_names_no_layer_twice(base: Path, pipe: Any) -> None:
    network = attach_encoding(base, "rope-axial")
    inputs = BACKBONE.trial_inputs(network)
    lora.add_lora(network, BACKBONE.targets)
    assert (
        tiny.relative_distance(
            tiny.outputs(network, inputs), tiny.outputs(pipe.transformer, inputs)
        )
        <= 1e-6
    )
    with pytest.raises(OptionError, match="merge it first"):
        lora.add_lora(network, BACKBONE.targets)
    with pytest.raises(OptionError, match="name linear layers"):
        lora.add_lora(attach_encoding(base), ["no_such_layer"])


def test_the_lora_file_is_the_librarys(base: Path, pipe: Any, tmp_path: Path) -> None:
    network = attach_encoding(base, "rope-axial")
    lora.add_lora(network, BACKBONE.targets, rank=4, alpha=8)
    for name, parameter in network.transformer.named_parameters():
        if "lora_" in name:
            parameter.data.fill_(0.03)
    BACKBONE.save_adapter(tmp_path, network, str(base))
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors", local_files_only=True)
    inputs = BACKBONE.trial_inputs(network)
    assert (
        tiny.relative_distance(
            tiny.outputs(pipe.transformer, inputs), tiny.outputs(network, inputs)
        )
        <= 1e-6
    )


def spoil(manifest: Path, **fields: Any) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **fields}))


@pytest.mark.no_numbers
def test_a_folder_that_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    network, manifest = write_adapter(base, tmp_path / "a")
    good_text = manifest.read_text()
    other_sizes = tiny.save_pipeline(tmp_path / "wide", "flux", num_single_layers=2)
    other_weights = tiny.save_pipeline(tmp_path / "other", "flux", seed=1)
    with pytest.raises(
        WeightsError, match=r"the adapter was trained on base with num_single_layers = 1, .* has 2"
    ):
        load_pipeline(other_sizes, manifest)
    with pytest.raises(WeightsError, match="same sizes but other weights"):
        load_pipeline(other_weights, manifest)
    for fields, message in [
        ({"encoding_file": None}, "lists no weights of its encoding harope"),
        ({"encoding": "string", "options": {}}, "unexpected A_u"),
        (
            {"files": {"lora.safetensors": json.loads(good_text)["files"]["lora.safetensors"]}},
            "without its sha256",
        ),
        ({"encoding_file": "../encoding.safetensors"}, "not a plain name"),
        ({"files": {"../x": "0" * 64}}, "not a plain name"),
        ({"lora": {**json.loads(good_text)["lora"], "rank": 8}}, "mis-shaped"),
        (
            {"lora": {**json.loads(good_text)["lora"], "targets": ["attn.to_q"]}},
            "unexpected transformer.",
        ),
        ({"surprise": 1}, "surprise"),
        ({"encoded_tokens": "image"}, "is of flux harope image .* register it again"),
    ]:
        spoil(manifest, **fields)
        with pytest.raises(WeightsError, match=message):
            load_pipeline(base, manifest)
        manifest.write_text(good_text)
    (tmp_path / "a" / "encoding.safetensors").write_bytes(
        b"x" + (tmp_path / "a" / "encoding.safetensors").read_bytes()[1:]
    )
    with pytest.raises(WeightsError, match="has sha256"):
        load_pipeline(base, manifest)
    assert network.encoded_tokens == "all"


@pytest.mark.no_numbers
def test_doctor_looks_into_the_folder_and_for_the_base(base: Path, tmp_path: Path) -> None:
    from harope_bench.pipeline.doctor import _checkpoint_findings

    _, manifest = write_adapter(base, tmp_path / "a")
    (tmp_path / "base").symlink_to(base)
    register("looked-at", manifest, {"config": {"base": str(tmp_path / "base")}})

    def state():
        return next((f.status, f.detail) for f in _checkpoint_findings() if f.name == "looked-at")

    assert state() == ("ok", "paper, flux, harope")
    (tmp_path / "base").unlink()
    assert state()[0] == "broken"
    assert "is no folder" in state()[1]
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "a" / "lora.safetensors").unlink()
    assert "lora.safetensors is missing" in state()[1]


def test_a_base_that_names_foreign_code_is_refused(base: Path, tmp_path: Path) -> None:
    index = json.loads((base / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": ["my_code", "Vae"]}))
    with pytest.raises(WeightsError, match="my_code, which could run code"):
        BACKBONE.load_pipeline(tmp_path, tiny.settings())
    (tmp_path / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "StableDiffusion3Pipeline"})
    )
    with pytest.raises(
        WeightsError, match="contains a StableDiffusion3Pipeline, flux needs a FluxPipeline"
    ):
        BACKBONE.load_pipeline(tmp_path, tiny.settings())
    with pytest.raises(WeightsError, match="not in the local hub cache"):
        lora_manifest.find_base_folder("nobody/no-such-model")


def test_without_the_extra_its_install_is_named(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harope-bench\[t2i\]'"):
        BACKBONE.load_pipeline(base, tiny.settings())


# ------------------------------------------------------------------------------------- drawing


def test_flux_keeps_the_contract(base: Path) -> None:
    check_backbone("flux", {"base": str(base), "text_tokens": 16}, encoding="harope", resolution=32)


def cli_run(*words: str | Path) -> str:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == 0, command_result.output
    return command_result.output


@pytest.mark.no_numbers
def test_register_and_generate_through_the_command_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.register_prompts(monkeypatch)
    write_adapter(base, tmp_path / "adapter")
    cli_run("register", "my-flux", "--weights", tmp_path / "adapter", "--config", f"base={base}")
    checkpoint_record = load_checkpoint_record("my-flux")
    assert (
        checkpoint_record.backbone,
        checkpoint_record.encoding,
        checkpoint_record.steps,
        checkpoint_record.guidance,
    ) == (
        "flux",
        "harope",
        28,
        3.5,
    )
    assert checkpoint_record.sha256 == sha256_file(tmp_path / "adapter/manifest.json")
    for side in (64, 128, 512):
        out = tmp_path / f"r{side}"
        words = (
            "generate",
            "my-flux",
            "--suite",
            "four-prompts",
            "--resolution",
            side,
            "--count",
            2,
            "--steps",
            2,
            "--out",
            out,
        )
        cli_run_result = cli_run(*map(str, words))
        assert "2 requested, 2 generated, 0 failed" in cli_run_result
        assert "2 requested, 0 generated" in cli_run(*map(str, words))
        plan = json.loads((out / "plan.json").read_text())
        assert plan["settings"]["mu_policy"] == "extrapolate"
        assert plan["settings"]["vae_tiling"] is True
    assert cli_run("verify", tmp_path / "r64", "--redraw", "1")


def test_whether_it_folds_is_a_setting_of_the_plan(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.pipeline.generate import make_plan

    tiny.register_prompts(monkeypatch)
    _, manifest = write_adapter(base, tmp_path / "a")
    register("folds", manifest, {"config": {"base": str(base)}})
    for message, expected in ((None, True), (True, True), (False, False)):
        plan = make_plan("folds", "four-prompts", {"fold": message, "steps": 1})
        assert plan.settings.fold is expected
        assert (
            BACKBONE.open_folder(plan.checkpoint, manifest, plan.settings).network.is_matrix_applied
            is expected
        )
    register("plain", base, {})
    assert make_plan("plain", "four-prompts", {}).settings.fold is None


def test_a_whole_networks_weights_are_registered(base: Path, tmp_path: Path) -> None:
    from harope_bench.core.state_dicts import weights_bytes

    path = tmp_path / "whole.safetensors"
    path.write_bytes(weights_bytes(tiny.train_encoding(attach_encoding(base)).state_dict(), {}))
    register("whole", path, {"config": {"base": str(base)}})
    checkpoint_record = load_checkpoint_record("whole")
    assert (checkpoint_record.backbone, checkpoint_record.encoding, checkpoint_record.config) == (
        "flux",
        "harope",
        {"base": str(base)},
    )


def test_the_matrices_of_an_adapter_folder_are_drawn(base: Path, tmp_path: Path) -> None:
    from harope_bench.analysis import learned_matrices

    network, manifest = write_adapter(base, tmp_path / "a")
    register("looked-into", manifest, {"config": {"base": str(base)}})
    matrices = learned_matrices.measure_matrices(
        load_checkpoint_record("looked-into"), "m", ((1.0, 0.0), (0.0, 1.0)), None
    )
    assert [(matrix.layer, matrix.head) for matrix in matrices.matrices] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    pair = network.encoding.matrices(1)
    assert pair is not None
    assert np.allclose(matrices.matrices[2].values, pair.q[0].detach(), atol=1e-5)


def test_a_base_without_adapter_is_registered_as_it_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.register_prompts(monkeypatch)
    register("plain-flux", base, {})
    checkpoint_record = load_checkpoint_record("plain-flux")
    assert (checkpoint_record.encoding, checkpoint_record.config["base"]) == (
        "rope-axial",
        str(base),
    )
    cli_run(
        "generate",
        "plain-flux",
        "--suite",
        "four-prompts",
        "--count",
        "1",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "run"),
    )
    with pytest.raises(WeightsError, match="lists no weights of its encoding harope"):
        register("no-weights", base, {"encoding": "harope"})


def test_where_the_base_lies_does_not_change_a_plan(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harope_bench.pipeline.generate import make_plan

    tiny.register_prompts(monkeypatch)
    (tmp_path / "link").symlink_to(base)
    write_adapter(base, tmp_path / "a")
    register("here", tmp_path / "a", {"config": {"base": str(base)}})
    plan = make_plan("here", "four-prompts", {})
    moved_checkpoint = plan.checkpoint.model_copy(
        update={"config": {**plan.checkpoint.config, "base": str(tmp_path / "link")}}
    )
    assert plan.model_copy(update={"checkpoint": moved_checkpoint}).digest == plan.digest
    image = plan.checkpoint.model_copy(
        update={"config": {**plan.checkpoint.config, "encoded_tokens": "image"}}
    )
    assert plan.model_copy(update={"checkpoint": image}).digest != plan.digest


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"resolution": 72}, {}, "tokens of 16 pixels; choose --resolution 64"),
        ({"sampler": "ddpm"}, {}, "own flow scheduler"),
        ({"pos_scaling": "yarn"}, {"encoded_tokens": "image"}, "encoded_tokens=image leaves"),
        ({"pos_scaling": "extend"}, {}, "pos_scaling extend does not apply to rope-axial"),
        ({}, {"base": "/no/such/folder"}, "is no folder"),
        ({}, {"encoded_tokens": "some"}, "flux config encoded_tokens"),
        ({}, {"surprise": 1}, "surprise"),
    ],
)
def test_what_it_cannot_draw_is_refused_before_anything_loads(
    base: Path, settings: Any, config: Any, message: str
) -> None:
    with pytest.raises((OptionError, WeightsError), match=message):
        BACKBONE.check_inputs(
            tiny.checkpoint("flux", config={"base": str(base), **config}), tiny.settings(**settings)
        )


def plain_drawer(base: Path, **settings: Any) -> Any:
    register("drawer", base, {})
    checkpoint_record = load_checkpoint_record("drawer")
    return BACKBONE.open_folder(
        checkpoint_record, Path(checkpoint_record.weights), tiny.settings(**settings)
    )


def test_a_request_without_prompt_is_refused_and_an_infinite_image_is_a_fault(base: Path) -> None:
    drawer = plain_drawer(base)
    with pytest.raises(
        OptionError, match="a text-to-image pipeline needs prompts, request 0 has none"
    ):
        drawer.generate([Request(index=0, label=3)], tiny.settings())
    drawer.network.transformer.proj_out.bias.data.fill_(torch.nan)
    assert drawer.generate(REDS[:1], tiny.settings()).failures == {
        0: "the network's output is not finite"
    }


def test_low_precision_draws_nearly_the_same(base: Path, tmp_path: Path) -> None:
    _, manifest = write_adapter(base, tmp_path / "a")
    register("low", manifest, {"config": {"base": str(base)}})
    checkpoint_record = load_checkpoint_record("low")
    full_images = (
        BACKBONE.open_folder(checkpoint_record, manifest, tiny.settings())
        .generate(REDS[:1], tiny.settings())
        .images.astype(int)
    )
    low = BACKBONE.open_folder(checkpoint_record, manifest, tiny.settings(dtype="bfloat16"))
    assert low.network.transformer.dtype == torch.bfloat16
    assert (
        np.abs(low.generate(REDS[:1], tiny.settings(dtype="bfloat16")).images - full_images).mean()
        < 16
    )


def test_mu_is_extrapolated_as_the_library_does_or_clamped() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(**tiny.SHIFT)
    last_records = {}
    for name, scheduler_result in (
        ("extrapolate", scheduler),
        ("clamp", flux.clamp_time_shift(scheduler)),
    ):
        config = scheduler_result.config
        mu = calculate_shift(
            16384,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        scheduler_result.set_timesteps(sigmas=np.linspace(1.0, 1 / 28, 28), mu=mu)
        last_records[name] = (round(mu, 2), round(float(scheduler_result.sigmas[-2]), 3))
    assert last_records == {"extrapolate": (3.23, 0.484), "clamp": (1.15, 0.105)}


def test_clamping_changes_large_images_alone(base: Path, tmp_path: Path) -> None:
    small_path = Path(shutil.copytree(base, tmp_path / "small"))
    scheduler = small_path / "scheduler/scheduler_config.json"
    scheduler.write_text(
        json.dumps(
            {**json.loads(scheduler.read_text()), "max_image_seq_len": 64, "base_image_seq_len": 16}
        )
    )
    register("drawer", small_path, {})
    checkpoint_record, generated_records = load_checkpoint_record("drawer"), {}
    for side in (64, 256):
        for policy in ("extrapolate", "clamp"):
            settings = tiny.settings(resolution=side, mu_policy=policy)
            drawer = BACKBONE.open_folder(
                checkpoint_record, Path(checkpoint_record.weights), settings
            )
            loaded_network = drawer.pipe.scheduler
            generated_records[side, policy] = drawer.generate(REDS[:1], settings).images
            assert (
                drawer.pipe.scheduler is loaded_network
            )  # drawing leaves the drawer as it was opened
    assert np.array_equal(generated_records[64, "extrapolate"], generated_records[64, "clamp"])
    assert not np.array_equal(
        generated_records[256, "extrapolate"], generated_records[256, "clamp"]
    )
    assert drawer.pipe.scheduler.config.base_shift == 1.15


def test_position_scaling_takes_the_two_image_axes(base: Path) -> None:
    side = 64 * 16 * 2
    drawer = plain_drawer(base, resolution=side, pos_scaling="ntk")
    assert drawer.network.encoding.scaling == flux.encodings.Scaling(
        "ntk", (1, 64, 64), (1, 128, 128)
    )
    network = attach_encoding(base, "harope", "image")
    with pytest.raises(OptionError, match="yarn"):
        BACKBONE.rescale_positions(network, drawer.pipe, tiny.settings(pos_scaling="yarn"))


def test_positions_grow_with_the_resolution(base: Path) -> None:
    drawer = plain_drawer(base)
    for side in (64, 128):
        drawer.generate(REDS[:1], tiny.settings(resolution=side, steps=1))
        positions, image, _ = drawer.network.token_positions
        assert positions[: image.start].abs().sum() == 0
        assert image.start == 512
        assert positions[image].amax(0).tolist() == [0, side // 16 - 1, side // 16 - 1]


def test_noise_is_packed_as_the_pipeline_packs_its_own(base: Path, pipe: Any) -> None:
    drawer = plain_drawer(base)
    package_initial_noise = drawer.initial_noise(7, tiny.settings())
    from harope_bench.models.samplers.noise import index_generator

    library_prepare_latent, _ = pipe.prepare_latents(
        1, 4, 64, 64, torch.float32, torch.device("cpu"), index_generator(0, 7)
    )
    assert torch.equal(package_initial_noise, library_prepare_latent)


def test_flux_is_a_registered_backbone_and_shared_modules_are_none() -> None:
    assert {"flux", "sd3"} <= set(registry.list_names("backbones"))
    folder = registry.PACKAGE / registry.PLUGIN_KINDS["backbones"].folder
    shared_modules = {p.stem for p in folder.glob("*.py") if b"\nPLUGIN" not in p.read_bytes()}
    assert not shared_modules & {
        name.replace("-", "_") for name in registry.list_names("backbones")
    }
