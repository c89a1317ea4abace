"""Image generation: a plan in, a run folder out, padded batch by padded batch.

This module knows no model and no metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from harope_bench.core.conditioning import (
    backbone_conditioning,
    check_checkpoint_suite,
    check_requests,
    compatible_suites,
)
from harope_bench.core.device import device_type, require_device, tf32_products
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MAX_INDICES, IndexRanges, group_by_padded_batch
from harope_bench.core.limits import check_maximum
from harope_bench.core.progress import Progress, write_line
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import Checkpoint, Plan, Request, Settings
from harope_bench.core.shard import Shard
from harope_bench.core.storage import sha256_bytes
from harope_bench.core.threaded_work import OrderedWriter, waiting_limit
from harope_bench.data.run_claim import RunPart, claim_run
from harope_bench.data.run_folder import EncodedSample, RunFolder, encode_sample
from harope_bench.models.backbones.base import ImageGenerator, load_backbone
from harope_bench.models.load_checkpoint import (
    SettingValue,
    check_settings,
    check_weights_file,
    drop_neutral_settings,
    group_pipeline_options,
    load_checkpoint_record,
    open_generator,
)
from harope_bench.models.samplers.base import (
    SAMPLER_OPTIONS,
    load_sampler,
    load_settings_sampler,
)
from harope_bench.pipeline.stored_requests import check_stored_requests
from harope_bench.pipeline.workers import (
    Executor,
    SerialExecutor,
    Task,
    current_executor,
    run_units,
)
from harope_bench.suites.base import Suite, load_suite

MAX_PART_NAME = 60  # characters of the indices in the name of a part
# What another process generates in one go: so many seconds of work, and no more images than fit
# beside each other in memory.
SECONDS_PER_PART = 45.0
MAX_IMAGES_PER_PART = 512


@dataclass(frozen=True)
class GenerationSummary:
    """Counts of one call of `generate`."""

    folder: Path
    plan: Plan
    n_requested: int
    n_generated: int
    n_failed: int


def make_plan(name: str, suite: str | None, overrides: Mapping[str, SettingValue]) -> Plan:
    """Return the plan of a checkpoint and a suite.

    Args:
        name: name of a registered checkpoint.
        suite: name of a suite; None takes the checkpoint's default.
        overrides: settings; None values take the checkpoint's defaults.

    Raises:
        UnknownNameError: No such checkpoint or suite.
        OptionError: A setting does not apply. Both are raised before anything is loaded or written.
    """
    checkpoint = load_checkpoint_record(name)
    suite_name = suite or checkpoint.suite
    if suite_name is None:
        raise OptionError(
            f"checkpoint {name} has no default suite; add --suite, one of: {suites_for(checkpoint)}"
        )
    plugin = load_suite(suite_name)
    check_checkpoint_suite(checkpoint, suite_name)
    if backbone_conditioning(checkpoint.backbone, checkpoint.config).kind == "images":
        raise OptionError(
            f"checkpoint {name} (backbone {checkpoint.backbone}) is a classifier and cannot"
            f" generate images; harope-bench eval {name}"
        )

    # Later settings win: defaults, then the preset, then the options of the user.
    backbone = load_backbone(checkpoint.backbone)
    preset_name = _optional_text(overrides.get("preset"))
    explicit = _explicit_settings(checkpoint, overrides)
    preset = preset_settings(suite_name, plugin, preset_name)
    explicit, preset = _drop_unusable_tf32(explicit, preset)
    explicit = drop_neutral_settings(checkpoint, {**preset, **explicit})
    defaults = {
        "resolution": default_resolution(checkpoint, plugin),
        "sampler": checkpoint.sampler,
        "steps": checkpoint.steps,
        "guidance": checkpoint.guidance,
        "tile": backbone.tile,
        **checkpoint.drawing,
    }
    if explicit.get("sampler") not in (None, checkpoint.sampler):
        option_names = load_sampler(str(explicit["sampler"])).option_names
        for name in set(SAMPLER_OPTIONS) - set(option_names):
            defaults.pop(name, None)  # an option of the checkpoint's own sampler
    check_settings(checkpoint, {**defaults, **explicit})
    labels = label_policy(suite_name, plugin, _optional_text(explicit.get("labels")))
    values = group_pipeline_options({**defaults, **explicit, "labels": labels})
    settings = validate_settings(values)

    # Reject what the sampler, the device or the network cannot do.
    settings = _drop_default_spacing(checkpoint, settings)
    require_device(settings.device)
    backbone.check_inputs(checkpoint, settings)
    settings = backbone.resolve_settings(checkpoint, settings)
    return Plan(
        checkpoint=checkpoint,
        suite=suite_name,
        suite_version=plugin.version,
        settings=settings,
        preset=preset_name,
    )


def default_resolution(checkpoint: Checkpoint, suite: Suite) -> int:
    """Return the side in pixels of a checkpoint's images for a suite, if the user names none."""
    if suite.has_exact_resolution or checkpoint.suite is None:
        return suite.resolution
    return load_suite(checkpoint.suite).resolution


