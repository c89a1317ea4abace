"""What a judge saw is kept once, with who looked; what cannot be scored is not kept, and scoring
again needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inception
import numpy as np
import pytest
import tiny

from harope_bench.core import checksums
from harope_bench.core.errors import SampleError, WeightsError
from harope_bench.data.image_io import encode_png
from harope_bench.data.result_store import EvaluatedResult
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.inception.inception_network import ENVIRONMENT_VARIABLE
from harope_bench.judges.micro.digits_net import DigitsNetJudge
from harope_bench.judges.micro.micro_extractor import LoadedMicroExtractor
from harope_bench.pipeline import extract_features
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate, evaluate_profiles
from harope_bench.pipeline.extract_features import JUDGE_FILE, shard_name
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.reference_stats import build_reference
from harope_bench.pipeline.verify import verify


@pytest.fixture
def run(tmp_path: Path) -> Path:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    generate(plan, range(50), tmp_path / "run")
    return tmp_path / "run"


def score(run: Path, **fields: Any) -> EvaluatedResult:
    (scored,) = evaluate(run, run, FeatureScoring("digits", **fields))
    return scored


def bytes_of(out: Path) -> dict[str, bytes]:
    """Results without who made them and when, and their arrays."""
    contents = {
        path.name: path.read_bytes()
        for path in sorted((out / "results").iterdir())
        if checksums.CHECKSUMS_FILE not in path.name
    }
    for name in [n for n in contents if n.endswith(".json")]:
        document = json.loads(contents[name])
        del document["provenance"]
        contents[name] = json.dumps(document).encode()
    return contents


def spoil_features(
    at: dict[str, list[int]], value: float
) -> Callable[[LoadedMicroExtractor, np.ndarray], dict[str, np.ndarray]]:
    """The judge with one value of these arrays and images altered."""
    original_extract = LoadedMicroExtractor.extract

    def extract(self: LoadedMicroExtractor, images: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {name: array.copy() for name, array in original_extract(self, images).items()}
        for name, indices in at.items():
            arrays[name][indices, 3] = value
        return arrays

    return extract


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_kept(
    run: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken_context:
        broken_context.setattr(
            LoadedMicroExtractor,
            "extract",
            spoil_features({"features": [7, 9], "logits": [9, 11, 12, 13, 14]}, value),
        )
        with pytest.raises(SampleError) as error:
            score(run)
    assert (
        str(error.value)
        == "judge digits-net gave features, logits that are not finite for images 7, 9, 11, 12, 13"
        " and 1 more, so nothing of them was stored; check these images, fetch the judge's weights"
        " again or use another --device, then run eval again"
    )
    assert sorted(p.name for p in (run / "features/digits-net").iterdir() if p.name[0] != ".") == [
        checksums.CHECKSUMS_FILE,
        JUDGE_FILE,
    ]
    assert (
        score(run).result.measurements[0].value is not None
    )  # with a sound judge nothing need be deleted


# ---------------------------------------------------------------------------- who looked


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = inception.write_weights(tmp_path / "random.pth")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    return path


def pictures(folder: Path, seed: int) -> Path:
    folder.mkdir()
    for i, image in enumerate(
        np.random.default_rng(seed)
        .integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
        .repeat(16, 1)
        .repeat(16, 2)
    ):
        (folder / f"{i}.png").write_bytes(encode_png(image))
    return folder


@pytest.mark.no_numbers
def test_scored_again_without_weights_the_bytes_are_equal(weights: Path, tmp_path: Path) -> None:
    """Samples and the reference's own images were both looked at; neither needs the network
    again.
    """
    reference = build_reference(
        open_samples(pictures(tmp_path / "real", 0)), tmp_path / "real.npz", "inception-2015"
    )
    generated_pictures, out = pictures(tmp_path / "drawn", 1), tmp_path / "out"
    expected = [
        FeatureScoring("imagenet-128", reference, profile=profile)
        for profile in ("adm", "torch-fidelity")
    ]
    evaluate_profiles(generated_pictures, out, expected)
    before = bytes_of(out)
    assert len(before) == 4
    weights.unlink()
    with pytest.raises(WeightsError, match="which is missing"):
        evaluate_profiles(
            generated_pictures, tmp_path / "other", expected
        )  # to look, they are needed
    again = evaluate_profiles(
        generated_pictures,
        out,
        [
            FeatureScoring("imagenet-128", reference, profile=first_again.profile, is_rescored=True)
            for first_again in expected
        ],
    )
    assert all(first_again.is_new for first_again in again) and bytes_of(out) == before
    assert (
        "judge: other weights than Inception of 2015's, or a copy with another hash; numbers do"
        " not compare with published ones" in again[0].result.warning_texts
    )
    (out / "features/inception-2015" / JUDGE_FILE).unlink()
    with pytest.raises(
        SampleError,
        match=(
            "does not record the weights of inception-2015, and they are not installed; run eval"
        ),
    ):
        evaluate_profiles(
            generated_pictures, out, [FeatureScoring("imagenet-128", reference, is_rescored=True)]
        )


def test_a_judge_that_changed_since_is_told_and_the_old_one_stands(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = score(run).result
    monkeypatch.setattr(DigitsNetJudge, "weights_sha256", lambda self: "ab" * 32)
    after = score(run, is_rescored=True).result
    assert after.judge == before.judge and after.measurements == before.measurements
    assert [line for line in after.warning_texts if line not in before.warning_texts] == [
        "judge: the installed digits-net differs from the recorded one in weights_sha256; the"
        " scores use the recorded features"
    ]


def test_observations_without_a_record_of_the_judge_are_scored_with_the_one_here(run: Path) -> None:
    score(run)
    before, path = bytes_of(run), run / "features/digits-net" / JUDGE_FILE
    for damage in (None, b"{", b'{"judge": {"name": "digits-net"}}'):
        path.unlink() if damage is None else path.write_bytes(damage)
        score(run, is_rescored=True)
        assert bytes_of(run) == before
    score(run)  # an ordinary call mends it
    assert json.loads(path.read_text())["judge"]["name"] == "digits-net"


# ---------------------------------------------------------------------------- how they looked


def test_shards_that_were_looked_at_in_different_ways_are_told(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_features, "SHARD_SIZE", 20)
    monkeypatch.setattr(
        LoadedMicroExtractor, "numerics", {"network": "folded", "tf32": False}, raising=False
    )
    first_result = score(run).result
    assert not any("different numerics" in line for line in first_result.warning_texts)
    assert {k: v for k, v in first_result.provenance.flags.items() if k.startswith("judge_")} == {
        "judge_device": "cpu",
        "judge_network": "folded",
        "judge_tf32": False,
    }
    path = run / "features/digits-net" / shard_name(1)
    for way_fields, message in (
        (
            {"device": "cuda", "network": "compiled", "tf32": False},
            "(1 compiled on cuda, 2 folded on cpu)",
        ),
        ({"device": "cuda"}, "(2 folded on cpu, 1 plain on cuda)"),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), "numerics": way_fields}))
        checksums.record_file_hashes(path.parent, [path.name])
        again = score(run, is_rescored=True).result
        assert again.measurements == first_result.measurements
        assert (
            f"judge: shards were extracted with different numerics {message}, so"
            " their last bits may differ" in again.warning_texts
        )
        assert again.provenance.flags["judge_device"] == "cpu, cuda"
    assert (
        verify(run, 0).altered_messages == []
    )  # the numbers stand; how they were come by is no fault
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "numerics"})
    )
    (path.parent / checksums.CHECKSUMS_FILE).unlink()  # of an older version
    assert not any(
        "different numerics" in line for line in score(run, is_rescored=True).result.warning_texts
    )


def test_a_reference_seen_by_another_judge_since_is_not_scored_against(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples and reference must be seen by the same weights, also when neither is looked at
    again.
    """
    np.savez(
        tmp_path / "images.npz",
        arr_0=np.random.default_rng(0).integers(0, 256, (90, 28, 28, 3), dtype=np.uint8),
    )
    score(run, reference=tmp_path / "images.npz")
    with monkeypatch.context() as other_context:
        other_context.setattr(DigitsNetJudge, "weights_sha256", lambda self: "ab" * 32)
        evaluate(run, tmp_path / "out", FeatureScoring("digits", tmp_path / "images.npz"))
    with pytest.raises(
        SampleError, match="lacks the digits-net features of 90 images; run eval without --rescore"
    ):
        score(run, reference=tmp_path / "images.npz", is_rescored=True)
