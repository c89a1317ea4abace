"""From images to results: kept when nothing changed, made again when something did, never
silent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from harope_bench.core import checksums
from harope_bench.core.errors import (
    OptionError,
    PlanMismatchError,
    SampleError,
    StorageError,
    TooFewImagesError,
    UnknownNameError,
)
from harope_bench.data.image_io import encode_png
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import open_samples, write_adm_npz, write_png_folder
from harope_bench.pipeline.evaluate import EvaluatedResult, FeatureScoring, evaluate, is_same_result
from harope_bench.pipeline.extract_features import shard_name
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.verify import verify
from harope_bench.suites.digits import PLUGIN as DIGITS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})
    generate(plan, range(50), tmp_path / "run")
    return tmp_path / "run"


def score(
    target: Path,
    out: Path,
    evaluators: list[str] | None = None,
    count: int | None = None,
    **fields: Any,
) -> list[EvaluatedResult]:
    return evaluate(target, out, FeatureScoring("digits", **fields), evaluators, count)


def real(folder: Path, count: int) -> Path:
    """Held-out real digits as PNG files."""
    images, _ = DIGITS.images("held-out")
    folder.mkdir()
    chosen_value = np.random.default_rng(0).permutation(len(images))[:count]
    for i, k in enumerate(chosen_value):
        (folder / f"{i:06d}.png").write_bytes(encode_png(np.repeat(images[k][..., None], 3, -1)))
    return folder


def value(scored: list, metric: str) -> float:
    measurement = scored[0].result.find_measurement(metric)
    assert measurement is not None
    assert measurement.value is not None
    return measurement.value


def test_real_digits_score_far_better_than_noise(run: Path, tmp_path: Path) -> None:
    noise = score(run, run)
    truth = score(real(tmp_path / "real", 200), tmp_path / "scored")
    assert value(truth, "fid") < value(noise, "fid") / 5
    assert value(truth, "is") > 5 > value(noise, "is")
    assert value(truth, "precision") > 0.6 > value(noise, "precision")


def test_a_result_says_how_it_was_made(run: Path) -> None:
    (scored,) = score(run, run)
    result = scored.result
    assert result.plan is not None
    assert (result.scale, result.judge.name, result.judge.judge_class) == (
        "micro",
        "digits-net",
        "micro",
    )
    assert result.find_measurement("fid").name == "fid-50"  # type: ignore[union-attr]
    assert result.plan_digest == result.plan.digest
    assert result.provenance.packages["torch"]
    stored_document = json.loads(scored.path.read_text())
    assert stored_document["reference_sha256"] == DIGITS.reference("digits-net").sha256
    assert all(
        m["n_asked"] == m["n_scored"] + m["n_failed"] + m["n_abstained"]
        for m in stored_document["measurements"]
    )


def test_second_call_does_no_work_and_rescore_gives_the_same(run: Path) -> None:
    (first_item,) = score(run, run)
    stamp = first_item.path.stat().st_mtime_ns
    (again,) = score(run, run)
    assert (first_item.is_new, again.is_new) == (True, False)
    assert first_item.path.stat().st_mtime_ns == stamp
    (rescored_item,) = score(run, run, is_rescored=True)
    assert rescored_item.is_new
    assert is_same_result(first_item.result, rescored_item.result)


def test_rescore_never_opens_a_network(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score(run, run)
    from harope_bench.judges.micro.digits_net import DigitsNetJudge

    def raise_opened(self: DigitsNetJudge, device: str = "cpu") -> None:
        raise AssertionError("a network was opened")

    monkeypatch.setattr(DigitsNetJudge, "open", raise_opened)
    score(run, run, is_rescored=True)
    (run / "features/digits-net" / shard_name(0)).unlink()
    with pytest.raises(SampleError, match="without --rescore"):
        score(run, run, is_rescored=True)


def test_damaged_observations_are_made_again(run: Path) -> None:
    (first_item,) = score(run, run)
    (run / "features/digits-net" / shard_name(0)).write_bytes(b"PK half a file")
    first_item.path.unlink()
    (again,) = score(run, run)
    assert is_same_result(first_item.result, again.result)


def test_npz_folder_and_run_of_the_same_images_give_the_same_numbers(
    run: Path, tmp_path: Path
) -> None:
    write_adm_npz(open_samples(run), tmp_path / "run.npz")
    write_png_folder(open_samples(run), tmp_path / "pngs")
    (of_run,) = score(run, run)
    for target in (tmp_path / "run.npz", tmp_path / "pngs"):
        (other_item,) = score(target, tmp_path / f"scored-{target.stem}")
        assert other_item.result.measurements == of_run.result.measurements
        assert other_item.result.plan is None


def test_an_altered_image_is_refused_and_verify_says_no(run: Path) -> None:
    assert verify(run, 2).altered_messages == []
    score(run, run)
    assert verify(run, 0).altered_messages == []
    (run / "images/000007.png").write_bytes((run / "images/000008.png").read_bytes())
    findings = verify(run, 0)
    assert any("image 7" in line for line in findings.altered_messages)
    (run / "features/digits-net" / shard_name(0)).unlink()
    with pytest.raises(SampleError, match="image 7 .* is not the one that was generated"):
        score(run, run)


def test_verify_finds_an_altered_score(run: Path) -> None:
    (scored,) = score(run, run)
    document = json.loads(scored.path.read_text())
    document["measurements"][0]["value"] += 0.01
    scored.path.write_text(json.dumps(document))
    assert any("fid-50" in line for line in verify(run, 0).altered_messages)


def test_verify_finds_images_that_are_not_of_the_plan(run: Path) -> None:
    """All hashes agree with the records, yet the records are of other images: only drawing again
    tells.
    """
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line["file"], line["sha256"] = lines[0]["file"], lines[0]["sha256"]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checksums.record_file_hashes(run, ["samples.jsonl"])
    assert verify(run, 0).altered_messages == []
    assert any("generated again" in line for line in verify(run, 5).altered_messages)


def test_own_reference_is_used_and_named(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", mu=np.zeros(64), sigma=np.eye(64))
    (scored,) = score(run, run, reference=tmp_path / "mine.npz")
    assert scored.result.reference == "mine.npz"
    assert scored.result.find_measurement("precision").value is None  # type: ignore[union-attr]
    assert "images" in (scored.result.find_measurement("precision").reason or "")  # type: ignore[union-attr]
    np.savez(tmp_path / "bad.npz", other=np.zeros(3))
    with pytest.raises(StorageError, match="wanted mu and sigma"):
        score(run, run, reference=tmp_path / "bad.npz")


def test_unknown_evaluator_and_wrong_suite_are_said(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="did you mean fidelity"):
        score(run, run, evaluators=["fidelty"])
    monkeypatch.setattr(type(DIGITS), "judges", {})
    with pytest.raises(OptionError, match="no judge for evaluator"):
        score(run, run, evaluators=["fidelity"])


def test_failed_samples_are_counted(tmp_path: Path, run: Path) -> None:
    lines = (run / "samples.jsonl").read_text().splitlines()
    failed = {
        **json.loads(lines[4]),
        "status": "failed",
        "reason": "broke",
        "file": None,
        "sha256": None,
    }
    (run / "samples.jsonl").write_text(
        "\n".join([*lines[:4], json.dumps(failed), *lines[5:]]) + "\n"
    )
    checksums.record_file_hashes(run, ["samples.jsonl"])
    (scored,) = score(run, run)
    fid = scored.result.find_measurement("fid")
    assert fid is not None
    assert (fid.name, fid.n_asked, fid.n_scored, fid.n_failed) == ("fid-49", 50, 49, 1)


def test_rules_that_an_evaluator_does_not_have_are_refused(run: Path) -> None:
    with pytest.raises(OptionError, match="has official rules, not corrected"):
        score(run, run, rules="corrected")


def test_a_folder_of_results_belongs_to_its_images(run: Path, tmp_path: Path) -> None:
    write_png_folder(open_samples(run), tmp_path / "a")
    write_png_folder(open_samples(run, 40), tmp_path / "b")
    score(tmp_path / "a", tmp_path / "out")
    with pytest.raises(PlanMismatchError, match="is the result of other images"):
        score(tmp_path / "b", tmp_path / "out")
    with pytest.raises(PlanMismatchError, match="is the result of other images"):
        score(tmp_path / "b", run) if score(run, run) else None
    plan = open_samples(run).plan
    assert plan is not None
    generate(plan, range(60), run)  # the same run, grown
    (grown_item,) = score(run, run)
    assert grown_item.result.find_measurement("fid").name == "fid-60"  # type: ignore[union-attr]


def test_another_profile_of_other_images_does_not_take_the_observations(
    run: Path, tmp_path: Path
) -> None:
    for name, count in (("a", 50), ("b", 40)):
        write_png_folder(open_samples(run, count), tmp_path / name)
    (first_item,) = score(tmp_path / "a", tmp_path / "out")
    kept_contents = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(PlanMismatchError, match="is the result of other images"):
        score(
            tmp_path / "b", tmp_path / "out", profile="adm"
        )  # a result file of its own, the same observations
    assert (
        first_item.path in kept_contents
        and {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
        == kept_contents
    )


def test_another_reference_does_not_replace_the_suites_own_result(
    run: Path, tmp_path: Path
) -> None:
    (own_item,) = score(run, run)
    np.savez(tmp_path / "mine.npz", mu=np.zeros(64), sigma=np.eye(64))
    (other_item,) = score(run, run, reference=tmp_path / "mine.npz")
    assert own_item.path != other_item.path
    assert own_item.path.is_file()


def test_count_scores_exactly_the_first_so_many_or_says_why_not(run: Path, tmp_path: Path) -> None:
    (part,) = score(run, tmp_path / "part", count=40)
    assert part.result.find_measurement("fid").name == "fid-40"  # type: ignore[union-attr]
    with pytest.raises(OptionError, match="asked for 50 samples, --count 40 would score a part"):
        score(run, run, count=40)
    with pytest.raises(TooFewImagesError, match="holds 5 images, --count asks for 9"):
        score(real(tmp_path / "five", 5), tmp_path / "x", count=9)


def test_a_killed_run_can_be_scored_as_far_as_it_came(run: Path, tmp_path: Path) -> None:
    RunFolder(run).record_request(range(80))
    with pytest.raises(SampleError, match="80 requested, 30 missing"):
        score(run, run)
    (part,) = score(run, tmp_path / "part", count=50)
    assert part.result.find_measurement("fid").n_asked == 50  # type: ignore[union-attr]


def test_when_everything_failed_the_reason_is_said(tmp_path: Path, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    failed = [
        {**line, "status": "failed", "reason": "not finite", "file": None, "sha256": None}
        for line in lines
    ]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in failed))
    checksums.record_file_hashes(run, ["samples.jsonl"])
    with pytest.raises(SampleError, match=r"all 50 samples .* failed \(not finite\)"):
        score(run, run)


def test_a_lost_list_of_requests_is_a_warning_not_a_loss(run: Path) -> None:
    (run / "requests.jsonl").unlink()
    (scored,) = score(run, run)
    assert "requests.jsonl is missing" in scored.result.warning_texts[0]


def test_a_list_of_requests_that_says_nothing_is_a_warning(run: Path) -> None:
    """A damaged last line counts as one that a kill cut; with it the only one is gone."""
    (run / "requests.jsonl").write_text('{"indices": "0-4')
    (scored,) = score(run, run)
    assert "requests.jsonl is missing or empty" in scored.result.warning_texts[0]


def test_a_run_that_grew_is_not_scored_in_part_because_a_request_is_lost(run: Path) -> None:
    generate(RunFolder(run).plan, range(52), run)  # type: ignore[arg-type]
    first_line, second = (run / "requests.jsonl").read_text().splitlines()
    for text in (
        first_line + "\n",
        first_line + "\n" + second[:-3],
        first_line.replace("49", "48") + "\n",
    ):
        (run / "requests.jsonl").write_text(text)
        with pytest.raises(SampleError, match="a line is lost, add"):
            open_samples(run)
    (run / "requests.jsonl").write_text(first_line + "\n" + '{"indices": "50-51"}\n')
    assert len(open_samples(run).indices) == 52


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("samples.jsonl", '{"index": "x"}', "line 51 is no record"),
        ("requests.jsonl", '{"x": 1}', "line 2 contains no indices"),
        ("requests.jsonl", "[1]", "line 2 is not a JSON object"),
    ],
)
def test_a_line_that_is_something_else_is_named(
    run: Path, name: str, line: str, complaint: str
) -> None:
    with (run / name).open("a") as file:
        file.write(line + "\n")
    checksums.record_file_hashes(run, ["samples.jsonl"])
    with pytest.raises((SampleError, StorageError), match=complaint):
        open_samples(run)
