"""Generators that exist in this Python process: callables and loaded pipelines."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from pydantic import ValidationError

from harope_bench.api.packages import require_torch
from harope_bench.core import registry
from harope_bench.core.conditioning import suite_conditioning
from harope_bench.core.errors import (
    GeneratorOutputError,
    OptionError,
)
from harope_bench.core.limits import MAX_PADDED_BATCH_SIZE
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.sample_seeds import sample_seed
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.models.backbones import python_generator
from harope_bench.models.backbones.base import GeneratedBatch, ImageGenerator
from harope_bench.models.load_checkpoint import validate_user_name

if TYPE_CHECKING:
    import torch

BACKBONE = "python-generator"
UNSTATED_ENCODING = "unstated"  # encoding of a generator whose author stated none
HASHED_BYTES = 2**26  # bytes of a tensor that are hashed at once


@dataclass(frozen=True)
class GenerationRequest:
    """One image that a Python callable is asked for.

    Attributes:
        index: Index of the sample in its suite.
        label: Class label; None for a suite of prompts.
        prompt: Text; None for a suite of labels.
        seed: Seed of this sample. It depends on the run's seed and the index alone.
        resolution: Side of the image in pixels.
    """

    index: int
    label: int | None
    prompt: str | None
    seed: int
    resolution: int


class SampleGenerators(Sequence["torch.Generator"]):
    """The random generators of a batch, one `torch.Generator` on the CPU for each request.

    They are created when they are first used, so a callable that uses `request.seed` needs no
    torch.
    """

    def __init__(self, seeds: Sequence[int]):
        self._seeds = list(seeds)
        self._generators: dict[int, torch.Generator] = {}

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._seeds)

    @overload
    def __getitem__(self, position: int) -> torch.Generator: ...

    @overload
    def __getitem__(self, position: slice) -> list[torch.Generator]: ...

    def __getitem__(self, position: int | slice) -> torch.Generator | list[torch.Generator]:
        """Return the generator of a request; of a slice, a list of generators.

        Raises:
            MissingExtraError: torch is not installed.
        """
        if isinstance(position, slice):
            return [self._generator(row) for row in range(*position.indices(len(self)))]
        return self._generator(range(len(self))[position])

    def _generator(self, row: int) -> torch.Generator:
        if row not in self._generators:
            require_torch("a random generator (request.seed needs no package)")
            import torch

            self._generators[row] = torch.Generator().manual_seed(self._seeds[row])
        return self._generators[row]


# (requests, generators) -> images (B, H, W, 3) uint8, an array of numpy or a tensor of torch.
ImageCallable = Callable[[Sequence[GenerationRequest], Sequence["torch.Generator"]], object]


@dataclass(frozen=True)
class Generator:
    """A Python callable or a loaded pipeline, with what identifies its images.

    A callable receives requests and one random generator for each of them. It returns images
    (B, H, W, 3) uint8, an array of numpy or a tensor of torch. Row i may depend on requests[i] and
    generators[i] alone. A pipeline is an object of diffusers that is already loaded.

    Name, version, encoding, settings and batch size are part of the plan: a run folder is tied to
    them, and whoever changes the weights or the code states another version.

    Attributes:
        call: The callable or the pipeline.
        name: Name of the checkpoint in results and tables.
        version: Version of weights and code, as a text. A pipeline without one is identified by
            the hash of its weights.
        encoding: Name of its positional encoding, registered ("harope") or your own, for tables;
            None if it is not stated.
        settings: Further settings that decide pixels. A pipeline receives them as arguments of its
            call.
        batch_size: Number of images of one call, which is always full. Rows without a request
            repeat another one and are dropped.

    Examples:
        >>> import numpy as np
        >>> def gray(requests, generators):
        ...     side = requests[0].resolution
        ...     return np.stack([np.full((side, side, 3), r.label, np.uint8) for r in requests])
        >>> Generator(gray, name="gray", version="1").batch_size
        1
    """

    call: Any  # Any: a callable, or a pipeline of a library that may be missing
    name: str
    version: str | None = None
    encoding: str | None = None
    settings: Mapping[str, Option] = field(default_factory=dict)
    batch_size: int = 1

    def __post_init__(self) -> None:
        """Raise OptionError for a name, a version or a setting that no plan can hold."""
        validate_user_name(self.name)
        if self.name in registry.list_entries("checkpoints"):
            raise OptionError(
                f"{self.name} is a registered checkpoint; give the Python generator another name"
            )
        if not self.is_pipeline and not callable(self.call):
            raise OptionError(
                f"generator {self.name} is of type {type(self.call).__name__}; give a callable"
                " (requests, generators) or a diffusers pipeline"
            )
        if not self.is_pipeline and not _takes_two_arguments(self.call):
            raise OptionError(
                f"the callable of generator {self.name} does not take two arguments; define it as"
                " call(requests, generators)"
            )
        if self.version is None and not self.is_pipeline:
            raise OptionError(
                f"generator {self.name} has no version, and code has no hash; give version='1', and"
                " another text whenever its images change"
            )
        is_number = isinstance(self.batch_size, int)
        if not is_number or not 1 <= self.batch_size <= MAX_PADDED_BATCH_SIZE:
            raise OptionError(
                f"batch_size {self.batch_size!r} is not a whole number from 1 to"
                f" {MAX_PADDED_BATCH_SIZE:,}; give another number"
            )
        for key, value in self.settings.items():
            if not isinstance(value, (str, bool, int, float)):
                raise OptionError(
                    f"setting {key!r} of generator {self.name} is of type {type(value).__name__};"
                    " give a text, a number or a boolean"
                )

    @property
    def is_pipeline(self) -> bool:
        """Return whether the generator is a loaded pipeline of diffusers."""
        return is_pipeline(self.call)


def is_pipeline(candidate: object) -> bool:
    """Return whether an object is a pipeline of diffusers; the library is not imported for it."""
    names = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(candidate).__mro__}
    return ("diffusers", "DiffusionPipeline") in names


def as_generator(candidate: object) -> Generator:
    """Return a generator for what a user gave: a Generator or a pipeline.

    Raises:
        OptionError: A callable needs a name and a version, or the object is none of these.
    """
    if isinstance(candidate, Generator):
        return candidate
    if is_pipeline(candidate):
        return Generator(candidate, name=type(candidate).__name__)
    if callable(candidate):
        raise OptionError(
            "a Python callable has no name and no version for its plan; give"
            " harope_bench.Generator(call, name='my-model', version='1')"
        )
    raise OptionError(
        f"{type(candidate).__name__} is no generator; give a checkpoint's name, a"
        " harope_bench.Generator or a diffusers pipeline"
    )


# ------------------------------------------------------------------------- the record in the plan


def generator_record(generator: Generator, suite: str) -> Checkpoint:
    """Return the record that stands for a Python generator in the plan of a suite.

    Raises:
        OptionError: The suite is for classifiers, or a setting is no plain value.
    """
    conditioning = suite_conditioning(suite)
    if conditioning.kind == "images":
        raise OptionError(
            f"suite {suite} is for classifiers, and {generator.name} generates images; choose"
            " another suite"
        )

    version = generator.version or hash_pipeline(generator.call)
    config: dict[str, Option] = {
        python_generator.CONDITIONING_KEY: conditioning.kind,
        python_generator.VERSION_KEY: version,
        python_generator.IS_PIPELINE_KEY: generator.is_pipeline,
    }
    for key, value in generator.settings.items():
        config[python_generator.SETTING_PREFIX + key] = value

    identity = json.dumps([generator.name, version], sort_keys=True)
    kind = "pipeline" if generator.is_pipeline else "callable"
    try:
        return Checkpoint(
            name=generator.name,
            backbone=BACKBONE,
            encoding=generator.encoding or UNSTATED_ENCODING,
            config=config,
            weights="python",
            sha256=hashlib.sha256(identity.encode()).hexdigest(),
            source=f"a Python {kind} passed to harope_bench.generate",
        )
    except ValidationError as error:
        raise OptionError(
            f"generator {generator.name}: {validation_summary(error)}; give another value"
        ) from error


def hash_pipeline(pipeline: Any) -> str:  # Any: a pipeline of diffusers
    """Return the sha256 of a pipeline's classes, configurations and weights.

    Raises:
        OptionError: Weights are not in memory, as after sequential offloading.
    """
    digest = hashlib.sha256(type(pipeline).__name__.encode())
    for name, component in sorted(pipeline.components.items()):
        config = getattr(component, "config", {})
        entries = dict(config) if isinstance(config, Mapping) else vars(config)
        config_fields = {key: value for key, value in entries.items() if not key.startswith("_")}
        config_text = json.dumps(config_fields, sort_keys=True, default=str)
        digest.update(f"{name} {type(component).__name__} {config_text}".encode())
        if hasattr(component, "state_dict") and hasattr(component, "parameters"):
            _hash_tensors(digest, name, component.state_dict())
    return digest.hexdigest()


def _hash_tensors(digest: Any, name: str, tensors: Mapping[str, Any]) -> None:
    """Add names, shapes, dtypes and bytes of a component's tensors to a digest."""
    import torch

    for key in sorted(tensors):
        tensor = tensors[key]
        if tensor.device.type == "meta":
            raise OptionError(
                f"{name}.{key} of the pipeline is not in memory, so it has no hash; give"
                " harope_bench.Generator(pipeline, name=..., version=...)"
            )
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, len(values), HASHED_BYTES):
            digest.update(values[start : start + HASHED_BYTES].cpu().numpy().tobytes())


