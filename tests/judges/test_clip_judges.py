"""Judges with both towers of CLIP: the network, GenEval's colours and T2I-CompBench's cosine, on
small networks with random weights.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CLIP_SIZES, clip_model, random_clip_weights
from torch import Tensor

from harope_bench import testing
from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    ColourObject,
    ColourQuery,
    DepthQuery,
    SimilarityQuery,
    encode_mask,
    is_complete_annotation,
)
from harope_bench.core.errors import MissingAssetError, OptionError, ShapeError, WeightsError
from harope_bench.core.storage import sha256_file
from harope_bench.judges.clip import clip_network, clip_vit_l_14
from harope_bench.judges.weights import asset_files

COLOURS, SCORE = "clip-vit-l-14", "clipscore"


@pytest.fixture
def small_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both judges made small, with one weights file."""
    path = tmp_path / "clip.pt"
    torch.save(random_clip_weights(), path)
    for name in (COLOURS, SCORE):
        plugin = registry.load_by_name("judges", name)
        monkeypatch.setattr(plugin, "sizes", CLIP_SIZES)
        monkeypatch.setenv(plugin.source.environment_variable, str(path))
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """70 x 53 with large and small structure."""
    rng = np.random.default_rng(0)
    coarse_value = rng.integers(0, 256, (10, 8, 3)).repeat(7, 0).repeat(7, 1)[:, :53]
    return np.clip(coarse_value + rng.integers(-40, 41, (70, 53, 3)), 0, 255).astype(np.uint8)


def reference(quick_gelu: bool = True) -> torch.nn.Module:
    clip_model_result = clip_model(quick_gelu)
    clip_model_result.load_state_dict(
        {k: v for k, v in random_clip_weights().items() if k not in clip_network.NON_WEIGHT_KEYS}
    )
    return clip_model_result


def pixels(picture: Image.Image) -> Tensor:
    """OpenAI's steps in the open: shorter side to 224 by pillow's bicubic filter, the middle 224, /
    255, mean, deviation.
    """
    width, height = picture.size
    short_smallest_value = min(width, height)
    size = (
        (224, int(224 * height / short_smallest_value))
        if width == short_smallest_value
        else (int(224 * width / short_smallest_value), 224)
    )
    grown_resize = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    x = np.asarray(grown_resize.crop((left, top, left + 224, top + 224)), dtype=np.float64) / 255
    x = (x - np.array(clip_network.MEAN)) / np.array(clip_network.STD)
    return torch.from_numpy(x).permute(2, 0, 1)[None].float()


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def slow_shares(
    model: Any, picture: Image.Image, name: str, colours: tuple[str, ...]
) -> list[float]:
    """GenEval's colour step written out."""
    import open_clip

    with torch.inference_mode():
        unit_result = unit(model.encode_image(pixels(picture)))[0].double()
        logits = []
        for c in colours:
            texts = [
                f"a photo of a {c} {name}",
                f"a photo of a {c}-colored {name}",
                f"a photo of a {c} object",
            ]
            rows = unit(model.encode_text(open_clip.tokenize(texts))).double()
            mean = rows.sum(0) / 3
            logits.append(100 * float(unit_result @ (mean / mean.square().sum().sqrt())))
    top = max(logits)
    shares = [math.exp(logit - top) for logit in logits]
    return [share / sum(shares) for share in shares]


# ------------------------------------------------------------------------------------------- the
# network


def test_the_network_is_open_clips_with_quick_gelu(small_weights: Path, image: np.ndarray) -> None:
    """Image and text, against open_clip's model with the same weights; plain GELU would differ by
    far more.
    """
    loaded_judge = registry.load_by_name("judges", SCORE).open("cpu")
    texts = ("a red car", "two dogs")
    values = np.array(
        loaded_judge.annotate("similarity", image, SimilarityQuery(texts=texts)).cosines
    )
    expected = {}
    import open_clip

    for quick_flag in (True, False):
        model: Any = reference(quick_flag)
        with torch.inference_mode():
            picture, words = (
                unit(model.encode_image(pixels(Image.fromarray(image)))),
                unit(model.encode_text(open_clip.tokenize(list(texts)))),
            )
        expected[quick_flag] = (picture @ words.T)[0].numpy()
    assert np.abs(values - expected[True]).max() < 1e-5
    assert np.abs(expected[False] - expected[True]).max() > 1e-3


