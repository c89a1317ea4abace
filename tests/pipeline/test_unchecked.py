"""What `verify` cannot check is not called altered: full disks, missing weights, images that are
gone.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from plugin_scans import cached_scans
from result_folders import make_digits_run, make_imported_images

from harope_bench.cli import main
from harope_bench.core import checksums
from harope_bench.core.errors import DiskError, WeightsError
from harope_bench.data import feature_rows, sample_set
from harope_bench.judges.micro.digits_net import DigitsNetJudge
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.verify import run_folders, verify

__all__ = ["cached_scans"]  # the fixtures


def run(*words: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_a_full_disk_for_what_is_made_again_says_nothing_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result_folder = make_digits_run(tmp_path)

    def raise_disk_full(*_: Any, **__: Any) -> None:
        raise DiskError("cannot use /tmp/x: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            feature_rows, "write_rows", raise_disk_full
        )  # the first write below the temporary folder
        output = run(
            "verify",
            result_folder.folder,
            "--redraw",
            0,
            "--reference",
            result_folder.reference,
            code=1,
        ).stdout
    assert "NOT CHECKED" in output and "No space left" in output and "ALTERED" not in output
    with monkeypatch.context() as patch:
        patch.setattr(
            "tempfile.mkdtemp",
            lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
        )
        output = run(
            "verify",
            result_folder.folder,
            "--redraw",
            0,
            "--reference",
            result_folder.reference,
            code=1,
        ).stdout
    assert "NOT CHECKED" in output and "set TMPDIR" in output and "ALTERED" not in output
    assert result_folder.verify().status == "ok"


def test_an_image_that_the_disk_does_not_give_could_not_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result_folder, original_read_regular = make_digits_run(tmp_path), sample_set.read_regular

    def read_regular(path: Path, limit: int) -> bytes:
        if path.name == "000002.png":
            raise OSError(errno.EIO, "Input/output error")
        return original_read_regular(path, limit)

    monkeypatch.setattr(sample_set, "read_regular", read_regular)
    findings = result_folder.verify()
    assert findings.altered_messages == [] and any(
        "Input/output error" in line for line in findings.unchecked_messages
    )
    assert any(
        "not evaluated again, because images cannot be read" in line
        for line in findings.unchecked_messages
    )


def test_a_judge_without_weights_could_not_check_and_a_flip_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result_folder = make_digits_run(tmp_path)

    def raise_weights_missing(self: DigitsNetJudge, *_: Any) -> None:
        raise WeightsError("digits-net.safetensors is not there")

    monkeypatch.setattr(DigitsNetJudge, "weights_sha256", raise_weights_missing)
    findings = result_folder.verify()
    assert findings.status == "could-not-check" and any(
        "is not there" in line for line in findings.unchecked_messages
    )
    path = result_folder.folder / "features/digits-net/features.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert any(
        "features are not the rows" in line for line in result_folder.verify().altered_messages
    )


def test_a_judge_of_other_weights_could_not_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result_folder = make_digits_run(tmp_path)
    monkeypatch.setattr(DigitsNetJudge, "weights_sha256", lambda self: "ab" * 32)
    findings = result_folder.verify()
    assert findings.status == "could-not-check"
    assert any(
        "the installed judge digits-net differs from the recorded one in weights_sha256" in line
        for line in findings.unchecked_messages
    )


def test_images_that_are_gone_could_not_be_checked_and_may_have_moved(tmp_path: Path) -> None:
    result_folder = make_imported_images(tmp_path)
    moved_path = tmp_path / "moved"
    assert result_folder.source is not None
    result_folder.source.rename(moved_path)
    findings = result_folder.verify()
    assert findings.status == "could-not-check" and any(
        "give --source" in line for line in findings.unchecked_messages
    )
    assert (
        verify(result_folder.folder, 0, reference=result_folder.reference, source=moved_path).status
        == "ok"
    )
    (moved_path / "000003.png").write_bytes((moved_path / "000002.png").read_bytes())
    assert (
        verify(result_folder.folder, 0, reference=result_folder.reference, source=moved_path).status
        == "altered"
    )


def test_images_with_their_results_beside_them_and_a_part_of_a_run_elsewhere_are_scored_again(
    tmp_path: Path,
) -> None:
    result_folder = make_imported_images(tmp_path)
    assert result_folder.source is not None
    evaluate(
        result_folder.source,
        result_folder.source,
        FeatureScoring("digits", result_folder.reference, subset=1),
        count=4,
    )
    assert verify(result_folder.source, 0, reference=result_folder.reference).status == "ok"
    evaluate(
        result_folder.source,
        tmp_path / "part",
        FeatureScoring("digits", result_folder.reference),
        count=3,
    )
    findings = verify(tmp_path / "part", 0, reference=result_folder.reference)
    assert findings.status == "ok" and any(
        "3 images evaluated again" in line for line in findings.passed_messages
    )


def test_results_alone_have_their_hashes_checked_and_the_rest_named(tmp_path: Path) -> None:
    result_folder = make_digits_run(tmp_path)
    shutil.copytree(result_folder.folder / "results", tmp_path / "alone/results")
    for folder in (tmp_path / "alone", tmp_path / "alone/results"):
        findings = verify(folder, 0)
        assert findings.status == "could-not-check" and any(
            "does not record where its images are" in line for line in findings.unchecked_messages
        )
    (path,) = (tmp_path / "alone/results").glob("*.json")
    path.write_text(path.read_text().replace('"cpu"', '"gpu"'))
    assert verify(tmp_path / "alone", 0).status == "altered"


def test_results_of_a_version_without_recorded_hashes_are_scored_again_and_that_is_told(
    tmp_path: Path,
) -> None:
    result_folder = make_digits_run(tmp_path)
    for path in result_folder.folder.rglob(checksums.CHECKSUMS_FILE):
        path.unlink()
    findings = result_folder.verify()
    assert findings.altered_messages == [] and findings.status == "could-not-check"
    (line,) = findings.unchecked_messages
    assert "run eval again" in line
    evaluate(
        result_folder.folder,
        result_folder.folder,
        FeatureScoring("digits", result_folder.reference),
    )
    assert not result_folder.verify().unchecked_messages


def test_an_unfinished_run_could_not_be_checked_and_one_that_lost_an_image_was_altered(
    tmp_path: Path,
) -> None:
    result_folder = make_digits_run(tmp_path)
    (result_folder.folder / "images/000002.png").unlink()
    assert result_folder.verify().status == "altered"
    checksums.drop_hashes(
        result_folder.folder, ["samples.jsonl"]
    )  # as while images are being drawn
    assert result_folder.verify().status == "could-not-check"


def test_a_folder_of_several_runs_is_checked_run_by_run_in_one_object(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    result_folder = make_digits_run(tmp_path / "one")
    shutil.copytree(result_folder.folder, tmp_path / "two/run")
    assert run_folders(tmp_path) == [tmp_path / "one/run", tmp_path / "two/run"]
    document = json.loads(
        run(
            "verify", tmp_path, "--redraw", 1, "--reference", result_folder.reference, "--json"
        ).stdout
    )
    assert document["status"] == "ok" and {check["status"] for check in document["checks"]} == {
        "ok"
    }
    (tmp_path / "one/run/images/000001.png").write_bytes(b"no image")
    document = json.loads(
        run(
            "verify",
            tmp_path,
            "--redraw",
            0,
            "--reference",
            result_folder.reference,
            "--json",
            code=3,
        ).stdout
    )
    wrong_checks = [check for check in document["checks"] if check["status"] == "altered"]
    assert document["status"] == "altered" and wrong_checks
    assert all("one/run" in check["subject"] for check in wrong_checks)
