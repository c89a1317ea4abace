"""Images that a prompt benchmark scores as wrong, as a table for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from harope_bench.core.escaping import printable_line
from harope_bench.reports.failure_details import Row, answer_texts, main_score, worst_first
from harope_bench.reports.failures import is_failure

HEADERS = ("image", "task", "score", "prompt", "reason")
MIN_TEXT_WIDTH = 24  # of prompt and of reason, also on a narrow terminal
MAX_TASK_WIDTH = 20


def failures_table(rows: Sequence[Row], include_all: bool, width: int) -> str:
    """Return a table for each result: its counts by task, then the images, the worst first.

    Args:
        rows: the rows of all images.
        include_all: list all images, also those with the full score.
        width: characters of a line.
    """
    names = dict.fromkeys(str(row["result"]) for row in rows)
    return "\n".join(
        _result_table([row for row in rows if row["result"] == name], include_all, width)
        for name in names
    )


def _result_table(rows: Sequence[Row], include_all: bool, width: int) -> str:
    """Return the table of one result."""
    wrong_rows = [row for row in rows if is_failure(row)]
    listed_rows = worst_first(rows if include_all else wrong_rows)
    lines = [
        f"{printable_line(str(rows[0]['result']))}: {len(wrong_rows):,} of {len(rows):,} images"
        " below the full score",
        *_task_lines(rows, wrong_rows, width),
    ]
    if listed_rows:
        lines += ["", *_aligned_lines([_cells(row) for row in listed_rows], width)]
    return "\n".join(lines) + "\n"


def _task_lines(rows: Sequence[Row], wrong_rows: Sequence[Row], width: int) -> list[str]:
    """Return how many images of each task are wrong, as wrapped lines; none with one task."""
    n_by_task = Counter(_task(row) for row in rows)
    n_wrong_by_task = Counter(_task(row) for row in wrong_rows)
    if len(n_by_task) < 2:
        return []
    text = ", ".join(f"{task} {n_wrong_by_task[task]} of {n}" for task, n in n_by_task.items())
    return textwrap.wrap(text, width)


def _task(row: Row) -> str:
    """Return the task of an image; images that were not scored have none."""
    return printable_line(str(row.get("task") or "no task"))


def _cells(row: Row) -> tuple[str, ...]:
    """Return the cells of an image: its score is the verdict where there is none."""
    score = main_score(row)
    reasons = [str(row.get("reason") or ""), *answer_texts(row)]
    return tuple(
        printable_line(text)
        for text in (
            str(row.get("index", "")),
            str(row.get("task") or ""),
            str(row.get("verdict", "")) if score is None else f"{score:.3g}",
            str(row.get("prompt", "")),
            "; ".join(filter(None, reasons)),
        )
    )


def _aligned_lines(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Return the rows below their headers, prompts and reasons wrapped to the width."""
    widths = [max(len(row[i]) for row in (HEADERS, *rows)) for i in range(3)]
    widths[1] = min(widths[1], MAX_TASK_WIDTH)
    n_left = width - sum(widths) - 2 * len(widths)
    prompt_width = max(MIN_TEXT_WIDTH, n_left * 2 // 5)
    reason_width = max(MIN_TEXT_WIDTH, n_left - prompt_width - 2)
    widths += [min(prompt_width, max(len(row[3]) for row in (HEADERS, *rows))), reason_width]
    return [line for row in (HEADERS, *rows) for line in _row_lines(row, widths)]


def _row_lines(cells: tuple[str, ...], widths: Sequence[int]) -> list[str]:
    """Return the lines of one row; the cells of image and score are aligned to the right."""
    wrapped_cells = [
        textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)
    ]
    lines = []
    for parts in zip_longest(*wrapped_cells, fillvalue=""):
        padded_parts = [
            part.rjust(width) if header in ("image", "score") else part.ljust(width)
            for header, part, width in zip(HEADERS, parts, widths, strict=True)
        ]
        lines.append("  ".join(padded_parts).rstrip())
    return lines
