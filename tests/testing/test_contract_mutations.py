"""The contracts of suites, recipes, samplers, checkpoints and assets catch what breaks them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_text import RECIPE
from torch import Tensor

from harope_bench import testing
from harope_bench.assets import local_files
from harope_bench.core.errors import MissingAssetError
from harope_bench.core.schema import Request, Settings
from harope_bench.models.samplers.flow import Flow
from harope_bench.suites.base import PromptCase, PromptSuite, ReferenceFile
from harope_bench.suites.digits import DigitsSuite
from harope_bench.suites.shapes import ShapesSuite
from harope_bench.testing.contract_violations import ContractViolations, UncheckedContractError


def violations(check: Callable[..., int], *arguments: Any) -> str:
    """The text of what a contract rejects."""
    with pytest.raises(AssertionError) as error_info:
        check(*arguments)
    return str(error_info.value)


def with_altered_fields(base: type, *arguments: Any, **members: Any) -> Any:
    return type("Altered", (base,), members)(*arguments)


# ------------------------------------------------------------------------------------------ suites


def digits(**members: Any) -> Any:
    return with_altered_fields(DigitsSuite, "digits", **members)


def labels(label: Callable[[int], int | None]) -> Callable[..., list[Request]]:
    def requests(
        self: Any, indices: Iterable[int], settings: Settings | None = None
    ) -> list[Request]:
        return [Request(index=i, label=label(i)) for i in indices]

    return requests


def by_position(
    self: Any, indices: Iterable[int], settings: Settings | None = None
) -> list[Request]:
    return [Request(index=i, label=position % 10) for position, i in enumerate(indices)]


def with_a_prompt(
    self: Any, indices: Iterable[int], settings: Settings | None = None
) -> list[Request]:
    return [Request(index=i, prompt="a digit") for i in indices]


def shifted_reference(self: Any, judge: str) -> ReferenceFile:
    return DigitsSuite.reference(self, judge)._replace(sha256="0" * 64)


def foreign_reference(self: Any, judge: str) -> ReferenceFile:
    return DigitsSuite.reference(self, judge)._replace(judge_sha256="0" * 64)


def test_a_suite_that_keeps_its_promises_passes() -> None:
    assert testing.check_suite(digits()) == testing.check_suite("digits")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"version": 0}, "version is 0"),
        ({"count": 0}, "count is 0"),
        ({"evaluators": ["fidelity"]}, "wanted a tuple of names"),
        ({"evaluators": ("fidelty",)}, "evaluator 'fidelty' is not registered"),
        ({"judges": {}}, "names no judge for its evaluator fidelity"),
        ({"judges": {"fidelity": "shapes-vision"}}, "no registered feature extractor"),
        ({"judges": {"fidelity": "nobody"}}, "'nobody' of fidelity is no registered"),
        (
            {"judges": {"fidelity": "digits-net", "fid": "digits-net"}},
            "'fid', which is no evaluator",
        ),
        (
            {"judges": {"fidelity": "digits-net", "fidelity/adn": "digits-net"}},
            "has 'fidelity/adn', the evaluator has",
        ),
        ({"profiles": {"fidelity": "mine"}}, "no profile of an evaluator"),
        (
            {"judges": {"fidelity": "digits-net", "geneval": {"detector": "shapes-vision"}}},
            "and is no PromptSuite",
        ),
        ({"presets": {"fast": {"stpes": 3}}}, "preset fast has stpes"),
        ({"requests": labels(lambda i: random.randrange(10**6) % 10)}, "at the second call"),
        ({"requests": by_position}, "where other indices are requested"),
        ({"requests": labels(lambda i: i % 11)}, "request 10 has label 10"),
        ({"requests": labels(lambda i: None)}, "has no labels and no prompts, the suite requests"),
        ({"requests": with_a_prompt}, "has prompts, the suite requests 10 classes"),
        ({"reference": shifted_reference}, "has another sha256 than the suite states"),
        ({"reference": foreign_reference}, "was made with other weights of digits-net"),
    ],
)
def test_a_broken_suite_of_labels_is_caught(members: dict[str, Any], expected: str) -> None:
    assert expected in violations(testing.check_suite, digits(**members))


def with_copy_and_prompt_swapped(self: Any, index: int) -> PromptCase:
    case = ShapesSuite.case(self, index)
    return PromptCase(case.copy, case.prompt_index, case.prompt, case.metadata)


def without_metadata(self: Any, index: int) -> PromptCase:
    case = ShapesSuite.case(self, index)
    return PromptCase(case.prompt_index, case.copy, case.prompt, {})


def with_a_set(self: Any, index: int) -> PromptCase:
    case = ShapesSuite.case(self, index)
    metadata = {**case.metadata, "mine": {"words": {1, 2}}}
    return PromptCase(case.prompt_index, case.copy, case.prompt, metadata)


def endless(self: Any, index: int) -> PromptCase:
    return ShapesSuite.case(self, index % 402)


def other_prompt(
    self: Any, indices: Iterable[int], settings: Settings | None = None
) -> list[Request]:
    return [Request(index=i, prompt="another prompt") for i in indices]


JUDGES = ShapesSuite.judges


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"case": with_copy_and_prompt_swapped}, "is prompt 0, copy 1, wanted prompt 1, copy 0"),
        ({"case": without_metadata}, "no prompt has metadata 'geneval' of its evaluator geneval"),
        ({"case": with_a_set}, "TypeError: Object of type set is not JSON serializable"),
        ({"case": endless}, "wanted an OptionError beyond count"),
        ({"requests": other_prompt}, "has another prompt than its request"),
        ({"copies": 5}, "is no multiple of 5 copies"),
        ({"prompts_source": lambda self: ("prompts", "12ab")}, "wanted 64 hex digits"),
        ({"prompts_source": lambda self: (" ", "ab" * 32)}, "names no file of its prompts"),
        (
            {"judges": {**JUDGES, "geneval": "shapes-net"}},
            "judges of geneval are 'shapes-net', wanted annotators by role",
        ),
        (
            {"judges": {**JUDGES, "geneval": {"detector": "shapes-vision"}}},
            "names no judge of role colours for geneval",
        ),
        (
            {"judges": {**JUDGES, "dpg-bench": {"vqa": "shapes-net"}}},
            "is no registered annotator of role vqa",
        ),
        (
            {"judges": {**JUDGES, "dpg-bench": {"vqa": "shapes-vision", "eye": "shapes-vision"}}},
            "evaluator dpg-bench has no role 'eye'",
        ),
    ],
)
def test_a_broken_suite_of_prompts_is_caught(members: dict[str, Any], expected: str) -> None:
    assert expected in violations(testing.check_suite, with_altered_fields(ShapesSuite, **members))


def test_a_suite_without_its_prompts_is_checked_as_far_as_possible() -> None:
    class SuiteWithoutPrompts(ShapesSuite):
        def prompts_source(self) -> tuple[str, str]:
            raise MissingAssetError("my prompts are missing", advice="harope-bench fetch mine")

    with pytest.raises(UncheckedContractError, match=r"10 of 11 .*check_prompts_source.*fetch"):
        testing.check_suite(SuiteWithoutPrompts())
    assert issubclass(SuiteWithoutPrompts, PromptSuite)
    # what is violated comes first
    assert "version is 0" in violations(
        testing.check_suite, with_altered_fields(SuiteWithoutPrompts, version=0)
    )


# ----------------------------------------------------------------------------------------- samplers


def global_noise(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    return Flow.sample(self, network, noise, steps, generators) + 1e-3 * torch.randn(noise.shape)


def leaky(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    images = Flow.sample(self, network, noise, steps, generators)
    return images + images.mean()


def in_place(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    noise.mul_(1.01)
    return Flow.sample(self, network, noise, steps, generators)


def deaf(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    return noise * 0.5


def twice(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    return Flow.sample(self, network, noise, 2 * steps, generators)


def backwards(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    return Flow.sample(self, lambda x, time: -network(x, time), noise, steps, generators)


def rows_by_position(self: Any, network: Any, noise: Tensor, steps: int, generators: Any) -> Tensor:
    return Flow.sample(self, network, noise, steps, generators) + torch.arange(len(noise))[:, None]


def short_example(self: Any, clean: Tensor, noise: Tensor, uniform: Tensor) -> Any:
    example = Flow.training_example(self, clean, noise, uniform)
    return example._replace(time=example.time[:1])


def unscaled_time(self: Any, clean: Tensor, noise: Tensor, uniform: Tensor) -> Any:
    example = Flow.training_example(self, clean, noise, uniform)
    return example._replace(time=example.time / 1000)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"prediction_type": ""}, "prediction_type is ''"),
        ({"spacings": ("leading",), "with_spacing": lambda self, s: s}, "returns a str"),
        ({"sample": global_noise}, "moves torch's global random generator"),
        ({"sample": leaky}, "a row changes with its neighbours"),
        ({"sample": rows_by_position}, "a row changes with its position"),
        ({"sample": in_place}, "changes its noise in place"),
        ({"sample": deaf}, "calls its network 0 times in 6 steps"),
        ({"sample": deaf}, "another network gives equal images"),
        ({"sample": twice}, "calls its network 12 times"),
        ({"sample": backwards}, "samples an image that is"),
        ({"training_example": short_example}, "has time of (1,), wanted (4,)"),
        ({"training_example": unscaled_time}, "samples an image that is"),
    ],
)
def test_a_broken_sampler_is_caught(members: dict[str, Any], expected: str) -> None:
    assert expected in violations(testing.check_sampler, with_altered_fields(Flow, **members))


# ------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "momentum = 0.9\n", "momentum"),
        ('suite = "digits"', 'suite = "digit"', "suite 'digit' is not registered"),
        ('backbone = "dit"', 'backbone = "dti"', "backbone 'dti' is not registered"),
        ('sampler = "flow"', 'sampler = "flw"', "sampler 'flw' is not registered"),
        ("classes = 10", "classes = 11", "suite digits asks for 10 classes"),
        ("heads = 2", "heads = 3", "check_network_builds"),
        ("warmup = ", "warmup = 9", "warms up for"),
    ],
)
def test_a_broken_recipe_is_caught(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "mine.toml"
    text = RECIPE.format(name="mine", steps=25, seed=3, snapshot=7)
    path.write_text(text)
    assert testing.check_recipe(str(path)) >= 5
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert expected in violations(testing.check_recipe, str(path))


# -------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('encoding = "rope-axial"', 'encoding = "rope-axal"', "encoding 'rope-axal' is not"),
        ('sampler = "flow"', 'sampler = "flw"', "sampler 'flw' is not registered"),
        ('suite = "digits"', 'suite = "shapes"', "suite shapes asks for prompts"),
        ('sha256 = "', 'sha256 = "00', "String should match pattern"),
    ],
)
def test_a_broken_checkpoint_is_caught(
    make_checkpoint: Any, bench_home: Path, old: str, new: str, expected: str
) -> None:
    make_checkpoint("mine")
    assert testing.check_checkpoint("mine") == 6
    path = bench_home / "checkpoints" / "mine.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Exception, match=r"mine") as error_info:
        testing.check_checkpoint("mine")
    assert expected in str(error_info.value)


def test_altered_and_missing_weights_of_a_checkpoint_are_told_apart(
    make_checkpoint: Any, bench_home: Path
) -> None:
    make_checkpoint("mine")
    weights = bench_home / "checkpoints" / "mine.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "weights have sha256" in violations(testing.check_checkpoint, "mine")
    weights.unlink()
    with pytest.raises(UncheckedContractError, match="harope-bench register mine --weights FILE"):
        testing.check_checkpoint("mine")


# ------------------------------------------------------------------------------------------- assets

FILE = {"name": "thing.bin", "urls": ["https://example.org/v1/thing.bin"], "sha256": "ab" * 32}


@pytest.mark.parametrize(
    ("changes", "file_changes", "expected"),
    [
        ({}, {"urls": ["http://example.org/thing.bin"]}, "wanted https"),
        ({}, {"sha256": None}, "has no hash; state one"),
        ({}, {"sha256": None, "md5": "ab" * 16, "urls": ["https://h.co/a/main/f"]}, "of a branch"),
        ({"licence": " "}, {}, "licence is empty"),
        ({"files": [FILE, FILE]}, {}, "file names repeat"),
    ],
)
def test_a_broken_asset_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    file_changes: dict[str, Any],
    expected: str,
) -> None:
    facts = {"title": "Thing", "licence": "CC0", "source": "a test", "files": [FILE]}
    assets = [
        local_files.Asset.model_validate(facts),
        local_files.Asset.model_validate({**facts, "files": [{**FILE, **file_changes}], **changes}),
    ]
    monkeypatch.setattr(local_files, "load_asset", lambda name: assets[0])
    assert testing.check_asset("thing") == 4
    monkeypatch.setattr(local_files, "load_asset", lambda name: assets[1])
    assert expected in violations(testing.check_asset, "thing")


# ------------------------------------------------------------------------------------------ reports


def test_a_violation_precedes_what_could_not_run() -> None:
    def is_missing() -> None:
        raise MissingAssetError("weights are missing", advice="fetch them")

    def holds() -> None:
        pass

    with pytest.raises(UncheckedContractError) as error_info:
        ContractViolations("thing x").run_checks([holds, is_missing])
    assert error_info.value.advice == "fetch them"
    assert "1 of 2 checks hold, is_missing could not run: weights are missing" in str(
        error_info.value
    )
    broken = ContractViolations("thing x")
    with pytest.raises(AssertionError, match="lies"):
        broken.run_checks([is_missing, lambda: broken.expect(False, "lies")])
    assert ContractViolations("thing x").run_checks([holds, holds]) == 2
