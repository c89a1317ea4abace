"""An image endpoint on loopback, which can fail in every way that a server of the web can."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

PATH = "/v1/images/generations"
Behaviour = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def pixels_of(prompt: str, seed: int, side: int) -> np.ndarray:
    """The image (side, side, 3) uint8 of a prompt and a seed."""
    digest = hashlib.sha256(f"{prompt}/{seed}".encode()).digest()
    return np.random.default_rng(list(digest)).integers(0, 256, (side, side, 3), np.uint8)


def image_bytes(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    """The file of an image (H, W, C) uint8."""
    buffer = io.BytesIO()
    options = {"lossless": True} if image_format == "WEBP" else {}
    Image.fromarray(pixels).save(buffer, format=image_format, **options)
    return buffer.getvalue()


def image_answer(data: bytes) -> dict[str, Any]:
    """The answer that contains an image file."""
    return {"created": 1, "data": [{"b64_json": base64.b64encode(data).decode(), "url": None}]}


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> None:
    """Send a body, with a stated length that may be wrong; -1 states none."""
    handler.send_response(status)
    for name, value in (headers or {"Content-Type": "application/json"}).items():
        handler.send_header(name, value)
    if length != -1:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def ok(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
    """Answer with the image that was requested."""
    side = int(fields["size"].partition("x")[0])
    data = image_bytes(pixels_of(fields["prompt"], fields["seed"], side))
    send(handler, json.dumps(image_answer(data)).encode())


class ImageServer:
    """A server whose next answers are `behaviours`, in turn, and `default` afterwards.

    `requests` are the fields of all requests, `headers` their headers, `paths` their paths.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.behaviours: list[Behaviour] = []
        self.default: Behaviour = ok
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                fields = json.loads(self.rfile.read(length))
                server.requests.append(fields)
                server.headers.append({k.lower(): v for k, v in self.headers.items()})
                server.paths.append(self.path)
                behaviour = server.behaviours.pop(0) if server.behaviours else server.default
                # A client that gives up is what some tests want.
                with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                    behaviour(self, fields)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def prompts(self) -> list[str]:
        """The prompts of all requests."""
        return [fields["prompt"] for fields in self.requests]


@contextmanager
def running_server(tls: ssl.SSLContext | None = None) -> Iterator[ImageServer]:
    """Yield a server, which is closed afterwards; with `tls` its address starts with https."""
    server = ImageServer(tls)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


# ------------------------------------------------------------------------------------ behaviours


def status(code: int, message: str = "busy", **headers: str) -> Behaviour:
    """Answer with an error of the API, with further headers."""

    def behave(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        send(handler, json.dumps({"error": {"message": message}}).encode(), code, names)

    return behave


def body(data: bytes, length: int | None = None, **headers: str) -> Behaviour:
    """Answer with these bytes."""

    def behave(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        send(handler, data, 200, names, length)

    return behave


def answer(value: object) -> Behaviour:
    """Answer with a value as JSON."""
    return body(json.dumps(value).encode())


def drip(seconds: float) -> Behaviour:
    """Send a blank every few milliseconds, for ever so long."""

    def behave(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.01)

    return behave


def stay_silent(seconds: float) -> Behaviour:
    """Say nothing for some seconds, then answer."""

    def behave(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
        time.sleep(seconds)
        ok(handler, fields)

    return behave


def hang_up(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def cut(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
    """Send half of the answer."""
    side = int(fields["size"].partition("x")[0])
    data = image_bytes(pixels_of(fields["prompt"], fields["seed"], side))
    text = json.dumps(image_answer(data)).encode()
    send(handler, text[: len(text) // 2], length=len(text))


def cut_without_length(handler: BaseHTTPRequestHandler, fields: dict[str, Any]) -> None:
    """Send half of the answer, and no length."""
    send(handler, b'{"created": 1, "data": [{"b64_json": "iVBO', length=-1)
