"""Folders with results of every kind that `verify` checks, made on the smallest networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch
from geneval_files import write_finished_run, write_prompt_metadata
from safetensors.torch import save_file
from toy_images import COLOURS, write_toy_images
from toy_prompts import ToyEye

from harope_bench.core import registry
from harope_bench.data.image_io import encode_png
from harope_bench.models import register_checkpoint
from harope_bench.pipeline import classify
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    evaluate_prompts,
    import_official_results,
)
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.verify import verify
from harope_bench.pipeline.verify_findings import Findings
from harope_bench.suites.geneval import GenEvalSuite
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

IMAGES = 6
COPY_MAJOR = PromptFolderOptions(order="copy-major")
DEIT = {
    "hidden": 16,
    "depth": 1,
    "heads": 2,
    "patch": 7,
    "size": 28,
    "channels": 1,
    "classes": 10,
    "normalised": "half",
}


class ResultFolder(NamedTuple):
    """A folder with results, and where else files lie that these are of."""

    folder: Path
    source: Path | None = None
    reference: Path | None = None

    def verify(self) -> Findings:
        """Return what `verify` finds; no image is generated again."""
        return verify(self.folder, 0, reference=self.reference)

    @property
    def files(self) -> list[Path]:
        """Return every file that is not empty."""
        roots = [self.folder, *([self.source] if self.source else [])]
        files = [
            path
            for root in roots
            for path in ([root] if root.is_file() else sorted(root.rglob("*")))
        ]
        return [path for path in files if path.is_file() and path.stat().st_size]


def write_moments_reference(folder: Path) -> Path:
    """Write a reference without images, so that nothing has neighbours to look for."""
    np.savez(folder / "reference.npz", mu=np.zeros(64), sigma=np.eye(64))
    return folder / "reference.npz"


def make_digits_run(folder: Path) -> ResultFolder:
    """Make a run with its plan, generated and scored here."""
    reference = write_moments_reference(folder)
    generate(
        make_plan(tiny.register_tiny(folder / "weights"), None, {}), range(IMAGES), folder / "run"
    )
    evaluate(folder / "run", folder / "run", FeatureScoring("digits", reference))
    return ResultFolder(folder / "run", reference=reference)


def make_imported_images(folder: Path) -> ResultFolder:
    """Make images of somebody else, with results in a folder of their own."""
    (folder / "images").mkdir()
    for i, image in enumerate(
        np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 3), dtype=np.uint8)
    ):
        (folder / f"images/{i:06d}.png").write_bytes(encode_png(image))
    reference = write_moments_reference(folder)
    evaluate(folder / "images", folder / "out", FeatureScoring("digits", reference))
    return ResultFolder(folder / "out", folder / "images", reference)


def make_prompt_results(folder: Path) -> ResultFolder:
    """Make results of a folder of images of the toy prompts."""
    evaluate_prompts(
        write_toy_images(folder / "images", COLOURS),
        folder / "out",
        PromptScoring("toy", folder_options=COPY_MAJOR),
    )
    return ResultFolder(folder / "out", folder / "images")


def make_classifier_run(folder: Path) -> ResultFolder:
    """Make a run of a small classifier on 30 digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry.load_by_name("backbones", "deit").build("rope-axial", {}, DEIT)
        save_file(
            {k: v + 0.3 * torch.randn_like(v) for k, v in network.state_dict().items()},
            folder / "deit.safetensors",
        )
    fields = {
        "encoding": "rope-axial",
        "config": DEIT,
        "suite": "digits-held-out",
        "scale": "micro",
    }
    register_checkpoint.register("deit", folder / "deit.safetensors", fields)
    classify.classify(
        classify.make_classifier_plan("deit", None, {}),
        folder / "run",
        classify.RealImageSelection(count=30),
    )
    return ResultFolder(folder / "run")


def make_imported_results(folder: Path) -> ResultFolder:
    """Make results that were read from a finished run of GenEval's own script."""
    write_finished_run(folder / "results.jsonl")
    assert (
        import_official_results(folder / "results.jsonl", folder / "out", PromptScoring("geneval"))
        is not None
    )
    return ResultFolder(folder / "out", folder / "results.jsonl")


RESULT_FOLDERS: dict[str, Callable[[Path], ResultFolder]] = {
    "digits": make_digits_run,
    "images": make_imported_images,
    "prompts": make_prompt_results,
    "classifier": make_classifier_run,
    "imported": make_imported_results,
}


@pytest.fixture
def result_folder(
    request: pytest.FixtureRequest, tmp_path: Path, toy: ToyEye, twelve_prompts: None
) -> ResultFolder:
    """The folder of the kind that a test is parametrised with."""
    return RESULT_FOLDERS[request.param](tmp_path)


@pytest.fixture
def twelve_prompts(bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GenEval on a metadata file of twelve prompts."""
    write_prompt_metadata(bench_home)
    monkeypatch.setattr(GenEvalSuite, "count", 48)


def flipped_files(path: Path, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield the file with one bit flipped, at places spread over it: one in each of `count`
    parts.
    """
    data = path.read_bytes()
    edges = np.linspace(0, len(data), count + 1).astype(int)
    for start, stop in pairwise(edges):
        if start < stop:
            position = int(rng.integers(start, stop))
            yield (
                data[:position]
                + bytes([data[position] ^ (1 << int(rng.integers(8)))])
                + data[position + 1 :]
            )
