"""The same work in a Ray cluster of two nodes on this machine: equal bytes whatever is lost.

All tests share one cluster, because a start takes seconds of processor time, as does a process that
imports torch. A command that starts or connects to Ray by itself runs in a process of its own. The
tests that kill the second node are the last ones of those that need it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import echo_worker
import pytest
import tiny
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, annotate_toy_images, toy
from toy_script import annotate_with_script, write_toy_script

from harope_bench.core.errors import LostWorkError, OptionError
from harope_bench.core.progress import Progress
from harope_bench.data.run_folder import RunFolder
from harope_bench.pipeline import annotate_externally, ray_connection, ray_executor
from harope_bench.pipeline.eval_options import EvalOptions, GenerationOptions
from harope_bench.pipeline.evaluate_target import evaluate_target
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.ray_connection import OneThreadStream, open_ray_executor
from harope_bench.pipeline.ray_executor import RayExecutor
from harope_bench.pipeline.reproduce import reproduce
from harope_bench.pipeline.worker_options import WorkerOptions, use_workers
from harope_bench.pipeline.workers import Task, run_units, use_executor

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("default"),
]
__all__ = ["toy"]  # the fixture

STORE_BYTES = 80 << 20  # the least that Ray takes; /dev/shm of 64 MB makes it use a file
ECHO = Task("echo_worker:Echo", {}, "cpu")
HELPERS = str(Path(tiny.__file__).parent)


class Cluster:
    """Two nodes of one CPU each. A lost second node is replaced for the next test."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = RayCluster(initialize_head=True, head_node_args=node)
        self.second_node = self.add_node()
        ray.init(
            address=self.cluster.address,
            log_to_driver=False,
            logging_level="critical",
            job_config=ray.job_config.JobConfig(code_search_path=[HELPERS]),
        )

    def add_node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def kill_second_node(self) -> None:
        self.cluster.remove_node(self.second_node, allow_graceful=False)
        self.second_node = None

    def shut_down(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.shut_down()


@pytest.fixture
def cluster(started_cluster: Cluster) -> Cluster:
    if started_cluster.second_node is None:
        started_cluster.second_node = started_cluster.add_node()
        started_cluster.cluster.wait_for_nodes()
    return started_cluster


@pytest.fixture
def executor(cluster: Cluster) -> RayExecutor:
    return RayExecutor(2, "cpu")


def echo(
    executor: RayExecutor, units: list[Any], units_per_part: int = 1
) -> dict[int, dict[str, Any]]:
    names = [f"unit {k}" for k in range(len(units))]
    return dict(run_units(ECHO, units, names, units_per_part, executor))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run; results without their provenance, annotations as sets."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.endswith("SHA256SUMS"):
            continue
        contents[name] = path.read_bytes()
        if path.parent.name == "results" and path.suffix == ".json":
            contents[name] = json.dumps({**json.loads(contents[name]), "provenance": 0}).encode()
        if path.name == "annotations.jsonl":
            contents[name] = b"".join(sorted(contents[name].splitlines(keepends=True)))
    return contents


def test_environment_and_folder_of_the_driver_reach_workers(
    executor: RayExecutor, bench_home: Path
) -> None:
    (result,) = echo(executor, [1]).values()
    assert result["home"] == str(bench_home)
    assert result["cwd"] == os.getcwd()


def test_two_hundred_parts_in_flight(cluster: Cluster) -> None:
    results = echo(RayExecutor(2, "cpu", parts_in_flight=200), [*range(200)])
    assert {k: result["unit"] for k, result in results.items()} == {k: k for k in range(200)}


def test_errors_of_workers_come_word_for_word(executor: RayExecutor) -> None:
    with pytest.raises(OptionError) as error_info:
        echo(executor, [1, "error", 2])
    assert str(error_info.value) == "wanted 1, found 2; give 1"


def test_a_killed_worker_is_replaced(executor: RayExecutor, tmp_path: Path) -> None:
    units = [1, f"end once:{tmp_path / 'ended'}", 2, 3]
    assert sorted(echo(executor, units, 2)) == [0, 1, 2, 3]


def test_a_part_that_ends_its_process_is_bisected_and_named(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "MAX_RETRIES", 0)  # each retry starts a process
    finished_positions: list[int] = []
    results = run_units(ECHO, [0, 1, "end", 3], ["a", "b", "the third", "d"], 4, executor)
    with pytest.raises(LostWorkError, match="the third ended every process"):
        finished_positions.extend(position for position, _ in results)
    assert not finished_positions or sorted(finished_positions) == [0, 1, 3]


def evaluate_digits(folder: Path) -> None:
    options = EvalOptions(count=60, generation=GenerationOptions(), out=folder)
    evaluate_target("tiny", options)


def test_generation_features_and_results_equal_those_of_one_process(
    executor: RayExecutor, tmp_path: Path
) -> None:
    tiny.register_tiny(tmp_path / "weights")
    evaluate_digits(tmp_path / "one/run")
    with use_executor(executor):
        evaluate_digits(tmp_path / "two/run")
    assert files(tmp_path / "two/run") == files(tmp_path / "one/run")
    (result,) = (tmp_path / "two/run/results").glob("*.json")
    assert json.loads(result.read_text())["provenance"]["flags"]["workers"] == 2


def test_predictions_equal_those_of_one_process(executor: RayExecutor, tmp_path: Path) -> None:
    def classify(folder: Path) -> None:
        evaluate_target("digits-deit-harope", EvalOptions(count=300, out=folder))

    classify(tmp_path / "one/run")
    with use_executor(executor):
        classify(tmp_path / "two/run")
    assert files(tmp_path / "two/run") == files(tmp_path / "one/run")


def test_annotations_equal_those_of_one_process(
    executor: RayExecutor, toy: ToyEye, tmp_path: Path
) -> None:
    write_toy_images(tmp_path / "images", COLOURS)

    annotate_toy_images(tmp_path / "images", tmp_path / "one/run")
    with use_executor(executor):
        annotate_toy_images(tmp_path / "images", tmp_path / "two/run")
    assert files(tmp_path / "two/run") == files(tmp_path / "one/run")


def test_a_script_of_another_python_answers_the_same_in_workers(
    executor: RayExecutor, toy: ToyEye, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEye, "runner", write_toy_script(tmp_path / "script"))
    monkeypatch.setattr(annotate_externally, "EXTERNAL_QUERIES_PER_PART", 6)
    write_toy_images(tmp_path / "images", COLOURS)
    lines = annotate_with_script(tmp_path / "images", tmp_path / "one/run")
    with use_executor(executor):
        assert annotate_with_script(tmp_path / "images", tmp_path / "two/run") == lines


REPRODUCED_TABLE = "3"  # of images of prompts, with annotations and features


def test_reproduce_equals_that_of_one_process(executor: RayExecutor, tmp_path: Path) -> None:
    """Three rows of four images in padded batches of two."""

    def tables(folder: Path) -> dict[str, bytes]:
        summary = reproduce([REPRODUCED_TABLE], "micro", 4, folder, "cpu", 0, overrides={"tile": 2})
        assert summary.n_rows >= 2
        contents = files(folder)
        hashes = re.compile(rb'"result_sha256": "[0-9a-f]{64}"')  # of results with provenance
        contents["table3.json"] = hashes.sub(b"", contents["table3.json"])
        return {name: data for name, data in contents.items() if name != "report.html"}

    with use_executor(executor):
        shared_tables = tables(tmp_path / "two")
    assert shared_tables == tables(tmp_path / "one")


def test_other_machines_answer_before_work_starts(executor: RayExecutor) -> None:
    (machine,) = executor.ask_machines(echo_worker.repeat, "word")
    assert machine.host == platform.node()
    assert machine.answer[0] == "word" and machine.answer[1] != os.getpid()
    with pytest.raises(OptionError) as error_info:
        executor.ask_machines(echo_worker.repeat, "error")
    assert str(error_info.value) == f"{platform.node()}: wanted 1, found 2; give 1"
    assert error_info.value.advice == "give 1"


def test_machines_report_their_kind_and_whether_they_see_the_folder(
    executor: RayExecutor, tmp_path: Path
) -> None:
    executor.check_machines("cpu", tmp_path, allows_mixed=False)
    assert executor.device_warnings() == ()
    provenance = executor.provenance()
    assert "torch" in str(provenance["worker_kinds"])
    assert {"workers": 2, "workers_lost": 0, "ray": ray.__version__}.items() <= provenance.items()
    with pytest.raises(OptionError, match="does not see"):
        executor.check_machines("cpu", tmp_path / "absent", allows_mixed=False)


# ------------------------------------------------------------------------------ commands with Ray


def command(*words: object, **environment: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "harope_bench.cli", *map(str, words)]
    return subprocess.Popen(
        arguments,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


KILLED_STEPS = 40
KILLED_COUNT = 96


def test_a_killed_driver_is_finished_without_ray(cluster: Cluster, tmp_path: Path) -> None:
    """The steps make it last for seconds, so that it is killed in the middle."""
    name = tiny.register_tiny(tmp_path / "weights")
    plan = make_plan(name, None, {"device": "cpu", "tile": 4, "steps": KILLED_STEPS})
    words = ("--device", "cpu", "--tile", 4, "--steps", KILLED_STEPS, "--count", KILLED_COUNT)
    address = cluster.cluster.address
    process = command("generate", "tiny", *words, "--out", tmp_path / "run", "--ray", address)
    run = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 120
    while not run.read_records():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert 0 < len(run.read_records()) < KILLED_COUNT
    generate(plan, range(KILLED_COUNT), tmp_path / "run")
    generate(plan, range(KILLED_COUNT), tmp_path / "straight")
    assert set(files(tmp_path / "run")) - set(files(tmp_path / "straight")) <= {".writer.json"}
    assert files(tmp_path / "straight").items() <= files(tmp_path / "run").items()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no connection"),
        ("gpu..node:6379", "no connection"),
        ("nowhere", "is no address"),
        ("a:b", "is no address"),
    ],
)
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, address: str, words: str) -> None:
    with pytest.raises(OptionError, match=words), use_workers(WorkerOptions(ray=address), "cpu"):
        pass


