"""Character WordPiece, BERT-style: every Han character is a token of its own, other scripts are cut into word pieces.

Plain (`train`): what BERT for Chinese has. vocab.txt and tokenizer.json load as `BertTokenizerFast`; text is
lower-cased and loses its accents, spaces and rare characters, which suits encoders.

Lossless (`train_lossless`): the same idea without any loss. Words are spelled in the 256 printable letters of
byte-level vocabularies, all of which are tokens, alone and as `##` continuations; so every text can be spelled, and
decoding takes the marks away and turns letters into bytes again. A token at the start of a word can never begin with
`##`, since `#` is a word of its own. The ChatML markers are ids 0 to 2, so that a decoder can use it as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from hanmo.errors import HanmoError
from hanmo.files import atomic_write, read_json, write_json
from hanmo.tokenizer.chat import END_OF_TEXT, SPECIAL_TOKENS
from hanmo.tokenizer.forms import TooLarge

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MARK = "##"
LEAST_COUNT = 2
#: Letters in one word of the lossless kind: matching the longest piece takes the square of a word's length.
LONGEST = 32
#: A Han character; letters (with a space in front); a digit; a white space; anything else: one word each.
LOSSLESS_SPLIT = (
    r"\p{Han}| ?[\p{L}\p{M}&&[^\p{Han}]]{1,%d}|\p{N}|\s|[^\s\p{L}\p{N}]" % LONGEST  # noqa: UP031
)
_HAN = regex.compile(r"\p{Han}+")
_OTHER_LETTER = regex.compile(r"(?!\p{Han})[\p{L}\p{M}]")
#: Words of the lossless kind that may be cut into pieces, in a text without Han characters.
_LETTERS = regex.compile(r" ?[\p{L}\p{M}]{1,%d}" % LONGEST)  # noqa: UP031
#: Share of the vocabulary that characters may fill.
CHARACTERS = 0.75


def skeleton(vocabulary: dict[str, int], lower_case: bool, framed: bool = True) -> Tokenizer:
    """BERT's tokenizer over a vocabulary, as transformers builds it; framed: texts stand between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(  # pyright: ignore[reportAttributeAccessIssue]
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.WordPiece(prefix=MARK)  # pyright: ignore[reportAttributeAccessIssue]
    if framed and {"[CLS]", "[SEP]"} <= vocabulary.keys():
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
        )
    _mark_special(tokenizer, [token for token in BERT_TOKENS if token in vocabulary])
    return tokenizer


def _mark_special(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def train(texts: Sequence[str], vocab_size: int, lower_case: bool = True) -> Tokenizer:
    """A character WordPiece of exactly `vocab_size` tokens: [PAD] [UNK] [CLS] [SEP] [MASK], characters, pieces.

    Raises:
        HanmoError: the texts do not hold so many pieces that occur at least twice.
    """
    from hanmo.tokenizer.forms.pieces import merged

    blank = skeleton({"[UNK]": 0}, lower_case)
    normalizer, splitter = blank.normalizer, blank.pre_tokenizer
    assert normalizer is not None and splitter is not None
    words: Counter[str] = Counter()
    for text in texts:
        for line in _HAN.sub(" ", text).split("\n"):
            words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    letters: Counter[str] = Counter()
    for word, count in words.items():
        letters.update({(MARK if place else "") + letter: count for place, letter in enumerate(word)})
    han = {chr(code): times for code, times in by_count(texts) if _HAN.match(chr(code))}
    common = sorted(
        (item for item in (letters + Counter(han)).items() if item[1] >= LEAST_COUNT),
        key=lambda item: (-item[1], item[0]),
    )
    tokens = [*BERT_TOKENS, *(token for token, _ in common)][: len(BERT_TOKENS) + int(CHARACTERS * vocab_size)]
    rest = [token for token, _ in common][len(tokens) - len(BERT_TOKENS) :]
    tokens += merged(words, max(0, vocab_size - len(tokens)), MARK, set(tokens), LEAST_COUNT)
    tokens = [*tokens, *rest][:vocab_size]
    if len(tokens) < vocab_size:
        raise TooLarge(len(tokens), vocab_size, "word pieces")
    return skeleton({token: index for index, token in enumerate(tokens)}, lower_case)


def build(texts: Sequence[str], vocab_size: int, lower_case: bool, out: Path) -> Tokenizer:
    """Train and save the plain kind: `BertTokenizerFast`, `AutoTokenizer` and vocab.txt all give the same ids."""
    tokenizer = train(texts, vocab_size, lower_case)
    save_bert(tokenizer, lower_case, out)
    return tokenizer


def save_bert(tokenizer: Tokenizer, lower_case: bool, out: Path, **tokens: str) -> PreTrainedTokenizerFast:
    """Save BERT's tokenizer as a folder that the class for BERT and the plain fast class load alike.

    Args:
        tokens: roles of special tokens (`eos_token="[SEP]"`) beside BERT's own.
    """
    from transformers import PreTrainedTokenizerFast

    from hanmo.tokenizer import save

    vocabulary = tokenizer.get_vocab()
    roles = {f"{token[1:-1].lower()}_token": token for token in BERT_TOKENS if token in vocabulary} | tokens
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=1_000_000, **roles
    )
    save(fast, out)
    path = out / "tokenizer_config.json"
    own = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case, "tokenize_chinese_chars": True}
    write_json(path, {**read_json(path), **own})
    write_vocabulary(vocabulary, out)
    return fast


