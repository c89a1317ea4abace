"""The machines that workers are on: of one kind, and in sight of the folder they share.

Devices of one kind give equal images and features, bit by bit.
"""

from __future__ import annotations

import platform
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.device import device_type
from harope_bench.core.errors import OptionError
from harope_bench.core.provenance import __version__
from harope_bench.core.storage import read_if_present

NVIDIA_DRIVER_FILE = Path("/proc/driver/nvidia/version")


class WorkerMachine(NamedTuple):
    """What a machine reports before work starts.

    Attributes:
        package, torch: Versions.
        device: Name of the GPU, or the processor's architecture and vector instructions.
        driver: Versions of CUDA and of the GPU's driver; empty for a processor.
        sees_folder: Whether the folder of the run is there; True if it need not be.
    """

    host: str
    package: str
    torch: str
    device: str
    driver: str
    sees_folder: bool

    @property
    def kind(self) -> str:
        """Return what must be equal on all machines, as text."""
        texts = (f"harope-bench {self.package}", f"torch {self.torch}", self.device, self.driver)
        return ", ".join(text for text in texts if text)


def describe_machine(device: str, token_path: str | None) -> WorkerMachine:
    """Return what this machine is, and whether it sees a file of the driver."""
    import torch

    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    driver = ""
    if device_type(device) == "cuda":
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        driver = f"CUDA {torch.version.cuda}, driver {_nvidia_driver()}"
    sees_folder = token_path is None or Path(token_path).exists()
    return WorkerMachine(
        platform.node(), __version__, str(torch.__version__), name, driver, sees_folder
    )


def _nvidia_driver() -> str:
    """Return the version of NVIDIA's driver of this machine."""
    data = read_if_present(NVIDIA_DRIVER_FILE) or b""
    match = re.search(rb"\d+(\.\d+)+", data)
    return "unknown" if match is None else match[0].decode()


def check_machines(
    machines: Sequence[WorkerMachine], folder: Path | None, allows_mixed: bool
) -> list[str]:
    """Return the kinds of the machines.

    Raises:
        OptionError: A machine does not see the folder, or there are several kinds.
    """
    for machine in machines:
        if not machine.sees_folder:
            raise OptionError(
                f"{machine.host} does not see {folder}; judges on several machines need a folder"
                " that all of them share (generate does not)"
            )
    kinds = sorted({machine.kind for machine in machines})
    if len(kinds) > 1 and not allows_mixed:
        hosts = [
            f"{kind} ({', '.join(m.host for m in machines if m.kind == kind)})" for kind in kinds
        ]
        raise OptionError(
            f"workers of one kind are needed, found {len(kinds)}: {'; '.join(hosts)}; use machines"
            " of one kind, or give --mixed-devices, because their last bits may differ"
        )
    return kinds


def mixed_devices_warnings(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return a warning for results if machines are of several kinds."""
    if len(kinds) < 2:
        return ()
    return (
        f"workers: devices of {len(kinds)} kinds ({'; '.join(kinds)}), whose last bits may differ",
    )


@contextmanager
def token_file(folder: Path | None) -> Iterator[Path | None]:
    """Yield a file in a folder, or in its nearest existing parent, that other machines look for.

    Of a folder that cannot be written, the folder itself: the command's own error names it.
    """
    if folder is None:
        yield None
        return
    absolute_folder = folder.absolute()
    existing = next(path for path in (absolute_folder, *absolute_folder.parents) if path.exists())
    path = existing / f".harope-bench-{secrets.token_hex(4)}"
    try:
        path.touch()
    except OSError:
        yield existing
        return
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
