"""Registration of a pipeline of diffusers that is run as it is.

The folder is checked, its files are hashed, and the pipeline generates trial images: one of them
three times, alone, again, and after another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from harope_bench.core import registry
from harope_bench.core.device import require_device
from harope_bench.core.errors import BenchError, GeneratorOutputError, OptionError
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import REPEATABLE_KEY, Checkpoint, Request, Settings
from harope_bench.core.storage import write_text
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import AdapterBackbone, ImageGenerator, load_backbone
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.load_checkpoint import group_pipeline_options, load_checkpoint_record
from harope_bench.models.pipeline_manifest import BACKBONE, describe_pipeline

if TYPE_CHECKING:
    from harope_bench.models.backbones.pipeline_call import PipelineCall

NOT_CHECKED = "repeatability not checked"  # in the source of a checkpoint without trial images
ENCODING = "none"  # encoding of a checkpoint that is run as it is
# Sides of the trial images in pixels: the next one where a pipeline rejects the one before, as
# HunyuanDiT, which generates the nearest of its own sizes, does with all below 1,024.
TRIAL_SIDES = (64, 512, 1024)
TRIAL_STEPS = 2
TRIAL_PROMPTS = ("a photo of a cat", "a photo of a dog")
# Fields of a checkpoint that do not apply to a pipeline that is run as it is, and why.
REJECTED_FIELDS = {
    "encoding": "its encoding is not replaced",
    "options": "its encoding is not replaced",
    "sampler": "it has a scheduler of its own",
}


class Trial(NamedTuple):
    """Where the trial images of a registration are generated.

    Attributes:
        device, dtype: Device and precision. None as precision takes the checkpoint's.
        is_skipped: Whether no trial image is generated.
    """

    device: str = "cpu"
    dtype: str | None = None
    is_skipped: bool = False


def has_own_backbone(folder: Path) -> bool:
    """Return whether a backbone can replace the encoding of a pipeline, as for FLUX.1 and SD3."""
    index_path = folder / lora_manifest.PIPELINE_INDEX
    if not index_path.is_file():  # a modular pipeline
        return False
    class_name = lora_manifest.read_json_object(index_path).get("_class_name")
    for name in registry.list_names("backbones"):
        backbone = load_backbone(name)
        if isinstance(backbone, AdapterBackbone) and backbone.pipeline_class_name == class_name:
            return True
    return False


class PreparedPipeline(NamedTuple):
    """A checked pipeline: its manifest's path, and the fields of its checkpoint."""

    manifest: Path
    fields: CheckpointFields


def prepare_pipeline(
    scratch: Path, folder: Path, title: str, user_fields: CheckpointFields
) -> PreparedPipeline:
    """Check a pipeline's folder and the user's fields, and write the manifest into `scratch`.

    Args:
        title: Hub id, or the name of the folder.

    Raises:
        WeightsError, MissingExtraError: The pipeline cannot be run as it is.
        OptionError: The user states a field or an option that does not apply.
    """
    from harope_bench.models.backbones.pipeline_call import PipelineCall
    from harope_bench.models.pipeline_checks import check_pipeline

    call = PipelineCall(check_pipeline(folder))
    fields = _pipeline_fields(call, folder, user_fields)
    manifest = describe_pipeline(folder, title, call.class_name)
    path = scratch / lora_manifest.MANIFEST
    write_text(path, manifest.to_json(indent=1) + "\n")
    return PreparedPipeline(path, fields)


def _pipeline_fields(
    call: PipelineCall, folder: Path, user_fields: CheckpointFields
) -> CheckpointFields:
    """Return the fields of a pipeline's checkpoint: what the user states, else its defaults.

    Raises:
        OptionError: The user states a field or an option that does not apply.
    """
    from harope_bench.models.backbones.diffusers import CLASS_KEY

    if user_fields.get("backbone", BACKBONE) != BACKBONE:
        raise OptionError(
            f"a {call.class_name} is run by backbone {BACKBONE}, not {user_fields['backbone']};"
            " leave --backbone out"
        )
    for field, reason in REJECTED_FIELDS.items():
        if field in user_fields:
            raise OptionError(
                f"--{field.removesuffix('s')} does not apply to a {call.class_name}, which is run"
                f" as it is: {reason}; leave it out"
            )
    unknown_sizes = user_fields.get("config", {}).keys() - {"base"}
    if unknown_sizes:
        raise OptionError(
            f"--config {min(unknown_sizes)} does not apply to a {call.class_name}, whose sizes are"
            " in its files; leave it out"
        )

    defaults: CheckpointFields = {}
    steps = call.default_number("num_inference_steps")
    if steps is not None:
        defaults["steps"] = int(steps)
    guidance = call.default_number("guidance_scale")
    if guidance is not None:
        defaults["guidance"] = float(guidance)
    fields: CheckpointFields = {**defaults, **user_fields}
    fields["backbone"] = BACKBONE
    fields["encoding"] = ENCODING
    fields["config"] = {"base": str(folder.absolute()), CLASS_KEY: call.class_name}
    fields["drawing"] = _checked_options(call, user_fields.get("drawing", {}))
    return fields


