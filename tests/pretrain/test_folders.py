"""Several tokens folders in one run: replay of general text beside that of a domain; and stretches passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import QUICK, run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl, write_json
from hanmo.pretrain.data import mix_of, opened, skipped
from hanmo.pretrain.settings import MixSettings, PretrainSettings
from hanmo.recipe import check_settings
from hanmo.stages import KINDS
from hanmo.tokens.mix import Mix, MixSource
from hanmo.tokens.order import Order
from hanmo.tokens.shards import open_split, split_of


@pytest.fixture(scope="module")
def law(make_tokens) -> Path:
    return make_tokens("law", ["courts", "codes"], seed=2)


@pytest.fixture(scope="module")
def general(make_tokens) -> Path:
    return make_tokens("general", ["news", "codes"], seed=3)


def settings(**options) -> PretrainSettings:
    return PretrainSettings(**{**QUICK, **options})


def test_folders_weigh_what_the_mix_says(law, general, tmp_path: Path, capfd) -> None:
    counts = run_stage(
        [law, general], tmp_path / "run", tokens=8_000, mix={"weights": {"law": 0.8, "general": 0.2}}, eval_every=0
    )
    taken = counts["sources"]
    assert list(taken) == ["law/courts", "law/codes", "general/news", "general/codes"]
    assert taken["law/courts"]["tokens"] + taken["law/codes"]["tokens"] == pytest.approx(0.8 * 8_000, abs=64)
    # Within a folder by size.
    sizes = [part["tokens"] for part in read_json(law / "tokens.json")["train"]["by_source"]]
    assert taken["law/courts"]["tokens"] / taken["law/codes"]["tokens"] == pytest.approx(sizes[0] / sizes[1], rel=0.05)
    # Forgetting shows: held-out text of both is measured.
    line = [line for _, line in read_jsonl(tmp_path / "run" / "log.jsonl") if "heldout_bpb" in line][-1]
    assert line["heldout_bpb_by_data"].keys() == {"law", "general"}
    assert line["heldout_bpb"] == line["heldout_bpb_by_data"]["law"] == counts["heldout_bpb"]
    assert "law/courts: share " in capfd.readouterr().err


def test_rows_are_those_of_the_folders(law, general, tmp_path: Path) -> None:
    with opened(settings(mix={"weights": {"courts": 1}}), [general, law], tmp_path) as data:
        assert set(data.order.taken(100)) == {"law/courts"}
        seen = data.order.rows(0, 200)
    with opened(settings(), [law], tmp_path) as alone:
        assert alone.order.total == sum(map(len, _documents(law)))
    # A row may cut a document, so that of some there is only a part.
    documents = " ".join(_as_text(ids) for ids in _documents(law))
    for targets, segment in zip(seen.targets, seen.segment, strict=True):
        for number in range(segment.max() + 1):
            assert _as_text(targets[segment == number]) in documents


def _as_text(ids: np.ndarray) -> str:
    return "".join(chr(0x4E00 + index) for index in ids)


def _documents(folder: Path) -> list[np.ndarray]:
    split = open_split(folder, "train")
    return [split.document(index) for index in range(len(split))]


def test_without_a_mix_all_are_one_stream(law, general, tmp_path: Path) -> None:
    with opened(settings(), [law, general], tmp_path) as data:
        count = len(_documents(law)) + len(_documents(general))
        assert data.order.total == sum(map(len, [*_documents(law), *_documents(general)]))
        one_pass = data.order.rows(0, data.order.total // 32).targets
        assert (one_pass == 0).sum() == pytest.approx(count, abs=2)


def test_a_source_may_be_named_alone_where_one_folder_has_it() -> None:
    tokens = {"law/courts": 30, "law/codes": 10, "general/news": 60, "general/codes": 20}
    groups = {"law": ["law/courts", "law/codes"], "general": ["general/news", "general/codes"]}

    def shares(**chosen) -> dict[str, float]:
        return {s.name: round(s.share, 3) for s in mix_of(tokens, MixSettings(**chosen), groups, "x")}

    assert shares(weights={"law": 0.8, "news": 0.2}) == {"law/courts": 0.6, "law/codes": 0.2, "general/news": 0.2}
    assert shares(weights={"law": 1, "law/codes": 0}) == {"law/courts": 1.0}
    assert shares(weights=None, max_epochs={"law": 2}) == {name: round(size / 120, 3) for name, size in tokens.items()}
    caps = mix_of(tokens, MixSettings(max_epochs={"law": 2, "news": 1}), groups, "x")
    assert [s.cap for s in caps] == [60, 20, 60, None]
    with pytest.raises(HanmoError, match=r"no source 'codes'.*its sources: law/courts"):
        shares(weights={"codes": 1})


def test_other_tokenizers_and_twice_the_same_are_refused(law, general, make_tokens, tmp_path: Path) -> None:
    other = make_tokens("other", ["x"])
    write_json(other / "tokens.json", read_json(other / "tokens.json") | {"tokenizer": "def"})
    with (
        pytest.raises(
            HanmoError, match=r"other: made with another tokenizer than .*law; make both with one: `hanmo tok"
        ),
        opened(settings(), [law, other], tmp_path),
    ):
        pass
    with pytest.raises(HanmoError, match="is given twice"), opened(settings(), [law, law], tmp_path):
        pass


def test_folders_of_one_name_are_told_apart(law, make_tokens, tmp_path: Path) -> None:
    again = make_tokens("law", ["courts"], seed=5)
    with opened(settings(mix={"temperature": 1}), [law, again], tmp_path) as data:
        assert len(set(data.order.taken(10))) == 3


def plain(**options) -> Order:
    tokens = np.arange(1, 2001, dtype=np.uint16)
    return Order(split_of(tokens, np.arange(10, 2001, 10)), 16, 1, **options)


def test_skipped_stretches_move_up_what_is_behind_them() -> None:
    whole = plain().rows(0, 40).targets
    order = plain(skip=[(0, 4), (10, 12), (20, 25)])
    kept = np.delete(whole, [0, 1, 2, 3, 10, 11, 20, 21, 22, 23, 24], axis=0)
    assert np.array_equal(order.rows(0, 29).targets, kept)
    for first in range(20):
        assert np.array_equal(order.rows(first, 9).targets, kept[first : first + 9])
    assert order.reach(0) == 0 and order.reach(6) == 10 and order.reach(7) == 13 and order.reach(29) == 40


def test_a_mix_counts_only_what_was_not_skipped() -> None:
    source = np.repeat([0, 1], 100)
    split = split_of(np.arange(1, 2001, dtype=np.uint16), np.arange(10, 2001, 10), source, ["a", "b"])
    mix = Mix([MixSource(0, "a", 1000, 0.7, None), MixSource(1, "b", 1000, 0.3, None)], 16, 1)
    order = Order(split, 16, 1, mix=mix, skip=[(3, 30)])
    taken = order.taken(20)
    rows = order.rows(0, 20)
    assert sum(taken.values()) == 20 * 16
    assert taken["a"] == ((rows.targets <= 1000) & (rows.targets > 0)).sum()


def test_skip_steps_is_a_run_that_begins_later(tokens, tiny_model_dir, tmp_path: Path) -> None:
    run_stage(tokens, tmp_path / "skip", tiny_model_dir, skip_steps=2, skip=[[4, 6]])
    chosen = settings(skip_steps=2, skip=[[4, 6]])
    assert skipped(chosen) == [(0, 8), (16, 24)]
    first = next(line["loss"] for _, line in read_jsonl(tmp_path / "skip" / "log.jsonl") if "loss" in line)
    run_stage(tokens, tmp_path / "plain", tiny_model_dir, warmup_tokens=10**9, lr=1e-12, matrix_lr=1e-12)
    losses = [line["loss"] for _, line in read_jsonl(tmp_path / "plain" / "log.jsonl") if "loss" in line]
    assert first == pytest.approx(losses[2], abs=2e-3) and abs(first - losses[0]) > 2e-3


@pytest.mark.parametrize("skip", [[[5, 5]], [[5, 9], [8, 12]], [[-1, 3]]])
def test_stretches_that_are_none_are_one_line(skip) -> None:
    with pytest.raises(HanmoError, match=r"^x: skip"):
        check_settings(KINDS["pretrain"], {"skip": skip}, "x")


def test_models_kept_on_the_way(tokens, tiny_model_dir, tmp_path: Path) -> None:
    options = {"save_initial": True, "save_every_tokens": 500, "prefix": "law"}
    run_stage(tokens, tmp_path / "run", tiny_model_dir, **options)
    kept = sorted(path.name for path in (tmp_path / "run").glob("model*"))
    # 128 tokens a step: 500 are passed in step 4, 1000 in step 8.
    assert kept == ["model", "model-law-initial", "model-law-step-00000004", "model-law-step-00000008"]
    before, first = saved(tiny_model_dir), saved(tmp_path / "run" / "model-law-initial")
    assert all(torch.equal(before[name], first[name]) for name in before)
    # What is kept does not disturb: the same weights as without.
    run_stage(tokens, tmp_path / "plain", tiny_model_dir)
    one, other = (saved(tmp_path / name / "model") for name in ("run", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "run" / "model-law-step-00000004"
    assert AutoModelForCausalLM.from_pretrained(folder) and len(AutoTokenizer.from_pretrained(folder)) == 400


def test_a_prefix_is_no_path() -> None:
    with pytest.raises(HanmoError, match=r"^x: prefix"):
        check_settings(KINDS["pretrain"], {"prefix": "../law"}, "x")