def _explicit_settings(
    checkpoint: Checkpoint, overrides: Mapping[str, SettingValue]
) -> dict[str, SettingValue]:
    """Return the settings that the user gave, without the preset."""
    settings: dict[str, SettingValue] = {
        field: value
        for field, value in overrides.items()
        if value is not None and field != "preset"
    }
    # `none` means no scaling, which is the default unless the checkpoint has one.
    if settings.get("pos_scaling") == "none" and "pos_scaling" not in checkpoint.drawing:
        del settings["pos_scaling"]
    return settings


def _drop_unusable_tf32(
    explicit: Mapping[str, SettingValue], preset: Mapping[str, Option]
) -> tuple[dict[str, SettingValue], dict[str, Option]]:
    """Return the settings without a `tf32` that changes nothing.

    `--no-tf32` overrides a preset and is not recorded. A preset's `tf32` applies to CUDA alone.

    Raises:
        OptionError: `--tf32` is given for another device.
    """
    remaining = dict(explicit)
    preset_values = dict(preset)
    is_cuda = device_type(str(explicit.get("device", "cpu"))) == "cuda"
    if remaining.get("tf32") and not is_cuda:
        raise OptionError(
            f"--tf32 rounds products on CUDA devices, --device is {explicit.get('device', 'cpu')};"
            " leave --tf32 out"
        )
    if remaining.get("tf32") is False:
        del remaining["tf32"]
        preset_values.pop("tf32", None)
    if not is_cuda:
        preset_values.pop("tf32", None)
    return remaining, preset_values


def validate_settings(values: Mapping[str, object]) -> Settings:
    """Return validated settings; raise OptionError that names the first invalid option."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise OptionError(
            f"{validation_summary(error)}; give --{error.errors()[0]['loc'][0]} another value"
        ) from error


def _optional_text(value: SettingValue) -> str | None:
    return None if value is None else str(value)


def preset_settings(suite: str, plugin: Suite, name: str | None) -> dict[str, Option]:
    """Return the settings of a suite's preset; raise OptionError if it has none of that name."""
    presets = plugin.presets
    if name is not None and name not in presets:
        advice = f"choose one of {', '.join(presets)}" if presets else "leave --preset out"
        raise OptionError(f"suite {suite} has no preset {name!r}; {advice}")
    return dict(presets[name]) if name else {}


def label_policy(suite: str, plugin: Suite, requested_policy: str | None) -> str | None:
    """Return the label policy for the plan; None for a suite that has only one.

    Raises:
        OptionError: A policy is requested of a suite that has only one.
    """
    policy = plugin.label_policy(requested_policy)
    if policy is None and requested_policy is not None:
        raise OptionError(f"suite {suite} leaves no choice of labels; leave --labels out")
    return policy


