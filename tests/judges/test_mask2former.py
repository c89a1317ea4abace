"""GenEval's detector in transformers: names, the way in, the way out, files, and the judge as a
whole with random weights of full size.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import mmdet_weights
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.annotations import DetectionAnnotation, DetectionQuery, decode_mask
from harope_bench.core.errors import MissingAssetError, WeightsError
from harope_bench.core.threaded_work import map_in_threads
from harope_bench.judges.generic import instance_detection, self_check
from harope_bench.judges.generic.instance_detection import PreparedImage, fitted_size, instances
from harope_bench.judges.mmdet import key_map, mask2former, weights_file

NOISE = (
    np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
)
OWN_TEXT = "HAROPE_BENCH_MASK2FORMER"
OBJECTS = Path("/work/shared/data/geneval/object_names.txt")


# ------------------------------------------------------------------------------------------------
# names


@pytest.fixture(scope="module")
def network() -> nn.Module:
    pytest.importorskip("transformers")
    return mask2former.build_network()


def test_old_names_become_new_ones() -> None:
    old_state, new_state = mmdet_weights.random_state("old"), mmdet_weights.random_state("new")
    renewed_mmdet3_names = key_map.to_mmdet3_names(old_state)
    assert renewed_mmdet3_names.keys() == new_state.keys() and old_state.keys() != new_state.keys()
    assert all(torch.equal(renewed_mmdet3_names[name], new_state[name]) for name in new_state)


@pytest.mark.parametrize("style", ["old", "new"])
def test_every_tensor_of_mmdet_lands_in_the_network(network: nn.Module, style: str) -> None:
    """68.7 million numbers: all of transformers' but a norm that nothing reads and the loss."""
    filled_fill_network = mask2former.load_network_weights(
        network, mmdet_weights.random_state(style), "a test"
    )
    total = sum(
        t.numel() for t in mmdet_weights.random_state(style).values() if t.is_floating_point()
    )
    read = sum(
        p.numel()
        for n, p in filled_fill_network.named_parameters()
        if not n.startswith(key_map.UNFILLED_PREFIXES)
    )
    assert total == read == 68_739_547


def test_query_key_and_value_are_thirds_and_patches_are_merged_in_another_order() -> None:
    packed_value = torch.arange(6.0)[:, None].repeat(1, 2)
    name = "backbone.stages.2.blocks.17.attn.w_msa.qkv.weight"
    state = key_map.convert_state({name: packed_value})
    assert [key.split(".")[-2] for key in state] == ["q_proj", "k_proj", "v_proj"]
    assert torch.equal(torch.cat(list(state.values())), packed_value)
    # a patch of 2 x 2 places and 3 channels: mmdet counts channel * 4 + row * 2 + column, Swin
    # (column * 2 + row) * 3 + channel
    counts = {(c, r, k): c * 4 + r * 2 + k for c in range(3) for r in range(2) for k in range(2)}
    (merged_state,) = key_map.convert_state(
        {"backbone.stages.0.downsample.norm.weight": torch.arange(12.0)}
    ).values()
    assert merged_state.tolist() == [
        counts[c, r, k] for k in range(2) for r in range(2) for c in range(3)
    ]


def test_files_of_other_networks_are_named(network: nn.Module) -> None:
    state = mmdet_weights.random_state("old")
    for change, message in (
        ({"panoptic_head.extra": torch.zeros(1)}, "unexpected panoptic_head.extra"),
        (
            {"panoptic_head.cls_embed.weight": torch.zeros(134, 256)},
            r"mis-shaped class_predictor.weight \(134, 256\) for \(81, 256\)",
        ),
        (
            {"panoptic_head.transformer_decoder.post_norm.weight": None},
            "missing model.transformer_module.decoder.layernorm.weight",
        ),
        (
            {"backbone.stages.0.blocks.0.attn.w_msa.qkv.bias": torch.zeros(5)},
            "does not split into query, key and value",
        ),
        (
            {
                "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": (
                    mmdet_weights.window().T
                )
            },
            "counts positions in another order",
        ),
    ):
        changed_entries: dict[str, Any] = {
            k: v for k, v in {**state, **change}.items() if v is not None
        }
        with pytest.raises(WeightsError, match=message):
            mask2former.load_network_weights(network, changed_entries, "a file")


def test_both_styles_in_one_file_are_one_too_many() -> None:
    name = "panoptic_head.transformer_decoder.layers.0."
    fields = {
        name + "ffns.0.layers.1.bias": torch.zeros(2),
        name + "ffn.layers.1.bias": torch.ones(2),
    }
    with pytest.raises(WeightsError, match="two tensors for"):
        key_map.to_mmdet3_names(fields)


