"""Latents to pixels: Stable Diffusion's autoencoder, read from a local folder.

Nothing is downloaded; a Hub id means the files in the local Hugging Face cache.
Source of the rule: facebookresearch/DiT:sample.py (decode of latents / 0.18215).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from harope_bench.core.device import device_type
from harope_bench.core.errors import MissingExtraError, MissingVaeError, OptionError, WeightsError
from harope_bench.core.json_file import parse_json
from harope_bench.core.schema import Settings
from harope_bench.core.storage import sha256_bytes, sha256_file_once
from harope_bench.core.text_file import read_text
from harope_bench.models.backbones.library_types import Autoencoder

VAE_SCALE_FACTOR = 8  # Pixels per latent along each side.
SCALING_FACTOR = 0.18215  # DiT's training latents were multiplied by this factor.
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
GROUP_SIZE = 4  # Rows that a GPU decodes at once.
MAX_GROUP_PIXELS = 4 * 512**2  # At most 8 GB of activations.
VAE_ADVICE = "sd-vae-ft-mse for the HARoPE release, sd-vae-ft-ema for DiT's own samples"
# Of LightningDiT, whose latents are normalised channel by channel.
NORMALISED_VAE_ADVICE = (
    "of AutoencoderKL with the weights of the network's own autoencoder, such as VA-VAE f16d32 of"
    " LightningDiT, and with latents_mean and latents_std of its latents_stats.pt in config.json"
)


def vae_advice(scale_factor: int) -> str:
    """Return which autoencoder decodes latents of this many pixels along a side."""
    return VAE_ADVICE if scale_factor == VAE_SCALE_FACTOR else NORMALISED_VAE_ADVICE


def find_vae_folder(
    vae: str | None, description: str, scale_factor: int = VAE_SCALE_FACTOR
) -> Path:
    """Return the folder of an autoencoder.

    Args:
        vae: Settings.vae, a folder or a hub id.
        description: Name of the checkpoint for an error message.
        scale_factor: Pixels of the image along a side of one latent.

    Raises:
        MissingVaeError: No autoencoder is stated, or its files are missing.
    """
    if vae is None:
        raise MissingVaeError(
            f"{description} generates latents and no autoencoder is stated",
            advice=f"add --vae FOLDER ({vae_advice(scale_factor)})",
        )
    folder = Path(vae) if Path(vae).is_dir() else _cached_folder(vae)
    files = (CONFIG_FILE, WEIGHTS_FILE)
    if folder is None or any(not (folder / name).is_file() for name in files):
        raise MissingVaeError(
            f"--vae {vae}: found no {CONFIG_FILE} with {WEIGHTS_FILE}, neither in such a folder"
            " nor in the local hub cache",
            advice=f"give a folder ({vae_advice(scale_factor)})",
        )
    return folder


def _cached_folder(name: str) -> Path | None:
    """Return the folder of a hub id in the local cache, without network access."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    config_path = try_to_load_from_cache(name, CONFIG_FILE)
    return Path(config_path).parent if isinstance(config_path, str) else None


def check_vae(
    vae: str | None, channels: int, description: str, scale_factor: int = VAE_SCALE_FACTOR
) -> None:
    """Check that an autoencoder decodes the network's latents; reads its configuration alone.

    Args:
        channels: Channels of the network's latents.
        description: Name of the checkpoint for an error message.
        scale_factor: Pixels of the image along a side of one latent.

    Raises:
        MissingVaeError: The autoencoder is missing.
        OptionError: Its channels, its resolution or its scaling differ.
    """
    folder = find_vae_folder(vae, description, scale_factor)
    try:
        config = parse_json(read_text(folder / CONFIG_FILE))
        levels = len(config.get("block_out_channels", (64,)))
        vae_channels = config.get("latent_channels", 4)
        scale = float(config.get("scaling_factor", SCALING_FACTOR))
        shift = config.get("shift_factor")
        n_statistics = [len(config.get(key) or ()) for key in ("latents_mean", "latents_std")]
    except (ValueError, ArithmeticError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{folder / CONFIG_FILE} is no autoencoder's configuration ({error}); copy it again"
        ) from error

    vae_scale_factor = 2 ** (levels - 1)
    if (vae_channels, vae_scale_factor) != (channels, scale_factor):
        raise OptionError(
            f"{folder} has {vae_channels} latent channels at 1/{vae_scale_factor}, wanted"
            f" {channels} at 1/{scale_factor}; give another --vae"
        )
    if scale_factor != VAE_SCALE_FACTOR:
        if n_statistics != [channels, channels]:
            raise OptionError(
                f"{folder / CONFIG_FILE} has {n_statistics[0]} values of latents_mean and"
                f" {n_statistics[1]} of latents_std, wanted {channels} of each; write those of"
                " latents_stats.pt into it"
            )
        return
    if not math.isclose(scale, SCALING_FACTOR, rel_tol=1e-4) or shift:
        raise OptionError(
            f"{folder} scales latents by {scale:g} (shift {shift or 0}), the network was trained"
            f" at {SCALING_FACTOR}; give another --vae"
        )


