"""Judge vlm: any vision-language model of transformers that the user provides, `vlm:MODEL`.

It is always a substitute. The model is asked by its chat template and answers greedily. Where its
vocabulary has single tokens for yes and no, their probabilities as the first token give the
probability of yes, so that a rule can use the text or the probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.annotations import Annotation, Query, VqaAnnotation, VqaAnswer, VqaQuery
from harope_bench.core.device import device_type
from harope_bench.core.errors import OptionError
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.library_types import ChatProcessor, EndTokens, Network, Tokenizer
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import import_transformers, load_strictly
from harope_bench.judges.generic.self_check import answers_batched_and_alone
from harope_bench.judges.weights.precision import full_float32, without_gradients

if TYPE_CHECKING:
    from torch import Tensor

INSTRUCTION = "Answer with yes or no."
MAX_ANSWER_TOKENS = 8
PROBABILITY_TOLERANCE = 1e-3  # half precision on a GPU may change last bits


def word_tokens(tokenizer: Tokenizer, word: str) -> list[int]:
    """Return the tokens that are a lower-case word alone, in any case, with or without a space."""
    cased_words = (word, word.capitalize(), word.upper())
    forms = [form for cased_word in cased_words for form in (cased_word, f" {cased_word}")]
    encodings = {tuple(tokenizer.encode(form, add_special_tokens=False)) for form in forms}
    unknown_token = tokenizer.unk_token_id
    return sorted({ids[0] for ids in encodings if len(ids) == 1 and ids[0] != unknown_token})


def yes_probability(logits: Tensor, yes_tokens: list[int], no_tokens: list[int]) -> float | None:
    """Return P(yes) / (P(yes) + P(no)) for logits (vocabulary,), summed over the forms of a word.

    Return None where the vocabulary has no token for either word.
    """
    import torch

    if not yes_tokens or not no_tokens:
        return None
    yes_logit = logits[yes_tokens].double().logsumexp(0)
    no_logit = logits[no_tokens].double().logsumexp(0)
    return float(torch.stack([yes_logit, no_logit]).softmax(0)[0])


def clean_answer(text: str) -> str:
    """Return an answer in lower case without blanks or a full stop around it.

    Rules compare it with "yes".
    """
    return text.strip().rstrip(".!").strip().lower()


def greedy_config(model_config: EndTokens, tokenizer: Tokenizer) -> EndTokens:
    """Return settings of greedy decoding that take only the end tokens from the model's own."""
    eos_token = model_config.eos_token_id
    pad_token = model_config.pad_token_id
    return import_transformers().GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_ANSWER_TOKENS,
        eos_token_id=tokenizer.eos_token_id if eos_token is None else eos_token,
        pad_token_id=tokenizer.pad_token_id if pad_token is None else pad_token,
        output_logits=True,
        return_dict_in_generate=True,
    )


class LoadedVlm(LoadedAnnotator):
    """A vision-language model with its weights and its processor of text and images."""

    def __init__(
        self, network: Network, processor: ChatProcessor, weights_sha256: str, device: str
    ):
        self.network = network.to(device).eval()
        self.processor = processor
        self.weights_sha256 = weights_sha256
        self.device = device
        self.yes_tokens = word_tokens(processor.tokenizer, "yes")
        self.no_tokens = word_tokens(processor.tokenizer, "no")
        # Replaces the model's own settings. `generate` would take every setting that is missing
        # here from those, for example a repetition penalty.
        network.generation_config = greedy_config(network.generation_config, processor.tokenizer)

    @without_gradients
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the greedy answer and the probability of yes for each question.

        Each question is a batch of its own, so that none is padded.
        """
        if role != "vqa" or not isinstance(query, VqaQuery):
            raise OptionError(f"judge vlm has the role vqa, wanted {role}; choose another judge")
        pil_image = Image.fromarray(image)
        with full_float32():
            return VqaAnnotation(
                answers=tuple(self._answer(pil_image, question) for question in query.questions)
            )

    def _answer(self, pil_image: Image.Image, question: str) -> VqaAnswer:
        """Return the answer to one question about an image."""
        content = [
            {"type": "image", "image": pil_image},
            {"type": "text", "text": f"{question} {INSTRUCTION}"},
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device, dtype=self.network.dtype)

        # the output begins with the question
        output = self.network.generate(**inputs)
        answer_tokens = output.sequences[0, inputs["input_ids"].shape[1] :]
        text = self.processor.tokenizer.decode(answer_tokens, skip_special_tokens=True)
        first_logits = output.logits[0][0].float()  # (vocabulary,)
        return VqaAnswer(
            text=clean_answer(text),
            yes_probability=yes_probability(first_logits, self.yes_tokens, self.no_tokens),
        )


class Vlm(LocalAnnotator):
    """The plug-in; `with_model` binds it to a model."""

    name = "vlm"
    preprocessing = (
        f"the model's own image steps and chat form, question and {INSTRUCTION!r}, greedy,"
        f" {MAX_ANSWER_TOKENS} tokens; share of yes: its tokens' part of the first; float32, on"
        " cuda the model's own precision"
    )
    roles = ("vqa",)

    def open(self, device: str = "cpu") -> LoadedVlm:
        """Load the model and its processor.

        Raises:
            MissingAssetError: The model is missing.
            WeightsError: The weights do not fill the model.
            OptionError: It is no vision-language model, or it has no chat template.
        """
        import torch

        model = self.find_model()
        transformers = import_transformers()
        network = load_strictly(
            transformers.AutoModelForImageTextToText,
            model.path,
            "vision-language model",
            dtype="auto" if device_type(device) == "cuda" else torch.float32,
        )
        processor = transformers.AutoProcessor.from_pretrained(
            model.path, local_files_only=True, trust_remote_code=False
        )
        if not isinstance(processor, ChatProcessor) or not processor.chat_template:
            raise OptionError(
                f"{model.path} has no chat template (chat_template), wanted one to ask questions"
                " with; choose an instruction-tuned model"
            )
        return LoadedVlm(network, processor, model.sha256, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return a check that holds for any model, whatever its answers are."""
        return (NamedCheck("other questions do not change an answer", check_question_independence),)


def check_question_independence(vlm: LoadedVlm) -> str | None:
    """Return how an answer changes after another question, or None where it does not."""
    questions = ("Is there a long green car in the image?", "Is it red?")
    batched_answer, alone_answer = answers_batched_and_alone(vlm, questions, 1, side=64)
    difference = abs(
        (batched_answer.yes_probability or 0.0) - (alone_answer.yes_probability or 0.0)
    )
    if batched_answer.text == alone_answer.text and difference < PROBABILITY_TOLERANCE:
        return None
    return (
        f"after another question it answers {batched_answer.to_json()}, alone"
        f" {alone_answer.to_json()}"
    )


PLUGIN = Vlm()
