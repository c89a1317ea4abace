"""One flipped bit in any file that is read back is found, or is shown to change nothing; what cannot be checked is not called altered."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
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

from harope_bench.cli import main
from harope_bench.core import checksums, registry
from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.errors import DiskError, SampleError, StorageError, WeightsError
from harope_bench.core.formats import json_text
from harope_bench.core.index_ranges import parse_indices
from harope_bench.core.json_lines import read_lines
from harope_bench.core.storage import sha256_file
from harope_bench.data import adm_npz, feature_rows, sample_set
from harope_bench.data.image_folder import listing
from harope_bench.data.image_io import encode
from harope_bench.judges.micro.digits_net import DigitsNetJudge
from harope_bench.metrics.moments import BLOCK
from harope_bench.models import register_checkpoint
from harope_bench.pipeline import classify, moments_cache, verify_observations
from harope_bench.pipeline.evaluate import Asked, evaluate
from harope_bench.pipeline.evaluate_prompts import Marking, brought, mark
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.verify import run_folders, verify
from harope_bench.pipeline.verify_findings import Findings
from harope_bench.suites.geneval import ASSET, FILE, GenEval
from harope_bench.suites.official_layouts.prompt_folder import FolderForm
from harope_bench.training import loop
from harope_bench.training.recipe import Schedule

__all__ = ["toy"]  # the fixture
COUNT = 6
FLIPS = 3  # of each file; `pytest -m simulation` takes more
MORE = 60
DEIT = {"hidden": 16, "depth": 1, "heads": 2, "patch": 7, "size": 28, "channels": 1, "classes": 10, "normalised": "half"}


class Kind(NamedTuple):
    """A folder with results, and where else files lie that these are of."""

    folder: Path
    source: Path | None = None
    reference: Path | None = None

    def verify(self) -> Findings:
        """What is found; nothing is drawn again."""
        return verify(self.folder, 0, reference=self.reference)

    @property
    def files(self) -> list[Path]:
        """Every file that holds something."""
        roots = [self.folder, *([self.source] if self.source else [])]
        files = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
        return [path for path in files if path.is_file() and path.stat().st_size]


@pytest.fixture(autouse=True)
def one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for installed plug-ins once: that takes a tenth of a second, twenty times in each verify."""
    monkeypatch.setattr(registry.metadata, "entry_points", cache(registry.metadata.entry_points))


def moments_only(place: Path) -> Path:
    """A reference without images, so that nothing has neighbours to look for."""
    np.savez(place / "reference.npz", mu=np.zeros(64), sigma=np.eye(64))
    return place / "reference.npz"


def digits(place: Path) -> Kind:
    """A run with its plan, generated and scored here."""
    reference = moments_only(place)
    generate(make_plan(tiny.registered(place / "weights"), None, {}), range(COUNT), place / "run")
    evaluate(place / "run", place / "run", Asked("digits", reference))
    return Kind(place / "run", reference=reference)


def imported_images(place: Path) -> Kind:
    """Images that were made elsewhere, with results in a folder of their own."""
    (place / "images").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28, 3), dtype=np.uint8)):
        (place / f"images/{i:06d}.png").write_bytes(encode(image))
    reference = moments_only(place)
    evaluate(place / "images", place / "out", Asked("digits", reference))
    return Kind(place / "out", place / "images", reference)


STATED = FolderForm(order="copy-major")


def prompts(place: Path) -> Kind:
    mark(toy_images(place / "images", SHOWN), place / "out", Marking("toy", form=STATED))
    return Kind(place / "out", place / "images")


def classifier(place: Path) -> Kind:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry.load("backbones", "deit").build("rope-axial", {}, DEIT)
        save_file({k: v + 0.3 * torch.randn_like(v) for k, v in network.state_dict().items()}, place / "deit.safetensors")
    facts = {"encoding": "rope-axial", "config": DEIT, "suite": "digits-held-out", "scale": "micro"}
    register_checkpoint.register("deit", place / "deit.safetensors", facts)
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
    (place / "receipt.json").write_text(json_text("receipt", {"files": {FILE: sha256_file(place / FILE)}}))
    monkeypatch.setattr(GenEval, "count", 48)


