"""Words as tokens, as CPM-2 has them: a segmenter cuts the text, and its words are looked up in a vocabulary.

A word that is not in the vocabulary is cut by the longest match from its left. A space is the token `▂`, a newline
`▃`; decoding turns them back. Vocabularies trained here hold the 256 bytes as well (`<0x00>` to `<0xFF>`), so that
nothing is lost: characters that are not in the vocabulary, and the marks themselves where they stand in a text, become
bytes. In an imported vocabulary without bytes they are unknown.

Source of the rule: CPM-2 (Zhang et al. 2021, "CPM-2: Large-scale cost-effective pre-trained language models"): jieba,
then the greedy longest match, without continuation marks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.tokenizer.chat import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS
from hanmo.tokenizer.forms import TooLarge
from hanmo.tokenizer.forms.segmented import Cutter, SegmentedTokenizer

SPACE, NEWLINE, UNKNOWN = "\u2582", "\u2583", "<unk>"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_MARKS = str.maketrans({" ": SPACE, "\n": NEWLINE})
#: Words kept with their cuts; a text repeats most of its words.
_CACHE = 1 << 18


def segmenter(name: str) -> Callable[[str], Iterable[str]]:
    """ "rjieba" (the Rust port, twenty times as fast; cuts addresses and the like in fewer pieces) or "jieba"."""
    if name == "rjieba":
        return need("rjieba", "tokenizers").cut
    if name == "jieba":
        jieba = need("jieba", "tokenizers")
        jieba.setLogLevel("WARNING")
        return jieba.cut
    raise HanmoError(f"segmenter '{name}' is unknown (known: rjieba, jieba)")


class HanmoWordTokenizer(SegmentedTokenizer):
    """The word tokenizer; see the module.

    Args:
        vocab_file: vocab.txt, UTF-8, a token a line (lines end at \\n alone), its number is its id.
        segmenter: see `segmenter`.
        markers: special tokens of the vocabulary beside the named roles.
    """

    vocab_files_names = {"vocab_file": "vocab.txt"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    _made = ("_vocabulary", "_bytes", "_words", "_longest", "_cuts", "_segment")

    def __init__(
        self,
        vocab_file: str,
        segmenter: str = "rjieba",
        markers: Sequence[str] = (),
        unk_token: Any = UNKNOWN,
        **kwargs: Any,
    ) -> None:
        self._lines = Path(vocab_file).read_bytes().decode().removesuffix("\n").split("\n")
        self._segmenter, self._markers = segmenter, list(markers)
        named = [
            str(value)
            for name, value in kwargs.items()
            if name.endswith("_token") and isinstance(value, str | AddedToken)
        ]
        self._special = [
            token for token in dict.fromkeys([str(unk_token), *named, *self._markers]) if token in self._lines
        ]
        super().__init__(segmenter=segmenter, markers=self._markers, unk_token=unk_token, **kwargs)

    @property
    def _ids(self) -> dict[str, int]:
        return self._vocabulary

    def _make(self) -> Tokenizer:
        self._vocabulary = {token: index for index, token in enumerate(self._lines)}
        self._bytes = all(token in self._vocabulary for token in BYTES)
        never = {*self._special, *BYTES} if self._bytes else {*self._special}
        if SPACE not in self._vocabulary or NEWLINE not in self._vocabulary:
            raise HanmoError(f"a word vocabulary needs the tokens {SPACE} (space) and {NEWLINE} (newline)")
        self._words = {token for token in self._vocabulary if token not in never}
        self._longest = max(map(len, self._words))
        self._cuts: dict[str, list[tuple[int, Sequence[str]]]] = {}
        self._segment = segmenter(self._segmenter)
        unknown = self._special[0] if self._special else UNKNOWN
        tokenizer = Tokenizer(models.WordLevel(self._vocabulary, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Cutter(self))
        back: list[Any] = [decoders.Replace(SPACE, " "), decoders.Replace(NEWLINE, "\n")]
        back += [decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(back)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in self._special])
        return tokenizer

    def cut(self, text: str) -> list[tuple[int, Sequence[str]]]:
        """See `SegmentedTokenizer.cut`."""
        found: list[tuple[int, Sequence[str]]] = []
        for word in self._segment(text):
            cuts = self._cuts.get(word)
            if cuts is None:
                cuts = self._match(word)
                if len(self._cuts) < _CACHE:
                    self._cuts[word] = cuts
            found += cuts
        return found

    def _match(self, word: str) -> list[tuple[int, Sequence[str]]]:
        """The longest matches of one word from its left."""
        marked = word.translate(_MARKS)
        found: list[tuple[int, Sequence[str]]] = []
        start = 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                # With bytes, a mark that stands in the text itself is no space.
                clear = not self._bytes or not {SPACE, NEWLINE} & set(word[start:end])
                if marked[start:end] in self._words and clear:
                    found.append((end - start, (marked[start:end],)))
                    break
            else:
                end = start + 1
                spelled = tuple(BYTES[byte] for byte in word[start].encode()) if self._bytes else (word[start],)
                found.append((1, spelled))
            start = end
        return found

    def _files(self) -> dict[str, bytes]:
        return {"vocab.txt": ("\n".join(self._lines) + "\n").encode()}


def train(texts: Sequence[str], vocab_size: int, name: str) -> list[str]:
    """A vocabulary: markers, `<unk>`, bytes, the marks, common characters, then words by frequency.

    Raises:
        HanmoError: the texts do not hold so many words that occur at least twice.
    """
    cut = segmenter(name)
    words: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for text in texts:
        words.update(cut(text))
        characters.update(text)
    tokens = dict.fromkeys([*SPECIAL_TOKENS, UNKNOWN, *BYTES, SPACE, NEWLINE])
    reserved = {" ", "\n", SPACE, NEWLINE}
    half = (vocab_size + len(tokens)) // 2
    for found, limit in ((characters, half), (words, vocab_size), (characters, vocab_size)):
        for token, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            if count < 2 or len(tokens) >= limit:
                break
            if not reserved & set(token):
                tokens.setdefault(token)
    if len(tokens) < vocab_size:
        raise TooLarge(len(tokens), vocab_size, "words")
    if len(tokens) > vocab_size:
        raise HanmoError(f"vocab_size: {vocab_size} is too small; the word kind needs {len(tokens)} and more")
    return list(tokens)


def build(texts: Sequence[str], vocab_size: int, name: str, out: Path) -> HanmoWordTokenizer:
    """Train and save a word tokenizer with the chat template."""
    from hanmo.tokenizer import save

    tokenizer = make(train(texts, vocab_size, name), out, name, markers=SPECIAL_TOKENS[1:], eos_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    save(tokenizer, out)
    return tokenizer


def make(tokens: Sequence[str], out: Path, name: str, **options: Any) -> HanmoWordTokenizer:
    """A tokenizer over a list of tokens, whose vocab.txt is written into `out`."""
    from hanmo.files import atomic_write

    with atomic_write(out / "vocab.txt", "wb") as file:
        file.write(("\n".join(tokens) + "\n").encode())
    return HanmoWordTokenizer(
        str(out / "vocab.txt"), name, clean_up_tokenization_spaces=False, model_max_length=1_000_000, **options
    )
