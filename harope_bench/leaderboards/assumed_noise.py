"""Published differences compared with the noise that has to be assumed for them.

The published tables have one number per cell, no standard deviation and one training run. All
noise here is assumed from measurements of other people (evidence level L0). The constants and
their sources are in NOISE_ASSUMPTIONS and are printed with every answer.
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
# |z| above which a difference is resolved or likely
MIN_Z_RESOLVED = 3.0
MIN_Z_LIKELY = 2.0

# standard deviations as fractions of FID
FID_SAMPLING_FRACTION = 0.005
FID_TRAINING_FRACTION = 0.013
FID_TRAINING_FRACTION_HIGH = 0.020
# standard deviation over the splits as a fraction of IS
IS_SPLIT_FRACTION = 0.008
IS_SPLIT_FRACTION_HIGH = 0.023
N_IS_SPLITS = 10
N_IMAGES = 50_000
N_REFERENCE_IMAGES = 10_000
# fraction of images that two models answer differently; standard deviation in points
TOP1_DISCORDANT_FRACTION = 0.07
TOP1_TRAINING_POINTS = 0.10
# GenEval: within-prompt correlation, images per prompt
WITHIN_PROMPT_CORRELATION = 0.42
GENEVAL_IMAGES_PER_PROMPT = 4
# standard error of a difference of two GenEval overall scores near 0.76
OVERALL_UNPAIRED = 0.0167
OVERALL_PAIRED = 0.0085
DPG_PROMPTS = 1065
# (standard deviation of prompt scores in points, correlation between two models)
DPG_FAVOURABLE = (15.0, 0.85)
DPG_MIDDLE = (20.0, 0.70)
# per image
COMPBENCH_STANDARD_DEVIATIONS = {"numeracy": 0.30, "spatial_2d": 0.38, "spatial_3d": 0.35}
COMPBENCH_PROMPTS = 300
COMPBENCH_IMAGES = (10, 4, 1)


class NoiseAssumption(NamedTuple):
    """One assumed constant: its name, its value as a text, and its source."""

    name: str
    value: str
    source: str


TRAINING_SOURCE = "The FID Lottery (arXiv 2606.20536): gaps below 1.3% inconclusive, sd 1-2%"
OVERALL_SOURCE = "used where neither the row nor the baseline of its block has printed categories"
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
            "Precision", "binomial over 50,000 images", "radii assumed fixed; no training term"
        ),
    ),
    "recall": (
        NoiseAssumption(
            "Recall",
            "binomial over 10,000 reference images",
            "radii assumed fixed; no training term",
        ),
    ),
    "top1": (
        NoiseAssumption(
            "images that two models answer differently",
            "7% of 50,000",
            "sqrt(0.07 / 50,000) = 0.12 points, paired by image",
        ),
        NoiseAssumption(
            "training sd of top-1", "0.10 points", "from memory, no published measurement"
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
    """What a noise model says of one difference: z or p values by name, a verdict and a note."""

    test_statistics: dict[str, float]
    verdict: NoiseVerdict
    note: str = ""


@dataclass(frozen=True)
class PublishedDifference:
    """The difference of two printed numbers, the second minus the first.

    column: title of the column, or the metric's name where the two are of one row.
    group: the resolution, model or row that the two share; empty where the table ranks whole
        columns.
    first_label, second_label: titles of the two rows, or of the two columns of one row.
    test_statistics: z or p values by name.
    family: the differences whose p values are adjusted together, empty for none.
    cells: ids of both cells, TABLE/ROW/COLUMN.
    """

    noise_model: str
    column: str
    group: str
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
    """All differences of a table, the assumptions, and the columns without a noise model."""

    table: Table
    differences: tuple[PublishedDifference, ...]
    assumptions: tuple[NoiseAssumption, ...]
    columns_without_model: tuple[str, ...]
    evidence: str = PUBLISHED_EVIDENCE
    notes: tuple[str, ...] = field(default=())


def assess_differences(table: Table, tables: Sequence[Table] = ()) -> NoiseReport:
    """Return every difference of two cells that the table ranks together.

    Each has z or p values under the assumed noise.

    Args:
        tables: other tables, for rows of `table` that repeat a row of one of them.
    """
    differences: list[PublishedDifference] = []
    for a, b in ranked_pairs(table):
        noise_model = noise_model_name(a)
        if noise_model is not None:
            differences += _compare_pair(noise_model, a, b, tables)
    differences = _adjust_geneval_verdicts(differences)

    noise_models = dict.fromkeys(difference.noise_model for difference in differences)
    columns_without_model = dict.fromkeys(
        cell.column.title for cell in _cells_by_column(table) if noise_model_name(cell) is None
    )
    notes = [note for noise_model in noise_models for note in MODEL_NOTES[noise_model]]
    if "fid" in noise_models and "samples" not in table.protocol:
        notes.append(
            "The table does not state over how many images FID was computed; the sampling term is"
            " that of 50,000."
        )
    return NoiseReport(
        table,
        tuple(differences),
        tuple(a for noise_model in noise_models for a in NOISE_ASSUMPTIONS[noise_model]),
        tuple(columns_without_model),
        notes=tuple(notes),
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
            "Precision: z of the printed numbers, and the smallest z that the rounding of both"
            " cells allows; sampling only."
        ),
    ),
    "recall": (
        (
            "Recall: z of the printed numbers, and the smallest z that the rounding of both"
            " cells allows; sampling only."
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
    """Return the cells with a number, column by column."""
    return [
        PublishedCell(table, row, c, row.published[c.key])
        for c in table.columns
        for row in table.rows
        if c.key in row.published
    ]


def ranked_pairs(table: Table) -> Iterator[tuple[PublishedCell, PublishedCell]]:
    """Yield every pair of cells that the table ranks together, in printed order."""
    blocks: dict[tuple[str, str], list[PublishedCell]] = {}
    for cell in _cells_by_column(table):
        blocks.setdefault(table.block_key(cell.row, cell.column), []).append(cell)
    for block in blocks.values():
        yield from combinations(block, 2)


def noise_model_name(cell: PublishedCell) -> str | None:
    """Return the name of the noise model of a cell's metric, None where there is none."""
    evaluator = cell.column.evaluator
    metric = cell.column.metric_name
    if evaluator == "fidelity" and metric in ("fid", "is", "precision", "recall"):
        return metric
    if evaluator == "t2i-compbench":
        return "compbench" if metric in COMPBENCH_STANDARD_DEVIATIONS else None
    return {"top1": "top1", "geneval": "geneval", "dpg-bench": "dpg"}.get(evaluator or "")


