"""Speed of the fidelity metrics beside torch-fidelity, scipy and clean-fid: same inputs, same
weights, one run, rounds interleaved.

    python benchmarks/fidelity_speed.py --folder /tmp/speed --only frechet neighbours inception
    command --write

Weights of the network are random (nothing is downloaded); its time does not depend on them.
Compared is processor time, user and system,
since the clock also counts what else the machine does; both are written to the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import measure
import numpy as np
from measure import ElapsedTime

WIDTH = 2048
PARTS = ("frechet", "neighbours", "inception", "command")


class Part(NamedTuple):
    """Times by contender, the first of which is ours; what they answered; notes."""

    times: dict[str, list[ElapsedTime]]
    answers: dict[str, Any]
    notes: list[str]


def frechet(options: argparse.Namespace) -> Part:
    """Measure the distance of two Gaussians of 2,048 dimensions, covariances of 10,000 rows."""
    import scipy.linalg
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    from harope_bench.metrics.frechet import frechet_distance as ours
    from harope_bench.metrics.moments import Moments

    generated_gaussian, real = (
        Moments.from_rows(features(10_000, seed, 0.05 * seed)).to_gaussian() for seed in (0, 1)
    )

    def by_sqrtm() -> float:
        root = scipy.linalg.sqrtm(generated_gaussian.covariance @ real.covariance)
        shift = generated_gaussian.mean - real.mean
        return float(
            shift @ shift
            + np.trace(generated_gaussian.covariance)
            + np.trace(real.covariance)
            - 2 * np.trace(root).real
        )

    def by_torch_fidelity() -> float:
        fields = ({"mu": g.mean, "sigma": g.covariance} for g in (generated_gaussian, real))
        return float(fid_statistics_to_metric(*fields, False)["frechet_inception_distance"])

    return measure_parts(
        {
            "harope-bench": lambda: ours(generated_gaussian, real),
            "torch-fidelity": by_torch_fidelity,
            "scipy sqrtm": by_sqrtm,
        },
        options.repetitions,
    )


def neighbours(options: argparse.Namespace) -> Part:
    """Precision and recall of 10,000 samples and 10,000 reference images, each contender in a fresh
    process, features mapped from disk.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("drawn", "real")):
        np.save(options.folder / f"{name}.npy", features(options.rows, seed, 0.05 * (1 - seed)))
    names = (
        "harope-bench",
        "torch-fidelity",
        "torch-fidelity, save_cpu_ram",
        "harope-bench, ADM's float16",
    )
    times: dict[str, list[ElapsedTime]] = {name: [] for name in names}
    answers: dict[str, Any] = {}
    for _ in range(options.repetitions):
        for name in names:
            run = measure.in_process(
                [sys.executable, __file__, "--folder", str(options.folder), "--contender", name]
            )
            times[name].append(ElapsedTime(run.answer["wall"], run.answer["cpu"]))
            memory = run.anonymous - run.answer["before"]
            answers[name] = {
                "shares": run.answer["shares"],
                "extra_mb": max(memory, answers.get(name, {}).get("extra_mb", 0.0)),
            }
            print(
                f"  {name}: {run.answer['cpu']:.1f} s cpu, +{memory:,.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    notes = [
        f"{name}: precision and recall {a['shares']}, +{a['extra_mb']:,.0f} MB"
        for name, a in answers.items()
    ]
    return Part(times, answers, notes)


def contender(name: str, folder: Path) -> dict[str, Any]:
    """One contender for precision and recall, in this process; memory held before it starts is told
    apart.
    """
    generated_value, real = (
        np.load(folder / f"{side}.npy", mmap_mode="r") for side in ("drawn", "real")
    )
    if name.startswith("torch-fidelity"):
        import torch
        from torch_fidelity.metric_prc import prc_features_to_metric

        tensors = [torch.from_numpy(np.array(rows)) for rows in (generated_value, real)]

        def run() -> list[float]:
            prc_features = prc_features_to_metric(
                *tensors,
                prc_neighborhood=3,
                prc_batch_size=10_000,
                save_cpu_ram="save_cpu_ram" in name,
                verbose=False,
            )
            return [prc_features["precision"], prc_features["recall"]]

    else:
        from harope_bench.metrics.float16_neighbours import float16_balls
        from harope_bench.metrics.neighbours import neighbour_balls

        def run() -> list[float]:
            prc_features = (float16_balls if "float16" in name else neighbour_balls)(
                generated_value, real
            )
            return [
                float(prc_features.generated_inside.mean()),
                float(prc_features.real_inside.mean()),
            ]

    status = Path("/proc/self/status").read_text().splitlines()
    before = next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon:"))
    spent_time, shares = measure.time_call(run)
    return {"wall": spent_time.wall, "cpu": spent_time.cpu, "shares": shares, "before": before}


