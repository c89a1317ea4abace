"""Judge mask2former-mmdet: GenEval's detector in mmdet 3.3's own network, test pipeline and post-processing.

GenEval ran mmdet 2.27, which resizes on uint8 and pads with grey before normalising; 3.3 resizes on float32 and pads with zeros after.
On square images only the rounding differs. It runs without compiled operations (`_mmcv_ops.py`).

Source: open-mmlab/mmdetection v3.3.0, configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py, mmdet/apis/inference.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harope_bench.core.annotations import Ask, Sighting
from harope_bench.core.errors import MissingExtra
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import compare
from harope_bench.judges.base import Canary, LoadedAnnotator
from harope_bench.judges.generic.instance_detection import TOLD, told
from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.self_check import own_boxes, red_comes_first, red_image
from harope_bench.judges.mmdet import key_map, mmcv_ops, weights_file
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published import misfit_named

ASSET = "mask2former-mmdet"
CONFIG = "configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"


def blank() -> nn.Module:
    """mmdet's network of the published configuration; its numbers do not matter, and no weights of Swin are downloaded."""
    place = Path(str(mmcv_ops.mmdet().__file__)).parent / ".mim" / CONFIG
    if not place.is_file():
        raise MissingExtra(f"mmdet has no {CONFIG}, wanted its release 3.3.0", advice=mmcv_ops.INSTALL)
    from mmdet.registry import MODELS
    from mmengine.config import Config

    config = Config.fromfile(place)
    config.model.backbone.init_cfg = None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = MODELS.build(config.model)
    return network.eval()


def pipeline(scale: tuple[int, int]) -> Callable[[np.ndarray], dict[str, list[object]]]:
    """mmdet 3.3's test pipeline for an image (H, W, 3) uint8 in BGR; the published one reads the same from a file, as float32."""
    from mmcv.transforms import Compose

    steps = Compose(
        [
            {"type": "mmdet.Resize", "scale": scale, "keep_ratio": True},
            {"type": "mmdet.PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
        ]
    )

    def packed(image: np.ndarray) -> dict[str, list[object]]:
        loaded = {"img": image.astype(np.float32), "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}
        ready = steps(loaded)
        return {"inputs": [ready["inputs"]], "data_samples": [ready["data_samples"]]}

    return packed


class LoadedMmdet(LoadedAnnotator):
    """The detector with weights, ready to look."""

    def __init__(self, network: nn.Module, weights_sha256: str, device: str, scale: tuple[int, int]):
        self.network: Network = network.to(device).eval()
        self.weights_sha256, self.packed = weights_sha256, pipeline(scale)

    def see(self, role: str, image: np.ndarray, ask: Ask) -> Sighting:
        """Everything found in an image (H, W, 3) uint8; what is asked changes nothing, the set of classes is closed."""
        with torch.inference_mode(), full_float32(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # meshgrid's and others that its torch did not have
            seen = self.network.test_step(self.packed(np.ascontiguousarray(image[..., ::-1])))[0].pred_instances
        return told(seen.labels, seen.scores, seen.bboxes, seen.masks, (image.shape[1], image.shape[0]))

    def prepared(self, image: np.ndarray) -> Tensor:
        """What the network sees of an image, (1, 3, H', W')."""
        ready: Tensor = self.network.data_preprocessor(self.packed(np.ascontiguousarray(image[..., ::-1])), False)["inputs"]
        return ready


class Mmdet(weights_file.GenEvalDetector):
    """The plug-in; tests make its scale small."""

    asset = ASSET
    packages = ("mmdet", "mmcv")
    standing: JudgeClass = "official"
    preprocessing = (
        "mmdet 3.3.0: OpenCV bilinear without antialias on float32, ratio kept, into 1333 x 800; ImageNet's mean and deviation, then zeros "
        f"to a multiple of 32; masks bilinear to the image's size; {TOLD}"
    )

    def canary(self) -> tuple[Canary, ...]:
        """Checks of the stack that hold for any weights; what the published ones see in a known image could not be recorded here."""
        return (Canary("channels", lambda opened: red_comes_first(opened.prepared(red_image()))), Canary("boxes", own_boxes))

    def open(self, device: str = "cpu") -> LoadedMmdet:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: not here, altered, unsafe, or of another network. MissingExtra: mmdet is not installed.
        """
        file = self.file()
        network, state = blank(), key_map.renewed(weights_file.state(file))
        _fit(network, state, str(file.path))
        return LoadedMmdet(network, file.sha256, device, self.scale)


def _fit(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    with misfit_named(what, "mmdet's Mask2Former", ASSET):
        compare(network.state_dict(), state, what)
    network.load_state_dict(dict(state), strict=True)


PLUGIN = Mmdet()
