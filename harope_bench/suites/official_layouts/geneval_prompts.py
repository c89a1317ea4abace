"""The prompt of a suite that a metadata line of another program describes.

Known fields must agree, unknown fields are ignored, and missing fields are not required.
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
COMPARED_FIELDS = ("tag", "include", "exclude")  # besides the text, where a line has them
MAX_SHOWN_TEXT = 60  # characters of a text in a message


class UnknownMetadataError(ValueError):
    """A metadata line describes no prompt of the suite; the message has the reason."""


class PromptIndex:
    """The prompts of a suite by text and metadata."""

    def __init__(self, suite: PromptSuite):
        self.prompts_by_text: dict[str, list[int]] = {}
        self.metadata: dict[int, Metadata] = {}
        for prompt_index in range(suite.count // suite.copies):
            metadata = suite.case(prompt_index).metadata[METADATA_KEY]
            text = _normalise_text(metadata["prompt"])
            self.metadata[prompt_index] = metadata
            self.prompts_by_text.setdefault(text, []).append(prompt_index)

    def find(self, line: Metadata, number: int | None = None) -> int:
        """Return the index of the prompt that a metadata line describes.

        Args:
            number: index to prefer if several prompts fit; otherwise the first one is returned.

        Raises:
            UnknownMetadataError: No prompt has its text, a field has another type, or a field
                differs from the prompt's.
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
            spec = PartialPromptSpec.model_validate(line)
        except ValidationError as error:
            raise UnknownMetadataError(
                f"its metadata are not GenEval's ({validation_summary(error)})"
            ) from error

        equal_prompts = [
            prompt_index
            for prompt_index in candidates
            if not _differing_fields(spec, self.metadata[prompt_index])
        ]
        if not equal_prompts:
            field = _differing_fields(spec, self.metadata[candidates[0]])[0]
            raise UnknownMetadataError(f"`{field}` differs from that of the suite's prompt")
        return number if number in equal_prompts else equal_prompts[0]


def read_metadata_line(text: str) -> Metadata:
    """Return the object in a metadata file: the whole text, or else its first line.

    Raises:
        UnknownMetadataError: Neither is a JSON object.
    """
    for candidate in (text, text.strip().partition("\n")[0]):
        try:
            metadata = parse_json(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(metadata, dict):
            return metadata
    raise UnknownMetadataError("its metadata are no JSON object")


def _differing_fields(line_spec: PartialPromptSpec, official_metadata: Metadata) -> list[str]:
    """Return the fields that a line of the file has and that differ from the official metadata."""
    official_spec = PartialPromptSpec.model_validate(official_metadata)
    values = line_spec.model_dump(include=line_spec.model_fields_set)
    expected = official_spec.model_dump()
    return [
        field for field in COMPARED_FIELDS if field in values and values[field] != expected[field]
    ]


def _normalise_text(text: str) -> str:
    """Return a text with single spaces between its words."""
    return " ".join(text.split())


def shorten_reasons(reasons: Sequence[tuple[str, str]], max_reasons: int = 3) -> str:
    """Return the first pairs of name and reason as text, and the number of the others."""
    text = "; ".join(f"{name}: {reason}" for name, reason in reasons[:max_reasons])
    n_omitted = len(reasons) - max_reasons
    return f"{text}; and {n_omitted:,} more" if n_omitted > 0 else text
