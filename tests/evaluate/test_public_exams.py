"""Public exams: the prompts are lm-eval's, the scores those of its own model class and of OpenCompass's formula."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.evaluate.exams.catalog import exam, exams
from hanmo.evaluate.exams.overlap import overlap
from hanmo.evaluate.exams.reading import Item, read
from hanmo.files import JsonlZstWriter
from hanmo.tokenizer import load

pytest.importorskip("lm_eval")
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from hanmo.evaluate.exams.asking import METHODS, Method, _given, decides, task
from hanmo.evaluate.exams.model import HanmoLM
from hanmo.evaluate.exams.settings import ExamSettings
from hanmo.evaluate.exams.stage import run

CEVAL = "id,question,A,B,C,D,answer\n"
LAW = [
    ("下列关于法律推理的表述，能够成立的是____。", "演绎", "归纳", "类比推理", "辩证", "C"),
    ("下列哪一项是物权____。", "债权", "所有权", "姓名权", "著作权", "B"),
    ("合同成立的时间是____。", "承诺生效时", "要约时", "签字前", "付款时", "A"),
    ("法人的住所是____。", "家", "主要办事机构所在地", "银行", "法院", "B"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exams in their own forms, a few items each."""
    folder = tmp_path_factory.mktemp("exams")

    def rows(items: Sequence[Sequence[str]]) -> str:
        return CEVAL + "".join(f"{n},{','.join(item)}\n" for n, item in enumerate(items))

    for part, name, items in (("val", "law_val", LAW), ("dev", "law_dev", LAW[2:]), ("val", "logic_val", LAW[:1])):
        (folder / "ceval" / part).mkdir(parents=True, exist_ok=True)
        (folder / "ceval" / part / f"{name}.csv").write_text(rows(items), encoding="utf-8")
    files = {
        "c3/c3-d-dev.json": [
            [
                ["男：你去哪儿？", "女：去学校。"],
                [{"question": "女的去哪儿?", "choice": ["家", "学校"], "answer": "学校"}],
                "1-1",
            ],
            [["女：今天几号？"], [{"question": "问什么?", "choice": ["日期"], "answer": "日期"}], "1-2"],
        ],
        "gaokao_bench/2010-2022_History_MCQs.json": {
            "example": [
                {
                    "question": "1．（4分）西周分封的是（ ）\nA．河南 B．山东 C．台湾 D．西藏",
                    "answer": ["B"],
                    "index": 0,
                },
                {"question": "两题……", "answer": ["A", "B"], "index": 1},
            ]
        },
    }
    lines = {
        "ccpm/valid.jsonl": [{"translation": "灯灭了又亮。", "choices": ["渔灯灭复明", "残灯灭又明"], "answer": 1}],
        "xcopa_zh/val.zh.jsonl": [
            {
                "premise": "那人打开水龙头。",
                "choice1": "水流了出来。",
                "choice2": "灯亮了。",
                "question": "effect",
                "label": 0,
            },
            {"premise": "他打了伞。", "choice1": "出太阳。", "choice2": "下雨了。", "question": "cause", "label": 1},
        ],
        "zhoblimp/BA_deletion.jsonl": [{"sentence_good": "他把书放在桌上。", "sentence_bad": "他把放在桌上。"}],
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    for name, records in lines.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "mgsm_zh").mkdir()
    (folder / "mgsm_zh" / "mgsm_zh.tsv").write_text("小明有3个苹果，又买了5个。一共几个？\t8\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A small decoder that prefers some tokens to others."""
    tokenizer = load(tiny_tokenizer_dir)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return load(folder)


def sat(lm: Any, name: str, data: Path, method: Method, shots: int) -> dict[str, list[dict[str, Any]]]:
    one = exam(name)
    tasks = {part.name: task(part.name, one.form, part, part.items, method, shots) for part in read(one, data)}
    found = evaluate(lm, {"tasks": tasks, "groups": {}, "group_map": {}}, bootstrap_iters=0)
    assert found is not None
    return found["samples"]


def test_every_form_is_read(data: Path) -> None:
    found = {name: read(one, data) for name, one in exams().items() if name != "cmmlu"}
    law = found["ceval"][0]
    assert (law.name, law.title, len(law.items), len(law.examples)) == ("law", "法学", 4, 2)
    assert law.items[1] == Item("1", "下列哪一项是物权____。", ("债权", "所有权", "姓名权", "著作权"), 1)
    (dialogue,) = found["c3"]
    assert dialogue.items == [Item("1-1-0", "男：你去哪儿？\n女：去学校。\n问题：女的去哪儿?", ("家", "学校"), 1)]
    assert dialogue.skipped == {"fewer than two options": 1}
    (history,) = found["gaokao"]
    assert (
        history.items[0].inside and history.items[0].question.startswith("（4分）西周") and history.items[0].answer == 1
    )
    assert history.skipped == {"several questions in one, or several answers": 1}
    assert [item.question for item in found["xcopa-zh"][0].items] == ["那人打开水龙头 所以", "他打了伞 因为"]
    assert found["mgsm-zh"][0].items == [Item("1", "小明有3个苹果，又买了5个。一共几个？", (), 8)]
    assert found["zhoblimp"][0].items[0].options == ("他把书放在桌上。", "他把放在桌上。")


@pytest.mark.parametrize("name", ["ceval", "xcopa-zh", "zhoblimp"])
def test_prompts_are_those_of_lm_eval(name: str, data: Path) -> None:
    """The requests of lm-eval's own task file over the same records, letter by letter."""
    import datasets
    import lm_eval.tasks._yaml_loader as loader
    from lm_eval.api.task import ConfigurableTask

    below = Path(loader.__file__).parent
    files = {
        "ceval": ("ceval/ceval-valid_law.yaml", "ceval/val/law_val.csv", "ceval/dev/law_dev.csv"),
        "xcopa-zh": ("xcopa/default_zh.yaml", "xcopa_zh/val.zh.jsonl", ""),
        "zhoblimp": ("zhoblimp/BA_deletion.yaml", "zhoblimp/BA_deletion.jsonl", ""),
    }
    config, items, examples = files[name]
    given = loader.load_yaml(below / config)

    def records(file: str) -> Any:
        kind = "csv" if file.endswith("csv") else "json"
        return datasets.load_dataset(kind, data_files=str(data / file), split="train")

    splits = {split: records(items) for split in ("val", "validation", "train", "test")}
    if examples:
        splits["dev"] = records(examples)
    for key in ("dataset_path", "dataset_name", "training_split", "validation_split"):
        given.pop(key, None)
    shots = 2 if examples else 0
    theirs = ConfigurableTask(
        config=given | {"custom_dataset": lambda **_: splits, "test_split": "test", "num_fewshot": shots}
    )
    theirs.set_fewshot_seed(0)
    theirs.build_all_requests()
    one = exam(name)
    part = read(one, data)[0]
    ours = task("ours", one.form, part, part.items, "loglikelihood", shots)
    ours.build_all_requests()
    assert [request.args for request in ours.instances] == [request.args for request in theirs.instances]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "ppl"])
