"""Threads beside the network: every stage gives the bits and the errors of one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from harope_bench.core.annotations import Annotation, Query, SimilarityAnnotation, SimilarityQuery
from harope_bench.core.errors import DiskError, SampleError
from harope_bench.core.json_file import JsonObject
from harope_bench.core.schema import Plan, Request, Settings
from harope_bench.core.threaded_work import THREADS_VARIABLE
from harope_bench.data.image_io import SMALL_COMPRESSION, decode_image, encode_png
from harope_bench.data.run_folder import EncodedSample, RunFolder
from harope_bench.data.sample_set import SampleSet, open_samples
from harope_bench.judges.base import LoadedAnnotator, LoadedFeatureExtractor
from harope_bench.models.backbones.base import Classifier, GeneratedBatch, ImageGenerator
from harope_bench.models.samplers.ddim import Ddim
from harope_bench.models.samplers.ddpm import Ddpm
from harope_bench.models.samplers.noise import index_generator
from harope_bench.pipeline.annotation_folder import ImageQuery
from harope_bench.pipeline.annotation_worker import annotation_lines
from harope_bench.pipeline.extract_features import extract_batches
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.predictions import classify_images, read_image_bytes
from harope_bench.suites.real_images import ArrayImages

SERIAL = "0"
SEVERAL_THREADS = "4"


@pytest.fixture(params=["1", SEVERAL_THREADS])
def thread_setting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tiny.register_tiny(tmp_path / "weights"), None, {})


@pytest.fixture
def samples(tmp_path: Path) -> SampleSet:
    """Thirty images of noise in a folder, half of them of one colour."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(30):
        shape = (1, 1, 3) if index % 2 else (40, 40, 3)
        image = np.broadcast_to(rng.integers(0, 256, shape, dtype=np.uint8), (40, 40, 3))
        (folder / f"{index:03d}.png").write_bytes(encode_png(np.array(image)))
    return open_samples(folder)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# ------------------------------------------------------------------------------------- generation


class SlowGenerator(ImageGenerator):
    """Black images; the time of a tile is long enough to encode and write the one before."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.n_generated = 0

    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        time.sleep(self.seconds)
        self.n_generated += len(requests)
        side = settings.resolution
        return GeneratedBatch(np.zeros((len(requests), side, side, 3), dtype=np.uint8), {})


def test_generated_files_are_those_of_one_thread(
    plan: Plan, tmp_path: Path, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    generate(plan, range(60), tmp_path / "serial")
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    generate(plan, range(60), tmp_path / "threaded")
    assert files(tmp_path / "threaded") == files(tmp_path / "serial")


@pytest.mark.parametrize("threads", [SERIAL, SEVERAL_THREADS])
def test_a_full_disk_is_the_same_error_and_keeps_what_was_written(
    plan: Plan, tmp_path: Path, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, threads)
    add_sample = RunFolder.add_sample

    def add_until_the_disk_is_full(run: RunFolder, sample: EncodedSample) -> None:
        if sample.record.index == 30:
            raise DiskError("cannot use images/000030.png: No space left on device; free some")
        add_sample(run, sample)

    monkeypatch.setattr(RunFolder, "add_sample", add_until_the_disk_is_full)
    with pytest.raises(DiskError, match="000030.png: No space left on device"):
        generate(plan, range(60), tmp_path / "run")
    assert sorted(RunFolder(tmp_path / "run").read_records()) == list(range(30))

    monkeypatch.setattr(RunFolder, "add_sample", add_sample)
    assert generate(plan, range(60), tmp_path / "run").n_generated == 30


def test_an_image_is_recorded_while_the_next_one_is_generated(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill then loses the image that is being generated, as it did with one thread."""
    monkeypatch.setenv(THREADS_VARIABLE, SEVERAL_THREADS)
    settings = plan.settings.model_copy(update={"tile": 1})
    plan = plan.model_copy(update={"settings": settings})
    counts = []

    class Watch(SlowGenerator):
        def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
            deadline = time.monotonic() + 10
            while (
                len(RunFolder(tmp_path / "run").read_records()) < self.n_generated
                and time.monotonic() < deadline
            ):
                time.sleep(0.005)
            counts.append(len(RunFolder(tmp_path / "run").read_records()) - self.n_generated)
            return super().generate(requests, settings)

    generate(plan, range(5), tmp_path / "run", generator=Watch(0.0))
    assert counts == [0] * 5


@pytest.mark.parametrize("sampler", [Ddpm(), Ddim(eta=0.7)])
def test_step_noise_is_that_of_one_thread(
    sampler: Ddpm, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample() -> torch.Tensor:
        generators = [index_generator(3, index) for index in range(4)]
        noise = torch.ones(4, 2, 8, 8)
        return sampler.sample(lambda x, time: 0.1 * x, noise, 20, generators)

    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    expected = sample()
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    assert torch.equal(sample(), expected)


# ------------------------------------------------------------------------------- feature extraction


class MeanExtractor(LoadedFeatureExtractor):
    """The mean of each channel, from images that `preprocess` makes floats."""

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32)

    def extract_preprocessed(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"features": inputs.mean((1, 2))}


def extract_all(samples: SampleSet) -> list[tuple[list[int], bytes, dict[str, int]]]:
    groups = [list(range(13)), list(range(13, 30))]
    return [
        (batch.indices, batch.arrays["features"].tobytes(), dict(batch.unusual_counts))
        for batch in extract_batches(MeanExtractor(), 5, samples, groups)
    ]