def _checked_options(call: PipelineCall, drawing: Mapping[str, Option]) -> dict[str, Option]:
    """Return default settings, those of the pipeline's call checked; OptionError names a wrong
    one.
    """
    from harope_bench.models.backbones.diffusers import check_pipeline_option

    return {
        name: value if name in Settings.model_fields else check_pipeline_option(call, name, value)
        for name, value in drawing.items()
    }


def registered_result(checkpoint: Checkpoint) -> bool | None:
    """Return whether the same checkpoint was found repeatable when it was registered before.

    Returns:
        None if no checkpoint with this name and these settings is registered.
    """
    if checkpoint.name not in registry.list_entries("checkpoints"):
        return None
    try:
        stored_checkpoint = load_checkpoint_record(checkpoint.name)
    except BenchError:
        return None
    config = {k: v for k, v in stored_checkpoint.config.items() if k != REPEATABLE_KEY}
    update = {"config": config, "weights": checkpoint.weights, "source": checkpoint.source}
    if (
        stored_checkpoint.model_copy(update=update) != checkpoint
        or NOT_CHECKED in stored_checkpoint.source
    ):
        return None
    return stored_checkpoint.is_repeatable


def with_trial(checkpoint: Checkpoint, manifest: Path, trial: Trial) -> Checkpoint:
    """Return the checkpoint with the result of its trial images.

    Args:
        manifest: The manifest's path.

    Raises:
        BenchError: The pipeline does not load or generates no image.
    """
    settings = trial_settings(checkpoint, trial, TRIAL_SIDES[0])
    load_backbone(BACKBONE).resolve_settings(checkpoint, settings)
    if trial.is_skipped:
        return checkpoint.model_copy(update={"source": f"{checkpoint.source} ({NOT_CHECKED})"})
    is_repeatable = registered_result(checkpoint)
    if is_repeatable is None:
        is_repeatable = generates_equal_images(checkpoint, manifest, trial)
    if is_repeatable:
        return checkpoint
    config: dict[str, Option] = {**checkpoint.config, REPEATABLE_KEY: False}
    return checkpoint.model_copy(update={"config": config})


def generates_equal_images(checkpoint: Checkpoint, manifest: Path, trial: Trial) -> bool:
    """Return whether one request gives the same bits again, and again after another request."""
    from harope_bench.models.backbones.diffusers import DiffusersPipelineBackbone

    backbone = registry.require_kind(
        load_backbone(BACKBONE), DiffusersPipelineBackbone, "backbone diffusers was replaced"
    )
    require_device(trial.device)
    generator = None
    for side in TRIAL_SIDES:
        settings = trial_settings(checkpoint, trial, side)
        backbone.check_inputs(checkpoint, settings)
        settings = backbone.resolve_settings(checkpoint, settings)
        generator = generator or backbone.open_folder(checkpoint, manifest, settings)
        try:
            return _is_repeatable(generator, settings)
        except (GeneratorOutputError, OptionError):
            if side == TRIAL_SIDES[-1]:
                raise
    raise AssertionError("every side returns or raises")


def _is_repeatable(generator: ImageGenerator, settings: Settings) -> bool:
    """Return whether the first request gives the same bits again, and again after the second."""
    requests = [Request(index=i, prompt=prompt) for i, prompt in enumerate(TRIAL_PROMPTS)]
    order = (requests[0], requests[0], requests[1], requests[0])
    images = [generator.generate([request], settings).images.tobytes() for request in order]
    return images[0] == images[1] == images[3]


def trial_settings(checkpoint: Checkpoint, trial: Trial, side: int) -> Settings:
    """Return the settings of the trial images, with few steps.

    Raises:
        OptionError: The device or the precision of the trial is none.
    """
    values = {
        **checkpoint.drawing,
        "resolution": side,
        "steps": None if checkpoint.steps is None else min(checkpoint.steps, TRIAL_STEPS),
        "guidance": checkpoint.guidance,
        "tile": 1,
        "device": trial.device,
    }
    if trial.dtype is not None:
        values["dtype"] = trial.dtype
    try:
        return Settings.model_validate(group_pipeline_options(values))
    except ValidationError as error:
        raise OptionError(
            f"trial images: {validation_summary(error)}; give another value"
        ) from error


def repeatability_text(checkpoint: Checkpoint) -> str:
    """Return whether one request gives one image, in words."""
    if NOT_CHECKED in checkpoint.source:
        return f"{NOT_CHECKED}: no trial image was generated"
    if not checkpoint.is_repeatable:
        return "not repeatable: one request gave different images at registration"
    return "repeatable: a trial image again, and again after another one, had the same bits"