def _compare_pair(
    noise_model: str, a: PublishedCell, b: PublishedCell, tables: Sequence[Table]
) -> Iterator[PublishedDifference]:
    """Yield the differences of a pair of cells: one, or two for GenEval overall scores."""
    if noise_model == "geneval":
        yield from _compare_geneval_pair(a, b, tables)
    else:
        yield _make_difference(noise_model, a, b, NOISE_MODELS[noise_model](a, b))


def _make_difference(
    noise_model: str, a: PublishedCell, b: PublishedCell, estimate: NoiseEstimate
) -> PublishedDifference:
    """Return the difference b - a of two cells, which share a row or a column."""
    if a.row is b.row:
        column = a.column.metric_name
        group = a.row.title
        labels = (a.column.title, b.column.title)
    else:
        column = a.column.title
        group = str(a.table.block_value(a.row))
        labels = (a.row.title, b.row.title)
    return PublishedDifference(
        noise_model=noise_model,
        column=column,
        group="" if a.table.block == "none" else group,
        first_label=labels[0],
        second_label=labels[1],
        printed_values=(a.text, b.text),
        delta=float(b.value - a.value),
        test_statistics=estimate.test_statistics,
        verdict=estimate.verdict,
        note=estimate.note,
        cells=(a.id, b.id),
    )


# -----------------------------------------------------------------------------------------------
# noise models


def fid_z(a: float, b: float, training_fraction: float) -> float:
    """Return z of the difference of two FIDs whose standard deviations are fractions of FID.

    z = (b - a) / (sqrt(a^2 + b^2) sqrt(sampling^2 + training^2)).

    Args:
        training_fraction: standard deviation of training as a fraction of FID; 0 for sampling
            alone.
    """
    relative_deviation = math.hypot(FID_SAMPLING_FRACTION, training_fraction)
    return (b - a) / (math.hypot(a, b) * relative_deviation)


def _estimate_fid(a: PublishedCell, b: PublishedCell) -> NoiseEstimate:
    """Return z of an FID difference with the usual, the high and no training noise."""
    z = fid_z(float(a.value), float(b.value), FID_TRAINING_FRACTION)
    cautious_z = fid_z(float(a.value), float(b.value), FID_TRAINING_FRACTION_HIGH)
    sampling_z = fid_z(float(a.value), float(b.value), 0.0)

    verdict: NoiseVerdict = "not resolved"
    if abs(z) > MIN_Z_RESOLVED and abs(cautious_z) > MIN_Z_LIKELY:
        verdict = "resolved"
    elif abs(z) > MIN_Z_LIKELY:
        verdict = "likely"
    statistics = {"z at 1.3%": z, "z at 2.0%": cautious_z, "sampling-only z": sampling_z}
    return NoiseEstimate(statistics, verdict)


