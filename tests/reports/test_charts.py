"""Charts: ticks are round, texts are text, an encoding looks the same everywhere, and what a report
draws by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fake_runs as fake
import numpy as np
import pytest
from document import HOSTILE, Document

from harope_bench.core.chart_schema import (
    AttentionDistanceChart,
    CheckpointDistances,
    HeadMatrix,
    LossChart,
    LossCurve,
    MatrixChart,
    SweepChart,
    SweepLine,
    SweepPoint,
)
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.board import build_board, load_table
from harope_bench.reports import chart_axes, charts_svg, encoding_styles, svg_elements
from harope_bench.reports.chart_files import write_figure
from harope_bench.reports.page_charts import (
    PageChart,
    build_charts,
    report_context,
    row_styles,
    run_styles,
)
from harope_bench.reports.page_figures import forest_panel, forest_svg
from harope_bench.reports.prompt_panels import PromptPair, scatter_panel
from harope_bench.reports.report_page import build_report_page, write_report
from harope_bench.reports.runs import read_runs

TEMPLATES = Path(svg_elements.__file__).parent / "templates"
SVG = "{http://www.w3.org/2000/svg}"
PAPERS = ("#fcfcfb", "#15171a")  # grounds of the light and the dark page


# ------------------------------------------------------------------------------------ axes


@pytest.mark.parametrize(
    ("low", "high", "max_ticks", "ticks"),
    [
        (0, 1, 5, [0, 0.25, 0.5, 0.75, 1]),
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (13.2, 24.9, 5, [15, 17.5, 20, 22.5]),
        (-0.11, 0.23, 4, [-0.1, 0, 0.1, 0.2]),
        (40, 320, 5, [100, 200, 300]),
        (0, 4500, 5, [0, 1000, 2000, 3000, 4000]),
    ],
)
def test_ticks_are_round(low: float, high: float, max_ticks: int, ticks: list[float]) -> None:
    assert chart_axes.round_ticks(low, high, max_ticks) == ticks


def test_ticks_of_any_range_are_few_inside_and_short() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        low, width = rng.normal(0, 100), 10 ** rng.uniform(-5, 6)
        ticks = chart_axes.round_ticks(low, low + width, 5)
        assert 1 <= len(ticks) <= 5
        assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
        steps = np.diff(ticks)
        if len(steps):
            leading = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-9)
            assert min(abs(leading - step) for step in (1, 2, 2.5, 5)) < 1e-3


def test_logarithmic_ticks_and_their_texts() -> None:
    assert chart_axes.log_ticks(0.05, 3, 6) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    assert chart_axes.log_ticks(0.09, 0.31, 6) == [0.1, 0.15, 0.2, 0.25, 0.3]
    assert all(len(chart_axes.log_ticks(1e-8, 10.0**n, 5)) <= 5 for n in range(1, 9))
    assert chart_axes.tick_labels([0.05, 0.1, 5.0]) == ["0.05", "0.1", "5"]
    assert chart_axes.tick_labels([-0.5, 0.0, 0.25]) == ["−0.50", "0.00", "0.25"]
    assert chart_axes.tick_labels([0.0, 5000.0]) == ["0", "5,000"]


def test_a_scale_is_linear_or_has_equal_lengths_for_equal_ratios() -> None:
    scale = chart_axes.Scale(0, 10, 100, 200)
    assert [scale.position(x) for x in (0, 5, 10)] == [100, 150, 200]
    scale = chart_axes.Scale(16, 64, 0, 100, is_log=True)
    assert [scale.position(x) for x in (16, 32, 64)] == pytest.approx([0, 50, 100])
    for values in ([3.0], [0.0], [2.0, 2.0]):
        assert chart_axes.make_scale(values, 0, 100).position(values[0]) == pytest.approx(50)
    assert chart_axes.make_scale([28.0], 0, 100, is_log=True).position(28.0) == pytest.approx(50)


def test_labels_that_would_overlap_are_left_out() -> None:
    scale = chart_axes.Scale(0, 100, 0, 100)
    ticks = [0.0, 2.0, 50.0, 52.0, 100.0]
    texts = re.findall(r">([\d.]+)</text>", "".join(chart_axes.bottom_axis(scale, 10, "", ticks)))
    assert texts == ["0", "50", "100"]


# ------------------------------------------------------------------------------------ elements


def test_text_is_escaped_and_cut_with_the_whole_as_a_tooltip() -> None:
    element = svg_elements.make_text(0, 0, f"{HOSTILE}\x1b[2J\nnext", max_width=60)
    tree = ElementTree.fromstring(element)
    assert tree.tag == "text"
    assert (tree.text or "").endswith("…")
    assert "onerror" in (tree[0].text or "") and "\x1b" not in element
    assert svg_elements.shorten_text("short", 100) == "short"
    assert svg_elements.text_width(svg_elements.shorten_text("harope, " * 40_000, 90)) <= 90
    assert svg_elements.text_width("WWW") > svg_elements.text_width("iii")


def test_marks_of_one_size_have_about_one_area() -> None:
    for mark, outline in svg_elements.MARK_OUTLINES.items():
        x, y = np.array(outline).T
        area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
        if mark == "hourglass":  # its outline crosses itself, so both halves cancel
            area = 2 * 0.5 * 1.24 * 0.66
        assert 0.75 <= area <= 1.25, mark
    assert set(encoding_styles.MARKS) == {"circle", *svg_elements.MARK_OUTLINES}


def test_colours_of_a_heat_map_are_symmetric_about_white() -> None:
    colours = svg_elements.diverging_colours(np.array([[-2.0, 0.0, 2.0, 9.0]]), 2.0)
    assert colours.tolist()[0] == [
        list(svg_elements.NEGATIVE_COLOUR),
        list(svg_elements.CENTRE_COLOUR),
        list(svg_elements.POSITIVE_COLOUR),
        list(svg_elements.POSITIVE_COLOUR),  # beyond the end of the scale
    ]
    element = svg_elements.make_heat_map(np.zeros((3, 4)), 1.0, (0, 0), 40, 30)
    assert 'href="data:image/png;base64,' in element
    assert element == svg_elements.make_heat_map(np.zeros((3, 4)), 1.0, (0, 0), 40, 30)


def test_lengths_have_two_decimals_at_most() -> None:
    assert [svg_elements.format_length(x) for x in (1.0, 0.126, -0.001, 100)] == [
        "1",
        "0.13",
        "0",
        "100",
    ]


# ------------------------------------------------------------------------------------ colours


def linear_colour(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear_colour(colour) @ [0.2126, 0.7152, 0.0722])


def lab_colour(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, daylight white."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(matrix) @ np.clip(linear, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira, Fernandes 2009, severity 1
COLOUR_VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
@pytest.mark.parametrize("number", [0, 1])
def test_colours_differ_for_colour_blind_readers_too(vision: str, number: int) -> None:
    palette = (encoding_styles.LIGHT_COLOURS, encoding_styles.DARK_COLOURS)[number]
    colours = [lab_colour(COLOUR_VISION[vision] @ linear_colour(c)) for c in palette]
    for i in range(len(colours)):
        for j in range(i):
            assert np.linalg.norm(colours[i] - colours[j]) > 9.5, (palette[i], palette[j])
    for colour in palette:
        bright, dark = sorted((luminance(colour), luminance(PAPERS[number])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 3, colour  # WCAG 1.4.11: graphics


def test_the_page_defines_the_colours_that_charts_name() -> None:
    style = (TEMPLATES / "charts_style.html").read_text()
    blocks = re.findall(r":root \{([^}]*)\}", style)
    for block, palette in zip(
        blocks, (encoding_styles.LIGHT_COLOURS, encoding_styles.DARK_COLOURS), strict=True
    ):
        colours = dict(re.findall(r"--encoding-(\d+): (#[0-9a-f]{6});", block))
        assert colours == {str(i): colour for i, colour in enumerate(palette, 1)}


def test_an_encoding_has_one_colour_and_mark_whatever_else_is_there() -> None:
    few = encoding_styles.assign_styles({"a": "harope", "b": "rope-axial"})
    many = encoding_styles.assign_styles({f"c-{e}": e for e in (*fake.ENCODINGS, "mine", "theirs")})
    for encoding in ("harope", "rope-axial"):
        assert few.style(encoding) == many.style(encoding)
    styles = {e: many.style(e) for e in (*fake.ENCODINGS, "mine", "theirs")}
    assert len({style.colour for style in styles.values()}) == len(styles)
    assert len({style.mark for style in styles.values()}) == len(styles)
    assert encoding_styles.find_name("a, b, c", {"a", "a, b"}) == "a, b"
    assert encoding_styles.find_name(", " * 200_000, {"a"}) is None
    assert many.style("c-mine") == many.style("mine") == many.style("c-mine, 48 px")


def test_two_lines_of_one_encoding_differ_in_dashes_and_not_in_colour() -> None:
    styles = encoding_styles.assign_styles({"short": "harope", "long": "harope"})
    first, second = styles.chart_styles(["short", "long"])
    assert (first.colour, first.mark) == (second.colour, second.mark)
    assert (first.dashes, first.is_hollow) == (None, False)
    assert second.dashes and second.is_hollow


def test_more_encodings_than_colours_share_them() -> None:
    styles = encoding_styles.assign_styles({})
    labels = [f"encoding-{i}" for i in range(20)]
    assert len({(s.index, s.variant) for s in styles.chart_styles(labels)}) == 20


# ------------------------------------------------------------------------------------ figures


def some_distances(*encodings: str, **changes: Any) -> AttentionDistanceChart:
    fields: dict[str, Any] = {
        "sha256": "ab" * 32,
        "pixels": ((1.0, 2.0), (3.0, 4.0)),
        "standard_deviation": (0.5, 0.5),
        "uniform_distance": 5.0,
        "token_pixels": 4.0,
        "tokens": 49,
        "images": 2,
        "timesteps": (500.0,),
        "resolution": 28,
        "sampler": "flow",
        "steps": 4,
        "guidance": 1.5,
        "seed": 0,
    }
    checkpoints = tuple(
        CheckpointDistances(
            checkpoint=f"digits-{encoding}", encoding=encoding, **{**fields, **changes}
        )
        for encoding in encodings
    )
    return AttentionDistanceChart(settings_text="two images", checkpoints=checkpoints)


def sweep(**changes: Any) -> SweepChart:
    def line(label: str, base: float) -> SweepLine:
        return SweepLine(
            label=label,
            points=tuple(
                SweepPoint(
                    axis_value=str(side), value=base + side, low=base, high=base + 99, images=9
                )
                for side in (28, 56, 112)
            ),
        )

    fields: dict[str, Any] = {
        "suite": "digits",
        "metric": "fid",
        "title": "FID",
        "direction": "lower",
        "decimals": 2,
        "axis": "resolution",
        "is_numeric": True,
        "lines": (line("digits-ape", 10.0), line("digits-harope", 5.0)),
    }
    return SweepChart(**{**fields, **changes})


CONTEXT = charts_svg.checkpoint_context(
    [
        fake.checkpoint("digits-ape", "ape", config={"size": 28}),
        fake.checkpoint("digits-harope", "harope", config={"size": 28}),
    ]
)


def test_a_sweep_has_ribbons_and_marks_the_training_resolution() -> None:
    panel, legend = charts_svg.chart_panels(sweep(), CONTEXT)
    text = "".join(panel.elements)
    assert text.count('fill-opacity="0.18"') == 2  # a ribbon a line
    assert text.count("<polyline") == 2
    assert text.count("trained at 28 px") == 1
    assert "digits-harope" in "".join(legend.elements)
    harope = CONTEXT.styles.style("harope").colour
    assert harope in text and harope in "".join(legend.elements)

    # without a recorded size nothing is marked, and a gap in the intervals is a gap in the ribbon
    lines = list(sweep().lines)
    middle = lines[0].points[1].model_copy(update={"low": None, "high": None})
    points = (lines[0].points[0], middle, lines[0].points[2])
    chart = sweep(lines=(lines[0].model_copy(update={"points": points}), lines[1]))
    text = "".join(charts_svg.chart_panels(chart, charts_svg.ChartContext())[0].elements)
    assert "trained" not in text
    assert text.count('fill-opacity="0.18"') == 1


def test_checkpoints_of_several_sizes_have_a_line_each() -> None:
    context = charts_svg.checkpoint_context(
        [
            fake.checkpoint("digits-ape", "ape", config={"size": 16}),
            fake.checkpoint("digits-harope", "harope", config={"size": 40}),
        ]
    )
    text = "".join(charts_svg.chart_panels(sweep(), context)[0].elements)
    assert "trained at 16 px" in text and "trained at 40 px" in text


def test_settings_without_numbers_are_equally_spaced() -> None:
    lines = tuple(
        line.model_copy(
            update={
                "points": tuple(
                    p.model_copy(update={"axis_value": name})
                    for p, name in zip(line.points, ("none", "ntk", "yarn"), strict=True)
                )
            }
        )
        for line in sweep().lines
    )
    chart = sweep(axis="pos-scaling", is_numeric=False, lines=lines)
    text = "".join(charts_svg.chart_panels(chart, CONTEXT)[0].elements)
    xs = [
        float(x) for x in re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="middle">(?:n|y)', text)
    ]
    assert np.ptp(np.diff(xs)) < 0.02
    assert "trained" not in text


def test_a_file_has_fixed_colours_and_one_size_of_type(tmp_path: Path) -> None:
    write_figure(sweep(), tmp_path / "a.svg", [fake.checkpoint("digits-harope", "harope")])
    text = (tmp_path / "a.svg").read_text()
    assert "var(" not in text
    assert encoding_styles.LIGHT_COLOURS[0] in text
    root = ElementTree.fromstring(text)
    assert [e.get("font-size") for e in root.iter() if e.get("font-size")] == ["12"]
    assert root.get("role") == "img"
    ids = (root.get("aria-labelledby") or "").split()
    assert [e.get("id") for e in root.iter() if e.get("id")] == ids
    assert {e.tag for e in root[:2]} == {f"{SVG}title", f"{SVG}desc"}


def test_long_and_hostile_names_stay_inside_the_file(tmp_path: Path) -> None:
    curve = LossCurve(label=HOSTILE * 3, steps=(1.0, 2.0), loss=(2.0, 1.0))
    write_figure(LossChart(smoothing=0.0, curves=(curve,)), tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        *("svg", "title", "desc", "g", "text", "line", "path", "polyline", "polygon", "circle")
    }


EXTREMES = (0.0, 1e308, -1e308, 1e-320, 5.0)


@pytest.mark.parametrize("first", EXTREMES)
@pytest.mark.parametrize("second", EXTREMES)
def test_extreme_numbers_are_drawn_at_the_end_of_an_axis(first: float, second: float) -> None:
    low, high = sorted((first, second))
    point = SweepPoint(axis_value="28", value=first, low=low, high=high, images=9)
    fields: dict[str, Any] = {"sha256": "ab" * 32, "encoding": "harope", "checkpoint": "x"}
    matrix = HeadMatrix(
        layer=0,
        head=0,
        values=((first, second),),
        distance_from_identity=first,
        condition_number=second,
        singular_values=(1.0,),
        axis_coupling=0.0,
        operator_change=(),
    )
    for chart in (
        LossChart(
            smoothing=0.0, curves=(LossCurve(label="x", steps=(low, high), loss=(first, second)),)
        ),
        sweep(lines=(SweepLine(label="x", points=(point,)),)),
        MatrixChart(**fields, operator="unknown", offsets=(), matrices=(matrix,)),
        some_distances("harope", pixels=((first, second),), standard_deviation=(first,)),
    ):
        text = charts_svg.render_chart(chart, "x")
        ElementTree.fromstring(text)
        assert not re.search(r'="-?(nan|inf)', text)


# ------------------------------------------------------------------------------------ the report


def charts_of(runs: Path) -> dict[str, PageChart]:
    return {chart.anchor: chart for chart in build_charts(read_runs(runs), [])}


def write_sizes(runs: Path, sizes: tuple[int, ...]) -> None:
    for encoding in ("rope-axial", "harope"):
        for side in sizes:
            owner = fake.checkpoint(f"digits-{encoding}", encoding, config={"size": 28})
            measurements = [fake.measurement("fid", 10.0 + side), fake.measurement("is", 5.0)]
            made_result = fake.result(fake.plan(owner, resolution=side), measurements)
            fake.write_result(runs / f"{encoding}-{side}", made_result)


def test_runs_of_several_sizes_get_a_sweep_by_themselves(tmp_path: Path) -> None:
    write_sizes(tmp_path / "two", (28, 56))
    chart = charts_of(tmp_path / "two")["chart-sweep-digits"]
    assert len(chart.svgs) == 3  # two metrics and the legend
    assert chart.svg.count("trained at 28 px") == 2
    assert chart.table.headers == ("Run", "Metric", "28 px", "56 px")
    assert chart.table.rows[0] == (
        "digits-harope",
        "FID",
        "38.00 (37.80 to 38.20)",
        "66.00 (65.80 to 66.20)",
    )
    assert chart.csv_text.count("\n") == 1 + 2 * 2 * 2

    write_sizes(tmp_path / "one", (28,))
    assert not [anchor for anchor in charts_of(tmp_path / "one") if "sweep" in anchor]


def write_geneval(
    runs: Path, name: str, scores: np.ndarray, encoding: str | None = None, side: int = 32
) -> None:
    """A GenEval result of four prompts, two images each: (4, 2) scores 0 or 1."""
    owner = fake.plan(fake.checkpoint(name, encoding), resolution=side) if encoding else None
    tasks = {"counting": [0, 1], "colors": [2, 3]}
    rows: dict[str, np.ndarray] = {
        "indices": np.arange(8),
        "prompts": np.repeat(np.arange(4), 2),
        "overall_tasks": np.repeat([1, 1, 0, 0], 2),
        "overall": scores.ravel().astype(float),
    }
    for task, prompts in tasks.items():
        values = np.full((4, 2), np.nan)
        values[prompts] = scores[prompts]
        rows[task] = values.ravel()
    measurements = [
        fake.measurement(task, float(np.nanmean(rows[task])), 0.1, n=4) for task in tasks
    ]
    made_result = fake.result(
        owner,
        [*measurements, fake.measurement("overall", float(scores.mean()), 0.1, n=8)],
        evaluator="geneval",
        version=3,
        profile="geneval",
    )
    fake.write_result(runs / name, made_result, rows, "geneval")


A_SCORES = np.array([[1, 1], [0, 0], [1, 0], [1, 1]])
B_SCORES = np.array([[1, 1], [1, 0], [0, 0], [1, 1]])


def test_categories_and_prompts_of_a_benchmark(tmp_path: Path) -> None:
    write_geneval(tmp_path, "rope", A_SCORES, "rope-axial")
    write_geneval(tmp_path, "z-harope", B_SCORES, "harope")
    charts = charts_of(tmp_path)
    categories = charts["chart-categories-digits-geneval"]
    assert categories.table.headers == ("Category", "rope", "z-harope")
    assert categories.table.rows[0] == (
        "Counting",
        "0.500 (0.300 to 0.700)",
        "0.750 (0.550 to 0.950)",
    )
    assert categories.svg.count("<rect") == 2 * 3  # a bar a run and category
    assert "official rules" in categories.caption

    prompts = charts["chart-prompts-digits-geneval"]
    assert prompts.table.headers == (
        "Run",
        "Against",
        "Task",
        "Prompts",
        "Higher",
        "Equal",
        "Lower",
    )
    assert prompts.table.rows == (
        ("z-harope", "rope", "Counting", "2", "1", "1", "0"),
        ("z-harope", "rope", "Colors", "2", "0", "1", "1"),
        ("z-harope", "rope", "All", "4", "1", "2", "1"),
    )
    assert "higher in 1, equal in 2, lower in 1 of 4 prompts" in prompts.svg
    assert "rope 1, z-harope 1: 2 prompts" in prompts.svg
    lines = prompts.csv_text.splitlines()
    assert lines[0] == "run_a,run_b,size,prompt_index,task,score_a,score_b"
    assert "rope,z-harope,32,1,Counting,0.0,0.5" in lines


def test_a_thousand_prompts_are_few_marks() -> None:
    rng = np.random.default_rng(0)
    pairs = [PromptPair(i, "all", *map(float, rng.random(2))) for i in range(3000)]
    styles = encoding_styles.assign_styles({}).chart_styles(["rope-axial", "harope"])
    panel = scatter_panel(pairs, ("a", "b"), (styles[0], styles[1]), 1.0)
    text = "".join(panel.elements)
    assert len(text) < 300_000
    assert "<title>" not in text
    assert f"of {len(pairs):,} prompts" in text
    assert "lower in" in text


def test_imported_results_without_plans_have_the_same_charts(tmp_path: Path) -> None:
    write_geneval(tmp_path, "ours", A_SCORES)
    write_geneval(tmp_path, "theirs", B_SCORES)
    charts = charts_of(tmp_path)
    assert charts["chart-categories-digits-geneval"].table.headers == ("Category", "ours", "theirs")
    assert "chart-prompts-digits-geneval" in charts
    colours = {
        name: set(re.findall(r"var\(--encoding-\d, #[0-9a-f]+\)", chart.svg))
        for name, chart in charts.items()
    }
    assert len(set(map(frozenset, colours.values()))) == 1


def test_results_of_another_judge_or_of_other_rules_share_no_chart(tmp_path: Path) -> None:
    write_geneval(tmp_path, "a", A_SCORES)
    write_geneval(tmp_path, "b", B_SCORES)
    path = tmp_path / "b/results/geneval.json"
    path.write_text(path.read_text().replace('"rules": "official"', '"rules": "corrected"'))
    charts = charts_of(tmp_path)
    assert [anchor for anchor in charts if "categories" in anchor] == [
        "chart-categories-digits-geneval",
        "chart-categories-digits-geneval-2",
    ]
    assert not [anchor for anchor in charts if "prompts" in anchor]


def test_an_evaluator_that_is_not_installed_gets_no_chart(tmp_path: Path) -> None:
    write_geneval(tmp_path, "a", A_SCORES)
    path = tmp_path / "a/results/geneval.json"
    path.write_text(path.read_text().replace('"evaluator": "geneval"', '"evaluator": "unknown"'))
    assert charts_of(tmp_path) == {}


@pytest.fixture(scope="module")
def rich_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 2, several sizes, a benchmark and a figure."""
    runs = fake.micro_table(tmp_path_factory.mktemp("rich"))
    write_sizes(runs, (28, 56))
    write_geneval(runs, "rope", A_SCORES, "rope-axial")
    write_geneval(runs, "harope", B_SCORES, "harope")
    chart = some_distances("ape", "harope")
    write_figure(chart, runs / "figures/a b.svg")
    write_figure(chart, runs / "figures/a-b.svg")
    return runs


