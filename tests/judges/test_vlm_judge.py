"""Judge vlm: a model of the user's is asked in its own form; shown on a small LLaVA with random
weights and words made here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vlm import VOCABULARY, save_vlm

from harope_bench import testing
from harope_bench.core import registry
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    DepthQuery,
    VqaQuery,
    is_complete_annotation,
)
from harope_bench.core.errors import MissingAssetError, OptionError, WeightsError
from harope_bench.judges.generic import vlm

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


ASK = VqaQuery(questions=("is it red ?", "is it a blue car ?"))


def reference_decoding(
    loaded_judge: Any, image: np.ndarray, question: str
) -> tuple[list[int], torch.Tensor]:
    """Greedy decoding by whole forward passes, from the prompt written out: its words and the first
    logits (words,).
    """
    prompt = f"user : <image> {question} Answer with yes or no. assistant :"
    inputs = loaded_judge.processor(images=Image.fromarray(image), text=prompt, return_tensors="pt")
    ids, first_logits, fresh_records = inputs["input_ids"], None, []
    with torch.inference_mode():
        for _ in range(vlm.MAX_ANSWER_TOKENS):
            logits = loaded_judge.network(
                input_ids=ids,
                pixel_values=inputs["pixel_values"],
                attention_mask=torch.ones_like(ids),
            ).logits[0, -1]
            first_logits = logits if first_logits is None else first_logits
            fresh_records.append(int(logits.argmax()))
            if fresh_records[-1] == 2:
                break
            ids = torch.cat([ids, torch.tensor([[fresh_records[-1]]])], 1)
    assert first_logits is not None
    return fresh_records, first_logits


def test_answers_are_greedy_and_shares_those_of_the_first_token(
    model: Path, image: np.ndarray
) -> None:
    plugin = registry.load_by_name("judges", "vlm").with_model(str(model))
    loaded_judge = plugin.open("cpu")
    answer = loaded_judge.annotate("vqa", image, ASK)
    assert (
        is_complete_annotation(ASK, answer)
        and ANNOTATION_TYPES["vqa"].model_validate(answer.model_dump()) == answer
    )
    assert (loaded_judge.yes_tokens, loaded_judge.no_tokens) == ([5, 6], [7, 8])
    for question, answer_result in zip(ASK.questions, answer.answers, strict=True):
        ids, logits = reference_decoding(loaded_judge, image, question)
        assert len(ids) == vlm.MAX_ANSWER_TOKENS and len(set(ids)) < len(ids), (
            "a penalty for repetition would show"
        )
        values = [
            VOCABULARY[i]
            for i in ids
            if VOCABULARY[i] not in ("<pad>", "<s>", "</s>", "<unk>", "<image>")
        ]
        assert answer_result.text == vlm.clean_answer(" ".join(values))
        shares = logits.double().softmax(0)
        assert answer_result.yes_probability == pytest.approx(
            float(shares[[5, 6]].sum() / shares[[5, 6, 7, 8]].sum()), abs=1e-5
        )
    assert answer.answers[0].yes_probability != answer.answers[1].yes_probability
    assert (
        plugin.weights_sha256() == loaded_judge.weights_sha256
        and plugin.judge_class == "substitute"
    )


def test_the_judge_keeps_its_promises(model: Path) -> None:
    testing.check_annotator(registry.load_by_name("judges", "vlm").with_model(str(model)))


def test_answers_stand_alone_and_come_again(model: Path, image: np.ndarray) -> None:
    loaded_judge = registry.load_by_name("judges", "vlm").with_model(str(model)).open("cpu")
    state = torch.random.get_rng_state()
    annotation = loaded_judge.annotate("vqa", image, ASK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (
        loaded_judge.annotate("vqa", image, VqaQuery(questions=ASK.questions[1:])).answers[0]
        == annotation.answers[1]
    )
    other_annotation = loaded_judge.annotate("vqa", 255 - image, ASK)
    assert other_annotation.answers[0].yes_probability != annotation.answers[0].yes_probability, (
        "it looks at the picture"
    )
    with pytest.raises(OptionError, match="wanted depth"):
        loaded_judge.annotate("depth", image, DepthQuery(boxes=()))


def test_without_tokens_for_yes_there_is_no_share(tmp_path: Path, image: np.ndarray) -> None:
    loaded_judge = (
        registry.load_by_name("judges", "vlm")
        .with_model(str(save_vlm(tmp_path, without=("yes", "Yes"))))
        .open("cpu")
    )
    assert loaded_judge.yes_tokens == [] and loaded_judge.no_tokens == [7, 8]
    assert [a.yes_probability for a in loaded_judge.annotate("vqa", image, ASK).answers] == [
        None,
        None,
    ]


def test_words_are_counted_in_all_their_forms() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).log_softmax(0)
    p = logits.double().exp()
    assert vlm.yes_probability(logits, [0, 2], [1]) == pytest.approx(
        float((p[0] + p[2]) / (p[0] + p[1] + p[2]))
    )
    assert (
        vlm.yes_probability(logits, [], [1]) is None
        and vlm.yes_probability(logits, [1], []) is None
    )
    assert [vlm.clean_answer(text) for text in (" Yes.", "yes", "No!", "It is red. ", "")] == [
        "yes",
        "yes",
        "no",
        "it is red",
        "",
    ]


# What AutoProcessor gives for models that cannot be asked in a chat.
PROCESSORS_WITHOUT_CHAT = (
    SimpleNamespace(chat_template="{{ messages }}", apply_chat_template=print),  # no tokenizer
    SimpleNamespace(tokenizer=object(), apply_chat_template=print),  # no member for a chat form
    SimpleNamespace(
        tokenizer=object(), chat_template=None, apply_chat_template=print
    ),  # no chat form
    SimpleNamespace(
        tokenizer=object(), chat_template="", apply_chat_template=print
    ),  # an empty chat form
)


@pytest.mark.no_numbers
def test_what_is_wrong_with_a_model_is_one_line(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.load_by_name("judges", "vlm")
    assert plugin.needs_model and plugin.roles == ("vqa",)
    for wrong_weights_sha256 in (plugin.weights_sha256, lambda: plugin.open("cpu")):
        with pytest.raises(MissingAssetError, match="vqa=vlm:FOLDER-OR-HUB-ID"):
            wrong_weights_sha256()
    with pytest.raises(MissingAssetError, match="hf download Qwen/Qwen-of-nobody"):
        plugin.with_model("Qwen/Qwen-of-nobody").weights_sha256()
    with pytest.raises(OptionError, match="has no chat template"):
        plugin.with_model(str(save_vlm(tmp_path / "mute", chat=None))).open("cpu")
    for processor in PROCESSORS_WITHOUT_CHAT:
        with monkeypatch.context() as patch:
            patch.setattr(
                transformers.AutoProcessor,
                "from_pretrained",
                lambda *_, result=processor, **__: result,
            )
            with pytest.raises(OptionError, match="has no chat template"):
                plugin.with_model(str(model)).open("cpu")
    broken_vlm = save_vlm(tmp_path / "broken")
    (broken_vlm / "model.safetensors").write_bytes(
        (broken_vlm / "model.safetensors").read_bytes()[:5000]
    )
    with pytest.raises(WeightsError, match="its weights cannot be read") as excinfo:
        plugin.with_model(str(broken_vlm)).open("cpu")
    assert "\n" not in str(excinfo.value)
    text = transformers.LlamaConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    with torch.random.fork_rng(devices=[]):
        transformers.LlamaForCausalLM(text).save_pretrained(tmp_path / "blind")
    with pytest.raises(OptionError, match="holds no vision-language model"):
        plugin.with_model(str(tmp_path / "blind")).open("cpu")


def test_code_of_a_model_is_not_run(tmp_path: Path, model: Path) -> None:
    """A folder that names its own classes is refused; its file would leave a trace."""
    import json
    import shutil

    folder, trace = tmp_path / "hostile", tmp_path / "trace"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-kind",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').write('ran')\nclass Own: pass\n")
    with pytest.raises(OptionError, match="holds no vision-language model"):
        registry.load_by_name("judges", "vlm").with_model(str(folder)).open("cpu")
    assert not trace.exists()


def test_the_self_check_passes_on_any_weights_and_finds_neighbours(model: Path) -> None:
    plugin = registry.load_by_name("judges", "vlm").with_model(str(model))
    (case,) = plugin.self_checks()
    loaded_judge = plugin.open("cpu")
    assert case.check(loaded_judge) is None
    see = loaded_judge.annotate

    def remembering(role: str, image: np.ndarray, ask: Any) -> Any:
        see_result = see(role, image, ask)
        return see_result.model_copy(
            update={
                "answers": tuple(
                    a.model_copy(update={"text": str(len(ask.questions))})
                    for a in see_result.answers
                )
            }
        )

    loaded_judge.annotate = remembering
    assert "after another question it answers" in case.check(loaded_judge)
