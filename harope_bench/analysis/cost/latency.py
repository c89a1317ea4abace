"""Latency and peak memory of forward passes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Operator = Callable[..., object]  # an operator of torch
WARM_UP_FORWARDS = 3  # forward passes before the first measured one


def time_forwards(run: Callable[[], object], count: int, device: torch.device) -> list[float]:
    """Return the wall times of `count` forward passes in seconds, after warming up.

    The device is synchronised before and after each.
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
    """Return the peak memory of one forward pass in bytes, weights included.

    On CUDA it is what torch's allocator reports. Elsewhere it is the sum of the storages of all
    living tensors that operators return; scratch memory inside a kernel is not counted.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with LiveMemory() as live_memory:
        run()
    weights = (*network.parameters(), *network.buffers())
    return live_memory.peak_bytes + sum(t.untyped_storage().nbytes() for t in weights)


class LiveMemory(TorchDispatchMode):
    """Counter of the bytes in living storages that operators allocated, and of their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = 0
        self.peak_bytes = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Operator,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run the operator and count the storages that it allocates; a view allocates none."""
        input_storages = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if not isinstance(tensor, Tensor):
                continue
            if tensor.untyped_storage()._cdata not in input_storages:
                self._add_storage(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        return output

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
