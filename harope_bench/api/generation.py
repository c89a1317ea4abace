"""`generate`: images of a checkpoint, a Python callable or a loaded pipeline, in a run folder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from harope_bench.api.generators import (
    Generator,
    as_generator,
    generator_record,
    open_python_generator,
)
from harope_bench.api.html import table_html, thumbnails_html, title_html
from harope_bench.api.packages import require_torch
from harope_bench.core.device import require_device
from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.index_ranges import MAX_INDICES, IndexRanges
from harope_bench.core.limits import check_maximum
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Plan, SampleRecord
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import open_samples
from harope_bench.models.load_checkpoint import check_settings
from harope_bench.pipeline.eval_options import GenerationOptions
from harope_bench.pipeline.generate import (
    generate as generate_samples,
)
from harope_bench.pipeline.generate import (
    label_policy,
    make_plan,
    preset_settings,
    requested_indices,
    validate_settings,
)
from harope_bench.suites.base import load_suite
from harope_bench.suites.prompt_files import resolve_suite_name

SHOWN_IMAGES = 8  # images that a notebook shows of a run


@dataclass(frozen=True)
class Run:
    """A run folder: its plan and its generated images.

    Attributes:
        path: The folder.
        plan: Checkpoint, suite and settings.
    """

    path: Path
    plan: Plan

    @property
    def records(self) -> dict[int, SampleRecord]:
        """Return the records of the samples by index: file, sha256, label or prompt, status."""
        records = RunFolder(self.path).read_records()
        return {index: records[index] for index in sorted(records)}

    @property
    def count(self) -> int:
        """Return the number of requested samples, failed ones included."""
        return len(RunFolder(self.path).requested_indices())

    def images(self) -> Iterator[np.ndarray]:
        """Yield the images (H, W, 3) uint8 in the order of their indices, without failed samples.

        Raises:
            SampleError: An image is missing or altered.
        """
        samples = open_samples(self.path)
        return (samples.image(index) for index in samples.indices)

    def __repr__(self) -> str:
        """Return path, checkpoint, suite and number of samples."""
        checkpoint = self.plan.checkpoint.name
        return f"Run({str(self.path)!r}: {checkpoint}, {self.plan.suite}, {self.count:,} samples)"

    def _repr_html_(self) -> str:
        """Return the plan as a table and the first images, for a notebook."""
        settings = self.plan.settings
        fields_by_name: dict[str, object] = {
            "checkpoint": self.plan.checkpoint.name,
            "encoding": self.plan.checkpoint.encoding,
            "suite": self.plan.suite,
            "samples": self.count,
            "resolution": settings.resolution,
            "seed": settings.seed,
            "sampler": settings.sampling_text,
            "plan": self.plan.digest[:12],
        }
        try:
            thumbnails = thumbnails_html(itertools.islice(self.images(), SHOWN_IMAGES))
        except SampleError as error:
            thumbnails = title_html(str(error))
        return (
            title_html(str(self.path))
            + table_html([*fields_by_name], [fields_by_name])
            + (thumbnails)
        )


def generate(
    generator: str | Generator | Any,  # Any: a pipeline of a library that may be missing
    suite: str | None = None,
    *,
    out: str | os.PathLike[str],
    count: int | None = None,
    batch: int | None = None,
    **settings: Option | None,
) -> Run:
    """Generate the missing images of a suite into a run folder, and return the run.

    An interrupted call resumes when it is repeated, and a finished one does nothing.

    Args:
        generator: Name of a registered checkpoint, a `Generator`, or a loaded diffusers
            pipeline.
        suite: Name of the suite, or `prompts:FILE` for prompts of your own. None takes the
            checkpoint's default; a Python generator has none.
        out: The run folder. It is tied to the plan.
        count: Number of samples. None takes the suite's number.
        batch: Samples generated between two writes; it changes no pixel.
        settings: Options of `harope-bench generate` with underscores, such as seed, steps,
            guidance, sampler, resolution, labels, device and dtype.

    Raises:
        MissingExtraError: The generator needs torch, which is not installed.
        UnknownNameError: No checkpoint or suite has this name.
        OptionError: A setting does not apply.
        PlanMismatchError: The folder belongs to another plan. The message names every field.
        GeneratorOutputError: The generator returned something else than the images asked for.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> def gray(requests, generators):
        ...     side = requests[0].resolution
        ...     shape = (side, side, 3)
        ...     return np.stack([np.full(shape, 20 * r.label, np.uint8) for r in requests])
        >>> model = Generator(gray, name="gray", version="1", batch_size=5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = generate(model, "digits", count=10, out=folder)
        ...     (run.count, next(run.images()).shape)
        (10, (28, 28, 3))
    """
    folder = Path(out)
    check_count(count)
    suite = None if suite is None else resolve_suite_name(suite)
    overrides = generation_options(settings).overrides()
    if isinstance(generator, str):
        require_torch("generation with a checkpoint")
        plan = make_plan(generator, suite, overrides)
        loaded_generator = None
    else:
        python_generator = as_generator(generator)
        plan = make_python_plan(python_generator, suite, overrides)
        loaded_generator = open_python_generator(python_generator, plan.suite)
    generate_samples(plan, _indices(plan, count), folder, batch, loaded_generator)
    return Run(folder, plan)


def _indices(plan: Plan, count: int | None) -> IndexRanges:
    return requested_indices(plan.suite, count)


def check_count(count: int | None) -> None:
    """Raise OptionError unless `count`, a number of samples, is None or at least 1."""
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"count {count!r} is no number of samples; give 1 or more")
    check_maximum("count", count, MAX_INDICES)


def generation_options(settings: dict[str, Option | None]) -> GenerationOptions:
    """Return the settings of a call as a record.

    Raises:
        OptionError: A name is no setting. The message lists the settings.
    """
    names = [field.name for field in fields(GenerationOptions)]
    for name in settings:
        if name not in names:
            raise OptionError(f"{name} is no setting of generation; settings: {', '.join(names)}")
    values: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    return GenerationOptions(**values)


def make_python_plan(
    generator: Generator, suite: str | None, overrides: dict[str, Option | None]
) -> Plan:
    """Return the plan of a Python generator.

    Args:
        overrides: Settings by name, as `GenerationOptions.overrides` returns them.

    Raises:
        UnknownNameError: There is no such suite.
        OptionError: No suite is given, or a setting does not apply.
    """
    if suite is None:
        raise OptionError(f"generator {generator.name} has no default suite; give suite=...")
    plugin = load_suite(suite)
    checkpoint = generator_record(generator, suite)

    # Later settings win: defaults, then the preset, then those of the call.
    settings = {name: value for name, value in overrides.items() if value is not None}
    device = None if settings.get("device") == "cpu" else settings.get("device")
    preset_name = settings.pop("preset", None)
    preset = preset_settings(suite, plugin, None if preset_name is None else str(preset_name))
    values: dict[str, Option | None] = {
        "resolution": plugin.resolution,
        "tile": generator.batch_size,
        **preset,
        **settings,
    }
    if generator.is_pipeline:
        pipeline_device = str(generator.call.device.type)
        if device is not None and device != pipeline_device:
            raise OptionError(
                f"pipeline {generator.name} is on {pipeline_device}, device {device} asked for;"
                " move the pipeline there, and leave device out"
            )
        values["device"] = pipeline_device
    check_settings(checkpoint, values)
    requested_labels = values.get("labels")
    values["labels"] = label_policy(
        suite, plugin, None if requested_labels is None else str(requested_labels)
    )
    plan_settings = validate_settings(values)
    require_device(plan_settings.device)
    return Plan(
        checkpoint=checkpoint,
        suite=suite,
        suite_version=plugin.version,
        settings=plan_settings,
        preset=None if preset_name is None else str(preset_name),
    )
