"""The start of Ray on this machine (`--workers`), or the connection to a cluster (`--ray`)."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from harope_bench.core.device import AUTO
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import parse_whole_number
from harope_bench.core.storage import first_line
from harope_bench.pipeline.ray_executor import RayExecutor, capacity, headline, resource_of
from harope_bench.pipeline.worker_machines import token_file

CONNECTION_SECONDS = 10.0
MAX_PORT = 65_535
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Ray has its store
OBJECT_STORE_BYTES = 500 << 20
MIN_OBJECT_STORE_BYTES = 80 << 20  # Ray takes no less
ADVICE = "or share the work without Ray: --shard 1/N"


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
        OptionError: Ray does not start or answer, or has fewer workers; machines are of several
            kinds or do not see the folder.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported
    import ray

    with (
        token_file(shared_folder if address is not None else None) as token_path,
        redirect_stdout(OneThreadStream(sys.stdout)),
    ):
        _connect(n_workers, address, resource_of(device))
        try:
            n_found = capacity(resource_of(device))
            if n_found < (n_workers or 1):
                raise OptionError(
                    f"{n_workers or 1} workers are asked for, the Ray cluster has {n_found}"
                    f" {resource_of(device)}s; give --workers up to that"
                )
            executor = RayExecutor(n_workers or n_found, device)
            executor.check_machines(device, token_path, allows_mixed)
            yield executor
        finally:
            ray.shutdown()


def _connect(n_workers: int | None, address: str | None, resource: str) -> None:
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
            "num_gpus": n_workers if resource == "GPU" else 0,
            "include_dashboard": False,
            "object_store_memory": object_store_bytes(),
        }
    try:
        ray.init(address="local" if address is None else address, **options)
    except Exception as error:  # Ray raises many types
        ray.shutdown()  # a failed start may leave processes
        versions = _versions(str(error))
        if versions is not None:
            raise OptionError(
                f"--ray {address}: the cluster has {versions[0]}, this machine has {versions[1]};"
                f" install equal versions of both on all machines, {ADVICE}"
            ) from error
        start = "Ray does not start here" if address is None else f"--ray {address}: no connection"
        raise OptionError(
            f"{start} ({headline(error)}); `ray status` must answer with Ray {ray.__version__},"
            f" RAY_TMPDIR must be a short path, {ADVICE}"
        ) from error


def _versions(text: str) -> tuple[str, str] | None:
    """Return the versions of cluster and driver of Ray's error about them; None for other errors.

    Ray compares its own and Python's, and names both in four lines.
    """
    ray_versions = re.findall(r"^\s*Ray: (\S+)$", text, re.M)
    python_versions = re.findall(r"^\s*Python: (\S+)$", text, re.M)
    if len(ray_versions) != 2 or len(python_versions) != 2:
        return None
    cluster, driver = (
        f"Ray {ray_version} with Python {python_version}"
        for ray_version, python_version in zip(ray_versions, python_versions, strict=True)
    )
    return cluster, driver


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
    except (OSError, UnicodeError) as error:
        raise OptionError(
            f"--ray {address}: no connection ({first_line(error)}); start a cluster with `ray"
            f" start --head`, {ADVICE}"
        ) from error


def object_store_bytes() -> int:
    """Return the size of Ray's store: half of the free shared memory at most.

    Where that is less than Ray takes, as in a container with 64 MB, Ray uses a file in /tmp.
    """
    free_bytes = OBJECT_STORE_BYTES
    with suppress(OSError, AttributeError):
        status = os.statvfs(SHARED_MEMORY)
        free_bytes = status.f_bavail * status.f_frsize // 2
    return max(MIN_OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES, free_bytes))


class OneThreadStream:
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