def _drop_default_spacing(checkpoint: Checkpoint, settings: Settings) -> Settings:
    """Return the settings without a spacing that is the sampler's default.

    Raises:
        OptionError: The checkpoint lacks a setting that sampling needs, or the sampler needs
            another prediction type than the checkpoint's.
    """
    supported_fields = (
        load_backbone(checkpoint.backbone).supported_settings(checkpoint).setting_names
    )
    if "sampler" not in supported_fields:  # a pipeline with a scheduler of its own
        return settings
    values = {"sampler": settings.sampler, "steps": settings.steps, "guidance": settings.guidance}
    missing = [
        field for field, value in values.items() if field in supported_fields and value is None
    ]
    default_name = checkpoint.sampler
    if missing or default_name is None or settings.sampler is None or settings.steps is None:
        raise OptionError(
            f"checkpoint {checkpoint.name} does not record its {(missing or ['sampler'])[0]};"
            " register it with one"
        )

    sampler = load_sampler(settings.sampler)
    default_sampler = load_sampler(default_name)
    load_settings_sampler(settings).check_steps(settings.steps)
    if sampler.prediction_type != default_sampler.prediction_type:
        raise OptionError(
            f"the checkpoint predicts {default_sampler.prediction_type} (sampler {default_name}),"
            f" {settings.sampler} needs {sampler.prediction_type}; leave --sampler out"
        )
    if settings.spacing is not None and settings.spacing == sampler.spacings[0]:
        return settings.model_copy(update={"spacing": None})
    return settings


def suites_for(checkpoint: Checkpoint) -> str:
    """Return the names of the suites that fit the checkpoint's conditioning, as one line."""
    conditioning = backbone_conditioning(checkpoint.backbone, checkpoint.config)
    names = compatible_suites(conditioning)
    return ", ".join(names) or "no registered suite fits it"


def requested_indices(suite: str, count: int | None) -> IndexRanges:
    """Return the first `count` indices of a suite, all of them if None."""
    return IndexRanges.from_count(count or load_suite(suite).count)


def generate(
    plan: Plan,
    indices: Sequence[int],
    out: Path,
    batch: int | None = None,
    generator: ImageGenerator | None = None,
    open_network: Callable[[Checkpoint, Settings], ImageGenerator] = open_generator,
    part: RunPart | None = None,
) -> GenerationSummary:
    """Generate the missing samples of `indices` into a run folder; a complete folder is unchanged.

    Args:
        batch: samples between two writes, rounded up to whole padded batches. It changes no pixel.
        generator: the plan's generator if it is in memory; None opens the plan's checkpoint.
        open_network: opens a checkpoint; called only if samples are missing.
        part: the part of a shared run that has these indices. Its records stay in a folder of its
            own until the whole run is written, or `finalize_last_part` is called.

    Raises:
        RunBusyError: Another process writes the folder, or these samples.
        PlanMismatchError: The folder belongs to another plan, or the suite changed its requests.
        WeightsError: The weights are missing, altered or do not fit.
        OptionError: More than MAX_INDICES samples.
    """
    check_maximum("a request of samples:", len(indices), MAX_INDICES)
    indices = IndexRanges.from_indices(indices)
    with claim_run(out, part):
        run = RunFolder(out, part=part)
        n_generated = _generate_missing(plan, indices, run, batch, generator, open_network)
    records = RunFolder(out).read_records()
    failed_count = sum(records[i].status == "failed" for i in indices)
    return GenerationSummary(out, plan, len(indices), n_generated, failed_count)


def _generate_missing(
    plan: Plan,
    indices: IndexRanges,
    run: RunFolder,
    batch: int | None,
    generator: ImageGenerator | None,
    open_network: Callable[[Checkpoint, Settings], ImageGenerator],
) -> int:
    """Generate the missing samples of `indices`; return their number."""
    check_checkpoint_suite(plan.checkpoint, plan.suite)
    if generator is None:
        check_weights_file(plan.checkpoint)
    requests = missing_requests(plan, indices, run)
    if run.plan is not None:
        run.tie_to_plan(plan)  # a folder of another plan is rejected before a network is loaded
    if requests and generator is None and isinstance(current_executor(), SerialExecutor):
        generator = open_network(plan.checkpoint, plan.settings)

    # Nothing is written above this line: an error leaves no folder behind.
    run.tie_to_plan(plan)
    requests = missing_requests(plan, indices, run)  # another process may have generated some
    run.record_request(indices if run.part is None else run.part.requested_indices)
    if requests:
        _generate_tiles(run, plan, requests, batch or plan.settings.tile, generator)
    # An interruption may fall between the last image and this.
    if run.part is None and (requests or not run.is_final):
        run.finalize_records()
    return len(requests)


