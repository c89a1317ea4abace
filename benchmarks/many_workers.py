"""How the rate of generation grows with the number of workers, with a network that only sleeps.

    OMP_NUM_THREADS=1 python benchmarks/many_workers.py --workers 1 2 4 8 --write

A network on a GPU leaves the processor free, and so does one that sleeps. So eight workers can be
measured on two cores, as long as other work leaves the driver's core free. Each number of workers
starts Ray anew. The rate is that of the second half of the images, so it does not contain the
start, which has a column of its own. --write puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).parents[1]
SIDE = 256
SECONDS_PER_IMAGE = 0.5
TILE = 4
IMAGES_PER_WORKER = 40
HEADER = (
    "| workers | images a second | times the rate of one | start, s | cores busy with other work |"
)


class SleepingWorker:
    """Makes images of waves after a sleep; a worker of `run_units`."""

    def __init__(self) -> None:
        """Compute the image (SIDE, SIDE, 3) uint8."""
        y, x = np.mgrid[0:SIDE, 0:SIDE]
        wave = 127 + 80 * np.sin(x / 9) + 40 * np.cos(y / 13)
        self._image = np.stack([wave] * 3, axis=-1).astype(np.uint8)

    def results(self, units: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
        """Yield the images of each padded batch."""
        from harope_bench.pipeline.generate import GeneratedImage

        for requests in units:
            time.sleep(SECONDS_PER_IMAGE * len(requests))
            yield [GeneratedImage(request, self._image, None) for request in requests]

    def pack(self, result: Sequence[Any]) -> list[Any]:
        """Return the images as they are stored."""
        from harope_bench.pipeline.generate import encode_image

        return [encode_image(image) for image in result]


class Measurement(NamedTuple):
    """The rate (images a second) of some workers, the start (s) and the busy cores of others."""

    n_workers: int
    rate: float
    start_seconds: float
    other_cores: float


def busy_seconds() -> float:
    """Return the processor seconds of all processes of this machine, Linux only."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    idle_ticks = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle_ticks) / os.sysconf("SC_CLK_TCK")


def measure(n_workers: int) -> Measurement:
    """Generate IMAGES_PER_WORKER images for each worker."""
    from harope_bench.data.run_folder import RunFolder
    from harope_bench.pipeline import workers
    from harope_bench.pipeline.generate import generate, make_plan
    from harope_bench.pipeline.ray_connection import open_ray_executor
    from harope_bench.pipeline.workers import Task, use_executor

    plan = make_plan("digits-harope", "digits", {"device": "cpu"})
    settings = plan.settings.model_copy(update={"resolution": SIDE, "tile": TILE})
    plan = plan.model_copy(update={"settings": settings})
    times: list[float] = []
    add_sample, run_units = RunFolder.add_sample, workers.run_units

    def add_and_time(self: RunFolder, sample: Any) -> None:
        add_sample(self, sample)
        times.append(time.perf_counter())

    def run_sleeping(_: Task, *arguments: Any) -> Iterator[Any]:
        task = Task("many_workers:SleepingWorker", {}, "cpu")
        return run_units(task, *arguments)

    start_time = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_ray_executor(n_workers, None, "cpu") as executor,
        use_executor(executor),
        patch.object(RunFolder, "add_sample", add_and_time),
        patch("harope_bench.pipeline.generate.run_units", run_sleeping),
        # Parts of one padded batch: larger ones return their images together, so that the second
        # half of the images would not be half of the work.
        patch("harope_bench.pipeline.generate.SECONDS_PER_PART", 0.0),
    ):
        busy_before = busy_seconds() - time.process_time()
        generate(plan, range(IMAGES_PER_WORKER * n_workers), Path(folder) / "run")
        seconds = time.perf_counter() - start_time
        other_cores = (busy_seconds() - time.process_time() - busy_before) / seconds

    # Workers start one after another; the rate is that of the second half of the images. It begins
    # with the last image of a padded batch of every worker.
    middle = len(times) // 2
    rate = (len(times) - middle) / (times[-1] - times[middle - 1])
    return Measurement(n_workers, rate, times[0] - start_time, other_cores)


def table(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as Markdown."""
    lines = [HEADER, "| --- | --- | --- | --- | --- |"]
    for m in measurements:
        ratio = m.rate / measurements[0].rate * measurements[0].n_workers
        lines.append(
            f"| {m.n_workers} | {m.rate:.3g} | {ratio:.2f} | {m.start_seconds:.0f} |"
            f" {m.other_cores:.1f} |"
        )
    lines += ["", f"{os.cpu_count()} cores, a load of {os.getloadavg()[0]:.1f} at the end."]
    return "\n".join(lines)


def write_table(text: str) -> None:
    """Replace the table in docs/performance.md."""
    path = ROOT / "docs/performance.md"
    section = re.compile("<!-- many workers -->.*?<!-- /many workers -->", re.S)
    replacement = f"<!-- many workers -->\n{text}\n<!-- /many workers -->"
    path.write_text(section.sub(lambda _: replacement, path.read_text()))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # workers import this module by name
    measurements = [measure(count) for count in options.workers]
    text = table(measurements)
    print(text)
    if options.write:
        write_table(text)


if __name__ == "__main__":
    main()
