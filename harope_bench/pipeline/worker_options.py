"""The options `--workers`, `--ray` and `--mixed-devices`, and the executor that they select."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harope_bench.core.device import AUTO, device_type, require_device
from harope_bench.core.errors import MissingExtraError, OptionError
from harope_bench.core.extras import install_command, is_installed
from harope_bench.core.threaded_work import available_cores
from harope_bench.pipeline.workers import use_executor


@dataclass(frozen=True)
class WorkerOptions:
    """Who does the work.

    Attributes:
        workers: Number of processes, or "auto"; None is one, or all of a cluster.
        ray: Address of a running Ray cluster, or "auto".
        mixed_devices: Whether workers may have devices of several kinds.
    """

    workers: int | str | None = None
    ray: str | None = None
    mixed_devices: bool = False

    def worker_count(self, device: str) -> int | None:
        """Return the number of processes; None for all of a cluster.

        Raises:
            OptionError: This machine has fewer devices.
        """
        if self.ray is not None:
            return None if self.workers in (None, AUTO) else int(self.workers or 1)
        if self.workers is None:
            return 1
        kind = device_type(device)
        n_devices = _device_count(kind)
        if n_devices == 0:
            require_device(device)  # its error says what this machine has
        if self.workers == AUTO:
            return n_devices if device == "cuda" else 1
        if device != kind and self.workers != 1:
            raise OptionError(
                f"--device {device} is one device; several workers need --device {kind}"
            )
        if int(self.workers) > n_devices:
            noun = {"cuda": "GPUs", "mps": "GPU"}.get(kind, "processor cores")
            raise OptionError(
                f"--workers {self.workers} asked for, this machine has {n_devices} {noun}; give"
                f" --workers {n_devices}, or --ray ADDRESS for several machines"
            )
        return int(self.workers)


def _device_count(kind: str) -> int:
    """Return how many workers the devices of this machine can serve."""
    if kind == "cuda":
        import torch

        return torch.cuda.device_count()
    return available_cores() if kind == "cpu" else 1


@contextmanager
def use_workers(
    options: WorkerOptions, device: str, shared_folder: Path | None = None
) -> Iterator[None]:
    """Have the work within the block done by the processes of the options.

    One process is this one, and Ray is not imported.

    Args:
        shared_folder: Folder that all machines of a cluster must see; None: they need not.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: There are fewer workers, or Ray does not start or answer.
    """
    n_workers = options.worker_count(device)
    if options.ray is None and n_workers == 1:
        yield
        return
    if not is_installed("ray"):
        option = f"--workers {n_workers}" if options.ray is None else f"--ray {options.ray}"
        raise MissingExtraError(
            f"{option} needs the extra ray: ray is not installed",
            advice=f"{install_command('ray')}, or start processes with --shard 1/N, 2/N and so on,"
            " which need no Ray",
        )
    from harope_bench.pipeline.ray_connection import open_ray_executor

    with (
        open_ray_executor(
            n_workers, options.ray, device, shared_folder, options.mixed_devices
        ) as executor,
        use_executor(executor),
    ):
        yield