def indices_part(indices: Sequence[int]) -> RunPart:
    """Return the part of a run that has these indices and requests no others (`--indices`)."""
    index_ranges = IndexRanges.from_indices(indices)
    text = str(index_ranges)
    name = text if len(text) <= MAX_PART_NAME else sha256_bytes(text.encode())[:16]
    return RunPart(f"indices-{name}", index_ranges, index_ranges)


def shard_part(shard: Shard, indices: Sequence[int], tile: int) -> RunPart:
    """Return the part of a run that a shard has: whole padded batches of these indices."""
    requested_indices = IndexRanges.from_indices(indices)
    return RunPart(shard.name, shard.take_batches(requested_indices, tile), requested_indices)


def missing_requests(plan: Plan, indices: Sequence[int], run: RunFolder) -> dict[int, Request]:
    """Return the requests of `indices` that the run folder has no sample of, by index.

    Raises:
        OptionError: The suite has no such sample, or the network cannot generate it.
        MissingAssetError: The suite's prompts are not fetched.
        PlanMismatchError: The folder's samples of this plan have other labels or prompts than the
            suite requests now.
    """
    records = run.read_records()
    folder_plan = run.plan
    if folder_plan is not None and folder_plan.digest == plan.digest:
        check_stored_requests(plan, run.folder, records)
    missing_indices = run.missing_indices(indices, records)
    return {r.index: r for r in _requests(plan, missing_indices)} if missing_indices else {}


def _requests(plan: Plan, indices: Sequence[int]) -> list[Request]:
    """Return the suite's requests of these indices.

    Raises:
        OptionError: The checkpoint's network cannot generate one of them.
    """
    requests = load_suite(plan.suite).requests(indices, plan.settings)
    check_requests(plan.checkpoint, requests)
    return requests


def _generate_tiles(
    run: RunFolder,
    plan: Plan,
    requests: Mapping[int, Request],
    batch: int,
    generator: ImageGenerator | None,
) -> None:
    """Generate the requests in padded batches, and write every `batch` images.

    Threads encode and write images while the network generates the next ones.

    Args:
        requests: Requests by index.
        generator: Loaded generator of the plan's checkpoint; None to load it.
    """
    write_line(describe_generation(plan))
    tiles = [
        [requests[i] for i in indices]
        for indices in group_by_padded_batch([*requests], plan.settings.tile)
    ]
    names = [f"samples {tile[0].index}-{tile[-1].index}" for tile in tiles]
    variables = load_backbone(plan.checkpoint.backbone).environment_variables(plan.checkpoint)
    task = Task("generate", {"plan": plan}, plan.settings.device, variables)
    executor = current_executor()
    if generator is not None:
        executor = SerialExecutor(GenerationWorker(plan, generator))
    if executor.device_warnings():
        run.add_warnings(executor.device_warnings())
    n_tiles = MAX_IMAGES_PER_PART // plan.settings.tile
    title = f"generate {plan.checkpoint.name} on {plan.settings.device}"
    with Progress(title, len(requests), "image") as progress:

        def store(sample: EncodedSample) -> None:
            run.add_sample(sample)
            progress.advance()

        n_waiting = waiting_limit(3 * plan.settings.resolution**2, minimum=2)
        with OrderedWriter(encode_image, store, n_waiting) as writer:
            pending_images: list[GeneratedImage | EncodedSample] = []
            results = run_units(task, tiles, names, n_tiles, executor, SECONDS_PER_PART)
            try:
                for _, tile_images in results:
                    pending_images += tile_images
                    if len(pending_images) >= batch:
                        submit_all(writer, pending_images)
                        pending_images = []
            finally:  # what was generated before an error is stored, too
                submit_all(writer, pending_images)


