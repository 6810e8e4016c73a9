"""The tokens stage: every document of a corpus, in its order, closed by eos, with its bytes and its source."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, write_json
from hanmo.tokens import stage
from hanmo.tokens.settings import TokensSettings
from hanmo.tokens.shards import ShardWriter, open_split, read_info
from nest import behind

TEXTS = [
    "春天到了，花园里的花都开了。",
    "字面的 <|endoftext|> 和 <|im_end|> 只是字。",
    "e\u0301 𠮷野家 👨\u200d👩\u200d👧 \t\n\n  x",
    "小猫醒了，喵喵地叫。" * 50,
    " ",
]


def corpus(folder: Path, files: int = 3, repeat: int = 1) -> list[tuple[str, str]]:
    """A corpus folder; returns its (text, source) in order."""
    written = []
    for number in range(files):
        with JsonlZstWriter(folder / "train" / f"{number:05d}.jsonl.zst") as file:
            for index, text in enumerate(TEXTS * repeat):
                record = {"id": str(index), "text": f"{number}{text}", "source": "ab"[index % 2], "meta": {}}
                file.write(record)
                written.append((record["text"], record["source"]))
    with JsonlZstWriter(folder / "heldout" / "00000.jsonl.zst") as file:
        file.write({"id": "h", "text": "今天天气很好。", "source": "b", "meta": {}})
    write_json(folder / "stats.json", {"sources": {"a": {}, "b": {}}})
    return written


def run(folder: Path, tokenizer: Path, out: Path, workers: int = 1) -> dict:
    return stage.run(TokensSettings(workers=workers), {"corpus": [folder], "tokenizer": [tokenizer]}, out)


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_their_bytes_and_sources(tmp_path: Path, tiny_tokenizer_dir: Path, workers: int) -> None:
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    reference.encode_special_tokens = True
    written = corpus(tmp_path / "corpus")
    counts = run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "out", workers)
    split = open_split(tmp_path / "out", "train")
    assert len(split) == len(written)
    for index, (text, source) in enumerate(written):
        ids = split.document(index).tolist()
        assert ids == [*reference.encode(text).ids, 0]
        assert reference.decode(ids[:-1], skip_special_tokens=False) == text
        assert split.doc_bytes[index] == len(text.encode())
        assert split.sources[split.doc_source[index]] == source
    info = read_info(tmp_path / "out")
    assert (info["vocab_size"], info["dtype"], info["eos_id"]) == (400, "<u2", 0)
    assert counts["train"] == {
        "tokens": len(split.tokens),
        "documents": len(written),
        "bytes": sum(len(text.encode()) for text, _ in written),
    }
    by_source = info["train"]["by_source"]
    assert sum(part["tokens"] for part in by_source) == len(split.tokens)
    assert by_source[1]["documents"] == sum(source == "b" for _, source in written)
    assert counts["heldout"]["documents"] == 1


def test_batches_and_workers_change_nothing(
    tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus(tmp_path / "corpus", repeat=4)
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "one")
    monkeypatch.setattr(stage, "BATCH", 10)
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "small")
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "small") == contents(tmp_path / "two")


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_finished_shards_are_not_done_again_and_others_are(
    tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus(tmp_path / "corpus")
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "whole")
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "out")
    train = tmp_path / "out" / "train"
    kept = (train / "00000.ds").stat().st_mtime_ns
    (train / "00001.ds.metadata").unlink()  # what a kill leaves: tokens without the last file
    (train / "00002.ds").unlink()
    (train / "00002.ds.metadata").unlink()
    (train / ".00002.ds.77.tmp").write_bytes(b"half")
    (tmp_path / "out" / "tokens.json").unlink()
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "out")
    assert (train / "00000.ds").stat().st_mtime_ns == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    corpus(tmp_path / "corpus", files=2, repeat=2)
    (tmp_path / "corpus" / "train" / "00002.jsonl.zst").unlink()
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "out")
    assert sorted(path.name for path in train.glob("*.ds")) == ["00000.ds", "00001.ds"]
    assert len(open_split(tmp_path / "out", "train")) == 2 * 2 * len(TEXTS)


def test_wrong_folders_are_named(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    corpus(tmp_path / "corpus")
    with pytest.raises(HanmoError, match=r"no train/\*\.jsonl\.zst there"):
        run(tmp_path, tiny_tokenizer_dir, tmp_path / "out")
    with pytest.raises(HanmoError, match=r"no tokenizer\.json there"):
        run(tmp_path / "corpus", tmp_path, tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(tiny_tokenizer_dir, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace("<|endoftext|>", "<|other|>"), encoding="utf-8")
    with pytest.raises(HanmoError, match=r"neither <\|endoftext\|> nor an eos token"):
        run(tmp_path / "corpus", other, tmp_path / "out")
    with JsonlZstWriter(tmp_path / "corpus" / "train" / "00003.jsonl.zst") as file:
        file.write({"id": "1", "words": "x"})
    with pytest.raises(HanmoError, match=r"00003\.jsonl\.zst:1: no field 'text'"):
        run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "out")
    assert not (tmp_path / "out" / "tokens.json").exists()


SCRIPT = """
import sys
from pathlib import Path
from hanmo.tokens.settings import TokensSettings
from hanmo.tokens.stage import run

