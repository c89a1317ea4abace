"""Every parser of something from outside: a valid folder, which of its files may be hostile, and how it is read.

`test_fuzz_parsers.py` changes one thing in one of the files and reads the folder; it also holds that every function of the package
that opens such a file is reached from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from hostile import documents as d
from toy_compbench import Toy

from harope_bench.analysis import contamination
from harope_bench.analysis.cost import profile
from harope_bench.assets import download, local_files  # fmt: skip
from harope_bench.commands import figure, options
from harope_bench.core import (
    array_archive,
    chart_schema,
    checksums,
    json_file,
    json_lines,
    registry,
    state_dicts,
    storage,
    text_file,
    toml_file,
    weight_wrappers,
)
from harope_bench.core.annotations import Names, Questions
from harope_bench.core.errors import SampleError
from harope_bench.core.formats import with_format
from harope_bench.data import adm_npz, feature_rows, image_io, result_store
from harope_bench.data.folder_writer import write_folder
from harope_bench.data.run_folder import Run
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.blip import blip_network
from harope_bench.judges.mmdet import weights_file
from harope_bench.judges.runners import common
from harope_bench.leaderboards import table_spec
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.models import checkpoint_folder, load_checkpoint, lora_manifest, register_checkpoint
from harope_bench.models.backbones import latents, lora_files, lora_names
from harope_bench.pipeline import (
    annotate,
    external_judge,
    extract_features,
    moments_cache,
    predictions,
    reference_stats,
    rescore_prompts,
    verify_files,
    verify_observations,
    verify_results,
)
from harope_bench.pipeline.verify_findings import Findings
from harope_bench.reports import failures, gallery, html, loss_logs, runs, site
from harope_bench.statistics import compare
from harope_bench.statistics.gate import baseline as gate_baseline
from harope_bench.statistics.gate import policy, render
from harope_bench.suites import coco_fid, compbench_suite, dpg_bench, image_stack, label_files
from harope_bench.suites import geneval as geneval_suite
from harope_bench.suites.imagenet_val import ImageNetVal
from harope_bench.suites.official_layouts import (
    base,
    compbench_results,
    dpg,
    dpg_results,
    file_list,
    geneval,
    geneval_results,
    prompt_folder,
)
from harope_bench.suites.official_layouts.file_pattern import compile_pattern
from harope_bench.suites.official_layouts.image_keys import ImageKeys
from harope_bench.training.loop import Trainer
from harope_bench.training.recipe import Schedule, read_recipe

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Parser:
    """A reader of outside files.

    files: a valid folder, made when it is asked for. read: reads it. mutable: names of files that may be hostile, all where empty.
    errors: what it may raise beside BenchError, as its docstring says.
    """

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], object]
    mutable: tuple[str, ...] = ()
    errors: tuple[type[BaseException], ...] = ()


PARSERS: list[Parser] = []


def parser(
    name: str,
    files: Files | Callable[[], Files],
    read: Callable[[Path], object],
    *mutable: str,
    errors: tuple[type[BaseException], ...] = (),
) -> None:
    """Add a parser to the table."""
    PARSERS.append(Parser(name, files if callable(files) else lambda: files, read, mutable, errors))


def at_home(folder: Path) -> None:
    """Make a folder the user's home; the fixture `bench_home` restores the one before."""
    os.environ["HAROPE_BENCH_HOME"] = str(folder)


def with_home(read: Callable[[Path], object]) -> Callable[[Path], object]:
    def reading(folder: Path) -> object:
        at_home(folder)
        return read(folder)

    return reading


# ------------------------------------------------------------------------------------------------ the doors

ROWS = d.as_lines({"a": 1, "b": "x"}, {"a": [1, 2], "b": {"c": None}})
parser("text", {"x.txt": "one\ntwö\r\n".encode()}, lambda f: text_file.read_text(f / "x.txt"))
parser("json", {"x.json": b'{"a": [1, "b", null], "c": {"d": 1.5}}'}, lambda f: json_file.read_json(f / "x.json"))
parser("toml", {"x.toml": d.toml({"a": 1, "b": {"c": ["x", "y"]}})}, lambda f: toml_file.read_toml(f / "x.toml"))
parser("lines", {"x.jsonl": ROWS}, lambda f: json_lines.read_lines(f / "x.jsonl"))
parser("mended lines", {"x.jsonl": ROWS}, lambda f: (json_lines.mend_lines(f / "x.jsonl"), json_lines.read_lines(f / "x.jsonl")))


