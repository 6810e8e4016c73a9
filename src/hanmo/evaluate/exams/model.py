"""A model as lm-eval's `LM`: its three kinds of requests answered by this house's scoring and writing, and a fourth.

lm-eval's own Hugging Face model reads every prompt from its first token for every item and computes the logits of all
of it. Here what prompts share is read once (`continuations`), and only the logits of the answers are computed. The
numbers are the same: how texts are cut into tokens, where long ones are cut off and what an empty context becomes is
lm-eval's.

The fourth kind is OpenCompass's perplexity of a whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hanmo.console import progress
from hanmo.errors import HanmoError
from hanmo.evaluate.continuations import alike_groups, likelihoods, text_nats
from hanmo.evaluate.generate import generate

#: Tokens of an answer where a task does not say it (lm-eval's own number).
_ANSWER = 256


class HanmoLM(TemplateLM):
    """Answers lm-eval's requests with a transformers decoder.

    Args:
        model: on its device, in the precision it is to be measured in.
        context: longest input in tokens (default: the model's own).
        batch_tokens: ids per forward pass.
        name: shown beside the progress bar.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        context: int | None = None,
        batch_tokens: int = 4096,
        name: str = "",
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.context = context or int(model.config.max_position_embeddings)
        self.batch_tokens = batch_tokens
        self._device = model.device
        #: Prompts that were too long so far.
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise HanmoError(
                f"{self.tokenizer_name}: the tokenizer names no token that ends a text; add eos_token to its "
                "tokenizer_config.json"
            )
        return int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)  # type: ignore[arg-type]

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    # Tokens ----------------------------------------------------------------------------------------------------------

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._encode([string], add_special_tokens)[0]

    def _encode(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Ids of texts; `special` None: with the marks that the tokenizer puts around a text, unless it has them."""
        if not texts:
            return []
        first = str(self.tokenizer.decode([self.prefix_token_id]))
        begun = [special is None and has_bos_prefix(text, first) for text in texts]
        found: list[list[int]] = [[] for _ in texts]
        for marked in (False, True):
            chosen = [index for index, one in enumerate(begun) if one is marked]
            if chosen:
                add = (special is not False) and not marked
                ids = self.tokenizer([texts[index] for index in chosen], add_special_tokens=add)["input_ids"]
                for index, one in zip(chosen, ids, strict=True):  # type: ignore[call-overload]
                    found[index] = one
        return found

    def _pairs(self, requests: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
        """`TemplateLM.loglikelihood`'s pairs of ids, encoded together and every text once."""
        texts: dict[str, None] = {}
        moved: list[tuple[str, str]] = []
        for before, answer in requests:
            kept = before.rstrip()
            moved.append((kept, before[len(kept) :] + answer) if before else (before, answer))
            if before:
                texts |= {kept: None, before + answer: None}
        ids = dict(zip(texts, self._encode(list(texts)), strict=True))
        pairs = []
        for (kept, answer), (before, _) in zip(moved, requests, strict=True):
            if before:
                whole, start = ids[kept + answer], ids[kept]
                pairs.append((start, whole[len(start) :]))
                continue
            own = self._encode([answer], False)[0]
            first = self.prefix_token_id
            pairs.append(([first], own) if own[:1] != [first] else (own[:1], own[1:]))
        return pairs

    # Requests --------------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._score(self._pairs([request.args for request in requests]))

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        return self._score([(before, answer) for _, before, answer in requests])

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        self.cut += sum(len(before) + len(answer) > self.context + 1 for before, answer in pairs)
        with progress() as bar:
            task = bar.add_task(f"{self.name}: answers", total=None, info="")
            found = likelihoods(
                self.model,
                pairs,
                context=self.context,
                batch_tokens=self.batch_tokens,
                advance=lambda done: bar.advance(task, done),
            )
        return [(one.nats, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for index, (text,) in enumerate(request.args for request in requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.context,
                context_len=1,
            )
            for window in map(make_disjoint_window, rolling):
                windows.append(window)
                owners.append(index)
        total = np.zeros(len(requests))
        np.add.at(total, owners, [nats for nats, _ in self._score(windows)])
        return total.tolist()

    def perplexity(self, requests: list[Instance]) -> list[float]:
        """Mean cross-entropy of whole texts, in nats, as OpenCompass's PPLInferencer has it.

        The nats of all tokens but the first (which nothing stands before), divided by the number of all tokens.
        Longer texts are cut at their right end, as its tokenizer call does.
        """
        whole = self._encode([request.arguments[0] for request in requests])
        self.cut += sum(len(one) > self.context for one in whole)
        ids = [one[: self.context] for one in whole]
        nats = text_nats(self.model, ids, context=self.context, batch_tokens=self.batch_tokens)
        return [total / len(one) for total, one in zip(nats, ids, strict=True)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        answers: list[str] = [""] * len(requests)
        by_rule: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            rule: dict[str, Any] = dict(normalize_gen_kwargs(request.arguments[1], _ANSWER))
            if rule.get("do_sample"):
                raise HanmoError("exams are answered greedily; set do_sample to false in the task's generation_kwargs")
            until = handle_stop_sequences(rule.get("until"), eos=str(self.tokenizer.decode([self.eot_token_id])))
            by_rule.setdefault((int(rule["max_gen_toks"]), tuple(until)), []).append(index)
        with progress() as bar:
            task = bar.add_task(f"{self.name}: answers", total=len(requests), info="")
            for (most, until), chosen in by_rule.items():
                prompts = self._encode([requests[index].args[0] for index in chosen])
                room = self.context - most
                if room < 1:
                    raise HanmoError(f"answers of {most} tokens leave no room in a context of {self.context}")
                self.cut += sum(len(prompt) > room for prompt in prompts)
                for group in alike_groups([prompt[-room:] for prompt in prompts]):
                    made = generate(
                        self.model,
                        [prompts[place][-room:] for place in group],
                        stop_ids=[self.eot_token_id],
                        max_new_tokens=most,
                        context=self.context,
                        ended=lambda ids, until=until: any(word in self._written(ids) for word in until),
                        advance=lambda done: bar.advance(task, done),
                    )
                    for place, ids in zip(group, made, strict=True):
                        answers[chosen[place]] = postprocess_generated_text(self._written(ids), list(until), None)
        return answers

    def _written(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
