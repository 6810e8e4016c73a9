"""What an encoder-decoder makes of a text with gaps: it reads the text once and writes what stands in each gap.

    春天<extra_id_0>花园里的<extra_id_1>开了  ->  春天到了，花园里的花都开了

A text without a gap is given one at its end. Texts of a batch are padded on the encoder's side alone; the decoder's
keys and values are cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from hanmo.errors import HanmoError
from hanmo.tokenizer import encode_text
from hanmo.tokenizer.sentinels import SENTINEL, sentinel, sentinels_of

#: A space beside a character that is none of ASCII's: BERT's decoder puts them there, and nobody wrote them.
_LOOSE = regex.compile(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])")


@dataclass(frozen=True)
class Filled:
    """A text with its gaps filled.

    Attributes:
        text: the whole.
        gaps: what stands in each gap, in the order of the text.
        read, written: tokens of the encoder's side, and of the decoder's.
        ended: whether the decoder closed its answer, and did not run out of room.
    """

    text: str
    gaps: list[str]
    read: int
    written: int
    ended: bool


def likeliest(row: int, logits: NDArray[np.float32]) -> int:
    """The likeliest token."""
    return int(logits.argmax())


@torch.inference_mode()
def fill(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    closing: int,
    choose: Callable[[int, NDArray[np.float32]], int] = likeliest,
    longest: int = 256,
) -> list[Filled]:
    """Fill the gaps of texts, as one batch.

    Args:
        model: an encoder-decoder of transformers, in eval mode.
        closing: id that closes documents and answers.
        choose: (number of the text, float32 logits [tokens of the tokenizer]) -> the token that is written.
        longest: tokens of an answer.

    Raises:
        HanmoError: a text names a gap that the model has no sentinel for, or twice; or is too long.
    """
    names = sentinels_of(tokenizer)
    if not names:
        raise HanmoError("no sentinels (<extra_id_0>) in the model's tokenizer, so it fills no gaps")
    given = [text if SENTINEL.search(text) else text + sentinel(0) for text in texts]
    read = [[*_encoded(tokenizer, text, names), closing] for text in given]
    places = getattr(model.config, "max_position_embeddings", None)
    for number, ids in enumerate(read, 1):
        if places and len(ids) > places:
            raise HanmoError(f"prompt {number}: {len(ids)} tokens, and the model has {places} positions; shorten it")
    longest = min(longest, places - 1) if places else longest
    width, device = max(map(len, read)), model.device
    inputs = torch.full((len(read), width), closing, device=device)
    mask = torch.zeros_like(inputs)
    for row, ids in enumerate(read):
        inputs[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    states = model.get_encoder()(input_ids=inputs, attention_mask=mask).last_hidden_state
    last = torch.full((len(read), 1), model.config.decoder_start_token_id, device=device)
    answers: list[list[int]] = [[] for _ in read]
    ended, cache = [False] * len(read), None
    for _ in range(longest):
        found = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=last,
            past_key_values=cache,
            use_cache=True,
        )
        cache = found.past_key_values
        logits = found.logits[:, -1, : len(tokenizer)].float().cpu().numpy()
        for row, answer in enumerate(answers):
            if ended[row]:
                continue
            token = choose(row, logits[row])
            last[row] = token
            if token == closing:
                ended[row] = True
            else:
                answer.append(token)
        if all(ended):
            break
    lengths = map(len, read)
    return [_filled(tokenizer, *parts, names) for parts in zip(given, answers, lengths, ended, strict=True)]


def _encoded(tokenizer: PreTrainedTokenizerFast, text: str, names: list[int]) -> list[int]:
    """Ids of a text, in which only sentinels are more than characters."""
    ids: list[int] = []
    at = 0
    seen: set[int] = set()
    for gap in SENTINEL.finditer(text):
        number = int(gap[1])
        if number >= len(names):
            raise HanmoError(f"{gap[0]}: the model knows <extra_id_0> to {sentinel(len(names) - 1)}")
        if number in seen:
            raise HanmoError(f"{gap[0]} stands twice in a prompt; number the gaps 0, 1, 2 …")
        seen.add(number)
        ids += [*encode_text(tokenizer, text[at : gap.start()]), names[number]]
        at = gap.end()
    return ids + encode_text(tokenizer, text[at:])


def _filled(
    tokenizer: PreTrainedTokenizerFast, text: str, answer: list[int], read: int, ended: bool, names: list[int]
) -> Filled:
    parts: dict[int, list[int]] = {}
    inside: list[int] = []  # what stands before the first sentinel belongs nowhere
    for token in answer:
        if token in names:
            # Of a sentinel that comes again, the first answer counts.
            inside = []
            parts.setdefault(names.index(token), inside)
        else:
            inside.append(token)
    order = [int(gap[1]) for gap in SENTINEL.finditer(text)]
    told = {number: _decoded(tokenizer, parts.get(number, [])) for number in order}
    whole = SENTINEL.sub(lambda gap: told[int(gap[1])], text)
    return Filled(whole, [told[number] for number in order], read, len(answer) + ended, ended)


def _decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    plain = type(tokenizer.backend_tokenizer.decoder).__name__ == "WordPiece"
    return _LOOSE.sub("", text) if plain else text
