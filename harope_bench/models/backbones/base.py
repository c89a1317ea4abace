"""The contract of a backbone: build the network, read it back, draw a tile of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.schema import Checkpoint, Option, Request, Settings
from harope_bench.metrics.attention_cost import Attention


class Clue(NamedTuple):
    """What the keys of a state dict tell: None where they do not tell.

    defaults: fields of Checkpoint (sampler, steps, guidance, drawing) that checkpoints of this family are drawn with unless more is said.
    """

    encoding: str | None
    config: dict[str, Option]
    options: dict[str, Option] = {}
    defaults: Mapping[str, Any] = {}


class Exported(NamedTuple):
    """A network's state dict under this package's names, and the fields of Checkpoint that changed with it."""

    state: dict[str, Tensor]
    facts: dict[str, Any]


GENERATED = frozenset({"resolution", "seed", "tile", "device", "dtype", "labels", "sampler", "steps", "guidance", "pos_scaling"})
CLASSIFIED = frozenset({"resolution", "tile", "device", "dtype", "pos_scaling"})


class SettingsRead(NamedTuple):
    """The fields of Settings that change what a checkpoint makes, and why some of the others do not."""

    fields: frozenset[str]
    reasons: Mapping[str, str] = {}


class Process(NamedTuple):
    """What registration prints of a network.

    predicts: what the network says of a noised input. taken: what it takes beside noise, in words. resolution: side in
    pixels at training, None where nothing tells it.
    """

    predicts: str
    taken: str
    resolution: int | None


class Drawn(NamedTuple):
    """A tile: images (B, H, W, 3) uint8, and why a row has none (its pixels are then meaningless)."""

    images: np.ndarray
    faults: dict[int, str]


class Probe(NamedTuple):
    """One forward to count or time: keyword inputs on the network's device, its counted attention layer, and the tokens that layer sees."""

    inputs: Mapping[str, Any]
    layer: Attention
    tokens: int


class Drawer(Protocol):
    """An opened checkpoint that draws."""

    def draw(self, requests: Sequence[Request], settings: Settings) -> Drawn:
        """A full tile of requests drawn; row i depends on requests[i] alone."""


class Backbone(Protocol):
    """What a backbone module's PLUGIN offers.

    `conditioning` and `settings_read` are the only places that say what a network takes and which settings it reads; plans
    reject everything else (`conditioning.check_suite`, `load_checkpoint.check_settings`).

    Further methods, for backbones that need them; `load_checkpoint`, `register_checkpoint` and `generate` ask whether they are there:

    - `load(checkpoint, state) -> nn.Module`: the network with these weights, where a file's names are not the network's own;
    - `recall(args) -> dict`: config that a training file's arguments state; WeightsError for a network that is not this one;
    - `usual_settings(config, stated) -> dict`: fields of Checkpoint that a base is published with;
    - `relabelled(clue, classes) -> Clue`: the sizes again where the number of labels is told;
    - `check_request(checkpoint, request)`: OptionError for a request that the network cannot read;
    - `settled(checkpoint, settings) -> Settings`: checked settings with what only the disk tells (the hash of an autoencoder);
    - `export(checkpoint, state, folded) -> Exported`;
    - `merge(network)`: what is done once before a network is timed;
    - `reveal(network)`: makes a network with `watch` (models/backbones/positioned.py) show its queries and keys;
    - `adopt(folder, bare, base, said) -> Path`: makes an adapter folder of a LoRA without manifest.

    `tile` is the padded batch shape; a family that wants another puts it into its Clue's `defaults["drawing"]`.
    """

    tile: int

    def build(self, encoding: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> nn.Module:
        """A freshly initialised network."""

    def recognise(self, state: Mapping[str, Tensor]) -> Clue | None:
        """What a state dict's keys tell, or None if it is not this backbone's."""

    def conditioning(self, config: Mapping[str, Any]) -> Conditioning:
        """Return what a network of these sizes takes beside noise, or what a classifier looks at."""

    def settings_read(self, checkpoint: Checkpoint) -> SettingsRead:
        """Return the settings that change what this checkpoint makes; any other one is rejected by name."""

    def process(self, checkpoint: Checkpoint) -> Process:
        """Return what registration prints of this checkpoint's network."""

    def check(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raises OptionError if the checkpoint cannot be drawn from with these settings."""

    def open(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings) -> Drawer:
        """The network with these weights, strictly loaded, ready to draw."""

    def probe(self, network: Any, resolution: int, batch: int) -> Probe:
        """Inputs of one forward of so many images; the network may lie on the meta device. A backbone without it is not counted."""


class Classifier(Protocol):
    """An opened checkpoint that names pictures."""

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Logits (B, classes) float32 of images (B, H, W, 3) uint8; row i depends on images[i] alone.

        A backbone whose `task` is "classify" opens one of these in place of a Drawer.
        """
