"""References: statistics and features of real images, opened from files or built from images.

The format is ADM's npz (openai/guided-diffusion:evaluations/evaluator.py): `mu`, `sigma` (pool_3),
`mu_s`, `sigma_s` (sFID), and `arr_0`, the real images for precision and recall. Files that this
package writes also record the judge, the number of images behind the statistics, and warnings about
these images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core.array_archive import load_arrays
from harope_bench.core.array_file import arrays_with_format, check_arrays_format
from harope_bench.core.errors import (
    InvalidMomentsError,
    OptionError,
    SampleError,
    ShapeError,
    StorageError,
)
from harope_bench.core.escaping import printable_line, shorten_list
from harope_bench.core.formats import FORMAT_KEY
from harope_bench.core.limits import MAX_REFERENCE_IMAGES, check_maximum
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import check_output_path, home, sha256_file
from harope_bench.data import adm_npz
from harope_bench.data.sample_set import SampleSet, open_reference_images
from harope_bench.evaluators.base import Features
from harope_bench.judges.base import load_feature_extractor, load_judge
from harope_bench.metrics.moment_checks import moments_complaint
from harope_bench.metrics.row_checks import first_bad_row, rows_complaint
from harope_bench.pipeline.extract_features import (
    ExtractedFeatures,
    delete_features,
    extract_features,
)
from harope_bench.suites.base import Suite
from harope_bench.suites.suite_reference import making_advice, require_suite_reference

DEFAULT_IMAGES = 10_000  # number of images in ADM's references
STATISTICS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
# Members of the archive that record the feature extractor.
JUDGE_MEMBER = "judge"
JUDGE_SHA256_MEMBER = "judge_sha256"
# Members of the archive that record the number of images and the warnings about them.
COUNT_MEMBER = "images"
WARNINGS_MEMBER = "warnings"
METADATA_MEMBERS = (JUDGE_MEMBER, JUDGE_SHA256_MEMBER, COUNT_MEMBER, WARNINGS_MEMBER, FORMAT_KEY)
SMALL_MEMBERS = ("mu", "sigma", "mu_s", "sigma_s", "features", *METADATA_MEMBERS)
REBUILD_ADVICE = "make it with `harope-bench reference`"
# Limits for the warnings of a file: how many are read, and characters of each.
MAX_WARNINGS = 20
MAX_WARNING_LENGTH = 300


class LoadedReference(NamedTuple):
    """A reference for evaluators: its name, the sha256 of its file, its arrays and its warnings."""

    name: str
    sha256: str
    arrays: Mapping[str, np.ndarray]
    warnings: tuple[str, ...] = ()


class ReferenceOrigin(NamedTuple):
    """The images behind a reference's statistics, as the file records them.

    image_count: None where the file does not record it.
    warnings: what was unusual about the images.
    """

    image_count: int | None
    warnings: tuple[str, ...]


class ReferenceExtraction(NamedTuple):
    """Options for extracting the features of a reference's images.

    recorded_judge: when rescoring, the extractor of the samples; its weights may be missing.
    cache_folder: where the features are stored; None for the user's home.
    """

    device: str = "cpu"
    is_rescored: bool = False
    recorded_judge: JudgeRecord | None = None
    cache_folder: Path | None = None

    def judge_weights_sha256(self, judge: str) -> str:
        """Return the hash of the recorded or the installed weights."""
        if self.recorded_judge is None:
            return load_judge(judge).weights_sha256()
        return self.recorded_judge.weights_sha256


def open_reference(
    suite: Suite,
    judge: str,
    path: Path | None,
    extraction: ReferenceExtraction | None = None,
    shape: tuple[int, ...] | None = None,
) -> LoadedReference:
    """Return the suite's reference, or the given file, with statistics and features of a judge.

    Args:
        path: a file to use instead of the suite's reference.
        shape: (H, W, 3) of the samples; images of another size in the reference give a warning.

    Raises:
        StorageError: The file is not an npz with statistics or images.
        OptionError: It was made with another judge or other weights.
        InvalidMomentsError: Its statistics are no mean and covariance.
        SampleError: Its features are no finite rows.
        ShapeError: Its statistics or features are of another width than the judge's.
    """
    extraction = extraction or ReferenceExtraction()
    if path is not None:
        return _open_reference_file(path, judge, extraction, shape)

    side = shape[0] if shape is not None else suite.resolution
    reference = require_suite_reference(suite, judge, side)
    if reference.judge_sha256 != extraction.judge_weights_sha256(judge):
        raise OptionError(
            f"reference {reference.name} was made with other weights of {judge}",
            advice=making_advice(judge, side),
        )
    arrays = load_arrays(reference.path, SMALL_MEMBERS)
    # Judges share weights, so their hash alone does not identify the judge of the statistics.
    _judge_warnings(reference.path, arrays, judge, extraction)
    arrays, warnings = _add_image_features(
        reference.path, reference.sha256, arrays, judge, extraction, shape
    )
    return LoadedReference(reference.name, reference.sha256, arrays, warnings)


def _open_reference_file(
    path: Path, judge: str, extraction: ReferenceExtraction, shape: tuple[int, ...] | None
) -> LoadedReference:
    if not path.is_file():
        raise StorageError(f"reference {path} does not exist; give an .npz with mu and sigma")
    arrays = load_arrays(path, SMALL_MEMBERS)
    if not {"mu", "sigma"} <= arrays.keys() and "arr_0" not in adm_npz.array_names(path):
        raise StorageError(
            f"reference {path} has {shorten_list(adm_npz.array_names(path))}, wanted mu and sigma"
            f" or arr_0; {REBUILD_ADVICE}"
        )
    sha256 = sha256_file(path)
    judge_warnings = _judge_warnings(path, arrays, judge, extraction)
    arrays, warnings = _add_image_features(path, sha256, arrays, judge, extraction, shape)
    return LoadedReference(path.name, sha256, arrays, (*judge_warnings, *warnings))


def _judge_warnings(
    path: Path, arrays: Mapping[str, np.ndarray], judge: str, extraction: ReferenceExtraction
) -> tuple[str, ...]:
    """Return a warning where the file does not record the judge of its statistics.

    Raises:
        OptionError: Another judge made the statistics.
        FormatError: Another version of this package made the file.
    """
    if JUDGE_MEMBER not in arrays:
        if "mu" not in arrays:
            return ()
        return (f"reference: the file does not record its judge, {judge} is assumed",)

    check_arrays_format("reference", arrays, path)
    file_judge = str(arrays[JUDGE_MEMBER])
    file_sha256 = str(arrays.get(JUDGE_SHA256_MEMBER, ""))
    if (file_judge, file_sha256) != (judge, extraction.judge_weights_sha256(judge)):
        raise OptionError(
            f"reference {path} was made by {file_judge} ({file_sha256[:12]}...), not by {judge}"
            " with its weights; build it again"
        )
    return ()


def _add_image_features(
    path: Path,
    sha256: str,
    file_arrays: Mapping[str, np.ndarray],
    judge: str,
    extraction: ReferenceExtraction,
    shape: tuple[int, ...] | None,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the arrays of a reference with the features of its images, and warnings.

    `sha256` is the hash of the file. Where it has no statistics, those of its images are added.
    """
    arrays = {name: array for name, array in file_arrays.items() if name not in METADATA_MEMBERS}
    _check_arrays(path, arrays, judge)
    warnings = tuple(
        f"reference: {line.removeprefix('images: ')}"
        for line in _parse_origin(file_arrays).warnings
    )
    if "features" in arrays:
        return arrays, warnings
    if "arr_0" not in adm_npz.array_names(path):
        warnings += (
            "reference: statistics without images (arr_0), so no precision, recall or KID",
        )
        return arrays, warnings

    # Extract the features of the images in the file.
    image_count, *size = adm_npz.images_shape(path, is_reference=True)  # (N, H, W, 3)
    features = extract_reference_features(path, sha256, judge, extraction).features
    feature_rows = features.arrays["features"]  # (N, D)
    if "mu" in arrays:
        _check_width(path, "mu", len(arrays["mu"]), judge, feature_rows.shape[1])
    if shape is not None and tuple(size) != shape:
        warnings += (
            f"reference: its images are {size[1]}x{size[0]}, the samples {shape[1]}x{shape[0]}",
        )
    if "mu" not in arrays:
        arrays |= adm_statistics(features)
        warnings += (
            f"reference: it has no statistics, they were computed from its {image_count:,} images",
        )
    return {**arrays, "features": feature_rows}, warnings


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray], judge: str) -> None:
    """Raise unless statistics and features are valid and of the widths of the judge's arrays."""
    widths = load_feature_extractor(judge).widths
    for array, names in STATISTICS.items():
        if any(name in arrays for name in names):
            _check_statistics(path, arrays, *names)
            _check_width(path, names[0], len(arrays[names[0]]), judge, widths.get(array))
    if "features" in arrays:
        _check_features(path, arrays["features"])
        width = widths.get("features", len(arrays["mu"]) if "mu" in arrays else None)
        _check_width(path, "features", arrays["features"].shape[1], judge, width)


