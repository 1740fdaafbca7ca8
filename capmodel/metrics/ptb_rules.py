"""The observed behaviour of Stanford's PTBTokenizer 3.4.1, as a list of rules.

The rules were found by comparing outputs, not from its source. A rule is a pattern and a function that splits the
matched text. Group 1 of a pattern, if it has one, is the word; the rest of the match only makes the rule win over
shorter matches. Most places accept a straight or curly apostrophe (``_A``), some also a backquote or an opening quote
(``_B``), a few only a straight one. Only ASCII letters are case-insensitive (``(?ai:...)``).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from captionbeam.capmodel.metrics.ptb_characters import DIGITS, LETTERS, MARKS, SIGNS

Split = Callable[[str], list[str]]

# Abbreviations that keep their full stop. Found by testing every word of up to four letters, and likely longer ones.
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
STATES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # only capitalised, since they are words in lower case
BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
FUSED = "cannot gonna gotta lemme gimme wanna"  # two words, cut after the third letter
_CLIPPED = "dunkin' somethin' ol' 'em 'til 'till 'cause cap'n c'est"
_CLIPPED_STRAIGHT = "c'mon nor'easter e'er s'mores ev'ry li'l nat'l cont'd\\."
_FILES = (
    "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql"
    " tar txt wav x xml zip"
)

# "The letter K. The dog": before these words the full stop ends a sentence and does not belong to the letter.
_STARTS = (
    "A About According After An As At But Earlier He Her Here However If In It Last Many More Now Once One"
    " Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You"
)

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_MONEY = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
_FRACTIONS = {"\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_SYMBOLS = {"&amp;": "&", "&lt;": "<", "&gt;": ">"} | _BRACKETS | _MONEY | _FRACTIONS
_QUOTES = {
    **dict.fromkeys("`\x91\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\x92\u2019\u203a", "'"),
    **dict.fromkeys("\x93\u201c\u00ab", "``"),
    **dict.fromkeys("\x94\u201d\u00bb", "''"),
}


def _any(words: str) -> str:
    return "(?ai:" + "|".join(sorted(words.split(), key=len, reverse=True)) + ")"


def _capitalised(words: str) -> str:
    return "|".join(f"{word[0]}(?ai:{word[1:]})" for word in words.split())


# Functions that split a match into words.


def _whole(word: str) -> list[str]:
    return [_SYMBOLS.get(word.lower(), word)]


def _word(word: str) -> list[str]:
    """Removes soft hyphens."""
    return _whole(word.replace("\u00ad", ""))


def _initials(word: str) -> list[str]:
    """Returns AT&amp;T as AT&T."""
    return [_AMPERSAND.sub("&", word)]


def _cut(at: int) -> Split:
    return lambda word: [word[:at], word[at:]]


def _straight(word: str) -> list[str]:
    return [_APOSTROPHE.sub("'", _OPENING.sub("`", word))]


def _bracketed(word: str) -> list[str]:
    return [word.replace("(", "-lrb-").replace(")", "-rrb-")]


def _joined(word: str) -> list[str]:
    """Replaces spaces inside one word (a fraction, a tag) with non-breaking ones."""
    return [word.replace(" ", "\u00a0")]


def _phone(word: str) -> list[str]:
    return _joined(_bracketed(word)[0])


def _quotes(word: str) -> list[str]:
    """Keeps two curly quotes as one word; it is removed as punctuation only if it equals a listed one."""
    return ["".join(_QUOTES.get(quote, quote) for quote in word)]


def _sign(character: str) -> list[str]:
    """Returns a character that no rule matches if it is a sign, else nothing."""
    return _whole(character) if character in _SYMBOLS or _SIGN.match(character) else []


def _nothing(word: str) -> list[str]:
    return []


# Parts of rules: a letter (with combining accents), a letter or digit, apostrophes, kinds of words.
_ENTITY = "&[AEIOUaeiou](?ai:acute|grave|uml);"
_L = rf"(?:[{LETTERS}{MARKS}\u00ad]|{_ENTITY})"
_LS = rf"(?:[{LETTERS}{MARKS}\u00ad]*(?:{_ENTITY}[{LETTERS}{MARKS}\u00ad]*)*)"
_LDS = rf"(?:[{LETTERS}{MARKS}{DIGITS}\u00ad]*(?:{_ENTITY}[{LETTERS}{MARKS}{DIGITS}\u00ad]*)*)"
_D, _LD = rf"[{DIGITS}]", rf"[{LETTERS}{MARKS}{DIGITS}\u00ad]"
_N = rf"[{LETTERS}{DIGITS}]"
_A = r"(?:['\u2019\x92]|&apos;)"
_B = r"(?:['\u2019\x92`\u2018\x91\u201b]|&apos;)"
_PART = rf"(?:(?:[dDoOlL]{_B}{_N}(?={_N}))?{_N}+)"  # d'etat
_DOTTED = rf"(?:{_L}{_LDS}(?:[.!?]{_L}{_LDS})*)"  # foo.bar, u.s, what?ever
_COMPOUND = rf"(?:{_PART}(?:[-_\u058a\u2010\u2011]{_PART})*)"
_WORD = rf"(?:{_DOTTED}|{_COMPOUND})"
_TAILED = (  # 3.5-inch, mon.-fri
    r"(?:[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+)"
)
_SLASHED = r"(?:[A-Za-z0-9]+(?:-[A-Za-z]+){0,2})"
_AMP = r"(?:(?ai:&amp;)|&)"
_CAPITALS = rf"(?:[A-Z]+(?:(?:\+|{_AMP})[A-Z]+)+)"  # AT&T
_NUMBER = rf"(?:{_D}*(?:[.:,\u00ad\u066b\u066c]{_D}+)+|{_D}+)"
_PHONE_HEAD = rf"(?:\({_D}{{2,3}}\)[ \u00a0]?|(?:\+\+?)?(?:{_D}{{2,4}}[- \u00a0])?{_D}{{2,4}}[- \u00a0])"
_PHONE = (
    rf"{_PHONE_HEAD}{_D}{{3,4}}[- \u00a0]?{_D}{{3,5}}"
    rf"|(?:(?:\+\+?)?{_D}{{2,4}}\.)?{_D}{{2,4}}\.{_D}{{3,4}}\.{_D}{{3,5}}"
)
_S = r"[ \t\n\x85\u00a0\u2000-\u200a\u3000]"
_BLANK = r" \t\n\x0b\x0c\r\u2028\u2029"
_WWW = rf"www\.(?:[^{_BLANK}\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}"
_HOST = rf"(?:{_WWW}|(?:[^{_BLANK}\"`'|!(){{}},-_$]+\.)+(?ai:com|net|org|edu))"  # no capitals, no digits
_PATH_END = rf"[^{_BLANK}\"<>|.!?(){{}},-]"
_MAIL = (
    rf"(?ai:<|&lt;)?[A-Za-z0-9][^{_BLANK}\"<>|(){{}}\u00a0]*@(?:[^{_BLANK}\"<>|(){{}}.\u00a0]+\.)*"
    rf"[^{_BLANK}\"<>|(){{}}.\u00a0]+(?ai:>|&gt;)?"
)
_NAME = r"[A-Za-z][A-Za-z0-9:._-]*"
_ATTRIBUTE = r"(?: +[A-Za-z][A-Za-z0-9:._-]*(?: *= *(?:'[^'\n]*'|\"[^\"\n]*\"))?)"
_TAG = rf"<(?:[?!][A-Za-z-][^>\n]*|{_NAME}{_ATTRIBUTE}* */?|/{_NAME}) *>"
_EYES, _EYE, _MOUTH = "[-^x=~<>']", "[\\^x=~<>']", r"[()DPdp@O\\\[\]{|]"
_AMPERSAND, _APOSTROPHE, _OPENING = (
    re.compile("(?ai:&amp;)"),
    re.compile(_A),
    re.compile("[\u2018\x91\u201b]"),
)
_SIGN = re.compile(f"[{SIGNS}]")

RULES: list[tuple[str, Split]] = [
    # Words with an apostrophe, and fused words.
    (_any(FUSED), _cut(3)),
    (r"('[tT])(?ai:is|was)", _whole),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])[nN]{_B}[tT]|[nN]{_B}[tT]", _straight),  # do n't
    (rf"({_A}(?ai:[msd]|re|ve|ll))[^A-Za-z]|(?:[\u2019\x92]|&apos;)(?ai:[msd]|re|ve|ll)", _straight),
    (rf"([yY]{_A})[{LETTERS}]", _whole),  # y' all
    (rf"{_any(_CLIPPED_STRAIGHT)}|" + _any(_CLIPPED).replace("'", _A), _whole),
    (rf"[dDjJlL]{_A}|{_A}[nN]{_A}|\u2019[nN]|{_A}[2-9]0[sS]", _whole),
    (rf"({_A}[nN])[ \t\n\u00a0]|({_A}[0-9][0-9]){_S}", _whole),
    (rf"({_WORD}){_A}(?ai:[msd]|re|ve|ll)", _word),
    (rf"[A-HJ-XZn]{_B}[{LETTERS}]{{2,}}|[{LETTERS}]+[aeiouyAEIOUY]{_B}[aeiouA-Z][{LETTERS}]*", _whole),
    # Words.
    (_DOTTED, _word),
    (_COMPOUND, _word),
    (rf"((?:{_DOTTED}|{_TAILED})\.)[,;:\u3001]", _word),
    (rf"({_COMPOUND}\.)[,;:\u3001]", _word),
    (rf"({_CAPITALS}\.)[,;:\u3001]", _initials),
    (rf"{_CAPITALS}|(?ai:s{_AMP}ls|s{_AMP}p-500)|M{_AMP}Ms", _initials),
    (rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}", _whole),
    (r"(?ai:c\.d\.s|pro-|anti-|(?:canada|sino|korean|eu|japan|non)-u\.s\.)|[cC]\+\+|[cCfF]#", _whole),
    # Addresses and tags.
    (
        rf"(?ai:https?)://[^{_BLANK}\"<>|(){{}}]+{_PATH_END}|{_HOST}(?:/[^{_BLANK}\"<>|()]+{_PATH_END})?",
        _whole,
    ),
    (_MAIL, _whole),
    (rf"@[A-Za-z_][A-Za-z_0-9]*|#{_L}{_LS}", _whole),
    (_TAG, _joined),
    # Numbers.
    (rf"[-+]?{_NUMBER}", _word),
    (rf"(?:{_D}{{1,4}}[- \u00a0])?{_D}{{1,4}}(?:\\?/|\u2044){_D}{{1,4}}", _joined),
    (rf"{_D}{{1,2}}[-/]{_D}{{1,2}}[-/]{_D}{{2,4}}", _whole),
    (_PHONE, _phone),
    # Abbreviations and file names.
    (rf"{_any(TITLES)}\.|(?:[Mm]fg|[Mm]tg)\.", _whole),
    (rf"((?:{_any(ENDINGS)}|(?ai:ph\.d|ed\.d)|[Pp]p?t[ey]s?|{_capitalised(STATES)})\.)(?s:..)", _whole),
    (_TAILED, _word),
    (rf"({_any(BEFORE_NUMBERS)}\.){_S}?{_D}", _whole),
    (r"[A-Za-z](?:\.[A-Za-z])*\.", _whole),
    (rf"([A-Za-z])\.{_S}+(?:{_capitalised(_STARTS)}|M[rRsS]\.|{_TAG}){_S}", _whole),
    (rf"({_LD}+(?:\.{_LD}+)*\.{_any(_FILES)})(?:{_S}|[!,.?])", _whole),
    # Signs.
    (r"[`\x91-\x94\u00ab\u00bb\u2018-\u201f\u2039\u203a]{1,2}", _quotes),
    (r"''|\.{3,5}|\.(?:[ \u00a0]\.){2,4}|-{2,4}|&(?:quot|apos);|(?ai:&(?:mdash|ndash|md|nbsp);)", _nothing),
    (r"-{5,}|[?!]{2,}|\*+|_+|@+|#+|<<|>>|[A-Z]*\$", _whole),
    (r"[\u207a\u207b\u208a\u208b]?(?:[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+|[\u2080-\u2089]+)", _whole),
    (r"(?ai:-[lr][rcs]b-|\\\*(?:\\\*){0,2}|&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|quot|apos|#\d+);)", _whole),
    (r"(?ai:&(?:amp|lt|gt);)", _whole),
    (rf"([<>]?[:;=][-o*']?{_MOUTH})(?![A-Za-z0-9])", _bracketed),
    (rf"{_EYES}_{_EYES}|\({_EYES}[_.]?{_EYES}\)|\({_EYE}-(?:{_EYE}|`)\)", _bracketed),
    (r"(?s:.)", _sign),
]
