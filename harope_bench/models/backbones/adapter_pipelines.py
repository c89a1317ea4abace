"""Adapter folders on a diffusers pipeline of FLUX or SD3: opened, checked, created and saved."""

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
from harope_bench.models.backbones import lora
from harope_bench.models.backbones.diffusers_networks import (
    DiffusersBackbone,
    PipelineImageGenerator,
)
from harope_bench.models.backbones.encoded_transformer import EncodedTransformer
from harope_bench.models.backbones.lora_files import write_adapter_folder
from harope_bench.models.checkpoint_fields import CheckpointFields


class AdapterPipelineBackbone(DiffusersBackbone):
    """Base class of backbones on a diffusers pipeline that also support adapter folders."""

    def open_folder(
        self, checkpoint: Checkpoint, path: Path, settings: Settings
    ) -> PipelineImageGenerator:
        """Return the base model with the LoRA and encoding of an adapter folder, strictly loaded.

        Args:
            path: The folder's manifest, whose hash was checked already.
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
        """Raise WeightsError unless base model and adapter fit together.

        Only names and shapes are compared; the base model is not loaded.
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
        self,
        folder: Path,
        lora_files: lora_manifest.LoraFiles,
        base: str,
        user_fields: CheckpointFields,
    ) -> Path:
        """Write an adapter folder for a LoRA without manifest, and return the manifest's path.

        Args:
            lora_files: The LoRA and, if there is one, the file of its encoding's weights.
            base: Folder or hub id of the base model.
            user_fields: `encoding`, `options` and `config` as far as the user states them.

        Raises:
            WeightsError: The files cannot be attached to the base model.
            OptionError: The weights of the encoding are missing, or the encoding is not known.
        """
        base_folder = lora_manifest.find_base_folder(base)
        self.check_pipeline_folder(base_folder)

        # The encoding: the user's, else that of its file, else that of the base model.
        encoding_file = lora_files.encoding_file
        encoding_state = load_weights(encoding_file) if encoding_file else {}
        encoding, options = self.resolve_encoding(lora_files, encoding_state, user_fields)
        with torch.device("meta"):
            shape = self.shape(lora_manifest.transformer_config(base_folder))
            expected_state = encodings.build_encoding(
                encodings.load_encoding(encoding), shape, options
            ).state_dict()
        if expected_state and not encoding_state:
            raise OptionError(
                f"encoding {encoding} has weights, {lora_files.lora_file} has none of them; add"
                " --encoding-weights FILE"
            )

        base_name = Path(base).name if Path(base).is_dir() else base
        manifest = lora_manifest.AdapterManifest(
            backbone=self.name,
            base=lora_manifest.describe_base(base_folder, base_name),
            encoding=encoding,
            options=dict(options),
            encoded_tokens=user_fields.get("config", {}).get("encoded_tokens", "all"),
        )
        return write_adapter_folder(
            folder,
            lora_files,
            self.pipeline_class,
            manifest,
            lambda: self.linear_layer_names(base_folder),
        )

    def linear_layer_names(self, folder: Path) -> list[str]:
        """Return the names of the linear layers of a base model's transformer; no weights are
        read.
        """
        with torch.device("meta"):
            transformer = self.build_transformer(lora_manifest.transformer_config(folder))
        return [
            name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)
        ]

    def resolve_encoding(
        self,
        lora_files: lora_manifest.LoraFiles,
        encoding_state: Mapping[str, Tensor],
        user_fields: CheckpointFields,
    ) -> tuple[str, dict[str, Option]]:
        """Return name and options of the encoding of a LoRA without manifest.

        The name is the user's, else that in the metadata or the shapes of the encoding's file, else
        that of the base model.

        Args:
            encoding_state: Weights of the encoding, empty if there is no file of them.

        Raises:
            OptionError: There is a file of the encoding's weights, and nothing reveals its name.
        """
        user_options = user_fields.get("options", {})
        detected_encoding = detect_encoding.detect_from_shapes(
            {key: value.shape for key, value in encoding_state.items()}
        )
        metadata_name = None
        if lora_files.encoding_file:
            metadata_name = weights_metadata(lora_files.encoding_file).get("encoding")

        name = (
            user_fields.get("encoding")
            or metadata_name
            or (detected_encoding.encoding if detected_encoding else None)
        )
        base_name, base_options = self.base_encoding
        if name is None:
            if lora_files.encoding_file:
                raise OptionError(
                    f"the keys of {lora_files.encoding_file} do not reveal the encoding; add"
                    " --encoding"
                )
            return base_name, {**base_options, **user_options}

        if detected_encoding and detected_encoding.encoding == name:
            return name, {**detected_encoding.options, **user_options}
        if name == base_name:
            return name, {**base_options, **user_options}
        return name, dict(user_options)

    def save_adapter(
        self,
        folder: Path,
        network: EncodedTransformer,
        base: str,
        training: Mapping[str, Option] | None = None,
    ) -> Path:
        """Write LoRA and encoding as an adapter folder, and return its manifest's path.

        Args:
            base: Folder or hub id of the base model; the manifest records its name and identity.
            training: Facts of the training, which the manifest records as they are.
        """
        base_name = Path(base).name if Path(base).is_dir() else base
        base_record = lora_manifest.describe_base(lora_manifest.find_base_folder(base), base_name)
        manifest = lora_manifest.AdapterManifest(
            backbone=self.name,
            base=base_record,
            encoding=network.encoding.registered_name(),
            options=network.encoding.options.model_dump(exclude_none=True),
            encoded_tokens=network.encoded_tokens,
            training=dict(training or {}),
        )
        return lora.save_adapter(folder, network, self.pipeline_class, manifest)
