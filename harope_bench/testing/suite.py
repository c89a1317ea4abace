"""The contract of a suite."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations
from harope_bench.testing.feature_extractor import SHA256_PATTERN

if TYPE_CHECKING:
    from harope_bench.core.plugin_contracts import Conditioning
    from harope_bench.core.schema import Request
    from harope_bench.evaluators.base import AnnotationEvaluator, Evaluator
    from harope_bench.suites.base import PromptSuite, Suite

# Indices that are requested: the first ones, and the last ones of the suite.
N_FIRST_REQUESTS = 40
N_LAST_REQUESTS = 5
MAX_PROMPTS = 2_000  # prompts whose metadata is read
ENDING_PATTERN = re.compile(r"/[^/]+$")


def check_suite(name: str | Suite) -> int:
    """Check a suite against the contract of suites/base.py.

    Requests must be deterministic, and of the conditioning and count that are declared. Evaluators
    and judges that it names must exist and be of the right kind. References must have their hash.

    Args:
        name: a registered suite, or the plug-in itself.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The suite violates the contract; every violation is listed.
        UncheckedContractError: Prompts, a reference or a judge's weights are missing; what needs
            none was checked.
    """
    from harope_bench.suites.base import load_suite

    suite = load_suite(name) if isinstance(name, str) else name
    violations = ContractViolations(
        f"suite {name if isinstance(name, str) else type(name).__qualname__}"
    )
    contract = _SuiteContract(suite, violations)
    return violations.run_checks(
        [
            contract.check_required_members,
            contract.check_evaluator_names,
            contract.check_judge_kinds,
            contract.check_judge_roles,
            contract.check_presets,
            contract.check_deterministic_requests,
            contract.check_requested_conditioning,
            contract.check_prompt_numbers,
            contract.check_prompts_suit_evaluators,
            contract.check_prompts_source,
            contract.check_reference_hashes,
        ]
    )


class _SuiteContract:
    """The contract of one suite, one method for each requirement."""

    def __init__(self, suite: Suite, violations: ContractViolations):
        self.suite = suite
        self.expect = violations.expect
        self.add_violation = violations.add_violation

    @property
    def is_classification(self) -> bool:
        """Return whether the suite has real images to classify and requests none."""
        from harope_bench.suites.base import ClassificationSuite

        return isinstance(self.suite, ClassificationSuite)

    @property
    def prompt_suite(self) -> PromptSuite | None:
        """Return the suite if it has prompts that are scored one by one."""
        from harope_bench.suites.base import PromptSuite

        return self.suite if isinstance(self.suite, PromptSuite) else None

    @cached_property
    def sample_indices(self) -> list[int]:
        """Return the first and the last indices of the suite."""
        count = self.suite.count
        first_indices = range(min(N_FIRST_REQUESTS, count))
        last_indices = range(max(len(first_indices), count - N_LAST_REQUESTS), count)
        return [*first_indices, *last_indices]

    def annotation_evaluators(self) -> Iterator[tuple[str, AnnotationEvaluator]]:
        """Yield the registered evaluators of annotations that the suite names judges for."""
        from harope_bench.evaluators.base import AnnotationEvaluator

        for name in self.suite.judges:
            evaluator = _find_evaluator(name)
            if isinstance(evaluator, AnnotationEvaluator):
                yield name, evaluator

    # Each method below checks one requirement.

    def check_required_members(self) -> None:
        """Check kind, version, title, resolution, count, evaluators and judges."""
        from harope_bench.suites.base import (
            CaptionSuite,
            ClassificationSuite,
            LabelSuite,
            PromptSuite,
        )

        suite = self.suite
        expect = self.expect
        bases = (LabelSuite, CaptionSuite, PromptSuite, ClassificationSuite)
        expect(
            sum(isinstance(suite, base) for base in bases) == 1,
            f"is derived from none or several of {', '.join(b.__name__ for b in bases)}",
        )
        # getattr: a plug-in may lack what it must declare
        for member in ("version", "resolution", "count"):
            value = getattr(suite, member, None)
            expect(
                isinstance(value, int) and value >= 1,
                f"{member} is {value!r}, wanted an integer from 1",
            )
        title = getattr(suite, "title", None)
        expect(isinstance(title, str) and title.strip(), f"title is {title!r}, wanted a text")
        evaluators = getattr(suite, "evaluators", None)
        expect(
            isinstance(evaluators, tuple),
            f"evaluators is {evaluators!r}, wanted a tuple of names",
        )
        judges = getattr(suite, "judges", None)
        expect(isinstance(judges, Mapping), f"judges is {judges!r}, wanted a dict by evaluator")

    def check_evaluator_names(self) -> None:
        """Check that its evaluators are registered, that each has a judge, and their profiles."""
        for name in self.suite.evaluators:
            evaluator = _find_evaluator(name)
            self.expect(evaluator is not None, f"evaluator {name!r} is not registered")
            self.expect(
                self.is_classification or name in self.suite.judges,
                f"names no judge for its evaluator {name}",
            )
        for key, profile in self.suite.profiles.items():
            evaluator = _find_evaluator(key)
            self.expect(
                evaluator is not None and profile in evaluator.profiles,
                f"profiles has {profile!r} for {key!r}, which is no profile of an evaluator",
            )

    def check_judge_kinds(self) -> None:
        """Check that judges are registered, and fit what the evaluator reads."""
        from harope_bench.evaluators.base import AnnotationEvaluator

        for key, judge in self.suite.judges.items():
            evaluator = _find_evaluator(ENDING_PATTERN.sub("", key))
            if evaluator is None:
                self.add_violation(f"judges has {key!r}, which is no evaluator")
                continue
            if "/" in key:
                profile = key.partition("/")[2]
                self.expect(
                    profile in evaluator.profiles,
                    f"judges has {key!r}, the evaluator has {', '.join(evaluator.profiles)}",
                )
            if isinstance(evaluator, AnnotationEvaluator):
                self._check_annotators(key, judge, evaluator)
            else:
                self._check_feature_extractor(key, judge)

    def _check_feature_extractor(self, key: str, judge: object) -> None:
        """Expect the name of a registered feature extractor for the evaluator `key`."""
        from harope_bench.core import registry
        from harope_bench.judges.base import FeatureExtractor, load_judge

        is_registered = isinstance(judge, str) and judge in registry.list_entries("judges")
        self.expect(
            is_registered and isinstance(load_judge(str(judge)), FeatureExtractor),
            f"judge {judge!r} of {key} is no registered feature extractor",
        )

    def _check_annotators(self, key: str, judges: object, evaluator: AnnotationEvaluator) -> None:
        """Expect registered annotators by role for the evaluator `key` of a suite of prompts."""
        from harope_bench.core import registry
        from harope_bench.judges.base import load_judge

        self.expect(
            self.prompt_suite is not None,
            f"names evaluator {key}, which scores annotations of prompts, and is no PromptSuite",
        )
        if not isinstance(judges, Mapping):
            self.add_violation(f"judges of {key} are {judges!r}, wanted annotators by role")
            return
        known_roles = {r.role for r in evaluator.annotator_roles}
        for role, text in judges.items():
            name = str(text).partition(":")[0]
            self.expect(role in known_roles, f"evaluator {key} has no role {role!r}")
            is_registered = name in registry.list_entries("judges")
            self.expect(
                is_registered and role in load_judge(name).roles,
                f"judge {text!r} of {key} is no registered annotator of role {role}",
            )

    def check_judge_roles(self) -> None:
        """Check that every role that a prompt may need has a judge."""
        prompt_suite = self.prompt_suite
        if prompt_suite is None:
            return
        for name, evaluator in self.annotation_evaluators():
            judges = self.suite.judges[name]
            missing_roles = {
                annotator_role.role
                for annotator_role in evaluator.annotator_roles
                if annotator_role.role not in judges
                for metadata in _metadata_of(prompt_suite, evaluator)
                if annotator_role.is_needed(metadata)
            }
            self.expect(
                not missing_roles,
                f"names no judge of role {', '.join(sorted(missing_roles))} for {name}, which its"
                " prompts need",
            )

    def check_presets(self) -> None:
        """Check that presets have fields of Settings only."""
        from harope_bench.core.schema import Settings

        for preset, fields in self.suite.presets.items():
            unknown_fields = fields.keys() - Settings.model_fields.keys()
            self.expect(
                not unknown_fields,
                f"preset {preset} has {', '.join(sorted(unknown_fields))}, which are no settings",
            )

    def check_deterministic_requests(self) -> None:
        """Check that a request depends on its index alone, and that all of `count` exist."""
        if self.is_classification:
            return
        requests = self.suite.requests(self.sample_indices)
        self.expect(
            [request.index for request in requests] == self.sample_indices,
            "returns requests of other indices than were requested",
        )
        self.expect(
            self.suite.requests(self.sample_indices) == requests,
            "returns other requests at the second call",
        )
        reversed_requests = self.suite.requests(self.sample_indices[::-1])
        single_requests = [self.suite.requests([index])[0] for index in self.sample_indices[-3:]]
        self.expect(
            list(reversed_requests) == list(requests[::-1])
            and single_requests == list(requests[-3:]),
            "returns another request where other indices are requested with it",
        )

    def check_requested_conditioning(self) -> None:
        """Check that requests have labels of the declared number, or prompts."""
        from harope_bench.core.plugin_contracts import Conditioning

        conditioning = self.suite.requested_conditioning
        self.expect(
            conditioning is None or isinstance(conditioning, Conditioning),
            f"requested_conditioning is {conditioning!r}, wanted a Conditioning",
        )
        if self.is_classification:
            self.expect(
                conditioning is None or conditioning.kind == "images",
                f"has images to classify and requests {conditioning}",
            )
            return
        if not isinstance(conditioning, Conditioning):
            conditioning = _conditioning_of(self.suite.requests([0])[0])
        for request in self.suite.requests(self.sample_indices):
            if complaint := _request_complaint(request, conditioning):
                self.add_violation(f"request {request.index} {complaint}")
                return

    def check_prompt_numbers(self) -> None:
        """Check that index = copy * number of prompts + prompt index, and that prompts agree."""
        from harope_bench.core.errors import OptionError

        suite = self.prompt_suite
        if suite is None:
            return
        self.expect(
            suite.copies >= 1 and suite.count % suite.copies == 0,
            f"count {suite.count} is no multiple of {suite.copies} copies",
        )
        n_prompts = suite.count // suite.copies
        for index in self.sample_indices:
            case = suite.case(index)
            expected = (index % n_prompts, index // n_prompts)
            self.expect(
                (case.prompt_index, case.copy) == expected,
                f"case {index} is prompt {case.prompt_index}, copy {case.copy}, wanted prompt"
                f" {expected[0]}, copy {expected[1]}",
            )
            self.expect(
                suite.requests([index])[0].prompt == case.prompt,
                f"case {index} has another prompt than its request",
            )
        try:
            suite.case(suite.count)
        except OptionError:
            return
        self.add_violation(f"has a case at index {suite.count}, wanted an OptionError beyond count")

    def check_prompts_suit_evaluators(self) -> None:
        """Check that metadata is JSON, and that each evaluator of annotations finds its own."""
        suite = self.prompt_suite
        if suite is None:
            return
        for index in self.sample_indices:
            # Raises TypeError or ValueError, which is then listed.
            json.dumps(dict(suite.case(index).metadata), allow_nan=False)
        for name, evaluator in self.annotation_evaluators():
            self.expect(
                next(_metadata_of(suite, evaluator), None) is not None,
                f"no prompt has metadata {evaluator.metadata_key!r} of its evaluator {name}",
            )

    def check_prompts_source(self) -> None:
        """Check name and sha256 of the prompts' file."""
        suite = self.prompt_suite
        if suite is None:
            return
        source, sha256 = suite.prompts_source()
        self.expect(isinstance(source, str) and source.strip(), "names no file of its prompts")
        self.expect(
            SHA256_PATTERN.fullmatch(str(sha256)),
            f"prompts_source has sha256 {sha256!r}, wanted 64 hex digits",
        )
        self.expect(
            suite.prompts_source() == (source, sha256),
            "prompts_source differs at the second call",
        )

    def check_reference_hashes(self) -> None:
        """Check the reference of each feature extractor: its file, its hash and its judge."""
        from harope_bench.core.storage import sha256_file
        from harope_bench.data.adm_npz import array_names
        from harope_bench.judges.base import load_judge
        from harope_bench.suites.suite_reference import find_suite_reference

        judges = {judge for judge in self.suite.judges.values() if isinstance(judge, str)}
        for judge in sorted(judges):
            reference = find_suite_reference(self.suite, judge)
            if reference is None:
                continue
            self.expect(
                sha256_file(reference.path) == reference.sha256,
                f"reference {reference.path} has another sha256 than the suite states",
            )
            names = array_names(reference.path)
            self.expect(
                {"mu", "sigma"} <= set(names) or "arr_0" in names,
                f"reference {reference.path} has neither mu and sigma nor images (arr_0)",
            )
            weights_sha256 = load_judge(judge).weights_sha256()
            self.expect(
                reference.judge_sha256 == weights_sha256,
                f"reference {reference.path} was made with other weights of {judge}",
            )


