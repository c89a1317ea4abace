"""Latents to pixels: Stable Diffusion's autoencoder, from a folder on this machine.

Nothing is downloaded: a hub id means what the local Hugging Face cache holds of it. Source of the
rule: facebookresearch/DiT:sample.py
(decode of latents / 0.18215).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from harope_bench.core.errors import MissingExtraError, MissingVaeError, OptionError, WeightsError
from harope_bench.core.json_file import parse_json
from harope_bench.core.schema import Settings
from harope_bench.core.storage import sha256_bytes, sha256_file
from harope_bench.core.text_file import read_text
from harope_bench.models.backbones.library_types import Autoencoder

VAE_SCALE_FACTOR = 8  # pixels a latent, along each side
SCALING_FACTOR = 0.18215  # what DiT's training latents were multiplied by
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
VAE_ADVICE = "sd-vae-ft-mse for the HARoPE release, sd-vae-ft-ema for DiT's own samples"


def find_vae_folder(vae: str | None, what: str) -> Path:
    """The folder that a Settings.vae names.

    Raises:
        MissingVaeError: none is named, or nothing is there; says what to do.
    """
    if vae is None:
        raise MissingVaeError(
            f"{what} draws latents and names no autoencoder",
            advice=f"add --vae FOLDER ({VAE_ADVICE})",
        )
    found = Path(vae) if Path(vae).is_dir() else _cached_folder(vae)
    if found is None or any(not (found / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        raise MissingVaeError(
            f"--vae {vae} holds no {CONFIG_FILE} with {WEIGHTS_FILE}, here or in the hub's local"
            " cache",
            advice=f"give a folder ({VAE_ADVICE})",
        )
    return found


def _cached_folder(name: str) -> Path | None:
    """Folder of a hub id in the local cache; asks nothing of the network."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(name, CONFIG_FILE)
    return Path(found).parent if isinstance(found, str) else None


def check_vae(vae: str | None, channels: int, what: str) -> None:
    """Refuses an autoencoder whose latents are not those of the network, by its configuration
    alone.

    Raises:
        OptionError: not there, or another number of channels, another factor or another scale.
    """
    place = find_vae_folder(vae, what)
    try:
        facts = parse_json(read_text(place / CONFIG_FILE))
        levels = len(facts.get("block_out_channels", (64,)))
        wide = facts.get("latent_channels", 4)
        scale = float(facts.get("scaling_factor", SCALING_FACTOR))
        shift = facts.get("shift_factor")
    except (ValueError, ArithmeticError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{place / CONFIG_FILE} is no autoencoder's configuration ({error}); copy it again"
        ) from error
    if (wide, 2 ** (levels - 1)) != (channels, VAE_SCALE_FACTOR):
        raise OptionError(
            f"{place} has {wide} latent channels at 1/{2 ** (levels - 1)}, wanted {channels} at"
            f" 1/{VAE_SCALE_FACTOR}; give another --vae"
        )
    if not math.isclose(scale, SCALING_FACTOR, rel_tol=1e-4) or shift:
        raise OptionError(
            f"{place} scales latents by {scale:g} (shift {shift or 0}), the network was trained at"
            f" {SCALING_FACTOR}; give another --vae"
        )


def vae_sha256(vae: str | None, what: str) -> str:
    """Hex sha256 over the hashes of its configuration and its weights: what decides pixels,
    wherever the folder lies.
    """
    place = find_vae_folder(vae, what)
    return sha256_bytes(
        "".join(sha256_file(place / name) for name in (CONFIG_FILE, WEIGHTS_FILE)).encode()
    )


class Decoder:
    """An autoencoder's second half, float32 whatever the network's precision."""

    def __init__(self, vae: Autoencoder):
        self.vae = vae

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) of the network to images (B, 3, 8h, 8w) in about [-1, 1], one row at
        a time.
        """
        scaled = latents.float() / self.vae.config.scaling_factor
        return torch.cat([self.vae.decode(row).sample for row in scaled.split(1)])


def load_decoder(settings: Settings, what: str) -> Decoder:
    """The autoencoder of these settings, strictly loaded.

    Raises:
        MissingExtra: diffusers is not installed. WeightsError: another file than the plan's, or
            keys that do not fit.
    """
    place = find_vae_folder(settings.vae, what)
    found = vae_sha256(settings.vae, what)
    if settings.vae_sha256 not in (None, found):
        raise WeightsError(
            f"{place} is another autoencoder ({found[:12]}...) than the plan's"
            f" ({settings.vae_sha256[:12]}...)",
            advice="bring it back",
        )
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise MissingExtraError(
            "latents are decoded by diffusers, which is not installed",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    try:
        vae, report = AutoencoderKL.from_pretrained(
            str(place),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            torch_dtype=torch.float32,
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{place} does not load as an autoencoder ({str(error).splitlines()[0]})",
            advice="copy it again",
        ) from error
    wrong = [
        f"{kind.removesuffix('_keys')} {', '.join(map(str, keys))}"
        for kind, keys in sorted(report.items())
        if keys
    ]
    if wrong:
        raise WeightsError(f"{place} does not fit: {'; '.join(wrong)}; copy it again")
    if settings.vae_tiling:
        vae.enable_tiling()
    return Decoder(vae.to(settings.device).eval())