def test_plain_gelu_is_noticed(monkeypatch: pytest.MonkeyPatch, small_weights: Path) -> None:
    clip_network.require_quick_gelu(clip_model(True))
    with pytest.raises(WeightsError, match="open_clip built GELU where CLIP has QuickGELU"):
        clip_network.require_quick_gelu(clip_model(False))
    with pytest.raises(WeightsError, match="built no activation"):
        clip_network.require_quick_gelu(torch.nn.Linear(2, 2))
    monkeypatch.setattr(
        "open_clip.model.QuickGELU", torch.nn.GELU
    )  # as another release of open_clip might
    with pytest.raises(WeightsError, match="open_clip built GELU"):
        registry.load_by_name("judges", COLOURS).open("cpu")


def test_full_sizes_are_open_clips() -> None:
    import open_clip

    for name, parameters in ((COLOURS, 427_616_513), (SCORE, 151_277_313)):
        plugin = registry.load_by_name("judges", name)
        config = open_clip.get_model_config(plugin.model)
        assert config["quick_gelu"]
        with torch.device("meta"):
            whole_clip = open_clip.model.CLIP(
                config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=True
            )
        assert sum(p.numel() for p in whole_clip.parameters()) == parameters
        assert [n for n, _ in whole_clip.named_buffers()] == ["attn_mask"], (
            "a number that no weights file fills"
        )


@pytest.mark.parametrize("name", [COLOURS, SCORE])
def test_the_address_of_openais_file_carries_its_hash(name: str) -> None:
    (file,) = local_files.load_asset(name).files
    assert file.urls[0].split("/")[-2:] == [file.sha256, file.name]


@pytest.mark.parametrize("name", [COLOURS, SCORE])
def test_only_the_published_file_makes_an_equivalent_judge(
    name: str, small_weights: Path, monkeypatch: pytest.MonkeyPatch, bench_home: Path
) -> None:
    plugin = registry.load_by_name("judges", name)
    assert (
        plugin.judge_class == "substitute" and "other weights than OpenAI's" in plugin.warnings()[0]
    )
    assert (
        plugin.weights_sha256() == plugin.open("cpu").weights_sha256 == sha256_file(small_weights)
    )
    monkeypatch.delenv(plugin.source.environment_variable)
    with pytest.raises(MissingAssetError, match=f"harope-bench fetch {name}"):
        plugin.weights_sha256()
    assert plugin.judge_class == "substitute"
    genuine = asset_files.WeightsFile(small_weights, plugin.source.published_sha256())
    monkeypatch.setattr(asset_files.WeightsSource, "find", lambda self: genuine)
    assert plugin.judge_class == "equivalent" and plugin.warnings() == ()
    with pytest.raises(
        WeightsError, match="recorded"
    ):  # its bytes are hashed again before TorchScript sees them
        plugin.open("cpu")


@pytest.mark.parametrize("name", [COLOURS, SCORE])
def test_judges_keep_their_promises(name: str, small_weights: Path) -> None:
    testing.check_annotator(name)


def test_another_networks_weights_are_refused(small_weights: Path) -> None:
    state = random_clip_weights()
    torch.save({**state, "visual.extra": torch.zeros(1)}, small_weights)
    with pytest.raises(
        WeightsError,
        match=(
            r"does not fit OpenAI's CLIP ViT-B/32: unexpected visual\.extra; run: harope-bench"
            r" fetch clipscore"
        ),
    ):
        registry.load_by_name("judges", SCORE).open("cpu")
    del state["ln_final.bias"]
    torch.save(state, small_weights)
    with pytest.raises(WeightsError, match=r"missing ln_final\.bias"):
        registry.load_by_name("judges", COLOURS).open("cpu")


