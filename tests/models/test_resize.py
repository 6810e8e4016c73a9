"""Another vocabulary for a model: every row against a mean taken by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter
from hanmo.models.vocabulary import RECORD, embeddings, resize, starts
from hanmo.tokenizer import load, save
from hanmo.tokenizer.extend import extend
from hanmo.tokenizer.opening import open_tokenizer

TEXT = "研究人员在花园里研究小猫。小明高兴地说：研究人员很高兴。\n" * 40


@pytest.fixture(scope="module")
def extended(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    extend(tiny_tokenizer_dir, folder / "out", corpus=[folder / "text.txt"], add=25)
    return folder / "out"


@pytest.fixture(scope="module")
def llama_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of LLaMA's form: pieces with ▁, bytes to fall back on, <unk>, <s> and </s> as 0, 1 and 2."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁aehctxn猫小花研究",
        "▁t",
        "he",
        "▁the",
    ]
    tokenizer = Tokenizer(
        models.BPE(
            {name: index for index, name in enumerate(names)},
            [("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names[:3]])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    folder = tmp_path_factory.mktemp("llama")
    save(fast, folder)
    return folder


def model_of(kind: str, folder: Path, tokenizer: Path, rows: int) -> Path:
    """A small random model with a tokenizer beside it."""
    torch.manual_seed(3)
    common = {"vocab_size": rows, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "llama":
        shape = {"intermediate_size": 24, "num_key_value_heads": 1, "tie_word_embeddings": False}
        model = LlamaForCausalLM(LlamaConfig(**common, **shape, bos_token_id=1, eos_token_id=2)).to(torch.bfloat16)
    elif kind == "phi":
        model = PhiForCausalLM(PhiConfig(**common, intermediate_size=24, bos_token_id=1, eos_token_id=2))
        torch.nn.init.normal_(model.lm_head.bias)
    else:
        model = BertForMaskedLM(BertConfig(**common, intermediate_size=24, pad_token_id=0))
        torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(folder, max_shard_size="10KB")
    save(load(tokenizer), folder)
    return folder


def by_hand(old: torch.Tensor, ids: list[int]) -> torch.Tensor:
    total = torch.zeros_like(old[0], dtype=torch.float32)
    for index in ids:
        total += old[index].float()
    return (total / len(ids)).to(old.dtype)


def test_a_tied_model_with_an_extended_tokenizer(tiny_model_dir: Path, extended: Path, tmp_path: Path) -> None:
    record = resize(tiny_model_dir, extended, tmp_path / "out")
    assert record == {
        "old_tokens": 400,
        "tokens": 425,
        "rows": 448,
        "kept": 400,
        "from_mean_of_parts": 25,
        "from_mean_of_all": 23,
        "dtype": "float32",
    }
    before = load_file(tiny_model_dir / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    name = "model.embed_tokens.weight"
    for key, value in before.items():
        if key != name:
            assert torch.equal(value, after[key])
    old, new = before[name], after[name]
    assert torch.equal(new[:400], old[:400])
    tokenizer = load(tiny_model_dir)
    for index in range(400, 425):
        text = open_tokenizer(extended).pieces[index].bytes.decode("utf-8", "replace")
        if "\ufffd" in text:
            continue
        parts = tokenizer.encode(text, add_special_tokens=False)
        torch.testing.assert_close(new[index], by_hand(old, parts), rtol=0, atol=1e-7)
    torch.testing.assert_close(new[447], old[:400].mean(0), rtol=0, atol=1e-7)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == 448
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == [2, 0]
    assert model.config.pad_token_id is None
    loaded = load(tmp_path / "out")
    assert len(loaded) == 425
    assert loaded.chat_template == tokenizer.chat_template
    ids = torch.tensor([loaded.encode("研究人员在花园里")])
    assert ids.max() >= 400
    assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize("kind", ["llama", "phi", "bert"])
def test_heads_of_every_form(kind: str, tiny_tokenizer_dir: Path, extended: Path, tmp_path: Path) -> None:
    """Untied in bf16 and in several files; with a bias; a tied head with a bias of its own."""
    # More rows than tokens, as models have that were padded.
    folder = model_of(kind, tmp_path / "model", tiny_tokenizer_dir, 416)
    assert (folder / "model.safetensors.index.json").is_file()
    resize(folder, extended, tmp_path / "out", multiple=8)
    cls = {"llama": LlamaForCausalLM, "phi": PhiForCausalLM, "bert": BertForMaskedLM}[kind]
    before, after = (cls.from_pretrained(path, dtype="auto") for path in (folder, tmp_path / "out"))
    assert after.dtype == before.dtype == (torch.bfloat16 if kind == "llama" else torch.float32)
    assert after.config.vocab_size == 432
    parts = starts(open_tokenizer(tiny_tokenizer_dir), open_tokenizer(extended))
    old_head, new_head = before.get_output_embeddings(), after.get_output_embeddings()
    pairs = [(before.get_input_embeddings().weight, after.get_input_embeddings().weight)]
    pairs.append((old_head.weight, new_head.weight))
    if kind != "llama":
        pairs.append((old_head.bias[:, None], new_head.bias[:, None]))
    assert (new_head.weight is after.get_input_embeddings().weight) == (kind == "bert")
    for old, new in pairs:
        assert len(new) == 432
        assert torch.equal(new[:400], old[:400])
        for index in range(400, 425):
            torch.testing.assert_close(new[index], by_hand(old, parts[index]), rtol=0, atol=1e-7)
        torch.testing.assert_close(new[431], old[:400].float().mean(0).to(old.dtype), rtol=0, atol=1e-7)
    first, last = embeddings(tmp_path / "out")
    assert torch.equal(first, after.get_input_embeddings().weight)
    assert (last is None) == (kind == "bert")


def test_another_tokenizer_altogether(llama_tokenizer: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    folder = model_of("llama", tmp_path / "model", llama_tokenizer, 275)
    record = resize(folder, tiny_tokenizer_dir, tmp_path / "out")
    assert (record["rows"], record["from_mean_of_all"]) == (448, 48)
    before, after = (LlamaForCausalLM.from_pretrained(path, dtype="auto") for path in (folder, tmp_path / "out"))
    old, new = before.get_input_embeddings().weight, after.get_input_embeddings().weight
    names = load(llama_tokenizer).get_vocab()
    ours = load(tiny_tokenizer_dir)

    def expect(token: str, *parts: str) -> None:
        ids = ours.encode(token, add_special_tokens=False)
        assert len(ids) == 1, token
        torch.testing.assert_close(new[ids[0]], by_hand(old, [names[part] for part in parts]), rtol=0, atol=0)

    expect("<|endoftext|>", "</s>")  # the end of a sequence, by its role
    # A mark that has no role starts from its letters; there is none of < | i m _ s r d among the pieces.
    literal = [names[f"<0x{byte:02X}>"] if chr(byte) not in "aehctxn" else names[chr(byte)] for byte in b"<|im_start|>"]
    torch.testing.assert_close(new[1], by_hand(old, literal), rtol=0, atol=0)
    expect("小猫", "小", "猫")
    expect(" ", "▁")
    expect("。", "<0xE3>", "<0x80>", "<0x82>")
    expect("a", "a")
    byte = ours.backend_tokenizer.token_to_id("å")  # the byte e5, the beginning of many characters
    torch.testing.assert_close(new[byte], old[names["<0xE5>"]], rtol=0, atol=0)
    assert after.config.eos_token_id == 0
    assert after.config.bos_token_id is None
    assert after.generation_config.eos_token_id == 0
    assert load(tmp_path / "out").chat_template == ours.chat_template

    # And back: ▁the is " the", bytes are bytes, </s> is the end.
    resize(tmp_path / "out", llama_tokenizer, tmp_path / "back", multiple=1)
    back = LlamaForCausalLM.from_pretrained(tmp_path / "back", dtype="auto").get_input_embeddings().weight
    assert len(back) == 275
    for token, text in (("▁the", " the"), ("猫", "猫"), ("▁", " ")):
        ids = ours.encode(text, add_special_tokens=False)
        torch.testing.assert_close(back[names[token]], by_hand(new, ids), rtol=0, atol=0)
    torch.testing.assert_close(back[names["<0x41>"]], new[ours.backend_tokenizer.token_to_id("A")], rtol=0, atol=0)
    torch.testing.assert_close(back[2], new[0], rtol=0, atol=0)
    assert not (tmp_path / "back" / "chat_template.jinja").exists()


def test_it_trains_on(llama_tokenizer: Path, tmp_path: Path) -> None:
    """A LLaMA model with a larger vocabulary through `tokens` and `pretrain`; documents end in its </s>."""
    import hanmo.pretrain.stage
    import hanmo.tokens.stage
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.tokens.settings import TokensSettings
    from hanmo.tokens.shards import open_split

    folder = model_of("llama", tmp_path / "model", llama_tokenizer, 275)
    (tmp_path / "words.txt").write_text("研究\n小猫\n花\n", encoding="utf-8")
    extend(llama_tokenizer, tmp_path / "tokenizer", pieces=tmp_path / "words.txt")
    resize(folder, tmp_path / "tokenizer", tmp_path / "larger")
    for split in ("train", "heldout"):
        with JsonlZstWriter(tmp_path / "corpus" / split / "00000.jsonl.zst") as file:
            for number in range(12):
                file.write({"id": str(number), "text": "研究小猫 the cat" * 3, "source": "a", "meta": {}})
    inputs = {"corpus": [tmp_path / "corpus"], "tokenizer": [tmp_path / "tokenizer"]}
    hanmo.tokens.stage.run(TokensSettings(workers=1), inputs, tmp_path / "tokens")
    train = open_split(tmp_path / "tokens", "train")
    ids = [int(index) for index in train.tokens[: int(train.doc_ends[0])]]
    assert ids[-1] == 2
    assert max(ids) >= 275
    settings = PretrainSettings(
        tokens=128, context=32, batch_tokens=64, precision="fp32", compile=False, eval_every=0, warmup_tokens=0
    )
    inputs = {"data": [tmp_path / "tokens"], "model": [tmp_path / "larger"]}
    counts = hanmo.pretrain.stage.run(settings, inputs, tmp_path / "trained")
    assert counts["steps"] == 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained" / "model")
    assert model.config.vocab_size == 320
    assert model.generation_config.eos_token_id == [2]
    assert model.generation_config.pad_token_id == 2


def test_what_cannot_be_done_is_one_line(tiny_model_dir: Path, extended: Path, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no such folder"):
        resize(tmp_path / "nothing", extended, tmp_path / "out")
    with pytest.raises(HanmoError, match=r"no tokenizer\.json there"):
        resize(tiny_model_dir, tmp_path, tmp_path / "out")
    for change, line in (
        ({"quantization_config": {}}, "quantised weights"),
        ({"architectures": ["RiddleForCausalLM"]}, "no class RiddleForCausalLM"),
        ({"num_hidden_layers": 5}, "missing weights"),
    ):
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        for path in tiny_model_dir.iterdir():
            (broken / path.name).write_bytes(path.read_bytes())
        config = json.loads((tiny_model_dir / "config.json").read_text())
        config |= change
        if "num_hidden_layers" in change:
            config["layer_types"] = ["full_attention"] * 5
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(HanmoError, match=line):
            resize(broken, extended, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
    resize(tiny_model_dir, extended, tmp_path / "out")
    resize(tiny_model_dir, extended, tmp_path / "out", multiple=1)  # its own result may be made again
    assert json.loads((tmp_path / "out" / RECORD).read_text())["rows"] == 425
