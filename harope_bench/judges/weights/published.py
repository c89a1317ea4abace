"""A judge whose published weights `fetch` brings: which file is in use, and whether it is the published one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from harope_bench.assets import local_files
from harope_bench.core.errors import WeightsError
from harope_bench.core.schema import JudgeClass
from harope_bench.core.state_dicts import fit
from harope_bench.judges.base import Judge, Loaded_co, Trial
from harope_bench.judges.weights.asset_files import Source, Weights

MISFIT = 200  # characters of a misfit: a network of another size differs in hundreds of keys


class Published(Judge[Loaded_co]):
    """What such plug-ins share: `title` of the network, `source` of its weights, and what follows from the file in use."""

    version = 1
    title: str
    source: Source

    def genuine(self, found: Weights) -> bool:
        """Whether a file is the published one: by its known hash or the part of it that is known, else by the address it came from."""
        if part := self.source.known_sha256():
            return found.sha256.startswith(part)
        brought = local_files.held(self.source.asset, self.source.published.name)
        return brought is not None and brought.vouched and brought.sha256 == found.sha256

    @property
    def judge_class(self) -> JudgeClass:
        """Equivalent with the published weights; anything else is a substitute."""
        try:
            return "equivalent" if self.genuine(self.source.found()) else "substitute"
        except WeightsError:
            return "substitute"

    def seen(self, *trials: Trial) -> tuple[Trial, ...]:
        """Trials whose right answers are the published weights'; none with others, which owe nobody such an answer."""
        return trials if self.judge_class == "equivalent" else ()

    def weights_sha256(self) -> str:
        """Hash of the file in use; NotHere with the command that brings it."""
        return self.source.found().sha256

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        found = self.source.found()
        if not self.genuine(found):
            return (self._doubt(found, self.source.published.pinned),)
        if self.source.known_sha256():
            return ()
        return (f"judge: {self.title}'s publisher states no hash; that these are its weights rests on the address they were fetched from",)

    def _doubt(self, found: Weights, pinned: bool) -> str:
        brought = None if pinned else local_files.held(self.source.asset)
        if brought is None or brought.path != found.path:
            return f"judge: other weights than {self.title}'s, or a copy of another hash; numbers compare with nothing published"
        return (
            f"judge: {self.title}'s publisher states no hash and the file's receipt names no address (it came by --from), "
            "so nothing shows that these are its weights: "
            f"a substitute, numbers compare with nothing published; harope-bench fetch {self.source.asset} brings them from their address"
        )

    def filled(self, network: nn.Module, state: Mapping[str, Tensor], found: Weights) -> nn.Module:
        """Return the network with these weights, every key used; WeightsError in one line where they are of another network."""
        with misfit_named(str(found.path), self.title, self.source.asset):
            fit(network, state, str(found.path))
        return network


@contextmanager
def misfit_named(what: str, title: str, asset: str) -> Iterator[None]:
    """Raise what `fit` or `compare` say of weights that do not fit as one line with the first keys, the network and its asset.

    Args:
        what: the weights' file. title: of the network. asset: that `fetch` brings.
    """
    try:
        yield
    except WeightsError as error:
        keys = str(error).partition(" does not fit: ")[2].partition("; check --")[0][:MISFIT]
        raise WeightsError(f"{what} does not fit {title}: {keys}", advice=f"harope-bench fetch {asset}") from error
