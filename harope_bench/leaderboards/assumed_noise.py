"""Which published differences exceed the noise that has to be assumed for them.

Published tables give one number a cell, no spread and one training run, so every error here is
assumed from other
people's measurements: evidence level L0. The constants stand in ASSUMED with their source and are
shown with every answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, NamedTuple

from harope_bench.leaderboards.paper_audit.counts import averaged_columns
from harope_bench.leaderboards.paper_audit.printed_values import PublishedCell
from harope_bench.leaderboards.table_spec import Table, half_unit, leading_number
from harope_bench.statistics.significance import ALPHA, holm_adjust, two_sided_p

PUBLISHED_EVIDENCE = (
    "L0: printed numbers alone, one training run a cell, noise assumed from other measurements. "
    "A claim about the method needs several training seeds of both."
)
NoiseVerdict = Literal[
    "resolved",
    "likely",
    "not resolved",
    "beyond sampling",
    "sampling borderline",
    "depends on images per prompt",
]
# |z| of the words resolved and likely
RESOLVED_Z = 3.0
LIKELY_Z = 2.0

# shares of FID
FID_SAMPLING_FRACTION = 0.005
FID_TRAINING_FRACTION = 0.013
FID_TRAINING_FRACTION_HIGH = 0.020
# spread over splits as shares of IS
IS_SPLIT_FRACTION = 0.008
IS_SPLIT_FRACTION_HIGH = 0.023
N_IS_SPLITS = 10
N_IMAGES = 50_000
N_REFERENCE_IMAGES = 10_000
# share of images that two models answer differently; points
TOP1_DISCORDANT_FRACTION = 0.07
TOP1_TRAINING_POINTS = 0.10
# GenEval: within-prompt correlation, images per prompt
WITHIN_PROMPT_CORRELATION = 0.42
GENEVAL_IMAGES_PER_PROMPT = 4
# SE of a difference of two GenEval overalls near 0.76
OVERALL_UNPAIRED = 0.0167
OVERALL_PAIRED = 0.0085
DPG_PROMPTS = 1065
# sd of prompt scores in points, correlation between two models
DPG_FAVOURABLE = (15.0, 0.85)
DPG_MIDDLE = (20.0, 0.70)
COMPBENCH_STANDARD_DEVIATIONS = {
    "numeracy": 0.30,
    "spatial_2d": 0.38,
    "spatial_3d": 0.35,
}  # per image
COMPBENCH_PROMPTS = 300
COMPBENCH_IMAGES = (10, 4, 1)


class NoiseAssumption(NamedTuple):
    """One constant in words, its value, and where it was taken from."""

    name: str
    value: str
    source: str


TRAINING_SOURCE = "The FID Lottery (arXiv 2606.20536): gaps below 1.3% inconclusive, sd 1-2%"
OVERALL_SOURCE = "used where no categories are printed; a row without any takes its baseline's"
NOISE_ASSUMPTIONS: Mapping[str, tuple[NoiseAssumption, ...]] = {
    "fid": (
        NoiseAssumption(
            "sampling sd of FID",
            "0.5% of FID",
            "clean-fid README, median of 17 rows of 10 evaluations of 50,000 images",
        ),
        NoiseAssumption(
            "training sd of FID", "1.3% of FID, 2.0% as the cautious value", TRAINING_SOURCE
        ),
    ),
    "is": (
        NoiseAssumption(
            "sd of IS over its 10 splits",
            "0.8% to 2.3% of IS",
            "torch-fidelity README and like; SE: sd / sqrt(10); no training term",
        ),
    ),
    "precision": (
        NoiseAssumption(
            "Precision", "binomial over 50,000 images", "radii taken as fixed; no training term"
        ),
    ),
    "recall": (
        NoiseAssumption(
            "Recall",
            "binomial over 10,000 reference images",
            "radii taken as fixed; no training term",
        ),
    ),
    "top1": (
        NoiseAssumption(
            "images that two models answer differently",
            "7% of 50,000",
            "sqrt(0.07 / 50,000) = 0.12 points, paired by image",
        ),
        NoiseAssumption(
            "training sd of top-1", "0.10 points", "from memory, no measurement at hand"
        ),
    ),
    "geneval": (
        NoiseAssumption(
            "within-prompt correlation",
            "0.42",
            "beta-binomial fits of four public logs, 0.33 to 0.51",
        ),
        NoiseAssumption(
            "design effect of 4 images a prompt",
            "1 + 3 x 0.42 = 2.26",
            "clustered by prompt; paired at best: variance x (1 - 0.42)",
        ),
        NoiseAssumption(
            "SE of a difference of two overalls near 0.76",
            "0.0167 unpaired, 0.0085 paired at best",
            OVERALL_SOURCE,
        ),
    ),
    "dpg": (
        NoiseAssumption(
            "sd of a prompt's score",
            "15 points (favourable), 20 points (middle)",
            "no per-prompt data are public",
        ),
        NoiseAssumption(
            "correlation of two models' prompt scores",
            "0.85 (favourable), 0.70 (middle)",
            "same; 1,065 prompts",
        ),
    ),
    "compbench": (
        NoiseAssumption(
            "sd per image",
            "numeracy 0.30, 2D 0.38, 3D 0.35; within-prompt correlation 0.42",
            "assumed; 300 prompts a category",
        ),
        NoiseAssumption(
            "images per prompt", "10, 4 and 1 are tried", "the paper does not state how many"
        ),
    ),
}


class NoiseEstimate(NamedTuple):
    """What a noise model says of one difference: named numbers, a word, and a remark."""

    test_statistics: dict[str, float]
    verdict: NoiseVerdict
    note: str = ""


@dataclass(frozen=True)
class PublishedDifference:
    """One published difference. `numbers` holds z or p by name; `family` names the p values that
    are adjusted together.
    """

    noise_model: str
    column: str
    block: str
    first_label: str
    second_label: str
    printed_values: tuple[str, str]
    delta: float
    test_statistics: dict[str, float]
    verdict: NoiseVerdict
    note: str = ""
    family: str = ""
    cells: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class NoiseReport:
    """All differences of a table, the constants that were used, and the columns that were left
    out.
    """

    table: Table
    differences: tuple[PublishedDifference, ...]
    assumptions: tuple[NoiseAssumption, ...]
    columns_without_model: tuple[str, ...]
    evidence: str = PUBLISHED_EVIDENCE
    notes: tuple[str, ...] = field(default=())


def assess_differences(table: Table, tables: Sequence[Table] = ()) -> NoiseReport:
    """Every difference between two cells that the table ranks together, with its z or p under the
    assumed noise.

    Args:
        tables: where rows that repeat a row of another table are looked up.
    """
    lines = _adjust_verdicts(
        [
            line
            for one, other in ranked_pairs(table)
            if (model := noise_model_name(one))
            for line in _compare_pair(model, one, other, tables)
        ]
    )
    used = dict.fromkeys(line.noise_model for line in lines)
    silent = dict.fromkeys(
        c.column.printed for c in _cells_by_column(table) if noise_model_name(c) is None
    )
    remarks = tuple(remark for model in used for remark in MODEL_NOTES[model])
    if "fid" in used and "samples" not in table.protocol:
        remarks += (
            (
                "The table does not state how many images FID was taken over; the sampling term is"
                " that of 50,000."
            ),
        )
    return NoiseReport(
        table,
        tuple(lines),
        tuple(a for model in used for a in NOISE_ASSUMPTIONS[model]),
        tuple(silent),
        notes=remarks,
    )


MODEL_NOTES: Mapping[str, tuple[str, ...]] = {
    "fid": ("FID: resolved is |z| > 3 at 1.3% and > 2 at 2.0%, likely |z| 2 to 3 at 1.3%.",),
    "is": (
        (
            "IS: z under the largest and the smallest split sd, sampling only: beyond sampling is"
            " |z| > 3 under both, not resolved at most 2."
        ),
        (
            "IS, not reproduced: the study behind these constants gives z 1.5 to 2.8 for 125.09 ->"
            " 127.01; 2.8 needs a split sd of 1.2%, its stated least, 0.8%, gives 4.3."
        ),
    ),
    "precision": (
        (
            "Precision: z before rounding, and the least z that the rounding of two printed cells"
            " leaves; sampling only."
        ),
    ),
    "recall": (
        (
            "Recall: z before rounding, and the least z that the rounding of two printed cells"
            " leaves; sampling only."
        ),
    ),
    "top1": (
        "Top-1: resolved is |z| > 3 with the training term, likely 2 to 3.",
        (
            "Top-1, not reproduced: the study behind these constants gives z 0.2 for +0.02; with"
            " its training term it is 0.1, without it 0.2."
        ),
    ),
    "geneval": (
        (
            "GenEval: p if images were independent, clustered by prompt (new prompts), paired by"
            " prompt at best. Resolved: clustered p below 5% after Holm; likely: only paired at"
            " best is. Families: the category cells, the overalls as printed, the overalls"
            " recomputed (mean of the printed categories)."
        ),
        (
            "GenEval, not reproduced: the study behind these constants gives clustered p .24 for"
            " 0.735 -> 0.756; a correlation of 0.42 gives 0.2346, the unrounded mean of its four"
            " fits, 0.4225, gives 0.2354."
        ),
    ),
    "dpg": ("DPG-Bench: decided by the middle assumption, resolved |z| > 3, likely 2 to 3.",),
    "compbench": (
        (
            "T2I-CompBench: same prompts and new seeds, by images per prompt; resolved |z| > 3,"
            " likely 2 to 3; sampling only."
        ),
    ),
}


def _cells_by_column(table: Table) -> list[PublishedCell]:
    return [
        PublishedCell(table, row, c, row.published[c.key])
        for c in table.columns
        for row in table.rows
        if c.key in row.published
    ]


def ranked_pairs(table: Table) -> Iterator[tuple[PublishedCell, PublishedCell]]:
    """Cells that the table ranks together, two at a time, in printed order."""
    blocks: dict[tuple[str, str], list[PublishedCell]] = {}
    for cell in _cells_by_column(table):
        blocks.setdefault(table.block_key(cell.row, cell.column), []).append(cell)
    for block in blocks.values():
        yield from combinations(block, 2)


def noise_model_name(cell: PublishedCell) -> str | None:
    """Which noise model a cell's number has; None where none is assumed."""
    evaluator = cell.column.evaluator
    measures = cell.column.metric_name
    if evaluator == "fidelity" and measures in ("fid", "is", "precision", "recall"):
        return measures
    if evaluator == "t2i-compbench":
        return "compbench" if measures in COMPBENCH_STANDARD_DEVIATIONS else None
    return {"top1": "top1", "geneval": "geneval", "dpg-bench": "dpg"}.get(evaluator or "")


