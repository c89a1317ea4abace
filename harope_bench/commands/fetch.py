"""Verbs that bring what judging needs: fetch, reference."""

from __future__ import annotations

from pathlib import Path

import click

from harope_bench.commands.options import json_object_text
from harope_bench.commands.terminal import echo


@click.command()
@click.argument("thing")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="A file or folder that you have; checked in the same way, nothing is downloaded.",
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
def fetch(asset: str, source: Path | None, json_: bool) -> None:
    """Bring THING (see `list assets`) into HAROPE_BENCH_HOME; the only verb that uses the network.
    It resumes.

    \b
    harope-bench fetch inception-2015
    """
    from harope_bench.assets.download import fetch_asset
    from harope_bench.assets.local_files import load_asset

    brought = fetch_asset(asset, source)
    if json_:
        echo(json_object_text({"files": [{**b._asdict(), "path": str(b.path)} for b in brought]}))
        return
    for b in brought:
        told = "was here, whole" if b.is_unchanged else "here now"
        unvouched = (
            "no hash is published and it came by --from, so nothing shows that it is the published"
            " file: a judge on it is a substitute"
        )
        recorded = (
            "no hash is published: trust on first use, this one is recorded and binding from now on"
            if b.is_from_url
            else unvouched
        )
        hash_ = f"hash checked: {b.verification}" if b.has_known_hash else recorded
        echo(f"{b.path}: {told}, sha256 {b.sha256} ({hash_})")
    known = load_asset(asset)
    echo(f"{known.title}. Licence: {known.licence}.{f' {known.note}' if known.note else ''}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--judge", required=True, help="Judge that looks; the reference is good for it alone."
)
@click.option(
    "--images",
    type=click.IntRange(4),
    default=10_000,
    help="Real images kept for precision and recall.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the choice of these images.")
@click.option(
    "--crop",
    type=click.IntRange(8),
    help="Centre-crop every file to this side first, as ADM prepares ImageNet.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Where the judge runs.",
)
@click.option("--replace", is_flag=True, help="Write over a TARGET that holds something else.")
def reference(
    source: Path,
    target: Path,
    judge: str,
    images: int,
    seed: int,
    crop: int | None,
    device: str,
    replace: bool,
) -> None:
    """Build the reference TARGET.npz from real images in SOURCE (folder, run or .npz): statistics
    of all, and some of the images.

    \b
    harope-bench reference photos/ photos.npz --judge inception-2015 --crop 256
    """
    from harope_bench.core import registry
    from harope_bench.core.device import require_device
    from harope_bench.core.errors import OptionError
    from harope_bench.data.sample_set import crop_samples, open_samples
    from harope_bench.pipeline.reference_stats import build_reference, reference_origin

    registry.find_entry("judges", judge)
    require_device(device)
    if target.suffix != ".npz":
        raise OptionError(f"a reference is an .npz, {target} is not called so; add .npz")
    samples = open_samples(source)
    build_reference(
        samples if crop is None else crop_samples(samples, crop),
        target,
        judge,
        device,
        images,
        seed,
        replace,
    )
    echo(
        f"{target}: statistics of {len(samples.indices):,} images as {judge} saw them; give it to"
        " `eval --reference`"
    )
    for line in reference_origin(target).warnings:
        echo(f"  {line}")
