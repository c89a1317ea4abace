"""What a GPU does with this package: equal images, features beside the CPU's, images a second,
seconds a step and memory. Nothing is downloaded; all weights are random.

    python benchmarks/gpu_check.py --device cuda --out gpu.json

It takes at most --seconds (480), and leaves out the checks that no time is left for. It needs the
extras t2i, fidelity and compbench. It prints one table and writes JSON, whose part `rates` is read
by `reproduce --dry-run --rates gpu.json` and `plan --gpus N --rates gpu.json`.

`--small --device cpu` runs every check with small networks, as the test of this file does. That
shows that the code runs, and says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from harope_bench.core.device import tf32_products
from harope_bench.core.schema import Plan, Settings
from harope_bench.data.sample_set import open_samples
from harope_bench.models.backbones.dit import DitBackbone, DitImageGenerator
from harope_bench.models.backbones.network_sizes import DTYPES
from harope_bench.pipeline.generate import generate, make_plan

DIT_STEPS = 250
FLUX_STEPS = 28
FLUX_TEXT = 512
DIT_B = {"hidden": 768, "depth": 12, "heads": 12, "patch": 2, "size": 32, "channels": 3}
SMALL_DIT = {"hidden": 32, "depth": 2, "heads": 2, "patch": 2, "size": 8, "channels": 3}
DIT_COMMON = {"classes": 1000, "learn_sigma": True}
FLUX = {"in_channels": 64, "guidance_embeds": True}
SMALL_FLUX = {
    **FLUX,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}


@dataclass
class Check:
    """The machine under test, the time that is left, and what was found."""

    device: str
    is_small: bool
    seconds: float
    start: float = field(default_factory=time.monotonic)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    generation_rates: list[dict[str, Any]] = field(default_factory=list)
    judging_rates: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """Return the seconds until the check must end."""
        return self.seconds - (time.monotonic() - self.start)

    def add(self, name: str, value: str, goal: str = "") -> None:
        """Record one row of the table and print it."""
        self.rows.append((name, value, goal))
        print(f"{name}: {value}{f' (goal: {goal})' if goal else ''}", file=sys.stderr, flush=True)

    def time(self, run: Callable[[], Any], repetitions: int) -> float:
        """Return the median seconds of a call, after one call that is not counted."""
        run()
        seconds = []
        for _ in range(repetitions):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


# -------------------------------------------------------------------------------------------------
# networks with random weights


def dit_network(encoding: str, is_small: bool) -> Any:
    """Return a DiT of three-channel images with noise on all weights; DiT-B/2 has 256 tokens."""
    config = {**(SMALL_DIT if is_small else DIT_B), **DIT_COMMON}
    torch.manual_seed(0)
    network = DitBackbone().build(encoding, {}, config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return network.eval()


def dit_plan(check: Check, steps: int, tile: int, dtype: str, tf32: bool) -> Plan:
    """Return a plan whose settings belong to the network; its checkpoint is only a name."""
    plan = make_plan("digits-harope", "digits", {"device": "cpu"})
    side = SMALL_DIT["size"] if check.is_small else DIT_B["size"]
    settings = plan.settings.model_copy(
        update={
            "resolution": side,
            "sampler": "ddpm",
            "steps": steps,
            "guidance": 1.5,
            "tile": tile,
            "device": check.device,
            "dtype": dtype,
            "tf32": tf32 or None,
        }
    )
    return plan.model_copy(update={"settings": settings})


def dit_generator(check: Check, network: Any, settings: Settings) -> DitImageGenerator:
    """Return the generator of a copy of the network."""
    device = torch.device(check.device)
    return DitImageGenerator(copy.deepcopy(network), device, DTYPES[settings.dtype])


def flux_network(encoding: str, check: Check, **sizes: Any) -> Any:
    """Return FLUX's transformer with an encoding, bfloat16, built on the device."""
    from diffusers import FluxTransformer2DModel

    from harope_bench.models.backbones.flux import PLUGIN

    config = {**(SMALL_FLUX if check.is_small else FLUX), **sizes}
    dtype_before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(check.device):
            transformer = FluxTransformer2DModel(**config)
            network = PLUGIN.attach_encoding(transformer, encoding, {})
    finally:
        torch.set_default_dtype(dtype_before)
    return network.to(check.device, torch.bfloat16).eval()


