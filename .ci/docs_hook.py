"""Hook of mkdocs: pages of docs/guides that mkdocs.yml does not name follow those that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECTION = "How-to"


def on_config(config: Any) -> None:  # Any: mkdocs.config.defaults.MkDocsConfig
    """Add every page of docs/guides to the section of how-to pages."""
    section = next(item[SECTION] for item in config["nav"] if SECTION in item)
    folder = Path(config["docs_dir"])
    for path in sorted((folder / "guides").glob("*.md")):
        name = path.relative_to(folder).as_posix()
        if name not in section:
            section.append(name)
