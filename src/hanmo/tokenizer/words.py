"""The words of the tokenizers' report in English and Chinese, by key; {name} marks a value."""

from __future__ import annotations

from markupsafe import Markup

from hanmo.pages import Words

WORDS: dict[str, tuple[str, str]] = {
    "title": ("Tokenizers, side by side", "分词器对比"),
    "lead": (
        "How far each one compresses, what it covers, what it loses, and which of its tokens are idle",
        "压缩率、覆盖率、还原损失与闲置词元",
    ),
    "measured_on": (
        "{characters} characters of {documents} documents, {sources} sources",
        "{sources} 个来源，{documents} 篇文档，{characters} 字",
    ),
    "theme": ("Light or dark", "切换明暗"),
    "made_by": ("Made by Hanmo {version}", "由翰墨 {version} 生成"),
    "best_compression": ("characters per token at best", "最高每词元字数"),
    "best_coverage": ("of characters whole at best", "最高整字覆盖率"),
    "lossless": ("give every document back", "可完整还原全部文档"),
    "of_tokenizers": ("of {count} tokenizers", "共 {count} 个分词器"),
    # overview
    "overview": ("At a glance", "概览"),
    "overview_lead": (
        "A large vocabulary compresses better and costs more rows of the model. Numbers are those of the table.",
        "词表越大压缩越好，但模型的嵌入也越大。编号与下表对应。",
    ),
    "vocabulary": ("vocabulary", "词表大小"),
    "tokenizer": ("Tokenizer", "分词器"),
    "form": ("Kind", "类型"),
    "characters_per_token": ("characters per token", "每词元字数"),
    "bytes_per_token": ("bytes per token", "每词元字节"),
    "coverage": ("whole", "整字"),
    "returned": ("documents given back", "完整还原"),
    "idle": ("never used here", "未出现"),
    # compression
    "by_kind": ("Characters per token, by kind of text", "各类文本的每词元字数"),
    "by_kind_lead": (
        "Lines are told apart by plain rules. The darker, the better in its column; struck through where more than "
        "2 % of the characters are unknown, since what is not said costs nothing.",
        "按简单规则逐行归类。每列颜色越深越好；未知字符超过 2% 的带删除线，因为没说出来的不占词元。",
    ),
    "by_source": ("Characters per token, by source", "各来源的每词元字数"),
    "characters_measured": ("characters", "字数"),
    "modern": ("modern prose", "现代文"),
    "classical": ("classical prose", "文言文"),
    "poetry": ("poetry", "诗词"),
    "law": ("law", "法律"),
    "technical": ("technical, code", "技术与代码"),
    "english": ("English", "英文"),
    "digits": ("digits", "数字"),
    "traditional": ("traditional", "繁体"),
    "other": ("other", "其他"),
    # coverage
    "covered": ("Coverage", "覆盖"),
    "covered_lead": (
        "Share of all characters that are whole in a token, split into bytes or pieces, unknown, or dropped.",
        "所有字符中：整字在一个词元内、拆成字节或片段、未知、被丢弃的比例。",
    ),
    "whole": ("whole", "整字"),
    "split": ("split", "拆分"),
    "unknown": ("unknown", "未知"),
    "dropped": ("dropped", "丢弃"),
    # vocabulary
    "parts": ("What the vocabularies are made of", "词表构成"),
    "parts_lead": ("Share of the tokens; point at a part to read it.", "各类词元的比例；指向色块可读数值。"),
    "han1": ("one Han character", "单字"),
    "han2": ("two", "二字"),
    "han3": ("three", "三字"),
    "han4": ("four", "四字"),
    "han5": ("five and more", "五字以上"),
    "latin": ("Latin", "拉丁字母"),
    "part_digits": ("digits", "数字"),
    "part_other": ("other letters", "其他文字"),
    "signs": ("signs, spaces", "符号与空白"),
    "bytes": ("bytes, pieces of characters", "字节与字的片段"),
    "special": ("special", "特殊词元"),
    "unused": ("empty ids", "空位"),
    # cuts
    "cuts": ("The same lines, cut", "切分示例"),
    "cuts_lead": (
        "Red marks pieces of characters and bytes; struck through is unknown.",
        "红色为字的片段或字节，删除线为未知。",
    ),
    "tokens_count": ("{count} tokens", "{count} 个词元"),
    # losses
    "losses": ("What does not come back", "还原损失"),
    "losses_lead": (
        "Every document is encoded and decoded. Lost is what the result has fewer of than the text.",
        "每篇文档编码后再解码；“丢失”指结果中比原文少的字符。",
    ),
    "all_back": ("Every document came back as it was:", "全部文档完整还原："),
    "differing": ("{count} of {of} documents differ", "{of} 篇中有 {count} 篇不同"),
    "characters_lost": ("{count} characters lost, {white} of them white space", "丢失 {count} 字，其中空白 {white}"),
    "unknown_count": ("{count} characters unknown", "未知字符 {count}"),
    "most_lost": ("Most often lost", "最常丢失"),
    "instead": ("What appears in their place", "取而代之"),
    # idle tokens
    "idle_section": ("Idle tokens", "闲置词元"),
    "idle_lead": (
        "Tokens that this text does not use tell of the text as much as of the vocabulary; those that no text can "
        "give are a fault of the vocabulary alone.",
        "本次文本中未用到的词元既与文本有关，也与词表有关；任何文本都得不到的词元则是词表自身的缺陷。",
    ),
    "never_used": ("{count} of {of} never used ({share})", "{of} 个中 {count} 个未出现（{share}）"),
    "rarely_used": ("{count} used fewer than {below} times", "{count} 个出现不足 {below} 次"),
    "unreachable": ("{count} that no text can give", "{count} 个任何文本都得不到"),
    # training
    "training": ("Hardly trained rows", "训练不足的词元"),
    "training_lead": (
        "Indicators of Land and Bartolo (2024): the lowest 2 % are candidates; a small value is suspicious.",
        "采用 Land 与 Bartolo（2024）的指标：最低的 2% 为候选，值越小越可疑。",
    ),
    "norm": ("norm of the embedding", "嵌入向量的模"),
    "cosine_distance": ("cosine distance to rows never trained", "与从未训练的行的余弦距离"),
    "candidates": (
        "{count} candidates below {threshold}, median {median}",
        "低于 {threshold} 的候选 {count} 个，中位数 {median}",
    ),
    "of_them_unused": ("{count} of them not in this text", "其中 {count} 个未在本次文本出现"),
}


#: The page's words, as its template takes them.
PAGE = Words(WORDS)


def tip(key: str, value: str) -> Markup:
    """Attributes that make the script show "name: value" under the pointer."""
    english, chinese = WORDS.get(key, (key, key))
    return Markup('data-en="{}" data-zh="{}"').format(f"{english}: {value}", f"{chinese}：{value}")
