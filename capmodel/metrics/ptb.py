"""Captions to words as the published COCO caption evaluation does it, without Java.

The published code (pycocoevalcap, and coco-caption before it) runs Stanford's PTBTokenizer 3.4.1 with
``-preserveLines -lowerCase`` and then throws a list of punctuation away. Here all 234,154 captions of COCO
val2014 and of Flickr8k come out the same, and 20,000 with all kinds of odd text put into them. Where that
tokenizer has a habit that looks odd (``"23 3/4"`` is one word, ``"(a)"`` gives ``-lrb-``), the habit is kept,
because published scores contain it.

It works as a scanner does: at each place every rule of ``ptb_rules`` is tried, the longest match wins, and of
equally long ones the first. Most captions are plain words and need no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from captionbeam.capmodel.metrics.ptb_rules import BEFORE_NUMBERS, ENDINGS, FUSED, RULES, STATES, TITLES

# What pycocoevalcap throws away. It also lists brackets (-LRB-), but in capitals, which never occur after
# lower-casing: -lrb- and its like stay words.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_SCANNERS = [(re.compile(pattern), split) for pattern, split in RULES]
_ABBREVIATED = frozenset(f"{TITLES} {ENDINGS} {STATES.lower()} {BEFORE_NUMBERS} mfg mtg".split())
_FUSED = frozenset(FUSED.split())
_PLAIN_LINE = re.compile(r"[A-Za-z]+(?:,? [A-Za-z]+)* ?\.?\s*")
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=,?[ \n])")
_SPACE = re.compile(r"(?:[ \t\n]|,(?=[ \n])|\.(?=\n))+")  # and what ends a part of a sentence, or a line


def tokenize(lines: Sequence[str]) -> list[list[str]]:
    """The words of each line, lower-cased, without punctuation.

    The published code hands all captions of an evaluation to the tokenizer as one text, so a line's neighbour
    can matter in one case: in ``"a sign that says K."`` the stop belongs to the letter, unless the next line
    opens with a word that begins sentences (``A``, ``The``). Hence lines, in their order, and not a line.

    >>> tokenize(["A man's T-shirt, at 5 p.m.", "They can't (won't)!"])
    [['a', 'man', "'s", 't-shirt', 'at', '5', 'p.m.'], ['they', 'ca', "n't", '-lrb-', 'wo', "n't", '-rrb-']]
    """
    return [
        _plain_words(line) or _scanned_words(line, lines[at + 1 : at + 3]) for at, line in enumerate(lines)
    ]


def _plain_words(line: str) -> list[str]:
    """The words of a line of nothing but words, commas and a full stop at its end; of any other, nothing."""
    if not _PLAIN_LINE.fullmatch(line):
        return []
    words = line.lower().replace(",", " ").replace(".", " ").split()
    needs_rules = len(words[-1]) == 1 or words[-1] in _ABBREVIATED or not _FUSED.isdisjoint(words)
    return [] if needs_rules else words


def _scanned_words(line: str, following: Sequence[str]) -> list[str]:
    line = line.replace("\n", " ")
    text = "\n".join([line, *following, "\n"])
    words = (word.strip() for word in _scan(text, len(line)))  # the published scores split at all white space
    return [word.lower() for word in words if word and word not in PUNCTUATION]


def _scan(text: str, end: int) -> Iterator[str]:
    """Words of ``text[:end]``; what follows is only looked at."""
    at = 0
    while at < end:
        if blank := _SPACE.match(text, at):
            at = blank.end()
        elif (plain := _PLAIN_WORD.match(text, at)) and plain.group().lower() not in _FUSED:
            yield plain.group()
            at = plain.end()
        else:
            words, at = _longest_match(text, at)
            yield from words


def _longest_match(text: str, at: int) -> tuple[list[str], int]:
    """The words at ``at`` by the rule that reaches farthest, and their end; the last always matches."""
    matches = ((pattern.match(text, at), split) for pattern, split in _SCANNERS)
    match, split = max(((match, split) for match, split in matches if match), key=lambda pair: pair[0].end())
    end = match.end(match.lastindex or 0)
    return split(text[at:end]), end
