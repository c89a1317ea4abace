"""Requests to an image endpoint: one connection each, to the registered address alone.

The module and `assets/download.py` are the only ones that use the network. Redirects are not
followed and proxies of the environment are not used, so no other machine is contacted. Every wait,
answer and message has an upper bound.
"""

from __future__ import annotations

import email.utils
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

from harope_bench.core.errors import EndpointError, OptionError
from harope_bench.core.index_ranges import parse_whole_number
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.progress import write_line
from harope_bench.core.record_base import shorten_text
from harope_bench.models.endpoints.address import EndpointAddress

READ_CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 1 << 16  # bytes of an error's body that are read
SHOWN_MESSAGE_LENGTH = 200
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
REFUSED_STATUSES = frozenset({400, 413, 422})
KEY_STATUSES = frozenset({401, 403})


@dataclass(frozen=True)
class EndpointLimits:
    """Bounds of one request.

    Attributes:
        tries: Requests before an endpoint is given up.
        first_wait: Seconds before the second try; each further wait is twice as long.
        longest_wait: Seconds that a server may ask to wait (Retry-After).
        connect_seconds: Seconds until a connection is open.
        read_seconds: Seconds without a byte. A server is silent while it generates.
        total_seconds: Seconds of a whole request, for a server that sends slowly without end.
    """

    tries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 600.0
    connect_seconds: float = 10.0
    read_seconds: float = 600.0
    total_seconds: float = 1_200.0


LIMITS = EndpointLimits()


class RefusedRequestError(EndpointError):
    """An endpoint that refuses one request, for its prompt or for its settings."""


class TransientFailureError(Exception):
    """A failure that the next try may not have.

    Attributes:
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def read_api_key(variable: str | None) -> str | None:
    """Return the API key in an environment variable; None where no variable is registered.

    Messages contain the name of the variable and never its value.

    Raises:
        OptionError: The variable is empty, or its value cannot be a header of HTTP.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise OptionError(
            f"the environment variable {variable} has no API key; set it, or register the endpoint"
            " without api_key_variable"
        )
    if not key.isascii() or not key.isprintable():
        raise OptionError(
            f"the environment variable {variable} has no printable ASCII text; set it to the API"
            " key"
        )
    return key


