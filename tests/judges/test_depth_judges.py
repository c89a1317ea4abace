"""Judges of depth: DPT-Hybrid held to timm's network under the published head, the benchmark's
steps to slow ones, on random weights.
"""

from __future__ import annotations

import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_depth import save_depth_model
from torch import Tensor
from torch.nn import functional as F

from harope_bench import testing
from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    DepthQuery,
    SimilarityQuery,
    is_complete_annotation,
)
from harope_bench.core.errors import MissingAssetError, OptionError, WeightsError
from harope_bench.core.storage import sha256_file
from harope_bench.judges.depth import depth_map, dpt_network
from harope_bench.judges.generic import depth
from harope_bench.judges.weights import asset_files

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "neck_hidden_sizes": [128, 256, 32, 32],
    "fusion_hidden_size": 16,
    "backbone_featmap_shape": [1, 512, 24, 24],
    "backbone_config": {
        "model_type": "bit",
        "depths": [1, 2, 1],
        "hidden_sizes": [128, 256, 512, 1024],
        "embedding_size": 64,
        "global_padding": "same",
        "layer_type": "bottleneck",
        "out_features": ["stage1", "stage2", "stage3"],
        "embedding_dynamic_padding": True,
    },
}


@cache
def body() -> Any:
    """timm's hybrid of these sizes, as the published network's `pretrained.model`."""
    from timm.layers import StdConv2dSame
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed

    conv = partial(StdConv2dSame, eps=1e-8)
    with torch.random.fork_rng(devices=[]):
        stages = ResNetV2(
            (1, 2, 1),
            channels=(128, 256, 512),
            num_classes=0,
            global_pool="",
            preact=False,
            stem_type="same",
            conv_layer=conv,
        )
        embed = partial(HybridEmbed, backbone=stages)
        return VisionTransformer(
            384,
            1,
            num_classes=7,
            embed_dim=32,
            depth=12,
            num_heads=2,
            mlp_ratio=1.5,
            embed_layer=embed,
        ).eval()


@cache
def published_state() -> dict[str, Tensor]:
    """Random weights under the published file's names, with the classifier of its pretraining."""
    rng = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        f"pretrained.model.{k}": tuple(v.shape) for k, v in body().state_dict().items()
    }
    for n in (3, 4):
        post = f"pretrained.act_postprocess{n}"
        shapes |= {f"{post}.0.project.0.weight": (32, 64), f"{post}.0.project.0.bias": (32,)}
        shapes |= {f"{post}.3.weight": (32, 32, 1, 1), f"{post}.3.bias": (32,)}
    shapes |= {
        "pretrained.act_postprocess4.4.weight": (32, 32, 3, 3),
        "pretrained.act_postprocess4.4.bias": (32,),
    }
    for n, width in enumerate((128, 256, 32, 32), 1):
        shapes[f"scratch.layer{n}_rn.weight"] = (16, width, 3, 3)
        net = f"scratch.refinenet{n}"
        shapes |= {f"{net}.out_conv.weight": (16, 16, 1, 1), f"{net}.out_conv.bias": (16,)}
        for unit in (f"{net}.resConfUnit{u}.conv{c}" for u in (1, 2) for c in (1, 2)):
            shapes |= {f"{unit}.weight": (16, 16, 3, 3), f"{unit}.bias": (16,)}
    for n, size in ((0, (8, 16, 3, 3)), (2, (32, 8, 3, 3)), (4, (1, 32, 1, 1))):
        shapes |= {
            f"scratch.output_conv.{n}.weight": size,
            f"scratch.output_conv.{n}.bias": size[:1],
        }
    state = {
        name: torch.randn(size, generator=rng) / math.sqrt(max(math.prod(size[1:]), 25))
        for name, size in shapes.items()
    }
    for name in state:
        if "norm" in name and name.endswith("weight"):
            state[name] += 1
    state["scratch.output_conv.4.bias"] += 9  # the last ReLU must not hide the map
    return state