def flips(path: Path, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """The file with one bit flipped, at places spread over it: one in each of `count` parts."""
    data = path.read_bytes()
    edges = np.linspace(0, len(data), count + 1).astype(int)
    for start, stop in pairwise(edges):
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
            parsed.append((feature_rows.header(path), data[feature_rows.header(path).start :]))  # type: ignore[union-attr]
        return parsed[0] == parsed[1]
    return False


def found_of(kind: Kind, count: int) -> tuple[Counter[str], list[str]]:
    """How many flips were found in files of each kind, and those that were not and change something."""
    rng, tally, lost = np.random.default_rng(0), Counter[str](), []
    for path in kind.files:
        before = path.read_bytes()
        for after in flips(path, count, rng):
            path.write_bytes(after)
            status = kind.verify().status
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
    assert kind.verify().status == "ok", kind.verify()
    tally, lost = found_of(kind, FLIPS)
    print(f"{kind.folder.name}: {sum(tally.values())} flips, {dict(tally)}")  # counted in docs/security.md
    assert lost == []
    assert tally["found"] >= 2 * len(kind.files) and tally["without effect"] <= 2
    assert kind.verify().status == "ok"


# Each of these was damaged by one bit, or a few, in a way that numpy's parser of headers answers with an error of its own.
HEADERS = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape':  6, 10), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 10), }   (",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 10), ",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, '''), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, -10), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 900 + b"6, 10), }",
    b"{'descr': '<f\xff', 'fortran_order': False, 'shape': (6, 10), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (6, 10), }",
]


@pytest.mark.parametrize("text", HEADERS)
def test_a_damaged_header_of_rows_is_no_header(text: bytes, tmp_path: Path) -> None:
    """In observations it means that the judge looks again, in `verify` that they were altered."""
    path = tmp_path / "features.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + bytes(240))
    assert feature_rows.header(path) is None and feature_rows.digest(path, 0, 6) is None and not feature_rows.is_whole(path)


def test_a_classifiers_run_that_asks_for_no_picture_is_altered(tmp_path: Path) -> None:
    kind = classifier(tmp_path)
    (kind.folder / "requests.jsonl").write_text('{"indices": "0-29"')
    assert any("asks for no picture" in line for line in kind.verify().wrong)


@pytest.mark.simulation
@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_many_flipped_bits_are_all_found(kind: Kind) -> None:
    tally, lost = found_of(kind, MORE)
    assert lost == [] and tally["found"] > 20 * len(kind.files)