def inception(options: argparse.Namespace) -> Part:
    """One pass of the network over 256 x 256 images from uint8 to features and logits, folded and
    channels-last; compiled if asked.
    """
    import torch

    sys.path.insert(0, str(measure.ROOT / "tests"))
    from inception import extractor, write_weights

    os.environ["HAROPE_BENCH_INCEPTION"] = str(write_weights(options.folder / "inception.pth"))
    from harope_bench.core import registry

    images = np.random.default_rng(0).integers(
        0, 256, (options.images, 256, 256, 3), dtype=np.uint8
    )
    library_extractor = extractor(options.folder / "inception.pth")
    planar = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    batches = range(0, options.images, options.batch)

    def by_torch_fidelity() -> np.ndarray:
        with torch.no_grad():
            return np.concatenate(
                [library_extractor(planar[i : i + options.batch])[0].numpy() for i in batches]
            )

    def by(loaded_network: Any) -> np.ndarray:
        return np.concatenate(
            [loaded_network.extract(images[i : i + options.batch])["features"] for i in batches]
        )

    runs: dict[str, Callable[[], Any]] = {}
    for name, switch in (
        (("harope-bench, compiled", "1"), ("harope-bench", "0"))
        if options.compile
        else (("harope-bench", "0"),)
    ):
        os.environ["HAROPE_BENCH_COMPILE"] = switch
        loaded_network = registry.load_by_name("judges", "inception-2015").open("cpu")
        spent_time, _ = measure.time_call(
            lambda loaded_network=loaded_network: loaded_network.extract(images[: options.batch])
        )
        print(
            f"  {name}: first batch {spent_time.cpu:.1f} s cpu; notes {loaded_network.notes}",
            file=sys.stderr,
        )
        runs[name] = lambda loaded_network=loaded_network: by(loaded_network)
    parts = measure_parts({**runs, "torch-fidelity": by_torch_fidelity}, options.repetitions)
    reference = parts.answers.pop("torch-fidelity")
    notes = [
        f"{options.images} images in batches of {options.batch}, feature spread"
        f" {reference.std():.2f}"
    ]
    for name, rows in parts.answers.items():
        off = np.abs(rows - reference)
        notes.append(
            f"{name}: features differ by at most {off.max():.1e}, {off.mean():.1e} in the mean"
        )
    rates = {
        name: options.images / statistics.median(s.cpu for s in spent_time)
        for name, spent_time in parts.times.items()
    }
    return Part(parts.times, {"images_per_cpu_second": rates}, notes)


def command(options: argparse.Namespace) -> Part:
    """Whole commands on a folder of images and a reference of as many, cold, start of the
    interpreter and all.
    """
    paths = prepare_command(options)
    weights, package_fields = paths["weights"], {"HAROPE_BENCH_INCEPTION": str(paths["weights"])}
    fidelity = [
        sys.executable,
        str(Path(sys.executable).parent / "fidelity"),
        "--cpu",
        "--isc",
        "--fid",
        "--prc",
        "--no-cache",
        "--json",
        "--silent",
    ]
    fidelity += [
        "--feature-extractor",
        "inception-v3-compat",
        "--feature-layer-prc",
        "2048",
        "-b",
        str(options.batch),
    ]
    fidelity += [
        "--feature-extractor-weights-path",
        str(weights),
        "--input1",
        str(paths["drawn"]),
        "--input2",
        str(paths["real"]),
    ]
    clean_executables = [
        sys.executable,
        __file__,
        "--folder",
        str(options.folder),
        "--contender",
        "clean-fid",
        "--batch",
        str(options.batch),
    ]

    def command_runner(
        name: str, line: list[str], environment: dict[str, str]
    ) -> Callable[[], ElapsedTime]:
        def run() -> ElapsedTime:
            for stale_text in ("out", "home"):
                shutil.rmtree(options.folder / stale_text, ignore_errors=True)
            in_process = measure.in_process(
                line, {"HAROPE_BENCH_HOME": str(options.folder / "home"), **environment}
            )
            answers[name] = in_process.answer
            return in_process.spent

        return run

    answers: dict[str, Any] = {}
    package_executables = [
        sys.executable,
        "-m",
        "harope_bench.cli",
        "eval",
        str(paths["drawn"]),
        "--suite",
        "imagenet-256",
        "--with",
        "fidelity",
    ]
    package_executables += [
        "--reference",
        str(paths["reference"]),
        "--profile",
        "adm-exact",
        "--out",
        str(options.folder / "out"),
    ]
    runs = {
        "harope-bench": command_runner("harope-bench", package_executables, package_fields),
        "torch-fidelity": command_runner("torch-fidelity", fidelity, {}),
        "clean-fid (FID only)": command_runner("clean-fid", clean_executables, {}),
    }
    notes = [
        f"{options.images} images of 256 x 256 and as many reference images; ours also gives sFID"
        " and errors, clean-fid only FID"
    ]
    times = measure.run_interleaved(runs, options.repetitions)
    notes += [
        f"{name}: all its work is in the time, its last step ended in {answer['error']!r}"
        for name, answer in answers.items()
        if "error" in answer
    ]
    return Part(times, answers, notes)


