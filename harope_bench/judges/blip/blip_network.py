"""BLIP's question answering network in transformers: its sizes, the names of the published file,
and how a question is put.

transformers' own defaults are of another network: 384 pixels, norms of 1e-5 in the image tower, 8
heads in the text towers, [CLS] as first
token, and its text decoder does not mask padding of the question. Each is set here, and no question
is padded.

Source: salesforce/BLIP:models/blip_vqa.py, models/vit.py, models/med.py, configs/med_config.json;
Karine-Huang/T2I-CompBench:BLIPvqa_eval/models/blip_vqa.py, data/utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harope_bench.core.errors import WeightsError
from harope_bench.core.text_file import read_text
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_model import import_transformers

SIDE = 480
PATCH = 16
POSITIONS = (SIDE // PATCH) ** 2 + 1  # patches and the class token
# [ENC], the question's first token; [DEC], the answer's
ENCODE = 30523
DECODE = 30522
YES = 2748
NO = 2053
MAX_QUESTION_TOKENS = 35  # tokens of a question
VOCABULARY_SIZE = 30522  # of bert-base-uncased; BLIP adds two
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
UNUSED_KEYS = (
    "text_encoder.embeddings.position_ids",
    "text_decoder.bert.embeddings.position_ids",
)  # 0, 1, 2 ...: no weights
HEAD_PREFIX = "text_decoder.cls.predictions."
TIED_KEYS = {
    HEAD_PREFIX + "decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    HEAD_PREFIX + "decoder.bias": HEAD_PREFIX + "bias",
}
VISION_KEYS = {  # the published file's names to transformers'
    r"^visual_encoder\.cls_token$": "vision_model.embeddings.class_embedding",
    r"^visual_encoder\.pos_embed$": "vision_model.embeddings.position_embedding",
    r"^visual_encoder\.patch_embed\.proj\.": "vision_model.embeddings.patch_embedding.",
    r"^visual_encoder\.norm\.": "vision_model.post_layernorm.",
    r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.": (
        r"vision_model.encoder.layers.\1.layer_norm\2."
    ),
    r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.": (
        r"vision_model.encoder.layers.\1.self_attn.qkv."
    ),
    r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.": (
        r"vision_model.encoder.layers.\1.self_attn.projection."
    ),
    r"^visual_encoder\.blocks\.(\d+)\.mlp\.": r"vision_model.encoder.layers.\1.mlp.",
}


def build_network(vision: Mapping[str, int], text: Mapping[str, int]) -> nn.Module:
    """transformers' network of these sizes with BLIP's own constants, its weights not set."""
    library = import_transformers()
    own = {
        "encoder_hidden_size": vision["hidden_size"],
        "layer_norm_eps": 1e-12,
        "vocab_size": VOCABULARY_SIZE + 2,
    }
    config = library.BlipConfig(
        vision_config={**vision, "image_size": SIDE, "patch_size": PATCH, "layer_norm_eps": 1e-6},
        text_config={**text, **own, "tie_word_embeddings": False},  # both copies are in the file
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = library.BlipForQuestionAnswering(config)
    return network.eval()


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the published file, or of a conversion of it, under transformers' names; what
    is not known keeps its name.
    """
    found = {_renamed(name): tensor for name, tensor in state.items() if name not in UNUSED_KEYS}
    for name, other in TIED_KEYS.items():  # conversions keep one of two equal tensors
        if name not in found and other in found:
            found[name] = found[other]
    return found


def _renamed(name: str) -> str:
    for pattern, other in VISION_KEYS.items():
        name = re.sub(pattern, other, name)
    return name


def resize_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positions of a conversion for another image size brought to 30 x 30, bicubic, as BLIP's own
    loader does.
    """
    name = "vision_model.embeddings.position_embedding"
    stored = state.get(name)
    if stored is None or stored.shape[1] == POSITIONS:
        return state
    side = round((stored.shape[1] - 1) ** 0.5)
    if stored.ndim != 3 or side * side + 1 != stored.shape[1]:
        raise WeightsError(
            f"{name} is {tuple(stored.shape)}, wanted (1, 1 + side * side, width); give BLIP's"
            " weights"
        )
    grid = stored[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    fitted = nn.functional.interpolate(grid, size=(SIDE // PATCH, SIDE // PATCH), mode="bicubic")
    return {
        **state,
        name: torch.cat([stored[:, :1].float(), fitted.flatten(2).transpose(1, 2)], dim=1),
    }


class BlipTokenizer:
    """BERT's words: a question to tokens."""

    def __init__(self, vocabulary: Path):
        lines = read_text(vocabulary).rstrip("\n").split("\n")
        words = {word: number for number, word in enumerate(lines)}
        if len(words) != VOCABULARY_SIZE or (words.get("yes"), words.get("no")) != (YES, NO):
            raise WeightsError(
                f"{vocabulary} is not bert-base-uncased's vocabulary of {VOCABULARY_SIZE:,} words;"
                " harope-bench fetch blip-vqa"
            )
        self.tokenizer = import_transformers().BertTokenizer(
            vocab=words, do_lower_case=True, model_max_length=512
        )

    def tokenize(self, question: str) -> list[int]:
        """The question, lower case and without marks, as [ENC] words [SEP]; at most 35 tokens."""
        found = list(
            self.tokenizer(
                clean_question(question), truncation=True, max_length=MAX_QUESTION_TOKENS
            )["input_ids"]
        )
        return [ENCODE, *found[1:]]


def clean_question(question: str) -> str:
    """Lower case, without . ! \" ( ) * # : ; ~ and blanks at the end, its first fifty words."""
    text = re.sub(r"[.!\"()*#:;~]", "", question.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:50])


def yes_probabilities(
    network: Network, pixels: Tensor, questions: Sequence[list[int]]
) -> list[float]:
    """P(yes) / (P(yes) + P(no)) of the answer's first word, for tokenised questions about an image
    (1, 3, 480, 480).

    Questions of one length share a batch, none is padded.
    """
    seen = network.vision_model(pixel_values=pixels).last_hidden_state  # (1, 901, D)
    shares = [0.0] * len(questions)
    for length in sorted({len(q) for q in questions}):
        places = [i for i, q in enumerate(questions) if len(q) == length]
        ids = torch.tensor([questions[i] for i in places], device=pixels.device)  # (N, length)
        states = network.text_encoder(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=seen.expand(len(places), -1, -1),
        ).last_hidden_state  # (N, length, D)
        start = torch.full((len(places), 1), DECODE, device=pixels.device)
        logits = network.text_decoder(input_ids=start, encoder_hidden_states=states).logits[
            :, 0
        ]  # (N, words)
        pairs = logits[:, [YES, NO]].float().softmax(-1)[:, 0]  # the other words cancel
        for place, share in zip(places, pairs.tolist(), strict=True):
            shares[place] = share
    return shares
