"""Judges with published weights: which file is in use, and whether it is the published one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harope_bench.assets import local_files
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import load_state_strictly
from harope_bench.judges.base import AnnotationCheck, Judge, Loaded_co
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource

if TYPE_CHECKING:
    from torch import Tensor, nn

# characters of a list of keys that do not fit: another network differs in hundreds of them
MISFIT_LENGTH = 200


class PublishedWeightsJudge(Judge[Loaded_co]):
    """Base class of judges with published weights.

    title: name of the network, for messages. source: where the weights come from.
    """

    version = 1
    title: str
    source: WeightsSource

    def is_published(self, weights_file: WeightsFile) -> bool:
        """Return whether a file is the published one.

        The known hash, or its known beginning, decides. Where no hash is known, the file must have
        been fetched from the published address.
        """
        if known_sha256 := self.source.known_sha256():
            return weights_file.sha256.startswith(known_sha256)
        local_file = local_files.find_local_file(self.source.asset, self.source.published_file.name)
        return (
            local_file is not None
            and local_file.is_verified
            and local_file.sha256 == weights_file.sha256
        )

    @property
    def judge_class(self) -> JudgeClass:
        """Return "equivalent" for the published weights, "substitute" for any other file."""
        try:
            return "equivalent" if self.is_published(self.source.find()) else "substitute"
        except WeightsError:
            return "substitute"

    def checks_of_published(self, *checks: AnnotationCheck) -> tuple[AnnotationCheck, ...]:
        """Return the checks where the published weights are in use, and none for other weights.

        The right annotations of these checks are those of the published weights.
        """
        return checks if self.judge_class == "equivalent" else ()

    def weights_sha256(self) -> str:
        """Return the hash of the file in use.

        Raises:
            MissingAssetError: The file is missing; the message names the command to fetch it.
        """
        return self.source.find().sha256

    def warnings(self) -> tuple[str, ...]:
        """Return a warning where the file in use is not shown to be the published one."""
        weights_file = self.source.find()
        if not self.is_published(weights_file):
            return (self._unverified_warning(weights_file, self.source.published_file.is_pinned),)
        if self.source.known_sha256():
            return ()
        return (
            f"judge: the publisher of {self.title} states no hash, so only the address that the"
            " weights were fetched from shows that they are the published ones",
        )

    def _unverified_warning(self, weights_file: WeightsFile, is_pinned: bool) -> str:
        """Return why the file in use is not shown to be the published one.

        `is_pinned` is whether the hash of the published file is known.
        """
        local_file = None if is_pinned else local_files.find_local_file(self.source.asset)
        if local_file is None or local_file.path != weights_file.path:
            return (
                f"judge: other weights than {self.title}'s, or a copy with another hash; numbers"
                " do not compare with published ones"
            )
        return (
            f"judge: the publisher of {self.title} states no hash, and the file's receipt records"
            " no address (it was imported with --from), so nothing shows that these are its"
            " weights: the judge is a substitute, numbers do not compare with published ones;"
            f" harope-bench fetch {self.source.asset} downloads them from their address"
        )

    def fill_network(
        self, network: nn.Module, state: Mapping[str, Tensor], weights_file: WeightsFile
    ) -> nn.Module:
        """Return the network with these weights; use every key.

        Raises:
            WeightsError: The weights are of another network; one line names the first keys.
        """
        with explain_misfit(str(weights_file.path), self.title, self.source.asset):
            load_state_strictly(network, state, str(weights_file.path))
        return network


@contextmanager
def explain_misfit(file_name: str, title: str, asset: str) -> Iterator[None]:
    """Shorten the error about weights that do not fit to one line, within the block.

    Args:
        file_name: the weights file. title: name of the network. asset: name for `fetch`.

    Raises:
        WeightsError: The block raised one; the message names the first keys and the network.
    """
    try:
        yield
    except WeightsError as error:
        keys = str(error).partition(" does not fit: ")[2].partition("; check --")[0][:MISFIT_LENGTH]
        raise WeightsError(
            f"{file_name} does not fit {title}: {keys}", advice=f"harope-bench fetch {asset}"
        ) from error