def test_every_svg_of_a_page_is_labelled_in_one_size_with_its_own_ids(rich_runs: Path) -> None:
    page = write_report(rich_runs, rich_runs.parent / "rich.html").read_text()
    document = Document(page)
    assert [name for name, count in Counter(document.ids).items() if count > 1] == []
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) >= 12
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert [e.get("font-size") for e in root.iter() if e.get("font-size")] == ["12"]
        title, description = root[0], root[1]
        assert (title.tag, description.tag) == ("title", "desc")
        assert title.text and description.text
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"

        # the type of a page has one size: an SVG is shown as large as it was laid out
        width = float((root.get("viewBox") or "").split()[2])
        size = re.search(r"width:([\d.]+)rem", root.get("style") or "")
        assert size is not None
        assert float(size[1]) * 16 == pytest.approx(width, abs=0.2)
        assert width <= 352  # fits a telephone of 400 pixels
    assert write_report(rich_runs, rich_runs.parent / "rich.html").read_text() == page


def test_an_encoding_has_the_same_colour_in_every_chart(rich_runs: Path) -> None:
    page = build_report_page(rich_runs)
    harope, rope = "var(--encoding-1, #0b6fb8)", "var(--encoding-2, #c9500c)"
    for chart in page.charts:
        if chart.anchor.startswith("chart-figure"):
            assert harope in chart.svg and rope not in chart.svg
        elif chart.anchor != "chart-training":
            assert harope in chart.svg and rope in chart.svg, chart.anchor
    forest = page.sections[0].forests[0].svg
    assert harope in forest and "var(--encoding-6, #5d646e)" in forest
    anchors = [chart.anchor for chart in page.charts]
    assert anchors == sorted(set(anchors), key=anchors.index)
    assert {"chart-figure-a-b", "chart-figure-a-b-2"} <= set(anchors)


