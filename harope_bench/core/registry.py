"""The registry: plug-ins and TOML files by kind and name.

The name of an entry is the stem of its file. A Python module defines the plug-in as PLUGIN. Other
packages add plug-ins through entry points. Listing names imports nothing. Files and entry points
are read once per process (`clear_cache`).

Each kind has a typed loader (`load_backbone`, `load_suite`, ...) beside its base class. The loaders
call `load_plugin` or `load_plugin_class`, which check the base class.
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
from harope_bench.core.extras import missing_extra_error
from harope_bench.core.index_ranges import INDEX_DIGITS
from harope_bench.core.storage import home
from harope_bench.core.toml_file import read_toml

PACKAGE = Path(__file__).parents[1]
Plugin = TypeVar("Plugin")


@dataclass(frozen=True)
class PluginKind:
    """A kind of registered names.

    Attributes:
        folder: Folder of the package that is searched.
        suffix: Suffix of the files.
        group: Entry-point group by which other packages add names; None if they cannot.
    """

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
    "recipes": PluginKind("training/recipes", ".toml", "harope_bench.recipes"),
    "assets": PluginKind("assets", ".toml"),
}


# Suffixes of the files in the user's home that are entries, by kind.
USER_SUFFIXES = {"checkpoints": ".toml", "suites": ".json"}


@dataclass(frozen=True)
class RegistryEntry:
    """One registered name.

    Attributes:
        origin: Where it is defined, for messages.
        path: The file; None for an entry point.
        module: Dotted name of the module; None for a TOML file.
        attribute: Name of the plug-in in the module.
        is_made_from_path: Whether the attribute is a function that makes the plug-in from the path.
    """

    kind: str
    name: str
    origin: str
    path: Path | None = None
    module: str | None = None
    attribute: str = "PLUGIN"
    is_made_from_path: bool = False


def list_entries(kind: str) -> dict[str, RegistryEntry]:
    """Return the entries of a kind by name, sorted. Nothing is imported.

    Raises:
        UnknownNameError: There is no such kind.
        NameClashError: A name is registered twice.
    """
    if kind not in PLUGIN_KINDS:
        raise UnknownNameError("kind", kind, PLUGIN_KINDS)
    entries: dict[str, RegistryEntry] = {}
    for entry in [*_built_in_entries(kind), *_user_entries(kind), *_installed_entries(kind)]:
        if same_name_entry := entries.get(entry.name):
            raise NameClashError(
                f"{singular_name(kind)} {entry.name!r} is claimed by {same_name_entry.origin} and"
                f" by {entry.origin}; rename one of them"
            )
        entries[entry.name] = entry
    return dict(sorted(entries.items(), key=lambda item: natural_sort_key(item[0])))


def singular_name(kind: str) -> str:
    """Return the name of a kind in the singular."""
    return kind.removesuffix("s")


def natural_sort_key(name: str) -> tuple[object, ...]:
    """Return a sort key by which table10 follows table9."""
    digits = "".join(c for c in name if c in "0123456789")[:INDEX_DIGITS]
    return (name.rstrip("0123456789"), int(digits) if digits else -1, name)


def list_names(kind: str) -> list[str]:
    """Return the sorted names of a kind."""
    return list(list_entries(kind))


def find_entry(kind: str, name: str) -> RegistryEntry:
    """Return the entry of a name among the plug-ins of a kind, such as `judges`.

    Raises:
        UnknownNameError: There is no such name. The message suggests similar ones.
    """
    entries = list_entries(kind)
    if name not in entries:
        raise UnknownNameError(singular_name(kind), name, entries)
    return entries[name]


def load_by_name(kind: str, name: str) -> Any:  # Any: the loaders of the kinds are typed
    """Return the PLUGIN of a module, which is imported, or the fields of a TOML file."""
    return load_entry(find_entry(kind, name))


def load_plugin(kind: str, name: str, base: type[Plugin]) -> Plugin:
    """Return the plug-in of a name, an instance of the base class of its kind.

    Raises:
        UnknownNameError: There is no such plug-in. The message suggests similar names.
        PluginError: The plug-in is not an instance of `base`.
        BenchError: The module cannot be imported.
    """
    plugin = load_by_name(kind, name)
    if not isinstance(plugin, base):
        raise _base_class_error(kind, name, plugin, base, "an instance of a class")
    return plugin


def load_plugin_class(kind: str, name: str, base: type[Plugin]) -> type[Plugin]:
    """Return the plug-in of a name that is a class derived from `base`. Errors: `load_plugin`."""
    plugin = load_by_name(kind, name)
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise _base_class_error(kind, name, plugin, base, "a class")
    return plugin


def require_kind(plugin: object, base: type[Plugin], message: str) -> Plugin:
    """Check that a plug-in is an instance of a more specific base class, and return it.

    Args:
        base: The more specific base class.
        message: Message of the error.

    Raises:
        OptionError: The plug-in is not an instance of `base`.
    """
    if not isinstance(plugin, base):
        raise OptionError(message)
    return plugin


def _base_class_error(
    kind: str, name: str, plugin: object, base: type[object], type_text: str
) -> PluginError:
    if isinstance(plugin, type):
        plugin_text = f"the class {plugin.__name__}"
    else:
        plugin_text = f"of type {type(plugin).__name__}"
    return PluginError(
        f"PLUGIN of {singular_name(kind)} {name!r} must be {type_text} derived from"
        f" {base.__module__}.{base.__name__}, it is {plugin_text}"
    )


def load_entry(entry: RegistryEntry) -> Any:  # Any as for load_by_name
    """Return the plug-in of an entry, or the fields of its TOML file.

    Raises:
        MissingExtraError: A package of an extra is not installed.
        BenchError: The module or the file cannot be loaded.
    """
    if entry.module is None:
        assert entry.path is not None
        return read_toml(entry.path)
    try:
        module = importlib.import_module(entry.module)
        plugin = getattr(module, entry.attribute)  # an entry point may name another attribute
    except (ImportError, AttributeError) as error:
        purpose = f"{singular_name(entry.kind)} {entry.name}"
        if isinstance(error, ImportError) and (missing := missing_extra_error(purpose, error)):
            raise missing from error
        raise BenchError(
            f"{singular_name(entry.kind)} {entry.name!r} of {entry.origin} does not load: {error}"
        ) from error
    return plugin(entry.path) if entry.is_made_from_path else plugin


def clear_cache() -> None:
    """Clear the cache of files and entry points, for a process that adds plug-ins while it runs."""
    _is_plugin_file.cache_clear()
    _entry_points.cache_clear()


def _built_in_entries(kind: str) -> list[RegistryEntry]:
    """Return the entries of the package's own files."""
    plugin_kind = PLUGIN_KINDS[kind]
    entries = []
    folder = PACKAGE / plugin_kind.folder
    for file in sorted(folder.rglob(f"*{plugin_kind.suffix}")):
        if not _is_plugin_file(file):
            continue
        origin = f"harope_bench/{plugin_kind.folder}/{file.relative_to(folder).as_posix()}"
        is_module = plugin_kind.suffix == ".py"
        module = origin.removesuffix(".py").replace("/", ".") if is_module else None
        entries.append(RegistryEntry(kind, file.stem.replace("_", "-"), origin, file, module))
    return entries


