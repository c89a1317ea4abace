"""The contract of a plug-in of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harope_bench.testing.asset import check_asset
from harope_bench.testing.backbone import check_backbone
from harope_bench.testing.checkpoint import check_checkpoint
from harope_bench.testing.encoding import check_encoding
from harope_bench.testing.evaluator import check_evaluator
from harope_bench.testing.judge import check_judge
from harope_bench.testing.recipe import check_recipe
from harope_bench.testing.sampler import check_sampler
from harope_bench.testing.suite import check_suite
from harope_bench.testing.table import check_table

# By kind as in core/registry.py. Each check returns the number of its checks.
CHECKS: Mapping[str, Callable[[str], int]] = {
    "encodings": check_encoding,
    "backbones": check_backbone,
    "samplers": check_sampler,
    "checkpoints": check_checkpoint,
    "suites": check_suite,
    "judges": check_judge,
    "evaluators": check_evaluator,
    "tables": check_table,
    "recipes": check_recipe,
    "assets": check_asset,
}


def plural_kind(kind: str) -> str:
    """Return a kind as core/registry.py names it.

    Args:
        kind: in the singular or the plural: "encoding" or "encodings".

    Raises:
        UnknownNameError: There is no such kind.
    """
    from harope_bench.core import registry
    from harope_bench.core.errors import UnknownNameError

    for plural_name in registry.PLUGIN_KINDS:
        if kind in (plural_name, registry.singular_name(plural_name)):
            return plural_name
    raise UnknownNameError("kind", kind, map(registry.singular_name, registry.PLUGIN_KINDS))


def check_plugin(kind: str, name: str) -> int:
    """Check a registered plug-in against the contract of its kind, with default inputs.

    Args:
        kind: in the singular or the plural: "encoding" or "encodings".
        name: registered name; of a judge also NAME:MODEL, of a recipe also the path of a TOML file.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The plug-in violates the contract; every violation is listed.
        UncheckedContractError: Something is missing that a check needs; the others passed.
        UnknownNameError: There is no such kind or no such name.
        BenchError: The plug-in does not load.
    """
    return CHECKS[plural_kind(kind)](name)
