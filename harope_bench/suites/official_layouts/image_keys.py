"""Keys of an image in a file name or a list, and the index in the suite that they determine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from harope_bench.core.errors import OptionError
from harope_bench.suites.base import PromptCase, PromptSuite

TEXT_KEYS = ("prompt", "id")
NUMBER_KEYS = ("prompt_index", "copy", "index")
KEYS = (*TEXT_KEYS, *NUMBER_KEYS)
PROMPT_KEYS = ("index", "prompt_index", "prompt", "id")  # any of these determines the prompt


class UnknownPromptError(OptionError):
    """No prompt of the suite has this text or item id."""


class ImageKeys:
    """The prompts of a suite by each key: number, text and item id."""

    def __init__(self, suite: PromptSuite, suite_name: str):
        self.suite = suite
        self.suite_name = suite_name
        self.prompt_count = suite.count // suite.copies

    def index(self, keys: Mapping[str, str | int]) -> int:
        """Return the index of the image with these keys; without a copy it is the first one.

        Raises:
            OptionError: There is no such prompt, copy or index, or the keys contradict each other.
        """
        copy = self._checked_number("copy", keys, self.suite.copies)
        prompts = {
            name: self._prompt_of_key(name, keys[name]) for name in PROMPT_KEYS[1:] if name in keys
        }
        if "index" in keys:
            index = self._checked_number("index", keys, self.suite.count)
            index_copy, prompts["index"] = divmod(index, self.prompt_count)
            if "copy" in keys and copy != index_copy:
                raise OptionError(f"index {index} is copy {index_copy}, given is copy {copy}")
            copy = index_copy

        if len(set(prompts.values())) > 1:
            details = ", ".join(f"{name} is prompt {prompt}" for name, prompt in prompts.items())
            raise OptionError(f"the keys contradict each other: {details}")
        return copy * self.prompt_count + next(iter(prompts.values()))

    def _checked_number(self, name: str, keys: Mapping[str, str | int], count: int) -> int:
        """Return a number of the keys, 0 if left out; raise OptionError unless 0 <= it < count."""
        number = int(keys.get(name, 0))
        if not 0 <= number < count:
            raise OptionError(
                f"{name} is {number}, {self.suite_name} has 0 to {count - 1:,} (numbers count"
                " from 0)"
            )
        return number

    def _prompt_of_key(self, name: str, value: str | int) -> int:
        """Return the index of the prompt with this value of the key `name`."""
        if name == "prompt_index":
            return self._checked_number(name, {name: value}, self.prompt_count)
        if name == "prompt":
            return self._prompt_of_text(str(value))
        return self._prompt_of_id(str(value))

    def _prompt_of_text(self, text: str) -> int:
        """Return the index of the prompt with this text; raise OptionError if several have it."""
        if text not in self._prompts_by_text:
            raise UnknownPromptError(f"{text[:80]!r} is no prompt of {self.suite_name}")
        if self._text_counts[text] > 1:
            raise OptionError(
                f"{text[:80]!r} occurs more than once in {self.suite_name}; give prompt_index"
            )
        return self._prompts_by_text[text]

    def _prompt_of_id(self, item: str) -> int:
        """Return the index of the prompt with this item id."""
        if not self._prompts_by_id:
            raise OptionError(f"{self.suite_name} has no item ids; give prompt_index or prompt")
        if item not in self._prompts_by_id:
            raise UnknownPromptError(f"{item[:80]!r} is no item id of {self.suite_name}")
        return self._prompts_by_id[item]

    @cached_property
    def _cases(self) -> list[PromptCase]:
        """Return the first copy of each prompt."""
        return [self.suite.case(prompt) for prompt in range(self.prompt_count)]

    @cached_property
    def _prompts_by_text(self) -> dict[str, int]:
        """Return the index of each prompt by its text."""
        return {case.prompt: case.prompt_index for case in self._cases}

    @cached_property
    def _text_counts(self) -> Counter[str]:
        """Return the number of prompts with each text."""
        return Counter(case.prompt for case in self._cases)

    @cached_property
    def _prompts_by_id(self) -> dict[str, int]:
        """Return the index of each prompt by its item id."""
        items = {case.prompt_index: case.item_id for case in self._cases}
        return {item: prompt for prompt, item in items.items() if item is not None}


def check_prompt_keys(names: set[str], description: str) -> None:
    """Raise OptionError unless one of these keys determines the prompt.

    Args:
        description: where the keys come from, for the message.
    """
    if not names & set(PROMPT_KEYS):
        choices = ", ".join(f"{{{name}}}" for name in PROMPT_KEYS)
        raise OptionError(
            f"{description} does not determine the prompt of an image; use one of {choices}"
        )
