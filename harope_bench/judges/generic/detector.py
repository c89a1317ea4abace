"""Judge detector: any object detector of transformers that the user provides, `detector:MODEL`.

It is always a substitute. There are three kinds: a closed set of classes (DETR and similar
networks), instance segmentation (Mask2Former), and open vocabulary (Grounding DINO, OWLv2 and
similar networks). An open-vocabulary detector gets one name at a time. Another detector is
another metric: its numbers do not compare with those published with the detectors of GenEval or
T2I-CompBench.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harope_bench.core.annotations import Box, Detection, DetectionAnnotation, DetectionQuery, Query
from harope_bench.core.errors import OptionError, ShapeError
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.instance_detection import (
    MAX_DETECTIONS,
    MIN_MASK_SCORE,
    MIN_SCORE,
    InstanceLogits,
    PreparedImage,
    instances,
)
from harope_bench.judges.generic.library_types import AutoClass, Library, ModelConfig, Processor
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import LocalModel, import_transformers, load_strictly
from harope_bench.judges.generic.self_check import noise_image
from harope_bench.judges.weights.precision import full_float32

if TYPE_CHECKING:
    from torch import Tensor


class DetectorKind(NamedTuple):
    """A kind of detector of transformers.

    auto_class: returns the Auto class that loads it. config_classes: returns the classes of
    configurations of this kind.
    """

    auto_class: Callable[[Library], AutoClass]
    config_classes: Callable[[Library], Container[type[ModelConfig]]]


OPEN_VOCABULARY = "open-vocabulary"
CLOSED_SET = "closed-set"
SEGMENTATION = "segmentation"
KINDS: Mapping[str, DetectorKind] = {
    OPEN_VOCABULARY: DetectorKind(
        lambda library: library.AutoModelForZeroShotObjectDetection,
        lambda library: library.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING,
    ),
    CLOSED_SET: DetectorKind(
        lambda library: library.AutoModelForObjectDetection,
        lambda library: library.MODEL_FOR_OBJECT_DETECTION_MAPPING,
    ),
    SEGMENTATION: DetectorKind(
        lambda library: library.AutoModelForUniversalSegmentation,
        lambda library: library.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    ),
}
# COCO's names to GenEval's
GENEVAL_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}
STEPS = (
    "the model's own processor; labels as its configuration has them, in lower case, or the names"
    f" asked, each alone; the {MAX_DETECTIONS} surest from {MIN_SCORE} on, of a segmenting model"
    f" with masks above {MIN_MASK_SCORE}; COCO's {', '.join(GENEVAL_NAMES)} are called"
    f" {', '.join(GENEVAL_NAMES.values())} where these are asked and the short name is not"
)


class LoadedDetector(LoadedAnnotator):
    """A detector with its weights and its own processor."""

    def __init__(self, model: LocalModel, kind: str, device: str):
        library = import_transformers()
        self.weights_sha256 = model.sha256
        self.kind = kind
        self.device = device
        auto_processor = (
            library.AutoProcessor if kind == OPEN_VOCABULARY else library.AutoImageProcessor
        )
        self.processor: Processor = _load_auto(auto_processor, model)
        network = load_strictly(KINDS[kind].auto_class(library), model.path, "object detector")
        self.network = network.to(device).eval()

    def annotate(self, role: str, image: np.ndarray, query: Query) -> DetectionAnnotation:
        """Return the detections in an image (H, W, 3) uint8.

        An open-vocabulary detector detects the names of the query only.
        """
        return self.finish_annotation(self.run_network(role, image, query))

    def run_network(
        self, role: str, image: np.ndarray, query: Query
    ) -> InstanceLogits | DetectionAnnotation:
        """Return the logits of a segmenting model; the detections of another."""
        import torch

        names = query.names if isinstance(query, DetectionQuery) else ()
        with torch.inference_mode(), full_float32():
            if self.kind == SEGMENTATION:
                return self._segment(image, names)
            if self.kind == OPEN_VOCABULARY:
                return self._detect_open_vocabulary(image, names)
            return self._detect_closed_set(image, names)

    def finish_annotation(
        self, outputs: InstanceLogits | DetectionAnnotation
    ) -> DetectionAnnotation:
        """Return the detections; of a segmenting model, make its masks."""
        import torch

        if isinstance(outputs, DetectionAnnotation):
            return outputs
        with torch.inference_mode():
            return instances(*outputs)

    def _detect_open_vocabulary(
        self, image: np.ndarray, names: Sequence[str]
    ) -> DetectionAnnotation:
        """Return the detections of each name, which the network gets one at a time."""
        if not names:
            raise ShapeError(
                "an open-vocabulary detector needs the names to look for, found none; choose a"
                " detector with a closed set of classes"
            )
        detections: list[Detection] = []
        for name in dict.fromkeys(names):
            inputs = self.processor(images=image, text=[[name]], return_tensors="pt").to(
                self.device
            )
            output = self.processor.post_process_grounded_object_detection(
                self.network(**inputs), threshold=MIN_SCORE, target_sizes=[image.shape[:2]]
            )[0]
            labels = [name] * len(output["scores"])
            detections += make_detections(labels, output["scores"], output["boxes"], image)
        return make_detection_annotation(detections, image)

    def _detect_closed_set(self, image: np.ndarray, names: Sequence[str]) -> DetectionAnnotation:
        """Return the detections of the model's own classes."""
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        output = self.processor.post_process_object_detection(
            self.network(**inputs), threshold=MIN_SCORE, target_sizes=[image.shape[:2]]
        )[0]
        labels = [self._label(number, names) for number in output["labels"].tolist()]
        detections = make_detections(labels, output["scores"], output["boxes"], image)
        return make_detection_annotation(detections, image)

    def _segment(self, image: np.ndarray, names: Sequence[str]) -> InstanceLogits:
        """Return the logits of Mask2Former."""
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        output = self.network(**inputs)

        # the pixel mask (H', W') is 1 on the image and 0 on padding
        pixel_mask = inputs["pixel_mask"][0]
        resized_size = (int(pixel_mask.any(1).sum()), int(pixel_mask.any(0).sum()))
        original_size = (image.shape[0], image.shape[1])
        prepared_image = PreparedImage(inputs["pixel_values"], resized_size, original_size)

        class_logits = output.class_queries_logits[0]  # (Q, C + 1)
        mask_logits = output.masks_queries_logits[0]  # (Q, h, w)
        labels = [self._label(number, names) for number in range(class_logits.shape[-1] - 1)]
        return InstanceLogits(class_logits, mask_logits, prepared_image, labels)

    def _label(self, class_number: int, names: Sequence[str]) -> str:
        """Return the name of a class in the words of the query.

        T2I-CompBench asks for a mouse, GenEval for a computer mouse. The query's names decide which
        name COCO's class gets.
        """
        label = str(self.network.config.id2label.get(class_number, class_number)).lower()
        geneval_name = GENEVAL_NAMES.get(label, label)
        return geneval_name if geneval_name in names and label not in names else label


