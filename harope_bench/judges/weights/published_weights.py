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
MAX_KEYS_LENGTH = 200


class PublishedWeightsJudge(Judge[Loaded_co]):
    """Base class of judges with published weights.

    title: name of the network, for messages. source: where the weights come from.
    """

    version = 1
    title: str
    source: WeightsSource

    @property
    def published_class(self) -> JudgeClass:
        """Return the judge class with the published weights."""
        return "equivalent"

    def is_published(self, weights_file: WeightsFile) -> bool:
        """Return whether a file is the published one.

        The known hash, or its known beginning, decides. Where no hash is known, the file must have
        been fetched from the published address.
        """
        if published_sha256 := self.source.published_sha256():
            return weights_file.sha256.startswith(published_sha256)
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
            return self.published_class if self.is_published(self.source.find()) else "substitute"
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
        """Return a warning where the file in use is not verified to be the published one."""
        weights_file = self.source.find()
        if not self.is_published(weights_file):
            return (
                self._unverified_warning(weights_file, self.source.published_file.has_known_hash),
            )
        if self.source.published_sha256():
            return ()
        return (
            f"judge: the publisher of {self.title} states no hash, so only the address that the"
            " weights were fetched from shows that they are the published ones",
        )

    def _unverified_warning(self, weights_file: WeightsFile, has_known_hash: bool) -> str:
        """Return why the file in use is not verified to be the published one.

        Args:
            has_known_hash: whether the hash of the published file is known.
        """
        local_file = None if has_known_hash else local_files.find_local_file(self.source.asset)
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

    def load_network_weights(
        self, network: nn.Module, state: Mapping[str, Tensor], weights_file: WeightsFile
    ) -> nn.Module:
        """Load these weights into the network and return it. The keys must be the network's.

        Raises:
            WeightsError: A key is missing or unexpected; the message lists the first such keys.
        """
        with shorten_mismatch_error(str(weights_file.path), self.title, self.source.asset):
            load_state_strictly(network, state, str(weights_file.path))
        return network


@contextmanager
def shorten_mismatch_error(file_name: str, title: str, asset: str) -> Iterator[None]:
    """Replace a WeightsError about unfitting weights, raised in the block, by a shorter one.

    Args:
        file_name: the weights file.
        title: name of the network, for the message.
        asset: name of the published weights, which `harope-bench fetch` downloads.

    Raises:
        WeightsError: The block raised one; the message names the first keys and the network.
    """
    try:
        yield
    except WeightsError as error:
        # the message of load_state_strictly: "FILE does not fit: KEYS; check --..."
        keys = (
            str(error).partition(" does not fit: ")[2].partition("; check --")[0][:MAX_KEYS_LENGTH]
        )
        raise WeightsError(
            f"{file_name} does not fit {title}: {keys}", advice=f"harope-bench fetch {asset}"
        ) from error
