"""mmdet's own network, steps and post-processing against ours, with shared random weights in which every tensor is perturbed.

Without mmdet (the extra of that name) only its absence can be tested.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdet_weights
import numpy as np
import pytest
import torch

from harope_bench.errors import MissingExtra
from harope_bench.judges import _mmcv_ops, mask2former, mask2former_mmdet
from harope_bench.judges._instances import instances, prepared
from harope_bench.perceptions import Names, Sighting, decode_mask

# Rounding of two programs is 1e-6 here. Where a mask's logit passes zero between them, the masked attention sees one place more or less,
# and a score moves by up to 1.5e-4; a wrong key or a wrong step moves it by tenths.
SCORES = 1e-3


@pytest.fixture(scope="module")
def mmdet() -> Any:
    return pytest.importorskip("mmdet", reason="pip install 'harope-bench[t2i,mmdet]'") and _mmcv_ops.mmdet()


@pytest.fixture(scope="module")
def pair(mmdet: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Both judges opened on one file; ours through the old names, which mmdet 3.3's network gets renamed."""
    pytest.importorskip("cv2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAROPE_BENCH_MASK2FORMER", str(mmdet_weights.write(tmp_path_factory.mktemp("weights") / "old.pth", "old")))
        yield mask2former.Mask2Former(mmdet_weights.SMALL).open(), mask2former_mmdet.Mmdet(mmdet_weights.SMALL).open()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:height, :width]


def same(one: Sighting, two: Sighting) -> None:
    """The same things, in the same order, in the same places."""
    assert one.size == two.size
    assert [d.label for d in one.found] == [d.label for d in two.found]
    assert [d.box for d in one.found] == [d.box for d in two.found]
    assert max(abs(a.score - b.score) for a, b in zip(one.found, two.found, strict=True)) < SCORES
    masks = [(decode_mask(a.mask), decode_mask(b.mask)) for a, b in zip(one.found, two.found, strict=True) if a.mask and b.mask]
    assert len(masks) >= 5, "too few sure detections to compare"
    assert min((a & b).sum() / (a | b).sum() for a, b in masks) > 0.999


@pytest.mark.parametrize(("height", "width"), [(256, 256), (192, 288)])
def test_both_judges_see_the_same(pair: tuple[Any, Any], height: int, width: int) -> None:
    """Images that are neither resized nor padded: nothing but networks and post-processing is left to differ."""
    ours, theirs = pair
    scale = (max(height, width), min(height, width))
    ours.scale, theirs.packed = scale, mask2former_mmdet.pipeline(scale)
    image = picture(height, width)
    same(ours.see("detector", image, Names()), theirs.see("detector", image, Names()))


def test_mmdet_passes_its_self_check(pair: tuple[Any, Any]) -> None:
    cases = mask2former_mmdet.PLUGIN.canary()
    assert {case.name: case.check(pair[1]) for case in cases} == {"channels": None, "boxes": None}


def test_mmdet_says_the_same_of_what_we_prepare(pair: tuple[Any, Any]) -> None:
    """An image that is resized, padded and brought back: mmdet's network and head on our tensor, with mmdet's own facts of it."""
    from mmdet.structures import DetDataSample

    ours, theirs = pair
    image = picture(150, 230, seed=1)
    seen = prepared(image, (300, 200))
    assert seen.tensor.shape[-2:] == (224, 320) and seen.resized == (196, 300), "it is padded on both sides"
    sample = DetDataSample(
        metainfo={"img_shape": seen.resized, "ori_shape": seen.original, "batch_input_shape": tuple(seen.tensor.shape[-2:])}
    )
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = theirs.network.predict(seen.tensor, [sample])[0].pred_instances
        here = instances(*ours.logits(seen), seen)
    same(here, mask2former_mmdet.told(found.labels, found.scores, found.bboxes, found.masks, (230, 150)))


def test_the_image_is_prepared_as_mmdet_2_did(mmdet: Any) -> None:
    """mmcv still has the functions that mmdet 2.x called: resize on uint8, grey, then mean and deviation."""
    pytest.importorskip("cv2")
    import mmcv

    for height, width in ((512, 512), (300, 410), (1024, 300), (2048, 2048)):
        image = picture(height, width)
        small = mmcv.imrescale(np.ascontiguousarray(image[..., ::-1]), (1333, 800))
        grey = mmcv.impad_to_multiple(small, 32, pad_val=(128, 128, 128))
        wanted = mmcv.imnormalize(grey, np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375]), to_rgb=True)
        found = prepared(image)
        assert found.resized == small.shape[:2]
        np.testing.assert_allclose(found.tensor[0].permute(1, 2, 0).numpy(), wanted, atol=1e-6)


def test_the_compiled_operations_are_stood_in_for(mmdet: Any) -> None:
    module = sys.modules[_mmcv_ops.EXTENSION]
    if not isinstance(module, _mmcv_ops.StandIn):
        pytest.skip("this mmcv has its operations")
    with pytest.raises(MissingExtra, match="compiled nms was called"):
        module.nms()
    assert not hasattr(module, "__file__")
    assert sys.modules["mmcv.ops.multi_scale_deform_attn"].IS_CUDA_AVAILABLE is False


def test_other_names_than_mmdets_are_refused(mmdet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "short.pth"
    torch.save({"panoptic_head.cls_embed.weight": torch.zeros(81, 256)}, path)
    monkeypatch.setenv("HAROPE_BENCH_MASK2FORMER", str(path))
    with pytest.raises(Exception, match="does not fit mmdet's Mask2Former: missing .*; harope-bench fetch mask2former-mmdet"):
        mask2former_mmdet.PLUGIN.open()


def test_without_mmdet_the_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'harope-bench\[t2i,mmdet\]'"):
        _mmcv_ops.mmdet()
