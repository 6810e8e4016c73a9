"""Our classes are known to transformers' auto classes, whatever is imported first; and a command line pays for none."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUILD = """
import hanmo
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
unified = AutoConfig.for_model("hanmo_unified", num_hidden_layers=1, hidden_size=8, num_attention_heads=1)
t5 = AutoConfig.for_model("hanmo_megatron_t5", num_layers=1, d_model=8)
for auto, config in ((AutoModelForCausalLM, unified), (AutoModelForMaskedLM, unified), (AutoModelForSeq2SeqLM, t5)):
    print(type(auto.from_config(config)).__name__)
"""
NAMES = ["UnifiedForCausalLM", "UnifiedForMaskedLM", "MegatronT5ForConditionalGeneration"]
FIRST = [
    "import hanmo; from transformers import Qwen3ForCausalLM",
    "from transformers import AutoModelForCausalLM",
    "import hanmo.models.megatron_t5.model",
]


def said(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.parametrize("first", FIRST)
def test_auto_classes_know_ours(first: str) -> None:
    assert said(first + "\n" + BUILD) == NAMES


def test_nothing_is_imported_for_it() -> None:
    assert said("import hanmo, sys; print('transformers' in sys.modules, 'torch' in sys.modules)") == ["False", "False"]