def test_a_forest_states_differences_and_verdicts_in_words(rich_runs: Path) -> None:
    runs = [run for run in read_runs(rich_runs) if "/" not in run.id]
    board = build_board(load_table("2"), read_results(rich_runs), "both", "micro")
    rows = [
        (board.table.find_row(item.row).title, item)
        for item in board.comparisons
        if item.column == "fid"
    ]
    styles = row_styles(board, read_results(rich_runs), report_context(runs).styles)
    assert styles["harope"] == report_context(runs).styles.style("harope")
    panel = forest_panel("FID-500", "lower", rows, styles)
    text = "".join(panel.elements)
    assert text.count("▼ worse") == sum(item.verdict == "worse" for _, item in rows) > 0
    assert "difference (lower is better)" in text
    for label, item in rows:
        assert f"{label}: {item.difference.delta:+.3g}" in panel.description
    ids = re.findall(r'id="([^"]+)"', forest_svg("one", "FID-500", "lower", rows, styles))
    assert ids == ["one-title", "one-desc"]
    assert "currentColor" in forest_svg("two", "FID-500", "lower", rows)
    assert "No difference." in forest_svg("three", "FID-500", "lower", [])


def test_charts_can_be_built_from_runs_alone(rich_runs: Path) -> None:
    charts = build_charts(read_runs(rich_runs), [])
    assert "chart-sweep-digits" in [chart.anchor for chart in charts]


