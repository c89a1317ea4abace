"""Option types: numbers, lists, devices and registered names, which shells complete."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from harope_bench.core.index_ranges import IndexRanges
    from harope_bench.core.record_base import Option
    from harope_bench.core.shard import Shard


class IndicesType(click.ParamType):
    """The option type of sample indices: `0-499`, `7` or `0-9,20-29`."""

    name = "indices"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> IndexRanges:
        """Return the indices in ascending order; raise a usage error if the text is invalid."""
        from harope_bench.core.index_ranges import parse_indices

        try:
            return parse_indices(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ShardType(click.ParamType):
    """The option type of a shard: `2/16`."""

    name = "shard"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shard:
        """Return the shard; raise a usage error if the text is none, or is outside of 1/N to N/N.

        A shard that was parsed already is returned.
        """
        from harope_bench.core.shard import Shard, parse_shard

        if isinstance(value, Shard):
            return value
        try:
            return parse_shard(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class WorkerCountType(click.ParamType):
    """The option type of a number of processes, or `auto`."""

    name = "workers"

    # Any: what click's own range takes, which differs between its versions
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number or "auto"; raise a usage error for anything else."""
        if value == "auto":
            return "auto"
        return click.IntRange(1, 100_000).convert(value, param, ctx)


class FiniteFloat(click.FloatRange):
    """The option type of a finite number in a range."""

    # Any: what click's own range takes, which differs between its versions
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; raise a usage error for nan, infinity or a number out of range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class ResolutionList(click.ParamType):
    """The option type of one or more resolutions: `56` or `28,56,112`."""

    name = "resolutions"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the resolutions in pixels; raise a usage error if one is not positive."""
        from harope_bench.core.index_ranges import parse_whole_number

        sides = [parse_whole_number(part.strip()) for part in str(value).split(",")]
        positive_sides = tuple(side for side in sides if side)
        if len(positive_sides) < len(sides):
            self.fail(f"{str(value)[:80]!r} is not a resolution; write 28 or 28,56", param, ctx)
        return positive_sides


class KeyValueType(click.ParamType):
    """The option type of `key=value`; a number, true or false is converted, other text is kept."""

    name = "key=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Option]:
        """Return the key and the value; raise a usage error without a key or an equals sign."""
        from harope_bench.core.json_file import parse_json

        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not key=value", param, ctx)
        try:
            json_value = parse_json(text)
        except ValueError:
            return key, text
        return key, json_value if isinstance(json_value, (bool, int, float)) else text


class DeviceType(click.ParamType):
    """The option type of a device: auto, cpu, cuda, cuda:N or mps; `auto` is resolved."""

    name = "device"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the device; raise a usage error if the text names none."""
        from harope_bench.core.device import parse_device

        try:
            return parse_device(str(value).lower())
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the devices that start with the incomplete text."""
        return _matching(("auto", "cpu", "cuda", "cuda:0", "mps"), incomplete)


class FormatType(click.Choice[str]):
    """The option type of an output format; long names stand for the short ones."""

    long_names = {"markdown": "md", "latex": "tex"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the short name of the format; raise a usage error for an unknown one."""
        name = str(value).lower()
        return super().convert(self.long_names.get(name, name), param, ctx)


class TextType(click.ParamType):
    """Base class of option types whose text is checked where it is used, not here."""

    name = "text"

    def candidates(self) -> Iterable[str]:
        """Return the texts that a shell offers; none unless a subclass knows some."""
        return ()

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the text unchanged."""
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the candidates that start with the incomplete text.

        Of a comma-separated list the last name is completed.
        """
        first_names, comma, last_name = incomplete.rpartition(",")
        matches = _matching(self.candidates(), last_name)
        return [CompletionItem(f"{first_names}{comma}{match.value}") for match in matches]


class WeightsType(click.Path):
    """The option type of weights: a path, or the address of an endpoint, which stays a text."""

    def __init__(self) -> None:
        """Accept paths that do not exist; their error names what is wanted."""
        super().__init__(path_type=Path)

    # Any: what click's own path takes, which differs between its versions
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return an address as a text, and every other value as a path."""
        from harope_bench.models.endpoints.address import is_address

        return value if is_address(value) else super().convert(value, param, ctx)


class RegisteredName(TextType):
    """The option type of a registered name, or of several, comma-separated."""

    def __init__(self, kind: str, can_be_path: bool = False) -> None:
        """Complete names of a kind, such as "suites"; of paths too with `can_be_path`."""
        self.kind = kind
        self.can_be_path = can_be_path

    def candidates(self) -> list[str]:
        """Return the registered names of the kind."""
        from harope_bench.core import registry

        return registry.list_names(self.kind)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the text, of `prompts:FILE` the name of its suite."""
        text = super().convert(value, param, ctx)
        if self.kind != "suites" or ":" not in text:  # which no registered name has
            return text
        from harope_bench.suites.prompt_files import resolve_suite_name

        return resolve_suite_name(text)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names, otherwise let the shell complete a path if the option takes one."""
        items = super().shell_complete(ctx, param, incomplete)
        if self.can_be_path and not items:
            return [CompletionItem(incomplete, type="file")]
        return items


class OwnCheckpoint(TextType):
    """The option type of a checkpoint that the user registered."""

    def candidates(self) -> list[str]:
        """Return the user's checkpoints, without those of this package."""
        from harope_bench.core import registry

        entries = registry.list_entries("checkpoints").values()
        return [entry.name for entry in entries if entry.origin == str(entry.path)]


class ProfileName(TextType):
    """The option type of profiles of evaluators, comma-separated."""

    def candidates(self) -> list[str]:
        """Return the profiles of all evaluators."""
        from harope_bench.core import registry
        from harope_bench.evaluators.base import load_evaluator

        evaluators = map(load_evaluator, registry.list_names("evaluators"))
        return sorted({profile for evaluator in evaluators for profile in evaluator.profiles})


class StarterKind(TextType):
    """The option type of the kinds of plug-ins that `new` writes."""

    def candidates(self) -> Iterable[str]:
        """Return the kinds."""
        from harope_bench.testing.new_plugin import STARTERS

        return STARTERS


class NameOfKind(TextType):
    """The option type of a registered name whose kind is the argument before it."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names of the kind that start with the incomplete text."""
        from harope_bench.core import registry

        kind = f"{str(ctx.params.get('kind', '')).removesuffix('s')}s"
        names = registry.list_names(kind) if kind in registry.PLUGIN_KINDS else []
        return _matching(names, incomplete)


class MetricName(TextType):
    """The option type of a metric's name."""

    def candidates(self) -> list[str]:
        """Return the metrics of all evaluators."""
        from harope_bench.core import registry
        from harope_bench.evaluators.base import load_evaluator

        evaluators = map(load_evaluator, registry.list_names("evaluators"))
        return sorted({metric.name for evaluator in evaluators for metric in evaluator.metrics})


class KindName(TextType):
    """The option type of a kind of registered names, such as "suites"."""

    def candidates(self) -> Iterable[str]:
        """Return the kinds."""
        from harope_bench.core import registry

        return registry.PLUGIN_KINDS


def _matching(texts: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the texts that start with the incomplete one, in upper or lower case."""
    start = incomplete.lower()
    return [CompletionItem(text) for text in texts if text.lower().startswith(start)]
