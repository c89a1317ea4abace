"""Starting points of plug-ins: a small installable package with an example, its test and README.

The examples are the modules of `harope_bench/testing/examples`. Each one is a working plug-in. The
new module is the example under the user's name.
"""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import (
    BenchError,
    NameClashError,
    OptionError,
    StorageError,
    UnknownNameError,
)

EXAMPLES = Path(__file__).parent / "examples"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME_LENGTH = 60
PYPROJECT = "pyproject.toml"


class Starter(NamedTuple):
    """The starting point of one kind of plug-in.

    Attributes:
        example: Registered name of the example.
        registry_kind: Kind under which the registry lists it.
        commands: Command lines that use the plug-in once it is installed. NAME stands for its name.
    """

    example: str
    registry_kind: str
    commands: tuple[str, ...]


STARTERS: Mapping[str, Starter] = {
    "encoding": Starter(
        "my-encoding",
        "encodings",
        (
            "harope-bench train digits-dit --encoding NAME --out runs/train/NAME",
            "harope-bench register NAME --weights runs/train/NAME/digits-NAME.safetensors",
            "harope-bench eval NAME --count 100 --out runs/NAME",
        ),
    ),
    "backbone": Starter(
        "my-backbone",
        "backbones",
        ("harope-bench train RECIPE.toml --encoding rope-axial --out runs/train/NAME",),
    ),
    "sampler": Starter(
        "my-sampler",
        "samplers",
        ("harope-bench eval digits-ape --sampler NAME --count 100 --out runs/NAME",),
    ),
    "suite": Starter(
        "my-suite",
        "suites",
        (
            "harope-bench reference IMAGES FILE.npz --judge digits-net",
            "harope-bench eval digits-ape --suite NAME --reference FILE.npz --out runs/NAME",
        ),
    ),
    "prompt-suite": Starter(
        "my-prompts",
        "suites",
        ("harope-bench eval shapes-harope --suite NAME --allow-missing --out runs/NAME",),
    ),
    "feature-extractor": Starter(
        "my-extractor",
        "judges",
        ("harope-bench reference IMAGES reference.npz --judge NAME",),
    ),
    "annotator": Starter(
        "my-annotator",
        "judges",
        ("harope-bench eval shapes-harope --with EVALUATOR --judge ROLE=NAME --out runs/NAME",),
    ),
    "evaluator": Starter(
        "my-evaluator",
        "evaluators",
        ("harope-bench eval digits-ape --with NAME --judge digits-net --out runs/NAME",),
    ),
    "prompt-evaluator": Starter(
        "my-prompt-evaluator",
        "evaluators",
        ("harope-bench eval shapes-harope --with NAME --judge vqa=shapes-vision --out runs/NAME",),
    ),
    "recipe": Starter(
        "my-recipe",
        "recipes",
        ("harope-bench train NAME --encoding rope-axial --out runs/train/NAME",),
    ),
    "table": Starter(
        "my-table",
        "tables",
        (
            "harope-bench reproduce NAME --scale micro --count 100 --out runs/NAME",
            "harope-bench table NAME --runs runs/NAME",
        ),
    ),
}


class NewPlugin(NamedTuple):
    """A plug-in that was added to a package.

    Attributes:
        paths: The files that were written, and pyproject.toml if it was changed.
        commands: The command lines that come next.
    """

    paths: tuple[Path, ...]
    commands: tuple[str, ...]


