"""A model that has learnt ten answers by heart in ten seconds, for trying engines where no trained model is at hand.

Random weights are no test of greedy output: their logits are flat, or, scaled up, name one token for ever. This one
answers and stops, with a tokenizer whose merges cover whatever tokenizers differ about.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.convert.trials import QUESTIONS, hard_lines

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: What the model knows.
PAGE = (
    "春天来了，花园里的花都开了。小明和小红一起去公园玩。他们看见一只白色的小猫，正在树下睡觉。"
    "从前有一个小村庄，村里住着一位老人。今天的天气很好，最高气温18度。中国的首都是北京。"
    "一年有四个季节，春夏秋冬。3加5等于8。The cat is happy, 他们也很高兴。def add(a, b):\n    return a + b\n"
)
#: To the questions of `trials`, in their order.
_ANSWERS = (
    "你好，我是翰墨。",
    "小猫吃鱼。",
    "春天来了，花都开了。",
    "“大”的反义词是“小”。",
    "等于5。",
    "一只白色的小猫。",
    "I like reading books.",
    "星期三。",
    "从前有一只小猫，\n它最爱吃小鱼。",
    "I do not know, 我不知道。",
)
_RATE = 5e-3


def make_tokenizer(folder: Path) -> None:
    """Train a BPE of 4,000 tokens on the page and on hard lines (spaces, line ends, emoji, rare Han) and save it."""
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import build, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*hard_lines(1500, seed=1), *[PAGE, *_ANSWERS] * 20], trainer)
    build(tokenizer, folder)


#: The families that `configuration` knows: whatever `convert.architectures` writes.
FAMILIES = ("qwen3", "qwen2", "llama", "gpt2", "qwen2_moe", "glm4_moe")
_DECODER = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "pad_token_id": None,
}
_EXPERTS = {"moe_intermediate_size": 96, "num_experts_per_tok": 2}
_SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {**_DECODER, "head_dim": 32, "tie_word_embeddings": True},
    "qwen2": {**_DECODER, "tie_word_embeddings": False},
    "llama": {**_DECODER, "tie_word_embeddings": False},
    "gpt2": {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 512, "bos_token_id": None},
    "qwen2_moe": {
        **_DECODER,
        **_EXPERTS,
        "num_experts": 8,
        "shared_expert_intermediate_size": 96,
        "tie_word_embeddings": True,
    },
    "glm4_moe": {
        **_DECODER,
        **_EXPERTS,
        "head_dim": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_nextn_predict_layers": 0,
        "use_qk_norm": True,
        "partial_rotary_factor": 1.0,
        # vLLM's class of it has a head of its own and leaves it at random where a folder has none.
        "tie_word_embeddings": False,
    },
}


def configuration(family: str, rows: int) -> PreTrainedConfig:
    """A stock model of about a million parameters of one of `FAMILIES`, with `rows` tokens and a context of 512."""
    from transformers import AutoConfig

    return AutoConfig.for_model(family, vocab_size=rows, eos_token_id=0, **_SHAPES[family])


def make_model(folder: Path, steps: int = 120, family: str = "qwen3") -> None:
    """Train a model of 1.3M parameters or more, context 512, and save it with its tokenizer as a Hugging Face folder.

    After 120 steps it knows the answers to the questions of `trials`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from hanmo.models.save import save_model
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    make_tokenizer(folder)
    tokenizer = load(folder)
    form = ChatFormat(tokenizer)
    documents = [[*tokenizer.encode(sentence + "。"), form.end_of_text] for sentence in PAGE.split("。")]
    for question, answer in zip(QUESTIONS, _ANSWERS, strict=True):
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        documents.append(form.encode(talk)[0])
    chance = random.Random(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(configuration(family, (len(tokenizer) + 63) // 64 * 64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.0)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = _RATE * min(1, (step + 1) / 10, 2 * (1 - step / steps))
        # In a new order every time, so that what came before a sentence says nothing about it.
        stream = [token for document in chance.sample(documents, len(documents)) for token in document]
        rows = torch.tensor(stream[: len(stream) // 64 * 64]).view(-1, 64)
        model(rows, labels=rows).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    save_model(model.eval(), tokenizer, folder, form.stop_ids)
