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

from harope_bench.core.errors import BenchError, PlanMismatch, WeightsError
from harope_bench.core.formats import FORMAT, check_format, with_format
from harope_bench.core.regular_file import check_regular
from harope_bench.core.storage import disk, first_line, make_folder, write_bytes, write_text
from harope_bench.training.recipe import Schedule
from harope_bench.training.written import LOG, SNAPSHOT

LOG_EVERY = 10  # steps averaged into one line of the loss log

Loss = Callable[[nn.Module, Generator], Tensor]
Keep = Callable[[int, dict[str, Tensor]], None]  # told the step and the averaged weights


class Watch(NamedTuple):
    """Further columns of the loss log: what they are called, their values for the network as it stands, steps from line to line."""

    columns: tuple[str, ...]
    measure: Callable[[nn.Module], tuple[float, ...]]
    every: int = 50


def step_generator(seed: int, step: int) -> Generator:
    """The generator of one training step: resuming needs no random state on disk."""
    digest = hashlib.sha256(f"train/{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def rate(schedule: Schedule, step: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine to zero, or no change."""
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    if schedule.decay == "none":
        return schedule.lr
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * done))


def state_digest(state: object) -> str:
    """Return the hex sha256 of nested dicts, lists, tensors and plain values: of every key, type, shape and bit."""
    digest = hashlib.sha256()
    _digest_into(digest, state)
    return digest.hexdigest()


def _interned(state: object) -> object:
    """Return nested dicts and lists whose equal keys are one object: pickle then writes equal states as equal bytes.

    A key that was read from a snapshot is an object of its own, and pickle writes one word twice for two objects.
    """
    if isinstance(state, dict):
        return {sys.intern(key) if isinstance(key, str) else key: _interned(value) for key, value in state.items()}
    return [_interned(item) for item in state] if isinstance(state, list) else state


def _digest_into(digest: hashlib._Hash, value: object) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\n".encode())
        for key in sorted(value, key=repr):
            _digest_into(digest, key)
            _digest_into(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__} {len(value)}\n".encode())
        for item in value:
            _digest_into(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r}\n".encode())


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Sums over that many threads, as the machine has it for None; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Trainer:
    """One training in one folder. Snapshots are whole files; the log belongs to the snapshot."""

    def __init__(self, network: nn.Module, schedule: Schedule, ema: float, folder: Path, identity: str, watch: Watch | None = None):
        self.network, self.schedule, self.ema = network, schedule, ema
        self.snapshot, self.identity = make_folder(folder) / SNAPSHOT, identity
        self.log_file = folder / LOG
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=0.0)
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.step, self.log, self.watch = 0, "", watch
        self.every = watch.every if watch else LOG_EVERY
        self.head = ",".join(("step", "loss", *(watch.columns if watch else ()))) + "\n"

    def resume(self) -> int:
        """Takes up the snapshot of the folder if there is one; returns the step it stands at.

        Raises:
            PlanMismatch: the snapshot belongs to another recipe, encoding or seed. WeightsError: it is damaged.
            FormatError: another version of this package wrote it.
        """
        if not self.snapshot.exists():
            return 0
        with disk(self.snapshot):
            check_regular(self.snapshot)
        try:
            state = dict(torch.load(self.snapshot, weights_only=True))
        except Exception as error:  # the unpickler fails in a dozen ways on damaged bytes
            raise WeightsError(f"{self.snapshot} cannot be read ({first_line(error)}); delete it or pass --no-resume") from error
        check_format("snapshot", state.get(FORMAT), self.snapshot)
        if state.pop("sha256", None) != state_digest(state):
            raise WeightsError(f"{self.snapshot} is not what training wrote (its sha256 differs); bring it back or pass --no-resume")
        if state["identity"] != self.identity:
            raise PlanMismatch(
                f"{self.snapshot} is of {state['identity']}, asked for {self.identity}; choose another --out or pass --no-resume"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.step, self.log = state["average"], state["step"], state["log"]
        write_text(self.log_file, self.head + self.log)  # a kill may fall between the two files
        return self.step

    def save(self) -> None:
        """Snapshot and log, each whole or not at all."""
        facts = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
            "log": self.log,
        }
        state = with_format("snapshot", facts)
        buffer = io.BytesIO()
        torch.save(_interned({**state, "sha256": state_digest(state)}), buffer)
        write_bytes(self.snapshot, buffer.getvalue())
        write_text(self.log_file, self.head + self.log)

    def run(self, loss: Loss, title: str, keep: Keep | None = None) -> dict[str, Tensor]:
        """Trains to the end and returns the averaged weights; `keep` is told them at every snapshot.

        It is told before the snapshot is written: whoever is killed between the two is told once more, never not at all.
        """
        with threads(self.schedule.threads):
            return self._run(loss, title, keep)

    def _run(self, loss: Loss, title: str, keep: Keep | None) -> dict[str, Tensor]:
        total, seen = 0.0, 0
        bar = tqdm(total=self.schedule.steps, initial=self.step, desc=title, unit="step", file=sys.stderr, disable=None)
        while self.step < self.schedule.steps:
            total, seen = total + self._one(loss), seen + 1
            bar.update()
            due = self.step % self.schedule.snapshot == 0 or self.step == self.schedule.steps
            if due or self.step % self.every == 0:  # a snapshot holds no half-filled line
                self.log += self._line(total / seen)
                bar.set_postfix(loss=f"{total / seen:.4f}")
                total, seen = 0.0, 0
            if due:
                if keep is not None:
                    keep(self.step, self.average)
                self.save()
        bar.close()
        return self.average

    def _line(self, loss: float) -> str:
        """One line of the log: the step, its mean loss and what is watched."""
        watched = self.watch.measure(self.network) if self.watch else ()
        return ",".join([str(self.step), *(f"{value:.6f}" for value in (loss, *watched))]) + "\n"

    def _one(self, loss: Loss) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.schedule, self.step)
        value = loss(self.network, step_generator(self.schedule.seed, self.step))
        if not value.isfinite():
            raise BenchError(f"the loss is {float(value.detach())} at step {self.step}; lower lr in the recipe and train with --no-resume")
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(self.ema, self.step / (self.step + 10))  # follow closely while the start is forgotten
        with torch.no_grad():
            for name, now in self.network.state_dict().items():
                if now.is_floating_point():
                    self.average[name].lerp_(now, 1 - decay)
                else:
                    self.average[name].copy_(now)
        return float(value.detach())
