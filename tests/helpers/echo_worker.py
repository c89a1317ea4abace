"""A worker that says of each unit where it was done; units tell it to do harm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harope_bench.core.errors import OptionError


def repeat(word: str) -> tuple[str, int]:
    """Return a word and the process that this is; the word "error" raises one."""
    if word == "error":
        raise OptionError("wanted 1, found 2", advice="give 1")
    return word, os.getpid()


class Echo:
    """Returns each unit, with the environment and the folder of its process.

    The unit "error" raises one, "end" ends the process, "end once:FILE" ends it unless the file
    exists, "megabytes:N" returns as many, and a pair (unit, seconds) takes that long.
    """

    def results(self, units: Iterable[Any]) -> Iterator[Any]:
        for unit in units:
            if unit == "error":
                raise OptionError("wanted 1, found 2; give 1")
            if unit == "end":
                os._exit(1)
            if isinstance(unit, str) and unit.startswith("end once:"):
                path = Path(unit.partition(":")[2])
                if not path.exists():
                    path.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            if isinstance(unit, tuple):
                time.sleep(unit[1])
            n_megabytes = 0
            if isinstance(unit, str) and unit.startswith("megabytes:"):
                n_megabytes = int(unit.partition(":")[2])
            yield {
                "unit": unit,
                "home": os.environ.get("HAROPE_BENCH_HOME"),
                "cwd": os.getcwd(),
                "bytes": bytes(n_megabytes << 20),
            }

    def pack(self, result: Any) -> Any:
        return result