def test_features_are_those_of_one_thread(
    samples: SampleSet, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    expected = extract_all(samples)
    assert [len(indices) for indices, *_ in expected] == [5, 5, 3, 5, 5, 5, 2]
    assert expected[0][2] == {"constant": 2}
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    assert extract_all(samples) == expected


def test_a_damaged_image_is_the_same_error_and_comes_after_the_batches_before_it(
    samples: SampleSet, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert samples.files is not None
    samples.files[12].write_bytes(samples.files[12].read_bytes()[:60])

    def first_batches() -> tuple[list[list[int]], str]:
        batches: Iterator[list[int]] = (
            batch.indices for batch in extract_batches(MeanExtractor(), 5, samples, [range(30)])
        )
        finished_batches: list[list[int]] = []
        with pytest.raises(SampleError) as error_info:
            finished_batches.extend(batches)
        return finished_batches, str(error_info.value)

    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    expected = first_batches()
    assert len(expected[0]) == 2
    assert "image 12" in expected[1]
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    assert first_batches() == expected


# --------------------------------------------------------------------- annotation, classification


class FirstPixel(LoadedAnnotator):
    """The first pixel as a similarity; it blackens the image that it gets."""

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        cosine = float(image[0, 0, 0]) / 255
        image[:] = 0
        return SimilarityAnnotation(cosines=(cosine,))


def test_annotations_are_those_of_one_thread_and_errors_stay_lines(
    samples: SampleSet, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert samples.files is not None
    samples.files[7].unlink()
    query = SimilarityQuery(texts=("a picture",))
    queries = [ImageQuery(i, i, "", query, f"{i}-{part}") for i in range(30) for part in ("a", "b")]

    def lines() -> list[JsonObject]:
        return list(annotation_lines(FirstPixel(), "similarity", samples, queries))

    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    expected = lines()
    assert [line["key"] for line in expected if "error" in line] == ["7-a", "7-b"]
    assert expected[0]["annotation"] == expected[1]["annotation"]
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    assert lines() == expected


class TwoSteps(LoadedAnnotator):
    """The first pixel of an image; the network gives the image, a thread does the rest."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.n_images = 0

    def run_network(self, role: str, image: np.ndarray, query: Query) -> np.ndarray:
        self.n_images += 1
        if image[0, 0, 0] > 240:
            raise ValueError("too bright for the network")
        return image

    def finish_annotation(self, outputs: np.ndarray) -> Annotation:
        self.threads.add(threading.get_ident())
        if outputs[0, 0, 0] < 15:
            raise ValueError("too dark to finish")
        return SimilarityAnnotation(cosines=(float(outputs[0, 0, 0]) / 255,))


def test_annotations_finished_in_a_thread_are_those_of_one_thread(
    samples: SampleSet, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = SimilarityQuery(texts=("a picture",))
    queries = [ImageQuery(i, i, "", query, str(i)) for i in range(30)]

    def lines() -> tuple[list[JsonObject], set[int]]:
        annotator = TwoSteps()
        return list(annotation_lines(annotator, "similarity", samples, queries)), annotator.threads

    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    expected, threads = lines()
    assert threads == {threading.get_ident()}
    assert {line["error"] for line in expected if "error" in line} == {
        "ValueError: too bright for the network",
        "ValueError: too dark to finish",
    }
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    threaded_lines, threads = lines()
    assert threaded_lines == expected
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_an_annotation_is_finished_while_the_network_works_on_the_next_image(
    samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one image is ahead: an interruption loses no more."""
    monkeypatch.setenv(THREADS_VARIABLE, SEVERAL_THREADS)
    query = SimilarityQuery(texts=("a picture",))
    queries = [ImageQuery(i, i, "", query, str(i)) for i in range(30)]
    annotator = TwoSteps()
    all_lines = annotation_lines(annotator, "similarity", samples, queries)
    counts = [annotator.n_images for _ in all_lines]
    assert counts == [*range(2, 31), 30]


class SumClassifier(Classifier):
    """Logits that depend on the pixels of the image alone."""

    def classify(self, images: np.ndarray) -> np.ndarray:
        sums = images.astype(np.float32).sum((1, 2, 3))
        return np.stack([np.cos(sums * k) for k in range(1, 8)], axis=1).astype(np.float32)


class DamagedImages(ArrayImages):
    """Images of which one cannot be decoded."""

    def decode(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        if index == 9:
            raise SampleError("image 9 is damaged")
        return super().decode(index, data, side, crop_ratio)


def test_predictions_are_those_of_one_thread(
    plan: Plan, thread_setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    real_images = DamagedImages(images, [0] * 60)

    def shard() -> tuple[bytes, bytes, bytes, dict[int, str]]:
        image_bytes = read_image_bytes(real_images, range(60))
        shard = classify_images(SumClassifier(), plan, real_images, image_bytes, 1.0)
        arrays = (shard.indices, shard.ranked_classes, shard.logits)
        indices, classes, logits = (array.tobytes() for array in arrays)
        return indices, classes, logits, shard.failed

    monkeypatch.setenv(THREADS_VARIABLE, SERIAL)
    expected = shard()
    assert expected[3] == {9: "image 9 is damaged"}
    monkeypatch.setenv(THREADS_VARIABLE, thread_setting)
    assert shard() == expected


def test_large_images_are_compressed_fast_to_the_same_pixels_and_small_ones_as_before() -> None:
    rng = np.random.default_rng(4)
    for side, is_as_before in ((32, True), (160, False)):
        image = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8).repeat(8, 0)
        image = image.repeat(8, 1)
        data = encode_png(image)
        assert (data == encode_png(image, SMALL_COMPRESSION)) is is_as_before
        assert np.array_equal(decode_image(data, "x").image, image)
