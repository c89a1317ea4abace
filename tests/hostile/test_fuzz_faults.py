"""What fuzzing found, each as a plain example beside others of its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hostile import documents as d
from hostile.parsers.weights import LAYERS, Library
from hostile.strategies import LONG_DIGITS, ODD_ARRAYS, npz_bytes

from harope_bench.analysis import contamination
from harope_bench.analysis.cost import measure_cost
from harope_bench.assets import download
from harope_bench.commands.option_types import ResolutionList
from harope_bench.core import index_ranges, json_lines, registry, regular_file, state_dicts, storage
from harope_bench.core.annotations import DetectionQuery
from harope_bench.core.errors import (
    BenchError,
    OptionError,
    SampleError,
    StorageError,
    WeightsError,
)
from harope_bench.core.formats import add_format_version
from harope_bench.data import adm_npz, array_checks, feature_rows
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.sample_set import path_inside
from harope_bench.judges.runners import common
from harope_bench.models import load_checkpoint, lora_manifest
from harope_bench.models.backbones import latents, lora_files
from harope_bench.pipeline import (
    annotation_folder,
    external_annotator,
    rescore_prompts,
    verify_results,
)
from harope_bench.pipeline.predictions import find_shard
from harope_bench.pipeline.verify_features import check_moments
from harope_bench.pipeline.verify_findings import Findings
from harope_bench.reports import failures
from harope_bench.statistics import pairing  # fmt: skip
from harope_bench.statistics.gate import policy, render
from harope_bench.suites import coco_fid, dpg_bench, label_policies
from harope_bench.suites.imagenet_val import ImageNetValSuite
from harope_bench.suites.official_layouts import file_list, geneval_results

STEERING = "\x1b[31mred\nsecond line\u202e"


def write_file(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --------------------------------------------------------------------------------- a message quotes
# a file's own words

QUOTING: dict[str, Callable[[Path], object]] = {
    "field of a policy": lambda f: policy.read_policy(write_file(f / "gate.toml", d.toml({"default": {STEERING: 1}}))),
    "field of a record": lambda f: RunFolder(write_file(f / "samples.jsonl", d.as_lines({"index": 0, STEERING: 1})).parent).read_records(),
    "member of an npz": lambda f: adm_npz.images_shape(write_file(f / "x.npz", npz_bytes({"\x1b[31m": d.np.zeros(2)}))),
    "column of captions": lambda f: list(contamination.read_captions(write_file(f / "x.csv", b"\x1b[31mred,n\na,1\n"))),
    "column of a file list": lambda f: list(file_list.read_rows(write_file(f / "x.csv", b"\x1b[31mred,copy\na,1\n"))),
    "value of a base": lambda f: lora_manifest.check_base(lora_manifest.AdapterBase(id=STEERING, config={"a": 1}), base_of(f, {"a": STEERING})),
    "key of weights": lambda f: state_dicts.load_weights(write_file(f / "x.safetensors", d.weights().replace(b'"F32"', b'"\x7fF3"'))),
    "name of a thing": lambda f: registry.find_entry("suites", STEERING),
}  # fmt: skip


def base_of(folder: Path, config: dict[str, Any]) -> Path:
    write_file(folder / "transformer/config.json", d.json_bytes(config))
    return folder


@pytest.mark.parametrize("name", sorted(QUOTING))
def test_a_message_that_quotes_a_file_is_one_line_that_steers_nothing(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError) as excinfo:
        QUOTING[name](tmp_path)
    assert str(excinfo.value).isprintable() and len(str(excinfo.value)) > 20


# ------------------------------------------------------------------------------------------ digits
# that int() does not take

OTHER_DIGITS = (LONG_DIGITS, "²", "١٢", "1_0", "+1", "-1", " ", "")


@pytest.mark.parametrize("text", OTHER_DIGITS)
def test_a_whole_number_is_a_few_ascii_digits(text: str, tmp_path: Path) -> None:
    assert (
        index_ranges.parse_whole_number(text) is None
        and index_ranges.parse_whole_number("0042") == 42
    )
    with (
        pytest.raises(OptionError, match=r"label 2 is|has no labels|^$")
        if text.strip()
        else pytest.raises(OptionError)
    ):
        label_policies.resolve_label_policy(
            str(
                write_file(
                    tmp_path / "labels.txt", f"1\n{text}\n".encode() if text.strip() else b" \n"
                )
            ),
            10,
        )
    with pytest.raises(click.UsageError, match="is not a resolution"):
        ResolutionList().convert(f"28,{text}", None, None)
    with pytest.raises(OptionError, match="is '|wanted|has none"):
        ImageNetValSuite().real_images(
            tmp_path, write_file(tmp_path / "val.txt", f"a.png {text}\n".encode())
        )


@pytest.mark.parametrize("text", [LONG_DIGITS, "²"])
def test_a_server_and_a_file_name_with_such_digits_are_read_without_a_number(
    text: str, tmp_path: Path
) -> None:
    class Answer:
        headers = {"Content-Length": text, "Content-Range": f"bytes 0-1/{text}", "ETag": '"x"'}

    assert download._served_version(Answer(), 0) == download.ServedVersion('"x"', None)
    assert geneval_results._copies_of_names([f"out/{text}.png", "out/1.png"], 4) == [1, 0]


def test_checkpoints_with_digits_of_other_scripts_in_their_names_are_listed(
    bench_home: Path,
) -> None:
    for name in ("²", "١", "a²b3"):
        write_file(
            bench_home / "checkpoints" / f"{name}.toml",
            d.toml(add_format_version("checkpoint", {})),
        )
    assert {"²", "١", "a²b3"} <= set(registry.list_names("checkpoints"))
    with pytest.raises(BenchError, match="register the checkpoint again"):
        load_checkpoint.load_checkpoint_record("²")


def test_a_reason_cannot_count_more_things_than_memory_holds() -> None:
    assert geneval_results._expand_counts("2 red, 1 blue") == ["red", "red", "blue"]
    assert (
        len(geneval_results._expand_counts(f"999999999999 red, {LONG_DIGITS} blue"))
        <= geneval_results.MAX_COLOURED_OBJECTS
    )


# ------------------------------------------------------------------------------------------- damage
# below a named format


def test_a_header_that_no_tokenizer_reads_is_no_header(tmp_path: Path) -> None:
    for damage in (b"(4, \x93NUMPY", b"((((((((", b"\x00\x00\x00\x00"):
        path = write_file(tmp_path / "x.npy", d.npy().replace(b"(4, 3), ", damage.ljust(8)))
        assert (
            feature_rows.read_rows_header(path) is None
            and feature_rows.rows_sha256(path, 0, 1) is None
            and not feature_rows.is_complete(path)
        )


def test_moments_beside_rows_that_are_none_are_altered(tmp_path: Path) -> None:
    write_file(tmp_path / "x.moments.npz", d.kept_moments())
    objects = d.io.BytesIO()
    d.np.save(objects, d.np.full(3, None), allow_pickle=True)
    for data in (
        d.npy()[:60],
        d.npy()[:-8],
        b"",
        objects.getvalue(),
        d.npy().replace(b"'<f8'", b"'<i8'"),
        d.npy().replace(b"\x01\x00v", b"\x09\x00v"),
    ):
        findings = Findings()
        write_file(tmp_path / "x.npy", data)
        check_moments(tmp_path, tmp_path, 4, findings)
        assert findings.status == "altered"


def test_damaged_captions_are_named(tmp_path: Path) -> None:
    import io
    import zipfile

    whole_coco = d.coco()
    damaged_contents = [
        whole_coco[:70] + bytes([whole_coco[70] ^ 255]) + whole_coco[71:],
        whole_coco[:50],
        b"PK\x03\x04",
    ]
    for value in (1e400, "x", None, [], LONG_DIGITS):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
            rows_of = [{"image_id": value, "id": 1, "caption": "a cat"}]
            archive.writestr(
                "annotations/captions_val2014.json", json.dumps({"annotations": rows_of})
            )
        damaged_contents.append(buffer.getvalue())
    for number, data in enumerate(damaged_contents):
        with pytest.raises(StorageError, match="is not COCO's annotations"):
            coco_fid.read_captions(write_file(tmp_path / f"{number}.zip", data))


def test_a_number_too_large_for_a_float_is_named(tmp_path: Path) -> None:
    for value in (10**400, "x", [1], None):
        write_file(tmp_path / "config.json", d.json_bytes({**d.VAE, "scaling_factor": value}))
        write_file(tmp_path / "diffusion_pytorch_model.safetensors", b"")
        with pytest.raises(OptionError, match="is no autoencoder's configuration"):
            latents.check_vae(str(tmp_path), 4, "x")
    for number, cell in enumerate(("1e999", "x", "")):
        table = d.dpg_table().replace(b",1,0,", f",{cell},0,".encode(), 1)
        with pytest.raises(StorageError, match="is none of DPG-Bench's"):
            dpg_bench.read_prompts(write_file(tmp_path / f"{number}.csv", table))
    with pytest.raises(StorageError, match="is none of DPG-Bench's"):
        dpg_bench.read_prompts(
            write_file(
                tmp_path / "short.csv",
                d.dpg_table().splitlines(keepends=True)[0] + b"a-cat,a cat\n",
            )
        )


# --------------------------------------------------------------------------------------- names that
# no file can have


@pytest.mark.parametrize("name", ["x" * 3000 + ".png", "a\0b.png"])
def test_a_listed_name_that_no_file_can_have_is_a_missing_file(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / "a.png", d.png())
    row = file_list.ListRow(1, name, {"index": 0})
    if "\0" not in name:
        assert not file_list.is_file(
            file_list._resolve_listed_file(tmp_path, row, tmp_path / "x.csv")
        )
        pictures = ImageNetValSuite().real_images(
            tmp_path, write_file(tmp_path / "val.txt", f"{name} 1\na.png 2\n".encode())
        )
        with pytest.raises(SampleError, match="cannot be read"):
            pictures.read_bytes(pictures.names.index(name))
    (tmp_path / "samples.jsonl").write_bytes(
        d.as_lines({"index": 0, "file": name, "sha256": d.HASH})
    )
    assert list(RunFolder(tmp_path).missing_indices([0])) == [0]


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 3000])
def test_a_name_that_no_file_can_have_is_a_refusal_of_the_disk(name: str, tmp_path: Path) -> None:
    for opens in (
        regular_file.open_regular,
        regular_file.open_regular_for_update,
        regular_file.check_regular,
    ):
        with pytest.raises(OSError):
            opens(tmp_path / name)
    with pytest.raises(StorageError, match="cannot use"):
        storage.sha256_file(tmp_path / name)


def test_a_record_with_a_nul_points_out_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="points outside the folder"):
        path_inside(tmp_path, "images/\0.png", 0)


# ------------------------------------------------------------------------------------------ lines
# that lack their key

ODD_LINES = (
    {},
    {"index": "1", "key": 1},
    {"index": [1], "key": [1]},
    {"index": True, "key": None},
    {"index": {}, "key": {}},
)


@pytest.mark.parametrize("line", ODD_LINES)
def test_lines_without_the_field_that_names_them_are_named_errors(
    line: dict[str, Any], tmp_path: Path
) -> None:
    path = write_file(tmp_path / "samples.jsonl", d.as_lines({"index": 0, "key": "a"}, line))
    readers: tuple[Callable[[], object], ...] = (
        lambda: json_lines.read_lines_by_field(path, "index", int),
        lambda: json_lines.read_lines_by_field(path, "key", str),
        lambda: pairing._read_recorded_requests(path, (0, len(str(line)))),
        lambda: render._largest_changes(d.np.arange(2.0), tmp_path),
        lambda: rescore_prompts._sample_score_differences(path, path),
    )
    for read in readers:
        with pytest.raises(StorageError, match="object 2 has no (index|key) that is"):
            read()
    with pytest.raises(SystemExit):
        list(common.read_lines(path))


@pytest.mark.parametrize("line", ODD_LINES)
def test_answers_without_a_question_are_no_answers(line: dict[str, Any], tmp_path: Path) -> None:
    write_file(tmp_path / "annotations.jsonl", d.as_lines({**line, "annotation": {}}))
    question = annotation_folder.ImageQuery(0, 0, d.HASH, DetectionQuery(), "a")
    assert annotation_folder.read_annotations(tmp_path, "detector", [question]) == {}
    write_file(tmp_path / "queries.jsonl", d.as_lines({"key": "a"}))
    write_file(tmp_path / "judge.json", b"{}")
    with pytest.raises(BenchError, match="left 1 of 1 queries without an annotation"):
        external_annotator.count_annotations(tmp_path, Path("runner.py"))


def test_verdicts_that_eval_does_not_write_are_named(tmp_path: Path) -> None:
    for row in (
        {"scores": {"a": "1"}},
        {"scores": [1]},
        {"scores": " "},
        {"scores": {"a": None}},
        {"index": float("nan")},
    ):
        write_file(
            tmp_path / "results/x.sample_scores.jsonl",
            d.as_lines({"index": 0, "scores": {"a": 0.5}}, row),
        )
        with pytest.raises(StorageError, match="line 2 is not a row of sample scores"):
            failures.read_failures(tmp_path)
    write_file(
        tmp_path / "results/x.sample_scores.jsonl",
        d.as_lines({"index": 0, "scores": {"a": 0.5}}, {"index": 1, "verdict": "failed"}),
    )
    assert len(failures.read_failures(tmp_path)) == 2


# ------------------------------------------------------------------------------------ arrays that
# are not what they are called


def test_arrays_of_another_kind_are_refused_before_they_are_compared(tmp_path: Path) -> None:
    good_fields = {"fid": d.np.arange(4.0), "indices": d.np.arange(4)}
    array_checks.check_sample_arrays(
        tmp_path, {**good_fields, "mine": d.np.array("anything")}, ["fid"]
    )
    for name in good_fields:
        for odd_value in (
            d.np.array(3.0),
            d.np.full(4, "x"),
            d.np.zeros((4, 1)),
            d.np.zeros(4, dtype="datetime64[s]"),
        ):
            with pytest.raises(
                StorageError, match=f"{name} is .* wanted (whole )?numbers of 1 axes"
            ):
                array_checks.check_sample_arrays(
                    tmp_path, {**good_fields, name: odd_value}, ["fid"]
                )
    with pytest.raises(StorageError, match="different lengths"):
        array_checks.check_sample_arrays(
            tmp_path, {**good_fields, "prompts": d.np.arange(3)}, ["fid"]
        )


def test_forwards_of_another_kind_are_refused_before_they_are_scored(tmp_path: Path) -> None:
    def read(arrays: dict[str, Any]) -> object:
        write_file(tmp_path / "forwards/forwards.npz", d.npz_of("forwards", arrays))
        return verify_results._cost_differences(
            tmp_path, d.fake_runs.result(None, [], evaluator="cost"), None
        )

    with d.np.load(d.io.BytesIO(d.forwards())) as result:
        good_fields = dict(result)
    read(good_fields)
    read(
        {**good_fields, "batch": d.np.zeros(3)}
    )  # of a batch of nothing the multiply-adds of one image are not known
    for name in ("seconds", "hidden", "reason_run"):
        odd_values = (
            good_fields[name][:2],
            good_fields[name][..., None],
            d.np.full(3, 1e300),
            d.np.full(3, -1.0),
            d.np.array(3.0),
        )
        for odd_value in odd_values:
            with pytest.raises(StorageError):
                read({**good_fields, name: odd_value})
        with pytest.raises(StorageError, match=f"lacks {name}"):
            read({key: array for key, array in good_fields.items() if key != name})
    assert measure_cost.read_forwards is verify_results.read_forwards, (
        "the same check as the verb's own reader"
    )


def test_predictions_of_another_kind_are_made_again(tmp_path: Path) -> None:
    good_fields = {
        "key": d.np.array("k"),
        "failed": d.np.array([1]),
        "reasons": d.np.array(["x"]),
        "indices": d.np.arange(2),
    }
    good_fields |= {"ranked_classes": d.np.zeros((2, 5)), "logits": d.np.zeros((2, 5))}
    assert (
        find_shard(write_file(tmp_path / "x.npz", d.npz_of("predictions", good_fields)), "k", ())
        is not None
    )
    for name in ("failed", "reasons"):
        assert (
            find_shard(
                write_file(
                    tmp_path / "x.npz",
                    d.npz_of("predictions", {**good_fields, name: d.np.array(3.0)}),
                ),
                "k",
                (),
            )
            is None
        )


# -------------------------------------------------------------------------------------------------
# pipelines and LoRA


@pytest.mark.parametrize(
    "items",
    [[], ["diffusers"], [["diffusers"], "X"], [1, 2], [{}, {}], ["os", "system"], ["diffusers", 1]],
)
def test_a_part_of_a_pipeline_is_a_library_and_a_class(items: list[Any], tmp_path: Path) -> None:
    write_file(tmp_path / "model_index.json", d.json_bytes({**d.PIPELINE_INDEX, "vae": items}))
    with pytest.raises(WeightsError, match="wants vae from"):
        lora_manifest.pipeline_class_name(tmp_path)
    write_file(tmp_path / "model_index.json", d.json_bytes({"vae": items, "_class_name": "X"}))
    if items != ["diffusers", "X"]:
        lora_manifest.check_base_loads(
            tmp_path
        )  # what is no model of these libraries is not loaded


def test_a_part_of_a_pipeline_cannot_choose_a_path(tmp_path: Path) -> None:
    write_file(tmp_path / "secret/config.json", b"{}")
    write_file(
        tmp_path / "base/model_index.json",
        d.json_bytes({"text_encoder/../../secret": ["transformers", "CLIPTextModel"]}),
    )
    with pytest.raises(WeightsError, match="wanted a plain name"):
        lora_manifest.check_base_loads(tmp_path / "base")


@pytest.mark.parametrize("patterns", ["x", [1], {"(a+)+$": 2}, {"[": 2}, {"a*a*a*a*": 2}, {"x" * 300: 2}, {"to_q": "2"}, {"to_q": None},
                                      {"to_q": -1}, {"to_q": float("inf")}, {"to_q": []}])  # fmt: skip
def test_an_alpha_pattern_that_is_none_is_named(patterns: Any, tmp_path: Path) -> None:
    write_file(tmp_path / "adapter_model.safetensors", d.lora("base_model.model."))
    write_file(
        tmp_path / "adapter_config.json",
        d.json_bytes({"r": 4, "lora_alpha": 8, "alpha_pattern": patterns}),
    )
    with pytest.raises(WeightsError, match="alpha"):
        lora_files.read_lora(Library, tmp_path / "adapter_model.safetensors", lambda: LAYERS)


def test_an_alpha_pattern_of_names_is_read(tmp_path: Path) -> None:
    write_file(tmp_path / "adapter_model.safetensors", d.lora("base_model.model."))
    for pattern in ("to_q", r"transformer_blocks\.\d+\.attn\.to_q", ".*to_q"):
        write_file(
            tmp_path / "adapter_config.json",
            d.json_bytes({"r": 4, "lora_alpha": 8, "alpha_pattern": {pattern: 2}}),
        )
        assert (
            lora_files.read_lora(
                Library, tmp_path / "adapter_model.safetensors", lambda: LAYERS
            ).lora.alpha
            == 2
        )


def test_the_odd_arrays_are_odd() -> None:
    """Every one of them differs from what it is made of in kind, shape, order or value."""
    whole_value = d.np.arange(4.0)[:, None] + d.np.arange(2.0)
    for odd_value in ODD_ARRAYS:
        array = odd_value(whole_value)
        flag = (
            array.dtype == whole_value.dtype
            and array.shape == whole_value.shape
            and d.np.array_equal(array, whole_value)
        )
        assert not flag or array.flags.f_contiguous
