"""Suite coco-fid: FID of images drawn from MS-COCO captions.

The paper prints a COCO FID without saying how many images, which reference, which resolution or
which program, so this protocol is
ours and its numbers are not comparable with the paper's: 30,000 captions of val2014, one an image;
images ordered by
sha256("coco-fid/" + id), of each the caption with the lowest id; reference: all val2014 images,
centre-cropped as ADM does to
512 x 512, whatever side the samples have; profile clean (clean-fid's resize).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from harope_bench.assets import local_files
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.array_file import ARCHIVE_ERRORS
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import MissingAssetError, OptionError, StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_file import parse_json
from harope_bench.core.regular_file import open_regular
from harope_bench.core.schema import Request, Settings
from harope_bench.core.storage import first_line, home, sha256_file
from harope_bench.suites.base import CaptionSuite, ReferenceFile

ASSET = "coco-captions"
CAPTIONS_MEMBER = "annotations/captions_val2014.json"
COUNT = 30_000
CAPTIONS_BYTES = 256 << 20  # of the member that is read; COCO's has 33 MB
JUDGE = "inception-2015-clean"


@lru_cache(maxsize=2)
def read_captions(archive: Path) -> tuple[str, ...]:
    """The suite's captions in its order; StorageError if the archive is not COCO's."""
    try:
        with open_regular(archive) as file, zipfile.ZipFile(file) as held:
            if held.namelist().count(CAPTIONS_MEMBER) > 1:
                raise ValueError(
                    f"it holds {CAPTIONS_MEMBER} twice, readers differ in which they take"
                )
            if held.getinfo(CAPTIONS_MEMBER).file_size > CAPTIONS_BYTES:
                raise ValueError(f"{CAPTIONS_MEMBER} is larger than {CAPTIONS_BYTES:,} bytes")
            rows = parse_json(held.read(CAPTIONS_MEMBER))["annotations"]
        first: dict[int, tuple[int, str]] = {}
        for row in rows:
            image = int(row["image_id"])
            told = (int(row["id"]), printable_line(str(row["caption"])))
            first[image] = min(first.get(image, told), told)
    except ARCHIVE_ERRORS as error:
        raise StorageError(
            f"{archive} is not COCO's annotations ({first_line(error)})",
            advice=f"harope-bench fetch {ASSET}",
        ) from error
    order = sorted(first, key=lambda image: hashlib.sha256(f"coco-fid/{image}".encode()).digest())
    return tuple(first[image][1] for image in order[:COUNT])


class CocoFidSuite(CaptionSuite):
    """Prompts are captions; see the module for the protocol."""

    version = 1
    title = "MS-COCO val2014 captions; the protocol is ours, the paper states none"
    count = COUNT
    requested_conditioning = Conditioning("prompts")
    has_exact_count = True
    resolution = 512
    judges = {"fidelity": JUDGE, "fidelity/clean": JUDGE}
    evaluators = ("fidelity",)
    profiles = {"fidelity": "clean"}

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Requests whose prompt is the caption of that place."""
        known = read_captions(local_files.verify_local_file(ASSET).path)
        wanted = list(indices)
        if beyond := [i for i in wanted if i >= len(known)]:
            raise OptionError(
                f"coco-fid has {len(known):,} captions, sample {beyond[0]} has none; ask for fewer"
            )
        return [Request(index=i, prompt=known[i]) for i in wanted]

    def reference(self, judge: str) -> ReferenceFile:
        """The statistics of val2014 that the user builds once, for this judge."""
        path = home() / "references" / f"coco-val2014-{self.resolution}-{judge}.npz"
        if not path.is_file():
            raise MissingAssetError(
                f"the COCO reference of {judge} is not here",
                advice=(
                    f"harope-bench reference VAL2014 {path} --judge {judge} --crop"
                    f" {self.resolution}"
                ),
            )
        return ReferenceFile(
            path.name,
            path,
            sha256_file(path),
            str(load_arrays(path, ("judge_sha256",)).get("judge_sha256", "")),
        )

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """COCO's pictures cannot be shipped."""
        raise OptionError(
            f"COCO's {split} images are not part of this package; train from your own copy"
        )


PLUGIN = CocoFidSuite()
