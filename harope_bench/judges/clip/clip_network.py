"""CLIP with both towers, as OpenAI trained it: open_clip's network, QuickGELU, OpenAI's file or the
same tensors in another.

open_clip since 2.29 builds plain GELU for the name ViT-L-14 whatever the weights were trained with,
and only warns. So the activation is
asked for here, and looked for in the network that was built.

Source: openai/CLIP:clip/model.py; mlfoundations/open_clip:src/open_clip/model.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.core.errors import ShapeError, WeightsError
from harope_bench.core.state_dicts import check_sha256, load_weights
from harope_bench.judges.base import Annotator, LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.self_check import check_red_first, red_image
from harope_bench.judges.weights.asset_files import WeightsFile
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge

# of CLIP's training images
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIDE = 224
EXPECTED_TOKENS = [
    49406,
    320,
    1125,
    539,
    320,
    736,
    1615,
    49407,
    0,
]  # start, a, photo, of, a, red, car, end
NON_WEIGHT_KEYS = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # what OpenAI's archive holds beside tensors of the network


def torchscript_state(found: WeightsFile) -> Mapping[str, Tensor]:
    """The tensors of OpenAI's file, which is a TorchScript archive and cannot be read with
    weights_only; so its hash is checked first.
    """
    check_sha256(found.path, found.sha256)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # torch wants archives exported anew; these bytes are as published
        return dict(torch.jit.load(str(found.path), map_location="cpu").state_dict())


class Sizes(TypedDict):
    """open_clip's configuration of a network with both towers; the towers' fields are its own."""

    embed_dim: int
    vision_cfg: Mapping[str, object]
    text_cfg: Mapping[str, object]


def build_network(config: Sizes) -> nn.Module:
    """open_clip's network of these sizes, its weights not set.

    Raises:
        WeightsError: open_clip built another activation than QuickGELU.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    sizes = {
        "vision_cfg": CLIPVisionCfg(**config["vision_cfg"]),
        "text_cfg": CLIPTextCfg(**config["text_cfg"]),
    }
    with torch.device("meta"):  # random numbers for weights that are replaced take 12 seconds
        network = CLIP(config["embed_dim"], quick_gelu=True, **sizes)
    network.to_empty(device="cpu")
    length = network.context_length
    network.attn_mask = torch.full((length, length), float("-inf")).triu_(
        1
    )  # no weight, so no file fills it
    require_quick_gelu(network)
    return network


def require_quick_gelu(network: nn.Module) -> None:
    """WeightsError unless each activation of the network computes x * sigmoid(1.702 x)."""
    acts = [module for name, module in network.named_modules() if name.endswith(".gelu")]
    probe = torch.linspace(-4, 4, 9)
    wrong = [
        type(act).__name__
        for act in acts
        if not torch.allclose(act(probe), probe * torch.sigmoid(1.702 * probe), atol=1e-6)
    ]
    if wrong or not acts:
        raise WeightsError(
            f"open_clip built {wrong[0] if wrong else 'no activation'} where CLIP has QuickGELU;"
            " pip install 'open-clip-torch>=3,<4'"
        )


class ClipTowers:
    """CLIP with weights: images and texts to embeddings of length 1."""

    def __init__(self, network: nn.Module, weights_sha256: str, device: str, half: bool):
        from open_clip import tokenizer, transform

        self.network: Network = network.to(device).eval()
        self.weights_sha256 = weights_sha256
        self.device = device
        self.is_half_precision = half and device == "cuda"
        self.prepare = transform.image_transform(SIDE, is_train=False, mean=MEAN, std=STD)
        self.tokenizer = tokenizer.SimpleTokenizer(context_length=network.context_length)

    def autocast(self) -> torch.autocast:
        """Half precision by autocast, where this judge has it and the network is on a GPU."""
        return torch.autocast("cuda", dtype=torch.float16, enabled=self.is_half_precision)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embeddings (N, D) of RGB pictures: the shorter side to 224, bicubic with antialias, the
        middle square.
        """
        pixels = torch.stack([self.prepare(picture) for picture in pictures]).to(
            self.device
        )  # (N, 3, 224, 224)
        with full_float32(), self.autocast():
            return nn.functional.normalize(self.network.encode_image(pixels), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D); ShapeError for a text that CLIP cannot read to its end."""
        length = self.network.context_length
        for text in texts:
            if (tokens := len(self.tokenizer.encode(text)) + 2) > length:
                raise ShapeError(
                    f"a text of {tokens} tokens ({text[:40]!r}...), CLIP reads {length}; ask a"
                    " shorter one"
                )
        with full_float32(), self.autocast():
            return nn.functional.normalize(
                self.network.encode_text(self.tokenizer(list(texts)).to(self.device)), dim=-1
            )


class LoadedClip(LoadedAnnotator):
    """Base class of the judges with these towers."""

    def __init__(self, towers: ClipTowers):
        self.towers = towers
        self.weights_sha256 = towers.weights_sha256


def check_red_channel(opened: LoadedClip) -> str | None:
    """Whether red pictures reach CLIP red first."""
    return check_red_first(opened.towers.prepare(Image.fromarray(red_image()))[None])


def check_tokenizer(opened: LoadedClip) -> str | None:
    """Whether a sentence becomes the tokens that CLIP was trained with."""
    found = opened.towers.tokenizer(["A photo of a  red car"])[0].tolist()
    return (
        None
        if found[:9] == EXPECTED_TOKENS and not any(found[9:])
        else f"a sentence becomes {found[:9]}, wanted {EXPECTED_TOKENS}"
    )


STACK = (
    NamedCheck("red reaches the network first", check_red_channel),
    NamedCheck("a sentence becomes CLIP's tokens", check_tokenizer),
)


class ClipAnnotator(PublishedWeightsJudge[LoadedAnnotator], Annotator):
    """What both plug-ins of this network share; `sizes` replaces open_clip's configuration, so that
    tests make it small.
    """

    model: str

    def __init__(self, sizes: Sizes | None = None):
        self.sizes = sizes

    def load_towers(self, device: str, half: bool) -> ClipTowers:
        """The network with its weights.

        Raises:
            WeightsError: not here, altered, unsafe, of another network, or another activation was
                built.
        """
        import open_clip

        found = self.source.find()
        known = found.sha256 == self.source.known_sha256()
        state = torchscript_state(found) if known else load_weights(found.path, found.sha256)
        network = build_network(self.sizes or open_clip.get_model_config(self.model))
        tensors = {name: tensor for name, tensor in state.items() if name not in NON_WEIGHT_KEYS}
        return ClipTowers(self.fill_network(network, tensors, found), found.sha256, device, half)