def make_detections(
    labels: Iterable[str], scores: Tensor, boxes: Tensor, image: np.ndarray
) -> list[Detection]:
    """Return detections from labels, scores (N,) and boxes (N, 4) in pixels, cut at the edges."""
    height, width = image.shape[:2]
    detections = []
    for label, score, corners in zip(
        labels, scores.float().tolist(), boxes.float().tolist(), strict=True
    ):
        x0, x1 = (min(max(x, 0.0), width) for x in (corners[0], corners[2]))
        y0, y1 = (min(max(y, 0.0), height) for y in (corners[1], corners[3]))
        box: Box = (x0, y0, max(x0, x1), max(y0, y1))
        detections.append(Detection(label=label, score=min(max(score, 0.0), 1.0), box=box))
    return detections


def make_detection_annotation(
    detections: list[Detection], image: np.ndarray
) -> DetectionAnnotation:
    """Return the detections with the highest scores, equal ones in the network's order."""
    in_order = sorted(detections, key=lambda detection: -detection.score)
    return DetectionAnnotation(
        size=(image.shape[1], image.shape[0]), detections=tuple(in_order[:MAX_DETECTIONS])
    )


def detector_kind(model: LocalModel) -> str:
    """Return the kind of detector in a folder; raise OptionError where it is of no known kind."""
    library = import_transformers()
    config = _load_auto(library.AutoConfig, model)
    for name, kind in KINDS.items():
        # of the networks for universal segmentation only Mask2Former has instances
        if name == SEGMENTATION and config.model_type != "mask2former":
            continue
        if type(config) in kind.config_classes(library):
            return name
    raise OptionError(
        f"{model.path} holds a {config.model_type}, no object detector that this judge knows; give"
        " DETR, OWLv2 or a similar detector"
    )


def _load_auto(auto_class: AutoClass, model: LocalModel) -> Processor | ModelConfig:
    """Return the processor or configuration of a folder; raise OptionError where it has none."""
    try:
        return auto_class.from_pretrained(
            model.path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise OptionError(
            f"{model.path} has no {auto_class.__name__} that transformers reads ({reason}); give"
            " the complete folder of a detector"
        ) from error


def check_boxes_inside(detector: LoadedDetector) -> str | None:
    """Return what is wrong with the boxes in an image of noise, or None."""
    image = noise_image(6, 8, pixel_size=8)
    query = DetectionQuery(names=("person",))
    detections = detector.annotate("detector", image, query).detections
    is_inside = all(
        0 <= d.box[0] <= d.box[2] <= 64 and 0 <= d.box[1] <= d.box[3] <= 48 for d in detections
    )
    scores = [detection.score for detection in detections]
    if is_inside and scores == sorted(scores, reverse=True):
        return None
    return "boxes in an image of noise are outside it or not sorted by score"


class Detector(LocalAnnotator):
    """The plug-in; `with_model` binds it to a model."""

    name = "detector"
    version = 2
    preprocessing = STEPS
    roles = ("detector", "detector-2d")

    def find_model(self) -> LocalModel:
        """Return the folder of the model.

        Raises:
            OptionError: No model is bound.
            MissingAssetError: The model is missing.
        """
        if not self.model:
            raise OptionError(
                "judge detector runs a model that you provide, found none; write --judge"
                " detector=detector:FOLDER or detector:HUB-ID"
            )
        return super().find_model()

    def warnings(self) -> tuple[str, ...]:
        """Return the warning that the judge is a substitute."""
        return (f"judge: {self.model} is a substitute, numbers do not compare with published ones",)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return a check that holds for any detector."""
        return (NamedCheck("boxes", check_boxes_inside),)

    def open(self, device: str = "cpu") -> LoadedDetector:
        """Load the model with every weight from its folder.

        Raises:
            MissingAssetError: The model is missing.
            OptionError: It is no object detector.
            WeightsError: Weights are missing or damaged.
        """
        model = self.find_model()
        return LoadedDetector(model, detector_kind(model), device)


PLUGIN = Detector()
