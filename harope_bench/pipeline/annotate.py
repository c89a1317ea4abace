"""Sample set to answers: witnesses are asked about each image, one line of JSON an answer, and
nothing is asked twice.

A judge's folder holds judge.json (who answered), answers.jsonl (`key`, `index`, and `answer` or
`error`) and, for a judge that runs in
another Python, asks.jsonl. The key is the sha256 of role, image and ask, so answers survive a kill,
a longer run and another evaluator.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pydantic import ValidationError
from tqdm import tqdm

from harope_bench.core import checksums
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    Annotation,
    Query,
    is_complete_annotation,
)
from harope_bench.core.errors import (
    BenchError,
    DiskError,
    JudgeError,
    MissingAssetError,
    OptionError,
    PendingAnswersError,
    PlanMismatchError,
    SampleError,
    StorageError,
)
from harope_bench.core.formats import parse_versioned_json, versioned_json_text
from harope_bench.core.json_file import JsonObject
from harope_bench.core.json_lines import append_line, drop_partial_line, read_lines
from harope_bench.core.record_base import validation_summary
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import (
    convert_os_errors,
    first_line,
    make_folder,
    read_if_present,
    sha256_file,
    write_bytes,
    write_text,
)
from harope_bench.data.image_io import encode_png
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import AnnotatedImage, AnnotatorRole
from harope_bench.judges.base import Annotator, JudgeChoice, judge_record, load_judge, open_judge
from harope_bench.pipeline import external_annotator
from harope_bench.suites.base import PromptCase

ANNOTATIONS_FILE = "answers.jsonl"
QUERIES_FILE = "asks.jsonl"
JUDGE_FILE = "judge.json"
MAX_FIRST_FAILURES = (
    5  # failures in a row from the start after which the judge, not the image, is at fault
)


@dataclass(frozen=True)
class AnnotatorOptions:
    """How witnesses are asked: device, whether only stored answers count, and the Python that runs
    a judge of another environment.
    """

    device: str = "cpu"
    is_rescored: bool = False
    python: Path | None = None
    runner_options: Mapping[str, str] = field(default_factory=dict)


class ImageQuery(NamedTuple):
    """One ask about one image, by place in the sample set."""

    position: int
    sample_index: int
    image_sha256: str
    query: Query
    key: str


class StoredAnnotation(NamedTuple):
    """An answer, or why there is none."""

    annotation: Annotation | None
    error: str | None


def parse_judges(text: str | None, usual: Mapping[str, str]) -> dict[str, JudgeChoice]:
    """The judge of each role: the suite's, or those of `role=NAME`, `role=NAME:MODEL`,
    comma-separated, or NAME alone for a single role.

    Raises:
        OptionError: a role that the evaluator has not, or a judge that does not take the role.
    """
    found = {role: JudgeChoice(*_parse_judge(name)) for role, name in usual.items()}
    for part in (text or "").split(",") if text else ():
        role, equals, name = part.strip().partition("=")
        if not equals:
            role, name = (next(iter(usual)) if len(usual) == 1 else ""), role
        if role not in usual or not name:
            raise OptionError(
                f"--judge {part!r} names no role; write one of"
                f" {', '.join(f'{r}=NAME' for r in usual)}"
            )
        found[role] = JudgeChoice(*_parse_judge(name))
    for role, chosen in found.items():
        roles = load_judge(chosen.name).roles
        if role not in roles:
            raise OptionError(
                f"judge {chosen.name} is no {role}; its roles are"
                f" {', '.join(roles) or 'none, it gives features'}"
            )
    return found


def _parse_judge(text: str) -> tuple[str, str | None]:
    name, colon, model = text.partition(":")
    return name, model if colon else None


def annotate_samples(
    samples: SampleSet,
    cases: Mapping[int, PromptCase],
    form: str,
    looks: Sequence[AnnotatorRole],
    judges: Mapping[str, JudgeChoice],
    out: Path,
    terms: AnnotatorOptions,
) -> tuple[list[AnnotatedImage], dict[str, JudgeRecord]]:
    """Every image of the set that has this form, with what was answered; and who answered, by role.

    Args:
        cases: by index, also of images that failed. out: folder of observations, one below it for
            each judge.

    Raises:
        SampleError: `rescore` is set and something was never answered. JudgeError: the judge fails
            on every image.
        PlanMismatch: the folder holds another judge's answers.
    """
    wanted = [i for i in sorted({*samples.indices, *samples.failed}) if form in cases[i].metadata]
    faults: dict[int, str] = {i: reason for i, reason in samples.failed.items() if i in set(wanted)}
    seen: dict[int, dict[str, Annotation]] = {i: {} for i in wanted}
    records: dict[str, JudgeRecord] = {}
    images = {i: h for i, h in zip(samples.indices, samples.hashes, strict=True) if i in seen}
    for look in looks:
        asked = list(_make_queries(look, wanted, cases, form, seen, faults, images))
        if not asked and look.role not in judges:
            continue  # a suite needs no judge for what none of its prompts asks
        chosen = judges[look.role]
        folder = out / judges[look.role].folder_name
        told, record = _annotate_role(samples, chosen, look.role, asked, folder, terms)
        if record is not None:
            records[look.role] = record
        for question in asked:
            answer, error = told[question.key]
            if answer is None:
                faults[question.sample_index] = f"{chosen.name}: {error}"
            else:
                seen[question.sample_index][look.role] = answer
    return [_annotated_image(i, cases[i], form, seen[i], faults.get(i)) for i in wanted], records


def _annotated_image(
    index: int, case: PromptCase, form: str, seen: dict[str, Annotation], fault: str | None
) -> AnnotatedImage:
    return AnnotatedImage(
        index, case.prompt_index, case.copy, case.prompt, case.metadata[form], seen, fault
    )


def _make_queries(
    look: AnnotatorRole,
    wanted: Sequence[int],
    cases: Mapping[int, PromptCase],
    form: str,
    seen: Mapping[int, Mapping[str, Annotation]],
    faults: Mapping[int, str],
    images: Mapping[int, str],
) -> Iterator[ImageQuery]:
    for place, i in enumerate(wanted):
        if i in faults:
            continue
        ask = look.make_query(cases[i].metadata[form], seen[i])
        if ask is not None:
            yield ImageQuery(place, i, images[i], ask, query_key(look.role, images[i], ask))


def query_key(role: str, image: str, ask: Query) -> str:
    """Hex sha256 of role, image hash and ask."""
    return hashlib.sha256(f"{role}\n{image}\n{ask.to_json()}".encode()).hexdigest()


def _annotate_role(
    samples: SampleSet,
    chosen: JudgeChoice,
    role: str,
    asked: Sequence[ImageQuery],
    folder: Path,
    terms: AnnotatorOptions,
) -> tuple[dict[str, StoredAnnotation], JudgeRecord | None]:
    """Answers by key: those of the folder, and of the judge where one is missing or failed."""
    _check_recorded_hashes(folder)
    if asked:
        read_judge_record(folder)  # of another version nothing is read, and nothing is added to it
    told = read_annotations(folder, role, asked)
    missing = [
        q
        for q in asked
        if q.key not in told or (told[q.key].annotation is None and not terms.is_rescored)
    ]
    if terms.is_rescored and (never := [q for q in missing if q.key not in told]):
        raise SampleError(
            f"{folder} lacks {chosen.name}'s answers on {len(never):,} images; run eval without"
            " --rescore once"
        )
    if missing and not terms.is_rescored:
        annotator = chosen.annotator
        checksums.drop_hashes(
            folder, [ANNOTATIONS_FILE, QUERIES_FILE, JUDGE_FILE]
        )  # another Python may write them; `_vouch` vouches for the whole again
        if annotator.runner is not None:
            _annotate_externally(samples, chosen, annotator.runner, role, missing, folder, terms)
        else:
            claim_judge_folder(folder, judge_record(chosen.name, chosen.model))
            _annotate_here(
                samples,
                chosen,
                annotator,
                role,
                missing,
                folder,
                terms.device,
                any(one.annotation for one in told.values()),
            )
        told = read_annotations(folder, role, asked)
    elif asked and not terms.is_rescored:
        _check_same_judge(chosen, folder)
    if asked and not terms.is_rescored:
        _record_hashes(folder, has_written=bool(missing))
    record = read_judge_record(folder) if asked else None
    if record is not None and record.name != chosen.name:
        raise PlanMismatchError(
            f"{folder / JUDGE_FILE} is of {record.name}, asked for {chosen.name}; bring the answers"
            f" of {chosen.name}"
        )
    return told, record


def _check_recorded_hashes(folder: Path) -> None:
    """Raise StorageError where answers, or who gave them, are not those that were recorded."""
    for name in (ANNOTATIONS_FILE, JUDGE_FILE) if folder.is_dir() else ():
        if not _has_other_hash(folder, name):
            continue
        with (
            suppress(DiskError),
            _folder_lock(folder),
        ):  # another process may have added an answer between the two reads
            if not _has_other_hash(folder, name):
                continue
        raise StorageError(
            f"{folder / name} is not the recorded one ({checksums.CHECKSUMS_FILE} beside it); bring"
            " that back, or delete the folder to ask again"
        )


def _has_other_hash(folder: Path, name: str) -> bool:
    return checksums.has_checksums(folder) and checksums.file_state(folder, name) == "altered"


def _record_hashes(folder: Path, has_written: bool) -> None:
    """Record answers and judge once they are whole; what is recorded already stays as it is, unless
    this process has written.
    """
    with _folder_lock(folder):
        sums = {} if has_written else checksums.read_checksums(folder)
        checksums.record_file_hashes(
            folder,
            [
                name
                for name in (ANNOTATIONS_FILE, QUERIES_FILE, JUDGE_FILE)
                if name not in sums and (folder / name).is_file()
            ],
        )


def _append_annotation(folder: Path, line: Mapping[str, object]) -> None:
    """Add a line to the answers; the hash that a faster process recorded of them without it is
    dropped first.
    """
    with _folder_lock(folder):
        if ANNOTATIONS_FILE in checksums.read_checksums(folder):
            checksums.drop_hashes(folder, [ANNOTATIONS_FILE])
        append_line(folder / ANNOTATIONS_FILE, json.dumps(line, sort_keys=True, allow_nan=False))


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a judge's folder for a moment, so that no answer comes between the hash of
    the answers and its record.
    """
    with convert_os_errors(folder), FileLock(make_folder(folder) / f".{JUDGE_FILE}.lock"):
        yield


