"""Facts of a plug-in that its source tells equal those of the loaded plug-in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import pytest

from harope_bench.core import registry
from harope_bench.core.class_attributes import read_class_attributes
from harope_bench.encodings.base import EncodingProperties, load_encoding
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.samplers.base import load_sampler


@pytest.mark.parametrize("name", registry.list_names("encodings"))
def test_facts_of_an_encoding_are_those_of_its_class(name: str) -> None:
    attributes = read_class_attributes(registry.find_entry("encodings", name))
    encoding = load_encoding(name)
    assert attributes["source"] == encoding.source
    properties = encoding.properties
    if isinstance(properties, EncodingProperties):
        assert attributes["properties"] == asdict(properties)
    else:
        assert "properties" not in attributes  # computed from the options


@pytest.mark.parametrize("name", registry.list_names("backbones"))
def test_packages_of_a_backbone_are_those_of_its_instance(name: str) -> None:
    attributes = read_class_attributes(registry.find_entry("backbones", name))
    assert attributes.get("packages", ()) == load_backbone(name).packages


@pytest.mark.parametrize("name", registry.list_names("samplers"))
def test_facts_of_a_sampler_are_those_of_its_instance(name: str) -> None:
    attributes = read_class_attributes(registry.find_entry("samplers", name))
    sampler = load_sampler(name)
    assert attributes["prediction_type"] == sampler.prediction_type
    assert attributes.get("spacings", ()) == sampler.spacings


def test_reading_imports_no_torch() -> None:
    script = (
        "import sys\nfrom harope_bench.core import registry\n"
        "from harope_bench.core.class_attributes import read_class_attributes as read\n"
        "for kind in ('encodings', 'backbones', 'samplers'):\n"
        "    for entry in registry.list_entries(kind).values(): read(entry)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
