"""Settings of the tokenizer stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, WrapValidator, model_validator

from hanmo.stage import Settings, setting

Kind = Literal["bpe", "sentencepiece-bpe", "unigram", "wordpiece", "word", "pinyin"]


def _number_or_auto(value: Any, check: Callable[[Any], int]) -> Any:
    return value if value == "auto" else check(value)


class TokenizerSettings(Settings):
    """Training a tokenizer on a corpus."""

    kind: Kind = setting(
        "bpe",
        "bpe (byte-level, runs everywhere); sentencepiece-bpe, unigram; wordpiece (characters, for encoders); word "
        "(jieba's words, as CPM-2); pinyin (characters with their readings beside them)",
    )
    vocab_size: Annotated[int, Field(ge=259), WrapValidator(_number_or_auto)] = setting(
        8192,
        "tokens in all, special ones and bytes included; a multiple of 64 is fastest; auto: by corpus and `model`",
    )
    sample_mb: int = setting(
        100,
        "megabytes of text to train on, taken evenly from the whole corpus; each takes about 12 MB of memory",
        ge=1,
        affects="result",
    )
    model: str = setting("hanmo-16m", "preset of the model that `vocab_size: auto` is meant for")
    lossless: bool = setting(False, "wordpiece: keep case, accents, spaces and every character")
    lower_case: bool = setting(True, "wordpiece that is not lossless: lower-case the text and drop accents")
    segmenter: Literal["rjieba", "jieba"] = setting("rjieba", "word: what cuts text into words")
    sentinels: int = setting(
        0,
        "so many of the tokens are <extra_id_0>, <extra_id_1>, …, which encoder-decoders need; bpe and wordpiece",
        ge=0,
    )

    @model_validator(mode="after")
    def _sentinels_have_a_place(self) -> TokenizerSettings:
        if self.sentinels and self.kind not in ("bpe", "wordpiece"):
            raise ValueError(f"sentinels: {self.kind} can have none here; take kind: bpe or wordpiece")
        if self.sentinels and self.vocab_size != "auto" and self.vocab_size - self.sentinels < 259:
            raise ValueError(f"sentinels: {self.sentinels} leave too few of {self.vocab_size} tokens")
        return self
