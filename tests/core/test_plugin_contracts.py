"""Plug-ins have typed base classes: accessors reject what is not derived from them, and optional
members have defaults.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from harope_bench.core import registry
from harope_bench.core.conditioning import backbone_conditioning, suite_conditioning
from harope_bench.core.errors import MissingMemberError, OptionError, PluginError, WeightsError
from harope_bench.core.plugin_contracts import EvaluatorContract, SuiteContract
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.encodings.base import Encoding, load_encoding
from harope_bench.evaluators.base import (
    AnnotationEvaluator,
    Evaluator,
    FeatureEvaluator,
    load_annotation_evaluator,
    load_evaluator,
    load_feature_evaluator,
)
from harope_bench.judges.base import FeatureExtractor, Judge, load_feature_extractor, load_judge
from harope_bench.leaderboards.table_spec import Table, load_table
from harope_bench.models import weights_metadata
from harope_bench.models.backbones.base import (
    AdapterBackbone,
    Backbone,
    Classifier,
    DetectedFields,
    ImageGenerator,
    load_adapter_backbone,
    load_backbone,
)
from harope_bench.models.checkpoint_fields import (
    FIELD_NAMES,
    CheckpointFields,
    drop_empty_fields,
    known_fields,
)
from harope_bench.models.export_checkpoint import export_checkpoint
from harope_bench.models.load_checkpoint import (
    load_checkpoint_record,
    open_classifier,
    open_generator,
)
from harope_bench.models.samplers.base import Sampler, load_sampler
from harope_bench.suites.base import (
    ClassificationSuite,
    PromptSuite,
    Suite,
    load_classification_suite,
    load_prompt_suite,
    load_suite,
)

ACCESSORS: dict[str, tuple[Callable[[str], object], type]] = {
    "backbones": (load_backbone, Backbone),
    "encodings": (load_encoding, Encoding),
    "samplers": (load_sampler, Sampler),
    "suites": (load_suite, Suite),
    "judges": (load_judge, Judge),
    "evaluators": (load_evaluator, Evaluator),
}
NARROWER: list[tuple[str, Callable[[str], object], type]] = [
    ("backbones", load_adapter_backbone, AdapterBackbone),
    ("suites", load_prompt_suite, PromptSuite),
    ("suites", load_classification_suite, ClassificationSuite),
    ("judges", load_feature_extractor, FeatureExtractor),
    ("evaluators", load_feature_evaluator, FeatureEvaluator),
    ("evaluators", load_annotation_evaluator, AnnotationEvaluator),
]
# What the liars below are made of: they have the members of a plug-in, and are not derived from its
# base class.
DUCK = SimpleNamespace(
    task="generate",
    requested_conditioning=None,
    metrics=(),
    requests=lambda indices: [],
    conditioning=lambda config: None,
)


class BareBackbone(Backbone[Any]):
    """A backbone with what is required alone."""

    tile = 1


class Numbers(Suite):
    """A suite that leaves it to its first request what it asks for."""

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        return [Request(index=i, label=i) for i in indices]


BARE_BACKBONE, NUMBERS = BareBackbone(), Numbers()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A function that makes an attribute of this module known as the plug-in `toy` of a kind, as an
    installed package would.
    """

    def install(kind: str, attribute: str) -> None:
        point = metadata.EntryPoint("toy", f"{__name__}:{attribute}", f"harope_bench.{kind}")
        monkeypatch.setattr(
            metadata, "entry_points", lambda *, group: [point] if group == point.group else []
        )

    return install


# -------------------------------------------------------------------------------------------
# accessors


@pytest.mark.parametrize("kind", ACCESSORS)
def test_every_listed_plug_in_is_derived_from_the_base_class_of_its_kind(kind: str) -> None:
    load, base = ACCESSORS[kind]
    for name in registry.list_names(kind):
        plugin = load(name)
        assert plugin is registry.load_by_name(kind, name)
        assert issubclass(plugin, base) if isinstance(plugin, type) else isinstance(plugin, base), (
            name
        )


