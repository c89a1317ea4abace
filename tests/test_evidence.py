"""One flipped bit in any file that is read back is found, or is shown to change nothing; what cannot be checked is not called altered."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from test_geneval_layout import finished, metadata
from test_marking import SHOWN
from test_marking import images as toy_images
from toy_prompts import ToyEye, toy

from harope_bench import adm, checksums, classify, kept_moments, registering, registry, rows, verify_results
from harope_bench.cli import main
from harope_bench.errors import DiskError, SampleError, StorageError, WeightsError
from harope_bench.evaluate import Asked, evaluate
from harope_bench.findings import Findings
from harope_bench.folders import listing
from harope_bench.generate import generate, make_plan
from harope_bench.indices import parse_indices
from harope_bench.judges.digits_net import DigitsNetJudge
from harope_bench.marking import Marking, brought, mark
from harope_bench.metrics.moments import BLOCK
from harope_bench.pixels import encode
from harope_bench.store import load_arrays, read_lines, sha256_file, write_arrays
from harope_bench.suites.geneval import ASSET, FILE, GenEval
from harope_bench.training import loop
from harope_bench.training.recipe import Schedule
from harope_bench.verify import run_folders, verify

__all__ = ["toy"]  # the fixture
COUNT = 6
FLIPS = 3  # of each file; `pytest -m simulation` takes more
MORE = 60
DEIT = {"hidden": 16, "depth": 1, "heads": 2, "patch": 7, "size": 28, "channels": 1, "classes": 10, "normalised": "half"}


class Kind(NamedTuple):
    """A folder with results, and where else files lie that these are of."""

    folder: Path
    source: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Every file that holds something."""
        roots = [self.folder, *([self.source] if self.source else [])]
        files = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
        return [path for path in files if path.is_file() and path.stat().st_size]


def digits(place: Path) -> Kind:
    """A run with its plan, generated and scored here; moments only, for its speed."""
    generate(make_plan(tiny.registered(place / "weights"), None, {}), range(COUNT), place / "run")
    evaluate(place / "run", place / "run", Asked("digits"))
    return Kind(place / "run")


def imported_images(place: Path) -> Kind:
    """Images that were made elsewhere, with results in a folder of their own."""
    (place / "images").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28, 3), dtype=np.uint8)):
        (place / f"images/{i:06d}.png").write_bytes(encode(image))
    evaluate(place / "images", place / "out", Asked("digits"))
    return Kind(place / "out", place / "images")


def prompts(place: Path) -> Kind:
    mark(toy_images(place / "images", SHOWN), place / "out", Marking("toy"))
    return Kind(place / "out", place / "images")


def classifier(place: Path) -> Kind:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry.load("backbones", "deit").build("rope-axial", {}, DEIT)
        save_file({k: v + 0.3 * torch.randn_like(v) for k, v in network.state_dict().items()}, place / "deit.safetensors")
    facts = {"encoding": "rope-axial", "config": DEIT, "suite": "digits-held-out", "scale": "micro"}
    registering.register("deit", place / "deit.safetensors", facts)
    classify.classify(classify.reading_plan("deit", None, {}), place / "run", classify.Wanted(count=30))
    return Kind(place / "run")


def imported(place: Path) -> Kind:
    """A finished run of GenEval's own script."""
    finished(place / "results.jsonl")
    assert brought(place / "results.jsonl", place / "out", Marking("geneval")) is not None
    return Kind(place / "out", place / "results.jsonl")


KINDS: dict[str, Callable[[Path], Kind]] = {
    "digits": digits,
    "images": imported_images,
    "prompts": prompts,
    "classifier": classifier,
    "imported": imported,
}


@pytest.fixture
def kind(request: pytest.FixtureRequest, tmp_path: Path, toy: ToyEye, geneval: None) -> Kind:
    return KINDS[request.param](tmp_path)


@pytest.fixture
def geneval(bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GenEval on a metadata file of twelve prompts."""
    place = bench_home / "assets" / ASSET
    place.mkdir(parents=True)
    (place / FILE).write_text("".join(json.dumps(facts) + "\n" for facts in metadata()))
    (place / "receipt.json").write_text(json.dumps({FILE: sha256_file(place / FILE)}))
    monkeypatch.setattr(GenEval, "count", 48)


def flips(path: Path, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """The file with one bit flipped, at places spread over it: one in each of `count` parts."""
    data = path.read_bytes()
    edges = np.linspace(0, len(data), count + 1).astype(int)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        if start < stop:
            place = int(rng.integers(start, stop))
            yield data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]


def reads_the_same(path: Path, before: bytes, after: bytes) -> bool:
    """Whether what the package reads from a file is the same for both bytes; only for files that no hash is of."""
    if path.name == "requests.jsonl":
        parsed = []
        for data in (before, after):
            path.write_bytes(data)
            parsed.append({i for line in read_lines(path) for i in parse_indices(line["indices"])})
        return parsed[0] == parsed[1]
    if path.suffix == ".npy":
        parsed = []
        for data in (before, after):
            path.write_bytes(data)
            parsed.append((rows.header(path), data[rows.header(path).start :]))  # type: ignore[union-attr]
        return parsed[0] == parsed[1]
    return False


def found_of(kind: Kind, count: int) -> tuple[Counter[str], list[str]]:
    """How many flips were found in files of each kind, and those that were not and change something."""
    rng, tally, lost = np.random.default_rng(0), Counter[str](), []
    for path in kind.files:
        before = path.read_bytes()
        for after in flips(path, count, rng):
            path.write_bytes(after)
            status = verify(kind.folder, 0).status
            if status == "altered":
                tally["found"] += 1
            elif status == "ok" and reads_the_same(path, before, after):
                tally["without effect"] += 1
            else:
                lost.append(f"{path}: {status}")
        path.write_bytes(before)
    return tally, lost


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_one_flipped_bit_in_any_file_is_found(kind: Kind) -> None:
    assert verify(kind.folder, 0).status == "ok", verify(kind.folder, 0)
    tally, lost = found_of(kind, FLIPS)
    assert lost == []
    assert tally["found"] >= 2 * len(kind.files) and tally["without effect"] <= 2
    assert verify(kind.folder, 0).status == "ok"


@pytest.mark.simulation
@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_many_flipped_bits_are_all_found(kind: Kind) -> None:
    tally, lost = found_of(kind, MORE)
    print(dict(tally))
    assert lost == []
