"""What HARoPE costs in a whole DiT-B/2 forward pass at 256 px: folded, with matrices rebuilt each
time, and plain RoPE, in turns.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/folding.py --rounds 20

Prints a Markdown table of CPU seconds (of this process, so that other work on the machine counts
little) and of ratios to plain RoPE
taken within each round. Weights are random: no product depends on their values.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch

from harope_bench.core import registry
from harope_bench.models.backbones.dit import PLUGIN, DiT
from harope_bench.models.backbones.dit_keys import MODEL_SIZES

HIDDEN, DEPTH, HEADS = MODEL_SIZES["B"]
CONFIG = {
    "hidden": HIDDEN,
    "depth": DEPTH,
    "heads": HEADS,
    "patch": 2,
    "size": 32,
    "channels": 4,
    "classes": 1000,
    "learn_sigma": True,
    "latent": True,
}


def network(encoding: str) -> DiT:
    """DiT-B/2 with noise on all weights: a fresh one has zero gates."""
    torch.manual_seed(0)
    built_network: DiT = registry.load_by_name("backbones", "dit").build(encoding, {}, CONFIG)
    with torch.no_grad():
        for parameter in built_network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return built_network.eval()


def variants() -> dict[str, DiT]:
    """Return the networks that are compared; the folded one is the unfolded one after `fold`, which
    checks that outputs agree.
    """
    unfolded_network = network("harope")
    folded_copy = copy.deepcopy(unfolded_network)
    PLUGIN.fold(folded_copy, "the benchmark's network")
    return {
        "plain RoPE": network("rope-axial"),
        "HARoPE folded": folded_copy,
        "HARoPE, matrices built each forward": unfolded_network,
    }


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started_start_time = time.process_time()
    run()
    return time.process_time() - started_start_time


@torch.inference_mode()
def measure_ratios(rounds: int, batch: int) -> dict[str, list[float]]:
    """CPU seconds of each variant, one a round; the order turns, so that none always runs first."""
    networks = variants()
    inputs = (
        torch.randn(batch, 4, 32, 32),
        torch.full((batch,), 500.0),
        torch.zeros(batch, dtype=torch.long),
    )
    times: dict[str, list[float]] = {name: [] for name in networks}
    names = list(networks)
    for name in names:
        networks[name](*inputs)  # the first call pays for memory
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(seconds(lambda: networks[name](*inputs)))  # noqa: B023 - called at once
    return times


def table(times: dict[str, list[float]]) -> str:
    """Markdown: median CPU seconds, and median and middle half of the ratio to plain RoPE of the
    same round.
    """
    lines = [
        (
            "| DiT-B/2, 256 tokens | CPU s a forward, median | ratio to plain RoPE, median | middle"
            " half |"
        ),
        "|---|---|---|---|",
    ]
    plain_first_item = next(iter(times.values()))
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, plain_first_item, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {name} | {statistics.median(values):.3f} | {middle:.3f} | {low:.3f} - {high:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args()
    print(
        f"batch {args.batch}, {args.rounds} rounds, {torch.get_num_threads()} thread, torch"
        f" {torch.__version__}\n"
    )
    print(table(measure_ratios(args.rounds, args.batch)))


if __name__ == "__main__":
    main()
