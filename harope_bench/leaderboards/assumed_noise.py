"""Which published differences exceed the noise that has to be assumed for them.

Published tables give one number a cell, no spread and one training run, so every error here is assumed from other
people's measurements: evidence level L0. The constants stand in ASSUMED with their source and are shown with every answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, NamedTuple

from harope_bench.leaderboards.paper_audit.counts import parts_of
from harope_bench.leaderboards.paper_audit.printed_values import Printed
from harope_bench.leaderboards.table_spec import Table, half_unit, value_of
from harope_bench.statistics.significance import ALPHA, holm, two_sided

EVIDENCE = (
    "L0: printed numbers alone, one training run a cell, noise assumed from other measurements. "
    "A claim about the method needs several training seeds of both."
)
Word = Literal["resolved", "likely", "not resolved", "beyond sampling", "sampling borderline", "depends on images per prompt"]
SURE, LIKELY = 3.0, 2.0  # |z| of the words resolved and likely

FID_SAMPLING, FID_TRAINING, FID_TRAINING_HIGH = 0.005, 0.013, 0.020  # shares of FID
IS_SPLIT, IS_SPLIT_HIGH, IS_SPLITS = 0.008, 0.023, 10  # spread over splits as shares of IS
IMAGES, REFERENCES = 50_000, 10_000
TOP1_DISCORDANT, TOP1_TRAINING = 0.07, 0.10  # share of images that two models answer differently; points
CORRELATION, PER_PROMPT = 0.42, 4  # GenEval: within-prompt correlation, images per prompt
OVERALL_UNPAIRED, OVERALL_PAIRED = 0.0167, 0.0085  # SE of a difference of two GenEval overalls near 0.76
DPG_PROMPTS = 1065
DPG_KIND, DPG_MIDDLE = (15.0, 0.85), (20.0, 0.70)  # sd of prompt scores in points, correlation between two models
COMPBENCH_SD = {"numeracy": 0.30, "spatial_2d": 0.38, "spatial_3d": 0.35}  # per image
COMPBENCH_PROMPTS, COMPBENCH_IMAGES = 300, (10, 4, 1)


class Assumed(NamedTuple):
    """One constant in words, its value, and where it was taken from."""

    name: str
    value: str
    source: str


TRAINING_SOURCE = "The FID Lottery (arXiv 2606.20536): gaps below 1.3% inconclusive, sd 1-2%"
OVERALL_SOURCE = "used where no categories are printed; a row without any takes its baseline's"
ASSUMED: Mapping[str, tuple[Assumed, ...]] = {
    "fid": (
        Assumed("sampling sd of FID", "0.5% of FID", "clean-fid README, median of 17 rows of 10 evaluations of 50,000 images"),
        Assumed("training sd of FID", "1.3% of FID, 2.0% as the cautious value", TRAINING_SOURCE),
    ),
    "is": (
        Assumed("sd of IS over its 10 splits", "0.8% to 2.3% of IS", "torch-fidelity README and like; SE: sd / sqrt(10); no training term"),
    ),
    "precision": (Assumed("Precision", "binomial over 50,000 images", "radii taken as fixed; no training term"),),
    "recall": (Assumed("Recall", "binomial over 10,000 reference images", "radii taken as fixed; no training term"),),
    "top1": (
        Assumed("images that two models answer differently", "7% of 50,000", "sqrt(0.07 / 50,000) = 0.12 points, paired by image"),
        Assumed("training sd of top-1", "0.10 points", "from memory, no measurement at hand"),
    ),
    "geneval": (
        Assumed("within-prompt correlation", "0.42", "beta-binomial fits of four public logs, 0.33 to 0.51"),
        Assumed("design effect of 4 images a prompt", "1 + 3 x 0.42 = 2.26", "clustered by prompt; paired at best: variance x (1 - 0.42)"),
        Assumed("SE of a difference of two overalls near 0.76", "0.0167 unpaired, 0.0085 paired at best", OVERALL_SOURCE),
    ),
    "dpg": (
        Assumed("sd of a prompt's score", "15 points (favourable), 20 points (middle)", "no per-prompt data are public"),
        Assumed("correlation of two models' prompt scores", "0.85 (favourable), 0.70 (middle)", "same; 1,065 prompts"),
    ),
    "compbench": (
        Assumed("sd per image", "numeracy 0.30, 2D 0.38, 3D 0.35; within-prompt correlation 0.42", "assumed; 300 prompts a category"),
        Assumed("images per prompt", "10, 4 and 1 are tried", "the paper does not state how many"),
    ),
}


class Said(NamedTuple):
    """What a noise model says of one difference: named numbers, a word, and a remark."""

    numbers: dict[str, float]
    word: Word
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One published difference. `numbers` holds z or p by name; `family` names the p values that are adjusted together."""

    model: str
    column: str
    place: str
    first: str
    second: str
    printed: tuple[str, str]
    change: float
    numbers: dict[str, float]
    verdict: Word
    note: str = ""
    family: str = ""
    cells: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Noise:
    """All differences of a table, the constants that were used, and the columns that were left out."""

    table: Table
    lines: tuple[Line, ...]
    assumed: tuple[Assumed, ...]
    silent: tuple[str, ...]
    evidence: str = EVIDENCE
    remarks: tuple[str, ...] = field(default=())


