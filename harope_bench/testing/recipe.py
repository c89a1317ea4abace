"""The contract of a training recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations

if TYPE_CHECKING:
    from harope_bench.training.recipe import AnyRecipe

DEFAULT_ENCODING = "rope-axial"


def check_recipe(name: str) -> int:
    """Check a registered recipe, or the path of its TOML file; nothing is trained.

    The fields must be valid, and suite, judge, backbone and sampler must exist and fit each other.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The recipe violates the contract; every violation is listed.
        UnknownNameError: There is no such recipe.
    """
    from harope_bench.core import registry

    if not name.endswith(".toml"):
        registry.find_entry("recipes", name)
    violations = ContractViolations(f"recipe {name}")
    contract = _RecipeContract(name, violations)
    return violations.run_checks(
        [
            contract.check_fields,
            contract.check_schedule,
            contract.check_suite_names,
            contract.check_judge_name,
            contract.check_network_builds,
            contract.check_training_suite,
        ]
    )


class _RecipeContract:
    """The contract of one recipe, one method for each requirement."""

    def __init__(self, name: str, violations: ContractViolations):
        self.name = name
        self.expect = violations.expect
        self.add_violation = violations.add_violation
        self.recipe: AnyRecipe | None = None

    # Each method below checks one requirement. Without valid fields only the first one fails.

    def check_fields(self) -> None:
        """Check that the recipe is read, with equal fields and hash at every call."""
        from harope_bench.core.errors import BenchError
        from harope_bench.training.recipe import read_recipe

        try:
            self.recipe, sha256 = read_recipe(self.name)
        except BenchError as error:
            self.add_violation(str(error))
            return
        self.expect(
            read_recipe(self.name) == (self.recipe, sha256), "differs when it is read again"
        )
        self.expect(
            self.name.endswith(".toml") or self.recipe.name == self.name,
            f"has name {self.recipe.name!r}",
        )

    def check_schedule(self) -> None:
        """Check that warm-up and snapshots fall into the steps."""
        schedule = getattr(self.recipe, "schedule", None)  # getattr: some recipes train nothing
        if schedule is None:
            return
        self.expect(
            schedule.warmup_steps <= schedule.steps,
            f"warms up for {schedule.warmup_steps} of {schedule.steps} steps",
        )
        self.expect(
            schedule.snapshot_interval <= schedule.steps,
            f"takes a snapshot every {schedule.snapshot_interval} steps, trains {schedule.steps}",
        )

    def check_suite_names(self) -> None:
        """Check that the suites of training and test are registered."""
        from harope_bench.core import registry

        for field in ("suite", "test_suite"):
            suite = getattr(self.recipe, field, None)  # getattr: recipes differ in their fields
            self.expect(
                suite is None or suite in registry.list_entries("suites"),
                f"{field} {suite!r} is not registered",
            )

    def check_judge_name(self) -> None:
        """Check that the judge is registered, and extracts features for a reference."""
        from harope_bench.core import registry
        from harope_bench.judges.base import FeatureExtractor, load_judge
        from harope_bench.training.recipe import ReferenceRecipe

        judge = getattr(self.recipe, "judge", None)  # getattr: recipes differ in their fields
        if judge is None:
            return
        if judge not in registry.list_entries("judges"):
            self.add_violation(f"judge {judge!r} is not registered")
            return
        if isinstance(self.recipe, ReferenceRecipe):
            self.expect(
                isinstance(load_judge(judge), FeatureExtractor),
                f"makes a reference of {judge}, which extracts no features",
            )

    def check_network_builds(self) -> None:
        """Check backbone and sampler, and that the network builds with its sizes."""
        import torch

        from harope_bench.core import registry
        from harope_bench.models.backbones.base import load_backbone
        from harope_bench.models.samplers.base import load_sampler
        from harope_bench.training.recipe import GeneratorRecipe, ModelRecipe

        recipe = self.recipe
        if not isinstance(recipe, ModelRecipe):
            return
        if isinstance(recipe, GeneratorRecipe):
            if recipe.sampler in registry.list_entries("samplers"):
                load_sampler(recipe.sampler).check_steps(recipe.sampler_steps)
            else:
                self.add_violation(f"sampler {recipe.sampler!r} is not registered")
        if recipe.backbone not in registry.list_entries("backbones"):
            self.add_violation(f"backbone {recipe.backbone!r} is not registered")
            return
        with torch.random.fork_rng(devices=[]):
            load_backbone(recipe.backbone).build(DEFAULT_ENCODING, {}, recipe.config)

    def check_training_suite(self) -> None:
        """Check that the network takes what the suite requests."""
        from harope_bench.core.errors import BenchError
        from harope_bench.training import run_recipe

        if isinstance(self.recipe, run_recipe.AnyModelRecipe):
            try:
                run_recipe.check_recipe(self.recipe)
            except BenchError as error:
                self.add_violation(str(error))