# --------------------------------------------------------------------------------- its image batch


class PythonImageGenerator(ImageGenerator):
    """The images of a Python callable, as `pipeline.generate` asks for them."""

    def __init__(self, generator: Generator):
        self.generator = generator

    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Return the images of a full batch.

        Raises:
            GeneratorOutputError: The callable returned something else than these images.
        """
        python_requests = [_python_request(request, settings) for request in requests]
        generators = SampleGenerators([request.seed for request in python_requests])
        output = self.generator.call(python_requests, generators)
        shape = (len(requests), settings.resolution, settings.resolution, 3)
        return GeneratedBatch(check_images(output, shape, f"generator {self.generator.name}"), {})


def _takes_two_arguments(call: object) -> bool:
    """Return whether a callable can be called with two positional arguments; True if unknown."""
    if not callable(call):
        return False
    try:
        inspect.signature(call).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin may have no signature
        return True
    return True


def _python_request(request: Request, settings: Settings) -> GenerationRequest:
    seed = sample_seed(settings.seed, request.index)
    return GenerationRequest(
        request.index, request.label, request.prompt, seed, settings.resolution
    )


def check_images(output: object, shape: tuple[int, ...] | None, title: str) -> np.ndarray:
    """Return images (B, H, W, 3) uint8 as an array of numpy.

    Args:
        output: An array of numpy or a tensor of torch.
        shape: The shape that is needed; None accepts any number of square or other images.
        title: What returned the images, for messages.

    Raises:
        GeneratorOutputError: Type, dtype or shape is another.
    """
    shape_text = "(N, H, W, 3)" if shape is None else str(shape)
    advice = f"return uint8 images {shape_text}, numpy or torch"
    array = _as_array(output, title, advice)
    if array.dtype != np.uint8:
        is_float = np.issubdtype(array.dtype, np.floating)
        has_nan = is_float and not np.isfinite(array).all()
        nan_text = " with values that are not finite" if has_nan else ""
        raise GeneratorOutputError(f"{title} returned {array.dtype} values{nan_text}", advice)
    is_wrong = array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape
    if is_wrong or (shape is not None and array.shape != shape):
        raise GeneratorOutputError(f"{title} returned the shape {array.shape}", advice)
    return array


def _as_array(output: object, title: str, advice: str) -> np.ndarray:
    """Return an array or tensor as an array of numpy."""
    if isinstance(output, np.ndarray):
        return output
    is_tensor = type(output).__module__.split(".")[0] == "torch" and hasattr(output, "detach")
    if not is_tensor:
        raise GeneratorOutputError(f"{title} returned {type(output).__name__}", advice)
    tensor: Any = output  # torch is not imported for it
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != "uint8":
        has_nan = bool(tensor.dtype.is_floating_point and not tensor.isfinite().all())
        nan_text = " with values that are not finite" if has_nan else ""
        raise GeneratorOutputError(f"{title} returned {dtype} values{nan_text}", advice)
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


class LoadedPipelineGenerator(ImageGenerator):
    """The images of a loaded pipeline of diffusers."""

    def __init__(self, generator: Generator, suite: str):
        self.generator = generator
        self.parameters = set(inspect.signature(generator.call.__call__).parameters)
        kind = suite_conditioning(suite).kind
        argument = {"prompts": "prompt", "labels": "class_labels"}.get(kind)
        if argument is not None and argument not in self.parameters:
            raise OptionError(
                f"pipeline {type(generator.call).__name__} takes no {argument}, suite {suite} asks"
                f" for {kind}; choose another suite"
            )

    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Return the images of a full batch; a row that is not finite has failed.

        Raises:
            GeneratorOutputError: The pipeline returned images of another number or size.
        """
        seeds = [sample_seed(settings.seed, request.index) for request in requests]
        arguments: dict[str, object] = {
            "prompt": [request.prompt for request in requests],
            "class_labels": [request.label for request in requests],
            "height": settings.resolution,
            "width": settings.resolution,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            **self.generator.settings,
        }
        output = self.generator.call(
            generator=list(SampleGenerators(seeds)),
            output_type="np",
            **{
                key: value
                for key, value in arguments.items()
                if value is not None
                and (key in self.parameters or key in self.generator.settings)
                and not (key == "prompt" and requests[0].prompt is None)
                and not (key == "class_labels" and requests[0].label is None)
            },
        )
        return self._tile(output, requests, settings)

    def _tile(self, output: Any, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Return the pipeline's images (B, H, W, 3) in [0, 1] as uint8."""
        images = np.asarray(output.images, dtype=np.float32)
        shape = (len(requests), settings.resolution, settings.resolution, 3)
        if images.shape != shape:
            raise GeneratorOutputError(
                f"pipeline {self.generator.name} returned the shape {images.shape}, asked for"
                f" {shape}; give another resolution or batch_size"
            )
        failures = {
            row: "the pipeline's output is not finite"
            for row, image in enumerate(images)
            if not np.isfinite(image).all()
        }
        # As diffusers' numpy_to_pil: round(255 x).
        levels = np.nan_to_num(images).clip(0, 1) * 255
        return GeneratedBatch(levels.round().astype(np.uint8), failures)


def open_python_generator(generator: Generator, suite: str) -> ImageGenerator:
    """Return the object that generates the images of a plan.

    Raises:
        OptionError: The pipeline does not take what the suite requests.
    """
    if generator.is_pipeline:
        return LoadedPipelineGenerator(generator, suite)
    return PythonImageGenerator(generator)
