"""Judge blip-vqa: transformers' network under BLIP's conditions, held to a slow one with the
published names, on random weights.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harope_bench import testing
from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    DepthQuery,
    VqaQuery,
    is_complete_annotation,
)
from harope_bench.core.errors import MissingAssetError, OptionError, WeightsError
from harope_bench.core.formats import versioned_json_text
from harope_bench.core.storage import sha256_file
from harope_bench.judges.blip import blip_network

pytest.importorskip("transformers")

VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SPECIAL_FIELDS = {
    "[PAD]": 0,
    "[UNK]": 100,
    "[CLS]": 101,
    "[SEP]": 102,
    "[MASK]": 103,
    "yes": 2748,
    "no": 2053,
    "?": 1029,
}
MORE_FIELDS = {
    "a": 1037,
    "red": 2417,
    "car": 2482,
    "the": 1996,
    "blue": 2630,
    "bench": 6847,
    "##es": 2229,
    ",": 1010,
}


def vocabulary() -> str:
    """A file of BERT's size with its special words, yes and no at their places."""
    words = [f"[w{i}]" for i in range(30522)]
    for word, number in {**SPECIAL_FIELDS, **MORE_FIELDS}.items():
        words[number] = word
    return "\n".join(words) + "\n"


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file at these sizes, by BLIP's modules."""
    d, m, f = 24, 32, 20
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, out: int, *rest: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, *rest), (out,)

    shapes["visual_encoder.cls_token"], shapes["visual_encoder.pos_embed"] = (1, 1, d), (1, 901, d)
    layer("visual_encoder.patch_embed.proj", d, 3, 16, 16)
    layer("visual_encoder.norm", d)
    for i in range(2):
        at = f"visual_encoder.blocks.{i}"
        for name, *size in (
            ("norm1", d),
            ("norm2", d),
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.fc1", m, d),
            ("mlp.fc2", d, m),
        ):
            layer(f"{at}.{name}", *size)
    for tower in ("text_encoder", "text_decoder.bert"):
        shapes[f"{tower}.embeddings.position_ids"] = (1, 512)
        shapes[f"{tower}.embeddings.word_embeddings.weight"] = (30524, d)
        shapes[f"{tower}.embeddings.position_embeddings.weight"] = (512, d)
        layer(f"{tower}.embeddings.LayerNorm", d)
        for i in range(2):
            at = f"{tower}.encoder.layer.{i}"
            for part in ("attention", "crossattention"):
                for name in ("self.query", "self.key", "self.value", "output.dense"):
                    layer(f"{at}.{part}.{name}", d, d)
                layer(f"{at}.{part}.output.LayerNorm", d)
            layer(f"{at}.intermediate.dense", f, d)
            layer(f"{at}.output.dense", d, f)
            layer(f"{at}.output.LayerNorm", d)
    head = "text_decoder.cls.predictions"
    layer(f"{head}.transform.dense", d, d)
    layer(f"{head}.transform.LayerNorm", d)
    layer(f"{head}.decoder", 30524, d)
    shapes[f"{head}.bias"] = (30524,)
    return shapes


def published_state() -> dict[str, Tensor]:
    """Random weights in the published file's form; its head is the word embedding and holds its
    bias twice.
    """
    rng = torch.Generator().manual_seed(0)
    state = {
        name: 0.3 * torch.randn(size, generator=rng) for name, size in published_shapes().items()
    }
    for name in state:
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "LayerNorm.weight")):
            state[name] += 1
        if name.endswith("position_ids"):
            state[name] = torch.arange(512)[None]
    state["text_decoder.cls.predictions.decoder.weight"] = state[
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ]
    state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"]
    return state


