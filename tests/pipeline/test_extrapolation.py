"""The benchmarks of prompts from a checkpoint to tables and charts: a tiny FLUX, tiny judges of the
real classes, three resolutions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plugin_scans
import pytest
import tiny_judges
import tiny_pipelines as tiny
import tiny_prompts
from click.testing import CliRunner
from killed_study import run_killed

tiny.needs_t2i()

from harope_bench.cli import main  # noqa: E402
from harope_bench.core import registry  # noqa: E402
from harope_bench.core.json_lines import read_lines  # noqa: E402
from harope_bench.data.run_folder import RunFolder  # noqa: E402
from harope_bench.judges.base import NamedCheck  # noqa: E402
from harope_bench.judges.generic import vlm  # noqa: E402
from harope_bench.models.backbones import flux, lora  # noqa: E402
from harope_bench.models.register_checkpoint import register  # noqa: E402
from harope_bench.pipeline.evaluate_prompts import judges_by_suite  # noqa: E402

SUITES = ("geneval", "dpg-bench", "t2i-compbench")
SIDES = (32, 48, 64)
# of GenEval one of each prompt and four more, of DPG-Bench all copies, of T2I-CompBench one of each
# prompt
IMAGES = 16
PAPER = {512: 32, 1024: 48, 2048: 64}


class StudyFolder:
    """Home, models and runs of this file's tests."""

    def __init__(self, folder: Path):
        self.folder, self.home, self.runs = folder, folder / "home", folder / "runs"
        self.judge = ""

    def words(
        self,
        checkpoint: str,
        out: Path,
        suites: Sequence[str] = SUITES,
        sides: Sequence[int] = SIDES,
    ) -> tuple[str, ...]:
        """An eval of these suites at these sides."""
        judge = (
            self.judge if len(suites) > 1 else str(judges_by_suite(self.judge, SUITES)[suites[0]])
        )
        texts = (
            "--suite",
            ",".join(suites),
            "--resolution",
            ",".join(map(str, sides)),
            "--judge",
            judge,
        )
        return (
            "eval",
            checkpoint,
            *texts,
            "--count",
            str(IMAGES),
            "--steps",
            "2",
            "--out",
            str(out),
        )


