"""Requirements that are not met: found by a probe, listed in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from harope_bench.core.errors import (
    COMMAND_STARTS,
    BenchError,
    MissingAssetError,
    MissingExtraError,
    MissingRequirementsError,
    MissingVaeError,
    WeightsError,
)
from harope_bench.core.schema import Plan


class UnmetRequirement(NamedTuple):
    """Something that a run needs and that is missing, and the command that provides it.

    status: broken where it exists and is altered or damaged.
    is_blocking: a run cannot start without it. An annotator that runs in another Python is not
        blocking, because it can annotate after generation.
    """

    area: str
    name: str
    detail: str
    command: str
    status: Literal["missing", "broken"] = "missing"
    is_blocking: bool = True

    @property
    def text(self) -> str:
        """Return detail and command in one line without a semicolon."""
        is_command = self.command.startswith(COMMAND_STARTS)
        advice = f"run: {self.command}" if is_command else self.command
        text = f"{self.detail} - {advice}" if advice else self.detail
        return text.replace(";", ",")


def probe_requirement(
    area: str, name: str, probe: Callable[[], object], command: str
) -> UnmetRequirement | None:
    """Return the requirement for the error that a probe raises; None where it raises none.

    Advice of the error takes precedence over `command`.
    """
    try:
        probe()
    except MissingExtraError as error:
        return requirement_of_error("extra", name, error, command, "missing")
    except MissingAssetError as error:
        return requirement_of_error(area, name, error, command, "missing")
    except BenchError as error:
        return requirement_of_error(area, name, error, command, "broken")
    return None


def requirement_of_error(
    area: str, name: str, error: BenchError, command: str, status: Literal["missing", "broken"]
) -> UnmetRequirement:
    """Return the requirement for an error. Its advice takes precedence over `command`."""
    return UnmetRequirement(area, name, error.detail, error.advice or command, status)


def plan_or_requirement(make: Callable[[], Plan]) -> Plan | UnmetRequirement:
    """Return the plan, or what is missing to make it: a base, an autoencoder, a package.

    Raises:
        OptionError, UnknownNameError: The plan itself is wrong.
    """
    try:
        return make()
    except MissingExtraError as error:
        return requirement_of_error("extra", "plan", error, command="", status="missing")
    except (WeightsError, MissingVaeError) as error:
        return requirement_of_error("checkpoint", "plan", error, command="", status="missing")


def blocking_requirements(missing: Iterable[UnmetRequirement]) -> list[UnmetRequirement]:
    """Return the requirements without which no run can start."""
    return [requirement for requirement in missing if requirement.is_blocking]


def raise_missing(missing: Sequence[UnmetRequirement]) -> None:
    """Raise one error about all missing requirements, if any keeps a run from starting.

    Raises:
        MissingRequirementsError: One line with the count, and the command of each requirement.
    """
    requirements = unique_requirements(missing)
    if not blocking_requirements(requirements):
        return
    if len(requirements) == 1:
        raise MissingRequirementsError(requirements[0].detail, requirements[0].command)
    texts = "; ".join(
        f"({number}) {requirement.text}" for number, requirement in enumerate(requirements, 1)
    )
    raise MissingRequirementsError(f"{len(requirements)} requirements are not met: {texts}")


def unique_requirements(missing: Iterable[UnmetRequirement | None]) -> list[UnmetRequirement]:
    """Return each requirement once; two are equal in area and detail.

    Extras are equal in their command too: one installation provides all packages of an extra.
    """
    by_key: dict[tuple[str, str], UnmetRequirement] = {}
    for item in missing:
        if item is not None:
            is_install = item.area == "extra" and item.command.startswith("pip install")
            by_key.setdefault((item.area, item.command if is_install else item.detail), item)
    return list(by_key.values())
