"""Small valid files of every form that the package reads, as bytes, so that fuzz tests can change
one thing in them.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import tiny_prompts
import tomli_w
from dpg_script import run_script
from hostile.strategies import json_bytes, npz_bytes
from PIL import Image

from harope_bench.core.array_file import arrays_with_format
from harope_bench.core.chart_schema import LossChart, LossCurve, SweepChart, SweepLine, SweepPoint
from harope_bench.core.formats import FileKind, add_format_version
from harope_bench.core.schema import ImageSource, Result, SampleRecord, make_warnings
from harope_bench.data.adm_npz import write_npz as write_adm

Files = Mapping[str, bytes]
HASH = fake_runs.HASH


__all__ = ["json_bytes", "npz_bytes"]


def as_lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def toml(fields: Any) -> bytes:
    return tomli_w.dumps(fields).encode()


def folder_files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------
# runs


def record_document(record: Any) -> Any:
    return record.model_dump(mode="json", exclude_none=True)


def file_of(kind: FileKind, record: Any) -> bytes:
    """The JSON file of a kind that a record, or its facts, is."""
    return json.dumps(
        add_format_version(kind, record if isinstance(record, Mapping) else record_document(record))
    ).encode()


def npz_of(kind: FileKind, arrays: Mapping[str, np.ndarray]) -> bytes:
    return npz_bytes(arrays_with_format(kind, arrays))


def checkpoint() -> Any:
    return fake_runs.checkpoint(
        config={"hidden": 16, "depth": 1, "size": 28},
        options={"theta": 100.0},
        drawing={"mu_policy": "clamp"},
    )


def result() -> Result:
    numbers = [fake_runs.measurement("fid", 13.0, n=4), fake_runs.measurement("is", 8.0, n=4)]
    return fake_runs.result(
        fake_runs.plan(checkpoint()), numbers, label="ours", suite="digits", arrays_file="fidelity.npz", warnings=make_warnings("images", ["images: few"]),
        source=ImageSource(suite="digits", path="../images", count=4),
    )  # fmt: skip


@cache
def png(side: int = 8, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


@cache
def run_files() -> Files:
    """A run of four images, its result and its arrays."""
    names = [f"images/{k:06d}.png" for k in range(4)]
    records = [
        SampleRecord(index=k, file=name, sha256=HASH, label=k, prompt="a cat")
        for k, name in enumerate(names)
    ]
    arrays = {"fid": np.arange(4.0), "is": np.arange(4.0) + 1, "indices": np.arange(4)}
    return {
        **dict.fromkeys(names, png()),
        "plan.json": file_of("plan", fake_runs.plan(checkpoint())),
        "samples.jsonl": as_lines(*map(record_document, records)),
        "requests.jsonl": as_lines({"indices": "0-1"}, {"indices": "2,3"}),
        "results/fidelity.json": file_of("result", result()),
        "results/fidelity.npz": npz_bytes(arrays),
        "results/fidelity.sample_scores.jsonl": as_lines(
            {"index": 0, "prompt_index": 0, "copy": 0, "task": "one", "prompt": "a cat", "verdict": "right", "scores": {"one": 1.0}},
            {"index": 1, "prompt_index": 1, "copy": 0, "task": "one", "prompt": "a dog", "verdict": "wrong", "scores": {"one": 0}, "reason": "no"},
        ),
    }  # fmt: skip


@cache
def gallery_files() -> Files:
    """Two runs with scores, detections and features of their images."""
    detection = {"label": "cat", "score": 0.9, "box": [1, 1, 6, 6]}
    annotation = {"size": [8, 8], "detections": [detection]}
    clause = {"expected": {"class": "cat", "count": 1}, "detections": [detection]}
    rows = [
        {
            "index": k,
            "prompt_index": k,
            "copy": 0,
            "task": "one",
            "prompt": "a cat",
            "reason": "no",
            "scores": {"one": 0.5},
            "evidence": {"threshold": 0.3, "clauses": [clause]},
        }
        for k in range(4)
    ]
    scored_result = result().model_copy(
        update={"evaluator": "geneval", "sample_scores_file": "geneval.sample_scores.jsonl"}
    )
    run = {
        **{name: data for name, data in run_files().items() if not name.startswith("results/")},
        "results/geneval.json": file_of("result", scored_result),
        "results/geneval.sample_scores.jsonl": as_lines(*rows),
        "annotations/eye/judge.json": json.dumps({"name": scored_result.judge.name}).encode(),
        "annotations/eye/annotations.jsonl": as_lines(
            {"key": "k", "index": 0, "annotation": annotation}
        ),
    }
    return {f"{name}/{file}": data for name in "ab" for file, data in run.items()}


@cache
def feature_gallery_files() -> Files:
    """Two runs without scores, with features of their images."""
    run = {
        **{name: data for name, data in run_files().items() if not name.startswith("results/")},
        "features/eye/judge.json": b"{}",
        "features/eye/features.npy": npy(),
    }
    return {f"{name}/{file}": data for name in "ab" for file, data in run.items()}


@cache
def baseline() -> bytes:
    from harope_bench.statistics.gate.baseline import Baseline, digest_of

    bare_result = result().model_copy(update={"arrays_file": None})
    baseline = Baseline(
        reason="signed",
        replaces_sha256=None,
        results=(bare_result,),
        contribution_files={},
        provenance=fake_runs.provenance(),
        digest="",
    )
    document = json.loads(baseline.to_json())
    return json.dumps({**document, "digest": digest_of(document)}).encode()


@cache
def charts() -> Mapping[str, bytes]:
    loss = LossChart(
        smoothing=0.9,
        curves=(
            LossCurve(label="ours", steps=(1.0, 2.0), loss=(3.0, 2.0), smoothed_loss=(3.0, 2.5)),
        ),
    )
    points = (
        SweepPoint(axis_value="28", value=3.0, low=2.0, high=4.0, images=10),
        SweepPoint(axis_value="56", value=4.0, images=10),
    )
    sweep = SweepChart(
        suite="digits", metric="fid", title="FID", direction="lower", decimals=2, axis="resolution", is_numeric=True,
        lines=(SweepLine(label="ours", points=points),),
    )  # fmt: skip
    return {
        "loss.json": json.dumps(record_document(loss)).encode(),
        "sweep.json": json.dumps(record_document(sweep)).encode(),
    }


RECIPE: Mapping[str, Any] = {
    "kind": "denoiser", "name": "tiny", "suite": "digits", "backbone": "dit", "sampler": "flow", "draw_steps": 2, "guidance": 1.5,
    "label_drop": 0.1, "ema": 0.9, "config": {"hidden": 16, "depth": 1, "heads": 2, "patch": 7, "size": 28, "channels": 1, "classes": 10},
    "schedule": {"steps": 25, "batch": 4, "lr": 0.01, "warmup": 5, "clip": 1.0, "seed": 3, "snapshot": 7},
}  # fmt: skip
PAINTER: Mapping[str, Any] = {
    **{key: RECIPE[key] for key in ("name", "backbone", "sampler", "draw_steps", "guidance", "ema", "config", "schedule")},
    "kind": "painter", "suite": "shapes", "text_drop": 0.1, "scenes": 100, "keep": [7, 14], "base": {"default": "digits-ape"},
}  # fmt: skip
TABLE: Mapping[str, Any] = {
    "id": "mine", "number": 9, "title": "Ours", "block": "none", "row_headers": [{"title": "Method", "text": "{title} {model}"}],
    "columns": [{"key": "fid", "title": "FID", "metric": "fid", "direction": "lower", "suite": "digits", "config": {"size": 28}}],
    "rows": [{"id": "one", "title": "Ours", "published": {"fid": "2.46 (+4.1%)"}}],
}  # fmt: skip
POLICY: Mapping[str, Any] = {
    "default": {"margin": "5%", "confidence": 0.9},
    "metric": {"fid": {"margin": 0.5, "on_inconclusive": "fail"}},
}


# ------------------------------------------------------------------------------------ prompts and
# their images


@cache
def prompt_home() -> Files:
    """A user's home with small prompt files of the three benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_prompts.prompts(Path(folder))
        return folder_files(Path(folder))


