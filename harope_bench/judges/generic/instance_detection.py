"""Steps that both Mask2Former judges share: classes, mmdet's preprocessing and postprocessing.

Source: open-mmlab/mmdetection v2.28.2,
mmdet/models/seg_heads/panoptic_fusion_heads/maskformer_fusion_head.py,
mmdet/core/mask/utils.py, mmdet/datasets/pipelines/transforms.py; mmcv 1.7.2,
mmcv/image/geometric.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harope_bench.core.annotations import Box, Detection, DetectionAnnotation, Mask, encode_mask
from harope_bench.core.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

# COCO's eighty classes in COCO's order under GenEval's names
# (djghosh13/geneval:evaluation/object_names.txt), which differ for three
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
SCALE = (1333, 800)  # largest longer and shorter side after the resize
MULTIPLE = 32  # sides are padded to a multiple of it
PADDING_VALUE = 128
# of red, green and blue
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
MAX_DETECTIONS = 100  # pairs of query and class that can become detections
MIN_SCORE = 0.05  # detections below it are dropped
MIN_MASK_SCORE = 0.3  # detections above it have a mask
# Pixels of masks in memory at once. At 2048 px all hundred masks would take 1.7 GB several times.
MAX_MASK_PIXELS = 32 << 20
POSTPROCESSING = (
    f"the {MAX_DETECTIONS} surest are looked at, told are those from {MIN_SCORE} on, with masks"
    f" those above {MIN_MASK_SCORE}"
)


class PreparedImage(NamedTuple):
    """An image as input of the network.

    tensor: (1, 3, H', W') float32. resized_size: (height, width) of the image in it without
    padding. original_size: (height, width) of the image before the resize.
    """

    tensor: Tensor
    resized_size: tuple[int, int]
    original_size: tuple[int, int]


class InstanceLogits(NamedTuple):
    """The arguments of `instances`: what Mask2Former returns for an image.

    class_logits: (Q, C + 1). mask_logits: (Q, h, w). names: of the C classes.
    """

    class_logits: Tensor
    mask_logits: Tensor
    prepared_image: PreparedImage
    names: Sequence[str] = CLASSES


class IndexedDetection(NamedTuple):
    """A detection with its score and its position in the network's order."""

    score: float
    position: int
    detection: Detection


