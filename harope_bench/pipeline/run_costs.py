"""What runs cost before they start: images, GPU hours, wall time and disk.

`reproduce --dry-run` and `plan --gpus` print this estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harope_bench.core.schema import Plan
from harope_bench.data.run_folder import RunFolder
from harope_bench.leaderboards.match_runs import is_checkpoint_of_cell
from harope_bench.leaderboards.table_spec import Column, Row, Table
from harope_bench.models.load_checkpoint import SettingValue, load_checkpoint_record
from harope_bench.pipeline.gpu_rates import GpuRates, Precision
from harope_bench.statistics.compare import align_columns
from harope_bench.suites.base import ClassificationSuite, load_suite

RAW_BYTES_PER_PIXEL = 3  # of an uncompressed image, which a PNG does not exceed by much
# Features of an image: Inception's three arrays in float32.
FEATURE_BYTES = 4 * (2048 + 2023 + 1008)
# Backbones whose checkpoints are registered with bfloat16, for rows without a checkpoint.
BFLOAT16_BACKBONES = ("flux", "sd3")


@dataclass(frozen=True)
class RunCost:
    """The cost of one run.

    Attributes:
        label: Table and row.
        checkpoint: Name of the registered checkpoint; None if none fits the row.
        n_images: Images of the whole run.
        n_missing: Images that are not generated yet.
        generation_seconds: Of a GPU, for the missing images; None if no rate is known.
        judging_seconds: Of a GPU, for all images; None if no rate is known.
        disk_bytes: Of the missing images, uncompressed, and of features.
    """

    label: str
    checkpoint: str | None
    suite: str
    resolution: int
    precision: Precision
    n_images: int
    n_missing: int
    generation_seconds: float | None
    judging_seconds: float | None
    disk_bytes: float

    @property
    def seconds(self) -> float:
        """Return the known GPU seconds of generating and judging."""
        return (self.generation_seconds or 0.0) + (self.judging_seconds or 0.0)


@dataclass(frozen=True)
class CostEstimate:
    """The cost of several runs on a number of GPUs, and where the rates come from."""

    runs: tuple[RunCost, ...]
    n_gpus: int
    rates_text: str

    @property
    def n_missing(self) -> int:
        """Return the images that are not generated yet."""
        return sum(run.n_missing for run in self.runs)

    @property
    def gpu_hours(self) -> float:
        """Return the known GPU hours."""
        return sum(run.seconds for run in self.runs) / 3600

    @property
    def wall_hours(self) -> float:
        """Return the hours on all GPUs, if every stage is shared among them."""
        return self.gpu_hours / self.n_gpus

    @property
    def disk_bytes(self) -> float:
        """Return the bytes that are still to be written."""
        return sum(run.disk_bytes for run in self.runs)


def estimate_plan(
    label: str, plan: Plan, n_images: int, folder: Path | None, rates: GpuRates
) -> RunCost:
    """Return the cost of a run with a plan, without the images that its folder has."""
    settings = plan.settings
    # Shipped rates are of the paper's networks.
    rates = rates if plan.checkpoint.scale == "paper" else GpuRates(gpu="-", source="-")
    precision: Precision = "float32"
    if settings.dtype != "float32":
        precision = "bfloat16"  # float16 takes the same time
    elif settings.tf32:
        precision = "tf32"
    return _run_cost(
        label,
        plan.checkpoint.name,
        plan.checkpoint.backbone,
        plan.suite,
        settings.resolution,
        settings.steps,
        precision,
        n_images,
        _count_missing(folder, n_images) if folder else n_images,
        rates,
    )


def _count_missing(folder: Path, n_images: int) -> int:
    return len(RunFolder(folder).missing_indices(range(n_images)))


def _run_cost(
    label: str,
    checkpoint: str | None,
    backbone: str,
    suite_name: str,
    resolution: int,
    steps: int | None,
    precision: Precision,
    n_images: int,
    n_missing: int,
    rates: GpuRates,
) -> RunCost:
    suite = load_suite(suite_name)
    is_classified = isinstance(suite, ClassificationSuite)
    seconds = rates.generation_seconds(backbone, resolution, steps, precision)
    judging_seconds = rates.judging_seconds(tuple(suite.evaluators))
    image_bytes = 0 if is_classified else RAW_BYTES_PER_PIXEL * resolution**2
    return RunCost(
        label=label,
        checkpoint=checkpoint,
        suite=suite_name,
        resolution=resolution,
        precision=precision,
        n_images=n_images,
        n_missing=n_missing,
        generation_seconds=None if seconds is None else seconds * n_missing,
        judging_seconds=None if judging_seconds is None else judging_seconds * n_images,
        disk_bytes=image_bytes * n_missing + FEATURE_BYTES * n_images,
    )


def estimate_rows_without_checkpoint(
    tables: Iterable[Table],
    count: int | None,
    rates: GpuRates,
    overrides: Mapping[str, SettingValue],
    checkpoint_names: Sequence[str] = (),
) -> list[RunCost]:
    """Return the cost of the rows of the paper that none of the checkpoints fits, each once.

    A row that repeats one of another of these tables is left out, as are columns of one run.

    Args:
        count: Images of each run; None for the suite's count.
        overrides: Settings of the runs, by name.
        checkpoint_names: Registered checkpoints.
    """
    tables = list(tables)
    table_ids = {table.id for table in tables}
    checkpoints = [load_checkpoint_record(name) for name in checkpoint_names]
    costs: dict[object, RunCost] = {}
    for table in tables:
        for row in table.rows:
            if row.repeated_row and row.repeated_row.split("/")[0] in table_ids:
                continue
            for column in table.columns:
                suite_name = table.suite_name(row, column)
                has_checkpoint = any(
                    checkpoint.scale == "paper"
                    and is_checkpoint_of_cell(table, row, column, checkpoint)
                    for checkpoint in checkpoints
                )
                is_measured = column.measured_on == "images" and column.key in row.published
                if suite_name is None or not is_measured or has_checkpoint:
                    continue
                key = (*_network_key(table, row, column), suite_name, _side(table, row, suite_name))
                if key not in costs:
                    costs[key] = _row_cost(table, row, column, suite_name, count, rates, overrides)
    return list(costs.values())


def _network_key(table: Table, row: Row, column: Column) -> tuple[object, ...]:
    """Return what tells the network of a cell from those of other cells."""
    criteria = (table.paper_scale, column, row)
    options = {name: value for item in criteria for name, value in item.options.items()}
    config = {name: value for item in criteria for name, value in item.config.items()}
    encoding = row.encoding or column.encoding or table.paper_scale.encoding
    options_key = tuple(sorted(options.items()))
    return _backbone(table, row), encoding, options_key, config.get("hidden"), row.training_steps


def _backbone(table: Table, row: Row) -> str:
    return row.backbone or table.paper_scale.backbone or "unknown"


def _side(table: Table, row: Row, suite_name: str) -> int:
    """Return the side of the images in pixels: the row's, the protocol's or the suite's."""
    protocol_side = table.protocol.get("resolution")
    side = protocol_side if isinstance(protocol_side, int) else None
    return row.resolution or side or load_suite(suite_name).resolution