def prepare_command(options: argparse.Namespace) -> dict[str, Path]:
    """Two folders of PNG, the second also as ADM's npz, and random weights."""
    from PIL import Image

    sys.path.insert(0, str(measure.ROOT / "tests"))
    from inception import write_weights

    rng, paths = (
        np.random.default_rng(0),
        {name: options.folder / name for name in ("drawn", "real")},
    )
    for path in paths.values():
        path.mkdir(parents=True)
        small_integers = rng.integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
        images = [
            Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
            for image in small_integers
        ]
        for i, image in enumerate(images):
            image.save(path / f"{i:06d}.png")
    np.savez(
        options.folder / "reference.npz", arr_0=np.stack([np.asarray(image) for image in images])
    )
    return {
        **paths,
        "reference": options.folder / "reference.npz",
        "weights": write_weights(options.folder / "inception.pth"),
    }


def by_clean_fid(folder: Path, batch: int) -> dict[str, Any]:
    """clean-fid's own pipeline between two folders, with the same network in the place of its
    TorchScript file, which is not here.
    """
    import torch
    from cleanfid import fid

    sys.path.insert(0, str(measure.ROOT / "tests"))
    from inception import extractor

    network = extractor(folder / "inception.pth")
    try:
        value = fid.compute_fid(
            str(folder / "drawn"),
            str(folder / "real"),
            mode="clean",
            num_workers=0,
            batch_size=batch,
            device=torch.device("cpu"),
            use_dataparallel=False,
            custom_feat_extractor=lambda x: network(x.round().clamp(0, 255).to(torch.uint8))[0],
            verbose=False,
        )
    # its square root of a singular covariance, the last thing it does, may come out complex
    except ValueError as error:
        return {"fid": None, "error": str(error)}
    return {"fid": float(value)}


def features(rows: int, seed: int, shift: float) -> np.ndarray:
    """Made-up features (rows, 2048) float32: not below 0, with a decaying spectrum."""
    scale = (5 / np.sqrt(np.arange(1, WIDTH + 1))).astype(np.float32)
    values = np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32)
    return np.abs(values * scale + np.float32(shift))


def measure_parts(runs: dict[str, Callable[[], Any]], repetitions: int) -> Part:
    """Time every contender, once a round, and keep its last answer."""
    answers: dict[str, Any] = {}

    def timing(name: str, run: Callable[[], Any]) -> Callable[[], ElapsedTime]:
        def once() -> ElapsedTime:
            spent_time, answers[name] = measure.time_call(run)
            return spent_time

        return once

    times = measure.run_interleaved(
        {name: timing(name, run) for name, run in runs.items()}, repetitions
    )
    return Part(
        times,
        answers,
        [f"{name}: {value:.12g}" for name, value in answers.items() if isinstance(value, float)],
    )


def report(parts: dict[str, Part]) -> str:
    """One line a contender: median processor seconds, ratio to ours with its range."""
    rows = []
    for part, part_result in parts.items():
        package_first_item = next(iter(part_result.times))
        for name, spent_time in part_result.times.items():
            middle, low, high = measure.ratio(spent_time, part_result.times[package_first_item])
            message = (
                "1" if name == package_first_item else f"{middle:.2f} ({low:.2f} to {high:.2f})"
            )
            cpu, wall = (
                statistics.median(getattr(s, kind) for s in spent_time) for kind in ("cpu", "wall")
            )
            rows.append([part, name, f"{cpu:.2f}", f"{wall:.2f}", message])
    return measure.table(
        ["part", "contender", "processor s", "clock s", "times ours (range)"], rows
    )


def main() -> None:
    """Run the parts asked for, tell, and delete what was made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="empty folder for inputs, deleted at the end"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--rows", type=int, default=10_000, help="feature rows of a set, for precision and recall"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=64,
        help="images of a set, for the network and the whole command",
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compile", action="store_true", help="time the compiled network too")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the tables into docs/performance.md, between each part's markers",
    )
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        first_by_clean_fid = (
            by_clean_fid(options.folder, options.batch)
            if options.contender == "clean-fid"
            else contender(options.contender, options.folder)
        )
        print(json.dumps(first_by_clean_fid))
        return
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"{options.folder} is not empty; name another folder")
    _threads()
    parts: dict[str, Part] = {}
    for name in options.only:
        try:
            parts[name] = {
                "frechet": frechet,
                "neighbours": neighbours,
                "inception": inception,
                "command": command,
            }[name](options)
        finally:
            shutil.rmtree(options.folder, ignore_errors=True)
        text = (
            report({name: parts[name]})
            + "\n\n"
            + "\n".join(f"- {note}" for note in parts[name].notes)
        )
        print(text, flush=True)
        if options.write:
            measure.write_between(name, text)
        if options.json:
            fields = {
                "machine": measure.machine(),
                "parts": {key: part._asdict() for key, part in parts.items()},
            }
            options.json.write_text(json.dumps(fields, indent=1, default=float))


def _threads() -> None:
    """torch does not always take its number of threads from the environment."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


if __name__ == "__main__":
    main()
