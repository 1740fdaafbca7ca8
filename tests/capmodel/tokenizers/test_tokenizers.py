"""What a tokenizer promises: sentences come back, END is never lost, and a folder is the whole of it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.tokenizers import (
    END,
    PAD,
    SPECIALS,
    START,
    UNK,
    BpeTokenizer,
    WordTokenizer,
    learn_tokenizer,
    load_tokenizer,
    splitter,
)
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

SENTENCES = ["A man's dog.", "Two dogs, 3.5 ft tall!", "the well-known dogs", "a DOG at 10:30"]


def counted(kind: str, sentences: list[str], times: int = 1) -> Counter[str]:
    split = splitter(kind)
    return Counter(word for sentence in sentences * times for word in split(sentence))


def learned(kind: str = "bpe", sentences: list[str] = SENTENCES, **options):
    return learn_tokenizer(kind, counted(kind, sentences), **{"merges": 20, "min_count": 1, **options})


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("A man's dog.", ["a", "man's", "dog", "."]),
            ("A man\u2019s \u201cdog\u201d", ["a", "man's", '"', "dog", '"']),
            ("t-shirt - shirt-", ["t-shirt", "-", "shirt", "-"]),
            ("at 10:30, 3.5 or 1,000.", ["at", "10:30", ",", "3.5", "or", "1,000", "."]),
            ("black&white", ["black", "&", "white"]),
            ("a@@b </w>", ["a", "@", "@", "b", "<", "/", "w", ">"]),
            ("Zu\u0308rich", ["z\u00fcrich"]),
            ("हिन्दी में", ["हिन्दी", "में"]),
            (" \t\n\x1f", []),
        ],
    )
    def test_byte_pairs_see_punctuation_apart(self, text, words):
        assert splitter("bpe")(text) == words

    def test_words_are_lower_cased_and_without_punctuation(self):
        assert splitter("words")("A man's T-shirt.") == ["a", "man", "s", "t", "shirt"]

    def test_whitespace_keeps_case_and_punctuation(self):
        assert splitter("whitespace")(" A man's\tT-shirt. ") == ["A", "man's", "T-shirt."]

    @given(st.text())
    def test_splitting_what_was_split_changes_nothing(self, text):
        for kind in ("bpe", "words", "whitespace"):
            words = splitter(kind)(text)
            assert splitter(kind)(" ".join(words)) == words


class TestBytePairs:
    def test_frequent_words_are_one_token_and_rare_ones_are_spelled_out(self):
        tokenizer = BpeTokenizer.learn({"dog": 9, "cat": 1, "cot": 1}, merges=2)
        assert tokenizer.tokens(tokenizer.encode("dog cat")) == ["<start>", "dog", "c@@", "a@@", "t", "<end>"]
        assert tokenizer.decode(tokenizer.encode("dog cat")) == "dog cat"

    def test_the_vocabulary_is_specials_then_characters_then_merges_as_learned(self):
        tokenizer = BpeTokenizer.learn({"ab": 3, "abc": 2}, merges=2)
        assert tokenizer.vocab == (*SPECIALS, "a", "a@@", "b", "b@@", "c", "c@@", "ab", "bc")

    @given(st.text(alphabet="aAdgot. ,'-@<é1:\u2019/w>\\", max_size=60))
    def test_any_text_over_the_learned_alphabet_comes_back(self, text):
        tokenizer = LEARNED
        assert tokenizer.decode(tokenizer.encode_whole(text)) == tokenizer.normalise(text)
        assert UNK not in tokenizer.encode_whole(text)

    def test_a_character_never_seen_is_unknown_and_the_rest_stays(self):
        tokenizer = learned()
        assert tokenizer.decode(tokenizer.encode("dogs €")) == "dogs <unk>"
        assert tokenizer.tokens(tokenizer.encode("€"))[1] == "<unk>"


class TestWholeWords:
    def test_words_below_the_minimum_count_are_unknown(self):
        tokenizer = WordTokenizer.learn({"a": 7, "dog": 5, "cat": 4}, min_count=5)
        assert tokenizer.vocab == (*SPECIALS, "a", "dog")
        assert tokenizer.encode("A dog, a cat!") == [START, 4, 5, 4, UNK, END]
        assert tokenizer.decode([START, 4, 5, 4, UNK, END]) == "a dog a <unk>"

    def test_whitespace_style_keeps_case(self):
        tokenizer = learn_tokenizer("whitespace", {"Dog.": 5, "dog.": 6})
        assert tokenizer.encode("Dog. dog. dog") == [START, 5, 4, UNK, END]

    @given(st.lists(st.sampled_from(sorted(counted("words", SENTENCES)))))
    def test_known_words_come_back(self, words):
        tokenizer = learned("words")
        assert tokenizer.decode(tokenizer.encode_whole(" ".join(words))) == " ".join(words)


class TestLength:
    @given(st.integers(3, 12), st.text(alphabet="adgo .", max_size=40))
    def test_end_is_never_cut_off(self, max_length, text):
        tokenizer = learned(max_length=max_length)
        whole, ids = tokenizer.encode_whole(text), tokenizer.encode(text)
        assert ids == (whole if len(whole) <= max_length else [*whole[: max_length - 1], END])
        assert (ids[0], ids[-1], ids.count(END)) == (START, END, 1)

    def test_decoding_stops_at_end_and_skips_padding(self):
        tokenizer = WordTokenizer.learn({"a": 5, "dog": 5})
        assert tokenizer.decode([PAD, START, 4, 5, END, 4, PAD]) == "a dog"


class TestFolder:
    @pytest.mark.parametrize("kind", ["bpe", "words", "whitespace"])
    def test_what_was_saved_is_loaded(self, kind, tmp_path):
        tokenizer = learned(kind, max_length=9)
        tokenizer.save(str(tmp_path / "t"))
        again = load_tokenizer(str(tmp_path / "t"))
        assert (type(again), again.vocab, again.max_length) == (type(tokenizer), tokenizer.vocab, 9)
        assert (again, again.fingerprint) == (tokenizer, tokenizer.fingerprint)
        assert again.encode("two dogs at 10:30") == tokenizer.encode("two dogs at 10:30")

    def test_the_folder_holds_the_vocabulary_the_codes_and_a_header(self, tmp_path):
        learned(merges=3).save(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == ["codes.bpe", "tokenizer.json", "vocab.json"]
        header = json.loads((tmp_path / "tokenizer.json").read_text())
        assert header["special_ids"] == {"pad": 0, "unk": 1, "start": 2, "end": 3}
        assert (header["kind"], header["version"], header["options"]) == ("bpe", 1, {"merges": 3})
        assert (tmp_path / "codes.bpe").read_text().splitlines()[0] == "#version: 0.2"

    def test_the_fingerprint_changes_with_whatever_changes_an_encoding(self):
        variants = [
            learned(),
            learned(merges=5),
            learned(max_length=9),
            learned(sentences=["a dog"]),
            learned("words"),
        ]
        assert len({tokenizer.fingerprint for tokenizer in variants}) == len(variants)

    def test_a_changed_file(self, tmp_path):
        learned().save(str(tmp_path))
        (tmp_path / "vocab.json").write_text("[]")
        with pytest.raises(
            RequestError, match=r"'vocab.json' of the tokenizer .* is not the file that was saved"
        ):
            load_tokenizer(str(tmp_path))

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"format": "other"}, "is not a tokenizer's; expected format 'captionbeam tokenizer'"),
            ({"kind": "chars"}, "no tokenizer is of kind 'chars'; expected one of bpe, words, whitespace"),
            ({"sha256": {}}, r"names the files \[\]; expected \['codes.bpe', 'vocab.json'\]"),
        ],
    )
    def test_a_header_that_makes_no_sense(self, change, sentence, tmp_path):
        learned().save(str(tmp_path))
        header = json.loads((tmp_path / "tokenizer.json").read_text())
        (tmp_path / "tokenizer.json").write_text(json.dumps(header | change))
        with pytest.raises(RequestError, match=sentence):
            load_tokenizer(str(tmp_path))


LEARNED = learned(sentences=["adgot dot goat toad a1 1 . , ' - @ < é : / w > \\"], merges=30)


@pytest.mark.skipif(
    "CAPTIONBEAM_DATA" not in os.environ, reason="CAPTIONBEAM_DATA names no folder of real data"
)
class TestRealCaptions:
    def captions(self, path: str) -> list[str]:
        data = Path(os.environ["CAPTIONBEAM_DATA"])
        if path.endswith(".zip"):
            annotations = files.read_json(f"zip://annotations/captions_val2014.json::{data / path}")
        else:
            annotations = files.read_json(str(data / path))
        return [annotation["caption"] for annotation in annotations["annotations"]]

    @pytest.mark.parametrize(
        ("path", "distinct", "frequent"),
        [
            ("coco-captions/captions_val2014.zip", 17_349, 6_473),
            ("flickr8k/captions_train.json", 7_370, 2_535),
        ],
    )
    def test_word_counts_are_the_published_ones(self, path, distinct, frequent):
        counts = counted("words", self.captions(path))
        assert (len(counts), WordTokenizer.learn(counts).vocab_size) == (distinct, frequent + len(SPECIALS))
