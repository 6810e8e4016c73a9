"""Publishing: what stands behind a model decides, a stand-in of both hubs takes what goes up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import CliRunner, Result
from hub import Hub, serving  # type: ignore[import-not-found]
from hypothesis import given
from hypothesis import strategies as st

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.publish.licences import Source, check, objection, sources
from hanmo.publish.parcel import parcel


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """A hub, with a token that may write to it."""
    with serving() as made:
        for name, value in {
            "HF_ENDPOINT": made.url,
            "HF_TOKEN": made.token,
            "MODELSCOPE_ENDPOINT": made.url,
            "MODELSCOPE_API_TOKEN": made.token,
        }.items():
            monkeypatch.setenv(name, value)
        # They are read when the client is imported. The other protocol, Xet, has a server of its own.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield made


def manifest(folder: Path, do: str, inputs: dict[str, list[str]], **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    value = {"do": do, "stage": folder.name, "inputs": inputs, "settings": {"seed": 1}, "counts": {}, **more}
    (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A run: a corpus of two sources, a base model, and one tuned on a file of dialogues."""
    folder = tmp_path / "run"
    manifest(folder / "corpus", "corpus", {"documents": ["/home/me/texts"]}, settings={"path": "/home/me/texts"})
    each = {"train": {"documents": 12, "bytes": 5000}}
    stats = {"sources": {"laws": {**each, "licence": "CC0-1.0"}, "novels": {**each, "licence": "CC BY-NC 4.0"}}}
    (folder / "corpus" / "stats.json").write_text(json.dumps(stats), encoding="utf-8")
    manifest(folder / "base", "pretrain", {"data": [str(folder / "corpus")]})
    manifest(folder / "sft", "sft", {"model": [str(folder / "base")], "records": ["/home/me/talks.jsonl"]})
    shutil.copytree(tiny_model_dir, folder / "sft" / "model")
    (folder / "sft" / "model" / "optimizer.pt").write_bytes(b"x")
    return folder


def publish(*words: object) -> Result:
    return CliRunner().invoke(cli, ["publish", *map(str, words)])


FREE = ("--licence", "apache-2.0", "--accept", "novels", "--states", "talks.jsonl=CC0")


def test_what_stands_behind_a_model(run: Path) -> None:
    assert sources(run / "sft") == [
        Source("text", "laws", "CC0-1.0", ""),
        Source("text", "novels", "CC BY-NC 4.0", "forbids commercial use"),
        Source("records", "talks.jsonl", "", "names no licence"),
    ]
    assert sources(run / "sft", {"talks.jsonl": "MIT"})[2].objection == ""
    with pytest.raises(HanmoError, match=r"--states talk\.jsonl: nothing of that name.*did you mean 'talks\.jsonl'"):
        sources(run / "sft", {"talk.jsonl": "MIT"})


def test_a_base_model_has_a_licence_too(run: Path, tmp_path: Path) -> None:
    base = tmp_path / "Qwen3-0.6B-Base"
    base.mkdir()
    manifest(run / "base", "pretrain", {"model": [str(base)], "data": [str(run / "corpus")]})
    assert Source("model", base.name, "Apache-2.0", "") in sources(run / "sft")  # as the table of public models says
    path = run / "base" / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"results": {"model": ["ms:Qwen/Qwen3-0.6B-Base@master+1"]}})
    )
    assert Source("model", "Qwen/Qwen3-0.6B-Base", "Apache-2.0", "") in sources(run / "sft")
    manifest(run / "base", "pretrain", {"model": [str(base)], "data": [str(run / "corpus")]})
    (base / "README.md").write_text("---\nlicense: llama2\n---\n", encoding="utf-8")
    assert Source("model", base.name, "llama2", "has terms of its own") in sources(run / "sft")


@pytest.mark.parametrize(
    ("licence", "says"),
    [
        ("Apache-2.0", ""),
        ("mit", ""),
        ("CC BY 4.0", ""),
        ("cc-by-4.0", ""),
        ("ODC-By 1.0, and Common Crawl's terms of use", ""),
        ("CC BY-SA 3.0", "asks for the same licence where text is passed on"),
        ("cc-by-nc-sa-4.0", "forbids commercial use"),
        ("CC BY-NC-ND 4.0", "forbids commercial use"),
        ("CC BY-ND 4.0", "forbids adaptations"),
        ("research only, on application, not to be passed on", "forbids commercial use"),
        ("Skywork Community License", "has terms of its own"),
        ("unknown (none on its card)", "names no licence"),
        ("", "names no licence"),
        ("none named", "names no licence"),
    ],
)
def test_licences(licence: str, says: str) -> None:
    assert objection("x", licence) == says


def test_the_catalogue_knows_more() -> None:
    # The packaging of some corpora is free, which says nothing of the texts.
    from hanmo.corpus.catalog import entries

    said = {entry.publishing: objection(name, "MIT") for name, entry in entries().items()}
    assert said["yes"] == "" and "has terms" in said["terms"] and "does not know" in said["unknown"]