# -------------------------------------------------------------------------------------------------
# checks


def check_equal_images(check: Check) -> None:
    """Compare the files of one run with those of other batches, parts and a restart."""
    plan = dit_plan(check, steps=4, tile=8, dtype="bfloat16", tf32=False)
    generator = dit_generator(check, dit_network("harope", check.is_small), plan.settings)
    count = 24
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        generate(plan, range(count), folder / "one", generator=generator)
        generate(plan, range(count), folder / "batch", batch=5, generator=generator)
        for part in ([3], range(10, 24), range(count)):
            generate(plan, part, folder / "parts", generator=generator)
        expected = image_bytes(folder / "one")
        for name in ("batch", "parts"):
            equal = sum(a == b for a, b in zip(image_bytes(folder / name), expected, strict=True))
            check.add(f"equal images, {name}", f"{equal} of {count}", f"{count} of {count}")


def image_bytes(folder: Path) -> list[bytes]:
    """Return the bytes of a run's images in order."""
    return [path.read_bytes() for path in sorted((folder / "images").glob("*.png"))]


def check_dit_speed(check: Check) -> None:
    """Time DiT-B/2 through `generate`, beside a bare loop over the network."""
    network = dit_network("harope", check.is_small)
    steps = 2 if check.is_small else 20
    tiles = (2, 4) if check.is_small else (8, 64)
    rates: dict[str, float] = {}
    for dtype, tf32 in (("float32", False), ("float32", True), ("bfloat16", False)):
        name = "tf32" if tf32 else dtype
        for tile in tiles:
            plan = dit_plan(check, steps, tile, dtype, tf32)
            generator = dit_generator(check, network, plan.settings)
            bare = time_bare_loop(check, generator, plan.settings)
            seconds = time_generation(check, generator, plan)
            check.add(
                f"DiT-B/2 {name}, tile {tile}, {steps} steps",
                f"{1 / seconds:.3g} images/s, {bare / seconds:.0%} of the bare loop",
                "95%",
            )
            rates[name] = seconds * DIT_STEPS / steps
    check.generation_rates.append(
        {"backbone": "dit", "resolution": 256, "steps": DIT_STEPS, **rates}
    )


def time_bare_loop(check: Check, generator: DitImageGenerator, settings: Settings) -> float:
    """Return the seconds for an image of the network's calls alone."""
    assert settings.steps is not None
    side, tile = settings.resolution, settings.tile
    device, dtype = generator.device, generator.dtype
    x = torch.randn(2 * tile, generator.channels, side, side, device=device, dtype=dtype)
    times = torch.full((2 * tile,), 500.0, device=device)
    labels = torch.zeros(2 * tile, dtype=torch.long, device=device)

    def run() -> None:
        with torch.inference_mode(), tf32_products(settings.tf32):
            for _ in range(settings.steps or 0):
                generator.network(x, times, labels)

    return check.time(run, 3) / tile


def time_generation(check: Check, generator: DitImageGenerator, plan: Plan) -> float:
    """Return the seconds for an image through `generate`, files included."""
    tile = plan.settings.tile
    with tempfile.TemporaryDirectory() as text:
        generate(plan, range(tile), Path(text) / "warm-up", generator=generator)
        check.wait()
        start = time.perf_counter()
        generate(plan, range(4 * tile), Path(text) / "run", generator=generator)
        return (time.perf_counter() - start) / (4 * tile)


