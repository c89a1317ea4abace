"""A training goes on from the snapshot that it wrote and from no other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from result_folders import flipped_files

from harope_bench.core.errors import WeightsError
from harope_bench.training import loop
from harope_bench.training.recipe import Schedule


def trainer_in(folder: Path, steps: int = 4) -> loop.Trainer:
    """Return a trainer of four steps with a snapshot after each second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
    schedule = Schedule(steps=steps, batch=1, lr=0.1, warmup=0, clip=1.0, seed=0, snapshot=2)
    return loop.Trainer(network, schedule, 0.9, folder, "me")


def refusal(folder: Path) -> str | None:
    """Return why a training does not go on; None where it does."""
    try:
        trainer_in(folder).resume()
    except WeightsError as error:
        return str(error)
    return None


def test_one_flipped_bit_of_a_snapshot_stops_the_training(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    trainer.train(
        lambda network, rng: network(torch.randn(1, 3, generator=rng)).square().sum(), "t"
    )
    path, rng, tally = tmp_path / "snapshot.pt", np.random.default_rng(0), Counter[str]()
    before = path.read_bytes()
    expected = torch.load(path, weights_only=True)["sha256"]
    for after in flipped_files(path, 60, rng):
        path.write_bytes(after)
        if (message := refusal(tmp_path)) is not None:
            assert "pass --no-resume" in message
            tally["found"] += 1
        else:  # of the archive's own fields, which nothing reads
            state = torch.load(path, weights_only=True)
            assert state.pop("sha256") == loop.state_digest(state) == expected
            tally["without effect"] += 1
    path.write_bytes(before)
    assert trainer_in(tmp_path).resume() == 4
    assert tally["found"] >= 20, tally


@pytest.mark.parametrize("part", ["network", "optimiser", "average", "step", "log"])
def test_every_part_of_a_snapshot_is_vouched_for(tmp_path: Path, part: str) -> None:
    trainer = trainer_in(tmp_path)
    trainer.train(
        lambda network, rng: network(torch.randn(1, 3, generator=rng)).square().sum(), "t"
    )
    state = torch.load(tmp_path / "snapshot.pt", weights_only=True)
    if part == "optimiser":
        state[part]["state"][0]["exp_avg"].view(torch.int32)[0, 0] ^= 1
    elif part in ("network", "average"):
        state[part]["weight"].view(torch.int32)[0, 0] ^= 1
    else:
        state[part] = state[part] * 2
    torch.save(state, tmp_path / "snapshot.pt")
    with pytest.raises(WeightsError, match="has changed since training wrote it"):
        trainer_in(tmp_path).resume()
