"""Image endpoints: what is sent, what is accepted, and what every failure of a server ends in.

Everything is on loopback; no test needs a real server, none of which was tried.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import image_server
import numpy as np
import pytest
from click.testing import CliRunner
from image_server import ImageServer, image_answer, image_bytes, pixels_of

from harope_bench import cli
from harope_bench.core.errors import EndpointError, OptionError
from harope_bench.core.schema import UNKNOWN_SHA256, Checkpoint, Request, Settings
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.data.run_folder import RunFolder
from harope_bench.models.backbones import images_api
from harope_bench.models.endpoints import client as client_module
from harope_bench.models.endpoints.address import parse_address
from harope_bench.models.endpoints.client import EndpointClient, EndpointLimits
from harope_bench.models.endpoints.image_requests import (
    SEED_BITS,
    ImageRequest,
    endpoint_seed,
    request_image,
)
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline import doctor

SIDE = 8
KEY = "sk-very-secret-0123"
REQUEST = ImageRequest("tiny-model", "a red square", 5, SIDE)
PNG = image_bytes(pixels_of("a red square", 5, SIDE))


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server.running_server() as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients would have waited between tries; nothing waits."""
    seconds: list[float] = []
    client_class = functools.partial(EndpointClient, sleep=seconds.append)
    monkeypatch.setattr(images_api, "EndpointClient", client_class)
    return seconds


@pytest.fixture
def client(server: ImageServer) -> tuple[EndpointClient, list[float]]:
    """A client of the server, and the seconds that it would have waited between tries."""
    seconds: list[float] = []
    limits = EndpointLimits(connect_seconds=5, read_seconds=5, total_seconds=20)
    return EndpointClient(parse_address(server.url), None, limits, seconds.append), seconds


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def register(server: ImageServer, *options: str, name: str = "far") -> Any:
    return run(
        "register",
        name,
        "--backbone",
        "images-api",
        "--weights",
        server.url,
        "--config",
        "model=tiny-model",
        "--drawing",
        f"resolution={SIDE}",
        *options,
    )


# ---------------------------------------------------------------------------------- the request


def test_a_request_has_the_fields_that_servers_document(
    server: ImageServer, client: tuple[EndpointClient, list[float]]
) -> None:
    image = request_image(client[0], REQUEST)
    assert np.array_equal(image.pixels, pixels_of("a red square", 5, SIDE))
    assert server.paths == [image_server.PATH]
    assert server.requests == [
        {
            "model": "tiny-model",
            "prompt": "a red square",
            "n": 1,
            "size": "8x8",
            "seed": 5,
            "response_format": "b64_json",
            "output_format": "png",
        }
    ]
    assert "authorization" not in server.headers[0]


def test_steps_guidance_and_config_are_sent_under_the_servers_names() -> None:
    checkpoint = Checkpoint(
        name="far",
        backbone="images-api",
        encoding="unstated",
        weights="http://127.0.0.1:1",
        sha256=UNKNOWN_SHA256,
        source="a test",
        config={"model": "m", "negative_prompt": "blur", "true_cfg_scale": 4.0},
    )
    generator = images_api.EndpointGenerator(
        checkpoint, EndpointClient(parse_address("http://127.0.0.1:1"))
    )
    settings = Settings(resolution=SIDE, tile=1, steps=20, guidance=3.5)
    payload = generator._image_request(Request(index=3, prompt="p"), settings).payload()
    assert payload["num_inference_steps"] == 20
    assert payload["guidance_scale"] == 3.5
    assert payload["negative_prompt"] == "blur"
    assert payload["true_cfg_scale"] == 4.0
    assert payload["seed"] == endpoint_seed(0, 3)


def test_seeds_differ_by_index_and_run_and_fit_32_bits() -> None:
    seeds = {endpoint_seed(seed, index) for seed in range(3) for index in range(50)}
    assert len(seeds) == 150
    assert 0 <= min(seeds) <= max(seeds) < 2**SEED_BITS


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_lossless_formats_keep_their_pixels(
    server: ImageServer, client: tuple[EndpointClient, list[float]], image_format: str
) -> None:
    pixels = pixels_of("x", 1, SIDE)
    server.default = image_server.answer(image_answer(image_bytes(pixels, image_format)))
    image = request_image(client[0], REQUEST)
    assert np.array_equal(image.pixels, pixels)
    assert image.format == image_format


