"""Records: frozen, complete, finite, and honest about what is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from harope_bench.core import record_base, schema
from harope_bench.core.record_base import FileRecord
from harope_bench.core.schema import (
    Checkpoint,
    ErrorRate,
    ImageSource,
    JudgeRecord,
    Measurement,
    Metric,
    Plan,
    Provenance,
    Request,
    Result,
    ResultWarning,
    RuleDifference,
    SampleRecord,
    Settings,
)


def checkpoint(**changes: Any) -> Checkpoint:
    fields = {
        "name": "tiny",
        "backbone": "dit",
        "encoding": "harope",
        "options": {"qk_mode": "dual"},
        "config": {"hidden": 16},
        "weights": "/here/tiny.safetensors",
        "sha256": "ab" * 32,
        "source": "a test",
        "sampler": "flow",
        "steps": 32,
        "guidance": 1.5,
    }
    return Checkpoint(**{**fields, **changes})


def settings(**changes: Any) -> Settings:
    return Settings(
        **{"resolution": 28, "sampler": "flow", "steps": 32, "guidance": 1.5, "tile": 25, **changes}
    )


def plan(**changes: Any) -> Plan:
    return Plan(
        **{
            "checkpoint": checkpoint(),
            "suite": "digits",
            "suite_version": 1,
            "settings": settings(),
            **changes,
        }
    )


def measurement(**changes: Any) -> Measurement:
    return Measurement(
        **{
            "metric": "fid",
            "name": "fid-500",
            "value": 9.5,
            "n_asked": 500,
            "n_scored": 500,
            **changes,
        }
    )


def result() -> Result:
    return Result(
        evaluator="fidelity",
        version=1,
        profile="adm-exact",
        rules="official",
        parity="none",
        scale="micro",
        target="run",
        plan=plan(),
        plan_digest=plan().digest,
        samples_sha256="0" * 64,
        reference="real digits",
        reference_sha256="1" * 64,
        judge=JudgeRecord(
            name="digits-net",
            version=1,
            judge_class="micro",
            weights_sha256="2" * 64,
            preprocessing="none",
        ),
        measurements=(
            measurement(),
            measurement(metric="is", name="is", value=None, reason="no logits"),
        ),
        rule_differences=(RuleDifference(metric="fid", official=9.5, corrected=9.25, decimals=3),),
        warnings=(ResultWarning(code="lenient", text=schema.LENIENT_WARNING),),
        is_lenient=True,
        provenance=Provenance(
            version="0",
            commit=None,
            dirty=None,
            python="3",
            platform="x",
            device="cpu",
            packages={},
            flags={"tf32": False},
            command="test",
            started="2026-01-01T00:00:00Z",
            finished="2026-01-01T00:00:01Z",
        ),
    )


EVERY = [
    checkpoint(),
    settings(),
    plan(),
    measurement(),
    result(),
    result().judge,
    result().provenance,
    ErrorRate(case_kind="scenes misread", n_wrong=1, n_cases=600),
    Request(index=0),
    SampleRecord(index=0, file="0.png"),
    Metric(name="fid", title="FID", direction="lower", unit="none", decimals=2),
    ImageSource(suite="digits", path="../images"),
    ResultWarning(code="images", text="images: grey"),
    RuleDifference(metric="colors", official=0.5, corrected=None, decimals=4),
]


def test_every_record_of_the_module_is_tried_here() -> None:
    kinds = {
        c
        for c in vars(schema).values()
        if isinstance(c, type) and issubclass(c, BaseModel) and c.__module__ == schema.__name__
    }
    assert {type(r) for r in EVERY} == kinds - {record_base.Record, record_base.FileRecord}


@pytest.mark.parametrize("record", EVERY, ids=lambda r: type(r).__name__)
def test_a_record_is_frozen_and_refuses_fields_nobody_knows(record: record_base.Record) -> None:
    for field in type(record).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, field, getattr(record, field))
    with pytest.raises(ValidationError, match=r"surprise\n.*Extra inputs are not permitted"):
        type(record).model_validate({**record.model_dump(), "surprise": 1})


@pytest.mark.parametrize("record", EVERY, ids=lambda r: type(r).__name__)
def test_a_record_comes_back_from_its_json_with_sorted_keys(record: record_base.Record) -> None:
    text = record.to_json()
    back = (
        record.from_json(text.encode(), Path("a.json"))
        if isinstance(record, FileRecord)
        else record.model_validate_json(text)
    )
    assert back == record and back.to_json() == text
    assert text == json.dumps(json.loads(text), sort_keys=True)


@pytest.mark.parametrize("record", EVERY, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("bad_value", [math.nan, math.inf, -math.inf])
def test_no_record_takes_a_number_that_is_not_finite(
    record: record_base.Record, bad_value: float
) -> None:
    fields = record.model_dump()
    floats = [field for field, value in fields.items() if isinstance(value, float)]
    for field in floats:
        with pytest.raises(ValidationError, match=field):
            type(record).model_validate({**fields, field: bad_value})
    if isinstance(record, Measurement):
        assert "value" in floats
        for field in ("se", "low", "high"):
            with pytest.raises(ValidationError, match=field):
                measurement(**{field: bad_value})
    if isinstance(record, Checkpoint):
        with pytest.raises(ValidationError, match="options"):
            checkpoint(options={"base": bad_value})


# ---------------------------------------------------------------------------------------- counting


@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 20), st.integers(-3, 100))
def test_asked_is_scored_plus_failed_plus_abstained_or_there_is_no_measurement(
    scored: int, failed: int, abstained: int, count: int
) -> None:
    def make() -> Measurement:
        return measurement(n_asked=count, n_scored=scored, n_failed=failed, n_abstained=abstained)

    if count == scored + failed + abstained:
        assert make().n_asked == count
    else:
        with pytest.raises(
            ValidationError,
            match=r"is not scored \+ failed \+ abstained|greater than or equal to 0",
        ):
            make()


def test_counts_cannot_be_balanced_with_negative_ones() -> None:
    with pytest.raises(ValidationError, match="n_failed"):
        measurement(n_asked=10, n_scored=11, n_failed=-1)


@pytest.mark.parametrize("reason", [None, ""])
def test_a_missing_value_needs_a_reason(reason: str | None) -> None:
    with pytest.raises(ValidationError, match="a missing value needs a reason"):
        measurement(value=None, reason=reason)
    assert measurement(value=None, reason="too few images").value is None


def test_a_result_finds_its_measurement_by_metric_whatever_its_honest_name() -> None:
    measurement = result().find_measurement("fid")
    assert measurement is not None
    assert measurement.name == "fid-500"
    assert result().find_measurement("recall") is None


# ------------------------------------------------------------------------------------------- plans

OTHER_FIELDS = {
    "resolution": 32,
    "sampler": "ddpm",
    "steps": 33,
    "guidance": 1.25,
    "seed": 1,
    "tile": 50,
    "device": "cuda",
    "dtype": "bfloat16",
    "pos_scaling": "yarn",
    "guidance_channels": "3",
    "mu_policy": "clamp",
    "vae": "there",
    "vae_sha256": "ef" * 32,
    "vae_tiling": True,
    "fold": True,
    "labels": "balanced",
    "spacing": "linspace",
    "guidance_interval": "0..0.7",
    "shift": 3.0,
    "diffusion": "constant",
    "pipeline_options": {"negative_prompt": "blurry"},
    "tf32": True,
}


def test_the_plans_digest_changes_with_every_setting() -> None:
    assert set(OTHER_FIELDS) == set(Settings.model_fields), (
        "give the new setting another value in OTHER"
    )
    digests = {
        plan().digest,
        *(
            plan(settings=settings(**{field: value})).digest
            for field, value in OTHER_FIELDS.items()
        ),
    }
    assert len(digests) == 1 + len(OTHER_FIELDS)


def test_a_plan_without_pipeline_options_keeps_the_bytes_that_it_had() -> None:
    assert "pipeline_options" not in plan().to_json()
    options = {"negative_prompt": "blurry"}
    with_options = plan(settings=settings(pipeline_options=options))
    assert Plan.model_validate(with_options.model_dump(mode="json")) == with_options
    assert with_options.digest != plan(settings=settings(pipeline_options={})).digest


def test_a_setting_without_a_meaning_is_not_in_the_digest() -> None:
    assert {
        field for field, value in plan().digest_fields()["settings"].items() if value is None
    } == set()
    assert "vae" in plan(settings=settings(vae="there")).digest_fields()["settings"]


def test_an_autoencoder_counts_by_what_it_holds_once_that_is_known() -> None:
    plan_result, there_value = (
        plan(settings=settings(vae=location, vae_sha256="ef" * 32))
        for location in ("here", "there")
    )
    assert plan_result.digest == there_value.digest
    assert "vae" not in plan_result.digest_fields()["settings"]
    assert plan(settings=settings(vae="here", vae_sha256="ab" * 32)).digest != plan_result.digest


# defaults, origin and whereabouts: the settings of the plan say what was really drawn with
ELSEWHERE = {
    "weights": "/there/tiny.safetensors",
    "source": "copied",
    "scale": "micro",
    "suite": "digits",
    "sampler": "ddpm",
    "steps": 50,
    "guidance": 4.0,
    "drawing": {"vae": "x"},
    "recipe": "r",
    "recipe_sha256": "0" * 64,
    "training_seed": 1,
    "training_steps": 100,
}
OTHERWISE = {
    "name": "other",
    "backbone": "flux",
    "encoding": "ape",
    "options": {"qk_mode": "same"},
    "config": {"hidden": 32},
    "sha256": "cd" * 32,
}


def test_the_plans_digest_keeps_when_weights_move_and_changes_with_what_they_are() -> None:
    assert set(OTHERWISE) | set(ELSEWHERE) == set(Checkpoint.model_fields)
    assert plan(checkpoint=checkpoint(**ELSEWHERE)).digest == plan().digest
    changed_digests = {
        field: plan(checkpoint=checkpoint(**{field: value})).digest
        for field, value in OTHERWISE.items()
    }
    assert plan().digest not in changed_digests.values()
    assert len(set(changed_digests.values())) == len(changed_digests)


def test_the_plans_digest_changes_with_the_suite_and_its_version() -> None:
    assert len({plan().digest, plan(suite="shapes").digest, plan(suite_version=2).digest}) == 3


def test_the_plans_digest_survives_a_trip_through_json_and_equal_spellings() -> None:
    assert Plan.from_json(plan().to_json().encode(), Path("plan.json")).digest == plan().digest
    assert (
        plan(settings=settings(guidance=2)).digest == plan(settings=settings(guidance=2.0)).digest
    )


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".hidden", "a..b", "a b", "x\n", "ä", "a" * 101, "-flag", "C:\\x"]
)
def test_a_name_that_could_choose_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is not a plain name"):
        checkpoint(name=name)
    with pytest.raises(ValidationError, match="is not a plain name"):
        plan(suite=name)


@pytest.mark.parametrize("name", ["digits-harope", "DiT-B_2", "v1.0", "7", "a" * 100])
def test_plain_names_are_taken(name: str) -> None:
    assert checkpoint(name=name).name == name


@pytest.mark.parametrize(
    "sha256", ["", "ab" * 31, "ab" * 33, "AB" * 32, "ab" * 32 + "\n", "x" + "ab" * 32]
)
def test_a_hash_that_is_none_is_refused(sha256: str) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        checkpoint(sha256=sha256)


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 0},
        {"steps": 0},
        {"steps": 2.5},
        {"guidance": -0.1},
        {"seed": -1},
        {"tile": 0},
        {"device": "tpu"},
        {"dtype": "int8"},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        settings(**change)


def test_options_keep_their_types() -> None:
    options = {"flag": True, "count": 3, "base": 3.0, "mode": "dual"}
    back = Checkpoint.model_validate_json(checkpoint(options=options).to_json()).options
    assert {k: (v, type(v)) for k, v in back.items()} == {
        k: (v, type(v)) for k, v in options.items()
    }


def test_a_sample_record_has_a_file_or_a_reason() -> None:
    with pytest.raises(ValidationError, match="without a file"):
        SampleRecord(index=0)
    with pytest.raises(ValidationError, match="without a reason"):
        SampleRecord(index=0, status="failed")
