"""Checks of a pipeline's folder before it is registered; no weights are loaded.

A pipeline is rejected if it does not turn prompts into images, needs code from its folder, is
quantised by a library that is not installed, or lacks files.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harope_bench.core.errors import MissingExtraError, WeightsError
from harope_bench.core.json_file import read_json
from harope_bench.core.record_base import NAME_PATTERN, shorten_text
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.diffusers_networks import import_diffusers
from harope_bench.models.backbones.pipeline_call import PipelineCall
from harope_bench.models.lora_manifest import PIPELINE_INDEX
from harope_bench.models.pipeline_manifest import MODULAR_INDEX

if TYPE_CHECKING:
    from harope_bench.models.backbones.library_types import DiffusersModule, PipelineClass

# Packages that read quantised weights, by the method that a configuration states.
QUANTIZATION_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "quanto": ("optimum",),
    "gguf": ("gguf",),
    "modelopt": ("modelopt",),
    "nvidia_modelopt": ("modelopt",),
    "auto-round": ("auto_round",),
    "compressed-tensors": ("compressed_tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "hqq": ("hqq",),
    "svdquant": ("nunchaku",),
}


class Component(NamedTuple):
    """A component of a pipeline: its name, and its class in a library."""

    name: str
    library: str
    class_name: str


def check_pipeline(folder: Path) -> PipelineClass:
    """Return the class of the pipeline in a folder.

    Raises:
        WeightsError: The pipeline cannot be run as it is. The message names the reason.
        MissingExtraError: diffusers is not installed, or the library of its quantisation.
    """
    index = read_index(folder)
    diffusers = import_diffusers()
    pipeline_class = find_pipeline_class(diffusers, folder, index)
    components = read_components(folder, index)
    check_text_to_image(pipeline_class, folder)
    _check_parts(pipeline_class, {component.name for component in components}, folder)
    for component in components:
        _check_component(diffusers, folder, component)
    return pipeline_class


def read_index(folder: Path) -> dict[str, Any]:  # Any: JSON of the library
    """Return the index of a pipeline; WeightsError for a modular pipeline or none at all."""
    if not (folder / PIPELINE_INDEX).is_file() and (folder / MODULAR_INDEX).is_file():
        raise WeightsError(
            f"{folder} is a modular pipeline ({MODULAR_INDEX}), which is not supported",
            advice=f"give a pipeline with a {PIPELINE_INDEX}",
        )
    return lora_manifest.read_json_object(folder / PIPELINE_INDEX)


def find_pipeline_class(
    diffusers: DiffusersModule, folder: Path, index: Mapping[str, object]
) -> PipelineClass:
    """Return the library's class that an index names.

    Raises:
        WeightsError: The library has no such pipeline, so that it would need code of the folder.
    """
    name = index.get("_class_name")
    # getattr: the library has no types, and the index names a class of it
    pipeline_class = getattr(diffusers, name, None) if isinstance(name, str) else None
    is_pipeline = isinstance(pipeline_class, type) and issubclass(
        pipeline_class, diffusers.DiffusionPipeline
    )
    if not is_pipeline:
        raise WeightsError(
            f"{folder} is a pipeline of the class {shorten_text(str(name), 60)!r}, which diffusers"
            f" {diffusers.__version__} does not have; code of a model's folder is never run",
            advice="give a pipeline of a class of diffusers, or install a newer diffusers",
        )
    return pipeline_class


def read_components(folder: Path, index: Mapping[str, object]) -> list[Component]:
    """Return the components of an index that are not empty.

    Raises:
        WeightsError: An entry is damaged.
    """
    components = []
    for name, entry in sorted(index.items()):
        if not isinstance(entry, list):
            continue  # an option of the pipeline's class
        is_empty = entry == [None, None]  # a component that is left out
        is_valid = is_empty or (len(entry) == 2 and all(isinstance(text, str) for text in entry))
        if not is_valid or not NAME_PATTERN.fullmatch(name):
            raise WeightsError(
                f"{folder / PIPELINE_INDEX} names the component {shorten_text(name, 40)!r} as"
                f" {shorten_text(str(entry), 60)}, wanted [library, class]",
                advice="copy the whole pipeline again",
            )
        if not is_empty:
            components.append(Component(name, entry[0], entry[1]))
    return components


def check_text_to_image(pipeline_class: PipelineClass, folder: Path) -> None:
    """Raise WeightsError unless a pipeline turns one prompt into one image."""
    call = PipelineCall(pipeline_class)
    missing_names = [name for name in ("prompt", "generator", "output_type") if not call.has(name)]
    reason = None
    if missing_names:
        reason = f"it takes no {missing_names[0]}"
    elif call.required_arguments:
        reason = f"it needs {call.required_arguments[0]} beside the prompt"
    elif call.input_arguments and not _is_listed_text_to_image(pipeline_class, call):
        reason = f"it takes {call.input_arguments[0]}"
    if reason:
        raise WeightsError(
            f"{folder} contains a {call.class_name}, which does not turn prompts into images:"
            f" {reason}",
            advice="give a text-to-image pipeline",
        )


def _is_listed_text_to_image(pipeline_class: PipelineClass, call: PipelineCall) -> bool:
    """Return whether the library lists a class that also takes images as text-to-image.

    Its list also has pipelines that need an image for a ControlNet, and pipelines of videos.
    """
    if any(word in name for name in call.input_arguments for word in ("control", "frames")):
        return False
    if "Control" in call.class_name or "Inpaint" in call.class_name:
        return False
    # Imported here: it imports every pipeline of the library.
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    return pipeline_class in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()


def _check_parts(pipeline_class: PipelineClass, names: set[str], folder: Path) -> None:
    """Raise WeightsError if the index lacks a component that the class needs."""
    optional_names = set(pipeline_class._optional_components)
    for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items():
        is_needed = parameter.default is parameter.empty and name not in optional_names
        if is_needed and name not in {"self", "args", "kwargs"} | names:
            raise WeightsError(
                f"{folder} lacks the part {name}, which a {pipeline_class.__name__} needs",
                advice="copy the whole pipeline",
            )


def _check_component(diffusers: DiffusersModule, folder: Path, component: Component) -> None:
    """Raise WeightsError unless a component's class is known and its files are complete."""
    component_class = _component_class(diffusers, folder, component)
    component_folder = folder / component.name
    if not component_folder.is_dir() or not any(component_folder.iterdir()):
        raise WeightsError(
            f"{folder} lacks the part {component.name}: there is no folder {component_folder.name}",
            advice="copy the whole pipeline",
        )
    import torch

    if not issubclass(component_class, torch.nn.Module):
        _reject_own_code(component_folder)
        return
    config = lora_manifest.component_config(folder, component.name)
    _check_quantization(component_folder, config.get("quantization_config"))
    stem = "model" if _is_transformers(component_class) else "diffusion_pytorch_model"
    lora_manifest.check_component_weights(component_folder, stem)


