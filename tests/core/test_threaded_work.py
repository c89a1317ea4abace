"""Work in threads: the values, the order and the errors of one thread, with bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.threaded_work import (
    THREADS_VARIABLE,
    OrderedWriter,
    map_in_threads,
    thread_count,
    waiting_limit,
)

THREADS = [0, 1, 4]


def slow_square(value: int) -> int:
    """Later items are faster, so threads finish them in another order."""
    time.sleep(0.002 * (5 - value % 5))
    return value * value


@pytest.mark.parametrize("n_threads", THREADS)
def test_values_come_in_the_order_of_the_items(n_threads: int) -> None:
    values = map_in_threads(slow_square, range(20), 6, n_threads)
    assert list(values) == [value * value for value in range(20)]


@pytest.mark.parametrize("n_threads", THREADS)
def test_an_error_comes_after_the_values_before_it(n_threads: int) -> None:
    def fail_at_three(value: int) -> int:
        if value == 3:
            raise SampleError("image 3 is damaged")
        return slow_square(value)

    values: list[int] = []
    with pytest.raises(SampleError, match="image 3 is damaged"):
        values.extend(map_in_threads(fail_at_three, range(20), 6, n_threads))
    assert values == [0, 1, 4]


@pytest.mark.parametrize("n_threads", THREADS)
def test_an_error_of_reading_the_items_comes_after_the_values_before_it(n_threads: int) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise SampleError("no more items")

    values: list[int] = []
    with pytest.raises(SampleError, match="no more items"):
        values.extend(map_in_threads(slow_square, items(), 6, n_threads))
    assert values == [0, 1, 4]


def test_no_more_items_are_read_than_may_wait() -> None:
    read_items = []

    def items() -> Iterator[int]:
        for item in range(50):
            read_items.append(item)
            yield item

    for n_values, _ in enumerate(map_in_threads(slow_square, items(), 3, 2), 1):
        assert len(read_items) <= n_values + 3


def test_a_closed_iterator_drops_items_that_no_thread_has_begun() -> None:
    started_items = []

    def note(value: int) -> int:
        started_items.append(value)
        time.sleep(0.02)
        return value

    values = map_in_threads(note, range(40), 30, 1)
    assert next(values) == 0
    values.close()  # type: ignore[attr-defined]
    count = len(started_items)
    assert count < 30
    time.sleep(0.05)
    assert len(started_items) == count
    assert not any(thread.name.startswith("harope-bench") for thread in threading.enumerate())


@pytest.mark.parametrize("n_threads", THREADS)
def test_a_writer_writes_everything_in_order(n_threads: int) -> None:
    written_items: list[int] = []
    with OrderedWriter(slow_square, written_items.append, 4, n_threads) as writer:
        for value in range(20):
            writer.submit(value)
    assert written_items == [value * value for value in range(20)]


def test_a_writer_writes_while_the_caller_works() -> None:
    """A killed caller loses nothing that was encoded before."""
    is_written = threading.Event()
    with OrderedWriter(slow_square, lambda _: is_written.set(), 4, 2) as writer:
        writer.submit(3)
        assert is_written.wait(5)


def test_a_writer_holds_no_more_items_than_may_wait() -> None:
    n_submitted = 0
    n_written = 0
    largest = 0

    def write(_: int) -> None:
        nonlocal n_written
        time.sleep(0.002)
        n_written += 1

    with OrderedWriter(abs, write, 3, 2) as writer:
        for value in range(20):
            writer.submit(value)
            n_submitted += 1
            largest = max(largest, n_submitted - n_written)
    # One more item may be written_items but not yet counted as such.
    assert largest <= 3 + 1
    assert n_written == 20


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("step", ["encode", "write"])
def test_a_writer_raises_its_error_and_writes_nothing_after_it(n_threads: int, step: str) -> None:
    written_items: list[int] = []

    def encode(value: int) -> int:
        if value == 3 and step == "encode":
            raise SampleError("sample 3 has no pixels")
        return value

    def write(value: int) -> None:
        if value == 3 and step == "write":
            raise SampleError("sample 3 has no pixels")
        written_items.append(value)

    def write_all() -> None:
        with OrderedWriter(encode, write, 2, n_threads) as writer:
            for value in range(50):
                writer.submit(value)

    with pytest.raises(SampleError, match="sample 3 has no pixels"):
        write_all()
    assert written_items == [0, 1, 2]


@pytest.mark.parametrize("n_threads", THREADS)
def test_an_error_of_the_caller_is_raised_after_what_it_submitted_is_written(
    n_threads: int,
) -> None:
    written_items: list[int] = []

    def fail_after_five() -> None:
        with OrderedWriter(slow_square, written_items.append, 9, n_threads) as writer:
            for value in range(5):
                writer.submit(value)
            raise RuntimeError("the network failed")

    with pytest.raises(RuntimeError, match="the network failed"):
        fail_after_five()
    assert written_items == [0, 1, 4, 9, 16]


def test_a_writer_that_failed_takes_no_slot_for_what_it_rejects() -> None:
    """The caller submits again what it still has, after the error."""

    def fail(item: str) -> None:
        raise OSError("disk full")

    def submit_again(writer: OrderedWriter[int, str]) -> None:
        try:
            for item in range(100):
                writer.submit(item)
        finally:
            with suppress(OSError):
                writer.submit(100)

    with pytest.raises(OSError, match="disk full"), OrderedWriter(str, fail, 1) as writer:
        submit_again(writer)


def test_the_number_of_threads_is_that_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "0")
    assert thread_count() == 0
    monkeypatch.setenv(THREADS_VARIABLE, "7")
    assert thread_count() == 7
    monkeypatch.delenv(THREADS_VARIABLE)
    assert 1 <= thread_count() <= 16


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "257"])
def test_a_wrong_number_of_threads_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, text)
    with pytest.raises(OptionError, match=rf"{THREADS_VARIABLE} is '{text}', wanted a whole"):
        thread_count()


def test_fewer_items_wait_the_larger_they_are() -> None:
    assert waiting_limit(3 * 2048**2) == 21
    assert waiting_limit(3 * 28**2) == 1024
    assert waiting_limit(1 << 40) == 1
    assert waiting_limit(1 << 40, minimum=2) == 2
