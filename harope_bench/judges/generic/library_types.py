"""Types of the objects of transformers, open_clip and mmdet, whose classes are known only when a
model is loaded.

What the judges use of an object is a protocol where all classes of it agree. The other names stand
for objects whose members
differ from class to class, so no protocol holds for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Library = Any  # the module transformers, which loads its names when they are read
AutoClass = Any  # a class of it with `from_pretrained`: of networks, processors or configurations
Network = Any  # a loaded network; the fields of its output are its class's own
# the steps from image and text to a network's inputs, and of detectors those from outputs to boxes
Processor = Any
Inputs = Any  # what a processor gives: tensors by name, with `to`


class ModelConfig(Protocol):
    """Configuration of a model."""

    model_type: str


class EndTokens(Protocol):
    """Settings of a model's own generation that say where an answer ends."""

    eos_token_id: int | None
    pad_token_id: int | None


class Tokenizer(EndTokens, Protocol):
    """Words to tokens and back."""

    unk_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        """Return the tokens of a text."""

    def decode(self, token_ids: Tensor, *, skip_special_tokens: bool) -> str:
        """Return the text of tokens (N,)."""


@runtime_checkable
class ChatProcessor(Protocol):
    """A processor of images and text that knows the chat form of its model; an empty
    `chat_template` is none.
    """

    tokenizer: Tokenizer
    chat_template: str | Mapping[str, str] | None

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, object]], **options: object
    ) -> Inputs:
        """Return the model's inputs for a conversation."""
