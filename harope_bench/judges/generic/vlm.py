"""Judge vlm: any vision-language model of transformers on a folder or hub id of the user's,
`vlm:MODEL`; always a substitute.

The model is asked in its own chat form and answers greedily. Where its vocabulary has whole tokens
for yes and no, their shares of the
first token give a share of yes, so that a rule can take either.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harope_bench.core.annotations import Annotation, Query, VqaAnnotation, VqaAnswer, VqaQuery
from harope_bench.core.errors import OptionError
from harope_bench.judges.base import LoadedAnnotator, NamedCheck
from harope_bench.judges.generic.library_types import ChatProcessor, EndTokens, Network, Tokenizer
from harope_bench.judges.generic.local_annotator import LocalAnnotator
from harope_bench.judges.generic.local_model import import_transformers, load_strictly
from harope_bench.judges.generic.self_check import answers_beside_and_alone
from harope_bench.judges.weights.precision import full_float32

INSTRUCTION = "Answer with yes or no."
MAX_ANSWER_TOKENS = 8  # tokens of an answer
PROBABILITY_TOLERANCE = 1e-3  # of a share: half precision on a GPU may move last bits
WORD_FORMS = {
    word: [
        form for plain in (word, word.capitalize(), word.upper()) for form in (plain, f" {plain}")
    ]
    for word in ("yes", "no")
}


def word_tokens(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens that are a word by themselves, in any of its forms."""
    found = {tuple(tokenizer.encode(form, add_special_tokens=False)) for form in WORD_FORMS[word]}
    unknown = tokenizer.unk_token_id
    return sorted({ids[0] for ids in found if len(ids) == 1 and ids[0] != unknown})


def yes_probability(logits: Tensor, yes: list[int], no: list[int]) -> float | None:
    """P(yes) / (P(yes) + P(no)) over all forms, of logits (words,); None where either word has no
    token.
    """
    if not yes or not no:
        return None
    sums = torch.stack([logits[yes].double().logsumexp(0), logits[no].double().logsumexp(0)])
    return float(sums.softmax(0)[0])


def clean_answer(text: str) -> str:
    """An answer in lower case, without blanks and full stop around it: rules compare it with
    yes.
    """
    return text.strip().rstrip(".!").strip().lower()


def greedy_config(own: EndTokens, tokenizer: Tokenizer) -> EndTokens:
    """Return settings of greedy decoding; of a model's own ones only where an answer ends."""
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    pad = own.pad_token_id if own.pad_token_id is not None else tokenizer.pad_token_id
    return import_transformers().GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_ANSWER_TOKENS,
        eos_token_id=ends,
        pad_token_id=pad,
        output_logits=True,
        return_dict_in_generate=True,
    )


class LoadedVlm(LoadedAnnotator):
    """A model with its weights, its words and its image steps."""

    def __init__(
        self, network: Network, processor: ChatProcessor, weights_sha256: str, device: str
    ):
        self.network = network.to(device).eval()
        self.processor = processor
        self.weights_sha256 = weights_sha256
        self.device = device
        self.yes_tokens, self.no_tokens = (
            word_tokens(processor.tokenizer, "yes"),
            word_tokens(processor.tokenizer, "no"),
        )
        # in place of the model's own, since generate fills what it is not given, a repetition
        # penalty say, from there
        network.generation_config = greedy_config(network.generation_config, processor.tokenizer)

    @torch.inference_mode()
    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Of each question the greedy answer and the share of yes; one question at a time, so that
        none is padded.
        """
        if role != "vqa" or not isinstance(query, VqaQuery):
            raise OptionError(f"judge vlm answers questions, it is no {role}; ask another judge")
        picture = Image.fromarray(image)
        with full_float32():
            return VqaAnnotation(
                answers=tuple(self._answer(picture, question) for question in query.questions)
            )

    def _answer(self, picture: Image.Image, question: str) -> VqaAnswer:
        content = [
            {"type": "image", "image": picture},
            {"type": "text", "text": f"{question} {INSTRUCTION}"},
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device, dtype=self.network.dtype)
        found = self.network.generate(**inputs)
        fresh = found.sequences[0, inputs["input_ids"].shape[1] :]
        text = clean_answer(self.processor.tokenizer.decode(fresh, skip_special_tokens=True))
        return VqaAnswer(
            text=text,
            yes_probability=yes_probability(
                found.logits[0][0].float(), self.yes_tokens, self.no_tokens
            ),
        )


class Vlm(LocalAnnotator):
    """The plug-in; bound to a model by `of`."""

    name = "vlm"
    preprocessing = (
        f"the model's own image steps and chat form, question and {INSTRUCTION!r}, greedy,"
        f" {MAX_ANSWER_TOKENS} tokens; share of yes: its tokens' part of the first; float32, on"
        " cuda the model's own precision"
    )
    roles = ("vqa",)

    def open(self, device: str = "cpu") -> LoadedVlm:
        """Loads model, words and image steps.

        Raises:
            WeightsError: not here, or weights that do not fill the model. OptionError: no such
                model, or one without a chat form.
        """
        found = self.find_model()
        library = import_transformers()
        precision = "auto" if device == "cuda" else torch.float32
        network = load_strictly(
            library.AutoModelForImageTextToText,
            found.path,
            "vision-language model",
            dtype=precision,
        )
        processor = library.AutoProcessor.from_pretrained(
            found.path, local_files_only=True, trust_remote_code=False
        )
        if not isinstance(processor, ChatProcessor) or not processor.chat_template:
            raise OptionError(
                f"{found.path} has no chat form (chat_template) to ask in; take an"
                " instruction-tuned model"
            )
        return LoadedVlm(network, processor, found.sha256, device)

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """What holds for any model: what it sees in a picture is its own affair."""
        return (NamedCheck("a question's neighbours do not count", check_question_independence),)


def check_question_independence(opened: LoadedVlm) -> str | None:
    """Return what differs where a question is answered alone and after another one, or None."""
    questions = ("Is there a long green car in the picture?", "Is it red?")
    after, alone = answers_beside_and_alone(opened, questions, 1, side=64)
    alike = (
        after.text == alone.text
        and abs((after.yes_probability or 0.0) - (alone.yes_probability or 0.0))
        < PROBABILITY_TOLERANCE
    )
    return (
        None
        if alike
        else f"after another question it answers {after.to_json()}, alone {alone.to_json()}"
    )


PLUGIN = Vlm()
