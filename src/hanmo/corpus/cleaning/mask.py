"""Personal data by what it is: telephone numbers, identity and bank cards, e-mail, IP and postal addresses.

Numbers are taken only where their own rules hold (check digits, prefixes that exist, dates that exist), so that other
numbers of the same length stay. What is found becomes a mark that says what was there.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

from hanmo.corpus.settings import MaskKind


class _Mask(NamedTuple):
    mark: str
    hint: re.Pattern[str]
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


_PROVINCES = frozenset(
    (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83)
)


def valid_id_card(number: str) -> bool:
    """Whether 18 digits (the last may be X) are a citizen's number by GB 11643-1999: province, birthday, check."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], weights, strict=True))
    if "10X98765432"[total % 11] != number[17].upper() or int(number[:2]) not in _PROVINCES:
        return False
    try:
        born = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return 1880 <= born.year <= 2100


def valid_bank_card(number: str) -> bool:
    """Whether digits pass the Luhn check (ISO/IEC 7812-1) and begin as a card's (UnionPay, Visa, Mastercard, JCB)."""
    digits = [int(char) for char in number if char.isdigit()]
    if not 16 <= len(digits) <= 19 or len(set(digits)) < 4:
        return False
    doubled = [digit if index % 2 == 0 else digit * 2 - 9 * (digit > 4) for index, digit in enumerate(reversed(digits))]
    head = "".join(map(str, digits[:4]))
    foreign = head.startswith(("4", "51", "52", "53", "54", "55")) or "3528" <= head <= "3589"
    return sum(doubled) % 10 == 0 and (head.startswith("62") or (foreign and len(digits) == 16))


def _public_ip(text: str) -> bool:
    """An address of the public internet; private ones are nobody's, and small numbers are a version or a section."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and (":" in text or max(map(int, text.split("."))) >= 20)


def _person_email(text: str) -> bool:
    """Not a login of a version control system, nor a picture for two pixels per point (icon@2x.png)."""
    return not text.startswith("git@") and not text.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"))


def _always(_: str) -> bool:
    return True


_MOBILE = r"1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])"
#: In the order in which they are applied: longer numbers first.
_MASKS: dict[str, _Mask] = {
    "email": _Mask(
        "邮箱",
        re.compile("@"),
        re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,18}(?![\w@])", re.ASCII),
        _person_email,
    ),
    "id_card": _Mask(
        "身份证号",
        re.compile(r"\d{17}"),
        re.compile(r"(?<![0-9A-Za-z])[1-8]\d{5}(?:18|19|20)\d{2}[01]\d[0-3]\d{4}[0-9Xx](?![0-9A-Za-z])", re.ASCII),
        valid_id_card,
    ),
    "bank_card": _Mask(
        "银行卡号",
        re.compile(r"\d{4}[ -]?\d{4}[ -]?\d{4}"),
        re.compile(r"(?<![0-9A-Za-z./=])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?)(?![0-9A-Za-z])", re.ASCII),
        valid_bank_card,
    ),
    "phone": _Mask(
        "电话",
        re.compile(r"\d{7}|\d{3}[ -]\d{4}"),
        re.compile(
            r"(?<![0-9A-Za-z_./#=-])(?:"
            rf"(?:(?:\+|00)86[ -]?)?{_MOBILE}(?:\d{{8}}|([ -])\d{{4}}\1\d{{4}})"
            r"|(?:(?:\+|00)86[ -]?)?(?:\(0\d{2,3}\)|（0\d{2,3}）|0(?:10|2\d|[3-9]\d{2})[ -])[ -]?[2-9]\d{6,7}"
            r"(?:-\d{1,5})?"
            r"|[48]00[ -]\d{3}[ -]?\d{4}|[48]00[ -]\d{4}[ -]\d{3}"
            r")(?![0-9A-Za-z_])",
            re.ASCII,
        ),
        _always,
    ),
    "ip": _Mask(
        "IP地址",
        re.compile(r"\d\.\d|[0-9A-Fa-f]:[0-9A-Fa-f:]"),
        re.compile(
            r"(?<![\w.])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)|(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6})(?![\w:])",
            re.ASCII,
        ),
        _public_ip,
    ),
    "address": _Mask(
        "地址",
        re.compile(r"\d号"),
        # It begins with what makes it one and is found at once; what stands before is put to it by `_whole_address`.
        re.compile(
            r"(?:大道|[路街巷弄道里村])(?:[\u4e00-\u9fff\d]{1,6}[段弄巷])?\d{1,5}(?:-\d{1,4})?号(?![线文令])"
            r"(?:[院楼])?(?:[\u4e00-\u9fff\d]{1,10}?(?:大厦|广场|小区|花园|公寓|中心))?(?:\d{1,4}[号栋幢座楼])?"
            r"(?:\d{1,3}单元)?(?:\d{1,5}[室层户])?"
        ),
        _always,
    ),
}
#: Province, city, district, town and the street's name, as they stand before 路 12 号; one of the regions at least.
_REGIONS = re.compile(
    r"(?:[\u4e00-\u9fff]{2,8}?(?:省|自治区))?(?:[\u4e00-\u9fff]{2,7}?(?:市|自治州|盟))?(?:[\u4e00-\u9fff]{1,7}?[区县旗市])?"
    r"(?:[\u4e00-\u9fff]{1,7}?(?:街道|镇|乡))?(?<=[省市区县旗道镇乡州盟])[\u4e00-\u9fff]{1,8}"
)
_HAN_BEFORE = re.compile(r"[\u4e00-\u9fff]*\Z")
_LEADING = re.compile("(?:.*(?:位于|住在|地址|地处|坐落于|家住|现住|寄到|送到|来到|设在|在|于|至|到|为|是|住))")
_TAGS = {
    "email": "EMAIL",
    "id_card": "ID_CARD",
    "bank_card": "BANK_CARD",
    "phone": "PHONE",
    "ip": "IP",
    "address": "ADDRESS",
}


def mask(text: str, kinds: list[MaskKind], style: Literal["mark", "tag", "stars"], counts: Counter[str]) -> str:
    """Replace what is of `kinds`; `counts` gets how many of each, as mask_phone and so on.

    Args:
        style: <电话>, [PHONE], or a star for each letter and digit.
    """
    for kind, rule in _MASKS.items():
        if kind not in kinds or rule.hint.search(text) is None:
            continue

        def replace(found: re.Match[str], kind: str = kind, rule: _Mask = rule) -> str:
            if not rule.holds(found.group()):
                return found.group()
            counts[f"mask_{kind}"] += 1
            if style == "mark":
                return f"<{rule.mark}>"
            return f"[{_TAGS[kind]}]" if style == "tag" else re.sub(r"\w", "*", found.group())

        text = _addresses(text, rule.pattern, replace) if kind == "address" else rule.pattern.sub(replace, text)
    return text


def _addresses(text: str, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str]) -> str:
    pieces, at = [], 0
    for found in pattern.finditer(text):
        before = text[max(at, found.start() - 36) : found.start()]
        han = _HAN_BEFORE.search(before)
        assert han is not None
        begin = han.start()
        if leading := _LEADING.match(before, begin):
            begin = leading.end()
        if _REGIONS.fullmatch(before, begin) is None:
            continue
        start = found.start() - len(before) + begin
        marked = replace(found)
        pieces += [text[at:start], marked if marked[0] in "<[" else "*" * (found.end() - start)]
        at = found.end()
    return "".join([*pieces, text[at:]])
