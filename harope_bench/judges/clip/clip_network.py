"""CLIP with both towers as OpenAI trained it: open_clip's network with QuickGELU.

The weights are OpenAI's file or the same tensors in another file. Since version 2.29 open_clip
builds plain GELU for the name ViT-L-14 whatever the weights were trained with, and only warns. So
QuickGELU is requested here, and the network that was built is checked for it.

Source: openai/CLIP:clip/model.py; mlfoundations/open_clip:src/open_clip/model.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from PIL import Image

from harope_bench.core.device import device_type
from harope_bench.core.errors import ShapeError, WeightsError
from harope_bench.core.state_dicts import check_sha256, load_weights
from harope_bench.judges.base import Annotator, LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.self_check import check_red_first, red_image
from harope_bench.judges.weights.asset_files import WeightsFile
from harope_bench.judges.weights.precision import full_float32, without_gradients
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# of CLIP's training images
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIDE = 224
# start, a, photo, of, a, red, car, end, padding
EXPECTED_TOKENS = [49406, 320, 1125, 539, 320, 736, 1615, 49407, 0]
# keys of OpenAI's archive that are no tensors of the network
NON_WEIGHT_KEYS = ("input_resolution", "context_length", "vocab_size")


def torchscript_state(weights_file: WeightsFile) -> Mapping[str, Tensor]:
    """Return the tensors of OpenAI's file after checking its hash.

    The file is a TorchScript archive, which weights_only cannot read.
    """
    import torch

    check_sha256(weights_file.path, weights_file.sha256)
    with warnings.catch_warnings():
        # torch recommends to export archives again; this file is used as published
        warnings.simplefilter("ignore", FutureWarning)
        return dict(torch.jit.load(str(weights_file.path), map_location="cpu").state_dict())


class Sizes(TypedDict):
    """open_clip's configuration of a network with both towers; the towers' fields are its own."""

    embed_dim: int
    vision_cfg: Mapping[str, object]
    text_cfg: Mapping[str, object]


def build_network(config: Sizes) -> nn.Module:
    """Return open_clip's network of these sizes, its weights not set.

    Raises:
        WeightsError: open_clip built another activation than QuickGELU.
    """
    import torch
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    # random numbers for weights that are replaced would take 12 seconds
    with torch.device("meta"):
        network = CLIP(
            config["embed_dim"],
            quick_gelu=True,
            vision_cfg=CLIPVisionCfg(**config["vision_cfg"]),
            text_cfg=CLIPTextCfg(**config["text_cfg"]),
        )
    network.to_empty(device="cpu")

    # the causal mask is no weight, so no file fills it
    length = network.context_length
    network.attn_mask = torch.full((length, length), float("-inf")).triu_(1)
    require_quick_gelu(network)
    return network


def require_quick_gelu(network: nn.Module) -> None:
    """Raise WeightsError unless each activation of the network computes x * sigmoid(1.702 x)."""
    import torch

    activations = [module for name, module in network.named_modules() if name.endswith(".gelu")]
    x = torch.linspace(-4, 4, 9)
    wrong_names = [
        type(activation).__name__
        for activation in activations
        if not torch.allclose(activation(x), x * torch.sigmoid(1.702 * x), atol=1e-6)
    ]
    if wrong_names or not activations:
        raise WeightsError(
            f"open_clip built {wrong_names[0] if wrong_names else 'no activation'} where CLIP has"
            " QuickGELU; run: pip install 'open-clip-torch>=3,<4'"
        )


class ClipTowers:
    """CLIP with its weights: images and texts to embeddings of length 1."""

    def __init__(
        self, network: nn.Module, weights_sha256: str, device: str, is_half_precision: bool
    ):
        from open_clip import tokenizer, transform

        self.network: Network = network.to(device).eval()
        self.weights_sha256 = weights_sha256
        self.device = device
        self.is_half_precision = is_half_precision and device_type(device) == "cuda"
        self.prepare = transform.image_transform(SIDE, is_train=False, mean=MEAN, std=STD)
        self.tokenizer = tokenizer.SimpleTokenizer(context_length=network.context_length)

    def autocast(self) -> torch.autocast:
        """Return autocast to float16, disabled unless the judge uses it and runs on a GPU."""
        import torch

        return torch.autocast("cuda", dtype=torch.float16, enabled=self.is_half_precision)

    @without_gradients
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings (N, D) of RGB images.

        The shorter side is resized to 224, bicubic with antialias, and the centre square is used.
        """
        import torch
        from torch import nn

        pixels = torch.stack([self.prepare(image) for image in images])  # (N, 3, 224, 224)
        with full_float32(), self.autocast():
            embeddings = self.network.encode_image(pixels.to(self.device))  # (N, D)
            return nn.functional.normalize(embeddings, dim=-1)

    @without_gradients
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (N, D) of texts.

        Raises:
            ShapeError: A text has more tokens than CLIP reads.
        """
        from torch import nn

        length = self.network.context_length
        for text in texts:
            n_tokens = len(self.tokenizer.encode(text)) + 2  # with start and end
            if n_tokens > length:
                raise ShapeError(
                    f"a text of {n_tokens} tokens ({text[:40]!r}...), CLIP reads {length}; shorten"
                    " the text"
                )
        tokens = self.tokenizer(list(texts)).to(self.device)  # (N, length)
        with full_float32(), self.autocast():
            return nn.functional.normalize(self.network.encode_text(tokens), dim=-1)


class LoadedClip(LoadedAnnotator):
    """Base class of the loaded judges that use both towers."""

    def __init__(self, towers: ClipTowers):
        self.towers = towers
        self.weights_sha256 = towers.weights_sha256


def check_red_channel(clip: LoadedClip) -> str | None:
    """Return what is wrong with a red image as CLIP's input, or None."""
    return check_red_first(clip.towers.prepare(Image.fromarray(red_image()))[None])


