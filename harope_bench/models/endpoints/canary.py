"""The canary: one image of an endpoint, by which its model is recognised later.

The weights behind an endpoint are unknown. The canary image is generated at registration, and
again before every run: another image means another model or other settings of the server.
"""

from __future__ import annotations

from typing import NamedTuple

from harope_bench.core.errors import EndpointError
from harope_bench.models.endpoints.client import EndpointClient
from harope_bench.models.endpoints.image_requests import ImageRequest, request_image

PROMPT = "a red circle to the left of a blue square on a white background"
SEED = 1_234_567
OTHER_SEED = 7_654_321


class Canary(NamedTuple):
    """What three images show of an endpoint: one, one of another seed, and the first one again.

    Attributes:
        sha256: Hash of the pixels of the first image.
        image_format: Format of its file.
        is_repeatable: Whether the third image equals the first one.
        follows_seed: Whether the second image differs from the first one.
    """

    sha256: str
    image_format: str
    is_repeatable: bool
    follows_seed: bool


def canary_request(request: ImageRequest, seed: int = SEED) -> ImageRequest:
    """Return the request of the canary with the model, size and settings of another request."""
    return ImageRequest(request.model, PROMPT, seed, request.side, request.extra_fields)


def generate_canary(client: EndpointClient, request: ImageRequest) -> Canary:
    """Return what three images show of an endpoint.

    Args:
        request: Model, size and settings.

    Raises:
        EndpointError: The endpoint does not answer with images.
    """
    image, other_image, repeated_image = (
        request_image(client, canary_request(request, seed)) for seed in (SEED, OTHER_SEED, SEED)
    )
    return Canary(
        sha256=image.sha256,
        image_format=image.format,
        is_repeatable=image.sha256 == repeated_image.sha256,
        follows_seed=image.sha256 != other_image.sha256,
    )


def check_canary(client: EndpointClient, request: ImageRequest, sha256: str) -> None:
    """Raise EndpointError unless the canary image is still the one of the registration.

    Args:
        request: Model, size and settings of the registration.
    """
    image = request_image(client, canary_request(request))
    if image.sha256 != sha256:
        raise EndpointError(
            f"endpoint {client.address} no longer generates the image of its registration (found"
            f" {image.sha256[:12]}, wanted {sha256[:12]}): its model, its settings or its machine"
            " changed, or it is not repeatable under load",
            advice=(
                "register it again with --replace (--config is_repeatable=false if it is not"
                " repeatable), and choose another --out"
            ),
        )
