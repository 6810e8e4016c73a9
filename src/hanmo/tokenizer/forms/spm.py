"""SentencePiece: training models that lose no text, and turning models into tokenizer.json with the same ids.

What is trained here keeps text as it is: no normalisation, no space put in front, bytes for what is not in the
vocabulary. The newline is a byte token; digits stand alone.

A model becomes a stock fast tokenizer: a BPE whose merges follow from the pieces' scores, or a Unigram. Two things need
care, and both are checked by comparing ids with the library's own on texts made to part them (`check`):

* SentencePiece writes a space as U+2581 and cannot tell it from a U+2581 that stood in the text. In a tokenizer.json
  of a model trained here the pieces hold plain spaces, so that such a character goes to its bytes and comes back; this
  is the one text on which its ids differ from SentencePiece's.
* `tokenizers` would find the pieces `<0x0A>` or `<s>` where these letters stand in a text, SentencePiece does not.
  Their scores are put so low that no way through a text takes them.

Source: the format is sentencepiece_model.proto of google/sentencepiece; BPE there merges the pair whose piece has the
highest score, the leftmost of equals.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.tokenizer.chat import END_OF_TEXT, SPECIAL_TOKENS, TURN_END, TURN_START
from hanmo.tokenizer.forms import TooLarge
from hanmo.tokenizer.train import CUT, cut_rare_pairs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Types of pieces in the model file.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
SPACE = "\u2581"
#: Bytes of a line for the trainer; longer ones are cut (it would leave them out).
LINE = 16_000
#: Bytes that a unigram is trained on: ten times as slow as a BPE, and its pieces are found in less.
UNIGRAM_BYTES = 20_000_000
#: The result of the unigram trainer depends on how its sums are split.
THREADS = 4
#: Where texts are cut between characters that rarely meet (see `hanmo.tokenizer.train`), no piece is learnt across it.
DELIMITER = "\x01"
#: Every printable ASCII character is a piece: code and addresses never fall to bytes.
ASCII = "".join(map(chr, range(33, 127)))


def train(texts: Sequence[str], vocab_size: int, model_type: str) -> bytes:
    """Train a SentencePiece model ("bpe" or "unigram"); returns the content of tokenizer.model.

    Ids 0, 1, 2 are the ChatML markers (control pieces: never found in a text), 3 is `<unk>`, 4 to 259 are the bytes.

    Raises:
        HanmoError: the texts do not hold so many pieces.
    """
    library = need("sentencepiece", "tokenizers")
    if model_type == "unigram":
        size = sum(len(text.encode()) for text in texts)
        if size > UNIGRAM_BYTES:
            console.print(f"unigram: the first {UNIGRAM_BYTES / size:.0%} of each part of the sample, which is enough")
            texts = [text[: int(len(text) * UNIGRAM_BYTES / size)] for text in texts]
    model = io.BytesIO()
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=lines(list(cut_rare_pairs(texts, vocab_size)), covered(texts, vocab_size)),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=1.0,
            required_chars=ASCII + SPACE,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            eos_id=0,
            eos_piece=END_OF_TEXT,
            control_symbols=[TURN_START, TURN_END],
            unk_id=3,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=LINE,
            num_threads=THREADS,
            pretokenization_delimiter=DELIMITER,
            seed_sentencepiece_size=10 * vocab_size,
            minloglevel=2,
        )
    except RuntimeError as error:
        most = re.search(r"value <= (\d+)", str(error))
        if most:
            raise TooLarge(int(most[1]), vocab_size, "pieces") from None
        if "too small" in str(error).lower() or "required_chars" in str(error).lower():
            raise HanmoError(f"vocab_size: {vocab_size} is too small for the characters of the corpus") from None
        raise
    return rounded(model.getvalue())


def rounded(content: bytes) -> bytes:
    """A model whose scores are multiples of 1/64.

    SentencePiece adds scores up in single precision, `tokenizers` in double: with such scores both sums are exact, and
    ways through a text that cost the same (in "----------") tie in both. (Up to a sum of 2^18, some 30,000 tokens.)
    """
    model = parsed(content)
    for piece in model.pieces:
        piece.score = round(piece.score * 64) / 64
    return model.SerializeToString()


def exact_sums(model: Any) -> bool:
    """Whether sums of the scores are exact in single precision as in double: all are multiples of 1/64."""
    return all(float(piece.score * 64).is_integer() for piece in model.pieces if piece.type in (NORMAL, USER))


def covered(texts: Iterable[str], vocab_size: int) -> NDArray[np.bool_]:
    """Which characters become pieces, bool by code point: the commonest that make up 99.95 % of the text, fewer where
    they would fill over half the room.

    (99.95 % is what SentencePiece's authors advise for Chinese and Japanese.)
    """
    counts = np.zeros(0x110000, np.int64)
    for text in texts:
        codes, times = np.unique(_codes(text), return_counts=True)
        counts[codes] += times
    counts[[ord("\n"), ord(" "), ord(SPACE)]] = 0
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    enough = int(np.searchsorted(np.cumsum(counts[order]), 0.9995 * counts.sum())) + 1
    room = max(1, (vocab_size - len(SPECIAL_TOKENS) - 1 - 256 - len(ASCII)) // 2)
    kept = np.zeros(len(counts), bool)
    kept[order[: min(enough, room)]] = True
    kept[[ord(letter) for letter in f"{ASCII} {CUT}"]] = True
    kept[ord(DELIMITER)] = False
    return kept


def lines(texts: Iterable[str], kept: NDArray[np.bool_]) -> Iterator[str]:
    """Pieces of text of at most `LINE` bytes for the trainer, cut where a character is not among those kept.

    (A newline is a byte token and teaches the trainer nothing.)
    """
    for text in texts:
        codes = np.where(kept[codes := _codes(text)], codes, np.uint32(ord("\n")))
        for line in codes.astype("<u4").tobytes().decode("utf-32-le").replace(CUT, DELIMITER).split("\n"):
            for start in range(0, len(line), LINE // 4):
                yield line[start : start + LINE // 4]


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def read(path: Path) -> Any:
    """A tokenizer.model as its protocol buffer.

    Raises:
        HanmoError: it is no SentencePiece model.
    """
    from google.protobuf.message import DecodeError

    model = empty()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise HanmoError(f"{path}: no SentencePiece model ({error})") from None
    if len(model.pieces) < 2 or model.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise HanmoError(f"{path}: no SentencePiece model of type BPE or unigram")
    return model


def convert(model: Any, plain_spaces: bool = False) -> Tokenizer:
    """The stock tokenizer that gives the ids of a model.

    Args:
        model: see `read`.
        plain_spaces: pieces hold spaces as spaces, so that U+2581 is not lost (see the module); only for models that
            neither normalise nor put a space in front.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers

    space = " " if plain_spaces else SPACE
    tokenizer = Tokenizer(_unigram(model, space) if model.trainer_spec.model_type == UNIGRAM else _bpe(model, space))
    steps = [] if plain_spaces else normalizers_of(model.normalizer_spec)
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    splitter = _splitter(model, space)
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    back: list[Any] = [] if plain_spaces else [decoders.Replace(SPACE, " ")]
    back += [decoders.ByteFallback(), decoders.Fuse()]
    if model.normalizer_spec.add_dummy_prefix:
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)  # pyright: ignore[reportAttributeAccessIssue]
    special = [p.piece for p in model.pieces if p.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    users = [p.piece for p in model.pieces if p.type == USER]
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in users])
    return tokenizer