# ------------------------------------------------------------------------------------------------
# way in


def test_classes_are_cocos_eighty_with_genevals_three_names() -> None:
    assert len(set(instance_detection.CLASSES)) == 80
    assert {"computer mouse", "tv remote", "computer keyboard"} <= set(instance_detection.CLASSES)
    if OBJECTS.is_file():
        assert list(instance_detection.CLASSES) == OBJECTS.read_text().split("\n")[:80]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (512, 512, (800, 800)),
        (2048, 2048, (800, 800)),
        (512, 768, (800, 1200)),
        (768, 512, (1200, 800)),
        (300, 600, (667, 1333)),
    ],
)
def test_images_are_fitted_into_1333_by_800(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert fitted_size(height, width) == expected


def test_grey_is_padded_before_normalising() -> None:
    pytest.importorskip("cv2")
    image = np.full((512, 768, 3), (255, 0, 128), dtype=np.uint8)
    prepare_image = instance_detection.prepare_image(image)
    assert (
        prepare_image.tensor.shape == (1, 3, 800, 1216)
        and prepare_image.resized_size == (800, 1200)
        and prepare_image.original_size == (512, 768)
    )
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    inside, padding = prepare_image.tensor[0, :, 5, 5], prepare_image.tensor[0, :, 5, 1210]
    assert torch.allclose(
        inside,
        torch.tensor([(v - m) / s for v, m, s in zip((255, 0, 128), mean, std, strict=True)]),
        atol=1e-6,
    )
    assert torch.allclose(
        padding, torch.tensor([(128 - m) / s for m, s in zip(mean, std, strict=True)]), atol=1e-6
    )


def test_the_resize_has_no_antialias() -> None:
    """Reducing 1600 to 800 with OpenCV's bilinear takes the mean of the middle two by two;
    antialias would take more.
    """
    pytest.importorskip("cv2")
    image = np.zeros((1600, 1600, 3), dtype=np.uint8)
    image[800:802, 800:802] = 255
    tensor = instance_detection.prepare_image(image).tensor[0, 0]
    assert (tensor > tensor.min() + 0.01).sum() == 1


# ------------------------------------------------------------------------------------------------
# way out


def reference_detections(
    classes: Tensor, masks: Tensor, prepared_image: PreparedImage
) -> list[tuple[str, float, tuple[float, ...]]]:
    """mmdet's post-processing pair by pair."""
    shares = classes.double().softmax(-1)[:, :-1]
    pairs = sorted(
        ((float(shares[q, c]), q, c) for q in range(len(classes)) for c in range(shares.shape[1])),
        reverse=True,
    )[:100]
    whole_value = interpolate(
        masks[None], size=prepared_image.tensor.shape[-2:], mode="bilinear", align_corners=False
    )
    whole_value = interpolate(
        whole_value[..., : prepared_image.resized_size[0], : prepared_image.resized_size[1]],
        size=prepared_image.original_size,
        mode="bilinear",
        align_corners=False,
    )[0]
    records = []
    for share, q, c in pairs:
        logits = whole_value[q].double().numpy()
        mask = logits > 0
        score = share * (1 / (1 + np.exp(-logits[mask]))).sum() / (mask.sum() + 1e-6)
        y, x = np.nonzero(mask)
        if score >= 0.05:
            records.append(
                (instance_detection.CLASSES[c], score, (x.min(), y.min(), x.max() + 1, y.max() + 1))
            )
    return sorted(records, key=lambda f: -f[1])


def logits(seed: int = 0) -> tuple[Tensor, Tensor, PreparedImage]:
    rng = torch.Generator().manual_seed(seed)
    classes, masks = 4 * torch.randn(30, 81, generator=rng), torch.randn(30, 5, 6, generator=rng)
    masks[7] = -1  # an empty mask
    return classes, 5 * masks, PreparedImage(torch.zeros(1, 3, 32, 64), (28, 50), (45, 80))


def test_instances_are_those_of_a_slow_reference() -> None:
    detections, expected = instances(*logits()).detections, reference_detections(*logits())
    assert [d.label for d in detections] == [w[0] for w in expected]
    assert [d.box for d in detections] == [w[2] for w in expected]
    np.testing.assert_allclose([d.score for d in detections], [w[1] for w in expected], rtol=1e-5)
    assert len(detections) > 20 and detections[0].score > 0.5


def test_weak_detections_are_left_out_and_only_surer_ones_have_masks() -> None:
    detections = instances(*logits()).detections
    assert min(d.score for d in detections) >= np.float32(0.05)
    assert all((d.mask is not None) == (d.score > np.float32(0.3)) for d in detections)
    assert {d.mask is None for d in detections} == {True, False}
    assert all(
        instance_detection.mask_box(decode_mask(d.mask)) == d.box for d in detections if d.mask
    )


def test_how_many_masks_are_in_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_instances = instances(*logits())
    monkeypatch.setattr(instance_detection, "MAX_MASK_PIXELS", 1)
    few_instances = instances(*logits())
    assert [(d.label, d.box, d.mask) for d in few_instances.detections] == [
        (d.label, d.box, d.mask) for d in whole_instances.detections
    ]
    np.testing.assert_allclose(
        [d.score for d in few_instances.detections],
        [d.score for d in whole_instances.detections],
        rtol=1e-6,
    )  # sums in another order


def test_one_query_can_be_two_things() -> None:
    classes, masks, logit = logits()
    classes[0] = -9.0
    classes[0, 2] = classes[0, 5] = 9.0
    pairs = {
        d.box
        for d in instances(classes, masks, logit).detections
        if d.label in ("car", "bus") and 0.4 < d.score < 0.5
    }
    assert len(pairs) == 1


# ------------------------------------------------------------------------------------------------
# files


def test_notes_in_a_checkpoint_are_never_made_real(tmp_path: Path) -> None:
    for number, note in enumerate((np.float64(0.3), np.arange(3), {"best": np.int64(4)})):
        path = (
            mmdet_weights.write(tmp_path / f"{number}.pth", "new", hook_msgs=note)
            if number == 0
            else tmp_path / f"{number}.pth"
        )
        if number:
            torch.save(
                {"meta": {"note": note}, "state_dict": {"a": torch.ones(2)}},
                path,
                _use_new_zipfile_serialization=bool(number % 2),
            )
        assert weights_file.load_state(_files_weights(path))


def _files_weights(path: Path) -> Any:
    from harope_bench.core.storage import sha256_file
    from harope_bench.judges.weights.asset_files import WeightsFile

    return WeightsFile(path, sha256_file(path))


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/harope-bench-bomb"),))


def test_files_that_run_code_are_refused_with_what_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"meta": {"x": Bomb()}, "state_dict": {"a": torch.ones(2)}}, path)
    with pytest.raises(
        WeightsError,
        match=(
            r"\(pathlib\.Path\.touch\) and was not opened|was not opened.*save its"
            rf" state_dict.*{OWN_TEXT}"
        ),
    ):
        weights_file.load_state(_files_weights(path))
    assert not Path("/tmp/harope-bench-bomb").exists()
    path.write_bytes(pickle.dumps([1])[:3])
    with pytest.raises(WeightsError):
        weights_file.load_state(_files_weights(path))
    torch.save({"state_dict": {"a": 3}}, path)
    with pytest.raises(WeightsError, match="has no state dict"):
        weights_file.load_state(_files_weights(path))


