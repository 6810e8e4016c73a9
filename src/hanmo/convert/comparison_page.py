"""The page of a comparison: size against bits per byte, and the table, in two languages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hanmo import charts
from hanmo.files import atomic_write
from hanmo.pages import Words, environment

_WORDS = Words(
    {
        "title": ("Quantised files", "量化文件对比"),
        "lead": (
            "Every file made of {model}, measured on {size} of held-out text by llama.cpp",
            "{model} 的各个文件，用 llama.cpp 在 {size} 留出文本上实测",
        ),
        "recommended": ("recommended", "推荐"),
        "nothing": ("none", "无"),
        "why": (
            "the smallest whose bits per byte are within 1 % of the model's",
            "比特每字节与原模型相差不超过 1% 的最小文件",
        ),
        "none_good": ("none is within 1 % of the model", "没有文件与原模型相差在 1% 以内"),
        "itself": ("the model itself, float32", "原模型（float32）"),
        "overview": ("Size and quality", "大小与质量"),
        "overview_lead": (
            "Bits per byte of held-out text against the size of the file; the line is the model itself.",
            "留出文本的比特每字节与文件大小；横线为原模型。",
        ),
        "file": ("file", "文件"),
        "size": ("size", "大小"),
        "bpb": ("bits per byte", "比特每字节"),
        "worse": ("against the model", "与原模型相比"),
        "kl": ("KL, nats a token", "KL 散度（奈特/词元）"),
        "same": ("same choice", "选择相同"),
        "exam": ("exam", "考试"),
        "speed": ("tokens/s", "词元/秒"),
        "prompt": ("prompt tokens/s", "提示词元/秒"),
        "memory": ("memory", "内存"),
        "point": ("{name}: {bits} bits per byte", "{name}：每字节 {bits} 比特"),
        "theme": ("light or dark", "浅色或深色"),
    }
)


def write_page(result: dict[str, Any], path: Path) -> None:
    """Render what compare.json holds."""
    page = environment(Path(__file__).parent / "page", _WORDS)
    with atomic_write(path) as file:
        file.write(page.get_template("compare.html.j2").render(result=result, scatter=_scatter(result)))


def _scatter(result: dict[str, Any]) -> dict[str, Any]:
    """Size of the file (logarithmic) against bits per byte: axes, places in percent, the model's own line."""
    files, own = result["files"], result["model"]["bits_per_byte"]
    sizes = [math.log10(found["bytes"]) for found in files]
    low, high = min(sizes) - 0.1, max(sizes) + 0.1
    ticks = [unit * 10**power for power in range(4, 13) for unit in (1, 2, 5)]
    scale = charts.Axis(low, high, [])
    labels = [(scale.place(math.log10(t)), charts.short(t)) for t in ticks if low <= math.log10(t) <= high]
    bits = [found["bits_per_byte"] for found in files]
    y = charts.axis(min(own, *bits), max(own, *bits), 5)
    points = [
        {"number": number, "found": found, "x": scale.place(size), "y": 100 - y.place(found["bits_per_byte"])}
        for number, (found, size) in enumerate(zip(files, sizes, strict=True), 1)
    ]
    return {"x": charts.Axis(low, high, labels), "y": y, "points": points, "own": 100 - y.place(own)}
