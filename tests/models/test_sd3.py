"""SD3: the library's table untouched, or a rotary encoding in its place; folding; adapter folders;
drawing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner

from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.schema import Request
from harope_bench.models import lora_manifest
from harope_bench.testing import check_backbone

tiny.needs_t2i()

from harope_bench.cli import main  # noqa: E402
from harope_bench.models.backbones import encoded_transformer, folding, lora, sd3  # noqa: E402
from harope_bench.models.load_checkpoint import load_checkpoint_record  # noqa: E402
from harope_bench.models.register_checkpoint import register  # noqa: E402

BACKBONE = sd3.PLUGIN
RED = [Request(index=0, prompt="a photo of a red cat")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny StableDiffusion3Pipeline."""
    return tiny.save_pipeline(tmp_path_factory.mktemp("sd3") / "base", "sd3")


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


def norms(base: Path, **options: Any) -> encoded_transformer.EncodedTransformer:
    """A transformer with q/k norm and a second attention in its first block, as SD3.5 has, with
    HARoPE.
    """
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            **{**tiny.SD3, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
        )
    return tiny.train_encoding(
        BACKBONE.attach_encoding(tiny.add_noise(transformer, 0).eval(), "harope", options)
    )


# ------------------------------------------------------------------------------------- the right
# place


def test_ape_is_the_untouched_library(base: Path, pipe: Any) -> None:
    network = attach_encoding(base, "ape", form="sd3")
    inputs = BACKBONE.trial_inputs(network)
    assert {type(p) for p in network.transformer.attn_processors.values()} == {
        type(p) for p in pipe.transformer.attn_processors.values()
    }
    assert torch.equal(tiny.outputs(network, inputs), tiny.outputs(pipe.transformer, inputs))
    with pytest.raises(OptionError, match="give --option form=sd3"):
        attach_encoding(base, "ape")


def test_our_ape_form_sd3_is_the_librarys_table(base: Path, pipe: Any) -> None:
    from harope_bench.encodings.ape import Ape

    table = pipe.transformer.pos_embed.cropped_pos_embed(6, 10)[0]  # 3 x 5 tokens
    shape = BACKBONE.shape(pipe.transformer.config)
    package_ape = Ape(shape, Ape.Options(form="sd3", table=24, base_grid=8))
    cartesian_prod = torch.cartesian_prod(torch.arange(3.0), torch.arange(5.0))
    torch.testing.assert_close(
        package_ape.embed(torch.zeros(1, 15, 32), cartesian_prod)[0], table, rtol=0, atol=1e-6
    )


class SlowProcessor:
    """Joint attention written out, with the library's own rotation of the image tokens."""

    def __init__(self, network: encoded_transformer.EncodedTransformer, layer: int, side: int):
        self.pair, self.side, self.tokens = (
            network.encoding.matrices(layer),
            side,
            network.encoded_tokens,
        )

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, *_: Any, **__: Any
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed

        image = hidden_states.shape[1]
        split = []
        for own_value, added_add_q_proj in (
            (attn.to_q, attn.add_q_proj),
            (attn.to_k, attn.add_k_proj),
            (attn.to_v, attn.add_v_proj),
        ):
            tensor = torch.cat(
                (own_value(hidden_states), added_add_q_proj(encoder_hidden_states)), 1
            )
            split.append(tensor.unflatten(-1, (attn.heads, -1)))  # (B, N, heads, d)
        q, k, v = split
        d, stop = q.shape[-1], (None if self.tokens == "all" else image)
        if self.pair is not None:
            act = lambda x, m: torch.einsum("hij,bnhj->bnhi", m, x)  # noqa: E731
            q = torch.cat(
                (act(q[:, :stop], self.pair.q), q[:, q.shape[1] if stop is None else stop :]), 1
            )
            k = torch.cat(
                (act(k[:, :stop], self.pair.k), k[:, k.shape[1] if stop is None else stop :]), 1
            )
        rows, columns = (
            torch.arange(self.side).repeat_interleave(self.side),
            torch.arange(self.side).repeat(self.side),
        )
        waves = [
            get_1d_rotary_pos_embed(
                d // 2, where_row.float(), use_real=True, freqs_dtype=torch.float64
            )
            for where_row in (rows, columns)
        ]
        table = tuple(torch.cat([wave[i] for wave in waves], -1) for i in (0, 1))  # (N, d) each
        q, k = (
            torch.cat((apply_rotary_emb(x[:, :image], table, sequence_dim=1), x[:, image:]), 1)
            for x in (q, k)
        )
        share = torch.einsum("bnhd,bmhd->bhnm", q, k).div(d**0.5).softmax(-1)
        result = torch.einsum("bhnm,bmhd->bnhd", share, v).flatten(2)
        text = result[:, image:]
        return attn.to_out[0](
            result[:, :image]
        ), text if attn.context_pre_only else attn.to_add_out(text)


