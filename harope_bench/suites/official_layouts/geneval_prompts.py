"""Which prompt of a suite a foreign metadata line means: known fields are strict, unknown ones are
ignored, missing ones are not asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from harope_bench.core.escaping import printable_line
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import validation_summary
from harope_bench.evaluators.base import Metadata
from harope_bench.evaluators.rules.geneval import PartialPromptSpec
from harope_bench.suites.base import PromptSuite

METADATA_KEY = "geneval"
COMPARED_FIELDS = ("tag", "include", "exclude")  # beside the text, where a line has them
MAX_SHOWN_TEXT = 60  # characters of a foreign text


class UnknownMetadataError(ValueError):
    """A metadata line that means no prompt of the suite; the text says why."""


class PromptIndex:
    """The prompts of a suite by text and by what their metadata ask for."""

    def __init__(self, suite: PromptSuite):
        self.prompts_by_text: dict[str, list[int]] = {}
        self.metadata: dict[int, Metadata] = {}
        for prompt in range(suite.count // suite.copies):
            facts = suite.case(prompt).metadata[METADATA_KEY]
            self.metadata[prompt] = facts
            self.prompts_by_text.setdefault(_normalise_text(facts["prompt"]), []).append(prompt)

    def find(self, line: Metadata, number: int | None = None) -> int:
        """Return the prompt that a metadata line means; of several alike the one of that number,
        else the first.

        Raises:
            UnknownPromptError: Its text is no prompt's, a field has another type, or it asks for
                something else than the prompt.
        """
        text = line.get("prompt")
        if not isinstance(text, str):
            raise UnknownMetadataError("its metadata have no text in `prompt`")
        candidates = self.prompts_by_text.get(_normalise_text(text), [])
        if not candidates:
            raise UnknownMetadataError(
                f"{printable_line(text)[:MAX_SHOWN_TEXT]!r} is no prompt of the suite"
            )
        try:
            stated = PartialPromptSpec.model_validate(line)
        except ValidationError as error:
            raise UnknownMetadataError(
                f"its metadata are not GenEval's ({validation_summary(error)})"
            ) from error

        fitting = [
            prompt for prompt in candidates if not _differences(stated, self.metadata[prompt])
        ]
        if not fitting:
            field = _differences(stated, self.metadata[candidates[0]])[0]
            raise UnknownMetadataError(f"`{field}` is another than that of the suite's prompt")
        return number if number in fitting else fitting[0]


def read_metadata_line(text: str) -> Metadata:
    """Return the object of a metadata file: of the whole text, else of its first line.

    Raises:
        UnknownPromptError: Neither is a JSON object.
    """
    for part in (text, text.strip().partition("\n")[0]):
        try:
            found = parse_json(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    raise UnknownMetadataError("its metadata are no JSON object")


def _differences(stated: PartialPromptSpec, facts: Metadata) -> list[str]:
    """Return the fields that a line states and that the prompt has otherwise."""
    official = PartialPromptSpec.model_validate(facts)
    known = stated.model_dump(include=stated.model_fields_set)
    expected = official.model_dump()
    return [
        field for field in COMPARED_FIELDS if field in known and known[field] != expected[field]
    ]


def _normalise_text(text: str) -> str:
    return " ".join(text.split())


def shorten_reasons(reasons: Sequence[tuple[str, str]], most: int = 3) -> str:
    """Return the first reasons in words, each with the name of what it is of."""
    shown = "; ".join(f"{name}: {why}" for name, why in reasons[:most])
    return shown + (f"; and {len(reasons) - most:,} more" if len(reasons) > most else "")
