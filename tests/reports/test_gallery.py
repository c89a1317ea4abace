"""The gallery of the report: equal requests side by side, disagreements first, and nothing from
outside that becomes markup or a path.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import fake_runs as fake
import numpy as np
import pytest
from click.testing import CliRunner
from document import HOSTILE, Document
from geneval_files import prompt_metadata, write_finished_run, write_prompt_metadata
from PIL import Image

from harope_bench.cli import main
from harope_bench.core.errors import StorageError
from harope_bench.core.json_lines import append_line
from harope_bench.core.schema import SampleRecord
from harope_bench.core.storage import sha256_file, write_text
from harope_bench.data.result_store import sample_set_digest
from harope_bench.data.sample_set import open_samples
from harope_bench.reports.gallery import MAX_GROUP_IMAGES, MAX_IMAGES, build_gallery
from harope_bench.reports.gallery_differences import (
    PIXELS_TEXT,
    evenly_spaced_indices,
    find_nearest,
    load_reference_images,
)
from harope_bench.reports.gallery_groups import (
    MAX_ENTRIES,
    MAX_RUNS,
    MAX_UNSORTED_ENTRIES,
)
from harope_bench.reports.gallery_images import Thumbnail, make_thumbnail
from harope_bench.reports.gallery_records import RESERVED_BYTES, Gallery, GalleryOptions
from harope_bench.reports.report_page import write_report
from harope_bench.reports.runs import read_runs

SIDE = 8


def write_run(
    folder: Path, n_samples: int, suite: str = "shapes", prompt: str = "{index} things", **plan: Any
) -> Path:
    """A run whose image of an index has one grey level, four times the index; without a prompt, its
    label is the index modulo ten.
    """
    (folder / "images").mkdir(parents=True)
    checkpoint = fake.checkpoint(folder.name, "harope", suite=suite)
    write_text(
        folder / "plan.json", fake.plan(checkpoint, suite, **{"resolution": SIDE, **plan}).to_json()
    )
    for index in range(n_samples):
        paint(folder, index, 4 * index % 256)
        fields: dict[str, Any] = {"prompt": prompt.format(index=index)} if prompt else {}
        fields = fields or {"label": index % 10}
        record = SampleRecord(index=index, file=image_name(index), **fields)
        append_line(folder / "samples.jsonl", record.to_json())
    return folder


def image_name(index: int) -> str:
    return f"images/{index:06d}.png"


def paint(folder: Path, index: int, level: int) -> None:
    """Give the image of an index one grey level."""
    Image.new("RGB", (SIDE, SIDE), (level, level, level)).save(folder / image_name(index))


def write_scores(
    folder: Path, values: Sequence[float | None], evaluator: str = "geneval", **fields: Any
) -> None:
    """A result with the score of each image; two prompts share a task."""
    rows: list[dict[str, Any]] = []
    for index, score in enumerate(values):
        task = "counting" if index % 4 < 2 else "colors"
        row = {
            "index": index,
            "prompt_index": index % 4,
            "copy": index // 4,
            "prompt": f"{index} things",
            "task": task,
            "reason": "as expected" if score == 1 else "expected 3 benches, found 2",
            "scores": {} if score is None else {task: score, "images_correct": score},
            **fields,
        }
        rows.append(row)
    result = fake.result(
        None,
        [fake.measurement("images_correct", 0.5)],
        evaluator=evaluator,
        suite="shapes",
        sample_scores_file=f"{evaluator}.sample_scores.jsonl",
    )
    path = fake.write_result(folder, result, name=evaluator)
    path.with_name(f"{evaluator}.sample_scores.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )


def gallery_of(runs: Path, **options: Any) -> Gallery:
    return build_gallery(read_runs(runs), GalleryOptions(**options))


def middle_colour(thumbnail: Thumbnail | None) -> tuple[int, ...]:
    """The colour in the middle of an embedded image."""
    assert thumbnail is not None
    with Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.partition(",")[2]))) as file:
        pixels = np.asarray(file.convert("RGB"))
    return tuple(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].tolist())


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """Two runs of eight images: 1 is wrong in a alone, 6 in b alone, 3 in both, 7 has no score."""
    for name, scores in (
        ("a", [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, None]),
        ("b", [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, None]),
    ):
        write_scores(write_run(tmp_path / "runs" / name, 8), scores)
    return tmp_path / "runs"


# ------------------------------------------------------------------------------ runs with scores


def test_disagreements_come_first_then_what_both_have_wrong(two_runs: Path) -> None:
    (group,) = gallery_of(two_runs).groups
    assert [entry.index for entry in group.entries] == [1, 6, 3, 0, 2, 4, 5, 7]
    assert [entry.marked_letters for entry in group.entries[:4]] == ["A", "B", "AB", ""]


def test_an_entry_says_verdict_reason_prompt_and_seed(two_runs: Path) -> None:
    (group,) = gallery_of(two_runs).groups
    entry = group.entries[0]
    assert (entry.prompt, entry.details) == ("1 things", "counting, image 0 of prompt 1, seed 0")
    assert [image.verdict for image in entry.images] == ["wrong", "right"]
    assert entry.images[0].reason == "expected 3 benches, found 2"
    assert [image.verdict for image in group.entries[-1].images] == ["no score"] * 2
    assert {middle_colour(image.thumbnail) for image in entry.images} == {(4, 4, 4)}


def test_filters_count_the_entries_that_they_show(two_runs: Path) -> None:
    (group,) = gallery_of(two_runs).groups
    assert group.filters == (
        ("", "all (8)"),
        ("A", "only A wrong (1)"),
        ("B", "only B wrong (1)"),
        ("AB", "both wrong (1)"),
    )
    assert group.tasks == ("colors", "counting")


def test_prompts_are_won_and_lost_by_the_mean_of_their_images(two_runs: Path) -> None:
    """Prompt 1 has one wrong image in a, prompt 2 in b, prompt 3 counts its scored image alone."""
    (group,) = gallery_of(two_runs).groups
    assert [(o.task, o.n_prompts, o.outcomes) for o in group.outcomes] == [
        ("colors", 2, ((0, 1, 1),)),
        ("counting", 2, ((1, 1, 0),)),
        ("all tasks", 4, ((1, 2, 1),)),
    ]


def test_three_runs_are_side_by_side_and_each_is_compared_with_the_first(two_runs: Path) -> None:
    write_scores(write_run(two_runs / "c", 8), [0.0] * 8)
    (group,) = gallery_of(two_runs).groups
    assert [run.letter for run in group.runs] == ["A", "B", "C"]
    assert group.outcomes[-1].outcomes == ((1, 2, 1), (0, 1, 3)), (
        "of prompt 3 all runs have one scored image alone, which all have wrong"
    )
    assert ("ABC", "all runs wrong (1)") in group.filters
    assert ("any", "any run wrong (8)") in group.filters


def test_detections_are_drawn_and_written_as_text(two_runs: Path) -> None:
    evidence = {
        "threshold": 0.3,
        "clauses": [
            {
                "expected": {"class": "bench", "count": 3},
                "is_met": False,
                "detections": [{"score": 0.9, "box": [1, 2, 5, 6], "colour": "red"}],
            }
        ],
    }
    write_scores(two_runs / "a", [0.0] * 8, evidence=evidence)
    (group,) = gallery_of(two_runs).groups
    boxes = group.entries[0].images[0].boxes
    assert [(b.x, b.y, b.width, b.height, b.text) for b in boxes] == [
        (1, 2, 4, 4, "red bench 0.90 at (1, 2, 5, 6)")
    ]
    page = write_report(two_runs, two_runs / "r.html").read_text()
    assert 'viewBox="0 0 8 8"' in page and "red bench 0.90 at (1, 2, 5, 6)" in page


def test_stored_detections_below_the_threshold_are_marked(two_runs: Path) -> None:
    folder = two_runs / "a/annotations/eye"
    folder.mkdir(parents=True)
    result = json.loads((two_runs / "a/results/geneval.json").read_text())
    judge_name = result["judge"]["name"]
    (folder / "judge.json").write_text(json.dumps({"name": judge_name}))
    detections = [
        {"label": "bench", "score": score, "box": [0, 0, 4, 4]} for score in (0.8, 0.2, 0.01)
    ]
    line = {"key": "k", "index": 1, "annotation": {"size": [8, 8], "detections": detections}}
    (folder / "annotations.jsonl").write_text(json.dumps(line) + "\n")
    (group,) = gallery_of(two_runs).groups
    boxes = group.entries[0].images[0].boxes
    assert [(box.is_counted, box.number) for box in boxes] == [(True, 1), (False, 2)]
    assert boxes[1].text.endswith("below the threshold")


def test_one_result_of_each_evaluator_is_shown(two_runs: Path) -> None:
    """A result of other rules, which one run has, gives no second group."""
    for suffix in ("json", "sample_scores.jsonl"):
        source = two_runs / f"a/results/geneval.{suffix}"
        (two_runs / f"a/results/geneval_corrected.{suffix}").write_bytes(source.read_bytes())
    assert [group.title for group in gallery_of(two_runs).groups] == ["shapes, 8 px, geneval"]


def test_a_damaged_row_of_scores_is_an_error_that_names_the_line(two_runs: Path) -> None:
    path = two_runs / "a/results/geneval.sample_scores.jsonl"
    path.write_text(path.read_text() + '{"index": -1}\n')
    with pytest.raises(StorageError, match="line 9 is not a row of sample scores"):
        gallery_of(two_runs)


def test_a_percentage_is_partly_right(tmp_path: Path) -> None:
    for name, score in (("a", 75.0), ("b", 100.0)):
        run = write_run(tmp_path / name, 4)
        write_scores(run, [0.0] * 4, "dpg-bench", scores={"dpg": score}, task="dpg")
    (group,) = gallery_of(tmp_path).groups
    assert [(s.verdict, s.score_text) for s in group.entries[0].images] == [
        ("partly right", "75"),
        ("right", ""),
    ]


# --------------------------------------------------------------------------- runs without scores


def test_images_that_differ_most_come_first(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, 12, "digits", "")
    for index, level in ((7, 228), (4, 76)):  # 200 and 60 more
        paint(tmp_path / "b", index, level)
    (group,) = gallery_of(tmp_path).groups
    assert [entry.index for entry in group.entries][:3] == [7, 4, 0]
    assert group.entries[0].difference_text == "difference 200"
    assert group.entries[0].details == "class 7, seed 0"
    assert group.order_text == f"those that differ most first, by {PIXELS_TEXT}"


def test_features_decide_where_all_runs_have_stored_them(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        folder = write_run(tmp_path / name, 6, "digits", "") / "features/eye"
        folder.mkdir(parents=True)
        (folder / "judge.json").write_text("{}")
        rows = np.zeros((6, 3), dtype=np.float32)
        rows[5] = 2.0 * number
        np.save(folder / "features.npy", rows)
    (group,) = gallery_of(tmp_path).groups
    assert group.entries[0].index == 5
    assert group.entries[0].difference_text == "difference 3.46"
    assert "stored features of eye" in group.order_text

    (tmp_path / "b/features/eye/judge.json").write_text('{"version": 2}')
    (group,) = gallery_of(tmp_path).groups
    assert group.order_text.endswith(PIXELS_TEXT), "features of two judges are not compared"


def test_a_run_alone_shows_evenly_spaced_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 79, "digits", "")
    (group,) = gallery_of(tmp_path).groups
    assert [entry.index for entry in group.entries] == list(range(0, 79, 2))
    assert len(group.entries) == MAX_UNSORTED_ENTRIES


def test_an_odd_digit_has_its_nearest_reference_image(tmp_path: Path) -> None:
    """The image of label 3 is a training image of a 5."""
    references = load_reference_images("digits")
    assert references is not None
    five = references.images[references.labels.tolist().index(5)]
    run = write_run(tmp_path / "a", 10, "digits", "", resolution=28)
    for index in range(10):
        own_class_image = references.images[references.labels.tolist().index(index)]
        Image.fromarray(five if index == 3 else own_class_image).save(run / image_name(index))
    (group,) = gallery_of(tmp_path).groups
    assert {entry.index for entry in group.entries if entry.marked_letters} == {3}
    nearest = group.entries[3].images[0].nearest
    assert nearest is not None and nearest.text == "nearest reference: class 5, RMS difference 0"
    assert ("any", "nearest to another class (1)") in group.filters


def test_the_nearest_reference_is_the_one_with_the_least_difference() -> None:
    references = load_reference_images("digits")
    assert references is not None
    rng = np.random.default_rng(0)
    sample = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    nearest = find_nearest({0: np.repeat(sample[:, :, None], 3, axis=2)}, references)[0]
    differences = references.images.astype(float) - sample
    assert nearest.distance == pytest.approx(np.sqrt((differences**2).mean(axis=(1, 2))).min())


def test_other_suites_sizes_and_runs_without_common_samples_are_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3)
    write_run(tmp_path / "b", 3, resolution=16)
    write_run(tmp_path / "c", 3, "digits", "")
    append_line(
        write_run(tmp_path / "d", 0, "digits", "") / "samples.jsonl",
        SampleRecord(index=9, status="failed", reason="out of memory", label=9).to_json(),
    )
    groups = gallery_of(tmp_path).groups
    assert [[run.id for run in group.runs] for group in groups] == [["a"], ["b"], ["c"], ["d"]]
    assert groups[-1].entries[0].images[0].missing_reason == "out of memory"
    anchors = [group.anchor for group in groups]
    assert anchors[2:] == ["gallery-digits-8-px", "gallery-digits-8-px-2"]


def test_prompts_that_differ_are_both_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2, prompt="a ring")
    write_run(tmp_path / "b", 2, prompt="a cross")
    (group,) = gallery_of(tmp_path).groups
    assert {entry.prompt for entry in group.entries} == {"a ring / a cross"}


def test_runs_beyond_the_widest_row_are_counted(tmp_path: Path) -> None:
    for number in range(MAX_RUNS + 2):
        write_run(tmp_path / f"run{number:02d}", 25)
    (group,) = gallery_of(tmp_path).groups
    assert len(group.entries) == MAX_GROUP_IMAGES // MAX_RUNS < 25
    assert len(group.runs) == MAX_RUNS and "2 more runs" in group.note


def test_many_groups_have_fewer_entries_each(tmp_path: Path) -> None:
    for side in (8, 16, 24, 32):
        for name in ("a", "b"):
            write_run(tmp_path / f"{name}{side}", 60, resolution=side)
    groups = gallery_of(tmp_path).groups
    assert {len(group.entries) for group in groups} == {MAX_IMAGES // len(groups) // 2}


# -------------------------------------------------------------------------- images outside the run


@pytest.fixture
def imported_runs(tmp_path: Path, bench_home: Path) -> Path:
    """Two imported finished GenEval runs, with images in the official layout beside the file."""
    write_prompt_metadata(bench_home)
    for name, seed in (("a", 0), ("b", 3)):
        source = tmp_path / "source" / name
        source.mkdir(parents=True)
        for row in write_finished_run(source / "results.jsonl", seed):
            path = source / row["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (512, 384), (200, 90, seed)).save(path)
        arguments = ["eval", str(source / "results.jsonl"), "--suite", "geneval"]
        command = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "runs" / name)])
        assert command.exit_code == 0, command.output
    return tmp_path


def test_imported_runs_have_a_gallery_with_images_and_boxes(imported_runs: Path) -> None:
    (group,) = gallery_of(imported_runs / "runs").groups
    assert len(group.entries) == 4 * len(prompt_metadata()) and len(group.outcomes) == 7
    gallery_images = [image for entry in group.entries for image in entry.images]
    assert all(image.thumbnail and image.image_size == (512, 384) for image in gallery_images)
    assert max(gallery_images[0].thumbnail[1:3]) < 512  # type: ignore[index]
    assert any(image.boxes for image in gallery_images)


def test_names_in_an_official_file_choose_no_path(imported_runs: Path) -> None:
    """A file that was changed after the import, and whose rows name other files, shows nothing."""
    path = imported_runs / "source/a/results.jsonl"
    path.write_text(path.read_text().replace("out/00000/samples", "../../../../etc"))
    (group,) = gallery_of(imported_runs / "runs").groups
    assert group.runs[0].note == "the results file is not the one that was imported"
    assert all(entry.images[0].thumbnail is None for entry in group.entries)
    assert all(entry.images[1].thumbnail is not None for entry in group.entries)


def test_a_result_that_points_elsewhere_shows_no_image_from_there(
    tmp_path: Path, bench_home: Path
) -> None:
    """The images have another hash than those that were evaluated."""
    secret = tmp_path / "secret"
    secret.mkdir()
    Image.new("RGB", (8, 8)).save(secret / "000.png")
    result = fake.result(
        None,
        [fake.measurement("fid", 3.0)],
        suite="digits",
        source={"suite": "digits", "path": "../../secret"},
    )
    fake.write_result(tmp_path / "runs/theirs", result)
    assert gallery_of(tmp_path / "runs").groups == ()


@pytest.mark.parametrize("is_npz", [False, True])
def test_evaluated_images_outside_the_run_are_shown(tmp_path: Path, is_npz: bool) -> None:
    levels = np.arange(0, 120, 40, dtype=np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (3, 8, 8, 3))
    source = tmp_path / ("theirs.npz" if is_npz else "theirs")
    if is_npz:
        np.savez(source, pixels)
    else:
        source.mkdir()
        for index in range(3):
            Image.fromarray(np.ascontiguousarray(pixels[index])).save(source / f"{index}.png")
    result = fake.result(
        None,
        [fake.measurement("fid", 3.0)],
        suite="digits",
        source={"suite": "digits", "path": f"../../{source.name}"},
        samples_sha256=sample_set_digest(open_samples(source)),
    )
    fake.write_result(tmp_path / "runs/theirs", result)
    (group,) = gallery_of(tmp_path / "runs").groups
    colours = [middle_colour(entry.images[0].thumbnail) for entry in group.entries]
    assert colours == [(0, 0, 0), (40, 40, 40), (80, 80, 80)]


def test_a_record_leads_out_of_no_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/a", 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    append_line(run / "samples.jsonl", json.dumps({"index": 1, "file": "../../secret.png"}))
    (group,) = gallery_of(tmp_path / "runs").groups
    assert [entry.images[0].missing_reason for entry in group.entries] == [
        "",
        "no file inside the run",
    ]


def test_an_image_that_was_replaced_is_not_shown_under_the_old_verdict(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/a", 1)
    paint(run, 1, 90)
    record = SampleRecord(index=1, file=image_name(1), sha256=sha256_file(run / image_name(1)))
    append_line(run / "samples.jsonl", record.to_json())
    (group,) = gallery_of(tmp_path / "runs").groups
    assert [entry.images[0].missing_reason for entry in group.entries] == ["", ""]
    paint(run, 1, 91)
    (group,) = gallery_of(tmp_path / "runs").groups
    reasons = [entry.images[0].missing_reason for entry in group.entries]
    assert reasons == ["", "not the image that was generated"]


# ------------------------------------------------------------------------------ size and options


def test_the_page_keeps_its_size_and_the_worst_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, score in (("a", 0.0), ("b", 1.0)):
        run = write_run(tmp_path / name, 80)
        write_scores(run, [1.0] * 40 + [score] * 40)
        for index in range(80):  # noise does not shrink
            noise = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(noise).save(run / image_name(index))
    (group,) = gallery_of(tmp_path).groups
    assert sum(s.n_bytes for e in group.entries for s in e.images) < 4_000_000
    assert [entry.index for entry in group.entries][:2] == [40, 41]
    assert 0 < len(group.entries) <= MAX_ENTRIES
    assert group.n_requests == 80
    (small_group,) = gallery_of(tmp_path, max_bytes=RESERVED_BYTES + 500_000).groups
    assert 0 < len(small_group.entries) < len(group.entries)
    assert write_report(tmp_path, tmp_path / "r.html").stat().st_size < 5_000_000


def test_without_images_the_verdicts_stay(two_runs: Path) -> None:
    page_path = two_runs / "r.html"
    arguments = ["report", str(two_runs), "-o", str(page_path)]
    command = CliRunner().invoke(main, [*arguments, "--no-images"])
    assert command.exit_code == 0, command.output
    page = page_path.read_text()
    assert "<img" not in page and "expected 3 benches, found 2" in page
    assert page_path.stat().st_size < 300_000
    command_with_both = CliRunner().invoke(
        main, [*arguments, "--no-images", "--assets", str(two_runs / "i")]
    )
    assert command_with_both.exit_code == 2 and not (two_runs / "i").exists()


@pytest.mark.parametrize("option", [["--no-images"], ["--assets", "images"]])
def test_options_of_images_do_not_apply_to_markdown(two_runs: Path, option: list[str]) -> None:
    markdown_path = two_runs / "r.md"
    command = CliRunner().invoke(main, ["report", str(two_runs), "-o", str(markdown_path), *option])
    assert command.exit_code == 2 and "do not apply to --format md" in command.output
    assert not markdown_path.exists()


def test_full_size_images_are_beside_the_page_and_linked(two_runs: Path) -> None:
    assets = two_runs.parent / "a folder/images"
    page_path = two_runs / "r.html"
    arguments = ["report", str(two_runs), "-o", str(page_path), "--assets", str(assets)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    document = Document(page_path.read_text())
    names = {path.name for path in assets.glob("*.png")}
    links = {link for link in document.links if link.endswith(".png")}
    assert links == {f"../a%20folder/images/{name}" for name in names} and len(names) == 16
    with Image.open(assets / "gallery-shapes-8-px-geneval-6-b.png") as image:
        assert image.getpixel((0, 0)) == (24, 24, 24)

    # a second report replaces its own files
    assert CliRunner().invoke(main, arguments).exit_code == 0


def test_a_folder_with_other_files_is_refused_before_anything_is_written(two_runs: Path) -> None:
    folder = two_runs.parent / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    arguments = ["report", str(two_runs), "-o", str(two_runs / "r.html"), "--assets", str(folder)]
    command = CliRunner().invoke(main, arguments)
    assert command.exit_code == 1 and "holds files that no report wrote" in command.output
    assert not (two_runs / "r.html").exists() and len(list(folder.iterdir())) == 1


def test_equal_runs_give_equal_bytes(two_runs: Path) -> None:
    pages = [write_report(two_runs, two_runs / name).read_bytes() for name in ("r.html", "s.html")]
    assert pages[0] == pages[1]


# --------------------------------------------------------------------------------------- the page


def test_hostile_texts_come_out_as_text(tmp_path: Path) -> None:
    prompt = HOSTILE.replace("{", "").replace("}", "")
    for name in ("a", "b"):
        run = write_run(tmp_path / "runs" / name, 2, prompt=prompt)
        clause = {
            "expected": {"class": HOSTILE},
            "detections": [{"score": 0.5, "box": [0, 0, 4, 4], "colour": HOSTILE}],
        }
        question = {"question": HOSTILE, "answer": HOSTILE}
        evidence = {"clauses": [clause], "zero_questions": [question]}
        fields = {"task": HOSTILE, "reason": HOSTILE, "prompt": HOSTILE, "evidence": evidence}
        write_scores(run, [0.0, 0.0], **fields, scores={"images_correct": 0.0})
    document = Document(write_report(tmp_path / "runs", tmp_path / "r.html").read_text())
    assert document.tags["script"] == document.tags["style"] == 1
    assert "onerror" not in {name for _, name, _ in document.attributes}
    assert HOSTILE in document.text


def test_entries_have_ids_that_do_not_depend_on_what_else_is_shown(two_runs: Path) -> None:
    document = Document(write_report(two_runs, two_runs / "r.html").read_text())
    assert len(set(document.ids)) == len(document.ids)
    anchors = {f"gallery-shapes-8-px-geneval-{index}" for index in range(8)}
    assert anchors <= set(document.ids)
    assert {f"#{anchor}" for anchor in anchors} <= set(document.links)
    targets = {link[1:] for link in document.links if link.startswith("#")}
    assert targets <= set(document.ids)


def test_without_scripts_everything_is_a_list(two_runs: Path) -> None:
    """What only a script can do is hidden until a script shows it; no entry is hidden."""
    document = Document(write_report(two_runs, two_runs / "r.html").read_text())
    hidden = {(tag, name) for tag, name, _ in document.attributes if name == "hidden"}
    assert ("div", "hidden") in hidden and ("article", "hidden") not in hidden
    assert document.tags["article"] == 8
    alternatives = [
        value for tag, name, value in document.attributes if (tag, name) == ("img", "alt")
    ]
    assert "A, sample 1: wrong" in alternatives and all(alternatives)


def test_a_thumbnail_is_webp_and_keeps_small_images_exactly() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    thumbnail = make_thumbnail(Image.fromarray(noise))
    data = base64.b64decode(thumbnail.uri.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), noise)
    assert (thumbnail.width, thumbnail.height) == (168, 168)
    large_thumbnail = make_thumbnail(Image.new("RGB", (2048, 1024)))
    assert (large_thumbnail.width, large_thumbnail.height) == (176, 88) and len(
        large_thumbnail.uri
    ) < 2000


@pytest.mark.parametrize("count", [2, 7, 20])
def test_even_steps_reach_both_ends_and_repeat_nothing(count: int) -> None:
    for length in range(1, 60):
        steps = evenly_spaced_indices(range(length), count)
        assert (steps[0], steps[-1], len(set(steps))) == (0, length - 1, min(count, length))
        assert len({b - a for a, b in pairwise(steps)}) <= 2