def create_plugin(kind: str, name: str, folder: Path | None = None) -> NewPlugin:
    """Write the example of a kind as a plug-in of this name.

    A folder with a pyproject.toml is a package: it gains the module, the test and the line of the
    entry point. Otherwise a new package is written. No file is overwritten.

    Args:
        kind: A key of STARTERS.
        name: Registered name of the new plug-in.
        folder: Folder of the package; by default NAME-plugin in the working folder.

    Raises:
        UnknownNameError: There is no such kind.
        OptionError: The name cannot be used, or the folder is no package.
        NameClashError: A plug-in of this name is registered.
        StorageError: A file exists, or cannot be written.
    """
    if kind not in STARTERS:
        raise UnknownNameError("kind", kind, STARTERS)
    starter = STARTERS[kind]
    check_plugin_name(starter, name)
    folder = folder or Path(f"{name}-plugin")
    if (folder / PYPROJECT).is_file():
        package = _find_package(folder)
        pyproject = add_entry_point(folder / PYPROJECT, starter, name, package)
        texts = {}
    else:
        package = _new_package_name(folder)
        pyproject = _pyproject_text(package, starter, name)
        texts = {
            folder / "README.md": _readme_text(kind, name, folder, package),
            folder / "src" / package / "__init__.py": "",
        }

    # The entry point is written last: it must not name a module that is not there.
    stem = name.replace("-", "_")
    texts[folder / "src" / package / f"{stem}.py"] = example_text(starter, name)
    texts[folder / "tests" / f"test_{stem}.py"] = _test_text(starter, name)
    _check_missing(texts)
    _write_texts({**texts, folder / PYPROJECT: pyproject})
    return NewPlugin((*texts, folder / PYPROJECT), next_commands(starter, name, folder))


def check_plugin_name(starter: Starter, name: str) -> None:
    """Raise OptionError for a name that is no module's, NameClashError for a registered one."""
    from harope_bench.core import registry

    is_plain = NAME_PATTERN.fullmatch(name) is not None and len(name) <= MAX_NAME_LENGTH
    if not is_plain or keyword.iskeyword(name):
        raise OptionError(
            f"{name[: MAX_NAME_LENGTH + 1]!r} is no name of a plug-in, wanted at most"
            f" {MAX_NAME_LENGTH} small letters, digits and single dashes, a letter first; write it"
            f" like {starter.example}"
        )
    entry = registry.list_entries(starter.registry_kind).get(name)
    if entry is not None:
        raise NameClashError(
            f"{registry.singular_name(entry.kind)} {name!r} is registered by {entry.origin}; choose"
            " another name"
        )


def class_name(name: str) -> str:
    """Return the class name of a plug-in's name.

    >>> class_name("my-2d-encoding")
    'My2dEncoding'
    """
    return "".join(word.capitalize() for word in name.split("-"))


def example_text(starter: Starter, name: str) -> str:
    """Return the source of an example, with its name, module and classes renamed."""
    example = starter.example
    stem = example.replace("-", "_")
    text = (EXAMPLES / f"{stem}.py").read_text(encoding="utf-8")
    text = text.replace(class_name(example), class_name(name))
    text = text.replace(stem, name.replace("-", "_"))
    return text.replace(example, name)


def entry_point_group(starter: Starter) -> str:
    """Return the entry-point group of a kind, by which the registry finds the plug-in."""
    return f"harope_bench.{starter.registry_kind}"


def next_commands(starter: Starter, name: str, folder: Path) -> tuple[str, ...]:
    """Return the commands that install, check and use a plug-in."""
    from harope_bench.core import registry

    kind = registry.singular_name(starter.registry_kind)
    return (
        f"pip install -e {folder}",
        f"harope-bench check {kind} {name}",
        *(command.replace("NAME", name) for command in starter.commands),
    )


# -------------------------------------------------------------------------------------- texts


def _pyproject_text(package: str, starter: Starter, name: str) -> str:
    return f"""[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{package.replace("_", "-")}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["harope-bench"]

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
"*" = ["*"]

[project.entry-points."{entry_point_group(starter)}"]
{_entry_point_line(name, package)}
"""


def _entry_point_line(name: str, package: str) -> str:
    return f'{name} = "{package}.{name.replace("-", "_")}"'


def _test_text(starter: Starter, name: str) -> str:
    return f'''"""Test of {name}, which must be installed: pip install -e ."""

from harope_bench.testing import check_plugin


def test_{name.replace("-", "_")}_keeps_its_contract() -> None:
    """The error lists every violation."""
    check_plugin("{starter.registry_kind}", "{name}")
'''