def noise(table: Table, tables: Sequence[Table] = ()) -> Noise:
    """Every difference between two cells that the table ranks together, with its z or p under the assumed noise.

    Args:
        tables: where rows that repeat a row of another table are looked up.
    """
    lines = _adjusted([line for one, other in pairs(table) if (model := model_of(one)) for line in _lines(model, one, other, tables)])
    used = dict.fromkeys(line.model for line in lines)
    silent = dict.fromkeys(c.column.printed for c in _cells(table) if model_of(c) is None)
    remarks = tuple(remark for model in used for remark in REMARKS[model])
    if "fid" in used and "samples" not in table.protocol:
        remarks += ("The table does not state how many images FID was taken over; the sampling term is that of 50,000.",)
    return Noise(table, tuple(lines), tuple(a for model in used for a in ASSUMED[model]), tuple(silent), remarks=remarks)


REMARKS: Mapping[str, tuple[str, ...]] = {
    "fid": ("FID: resolved is |z| > 3 at 1.3% and > 2 at 2.0%, likely |z| 2 to 3 at 1.3%.",),
    "is": (
        "IS: z under the largest and the smallest split sd, sampling only: beyond sampling is |z| > 3 under both, not resolved at most 2.",
        "IS, not reproduced: the study behind these constants gives z 1.5 to 2.8 for 125.09 -> 127.01; 2.8 needs a split sd of 1.2%, "
        "its stated least, 0.8%, gives 4.3.",
    ),
    "precision": ("Precision: z before rounding, and the least z that the rounding of two printed cells leaves; sampling only.",),
    "recall": ("Recall: z before rounding, and the least z that the rounding of two printed cells leaves; sampling only.",),
    "top1": (
        "Top-1: resolved is |z| > 3 with the training term, likely 2 to 3.",
        "Top-1, not reproduced: the study behind these constants gives z 0.2 for +0.02; with its training term it is 0.1, without it 0.2.",
    ),
    "geneval": (
        "GenEval: p if images were independent, clustered by prompt (new prompts), paired by prompt at best. Resolved: clustered p below "
        "5% after Holm; likely: only paired at best is. Families: the category cells, the overalls as printed, the overalls recomputed "
        "(mean of the printed categories).",
        "GenEval, not reproduced: the study behind these constants gives clustered p .24 for 0.735 -> 0.756; a correlation of 0.42 gives "
        "0.2346, the unrounded mean of its four fits, 0.4225, gives 0.2354.",
    ),
    "dpg": ("DPG-Bench: decided by the middle assumption, resolved |z| > 3, likely 2 to 3.",),
    "compbench": ("T2I-CompBench: same prompts and new seeds, by images per prompt; resolved |z| > 3, likely 2 to 3; sampling only.",),
}


def _cells(table: Table) -> list[Printed]:
    return [Printed(table, row, c, row.published[c.key]) for c in table.columns for row in table.rows if c.key in row.published]


def pairs(table: Table) -> Iterator[tuple[Printed, Printed]]:
    """Cells that the table ranks together, two at a time, in printed order."""
    blocks: dict[tuple[str, str], list[Printed]] = {}
    for cell in _cells(table):
        blocks.setdefault(table.block_of(cell.row, cell.column), []).append(cell)
    for block in blocks.values():
        yield from combinations(block, 2)


def model_of(cell: Printed) -> str | None:
    """Which noise model a cell's number has; None where none is assumed."""
    evaluator, measures = cell.column.evaluator, cell.column.measures
    if evaluator == "fidelity" and measures in ("fid", "is", "precision", "recall"):
        return measures
    if evaluator == "t2i-compbench":
        return "compbench" if measures in COMPBENCH_SD else None
    return {"top1": "top1", "geneval": "geneval", "dpg-bench": "dpg"}.get(evaluator or "")