@pytest.mark.parametrize("kind", ACCESSORS)
def test_a_plug_in_that_only_looks_like_one_is_rejected_with_its_name_and_the_base_class(
    kind: str, install: Any
) -> None:
    load, base = ACCESSORS[kind]
    install(kind, "DUCK")
    with pytest.raises(PluginError) as excinfo:
        load("toy")
    text = str(excinfo.value)
    assert f"PLUGIN of {registry.singular_name(kind)} 'toy' must be" in text
    assert f"derived from {base.__module__}.{base.__name__}, it is of type SimpleNamespace" in text
    assert "\n" not in text


def test_lower_rooms_reject_it_as_well(install: Any) -> None:
    install("suites", "DUCK")
    with pytest.raises(
        PluginError, match=r"derived from harope_bench\.core\.plugin_contracts\.SuiteContract"
    ):
        suite_conditioning("toy")
    install("backbones", "DUCK")
    with pytest.raises(
        PluginError, match=r"derived from harope_bench\.core\.plugin_contracts\.BackboneContract"
    ):
        backbone_conditioning("toy", {})
    assert issubclass(Suite, SuiteContract) and issubclass(Evaluator, EvaluatorContract)


def test_tables_are_read_into_their_type() -> None:
    assert all(isinstance(load_table(name), Table) for name in registry.list_names("tables"))


def test_a_suite_without_a_declaration_asks_for_what_its_first_request_shows(install: Any) -> None:
    install("suites", "NUMBERS")
    assert suite_conditioning("toy").kind == "labels"


# --------------------------------------------------------------------------------------------
# defaults


def test_a_backbone_with_what_is_required_alone_has_every_optional_member() -> None:
    checkpoint_record, clue, settings = (
        load_checkpoint_record("digits-ape"),
        DetectedFields(None, {}),
        Settings(resolution=8, tile=1),
    )
    assert BARE_BACKBONE.convert_keys(checkpoint_record, {}) == {}
    assert BARE_BACKBONE.config_from_training_args({"model": "another"}) is None
    assert BARE_BACKBONE.set_class_count(clue, 7) is clue
    assert (
        BARE_BACKBONE.default_options("ape"),
        BARE_BACKBONE.published_defaults({}, {}),
        BARE_BACKBONE.packages,
        BARE_BACKBONE.has_lora,
        BARE_BACKBONE.conflicting_file_names,
    ) == ({}, {}, (), False, None)
    assert BARE_BACKBONE.resolve_settings(checkpoint_record, settings) is settings
    assert BARE_BACKBONE.profiling_inputs(None, 8, 1) is None
    assert (
        BARE_BACKBONE.check_foreign_weights({}, "ape", {}),
        BARE_BACKBONE.check_request(checkpoint_record, Request(index=0)),
        BARE_BACKBONE.merge_lora(None),
        BARE_BACKBONE.expose_attention(None),
    ) == (None,) * 4


@pytest.mark.parametrize(
    ("member", "call"),
    [
        ("build", lambda: BARE_BACKBONE.build("ape", {}, {})),
        ("detect_fields", lambda: BARE_BACKBONE.detect_fields({})),
        ("conditioning", lambda: BARE_BACKBONE.conditioning({})),
        ("sample", lambda: Sampler().sample(lambda x, time: x, None, 1, [])),
        ("requests", lambda: Suite().requests([0])),
        ("generate", lambda: ImageGenerator().generate([], Settings(resolution=8, tile=1))),
        ("classify", lambda: Classifier().classify(None)),
    ],
)
def test_a_required_member_that_is_missing_is_named(
    member: str, call: Callable[[], object]
) -> None:
    with pytest.raises(
        MissingMemberError,
        match=rf"^\S+ does not define `{member}`, which every plug-in of its kind must$",
    ):
        call()


