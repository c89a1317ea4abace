"""Text-to-image pipelines of the library's own classes, random and small, for `backbone diffusers`.

The sizes follow tests/pipelines of diffusers (2026-08). Tokenizers are built here; FLUX.2 is its
class for the small text encoder (Flux2KleinPipeline), because the processor of the large one's
tokenizer cannot be built offline.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny_pipelines as tiny
import torch

SIDE = 32
# The library's template of a chat, as short as its pipelines allow.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{{ message['content'][0]['text'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VAE: dict[str, Any] = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": SIDE,
}
UNET: dict[str, Any] = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "sample_size": SIDE // 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 2,
}
QWEN_SIZES: dict[str, Any] = {
    "intermediate_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
QWEN_TOKENS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GEMMA: dict[str, Any] = {
    "head_dim": 4,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "sliding_window": 2,
}


def vae(**sizes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**{**VAE, **sizes})


def flow_scheduler(**fields: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**fields)


def qwen_tokenizer() -> Any:
    """A byte-level tokenizer without merges: every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    pieces = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def gemma_tokenizer() -> Any:
    """A tokenizer that knows the letters by which the tests' prompts differ.

    Everything between them is one unknown token, so the long instructions of Sana stay short.
    """
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *"bg"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocab, merges=[])


def stable_diffusion() -> Any:
    """Stable Diffusion with an ancestral sampler, which adds noise in every step."""
    from diffusers import (
        EulerAncestralDiscreteScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    clip = tiny.clip_tokenizer()
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=tiny.clip_encoder(clip, is_projected=False),
        tokenizer=clip,
        unet=UNet2DConditionModel(**UNET, cross_attention_dim=32),
        scheduler=EulerAncestralDiscreteScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    clip = tiny.clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=tiny.clip_encoder(clip, is_projected=False),
        text_encoder_2=tiny.clip_encoder(clip, is_projected=True),
        tokenizer=clip,
        tokenizer_2=clip,
        unet=UNet2DConditionModel(
            **UNET,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,  # 6 * 8 + 32
            cross_attention_dim=64,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
    )


def pixart_sigma() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    t5 = tiny.t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=t5,
        text_encoder=tiny.t5_encoder(t5),
        vae=vae(),
        transformer=PixArtTransformer2DModel(
            sample_size=SIDE // 2,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
        ),
        # Steps of a stochastic differential equation: each adds noise.
        scheduler=DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    )


def aura_flow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    t5 = tiny.t5_tokenizer()
    config = UMT5Config(vocab_size=len(t5), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return AuraFlowPipeline(
        tokenizer=t5,
        text_encoder=UMT5EncoderModel(config),
        vae=vae(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        ),
        scheduler=flow_scheduler(),
    )


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    t5 = tiny.t5_tokenizer()
    return ChromaPipeline(
        scheduler=flow_scheduler(),
        vae=vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=tiny.t5_encoder(t5),
        tokenizer=t5,
        transformer=ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ),
    )


def flux2_klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    # The pipeline reads the layers 9, 18 and 27 of its text encoder.
    config = Qwen3Config(**{**QWEN_SIZES, "num_hidden_layers": 28}, vocab_size=len(tokenizer))
    return Flux2KleinPipeline(
        scheduler=flow_scheduler(),
        vae=AutoencoderKLFlux2(**VAE, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3ForCausalLM(config),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def qwen_image() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            **QWEN_SIZES,
            **QWEN_TOKENS,
            "max_position_embeddings": 2048,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "rope_theta": 1000000.0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )
    return QwenImagePipeline(
        scheduler=flow_scheduler(),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ),
    )


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        scheduler=flow_scheduler(),
        vae=vae(scaling_factor=0.36, shift_factor=0.1),
        text_encoder=Qwen3Model(Qwen3Config(**QWEN_SIZES, vocab_size=len(tokenizer))),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[512, 32, 32],
        ),
    )


def sana() -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(Gemma2Config(**GEMMA, vocab_size=len(tokenizer))),
        vae=AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        transformer=SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=SIDE // 2,
        ),
        scheduler=flow_scheduler(shift=7.0),
    )


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=4,
            hidden_size=8,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(512, 64, 64),
            cap_feat_dim=8,
        ),
        scheduler=flow_scheduler(),
        vae=vae(**tiny.VAE),  # of four levels: the pipeline states a factor of 8
        text_encoder=Gemma2Model(Gemma2Config(**GEMMA, vocab_size=len(tokenizer))),
        tokenizer=tokenizer,
    )


PIPELINES: Mapping[str, Callable[[], Any]] = {
    "stable-diffusion": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "pixart-sigma": pixart_sigma,
    "aura-flow": aura_flow,
    "chroma": chroma,
    "flux2-klein": flux2_klein,
    "qwen-image": qwen_image,
    "z-image": z_image,
    "sana": sana,
    "lumina2": lumina2,
}
# Options without which a class does not generate images as small as these.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "pixart-sigma": {"use_resolution_binning": False, "clean_caption": False},
    "sana": {"use_resolution_binning": False},
    "flux2-klein": {"max_sequence_length": 64},  # it pads each prompt to that length
}


def save(folder: Path, name: str, seed: int = 0) -> Path:
    """Write the pipeline of a name into a folder, its weights random and of visible size."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the library
        torch.manual_seed(seed)
        pipe = PIPELINES[name]()
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                # some weights of the library are not initialised, others are zero
                for parameter in component.parameters():
                    parameter.data.nan_to_num_(0, 0, 0).clamp_(-1, 1)
                tiny.add_noise(component, seed)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder
