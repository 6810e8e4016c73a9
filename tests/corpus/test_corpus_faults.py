"""Faulty input: one clear line that names the place, or a count, and never half a result."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard
from test_corpus_stage import article, content, documents, make, write

from hanmo import pool
from hanmo.corpus import gather, stage
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.errors import HanmoError
from hanmo.files import fingerprint_path, read_jsonl
from hanmo.recipe import check_settings
from hanmo.stages import KINDS
from nest import behind

GOOD = [{"text": article(number)} for number in range(30)]


def settings(path: Path, **more) -> CorpusSettings:
    return CorpusSettings(sources=[Source(path=str(path))], **{"workers": 1, **more})


def refused(tmp_path: Path, chosen: CorpusSettings) -> str:
    with pytest.raises(HanmoError) as caught:
        make(chosen, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "stats.json").exists()
    assert not (tmp_path / "out" / "train").exists()
    return str(caught.value)


def with_lines(path: Path, *odd: bytes) -> Path:
    write(path, GOOD)
    path.write_bytes(path.read_bytes() + b"".join(line + b"\n" for line in odd))
    return path


def test_a_torn_zst(tmp_path: Path) -> None:
    data = zstandard.ZstdCompressor().compress(write(tmp_path / "whole", GOOD).read_bytes())
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(data[: len(data) // 2])
    assert refused(tmp_path, settings(path)) == (
        f"{path}: the .zst file is torn or is none (it ends in the middle): fetch it again; "
        "mend or remove the file, or set on_bad_file: skip"
    )
    many = [{"text": article(number)} for number in range(3000)]
    data = zstandard.ZstdCompressor().compress(write(tmp_path / "whole", many).read_bytes())
    path.write_bytes(data[: len(data) // 2])
    stats = make(settings(path, on_bad_file="skip"), tmp_path / "skipped")
    assert stats["bad_files"] == 1
    assert 100 < stats["train"]["documents"] < 2000  # what stood before the tear
    assert stats["sources"]["a"]["bad_files"][0].startswith("a.jsonl.zst: the .zst file is torn")
    assert documents(tmp_path / "skipped" / "rejects")[0]["reason"] == "torn_archive"


def test_one_line_that_is_not_json_is_counted_and_many_are_refused(tmp_path: Path) -> None:
    path = with_lines(tmp_path / "a.jsonl", b'{"text": "torn')
    stats = make(settings(path, max_bad_lines=0.1), tmp_path / "counted")
    assert stats["rejected"] == {"not_json": 1}
    assert stats["sources"]["a"]["examples"]["not_json"][0]["where"] == "a.jsonl:31"
    (tmp_path / "counted").rename(tmp_path / "kept")
    line = refused(tmp_path, settings(path))
    assert line.startswith(f"{path}:31: not JSON (")
    path = with_lines(tmp_path / "b.jsonl", *[b"{"] * 6)
    line = refused(tmp_path, settings(path, max_bad_lines=0.1))
    assert line.startswith(f"{path}:31: not JSON (")
    assert "6 of 36 records" in line
    assert "max_bad_lines" in line


def test_a_line_of_100_mb(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with write(path, GOOD).open("ab") as file:
        file.write(b'{"text": "')
        for _ in range(100):
            file.write("汉字文本".encode() * 83_334)
        file.write(b'"}\n')
    stats = make(settings(path, max_bad_lines=0.1), tmp_path / "counted")
    assert stats["rejected"] == {"too_big": 1}
    line = refused(tmp_path, settings(path))
    assert line.startswith(f"{path}:31: 100.0 MB in one record, above max_document_mb")


def test_gb18030_in_a_utf8_file(tmp_path: Path) -> None:
    path = with_lines(tmp_path / "a.jsonl", f'{{"text": "{article(99)}"}}'.encode("gb18030"))
    stats = make(settings(path, max_bad_lines=0.1), tmp_path / "counted")
    assert stats["rejected"] == {"bad_encoding": 1}
    line = refused(tmp_path, settings(path))
    assert line.startswith(f"{path}:31: bytes ")
    assert "are not UTF-8 (they look like GB18030)" in line
    text = tmp_path / "a.txt"
    text.write_bytes((article(1) + "\n" + article(2) + "\n").encode() + article(3)[:9].encode("gb18030"))
    line = refused(tmp_path, settings(text))
    assert line.startswith(f"{text}:3: bytes ")


def test_no_usable_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "short"}, {"text": "no chinese in this line at all"}])
    with pytest.raises(HanmoError) as caught:
        make(settings(path), tmp_path / "out")
    assert str(caught.value).startswith("no usable document in 1 file: ")
    assert "1 too_short" in str(caught.value)
    assert "1 low_han" in str(caught.value)
    assert not (tmp_path / "out" / "stats.json").exists()
    assert len(documents(tmp_path / "out" / "rejects")) == 2
    (tmp_path / "empty.txt").touch()
    with pytest.raises(HanmoError, match="1 empty"):
        make(settings(tmp_path / "empty.txt"), tmp_path / "out")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(HanmoError, match="no document at all"):
        make(settings(tmp_path / "empty.jsonl"), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.docx", b"PK", r"a\.docx: no format is known by the ending '\.docx'"),
        ("a.jsonl", b'{"question": "q", "answer": "a"}\n', "no field is known to hold the text"),
        ("a.jsonl", b'{"text": "q", "content": "a"}\n', "'content' or 'text'"),
        ("a.json", b'{"data": [{"text": "a"}]}', "no field is known .*there is: data"),
        ("a.json", b'{\n"text": "a"}', "neither a JSON array of records nor one JSON record a line"),
        ("a.parquet", b"PAR1", "not a whole Parquet file"),
        ("a.txt", "電子郵件與網際網路的發展".encode("big5"), "neither UTF-8 nor GB18030"),
        ("a.txt", bytes(1000), "not text"),
    ],
)
def test_files_of_no_use(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(HanmoError, match=message) as caught:
        make(settings(tmp_path / name), tmp_path / "out")
    assert name in str(caught.value)


def test_wrong_sources(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(HanmoError, match="no such file or folder"):
        make(settings(tmp_path / "absent"), tmp_path / "out")
    with pytest.raises(HanmoError, match="no file that can be read"):
        make(settings(tmp_path / "*.txt"), tmp_path / "out")
    with pytest.raises(HanmoError, match="2 sources are named 'a'"):
        make(CorpusSettings(sources=[Source(path=str(path)), Source(path=str(path))]), tmp_path / "out")
    with pytest.raises(HanmoError, match="no encoding is called 'gb-9'"):
        make(CorpusSettings(sources=[Source(path=str(path), encoding="gb-9")]), tmp_path / "out")


def test_a_bad_file_among_good_ones_is_skipped_and_counted_if_told_so(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(article(number), encoding="utf-8")
    (folder / "2.txt").write_bytes(bytes(range(128, 256)) * 9)
    line = refused(tmp_path, settings(folder))
    assert line.startswith(f"{folder / '2.txt'}: neither UTF-8 nor GB18030")
    stats = make(settings(folder, on_bad_file="skip"), tmp_path / "skipped")
    assert (stats["bad_files"], stats["read"]["documents"]) == (1, 3)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)

    class Full(gather.SpillWriter):
        def write(self, document) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "/full/disk")

    monkeypatch.setattr(gather, "SpillWriter", Full)
    assert refused(tmp_path, settings(path)).startswith("the disk is full at /full/disk: ")
    monkeypatch.undo()
    make(settings(path), tmp_path / "out")
    make(settings(path), tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_a_try_that_broke_off_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    sources = []
    for number in range(3):
        rows = [{"text": article(number * 50 + row)} for row in range(60)]
        sources.append(Source(path=str(write(tmp_path / f"{number}.jsonl", rows))))
    monkeypatch.setattr(stage, "BUCKET", 10_000)
    monkeypatch.setattr("hanmo.corpus.inputs.TASK", 5000)
    chosen = CorpusSettings(sources=sources, workers=1, heldout_fraction=0.1)
    make(chosen, tmp_path / "whole")

    done = 0
    work = pool.run_tasks

    def broken(function, tasks, workers):
        nonlocal done
        for item in work(function, tasks, workers):
            done += 1
            yield item
            if done == steps:
                raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_tasks", broken)
    with pytest.raises(KeyboardInterrupt):
        make(chosen, tmp_path / "broken")
    (tmp_path / "broken" / "train").mkdir(exist_ok=True)
    (tmp_path / "broken" / "train" / ".00000.jsonl.zst.1.tmp").write_bytes(b"half")
    done = -1000
    make(chosen, tmp_path / "broken")
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


SCRIPT = """
import sys
from pathlib import Path
from hanmo.corpus.settings import CorpusSettings
from hanmo.corpus.stage import run

