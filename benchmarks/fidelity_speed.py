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
GOALS = {
    ("frechet", "scipy sqrtm"): 8.0,
    ("frechet", "torch-fidelity"): 2.5,
    ("neighbours", "torch-fidelity"): 1.9,
    ("neighbours", "torch-fidelity, save_cpu_ram"): 1.9,
    ("inception", "torch-fidelity"): 1.7,
    ("command", "torch-fidelity"): 1.7,
    ("command", "clean-fid (FID only)"): 1.7,
}
MEMORY_GOAL = 0.15  # GB beyond the features


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

    drawn, real = (
        Moments.from_rows(features(10_000, seed, 0.05 * seed)).to_gaussian() for seed in (0, 1)
    )

    def by_sqrtm() -> float:
        root = scipy.linalg.sqrtm(drawn.covariance @ real.covariance)
        shift = drawn.mean - real.mean
        return float(
            shift @ shift
            + np.trace(drawn.covariance)
            + np.trace(real.covariance)
            - 2 * np.trace(root).real
        )

    def by_torch_fidelity() -> float:
        both = ({"mu": g.mean, "sigma": g.covariance} for g in (drawn, real))
        return float(fid_statistics_to_metric(*both, False)["frechet_inception_distance"])

    return measure_parts(
        {
            "harope-bench": lambda: ours(drawn, real),
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
    drawn, real = (np.load(folder / f"{side}.npy", mmap_mode="r") for side in ("drawn", "real"))
    if name.startswith("torch-fidelity"):
        import torch
        from torch_fidelity.metric_prc import prc_features_to_metric

        tensors = [torch.from_numpy(np.array(rows)) for rows in (drawn, real)]

        def run() -> list[float]:
            found = prc_features_to_metric(
                *tensors,
                prc_neighborhood=3,
                prc_batch_size=10_000,
                save_cpu_ram="save_cpu_ram" in name,
                verbose=False,
            )
            return [found["precision"], found["recall"]]

    else:
        from harope_bench.metrics.float16_neighbours import float16_balls
        from harope_bench.metrics.neighbours import neighbour_balls

        def run() -> list[float]:
            found = (float16_balls if "float16" in name else neighbour_balls)(drawn, real)
            return [float(found.generated_inside.mean()), float(found.real_inside.mean())]

    status = Path("/proc/self/status").read_text().splitlines()
    before = next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon:"))
    spent, shares = measure.time_call(run)
    return {"wall": spent.wall, "cpu": spent.cpu, "shares": shares, "before": before}


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
    theirs = extractor(options.folder / "inception.pth")
    planar = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    batches = range(0, options.images, options.batch)

    def by_torch_fidelity() -> np.ndarray:
        with torch.no_grad():
            return np.concatenate(
                [theirs(planar[i : i + options.batch])[0].numpy() for i in batches]
            )

    def by(opened: Any) -> np.ndarray:
        return np.concatenate(
            [opened.extract(images[i : i + options.batch])["features"] for i in batches]
        )

    runs: dict[str, Callable[[], Any]] = {}
    for name, switch in (
        (("harope-bench, compiled", "1"), ("harope-bench", "0"))
        if options.compile
        else (("harope-bench", "0"),)
    ):
        os.environ["HAROPE_BENCH_COMPILE"] = switch
        opened = registry.load_by_name("judges", "inception-2015").open("cpu")
        spent, _ = measure.time_call(lambda opened=opened: opened.extract(images[: options.batch]))
        print(f"  {name}: first batch {spent.cpu:.1f} s cpu; notes {opened.notes}", file=sys.stderr)
        runs[name] = lambda opened=opened: by(opened)
    found = measure_parts({**runs, "torch-fidelity": by_torch_fidelity}, options.repetitions)
    reference = found.answers.pop("torch-fidelity")
    notes = [
        f"{options.images} images in batches of {options.batch}, feature spread"
        f" {reference.std():.2f}"
    ]
    for name, rows in found.answers.items():
        off = np.abs(rows - reference)
        notes.append(
            f"{name}: features differ by at most {off.max():.1e}, {off.mean():.1e} in the mean;"
            " goal 3e-4"
        )
    rates = {
        name: options.images / statistics.median(s.cpu for s in spent)
        for name, spent in found.times.items()
    }
    return Part(found.times, {"images_per_cpu_second": rates}, notes)


def command(options: argparse.Namespace) -> Part:
    """Whole commands on a folder of images and a reference of as many, cold, start of the
    interpreter and all.
    """
    paths = prepare_command(options)
    weights, ours = paths["weights"], {"HAROPE_BENCH_INCEPTION": str(paths["weights"])}
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
    clean = [
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
            for stale in ("out", "home"):
                shutil.rmtree(options.folder / stale, ignore_errors=True)
            done = measure.in_process(
                line, {"HAROPE_BENCH_HOME": str(options.folder / "home"), **environment}
            )
            answers[name] = done.answer
            return done.spent

        return run

    answers: dict[str, Any] = {}
    mine = [
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
    mine += [
        "--reference",
        str(paths["reference"]),
        "--profile",
        "adm-exact",
        "--out",
        str(options.folder / "out"),
    ]
    runs = {
        "harope-bench": command_runner("harope-bench", mine, ours),
        "torch-fidelity": command_runner("torch-fidelity", fidelity, {}),
        "clean-fid (FID only)": command_runner("clean-fid", clean, {}),
    }
    notes = [
        f"{options.images} images of 256 x 256 and as many reference images; ours also gives sFID"
        " and errors, clean-fid only FID"
    ]
    times = measure.run_interleaved(runs, options.repetitions)
    notes += [
        f"{name}: all its work is in the time, its last step ended in {said['error']!r}"
        for name, said in answers.items()
        if "error" in said
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
        small = rng.integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
        images = [
            Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC) for image in small
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
    found = np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32)
    return np.abs(found * scale + np.float32(shift))


def measure_parts(runs: dict[str, Callable[[], Any]], repetitions: int) -> Part:
    """Time every contender, once a round, and keep its last answer."""
    answers: dict[str, Any] = {}

    def timing(name: str, run: Callable[[], Any]) -> Callable[[], ElapsedTime]:
        def once() -> ElapsedTime:
            spent, answers[name] = measure.time_call(run)
            return spent

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
    """One line a contender: median processor seconds, ratio to ours with its range, goal."""
    rows = []
    for part, found in parts.items():
        ours = next(iter(found.times))
        for name, spent in found.times.items():
            middle, low, high = measure.ratio(spent, found.times[ours])
            goal = GOALS.get((part, name))
            verdict = "" if goal is None else f"{goal:g}: {'held' if middle >= goal else 'missed'}"
            told = "1" if name == ours else f"{middle:.2f} ({low:.2f} to {high:.2f})"
            cpu, wall = (
                statistics.median(getattr(s, kind) for s in spent) for kind in ("cpu", "wall")
            )
            rows.append([part, name, f"{cpu:.2f}", f"{wall:.2f}", told, verdict])
    return measure.table(
        ["part", "contender", "processor s", "clock s", "times ours (range)", "goal"], rows
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
        one = (
            by_clean_fid(options.folder, options.batch)
            if options.contender == "clean-fid"
            else contender(options.contender, options.folder)
        )
        print(json.dumps(one))
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
            facts = {
                "machine": measure.machine(),
                "parts": {key: part._asdict() for key, part in parts.items()},
            }
            options.json.write_text(json.dumps(facts, indent=1, default=float))


def _threads() -> None:
    """torch does not always take its number of threads from the environment."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


if __name__ == "__main__":
    main()
