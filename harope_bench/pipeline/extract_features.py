"""Feature extraction from a sample set, stored on disk shard by shard.

The folder of a feature extractor holds `judge.json` (the record of the extractor), one `.npy` of N
rows for each of its arrays, and one small record for each shard of images. A shard's record is
written after its rows. It holds a key of extractor and images, and the hash of the rows. An
interruption therefore loses the current shard only.

SHA256SUMS lists `judge.json`, the shard records and the moments. A file without a matching hash is
computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from harope_bench.core import checksums, registry
from harope_bench.core.errors import SampleError, ShapeError, WeightsError
from harope_bench.core.extras import require_packages
from harope_bench.core.formats import add_format_version, strip_format_version
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.progress import Progress
from harope_bench.core.record_base import Option
from harope_bench.core.schema import ErrorRate, JudgeRecord, ResultWarning, make_warnings
from harope_bench.core.storage import convert_os_errors, read_if_present, sha256_bytes, write_text
from harope_bench.core.threaded_work import map_in_threads, thread_count, waiting_limit
from harope_bench.data import feature_rows
from harope_bench.data.sample_set import Batch, SampleSet
from harope_bench.evaluators.base import Features
from harope_bench.judges.base import (
    LoadedFeatureExtractor,
    judge_record,
    load_feature_extractor,
    load_judge,
)
from harope_bench.metrics.moments import Moments
from harope_bench.pipeline import feature_parts, moments_cache
from harope_bench.pipeline.feature_parts import BatchOfImages, ExtractedBatch
from harope_bench.pipeline.kept_extractor import open_extractor
from harope_bench.pipeline.workers import Task, run_units

SHARD_SIZE = 1000  # images for each record; divides the block that moments are summed in
JUDGE_FILE = "judge.json"
IMAGES_PER_PART = 250  # images that another process extracts in one go
MAX_NAMED_IMAGES = 5  # images that an error names
UNUSUAL_MODES = {
    "L": "grey, read as three equal channels",
    "1": "black and white, read as three equal channels",
    "P": "of a palette, read as RGB",
}
EXPECTED_MODE = "RGB"


class ExtractedFeatures(NamedTuple):
    """Features of a sample set, with the record of their extractor.

    extracted_count: images that this call extracted; the others were on disk.
    warnings: what was unusual about the images or the extractor.
    flags: device and numerics of the extractor, for the provenance; several values where shards
        differ.
    """

    features: Features
    judge: JudgeRecord
    extracted_count: int
    warnings: tuple[ResultWarning, ...] = ()
    flags: Mapping[str, Option] = {}


class ExtractorRecord(NamedTuple):
    """A feature extractor, and the warnings that a result of it carries."""

    record: JudgeRecord
    warnings: tuple[ResultWarning, ...] = ()


@dataclass(frozen=True)
class FeatureShard:
    """Consecutive images of a sample set, with a key of extractor and images."""

    number: int
    indices: list[int]
    key: str

    @property
    def first_row(self) -> int:
        """Return the row of the first image."""
        return self.number * SHARD_SIZE

    @property
    def stop_row(self) -> int:
        """Return the row after the last image."""
        return self.first_row + len(self.indices)


def judge_error_rates(records: Iterable[JudgeRecord]) -> dict[str, tuple[ErrorRate, ...]]:
    """Return the measured error rates of judges by name, without judges that have none.

    A judge whose installed version or weights differ from its record is left out.
    """
    installed_names = registry.list_entries("judges")
    rates_by_judge = {}
    for record in records:
        if record.name not in installed_names:
            continue
        judge = load_judge(record.name)
        rates = judge.error_rates()
        if not rates:
            continue
        if (judge.version, judge.weights_sha256()) == (record.version, record.weights_sha256):
            rates_by_judge[record.name] = rates
    return rates_by_judge


def find_extractor_record(judge: str, folder: Path, rescore: bool) -> ExtractorRecord:
    """Return the record of the installed extractor, or with `rescore` the one that `folder` holds.

    A rescore needs no weights when the folder holds a record.

    Raises:
        WeightsError: Features must be extracted and the weights are missing.
        SampleError: `rescore` is set, the folder has no record, and the weights are missing.
    """
    if not rescore:
        return _installed_extractor(judge)

    stored_extractor = _read_extractor_record(folder)
    if stored_extractor is not None and stored_extractor.record.name == judge:
        changes = _changed_judge_warnings(stored_extractor.record)
        return stored_extractor._replace(warnings=(*stored_extractor.warnings, *changes))
    try:
        return _installed_extractor(judge)
    except WeightsError as error:
        raise SampleError(
            f"{folder} does not record the weights of {judge}, and they are not installed; run"
            " eval without --rescore once"
        ) from error


def _installed_extractor(judge: str) -> ExtractorRecord:
    warnings = make_warnings("judge", load_judge(judge).warnings())
    return ExtractorRecord(judge_record(judge), warnings)


def _read_extractor_record(folder: Path) -> ExtractorRecord | None:
    """Return the extractor record of a folder, or None where it has no valid one.

    Raises:
        FormatError: Another version of this package wrote it.
    """
    path = folder / JUDGE_FILE
    fields = read_record(path) if checksums.is_intact(folder, JUDGE_FILE) else {}
    if not fields:
        return None
    fields = strip_format_version("features", fields, path)
    texts = fields.get("warnings")
    try:
        record = JudgeRecord.model_validate(fields.get("judge"))
    except ValidationError:
        return None
    return ExtractorRecord(
        record, make_warnings("judge", map(str, texts) if isinstance(texts, list) else ())
    )


def _changed_judge_warnings(record: JudgeRecord) -> tuple[ResultWarning, ...]:
    """Return a warning if the installed feature extractor differs from the recorded one.

    Without the weights of the installed one there is no warning, because nothing can be compared.
    """
    try:
        installed_fields = judge_record(record.name).model_dump()
    except WeightsError:
        return ()
    differing_fields = [
        name for name, value in record.model_dump().items() if installed_fields[name] != value
    ]
    if not differing_fields:
        return ()
    text = (
        f"judge: the installed {record.name} differs from the recorded one in"
        f" {', '.join(differing_fields)}; the scores use the recorded features"
    )
    return make_warnings("judge-changed", [text])


def extract_features(
    samples: SampleSet,
    judge: str,
    folder: Path,
    device: str,
    rescore: bool,
    recorded_judge: JudgeRecord | None = None,
) -> ExtractedFeatures:
    """Return the features of a sample set, extracting only the shards that `folder` lacks.

    Arrays are read-only memory maps.

    Args:
        folder: where the features are stored.
        rescore: read stored features only.
        recorded_judge: with `rescore`, the extractor that the features must be of; by default the
            one that `folder` records.

    Raises:
        SampleError: An image is unreadable (the message gives its index), or `rescore` is set and
            features are missing.
        WeightsError: The extractor's weights are missing and `rescore` is not set.
        FormatError: Another version of this package wrote `folder`.
    """
    _read_extractor_record(folder)  # raises FormatError before anything is overwritten
    if recorded_judge is None:
        extractor = find_extractor_record(judge, folder, rescore)
    else:
        extractor = ExtractorRecord(recorded_judge)

    # Extract the shards that are missing or of other images.
    names = load_feature_extractor(judge).arrays
    shards = split_into_shards(samples, extractor.record)
    missing_shards = [s for s in shards if find_shard_record(folder, s, names) is None]
    missing_count = sum(len(shard.indices) for shard in missing_shards)
    if missing_shards and rescore:
        raise SampleError(
            f"{folder} lacks the {judge} features of {missing_count:,} images; run eval without"
            " --rescore once"
        )
    if missing_shards:
        require_packages(f"judge {judge}", *load_feature_extractor(judge).packages)
    if not rescore:
        _write_extractor_record(folder, extractor)
    if missing_shards:
        _extract_shards(samples, extractor.record, missing_shards, folder, device)
    if not rescore:
        feature_parts.remove_batches(folder, samples.indices)

    records = [read_record(folder / shard_name(shard.number)) for shard in shards]
    features = _map_features(samples, folder, names, records)
    warnings = extractor.warnings + _record_warnings(records, len(samples.indices))
    return ExtractedFeatures(
        features, extractor.record, missing_count, warnings, numerics_flags(records)
    )


def _map_features(
    samples: SampleSet, folder: Path, names: Sequence[str], records: Sequence[JsonObject]
) -> Features:
    """Return the stored features of all samples as memory maps (N, ...)."""
    indices = samples.indices
    arrays = {name: feature_rows.map_rows(folder / f"{name}.npy", len(indices)) for name in names}
    labels = None
    if samples.labels.keys() >= set(indices):
        labels = np.array([samples.labels[i] for i in indices])  # (N,)
    load_moments = partial(_cached_moments, folder, arrays, records)
    return Features(
        np.array(indices, dtype=np.int64), labels, arrays, len(samples.failed), load_moments
    )


def _record_warnings(records: Sequence[JsonObject], image_count: int) -> tuple[ResultWarning, ...]:
    """Return the warnings that the shard records give about images and extractor."""
    return (
        *make_warnings("images", image_warnings(records, image_count)),
        *make_warnings("judge", judge_notes(records)),
        *make_warnings("judge-paths", mixed_numerics_warnings(records)),
    )


def _cached_moments(
    folder: Path, arrays: Mapping[str, np.ndarray], records: Sequence[JsonObject], name: str
) -> Moments:
    """Return the moments of one array, cached under the row hashes of the shard records."""
    shards = moments_cache.ShardHashes([record["sha256"][name] for record in records], SHARD_SIZE)
    return moments_cache.sum_cached_moments(folder / moments_name(name), arrays[name], shards)


def _write_extractor_record(folder: Path, extractor: ExtractorRecord) -> None:
    """Write the extractor record before the first shard, so that a rescore needs no weights."""
    if _read_extractor_record(folder) == extractor:
        return
    fields = {
        "judge": extractor.record.model_dump(mode="json"),
        "warnings": [warning.text for warning in extractor.warnings],
    }
    text = json.dumps(add_format_version("features", fields), sort_keys=True)
    _write_hashed(folder, JUDGE_FILE, text + "\n")


def _write_hashed(folder: Path, name: str, text: str) -> None:
    """Record the hash of a file in the folder's SHA256SUMS, then write the file.

    In this order an interruption leaves no file without a hash.
    """
    if not checksums.has_checksums(folder):  # records of a version without SHA256SUMS stay valid
        checksums.record_file_hashes(folder, [path.name for path in folder.glob("*.json")])
    checksums.record_hashes(folder, {name: sha256_bytes(text.encode())})
    write_text(folder / name, text)


def shard_name(number: int) -> str:
    """Return the file name of a shard's record."""
    return f"{number:05d}.json"


