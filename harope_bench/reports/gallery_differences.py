"""How much images of one request differ between runs, and the nearest reference images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import BenchError
from harope_bench.core.storage import read_if_present
from harope_bench.data.feature_rows import map_rows, read_rows_header
from harope_bench.data.run_folder import FEATURES_FOLDER
from harope_bench.reports.gallery_images import RunImages, reduced_pixels
from harope_bench.suites.base import LabelSuite, load_suite

JUDGE_FILE = "judge.json"  # pipeline/extract_features.py writes it beside the features
FEATURES_ARRAY = "features"
MAX_COMPARED_SAMPLES = 500  # whose pixels are compared
MAX_COMPARED_FEATURES = 5_000  # samples whose features are compared
MAX_COMPARED_SIDE = 64  # pixels
PIXELS_TEXT = "mean absolute pixel difference (0 to 255)"


class ImageDifference(NamedTuple):
    """The largest difference of one request, and the positions of the two runs that have it."""

    value: float
    first_run: int
    second_run: int


class Differences(NamedTuple):
    """Differences by sample index, and what they are measured with, in words."""

    by_index: dict[int, ImageDifference]
    text: str


class NearestReference(NamedTuple):
    """The reference image that is nearest to a sample: its pixels, label and distance."""

    pixels: np.ndarray
    label: int
    distance: float


class ReferenceImages(NamedTuple):
    """Reference images (N, H, W) or (N, H, W, 3) uint8 with labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


def measure_differences(runs: Sequence[RunImages], indices: Sequence[int]) -> Differences:
    """Return the differences of the runs' images, by features where all runs have stored them.

    Args:
        indices: Sorted indices that all runs have.
    """
    if len(runs) < 2:
        return Differences({}, "")
    return _feature_differences(runs, indices) or _pixel_differences(runs, indices)


def _feature_differences(runs: Sequence[RunImages], indices: Sequence[int]) -> Differences | None:
    """Return the distances between features; None unless all runs have features of one judge."""
    folders = _shared_feature_folders([run.run.folder for run in runs])
    for name in folders:
        rows_by_run = [_feature_rows(run, name) for run in runs]
        features = [rows for rows in rows_by_run if rows is not None]
        if len(features) < len(runs) or len({rows.shape[1:] for rows in features}) != 1:
            continue
        positions = [{index: k for k, index in enumerate(run.image_indices)} for run in runs]
        shared_indices = [i for i in indices if all(i in position for position in positions)]
        compared_indices = evenly_spaced_indices(shared_indices, MAX_COMPARED_FEATURES)
        with np.errstate(over="ignore"):  # a damaged number becomes infinite
            vectors = [
                rows[[position[i] for i in compared_indices]].astype(np.float32)
                for rows, position in zip(features, positions, strict=True)
            ]  # (N, D) each
        text = f"distance between the stored features of {name}"
        text += _subset_text(compared_indices, shared_indices)
        return Differences(_largest_differences(compared_indices, vectors, _euclidean), text)
    return None


def _shared_feature_folders(folders: Sequence[Path]) -> list[str]:
    """Return the names of the judges whose features, by equal records, all runs have."""
    names = sorted(
        path.parent.name for path in folders[0].glob(f"{FEATURES_FOLDER}/*/{JUDGE_FILE}")
    )
    return [
        name
        for name in names
        if len(
            {read_if_present(folder / FEATURES_FOLDER / name / JUDGE_FILE) for folder in folders}
        )
        == 1
    ]


def _feature_rows(run: RunImages, name: str) -> np.ndarray | None:
    """Return the features (N, D) of all images of a run; None if they are incomplete."""
    path = run.run.folder / FEATURES_FOLDER / name / f"{FEATURES_ARRAY}.npy"
    n_images = len(run.image_indices)
    try:
        header = read_rows_header(path)
        if header is None or header.shape[0] != n_images or not header.has_rows(n_images):
            return None
        rows = map_rows(path, n_images)
    except BenchError:
        return None
    is_numeric = np.issubdtype(rows.dtype, np.floating) and rows.ndim == 2
    return rows if is_numeric else None


def _pixel_differences(runs: Sequence[RunImages], indices: Sequence[int]) -> Differences:
    """Return the differences between pixels of at most MAX_COMPARED_SAMPLES samples."""
    compared_indices = evenly_spaced_indices(indices, MAX_COMPARED_SAMPLES)
    pixels_by_run = [_load_pixels(run, compared_indices) for run in runs]
    shapes = {pixels.shape for run in pixels_by_run for pixels in run.values()}
    text = PIXELS_TEXT + _subset_text(compared_indices, indices)
    if len(shapes) != 1:  # of several sizes, or no image at all
        return Differences({}, "")
    complete_indices = [i for i in compared_indices if all(i in run for run in pixels_by_run)]
    if not complete_indices:
        return Differences({}, "")
    vectors = [
        np.stack([run[i].ravel() for i in complete_indices]).astype(np.float32)
        for run in pixels_by_run
    ]  # (N, H * W * 3) each
    return Differences(_largest_differences(complete_indices, vectors, _mean_absolute), text)


