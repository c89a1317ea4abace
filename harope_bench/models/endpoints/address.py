"""The address of an image endpoint, which a user registers."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from harope_bench.core.errors import OptionError

SCHEMES = ("http", "https")
ENDPOINT = "/images/generations"  # path of OpenAI's API for images, below its version
VERSION = "/v1"
MAX_ADDRESS_LENGTH = 2_000
ADVICE = "give --weights http://HOST:PORT or https://HOST/v1"


class EndpointAddress(NamedTuple):
    """The one address that requests are sent to.

    Attributes:
        host: Name or number of the machine, without brackets.
        path: Path of the endpoint; it ends with ENDPOINT.
    """

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        """Return the address as text, always with its port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def is_address(text: object) -> bool:
    """Return whether a text is an address of the web and not a path.

    >>> is_address("http://127.0.0.1:8000"), is_address("weights.safetensors")
    (True, False)
    """
    return isinstance(text, str) and "://" in text[:16]


def parse_address(text: str) -> EndpointAddress:
    """Return the address of an image endpoint from the address of its server.

    Messages never quote the text, which may contain a password.

    Raises:
        OptionError: The text is no http or https address, or it contains credentials.

    >>> str(parse_address("http://127.0.0.1:8000"))
    'http://127.0.0.1:8000/v1/images/generations'
    >>> str(parse_address("https://images.example/openai/v1/"))
    'https://images.example:443/openai/v1/images/generations'
    """
    if len(text) > MAX_ADDRESS_LENGTH or not text.isascii() or not text.isprintable():
        raise OptionError(
            f"the address of the endpoint is no printable ASCII text of at most"
            f" {MAX_ADDRESS_LENGTH:,} characters; {ADVICE}"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as the client does; a label may be too long
    except ValueError as error:
        raise OptionError(f"the endpoint has no valid address; {ADVICE}") from error

    if "@" in parts.netloc or parts.query or parts.fragment:
        raise OptionError(
            "the address of the endpoint contains a password, a query or a fragment, which would"
            " be recorded; leave it out and give --config api_key_variable=NAME, an environment"
            " variable that holds the API key"
        )
    if parts.scheme not in SCHEMES or not parts.hostname or " " in text:
        raise OptionError(f"the endpoint has no http or https address; {ADVICE}")
    default_port = 443 if parts.scheme == "https" else 80
    return EndpointAddress(
        parts.scheme,
        parts.hostname,
        default_port if port is None else port,
        _endpoint_path(parts.path),
    )


def _endpoint_path(path: str) -> str:
    """Return the path of the endpoint below the path of a server or of its API."""
    base = path.rstrip("/").removesuffix(ENDPOINT)
    return f"{base}{ENDPOINT}" if base.endswith(VERSION) else f"{base}{VERSION}{ENDPOINT}"
