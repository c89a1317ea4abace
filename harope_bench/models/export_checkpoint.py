"""Export of a registered checkpoint's weights as one file, with learned matrices folded if
asked.
"""

from __future__ import annotations

import json
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.state_dicts import load_weights, weights_bytes
from harope_bench.core.storage import check_output_path, write_atomically
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import find_weights_path, load_checkpoint_record


def export_checkpoint(name: str, output_path: Path, is_folded: bool, replace: bool = False) -> Path:
    """Write a registered checkpoint's weights as one .safetensors file, and return its path.

    `register` can read the file.

    Args:
        is_folded: Fold the learned matrices into the projections. The file is then a checkpoint
            of the encoding without matrices.
        replace: Write over a file with other contents.

    Raises:
        OptionError: The backbone or the encoding cannot do this, or the target is no
            .safetensors file.
        StorageError: The target has other contents, or is the weights file itself.
        WeightsError: The weights were altered, or the folded network's outputs differ.
    """
    checkpoint = load_checkpoint_record(name)
    if output_path.suffix != ".safetensors":
        raise OptionError(
            f"{output_path} has another suffix than .safetensors; give it that suffix"
        )

    weights = find_weights_path(checkpoint)
    state_dict, changed_fields = load_backbone(checkpoint.backbone).export(
        checkpoint, load_weights(weights, checkpoint.sha256), is_folded
    )
    fields = checkpoint.model_dump(
        mode="json", exclude_none=True, exclude={"name", "weights", "sha256", "source"}
    )
    metadata = {"checkpoint": json.dumps({**fields, **changed_fields}, sort_keys=True)}

    check_output_path(output_path, weights)
    with write_atomically(output_path, replace=replace) as file:
        file.write(weights_bytes(state_dict, metadata))
    return output_path
