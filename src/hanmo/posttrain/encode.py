"""From dialogues and pairs to token ids, with the labels that decide what is learnt.

Everything goes through `ChatFormat`, so training sees exactly the ids that chat and serving will make, and a literal
`<|im_end|>` in somebody's text stays text. Labels are the ids of the assistant's words and of the `<|im_end|>` behind
them, and `IGNORE` everywhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, overload

from hanmo.posttrain.forms import Dialogue
from hanmo.posttrain.preferences import Labelled, Pair
from hanmo.tokenizer.chat import ChatFormat, encode_text

#: The label of a token that takes no part in the loss.
IGNORE = -100
#: No token of the vocabularies we know has more bytes: a text of n bytes has at least n / LONGEST tokens.
LONGEST = 256


class Example(NamedTuple):
    """One dialogue: ids and labels of equal length, the last label always one that counts."""

    input_ids: list[int]
    labels: list[int]


class PairExample(NamedTuple):
    """One pair: ids of the prompt with the opening of the answer, and of the two answers with their `<|im_end|>`."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer side."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def sides(self) -> list[tuple[bool, list[int]]]:
        """(whether it is the better one, ids) of each answer."""
        return [(True, self.chosen_ids), (False, self.rejected_ids)]


class SingleExample(NamedTuple):
    """One answer with its label: ids of the prompt with the opening of the answer, and of the answer."""

    prompt_ids: list[int]
    answer_ids: list[int]
    good: bool

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt_ids) + len(self.answer_ids)

    @property
    def sides(self) -> list[tuple[bool, list[int]]]:
        """As a pair's."""
        return [(self.good, self.answer_ids)]


def encode_dialogue(
    chat: ChatFormat, dialogue: Dialogue, limit: int, too_long: str, notes: Counter[str]
) -> Example | None:
    """Ids and labels of a dialogue of at most `limit` tokens, or None where it had to be dropped (counted in `notes`).

    Under `too_long: truncate` the exchanges that fit as a whole are kept; where not even the first does, its answer is
    cut, and then nothing teaches the model that the answer ends there.
    """
    ids, mask = chat.encode(_clip(dialogue, limit))
    # Behind the last word of the assistant there is nothing to learn: the newline goes.
    end = len(mask) - mask[::-1].index(1)
    if end > limit:
        if too_long == "drop":
            notes["longer than max_length, dropped"] += 1
            return None
        whole = [at for at in range(1, limit + 1) if mask[at - 1] and not mask[at]]
        if whole:
            notes["longer than max_length, later exchanges cut"] += 1
            end = whole[-1]
        elif any(mask[:limit]):
            notes["longer than max_length, answer cut"] += 1
            end = limit
        else:
            notes["prompt longer than max_length, dropped"] += 1
            return None
    labels = [token if counts else IGNORE for token, counts in zip(ids[:end], mask[:end], strict=True)]
    return Example(ids[:end], labels)


def encode_parts(chat: ChatFormat, dialogue: Dialogue, limit: int, too_long: str, notes: Counter[str]) -> list[Example]:
    """`encode_dialogue`, with `too_long: split` besides: a long dialogue as several, cut between exchanges.

    Each part begins with the dialogue's system message. An exchange that is too long by itself is cut as by `truncate`.
    """
    parts = _split(chat, _clip(dialogue, limit), limit) if too_long == "split" else [dialogue]
    if len(parts) > 1:
        notes["longer than max_length, split"] += 1
    rule = "truncate" if too_long == "split" else too_long
    found = (encode_dialogue(chat, part, limit, rule, notes) for part in parts)
    return [example for example in found if example is not None]


def _split(chat: ChatFormat, dialogue: Dialogue, limit: int) -> list[Dialogue]:
    """Parts of whole exchanges, each of at most `limit` tokens where its exchanges allow that."""
    opening = [message for message in dialogue[:1] if message["role"] == "system"]
    exchanges: list[Dialogue] = []
    for message in dialogue[len(opening) :]:
        if message["role"] == "user":
            exchanges.append([])
        exchanges[-1].append(message)
    # Messages become ids one by one, so their lengths add up; the newline behind the last is not learnt and goes.
    newline = len(encode_text(chat.tokenizer, "\n"))
    always = len(chat.encode(opening)[0]) - newline
    parts: list[Dialogue] = []
    room = 0
    for exchange in exchanges:
        tokens = len(chat.encode(exchange)[0])
        if not parts or tokens > room:
            parts.append([*opening])
            room = limit - always
        parts[-1] += exchange
        room -= tokens
    return parts


@overload
def encode_pair(chat: ChatFormat, pair: Pair, limit: int, notes: Counter[str]) -> PairExample | None: ...
@overload
def encode_pair(chat: ChatFormat, pair: Labelled, limit: int, notes: Counter[str]) -> SingleExample | None: ...
def encode_pair(
    chat: ChatFormat, pair: Pair | Labelled, limit: int, notes: Counter[str]
) -> PairExample | SingleExample | None:
    """Ids of a pair or of a single answer, or None where a side is longer than `limit` (a cut answer would be judged
    for what it is not).
    """
    answers = (pair.answer,) if isinstance(pair, Labelled) else (pair.chosen, pair.rejected)
    texts = [*(message["content"] for message in pair.prompt), *answers]
    if any(len(text) > limit * LONGEST for text in texts):
        notes["longer than max_length, dropped"] += 1
        return None
    prompt, _ = chat.encode(pair.prompt, add_generation_prompt=True)
    sides = []
    for answer in answers:
        ids, mask = chat.encode([*pair.prompt, {"role": "assistant", "content": answer}])
        end = len(mask) - mask[::-1].index(1)
        assert ids[: len(prompt)] == prompt, "the chat format must open an answer as it ends a prompt"
        sides.append(ids[len(prompt) : end])
    single = isinstance(pair, Labelled)
    example = SingleExample(prompt, sides[0], pair.good) if single else PairExample(prompt, *sides)
    if example.length > limit:
        notes["longer than max_length, dropped"] += 1
        return None
    return example


def _clip(dialogue: Dialogue, limit: int) -> Dialogue:
    """Shorten texts that cannot fit by far (a line of 100 MB would cost minutes): what is cut lies behind `limit`."""
    most = (limit + 1) * LONGEST
    if all(len(message["content"]) <= most for message in dialogue):
        return dialogue
    return [{**message, "content": message["content"][:most]} for message in dialogue]


def count_tokens(examples: Sequence[Example]) -> dict[str, int]:
    """Examples, their tokens, and those tokens that are learnt."""
    return {
        "records": len(examples),
        "tokens": sum(len(example.input_ids) for example in examples),
        "learnt": sum(label != IGNORE for example in examples for label in example.labels),
    }
