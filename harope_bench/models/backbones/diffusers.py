"""Any text-to-image pipeline of diffusers, run as it is.

The pipeline is read from a local folder and has no encoding of this package. Sample i comes from
its own CPU generator, which is passed to the pipeline, and is one call: neither other samples nor
their number change its bits. Steps, guidance and further options are those of the call's signature.
Pipelines whose encoding can be replaced (FLUX.1, SD3) have backbones of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.device import device_type
from harope_bench.core.errors import (
    GeneratorOutputError,
    MissingExtraError,
    OptionError,
    WeightsError,
)
from harope_bench.core.progress import report_step
from harope_bench.core.record_base import Option
from harope_bench.core.sample_seeds import sample_seed
from harope_bench.core.schema import Checkpoint, Request, Settings
from harope_bench.core.storage import first_line
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import (
    DetectedFields,
    GeneratedBatch,
    ImageGenerator,
    ManifestBackbone,
    NetworkDescription,
    SupportedSettings,
)
from harope_bench.models.backbones.diffusers_networks import import_diffusers
from harope_bench.models.backbones.library_types import Pipeline
from harope_bench.models.backbones.network_sizes import DTYPES
from harope_bench.models.backbones.pipeline_call import PipelineCall
from harope_bench.models.backbones.pipeline_messages import missing_weights, quiet_library
from harope_bench.models.pipeline_manifest import check_pipeline_files
from harope_bench.models.samplers.noise import index_generator

if TYPE_CHECKING:
    from torch import Tensor

CLASS_KEY = "pipeline_class"  # field of a checkpoint's config
OFFLOAD = "enable_model_cpu_offload"  # option beside those of the call
CLEAN_CAPTION = "clean_caption"
CAPTION_PACKAGES = (("bs4", "beautifulsoup4"), ("ftfy", "ftfy"))  # module and package
COMMON_SETTINGS = frozenset({"resolution", "seed", "tile", "device", "dtype", "vae_tiling"})


class LibraryPipelineGenerator(ImageGenerator):
    """Generates the images of a pipeline, one call for each."""

    def __init__(self, pipe: Pipeline, name: str):
        self.pipe = pipe
        self.name = name
        self.call = PipelineCall(type(pipe))
        self.printed_texts: set[str] = set()

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Generate the images one by one; an image that is not finite or was hidden has failed."""
        images = []
        failures = {}
        for row, request in enumerate(requests):
            image, reason = self.generate_image(request, settings)
            if reason is not None:
                failures[row] = reason
            images.append(image)
        return GeneratedBatch(np.stack(images), failures)

    def generate_image(self, request: Request, settings: Settings) -> tuple[np.ndarray, str | None]:
        """Return one image (H, W, 3) uint8, and why it failed.

        Raises:
            OptionError: The pipeline rejects the request or the settings.
            GeneratorOutputError: The image has another size than requested.
        """
        try:
            with (
                quiet_library(self.printed_texts),
                seeded_global_generators(settings, request.index),
            ):
                output = self.pipe(**self._arguments(request, settings))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise OptionError(
                f"{self.call.class_name} of {self.name} rejects sample {request.index}:"
                f" {first_line(error)}; give another --resolution or --drawing"
            ) from error
        images = np.asarray(output.images, dtype=np.float32)
        side = settings.resolution
        if images.shape != (1, side, side, 3):
            raise GeneratorOutputError(
                f"{self.call.class_name} of {self.name} returned the shape {images.shape}, wanted"
                f" {(1, side, side, 3)}",
                "give another --resolution, such as a multiple of 64",
            )
        # As diffusers' numpy_to_pil: round(255 x).
        levels = np.nan_to_num(images[0]).clip(0, 1) * 255  # (H, W, 3)
        return levels.round().astype(np.uint8), _failure_reason(output, images)

    def _arguments(self, request: Request, settings: Settings) -> dict[str, object]:
        """Return the arguments of one call."""
        if request.prompt is None:
            raise OptionError(
                f"a text-to-image pipeline needs prompts, request {request.index} has none;"
                " choose another suite"
            )
        arguments: dict[str, object] = {
            "prompt": request.prompt,
            "height": settings.resolution,
            "width": settings.resolution,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "generator": index_generator(settings.seed, request.index),
            "output_type": "np",
        }
        if self.call.has("callback_on_step_end"):
            arguments["callback_on_step_end"] = _step_callback(settings.steps)
        options = {k: v for k, v in (settings.pipeline_options or {}).items() if k != OFFLOAD}
        return {
            **{k: v for k, v in arguments.items() if v is not None and self.call.has(k)},
            **options,
        }


