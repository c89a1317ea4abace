"""DeiT: structure and numbers against timm's, published names, the class token, folding, and the
micro training.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, PlanMismatchError, WeightsError
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.core.state_dicts import load_state_strictly, load_weights, weights_bytes
from harope_bench.models import load_checkpoint, register_checkpoint
from harope_bench.models.backbones import deit
from harope_bench.models.export_checkpoint import export_checkpoint
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_classifier
from harope_bench.models.register_checkpoint import register
from harope_bench.pipeline.classify import make_classifier_plan
from harope_bench.training.recipe import ClassifierRecipe, read_recipe
from harope_bench.training.run_recipe import run_recipe

SMALL_FIELDS = {"hidden": 64, "depth": 3, "heads": 4, "size": 64}
COLUMN_FIRST = {"base": 100.0, "axis_order": "column-first"}
CHOICES: dict[str, dict[str, Any]] = {
    "ape": {"form": "learned"},
    "rope-axial": COLUMN_FIRST,
    "rope-mixed": {},
    "string": COLUMN_FIRST,
    "harope": COLUMN_FIRST,
}
BASE = {"hidden": 768, "depth": 12, "heads": 12, "size": 224}
LARGE_FIELDS = {"hidden": 1024, "depth": 24, "heads": 16, "size": 224}


def build(
    encoding: str, config: dict[str, Any] = SMALL_FIELDS, options: dict[str, Any] | None = None
) -> deit.DeiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            registry.load_by_name("backbones", "deit")
            .build(encoding, CHOICES[encoding] if options is None else options, config)
            .eval()
        )


def noisy(network: nn.Module, deviation: float = 0.1) -> Any:
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=rng))
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def record(encoding: str, config: dict[str, Any] = SMALL_FIELDS) -> Checkpoint:
    return Checkpoint(
        name="t",
        backbone="deit",
        encoding=encoding,
        options=CHOICES[encoding],
        config=config,
        weights="t.pt",
        sha256="0" * 64,
        source="t",
    )


# -------------------------------------------------------------------------------------------------
# timm


TIMM = {
    "ape": "deit3_base_patch16_224",
    "rope-axial": "vit_base_patch16_rope_224",
    "rope-mixed": "vit_base_patch16_rope_mixed_224",
}


@pytest.mark.parametrize("encoding", list(TIMM))
@pytest.mark.parametrize("side", [(64, 64), (64, 96)])
def test_logits_equal_timms_on_the_same_weights(encoding: str, side: tuple[int, int]) -> None:
    """timm's DeiT-III and its copies of rope-vit are written by others; a table is not enlarged as
    timm does, so APE is square here.
    """
    timm = pytest.importorskip("timm")
    if encoding == "ape" and side[0] != side[1]:
        pytest.skip("timm's own table has the grid of the image")
    library_noisy = noisy(
        timm.create_model(
            TIMM[encoding], pretrained=False, embed_dim=64, depth=3, num_heads=4, img_size=side
        )
    )
    package_value = (
        registry.load_by_name("backbones", "deit")
        .load(record(encoding), library_noisy.state_dict())
        .eval()
    )
    x = images(2, 3, *side)
    with torch.inference_mode():
        expected, result = library_noisy(x), package_value(x)
    assert expected.abs().max() > 0.5
    assert (expected - result).abs().max() < 1e-5  # float32 sums of three layers in another order


@pytest.mark.parametrize(
    "wrong_fields",
    [{"base": 10000.0, "axis_order": "column-first"}, {"base": 100.0, "axis_order": "row-first"}],
)
def test_the_comparison_with_timm_sees_base_and_order(wrong_fields: dict[str, Any]) -> None:
    timm = pytest.importorskip("timm")
    library_noisy = noisy(
        timm.create_model(
            TIMM["rope-axial"], pretrained=False, embed_dim=64, depth=3, num_heads=4, img_size=64
        )
    )
    package_value = (
        registry.load_by_name("backbones", "deit")
        .load(
            record("rope-axial").model_copy(update={"options": wrong_fields}),
            library_noisy.state_dict(),
        )
        .eval()
    )
    x = images(2, 3, 64, 64)
    with torch.inference_mode():
        assert (library_noisy(x) - package_value(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "name"),
    [(BASE, "deit3_base_patch16_224"), (LARGE_FIELDS, "deit3_large_patch16_224")],
)
def test_full_sizes_have_every_parameter_of_timms(config: dict[str, int], name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        library_model, package_network = (
            timm.create_model(name, pretrained=False),
            registry.load_by_name("backbones", "deit").build("ape", CHOICES["ape"], config),
        )
    expected = {k: tuple(v.shape) for k, v in deit.convert_keys(library_model.state_dict()).items()}
    assert {k: tuple(v.shape) for k, v in package_network.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("config", "ape", "mixed_count", "harope"),
    [(BASE, 150_528, 12 * 768, 12 * 99_072), (LARGE_FIELDS, 200_704, 24 * 1024, 24 * 132_096)],
)
def test_an_encodings_parameters_are_those_of_the_paper(
    config: dict[str, int], ape: int, mixed_count: int, harope: int
) -> None:
    """Counted by hand: N D; L H d; L H (2 d^2 + d)."""
    with torch.device("meta"):
        totals = [
            sum(p.numel() for p in build(e, config).encoding.parameters())
            for e in ("ape", "rope-axial", "rope-mixed", "harope")
        ]
    assert totals == [ape, 0, mixed_count, harope]


# --------------------------------------------------------------------------------------- published
# files


def published_state(encoding: str) -> dict[str, Tensor]:
    """A state dict under the names of facebookresearch/deit and naver-ai/rope-vit, with the
    coordinates the latter saves.
    """
    state = noisy(build(encoding)).state_dict()
    names = {"encoding.table": "pos_embed", "encoding.freqs": "freqs"}
    state = {names.get(k, k): v for k, v in state.items()}
    if encoding == "rope-mixed":
        t = torch.arange(16.0)
        state |= {"freqs_t_x": t % 4, "freqs_t_y": torch.div(t, 4, rounding_mode="floor")}
    return state


@pytest.mark.parametrize(
    ("encoding", "message"), [("ape", "ape"), ("rope-mixed", "rope-mixed"), ("rope-axial", None)]
)
def test_a_published_file_tells_its_encoding_and_sizes(encoding: str, message: str | None) -> None:
    clue = registry.load_by_name("backbones", "deit").detect_fields(published_state(encoding))
    assert clue.encoding == message
    size = {} if message is None else {"size": 64}
    assert clue.config == {
        "hidden": 64,
        "channels": 3,
        "patch": 16,
        "classes": 1000,
        "depth": 3,
        **size,
    }


def test_a_published_file_registers_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    save_file(published_state("rope-mixed"), tmp_path / "w.safetensors")
    register_checkpoint.register(
        "mine", tmp_path / "w.safetensors", {"config": {"heads": 4}, "suite": "imagenet-val"}
    )
    checkpoint_record = load_checkpoint.load_checkpoint_record("mine")
    assert (
        checkpoint_record.encoding,
        checkpoint_record.sampler,
        checkpoint_record.steps,
        checkpoint_record.config["size"],
    ) == (
        "rope-mixed",
        None,
        None,
        64,
    )
    reader = load_checkpoint.open_classifier(checkpoint_record, Settings(resolution=64, tile=2))
    assert reader.classify(np.zeros((2, 64, 64, 3), dtype=np.uint8)).shape == (2, 1000)


def test_every_key_is_accounted_for() -> None:
    load = registry.load_by_name("backbones", "deit").load
    state = published_state("rope-mixed")
    with pytest.raises(
        WeightsError, match="freqs_t_y"
    ):  # not the plain grid, so not left out in silence
        load(record("rope-mixed"), {**state, "freqs_t_y": state["freqs_t_y"] + 1})
    with pytest.raises(WeightsError, match="head_dist"):
        load(record("rope-mixed"), {**state, "head_dist.weight": torch.zeros(2, 2)})
    with pytest.raises(WeightsError, match=r"missing blocks\.2\.gamma_2"):
        load(record("rope-mixed"), {k: v for k, v in state.items() if k != "blocks.2.gamma_2"})
    with pytest.raises(
        WeightsError,
        match="has an added table and rotary frequencies, which no encoding here combines",
    ):
        load(record("rope-mixed"), {**state, "pos_embed": torch.zeros(1, 16, 64)})
    with pytest.raises(
        WeightsError, match=r"mis-shaped encoding\.table"
    ):  # the first DeiT's table has a row for the class token
        load(record("ape"), {**published_state("ape"), "pos_embed": torch.zeros(1, 17, 64)})


# ------------------------------------------------------------------------------------------- class
# token


def reads_alike_when_shuffled(network: deit.DeiT, seed: int = 0) -> float:
    """How far logits move when the patches of an image change places."""
    x = images(2, 3, 64, 64)
    patches = x.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)  # (B, C, 16, 16, 16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
    moved_permute = (
        patches[:, :, order].unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    )
    with torch.inference_mode():
        return float((network(x) - network(moved_permute)).abs().max())


@pytest.mark.parametrize("encoding", list(CHOICES))
def test_the_network_sees_where_patches_are(encoding: str) -> None:
    assert reads_alike_when_shuffled(noisy(build(encoding))) > 1e-3


@pytest.mark.parametrize("encoding", list(CHOICES))
def test_the_class_token_is_not_turned_and_gets_no_table(encoding: str) -> None:
    network = noisy(build(encoding))
    items: list[Tensor] = []
    turned_apply_rotation, embedded_embed = network.encoding.apply_rotation, network.encoding.embed
    fields: dict[str, Any] = {}

    def watch(q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        items.append(positions)
        after = turned_apply_rotation(q, k, positions, layer)
        assert torch.equal(after[0][:, :, 0], q[:, :, 0]) and torch.equal(
            after[1][:, :, 0], k[:, :, 0]
        )
        return after

    def count(tokens: Tensor, positions: Tensor) -> Tensor:
        fields["tokens"] = tokens.shape[1]
        return embedded_embed(tokens, positions)

    network.encoding.apply_rotation, network.encoding.embed = watch, count  # type: ignore[method-assign]
    with torch.inference_mode():
        network(images(1, 3, 64, 64))
    assert fields["tokens"] == 16
    assert all(len(p) == 17 and torch.equal(p[0], torch.zeros(2)) for p in items)


@pytest.mark.parametrize("encoding", ["string", "harope"])
def test_matrices_fold_because_they_act_on_the_class_token_too(encoding: str) -> None:
    """Folded by hand into the rows of each head; the wrong fold beside it leaves the class token
    out and is seen.
    """
    network, x = noisy(build(encoding)), images(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        for layer, block in enumerate(network.blocks):
            pair = network.encoding.matrices(layer)
            for part, matrix in enumerate((pair.q, pair.k)):
                for head in range(4):
                    rows = slice(64 * part + 16 * head, 64 * part + 16 * (head + 1))
                    m = matrix[head % len(matrix)]
                    block.attn.qkv.weight[rows] = m @ block.attn.qkv.weight[rows]
                    block.attn.qkv.bias[rows] = m @ block.attn.qkv.bias[rows]
        unfolded_encoding, network.encoding = network.encoding, network.encoding.without_matrices()
        assert (network(x) - expected).abs().max() < 1e-4 * expected.abs().max()
        network.encoding = unfolded_encoding
        assert (network(x) - expected).abs().max() > 1e-3


def test_another_resolution_enlarges_a_learned_table_and_extends_rotations() -> None:
    for encoding in CHOICES:
        network = noisy(build(encoding))
        with torch.inference_mode():
            assert network(images(1, 3, 96, 128)).isfinite().all()


# --------------------------------------------------------------------------------------------- bad
# input


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SMALL_FIELDS, "heads": 5}, "does not divide into 5 heads"),
        ({**SMALL_FIELDS, "hidden": 40, "heads": 4}, "head size divisible by 4, found 10"),
        ({**SMALL_FIELDS, "size": 60}, "does not divide into patches of 16"),
        ({**SMALL_FIELDS, "channels": 2}, "channels"),
        ({**SMALL_FIELDS, "deep": 2}, "deep"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message) as excinfo:
        build("rope-axial", config)
    assert "\n" not in str(excinfo.value)


def test_heads_are_of_64_channels_unless_said() -> None:
    assert deit.parse_config({"hidden": 1024, "depth": 24, "size": 224}).heads == 16
    assert deit.parse_config({"hidden": 128, "depth": 1, "heads": 4, "size": 224}).heads == 4


def test_pixels_are_normalised_by_the_networks_numbers() -> None:
    white = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
    rgb = deit.normalise(white, deit.parse_config({"hidden": 64, "depth": 1, "size": 224}))
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        assert math.isclose(float(rgb[0, channel, 0, 0]), (1 - mean) / deviation, rel_tol=1e-6)
    grey = deit.normalise(
        white,
        deit.parse_config(
            {"hidden": 64, "depth": 1, "size": 224, "channels": 1, "normalised": "half"}
        ),
    )
    assert grey.shape == (1, 1, 2, 2) and torch.equal(grey, torch.ones(1, 1, 2, 2))


# ----------------------------------------------------------------------------------------------
# training


def write_quick_recipe(folder: Path, steps: int = 4, snapshot: int = 2) -> Path:
    text = (registry.PACKAGE / "training/recipes/digits-deit.toml").read_text()
    for line, value in (
        ("steps", steps),
        ("batch", 8),
        ("warmup", 1),
        ("snapshot", snapshot),
        ("hidden", 12),
        ("depth", 1),
    ):
        text = "\n".join(
            f"{line} = {value}" if row.startswith(f"{line} = ") else row for row in text.split("\n")
        )
    path = folder / "quick.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["digits-deit"])
def test_the_shipped_recipes_build_every_encoding_of_the_table(name: str) -> None:
    recipe, _ = read_recipe(name)
    assert isinstance(recipe, ClassifierRecipe)
    for encoding in CHOICES:
        assert build(encoding, recipe.config)(images(1, 1, 28, 28)).shape == (1, 10)
    registry.find_entry("suites", recipe.suite), registry.find_entry("suites", recipe.test_suite)


def test_a_training_leaves_a_checkpoint_that_registers_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    path = str(write_quick_recipe(tmp_path))
    run_recipe(path, "rope-mixed", {}, "straight", tmp_path / "a", True)
    calls = {"left": 3}
    whole_forward = deit.DeiT.forward

    def stops(self: deit.DeiT, x: Tensor) -> Tensor:
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return whole_forward(self, x)

    monkeypatch.setattr(deit.DeiT, "forward", stops)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(path, "rope-mixed", {}, "straight", tmp_path / "b", True)
    monkeypatch.setattr(deit.DeiT, "forward", whole_forward)
    run_recipe(path, "rope-mixed", {}, "straight", tmp_path / "b", True)
    for name in ("straight.safetensors", "straight.toml", "log.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(PlanMismatchError, match="encoding rope-mixed"):
        run_recipe(path, "rope-axial", {}, "other", tmp_path / "b", True)
    register_checkpoint.register("straight", tmp_path / "a/straight.safetensors", {})
    checkpoint_record = load_checkpoint.load_checkpoint_record("straight")
    assert (
        checkpoint_record.backbone,
        checkpoint_record.encoding,
        checkpoint_record.suite,
        checkpoint_record.scale,
    ) == (
        "deit",
        "rope-mixed",
        "digits-held-out",
        "micro",
    )
    assert (checkpoint_record.sampler, checkpoint_record.training_steps) == (None, 4)
    assert all(
        v.dtype == torch.float16
        for v in load_weights(load_checkpoint.find_weights_path(checkpoint_record)).values()
    )
    load_state_strictly(
        build("rope-mixed", dict(checkpoint_record.config)),
        load_weights(load_checkpoint.find_weights_path(checkpoint_record)),
        "straight",
    )


def test_a_recipe_of_a_classifier_needs_an_encoding(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="add --encoding"):
        run_recipe(str(write_quick_recipe(tmp_path)), None, {}, None, tmp_path / "a", True)


def test_folding_is_the_papers_default_and_changes_nothing_but_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    config = {"hidden": 32, "depth": 2, "heads": 2, "patch": 4, "size": 16, "classes": 1000}
    network = build("harope", config)
    with torch.no_grad():
        for parameter in network.encoding.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_bytes(network.state_dict(), {}))
    register("folded", path, {"config": {"size": 16}, "suite": "imagenet-val"})
    checkpoint_record = load_checkpoint_record("folded")
    assert checkpoint_record.drawing == {"fold": True}
    settings = make_classifier_plan("folded", "imagenet-val", {"resolution": 16}).settings
    assert settings.fold
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    classifies = [
        open_classifier(checkpoint_record, settings.model_copy(update={"fold": fold})).classify(
            pictures
        )
        for fold in (True, False)
    ]
    np.testing.assert_allclose(
        classifies[0], classifies[1], rtol=0, atol=1e-5 * np.abs(classifies[1]).max()
    )
    out = export_checkpoint("folded", tmp_path / "plain.safetensors", is_folded=True)
    register("plain", out, {})
    left = load_checkpoint_record("plain")
    assert (left.encoding, "fold" in left.drawing) == ("rope-axial", False)
    np.testing.assert_allclose(
        open_classifier(
            left, make_classifier_plan("plain", None, {"resolution": 16}).settings
        ).classify(pictures),
        classifies[1],
        atol=1e-4,
    )


def test_a_foreign_deit_has_rope_vits_base_and_order_where_nothing_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    config = {"hidden": 32, "depth": 1, "heads": 2, "patch": 4, "size": 16, "classes": 10}
    network = build("rope-axial", config)
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_bytes(network.state_dict(), {}))
    fields = {
        "encoding": "rope-axial",
        "config": {"size": 16, "heads": 2},
        "suite": "digits-held-out",
    }
    register("usual", path, fields)
    register("other", path, {**fields, "options": {"base": 10000.0}})
    assert load_checkpoint_record("usual").options == {"base": 100.0, "axis_order": "column-first"}
    assert load_checkpoint_record("other").options == {
        "base": 10000.0,
        "axis_order": "column-first",
    }


@pytest.mark.parametrize("encoding", ["rope-axial", "harope"])
def test_a_side_that_no_key_tells_must_be_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    config = {"hidden": 32, "depth": 1, "heads": 2, "patch": 4, "size": 16, "classes": 10}
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_bytes(build(encoding, config).state_dict(), {}))
    with pytest.raises(
        OptionError,
        match=(
            f"deit weights of {encoding} do not reveal the side .* add --config size=224 or another"
        ),
    ) as excinfo:
        register("mine", path, {"encoding": encoding, "config": {"heads": 2}})
    assert len(str(excinfo.value).splitlines()) == 1
    register("mine", path, {"encoding": encoding, "config": {"heads": 2, "size": 16}})
    assert load_checkpoint_record("mine").config["size"] == 16
    with pytest.raises(OptionError, match="deit config size"):
        deit.parse_config({"hidden": 64, "depth": 1})


def test_a_scaling_that_means_nothing_is_refused_before_a_picture_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAROPE_BENCH_HOME", str(tmp_path / "home"))
    with pytest.raises(OptionError, match="pos_scaling ntk does not apply to rope-mixed"):
        make_classifier_plan(
            "digits-deit-rope-mixed", None, {"pos_scaling": "ntk", "resolution": 56}
        )