def moments_name(array: str) -> str:
    """Return the file name of the moments of an array."""
    return f"{array}.moments.npz"


def split_into_shards(samples: SampleSet, record: JudgeRecord) -> list[FeatureShard]:
    """Return the shards of a sample set in order of its indices."""
    hashes = samples.hashes_by_index
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
    """Return the hex digest of extractor, images and centre crop; features are cached under it."""
    # Images are identified by the hash of their files, which are cropped after reading.
    crop_text = "" if crop is None else f"crop {crop}"
    return hashlib.sha256(f"{record.to_json()}{images}{crop_text}".encode()).hexdigest()


def read_record(path: Path) -> JsonObject:
    """Return a JSON record; empty if it is missing or damaged, because it can be made again."""
    try:
        record = parse_json(read_if_present(path) or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def find_shard_record(folder: Path, shard: FeatureShard, names: Sequence[str]) -> JsonObject | None:
    """Return a shard's record, or None unless its hash, its key and all its rows match."""
    file_name = shard_name(shard.number)
    if not checksums.is_intact(folder, file_name):
        return None
    record = read_record(folder / file_name)
    hashes = record.get("sha256")
    if record.get("key") != shard.key or not isinstance(hashes, dict):
        return None
    for name in names:
        path = folder / f"{name}.npy"
        if hashes.get(name) != feature_rows.rows_sha256(path, shard.first_row, shard.stop_row):
            return None
    return record


def changed_arrays(stored_path: Path, expected_path: Path) -> list[str]:
    """Return the names of the arrays whose rows differ between two shard records.

    Args:
        stored_path: a shard record; the rows beside it are hashed.
        expected_path: a shard record with the expected hashes.
    """
    expected = read_record(expected_path)
    start, stop = expected["rows"]
    return [
        name
        for name, sha256 in sorted(expected["sha256"].items())
        if feature_rows.rows_sha256(stored_path.parent / f"{name}.npy", start, stop) != sha256
    ]


def _extract_shards(
    samples: SampleSet,
    record: JudgeRecord,
    shards: Sequence[FeatureShard],
    folder: Path,
    device: str,
) -> None:
    """Extract the batches of shards that no part has extracted; write each complete shard."""
    batch_size = load_feature_extractor(record.name).batch_size
    names = load_feature_extractor(record.name).arrays
    hashes = samples.hashes_by_index
    batches = {
        shard.number: split_into_batches(
            shard.indices, hashes, record, batch_size, samples.crop_side
        )
        for shard in shards
    }
    stored_paths = feature_parts.stored_batches(folder)
    missing_keys = {
        number: {batch.key for batch in shard_batches if batch.key not in stored_paths}
        for number, shard_batches in batches.items()
    }
    shards_by_key = {batch.key: shard for shard in shards for batch in batches[shard.number]}
    new_batches = [
        batch
        for shard_batches in batches.values()
        for batch in shard_batches
        if batch.key not in stored_paths
    ]
    extracted_batches: dict[str, ExtractedBatch] = {}

    def write_shard(shard: FeatureShard) -> None:
        shard_batches = [
            extracted_batches.pop(batch.key)
            if batch.key in extracted_batches
            else feature_parts.read_batch(stored_paths[batch.key], batch.indices, names)
            for batch in batches[shard.number]
        ]
        _join_and_write_shard(folder, record.name, shard, shard_batches, len(samples.indices))

    n_images = sum(len(shard.indices) for shard in shards)
    n_new = sum(len(batch.indices) for batch in new_batches)
    title = f"extract {record.name} on {device}"
    with Progress(title, n_images, "image", initial=n_images - n_new) as progress:
        for shard in shards:
            if not missing_keys[shard.number]:
                write_shard(shard)
        for key, extracted_batch in extract_in_workers(samples, record.name, new_batches, device):
            extracted_batches[key] = extracted_batch
            progress.advance(len(extracted_batch.indices))
            shard = shards_by_key[key]
            missing_keys[shard.number].remove(key)
            if not missing_keys[shard.number]:
                write_shard(shard)


def split_into_batches(
    indices: Sequence[int],
    hashes: Mapping[int, str],
    record: JudgeRecord,
    batch_size: int,
    crop: int | None,
) -> list[BatchOfImages]:
    """Return the batches of the images of a shard.

    Args:
        hashes: Hex sha256 of the images by index.
        crop: Side of the centre crop.
    """
    groups = [[*indices[i : i + batch_size]] for i in range(0, len(indices), batch_size)]
    return [
        BatchOfImages(group, shard_key(record, [(i, hashes[i]) for i in group], crop))
        for group in groups
    ]


def extract_in_workers(
    samples: SampleSet, judge: str, batches: Sequence[BatchOfImages], device: str
) -> Iterator[tuple[str, ExtractedBatch]]:
    """Yield key and features of each batch."""
    if not batches:
        return
    task = Task("extract", {"judge": judge, "samples": samples, "device": device}, device)
    names = [f"images {batch.indices[0]}-{batch.indices[-1]}" for batch in batches]
    units = [batch.indices for batch in batches]
    batches_per_part = IMAGES_PER_PART // len(units[0])
    for position, extracted_batch in run_units(task, units, names, batches_per_part):
        numerics = {"device": device, **extracted_batch.numerics}
        yield batches[position].key, extracted_batch._replace(numerics=numerics)


class ExtractionWorker:
    """Extracts the features of batches of images; a worker of `run_units`."""

    def __init__(self, judge: str, samples: SampleSet, device: str) -> None:
        """Load the feature extractor."""
        plugin = load_feature_extractor(judge)
        self._samples = samples
        self._batch_size = plugin.batch_size
        self._extractor = open_extractor(judge, plugin, device)

    def results(self, units: Iterable[Sequence[int]]) -> Iterator[ExtractedBatch]:
        """Yield the features of each batch of images."""
        return extract_batches(self._extractor, self._batch_size, self._samples, units)

    def pack(self, result: ExtractedBatch) -> ExtractedBatch:
        """Return the features: they travel as they are."""
        return result


def extract_batches(
    loaded_extractor: LoadedFeatureExtractor,
    batch_size: int,
    samples: SampleSet,
    index_groups: Iterable[Sequence[int]],
) -> Iterator[ExtractedBatch]:
    """Yield the arrays of the images of each group, batch by batch; no batch has two groups.

    Threads decode and preprocess the next images while the network computes. Nothing is written,
    so any process can extract a part of a sample set.
    """

    def preprocess(batch: Batch) -> tuple[list[int], object, Counter[str]]:
        counts = Counter(_unusual_properties(batch))
        return batch.indices, loaded_extractor.preprocess(batch.images), counts

    batches = (batch for indices in index_groups for batch in samples.batches(indices, batch_size))
    batch_bytes = batch_size * math.prod(samples.shape)
    n_waiting = waiting_limit(batch_bytes, maximum=max(1, thread_count()))
    for indices, inputs, counts in map_in_threads(preprocess, batches, n_waiting):
        arrays = loaded_extractor.extract_preprocessed(inputs)
        notes = list(loaded_extractor.notes)
        yield ExtractedBatch(indices, arrays, counts, notes, dict(loaded_extractor.numerics))


def _join_and_write_shard(
    folder: Path,
    judge: str,
    shard: FeatureShard,
    batches: Sequence[ExtractedBatch],
    row_count: int,
) -> None:
    """Join the batches of a shard and write it.

    Args:
        row_count: Number of rows of the whole sample set.
    """
    arrays = {
        name: np.concatenate([batch.arrays[name] for batch in batches])
        for name in load_feature_extractor(judge).arrays
    }
    _check_finite(judge, shard, arrays)
    unusual_counts = sum((batch.unusual_counts for batch in batches), Counter[str]())
    # An extractor's last notes include its earlier ones; other processes may have others.
    last_notes = batches[-1].notes
    all_notes = dict.fromkeys(note for batch in batches for note in batch.notes)
    fields: JsonObject = {
        "unusual_images": dict(unusual_counts),
        "notes": [*last_notes, *(note for note in all_notes if note not in last_notes)],
        "numerics": batches[-1].numerics,
    }
    # Parts of a shard may come from other devices. A shard of one device has no such field.
    other_numerics: list[JsonObject] = []
    for batch in batches:
        if batch.numerics != batches[-1].numerics and batch.numerics not in other_numerics:
            other_numerics.append(batch.numerics)
    if other_numerics:
        fields["other_numerics"] = other_numerics
    _write_shard(folder, shard, arrays, row_count, fields)


def _check_finite(judge: str, shard: FeatureShard, arrays: dict[str, np.ndarray]) -> None:
    """Raise SampleError for values that are not finite; stored, they would be scored each time."""
    bad_rows = {
        name: ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)  # (shard images,)
        for name, rows in arrays.items()
    }
    names = [name for name, is_bad in bad_rows.items() if is_bad.any()]
    if not names:
        return
    is_bad = np.logical_or.reduce([bad_rows[name] for name in names])
    images = [shard.indices[i] for i in np.flatnonzero(is_bad)]
    image_text = ", ".join(map(str, images[:MAX_NAMED_IMAGES]))
    if len(images) > MAX_NAMED_IMAGES:
        image_text += f" and {len(images) - MAX_NAMED_IMAGES:,} more"
    raise SampleError(
        f"judge {judge} gave {', '.join(names)} that are not finite for images {image_text}, so"
        " nothing of them was stored; check these images, fetch the judge's weights again or use"
        " another --device, then run eval again"
    )


