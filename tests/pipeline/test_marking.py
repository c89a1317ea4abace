"""From images of prompts to results: what is asked, what is kept, what is counted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_images import BLACK, COLOURS, RED, THIRTEEN, WHITE, write_toy_images
from toy_prompts import ToyEye, ToyRule, ToySuite, toy

from harope_bench.core.errors import (
    JudgeError,
    OptionError,
    PendingAnswersError,
    PlanMismatchError,
    SampleError,
)
from harope_bench.core.formats import versioned_json_text
from harope_bench.data.result_store import StoredResult
from harope_bench.data.sample_set import open_samples
from harope_bench.evaluators.prompt_scores import SCORE_INTERVAL
from harope_bench.judges.base import NamedCheck
from harope_bench.pipeline.annotate import annotate_samples
from harope_bench.pipeline.annotator_choice import AnnotatorOptions, parse_judges
from harope_bench.pipeline.evaluate_prompts import PromptScoring, evaluate_prompts
from harope_bench.statistics.pairing import compare_results
from harope_bench.statistics.significance import wilson_interval
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)

__all__ = ["toy"]


def in_order(**fields: Any) -> PromptScoring:
    """Images whose names count one image of each prompt, then the second ones."""
    return PromptScoring("toy", folder_options=PromptFolderOptions(order="copy-major"), **fields)


def evaluate_folder(folder: Path, out: Path, **fields: object) -> dict[str, float | None]:
    (scored,) = evaluate_prompts(folder, out, in_order(**fields))
    return {m.name: m.value for m in scored.result.measurements}


def test_each_task_is_a_mean_over_images_and_overall_the_mean_of_tasks(
    tmp_path: Path, toy: ToyEye
) -> None:
    folder = evaluate_folder(write_toy_images(tmp_path / "i", COLOURS), tmp_path / "o")
    assert folder == {
        "bright": 3 / 4,
        "red": 2 / 4,
        "overall": 5 / 8,
    }  # plain red is dark in the mean: no light, so not right


def test_intervals_stay_in_the_scores_range_and_never_claim_no_error(
    tmp_path: Path, toy: ToyEye
) -> None:
    """Of `bright` both prompts are right, of `red` one is: neither the normal interval's 0 width
    nor ends beyond 1.
    """
    shown_records = [WHITE, WHITE, WHITE, RED, WHITE, WHITE, WHITE, RED]
    (scored,) = evaluate_prompts(
        write_toy_images(tmp_path / "i", shown_records), tmp_path / "o", in_order()
    )
    entries = {m.name: m for m in scored.result.measurements}
    assert entries["bright"].interval == SCORE_INTERVAL and entries["bright"].low == pytest.approx(
        wilson_interval(2, 2).low
    )
    assert entries["bright"].high == 1.0 and (entries["bright"].se or 0) > 0.1
    for name, value in (("red", 0.5), ("overall", 0.75)):  # two prompts a task tell next to nothing
        low, high = entries[name].low, entries[name].high
        assert (
            low is not None
            and high is not None
            and 0 <= low < 0.1
            and 0.9 < high <= 1
            and (entries[name].se or 0) > 0.2
        ), value


def test_prompts_that_are_all_half_right_have_no_known_error(tmp_path: Path, toy: ToyEye) -> None:
    shown_records = [WHITE, WHITE, WHITE, WHITE, BLACK, BLACK, WHITE, RED]
    (scored,) = evaluate_prompts(
        write_toy_images(tmp_path / "i", shown_records), tmp_path / "o", in_order()
    )
    entries = {m.name: m for m in scored.result.measurements}
    assert entries["bright"].value == 0.5 and (
        entries["bright"].se,
        entries["bright"].low,
        entries["bright"].interval,
    ) == (None, None, None)
    assert any(
        line.startswith("bright: its error is not known") for line in scored.result.warning_texts
    )
    assert entries["red"].se is not None


def test_the_other_rules_are_told_where_they_give_another_number(
    tmp_path: Path, toy: ToyEye
) -> None:
    (scored,) = evaluate_prompts(
        write_toy_images(tmp_path / "i", COLOURS), tmp_path / "o", in_order()
    )
    assert "rules: red is 0.5000 official, 0.7500 corrected" in scored.result.warning_texts
    assert not any(line.startswith("rules: bright") for line in scored.result.warning_texts)
    assert evaluate_folder(tmp_path / "i", tmp_path / "o", rules="corrected")["red"] == 3 / 4
    assert {p.name for p in (tmp_path / "o" / "results").glob("*.json")} == {
        "toy-rule.json",
        "toy-rule_corrected.json",
    }


def test_nothing_is_asked_twice_and_a_kill_loses_one_answer(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    toy.fail_after = 5
    with pytest.raises(KeyboardInterrupt):
        evaluate_folder(folder, tmp_path / "o")
    assert len(toy.asked) == 5
    toy.fail_after = None
    killed_folder = evaluate_folder(folder, tmp_path / "o")
    assert len(toy.asked) == 8 + 4  # every image is looked at once, the four red ones asked once
    straight_folder = evaluate_folder(folder, tmp_path / "p")
    assert killed_folder == straight_folder
    rows = [(tmp_path / x / "results" / "toy-rule.sample_scores.jsonl").read_bytes() for x in "op"]
    assert rows[0] == rows[1]
    count = len(toy.asked)
    assert evaluate_folder(folder, tmp_path / "o") == straight_folder and len(toy.asked) == count


def test_rescoring_asks_nobody_and_wants_every_answer(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    with pytest.raises(SampleError, match="lacks annotations of toy-eye for 8 images"):
        evaluate_folder(
            folder, tmp_path / "o", annotator_options=AnnotatorOptions(is_rescored=True)
        )
    first_folder = evaluate_folder(folder, tmp_path / "o")
    count = len(toy.asked)
    assert (
        evaluate_folder(
            folder, tmp_path / "o", annotator_options=AnnotatorOptions(is_rescored=True)
        )
        == first_folder
        and len(toy.asked) == count
    )


def test_a_judge_that_crashes_on_an_image_makes_the_score_none_unless_allowed(
    tmp_path: Path, toy: ToyEye
) -> None:
    folder = write_toy_images(tmp_path / "i", [*COLOURS[:7], THIRTEEN])
    (scored,) = evaluate_prompts(folder, tmp_path / "o", in_order())
    red = scored.result.find_measurement("red")
    assert (
        red is not None
        and red.value is None
        and (red.n_asked, red.n_scored, red.n_failed) == (4, 3, 1)
    )
    assert red.reason is not None and "1 of 4 images have no annotations" in red.reason
    overall = scored.result.find_measurement("overall")
    assert overall is not None and overall.value is None
    bright_measurement = scored.result.find_measurement("bright")
    assert bright_measurement is not None and bright_measurement.value == 3 / 4
    assert evaluate_folder(folder, tmp_path / "o", is_lenient=True)["red"] == 1 / 3
    rows = [
        json.loads(line)
        for line in (
            (tmp_path / "o" / "results" / "toy-rule.sample_scores.jsonl").read_text().splitlines()
        )
    ]
    assert rows[7]["verdict"] == "failed" and "thirteen" in rows[7]["reason"]


def test_an_answer_no_rule_can_read_is_counted(tmp_path: Path, toy: ToyEye) -> None:
    toy.wordless = True
    (scored,) = evaluate_prompts(
        write_toy_images(tmp_path / "i", COLOURS), tmp_path / "o", in_order()
    )
    red = scored.result.find_measurement("red")
    assert (
        red is not None
        and red.value is None
        and red.reason is not None
        and "4 annotations cannot be read" in red.reason
    )
    assert evaluate_folder(tmp_path / "i", tmp_path / "o", is_lenient=True)["red"] == 0


def test_a_judge_that_always_fails_stops_early(tmp_path: Path, toy: ToyEye) -> None:
    with pytest.raises(JudgeError, match="failed on each of its first 5 images"):
        evaluate_folder(write_toy_images(tmp_path / "i", [THIRTEEN] * 8), tmp_path / "o")


def test_missing_tasks_are_no_overall(tmp_path: Path, toy: ToyEye) -> None:
    (scored,) = evaluate_prompts(
        write_toy_images(tmp_path / "i", COLOURS[:2]), tmp_path / "o", in_order()
    )
    overall, red = scored.result.find_measurement("overall"), scored.result.find_measurement("red")
    assert (
        overall is not None
        and overall.value is None
        and overall.reason is not None
        and "no prompt of red" in overall.reason
    )
    assert red is not None and red.reason == "no prompt of this kind was requested"


def test_answers_of_another_judge_are_never_mixed_in(
    tmp_path: Path, toy: ToyEye, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    evaluate_folder(folder, tmp_path / "o")
    monkeypatch.setattr(ToyEye, "preprocessing", "median of pixels")
    (tmp_path / "o" / "annotations" / "toy-eye" / "annotations.jsonl").unlink()
    with pytest.raises(
        PlanMismatchError, match="preprocessing is mean of pixels there and median of pixels now"
    ):
        evaluate_folder(folder, tmp_path / "o")


def test_two_folders_of_the_same_prompts_are_paired_by_prompt(tmp_path: Path, toy: ToyEye) -> None:
    records = []
    for name, shown_value in (("a", COLOURS), ("b", [WHITE] * 8)):
        (scored,) = evaluate_prompts(
            write_toy_images(tmp_path / name, shown_value), tmp_path / f"o{name}", in_order()
        )
        records.append(StoredResult(scored.result, scored.path))
    difference = compare_results("overall", "higher", *records)
    assert (
        difference.is_paired
        and difference.n_prompts == 4
        and difference.reason.startswith("paired by prompt: a run has no plan")
    )


def test_more_images_than_prompts_are_refused(tmp_path: Path, toy: ToyEye) -> None:
    with pytest.raises(
        SampleError, match=r"has images numbered up to 8, but toy has 8 images \(numbered from 0\)"
    ):
        evaluate_folder(write_toy_images(tmp_path / "i", [*COLOURS, WHITE]), tmp_path / "o")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy-eye", "names no role"),
        ("depth=toy-eye", "names no role"),
        ("vqa=digits-net", "digits-net does not have role vqa"),
        ("vqa=", "names no role"),
    ],
)
def test_a_judge_that_does_not_fit_its_role_is_refused(
    text: str, message: str, toy: ToyEye
) -> None:
    with pytest.raises(OptionError, match=message):
        parse_judges(text, {"detector": "toy-eye", "vqa": "toy-eye"})


def test_a_model_is_named_after_a_colon_and_has_answers_of_its_own(toy: ToyEye) -> None:
    chosen_judge = parse_judges(
        "vqa=toy-eye:some/folder", {"detector": "toy-eye", "vqa": "toy-eye"}
    )["vqa"]
    assert chosen_judge.model == "some/folder" and chosen_judge.folder_name != "toy-eye"
    with pytest.raises(OptionError, match="takes no model"):
        chosen_judge.judge  # noqa: B018


def test_a_judge_that_fails_its_self_check_is_not_asked(
    tmp_path: Path, toy: ToyEye, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (
        NamedCheck("red first", lambda loaded_network: None),
        NamedCheck("boxes", lambda loaded_network: "a box is short by one"),
    )
    monkeypatch.setattr(ToyEye, "self_checks", lambda self: cases, raising=False)
    with pytest.raises(
        JudgeError, match="toy-eye fails its self-check boxes: a box is short by one"
    ):
        evaluate_folder(write_toy_images(tmp_path / "i", COLOURS), tmp_path / "o")
    assert not toy.asked


def test_one_bad_image_fails_alone_even_if_it_is_the_first(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    (folder / "000000.png").write_bytes(b"junk")
    (scored,) = evaluate_prompts(folder, tmp_path / "o", in_order())
    bright_measurement = scored.result.find_measurement("bright")
    assert bright_measurement is not None and (
        bright_measurement.value,
        bright_measurement.n_scored,
        bright_measurement.n_failed,
    ) == (None, 3, 1)
    assert evaluate_folder(folder, tmp_path / "o", is_lenient=True)["bright"] == 2 / 3


def test_images_may_have_sizes_of_their_own(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    Image.fromarray(np.full((16, 12, 3), 255, dtype=np.uint8)).save(folder / "000000.png")
    assert evaluate_folder(folder, tmp_path / "o")["bright"] == 3 / 4


def test_a_lost_image_shifts_no_other(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    (folder / "000002.png").unlink()
    (scored,) = evaluate_prompts(folder, tmp_path / "o", in_order())
    red, bright_measurement = (
        scored.result.find_measurement("red"),
        scored.result.find_measurement("bright"),
    )
    assert red is not None and (red.value, red.n_asked, red.n_failed) == (None, 4, 1)
    assert bright_measurement is not None and bright_measurement.value == 3 / 4
    rows = [
        json.loads(line)
        for line in (
            (tmp_path / "o" / "results" / "toy-rule.sample_scores.jsonl").read_text().splitlines()
        )
    ]
    assert rows[2]["reason"] == "no image of number 2" and [row["index"] for row in rows] == list(
        range(8)
    )


def test_a_count_keeps_the_missing_in_the_count(tmp_path: Path, toy: ToyEye) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    (folder / "000002.png").unlink()
    cut = open_prompt_images(folder, "toy", ToySuite(), 7, PromptFolderOptions(order="copy-major"))  # type: ignore[arg-type]
    assert (cut.n_asked, list(cut.failed), cut.indices) == (7, [2], [0, 1, 3, 4, 5, 6])


def test_a_folder_whose_order_nobody_stated_is_rejected_before_anything_is_written(
    tmp_path: Path, toy: ToyEye
) -> None:
    for name in ("000003.png", "scene3.png"):
        folder = write_toy_images(tmp_path / name, COLOURS)
        (folder / "000003.png").rename(folder / name)
        with pytest.raises(
            OptionError,
            match=(
                r"does not say which image is of which prompt of toy.* --order .* --pattern .*"
                r" --file-list"
            ),
        ):
            evaluate_prompts(folder, tmp_path / "o", PromptScoring("toy"))
    assert not (tmp_path / "o").exists() and not toy.asked


def test_another_judge_is_noticed_when_every_answer_is_there(
    tmp_path: Path, toy: ToyEye, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    evaluate_folder(folder, tmp_path / "o")
    monkeypatch.setattr(ToyEye, "weights_sha256", lambda self: "8" * 64)
    with pytest.raises(PlanMismatchError, match="weights_sha256 is 7777.* there and 8888.* now"):
        evaluate_folder(folder, tmp_path / "o")
    assert (
        evaluate_folder(
            folder, tmp_path / "o", annotator_options=AnnotatorOptions(is_rescored=True)
        )["bright"]
        == 3 / 4
    )


def test_what_a_judge_says_of_its_weights_stands_in_the_result(
    tmp_path: Path, toy: ToyEye, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ToyEye, "warnings", lambda self: ("judge: not the published eye",), raising=False
    )
    (scored,) = evaluate_prompts(
        write_toy_images(tmp_path / "i", COLOURS), tmp_path / "o", in_order()
    )
    assert "judge: not the published eye" in scored.result.warning_texts


RUNNER = """
import json, sys
sys.path.insert(0, {common!r})
import common
from PIL import Image

