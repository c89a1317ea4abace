"""What `list -v` and `list --json` tell of each registered name: its facts and what it lacks.

Nothing is loaded for the facts but the plug-in's module or TOML file and the header of a weights
file. Hashes are the recorded ones; `doctor` computes them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeGuard

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.class_attributes import Literal, read_class_attributes
from harope_bench.core.errors import BenchError, MissingAssetError
from harope_bench.core.registry import RegistryEntry
from harope_bench.core.state_dicts import weights_header
from harope_bench.evaluators.base import load_evaluator
from harope_bench.judges.base import Annotator, JudgeChoice, load_judge
from harope_bench.leaderboards.table_spec import load_table
from harope_bench.models.load_checkpoint import find_weights_path, load_checkpoint_record
from harope_bench.pipeline.requirements import (
    checkpoint_requirement,
    judge_requirements,
    package_requirements,
    prompts_requirement,
)
from harope_bench.pipeline.unmet_requirements import UnmetRequirement
from harope_bench.suites.base import PromptSuite, load_suite
from harope_bench.training.recipe import read_recipe

Fact = str | int | bool | list[str] | None
Facts = Mapping[str, Fact]
Attributes = Mapping[str, Literal]
HASH_LENGTH = 12  # hex digits of a hash that a line shows


class PluginDescription(NamedTuple):
    """One registered name.

    Attributes:
        facts: What it is, by name of the fact.
        missing: What it needs and lacks, as text; empty if it is ready.
        advice: The command that provides what is missing, or what else to do; may be empty.
    """

    name: str
    origin: str
    facts: Facts
    missing: str = ""
    advice: str = ""

    def to_json(self) -> dict[str, Fact]:
        """Return all fields of the description as one JSON object."""
        status = "missing" if self.missing else "ready"
        fields: dict[str, Fact] = {"name": self.name, "origin": self.origin, "status": status}
        if self.missing:
            fields |= {"missing": self.missing, "advice": self.advice}
        return fields | dict(self.facts)

    @property
    def line(self) -> str:
        """Return the facts and the status in one line, without the name."""
        texts = [_fact_text(name, value) for name, value in self.facts.items()]
        if self.missing:
            advice = f"; {self.advice}" if self.advice else ""
            texts.append(f"missing: {self.missing}{advice}")
        else:
            texts.append("ready")
        return ", ".join(text for text in texts if text)


def describe_plugin(entry: RegistryEntry) -> PluginDescription:
    """Return the description of a registered name.

    A plug-in that cannot be loaded is described by the error, which does not stop a list.
    """
    try:
        if entry.kind in SOURCE_FACTS:
            facts, requirement = SOURCE_FACTS[entry.kind](read_class_attributes(entry))
        else:
            facts, requirement = DESCRIBE[entry.kind](entry.name)
    except BenchError as error:
        return PluginDescription(
            entry.name, entry.origin, facts={}, missing=error.detail, advice=error.advice
        )
    if requirement is None:
        return PluginDescription(entry.name, entry.origin, facts)
    return PluginDescription(
        entry.name, entry.origin, facts, requirement.detail, requirement.command
    )


def _fact_text(name: str, value: Fact) -> str:
    """Return a fact as text: numbers, hashes and lists with their name, other texts alone."""
    if value is None or value == [] or value == "":
        return ""
    if name == "parameters" and isinstance(value, int):
        return f"{value / 1e6:.3g} M parameters"
    if name == "bytes" and isinstance(value, int):
        return f"{value / 1e6:.3g} MB"
    if name == "sha256" and isinstance(value, str):
        return f"sha256 {value[:HASH_LENGTH]}"
    if isinstance(value, bool):
        return name.replace("_", " ") if value else ""
    if isinstance(value, list):
        return f"{name.replace('_', ' ')}: {' '.join(map(str, value))}"
    if isinstance(value, int):
        return f"{name.replace('_', ' ')} {value:,}"
    return str(value)


Description = tuple[Facts, UnmetRequirement | None]


def _describe_checkpoint(name: str) -> Description:
    checkpoint = load_checkpoint_record(name)
    facts: dict[str, Fact] = {
        "backbone": checkpoint.backbone,
        "encoding": checkpoint.encoding,
        "scale": checkpoint.scale,
        "suite": checkpoint.suite,
        "sampler": checkpoint.sampler,
        "steps": checkpoint.steps,
        **_size_of_weights(find_weights_path(checkpoint)),
        "sha256": checkpoint.sha256 if checkpoint.has_known_weights else None,
    }
    return facts, checkpoint_requirement(checkpoint)


def _size_of_weights(path: Path) -> dict[str, Fact]:
    """Return bytes and, for an intact .safetensors file, parameters; empty without the file."""
    if not path.is_file():
        return {}
    size: dict[str, Fact] = {"bytes": path.stat().st_size}
    if path.suffix != ".safetensors":
        return size
    shapes = [
        entry.get("shape") if isinstance(entry, dict) else None
        for entry in weights_header(path).values()
    ]
    parameter_counts = [math.prod(shape) for shape in shapes if _is_shape(shape)]
    if len(parameter_counts) < len(shapes):
        return size  # the header is not what safetensors writes
    return {"parameters": sum(parameter_counts), **size}


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(length, int) for length in value)


def _describe_encoding(attributes: Attributes) -> Description:
    facts: dict[str, Fact] = {"source": _text(attributes, "source")}
    properties = attributes.get("properties")  # computed ones depend on the options
    if isinstance(properties, dict):
        facts |= {key: bool(value) for key, value in properties.items()}
    return facts, None


def _describe_backbone(attributes: Attributes) -> Description:
    packages = _texts(attributes, "packages")
    facts: Facts = {"source": _text(attributes, "source"), "packages": packages}
    return facts, next(iter(package_requirements(packages)), None)


def _describe_sampler(attributes: Attributes) -> Description:
    facts: Facts = {
        "predicts": f"predicts {_text(attributes, 'prediction_type')}",
        "spacings": _texts(attributes, "spacings"),
    }
    return facts, None


def _text(attributes: Attributes, name: str) -> str:
    value = attributes.get(name)
    return value if isinstance(value, str) else ""


def _texts(attributes: Attributes, name: str) -> list[str]:
    value = attributes.get(name)
    return [str(text) for text in value] if isinstance(value, tuple) else []


def _describe_suite(name: str) -> Description:
    suite = load_suite(name)
    requirement = prompts_requirement(name) if isinstance(suite, PromptSuite) else None
    facts: dict[str, Fact] = {"title": suite.title, "resolution": suite.resolution}
    if requirement is None:
        facts["count"] = suite.count
    facts |= {"evaluators": list(suite.evaluators), "version": suite.version}
    return facts, requirement


def _describe_judge(name: str) -> Description:
    """Return the facts of a judge, and the first requirement of it that is not met.

    The fact "class" is its judge class: official, equivalent, substitute or micro.
    """
    judge = load_judge(name)
    is_annotator = isinstance(judge, Annotator)
    facts: dict[str, Fact] = {
        "type": "annotator" if is_annotator else "feature extractor",
        "class": "runs a model that you provide" if judge.needs_model else judge.judge_class,
        "roles" if is_annotator else "arrays": list(judge.roles if is_annotator else judge.arrays),
        "version": judge.version,
    }
    if judge.needs_model:
        facts["model"] = f"--judge ROLE={name}:FOLDER"
        return facts, None
    requirement = next(iter(judge_requirements(JudgeChoice(name))), None)
    if requirement is None:
        facts["sha256"] = judge.weights_sha256()
    return facts, requirement


def _describe_evaluator(name: str) -> Description:
    evaluator = load_evaluator(name)
    facts: Facts = {
        "metrics": [metric.name for metric in evaluator.metrics],
        "profiles": list(evaluator.profiles),
        "rules": list(evaluator.rules),
        "version": evaluator.version,
        "parity": evaluator.parity,
    }
    return facts, None


def _describe_table(name: str) -> Description:
    table = load_table(name)
    facts: Facts = {
        "title": table.title,
        "rows": len(table.rows),
        "columns": [column.key for column in table.columns],
    }
    return facts, None


def _describe_recipe(name: str) -> Description:
    recipe, sha256 = read_recipe(name)
    fields = recipe.model_dump(mode="json")
    names = ("kind", "suite", "backbone", "judge")
    return {key: fields[key] for key in names if fields.get(key)} | {"sha256": sha256}, None


def _describe_asset(name: str) -> Description:
    asset = local_files.load_asset(name)
    sizes = [file.bytes for file in asset.files if file.bytes]
    facts: Facts = {
        "title": asset.title,
        "licence": asset.licence,
        "bytes": sum(sizes) if len(sizes) == len(asset.files) else None,
        "trust": "; ".join(sorted({file.verification for file in asset.files})),
    }
    try:
        for file in asset.files:
            local_files.require_local_file(name, file.name)
    except MissingAssetError as error:
        requirement = UnmetRequirement("asset", name, error.detail, error.advice)
        return facts, requirement
    return facts, None


DESCRIBE: Mapping[str, Callable[[str], Description]] = {
    "checkpoints": _describe_checkpoint,
    "suites": _describe_suite,
    "judges": _describe_judge,
    "evaluators": _describe_evaluator,
    "tables": _describe_table,
    "recipes": _describe_recipe,
    "assets": _describe_asset,
}
# Kinds whose modules import torch: their facts are read from the source.
SOURCE_FACTS: Mapping[str, Callable[[Attributes], Description]] = {
    "encodings": _describe_encoding,
    "backbones": _describe_backbone,
    "samplers": _describe_sampler,
}
assert {*DESCRIBE, *SOURCE_FACTS} == registry.PLUGIN_KINDS.keys()
