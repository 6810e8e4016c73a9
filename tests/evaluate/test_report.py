"""The report: what it gathers, what it draws, and that nothing a run holds can act on the page."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabricate import CATEGORIES, NASTY, REASONS, fabricate, write
from hanmo import charts
from hanmo.errors import HanmoError
from hanmo.evaluate import draw
from hanmo.evaluate.collect import curves, headline, thin
from hanmo.evaluate.report import both, run
from hanmo.evaluate.settings import ReportSettings
from hanmo.evaluate.words import WORDS
from hanmo.files import read_json
from hanmo.pages import visible


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("demo")
    found = fabricate(folder, tiny_tokenizer_dir)
    counts = run(ReportSettings(), {"eval": [found]}, folder / "report")
    assert counts["stages"] == 9
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert counts["html_bytes"] == len(page.encode())
    return read_json(folder / "report" / "report.json"), page


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them; open tags must be closed in order."""

    VOID = ("meta", "path", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def test_page_is_well_formed_and_self_contained(made: tuple[dict[str, Any], str]) -> None:
    page = Page(made[1])
    assert [tag for tag, _ in page.tags].count("script") == 2
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href", "onclick", "onload"} & set(attributes), (tag, attributes)
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"// .*", "", made[1])), "an address of a network"
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'")


def test_hostile_text_is_shown_and_does_not_act(made: tuple[dict[str, Any], str]) -> None:
    report, text = made
    assert report["data"]["corpus"]["examples"]["too_short"][1]["text"] == NASTY
    page = Page(text)
    shown = '</script><script>alert("x")</script><b>&amp;\\x00\\x1b[31m[U+202E]逆'
    assert page.text.count(shown) >= 5
    assert "<script>alert" not in text
    assert not any(char in text for char in "\x00\x1b\u202e")


def test_every_word_is_there_in_both_languages(made: tuple[dict[str, Any], str]) -> None:
    page = Page(made[1])
    english = [attributes for tag, attributes in page.tags if attributes.get("class") == "en"]
    chinese = [attributes for tag, attributes in page.tags if attributes.get("class") == "zh"]
    assert len(english) == len(chinese) > 100
    for key, (first, second) in WORDS.items():
        fields = [set(re.findall(r"{(\w+)}", text)) for text in (first, second)]
        assert fields[0] == fields[1], key


def test_figures_on_the_page_are_those_of_the_run(made: tuple[dict[str, Any], str]) -> None:
    report, text = made
    page = Page(text)
    exam = report["evaluations"][0]["models"][-1]["exams"]["world"]
    for name in CATEGORIES:
        assert f"{100 * exam['categories'][name]['accuracy']:.1f}%" in page.text
    for reason in REASONS:
        assert f"{report['data']['corpus']['rejected'][reason]:,}" in page.text
    head = report["headline"]
    assert head["exam"]["last"]["model"] == "dpo" and head["exam"]["first"]["model"] == "base"
    assert head["heldout"]["model"] == "base"
    assert head["seconds"] == pytest.approx(sum(stage["seconds"] for stage in report["stages"]))
    assert head["trained_tokens"] == 8_028_160


def test_accounting_adds_up(made: tuple[dict[str, Any], str]) -> None:
    data = made[0]["data"]["corpus"]
    for part in (data, *data["sources"].values()):
        fates = part["train"]["documents"] + part["heldout"]["documents"] + sum(part["rejected"].values())
        assert part["read"]["documents"] == fates


