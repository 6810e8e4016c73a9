"""What fills a placeholder: opening plugins, the search of a folder, and web searches against a server of our own."""

from __future__ import annotations

import importlib.metadata
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.serve import plugins
from hanmo.serve.plugins import Frame, open_plugins
from hanmo.serve.plugins.folder import open_search, passages, terms
from hanmo.serve.plugins.web import open_web

# ---- the frame and how plugins are named ----


def test_placeholders_are_filled_once_and_only_around_the_message():
    asked = []

    def tell(message: str) -> str:
        asked.append(message)
        return "{tell}晴"

    frame = Frame("天气：{tell}。{other} ", "（{tell}）", {"tell": tell})
    assert frame("{tell}？") == "天气：{tell}晴。{other} {tell}？（{tell}晴）"
    assert asked == ["{tell}？"] and not frame.steady and Frame("a").steady


def test_a_placeholder_and_its_plugin_need_each_other():
    with pytest.raises(HanmoError, match=r"'tell' has no place: put \{tell\}"):
        Frame("x", "", {"tell": str})
    with pytest.raises(HanmoError, match=r'\{search\} stands in the prompt.*--plugin "search'):
        Frame("{search}")
    assert Frame('{"a": {b}}')("c") == '{"a": {b}}c'


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("serch folder=x", "unknown; did you mean 'search'"),
        ("search", "plugin 'search': give it folder="),
        ("search folder=. topp=3", "no option 'topp'; did you mean 'top'"),
        ("search folder=. top=many", "plugin 'search': top: Input should be a valid integer"),
        ("search folder=. top=0", "plugin 'search': top: Input should be greater"),
        ("search .", "'.' is no OPTION=VALUE"),
        ("search 'folder=.", "No closing quotation"),
        ("search folder=nowhere", "nowhere: no such file or folder"),
        ("web engine=ask", "plugin 'web': engine: Input should be 'brave' or 'searxng'"),
    ],
)
def test_a_slip_is_one_line(asked, line):
    with pytest.raises(HanmoError) as caught:
        open_plugins([asked])
    assert line in str(caught.value) and "\n" not in str(caught.value)


def open_shout(*, times: int = 1):
    def shout(message: str) -> str:
        if message == "boom":
            raise KeyError("no\nvoice")
        return message * times if times else None  # type: ignore[return-value]

    return shout


def test_installed_plugins_are_found_and_their_faults_are_lines(monkeypatch):
    points = [
        importlib.metadata.EntryPoint("shout", f"{__name__}:open_shout", plugins.GROUP),
        importlib.metadata.EntryPoint("gone", "no_such_module:x", plugins.GROUP),
        importlib.metadata.EntryPoint("search", f"{__name__}:open_shout", plugins.GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == plugins.GROUP else [])
    frame = Frame("{shout}", "", ["shout times=2"])
    assert frame("a") == "aaa"
    with pytest.raises(HanmoError, match=r"'shout' failed \(KeyError: 'no\\nvoice'\)"):
        frame("boom")
    with pytest.raises(HanmoError, match="gave NoneType and not text"):
        Frame("{shout}", "", ["shout times=0"])("a")
    with pytest.raises(HanmoError, match="'gone' cannot be loaded"):
        open_plugins(["gone"])
    with pytest.raises(HanmoError, match="named twice"):
        open_plugins(["shout", "shout times=2"])
    with pytest.raises(HanmoError, match="give it folder"):
        open_plugins(["search"])  # ours stays ours


# ---- search in a folder ----


def test_chinese_is_found_by_characters_and_pairs_other_scripts_by_words():
    assert terms("ＢＰＥ分词，v2") == ["bpe", "分", "词", "分词", "v2"]


@given(st.text(alphabet="甲乙。！\n ab", max_size=80), st.integers(1, 30))
def test_passages_hold_the_whole_text_in_its_order(text, size):
    found = list(passages(text, size))
    assert all(0 < len(one) <= size for one in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_the_passages_that_fit_are_found(tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "tea.txt").write_bytes("西湖龙井产于杭州。\n\n黄山毛峰产于安徽。".encode("gb18030"))
    (tmp_path / "notes.md").write_text("长城很长。\n", encoding="utf-8")
    lines = [{"text": "龙井是绿茶，杭州人爱喝。"}, {"name": "no text"}]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(one) for one in lines), encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"x")
    search = open_search(folder=str(tmp_path), top=2, size=20)
    first, second = search("杭州的龙井是什么茶？").split("\n\n")
    assert first == "[1] more.jsonl: 龙井是绿茶，杭州人爱喝。" and second == "[2] deep/tea.txt: 西湖龙井产于杭州。"
    assert search("安徽") == "[1] deep/tea.txt: 黄山毛峰产于安徽。"
    assert search("quantum") == "" and search("？") == ""
    told = capsys.readouterr().err
    assert "4 passages of 3 texts in 3 files" in told
    assert "1 records without a text" in told and "1 files of other kinds" in told
    with pytest.raises(HanmoError, match="no text to search in"):
        open_search(folder=str(tmp_path / "picture.png"))