def _z_verdict(z: float) -> NoiseVerdict:
    """Return the verdict on a z that includes training noise."""
    if abs(z) > MIN_Z_RESOLVED:
        return "resolved"
    return "likely" if abs(z) > MIN_Z_LIKELY else "not resolved"


def _sampling_verdict(lowest_z: float, highest_z: float) -> NoiseVerdict:
    """Return the verdict on a metric whose training noise is not known.

    Args:
        lowest_z, highest_z: z under the largest and under the smallest assumed sampling noise.
    """
    if abs(lowest_z) > MIN_Z_RESOLVED:
        return "beyond sampling"
    return "not resolved" if abs(highest_z) <= MIN_Z_LIKELY else "sampling borderline"


def _estimate_inception_score(a: PublishedCell, b: PublishedCell) -> NoiseEstimate:
    """Return z of an IS difference; the standard error of an IS is split sd / sqrt(10)."""
    value_a = float(a.value)
    value_b = float(b.value)

    def split_z(split_fraction: float) -> float:
        split_deviation = math.hypot(value_a, value_b) * split_fraction
        return (value_b - value_a) * math.sqrt(N_IS_SPLITS) / split_deviation

    lowest_z = split_z(IS_SPLIT_FRACTION_HIGH)
    highest_z = split_z(IS_SPLIT_FRACTION)
    statistics = {"z at 2.3%": lowest_z, "z at 0.8%": highest_z}
    return NoiseEstimate(statistics, _sampling_verdict(lowest_z, highest_z))


def _fraction_model(n_images: int) -> Callable[[PublishedCell, PublishedCell], NoiseEstimate]:
    """Return the noise model of a fraction of n images: the binomial distribution."""

    def estimate_fraction(a: PublishedCell, b: PublishedCell) -> NoiseEstimate:
        value_a = float(a.value)
        value_b = float(b.value)
        delta = value_b - value_a

        # SE^2 = (a (1 - a) + b (1 - b)) / n
        standard_error = math.sqrt((value_a * (1 - value_a) + value_b * (1 - value_b)) / n_images)

        # the smallest difference of two numbers that round to the printed ones
        rounding_error = float(half_unit(a.text) + half_unit(b.text))
        smallest_delta = max(0.0, round(abs(delta) - rounding_error, 12))
        smallest_delta = math.copysign(smallest_delta, delta) or 0.0

        z_printed = delta / standard_error
        z_smallest = smallest_delta / standard_error
        statistics = {"z before rounding": z_printed, "least z": z_smallest}
        return NoiseEstimate(statistics, _sampling_verdict(z_smallest, z_printed))

    return estimate_fraction


def _estimate_top1(a: PublishedCell, b: PublishedCell) -> NoiseEstimate:
    """Return z of a top-1 difference with and without training noise, paired by image."""
    delta = float(b.value - a.value)
    sampling_error = 100 * math.sqrt(TOP1_DISCORDANT_FRACTION / N_IMAGES)
    training_z = delta / math.hypot(sampling_error, math.sqrt(2) * TOP1_TRAINING_POINTS)
    statistics = {"z with training": training_z, "z without": delta / sampling_error}
    return NoiseEstimate(statistics, _z_verdict(training_z))


def _estimate_dpg(a: PublishedCell, b: PublishedCell) -> NoiseEstimate:
    """Return z of a DPG difference; SE = sd sqrt(2 (1 - correlation) / number of prompts)."""
    delta = float(b.value - a.value)

    def prompt_z(deviation: float, correlation: float) -> float:
        return delta / (deviation * math.sqrt(2 * (1 - correlation) / DPG_PROMPTS))

    favourable_z = prompt_z(*DPG_FAVOURABLE)
    middle_z = prompt_z(*DPG_MIDDLE)
    statistics = {"z, favourable": favourable_z, "z, middle": middle_z}
    return NoiseEstimate(statistics, _z_verdict(middle_z))


