"""Files that were edited together with the hash that vouches for them: what can be recomputed is
not believed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin_scans import cached_scans
from result_folders import COPY_MAJOR, make_digits_run, make_prompt_results
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, toy

from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.errors import StorageError
from harope_bench.core.storage import sha256_file
from harope_bench.data import feature_rows
from harope_bench.metrics.moments import BLOCK_ROWS
from harope_bench.pipeline import moments_cache, verify_features
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.evaluate_prompts import PromptScoring, evaluate_prompts
from harope_bench.pipeline.verify import verify
from harope_bench.pipeline.verify_findings import Findings
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

__all__ = ["cached_scans", "toy"]  # the fixtures


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter a JSON file, or each line of a .jsonl, and record its hash, as somebody would who knows
    the format.
    """
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    records = [json.loads(line) for line in lines]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    checksums.record_file_hashes(path.parent, [path.name])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "samples.jsonl",
            lambda line: line.update(label=3),
            "label or prompt of samples 0, 1, 2, 4, 5",
        ),
        (
            "samples.jsonl",
            lambda line: line.update(prompt="a three"),
            "label or prompt of samples 0, 1, 2, 3, 4",
        ),
        (
            "results/{result}",
            lambda fields: fields.update(parity="equals the paper's"),
            "parity is equals the paper's, should be",
        ),
        (
            "results/{result}",
            lambda fields: fields.update(
                judge_error_rates={
                    "digits-net": [{"case_kind": "digits", "n_wrong": 0, "n_cases": 9}]
                }
            ),
            "judge_error_rates.digits-net is",
        ),
        (
            "results/{result}",
            lambda fields: fields.update(sample_scores_file="x.rows.jsonl"),
            "sample_scores_file is x.rows.jsonl, should be absent",
        ),
        (
            "features/digits-net/judge.json",
            lambda fields: fields.update(warnings=["judge: of 2015"]),
            "is not the record of the installed judge",
        ),
        (
            "features/digits-net/00000.json",
            lambda fields: fields.update(unusual_images={"L": 6}),
            "unusual_images is not what digits-net records now",
        ),
        (
            "features/digits-net/00000.json",
            lambda fields: fields.update(notes=["none"]),
            "notes is not what digits-net records now",
        ),
    ],
)
def test_what_can_be_recomputed_is_not_believed(
    tmp_path: Path, file: str, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    result_folder = make_digits_run(tmp_path)
    (result,) = (result_folder.folder / "results").glob("*.json")
    edit_json(result_folder.folder / file.format(result=result.name), change)
    assert any(message in line for line in result_folder.verify().altered_messages), (
        result_folder.verify().altered_messages
    )


def test_parity_errors_and_the_judge_of_prompts_are_recomputed(tmp_path: Path, toy: ToyEye) -> None:
    for name, change in (
        ("results/toy-rule.json", lambda fields: fields.update(parity="exact")),
        (
            "results/toy-rule.json",
            lambda fields: fields.update(
                judge_error_rates={"toy-eye": [{"case_kind": "lights", "n_wrong": 0, "n_cases": 9}]}
            ),
        ),
        ("annotations/toy-eye/judge.json", lambda fields: fields.update(judge_class="official")),
        ("annotations/toy-eye/annotations.jsonl", lambda line: line.update(index=7)),
    ):
        (tmp_path / name.replace("/", "-")).mkdir(exist_ok=True)
        result_folder = make_prompt_results(tmp_path / name.replace("/", "-"))
        assert result_folder.verify().status == "ok"
        edit_json(result_folder.folder / name, change)
        assert result_folder.verify().status == "altered", name
        shutil.rmtree(tmp_path / name.replace("/", "-"))


@pytest.mark.parametrize("form", ["order", "pattern", "file_list"])
def test_a_folder_is_verified_as_it_was_stated_to_be_read(
    form: str, tmp_path: Path, toy: ToyEye
) -> None:
    """Another reading of the same files would score other prompts; the list of files may move with
    the images.
    """
    images = write_toy_images(tmp_path / "images", COLOURS)
    files = sorted(path.name for path in images.iterdir())
    listed_path = tmp_path / "list.csv"
    listed_path.write_text(
        "file,index\n" + "".join(f"{name},{len(files) - 1 - i}\n" for i, name in enumerate(files))
    )
    forms = {
        "order": PromptFolderOptions(order="prompt-major"),
        "pattern": PromptFolderOptions(pattern="{index}.png"),
        "file_list": PromptFolderOptions(file_list=listed_path),
    }
    evaluate_prompts(images, tmp_path / "out", PromptScoring("toy", folder_options=forms[form]))
    assert verify(tmp_path / "out", 0).status == "ok"
    (images / files[0]).write_bytes((images / files[1]).read_bytes())
    assert verify(tmp_path / "out", 0).status == "altered"


def test_answers_that_were_edited_are_not_scored_again(tmp_path: Path, toy: ToyEye) -> None:
    result_folder = make_prompt_results(tmp_path)
    answers = result_folder.folder / "annotations/toy-eye/annotations.jsonl"
    answers.write_text(answers.read_text().replace('"text": "no"', '"text": "yes"'))
    with pytest.raises(StorageError, match=r"annotations\.jsonl differs from its hash"):
        evaluate_prompts(
            tmp_path / "images",
            result_folder.folder,
            PromptScoring("toy", rules="corrected", folder_options=COPY_MAJOR),
        )


def test_an_edited_result_is_not_up_to_date(tmp_path: Path) -> None:
    result_folder = make_digits_run(tmp_path)
    (path,) = (result_folder.folder / "results").glob("*.json")
    before = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "parity": "exact"}))
    (again,) = evaluate(
        result_folder.folder,
        result_folder.folder,
        FeatureScoring("digits", result_folder.reference),
    )
    assert again.is_new and again.result.parity == before["parity"]
    assert result_folder.verify().status == "ok"


