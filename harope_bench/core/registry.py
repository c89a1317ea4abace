"""Names to things: a file's stem is its name, a module's PLUGIN is the thing.

Listing reads files and entry points and imports nothing. Each is read once a process; `clear_cache`
forgets them.

The typed accessors (`load_backbone`, `load_suite`, ...) are beside the base class of each kind, in
its room's `base`: they
call `load_plugin` or `load_plugin_class`, which reject what is not derived from that class.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from harope_bench.core.errors import (
    BenchError,
    NameClashError,
    OptionError,
    PluginError,
    UnknownNameError,
)
from harope_bench.core.index_ranges import INDEX_DIGITS
from harope_bench.core.storage import home
from harope_bench.core.toml_file import read_toml

PACKAGE = Path(__file__).parents[1]
Plugin = TypeVar("Plugin")


@dataclass(frozen=True)
class PluginKind:
    """One room of named things: where it lies and which entry-point group adds to it."""

    folder: str
    suffix: str
    group: str | None = None


PLUGIN_KINDS: Mapping[str, PluginKind] = {
    "encodings": PluginKind("encodings", ".py", "harope_bench.encodings"),
    "backbones": PluginKind("models/backbones", ".py", "harope_bench.backbones"),
    "samplers": PluginKind("models/samplers", ".py", "harope_bench.samplers"),
    "checkpoints": PluginKind("models/checkpoints", ".toml"),
    "suites": PluginKind("suites", ".py", "harope_bench.suites"),
    "judges": PluginKind("judges", ".py", "harope_bench.judges"),
    "evaluators": PluginKind("evaluators", ".py", "harope_bench.evaluators"),
    "tables": PluginKind("leaderboards/paper", ".toml", "harope_bench.tables"),
    "recipes": PluginKind("training/recipes", ".toml"),
    "assets": PluginKind("assets", ".toml"),
}


@dataclass(frozen=True)
class RegistryEntry:
    """One registered name. `module` is a dotted name for plug-ins in Python, `path` a file of
    facts.
    """

    kind: str
    name: str
    origin: str
    path: Path | None = None
    module: str | None = None
    attribute: str = "PLUGIN"


def list_entries(kind: str) -> dict[str, RegistryEntry]:
    """All entries of a kind by name, sorted; nothing is imported.

    Raises:
        UnknownName: no such kind.
        NameClash: two places claim one name; both are named.
    """
    if kind not in PLUGIN_KINDS:
        raise UnknownNameError("kind", kind, PLUGIN_KINDS)
    found: dict[str, RegistryEntry] = {}
    for entry in [*_built_in_entries(kind), *_user_entries(kind), *_installed_entries(kind)]:
        if other := found.get(entry.name):
            raise NameClashError(
                f"{singular_name(kind)} {entry.name!r} is claimed by {other.origin} and by"
                f" {entry.origin}; rename one of them"
            )
        found[entry.name] = entry
    return dict(sorted(found.items(), key=lambda item: natural_sort_key(item[0])))


def singular_name(kind: str) -> str:
    """A kind's name in the singular."""
    return kind.removesuffix("s")


def natural_sort_key(name: str) -> tuple[object, ...]:
    """Sort key that puts table10 after table9."""
    digits = "".join(c for c in name if c in "0123456789")[:INDEX_DIGITS]
    return (name.rstrip("0123456789"), int(digits) if digits else -1, name)


def list_names(kind: str) -> list[str]:
    """The names of a kind, sorted."""
    return list(list_entries(kind))


def find_entry(kind: str, name: str) -> RegistryEntry:
    """The entry of that name; UnknownName offers the nearest."""
    known = list_entries(kind)
    if name not in known:
        raise UnknownNameError(singular_name(kind), name, known)
    return known[name]


def load_by_name(kind: str, name: str) -> Any:  # of any kind; the accessors of the kinds are typed
    """The thing itself: a module's PLUGIN (imported now), or the parsed facts of a TOML file."""
    return load_entry(find_entry(kind, name))


def load_plugin(kind: str, name: str, base: type[Plugin]) -> Plugin:
    """Return the plug-in of that name, an instance of the base class of its kind.

    Raises:
        UnknownName: No such plug-in; the nearest are offered.
        PluginError: Its class is not derived from `base`.
        BenchError: Its module does not load.
    """
    plugin = load_by_name(kind, name)
    if not isinstance(plugin, base):
        raise _base_class_error(kind, name, plugin, base, "an instance of a class")
    return plugin


