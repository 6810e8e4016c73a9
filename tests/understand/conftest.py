"""Tiny models of several families with one tokenizer of characters, and records of tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

#: Characters of the texts in these tests.
CHARACTERS = sorted(
    set(
        "满意失望总条评论态度选项：我你他她们爱看书吃饭水果好坏不喜欢这个东西的是在北京上海张三李四王五去了来和问谁哪里天气今新闻体育财经0123456789，。？（）【】〖〗、_很太真吗关键词答案说一二三四五六七八九十"
    )
)


def make_tokenizer(folder: Path, decoder: bool = False) -> Any:
    """A wordpiece tokenizer of characters; for a decoder one without [CLS], [SEP] and [MASK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "[UNK]"] if decoder else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {token: number for number, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    if decoder:
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[0], unk_token="[UNK]"
        )
    else:
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{k}_token": v for k, v in names.items()})
    fast.save_pretrained(str(folder))
    return fast


def make_model(folder: Path, family: str) -> Path:
    """An untrained model of a family: one layer, 32 wide."""
    import transformers

    from hanmo.models.unified.config import UnifiedConfig
    from hanmo.models.unified.model import UnifiedForMaskedLM

    tokenizer = make_tokenizer(folder, decoder=family == "qwen3")
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(1)
    if family == "qwen3":
        config = transformers.Qwen3Config(**shape, num_key_value_heads=2, head_dim=16)
        model: Any = transformers.Qwen3ForCausalLM(config)
    elif family == "unified":
        model = UnifiedForMaskedLM(UnifiedConfig(**shape))
    elif family == "modernbert":
        marks = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        model = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**shape, **marks, local_attention=16))
    elif family == "bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**shape))
    else:
        model = transformers.MegatronBertForMaskedLM(transformers.MegatronBertConfig(**shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> a folder with such a model, made once."""
    made: dict[str, Path] = {}

    def find(family: str = "megatron-bert") -> Path:
        if family not in made:
            made[family] = make_model(tmp_path_factory.mktemp(family), family)
        return made[family]

    return find


@pytest.fixture
def task_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the files of a task: name of the file -> records (one a line), or its whole content."""

    def write(**files: Iterable[Any] | str) -> Path:
        folder = tmp_path / "task"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            lines = content if isinstance(content, str) else "".join(as_line(one) + "\n" for one in content)
            suffix = "" if "__" in name else ".json"
            path = folder / (name.replace("__", ".") + suffix)
            path.write_text(lines, encoding="utf-8", newline="")
        return folder

    return write


def as_line(record: Any) -> str:
    """A record as a line; a string is one already."""
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)
