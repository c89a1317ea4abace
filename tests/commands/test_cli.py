"""The verbs through the runner: answers, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner, Result

import harope_bench
from harope_bench.cli import main
from harope_bench.core.array_archive import load_arrays

VERBS = [
    "list",
    "doctor",
    "register",
    "unregister",
    "export",
    "fetch",
    "reference",
    "generate",
    "eval",
    "table",
    "reproduce",
    "report",
    "verify",
    "convert",
    "failures",
    "train",
    "paper",
    "audit",
    "new",
    "check",
    "leaderboard",
    "compare",
    "gate",
    "plan",
    "figure",
    "results",
]


def run(*words: object, exit_code: int = 0) -> Result:
    """The command's result; stdout and stderr apart."""
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == exit_code, (
        f"{words}: {result.exit_code}\n{result.output}\n{result.exception!r}"
    )
    if exit_code == 1:
        assert len(result.stderr.strip().splitlines()) == 1, f"not one line: {result.stderr}"
        assert "Traceback" not in result.output
    return result


@pytest.fixture
def tiny_run(tmp_path: Path) -> Path:
    tiny.register_tiny(tmp_path / "weights")
    run("generate", "tiny", "--count", 30, "--out", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    text = run(verb, "--help").stdout
    assert f"harope-bench {verb}" in text
    assert main.commands[verb].help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_stands_in_the_documentation(verb: str) -> None:
    root = Path(__file__).parents[2]
    assert f"### `harope-bench {verb}`" in (root / "docs/reference/commands.md").read_text()


def test_no_verb_is_undocumented() -> None:
    assert sorted(main.commands) == sorted(VERBS)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["list", "tables"],
        ["table", "2"],
        ["table", "2", "--runs", "RUNS"],
        ["report", "--runs", "RUNS", "--out", "OUT"],
        ["compare", "RUNS", "RUNS"],
        ["gate", "OUT.json", "RUNS", "--update", "--reason", "first"],
    ],
)
def test_light_verbs_start_without_torch(words: list[str], tiny_run: Path, tmp_path: Path) -> None:
    run("eval", tiny_run)
    words = [
        {
            "RUNS": str(tiny_run),
            "OUT": str(tmp_path / "r.html"),
            "OUT.json": str(tmp_path / "r.json"),
        }.get(w, w)
        for w in words
    ]
    code = (
        f"import sys\nfrom harope_bench.cli import main\ntry:\n    main({words!r})\nexcept"
        " SystemExit as e:\n    assert not e.code, e.code\nloaded = {'torch', 'torchvision',"
        " 'transformers'} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy()
    )
    assert process.returncode == 0, process.stderr[-2000:]


