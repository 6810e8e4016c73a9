"""What engines are compared on: lines that tokenizers have been known to disagree about, prompts, conversations.

Everything is made from a seed, so that a difference found once can be found again. The lines mix, at random, pieces of
the kinds below; a splitter or a byte table that is a little different shows up in the first hundred.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Make = Callable[[random.Random], str]

_HAN = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少的一是在了有和人这中大为上个国我以要他时来用们生到作地于出就"
_TRADITIONAL = "學而時習之不亦說乎有朋自遠方來龍鳳鬱體點麼為與書國際資訊處理臺灣憂鬱烏龜"
_ENGLISH = "The quick brown fox isn't we'RE I'll they'd DON'T it's OpenAI GPT-4o café naïve Straße ﬁne Ⅷ HTTP/2 x86_64"
_WRITING = (
    "한국어 문장 さくらはサクラ Ελληνικά Русский العربية עברית हिन्दी ไทย ᠮᠣᠩᠭᠣᠯ བོད་ཡིག ئۇيغۇر ខ្មែរ ქართული አማርኛ ߒߞߏ"
)
# Joined by zero-width joiners (\u200d) and turned into pictures by variation selectors (\ufe0f), which editors hide.
_EMOJI = (
    "👨\u200d👩\u200d👧\u200d👦 👩🏽\u200d🚀 🏳\ufe0f\u200d🌈 🧑\u200d💻 🇨🇳 ❤\ufe0f ✌🏿 ☺ 1\ufe0f\u20e3 #\ufe0f\u20e3 "
    "🐉 🀄 𝒳 𝟘 ⅷ ② ㈠ ㊗"
)
_SPACES = (
    " |  |   |\t|\xa0|\u3000|\u2003|\u2028|\u2029|\x85|\u200b|\ufeff|\u180e|\u202f|\r|\r\n|\n|\n\n|\n \n|\x0b|\x0c"
)
_PUNCTUATION = "，。！？；：“”‘’（）《》【】、…——·～!?,.;:'\"()[]{}<>@#$%^&*_+-=/\\|`~«»‽"
_SPECIALS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_end", "|im_end|>", "<|IM_END|>", "[PAD500]")
_CODE = (
    "for i in range(10):\n    print(f'{i:>3}')\n",
    "#include <stdio.h>\r\nint main(void) { return 0; }\r\n",
    "SELECT * FROM 表 WHERE 名='李';--",
    '{"键": [1, 2.5e-3, null], "k": "v\\n"}',
    "const f = (x) => x ** 2; // 平方",
    "<div class='盒子'>&nbsp;</div>",
    "$ rm -rf ./build && make -j8 2>&1 | tee log.txt",
)
_DIGITS = ("3.14159", "2024年3月5日", "１２３", "١٢٣", "一二三", "1,000,000", "½", "0x1F", "138-0013-8000", "٣")


def _between(first: int, last: int) -> Make:
    return lambda chance: "".join(chr(chance.randint(first, last)) for _ in range(chance.randint(1, 6)))


def _some(characters: str, most: int = 12) -> Make:
    return lambda chance: "".join(chance.choice(characters) for _ in range(chance.randint(1, most)))


def _one(items: Sequence[str]) -> Make:
    return lambda chance: chance.choice(items)


def _word(words: str, mark: str = " ") -> Make:
    return _one(words.split(mark))


def _decomposed(chance: random.Random) -> str:
    return "".join(
        chance.choice("aeoucnAE") + chance.choice("\u0300\u0301\u0304\u030c\u0308\u0327\u20dd")
        for _ in range(chance.randint(1, 4))
    )


def _any_character(chance: random.Random) -> str:
    while True:
        code = chance.randint(0, 0x10FFFF)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


#: name of a kind -> one piece of it.
KINDS: dict[str, Make] = {
    "han": _some(_HAN),
    "any han": _between(0x4E00, 0x9FFF),
    "extension b": _between(0x20000, 0x2A6DF),
    "newest han": _between(0x2EBF0, 0x323AF),
    "compatibility han": _between(0xF900, 0xFAD9),
    "traditional": _some(_TRADITIONAL),
    "english": _word(_ENGLISH),
    "other writing": _word(_WRITING),
    "digits": _one(_DIGITS),
    "number": lambda chance: str(chance.randint(0, 10 ** chance.randint(1, 18))),
    "emoji": _word(_EMOJI),
    "symbols": _between(0x1F300, 0x1FAFF),
    "space": _word(_SPACES, "|"),
    "punctuation": _some(_PUNCTUATION, 4),
    "control": _between(0x00, 0x1F),
    "delete and c1": _between(0x7F, 0x9F),
    "zero width": _some("\u200b\u200c\u200d\u2060\ufeff\u200e\u202e\ufe0f", 3),
    "decomposed": _decomposed,
    "private use": _between(0xE000, 0xF8FF),
    "special": _one(_SPECIALS),
    "code": _one(_CODE),
    "any character": _any_character,
    "pinyin": _word("nǐ hǎo lǜ ê̄ ń ḿ ǹg Zhōngguó ㄅㄆㄇ ˊˇˋ"),
}


def hard_lines(count: int = 1000, seed: int = 0) -> list[str]:
    """`count` lines (they may hold line ends) of mixed pieces; every kind occurs alone, some runs are very long."""
    chance = random.Random(seed)
    makers = list(KINDS.values())
    lines = [make(chance) for make in makers]
    for make in (KINDS["han"], KINDS["space"], KINDS["number"], KINDS["emoji"], KINDS["punctuation"]):
        lines.append(make(chance) * 500)
    lines += [
        "",
        " ",
        "\n",
        "a" * 3000,
        "哈" * 3000,
        "  " * 500 + "x",
        "\x00",
        "行末有空格   ",
        "\t缩进",
        "'S 's ’s 'ſ",
    ]
    while len(lines) < count:
        pieces = [chance.choice(makers)(chance) for _ in range(chance.randint(1, 12))]
        lines.append(chance.choice(("", "", " ")).join(pieces))
    return lines[:count]


#: Beginnings to continue.
OPENINGS = [
    "春天来了，",
    "从前有一个小村庄，村里住着",
    "今天的天气",
    "小明和小红一起去",
    "中国的首都是",
    "他打开门，看见",
    "一年有四个季节，",
    "3加5等于",
    "The cat ",
    "def add(a, b):\n",
]
#: Questions to answer.
QUESTIONS = [
    "你好！",
    "小猫吃什么？",
    "请写一个关于春天的句子。",
    "“大”的反义词是什么？",
    "7减2等于几？",
    "一只什么在树下睡觉？",
    "请把“我喜欢读书”翻译成英文。",
    "星期二的后一天是星期几？",
    "给我讲一个小故事，\n要有小猫和小鱼。",
    "What is the capital of China?",
]


def conversations() -> list[list[dict[str, str]]]:
    """Ordinary conversations: each question alone, with a system message, and in the middle of a longer talk."""
    result = []
    for index, question in enumerate(QUESTIONS):
        user = {"role": "user", "content": question}
        system = {"role": "system", "content": "你是一个乐于助人的助手。"}
        answer = {"role": "assistant", "content": "好的，没问题。\n\n1. 第一；\n2. 第二。"}
        again = {"role": "user", "content": QUESTIONS[index - 1] + "  "}
        result += [[user], [system, user], [user, answer], [system, user, answer, again]]
    return result