# ---------------------------------------------------------------------------------------------
# colours


def colour_objects(image: np.ndarray) -> tuple[ColourObject, ...]:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    disc = (y - 30) ** 2 + (x - 20) ** 2 < 300
    return (
        ColourObject(
            name="computer mouse", box=(2.5, 12.5, 38.5, 47.5), mask=encode_mask(disc)
        ),  # corners halve: 2, 12, 38, 48
        ColourObject(name="bus", box=(0, 0, 53, 30)),
        ColourObject(name="cat", box=(-3.2, 40, 60, 75), mask=encode_mask(~disc)),
    )


def test_shares_are_genevals(small_weights: Path, image: np.ndarray) -> None:
    model, ask = (
        reference(),
        ColourQuery(objects=colour_objects(image), candidates=clip_vit_l_14.COLOURS),
    )
    answer = registry.load_by_name("judges", COLOURS).open("cpu").annotate("colours", image, ask)
    assert ANNOTATION_TYPES["colours"].model_validate(
        answer.model_dump()
    ) == answer and is_complete_annotation(ask, answer)
    picture, ground = Image.fromarray(image), Image.new("RGB", (53, 70), "#999")
    boxes = [(2, 12, 38, 48), (0, 0, 53, 30), (-3, 40, 60, 75)]
    for object_result, box, probability in zip(
        ask.objects, boxes, answer.probabilities, strict=True
    ):
        y, x = np.mgrid[:70, :53]
        disc = (y - 30) ** 2 + (x - 20) ** 2 < 300
        mask = {"computer mouse": disc, "bus": None, "cat": ~disc}[object_result.name]
        shown_picture = (
            picture
            if mask is None
            else Image.fromarray(np.where(mask[..., None], image, np.asarray(ground)))
        )
        expected = slow_shares(model, shown_picture.crop(box), object_result.name, ask.candidates)
        assert np.abs(np.array(probability) - expected).max() < 1e-4, (
            object_result.name
        )  # 100 cosines carry float32's 1e-6 to 1e-4
        assert int(np.argmax(probability)) == int(np.argmax(expected))
        assert sum(probability) == pytest.approx(1, abs=1e-9)
    assert len({tuple(shares) for shares in answer.probabilities}) == 3


def test_candidates_and_names_matter_and_nothing_else(
    small_weights: Path, image: np.ndarray
) -> None:
    loaded_judge = registry.load_by_name("judges", COLOURS).open("cpu")
    bus = colour_objects(image)[1]
    ask = ColourQuery(objects=(bus, bus), candidates=("red", "white"))
    probability, two = loaded_judge.annotate("colours", image, ask).probabilities
    assert probability == two
    assert loaded_judge.annotate(
        "colours", image, ColourQuery(objects=(bus,), candidates=("white", "red"))
    ).probabilities[0][::-1] == pytest.approx(probability, abs=1e-6)
    cat = bus.model_copy(update={"name": "cat"})
    assert (
        loaded_judge.annotate(
            "colours", image, ColourQuery(objects=(cat,), candidates=("red", "white"))
        ).probabilities[0]
        != probability
    )
    loaded_judge.annotate(
        "colours",
        image,
        ColourQuery(objects=colour_objects(image), candidates=clip_vit_l_14.COLOURS),
    )
    assert loaded_judge.annotate("colours", image, ask).probabilities[0] == probability


def test_cut_outs_of_nothing_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="holds no pixel"):
        clip_vit_l_14.crop_object(
            image, ColourObject(name="cat", box=(10.4, 3, 10.5, 9))
        )  # 10.5 goes to 10
    with pytest.raises(
        ShapeError, match=r"a mask of size \(4, 4\) for an image of size \(70, 53\)"
    ):
        clip_vit_l_14.crop_object(
            image,
            ColourObject(name="cat", box=(0, 0, 9, 9), mask=encode_mask(np.ones((4, 4), bool))),
        )