def reference_depth(image: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """The published network's inverse depth (480, 480), from timm's body and the head written out,
    in float64.
    """
    w = {name: tensor.double() for name, tensor in published_state().items()}
    model = body().double()
    model.load_state_dict(
        {
            k.removeprefix("pretrained.model."): v
            for k, v in w.items()
            if k.startswith("pretrained.model.")
        }
    )
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps

    def conv(x: Tensor, name: str, **method: int) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **method)

    def unit(x: Tensor, name: str) -> Tensor:
        return x + conv(
            conv(x.relu(), f"{name}.conv1", padding=1).relu(), f"{name}.conv2", padding=1
        )

    def larger(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    def post(tokens: Tensor, n: int) -> Tensor:
        tensor_result = torch.cat([tokens[:, 1:], tokens[:, :1].expand(-1, 900, -1)], -1)
        name = f"pretrained.act_postprocess{n}"
        mixed_gelu = F.gelu(
            tensor_result @ w[f"{name}.0.project.0.weight"].T + w[f"{name}.0.project.0.bias"]
        )
        return conv(mixed_gelu.transpose(1, 2).unflatten(2, (30, 30)), f"{name}.3")

    square = np.array(Image.fromarray(image).resize((480, 480), Image.Resampling.BILINEAR))
    x = torch.from_numpy((square / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.inference_mode():
        stem = model.patch_embed.backbone
        first_value = stem.stages[0](stem.stem(x))
        two = stem.stages[1](first_value)
        tokens = model.patch_embed.proj(stem.stages[2](two)).flatten(2).transpose(1, 2)
        grid = model.pos_embed[:, 1:].reshape(1, 24, 24, 32).permute(0, 3, 1, 2)
        transpose = F.interpolate(grid, size=(30, 30), mode="bilinear").flatten(2).transpose(1, 2)
        tokens = torch.cat([model.cls_token, tokens], 1) + torch.cat(
            [model.pos_embed[:, :1], transpose], 1
        )
        records = []
        for block in model.blocks:
            tokens = block(tokens)
            records.append(tokens)
        four = conv(post(records[11], 4), "pretrained.act_postprocess4.4", stride=2, padding=1)
        rows = [
            conv(f, f"scratch.layer{n}_rn", padding=1)
            for n, f in enumerate((first_value, two, post(records[8], 3), four), 1)
        ]
        path: Any = None
        for n in (4, 3, 2, 1):
            path = (
                rows[n - 1]
                if path is None
                else path + unit(rows[n - 1], f"scratch.refinenet{n}.resConfUnit1")
            )
            path = conv(
                larger(unit(path, f"scratch.refinenet{n}.resConfUnit2")),
                f"scratch.refinenet{n}.out_conv",
            )
        out = larger(conv(path, "scratch.output_conv.0", padding=1))
        out = conv(
            conv(out, "scratch.output_conv.2", padding=1).relu(), "scratch.output_conv.4"
        ).relu()
    return out[0, 0].numpy()


@pytest.fixture
def small_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plugin, path = registry.load_by_name("judges", "dpt-depth"), tmp_path / "dpt.pt"
    torch.save(published_state(), path)
    monkeypatch.setattr(plugin, "sizes", SIZES)
    monkeypatch.setenv(plugin.source.environment_variable, str(path))
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """60 x 90 with large and small structure."""
    rng = np.random.default_rng(0)
    coarse_value = rng.integers(0, 256, (6, 9, 3)).repeat(10, 0).repeat(10, 1)
    return np.clip(coarse_value + rng.integers(-30, 31, (60, 90, 3)), 0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------
# network


def test_the_network_is_the_published_one(small_weights: Path, image: np.ndarray) -> None:
    """Names, sizes, positions and head at once, in float64; the norms' epsilon hardly shows here
    and is looked up.
    """
    from harope_bench.judges.depth.dpt_depth import pixels

    loaded_judge = registry.load_by_name("judges", "dpt-depth").open("cpu")
    with torch.inference_mode():
        predicted_depth = loaded_judge.network(pixels(image)).predicted_depth[0].numpy()
    expected = reference_depth(image)
    deviation = expected.std()
    assert (
        predicted_depth.shape == expected.shape == (480, 480)
        and deviation > 0.01
        and (expected > 0).mean() > 0.9
    )
    assert np.abs(predicted_depth - expected).max() < 1e-3 * deviation
    norms = {
        m.eps
        for name, m in loaded_judge.network.named_modules()
        if isinstance(m, torch.nn.LayerNorm)
    }
    assert norms == {1e-6}


def test_every_key_of_the_file_is_used(small_weights: Path) -> None:
    state = dict(published_state())
    names = set(dpt_network.convert_state(state))
    assert names == set(dpt_network.build_network(SIZES).state_dict())
    assert (
        len(names) == len(state) - 2 + 2 * 24
    )  # without the classifier; three for one in twelve blocks, weight and bias
    torch.save({**state, "scratch.refinenet1.more": torch.zeros(1)}, small_weights)
    with pytest.raises(
        WeightsError,
        match=r"does not fit DPT-Hybrid \(MiDaS\): unexpected scratch\.refinenet1\.more",
    ):
        registry.load_by_name("judges", "dpt-depth").open("cpu")
    del state["scratch.layer2_rn.weight"]
    torch.save(state, small_weights)
    with pytest.raises(
        WeightsError, match=r"missing neck\.convs\.1\.weight; run: harope-bench fetch dpt-depth"
    ):
        registry.load_by_name("judges", "dpt-depth").open("cpu")


def test_the_network_of_full_size_has_the_published_names() -> None:
    """timm's full network under the names of DPT, against transformers' of full size; without
    memory.
    """
    import timm

    with torch.device("meta"):
        whole_model = timm.create_model("vit_base_r50_s16_384", pretrained=False)
        network = dpt_network.build_network(dpt_network.SIZES)
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    package_state = dpt_network.convert_state(
        {f"pretrained.model.{k}": v for k, v in whole_model.state_dict().items()}
    )
    assert {k: tuple(v.shape) for k, v in package_state.items()} == {
        k: v for k, v in expected.items() if k.startswith("dpt.")
    }
    assert sum(math.prod(v) for v in expected.values()) == sum(
        p.numel() for p in network.parameters()
    )
    assert network.config.backbone_config.depths == [3, 4, 9]


def test_the_published_hash_makes_the_judge(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", "dpt-depth")
    assert (
        plugin.judge_class == "substitute"
        and "other weights than DPT-Hybrid" in plugin.warnings()[0]
    )
    (file,) = local_files.load_asset("dpt-depth").files
    assert (
        file.sha256
        and f"-{file.sha256[:8]}.pt" in file.name
        and all(url.endswith(file.name) for url in file.urls)
    )
    monkeypatch.setattr(
        asset_files.WeightsSource,
        "find",
        lambda self: asset_files.WeightsFile(small_weights, file.sha256[:8] + "0" * 56),
    )
    assert plugin.judge_class == "substitute", "the name's eight digits alone are found by trying"
    monkeypatch.setattr(
        asset_files.WeightsSource,
        "find",
        lambda self: asset_files.WeightsFile(small_weights, file.sha256),
    )
    assert plugin.judge_class == "equivalent" and plugin.warnings() == ()
    monkeypatch.undo()
    with pytest.raises(MissingAssetError, match="harope-bench fetch dpt-depth"):
        plugin.weights_sha256()


# ----------------------------------------------------------------------------------------------
# steps


def test_the_stored_picture_has_pillows_8_bits() -> None:
    rng = np.random.default_rng(1)
    near_tensor = torch.from_numpy(rng.random((7, 9), dtype=np.float32) * 4 + 1)
    values = np.asarray(depth_map.to_8_bit_image(near_tensor, 31, 45))
    low, high = float(near_tensor.min()), float(near_tensor.max())
    shares = ((near_tensor.double() - low) / (high - low)).numpy()
    expected = np.zeros((31, 45))
    for y in range(31):
        for x in range(45):  # corners of both grids lie on each other
            v, u = y * 6 / 30, x * 8 / 44
            i, j = min(int(v), 5), min(int(u), 7)
            b, a = v - i, u - j
            cell = shares[i : i + 2, j : j + 2]
            expected[y, x] = 255 * float(np.array([1 - b, b]) @ cell @ np.array([1 - a, a]))
    whole_values = np.asarray(Image.fromarray(expected.astype(np.float32)).convert("L"))
    assert values.shape == (31, 45) and values.min() == 0 and values.max() == 255
    assert (
        np.abs(values.astype(int) - whole_values).max() <= 1
        and (values == whole_values).mean() > 0.99
    )  # a value on a whole number may fall either way
    assert (np.round(expected) != values).mean() > 0.3  # rounding to the nearest would show
    assert not np.asarray(depth_map.to_8_bit_image(torch.ones(4, 4), 8, 8)).any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (479, 479)),
        ((1024, 512), (480, 240)),
        ((512, 514), (479, 480)),
        ((300, 200), (480, 320)),
    ],
)
def test_the_frame_is_the_detectors(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert depth_map.resize_to_frame(Image.new("L", size)).shape == expected[::-1]


def test_means_stand_in_the_frame_and_exchanged() -> None:
    """A map that grows to the right: x decides the mean, in the exchanged box y does."""
    near_value = torch.arange(480.0).expand(480, 480)
    boxes = (
        (0, 0, 512, 512),
        (256, 0, 512, 128),
        (0, 256, 64, 512),
        (-8, -8, 40, 40),
        (100, 100, 100.2, 300),
        (480, 0, 512, 32),
    )
    answer = depth_map.depths_of_boxes(near_value, (512, 512), boxes)
    frame = depth_map.resize_to_frame(depth_map.to_8_bit_image(near_value, 512, 512)).astype(float)
    for box, box_depth in zip(boxes, answer.depths, strict=True):
        x0, y0, x1, y1 = (max(math.floor(c * 479 / 512), 0) for c in box)
        patch, turned_frame = frame[y0:y1, x0:x1], frame[x0:x1, y0:y1]
        assert box_depth.mean == (pytest.approx(patch.mean()) if patch.size else None)
        assert box_depth.transposed_mean == (
            pytest.approx(turned_frame.mean()) if turned_frame.size else None
        )
    whole_depth, right, left = answer.depths[:3]
    assert whole_depth.mean == whole_depth.transposed_mean
    assert (
        right.mean > 180
        and right.transposed_mean < 40
        and left.mean < 20
        and left.transposed_mean > 180
    )
    assert answer.depths[4].mean is None and answer.depths[4].transposed_mean is None


def test_a_tall_image_can_lose_the_exchanged_box() -> None:
    near_tensor = torch.rand(480, 480, generator=torch.Generator().manual_seed(0))
    (depth,) = depth_map.depths_of_boxes(
        near_tensor, (1024, 512), ((0, 600, 200, 1000),)
    ).depths  # frame 240 x 480: y from 281 is no column
    assert depth.mean is not None and depth.transposed_mean is None


def test_corners_survive_the_way_to_image_pixels_and_back() -> None:
    """A detector's whole corner of the frame, told in image pixels, is the same corner again."""
    near_value = torch.arange(480.0).expand(480, 480)
    frame = depth_map.resize_to_frame(depth_map.to_8_bit_image(near_value, 2048, 2048)).astype(
        float
    )
    for corner in range(0, 478):
        box = (corner * 2048 / 479, 0.0, (corner + 1) * 2048 / 479, 2048.0)
        (depth,) = (
            depth_map.depths_of_boxes(near_value, (2048, 2048), (box,)).depths
            if corner % 37 == 0
            else (None,)
        )
        assert depth is None or depth.mean == pytest.approx(frame[:, corner].mean())


def test_a_map_that_is_not_finite_is_no_answer() -> None:
    with pytest.raises(ArithmeticError):
        depth_map.depths_of_boxes(torch.full((4, 4), torch.nan), (8, 8), ((0, 0, 4, 4),))


def test_the_judge_keeps_its_promises(small_weights: Path) -> None:
    testing.check_annotator("dpt-depth")


def test_answers_are_typed_and_stand_alone(small_weights: Path, image: np.ndarray) -> None:
    loaded_judge = registry.load_by_name("judges", "dpt-depth").open("cpu")
    ask = DepthQuery(boxes=((0, 0, 45, 60), (45, 0, 90, 60), (10, 10, 10, 10)))
    answer = loaded_judge.annotate("depth", image, ask)
    assert (
        is_complete_annotation(ask, answer)
        and ANNOTATION_TYPES["depth"].model_validate(answer.model_dump()) == answer
    )
    assert [d.mean is None for d in answer.depths] == [False, False, True]
    alone_annotation = loaded_judge.annotate("depth", image, DepthQuery(boxes=ask.boxes[1:2]))
    assert alone_annotation.depths[0] == answer.depths[1] != answer.depths[0]
    with pytest.raises(OptionError, match="wanted similarity"):
        loaded_judge.annotate("similarity", image, SimilarityQuery(texts=()))


def test_the_self_check_passes_on_any_weights_and_finds_a_wrong_stack(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", "dpt-depth")
    loaded_judge = plugin.open("cpu")
    assert [case.check(loaded_judge) for case in plugin.self_checks()] == [None, None]
    *_, steps = registry.load_by_name("judges", "depth").self_checks()
    framed_resize_to_frame = depth_map.resize_to_frame
    monkeypatch.setattr(
        depth_map, "resize_to_frame", lambda picture: framed_resize_to_frame(picture).T
    )  # the benchmark's own slip
    assert "a map that grows to the right gives" in steps.check(loaded_judge)


# ------------------------------------------------------------------------------------ a model of
# the user's


def test_a_model_of_ones_own_tells_depth(tmp_path: Path, image: np.ndarray) -> None:
    plugin = registry.load_by_name("judges", "depth").with_model(
        str(save_depth_model(tmp_path / "model"))
    )
    testing.check_annotator(plugin)
    loaded_judge = plugin.open("cpu")
    ask = DepthQuery(boxes=((0, 0, 45, 60), (45, 0, 90, 60)))
    answer = loaded_judge.annotate("depth", image, ask)
    assert (
        is_complete_annotation(ask, answer)
        and plugin.judge_class == "substitute"
        and plugin.weights_sha256() == loaded_judge.weights_sha256
    )
    with torch.inference_mode():
        inputs = loaded_judge.prepare(images=Image.fromarray(image), return_tensors="pt")
        raw_predicted_depth = loaded_judge.network(**inputs).predicted_depth[0]
    assert (
        raw_predicted_depth.std() > 0
        and depth_map.depths_of_boxes(raw_predicted_depth, (60, 90), ask.boxes) == answer
    )
    metric = (
        registry.load_by_name("judges", "depth")
        .with_model(str(save_depth_model(tmp_path / "metric", depth_estimation_type="metric")))
        .open("cpu")
    )
    with torch.inference_mode():
        metres = metric.network(**inputs).predicted_depth[0]
    assert metric.annotate("depth", image, ask) == depth_map.depths_of_boxes(
        1 / metres.clamp_min(1e-6), (60, 90), ask.boxes
    )
    assert (
        plugin.weights_sha256()
        != registry.load_by_name("judges", "depth")
        .with_model(str(tmp_path / "metric"))
        .weights_sha256()
    )


def test_which_way_a_map_runs_is_known_or_refused() -> None:
    far_tensor = torch.tensor([1.0, 4.0])
    config = transformers.DepthAnythingConfig()
    assert torch.equal(depth.inverse_depth(far_tensor, config), far_tensor)
    config.depth_estimation_type = "metric"
    assert torch.equal(depth.inverse_depth(far_tensor, config), torch.tensor([1.0, 0.25]))
    with pytest.raises(
        OptionError, match="not known whether larger is nearer in networks of type bert"
    ):
        depth.inverse_depth(far_tensor, transformers.BertConfig())


def test_what_is_wrong_with_a_model_is_one_line(tmp_path: Path) -> None:
    plugin = registry.load_by_name("judges", "depth")
    assert plugin.needs_model
    for wrong_weights_sha256 in (plugin.weights_sha256, lambda: plugin.open("cpu")):
        with pytest.raises(MissingAssetError, match="depth=depth:FOLDER-OR-HUB-ID"):
            wrong_weights_sha256()
    with pytest.raises(MissingAssetError, match="hf download nobody/nothing"):
        plugin.with_model("nobody/nothing").open("cpu")
    with pytest.raises(MissingAssetError, match="no folder and no hub id"):
        plugin.with_model("../else/where").open("cpu")
    with pytest.raises(MissingAssetError, match=r"has no config\.json"):
        plugin.with_model(str(tmp_path)).open("cpu")
    folder = save_depth_model(tmp_path / "model")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("head.conv1.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        WeightsError,
        match=(
            r"does not fill 1 weights of the network, or in another shape \(head\.conv1\.weight\)"
        ),
    ):
        plugin.with_model(str(folder)).open("cpu")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="its weights cannot be read") as excinfo:
        plugin.with_model(str(folder)).open("cpu")
    assert "\n" not in str(excinfo.value)
    with torch.random.fork_rng(devices=[]):
        transformers.BertModel(
            transformers.BertConfig(
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                intermediate_size=8,
                vocab_size=9,
            )
        ).save_pretrained(tmp_path / "bert")
    with pytest.raises(OptionError, match="holds no depth network that transformers knows"):
        plugin.with_model(str(tmp_path / "bert")).open("cpu")


def test_the_hash_is_that_of_the_files(tmp_path: Path) -> None:
    from harope_bench.judges.generic.local_model import find_local_model

    folder = save_depth_model(tmp_path / "model")
    first_local_model = find_local_model(str(folder))
    assert first_local_model.path == folder and len(first_local_model.sha256) == 64
    (folder / "README.md").write_text("words about it")
    assert find_local_model(str(folder)) == first_local_model
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert find_local_model(str(folder)).sha256 != first_local_model.sha256
    assert sha256_file(folder / "model.safetensors")