def _spelled(model: Any, space: str) -> list[str]:
    return [p.piece.replace(SPACE, space) if p.type == NORMAL else p.piece for p in model.pieces]


def _bpe(model: Any, space: str) -> Any:
    from tokenizers import models

    spelled = _spelled(model, space)
    vocabulary = {piece: index for index, piece in enumerate(spelled)}
    scores = {spelled[i]: p.score for i, p in enumerate(model.pieces) if p.type == NORMAL}
    merges = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                merges.append((-score, vocabulary[piece], vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    unknown = next(p.piece for p in model.pieces if p.type == UNKNOWN)
    return models.BPE(
        vocab=vocabulary,
        merges=[merge[-2:] for merge in merges],
        unk_token=unknown,
        byte_fallback=model.trainer_spec.byte_fallback,
        fuse_unk=True,
    )


def _unigram(model: Any, space: str) -> Any:
    from tokenizers import models

    normal = [p.score for p in model.pieces if p.type == NORMAL]
    # A way around such a piece always exists, letter by letter, and none of its letters costs more than the rarest.
    unreachable = 100 * min(normal)
    scores = []
    for spelled, piece in zip(_spelled(model, space), model.pieces, strict=True):
        if piece.type == NORMAL:
            scores.append((spelled, piece.score))
        elif piece.type == USER:
            # As in the library: found wherever it stands.
            scores.append((spelled, len(spelled.encode()) * max(normal) - 0.1))
        else:
            scores.append((spelled, unreachable))
    unknown = next(i for i, p in enumerate(model.pieces) if p.type == UNKNOWN)
    return models.Unigram(scores, unk_id=unknown, byte_fallback=model.trainer_spec.byte_fallback)


def normalizers_of(spec: Any) -> list[Any]:
    """The normalisers of `tokenizers` that do what a model's NormalizerSpec says."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return steps


def _splitter(model: Any, space: str) -> Any:
    """A splitter at places that no piece spans: it changes no ids, but short words are found in the cache.

    Such places are in front of a run of spaces, if spaces stand in pieces only at their start, and around characters
    that no longer piece holds (most punctuation).
    """
    from tokenizers import Regex, pre_tokenizers

    normal = [p.piece for p in model.pieces if p.type in (NORMAL, USER)]
    inside = set("".join(piece.lstrip(SPACE) for piece in normal if len(piece) > 1))
    alone = [c for c in "\n\r\t，。、；：？！“”‘’（）《》【】…—" if c not in inside]
    # Unknown letters of a marker: no way around it in a unigram's sum, so it must not stand in one word.
    letters = set("".join(p.piece for p in model.pieces if p.type in (UNKNOWN, CONTROL, BYTE))) - {SPACE}
    unknown = sorted(letters - inside - set(normal)) if model.trainer_spec.model_type == UNIGRAM else []
    parts = [f"[{_class(alone)}]"] if alone else []
    parts += [f"[{_class(unknown)}]+"] if unknown else []
    if SPACE not in inside:
        parts += [f"{space}*[^{space}{_class([*alone, *unknown])}]+", f"{space}+"]
    return pre_tokenizers.Split(Regex("|".join(parts)), "isolated") if parts else None


def _class(characters: Sequence[str]) -> str:
    """Characters for the inside of [ ] in a regular expression."""
    return "".join(f"\\{c}" if c in "[]^-\\&" else c for c in characters)


#: Lines on which conversions are apt to differ.
HARD = (
    "",
    " ",
    "  a  b ",
    "\n\n x\r\n\ty",
    "春天到了，花园里的花都开了。 The cat  is 2024 元。",
    "<s></s><unk><0x0A>[PAD]<|im_end|>",
    "𠮷野家 👨\u200d👩\u200d👧 é e\u0301 Ⅷ ½ ﬁ ＡＢＣ",
    "aaaaaaaaa的的的的的的的         b",
    "\ufeff\u200b\u3000\x00\x01\u2028",
)


def differing(tokenizer: Tokenizer, model: bytes, texts: Iterable[str]) -> list[str]:
    """The texts for which a converted tokenizer gives other ids than the SentencePiece library."""
    library = need("sentencepiece", "tokenizers")
    processor = library.SentencePieceProcessor(model_proto=model)
    before, tokenizer.encode_special_tokens = tokenizer.encode_special_tokens, True
    try:
        return [
            text for text in texts if tokenizer.encode(text, add_special_tokens=False).ids != processor.encode(text)
        ]
    finally:
        tokenizer.encode_special_tokens = before


def build(texts: Sequence[str], vocab_size: int, model_type: str, out: Path) -> Tokenizer:
    """Train, convert, check and save: a stock tokenizer folder with tokenizer.model beside it.

    Raises:
        HanmoError: see `train`.
    """
    from hanmo.files import atomic_write
    from hanmo.tokenizer import build as save_folder

    content = train(texts, vocab_size, model_type)
    model = parsed(content)
    tokenizer = convert(model, plain_spaces=True)
    probes = [*HARD, *(line for text in texts[:2] for line in text.split("\n")[:200] if SPACE not in line)]
    if parted := differing(tokenizer, content, probes):
        raise AssertionError(f"tokenizer.json gives other ids than tokenizer.model for {parted[0]!r}")
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    save_folder(tokenizer, out)
    with atomic_write(out / "tokenizer.model", "wb") as file:
        file.write(content)
    return tokenizer


def parsed(content: bytes) -> Any:
    """The protocol buffer of a model's bytes."""
    model = empty()
    model.ParseFromString(content)
    return model


def empty() -> Any:
    """A model without pieces."""
    return need("sentencepiece.sentencepiece_model_pb2", "tokenizers").ModelProto()
