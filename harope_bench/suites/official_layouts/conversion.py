"""Convert samples from one form to another: run folder, image folder, npz, and the folders of the official benchmarks."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.data.run_folder import PLAN, Run
from harope_bench.data.sample_set import SampleSet, open_samples, to_adm, to_png
from harope_bench.suites.base import PromptSuite, load_suite
from harope_bench.suites.official_layouts.base import Written, layout, names, recognised, written
from harope_bench.suites.official_layouts.file_list import has_record, write_recorded
from harope_bench.suites.official_layouts.prompt_folder import FolderForm, open_prompt_images

FORMS = ("adm", "png")  # that hold images of any suite


def convert(
    source: Path,
    target: Path,
    to: str,
    suite_name: str | None = None,
    count: int | None = None,
    form: FolderForm | None = None,
    replace: bool = False,
) -> tuple[Written, int]:
    """Write the samples of `source` at `target`; return what was written, with all warnings, and how many samples failed.

    Args:
        to: `adm`, `png` or a layout.
        replace: Write over an .npz that holds something else.
        suite_name: Of the prompts, where the source does not show it.

    Raises:
        OptionError: Which image is of which prompt is needed and not known, or an option means nothing here.
        SampleError: No such images, or something lies at `target` already.
    """
    suite_name = _suite_of(source, to, suite_name, form or FolderForm())
    suite = load_suite(suite_name) if suite_name is not None else None
    if suite_name is not None and isinstance(suite, PromptSuite):
        samples = open_prompt_images(source, suite_name, suite, count, form)
        done = _write_prompts(samples, target, to, suite, suite_name, replace)
    else:
        samples = open_samples(source, count)
        done = _write_plain(samples, target, to, replace)
    return Written(done.images, (*samples.warnings, *done.warnings)), samples.left_out


def _suite_of(source: Path, to: str, suite_name: str | None, form: FolderForm) -> str | None:
    """Return the suite that a run records, the user names, or a layout is of; None for images of no known prompts."""
    plan = Run(source).plan if (source / PLAN).exists() else None
    if plan is not None:
        if suite_name not in (None, plan.suite):
            raise OptionError(f"{source} was drawn for suite {plan.suite}, asked for {suite_name}; leave --suite out")
        if form.stated:
            raise OptionError(f"{source} is a run folder, which records its order; leave {' and '.join(form.stated)} out")
        return plan.suite if plan.suite in registry.entries("suites") else None
    if suite_name is not None:
        registry.find("suites", suite_name)
        return suite_name

    known = recognised(source)
    if known is not None and not form.naming:
        return known.SUITE
    if to not in FORMS:
        return layout(to).SUITE
    if form.stated or (to == "png" and has_record(source)):
        what = form.stated[0] if form.stated else f"the record in {source}"
        raise OptionError(f"{what} places images at the prompts of a suite, and none is named; give --suite NAME")
    return None


def _write_prompts(samples: SampleSet, target: Path, to: str, suite: PromptSuite, suite_name: str, replace: bool) -> Written:
    if to == "png":
        return write_recorded(samples, suite, target)
    if to == "adm":
        return _write_rows(samples, target, replace)
    return written(samples, to, target, suite_name)


def _write_rows(samples: SampleSet, target: Path, replace: bool) -> Written:
    """Write an npz; its rows are indices only where no sample before the last is missing."""
    to_adm(samples, target, replace)
    if samples.indices == list(range(len(samples.indices))):
        return Written(len(samples.indices), ("rows are in the order of indices; read them back with --order copy-major",))
    return Written(
        len(samples.indices),
        ("rows are no indices, since samples are missing; do not score prompts from it, convert --to png instead",),
    )


def _write_plain(samples: SampleSet, target: Path, to: str, replace: bool) -> Written:
    if to not in FORMS:
        what = f"was drawn for suite {samples.plan.suite}" if samples.plan else "holds images of no prompts"
        raise OptionError(f"{samples.path} {what}, the layout {to} is of {layout(to).SUITE}; choose another --to")
    if to == "adm":
        to_adm(samples, target, replace)
    else:
        to_png(samples, target)
    return Written(len(samples.indices), ())


def forms() -> tuple[str, ...]:
    """Return every form that can be written."""
    return (*FORMS, *names())
