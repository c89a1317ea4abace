"""Sample set to observations: a judge looks at every image once; what it saw lies on disk, shard by shard, and is read as a map.

A judge's folder holds who looked (judge.json), one .npy of N rows for each of its arrays and, for each shard of images, a small record
that is written after its rows: the key of judge and images, and the hash of the rows. A kill loses the shard at hand and nothing else.
SHA256SUMS vouches for judge.json, the records and the moments; what it does not vouch for is made again.
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
from harope_bench.core.formats import with_format, without_format
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.record_base import Option
from harope_bench.core.schema import ErrorRate, JudgeRecord, ResultWarning, warnings_of
from harope_bench.core.storage import disk, read_if_present, sha256_bytes, write_text
from harope_bench.data import feature_rows
from harope_bench.data.sample_set import Batch, SampleSet
from harope_bench.evaluators.base import Observations
from harope_bench.judges.base import LoadedFeatureExtractor, judge_record, load_feature_extractor, load_judge, open_judge
from harope_bench.metrics.moments import Moments
from harope_bench.pipeline import moments_cache

SHARD = 1000  # images between two records, a divisor of the block that moments are summed in
JUDGE = "judge.json"
NAMED = 5  # images that an error names
ODD = {"L": "grey, read as three equal channels", "1": "black and white, read as three equal channels", "P": "of a palette, read as RGB"}
PLAIN = "RGB"


class Seen(NamedTuple):
    """Observations, who made them, how many images were judged just now, and what was odd about images or judge.

    flags: how the judge computed, for the provenance; several values where shards differ.
    """

    observations: Observations
    judge: JudgeRecord
    fresh: int
    warnings: tuple[ResultWarning, ...] = ()
    flags: Mapping[str, Option] = {}


class Looker(NamedTuple):
    """A judge that looked or will look, and what a result must say of it."""

    record: JudgeRecord
    warnings: tuple[ResultWarning, ...] = ()


@dataclass(frozen=True)
class Shard:
    """Consecutive images of a set: their number, indices, and the key of judge and images."""

    number: int
    indices: list[int]
    key: str

    @property
    def first(self) -> int:
        """Row of its first image."""
        return self.number * SHARD

    @property
    def stop(self) -> int:
        """Row after its last image."""
        return self.first + len(self.indices)


def known_errors(records: Iterable[JudgeRecord]) -> dict[str, tuple[ErrorRate, ...]]:
    """How often these judges were wrong where the truth is known, by name; without those of whom nothing is known here."""
    known = registry.entries("judges")
    rates = {}
    for record in records:
        judge = load_judge(record.name) if record.name in known else None
        found = judge.errors() if judge is not None else ()
        if judge is not None and found and (judge.version, judge.weights_sha256()) == (record.version, record.weights_sha256):
            rates[record.name] = found
    return rates


def looker(judge: str, folder: Path, rescore: bool) -> Looker:
    """The judge as it is here; when rescoring the one that looked, as the folder tells, and its weights may be gone.

    Raises:
        WeightsError: its weights are not here and it shall look. SampleError: the folder does not tell who looked, nor are they here.
    """
    if not rescore:
        return _present(judge)
    if (found := _recorded(folder)) is not None and found.record.name == judge:
        return found._replace(warnings=(*found.warnings, *_changed(found.record)))
    try:
        return _present(judge)
    except WeightsError as error:
        raise SampleError(
            f"{folder} does not tell which weights {judge} looked with, and they are not here; run eval without --rescore once"
        ) from error


def _present(judge: str) -> Looker:
    return Looker(judge_record(judge), warnings_of("judge", load_judge(judge).warnings()))


def _recorded(folder: Path) -> Looker | None:
    """Return who looked, None where the folder does not tell; FormatError where another version of this package wrote it."""
    path = folder / JUDGE
    facts = read_record(path) if checksums.intact(folder, JUDGE) else {}
    if not facts:
        return None
    facts = without_format("features", facts, path)
    warnings = facts.get("warnings")
    try:
        record = JudgeRecord.model_validate(facts.get("judge"))
    except ValidationError:
        return None
    return Looker(record, warnings_of("judge", map(str, warnings) if isinstance(warnings, list) else ()))


def _changed(record: JudgeRecord) -> tuple[ResultWarning, ...]:
    """A warning where the judge that is here is not the one that looked; none where it cannot be told because its weights are gone."""
    try:
        here = judge_record(record.name).model_dump()
    except WeightsError:
        return ()
    fields = [name for name, value in record.model_dump().items() if here[name] != value]
    text = f"judge: {record.name} here is another one ({', '.join(fields)}); scored is what the recorded one saw"
    return warnings_of("judge-changed", [text] if fields else [])


def observe(samples: SampleSet, judge: str, folder: Path, device: str, rescore: bool, looked: JudgeRecord | None = None) -> Seen:
    """What the judge saw of the set, from `folder` where that is of these images and this judge; arrays are read-only maps.

    Args:
        looked: when rescoring, the judge that these observations must be of; the one that `folder` tells of if left out.

    Raises:
        SampleError: an image is bad (named by index), or `rescore` is set and something was never judged.
        WeightsError: the judge's weights are not here, and it is not a rescoring.
        FormatError: another version of this package wrote what `folder` holds.
    """
    _recorded(folder)  # of another version nothing is read, and nothing is written over it
    who = Looker(looked) if looked is not None else looker(judge, folder, rescore)
    names = load_feature_extractor(judge).arrays
    shards = cut(samples, who.record)
    stale = [shard for shard in shards if kept(folder, shard, names) is None]
    fresh = sum(len(shard.indices) for shard in stale)
    if stale and rescore:
        raise SampleError(f"{folder} lacks what {judge} saw of {fresh:,} images; run eval without --rescore once")
    if not rescore:
        _remember(folder, who)
    if stale:
        _look(samples, judge, stale, folder, device)
    arrays = {name: feature_rows.view(folder / f"{name}.npy", len(samples.indices)) for name in names}
    labels = np.array([samples.labels[i] for i in samples.indices]) if samples.labels.keys() >= set(samples.indices) else None
    records = [read_record(folder / shard_name(shard.number)) for shard in shards]
    summed = partial(_moments, folder, arrays, records)
    seen = Observations(np.array(samples.indices, dtype=np.int64), labels, arrays, len(samples.failed), summed)
    odd = warnings_of("images", oddities(records, len(samples.indices)))
    warnings = (*who.warnings, *odd, *warnings_of("judge", notes_of(records)), *warnings_of("judge-paths", mixed(records)))
    return Seen(seen, who.record, fresh, warnings, flags(records))


def _moments(folder: Path, arrays: Mapping[str, np.ndarray], records: Sequence[JsonObject], name: str) -> Moments:
    """Those of an array, kept with the hashes of its rows, which the shards' records tell."""
    shards = moments_cache.Shards([record["sha256"][name] for record in records], SHARD)
    return moments_cache.moments(folder / moments_name(name), arrays[name], shards)