def command_output(*words: str | Path, code: int = 0) -> str:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == code, (command_result.output, command_result.exception)
    return command_result.stdout if code == 0 else command_result.output


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Prompts, judges and two checkpoints: rope-axial as it is, and harope with LoRA."""
    study_folder = StudyFolder(tmp_path_factory.mktemp("extrapolation"))
    with pytest.MonkeyPatch.context() as patch:
        plugin_scans.cache_scans(patch)
        tiny_prompts.prompts(study_folder.home)
        study_folder.judge = tiny_judges.models(study_folder.folder)
        tiny_judges.stand_in(patch, study_folder.folder, study_folder.home)
        base = tiny.save_pipeline(study_folder.folder / "base", "flux")
        register("plain", base, {})
        network = flux.PLUGIN.attach_encoding(
            flux.PLUGIN.load_pipeline(base, tiny.settings()).transformer, "harope", {}, "all"
        )
        lora.add_lora(tiny.train_encoding(network), flux.PLUGIN.targets)
        flux.PLUGIN.save_adapter(
            study_folder.folder / "adapter", network, str(base), {"dataset": "none", "steps": 1}
        )
        register("turned", study_folder.folder / "adapter", {"config": {"base": str(base)}})
        yield study_folder


@pytest.fixture(autouse=True)
def bench_home(study: StudyFolder) -> Path:
    """In place of the empty home of other tests: one for this file."""
    return study.home


@pytest.fixture(scope="module")
def runs(study: StudyFolder) -> Path:
    """All runs of both checkpoints: the first one's command was killed in drawing and in judging
    before it came to its end.
    """
    words = study.words("plain", study.runs / "plain")
    run_killed(study.folder, study.home, words, RunFolder, "add_sample", IMAGES + 6)
    assert len(read_lines(study.runs / "plain/geneval/r48/samples.jsonl")) == 5
    assert not (study.runs / "plain/geneval/r64").exists()
    run_killed(study.folder, study.home, words, vlm.LoadedVlm, "annotate", 5)
    answers = read_lines(
        next((study.runs / "plain/dpg-bench/r32/annotations").glob("*/annotations.jsonl"))
    )
    assert len(answers) == 4 and not (study.runs / "plain/dpg-bench/r32/results").exists()
    command_output(*words)
    command_output(*study.words("turned", study.runs / "turned"))
    return study.runs


def contents(run: Path) -> Mapping[str, Any]:
    """Every file of a run by its hash; of a result all but its provenance, which its sum stands for
    too.
    """
    fields: dict[str, Any] = {}
    for path in sorted(
        p
        for p in run.rglob("*")
        if p.is_file() and not p.name.startswith(".") and p.suffix != ".lock"
    ):
        name = str(path.relative_to(run))
        if path.parent.name == "results" and path.name == "SHA256SUMS":
            continue
        if path.parent.name == "results" and path.suffix == ".json":
            fields[name] = {
                k: v for k, v in json.loads(path.read_text()).items() if k != "provenance"
            }
        else:
            fields[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return fields


def test_a_killed_command_ends_with_the_bytes_of_a_straight_one(
    study: StudyFolder, runs: Path, tmp_path: Path
) -> None:
    for suite, side in (("geneval", 48), ("dpg-bench", 32)):
        folder = tmp_path / suite / f"r{side}"
        command_output(*study.words("plain", folder, (suite,), (side,)))
        straight_contents, whole_contents = (
            contents(folder),
            contents(runs / "plain" / suite / f"r{side}"),
        )
        assert straight_contents == whole_contents and any(
            name.endswith(".png") for name in whole_contents
        )


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_is_drawn_or_asked_twice(runs: Path, suite: str) -> None:
    for side in SIDES:
        for name in ("plain", "turned"):
            run = runs / name / suite / f"r{side}"
            generated_lines = [line["index"] for line in read_lines(run / "samples.jsonl")]
            assert sorted(generated_lines) == list(range(IMAGES))
            for path in run.glob("annotations/*/annotations.jsonl"):
                keys = [line["key"] for line in read_lines(path)]
                assert len(keys) == len(set(keys)) > 0
                assert all("annotation" in line for line in read_lines(path))


def test_the_same_command_again_does_no_work(
    study: StudyFolder, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "add_sample", lambda *_: pytest.fail("an image was drawn again"))
    monkeypatch.setattr(
        vlm.LoadedVlm, "annotate", lambda *_: pytest.fail("a judge was asked again")
    )
    assert command_output(*study.words("plain", runs / "plain")).count("(up to date)") == 9


@pytest.fixture
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables 4 and 5 with sides of 32, 48 and 64 in place of 512, 1024 and 2048."""
    read = registry.read_toml

    def small_table(path: Path) -> dict[str, Any]:
        result = read(path)
        if path.name not in ("table4.toml", "table5.toml"):
            return result
        rows = [{**row, "resolution": PAPER[row["resolution"]]} for row in result["rows"]]
        return {**result, "rows": rows}

    monkeypatch.setattr(registry, "read_toml", small_table)


@pytest.mark.parametrize("number", ["4", "5"])
def test_the_tables_fill_and_say_whose_eyes_saw(
    runs: Path, small_tables: None, number: str
) -> None:
    document = json.loads(command_output("table", number, "--runs", runs, "--format", "json"))
    cells = [cell for row in document["rows"] for cell in row["cells"].values()]
    assert {cell["status"] for cell in cells} == {"measured"}, [
        cell["note"] for cell in cells if cell["status"] != "measured"
    ]
    assert {cell["source"]["judge_class"] for cell in cells} == {"substitute"}
    assert {cell["verdict"] for cell in cells if cell["published"]} == {
        "not comparable (substitute judge)"
    }
    assert all("replaces the official" in cell["note"] for cell in cells)
    assert any(
        item["difference"]["reason"].startswith("paired by sample, clustered by prompt")
        for item in document["comparisons"]
    )
    assert "replaces the official" in command_output("table", number, "--runs", runs)


