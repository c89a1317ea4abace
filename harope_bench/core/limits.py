"""Upper bounds of the numbers that a small file or a short option states and that cost memory or
time; each is named in its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from harope_bench.core.errors import OptionError

Config = TypeVar("Config", bound=Mapping[str, object])

MAX_RESOLUTION = 8192  # pixels of a side
MAX_STEPS = 10_000  # of a sampler
MAX_GUIDANCE = 1_000.0
MAX_SEED = 2**63 - 1  # of a torch generator
MAX_PADDED_BATCH_SIZE = 4096  # images of one padded batch
MAX_PADDED_BATCH_PIXELS = 2**28  # pixels of one padded batch: 3 GB of float32 RGB
MAX_THREADS = 256
MAX_TRAINING_BATCH_SIZE = 65_536  # images of one training step
MAX_TRAINING_STEPS = 100_000_000
MAX_SCENES = 1_000_000  # rendered scenes, held in memory
MAX_REFERENCE_IMAGES = 1_000_000  # real images kept in a reference
MAX_ATTENTION_IMAGES = 10_000  # requests or pictures whose attention is measured

MAX_CONFIG_NUMBER = 1_000_000  # any number of a network's config
# By key of a network's config; what is not here is held to CONFIG.
MAX_CONFIG_NUMBERS: Mapping[str, int] = {
    "hidden": 16_384,
    "depth": 512,
    "double": 512,
    "single": 512,
    "heads": 1_024,
    "patch": 1_024,
    "size": MAX_RESOLUTION,
    "channels": 1_024,
    "classes": 100_000,
    "places": 4_096,
}
MAX_BLOCK_WEIGHTS = 2**28  # hidden squared times blocks: about 5 billion weights in DiT's blocks
MAX_TABLE_WEIGHTS = 2**28  # hidden times classes or positions


def format_bound(number: float) -> str:
    """Return a number for a message; an integer of very many digits by how many bits it has."""
    if isinstance(number, float):
        return f"{number:g}"
    return (
        f"{number:,}" if number.bit_length() <= 128 else f"a number of {number.bit_length():,} bits"
    )


def check_maximum(option_name: str, number: int, maximum: int) -> None:
    """Raise OptionError where a number that `what` states is beyond its bound."""
    if number > maximum:
        raise OptionError(
            f"{option_name} {format_bound(number)} is more than {maximum:,}; give a smaller number"
        )


def check_config(config: Config) -> Config:
    """Return a network's config; raise ValueError where a number or a product of them is beyond its
    bound.
    """
    numbers = {
        key: value
        for key, value in config.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for key, value in numbers.items():
        if abs(value) > (most := MAX_CONFIG_NUMBERS.get(key, MAX_CONFIG_NUMBER)):
            raise ValueError(f"{key} = {format_bound(value)} is too large, at most {most:,}")
    hidden = numbers.get("hidden", 1)
    blocks = sum(numbers.get(key, 0) for key in ("depth", "double", "single"))
    if hidden * hidden * blocks > MAX_BLOCK_WEIGHTS:
        raise ValueError(
            f"hidden {hidden} squared times {blocks} blocks is more than {MAX_BLOCK_WEIGHTS:,},"
            " such a network is not built here"
        )
    positions = (numbers.get("size", 1) / max(1, numbers.get("patch", 1))) ** 2
    if hidden * max(positions, numbers.get("classes", 1)) > MAX_TABLE_WEIGHTS:
        raise ValueError(
            f"hidden {hidden} times {max(positions, numbers.get('classes', 1)):,.0f} table rows is"
            f" more than {MAX_TABLE_WEIGHTS:,}"
        )
    return config