@pytest.mark.parametrize(
    ("kind", "load", "base"), NARROWER, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_plugin_of_another_kind_is_rejected_by_its_name(
    kind: str, load: Callable[[str], object], base: type
) -> None:
    of_the_kind, message = 0, r"^(backbone|suite|judge|evaluator) {} .+; (give|choose) .+$"
    for name in registry.list_names(kind):
        plugin = registry.load_by_name(kind, name)
        if isinstance(plugin, base):
            assert load(name) is plugin
            of_the_kind += 1
        else:
            with pytest.raises(OptionError, match=message.format(name)):
                load(name)
    assert 0 < of_the_kind < len(registry.list_names(kind))


def test_what_a_backbone_cannot_do_is_said_by_its_name(tmp_path: Path, install: Any) -> None:
    with pytest.raises(
        OptionError, match="backbone mmdit-micro has no export; use its weights file as it is"
    ):
        export_checkpoint("shapes-harope", tmp_path / "w.safetensors", False)
    with pytest.raises(
        OptionError,
        match="backbone dit does not support adapter folders; give a file of its weights",
    ):
        load_adapter_backbone("dit")
    assert not list(tmp_path.iterdir())


def test_a_training_file_of_a_backbone_that_knows_none_is_rejected(
    monkeypatch: pytest.MonkeyPatch, install: Any, tmp_path: Path
) -> None:
    install("backbones", "BARE_BACKBONE")
    monkeypatch.setattr(weights_metadata, "training_arguments", lambda path: {"model": "Other-B/2"})
    with pytest.raises(
        WeightsError, match="was trained as Other-B/2, but backbone toy supports no training files"
    ):
        weights_metadata.config_of_training_file("toy", tmp_path / "w.pt")
    monkeypatch.setattr(weights_metadata, "training_arguments", lambda path: {})
    assert weights_metadata.config_of_training_file("toy", tmp_path / "w.pt") == {}


def test_a_checkpoint_opens_as_what_its_backbone_says_it_does() -> None:
    checkpoint_record, settings = (
        load_checkpoint_record("digits-deit-ape"),
        Settings(resolution=28, tile=2),
    )
    assert isinstance(open_classifier(checkpoint_record, settings), Classifier)
    with pytest.raises(
        OptionError, match=r"digits-deit-ape \(backbone deit\) is a classifier and cannot"
    ):
        open_generator(checkpoint_record, settings)
    generated_settings = Settings(resolution=28, tile=2, sampler="flow", steps=1, guidance=1)
    assert isinstance(
        open_generator(load_checkpoint_record("digits-ape"), generated_settings), ImageGenerator
    )
    with pytest.raises(
        OptionError, match=r"digits-ape \(backbone dit\) generates images and cannot"
    ):
        open_classifier(load_checkpoint_record("digits-ape"), generated_settings)


# ----------------------------------------------------------------------------------------------
# fields


def test_the_fields_that_can_be_stated_are_those_of_a_checkpoint() -> None:
    assert set(FIELD_NAMES) == set(Checkpoint.model_fields) == set(get_type_hints(CheckpointFields))


def test_what_is_not_stated_and_what_is_no_field_is_left_out() -> None:
    fields = {
        "steps": None,
        "guidance": 0.0,
        "options": {},
        "config": {"size": 0},
        "suite": "",
        "another": 1,
    }
    assert known_fields(fields) == {key: value for key, value in fields.items() if key != "another"}
    assert drop_empty_fields(known_fields(fields)) == {
        "guidance": 0.0,
        "config": {"size": 0},
        "suite": "",
    }
    assert fields["steps"] is None and "options" in fields  # what was given stays as it was


# -----------------------------------------------------------------------------------------------
# torch


def test_the_contracts_of_networks_are_read_without_torch() -> None:
    modules = [
        "models.backbones.base",
        "models.samplers.base",
        "suites.base",
        "judges.base",
        "evaluators.base",
        "models.weights_metadata",
    ]
    names = ", ".join(f"harope_bench.{name}" for name in modules)
    process = subprocess.run(
        [sys.executable, "-c", f"import sys, {names}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert process.stdout.strip() == "False", process.stderr
