"""The commands `fetch` and `reference`, which provide the files that evaluation needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    RegisteredName,
)
from harope_bench.commands.options import (
    device_option,
    json_object_text,
    json_option,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.assets.download import FetchedFile


@cloup.command()
@click.argument("asset", type=RegisteredName("assets"))
@cloup.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help=(
        "Copy the asset from this file or folder instead of downloading it; its hash is checked"
        " likewise."
    ),
)
@json_option
def fetch(asset: str, source: Path | None, json_: bool) -> None:
    """Download an ASSET (see `list assets`).

    An asset is a file of other people that this package does not include: weights of judges,
    prompts of benchmarks, reference statistics. The files are stored in the folder that the
    environment variable HAROPE_BENCH_HOME names (default: ~/.harope-bench), and their hashes
    are checked. No other command uses the network. If the download is interrupted, run the command
    again: it resumes.

    ASSET is also a model of the Hugging Face Hub: hub:OWNER/NAME or hub:OWNER/NAME@REVISION, where
    REVISION is a branch, a tag or a commit. Its configurations and .safetensors weights are stored
    in the hub's own cache, and the commit is recorded: OWNER/NAME then stands for this commit.

    \b
    harope-bench fetch inception-2015
    harope-bench fetch hub:Qwen/Qwen-Image@main
    """
    from harope_bench.assets import hub
    from harope_bench.assets.download import fetch_asset
    from harope_bench.assets.local_files import load_asset

    if asset.startswith(hub.PREFIX):
        fetch_hub_model(asset.removeprefix(hub.PREFIX), source, json_)
        return

    fetched_files = fetch_asset(asset, source)
    if json_:
        entries = [{**file._asdict(), "path": str(file.path)} for file in fetched_files]
        echo(json_object_text({"files": entries}))
        return
    for file in fetched_files:
        state = "up to date" if file.is_unchanged else "fetched"
        echo(f"{file.path}: {state}, sha256 {file.sha256} ({_hash_text(file)})")
    record = load_asset(asset)
    note = f" {record.note}" if record.note else ""
    echo(f"{record.title}. Licence: {record.licence}.{note}")


def fetch_hub_model(text: str, source: Path | None, as_json: bool) -> None:
    """Download a model of the hub, and print its folder and its commit."""
    from harope_bench.assets.hub import fetch_model
    from harope_bench.core.errors import OptionError

    if source is not None:
        raise OptionError(
            "--from does not apply to a model of the hub; give its folder to `register --weights`"
        )
    model = fetch_model(text)
    if as_json:
        echo(json_object_text({"models": [{**model._asdict(), "folder": str(model.folder)}]}))
        return
    echo(f"{model.folder}: commit {model.commit}, {model.n_files:,} files, {model.n_bytes:,} bytes")


def _hash_text(file: FetchedFile) -> str:
    """Return how the hash of a fetched file was checked."""
    if file.has_known_hash:
        return f"hash checked: {file.verification}"
    if file.is_from_url:
        return "no hash is published: trust on first use; later fetches must give the same hash"
    return (
        "no hash is published and the file came by --from, so nothing shows that it is the"
        " published file: a judge that uses it counts as a substitute"
    )


@cloup.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@cloup.option(
    "--judge",
    type=RegisteredName("judges"),
    required=True,
    metavar="NAME",
    help=(
        "Judge of the kind feature extractor, such as inception-2015: the network that computes the"
        " features; see `list judges`. The reference is valid for this judge only."
    ),
)
@cloup.option(
    "--image-count",
    type=click.IntRange(4),
    default=10_000,
    help="Number of images that are stored in the reference, for precision and recall.",
)
@cloup.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    help="Seed of the random choice of these images.",
)
@cloup.option(
    "--crop",
    type=click.IntRange(8),
    help=(
        "Resize and centre-crop every image to this side in pixels first, as OpenAI's"
        " guided-diffusion (ADM) prepares ImageNet. Default: the images as they are."
    ),
)
@device_option("Device that the judge runs on.")
@cloup.option("--replace", is_flag=True, help="Overwrite TARGET if it exists with other content.")
def reference(
    source: Path,
    target: Path,
    judge: str,
    image_count: int,
    seed: int,
    crop: int | None,
    device: str,
    replace: bool,
) -> None:
    """Build a reference file from real images.

    A reference is what FID and similar metrics compare generated images with; `eval --reference`
    uses it. SOURCE is a folder of real images, a run folder, or an .npz file of images. TARGET is
    the .npz file to write: the mean and covariance of the features of all images, and some of the
    images.

    \b
    harope-bench reference photos/ photos.npz --judge inception-2015 --crop 256
    """
    from harope_bench.core import registry
    from harope_bench.core.device import require_device
    from harope_bench.core.errors import OptionError
    from harope_bench.core.extras import require_network_packages
    from harope_bench.data.sample_set import crop_samples, open_samples
    from harope_bench.pipeline.reference_stats import build_reference, reference_origin

    registry.find_entry("judges", judge)
    require_network_packages("reference")
    require_device(device)
    if target.suffix != ".npz":
        raise OptionError(f"a reference is an .npz file, {target} has another ending; add .npz")
    samples = open_samples(source)
    build_reference(
        samples if crop is None else crop_samples(samples, crop),
        target,
        judge,
        device,
        image_count,
        seed,
        replace,
    )
    echo(
        f"{target}: statistics of {len(samples.indices):,} images, features of {judge}; use it with"
        " `eval --reference`"
    )
    for line in reference_origin(target).warnings:
        echo(f"  {line}")
