"""Parts of work in the processes of Ray, of this machine (`--workers`) or a cluster (`--ray`).

Each part is a Ray task. Ray runs the task again elsewhere when its process or machine is lost. A
process keeps the worker of its last task, so a network is loaded once.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from harope_bench.core import errors
from harope_bench.core.device import AUTO, device_type
from harope_bench.core.errors import BenchError, LostWorkError, OptionError
from harope_bench.core.index_ranges import parse_whole_number
from harope_bench.core.progress import write_line
from harope_bench.core.provenance import __version__
from harope_bench.core.storage import sha256_bytes
from harope_bench.core.threaded_work import map_in_threads
from harope_bench.pipeline.workers import Part, PartResults, Task, Unit, Worker, build_worker

MAX_RETRIES = 2  # of a part whose process ended, by Ray itself
PARTS_IN_FLIGHT = 2  # for each worker, so that none waits for the driver
SECONDS_BETWEEN_CHECKS = 5.0
CONNECTION_SECONDS = 10.0
MAX_PORT = 65_535
START_SECONDS = 120.0  # until every machine has answered
OBJECT_STORE_BYTES = 500 << 20
MIN_OBJECT_STORE_BYTES = 80 << 20  # Ray takes no less
# Environment variables that workers take from the driver, besides those of this package. Workers of
# a cluster have the environment of `ray start`.
PASSED_VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TORCH_HOME")
PASSED_PREFIX = "HAROPE_BENCH_"
ADVICE = "or share the work without Ray: --shard 1/N"


class WorkerMachine(NamedTuple):
    """What decides the bits of a worker: devices of one kind give equal images and features."""

    host: str
    package: str
    torch: str
    device: str
    sees_folder: bool

    @property
    def kind(self) -> tuple[str, str, str]:
        """Return what must be equal on all machines."""
        return (self.package, self.torch, self.device)


class WorkerError(NamedTuple):
    """An error of this package as it travels; some classes of errors cannot be pickled."""

    class_name: str
    message: str

    def as_error(self) -> BenchError:
        """Return the error that was raised, word for word."""
        error_class = getattr(errors, self.class_name, BenchError)
        error = cast(BenchError, error_class.__new__(error_class))
        BenchError.__init__(error, self.message)
        return error


# ------------------------------------------------------------------------------ in a worker process

_worker_state: dict[str, Any] = {}  # the worker of the last task, its name and its devices


def do_part(name: str, stored_task: list[Any], units: Sequence[Unit], driver: DriverState) -> Any:
    """Return the packed results of a part's units, or the WorkerError of the first that fails."""
    driver.apply()
    try:
        worker = _worker(name, stored_task)
        # A thread packs a result while the network does the next unit.
        return list(map_in_threads(worker.pack, worker.results(units), n_waiting=1, n_threads=1))
    except BenchError as error:
        return WorkerError(type(error).__name__, str(error))


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


class DriverState(NamedTuple):
    """What a worker takes from the driver: environment variables and the current folder."""

    environment: Mapping[str, str]
    folder: str

    def apply(self) -> None:
        """Make them those of this process. Without a shared folder, paths stay unknown."""
        os.environ.update(self.environment)
        with suppress(OSError):
            os.chdir(self.folder)


def describe_machine(device: str, token_path: str | None, driver: DriverState) -> WorkerMachine:
    """Return what this machine is, and whether it sees a file of the driver."""
    driver.apply()
    import torch

    name = platform.machine()
    if device_type(device) == "cuda":
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    sees_folder = token_path is None or Path(token_path).exists()
    return WorkerMachine(platform.node(), __version__, str(torch.__version__), name, sees_folder)


# ------------------------------------------------------------------------------------ in the driver


