"""Archives: members are files like any other, and what must not be read is counted with its reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from test_corpus_stage import article, content, documents, make

from hanmo.corpus import archives, inputs, stream
from hanmo.corpus.archives import Member, blocks, members
from hanmo.corpus.formats import read
from hanmo.corpus.records import Opened, Record
from hanmo.corpus.settings import CorpusSettings, QualitySettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError

libarchive = pytest.importorskip("libarchive", exc_type=Exception)

FILES = {
    "诗/一.txt": article(1).encode(),
    "诗/二.txt": article(2).encode("gb18030"),
    "rows.jsonl": b"".join(json.dumps({"text": article(number)}).encode() + b"\n" for number in range(10, 40)),
    "rows.json.zst": zstandard.compress(json.dumps([{"content": article(50), "title": "题"}]).encode()),
    "a.csv.bz2": bz2.compress(f"text\n{article(60)}\n".encode()),
    "empty.txt": b"",
}
TEXTS = sorted([article(number) for number in (1, 2, *range(10, 40), 50, 60)])


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("folder")
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packers = {".gz": gzip.compress, ".tgz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    packers |= {".zst": zstandard.compress, ".tar": bytes}
    path.write_bytes(packers[path.suffix](whole.getvalue()))
    return path


def make_7z(path: Path, files: dict[str, bytes]) -> Path:
    with libarchive.file_writer(str(path), "7zip") as archive:
        for name, data in files.items():
            archive.add_file_from_memory(name, len(data), data)
    return path


def make_rar(path: Path, files: dict[str, bytes]) -> Path:
    """RAR 5.0 whose members are stored, from the published description of the format (only WinRAR may compress)."""

    def number(value: int) -> bytes:
        out = b""
        while value > 0x7F:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    def block(header: bytes, data: bytes = b"") -> bytes:
        header = number(len(header)) + header
        return struct.pack("<I", zlib.crc32(header)) + header + data

    out = b"Rar!\x1a\x07\x01\x00" + block(number(1) + number(0) + number(0))
    for name, data in files.items():
        head = number(2) + number(2) + number(len(data)) + number(4) + number(len(data)) + number(0o100644)
        head += struct.pack("<I", zlib.crc32(data)) + number(0) + number(1)
        out += block(head + number(len(name.encode())) + name.encode(), data)
    path.write_bytes(out + block(number(5) + number(0) + number(0)))
    return path


MAKERS = {
    "a.zip": make_zip,
    "a.tar": make_tar,
    "a.tar.gz": make_tar,
    "a.tgz": make_tar,
    "a.tar.xz": make_tar,
    "a.tar.bz2": make_tar,
    "a.tar.zst": make_tar,
    "a.7z": make_7z,
    "a.rar": make_rar,
}


def settings(path: Path, **more) -> CorpusSettings:
    return CorpusSettings(
        sources=[Source(path=str(path), name="box")],
        **{"workers": 1, "heldout_fraction": 0, "near_similarity": 0} | more,
    )


@pytest.mark.parametrize("name", MAKERS)
def test_members_are_files(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path / name, FILES)
    listed = list(members(path))
    assert [member.name for member in listed] == list(FILES)
    assert [member.size for member in listed] == [len(data) for data in FILES.values()]
    for member in reversed(listed):  # in any order, also against the archive's own
        assert b"".join(blocks(path, member)) == FILES[member.name]


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_becomes_the_corpus_that_its_folder_would(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "TASK", 2000)
    monkeypatch.setattr(stream, "SPAN", 700)
    path = MAKERS[name](tmp_path / name, FILES)
    stats = make(settings(path), tmp_path / "one")
    assert stats["rejected"] == {"empty": 1}
    train = documents(tmp_path / "one" / "train")
    assert sorted(record["text"] for record in train) == TEXTS
    assert {record["meta"]["at"] for record in train} >= {f"{name}!/诗/一.txt:1", f"{name}!/rows.jsonl:30"}
    make(settings(path, workers=3), tmp_path / "three")
    assert content(tmp_path / "one") == content(tmp_path / "three")


def test_a_torn_archive_is_told_and_counted(tmp_path: Path) -> None:
    big = {f"{number}.txt": (article(number) * 200).encode() for number in range(20)}
    for name, maker in MAKERS.items():
        path = maker(tmp_path / name, big)
        data = path.read_bytes()
        path.write_bytes(data[: 2 * len(data) // 3])
        with pytest.raises(HanmoError, match=r"torn|cut off") as caught:
            make(settings(path), tmp_path / "out")
        assert "\n" not in str(caught.value)
        if name not in ("a.zip", "a.7z"):  # whose directories stand at their end
            repeating = QualitySettings(rules=False)
            stats = make(settings(path, on_bad_file="skip", quality=repeating), tmp_path / "skipped" / name)
            assert stats["bad_files"] >= 1
            assert 1 <= stats["train"]["documents"] < 20


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "a.zip", {"a.txt": article(1).encode(), "b.txt": article(2).encode()}, zipfile.ZIP_STORED
    )
    data = bytearray(path.read_bytes())
    data[data.index(article(1).encode()) + 3] ^= 1
    path.write_bytes(data)
    stats = make(settings(path, on_bad_file="skip"), tmp_path / "out")
    assert stats["bad_files"] == 1
    assert "checksum" in stats["sources"]["box"]["bad_files"][0]
    assert stats["train"]["documents"] == 1


class _Named(zipfile.ZipInfo):
    """A member whose name is written in bytes of its own, without the flag for UTF-8."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # what zipfile asks for a name's bytes
        return self.raw, self.flag_bits & ~0x800