def test_more_workers_than_the_cluster_has_is_an_error_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_connection, "_connect", lambda *_: None)  # this process is connected
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    message = "3 workers are asked for, the Ray cluster has 2 CPUs; give --workers up to that"
    with pytest.raises(OptionError, match=message), open_ray_executor(3, "auto", "cpu"):
        pass
    message = "1 workers are asked for, the Ray cluster has 0 GPUs"
    with pytest.raises(OptionError, match=message), open_ray_executor(None, "auto", "cuda"):
        pass


@pytest.mark.parametrize("field", ["ray_version", "python_version"])
def test_a_cluster_of_another_version_is_named(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of Ray itself for a driver of another version."""
    from ray._private.utils import check_version_info

    cluster = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    cluster[field] = "2.1.0"

    def connect(**_: object) -> None:
        check_version_info(cluster, "10.0.0.1:6379")

    monkeypatch.setattr(ray, "init", connect)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(OptionError) as error_info, open_ray_executor(None, "auto", "cpu"):
        pass
    ray_version, python_version = cluster.values()
    message = str(error_info.value)
    assert f"the cluster has Ray {ray_version} with Python {python_version}" in message
    own_version = f"this machine has Ray {ray.__version__} with Python {platform.python_version()}"
    assert own_version in message and "\n" not in message


@pytest.mark.parametrize("free_bytes", [64 << 20, 0])
def test_a_small_shared_memory_gives_the_smallest_store(
    free_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Status:
        f_bavail, f_frsize = free_bytes, 1

    monkeypatch.setattr(ray_connection.os, "statvfs", lambda _: Status)
    assert ray_connection.object_store_bytes() == ray_connection.MIN_OBJECT_STORE_BYTES


START_RAY_AND_RETURN_100_MB = """
import sys
from harope_bench.pipeline.ray_connection import open_ray_executor
from harope_bench.pipeline.workers import Task, run_units
names = [f"unit {k}" for k in range(25)]
with open_ray_executor(1, None, "cpu") as executor:
    units = ["megabytes:4"] * 25
    results = dict(run_units(Task("echo_worker:Echo", {}, "cpu"), units, names, 1, executor))
assert sorted(results) == [*range(25)]
assert all(len(result["bytes"]) == 4 << 20 for result in results.values())
print("done")
"""


def test_ray_works_with_64_mb_of_shared_memory() -> None:
    """As in a container without --shm-size. Needs the right to mount, as root or in a namespace."""
    namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "sh", "-c", mount]).returncode
    ):
        pytest.skip("this process may not mount a file system; the size is tested above")
    code = [sys.executable, "-c", START_RAY_AND_RETURN_100_MB]
    process = subprocess.run(
        [*namespace, "sh", "-c", f'{mount} && exec "$@"', "sh", *code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HELPERS, *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (process.returncode, process.stdout) == (0, "done\n"), process.stderr


# ---------------------------------------------------------------------- the end of the second node


def test_a_killed_node_without_spare_cpu_loses_nothing(
    cluster: Cluster,
    executor: RayExecutor,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its parts are done again by the other node. Ray's own pages about it do not appear."""
    monkeypatch.setattr(ray_executor, "SECONDS_BETWEEN_CHECKS", 0.1)
    units = [(k, 0.3) for k in range(12)]
    names = [f"unit {k}" for k in range(12)]
    with (
        contextlib.redirect_stdout(OneThreadStream(sys.stdout)),
        Progress("do units", 12, "unit") as progress,
    ):
        results = run_units(ECHO, units, names, 1, executor)
        positions = [next(results)[0], next(results)[0]]
        cluster.kill_second_node()
        positions += [position for position, _ in results]
        assert sorted(positions) == [*range(12)]

        # Ray may need half a minute until it declares the node dead.
        deadline = time.monotonic() + 120
        while ray_executor.capacity("CPU") == 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(echo(executor, [(k, 0.3) for k in range(3)])) == 3
    assert "1 of 2 workers, 1 lost" in progress.line()
    assert executor.provenance()["workers_lost"] == 1
    captured_output = capfd.readouterr()
    assert "1 of 2 workers, 1 lost; others do their work\n" in captured_output.err
    assert captured_output.err.count("\n") <= 20
    assert captured_output.out == ""
