"""The same work in a Ray cluster of two nodes on this machine: equal bytes whatever is lost.

All tests share one cluster, because a start takes seconds of processor time. A command that starts
or connects to Ray by itself runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye, toy

from harope_bench.core.errors import LostWorkError, OptionError
from harope_bench.data.run_folder import RunFolder
from harope_bench.pipeline import ray_executor
from harope_bench.pipeline.eval_options import EvalOptions, GenerationOptions
from harope_bench.pipeline.evaluate_target import evaluate_target
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.ray_executor import RayExecutor
from harope_bench.pipeline.reproduce import reproduce
from harope_bench.pipeline.worker_options import WorkerOptions, use_workers
from harope_bench.pipeline.workers import Task, run_units, use_executor
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
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
    finished_positions = []
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

    def annotate(folder: Path) -> None:
        options = EvalOptions(
            suite="toy", out=folder, folder_options=PromptFolderOptions(order="copy-major")
        )
        evaluate_target(str(tmp_path / "images"), options)

    annotate(tmp_path / "one/run")
    with use_executor(executor):
        annotate(tmp_path / "two/run")
    assert files(tmp_path / "two/run") == files(tmp_path / "one/run")


def test_a_killed_node_without_spare_cpu_loses_nothing(
    cluster: Cluster, executor: RayExecutor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its parts are done again by the other node. Ray's own pages about it do not appear."""
    units = [(k, 0.3) for k in range(12)]
    names = [f"unit {k}" for k in range(12)]
    results = run_units(ECHO, units, names, 1, executor)
    first_positions = [next(results)[0], next(results)[0]]
    cluster.kill_second_node()
    positions = [*first_positions, *(position for position, _ in results)]
    assert sorted(positions) == [*range(12)]
    captured_output = capfd.readouterr()
    assert captured_output.err.count("\n") <= 20


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


def test_a_killed_driver_is_finished_without_ray(cluster: Cluster, tmp_path: Path) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path / "weights"), None, {"device": "cpu"})
    words = ("generate", "tiny", "--device", "cpu", "--count", 400, "--out", tmp_path / "run")
    process = command(*words, "--ray", cluster.cluster.address)
    run = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 120
    while len(run.read_records()) < 30:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    n_records = len(run.read_records())
    generate(plan, range(400), tmp_path / "run")
    generate(plan, range(400), tmp_path / "straight")
    assert n_records >= 30
    assert set(files(tmp_path / "run")) - set(files(tmp_path / "straight")) <= {".writer.json"}
    assert files(tmp_path / "straight").items() <= files(tmp_path / "run").items()


def test_reproduce_equals_that_of_one_process(executor: RayExecutor, tmp_path: Path) -> None:
    """Rows of a table with images, features and predictions of prompts."""

    def tables(folder: Path) -> dict[str, bytes]:
        reproduce(["3"], "micro", 2, folder, "cpu", 0)
        contents = files(folder)
        hashes = re.compile(rb'"result_sha256": "[0-9a-f]{64}"')  # of results with provenance
        contents["table3.json"] = hashes.sub(b"", contents["table3.json"])
        return {name: data for name, data in contents.items() if name != "report.html"}

    with use_executor(executor):
        shared_tables = tables(tmp_path / "two")
    assert shared_tables == tables(tmp_path / "one")


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", "no connection"), ("nowhere", "is no address"), ("a:b", "is no address")],
)
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, address: str, words: str) -> None:
    with pytest.raises(OptionError, match=words), use_workers(WorkerOptions(ray=address), "cpu"):
        pass


def test_more_workers_than_the_cluster_has_is_an_error_at_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = ("generate", "digits-ape", "--count", 2, "--out", tmp_path / "run", "--device", "cpu")
    process = command(*words, "--ray", cluster.cluster.address, "--workers", 3)
    _, notes = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "3 workers are asked for, the Ray cluster has 2 CPUs" in notes.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()
