"""Latent DiT: what is asked of it, the autoencoder, other grids, and the paper's size from a file
to a PNG.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dit_files import (
    SMALL_CONFIG,
    autoencoder,
    register_dit,
    release_state,
    state_of,
    training_file,
    with_table,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from harope_bench.core import registry
from harope_bench.core.errors import MissingExtraError, OptionError, PlanMismatchError, WeightsError
from harope_bench.encodings.ape import sincos_table
from harope_bench.models.backbones import dit_keys
from harope_bench.models.backbones.latents import Decoder, max_group_size
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator
from harope_bench.models.register_checkpoint import register
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.testing import check_backbone

pytest.importorskip("diffusers", reason="needs the extra t2i")


# -------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"resolution": 72},
            "a resolution of 72 pixels does not divide into patches of 2 latents of 8 pixels;"
            " choose --resolution 64",
        ),
        ({"sampler": "flow"}, "predicts noise"),
        (
            {"pos_scaling": "extend"},
            "pos_scaling extend does not apply to harope; it takes none, linear, ntk",
        ),
        (
            {"vae": "nowhere"},
            "--vae nowhere: found no config.json with diffusion_pytorch_model.safetensors",
        ),
        ({"steps": 1001}, "1 to 1000 steps"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_the_plan(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        make_plan(register_dit(tmp_path), None, {"resolution": 64, **fields})


def test_missing_and_foreign_autoencoders_are_refused(tmp_path: Path) -> None:
    name = register_dit(tmp_path)
    path = training_file(tmp_path / "n.pt", release_state(state_of(SMALL_CONFIG, "harope")))
    register("none", path, {"suite": "digits"} | {"config": {"heads": 3}})
    with pytest.raises(
        OptionError,
        match=(
            r"checkpoint none generates latents and no autoencoder is stated; add --vae FOLDER"
            r" \(sd-vae-ft-mse for"
        ),
    ):
        make_plan("none", None, {"resolution": 64})
    for change, message in (
        ({"scaling_factor": 0.13025}, "scales latents by 0.13025"),
        ({"latent_channels": 16}, "has 16 latent channels at 1/8, wanted 4 at 1/8"),
        ({"shift_factor": 0.1}, "shift 0.1"),
    ):
        with pytest.raises(OptionError, match=message):
            make_plan(
                name,
                None,
                {"resolution": 64, "vae": str(autoencoder(tmp_path / message[:5], **change))},
            )
    with pytest.raises(
        OptionError, match="vae does not apply to checkpoint digits-harope: it generates pixels"
    ):
        make_plan("digits-harope", None, {"vae": str(tmp_path / "vae")})
    with pytest.raises(OptionError, match="it generates pixels, and guides all channels alike"):
        make_plan("digits-harope", None, {"guidance_channels": "3"})
    with pytest.raises(OptionError, match="drawing default tilt"):
        register("bad", path, {"drawing": {"tilt": 3}})


def test_heads_that_the_axes_do_not_divide_are_refused_before_drawing(tmp_path: Path) -> None:
    config = {**SMALL_CONFIG, "hidden": 36, "heads": 6}
    path = training_file(tmp_path / "o.pt", state_of(config))
    name = register_dit(tmp_path, file=path, encoding="rope-axial", config={"heads": 6})
    with pytest.raises(OptionError, match="rope-axial needs a head size divisible by 4, found 6"):
        make_plan(name, None, {"resolution": 64})


def test_a_hub_id_means_the_local_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = register_dit(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(OptionError, match="neither in such a folder nor in the local hub cache"):
        make_plan(name, None, {"resolution": 64, "vae": "stabilityai/sd-vae-ft-mse"})
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, file: str(tmp_path / "vae" / file)
    )
    assert make_plan(
        name, None, {"resolution": 64, "vae": "stabilityai/sd-vae-ft-mse"}
    ).settings.vae_sha256


def test_without_diffusers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(register_dit(tmp_path), None, {"resolution": 64})
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        MissingExtraError,
        match=r"diffusers, which is not installed; run: pip install 'harope-bench\[t2i\]'",
    ):
        open_generator(plan.checkpoint, plan.settings)


def loaded_generator(name: str) -> Any:
    plan = make_plan(name, None, {"resolution": 64})
    return open_generator(plan.checkpoint, plan.settings)


def test_a_damaged_autoencoder_is_one_line(tmp_path: Path) -> None:
    name = register_dit(tmp_path)
    config, weights = (
        tmp_path / "vae/config.json",
        tmp_path / "vae/diffusion_pytorch_model.safetensors",
    )
    state, whole_text = load_file(weights), config.read_text()
    save_file(
        {key: value for key, value in state.items() if key != "decoder.conv_in.bias"}, weights
    )
    message = "vae (has keys that do not fit: missing decoder.conv_in.bias|does not load)"
    with pytest.raises(WeightsError, match=message) as excinfo:
        loaded_generator(name)
    assert "\n" not in str(excinfo.value)
    for text in ("[1]", "{", whole_text.replace("[\n    4,", '[\n    "x",')):
        config.write_text(text)
        with pytest.raises((OptionError, WeightsError)) as excinfo:
            loaded_generator(name)
        assert "\n" not in str(excinfo.value)


# --------------------------------------------------------------------------------------------
# drawing


def test_an_autoencoder_decides_pixels_by_what_it_holds(tmp_path: Path) -> None:
    name = register_dit(tmp_path)
    plan = make_plan(name, None, {"resolution": 64})
    generate(plan, [0], tmp_path / "run")
    (tmp_path / "vae").rename(tmp_path / "moved")
    moved_plan = make_plan(name, None, {"resolution": 64, "vae": str(tmp_path / "moved")})
    assert generate(moved_plan, [0, 1], tmp_path / "run").n_generated == 1
    autoencoder(tmp_path / "moved", seed=1)
    with pytest.raises(PlanMismatchError, match="settings.vae_sha256 is"):
        generate(
            make_plan(name, None, {"resolution": 64, "vae": str(tmp_path / "moved")}),
            [0, 1, 2],
            tmp_path / "run",
        )
    with pytest.raises(WeightsError, match="the plan's autoencoder has"):
        open_generator(moved_plan.checkpoint, moved_plan.settings)


@pytest.mark.parametrize("encoding", ["harope", "ape"])
def test_latent_dit_keeps_its_promises(tmp_path: Path, encoding: str) -> None:
    drawing = {
        "vae": str(autoencoder(tmp_path / "vae")),
        "guidance_channels": "3",
        "fold": True if encoding == "harope" else None,
    }
    check_backbone(
        "dit", SMALL_CONFIG, encoding=encoding, resolution=64, sampler="ddpm", settings=drawing
    )


def test_guidance_acts_on_three_channels_of_the_noise_as_dits_code_does(tmp_path: Path) -> None:
    name = register_dit(tmp_path)
    plan = make_plan(name, None, {"resolution": 64})
    drawer = open_generator(plan.checkpoint, plan.settings)
    x, time = (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)),
        torch.tensor([3.0, 812.0]),
    )
    labels, empty_tensor = torch.tensor([2, 7]), torch.tensor([10, 10])
    network, untold = drawer.network(x, time, labels), drawer.network(x, time, empty_tensor)
    for channels, count in (("3", 3), ("all", 4)):
        result = drawer._guided_network(labels, 1.5, channels)(x, time)
        expected = torch.cat(
            (
                untold[:, :count] + 1.5 * (network[:, :count] - untold[:, :count]),
                network[:, count:],
            ),
            1,
        )
        torch.testing.assert_close(
            result, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max())
        )
        assert (result[:, :3] - network[:, :3]).abs().max() > 1e-3


def test_pixels_are_the_decoders_by_the_releases_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKL

    name = register_dit(tmp_path)
    plan = make_plan(name, None, {"resolution": 64})
    drawer = open_generator(plan.checkpoint, plan.settings)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("harope_bench.models.samplers.ddpm.Ddpm.sample", lambda *a: latents)
    requests = registry.load_by_name("suites", "digits").requests([0, 1])
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    with torch.no_grad():
        expected = (
            torch.clamp(127.5 * vae.decode(latents / 0.18215).sample + 128.0, 0, 255)
            .permute(0, 2, 3, 1)
            .to(torch.uint8)
            .numpy()
        )
    images = drawer.generate(requests, plan.settings).images
    assert (
        np.abs(images.astype(int) - expected).max() <= 1
    )  # rows are decoded one at a time: sums in another order may cut elsewhere
    assert images.std() > 1


def test_tiling_is_part_of_the_plan_and_of_the_pixels(tmp_path: Path) -> None:
    name = register_dit(tmp_path)
    whole_plan, tiled_plan = (
        make_plan(name, None, {"resolution": 128, "vae_tiling": tiling}) for tiling in (False, True)
    )
    assert whole_plan.digest != tiled_plan.digest
    pictures = []
    for folder, plan in (("whole", whole_plan), ("tiled", tiled_plan)):
        generate(plan, [0], tmp_path / folder)
        with Image.open(tmp_path / folder / "images/000000.png") as picture:
            pictures.append(np.asarray(picture))
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("encoding", ["harope", "ape"])
def test_other_grids_are_met_as_asked(tmp_path: Path, encoding: str) -> None:
    """Learned or not, weights fit every grid; the scaling reaches the encoding with the training
    grid and the new one.
    """
    name = register_dit(tmp_path, of=encoding)
    kinds = [None, "linear", "yarn"] if encoding == "harope" else [None, "extend", "interpolate"]
    pictures = {}
    for kind in kinds:
        plan = make_plan(name, None, {"resolution": 96, "pos_scaling": kind})
        drawer = open_generator(plan.checkpoint, plan.settings)
        assert drawer.network.encoding.scaling.train_lengths == (() if kind is None else (4, 4))
        assert drawer.network.encoding.scaling.current_lengths == (() if kind is None else (6, 6))
        pictures[kind] = drawer.generate(
            registry.load_by_name("suites", "digits").requests([0, 1]), plan.settings
        ).images
    assert pictures[None].shape == (2, 96, 96, 3)
    assert not np.array_equal(pictures[None], pictures[kinds[2]])
    if encoding == "ape":
        assert np.array_equal(pictures[None], pictures["extend"])


def test_apes_table_of_a_new_grid_is_dits_own_at_that_size() -> None:
    rows = torch.cartesian_prod(torch.arange(6), torch.arange(6)).double()
    labels = {"y_embedder.embedding_table.weight": torch.zeros(1, 48)}
    expected = with_table(labels, side=6)[dit_keys.TABLE_KEY][0]
    torch.testing.assert_close(sincos_table(rows, 48, 10000.0).float(), expected, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------ full
# size


def test_a_full_size_release_file_is_registered_and_sampled(tmp_path: Path) -> None:
    """DiT-B/2 at 256 pixels with HARoPE: random weights in the release's own format, folded, two
    steps, a PNG.
    """
    hidden, depth, heads = dit_keys.MODEL_SIZES["B"]
    size = {
        **SMALL_CONFIG,
        "hidden": hidden,
        "depth": depth,
        "heads": heads,
        "size": 32,
        "classes": 1000,
    }
    with torch.device("meta"):
        shapes = {
            key: value.shape
            for key, value in (
                registry.load_by_name("backbones", "dit")
                .build("harope", {}, size)
                .state_dict()
                .items()
            )
        }
    rng = torch.Generator().manual_seed(0)
    state = release_state(
        {key: 0.02 * torch.randn(shape, generator=rng) for key, shape in shapes.items()}
    )
    assert len(state) == 167
    space = training_file(
        tmp_path / "space.pt", {}, model="DiT-B/2", image_size=256, num_classes=1000
    )
    args = torch.load(space, weights_only=False)["args"]
    torch.save({"model": state, "ema": state, "opt": {}, "args": args}, tmp_path / "0400000.pt")
    register(
        "dit-harope",
        tmp_path / "0400000.pt",
        {"drawing": {"vae": str(autoencoder(tmp_path / "vae")), "tile": 1}},
    )
    assert load_checkpoint_record("dit-harope").config == size
    plan = make_plan("dit-harope", "imagenet-256", {"steps": 2})
    assert plan.settings.fold
    assert (plan.settings.sampler, plan.settings.guidance) == ("ddpm", 1.5)
    generate(plan, [3], tmp_path / "run")
    with Image.open(tmp_path / "run/images/000003.png") as picture:
        assert picture.size == (256, 256)
        assert np.asarray(picture).std() > 1


# -------------------------------------------------------------------------------------------
# decoding in groups


class FakeVae:
    """A decoder that enlarges latents; `rounds` makes its bits depend on the size of the batch."""

    def __init__(self, rounds: bool) -> None:
        self.config = SimpleNamespace(scaling_factor=0.5)
        self.rounds = rounds
        self.group_sizes: list[int] = []

    def decode(self, latents: torch.Tensor) -> Any:
        self.group_sizes.append(len(latents))
        factor = 1 + 1e-7 * len(latents) if self.rounds else 1.0
        images = factor * latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
        return SimpleNamespace(sample=images)


@pytest.mark.parametrize("rounds", [False, True])
def test_latents_are_decoded_in_groups_only_if_no_bit_changes(rounds: bool) -> None:
    latents = torch.randn((8, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    expected = Decoder(FakeVae(rounds))(latents)
    vae = FakeVae(rounds)
    decoder = Decoder(vae, group_size=4)
    assert torch.equal(decoder(latents), expected)
    assert vae.group_sizes == [1] * 8 + [4, 4]
    vae.group_sizes.clear()
    assert torch.equal(decoder(latents), expected)
    assert vae.group_sizes == ([1] * 8 if rounds else [4, 4])


def test_large_images_and_odd_batches_are_decoded_one_by_one() -> None:
    assert max_group_size((32, 32)) == 16
    assert max_group_size((64, 64)) == 4
    assert max_group_size((128, 128)) == 1
    assert max_group_size((256, 256)) == 1
    vae = FakeVae(rounds=False)
    Decoder(vae, group_size=4)(torch.zeros(6, 4, 4, 4))
    assert vae.group_sizes == [1] * 6
