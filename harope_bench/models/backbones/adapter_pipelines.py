"""Adapter folders on a diffusers pipeline, of FLUX and SD3: opened, checked, made of a LoRA without
manifest, saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.core.state_dicts import load_weights, weights_metadata
from harope_bench.encodings import base as encodings
from harope_bench.encodings import detect_encoding
from harope_bench.models import lora_manifest
from harope_bench.models.backbones import lora, lora_files
from harope_bench.models.backbones.diffusers_networks import (
    DiffusersBackbone,
    PipelineImageGenerator,
)
from harope_bench.models.backbones.encoded_transformer import EncodedTransformer
from harope_bench.models.checkpoint_fields import CheckpointFields


class AdapterPipelineBackbone(DiffusersBackbone):
    """Base class of backbones on a diffusers pipeline, with their adapter folders."""

    def open_folder(
        self, checkpoint: Checkpoint, path: Path, settings: Settings
    ) -> PipelineImageGenerator:
        """The base with an adapter folder's LoRA and encoding, strictly loaded; `path` is its
        manifest, hash checked already.
        """
        config = self.parse_config(checkpoint.config)
        manifest, folder = lora_manifest.load_matching_manifest(
            path, checkpoint, config.base, config.encoded_tokens
        )
        with torch.random.fork_rng(devices=[]):
            pipe = self.load_pipeline(folder, settings)
            network = self.attach_encoding(
                pipe.transformer, checkpoint.encoding, checkpoint.options, config.encoded_tokens
            )
            lora.load_adapter(network, path, manifest)
        return self.prepare_pipeline(pipe, network, config, settings)

    def check_folder(self, checkpoint: Checkpoint, path: Path) -> None:
        """WeightsError unless base and adapter fit together; compares names and shapes without
        making the base.
        """
        config = self.parse_config(checkpoint.config)
        manifest, folder = lora_manifest.load_matching_manifest(
            path, checkpoint, config.base, config.encoded_tokens
        )
        self.check_pipeline_folder(folder)
        with torch.device("meta"):
            network = self.attach_encoding(
                self.build_transformer(lora_manifest.transformer_config(folder)),
                checkpoint.encoding,
                checkpoint.options,
                config.encoded_tokens,
            )
            lora.load_adapter(network, path, manifest)

    def create_adapter_folder(
        self, folder: Path, bare: lora_manifest.LoraFiles, base: str, said: CheckpointFields
    ) -> Path:
        """Makes an adapter folder of a LoRA without manifest, and returns the manifest's path.

        The encoding is the one said, else the one that its file's note or keys tell, else the
        base's own.

        Args:
            base: folder or hub id. said: `encoding`, `options` and `config` as far as they are
                said.

        Raises:
            WeightsError: files that cannot be attached. OptionError: an encoding without its
                weights, or weights of nobody knows what.
        """
        found = lora_manifest.find_base_folder(base)
        self.check_pipeline_folder(found)
        state = load_weights(bare.encoding_file) if bare.encoding_file else {}
        encoding, options = self.resolve_encoding(bare, state, said)
        with torch.device("meta"):
            shape = self.shape(lora_manifest.transformer_config(found))
            needs = encodings.build_encoding(
                encodings.load_encoding(encoding), shape, options
            ).state_dict()
        if needs and not state:
            raise OptionError(
                f"encoding {encoding} has weights of its own, {bare.lora_file} has none of them;"
                " add --encoding-weights FILE"
            )
        manifest = lora_manifest.AdapterManifest(
            backbone=self.name,
            base=lora_manifest.describe_base(
                found, Path(base).name if Path(base).is_dir() else base
            ),
            encoding=encoding,
            options=dict(options),
            encoded_tokens=said.get("config", {}).get("tokens", "all"),
        )
        return lora_files.write_adapter_folder(
            folder, bare, self.pipeline_class, manifest, lambda: self.linear_layer_names(found)
        )

    def linear_layer_names(self, folder: Path) -> list[str]:
        """Return the names of the linear layers of a base's transformer; nothing is loaded."""
        with torch.device("meta"):
            transformer = self.build_transformer(lora_manifest.transformer_config(folder))
        return [
            name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)
        ]

    def resolve_encoding(
        self, bare: lora_manifest.LoraFiles, state: Mapping[str, Tensor], said: CheckpointFields
    ) -> tuple[str, dict[str, Option]]:
        """The encoding of a LoRA without manifest, with the options that are said or that shapes
        show.
        """
        told = detect_encoding.detect_from_shapes(
            {key: value.shape for key, value in state.items()}
        )
        noted = weights_metadata(bare.encoding_file).get("encoding") if bare.encoding_file else None
        name = said.get("encoding") or noted or (told.encoding if told else None)
        if name is None and bare.encoding_file:
            raise OptionError(
                f"the keys of {bare.encoding_file} do not tell the encoding; add --encoding"
            )
        if name is None:
            return self.base_encoding[0], {**self.base_encoding[1], **said.get("options", {})}
        shown = (
            told.options
            if told and told.encoding == name
            else self.base_encoding[1]
            if name == self.base_encoding[0]
            else {}
        )
        return name, {**shown, **said.get("options", {})}

    def save_adapter(
        self,
        folder: Path,
        network: EncodedTransformer,
        base: str,
        training: Mapping[str, Option] | None = None,
    ) -> Path:
        """Writes the network's LoRA and encoding as an adapter folder and returns its manifest's
        path.

        Args:
            base: folder or hub id of the base that the network was made from; the manifest keeps
                its name and its identity.
            training: facts of the training, kept as they are.
        """
        made = lora_manifest.describe_base(
            lora_manifest.find_base_folder(base), Path(base).name if Path(base).is_dir() else base
        )
        options = network.encoding.options.model_dump(exclude_none=True)
        manifest = lora_manifest.AdapterManifest(
            backbone=self.name,
            base=made,
            encoding=network.encoding.registered_name(),
            options=options,
            encoded_tokens=network.encoded_tokens,
            training=dict(training or {}),
        )
        return lora.save_adapter(folder, network, self.pipeline_class, manifest)
