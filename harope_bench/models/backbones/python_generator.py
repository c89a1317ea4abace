"""The backbone of generators that exist only in a Python process: callables and loaded pipelines.

It describes their runs: what a request contains and which settings belong to the plan. It has no
weights file, so it cannot open a checkpoint; `harope_bench.generate` passes the generator itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from harope_bench.core.errors import OptionError
from harope_bench.core.plugin_contracts import Conditioning
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.models.backbones.base import (
    Backbone,
    DetectedFields,
    LoadedCheckpoint,
    NetworkDescription,
    SupportedSettings,
)

if TYPE_CHECKING:
    from torch import Tensor


# Fields of the config of such a checkpoint.
CONDITIONING_KEY = "conditioning"
VERSION_KEY = "version"
SETTING_PREFIX = "setting."
KINDS = ("labels", "prompts", "nothing")

CALLABLE_SETTINGS = frozenset({"resolution", "seed", "tile", "device", "dtype", "labels"})
PIPELINE_SETTINGS = CALLABLE_SETTINGS | {"steps", "guidance"}
IS_PIPELINE_KEY = "is_pipeline"


class PythonGeneratorBackbone(Backbone[Any]):  # Any: it has no network
    """The backbone of Python callables and loaded pipelines."""

    tile = 1
    has_weights_file = False

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return what the run's suite requests; the generator receives the requests as they are."""
        kind = str(config.get(CONDITIONING_KEY, "nothing"))
        if kind not in KINDS:
            raise OptionError(
                f"config {CONDITIONING_KEY} {kind!r} is none of {', '.join(KINDS)}; give one"
            )
        return Conditioning(cast(Literal["labels", "prompts", "nothing"], kind))

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the settings of the plan; a callable reads neither steps nor guidance."""
        if checkpoint.config.get(IS_PIPELINE_KEY):
            return SupportedSettings(PIPELINE_SETTINGS)
        reason = "a Python callable does not read it; state it in Generator(settings=...)"
        return SupportedSettings(CALLABLE_SETTINGS, {"steps": reason, "guidance": reason})

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return the conditioning; nothing else is known of the network."""
        return NetworkDescription("images", str(self.conditioning(checkpoint.config)), None)

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return None: no weights file is that of a Python generator."""
        return None

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Accept every setting; the generator itself raises an error for what it cannot do."""

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> NoReturn:
        """Raise OptionError: there is no network to build."""
        raise OptionError(
            "backbone python-generator has no network of its own; pass the generator to"
            " harope_bench.generate"
        )

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> LoadedCheckpoint:
        """Raise OptionError: the generator is in no file."""
        raise OptionError(
            f"{checkpoint.name} is a Python generator and in no file; pass it to"
            " harope_bench.generate"
        )


PLUGIN = PythonGeneratorBackbone()