@pytest.mark.parametrize("tokens", ["all", "image"])
@pytest.mark.parametrize(
    ("encoding", "options"),
    [("rope-axial", {}), ("harope", {"qk_mode": "dual"}), ("harope", {"qk_mode": "same"})],
)
def test_positions_replace_the_table(
    base: Path, pipe: Any, encoding: str, options: dict[str, Any], tokens: str
) -> None:
    network = tiny.train_encoding(attach_encoding(base, encoding, tokens, **options))
    inputs = BACKBONE.trial_inputs(network)
    pipe.transformer.pos_embed.pos_embed = None
    bare_outputs = tiny.outputs(pipe.transformer, inputs)
    pipe.transformer.set_attn_processor(
        {
            name: SlowProcessor(network, layer, 4)
            for layer, name in enumerate(pipe.transformer.attn_processors)
        }
    )
    expected = tiny.outputs(pipe.transformer, inputs)
    assert tiny.relative_distance(tiny.outputs(network, inputs), expected) <= 1e-5
    assert tiny.relative_distance(expected, bare_outputs) > 1e-3  # and it does something
    assert sd3.TABLE_KEY not in network.state_dict()


@pytest.mark.parametrize("encoding", ["harope", "string", "rope-matrix", "rope-svd-control"])
def test_at_their_start_encodings_are_axial_rope(base: Path, encoding: str) -> None:
    network, plain_attach_encoding = (
        attach_encoding(base, encoding),
        attach_encoding(base, "rope-axial"),
    )
    inputs = BACKBONE.trial_inputs(network)
    assert (
        tiny.relative_distance(
            tiny.outputs(network, inputs), tiny.outputs(plain_attach_encoding, inputs)
        )
        <= 1e-6
    )


# ------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("tokens", ["all", "image"])
@pytest.mark.parametrize(
    ("encoding", "options"),
    [("harope", {"qk_mode": "dual"}), ("harope", {"qk_mode": "same"}), ("string", {})],
)
def test_folding_leaves_rope_and_the_same_outputs(
    base: Path, encoding: str, options: dict[str, Any], tokens: str
) -> None:
    network = tiny.train_encoding(attach_encoding(base, encoding, tokens, **options))
    lora.add_lora(network, BACKBONE.targets, rank=4)
    inputs = BACKBONE.trial_inputs(network)
    expected, text = (
        tiny.outputs(network, inputs),
        attach_encoding(base).transformer.transformer_blocks[0].attn.add_q_proj.weight,
    )
    BACKBONE.fold_matrices(network)
    assert tiny.relative_distance(tiny.outputs(network, inputs), expected) <= 1e-5
    assert type(network.encoding).__name__ == "RopeAxial"
    assert not list(network.encoding.parameters())
    assert not lora.has_lora(network)  # merged first: a matrix on W alone would miss it
    tensor = torch.equal(network.transformer.transformer_blocks[0].attn.add_q_proj.weight, text)
    assert tensor == (tokens == "image")


def test_a_wrong_fold_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny.train_encoding(attach_encoding(base, "harope", qk_mode="same"))
    right = folding.fold_linear
    monkeypatch.setattr(
        folding, "fold_linear", lambda projection, matrix: right(projection, matrix.mT)
    )
    with pytest.raises(WeightsError, match="harope in layer 0, head 0, differs after folding"):
        BACKBONE.fold_matrices(network)


def test_a_norm_keeps_the_matrix_from_the_projections(base: Path) -> None:
    network = norms(base)
    inputs, weights = (
        BACKBONE.trial_inputs(network),
        network.transformer.transformer_blocks[0].attn.to_q.weight.clone(),
    )
    expected = tiny.outputs(network, inputs)
    BACKBONE.fold_matrices(network)
    assert network.is_matrix_applied
    assert torch.equal(network.transformer.transformer_blocks[0].attn.to_q.weight, weights)
    assert tiny.relative_distance(tiny.outputs(network, inputs), expected) <= 1e-5
    records = []
    network.attention_callback = lambda layer, q, k: records.append((layer, q.shape[2]))
    tiny.outputs(network, inputs)
    assert records == [
        (0, 24),
        (0, 16),
        (1, 24),
    ]  # the second attention of block 0 sees the image alone


def test_what_does_not_fold_is_left_as_it_is(base: Path) -> None:
    network = tiny.train_encoding(attach_encoding(base, "rope-svd-control"))
    inputs = BACKBONE.trial_inputs(network)
    expected = tiny.outputs(network, inputs)
    BACKBONE.fold_matrices(network)
    assert torch.equal(tiny.outputs(network, inputs), expected)


