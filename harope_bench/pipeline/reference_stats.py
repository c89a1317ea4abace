"""References: statistics of real images and the images themselves, opened, built, and seen once by
each judge.

Format: ADM's npz, openai/guided-diffusion:evaluations/evaluator.py; `mu`, `sigma` (pool_3), `mu_s`,
`sigma_s` (sFID), and `arr_0`, the
real images that precision and recall compare with. Files made here also say their judge, how many
images the statistics are of, and
what was odd about them.
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

DEFAULT_IMAGES = 10_000  # in ADM's references
STATISTICS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
# members that name who looked
JUDGE_MEMBER = "judge"
JUDGE_SHA256_MEMBER = "judge_sha256"
# members: how many images the statistics are of, and what was odd about them
COUNT_MEMBER = "images"
WARNINGS_MEMBER = "warnings"
METADATA_MEMBERS = (JUDGE_MEMBER, JUDGE_SHA256_MEMBER, COUNT_MEMBER, WARNINGS_MEMBER, FORMAT_KEY)
SMALL_MEMBERS = ("mu", "sigma", "mu_s", "sigma_s", "features", *METADATA_MEMBERS)
REBUILD_ADVICE = "make it with `harope-bench reference`"
# warnings that are read from a file, and characters of each
MAX_WARNINGS = 20
MAX_WARNING_LENGTH = 300


class LoadedReference(NamedTuple):
    """A reference as an evaluator wants it: name, sha256 of its file, arrays, and what a result
    must say of it.
    """

    name: str
    sha256: str
    arrays: Mapping[str, np.ndarray]
    warnings: tuple[str, ...] = ()


class ReferenceOrigin(NamedTuple):
    """What a reference says of the images behind its statistics: how many (None if it does not
    say), and what was odd about them.
    """

    image_count: int | None
    warnings: tuple[str, ...]


class ReferenceExtraction(NamedTuple):
    """How a judge sees a reference's images where nobody has looked yet.

    looked: when rescoring, the judge that saw the samples, whose weights may be gone. cache: where
    that is kept, the user's home if
    None.
    """

    device: str = "cpu"
    is_rescored: bool = False
    recorded_judge: JudgeRecord | None = None
    cache_folder: Path | None = None

    def judge_weights_sha256(self, judge: str) -> str:
        """Hash of the weights that look, or that looked."""
        return (
            load_judge(judge).weights_sha256()
            if self.recorded_judge is None
            else self.recorded_judge.weights_sha256
        )


def open_reference(
    suite: Suite,
    judge: str,
    path: Path | None,
    looking: ReferenceExtraction | None = None,
    shape: tuple[int, ...] | None = None,
) -> LoadedReference:
    """The suite's reference, or the file given in its place, as this judge sees it.

    Args:
        shape: (H, W, 3) of the samples; a reference of another size is warned of.

    Raises:
        StorageError: the file is not an npz with statistics or images. OptionError: it was made
            with another judge or other weights.
        InvalidMomentsError: its statistics are no mean and covariance. SampleError: its features
            are no finite rows.
        ShapeError: its statistics or features are of another width than the judge's.
    """
    looking = looking or ReferenceExtraction()
    if path is not None:
        return _open_reference_file(path, judge, looking, shape)
    found = suite.reference(judge)
    if found is None:
        raise OptionError(
            f"the suite has no reference for {judge} ({suite.title}); give --reference FILE"
        )
    if found.judge_sha256 != looking.judge_weights_sha256(judge):
        raise OptionError(
            f"reference {found.name} was made with other weights of {judge}; build one,"
            " `harope-bench reference --help`"
        )
    arrays = load_arrays(found.path, SMALL_MEMBERS)
    _check_judge(
        found.path, arrays, judge, looking
    )  # judges share weights, so their hash does not tell whose statistics these are
    return LoadedReference(
        found.name,
        found.sha256,
        *_add_image_features(found.path, found.sha256, arrays, judge, looking, shape),
    )


def _open_reference_file(
    path: Path, judge: str, looking: ReferenceExtraction, shape: tuple[int, ...] | None
) -> LoadedReference:
    if not path.is_file():
        raise StorageError(f"reference {path} is not there; give an .npz with mu and sigma")
    arrays = load_arrays(path, SMALL_MEMBERS)
    if not {"mu", "sigma"} <= arrays.keys() and "arr_0" not in adm_npz.array_names(path):
        raise StorageError(
            f"reference {path} has {shorten_list(adm_npz.array_names(path))}, wanted mu and sigma"
            f" or arr_0; {REBUILD_ADVICE}"
        )
    sha256 = sha256_file(path)
    unsaid = _check_judge(path, arrays, judge, looking)
    found, warnings = _add_image_features(path, sha256, arrays, judge, looking, shape)
    return LoadedReference(path.name, sha256, found, (*unsaid, *warnings))


def _check_judge(
    path: Path, arrays: Mapping[str, np.ndarray], judge: str, looking: ReferenceExtraction
) -> tuple[str, ...]:
    """A warning where the file does not say which judge made its statistics.

    Raises:
        OptionError: another judge made them. FormatError: another version of this package made the
            file.
    """
    if JUDGE_MEMBER not in arrays:
        return (
            (f"reference: the file does not say which judge made it, taken as {judge}",)
            if "mu" in arrays
            else ()
        )
    check_arrays_format("reference", arrays, path)
    said = (str(arrays[JUDGE_MEMBER]), str(arrays.get(JUDGE_SHA256_MEMBER, "")))
    if said != (judge, looking.judge_weights_sha256(judge)):
        raise OptionError(
            f"reference {path} was made by {said[0]} ({said[1][:12]}...), not by {judge} with its"
            " weights; build it again"
        )
    return ()


def _add_image_features(
    path: Path,
    sha256: str,
    arrays: dict[str, np.ndarray],
    judge: str,
    looking: ReferenceExtraction,
    shape: tuple[int, ...] | None,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays, with the features of the images in the file and, where it has no statistics,
    those of these images.
    """
    found = {name: array for name, array in arrays.items() if name not in METADATA_MEMBERS}
    _check_arrays(path, found, judge)
    warnings = tuple(
        f"reference: {line.removeprefix('images: ')}" for line in _parse_origin(arrays).warnings
    )
    if "features" in found:
        return found, warnings
    if "arr_0" not in adm_npz.array_names(path):
        return found, (
            *warnings,
            "reference: statistics without images (arr_0), so no precision, recall or KID",
        )
    n, *size = adm_npz.images_shape(path, is_reference=True)
    seen = extract_reference_features(path, sha256, judge, looking).features
    if "mu" in found:
        _check_width(path, "mu", len(found["mu"]), judge, seen.arrays["features"].shape[1])
    if shape is not None and tuple(size) != shape:
        warnings += (
            f"reference: its images are {size[1]}x{size[0]}, the samples {shape[1]}x{shape[0]}",
        )
    if "mu" not in found:
        found |= adm_statistics(seen)
        warnings += (f"reference: it carries no statistics, they are of its own {n:,} images",)
    return {**found, "features": seen.arrays["features"]}, warnings


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray], judge: str) -> None:
    """Raise unless statistics and features of a file are what they are called, and as wide as the
    judge's arrays.
    """
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
    path: Path, arrays: Mapping[str, np.ndarray], mean: str, covariance: str
) -> None:
    if missing := [name for name in (mean, covariance) if name not in arrays]:
        raise InvalidMomentsError(
            f"reference {path} lacks {missing[0]}, wanted {mean} and {covariance}; {REBUILD_ADVICE}"
        )
    if complaint := moments_complaint(arrays[mean], arrays[covariance]):
        raise InvalidMomentsError(
            f"{mean} and {covariance} of reference {path} {complaint}; {REBUILD_ADVICE}"
        )


