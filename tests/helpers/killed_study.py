"""A command of the study of tiny judges in a process of its own, which is killed in a method.

The process is a new one and no fork: what other tests have left in the memory of theirs does not
reach it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run_killed(
    folder: Path, home: Path, words: Sequence[str], owner: type, method: str, n_calls: int
) -> None:
    """Run a command until call number `n_calls` of a method, which does nothing any more.

    Args:
        folder, home: of the study, as `tiny_judges.stand_in` takes them.
    """
    arguments = [str(folder), str(home), owner.__module__, owner.__name__, method, n_calls, *words]
    process = subprocess.run(
        [sys.executable, __file__, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stdout + process.stderr


def main() -> None:
    """Run the command of the arguments."""
    import pytest
    import tiny_judges

    from harope_bench.cli import main as run_command

    folder, home, module_name, class_name, method, n_calls, *words = json.loads(sys.argv[1])
    owner = getattr(importlib.import_module(module_name), class_name)
    own_function = getattr(owner, method)
    calls = iter(range(1, n_calls + 1))

    def count_or_die(*inputs: Any) -> Any:
        if next(calls) == n_calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return own_function(*inputs)

    setattr(owner, method, count_or_die)
    with pytest.MonkeyPatch.context() as patch:
        tiny_judges.stand_in(patch, Path(folder), Path(home))
        run_command(words)


if __name__ == "__main__":
    main()