def _lines(model: str, one: Printed, other: Printed, tables: Sequence[Table]) -> Iterator[Line]:
    if model == "geneval":
        yield from _geneval_lines(one, other, tables)
    else:
        yield _line(model, one, other, MODELS[model](one, other))


def _line(model: str, one: Printed, other: Printed, said: Said) -> Line:
    table = one.table
    across = one.row is other.row
    first, second = (c.column.printed if across else c.row.printed for c in (one, other))
    place = "" if table.block == "none" else one.row.printed if across else str(table.block_fact(one.row))
    column = one.column.measures if across else one.column.printed
    change = float(other.value - one.value)
    return Line(
        model, column, place, first, second, (one.text, other.text), change, said.numbers, said.word, said.note, "", (one.id, other.id)
    )


# ----------------------------------------------------------------------------------------------- noise models


def fid_z(one: float, other: float, training: float) -> float:
    """z of a difference of two FIDs whose sd are shares of themselves. `training` 0 is sampling alone."""
    return (other - one) / (math.hypot(one, other) * math.hypot(FID_SAMPLING, training))


def _fid(one: Printed, other: Printed) -> Said:
    a, b = float(one.value), float(other.value)
    z, cautious = fid_z(a, b, FID_TRAINING), fid_z(a, b, FID_TRAINING_HIGH)
    word: Word = "resolved" if abs(z) > SURE and abs(cautious) > LIKELY else "likely" if abs(z) > LIKELY else "not resolved"
    return Said({"z at 1.3%": z, "z at 2.0%": cautious, "sampling-only z": fid_z(a, b, 0.0)}, word)


def _word(z: float) -> Word:
    return "resolved" if abs(z) > SURE else "likely" if abs(z) > LIKELY else "not resolved"


def _sampling_word(least: float, most: float) -> Word:
    """For numbers without a training term: |z| under the largest and under the smallest assumed error."""
    return "beyond sampling" if abs(least) > SURE else "not resolved" if abs(most) <= LIKELY else "sampling borderline"


def _is(one: Printed, other: Printed) -> Said:
    a, b = float(one.value), float(other.value)
    least, most = ((b - a) * math.sqrt(IS_SPLITS) / (math.hypot(a, b) * split) for split in (IS_SPLIT_HIGH, IS_SPLIT))
    return Said({"z at 2.3%": least, "z at 0.8%": most}, _sampling_word(least, most))


def _share(n: int) -> Callable[[Printed, Printed], Said]:
    def model(one: Printed, other: Printed) -> Said:
        a, b = float(one.value), float(other.value)
        se = math.sqrt((a * (1 - a) + b * (1 - b)) / n)
        rounding = float(half_unit(one.text) + half_unit(other.text))
        left = math.copysign(max(0.0, round(abs(b - a) - rounding, 12)), b - a) or 0.0
        return Said({"z before rounding": (b - a) / se, "least z": left / se}, _sampling_word(left / se, (b - a) / se))

    return model


def _top1(one: Printed, other: Printed) -> Said:
    change, sampling = float(other.value - one.value), 100 * math.sqrt(TOP1_DISCORDANT / IMAGES)
    with_training = change / math.hypot(sampling, math.sqrt(2) * TOP1_TRAINING)
    return Said({"z with training": with_training, "z without": change / sampling}, _word(with_training))


def _dpg(one: Printed, other: Printed) -> Said:
    change = float(other.value - one.value)
    kind, middle = (change / (sd * math.sqrt(2 * (1 - rho) / DPG_PROMPTS)) for sd, rho in (DPG_KIND, DPG_MIDDLE))
    return Said({"z, favourable": kind, "z, middle": middle}, _word(middle))


def compbench_se(measures: str, images: int, new_prompts: bool = False) -> float:
    """SE of a difference of two models with so many images per prompt."""
    within = (1 - CORRELATION) / images
    return COMPBENCH_SD[measures] * math.sqrt(2 * (within + (CORRELATION if new_prompts else 0.0)) / COMPBENCH_PROMPTS)


def _compbench(one: Printed, other: Printed) -> Said:
    change = float(other.value - one.value)
    z = {images: change / compbench_se(one.column.measures, images) for images in COMPBENCH_IMAGES}
    words = {images: _word(value) for images, value in z.items()}
    numbers = {f"z, {n} image{'s' if n > 1 else ''}": value for n, value in z.items()}
    if len(set(words.values())) == 1:
        return Said(numbers, words[COMPBENCH_IMAGES[0]])
    return Said(numbers, "depends on images per prompt", ", ".join(f"{n}: {word}" for n, word in words.items()))


