"""Writing a registered checkpoint's weights as one file, as they are or with its learned matrices
folded.
"""

from __future__ import annotations

import json
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.state_dicts import load_weights, weights_bytes
from harope_bench.core.storage import check_output_path, write_atomically
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import load_checkpoint_record, weights_path


def export_checkpoint(name: str, target: Path, folded: bool, replace: bool = False) -> Path:
    """Writes a registered checkpoint's weights as one .safetensors file that `register` reads back,
    and returns its path.

    Args:
        replace: write over a file that holds something else.
        folded: the learned matrices moved into the projections; what is written is a checkpoint of
            the plain encoding.

    Raises:
        OptionError: its backbone or its encoding cannot do that, or the target is no .safetensors.
            StorageError: the target holds
            something else, or is the weights file itself. WeightsError: weights altered, or
            the folded network's outputs differ.
    """
    found = load_checkpoint_record(name)
    if target.suffix != ".safetensors":
        raise OptionError(f"{target} is no .safetensors; give the file that ending")
    state, changed = load_backbone(found.backbone).export(
        found, load_weights(weights_path(found), found.sha256), folded
    )
    facts = found.model_dump(
        mode="json", exclude_none=True, exclude={"name", "weights", "sha256", "source"}
    )
    check_output_path(target, weights_path(found))
    with write_atomically(target, replace=replace) as file:
        file.write(
            weights_bytes(state, {"checkpoint": json.dumps({**facts, **changed}, sort_keys=True)})
        )
    return target