# ---- web searches ----


class Handler(BaseHTTPRequestHandler):
    """Speaks as much of Brave's and of SearXNG's interface as is asked for; the question says what goes wrong."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(place.query).items()}
        self.server.seen.append((place.path, asked, self.headers.get("x-subscription-token")))  # type: ignore[attr-defined]
        match asked["q"]:
            case "slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(20):  # never quiet for long
                    time.sleep(0.05)
                    self.wfile.write(b" ")
                    self.wfile.flush()
                return
            case "denied":
                return self.send_error(401)
            case "busy":
                return self.send_error(429)
            case "page":
                return self.answer("<html>")
            case "huge":
                return self.answer('"' + "x" * (3 << 20))
            case "strange":
                return self.answer({"web": {"results": [3, {"title": None}]}})
        text = "北京 <strong>3&#176;C</strong>\n多云"
        if place.path == "/search":
            self.answer({"results": [{"title": "天气", "url": "http://a", "content": text}] * 5})
        else:
            results = [{"title": "<b>天气</b>", "url": "http://b", "description": text}] * int(asked["count"])
            self.answer({"web": {"results": [{"title": "empty"}, *results]}})

    def answer(self, body: object) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def web():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def brave(web, monkeypatch):
    monkeypatch.setenv("BRAVE_API_KEY", "k-1")
    return open_web(url=f"http://127.0.0.1:{web.server_port}/res/v1/web/search", top=2, size=20, timeout=0.4)


def test_brave_is_asked_with_the_key_and_its_results_are_plain_text(brave, web):
    assert brave("  天气\n今天 ") == "[1] 天气 (http://b): 北京 3°C 多云\n\n[2] 天气 (http://b): 北京 3°C 多云"
    assert web.seen[-1] == ("/res/v1/web/search", {"q": "天气 今天", "count": "2"}, "k-1")
    assert brave("strange") == "" and brave(" ") == ""


def test_searxng_is_asked_for_json_and_its_results_are_cut(web, monkeypatch):
    monkeypatch.setenv("SEARXNG_URL", f"http://127.0.0.1:{web.server_port}/")
    search = open_web(engine="searxng", top=1, size=20)
    assert search("天气") == "[1] 天气 (http://a): 北京 3°C 多云"
    assert web.seen[-1] == ("/search", {"q": "天气", "format": "json"}, None)


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("slow", "did not answer within 0.4 s"),
        ("denied", "status 401: is the key right"),
        ("busy", "status 429: too many questions"),
        ("page", "does not answer with JSON"),
        ("huge", "more than 2 MiB"),
    ],
)
def test_a_failed_search_is_one_line(brave, question, line):
    with pytest.raises(HanmoError) as caught:
        brave(question)
    assert line in str(caught.value) and "\n" not in str(caught.value) and "k-1" not in str(caught.value)


def test_what_is_missing_is_said_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    monkeypatch.delenv("SEARXNG_URL", raising=False)
    with pytest.raises(HanmoError, match="BRAVE_API_KEY is not set"):
        open_web()
    with pytest.raises(HanmoError, match="SEARXNG_URL"):
        open_web(engine="searxng")
    with pytest.raises(HanmoError, match="no http or https"):
        open_web(engine="searxng", url="file:///etc")
    with pytest.raises(HanmoError, match="cannot be reached"):
        open_web(engine="searxng", url="http://127.0.0.1:1")("a")
