"""Letting a model answer, whatever its class: stock decoders, LingLong, the unified model, encoder-decoders.

A model that was tuned to dialogues is asked by one turn: in ChatML where its tokenizer has the markers, else between
[CLS] and [SEP], as `hanmo sft` taught it. One that was not is shown worked examples and continues text. All write
greedily. Stock decoders go through the batched loop of `hanmo.evaluate.generate`; the other classes through
transformers' `generate`, prompts of one length together, so that nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.evaluate.bpb import document_end, document_opening
from hanmo.evaluate.exam import line_ends
from hanmo.evaluate.generate import generate
from hanmo.evaluate.generation.settings import GenerationSettings
from hanmo.evaluate.stage import is_chat, load, peculiar
from hanmo.models.folder import is_encoder_decoder
from hanmo.models.linglong.generation import pinyin_reader
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer.chat import TURN_START, ChatFormat, encode_text

#: Tokens of the longest prompt of an encoder-decoder that does not say it.
_LONGEST = 512


@dataclass(frozen=True)
class Reply:
    """An answer: its text, its tokens, whether it was `cut` at the longest allowed, whether the prompt was too long."""

    text: str
    tokens: int = 0
    cut: bool = False
    too_long: bool = False


class Writer:
    """A loaded model that answers.

    Args:
        folder: a model folder.
        examples: (question, answer) pairs for a model that is asked plainly.

    Attributes:
        way: "chat" or "plain".
        shots: worked examples in front of every question.
        parameters: of the model.

    Raises:
        HanmoError: no model that writes; or it cannot be asked as the settings say.
    """

    def __init__(
        self,
        folder: Path,
        settings: GenerationSettings,
        device: torch.device,
        answer_tokens: int,
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        dtype = getattr(torch, settings.precision)
        self._spans = is_encoder_decoder(folder)
        self.model: Any
        self.model, self.tokenizer = _seq2seq(folder, dtype, device) if self._spans else load(folder, dtype, device)
        config = self.model.config
        self._unified = config.model_type == "hanmo_unified"
        self._leftward = bool(getattr(config, "backward", False))
        self._pinyin = pinyin_reader(folder) if getattr(config, "use_pinyin", False) else None
        self._batch, self._answer = settings.batch_prompts, answer_tokens
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.context = int(getattr(config, "max_position_embeddings", None) or _LONGEST)
        markers = self.tokenizer.backend_tokenizer.token_to_id(TURN_START) is not None
        own = self._spans or self._unified
        tuned = own or is_chat(self.model, self.tokenizer)
        self.way = settings.ask if settings.ask != "auto" else "chat" if tuned else "plain"
        if self.way == "chat" and not markers and not own:
            raise HanmoError(f"{folder}: its tokenizer has no ChatML markers; set ask: plain")
        if self.way == "plain" and (self._spans or peculiar(self.model)):
            raise HanmoError(f"{folder}: this class is asked by a turn; tune it by `hanmo sft`, and leave ask out")
        self._chat = ChatFormat(self.tokenizer, self._leftward) if self.way == "chat" and markers else None
        self._examples = [f"问题：\n{question}\n答案：\n{answer}\n\n" for question, answer in examples]
        if self.way == "chat":
            self._examples = []
        self.shots = len(self._examples)
        self.stop_ids = self._stops()

    def _stops(self) -> list[int]:
        if self._chat:
            return self._chat.stop_ids
        if self.way == "chat":
            return [_mark(self.tokenizer, "sep")]
        return [document_end(self.tokenizer), *line_ends(self.tokenizer)]

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt, up to where the answer begins; fewer examples where the context is short."""
        if self._chat:
            return self._chat.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)[0]
        if self.way == "chat":
            said = encode_text(self.tokenizer, prompt)
            return [_mark(self.tokenizer, "cls"), *said, _mark(self.tokenizer, "sep")]
        begins = document_opening(self.model, self.tokenizer)
        begins = document_end(self.tokenizer) if begins is None else begins
        for first in range(len(self._examples) + 1):
            text = "".join(self._examples[first:]) + f"问题：\n{prompt}\n答案：\n"
            ids = [begins, *encode_text(self.tokenizer, text)]
            if len(ids) + self._answer <= self.context:
                break
        return ids

    def write(self, prompts: Sequence[str], advance: Callable[[int], None] | None = None) -> list[Reply]:
        """A reply to each prompt. One that leaves no room for an answer gets an empty reply that says so.

        Args:
            advance: told how many prompts were finished.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        replies = [Reply("", too_long=True)] * len(prompts)
        # An encoder-decoder's answer takes no room of its prompt's.
        most = self.context if self._spans else self.context - 1
        fitting = [number for number, ids in enumerate(encoded) if len(ids) <= most]
        own = self._spans or self._unified or self._leftward or self._pinyin is not None
        write = self._written if own else self._continued
        for number, ids in zip(fitting, write([encoded[i] for i in fitting], advance), strict=True):
            room = self._answer if self._spans else min(self._answer, self.context - len(encoded[number]))
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
            if self.way == "plain":
                text = text.partition("\n")[0]
            replies[number] = Reply(text, len(ids), cut=len(ids) >= room)
        return replies

    def _continued(self, prompts: list[list[int]], advance: Callable[[int], None] | None) -> list[list[int]]:
        return generate(
            self.model,
            prompts,
            stop_ids=self.stop_ids,
            max_new_tokens=self._answer,
            context=self.context,
            batch_prompts=self._batch,
            advance=advance,
        )

    def _written(self, prompts: list[list[int]], advance: Callable[[int], None] | None) -> list[list[int]]:
        by_length: dict[int, list[int]] = {}
        for number, ids in enumerate(prompts):
            by_length.setdefault(len(ids), []).append(number)
        answers: list[list[int]] = [[] for _ in prompts]
        for length, numbers in sorted(by_length.items()):
            for at in range(0, len(numbers), self._batch):
                batch = numbers[at : at + self._batch]
                ids = torch.tensor([prompts[number] for number in batch], device=self.model.device)
                for number, answer in zip(batch, self._of_one_length(ids, length), strict=True):
                    answers[number] = answer
                if advance:
                    advance(len(batch))
        return answers

    def _of_one_length(self, ids: torch.Tensor, length: int) -> list[list[int]]:
        more: dict[str, Any] = {}
        if self._unified:  # the prompt is a prefix that sees itself whole
            more["token_type_ids"] = torch.zeros_like(ids)
        if self._pinyin is not None:
            more["pinyin_of"] = self._pinyin
        with torch.inference_mode():
            rows = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._answer if self._spans else min(self._answer, self.context - length),
                do_sample=False,
                eos_token_id=self.stop_ids,
                pad_token_id=self.stop_ids[0],
                **more,
            )
        found = []
        for row in rows[:, 1 if self._spans else length :].tolist():
            answer = row[: next((at for at, token in enumerate(row) if token in self.stop_ids), len(row))]
            found.append(answer[::-1] if self._leftward else answer)
        return found


def _seq2seq(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, PreTrainedTokenizerFast]:
    tokenizer = load_tokenizer(folder)
    try:
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype)
    except (ValueError, OSError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HanmoError(f"{folder}: not an encoder-decoder that loads ({reason})") from None
    return model.to(device).eval(), tokenizer


def _mark(tokenizer: PreTrainedTokenizerFast, role: str) -> int:
    found = getattr(tokenizer, f"{role}_token_id")
    if not isinstance(found, int):
        raise HanmoError(
            f"{tokenizer.name_or_path}: neither ChatML's markers nor [CLS] and [SEP], so that nothing tells where an "
            "answer begins; tune a model with such a tokenizer"
        )
    return found
