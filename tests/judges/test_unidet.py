"""T2I-CompBench's detectors: the runner drives a stand-in of the benchmark's checkout, and sees as
the published scripts do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harope_bench.core import registry
from harope_bench.core.annotations import DetectionAnnotation
from harope_bench.core.errors import JudgeError, MissingAssetError
from harope_bench.core.json_lines import read_lines
from harope_bench.core.storage import sha256_file
from harope_bench.pipeline import external_annotator
from harope_bench.pipeline.annotation_folder import read_judge_record

PYTHON = Path(sys.executable)
UNIDET, RS200 = (
    registry.load_by_name("judges", "unidet"),
    registry.load_by_name("judges", "unidet-rs200"),
)

# In the place of detectron2: finds a thing whose score is the first plane's mean, and a surer one,
# in the frame it is shown.
DETECTRON2 = """
import torch
class Boxes:
    def __init__(self, rows): self.tensor = torch.tensor(rows)
class Found:
    def __init__(self, fields): self.fields = fields
    def to(self, device): return self
    def get_fields(self): return self.fields
class Model:
    def __init__(self, cfg): self.cfg = cfg
    def eval(self): return self
    def __call__(self, batch):
        (one,) = batch
        image, height, width = one["image"], one["height"], one["width"]
        assert image.dtype == torch.float32 and tuple(image.shape) == (3, height, width)
        first = [0.0, 0.0, width / 2, height / 2]
        fields = {"pred_boxes": Boxes([first, [0.0, 0.0, float(width), float(height)]]),
                  "pred_classes": torch.tensor([0, 1]),
                  "scores": torch.tensor([float(image[0].mean()) / 512 + 0.1, 0.9])}
        return [{"instances": Found(fields)}]
class DefaultPredictor:
    def __init__(self, cfg): self.model = Model(cfg)
