"""Conversion of samples between run folder, image folder, npz and the official layouts."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.data.run_folder import PLAN_FILE, RunFolder
from harope_bench.data.sample_set import SampleSet, open_samples, write_adm_npz, write_png_folder
from harope_bench.suites.base import PromptSuite, load_suite
from harope_bench.suites.official_layouts.base import (
    WriteReport,
    find_layout,
    load_layout,
    module_names,
    write_layout,
)
from harope_bench.suites.official_layouts.file_list import has_image_record, write_recorded_images
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)

IMAGE_FORMATS = ("adm", "png")  # formats for images of any suite


def convert(
    source: Path,
    target: Path,
    to: str,
    suite_name: str | None = None,
    count: int | None = None,
    folder_options: PromptFolderOptions | None = None,
    replace: bool = False,
) -> tuple[WriteReport, int]:
    """Write the samples of `source` to `target`; return the report and the number of failed ones.

    The report has the warnings of reading and of writing.

    Args:
        to: `adm`, `png` or the name of a layout.
        suite_name: suite of the prompts, where the source does not determine it.
        count: number of the first samples to write; None writes all.
        folder_options: which image of the source belongs to which prompt.
        replace: overwrite an .npz with other contents.

    Raises:
        OptionError: The prompts of the images are needed and unknown, or an option does not apply.
        SampleError: The source has no such images, or `target` exists.
    """
    folder_options = folder_options or PromptFolderOptions()
    suite_name = _find_suite_name(source, to, suite_name, folder_options)
    suite = load_suite(suite_name) if suite_name is not None else None
    if suite_name is not None and isinstance(suite, PromptSuite):
        samples = open_prompt_images(source, suite_name, suite, count, folder_options)
        report = _write_prompts(samples, target, to, suite, suite_name, replace)
    else:
        samples = open_samples(source, count)
        report = _write_without_prompts(samples, target, to, replace)
    warnings = (*samples.warnings, *report.warnings)
    return WriteReport(report.image_count, warnings), samples.n_excluded


def _find_suite_name(
    source: Path, to: str, suite_name: str | None, folder_options: PromptFolderOptions
) -> str | None:
    """Return the suite of a plan, of the user or of a layout, None for images without prompts.

    Raises:
        OptionError: The options contradict the source, or a suite is needed and not given.
    """
    plan = RunFolder(source).plan if (source / PLAN_FILE).exists() else None
    if plan is not None:
        if suite_name not in (None, plan.suite):
            raise OptionError(
                f"{source} was generated for suite {plan.suite}, not for {suite_name}; leave"
                " --suite out"
            )
        if folder_options.stated_options:
            raise OptionError(
                f"{source} is a run folder, which records its order; leave"
                f" {' and '.join(folder_options.stated_options)} out"
            )
        return plan.suite if plan.suite in registry.list_entries("suites") else None
    if suite_name is not None:
        registry.find_entry("suites", suite_name)
        return suite_name

    layout = find_layout(source)
    if layout is not None and not folder_options.prompt_options:
        return layout.SUITE
    if to not in IMAGE_FORMATS:
        return load_layout(to).SUITE
    if folder_options.stated_options or (to == "png" and has_image_record(source)):
        options = folder_options.stated_options
        assignment = options[0] if options else f"the record in {source}"
        raise OptionError(
            f"{assignment} assigns images to the prompts of a suite, and no suite is given; give"
            " --suite NAME"
        )
    return None


def _write_prompts(
    samples: SampleSet, target: Path, to: str, suite: PromptSuite, suite_name: str, replace: bool
) -> WriteReport:
    """Write samples of a suite of prompts in the format or layout `to`."""
    if to == "png":
        return write_recorded_images(samples, suite, target)
    if to == "adm":
        return _write_rows(samples, target, replace)
    return write_layout(samples, to, target, suite_name)


def _write_rows(samples: SampleSet, target: Path, replace: bool) -> WriteReport:
    """Write an npz; its rows are indices only where no sample before the last one is missing."""
    write_adm_npz(samples, target, replace)
    n_samples = len(samples.indices)
    warning = "rows are in the order of indices; read them back with --order copy-major"
    if samples.indices != list(range(n_samples)):
        warning = (
            "rows are no indices, since samples are missing; do not score prompts from it, convert"
            " --to png instead"
        )
    return WriteReport(n_samples, (warning,))


def _write_without_prompts(samples: SampleSet, target: Path, to: str, replace: bool) -> WriteReport:
    """Write samples without prompts; raise OptionError for a layout, which needs prompts."""
    if to not in IMAGE_FORMATS:
        origin = "has images without prompts"
        if samples.plan:
            origin = f"was generated for suite {samples.plan.suite}"
        raise OptionError(
            f"{samples.path} {origin}, the layout {to} is of {load_layout(to).SUITE}; choose"
            " another --to"
        )
    if to == "adm":
        write_adm_npz(samples, target, replace)
    else:
        write_png_folder(samples, target)
    return WriteReport(len(samples.indices), warnings=())


def output_formats() -> tuple[str, ...]:
    """Return the names of all formats and layouts that can be written."""
    return (*IMAGE_FORMATS, *module_names())
