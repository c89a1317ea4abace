"""A small LLaVA with random weights and a vocabulary of two dozen words, as save_pretrained writes
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

VOCABULARY = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    "yes",
    "Yes",
    "no",
    "No",
    "user",
    "assistant",
    ":",
    "?",
    ".",
    "is",
    "it",
    "red",
    "blue",
    "a",
    "car",
    "Answer",
    "with",
    "or",
    "perhaps",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for c in m['content'] %}{% if c['type'] == 'image'"
    " %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}{% if"
    " add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer_of_words(without: tuple[str, ...] = ()) -> Any:
    """Return a tokenizer of whole words; those in `without` are unknown to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known_entries = {
        word: i for i, word in enumerate(w if w not in without else f"[{w}]" for w in VOCABULARY)
    }
    plain_tokenizer = Tokenizer(models.WordLevel(known_entries, unk_token="<unk>"))
    plain_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("?", "isolated")]
    )
    special_fields = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    tokenizer_fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain_tokenizer, model_max_length=512, **special_fields
    )
    tokenizer_fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer_fast


def save_vlm(
    folder: Path, chat: str | None = CHAT_TEMPLATE, without: tuple[str, ...] = (), seed: int = 6
) -> Path:
    """Save a small LLaVA; its own settings sample and punish repetition, which the judge must not
    do.
    """
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=VOCABULARY.index("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.LlavaForConditionalGeneration(config)
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    network.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, eos_token_id=2, pad_token_id=0
    )
    network.save_pretrained(folder)
    steps = transformers.CLIPImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    processor = transformers.LlavaProcessor(
        steps,
        tokenizer_of_words(without),
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat,
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder)
    return folder
