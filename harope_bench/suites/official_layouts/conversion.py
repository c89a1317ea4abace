"""Convert samples from one form to another: run folder, image folder, npz, and the folders of the
official benchmarks.
"""

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

IMAGE_FORMATS = ("adm", "png")  # that hold images of any suite


def convert(
    source: Path,
    target: Path,
    to: str,
    suite_name: str | None = None,
    count: int | None = None,
    form: PromptFolderOptions | None = None,
    replace: bool = False,
) -> tuple[WriteReport, int]:
    """Write the samples of `source` at `target`; return what was written, with all warnings, and
    how many samples failed.

    Args:
        to: `adm`, `png` or a layout.
        replace: Write over an .npz that holds something else.
        suite_name: Of the prompts, where the source does not show it.

    Raises:
        OptionError: Which image is of which prompt is needed and not known, or an option means
            nothing here.
        SampleError: No such images, or something lies at `target` already.
    """
    suite_name = _find_suite_name(source, to, suite_name, form or PromptFolderOptions())
    suite = load_suite(suite_name) if suite_name is not None else None
    if suite_name is not None and isinstance(suite, PromptSuite):
        samples = open_prompt_images(source, suite_name, suite, count, form)
        done = _write_prompts(samples, target, to, suite, suite_name, replace)
    else:
        samples = open_samples(source, count)
        done = _write_without_prompts(samples, target, to, replace)
    return WriteReport(done.image_count, (*samples.warnings, *done.warnings)), samples.n_excluded


def _find_suite_name(
    source: Path, to: str, suite_name: str | None, form: PromptFolderOptions
) -> str | None:
    """Return the suite that a run records, the user names, or a layout is of; None for images of no
    known prompts.
    """
    plan = RunFolder(source).plan if (source / PLAN_FILE).exists() else None
    if plan is not None:
        if suite_name not in (None, plan.suite):
            raise OptionError(
                f"{source} was drawn for suite {plan.suite}, asked for {suite_name}; leave"
                " --suite out"
            )
        if form.stated_options:
            raise OptionError(
                f"{source} is a run folder, which records its order; leave"
                f" {' and '.join(form.stated_options)} out"
            )
        return plan.suite if plan.suite in registry.list_entries("suites") else None
    if suite_name is not None:
        registry.find_entry("suites", suite_name)
        return suite_name

    known = find_layout(source)
    if known is not None and not form.prompt_options:
        return known.SUITE
    if to not in IMAGE_FORMATS:
        return load_layout(to).SUITE
    if form.stated_options or (to == "png" and has_image_record(source)):
        what = form.stated_options[0] if form.stated_options else f"the record in {source}"
        raise OptionError(
            f"{what} places images at the prompts of a suite, and none is named; give --suite NAME"
        )
    return None


def _write_prompts(
    samples: SampleSet, target: Path, to: str, suite: PromptSuite, suite_name: str, replace: bool
) -> WriteReport:
    if to == "png":
        return write_recorded_images(samples, suite, target)
    if to == "adm":
        return _write_rows(samples, target, replace)
    return write_layout(samples, to, target, suite_name)


def _write_rows(samples: SampleSet, target: Path, replace: bool) -> WriteReport:
    """Write an npz; its rows are indices only where no sample before the last is missing."""
    write_adm_npz(samples, target, replace)
    if samples.indices == list(range(len(samples.indices))):
        return WriteReport(
            len(samples.indices),
            ("rows are in the order of indices; read them back with --order copy-major",),
        )
    return WriteReport(
        len(samples.indices),
        (
            (
                "rows are no indices, since samples are missing; do not score prompts from it,"
                " convert --to png instead"
            ),
        ),
    )


def _write_without_prompts(samples: SampleSet, target: Path, to: str, replace: bool) -> WriteReport:
    if to not in IMAGE_FORMATS:
        what = (
            f"was drawn for suite {samples.plan.suite}"
            if samples.plan
            else "holds images of no prompts"
        )
        raise OptionError(
            f"{samples.path} {what}, the layout {to} is of {load_layout(to).SUITE}; choose another"
            " --to"
        )
    if to == "adm":
        write_adm_npz(samples, target, replace)
    else:
        write_png_folder(samples, target)
    return WriteReport(len(samples.indices), ())


def output_formats() -> tuple[str, ...]:
    """Return every form that can be written."""
    return (*IMAGE_FORMATS, *module_names())