@given(st.text(max_size=20))
def test_what_is_not_known_is_never_free(licence: str) -> None:
    if not objection("x", licence):
        assert any(
            word in licence.lower() for word in ("mit", "bsd", "isc", "apache", "cc", "mulan", "odc", "unlicense")
        )


def test_terms_are_accepted_by_name() -> None:
    found = [
        Source("text", "novels", "CC BY-NC 4.0", "forbids commercial use"),
        Source("text", "web", "", "names no licence"),
    ]
    with pytest.raises(
        HanmoError, match=r"text novels forbids commercial use; text web names no licence.*--states web="
    ):
        check(found, [], "apache-2.0")
    with pytest.raises(HanmoError, match="not published: text web names no licence"):
        check(found, [], "cc-by-nc-4.0")  # a model that forbids it as well
    check(found, ["novels", "web"], "apache-2.0")
    with pytest.raises(HanmoError, match="--accept novel: nothing of that name"):
        check(found, ["novel"], "apache-2.0")


def test_nothing_is_sent_before_all_is_clear(run: Path, hub: Hub) -> None:
    refused = publish(run / "sft", "hf:me/small", "--licence", "apache-2.0")
    assert isinstance(refused.exception, HanmoError) and "talks.jsonl names no licence" in str(refused.exception)
    unnamed = publish(run / "sft", "hf:me/small", *FREE[2:])
    assert isinstance(unnamed.exception, HanmoError) and "give --licence" in str(unnamed.exception)
    dry = publish(run / "sft", "hf:me/small", *FREE, "--dry-run")
    assert dry.exit_code == 0 and "nothing was sent" in dry.output and "model.safetensors" in dry.output
    assert not hub.repos and not hub.commits and not hub.blobs
    assert not list((run / "sft").glob(".publish-*")) and not (run / "sft" / "model" / "README.md").exists()


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_a_model_goes_up(run: Path, hub: Hub, tmp_path: Path, kind: str) -> None:
    gguf = tmp_path / "model-q8_0.gguf"
    gguf.write_bytes(b"GGUF")
    done = publish(run / "sft", f"{kind}:me/small", *FREE, "--also", gguf, "--message", "first")
    assert done.exception is None, done.output
    assert done.stdout.strip() == (f"{hub.url}/me/small" if kind == "hf" else f"{hub.url}/models/me/small")
    assert list(hub.repos) == ["me/small"] and hub.commits and all("first" in words for words in hub.commits)
    here = {path.name: path.read_bytes() for path in (run / "sft" / "model").iterdir()}
    assert here.keys() - hub.files.keys() == {"optimizer.pt"} and hub.files["model-q8_0.gguf"] == b"GGUF"
    assert all(hub.files[name] == data for name, data in here.items() if name != "optimizer.pt")
    card = hub.files["README.md"].decode()
    assert "license: apache-2.0" in card and 'from_pretrained("me/small")' in card
    stages = json.loads(hub.files["lineage.json"])
    assert [one["stage"] for one in stages] == ["corpus", "base", "sft"]
    assert "/home/me" not in hub.files["lineage.json"].decode() and stages[0]["settings"] == {"path": "texts"}
    # Once more: what is there is not sent again.
    sent = hub.sent
    assert publish(run / "sft", f"{kind}:me/small", *FREE).exception is None
    assert hub.sent == sent


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_a_hub_that_refuses_is_one_line(run: Path, hub: Hub, kind: str) -> None:
    hub.token = "another"
    refused = publish(run / "sft", f"{kind}:me/small", *FREE)
    assert isinstance(refused.exception, HanmoError)
    assert "refused" in str(refused.exception) and "TOKEN" in str(refused.exception)
    assert "\n" not in str(refused.exception)


def test_wrong_words(run: Path, hub: Hub) -> None:
    for words, says in [
        (["me/small"], "give hf:OWNER/NAME"),
        (["hf:small"], "give hf:OWNER/NAME"),
        (["hf:me/small", "--states", "laws"], "give NAME=LICENCE"),
        (["hf:me/small", *FREE, "--also", run / "corpus"], "no .gguf file there"),
    ]:
        done = publish(run / "sft", *words)
        assert isinstance(done.exception, HanmoError) and says in str(done.exception)
    assert not hub.repos


def test_a_card_by_people_is_kept(run: Path) -> None:
    card = run / "sft" / "model" / "README.md"
    card.write_text("---\nlicense: mit\n---\nOurs.\n", encoding="utf-8")
    with parcel(run / "sft", "me/small") as folder:
        assert (folder / "README.md").read_text(encoding="utf-8") == card.read_text(encoding="utf-8")
    with (
        pytest.raises(HanmoError, match=r"this card names mit, and --licence apache-2\.0"),
        parcel(run / "sft", "me/small", licence="apache-2.0"),
    ):
        pass
