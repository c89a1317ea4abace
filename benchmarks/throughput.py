"""How much of a network's own rate is left when images are generated, extracted, annotated and
classified, with a network that only sleeps.

    python benchmarks/throughput.py --before ../before --rounds 3 --write

A network on a GPU leaves the processor free while it computes; a network that sleeps does the same.
So the share of its rate shows what encoding, decoding, resizing and writing cost on this processor.
--before is a checkout of an earlier version, which runs the same stages in turns with this one;
without it only this version runs. "now, one thread" is this version without threads, so the table
separates what threads give from what faster steps give. Each stage runs in a process of its own.

The picture has waves and noise (standard deviation 6 levels), so that a PNG of it has about 70% of
its pixels' bytes, as photographs have. All images of a run are this picture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).parents[1]
# Seconds of the network for an image at each side, by stage.
NETWORK_SECONDS = {
    "generate": {256: 0.020, 512: 0.040, 1024: 0.100, 2048: 0.400},
    "extract": {256: 0.001, 512: 0.001, 1024: 0.001, 2048: 0.001},
    "annotate": {256: 0.010, 512: 0.020, 1024: 0.050, 2048: 0.100},  # of both roles together
    "classify": {256: 0.001, 512: 0.001, 1024: 0.001, 2048: 0.001},
}
# Images of a measurement. The last images are encoded and written after the network has ended;
# with so many images this is a small part of the time.
IMAGES = {256: 480, 512: 240, 1024: 120, 2048: 32}
THREADS_VARIABLE = "HAROPE_BENCH_THREADS"
NOISE_LEVELS = 6.0


class Version(NamedTuple):
    """A checkout that is measured, with environment variables."""

    tree: Path
    environment: dict[str, str]


class Measurement(NamedTuple):
    """One run of a stage: clock and processor seconds, and the busy cores of other processes."""

    seconds: float
    cpu_seconds: float
    other_cores: float


def picture(side: int) -> np.ndarray:
    """Return the picture (side, side, 3) uint8: waves, and noise of NOISE_LEVELS."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] * (1024 / side)
    waves = np.stack(
        [
            80 * np.sin(x / 37) + 40 * np.cos(y / 51),
            100 * np.cos((x + y) / 90),
            100 * np.sin(y / 20),
        ],
        axis=-1,
    )
    noise = rng.normal(0, NOISE_LEVELS, (side, side, 3))
    return np.clip(127 + waves + noise, 0, 255).astype(np.uint8)


# -------------------------------------------------------------------------------------------------
# the stages, each a function that runs once over the images and returns nothing


def prepare_generation(side: int, count: int, seconds: float, folder: Path) -> Callable[[], None]:
    """Return the generation of `count` images by a generator that sleeps."""
    from harope_bench.models.backbones.base import GeneratedBatch, ImageGenerator
    from harope_bench.pipeline.generate import generate, make_plan

    image = picture(side)

    class SleepingGenerator(ImageGenerator):
        def generate(self, requests: Sequence[Any], settings: Any) -> GeneratedBatch:
            time.sleep(seconds * len(requests))
            return GeneratedBatch(np.stack([image] * len(requests)), {})

    plan = make_plan("digits-harope", "digits", {"device": "cpu"})
    settings = plan.settings.model_copy(update={"resolution": side, "tile": 1})
    plan = plan.model_copy(update={"settings": settings})

    def run() -> None:
        generate(plan, range(count), folder / "run", generator=SleepingGenerator())

    return run


def write_images(side: int, count: int, folder: Path, suffix: str) -> list[Path]:
    """Write the images as files, with Pillow's defaults."""
    from PIL import Image

    image = picture(side)
    folder.mkdir(parents=True)
    paths = [folder / f"{index:06d}.{suffix}" for index in range(count)]
    for path in paths:
        Image.fromarray(image).save(path)
    return paths