@pytest.mark.parametrize(("name", "shots"), [("ceval", 2), ("c3", 0), ("xcopa-zh", 0), ("mgsm-zh", 0)])
def test_scores_are_those_of_lm_evals_own_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Path, name: str, shots: int, method: Method
) -> None:
    ours = sat(HanmoLM(model, tokenizer), name, data, method, shots)
    theirs = sat(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2), name, data, method, shots)  # type: ignore[arg-type]
    metric = decides(method) if name != "mgsm-zh" else "acc"
    for part, samples in theirs.items():
        for own, other in zip(ours[part], samples, strict=True):
            assert own["arguments"] == other["arguments"] and own[metric] == other[metric]
            for (a,), (b,) in zip(own["resps"], other["resps"], strict=True):
                if isinstance(b, str):
                    assert a == b
                else:
                    assert a[0] == pytest.approx(b[0], abs=1e-4) and a[1] == b[1]


def test_rolling_likelihood_is_that_of_lm_evals_own_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    from lm_eval.api.instance import Instance

    texts = ["今天天气很好。", "从前有一座山，山里有一座庙。" * 40]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer).loglikelihood_rolling(requests, disable_tqdm=True)  # type: ignore[arg-type]
    assert HanmoLM(model, tokenizer).loglikelihood_rolling(requests) == pytest.approx(theirs, rel=1e-5)