# ------------------------------------------------------------- edited together with what vouches for it


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter a JSON file, or each line of a .jsonl, and record its hash, as somebody would who knows the format."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    records = [json.loads(line) for line in lines]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    checksums.record_files(path.parent, [path.name])


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("samples.jsonl", lambda line: line.update(label=3), "label or prompt of samples 0, 1, 2, 4, 5"),
        ("samples.jsonl", lambda line: line.update(prompt="a three"), "label or prompt of samples 0, 1, 2, 3, 4"),
        ("results/{result}", lambda facts: facts.update(parity="equals the paper's"), "parity is equals the paper's, should be"),
        (
            "results/{result}",
            lambda facts: facts.update(judge_errors={"digits-net": [{"cases": "digits", "wrong": 0, "of": 9}]}),
            "judge_errors.digits-net is",
        ),
        ("results/{result}", lambda facts: facts.update(rows="x.rows.jsonl"), "rows is x.rows.jsonl, should be absent"),
        ("observations/digits-net/judge.json", lambda facts: facts.update(warnings=["judge: of 2015"]), "not the record of the judge"),
        ("observations/digits-net/00000.json", lambda facts: facts.update(odd={"L": 6}), "odd is not what digits-net records now"),
        ("observations/digits-net/00000.json", lambda facts: facts.update(notes=["none"]), "notes is not what digits-net records now"),
    ],
)
def test_what_can_be_recomputed_is_not_believed(tmp_path: Path, file: str, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    kind = digits(tmp_path)
    (result,) = (kind.folder / "results").glob("*.json")
    edit(kind.folder / file.format(result=result.name), change)
    assert any(told in line for line in kind.verify().wrong), kind.verify().wrong


def test_parity_errors_and_the_judge_of_prompts_are_recomputed(tmp_path: Path, toy: ToyEye) -> None:
    for name, change in (
        ("results/toy-rule.json", lambda facts: facts.update(parity="exact")),
        ("results/toy-rule.json", lambda facts: facts.update(judge_errors={"toy-eye": [{"cases": "lights", "wrong": 0, "of": 9}]})),
        ("observations/toy-eye/judge.json", lambda facts: facts.update(judge_class="official")),
        ("observations/toy-eye/answers.jsonl", lambda line: line.update(index=7)),
    ):
        (tmp_path / name.replace("/", "-")).mkdir(exist_ok=True)
        kind = prompts(tmp_path / name.replace("/", "-"))
        assert kind.verify().status == "ok"
        edit(kind.folder / name, change)
        assert kind.verify().status == "altered", name
        shutil.rmtree(tmp_path / name.replace("/", "-"))


@pytest.mark.parametrize("form", ["order", "pattern", "file_list"])
def test_a_folder_is_verified_as_it_was_stated_to_be_read(form: str, tmp_path: Path, toy: ToyEye) -> None:
    """Another reading of the same files would score other prompts; the list of files may move with the images."""
    images = toy_images(tmp_path / "images", SHOWN)
    files = sorted(path.name for path in images.iterdir())
    listed = tmp_path / "list.csv"
    listed.write_text("file,index\n" + "".join(f"{name},{len(files) - 1 - i}\n" for i, name in enumerate(files)))
    forms = {
        "order": FolderForm(order="prompt-major"),
        "pattern": FolderForm(pattern="{index}.png"),
        "file_list": FolderForm(file_list=listed),
    }
    mark(images, tmp_path / "out", Marking("toy", form=forms[form]))
    assert verify(tmp_path / "out", 0).status == "ok"
    (images / files[0]).write_bytes((images / files[1]).read_bytes())
    assert verify(tmp_path / "out", 0).status == "altered"


def test_answers_that_were_edited_are_not_scored_again(tmp_path: Path, toy: ToyEye) -> None:
    kind = prompts(tmp_path)
    answers = kind.folder / "observations/toy-eye/answers.jsonl"
    answers.write_text(answers.read_text().replace('"text": "no"', '"text": "yes"'))
    with pytest.raises(StorageError, match=r"answers\.jsonl is not the recorded one"):
        mark(tmp_path / "images", kind.folder, Marking("toy", rules="corrected", form=STATED))


def test_an_edited_result_is_not_up_to_date(tmp_path: Path) -> None:
    kind = digits(tmp_path)
    (path,) = (kind.folder / "results").glob("*.json")
    before = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "parity": "exact"}))
    (again,) = evaluate(kind.folder, kind.folder, Asked("digits", kind.reference))
    assert again.fresh and again.result.parity == before["parity"]
    assert kind.verify().status == "ok"


# -------------------------------------------------------------------------------------------- moments


def test_edited_moments_move_no_number_and_are_found(tmp_path: Path) -> None:
    """The file is whole, of these rows, and of sums that nobody summed."""
    cloud = np.random.default_rng(0).normal(size=(BLOCK + 50, 3)).astype(np.float32)
    file, path = tmp_path / "features.npy", tmp_path / "features.moments.npz"
    feature_rows.reserve(file, len(cloud), cloud[0])
    feature_rows.put(file, 0, cloud)
    digests = [str(feature_rows.digest(file, start, min(start + 1000, len(cloud)))) for start in range(0, len(cloud), 1000)]
    shards = moments_cache.Shards(digests, 1000)
    honest = moments_cache.moments(path, feature_rows.view(file, len(cloud)), shards)
    assert moments_cache.are_sums_of(path, cloud)
    for name in ("mean", "scatter"):
        arrays = load_arrays(path)
        write_arrays(path, {**arrays, name: arrays[name] + 1})
        assert not moments_cache.are_sums_of(path, cloud)
        again = moments_cache.moments(path, feature_rows.view(file, len(cloud)), shards)
        assert again.mean.tobytes() == honest.mean.tobytes() and again.scatter.tobytes() == honest.scatter.tobytes()
    (tmp_path / checksums.SUMS).unlink()  # nothing vouches for sums of a version before: they are made again
    write_arrays(path, {**load_arrays(path), "mean": honest.mean + 1})
    assert moments_cache.moments(path, feature_rows.view(file, len(cloud)), shards).mean.tobytes() == honest.mean.tobytes()


