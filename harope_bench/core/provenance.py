"""The provenance of a record: versions, commit, machine, flags, command and times."""

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
    """Return the time in UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_provenance(
    start_time: str, device: str, flags: Mapping[str, Option] | None = None
) -> Provenance:
    """Return the provenance of work that ends now.

    Args:
        start_time: When the work began, from `utc_now`.
        device: Where networks ran.
        flags: Settings to record beside those of torch.
    """
    commit, has_changes = _git_state()
    versions = {name: package_version(name) for name in PACKAGES}
    return Provenance(
        version=__version__,
        commit=commit,
        dirty=has_changes,
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        packages={name: version for name, version in versions.items() if version},
        flags={**_torch_flags(), **(flags or {})},
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        started=start_time,
        finished=utc_now(),
    )


def package_version(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_flags() -> dict[str, Option]:
    """Return the settings of torch that can change the last bits; empty if torch is not loaded."""
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
    """Return the commit of this package's git checkout and whether it has uncommitted changes.

    Both are None if the package was installed without a checkout.
    """
    folder = Path(__file__).resolve().parents[1]
    if not (folder.parent / ".git").exists():
        return None, None
    try:
        commit = _git_output(folder, "rev-parse", "HEAD")
        status = _git_output(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)


def _git_output(folder: Path, *arguments: str) -> str:
    process = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return process.stdout.strip()
