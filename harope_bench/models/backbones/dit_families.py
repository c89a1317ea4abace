"""The families of networks that the DiT backbone runs: their times, outputs and sampling.

Their blocks differ too; `DitConfig.block_layout` says how, and the keys of a file reveal it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.samplers.base import load_sampler

FamilyName = Literal["dit", "sit", "repa", "lightningdit", "jit"]


class Family(NamedTuple):
    """What the networks of a family receive and return.

    Attributes:
        title: Name of the published network.
        time: The time that the network receives: "step" from 0 (image) to 1000 (noise), or the
            fraction of "noise" or of "data" from 0 to 1.
        output: What the network returns: what its sampler needs, "data-velocity" (image - noise),
            or the "image" itself.
        defaults: Fields of Checkpoint of the published sampling; empty where the sampler is not
            known.
    """

    title: str
    time: Literal["step", "noise", "data"]
    output: Literal["prediction", "data-velocity", "image"]
    defaults: CheckpointFields = {}


# Sampling as published: sample_ddp.py of SiT with the guidance of its paper, README.md of REPA,
# configs/lightningdit_xl_vavae_f16d32.yaml of LightningDiT (whose 250 times are 249 steps, and
# whose shift of 0.3 counts from data to noise) and README.md of JiT.
FAMILIES: dict[FamilyName, Family] = {
    "dit": Family("DiT", "step", "prediction"),
    "sit": Family(
        "SiT", "data", "data-velocity", {"sampler": "flow-sde", "steps": 250, "guidance": 1.5}
    ),
    "repa": Family(
        "REPA",
        "noise",
        "prediction",
        {
            "sampler": "flow-sde",
            "steps": 250,
            "guidance": 1.8,
            "drawing": {"guidance_interval": "0..0.7", "guidance_channels": "all"},
        },
    ),
    "lightningdit": Family(
        "LightningDiT",
        "data",
        "data-velocity",
        {
            "sampler": "flow",
            "steps": 249,
            "guidance": 10.0,
            "drawing": {"guidance_interval": "0..0.89", "shift": 1 / 0.3},
        },
    ),
    "jit": Family(
        "JiT",
        "data",
        "image",
        {
            "sampler": "flow-heun",
            "steps": 50,
            "guidance": 3.0,
            # JiT guides where its time, from noise to image, is above 0.1.
            "drawing": {"guidance_interval": "0..0.8999", "tile": 8},
        },
    ),
}
# Guidance of the larger JiT by depth (LTH14/JiT:README.md): of 256 pixels (L/16, H/16), and of
# those with 512 pixels (L/32, H/32), which start with twice the noise.
JIT_GUIDANCE = {24: 2.4, 32: 2.2}
JIT_LARGE_SIZE = 512
JIT_LARGE_GUIDANCE = {24: 2.5, 32: 2.3}


def family_defaults(
    config: Mapping[str, Option], user_fields: CheckpointFields
) -> CheckpointFields:
    """Return the published sampling of a network's family.

    Args:
        config: Sizes of the network.
        user_fields: Fields that the user states. A network without a row for "no label" gets no
            guidance.
    """
    family = config.get("family", "dit")
    if family == "dit":
        return {}
    defaults = FAMILIES[family].defaults.copy() if family in FAMILIES else {}
    if family == "jit":
        is_large = config.get("size") == JIT_LARGE_SIZE
        table = JIT_LARGE_GUIDANCE if is_large else JIT_GUIDANCE
        defaults["guidance"] = table.get(int(config["depth"]), 3.0)
        if is_large and "noise_scale" not in config:
            defaults["config"] = {"noise_scale": 2.0}
    if not config.get("null_label", True):
        defaults["guidance"] = 1.0
    drawing = dict(defaults.get("drawing", {}))
    if user_fields.get("sampler") not in (None, defaults.get("sampler")):
        drawing.pop("shift", None)  # an option of the published sampler
    defaults["drawing"] = drawing
    return defaults


def check_sampler(family: FamilyName, sampler: str | None) -> None:
    """Raise OptionError for a sampler whose prediction the networks of this family do not give."""
    if family == "dit" or sampler is None:
        return
    prediction_type = load_sampler(sampler).prediction_type
    if prediction_type != "velocity":
        raise OptionError(
            f"{FAMILIES[family].title} predicts velocity, sampler {sampler} needs"
            f" {prediction_type}; use flow, flow-heun or flow-sde"
        )