def load_plugin_class(kind: str, name: str, base: type[Plugin]) -> type[Plugin]:
    """Return the plug-in of that name where it is a class derived from `base`; errors as
    `load_plugin` raises them.
    """
    plugin = load_by_name(kind, name)
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise _base_class_error(kind, name, plugin, base, "a class")
    return plugin


def require_kind(plugin: object, base: type[Plugin], message: str) -> Plugin:
    """Return the plug-in where it is of that narrower kind.

    Args:
        base: Base class of the narrower kind.
        message: What is wrong and what to do, for a plug-in of another kind.

    Raises:
        OptionError: It is of another kind.
    """
    if not isinstance(plugin, base):
        raise OptionError(message)
    return plugin


def _base_class_error(
    kind: str, name: str, plugin: object, base: type[object], needed: str
) -> PluginError:
    actual = (
        f"the class {plugin.__name__}"
        if isinstance(plugin, type)
        else f"of type {type(plugin).__name__}"
    )
    return PluginError(
        f"PLUGIN of {singular_name(kind)} {name!r} must be {needed} derived from"
        f" {base.__module__}.{base.__name__}, it is {actual}"
    )


def load_entry(entry: RegistryEntry) -> Any:  # as load
    """Return what an entry stands for; BenchError if it does not load."""
    kind = entry.kind
    name = entry.name
    if entry.module is None:
        assert entry.path is not None
        return read_toml(entry.path)
    try:
        module = importlib.import_module(entry.module)
        return getattr(module, entry.attribute)  # the entry point names it
    except (ImportError, AttributeError) as error:
        raise BenchError(
            f"{singular_name(kind)} {name!r} of {entry.origin} does not load: {error}"
        ) from error


def clear_cache() -> None:
    """Forget which entry points were found and which files have a PLUGIN, for a process that
    installs or adds plug-ins while it runs.
    """
    _is_plugin_file.cache_clear()
    _entry_points.cache_clear()


def _built_in_entries(kind: str) -> list[RegistryEntry]:
    room = PLUGIN_KINDS[kind]
    listed = []
    folder = PACKAGE / room.folder
    for file in sorted(folder.rglob(f"*{room.suffix}")):
        if not _is_plugin_file(file):
            continue
        path = f"harope_bench/{room.folder}/{file.relative_to(folder).as_posix()}"
        module = path.removesuffix(".py").replace("/", ".") if room.suffix == ".py" else None
        listed.append(RegistryEntry(kind, file.stem.replace("_", "-"), path, file, module))
    return listed


@lru_cache(maxsize=4096)
def _is_plugin_file(file: Path) -> bool:
    """A module with a PLUGIN, or a file of facts but for the flags that tables share; what rooms
    share has none.
    """
    return b"\nPLUGIN" in file.read_bytes() if file.suffix == ".py" else file.stem != "flags"


def _user_entries(kind: str) -> list[RegistryEntry]:
    """A user's own checkpoints, read anew each time; other kinds come as packages."""
    folder = home() / "checkpoints"
    if kind != "checkpoints" or not os.path.isdir(folder):
        return []
    return [
        RegistryEntry(kind, file.stem, str(file), file) for file in sorted(folder.glob("*.toml"))
    ]


def _installed_entries(kind: str) -> list[RegistryEntry]:
    group = PLUGIN_KINDS[kind].group
    if group is None:
        return []
    points = _entry_points(group, metadata.entry_points, tuple(sys.path))
    return [
        RegistryEntry(
            kind,
            point.name,
            f"{point.dist.name if point.dist else 'a package'} ({point.value})",
            None,
            point.module,
            point.attr or "PLUGIN",
        )
        for point in points
    ]


@lru_cache(maxsize=64)
def _entry_points(
    group: str, scan: Callable[..., Sequence[metadata.EntryPoint]], path: tuple[str, ...]
) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of a group; a scan takes 25 to 100 ms.

    Args:
        scan, path: `metadata.entry_points` and where it looks. Part of the key, so that another
            function or path is looked at anew.
    """
    return tuple(scan(group=group))
