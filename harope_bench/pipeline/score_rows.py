"""Rows of tables, one after the other: their images, and their results.

On a GPU the rules of a row, such as precision and recall of 50,000 images, take minutes of the
processor. A thread computes them while the GPU generates the next row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harope_bench.core.device import device_type
from harope_bench.core.schema import Plan
from harope_bench.data.result_store import EvaluatedResult
from harope_bench.models.load_checkpoint import KeptGenerator
from harope_bench.pipeline.classify import RealImageSelection, classify, is_classification_suite
from harope_bench.pipeline.evaluate import FeatureScoring, extract_then_score
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    evaluate_prompts,
    is_prompt_suite,
    scores_annotations,
)
from harope_bench.pipeline.generate import generate
from harope_bench.pipeline.workers import current_executor
from harope_bench.suites.base import load_suite


@dataclass
class RowCounts:
    """How many images were generated and how many results computed."""

    n_generated: int = 0
    n_scored: int = 0


def overlaps_rules(device: str) -> bool:
    """Return whether rules are computed while the next row is generated.

    Networks on the processor itself would be slowed down by as much as the rules are ahead, and a
    second row's features would be in memory.
    """
    return device_type(device) != "cpu" or current_executor().n_workers > 1


class RuleThread:
    """Computes the rules of one row in a thread, while the caller generates the next one.

    A context manager. An error is raised by the next `start`, or when the block ends. When the
    block ends by an error, the results that are being computed are written first; an interruption
    does not wait for them.

    Attributes:
        n_new: Number of results that were computed.
    """

    def __init__(self, is_overlapped: bool) -> None:
        """Compute in a thread, or else at once in the caller's."""
        self.n_new = 0
        self._is_overlapped = is_overlapped
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._claims = ExitStack()

    def start(self, scores: Iterable[Callable[[], EvaluatedResult]]) -> None:
        """Call the functions, each of which computes and writes one result.

        At most one row waits: its features are mapped from disk, its distances are in memory.

        Raises:
            Exception: The error of an earlier row.
        """
        self.finish()
        if not self._is_overlapped:
            self._compute(scores)
            return
        # The features of this row are extracted first, with the device.
        pending_scores = list(scores)
        context = copy_context()  # of the executor, which the provenance names
        self._thread = threading.Thread(
            target=context.run,
            args=(self._compute_or_keep_error, pending_scores),
            name="harope-bench-rules",
            daemon=True,
        )
        self._thread.start()

    def _compute(self, scores: Iterable[Callable[[], EvaluatedResult]]) -> None:
        for score in scores:
            self.n_new += score().is_new

    def _compute_or_keep_error(self, scores: Iterable[Callable[[], EvaluatedResult]]) -> None:
        try:
            self._compute(scores)
        except BaseException as error:  # noqa: BLE001 - raised by `finish`
            self._error = error

    def close_when_finished(self, claim: ExitStack) -> None:
        """Release the claim of a run folder once its results are written.

        The thread of the caller releases it, because it made it.
        """
        if self._thread is None:
            claim.close()
        else:
            self._claims.push(claim)

    def finish(self) -> None:
        """Wait for the row that is being computed; raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._claims.pop_all().close()
        error = self._error
        self._error = None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        """Return the thread's owner."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the last row; raise its error, unless one is raised."""
        if error is None:
            self.finish()
            return
        if self._thread is not None and isinstance(error, Exception):
            self._thread.join()
        self._claims.pop_all().close()


def generate_and_score(
    plan: Plan,
    folder: Path,
    count: int | None,
    counts: RowCounts,
    prompt_scoring: PromptScoring | None,
    rule_thread: RuleThread,
    kept_generator: KeptGenerator,
    pending_plans: Sequence[Plan],
) -> None:
    """Generate and score `count` samples of a run, or classify as many real images; None: all.

    Args:
        pending_plans: plans of later runs, which decide whether the network is kept.
    """
    if is_classification_suite(plan.suite):
        results = classify(plan, folder, RealImageSelection(count=count))
        counts.n_scored += sum(result.is_new for result in results)
        return
    sample_count = _sample_count(plan, count)
    generation = generate(plan, range(sample_count), folder, open_network=kept_generator.open)
    counts.n_generated += generation.n_generated
    if not any(kept_generator.serves(p.checkpoint, p.settings) for p in pending_plans):
        kept_generator.release()  # judges then have the device for themselves
    _score_run(plan, folder, sample_count, counts, prompt_scoring, rule_thread)


def _sample_count(plan: Plan, count: int | None) -> int:
    """Return how many samples of a run are generated and scored."""
    suite_count = load_suite(plan.suite).count
    sample_count = count or suite_count
    return min(sample_count, suite_count) if is_prompt_suite(plan.suite) else sample_count


def _score_run(
    plan: Plan,
    folder: Path,
    count: int,
    counts: RowCounts,
    prompt_scoring: PromptScoring | None,
    rule_thread: RuleThread,
) -> None:
    """Score a run with all evaluators of the suite.

    Tasks of a prompt suite beyond `count` have the value None with a reason. Their rules take
    seconds, so they are computed here.
    """
    suite = load_suite(plan.suite)
    prompt_evaluators: list[str] = []
    if prompt_scoring is not None:
        prompt_evaluators = [name for name in suite.evaluators if scores_annotations(name)]
    feature_evaluators = [name for name in suite.evaluators if name not in prompt_evaluators]

    if prompt_scoring is not None and prompt_evaluators:
        results = evaluate_prompts(folder, folder, prompt_scoring, prompt_evaluators, count)
        counts.n_scored += sum(result.is_new for result in results)
    if feature_evaluators:
        scoring = FeatureScoring(plan.suite, device=plan.settings.device)
        rule_thread.start(extract_then_score(folder, folder, (scoring,), feature_evaluators, count))
