"""The studio's words in English and Chinese, by key; {name} marks a value. The page gets them as one table.

What other pages of ours name already (curves, categories, reasons, cleaning rules) keeps the names it has there.
"""

from __future__ import annotations

from hanmo.corpus.words import AUDIT
from hanmo.evaluate.words import WORDS as REPORT
from hanmo.tokenizer.words import WORDS as TOKENIZERS

STUDIO: dict[str, tuple[str, str]] = {
    # frame
    "studio": ("Hanmo Studio", "翰墨 · 工作室"),
    "skip": ("To the content", "跳到正文"),
    "navigation": ("Pages", "页面"),
    "nav_runs": ("Runs", "训练"),
    "nav_tokenizers": ("Tokenizers", "分词"),
    "nav_data": ("What became of the text", "语料去向"),
    "switch_language": ("中文", "English"),
    "theme": ("Light or dark", "切换明暗"),
    "loading": ("Reading …", "读取中……"),
    "again": ("Try again", "重试"),
    "offline": ("The server cannot be reached. Is it still running?", "连不上服务器。它还在运行吗？"),
    "key": ("API key", "密钥"),
    "key_needed": (
        "This studio wants a key: the one it was started with. It is kept for this session of the page only.",
        "此工作室需要密钥（启动时所设），仅存于本页会话。",
    ),
    "open": ("Open", "进入"),
    "not_found": ("There is no such page.", "没有这个页面。"),
    # runs
    "runs_lead": ("{count} runs, {working} working", "{count} 次训练，{working} 次进行中"),
    "no_runs": (
        "No runs here yet. Start one, and it appears by itself:",
        "这里还没有训练。启动一次，它会自动出现：",
    ),
    "filter": ("Filter by name ( / )", "按名称筛选（ / ）"),
    "nothing_matches": ("No run has that in its name.", "没有名称匹配的训练。"),
    "run": ("Run", "训练"),
    "curve": ("Loss", "损失"),
    "progress": ("Stages", "阶段"),
    "figure_parameters": ("Parameters", "参数"),
    "figure_tokens": ("Tokens", "词元"),
    "figure_bpb": ("Bits per byte", "比特/字节"),
    "figure_exam": ("Exam", "考试"),
    "figure_time": ("Time", "用时"),
    "changed": ("Changed", "更新"),
    "done": ("done", "完成"),
    "working": ("working", "进行中"),
    "interrupted": ("interrupted", "中断"),
    "just_now": ("just now", "刚刚"),
    "ago_minutes": ("{count} min ago", "{count} 分钟前"),
    "ago_hours": ("{count} h ago", "{count} 小时前"),
    "ago_days": ("{count} days ago", "{count} 天前"),
    "spark": ("Loss from {first} to {last}", "损失从 {first} 到 {last}"),
    # one run
    "overview": ("Overview", "总览"),
    "stages": ("Stages", "阶段"),
    "does": ("does", "类型"),
    "state": ("State", "状态"),
    "inputs": ("reads", "读取"),
    "started_at": ("started {time}", "开始于 {time}"),
    "settings": ("Settings", "设置"),
    "counts": ("Counts", "计数"),
    "nothing_to_show": (
        "Nothing to show yet: this stage has written no result.",
        "暂无内容：此阶段尚未写出结果。",
    ),
    "interval": ("95 % interval {low} to {high}", "95% 区间 {low} 至 {high}"),
    "chance_of": ("chance {value}", "随机猜测 {value}"),
    # curves
    "curves": ("Curves", "曲线"),
    "curves_help": (
        "Point at a curve or use the arrow keys to read it. Drag across, or + and −, to zoom; 0 for the whole.",
        "指向曲线或用方向键读数；横向拖动或按 + − 缩放；按 0 复原。",
    ),
    "across": ("Across", "横轴"),
    "across_step": ("steps", "步数"),
    "across_tokens": ("tokens", "词元"),
    "across_seconds": ("seconds", "秒"),
    "smoothing": ("Smoothing", "平滑"),
    "log_scale": ("Log scale", "对数坐标"),
    "whole": ("Whole run", "显示全程"),
    "live": ("live", "实时"),
    "no_log": ("No log yet; curves appear with the first steps.", "尚无日志；训练开始后曲线会出现。"),
    "chart": ("Curve of {name}", "{name} 的曲线"),
    "bits_per_byte": ("bits per byte", "每字节比特数"),
    "heldout_bpb": ("held out", "留出文本"),
    "memory_mb": ("memory (MB)", "内存（MB）"),
    "batch_tokens": ("tokens of a step", "每步词元"),
    "skipped": ("steps skipped", "跳过的步"),
    "rollbacks": ("returns to a checkpoint", "回滚次数"),
    "loss_scale": ("loss scale", "损失缩放"),
    "overflows": ("overflows", "溢出次数"),
    # samples
    "samples": ("What it wrote as it learnt", "边学边写"),
    "samples_now": ("What the models write", "各模型所写"),
    "at_step": ("step {step}", "第 {step} 步"),
    # data
    "documents_read": ("Documents read", "读入文档"),
    "licence": ("Licence", "许可"),
    "show_rejected": ("Look through the rejected documents", "逐篇查看被剔除的文档"),
    "show_more": ("More", "更多"),
    "all_shown": ("These are all.", "已全部显示。"),
    # tokenizers
    "tokenizers_lead": (
        "Type a text and see how each tokenizer cuts it. Point at a piece for its token ids.",
        "输入文字，看各分词器如何切分。指向片段可见其词元编号。",
    ),
    "no_tokenizers": ("No tokenizer here yet.", "这里还没有分词器。"),
    "text_to_cut": ("Text to cut", "待切分的文字"),
    "token_ids": ("Token ids", "词元编号"),
    "given_back": ("decodes to the same text", "可完整还原"),
    "not_given_back": ("does not decode to the same text", "不能完整还原"),
    "dropped_here": ("dropped: no token stands for it", "被丢弃：没有词元与之对应"),
    "vocabulary_of": ("The vocabulary", "词表"),
    "length_bytes": ("bytes", "字节片段"),
    "length_n": ("{count} characters", "{count} 字"),
    "length_0": ("white space", "空白"),
    "length_1": ("1 character", "1 字"),
    "longest_tokens": ("longest Chinese tokens:", "最长的中文词元："),
    "try_tokenizer": ("Try it on a text of yours", "用自己的文字试试"),
    # model card and files
    "model_card": ("Model card", "模型卡"),
    "metadata": ("Metadata", "元数据"),
    "files": ("Take along", "下载与导出"),
    "whole_model": ("The model as one zip file", "下载整个模型（zip）"),
    "single_files": ("Single files", "单个文件"),
    "open_report": ("Open the report", "打开报告"),
}


def all_words() -> dict[str, tuple[str, str]]:
    """Every word the page may need."""
    return {**TOKENIZERS, **AUDIT, **REPORT, **STUDIO}
