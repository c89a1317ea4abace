"""The training loop: seeded by step, killed and resumed without a trace, loss log kept."""

from __future__ import annotations

import hashlib
import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from harope_bench.core.errors import BenchError, PlanMismatchError, WeightsError
from harope_bench.core.formats import FORMAT_KEY, add_format_version, check_format
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

LOG_EVERY = 10  # steps averaged into one line of the loss log

LossFunction = Callable[[nn.Module, Generator], Tensor]
SnapshotCallback = Callable[
    [int, dict[str, Tensor]], None
]  # told the step and the averaged weights


class LoggedMetrics(NamedTuple):
    """Further columns of the loss log: what they are called, their values for the network as it
    stands, steps from line to line.
    """

    columns: tuple[str, ...]
    measure: Callable[[nn.Module], tuple[float, ...]]
    log_interval: int = 50


def step_generator(seed: int, step: int) -> Generator:
    """The generator of one training step: resuming needs no random state on disk."""
    digest = hashlib.sha256(f"train/{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(schedule: Schedule, step: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine to zero, or no change."""
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    if schedule.decay == "none":
        return schedule.lr
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * done))


def state_digest(state: object) -> str:
    """Return the hex sha256 of nested dicts, lists, tensors and plain values: of every key, type,
    shape and bit.
    """
    digest = hashlib.sha256()
    _update_digest(digest, state)
    return digest.hexdigest()


def _intern_keys(state: object) -> object:
    """Return nested dicts and lists whose equal keys are one object: pickle then writes equal
    states as equal bytes.

    A key that was read from a snapshot is an object of its own, and pickle writes one word twice
    for two objects.
    """
    if isinstance(state, dict):
        return {
            sys.intern(key) if isinstance(key, str) else key: _intern_keys(value)
            for key, value in state.items()
        }
    return [_intern_keys(item) for item in state] if isinstance(state, list) else state


def _update_digest(digest: hashlib._Hash, value: object) -> None:
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
    """Sums over that many threads, as the machine has it for None; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Trainer:
    """One training in one folder. Snapshots are whole files; the log belongs to the snapshot."""

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        ema: float,
        folder: Path,
        identity: str,
        watch: LoggedMetrics | None = None,
    ):
        self.network = network
        self.schedule = schedule
        self.ema = ema
        self.snapshot_path = make_folder(folder) / SNAPSHOT_FILE
        self.identity = identity
        self.log_file = folder / LOG_FILE
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=0.0)
        self.ema_weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.step = 0
        self.log_text = ""
        self.logged_metrics = watch
        self.log_interval = watch.log_interval if watch else LOG_EVERY
        self.log_header = ",".join(("step", "loss", *(watch.columns if watch else ()))) + "\n"

    def resume(self) -> int:
        """Takes up the snapshot of the folder if there is one; returns the step it stands at.

        Raises:
            PlanMismatch: the snapshot belongs to another recipe, encoding or seed. WeightsError: it
                is damaged.
            FormatError: another version of this package wrote it.
        """
        if not self.snapshot_path.exists():
            return 0
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
                f"{self.snapshot_path} is not what training wrote (its sha256 differs); bring it"
                " back or pass --no-resume"
            )
        if state["identity"] != self.identity:
            raise PlanMismatchError(
                f"{self.snapshot_path} is of {state['identity']}, asked for {self.identity}; choose"
                " another --out or pass --no-resume"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema_weights = state["average"]
        self.step = state["step"]
        self.log_text = state["log"]
        write_text(
            self.log_file, self.log_header + self.log_text
        )  # a kill may fall between the two files
        return self.step

    def save_snapshot(self) -> None:
        """Snapshot and log, each whole or not at all."""
        facts = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.ema_weights,
            "step": self.step,
            "log": self.log_text,
        }
        state = add_format_version("snapshot", facts)
        buffer = io.BytesIO()
        torch.save(_intern_keys({**state, "sha256": state_digest(state)}), buffer)
        write_bytes(self.snapshot_path, buffer.getvalue())
        write_text(self.log_file, self.log_header + self.log_text)

    def train(
        self, loss: LossFunction, title: str, keep: SnapshotCallback | None = None
    ) -> dict[str, Tensor]:
        """Trains to the end and returns the averaged weights; `keep` is told them at every
        snapshot.

        It is told before the snapshot is written: whoever is killed between the two is told once
        more, never not at all.
        """
        with torch_threads(self.schedule.threads):
            return self._train(loss, title, keep)

    def _train(
        self, loss: LossFunction, title: str, keep: SnapshotCallback | None
    ) -> dict[str, Tensor]:
        total = 0.0
        seen = 0
        bar = tqdm(
            total=self.schedule.steps,
            initial=self.step,
            desc=title,
            unit="step",
            file=sys.stderr,
            disable=None,
        )
        while self.step < self.schedule.steps:
            total = total + self._train_step(loss)
            seen = seen + 1
            bar.update()
            due = self.step % self.schedule.snapshot == 0 or self.step == self.schedule.steps
            if due or self.step % self.log_interval == 0:  # a snapshot holds no half-filled line
                self.log_text += self._log_line(total / seen)
                bar.set_postfix(loss=f"{total / seen:.4f}")
                total = 0.0
                seen = 0
            if due:
                if keep is not None:
                    keep(self.step, self.ema_weights)
                self.save_snapshot()
        bar.close()
        return self.ema_weights

    def _log_line(self, loss: float) -> str:
        """One line of the log: the step, its mean loss and what is watched."""
        watched = self.logged_metrics.measure(self.network) if self.logged_metrics else ()
        return ",".join([str(self.step), *(f"{value:.6f}" for value in (loss, *watched))]) + "\n"

    def _train_step(self, loss: LossFunction) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.schedule, self.step)
        value = loss(self.network, step_generator(self.schedule.seed, self.step))
        if not value.isfinite():
            raise BenchError(
                f"the loss is {float(value.detach())} at step {self.step}; lower lr in the recipe"
                " and train with --no-resume"
            )
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(
            self.ema, self.step / (self.step + 10)
        )  # follow closely while the start is forgotten
        with torch.no_grad():
            for name, now in self.network.state_dict().items():
                if now.is_floating_point():
                    self.ema_weights[name].lerp_(now, 1 - decay)
                else:
                    self.ema_weights[name].copy_(now)
        return float(value.detach())
