"""FLUX and SD3 pipelines of the library's real classes, random and small, made in memory and saved
to a folder.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when the libraries are imported: a missing file then fails at once
)

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.suites.base import CaptionSuite

WORDS = ["a", "photo", "of", "red", "blue", "cat", "dog", "and", "the", "on"]
VAE = {
    "block_out_channels": (4, 4, 4, 4),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 1,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.36,
    "shift_factor": 0.1,
    "sample_size": 1024,
}
FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 4, 8),
}
SD3 = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 24,
}
SHIFT = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def needs_t2i() -> Any:
    """Skips a module's tests where the extra is not installed."""
    for part in ("diffusers", "transformers", "peft"):
        pytest.importorskip(part, reason="needs pip install 'harope-bench[t2i]'")


def add_noise(module: Any, seed: int, deviation: float = 0.1) -> Any:
    """With noise on all weights, so that no gate or output is zero and every norm has its own
    weights.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=rng))
    return module


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = sorted(set("".join(WORDS)))
    pieces = [
        *letters,
        *(letter + "</w>" for letter in letters),
        "ca",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[("c", "a")], model_max_length=77)


def t5_tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0) for word in WORDS)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = Whitespace()
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=512)


def clip_encoder(tokenizer: Any, is_projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=32,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if is_projected else CLIPTextModel)(config).eval()


def t5_encoder(tokenizer: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    return T5EncoderModel(config).eval()


def flux(seed: int = 0, **sizes: Any) -> Any:
    """A FluxPipeline; `sizes` change its transformer."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip, t5 = clip_tokenizer(), t5_tokenizer()
        pipe = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SHIFT),
            vae=AutoencoderKL(**VAE).eval(),
            text_encoder=clip_encoder(clip, is_projected=False),
            tokenizer=clip,
            text_encoder_2=t5_encoder(t5),
            tokenizer_2=t5,
            transformer=add_noise(FluxTransformer2DModel(**{**FLUX, **sizes}), seed).eval(),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3(seed: int = 0, **sizes: Any) -> Any:
    """A StableDiffusion3Pipeline; `sizes` change its transformer."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip, t5 = clip_tokenizer(), t5_tokenizer()
        pipe = StableDiffusion3Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=AutoencoderKL(**VAE).eval(),
            text_encoder=clip_encoder(clip, is_projected=True),
            tokenizer=clip,
            text_encoder_2=clip_encoder(clip, is_projected=True),
            tokenizer_2=clip,
            text_encoder_3=t5_encoder(t5),
            tokenizer_3=t5,
            transformer=add_noise(SD3Transformer2DModel(**{**SD3, **sizes}), seed).eval(),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_pipeline(folder: Path, kind: str, seed: int = 0, **sizes: Any) -> Path:
    """Such a pipeline's folder."""
    {"flux": flux, "sd3": sd3}[kind](seed, **sizes).save_pretrained(folder, safe_serialization=True)
    return folder


# ------------------------------------------------------------------------------------- what tests
# of both share


class Prompts(CaptionSuite):
    """A suite of prompts, registered by the fixture `prompts`."""

    version, count, resolution = 1, 4, 64
    title = "four prompts"
    judges: dict[str, str] = {}
    evaluators: tuple[str, ...] = ()

    def requests(self, indices: Iterable[int], settings: Any = None) -> list[Request]:
        return [
            Request(
                index=i,
                prompt=f"a photo of a {('red', 'blue')[i % 2]} {('cat', 'dog')[i // 2 % 2]}",
            )
            for i in indices
        ]


PLUGIN = Prompts()


def register_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the suite `four-prompts` known, as an installed package would."""
    point = metadata.EntryPoint("four-prompts", "tiny_pipelines", "harope_bench.suites")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [point] if group == point.group else []
    )


def settings(**fields: Any) -> Settings:
    return Settings(
        **{"resolution": 64, "sampler": "flow", "steps": 2, "guidance": 3.5, "tile": 1, **fields}
    )


def checkpoint(backbone: str, encoding: str = "rope-axial", **fields: Any) -> Checkpoint:
    inputs = {
        "name": "trial",
        "backbone": backbone,
        "encoding": encoding,
        "weights": "manifest.json",
        "sha256": "0" * 64,
        "source": "a test",
    }
    return Checkpoint(**{**inputs, "sampler": "flow", "steps": 2, "guidance": 3.5, **fields})


def train_encoding(network: Any, seed: int = 5, deviation: float = 0.3) -> Any:
    """The network with an encoding that is no longer the identity."""
    add_noise(network.encoding, seed, deviation)
    return network


def outputs(network: Any, inputs: Any) -> torch.Tensor:
    with torch.inference_mode():
        return network(**inputs, return_dict=False)[0]


def relative_distance(first_tensor: torch.Tensor, second_tensor: torch.Tensor) -> float:
    """Relative distance."""
    return float((first_tensor - second_tensor).norm() / second_tensor.norm())
