"""What can fail without an image fails before the first is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.core.errors import TooManyImagesError
from harope_bench.data.run_folder import RunFolder
from harope_bench.judges.micro.digits_net import DigitsNetJudge
from harope_bench.pipeline.evaluate import FeatureScoring, check_feature_scoring


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return tiny.register_tiny(tmp_path / "weights")


def score(checkpoint: str, out: Path, *words: object) -> Any:
    return CliRunner().invoke(
        main, ["eval", checkpoint, "--count", "20", "--out", str(out), *map(str, words)]
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--with", "fidelty"], "did you mean fidelity"),
        (["--profile", "adm,mar"], "evaluator fidelity has no profile 'mar'; choose one of adm, "),
        (["--profile", "adm-exact,clean"], "profile clean needs a judge of its own"),
        (["--rules", "corrected"], "has official rules, not corrected"),
        (["--judge", "digits-nett"], "did you mean digits-net"),
        (
            ["--judge", "clipscore"],
            (
                "judge clipscore extracts no features, its roles are similarity; choose a feature"
                " extractor"
            ),
        ),
        (["--judge", "inception-2015"], "harope-bench fetch inception-2015"),
        (["--reference", "gone.npz"], "reference gone.npz does not exist"),
    ],
)
def test_what_cannot_be_scored_is_not_drawn(
    words: list[str], complaint: str, checkpoint: str, tmp_path: Path
) -> None:
    message = score(checkpoint, tmp_path / "run", *words)
    assert (
        message.exit_code == 1 and complaint in message.output and message.output.count("\n") == 1
    )
    assert not (tmp_path / "run").exists()


def test_a_broken_reference_or_judge_is_found_first(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(
        tmp_path / "other.npz",
        mu=np.zeros(64),
        sigma=np.eye(64),
        judge="inception-2015",
        judge_sha256="ab" * 32,
        format=1,
    )
    message = score(checkpoint, tmp_path / "run", "--reference", tmp_path / "other.npz")
    assert "was made by inception-2015" in message.output
    monkeypatch.setattr(
        "harope_bench.judges.micro.micro_extractor.load_weights", lambda path, sha256: {}
    )
    message = score(checkpoint, tmp_path / "run")
    assert "judge digits-net does not fit: missing" in message.output
    assert not (tmp_path / "run").exists()


def test_what_can_be_scored_is_drawn_and_again_without_work(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(checkpoint, tmp_path / "run", "--profile", "adm,adm-exact").exit_code == 0
    assert len(RunFolder(tmp_path / "run").read_records()) == 20
    monkeypatch.setattr(
        DigitsNetJudge, "open", lambda self, device="cpu": pytest.fail("a network was opened")
    )
    assert score(checkpoint, tmp_path / "run", "--rescore").exit_code == 0


def test_a_subset_or_number_that_cannot_be_scored_is_said(checkpoint: str, tmp_path: Path) -> None:
    command_result = CliRunner().invoke(
        main, ["eval", checkpoint, "--subset", "0", "--out", str(tmp_path / "run")]
    )
    assert (
        command_result.exit_code == 1
        and "--subset chooses --count images, and no --count is given" in command_result.output
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        TooManyImagesError,
        match=(
            "imagenet-256 is scored on 50,000 images, --count asks for 50,176; give --count 50000"
        ),
    ):
        check_feature_scoring(tmp_path / "run", [FeatureScoring("imagenet-256")], count=50_176)