def test_roles_are_kept(small_weights: Path, image: np.ndarray) -> None:
    for name, role in ((COLOURS, "similarity"), (SCORE, "colours")):
        loaded_judge = registry.load_by_name("judges", name).open("cpu")
        with pytest.raises(OptionError, match="choose another judge"):
            loaded_judge.annotate(role, image, DepthQuery(boxes=()))


# ----------------------------------------------------------------------------------------------
# cosines


def test_cosines_are_unscaled_and_stand_alone(small_weights: Path, image: np.ndarray) -> None:
    loaded_judge = registry.load_by_name("judges", SCORE).open("cpu")
    ask = SimilarityQuery(texts=("a red car", "a Red  CAR ", "a photograph of two dogs"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = loaded_judge.annotate("similarity", image, ask)
    assert is_complete_annotation(ask, answer) and all(-1 <= c <= 1 for c in answer.cosines)
    assert answer.cosines[0] == pytest.approx(answer.cosines[1], abs=1e-6), (
        "capitals and blanks do not count"
    )
    assert abs(answer.cosines[0] - answer.cosines[2]) > 1e-3
    alone_annotation = loaded_judge.annotate(
        "similarity", image, SimilarityQuery(texts=ask.texts[2:])
    )
    assert alone_annotation.cosines[0] == pytest.approx(answer.cosines[2], abs=1e-6)
    with pytest.raises(ShapeError, match=r"a text of 79 tokens .*CLIP reads 77"):
        loaded_judge.annotate("similarity", image, SimilarityQuery(texts=("dog " * 77,)))


@pytest.mark.parametrize("name", [COLOURS, SCORE])
def test_the_self_check_passes_on_any_weights_and_finds_a_wrong_stack(
    name: str, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", name)
    loaded_judge = plugin.open("cpu")
    checks = {case.name: case for case in plugin.self_checks()}
    assert all(case.check(loaded_judge) is None for case in checks.values())
    prepare = loaded_judge.towers.prepare
    loaded_judge.towers.prepare = lambda picture: prepare(picture).flip(0)  # BGR
    assert "wanted red first" in checks["red reaches the network first"].check(loaded_judge)
    loaded_judge.towers.tokenizer = lambda texts: torch.zeros(1, 77, dtype=torch.long)
    assert "wanted [49406, 320" in checks["a sentence becomes CLIP's tokens"].check(loaded_judge)
    if name == COLOURS:
        monkeypatch.setattr(
            clip_vit_l_14, "crop_object", lambda image, item: Image.new("RGB", (4, 4))
        )
        assert "is cut to (4, 4, 3)" in checks["an object is cut out over grey"].check(loaded_judge)


@pytest.mark.parametrize("name", [COLOURS, SCORE])
def test_only_the_published_weights_owe_an_answer_about_a_picture(
    name: str, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That they give it was not seen here."""
    plugin = registry.load_by_name("judges", name)
    plain_count = len(plugin.self_checks())
    monkeypatch.setattr(type(plugin), "judge_class", "equivalent")
    loaded_judge, trials = plugin.open("cpu"), plugin.self_checks()[plain_count:]
    for trial in trials:
        assert trial.role in plugin.roles and trial.image.dtype == np.uint8
        answer = loaded_judge.annotate(trial.role, trial.image, trial.query)
        assert is_complete_annotation(trial.query, answer) and (
            trial.check(loaded_judge) is None
        ) == trial.is_correct(answer)
    if name == COLOURS:
        assert [trial.image[112, 112].argmax() for trial in trials] == [0, 1, 2]
        shares = np.zeros((3, 10))
        shares[[0, 1, 2], [0, 3, 4]] = 1  # red, green, blue of GenEval's ten
        rights = [
            [
                t.is_correct(ANNOTATION_TYPES["colours"](probabilities=(tuple(row),)))
                for row in shares
            ]
            for t in trials
        ]
        assert np.array_equal(rights, np.eye(3, dtype=bool))
    else:
        assert [
            trials[0].is_correct(ANNOTATION_TYPES["similarity"](cosines=pair))
            for pair in ((0.3, 0.2), (0.2, 0.3))
        ] == [True, False]
