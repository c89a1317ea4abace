"""Sample set to observations: a judge looks at every image once; what it saw lies on disk, shard by
shard, and is read as a map.

A judge's folder holds who looked (judge.json), one .npy of N rows for each of its arrays and, for
each shard of images, a small record
that is written after its rows: the key of judge and images, and the hash of the rows. A kill loses
the shard at hand and nothing else.
SHA256SUMS vouches for judge.json, the records and the moments; what it does not vouch for is made
again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError
from tqdm import tqdm

from harope_bench.core import checksums, registry
from harope_bench.core.errors import SampleError, ShapeError, WeightsError
from harope_bench.core.formats import add_format_version, strip_format_version
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.record_base import Option
from harope_bench.core.schema import ErrorRate, JudgeRecord, ResultWarning, make_warnings
from harope_bench.core.storage import convert_os_errors, read_if_present, sha256_bytes, write_text
from harope_bench.data import feature_rows
from harope_bench.data.sample_set import Batch, SampleSet
from harope_bench.evaluators.base import Features
from harope_bench.judges.base import (
    LoadedFeatureExtractor,
    judge_record,
    load_feature_extractor,
    load_judge,
    open_judge,
)
from harope_bench.metrics.moments import Moments
from harope_bench.pipeline import moments_cache

SHARD_SIZE = 1000  # images between two records, a divisor of the block that moments are summed in
JUDGE = "judge.json"
MAX_NAMED_IMAGES = 5  # images that an error names
UNUSUAL_MODES = {
    "L": "grey, read as three equal channels",
    "1": "black and white, read as three equal channels",
    "P": "of a palette, read as RGB",
}
EXPECTED_MODE = "RGB"


class ExtractedFeatures(NamedTuple):
    """Observations, who made them, how many images were judged just now, and what was odd about
    images or judge.

    flags: how the judge computed, for the provenance; several values where shards differ.
    """

    features: Features
    judge: JudgeRecord
    extracted_count: int
    warnings: tuple[ResultWarning, ...] = ()
    flags: Mapping[str, Option] = {}


class ExtractorRecord(NamedTuple):
    """A judge that looked or will look, and what a result must say of it."""

    record: JudgeRecord
    warnings: tuple[ResultWarning, ...] = ()


@dataclass(frozen=True)
class FeatureShard:
    """Consecutive images of a set: their number, indices, and the key of judge and images."""

    number: int
    indices: list[int]
    key: str

    @property
    def first_row(self) -> int:
        """Row of its first image."""
        return self.number * SHARD_SIZE

    @property
    def stop_row(self) -> int:
        """Row after its last image."""
        return self.first_row + len(self.indices)


def judge_error_rates(records: Iterable[JudgeRecord]) -> dict[str, tuple[ErrorRate, ...]]:
    """How often these judges were wrong where the truth is known, by name; without those of whom
    nothing is known here.
    """
    known = registry.list_entries("judges")
    rates = {}
    for record in records:
        judge = load_judge(record.name) if record.name in known else None
        found = judge.error_rates() if judge is not None else ()
        if (
            judge is not None
            and found
            and (judge.version, judge.weights_sha256()) == (record.version, record.weights_sha256)
        ):
            rates[record.name] = found
    return rates


def find_extractor_record(judge: str, folder: Path, rescore: bool) -> ExtractorRecord:
    """The judge as it is here; when rescoring the one that looked, as the folder tells, and its
    weights may be gone.

    Raises:
        WeightsError: its weights are not here and it shall look. SampleError: the folder does not
            tell who looked, nor are they here.
    """
    if not rescore:
        return _installed_extractor(judge)
    if (found := _read_extractor_record(folder)) is not None and found.record.name == judge:
        return found._replace(warnings=(*found.warnings, *_changed_judge_warnings(found.record)))
    try:
        return _installed_extractor(judge)
    except WeightsError as error:
        raise SampleError(
            f"{folder} does not tell which weights {judge} looked with, and they are not here; run"
            " eval without --rescore once"
        ) from error


def _installed_extractor(judge: str) -> ExtractorRecord:
    return ExtractorRecord(
        judge_record(judge), make_warnings("judge", load_judge(judge).warnings())
    )


def _read_extractor_record(folder: Path) -> ExtractorRecord | None:
    """Return who looked, None where the folder does not tell; FormatError where another version of
    this package wrote it.
    """
    path = folder / JUDGE
    facts = read_record(path) if checksums.is_intact(folder, JUDGE) else {}
    if not facts:
        return None
    facts = strip_format_version("features", facts, path)
    warnings = facts.get("warnings")
    try:
        record = JudgeRecord.model_validate(facts.get("judge"))
    except ValidationError:
        return None
    return ExtractorRecord(
        record, make_warnings("judge", map(str, warnings) if isinstance(warnings, list) else ())
    )


def _changed_judge_warnings(record: JudgeRecord) -> tuple[ResultWarning, ...]:
    """A warning where the judge that is here is not the one that looked; none where it cannot be
    told because its weights are gone.
    """
    try:
        here = judge_record(record.name).model_dump()
    except WeightsError:
        return ()
    fields = [name for name, value in record.model_dump().items() if here[name] != value]
    text = (
        f"judge: {record.name} here is another one ({', '.join(fields)}); scored is what the"
        " recorded one saw"
    )
    return make_warnings("judge-changed", [text] if fields else [])


def extract_features(
    samples: SampleSet,
    judge: str,
    folder: Path,
    device: str,
    rescore: bool,
    looked: JudgeRecord | None = None,
) -> ExtractedFeatures:
    """What the judge saw of the set, from `folder` where that is of these images and this judge;
    arrays are read-only maps.

    Args:
        looked: when rescoring, the judge that these observations must be of; the one that `folder`
            tells of if left out.

    Raises:
        SampleError: an image is bad (named by index), or `rescore` is set and something was never
            judged.
        WeightsError: the judge's weights are not here, and it is not a rescoring.
        FormatError: another version of this package wrote what `folder` holds.
    """
    _read_extractor_record(
        folder
    )  # of another version nothing is read, and nothing is written over it
    who = (
        ExtractorRecord(looked)
        if looked is not None
        else find_extractor_record(judge, folder, rescore)
    )
    names = load_feature_extractor(judge).arrays
    shards = split_into_shards(samples, who.record)
    stale = [shard for shard in shards if find_shard_record(folder, shard, names) is None]
    fresh = sum(len(shard.indices) for shard in stale)
    if stale and rescore:
        raise SampleError(
            f"{folder} lacks what {judge} saw of {fresh:,} images; run eval without --rescore once"
        )
    if not rescore:
        _write_extractor_record(folder, who)
    if stale:
        _extract_shards(samples, judge, stale, folder, device)
    arrays = {
        name: feature_rows.map_rows(folder / f"{name}.npy", len(samples.indices)) for name in names
    }
    labels = (
        np.array([samples.labels[i] for i in samples.indices])
        if samples.labels.keys() >= set(samples.indices)
        else None
    )
    records = [read_record(folder / shard_name(shard.number)) for shard in shards]
    summed = partial(_moments, folder, arrays, records)
    seen = Features(
        np.array(samples.indices, dtype=np.int64), labels, arrays, len(samples.failed), summed
    )
    odd = make_warnings("images", image_warnings(records, len(samples.indices)))
    warnings = (
        *who.warnings,
        *odd,
        *make_warnings("judge", judge_notes(records)),
        *make_warnings("judge-paths", mixed_numerics_warnings(records)),
    )
    return ExtractedFeatures(seen, who.record, fresh, warnings, numerics_flags(records))


def _moments(
    folder: Path, arrays: Mapping[str, np.ndarray], records: Sequence[JsonObject], name: str
) -> Moments:
    """Those of an array, kept with the hashes of its rows, which the shards' records tell."""
    shards = moments_cache.ShardHashes([record["sha256"][name] for record in records], SHARD_SIZE)
    return moments_cache.sum_cached_moments(folder / moments_name(name), arrays[name], shards)


