"""What both benchmarks share: machine facts, processor time, a process's memory, medians of
interleaved runs, tables between markers.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
EVERY = 0.005  # seconds between two looks at a process's memory


class ElapsedTime(NamedTuple):
    """Seconds of the clock and of the processor (user and system)."""

    wall: float
    cpu: float


class Run(NamedTuple):
    """A finished process: its time, its largest anonymous memory in MB, the kernel's own peak of
    all memory in MB, its answer.
    """

    spent: ElapsedTime
    anonymous: float
    resident: float
    answer: dict[str, Any]


def machine() -> dict[str, str]:
    """Facts that a measured number needs beside it."""
    import numpy as np

    fields = {
        "processor": _processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
    }
    fields |= {name: _version(name) for name in ("scipy", "torch", "torch-fidelity", "clean-fid")}
    allowed_sched_getaffinity = sorted(os.sched_getaffinity(0))
    return fields | {
        "cores": f"{len(allowed_sched_getaffinity)} of {os.cpu_count()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }


def time_call(run: Callable[[], Any]) -> tuple[ElapsedTime, Any]:
    """Time of a call in this process, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = run()
    return ElapsedTime(time.perf_counter() - wall, time.process_time() - cpu), answer


def in_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end and watch it; its answer is what it printed, where that or its last
    line is JSON.

    anonymous is the largest RssAnon seen in /proc/PID/status, looked at every 5 ms: memory that the
    process allocated, without the pages
    of mapped files. resident is VmHWM, kept by the kernel itself, with them.
    """
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        )
        anonymous = resident = 0.0
        while True:
            memory = _memory(process.pid)
            anonymous, resident = (
                max(anonymous, memory.get("RssAnon", 0.0)),
                max(resident, memory.get("VmHWM", 0.0)),
            )
            process_value, status, usage = os.wait4(process.pid, os.WNOHANG)
            if process_value:
                break
            time.sleep(EVERY)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        answer = _answer(out.read())
    return Run(ElapsedTime(wall, usage.ru_utime + usage.ru_stime), anonymous, resident, answer)


def _answer(text: str) -> dict[str, Any]:
    for message in (text, text.strip().rpartition("\n")[2]):
        with contextlib.suppress(json.JSONDecodeError):
            return dict(json.loads(message))
    return {}


def run_interleaved(
    runs: Mapping[str, Callable[[], ElapsedTime]], repetitions: int
) -> dict[str, list[ElapsedTime]]:
    """Each run once a round, round after round, so that a busy minute is shared by all."""
    records: dict[str, list[ElapsedTime]] = {name: [] for name in runs}
    for number in range(repetitions):
        for name, run in runs.items():
            records[name].append(run())
            print(
                f"  {number + 1}/{repetitions} {name}: {records[name][-1].cpu:.2f} s cpu",
                file=sys.stderr,
                flush=True,
            )
    return records


def ratio(
    library_items: Sequence[ElapsedTime], package_items: Sequence[ElapsedTime]
) -> tuple[float, float, float]:
    """Median and range over the rounds of the peer's processor time as a multiple of ours."""
    shares = [a.cpu / b.cpu for a, b in zip(library_items, package_items, strict=True)]
    return statistics.median(shares), min(shares), max(shares)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def marker_text(name: str, document: Path = DOCUMENT) -> str:
    """Return what stands between the markers NAME and /NAME of the document; empty if nothing
    does.
    """
    match = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", document.read_text(), re.DOTALL)
    return match[1] if match else ""


def write_between(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Put text between the markers NAME and /NAME of the document."""
    old_text = document.read_text()
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not all(mark in old_text for mark in marks):
        sys.exit(f"{document} has no markers {' '.join(marks)}")
    new_text = re.sub(
        rf"({marks[0]}\n).*?({marks[1]})",
        lambda m: f"{m[1]}{text}\n{m[2]}",
        old_text,
        flags=re.DOTALL,
    )
    document.write_text(new_text)


def _memory(pid: int) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("RssAnon:", "VmHWM:")))
    return {name.rstrip(":"): int(value) / 1024 for name, value, *_ in fields}


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _blas() -> str:
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