def prepare_extraction(side: int, count: int, seconds: float, folder: Path) -> Callable[[], None]:
    """Return the extraction of features with Inception's resize and a network that sleeps."""
    import torch

    from harope_bench.core.schema import JudgeRecord
    from harope_bench.data.sample_set import open_samples
    from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
    from harope_bench.judges.inception.inception_network import resize_like_tensorflow1
    from harope_bench.pipeline import extract_features

    class SleepingExtractor(LoadedFeatureExtractor):
        weights_sha256 = "0" * 64

        @torch.inference_mode()
        def preprocess(self, images: np.ndarray) -> torch.Tensor:
            return resize_like_tensorflow1(images)

        def extract_preprocessed(self, inputs: torch.Tensor) -> dict[str, np.ndarray]:
            time.sleep(seconds * len(inputs))
            return {"features": inputs[:, 0, 0, :8].numpy().copy()}

        def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return self.extract_preprocessed(self.preprocess(images))

    class Plugin(FeatureExtractor):
        arrays = ("features",)
        batch_size = 50

    record = JudgeRecord(
        name="sleeping", version=1, judge_class="micro", weights_sha256="0" * 64, preprocessing="-"
    )
    write_images(side, count, folder / "images", "png")
    samples = open_samples(folder / "images")

    # An earlier version calls `open_judge` itself.
    opener = "open_extractor" if hasattr(extract_features, "open_extractor") else "open_judge"

    def run() -> None:
        plugin = Plugin()
        with (
            patch.object(extract_features, "load_feature_extractor", lambda _: plugin),
            patch.object(extract_features, opener, lambda *_: SleepingExtractor()),
            patch.object(
                extract_features,
                "find_extractor_record",
                lambda *_: extract_features.ExtractorRecord(record),
            ),
        ):
            extract_features.extract_features(
                samples, "sleeping", folder / "features", "cpu", rescore=False
            )

    return run


def prepare_annotation(side: int, count: int, seconds: float, folder: Path) -> Callable[[], None]:
    """Return the annotation of the images in two roles by two annotators that sleep.

    As in GenEval, the second role is asked of the images that the first one has annotated. Each
    annotator sleeps half of the seconds.
    """
    from harope_bench.core import registry
    from harope_bench.core.annotations import (
        Annotation,
        Query,
        SimilarityAnnotation,
        SimilarityQuery,
        VqaAnnotation,
        VqaAnswer,
        VqaQuery,
    )
    from harope_bench.data.sample_set import open_samples
    from harope_bench.evaluators.base import AnnotatorRole
    from harope_bench.judges.base import Annotator, JudgeChoice, LoadedAnnotator
    from harope_bench.pipeline import annotate
    from harope_bench.suites.base import PromptCase

    class SleepingAnnotator(LoadedAnnotator):
        weights_sha256 = "0" * 64

        def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
            time.sleep(seconds / 2)
            if role == "vqa":
                return VqaAnnotation(answers=(VqaAnswer(text="yes"),))
            return SimilarityAnnotation(cosines=(0.5,))

    class Plugin(Annotator):
        version, judge_class, preprocessing, roles = 1, "micro", "-", ("vqa", "similarity")

        def weights_sha256(self) -> str:
            return "0" * 64

        def open(self, device: str) -> LoadedAnnotator:
            return SleepingAnnotator()

    def load_by_name(kind: str, name: str) -> object:
        return Plugin() if name.startswith("sleeping") else find_plugin(kind, name)

    write_images(side, count, folder / "images", "png")
    samples = open_samples(folder / "images")
    cases = {i: PromptCase(i, 0, "a picture", {"all": {}}) for i in range(count)}
    roles = (
        AnnotatorRole("vqa", lambda *_: VqaQuery(questions=("a picture?",))),
        AnnotatorRole("similarity", lambda *_: SimilarityQuery(texts=("a picture",))),
    )
    judges = {role.role: JudgeChoice(f"sleeping-{role.role}") for role in roles}
    find_plugin = registry.load_by_name

    def run() -> None:
        with patch.object(registry, "load_by_name", load_by_name):
            options = annotate.AnnotatorOptions(device="cpu")
            annotate.annotate_samples(
                samples, cases, "all", roles, judges, folder / "annotations", options
            )

    return run


def prepare_classification(
    side: int, count: int, seconds: float, folder: Path
) -> Callable[[], None]:
    """Return the classification of JPEG files at 224 pixels by a classifier that sleeps."""
    from harope_bench.core.schema import JudgeRecord
    from harope_bench.models.backbones.base import Classifier
    from harope_bench.pipeline import predictions
    from harope_bench.pipeline.generate import make_plan
    from harope_bench.suites.imagenet_val import FileImages

    class SleepingClassifier(Classifier):
        def classify(self, images: np.ndarray) -> np.ndarray:
            time.sleep(seconds * len(images))
            return np.tile(np.arange(10, dtype=np.float32), (len(images), 1))

    record = JudgeRecord(
        name="labels", version=1, judge_class="micro", weights_sha256="0" * 64, preprocessing="-"
    )
    paths = write_images(side, count, folder / "images", "jpg")
    plan = make_plan("digits-harope", "digits", {"device": "cpu"})
    settings = plan.settings.model_copy(update={"resolution": 224, "tile": 25})
    plan = plan.model_copy(update={"settings": settings})
    real_images = FileImages(paths, [0] * count, is_complete=True)

    def run() -> None:
        with patch.object(predictions, "open_classifier", lambda *_: SleepingClassifier()):
            predictions.predict(
                plan, real_images, count, record, folder / "predictions", 0.875, rescore=False
            )

    return run