"""
UTILS = """
import pathlib, sys
def setup_cfg(args):
    assert args.confidence_threshold == 0.5 and len(sys.argv) == 1
    assert pathlib.Path(args.config_file).is_file()
    options = dict(zip(args.opts[::2], args.opts[1::2]))
    assert options["MODEL.DEVICE"] == "cpu" and pathlib.Path(options["MODEL.WEIGHTS"]).is_file()
    return options
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder laid out as the benchmark's repository, with weights of both backbones."""
    folder = tmp_path / "T2I-CompBench" / "UniDet_eval"
    detection = folder / "experts" / "obj_detection"
    (detection / "configs").mkdir(parents=True)
    (folder / "experts" / "expert_weights").mkdir()
    (folder / "detectron2" / "engine").mkdir(parents=True)
    (folder / "dataset").mkdir()
    for package in (
        folder / "experts",
        detection,
        folder / "detectron2",
        folder / "detectron2" / "engine",
    ):
        (package / "__init__.py").write_text("")
    (folder / "detectron2" / "engine" / "defaults.py").write_text(DETECTRON2)
    (detection / "utils.py").write_text(UTILS)
    torch.save(
        {"labels": ["cat", "table, desk"], "features": torch.zeros(2, 3)},
        folder / "dataset" / "detection_features.pt",
    )
    for number, backbone in enumerate(("R50", "RS200")):
        name = f"Unified_learned_OCIM_{backbone}_6x+2x"
        (detection / "configs" / f"{name}.yaml").write_text("MODEL: {}\n")
        torch.save(
            {"model": {"w": torch.full((2,), number)}},
            folder / "experts" / "expert_weights" / f"{name}.pth",
        )
    return folder.parent


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Path]:
    """A function that asks about a red image of 1024 x 768 and a blue one, and returns the folder
    of questions.
    """

    def write(role: str = "detector") -> Path:
        folder = tmp_path / f"asked-{role}"
        folder.mkdir(exist_ok=True)
        lines = []
        for index, plane in enumerate((0, 2)):
            pixels = np.zeros((768, 1024, 3), dtype=np.uint8)
            pixels[..., plane] = 255
            Image.fromarray(pixels).save(path := folder / f"{index}.png")
            fields = {
                "index": index,
                "role": role,
                "image": path.name,
                "sha256": sha256_file(path),
                "query": {"names": ["cat"]},
            }
            lines.append(json.dumps({**fields, "key": f"{index:064d}"}))
        (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return write


def sightings(folder: Path) -> list[DetectionAnnotation]:
    return [
        DetectionAnnotation.model_validate(line["annotation"])
        for line in read_lines(folder / "annotations.jsonl")
    ]


@pytest.mark.parametrize(
    ("plugin", "role", "backbone"), [(UNIDET, "detector", "R50"), (RS200, "detector-2d", "RS200")]
)
def test_both_networks_see_blue_first_and_answer_in_the_images_own_pixels(
    checkout: Path, ask: Callable[..., Path], plugin: Any, role: str, backbone: str
) -> None:
    folder = ask(role)
    assert plugin.roles == (role,) and plugin.judge_class == "official"
    assert external_annotator.run_annotator(
        PYTHON, plugin.runner, folder, {"checkout": str(checkout), "device": "cpu"}
    ) == external_annotator.AnnotationCounts(2, 0)
    red, blue = sightings(folder)
    assert red.size == (1024, 768) and [d.label for d in red.detections] == [
        "table, desk",
        "cat",
    ], "the surest first"
    assert red.detections[1].score == pytest.approx(0.1) and blue.detections[
        1
    ].score == pytest.approx(0.1 + 255 / 512)
    assert red.detections[0].box == pytest.approx((0, 0, 1024, 768)) and red.detections[
        1
    ].box == pytest.approx((0, 0, 512, 384))
    record = read_judge_record(folder)
    assert record is not None
    weights = (
        checkout
        / "UniDet_eval"
        / "experts"
        / "expert_weights"
        / f"Unified_learned_OCIM_{backbone}_6x+2x.pth"
    )
    assert record.weights_sha256 == sha256_file(weights) and record.judge_class == "substitute"
    assert "a substitute: no --judge-option sha256=HEX" in record.preprocessing
    assert (
        f"Unified_learned_OCIM_{backbone}_6x+2x.yaml" in record.preprocessing
        and "no detectron2" in record.preprocessing
    )


@pytest.mark.no_numbers
def test_the_weights_may_lie_elsewhere_but_not_be_the_other_backbones(
    checkout: Path, ask: Callable[..., Path], tmp_path: Path
) -> None:
    own_path = checkout / "UniDet_eval" / "experts" / "expert_weights"
    brought_value = own_path.rename(tmp_path / "brought")
    options = {"checkout": str(checkout)}
    with pytest.raises(
        JudgeError,
        match=r"holds no Unified_learned_OCIM_R50_6x\+2x\.pth; add --judge-option weights=FOLDER",
    ):
        external_annotator.run_annotator(PYTHON, UNIDET.runner, ask(), options)
    with pytest.raises(JudgeError, match="is of another backbone, this role needs R50"):
        external_annotator.run_annotator(
            PYTHON,
            UNIDET.runner,
            ask(),
            options | {"weights": str(brought_value / "Unified_learned_OCIM_RS200_6x+2x.pth")},
        )
    (brought_value / "Unified_learned_OCIM_R50_6x+2x.pth").rename(
        brought_value / "Unified_learned_OCIM_R50_6x-2x.pth"
    )  # as fetch names it
    assert (
        external_annotator.run_annotator(
            PYTHON, UNIDET.runner, ask(), options | {"weights": str(brought_value)}
        ).n_annotated
        == 2
    )


class Note:
    """Something else than tensors."""


@pytest.mark.no_numbers
def test_weights_that_are_more_than_tensors_need_the_users_word(
    checkout: Path, ask: Callable[..., Path]
) -> None:
    path = (
        checkout
        / "UniDet_eval"
        / "experts"
        / "expert_weights"
        / "Unified_learned_OCIM_R50_6x+2x.pth"
    )
    torch.save({"model": {"w": torch.ones(2)}, "by": Note()}, path)
    options = {"checkout": str(checkout)}
    with pytest.raises(
        JudgeError, match=f"cannot be read as tensors alone .*sha256={sha256_file(path)}"
    ):
        external_annotator.run_annotator(PYTHON, UNIDET.runner, ask(), options)
    with pytest.raises(JudgeError, match="trusted is 00"):
        external_annotator.run_annotator(
            PYTHON, UNIDET.runner, ask(), options | {"sha256": "0" * 64}
        )
    folder = ask()
    assert (
        external_annotator.run_annotator(
            PYTHON, UNIDET.runner, folder, options | {"sha256": sha256_file(path)}
        ).n_annotated
        == 2
    )
    record = read_judge_record(folder)
    assert record is not None
    assert (
        record.judge_class == "official"
        and "the user names as the published one" in record.preprocessing
    )


@pytest.mark.no_numbers
def test_what_is_missing_is_named(checkout: Path, ask: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="add --judge-option checkout=FOLDER"):
        external_annotator.run_annotator(PYTHON, UNIDET.runner, ask(), {})
    with pytest.raises(JudgeError, match="has no experts/obj_detection"):
        external_annotator.run_annotator(PYTHON, UNIDET.runner, ask(), {"checkout": str(tmp_path)})
    (checkout / "UniDet_eval" / "detectron2" / "engine" / "defaults.py").unlink()
    with pytest.raises(JudgeError, match="cannot import the benchmark's detector"):
        external_annotator.run_annotator(PYTHON, UNIDET.runner, ask(), {"checkout": str(checkout)})
    for plugin in (UNIDET, RS200):
        with pytest.raises(
            MissingAssetError, match="add --judge-python PYTHON --judge-option checkout=FOLDER"
        ):
            plugin.open("cpu")