def _check_same_judge(chosen: JudgeChoice, folder: Path) -> None:
    """PlanMismatch if the judge is another one now than the one that answered; weights that are not
    here say nothing.
    """
    if chosen.judge.runner is not None:
        return
    try:
        record = judge_record(chosen.name, chosen.model)
    except MissingAssetError:
        return
    claim_judge_folder(folder, record)


def read_judge_record(folder: Path) -> JudgeRecord | None:
    """Who answered in this folder; None before anyone did.

    Raises:
        PlanMismatch: the record cannot be read. FormatError: another version of this package wrote
            it.
    """
    path = folder / JUDGE_FILE
    data = read_if_present(path)
    if data is None:
        return None
    try:
        return JudgeRecord.model_validate(parse_versioned_json("annotations", data, path))
    except (StorageError, ValueError) as error:
        why = validation_summary(error) if isinstance(error, ValidationError) else first_line(error)
        raise PlanMismatchError(
            f"{path} is no judge's record ({why}); delete {folder} and judge again"
        ) from error


def claim_judge_folder(folder: Path, record: JudgeRecord) -> None:
    """Makes the folder this judge's; PlanMismatch names the field in which another judge's
    differs.
    """
    kept = read_judge_record(folder) or _write_judge_record(folder, record)
    if kept != record:
        one = kept.model_dump()
        two = record.model_dump()
        name = next(name for name in one if one[name] != two[name])
        raise PlanMismatchError(
            f"{folder} has answers of another judge: {name} {one[name]!s:.40} there,"
            f" {two[name]!s:.40} now; delete the folder or give another --out"
        )
    drop_partial_line(folder / ANNOTATIONS_FILE)