def opencompass(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str) -> float:
    """`HuggingFaceCausalLM._get_ppl`: the sum of the shifted cross-entropy over the number of ids."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits.float()
    loss = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
    return float(loss.sum() / ids.shape[1])


@pytest.mark.parametrize("shots", [0, 2])
def test_perplexity_is_that_of_opencompass(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: Path, shots: int
) -> None:
    samples = sat(HanmoLM(model, tokenizer, batch_tokens=256), "ceval", data, "ppl", shots)
    for sample in samples["law"]:
        texts = [arguments[0] for arguments in sample["arguments"]]
        wanted = [opencompass(model, tokenizer, text) for text in texts]
        assert [answers[0] for answers in sample["resps"]] == pytest.approx(wanted, abs=1e-5)
        assert sample["acc"] == float(wanted.index(min(wanted)) == sample["target"])
        assert len({text[:-1] for text in texts}) == 1 and [text[-1] for text in texts] == list("ABCD")


def test_a_tokenizer_that_ends_no_text_is_one_line(model, tokenizer) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(HanmoError, match="names no token that ends a text; add eos_token"):
        HanmoLM(model, endless).tok_encode("春")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [("B", "B"), ("答案是C。", "C"), ("A 不对，答案：D", "D"), ("我选（B）", "B"), ("Apple", None), ("不知道", None)],
)
def test_letters_in_replies(reply: str, letter: str | None) -> None:
    assert _given(reply, number=False) == letter


@pytest.mark.parametrize(
    ("reply", "number"), [("3+5=8", "8"), ("一共1,200.00元", "1200"), ("-4", "-4"), ("2.5", "2.5"), ("八", None)]
)
def test_numbers_in_replies(reply: str, number: str | None) -> None:
    assert _given(reply, number=True) == number


def test_items_that_a_corpus_holds_are_found(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    question = "下列关于法律推理的表述，能够成立的是哪一项"
    with JsonlZstWriter(tmp_path / "train" / "00000.jsonl.zst") as file:
        file.write({"id": "a", "text": f"考试题：{question}？答案见后。", "source": "x"})
    found = overlap(
        {"held": [question], "not": ["合同成立的时间与地点应当如何加以确定呢"], "short": ["短"]}, [tmp_path], 0.5
    )
    assert found == {"held": 1.0}


def test_by_command(tmp_path: Path, data: Path, folder: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "train").mkdir(parents=True)
    with JsonlZstWriter(corpus / "train" / "00000.jsonl.zst") as file:
        file.write({"id": "a", "text": "下列关于法律推理的表述，能够成立的是 演绎", "source": "x"})
    words = ["eval", "exam", "--model", str(folder), "--data", str(data), "--tasks", "ceval,mgsm-zh", "--shots", "5"]
    result = CliRunner().invoke(cli, [*words, "--corpus", str(corpus), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "exams.json").read_text(encoding="utf-8"))
    total = found["models"][0]["exams"]["ceval"]
    assert total["total"]["n"] == 5 and total["total"]["chance"] == 0.25
    assert total["subjects"]["law"]["n"] == 4 and total["shots"] == {"law": 2, "logic": 0}
    assert found["exams"]["ceval"]["contaminated"]["which"] == ["ceval/law/0", "ceval/logic/0"]
    assert total["clean"]["n"] == 3
    lines = (tmp_path / "out" / f"items-{folder.name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert (
        len(lines) == 6 and json.loads(lines[0])["item"] == "ceval/law/0" and len(json.loads(lines[0])["scores"]) == 4
    )
    assert "reply" in json.loads(lines[-1])


def test_wrong_input_is_one_line(tmp_path: Path, data: Path, folder: Path) -> None:
    def fails(data: Path, **given: Any) -> str:
        with pytest.raises(HanmoError) as caught:
            run(ExamSettings(**given), {"model": [folder], "data": [data]}, tmp_path / "out")
        return str(caught.value)

    assert "did you mean 'ceval'" in fails(data, tasks="cevall")
    assert "ccpm" in fails(tmp_path, tasks="ccpm").lower()
    torn = tmp_path / "torn" / "ceval" / "val"
    torn.mkdir(parents=True)
    (torn / "law_val.csv").write_text("id,question,A,B,C,D,answer\n0,题,甲,乙,丙,丁,E\n", encoding="utf-8")
    assert "law_val.csv:2: not an item of C-Eval" in fails(tmp_path / "torn", tasks="ceval")
    assert "lower it" in fails(data, tasks="ceval", context=4096)