def compbench_standard_error(metric: str, n_images: int, has_new_prompts: bool = False) -> float:
    """Return the standard error of the difference of two models in a T2I-CompBench category.

    SE = sd sqrt(2 ((1 - rho) / images + rho) / prompts), with rho the within-prompt correlation.
    The term rho drops out where both models have the same prompts.

    Args:
        n_images: images per prompt.
        has_new_prompts: whether the prompts count as a random sample.
    """
    within_variance = (1 - WITHIN_PROMPT_CORRELATION) / n_images
    between_variance = WITHIN_PROMPT_CORRELATION if has_new_prompts else 0.0
    variance = 2 * (within_variance + between_variance) / COMPBENCH_PROMPTS
    return COMPBENCH_STANDARD_DEVIATIONS[metric] * math.sqrt(variance)


def _estimate_compbench(a: PublishedCell, b: PublishedCell) -> NoiseEstimate:
    """Return z of a T2I-CompBench difference for each possible number of images per prompt."""
    delta = float(b.value - a.value)
    z_by_count = {
        n_images: delta / compbench_standard_error(a.column.metric_name, n_images)
        for n_images in COMPBENCH_IMAGES
    }
    verdicts = {n_images: _z_verdict(z) for n_images, z in z_by_count.items()}
    statistics = {f"z, {n} image{'s' if n > 1 else ''}": z for n, z in z_by_count.items()}
    if len(set(verdicts.values())) == 1:
        return NoiseEstimate(statistics, verdicts[COMPBENCH_IMAGES[0]])
    note = ", ".join(f"{n_images}: {verdict}" for n_images, verdict in verdicts.items())
    return NoiseEstimate(statistics, "depends on images per prompt", note)


NOISE_MODELS: Mapping[str, Callable[[PublishedCell, PublishedCell], NoiseEstimate]] = {
    "fid": _estimate_fid,
    "is": _estimate_inception_score,
    "precision": _fraction_model(N_IMAGES),
    "recall": _fraction_model(N_REFERENCE_IMAGES),
    "top1": _estimate_top1,
    "dpg": _estimate_dpg,
    "compbench": _estimate_compbench,
}


# -----------------------------------------------------------------------------------------------
# GenEval


class StandardErrors(NamedTuple):
    """Standard errors of a difference under three assumptions.

    independent: all images are independent.
    clustered: images of one prompt are correlated, and the prompts are a random sample.
    paired: both models have the same prompts, which cancels the prompt term (best case).
    """

    independent: float
    clustered: float
    paired: float


def geneval_standard_errors(variance: float) -> StandardErrors:
    """Return the standard errors for the summed binomial variance of two numbers.

    The design effect of m images per prompt is 1 + (m - 1) rho, with the within-prompt correlation
    rho. Pairing by prompt leaves 1 - rho.
    """
    design_effect = 1 + (GENEVAL_IMAGES_PER_PROMPT - 1) * WITHIN_PROMPT_CORRELATION
    return StandardErrors(
        math.sqrt(variance),
        math.sqrt(variance * design_effect),
        math.sqrt(variance * (1 - WITHIN_PROMPT_CORRELATION)),
    )


def _variance(cell: PublishedCell, tables: Sequence[Table]) -> float | None:
    """Return the binomial variance of a category score, or of an overall from its categories.

    None where no categories are printed.
    """
    if n_images := cell.column.n_images:
        return _binomial_variance(float(cell.value), n_images)
    overall_cell = _cell_with_categories(cell, tables)
    if overall_cell is None:
        return None

    # variance of the unweighted mean of k categories: sum of their variances / k^2
    category_columns = averaged_columns(overall_cell.table, overall_cell.column)
    variances = [
        _binomial_variance(
            float(leading_number(overall_cell.row.published[column.key])), column.n_images or 1
        )
        for column in category_columns
    ]
    return sum(variances) / len(category_columns) ** 2


def _binomial_variance(fraction: float, n: int) -> float:
    """Return p (1 - p) / n, the variance of a fraction p of n images."""
    return fraction * (1 - fraction) / n


def _cell_with_categories(cell: PublishedCell, tables: Sequence[Table]) -> PublishedCell | None:
    """Return the overall cell whose row prints the categories, None where there is none.

    It is the cell itself, the cell that it repeats, or the cell that its baseline repeats.
    """
    if averaged_columns(cell.table, cell.column):
        return cell
    repeated_row = cell.row.repeated_row
    baseline = cell.table.baseline_row(cell.row, "paper")
    if repeated_row is None and baseline is not None:
        repeated_row = baseline.repeated_row

    for table in tables:
        for row in table.rows:
            if repeated_row == f"{table.id}/{row.id}":
                overall_columns = [c for c in table.columns if averaged_columns(table, c)]
                if not overall_columns:
                    return None
                column = overall_columns[0]
                return PublishedCell(table, row, column, row.published[column.key])
    return None