def read_vouched(folder: Path) -> object:
    sums = checksums.read_sums(folder), checksums.state(folder, "a.txt"), checksums.intact(folder, "a.txt")
    checksums.record_files(folder, ["a.txt"])
    return sums, checksums.read_sums(folder)


parser("hashes", {"SHA256SUMS": f"{d.HASH}  a.txt\n{d.HASH}  b.txt\n".encode(), "a.txt": b"a"}, read_vouched, "SHA256SUMS")
parser("arrays", lambda: {"x.npz": d.kept_moments()}, lambda f: array_archive.load_arrays(f / "x.npz"))


def read_rows_file(folder: Path) -> object:
    path = folder / "x.npy"
    found = feature_rows.header(path), feature_rows.digest(path, 0, 4), feature_rows.is_whole(path)
    feature_rows.put(path, 0, np.zeros((1, 3)))
    return found, np.asarray(feature_rows.view(path, 4)).sum()


parser("rows", lambda: {"x.npy": d.npy()}, read_rows_file)
parser(
    "file hashes",
    {"x.bin": b"abc"},
    lambda f: (storage.sha256_file(f / "x.bin"), storage.git_blob(f / "x.bin"), local_files.md5_file(f / "x.bin")),
)

# ------------------------------------------------------------------------------------------------- weights


def read_weights(path: Path) -> object:
    return (
        state_dicts.load_weights(path),
        state_dicts.weights_header(path),
        state_dicts.weights_note(path),
        register_checkpoint.noted(path),
        state_dicts.weights_sha256(path),
    )


parser("safetensors", lambda: {"x.safetensors": d.weights()}, lambda f: read_weights(f / "x.safetensors"))
parser("shards", d.sharded, lambda f: read_weights(f / "model.safetensors.index.json"))
parser(
    "torch file", lambda: {"x.pt": d.torch_file()}, lambda f: (state_dicts.load_weights(f / "x.pt"), state_dicts.training_arguments(f / "x.pt"))
)  # fmt: skip
parser(
    "mmdet's file",
    lambda: {"x.pth": d.torch_file(False)},
    lambda f: weights_file.state(weights_file.Weights(f / "x.pth", storage.sha256_file(f / "x.pth"))),
)
parser("snapshot", lambda: {"snapshot.pt": d.snapshot()}, lambda f: trainer(f).resume())


def trainer(folder: Path) -> Trainer:
    import torch

    schedule = Schedule(steps=9, batch=1, lr=0.1, warmup=0, clip=1.0, seed=0, snapshot=3)
    return Trainer(torch.nn.Linear(2, 2), schedule, 0.9, folder, "tiny")


def read_checkpoint_file(folder: Path) -> object:
    at_home(folder / "home")
    register_checkpoint.register("mine", folder / "x.safetensors", {"suite": "digits", "source": "a test"})
    return register_checkpoint.process_lines(load_checkpoint.checkpoint("mine"))


parser("weights to register", lambda: {"x.safetensors": d.dit_weights()}, read_checkpoint_file)


