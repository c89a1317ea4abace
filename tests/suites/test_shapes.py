"""Suite shapes and its judge: three benchmarks' rules on rendered truth, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.annotations import DetectionQuery, VqaQuery
from harope_bench.core.errors import OptionError
from harope_bench.data import shapes_scenes
from harope_bench.data.shapes_scenes import detect_shapes
from harope_bench.data.shapes_scenes.contents import CONTENTS, N_COLOUR_SETS, scene_label
from harope_bench.data.shapes_scenes.layout import compose_scene, scene_rng
from harope_bench.data.shapes_scenes.scene_images import (
    Background,
    Scene,
    SceneObject,
    render_scene,
)
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.evaluators.base import AnnotatedImage
from harope_bench.judges.micro import shapes_vision
from harope_bench.judges.micro.shapes_vision import PLUGIN as JUDGE
from harope_bench.pipeline.evaluate_prompts import PromptScoring, evaluate_prompts
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.reports.run_card import collect_checks
from harope_bench.reports.runs import read_runs
from harope_bench.suites.shapes import PLUGIN as SUITE
from harope_bench.suites.shapes import caption_cases
from harope_bench.testing import check_annotator


def truth(prompt: int, side: int = 32) -> np.ndarray:
    """A scene that fulfils a caption."""
    return render_scene(compose_scene(caption_cases()[prompt], scene_rng("truth", prompt)), side)


def sights(evaluator: str, image_of: dict[int, int] | None = None) -> list[AnnotatedImage]:
    """Every first copy as the judge sees the scene of its own caption, or of another one."""
    rule, loaded_network, records = (
        registry.load_by_name("evaluators", evaluator),
        JUDGE.open("cpu"),
        [],
    )
    for index in range(len(caption_cases())):
        case = SUITE.case(index)
        if rule.metadata_key not in case.metadata:
            continue
        image, records_value = truth((image_of or {}).get(index, index)), dict[str, Any]()
        for look in rule.annotator_roles:
            ask = look.make_query(case.metadata[rule.metadata_key], records_value)
            if ask is not None:
                records_value[look.role] = loaded_network.annotate(look.role, image, ask)
        records.append(
            AnnotatedImage(
                index=index,
                prompt_index=case.prompt_index,
                copy=0,
                prompt=case.prompt,
                metadata=case.metadata[rule.metadata_key],
                annotations=records_value,
            )
        )
    return records


def values(
    evaluator: str, shown_items: list[AnnotatedImage], rules: str
) -> dict[str, float | None]:
    score = registry.load_by_name("evaluators", evaluator).evaluate(shown_items, rules, False)
    return {m.name: m.value for m in score.measurements}


def test_indices_run_copy_by_copy() -> None:
    count = len(caption_cases())
    assert SUITE.count == 6 * count
    assert (SUITE.case(count + 3).prompt_index, SUITE.case(count + 3).copy) == (3, 1)
    assert [r.prompt for r in SUITE.requests([0, count])] == [caption_cases()[0].prompt] * 2
    with pytest.raises(OptionError, match="request fewer"):
        SUITE.case(SUITE.count)


def test_judge_keeps_its_promises() -> None:
    check_annotator("shapes-vision", [truth(0), truth(30)])


def test_judge_is_not_believed_when_it_misreads_known_scenes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (case,) = JUDGE.self_checks()
    assert case.check(JUDGE.open("cpu")) is None
    whole_detect_shapes = detect_shapes.detect_shapes
    monkeypatch.setattr(
        detect_shapes, "detect_shapes", lambda image: whole_detect_shapes(image)[1:]
    )
    spoiled_shapes_vision = shapes_vision.LoadedShapesVision(JUDGE.weights_sha256())
    assert "not read as drawn" in (case.check(spoiled_shapes_vision) or "")


def test_errors_on_known_scenes_are_of_this_parser_and_in_every_result(tmp_path: Path) -> None:
    rates = JUDGE.error_rates()
    assert {rate.case_kind for rate in rates} >= {
        "sharp scenes of 32 px misread",
        "questions on noisy scenes of 64 px answered wrongly",
    }
    assert all(rate.n_cases >= 600 for rate in rates)
    path = generate(make_plan("shapes-rope-axial", None, {"steps": 2}), [0, 1], tmp_path).folder
    result = evaluate_prompts(path, path, PromptScoring("shapes"), ["geneval"], None)[0].result
    assert result.judge_error_rates == {"shapes-vision": rates}
    texts = [check.text for check in collect_checks(read_runs(tmp_path))]
    assert any(
        text.startswith("judge shapes-vision on cases with a known answer: no error in ")
        for text in texts
    )


def test_the_parser_is_the_same_judge_in_whatever_room_its_files_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs recorded this hash before the files moved; one changed line of code is another
    parser.
    """
    recorded_text = "b76b41b4ccee6610d7a4c6fb398863a73fe5ca074406e73fe9dcfdcb22dd52b8"
    assert JUDGE.weights_sha256() == recorded_text == JUDGE.open("cpu").weights_sha256
    for name in shapes_vision.PARSER_FILES:
        (tmp_path / name).write_bytes((Path(shapes_scenes.__path__[0]) / name).read_bytes())
    monkeypatch.setattr(shapes_scenes, "__path__", [str(tmp_path)])
    shapes_vision._parser_sha256.cache_clear()
    try:
        assert shapes_vision._parser_sha256() == recorded_text
        (tmp_path / "words.py").write_text((tmp_path / "words.py").read_text() + "MORE = 1\n")
        shapes_vision._parser_sha256.cache_clear()
        assert shapes_vision._parser_sha256() != recorded_text
    finally:
        shapes_vision._parser_sha256.cache_clear()


