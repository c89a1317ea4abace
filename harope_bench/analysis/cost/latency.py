"""Time and memory of a network that really runs."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Operator = Callable[..., object]  # one of torch's
WARM_UP_FORWARDS = 3  # forwards before the first one that counts


def time_forwards(run: Callable[[], object], count: int, device: torch.device) -> list[float]:
    """Wall times of `count` forwards after WARM unmeasured ones; the device is waited for on both
    sides of each.
    """
    for _ in range(WARM_UP_FORWARDS):
        run()
    return [_time_forward(run, device) for _ in range(count)]


def _time_forward(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_bytes(run: Callable[[], object], network: nn.Module, device: torch.device) -> int:
    """Most bytes held at once in one forward, weights included.

    On CUDA what torch's allocator says. Elsewhere the storages of all tensors alive, as torch's
    operators make them: the scratch space
    inside a kernel is not seen.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with LiveMemory() as live:
        run()
    return live.peak_bytes + sum(
        t.untyped_storage().nbytes() for t in (*network.parameters(), *network.buffers())
    )


class LiveMemory(TorchDispatchMode):
    """Bytes of the storages that operators made and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = self.peak_bytes = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Operator,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Runs the operator and counts what it made; a view shares its storage and counts
        nothing.
        """
        known = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known:
                self._add_storage(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        return out

    def _add_storage(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = storage.nbytes()
        if key not in self.storages:
            self.storages.add(key)
            self.current_bytes += size
            weakref.finalize(storage, self._release_storage, key, size)

    def _release_storage(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.current_bytes -= size