def _check_features(path: Path, rows: np.ndarray) -> None:
    if complaint := rows_complaint(rows):
        raise SampleError(f"features of reference {path} {complaint}; {REBUILD_ADVICE}")
    if not len(rows):
        raise SampleError(
            f"features of reference {path} are of no image, wanted at least one row;"
            f" {REBUILD_ADVICE}"
        )
    if (bad := first_bad_row(rows)) is not None:
        raise SampleError(
            f"features of reference {path} are not finite, first in row {bad}; {REBUILD_ADVICE}"
        )


def _check_width(path: Path, name: str, found: int, judge: str, width: int | None) -> None:
    if width is not None and found != width:
        raise ShapeError(
            f"{name} of reference {path} has width {found}, judge {judge} gives {width}; use the"
            " reference of the same judge"
        )


def extract_reference_features(
    path: Path, sha256: str, judge: str, looking: ReferenceExtraction
) -> ExtractedFeatures:
    """What the judge saw of a reference's images; looked at once, kept in the user's home, resumed
    after a kill.
    """
    folder = (looking.cache_folder or home() / "references") / sha256[:16] / judge
    return extract_features(
        open_reference_images(path),
        judge,
        folder,
        looking.device,
        looking.is_rescored,
        looking.recorded_judge,
    )


