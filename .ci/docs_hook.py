"""Hook of mkdocs: pages that mkdocs.yml does not name follow those that it names, by folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Section of the navigation by folder of docs; other pages are at the end.
SECTIONS = {"guides": "How-to", "reference": "Reference", "explanation": "Explanation"}


def page_names(items: list[Any]) -> set[str]:  # Any: a name, or a dict of a title and more items
    """Return the pages that a part of the navigation names."""
    names: set[str] = set()
    for item in items:
        for value in item.values() if isinstance(item, dict) else [item]:
            names |= page_names(value) if isinstance(value, list) else {value}
    return names


def on_config(config: Any) -> None:  # Any: mkdocs.config.defaults.MkDocsConfig
    """Add the pages that the navigation lacks."""
    navigation = config["nav"]
    folder = Path(config["docs_dir"])
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    for name in sorted(names - page_names(navigation)):
        title = SECTIONS.get(Path(name).parts[0])
        section = next((item[title] for item in navigation if title in item), navigation)
        section.append(name)
