"""What the tests of several rooms share: a tiny real tokenizer, a tiny real model, and the optional real data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from nest import warm, warm_interpreter
from shown import Pages

# Tests must not reach for a hub, and one thread per test process keeps parallel runs honest.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What messages say is looked for in English, whatever the language of the machine.
os.environ["HANMO_LANG"] = "en"

# A busy machine is not a fault: hypothesis would fail an example that takes more than 200 ms.
settings.register_profile("hanmo", deadline=None)
settings.load_profile("hanmo")

#: Enough text for a few hundred merges; every test that needs words uses these.
TEXT = (
    "春天到了，花园里的花都开了。小明和小红一起去公园玩。他们看见一只白色的小猫，正在树下睡觉。\n"
    "小猫醒了，喵喵地叫。小红给它一条小鱼，小猫高兴地吃了。The cat is happy, 他们也很高兴。\n"
    "今天是2024年3月5日，星期二。天气晴朗，最高气温18度。\ndef add(a, b):\n    return a + b\n"
)


#: The files that take longest, in the order in which they are begun: the last one to end decides when all have.
LONGEST = ("test_corridor.py", "test_pages.py", "test_readme.py", "test_tutorials.py", "test_run.py", "test_slurm.py")
LONGEST += ("test_kills.py", "test_executors.py", "test_remote.py", "test_corpus_faults.py", "test_tuning.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A folder with a warm `hanmo` and `python` (see `nest`); None where there can be none, or with HANMO_COLD=1."""
    if sys.platform != "linux" or os.environ.get("HANMO_COLD") or not hasattr(os, "pidfd_open"):
        yield None
        return
    with warm(tmp_path_factory.mktemp("nest")) as folder:
        yield folder


@pytest.fixture(scope="module")
def warm_stages(programs: Path | None) -> Iterator[None]:
    """To the module's end, stages that are run by this process, and commands of `sys.executable`, start warm."""
    with warm_interpreter(programs):
        yield


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, programs: Path | None) -> Pages:
    """How pages are run."""
    base = tmp_path_factory.getbasetemp()
    # Whichever process of pytest-xdist runs them, what they share is made once.
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-blocks"
    shared.mkdir(exist_ok=True)
    return Pages(shared, programs)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Chinese data; tests that need it are skipped where it is absent."""
    root = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("HANMO_DATA"), root.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("needs the shared data folder (set HANMO_DATA to it)")


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 400 tokens trained on `TEXT`, saved as every tokenizer of ours is."""
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import build, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    build(tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random Qwen3 (preset hanmo-1m, context 256) with that tokenizer, as a Hugging Face folder."""
    import torch
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config
    from hanmo.tokenizer import load

    tokenizer = load(tiny_tokenizer_dir)
    torch.manual_seed(7)
    model = Qwen3ForCausalLM(build_config("hanmo-1m", len(tokenizer), 256))
    # Larger than at initialisation, so that the best and second-best tokens stand clearly apart.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    folder = tmp_path_factory.mktemp("model")
    model.generation_config.eos_token_id = [2, 0]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra [dev])")
    from browsing import FLAGS
    from hanmo.doctor import find_chromium

    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed (install it, or set CHROMIUM to its path)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
