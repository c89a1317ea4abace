"""Who made a record: versions, commit, machine, flags, command, times."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from harope_bench import __version__
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Provenance

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "scipy", "pydantic")


def utc_now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_provenance(
    started: str, device: str, flags: Mapping[str, Option] | None = None
) -> Provenance:
    """Provenance of work that began at `started` (from `now`) and ends at this call; `flags` stand
    beside those of the process.
    """
    commit, dirty = _git_state()
    return Provenance(
        version=__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        packages={name: found for name in PACKAGES if (found := package_version(name))},
        flags={**_torch_flags(), **(flags or {})},
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        started=started,
        finished=utc_now(),
    )


def package_version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_flags() -> dict[str, Option]:
    """Settings of torch that can move a bit; empty where torch was never needed."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "threads": torch.get_num_threads(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and dirtiness of this package's checkout; None where it is installed without one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None, None
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        status = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())
