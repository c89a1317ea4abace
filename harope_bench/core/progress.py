"""Progress on stderr: a bar on a terminal, one line a minute elsewhere.

A generator that computes a batch in many steps reports each step with `report_step`. The innermost
open progress shows it, so that it moves while a batch is computed.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self, TextIO

from tqdm import tqdm

from harope_bench.core.escaping import terminal_text

SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_STEPS = 0.5  # a bar is drawn at most this often for steps inside a batch
# The rate is that of the last minutes, because the start loads networks and workers may be lost.
RATE_SECONDS = 300.0

_open_progress: list[Progress] = []


class Progress:
    """The progress of one piece of work, a context manager.

    On a terminal it is a tqdm bar with rate and time left. Elsewhere it prints a line with count,
    rate and time left each minute, so short work prints nothing.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        initial: int = 0,
        is_scaled: bool = False,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        """Start at `initial` of `total` units; `total` is None if it is not known.

        Args:
            unit: What is counted, in the singular.
            is_scaled: Large counts are shown with a prefix: 12.5M.
            clock: Returns seconds.
            stream: stderr by default.
        """
        self.title = title
        self.total = total
        self.unit = unit
        self.count = initial
        self._is_scaled = is_scaled
        self._clock = clock
        self._stream = stream or sys.stderr
        start_time = clock()
        self._counts = deque([(start_time, initial)])  # of the last minutes, with their times
        self._last_line_time = start_time
        self._last_step_time = start_time
        self._step_text = ""
        self._note = ""
        self._bar: tqdm[NoReturn] = tqdm(
            total=total,
            initial=initial,
            desc=title,
            unit=unit,
            unit_scale=is_scaled,
            file=self._stream,
            disable=not self._stream.isatty(),
        )

    def __enter__(self) -> Self:
        """Make this the progress that shows the steps of `report_step`."""
        _open_progress.append(self)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar."""
        _open_progress.remove(self)
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Add `count` finished units."""
        self.count += count
        self._add_count()
        self._step_text = ""
        if not self._bar.disable:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
        self._print_due_line()

    def set_note(self, note: str) -> None:
        """Show a text beside the counts, such as the loss of a training."""
        self._note = note
        self._bar.set_postfix_str(note, refresh=False)
        self._print_due_line()

    def show_step(self, step: int, total: int) -> None:
        """Show how many steps of the current batch are finished."""
        self._step_text = f"step {step:,} of {total:,}"
        now = self._clock()
        if not self._bar.disable and now - self._last_step_time >= SECONDS_BETWEEN_STEPS:
            self._last_step_time = now
            self._bar.set_postfix_str(self._step_text)
        self._print_due_line()

    def line(self) -> str:
        """Return the line that is printed where stderr is no terminal."""
        rate = self._rate()
        number = tqdm.format_sizeof if self._is_scaled else "{:,}".format
        counts = number(self.count)
        if self.total:
            counts = f"{counts} of {number(self.total)}"
        plural = self.unit if self._is_scaled else f"{self.unit}s"
        parts = [f"{self.title}: {counts} {plural}"]
        parts += [text for text in (self._step_text, self._note) if text]
        if rate > 0:
            rate_text = tqdm.format_sizeof(rate) if self._is_scaled else f"{rate:.3g}"
            parts.append(f"{rate_text} {plural}/s")
            if self.total:
                left = tqdm.format_interval((self.total - self.count) / rate)
                parts.append(f"{left} left")
        return ", ".join(parts)

    def _add_count(self) -> None:
        """Remember the count, and forget those of long ago."""
        now = self._clock()
        self._counts.append((now, self.count))
        while len(self._counts) > 2 and self._counts[1][0] <= now - RATE_SECONDS:
            self._counts.popleft()

    def _rate(self) -> float:
        """Return the units a second of the last minutes."""
        first_time, first_count = self._counts[0]
        return (self.count - first_count) / max(self._clock() - first_time, 1e-9)

    def _print_due_line(self) -> None:
        """Print a line if stderr is no terminal and the last one is a minute old."""
        now = self._clock()
        if self._bar.disable and now - self._last_line_time >= SECONDS_BETWEEN_LINES:
            self._last_line_time = now
            write_line(self.line(), self._stream)


def write_line(text: str, stream: TextIO | None = None) -> None:
    """Write a line to stderr, or to another stream; replace control characters with blanks."""
    stream = stream or sys.stderr
    stream.write(f"{terminal_text(text)}\n")
    stream.flush()


def report_step(step: int, total: int) -> None:
    """Tell the innermost open progress how many steps of the current batch are finished."""
    if _open_progress:
        _open_progress[-1].show_step(step, total)


def show_note(text: str) -> None:
    """Show a text beside the counts of the innermost open progress, and a line that is due."""
    if _open_progress:
        _open_progress[-1].set_note(text)