def _geneval_pair_errors(
    a: PublishedCell, b: PublishedCell, tables: Sequence[Table]
) -> StandardErrors:
    """Return the standard errors of a GenEval difference.

    Without printed categories, they are those of two overall scores near 0.76.
    """
    variance_a = _variance(a, tables)
    variance_b = _variance(b, tables)
    if variance_a is None or variance_b is None:
        design_effect = 1 + (GENEVAL_IMAGES_PER_PROMPT - 1) * WITHIN_PROMPT_CORRELATION
        independent = OVERALL_UNPAIRED / math.sqrt(design_effect)
        return StandardErrors(independent, OVERALL_UNPAIRED, OVERALL_PAIRED)
    return geneval_standard_errors(variance_a + variance_b)


def _estimate_geneval(delta: float, errors: StandardErrors) -> NoiseEstimate:
    """Return p and z of a GenEval difference; its verdict is set by _adjust_geneval_verdicts."""
    statistics = {
        "p independent": two_sided_p(delta / errors.independent),
        "p clustered": two_sided_p(delta / errors.clustered),
        "p paired at best": two_sided_p(delta / errors.paired),
        "z clustered": delta / errors.clustered,
        "z paired at best": delta / errors.paired,
    }
    return NoiseEstimate(statistics, "not resolved")


def _compare_geneval_pair(
    a: PublishedCell, b: PublishedCell, tables: Sequence[Table]
) -> Iterator[PublishedDifference]:
    """Yield the difference as printed and, for overall scores, that of the categories' means."""
    errors = _geneval_pair_errors(a, b, tables)
    estimate = _estimate_geneval(float(b.value - a.value), errors)
    difference = _make_difference("geneval", a, b, estimate)
    yield replace(difference, family="categories" if a.column.n_images else "as printed")

    mean_a = _category_mean(a)
    mean_b = _category_mean(b)
    if mean_a is not None and mean_b is not None:
        recomputed_estimate = _estimate_geneval(mean_b - mean_a, errors)
        yield replace(
            difference,
            column=f"{difference.column}, recomputed",
            printed_values=(f"{mean_a:.4f}", f"{mean_b:.4f}"),
            delta=mean_b - mean_a,
            test_statistics=recomputed_estimate.test_statistics,
            family="recomputed",
        )


def _category_mean(cell: PublishedCell) -> float | None:
    """Return the mean of the printed categories of an overall score, None where one is missing."""
    category_columns = averaged_columns(cell.table, cell.column)
    if not category_columns or any(
        column.key not in cell.row.published for column in category_columns
    ):
        return None
    return float(
        sum(leading_number(cell.row.published[column.key]) for column in category_columns)
        / len(category_columns)
    )


def _adjust_geneval_verdicts(
    differences: Sequence[PublishedDifference],
) -> list[PublishedDifference]:
    """Return the differences, those of GenEval with Holm-adjusted p values and their verdicts.

    GenEval's differences are those with a family. The two p values (clustered by prompt, and paired
    by prompt at the most favourable correlation) are adjusted within each family.
    """
    adjusted_differences = list(differences)
    for family in dict.fromkeys(
        difference.family for difference in adjusted_differences if difference.family
    ):
        indices = [
            i for i, difference in enumerate(adjusted_differences) if difference.family == family
        ]
        clustered_p_values = holm_adjust(
            [adjusted_differences[i].test_statistics["p clustered"] for i in indices]
        )
        paired_p_values = holm_adjust(
            [adjusted_differences[i].test_statistics["p paired at best"] for i in indices]
        )
        for i, p_clustered, p_paired in zip(
            indices, clustered_p_values, paired_p_values, strict=True
        ):
            adjusted_differences[i] = _with_adjusted_p(
                adjusted_differences[i], p_clustered, p_paired
            )
    return adjusted_differences


def _with_adjusted_p(
    difference: PublishedDifference, p_clustered: float, p_paired: float
) -> PublishedDifference:
    """Return a GenEval difference with its adjusted p values and the verdict that follows."""
    verdict: NoiseVerdict = "not resolved"
    if p_clustered < ALPHA:
        verdict = "resolved"
    elif p_paired < ALPHA:
        verdict = "likely"
    adjusted_p_values = {"Holm clustered": p_clustered, "Holm paired": p_paired}
    test_statistics = {**difference.test_statistics, **adjusted_p_values}
    return replace(difference, verdict=verdict, test_statistics=test_statistics)