if __name__ == "__main__":
    corpus, tokenizer, out = map(Path, sys.argv[1:])
    run(TokensSettings(workers=2), {"corpus": [corpus], "tokenizer": [tokenizer]}, out)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.usefixtures("warm_stages")
def test_killed_at_several_moments_it_goes_on_to_the_same_result(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    corpus(tmp_path / "corpus", files=6, repeat=300)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), tmp_path / "corpus", tiny_tokenizer_dir]
    begun = time.monotonic()
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    whole = time.monotonic() - begun
    for share in (0.7, 0.9):
        process = subprocess.Popen([*command, tmp_path / "killed"], stderr=subprocess.DEVNULL)
        try:
            process.wait(whole * share)
        except subprocess.TimeoutExpired:
            behind(process).kill()
            process.wait()
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_tokenizer_made_elsewhere_that_also_ends_documents_with_id_0(shared_data: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = shared_data / "tokenizers" / "minimind"
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.encode_special_tokens = True
    written = corpus(tmp_path / "corpus")
    run(tmp_path / "corpus", folder, tmp_path / "out")
    split = open_split(tmp_path / "out", "train")
    for index, (text, _) in enumerate(written):
        assert split.document(index).tolist() == [*reference.encode(text).ids, 0]


def test_documents_end_with_what_the_tokenizer_says(tmp_path: Path) -> None:
    from hanmo.tokenizer.imports import import_tokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "春", "天", "小", "猫"]
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    import_tokenizer(tmp_path / "vocab.txt", tmp_path / "bert")
    corpus(tmp_path / "corpus", files=1)
    run(tmp_path / "corpus", tmp_path / "bert", tmp_path / "out")
    assert read_info(tmp_path / "out")["eos_id"] == 3
    split = open_split(tmp_path / "out", "train")
    assert split.document(0).tolist()[-1] == 3
    assert split.document(0).tolist()[1:3] == [5, 6]
    assert split.pinyin is None


def test_words_have_no_tokenizer_json(tmp_path: Path) -> None:
    from hanmo.tokenizer.forms import word

    tokenizer = word.build([text * 3 for text in TEXTS], 300, "rjieba", tmp_path / "words")
    written = corpus(tmp_path / "corpus", files=2)
    run(tmp_path / "corpus", tmp_path / "words", tmp_path / "out", workers=2)
    split = open_split(tmp_path / "out", "train")
    for index, (text, _) in enumerate(written):
        ids = split.document(index).tolist()
        assert ids[-1] == 0
        assert tokenizer.decode(ids[:-1]) == text


def test_sums_of_large_counts_do_not_overflow(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, 400, "abc") as shard:
        shard.write(np.zeros(6, np.uint16), np.arange(1, 7), [2**32 - 1] * 6, [1] * 6)
    found = stage._amount(tmp_path, 2)
    assert found["bytes"] == found["by_source"][1]["bytes"] == 6 * (2**32 - 1)


def test_what_is_known_of_shards_is_in_tokens_json(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    corpus(tmp_path / "corpus")
    run(tmp_path / "corpus", tiny_tokenizer_dir, tmp_path / "out")
    split = open_split(tmp_path / "out", "train")
    known = read_info(tmp_path / "out")["shards"]["train"]
    assert [facts["name"] for facts in known] == [shard.path.stem for shard in split.shards]
    for facts, shard in zip(known, split.shards, strict=True):
        assert (facts["tokens"], facts["documents"]) == (len(shard), shard.documents)
        told = {int(index): tuple(value[:2]) for index, value in facts["by_source"].items()}
        assert told == shard.amounts
        for suffix, (size, digest) in facts["files"].items():
            data = (tmp_path / "out" / "train" / f"{facts['name']}{suffix}").read_bytes()
            assert (len(data), xxhash.xxh3_128_hexdigest(data)) == (size, digest)
