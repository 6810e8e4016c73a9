"""hanmo doctor: what it finds, what it says when something is missing, and that nothing missing stops it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hanmo import doctor


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return doctor.collect()


def line(found: dict[str, Any], name: str) -> dict[str, str]:
    return next(item for item in found["findings"] if item["name"] == name)


def test_the_test_environment_is_complete(found: dict[str, Any]) -> None:
    assert found["ok"]
    assert line(found, "base")["state"] == "ok"
    assert json.loads(json.dumps(found)) == found


def test_it_looks_at_everything(found: dict[str, Any]) -> None:
    names = [item["name"] for item in found["findings"]]
    for name in ("Python", "system", "cores", "memory", "disk", "base", "gguf", "dev", "torch", "accelerator"):
        assert name in names
    for name in ("matrix product", "torch.compile", "vLLM", "Chromium"):
        assert name in names
    assert "GFLOP/s" in line(found, "matrix product")["detail"]


def test_whatever_is_not_well_has_a_mend_or_an_explanation(found: dict[str, Any]) -> None:
    for item in found["findings"]:
        assert item["state"] in doctor.MARKS
        assert item["detail"]
        if item["state"] == "missing":
            assert item["mend"]


def test_extras_are_those_of_the_package() -> None:
    assert set(doctor.EXTRAS) == set(importlib.metadata.metadata("hanmo").get_all("Provides-Extra") or [])


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name in ("orjson", "llama-cpp-python"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "zstandard" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    base, *extras = doctor._packages()
    gguf, dev = (next(item for item in extras if item.name == name) for name in ("gguf", "dev"))
    assert base.state == "missing" and base.mend.startswith("pip install")
    assert "orjson is missing" in base.detail and "zstandard is 0.1, has to be >=" in base.detail
    assert gguf.state == "optional" and "llama-cpp-python is missing" in gguf.detail and "[gguf]" in gguf.mend
    assert dev.state == "ok"


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    (only,) = doctor._packages()
    assert only.state == "missing" and only.mend == "python bootstrap.py setup"


def test_a_torch_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (only,) = doctor._torch(full=False)
    assert only.state == "missing" and "does not import" in only.detail and only.mend


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_compiler", lambda: None)
    item = doctor._compile("cpu", full=True)
    assert item.state == "optional" and "C++ compiler" in item.mend


def test_no_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "find_compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda _: str(tmp_path))
    item = doctor._compile("cpu", full=True)
    assert item.state == "optional" and "headers" in item.mend


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(doctor, "find_compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(doctor, "COMPILE_TRIAL", "raise SystemExit('the linker is lost')")
    item = doctor._compile("cpu", full=True)
    assert item.state == "optional" and "the linker is lost" in item.detail
    assert doctor._compile("cpu", full=False).state == "ok"


def test_the_report_reads_well(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    doctor.print_report(found)
    text = capsys.readouterr().out
    assert text.endswith("The base is complete.\n")
    assert "✓ Python" in text and "machine\n" in text and "torch\n" in text


def test_the_report_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    item = {"group": "torch", "name": "torch", "state": "missing", "detail": "gone", "mend": "bring it back"}
    doctor.print_report({"ok": False, "findings": [item]})
    text = capsys.readouterr().out
    assert "✗ torch" in text and "-> bring it back" in text and "not complete" in text


def test_the_report_on_an_old_terminal(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Windows console of code page 437 has no check marks."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp437"))
    doctor.print_report(found)
    sys.stdout.flush()
    assert b"+ Python" in raw.getvalue()
