"""The tokenizer stage: a sample of a corpus, and the training of a byte-level BPE (the other kinds are in `forms`).

Chinese makes this slow: the splitter takes a run of Han characters for one word, so that nearly every word is a new
one, and the trainer drags millions of them along. But most places between two Han characters can never be inside a
token: a merge across two characters cannot occur more often than the two stand side by side. So pairs of characters
are counted first (in a table of hashes, where a collision only raises a count), and for training the text is cut
between the characters of rare pairs. Words become short and frequent, and training takes half the time and memory. On
30 MB of mixed prose 16,123 of 16,125 merges were those learnt without cuts; on small samples some merges of half
characters (的 and the first byte of whatever follows) make room for better ones and the text becomes 0.2 to 0.5 %
shorter. The saved tokenizer splits as Qwen2's does, without cuts.

`rustbpe` does the training (three times as fast as the trainer of `tokenizers`, with half the memory); it returns the
tokens by rank, and the merges follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hanmo.console import console, human_bytes
from hanmo.errors import HanmoError
from hanmo.files import read_jsonl
from hanmo.remote import files_below
from hanmo.tokenizer import QWEN2_SPLIT, build, skeleton
from hanmo.tokenizer.encode import BulkEncoder
from hanmo.tokenizer.forms import TooLarge
from hanmo.tokenizer.sentinels import add_sentinels
from hanmo.tokenizer.settings import TokenizerSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Tokens there are before the first merge: the special ones and the bytes.
SPECIAL, BYTES = 3, 256
#: A token whose text occurs less often in the sample teaches nothing.
LEAST_COUNT = 2
#: Characters that are worked on at once.
CHUNK = 1 << 20
_TABLE_BITS = 24
#: Stands in training text where it is cut.
CUT = "\0"
_HAN = (0x3400, 0x9FFF)


def run(settings: TokenizerSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Train a tokenizer on a corpus folder and save it in `out` as a Hugging Face tokenizer folder.

    Args:
        inputs: role "corpus": one folder with train/*.jsonl.zst.

    Returns:
        vocabulary size, bytes of the sample, and bytes per token on it.

    Raises:
        HanmoError: no corpus there, or one too small for the vocabulary.
    """
    corpus = inputs["corpus"][0]
    texts = list(sample(corpus, int(settings.sample_mb * 1e6)))
    size = sum(len(text.encode()) for text in texts)
    asked: int | str = settings.vocab_size
    if asked == "auto":
        from hanmo.tokenizer.suggest import corpus_bytes, suggest

        tokens = suggest(texts, settings.kind, settings.model, max(size, corpus_bytes(corpus))).vocab_size
    else:
        tokens = settings.vocab_size
    console.print(f"training {tokens} tokens ({settings.kind}) on {human_bytes(size)} of text")
    count = 0
    while not count:
        try:
            count = build_kind(texts, settings, tokens - settings.sentinels, out)
        except TooLarge as error:
            if asked != "auto" or error.supported >= tokens - settings.sentinels:
                raise
            tokens = error.supported + settings.sentinels

    if settings.sentinels:
        add_sentinels(out, settings.sentinels)
        count += settings.sentinels

    # A sixteenth of the sample tells the rate; all of it would take longer to encode than to train on.
    probe = texts[: max(1, len(texts) // 16)]
    ids, _ = BulkEncoder(out).encode_flat(probe)
    rate = sum(len(text.encode()) for text in probe) / max(1, len(ids))
    console.print(f"{rate:.2f} bytes a token")
    return {"vocab_size": count, "sample_bytes": size, "bytes_per_token": round(rate, 3)}


def build_kind(texts: Sequence[str], settings: TokenizerSettings, vocab_size: int, out: Path) -> int:
    """Train the kind that the settings name and save it; returns how many tokens it has.

    Raises:
        TooLarge: the texts do not hold so many tokens.
    """
    match settings.kind:
        case "bpe":
            tokenizer = train(texts, vocab_size)
            build(tokenizer, out)
            return tokenizer.get_vocab_size()
        case "sentencepiece-bpe" | "unigram":
            from hanmo.tokenizer.forms import spm

            return spm.build(texts, vocab_size, settings.kind.removeprefix("sentencepiece-"), out).get_vocab_size()
        case "wordpiece":
            from hanmo.tokenizer.forms import wordpiece

            if settings.lossless:
                return wordpiece.build_lossless(texts, vocab_size, out).get_vocab_size()
            return wordpiece.build(texts, vocab_size, settings.lower_case, out).get_vocab_size()
        case "word":
            from hanmo.tokenizer.forms import word

            return len(word.build(texts, vocab_size, settings.segmenter, out))
        case "pinyin":
            from hanmo.tokenizer.forms import pinyin

            return pinyin.build(texts, vocab_size, out).get_vocab_size()


def sample(corpus: Path, limit: int) -> Iterator[str]:
    """At most about `limit` bytes of training text in strings of about `CHUNK` characters, evenly from all files.

    Raises:
        HanmoError: the folder holds no training text.
    """
    files = [path for path, name in files_below(corpus / "train") if name.endswith(".jsonl.zst")]
    if not files:
        raise HanmoError(f"{corpus}: no train/*.jsonl.zst there; give a folder made by `hanmo corpus`")
    held: list[str] = []
    length = 0
    for path in files:
        left = limit // len(files)
        for number, record in read_jsonl(path):
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise HanmoError(f"{path}:{number}: no field 'text' with the document's text")
            # A document is cut where the quota of its file ends: a limit is a limit.
            text = text[: max(1, left // 2)]
            held.append(text)
            length += len(text)
            left -= len(text.encode())
            if length >= CHUNK:
                yield "\n".join(held)
                held, length = [], 0
            if left <= 0:
                break
    if held:
        yield "\n".join(held)


def train(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of `vocab_size` tokens: specials 0 to 2, bytes 3 to 258, then merges in the order learnt.

    Raises:
        TooLarge: the texts do not hold so many tokens that occur at least twice.
    """
    merges = max(0, vocab_size - SPECIAL - BYTES)
    learnt = learn(texts, merges)
    if len(learnt) < merges:
        why = "every merge must occur at least twice in the sample"
        raise TooLarge(SPECIAL + BYTES + len(learnt), vocab_size, why=why)
    return assemble(learnt)


def learn(texts: Sequence[str], merges: int) -> list[tuple[bytes, bytes]]:
    """At most so many merges, in the order learnt; fewer where the texts do not support them."""
    import rustbpe

    trainer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    # Two merges may give the same bytes, of which one is dropped below: a few more are trained.
    pattern = f"{CUT}|" + QWEN2_SPLIT.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", rf"[^{CUT}\r\n\p{{L}}\p{{N}}]?\p{{L}}+")
    trainer.train_from_iterator(
        cut_rare_pairs(texts, merges), vocab_size=BYTES + merges + merges // 100, pattern=pattern
    )
    tokens = [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])]
    learnt = merges_of(tokens)[:merges]
    return learnt[: _frequent(learnt, texts)]


def cut_rare_pairs(texts: Sequence[str], merges: int) -> Iterator[str]:
    """The texts with `CUT` between Han characters that stand side by side too rarely to matter for so many merges.

    Too rarely is more rarely than the `merges`-th most frequent pair: the last merges learnt are more frequent than
    that, since many are not of two Han characters (on 20 MB and 16,000 tokens the last one occurred 40 times, that pair
    33 times).
    """
    counts = np.zeros(1 << _TABLE_BITS, np.uint32)
    for text in texts:
        pairs, both = _pairs(_codes(text))
        np.add.at(counts, pairs[both], 1)
    there = counts[counts > 0]
    threshold = np.partition(there, -merges)[-merges] if 0 < merges <= len(there) else 0
    rare = counts < threshold
    for text in texts:
        codes = _codes(text)
        pairs, both = _pairs(codes)
        places = np.flatnonzero(both & rare[pairs]) + 1
        yield np.insert(codes, places, ord(CUT)).astype("<u4").tobytes().decode("utf-32-le")


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.replace(CUT, "").encode("utf-32-le"), "<u4")


def _pairs(codes: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """(hash of each two neighbours, whether both are Han); both of length len(codes) - 1."""
    han = (codes >= _HAN[0]) & (codes <= _HAN[1])
    mixed = (codes[:-1] * np.uint32(0x9E3779B1)) ^ (codes[1:] * np.uint32(0x85EBCA6B))
    return mixed >> np.uint32(32 - _TABLE_BITS), han[:-1] & han[1:]


def merges_of(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token, from tokens in the order of their ranks (the 256 bytes first).

    A token's bytes, merged by the ranks below its own, come down to the two parts it was made of. Tokens that repeat
    another's bytes, or that do not come down to two parts, are left out.
    """
    ranks: dict[bytes, int] = {}
    found = []
    for token in tokens:
        if token in ranks:
            continue
        if len(token) > 1:
            parts = _merge(token, ranks)
            if len(parts) != 2:
                continue
            found.append((parts[0], parts[1]))
        ranks[token] = len(ranks)
    return found


def _merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda index: ranks.get(parts[index] + parts[index + 1], len(ranks)))
        if parts[best] + parts[best + 1] not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _frequent(merges: Sequence[tuple[bytes, bytes]], texts: Sequence[str]) -> int:
    """How many of the first merges give tokens that occur at least `LEAST_COUNT` times (merges come by falling
    count).
    """

    def occurs(index: int) -> bool:
        token = b"".join(merges[index])
        count = 0
        for text in texts:
            count += text.encode().count(token)
            if count >= LEAST_COUNT:
                return True
        return False

    low, high = 0, len(merges)
    if merges and occurs(high - 1):
        return high
    while low < high:
        middle = (low + high) // 2
        if occurs(middle):
            low = middle + 1
        else:
            high = middle
    return low


def assemble(merges: Sequence[tuple[bytes, bytes]]) -> Tokenizer:
    """The house's tokenizer with these merges."""
    from tokenizers import AddedToken, models

    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(map(letters.__getitem__, token))

    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    for letter in letters:
        vocabulary[letter] = len(vocabulary)
    pairs = []
    for left, right in merges:
        pairs.append((spell(left), spell(right)))
        vocabulary[spell(left + right)] = len(vocabulary)
    tokenizer = skeleton()
    tokenizer.model = models.BPE(vocab=vocabulary, merges=pairs)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(shown)))
    return [letters[byte] for byte in range(256)]
