"""Every registered plug-in keeps the contract of its kind, as far as its files are here."""

from __future__ import annotations

from contextlib import suppress

import pytest

from harope_bench import testing
from harope_bench.core import registry
from harope_bench.judges.base import load_judge
from harope_bench.models.backbones.base import ManifestBackbone, load_backbone
from harope_bench.testing.plugin import CHECKS, plural_kind

PLUGINS = [(kind, name) for kind in registry.PLUGIN_KINDS for name in registry.list_names(kind)]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_keeps_its_contract(kind: str, name: str) -> None:
    if not needs_files(kind, name):
        assert testing.check_plugin(kind, name) >= 4
        return
    with suppress(testing.UncheckedContractError):
        testing.check_plugin(kind, name)
        return
    # What could be checked holds; the error has a command or a hint for the rest.
    with pytest.raises(testing.UncheckedContractError) as error_info:
        testing.check_plugin(kind, name)
    assert error_info.value.advice


def needs_files(kind: str, name: str) -> bool:
    """Whether a plug-in needs what does not ship: weights, a pipeline, prompts, an object."""
    if kind == "judges":
        return load_judge(name).judge_class != "micro"
    if kind == "backbones":
        backbone = load_backbone(name)
        return isinstance(backbone, ManifestBackbone) or not backbone.has_weights_file
    if kind == "suites":
        return name in registry.list_names("assets") or name.startswith(("imagenet", "coco", "t2i"))
    return False


def test_every_kind_has_a_contract_and_a_public_check() -> None:
    assert set(CHECKS) == set(registry.PLUGIN_KINDS)
    for kind, check in CHECKS.items():
        name = f"check_{registry.singular_name(kind)}"
        assert getattr(testing, name) is check and name in testing.__all__


@pytest.mark.parametrize("kind", registry.PLUGIN_KINDS)
def test_a_kind_is_named_in_the_singular_or_the_plural(kind: str) -> None:
    assert plural_kind(kind) == plural_kind(registry.singular_name(kind)) == kind


@pytest.mark.parametrize("kind", ["tables", "recipes", "evaluators", "judges"])
def test_a_contract_is_checked_twice_with_the_same_result(kind: str) -> None:
    name = next(n for n in registry.list_names(kind) if not needs_files(kind, n))
    assert testing.check_plugin(kind, name) == testing.check_plugin(kind, name)
