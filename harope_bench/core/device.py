"""The check that the requested compute device is available."""

from __future__ import annotations

from harope_bench.core.errors import OptionError
from harope_bench.core.extras import require_packages


def require_device(device: str) -> None:
    """Raise OptionError unless the device ("cpu", "cuda" or "mps") is available.

    torch is imported only for a device other than the CPU.
    """
    if device == "cpu":
        return
    require_packages(f"--device {device}", "torch")
    import torch

    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_available[device]:
        raise OptionError(
            f"--device {device} asked for, this machine has none that torch {torch.__version__} can"
            " use; --device cpu works"
        )
