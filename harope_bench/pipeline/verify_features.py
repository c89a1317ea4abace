"""Observations against the same judge looking again: its record, the records of shards, their rows,
and the moments of these.
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
from harope_bench.pipeline.extract_features import JUDGE, changed_arrays, read_record
from harope_bench.pipeline.verify_findings import CAUSES, Findings, status_of

NUMERICS = (
    "way"  # of a shard's record: how the judge computed, which another device may do otherwise
)


def check_features(folder: Path, fresh: Path, samples: SampleSet, findings: Findings) -> None:
    """Compare what the run keeps of its judges with what they see now; what is gone is no fault,
    eval makes it again.
    """
    for judge in sorted(path for path in fresh.glob("*") if (path / JUDGE).is_file()):
        stored = folder / FEATURES_FOLDER / judge.name
        name = judge.name
        if not _is_of_this_format(stored / JUDGE, findings):
            continue
        if (stored / JUDGE).is_file() and read_record(stored / JUDGE) != read_record(judge / JUDGE):
            findings.add(
                "altered",
                stored / JUDGE,
                f"{stored / JUDGE}: is not the record of the judge that looks now",
            )
        pairs = [
            (stored / path.name, path)
            for path in sorted(judge.glob("[0-9]*.json"))
            if (stored / path.name).is_file()
        ]
        for old, new in pairs:
            if names := changed_arrays(old, new):
                line = f"{old}: {', '.join(names)} not what {name} sees now ({CAUSES})"
                findings.add("altered", old, line)
            if fields := _differing_fields(read_record(old), read_record(new)):
                findings.add(
                    "altered", old, f"{old}: {', '.join(fields)} is not what {name} records now"
                )
        check_moments(stored, judge, len(samples.indices), findings)
        if pairs:
            findings.add(
                "ok",
                stored,
                f"{len(pairs):,} shards of observations compared with what the judge sees now",
            )


def _is_of_this_format(path: Path, findings: Findings) -> bool:
    """Return whether observations can be compared at all; those of another version of this package
    cannot.
    """
    facts = read_record(path)
    try:
        if facts:
            strip_format_version("features", facts, path)
    except FormatError as error:
        findings.add(
            status_of(error, checksums.is_intact(path.parent, path.name)), path, str(error)
        )
        return False
    return True


def _differing_fields(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    fields = ({*old, *new}) - {NUMERICS, "sha256"}
    return sorted(name for name in fields if old.get(name) != new.get(name))


def check_moments(stored: Path, judge: Path, count: int, findings: Findings) -> None:
    """Compare the moments that a run keeps with sums of the rows that its judge gives now."""
    for path in sorted(stored.glob("*.moments.npz")):
        array = judge / f"{path.name.removesuffix('.moments.npz')}.npy"
        if array.is_file() and not _are_sums_of(path, array, count):
            findings.add(
                "altered", path, f"{path}: are not the sums of what the judge sees now ({CAUSES})"
            )


def _are_sums_of(path: Path, array: Path, count: int) -> bool:
    """Return whether moments are of the first `count` rows of a file; False where that is no file
    of rows of numbers.
    """
    header = feature_rows.read_rows_header(array)
    if (
        header is None
        or header.dtype.kind != "f"
        or len(header.shape) != 2
        or not header.has_rows(header.shape[0])
    ):
        return False
    return moments_cache.are_sums_of(
        path, feature_rows.map_rows(array, min(count, header.shape[0]))
    )
