"""The backbone of image endpoints: a server that answers `/v1/images/generations` with images.

One request generates one sample, with a seed that depends on the run's seed and the index alone.
The weights are unknown: a plan records address, model and the hash of the canary image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from harope_bench.core.errors import OptionError
from harope_bench.core.plugin_contracts import Conditioning
from harope_bench.core.record_base import Option
from harope_bench.core.schema import (
    API_KEY_VARIABLE,
    REPEATABLE_KEY,
    Checkpoint,
    Request,
    Settings,
)
from harope_bench.models.backbones.base import (
    Backbone,
    DetectedFields,
    GeneratedBatch,
    ImageGenerator,
    NetworkDescription,
    SupportedSettings,
)
from harope_bench.models.endpoints.address import parse_address
from harope_bench.models.endpoints.canary import canary_request, check_canary
from harope_bench.models.endpoints.client import (
    EndpointClient,
    RefusedRequestError,
    read_api_key,
)
from harope_bench.models.endpoints.image_requests import (
    ImageRequest,
    endpoint_seed,
    extra_fields,
    request_image,
)

if TYPE_CHECKING:
    from torch import Tensor

# Keys of the config of such a checkpoint. The user states the first ones, `register` the others.
MODEL_KEY = "model"
USER_KEYS = (MODEL_KEY, API_KEY_VARIABLE, REPEATABLE_KEY, "negative_prompt", "true_cfg_scale")
ADDRESS_KEY = "address"
CANARY_KEY = "canary_sha256"
CANARY_SIZE_KEY = "canary_size"
FORMAT_KEY = "image_format"
FOLLOWS_SEED_KEY = "follows_seed"

SETTINGS = frozenset({"resolution", "seed", "tile", "device", "steps", "guidance"})
REASON = "the server decides it"


class EndpointGenerator(ImageGenerator):
    """Generates images by requests to an endpoint."""

    def __init__(self, checkpoint: Checkpoint, client: EndpointClient):
        self._checkpoint = checkpoint
        self._client = client

    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Generate the images of a batch, one request after the other.

        A request that is refused although the endpoint still generates the canary's prompt with
        the same settings is a failed sample.

        Raises:
            EndpointError: The endpoint cannot be reached, or answers something else than an image.
        """
        side = settings.resolution
        images = np.zeros((len(requests), side, side, 3), np.uint8)
        failures = {}
        for row, request in enumerate(requests):
            image_request = self._image_request(request, settings)
            try:
                images[row] = request_image(self._client, image_request).pixels
            except RefusedRequestError as refusal:
                request_image(self._client, canary_request(image_request))  # raises if refused too
                failures[row] = refusal.detail
        return GeneratedBatch(images, failures)

    def _image_request(self, request: Request, settings: Settings) -> ImageRequest:
        assert request.prompt is not None  # the backbone takes prompts
        return ImageRequest(
            model=str(self._checkpoint.config[MODEL_KEY]),
            prompt=request.prompt,
            seed=endpoint_seed(settings.seed, request.index),
            side=settings.resolution,
            extra_fields=extra_fields(settings.steps, settings.guidance, self._checkpoint.config),
        )


class ImagesApiBackbone(Backbone[Any]):  # Any: its network is on another machine
    """The backbone of endpoints with OpenAI's API for images."""

    tile = 1
    has_weights_file = False

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return prompts."""
        return Conditioning("prompts")

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the settings that a request contains; the server decides all others."""
        return SupportedSettings(
            SETTINGS, dict.fromkeys(("sampler", "dtype", "pos_scaling", "vae"), REASON)
        )

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return what is known of the network."""
        return NetworkDescription("images (weights unknown)", "prompts", None)

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return None: no weights file is that of an endpoint."""
        return None

    def environment_variables(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return the name of the variable that has the API key; nothing for a server without."""
        variable = checkpoint.config.get(API_KEY_VARIABLE)
        return () if variable is None else (str(variable),)

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for a padded batch; an endpoint gets one request for each image."""
        if settings.tile != self.tile:
            raise OptionError(
                f"tile is {settings.tile}, an endpoint generates one image at a time; leave it out"
            )
        if not checkpoint.config.get(FOLLOWS_SEED_KEY, True) and settings.seed:
            raise OptionError(
                f"seed {settings.seed} does not apply to checkpoint {checkpoint.name}: its"
                " endpoint ignores seeds; leave --seed out"
            )

    def resolve_settings(self, checkpoint: Checkpoint, settings: Settings) -> Settings:
        """Return the settings with the device `cpu`, because no device of this machine is used."""
        return settings.model_copy(update={"device": "cpu"})

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> NoReturn:
        """Raise OptionError: there is no network to build."""
        raise OptionError(
            "backbone images-api has no network here; choose a checkpoint with a weights file"
        )

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> EndpointGenerator:
        """Return the generator of an endpoint, after checking that its canary image is unchanged.

        Raises:
            EndpointError: The endpoint cannot be reached, or generates another canary image.
            OptionError: The environment variable of the API key is empty.
        """
        config = checkpoint.config
        client = open_client(str(config[ADDRESS_KEY]), config)
        if config[REPEATABLE_KEY]:
            check_canary(client, registered_request(checkpoint), str(config[CANARY_KEY]))
        return EndpointGenerator(checkpoint, client)


def open_client(address: str, config: Mapping[str, Option]) -> EndpointClient:
    """Return the client of an address, with the API key of the config's environment variable.

    Raises:
        OptionError: The address is invalid, or the environment variable is empty.
    """
    variable = config.get(API_KEY_VARIABLE)
    return EndpointClient(
        parse_address(address), read_api_key(None if variable is None else str(variable))
    )


def registered_request(checkpoint: Checkpoint) -> ImageRequest:
    """Return the request with model, size and default settings of a registration."""
    config = checkpoint.config
    return canary_request(
        ImageRequest(
            model=str(config[MODEL_KEY]),
            prompt="",
            seed=0,
            side=int(config[CANARY_SIZE_KEY]),
            extra_fields=extra_fields(checkpoint.steps, checkpoint.guidance, config),
        )
    )


PLUGIN = ImagesApiBackbone()
