"""Where networks run: asked for by name, refused by name where it is not here."""

from __future__ import annotations

from harope_bench.core.errors import OptionError


def require_device(device: str) -> None:
    """OptionError unless the device is here; torch is asked only for something other than the
    CPU.
    """
    if device == "cpu":
        return
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here[device]:
        raise OptionError(
            f"--device {device} asked for, this machine has none that torch {torch.__version__} can"
            " use; --device cpu works"
        )
