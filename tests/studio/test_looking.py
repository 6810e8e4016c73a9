"""What the studio tells of corpora, tokenizers, exams and cards, and the files it hands out."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fabricate import CATEGORIES, NASTY
from hanmo.files import JsonlZstWriter
from hanmo.studio.app import create_app
from hanmo.studio.pieces import Tokenizers
from hanmo.studio.shelf import Shelf

API = "/v1/studio"


@pytest.fixture(scope="module")
def client(runs: Path, tiny_tokenizer_dir: Path, tmp_path_factory) -> Iterator[TestClient]:
    rejects = runs / "demo" / "corpus" / "rejects"
    rejects.mkdir()
    with JsonlZstWriter(rejects / "00000.jsonl.zst") as out:
        for number in range(25):
            reason = "too_short" if number % 2 else "low_han"
            text = NASTY if number == 1 else f"第{number}篇"
            out.write(
                {"id": f"百科:{number}", "text": text, "source": "百科", "reason": reason, "meta": {"detail": "x"}}
            )
    inside, outside = runs / "demo" / "dpo" / "model", tmp_path_factory.mktemp("model")
    inside.mkdir()
    for model in (inside, outside):
        (model / "config.json").write_text('{"model_type": "qwen3"}')
        (model / "tokenizer.json").write_bytes((tiny_tokenizer_dir / "tokenizer.json").read_bytes())
    (runs / "demo" / "sft" / "model").symlink_to(outside, target_is_directory=True)
    (inside / "README.md").write_text(
        "---\ntags: [x]\n---\n# A **card**\n\n<script>alert(1)</script>\n", encoding="utf-8"
    )
    with TestClient(create_app(runs), raise_server_exceptions=False) as client:
        yield client


def get(client: TestClient, where: str) -> Any:
    answer = client.get(f"{API}/runs/{where}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_account_of_a_corpus_adds_up(client: TestClient) -> None:
    found = get(client, "demo/corpus/corpus")
    fates = found["train"]["documents"] + found["heldout"]["documents"] + sum(count for _, count in found["reasons"])
    assert found["read"]["documents"] == fates
    assert [count for _, count in found["reasons"]] == sorted((count for _, count in found["reasons"]), reverse=True)
    title, _, flow = found["flows"][0]
    assert title == "flow_documents" and sum(node["value"] for node in flow["left"]) == fates
    assert found["examples"]["too_short"][1]["text"] == NASTY


def test_rejected_documents_are_paged_through(client: TestClient) -> None:
    where = "demo/corpus/rejects?reason=too_short"
    first = get(client, where)
    assert len(first["documents"]) == 10 and first["documents"][0]["text"] == NASTY
    rest = get(client, f"{where}&skip={first['next']}")
    assert [one["where"] for one in rest["documents"]] == ["百科:21", "百科:23"] and rest["next"] is None
    assert get(client, "demo/corpus/rejects?reason=none")["documents"] == []
    assert client.get(f"{API}/runs/{where}&skip=-1").status_code == 400


def test_tokenizers_are_listed_once_and_cut_text(client: TestClient) -> None:
    [one] = [one for one in client.get(f"{API}/tokenizers").json() if one["run"] == "demo"]
    assert (one["stage"], one["also"]) == ("tokenizer", ["demo/dpo"]), "a model's copy is the same tokenizer"
    body = {
        "tokenizers": [{"run": "demo", "stage": name} for name in ("tokenizer", "dpo")],
        "text": "春天，龘 <|im_end|>\n",
    }
    first, second = client.post(f"{API}/pieces", json=body).json()
    assert first == second and first["whole"] and first["vocabulary"] == 400
    assert first["tokens"] == sum(len(piece["tokens"]) for piece in first["pieces"])
    split = next(piece for piece in first["pieces"] if piece["text"] == "龘")
    assert split["kind"] == "split" and split["tokens"][0]["name"] == "E9"
    assert all(token["id"] > 2 for piece in first["pieces"] for token in piece["tokens"]), "no special token from text"


@settings(max_examples=30)
@given(text=st.text(st.characters(codec="utf-8"), max_size=80))
def test_pieces_are_the_text(finished: Path, text: str) -> None:
    found = Tokenizers(Shelf(finished)).cut("@", "tokenizer", text)
    assert "".join(piece["text"] for piece in found["pieces"]) == text and found["whole"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"text": "x"}',
        b'{"text": "x", "tokenizers": []}',
        b'{"text": "x", "tokenizers": [3]}',
        b'{"text": "x", "tokenizers": [{"run": "demo"}]}',
        b'{"text": "x", "tokenizers": [{"run": "demo", "stage": ["base"]}]}',
        b'{"text": 3, "tokenizers": [{"run": "demo", "stage": "tokenizer"}]}',
        json.dumps({"text": "x" * 20_001, "tokenizers": [{"run": "demo", "stage": "tokenizer"}]}).encode(),
        json.dumps({"text": "x", "tokenizers": [{"run": "demo", "stage": "tokenizer"}] * 7}).encode(),
        b'{"text": "\\ud800", "tokenizers": [{"run": "demo", "stage": "tokenizer"}]}',
        b"\xff",
    ],
)
def test_bad_texts_get_one_clear_answer(client: TestClient, body: bytes) -> None:
    answer = client.post(f"{API}/pieces", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_stage_without_a_tokenizer_is_said(client: TestClient) -> None:
    body = {"text": "x", "tokenizers": [{"run": "demo", "stage": "eval"}]}
    answer = client.post(f"{API}/pieces", json=body)
    assert answer.status_code == 404 and "no tokenizer" in answer.json()["error"]["message"]


def test_vocabularies_exams_and_cards(client: TestClient) -> None:
    assert get(client, "demo/tokenizer/tokenizer")["vocabulary"] == 400
    exam = get(client, "demo/eval/exam")
    total = exam["models"][-1]["exams"]["world"]["total"]
    assert total["low"] < total["accuracy"] < total["high"] and total["chance"] > 0
    assert set(exam["models"][-1]["exams"]["world"]["categories"]) == set(CATEGORIES) and exam["items"]
    assert "<script>alert(1)</script>" in get(client, "demo/dpo/card")["text"]
    for where in ("demo/base/exam", "demo/base/card", "demo/base/tokenizer", "demo/base/corpus"):
        assert client.get(f"{API}/runs/{where}").status_code == 404, where


def test_links_out_of_the_folder_are_not_followed(client: TestClient, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1}\n')
    stage = runs / "demo" / "gguf"
    (stage / "log.jsonl").symlink_to(tmp_path / "log.jsonl")
    assert client.get(f"{API}/runs/demo/gguf/curves").status_code == 404
    assert "curves" not in next(s for s in get(client, "demo")["stages"] if s["id"] == "gguf")["shows"]
    (runs / "demo" / "eval" / "exam-more.jsonl").symlink_to(tmp_path / "log.jsonl")
    assert client.get(f"{API}/runs/demo/eval/exam").status_code == 404
    (runs / "demo" / "eval" / "exam-more.jsonl").unlink()


def test_files_are_handed_out_by_name_only(client: TestClient, runs: Path) -> None:
    names = {one["name"]: one["bytes"] for one in get(client, "demo/dpo/files")}
    assert {"log.jsonl", "model/config.json", "model/README.md"} <= names.keys()
    answer = client.get(f"{API}/runs/demo/dpo/files/model/config.json")
    assert len(answer.content) == names["model/config.json"]
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"] == "sandbox"
    (runs / "demo" / "dpo" / ".hidden").write_text("x")
    (runs / "demo" / "dpo" / "passwd").symlink_to("/etc/passwd")
    for name in (".hidden", "passwd", "../eval/eval.json", "model/../log.jsonl", "//etc/passwd", "model", "none"):
        for where in (name, quote(name, safe=""), name.replace("..", "%2e%2e")):
            answer = client.get(f"{API}/runs/demo/dpo/files/{where}")
            assert answer.status_code == 404 or answer.url.path.endswith("/dpo/files/log.jsonl"), where
    assert [one["name"] for one in get(client, "demo/sft/files")] == ["log.jsonl", "manifest.json", "records.json"]


def test_a_model_is_handed_out_as_one_zip(client: TestClient) -> None:
    answer = client.get(f"{API}/runs/demo/dpo/model.zip")
    assert answer.headers["content-disposition"].endswith("demo-dpo.zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None and set(archive.namelist()) == {"README.md", "config.json", "tokenizer.json"}
    assert json.loads(archive.read("config.json"))["model_type"] == "qwen3"
    assert client.get(f"{API}/runs/demo/base/model.zip").status_code == 404


def test_a_report_runs_apart_from_the_studio(client: TestClient, runs: Path) -> None:
    (runs / "demo" / "report").mkdir()
    (runs / "demo" / "report" / "manifest.json").write_text('{"do": "report"}')
    (runs / "demo" / "report" / "report.html").write_text("<script>1</script>")
    answer = client.get(f"{API}/runs/demo/report/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert "report" in next(s for s in get(client, "demo")["stages"] if s["id"] == "report")["shows"]
