"""What Stanford's PTBTokenizer 3.4.1 was observed to do, as a list of rules.

These are own rules, found by comparing outputs and not from its source. A rule is a pattern, and what becomes
of the text it matched. Group 1 of a pattern, where it has one, is the word; what the pattern matches beyond
that only helps it to win over a shorter match. Apostrophes are a world of their own: in most places a
straight and a curly one will do (``_A``), in some a backquote too (``_B``), in a few only the straight one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

Split = Callable[[str], list[str]]

# Abbreviations keep their full stop. Found by asking the tokenizer about every word of up to four letters,
# and about every longer one that seemed likely.
TITLES = (
    "adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl det dept dr drs elec ens"
    " ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof"
    " profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm"
)
ENDINGS = (
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc"
    " ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov"
    " oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
)
STATES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # only with a capital, being words without it
BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
FUSED = "cannot gonna gotta lemme gimme wanna"  # two words, cut after the third letter
_CLIPPED = "dunkin' somethin' ol' 'em 'til 'till 'cause cap'n c'est"
_CLIPPED_STRAIGHT = "c'mon nor'easter e'er s'mores ev'ry li'l nat'l cont'd\\."

# "The letter K. The dog": before these words the full stop ends a sentence and is not the letter's.
_STARTS = (
    "A About According After An As At But Earlier He Her Here However If In It Last Many More Now Once One"
    " Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You"
)

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_MONEY = {"\u00a2": "cents", "\u00a3": "#", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
_FRACTIONS = {"\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_SYMBOLS = {"&amp;": "&", "&lt;": "<", "&gt;": ">"} | _BRACKETS | _MONEY | _FRACTIONS
_QUOTES = {"\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''"}
_UNSEEN = frozenset('"\u201a\u201b\u2039\u203a\u00ab\u00bb\u2013\u2014\u2015\u2026').union(_QUOTES)


def _any(words: str) -> str:
    return "(?i:" + "|".join(sorted(words.split(), key=len, reverse=True)) + ")"


def _capitalised(words: str) -> str:
    return "|".join(f"{word[0]}(?i:{word[1:]})" for word in words.split())


# What becomes of a match.


def _whole(word: str) -> list[str]:
    return [_SYMBOLS.get(word, word)]


def _cut(at: int) -> Split:
    return lambda word: [word[:at], word[at:]]


def _straight(word: str) -> list[str]:
    return [word.replace("\u2019", "'").replace("\x92", "'")]


def _bracketed(word: str) -> list[str]:
    return [word.replace("(", "-lrb-").replace(")", "-rrb-")]


def _joined(word: str) -> list[str]:
    """Spaces inside one word (a fraction, a telephone number, a tag) become non-breaking ones."""
    return [re.sub(r"\s", "\u00a0", piece) for piece in _bracketed(word)]


def _quotes(word: str) -> list[str]:
    """Two curly quotes stay one word, thrown away as punctuation only where it looks like a known one."""
    return ["".join(_QUOTES[quote] for quote in word)]


def _sign(character: str) -> list[str]:
    """One character that no rule knows: symbols are kept, what has no glyph is dropped."""
    visible = unicodedata.category(character)[0] in "SPN" and character not in _UNSEEN
    return _whole(character) if visible else []


def _nothing(word: str) -> list[str]:
    return []


# Pieces of rules: a letter (it may carry combining accents), a letter or digit, apostrophes, kinds of words.
_NUMERALS = r"\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218f\u2460-\u24ff"
_L = rf"(?:[^\W\d_{_NUMERALS}]|[\u0300-\u036f])"
_N = rf"(?:[^\W_{_NUMERALS}]|[\u0300-\u036f])"
_A = r"['\u2019\x92]"
_B = r"['\u2019\x92`\u2018\x91]"
_PART = rf"(?:(?:[dDoOlL]{_B}{_N}(?={_N}))?{_N}+)"  # d'etat
_DOTTED = rf"(?:{_L}{_N}*(?:[.!?]{_L}{_N}*)+)"  # foo.bar, u.s, what?ever
_COMPOUND = rf"(?:{_DOTTED}|{_PART}(?:[-_]{_PART})*)"
_TAILED = (
    r"(?:[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z0-9]+|[A-Za-z](?:\.[A-Za-z])+\.))+)"  # 3.5-inch, mon.-fri
)
_SLASHED = r"(?:[A-Za-z0-9]+(?:-[A-Za-z]+){0,2})"
_CAPITALS = r"(?:[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)"  # AT&T
_NUMBER = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_PHONE_HEAD = r"(?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])"
_PHONE = (
    rf"{_PHONE_HEAD}\d{{3,4}}[- \u00a0]?\d{{3,5}}|(?:(?:\+\+?)?\d{{2,4}}\.)?\d{{2,4}}\.\d{{3,4}}\.\d{{3,5}}"
)
_WWW = r"www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
_HOST = rf"(?i:{_WWW}|(?:[^\s\d\"`'<>|.!?(){{}},\-_$:;=/@]+\.)+(?:com|net|org|edu))"
_PATH = r"[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]"
_MAIL = r"<?[A-Za-z0-9][^\s\"<>|(){}\u00a0]*@(?:[^\s\"<>|(){}.\u00a0]+\.)*[^\s\"<>|(){}.\u00a0]+>?"
_NAME = r"[A-Za-z][A-Za-z0-9:.@_-]*"
_ATTRIBUTE = r"(?: +[A-Za-z][A-Za-z0-9:.-]*(?:=(?:'[^'\n]*'|\"[^\"\n]*\"))?)"
_TAG = rf"<(?:[?!][A-Za-z-][^>\n]*|{_NAME}{_ATTRIBUTE}* */?|/{_NAME}) *>"
_EYES, _MOUTH = "[-^x=~<>']", r"[()DPdp@O\\\[\]{|]"

RULES: list[tuple[str, Split]] = [
    # Words with an apostrophe in them, and words fused of two.
    (_any(FUSED), _cut(3)),
    (rf"{_A}(?i:tis|twas)", _cut(2)),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])[nN]{_B}[tT]|[nN]{_B}[tT]", _straight),  # do n't
    (rf"({_A}(?i:[msd]|re|ve|ll))[^A-Za-z]|\u2019(?i:[msd]|re|ve|ll)", _straight),
    (rf"([yY]{_A}){_L}", _whole),  # y' all
    (rf"{_any(_CLIPPED_STRAIGHT)}|" + _any(_CLIPPED).replace("'", _A), _whole),
    (rf"[dDjJlL]{_A}|{_A}[nN]{_A}|\u2019[nN]|{_A}[2-9]0[sS]", _whole),
    (rf"({_A}[nN])\s|({_A}\d\d)\s", _whole),
    (rf"({_COMPOUND}){_A}(?i:[msd]|re|ve|ll)", _whole),
    (rf"[A-HJ-XZn]{_B}{_L}{{2,}}|{_L}+[aeiouyAEIOUY]{_B}[aeiouA-Z]{_L}*", _whole),
    # Words.
    (_COMPOUND, _whole),
    (rf"((?:{_COMPOUND}|{_CAPITALS}|{_TAILED})\.)[,;:]", _whole),
    (rf"{_CAPITALS}|(?i:s&ls|s&p-500)|M&Ms", _whole),
    (rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}", _whole),
    (r"(?i:c\.d\.s|pro-|anti-|(?:canada|sino|korean|eu|japan|non)-u\.s\.)|[cC]\+\+|[cCfF]#", _whole),
    # Addresses and tags.
    (rf"(?i:https?)://{_PATH}|{_HOST}(?:/{_PATH})?", _whole),
    (_MAIL, _whole),
    (rf"@[A-Za-z_]\w*|#{_L}+", _whole),
    (_TAG, _joined),
    # Numbers.
    (rf"[-+]?{_NUMBER}", _whole),
    (r"(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4}", _joined),
    (r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", _whole),
    (_PHONE, _joined),
    # Abbreviations.
    (rf"{_any(TITLES)}\.|(?i:ph\.d|ed\.d)\.|(?:[Mm]fg|[Mm]tg|[Pp]p?t[ey]s?)\.", _whole),
    (rf"((?:{_any(ENDINGS)}|{_capitalised(STATES)})\.)(?s:..)", _whole),
    (_TAILED, _whole),
    (rf"({_any(BEFORE_NUMBERS)}\.)\s?\d", _whole),
    (r"[A-Za-z](?:\.[A-Za-z])*\.", _whole),
    (rf"([A-Za-z])\.\s+(?:{_capitalised(_STARTS)}|M[rRsS]\.)\s", _whole),
    # Signs.
    (r"[\u2018\u2019\u201c\u201d]{2}", _quotes),
    (r"''|``|\.{3,5}|-{2,4}|&(?:quot|apos|mdash|ndash|MD|nbsp);", _nothing),
    (r"-{5,}|[?!]{2,}|\*+|#+|_+|@+|<<|>>|[A-Z]*\$|&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#\d+);", _whole),
    (r"&(?:amp|lt|gt);", _whole),
    (rf"([<>]?[:;=][-o*']?{_MOUTH})(?!{_N})", _bracketed),
    (rf"{_EYES}_{_EYES}|\((?:{_EYES}_{_EYES}|\^\^)\)", _bracketed),
    (r"(?s:.)", _sign),
]
