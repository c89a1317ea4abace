"""Work that is cut into units and done by this process or by others; `run_units` is the one way.

A stage names its worker (`WORKERS`), gives the worker's configuration and the units. A worker is
built from the configuration where it runs, and keeps its network for all units. Only the calling
process, the driver, writes files. This module knows no model and no metric.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from harope_bench.core.errors import LostWorkError, OptionError
from harope_bench.pipeline.part_sizes import Part, PartSizes

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


class NamedUnit(NamedTuple):
    """A unit, and what an error calls it, such as "samples 24-31"."""

    name: str
    unit: Unit


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
    """What became of a part.

    Attributes:
        results: The results of its units, in their order; None if the process that did them ended.
        seconds: How long the worker took, without the time to load its network.
    """

    part: Part
    results: Sequence[Any] | None
    seconds: float = 0.0


class MachineAnswer(NamedTuple):
    """What a function returned on another machine."""

    host: str
    answer: Any


class Executor(Protocol):
    """Has parts done. It may return them in any order, repeat them, or lose some."""

    n_workers: int

    def run(
        self, task: Task, units: Sequence[NamedUnit], parts: Iterable[Part]
    ) -> Iterator[PartResults]:
        """Yield the results of each part. A part that is not yielded is lost.

        Args:
            parts: Taken as late as possible, because their sizes depend on earlier results.

        Raises:
            BenchError: The first error of a worker.
        """

    def ask_machines(self, function: Callable[..., Any], *arguments: Any) -> list[MachineAnswer]:
        """Return what a function returns on each machine with workers, except this one.

        Raises:
            BenchError: The first error of a machine.
        """

    def provenance(self) -> Mapping[str, str | int]:
        """Return what the provenance of a result says about the executor."""

    def device_warnings(self) -> tuple[str, ...]:
        """Return a warning for results if the workers have devices of several kinds."""


class SerialExecutor:
    """Does all parts in this process, in order."""

    n_workers = 1

    def __init__(self, worker: Worker | None = None) -> None:
        """Take a worker that is loaded already; None builds it from the task."""
        self._worker = worker

    def run(
        self, task: Task, units: Sequence[NamedUnit], parts: Iterable[Part]
    ) -> Iterator[PartResults]:
        """Yield the results of each part.

        One call of the worker does all units, so that its threads read ahead across parts.
        """
        worker = self._worker or build_worker(task)
        all_parts = list(parts)
        positions = (position for part in all_parts for position in part)
        results = unit_results(worker, (units[position] for position in positions), task.device)
        for part in all_parts:
            yield PartResults(part, [next(results) for _ in part])

    def ask_machines(self, function: Callable[..., Any], *arguments: Any) -> list[MachineAnswer]:
        """Return nothing: there is no other machine."""
        return []

    def provenance(self) -> Mapping[str, str | int]:
        """Return nothing: this is how results without a word about workers were made."""
        return {}

    def device_warnings(self) -> tuple[str, ...]:
        """Return nothing: one process has one device."""
        return ()


def build_worker(task: Task) -> Worker:
    """Return the worker of a task.

    Raises:
        OptionError: The memory of the device is too small for its network.
    """
    module_name, _, class_name = WORKERS.get(task.kind, task.kind).partition(":")
    worker_class = getattr(import_module(module_name), class_name)
    with _named_memory_errors(task.device, lambda: f"the network (to {task.kind})"):
        worker: Worker = worker_class(**task.config)
    return worker


def unit_results(worker: Worker, units: Iterable[NamedUnit], device: str) -> Iterator[Any]:
    """Yield the result of each unit, in order.

    Raises:
        OptionError: The memory of the device is too small for a unit, which is named.
        BenchError: The worker's error.
    """
    started_names: deque[str] = deque()  # of units that the worker has taken and not returned

    def start_units() -> Iterator[Unit]:
        for name, unit in units:
            started_names.append(name)
            yield unit

    with _named_memory_errors(device, lambda: started_names[0] if started_names else "this work"):
        for result in worker.results(start_units()):
            started_names.popleft()
            yield result


@contextmanager
def _named_memory_errors(device: str, work_name: Callable[[], str]) -> Iterator[None]:
    """Raise OptionError with the name of the work if a device's memory is too small for it."""
    try:
        yield
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
        raise OptionError(
            f"--device {device} has too little free memory for {work_name()}; end other processes"
            " there, or use another device"
        ) from error


def is_memory_error(error: BaseException) -> bool:
    """Return whether the memory of a device was too small.

    It is torch's class, which this module does not import.
    """
    return type(error).__name__ == "OutOfMemoryError"


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
    seconds_per_part: float | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield position and result of each unit once; in order if this process does the work.

    A part whose process ended is halved, down to single units. A unit that ends every process is
    left out, the others are finished, and then it is named in an error.

    Args:
        unit_names: What an error calls each unit, such as "samples 24-31".
        units_per_part: Units that another process does in one go.
        executor: The current executor by default.
        seconds_per_part: Parts have about so much work, and at most `units_per_part` units.

    Raises:
        LostWorkError: A unit ended every process that tried it.
        BenchError: The first error of a worker.
    """
    executor = executor or current_executor()
    is_serial = isinstance(executor, SerialExecutor)
    sizes = PartSizes(executor.n_workers, 1 if is_serial else units_per_part, seconds_per_part)
    named_units = [NamedUnit(*pair) for pair in zip(unit_names, units, strict=True)]
    parts: Iterable[Part] = sizes.cut(len(units))
    losses: Counter[int] = Counter()
    has_parts = bool(units)
    while has_parts:
        unfinished_parts: dict[Part, None] = {}
        started_parts = _note_started(parts, unfinished_parts)
        for part, results, seconds in executor.run(task, named_units, started_parts):
            if results is not None and part in unfinished_parts:
                del unfinished_parts[part]
                sizes.measure(len(part), seconds)
                yield from zip(part, results, strict=True)
        deque(started_parts, maxlen=0)  # parts that the executor did not take are unfinished too
        losses.update(part[0] for part in unfinished_parts if len(part) == 1)
        halves = [half for part in unfinished_parts for half in _halves(part, losses)]
        parts = halves
        has_parts = bool(halves)
    lost_units = [unit_names[i] for i, count in sorted(losses.items()) if count >= MAX_LOSSES_ALONE]
    if lost_units:
        raise _lost_work_error(task, lost_units)


def _note_started(parts: Iterable[Part], unfinished_parts: dict[Part, None]) -> Iterator[Part]:
    """Yield the parts, and add each to the unfinished ones."""
    for part in parts:
        unfinished_parts[part] = None
        yield part


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
