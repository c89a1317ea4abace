"""Types of objects of transformers, open_clip and mmdet, whose classes depend on the loaded model.

A protocol declares the members that the judges use, if all classes of an object have them. The
aliases of Any stand for objects whose members differ from class to class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Library = Any  # the module transformers, which imports its names on first use
AutoClass = Any  # a class with `from_pretrained`: of networks, processors or configurations
Network = Any  # a loaded network; the fields of its output depend on its class
# steps from image and text to a network's inputs; for detectors also from outputs to boxes
Processor = Any
Inputs = Any  # output of a processor: tensors by name, with a method `to`


class ModelConfig(Protocol):
    """Configuration of a model."""

    model_type: str


class EndTokens(Protocol):
    """Settings of text generation that say where an answer ends."""

    eos_token_id: int | None
    pad_token_id: int | None


class Tokenizer(EndTokens, Protocol):
    """Conversion of text to tokens and back."""

    unk_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        """Return the tokens of a text."""

    def decode(self, token_ids: Tensor, *, skip_special_tokens: bool) -> str:
        """Return the text of tokens (N,)."""


@runtime_checkable
class ChatProcessor(Protocol):
    """A processor of images and text with the chat template of its model.

    An empty `chat_template` means that the model has none.
    """

    tokenizer: Tokenizer
    chat_template: str | Mapping[str, str] | None

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, object]], **options: object
    ) -> Inputs:
        """Return the model's inputs for a conversation."""
