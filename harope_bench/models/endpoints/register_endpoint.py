"""Registration of an image endpoint: its fields are checked and its canary is generated."""

from __future__ import annotations

import re

from pydantic import ValidationError

from harope_bench.core import registry
from harope_bench.core.conditioning import check_checkpoint_suite
from harope_bench.core.errors import OptionError
from harope_bench.core.limits import MAX_RESOLUTION
from harope_bench.core.plugin_contracts import SuiteContract
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import (
    API_KEY_VARIABLE,
    REPEATABLE_KEY,
    UNKNOWN_SHA256,
    Checkpoint,
)
from harope_bench.models.backbones import images_api
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.endpoints.address import parse_address
from harope_bench.models.endpoints.canary import Canary, generate_canary
from harope_bench.models.endpoints.image_requests import ImageRequest, extra_fields

BACKBONE = "images-api"
UNSTATED_ENCODING = "unstated"
DEFAULT_SIZE = 1024  # pixels of the canary where neither a suite nor the user states a size
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def make_endpoint_checkpoint(name: str, address: str, fields: CheckpointFields) -> Checkpoint:
    """Return the checkpoint of an endpoint, after generating its canary.

    Args:
        address: Address of the server, without credentials.
        fields: Fields that the user states.

    Raises:
        OptionError: A field is missing, unknown or does not apply to an endpoint.
        EndpointError: The endpoint does not answer with images.
    """
    endpoint_address = str(parse_address(address))
    _check_fields(fields)
    config = dict(fields.get("config", {}))
    drawing = dict(fields.get("drawing", {}))
    size = drawing.get("resolution")
    if size is None:
        size = _suite_size(fields.get("suite")) or DEFAULT_SIZE
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_RESOLUTION:
        raise OptionError(
            f"resolution is {size!r}, wanted a whole number of 1 to {MAX_RESOLUTION:,}; correct it"
        )
    checkpoint = _build_checkpoint(
        name, endpoint_address, fields, {**config, images_api.CANARY_SIZE_KEY: size}
    )
    if checkpoint.suite is not None:
        check_checkpoint_suite(checkpoint, checkpoint.suite)

    # Everything is checked by now, so the first request is the first thing that takes time.
    client = images_api.open_client(endpoint_address, config)
    request = ImageRequest(
        model=str(config[images_api.MODEL_KEY]),
        prompt="",
        seed=0,
        side=size,
        extra_fields=extra_fields(checkpoint.steps, checkpoint.guidance, config),
    )
    canary = generate_canary(client, request)
    return checkpoint.model_copy(update={"config": _canary_config(checkpoint.config, canary)})


def endpoint_lines(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the lines that `register` prints of an endpoint."""
    config = checkpoint.config
    steps = "its own steps" if checkpoint.steps is None else f"{checkpoint.steps:,} steps"
    guidance = "its own guidance"
    if checkpoint.guidance is not None:
        guidance = f"guidance {checkpoint.guidance:g}"
    lines = [
        checkpoint.weights_text,
        f"takes prompts; {steps}, {guidance}; encoding {checkpoint.encoding}",
    ]
    if not config[REPEATABLE_KEY]:
        lines.append("not repeatable: the same request gave different images")
    if not config[images_api.FOLLOWS_SEED_KEY]:
        lines.append("ignores seeds: all copies of a prompt are one image")
    image_format = str(config[images_api.FORMAT_KEY])
    if image_format != "PNG":
        lines.append(f"answers with {image_format}, which may be lossy")
    if API_KEY_VARIABLE in config and checkpoint.weights.startswith("http://"):
        lines.append("sends the API key without encryption (http)")
    return tuple(lines)


def _check_fields(fields: CheckpointFields) -> None:
    """Raise OptionError for a field that is missing, unknown or does not apply."""
    if fields.get("backbone", BACKBONE) != BACKBONE:
        raise OptionError(
            f"backbone {fields['backbone']} reads a weights file, found an address; give --backbone"
            f" {BACKBONE} or a file"
        )
    for field in ("sampler", "options"):
        if field in fields:
            raise OptionError(
                f"{field.removesuffix('s')} does not apply to an endpoint, whose server decides it;"
                " leave it out"
            )
    drawing = [key for key in fields.get("drawing", {}) if key != "resolution"]
    if drawing:
        raise OptionError(
            f"drawing {drawing[0]} does not apply to an endpoint; it takes resolution"
        )
    _check_config(fields.get("config", {}))


def _check_config(config: dict[str, Option]) -> None:
    """Raise OptionError for a missing, unknown or wrong value of the config."""
    unknown_keys = [key for key in config if key not in images_api.USER_KEYS]
    if unknown_keys:
        raise OptionError(
            f"config {unknown_keys[0]} is not known to endpoints; they take"
            f" {', '.join(images_api.USER_KEYS)}"
        )
    variable = config.get(API_KEY_VARIABLE, "NAME")
    if not isinstance(variable, str) or not VARIABLE_NAME.fullmatch(variable):
        # The message has no value, which may be the key itself.
        raise OptionError(
            "config api_key_variable is no name of an environment variable (letters, digits,"
            " underscores); give the name, never the key itself"
        )
    types: dict[str, type | tuple[type, ...]] = {
        images_api.MODEL_KEY: str,
        API_KEY_VARIABLE: str,
        REPEATABLE_KEY: bool,
        "negative_prompt": str,
        "true_cfg_scale": (int, float),
    }
    for key, value in config.items():
        if not isinstance(value, types[key]) or (key == "true_cfg_scale" and value is True):
            raise OptionError(f"config {key} has the wrong value {value!r}; correct it")
    if not str(config.get(images_api.MODEL_KEY, "")).strip():
        raise OptionError(
            "the name of the endpoint's model is missing; add --config model=NAME, as the server"
            " calls it"
        )


def _suite_size(suite: str | None) -> int | None:
    if suite is None:
        return None
    return registry.load_plugin("suites", suite, SuiteContract).resolution


def _build_checkpoint(
    name: str, address: str, fields: CheckpointFields, config: dict[str, Option]
) -> Checkpoint:
    """Return the checkpoint of an endpoint whose canary is not generated yet."""
    try:
        return Checkpoint.model_validate(
            {
                "encoding": UNSTATED_ENCODING,
                **fields,
                "name": name,
                "backbone": BACKBONE,
                "config": {**config, images_api.ADDRESS_KEY: address},
                "weights": address,
                "sha256": UNKNOWN_SHA256,
                "source": f"harope-bench register {name} --weights {address}",
            }
        )
    except ValidationError as error:
        raise OptionError(
            f"checkpoint {name}: {validation_summary(error)}; give another value"
        ) from error


def _canary_config(config: dict[str, Option], canary: Canary) -> dict[str, Option]:
    """Return the config with what the canary shows; the user may state that it does not repeat."""
    is_repeatable = canary.is_repeatable and bool(config.get(REPEATABLE_KEY, True))
    return {
        **config,
        images_api.CANARY_KEY: canary.sha256,
        images_api.FORMAT_KEY: canary.image_format,
        REPEATABLE_KEY: is_repeatable,
        images_api.FOLLOWS_SEED_KEY: canary.follows_seed,
    }
