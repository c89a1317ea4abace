"""BLIP's network for visual question answering in transformers, its keys, and its tokenizer.

The defaults of transformers belong to another network: 384 pixels, norms of 1e-5 in the image
tower, 8 heads in the text towers, [CLS] as first token, and a text decoder that does not mask
padding of the question. Each of these is set here, and no question is padded.

Source: salesforce/BLIP:models/blip_vqa.py, models/vit.py, models/med.py, configs/med_config.json;
Karine-Huang/T2I-CompBench:BLIPvqa_eval/models/blip_vqa.py, data/utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harope_bench.core.errors import WeightsError
from harope_bench.core.text_file import read_text
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_model import import_transformers

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 480
PATCH = 16
POSITIONS = (SIDE // PATCH) ** 2 + 1  # patches and the class token
ENCODE = 30523  # [ENC], first token of a question
DECODE = 30522  # [DEC], first token of an answer
YES = 2748
NO = 2053
MAX_QUESTION_TOKENS = 35
MAX_QUESTION_WORDS = 50
VOCABULARY_SIZE = 30522  # of bert-base-uncased; BLIP adds [DEC] and [ENC]
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
# constants 0, 1, 2 ..., which are no weights
UNUSED_KEYS = (
    "text_encoder.embeddings.position_ids",
    "text_decoder.bert.embeddings.position_ids",
)
HEAD_PREFIX = "text_decoder.cls.predictions."
# pairs of equal tensors, of which a conversion may hold one
TIED_KEYS = {
    HEAD_PREFIX + "decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    HEAD_PREFIX + "decoder.bias": HEAD_PREFIX + "bias",
}
VISION_KEYS = {  # patterns of the published file's keys to transformers' keys
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
    """Return transformers' network of these sizes with BLIP's constants, its weights not set.

    Args:
        vision, text: sizes of the image tower and of the text towers, like VISION and TEXT.
    """
    import torch

    transformers = import_transformers()
    config = transformers.BlipConfig(
        vision_config={**vision, "image_size": SIDE, "patch_size": PATCH, "layer_norm_eps": 1e-6},
        text_config={
            **text,
            "encoder_hidden_size": vision["hidden_size"],
            "layer_norm_eps": 1e-12,
            "vocab_size": VOCABULARY_SIZE + 2,
            "tie_word_embeddings": False,  # the file holds both copies
        },
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = transformers.BlipForQuestionAnswering(config)
    return network.eval()


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the published file, or of a conversion of it, under transformers' keys.

    An unknown key stays as it is.
    """
    tensors = {_convert_key(key): tensor for key, tensor in state.items() if key not in UNUSED_KEYS}
    for key, equal_key in TIED_KEYS.items():
        if key not in tensors and equal_key in tensors:
            tensors[key] = tensors[equal_key]
    return tensors


def _convert_key(key: str) -> str:
    """Return transformers' key for a key of the published file."""
    for pattern, replacement in VISION_KEYS.items():
        key = re.sub(pattern, replacement, key)
    return key


def resize_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with position embeddings for 30 x 30 patches.

    A conversion may be for another image size. Its grid is resized bicubic, as BLIP's loader does.

    Raises:
        WeightsError: The positions are no square grid and a class token.
    """
    import torch
    from torch import nn

    key = "vision_model.embeddings.position_embedding"
    positions = state.get(key)
    if positions is None or positions.shape[1] == POSITIONS:
        return state
    side = round((positions.shape[1] - 1) ** 0.5)
    if positions.ndim != 3 or side * side + 1 != positions.shape[1]:
        raise WeightsError(
            f"{key} is {tuple(positions.shape)}, wanted (1, 1 + side * side, width); give BLIP's"
            " weights"
        )

    grid = positions[:, 1:].float().reshape(1, side, side, -1)  # (1, side, side, D)
    grid = grid.permute(0, 3, 1, 2)  # (1, D, side, side)
    grid = nn.functional.interpolate(
        grid, size=(SIDE // PATCH, SIDE // PATCH), mode="bicubic"
    )  # (1, D, 30, 30)
    patch_positions = grid.flatten(2).transpose(1, 2)  # (1, 900, D)
    class_position = positions[:, :1].float()  # (1, 1, D)
    return {**state, key: torch.cat([class_position, patch_positions], dim=1)}


class BlipTokenizer:
    """BERT's tokenizer with BLIP's first token and cleaning of questions."""

    def __init__(self, vocabulary: Path):
        lines = read_text(vocabulary).rstrip("\n").split("\n")
        token_ids = {word: number for number, word in enumerate(lines)}
        yes_and_no = (token_ids.get("yes"), token_ids.get("no"))
        if len(token_ids) != VOCABULARY_SIZE or yes_and_no != (YES, NO):
            raise WeightsError(
                f"{vocabulary} is not bert-base-uncased's vocabulary of {VOCABULARY_SIZE:,} words;"
                " harope-bench fetch blip-vqa"
            )
        self.tokenizer = import_transformers().BertTokenizer(
            vocab=token_ids, do_lower_case=True, model_max_length=512
        )

    def tokenize(self, question: str) -> list[int]:
        """Return the tokens of a question: [ENC], the words and [SEP], at most 35."""
        token_ids = list(
            self.tokenizer(
                clean_question(question), truncation=True, max_length=MAX_QUESTION_TOKENS
            )["input_ids"]
        )
        return [ENCODE, *token_ids[1:]]


def clean_question(question: str) -> str:
    """Return the first fifty words in lower case, without . ! \" ( ) * # : ; ~ and final blanks."""
    text = re.sub(r"[.!\"()*#:;~]", "", question.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:MAX_QUESTION_WORDS])


def yes_probabilities(
    network: Network, pixels: Tensor, questions: Sequence[list[int]]
) -> list[float]:
    """Return P(yes) / (P(yes) + P(no)) of the answer's first word, for each question.

    Questions of one length share a batch, so none is padded.

    Args:
        pixels: image (1, 3, 480, 480). questions: tokens of each question.
    """
    import torch

    image_states = network.vision_model(pixel_values=pixels).last_hidden_state  # (1, 901, D)
    probabilities = [0.0] * len(questions)
    for length in sorted({len(tokens) for tokens in questions}):
        indices = [i for i, tokens in enumerate(questions) if len(tokens) == length]
        token_ids = torch.tensor(
            [questions[i] for i in indices], device=pixels.device
        )  # (N, length)
        question_states = network.text_encoder(
            input_ids=token_ids,
            attention_mask=torch.ones_like(token_ids),
            encoder_hidden_states=image_states.expand(len(indices), -1, -1),
        ).last_hidden_state  # (N, length, D)

        start = torch.full((len(indices), 1), DECODE, device=pixels.device)
        logits = network.text_decoder(
            input_ids=start, encoder_hidden_states=question_states
        ).logits  # (N, 1, vocabulary)
        # the other words cancel in P(yes) / (P(yes) + P(no))
        yes_and_no = logits[:, 0][:, [YES, NO]].float().softmax(-1)  # (N, 2)
        for i, probability in zip(indices, yes_and_no[:, 0].tolist(), strict=True):
            probabilities[i] = probability
    return probabilities
