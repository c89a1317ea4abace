"""Type names for objects of diffusers and peft.

The libraries state no types for them, and their classes are known only when a pipeline loads.
"""

from __future__ import annotations

from typing import Any

DiffusersModule = Any  # the module diffusers
Pipeline = Any  # a pipeline: transformer, autoencoder, scheduler, text encoders
PipelineClass = Any  # its class, with from_pretrained, save_lora_weights, lora_state_dict
Transformer = Any  # FluxTransformer2DModel, SD3Transformer2DModel
Autoencoder = Any  # AutoencoderKL
AttentionLayer = Any  # an attention module of the transformer
Norm = Any  # its norm of queries or keys, or None
Inputs = Any  # of an attention or a forward, passed on as they come
