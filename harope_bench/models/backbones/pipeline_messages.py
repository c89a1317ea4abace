"""What diffusers and transformers say while a pipeline loads and runs: messages and warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# What the libraries log when a component gets random weights in place of missing ones.
MISSING_WEIGHTS_TEXTS = (
    "newly initialized",
    "MISSING",
    "not initialized from the model checkpoint",
)


@contextmanager
def quiet_library(printed_texts: set[str]) -> Iterator[None]:
    """Hide the library's deprecations, and print each of its other messages once.

    Args:
        printed_texts: The messages that were printed; new ones are added.
    """

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_first = text not in printed_texts
        printed_texts.add(text)
        return is_first

    handlers = logging.getLogger("diffusers").handlers
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


class _MissingWeights(logging.Handler):
    """Collects what the libraries log about weights that no file has."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message that says that weights are missing."""
        text = record.getMessage()
        if any(mark in text for mark in MISSING_WEIGHTS_TEXTS):
            self.texts.append(text)


@contextmanager
def missing_weights() -> Iterator[list[str]]:
    """Yield the list of messages about missing weights, which fills while a pipeline loads."""
    handler = _MissingWeights()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
