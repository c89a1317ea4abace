"""An executor that loses, repeats and reorders parts, for tests without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harope_bench.pipeline.part_sizes import Part
from harope_bench.pipeline.workers import (
    MachineAnswer,
    NamedUnit,
    PartResults,
    Task,
    build_worker,
    unit_results,
)


class UnreliableExecutor:
    """Runs each part in this process, then loses, repeats and reorders what it returns.

    Attributes:
        fates: For each part that is run, in turn: lost without a word, lost with one, once, twice.
        is_reversed: Take all parts before the first one is run, and run them from the end.
        poisonous: Positions of units that end every process.
        machines: What other machines answer, by name.
        warnings: About their devices.
    """

    n_workers = 3
    machines: Mapping[str, Any] = {}
    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        fates: Iterator[str],
        is_reversed: bool = False,
        poisonous: frozenset[int] = frozenset(),
    ) -> None:
        self.fates = fates
        self.is_reversed = is_reversed
        self.poisonous = poisonous
        self.n_parts = 0

    def run(
        self, task: Task, units: Sequence[NamedUnit], parts: Iterable[Part]
    ) -> Iterator[PartResults]:
        worker = build_worker(task)
        for part in reversed(list(parts)) if self.is_reversed else parts:
            self.n_parts += 1
            fate = next(self.fates, "once")
            if self.poisonous & {*part}:
                fate = "lost"
            if fate == "vanished":
                continue
            if fate == "lost":
                yield PartResults(part, None)
                continue
            part_units = (units[k] for k in part)
            results = [worker.pack(r) for r in unit_results(worker, part_units, task.device)]
            for _ in range(2 if fate == "twice" else 1):
                yield PartResults(part, results, seconds=0.01)

    def ask_machines(self, function: object, *arguments: object) -> list[MachineAnswer]:
        return [MachineAnswer(*item) for item in self.machines.items()]

    def device_warnings(self) -> tuple[str, ...]:
        return self.warnings

    def provenance(self) -> Mapping[str, str | int]:
        return {}