class ReferenceBlip:
    """BLIP's question answering written out in float64 on the published names; `first_token`,
    `eps` and `heads` can be set wrong.
    """

    def __init__(
        self, state: dict[str, Tensor], first_token: int = 30523, eps: float = 1e-6, heads: int = 4
    ):
        self.w = {name: tensor.double() for name, tensor in state.items()}
        self.first, self.eps, self.heads = first_token, eps, heads

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centred_mean_value = x - x.mean(-1, keepdim=True)
        return (
            centred_mean_value
            / (centred_mean_value.square().mean(-1, keepdim=True) + eps).sqrt()
            * self.w[f"{name}.weight"]
            + self.w[f"{name}.bias"]
        )

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """(N, D), (M, D), (M, D) to (N, D)."""
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
        shares = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return (shares @ v).transpose(0, 1).flatten(1)

    def image(self, image: np.ndarray) -> Tensor:
        """(901, D)."""
        square = (
            np.asarray(Image.fromarray(image).resize((480, 480), Image.Resampling.BICUBIC)) / 255
        )
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        tiles = (
            ((square - mean) / std)
            .reshape(30, 16, 30, 16, 3)
            .transpose(0, 2, 4, 1, 3)
            .reshape(900, 768)
        )
        patches = (
            torch.from_numpy(tiles) @ self.w["visual_encoder.patch_embed.proj.weight"].flatten(1).T
        )
        x = torch.cat(
            [
                self.w["visual_encoder.cls_token"][0],
                patches + self.w["visual_encoder.patch_embed.proj.bias"],
            ]
        )
        x = x + self.w["visual_encoder.pos_embed"][0]
        for i in range(2):
            at = f"visual_encoder.blocks.{i}"
            q, k, v = self.linear(self.norm(x, f"{at}.norm1", self.eps), f"{at}.attn.qkv").chunk(
                3, -1
            )
            x = x + self.linear(self.attend(q, k, v, 3), f"{at}.attn.proj")
            x = x + self.linear(
                self.gelu(self.linear(self.norm(x, f"{at}.norm2", self.eps), f"{at}.mlp.fc1")),
                f"{at}.mlp.fc2",
            )
        return self.norm(x, "visual_encoder.norm", self.eps)

    def text(self, ids: list[int], tower: str, tensor: Tensor) -> Tensor:
        """A text tower that looks at `seen`: (N, D)."""
        x = (
            self.w[f"{tower}.embeddings.word_embeddings.weight"][ids]
            + self.w[f"{tower}.embeddings.position_embeddings.weight"][: len(ids)]
        )
        x = self.norm(x, f"{tower}.embeddings.LayerNorm", 1e-12)
        for i in range(2):
            at = f"{tower}.encoder.layer.{i}"
            for part, keys in (("attention", None), ("crossattention", tensor)):
                base = f"{at}.{part}.self"
                keys = x if keys is None else keys
                mixed_attend = self.attend(
                    self.linear(x, f"{base}.query"),
                    self.linear(keys, f"{base}.key"),
                    self.linear(keys, f"{base}.value"),
                    self.heads,
                )
                x = self.norm(
                    x + self.linear(mixed_attend, f"{at}.{part}.output.dense"),
                    f"{at}.{part}.output.LayerNorm",
                    1e-12,
                )
            inner_linear = self.linear(
                self.gelu(self.linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense"
            )
            x = self.norm(x + inner_linear, f"{at}.output.LayerNorm", 1e-12)
        return x

    def share(self, image: np.ndarray, words: list[int]) -> float:
        """The share of yes; `words` without first and last token."""
        question = self.text([self.first, *words, 102], "text_encoder", self.image(image))
        answer = self.text([30522], "text_decoder.bert", question)
        head = "text_decoder.cls.predictions"
        x = self.norm(
            self.gelu(self.linear(answer, f"{head}.transform.dense")),
            f"{head}.transform.LayerNorm",
            1e-12,
        )
        logits = (
            x @ self.w["text_decoder.bert.embeddings.word_embeddings.weight"].T
            + self.w[f"{head}.bias"]
        )[0]
        return float(logits[[2748, 2053]].softmax(-1)[0])


@pytest.fixture
def small_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The judge made small, with weights in the published form and a vocabulary beside them."""
    plugin, path = registry.load_by_name("judges", "blip-vqa"), tmp_path / "blip.pth"
    torch.save({"model": published_state()}, path)
    (tmp_path / "vocab.txt").write_text(vocabulary())
    monkeypatch.setattr(plugin, "vision", VISION)
    monkeypatch.setattr(plugin, "text", TEXT)
    monkeypatch.setenv(plugin.source.environment_variable, str(path))
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def answer_probabilities(image: np.ndarray, *questions: str) -> list[float]:
    answer = (
        registry.load_by_name("judges", "blip-vqa")
        .open("cpu")
        .annotate("vqa", image, VqaQuery(questions=questions))
    )
    return [a.yes_probability for a in answer.answers]


QUESTIONS = {
    "a red car?": [1037, 2417, 2482, 1029],
    "the blue benches?": [1996, 2630, 6847, 2229, 1029],
    "car?": [2482, 1029],
}


def test_shares_are_blips(small_weights: Path, image: np.ndarray) -> None:
    """All at once: names, image size, norms, heads, [ENC], first step. Each constant of
    transformers' defaults would show.
    """
    answer_probabilities_result = answer_probabilities(image, *QUESTIONS)
    state = published_state()
    slow_reference_blip = ReferenceBlip(state)
    expected = [slow_reference_blip.share(image, words) for words in QUESTIONS.values()]
    assert (
        np.abs(np.array(answer_probabilities_result) - expected).max() < 2e-5
    )  # float32 through six layers against float64
    assert np.ptp(expected) > 1e-2
    for changed_field in ({"first_token": 101}, {"heads": 2}):
        other_shares = [
            ReferenceBlip(state, **changed_field).share(image, words)
            for words in QUESTIONS.values()
        ]
        assert np.abs(np.array(other_shares) - expected).max() > 1e-3, changed_field


def test_norms_of_the_image_tower_have_blips_epsilon() -> None:
    network = blip_network.build_network(VISION, TEXT)
    eps = {
        name: module.eps
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
    }
    assert {value for name, value in eps.items() if name.startswith("vision")} == {1e-6}
    assert {value for name, value in eps.items() if name.startswith("text")} == {1e-12}
    assert (
        network.config.text_config.num_attention_heads == 4
        and network.config.vision_config.image_size == 480
    )


def test_a_flat_picture_shows_the_epsilon(small_weights: Path) -> None:
    """Small activations make 1e-6 and 1e-5 differ."""
    state = {
        k: v * (0.01 if k.startswith("visual_encoder.p") or "cls_token" in k else 1)
        for k, v in published_state().items()
    }
    torch.save({"model": state}, small_weights)
    flat_values = np.full((8, 8, 3), 120, dtype=np.uint8)
    answer_probability = answer_probabilities(flat_values, "a red car?")[0]
    expected, other_share = (
        ReferenceBlip(state, eps=eps).share(flat_values, QUESTIONS["a red car?"])
        for eps in (1e-6, 1e-5)
    )
    assert abs(answer_probability - expected) < 2e-5 < 1e-4 < abs(other_share - expected)


def test_questions_do_not_depend_on_their_neighbours(
    small_weights: Path, image: np.ndarray
) -> None:
    """Lengths differ, so padding would show."""
    together = answer_probabilities(image, *QUESTIONS, "car?", "the car?")
    alone_answer_probabilities = [
        answer_probabilities(image, q)[0] for q in (*QUESTIONS, "car?", "the car?")
    ]
    assert together == pytest.approx(alone_answer_probabilities, abs=1e-6)
    assert together[2] == together[3] and answer_probabilities(image) == []


def test_every_key_of_the_file_is_used(small_weights: Path) -> None:
    state = published_state()
    renamed_state = blip_network.convert_state(state)
    assert set(renamed_state) == set(blip_network.build_network(VISION, TEXT).state_dict())
    assert len(renamed_state) == len(state) - 2  # the two lists of places
    for extra_text in (
        "visual_encoder.blocks.0.extra",
        "text_encoder.pooler.dense.weight",
        "visual_encoder_m.norm.weight",
    ):
        torch.save({"model": {**state, extra_text: torch.zeros(1)}}, small_weights)
        with pytest.raises(
            WeightsError,
            match="does not fit BLIP VQA base: unexpected .*; run: harope-bench fetch blip-vqa",
        ):
            registry.load_by_name("judges", "blip-vqa").open("cpu")
    del state["visual_encoder.norm.bias"]
    torch.save({"model": state}, small_weights)
    with pytest.raises(WeightsError, match=r"missing vision_model\.post_layernorm\.bias"):
        registry.load_by_name("judges", "blip-vqa").open("cpu")


def test_the_judge_keeps_its_promises(small_weights: Path) -> None:
    testing.check_annotator("blip-vqa")


def test_answers_are_typed_and_say_the_likelier_word(
    small_weights: Path, image: np.ndarray
) -> None:
    loaded_judge = registry.load_by_name("judges", "blip-vqa").open("cpu")
    ask = VqaQuery(questions=tuple(QUESTIONS))
    answer = loaded_judge.annotate("vqa", image, ask)
    assert (
        is_complete_annotation(ask, answer)
        and ANNOTATION_TYPES["vqa"].model_validate(answer.model_dump()) == answer
    )
    assert all(a.text == ("yes" if a.yes_probability > 0.5 else "no") for a in answer.answers)
    with pytest.raises(OptionError, match="wanted depth"):
        loaded_judge.annotate("depth", image, DepthQuery(boxes=()))


def test_questions_are_put_as_blip_puts_them(tmp_path: Path) -> None:
    assert (
        blip_network.clean_question('A "Red" Car!; (the #1): *blue*~ bench.  ')
        == "a red car the 1 blue bench"
    )
    assert blip_network.clean_question("what?") == "what?"
    assert len(blip_network.clean_question("car " * 80).split(" ")) == 50
    (tmp_path / "vocab.txt").write_text(vocabulary())
    words = blip_network.BlipTokenizer(tmp_path / "vocab.txt")
    assert words.tokenize("A red car?") == [30523, 1037, 2417, 2482, 1029, 102]
    assert words.tokenize("Benches, strange?") == [30523, 6847, 2229, 1010, 100, 1029, 102]
    long_tokenize = words.tokenize("car " * 49 + "blue?")
    assert (
        len(long_tokenize) == 35
        and long_tokenize[0] == 30523
        and long_tokenize[-1] == 102
        and set(long_tokenize[1:-1]) == {2482}
    )


def test_another_vocabulary_is_refused(small_weights: Path, tmp_path: Path) -> None:
    for text in ("yes\nno\n", vocabulary().replace("\nyes\n", "\nyess\n")):
        (tmp_path / "vocab.txt").write_text(text)
        with pytest.raises(WeightsError, match="is not bert-base-uncased's vocabulary"):
            registry.load_by_name("judges", "blip-vqa").open("cpu")
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(MissingAssetError, match="harope-bench fetch blip-vqa"):
        registry.load_by_name("judges", "blip-vqa").open("cpu")


def test_what_fetch_brought_is_believed_with_a_word_of_doubt(
    small_weights: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", "blip-vqa")
    assert plugin.judge_class == "substitute" and "other weights" in plugin.warnings()[0]
    assert plugin.weights_sha256() == sha256_file(small_weights)
    monkeypatch.delenv(plugin.source.environment_variable)
    with pytest.raises(MissingAssetError, match="harope-bench fetch blip-vqa"):
        plugin.weights_sha256()
    folder = local_files.asset_folder("blip-vqa")
    folder.mkdir(parents=True)
    names = ("model_base_vqa_capfilt_large.pth", "vocab.txt")
    for name, source in zip(
        names, (small_weights, small_weights.with_name("vocab.txt")), strict=True
    ):
        (folder / name).write_bytes(source.read_bytes())
    receipt = {name: {"sha256": sha256_file(folder / name), "is_from_url": True} for name in names}
    (folder / local_files.RECEIPT).write_text(versioned_json_text("receipt", {"files": receipt}))
    assert plugin.judge_class == "equivalent"
    assert "states no hash" in plugin.warnings()[0] and "only the address" in plugin.warnings()[0]
    assert plugin.open("cpu").weights_sha256 == receipt[names[0]]["sha256"]
    for unknown_field in ({**receipt[names[0]], "is_from_url": False}, receipt[names[0]]["sha256"]):
        (folder / local_files.RECEIPT).write_text(
            versioned_json_text("receipt", {"files": {**receipt, names[0]: unknown_field}})
        )
        assert plugin.judge_class == "substitute" and "imported with --from" in plugin.warnings()[0]


def test_a_conversion_gives_the_same_answers(
    small_weights: Path, image: np.ndarray, tmp_path: Path
) -> None:
    """transformers saves one of two equal tensors; the judge finds the other."""
    expected = answer_probabilities(image, *QUESTIONS)
    network = blip_network.build_network(VISION, TEXT)
    network.load_state_dict(blip_network.convert_state(published_state()))
    network.save_pretrained(tmp_path / "hub")
    (tmp_path / "hub" / "vocab.txt").write_text(vocabulary())
    bound = registry.load_by_name("judges", "blip-vqa").with_model(str(tmp_path / "hub"))
    annotation = bound.open("cpu").annotate("vqa", image, VqaQuery(questions=tuple(QUESTIONS)))
    assert [a.yes_probability for a in annotation.answers] == pytest.approx(expected, abs=1e-6)
    assert (
        bound.judge_class == "substitute"
        and "conversion" in bound.warnings()[0]
        and len(bound.weights_sha256()) == 64
    )
    from safetensors.torch import load_file, save_file

    path = tmp_path / "hub" / "model.safetensors"
    state = load_file(path)
    for name in blip_network.TIED_KEYS:
        state.pop(name)
    save_file(state, path)
    annotation = bound.open("cpu").annotate("vqa", image, VqaQuery(questions=tuple(QUESTIONS)))
    assert [a.yes_probability for a in annotation.answers] == pytest.approx(expected, abs=1e-6)


def cubic(x: float) -> float:
    """Keys' kernel with a = -3/4."""
    x = abs(x)
    return 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3


def test_positions_of_a_conversion_are_stretched_as_blips_loader_does() -> None:
    name = "vision_model.embeddings.position_embedding"
    ramp = torch.arange(24.0)[:, None].expand(24, 24).reshape(1, 576, 1)  # grows by one a row
    resize_position = blip_network.resize_positions(
        {name: torch.cat([torch.full((1, 1, 1), -5.0), ramp], 1)}
    )[name]
    assert resize_position.shape == (1, 901, 1) and resize_position[0, 0, 0] == -5
    grid = resize_position[0, 1:, 0].reshape(30, 30)
    for row in range(3, 27):  # away from the edges
        at = (row + 0.5) * 24 / 30 - 0.5
        near_value = range(math.floor(at) - 1, math.floor(at) + 3)
        assert grid[row].tolist() == pytest.approx(
            [sum(j * cubic(at - j) for j in near_value)] * 30, abs=1e-4
        )
    whole_value: Any = {name: torch.zeros(1, 901, 1)}
    assert blip_network.resize_positions(whole_value) is whole_value
    with pytest.raises(WeightsError, match="wanted"):
        blip_network.resize_positions({name: torch.zeros(1, 12, 1)})


def test_the_network_of_full_size() -> None:
    """361 million parameters without the head's second copy of the words: 12 + 12 + 12 layers, as
    in BLIP.
    """
    with torch.device("meta"):
        network = blip_network.build_network(blip_network.VISION, blip_network.TEXT)
    d, f = 768, 3072
    linear = lambda i, o: i * o + o  # noqa: E731
    block = 4 * linear(d, d) + linear(d, f) + linear(f, d) + 4 * d
    vision = 12 * block + 901 * d + d + linear(768, d) + 2 * d
    text = 12 * (block + 4 * linear(d, d) + 2 * d) + 30524 * d + 512 * d + 2 * d
    head = linear(d, d) + 2 * d + linear(d, 30524) + 30524
    assert sum(p.numel() for p in network.parameters()) == vision + 2 * text + head
    assert (
        network.config.text_config.num_attention_heads
        == network.config.vision_config.num_attention_heads
        == 12
    )


def test_the_self_check_passes_on_any_weights_and_finds_padding(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", "blip-vqa")
    loaded_judge = plugin.open("cpu")
    first_self_check, second, third = plugin.self_checks()
    assert [case.check(loaded_judge) for case in (first_self_check, second, third)] == [None] * 3
    whole_tokenize = loaded_judge.tokenizer.tokenize
    with monkeypatch.context() as patch:
        patch.setattr(
            loaded_judge.tokenizer,
            "tokenize",
            lambda question: [101, *whole_tokenize(question)[1:]],
        )
        assert "wanted 30523" in second.check(loaded_judge)
    shares = blip_network.yes_probabilities

    def padded(network: Any, pixels: Tensor, questions: list[list[int]]) -> list[float]:
        longest = max(map(len, questions))
        return shares(network, pixels, [q + [0] * (longest - len(q)) for q in questions])

    monkeypatch.setattr(blip_network, "yes_probabilities", padded)
    assert "beside a longer question yes has" in third.check(loaded_judge)


def test_only_the_published_weights_owe_an_answer_about_a_picture(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That they give it was not seen here; the answers' order decides."""
    plugin = registry.load_by_name("judges", "blip-vqa")
    monkeypatch.setattr(type(plugin), "judge_class", "equivalent")
    *_, trial = plugin.self_checks()
    form = ANNOTATION_TYPES["vqa"]
    for first_value, second, right in ((0.9, 0.1, True), (0.1, 0.9, False)):
        assert (
            trial.is_correct(
                form(
                    answers=(
                        {"text": "yes", "yes_probability": first_value},
                        {"text": "no", "yes_probability": second},
                    )
                )
            )
            is right
        )
    assert is_complete_annotation(
        trial.query, plugin.open("cpu").annotate(trial.role, trial.image, trial.query)
    )
