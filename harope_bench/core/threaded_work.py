"""Work in threads, in order and with bounded memory: decoding, encoding and writing of images.

Pillow, zlib, hashlib and torch free Python's lock while they work, so such threads run beside the
network. Results come in the order of the items, and an error is raised where the same work in one
thread would raise it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import parse_whole_number

THREADS_VARIABLE = "HAROPE_BENCH_THREADS"
DEFAULT_MAX_THREADS = 16
MAX_THREADS = 256
# Bytes of the items that may wait in memory for a thread or for their turn.
WAITING_BYTES = 1 << 28
MAX_WAITING_ITEMS = 1024

Item = TypeVar("Item")
Output = TypeVar("Output")


def thread_count() -> int:
    """Return the number of threads for work on files; 0 does the work in the calling thread.

    It is the value of HAROPE_BENCH_THREADS, or else the number of available cores, at most 16.

    Raises:
        OptionError: The variable is no whole number from 0 to MAX_THREADS.
    """
    text = os.environ.get(THREADS_VARIABLE)
    if not text:
        return min(DEFAULT_MAX_THREADS, available_cores())
    count = parse_whole_number(text)
    if count is None or count > MAX_THREADS:
        raise OptionError(
            f"{THREADS_VARIABLE} is {text[:40]!r}, wanted a whole number from 0 to {MAX_THREADS};"
            " correct or unset it"
        )
    return count


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def waiting_limit(item_bytes: int, minimum: int = 1, maximum: int = MAX_WAITING_ITEMS) -> int:
    """Return how many items of this size may wait in memory: WAITING_BYTES within the bounds."""
    return max(minimum, min(maximum, WAITING_BYTES // max(item_bytes, 1)))


def map_in_threads(
    function: Callable[[Item], Output],
    items: Iterable[Item],
    n_waiting: int,
    n_threads: int | None = None,
) -> Iterator[Output]:
    """Yield the function's value of each item, in the order of the items.

    The items are read in the calling thread. An error of the function, or of reading the items, is
    raised after the values of the items before it. When the iterator is closed, items that no
    thread has begun are dropped.

    Args:
        n_waiting: At most this number of items is ahead of the last value that was yielded.
        n_threads: Number of threads; None for `thread_count`. 0 calls the function here.
    """
    n_threads = thread_count() if n_threads is None else n_threads
    if n_threads == 0 or n_waiting == 0:
        yield from map(function, items)
        return

    executor = ThreadPoolExecutor(n_threads, "harope-bench")
    pending: deque[Future[Output]] = deque()
    items_error: Exception | None = None
    iterator = iter(items)
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - raised again after the values before it
                items_error = error
                break
            pending.append(executor.submit(function, item))
            del item
            if len(pending) > n_waiting:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if items_error is not None:
            raise items_error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class OrderedWriter(Generic[Item, Output]):
    """Encodes items in threads and writes them in order in one further thread.

    A context manager. `submit` returns at once unless too many items wait, so the caller continues
    while items are encoded and written. When the block ends, even by an error, all submitted items
    are written first.
    """

    def __init__(
        self,
        encode: Callable[[Item], Output],
        write: Callable[[Output], None],
        n_waiting: int,
        n_threads: int | None = None,
    ) -> None:
        """Start the threads.

        Args:
            encode: Called in any thread.
            write: Called in the order of `submit`, after its item is encoded.
            n_waiting: Submitted items that are not yet written, at most.
            n_threads: Number of threads that encode; None for `thread_count`. 0 encodes and writes
                in the calling thread.
        """
        self._encode = encode
        self._write = write
        self._n_threads = thread_count() if n_threads is None else n_threads
        if self._n_threads == 0:
            return
        self._encoders = ThreadPoolExecutor(self._n_threads, "harope-bench")
        self._writer = ThreadPoolExecutor(1, "harope-bench-writer")
        self._slots = threading.Semaphore(max(1, n_waiting))
        self._writes: deque[Future[None]] = deque()
        self._has_failed = False

    def submit(self, item: Item) -> None:
        """Encode and write an item; wait while too many items are unwritten.

        Raises:
            Exception: The error of an earlier item. Nothing is written after such an item.
        """
        if self._n_threads == 0:
            self._write(self._encode(item))
            return
        self._slots.acquire()
        try:
            while self._writes and self._writes[0].done():
                self._writes.popleft().result()
        except BaseException:
            self._slots.release()  # the item of this call is not written
            raise
        encoded = self._encoders.submit(self._encode, item)
        self._writes.append(self._writer.submit(self._write_next, encoded))

    def _write_next(self, encoded: Future[Output]) -> None:
        """Write an item in the writer's thread, unless an earlier one failed."""
        try:
            if not self._has_failed:
                self._has_failed = True  # until the write has returned
                self._write(encoded.result())
                self._has_failed = False
        finally:
            self._slots.release()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until everything is written; raise the error of an item, unless one is raised."""
        if self._n_threads == 0:
            return
        self._encoders.shutdown()
        self._writer.shutdown()
        for write in self._writes:
            if error is None:
                write.result()