def _subset_text(compared_indices: Sequence[int], indices: Sequence[int]) -> str:
    """Return how many samples were compared in words; empty if all were."""
    if len(compared_indices) == len(indices):
        return ""
    return f", among {len(compared_indices):,} evenly spaced samples"


def _load_pixels(run: RunImages, indices: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the reduced pixels of the samples that have an image."""
    return {
        index: reduced_pixels(image, MAX_COMPARED_SIDE)
        for index, image in run.load(indices)
        if not isinstance(image, str)
    }


def _euclidean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(first - second, axis=1))


def _mean_absolute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(first - second).mean(axis=1))


class _DistanceFunction(Protocol):
    """A distance of the rows of two arrays (N, D), (N,)."""

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the distance of each pair of rows."""


def _largest_differences(
    indices: Sequence[int], vectors: Sequence[np.ndarray], distance: _DistanceFunction
) -> dict[int, ImageDifference]:
    """Return the pair of runs that differs most on each sample.

    Args:
        vectors: One array (N, D) for each run, in the order of the indices.
    """
    pairs = list(combinations(range(len(vectors)), 2))
    with np.errstate(over="ignore", invalid="ignore"):
        distances = np.stack([distance(vectors[a], vectors[b]) for a, b in pairs])  # (pairs, N)
    distances = np.nan_to_num(distances, posinf=0)  # damaged features say nothing
    largest_pairs = distances.argmax(axis=0)  # (N,)
    return {
        index: ImageDifference(float(distances[pair, k]), *pairs[pair])
        for k, (index, pair) in enumerate(zip(indices, largest_pairs.tolist(), strict=True))
    }


def evenly_spaced_indices(indices: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the indices, evenly spaced from the first to the last.

    >>> evenly_spaced_indices(range(10), 4), evenly_spaced_indices([5, 7], 4)
    ([0, 3, 6, 9], [5, 7])
    """
    if len(indices) <= count:
        return list(indices)
    last_position = len(indices) - 1
    return [indices[k * last_position // (count - 1)] for k in range(count)]


# ---------------------------------------------------------------------------- reference images


def load_reference_images(suite_name: str) -> ReferenceImages | None:
    """Return the training images of a suite of labels; None if it includes none."""
    if suite_name not in registry.list_entries("suites"):
        return None
    try:
        suite = load_suite(suite_name)
        if not isinstance(suite, LabelSuite):
            return None
        return ReferenceImages(*suite.images("train"))
    except BenchError:
        return None


def find_nearest(
    samples: Mapping[int, np.ndarray], references: ReferenceImages
) -> dict[int, NearestReference]:
    """Return the nearest reference image of each sample of the references' size.

    The distance is the root mean square difference of pixels. References without colour are
    compared with the grey samples.

    Args:
        samples: Pixels (H, W, 3) uint8 by sample index.
    """
    is_grey = references.images.ndim == 3
    size = references.images.shape[1:3]
    fitting_samples = {i: pixels for i, pixels in samples.items() if pixels.shape[:2] == size}
    if not fitting_samples:
        return {}

    grey_samples = {
        i: pixels.mean(axis=2) if is_grey else pixels for i, pixels in fitting_samples.items()
    }
    sample_rows = np.stack([np.ravel(pixels) for pixels in grey_samples.values()]).astype(
        np.float32
    )  # (S, D)
    rows = references.images.reshape(len(references.images), -1).astype(np.float32)  # (N, D)

    # squared distance - |sample|^2 = |reference|^2 - 2 sample . reference
    reference_norms = (rows**2).sum(axis=1)  # (N,)
    positions = (reference_norms - 2 * (sample_rows @ rows.T)).argmin(axis=1)  # (S,)
    nearest = {}
    for index, sample, position in zip(
        fitting_samples, sample_rows, positions.tolist(), strict=True
    ):
        # computed again, because the expanded form loses digits of small distances
        distance = float(np.sqrt(np.mean((rows[position] - sample) ** 2)))
        image = references.images[position]
        colour_pixels = np.repeat(image[:, :, None], 3, axis=2) if is_grey else image
        nearest[index] = NearestReference(colour_pixels, int(references.labels[position]), distance)
    return nearest