class RayExecutor:
    """Has parts done by the processes of a Ray cluster that is connected."""

    def __init__(self, n_workers: int, device: str, parts_in_flight: int | None = None) -> None:
        """Use `n_workers` processes with one CPU each, or one GPU each for a CUDA device."""
        self.n_workers = n_workers
        self._resource = "GPU" if device_type(device) == "cuda" else "CPU"
        self._parts_in_flight = parts_in_flight or PARTS_IN_FLIGHT * n_workers
        self._n_lost = 0
        self._machine_kinds: list[str] = []
        environment = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(PASSED_PREFIX) or key in PASSED_VARIABLES
        }
        self._driver = DriverState(environment, os.getcwd())

    def run(
        self, task: Task, units: Sequence[Unit], parts: Sequence[Part]
    ) -> Iterator[PartResults]:
        """Yield the results of each part as it is finished. Errors: `Executor.run`."""
        import ray
        from ray import cloudpickle

        # max_calls=0 keeps the process, and its network, after a task on a GPU too.
        remote = ray.remote(max_calls=0, max_retries=MAX_RETRIES, **self._resources())(do_part)
        name = sha256_bytes(cloudpickle.dumps(task))  # an equal task finds its worker loaded
        # In a list, Ray leaves the reference to the worker, which loads modules after `apply`.
        stored_task = [ray.put(task)]
        waiting_parts = iter(parts)
        running: dict[Any, Part] = {}
        try:
            while True:
                while len(running) < self._parts_in_flight:
                    part = next(waiting_parts, None)
                    if part is None:
                        break
                    part_units = [units[position] for position in part]
                    running[remote.remote(name, stored_task, part_units, self._driver)] = part
                if not running:
                    return
                finished_references, _ = ray.wait(
                    [*running], num_returns=1, timeout=SECONDS_BETWEEN_CHECKS
                )
                if not finished_references:
                    self._check_workers()
                for reference in finished_references:
                    yield PartResults(running.pop(reference), _results(reference))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _resources(self) -> dict[str, Any]:
        return {"num_gpus": 1, "num_cpus": 0} if self._resource == "GPU" else {"num_cpus": 1}

    def _check_workers(self) -> None:
        """Say once how many workers are lost with their machines.

        Raises:
            LostWorkError: All are.
        """
        n_left = min(self.n_workers, _capacity(self._resource))
        n_lost = self.n_workers - n_left
        if n_left == 0:
            raise LostWorkError(
                "all workers are lost; what they returned is stored, run the same command again"
            )
        if n_lost > self._n_lost:
            write_line(f"{n_left} of {self.n_workers} workers, {n_lost} lost; others do their work")
        self._n_lost = max(self._n_lost, n_lost)

    def check_machines(self, device: str, token_path: Path | None, allows_mixed: bool) -> None:
        """Check that all machines of the cluster are of one kind and see the driver's folder.

        Raises:
            OptionError: One is of another kind, does not answer or does not see the folder.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = ray.remote(describe_machine)
        path = None if token_path is None else str(token_path.absolute())
        answers = [
            remote.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(device, path, self._driver)
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get(self._resource)
        ]
        try:
            machines: list[WorkerMachine] = ray.get(answers, timeout=START_SECONDS)
        except ray.exceptions.RayError as error:
            raise OptionError(
                f"a machine of the Ray cluster cannot run harope-bench ({_headline(error)});"
                f" install harope-bench {__version__} there, {ADVICE}"
            ) from error
        for machine in machines:
            if not machine.sees_folder:
                raise OptionError(
                    f"{machine.host} does not see {path}; judges on several machines need a folder"
                    " that all of them share (generate does not)"
                )
        kinds = sorted({", ".join(machine.kind) for machine in machines})
        if len(kinds) > 1 and not allows_mixed:
            raise OptionError(
                f"workers of {len(kinds)} kinds ({'; '.join(kinds)}) give other last bits; use"
                " machines of one kind, or give --mixed-devices"
            )
        self._machine_kinds = kinds

    def provenance(self) -> Mapping[str, str | int]:
        """Return number of workers and losses, kinds of machines and Ray's version."""
        import ray

        return {
            "workers": self.n_workers,
            "workers_lost": self._n_lost,
            "worker_kinds": "; ".join(self._machine_kinds),
            "ray": ray.__version__,
        }


def _results(reference: Any) -> Sequence[Any] | None:
    """Return the results of a finished task; None if its process or machine is lost.

    Raises:
        BenchError: The worker's error, word for word.
    """
    import ray

    try:
        results = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except ray.exceptions.RayError:
        return None
    if isinstance(results, WorkerError):
        raise results.as_error()
    return cast(Sequence[Any], results)


def _capacity(resource: str) -> int:
    """Return how many workers the live machines of the cluster can run."""
    import ray

    return int(sum(n["Resources"].get(resource, 0) for n in ray.nodes() if n["Alive"]))