def _check_statistics(
    path: Path, arrays: Mapping[str, np.ndarray], mean_name: str, covariance_name: str
) -> None:
    if missing := [name for name in (mean_name, covariance_name) if name not in arrays]:
        raise InvalidMomentsError(
            f"reference {path} lacks {missing[0]}, wanted {mean_name} and {covariance_name};"
            f" {REBUILD_ADVICE}"
        )
    if complaint := moments_complaint(arrays[mean_name], arrays[covariance_name]):
        raise InvalidMomentsError(
            f"{mean_name} and {covariance_name} of reference {path} {complaint}; {REBUILD_ADVICE}"
        )


def _check_features(path: Path, rows: np.ndarray) -> None:
    if complaint := rows_complaint(rows):
        raise SampleError(f"features of reference {path} {complaint}; {REBUILD_ADVICE}")
    if not len(rows):
        raise SampleError(
            f"features of reference {path} are of no image, wanted at least one row;"
            f" {REBUILD_ADVICE}"
        )
    bad_row = first_bad_row(rows)
    if bad_row is not None:
        raise SampleError(
            f"features of reference {path} are not finite, first in row {bad_row}; {REBUILD_ADVICE}"
        )


def _check_width(path: Path, name: str, actual_width: int, judge: str, width: int | None) -> None:
    """Raise ShapeError if an array has another width than the judge's; None allows any width."""
    if width is not None and actual_width != width:
        raise ShapeError(
            f"{name} of reference {path} has width {actual_width}, judge {judge} gives {width}; use"
            " the reference of the same judge"
        )