def _find_evaluator(name: str) -> Evaluator | None:
    """Return the registered evaluator of a name; None where there is none."""
    from harope_bench.core import registry
    from harope_bench.evaluators.base import load_evaluator

    return load_evaluator(name) if name in registry.list_entries("evaluators") else None


def _metadata_of(
    suite: PromptSuite, evaluator: AnnotationEvaluator
) -> Iterator[Mapping[str, object]]:
    """Yield what an evaluator reads of each prompt that it scores."""
    for prompt_index in range(min(suite.count // suite.copies, MAX_PROMPTS)):
        metadata = suite.case(prompt_index).metadata_for(evaluator.metadata_key)
        if metadata is not None:
            yield metadata


def _conditioning_of(request: Request) -> Conditioning:
    """Return the conditioning that a request has."""
    from harope_bench.core.plugin_contracts import Conditioning

    if request.prompt is not None:
        return Conditioning("prompts")
    return Conditioning("nothing" if request.label is None else "labels")


def _request_complaint(request: Request, conditioning: Conditioning) -> str | None:
    """Return how a request differs from the suite's conditioning, None where it does not."""
    actual = _conditioning_of(request)
    if actual.kind != conditioning.kind:
        return f"has {actual}, the suite requests {conditioning}"
    if request.prompt is not None and not request.prompt.strip():
        return "has an empty prompt"
    label = request.label
    if label is not None and not 0 <= label < (conditioning.classes or label + 1):
        return f"has label {label}, the suite requests {conditioning}"
    return None
