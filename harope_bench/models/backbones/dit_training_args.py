"""Sizes and family that the training arguments in a file state, of DiT and its successors.

Source: facebookresearch/DiT:train.py, willisma/SiT:train.py, sihyun-yu/REPA:train.py and
LTH14/JiT:main_jit.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from harope_bench.core.errors import WeightsError
from harope_bench.core.escaping import printable_line
from harope_bench.core.record_base import Option
from harope_bench.models.backbones.dit_families import FamilyName
from harope_bench.models.backbones.dit_keys import (
    LATENT_CHANNELS,
    MODEL_NAME,
    MODEL_PATCH_SIZES,
    MODEL_SIZES,
)
from harope_bench.models.backbones.latents import VAE_SCALE_FACTOR

# Arguments of the training that this backbone supports, by their names; others change what the
# network predicts.
SUPPORTED_PATHS = {"path_type": ("linear",), "prediction": ("velocity", "v")}


def config_from_training_args(args: Mapping[str, object]) -> dict[str, Option]:
    """Return the sizes that training arguments state: model, side of the images, classes.

    Raises:
        WeightsError: The model is none of this backbone, or was trained for another prediction.
    """
    config: dict[str, Option] = {}
    family: FamilyName = "dit"
    model = args.get("model")
    if model is not None:
        family = _family_of_model(str(model), args)
        config = _sizes_of_model(str(model), family)
    if family != "dit":
        config["family"] = family
    if family in ("sit", "repa"):
        _check_path(args)

    # SiT and DiT name the side image_size, REPA resolution and JiT img_size.
    side = next((args[k] for k in ("image_size", "img_size", "resolution") if k in args), None)
    if isinstance(side, int):
        config["size"] = side if family == "jit" else side // VAE_SCALE_FACTOR
    classes = next((args[k] for k in ("num_classes", "class_num") if k in args), None)
    if isinstance(classes, int):
        config["classes"] = classes
    noise_scale = args.get("noise_scale")
    if family == "jit" and isinstance(noise_scale, (int, float)):
        config["noise_scale"] = float(noise_scale)
    return config


def _family_of_model(model: str, args: Mapping[str, object]) -> FamilyName:
    """Return the family of a model's name; WeightsError for an unknown name.

    REPA trains networks that it names SiT, with arguments of its own.
    """
    match = MODEL_NAME.fullmatch(model)
    if match is None or int(match[3]) not in MODEL_PATCH_SIZES[match[1]]:
        raise WeightsError(unknown_model_message(printable_line(model)))
    if match[1] == "SiT":
        return "repa" if "enc_type" in args or "proj_coeff" in args else "sit"
    families: dict[str, FamilyName] = {"LightningDiT": "lightningdit", "JiT": "jit"}
    return families.get(match[1], "dit")


def _sizes_of_model(model: str, family: FamilyName) -> dict[str, Option]:
    """Return the sizes that a model's name states."""
    match = MODEL_NAME.fullmatch(model)
    assert match is not None  # _family_of_model rejects others
    hidden, layers, heads = MODEL_SIZES[match[2]]
    config: dict[str, Option] = {
        "hidden": hidden,
        "depth": layers,
        "heads": heads,
        "patch": int(match[3]),
    }
    if family == "jit":
        config["channels"] = 3
    elif family != "lightningdit":
        config["channels"] = LATENT_CHANNELS
    return config


def _check_path(args: Mapping[str, object]) -> None:
    """Raise WeightsError for training on another path than the straight one, or for another
    prediction than the velocity.
    """
    for name, supported_values in SUPPORTED_PATHS.items():
        value = args.get(name)
        if value is not None and str(value).lower() not in supported_values:
            raise WeightsError(
                f"the file's args state {name} = {printable_line(str(value))}, which no sampler"
                f" here supports, wanted {supported_values[0]}; give weights trained with that"
            )


def unknown_model_message(model: str) -> str:
    """Return the error message for a training file of another network.

    Args:
        model: Name of the network in the training arguments.
    """
    return (
        f"the file's args name the network {model}, which is not a DiT, SiT, LightningDiT or JiT"
        " of a published size; give weights of one"
    )
