"""Lines that are no text of the document but of the page around it: menus, credits, notices, counters, contacts, spam.

A line goes when the whole of it has the form of such a line: a sentence that speaks of a cookie, a copyright or an
editor stays. Each rule has words without which it cannot match (`KEYS`); one search over all of them finds the few
lines that are looked at, so that a corpus without such lines pays for one search.

Lines in code blocks stay, and so do rows of tables. The rules are written for simplified characters; traditional text
meets them after conversion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hanmo.corpus.cleaning.code import Code


class LineRule(NamedTuple):
    """A rule: words one of which it needs, how far from the line's begin they may stand, the longest line that it looks
    at, and the test of the trimmed line.
    """

    keys: tuple[str, ...]
    head: int
    longest: int
    test: Callable[[str], object]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _rule(keys: str, head: int, longest: int, *patterns: str) -> LineRule:
    return LineRule(_words(keys), head, longest, re.compile("|".join(patterns)).fullmatch)


#: What may stand around a line's text: indentation, quote, list and heading marks, emphasis.
_AROUND = " \t>*_#-•·●■▲▼◆★☆※→|"
_BEHIND = " \t*_#-|"
_URL = r"(?:https?://|www\.)\S+"
_LINKED = r"\[[^\]\n]*\](?:\([^)\n]*\)|\[[^\]\n]*\])"
#: A link or a few words without punctuation.
_NAME = rf"(?:{_LINKED}|[^\s，。！？；,;!?]{{1,24}})"
_O, _C = r"[（(【\[]?\s*", r"\s*[）)】\]]?"
_DATE = r"\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?(?:\s*\d{1,2}:\d{2}(?::\d{2})?)?"

_ROLES = (
    "责任编辑|责编|(?:本文|本期|本版|文字|图文|视频|网络|网页|新媒体|值班|见习|实习|执行|美术|微信|排版)编辑"
    "|(?:值班)?主编|编辑|初审|复审|终审|审核|审校|校对|排版|监制"
)
_SITES = "微信(?:好友|朋友圈)?|朋友圈|QQ(?:好友|空间)?|(?:新浪|腾讯)?微博|豆瓣|人人网?|贴吧|空间|Facebook|Twitter|知乎"
_DONE = "分享|转发|收藏|点赞|在看|打印|举报|评论|复制链接"
_COUNTED = "(?:阅读|浏览|点击|评论)[量数]?|浏览次数|访问量|人气|跟帖|参与|点赞|赞|收藏|转发|分享|下载|播放"
_COUNT = (
    rf"[\[（(]?(?:{_COUNTED})(?:次数|人数)?[\])）]?\s*[:：]?"
    r"\s*[（(\[]?\s*\d[\d,.]*\s*[万kKwW+]*\s*次?[)）\]]?[\s|/，,·]*"
)
_MADE = "(?:编译|翻译|整理|首发|发布|授权|推出)"

#: An invitation to get in touch, with the number. A plain telephone number is no such line: it may be the answer.
_CONTACT = re.compile(
    r"(?:[加十＋+](?:我)?(?:老师|客服|助理)?的?(?:薇信?|微信?|V信?|v信?|QQ|qq|扣扣)(?![A-Za-z+/])"
    r"|(?<![A-Za-z0-9+/])(?:微信|QQ|qq|扣扣|企鹅)(?![A-Za-z+/])(?:交流)?(?:群|号码?|客服|咨询)?"
    r"|(?:咨询|客服|订购|订票|招商|加盟|报名|预约|免费|全国|统一|24小时)+(?:电话|热线|专线|QQ|微信))"
    r"\s*(?:号码?|群)?\s*[是为]?\s*[:：]?\s*[（(]?[+\dA-Za-z_][\w\-—()（）]{4,}",
)
_SENTENCES = re.compile("[。！？!?；]")
_SPAM = re.compile(
    "代开[^，。]{0,8}发票|(?:代办|办理|出售)[^，。]{0,6}(?:假证|文凭|学历证|身份证|驾驶证)|六合彩|时时彩|北京赛车|幸运飞艇"
    "|澳门(?:葡京|威尼斯人|金沙|银河|新葡京|皇冠)|葡京(?:赌场|娱乐)|博彩(?:公司|网站?|平台|娱乐)|真人(?:荷官|赌博|娱乐|视讯)"
    "|百家乐|老虎机|(?:网上|在线|真钱)(?:赌博|赌场|棋牌)|(?:线上)?娱乐城|皇冠(?:体育|网址)|足球(?:外围|盘口)"
    "|成人(?:电影|视频|小说|直播|网站?)|色情(?:电影|视频|网站?|小说)|裸聊|一夜情|约炮|上门(?:服务|按摩)[^，。]{0,6}小姐"
    "|无码(?:视频|电影|高清)|激情(?:视频|电影|图片)|黄色(?:网站|视频|电影)|兼职(?:刷单|打字)|刷单(?:兼职|返利)"
    r"|日赚\d+|稳赚不赔|无抵押贷款|信用卡套现|私家侦探|窃听器|迷药|枪支弹药"
)
_NUMBER = re.compile(rf"{_URL}|\.(?:com|net|cn|cc|vip|xyz)\b|\d{{6,}}|[加十+](?:微|薇|V|v|Q|q|扣)")
_BAIT = re.compile("注册|下载|点击|送彩金|开户|网址|平台|信誉|在线|联系")


def _contact(line: str) -> bool:
    """Contacts are most of the line, and it is no running text."""
    found = sum(hit.end() - hit.start() for hit in _CONTACT.finditer(line))
    return found > 0 and found * 2 >= len(line) and not _SENTENCES.search(line[:-1])


def _spam(line: str) -> bool:
    words = {hit.group() for hit in _SPAM.finditer(line)}
    if not words:
        return False
    return len(words) > 2 or _NUMBER.search(line) is not None or (len(words) > 1 and _BAIT.search(line) is not None)


RULES: dict[str, LineRule] = {
    "navigation": _rule(
        "首页,主页,位置,一篇,一页,一章,一主题,返回",
        24,
        120,
        r"[（(【\[]?(?:[您你](?:现在|当前|目前)?(?:所在)?的?|(?:现在|当前|目前)所?在?的?|所在)位置\s*(?:[:：]|是[:：]|[>»])\s*[^。！？，]{0,80}",
        r"\[?(?:网站|返回|本站|中文)?[首主]页\]?(?:\([^)]*\))?\s*(?:[>»›→＞/]|->)+[^。！？，]{1,100}",
        rf"{_O}(?:[上下]一|[前后]一)(?:篇|页|主题)(?:文章|新闻|日志|博文)?{_C}\s*[:：]\s*(?:{_NAME}|[^。！？]{{1,60}})",
        rf"(?:{_O}[上下]一[篇页章](?:文章)?{_C}[\s|/>»<«←→]*){{2}}",
        r"[<«←]+\s*上一[篇页章]|下一[篇页章]\s*[>»→]+|[（(【\[](?:[上下]一[篇页章])[）)】\]]",
        rf"{_O}[上下]一[页章篇][\s|/]+(?:返回)?(?:目录|列表|书页)[\s|/]+[上下]一[页章篇]{_C}",
        rf"{_O}[<«←↑]*\s*(?:点击)?返回(?:网站|本站)?(?:[首主]页|顶部|列表页?|上一[页级]|目录|页首)\s*[>»↑]*{_C}",
    ),
    "credits": _rule(
        "编辑,责编,初审,终审,审核,审校,校对,监制,章来源,闻来源,息来源,件来源,料来源,容来源,文来源,稿源,转自,编译"
        ",荣誉推出,授权发布,首发,文链接,文地址,章链接,a: http",
        100,
        200,
        rf"{_O}(?:(?:{_ROLES})\s*[:：]\s*{_NAME}{_C}[\s，,;；|/]*)+",
        rf"{_O}(?:文章|新闻|信息|稿件|资料|内容|本文|原文)(?:来源|出处|转自)\s*[:：]\s*(?:{_NAME}\s*){{1,3}}{_C}",
        rf"{_O}(?:稿源|转自)\s*[:：]\s*(?:{_NAME}\s*){{1,2}}{_C}",
        rf"(?:原文链接|原文地址|本文链接|文章链接|via)\s*[:：]\s*(?:<?{_URL}>?|{_LINKED})",
        rf"本文由\s*.{{1,90}}{_MADE}.{{0,60}}",
    ),
    "copyright": _rule(
        "版权,转载,侵权,免责声明,郑重声明,特别声明,yright,YRIGHT,观点",
        60,
        220,
        r"(?:[Cc]opyright|COPYRIGHT|©|\([Cc]\)|版权所有)[^。]{0,120}"
        r"(?:All [Rr]ights [Rr]eserved|ALL RIGHTS RESERVED|版权所有|保留(?:一切|所有)权利|公司)[^。]{0,60}[。.]?",
        r"版权所有\s*[:：©][^。]{1,60}|[^。，]{2,30}版权所有[^。，]{0,20}",
        rf"{_O}(?:版权声明|免责声明|版权说明|特别声明|转载声明|郑重声明)\s*[:：].{{0,80}}"
        r"(?:转载|网络|互联网|侵权|本站|本网|不代表|不构成|投资建议|仅供参考|版权归|所有权利).{0,120}",
        rf"{_O}(?:如需|如要|欢迎|若需|商业)?转载(?:本文|文章|时|或引用)?[，,]?(?:请|须|需|务必)(?:注明|标明|保留|联系|附上)[^。]{{0,120}}[。！]?{_C}",
        rf"{_O}(?:本文)?转载自[^。]{{1,80}}[。！]?{_C}",
        rf"{_O}未经[^，。]{{0,16}}(?:授权|许可|允许|同意)[，,]?[^。]{{0,12}}(?:不得|禁止|严禁|请勿|谢绝)[^。]{{0,10}}(?:转载|镜像)[^。]{{0,40}}[。！]?{_C}",
        rf"{_O}[^。]{{0,40}}(?:如有侵权|若有侵权|如涉及侵权|如侵犯[^，。]{{0,10}}权)[^。]{{0,20}}(?:联系|告知|删除)[^。]{{0,40}}[。！]?{_C}",
        r"(?:以上|本文|文中)?(?:内容|文章|观点)?[仅只]代表作者(?:个人|本人)?的?观点[^。]{0,40}[。！]?",
    ),
    "sharing": _rule(
        "分享,转发,收藏,点赞,朋友圈",
        40,
        60,
        rf"{_O}(?:一键)?(?:分享|转发)(?:文章|本文)?[到至给]?\s*[:：]?\s*(?:(?:{_SITES})[\s、,，|/]*)+{_C}",
        rf"(?:(?:{_DONE}|{_SITES})[\s、|/]+){{2,}}(?:{_DONE}|{_SITES})?",
        r"(?:如果)?[你您]?(?:喜欢|觉得(?:不错|有用|有帮助))(?:的话|本文|这篇文章)?[，,]?(?:就|请|记得|欢迎|不妨|可以)"
        r"(?:分享|转发|点赞|点个?(?:赞|在看))[^。]{0,16}[。！!]*",
    ),
    "more": _rule(
        "更多,阅读,点击,展开",
        20,
        40,
        rf"{_O}请?(?:点击|点此|继续)\s*(?:这里|此处|下方)?\s*(?:阅读|查看|展开|浏览|了解)\s*(?:全文|更多|原文|详情|全部)(?:内容|资讯|精彩)?\s*[>»…\.]*{_C}",
        rf"{_O}(?:阅读|查看|展开|显示|浏览)\s*(?:全文|更多|原文|全部|剩余全文)(?:内容|评论|回答|精彩)?\s*[>»…\.]*{_C}",
        rf"{_O}更多(?:精彩)?(?:内容|资讯|新闻|文章|详情)?\s*[>»]+{_C}|展开剩余\s*\d+%",
    ),
    "follow": _rule(
        "二维码,公众号,订阅号,扫码,扫一扫,方微博,方微信",
        40,
        90,
        rf"{_O}(?:请|欢迎|立即|赶快|快来|您?可)?(?:用?微信)?\s*(?:长按|扫描|扫一扫|扫码|识别|扫)(?:或识别|识别|扫描)?"
        rf"[^。，]{{0,16}}(?:二维码|小程序码|关注|下载|加群|加入)[^。]{{0,30}}[。！!]*{_C}",
        rf"{_O}(?:[^，。]{{0,12}}[，,])?(?:请|欢迎|敬请|更多[^，。]{{0,12}}[，,]?请?)?\s*(?:搜索|添加|搜)?并?关注\s*(?:我们|本站|我)?的?"
        rf"[^，。]{{0,24}}(?:公众号|订阅号|官方微博|官方微信|官微|服务号)[^。]{{0,30}}[。！!]*{_C}",
        rf"{_O}(?:微信|官方)?(?:公众号|订阅号|官方微信|官方微博)(?:名称|ID|搜索)?\s*[:：]\s*[^\s，。]{{1,30}}{_C}",
    ),
    "counters": _rule(
        "阅读,浏览,点击,访问量,评论,跟帖,点赞,收藏,转发",
        60,
        90,
        rf"(?:{_COUNT})+",
        rf"(?:发表|发布|更新)(?:时间|于|日期)?\s*[:：]?\s*{_DATE}[\s|/]*(?:{_COUNT})+",
        r"(?:共有?\s*)?\d[\d,]*\s*[条个人次]\s*(?:评论|跟帖|回复|参与|浏览|阅读|点赞|收藏|转发)[\s|/]*",
        r"[\[（(]?(?:我要|发表|查看|网友|最新|全部|暂无|热门|添加)评论[\])）]?(?:\s*[（(]\d+[)）]?)?",
    ),
    "icp": _rule(
        "ICP备,ICP证,公网安备,CP备案,经营许可证,节目许可证",
        150,
        200,
        r"[^。！？]{0,120}(?:[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤川青藏琼宁]\s*ICP\s*[备证]\s*\d+"
        r"|ICP(?:备案)?(?:编号|号)?\s*[:：]|公网安备\s*\d+|(?:增值电信业务|网络文化)经营许可证\s*[:：]|视听节目许可证\s*[:：])[^。！？]{0,120}",
    ),
    "cookies": _rule(
        "kie",
        40,
        200,
        r"(?:我们|本网站|本站|此网站|该网站)[会将]?(?:使用|采用|利用)\s*[Cc]ookies?\s*(?:[和及]类?似?[^。，]{0,12})?"
        r"[，,]?\s*(?:来|以|帮助|确保|为您|提供|改善|提升|分析)[^。]{0,80}。"
        r"(?:(?:继续|点击|如果您继续)[^。]{0,60}(?:同意|接受)[^。]{0,40}。?)?(?:了解更多|接受|同意)?",
        r"(?:继续|如果您?继续)(?:浏览|使用|访问)(?:本|我们的)(?:网站|站)[^。]{0,20}[即表][^。]{0,12}(?:同意|接受)[^。]{0,60}。?",
        r"(?:接受|拒绝|管理|允许)(?:所有|全部)\s*[Cc]ookies?(?:\s*设置)?",
    ),
    "captions": _rule(
        "图片来,图片源,图源,题图,资料图,配图来,供图,插图来,图自,图据,图片由,图片作者,面图来",
        30,
        80,
        rf"{_O}(?:图片|题图|图|插图|配图|封面图?|首图|文中配图|视频|照片)(?:来源[于自]?|来自|源自|源于|源|自|据|作者|版权)\s*[:：/]\s*(?:{_NAME}\s*){{1,3}}。?{_C}",
        rf"{_O}题图\s*[:：]\s*(?:{_NAME}\s*){{1,4}}{_C}|{_O}(?:图为)?资料(?:图片?|照片)。?{_C}",
        rf"{_O}[^\s，。：:]{{2,12}}\s*供图{_C}",
    ),
    "contacts": LineRule(
        ("微信", "加薇", "薇信", "加V", "加v", "QQ", "qq", "扣扣", "电话", "热线", "联系", "专线"), 100, 120, _contact
    ),
    "spam": LineRule(
        _words(
            "代开,假证,文凭,历证,份证,驶证,六合彩,时时彩,京赛车,运飞艇,澳门,葡京,博彩,人荷官,真人赌,真人娱,真人视,百家乐,老虎机,赌场,赌博"
            ",棋牌,娱乐城,皇冠,球外围,球盘口,成人电,成人视,成人直,成人网,色情,裸聊,一夜情,约炮,门按摩,无码,激情视,激情电"
            ",激情图,黄色网,黄色视,黄色电,刷单,职打字,日赚,稳赚,押贷款,卡套现,侦探,窃听,迷药,枪支弹"
        ),
        160,
        160,
        _spam,
    ),
}

#: What menus hold. A menu is a run of short lines, or one line in parts, several of which are of these.
_MENU = frozenset(
    _words(
        "首页,网站首页,新闻,新闻中心,公司简介,关于我们,联系我们,加入我们,网站地图,友情链接,帮助中心,帮助,加入收藏,设为首页,广告服务,诚聘英才"
        ",人才招聘,招聘信息,法律声明,隐私政策,隐私声明,服务条款,用户协议,意见反馈,会员中心,会员登录,购物车,我的订单,登录,注册,登陆,退出,搜索"
        ",产品中心,产品展示,服务项目,在线留言,留言板,论坛,社区,博客,视频,图片,体育,娱乐,财经,科技,汽车,房产,教育,旅游,健康,军事,国际,国内"
        ",社会,时尚,女性,游戏,音乐,手机版,客户端,下载,更多,返回顶部,站内搜索,成功案例,资质荣誉,版权声明,免责声明,举报,导航,订阅,RSS,English"
        ",繁体,简体,无障碍"
    )
)
#: Of these, the ones that hardly stand alone on a line of anything but a menu.
_MENU_KEYS = _words(
    "首页,联系我们,网站地图,友情链接,加入收藏,设为首页,广告服务,诚聘英才,购物车,在线留言,意见反馈,服务条款"
)
_MENU_SPLIT = re.compile(r"\s*[|｜│·/]\s*|\s+")
_LINK = re.compile(r"\[([^\]\n]*)\]\([^)\n]*\)")
_PUNCTUATION = re.compile("[，。！？；：、,.;:!?…]")
_MENU_ITEM = 8
_MENU_LINE = _LONGEST = 400

KEYS: dict[str, tuple[str, ...]] = {name: rule.keys for name, rule in RULES.items()} | {"menus": _MENU_KEYS}


def drop(
    text: str, hits: Iterable[tuple[int, tuple[str, ...]]], code: Code, counts: Counter[str]
) -> tuple[str, dict[str, int]]:
    """The text without the lines that a rule takes.

    Args:
        hits: places of words that hint at rules, and at which.
        counts: gets the number of lines by rule.

    Returns:
        the text, and for each rule that took a line the place of the first one in `text`.
    """
    gone: dict[int, int] = {}
    first: dict[str, int] = {}
    for place, rules in hits:
        head = max(0 if name == "menus" else RULES[name].head for name in rules) or _MENU_LINE
        start = text.rfind("\n", max(place - head - 1, 0), place) + 1
        if (start == 0 and place > head) or start in gone:
            continue
        end = text.find("\n", place, start + _LONGEST + 1)
        if end < 0:
            end = len(text)
            if end - start > _LONGEST:
                continue
        for name in rules:
            if name == "menus":
                taken = _menu(text, start, end)
            elif end - start <= RULES[name].longest and _takes(text[start:end], RULES[name]):
                taken = [(start, end)]
            else:
                continue
            taken = [span for span in taken if span[0] not in gone and not code.holds(span[0])]
            if taken:
                gone.update(taken)
                counts[name] += len(taken)
                first.setdefault(name, taken[0][0])
                break
    if not gone:
        return text, first
    pieces, at = [], 0
    for start, end in sorted(gone.items()):
        pieces.append(text[at:start])
        at = min(end + 1, len(text))
    rest = text[at:]
    # With the last line goes the line feed before it.
    return "".join([*pieces, rest]) if rest or at < len(text) else "".join(pieces).removesuffix("\n"), first


def _takes(line: str, rule: LineRule) -> bool:
    return not line.lstrip().startswith("|") and rule.test(line.lstrip(_AROUND).rstrip(_BEHIND)) not in (None, False)


def _item(line: str) -> str:
    return _LINK.sub(r"\1", line).strip(_AROUND + "[]【】<>《》")


def _menu(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The lines of the menu that the line is part of."""
    line = text[start:end]
    parts = [part for part in _MENU_SPLIT.split(_item(line)) if part]
    known = sum(part in _MENU for part in parts)
    if len(parts) > 1:
        short = all(len(part) <= _MENU_ITEM for part in parts)
        return [(start, end)] if len(parts) >= 4 and short and known >= 3 and known * 3 >= len(parts) else []
    if not known:
        return []
    run = [(start, end, True)]
    for step in (-1, 1):
        here, there, side = start, end, []
        while here > 0 if step < 0 else there < len(text):
            if step < 0:
                there = here - 1
                here = text.rfind("\n", 0, there) + 1
            else:
                here = there + 1
                there = text.find("\n", here)
                there = len(text) if there < 0 else there
            if there - here > 200:
                break
            item = _item(text[here:there])
            if len(item) > _MENU_ITEM or _PUNCTUATION.search(item):
                break
            if item:
                side.append((here, there, item in _MENU))
        run = side[::-1] + run if step < 0 else run + side
    places = [index for index, item in enumerate(run) if item[2]]
    inner = run[places[0] : places[-1] + 1]
    if len(places) < 4 or len(places) * 2 < len(inner):
        return []
    return [(here, there) for here, there, _ in inner]
