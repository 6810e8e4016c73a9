"""Record files: every form is recognised and reported, every fault is named with file, line and field."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.posttrain.faults import Fault
from hanmo.posttrain.forms import Turn, check_dialogue
from hanmo.posttrain.records import Account, hold_out, pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import DpoSettings, FileRule, SftSettings
from hanmo.posttrain.sources import read_records

from .conftest import dialogue, pair
from .faulty import FORM_FAULTS, GOOD, LABELLED_FAULTS, PAIR_FAULTS, SFT_FAULTS, TURNS, A, Q


def sft(*paths: Path, **kwargs: Any) -> tuple[list[Any], Account]:
    options = SftSettings(**kwargs)
    items, account = read_items(paths, options, sft_kind(options))
    return [item.value for item in items], account


def dpo(*paths: Path, **kwargs: Any) -> tuple[list[Any], Account]:
    options = DpoSettings(**kwargs)
    items, account = read_items(paths, options, pair_kind(options))
    return [item.value for item in items], account


@pytest.mark.parametrize(
    ("form", "record", "expected"),
    [
        ("messages", {"messages": TURNS}, TURNS),
        ("messages", {"conversations": TURNS}, TURNS),
        (
            "sharegpt",
            {
                "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}],
                "system": "好",
                "tools": "[]",
            },
            [{"role": "system", "content": "好"}, *TURNS],
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": Q},
                    {"from": "function_call", "value": '{"name": "看", "arguments": {}}'},
                    {"from": "observation", "value": "[]"},
                    {"from": "gpt", "value": A},
                ]
            },
            [
                TURNS[0],
                {"role": "assistant", "content": '<tool_call>\n{"name": "看", "arguments": {}}\n</tool_call>'},
                {"role": "tool", "content": "[]"},
                TURNS[1],
            ],
        ),
        ("alpaca", {"instruction": Q, "input": "", "output": A}, TURNS),
        ("alpaca", {"instruction": Q, "input": None, "output": A}, TURNS),
        ("alpaca", {"instruction": Q, "input": "甲", "output": A}, [{"role": "user", "content": f"{Q}\n甲"}, TURNS[1]]),
        (
            "alpaca",
            {"instruction": Q, "output": A, "history": [["一", "二"]]},
            [*[{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}], *TURNS],
        ),
        ("turns", {"turns": [{"instruction": Q, "input": "", "output": A}], "subset": "x"}, TURNS),
        ("instances", {"instruction": Q, "instances": [{"input": "", "output": A}]}, TURNS),
        ("qa", {"question": Q, "answer": A}, TURNS),
        ("qa", {"prompt": Q, "response": A}, TURNS),
        ("qa", {"query": Q, "response": A, "laws": []}, TURNS),
    ],
)
def test_sft_forms_are_recognised_and_reported(
    jsonl: Callable[..., Path], form: str, record: Any, expected: Any
) -> None:
    values, account = sft(jsonl([record]))
    assert values == [expected]
    assert account.files[0]["form"] == form
    assert account.files[0]["recognised"] is True


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("pair", {"prompt": Q, "chosen": A, "rejected": "不"}),
        ("pair", {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{"role": "assistant", "content": "不"}]}),
        ("pair", {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "不"}]}),
        ("alpaca", {"instruction": Q, "input": "", "chosen": A, "rejected": "不"}),
        (
            "sharegpt",
            {
                "conversations": [{"from": "human", "value": Q}],
                "chosen": {"from": "gpt", "value": A},
                "rejected": {"from": "gpt", "value": "不"},
            },
        ),
        ("sharegpt", {"conversations": [{"from": "human", "value": Q}], "chosen": A, "rejected": "不"}),
        ("ranked", {"instruction": Q, "input": "", "output": [A, "不"], "history": []}),
        ("medicalgpt", {"system": "", "history": [], "question": Q, "response_chosen": A, "response_rejected": "不"}),
    ],
)
def test_preference_forms_are_recognised(jsonl: Callable[..., Path], form: str, record: Any) -> None:
    values, account = dpo(jsonl([record]))
    assert [tuple(value) for value in values] == [(TURNS[:1], A, "不")]
    assert account.files[0]["form"] == form


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("best", ["甲乙", "甲丙"]), ("adjacent", ["甲乙", "乙丙"]), ("all", ["甲乙", "甲丙", "乙丙"])],
)
def test_ranked_answers_make_the_pairs_asked_for(jsonl: Callable[..., Path], choice: str, expected: list[str]) -> None:
    values, _ = dpo(jsonl([{"instruction": Q, "input": "", "output": ["甲", "乙", "丙"]}]), ranked_pairs=choice)
    assert [value.chosen + value.rejected for value in values] == expected


@pytest.mark.parametrize(("line", "words"), SFT_FAULTS)
def test_a_faulty_record_is_named_by_file_line_and_field(
    jsonl: Callable[..., Path], line: Any, words: list[str]
) -> None:
    path = jsonl([GOOD, ""])
    raw = line if isinstance(line, str | bytes) else json.dumps(line, ensure_ascii=False)
    with path.open("ab") as file:
        file.write(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(HanmoError) as caught:
        sft(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:3: ")
    for word in [*words, "on_bad_record: skip"]:
        assert word in message
    values, account = sft(path, on_bad_record="skip")
    assert values == [TURNS]
    assert sum(account.skipped.values()) == 1
    assert account.skipped_at[0]["line"] == 3
    assert account.read == 2


@pytest.mark.parametrize(("form", "record", "words"), FORM_FAULTS)
def test_faults_of_the_other_forms(jsonl: Callable[..., Path], form: str, record: Any, words: list[str]) -> None:
    path = jsonl([record])
    with pytest.raises(HanmoError) as caught:
        sft(path, form=form)
    for word in [f"{path}:1: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("record", "words"), PAIR_FAULTS)
def test_a_faulty_preference_is_named(jsonl: Callable[..., Path], record: Any, words: list[str]) -> None:
    path = jsonl(
        [
            {"prompt": Q, "chosen": A, "rejected": "不"}
            if "output" not in record
            else {"instruction": Q, "output": [A, "不"]},
            record,
        ]
    )
    with pytest.raises(HanmoError) as caught:
        dpo(path)
    for word in [f"{path}:2: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("record", "words"), LABELLED_FAULTS)
def test_a_faulty_labelled_answer_is_named(jsonl: Callable[..., Path], record: Any, words: list[str]) -> None:
    path = jsonl([{"prompt": Q, "completion": A, "label": True}, record])
    with pytest.raises(HanmoError) as caught:
        dpo(path, loss="kto")
    for word in [f"{path}:2: ", *words]:
        assert word in str(caught.value)


def test_labelled_answers_are_read_in_every_form_of_a_dialogue(jsonl: Callable[..., Path]) -> None:
    asked = TURNS[:1]
    spoken = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]
    records = [
        {"prompt": Q, "completion": A, "label": True},
        {"prompt": asked, "completion": TURNS[1:], "label": False},
        {"prompt": Q, "completion": {"role": "assistant", "content": A}, "system": "好", "label": True},
        {"messages": TURNS, "label": False},
        {"conversations": spoken, "label": True},
        {"instruction": Q, "output": A, "label": True},
        {"question": Q, "answer": A, "label": False, "lang": "zh"},
    ]
    for record in records:
        (value,), account = dpo(jsonl([record]), loss="kto")
        prompt = [{"role": "system", "content": "好"}, *asked] if "system" in record else asked
        assert value == (prompt, A, record["label"])
        assert account.files[0]["form"] == "labelled"
        assert account.notes == ({"field 'lang' not used": 1} if "lang" in record else {})
    pair = {"prompt": Q, "chosen": "甲", "rejected": "乙"}
    values, _ = dpo(jsonl([pair, records[0]]), loss="kto", form="each")
    assert [type(value).__name__ for value in values] == ["Pair", "Labelled"]
    for other in ("dpo", "ipo", "orpo", "simpo"):
        with pytest.raises(HanmoError, match=r"field 'label': is of a single answer.*loss: kto takes"):
            dpo(jsonl([records[0]]), loss=other)


def test_a_named_set_of_labelled_answers(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    jsonl([{"talk": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}], "good": False}], "mine.jsonl")
    columns = {"messages": "talk", "kto_tag": "good"}
    info = {"mine": {"file_name": "mine.jsonl", "formatting": "sharegpt", "columns": columns}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    (value,), _ = dpo(tmp_path, loss="kto")
    assert value == (TURNS[:1], A, False)
    with pytest.raises(HanmoError, match="none of its sets has dialogues"):
        sft(tmp_path)


def test_a_file_that_mixes_forms_is_refused_and_can_be_told_apart(jsonl: Callable[..., Path]) -> None:
    path = jsonl([GOOD, {"question": "二", "answer": A}])
    with pytest.raises(HanmoError, match=r":2: the file mixes forms.*'qa'.*line 1 of form 'messages'.*form: each"):
        sft(path, on_bad_record="skip")
    values, account = sft(path, form="each")
    assert len(values) == 2
    assert account.files[0]["form"] == {"messages": 1, "qa": 1}


def test_the_number_of_faulty_records_is_told(jsonl: Callable[..., Path]) -> None:
    with pytest.raises(HanmoError, match=r":1: .*; 2 more records of this file are faulty"):
        sft(jsonl([{"a": 1}, GOOD, {"b": 1}, {"c": 1}]))


def test_nothing_usable_is_one_clear_line(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        HanmoError, match=r"no usable dialogue in records.jsonl: 2 records read, 2 × fits no known form"
    ):
        sft(jsonl([{"a": 1}, {"b": 1}]), on_bad_record="skip")
    for name, text, words in (
        ("empty.jsonl", "", "the file is empty"),
        ("empty.json", "[]", "the array is empty"),
        ("one.json", '{\n"messages": []\n}', "one object over many lines"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(HanmoError, match=words):
            sft(tmp_path / name)


def test_duplicates_are_dropped_across_files_and_counted(jsonl: Callable[..., Path]) -> None:
    first, second = jsonl([GOOD, GOOD], "a.jsonl"), jsonl([GOOD, dialogue(1)], "b.jsonl")
    values, account = sft(first, second)
    assert len(values) == 2
    assert account.duplicates == 2
    assert [file["duplicates"] for file in account.files] == [1, 1]
    same, account = dpo(jsonl([pair(1), {"prompt": Q, "chosen": A, "rejected": A}], "c.jsonl"))
    assert len(same) == 1
    assert account.notes["pairs of two equal answers left out"] == 1


def test_the_account_in_words(jsonl: Callable[..., Path]) -> None:
    path = jsonl([GOOD, GOOD, {"messages": [TURNS[0], {"role": "assistant", "content": ""}]}])
    _, account = sft(path, on_bad_record="skip")
    assert account.lines({"answer cut": 4}) == [
        f"{path}: 1 used of 3 records, form messages (recognised)",
        "left out or cut: 1 × duplicates; 1 × skipped, messages[].content: empty answer; 4 × answer cut",
    ]


def test_what_is_cut_or_not_used_is_noted(jsonl: Callable[..., Path]) -> None:
    values, account = sft(jsonl([{"messages": [*TURNS, TURNS[0]], "score": 5}]))
    assert values == [TURNS]
    assert account.notes == {"dialogues cut behind their last answer": 1, "field 'score' not used": 1}


def test_containers(tmp_path: Path) -> None:
    records = [dialogue(index) for index in range(3)]
    lines = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()
    array = json.dumps(records, indent=2).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(lines))
    (tmp_path / "d.json.zst").write_bytes(zstandard.compress(array))
    (tmp_path / "e.json").write_bytes(lines)
    (tmp_path / "f.jsonl").write_bytes(b"\n \n" + array)
    for path in sorted(tmp_path.iterdir()):
        values, account = sft(path)
        assert values == [record["messages"] for record in records], path
        assert account.read == 3
    # A folder means all the record files in it.
    (tmp_path / "README.md").write_text("nothing")
    values, account = sft(tmp_path)
    assert (len(values), account.duplicates, len(account.files)) == (3, 15, 6)


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": [Q, "", "三"], "response": [A, A, A]}), tmp_path / "a.parquet")
    values, _ = sft(tmp_path / "a.parquet", on_bad_record="skip")
    assert len(values) == 2
    with pytest.raises(HanmoError, match=r"a.parquet:2: field 'prompt': is empty"):
        sft(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("no")
    with pytest.raises(HanmoError, match="not a parquet file"):
        sft(tmp_path / "b.parquet")


def test_a_stage_folder_gives_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(HanmoError, match=r"that stage made no sft.jsonl"):
        sft(tmp_path)
    (tmp_path / "pref.jsonl").write_text(json.dumps(pair(0)) + "\n")
    (tmp_path / "sft.jsonl").write_text(json.dumps(dialogue(0)) + "\n")
    assert len(sft(tmp_path)[0]) == 1
    assert len(dpo(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[\n{"question": "甲", "answer": "乙"},\n{"question": 甲}\n]', 3, "not JSON"),
        ('[\n{"question": "甲", "answer": "乙"}\n', 3, "no end"),
        ('[\n{"question": "甲", "answer": "乙"}\n\n{"question": "丙", "answer": "乙"}]', 4, "instead of ','"),
        ('[\n{"question": "甲", "answer": "乙"},\n\n{"question": "丙"}]', 4, "fits no known form"),
    ],
)
def test_faults_in_an_array_have_their_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(HanmoError) as caught:
        sft(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


def test_other_encodings_and_torn_files(tmp_path: Path) -> None:
    good = json.dumps(GOOD, ensure_ascii=False)
    (tmp_path / "gb.jsonl").write_bytes(f"{good}\n{good}\n".encode("gb18030"))
    with pytest.raises(HanmoError, match=r"gb.jsonl:1: not UTF-8; save the file as UTF-8"):
        sft(tmp_path / "gb.jsonl")
    (tmp_path / "gb.json").write_bytes(f"[\n{good}]".encode("gb18030"))
    with pytest.raises(HanmoError, match=r"gb.json:2: not UTF-8"):
        sft(tmp_path / "gb.json")
    for name, data in (
        ("t.jsonl.gz", gzip.compress(good.encode())),
        ("t.jsonl.zst", zstandard.compress(good.encode())),
    ):
        (tmp_path / name).write_bytes(data[:-6])
        with pytest.raises(HanmoError, match="torn"):
            sft(tmp_path / name)
    with pytest.raises(HanmoError, match="no such file"):
        sft(tmp_path / "none.jsonl")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(HanmoError, match="not a record file"):
        sft(tmp_path / "notes.txt")


def test_line_separators_inside_a_string_do_not_end_a_line(jsonl: Callable[..., Path]) -> None:
    record = {"question": "一\u2028二\u0085三", "answer": A}
    values, _ = sft(jsonl([record, GOOD], "a.jsonl"), form="each")
    assert values[0][0]["content"] == record["question"]


def test_half_a_surrogate_pair_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"question": "\\ud83d", "answer": "乙"}]', encoding="utf-8")
    with pytest.raises(HanmoError, match=r"a.json:1: field 'question': holds half of a surrogate pair"):
        sft(path)


def test_rules_for_files(jsonl: Callable[..., Path]) -> None:
    pairs = jsonl([{"old": f"古{i}", "new": f"今{i}"} for i in range(10)], "old_new.jsonl")
    talk = jsonl([dialogue(i) for i in range(10)], "talk.jsonl")
    rule = FileRule(user="译：{old}", assistant="{new}", system="译者", max_records=4)
    values, account = sft(pairs, talk, files={"old_*": rule})
    assert len(values) == 14
    assert [message["role"] for message in values[0]] == ["system", "user", "assistant"]
    assert values[0][1]["content"].startswith("译：古")
    assert account.not_sampled == 6
    assert [file["form"] for file in account.files] == ["template", "messages"]
    with pytest.raises(HanmoError, match=r"pattern 'talks.jsonl' matches none.*did you mean 'talk.jsonl'"):
        sft(talk, files={"talks.jsonl": rule})
    with pytest.raises(HanmoError, match=r"talk.jsonl:1: field 'old': is missing \(the record has messages\)"):
        sft(talk, files={"talk*": rule})
    with pytest.raises(HanmoError, match=r"'mesages' is no form of a dialogue; did you mean 'messages'"):
        sft(talk, files={"talk*": FileRule(form="mesages")})
    with pytest.raises(HanmoError, match="form 'template' needs a rule"):
        sft(talk, form="template")
    with pytest.raises(ValueError, match="both `user` and `assistant`"):
        FileRule(user="{a}")


def test_a_template_of_parts_marked_prompt_or_label(jsonl: Callable[..., Path]) -> None:
    path = jsonl([{"t": "标题", "b": "正文", "s": "摘要", "k": "词"}], "parts.jsonl")
    parts = [{"prompt": "题：{t}\n"}, {"prompt": "文：{b}"}, {"label": "{s}"}, {"prompt": "词？"}, {"label": "{k}。"}]
    values, account = sft(path, files={"parts*": FileRule(template=parts)})
    assert [(message["role"], message["content"]) for message in values[0]] == [
        ("user", "题：标题\n文：正文"),
        ("assistant", "摘要"),
        ("user", "词？"),
        ("assistant", "词。"),
    ]
    assert account.files[0]["form"] == "template"
    with pytest.raises(HanmoError, match=r"parts.jsonl:1: field 'x': is missing"):
        sft(path, files={"parts*": FileRule(template=[{"prompt": "{x}"}, {"label": "{s}"}])})
    for wrong, words in (
        ({"template": [{"prompt": "{t}"}]}, "no part marked label"),
        ({"template": [{"prompt": "{t}", "label": "{s}"}]}, "each part of `template`"),
        ({"template": parts, "user": "a", "assistant": "b"}, "not both"),
    ):
        with pytest.raises(ValueError, match=words):
            FileRule(**wrong)


def test_a_sample_does_not_depend_on_the_order_of_the_records(jsonl: Callable[..., Path]) -> None:
    records = [dialogue(index) for index in range(40)]
    forth, account = sft(jsonl(records, "a.jsonl"), max_records=10)
    back, _ = sft(jsonl(records[::-1], "b.jsonl"), max_records=10)
    assert len(forth) == 10 and account.not_sampled == 30
    assert forth == back[::-1]
    assert forth != sft(jsonl(records, "c.jsonl"), max_records=10, seed=2)[0]


def test_held_out_prompts_are_not_trained_on(jsonl: Callable[..., Path]) -> None:
    records = [
        {"instruction": f"问题{index}", "output": ["甲", "乙", "丙", "丁"][: 2 + index % 3]} for index in range(100)
    ]
    options = DpoSettings()
    items, _ = read_items([jsonl(records)], options, pair_kind(options))
    train, held = hold_out(items, 0.1)
    assert len(train) + len(held) == len(items) == 199
    assert abs(len(held) - 20) <= 3
    prompts = {json.dumps(item.value.prompt) for item in train}
    assert not prompts & {json.dumps(item.value.prompt) for item in held}
    assert hold_out(items, 0.0)[1] == []
    assert len(hold_out(items[:5], 0.02)[0]) == 5


_TEXT = st.one_of(st.text(max_size=6), st.none(), st.integers(), st.lists(st.text(max_size=3), max_size=2))
_ANY = st.recursive(
    _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "conversations",
                    "role",
                    "from",
                    "content",
                    "value",
                    "instruction",
                    "output",
                    "turns",
                    "history",
                    "input",
                    "question",
                    "answer",
                    "chosen",
                    "rejected",
                    "prompt",
                    "system",
                    "instances",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_ANY, min_size=1, max_size=4))
def test_whatever_stands_in_a_file_ends_in_records_or_in_one_line(tmp_path_factory: Any, values: list[Any]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    for read in (sft, dpo):
        for options in ({"form": "each", "on_bad_record": "skip"}, {}):
            try:
                found, account = read(path, **options)
            except HanmoError as error:
                assert "\n" not in str(error)
            else:
                assert found and account.read == len(values)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), max_size=8))
def test_a_checked_dialogue_alternates_and_ends_with_an_answer(roles: list[str]) -> None:
    turns = [Turn(role, "词", f"m[{index}]") for index, role in enumerate(roles)]
    try:
        dialogue, cut = check_dialogue(turns)
    except Fault:
        return
    kept = [message["role"] for message in dialogue]
    assert kept + roles[len(kept) :] == roles and cut == len(roles) - len(kept)
    assert kept[-1] == "assistant"
    assert kept[0] == "user" or kept[:2] == ["system", "user"]


def test_records_stand_where_they_are_said_to(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[ {"a": 1},\n\n {"a":\n 2}, {"a": 3},\n{"a": 4} ]', encoding="utf-8")
    assert [(place.line, record["a"]) for place, record in read_records(path)] == [(1, 1), (3, 2), (4, 3), (5, 4)]
