"""What a training leaves behind: the weights with a note of how they were made, and the checkpoint's TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import sha256_bytes, weights_bytes, write_bytes, write_text
from harope_bench.core.toml_file import facts_text


def write_checkpoint(folder: Path, name: str, average: Mapping[str, Tensor], facts: Mapping[str, Any], source: str) -> Checkpoint:
    """Leaves NAME.safetensors and NAME.toml in the folder; weights are stored as float16 to halve the file.

    The facts travel in the file too: equal keys do not tell qk_mode, heads or the sampler.
    """
    data = weights_bytes({k: v.half() for k, v in average.items()}, {"checkpoint": json.dumps(facts, sort_keys=True)})
    said = {"name": name, **facts, "weights": f"{name}.safetensors", "sha256": sha256_bytes(data), "source": source}
    checkpoint = Checkpoint.model_validate(said)
    write_bytes(folder / checkpoint.weights, data)
    write_text(folder / f"{name}.toml", facts_text("checkpoint", checkpoint.model_dump(mode="json", exclude_none=True)))
    return checkpoint