@dataclass(frozen=True)
class EndpointClient:
    """Sends requests to one address.

    Attributes:
        api_key: Sent as a bearer token; no message, record or representation contains it.
        sleep: Waits for some seconds between two tries.
    """

    address: EndpointAddress
    api_key: str | None = field(default=None, repr=False)
    limits: EndpointLimits = LIMITS
    sleep: Callable[[float], None] = time.sleep

    def post(self, payload: Mapping[str, object], max_bytes: int) -> JsonObject:
        """Return the JSON object that the endpoint answers.

        Args:
            max_bytes: Largest number of bytes of the answer.

        Raises:
            RefusedRequestError: The endpoint refuses this request.
            EndpointError: It cannot be reached, or answers something else.
        """
        body = json.dumps(payload).encode()
        wait = self.limits.first_wait
        for remaining_tries in reversed(range(self.limits.tries)):
            try:
                return self._post_once(body, max_bytes)
            except TransientFailureError as failure:
                reason = self.message_text(str(failure))
                if failure.wait > self.limits.longest_wait:
                    raise self.error(
                        f"{reason} and asks to wait {failure.wait:,.0f} seconds",
                        "run the same command again then, finished images stay",
                    ) from None
                if remaining_tries:
                    seconds = max(wait, failure.wait)
                    write_line(f"{self.address}: {reason}; next try in {seconds:g} s")
                    self.sleep(seconds)
            wait *= 2
        raise self.error(
            f"{reason}, in each of {self.limits.tries} tries",
            "check the server, then run the same command again, finished images stay",
        )

    def error(self, reason: str, advice: str) -> EndpointError:
        """Return the error of this endpoint for a reason."""
        return EndpointError(f"endpoint {self.address} {reason}", advice=advice)

    def message_text(self, text: str) -> str:
        """Return text from the endpoint as one short printable line without the API key."""
        if self.api_key is not None:
            text = text.replace(self.api_key, "(API key)")
        return shorten_text(text, SHOWN_MESSAGE_LENGTH)

    def _post_once(self, body: bytes, max_bytes: int) -> JsonObject:
        """Return the answer to one request.

        Raises:
            TransientFailureError: Another try may succeed. Other errors: `post`.
        """
        try:
            with self._connection() as connection:
                connection.request("POST", self.address.path, body, self._headers())
                with closing(connection.getresponse()) as response:
                    self._check_status(response)
                    data = self._read_answer(response, max_bytes)
        except ssl.SSLCertVerificationError as error:
            raise self.error(
                f"has no valid certificate ({error.verify_message})", "correct the address"
            ) from error
        except TimeoutError as error:
            raise TransientFailureError("answers too slowly") from error
        except (OSError, HTTPException) as error:
            text = str(error) or type(error).__name__
            raise TransientFailureError(f"does not answer ({text})") from error
        return self._parse_answer(data)

    @contextmanager
    def _connection(self) -> Iterator[HTTPConnection]:
        """Yield a new connection, which a timer closes after `total_seconds`."""
        kind = HTTPSConnection if self.address.scheme == "https" else HTTPConnection
        connection = kind(self.address.host, self.address.port, timeout=self.limits.connect_seconds)
        try:
            connection.connect()
            open_socket = connection.sock
            open_socket.settimeout(self.limits.read_seconds)
            with _time_limit(open_socket, self.limits.total_seconds):
                yield connection
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "harope-bench",
        }
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def _check_status(self, response: HTTPResponse) -> None:
        """Raise an error unless the status of the answer is 200."""
        status = response.status
        if status == 200:
            return
        if 300 <= status < 400:
            target = self.message_text(response.headers.get("Location", "nowhere"))
            raise self.error(
                f"redirects to {target!r} ({status}), which is not followed",
                "register the address that answers itself",
            )
        message = self._message(response)
        if status in RETRIED_STATUSES:
            wait = _retry_after(response.headers.get("Retry-After"))
            raise TransientFailureError(f"answers {status}{message}", wait)
        if status in REFUSED_STATUSES:
            raise RefusedRequestError(
                f"endpoint {self.address} refuses the request ({status}){message}",
                advice="correct model, size and settings",
            )
        if status in KEY_STATUSES:
            raise self.error(
                f"refuses the API key ({status}){message}",
                "set an environment variable to the key, and register the endpoint with --config"
                " api_key_variable=NAME",
            )
        raise self.error(
            f"answers {status}{message}", "register the address of an images API (/v1)"
        )

    def _message(self, response: HTTPResponse) -> str:
        """Return the message in the body of an error, after a colon; empty without one."""
        data = response.read(MESSAGE_BYTES)
        text = data.decode("utf-8", "replace")
        with suppress(ValueError):
            value = parse_json(data)
            if isinstance(value, dict):
                error = value.get("error", value)
                fields = error if isinstance(error, dict) else value
                text = str(fields.get("message") or fields.get("detail") or error)
        line = self.message_text(text)
        return f": {line}" if line else ""

    def _read_answer(self, response: HTTPResponse, max_bytes: int) -> bytes:
        """Return the body of an answer, completely read.

        Raises:
            TransientFailureError: The connection closed early.
            EndpointError: The body is too large or compressed.
        """
        too_large = self.error(
            f"answers with more than {max_bytes:,} bytes for one image",
            "register the address of an images API (/v1)",
        )
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise self.error(
                f"compresses its answers ({self.message_text(encoding)})", "switch that off there"
            )
        header = response.headers.get("Content-Length")
        stated_length = None if header is None else parse_whole_number(header)
        if header is not None and (stated_length is None or stated_length > max_bytes):
            raise too_large

        chunks: list[bytes] = []
        n_bytes = 0
        while chunk := response.read(READ_CHUNK_BYTES):
            chunks.append(chunk)
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise too_large
        if stated_length is not None and n_bytes < stated_length:
            raise TransientFailureError(
                f"closed the connection after {n_bytes:,} of {stated_length:,} bytes"
            )
        return b"".join(chunks)

    def _parse_answer(self, data: bytes) -> JsonObject:
        """Return the JSON object in an answer.

        An object that ends early, without a stated length, was cut off. Everything else that is
        not JSON is an error that another try would repeat.
        """
        try:
            answer = parse_json(data)
        except ValueError as error:
            if not data.strip() or data.lstrip().startswith(b"{"):
                raise TransientFailureError("answers with JSON that ends early") from error
            start = self.message_text(data[:60].decode("utf-8", "replace"))
            raise self.error(
                f"answers with {start!r}, wanted JSON",
                "register the address of an images API (/v1)",
            ) from error
        if not isinstance(answer, dict):
            raise self.error(
                "answers with JSON that is no object", "register the address of an images API (/v1)"
            )
        return answer


@contextmanager
def _time_limit(open_socket: socket.socket, seconds: float) -> Iterator[None]:
    """Shut a socket down after some seconds, which ends a read that waits for its next byte.

    Raises:
        TransientFailureError: It was shut down.
    """
    is_over = threading.Event()

    def shut_down() -> None:
        is_over.set()
        # SSLSocket.shutdown would also take the cipher away from the thread that reads.
        with suppress(OSError):
            socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut_down)
    timer.daemon = True
    timer.start()
    too_slow = TransientFailureError(f"needs more than {seconds:g} seconds")
    try:
        yield
    except (OSError, HTTPException, TransientFailureError) as error:
        if is_over.is_set():
            raise too_slow from error
        raise
    finally:
        timer.cancel()
    if is_over.is_set():  # the answer ended where it was shut down
        raise too_slow


def _retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header, which states seconds or a date; 0 without one.

    >>> _retry_after("7"), _retry_after(None), _retry_after("soon")
    (7.0, 0.0, 0.0)
    """
    if value is None:
        return 0.0
    seconds = parse_whole_number(value.strip())
    if seconds is not None:
        return float(seconds)
    try:
        seconds_of_date = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):  # no date, or one that the clock does not reach
        return 0.0
    return max(0.0, seconds_of_date - time.time())