def extract_reference_features(
    path: Path, sha256: str, judge: str, extraction: ReferenceExtraction
) -> ExtractedFeatures:
    """Return the features of a reference's images, cached by the file's sha256 and by judge."""
    folder = (extraction.cache_folder or home() / "references") / sha256[:16] / judge
    return extract_features(
        open_reference_images(path),
        judge,
        folder,
        extraction.device,
        extraction.is_rescored,
        extraction.recorded_judge,
    )


def adm_statistics(features: Features) -> dict[str, np.ndarray]:
    """Return mean (D,) and unbiased covariance (D, D) of each array, float64, under ADM's names."""
    statistics = {}
    for array_name, (mean_name, covariance_name) in STATISTICS.items():
        if array_name in features.arrays:
            gaussian = features.moments(array_name).to_gaussian()
            statistics[mean_name], statistics[covariance_name] = gaussian
    return statistics


def build_reference(
    samples: SampleSet,
    target: Path,
    judge: str,
    device: str = "cpu",
    images: int = DEFAULT_IMAGES,
    seed: int = 0,
    replace: bool = False,
) -> Path:
    """Write a reference npz: statistics of every image, and a random subset of the images.

    Features are stored beside the file until it is written, so that an interrupted call resumes.

    Args:
        images: size of the subset (`arr_0`), chosen by `seed`; all images if there are fewer.
        replace: overwrite an existing file that is no reference of these images.

    Raises:
        StorageError: Another file exists at the target and `replace` is not set, or the target is
            what is read.
    """
    load_feature_extractor(judge)
    check_maximum("--image-count", images, MAX_REFERENCE_IMAGES)
    _check_target(target, samples, judge, replace)

    # Statistics of all images, with what the file records about them.
    features_folder = target.with_name(f".{target.name}.features")
    extraction_result = extract_features(samples, judge, features_folder, device, rescore=False)
    statistics = adm_statistics(extraction_result.features)
    metadata = {
        JUDGE_MEMBER: np.array(judge),
        JUDGE_SHA256_MEMBER: np.array(extraction_result.judge.weights_sha256),
        COUNT_MEMBER: np.array(len(samples.indices)),
        WARNINGS_MEMBER: np.array(
            _origin_warnings(samples, extraction_result, statistics), dtype=np.str_
        ),
    }

    # Write them with a random subset of the images, batch by batch.
    subset = samples
    if images < len(samples.indices):
        subset = samples.random_subset(images, seed)
    height, width, channels = samples.shape
    batch_size = min(256, max(1, adm_npz.BATCH_BYTES // (height * width * channels)))
    adm_npz.write_npz(
        target,
        (batch.images for batch in subset.batches(subset.indices, batch_size)),
        (len(subset.indices), height, width, channels),
        extra_arrays=arrays_with_format("reference", {**statistics, **metadata}),
        replace=replace,
    )
    delete_features(features_folder, list(extraction_result.features.arrays))
    return target


def _origin_warnings(
    samples: SampleSet, extraction_result: ExtractedFeatures, statistics: Mapping[str, np.ndarray]
) -> list[str]:
    """Return the warnings about images that a reference records.

    Warnings about the judge are left out, because every use of the reference repeats them.
    """
    image_texts = [
        warning.text for warning in extraction_result.warnings if warning.code == "images"
    ]
    singular_texts = _singular_warnings(statistics, len(samples.indices))
    return [printable_line(text) for text in (*samples.warnings, *image_texts, *singular_texts)]


def _check_target(target: Path, samples: SampleSet, judge: str, replace: bool) -> None:
    """Raise StorageError, before any extraction, for a file that the same command did not write."""
    check_output_path(target, samples.path)
    if not target.exists() or replace:
        return
    try:
        members = load_arrays(target, (JUDGE_MEMBER, COUNT_MEMBER))
    except StorageError:
        members = {}
    judge_and_count = (str(members.get(JUDGE_MEMBER)), str(members.get(COUNT_MEMBER)))
    if judge_and_count != (judge, str(len(samples.indices))):
        raise StorageError(
            f"{target} exists and is no reference of these images by {judge}; give --replace, or"
            " choose another path"
        )


def reference_origin(path: Path) -> ReferenceOrigin:
    """Return what a reference file records of the images behind its statistics.

    Raises:
        StorageError: The file cannot be read.
    """
    return _parse_origin(load_arrays(path, (COUNT_MEMBER, WARNINGS_MEMBER)))


def _parse_origin(arrays: Mapping[str, np.ndarray]) -> ReferenceOrigin:
    warning_array = arrays.get(WARNINGS_MEMBER)
    lines: tuple[str, ...] = ()
    if warning_array is not None and warning_array.dtype.kind == "U":
        lines = tuple(
            printable_line(str(line))[:MAX_WARNING_LENGTH]
            for line in warning_array.ravel()[:MAX_WARNINGS]
        )
    count = arrays.get(COUNT_MEMBER)
    if count is None or count.dtype.kind not in "iu" or count.size != 1 or count < 1:
        return ReferenceOrigin(image_count=None, warnings=lines)
    return ReferenceOrigin(int(count.item()), lines)


def _singular_warnings(statistics: Mapping[str, np.ndarray], image_count: int) -> tuple[str, ...]:
    """Return a warning for each covariance that is singular because there are too few images."""
    return tuple(
        f"images: N <= D ({image_count:,} images, {len(statistics[mean_name]):,} dimensions of"
        f" {mean_name}); the statistics depend on N"
        for mean_name, _ in STATISTICS.values()
        if mean_name in statistics and image_count <= len(statistics[mean_name])
    )