@pytest.mark.parametrize("encoding", ["gbk", "utf-8"])
def test_names_in_gbk_without_a_flag(tmp_path: Path, encoding: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = _Named("x")
        info.raw = "诗歌/静夜思.txt".encode(encoding)
        archive.writestr(info, article(1))
        flagged = _Named("y")
        flagged.raw = b"????.txt"
        name = "简体.txt".encode()
        flagged.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(flagged.raw)) + name
        archive.writestr(flagged, article(2))
    assert [member.name for member in members(tmp_path / "a.zip")] == ["诗歌/静夜思.txt", "简体.txt"]
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        archive.addfile(tarfile.TarInfo("诗歌.txt"))
    (tmp_path / "a.tar").write_bytes(whole.getvalue())
    assert [member.name for member in members(tmp_path / "a.tar")] == ["诗歌.txt"]


def test_what_must_not_be_read_is_refused_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"a.txt": article(1).encode()}).read_bytes()
    monkeypatch.setattr(archives, "BOMB_BYTES", 100_000)
    files = {
        "good.txt": article(2).encode(),
        "inner.zip": inner,
        "../out.txt": article(3).encode(),
        "bomb.txt": b"x" * 1_000_000,
        "secret.txt": article(4).encode(),
        "photo.jpg": b"x",
        "__MACOSX/._good.txt": b"x",
        ".hidden/a.txt": b"x",
    }
    path = make_zip(tmp_path / "a.zip", files)
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\1\2", 0, data.rindex(b"secret.txt"))
    data[central + 8] |= 1  # the flag that says encrypted
    path.write_bytes(data)
    reasons = {member.name: member.fault[0] if member.fault else "" for member in members(path)}
    assert reasons == {
        "good.txt": "",
        "inner.zip": "nested_archive",
        "../out.txt": "unsafe_name",
        "bomb.txt": "bomb",
        "secret.txt": "encrypted",
        "photo.jpg": "",
    }
    with pytest.raises(HanmoError, match=r"a\.zip!/inner\.zip: an archive inside an archive"):
        make(settings(path), tmp_path / "out")
    stats = make(settings(path, on_bad_file="skip"), tmp_path / "skipped")
    assert stats["bad_files"] == 4
    assert {record["reason"] for record in documents(tmp_path / "skipped" / "rejects")} == set(reasons.values()) - {""}
    assert stats["sources"]["box"]["left_out"] == {".jpg": 1}
    assert [record["text"] for record in documents(tmp_path / "skipped" / "train")] == [article(2)]