def test_verify_sums_moments_again(tmp_path: Path) -> None:
    """Also those whose hash was recorded anew with them."""
    kept, fresh = tmp_path / "kept", tmp_path / "fresh"
    cloud = np.random.default_rng(0).normal(size=(BLOCK, 3)).astype(np.float32)
    for folder in (kept, fresh):
        feature_rows.reserve(folder / "features.npy", len(cloud), cloud[0])
        feature_rows.put(folder / "features.npy", 0, cloud)
    digests = [str(feature_rows.digest(kept / "features.npy", start, start + 1000)) for start in range(0, BLOCK, 1000)]
    moments_cache.moments(kept / "features.moments.npz", cloud, moments_cache.Shards(digests, 1000))
    findings = Findings()
    verify_observations.check_moments(kept, fresh, BLOCK, findings)
    assert findings.checks == []
    arrays = load_arrays(kept / "features.moments.npz")
    write_arrays(kept / "features.moments.npz", {**arrays, "mean": np.nextafter(arrays["mean"], np.inf)})
    checksums.record_files(kept, ["features.moments.npz"])
    verify_observations.check_moments(kept, fresh, BLOCK, findings)
    assert [check.status for check in findings.checks] == ["altered"]


# ----------------------------------------------------------------------------------- could not check


def run(*words: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_a_full_disk_for_what_is_made_again_says_nothing_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = digits(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise DiskError("cannot use /tmp/x: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(feature_rows, "put", full)  # the first write below the temporary folder
        told = run("verify", kind.folder, "--redraw", 0, "--reference", kind.reference, code=1).stdout
    assert "NOT CHECKED" in told and "No space left" in told and "WRONG" not in told
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        told = run("verify", kind.folder, "--redraw", 0, "--reference", kind.reference, code=1).stdout
    assert "NOT CHECKED" in told and "set TMPDIR" in told and "WRONG" not in told
    assert kind.verify().status == "ok"


def test_an_image_that_the_disk_does_not_give_could_not_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, honest = digits(tmp_path), sample_set.read_regular

    def read_regular(path: Path, limit: int) -> bytes:
        if path.name == "000002.png":
            raise OSError(errno.EIO, "Input/output error")
        return honest(path, limit)

    monkeypatch.setattr(sample_set, "read_regular", read_regular)
    findings = kind.verify()
    assert findings.wrong == [] and any("Input/output error" in line for line in findings.unchecked)
    assert any("not judged again, because images cannot be read" in line for line in findings.unchecked)


def test_a_judge_without_weights_could_not_check_and_a_flip_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = digits(tmp_path)

    def gone(self: DigitsNetJudge, *_: Any) -> None:
        raise WeightsError("digits-net.safetensors is not there")

    monkeypatch.setattr(DigitsNetJudge, "weights_sha256", gone)
    findings = kind.verify()
    assert findings.status == "could-not-check" and any("is not there" in line for line in findings.unchecked)
    path = kind.folder / "observations/digits-net/features.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert any("features are not the rows" in line for line in kind.verify().wrong)


def test_a_judge_of_other_weights_could_not_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = digits(tmp_path)
    monkeypatch.setattr(DigitsNetJudge, "weights_sha256", lambda self: "ab" * 32)
    findings = kind.verify()
    assert findings.status == "could-not-check"
    assert any("judge digits-net here is another one (weights_sha256)" in line for line in findings.unchecked)


def test_images_that_are_gone_could_not_be_checked_and_may_have_moved(tmp_path: Path) -> None:
    kind = imported_images(tmp_path)
    moved = tmp_path / "moved"
    assert kind.source is not None
    kind.source.rename(moved)
    findings = kind.verify()
    assert findings.status == "could-not-check" and any("give --source" in line for line in findings.unchecked)
    assert verify(kind.folder, 0, reference=kind.reference, source=moved).status == "ok"
    (moved / "000003.png").write_bytes((moved / "000002.png").read_bytes())
    assert verify(kind.folder, 0, reference=kind.reference, source=moved).status == "altered"


def test_images_with_their_results_beside_them_and_a_part_of_a_run_elsewhere_are_scored_again(tmp_path: Path) -> None:
    kind = imported_images(tmp_path)
    assert kind.source is not None
    evaluate(kind.source, kind.source, Asked("digits", kind.reference, subset=1), count=4)
    assert verify(kind.source, 0, reference=kind.reference).status == "ok"
    evaluate(kind.source, tmp_path / "part", Asked("digits", kind.reference), count=3)
    findings = verify(tmp_path / "part", 0, reference=kind.reference)
    assert findings.status == "ok" and any("3 images judged again" in line for line in findings.checked)


def test_results_alone_have_their_hashes_checked_and_the_rest_named(tmp_path: Path) -> None:
    kind = digits(tmp_path)
    shutil.copytree(kind.folder / "results", tmp_path / "alone/results")
    for folder in (tmp_path / "alone", tmp_path / "alone/results"):
        findings = verify(folder, 0)
        assert findings.status == "could-not-check" and any("does not say where its images lie" in line for line in findings.unchecked)
    (path,) = (tmp_path / "alone/results").glob("*.json")
    path.write_text(path.read_text().replace('"cpu"', '"gpu"'))
    assert verify(tmp_path / "alone", 0).status == "altered"


def test_results_of_a_version_without_recorded_hashes_are_scored_again_and_that_is_told(tmp_path: Path) -> None:
    kind = digits(tmp_path)
    for path in kind.folder.rglob(checksums.SUMS):
        path.unlink()
    findings = kind.verify()
    assert findings.wrong == [] and findings.status == "could-not-check"
    (line,) = findings.unchecked
    assert "run eval again" in line
    evaluate(kind.folder, kind.folder, Asked("digits", kind.reference))
    assert not kind.verify().unchecked


def test_an_unfinished_run_could_not_be_checked_and_one_that_lost_an_image_was_altered(tmp_path: Path) -> None:
    kind = digits(tmp_path)
    (kind.folder / "images/000002.png").unlink()
    assert kind.verify().status == "altered"
    checksums.drop(kind.folder, ["samples.jsonl"])  # as while images are being drawn
    assert kind.verify().status == "could-not-check"


def test_a_folder_of_several_runs_is_checked_run_by_run_in_one_object(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    kind = digits(tmp_path / "one")
    shutil.copytree(kind.folder, tmp_path / "two/run")
    assert run_folders(tmp_path) == [tmp_path / "one/run", tmp_path / "two/run"]
    told = json.loads(run("verify", tmp_path, "--redraw", 1, "--reference", kind.reference, "--json").stdout)
    assert told["status"] == "ok" and {check["status"] for check in told["checks"]} == {"ok"}
    (tmp_path / "one/run/images/000001.png").write_bytes(b"no image")
    told = json.loads(run("verify", tmp_path, "--redraw", 0, "--reference", kind.reference, "--json", code=3).stdout)
    wrong = [check for check in told["checks"] if check["status"] == "altered"]
    assert told["status"] == "altered" and wrong
    assert all("one/run" in check["what"] for check in wrong)


# ------------------------------------------------------------------------------- archives, images, snapshots


def twice(path: Path, names: tuple[str, str]) -> Path:
    """An npz with two members that numpy calls by one name."""
    import warnings
    import zipfile

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for k, name in enumerate(names):
            with archive.open(zipfile.ZipInfo(name), "w") as member:
                np.lib.format.write_array(member, np.full((2, 4, 4, 3), k, np.uint8))
    return path


@pytest.mark.parametrize("names", [("arr_0.npy", "arr_0.npy"), ("arr_0.npy", "arr_0")])
def test_an_npz_with_one_name_twice_is_rejected_by_every_reader(tmp_path: Path, names: tuple[str, str]) -> None:
    path = twice(tmp_path / "x.npz", names)
    for read in (adm_npz.members, adm_npz.shape_of, lambda file: list(adm_npz.rows(file, 2)), adm_npz.labels):
        with pytest.raises(SampleError, match="arr_0 twice"):
            read(path)
    with pytest.raises(StorageError, match="arr_0 twice"):
        load_arrays(path)


@pytest.mark.parametrize(("form", "lossy"), [("JPEG", True), ("WEBP", True), ("TIFF", False), ("BMP", False)])
def test_bytes_of_another_format_than_the_name_says_are_told(tmp_path: Path, form: str, lossy: bool) -> None:
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(encode(image))
    Image.fromarray(images[1]).save(tmp_path / "1.png", format=form)
    warnings = listing(tmp_path).warnings
    assert f"images: 1 of 3 hold another format than their names say (1.png is {form})" in warnings
    assert lossy == ("1 of 3 images are of a lossy format, which moves FID" in warnings)


def test_an_exact_suite_rejects_bytes_of_another_format_than_the_name_says(tmp_path: Path) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "0.png", format="JPEG")
    with pytest.raises(SampleError, match=r"0\.png is JPEG\); imagenet-256 is scored on lossless images"):
        evaluate(tmp_path, tmp_path / "out", Asked("imagenet-256", judge="digits-net"))
    assert not (tmp_path / "out").exists()


def trained(folder: Path, steps: int = 4) -> loop.Trainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
    schedule = Schedule(steps=steps, batch=1, lr=0.1, warmup=0, clip=1.0, seed=0, snapshot=2)
    return loop.Trainer(network, schedule, 0.9, folder, "me")


def refusal(folder: Path) -> str | None:
    """Why a training does not go on; None where it does."""
    try:
        trained(folder).resume()
    except WeightsError as error:
        return str(error)
    return None


def test_one_flipped_bit_of_a_snapshot_stops_the_training(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    trainer.run(lambda network, rng: network(torch.randn(1, 3, generator=rng)).square().sum(), "t")
    path, rng, tally = tmp_path / "snapshot.pt", np.random.default_rng(0), Counter[str]()
    before = path.read_bytes()
    wanted = torch.load(path, weights_only=True)["sha256"]
    for after in flips(path, 60, rng):
        path.write_bytes(after)
        if (message := refusal(tmp_path)) is not None:
            assert "pass --no-resume" in message
            tally["found"] += 1
        else:  # of the archive's own fields, which nothing reads
            state = torch.load(path, weights_only=True)
            assert state.pop("sha256") == loop.state_digest(state) == wanted
            tally["without effect"] += 1
    path.write_bytes(before)
    assert trained(tmp_path).resume() == 4
    assert tally["found"] >= 20, tally


@pytest.mark.parametrize("part", ["network", "optimiser", "average", "step", "log"])
def test_every_part_of_a_snapshot_is_vouched_for(tmp_path: Path, part: str) -> None:
    trainer = trained(tmp_path)
    trainer.run(lambda network, rng: network(torch.randn(1, 3, generator=rng)).square().sum(), "t")
    state = torch.load(tmp_path / "snapshot.pt", weights_only=True)
    if part == "optimiser":
        state[part]["state"][0]["exp_avg"].view(torch.int32)[0, 0] ^= 1
    elif part in ("network", "average"):
        state[part]["weight"].view(torch.int32)[0, 0] ^= 1
    else:
        state[part] = state[part] * 2
    torch.save(state, tmp_path / "snapshot.pt")
    with pytest.raises(WeightsError, match="not what training wrote"):
        trained(tmp_path).resume()


# -------------------------------------------------------------------------------------------- the list itself


def test_the_list_is_sha256sums_own_and_names_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "a b.json").write_text("{}")
    checksums.record_files(tmp_path, ["a b.json", "gone.json"])
    assert (tmp_path / checksums.SUMS).read_text() == f"{sha256_file(tmp_path / 'a b.json')}  a b.json\n"
    for line in ("0" * 64 + "  ../up.json\n", "0" * 63 + "  x\n", "0" * 64 + "  x\n" + "1" * 64 + "  x\n", "\n"):
        (tmp_path / checksums.SUMS).write_text(line)
        with pytest.raises(StorageError, match="is no line of sha256sum"):
            checksums.read_sums(tmp_path)
        assert not checksums.intact(tmp_path, "a b.json")


def test_a_list_that_names_what_is_gone_in_place_of_what_is_there_was_altered(tmp_path: Path, toy: ToyEye) -> None:
    kind = prompts(tmp_path)
    sums = kind.folder / "observations/toy-eye" / checksums.SUMS
    sums.write_text(sums.read_text().replace("answers.jsonl", "answers.jsonm"))
    assert any("names files that are gone, and not answers.jsonl" in line for line in kind.verify().wrong)