args = common.parse_arguments()

def annotate(role, path, query):
    red = Image.open(path).convert("RGB").resize((1, 1)).getpixel((0, 0))
    if role == "vqa":
        text = "yes" if red[0] > 128 else "no"
        return {{"answers": [{{"text": text}} for _ in query["questions"]]}}
    light = {{"label": "light", "score": 0.9, "box": [0, 0, 2, 2]}}
    return {{"size": [8, 8], "detections": [light] * (sum(red) > 300)}}

common.annotate_queries(args, "toy-eye", 1, "official", "one pixel", "6" * 64, annotate)
"""


@pytest.fixture
def elsewhere(tmp_path: Path, toy: ToyEye, monkeypatch: pytest.MonkeyPatch) -> AnnotatorOptions:
    """The toy's eye in another Python: it sees the picture that it is given as a file, and no
    more.
    """
    import harope_bench.judges.runners as runners

    path = tmp_path / "runner.py"
    path.write_text(RUNNER.format(common=str(Path(next(iter(runners.__path__))))))
    monkeypatch.setattr(ToyEye, "runner", path, raising=False)
    return AnnotatorOptions(python=Path(sys.executable))


def test_a_judge_elsewhere_sees_the_part_of_a_picture_that_is_the_image(
    tmp_path: Path, elsewhere: AnnotatorOptions
) -> None:
    grid = Image.new("RGB", (16, 8), (0, 0, 0))
    grid.paste((255, 255, 255), (8, 0, 16, 8))
    grid.save(tmp_path / "grid.png")
    boxes = {i: (8 * (i % 2), 0, 8 * (i % 2) + 8, 8) for i in range(2)}
    files = dict.fromkeys(range(2), tmp_path / "grid.png")
    samples = replace(
        open_samples(write_toy_images(tmp_path / "i", COLOURS[:2])), files=files, boxes=boxes
    )
    cases = {i: ToySuite().case(i) for i in range(2)}
    judges = parse_judges(None, ToySuite.judges["toy-rule"])
    sights, _ = annotate_samples(
        samples, cases, "toy", ToyRule.annotator_roles, judges, tmp_path / "o", elsewhere
    )
    assert [len(s.annotations["detector"].detections) for s in sights] == [0, 1]  # type: ignore[union-attr]
    asks = [
        json.loads(line) for line in (tmp_path / "o/toy-eye/queries.jsonl").read_text().splitlines()
    ]
    assert [ask["image"] for ask in asks] == [
        "images/000000.png",
        "images/000001.png",
    ]  # by the way from the folder


def test_a_judge_elsewhere_is_not_asked_about_an_altered_image(
    tmp_path: Path, elsewhere: AnnotatorOptions
) -> None:
    samples = open_samples(write_toy_images(tmp_path / "i", COLOURS))
    samples = replace(
        samples, recorded_hashes=dict(zip(samples.indices, samples.hashes, strict=True))
    )
    write_toy_images(tmp_path / "i", [BLACK])
    cases = {i: ToySuite().case(i) for i in range(8)}
    judges = parse_judges(None, ToySuite.judges["toy-rule"])
    sights, _ = annotate_samples(
        samples, cases, "toy", ToyRule.annotator_roles, judges, tmp_path / "o", elsewhere
    )
    assert (
        "is not the one that was generated" in str(sights[0].failure)
        and [s.failure for s in sights[1:]] == [None] * 7
    )


def test_without_a_python_the_questions_are_kept_and_the_answers_of_another_judge_refused(
    tmp_path: Path, elsewhere: AnnotatorOptions
) -> None:
    folder = write_toy_images(tmp_path / "i", COLOURS)
    with pytest.raises(PendingAnswersError, match="8 queries are in"):
        evaluate_folder(folder, tmp_path / "o")
    record = {
        "name": "other",
        "version": 1,
        "judge_class": "official",
        "preprocessing": "x",
        "weights_sha256": "5" * 64,
    }
    (tmp_path / "o/annotations/toy-eye/judge.json").write_text(
        versioned_json_text("annotations", record)
    )
    lines = (tmp_path / "o/annotations/toy-eye/queries.jsonl").read_text().splitlines()
    fields = [
        {
            "key": json.loads(line)["key"],
            "index": 0,
            "annotation": {"size": [8, 8], "detections": []},
        }
        for line in lines
    ]
    (tmp_path / "o/annotations/toy-eye/annotations.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in fields)
    )
    with pytest.raises(PlanMismatchError, match="is of judge other, not of toy-eye"):
        evaluate_folder(folder, tmp_path / "o")