def _write_extractor_record(folder: Path, who: ExtractorRecord) -> None:
    """Who looks is written before the first shard, so that a rescoring needs no weights."""
    if _read_extractor_record(folder) != who:
        facts = {
            "judge": who.record.model_dump(mode="json"),
            "warnings": [warning.text for warning in who.warnings],
        }
        _write_hashed(
            folder, JUDGE, json.dumps(add_format_version("features", facts), sort_keys=True) + "\n"
        )


def _write_hashed(folder: Path, name: str, text: str) -> None:
    """Write a file after its hash is recorded, so that no kill leaves a file that nothing vouches
    for.
    """
    if not checksums.has_checksums(folder):  # shards of a version before them stay
        checksums.record_file_hashes(folder, [path.name for path in folder.glob("*.json")])
    checksums.record_hashes(folder, {name: sha256_bytes(text.encode())})
    write_text(folder / name, text)


def shard_name(number: int) -> str:
    """File name of a shard's record."""
    return f"{number:05d}.json"


def moments_name(array: str) -> str:
    """File name of the moments of an array."""
    return f"{array}.moments.npz"


def split_into_shards(samples: SampleSet, record: JudgeRecord) -> list[FeatureShard]:
    """The set's shards, in order."""
    hashes = dict(zip(samples.indices, samples.hashes, strict=True))
    parts = [
        samples.indices[i : i + SHARD_SIZE] for i in range(0, len(samples.indices), SHARD_SIZE)
    ]
    return [
        FeatureShard(n, part, shard_key(record, [(i, hashes[i]) for i in part], samples.crop_side))
        for n, part in enumerate(parts)
    ]


