"""The choice of the compute device, and the check that it is available."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.extras import require_packages

AUTO = "auto"
DEVICE_PATTERN = r"^(cpu|mps|cuda(:\d{1,3})?)$"
# Device files of accelerators: NVIDIA, NVIDIA under WSL, AMD.
LINUX_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def parse_device(text: str) -> str:
    """Return the device "cpu", "cuda", "cuda:N" or "mps" of a text; "auto" chooses one.

    Raises:
        ValueError: The text names no device.
    """
    if text == AUTO:
        return choose_device()
    if not re.fullmatch(DEVICE_PATTERN, text):
        raise ValueError(f"{text[:40]!r} is not auto, cpu, cuda, cuda:N or mps")
    return text


def choose_device() -> str:
    """Return the first available device of "cuda", "mps" and "cpu".

    torch is imported only where the machine may have an accelerator.
    """
    if not _may_have_accelerator() or find_spec("torch") is None:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _may_have_accelerator() -> bool:
    """Return False where torch need not be asked, because it cannot find an accelerator."""
    return sys.platform != "linux" or any(Path(file).exists() for file in LINUX_DEVICE_FILES)


def device_type(device: str) -> str:
    """Return the device without its number: "cuda" for "cuda:1"."""
    return device.partition(":")[0]


def free_memory(device: str) -> None:
    """Give the memory of networks that no longer exist back to a CUDA device."""
    if device_type(device) == "cuda":
        import torch

        torch.cuda.empty_cache()


def require_device(device: str) -> None:
    """Raise OptionError unless the device ("cpu", "cuda", "cuda:N" or "mps") is available.

    torch is imported only for a device other than the CPU.
    """
    if device == "cpu":
        return
    require_packages(f"--device {device}", "torch")
    import torch

    kind = device_type(device)
    n_devices = torch.cuda.device_count() if kind == "cuda" else int(_has_mps())
    index = int(device.partition(":")[2] or 0)
    if n_devices == 0:
        raise OptionError(
            f"--device {device} asked for, this machine has none that torch {torch.__version__} can"
            " use; --device cpu works"
        )
    if index >= n_devices:
        raise OptionError(
            f"--device {device} asked for, this machine has {n_devices} CUDA devices, numbered from"
            " 0; choose one of them"
        )


@contextmanager
def tf32_products(is_allowed: bool | None) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to TF32 within the block.

    The settings of the process are restored afterwards. Without permission nothing is changed.
    """
    if not is_allowed:
        yield
        return
    import torch

    matmul_before = torch.backends.cuda.matmul.allow_tf32
    cudnn_before = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul_before
        torch.backends.cudnn.allow_tf32 = cudnn_before


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()