def check_tokenizer(clip: LoadedClip) -> str | None:
    """Return what is wrong with the tokens of a sentence, or None."""
    tokens = clip.towers.tokenizer(["A photo of a  red car"])[0].tolist()
    length = len(EXPECTED_TOKENS)
    if tokens[:length] == EXPECTED_TOKENS and not any(tokens[length:]):
        return None
    return f"a sentence becomes {tokens[:length]}, wanted {EXPECTED_TOKENS}"


STACK_CHECKS = (
    NamedCheck("red reaches the network first", check_red_channel),
    NamedCheck("a sentence becomes CLIP's tokens", check_tokenizer),
)


class ClipAnnotator(PublishedWeightsJudge[LoadedAnnotator], Annotator):
    """Base class of the plug-ins on CLIP's two towers.

    Args:
        sizes: replaces open_clip's configuration of `model`; tests make the network small.
    """

    packages = ("torch", "safetensors", "open_clip")
    model: str  # name in open_clip

    def __init__(self, sizes: Sizes | None = None):
        self.sizes = sizes

    def load_towers(self, device: str, is_half_precision: bool) -> ClipTowers:
        """Load the network with its weights.

        Raises:
            MissingAssetError: The weights are missing.
            WeightsError: The weights are altered, unsafe or of another network, or open_clip built
                another activation.
        """
        import open_clip

        weights_file = self.source.find()
        if weights_file.sha256 == self.source.published_sha256():
            state = torchscript_state(weights_file)
        else:
            state = load_weights(weights_file.path, weights_file.sha256)
        tensors = {name: tensor for name, tensor in state.items() if name not in NON_WEIGHT_KEYS}

        network = build_network(self.sizes or open_clip.get_model_config(self.model))
        self.load_network_weights(network, tensors, weights_file)
        return ClipTowers(network, weights_file.sha256, device, is_half_precision)
