"""Recipes: what is read, and the one line that answers each slip."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hanmo.errors import HanmoError
from hanmo.pretrain.settings import PretrainSettings
from hanmo.recipe import load_recipe

GOOD = """
name: small
stages:
  - {name: base, do: pretrain, from: {data: tokens}, tokens: 2M}
  - {name: tokens, do: tokens, from: {corpus: text, tokenizer: tokenizer}}
  - {name: text, do: corpus, from: {documents: ["./raw", "./more"]}}
  - {do: tokenizer, from: text, vocab_size: 512}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_stages_are_sorted_and_checked(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), ["tokenizer.vocab_size=600", "base.seed=5"])
    assert [stage.name for stage in recipe.stages] == ["text", "tokenizer", "tokens", "base"]
    by_name = {stage.name: stage for stage in recipe.stages}
    assert by_name["text"].sources == {"documents": [tmp_path / "raw", tmp_path / "more"]}
    assert by_name["tokenizer"].settings.vocab_size == 600  # type: ignore[attr-defined]
    assert by_name["base"].settings.tokens == 2_000_000  # type: ignore[attr-defined]
    assert by_name["base"].after == ["tokens"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("vocab_size", "vocab_sise"), "stage 'tokenizer': unknown key 'vocab_sise'; did you mean 'vocab_size'?"),
        (("do: pretrain", "do: pretain"), "do: 'pretain' is unknown; did you mean 'pretrain'?"),
        (("data: tokens", "data: token"), "from: data: no stage 'token'; did you mean 'tokens'?"),
        (("{data: tokens}", "{date: tokens}"), "reads no 'date'; did you mean 'data'?"),
        (("from: {data: tokens}, ", ""), "stage 'base': needs `from: {data: ...}`"),
        (("name: text", "name: tokens"), "stage 'tokens': the name stands twice"),
        (("name: base", "name: ../base"), "a name is made of letters"),
        (("tokens: 2M", "tokens: lots"), "stage 'base': tokens: 'lots' is not a count"),
        (("tokens: 2M", "preset: hanmo-4mm"), "preset 'hanmo-4mm' is unknown; did you mean 'hanmo-4m'?"),
        (("vocab_size: 512", "vocab_size: 5"), "stage 'tokenizer': vocab_size: Input should be greater than or equal"),
        (("{corpus: text, tokenizer: tokenizer}", "text"), "`from:` must say which is which: corpus, tokenizer"),
        (('["./raw", "./more"]', "base"), "stages read each other in a circle"),
        (("name: small", "nmae: small"), "unknown key 'nmae'; did you mean 'name'?"),
        (("vocab_size: 512", "kind: unigran"), "(got 'unigran'); did you mean 'unigram'?"),
        (('from: {documents: ["./raw", "./more"]}', "from: ./raw, quality: {languages: [zhh]}"), "did you mean 'zh'?"),
        (("{corpus: text, ", "{corpus: [text, text], "), "from: corpus: takes one, 2 are given"),
    ],
)
def test_each_slip_is_one_line(tmp_path: Path, change: tuple[str, str], line: str) -> None:
    assert change[0] in GOOD
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(HanmoError) as error:
        load_recipe(path)
    assert line in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_not_yaml_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "stages:\n  - {name: a\n  - b: ]\n")
    with pytest.raises(HanmoError, match=r"recipe.yaml:3: not YAML"):
        load_recipe(path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(HanmoError, match="a list of stages"):
        load_recipe(write(tmp_path, "name: x\n"))


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ("tokens=1", "settings are given as stage.key=value"),
        ("bse.tokens=1", "no stage 'bse'; did you mean 'base'?"),
        ("base.token=1", "unknown key 'token'; did you mean 'tokens'?"),
    ],
)
def test_overrides(tmp_path: Path, item: str, line: str) -> None:
    with pytest.raises(HanmoError, match=line.replace("?", r"\?").replace(".", r"\.")):
        load_recipe(write(tmp_path, GOOD), [item])


def test_one_word_is_a_list_of_one() -> None:
    assert PretrainSettings.model_validate({"freeze": "layers.0", "sample_prompts": ["今天"]}).freeze == ["layers.0"]
    with pytest.raises(ValidationError):
        PretrainSettings.model_validate({"freeze": 3})


def test_every_recipe_of_ours_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HANMO_DATA", "HANMO_BASE", "HANMO_RECORDS"):
        monkeypatch.setenv(name, "data")
    recipes = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert load_recipe(path).stages
