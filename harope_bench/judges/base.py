"""The contract of a judge: a network that looks at images and says what it saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from harope_bench.core import registry
from harope_bench.core.annotations import Answer, Ask


class Opened(Protocol):
    """A judge with its weights in place.

    It may also have `notes`, lines that a result must say of how it looked, and `way`, facts of how it computes that may move last bits:
    `path` (plain, folded, compiled) and `tf32`; both are read after it has looked.
    """

    weights_sha256: str

    def observe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Named float32 arrays of one row an image, for images (B, H, W, 3) uint8."""


class Judge(Protocol):
    """What a judge module's PLUGIN offers. `arrays` names what `observe` returns.

    Optional: `errors()`, tuple[ErrorRate, ...], how often it was wrong where the truth is known; without opening its weights. `widths`,
    by name of an array, how many numbers a row has; a reference of another width is rejected before anything is written.
    `packages`, names of the optional packages that opening it imports.
    """

    version: int
    judge_class: Literal["official", "equivalent", "substitute", "micro"]
    preprocessing: str
    arrays: tuple[str, ...]
    batch: int

    def weights_sha256(self) -> str:
        """Recorded hash of its weights, without opening them."""

    def open(self, device: str) -> Opened:
        """Loads the weights (hash checked first); WeightsError if they are missing or altered."""


class Canary(NamedTuple):
    """A case by name; `check` of the opened judge says in words what is wrong, or None."""

    name: str
    check: Callable[[Any], str | None]


class OpenedWitness(Protocol):
    """A witness with its weights in place."""

    weights_sha256: str

    def see(self, role: str, image: np.ndarray, ask: Ask) -> Answer:
        """The answer of that role for an image (H, W, 3) uint8; it depends on nothing else."""


class Trial(NamedTuple):
    """A Canary that asks a question: what it shows in words, the question, and whether an answer is right."""

    what: str
    role: str
    image: np.ndarray
    ask: Ask
    right: Callable[[Answer], bool]

    @property
    def name(self) -> str:
        """What it shows."""
        return self.what

    def check(self, opened: OpenedWitness) -> str | None:
        """The wrong answer in words, or None."""
        answer = opened.see(self.role, self.image, self.ask)
        return None if self.right(answer) else f"it answers {answer.to_json()[:200]}"


class Witness(Protocol):
    """A judge that is asked about one image at a time, in the roles of core/annotations.py.

    Optional: `of(model)`, the same judge on a folder or hub id that the user names (`needs_model`: it has none of its own); `runner`, the
    path of a self-contained file that another Python executes in place of `open`; `canary()`, cases (Canary or Trial) that the
    opened judge must pass before it is believed; `errors()` as above.
    """

    version: int
    judge_class: Literal["official", "equivalent", "substitute", "micro"]
    preprocessing: str
    roles: tuple[str, ...]

    def weights_sha256(self) -> str:
        """Recorded hash of its weights, without opening them; NotHere with the command that brings them."""

    def open(self, device: str) -> OpenedWitness:
        """Loads the weights (hash checked first); WeightsError if they are missing or altered."""


def load_judge(name: str) -> Judge:
    """Return the judge of that name.

    Raises:
        UnknownName: No such judge. PluginError: It is not derived from Judge. BenchError: It does not load.
    """
    return registry.load_plugin("judges", name, Judge)