def test_bombs_in_any_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 100_000)
    monkeypatch.setattr(archives, "BOMB_RATIO", 10)
    for name in ("a.tar.xz", "a.7z"):
        path = MAKERS[name](tmp_path / name, {"a.txt": b"x" * 3_000_000})
        assert [member.fault[0] for member in members(path) if member.fault][-1:] == ["bomb"], name
    # Members that share their bytes: one kernel, many entries in the directory.
    path = make_zip(tmp_path / "b.zip", {"a.txt": article(1).encode()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist.append(archive.getinfo("a.txt"))
        archive._didModify = True
    assert [member.fault[0] if member.fault else "" for member in members(path)] in (["bomb", "bomb"], ["", "bomb"])
    # A member that unpacks to more than it says.
    with pytest.raises(FileFault, match="more than it says"):
        list(blocks(path, Member("a.txt", 0, 3, offset=_first(path), packed=10_000, method=8)))


def _first(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo("a.txt").header_offset


def test_an_encrypted_7z_or_rar_is_said_to_be_so(tmp_path: Path) -> None:
    path = make_rar(tmp_path / "a.rar", {"a.txt": article(1).encode()})
    data = path.read_bytes()
    # A RAR whose headers are encrypted begins with a block of type 4 (archive encryption header).
    head = bytes([4, 0, 0, 0, 15]) + bytes(16)
    head = bytes([len(head)]) + head
    path.write_bytes(data[:8] + struct.pack("<I", zlib.crc32(head)) + head + data[8:])
    with pytest.raises(HanmoError, match=r"encrypted|torn"):
        make(settings(path), tmp_path / "out")


def test_files_that_need_an_index_at_their_end_come_out_of_archives(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [article(number) for number in range(5)]}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for name, maker in MAKERS.items():
        path = maker(tmp_path / name, {"a.parquet": data, "b.parquet.gz": gzip.compress(data)})
        for member in members(path):
            items = list(read(Opened(path, "parquet", member)))
            assert [item.fields["text"] for item in items if isinstance(item, Record)] == [
                article(number) for number in range(5)
            ]


def test_archives_among_other_files_and_in_globs(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    make_zip(folder / "a.zip", {"a.txt": article(1).encode()})
    make_tar(folder / "b.tar.gz", {"deep/b.txt": article(2).encode()})
    (folder / "c.txt").write_text(article(3), encoding="utf-8")
    for path in (folder, folder / "*"):
        make(settings(path), tmp_path / "out")
        places = {record["meta"]["at"] for record in documents(tmp_path / "out" / "train")}
        assert places == {"a.zip!/a.txt:1", "b.tar.gz!/deep/b.txt:1", "c.txt:1"}
    named = CorpusSettings(sources=[Source(path=str(folder / "a.zip")), Source(path=str(folder / "b.tar.gz"))])
    assert [source.name for source in inputs.all_sources(named, [])] == ["a", "b"]


def test_a_changed_archive_is_another_plan(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.txt": article(1).encode()})
    make(settings(path), tmp_path / "out")
    make_zip(path, {"a.txt": article(2).encode()})
    make(settings(path), tmp_path / "out")
    assert [record["text"] for record in documents(tmp_path / "out" / "train")] == [article(2)]


def test_many_members_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tar(tmp_path / "a.tar.gz", {f"{number:03}.txt": article(number).encode() for number in range(200)})
    started = []
    walk = archives._walk
    monkeypatch.setattr(archives, "_walk", lambda path: started.append(path) or walk(path))
    found = [b"".join(blocks(path, member)) for member in list(members(path))]
    assert found == [article(number).encode() for number in range(200)]
    assert len(started) == 2  # once to list them, once to read


def test_a_large_member_is_shared_among_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "TASK", 2000)
    rows = b"".join(json.dumps({"text": article(number)}).encode() + b"\n" for number in range(100))
    for name, most in (("a.zip", 4), ("a.tar", 32), ("a.tar.gz", 4), ("a.7z", 3)):
        path = MAKERS[name](tmp_path / name, {"a.txt": article(1).encode(), "rows.jsonl": rows})
        files = inputs.look(settings(path), []).files
        assert [file.opened.stripes for file in files] == [1, min(most, round(len(rows) / 2000))], name
    path = make_tar(tmp_path / "b.tar.gz", {f"{number}.jsonl": rows for number in range(3)})
    assert {file.opened.stripes for file in inputs.look(settings(path), []).files} == {1}


def test_no_library_for_rar_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_rar(tmp_path / "a.rar", {"a.txt": b"x"})

    def absent(*_: str) -> None:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")

    monkeypatch.setattr(archives, "need", absent)
    with pytest.raises(HanmoError, match="need the library libarchive: install it"):
        make(settings(path), tmp_path / "out")


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:."), min_size=1, max_size=20), max_size=6
)


@given(
    names, st.lists(st.binary(max_size=200), min_size=6, max_size=6), st.sampled_from(["a.zip", "a.tar", "a.tar.zst"])
)
def test_any_names_and_bytes_come_back(
    tmp_path_factory: pytest.TempPathFactory, found: list[str], data: list[bytes], name: str
) -> None:
    files = {f"f{file}.txt": content for file, content in zip(found, data, strict=False)}
    path = MAKERS[name](tmp_path_factory.mktemp("any") / name, files)
    assert {member.name: b"".join(blocks(path, member)) for member in members(path)} == files