@lru_cache(maxsize=4096)
def _is_plugin_file(file: Path) -> bool:
    """Return whether a file is an entry.

    A module without PLUGIN is shared code. `flags.toml` is shared by tables.
    """
    if file.suffix == ".py":
        return b"\nPLUGIN" in file.read_bytes()
    return file.stem != "flags"


def _user_entries(kind: str) -> list[RegistryEntry]:
    """Return the user's own checkpoints or files of prompts, each of which is a suite.

    Entries of other kinds come from installed packages.
    """
    folder = home() / kind
    if kind not in USER_SUFFIXES or not os.path.isdir(folder):
        return []
    files = sorted(folder.glob(f"*{USER_SUFFIXES[kind]}"))
    if kind == "checkpoints":
        return [RegistryEntry(kind, file.stem, str(file), file) for file in files]
    module = "harope_bench.suites.prompt_files"
    return [
        RegistryEntry(kind, file.stem, str(file), file, module, "load_prompt_file", True)
        for file in files
    ]


def _installed_entries(kind: str) -> list[RegistryEntry]:
    """Return the entries that installed packages add by entry points."""
    group = PLUGIN_KINDS[kind].group
    if group is None:
        return []
    entries = []
    for point in _entry_points(group, metadata.entry_points, tuple(sys.path)):
        package = point.dist.name if point.dist else "a package"
        origin = f"{package} ({point.value})"
        attribute = point.attr or "PLUGIN"
        entries.append(
            RegistryEntry(
                kind=kind,
                name=point.name,
                origin=origin,
                path=None,
                module=point.module,
                attribute=attribute,
            )
        )
    return entries


@lru_cache(maxsize=64)
def _entry_points(
    group: str, scan: Callable[..., Sequence[metadata.EntryPoint]], path: tuple[str, ...]
) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of a group. The result is cached, because a scan takes 25 to 100 ms.

    Args:
        scan, path: `metadata.entry_points` and `sys.path`. They are part of the cache's key.
    """
    return tuple(scan(group=group))