def fitted_size(height: int, width: int, scale: tuple[int, int] = SCALE) -> tuple[int, int]:
    """Return the (height, width) of the resized image: largest that fits `scale`, ratio kept.

    The longer side is at most max(scale), the shorter at most min(scale).
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def prepare_image(image: np.ndarray, scale: tuple[int, int] = SCALE) -> PreparedImage:
    """Return an image (H, W, 3) uint8 in RGB as mmdet 2.x's test pipeline gives it.

    `scale` limits the resized sides in pixels.

    OpenCV resizes uint8 values, bilinear without antialias. Grey pads right and bottom to a
    multiple of 32 before normalising. mmdet reads BGR and converts to RGB while normalising. No
    earlier step mixes channels, so RGB throughout gives equal values.
    """
    import torch

    height, width = fitted_size(image.shape[0], image.shape[1], scale)
    cv2 = _import_cv2()
    resized_image = cv2.resize(
        np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR
    )

    padded = np.full(
        (_round_up(height, MULTIPLE), _round_up(width, MULTIPLE), 3),
        PADDING_VALUE,
        dtype=np.float32,
    )  # (H', W', 3)
    padded[:height, :width] = resized_image

    normalized_image = (padded - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    planes = np.ascontiguousarray(normalized_image.transpose(2, 0, 1))  # (3, H', W')
    tensor = torch.from_numpy(planes)[None]  # (1, 3, H', W')
    return PreparedImage(tensor, (height, width), (image.shape[0], image.shape[1]))


def _round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `size`."""
    return -(-size // multiple) * multiple


def _import_cv2() -> ModuleType:
    """Import OpenCV; raise MissingExtraError with the command to install it."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(
            f"the detector resizes with OpenCV, which cannot be imported ({error})",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    return cv2


def top_pairs(class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, queries and labels (100,) of the pairs with the highest probability.

    Args:
        class_logits: (queries, labels + 1); the last label means no object.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]  # (queries, labels)
    scores, pairs = probabilities.flatten().topk(min(MAX_DETECTIONS, probabilities.numel()))
    return scores, pairs // probabilities.shape[1], pairs % probabilities.shape[1]


def resize_masks(mask_logits: Tensor, prepared_image: PreparedImage) -> Tensor:
    """Return mask logits (Q, h, w) at the original size of the image, (Q, H, W).

    They are resized to the network's input, cut to the part without padding, and resized again.
    """
    from torch.nn.functional import interpolate

    input_size = prepared_image.tensor.shape[-2:]
    height, width = prepared_image.resized_size
    at_input_size = interpolate(
        mask_logits[None], size=input_size, mode="bilinear", align_corners=False
    )  # (1, Q, H', W')
    without_padding = at_input_size[..., :height, :width]
    return interpolate(
        without_padding, size=prepared_image.original_size, mode="bilinear", align_corners=False
    )[0]  # (Q, H, W)


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    prepared_image: PreparedImage,
    names: Sequence[str] = CLASSES,
) -> DetectionAnnotation:
    """Return the detections in an image from the outputs of Mask2Former.

    A mask is where its logit is above 0. A score is the probability of the class times the mean
    sigmoid inside the mask. A box is that of its mask, with far edges one past the last pixel. One
    query can give detections of several classes.

    Args:
        class_logits: (Q, C + 1). mask_logits: (Q, h, w). names: of the C classes.
    """
    scores, queries, labels = top_pairs(class_logits)
    height, width = prepared_image.original_size
    masks_at_once = max(1, MAX_MASK_PIXELS // (height * width))
    detections: list[IndexedDetection] = []
    for query_chunk in queries.unique().split(masks_at_once):
        logits = resize_masks(mask_logits[query_chunk], prepared_image)  # (chunk, H, W)
        masks = logits > 0
        pixel_counts = masks.flatten(1).sum(1)  # (chunk,)
        mask_scores = (logits.sigmoid() * masks).flatten(1).sum(1) / (pixel_counts + 1e-6)
        for query, mask, mask_score in zip(query_chunk, masks, mask_scores, strict=True):
            pairs = (queries == query).nonzero()[:, 0]
            detections += _mask_detections(
                pairs.tolist(),
                [names[label] for label in labels[pairs].tolist()],
                (scores[pairs] * mask_score).cpu().numpy(),
                mask.cpu().numpy,
            )
    return sort_detections(detections, (width, height))


def _mask_detections(
    positions: list[int], labels: list[str], scores: np.ndarray, load_mask: Callable[[], np.ndarray]
) -> Iterator[IndexedDetection]:
    """Yield the detections of one mask whose scores are high enough.

    Args:
        positions: Places of the (mask, class) pairs in the network's order.
        labels, scores: Class name and score of each pair.
        load_mask: Returns the mask (H, W) bool.
    """
    kept_pairs = [n for n, score in enumerate(scores) if score >= np.float32(MIN_SCORE)]
    if not kept_pairs:
        return
    pixels = load_mask()
    box = mask_box(pixels)
    mask = encode_mask(pixels) if scores.max() > np.float32(MIN_MASK_SCORE) else None
    for n in kept_pairs:
        detection = make_detection(labels[n], scores[n], box, mask)
        yield IndexedDetection(float(scores[n]), positions[n], detection)


def make_detection(label: str, score: np.floating, box: Box, mask: Mask | None) -> Detection:
    """Return a detection; drop the mask unless the score is above MIN_MASK_SCORE."""
    return Detection(
        label=label,
        score=float(score),
        box=box,
        mask=mask if score > np.float32(MIN_MASK_SCORE) else None,
    )


def detections_of_tensors(
    labels: Tensor, scores: Tensor, boxes: Tensor, masks: Tensor, size: tuple[int, int]
) -> DetectionAnnotation:
    """Return the detections in an image from a network's tensors.

    Args:
        labels, scores: (N,). boxes: (N, 4). masks: (N, H, W) bool. size: (width, height).
    """
    score_values = scores.float().cpu().numpy()
    box_values = boxes.float().cpu().numpy()
    label_numbers = labels.tolist()
    detections = []
    for n in np.flatnonzero(score_values >= np.float32(MIN_SCORE)):
        score = score_values[n]
        has_mask = score > np.float32(MIN_MASK_SCORE)
        mask = encode_mask(masks[n].cpu().numpy()) if has_mask else None
        x0, y0, x1, y1 = (float(corner) for corner in box_values[n])
        detection = make_detection(CLASSES[label_numbers[n]], score, (x0, y0, x1, y1), mask)
        detections.append(IndexedDetection(float(score), int(n), detection))
    return sort_detections(detections, size)


def sort_detections(
    indexed_detections: list[IndexedDetection], size: tuple[int, int]
) -> DetectionAnnotation:
    """Return the detections with the highest score first, equal ones in the network's order.

    `size` is the (width, height) of the image.
    """
    in_order = sorted(indexed_detections, key=lambda entry: (-entry.score, entry.position))
    return DetectionAnnotation(size=size, detections=tuple(entry.detection for entry in in_order))


def mask_box(mask: np.ndarray) -> Box:
    """Return the box of a mask (H, W) bool with far edges exclusive; zeros for an empty mask."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
