"""How the networks of judges compute: without TF32, which newer GPUs use, and without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def full_float32() -> Iterator[None]:
    """Turn TF32 off within the block and restore the process's settings afterwards.

    TF32 would round the factors of every product on newer GPUs.
    """
    import torch

    precision_before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision_before)


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function run in torch's inference mode.

    `torch.inference_mode` as a decorator would import torch wherever a judge is only described.
    """

    @wraps(function)
    def run_without_gradients(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        with torch.inference_mode():
            return function(*args, **kwargs)

    return run_without_gradients