def shard_key(
    record: JudgeRecord, images: Sequence[tuple[int, str]], crop: int | None = None
) -> str:
    """Hex digest of judge, images, and the crop where there is one: a shard with another key is of
    other work and is made again.
    """
    seen_as = (
        "" if crop is None else f"crop {crop}"
    )  # images are known by the bytes of their files, which are cropped later
    return hashlib.sha256(f"{record.to_json()}{images}{seen_as}".encode()).hexdigest()


def read_record(path: Path) -> JsonObject:
    """A shard's record; empty where there is none or it is damaged, for its images can be judged
    again.
    """
    try:
        found = parse_json(read_if_present(path) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def find_shard_record(folder: Path, shard: FeatureShard, names: Sequence[str]) -> JsonObject | None:
    """The shard's record if it is vouched for, of this judge and these images, and its rows are
    whole; None otherwise.
    """
    found = (
        read_record(folder / shard_name(shard.number))
        if checksums.is_intact(folder, shard_name(shard.number))
        else {}
    )
    if found.get("key") != shard.key or not isinstance(found.get("sha256"), dict):
        return None
    whole = all(
        found["sha256"].get(name)
        == feature_rows.rows_sha256(folder / f"{name}.npy", shard.first_row, shard.stop_row)
        for name in names
    )
    return found if whole else None


def changed_arrays(kept: Path, wanted: Path) -> list[str]:
    """Names of the arrays whose rows beside record `kept` are not those that record `wanted` tells
    of.
    """
    told = read_record(wanted)
    first, stop = told["rows"]
    return [
        name
        for name, sha256 in sorted(told["sha256"].items())
        if feature_rows.rows_sha256(kept.parent / f"{name}.npy", first, stop) != sha256
    ]


def _extract_shards(
    samples: SampleSet, judge: str, todo: Sequence[FeatureShard], folder: Path, device: str
) -> None:
    plugin = load_feature_extractor(judge)
    opened = open_judge(judge, plugin, device)
    with tqdm(
        total=sum(len(s.indices) for s in todo),
        desc=f"judge {judge}",
        unit="image",
        file=sys.stderr,
        disable=None,
    ) as bar:
        for shard in todo:
            odd: Counter[str] = Counter()
            parts = []
            for batch in samples.batches(shard.indices, plugin.batch_size):
                parts.append(opened.extract(batch.images))
                odd.update(_unusual_properties(batch))
                bar.update(len(batch.indices))
            seen = {name: np.concatenate([p[name] for p in parts]) for name in plugin.arrays}
            _check_finite(judge, shard, seen)
            _write_shard(
                folder, shard, seen, len(samples.indices), _record_fields(opened, device, odd)
            )


def _record_fields(opened: LoadedFeatureExtractor, device: str, odd: Counter[str]) -> JsonObject:
    """What a shard's record tells beside its rows: oddities of the images, the judge's notes, and
    how it computed.
    """
    return {
        "odd": dict(odd),
        "notes": list(opened.notes),
        "way": {"device": device, **opened.numerics},
    }


def _check_finite(judge: str, shard: FeatureShard, seen: dict[str, np.ndarray]) -> None:
    """SampleError for values that are not finite: kept, they would be scored again and again."""
    bad = {
        name: ~np.isfinite(part).reshape(len(part), -1).all(axis=1) for name, part in seen.items()
    }
    if names := [name for name, rows_ in bad.items() if rows_.any()]:
        found = [
            shard.indices[i]
            for i in np.flatnonzero(np.logical_or.reduce([bad[name] for name in names]))
        ]
        more = (
            f" and {len(found) - MAX_NAMED_IMAGES:,} more" if len(found) > MAX_NAMED_IMAGES else ""
        )
        raise SampleError(
            f"judge {judge} gave {', '.join(names)} that are not finite for images"
            f" {', '.join(map(str, found[:MAX_NAMED_IMAGES]))}{more}, which were not kept; look at"
            " these images, bring the judge's weights again or choose another --device, and run"
            " eval again"
        )


def _write_shard(
    folder: Path, shard: FeatureShard, seen: dict[str, np.ndarray], count: int, facts: JsonObject
) -> None:
    """Rows first, then their record: a record always tells of rows that are there."""
    told = {}
    for name, part in seen.items():
        if len(part) != len(shard.indices):
            raise ShapeError(
                f"the judge gave {len(part)} rows of {name} for {len(shard.indices)} images; mend"
                " the judge"
            )
        path = folder / f"{name}.npy"
        feature_rows.reserve_rows(path, count, part[0])
        feature_rows.write_rows(path, shard.first_row, part)
        told[name] = feature_rows.rows_sha256(path, shard.first_row, shard.stop_row)
    facts |= {"key": shard.key, "rows": [shard.first_row, shard.stop_row], "sha256": told}
    _write_hashed(folder, shard_name(shard.number), json.dumps(facts, sort_keys=True) + "\n")


def _unusual_properties(batch: Batch) -> Iterator[str]:
    """What is odd about images: the mode of a file that is not RGB, and images of one colour."""
    yield from (mode for mode in batch.modes if mode != EXPECTED_MODE)
    yield from (
        "constant" for image in batch.images if (image == image[0, 0]).all()
    )  # one by one: a batch at 2048 pixels is 600 MB


def image_warnings(records: Sequence[JsonObject], images: int) -> tuple[str, ...]:
    """What the records of all shards tell of the images, as warnings."""
    odd: Counter[str] = Counter()
    for record in records:
        odd.update(record.get("odd", {}))
    told = {
        **{mode: f"images: {{}} of {{}} are {words}" for mode, words in UNUSUAL_MODES.items()},
        "constant": "images: {} of {} are of one colour",
    }
    return tuple(
        words.format(f"{odd[key]:,}", f"{images:,}") for key, words in told.items() if odd[key]
    )


def judge_notes(records: Sequence[JsonObject]) -> tuple[str, ...]:
    """What the judge noted of itself while it looked, each line once, in order."""
    return tuple(dict.fromkeys(note for record in records for note in record.get("notes", ())))


def mixed_numerics_warnings(records: Sequence[JsonObject]) -> tuple[str, ...]:
    """A warning where shards were not all looked at in one way; shards that do not tell are left
    out.
    """
    ways = Counter(
        f"{way.get('network', 'plain')} on {way.get('device')}"
        for record in records
        if (way := _numerics(record))
    )
    told = ", ".join(f"{count:,} {way}" for way, count in sorted(ways.items()))
    return (
        (f"judge: shards were looked at in different ways ({told}), so their last bits may differ",)
        if len(ways) > 1
        else ()
    )


def numerics_flags(records: Sequence[JsonObject]) -> dict[str, Option]:
    """How the judge computed: `judge_device`, `judge_path`, `judge_tf32`, as far as the records
    tell.
    """
    found: dict[str, list[Option]] = {}
    for key, value in (pair for record in records for pair in _numerics(record).items()):
        found.setdefault(f"judge_{key}", []).append(value)
    return {
        key: values[0] if len(set(values)) == 1 else ", ".join(sorted(map(str, set(values))))
        for key, values in sorted(found.items())
    }


def _numerics(record: JsonObject) -> dict[str, Option]:
    found = record.get("way")
    return found if isinstance(found, dict) else {}


def delete_features(folder: Path, names: Sequence[str]) -> None:
    """Removes what `observe` made there of these arrays, and the folder if it held nothing else."""
    with convert_os_errors(folder):
        made = [
            folder / file
            for name in names
            for file in (f"{name}.npy", f".{name}.npy.lock", moments_name(name))
        ]
        sums = [folder / checksums.CHECKSUMS_FILE, folder / f".{checksums.CHECKSUMS_FILE}.lock"]
        for path in [*made, *sums, folder / JUDGE, *folder.glob("[0-9][0-9][0-9][0-9][0-9].json")]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # files of something else, or another process cleared it first
            folder.rmdir()
