"""The contract of a registered checkpoint."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from harope_bench.testing.contract_violations import ContractViolations, UncheckedContractError

if TYPE_CHECKING:
    from pathlib import Path

    from harope_bench.core.schema import Checkpoint


def check_checkpoint(name: str) -> int:
    """Check a registered checkpoint: its TOML, the names in it, and its weights.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The checkpoint violates the contract; every violation is listed.
        UncheckedContractError: Its weights are missing; what needs none was checked.
        BenchError: There is no such checkpoint, or its TOML is not that of a checkpoint.
    """
    from harope_bench.models.backbones.base import load_backbone
    from harope_bench.models.load_checkpoint import load_checkpoint_record

    checkpoint = load_checkpoint_record(name)
    if not load_backbone(checkpoint.backbone).has_weights_file:
        raise UncheckedContractError(
            f"checkpoint {name} is an endpoint, whose weights are unknown",
            advice="`generate` compares its canary image with the registered one",
        )
    violations = ContractViolations(f"checkpoint {name}")
    contract = _CheckpointContract(checkpoint, violations)
    return violations.run_checks(
        [
            contract.check_plugin_names,
            contract.check_encoding_options,
            contract.check_setting_values,
            contract.check_suite_requests,
            contract.check_weights_sha256,
            contract.check_strict_loading,
        ]
    )


class _CheckpointContract:
    """The contract of one checkpoint, one method for each requirement."""

    def __init__(self, checkpoint: Checkpoint, violations: ContractViolations):
        self.checkpoint = checkpoint
        self.expect = violations.expect
        self.add_violation = violations.add_violation

    @cached_property
    def weights(self) -> Path:
        """Return the path of the weights.

        Raises:
            MissingAssetError: The file is missing.
        """
        from harope_bench.core.errors import MissingAssetError
        from harope_bench.models.load_checkpoint import find_weights_path

        path = find_weights_path(self.checkpoint)
        if not path.is_file():
            raise MissingAssetError(
                f"weights {path} are missing",
                advice=f"harope-bench register {self.checkpoint.name} --weights FILE",
            )
        return path

    @property
    def is_adapter(self) -> bool:
        """Return whether the weights are an adapter folder, which needs its base model."""
        from harope_bench.models import lora_manifest

        return self.weights.name == lora_manifest.MANIFEST

    @property
    def has_encoding(self) -> bool:
        """Return whether its backbone gives it an encoding of this package."""
        from harope_bench.core.errors import UnknownNameError
        from harope_bench.models.backbones.base import load_backbone

        try:
            return load_backbone(self.checkpoint.backbone).has_encoding
        except UnknownNameError:
            return True

    # Each method below checks one requirement.

    def check_plugin_names(self) -> None:
        """Check that backbone, encoding, sampler and suite are registered."""
        from harope_bench.core import registry

        checkpoint = self.checkpoint
        for kind, name in (
            ("backbones", checkpoint.backbone),
            ("encodings", checkpoint.encoding if self.has_encoding else None),
            ("samplers", checkpoint.sampler),
            ("suites", checkpoint.suite),
        ):
            self.expect(
                name is None or name in registry.list_entries(kind),
                f"{registry.singular_name(kind)} {name!r} is not registered",
            )

    def check_encoding_options(self) -> None:
        """Check the options, as the encoding declares them."""
        from pydantic import ValidationError

        from harope_bench.core.record_base import validation_summary
        from harope_bench.encodings.base import load_encoding

        if not self.has_encoding:
            self.expect(not self.checkpoint.options, "has options, and no encoding to take them")
            return
        try:
            load_encoding(self.checkpoint.encoding).Options(**self.checkpoint.options)
        except ValidationError as error:
            self.add_violation(
                f"options do not fit encoding {self.checkpoint.encoding}:"
                f" {validation_summary(error)}",
            )

    def check_setting_values(self) -> None:
        """Check that the defaults of settings exist and apply, and steps and guidance with them."""
        from harope_bench.core.errors import BenchError
        from harope_bench.core.schema import Settings
        from harope_bench.models.backbones.base import load_backbone
        from harope_bench.models.load_checkpoint import check_settings

        checkpoint = self.checkpoint
        supported_settings = load_backbone(checkpoint.backbone).supported_settings(checkpoint)
        known_fields = Settings.model_fields.keys() | supported_settings.setting_names
        unknown_fields = checkpoint.drawing.keys() - known_fields
        self.expect(
            not unknown_fields,
            f"[drawing] has {', '.join(sorted(unknown_fields))}, which are no settings",
        )
        is_classifier = load_backbone(checkpoint.backbone).task == "classify"
        defaults = {
            "sampler": checkpoint.sampler,
            "steps": checkpoint.steps,
            "guidance": checkpoint.guidance,
        }
        if not is_classifier:
            missing_defaults = [
                field
                for field in ("sampler", "steps")
                if field in supported_settings.setting_names and defaults[field] is None
            ]
            self.expect(not missing_defaults, f"has no {' and no '.join(missing_defaults)}")
        try:
            check_settings(checkpoint, {**defaults, **checkpoint.drawing})
        except BenchError as error:
            self.add_violation(str(error))

    def check_suite_requests(self) -> None:
        """Check the conditioning of its network with that of its suite."""
        from harope_bench.core.conditioning import backbone_conditioning, check_checkpoint_suite
        from harope_bench.core.errors import OptionError

        try:
            backbone_conditioning(self.checkpoint.backbone, self.checkpoint.config)
            if self.checkpoint.suite is not None:
                check_checkpoint_suite(self.checkpoint, self.checkpoint.suite)
        except OptionError as error:
            self.add_violation(str(error))

    def check_weights_sha256(self) -> None:
        """Check that the file of the weights has the recorded sha256."""
        from harope_bench.core.storage import sha256_file

        sha256 = sha256_file(self.weights)
        self.expect(
            sha256 == self.checkpoint.sha256,
            f"weights have sha256 {sha256[:12]}..., the checkpoint states"
            f" {self.checkpoint.sha256[:12]}...",
        )

    def check_strict_loading(self) -> None:
        """Check that the network loads the weights, with no key missing or left over."""
        from harope_bench.core.state_dicts import load_weights
        from harope_bench.models.backbones.base import load_backbone
        from harope_bench.models.pipeline_manifest import check_manifest

        if self.is_adapter:
            check_manifest(self.weights, self.checkpoint)
            return
        state_dict = load_weights(self.weights, self.checkpoint.sha256)
        load_backbone(self.checkpoint.backbone).load(self.checkpoint, state_dict)
