"""The feature extractor that stays loaded between runs that need the same one.

Annotators are not kept: a model of the user may need the memory of the next generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from harope_bench.judges.base import (
    FeatureExtractor,
    LoadedFeatureExtractor,
    judge_record,
    open_judge,
)


class KeptExtractor:
    """The last feature extractor that was opened. It needs memory on its device until `release`."""

    def __init__(self) -> None:
        self._key: object = None
        self._extractor: LoadedFeatureExtractor | None = None

    def open(self, name: str, plugin: FeatureExtractor, device: str) -> LoadedFeatureExtractor:
        """Return the kept extractor if it is this one, or else load it. Errors: `open_judge`."""
        key = (judge_record(name), device)
        if self._extractor is None or self._key != key:
            self.release()  # before the next one needs the memory
            self._extractor = open_judge(name, plugin, device)
            self._key = key
        return self._extractor

    def release(self) -> None:
        """Forget the extractor."""
        self._extractor = None
        self._key = None


_kept_extractor: ContextVar[KeptExtractor | None] = ContextVar("kept_extractor", default=None)


@contextmanager
def keep_extractor() -> Iterator[KeptExtractor]:
    """Keep the last feature extractor of this process loaded within the block."""
    kept_extractor = KeptExtractor()
    token = _kept_extractor.set(kept_extractor)
    try:
        yield kept_extractor
    finally:
        kept_extractor.release()
        _kept_extractor.reset(token)


def open_extractor(name: str, plugin: FeatureExtractor, device: str) -> LoadedFeatureExtractor:
    """Return a feature extractor with its weights, the kept one where there is one."""
    kept_extractor = _kept_extractor.get()
    if kept_extractor is None:
        return open_judge(name, plugin, device)
    return kept_extractor.open(name, plugin, device)
