"""What the studio answers over HTTP, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from at_work import begun, log
from starlette.testclient import TestClient

from hanmo.studio.app import create_app
from hanmo.studio.words import STUDIO, all_words

API = "/v1/studio"


@pytest.fixture(scope="module")
def client(runs: Path) -> Iterator[TestClient]:
    with TestClient(create_app(runs), raise_server_exceptions=False) as client:
        yield client


def test_runs_stages_and_their_curves(client: TestClient) -> None:
    found = client.get(f"{API}/runs").json()
    assert {run["id"] for run in found["runs"]} == {"demo", "新 run #1"}
    demo = next(run for run in found["runs"] if run["id"] == "demo")
    assert {stage["id"] for stage in demo["stages"] if stage["curves"]} == {"base", "sft", "dpo"}
    run = client.get(f"{API}/runs/demo").json()
    assert [stage["id"] for stage in run["stages"]][:3] == ["world", "corpus", "tokenizer"]
    curves = client.get(f"{API}/runs/demo/base/curves?x=tokens&points=20").json()
    assert curves["x"] == "tokens" and curves["panels"][0]["names"][0] == "loss"
    loss = curves["series"]["loss"]
    assert len(loss["x"]) == len(loss["mean"]) == len(loss["low"]) == 20 and loss["mean"][0] > loss["mean"][-1]
    assert client.get(f"{API}/runs/{quote('新 run #1', safe='')}/base/curves").json()["end"] == 5
    samples = client.get(f"{API}/runs/demo/base/samples").json()
    assert samples[0]["texts"][0]["step"] and samples[0]["prompt"]


def test_curves_are_live(client: TestClient, runs: Path) -> None:
    stage = begun(runs / "growing" / "base")
    where = f"{API}/runs/growing/base/curves"
    assert client.get(where).status_code == 404
    log(stage, 3)
    assert client.get(where).json()["end"] == 3
    log(stage, 997, first=4)
    found = client.get(f"{where}?points=50").json()["series"]["loss"]
    assert len(found["x"]) == 50 and max(found["high"]) == 50.0, "the spike is still there"
    part = client.get(f"{where}?from=700&to=800").json()["series"]["loss"]
    assert part["x"][0] == 699 and part["x"][-1] == 801 and "high" not in part


@pytest.mark.parametrize(
    ("where", "status", "says"),
    [
        ("runs/none", 404, "run 'none'"),
        ("runs/demo/none/curves", 404, "stage 'demo/none'"),
        ("runs/../curves", 404, ""),
        ("runs/%2e%2e/x/curves", 404, ""),
        ("runs/demo/..%2f..%2fetc/curves", 404, ""),
        ("runs/linked/base/curves", 404, "run 'linked'"),
        ("runs/demo/corpus/curves", 404, "no log"),
        ("runs/demo/base/curves?x=colour", 400, "x: 'colour'"),
        ("runs/demo/base/curves?points=1e9", 400, "points: must be from 2 to"),
        ("runs/demo/base/curves?points=nan", 400, "points: "),
        ("runs/demo/base/curves?from=x", 400, "from: 'x' is not a number"),
        ("nothing", 404, "/v1/studio/nothing"),
    ],
)
def test_bad_questions_get_one_clear_answer(client: TestClient, where: str, status: int, says: str) -> None:
    found = client.get(f"{API}/{where}")
    assert found.status_code == status and says in found.json()["error"]["message"]


def test_the_key_is_needed_for_everything_but_the_page(runs: Path) -> None:
    client = TestClient(create_app(runs, api_key="geheim"))
    assert client.get("/").status_code == 200 and client.get("/page/main.js").status_code == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "geheim"}):
        assert client.get(f"{API}/runs", headers=headers).status_code == 401
    assert client.get(f"{API}/runs", headers={"authorization": "Bearer geheim"}).status_code == 200


def test_other_pages_and_other_names_are_kept_out(runs: Path) -> None:
    client = TestClient(create_app(runs, only_loopback=True), base_url="http://127.0.0.1:8100")
    assert client.get(f"{API}/runs").status_code == 200
    assert client.get(f"{API}/runs", headers={"origin": "https://elsewhere.example"}).status_code == 403
    assert client.get(f"{API}/runs", headers={"host": "rebound.example"}).status_code == 403
    answer = client.options(f"{API}/runs", headers={"origin": "http://127.0.0.1:8100"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert client.post(f"{API}/runs", content=b"x" * (2 << 20)).status_code == 413


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|style=", page.text)
    files = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(files) > 5
    for name in files:
        answer = client.get(name)
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff", name
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", answer.content), name
    assert client.get("/page/..%2fapp.py").status_code == 404


def test_every_word_is_there_in_both_languages_with_the_same_fields() -> None:
    for key, (english, chinese) in all_words().items():
        assert english and chinese, key
        if key in STUDIO:
            fields = [set(re.findall(r"{(\w+)}", text)) for text in (english, chinese)]
            assert fields[0] == fields[1], key


def test_the_page_names_no_word_that_is_not_there() -> None:
    folder = Path(__file__).parents[2] / "src" / "hanmo" / "studio" / "page"
    words = all_words()
    for file in folder.glob("*.js"):
        code = file.read_text(encoding="utf-8")
        used = re.findall(r'\bt\("(\w+)"', code) + re.findall(r'named\([^;]*?, "[\w-]+", "(\w+)"', code)
        assert set(used) <= words.keys(), file.name
