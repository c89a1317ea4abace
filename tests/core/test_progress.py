"""Progress is a bar on a terminal, a line a minute elsewhere, and moves inside a batch."""

from __future__ import annotations

import io

import pytest

from harope_bench.core.progress import Progress, report_step, show_note


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_one_line_a_minute_is_printed() -> None:
    clock = Clock()
    stream = io.StringIO()
    with Progress("generate my-pe", 100, "image", clock=clock, stream=stream) as progress:
        for second in range(1, 151):
            clock.seconds = float(second)
            if second % 3 == 0:
                progress.advance()
            else:
                report_step(second % 3, 3)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "generate my-pe: 20 of 100 images, 0.333 images/s, 04:00 left",
        "generate my-pe: 40 of 100 images, 0.333 images/s, 03:00 left",
    ]


def test_a_line_names_the_step_of_a_batch_that_takes_minutes() -> None:
    clock = Clock()
    stream = io.StringIO()
    with Progress("generate my-flux", 8, "image", clock=clock, stream=stream):
        for step in range(1, 29):
            clock.seconds += 10
            report_step(step, 28)
    assert stream.getvalue().splitlines() == [
        "generate my-flux: 0 of 8 images, step 6 of 28",
        "generate my-flux: 0 of 8 images, step 12 of 28",
        "generate my-flux: 0 of 8 images, step 18 of 28",
        "generate my-flux: 0 of 8 images, step 24 of 28",
    ]


def test_on_a_terminal_the_bar_moves_with_the_steps_of_a_batch() -> None:
    clock = Clock()
    stream = Terminal()
    with Progress("generate my-flux", 8, "image", clock=clock, stream=stream) as progress:
        for step in range(1, 29):
            clock.seconds += 2
            report_step(step, 28)
        progress.advance()
    text = stream.getvalue()
    assert all(f"step {step} of 28" in text for step in range(1, 29))
    assert "1/8" in text


def test_short_work_prints_nothing_without_a_terminal() -> None:
    stream = io.StringIO()
    with Progress("extract digits-net", 3, "image", stream=stream) as progress:
        progress.advance(3)
    assert stream.getvalue() == ""


def test_steps_outside_of_any_progress_are_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    report_step(1, 2)
    assert capsys.readouterr() == ("", "")


def test_bytes_have_a_prefix_and_resumed_work_starts_at_its_count() -> None:
    clock = Clock()
    stream = io.StringIO()
    with Progress("f.bin", None, "B", 5_000_000, True, clock, stream) as progress:
        clock.seconds = 61
        progress.advance(61_000_000)
    assert stream.getvalue() == "f.bin: 66.0M B, 1.00M B/s\n"


def test_the_rate_is_that_of_the_last_minutes() -> None:
    """Ten images a second for a minute, then one: the time left is that of one a second."""
    clock = Clock()
    stream = io.StringIO()
    with Progress("generate my-pe", 2000, "image", clock=clock, stream=stream) as progress:
        for second in range(1, 1001):
            clock.seconds = float(second)
            progress.advance(10 if second <= 60 else 1)
    assert stream.getvalue().splitlines()[0] == (
        "generate my-pe: 600 of 2,000 images, 10 images/s, 02:20 left"
    )
    assert progress.line() == "generate my-pe: 1,540 of 2,000 images, 1 images/s, 07:40 left"


def test_slow_work_has_a_rate_although_its_last_units_are_long_ago() -> None:
    clock = Clock()
    with Progress("generate my-flux", 10, "image", clock=clock, stream=io.StringIO()) as progress:
        for _ in range(3):
            clock.seconds += 600
            progress.advance()
    assert progress.line() == "generate my-flux: 3 of 10 images, 0.00167 images/s, 1:10:00 left"


def test_a_note_of_the_workers_is_shown_while_no_unit_is_finished() -> None:
    clock = Clock()
    stream = io.StringIO()
    with Progress("generate my-pe", 8, "image", clock=clock, stream=stream):
        for second in range(0, 66, 5):
            clock.seconds = float(second)
            show_note("7 of 8 workers, 1 lost")
    assert stream.getvalue() == "generate my-pe: 0 of 8 images, 7 of 8 workers, 1 lost\n"
    show_note("outside of any progress")