class Library:
    """A pipeline class whose converters know these names already."""

    @staticmethod
    def lora_state_dict(state: dict[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return state, {}, {}


LAYERS = ("transformer_blocks.0.attn.to_q",)


def read_lora(folder: Path) -> object:
    path = folder / "adapter_model.safetensors"
    bare = lora_manifest.bare(folder)
    return bare, lora_manifest.low_rank(path), lora_files.read(Library, path, lambda: LAYERS)


PEFT = b'{"r": 4, "lora_alpha": 8, "target_modules": ["to_q"], "use_dora": false, "alpha_pattern": {"to_q": 2}}'
parser("LoRA", lambda: {"adapter_model.safetensors": d.lora()}, read_lora)
parser(
    "peft's LoRA", lambda: {"adapter_model.safetensors": d.lora("base_model.model."), "adapter_config.json": PEFT}, read_lora,
    "adapter_config.json",
)  # fmt: skip


def read_keys(folder: Path) -> object:
    import torch

    keys = text_file.read_text(folder / "keys.txt").split("\n")
    state = dict.fromkeys(keys, torch.zeros(4, 4))
    lora_names.reject_other_forms(keys, "x")
    return (
        lora_names.library_names(state, lambda: LAYERS),
        weight_wrappers.without_prefixes(state),
        weight_wrappers.unwrap({"model": state}),
    )


KEYS = (
    "module.ema_model.a.weight\nmodule.ema_model._orig_mod.b\nlora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight\nn_averaged"
)
parser("names of weights", {"keys.txt": KEYS.encode()}, read_keys)


def read_pipeline(folder: Path) -> object:
    lora_manifest.check_loads(folder)
    return lora_manifest.pipeline_class(folder), lora_manifest.describe(folder, "base"), lora_manifest.scheduler_config(folder)


parser("pipeline", d.pipeline, read_pipeline)
parser("manifest", {"manifest.json": d.json_bytes(d.MANIFEST)}, lambda f: lora_manifest.read(f / "manifest.json"))
parser(
    "adapter folder",
    lambda: {
        **{f"base/{name}": data for name, data in d.pipeline().items()},
        "manifest.json": d.json_bytes({**d.MANIFEST, "files": {}, "base": {"id": "base", "config": {"num_layers": 1}}}),
    },
    lambda f: lora_manifest.examine(f / "manifest.json", adapter_checkpoint(f / "base")),
    "manifest.json",
    "base/transformer/config.json",
)


def adapter_checkpoint(folder: Path) -> Any:
    return d.fake_runs.checkpoint("x", "harope", backbone="flux", options={"theta": 100.0}, config={"base": str(folder), "tokens": "image"})


parser(
    "autoencoder",
    {"config.json": d.json_bytes(d.VAE), "diffusion_pytorch_model.safetensors": b""},
    lambda f: latents.check(str(f), 4, "x"),
    "config.json",
)

# -------------------------------------------------------------------------------------------- arrays of images


def read_adm(folder: Path) -> object:
    path = folder / "x.npz"
    images = list(adm_npz.rows(path, 2))
    return adm_npz.members(path), adm_npz.shape_of(path), images, adm_npz.labels(path), open_samples(path).labels


parser("ADM npz", lambda: {"x.npz": d.adm()}, read_adm)
JUDGE = "digits-net"


def read_reference(folder: Path) -> object:
    path = folder / "x.npz"
    return reference_stats.origin(path), reference_stats.open_reference(registry.load("suites", "digits"), JUDGE, path)


parser("reference", lambda: {"x.npz": d.moments_reference()}, read_reference)
parser(
    "reference to replace",
    lambda: {"x.npz": d.moments_reference()},
    lambda f: reference_stats._check_target(f / "x.npz", small_set(f), JUDGE, False),
)


def small_set(folder: Path) -> Any:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images/0.png").write_bytes(d.png())
    return open_samples(folder / "images")


def read_kept_moments(folder: Path) -> object:
    array = np.random.default_rng(0).normal(size=(8, 3))
    checksums.record_files(folder, ["x.npz"])
    return moments_cache.moments(folder / "x.npz", array, moments_cache.Shards([d.HASH], 8)), moments_cache.are_sums_of(
        folder / "x.npz", array
    )


parser("kept moments", lambda: {"x.npz": d.kept_moments()}, read_kept_moments)
parser(
    "predictions",
    lambda: {
        "x.npz": d.npz_of(
            "predictions",
            {"key": np.array("k"), "failed": np.array([1]), "reasons": np.array(["x"]), "indices": np.arange(2), "ranked": np.zeros((2, 5)),
             "logits": np.zeros((2, 5))}
        )
    },
    lambda f: predictions.find_shard(f / "x.npz", "k", ()),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------- images


def read_images(folder: Path) -> object:
    samples = open_samples(folder)
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    sheets = [image_stack.decoded(path.read_bytes(), path.name, 8, 0.9) for path in paths]
    return [samples.image(index) for index in samples.indices], image_io.file_formats(paths), image_io.misnamed(paths), sheets, cut(folder)


def cut(folder: Path) -> object:
    return [dpg.cut_picture(path, tiles=1) for path in folder.iterdir()]


for form in ("PNG", "JPEG", "BMP", "WEBP"):
    parser(f"{form} image", lambda form=form: {f"0.{form.lower()}": d.png(8, form)}, read_images)  # type: ignore[misc]
parser(
    "runner's image", lambda: {"x.png": d.png()}, lambda f: (common.picture(f / "x.png"), common.digest(f / "x.png")),
    errors=(ValueError, OSError, SyntaxError),  # they become the answer's error
)  # fmt: skip


def read_validation(folder: Path) -> object:
    pictures = ImageNetVal().pictures(folder, None)
    images = []
    for index in range(len(pictures.labels)):
        with suppress(SampleError):  # `classify` counts the picture as missing and reads the next
            images.append(pictures.look(index, pictures.data(index), 8, 1.0))
    return images


parser("validation list", lambda: {"val.txt": b"a.png 3\nb.png 5\n", "a.png": d.png(), "b.png": d.png()}, read_validation, "val.txt")

# --------------------------------------------------------------------------------------------- runs and results


def read_run(folder: Path) -> object:
    run = Run(folder)
    return run.plan, run.records(), run.asked(), run.is_settled, open_samples(folder), open_samples(folder, 2)


def read_results(folder: Path) -> object:
    path = folder / "results/fidelity.json"
    found = result_store.read_result(path), result_store.find_result(path), profile._stored(path, path)
    return found, result_store.read_results(folder)


parser("run", d.run_files, read_run, "plan.json", "samples.jsonl", "requests.jsonl")
parser("result", d.run_files, read_results, "results/fidelity.json")
parser(
    "result with hashes",
    d.run_files,
    lambda f: (checksums.record_files(f / "results", ["fidelity.json"]), read_results(f)),
    "results/fidelity.json",
)


def read_comparison(folder: Path) -> object:
    baseline, new = compare.open_side(folder / "old"), compare.open_side(folder / "new")
    comparison = compare.compare(baseline, new)
    return compare.words(comparison), compare.facts(comparison), render._most(np.arange(4.0), folder / "new")


def two_runs() -> Files:
    return {f"{name}/{path}": data for name in ("old", "new") for path, data in d.run_files().items()}


parser("two runs", two_runs, read_comparison, "new/results/fidelity.json", "new/results/fidelity.npz", "new/samples.jsonl")


def two_prompt_runs() -> Files:
    prompts = {"fid": np.arange(4.0), "is": np.arange(4.0), "indices": np.arange(4), "prompts": np.arange(4)}
    record = d.json.loads(d.run_files()["results/fidelity.json"])
    record |= {"plan": None, "plan_digest": None, "rows": "fidelity.rows.jsonl", "suite": "geneval"}
    files = {**d.run_files(), "results/fidelity.json": d.json_bytes(record), "results/fidelity.npz": d.npz_bytes(prompts)}
    del files["plan.json"]
    return {f"{name}/{path}": data for name in ("old", "new") for path, data in files.items()}


parser("two runs of prompts", two_prompt_runs, read_comparison, "new/results/fidelity.rows.jsonl", "new/results/fidelity.npz")
parser("results to verify", d.run_files, lambda f: other_result(f), "results/fidelity.npz", "results/fidelity.rows.jsonl")


def other_result(folder: Path) -> object:
    path = folder / "results/fidelity.json"
    (again := folder / "again").mkdir()
    for name in ("fidelity.npz", "fidelity.rows.jsonl"):
        (again / name).write_bytes(d.run_files()[f"results/{name}"])
    files = rescore_prompts.other_files(path, again / "fidelity.json")
    return files, list(verify_results._wrong_rows(path.with_suffix(".npz"), {"fid": np.arange(4.0)}))


def read_failures(folder: Path) -> object:
    found = failures.failures(folder)
    return failures.as_csv(found), failures.as_jsonl(found), failures.warnings(folder)


parser("failures", d.run_files, read_failures, "results/fidelity.rows.jsonl", "results/fidelity.json")
parser("report's runs", d.run_files, lambda f: gallery.panels(runs.read_runs(f)), "samples.jsonl", "plan.json", "images/000000.png")
parser("baseline", lambda: {"x.json": d.baseline()}, lambda f: gate_baseline.open_side(f / "x.json"))
parser(
    "baseline to replace", lambda: {"x.json": d.baseline(), **{f"run/{name}": data for name, data in d.run_files().items()}},
    lambda f: gate_baseline.write(f / "x.json", f / "run", "signed"), "x.json",
)  # fmt: skip
parser(
    "gate's policy", {"gate.toml": d.toml(d.POLICY)}, lambda f: [policy.read(f / "gate.toml").rule(m).margin_of(3.0) for m in ("fid", "is")]
)
parser("charts", d.charts, lambda f: [chart_schema.read_chart(path) for path in sorted(f.glob("*.json"))])
parser("recipe", {"x.toml": d.toml(d.RECIPE)}, lambda f: read_recipe(str(f / "x.toml")))
parser("painter's recipe", {"x.toml": d.toml(d.PAINTER)}, lambda f: read_recipe(str(f / "x.toml")))
parser("table", {"x.toml": d.toml(d.TABLE)}, lambda f: table_spec._read(registry.Entry("tables", "x", "a test", f / "x.toml")))
parser(
    "asset",
    {"x.toml": d.toml(d.ASSET)},
    lambda f: local_files.Asset.model_validate(toml_file.read_toml(f / "x.toml")),
    errors=(ValueError,),
)
CHECKPOINT = {"checkpoints/mine.toml": d.toml(with_format("checkpoint", {**d.plain(d.checkpoint()), "name": "mine"}))}


def read_logged(folder: Path) -> object:
    at_home(folder / "home")
    return html._curves(runs.read_runs(folder / "run"))


def logged_run() -> Files:
    files = {f"run/{name}": data for name, data in d.run_files().items()}
    named = d.plain(d.checkpoint())
    return {**files, **shadowed(named)}


def shadowed(named: dict[str, Any]) -> Files:
    """A user's checkpoint of another name than the shipped ones, with the log of its training, and the plan of a run of it."""
    named = {**named, "name": "mine"}
    plan = {**d.plain(d.fake_runs.plan(d.checkpoint())), "checkpoint": named}
    places = {
        "home/checkpoints/mine.toml": d.toml(with_format("checkpoint", named)),
        "home/checkpoints/mine.log.csv": b"step,loss\n1,3.0\n",
    }
    return {**places, "run/plan.json": d.file_of("plan", plan)}


parser("logs of checkpoints", logged_run, read_logged, "home/checkpoints/mine.toml", "home/checkpoints/mine.log.csv")


def read_checkpoints(folder: Path) -> object:
    at_home(folder)
    former = checkpoint_folder._former(folder / "checkpoints/mine.toml", d.checkpoint())
    return former, registry.entries("checkpoints"), load_checkpoint.checkpoint("mine"), table_spec.load_tables()


parser("checkpoint", CHECKPOINT, read_checkpoints)
parser(
    "training log",
    {"log.csv": b"step,loss\n1,3.0\n2,2.5\n"},
    lambda f: (html._log(f / "log.csv"), loss_logs.read_losses([f / "log.csv"], 0.9)),
)
DIT_LOG = b"[2026-01-01 10:00:00] (step=0000100) Train Loss: 0.2, Train Steps/Sec: 1\n[x] (step=0000200) Train Loss: 0.1, Train\n"
parser("DiT's log", {"log.txt": DIT_LOG}, lambda f: loss_logs.read_losses([f / "log.txt"], 0))
parser("page", {"index.html": b"<html></html>"}, lambda f: site._read(f / "index.html"))
parser(
    "report to replace",
    {"report.html": f"<html>{html.MARK}</html>".encode()},
    lambda f: storage.check_overwritten(f / "report.html", html.MARK, "report"),
)

# ------------------------------------------------------------------------------------------------- judges

KEY = "k" * 8
RECORD = d.file_of(
    "answers", {"name": "toy", "version": 1, "judge_class": "micro", "weights_sha256": d.HASH, "preprocessing": "none"}
)  # fmt: skip
BOX = [0.0, 0.0, 5.0, 5.0]
ANSWERS = d.as_lines(
    {"key": KEY, "index": 0, "answer": {"size": [8, 8], "found": [{"label": "cat", "score": 0.9, "box": BOX}]}},
    {"key": "other", "index": 1, "error": "no image"},
)


def read_answers(folder: Path) -> object:
    asked = [annotate.Question(0, 0, d.HASH, Names(), KEY), annotate.Question(1, 1, d.HASH, Questions(questions=("a?",)), "other")]
    return annotate.kept_record(folder), annotate.answers(folder, "detector", asked), annotate.answers(folder, "vqa", asked)


parser("answers", {"judge.json": RECORD, "answers.jsonl": ANSWERS}, read_answers)


def append_answer(folder: Path) -> object:
    annotate._append(folder, {"key": "new", "index": 2, "answer": "yes"})
    return annotate.answers(folder, "detector", [annotate.Question(0, 0, d.HASH, Names(), KEY)])


VOUCHED_ANSWERS = {"answers.jsonl": ANSWERS, "SHA256SUMS": f"{d.HASH}  answers.jsonl\n{d.HASH}  judge.json\n".encode()}
parser("answers to add to", VOUCHED_ANSWERS, append_answer)
ASKS = d.as_lines({"key": KEY, "index": 0, "role": "vqa", "image": "x.png", "sha256": d.HASH, "ask": {}}, {"key": "other", "index": 1})
parser(
    "answers of another Python", {"asks.jsonl": ASKS, "answers.jsonl": ANSWERS, "judge.json": RECORD},
    lambda f: external_judge.heard(f, Path("runner.py")), "asks.jsonl", "answers.jsonl",
)  # fmt: skip
parser(
    "kept answers", {"a/vlm/answers.jsonl": ANSWERS, "b/vlm/answers.jsonl": ANSWERS}, lambda f: rescore_prompts._answers(f / "a", f / "b")
)


def read_questions(folder: Path) -> object:
    with redirect_stderr(StringIO()):
        return list(common.lines(folder / "asks.jsonl")), common._answered(folder / "answers.jsonl")


parser("questions", {"asks.jsonl": ASKS, "answers.jsonl": ANSWERS}, read_questions, errors=(SystemExit,))
SHARD = {"key": KEY, "rows": [0, 4], "sha256": {"x": d.HASH}, "warnings": ["grey"]}
RECORDED_JUDGE = {name: value for name, value in d.json.loads(RECORD).items() if name != "format"}
LOOKED = with_format("features", {"judge": RECORDED_JUDGE, "warnings": ["substitute"]})


def read_observed(folder: Path) -> object:
    findings = Findings()
    verify_files.check_folder(folder / "observations/toy", findings)
    verify_files.check_rows(folder, findings)
    verify_files.check_archives(folder, findings)
    verify_files.check_listed(folder / "observations/toy", findings)
    verify_observations.check_moments(folder / "observations/toy", folder / "observations/toy", 4, findings)
    judge = folder / "observations/toy"
    return findings, extract_features.read_record(judge / "shard-00000.json"), extract_features._recorded(judge)


parser(
    "observations",
    lambda: {
        "observations/toy/judge.json": d.json_bytes(LOOKED), "observations/toy/shard-00000.json": d.json_bytes(SHARD),
        "observations/toy/x.npy": d.npy(), "observations/toy/x.moments.npz": d.kept_moments(),
    },
    read_observed,
)  # fmt: skip
parser("words of BLIP", {"vocab.txt": b"yes\nno\ncat\n"}, lambda f: blip_network.Words(f / "vocab.txt"))
parser(
    "forwards", lambda: {"observations/forwards.npz": d.forwards()},
    lambda f: verify_results._wrong_cost(f, d.fake_runs.result(None, [], evaluator="cost"), None),
)  # fmt: skip

# ------------------------------------------------------------------------------- prompts, captions, file lists

CAPTIONS = "a photo of a cat,x\n"
parser(
    "captions as lines",
    {"x.jsonl": d.as_lines({"text": "a cat"}, {"caption": "a dog"})},
    lambda f: list(contamination.read_captions(f / "x.jsonl")),
)
parser("captions as csv", {"x.csv": b"text,n\na cat,1\na dog,2\n"}, lambda f: list(contamination.read_captions(f / "x.csv")))
parser("captions as tsv", {"x.tsv": b"text\tn\na cat\t1\n"}, lambda f: list(contamination.read_captions(f / "x.tsv", "text")))
parser("captions as text", {"x.txt": b"a cat\na dog\n"}, lambda f: list(contamination.read_captions(f / "x.txt")))
parser("captions packed", {"x.txt.gz": d.packed(b"a cat\na dog\n")}, lambda f: list(contamination.read_captions(f / "x.txt.gz")))


def audit(folder: Path) -> object:
    return contamination.audit([folder / "captions.txt"], "geneval", folder / "prompts.jsonl")


def prompt_lines() -> Files:
    return {"prompts.jsonl": d.asset("geneval/evaluation_metadata.jsonl"), "captions.txt": b"a photo of a cat\na photo of two dogs\n"}


parser("audit", prompt_lines, audit)
parser("GenEval's prompts", lambda: {"x.jsonl": d.asset("geneval/evaluation_metadata.jsonl")}, lambda f: geneval_suite.lines(f / "x.jsonl"))
parser("DPG-Bench's table", lambda: {"x.csv": d.dpg_table()}, lambda f: dpg_bench.prompts(f / "x.csv"))
parser("a category's prompts", {"color_val.txt": b"a red cat\r\na blue dog"}, lambda f: compbench_suite._lines(f / "color_val.txt"))
parser("COCO's captions", lambda: {"x.zip": d.coco()}, lambda f: coco_fid.captions(f / "x.zip"))
parser("labels", {"labels.txt": b"1\n2\n9\n"}, with_home(lambda f: label_files.policy(str(f / "labels.txt"), 10)))


def read_asset(folder: Path) -> object:
    at_home(folder)
    found = local_files.receipts("geneval"), local_files.held("geneval", "evaluation_metadata.jsonl")
    return found, local_files.checked("geneval", "evaluation_metadata.jsonl")


def read_coco_reference(folder: Path) -> object:
    at_home(folder)
    return coco_fid.PLUGIN.reference(JUDGE)


COCO_REFERENCE = f"references/coco-val2014-512-{JUDGE}.npz"
parser("COCO's reference", lambda: {COCO_REFERENCE: d.npz_of("reference", {"judge_sha256": np.array(d.HASH)})}, read_coco_reference)


class Answer:
    """What a server says of a file."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers


def read_headers(folder: Path) -> object:
    lines = (line.partition(": ") for line in text_file.read_text(folder / "headers.txt").split("\n"))
    return download._version(Answer({name: value for name, _, value in lines}), 3)


HEADERS = b'ETag: "x"\nContent-Length: 5\nContent-Range: bytes 3-7/8'
parser("a server's headers", {"headers.txt": HEADERS}, read_headers)


def read_arguments(folder: Path) -> object:
    lines = text_file.read_text(folder / "words.txt").split("\n")
    types = (options.Indices(), options.Sides(), options.KeyValue(), figure.Numbers(), options.Finite(0, 10))
    return [kind.convert(line, None, None) for kind, line in zip(types, lines, strict=False)], parse_entries(lines[5:7], lines[7:])


ARGUMENTS = b"0-4,7\n28,56\nsize=28\n100,500.5\n1.5\nmine=Ours\nother\nrow=mine"
parser("words of the command line", {"words.txt": ARGUMENTS}, read_arguments, errors=(click.UsageError,))


def read_pattern(folder: Path) -> object:
    patterns = text_file.read_text(folder / "patterns.txt").split("\n")
    return [compile_pattern(pattern).fullmatch(name) for pattern in patterns for name in ("0_1.png", "a cat/000001.png", "1" * 300)]


PATTERNS = b"{prompt_index}_{copy}.png\n{prompt}/{copy}.png\n{id}-{copy}.png\n{index}.png\n{{x}}{index}"
parser("patterns of names", {"patterns.txt": PATTERNS}, read_pattern)


def write_again(folder: Path) -> object:
    samples = small_set(folder)
    return write_folder(folder / "out", ["0.png"], lambda names: (samples.image(0) for _ in names), {"note.txt": "x\n"})


parser("a folder to go on with", lambda: {"out/0.png": d.png(), "out/note.txt": b"x\n"}, write_again)
parser("receipt", d.prompt_home, read_asset, "assets/geneval/receipt.json")
TAG = b'https://a.test/x\n"etag"\n123\n'
parser("half a download", {"x.etag": TAG, "x.part": b"half"}, lambda f: download._tagged(f / "x.part", "https://a.test/x"), "x.etag")


def suite(name: str) -> Any:
    at_home(PROMPT_HOME)
    return registry.load("suites", name)


PROMPT_HOME = Path()  # the test writes the prompts once and says where


LISTED_CSV = b"file,prompt_index,copy\na.png,0,0\nb.png,1,0\n"
LISTED_LINES = d.as_lines({"file": "a.png", "index": 0}, {"file": "b.png", "prompt_index": 1, "copy": 1})
parser(
    "file list as csv", lambda: {"list.csv": LISTED_CSV, "a.png": d.png(), "b.png": d.png()},
    lambda f: file_list.place_by_list(f, f / "list.csv", ImageKeys(suite("geneval"), "geneval")), "list.csv",
)  # fmt: skip
parser(
    "file list as lines", lambda: {"list.jsonl": LISTED_LINES, "a.png": d.png(), "b.png": d.png()},
    lambda f: file_list.place_by_list(f, f / "list.jsonl", ImageKeys(suite("geneval"), "geneval")), "list.jsonl",
)  # fmt: skip
RECORDED = d.as_lines(
    with_format("image-list", {"index": 0, "file": "a.png", "sha256": d.HASH, "prompt": "a photo of a cat"}),
    with_format("image-list", {"index": 1, "prompt": "a photo of a dog", "status": "failed", "reason": "no image"}),
)
parser(
    "converted folder", lambda: {"file_list.jsonl": RECORDED, "a.png": d.png()},
    lambda f: file_list.open_recorded(f, suite("geneval"), "geneval"), "file_list.jsonl",
)  # fmt: skip


def read_layout(folder: Path) -> object:
    return base.recognised(folder), geneval.open_layout(folder, suite("geneval"))


parser("GenEval's folders", d.geneval_folder, read_layout, "00000/metadata.jsonl", "00001/metadata.jsonl")
parser(
    "GenEval's results", lambda: {"results.jsonl": d.geneval_results()},
    lambda f: (base.reader(f / "results.jsonl"), geneval_results.imported(f / "results.jsonl", suite("geneval"))),
)  # fmt: skip


class Items(dpg_bench.DpgBench):
    """DPG-Bench with the items of `dpg_script`."""

    def __init__(self, path: Path) -> None:
        self.known = dpg_bench.prompts(path)

    @property
    def count(self) -> int:
        return 4 * len(self.known)

    def case(self, index: int) -> Any:
        copy, prompt = divmod(index, len(self.known))
        return dpg_bench.Case(prompt, copy, self.known[prompt].text, {"dpg": self.known[prompt].facts})


def read_dpg(folder: Path) -> object:
    items = Items(PROMPT_HOME / "dpg_script.csv")
    found = [base.reader(path) for path in sorted(folder.glob("*.txt"))]
    return found, [dpg_results.imported(folder / "results.txt", items, rules=rules) for rules in ("official", "corrected")]


parser("DPG-Bench's results", d.dpg_results, read_dpg)


def read_compbench(folder: Path) -> object:
    path = folder / "numeracy/annotation_num/vqa_result.json"
    return base.reader(path), compbench_results._read(folder, Toy("numeracy"), "official")


parser(
    "T2I-CompBench's results",
    {
        "numeracy/annotation_num/vqa_result.json": d.compbench_answers(),
        "numeracy/annotation_num/score.txt": b"total:2.5 num:5 avg:0.5",
    },
    read_compbench,
)


def patterned(folder: Path) -> object:
    for name in text_file.read_text(folder / "names.txt").split("\n")[:4]:
        if name and "/" not in name and "\0" not in name and len(name.encode()) < 200:
            (folder / name).write_bytes(b"x")
    return prompt_folder.place_by_pattern(folder, "{prompt_index}_{copy}.png", ImageKeys(suite("geneval"), "geneval"))


parser("names by a pattern", {"names.txt": b"0_0.png\n1_0.png\n2_1.png\nx.png"}, patterned)


def numbered(folder: Path) -> object:
    for name in text_file.read_text(folder / "names.txt").split("\n")[:4]:
        if name and "/" not in name and "\0" not in name and len(name.encode()) < 200:
            (folder / name).mkdir(exist_ok=True)
            (folder / f"{name}.png").write_bytes(d.png())
            at_home(folder / "home")
            (folder / "home/checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "home/checkpoints" / f"{name}.toml").write_bytes(b"")
    listed = open_samples(folder).warnings, base.recognised(folder), registry.names("checkpoints")
    return listed, dpg.recognise(folder), geneval.recognise(folder)


parser("names of files", {"names.txt": b"00001\n2\nimg_10\n0_1"}, numbered)
