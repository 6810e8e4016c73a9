"""What the tokenizers' report counts, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.tokenizer import load, save
from hanmo.tokenizer.kinds import kind_of, kinds_of
from hanmo.tokenizer.measure import Losses, Sample, cut, on_text, part_of, under_trained, vocabulary
from hanmo.tokenizer.opening import open_tokenizer
from hanmo.tokenizer.report import report, short_names

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "春", "天", "，", "ab", "##c", "de"]
LINES = {
    "国家建立健全养老服务体系，让人们的生活更好。": "modern",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？": "classical",
    "春眠不觉晓，处处闻啼鸟。": "poetry",
    "關關雎鳩，在河之洲的風景與電話。": "traditional",
    "第十二条　公民的权利受法律保护。": "law",
    "使用 `pip install hanmo` 安装，然后运行 `hanmo demo`": "technical",
    "    return [x for x in range(10)]": "technical",
    "The quick brown fox jumps over the lazy dog.": "english",
    "1984 2024 3.14 100": "digits",
    "한국어 문장입니다": "other",
}


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wordpiece")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


def test_kinds_of_lines() -> None:
    assert {line: kind_of(line) for line in LINES} == LINES
    text = "\n".join([*LINES, "", "又一行现代的文字在这里了。"])
    found = kinds_of(text)
    assert found[-1] == (len(text), "modern")
    assert [end for end, _ in found] == sorted(end for end, _ in found)
    law = [
        "第一条　为了规范管理，制定本法。",
        "第二条　本法适用于全国。",
        "他们都应当遵守这些规定。",
        "第三条　自公布之日起施行。",
    ]
    assert {kind for _, kind in kinds_of("\n".join(law))} == {"law"}


def test_counts_by_hand(wordpiece: Path) -> None:
    tokenizer = open_tokenizer(wordpiece)
    text = "春天 ABC，犇de"  # 犇 is unknown, the space is dropped, ABC is ab and ##c
    found = on_text(tokenizer, [Sample("s", text, [(3, "modern"), (len(text), "other")])], rare=2)
    row = found["total"]
    assert {key: row[key] for key in ("characters", "bytes", "tokens", "whole", "split", "unknown", "dropped")} == {
        "characters": 10,
        "bytes": 18,
        "tokens": 7,
        "whole": 8,
        "split": 0,
        "unknown": 1,
        "dropped": 1,
    }
    assert row["characters_per_token"] == round(10 / 7, 4)
    assert row["coverage"] == round(8 / 9, 6)
    assert found["kinds"]["modern"]["tokens"] == 2
    assert found["kinds"]["other"]["tokens"] == 5
    assert found["sources"]["s"] == row
    assert found["unused"]["count"] == 0
    assert (found["rare"]["count"], found["rare"]["below"]) == (6, 2)
    losses = found["losses"]
    assert (losses["documents"], losses["differing"]) == (1, 1)
    assert dict(losses["most_lost"]) == {"A": 1, "B": 1, "C": 1, "犇": 1}
    assert {"a", "b", "c"} < dict(losses["most_instead"]).keys()
    assert losses["examples"] == [{"text": text, "back": "春 天 abc ， [UNK] de"}]
    assert [piece["kind"] for piece in cut(tokenizer, "春犇")] == ["whole", "unknown"]


def test_characters_of_several_tokens_are_split(tiny_tokenizer_dir: Path) -> None:
    tokenizer = open_tokenizer(tiny_tokenizer_dir)
    found = on_text(tokenizer, [Sample("s", "小猫犇a", [(4, "modern")])], rare=1)
    assert found["total"]["whole"] == 3
    assert found["total"]["split"] == 1
    assert found["losses"]["differing"] == 0
    assert [piece["text"] for piece in cut(tokenizer, "犇")] == [
        tokenizer.pieces[index].bytes.hex(" ") for index in tokenizer.encode("犇").ids
    ]


def test_what_is_lost_is_counted_exactly(wordpiece: Path) -> None:
    losses = Losses()
    losses.add("aab c", "abcc", open_tokenizer(wordpiece))
    losses.add("same", "same", open_tokenizer(wordpiece))
    found = losses.as_dict()
    assert (found["documents"], found["differing"], found["characters_lost"], found["of_them_white_space"]) == (
        2,
        1,
        2,
        1,
    )
    assert found["characters_instead"] == 1


def test_parts_of_a_vocabulary(tiny_tokenizer_dir: Path) -> None:
    parts = {
        "中": "han1",
        " 中国": "han2",
        "中华人民共和国": "han5",
        "the": "latin",
        "１2": "digits",
        "か": "other",
        "，": "signs",
        " ": "signs",
    }
    assert {text: part_of(text.encode(), "normal") for text in parts} == parts
    assert part_of(b"\xe4\xb8", "normal") == "bytes"
    assert part_of(b"\x41", "byte") == "bytes"
    assert part_of(b"", "unknown") == "special"
    found = vocabulary(open_tokenizer(tiny_tokenizer_dir))
    assert sum(found["parts"].values()) == 400
    assert found["parts"]["special"] == 3
    assert found["unreachable"]["count"] == 0


def test_unreachable_tokens_are_found(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    config["model"]["vocab"]["zzz"] = 400  # no merge makes it
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    found = vocabulary(open_tokenizer(tmp_path))
    assert found["unreachable"] == {"count": 1, "examples": ["zzz"]}


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_were_hardly_trained(tied: bool, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=448,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    planted = [300, 310, 320]
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows += 0.05  # what all rows have in common
        if tied:
            # Rows that no text moves keep together with those beyond the vocabulary.
            away = 0.02 * torch.randn(32)
            rows[400:] = 0.05 + away + 0.001 * torch.randn(48, 32)
            rows[torch.tensor(planted)] = 0.05 + away + 0.001 * torch.randn(3, 32)
        else:
            rows[torch.tensor(planted)] *= 0.01
    model.save_pretrained(tmp_path)
    save(load(tiny_tokenizer_dir), tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    found = under_trained(tokenizer, tmp_path, np.zeros(400, np.int64))
    assert found["indicator"] == ("cosine_distance" if tied else "norm")
    normal = {index for index in planted if tokenizer.pieces[index].bytes.decode("utf-8", "ignore")}
    assert {item["id"] for item in found["lowest"][:3]} >= normal
    assert found["reference_rows"] == 48 + 13
    assert sum(found["histogram"]["counts"]) > 150


def test_names_that_tell_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "tok", tmp_path / "b" / "tok", tmp_path / "c" / "tokenizer.json", tmp_path / "d.model"]
    assert short_names(paths) == ["a/tok", "b/tok", "c/tokenizer.json", "d.model"]
    with pytest.raises(HanmoError, match="given twice"):
        short_names([tmp_path / "a", tmp_path / "a"])


def test_the_page(wordpiece: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    text = "\n".join([*LINES, "<script>alert(1)</script> \u202e 反"])
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    (tmp_path / "two.txt").write_text("春天到了，小猫很高兴。\n" * 20, encoding="utf-8")
    arguments = ["tokenizer", "report", str(wordpiece), str(tiny_model_dir), "--out", str(tmp_path / "page.html")]
    arguments += ["--text", str(tmp_path / "one.txt"), "--text", str(tmp_path / "two.txt"), "--json"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    found = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout.strip().split("\n")[-1]) == found
    assert [one["form"] for one in found["tokenizers"]] == ["WordPiece", "byte-level BPE"]
    assert set(found["tokenizers"][0]["sources"]) == {"one", "two"}
    assert "training" in found["tokenizers"][1]
    assert found["text"]["documents"] == 2
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'data-choose="auto"' in page
    # Every text is there in both languages.
    assert page.count('class="en"') == page.count('class="zh"')


def test_the_report_does_not_depend_on_the_number_of_workers(
    wordpiece: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("春天到了，小猫很高兴。\n" * 20, encoding="utf-8")
    results = []
    for workers in (1, 2):
        one = report(
            [wordpiece, tiny_tokenizer_dir], [tmp_path / "text.txt"], tmp_path / f"out{workers}", workers=workers
        )
        results.append(one | {"made": ""})
    assert results[0] == results[1]
    with pytest.raises(HanmoError, match="no such file"):
        report([wordpiece], [tmp_path / "none.txt"], tmp_path / "out3")
    assert not (tmp_path / "out3").exists()