def _compare_pair(
    model: str, one: PublishedCell, other: PublishedCell, tables: Sequence[Table]
) -> Iterator[PublishedDifference]:
    if model == "geneval":
        yield from _compare_geneval_pair(one, other, tables)
    else:
        yield _make_difference(model, one, other, NOISE_MODELS[model](one, other))


def _make_difference(
    model: str, one: PublishedCell, other: PublishedCell, estimate: NoiseEstimate
) -> PublishedDifference:
    table = one.table
    across = one.row is other.row
    first, second = (c.column.printed if across else c.row.printed for c in (one, other))
    place = (
        ""
        if table.block == "none"
        else one.row.printed
        if across
        else str(table.block_fact(one.row))
    )
    column = one.column.metric_name if across else one.column.printed
    change = float(other.value - one.value)
    return PublishedDifference(
        model,
        column,
        place,
        first,
        second,
        (one.text, other.text),
        change,
        estimate.test_statistics,
        estimate.verdict,
        estimate.note,
        "",
        (one.id, other.id),
    )


# -----------------------------------------------------------------------------------------------
# noise models


def fid_z(one: float, other: float, training: float) -> float:
    """z of a difference of two FIDs whose sd are shares of themselves. `training` 0 is sampling
    alone.
    """
    return (other - one) / (math.hypot(one, other) * math.hypot(FID_SAMPLING_FRACTION, training))


