"""A process that has torch and the package loaded and runs commands in forks of itself, each killed
by SIGKILL at a chosen point.

It reads a JSON list of one or two jobs a line from stdin and answers with a JSON list of their
results. A job is
{"words": [...], "cwd": ..., "home": ..., "kill": [call, phase] or null}. The second starts when the
first has come to its end or to
its point, where it then lives for a moment more, with the locks that it holds. The calls are those
that change a disk: a file opened for
writing, the bytes written, truncate, fsync, mkdir, rename, link, unlink, rmdir. They are counted
from 0 in the order in which the
command makes them, those outside its folder left out. The phase says where the kill falls: before
the call, after half of its bytes
(of a call without bytes: after it), or after it.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
# a resumed run differs from a straight one in its times; here no time passes
CLOCK = "2026-01-01T00:00:00+00:00"
SHARD, BLOCK = (
    20,
    40,
    # images a shard, and rows between two writes of their moments: small, so that small runs have
    # several of each
)
MOMENT = (
    0.5  # seconds for which a process lives on at its point while a second one works in its folder
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    "mkdir",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "remove",
    "rmdir",
    "truncate",
    "ftruncate",
    "fsync",
    "fdatasync",
)


class Calls:
    """The calls of this process that change a folder: counted, named, and at one of them the
    end.
    """

    def __init__(self, folder: str, kill: tuple[int, str] | None, arrival: int, lingers: bool):
        self.folder, self.kill, self.names = f"{folder}/", kill, list[str]()
        self.arrival, self.lingers = arrival, lingers

    def make(
        self, name: str, call: Callable[[], Any], half: Callable[[], Any] | None = None
    ) -> Any:
        """Make a call, unless the kill falls before it or halfway."""
        if self.folder not in name:
            return call()
        number = len(self.names)
        self.names.append(name.replace(self.folder, ""))
        phase = self.kill[1] if self.kill is not None and self.kill[0] == number else None
        if phase == "before":
            self.end()
        try:
            return half() if phase == "half" and half is not None else call()
        finally:
            if phase is not None:
                self.end()

    def end(self) -> None:
        """Tell that the point is reached, and kill this process as the system does when memory is
        short: nothing is cleared up.
        """
        os.close(self.arrival)
        if self.lingers:
            time.sleep(MOMENT)
        os.kill(os.getpid(), signal.SIGKILL)


def watch(calls: Calls) -> None:
    """Put the counting calls in the place of Python's own."""
    for name in CHANGES:
        setattr(os, name, _counted_call(calls, name, getattr(os, name)))
    real_open, real_write = os.open, os.write

    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if not flags & WRITING:
            return real_open(path, flags, *rest, **options)
        return calls.make(f"open {_name(path)}", lambda: real_open(path, flags, *rest, **options))

    def write(handle: int, data: Any) -> int:
        whole_content = bytes(data)
        return calls.make(
            f"write {_name(handle)}",
            lambda: real_write(handle, whole_content),
            lambda: real_write(handle, whole_content[: len(whole_content) // 2]),
        )

    class CountedFile(io.FileIO):
        """An open file whose writes are counted below Python's buffer, where they are the
        system's.
        """

        def write(self, data: Any) -> int:
            whole_content = bytes(data)
            real = super().write
            return calls.make(
                f"write {_name(self.fileno())}",
                lambda: real(whole_content),
                lambda: real(whole_content[: len(whole_content) // 2]),
            )

        def truncate(self, size: int | None = None) -> int:
            real = super().truncate
            return calls.make(f"truncate {_name(self.fileno())}", lambda: real(size))

    os.open, os.write = open_, write
    io.open = builtins.open = _opener(calls, CountedFile, io.open)


def _counted_call(calls: Calls, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return calls.make(
            f"{name} {' '.join(_name(a) for a in args[:2])}", lambda: real(*args, **options)
        )

    return call


def _opener(calls: Calls, counted_file: Any, real: Callable[..., Any]) -> Callable[..., Any]:
    def open_(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+"):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw_mode = mode.replace("b", "").replace("t", "")
        if isinstance(file, int):
            raw_counted_file = counted_file(file, raw_mode, closefd, opener)
        else:
            raw_counted_file = calls.make(
                f"open {_name(file)}", lambda: counted_file(file, raw_mode, closefd, opener)
            )
        buffer = (
            io.BufferedRandom(raw_counted_file)
            if "+" in mode
            else io.BufferedWriter(raw_counted_file)
        )
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    return open_


def _name(item: Any) -> str:
    """Return the path of a path, of a relative one from here, or of an open file; other things as
    they are.
    """
    if isinstance(item, int):
        try:
            return os.readlink(f"/proc/self/fd/{item}")
        except OSError:
            return str(item)
    return (
        os.path.abspath(os.fsdecode(item))
        if isinstance(item, (str, bytes, os.PathLike))
        else str(item)
    )


def warm_up_imports(assets: Path) -> None:
    """Load everything that a fork will need, and set what makes small runs show what large ones do;
    `assets` has the facts of some.
    """
    import importlib
    import pkgutil

    import torch

    import harope_bench
    from harope_bench.core import provenance

    provenance.utc_now = lambda: CLOCK
    provenance._git_state = lambda: (None, None)

    from harope_bench.core import registry
    from harope_bench.metrics import moments
    from harope_bench.pipeline import classify, extract_features, moments_cache, predictions

    torch.set_num_threads(1)
    extract_features.SHARD_SIZE = predictions.SHARD_SIZE = classify.SHARD_SIZE = SHARD
    moments_cache.BLOCK_ROWS = moments.BLOCK_ROWS = BLOCK
    registry.PLUGIN_KINDS["assets"] = registry.PluginKind(str(assets), ".toml")  # type: ignore[index]
    for module in pkgutil.walk_packages(harope_bench.__path__, "harope_bench."):
        if ".runners" not in module.name:
            importlib.import_module(module.name)
    for name in (
        "jinja2",
        "torch._dynamo",
    ):  # what verbs load when they run
        importlib.import_module(name)
    judge = importlib.import_module("harope_bench.judges.micro.shapes_vision")
    assert (
        judge.check_known_scenes(judge.PLUGIN.open("cpu")) is None
    )  # the judge's self-check, kept for the forks


def run(job: dict[str, Any], log: Path, arrival: int) -> int:
    """Run one job in this process and return its exit code; its words to the user go to files
    beside `log`.
    """
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(log.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8") for number in (1, 2))  # noqa: SIM115
    os.environ["HAROPE_BENCH_HOME"] = job["home"]
    os.chdir(job["cwd"])
    code, calls, real_open = (
        0,
        Calls(job["cwd"], job["kill"], arrival, job.get("lingers", False)),
        open,
    )
    try:
        if "setup" in job:
            sys.path.insert(0, str(HELPERS))
            import kill_inputs

            kill_inputs.write(Path(job["setup"]))
        else:
            from harope_bench.cli import main

            sys.argv = ["harope-bench", *job["words"]]
            watch(calls)
            main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 (what ends a command by another way than its exit code is a fault, and shown as one)
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    with real_open(log, "w") as file:
        json.dump(calls.names, file)
    return code


def fork(job: dict[str, Any], log: Path) -> int:
    """Return the process id of a fork that runs a job, once it has come to its end or to the point
    at which it is killed.
    """
    wait, arrival = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wait)
        os._exit(run(job, log, arrival))
    os.close(arrival)
    os.read(wait, 1)  # nothing comes; the other end is closed
    os.close(wait)
    return child


def reap(child: int, log: Path) -> dict[str, Any]:
    """Wait for a fork; return its exit code (minus the signal that killed it), CPU seconds, calls
    and words.
    """
    _, status, used_value = os.wait4(child, 0)
    words = {
        name: log.with_suffix(f".{name}").read_text(errors="replace") for name in ("out", "err")
    }
    calls = json.loads(log.read_text()) if log.exists() else []
    log.unlink(missing_ok=True)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cpu": used_value.ru_utime + used_value.ru_stime,
        "calls": calls,
        **words,
    }


def serve(logs: Path) -> None:
    """Answer lines of jobs until stdin ends."""
    answers = os.dup(1)
    os.dup2(2, 1)
    warm_up_imports(logs.parent / "assets")
    getrusage = resource.getrusage(resource.RUSAGE_SELF)
    os.write(answers, json.dumps({"cpu": getrusage.ru_utime + getrusage.ru_stime}).encode() + b"\n")
    for line in sys.stdin:
        jobs = json.loads(line)
        paths = [logs / f"{number}.json" for number in range(len(jobs))]
        children = [fork(job, path) for job, path in zip(jobs, paths, strict=True)]
        results = [reap(child, path) for child, path in zip(children, paths, strict=True)]
        os.write(answers, json.dumps(results).encode() + b"\n")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
