"""A metric along an axis: which runs make a line, and what the picture and its table hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_runs import checkpoint, measurement, plan, result, write_result

from harope_bench.cli import main
from harope_bench.core.chart_schema import read_chart
from harope_bench.core.errors import OptionError
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.sweep import build_sweep_chart


def run(
    folder: Path,
    name: str,
    value: float,
    encoding: str = "ape",
    size: int | None = 28,
    n: int = 500,
    **settings: Any,
) -> None:
    owner = checkpoint(name, encoding, config={} if size is None else {"size": size})
    write_result(
        folder / f"{name}-{len(list(folder.glob('*')))}",
        result(plan(owner, **settings), [measurement("fid", value, n=n)]),
    )


def test_a_line_is_a_checkpoint_in_the_order_of_the_axis(tmp_path: Path) -> None:
    for side, value in ((112, 90.0), (28, 20.0), (56, 50.0)):
        run(tmp_path, "digits-ape", value, resolution=side)
        run(tmp_path, "digits-harope", value / 2, "harope", resolution=side)
    sweep_chart = build_sweep_chart(read_results(tmp_path), None, "fid", "resolution")
    assert [line.label for line in sweep_chart.lines] == ["digits-ape", "digits-harope"]
    assert [(p.axis_value, p.value) for p in sweep_chart.lines[0].points] == [
        ("28", 20.0),
        ("56", 50.0),
        ("112", 90.0),
    ]


def test_what_else_differs_makes_lines_of_its_own(tmp_path: Path) -> None:
    for scaling, value in (("none", 50.0), ("ntk", 30.0)):
        for side in (28, 56):
            run(
                tmp_path,
                "digits-harope",
                value + side,
                "harope",
                resolution=side,
                pos_scaling=scaling,
            )
    labels = [
        line.label
        for line in build_sweep_chart(read_results(tmp_path), None, "fid", "resolution").lines
    ]
    assert labels == ["digits-harope, scaling none", "digits-harope, scaling ntk"]
    along = build_sweep_chart(read_results(tmp_path), None, "fid", "pos-scaling")
    assert [line.label for line in along.lines] == ["digits-harope, 28 px", "digits-harope, 56 px"]
    assert [p.axis_value for p in along.lines[0].points] == ["none", "ntk"] and not along.is_numeric


def test_other_steps_guidance_or_sampler_make_other_lines(tmp_path: Path) -> None:
    for side, steps, guidance in ((28, 32, 1.5), (56, 32, 1.5), (56, 8, 1.5), (112, 32, 4.0)):
        run(
            tmp_path,
            "digits-ape",
            float(side + steps),
            resolution=side,
            steps=steps,
            guidance=guidance,
        )
    axis_values = {
        line.label: [p.axis_value for p in line.points]
        for line in build_sweep_chart(read_results(tmp_path), None, "fid", "resolution").lines
    }
    assert axis_values == {
        "digits-ape, 32 steps, guidance 1.5": ["28", "56"],
        "digits-ape, 8 steps, guidance 1.5": ["56"],
        "digits-ape, 32 steps, guidance 4.0": ["112"],
    }
    run(tmp_path, "digits-ape", 3.0, resolution=224, sampler="euler")
    labels = [
        line.label
        for line in build_sweep_chart(read_results(tmp_path), None, "fid", "resolution").lines
    ]
    assert "digits-ape, euler, 32 steps, guidance 1.5" in labels and len(labels) == 4


def test_seed_tile_and_device_make_no_line(tmp_path: Path) -> None:
    run(tmp_path, "digits-ape", 20.0, resolution=28, tile=50)
    run(tmp_path, "digits-ape", 30.0, resolution=56, tile=10, device="cuda", seed=1)
    assert [
        line.label
        for line in build_sweep_chart(read_results(tmp_path), None, "fid", "resolution").lines
    ] == ["digits-ape"]


def test_another_training_makes_a_line_along_training_resolutions(tmp_path: Path) -> None:
    for size, trained_count in ((16, 100), (28, 100), (40, 900)):
        name = checkpoint(
            f"digits-{size}-ape", "ape", config={"size": size}, training_steps=trained_count
        )
        write_result(tmp_path / str(size), result(plan(name), [measurement("fid", float(size))]))
    labels = [
        line.label
        for line in build_sweep_chart(
            read_results(tmp_path), None, "fid", "training-resolution"
        ).lines
    ]
    assert labels == ["ape, trained 100 steps", "ape, trained 900 steps"]


def test_training_resolutions_are_one_line_of_an_encoding_and_the_silent_are_named(
    tmp_path: Path,
) -> None:
    for size in (16, 28, 40):
        run(tmp_path, f"digits-{size}-ape", float(size), size=size)
    run(tmp_path, "foreign", 1.0, size=None)
    sweep_chart = build_sweep_chart(read_results(tmp_path), None, "fid", "training-resolution")
    assert [(line.label, [p.axis_value for p in line.points]) for line in sweep_chart.lines] == [
        ("ape", ["16", "28", "40"])
    ]
    assert sweep_chart.excluded == ("foreign does not record its training-resolution",)


def test_of_two_runs_at_a_place_the_one_over_more_images_counts(tmp_path: Path) -> None:
    run(tmp_path, "digits-ape", 20.0, n=500)
    run(tmp_path, "digits-ape", 21.0, n=1000)
    (line,) = build_sweep_chart(read_results(tmp_path), None, "fid", "resolution").lines
    assert [(p.value, p.images) for p in line.points] == [(21.0, 1000)]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    run(tmp_path, "digits-ape", 20.0)
    with pytest.raises(
        OptionError, match="no result has a value of overall; the results have: fid"
    ):
        build_sweep_chart(read_results(tmp_path), None, "overall", "resolution")
    write_result(tmp_path / "x", result(plan(checkpoint(), "digits-16"), [measurement("fid", 1.0)]))
    with pytest.raises(OptionError, match="on suites digits, digits-16; name one with --suite"):
        build_sweep_chart(read_results(tmp_path), None, "fid", "resolution")


def test_the_verb_prints_the_table_and_writes_picture_and_data(tmp_path: Path) -> None:
    for side, value in ((28, 20.0), (56, 50.0)):
        run(tmp_path, "digits-ape", value, resolution=side)
    out = tmp_path / "figures" / "fid.svg"
    command_result = CliRunner().invoke(
        main, ["figure", "sweep", str(tmp_path), "--metric", "fid", "--out", str(out)]
    )
    assert command_result.exit_code == 0, command_result.output
    assert (
        "digits-ape" in command_result.output
        and "50.00  49.80 to 50.20  (500 images)" in command_result.output
    )
    assert read_chart(out.with_suffix(".json")).kind == "sweep"
    assert out.with_suffix(".csv").read_text().splitlines()[1] == "digits-ape,28,20.0,19.8,20.2,500"
    report = CliRunner().invoke(
        main, ["report", "--runs", str(tmp_path), "--out", str(tmp_path / "r.html")]
    )
    assert (
        report.exit_code == 0
        and "by resolution (lower is better)" in (tmp_path / "r.html").read_text()
    )
