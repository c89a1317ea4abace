"""Results of prompts, marked again from the images: for `verify`. Judges that run elsewhere cannot be asked again here; that is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.json_lines import lines_by
from harope_bench.core.schema import JudgeRecord, Result
from harope_bench.core.storage import disk
from harope_bench.data.result_paths import arrays_path, rows_path
from harope_bench.data.run_folder import OBSERVATIONS
from harope_bench.judges.base import load_judge
from harope_bench.pipeline.annotate import ANSWERS, JUDGE, Terms
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.evaluate import stated_form
from harope_bench.pipeline.evaluate_prompts import FOREIGN, Marking, mark, scores_annotations
from harope_bench.pipeline.extract_features import read_record

# Of a result, what need not come out the same: who scored it, where its images lay, and what it and its files are called.
EXEMPT = ("provenance", "source", "target", "label", "per_sample", "rows")


class Remarked(NamedTuple):
    """What is wrong in a result, how many images were judged again, and the judges whose stored answers had to be believed."""

    wrong: list[str]
    judged: int
    believed: tuple[str, ...]


def marked_here(stored: Result) -> bool:
    """Whether a result is one of prompts."""
    known = registry.entries("evaluators")
    return stored.judge != FOREIGN and stored.evaluator in known and scores_annotations(stored.evaluator)


def remark(folder: Path, path: Path, stored: Result, room: Path, images: Path | None = None) -> Remarked:
    """Marks the run again into `room`, with the judges that the result names, and compares.

    Args:
        images: where the images lie, the run folder itself if None.

    Raises:
        BenchError: a judge that is not here, or images that are not the recorded ones.
    """
    source = stored.source
    suite = stored.plan.suite if stored.plan is not None else source.suite if source is not None else ""
    believed = tuple(sorted({record.name for record in stored.judges.values() if _elsewhere(record)}))
    for name in believed:
        with disk(room):
            shutil.copytree(folder / OBSERVATIONS / name, room / OBSERVATIONS / name, dirs_exist_ok=True)
    judge = ",".join(f"{role}={_spoken(record)}" for role, record in sorted(stored.judges.items()))
    asked = Marking(suite, stored.rules, judge or None, stored.is_lenient, Terms(), stated_form(source, folder, images))
    (again,) = mark(images or folder, room, asked, [stored.evaluator], source.count if source else None)
    wrong = [*other_facts(stored, again.result), *other_names(stored, path)]
    judged = again.result.measurements[0].n_asked if len(believed) < len(stored.judges) or not stored.judges else 0
    wrong += other_files(path, again.path)
    wrong += _answers(folder / OBSERVATIONS, room / OBSERVATIONS)
    return Remarked(wrong, judged, believed)


def other_facts(stored: Result, again: Result) -> list[str]:
    """Return a line for each field in which a result differs from the same work done again."""
    return [
        f"{name} is {_few(difference.stored)}, should be {_few(difference.expected)}"
        for name, difference in differing_fields(stored, again).items()
        if name not in EXEMPT
    ]


def other_names(stored: Result, path: Path) -> list[str]:
    """Return a line for each file that a result does not name by its own name."""
    names = {
        "per_sample": (stored.per_sample, arrays_path(path).name),
        "rows": (stored.rows, rows_path(path).name),
    }
    return [f"{field} is {_few(name)}, should be {own_name}" for field, (name, own_name) in names.items() if name not in (None, own_name)]


def other_files(path: Path, again: Path) -> list[str]:
    """Return a line for each array, and for verdicts, that are not those of the same work done again."""
    lines = _rows(arrays_path(path), arrays_path(again))
    return lines + (_verdicts(rows_path(path), rows_path(again)) if rows_path(again).is_file() else [])


def _elsewhere(record: JudgeRecord) -> bool:
    return load_judge(record.name).runner is not None


def _spoken(record: JudgeRecord) -> str:
    """A judge as --judge takes it."""
    return record.name + (f":{record.model}" if record.model else "")


def _few(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _rows(stored: Path, again: Path) -> list[str]:
    if not stored.is_file():
        return [f"{stored.name} beside it is gone; run eval --rescore"]
    one, two = load_arrays(stored), load_arrays(again)
    if one.keys() != two.keys():
        return [f"{stored.name} holds {sorted(one)}, should hold {sorted(two)}"]
    return [f"{stored.name}: {name} differs" for name in one if not np.array_equal(one[name], two[name], equal_nan=True)]


def _verdicts(stored: Path, again: Path) -> list[str]:
    """Images whose row of verdict and reason is another one now."""
    if not stored.is_file():
        return [f"{stored.name} beside it is gone; run eval --rescore"]
    one, two = (lines_by(path, "index", int) for path in (stored, again))
    other = sorted(index for index in {*one, *two} if one.get(index) != two.get(index))
    return [f"{stored.name}: verdicts on {len(other):,} images differ, first on image {other[0]}"] if other else []


def _answers(stored: Path, again: Path) -> list[str]:
    """Judges whose kept answers are not what they say now; one that is gone is no fault, eval asks again."""
    wrong = []
    for path in sorted(again.glob(f"*/{ANSWERS}")):
        kept, now = (lines_by(place / path.parent.name / ANSWERS, "key", str) for place in (stored, again))
        other = [now[key].get("index") for key in now if key in kept and kept[key] != now[key]]
        wrong += [f"{stored.name}/{path.parent.name}/{ANSWERS}: {len(other):,} answers differ, first on image {other[0]}"] if other else []
        wrong += _other_judge(stored / path.parent.name / JUDGE, path.parent / JUDGE)
    return wrong


def _other_judge(stored: Path, again: Path) -> list[str]:
    """Return a line where the record of who answered is not that of the judge that answers now."""
    if not stored.is_file() or not again.is_file() or read_record(stored) == read_record(again):
        return []
    return [f"{stored.parent.name}/{JUDGE}: is not the record of the judge that answers now"]
