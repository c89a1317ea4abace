"""Detectors of the user's own as substitutes: tiny random ones of the real classes, of each kind,
from folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import DETR_SIZES, SWIN_SIZES, scale_parameters

from harope_bench.core import registry
from harope_bench.core.annotations import DetectionAnnotation, DetectionQuery, decode_mask
from harope_bench.core.errors import MissingAssetError, OptionError, ShapeError, WeightsError
from harope_bench.judges.generic.detector import GENEVAL_NAMES
from harope_bench.judges.generic.instance_detection import CLASSES, mask_box

transformers = pytest.importorskip("transformers")
PLUGIN = registry.load_by_name("judges", "detector")
NAMES = DetectionQuery(names=("a cat", "dog"))
IMAGE = (
    np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
)


def detr() -> tuple[Any, Any]:
    resnet = {
        "embedding_size": 8,
        "hidden_sizes": [8] * 4,
        "depths": [1] * 4,
        "layer_type": "basic",
        "out_features": ["stage4"],
    }
    names = {0: "Cat", 1: "Dog", 2: "Dining Table"}
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(**resnet),
        use_timm_backbone=False,
        backbone=None,
        num_queries=12,
        d_model=16,
        id2label=names,
        label2id={v: k for k, v in names.items()},
        **DETR_SIZES,
    )
    network = scale_parameters(
        transformers.DetrForObjectDetection(config), "query_position_embeddings", 40
    )
    return scale_parameters(
        network, "class_labels_classifier.weight", 20
    ), transformers.DetrImageProcessor(size=sides())


def sides() -> dict[str, int]:
    return {"shortest_edge": 48, "longest_edge": 64}


def mask2former() -> tuple[Any, Any]:
    swin = transformers.SwinConfig(
        **SWIN_SIZES, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=9,
        id2label={0: "TV", 1: "Cat"},
        label2id={"TV": 0, "Cat": 1},
    )
    network = scale_parameters(
        transformers.Mask2FormerForUniversalSegmentation(config), "class_predictor.weight", 50
    )
    return network, transformers.Mask2FormerImageProcessor(
        size=sides(), size_divisor=32, ignore_index=255
    )


def owl() -> tuple[Any, Any]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "!",
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(letter + "</w>" for letter in letters),
    ]
    tokens = {
        "vocab": {w: i for i, w in enumerate(words)},
        "merges": [],
        "model_max_length": 16,
        "pad_token": "<|endoftext|>",
    }
    fields = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **fields,
    }
    config = transformers.Owlv2Config(
        text_config=text,
        vision_config={"image_size": 32, "patch_size": 8, **fields},
        projection_dim=16,
    )
    network = scale_parameters(
        transformers.Owlv2ForObjectDetection(config), "class_head.logit_shift.weight", 20
    )
    image = transformers.Owlv2ImageProcessor(size={"height": 32, "width": 32})
    return network, transformers.Owlv2Processor(image, transformers.CLIPTokenizer(**tokens))


def dino() -> tuple[Any, Any]:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "cat", "dog", "person", "?"]
    text = {
        "model_type": "bert",
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
    }
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            **SWIN_SIZES, out_features=["stage2", "stage3", "stage4"]
        ),
        text_config={**text, "num_attention_heads": 2, "max_position_embeddings": 64},
        num_queries=10,
        d_model=32,
        max_text_len=32,
        fusion_droppath=0.0,
        **(DETR_SIZES | {"decoder_layers": 2}),
    )
    image, tokens = (
        transformers.GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 128}),
        {w: i for i, w in enumerate(words)},
    )
    tokenizer = transformers.BertTokenizer(vocab=tokens)
    return transformers.GroundingDinoForObjectDetection(
        config
    ), transformers.GroundingDinoProcessor(image, tokenizer)


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "detr": detr,
    "mask2former": mask2former,
    "owl": owl,
    "dino": dino,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("detectors")
    for name, build in KINDS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for part in build():
                part.save_pretrained(folder / name)
    return {name: folder / name for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_finds_things_in_the_image(folders: dict[str, Path], name: str) -> None:
    plugin = PLUGIN.with_model(str(folders[name]))
    loaded_judge = plugin.open()
    annotation = loaded_judge.annotate("detector", IMAGE, NAMES)
    assert annotation.size == (64, 48) and annotation.detections
    assert loaded_judge.annotate("detector-2d", IMAGE, NAMES) == annotation, (
        "the role and a second look change nothing"
    )
    assert DetectionAnnotation.model_validate_json(annotation.to_json()) == annotation
    assert {d.label for d in annotation.detections} <= {
        "cat",
        "dog",
        "dining table",
        "tv",
        "a cat",
    }, "labels in lower case, or the names asked"
    assert [case.check(loaded_judge) for case in plugin.self_checks()] == [None]
    assert (
        plugin.judge_class == "substitute"
        and plugin.weights_sha256() == loaded_judge.weights_sha256
    )
    assert "substitute" in plugin.warnings()[0]
    other_annotation = loaded_judge.annotate(
        "detector", np.ascontiguousarray(IMAGE[..., ::-1]), NAMES
    )
    assert other_annotation != annotation, "red and blue are not the same to it"


def test_a_closed_set_is_seen_as_transformers_own_pipeline_sees_it(
    folders: dict[str, Path],
) -> None:
    pipeline = transformers.pipeline("object-detection", model=str(folders["detr"]), device="cpu")
    expected = sorted(pipeline(Image.fromarray(IMAGE), threshold=0.05), key=lambda d: -d["score"])
    detections = (
        PLUGIN.with_model(str(folders["detr"]))
        .open()
        .annotate("detector", IMAGE, DetectionQuery())
        .detections
    )
    assert [d.label for d in detections] == [w["label"].lower() for w in expected] and len(
        detections
    ) > 3
    np.testing.assert_allclose(
        [d.score for d in detections], [w["score"] for w in expected], atol=1e-6
    )
    boxes = [[w["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for w in expected]
    np.testing.assert_allclose(
        [d.box for d in detections], np.clip(boxes, 0, (64, 48, 64, 48)), atol=1
    )  # the pipeline cuts to whole pixels


@pytest.mark.parametrize("name", ["detr", "mask2former"])
def test_cocos_short_names_are_genevals_where_it_asks_for_them(
    folders: dict[str, Path], name: str
) -> None:
    loaded_judge = PLUGIN.with_model(str(folders[name])).open()

    def labels(*names: str) -> set[str]:
        return {
            d.label
            for d in loaded_judge.annotate(
                "detector", IMAGE, DetectionQuery(names=names)
            ).detections
        }

    for short_name, longer in GENEVAL_NAMES.items():
        assert longer in CLASSES and short_name not in CLASSES
        loaded_judge.network.config.id2label = dict.fromkeys(range(3), short_name.title())
        assert (
            short_name in labels("cat")
            and short_name in labels("cat", short_name)
            and short_name in labels(short_name, longer)
        )
        assert longer in labels("cat", longer) and short_name not in labels("cat", longer)
    assert "computer mouse" in PLUGIN.preprocessing


@pytest.mark.parametrize("name", ["owl", "dino"])
def test_what_is_asked_is_looked_for_each_name_alone(folders: dict[str, Path], name: str) -> None:
    loaded_judge = PLUGIN.with_model(str(folders[name])).open()
    detections = loaded_judge.annotate("detector", IMAGE, NAMES).detections
    alone_values = [
        d
        for first_name in NAMES.names
        for d in loaded_judge.annotate(
            "detector", IMAGE, DetectionQuery(names=(first_name,))
        ).detections
    ]
    assert {d.label for d in detections} == {"a cat", "dog"}
    assert list(detections) == sorted(alone_values, key=lambda d: -d.score)[:100]
    with pytest.raises(ShapeError, match="needs the names to look for"):
        loaded_judge.annotate("detector", IMAGE, DetectionQuery())


def test_masks_have_their_own_boxes(folders: dict[str, Path]) -> None:
    detections = (
        PLUGIN.with_model(str(folders["mask2former"]))
        .open()
        .annotate("detector", IMAGE, DetectionQuery())
        .detections
    )
    masks = [d for d in detections if d.mask is not None]
    assert masks and all(mask_box(decode_mask(d.mask)) == d.box for d in masks if d.mask)


def test_a_model_must_be_named_and_be_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert PLUGIN.needs_model
    for call in (PLUGIN.open, PLUGIN.weights_sha256):
        with pytest.raises(OptionError, match="write --judge detector=detector:FOLDER"):
            call()
    with pytest.raises(MissingAssetError, match="hf download nobody/nothing"):
        PLUGIN.with_model("nobody/nothing").weights_sha256()
    with pytest.raises(MissingAssetError, match="no folder and no hub id"):
        PLUGIN.with_model(str(tmp_path / "absent")).open()


def test_what_is_no_detector_or_not_whole_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    bert = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    with pytest.raises(OptionError, match="holds a bert, no object detector"):
        PLUGIN.with_model(str(tmp_path / "bert")).open()
    from safetensors.torch import load_file, save_file

    broken_path = tmp_path / "broken"
    broken_path.mkdir()
    for file in folders["detr"].iterdir():
        (broken_path / file.name).write_bytes(file.read_bytes())
    state = load_file(broken_path / "model.safetensors")
    gone_first_item = next(name for name in state if "class_labels_classifier" in name)
    save_file(
        {k: v for k, v in state.items() if k != gone_first_item},
        broken_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(WeightsError, match="class_labels_classifier"):
        PLUGIN.with_model(str(broken_path)).open()
    assert (
        PLUGIN.with_model(str(broken_path)).weights_sha256()
        != PLUGIN.with_model(str(folders["detr"])).weights_sha256()
    )
    (broken_path / "preprocessor_config.json").unlink()
    with pytest.raises(OptionError, match="AutoImageProcessor"):
        PLUGIN.with_model(str(broken_path)).open()