def check_harope_cost(check: Check) -> None:
    """Time HARoPE, folded, beside RoPE: a whole DiT-B/2 and one FLUX block of each kind."""
    from harope_bench.models.backbones.dit import PLUGIN as DIT
    from harope_bench.models.backbones.flux import PLUGIN as FLUX_BACKBONE

    dtype = torch.bfloat16
    plain = dit_network("rope-axial", check.is_small)
    folded = dit_network("harope", check.is_small)
    DIT.fold(folded, "the network of the check")
    seconds = {}
    for name, network in (("plain", plain), ("folded", folded)):
        network = network.to(check.device, dtype)
        side = network.config.size
        x = torch.randn(8, 3, side, side, device=check.device, dtype=dtype)
        times = torch.full((8,), 500.0, device=check.device)
        labels = torch.zeros(8, dtype=torch.long, device=check.device)
        seconds[name] = time_forward(check, partial(network, x, times, labels))
    check.add(
        "HARoPE folded / RoPE, DiT-B/2", f"{seconds['folded'] / seconds['plain']:.3f}", "1.00"
    )

    side = 4 if check.is_small else 64
    text = 8 if check.is_small else FLUX_TEXT
    for encoding in ("rope-axial", "harope"):
        network = flux_network(encoding, check, num_layers=1, num_single_layers=1)
        if encoding == "harope":
            FLUX_BACKBONE.fold_matrices(network)
        inputs = FLUX_BACKBONE.random_inputs(network, side, text, 1)
        seconds[encoding] = time_forward(check, partial(network, **inputs))
        del network
    ratio = seconds["harope"] / seconds["rope-axial"]
    check.add("HARoPE folded / RoPE, one FLUX block of each kind", f"{ratio:.3f}", "1.00")


def time_forward(check: Check, run: Callable[[], Any]) -> float:
    """Return the median seconds of a forward pass."""
    with torch.inference_mode():
        return check.time(run, 3 if check.is_small else 20)


def check_flux_steps(check: Check) -> None:
    """Time steps of a FLUX-size transformer in bfloat16 and read its peak memory."""
    from harope_bench.models.backbones.flux import PLUGIN

    network = flux_network("harope", check)
    PLUGIN.fold_matrices(network)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    check.add("FLUX-size transformer", f"{n_parameters / 1e9:.2f} billion parameters, bfloat16")
    for resolution in (512, 1024, 2048):
        side = resolution // 16 if not check.is_small else resolution // 256
        inputs = PLUGIN.random_inputs(network, side, 8 if check.is_small else FLUX_TEXT, 1)
        if check.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            seconds = check.time(partial(network, **inputs), 3)
        memory = ""
        if check.device.startswith("cuda"):
            memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most"
        check.add(f"FLUX step, {resolution} px", f"{seconds:.3f} s{memory}")
        check.generation_rates.append(
            {
                "backbone": "flux",
                "resolution": resolution,
                "steps": FLUX_STEPS,
                "bfloat16": seconds * FLUX_STEPS,
            }
        )


def check_inception(check: Check) -> None:
    """Compare Inception's features with the CPU's, and its speed with torch-fidelity's."""
    import inception

    from harope_bench.judges.inception.inception_network import (
        LoadedInception,
        resize_like_tensorflow1,
    )
    from harope_bench.judges.weights.asset_files import WeightsFile
    from harope_bench.pipeline.extract_features import extract_batches

    with tempfile.TemporaryDirectory() as text:
        from harope_bench.core.storage import sha256_file

        path = inception.write_weights(Path(text) / "random.pth")
        weights = WeightsFile(path, sha256_file(path))
        extractor, cpu_extractor = (
            LoadedInception(weights, resize_like_tensorflow1, device)
            for device in (check.device, "cpu")
        )
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
        expected = cpu_extractor.extract(images)["features"]
        error = np.abs(extractor.extract(images)["features"] - expected).max() / expected.std()
        check.add("Inception, device beside CPU", f"{error:.1e} of the features' spread", "1e-3")

        # Images of files, decoding included.
        count = 20 if check.is_small else 1000
        folder = Path(text) / "images"
        write_noise_images(folder, count)
        samples = open_samples(folder)
        start = time.perf_counter()
        for _ in extract_batches(extractor, 50, samples, [samples.indices]):
            pass
        rate = count / (time.perf_counter() - start)
        library = inception.extractor(path).to(check.device)
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in samples.batches(samples.indices, 50):
                x = torch.from_numpy(batch.images).permute(0, 3, 1, 2).to(check.device)
                [array.cpu() for array in library(x)]
        library_rate = count / (time.perf_counter() - start)
        check.add(
            "Inception, decoding included",
            f"{rate:.3g} images/s, {rate / library_rate:.2f} times torch-fidelity's network",
            "2",
        )
        check.judging_rates.append({"evaluator": "fidelity", "seconds": 1 / rate})


