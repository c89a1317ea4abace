"""The check that torch, which is an optional package, is installed."""

from __future__ import annotations

from harope_bench.core.errors import MissingExtraError
from harope_bench.core.extras import install_command


def require_torch(purpose: str) -> None:
    """Raise MissingExtraError, which names the command, unless torch can be imported.

    Args:
        purpose: What needs torch, the subject of the message.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs torch, which is not installed", advice=install_command("torch")
        ) from error
