"""Suite coco-fid: FID of images generated from MS-COCO captions.

The HARoPE paper prints a COCO FID without the number of images, reference, resolution or program.
This protocol is a choice of harope-bench, so its numbers are not comparable with the paper's.

Captions: 30,000 of val2014, one for each image. Images are ordered by sha256("coco-fid/" + id), and
each gives its caption with the lowest id.
Reference: all val2014 images, centre-cropped to 512 x 512 as in ADM, for samples of any side.
Profile: clean (the resize of clean-fid).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
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
CAPTIONS_BYTES = 256 << 20  # limit for the member; COCO's has 33 MB
JUDGE = "inception-2015-clean"


@lru_cache(maxsize=2)
def read_captions(archive: Path) -> tuple[str, ...]:
    """Return the captions of the suite in their order.

    Raises:
        StorageError: The archive is not the one of COCO's annotations.
    """
    try:
        lowest_captions: dict[int, tuple[int, str]] = {}  # by image id: lowest caption id, its text
        for image_id, caption in _read_annotations(archive):
            lowest_captions[image_id] = min(lowest_captions.get(image_id, caption), caption)
    except ARCHIVE_ERRORS as error:
        raise StorageError(
            f"{archive} is not COCO's annotations ({first_line(error)})",
            advice=f"harope-bench fetch {ASSET}",
        ) from error

    image_ids = sorted(lowest_captions, key=_order_digest)
    return tuple(lowest_captions[image_id][1] for image_id in image_ids[:COUNT])


def _read_annotations(archive: Path) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield the id of an image and a caption (its id, its text), for every caption.

    Raises:
        ValueError: The archive has the member twice, or the member is too large.
    """
    with open_regular(archive) as file, zipfile.ZipFile(file) as members:
        if members.namelist().count(CAPTIONS_MEMBER) > 1:
            raise ValueError(
                f"it has {CAPTIONS_MEMBER} twice, and readers differ in which one they take"
            )
        if members.getinfo(CAPTIONS_MEMBER).file_size > CAPTIONS_BYTES:
            raise ValueError(f"{CAPTIONS_MEMBER} is larger than {CAPTIONS_BYTES:,} bytes")
        rows = parse_json(members.read(CAPTIONS_MEMBER))["annotations"]
    for row in rows:
        yield int(row["image_id"]), (int(row["id"]), printable_line(str(row["caption"])))


def _order_digest(image_id: int) -> bytes:
    """Return the digest that decides the position of an image in the suite."""
    return hashlib.sha256(f"coco-fid/{image_id}".encode()).digest()


class CocoFidSuite(CaptionSuite):
    """Suite of captions; the docstring of the module defines its protocol."""

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
        """Return the requests with these indices; the prompt is the caption at the index.

        Raises:
            OptionError: An index is beyond the last caption.
        """
        captions = read_captions(local_files.verify_local_file(ASSET).path)
        requested_indices = list(indices)
        excess_indices = [i for i in requested_indices if i >= len(captions)]
        if excess_indices:
            raise OptionError(
                f"coco-fid has {len(captions):,} captions, sample {excess_indices[0]} has none;"
                " request fewer"
            )
        return [Request(index=i, prompt=captions[i]) for i in requested_indices]

    def reference(self, judge: str) -> ReferenceFile:
        """Return the statistics of val2014 for a judge, which the user builds once.

        Raises:
            MissingAssetError: The user has not built them; the message has the command.
        """
        path = home() / "references" / f"coco-val2014-{self.resolution}-{judge}.npz"
        if not path.is_file():
            raise MissingAssetError(
                f"the COCO reference of {judge} is missing",
                advice=(
                    f"harope-bench reference VAL2014 {path} --judge {judge} --crop"
                    f" {self.resolution}"
                ),
            )
        judge_sha256 = load_arrays(path, ("judge_sha256",)).get("judge_sha256", "")
        return ReferenceFile(path.name, path, sha256_file(path), str(judge_sha256))

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Raise OptionError: the package may not ship COCO's images."""
        raise OptionError(
            f"COCO's {split} images are not part of this package; train from your own copy"
        )


PLUGIN = CocoFidSuite()