if __name__ == "__main__":
    run(CorpusSettings.model_validate_json(Path(sys.argv[1]).read_bytes()), {}, Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.usefixtures("warm_stages")
def test_killed_at_several_moments_it_goes_on_to_the_same_result(tmp_path: Path) -> None:
    sources = []
    for number in range(4):
        rows = [{"text": article(number * 7919 + row, 300)} for row in range(700)]
        sources.append(Source(path=str(write(tmp_path / f"{number}.jsonl", rows * 2))))
    chosen = CorpusSettings(sources=sources, workers=2, heldout_fraction=0.05)
    (tmp_path / "settings.json").write_text(chosen.model_dump_json(), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), tmp_path / "settings.json"]
    begun = time.monotonic()
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    whole = time.monotonic() - begun
    for share in (0.45, 0.6, 0.75, 0.9):
        process = subprocess.Popen([*command, tmp_path / "killed"], stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(whole * share)
        except subprocess.TimeoutExpired:
            behind(process).kill()
            process.wait()
    subprocess.run([*command, tmp_path / "killed"], check=True, capture_output=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_no_utf8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    with open(os.fsencode(raw) + b"/\xb4\xba.txt", "wb") as file:  # noqa: PTH123
        file.write("春天到了，花园里的花都开了，小明和外婆去河边散步。".encode())
    fingerprint_path(raw)
    stage.run(CorpusSettings(sources=[Source(path=str(raw))], heldout_fraction=0, workers=1), {}, tmp_path / "out")
    [path] = (tmp_path / "out" / "train").iterdir()
    [(_, record)] = read_jsonl(path)
    assert record["id"] == "raw:\\xb4\\xba.txt:1"


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"clean": {"convret": "auto"}}, r"sources\.0 \(web\): clean\.convret: unknown key; did you mean 'convert'\?"),
        ({"quality": {"min_char": 3}}, r"sources\.0 \(web\): quality\.min_char: unknown key; did you mean"),
        ({"clean": {"mask": ["phnoe"]}}, r"sources\.0 \(web\): clean\.mask\.0: Input should be 'phone'"),
    ],
)
def test_a_slip_in_a_source_s_own_settings_names_the_source(wrong: dict, line: str) -> None:
    with pytest.raises(HanmoError, match=line):
        check_settings(KINDS["corpus"], {"sources": [{"path": "a.txt", "name": "web", **wrong}]}, "corpus")
