"""Devices are parsed, chosen and required by one module."""

from __future__ import annotations

import pytest
import torch

from harope_bench.core import device
from harope_bench.core.errors import OptionError


@pytest.mark.parametrize("text", ["cpu", "cuda", "cuda:0", "cuda:7", "mps"])
def test_a_device_is_kept_as_it_is(text: str) -> None:
    assert device.parse_device(text) == text


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cpu:0", "xla"])
def test_another_text_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="auto, cpu, cuda, cuda:N or mps"):
        device.parse_device(text)


def test_auto_is_the_cpu_where_there_is_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_may_have_accelerator", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("torch was asked"))
    assert device.parse_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest(
    has_cuda: bool, has_mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_may_have_accelerator", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert device.choose_device() == expected


def test_a_number_beyond_the_devices_of_the_machine_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device.require_device("cuda:1")
    with pytest.raises(OptionError, match="has 2 CUDA devices"):
        device.require_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OptionError, match="--device cpu works"):
        device.require_device("cuda")