def adm_statistics(seen: Features) -> dict[str, np.ndarray]:
    """Mean and unbiased covariance (float64) of the rows, under ADM's names."""
    found = {}
    for name, (mean, covariance) in STATISTICS.items():
        if name in seen.arrays:
            found[mean], found[covariance] = seen.moments(name).to_gaussian()
    return found


def build_reference(
    samples: SampleSet,
    target: Path,
    judge: str,
    device: str = "cpu",
    images: int = DEFAULT_IMAGES,
    seed: int = 0,
    replace: bool = False,
) -> Path:
    """Writes a reference npz: statistics over every image of the set, and a random choice of them
    as arr_0.

    What the judge saw lies beside the file until that is written, so that a kill loses little.

    Args:
        images: how many go into arr_0 (all if there are fewer), chosen by `seed`. replace: write
            over a file that holds something else.

    Raises:
        StorageError: something else stands at the target and `replace` is not given, or the target
            is what is read.
    """
    load_feature_extractor(judge)
    check_maximum("--image-count", images, MAX_REFERENCE_IMAGES)
    _check_target(target, samples, judge, replace)
    work = target.with_name(f".{target.name}.features")
    seen = extract_features(samples, judge, work, device, rescore=False)
    chosen = samples.random_subset(images, seed) if images < len(samples.indices) else samples
    height, width, channels = samples.shape
    found = adm_statistics(seen.features)
    texts = [
        warning.text for warning in seen.warnings if warning.code == "images"
    ]  # of the judge, whoever uses it says
    lines = [
        printable_line(line)
        for line in (*samples.warnings, *texts, *_singular_warnings(found, len(samples.indices)))
    ]
    note = {
        JUDGE_MEMBER: np.array(judge),
        JUDGE_SHA256_MEMBER: np.array(seen.judge.weights_sha256),
        COUNT_MEMBER: np.array(len(samples.indices)),
    }
    fitting = max(1, adm_npz.BATCH_BYTES // (height * width * channels))
    batches = (batch.images for batch in chosen.batches(chosen.indices, min(256, fitting)))
    more = arrays_with_format(
        "reference", {**found, **note, WARNINGS_MEMBER: np.array(lines, dtype=np.str_)}
    )
    adm_npz.write_npz(
        target,
        batches,
        (len(chosen.indices), height, width, channels),
        extra_arrays=more,
        replace=replace,
    )
    delete_features(work, list(seen.features.arrays))
    return target


def _check_target(target: Path, samples: SampleSet, judge: str, replace: bool) -> None:
    """Refuse, before anything is judged, a file that the same command cannot have written."""
    check_output_path(target, samples.path)
    if not target.exists() or replace:
        return
    try:
        found = load_arrays(target, (JUDGE_MEMBER, COUNT_MEMBER))
    except StorageError:
        found = {}
    if (str(found.get(JUDGE_MEMBER)), str(found.get(COUNT_MEMBER))) != (
        judge,
        str(len(samples.indices)),
    ):
        raise StorageError(
            f"{target} exists and is no reference of these images by {judge}; give --replace, or"
            " choose another place"
        )


def reference_origin(path: Path) -> ReferenceOrigin:
    """What a reference file says of the images behind its statistics; StorageError if it cannot be
    read.
    """
    return _parse_origin(load_arrays(path, (COUNT_MEMBER, WARNINGS_MEMBER)))


def _parse_origin(arrays: Mapping[str, np.ndarray]) -> ReferenceOrigin:
    count = arrays.get(COUNT_MEMBER)
    told = arrays.get(WARNINGS_MEMBER)
    lines = (
        ()
        if told is None or told.dtype.kind != "U"
        else tuple(
            printable_line(str(line))[:MAX_WARNING_LENGTH] for line in told.ravel()[:MAX_WARNINGS]
        )
    )
    if count is None or count.dtype.kind not in "iu" or count.size != 1 or count < 1:
        return ReferenceOrigin(None, lines)
    return ReferenceOrigin(int(count.item()), lines)


def _singular_warnings(found: Mapping[str, np.ndarray], images: int) -> tuple[str, ...]:
    """A warning for each covariance that so few images leave singular."""
    return tuple(
        f"images: N <= D ({images:,} images, {len(found[mean]):,} dimensions of {mean}); the"
        " statistics lean on N"
        for mean, _ in STATISTICS.values()
        if mean in found and images <= len(found[mean])
    )