def write_vocabulary(vocabulary: dict[str, int], out: Path) -> None:
    """vocab.txt: a token a line, in the order of ids."""
    with atomic_write(out / "vocab.txt") as file:
        file.writelines(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__))


def lossless_skeleton(vocabulary: dict[str, int]) -> Tokenizer:
    """The lossless tokenizer over a vocabulary that holds all byte letters, alone and as continuations."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=8 * LONGEST)
    tokenizer = Tokenizer(model)
    steps: list[Any] = [
        pre_tokenizers.Split(Regex(LOSSLESS_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    back: list[Any] = [decoders.Replace(Regex(rf"\A{MARK}"), ""), decoders.ByteLevel()]
    tokenizer.decoder = decoders.Sequence(back)  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def train_lossless(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A lossless character WordPiece: 8 special tokens, 512 letters, characters by frequency, then word pieces.

    Raises:
        HanmoError: `vocab_size` is below 520, or the texts do not hold so many pieces that occur at least twice.
    """
    from hanmo.tokenizer.forms.pieces import merged
    from hanmo.tokenizer.train import byte_letters

    letters = byte_letters()
    tokens = [*SPECIAL_TOKENS, *BERT_TOKENS, *letters, *(MARK + letter for letter in letters)]
    room = vocab_size - len(tokens)
    if room < 0:
        raise HanmoError(f"vocab_size: {vocab_size} is too small; the lossless kind needs {len(tokens)} and more")
    # All that is a word of its own and more than one letter: Han characters, Chinese punctuation, symbols.
    alone = [code for code, _ in by_count(texts) if code > 127 and not _OTHER_LETTER.match(chr(code))]
    characters = ["".join(letters[byte] for byte in chr(code).encode()) for code in alone]
    head = characters[: int(CHARACTERS * room)]
    words: Counter[str] = Counter()
    for text in texts:
        words.update(_LETTERS.findall(_HAN.sub("\n", text)))
    spelled = Counter({"".join(letters[byte] for byte in word.encode()): count for word, count in words.items()})
    tokens += head
    tokens += merged(spelled, vocab_size - len(tokens), MARK, set(tokens), LEAST_COUNT)
    tokens += characters[len(head) :][: vocab_size - len(tokens)]
    if len(tokens) < vocab_size:
        raise TooLarge(len(tokens), vocab_size, "word pieces")
    tokenizer = lossless_skeleton({token: index for index, token in enumerate(tokens)})
    _mark_special(tokenizer, [*SPECIAL_TOKENS, *BERT_TOKENS])
    return tokenizer


def by_count(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(code point, count) of the characters that occur at least twice, the commonest first."""
    counts = np.zeros(0x110000, np.int64)
    for text in texts:
        codes, times = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_counts=True)
        counts[codes] += times
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts >= LEAST_COUNT)]
    return [(int(code), int(counts[code])) for code in order]


def build_lossless(texts: Sequence[str], vocab_size: int, out: Path) -> Tokenizer:
    """Train and save the lossless kind as a stock fast tokenizer, vocab.txt beside it."""
    from transformers import PreTrainedTokenizerFast

    from hanmo.tokenizer import save
    from hanmo.tokenizer.chat import CHAT_TEMPLATE

    tokenizer = train_lossless(texts, vocab_size)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
        **{f"{token[1:-1].lower()}_token": token for token in BERT_TOKENS},
    )
    fast.chat_template = CHAT_TEMPLATE
    save(fast, out)
    write_vocabulary(tokenizer.get_vocab(), out)
    return tokenizer
