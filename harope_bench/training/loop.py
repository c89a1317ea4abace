"""The training loop: seeded by step, resumable at every snapshot, with a log of the loss."""

from __future__ import annotations

import hashlib
import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from torch import Generator, Tensor, nn

from harope_bench.core.errors import BenchError, PlanMismatchError, WeightsError
from harope_bench.core.formats import FORMAT_KEY, add_format_version, check_format
from harope_bench.core.progress import Progress
from harope_bench.core.regular_file import check_regular
from harope_bench.core.storage import (
    convert_os_errors,
    first_line,
    make_folder,
    write_bytes,
    write_text,
)
from harope_bench.training.recipe import Schedule
from harope_bench.training.training_files import LOG_FILE, SNAPSHOT_FILE

LOG_INTERVAL = 10  # steps whose mean loss is one line of the loss log
EMA_WARMUP_STEPS = 10

LossFunction = Callable[[nn.Module, Generator], Tensor]
SnapshotCallback = Callable[[int, dict[str, Tensor]], None]  # called with step and EMA weights


class LoggedMetrics(NamedTuple):
    """Additional columns of the loss log.

    columns: their names.
    measure: returns their values for the current network.
    log_interval: steps from one line to the next.
    """

    columns: tuple[str, ...]
    measure: Callable[[nn.Module], tuple[float, ...]]
    log_interval: int = 50


class SnapshotState(TypedDict):
    """The contents of a snapshot, whose keys are those on disk; `average` are the EMA weights."""

    identity: str
    network: dict[str, Tensor]
    optimiser: dict[str, object]
    average: dict[str, Tensor]
    step: int
    log: str


def step_generator(seed: int, step: int) -> Generator:
    """Return the random generator of a training step.

    It depends on seed and step alone, so a snapshot needs no random state.
    """
    digest = hashlib.sha256(f"train/{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(schedule: Schedule, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to 0 or a constant."""
    if step < schedule.warmup_steps:
        return schedule.lr * (step + 1) / schedule.warmup_steps
    if schedule.decay == "none":
        return schedule.lr
    decay_steps = max(1, schedule.steps - schedule.warmup_steps)
    progress = (step - schedule.warmup_steps) / decay_steps
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * progress))


def state_digest(state: object) -> str:
    """Return the sha256, in hex, of nested dicts, lists, tensors and plain values.

    It covers every key, type, shape and bit.
    """
    digest = hashlib.sha256()
    _update_digest(digest, state)
    return digest.hexdigest()


def _intern_keys(state: object) -> object:
    """Return nested dicts and lists in which equal keys are one object.

    Pickle writes a word twice where two equal keys are two objects, as after reading a snapshot.
    With one object, equal states have equal bytes.
    """
    if isinstance(state, dict):
        return {
            sys.intern(key) if isinstance(key, str) else key: _intern_keys(value)
            for key, value in state.items()
        }
    return [_intern_keys(item) for item in state] if isinstance(state, list) else state


def _update_digest(digest: hashlib._Hash, value: object) -> None:
    """Add a value, and every value inside it, to the digest."""
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\n".encode())
        for key in sorted(value, key=repr):
            _update_digest(digest, key)
            _update_digest(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__} {len(value)}\n".encode())
        for item in value:
            _update_digest(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r}\n".encode())


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set torch's number of threads to `count` inside the block; None leaves it unchanged."""
    previous_count = torch.get_num_threads()
    torch.set_num_threads(count or previous_count)
    try:
        yield
    finally:
        torch.set_num_threads(previous_count)