def _write_judge_record(folder: Path, record: JudgeRecord) -> JudgeRecord:
    """Write who answers, unless another process was faster; return the record that stands there."""
    with _folder_lock(folder):
        found = read_judge_record(folder)
        if found is None:
            write_text(
                folder / JUDGE_FILE, versioned_json_text("annotations", record.model_dump(mode="json"))
            )
        return found or record


def read_annotations(
    folder: Path, role: str, asked: Sequence[ImageQuery]
) -> dict[str, StoredAnnotation]:
    """What the folder holds on these questions; an answer that does not fit its question counts as
    an error.
    """
    wanted = {q.key: q.query for q in asked}
    told: dict[str, StoredAnnotation] = {}
    for line in read_lines(folder / ANNOTATIONS_FILE):
        key = line.get("key")
        if not isinstance(key, str) or key not in wanted:
            continue
        if "answer" in line:
            told[key] = _parse_annotation(role, wanted[key], line["answer"])
        elif key not in told or told[key].annotation is None:
            told[key] = StoredAnnotation(None, str(line.get("error", "no answer")))
    return told


def _parse_annotation(role: str, ask: Query, answer: object) -> StoredAnnotation:
    try:
        found = ANNOTATION_TYPES[role].model_validate(answer)
    except ValidationError as error:
        return StoredAnnotation(None, f"its answer cannot be read ({validation_summary(error)})")
    return (
        StoredAnnotation(found, None)
        if is_complete_annotation(ask, found)
        else StoredAnnotation(None, "it answered another number of things than were asked")
    )


