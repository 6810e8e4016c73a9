"""What this machine can do, what is missing, and the line that mends it: `hanmo doctor`.

Every finding is one line with a state: "ok", "missing" (something the base needs: the command ends with status 1) or
"optional" (Hanmo works, but slower or with less). Nothing here may fail for want of what it looks for, so each heavy
import sits where it is used and its failure is a finding.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hanmo.console import human_bytes
from hanmo.errors import HanmoError
from hanmo.messages import translated

State = Literal["ok", "missing", "optional"]
MARKS: dict[State, str] = {"ok": "✓", "missing": "✗", "optional": "–"}
PLAIN_MARKS: dict[State, str] = {"ok": "+", "missing": "x", "optional": "-"}
#: What each extra of pyproject.toml is for.
EXTRAS = {
    "corpus": "reading web archives, pages, books, rar and 7z, and other projects' token ids",
    "ray": "the corpus and token stages on a Ray cluster",
    "s3": "reading and writing object storage and other URLs",
    "gguf": "running .gguf files in llama.cpp",
    "deepspeed": "training cut over processes by ZeRO, with the host's memory",
    "docs": "the pages as a site",
    "exams": "sitting public exams through lm-eval",
    "generation": "judging summaries and other written answers (ROUGE, BLEU, words)",
    "lora": "tuning by adapters (LoRA, DoRA, QLoRA) and merging them",
    "onnx": "writing encoders as ONNX and checking them in onnxruntime",
    "publish": "putting models on ModelScope",
    "swanlab": "the figures of a training in swanlab (needs an older protobuf than the other extras)",
    "tokenizers": "SentencePiece and tiktoken files: extending, opening and comparing them",
    "trackers": "the figures of a training in trackio, wandb or tensorboard",
    "words": "the share of dictionary words as a rule of quality",
    "dev": "the project's own tests and checks",
}
#: Runs in a process of its own: a compiler that crashes must not take the report with it.
COMPILE_TRIAL = """
import torch
torch.set_num_threads(1)
print(torch.compile(lambda x: torch.sin(x) * 2 + x)(torch.ones(64)).sum().item())
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    group: str
    name: str
    state: State
    detail: str
    mend: str = ""


def collect(full: bool = False) -> dict[str, Any]:
    """Look at everything; takes a few seconds, most of them for importing torch.

    Args:
        full: also compile a small function with torch.compile, which takes up to a minute.

    Returns:
        {"ok": whether the base is complete, "findings": [{"group", "name", "state", "detail", "mend"}, ...]}
    """
    findings = [*_machine(), *_packages(), *_torch(full), *_tools()]
    return {"ok": all(item.state != "missing" for item in findings), "findings": [asdict(item) for item in findings]}


def print_report(found: dict[str, Any]) -> None:
    """Print what `collect` returned, on stdout."""
    marks = MARKS
    try:
        "✓–✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        marks = PLAIN_MARKS
    group = None
    for item in found["findings"]:
        if item["group"] != group:
            group = item["group"]
            print(f"\n{translated(group)}")
        print(f"  {marks[item['state']]} {item['name']:<16} {translated(item['detail'])}")
        if item["mend"]:
            print(f"    {'':<16} -> {translated(item['mend'])}")
    print()
    print(
        translated("The base is complete." if found["ok"] else "The base is not complete: mend the lines marked above.")
    )