def _write_shard(
    folder: Path,
    shard: FeatureShard,
    arrays: dict[str, np.ndarray],
    row_count: int,
    record_fields: JsonObject,
) -> None:
    """Write the rows of a shard, then its record, so that a record never precedes its rows.

    Args:
        folder: folder of the features of one extractor.
        arrays: rows of the shard's images, by name of the array.
        row_count: number of rows of the whole sample set.
        record_fields: fields of the record that describe images and extractor.
    """
    hashes = {}
    for name, rows in arrays.items():
        if len(rows) != len(shard.indices):
            raise ShapeError(
                f"the judge returned {len(rows)} rows of {name} for {len(shard.indices)} images;"
                " fix the judge"
            )
        path = folder / f"{name}.npy"
        # the first row gives shape and dtype of the file
        feature_rows.reserve_rows(path, row_count, rows[0])
        feature_rows.write_rows(path, shard.first_row, rows)
        hashes[name] = feature_rows.rows_sha256(path, shard.first_row, shard.stop_row)
    record = record_fields | {
        "key": shard.key,
        "rows": [shard.first_row, shard.stop_row],
        "sha256": hashes,
    }
    _write_hashed(folder, shard_name(shard.number), json.dumps(record, sort_keys=True) + "\n")


def _unusual_properties(batch: Batch) -> Iterator[str]:
    """Yield the mode of each file that is not RGB, and "constant" for each one-colour image."""
    yield from (mode for mode in batch.modes if mode != EXPECTED_MODE)
    for image in batch.images:  # image by image, because a batch at 2048 pixels is 600 MB
        if (image == image[0, 0]).all():
            yield "constant"


