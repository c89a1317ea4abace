"""A judge whose published weights `fetch` brings: which file is in use, and whether it is the
published one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from harope_bench.assets import local_files
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import load_state_strictly
from harope_bench.judges.base import AnnotationCheck, Judge, Loaded_co
from harope_bench.judges.weights.asset_files import WeightsFile, WeightsSource

MISFIT_LENGTH = 200  # characters of a misfit: a network of another size differs in hundreds of keys


class PublishedWeightsJudge(Judge[Loaded_co]):
    """What such plug-ins share: `title` of the network, `source` of its weights, and what follows
    from the file in use.
    """

    version = 1
    title: str
    source: WeightsSource

    def is_published(self, found: WeightsFile) -> bool:
        """Whether a file is the published one: by its known hash or the part of it that is known,
        else by the address it came from.
        """
        if part := self.source.known_sha256():
            return found.sha256.startswith(part)
        brought = local_files.find_local_file(self.source.asset, self.source.published_file.name)
        return brought is not None and brought.is_verified and brought.sha256 == found.sha256

    @property
    def judge_class(self) -> JudgeClass:
        """Equivalent with the published weights; anything else is a substitute."""
        try:
            return "equivalent" if self.is_published(self.source.find()) else "substitute"
        except WeightsError:
            return "substitute"

    def checks_of_published(self, *trials: AnnotationCheck) -> tuple[AnnotationCheck, ...]:
        """Trials whose right answers are the published weights'; none with others, which owe nobody
        such an answer.
        """
        return trials if self.judge_class == "equivalent" else ()

    def weights_sha256(self) -> str:
        """Hash of the file in use; NotHere with the command that brings it."""
        return self.source.find().sha256

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        found = self.source.find()
        if not self.is_published(found):
            return (self._unverified_warning(found, self.source.published_file.is_pinned),)
        if self.source.known_sha256():
            return ()
        return (
            (
                f"judge: {self.title}'s publisher states no hash; that these are its weights rests"
                " on the address they were fetched from"
            ),
        )

    def _unverified_warning(self, found: WeightsFile, pinned: bool) -> str:
        brought = None if pinned else local_files.find_local_file(self.source.asset)
        if brought is None or brought.path != found.path:
            return (
                f"judge: other weights than {self.title}'s, or a copy of another hash; numbers"
                " compare with nothing published"
            )
        return (
            f"judge: {self.title}'s publisher states no hash and the file's receipt names no"
            " address (it came by --from), so nothing shows that these are its weights: a"
            " substitute, numbers compare with nothing published; harope-bench fetch"
            f" {self.source.asset} brings them from their address"
        )

    def fill_network(
        self, network: nn.Module, state: Mapping[str, Tensor], found: WeightsFile
    ) -> nn.Module:
        """Return the network with these weights, every key used; WeightsError in one line where
        they are of another network.
        """
        with explain_misfit(str(found.path), self.title, self.source.asset):
            load_state_strictly(network, state, str(found.path))
        return network


@contextmanager
def explain_misfit(what: str, title: str, asset: str) -> Iterator[None]:
    """Raise what `fit` or `compare` say of weights that do not fit as one line with the first keys,
    the network and its asset.

    Args:
        what: the weights' file. title: of the network. asset: that `fetch` brings.
    """
    try:
        yield
    except WeightsError as error:
        keys = str(error).partition(" does not fit: ")[2].partition("; check --")[0][:MISFIT_LENGTH]
        raise WeightsError(
            f"{what} does not fit {title}: {keys}", advice=f"harope-bench fetch {asset}"
        ) from error