def vae_sha256(vae: str | None, description: str) -> str:
    """Return the hex sha256 over the hashes of an autoencoder's configuration and weights.

    It does not depend on the folder's path.
    """
    folder = find_vae_folder(vae, description)
    hashes = [sha256_file_once(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return sha256_bytes("".join(hashes).encode())


class Decoder:
    """The decoder of an autoencoder, in float32 for any precision of the network.

    Rows are decoded one by one, so an image does not depend on the others of its batch. On a GPU
    the first batch is also decoded in groups. If the bits are equal, later batches are decoded in
    groups, which keeps a GPU busier.
    """

    def __init__(self, vae: Autoencoder, group_size: int = 1, is_normalised: bool = False):
        """Wrap an autoencoder.

        Args:
            group_size: Rows that are decoded at once if that changes no bit; 1 never tries.
            is_normalised: Whether latents have mean 0 and deviation 1, as those of LightningDiT.
        """
        self.vae = vae
        self.is_normalised = is_normalised
        self.group_size = group_size
        # Whether groups change no bit, by the shape of a row; not yet known if missing.
        self.is_group_equal: dict[torch.Size, bool] = {}

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, 8h, 8w) in about [-1, 1] for the network's latents (B, C, h, w).

        Latents that were normalised by channel have other sides and are brought back first.
        """
        vae_latents = self._vae_latents(latents.float())
        row_shape = vae_latents.shape[1:]
        group_size = min(self.group_size, max_group_size(row_shape[-2:]))
        if group_size == 1 or len(vae_latents) % group_size:
            return self._decode(vae_latents, 1)
        if row_shape in self.is_group_equal:
            is_group_equal = self.is_group_equal[row_shape]
            return self._decode(vae_latents, group_size if is_group_equal else 1)

        images = self._decode(vae_latents, 1)
        is_group_equal = torch.equal(self._decode(vae_latents, group_size), images)
        self.is_group_equal[row_shape] = is_group_equal
        return images

    def _vae_latents(self, latents: Tensor) -> Tensor:
        """Return the latents (B, C, h, w) float32 on the scale of the autoencoder."""
        config = self.vae.config
        if not self.is_normalised:
            return latents / config.scaling_factor
        # hustvl/LightningDiT:inference.py: latents * std + mean, by channel.
        mean, deviation = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return latents * deviation + mean

    def _decode(self, vae_latents: Tensor, group_size: int) -> Tensor:
        """Return the images, decoded in groups of this size."""
        groups = vae_latents.split(group_size)
        return torch.cat([self.vae.decode(group).sample for group in groups])


def max_group_size(latent_sides: Sequence[int]) -> int:
    """Return how many rows may be decoded at once, so that a group needs little memory."""
    pixels = VAE_SCALE_FACTOR**2 * math.prod(latent_sides)
    return max(1, MAX_GROUP_PIXELS // pixels)


def load_decoder(
    settings: Settings, description: str, scale_factor: int = VAE_SCALE_FACTOR
) -> Decoder:
    """Return the decoder of the autoencoder in these settings, strictly loaded.

    Args:
        description: Name of the checkpoint for an error message.
        scale_factor: Pixels of the image along a side of one latent.

    Raises:
        MissingExtraError: diffusers is not installed.
        WeightsError: The files differ from those of the plan, or keys do not fit.
    """
    folder = find_vae_folder(settings.vae, description)
    sha256 = vae_sha256(settings.vae, description)
    if settings.vae_sha256 not in (None, sha256):
        raise WeightsError(
            f"{folder} has sha256 {sha256[:12]}..., the plan's autoencoder has"
            f" {settings.vae_sha256[:12]}...",
            advice="give the autoencoder that the run was started with",
        )

    vae = _load_vae(folder)
    if settings.vae_tiling:
        vae.enable_tiling()
    group_size = 1 if device_type(settings.device) == "cpu" else GROUP_SIZE
    is_normalised = scale_factor != VAE_SCALE_FACTOR
    return Decoder(vae.to(settings.device).eval(), group_size, is_normalised)


def _load_vae(folder: Path) -> Autoencoder:
    """Return the autoencoder of a folder; WeightsError unless every key fits."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise MissingExtraError(
            "latents are decoded by diffusers, which is not installed",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    try:
        vae, report = AutoencoderKL.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            torch_dtype=torch.float32,
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{folder} does not load as an autoencoder ({str(error).splitlines()[0]})",
            advice="copy it again",
        ) from error

    problems = [
        f"{kind.removesuffix('_keys')} {', '.join(map(str, keys))}"
        for kind, keys in sorted(report.items())
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{folder} has keys that do not fit: {'; '.join(problems)}; copy it again"
        )
    return vae