def _failure_reason(output: Any, images: np.ndarray) -> str | None:  # Any: an output of the library
    """Return why an image has failed; None for a usable one."""
    if not np.isfinite(images).all():
        return "the pipeline's output is not finite"
    # getattr: only some pipelines have a safety checker
    if any(getattr(output, "nsfw_content_detected", None) or ()):
        return "the pipeline's safety checker hid the image"
    return None


@contextmanager
def seeded_global_generators(settings: Settings, index: int) -> Iterator[None]:
    """Seed torch's global generators for one sample, and restore them afterwards.

    A pipeline that draws noise from them beside the generator that it was given then depends on the
    sample alone, too.
    """
    devices = [settings.device] if device_type(settings.device) == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sample_seed(settings.seed, index))
        yield


TensorDict = dict[str, "Tensor"]


def _step_callback(steps: int | None) -> Any:  # Any: the library's type of a callback
    """Return the callback that reports a pipeline's finished steps."""

    def report(pipe: object, step: int, timestep: object, tensors: TensorDict) -> TensorDict:
        report_step(step + 1, steps or step + 1)
        return tensors

    return report


class DiffusersPipelineBackbone(ManifestBackbone[Any]):  # Any: no network of this package
    """Pipelines of diffusers that are run as they are."""

    tile = 1
    has_encoding = False
    packages = ("diffusers", "transformers", "accelerate")

    def call(self, checkpoint: Checkpoint) -> PipelineCall:
        """Return the call of a checkpoint's pipeline class.

        Raises:
            WeightsError: The installed diffusers has no such class.
        """
        name = str(checkpoint.config.get(CLASS_KEY))
        library = import_diffusers()
        # getattr: the library has no types, and the checkpoint names a class of it
        pipeline_class = getattr(library, name, None)
        if not isinstance(pipeline_class, type):
            raise WeightsError(
                f"checkpoint {checkpoint.name} is a {name}, which diffusers {library.__version__}"
                " does not have",
                advice="install the diffusers that it was registered with",
            )
        return PipelineCall(pipeline_class)

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the conditioning: prompts of any words."""
        return Conditioning("prompts")

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the settings of every pipeline and the options of this one's call."""
        call = self.call(checkpoint)
        names = {*COMMON_SETTINGS, *call.options, OFFLOAD}
        pipeline = f"{call.class_name} runs as it is"
        reasons = {
            "sampler": f"{pipeline}, with its own scheduler",
            "vae": f"{pipeline}, with its own autoencoder",
            "fold": f"{pipeline}, without an encoding of this package",
            "pos_scaling": f"{pipeline}, without an encoding of this package",
        }
        for setting, argument in (("steps", "num_inference_steps"), ("guidance", "guidance_scale")):
            if call.has(argument):
                names.add(setting)
            else:
                reasons[setting] = f"{call.class_name} takes no {argument}"
        options = ", ".join(sorted({*call.options, OFFLOAD}))
        other_reason = f"{call.class_name} has no such option, it takes {options}"
        return SupportedSettings(frozenset(names), reasons, other_reason)

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return the scheduler, and the side of the training images if the files state it."""
        folder = lora_manifest.find_base_folder(str(checkpoint.config["base"]))
        index = lora_manifest.read_json_object(folder / lora_manifest.PIPELINE_INDEX)
        scheduler = index.get("scheduler")
        name = scheduler[1] if isinstance(scheduler, list) else "its scheduler"
        return NetworkDescription(f"what {name} needs", "prompts", training_side(folder, index))

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return None: a pipeline is a folder, no weights file is one."""
        return None

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> NoReturn:
        """Raise OptionError: a pipeline has no network of this package."""
        raise OptionError(
            "backbone diffusers runs whole pipelines; register the folder or the hub id of one"
        )

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> NoReturn:
        """Raise OptionError: a pipeline is no weights file."""
        self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for options of a wrong type, or an offload without accelerator."""
        self._complete_options(checkpoint, settings)
        if (settings.pipeline_options or {}).get(OFFLOAD) and settings.device == "cpu":
            raise OptionError(
                f"{OFFLOAD} moves components from the CPU to an accelerator, found --device cpu;"
                " give --device cuda or leave it out"
            )

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """Return the settings with the defaults of all options of the call."""
        options = self._complete_options(checkpoint, settings)
        return settings.model_copy(update={"pipeline_options": options})

    def _complete_options(self, checkpoint: Checkpoint, settings: Settings) -> dict[str, Option]:
        """Return the options of the call, checked, with defaults for those that are not stated."""
        call = self.call(checkpoint)
        options = call.default_options()
        for name, value in (settings.pipeline_options or {}).items():
            options[name] = check_pipeline_option(call, name, value)
        _check_caption_cleaning(call, options)
        return options

    def open_folder(
        self, checkpoint: Checkpoint, path: Path, settings: Settings
    ) -> LibraryPipelineGenerator:
        """Return the pipeline of a manifest, whose files' hashes are checked first.

        Raises:
            WeightsError: A file is missing or altered, or the pipeline does not load completely.
        """
        folder = check_pipeline_files(path, checkpoint, has_hashes=True)
        pipe = load_pipeline(folder, str(checkpoint.config[CLASS_KEY]), settings)
        pipe.set_progress_bar_config(disable=True)
        if settings.vae_tiling:
            _enable_tiling(pipe, checkpoint)
        if (settings.pipeline_options or {}).get(OFFLOAD):
            pipe.enable_model_cpu_offload(device=settings.device)
        else:
            pipe.to(settings.device)
        return LibraryPipelineGenerator(pipe, checkpoint.name)


def _check_caption_cleaning(call: PipelineCall, options: Mapping[str, Option]) -> None:
    """Raise MissingExtraError if captions are cleaned and a package for it is not installed.

    The library then leaves captions as they are, so images would depend on the installation.
    """
    if not options.get(CLEAN_CAPTION):
        return
    for module, package in CAPTION_PACKAGES:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(
                f"{CLEAN_CAPTION} of {call.class_name} needs {package}, which is not installed",
                advice=f"pip install {package} (or set --drawing {CLEAN_CAPTION}=false)",
            )


def check_pipeline_option(call: PipelineCall, name: str, value: Option) -> Option:
    """Return the value of an option of the call, or of the offload beside it.

    Raises:
        OptionError: There is no such option, or its value is of another type.
    """
    if name != OFFLOAD:
        return call.check_option(name, value)
    if not isinstance(value, bool):
        raise OptionError(f"{OFFLOAD} wants true or false, found {str(value)[:40]!r}; give one")
    return value


def _enable_tiling(pipe: Pipeline, checkpoint: Checkpoint) -> None:
    """Let the autoencoder decode in tiles; OptionError for a pipeline that cannot."""
    # getattr: autoencoders of some pipelines have other names or no tiles
    enable_tiling = getattr(getattr(pipe, "vae", None), "enable_tiling", None)
    if enable_tiling is None:
        raise OptionError(
            f"the autoencoder of {checkpoint.name} has no tiles; leave --vae-tiling out"
        )
    enable_tiling()


@contextmanager
def no_questions_about_code() -> Iterator[None]:
    """Make transformers raise ValueError where it would ask whether to run code of a folder."""
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def load_pipeline(folder: Path, class_name: str, settings: Settings) -> Pipeline:
    """Return the pipeline of a folder in the settings' dtype, from safetensors alone.

    Code of the folder is never run: `trust_remote_code` keeps its default, false, and a tokenizer
    inside of a processor, for which transformers would ask on the terminal, is an error.

    Raises:
        WeightsError: The pipeline does not load, or a component lacks weights.
    """
    # getattr: the library has no types
    pipeline_class = getattr(import_diffusers(), class_name)
    try:
        with (
            quiet_library(set()),
            torch.random.fork_rng(devices=[]),
            missing_weights() as messages,
            no_questions_about_code(),
        ):
            pipe = pipeline_class.from_pretrained(
                folder, dtype=DTYPES[settings.dtype], local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise WeightsError(
            f"{folder} does not load as a {class_name}: {first_line(error)}",
            advice="copy the whole pipeline again",
        ) from error
    if messages:
        raise WeightsError(
            f"{folder} lacks weights: {' '.join(messages[0].split())[:300]}",
            advice="copy the whole pipeline again",
        )
    return pipe


def training_side(folder: Path, index: Mapping[str, Any]) -> int | None:
    """Return the side of the training images in pixels; None if the files do not state it."""
    network = next((name for name in ("transformer", "unet") if index.get(name)), None)
    if network is None or not index.get("vae"):
        return None
    sample_size = lora_manifest.component_config(folder, network).get("sample_size")
    levels = lora_manifest.component_config(folder, "vae").get("block_out_channels")
    if not isinstance(sample_size, int) or not isinstance(levels, list):
        return None
    return sample_size * int(2 ** (len(levels) - 1))


PLUGIN = DiffusersPipelineBackbone()
