"""Registration of weights that `eval` is given in place of a checkpoint's name.

Everything that the run needs is checked first. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from harope_bench.core.errors import (
    COMMAND_STARTS,
    BenchError,
    MissingExtraError,
    NameClashError,
    OptionError,
    WeightsError,
)
from harope_bench.core.extras import NETWORK_MODULES
from harope_bench.models import lora_manifest
from harope_bench.models.register_checkpoint import (
    find_hub_model,
    is_plain_pipeline,
    register_checkpoint,
    resolve_weights_path,
)
from harope_bench.models.register_pipeline import Trial
from harope_bench.pipeline.eval_options import EvalOptions, required_scoring
from harope_bench.pipeline.requirements import package_requirements, suite_requirements
from harope_bench.pipeline.target import Target, resolve_checkpoint
from harope_bench.pipeline.unmet_requirements import UnmetRequirement, blocking_requirements

PIPELINE_MODULES = (*NETWORK_MODULES, "diffusers", "transformers", "accelerate")


def register_target(
    target: Target, options: EvalOptions, evaluators: Sequence[str] | None, has_images: bool
) -> Target | list[UnmetRequirement]:
    """Register a target's weights and return the target of the checkpoint.

    Args:
        evaluators: Evaluators of images; None for those of the suite.
        has_images: Whether images are evaluated.

    Returns:
        Everything that is missing in place of the target, if anything is. Nothing is then written.

    Raises:
        OptionError: The weights do not state everything that registration needs.
        NameClashError: Another checkpoint has this name.
    """
    assert target.weights is not None
    missing = weights_requirements(target)
    if has_images and target.suite is not None:
        missing += suite_requirements([target.suite], required_scoring(options, evaluators))
    if blocking_requirements(missing):
        return missing

    generation = options.generation
    command = f"harope-bench register NAME --weights {target.weights}"
    try:
        register_checkpoint(
            target.name, target.weights, {}, trial=Trial(generation.device, generation.dtype)
        )
    except NameClashError as error:
        raise NameClashError(
            f"{target.weights} would be registered as {target.name}, which is another checkpoint;"
            f" evaluate that one by its name, or register the weights under another name: {command}"
        ) from error
    except OptionError as error:
        raise OptionError(
            f"{target.weights} does not state everything: {error} (with: {command})"
        ) from error
    return resolve_checkpoint(target.name, options)


def weights_requirements(target: Target) -> list[UnmetRequirement]:
    """Return what keeps a target's weights from being registered; no weights are loaded."""
    assert target.weights is not None
    is_model = find_hub_model(target.weights) is not None
    is_pipeline = is_model or (target.weights / lora_manifest.PIPELINE_INDEX).is_file()
    missing = package_requirements(PIPELINE_MODULES if is_pipeline else NETWORK_MODULES)
    try:
        path = resolve_weights_path(target.weights)
        if not missing and is_plain_pipeline(path):
            from harope_bench.models.pipeline_checks import check_pipeline

            check_pipeline(path)
    except (MissingExtraError, WeightsError) as error:
        missing.insert(0, _requirement(target, error))
    return missing


def _requirement(target: Target, error: BenchError) -> UnmetRequirement:
    is_install = isinstance(error, MissingExtraError) and error.advice.startswith(COMMAND_STARTS)
    area = "extra" if is_install else "checkpoint"
    return UnmetRequirement(area, target.name, error.detail, error.advice)
