"""Upper bounds of numbers from options and files that cost memory or time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from harope_bench.core.errors import OptionError

Config = TypeVar("Config", bound=Mapping[str, object])

MAX_RESOLUTION = 8192  # side in pixels
MAX_STEPS = 10_000  # of a sampler
MAX_GUIDANCE = 1_000.0
MAX_SHIFT = 1000.0  # factor of the time shift of flows
MAX_SEED = 2**63 - 1  # the largest seed of a torch generator
MAX_PADDED_BATCH_SIZE = 4096  # images
MAX_PADDED_BATCH_PIXELS = 2**28  # 3 GB of float32 RGB
MAX_THREADS = 256
MAX_TRAINING_BATCH_SIZE = 65_536  # images
MAX_TRAINING_STEPS = 100_000_000
MAX_SCENES = 1_000_000  # rendered scenes that are in memory at once
MAX_REFERENCE_IMAGES = 1_000_000  # real images that are stored in a reference
MAX_ATTENTION_IMAGES = 10_000  # images whose attention is recorded

# Bounds of the sizes in a network's config, by key. Other keys have the bound MAX_CONFIG_NUMBER.
MAX_CONFIG_NUMBER = 1_000_000
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
# hidden squared times the number of blocks; a DiT of this bound has about 5 billion weights.
MAX_BLOCK_WEIGHTS = 2**28
# hidden times the number of classes or positions.
MAX_TABLE_WEIGHTS = 2**28


def format_bound(number: float) -> str:
    """Return a number for a message; a huge integer is described by its number of bits."""
    if isinstance(number, float):
        return f"{number:g}"
    if number.bit_length() <= 128:
        return f"{number:,}"
    return f"a number of {number.bit_length():,} bits"


def check_maximum(option_name: str, number: int, maximum: int) -> None:
    """Raise OptionError if the number of an option is larger than its maximum."""
    if number > maximum:
        raise OptionError(
            f"{option_name} {format_bound(number)} is more than {maximum:,}; give a smaller number"
        )


def validate_config(config: Config) -> Config:
    """Return the config of a network; raise ValueError if the network would be too large.

    Args:
        config: Sizes of the network, by name (MAX_CONFIG_NUMBERS).
    """
    numbers = {
        key: value
        for key, value in config.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for key, value in numbers.items():
        maximum = MAX_CONFIG_NUMBERS.get(key, MAX_CONFIG_NUMBER)
        if abs(value) > maximum:
            raise ValueError(f"{key} = {format_bound(value)} is too large, at most {maximum:,}")

    # The matrices of the transformer blocks.
    hidden = numbers.get("hidden", 1)
    blocks = sum(numbers.get(key, 0) for key in ("depth", "double", "single"))
    if hidden * hidden * blocks > MAX_BLOCK_WEIGHTS:
        raise ValueError(
            f"hidden {hidden} squared times {blocks} blocks is more than {MAX_BLOCK_WEIGHTS:,},"
            " such a network is not built here"
        )

    # The tables of position and class embeddings.
    positions = (numbers.get("size", 1) / max(1, numbers.get("patch", 1))) ** 2
    table_rows = max(positions, numbers.get("classes", 1))
    if hidden * table_rows > MAX_TABLE_WEIGHTS:
        raise ValueError(
            f"hidden {hidden} times {table_rows:,.0f} table rows is more than {MAX_TABLE_WEIGHTS:,}"
        )
    return config
