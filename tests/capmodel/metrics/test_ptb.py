"""Captions become the words that Stanford's PTBTokenizer 3.4.1 and pycocoevalcap make of them.

What is expected here was printed by that code (Java, pycocoevalcap 1.2), down to sums over whole data sets; where Java
is there, it also prints what is expected of captions with all kinds of odd text in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.metrics.ptb import PUNCTUATION, tokenize


def words(text: str) -> str:
    return " ".join(tokenize([text])[0])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man riding a horse, on the beach.", "a man riding a horse on the beach"),
        ("", ""),
        # contractions
        ("It's a dog's ball", "it 's a dog 's ball"),
        ("IT'S THE CAT'S", "it 's the cat 's"),
        ("I cannot; gonna try", "i can not gon na try"),
        ("rock 'n' roll at o'clock", "rock 'n' roll at o'clock"),
        ("the 1950's and '60s", "the 1950 's and '60s"),
        ("boys' RAY'S graffiti'ed", "boys ray 's graffiti'ed"),
        # abbreviations keep their stop, other words do not
        ("at 5 p.m. in the U.S.", "at 5 p.m. in the u.s."),
        ("5th ave. on the no.", "5th ave. on the no"),
        ("in La. or la.", "in la. or la"),
        ("the truck., a car.", "the truck. a car"),
        # hyphens, slashes, signs, numbers
        ("multi- colored -up", "multi colored up"),
        ("beach--kite ---- -----", "beach kite -----"),
        ("$14.99 50% #11 #tag @name", "$ 14.99 50 % # 11 #tag @name"),
        ("a 4x4, 3-D, 1/2", "a 4x4 3-d 1/2"),
        ("a (left) [b] {c}", "a -lrb- left -rrb- -lsb- b -rsb- -lcb- c -rcb-"),
        ("what?? yes!! really?!", "what ?? yes !! really ?!"),
        ("www.foo.com or a@b.c :)", "www.foo.com or a@b.c :-rrb-"),
        # beyond ASCII
        ("½ \u2013 … £5 €5 5¢", "1/2 # 5 $ 5 5 cents"),
        ("two\nlines", "two lines"),
        ("\u2019tis \u2019twas 'tis 'Twasn", "tis twas 't is 't wasn"),
        ("น้ำ قِطّة cafe\u0301", "น้ำ قِطّة cafe\u0301"),
        ("\u201a \u201eup\u201c \u2025 \u2024", "\u201a \u201e up"),
        ("\u00abup\u00bb \u2039up\u203a \u201c\u201d", "up up ``''"),
        ("soft\u00adly \u00ad 1\u00ad000", "softly 1000"),
        ("-LRB- a -rrb-", "-lrb- a -rrb-"),
        ("(^_^) (>.<) ^_^ \\*", "-lrb-^_^-rrb- -lrb->.<-rrb- ^_^ \\*"),
        ("\uff21\uff22\u3000\uff15 \uff08\uff09", "\uff41\uff42 \uff15 \uff08 \uff09"),
    ],
)
def test_captions_split_as_the_published_code_splits_them(caption, expected):
    assert words(caption) == expected


def test_a_last_letters_stop_depends_on_the_next_line():
    assert tokenize(["the letter K.", "A dog", "the letter K.", "dogs"])[::2] == [
        ["the", "letter", "k"],
        ["the", "letter", "k."],
    ]


def test_lines_stay_apart():
    assert tokenize(["a dog", "", "3", "1/2 <b", ">"]) == [["a", "dog"], [], ["3"], ["1/2", "<", "b"], [">"]]


@given(st.lists(st.text(), max_size=4))
def test_any_text_gives_words_without_punctuation(lines):
    tokenized = tokenize(lines)
    assert len(tokenized) == len(lines)
    for line in tokenized:
        assert all(word and " " not in word and word not in PUNCTUATION for word in line)


DATA = os.environ.get("CAPTIONBEAM_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="CAPTIONBEAM_DATA does not name the folder of real data")


def captions_of(path: str) -> list[str]:
    file = Path(str(DATA)) / path
    if file.suffix == ".zip":
        data = json.loads(zipfile.ZipFile(file).read("annotations/captions_val2014.json"))
    else:
        data = json.loads(file.read_text())
    return [annotation["caption"] for annotation in data["annotations"]]


@needs_data
@pytest.mark.parametrize(
    ("path", "count", "expected"),
    [
        (
            "coco-captions/captions_val2014.zip",
            202_654,
            "35d23eb2e072409ae57c40d0de82fc1bed06db5e057a2da20057b07b10520b18",
        ),
        (
            "flickr8k/captions_train.json",
            30_000,
            "1fadd35cf371f9d7cd09864a066e2199b294d727d1a049895d7bbe2e75a11dbb",
        ),
    ],
)
def test_whole_data_sets_come_out_as_from_the_published_code(path, count, expected):
    """The sha256 of what pycocoevalcap's own PTBTokenizer gives for all captions, one a line."""
    captions = captions_of(path)
    assert len(captions) == count
    lines = "\n".join(" ".join(words) for words in tokenize(captions))
    assert hashlib.sha256(lines.encode()).hexdigest() == expected