class Trainer:
    """The training of one network in one folder.

    Snapshots are written atomically. A snapshot contains the log up to its step.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        ema_decay: float,
        folder: Path,
        identity: str,
        logged_metrics: LoggedMetrics | None = None,
    ):
        self.network = network
        self.schedule = schedule
        self.ema_decay = ema_decay
        self.snapshot_path = make_folder(folder) / SNAPSHOT_FILE
        self.identity = identity
        self.log_file = folder / LOG_FILE
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=0.0)
        self.ema_weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.step = 0
        self.log_text = ""
        self.logged_metrics = logged_metrics
        self.log_interval = logged_metrics.log_interval if logged_metrics else LOG_INTERVAL
        metric_columns = logged_metrics.columns if logged_metrics else ()
        self.log_header = ",".join(("step", "loss", *metric_columns)) + "\n"

    def resume(self) -> int:
        """Load the snapshot of the folder, if there is one, and return its step, otherwise 0.

        Raises:
            PlanMismatchError: The snapshot belongs to another recipe, encoding or seed.
            WeightsError: The snapshot is damaged.
            FormatError: Another version of this package wrote the snapshot.
        """
        if not self.snapshot_path.exists():
            return 0
        state = self._read_snapshot()
        if state["identity"] != self.identity:
            raise PlanMismatchError(
                f"{self.snapshot_path} is of {state['identity']}, wanted {self.identity}; choose"
                " another --out or pass --no-resume"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema_weights = state["average"]
        self.step = state["step"]
        self.log_text = state["log"]
        # A kill may have come between the writing of the snapshot and of the log.
        write_text(self.log_file, self.log_header + self.log_text)
        return self.step

    def _read_snapshot(self) -> SnapshotState:
        """Return the contents of the snapshot; raise WeightsError or FormatError as in `resume`."""
        with convert_os_errors(self.snapshot_path):
            check_regular(self.snapshot_path)
        try:
            state = dict(torch.load(self.snapshot_path, weights_only=True))
        except Exception as error:  # the unpickler fails in a dozen ways on damaged bytes
            raise WeightsError(
                f"{self.snapshot_path} cannot be read ({first_line(error)}); delete it or pass"
                " --no-resume"
            ) from error
        check_format("snapshot", state.get(FORMAT_KEY), self.snapshot_path)
        if state.pop("sha256", None) != state_digest(state):
            raise WeightsError(
                f"{self.snapshot_path} has changed since training wrote it (its sha256 differs);"
                " restore it or pass --no-resume"
            )
        return SnapshotState(
            identity=state["identity"],
            network=state["network"],
            optimiser=state["optimiser"],
            average=state["average"],
            step=state["step"],
            log=state["log"],
        )

    def save_snapshot(self) -> None:
        """Write snapshot and log, each atomically."""
        fields = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.ema_weights,
            "step": self.step,
            "log": self.log_text,
        }
        state = add_format_version("snapshot", fields)
        buffer = io.BytesIO()
        torch.save(_intern_keys({**state, "sha256": state_digest(state)}), buffer)
        write_bytes(self.snapshot_path, buffer.getvalue())
        write_text(self.log_file, self.log_header + self.log_text)

    def train(
        self, loss: LossFunction, title: str, on_snapshot: SnapshotCallback | None = None
    ) -> dict[str, Tensor]:
        """Train to the last step and return the exponential moving average of the weights.

        `on_snapshot` is called with step and averaged weights before each snapshot is written. If
        training is killed between the two, the call is repeated after a resume, never skipped.

        Args:
            title: label of the progress bar.
        """
        with torch_threads(self.schedule.threads):
            return self._train(loss, title, on_snapshot)

    def _train(
        self, loss: LossFunction, title: str, on_snapshot: SnapshotCallback | None
    ) -> dict[str, Tensor]:
        """Train to the last step, with log, progress and snapshots; return the EMA weights."""
        loss_sum = 0.0
        n_losses = 0
        with Progress(title, self.schedule.steps, "step", initial=self.step) as progress:
            while self.step < self.schedule.steps:
                loss_sum = loss_sum + self._train_step(loss)
                n_losses = n_losses + 1
                progress.advance()

                # A line is also written at each snapshot, so that a resumed log has the same lines.
                needs_snapshot = self._needs_snapshot()
                if needs_snapshot or self.step % self.log_interval == 0:
                    mean_loss = loss_sum / n_losses
                    self.log_text += self._log_line(mean_loss)
                    progress.set_note(f"loss {mean_loss:.4f}")
                    loss_sum = 0.0
                    n_losses = 0

                if needs_snapshot:
                    if on_snapshot is not None:
                        on_snapshot(self.step, self.ema_weights)
                    self.save_snapshot()
        return self.ema_weights

    def _needs_snapshot(self) -> bool:
        """Return whether a snapshot is due at the current step."""
        is_interval_end = self.step % self.schedule.snapshot_interval == 0
        return is_interval_end or self.step == self.schedule.steps

    def _log_line(self, loss: float) -> str:
        """Return a line of the log: the step, its mean loss and the additional metrics."""
        metrics = self.logged_metrics.measure(self.network) if self.logged_metrics else ()
        cells = [str(self.step), *(f"{value:.6f}" for value in (loss, *metrics))]
        return ",".join(cells) + "\n"

    def _train_step(self, loss: LossFunction) -> float:
        """Take one optimiser step, update the EMA weights and return the loss.

        Raises:
            BenchError: The loss is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.schedule, self.step)
        loss_value = loss(self.network, step_generator(self.schedule.seed, self.step))
        if not loss_value.isfinite():
            raise BenchError(
                f"the loss is {float(loss_value.detach())} at step {self.step}; lower lr in the"
                " recipe and train with --no-resume"
            )

        self.optimiser.zero_grad(set_to_none=True)
        loss_value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.max_grad_norm)
        self.optimiser.step()
        self.step += 1
        self._update_ema()
        return float(loss_value.detach())

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Move the EMA weights towards the current ones; buffers of integers are copied."""
        # Early steps have a smaller decay, so that the initial weights are soon forgotten.
        decay = min(self.ema_decay, self.step / (self.step + EMA_WARMUP_STEPS))
        for name, weight in self.network.state_dict().items():
            if weight.is_floating_point():
                self.ema_weights[name].lerp_(weight, 1 - decay)
            else:
                self.ema_weights[name].copy_(weight)
