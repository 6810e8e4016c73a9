"""Models by name, by the hubs' own clients against a server on this machine: fetched once, pinned, faults in a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from corpus.hubserver import OLDER, SHA, Hub, serving
from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.evaluate.card import write_card
from hanmo.evaluate.stage import name_folders
from hanmo.models import hub as models
from hanmo.models.folder import resolve, title
from hanmo.plan import whole
from hanmo.recipe import load_recipe
from hanmo.run import jobs_of
from hanmo.serve.models import named


@pytest.fixture
def hub(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a small model, besides what nobody asked for; the caches are empty."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HANMO_HUB", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    models._once.cache_clear()
    files = {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "onnx/model.json": b"{}", "README.md": b"# a card"}
    with serving(Hub(files, head=SHA)) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", made.url)
        yield made


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_once_and_pinned(hub: Hub, tiny_model_dir: Path) -> None:
    folder, mark = models.fetched("hf:owner/name")
    assert mark == f"hf:owner/name@{SHA}" and folder.name == SHA
    assert names(folder) == {path.name for path in tiny_model_dir.iterdir()} | {"README.md"}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    # The branch has moved on: an earlier result keeps its commit, and asks for nothing.
    hub.head, asked = OLDER, len(hub.asked)
    assert models.fetched("hf:owner/name", mark) == (folder, mark)
    assert len(hub.asked) == asked
    hub.files["config.json"] += b"\n"
    newer, other = models.fetched("hf:owner/name")
    assert other == f"hf:owner/name@{OLDER}"
    assert (newer / "config.json").read_bytes() == (folder / "config.json").read_bytes() + b"\n"
    assert models.fetched(f"hf:owner/name@{SHA}", other)[1] == mark


def test_a_torn_download_goes_on_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps whole chunks of what has come."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.tear, hub.tears = 2_000_000, 1
    folder, _ = models.fetched("hf:owner/name")
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    ranges = [headers["range"] for path, headers in hub.asked if "safetensors" in path and "range" in headers]
    assert ranges == [f"bytes={hub.tear // (1 << 16) * (1 << 16)}-"]


def test_without_a_network_the_cache_is_enough(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = models.fetched("hf:owner/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert models.fetched("hf:owner/name") == first
    with pytest.raises(HanmoError, match=r"hf:owner/other: http://127.0.0.1:9 does not give it, and it is not whole"):
        models.fetched("hf:owner/other")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("hf:owner/nobody", {}, r"hf:owner/nobody: no such model on http.*check the spelling"),
        ("hf:owner/name@gone", {}, "no revision 'gone'"),
        ("hf:owner/name:train", {}, r"a dataset's name; a model's is hf:OWNER/NAME\[@REVISION\]"),
        ("hf:name", {}, "no name of a model; write hf:OWNER/NAME"),
        ("hf:../etc", {}, "no name of a model; write hf:OWNER/NAME"),
        ("hf:owner/name", {"needs_token": "secret"}, "it is gated on .*agree to its terms"),
        ("hf:owner/name", {"files": {"config.json": b"{}"}}, "no safetensors weights at revision main"),
        ("hf:owner/name", {"files": {"a.txt": b""}}, "no model there"),
        ("ms:owner/nobody", {}, "ms:owner/nobody: no such model, or no revision 'master'"),
    ],
)
def test_what_is_wrong_is_one_line(hub: Hub, name: str, change: dict[str, Any], words: str) -> None:
    if name.startswith("ms"):
        pytest.importorskip("modelscope_hub")
    for key, value in change.items():
        setattr(hub, key, value)
    with pytest.raises(HanmoError, match=words) as caught:
        models.fetched(name)
    assert "\n" not in str(caught.value)


def test_modelscope_gives_the_same_and_a_change_there_is_a_new_input(hub: Hub, tiny_model_dir: Path) -> None:
    pytest.importorskip("modelscope_hub")
    folder, mark = models.fetched("ms:owner/name")
    assert mark.startswith("ms:owner/name@master+")
    assert {path.name for path in tiny_model_dir.iterdir()} <= names(folder)
    assert "pytorch_model.bin" not in names(folder)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert models.fetched("ms:owner/name", mark)[1] == mark
    hub.files["generation_config.json"] += b"\n"
    assert models.fetched("ms:owner/name", mark)[1] != mark


def test_a_recipe_names_its_base(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "lora-qwen3-0.6b.yaml"
    (tmp_path / "records.jsonl").write_text('{"question": "一", "answer": "二"}\n', encoding="utf-8")
    monkeypatch.setenv("HANMO_RECORDS", str(tmp_path / "records.jsonl"))
    monkeypatch.setenv("HANMO_BASE", "hf:owner/name")
    lora = jobs_of(load_recipe(recipe), tmp_path / "run")[0]
    assert lora.inputs["model"][0].name == SHA and lora.results["model"] == [f"hf:owner/name@{SHA}"]
    planned = load_recipe(recipe)
    whole._fetch_bases(planned)
    assert planned.stages[0].sources["model"] == lora.inputs["model"]
    monkeypatch.setenv("HANMO_BASE", "hf:owner")
    with pytest.raises(HanmoError, match="no name of a model"):
        load_recipe(recipe)
    monkeypatch.setenv("HANMO_BASE", "hf:owner/name")
    monkeypatch.setenv("HANMO_RECORDS", "hf:owner/name")
    with pytest.raises(HanmoError, match=r"from: records: 'hf:owner/name' is a name on a hub; model, teacher"):
        load_recipe(recipe)


def test_a_name_stands_where_a_folder_does(hub: Hub) -> None:
    folder = resolve("hf:owner/name")
    assert folder.name == SHA and title(folder) == "name"
    # Whatever asks again in this process gets the same, though the branch has moved on.
    hub.head, asked = OLDER, len(hub.asked)
    assert resolve(Path("hf:owner/name")) == folder and named("hf:owner/name") == ("name", folder)
    assert named("mine=hf:owner/name") == ("mine", folder) and len(hub.asked) == asked
    assert title(resolve(f"hf:owner/name@{OLDER}")) == "name"
    assert name_folders([Path("hf:owner/name"), Path(f"hf:owner/name@{OLDER}")]) == {
        "name": folder,
        "owner-name": folder.parent / OLDER,
    }
    with pytest.raises(HanmoError, match=r"owner/name: no such folder; .* or hf:OWNER/NAME"):
        resolve("owner/name")
    with pytest.raises(HanmoError, match="hf:owner/name: a model on a hub has its card there"):
        write_card(Path("hf:owner/name"))


def test_modelscopes_names_stand_there_too(hub: Hub) -> None:
    pytest.importorskip("modelscope_hub")
    assert title(resolve("ms:owner/name")) == "name"


def test_commands_take_names(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: str, said: str = "") -> Any:
        return CliRunner().invoke(cli, words, input=said)

    few = ("--max-tokens", "3", "--temperature", "0", "--context", "64")
    written = run("generate", "hf:owner/name", "春天", *few)
    assert written.exit_code == 0, written.output
    answered = run("chat", "hf:owner/name", *few, "--history", "off", said="你好\n")
    assert answered.exit_code == 0, answered.output
    # Later, on a train.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    models._once.cache_clear()
    again = run("generate", "hf:owner/name", "春天", *few)
    assert again.stdout == written.stdout
    for words in (("generate", "hf:owner/nobody", "春"), ("chat", "hf:owner/nobody"), ("serve", "hf:owner/nobody")):
        assert re.match("hf:owner/nobody: .* does not give it", str(run(*words).exception))


def test_an_adapter_is_merged_into_a_base_by_name(hub: Hub, tiny_model_dir: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(model, adapter).save_pretrained(tmp_path / "adapter")
    given = ["model", "merge", str(tmp_path / "adapter"), "--out", str(tmp_path / "out"), "--base", "hf:owner/name"]
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0 and json.loads(done.stdout)["base"].endswith(SHA), done.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