def asset(path: str) -> bytes:
    return prompt_home()[f"assets/{path}"]


@cache
def geneval_folder() -> Files:
    lines = asset("geneval/evaluation_metadata.jsonl").decode().splitlines()
    files: dict[str, bytes] = {}
    for prompt, line in enumerate(lines[:3]):
        files[f"{prompt:05d}/metadata.jsonl"] = line.encode()
        files[f"{prompt:05d}/samples/00000.png"] = png()
    return files


@cache
def geneval_results() -> bytes:
    rows = []
    for prompt, line in enumerate(asset("geneval/evaluation_metadata.jsonl").decode().splitlines()):
        document = json.loads(line)
        details = {
            clause["class"]: [[0.0, 1.0, 50.0, 40.0, 0.9]] * clause["count"]
            for clause in document["include"]
        }
        coloured_clauses = [clause for clause in document["include"] if "color" in clause]
        reason = "\n".join(
            f"expected {c['color']} {c['class']}>=1, found 0 {c['color']}; and 1 green"
            for c in coloured_clauses
        )
        rows.append({
            "filename": f"out/{prompt:05d}/samples/00000.png", "tag": document["tag"], "prompt": document["prompt"], "correct": not reason,
            "reason": reason, "metadata": json.dumps(document) if prompt % 2 else document,
            "details": json.dumps(details) if prompt % 3 else details,
        })  # fmt: skip
    return as_lines(*rows)


