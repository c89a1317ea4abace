"""mmdet's own network, steps and post-processing against ours, with shared random weights in which
every tensor is perturbed.

Without mmdet (the extra of that name) only its absence can be tested.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mmdet_weights
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harope_bench.core.annotations import DetectionAnnotation, DetectionQuery
from harope_bench.core.errors import MissingExtraError
from harope_bench.judges.generic.instance_detection import (
    PreparedImage,
    detections_of_tensors,
    instances,
    prepare_image,
    resize_masks,
)
from harope_bench.judges.mmdet import mask2former, mask2former_mmdet, mmcv_ops

# Two programs round differently: their logits differ by 1e-5 of their spread. Where a mask's logit
# passes zero between them, the masked
# attention attends to one place more or less, which moves a few queries by 1e-3 and all others by
# 1e-4. So the networks are compared by
# the median query, and masks only where their logit is far from zero. A wrong tensor moves the
# median query by more than 1e-2.
LOGITS = 1e-3  # of the spread, in the median query
FAR_VALUE = 0.05  # of the spread, from zero
NEAR_VALUE = (
    1e-5  # a logit closer to zero may round to the other side where two programs enlarge it
)


@pytest.fixture(scope="module")
def mmdet() -> Any:
    return (
        pytest.importorskip("mmdet", reason="pip install 'harope-bench[t2i,mmdet]'")
        and mmcv_ops.import_mmdet()
    )


@pytest.fixture(scope="module")
def pair(mmdet: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Both judges opened on one file; ours through the old names, which mmdet 3.3's network gets
    renamed.
    """
    pytest.importorskip("cv2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "HAROPE_BENCH_MASK2FORMER",
            str(mmdet_weights.write(tmp_path_factory.mktemp("weights") / "old.pth", "old")),
        )
        yield (
            mask2former.Mask2Former(mmdet_weights.SMALL_SIZES).open(),
            mask2former_mmdet.MmdetMask2Former(mmdet_weights.SMALL_SIZES).open(),
        )


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse_integers = np.random.default_rng(seed).integers(
        0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8
    )
    return coarse_integers.repeat(16, 0).repeat(16, 1)[:height, :width]


def metadata(image: PreparedImage) -> Any:
    """Return what mmdet's head must know of an image."""
    from mmdet.structures import DetDataSample

    sizes = {
        "img_shape": image.resized_size,
        "ori_shape": image.original_size,
        "batch_input_shape": tuple(image.tensor.shape[-2:]),
    }
    return DetDataSample(metainfo=sizes)


def logits_of_mmdet(judge: Any, image: PreparedImage) -> tuple[Tensor, Tensor]:
    """Return class logits (100, 81) and mask logits (100, H' / 4, W' / 4) of mmdet's own
    network.
    """
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = judge.network.extract_feat(image.tensor)
        classes, masks = judge.network.panoptic_head(features, [metadata(image)])
    return classes[-1][0], masks[-1][0]


def instances_of_mmdet(
    judge: Any, classes: Tensor, masks: Tensor, image: PreparedImage
) -> DetectionAnnotation:
    """Return the detections that mmdet's own post-processing makes of logits."""
    with torch.inference_mode():
        whole_value = interpolate(
            masks[None], size=image.tensor.shape[-2:], mode="bilinear", align_corners=False
        )
        detections = judge.network.panoptic_fusion_head.predict(
            classes[None], whole_value, [metadata(image)], rescale=True
        )
    rows = detections[0]["ins_results"]
    return detections_of_tensors(
        rows.labels, rows.scores, rows.bboxes, rows.masks, image.original_size[::-1]
    )


def median_shift(tensor: Tensor, tensor_result: Tensor) -> float:
    """Return the largest difference within a query, in units of the logits' spread, of the median
    query.
    """
    return float(((tensor - tensor_result).abs().flatten(1).amax(1) / tensor_result.std()).median())


class Case(NamedTuple):
    """A prepared image, and class and mask logits of it by each of the two networks."""

    image: PreparedImage
    ours: tuple[Tensor, Tensor]
    mmdet: tuple[Tensor, Tensor]


SIZES = [
    (256, 256, (256, 256)),
    (192, 288, (288, 192)),
    (150, 230, (300, 200)),
]  # height, width, scale


@pytest.fixture(scope="module", params=SIZES, ids=str)
def case(request: pytest.FixtureRequest, pair: tuple[Any, Any]) -> Case:
    """The last image is resized and padded on both sides, the others are neither."""
    height, width, scale = request.param
    image = prepare_image(picture(height, width), scale)
    return Case(image, pair[0].logits(image), logits_of_mmdet(pair[1], image))


def test_both_networks_give_the_same_logits(case: Case) -> None:
    (classes, masks), (expected_classes, expected_masks) = case.ours, case.mmdet
    assert (
        median_shift(classes, expected_classes) < LOGITS
        and median_shift(masks, expected_masks) < LOGITS
    )
    far_flag = expected_masks.abs() > FAR_VALUE * expected_masks.std()
    assert far_flag.float().mean() > 0.9, "too many logits near zero to compare masks"
    agreeing = (((masks > 0) == (expected_masks > 0)) | ~far_flag).flatten(1).all(1)
    assert agreeing.float().mean() > 0.9