class GenerationWorker:
    """Generates the images of padded batches; a worker of `run_units`."""

    def __init__(self, plan: Plan, generator: ImageGenerator | None = None) -> None:
        """Load the plan's checkpoint, unless its generator is given."""
        self._settings = plan.settings
        self._generator = generator or open_generator(plan.checkpoint, plan.settings)

    def results(self, units: Iterable[Sequence[Request]]) -> Iterator[list[GeneratedImage]]:
        """Yield the images of each padded batch."""
        for requests in units:
            yield _generate_tile(self._generator, requests, self._settings)

    def pack(self, result: Sequence[GeneratedImage]) -> list[EncodedSample]:
        """Return the images as they are stored, which is smaller."""
        return [encode_image(image) for image in result]


def submit_all(
    writer: OrderedWriter[GeneratedImage | EncodedSample, EncodedSample],
    images: Sequence[GeneratedImage | EncodedSample],
) -> None:
    """Hand images to the writer; it raises the error of an image that could not be written."""
    for image in images:
        writer.submit(image)


def encode_image(generated: GeneratedImage | EncodedSample) -> EncodedSample:
    """Return a generated image as the run folder stores it; another process may have done so."""
    if isinstance(generated, EncodedSample):
        return generated
    return encode_sample(generated.request, generated.image, generated.reason)


def describe_generation(plan: Plan) -> str:
    """Return checkpoint, suite and settings in one line; it marks the checkpoint's defaults.

    Of an endpoint the line has the address in place of precision and device.
    """
    settings = plan.settings
    checkpoint = plan.checkpoint
    values = [
        ("", settings.sampler, checkpoint.sampler),
        ("steps ", settings.steps, checkpoint.steps),
        ("guidance ", settings.guidance, checkpoint.guidance),
    ]
    texts = [
        f"{name}{value}{' (from the checkpoint)' if value == default else ''}"
        for name, value, default in values
        if value is not None
    ]
    side = settings.resolution
    texts += [f"{side} x {side} px", f"seed {settings.seed}"]
    if checkpoint.has_known_weights:
        dtype = f"{settings.dtype} with TF32 products" if settings.tf32 else settings.dtype
        texts += [dtype, settings.device]
        texts += [] if checkpoint.is_repeatable else ["not repeatable"]
    else:
        texts.append(checkpoint.weights_text)
    return f"{checkpoint.name}, suite {plan.suite}: {', '.join(texts)}"


class GeneratedImage(NamedTuple):
    """A request with its image (H, W, 3) uint8, or with the reason why generation failed."""

    request: Request
    image: np.ndarray | None
    reason: str | None


def _generate_tile(
    generator: ImageGenerator, requests: Sequence[Request], settings: Settings
) -> list[GeneratedImage]:
    """Generate one padded batch of `settings.tile` rows.

    Every batch has the same size, and index i is always in row i % tile. So an image has the same
    bits whatever the other requests are. Rows without a request repeat the first one, and their
    images are dropped.
    """
    rows = [requests[0]] * settings.tile
    for request in requests:
        rows[request.index % settings.tile] = request
    with tf32_products(settings.tf32):
        output = generator.generate(rows, settings)

    generated = []
    for request in requests:
        row = request.index % settings.tile
        reason = output.failures.get(row)
        image = None if reason else output.images[row]  # (H, W, 3)
        generated.append(GeneratedImage(request, image, reason))
    return generated


def generate_again(
    plan: Plan, indices: Sequence[int], executor: Executor | None = None
) -> Iterator[tuple[int, EncodedSample]]:
    """Yield samples of these indices as they would be stored; nothing is written.

    Args:
        executor: The current executor by default.

    Raises:
        WeightsError: The weights are missing, altered or do not fit.
    """
    requests = _requests(plan, indices)
    task = Task("generate", {"plan": plan}, plan.settings.device)
    names = [f"sample {request.index}" for request in requests]
    units = [[request] for request in requests]
    for position, images in run_units(task, units, names, executor=executor):
        for image in images:
            yield requests[position].index, encode_image(image)


def generate_one(generator: ImageGenerator, plan: Plan, index: int) -> np.ndarray | None:
    """Return the image (H, W, 3) uint8 of one index, generated now; None if generation fails."""
    (request,) = _requests(plan, [index])
    (generated,) = _generate_tile(generator, [request], plan.settings)
    return generated.image
