"""Lines of the page around a text go; sentences that speak of the same things stay."""

from __future__ import annotations

from collections import Counter

import pytest

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.settings import CleanSettings, LineSettings

CLEAN = Cleaner(CleanSettings())
BEFORE, BEHIND = "春天到了，花园里的花都开了。", "他们在公园里玩了一个下午。"

GONE = {
    "navigation": [
        "首页 > 新闻 > 国内 > 正文",
        "您现在的位置：首页 > 新闻中心",
        "当前位置: 网站首页 >> 产品展示",
        "上一篇：北京今天有雨",
        "下一篇：没有了",
        "上一页 下一页",
        "上一章 | 返回目录 | 下一章",
        "[返回顶部]",
        "返回列表",
    ],
    "credits": [
        "责任编辑：王小明",
        "（责任编辑：李四）",
        "【责任编辑:张三】 ",
        "编辑：王五 校对：赵六 审核：钱七",
        "文章来源：新华网",
        "原文链接：https://example.com/a/1.html",
        "via: https://example.com/story",
        "本文由 [译者组](https://example.com) 原创编译，荣誉推出",
    ],
    "copyright": [
        "版权声明：本文为原创文章，转载请注明出处。",
        "转载请注明出处和本文链接",
        "未经授权，不得转载",
        "Copyright © 2019 某某网 All Rights Reserved.",
        "免责声明：本文来源于网络，如有侵权请联系删除。",
        "本文仅代表作者个人观点",
    ],
    "sharing": ["分享到：微信 新浪微博 QQ空间", "分享到朋友圈", "收藏 | 打印 | 举报"],
    "more": ["点击阅读全文", "阅读全文 >>", "更多精彩内容>>", "展开全文"],
    "follow": ["扫描二维码关注我们", "长按识别二维码关注", "欢迎关注我们的微信公众号：读书", "微信公众号：dushu123"],
    "counters": ["阅读(1234) 评论(0)", "浏览次数：23", "发布时间：2019-03-04 12:30 浏览：45", "128条评论", "发表评论"],
    "icp": ["京ICP备12345678号-1 京公网安备 11010502030123号", "增值电信业务经营许可证：京B2-20190001"],
    "cookies": ["我们使用 cookie 来改善您的体验。继续浏览本网站即表示您同意我们使用 cookie。", "接受所有 cookie"],
    "captions": ["图片来源：视觉中国", "（图源：网络）", "题图：Pexels", "某某 供图"],
    "contacts": ["加微信：abc12345", "QQ群：123456789", "咨询热线：400-123-4567", "客服QQ：12345678"],
    "spam": ["专业代开增值税发票，电话13812345678", "澳门葡京 百家乐 真人荷官 www.example.com"],
    "menus": ["首页 | 新闻 | 体育 | 关于我们 | 联系我们"],
}

STAYS = [
    "编辑部的位置在二楼，首页由他负责。",
    "他在首页上写道：“今天的新闻很重要。”",
    "上一篇文章讲了如何安装，下一篇文章讲如何使用。",
    "请返回首页，然后单击“设置”。",
    "第三条 未经许可，任何单位不得从事增值电信业务。",
    "国家保护著作权人的版权，转载作品应当支付报酬，并注明作者。",
    "本网站使用 cookie 的原因有三个，下面逐一说明。",
    "他把照片分享到了微信朋友圈，大家都说好看。",
    "这本书的责任编辑是王小明，校对是李四。",
    "如果您需要更多信息，请点击此处阅读全文，然后回来继续。",
    "公众号的阅读量下降了一半，评论也只有三条。",
    "禁止赌博、色情等违法活动，违者依法处理。",
    "代开发票是违法行为，税务机关应当依法查处。",
    "联系电话：010-12345678",
    "位置：控制面板",
    "北京欢乐谷的电话是010-67389898，地址在北京市朝阳区。",
    "喜欢的人给我点赞。",
    "返回值",
    "下一章",
    "| 首页 | 责任编辑：张三 |",
    "作者：鲁迅",
    "来源：《本草纲目》",
    "电话响了，他拿起手机，屏幕上显示着一个陌生的号码。",
]


@pytest.mark.parametrize(("rule", "line"), [(rule, line) for rule, lines in GONE.items() for line in lines])
def test_goes(rule: str, line: str) -> None:
    changed: Counter[str] = Counter()
    text, _, _ = CLEAN(f"{BEFORE}\n{line}\n{BEHIND}", changed)
    assert text == f"{BEFORE}\n{BEHIND}"
    assert changed[f"line_{rule}"] == 1


@pytest.mark.parametrize("line", STAYS)
def test_stays(line: str) -> None:
    text = f"{BEFORE}\n{line}\n{BEHIND}"
    assert CLEAN(text, changed := Counter())[0] == text
    assert not changed


def test_a_menu_over_several_lines_goes_and_a_poem_stays() -> None:
    changed: Counter[str] = Counter()
    menu = "\n".join(
        ["* [首页](/)", "* [新闻](/n)", "* [特产](/t)", "* [关于我们](/a)", "* [联系我们](/c)", "* [登录](/l)"]
    )
    assert CLEAN(f"{menu}\n{BEFORE}", changed)[0] == BEFORE
    assert changed == {"line_menus": 6}
    poem = "轻轻的我走了\n正如我轻轻的来\n我轻轻的招手\n作别西天的云彩\n首页\n那河畔的金柳"
    assert CLEAN(poem, Counter())[0] == poem


def test_code_keeps_its_lines() -> None:
    text = f"{BEFORE}\n```html\n上一篇：北京今天有雨\n责任编辑：王小明\n```\n{BEHIND}"
    assert CLEAN(text, Counter())[0] == text
    front = "---\n编辑：王五\n---\n正文在这里，写得很好。"
    assert CLEAN(front, Counter())[0] == front


def test_each_rule_has_a_switch() -> None:
    for rule, (line, *_) in GONE.items():
        kept = Cleaner(CleanSettings(lines=LineSettings(**{rule: False, "menus": False})))
        assert line.strip() in kept(f"{BEFORE}\n{line}\n{BEHIND}", Counter())[0], rule


def test_long_documents_find_the_same_lines_as_short_ones() -> None:
    filler = "\n".join([BEFORE, BEHIND] * 200)
    for rule, lines in GONE.items():
        for line in lines:
            changed: Counter[str] = Counter()
            assert CLEAN(f"{filler}\n{line}\n{BEHIND}", changed)[0] == f"{filler}\n{BEHIND}", line
            assert changed[f"line_{rule}"] == 1
