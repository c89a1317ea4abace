"""What a process of Ray does for the driver: parts of work, and answers about its machine.

A process keeps the worker of its last task, so a network is loaded once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

from harope_bench.core import errors
from harope_bench.core.errors import BenchError
from harope_bench.core.threaded_work import map_in_threads
from harope_bench.pipeline.workers import NamedUnit, Worker, build_worker, unit_results

# Environment variables that workers take from the driver, besides those of this package. Workers of
# a cluster have the environment of `ray start`.
PASSED_VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TORCH_HOME")
PASSED_PREFIX = "HAROPE_BENCH_"

_worker_state: dict[str, Any] = {}  # the worker of the last task, its name and its devices


class WorkerError(NamedTuple):
    """An error of this package as it travels; some classes of errors cannot be pickled."""

    class_name: str
    detail: str
    advice: str

    @classmethod
    def of(cls, error: BenchError, prefix: str = "") -> WorkerError:
        """Return an error as it travels."""
        return cls(type(error).__name__, f"{prefix}{error.detail}", error.advice)

    def as_error(self) -> BenchError:
        """Return the error that was raised, word for word."""
        error_class = getattr(errors, self.class_name, BenchError)
        error = cast(BenchError, error_class.__new__(error_class))
        BenchError.__init__(error, self.detail, self.advice)
        return error


class DriverState(NamedTuple):
    """What a worker takes from the driver: environment variables and the current folder."""

    environment: Mapping[str, str]
    folder: str

    @classmethod
    def of_this_process(cls) -> DriverState:
        """Return the state of the driver, which calls this."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(PASSED_PREFIX) or key in PASSED_VARIABLES
        }
        return cls(environment, os.getcwd())

    def with_variables(self, names: Iterable[str]) -> DriverState:
        """Return the state with further environment variables, those that are set here."""
        variables = {name: os.environ[name] for name in names if name in os.environ}
        return self._replace(environment={**self.environment, **variables})

    def apply(self) -> None:
        """Make them those of this process. Without a shared folder, paths stay unknown."""
        os.environ.update(self.environment)
        with suppress(OSError):
            os.chdir(self.folder)


class TimedResults(NamedTuple):
    """The packed results of a part, and how long the worker took, in seconds."""

    results: list[Any]
    seconds: float


def do_part(
    name: str, stored_task: list[Any], units: Sequence[NamedUnit], device: str, driver: DriverState
) -> TimedResults | WorkerError:
    """Return the packed results of a part's units, or the error of the first that fails."""
    driver.apply()
    try:
        worker = _worker(name, stored_task)
        start_time = time.perf_counter()
        # A thread packs a result while the network does the next unit.
        results = unit_results(worker, units, device)
        packed_results = list(map_in_threads(worker.pack, results, n_waiting=1, n_threads=1))
        return TimedResults(packed_results, time.perf_counter() - start_time)
    except BenchError as error:
        return WorkerError.of(error)


def answer(function: Callable[..., Any], arguments: Sequence[Any], driver: DriverState) -> Any:
    """Return what a function returns on this machine, or its error with the machine's name."""
    driver.apply()
    try:
        return function(*arguments)
    except BenchError as error:
        return WorkerError.of(error, prefix=f"{os.uname().nodename}: ")


def _worker(name: str, stored_task: list[Any]) -> Worker:
    """Return the worker of a task; the last one is kept."""
    import ray

    devices = ray.get_runtime_context().get_accelerator_ids()
    if _worker_state.get("devices", devices) != devices:
        os._exit(1)  # the network is on another device; Ray starts a new process for the part
    if _worker_state.get("name") != name:
        _worker_state.clear()  # the memory of the former network is free before the next is loaded
        _worker_state.update(
            worker=build_worker(ray.get(stored_task[0])),
            name=name,
            devices=devices,
        )
    worker: Worker = _worker_state["worker"]
    return worker