# ------------------------------------------------------------------------------------- sizes


def test_sd3_medium_at_full_size_has_the_papers_parameters() -> None:
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=192,
            sample_size=128,
        )
        network = BACKBONE.attach_encoding(transformer, "harope", {})
    assert sum(p.numel() for p in network.transformer.parameters()) == 2_028_328_000
    assert sum(p.numel() for p in network.encoding.parameters()) == 24 * 198_144


@pytest.mark.parametrize(
    ("settings", "encoding", "message"),
    [
        ({"resolution": 400}, ("ape", {"form": "sd3"}), "has 24 tokens a side, for at most 384 px"),
        ({"pos_scaling": "linear"}, ("ape", {"form": "sd3"}), "does not apply to sd3's table"),
        ({"resolution": 65}, ("harope", {}), "tokens of 16"),
    ],
)
def test_what_it_cannot_draw_is_refused(
    base: Path, settings: Any, encoding: Any, message: str
) -> None:
    checkpoint = tiny.checkpoint(
        "sd3", encoding[0], options=encoding[1], config={"base": str(base)}
    )
    with pytest.raises(OptionError, match=message):
        BACKBONE.check_inputs(checkpoint, tiny.settings(**settings))
    BACKBONE.check_inputs(checkpoint, tiny.settings(resolution=384))


# ------------------------------------------------------------------------------------- folders and
# drawing


@pytest.mark.parametrize(("encoding", "options"), [("harope", {}), ("ape", {"form": "sd3"})])
def test_sd3_keeps_the_contract(base: Path, encoding: str, options: dict[str, Any]) -> None:
    config = {"base": str(base), "text_tokens": 16}
    check_backbone("sd3", config, encoding=encoding, options=options, resolution=32)


def test_an_adapter_folder_draws_folded_as_unfolded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.register_prompts(monkeypatch)
    network = tiny.train_encoding(attach_encoding(base))
    lora.add_lora(network, BACKBONE.targets)
    manifest = BACKBONE.save_adapter(tmp_path / "adapter", network, str(base))
    checkpoint = tiny.checkpoint(
        "sd3",
        "harope",
        options=lora_manifest.read_manifest(manifest).options,
        config={"base": str(base)},
    )
    folded_folder = BACKBONE.open_folder(checkpoint, manifest, tiny.settings(fold=True))
    assert type(folded_folder.network.encoding).__name__ == "RopeAxial"
    plain_folder = BACKBONE.open_folder(checkpoint, manifest, tiny.settings(fold=False))
    first_image, second_image = (
        drawer.generate(RED, tiny.settings()).images.astype(int)
        for drawer in (folded_folder, plain_folder)
    )
    assert np.abs(first_image - second_image).max() <= 1
    register("my-sd3", manifest, {"config": {"base": str(base)}})
    words = (
        "generate",
        "my-sd3",
        "--suite",
        "four-prompts",
        "--count",
        "2",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "run"),
    )
    command_result = CliRunner().invoke(main, words)
    assert command_result.exit_code == 0, command_result.output
    assert "2 requested, 2 generated, 0 failed" in command_result.output


def test_the_base_alone_draws_what_the_library_draws(base: Path, pipe: Any) -> None:
    register("plain-sd3", base, {})
    checkpoint_record = load_checkpoint_record("plain-sd3")
    assert (checkpoint_record.encoding, checkpoint_record.options, checkpoint_record.guidance) == (
        "ape",
        {"form": "sd3"},
        7.0,
    )
    drawer = BACKBONE.open_folder(
        checkpoint_record, Path(checkpoint_record.weights), tiny.settings()
    )
    image = drawer.generate(RED, tiny.settings()).images[0]
    fields = {
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "output_type": "np",
    }
    expected = pipe(
        RED[0].prompt, latents=drawer.initial_noise(0, tiny.settings()), **fields
    ).images[0]
    assert np.abs(image.astype(int) - (255 * expected).round().astype(int)).max() <= 1


def test_position_scaling_knows_the_training_grid(base: Path) -> None:
    drawer_settings = tiny.settings(resolution=256, pos_scaling="linear")
    register("rope-sd3", base, {"encoding": "rope-axial"})
    checkpoint_record = load_checkpoint_record("rope-sd3")
    drawer = BACKBONE.open_folder(
        checkpoint_record, Path(checkpoint_record.weights), drawer_settings
    )
    assert drawer.network.encoding.scaling == sd3.encodings.Scaling("linear", (8, 8), (16, 16))