def _annotate_here(
    samples: SampleSet,
    chosen: JudgeChoice,
    annotator: Annotator,
    role: str,
    missing: Sequence[ImageQuery],
    folder: Path,
    device: str,
    good: bool,
) -> None:
    """Asks the judge here; each answer is on disk before the next question. good: it has answered
    here before.
    """
    judge = open_judge(chosen.name, annotator, device)
    crashes = 0
    for question in tqdm(
        missing, desc=f"ask {chosen.name}", unit="image", file=sys.stderr, disable=None
    ):
        line: JsonObject = {"key": question.key, "index": question.sample_index}
        try:
            line["answer"] = judge.annotate(
                role, samples.image(question.sample_index), question.query
            ).model_dump(mode="json", exclude_none=True)
            good = True
        except (
            ArithmeticError,
            BenchError,
            LookupError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            line["error"] = f"{type(error).__name__}: {first_line(error)}"
            crashes += 1
        _append_annotation(folder, line)
        if crashes == MAX_FIRST_FAILURES and not good:
            raise JudgeError(
                f"{chosen.name} failed on each of its first {MAX_FIRST_FAILURES} images"
                f" ({line['error']}); mend that and run again"
            )


def _annotate_externally(
    samples: SampleSet,
    chosen: JudgeChoice,
    runner: Path,
    role: str,
    missing: Sequence[ImageQuery],
    folder: Path,
    terms: AnnotatorOptions,
) -> None:
    """Writes the questions down and has another Python answer them; an image that cannot be read is
    an error and no question.
    """
    drop_partial_line(folder / ANNOTATIONS_FILE)
    lines = []
    for question in missing:
        try:
            lines.append(_query_line(samples, role, question, folder))
        except SampleError as error:
            told = {"key": question.key, "index": question.sample_index, "error": first_line(error)}
            _append_annotation(folder, told)
    write_text(
        folder / QUERIES_FILE, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    )
    if not lines:
        return
    if terms.python is None:
        raise PendingAnswersError(
            f"{chosen.name} runs in an environment of its own; {len(lines):,} questions stand in"
            f" {folder / QUERIES_FILE}: give --judge-python, or run PYTHON {runner} --folder"
            f" {folder} and eval again"
        )
    external_annotator.run_annotator(
        terms.python, runner, folder, {"device": terms.device, **terms.runner_options}
    )
    if read_judge_record(folder) is None:
        raise JudgeError(
            f"{runner.name} did not say who answers ({folder / JUDGE_FILE} is missing); use the"
            " runner of this package"
        )


def _query_line(samples: SampleSet, role: str, question: ImageQuery, folder: Path) -> JsonObject:
    """A question as the runner reads it, its image by the way from the folder; one that is no whole
    file is written beside it.
    """
    samples.check_image(question.sample_index)
    path = samples.files.get(question.sample_index) if samples.files is not None else None
    if (
        path is None
        or samples.crop_side is not None
        or question.sample_index in (samples.boxes or {})
    ):
        path = folder / "images" / f"{question.sample_index:06d}.png"
        write_bytes(path, encode_png(samples.image(question.sample_index)))
    return {
        "key": question.key,
        "index": question.sample_index,
        "role": role,
        "image": os.path.relpath(path.resolve(), folder.resolve()),
        "sha256": sha256_file(path),
        "ask": question.query.model_dump(mode="json", exclude_none=True),
    }