@pytest.mark.parametrize("name", ["mask2former", "mask2former-mmdet"])
def test_either_published_file_serves_both_judges(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", name)
    with pytest.raises(MissingAssetError, match=f"harope-bench fetch {name} "):
        plugin.weights_sha256()
    assert plugin.judge_class == "substitute"
    best = {"mask2former": "equivalent", "mask2former-mmdet": "official"}[name]
    whole_text = "743b7d99015f1224c6d57fd4b14d04b15cc8ec72ae7ee7831e7c71d8873b7a54"
    for asset, sha256 in (
        ("mask2former-mmdet", "c9d0c4f2" + "0" * 56),
        ("mask2former", whole_text),
    ):
        local_file = local_files.LocalFile(Path("weights.pth"), sha256)
        monkeypatch.setattr(
            local_files,
            "find_local_file",
            lambda expected, asset=asset, local_file=local_file: (
                local_file if expected == asset else None
            ),
        )
        assert (
            plugin.weights_sha256() == local_file.sha256
            and plugin.judge_class == best
            and plugin.warnings() == ()
        )
    monkeypatch.setattr(
        local_files,
        "find_local_file",
        lambda expected: local_files.LocalFile(Path("weights.pth"), "0" * 64),
    )
    assert plugin.judge_class == "substitute" and "other weights" in plugin.warnings()[0]


# ------------------------------------------------------------------------------------------------
# whole


@pytest.fixture(scope="module")
def loaded_judge(tmp_path_factory: pytest.TempPathFactory) -> mask2former.LoadedMask2Former:
    pytest.importorskip("cv2")
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            OWN_TEXT,
            str(mmdet_weights.write(tmp_path_factory.mktemp("weights") / "old.pth", "old")),
        )
        before = torch.random.get_rng_state()
        loaded_result = mask2former.Mask2Former((128, 96)).open()
        assert torch.equal(torch.random.get_rng_state(), before)
    return loaded_result


