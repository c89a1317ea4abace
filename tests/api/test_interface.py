"""The package imports nothing heavy, and says what it offers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import harope_bench as hb
from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.registry import PLUGIN_KINDS
from harope_bench.core.schema import Checkpoint
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import find_weights_path, load_checkpoint_record


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, harope_bench as hb; dir(hb); hb.__version__; hb.BenchError; hb.list_plugins\n"
        "print([m for m in ('torch', 'pandas', 'diffusers', 'transformers') if m in sys.modules])"
    )
    first_script = (
        "import sys, harope_bench\n"
        "print([m for m in ('torch', 'pandas', 'numpy', 'pydantic', 'PIL') if m in sys.modules])"
    )
    for text in (script, first_script):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_is_listed_typed_and_documented() -> None:
    names = set(hb.PUBLIC_NAMES)
    assert names <= set(dir(hb))
    typed_names = {
        alias.asname
        for node in ast.walk(ast.parse(Path(hb.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("harope_bench.")
        for alias in node.names
    }
    assert typed_names == names
    assert (Path(hb.__file__).parent / "py.typed").exists()
    for name in names:
        public_object = getattr(hb, name)
        assert public_object.__doc__, name
        assert public_object.__name__ == name
    for name in ("generate", "evaluate", "compare", "gate", "table", "load_encoding"):
        assert ">>> " in getattr(hb, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'generat'"):
        hb.generat  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("kind", PLUGIN_KINDS)
def test_plugins_of_every_kind_are_listed(kind: str) -> None:
    assert hb.list_plugins(kind)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean encodings"):
        hb.list_plugins("encoding")


# --------------------------------------------------------------------------------- load_encoding


def encoding_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint under `encoding.`, by their keys in the encoding."""
    from safetensors.torch import load_file

    prefix = "encoding."
    weights = load_file(find_weights_path(checkpoint))
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


@pytest.mark.parametrize(
    "name", ["digits-harope", "digits-rope-matrix-normal-per-head", "digits-string", "digits-ape"]
)
def test_weights_of_checkpoints_load_strictly(name: str) -> None:
    checkpoint = load_checkpoint_record(name)
    network = load_backbone(checkpoint.backbone).build(
        checkpoint.encoding, checkpoint.options, checkpoint.config
    )
    shape = network.encoding.shape
    options: dict[str, Any] = dict(checkpoint.options)
    encoding = hb.load_encoding(
        checkpoint.encoding,
        heads=shape.heads,
        head_dim=shape.head_dim,
        layers=shape.layers,
        **options,
    )
    encoding.load_state_dict(encoding_weights(checkpoint), strict=True)


def test_two_steps_of_training_change_an_encoding() -> None:
    encoding = hb.load_encoding("harope", heads=2, head_dim=8, layers=1)
    positions = torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()
    projection = torch.nn.Linear(16, 48)
    optimizer = torch.optim.SGD([*projection.parameters(), *encoding.parameters()], lr=0.1)
    before = {key: value.clone() for key, value in encoding.state_dict().items()}
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        q, k, v = projection(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        q, k = encoding.rotate(q, k, positions, layer=0)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        loss = (out - v.detach().flip(2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any(not torch.equal(before[k], v) for k, v in encoding.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("harop", {}, UnknownNameError, "did you mean harope"),
        ("harope", {"bases": 5}, OptionError, "its options: base, axis_order, layout, qk_mode"),
        ("harope", {"heads": 0}, OptionError, "heads 0 is no number of 1 or more"),
        ("rope-axial", {"head_dim": 6}, OptionError, "needs a head size divisible by 4"),
    ],
)
def test_wrong_sizes_and_options_are_named(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    sizes: dict[str, Any] = {"heads": 2, "head_dim": 8, "layers": 1, **options}
    with pytest.raises(error, match=message):
        hb.load_encoding(name, **sizes)