@pytest.mark.parametrize("case", SIZES[:1], indirect=True, ids=str)
def test_a_wrong_tensor_moves_every_query(pair: tuple[Any, Any], case: Case) -> None:
    """The bound of the test before is far below what one exchanged tensor of the first block
    does.
    """
    package_pair, _ = pair
    table = next(
        t
        for name, t in package_pair.network.named_parameters()
        if name.endswith("relative_position_bias_table")
    )
    original = table.detach().clone()
    try:
        with torch.no_grad():
            table.copy_(original.flip(0))
        shifts = [
            median_shift(after, before)
            for after, before in zip(package_pair.logits(case.image), case.ours, strict=True)
        ]
    finally:
        with torch.no_grad():
            table.copy_(original)
    assert min(shifts) > 10 * LOGITS


def test_equal_logits_become_equal_detections(pair: tuple[Any, Any], case: Case) -> None:
    classes, masks = case.ours
    instances_result, detection_annotation = (
        instances(classes, masks, case.image),
        instances_of_mmdet(pair[1], classes, masks, case.image),
    )
    assert (
        instances_result.size == detection_annotation.size
        and len(instances_result.detections) == len(detection_annotation.detections) >= 50
    )
    unsure = (
        resize_masks(masks, case.image).abs().flatten(1).amin(1) < NEAR_VALUE
    )  # (100,), of each query
    assert unsure.float().mean() < 0.5, "too many masks with a logit at zero to compare boxes"
    by_place = [
        Counter((d.label, d.box, str(d.mask)) for d in s.detections)
        for s in (instances_result, detection_annotation)
    ]
    assert (by_place[0] - by_place[1]).total() <= int(unsure.sum())
    pairs = zip(
        *(
            sorted((d.label, d.score) for d in s.detections)
            for s in (instances_result, detection_annotation)
        ),
        strict=True,
    )
    assert all(a[0] == b[0] and abs(a[1] - b[1]) < 1e-5 for a, b in pairs)


def test_mmdet_judge_is_mmdets_own_chain(pair: tuple[Any, Any]) -> None:
    """An image that is neither resized nor padded: both judges prepare one tensor, and `see` adds
    nothing to mmdet's own steps.
    """
    package_pair, library_pair = pair
    height, width, scale = 192, 288, (288, 192)
    package_pair.scale, library_pair.test_pipeline = (
        scale,
        mask2former_mmdet.make_test_pipeline(scale),
    )
    image = picture(height, width)
    ready_prepare_image = prepare_image(image, scale)
    torch.testing.assert_close(
        library_pair.network_input(image), ready_prepare_image.tensor, rtol=0, atol=1e-5
    )
    chain = instances_of_mmdet(
        library_pair,
        *logits_of_mmdet(
            library_pair, ready_prepare_image._replace(tensor=library_pair.network_input(image))
        ),
        ready_prepare_image,
    )
    detections = library_pair.annotate("detector", image, DetectionQuery())
    assert [d.label for d in detections.detections] == [d.label for d in chain.detections]
    assert (
        sum(
            d.mask is not None
            for d in package_pair.annotate("detector", image, DetectionQuery()).detections
        )
        >= 5
    ), "too few sure detections"
    assert (
        max(
            abs(a.score - b.score)
            for a, b in zip(detections.detections, chain.detections, strict=True)
        )
        < 1e-5
    )


def test_mmdet_passes_its_self_check(pair: tuple[Any, Any]) -> None:
    cases = mask2former_mmdet.PLUGIN.self_checks()
    assert {case.name: case.check(pair[1]) for case in cases} == {"channels": None, "boxes": None}


def test_the_image_is_prepared_as_mmdet_2_did(mmdet: Any) -> None:
    """mmcv still has the functions that mmdet 2.x called: resize on uint8, grey, then mean and
    deviation.
    """
    pytest.importorskip("cv2")
    import mmcv

    for height, width in ((512, 512), (300, 410), (1024, 300), (2048, 2048)):
        image = picture(height, width)
        small_imrescale = mmcv.imrescale(np.ascontiguousarray(image[..., ::-1]), (1333, 800))
        grey = mmcv.impad_to_multiple(small_imrescale, 32, pad_val=(128, 128, 128))
        expected = mmcv.imnormalize(
            grey,
            np.array([123.675, 116.28, 103.53]),
            np.array([58.395, 57.12, 57.375]),
            to_rgb=True,
        )
        prepare_image_result = prepare_image(image)
        assert prepare_image_result.resized_size == small_imrescale.shape[:2]
        np.testing.assert_allclose(
            prepare_image_result.tensor[0].permute(1, 2, 0).numpy(), expected, atol=1e-6
        )


def test_the_compiled_operations_are_stood_in_for(mmdet: Any) -> None:
    module = sys.modules[mmcv_ops.EXTENSION]
    if not isinstance(module, mmcv_ops.StubModule):
        pytest.skip("this mmcv has its operations")
    with pytest.raises(MissingExtraError, match="compiled operation nms was called"):
        module.nms()
    assert not hasattr(module, "__file__")
    assert sys.modules["mmcv.ops.multi_scale_deform_attn"].IS_CUDA_AVAILABLE is False


def test_other_names_than_mmdets_are_refused(
    mmdet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "short.pth"
    torch.save({"panoptic_head.cls_embed.weight": torch.zeros(81, 256)}, path)
    monkeypatch.setenv("HAROPE_BENCH_MASK2FORMER", str(path))
    with pytest.raises(
        Exception,
        match=(
            "does not fit mmdet's Mask2Former: missing .*;"
            " run: harope-bench fetch mask2former-mmdet"
        ),
    ):
        mask2former_mmdet.PLUGIN.open()


def test_without_mmdet_the_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harope-bench\[t2i,mmdet\]'"):
        mmcv_ops.import_mmdet()