def test_errors_of_another_parser_are_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_vision, "_parser_sha256", lambda: "0" * 64)
    assert JUDGE.error_rates() == ()
    assert JUDGE.measure_judge_errors(2)["parser_sha256"] == "0" * 64


def test_judge_does_not_guess_at_questions_it_cannot_read() -> None:
    annotation = JUDGE.open("cpu").annotate(
        "vqa", truth(0), VqaQuery(questions=("What is the mood?",))
    )
    assert annotation.answers[0].text == "" and annotation.answers[0].yes_probability is None  # type: ignore[union-attr]


def test_judge_finds_nothing_in_an_empty_scene() -> None:
    assert (
        JUDGE.open("cpu")
        .annotate("detector", np.full((32, 32, 3), 40, dtype=np.uint8), DetectionQuery())
        .detections
        == ()
    )  # type: ignore[union-attr]


@pytest.mark.parametrize("rules", ["official", "corrected"])
@pytest.mark.parametrize(
    ("evaluator", "most_value"), [("geneval", 1.0), ("dpg-bench", 100.0), ("t2i-compbench", 1.0)]
)
def test_rendered_truth_has_the_best_score(evaluator: str, most_value: float, rules: str) -> None:
    result = {
        name: value
        for name, value in values(evaluator, sights(evaluator), rules).items()
        if value is not None
    }
    assert len(result) >= 3
    assert all(
        value == pytest.approx(most_value, abs=0.03 * most_value) for value in result.values()
    ), result


def test_scenes_of_other_captions_score_low() -> None:
    """Some fulfil the other caption by chance, single things above all."""
    count, records = len(caption_cases()), []
    for shift in (11, 37, 53):
        other_indexes = {index: (index + shift) % count for index in range(count)}
        records.append(
            values("geneval", sights("geneval", other_indexes), "official")["overall"] or 0
        )
        assert (
            values("dpg-bench", sights("dpg-bench", other_indexes), "official")["dpg"] or 0
        ) < 60
    assert sum(records) / len(records) < 0.2


def test_images_for_a_judge_hold_every_content() -> None:
    images, labels = SUITE.images("held-out")
    assert images.shape == (4800, 32, 32, 3) and images.dtype == np.uint8
    known_names = set(SUITE.images("train")[1] // N_COLOUR_SETS)
    assert known_names == set(range(len(CONTENTS))) >= set(labels // N_COLOUR_SETS)
    with pytest.raises(OptionError, match="splits"):
        SUITE.images("middle")


def test_a_label_says_shapes_counts_and_colours() -> None:
    paint = (0.0, 0.0, 0.0)
    scene_label_result = scene_label(
        Scene(
            Background(),
            (
                SceneObject("ring", "red", 0.3, 0.5, 0.2, paint),
                SceneObject("circle", "white", 0.7, 0.5, 0.2, paint),
            ),
        )
    )
    assert CONTENTS[scene_label_result // N_COLOUR_SETS] == (("circle", 1), ("ring", 1))
    assert [
        colour for i, colour in enumerate(COLOURS) if scene_label_result % N_COLOUR_SETS >> i & 1
    ] == [
        "red",
        "white",
    ]
