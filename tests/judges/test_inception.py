"""Judge inception-2015: the same numbers as torch-fidelity's network, and everything that may not
be as it should be is said.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import inception
import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)

from harope_bench import testing
from harope_bench.core import registry
from harope_bench.core.errors import WeightsError
from harope_bench.core.storage import sha256_file
from harope_bench.judges.inception import inception_network
from harope_bench.judges.inception.inception_network import (
    ENVIRONMENT_VARIABLE,
    InceptionOutputs,
    LoadedInception,
    clean_resize,
    fold_batch_norms,
    resize_like_cleanfid,
    resize_like_tensorflow1,
)
from harope_bench.judges.inception.inception_trunk import Trunk
from harope_bench.judges.weights import asset_files

JUDGES = ["inception-2015", "inception-2015-clean", "inception-2015-preview"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inception.write_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Four images of 64 x 48 with large and small structure."""
    rng = np.random.default_rng(0)
    coarse_value = rng.integers(0, 256, (4, 8, 6, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(coarse_value + rng.integers(-40, 41, (4, 64, 48, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def own_weights(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(weights))
    return weights


def relative_error(values: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the wanted array's spread."""
    return float(np.abs(values - expected).max() / expected.std())


def test_one_pass_says_what_torch_fidelity_says(own_weights: Path, images: np.ndarray) -> None:
    library_extractor = inception.extractor(own_weights)
    shown_permute = torch.from_numpy(images).permute(0, 3, 1, 2)
    items: list[torch.Tensor] = []
    library_extractor.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, inputs, out: items.append(out.clone())
    )
    with torch.inference_mode():
        features, logits = library_extractor(shown_permute)
        resized_images = resize_like_tensorflow1(images).contiguous()  # the library's layout
        plain_value = Trunk(library_extractor)(resized_images)
    features_result = registry.load_by_name("judges", "inception-2015").open("cpu").extract(images)
    assert torch.equal(plain_value.features, features) and torch.equal(
        plain_value.logits, logits
    )  # the plain path to the last bit
    expected = items[0][:, :7].permute(0, 2, 3, 1).reshape(len(images), -1)
    assert {k: v.shape for k, v in features_result.items()} == {
        "features": (4, 2048),
        "spatial": (4, 2023),
        "logits": (4, 1008),
    }
    for name, other_features in (("features", features), ("spatial", expected), ("logits", logits)):
        assert relative_error(features_result[name], other_features.numpy()) < 1e-4, (
            name
        )  # the folded one to rounding
    nchw = items[0][:, :7].flatten(1).numpy()
    assert (
        relative_error(features_result["spatial"], nchw) > 0.1
    )  # the order that once gave an sFID of 299: this input would show it


def test_logits_leave_the_bias_out(own_weights: Path, images: np.ndarray) -> None:
    state = torch.load(own_weights, weights_only=True)
    features = registry.load_by_name("judges", "inception-2015").open("cpu").extract(images)
    bare_matrix = features["features"] @ state["fc.weight"].numpy().T
    assert relative_error(features["logits"], bare_matrix) < 1e-5
    assert state["fc.bias"].abs().max() > 1e-3


@pytest.mark.parametrize("side", [32, 128, 299, 512])
def test_resize_is_tensorflow_1s(side: int) -> None:
    """Against the rule written out: source = place * in / out in float32, no half pixel, edge
    clamped.
    """
    image = np.random.default_rng(1).integers(0, 256, (side, side), dtype=np.uint8)
    at = np.arange(299, dtype=np.float32) * np.float32(side / 299)
    low = at.astype(int)
    high, share = np.minimum(low + 1, side - 1), (at - low)[:, None]
    grey = image.astype(np.float32)
    rows = grey[low] + (grey[high] - grey[low]) * share
    expected = (rows[:, low] + (rows[:, high] - rows[:, low]) * share.T - 128) / 128
    result = resize_like_tensorflow1(np.repeat(image[None, :, :, None], 3, -1))[0, 0].numpy()
    assert np.abs(result - expected).max() < 2e-6
    centred_value = nn.functional.interpolate(
        torch.from_numpy(grey)[None, None], size=(299, 299), mode="bilinear"
    )[0, 0].numpy()
    assert (
        side == 299 or np.abs((centred_value - 128) / 128 - expected).max() > 0.05
    )  # the half-pixel rule would show


@pytest.mark.parametrize(("height", "width"), [(1, 5), (28, 28), (299, 299), (300, 256), (90, 700)])
def test_resize_has_the_bits_of_torch_fidelity(height: int, width: int) -> None:
    images = np.random.default_rng(3).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert torch.equal(resize_like_tensorflow1(images), (expected - 128) / 128)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (300, 299), (700, 500)])
def test_slices_of_a_batch_have_the_bits_of_the_whole(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(2).integers(0, 256, (7, height, width, 3), dtype=np.uint8)
    whole_resize_like_tensorflow1, resize, shown_value = (
        inception_network._resize_like_tensorflow1(images),
        inception_network._resize_like_tensorflow1,
        list[int](),
    )

    def resize_and_record(part: np.ndarray) -> torch.Tensor:
        shown_value.append(len(part))
        return resize(part)

    monkeypatch.setattr(inception_network, "_resize_like_tensorflow1", resize_and_record)
    for pixels, slices in (
        (1, [1] * 7),
        (3 * height * width, [3, 3, 1]),
        (10 * height * width, [7]),
    ):
        monkeypatch.setattr(inception_network, "MAX_RESIZE_PIXELS", pixels)
        shown_value.clear()
        assert (
            torch.equal(resize_like_tensorflow1(images), whole_resize_like_tensorflow1)
            and shown_value == slices
        )


@pytest.mark.parametrize("shape", [(299, 299), (28, 28), (64, 512), (700, 333), (1, 5)])
def test_the_clean_resize_is_clean_fids_to_the_bit(shape: tuple[int, int]) -> None:
    resize = pytest.importorskip("cleanfid.resize", reason="needs the extra parity").build_resizer(
        "clean"
    )
    rng = np.random.default_rng(0)
    noise, edges = (
        rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        255 * rng.integers(0, 2, (*shape, 3), dtype=np.uint8),
    )
    for image in (noise, edges):  # edges overshoot, so that the cut to [0, 255] matters
        clean_resize_result, expected = clean_resize(image), resize(image)
        assert clean_resize_result.dtype == expected.dtype == np.float32 and np.array_equal(
            clean_resize_result, expected
        )


def test_the_clean_judge_resizes_as_clean_fid_and_differs(
    own_weights: Path, images: np.ndarray
) -> None:
    from PIL import Image

    expected = [
        Image.fromarray(images[0][..., c].astype(np.float32), mode=None).resize(
            (299, 299), Image.Resampling.BICUBIC
        )
        for c in range(3)
    ]
    stacked_tensor = (np.stack([np.asarray(w).clip(0, 255) for w in expected]) - 128) / 128
    assert np.array_equal(
        resize_like_cleanfid(images)[0].numpy(), stacked_tensor.astype(np.float32)
    )
    clean_feature, plain_feature = (
        registry.load_by_name("judges", name).open("cpu").extract(images)["features"]
        for name in JUDGES[:2]
    )
    assert relative_error(clean_feature, plain_feature) > 0.1


@pytest.mark.parametrize("name", JUDGES[:2])
def test_judges_keep_their_promises(name: str, own_weights: Path, images: np.ndarray) -> None:
    testing.check_judge(name, images)


def test_other_weights_make_a_substitute_and_the_result_says_so(own_weights: Path) -> None:
    plugin = registry.load_by_name("judges", "inception-2015")
    assert plugin.judge_class == "substitute"
    assert plugin.weights_sha256() == sha256_file(own_weights)
    assert "other weights" in plugin.warnings()[0]


def test_published_weights_are_equivalent_but_for_the_preview(
    own_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        asset_files.WeightsSource, "published_sha256", lambda self: sha256_file(own_weights)
    )
    judge_class = {
        name: (
            registry.load_by_name("judges", name).judge_class,
            len(registry.load_by_name("judges", name).warnings()),
        )
        for name in JUDGES
    }
    assert judge_class == {
        JUDGES[0]: ("equivalent", 0),
        JUDGES[1]: ("equivalent", 0),
        JUDGES[2]: ("substitute", 1),
    }


def test_the_known_hash_is_of_the_name() -> None:
    (file,) = (
        __import__("harope_bench.assets.local_files", fromlist=["load_asset"])
        .load_asset("inception-2015")
        .files
    )
    assert file.name.endswith(f"-{file.sha256[:8]}.pth")


def test_preview_is_rougher_than_rounding_and_close_to_the_truth(
    own_weights: Path, images: np.ndarray
) -> None:
    plain_feature, half = (
        registry.load_by_name("judges", name).open("cpu").extract(images)["features"]
        for name in (JUDGES[0], JUDGES[2])
    )
    assert 1e-3 < relative_error(half, plain_feature) < 1


def test_a_fold_that_errs_is_seen_and_the_plain_network_used(
    own_weights: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = registry.load_by_name("judges", "inception-2015").open("cpu").extract(images)

    def fold_wrongly(plain_module: nn.Module) -> nn.Module:
        quick_value: Any = fold_batch_norms(plain_module)
        quick_value.Mixed_5b.branch1x1.conv.bias.data += 0.1
        return quick_value

    monkeypatch.setattr(inception_network, "fold_batch_norms", fold_wrongly)
    inception_network.load_inception.cache_clear()
    loaded_judge = registry.load_by_name("judges", "inception-2015").open("cpu")
    features = loaded_judge.extract(images)
    assert len(loaded_judge.notes) == 1 and "the plain one was used" in loaded_judge.notes[0]
    assert loaded_judge.numerics == {"network": "plain", "tf32": False}
    assert all(relative_error(features[name], right[name]) < 1e-4 for name in right)


@pytest.mark.no_numbers
def test_a_compiler_that_fails_is_said_and_nothing_is_lost(
    own_weights: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_compiler_error(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    right = registry.load_by_name("judges", "inception-2015").open("cpu").extract(images)
    monkeypatch.setenv(inception_network.COMPILE, "1")
    monkeypatch.setattr(torch, "compile", raise_compiler_error)
    loaded_judge = registry.load_by_name("judges", "inception-2015").open("cpu")
    assert np.array_equal(loaded_judge.extract(images)["features"], right["features"])
    assert (
        "torch.compile failed (RuntimeError)" in loaded_judge.notes[0]
        and loaded_judge.numerics["network"] == "folded"
    )


def test_a_compiled_network_is_checked_too(
    own_weights: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    items: list[nn.Module] = []

    def compiles(module: nn.Module, dynamic: bool) -> Any:
        items.append(module)
        return lambda x: InceptionOutputs(*(2 * a for a in module(x)))

    monkeypatch.setenv(inception_network.COMPILE, "1")
    monkeypatch.setattr(torch, "compile", compiles)
    loaded_judge = registry.load_by_name("judges", "inception-2015").open("cpu")
    right = (
        Trunk(loaded_judge.reference_network.network)(resize_like_tensorflow1(images))
        .features.detach()
        .numpy()
    )
    assert relative_error(loaded_judge.extract(images)["features"], right) < 1e-4
    assert (
        items
        and not isinstance(loaded_judge.selected_network, type(compiles))
        and loaded_judge.numerics["network"] == "folded"
    )
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: module)
    inception_network.load_inception.cache_clear()
    sound = registry.load_by_name("judges", "inception-2015").open("cpu")
    sound.extract(images)
    assert sound.numerics["network"] == "compiled"


def test_no_product_is_rounded_to_tf32_and_the_process_keeps_its_setting(
    own_weights: Path, images: np.ndarray
) -> None:
    loaded_judge, records = registry.load_by_name("judges", "inception-2015").open("cpu"), []

    def look(x: torch.Tensor) -> InceptionOutputs:
        records.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return loaded_judge.reference_network(x)

    loaded_judge.selected_network, before = look, torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        loaded_judge.extract(images[:1])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
        inception_network.load_inception.cache_clear()
    assert records == [("highest", False)]


def test_without_weights_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plugin = registry.load_by_name("judges", "inception-2015")
    with pytest.raises(WeightsError, match="harope-bench fetch inception-2015"):
        plugin.open("cpu")
    assert plugin.judge_class == "substitute"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "absent.pth"))
    with pytest.raises(WeightsError, match="absent.pth, which is missing"):
        plugin.weights_sha256()


def test_weights_that_run_code_or_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(print))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    with pytest.raises(WeightsError):
        registry.load_by_name("judges", "inception-2015").open("cpu")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "small.pth")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "small.pth"))
    with pytest.raises(WeightsError, match="does not fit Inception of 2015"):
        registry.load_by_name("judges", "inception-2015").open("cpu")


def test_altered_weights_are_refused_before_they_are_opened(own_weights: Path) -> None:
    with pytest.raises(WeightsError, match="recorded"):
        LoadedInception(
            inception_network.WeightsFile(own_weights, "0" * 64), resize_like_tensorflow1, "cpu"
        )
