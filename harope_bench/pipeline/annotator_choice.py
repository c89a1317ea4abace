"""Which annotators answer the queries of each role, and how they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.judges.base import JudgeChoice, load_judge


@dataclass(frozen=True)
class AnnotatorOptions:
    """How annotators run.

    Attributes:
        is_rescored: Only stored annotations are used; no judge is loaded.
        python: Python interpreter that runs an external judge.
        runner_options: Options of the external judge's script, by name.
    """

    device: str = "cpu"
    is_rescored: bool = False
    python: Path | None = None
    runner_options: Mapping[str, str] = field(default_factory=dict)


def parse_judges(
    text: str | None, default_judges: Mapping[str, str], roles: Sequence[str] | None = None
) -> dict[str, JudgeChoice]:
    """Return the judge of each role.

    Args:
        text: `--judge`: comma-separated `ROLE=NAME` or `ROLE=NAME:MODEL`, or NAME alone if there
            is one role. None selects the default judges.
        default_judges: The suite's judges by role.
        roles: Roles that the text may name; None for those of the default judges.

    Raises:
        OptionError: A role does not exist, or a judge does not have its role.
    """
    known_roles = tuple(default_judges) if roles is None else tuple(roles)
    judges = {role: _parse_judge(name) for role, name in default_judges.items()}
    for part in text.split(",") if text else ():
        role, equals, name = part.strip().partition("=")
        if not equals:
            name = role
            role = known_roles[0] if len(known_roles) == 1 else ""
        if role not in known_roles or not name:
            forms = ", ".join(f"{known_role}=NAME" for known_role in known_roles)
            raise OptionError(f"--judge {part!r} names no role; write one of {forms}")
        judges[role] = _parse_judge(name)
    for role, judge_choice in judges.items():
        _check_role(role, judge_choice)
    return judges


def _parse_judge(text: str) -> JudgeChoice:
    """Return the judge NAME or NAME:MODEL."""
    name, colon, model = text.partition(":")
    return JudgeChoice(name, model if colon else None)


def _check_role(role: str, judge_choice: JudgeChoice) -> None:
    """Raise OptionError if a judge does not have a role."""
    roles = load_judge(judge_choice.name).roles
    if role not in roles:
        raise OptionError(
            f"judge {judge_choice.name} does not have role {role}; its roles:"
            f" {', '.join(roles) or 'none, it extracts features'}"
        )
