"""The guide "Evaluate any diffusers model" is run, offline, on the tiny pipeline of the page."""

from __future__ import annotations

import re
from pathlib import Path

import doc_blocks
import plugin_scans
import pytest
import run_commands
import tiny_pipelines as tiny
import torch

from harope_bench.assets import hub

PAGE = Path(__file__).parents[2] / "docs/guides/any-diffusers-model.md"
NOT_RUN = ("pip ", "harope-bench fetch hub:")  # they use the network
REJECTED_OPTION = "true_cfg_scale"  # an option that the pipeline does not have
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the guide is not beside the tests")
tiny.needs_t2i()


def shown_outputs() -> dict[str, str]:
    """The output that the page shows, by command."""
    outputs = {}
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, output = part.partition("\n")
            outputs[line] = output
    return outputs


def without_numbers(text: str) -> str:
    """A text without the digits of values, which a processor may change."""
    return re.sub(r" [0-9.e-]+( \+- [0-9.e-]+)?  \(", " #  (", re.sub(r" +", " ", text))


def test_the_steps_of_the_guide_run(
    tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_cache_folder", lambda: tmp_path / "cache")
    plugin_scans.cache_scans(monkeypatch)
    (block,) = (block for block in doc_blocks.read_blocks(PAGE) if block.language == "python")
    torch.manual_seed(0)
    exec(compile(block.text, "the block of the page", "exec"), {})

    output_by_line = shown_outputs()
    run_lines = [line for line in output_by_line if not line.startswith(NOT_RUN)]
    assert len(run_lines) == len(output_by_line) - 2 == 5
    for line in run_lines:
        result = run_commands.run_line(line)
        is_error = "Qwen" in line or REJECTED_OPTION in line
        assert result["code"] == (1 if is_error else 0), result
        output = str(result["output"]).replace(str(bench_home), "/home/you/.harope-bench")
        lines = without_numbers(output).splitlines()
        missing = [
            text for text in without_numbers(output_by_line[line]).splitlines() if text not in lines
        ]
        assert not missing, (line, missing, lines)