def image_warnings(records: Sequence[JsonObject], image_count: int) -> tuple[str, ...]:
    """Return one warning for each unusual property that the shard records count."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.get("unusual_images", {}))
    templates = {
        **{mode: f"images: {{}} of {{}} are {words}" for mode, words in UNUSUAL_MODES.items()},
        "constant": "images: {} of {} are of one colour",
    }
    return tuple(
        template.format(f"{counts[key]:,}", f"{image_count:,}")
        for key, template in templates.items()
        if counts[key]
    )


def judge_notes(records: Sequence[JsonObject]) -> tuple[str, ...]:
    """Return the notes of the extractor in order, each once."""
    return tuple(dict.fromkeys(note for record in records for note in record.get("notes", ())))


def mixed_numerics_warnings(records: Sequence[JsonObject]) -> tuple[str, ...]:
    """Return a warning where shards were extracted on different devices or code paths.

    Shards that do not record it are left out.
    """
    numerics = [numerics for record in records for numerics in _all_numerics(record)]
    counts = Counter(f"{n.get('network', 'plain')} on {n.get('device')}" for n in numerics if n)
    if len(counts) < 2:
        return ()
    counts_text = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    return (
        f"judge: shards were extracted with different numerics ({counts_text}), so their last bits"
        " may differ",
    )


def numerics_flags(records: Sequence[JsonObject]) -> dict[str, Option]:
    """Return `judge_device`, `judge_network` and `judge_tf32`, as far as the shards record them."""
    values_by_flag: dict[str, list[Option]] = {}
    for record in records:
        for numerics in _all_numerics(record):
            for key, value in numerics.items():
                values_by_flag.setdefault(f"judge_{key}", []).append(value)
    return {
        flag: values[0] if len(set(values)) == 1 else ", ".join(sorted(map(str, set(values))))
        for flag, values in sorted(values_by_flag.items())
    }


def _all_numerics(record: JsonObject) -> list[dict[str, Option]]:
    """Return device and code path of a shard; several where its batches were extracted by several.

    A shard that records none gives none.
    """
    other_numerics = record.get("other_numerics")
    all_numerics = [record.get("numerics")]
    if isinstance(other_numerics, list):
        all_numerics += other_numerics
    return [numerics for numerics in all_numerics if isinstance(numerics, dict)]


def delete_features(folder: Path, names: Sequence[str]) -> None:
    """Delete the files that `extract_features` wrote of these arrays, and the folder if empty."""
    with convert_os_errors(folder):
        array_files = [
            folder / file
            for name in names
            for file in (f"{name}.npy", f".{name}.npy.lock", moments_name(name))
        ]
        sums_files = [
            folder / checksums.CHECKSUMS_FILE,
            folder / f".{checksums.CHECKSUMS_FILE}.lock",
        ]
        record_files = [folder / JUDGE_FILE, *folder.glob("[0-9][0-9][0-9][0-9][0-9].json")]
        for path in [*array_files, *sums_files, *record_files]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # other files are in it, or another process removed it
            folder.rmdir()