def test_a_sweep_has_a_line_a_checkpoint_over_the_sides(runs: Path, tmp_path: Path) -> None:
    text = command_output(
        "figure",
        "sweep",
        runs,
        "--suite",
        "dpg-bench",
        "--metric",
        "dpg",
        "--out",
        tmp_path / "dpg.svg",
    )
    rows = (tmp_path / "dpg.csv").read_text().splitlines()
    assert [tuple(row.split(",")[:2]) for row in rows[1:]] == [
        (name, str(side)) for name in ("plain", "turned") for side in SIDES
    ]
    assert (
        "<svg" in (tmp_path / "dpg.svg").read_text() and text.count("(12 images)") == 6
    )  # the official rules lose an item


def test_failures_lists_the_wrong_images_of_all_suites(runs: Path) -> None:
    rows = [json.loads(line) for line in command_output("failures", runs).splitlines()]
    assert {row["result"].split("/")[1] for row in rows} == set(SUITES)
    assert all(row["prompt"] and "reason" in row for row in rows)


def test_two_checkpoints_are_compared_by_sample_and_by_prompt(runs: Path) -> None:
    for suite in SUITES:
        document = json.loads(
            command_output(
                "compare", runs / "plain" / suite / "r48", runs / "turned" / suite / "r48", "--json"
            )
        )
        lines = [line for line in document["metrics"] if line["delta"] is not None]
        assert lines and {line["reason"].partition(";")[0] for line in lines} == {
            "paired by sample, clustered by prompt"
        }
        assert all(line["is_paired"] for line in lines)


def test_verify_passes_and_finds_what_was_altered(runs: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(runs / "turned/geneval/r32", run)
    assert "0 differences" in command_output("verify", run, "--redraw", "2")
    rows = run / "results" / next(p.name for p in (run / "results").glob("*.sample_scores.jsonl"))
    kept_text = rows.read_text()
    rows.write_text(kept_text.replace('"images_correct": 0.0', '"images_correct": 1.0', 1))
    assert rows.read_text() != kept_text and rows.name in command_output(
        "verify", run, "--redraw", "0", code=3
    )
    rows.write_text(kept_text)
    answers = next(p for p in run.glob("annotations/detector-*/annotations.jsonl"))
    lines = answers.read_text().splitlines()
    first_document = json.loads(lines[0])
    first_document["annotation"]["detections"] = []
    answers.write_text("\n".join([json.dumps(first_document, sort_keys=True), *lines[1:]]) + "\n")
    assert "annotations.jsonl" in command_output("verify", run, "--redraw", "0", code=3)


@pytest.mark.parametrize(("suite", "judge"), [("geneval", "clip-vit-l-14"), ("dpg-bench", "vlm")])
def test_a_judge_that_fails_its_self_check_is_not_believed(
    study: StudyFolder,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suite: str,
    judge: str,
) -> None:
    """Through the command line: one line, and nothing is asked."""
    plugin = registry.load_by_name("judges", judge)
    wrong_named_check = NamedCheck(
        "colours", lambda loaded_network: f"{type(loaded_network).__name__} sees none"
    )
    monkeypatch.setattr(
        type(plugin),
        "self_checks",
        lambda self: (*tiny_judges.CANARIES[judge](self), wrong_named_check),
    )
    roles = [
        part
        for part in study.judge.split(",")
        if part.partition("=")[0] in ("detector" if suite == "geneval" else "vqa",)
    ]
    text = command_output(
        "eval",
        runs / "plain" / suite / "r32",
        "--judge",
        ",".join(roles),
        "--out",
        tmp_path / "again",
        code=1,
    )
    assert f"{judge} fails its self-check colours" in text and len(text.strip().splitlines()) == 1
