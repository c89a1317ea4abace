"""Parts of work in the processes of Ray. `ray_connection` starts Ray or connects to a cluster.

Each part is a Ray task. Ray runs the task again elsewhere when its process or machine is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from harope_bench.core.device import device_type
from harope_bench.core.errors import LostWorkError, OptionError
from harope_bench.core.progress import show_note, write_line
from harope_bench.core.provenance import __version__
from harope_bench.core.storage import sha256_bytes
from harope_bench.pipeline.part_sizes import Part
from harope_bench.pipeline.ray_worker import DriverState, TimedResults, WorkerError, answer, do_part
from harope_bench.pipeline.worker_machines import (
    check_machines,
    describe_machine,
    mixed_devices_warnings,
)
from harope_bench.pipeline.workers import MachineAnswer, NamedUnit, PartResults, Task

MAX_RETRIES = 2  # of a part whose process ended, by Ray itself
PARTS_IN_FLIGHT = 2  # for each worker, so that none waits for the driver
SECONDS_BETWEEN_CHECKS = 5.0
ANSWER_SECONDS = 600.0  # until every machine has answered; it may hash weights of 34 GB


class RayExecutor:
    """Has parts done by the processes of a Ray cluster that is connected."""

    def __init__(self, n_workers: int, device: str, parts_in_flight: int | None = None) -> None:
        """Use `n_workers` processes with one CPU each, or one GPU each for a CUDA device."""
        self.n_workers = n_workers
        self._resource = resource_of(device)
        self._parts_in_flight = parts_in_flight or PARTS_IN_FLIGHT * n_workers
        self._n_lost = 0
        self._check_time = time.monotonic()
        self._machine_kinds: list[str] = []
        self._driver = DriverState.of_this_process()

    def run(
        self, task: Task, units: Sequence[NamedUnit], parts: Iterable[Part]
    ) -> Iterator[PartResults]:
        """Yield the results of each part as it is finished. Errors: `Executor.run`."""
        import ray

        start_part = self._part_starter(task, units)
        waiting_parts = iter(parts)
        running: dict[Any, Part] = {}
        try:
            while True:
                while len(running) < self._parts_in_flight:
                    part = next(waiting_parts, None)
                    if part is None:
                        break
                    running[start_part(part)] = part
                if not running:
                    return
                finished_references, _ = ray.wait(
                    [*running], num_returns=1, timeout=SECONDS_BETWEEN_CHECKS
                )
                self._check_workers()
                for reference in finished_references:
                    yield _part_results(running.pop(reference), reference)
        finally:
            # An error of the caller may end Ray before this generator, and Ray would start again.
            if ray.is_initialized():
                for reference in running:
                    ray.cancel(reference, force=True)

    def _part_starter(self, task: Task, units: Sequence[NamedUnit]) -> Callable[[Part], Any]:
        """Return a function that starts a part in a worker and returns Ray's reference to it."""
        import ray
        from ray import cloudpickle

        # A task gets one GPU and sees no other.
        resources: dict[str, Any] = {"num_cpus": 1}
        if self._resource == "GPU":
            resources = {"num_gpus": 1, "num_cpus": 0}
        # max_calls=0 keeps the process, and its network, after a task on a GPU too.
        remote = ray.remote(max_calls=0, max_retries=MAX_RETRIES, **resources)(do_part)
        name = sha256_bytes(cloudpickle.dumps(task))  # an equal task finds its worker loaded
        # In a list, Ray leaves the reference to the worker, which loads modules after `apply`.
        stored_task = [ray.put(task)]
        driver = self._driver.with_variables(task.variables)

        def start_part(part: Part) -> Any:
            part_units = [units[position] for position in part]
            return remote.remote(name, stored_task, part_units, task.device, driver)

        return start_part

    def _check_workers(self) -> None:
        """Show now and then how many workers are lost with their machines.

        Raises:
            LostWorkError: All are.
        """
        if time.monotonic() - self._check_time < SECONDS_BETWEEN_CHECKS:
            return
        self._check_time = time.monotonic()
        n_left = min(self.n_workers, capacity(self._resource))
        n_lost = self.n_workers - n_left
        if n_left == 0:
            raise LostWorkError(
                "all workers are lost; what they returned is stored, run the same command again"
            )
        text = f"{n_left} of {self.n_workers} workers"
        if n_lost:
            text += f", {n_lost} lost"
        if n_lost > self._n_lost:
            write_line(f"{text}; others do their work")
        self._n_lost = max(self._n_lost, n_lost)
        show_note(text)

    def ask_machines(self, function: Callable[..., Any], *arguments: Any) -> list[MachineAnswer]:
        """Return what a function returns on each machine with workers, except this one.

        Raises:
            BenchError: The first error of a machine.
        """
        import ray

        own_node = ray.get_runtime_context().get_node_id()
        return self._ask([n for n in self._nodes() if n["NodeID"] != own_node], function, arguments)

    def _nodes(self) -> list[dict[str, Any]]:
        """Return Ray's records of the machines with workers."""
        import ray

        return [n for n in ray.nodes() if n["Alive"] and n["Resources"].get(self._resource)]

    def _ask(
        self,
        nodes: Sequence[Mapping[str, Any]],
        function: Callable[..., Any],
        arguments: Sequence[Any],
    ) -> list[MachineAnswer]:
        """Return what a function returns on each of these machines. Errors: `ask_machines`."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # A fraction of a GPU, so that CUDA shows one. max_calls ends the process: CUDA is bound to
        # that GPU, and the next part may get another one.
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": MAX_RETRIES}
        if self._resource == "GPU":
            options |= {"num_gpus": 0.01, "max_calls": 1}
        remote = ray.remote(**options)(answer)
        references = [
            remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(function, arguments, self._driver)
            for node in nodes
        ]
        try:
            answers = ray.get(references, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            raise OptionError(
                f"a machine of the Ray cluster cannot run harope-bench ({headline(error)});"
                f" install harope-bench {__version__} there, or leave it out"
            ) from error
        for machine_answer in answers:
            if isinstance(machine_answer, WorkerError):
                raise machine_answer.as_error()
        hosts = [str(node["NodeManagerHostname"]) for node in nodes]
        return [MachineAnswer(*pair) for pair in zip(hosts, answers, strict=True)]

    def check_machines(self, device: str, token_path: Path | None, allows_mixed: bool) -> None:
        """Check that all machines with workers are of one kind and see the driver's folder.

        Raises:
            OptionError: One is of another kind, does not answer or does not see the folder.
        """
        path = None if token_path is None else str(token_path)
        answers = self._ask(self._nodes(), describe_machine, [device, path])
        folder = None if token_path is None else token_path.parent
        machines = [machine.answer for machine in answers]
        self._machine_kinds = check_machines(machines, folder, allows_mixed)

    def device_warnings(self) -> tuple[str, ...]:
        """Return a warning for results if the workers have devices of several kinds."""
        return mixed_devices_warnings(self._machine_kinds)

    def provenance(self) -> Mapping[str, str | int]:
        """Return number of workers and losses, kinds of machines and Ray's version."""
        import ray

        return {
            "workers": self.n_workers,
            "workers_lost": self._n_lost,
            "worker_kinds": "; ".join(self._machine_kinds),
            "ray": ray.__version__,
        }


def _part_results(part: Part, reference: Any) -> PartResults:
    """Return the results of a finished part; None for them if its process or machine is lost.

    Raises:
        BenchError: The worker's error, word for word.
    """
    import ray

    try:
        timed_results = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except ray.exceptions.RayError:
        return PartResults(part, None)
    if isinstance(timed_results, WorkerError):
        raise timed_results.as_error()
    return PartResults(part, *cast(TimedResults, timed_results))


def resource_of(device: str) -> str:
    """Return Ray's name of what each worker needs one of."""
    return "GPU" if device_type(device) == "cuda" else "CPU"


def capacity(resource: str) -> int:
    """Return how many workers the live machines of the cluster can run."""
    import ray

    return int(sum(n["Resources"].get(resource, 0) for n in ray.nodes() if n["Alive"]))


def headline(error: BaseException) -> str:
    """Return the last line of an error, which is its message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
