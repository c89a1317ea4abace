"""Sample set to answers: witnesses are asked about each image, one line of JSON an answer, and nothing is asked twice.

A judge's folder holds judge.json (who answered), answers.jsonl (`key`, `index`, and `answer` or `error`) and, for a judge that runs in
another Python, asks.jsonl. The key is the sha256 of role, image and ask, so answers survive a kill, a longer run and another evaluator.
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
from harope_bench.core.annotations import ANSWER_TYPES, Answer, Ask, fits
from harope_bench.core.errors import (
    BenchError,
    DiskError,
    JudgeError,
    NotHere,
    OptionError,
    PlanMismatch,
    SampleError,
    StorageError,
    Waiting,
)
from harope_bench.core.formats import json_text, parse_facts
from harope_bench.core.json_file import JsonObject
from harope_bench.core.json_lines import append_line, mend_lines, read_lines
from harope_bench.core.record_base import fault
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import (
    disk,
    first_line,
    make_folder,
    read_if_present,
    sha256_file,
    write_bytes,
    write_text,
)
from harope_bench.data.image_io import encode
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import Look, Sight
from harope_bench.judges.base import Annotator, JudgeChoice, judge_record, load_judge, open_judge
from harope_bench.pipeline import external_judge
from harope_bench.suites.base import Case

ANSWERS, ASKS, JUDGE = "answers.jsonl", "asks.jsonl", "judge.json"
CRASHES = 5  # failures in a row from the start after which the judge, not the image, is at fault


@dataclass(frozen=True)
class Terms:
    """How witnesses are asked: device, whether only stored answers count, and the Python that runs a judge of another environment."""

    device: str = "cpu"
    rescore: bool = False
    python: Path | None = None
    runner_options: Mapping[str, str] = field(default_factory=dict)


class Question(NamedTuple):
    """One ask about one image, by place in the sample set."""

    place: int
    sample: int
    image: str
    ask: Ask
    key: str


class Told(NamedTuple):
    """An answer, or why there is none."""

    answer: Answer | None
    error: str | None


def choose(text: str | None, usual: Mapping[str, str]) -> dict[str, JudgeChoice]:
    """The judge of each role: the suite's, or those of `role=NAME`, `role=NAME:MODEL`, comma-separated, or NAME alone for a single role.

    Raises:
        OptionError: a role that the evaluator has not, or a judge that does not take the role.
    """
    found = {role: JudgeChoice(*_split(name)) for role, name in usual.items()}
    for part in (text or "").split(",") if text else ():
        role, equals, name = part.strip().partition("=")
        if not equals:
            role, name = (next(iter(usual)) if len(usual) == 1 else ""), role
        if role not in usual or not name:
            raise OptionError(f"--judge {part!r} names no role; write one of {', '.join(f'{r}=NAME' for r in usual)}")
        found[role] = JudgeChoice(*_split(name))
    for role, chosen in found.items():
        roles = load_judge(chosen.name).roles
        if role not in roles:
            raise OptionError(f"judge {chosen.name} is no {role}; its roles are {', '.join(roles) or 'none, it gives features'}")
    return found


def _split(text: str) -> tuple[str, str | None]:
    name, colon, model = text.partition(":")
    return name, model if colon else None


def perceive(
    samples: SampleSet,
    cases: Mapping[int, Case],
    form: str,
    looks: Sequence[Look],
    judges: Mapping[str, JudgeChoice],
    out: Path,
    terms: Terms,
) -> tuple[list[Sight], dict[str, JudgeRecord]]:
    """Every image of the set that has this form, with what was answered; and who answered, by role.

    Args:
        cases: by index, also of images that failed. out: folder of observations, one below it for each judge.

    Raises:
        SampleError: `rescore` is set and something was never answered. JudgeError: the judge fails on every image.
        PlanMismatch: the folder holds another judge's answers.
    """
    wanted = [i for i in sorted({*samples.indices, *samples.failed}) if form in cases[i].facts]
    faults: dict[int, str] = {i: reason for i, reason in samples.failed.items() if i in set(wanted)}
    seen: dict[int, dict[str, Answer]] = {i: {} for i in wanted}
    records: dict[str, JudgeRecord] = {}
    images = {i: h for i, h in zip(samples.indices, samples.hashes, strict=True) if i in seen}
    for look in looks:
        asked = list(_questions(look, wanted, cases, form, seen, faults, images))
        if not asked and look.role not in judges:
            continue  # a suite needs no judge for what none of its prompts asks
        chosen, folder = judges[look.role], out / judges[look.role].folder
        told, record = _ask(samples, chosen, look.role, asked, folder, terms)
        if record is not None:
            records[look.role] = record
        for question in asked:
            answer, error = told[question.key]
            if answer is None:
                faults[question.sample] = f"{chosen.name}: {error}"
            else:
                seen[question.sample][look.role] = answer
    return [_sight(i, cases[i], form, seen[i], faults.get(i)) for i in wanted], records


def _sight(index: int, case: Case, form: str, seen: dict[str, Answer], fault: str | None) -> Sight:
    return Sight(index, case.prompt, case.copy, case.text, case.facts[form], seen, fault)


def _questions(
    look: Look,
    wanted: Sequence[int],
    cases: Mapping[int, Case],
    form: str,
    seen: Mapping[int, Mapping[str, Answer]],
    faults: Mapping[int, str],
    images: Mapping[int, str],
) -> Iterator[Question]:
    for place, i in enumerate(wanted):
        if i in faults:
            continue
        ask = look.ask(cases[i].facts[form], seen[i])
        if ask is not None:
            yield Question(place, i, images[i], ask, key_of(look.role, images[i], ask))


def key_of(role: str, image: str, ask: Ask) -> str:
    """Hex sha256 of role, image hash and ask."""
    return hashlib.sha256(f"{role}\n{image}\n{ask.to_json()}".encode()).hexdigest()


def _ask(
    samples: SampleSet, chosen: JudgeChoice, role: str, asked: Sequence[Question], folder: Path, terms: Terms
) -> tuple[dict[str, Told], JudgeRecord | None]:
    """Answers by key: those of the folder, and of the judge where one is missing or failed."""
    _check_vouched(folder)
    if asked:
        kept_record(folder)  # of another version nothing is read, and nothing is added to it
    told = answers(folder, role, asked)
    missing = [q for q in asked if q.key not in told or (told[q.key].answer is None and not terms.rescore)]
    if terms.rescore and (never := [q for q in missing if q.key not in told]):
        raise SampleError(f"{folder} lacks {chosen.name}'s answers on {len(never):,} images; run eval without --rescore once")
    if missing and not terms.rescore:
        annotator = chosen.annotator
        checksums.drop(folder, [ANSWERS, ASKS, JUDGE])  # another Python may write them; `_vouch` vouches for the whole again
        if annotator.runner is not None:
            _outside(samples, chosen, annotator.runner, role, missing, folder, terms)
        else:
            claim(folder, judge_record(chosen.name, chosen.model))
            _look(samples, chosen, annotator, role, missing, folder, terms.device, any(one.answer for one in told.values()))
        told = answers(folder, role, asked)
    elif asked and not terms.rescore:
        _still(chosen, folder)
    if asked and not terms.rescore:
        _vouch(folder, has_written=bool(missing))
    record = kept_record(folder) if asked else None
    if record is not None and record.name != chosen.name:
        raise PlanMismatch(f"{folder / JUDGE} is of {record.name}, asked for {chosen.name}; bring the answers of {chosen.name}")
    return told, record


def _check_vouched(folder: Path) -> None:
    """Raise StorageError where answers, or who gave them, are not those that were recorded."""
    for name in (ANSWERS, JUDGE) if folder.is_dir() else ():
        if not _is_altered(folder, name):
            continue
        with suppress(DiskError), _alone(folder):  # another process may have added an answer between the two reads
            if not _is_altered(folder, name):
                continue
        raise StorageError(
            f"{folder / name} is not the recorded one ({checksums.SUMS} beside it); bring that back, or delete the folder to ask again"
        )


def _is_altered(folder: Path, name: str) -> bool:
    return checksums.has_sums(folder) and checksums.state(folder, name) == "altered"


def _vouch(folder: Path, has_written: bool) -> None:
    """Record answers and judge once they are whole; what is recorded already stays as it is, unless this process has written."""
    with _alone(folder):
        sums = {} if has_written else checksums.read_sums(folder)
        checksums.record_files(folder, [name for name in (ANSWERS, ASKS, JUDGE) if name not in sums and (folder / name).is_file()])


def _append(folder: Path, line: Mapping[str, object]) -> None:
    """Add a line to the answers; the hash that a faster process recorded of them without it is dropped first."""
    with _alone(folder):
        if ANSWERS in checksums.read_sums(folder):
            checksums.drop(folder, [ANSWERS])
        append_line(folder / ANSWERS, json.dumps(line, sort_keys=True, allow_nan=False))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a judge's folder for a moment, so that no answer comes between the hash of the answers and its record."""
    with disk(folder), FileLock(make_folder(folder) / f".{JUDGE}.lock"):
        yield