def _headline(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


@contextmanager
def open_ray_executor(
    n_workers: int | None,
    address: str | None,
    device: str,
    shared_folder: Path | None = None,
    allows_mixed: bool = False,
) -> Iterator[RayExecutor]:
    """Start Ray on this machine, or connect to a cluster, and yield its executor.

    Args:
        n_workers: Number of workers; None takes all of the cluster.
        address: Address of a running cluster, or "auto"; None starts Ray here.
        shared_folder: Folder that the machines of a cluster must see; None: they need not.
        allows_mixed: Machines may be of different kinds.

    Raises:
        OptionError: Ray does not start or answer, or has fewer workers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported
    import ray

    with redirect_stdout(_OneThreadStream(sys.stdout)):
        _connect(n_workers, address, device)
        try:
            resource = "GPU" if device_type(device) == "cuda" else "CPU"
            capacity = _capacity(resource)
            if capacity < (n_workers or 1):
                raise OptionError(
                    f"{n_workers or 1} workers are asked for, the Ray cluster has {capacity}"
                    f" {resource}s; give --workers up to that"
                )
            executor = RayExecutor(n_workers or capacity, device)
            with _token_file(shared_folder if address is not None else None) as token_path:
                executor.check_machines(device, token_path, allows_mixed)
            yield executor
        finally:
            ray.shutdown()


def _connect(n_workers: int | None, address: str | None, device: str) -> None:
    """Start Ray on this machine, or connect to the cluster at an address.

    Raises:
        OptionError: It does not start, does not answer or has another version.
    """
    import ray

    if address is not None:
        _check_address(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical"}
    if address is None:
        options |= {
            "num_cpus": n_workers,
            "num_gpus": n_workers if device_type(device) == "cuda" else 0,
            "include_dashboard": False,
            "object_store_memory": _object_store_bytes(),
        }
    try:
        ray.init(address="local" if address is None else address, **options)
    except Exception as error:  # Ray raises many types
        start = "Ray does not start here" if address is None else f"--ray {address}: no connection"
        raise OptionError(
            f"{start} ({_headline(error)}); `ray status` must answer with the Python and Ray"
            f" {ray.__version__} of this machine, RAY_TMPDIR must be a short path, {ADVICE}"
        ) from error


def _check_address(address: str) -> None:
    """Raise OptionError if nothing listens at HOST:PORT; Ray would end the process.

    "auto" is looked up by Ray itself.
    """
    host, colon, port_text = address.rpartition(":")
    if address == AUTO:
        return
    port = parse_whole_number(port_text)
    if not colon or port is None or port > MAX_PORT:
        raise OptionError(f"--ray {address[:100]!r} is no address; give HOST:PORT or auto")
    try:
        socket.create_connection((host, port), CONNECTION_SECONDS).close()
    except OSError as error:
        raise OptionError(
            f"--ray {address}: no connection ({error.strerror or error}); start a cluster with `ray"
            f" start --head`, {ADVICE}"
        ) from error


def _object_store_bytes() -> int:
    """Return the size of Ray's store: half of the free shared memory at most."""
    free_bytes = OBJECT_STORE_BYTES
    with suppress(OSError, AttributeError):
        status = os.statvfs("/dev/shm")  # noqa: S108 - where Ray has its store
        free_bytes = status.f_bavail * status.f_frsize // 2
    return max(MIN_OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES, free_bytes))


@contextmanager
def _token_file(folder: Path | None) -> Iterator[Path | None]:
    """Yield a file in a folder, or in its nearest existing parent, that other machines look for."""
    if folder is None:
        yield None
        return
    absolute_folder = folder.absolute()
    existing = next(path for path in (absolute_folder, *absolute_folder.parents) if path.is_dir())
    path = existing / f".harope-bench-{secrets.token_hex(4)}"
    try:
        path.touch()
        yield path
    except PermissionError:
        yield None  # the command's own error names the folder
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


class _OneThreadStream:
    """A stream that only the thread that made it can write to.

    Ray prints pages about a lost machine from a thread of its own, to the standard output, where
    only the answer of the command belongs.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Write the text if it comes from the right thread."""
        if threading.get_ident() == self._thread:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