@cache
def dpg_results() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        run_script(Path(folder) / "images", 0)
        return {
            name.replace("dpg-bench_20260101-000000_results", "results"): data
            for name, data in folder_files(Path(folder)).items()
        }


@cache
def dpg_table() -> bytes:
    import csv

    from dpg_script import FIELDS, table_rows

    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS)
    writer.writeheader()
    writer.writerows(table_rows())
    return text.getvalue().encode()


def compbench_answers(count: int = 5) -> bytes:
    return json.dumps([{"question_id": k, "answer": 0.5} for k in range(count)]).encode()


# -------------------------------------------------------------------------------------------------
# arrays


@cache
def adm(labels: bool = True) -> bytes:
    images = np.random.default_rng(0).integers(0, 255, (3, 4, 4, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_adm(
            path := Path(folder) / "x.npz",
            iter([images]),
            images.shape,
            np.arange(3) if labels else None,
        )  # type: ignore[arg-type]
        return path.read_bytes()


@cache
def moments_reference() -> bytes:
    """A reference of the features of digits-net: statistics alone."""
    from harope_bench.core import registry

    width = registry.load_by_name("judges", "digits-net").widths["features"]
    rows = np.random.default_rng(0).normal(size=(width + 40, width))
    arrays = {
        "mu": rows.mean(axis=0),
        "sigma": np.cov(rows, rowvar=False),
        "images": np.array(len(rows)),
    }
    return npz_of("reference", {**arrays, "warnings": np.array(["images: grey"])})


@cache
def kept_moments() -> bytes:
    from harope_bench.metrics.moments import Moments

    return npz_bytes(
        {
            **Moments.from_rows(np.random.default_rng(0).normal(size=(8, 3))).to_arrays(),
            "rows_sha256": np.array([HASH]),
        }
    )


@cache
def npy() -> bytes:
    np.save(buffer := io.BytesIO(), np.arange(12.0).reshape(4, 3))
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------
# weights


@cache
def weights() -> bytes:
    """A file that `train` wrote of a tiny network of DiT's names, with its note."""
    import torch

    from harope_bench.core.state_dicts import weights_bytes

    note = {
        "checkpoint": json.dumps(
            {
                "name": "x",
                "backbone": "dit",
                "encoding": "ape",
                "options": {},
                "config": {"hidden": 16},
            }
        )
    }
    return weights_bytes({"module.a.weight": torch.zeros(2, 3), "module.b": torch.ones(2)}, note)


@cache
def torch_file(is_wrapped: bool = True) -> bytes:
    import torch

    state = {"a.weight": torch.zeros(2, 3), "b": torch.ones(2)}
    torch.save(
        {"model": state, "ema": state, "args": {"model": "DiT-XL/2"}} if is_wrapped else state,
        buffer := io.BytesIO(),
    )
    return buffer.getvalue()


@cache
def sharded_weights() -> Files:
    import torch
    from safetensors.torch import save

    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files = {file: save({key: torch.zeros(2)}) for key, file in names.items()}
    return {
        **files,
        "model.safetensors.index.json": json.dumps(
            {"metadata": {"total_size": 16}, "weight_map": names}
        ).encode(),
    }


@cache
def lora(prefix: str = "transformer.") -> bytes:
    import torch
    from safetensors.torch import save

    layer = f"{prefix}transformer_blocks.0.attn.to_q"
    note = {
        "lora_adapter_metadata": json.dumps(
            {
                "transformer.r": 4,
                "transformer.lora_alpha": 4,
                "transformer.alpha_pattern": {"to_q": 2},
            }
        )
    }
    return save(
        {f"{layer}.lora_A.weight": torch.zeros(4, 8), f"{layer}.lora_B.weight": torch.zeros(8, 4)},
        note,
    )


MANIFEST: Mapping[str, Any] = {
    "format": 1, "backbone": "flux", "base": {"id": "base", "config": {"num_layers": 1}, "weights_sha256": HASH}, "encoding": "harope",
    "options": {"theta": 100.0}, "encoded_tokens": "image", "encoding_file": "encoding.safetensors", "files": {"lora.safetensors": HASH},
    "lora": {"file": "lora.safetensors", "rank": 4, "alpha": 4.0, "targets": ["to_q"], "layer_ranks": {"a": 2}, "layer_alphas": {"a": 2.0}},
    "training": {"steps": 10},
}  # fmt: skip
PIPELINE_INDEX: Mapping[str, Any] = {
    "_class_name": "FluxPipeline", "_diffusers_version": "0.31", "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": [None, None],
}  # fmt: skip


@cache
def pipeline() -> Files:
    """As much of a pipeline's folder as is looked at before it is loaded."""
    import torch
    from safetensors.torch import save

    files = {
        "model_index.json": json.dumps(PIPELINE_INDEX).encode(),
        "scheduler/scheduler_config.json": b'{"shift": 3.0}',
    }
    for part, stem in {
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    }.items():
        files[f"{part}/config.json"] = json.dumps(
            {"_class_name": "X", "num_layers": 1, "quantization_config": None}
        ).encode()
        files[f"{part}/{stem}.safetensors"] = save({"a": torch.zeros(2)})
    return files


VAE: Mapping[str, Any] = {
    "block_out_channels": [4, 4, 4, 4],
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "shift_factor": None,
}


@cache
def snapshot() -> bytes:
    import torch

    from harope_bench.training.loop import state_digest

    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1).state_dict()
    fields = {
        "identity": "tiny",
        "network": layer.state_dict(),
        "optimiser": optimiser,
        "average": layer.state_dict(),
        "step": 3,
        "log": "",
    }
    state = add_format_version("snapshot", fields)
    torch.save({**state, "sha256": state_digest(state)}, buffer := io.BytesIO())
    return buffer.getvalue()


@cache
def coco() -> bytes:
    rows = [{"image_id": k, "id": k, "caption": f"a cat {k}"} for k in range(3)]
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/captions_val2014.json", json.dumps({"annotations": rows}))
    return buffer.getvalue()


def gzip_bytes(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@cache
def dit_weights() -> bytes:
    """A tiny DiT of random weights as `train` writes it, with its note."""
    import torch

    from harope_bench.core import registry
    from harope_bench.core.state_dicts import weights_bytes

    config = {
        "hidden": 16,
        "depth": 1,
        "heads": 2,
        "patch": 7,
        "size": 28,
        "channels": 1,
        "classes": 10,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry.load_by_name("backbones", "dit").build("ape", {}, config)
    fields = {"name": "x", "backbone": "dit", "encoding": "ape", "options": {}, "config": config, "sampler": "flow", "steps": 2,
             "guidance": 1.5, "suite": "digits", "scale": "micro", "drawing": {}, "training_steps": 3}  # fmt: skip
    return weights_bytes(network.state_dict(), {"checkpoint": json.dumps(fields)})


ASSET: Mapping[str, Any] = {
    "title": "A file", "licence": "MIT", "source": "https://a.test",
    "files": [{"name": "x.bin", "urls": ["https://a.test/x"], "sha256": HASH, "bytes": 3}],
}  # fmt: skip


@cache
def forwards() -> bytes:
    from harope_bench.evaluators.cost import ARRAYS, REASON_ARRAYS

    numbers = {name: np.ones(3) for name in ARRAYS}
    return npz_of("forwards", {**numbers, **{name: np.array([""] * 3) for name in REASON_ARRAYS}})
