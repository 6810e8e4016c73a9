"""Where llama.cpp's own server program is: on the PATH, or built once from the source that llama-cpp-python ships.

llama-cpp-python builds the library only. The same source also holds `llama-server`, which batches requests; it is
built into the user's cache folder, one build for each version, and shared by all environments of this user.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from filelock import FileLock

from hanmo.console import console
from hanmo.convert.llamacpp import require_llama_cpp
from hanmo.errors import HanmoError
from hanmo.remote import cache_folder

#: A program of one's own, before the PATH and the cache.
VARIABLE = "HANMO_LLAMA_SERVER"
_PROGRAM = "llama-server.exe" if os.name == "nt" else "llama-server"
#: Linked whole, so that the program is one file; its page and TLS are left out: it listens on loopback for us alone.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)


def find_llama_server() -> Path | None:
    """The program that `HANMO_LLAMA_SERVER` names, the one on the PATH, or the one built before; None: there is none.

    Raises:
        HanmoError: `HANMO_LLAMA_SERVER` names no program.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or not Path(named).is_file():
            raise HanmoError(f"{VARIABLE}={named}: not a program; name llama.cpp's llama-server, or unset it")
        return Path(named)
    on_path = shutil.which(_PROGRAM)
    if on_path:
        return Path(on_path)
    built = _built()
    return built if built is not None and built.is_file() else None


def build_llama_server() -> Path:
    """Build the program from the source of the installed llama-cpp-python (5 to 15 minutes, once).

    pip fetches the source; `CMAKE_ARGS` is heeded as pip does when it builds the library (`-DGGML_CUDA=on`).

    Returns:
        The program, which `find_llama_server` finds from now on.

    Raises:
        HanmoError: no llama-cpp-python, no cmake or compiler, the archive cannot be had, or the build fails.
    """
    require_llama_cpp()
    target = _built()
    assert target is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_file():
            cmake = shutil.which("cmake")
            if cmake is None:
                raise HanmoError("building llama-server needs cmake and a C++ compiler: pip install cmake")
            with tempfile.TemporaryDirectory(prefix="hanmo-llama-", dir=target.parent) as folder:
                _build(cmake, _source(Path(folder)), Path(folder) / "build", target)
    return target


def _built() -> Path | None:
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return None
    return cache_folder("llama-server") / version / _PROGRAM


def _source(work: Path) -> Path:
    """llama.cpp's folder, fetched into `work`."""
    version = importlib.metadata.version("llama-cpp-python")
    console.print(f"fetching the source of llama-cpp-python {version}")
    options = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(work)]
    _run(
        [sys.executable, "-m", "pip", "download", *options, f"llama-cpp-python=={version}"],
        work / "log",
        f"pip cannot fetch the source of llama-cpp-python; set {VARIABLE} to a llama-server that you have",
    )
    archive = next(work.glob("*.tar.gz"))
    try:
        with tarfile.open(archive) as opened:
            opened.extractall(work / "source", filter="data")
    except (tarfile.TarError, OSError) as error:
        raise HanmoError(f"{archive.name}: cannot be unpacked ({error})") from None
    for place in (work / "source").glob("*/vendor/llama.cpp"):
        if (place / "tools" / "server" / "CMakeLists.txt").is_file():
            return place
    raise HanmoError(f"{archive.name}: holds no source of llama.cpp's server; set {VARIABLE} to one that you have")


def _build(cmake: str, source: Path, work: Path, target: Path) -> None:
    console.print("building llama.cpp's server (5 to 15 minutes, once)")
    log = work.parent / "log"
    cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
    extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    failed = "llama-server cannot be built"
    _run([cmake, "-S", str(source), "-B", str(work), *_OPTIONS, *extra], log, failed)
    _run([cmake, "--build", str(work), "--config", "Release", "--target", "llama-server", "-j", cores], log, failed)
    made = next((path for path in sorted(work.glob(f"bin/**/{_PROGRAM}")) if path.is_file()), None)
    if made is None:
        raise HanmoError("llama-server was built but is not where it belongs (bin/)")
    # Into place at once: another process looks only for the finished file.
    moved = target.with_name(f"{target.name}.new")
    shutil.copy2(made, moved)
    moved.replace(target)


def _run(command: list[str], log: Path, failed: str) -> None:
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    if status:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        telling = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise HanmoError(f"{failed} ({telling.strip()[:300]})")
