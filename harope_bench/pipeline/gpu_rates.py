"""Seconds of a GPU for generating and for judging an image: inferred ones, or measured ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from harope_bench.core.errors import OptionError
from harope_bench.core.json_file import parse_json
from harope_bench.core.limits import MAX_RESOLUTION, MAX_STEPS
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.storage import read_if_present
from harope_bench.core.toml_file import read_toml

RATES_FILE = Path(__file__).with_name("gpu_rates.toml")
MAX_SECONDS = 1e6  # for one image
Precision = Literal["float32", "tf32", "bfloat16"]


class GenerationRate(Record):
    """Seconds for an image of a backbone at one resolution and number of steps, by precision."""

    backbone: str
    resolution: int = Field(gt=0, le=MAX_RESOLUTION)
    steps: int = Field(gt=0, le=MAX_STEPS)
    float32: float | None = Field(default=None, gt=0, le=MAX_SECONDS)
    tf32: float | None = Field(default=None, gt=0, le=MAX_SECONDS)
    bfloat16: float | None = Field(default=None, gt=0, le=MAX_SECONDS)

    def seconds(self, precision: Precision) -> float | None:
        """Return the seconds in a precision; None if they are not known."""
        return {"float32": self.float32, "tf32": self.tf32, "bfloat16": self.bfloat16}[precision]


class JudgingRate(Record):
    """Seconds for what an evaluator's judges do with an image."""

    evaluator: str
    seconds: float = Field(gt=0, le=MAX_SECONDS)


class GpuRates(Record):
    """The rates of one kind of GPU, and where they come from."""

    gpu: str
    source: str
    generation: tuple[GenerationRate, ...] = ()
    judging: tuple[JudgingRate, ...] = ()

    def generation_seconds(
        self, backbone: str, resolution: int, steps: int | None, precision: Precision
    ) -> float | None:
        """Return the seconds for an image; None if nothing is known of the backbone.

        Time is proportional to the steps, and between resolutions to the pixels.
        """
        rates = [
            (rate, seconds)
            for rate in self.generation
            if rate.backbone == backbone and (seconds := rate.seconds(precision)) is not None
        ]
        if not rates:
            return None
        rate, seconds = min(rates, key=lambda pair: abs(math.log(pair[0].resolution / resolution)))
        pixel_ratio = (resolution / rate.resolution) ** 2
        return seconds * pixel_ratio * (steps or rate.steps) / rate.steps

    def judging_seconds(self, evaluators: tuple[str, ...]) -> float | None:
        """Return the seconds that the evaluators' judges need for an image; None if unknown."""
        seconds_by_evaluator = {rate.evaluator: rate.seconds for rate in self.judging}
        known = [seconds_by_evaluator[name] for name in evaluators if name in seconds_by_evaluator]
        return sum(known) if known else None


def load_rates(path: Path | None = None) -> GpuRates:
    """Return the rates of a file of benchmarks/gpu_check.py, completed by the inferred ones.

    A rate that the file has replaces the inferred one of that backbone and resolution, or of that
    evaluator.

    Raises:
        OptionError: The file is missing or has no rates.
    """
    inferred = GpuRates.model_validate(read_toml(RATES_FILE))
    if path is None:
        return inferred
    try:
        contents = parse_json(read_if_present(path) or b"")
        measured = GpuRates.model_validate(contents["rates"])
    except (ValueError, KeyError, TypeError) as error:
        reason = "no JSON object with `rates`"
        if isinstance(error, ValidationError):
            reason = validation_summary(error)
        raise OptionError(
            f"--rates {path}: {reason}; give the file that benchmarks/gpu_check.py wrote"
        ) from error

    measured_keys = {(rate.backbone, rate.resolution) for rate in measured.generation}
    measured_evaluators = {rate.evaluator for rate in measured.judging}
    generation = [
        rate
        for rate in inferred.generation
        if (rate.backbone, rate.resolution) not in measured_keys
    ]
    judging = [rate for rate in inferred.judging if rate.evaluator not in measured_evaluators]
    return GpuRates(
        gpu=measured.gpu,
        source=f"measured by {path}; where it has no rate: {inferred.gpu}, {inferred.source}",
        generation=(*measured.generation, *generation),
        judging=(*measured.judging, *judging),
    )