def test_an_exported_fold_is_registered_and_drawn_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    assert run("export", "digits-harope", path, "--folded").stdout.strip() == str(path)
    run("register", "plain", "--weights", path, "--drawing", "tile=2")
    run("generate", "plain", "--count", 1, "--steps", 2, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run/plan.json").read_text())["settings"]["tile"] == 2
    assert "run it with --no-fold" in run("export", "plain", path, "--folded", exit_code=1).stderr
    assert (
        "drawing default tilt"
        in run("register", "other", "--weights", path, "--drawing", "tilt=2", exit_code=1).stderr
    )


def test_list_names_what_is_registered() -> None:
    assert set(run("list", "encodings").stdout.split()) >= {
        "ape",
        "harope",
        "rope-axial",
        "rope-matrix",
        "rope-vanilla",
        "string",
        "videorope",
    }
    assert "table10" in run("list").stdout
    document = json.loads(run("list", "evaluators", "-v", "--json").stdout)["evaluators"]
    assert {fields["name"] for fields in document} >= {"cost", "fidelity"}
    assert all(fields["parity"] for fields in document)
    suites = {
        f["name"]: f for f in json.loads(run("list", "suites", "-v", "--json").stdout)["suites"]
    }
    assert suites["shapes"]["status"] == "ready"
    assert suites["coco-fid"]["status"] == "missing"  # its captions are fetched
    judges = {
        f["name"]: f for f in json.loads(run("list", "judges", "-v", "--json").stdout)["judges"]
    }
    assert judges["inception-2015"]["class"] == "equivalent"  # with the weights that are missing


def test_generate_eval_verify_convert_from_the_command_line(tiny_run: Path, tmp_path: Path) -> None:
    again = run("generate", "tiny", "--count", 30, "--out", tiny_run)
    assert "0 generated" in again.stdout
    first_command_result = run("eval", tiny_run)
    assert "fid-30" in first_command_result.stdout
    assert "up to date" in run("eval", tiny_run).stdout
    document = json.loads(run("eval", tiny_run, "--json").stdout)
    assert document["results"][0]["result"]["measurements"][0]["metric"] == "fid"
    assert "ALTERED" not in run("verify", tiny_run, "--redraw", 3).stdout
    run("convert", tiny_run, tmp_path / "x.npz", "--to", "adm")
    assert load_arrays(tmp_path / "x.npz")["arr_0"].shape == (30, 28, 28, 3)
    run("convert", tmp_path / "x.npz", tmp_path / "pngs", "--to", "png", "--count", 5)
    assert len(list((tmp_path / "pngs").iterdir())) == 5


def test_eval_draws_first_when_given_a_checkpoint(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    run("eval", "tiny", "--count", 25, "--steps", 2, "--out", tmp_path / "run")
    assert len(list((tmp_path / "run/images").glob("*.png"))) == 25
    assert json.loads((tmp_path / "run/plan.json").read_text())["settings"]["steps"] == 2


def test_eval_makes_a_run_of_each_resolution(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    run("eval", "tiny", "--count", 25, "--resolution", "28,56", "--out", tmp_path / "run")
    sides = [
        json.loads((tmp_path / f"run/r{side}/plan.json").read_text())["settings"]["resolution"]
        for side in (28, 56)
    ]
    assert sides == [28, 56]
    assert (
        "leave it out"
        in run("eval", tmp_path / "run/r28", "--resolution", "56", exit_code=1).stderr
    )


def test_dry_run_says_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    document = json.loads(
        run("generate", "tiny", "--count", 30, "--out", tmp_path / "run", "--dry-run").stdout
    )
    assert (document["n_asked"], document["n_missing"]) == (30, 30)
    assert not (tmp_path / "run").exists()


def test_more_images_than_the_suite_has_are_refused_dry_or_not(tmp_path: Path) -> None:
    """67 captions, six images each; what was refused does not stand in the folder as asked for."""
    for dry_text in (["--dry-run"], []):
        command_result = run(
            "generate",
            "shapes-ape",
            "--suite",
            "shapes",
            "--count",
            500,
            "--out",
            tmp_path / "run",
            *dry_text,
            exit_code=1,
        )
        assert "shapes has 402 images, sample 402 is none; request fewer" in command_result.stderr
    document = json.loads(
        run("generate", "shapes-ape", "--count", 402, "--out", tmp_path / "run", "--dry-run").stdout
    )
    assert (document["n_asked"], document["n_missing"]) == (402, 402)
    assert not (tmp_path / "run/plan.json").exists()


def test_train_from_a_folder_is_wrong_usage(tmp_path: Path) -> None:
    command_result = run(
        "train",
        "shapes-mmdit",
        "--encoding",
        "harope",
        "--base",
        tmp_path,
        "--out",
        tmp_path / "out",
        exit_code=2,
    )
    assert "'--base'" in command_result.stderr and "is a directory" in command_result.stderr


def test_verify_answers_no_with_three(tiny_run: Path) -> None:
    (tiny_run / "images/000002.png").write_bytes((tiny_run / "images/000003.png").read_bytes())
    assert "ALTERED image 2" in run("verify", tiny_run, exit_code=3).stdout


def test_unknown_names_offer_the_nearest(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "did you mean encodings" in run("list", "encoding", exit_code=1).stderr
    assert (
        "did you mean digits-"
        in run("generate", "digits-rope-axiall", "--out", out, exit_code=1).stderr
    )
    assert (
        "did you mean digits"
        in run(
            "generate", "digits-rope-axial", "--suite", "digit", "--out", out, exit_code=1
        ).stderr
    )
    assert (
        "did you mean flow"
        in run(
            "generate", "digits-rope-axial", "--sampler", "flwo", "--out", out, exit_code=1
        ).stderr
    )
    assert "did you mean table2" in run("table", "tabel2", exit_code=1).stderr
    assert "did you mean digits-dit" in run("train", "digit-dit", exit_code=1).stderr
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here_is_named(tiny_run: Path, tmp_path: Path) -> None:
    for words in (["generate", "tiny", "--count", 2, "--out", tmp_path / "x"], ["eval", tiny_run]):
        assert "--device cuda asked for" in run(*words, "--device", "cuda", exit_code=1).stderr


def test_wrong_usage_exits_two(tmp_path: Path) -> None:
    run("generate", "tiny", exit_code=2)
    run("generate", "tiny", "--out", tmp_path, "--count", 0, exit_code=2)
    run("generate", "tiny", "--out", tmp_path, "--indices", "9-3", exit_code=2)
    run(
        "generate",
        tiny.register_tiny(tmp_path / "weights"),
        "--out",
        tmp_path,
        "--indices",
        "0-3",
        "--count",
        2,
        exit_code=2,
    )
    run("table", "2", "--show", "measured", exit_code=2)
    run("nonsense", exit_code=2)


def test_a_checkpoint_that_does_not_fit_lists_every_key(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny.weights(tmp_path / "w.safetensors")
    state = load_file(path)
    del state["blocks.0.mlp.fc1.bias"], state["final_layer.linear.bias"]
    state["stray.weight"] = torch.zeros(2)
    state["blocks.0.mlp.fc2.bias"] = torch.zeros(3)
    save_file(state, path)
    texts = (
        "--encoding",
        "rope-axial",
        "--config",
        "heads=2",
        "--config",
        "size=28",
        "--sampler",
        "flow",
    )
    message = run("register", "mine", "--weights", path, *texts, exit_code=1).stderr
    for key in (
        "blocks.0.mlp.fc1.bias",
        "final_layer.linear.bias",
        "stray.weight",
        "blocks.0.mlp.fc2.bias (3,) for (16,)",
    ):
        assert key in message


def test_register_finds_what_the_keys_tell_and_asks_for_the_rest(tmp_path: Path) -> None:
    harope, axial = (
        tiny.weights(tmp_path / "h.safetensors", "harope"),
        tiny.weights(tmp_path / "a.safetensors"),
    )
    texts = ("--config", "size=28", "--suite", "digits", "--steps", 2)
    assert (
        "add the --sampler that it was trained for"
        in run("register", "mine", "--weights", harope, *texts, exit_code=1).stderr
    )
    message = run("register", "mine", "--weights", harope, *texts, "--sampler", "flow").stderr
    assert (
        "predicts velocity; sampler flow, 2 steps, guidance 1" in message
        and "takes 10 classes" in message
        and "trained at 28 px" in message
    )
    assert "0 failed" in run("generate", "mine", "--count", 2, "--out", tmp_path / "run").stdout
    assert "registered already" in run("register", "mine", "--weights", harope, exit_code=1).stderr
    assert (
        "do not reveal the encoding"
        in run("register", "other", "--weights", axial, exit_code=1).stderr
    )
    wrong_command_result = run(
        "register",
        "other",
        "--weights",
        harope,
        "--encoding",
        "ape",
        "--config",
        "size=28",
        exit_code=1,
    )
    assert "contains harope parameters, not ape" in wrong_command_result.stderr


def test_what_was_trained_is_what_is_registered(tmp_path: Path) -> None:
    """Equal keys do not tell qk_mode or the number of heads; the file's note does, and nothing may
    contradict it.
    """
    recipe = (Path(harope_bench.__file__).parent / "training/recipes/digits-dit.toml").read_text()
    for old_text, new_text in (
        ("hidden = 64", "hidden = 16"),
        ("depth = 4", "depth = 1"),
        ("heads = 4", "heads = 2"),
        ("steps = 4500", "steps = 1"),
    ):
        assert old_text in recipe
        recipe = recipe.replace(old_text, new_text)
    (tmp_path / "tiny.toml").write_text(recipe)
    run(
        "train",
        tmp_path / "tiny.toml",
        "--encoding",
        "harope",
        "--option",
        "qk_mode=same",
        "--out",
        tmp_path / "t",
    )
    weights = tmp_path / "t/digits-harope.safetensors"
    document = tomllib.loads(
        Path(run("register", "again", "--weights", weights).stdout.strip()).read_text()
    )
    assert (
        document["options"],
        document["config"]["heads"],
        document["suite"],
        document["scale"],
    ) == (
        {"qk_mode": "same"},
        2,
        "digits",
        "micro",
    )
    for wrong_text in (
        ["--option", "qk_mode=dual"],
        ["--config", "heads=1"],
        ["--encoding", "string"],
    ):
        assert (
            "correct it"
            in run("register", "wrong", "--weights", weights, *wrong_text, exit_code=1).stderr
        )


def test_options_that_would_change_nothing_are_refused(tiny_run: Path) -> None:
    for words in (["--seed", 7], ["--dtype", "float16"], ["--steps", 3]):
        assert "would have no effect" in run("eval", tiny_run, *words, exit_code=1).stderr
    assert "would score a part" in run("eval", tiny_run, "--count", 10, exit_code=1).stderr


def test_several_tables_are_one_json_object() -> None:
    document = json.loads(run("table", 1, 2, "--format", "json").stdout)["tables"]
    assert [table["table"] for table in document] == ["T1", "T2"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a..b", "x" * 101])
def test_names_never_choose_a_path(name: str, tmp_path: Path) -> None:
    path = tiny.weights(tmp_path / "w.safetensors")
    assert "is not a plain name" in run("register", name, "--weights", path, exit_code=1).stderr


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(os.environ["BOMB"]),))


def test_a_pickle_that_wants_to_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "went-off"))
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": Bomb()}))
    torch.save({"a": torch.zeros(1), "b": Bomb()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        run("register", "evil", "--weights", tmp_path / name, exit_code=1)
    assert not (tmp_path / "went-off").exists()
    torch.load(tmp_path / "evil2.pt", weights_only=False)  # the input would have gone off
    assert (tmp_path / "went-off").exists()


def test_an_unwritable_place_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    tiny.register_tiny(tmp_path / "weights")
    (tmp_path / "file").write_text("in the way")
    message = run(
        "generate", "tiny", "--count", 2, "--out", tmp_path / "file/run", exit_code=1
    ).stderr
    assert "cannot use" in message
    assert run("generate", "tiny", "--count", 2, "--out", "/proc/nowhere", exit_code=1).stderr


def test_a_full_disk_is_one_line_and_no_half_file(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def raise_disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run("eval", tiny_run)
    before = set(tiny_run.rglob("*"))
    monkeypatch.setattr(os, "replace", raise_disk_full)
    message = run("eval", tiny_run, "--rescore", exit_code=1).stderr
    assert "No space left on device; free some space" in message
    assert set(tiny_run.rglob("*")) == before
    message = run("generate", "tiny", "--count", 40, "--out", tiny_run, exit_code=1).stderr
    assert "No space left on device; free some space" in message
    assert not list(tiny_run.rglob("*.part"))


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(main, ["--debug", "list", "nonsense"])
    assert result.exception is not None
    assert "no kind named" in str(result.exception)


def test_environment_variables_set_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.register_tiny(tmp_path / "weights")
    monkeypatch.setenv("HAROPE_BENCH_GENERATE_STEPS", "2")
    run("generate", "tiny", "--count", 2, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run/plan.json").read_text())["settings"]["steps"] == 2


def test_doctor_knows_the_shipped_things() -> None:
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    states = {(f["area"], f["name"]): f["status"] for f in findings}
    assert (
        states["judge", "digits-net"]
        == states["reference", "digits"]
        == states["checkpoint", "digits-rope-axial"]
        == "ok"
    )


@pytest.mark.parametrize("number", range(1, 11))
@pytest.mark.parametrize("kind", ["md", "csv", "tex", "html", "json"])
def test_every_published_table_prints_in_every_format(number: int, kind: str) -> None:
    from harope_bench.leaderboards.board import load_table

    text = run("table", number, "--show", "published", "--format", kind).stdout
    for row in load_table(str(number)).rows:
        for printed_published in row.published.values():
            assert printed_published.replace("%", r"\%" if kind == "tex" else "%") in text


def test_paper_scale_says_what_it_lacks(tmp_path: Path) -> None:
    message = run(
        "reproduce", "table2", "--scale", "paper", "--out", tmp_path / "t", exit_code=1
    ).stderr
    assert "table 2 at paper scale needs checkpoints of ape," in message
    assert not (tmp_path / "t").exists()


def test_a_table_without_a_small_world_says_so() -> None:
    from harope_bench.core.errors import BenchError
    from harope_bench.leaderboards.table_spec import load_table
    from harope_bench.pipeline.table_runs import runs_of_table

    assert runs_of_table(load_table("4"), "micro")
    with pytest.raises(BenchError, match="table 4 has no micro runs"):
        runs_of_table(load_table("4").model_copy(update={"micro_scale": None}), "micro")


@pytest.mark.parametrize(
    "words",
    [
        ["--difference", "nan"],
        ["--difference", "inf"],
        ["--power", "nan"],
        ["--value", "-5"],
        ["--value", "inf"],
        ["--rate", "nan"],
    ],
)
def test_plan_takes_numbers_only(words: list[str]) -> None:
    fields = {"--difference": "1", "--value": "9", **dict([words])}
    output = run(
        "plan", "digits-harope", *[w for pair in fields.items() for w in pair], exit_code=2
    ).output
    assert f"Invalid value for '{words[0]}'" in output