def test_a_jpeg_is_accepted(
    server: ImageServer, client: tuple[EndpointClient, list[float]]
) -> None:
    data = image_bytes(pixels_of("x", 1, SIDE), "JPEG")
    server.default = image_server.answer(image_answer(data))
    assert request_image(client[0], REQUEST).format == "JPEG"


# ------------------------------------------------------------------------- failures that may pass


@pytest.mark.parametrize(
    "failure",
    [
        image_server.status(500),
        image_server.status(503),
        image_server.status(429),
        image_server.hang_up,
        image_server.cut,
        image_server.cut_without_length,
        image_server.body(b""),
    ],
    ids=["500", "503", "429", "hang-up", "cut", "cut-no-length", "empty"],
)
def test_what_may_pass_is_tried_again(
    server: ImageServer, client: tuple[EndpointClient, list[float]], failure: Any
) -> None:
    server.behaviours = [failure, failure]
    image = request_image(client[0], REQUEST)
    assert np.array_equal(image.pixels, pixels_of("a red square", 5, SIDE))
    assert client[1] == [1.0, 2.0]
    assert server.requests == [REQUEST.payload()] * 3


def test_tries_are_bounded_and_their_waits_grow(
    server: ImageServer, client: tuple[EndpointClient, list[float]], capsys: Any
) -> None:
    server.default = image_server.status(500, "out of memory")
    with pytest.raises(EndpointError, match=r"answers 500: out of memory, in each of 5 tries"):
        request_image(client[0], REQUEST)
    assert client[1] == [1.0, 2.0, 4.0, 8.0]
    assert len(server.requests) == 5
    assert capsys.readouterr().err.count("next try in") == 4


@pytest.mark.parametrize("header", ["7", "date"])
def test_a_server_says_how_long_to_wait(
    server: ImageServer, client: tuple[EndpointClient, list[float]], header: str
) -> None:
    if header == "date":
        header = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 8))
    server.behaviours = [image_server.status(429, Retry_After=header)]
    request_image(client[0], REQUEST)
    assert 5 <= client[1][0] <= 8


def test_a_wait_without_end_is_an_error(
    server: ImageServer, client: tuple[EndpointClient, list[float]]
) -> None:
    server.behaviours = [image_server.status(429, Retry_After="86400")]
    with pytest.raises(EndpointError, match="asks to wait 86,400 seconds"):
        request_image(client[0], REQUEST)
    assert client[1] == []


def test_a_silent_server_is_left(
    server: ImageServer, client: tuple[EndpointClient, list[float]]
) -> None:
    server.default = image_server.stay_silent(0.6)
    limits = EndpointLimits(tries=2, connect_seconds=5, read_seconds=0.1, total_seconds=20)
    with pytest.raises(EndpointError, match="answers too slowly, in each of 2 tries"):
        request_image(replace(client[0], limits=limits), REQUEST)