def test_edited_moments_move_no_number_and_are_found(tmp_path: Path) -> None:
    """The file is whole, of these rows, and of sums that nobody summed."""
    cloud = np.random.default_rng(0).normal(size=(BLOCK_ROWS + 50, 3)).astype(np.float32)
    file, path = tmp_path / "features.npy", tmp_path / "features.moments.npz"
    feature_rows.reserve_rows(file, len(cloud), cloud[0])
    feature_rows.write_rows(file, 0, cloud)
    digests = [
        str(feature_rows.rows_sha256(file, start, min(start + 1000, len(cloud))))
        for start in range(0, len(cloud), 1000)
    ]
    shards = moments_cache.ShardHashes(digests, 1000)
    honest_cached_moments = moments_cache.sum_cached_moments(
        path, feature_rows.map_rows(file, len(cloud)), shards
    )
    assert moments_cache.are_sums_of(path, cloud)
    for name in ("mean", "scatter"):
        arrays = load_arrays(path)
        write_arrays(path, {**arrays, name: arrays[name] + 1})
        assert not moments_cache.are_sums_of(path, cloud)
        again = moments_cache.sum_cached_moments(
            path, feature_rows.map_rows(file, len(cloud)), shards
        )
        assert (
            again.mean.tobytes() == honest_cached_moments.mean.tobytes()
            and again.scatter.tobytes() == honest_cached_moments.scatter.tobytes()
        )
    (
        tmp_path / checksums.CHECKSUMS_FILE
    ).unlink()  # nothing vouches for sums of a version before: they are made again
    write_arrays(path, {**load_arrays(path), "mean": honest_cached_moments.mean + 1})
    assert (
        moments_cache.sum_cached_moments(
            path, feature_rows.map_rows(file, len(cloud)), shards
        ).mean.tobytes()
        == honest_cached_moments.mean.tobytes()
    )


def test_verify_sums_moments_again(tmp_path: Path) -> None:
    """Also those whose hash was recorded anew with them."""
    kept_path, fresh_path = tmp_path / "kept", tmp_path / "fresh"
    cloud = np.random.default_rng(0).normal(size=(BLOCK_ROWS, 3)).astype(np.float32)
    for folder in (kept_path, fresh_path):
        feature_rows.reserve_rows(folder / "features.npy", len(cloud), cloud[0])
        feature_rows.write_rows(folder / "features.npy", 0, cloud)
    digests = [
        str(feature_rows.rows_sha256(kept_path / "features.npy", start, start + 1000))
        for start in range(0, BLOCK_ROWS, 1000)
    ]
    moments_cache.sum_cached_moments(
        kept_path / "features.moments.npz", cloud, moments_cache.ShardHashes(digests, 1000)
    )
    findings = Findings()
    verify_features.check_moments(kept_path, fresh_path, BLOCK_ROWS, findings)
    assert findings.checks == []
    arrays = load_arrays(kept_path / "features.moments.npz")
    write_arrays(
        kept_path / "features.moments.npz", {**arrays, "mean": np.nextafter(arrays["mean"], np.inf)}
    )
    checksums.record_file_hashes(kept_path, ["features.moments.npz"])
    verify_features.check_moments(kept_path, fresh_path, BLOCK_ROWS, findings)
    assert [check.status for check in findings.checks] == ["altered"]


def test_the_list_is_sha256sums_own_and_names_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "a b.json").write_text("{}")
    checksums.record_file_hashes(tmp_path, ["a b.json", "gone.json"])
    assert (
        tmp_path / checksums.CHECKSUMS_FILE
    ).read_text() == f"{sha256_file(tmp_path / 'a b.json')}  a b.json\n"
    for line in (
        "0" * 64 + "  ../up.json\n",
        "0" * 63 + "  x\n",
        "0" * 64 + "  x\n" + "1" * 64 + "  x\n",
        "\n",
    ):
        (tmp_path / checksums.CHECKSUMS_FILE).write_text(line)
        with pytest.raises(StorageError, match="is no line of sha256sum"):
            checksums.read_checksums(tmp_path)
        assert not checksums.is_intact(tmp_path, "a b.json")


def test_a_list_that_names_what_is_gone_in_place_of_what_is_there_was_altered(
    tmp_path: Path, toy: ToyEye
) -> None:
    result_folder = make_prompt_results(tmp_path)
    sums = result_folder.folder / "annotations/toy-eye" / checksums.CHECKSUMS_FILE
    sums.write_text(sums.read_text().replace("annotations.jsonl", "annotations.jsonm"))
    assert any(
        "lists files that are missing, but not annotations.jsonl" in line
        for line in result_folder.verify().altered_messages
    )
