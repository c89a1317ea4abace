"""A package of plug-ins on the path, as an installed one: a module and its entry points."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harope_bench.core import registry


def install_plugins(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    source: str,
    entries: Mapping[str, Mapping[str, str]],
    module: str = "toy_plugins",
) -> None:
    """Put a module with this source on the path, with entry points `name = attribute` by kind."""
    package = folder / "site"
    metadata = package / f"{module}-1.dist-info"
    metadata.mkdir(parents=True)
    (package / f"{module}.py").write_text(source)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    lines = []
    for kind, attributes in entries.items():
        lines.append(f"[harope_bench.{kind}]")
        lines += [f"{name} = {module}:{attribute}" for name, attribute in attributes.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, module, raising=False)
    registry.clear_cache()