def _remember(folder: Path, who: Looker) -> None:
    """Who looks is written before the first shard, so that a rescoring needs no weights."""
    if _recorded(folder) != who:
        facts = {"judge": who.record.model_dump(mode="json"), "warnings": [warning.text for warning in who.warnings]}
        _write_vouched(folder, JUDGE, json.dumps(with_format("features", facts), sort_keys=True) + "\n")


def _write_vouched(folder: Path, name: str, text: str) -> None:
    """Write a file after its hash is recorded, so that no kill leaves a file that nothing vouches for."""
    if not checksums.has_sums(folder):  # shards of a version before them stay
        checksums.record_files(folder, [path.name for path in folder.glob("*.json")])
    checksums.record(folder, {name: sha256_bytes(text.encode())})
    write_text(folder / name, text)


def shard_name(number: int) -> str:
    """File name of a shard's record."""
    return f"{number:05d}.json"


def moments_name(array: str) -> str:
    """File name of the moments of an array."""
    return f"{array}.moments.npz"


def cut(samples: SampleSet, record: JudgeRecord) -> list[Shard]:
    """The set's shards, in order."""
    hashes = dict(zip(samples.indices, samples.hashes, strict=True))
    parts = [samples.indices[i : i + SHARD] for i in range(0, len(samples.indices), SHARD)]
    return [Shard(n, part, shard_key(record, [(i, hashes[i]) for i in part], samples.crop)) for n, part in enumerate(parts)]