def test_no_module_of_the_package_draws_with_another_library() -> None:
    package = Path(svg_elements.__file__).parent.parent
    for path in package.rglob("*.py"):
        assert "matplotlib" not in path.read_text(), path


def test_runs_may_have_other_names(rich_runs: Path) -> None:
    runs = read_runs(rich_runs)
    named_charts = build_charts(runs, [], names={"harope": "dit, HARoPE, 32 px"})
    chart = next(c for c in named_charts if c.anchor.startswith("chart-categories"))
    assert "dit, HARoPE" in chart.table.headers
    assert run_styles(runs)["harope"].colour in chart.svg


def test_one_name_at_several_sizes_is_one_line(tmp_path: Path) -> None:
    for side in (28, 56):
        for name, scores, encoding in (
            ("rope", A_SCORES, "rope-axial"),
            ("harope", B_SCORES, "harope"),
        ):
            write_geneval(tmp_path / str(side), name, scores, encoding, side)
    runs = read_runs(tmp_path)
    names = {
        run.id: f"dit, {run.title}, {run.plan.settings.resolution} px" for run in runs if run.plan
    }
    sweep_chart, categories, prompts = build_charts(runs, [], names=names)
    assert {row[0] for row in sweep_chart.table.rows} == {"dit, harope", "dit, rope"}
    assert categories.table.headers == ("Category", "Size", "dit, harope", "dit, rope")
    assert {row[1] for row in categories.table.rows} == {"28 px", "56 px"}
    assert len(prompts.svgs) == 2
    assert "56 px" in prompts.svgs[1]


def test_names_that_only_a_size_tells_apart_get_their_checkpoints(tmp_path: Path) -> None:
    write_geneval(tmp_path, "short", A_SCORES, "harope", 28)
    write_geneval(tmp_path, "long", B_SCORES, "harope", 56)
    runs = read_runs(tmp_path)
    names = {run.id: f"HARoPE, {28 if run.id == 'short' else 56} px" for run in runs}
    (categories,) = build_charts(runs, [], names=names)
    assert categories.table.headers[2:] == ("HARoPE, short", "HARoPE, long")
