"""Commands killed by SIGKILL at seeded points: what stands there can be read, and the same command
again ends in the same bytes.

Twelve points always run. A hundred: `pytest -m kills tests/hostile/test_kills.py`. See
kill_launcher.py for what a point is.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

LAUNCHER = Path(__file__).with_name("kill_launcher.py")
PHASES = ("before", "half", "after")
ANSWERS = (
    0,
    1,
    2,
    3,
)  # done, a named error, a file that is missing on the command line, the answer is no

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not Path("/proc/self/fd").exists(),
    reason="forks, and names open files",
)


class Reader(NamedTuple):
    """A command that reads a killed folder. is_exact: what it says when it succeeds is what it says
    of the whole folder.
    """

    words: str
    is_exact: bool = True


class Verb(NamedTuple):
    """A command, and how its killed folder is read.

    where: what stands in the calls that are points. growing: ends of the names of files that are
    written piece by piece or again;
    every other file is whole from the moment it has its name. A reader writes to `read` and may
    register in the home.
    """

    words: str
    readers: tuple[Reader, ...] = ()
    where: str = ""
    growing: tuple[str, ...] = ()


class Point(NamedTuple):
    """A call of a command, by its number, and where in it the kill falls."""

    call: int
    phase: str


class UninterruptedRun(NamedTuple):
    """What a command that nobody kills leaves and says: files, calls by name, words of its
    readers.
    """

    files: dict[str, bytes | None]
    calls: list[str]
    read: list[str]


SUMS = "SHA256SUMS"
FEATURES = (SUMS, ".npy", ".moments.npz")
SMALL_TEXT = "--config size=28 --suite digits --sampler flow --steps 2"
GENERATE = "generate tiny --suite digits --batch 10 --out out {}"
VERIFY = Reader(
    "verify out --redraw 1 --seed 0", is_exact=False
)  # of a part it says that the part is right
VERBS = {
    "generate": Verb(
        GENERATE.format("--count 40"),
        (VERIFY, Reader("eval out --with fidelity --out read")),
        growing=(SUMS, "samples.jsonl", "requests.jsonl"),
    ),
    "extract": Verb("eval in/pictures --suite digits --out out", (VERIFY,), "out/features/", FEATURES),
    "annotate": Verb("eval in/scenes --with geneval --out out", (VERIFY,), "out/annotations/", (SUMS, "annotations.jsonl")),
    "evaluate": Verb(
        "eval in/pictures --suite digits --out out",
        (VERIFY, Reader("report --runs out --out read/report.html")),
        "out/results/",
        FEATURES,
    ),
    "train": Verb(
        "train in/recipe.toml --encoding rope-axial --out out",
        # says the step that the log has come to
        (Reader("figure loss out/log.csv --out read/loss.svg", is_exact=False),),
        growing=("snapshot.pt", "log.csv"),
    ),
    "convert": Verb("convert in/pictures out --to png", (Reader("convert out read/images.npz --to adm"),)),
    "register": Verb(
        f"register mine --weights in/weights/other.safetensors {SMALL_TEXT}", (Reader("generate mine --suite digits --count 2 --out read"),)
    ),
    "report": Verb("report --runs in/runs --out out/report.html"),
    "convert-adm": Verb("convert in/pictures out/images.npz --to adm", (Reader("convert out/images.npz read/images --to png"),)),
    "leaderboard": Verb("leaderboard build in/runs --out out"),
    "export": Verb("export tiny out/tiny.safetensors", (Reader("register read --weights out/tiny.safetensors"),)),
    "reference": Verb(
        "reference in/pictures out/reference.npz --judge digits-net",
        (Reader("eval in/pictures --suite digits --reference out/reference.npz --out read"),),
        growing=FEATURES,
    ),
    "figure": Verb("figure loss in/log.csv --out out/loss.svg"),
    "classify": Verb("eval digits-deit-harope --count 50 --out out", (VERIFY,), growing=FEATURES),
    "baseline": Verb("gate out/baseline.json in/runs/ape --update --reason first", (Reader("gate out/baseline.json in/runs/ape"),)),
    "fetch": Verb("fetch thing --from in/asset", (Reader("fetch thing --from nowhere"),), growing=("receipt.json",)),
}  # fmt: skip


# Processes note in it what each was asked, in the order in which they come.
LOGS = ("requests.jsonl",)
# Two processes on one folder: of each half of the samples, of two shards, of the same pictures.
PAIRS = {
    "generate": (GENERATE.format("--indices 0-19"), GENERATE.format("--indices 20-39")),
    "extract": (f"{VERBS['extract'].words} --shard 1/2", f"{VERBS['extract'].words} --shard 2/2"),
    "annotate": (
        f"{VERBS['annotate'].words} --shard 1/2",
        f"{VERBS['annotate'].words} --shard 2/2",
    ),
    "convert": (VERBS["convert"].words, VERBS["convert"].words),
}


class Bench:
    """A folder in which commands run, are killed and run again; the launcher that runs them."""

    def __init__(self, folder: Path):
        self.folder, self.cpu, self.count = folder, 0.0, 0
        self.straight: dict[str, UninterruptedRun] = {}
        (folder / "assets").mkdir()
        (folder / "logs").mkdir()
        (folder / "home").mkdir()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
        }
        words = [sys.executable, str(LAUNCHER), str(folder / "logs")]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.cpu += self._answer()["cpu"]
        self._prepare()

    def close_process(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the launcher ended; its error stands above"
        return json.loads(line)

    def jobs(self, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
        """Run one job, or two of which the second starts at the first one's point; return what
        became of each.
        """
        assert self.process.stdin is not None
        fields = {"cwd": str(self.folder), "home": str(self.folder / "home"), "kill": None}
        self.process.stdin.write(json.dumps([{**fields, **job} for job in jobs]).encode() + b"\n")
        self.process.stdin.flush()
        results: list[dict[str, Any]] = self._answer()
        self.cpu += sum(result["cpu"] for result in results)
        return results

    def run(self, words: str, kill: Point | None = None) -> dict[str, Any]:
        """Run one command."""
        (result,) = self.jobs({"words": words.split(), "kill": kill})
        return result

    def _prepare(self) -> None:
        (self.folder / "in").mkdir()
        (result,) = self.jobs({"setup": str(self.folder / "in")})
        assert result["code"] == 0, result["err"]
        self._write_asset()
        command_result = self.run(
            "generate shapes-harope --suite shapes --steps 1 --count 3 --out in/scenes"
        )
        assert command_result["code"] == 0, command_result["err"]
        shutil.copytree(self.folder / "home", self.folder / "home-before")

    def _write_asset(self) -> None:
        lines = ['title = "A thing"', 'licence = "CC0"', 'source = "a test"']
        for path in sorted((self.folder / "in/asset").iterdir()):
            lines += [
                "",
                "[[files]]",
                f'name = "{path.name}"',
                f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"',
            ]
        (self.folder / "assets/thing.toml").write_text("\n".join(lines) + "\n")

    def begin(self) -> None:
        """Make the folder what it was before any command."""
        for name in ("out", "read", "home"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "home-before", self.folder / "home")

    def files(self, *names: str) -> dict[str, bytes | None]:
        """Return every file that commands have written (of `out` and `home`, or these), by its
        path, and None for every folder.
        """
        paths = [
            path for name in names or ("out", "home") for path in (self.folder / name).rglob("*")
        ]
        return {
            str(path.relative_to(self.folder)): None if path.is_dir() else path.read_bytes()
            for path in paths
        }

    def restore(self, files: dict[str, bytes | None]) -> None:
        """Make the folders that these files are in hold these alone."""
        for name in {Path(path).parts[0] for path in files}:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path, data in sorted(files.items()):
            folder = self.folder / path
            (folder if data is None else folder.parent).mkdir(parents=True, exist_ok=True)
            if data is not None:
                folder.write_bytes(data)

    def of(self, name: str) -> UninterruptedRun:
        """Return what the command leaves when nobody kills it; run again it leaves that as it
        is.
        """
        if name not in self.straight:
            self.begin()
            command_result = self.run(VERBS[name].words)
            assert command_result["code"] == 0, command_result["err"]
            files = self.files()
            self.straight[name] = UninterruptedRun(files, command_result["calls"], self.read(name))
            self.finish(name, f"{name} a second time")
        return self.straight[name]

    def read(self, name: str) -> list[str]:
        """Run the readers of a command's folder as it stands; return their words where they
        succeed, else nothing for each.
        """
        before, words = self.files(), []
        for reader in VERBS[name].readers:
            command_result = self.run(reader.words)
            result_value = command_result["out"] + command_result["err"]
            assert command_result["code"] in ANSWERS, (
                f"{reader.words}: {command_result['code']} {result_value}"
            )
            assert "Traceback" not in result_value and "unexpected" not in result_value, (
                f"{reader.words}: {result_value}"
            )
            assert command_result["code"] == 0 or result_value.strip(), (
                f"{reader.words}: exit {command_result['code']} without a word"
            )
            words.append(command_result["out"] if command_result["code"] == 0 else "")
            shutil.rmtree(self.folder / "read", ignore_errors=True)
            check_equal(
                self.files("out"),
                {path: data for path, data in before.items() if path.startswith("out")},
                reader.words,
            )
            self.restore({path: data for path, data in before.items() if path.startswith("home")})
        return words

    def check_killed(self, name: str, story: str, is_exact: bool = True) -> None:
        """Check that what a killed command left can be read and, with `is_exact`, that no reader
        takes a part of it for the whole.
        """
        straight_value, growing = self.of(name), VERBS[name].growing
        for path, data in self.files().items():
            is_of_part = "/parts/" in f"{path}/"  # which the next whole command takes
            is_final = "/." not in path and not is_of_part and not path.endswith(growing or ("/",))
            assert not is_final or data == straight_value.files.get(path, b""), (
                f"{story}: {path} is there and not whole"
            )
        for reader, words, whole_read in zip(
            VERBS[name].readers, self.read(name), straight_value.read, strict=True
        ):
            assert not words or not (reader.is_exact and is_exact) or words == whole_read, (
                f"{story}: {reader.words} says of a part:\n{words}"
            )

    def points(self, name: str, count: int, seed: int) -> list[Point]:
        """Return that many points of a command, one in each equal part of its calls and their
        phases, drawn from the seed.
        """
        calls = [
            number for number, call in enumerate(self.of(name).calls) if VERBS[name].where in call
        ]
        points = [Point(call, phase) for call in calls for phase in PHASES]
        assert len(points) >= count, f"{name} has {len(points)} points"
        rng = random.Random(f"{name} {seed}")
        return [points[int((part + rng.random()) * len(points) / count)] for part in range(count)]

    def kill(self, name: str, point: Point) -> str:
        """Run a command up to the point at which it is killed; return the point in words."""
        command_result = self.run(VERBS[name].words, point)
        story = f"{name} killed {point.phase} call {point.call}"
        self.count += 1
        assert command_result["code"] == -signal.SIGKILL, (
            f"{story}: it ended with {command_result['code']} {command_result['err']}"
        )
        return story

    def finish(self, name: str, story: str, but: tuple[str, ...] = ()) -> None:
        """Run a killed command again; its files must be those of the straight run, but for these
        names.
        """
        command_result = self.run(VERBS[name].words)
        assert command_result["code"] == 0, f"{story}: {command_result['err']}"
        files, straight_data = (
            {path: data for path, data in file.items() if Path(path).name not in but}
            for file in (self.files(), self.of(name).files)
        )
        check_equal(files, straight_data, story)

    def killed_once(self, name: str, point: Point) -> None:
        """Kill a command, read what is there, run it again."""
        self.begin()
        story = f"{self.kill(name, point)} ({self.of(name).calls[point.call]})"
        self.check_killed(name, story)
        self.finish(name, story)

    def killed_twice(self, name: str, point: Point, seed: int) -> None:
        """Kill a command, and then the command that goes on, at a point drawn from the seed over
        the calls of that one.
        """
        self.begin()
        story = self.kill(name, point)
        before = self.files()
        calls = self.run(VERBS[name].words)["calls"]
        self.restore(before)
        rng = random.Random(f"{name} again {seed}")
        again = (
            f"{story}, then {self.kill(name, Point(rng.randrange(len(calls)), rng.choice(PHASES)))}"
        )
        self.check_killed(name, again)
        self.finish(name, again)

    def killed_beside(self, name: str, words: tuple[str, str], point: Point) -> None:
        """Kill one of two processes that work in one folder; the second is not to notice, and both
        again end as one process does.
        """
        straight_value = self.of(name)
        self.begin()
        first_field, second = ({"words": command.split()} for command in words)
        killed_job, living = self.jobs({**first_field, "kill": point, "lingers": True}, second)
        self.count += 1
        story = f"{words[0]} killed {point.phase} call {point.call} beside {words[1]}"
        assert killed_job["code"] == -signal.SIGKILL, (
            f"{story}: it ended with {killed_job['code']} {killed_job['err']}"
        )
        assert living["code"] == 0, (
            f"{story}: the second ended with {living['code']} {living['err']}"
        )
        self.check_killed(
            name, story, is_exact=words[0] == words[1]
        )  # the second one's half is whole by itself
        for command in words:
            command_result = self.run(command)
            assert command_result["code"] == 0, f"{story}: {command_result['err']}"
        self.finish(name, story, LOGS)
        assert straight_value.files.keys() == self.files().keys()


def check_equal(
    files: dict[str, bytes | None], expected: dict[str, bytes | None], story: str
) -> None:
    """Fail with the names of the files that are missing, left over, or of other bytes."""
    missing, extra_keys = (
        sorted(expected.keys() - files.keys()),
        sorted(files.keys() - expected.keys()),
    )
    other_names = sorted(
        name for name in files.keys() & expected.keys() if files[name] != expected[name]
    )
    assert (missing, extra_keys, other_names) == ([], [], []), (
        f"{story}: missing {missing}, left over {extra_keys}, of other bytes {other_names}"
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("kills"))
    yield bench
    bench.close_process()
    sys.stderr.write(f"\nkill points: {bench.count}, {bench.cpu:.0f} CPU s\n")


EIGHT = ("generate", "extract", "annotate", "evaluate", "train", "convert", "register", "report")


@pytest.mark.parametrize("name", EIGHT)
def test_a_killed_command_run_again_ends_in_the_bytes_of_a_straight_one(
    bench: Bench, name: str
) -> None:
    for point in bench.points(name, 1, seed=1):
        bench.killed_once(name, point)


@pytest.mark.parametrize("name", ["generate", "extract"])
def test_a_command_killed_while_it_goes_on_ends_in_the_bytes_of_a_straight_one(
    bench: Bench, name: str
) -> None:
    for point in bench.points(name, 1, seed=2):
        bench.killed_twice(name, point, seed=2)


@pytest.mark.kills
@pytest.mark.parametrize(
    ("name", "count"),
    [*((name, 6) for name in EIGHT), *((name, 3) for name in VERBS if name not in EIGHT)],
)
def test_a_command_killed_anywhere_ends_in_the_bytes_of_a_straight_one(
    bench: Bench, name: str, count: int
) -> None:
    for point in bench.points(name, count, seed=4):
        bench.killed_once(name, point)


@pytest.mark.kills
@pytest.mark.parametrize("name", EIGHT)
def test_a_command_killed_twice_anywhere_ends_in_the_bytes_of_a_straight_one(
    bench: Bench, name: str
) -> None:
    for seed, point in enumerate(bench.points(name, 2, seed=5)):
        bench.killed_twice(name, point, seed)


@pytest.mark.kills
@pytest.mark.parametrize("name", PAIRS)
def test_of_two_processes_on_one_folder_one_is_killed_anywhere(bench: Bench, name: str) -> None:
    # A shard makes at least a third of the calls of the whole command.
    for point in bench.points(name, 12, seed=6)[:3]:
        bench.killed_beside(name, PAIRS[name], point)


@pytest.mark.parametrize("name", ["generate", "convert"])
def test_of_two_processes_on_one_folder_one_is_killed(bench: Bench, name: str) -> None:
    for point in bench.points(name, 4, seed=3)[1:2]:  # both halves of a pair make that many calls
        bench.killed_beside(name, PAIRS[name], point)
