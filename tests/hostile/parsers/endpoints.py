"""Readers of what image endpoints answer, and of what is stated of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from hostile import documents as d
from hostile.parsers.table import Files, Table

from harope_bench.core import json_file
from harope_bench.core.errors import BenchError
from harope_bench.models.endpoints import register_endpoint
from harope_bench.models.endpoints.address import parse_address
from harope_bench.models.endpoints.client import EndpointClient, EndpointLimits

TABLE = Table()
parser = TABLE.add


class Connection:
    """A connection, and its socket, to a server that answers with these bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def request(self, *_: object) -> None:
        """Send nothing."""

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self.answer)

    def getresponse(self) -> HTTPResponse:
        response = HTTPResponse(self, method="POST")  # type: ignore[arg-type]
        response.begin()
        return response


class Client(EndpointClient):
    """A client whose server answers with the files of a folder."""

    answer = b""

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        yield Connection(self.answer)


def read_answer(folder: Path) -> object:
    class Answering(Client):
        answer = (folder / "head.txt").read_bytes() + (folder / "body.plain.json").read_bytes()

    client = Answering(
        parse_address("http://127.0.0.1:9"), "key", EndpointLimits(tries=2), lambda _: None
    )
    with redirect_stderr(io.StringIO()):
        return client.post({"prompt": "a cat"}, 1 << 20)


def answer(status: str, body: object, *headers: str) -> Files:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers, "", ""]
    return {"head.txt": "\r\n".join(lines).encode(), "body.plain.json": d.json_bytes(body)}


IMAGE = {"data": [{"b64_json": "aGVsbG8="}]}
LENGTH = f"Content-Length: {len(d.json_bytes(IMAGE))}"
parser("an endpoint's image", answer("200 OK", IMAGE), read_answer)
parser("an endpoint's head", answer("200 OK", IMAGE, LENGTH), read_answer, "head.txt")
parser(
    "an endpoint's refusal",
    answer("400 Bad Request", {"error": {"message": "the prompt is too long", "code": None}}),
    read_answer,
)
for wait in ("7", "Wed, 21 Oct 2026 07:28:00 GMT"):
    parser(
        f"an endpoint that asks to wait: {wait}",
        answer("429 Too Many Requests", {"detail": "too many"}, f"Retry-After: {wait}"),
        read_answer,
    )
FIELDS = {
    "suite": "geneval", "steps": 4, "guidance": 3.5, "drawing": {"resolution": 512},
    "config": {"model": "sd3", "negative_prompt": "blur", "true_cfg_scale": 4.0, "repeatable": True},
}  # fmt: skip


def read_fields(folder: Path) -> object:
    fields = json_file.read_json(folder / "fields.json")
    if not isinstance(fields, dict) or not isinstance(fields.get("config", {}), dict):
        raise BenchError("options make a mapping")
    checkpoint = register_endpoint._build_checkpoint(
        "mine", "http://127.0.0.1:9/v1", fields, fields.get("config", {})
    )
    return checkpoint.to_json()


parser("an endpoint's fields", {"fields.json": d.json_bytes(FIELDS)}, read_fields)
