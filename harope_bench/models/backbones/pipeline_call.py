"""The call of a pipeline class of diffusers: which options it takes, and their defaults.

Everything is read from the signature of the class. No weights are loaded.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import NamedTuple

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option, shorten_text
from harope_bench.models.backbones.library_types import PipelineClass

# Arguments that other settings, the suite or this package decide, by what decides them.
DECIDED_ARGUMENTS: Mapping[str, str] = {
    "prompt": "the suite states the prompts",
    "height": "give --resolution",
    "width": "give --resolution",
    "num_inference_steps": "give --steps",
    "guidance_scale": "give --guidance",
    "generator": "give --seed",
    "latents": "give --seed",
    "num_images_per_prompt": "every sample is one image",
    "output_type": "images are stored as PNG",
    "return_dict": "images are stored as PNG",
}
NUMBER_TYPES = (bool, int, float)
OPTION_TYPES = (str, bool, int, float)
TYPE_TEXTS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
# Arguments that turn an image, a video or a sound into another one.
INPUT_WORDS = ("image", "mask", "video", "frames", "audio")


class CallOption(NamedTuple):
    """An option of a pipeline's call.

    Attributes:
        types: Types of its values.
        default: Its default; None if that is no plain value.
    """

    types: tuple[type, ...]
    default: Option | None

    @property
    def type_text(self) -> str:
        """Return the types in words."""
        return " or ".join(TYPE_TEXTS[option_type] for option_type in self.types)


class PipelineCall:
    """The arguments of a pipeline class.

    Attributes:
        class_name: Name of the class.
        parameters: All parameters of the call, by name.
        options: Options that a user may set, by name.
    """

    def __init__(self, pipeline_class: PipelineClass):
        self.class_name: str = pipeline_class.__name__
        self.parameters = dict(inspect.signature(pipeline_class.__call__).parameters)
        self.options = {
            name: option
            for name, parameter in self.parameters.items()
            if name not in DECIDED_ARGUMENTS and (option := _call_option(parameter)) is not None
        }

    def has(self, name: str) -> bool:
        """Return whether the call has an argument of this name."""
        return name in self.parameters

    def default_number(self, name: str) -> int | float | None:
        """Return the default of a number; None if there is none."""
        parameter = self.parameters.get(name)
        default = None if parameter is None else parameter.default
        is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
        return default if is_number else None

    @property
    def required_arguments(self) -> list[str]:
        """Return the arguments without a default, except `self` and the prompt."""
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [
            name
            for name, parameter in self.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in kinds
            and name not in ("self", "prompt")
        ]

    @property
    def input_arguments(self) -> list[str]:
        """Return the arguments that are images, videos or sounds, or state their length."""
        return [
            name
            for name in self.parameters
            if any(word in name.split("_") for word in INPUT_WORDS)
            and not name.startswith(("num_images", "ip_adapter"))
        ]

    def default_options(self) -> dict[str, Option]:
        """Return the defaults of all options that have a plain value."""
        return {
            name: option.default
            for name, option in self.options.items()
            if option.default is not None
        }

    def check_option(self, name: str, value: Option) -> Option:
        """Return the value of an option, a number as a text where the option is a text.

        Raises:
            OptionError: The call has no such option, or the value is of another type.
        """
        if name in DECIDED_ARGUMENTS:
            raise OptionError(
                f"{name} cannot be set by --drawing: {DECIDED_ARGUMENTS[name]}; leave it out"
            )
        option = self.options.get(name)
        if option is None:
            raise OptionError(
                f"{self.class_name} has no option {shorten_text(name, 40)!r}; its options:"
                f" {', '.join(sorted(self.options))}"
            )
        if str in option.types and not set(NUMBER_TYPES) & set(option.types):
            return str(value)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if float in option.types and is_whole:
            return float(value)
        if type(value) not in option.types:
            raise OptionError(
                f"{name} of {self.class_name} wants {option.type_text}, found"
                f" {shorten_text(str(value), 40)!r}; give another value"
            )
        return value


def _call_option(parameter: inspect.Parameter) -> CallOption | None:
    """Return the option of a parameter; None if its values are no texts and no numbers."""
    default = parameter.default
    if isinstance(default, OPTION_TYPES):
        option_types = _option_types(parameter.annotation) or (type(default),)
        return CallOption(option_types, default)
    option_types = _option_types(parameter.annotation)
    if default is not None or not option_types:
        return None
    return CallOption(option_types, None)


def _option_types(annotation: object) -> tuple[type, ...]:
    """Return the types of texts and numbers in an annotation, such as `str | list[str] | None`."""
    if isinstance(annotation, str):
        names = {part.strip() for part in annotation.split("|")}
        return tuple(option_type for option_type in OPTION_TYPES if option_type.__name__ in names)
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if is_union else (annotation,)
    return tuple(option_type for option_type in OPTION_TYPES if option_type in members)
