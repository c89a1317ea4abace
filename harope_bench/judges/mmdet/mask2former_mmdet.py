"""Judge mask2former-mmdet: GenEval's detector in mmdet 3.3's own network, test pipeline and
post-processing.

GenEval ran mmdet 2.27, which resizes on uint8 and pads with grey before normalising; 3.3 resizes on
float32 and pads with zeros after.
On square images only the rounding differs. It runs without compiled operations (`_mmcv_ops.py`).

Source: open-mmlab/mmdetection v3.3.0,
configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py, mmdet/apis/inference.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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
from harope_bench.judges.weights.published_weights import explain_misfit

ASSET = "mask2former-mmdet"
CONFIG = "configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"


def build_network() -> nn.Module:
    """mmdet's network of the published configuration; its numbers do not matter, and no weights of
    Swin are downloaded.
    """
    place = Path(str(mmcv_ops.import_mmdet().__file__)).parent / ".mim" / CONFIG
    if not place.is_file():
        raise MissingExtraError(
            f"mmdet has no {CONFIG}, wanted its release 3.3.0", advice=mmcv_ops.INSTALL
        )
    from mmdet.registry import MODELS
    from mmengine.config import Config

    config = Config.fromfile(place)
    config.model.backbone.init_cfg = None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = MODELS.build(config.model)
    return network.eval()


def make_test_pipeline(scale: tuple[int, int]) -> Callable[[np.ndarray], dict[str, list[object]]]:
    """mmdet 3.3's test pipeline for an image (H, W, 3) uint8 in BGR; the published one reads the
    same from a file, as float32.
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

    def packed(image: np.ndarray) -> dict[str, list[object]]:
        loaded = {
            "img": image.astype(np.float32),
            "img_shape": image.shape[:2],
            "ori_shape": image.shape[:2],
        }
        ready = steps(loaded)
        return {"inputs": [ready["inputs"]], "data_samples": [ready["data_samples"]]}

    return packed


class LoadedMmdetMask2Former(LoadedAnnotator):
    """The detector with weights, ready to look."""

    def __init__(
        self, network: nn.Module, weights_sha256: str, device: str, scale: tuple[int, int]
    ):
        self.network: Network = network.to(device).eval()
        self.weights_sha256, self.test_pipeline = weights_sha256, make_test_pipeline(scale)

    def annotate(self, role: str, image: np.ndarray, query: Query) -> DetectionAnnotation:
        """Everything found in an image (H, W, 3) uint8; what is asked changes nothing, the set of
        classes is closed.
        """
        with torch.inference_mode(), full_float32(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # meshgrid's and others that its torch did not have
            seen = self.network.test_step(
                self.test_pipeline(np.ascontiguousarray(image[..., ::-1]))
            )[0].pred_instances
        return detections_of_tensors(
            seen.labels, seen.scores, seen.bboxes, seen.masks, (image.shape[1], image.shape[0])
        )

    def network_input(self, image: np.ndarray) -> Tensor:
        """What the network sees of an image, (1, 3, H', W')."""
        ready: Tensor = self.network.data_preprocessor(
            self.test_pipeline(np.ascontiguousarray(image[..., ::-1])), False
        )["inputs"]
        return ready


class MmdetMask2Former(weights_file.GenEvalDetector):
    """The plug-in; tests make its scale small."""

    asset = ASSET
    packages = ("mmdet", "mmcv")
    published_class: JudgeClass = "official"
    preprocessing = (
        "mmdet 3.3.0: OpenCV bilinear without antialias on float32, ratio kept, into 1333 x 800;"
        " ImageNet's mean and deviation, then zeros to a multiple of 32; masks bilinear to the"
        f" image's size; {POSTPROCESSING}"
    )

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Checks of the stack that hold for any weights; what the published ones see in a known
        image could not be recorded here.
        """
        return (
            NamedCheck(
                "channels", lambda opened: check_red_first(opened.network_input(red_image()))
            ),
            NamedCheck("boxes", check_mask_boxes),
        )

    def open(self, device: str = "cpu") -> LoadedMmdetMask2Former:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: not here, altered, unsafe, or of another network. MissingExtra: mmdet is
                not installed.
        """
        file = self.find_weights()
        network = build_network()
        state = key_map.to_mmdet3_names(weights_file.load_state(file))
        _fit(network, state, str(file.path))
        return LoadedMmdetMask2Former(network, file.sha256, device, self.scale)


def _fit(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    with explain_misfit(what, "mmdet's Mask2Former", ASSET):
        check_state_dict(network.state_dict(), state, what)
    network.load_state_dict(dict(state), strict=True)


PLUGIN = MmdetMask2Former()
