"""One search for all the words that hint at a rule, at the price of a look at few characters.

A regular expression of a hundred words costs as much as all other cleaning. But the characters of a document have been
looked up in a table already, so it is known where the rarest character of each word stands; only there are words
compared, and in long documents only where the neighbouring character fits, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from hanmo.corpus.cleaning.characters import HAN_PIVOT, PIVOT, Scan

#: The commonest characters of English and Chinese, most frequent first: no good pivots.
_FREQUENT = (
    " etaoinsrhldcumfpgwyb:STARC"
    "的一不人是有了在以用为中上我个之来和这大可他下行子也时到生如说道要于十定出而者会法得二后作当去能三将其自就你名"
    "地对事应日所使第数年文本国此过方们理或家分天多发前成无小然条都里同公相经见民进关好那主看并还心面实服件部月开目"
    "明知水性五又内四气回加等王表与门因入么管只两着新没安何正但工现果起通山已务设动建从处学便代高据外被合规请重白常"
    "情意位更太制些提机程及业问点云员间先任保则全政向很单由风书老头命长字信身治元市样金产令想器解参化平计置未接类选"
    "花黄取军调儿各热它录做次至指今度物最百结口非南给属期式西容体城区六手种交打量示即少列改味查报别女标项清曰求算路"
    "再且例原该立寒东必李受议户药把己血官教八话七院收系力色品钱存却包证流案言每息才死马组州照府需几节君序资真阳除持"
    "酒比运利草什卷听许九义记朝万篇依引复空若香备告认兵走直配功级构连按毒春放神供模活值变半执统张责故石支士称客初送"
    "江权题施世止虚吃望决术特汤转皇商声似食符共象具消确环根千况散创光青司传火源论医反帝审难痛护码阴细干完补夫准候装"
    "展集总病编思海首夜注型须住语境始形带师车玉易归导北周基委章检亲让写监足怎试往觉失格步推感修强场预尚限叫显久满办"
    "边房深近职众早宗皮臣杀美留余布县苦母台助古土专效领图诉网益价采红林诸曾落版远影居社丸虽眼微史喜精防秋整排罢错申"
    "待德京技末陈像营亦科达木致电呢尽笑举甚态河号衣费氏急督函恶考武验甘移律随终伤范约守轻块坐择礼造库無升予省读歌操"
    "负评划肉父罪刘胡景返免饮异句快密视战料款她识载断换封承增华破端宜适温投游志企质段答输害广旧汉片含欲线击研唐弟离"
)
_PIVOTS = re.compile(bytes((0x5B, HAN_PIVOT, PIVOT, 0x5D)))
_LONG = 1000


class Hints:
    """Finds words in texts whose characters are classified.

    Args:
        words: of two characters at least.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._at: dict[str, list[tuple[str, int]]] = {}
        self._pairs = np.zeros(1 << 16, bool)
        for word in sorted(set(words), key=lambda word: (-len(word), word)):
            rare = max(range(len(word)), key=lambda index: (_rank(word[index]), index))
            self._at.setdefault(word[rare], []).append((word, rare))
            near = rare - 1 if rare else 1
            self._pairs[_pair(ord(word[rare]), ord(word[near]), near < rare)] = True
        self.pivots = "".join(sorted(self._at))

    def find(self, scan: Scan) -> list[tuple[int, str]]:
        """(place, word) of the words in a text that was classified with `pivots` marked.

        Of several words that share their rarest character only the longest is found.
        """
        text, found = scan.text, []
        if len(text) < _LONG:
            places = [hit.start() for hit in _PIVOTS.finditer(scan.classes)]
        else:
            places = self._fitting(scan)
        for place in places:
            for word, index in self._at[text[place]]:
                if text.startswith(word, place - index) and place >= index:
                    found.append((place - index, word))
                    break
        return found

    def _fitting(self, scan: Scan) -> list[int]:
        """Places of pivots beside which stands what stands there in a word."""
        places = np.flatnonzero((scan.kinds - HAN_PIVOT) < 2)  # HAN_PIVOT or PIVOT
        here = scan.codes.take(places)
        before = _pair(here, scan.codes.take(places - 1, mode="clip"), True)
        behind = _pair(here, scan.codes.take(places + 1, mode="clip"), False)
        return places[self._pairs.take(before) | self._pairs.take(behind)].tolist()


def _rank(char: str) -> int:
    place = _FREQUENT.find(char)
    return len(_FREQUENT) if place < 0 else place


def _pair(pivot, neighbour, before: bool):
    return (pivot * 31 + neighbour * (2 if before else 1) + before) & 0xFFFF
