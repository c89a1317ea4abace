"""Class attributes of a plug-in, read from its source, so that nothing heavy is imported."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from harope_bench.core.errors import BenchError
from harope_bench.core.registry import RegistryEntry
from harope_bench.core.text_file import read_text

OWN_PACKAGE = "harope_bench."
Literal = str | int | float | bool | None | tuple[object, ...] | dict[str, object]


def read_class_attributes(entry: RegistryEntry) -> dict[str, Literal]:
    """Return the literal attributes of the class of a plug-in, by name.

    Attributes that a base class of this package sets are included. A call with keywords, such as
    `EncodingProperties(relative=True)`, is returned as a dict of its keywords. Attributes that are
    computed are left out.

    Raises:
        BenchError: The source cannot be found or parsed.
    """
    path = _source_path(str(entry.module)) if entry.path is None else entry.path
    tree = _parse(path)
    attributes: dict[str, Literal] = {}
    for class_node in reversed(_with_bases(tree, _plugin_class(tree, entry.attribute))):
        for statement in class_node.body:
            attributes |= _literal_assignment(statement)
    return attributes


def _source_path(module: str) -> Path:
    """Return the file of a module; only its parent packages may be imported."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise BenchError(f"there is no module {module}; reinstall its package")
    return Path(spec.origin)


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(read_text(path))
    except SyntaxError as error:
        raise BenchError(f"{path} is no Python source: {error.msg}") from error


def _plugin_class(tree: ast.Module, attribute: str) -> str:
    """Return the name of the class that PLUGIN is, or is an instance of; empty if unclear."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == attribute for target in node.targets
        ):
            value = node.value.func if isinstance(node.value, ast.Call) else node.value
            return value.id if isinstance(value, ast.Name) else ""
    return attribute  # the entry point names the class itself


def _with_bases(tree: ast.Module, name: str) -> list[ast.ClassDef]:
    """Return a class and its bases in this module and in those that it imports, the class first.

    Bases outside this package are left out.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [_base_name(base) for base in node.bases]
            return [node, *(n for base in bases if base != name for n in _with_bases(tree, base))]
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith(OWN_PACKAGE):
            continue
        if any((alias.asname or alias.name) == name for alias in node.names):
            return _with_bases(_parse(_source_path(str(node.module))), name)
    return []


def _base_name(base: ast.expr) -> str:
    """Return the name of a base class; empty if it is not a plain name or a generic of one."""
    if isinstance(base, ast.Subscript):
        base = base.value
    return base.id if isinstance(base, ast.Name) else ""


def _literal_assignment(statement: ast.stmt) -> dict[str, Literal]:
    """Return name and value of an assignment of a literal or of a call with literal keywords."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return {}
    if not isinstance(target, ast.Name) or statement.value is None:
        return {}
    value = statement.value
    try:
        if isinstance(value, ast.Call) and value.keywords and not value.args:
            keywords = {str(k.arg): ast.literal_eval(k.value) for k in value.keywords}
            return {target.id: keywords}
        return {target.id: ast.literal_eval(value)}
    except ValueError:
        return {}
