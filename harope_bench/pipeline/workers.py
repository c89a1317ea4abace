"""Work that is cut into units and done by this process or by others; `run_units` is the one way.

A stage names its worker (`WORKERS`), gives the worker's configuration and the units. A worker is
built from the configuration where it runs, and keeps its network for all units. Only the calling
process, the driver, writes files. This module knows no model and no metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from harope_bench.core.errors import LostWorkError

# The class of each kind of worker, called with the fields of its configuration.
WORKERS = {
    "generate": "harope_bench.pipeline.generate:GenerationWorker",
    "extract": "harope_bench.pipeline.extract_features:ExtractionWorker",
    "annotate": "harope_bench.pipeline.annotation_worker:AnnotationWorker",
    "annotate-externally": "harope_bench.pipeline.annotate_externally:ExternalAnnotationWorker",
    "classify": "harope_bench.pipeline.predictions:ClassificationWorker",
}
# A unit that was alone in its part and was lost so often is given up.
MAX_LOSSES_ALONE = 2
MAX_NAMED_UNITS = 5  # in an error

Unit = Any  # what a stage's worker takes; it can be pickled
Part = tuple[int, ...]  # positions of the units that a worker does in one go


class Task(NamedTuple):
    """What a worker is built from.

    Attributes:
        kind: A key of WORKERS, or the class itself as MODULE:CLASS.
        config: Arguments of the worker's class; they can be pickled.
        device: Device that the worker's network runs on.
    """

    kind: str
    config: Mapping[str, Any]
    device: str


class Worker(Protocol):
    """What a process keeps loaded."""

    def results(self, units: Iterable[Unit]) -> Iterator[Any]:
        """Yield the result of each unit, in order."""

    def pack(self, result: Any) -> Any:
        """Return a result as it travels to another process, small and without open files."""


class PartResults(NamedTuple):
    """The results of a part's units, in their order; None if the process that did them ended."""

    part: Part
    results: Sequence[Any] | None


class Executor(Protocol):
    """Has parts done. It may return them in any order, repeat them, or lose some."""

    n_workers: int

    def run(
        self, task: Task, units: Sequence[Unit], parts: Sequence[Part]
    ) -> Iterator[PartResults]:
        """Yield the results of each part. A part that is not yielded is lost.

        Raises:
            BenchError: The first error of a worker.
        """

    def provenance(self) -> Mapping[str, str | int]:
        """Return what the provenance of a result says about the executor."""


class SerialExecutor:
    """Does all parts in this process, in order."""

    n_workers = 1

    def __init__(self, worker: Worker | None = None) -> None:
        """Take a worker that is loaded already; None builds it from the task."""
        self._worker = worker

    def run(
        self, task: Task, units: Sequence[Unit], parts: Sequence[Part]
    ) -> Iterator[PartResults]:
        """Yield the results of each part.

        One call of the worker does all units, so that its threads read ahead across parts.
        """
        worker = self._worker or build_worker(task)
        results = worker.results(units[position] for part in parts for position in part)
        for part in parts:
            yield PartResults(part, [next(results) for _ in part])

    def provenance(self) -> Mapping[str, str | int]:
        """Return nothing: this is how results without a word about workers were made."""
        return {}


def build_worker(task: Task) -> Worker:
    """Return the worker of a task."""
    module_name, _, class_name = WORKERS.get(task.kind, task.kind).partition(":")
    worker: Worker = getattr(import_module(module_name), class_name)(**task.config)
    return worker


_executor: ContextVar[Executor] = ContextVar("executor")


def current_executor() -> Executor:
    """Return the executor of the surrounding `use_executor`; a serial one outside of any."""
    return _executor.get(SerialExecutor())


@contextmanager
def use_executor(executor: Executor) -> Iterator[None]:
    """Make an executor that of all work within the block."""
    token = _executor.set(executor)
    try:
        yield
    finally:
        _executor.reset(token)


def run_units(
    task: Task,
    units: Sequence[Unit],
    unit_names: Sequence[str],
    units_per_part: int = 1,
    executor: Executor | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield position and result of each unit once; in order if this process does the work.

    A part whose process ended is halved, down to single units. A unit that ends every process is
    left out, the others are finished, and then it is named in an error.

    Args:
        unit_names: What an error calls each unit, such as "samples 24-31".
        units_per_part: Units that another process does in one go.
        executor: The current executor by default.

    Raises:
        LostWorkError: A unit ended every process that tried it.
        BenchError: The first error of a worker.
    """
    executor = executor or current_executor()
    size = 1 if isinstance(executor, SerialExecutor) else max(1, units_per_part)
    parts = [tuple(range(i, min(i + size, len(units)))) for i in range(0, len(units), size)]
    losses: Counter[int] = Counter()
    while parts:
        unfinished_parts = dict.fromkeys(parts)
        for part, results in executor.run(task, units, parts):
            if results is not None and part in unfinished_parts:
                del unfinished_parts[part]
                yield from zip(part, results, strict=True)
        losses.update(part[0] for part in unfinished_parts if len(part) == 1)
        parts = [half for part in unfinished_parts for half in _halves(part, losses)]
    lost_units = [unit_names[i] for i, count in sorted(losses.items()) if count >= MAX_LOSSES_ALONE]
    if lost_units:
        raise _lost_work_error(task, lost_units)


def _halves(part: Part, losses: Mapping[int, int]) -> list[Part]:
    """Return the parts that a lost part is tried again as."""
    if len(part) > 1:
        return [part[: len(part) // 2], part[len(part) // 2 :]]
    return [] if losses[part[0]] >= MAX_LOSSES_ALONE else [part]


def _lost_work_error(task: Task, lost_units: Sequence[str]) -> LostWorkError:
    names = ", ".join(lost_units[:MAX_NAMED_UNITS])
    if len(lost_units) > MAX_NAMED_UNITS:
        names += f" and {len(lost_units) - MAX_NAMED_UNITS:,} more"
    return LostWorkError(
        f"{task.kind}: {names} ended every process that tried, so this work is missing and the rest"
        " is stored; look for a lack of memory on that machine, then run the same command again"
    )
