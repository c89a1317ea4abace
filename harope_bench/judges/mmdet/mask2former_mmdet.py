"""Judge mask2former-mmdet: GenEval's detector by mmdet 3.3's network, pipeline and postprocessing.

GenEval ran mmdet 2.27, which resizes uint8 values and pads with grey before normalising. mmdet 3.3
resizes float32 values and pads with zeros afterwards. On square images only the rounding differs.
The judge needs no compiled operations (`mmcv_ops.py`).

Source: open-mmlab/mmdetection v3.3.0,
configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py, mmdet/apis/inference.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harope_bench.core.annotations import DetectionAnnotation, Query
from harope_bench.core.errors import MissingExtraError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import check_state_dict
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.instance_detection import POSTPROCESSING, detections_of_tensors
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.self_check import check_mask_boxes, check_red_first, red_image
from harope_bench.judges.mmdet import key_map, mmcv_ops, weights_file
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import shorten_mismatch_error

if TYPE_CHECKING:
    from torch import Tensor, nn

ASSET = "mask2former-mmdet"
CONFIG = "configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"


def build_network() -> nn.Module:
    """Return mmdet's network of the published configuration, with any weights.

    No weights of Swin are downloaded.

    Raises:
        MissingExtraError: mmdet is not installed, or of another release.
    """
    import torch

    config_path = Path(str(mmcv_ops.import_mmdet().__file__)).parent / ".mim" / CONFIG
    if not config_path.is_file():
        raise MissingExtraError(
            f"mmdet has no {CONFIG}, wanted its release 3.3.0", advice=mmcv_ops.INSTALL
        )
    from mmdet.registry import MODELS
    from mmengine.config import Config

    config = Config.fromfile(config_path)
    config.model.backbone.init_cfg = None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = MODELS.build(config.model)
    return network.eval()


def make_test_pipeline(scale: tuple[int, int]) -> Callable[[np.ndarray], dict[str, list[object]]]:
    """Return mmdet 3.3's test pipeline as a function of an image (H, W, 3) uint8 in BGR.

    `scale` limits the resized sides in pixels. The published pipeline reads such an image
    from a file and converts it to float32.
    """
    from mmcv.transforms import Compose

    steps = Compose(
        [
            {"type": "mmdet.Resize", "scale": scale, "keep_ratio": True},
            {
                "type": "mmdet.PackDetInputs",
                "meta_keys": ("ori_shape", "img_shape", "scale_factor"),
            },
        ]
    )

    def prepare(image: np.ndarray) -> dict[str, list[object]]:
        output = steps(
            {
                "img": image.astype(np.float32),
                "img_shape": image.shape[:2],
                "ori_shape": image.shape[:2],
            }
        )
        return {"inputs": [output["inputs"]], "data_samples": [output["data_samples"]]}

    return prepare


class Predictions(NamedTuple):
    """The arguments of `detections_of_tensors`."""

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor
    size: tuple[int, int]


class LoadedMmdetMask2Former(LoadedAnnotator):
    """mmdet's Mask2Former with its weights."""

    def __init__(
        self, network: nn.Module, weights_sha256: str, device: str, scale: tuple[int, int]
    ):
        self.network: Network = network.to(device).eval()
        self.weights_sha256 = weights_sha256
        self.test_pipeline = make_test_pipeline(scale)

    def annotate(self, role: str, image: np.ndarray, query: Query) -> DetectionAnnotation:
        """Return the detections in an image (H, W, 3) uint8, whatever names the query has.

        The set of classes is closed.
        """
        return self.finish_annotation(self.run_network(role, image, query))

    def run_network(self, role: str, image: np.ndarray, query: Query) -> Predictions:
        """Return mmdet's predictions for an image (H, W, 3) uint8, with masks at its size."""
        import torch

        inputs = self.test_pipeline(_to_bgr(image))
        with torch.inference_mode(), full_float32(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer torch versions, for example about meshgrid
            predictions = self.network.test_step(inputs)[0].pred_instances
        return Predictions(
            predictions.labels,
            predictions.scores,
            predictions.bboxes,
            predictions.masks,
            (image.shape[1], image.shape[0]),
        )

    def finish_annotation(self, outputs: Predictions) -> DetectionAnnotation:
        """Return the detections: run lengths of the masks, the highest score first."""
        return detections_of_tensors(*outputs)

    def network_input(self, image: np.ndarray) -> Tensor:
        """Return an image (H, W, 3) uint8 as input of the network, (1, 3, H', W')."""
        inputs = self.test_pipeline(_to_bgr(image))
        tensor: Tensor = self.network.data_preprocessor(inputs, training=False)["inputs"]
        return tensor


def _to_bgr(image: np.ndarray) -> np.ndarray:
    """Return an RGB image (H, W, 3) as BGR."""
    return np.ascontiguousarray(image[..., ::-1])


class MmdetMask2Former(weights_file.GenEvalDetector):
    """The plug-in; tests make its scale small."""

    asset = ASSET
    packages = ("torch", "torchvision", "mmdet", "mmcv")
    published_class: JudgeClass = "official"
    preprocessing = (
        "mmdet 3.3.0: OpenCV bilinear without antialias on float32, ratio kept, into 1333 x 800;"
        " ImageNet's mean and deviation, then zeros to a multiple of 32; masks bilinear to the"
        f" image's size; {POSTPROCESSING}"
    )

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return checks that hold for any weights."""
        return (
            NamedCheck("channels", lambda judge: check_red_first(judge.network_input(red_image()))),
            NamedCheck("boxes", check_mask_boxes),
        )

    def open(self, device: str = "cpu") -> LoadedMmdetMask2Former:
        """Load the weights strictly after checking their hash.

        Raises:
            MissingAssetError: The weights are missing.
            WeightsError: The weights are altered, unsafe, or of another network.
            MissingExtraError: mmdet is not installed.
        """
        file = self.find_weights()
        network = build_network()
        state = key_map.to_mmdet3_names(weights_file.load_state(file))
        _fill_network(network, state, str(file.path))
        return LoadedMmdetMask2Former(network, file.sha256, device, self.scale)


def _fill_network(network: nn.Module, state: Mapping[str, Tensor], file_name: str) -> None:
    """Load the tensors into the network; raise WeightsError where they do not fit."""
    with shorten_mismatch_error(file_name, "mmdet's Mask2Former", ASSET):
        check_state_dict(network.state_dict(), state, file_name)
    network.load_state_dict(dict(state), strict=True)


PLUGIN = MmdetMask2Former()
