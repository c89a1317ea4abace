"""One loaded network for runs that it serves, to the same images; and what is kept beside it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_pipelines
import torch

from harope_bench.core import storage
from harope_bench.core.schema import Request, Settings
from harope_bench.core.storage import sha256_file_once
from harope_bench.models.backbones.diffusers_networks import LastCall
from harope_bench.models.backbones.flux import PLUGIN as FLUX
from harope_bench.models.load_checkpoint import KeptGenerator
from harope_bench.pipeline.generate import make_plan


def test_a_network_serves_other_seeds_and_no_other_precision(tmp_path: Path) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path), None, {})
    kept_generator = KeptGenerator()
    generator = kept_generator.open(plan.checkpoint, plan.settings)

    def changed_settings(**fields: object) -> Settings:
        return plan.settings.model_copy(update=fields)

    assert (
        kept_generator.open(plan.checkpoint, changed_settings(seed=3, steps=9, tile=2)) is generator
    )
    assert not kept_generator.serves(plan.checkpoint, changed_settings(dtype="bfloat16"))
    assert not kept_generator.serves(plan.checkpoint, changed_settings(resolution=56))
    assert kept_generator.open(plan.checkpoint, changed_settings(resolution=56)) is not generator
    kept_generator.release()
    assert not kept_generator.serves(plan.checkpoint, changed_settings(resolution=56))


def test_one_flux_pipeline_generates_every_size_as_a_fresh_one(tmp_path: Path) -> None:
    tiny_pipelines.needs_t2i()
    base = tiny_pipelines.save_pipeline(tmp_path / "base", "flux")
    checkpoint = tiny_pipelines.checkpoint("flux", config={"base": str(base), "text_tokens": 8})
    network = FLUX.build("rope-axial", {}, checkpoint.config)
    state = network.state_dict()
    small, large = (tiny_pipelines.settings(resolution=side, steps=2) for side in (32, 64))
    assert FLUX.opening_settings(small) == FLUX.opening_settings(large)
    clamped = large.model_copy(update={"mu_policy": "clamp"})
    assert FLUX.opening_settings(clamped) != FLUX.opening_settings(large)

    request = Request(index=3, prompt="a red cube")
    generator = FLUX.open(checkpoint, state, small)
    generator.generate([request], small)
    image = generator.generate([request], large).images
    expected = FLUX.open(checkpoint, state, large).generate([request], large).images
    assert np.array_equal(image, expected)


def test_the_last_call_is_kept_for_equal_arguments() -> None:
    calls = []

    def encode(prompt: str, embeddings: torch.Tensor | None = None, length: int = 8) -> list[str]:
        calls.append(prompt)
        return [prompt]

    encode_prompt = LastCall(encode)
    results = [encode_prompt(prompt) for prompt in ("a", "a", "b", "a")]
    assert results == [["a"], ["a"], ["b"], ["a"]]
    assert calls == ["a", "b", "a"]
    encode_prompt("a", length=9)
    encode_prompt("a", embeddings=torch.zeros(2))
    encode_prompt("a", embeddings=torch.zeros(2))
    assert calls == ["a", "b", "a", "a", "a", "a"]


def test_a_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    hashed = []

    def count_calls(file: Path) -> str:
        hashed.append(file)
        return storage.sha256_bytes(file.read_bytes())

    monkeypatch.setattr(storage, "sha256_file", count_calls)
    first = sha256_file_once(path)
    assert sha256_file_once(path) == first
    assert len(hashed) == 2  # the file is too young to be sure that it does not change again

    monkeypatch.setattr(storage, "SETTLED_SECONDS", -1.0)
    assert {sha256_file_once(path) for _ in range(3)} == {first}
    assert len(hashed) == 3
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert sha256_file_once(path) == storage.sha256_bytes(b"two")