def _estimate_fid(one: PublishedCell, other: PublishedCell) -> NoiseEstimate:
    a = float(one.value)
    b = float(other.value)
    z = fid_z(a, b, FID_TRAINING_FRACTION)
    cautious = fid_z(a, b, FID_TRAINING_FRACTION_HIGH)
    word: NoiseVerdict = (
        "resolved"
        if abs(z) > RESOLVED_Z and abs(cautious) > LIKELY_Z
        else "likely"
        if abs(z) > LIKELY_Z
        else "not resolved"
    )
    return NoiseEstimate(
        {"z at 1.3%": z, "z at 2.0%": cautious, "sampling-only z": fid_z(a, b, 0.0)}, word
    )


def _z_verdict(z: float) -> NoiseVerdict:
    return "resolved" if abs(z) > RESOLVED_Z else "likely" if abs(z) > LIKELY_Z else "not resolved"


def _sampling_verdict(least: float, most: float) -> NoiseVerdict:
    """For numbers without a training term: |z| under the largest and under the smallest assumed
    error.
    """
    return (
        "beyond sampling"
        if abs(least) > RESOLVED_Z
        else "not resolved"
        if abs(most) <= LIKELY_Z
        else "sampling borderline"
    )


def _estimate_inception_score(one: PublishedCell, other: PublishedCell) -> NoiseEstimate:
    a = float(one.value)
    b = float(other.value)
    least, most = (
        (b - a) * math.sqrt(N_IS_SPLITS) / (math.hypot(a, b) * split)
        for split in (IS_SPLIT_FRACTION_HIGH, IS_SPLIT_FRACTION)
    )
    return NoiseEstimate({"z at 2.3%": least, "z at 0.8%": most}, _sampling_verdict(least, most))


