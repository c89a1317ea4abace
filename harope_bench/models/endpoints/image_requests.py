"""One image from an image endpoint: the fields of its request, and the pixels in its answer.

The layout is that of OpenAI's `/v1/images/generations`, with the fields that vllm-omni
(vllm_omni/entrypoints/openai/protocol/images.py) and SGLang
(python/sglang/multimodal_gen/runtime/entrypoints/openai/protocol.py) add to it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import EndpointError, SampleError
from harope_bench.core.json_file import JsonObject
from harope_bench.core.record_base import Option
from harope_bench.core.sample_seeds import sample_seed
from harope_bench.data.image_io import decode_image, detect_image_format
from harope_bench.models.endpoints.client import EndpointClient

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
# Settings of the plan and of the config that an endpoint receives, by their names there.
SETTING_FIELDS = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
CONFIG_FIELDS = ("negative_prompt", "true_cfg_scale")
SEED_BITS = 31  # every server reads a seed of a signed 32-bit number
# An uncompressed PNG with alpha has 4 bytes a pixel, base64 makes 16/3 of them.
ANSWER_BYTES_PER_PIXEL = 6
ANSWER_BYTES = 1 << 20  # bytes of an answer beside the image
API_ADVICE = "register an endpoint that answers as the page docs/guides/images-api.md says"


@dataclass(frozen=True)
class ImageRequest:
    """The request of one image.

    Attributes:
        model: Name of the model, as the server knows it.
        side: Side of the image in pixels.
        extra_fields: Further fields of the request, by their names there.
    """

    model: str
    prompt: str
    seed: int
    side: int
    extra_fields: tuple[tuple[str, Option], ...] = ()

    def payload(self) -> dict[str, object]:
        """Return the JSON object that is sent."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "n": 1,
            "size": f"{self.side}x{self.side}",
            "seed": self.seed,
            "response_format": "b64_json",
            "output_format": "png",
            **dict(self.extra_fields),
        }


class EndpointImage(NamedTuple):
    """An image (H, W, 3) uint8 and the format of its file, such as PNG."""

    pixels: np.ndarray
    format: str

    @property
    def sha256(self) -> str:
        """Return the hash of the pixels, which does not depend on the bytes of the file."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def endpoint_seed(seed: int, index: int) -> int:
    """Return the seed that is sent for a sample of a run."""
    return sample_seed(seed, index) % 2**SEED_BITS


def extra_fields(
    steps: int | None, guidance: float | None, config: Mapping[str, Option]
) -> tuple[tuple[str, Option], ...]:
    """Return the fields of a request that steps, guidance and the config state.

    A field that is not stated is not sent, and the server's own default applies.
    """
    values: dict[str, Option | None] = {
        SETTING_FIELDS["steps"]: steps,
        SETTING_FIELDS["guidance"]: guidance,
        **{name: config.get(name) for name in CONFIG_FIELDS},
    }
    return tuple((name, value) for name, value in values.items() if value is not None)


def request_image(client: EndpointClient, request: ImageRequest) -> EndpointImage:
    """Return the image that the endpoint generates for a request.

    Raises:
        RefusedRequestError: The endpoint refuses the request.
        EndpointError: It cannot be reached, or its answer is no such image.
    """
    max_bytes = ANSWER_BYTES + ANSWER_BYTES_PER_PIXEL * request.side**2
    data = _image_bytes(client, client.post(request.payload(), max_bytes))
    image_format = detect_image_format(data[:16])
    if image_format not in IMAGE_FORMATS:
        raise client.error(
            f"answers with an image of format {image_format or 'not known'}, wanted"
            f" {', '.join(IMAGE_FORMATS)}",
            API_ADVICE,
        )
    try:
        image = decode_image(data, "its image").image
    except SampleError as error:
        raise client.error(f"answers with a wrong image ({error.detail})", API_ADVICE) from error

    height, width = image.shape[:2]
    if (height, width) != (request.side, request.side):
        raise client.error(
            f"answers with an image of {width}x{height} pixels, wanted"
            f" {request.side}x{request.side}",
            "give --resolution a size that its model generates",
        )
    return EndpointImage(image, image_format)


def _image_bytes(client: EndpointClient, answer: JsonObject) -> bytes:
    """Return the bytes of the one image file in an answer.

    Raises:
        EndpointError: The answer has none, several, or an address in its place.
    """
    images = answer.get("data")
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
        count = f"{len(images):,} entries" if isinstance(images, list) else "no list"
        raise client.error(f"answers with {count} in `data`, wanted one image", API_ADVICE)
    text = images[0].get("b64_json")
    if isinstance(text, str) and text:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise client.error("answers with `b64_json` that is no base64", API_ADVICE) from error
    if url := images[0].get("url"):
        raise _url_error(client, str(url))
    raise client.error("answers without `b64_json`", API_ADVICE)


def _url_error(client: EndpointClient, url: str) -> EndpointError:
    return client.error(
        f"answers with the address of an image ({client.message_text(url)[:80]!r}) and not with"
        " the image; only `b64_json` is read, no other address is contacted",
        "switch the server to b64_json",
    )
