"""Base classes of the suites: what is optional has a default, what is missing is named, every
shipped suite is of one kind.
"""

from __future__ import annotations

from typing import Any

import pytest

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError, PluginError
from harope_bench.pipeline.generate import label_policy, preset_settings
from harope_bench.pipeline.reference_stats import open_reference
from harope_bench.pipeline.requirements import reference_requirement
from harope_bench.suites.base import (
    CaptionSuite,
    ClassificationSuite,
    LabelSuite,
    PromptSuite,
    Suite,
    load_prompt_suite,
    load_suite,
)
from harope_bench.suites.official_layouts import base as layouts

KINDS = (LabelSuite, CaptionSuite, PromptSuite, ClassificationSuite)


class MinimalSuite(LabelSuite):
    """A suite that defines what it must and nothing else."""

    version, title, count, resolution, evaluators = 1, "plain", 4, 8, ()
    judges: dict[str, str] = {}


@pytest.mark.parametrize("name", registry.list_names("suites"))
def test_every_shipped_suite_is_of_one_kind(name: str) -> None:
    suite = load_suite(name)
    assert sum(isinstance(suite, kind) for kind in KINDS) == 1
    assert suite.task == (
        "prompts"
        if isinstance(suite, PromptSuite)
        else "classify"
        if isinstance(suite, ClassificationSuite)
        else "generate"
    )
    assert suite.count >= 1 and suite.requested_conditioning is not None


def test_what_a_suite_leaves_out_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = MinimalSuite()
    assert (
        suite.has_exact_count,
        suite.profiles,
        suite.presets,
        suite.parent_suite,
        suite.requested_conditioning,
    ) == (False, {}, {}, None, None)
    assert suite.label_policy("balanced") is None and suite.reference("digits-net") is None
    with pytest.raises(OptionError, match="plain has no images of split 'train'"):
        suite.images("train")
    with pytest.raises(OptionError, match="suite plain leaves no choice of labels"):
        label_policy("plain", suite, "balanced")
    assert (
        label_policy("plain", suite, None) is None and preset_settings("plain", suite, None) == {}
    )
    with pytest.raises(OptionError, match="the suite has no reference for digits-net"):
        open_reference(suite, "digits-net", None)
    monkeypatch.setattr(registry, "load_by_name", lambda kind, name: suite)
    assert reference_requirement("plain", "digits-net") is None


@pytest.mark.parametrize(
    ("call", "member"),
    [
        (lambda: Suite().count, "count"),
        (lambda: LabelSuite().requests([0]), "requests"),
        (lambda: PromptSuite().case(0), "case"),
        (lambda: PromptSuite().prompts_source(), "prompts_source"),
        (lambda: ClassificationSuite().real_images(None, None), "real_images"),
    ],
)
def test_what_a_suite_must_define_is_named_where_it_is_missing(call: Any, member: str) -> None:
    with pytest.raises(MissingMemberError, match=f"does not define `{member}`"):
        call()


def test_a_suite_that_only_looks_like_one_or_has_no_prompts_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(OptionError, match="suite digits has no prompts"):
        load_prompt_suite("digits")
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: type("Duck", (), {"task": "draw", "count": 4})(),
    )
    with pytest.raises(
        PluginError,
        match=(
            r"suite 'duck' must be an instance of a class derived from"
            r" harope_bench\.suites\.base\.Suite"
        ),
    ):
        load_suite("duck")


@pytest.mark.parametrize("name", layouts.module_names())
def test_every_layout_declares_its_suites_and_whether_pictures_are_joined(name: str) -> None:
    module = layouts.load_layout(name)
    assert module.SUITE in module.SUITES and all(
        isinstance(load_suite(suite), PromptSuite) for suite in module.SUITES
    )
    assert module.IS_TILED is (name == "dpg")
