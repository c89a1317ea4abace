"""Judge detector: any object detector of transformers that lies in a folder or in the hub's local
cache, as a substitute.

Three kinds: a closed set of classes (DETR and its kin), instance segmentation by Mask2Former, and
detectors that are told what to look
for (Grounding DINO, OWLv2 and their kin), which are asked each name alone. Another detector is
another metric: its numbers compare with
nothing that was published with GenEval's or T2I-CompBench's own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harope_bench.core.annotations import Box, Detection, DetectionAnnotation, DetectionQuery, Query
from harope_bench.core.errors import OptionError, ShapeError
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.instance_detection import (
    MAX_DETECTIONS,
    MIN_MASK_SCORE,
    MIN_SCORE,
    PreparedImage,
    instances,
)
from harope_bench.judges.generic.library_types import AutoClass, Library, ModelConfig, Processor
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import LocalModel, import_transformers, load_strictly
from harope_bench.judges.weights.precision import full_float32


class DetectorKind(NamedTuple):
    """A kind of detector of transformers: the Auto class that loads it, and the classes of
    configurations that are of it.
    """

    auto: Callable[[Library], AutoClass]
    configs: Callable[[Library], Container[type[ModelConfig]]]


KINDS: Mapping[str, DetectorKind] = {
    "told": DetectorKind(
        lambda library: library.AutoModelForZeroShotObjectDetection,
        lambda library: library.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING,
    ),
    "closed": DetectorKind(
        lambda library: library.AutoModelForObjectDetection,
        lambda library: library.MODEL_FOR_OBJECT_DETECTION_MAPPING,
    ),
    "masks": DetectorKind(
        lambda library: library.AutoModelForUniversalSegmentation,
        lambda library: library.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    ),
}
GENEVAL_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}  # COCO's names as GenEval has them
STEPS = (
    "the model's own processor; labels as its configuration has them, in lower case, or the names"
    f" asked, each alone; the {MAX_DETECTIONS} surest from {MIN_SCORE} on, of a segmenting model"
    f" with masks above {MIN_MASK_SCORE}; COCO's {', '.join(GENEVAL_NAMES)} are called"
    f" {', '.join(GENEVAL_NAMES.values())} where these are asked and the short name is not"
)


class LoadedDetector(LoadedAnnotator):
    """A detector with weights and its own processor, ready to look."""

    def __init__(self, found: LocalModel, kind: str, device: str):
        library = import_transformers()
        self.weights_sha256 = found.sha256
        self.kind = kind
        self.device = device
        loader = library.AutoProcessor if kind == "told" else library.AutoImageProcessor
        self.processor: Processor = _load_auto(loader, found)
        self.network = (
            load_strictly(KINDS[kind].auto(library), found.path, "object detector")
            .to(device)
            .eval()
        )

    def annotate(self, role: str, image: np.ndarray, query: Query) -> DetectionAnnotation:
        """Everything found in an image (H, W, 3) uint8; a detector that is told what to look for
        finds the names asked alone.
        """
        looks = {
            "told": self._detect_open_vocabulary,
            "closed": self._detect_closed_set,
            "masks": self._segment,
        }
        with torch.inference_mode(), full_float32():
            return looks[self.kind](image, query.names if isinstance(query, DetectionQuery) else ())

    def _detect_open_vocabulary(
        self, image: np.ndarray, names: Sequence[str]
    ) -> DetectionAnnotation:
        if not names:
            raise ShapeError(
                "this detector is told what to look for and was asked no name; give a detector of a"
                " closed set"
            )
        size = [image.shape[:2]]
        found: list[Detection] = []
        for name in dict.fromkeys(names):
            given = self.processor(images=image, text=[[name]], return_tensors="pt").to(self.device)
            seen = self.processor.post_process_grounded_object_detection(
                self.network(**given), threshold=MIN_SCORE, target_sizes=size
            )[0]
            found += make_detections(
                [name] * len(seen["scores"]), seen["scores"], seen["boxes"], image
            )
        return make_detection_annotation(found, image)

    def _detect_closed_set(self, image: np.ndarray, names: Sequence[str]) -> DetectionAnnotation:
        given = self.processor(images=image, return_tensors="pt").to(self.device)
        seen = self.processor.post_process_object_detection(
            self.network(**given), threshold=MIN_SCORE, target_sizes=[image.shape[:2]]
        )[0]
        labels = [self._label(n, names) for n in seen["labels"].tolist()]
        return make_detection_annotation(
            make_detections(labels, seen["scores"], seen["boxes"], image), image
        )

    def _segment(self, image: np.ndarray, names: Sequence[str]) -> DetectionAnnotation:
        given = self.processor(images=image, return_tensors="pt").to(self.device)
        out = self.network(**given)
        shown = given["pixel_mask"][0]  # (H', W'), 1 where the image is
        resized = (int(shown.any(1).sum()), int(shown.any(0).sum()))
        seen = PreparedImage(given["pixel_values"], resized, (image.shape[0], image.shape[1]))
        labels = [self._label(n, names) for n in range(out.class_queries_logits.shape[-1] - 1)]
        return instances(out.class_queries_logits[0], out.masks_queries_logits[0], seen, labels)

    def _label(self, number: int, names: Sequence[str]) -> str:
        """T2I-CompBench asks for a mouse, GenEval for a computer mouse: the question decides what
        COCO's mouse is called.
        """
        label = str(self.network.config.id2label.get(number, number)).lower()
        longer = GENEVAL_NAMES.get(label, label)
        return longer if longer in names and label not in names else label


def make_detections(
    labels: Iterable[str], scores: Tensor, boxes: Tensor, image: np.ndarray
) -> list[Detection]:
    """Detections from labels, scores (N,) and boxes (N, 4) in the image's pixels, cut at its
    edges.
    """
    width = image.shape[1]
    height = image.shape[0]
    found = []
    for label, score, corners in zip(
        labels, scores.float().tolist(), boxes.float().tolist(), strict=True
    ):
        x0, x1 = (min(max(x, 0.0), width) for x in (corners[0], corners[2]))
        y0, y1 = (min(max(y, 0.0), height) for y in (corners[1], corners[3]))
        box: Box = (x0, y0, max(x0, x1), max(y0, y1))
        found.append(Detection(label=label, score=min(max(score, 0.0), 1.0), box=box))
    return found


def make_detection_annotation(found: list[Detection], image: np.ndarray) -> DetectionAnnotation:
    """The surest first; equal ones in the network's own order."""
    return DetectionAnnotation(
        size=(image.shape[1], image.shape[0]),
        detections=tuple(sorted(found, key=lambda d: -d.score)[:MAX_DETECTIONS]),
    )