def find_chromium() -> str | None:
    """A browser of the Chromium family: the path in the variable CHROMIUM, else one of this machine's, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
    places = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
    if sys.platform == "darwin":
        places.append("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    if sys.platform == "win32":
        for base in ("PROGRAMFILES", "PROGRAMFILES(X86)"):
            places.append(os.path.join(os.environ.get(base, ""), r"Google\Chrome\Application\chrome.exe"))  # noqa: PTH118
    return next((place for place in places if place and Path(place).is_file()), None)


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would call on a CPU, or None."""
    names = [os.environ.get("CXX"), "cl"] if sys.platform == "win32" else [os.environ.get("CXX"), "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def usable_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _machine() -> Iterator[Finding]:
    import psutil

    recent = sys.version_info >= (3, 11)
    yield Finding(
        "machine",
        "Python",
        "ok" if recent else "missing",
        f"{platform.python_version()} ({sys.executable})",
        "" if recent else "Hanmo needs Python 3.11 or newer",
    )
    yield Finding("machine", "system", "ok", f"{platform.platform()} ({platform.machine()})")
    cores = usable_cores()
    yield Finding("machine", "cores", "ok", f"{cores} usable of {os.cpu_count()}")
    memory = psutil.virtual_memory()
    enough = memory.total >= 3.5e9
    yield Finding(
        "machine",
        "memory",
        "ok" if enough else "optional",
        f"{human_bytes(memory.available)} free of {human_bytes(memory.total)}",
        "" if enough else "the demo wants 4 GB; take a smaller preset and micro-batch",
    )
    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= 2e9
    yield Finding(
        "machine",
        "disk",
        "ok" if enough else "optional",
        f"{human_bytes(free)} free here",
        "" if enough else "a demo run writes about 1 GB: free some space or give another --out",
    )


def _packages() -> Iterator[Finding]:
    """The packages of the base and of each extra, by the requirements that were installed with us."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("hanmo") or []
        version = importlib.metadata.version("hanmo")
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        yield Finding("packages", "hanmo", "missing", f"not installed ({error})", "python bootstrap.py setup")
        return
    requirements = [Requirement(line) for line in lines]
    source = Path(__file__).resolve().parents[2]
    checkout = (source / "constraints.txt").is_file()

    def faults(extra: str) -> list[str]:
        """Requirements of an extra ("": the base) that are absent or too old."""
        bad = []
        for item in requirements:
            of_extra = item.marker is not None and "extra" in str(item.marker)
            if of_extra != bool(extra) or (item.marker and not item.marker.evaluate({"extra": extra})):
                continue
            try:
                have = importlib.metadata.version(item.name)
            except importlib.metadata.PackageNotFoundError:
                bad.append(f"{item.name} is missing")
                continue
            if not item.specifier.contains(have, prereleases=True):
                bad.append(f"{item.name} is {have}, has to be {item.specifier}")
        return bad

    def install_line(extra: str) -> str:
        name = f"[{extra}]" if extra else ""
        return f'pip install -c constraints.txt -e ".{name}"' if checkout else f'pip install "hanmo{name}"'

    bad = faults("")
    yield Finding(
        "packages",
        "base",
        "missing" if bad else "ok",
        "; ".join(bad) or f"hanmo {version} and all it needs",
        install_line("") if bad else "",
    )
    for extra, purpose in EXTRAS.items():
        bad = faults(extra)
        detail = f"{purpose}: {'; '.join(bad)}" if bad else purpose
        yield Finding("packages", extra, "optional" if bad else "ok", detail, install_line(extra) if bad else "")


def _torch(full: bool) -> Iterator[Finding]:
    try:
        import torch
    # A torch for other libraries fails in as many ways as there are linkers.
    except Exception as error:
        yield Finding("torch", "torch", "missing", f"does not import ({error})", "python bootstrap.py setup")
        return
    from hanmo.pretrain.precision import matmul_rate, pick_device

    build = next(
        (f"{name} {value}" for name in ("cuda", "hip", "xpu") if (value := getattr(torch.version, name, None))),
        "CPU build",
    )
    yield Finding("torch", "torch", "ok", f"{torch.__version__} ({build}), {torch.get_num_threads()} threads")

    device = pick_device()
    if device.type == "cpu":
        driver = shutil.which("nvidia-smi") is not None
        mend = "there is an NVIDIA driver: set HANMO_TORCH_INDEX to a CUDA index, then python bootstrap.py setup"
        yield Finding("torch", "accelerator", "optional", "none, the CPU is used", mend if driver else "")
    else:
        module = torch.get_device_module(device)
        for index in range(torch.accelerator.device_count()):
            name = module.get_device_name(index) if hasattr(module, "get_device_name") else device.type
            memory = ""
            if hasattr(module, "mem_get_info"):
                free, total = module.mem_get_info(index)
                memory = f", {human_bytes(free)} free of {human_bytes(total)}"
            yield Finding("torch", "accelerator", "ok", f"{device.type}:{index} {name}{memory}")

    rates: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        # Half precision on a CPU is emulated nearly everywhere, and nothing here would use it.
        if name == "fp16" and device.type == "cpu":
            continue
        try:
            rates[name] = matmul_rate(device, dtype)
        except (RuntimeError, TypeError):
            rates[name] = 0.0
    detail = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" if rate else f"{name} no" for name, rate in rates.items())
    gain = rates["bf16"] / rates["fp32"]
    fast = gain >= 1.3
    detail += f"; bf16 is {gain:.1f} times as fast" if rates["bf16"] else ""
    yield Finding("torch", "matrix product", "ok" if fast else "optional", detail)
    yield _compile(device.type, full)


def _compile(device: str, full: bool) -> Finding:
    """Whether torch.compile has what it needs on this kind of device."""
    version = "{}.{}".format(*sys.version_info)
    if device == "cuda":
        found, mend = importlib.util.find_spec("triton") is not None, "pip install triton (triton-windows on Windows)"
        what = "triton"
    else:
        header = Path(sysconfig.get_path("include"), "Python.h")
        compiler = find_compiler()
        found, what = bool(compiler) and header.is_file(), f"{compiler}, Python headers"
        if not compiler:
            mend = (
                "install a C++ compiler (Debian: apt install g++; macOS: xcode-select --install; Windows: Build Tools)"
            )
        else:
            mend = f"install Python's headers (Debian: apt install python{version}-dev)"
    if not found:
        detail = "cannot compile: training runs without it, slower"
        return Finding("torch", "torch.compile", "optional", detail, mend)
    if not full:
        return Finding("torch", "torch.compile", "ok", f"{what} (--full tries it)")
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMPILE_TRIAL],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            env={**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},
        )
        fault = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        fault = "took more than 300 s"
    if fault:
        return Finding(
            "torch", "torch.compile", "optional", f"does not work: {fault[:200]}", "set pretrain.compile=false"
        )
    return Finding("torch", "torch.compile", "ok", f"{what}; a first compile took {time.perf_counter() - began:.0f} s")


def _tools() -> Iterator[Finding]:
    """Programs outside Python."""
    vllm = importlib.util.find_spec("vllm") is not None
    beside = Path(__file__).resolve().parents[2] / ".venv-vllm"
    where = "in this environment" if vllm else f"in {beside.name}" if beside.is_dir() else ""
    yield Finding(
        "tools",
        "vLLM",
        "ok" if where else "optional",
        where or "not here; our models load in it unchanged",
        "" if where else "python bootstrap.py parity makes an environment with vLLM on CPU and compares",
    )
    if importlib.util.find_spec("llama_cpp") is not None:
        from hanmo.serve.engines.binary import find_llama_server

        try:
            program, wrong = find_llama_server(), ""
        except HanmoError as error:
            program, wrong = None, str(error)
        yield Finding(
            "tools",
            "llama-server",
            "ok" if program else "optional",
            wrong or str(program or "not found: .gguf files are served one answer at a time"),
            "" if program or wrong else "hanmo serve FILE.gguf --engine llama-server builds it, once",
        )
    browser = find_chromium()
    yield Finding(
        "tools",
        "Chromium",
        "ok" if browser else "optional",
        browser or "not found: the tests of the chat page are skipped",
        "" if browser else "Debian: apt install chromium",
    )