def test_a_server_that_drips_is_left(
    server: ImageServer, client: tuple[EndpointClient, list[float]]
) -> None:
    """Each byte comes in time, so only the limit of the whole request ends it."""
    server.default = image_server.drip(30)
    limits = EndpointLimits(tries=1, connect_seconds=5, read_seconds=5, total_seconds=0.2)
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"needs more than 0\.2 seconds"):
        request_image(replace(client[0], limits=limits), REQUEST)
    assert time.monotonic() - start < 10


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a self-signed certificate of 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    files = ("-keyout", str(path), "-out", str(path.with_name("cert.pem")))
    subprocess.run(
        ["openssl", "req", "-x509", *key, *subject, *files], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + path.with_name("cert.pem").read_bytes())
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[ImageServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with image_server.running_server(context) as running:
        yield running


def test_an_unknown_certificate_is_an_error(tls_server: ImageServer) -> None:
    client = EndpointClient(parse_address(tls_server.url))
    with pytest.raises(EndpointError, match="has no valid certificate"):
        request_image(client, REQUEST)
    assert tls_server.requests == []


def test_the_limit_of_a_request_holds_under_tls(
    tls_server: ImageServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is shut down under a thread that reads from it, which is no error of its own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    limits = EndpointLimits(tries=1, connect_seconds=5, read_seconds=5, total_seconds=0.5)
    client = EndpointClient(parse_address(tls_server.url), None, limits)
    assert np.array_equal(request_image(client, REQUEST).pixels, pixels_of("a red square", 5, SIDE))
    for behaviour in (image_server.drip(30), image_server.stay_silent(1.5)):
        tls_server.default = behaviour
        with pytest.raises(EndpointError, match=r"needs more than 0\.5 seconds"):
            request_image(client, REQUEST)


def test_the_limit_may_pass_just_before_a_read_under_tls(
    tls_server: ImageServer, certificate: Path
) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    address = parse_address(tls_server.url)
    plain_socket = socket.create_connection((address.host, address.port))
    error_class = client_module.TransientFailureError

    def read_late(open_socket: ssl.SSLSocket) -> None:
        with client_module._time_limit(open_socket, 0.01):
            time.sleep(0.3)
            open_socket.read(1)

    with (
        context.wrap_socket(plain_socket, server_hostname=address.host) as open_socket,
        pytest.raises(error_class, match=r"needs more than 0\.01 s"),
    ):
        read_late(open_socket)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    address = parse_address(f"http://127.0.0.1:{port}")
    client = EndpointClient(address, None, EndpointLimits(tries=2), lambda seconds: None)
    with pytest.raises(EndpointError, match="does not answer .*in each of 2 tries"):
        client.post({}, 100)


# ------------------------------------------------------------------------ failures that stay


def image_text_answer(text: str) -> dict[str, Any]:
    return {"data": [{"b64_json": text}]}


RGBA = image_bytes(np.zeros((SIDE, SIDE, 4), np.uint8))
WRONG_ANSWERS = {
    "html": (image_server.body(b"<html>log in</html>"), "answers with '<html>log in</html>'"),
    "no object": (image_server.answer([1]), "no object"),
    "deep": (image_server.body(b"[" * 100_000), r"wanted JSON"),
    "no data": (image_server.answer({}), "no list in `data`"),
    "two": (image_server.answer({"data": [{}, {}]}), "2 entries in `data`"),
    "nothing": (image_server.answer({"data": [{}]}), "without `b64_json`"),
    "no base64": (image_server.answer(image_text_answer("%%%")), "no base64"),
    "gif": (
        image_server.answer(image_answer(image_bytes(pixels_of("", 0, SIDE), "GIF"))),
        "format GIF, wanted PNG, JPEG, WEBP",
    ),
    "bmp": (
        image_server.answer(image_answer(image_bytes(pixels_of("", 0, SIDE), "BMP"))),
        "format BMP",
    ),
    "text": (image_server.answer(image_answer(b"hello")), "format not known"),
    "broken": (image_server.answer(image_answer(PNG[:40])), "wrong image"),
    "alpha": (image_server.answer(image_answer(RGBA)), "mode RGBA"),
    "size": (
        image_server.answer(image_answer(image_bytes(pixels_of("", 0, 16)))),
        "image of 16x16 pixels, wanted 8x8",
    ),
    "not square": (
        image_server.answer(image_answer(image_bytes(np.zeros((8, 9, 3), np.uint8)))),
        "image of 9x8 pixels, wanted 8x8",
    ),
    "stated too large": (image_server.body(b"{}", length=1 << 40), "more than 1,048,960 bytes"),
    "too large": (image_server.body(b" " * 3_000_000, length=-1), "more than 1,048,960 bytes"),
    "gzip": (image_server.body(b"{}", Content_Encoding="gzip"), "compresses its answers"),
    "404": (image_server.status(404, "no such path"), "answers 404: no such path"),
    "401": (image_server.status(401, "who are you"), "refuses the API key"),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_what_stays_is_one_named_error_at_once(
    server: ImageServer, client: tuple[EndpointClient, list[float]], case: str
) -> None:
    server.default, message = WRONG_ANSWERS[case]
    with pytest.raises(EndpointError, match=message) as error_info:
        request_image(client[0], REQUEST)
    assert len(server.requests) == 1
    assert server.url in str(error_info.value)
    assert error_info.value.advice
    assert "\n" not in str(error_info.value)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    server: ImageServer, client: tuple[EndpointClient, list[float]], code: int
) -> None:
    with image_server.running_server() as other_server:
        server.default = image_server.status(code, Location=other_server.url)
        with pytest.raises(EndpointError, match="which is not followed"):
            request_image(client[0], REQUEST)
        assert other_server.requests == []


def test_the_address_of_an_image_is_not_read(
    server: ImageServer, client: tuple[EndpointClient, list[float]]
) -> None:
    with image_server.running_server() as other_server:
        server.default = image_server.answer({"data": [{"url": f"{other_server.url}/image.png"}]})
        with pytest.raises(EndpointError, match="no other address is contacted"):
            request_image(client[0], REQUEST)
        assert other_server.requests == []


def test_proxies_of_the_environment_are_not_used(
    server: ImageServer,
    client: tuple[EndpointClient, list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with image_server.running_server() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        request_image(client[0], REQUEST)
        assert proxy.requests == []
    assert len(server.requests) == 1


def test_an_invalid_certificate_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def connect(self: Any) -> None:
        tries.append(1)
        error = ssl.SSLCertVerificationError("certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr(client_module.HTTPSConnection, "connect", connect)
    client = EndpointClient(parse_address("https://127.0.0.1:1"))
    with pytest.raises(EndpointError, match="self-signed certificate"):
        client.post({}, 100)
    assert len(tries) == 1


# --------------------------------------------------------------------------- address and API key


@pytest.mark.parametrize(
    "text",
    [
        "http://user:hunter2@127.0.0.1",
        "http://127.0.0.1/?key=hunter2",
        "http://127.0.0.1/#hunter2",
        "http://127.0.0.1:99999999/hunter2",
        "ftp://127.0.0.1/hunter2",
        "file:///hunter2",
        "http:///hunter2",
        "http://[::1/hunter2",
        "http://hunter2\r\nX: y",
        "http://hunter2/\u202e",
        "http://" + "a" * 3_000,
    ],
)
def test_a_wrong_address_is_an_error_that_does_not_quote_it(text: str) -> None:
    with pytest.raises(OptionError) as error_info:
        parse_address(text)
    assert "hunter2" not in str(error_info.value)
    assert ";" in str(error_info.value)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://h:8000", "http://h:8000/v1/images/generations"),
        ("http://h:8000/", "http://h:8000/v1/images/generations"),
        ("http://h/v1", "http://h:80/v1/images/generations"),
        ("http://h/v1/images/generations", "http://h:80/v1/images/generations"),
        ("https://[::1]/a/v1/", "https://[::1]:443/a/v1/images/generations"),
    ],
)
def test_an_address_is_that_of_the_server_of_its_api_or_of_the_endpoint(
    text: str, endpoint: str
) -> None:
    assert str(parse_address(text)) == endpoint
    assert str(parse_address(endpoint)) == endpoint


def all_texts(*folders: Path) -> str:
    return "".join(
        path.read_bytes().decode("latin-1")
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    )


def test_the_api_key_is_sent_and_nowhere_written(
    server: ImageServer,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    bench_home: Path,
    tmp_path: Path,
    make_prompts: Callable[..., str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    result = register(server, "--config", "api_key_variable=MY_KEY")
    assert result.exit_code == 0, result.output
    suite = make_prompts("one", "two")
    server.behaviours = [image_server.ok, image_server.status(500, f"bad key {KEY}")]
    generation = run("generate", "far", "--suite", suite, "--out", tmp_path / "run")
    assert generation.exit_code == 0, generation.output
    assert "bad key (API key)" in generation.output
    server.default = image_server.status(401, f"no user of {KEY}")
    refusal = run("generate", "far", "--suite", suite, "--out", tmp_path / "run", "--seed", "1")
    assert refusal.exit_code == 1
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    texts = all_texts(bench_home, tmp_path) + result.output + generation.output + refusal.output
    assert KEY not in texts
    assert "MY_KEY" in texts
    assert KEY not in repr(images_api.open_client(server.url, {"api_key_variable": "MY_KEY"}))


@pytest.mark.parametrize("value", ["", "  ", f"{KEY}\nX-Evil: 1", f"{KEY}\u00e4"])
def test_a_key_that_is_no_header_is_an_error_before_any_request(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    result = register(server, "--config", "api_key_variable=MY_KEY")
    assert result.exit_code == 1
    assert "MY_KEY" in result.output
    assert KEY not in result.output
    assert server.requests == []


def test_a_key_in_place_of_its_variable_is_not_quoted(server: ImageServer) -> None:
    for key in (KEY, "12345678"):
        result = register(server, "--config", f"api_key_variable={key}")
        assert result.exit_code == 1
        assert "never the key itself" in result.output
        assert key not in result.output


# ------------------------------------------------------------------------------- registration


def test_an_endpoint_is_registered_with_what_is_known_of_it(
    server: ImageServer, bench_home: Path
) -> None:
    result = register(server)
    assert result.exit_code == 0, result.output
    fields = read_versioned_toml("checkpoint", bench_home / "checkpoints" / "far.toml")
    checkpoint = load_checkpoint_record("far")
    address = f"{server.url}{image_server.PATH}"
    assert fields["sha256"] == UNKNOWN_SHA256
    assert checkpoint.weights_text == f"weights unknown, {address}"
    assert checkpoint.config["address"] == address
    assert checkpoint.config["model"] == "tiny-model"
    assert checkpoint.config["is_repeatable"] is True
    assert checkpoint.config["follows_seed"] is True
    assert len(str(checkpoint.config["canary_sha256"])) == 64
    assert server.requests[0]["seed"] == server.requests[2]["seed"]
    assert "weights unknown" in result.output
    assert "up to date" in register(server).output


def test_an_endpoint_that_does_not_repeat_is_said_so(server: ImageServer) -> None:
    count = iter(range(1_000))

    def other_each_time(handler: Any, fields: dict[str, Any]) -> None:
        image_server.ok(handler, {**fields, "seed": next(count)})

    server.default = other_each_time
    result = register(server)
    assert result.exit_code == 0, result.output
    assert "not repeatable" in result.output
    assert load_checkpoint_record("far").weights_text.endswith(", not repeatable")


def test_an_endpoint_that_ignores_seeds_is_said_so(server: ImageServer, tmp_path: Path) -> None:
    server.default = lambda handler, fields: image_server.ok(handler, {**fields, "seed": 0})
    result = register(server)
    assert "ignores seeds" in result.output
    result = run("generate", "far", "--suite", "shapes", "--seed", "1", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "ignores seeds; leave --seed out" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "modle=x"], "config modle is not known"),
        (["--config", "model= "], "model is missing"),
        (["--config", "true_cfg_scale=high"], "true_cfg_scale has the wrong value"),
        (["--config", "is_repeatable=maybe"], "is_repeatable has the wrong value"),
        (["--sampler", "flow"], "sampler does not apply"),
        (["--option", "base=100"], "option does not apply"),
        (["--drawing", "tile=4"], "drawing tile does not apply"),
        (["--drawing", "resolution=0"], "resolution is 0"),
        (["--suite", "digits"], "asks for"),
        (["--backbone", "dit"], "reads a weights file"),
    ],
)
def test_wrong_fields_are_named_before_any_request(
    server: ImageServer, options: list[str], message: str
) -> None:
    result = register(server, *options)
    assert result.exit_code == 1, result.output
    assert message in result.output
    assert server.requests == []


def test_a_file_is_no_endpoint(tmp_path: Path) -> None:
    result = run("register", "far", "--backbone", "images-api", "--weights", tmp_path / "a.pt")
    assert result.exit_code == 1
    assert "give the address of an image endpoint" in result.output


# --------------------------------------------------------------------------------- generation


@pytest.fixture
def make_prompts(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a prompt file and returns the name of its suite."""

    def make(*prompts: str) -> str:
        path = tmp_path / "my.txt"
        path.write_text("\n".join(prompts) + "\n")
        return f"prompts:{path}"

    return make


def images_of(folder: Path) -> dict[int, bytes]:
    return {
        index: (folder / str(record.file)).read_bytes()
        for index, record in RunFolder(folder).read_records().items()
        if record.file
    }


def test_a_run_is_one_request_a_sample_and_its_plan_says_what_is_unknown(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server)
    suite = make_prompts("one", "two", "three")
    server.requests.clear()
    result = run("generate", "far", "--suite", suite, "--steps", "7", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    canary, *requests = server.requests
    assert [fields["prompt"] for fields in requests] == ["one", "two", "three"]
    assert [fields["seed"] for fields in requests] == [endpoint_seed(0, i) for i in range(3)]
    assert [fields["num_inference_steps"] for fields in requests] == [7] * 3
    assert "num_inference_steps" not in canary  # the settings of the registration
    plan = RunFolder(tmp_path / "run").plan
    assert plan is not None
    assert not plan.checkpoint.has_known_weights
    assert plan.settings.steps == 7
    assert plan.settings.device == "cpu"
    images = list(images_of(tmp_path / "run").values())
    assert images[0] == image_bytes_of(pixels_of("one", endpoint_seed(0, 0), SIDE))

    # A finished run is up to date, without any request.
    server.requests.clear()
    assert run("generate", "far", "--suite", suite, "--steps", "7", "--out", tmp_path / "run")
    assert server.requests == []


def image_bytes_of(pixels: np.ndarray) -> bytes:
    from harope_bench.data.image_io import encode_png

    return encode_png(pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "flow"], "sampler does not apply to checkpoint far: the server decides it"),
        (["--dtype", "float16"], "dtype does not apply"),
        (["--fold"], "fold does not apply"),
    ],
)
def test_settings_that_no_request_has_are_rejected_before_any_request(
    server: ImageServer,
    make_prompts: Callable[..., str],
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    register(server)
    server.requests.clear()
    out = tmp_path / "run"
    result = run("generate", "far", "--suite", make_prompts("one"), *options, "--out", out)
    assert result.exit_code == 1, result.output
    assert message in result.output
    assert server.requests == []
    assert not out.exists()


def test_a_refused_prompt_is_a_failed_sample(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    """The canary's prompt is generated with the same settings, so the prompt is the reason."""
    register(server)

    def refuse_two(handler: Any, fields: dict[str, Any]) -> None:
        behave = image_server.ok
        if fields["prompt"] == "two":
            behave = image_server.status(400, "not allowed")
        behave(handler, fields)

    server.default = refuse_two
    suite = make_prompts("one", "two", "three")
    result = run("generate", "far", "--suite", suite, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    records = RunFolder(tmp_path / "run").read_records()
    assert [records[i].status for i in range(3)] == ["ok", "failed", "ok"]
    assert "refuses the request (400): not allowed" in str(records[1].reason)


def test_refused_settings_end_the_run(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server)
    server.default = lambda handler, fields: (
        image_server.ok if fields["size"] == "8x8" else image_server.status(422, "size")
    )(handler, fields)
    result = run(
        *("generate", "far", "--suite", make_prompts("one"), "--resolution", "16"),
        *("--out", tmp_path / "run"),
    )
    assert result.exit_code == 1
    assert "refuses the request (422): size" in result.output
    assert RunFolder(tmp_path / "run").read_records() == {}


def test_another_model_behind_the_address_is_found_out(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server)
    server.default = lambda handler, fields: image_server.ok(
        handler, {**fields, "prompt": f"another model: {fields['prompt']}"}
    )
    suite = make_prompts("one")
    result = run("generate", "far", "--suite", suite, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "no longer generates the image of its registration" in result.output
    clash = register(server)
    assert clash.exit_code == 1
    assert "--replace" in clash.output
    assert register(server, "--replace").exit_code == 0
    result = run("generate", "far", "--suite", suite, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_a_run_resumes_after_its_server_failed(
    server: ImageServer, waits: list[float], make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server)
    suite = make_prompts("one", "two", "three", "four")
    whole_folder, broken_folder = tmp_path / "whole", tmp_path / "broken"
    assert run("generate", "far", "--suite", suite, "--out", whole_folder).exit_code == 0
    server.behaviours = [image_server.ok] * 3
    server.default = image_server.status(503)
    result = run("generate", "far", "--suite", suite, "--out", broken_folder)
    assert result.exit_code == 1
    assert "finished images stay" in result.output
    assert len(images_of(broken_folder)) == 2  # the canary was the first request

    server.default = image_server.ok
    server.requests.clear()
    assert run("generate", "far", "--suite", suite, "--out", broken_folder).exit_code == 0
    assert server.prompts[1:] == ["three", "four"]
    assert images_of(broken_folder) == images_of(whole_folder)
    assert (broken_folder / "samples.jsonl").read_bytes() == (
        whole_folder / "samples.jsonl"
    ).read_bytes()


def test_a_killed_run_resumes_with_equal_images(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server)
    suite = make_prompts("one", "two", "three")
    whole_folder, killed_folder = tmp_path / "whole", tmp_path / "killed"
    assert run("generate", "far", "--suite", suite, "--out", whole_folder).exit_code == 0
    server.behaviours = [image_server.ok] * 2  # the canary and one image
    server.default = image_server.stay_silent(5)
    server.requests.clear()
    command = [sys.executable, "-m", "harope_bench", "generate", "far", "--suite", suite]
    process = subprocess.Popen(
        [*command, "--out", str(killed_folder)],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    records = killed_folder / "samples.jsonl"  # the first image is written by another thread
    while (len(server.requests) < 3 or not records.exists()) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(server.requests) == 3  # killed while it waited for the second image
    assert len(images_of(killed_folder)) == 1

    server.default = image_server.ok
    assert run("generate", "far", "--suite", suite, "--out", killed_folder).exit_code == 0
    assert images_of(killed_folder) == images_of(whole_folder)


def test_no_other_address_is_contacted(
    server: ImageServer,
    make_prompts: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses: set[Any] = set()
    connect = socket.socket.connect
    look_up = socket.getaddrinfo

    def record_connect(self: socket.socket, address: Any) -> None:
        addresses.add(tuple(address[:2]))
        connect(self, address)

    def record_look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        addresses.add((host, port))
        return look_up(host, port, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", record_connect)
    monkeypatch.setattr(socket, "getaddrinfo", record_look_up)
    register(server)
    suite = make_prompts("http://example.com/a.png", "see https://example.org")
    out = tmp_path / "run"
    assert run("generate", "far", "--suite", suite, "--out", out).exit_code == 0
    assert run("verify", out, "--redraw", "1").exit_code == 0
    assert doctor._checkpoint_finding("far").status == "ok"
    assert run("list", "checkpoints").exit_code == 0
    assert addresses == {("127.0.0.1", server.http.server_port)}


def test_a_run_can_be_verified_by_generating_again(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server)
    out = tmp_path / "run"
    run("generate", "far", "--suite", make_prompts("one", "two"), "--out", out)
    result = run("verify", out, "--redraw", "2")
    assert "2 samples generated again" in result.output
    server.default = lambda handler, fields: image_server.ok(
        handler, fields if fields["prompt"].startswith("a red") else {**fields, "seed": 1}
    )
    result = run("verify", out, "--redraw", "2")
    assert result.exit_code == 3
    assert "generated again is another image" in result.output


def test_reports_say_that_the_weights_are_unknown(
    server: ImageServer, make_prompts: Callable[..., str], tmp_path: Path
) -> None:
    register(server, "--config", "is_repeatable=false")
    out = tmp_path / "run"
    run("generate", "far", "--suite", make_prompts("one"), "--out", out)
    result = run("report", out, "--out", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert "weights unknown" in page
    assert "not repeatable" in page
    assert UNKNOWN_SHA256 not in page
    assert "decided by the server" in page
    assert run("report", out, "--format", "md", "--out", tmp_path / "r.md").exit_code == 0
    markdown = (tmp_path / "r.md").read_text()
    assert "weights unknown" in markdown
    assert "not repeatable" in markdown


def test_endpoints_are_told_apart_although_no_weights_are_known(server: ImageServer) -> None:
    register(server)
    register(server, "--config", "model=other", name="other")
    register(server, "--config", "api_key_variable=HOME", "--replace")
    first_checkpoint, second_checkpoint = (
        load_checkpoint_record("far"),
        load_checkpoint_record("other"),
    )
    assert first_checkpoint.sha256 == second_checkpoint.sha256 == UNKNOWN_SHA256
    assert first_checkpoint.identity != second_checkpoint.identity
    without_key = {k: v for k, v in first_checkpoint.config.items() if k != "api_key_variable"}
    assert (
        first_checkpoint.identity
        == first_checkpoint.model_copy(update={"config": without_key}).identity
    )


def test_a_checkpoint_with_unknown_weights_is_unchecked(server: ImageServer) -> None:
    register(server)
    result = run("check", "checkpoint", "far")
    assert result.exit_code == 4
    assert "weights are unknown" in result.output