def test_an_image_is_seen_alike_every_time_and_stays_as_it_was(
    loaded_judge: mask2former.LoadedMask2Former,
) -> None:
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (12, 18, 3), dtype=np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    before = image.copy()
    annotation = loaded_judge.annotate("detector", image, DetectionQuery(names=("cat",)))
    assert annotation.size == (144, 96) and annotation.detections and np.array_equal(image, before)
    assert loaded_judge.annotate("detector", image, DetectionQuery()) == annotation
    assert DetectionAnnotation.model_validate_json(annotation.to_json()) == annotation
    swapped_annotation = loaded_judge.annotate(
        "detector", np.ascontiguousarray(image[..., ::-1]), DetectionQuery()
    )
    assert swapped_annotation != annotation, "red and blue are not the same to it"


def test_masks_finished_in_a_thread_are_those_of_this_one(
    loaded_judge: mask2former.LoadedMask2Former,
) -> None:
    """The network works on another image meanwhile."""
    images = [NOISE, np.ascontiguousarray(NOISE[::-1]), np.ascontiguousarray(NOISE[:, ::-1])]
    expected = [loaded_judge.annotate("detector", image, DetectionQuery()) for image in images]
    outputs = (loaded_judge.run_network("detector", image, DetectionQuery()) for image in images)
    annotations = map_in_threads(loaded_judge.finish_annotation, outputs, n_waiting=1, n_threads=1)
    assert list(annotations) == expected
    assert all(annotation.detections for annotation in expected)


def test_boxes_that_are_one_short_are_caught(loaded_judge: mask2former.LoadedMask2Former) -> None:
    answer = loaded_judge.annotate("detector", NOISE, DetectionQuery())
    assert self_check.is_consistent(answer) and any(d.mask for d in answer.detections)
    assert not self_check.is_consistent(_one_short(answer))
    assert not self_check.is_consistent(
        answer.model_copy(update={"detections": answer.detections[::-1]})
    )


def test_a_wrong_stack_fails_the_self_check(loaded_judge: mask2former.LoadedMask2Former) -> None:
    checks = {case.name: case.check for case in mask2former.PLUGIN.self_checks()}
    assert {name: check(loaded_judge) for name, check in checks.items()} == dict.fromkeys(
        ("channels", "boxes", "activation", "device")
    )
    other_mask2_former = mask2former.LoadedMask2Former(
        copy.deepcopy(loaded_judge.network), "", "cpu", loaded_judge.scale
    )
    other_mask2_former.network.model.pixel_level_module.encoder.swin.encoder.layers[0].blocks[
        0
    ].mlp.activation_fn = nn.GELU(approximate="tanh")
    assert "off the exact GELU" in str(checks["activation"](other_mask2_former))
    blue = torch.zeros(1, 3, 4, 4)
    blue[:, 2] = 1
    assert "wanted red first" in str(self_check.check_red_first(blue))
    assert "a rectangle is detected as" in str(
        self_check.check_exclusive_boxes(lambda *inputs: _one_short(instances(*inputs)))
    )


def _one_short(detection_annotation: DetectionAnnotation) -> DetectionAnnotation:
    return detection_annotation.model_copy(
        update={
            "detections": tuple(
                d.model_copy(update={"box": (*d.box[:2], d.box[2] - 1, d.box[3] - 1)})
                for d in detection_annotation.detections
            )
        }
    )


def test_a_device_that_computes_something_else_is_not_believed(
    loaded_judge: mask2former.LoadedMask2Former,
) -> None:
    """As if a GPU had a decoder of its own: its logits are held to the CPU's."""
    other_mask2_former = mask2former.LoadedMask2Former(
        copy.deepcopy(loaded_judge.network), "", "cpu", loaded_judge.scale
    )
    assert (
        mask2former.check_device(loaded_judge) is None
        and mask2former.check_logits(other_mask2_former, loaded_judge) is None
    )
    with torch.no_grad():
        other_mask2_former.network.model.pixel_level_module.decoder.encoder.layers[
            3
        ].self_attn.sampling_offsets.weight.zero_()
    assert "differ from the CPU's" in str(
        mask2former.check_logits(other_mask2_former, loaded_judge)
    )
