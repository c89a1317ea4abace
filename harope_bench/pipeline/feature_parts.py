"""Features of single batches of images, which the parts of a run (`eval --shard`) leave.

A batch is stored as `parts/PART/features/JUDGE/KEY.npz`, where KEY is the hash of extractor and
images. The next `eval` of the whole run takes these batches instead of extracting them. So a part
needs not know what other parts have generated: a batch that is another one in the whole run has
another key and is extracted again.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.array_file import arrays_with_format, check_arrays_format
from harope_bench.core.errors import StorageError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import Option
from harope_bench.core.storage import convert_os_errors
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


def write_batch(folder: Path, key: str, batch: ExtractedBatch) -> None:
    """Write the features of a batch to the folder of an extractor in a part."""
    record = {
        "indices": batch.indices,
        "unusual_images": dict(batch.unusual_counts),
        "notes": batch.notes,
        "numerics": batch.numerics,
    }
    arrays = {f"{FEATURE_PREFIX}{name}": array for name, array in batch.arrays.items()}
    arrays[NOTES_ARRAY] = np.array(json.dumps(record, sort_keys=True))
    write_arrays(batch_path(folder, key), arrays_with_format("features", arrays))


def batch_path(folder: Path, key: str) -> Path:
    """Return the path of a batch in the folder of an extractor."""
    return folder / f"{key}.npz"


def read_batch(path: Path) -> ExtractedBatch:
    """Return the stored features of a batch.

    Raises:
        StorageError: The file is damaged; the message says to delete it.
    """
    try:
        arrays = load_arrays(path)
        check_arrays_format("features", arrays, path)
        record = parse_json(str(arrays[NOTES_ARRAY]).encode())
        features = {
            name.removeprefix(FEATURE_PREFIX): array
            for name, array in arrays.items()
            if name.startswith(FEATURE_PREFIX)
        }
        return ExtractedBatch(
            record["indices"],
            features,
            Counter(record["unusual_images"]),
            record["notes"],
            record["numerics"],
        )
    except (StorageError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} is no batch of features or is damaged; delete it and run eval again"
        ) from error


def stored_batches(folder: Path) -> dict[str, Path]:
    """Return the files of the batches that parts have extracted, by key.

    Args:
        folder: The extractor's folder in the whole run: RUN/features/JUDGE.
    """
    return {path.stem: path for part in _extractor_folders(folder) for path in part.glob("*.npz")}


def remove_batches(folder: Path) -> None:
    """Remove the batches of parts, once the shards of the whole run are written."""
    extractor_folders = _extractor_folders(folder)
    with convert_os_errors(folder):
        for part in extractor_folders:
            for path in part.glob("*.npz"):
                path.unlink(missing_ok=True)
    if extractor_folders:
        remove_empty_parts(_run_folder(folder))


def _extractor_folders(folder: Path) -> list[Path]:
    """Return the folders of an extractor in the parts of a run."""
    paths = folders_in_parts(_run_folder(folder), *folder.parts[-2:])
    return [path for path in paths if path.is_dir()]


def _run_folder(folder: Path) -> Path:
    return folder.parent.parent
