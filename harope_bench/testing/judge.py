"""The contract of a judge of either kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harope_bench.testing.annotator import check_annotator
from harope_bench.testing.feature_extractor import check_feature_extractor

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.core.annotations import Query
    from harope_bench.judges.base import Annotator, FeatureExtractor


def check_judge(
    name: str | FeatureExtractor | Annotator,
    images: Sequence[np.ndarray] | np.ndarray | None = None,
    device: str = "cpu",
    queries: Mapping[str, Query] | None = None,
) -> int:
    """Check a feature extractor or an annotator against the contract of judges/base.py.

    Args:
        name: a registered judge (NAME, or NAME:MODEL for one that runs a model of the user), or
            the plug-in itself.
        images: (B, H, W, 3) uint8, at least three, or a sequence of (H, W, 3); by default random.
        device: where it is loaded.
        queries: of an annotator, by role; by default one of each role.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The judge violates the contract; every violation is listed.
        UncheckedContractError: Its weights are missing; what needs none was checked.
    """
    import numpy as np

    from harope_bench.judges.base import FeatureExtractor, JudgeChoice, load_judge

    judge: object = name
    if isinstance(name, str):
        title, colon, model = name.partition(":")
        judge = JudgeChoice(title, model).judge if colon else load_judge(title)
    plugin = name if isinstance(name, str) and ":" not in name else judge
    if isinstance(judge, FeatureExtractor):
        image_array = None if images is None else np.asarray(images)
        return check_feature_extractor(plugin, image_array, device)  # type: ignore[arg-type]  # its kind was checked
    image_list = None if images is None else list(images)
    return check_annotator(plugin, image_list, queries, device)  # type: ignore[arg-type]  # check_annotator checks its kind
