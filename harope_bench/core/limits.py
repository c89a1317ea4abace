"""Upper bounds of the numbers that a small file or a short option states and that cost memory or time; each is named in its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from harope_bench.core.errors import OptionError

Config = TypeVar("Config", bound=Mapping[str, object])

RESOLUTION = 8192  # pixels of a side
STEPS = 10_000  # of a sampler
GUIDANCE = 1_000.0
SEED = 2**63 - 1  # of a torch generator
TILE = 4096  # images of one padded batch
TILE_PIXELS = 2**28  # pixels of one padded batch: 3 GB of float32 RGB
THREADS = 256
BATCH = 65_536  # images of one training step
TRAINING_STEPS = 100_000_000
SCENES = 1_000_000  # rendered scenes, held in memory
REFERENCE_IMAGES = 1_000_000  # real images kept in a reference
WATCHED_IMAGES = 10_000  # requests or pictures whose attention is measured

CONFIG = 1_000_000  # any number of a network's config
# By key of a network's config; what is not here is held to CONFIG.
CONFIG_KEYS: Mapping[str, int] = {
    "hidden": 16_384,
    "depth": 512,
    "double": 512,
    "single": 512,
    "heads": 1_024,
    "patch": 1_024,
    "size": RESOLUTION,
    "channels": 1_024,
    "classes": 100_000,
    "places": 4_096,
}
BLOCK_WEIGHTS = 2**28  # hidden squared times blocks: about 5 billion weights in DiT's blocks
TABLE_WEIGHTS = 2**28  # hidden times classes or positions


def shown(number: float) -> str:
    """Return a number for a message; an integer of very many digits by how many bits it has."""
    if isinstance(number, float):
        return f"{number:g}"
    return f"{number:,}" if number.bit_length() <= 128 else f"a number of {number.bit_length():,} bits"


def check_most(what: str, number: int, most: int) -> None:
    """Raise OptionError where a number that `what` states is beyond its bound."""
    if number > most:
        raise OptionError(f"{what} {shown(number)} is more than {most:,}; give a smaller number")


def check_config(config: Config) -> Config:
    """Return a network's config; raise ValueError where a number or a product of them is beyond its bound."""
    numbers = {key: value for key, value in config.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    for key, value in numbers.items():
        if abs(value) > (most := CONFIG_KEYS.get(key, CONFIG)):
            raise ValueError(f"{key} = {shown(value)} is too large, at most {most:,}")
    hidden, blocks = numbers.get("hidden", 1), sum(numbers.get(key, 0) for key in ("depth", "double", "single"))
    if hidden * hidden * blocks > BLOCK_WEIGHTS:
        raise ValueError(f"hidden {hidden} squared times {blocks} blocks is more than {BLOCK_WEIGHTS:,}, such a network is not built here")
    positions = (numbers.get("size", 1) / max(1, numbers.get("patch", 1))) ** 2
    if hidden * max(positions, numbers.get("classes", 1)) > TABLE_WEIGHTS:
        raise ValueError(
            f"hidden {hidden} times {max(positions, numbers.get('classes', 1)):,.0f} table rows is more than {TABLE_WEIGHTS:,}"
        )
    return config