def _still(chosen: JudgeChoice, folder: Path) -> None:
    """PlanMismatch if the judge is another one now than the one that answered; weights that are not here say nothing."""
    if chosen.judge.runner is not None:
        return
    try:
        record = judge_record(chosen.name, chosen.model)
    except NotHere:
        return
    claim(folder, record)


def kept_record(folder: Path) -> JudgeRecord | None:
    """Who answered in this folder; None before anyone did.

    Raises:
        PlanMismatch: the record cannot be read. FormatError: another version of this package wrote it.
    """
    path = folder / JUDGE
    data = read_if_present(path)
    if data is None:
        return None
    try:
        return JudgeRecord.model_validate(parse_facts("answers", data, path))
    except (StorageError, ValueError) as error:
        why = fault(error) if isinstance(error, ValidationError) else first_line(error)
        raise PlanMismatch(f"{path} is no judge's record ({why}); delete {folder} and judge again") from error


def claim(folder: Path, record: JudgeRecord) -> None:
    """Makes the folder this judge's; PlanMismatch names the field in which another judge's differs."""
    kept = kept_record(folder) or _first_record(folder, record)
    if kept != record:
        one, two = kept.model_dump(), record.model_dump()
        name = next(name for name in one if one[name] != two[name])
        raise PlanMismatch(
            f"{folder} has answers of another judge: {name} {one[name]!s:.40} there, {two[name]!s:.40} now; "
            "delete the folder or give another --out"
        )
    mend_lines(folder / ANSWERS)