def _row_cost(
    table: Table,
    row: Row,
    column: Column,
    suite_name: str,
    count: int | None,
    rates: GpuRates,
    overrides: Mapping[str, SettingValue],
) -> RunCost:
    backbone = _backbone(table, row)
    suite_count = load_suite(suite_name).count
    n_images = suite_count if count is None else min(count, suite_count)
    encoding = row.encoding or column.encoding or table.paper_scale.encoding
    return _run_cost(
        f"{table.display_name} {row.id} ({encoding})",
        None,
        backbone,
        suite_name,
        _side(table, row, suite_name),
        None,
        _precision(backbone, suite_name, overrides),
        n_images,
        n_images,
        rates,
    )


def _precision(backbone: str, suite_name: str, overrides: Mapping[str, SettingValue]) -> Precision:
    """Return the precision of a row without checkpoint, from the user's settings."""
    dtype = overrides.get("dtype") or ("bfloat16" if backbone in BFLOAT16_BACKBONES else "float32")
    if dtype != "float32":
        return "bfloat16"
    preset = load_suite(suite_name).presets.get(str(overrides.get("preset")), {})
    tf32 = overrides.get("tf32")
    return "tf32" if (preset.get("tf32") if tf32 is None else tf32) else "float32"


def cost_lines(estimate: CostEstimate, missing: Sequence[str] = ()) -> list[str]:
    """Return an estimate as lines of text, one for each run.

    Args:
        missing: What the runs need and is missing, in words.
    """
    header = ("run", "checkpoint", "suite", "side", "precision", "images", "missing", "GPU hours")
    rows = [
        (
            run.label,
            run.checkpoint or "not registered",
            run.suite,
            str(run.resolution),
            run.precision,
            f"{run.n_images:,}",
            f"{run.n_missing:,}",
            _hours_text(run),
        )
        for run in estimate.runs
    ]
    unknown = [run.label for run in estimate.runs if run.generation_seconds is None]
    lines = [*align_columns([header, *rows]), ""]
    lines.append(
        f"{len(estimate.runs)} runs, {estimate.n_missing:,} images to generate,"
        f" {estimate.gpu_hours:,.0f} GPU hours of {estimate.rates_text}"
    )
    lines.append(
        f"on {estimate.n_gpus} GPUs: {_duration_text(estimate.wall_hours)} if every stage is shared"
        f" among them; at most {bytes_text(estimate.disk_bytes)} of disk"
    )
    if unknown:
        lines.append(f"without a rate, so not counted: {len(unknown)} runs, {unknown[0]} first")
    return [*lines, *(f"missing: {text}" for text in missing)]


def _hours_text(run: RunCost) -> str:
    """Return the hours of generating and judging; "?" where no rate is known."""
    texts = [
        "?" if seconds is None else f"{seconds / 3600:.1f}"
        for seconds in (run.generation_seconds, run.judging_seconds)
    ]
    return f"{texts[0]} + {texts[1]} judging"


def bytes_text(count: float) -> str:
    """Return a number of bytes with its unit, such as 1.4 TB."""
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration_text(hours: float) -> str:
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"


def cost_fields(estimate: CostEstimate, missing: Sequence[str] = ()) -> dict[str, object]:
    """Return an estimate as plain JSON values."""
    return {
        "runs": [vars(run) for run in estimate.runs],
        "gpus": estimate.n_gpus,
        "rates": estimate.rates_text,
        "images": estimate.n_missing,
        "gpu_hours": estimate.gpu_hours,
        "wall_hours": estimate.wall_hours,
        "disk_bytes": estimate.disk_bytes,
        "missing": list(missing),
    }