def _fraction_model(n: int) -> Callable[[PublishedCell, PublishedCell], NoiseEstimate]:
    def model(one: PublishedCell, other: PublishedCell) -> NoiseEstimate:
        a = float(one.value)
        b = float(other.value)
        se = math.sqrt((a * (1 - a) + b * (1 - b)) / n)
        rounding = float(half_unit(one.text) + half_unit(other.text))
        left = math.copysign(max(0.0, round(abs(b - a) - rounding, 12)), b - a) or 0.0
        return NoiseEstimate(
            {"z before rounding": (b - a) / se, "least z": left / se},
            _sampling_verdict(left / se, (b - a) / se),
        )

    return model


def _estimate_top1(one: PublishedCell, other: PublishedCell) -> NoiseEstimate:
    change = float(other.value - one.value)
    sampling = 100 * math.sqrt(TOP1_DISCORDANT_FRACTION / N_IMAGES)
    with_training = change / math.hypot(sampling, math.sqrt(2) * TOP1_TRAINING_POINTS)
    return NoiseEstimate(
        {"z with training": with_training, "z without": change / sampling},
        _z_verdict(with_training),
    )


def _estimate_dpg(one: PublishedCell, other: PublishedCell) -> NoiseEstimate:
    change = float(other.value - one.value)
    kind, middle = (
        change / (sd * math.sqrt(2 * (1 - rho) / DPG_PROMPTS))
        for sd, rho in (DPG_FAVOURABLE, DPG_MIDDLE)
    )
    return NoiseEstimate({"z, favourable": kind, "z, middle": middle}, _z_verdict(middle))


def compbench_standard_error(measures: str, images: int, new_prompts: bool = False) -> float:
    """SE of a difference of two models with so many images per prompt."""
    within = (1 - WITHIN_PROMPT_CORRELATION) / images
    return COMPBENCH_STANDARD_DEVIATIONS[measures] * math.sqrt(
        2 * (within + (WITHIN_PROMPT_CORRELATION if new_prompts else 0.0)) / COMPBENCH_PROMPTS
    )


def _estimate_compbench(one: PublishedCell, other: PublishedCell) -> NoiseEstimate:
    change = float(other.value - one.value)
    z = {
        images: change / compbench_standard_error(one.column.metric_name, images)
        for images in COMPBENCH_IMAGES
    }
    words = {images: _z_verdict(value) for images, value in z.items()}
    numbers = {f"z, {n} image{'s' if n > 1 else ''}": value for n, value in z.items()}
    if len(set(words.values())) == 1:
        return NoiseEstimate(numbers, words[COMPBENCH_IMAGES[0]])
    return NoiseEstimate(
        numbers,
        "depends on images per prompt",
        ", ".join(f"{n}: {word}" for n, word in words.items()),
    )


