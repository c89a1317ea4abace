"""From a folder of small PNGs to a result, killed twice on the way: the bytes are those of a
straight run. 20,000 images: -m scale.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from harope_bench.data.image_io import encode_png
from harope_bench.pipeline.extract_features import SHARD_SIZE
from harope_bench.suites.digits import PLUGIN as DIGITS


class Cost(NamedTuple):
    """Wall-clock seconds, CPU seconds, peak resident megabytes."""

    wall: float
    cpu: float
    peak: float


def pictures(folder: Path, count: int) -> Path:
    """Real digits with a little noise, so that no two are alike."""
    images, _ = DIGITS.images("train")
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        noisy = images[i % len(images)] + rng.normal(0, 6, images[0].shape)
        (folder / f"{i:06d}.png").write_bytes(
            encode_png(np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, -1))
        )
    return folder


def start(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        "-m",
        "harope_bench.cli",
        "eval",
        str(folder),
        "--suite",
        "digits",
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ.copy()
    )


def finish(folder: Path, out: Path) -> Cost:
    began, process = time.monotonic(), start(folder, out)
    _, status, used_value = os.wait4(process.pid, 0)
    assert process.stderr is not None
    assert status == 0, process.stderr.read().decode()[-2000:]
    process.stderr.close()
    process.returncode = 0
    return Cost(
        time.monotonic() - began,
        used_value.ru_utime + used_value.ru_stime,
        used_value.ru_maxrss / 1024,
    )


def kill(folder: Path, out: Path, after: int) -> int:
    """Kills an eval once it has written so many shards; how many there then are."""
    process, records = start(folder, out), out / "features/digits-net"
    while process.poll() is None and len(list(records.glob("0*.json"))) < after:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert process.stderr is not None
    process.stderr.close()
    return len(list(records.glob("0*.json")))


def files(out: Path) -> dict[str, bytes]:
    """Every file below, but for locks; a result without who made it and when."""
    contents = {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.suffix != ".lock"
    }
    del contents["results/SHA256SUMS"]  # of a result with who made it and when
    for name in [n for n in contents if n.startswith("results") and n.endswith(".json")]:
        fields: dict[str, Any] = json.loads(contents[name])
        del fields["provenance"]
        contents[name] = json.dumps(fields).encode()
    return contents


def killed_twice(tmp_path: Path, count: int, kills: tuple[int, int]) -> Cost:
    folder = pictures(tmp_path / "pictures", count)
    cost = finish(folder, tmp_path / "straight")
    for after in kills:
        assert after <= kill(folder, tmp_path / "killed", after) < -(-count // SHARD_SIZE)
    finish(folder, tmp_path / "killed")
    straight_files, killed_files = files(tmp_path / "straight"), files(tmp_path / "killed")
    assert straight_files.keys() == killed_files.keys()
    assert [name for name in straight_files if straight_files[name] != killed_files[name]] == []
    expected = {
        f"features/digits-net/{name}"
        for name in ("features.npy", "features.moments.npz", "judge.json")
    }
    assert straight_files.keys() >= {"results/fidelity.npz", *expected}
    return cost


def test_a_scoring_killed_twice_ends_in_the_bytes_of_a_straight_one(tmp_path: Path) -> None:
    killed_twice(tmp_path, 5 * SHARD_SIZE + 20, (1, 3))


@pytest.mark.scale
def test_twenty_thousand_images_killed_twice(tmp_path: Path) -> None:
    cost = killed_twice(tmp_path, 20_000, (4, 11))
    sys.stderr.write(
        f"\n20,000 images of 28 x 28: {cost.wall:.0f} s, {cost.cpu:.0f} CPU s, peak {cost.peak:.0f}"
        " MB\n"
    )