MODELS: Mapping[str, Callable[[Printed, Printed], Said]] = {
    "fid": _fid, "is": _is, "precision": _share(IMAGES), "recall": _share(REFERENCES), "top1": _top1, "dpg": _dpg, "compbench": _compbench,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ GenEval


class Errors(NamedTuple):
    """Standard errors of a difference: images independent, clustered (new prompts), paired at best."""

    independent: float
    clustered: float
    paired: float


def geneval_errors(variance: float) -> Errors:
    """Errors of a difference from the summed binomial variance of its two numbers."""
    effect = 1 + (PER_PROMPT - 1) * CORRELATION
    return Errors(math.sqrt(variance), math.sqrt(variance * effect), math.sqrt(variance * (1 - CORRELATION)))


def _variance(cell: Printed, tables: Sequence[Table]) -> float | None:
    """Binomial variance of a category, or of an overall from its categories; None where no categories are printed."""
    if images := cell.column.n_images:
        return _binomial(float(cell.value), images)
    home = _with_categories(cell, tables)
    if home is None:
        return None
    parts = parts_of(home.table, home.column)
    return (
        sum(_binomial(float(home._replace(column=p, text=home.row.published[p.key]).value), p.n_images or 1) for p in parts)
        / len(parts) ** 2
    )


def _binomial(share: float, n: int) -> float:
    return share * (1 - share) / n


def _with_categories(cell: Printed, tables: Sequence[Table]) -> Printed | None:
    """The cell itself, or the one it repeats, or for a row of its own the baseline's: where the categories stand."""
    if parts_of(cell.table, cell.column):
        return cell
    linked = cell.row.same_as or next((base.same_as for base in [cell.table.baseline_of(cell.row, "paper")] if base), None)
    for table in tables:
        for row in table.rows:
            if linked == f"{table.id}/{row.id}":
                return next((Printed(table, row, c, row.published[c.key]) for c in table.columns if parts_of(table, c)), None)
    return None


def _errors(one: Printed, other: Printed, tables: Sequence[Table]) -> Errors:
    variances = [_variance(cell, tables) for cell in (one, other)]
    if variances[0] is None or variances[1] is None:
        effect = 1 + (PER_PROMPT - 1) * CORRELATION
        return Errors(OVERALL_UNPAIRED / math.sqrt(effect), OVERALL_UNPAIRED, OVERALL_PAIRED)
    return geneval_errors(variances[0] + variances[1])


def _geneval_said(change: float, errors: Errors, note: str = "") -> Said:
    z = [change / se for se in errors]
    names = ("independent", "clustered", "paired at best")
    numbers = {f"p {name}": two_sided(value) for name, value in zip(names, z, strict=True)}
    return Said({**numbers, "z clustered": z[1], "z paired at best": z[2]}, "not resolved", note)


def _geneval_lines(one: Printed, other: Printed, tables: Sequence[Table]) -> Iterator[Line]:
    errors = _errors(one, other, tables)
    line = _line("geneval", one, other, _geneval_said(float(other.value - one.value), errors))
    yield replace(line, family="categories" if one.column.n_images else "as printed")
    first, second = _printed_mean(one), _printed_mean(other)
    if first is not None and second is not None:
        said = _geneval_said(second - first, errors)
        texts = (f"{first:.4f}", f"{second:.4f}")
        column = f"{line.column}, recomputed"
        yield replace(line, column=column, printed=texts, change=second - first, numbers=said.numbers, family="recomputed")


def _printed_mean(cell: Printed) -> float | None:
    """The mean of the printed categories of an overall; None where it has none in its row."""
    parts = parts_of(cell.table, cell.column)
    if not parts or any(part.key not in cell.row.published for part in parts):
        return None
    return float(sum(value_of(cell.row.published[part.key]) for part in parts) / len(parts))


def _adjusted(lines: list[Line]) -> list[Line]:
    """Verdicts of GenEval lines, Holm-adjusted within their family."""
    for family in dict.fromkeys(line.family for line in lines if line.family):
        places = [i for i, line in enumerate(lines) if line.family == family]
        clustered, paired = (holm([lines[i].numbers[name] for i in places]) for name in ("p clustered", "p paired at best"))
        for i, p, best in zip(places, clustered, paired, strict=True):
            word: Word = "resolved" if p < ALPHA else "likely" if best < ALPHA else "not resolved"
            lines[i] = replace(lines[i], verdict=word, numbers={**lines[i].numbers, "Holm clustered": p, "Holm paired": best})
    return lines
