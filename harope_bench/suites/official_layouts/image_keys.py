"""What a file name or a list states of an image, turned into the image's index in a suite of
prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from harope_bench.core.errors import OptionError
from harope_bench.suites.base import PromptCase, PromptSuite

TEXT_KEYS = ("prompt", "id")
NUMBER_KEYS = ("prompt_index", "copy", "index")
KEYS = (*TEXT_KEYS, *NUMBER_KEYS)
PROMPT_KEYS = ("index", "prompt_index", "prompt", "id")  # one of these tells the prompt


class UnknownPromptError(OptionError):
    """A text or an item id that no prompt of the suite has."""


class ImageKeys:
    """The prompts of a suite by each key that can name one: number, text and item id."""

    def __init__(self, suite: PromptSuite, suite_name: str):
        self.suite = suite
        self.suite_name = suite_name
        self.prompt_count = suite.count // suite.copies

    def index(self, keys: Mapping[str, str | int]) -> int:
        """Return the index that these keys name; without a copy it is the first.

        Raises:
            OptionError: No such prompt, copy or index, or keys that contradict each other.
        """
        copy = self._checked_number("copy", keys, self.suite.copies)
        prompts = {
            name: self._prompt_of_key(name, keys[name]) for name in PROMPT_KEYS[1:] if name in keys
        }
        if "index" in keys:
            index = self._checked_number("index", keys, self.suite.count)
            prompts["index"] = index % self.prompt_count
            if "copy" in keys and copy != index // self.prompt_count:
                raise OptionError(
                    f"index {index} is copy {index // self.prompt_count}, stated is copy {copy}"
                )
            copy = index // self.prompt_count

        if len(set(prompts.values())) > 1:
            stated = ", ".join(f"{name} is prompt {prompt}" for name, prompt in prompts.items())
            raise OptionError(f"what is stated differs: {stated}")
        return copy * self.prompt_count + next(iter(prompts.values()))

    def _checked_number(self, name: str, keys: Mapping[str, str | int], count: int) -> int:
        number = int(keys.get(name, 0))
        if not 0 <= number < count:
            raise OptionError(
                f"{name} is {number}, {self.suite_name} has 0 to {count - 1:,} (numbers count"
                " from 0)"
            )
        return number

    def _prompt_of_key(self, name: str, value: str | int) -> int:
        if name == "prompt_index":
            return self._checked_number(name, {name: value}, self.prompt_count)
        return (
            self._prompt_of_text(str(value)) if name == "prompt" else self._prompt_of_id(str(value))
        )

    def _prompt_of_text(self, text: str) -> int:
        if text not in self._prompts_by_text:
            raise UnknownPromptError(f"{text[:80]!r} is no prompt of {self.suite_name}")
        if self._text_counts[text] > 1:
            raise OptionError(
                f"{text[:80]!r} stands more than once in {self.suite_name}; state prompt_index"
            )
        return self._prompts_by_text[text]

    def _prompt_of_id(self, item: str) -> int:
        if not self._prompts_by_id:
            raise OptionError(f"{self.suite_name} has no item ids; state prompt_index or prompt")
        if item not in self._prompts_by_id:
            raise UnknownPromptError(f"{item[:80]!r} is no item id of {self.suite_name}")
        return self._prompts_by_id[item]

    @cached_property
    def _cases(self) -> list[PromptCase]:
        return [self.suite.case(prompt) for prompt in range(self.prompt_count)]

    @cached_property
    def _prompts_by_text(self) -> dict[str, int]:
        return {case.prompt: case.prompt_index for case in self._cases}

    @cached_property
    def _text_counts(self) -> Counter[str]:
        return Counter(case.prompt for case in self._cases)

    @cached_property
    def _prompts_by_id(self) -> dict[str, int]:
        """Return the prompt of each item id, which an evaluator's facts hold as `item`."""
        items = {case.prompt_index: item_id(case) for case in self._cases}
        return {item: prompt for prompt, item in items.items() if item is not None}


def item_id(case: PromptCase) -> str | None:
    """Return the suite's own id of a prompt, None where it has none."""
    items = [str(facts["item"]) for facts in case.metadata.values() if "item" in facts]
    return items[0] if items else None


def check_prompt_keys(names: set[str], where: str) -> None:
    """Raise OptionError unless these keys tell a prompt."""
    if not names & set(PROMPT_KEYS):
        choices = ", ".join(f"{{{name}}}" for name in PROMPT_KEYS)
        raise OptionError(f"{where} does not tell the prompt of an image; state one of {choices}")
