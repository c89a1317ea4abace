"""Comparison of stored features with features that the same judge extracts now.

Compared are the judge's record, the records of shards, their rows, and the moments of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harope_bench.core import checksums
from harope_bench.core.errors import FormatError
from harope_bench.core.formats import strip_format_version
from harope_bench.data import feature_rows
from harope_bench.data.run_folder import FEATURES_FOLDER
from harope_bench.data.sample_set import SampleSet
from harope_bench.pipeline import moments_cache
from harope_bench.pipeline.extract_features import JUDGE_FILE, changed_arrays, read_record
from harope_bench.pipeline.verify_findings import LIKELY_CAUSES, Findings, status_of

NUMERICS = {"numerics", "other_numerics"}  # of a shard record; may differ on another device


def check_features(
    folder: Path, extracted_folder: Path, samples: SampleSet, findings: Findings
) -> None:
    """Compare the stored features of a run with features extracted again.

    Missing features are not reported, because eval extracts them again.

    Args:
        folder: the run folder.
        extracted_folder: holds one folder of new features for each judge.
    """
    for new_folder in sorted(
        path for path in extracted_folder.glob("*") if (path / JUDGE_FILE).is_file()
    ):
        stored_folder = folder / FEATURES_FOLDER / new_folder.name
        if not _check_format(stored_folder / JUDGE_FILE, findings):
            continue
        _check_judge_record(stored_folder / JUDGE_FILE, new_folder / JUDGE_FILE, findings)

        new_paths = sorted(new_folder.glob("[0-9]*.json"))
        new_paths = [path for path in new_paths if (stored_folder / path.name).is_file()]
        for path in new_paths:
            _check_shard(stored_folder / path.name, path, findings)
        check_moments(stored_folder, new_folder, len(samples.indices), findings)
        if new_paths:
            findings.add(
                "ok",
                stored_folder,
                f"{len(new_paths):,} shards of features compared with features extracted again",
            )


def _check_judge_record(stored_path: Path, new_path: Path, findings: Findings) -> None:
    """Add a finding if the stored record of a judge is not that of the installed judge."""
    if stored_path.is_file() and read_record(stored_path) != read_record(new_path):
        findings.add(
            "altered", stored_path, f"{stored_path}: is not the record of the installed judge"
        )


def _check_shard(stored_path: Path, new_path: Path, findings: Findings) -> None:
    """Compare the rows and the record of one shard with the same shard extracted again.

    Args:
        stored_path, new_path: the records of the shard; the rows are in .npy files beside them.
    """
    judge = new_path.parent.name
    if names := changed_arrays(stored_path, new_path):
        message = (
            f"{stored_path}: {', '.join(names)} not what {judge} extracts now ({LIKELY_CAUSES})"
        )
        findings.add("altered", stored_path, message)
    if fields := _differing_fields(read_record(stored_path), read_record(new_path)):
        message = f"{stored_path}: {', '.join(fields)} is not what {judge} records now"
        findings.add("altered", stored_path, message)


def _check_format(path: Path, findings: Findings) -> bool:
    """Return whether this version of the package can read stored features; if not, add a finding.

    Args:
        path: the record of the judge, in the folder of its features.
    """
    fields = read_record(path)
    try:
        if fields:
            strip_format_version("features", fields, path)
    except FormatError as error:
        status = status_of(error, checksums.is_intact(path.parent, path.name))
        findings.add(status, path, str(error))
        return False
    return True


def _differing_fields(
    stored_record: Mapping[str, object], new_record: Mapping[str, object]
) -> list[str]:
    fields = {*stored_record, *new_record} - NUMERICS - {"sha256"}
    return sorted(name for name in fields if stored_record.get(name) != new_record.get(name))


def check_moments(
    stored_folder: Path, new_folder: Path, sample_count: int, findings: Findings
) -> None:
    """Add a finding for cached moments of a run that are not those of newly extracted features.

    The moments are sums, from which mean and covariance follow. Moments of an array that was not
    extracted again are skipped.

    Args:
        stored_folder, new_folder: features of one judge: of the run, and extracted now.
        sample_count: number of samples of the run, the rows that the moments are of.
    """
    for path in sorted(stored_folder.glob("*.moments.npz")):
        rows_path = new_folder / f"{path.name.removesuffix('.moments.npz')}.npy"
        if rows_path.is_file() and not _are_sums_of(path, rows_path, sample_count):
            findings.add(
                "altered",
                path,
                f"{path}: its moments are not those of the features extracted now"
                f" ({LIKELY_CAUSES})",
            )


def _are_sums_of(path: Path, rows_path: Path, count: int) -> bool:
    """Return whether moments are of the first `count` rows of an .npy file.

    False if the file holds no rows.
    """
    header = feature_rows.read_rows_header(rows_path)
    if (
        header is None
        or header.dtype.kind != "f"
        or len(header.shape) != 2
        or not header.has_rows(header.shape[0])
    ):
        return False
    return moments_cache.are_sums_of(
        path, feature_rows.map_rows(rows_path, min(count, header.shape[0]))
    )
