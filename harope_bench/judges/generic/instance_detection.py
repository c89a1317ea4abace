"""What both Mask2Former judges share: classes, mmdet's way from image to tensor and from logits to
instances.

Source: open-mmlab/mmdetection v2.28.2,
mmdet/models/seg_heads/panoptic_fusion_heads/maskformer_fusion_head.py,
mmdet/core/mask/utils.py, mmdet/datasets/pipelines/transforms.py; mmcv 1.7.2,
mmcv/image/geometric.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harope_bench.core.annotations import Detection, DetectionAnnotation, Mask, encode_mask
from harope_bench.core.errors import MissingExtraError

# COCO's eighty in COCO's order under GenEval's names
# (djghosh13/geneval:evaluation/object_names.txt), three of them its own
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
SCALE = (1333, 800)  # the longer side is at most the first, the shorter at most the second
MULTIPLE = 32
PADDING_VALUE = 128
# red, green, blue
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
MAX_DETECTIONS = 100  # pairs of query and class that are instances
# weaker ones are not told; of those above the second the mask is told too
MIN_SCORE = 0.05
MIN_MASK_SCORE = 0.3
MAX_MASK_PIXELS = (
    32 << 20
)  # pixels of masks in memory at once: at 2048 px all hundred would be 1.7 GB, several times over
POSTPROCESSING = (
    f"the {MAX_DETECTIONS} surest are looked at, told are those from {MIN_SCORE} on, with masks"
    f" those above {MIN_MASK_SCORE}"
)


class PreparedImage(NamedTuple):
    """An image as the network sees it, (1, 3, H', W') float32; what of it is image, and the image's
    own (height, width).
    """

    tensor: Tensor
    resized_size: tuple[int, int]
    original_size: tuple[int, int]


def fitted_size(height: int, width: int, scale: tuple[int, int] = SCALE) -> tuple[int, int]:
    """(height, width) that the image is resized to: its ratio kept, inside `scale` either way
    round.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def prepare_image(image: np.ndarray, scale: tuple[int, int] = SCALE) -> PreparedImage:
    """mmdet 2.x's test pipeline for an image (H, W, 3) uint8 in RGB.

    Resized on uint8 with OpenCV's bilinear, no antialias; grey at the right and bottom up to a
    multiple of 32, before normalising. The
    original reads BGR and turns it to RGB while normalising; no step before mixes channels, so RGB
    throughout gives the same.
    """
    height, width = fitted_size(image.shape[0], image.shape[1], scale)
    small = _cv2().resize(
        np.ascontiguousarray(image), (width, height), interpolation=_cv2().INTER_LINEAR
    )
    padded = np.full(
        (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE, 3),
        PADDING_VALUE,
        dtype=np.float32,
    )
    padded[:height, :width] = small
    planes = (padded - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))[
        None
    ]  # (1, 3, H', W')
    return PreparedImage(tensor, (height, width), (image.shape[0], image.shape[1]))


def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(
            f"the detector's resize is OpenCV's ({error})", advice="pip install 'harope-bench[t2i]'"
        ) from error
    return cv2


def top_pairs(classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, queries and labels (100,) of the surest pairs, from class logits (queries, labels +
    1); the last label is none.
    """
    shares = classes.softmax(-1)[:, :-1]
    scores, pairs = shares.flatten().topk(min(MAX_DETECTIONS, shares.numel()))
    return scores, pairs // shares.shape[1], pairs % shares.shape[1]


def resize_masks(masks: Tensor, seen: PreparedImage) -> Tensor:
    """Mask logits (Q, h, w) at the original size (Q, H, W): to what the network saw, without the
    padding, then on.
    """
    whole = interpolate(
        masks[None], size=seen.tensor.shape[-2:], mode="bilinear", align_corners=False
    )
    image = whole[..., : seen.resized_size[0], : seen.resized_size[1]]
    return interpolate(image, size=seen.original_size, mode="bilinear", align_corners=False)[0]


def instances(
    classes: Tensor, masks: Tensor, seen: PreparedImage, names: Sequence[str] = CLASSES
) -> DetectionAnnotation:
    """What an image shows, from class logits (Q, C + 1) and mask logits (Q, h, w).

    A mask is where its logit is above 0; a score is the class's share times the mean sigmoid inside
    the mask; a box is the mask's own,
    its far edges one past the last pixel. One query can be told under several classes.
    """
    scores, queries, labels = top_pairs(classes)
    found: list[tuple[float, int, Detection]] = []
    height, width = seen.original_size
    step = max(1, MAX_MASK_PIXELS // (height * width))
    for some in queries.unique().split(step):
        logits = resize_masks(masks[some], seen)  # (step, H, W)
        inside = logits > 0
        sure = (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
        for query, mask, share in zip(some, inside, sure, strict=True):
            pairs = (queries == query).nonzero()[:, 0]
            total = (scores[pairs] * share).cpu().numpy()
            found += _mask_detections(
                pairs.tolist(), [names[n] for n in labels[pairs].tolist()], total, mask.cpu().numpy
            )
    return sort_detections(found, (width, height))


def _mask_detections(
    places: list[int], labels: list[str], scores: np.ndarray, mask: Callable[[], np.ndarray]
) -> Iterator[tuple[float, int, Detection]]:
    """Detections of one mask, each with its score and its place in the network's own order."""
    keep = [n for n, score in enumerate(scores) if score >= np.float32(MIN_SCORE)]
    if not keep:
        return
    pixels = mask()
    box = mask_box(pixels)
    runs = encode_mask(pixels) if scores.max() > np.float32(MIN_MASK_SCORE) else None
    for n in keep:
        yield float(scores[n]), places[n], make_detection(labels[n], scores[n], box, runs)


def make_detection(
    label: str, score: np.floating, box: tuple[float, float, float, float], runs: Mask | None
) -> Detection:
    """One detection; the mask is left out where the score is not above `MASKED`."""
    return Detection(
        label=label,
        score=float(score),
        box=box,
        mask=runs if score > np.float32(MIN_MASK_SCORE) else None,
    )


def detections_of_tensors(
    labels: Tensor, scores: Tensor, boxes: Tensor, masks: Tensor, size: tuple[int, int]
) -> DetectionAnnotation:
    """What an image of that (width, height) shows, from labels and scores (N,), boxes (N, 4) and
    masks (N, H, W) bool of a network.
    """
    weights = scores.float().cpu().numpy()
    corners = boxes.float().cpu().numpy()
    kinds = labels.tolist()
    found = []
    for n in np.flatnonzero(weights >= np.float32(MIN_SCORE)):
        runs = (
            encode_mask(masks[n].cpu().numpy()) if weights[n] > np.float32(MIN_MASK_SCORE) else None
        )
        x0, y0, x1, y1 = (float(c) for c in corners[n])
        found.append(
            (
                float(weights[n]),
                int(n),
                make_detection(CLASSES[kinds[n]], weights[n], (x0, y0, x1, y1), runs),
            )
        )
    return sort_detections(found, size)


def sort_detections(
    found: list[tuple[float, int, Detection]], size: tuple[int, int]
) -> DetectionAnnotation:
    """The surest first; equal scores in the network's own order."""
    return DetectionAnnotation(
        size=size, detections=tuple(d for _, _, d in sorted(found, key=lambda f: (-f[0], f[1])))
    )


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box of a mask (H, W) bool, far edges exclusive; zeros for an empty one."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