def _reject_own_code(component_folder: Path) -> None:
    """Raise WeightsError if a tokenizer or processor names a class in a file of its folder."""
    for path in sorted(component_folder.glob("*config.json")):
        document = read_json(path)
        if isinstance(document, dict) and "auto_map" in document:
            raise WeightsError(
                f"{path} needs code of its folder (auto_map), which is never run",
                advice="give a pipeline of classes of diffusers and transformers",
            )


def _is_transformers(component_class: type) -> bool:
    """Return whether a class is derived from a model of transformers."""
    return any(
        cls.__module__.startswith("transformers.") and cls.__name__ == "PreTrainedModel"
        for cls in component_class.__mro__
    )


def _component_class(diffusers: DiffusersModule, folder: Path, component: Component) -> type:
    """Return the class of a component.

    Raises:
        WeightsError: It is not of diffusers or transformers, and would need other code.
    """
    import transformers

    modules = {"diffusers": diffusers, "transformers": transformers}
    # The library writes the name of the module of a pipeline for classes that this module has.
    module = modules.get(component.library) or getattr(diffusers.pipelines, component.library, None)
    component_class = getattr(module, component.class_name, None)
    if not isinstance(component_class, type):
        raise WeightsError(
            f"{folder / PIPELINE_INDEX} wants {component.name} from {component.library}"
            f" ({component.class_name}), which neither diffusers {diffusers.__version__} nor"
            f" transformers {transformers.__version__} has; code of a model's folder is never run",
            advice="give a pipeline of their classes, or install newer ones",
        )
    if issubclass(component_class, (diffusers.DiffusionPipeline, diffusers.OnnxRuntimeModel)):
        raise WeightsError(
            f"{folder / PIPELINE_INDEX} wants a whole pipeline or an ONNX model as {component.name}"
            f" ({component.class_name}), whose files are not checked",
            advice="give a pipeline whose parts are networks, tokenizers and schedulers",
        )
    return component_class


def _check_quantization(component_folder: Path, quantization: object) -> None:
    """Raise an error for weights that are quantised by a library that is not installed."""
    if not quantization:
        return
    method = "unknown"
    if isinstance(quantization, dict):
        method = shorten_text(str(quantization.get("quant_method", "unknown")), 40)
    packages = QUANTIZATION_PACKAGES.get(method.removesuffix("_4bit").removesuffix("_8bit"))
    if packages is None:
        raise WeightsError(
            f"{component_folder} is quantised by the method {method!r}, which is not supported",
            advice="give the pipeline in its full precision",
        )
    if not any(importlib.util.find_spec(package) for package in packages):
        raise MissingExtraError(
            f"{component_folder} is quantised by {method}, whose library ({packages[0]}) is not"
            " installed",
            advice="install it, or give the pipeline in its full precision",
        )