def write_noise_images(folder: Path, count: int) -> None:
    """Write images of 256 x 256 pixels."""
    from harope_bench.data.image_io import encode_png

    rng = np.random.default_rng(1)
    folder.mkdir()
    coarse = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    data = [encode_png(image.repeat(8, 0).repeat(8, 1)) for image in coarse]
    for index in range(count):
        (folder / f"{index:06d}.png").write_bytes(data[index % len(data)])


def check_mask2former(check: Check) -> None:
    """Compare the logits of Mask2Former's CUDA path with the CPU's, with random weights."""
    import mmdet_weights

    from harope_bench.judges.mmdet.mask2former import (
        LoadedMask2Former,
        build_network,
        check_logits,
        load_network_weights,
    )

    scale = mmdet_weights.SMALL_SIZES
    state = mmdet_weights.random_state("old")
    network = load_network_weights(build_network(), state, "random weights")
    cpu_judge = LoadedMask2Former(copy.deepcopy(network), "0" * 64, "cpu", scale)
    judge = LoadedMask2Former(network, "0" * 64, check.device, scale)
    complaint = check_logits(judge, cpu_judge)
    check.add("Mask2Former, device beside CPU", complaint or "equal but for rounding", "equal")


CHECKS: dict[str, Callable[[Check], None]] = {
    "equal": check_equal_images,
    "dit": check_dit_speed,
    "harope": check_harope_cost,
    "inception": check_inception,
    "mask2former": check_mask2former,
    "flux": check_flux_steps,
}
EXPECTED_SECONDS = {
    "equal": 20,
    "dit": 90,
    "harope": 60,
    "inception": 90,
    "mask2former": 60,
    "flux": 120,
}


def run_checks(check: Check, names: list[str]) -> None:
    """Run the checks; one that fails is a row, and one without time left is left out."""
    for name in names:
        if not check.is_small and check.seconds_left < EXPECTED_SECONDS[name]:
            check.add(name, f"left out, {check.seconds_left:.0f} s are left")
            continue
        try:
            CHECKS[name](check)
        except Exception as error:  # noqa: BLE001 - the other checks still run on this machine
            check.add(name, f"failed: {type(error).__name__}: {str(error).splitlines()[:1]}")
        if check.device.startswith("cuda"):
            torch.cuda.empty_cache()


def table(check: Check) -> str:
    """Return the rows as a Markdown table."""
    lines: Iterator[tuple[str, str, str]] = iter(
        [("check", "found", "goal"), ("---", "---", "---"), *check.rows]
    )
    return "\n".join(f"| {name} | {value} | {goal} |" for name, value, goal in lines)


def machine(device: str) -> dict[str, str]:
    """Return what the numbers belong to."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    return {"gpu": gpu or device, "torch": torch.__version__, "cuda": str(torch.version.cuda)}


def main() -> None:
    """Read the options, run the checks, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--small", action="store_true", help="small networks, for a test")
    parser.add_argument("--checks", default=",".join(CHECKS))
    options = parser.parse_args()
    check = Check(options.device, options.small, options.seconds)
    run_checks(check, options.checks.split(","))
    machine_fields = machine(options.device)
    print(table(check))
    if options.out:
        rates = {
            "gpu": machine_fields["gpu"],
            "source": "measured by benchmarks/gpu_check.py",
            "generation": check.generation_rates,
            "judging": check.judging_rates,
        }
        contents = {"machine": machine_fields, "rows": check.rows, "rates": rates}
        options.out.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
