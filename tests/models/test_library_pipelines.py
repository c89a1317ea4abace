"""Any text-to-image pipeline of diffusers: ten classes of the library, small and random, are
registered and generate; no other sample, order, batch or interruption changes a bit of an image.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import library_pipelines
import pytest
import tiny_pipelines as tiny

tiny.needs_t2i()

import torch  # noqa: E402

from harope_bench.core.schema import Plan, Request  # noqa: E402
from harope_bench.data.run_folder import RunFolder  # noqa: E402
from harope_bench.models.load_checkpoint import (  # noqa: E402
    open_generator,
)
from harope_bench.models.register_checkpoint import register_checkpoint  # noqa: E402
from harope_bench.models.register_pipeline import Trial  # noqa: E402
from harope_bench.pipeline.generate import generate, make_plan  # noqa: E402

NO_TRIAL = Trial(is_skipped=True)
SETTINGS = {"resolution": 32, "steps": 2, "seed": 3}
COUNT = 3


@pytest.fixture(autouse=True)
def _prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.register_prompts(monkeypatch)


@pytest.fixture(params=library_pipelines.PIPELINES)
def registered(request: pytest.FixtureRequest, library_pipeline: Callable[[str], Path]) -> str:
    """The name of each pipeline, which is registered without trial images."""
    name: str = request.param
    register_small(name, library_pipeline(name))
    return name


def register_small(name: str, folder: Path, trial: Trial = NO_TRIAL, **drawing: Any) -> None:
    options = {**library_pipelines.OPTIONS.get(name, {}), **drawing}
    register_checkpoint(name, folder, {"drawing": options}, trial=trial)


def plan_of(name: str, **settings: Any) -> Plan:
    return make_plan(name, "four-prompts", {**SETTINGS, **settings})


def hashes(folder: Path) -> dict[int, str | None]:
    """The hash of each image of a run."""
    return {index: record.sha256 for index, record in RunFolder(folder).read_records().items()}


def generate_killed(plan: Plan, out: Path, generator: Any, after: int) -> None:
    """Generate in another process, which SIGKILL ends before image number `after` is stored."""
    calls = iter(range(1, after + 1))
    store = RunFolder.add_sample

    def deadly(*inputs: Any) -> Any:
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return store(*inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries keep threads
        child = os.fork()
    if child == 0:
        try:
            RunFolder.add_sample = deadly  # type: ignore[method-assign]
            generate(plan, range(COUNT), out, 1, generator)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


# --------------------------------------------------------------------- same request, same image


def test_images_do_not_depend_on_batch_order_split_or_kill(registered: str, tmp_path: Path) -> None:
    plan = plan_of(registered)
    generator = open_generator(plan.checkpoint, plan.settings)
    state = torch.random.get_rng_state()
    generate(plan, range(COUNT), tmp_path / "whole", 4, generator)
    expected = hashes(tmp_path / "whole")
    assert len(set(expected.values())) == COUNT, "prompts or noise do not change the image"
    assert torch.equal(torch.random.get_rng_state(), state)

    # Split into parts, the later ones first.
    for part in ([2], [0, 1]):
        generate(plan, part, tmp_path / "split", 1, generator)
    assert hashes(tmp_path / "split") == expected

    # Killed before the third image was stored, and resumed by another process's pipeline.
    generate_killed(plan, tmp_path / "killed", generator, after=3)
    assert len(hashes(tmp_path / "killed")) == 2
    reopened = open_generator(plan.checkpoint, plan.settings)
    generate(plan, range(COUNT), tmp_path / "killed", None, reopened)
    assert hashes(tmp_path / "killed") == expected

    # Several requests of one call, in another order.
    requests = [Request(index=i, prompt=prompt_of(i)) for i in (2, 0)]
    batch = generator.generate(requests, plan.settings)
    alone = generator.generate(requests[1:], plan.settings)
    assert not batch.failures
    assert (batch.images[1] == alone.images[0]).all()
    other_seed = plan.settings.model_copy(update={"seed": 4})
    assert (generator.generate(requests[1:], other_seed).images != alone.images).any()


def prompt_of(index: int) -> str:
    (request,) = tiny.PLUGIN.requests([index])
    return str(request.prompt)
