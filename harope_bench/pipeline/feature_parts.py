"""Features of single batches of images, which the parts of a run (`eval --shard`) leave.

A batch is stored as `parts/PART/features/JUDGE/KEY.npz`, where KEY is the hash of extractor and
images. The next `eval` of the whole run takes these batches instead of extracting them. So a part
needs not know what other parts have generated: a batch that is another one in the whole run has
another key and is extracted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.array_file import arrays_with_format, check_arrays_format
from harope_bench.core.errors import StorageError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import Option, Record
from harope_bench.core.storage import convert_os_errors, sha256_bytes
from harope_bench.data.run_claim import folders_in_parts, remove_empty_parts

NOTES_ARRAY = "record"  # JSON text about the batch, beside the features
FEATURE_PREFIX = "feature-"  # of the arrays' names


class BatchOfImages(NamedTuple):
    """The images that an extractor takes at once, and the key of their features."""

    indices: list[int]
    key: str


class ExtractedBatch(NamedTuple):
    """The arrays of one batch of images, and what a shard record says about it.

    Attributes:
        unusual_counts: Number of images by unusual property.
        notes, numerics: Of the loaded extractor, after the batch.
    """

    indices: list[int]
    arrays: dict[str, np.ndarray]
    unusual_counts: Counter[str]
    notes: list[str]
    numerics: dict[str, Option]


class BatchRecord(Record):
    """What a stored batch says about itself.

    Attributes:
        sha256: Of the bytes of each array, by name.
    """

    indices: list[int]
    unusual_images: dict[str, int]
    notes: list[str]
    numerics: dict[str, Option]
    sha256: dict[str, str]


def write_batch(folder: Path, key: str, batch: ExtractedBatch) -> None:
    """Write the features of a batch to the folder of an extractor in a part."""
    record = BatchRecord(
        indices=batch.indices,
        unusual_images=dict(batch.unusual_counts),
        notes=batch.notes,
        numerics=batch.numerics,
        sha256=_array_hashes(batch.arrays),
    )
    arrays = {f"{FEATURE_PREFIX}{name}": array for name, array in batch.arrays.items()}
    arrays[NOTES_ARRAY] = np.array(record.to_json())
    write_arrays(batch_path(folder, key), arrays_with_format("features", arrays))


def batch_path(folder: Path, key: str) -> Path:
    """Return the path of a batch in the folder of an extractor."""
    return folder / f"{key}.npz"


def _array_hashes(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: sha256_bytes(array.tobytes()) for name, array in arrays.items()}


def read_batch(path: Path, indices: Sequence[int], names: Sequence[str]) -> ExtractedBatch:
    """Return the stored features of a batch.

    Args:
        indices: Of its images.
        names: Of the extractor's arrays.

    Raises:
        StorageError: The file is damaged or altered; the message says to delete it.
    """
    try:
        arrays = load_arrays(path)
        check_arrays_format("features", arrays, path)
        record = _parse_record(arrays)
        features = {name: arrays[f"{FEATURE_PREFIX}{name}"] for name in names}
        if record.indices != [*indices] or record.sha256 != _array_hashes(features):
            raise ValueError("other images or other bytes than recorded")
    except (StorageError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} is no batch of features or is damaged; delete it and run eval again"
        ) from error
    return ExtractedBatch(
        record.indices, features, Counter(record.unusual_images), record.notes, record.numerics
    )


def _parse_record(arrays: Mapping[str, np.ndarray]) -> BatchRecord:
    return BatchRecord.model_validate(parse_json(str(arrays[NOTES_ARRAY]).encode()))


def stored_batches(folder: Path) -> dict[str, Path]:
    """Return the files of the batches that parts have extracted, by key.

    Args:
        folder: The extractor's folder in the whole run: RUN/features/JUDGE.
    """
    return {path.stem: path for part in _extractor_folders(folder) for path in part.glob("*.npz")}


def remove_batches(folder: Path, indices: Collection[int]) -> None:
    """Remove the batches of parts, once the shards of these images are written.

    Batches of other images stay, because this run of fewer images does not have their features.
    """
    run_indices = set(indices)
    with convert_os_errors(folder):
        for part in _extractor_folders(folder):
            for path in part.glob("*.npz"):
                if _batch_indices(path) <= run_indices:
                    path.unlink(missing_ok=True)
    remove_empty_parts(_run_folder(folder))


def _batch_indices(path: Path) -> set[int]:
    """Return the indices of a stored batch; none if it is damaged."""
    try:
        return set(_parse_record(load_arrays(path, (NOTES_ARRAY,))).indices)
    except (StorageError, KeyError, TypeError, ValueError):
        return set()


def _extractor_folders(folder: Path) -> list[Path]:
    """Return the folders of an extractor in the parts of a run."""
    return folders_in_parts(_run_folder(folder), *folder.parts[-2:])


def _run_folder(folder: Path) -> Path:
    return folder.parent.parent