STAGES = {
    "generate": prepare_generation,
    "extract": prepare_extraction,
    "annotate": prepare_annotation,
    "classify": prepare_classification,
}

# -------------------------------------------------------------------------------------------------
# measuring


def measure(stage: str, side: int, count: int, seconds: float) -> Measurement:
    """Run a stage in this process, once for a few images (imports) and then measured."""
    with tempfile.TemporaryDirectory() as folder:
        warm_up = STAGES[stage](side, 2, 0.0, Path(folder) / "warm-up")
        (Path(folder) / "warm-up").mkdir(exist_ok=True)
        warm_up()
        (Path(folder) / "run").mkdir()
        run = STAGES[stage](side, count, seconds, Path(folder) / "run")
        busy_seconds_before = busy_seconds()
        cpu_seconds_before = time.process_time()
        start_time = time.perf_counter()
        run()
        seconds_of_run = time.perf_counter() - start_time
        cpu_seconds = time.process_time() - cpu_seconds_before
        other_cpu_seconds = busy_seconds() - busy_seconds_before - cpu_seconds
    return Measurement(seconds_of_run, cpu_seconds, max(0.0, other_cpu_seconds) / seconds_of_run)


def busy_seconds() -> float:
    """Return the seconds that all cores together have worked since the machine started."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure_version(
    version: Version, stage: str, side: int, count: int, seconds: float
) -> Measurement:
    """Run `measure` in a process that imports the package from a checkout."""
    command = [sys.executable, __file__, "--measure", stage, str(side), str(count), str(seconds)]
    environment = {**os.environ, **version.environment, "PYTHONPATH": str(version.tree)}
    environment["HAROPE_BENCH_DEVICE"] = "cpu"
    process = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return Measurement(*json.loads(process.stdout))


def table(
    stages: Sequence[str], sides: Sequence[int], versions: dict[str, Version], rounds: int
) -> str:
    """Measure everything in turns and return a Markdown table of medians."""
    head = ["stage", "side", "network, s an image", "version", "images a second (range)"]
    head += ["share of the network's rate", "processor s an image", "cores busy with other work"]
    lines = [head, ["---"] * len(head)]
    for stage in stages:
        for side in sides:
            seconds = NETWORK_SECONDS[stage][side]
            count = IMAGES[side]
            results: dict[str, list[Measurement]] = {name: [] for name in versions}
            for _ in range(rounds):
                for name, version in versions.items():
                    results[name].append(measure_version(version, stage, side, count, seconds))
            for name, measurements in results.items():
                lines.append(row(stage, side, seconds, name, count, measurements))
                print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row(
    stage: str, side: int, seconds: float, name: str, count: int, measurements: list[Measurement]
) -> list[str]:
    """Return the row of a stage at a side in one version."""
    rates = sorted(count / m.seconds for m in measurements)
    median = statistics.median(rates)
    cpu = statistics.median(m.cpu_seconds for m in measurements) / count
    other_cores = statistics.median(m.other_cores for m in measurements)
    return [
        stage,
        str(side),
        f"{seconds:g}",
        name,
        f"{median:.3g} ({rates[0]:.3g} to {rates[-1]:.3g})",
        f"{median * seconds:.0%}",
        f"{cpu:.3f}",
        f"{other_cores:.1f}",
    ]


def main() -> None:
    """Read the options, measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--before", type=Path, help="checkout of an earlier version")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--sides", default="256,512,1024,2048")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table into the document")
    parser.add_argument("--measure", nargs=4, metavar=("STAGE", "SIDE", "COUNT", "SECONDS"))
    options = parser.parse_args()
    if options.measure:
        stage, side, count, seconds = options.measure
        print(json.dumps(measure(stage, int(side), int(count), float(seconds))))
        return

    versions = {"before": Version(options.before.resolve(), {})} if options.before else {}
    versions["now, one thread"] = Version(ROOT, {THREADS_VARIABLE: "0"})
    versions["now"] = Version(ROOT, {})
    stages = options.stages.split(",")
    sides = [int(side) for side in options.sides.split(",")]
    text = table(stages, sides, versions, options.rounds)
    text += f"\n\n{os.cpu_count()} cores; median of {options.rounds} rounds in turns."
    print(text)
    if options.write:
        from measure import write_between

        write_between("throughput", text)


if __name__ == "__main__":
    main()