def _readme_text(kind: str, name: str, folder: Path, package: str) -> str:
    commands = "\n".join(next_commands(STARTERS[kind], name, Path(".")))
    return f"""# {package.replace("_", "-")}

Plug-ins of harope-bench. `{name}` is a working example: change `src/{package}/`, then run

```
{commands}
```

`harope-bench new KIND NAME --out .` adds another plug-in. Run `pip install -e .` again after that.
"""


# ----------------------------------------------------------------------------------- packages


def _new_package_name(folder: Path) -> str:
    """Return the import name of a new package, which is that of its folder.

    Raises:
        OptionError: The folder is in use, or its name is no name of a package.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise OptionError(
            f"{folder} exists and has no {PYPROJECT}; give --out the folder of a package, or a new"
            " folder"
        )
    title = folder.resolve().name.lower().replace("_", "-")
    package = title.replace("-", "_")
    if NAME_PATTERN.fullmatch(title) is None or keyword.iskeyword(package):
        raise OptionError(
            f"{folder.name!r} is no name of a package; give --out a folder of letters, digits and"
            " dashes"
        )
    if find_spec(package) is not None:
        raise NameClashError(
            f"a package {package} is installed; give --out a folder of another name"
        )
    return package


def _find_package(folder: Path) -> str:
    """Return the import name of the package in a folder: the only one below src."""
    names = sorted(path.parent.name for path in (folder / "src").glob("*/__init__.py"))
    if len(names) != 1:
        raise OptionError(
            f"{folder} has {len(names)} packages below src, wanted one; give --out a folder that"
            " `harope-bench new` wrote"
        )
    return names[0]


def add_entry_point(path: Path, starter: Starter, name: str, package: str) -> str:
    """Return the text of a pyproject.toml with one more entry point and no other change.

    Raises:
        OptionError: The entry point cannot be added as a line of text.
        NameClashError: The file has an entry point of this name.
        StorageError: The file is not TOML.
    """
    text = _read_exactly(path)
    fields = _parse_toml(text, path)
    group = entry_point_group(starter)
    line = _entry_point_line(name, package)

    # The expected fields decide whether the text was changed correctly.
    groups = fields.setdefault("project", {}).setdefault("entry-points", {})
    if name in groups.setdefault(group, {}):
        raise NameClashError(f"{path} has an entry point {name} in {group}; choose another name")
    groups[group][name] = f"{package}.{name.replace('-', '_')}"

    newline = "\r\n" if "\r\n" in text else "\n"
    title = re.escape(group)
    header = re.compile(rf"^\[project\.entry-points\.(\"{title}\"|'{title}')\][^\r\n]*", re.M)
    if match := header.search(text):
        new_text = f"{text[: match.end()]}{newline}{line}{text[match.end() :]}"
    else:
        start = text if text.endswith("\n") else text + newline
        new_text = f'{start}{newline}[project.entry-points."{group}"]{newline}{line}{newline}'
    try:
        is_correct = _parse_toml(new_text, path) == fields
    except StorageError:
        is_correct = False
    if not is_correct:
        raise OptionError(f"{path} lists entry points in another form; add {line} to {group}")
    return new_text


def _read_exactly(path: Path) -> str:
    """Return the text of a file with its own line endings."""
    from harope_bench.core.regular_file import TOML_BYTES, read_regular
    from harope_bench.core.storage import convert_os_errors

    with convert_os_errors(path):
        data = read_regular(path, TOML_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not UTF-8; save it as UTF-8") from error


def _parse_toml(text: str, path: Path) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    from harope_bench.core.toml_file import parse_toml

    try:
        return parse_toml(text.encode(), path)
    except BenchError as error:
        raise StorageError(f"{error}; correct it") from error


def _check_missing(paths: Mapping[Path, str]) -> None:
    """Raise StorageError if one of the files exists."""
    for path in paths:
        if os.path.lexists(path):
            raise StorageError(f"{path} exists; choose another name, or move it")


def _write_texts(texts: Mapping[Path, str]) -> None:
    """Write all files, in their order, to folders that are made where they are missing."""
    from harope_bench.core.storage import convert_os_errors, write_bytes

    for path, text in texts.items():
        with convert_os_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