def detector_kind(found: LocalModel) -> str:
    """Which kind of detector a folder holds; OptionError where it is none of them."""
    library = import_transformers()
    config = _load_auto(library.AutoConfig, found)
    for kind, facts in KINDS.items():
        if type(config) in facts.configs(library) and (
            kind != "masks" or config.model_type == "mask2former"
        ):
            return kind
    raise OptionError(
        f"{found.path} holds a {config.model_type}, no object detector that this judge knows; give"
        " DETR, OWLv2 or their like"
    )


def _load_auto(auto: AutoClass, found: LocalModel) -> Processor | ModelConfig:
    try:
        return auto.from_pretrained(found.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise OptionError(
            f"{found.path} has no {auto.__name__} that transformers reads ({why}); give a whole"
            " detector's folder"
        ) from error


def check_boxes_inside(opened: LoadedDetector) -> str | None:
    """Whether boxes in an image of noise lie inside it, the surest first."""
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (6, 8, 3), dtype=np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    found = opened.annotate("detector", image, DetectionQuery(names=("person",))).detections
    inside = all(0 <= d.box[0] <= d.box[2] <= 64 and 0 <= d.box[1] <= d.box[3] <= 48 for d in found)
    ordered = [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    return (
        None
        if inside and ordered
        else "boxes in an image of noise lie outside it or are not in order"
    )


class Detector(LocalAnnotator):
    """The plug-in; bound to a model by `of`."""

    name = "detector"
    version = 2
    preprocessing = STEPS
    roles = ("detector", "detector-2d")

    def find_model(self) -> LocalModel:
        """Return where the model lies; OptionError where none is named, NotHere where it is not
        there.
        """
        if not self.model:
            raise OptionError(
                "judge detector runs a model of yours; write --judge detector=detector:FOLDER or"
                " detector:HUB-ID"
            )
        return super().find_model()

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        return (f"judge: {self.model} is a substitute, numbers compare with nothing published",)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """A check that holds for any detector; what this one sees in a known image nobody
        recorded.
        """
        return (NamedCheck("boxes", check_boxes_inside),)

    def open(self, device: str = "cpu") -> LoadedDetector:
        """Loads the model, every weight filled from its folder.

        Raises:
            NotHere: no such folder, nothing in the cache. OptionError: no object detector.
                WeightsError: weights missing or damaged.
        """
        found = self.find_model()
        return LoadedDetector(found, detector_kind(found), device)


PLUGIN = Detector()