NOISE_MODELS: Mapping[str, Callable[[PublishedCell, PublishedCell], NoiseEstimate]] = {
    "fid": _estimate_fid, "is": _estimate_inception_score, "precision": _fraction_model(N_IMAGES), "recall": _fraction_model(N_REFERENCE_IMAGES), "top1": _estimate_top1, "dpg": _estimate_dpg, "compbench": _estimate_compbench,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------
# GenEval


class StandardErrors(NamedTuple):
    """Standard errors of a difference: images independent, clustered (new prompts), paired at
    best.
    """

    independent: float
    clustered: float
    paired: float


def geneval_standard_errors(variance: float) -> StandardErrors:
    """Errors of a difference from the summed binomial variance of its two numbers."""
    effect = 1 + (GENEVAL_IMAGES_PER_PROMPT - 1) * WITHIN_PROMPT_CORRELATION
    return StandardErrors(
        math.sqrt(variance),
        math.sqrt(variance * effect),
        math.sqrt(variance * (1 - WITHIN_PROMPT_CORRELATION)),
    )


def _variance(cell: PublishedCell, tables: Sequence[Table]) -> float | None:
    """Binomial variance of a category, or of an overall from its categories; None where no
    categories are printed.
    """
    if images := cell.column.n_images:
        return _binomial_variance(float(cell.value), images)
    home = _cell_with_categories(cell, tables)
    if home is None:
        return None
    parts = averaged_columns(home.table, home.column)
    return (
        sum(
            _binomial_variance(
                float(home._replace(column=p, text=home.row.published[p.key]).value),
                p.n_images or 1,
            )
            for p in parts
        )
        / len(parts) ** 2
    )


def _binomial_variance(fraction: float, n: int) -> float:
    return fraction * (1 - fraction) / n


def _cell_with_categories(cell: PublishedCell, tables: Sequence[Table]) -> PublishedCell | None:
    """The cell itself, or the one it repeats, or for a row of its own the baseline's: where the
    categories stand.
    """
    if averaged_columns(cell.table, cell.column):
        return cell
    linked = cell.row.same_as or next(
        (base.same_as for base in [cell.table.baseline_row(cell.row, "paper")] if base), None
    )
    for table in tables:
        for row in table.rows:
            if linked == f"{table.id}/{row.id}":
                return next(
                    (
                        PublishedCell(table, row, c, row.published[c.key])
                        for c in table.columns
                        if averaged_columns(table, c)
                    ),
                    None,
                )
    return None


def _overall_standard_errors(
    one: PublishedCell, other: PublishedCell, tables: Sequence[Table]
) -> StandardErrors:
    variances = [_variance(cell, tables) for cell in (one, other)]
    if variances[0] is None or variances[1] is None:
        effect = 1 + (GENEVAL_IMAGES_PER_PROMPT - 1) * WITHIN_PROMPT_CORRELATION
        return StandardErrors(
            OVERALL_UNPAIRED / math.sqrt(effect), OVERALL_UNPAIRED, OVERALL_PAIRED
        )
    return geneval_standard_errors(variances[0] + variances[1])


def _estimate_geneval(change: float, errors: StandardErrors, note: str = "") -> NoiseEstimate:
    z = [change / se for se in errors]
    names = ("independent", "clustered", "paired at best")
    numbers = {f"p {name}": two_sided_p(value) for name, value in zip(names, z, strict=True)}
    return NoiseEstimate(
        {**numbers, "z clustered": z[1], "z paired at best": z[2]}, "not resolved", note
    )


def _compare_geneval_pair(
    one: PublishedCell, other: PublishedCell, tables: Sequence[Table]
) -> Iterator[PublishedDifference]:
    errors = _overall_standard_errors(one, other, tables)
    line = _make_difference(
        "geneval", one, other, _estimate_geneval(float(other.value - one.value), errors)
    )
    yield replace(line, family="categories" if one.column.n_images else "as printed")
    first = _category_mean(one)
    second = _category_mean(other)
    if first is not None and second is not None:
        said = _estimate_geneval(second - first, errors)
        texts = (f"{first:.4f}", f"{second:.4f}")
        column = f"{line.column}, recomputed"
        yield replace(
            line,
            column=column,
            printed_values=texts,
            delta=second - first,
            test_statistics=said.test_statistics,
            family="recomputed",
        )


def _category_mean(cell: PublishedCell) -> float | None:
    """The mean of the printed categories of an overall; None where it has none in its row."""
    parts = averaged_columns(cell.table, cell.column)
    if not parts or any(part.key not in cell.row.published for part in parts):
        return None
    return float(sum(leading_number(cell.row.published[part.key]) for part in parts) / len(parts))


def _adjust_verdicts(lines: list[PublishedDifference]) -> list[PublishedDifference]:
    """Verdicts of GenEval lines, Holm-adjusted within their family."""
    for family in dict.fromkeys(line.family for line in lines if line.family):
        places = [i for i, line in enumerate(lines) if line.family == family]
        clustered, paired = (
            holm_adjust([lines[i].test_statistics[name] for i in places])
            for name in ("p clustered", "p paired at best")
        )
        for i, p, best in zip(places, clustered, paired, strict=True):
            word: NoiseVerdict = (
                "resolved" if p < ALPHA else "likely" if best < ALPHA else "not resolved"
            )
            lines[i] = replace(
                lines[i],
                verdict=word,
                test_statistics={
                    **lines[i].test_statistics,
                    "Holm clustered": p,
                    "Holm paired": best,
                },
            )
    return lines