def test_no_path_of_the_machine_is_told(made: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    root = str(tmp_path.parent)
    assert root not in made[1] and root not in json.dumps(made[0])
    assert "/somewhere" not in json.dumps({key: made[0][key] for key in ("stages", "records")})


def test_stages_are_in_the_order_they_ran(made: tuple[dict[str, Any], str]) -> None:
    names = [stage["name"] for stage in made[0]["stages"]]
    assert names == ["world", "corpus", "tokenizer", "tokens", "base", "sft", "dpo", "eval", "gguf"]


def test_shown_items_were_learnt_or_are_still_wrong(made: tuple[dict[str, Any], str]) -> None:
    items = made[0]["evaluations"][0]["items"]
    assert 0 < len(items) <= 9
    for item in items:
        right = [reply["right"] for reply in item["replies"]]
        assert not right[-1] or not right[0]


def test_curves(made: tuple[dict[str, Any], str]) -> None:
    found = made[0]["curves"]
    assert list(found) == ["base", "sft", "dpo"]
    base = found["base"]
    assert base["x"] == "tokens" and found["sft"]["x"] == "step"
    assert base["series"]["heldout_bpb"][-1][0] == base["series"]["loss"][-1][0] == 980 * 8192
    assert len(found["dpo"]["series"]["validation_log_prob_chosen"]) == 6
    assert made[0]["training_samples"]["base"][0]["texts"][0]["text"].startswith("的的")
    assert "shares" not in base["series"] and "seconds" not in base["series"]


def test_a_bare_eval_is_enough(tmp_path: Path) -> None:
    """No manifests, no logs, one model that sat no exam and saw no text."""
    folder = tmp_path / "eval"
    folder.mkdir()
    model = {"name": "m", "kind": "base", "parameters": 7, "heldout": None, "exams": {}, "samples": []}
    write(
        folder / "eval.json",
        {"heldout": {}, "exams": {}, "models": [model], "comparisons": [], "heldout_comparisons": []},
    )
    run(ReportSettings(title="<i>"), {"eval": [folder]}, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    Page(page)
    assert "&lt;i&gt;" in page


def test_report_without_eval_json(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"no eval\.json there"):
        run(ReportSettings(), {"eval": [tmp_path]}, tmp_path / "report")


def test_torn_log_lines_are_passed_over(tmp_path: Path) -> None:
    text = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
    (tmp_path / "log.jsonl").write_text(text)
    found = curves(tmp_path, 100, by_tokens=False)
    assert found is not None and found["series"]["loss"] == [[1, 2.0], [3, 1.0]]
    assert curves(tmp_path / "none", 100, by_tokens=True) is None


def test_thin_keeps_the_ends_and_the_mean() -> None:
    points = [[float(x), float(x % 7)] for x in range(1000)]
    found = thin(points, 100)
    assert len(found) == 100 and found[0] == points[0] and found[-1] == points[-1]
    assert sum(y for _, y in found) / 100 == pytest.approx(3, abs=0.2)
    assert thin(points[:5], 100) == points[:5]


def test_headline_of_nothing() -> None:
    assert headline({"evaluations": [], "stages": []}) == {}


def test_words_with_values_are_escaped() -> None:
    assert "<b>" not in both("of_model", name="<b>\x1b") and "&lt;b&gt;\\x1b" in both("of_model", name="<b>\x1b")
    assert "my own key" in both("my_own_key")
    assert visible("a\tb\nc") == "a\tb\nc" and visible(3) == 3


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(2, 8))
@example(0.0, 5e-324, 3)
@example(0.0, 2e-311, 2)
@example(3e-320, 4e-320, 8)
def test_axis_holds_its_values_and_has_few_round_ticks(a: float, b: float, about: int) -> None:
    low, high = min(a, b), max(a, b)
    axis = charts.axis(low, high, about)
    slack = 1e-8 * (high - low)
    assert axis.low <= low + slack and axis.high >= high - slack
    assert 2 <= len(axis.ticks) <= about + 2
    assert all(-1e-6 <= place <= 100 + 1e-6 for place, _ in axis.ticks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 10, ["0", "2.5", "5.0", "7.5", "10.0"]),
        (0, 3e-3, ["0", "1e-3", "2e-3", "3e-3"]),
        (0, 8e6, ["0", "2M", "4M", "6M", "8M"]),
        (-3, 1, ["-3", "-2", "-1", "0", "1"]),
    ],
)
def test_labels(low: float, high: float, labels: list[str]) -> None:
    assert [label for _, label in charts.axis(low, high, 5).ticks] == labels


def test_smoothing_keeps_a_line_straight_and_a_fall_in_its_place() -> None:
    line = [[x, 3 * x] for x in range(50)]
    assert all(y == pytest.approx(3 * x) for x, y in draw.smoothed(line, 5))
    step = [[x, float(x >= 25)] for x in range(50)]
    assert draw.smoothed(step, 5)[24][1] < 0.5 < draw.smoothed(step, 5)[25][1]


@given(st.lists(st.floats(0, 100), max_size=15), st.floats(1, 30))
def test_spread_keeps_order_and_distance(places: list[float], least: float) -> None:
    places.sort()
    found = charts.spread(places, least)
    apart = min(least, 100 / max(1, len(places)))
    assert all(b - a >= apart - 1e-6 for a, b in itertools.pairwise(found))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in found)


def test_flow_is_as_thick_on_both_sides() -> None:
    flows = [("a", "x", 70), ("a", "y", 5), ("b", "x", 20), ("b", "z", 5), ("b", "y", 0)]
    found = charts.flow(flows, ["x", "z", "y", "w"])
    assert [node["name"] for node in found["left"]] == ["a", "b"]
    assert [node["name"] for node in found["right"]] == ["x", "z", "y"]
    assert sum(n["height"] for n in found["left"]) == pytest.approx(sum(n["height"] for n in found["right"]))
    assert found["left"][0]["share"] == pytest.approx(0.75) and len(found["ribbons"]) == 4
    assert charts.flow([], [])["ribbons"] == []


def test_every_number_of_panels_fills_its_rows() -> None:
    names = ["loss", "lr", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    for count in range(1, 10):
        series = {name: [[1.0, 2.0], [2.0, 1.0]] for name in names[:count]}
        drawn = draw.panels({"x": "step", "series": series})
        assert len(drawn) == min(count, 8)
        assert sum(panel["span"] for panel in drawn) % 6 == 0 or count >= 8