def _first_record(folder: Path, record: JudgeRecord) -> JudgeRecord:
    """Write who answers, unless another process was faster; return the record that stands there."""
    with _alone(folder):
        found = kept_record(folder)
        if found is None:
            write_text(folder / JUDGE, json_text("answers", record.model_dump(mode="json")))
        return found or record


def answers(folder: Path, role: str, asked: Sequence[Question]) -> dict[str, Told]:
    """What the folder holds on these questions; an answer that does not fit its question counts as an error."""
    wanted = {q.key: q.ask for q in asked}
    told: dict[str, Told] = {}
    for line in read_lines(folder / ANSWERS):
        key = line.get("key")
        if not isinstance(key, str) or key not in wanted:
            continue
        if "answer" in line:
            told[key] = _read(role, wanted[key], line["answer"])
        elif key not in told or told[key].answer is None:
            told[key] = Told(None, str(line.get("error", "no answer")))
    return told


def _read(role: str, ask: Ask, answer: object) -> Told:
    try:
        found = ANSWER_TYPES[role].model_validate(answer)
    except ValidationError as error:
        return Told(None, f"its answer cannot be read ({fault(error)})")
    return Told(found, None) if fits(ask, found) else Told(None, "it answered another number of things than were asked")


def _look(
    samples: SampleSet,
    chosen: JudgeChoice,
    annotator: Annotator,
    role: str,
    missing: Sequence[Question],
    folder: Path,
    device: str,
    good: bool,
) -> None:
    """Asks the judge here; each answer is on disk before the next question. good: it has answered here before."""
    judge, crashes = open_judge(chosen.name, annotator, device), 0
    for question in tqdm(missing, desc=f"ask {chosen.name}", unit="image", file=sys.stderr, disable=None):
        line: JsonObject = {"key": question.key, "index": question.sample}
        try:
            line["answer"] = judge.see(role, samples.image(question.sample), question.ask).model_dump(mode="json", exclude_none=True)
            good = True
        except (ArithmeticError, BenchError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            line["error"] = f"{type(error).__name__}: {first_line(error)}"
            crashes += 1
        _append(folder, line)
        if crashes == CRASHES and not good:
            raise JudgeError(f"{chosen.name} failed on each of its first {CRASHES} images ({line['error']}); mend that and run again")


def _outside(
    samples: SampleSet, chosen: JudgeChoice, runner: Path, role: str, missing: Sequence[Question], folder: Path, terms: Terms
) -> None:
    """Writes the questions down and has another Python answer them; an image that cannot be read is an error and no question."""
    mend_lines(folder / ANSWERS)
    lines = []
    for question in missing:
        try:
            lines.append(_ask_line(samples, role, question, folder))
        except SampleError as error:
            told = {"key": question.key, "index": question.sample, "error": first_line(error)}
            _append(folder, told)
    write_text(folder / ASKS, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    if not lines:
        return
    if terms.python is None:
        raise Waiting(
            f"{chosen.name} runs in an environment of its own; {len(lines):,} questions stand in {folder / ASKS}: give --judge-python, "
            f"or run PYTHON {runner} --folder {folder} and eval again"
        )
    external_judge.run(terms.python, runner, folder, {"device": terms.device, **terms.runner_options})
    if kept_record(folder) is None:
        raise JudgeError(f"{runner.name} did not say who answers ({folder / JUDGE} is missing); use the runner of this package")


def _ask_line(samples: SampleSet, role: str, question: Question, folder: Path) -> JsonObject:
    """A question as the runner reads it, its image by the way from the folder; one that is no whole file is written beside it."""
    samples.check(question.sample)
    path = samples.files.get(question.sample) if samples.files is not None else None
    if path is None or samples.crop is not None or question.sample in (samples.boxes or {}):
        path = folder / "images" / f"{question.sample:06d}.png"
        write_bytes(path, encode(samples.image(question.sample)))
    return {
        "key": question.key,
        "index": question.sample,
        "role": role,
        "image": os.path.relpath(path.resolve(), folder.resolve()),
        "sha256": sha256_file(path),
        "ask": question.ask.model_dump(mode="json", exclude_none=True),
    }