def shard_key(record: JudgeRecord, images: Sequence[tuple[int, str]], crop: int | None = None) -> str:
    """Hex digest of judge, images, and the crop where there is one: a shard with another key is of other work and is made again."""
    seen_as = "" if crop is None else f"crop {crop}"  # images are known by the bytes of their files, which are cropped later
    return hashlib.sha256(f"{record.to_json()}{images}{seen_as}".encode()).hexdigest()


def read_record(path: Path) -> JsonObject:
    """A shard's record; empty where there is none or it is damaged, for its images can be judged again."""
    try:
        found = parse_json(read_if_present(path) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def kept(folder: Path, shard: Shard, names: Sequence[str]) -> JsonObject | None:
    """The shard's record if it is vouched for, of this judge and these images, and its rows are whole; None otherwise."""
    found = read_record(folder / shard_name(shard.number)) if checksums.intact(folder, shard_name(shard.number)) else {}
    if found.get("key") != shard.key or not isinstance(found.get("sha256"), dict):
        return None
    whole = all(found["sha256"].get(name) == feature_rows.digest(folder / f"{name}.npy", shard.first, shard.stop) for name in names)
    return found if whole else None


def others(kept: Path, wanted: Path) -> list[str]:
    """Names of the arrays whose rows beside record `kept` are not those that record `wanted` tells of."""
    told = read_record(wanted)
    first, stop = told["rows"]
    return [
        name for name, sha256 in sorted(told["sha256"].items()) if feature_rows.digest(kept.parent / f"{name}.npy", first, stop) != sha256
    ]


def _look(samples: SampleSet, judge: str, todo: Sequence[Shard], folder: Path, device: str) -> None:
    plugin = load_feature_extractor(judge)
    opened = open_judge(judge, plugin, device)
    with tqdm(total=sum(len(s.indices) for s in todo), desc=f"judge {judge}", unit="image", file=sys.stderr, disable=None) as bar:
        for shard in todo:
            odd: Counter[str] = Counter()
            parts = []
            for batch in samples.batches(shard.indices, plugin.batch):
                parts.append(opened.observe(batch.images))
                odd.update(_odd(batch))
                bar.update(len(batch.indices))
            seen = {name: np.concatenate([p[name] for p in parts]) for name in plugin.arrays}
            _finite(judge, shard, seen)
            _keep(folder, shard, seen, len(samples.indices), _facts(opened, device, odd))


def _facts(opened: LoadedFeatureExtractor, device: str, odd: Counter[str]) -> JsonObject:
    """What a shard's record tells beside its rows: oddities of the images, the judge's notes, and how it computed."""
    return {"odd": dict(odd), "notes": list(opened.notes), "way": {"device": device, **opened.way}}


def _finite(judge: str, shard: Shard, seen: dict[str, np.ndarray]) -> None:
    """SampleError for values that are not finite: kept, they would be scored again and again."""
    bad = {name: ~np.isfinite(part).reshape(len(part), -1).all(axis=1) for name, part in seen.items()}
    if names := [name for name, rows_ in bad.items() if rows_.any()]:
        found = [shard.indices[i] for i in np.flatnonzero(np.logical_or.reduce([bad[name] for name in names]))]
        more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        raise SampleError(
            f"judge {judge} gave {', '.join(names)} that are not finite for images {', '.join(map(str, found[:NAMED]))}{more}, which were "
            "not kept; look at these images, bring the judge's weights again or choose another --device, and run eval again"
        )


def _keep(folder: Path, shard: Shard, seen: dict[str, np.ndarray], count: int, facts: JsonObject) -> None:
    """Rows first, then their record: a record always tells of rows that are there."""
    told = {}
    for name, part in seen.items():
        if len(part) != len(shard.indices):
            raise ShapeError(f"the judge gave {len(part)} rows of {name} for {len(shard.indices)} images; mend the judge")
        path = folder / f"{name}.npy"
        feature_rows.reserve(path, count, part[0])
        feature_rows.put(path, shard.first, part)
        told[name] = feature_rows.digest(path, shard.first, shard.stop)
    facts |= {"key": shard.key, "rows": [shard.first, shard.stop], "sha256": told}
    _write_vouched(folder, shard_name(shard.number), json.dumps(facts, sort_keys=True) + "\n")


def _odd(batch: Batch) -> Iterator[str]:
    """What is odd about images: the mode of a file that is not RGB, and images of one colour."""
    yield from (mode for mode in batch.modes if mode != PLAIN)
    yield from ("constant" for image in batch.images if (image == image[0, 0]).all())  # one by one: a batch at 2048 pixels is 600 MB


def oddities(records: Sequence[JsonObject], images: int) -> tuple[str, ...]:
    """What the records of all shards tell of the images, as warnings."""
    odd: Counter[str] = Counter()
    for record in records:
        odd.update(record.get("odd", {}))
    told = {**{mode: f"images: {{}} of {{}} are {words}" for mode, words in ODD.items()}, "constant": "images: {} of {} are of one colour"}
    return tuple(words.format(f"{odd[key]:,}", f"{images:,}") for key, words in told.items() if odd[key])


def notes_of(records: Sequence[JsonObject]) -> tuple[str, ...]:
    """What the judge noted of itself while it looked, each line once, in order."""
    return tuple(dict.fromkeys(note for record in records for note in record.get("notes", ())))


def mixed(records: Sequence[JsonObject]) -> tuple[str, ...]:
    """A warning where shards were not all looked at in one way; shards that do not tell are left out."""
    ways = Counter(f"{way.get('path', 'plain')} on {way.get('device')}" for record in records if (way := _way(record)))
    told = ", ".join(f"{count:,} {way}" for way, count in sorted(ways.items()))
    return (f"judge: shards were looked at in different ways ({told}), so their last bits may differ",) if len(ways) > 1 else ()


def flags(records: Sequence[JsonObject]) -> dict[str, Option]:
    """How the judge computed: `judge_device`, `judge_path`, `judge_tf32`, as far as the records tell."""
    found: dict[str, list[Option]] = {}
    for key, value in (pair for record in records for pair in _way(record).items()):
        found.setdefault(f"judge_{key}", []).append(value)
    return {key: values[0] if len(set(values)) == 1 else ", ".join(sorted(map(str, set(values)))) for key, values in sorted(found.items())}


def _way(record: JsonObject) -> dict[str, Option]:
    found = record.get("way")
    return found if isinstance(found, dict) else {}


def clear(folder: Path, names: Sequence[str]) -> None:
    """Removes what `observe` made there of these arrays, and the folder if it held nothing else."""
    with disk(folder):
        made = [folder / file for name in names for file in (f"{name}.npy", f".{name}.npy.lock", moments_name(name))]
        sums = [folder / checksums.SUMS, folder / f".{checksums.SUMS}.lock"]
        for path in [*made, *sums, folder / JUDGE, *folder.glob("[0-9][0-9][0-9][0-9][0-9].json")]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # files of something else, or another process cleared it first
            folder.rmdir()
