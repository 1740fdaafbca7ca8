import gzip
import hashlib

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.decoders.word_vectors import read_vectors, vectors_width
from captionbeam.capmodel.training.optimizer import freeze_word_vectors, load_word_vectors, make_optimizer
from captionbeam.schemas.errors import RequestError

PLAIN = b"the 1 2 3\ndog 4 5 6\n. . . 9 9 9\nrun 7 8 9.5\ndog 0 0 0\n"
HEADED = b"5 3\n" + PLAIN.replace(b"\n", b" \n")  # word2vec's lines end in a blank
VOCABULARY = {"dog": 4, "run": 5, "cat": 6, ".": 7}


@pytest.fixture(params=["vectors.vec", "vectors.txt", "vectors.vec.gz", "headed.vec", "memory"])
def url(request, tmp_path):
    """The same vectors as a file of each kind, and in another storage."""
    data = HEADED if request.param == "headed.vec" else PLAIN
    data = gzip.compress(data) if request.param.endswith(".gz") else data
    if request.param == "memory":
        with fsspec.open("memory://vectors.vec", "wb") as stream:
            stream.write(data)
        return "memory://vectors.vec"
    (tmp_path / request.param).write_bytes(data)
    return str(tmp_path / request.param)


def written(tmp_path, data):
    (tmp_path / "some.vec").write_bytes(data)
    return str(tmp_path / "some.vec")


def test_only_the_vocabularys_words_are_kept_the_first_of_doubles_and_none_with_blanks(url):
    vectors = read_vectors(url, VOCABULARY)
    assert vectors_width(url) == 3
    assert (vectors.ids.tolist(), vectors.rows.tolist()) == ([4, 5], [[4.0, 5.0, 6.0], [7.0, 8.0, 9.5]])
    assert (vectors.ids.dtype, vectors.rows.dtype, vectors.asked) == (np.int64, np.float32, 4)
    with fsspec.open(url, "rb") as stream:
        assert vectors.sha256 == hashlib.sha256(stream.read()).hexdigest()


@given(
    st.dictionaries(
        st.text("abcdé中'-", min_size=1, max_size=6),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(words, headed):
    lines = [f"{word} {' '.join(repr(number) for number in row)}\n" for word, row in words.items()]
    text = (f"{len(words)} 3\n" if headed else "") + "".join(lines)
    with fsspec.open("memory://any.txt", "wb") as stream:
        stream.write(text.encode())
    vectors = read_vectors("memory://any.txt", {word: i for i, word in enumerate(words)})
    assert vectors.ids.tolist() == list(range(len(words)))
    assert vectors.rows.tolist() == np.array([*words.values()], np.float32).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "first line of .* is b''; expected a word and its numbers"),
        (
            b"3 999999999999\nthe 1 2 3\n",
            "promises 999999999999 numbers a word, but the first word has 3; expec",
        ),
        (b"the 1 2 3\ndog 1 nan 2\n", "line 2 of .* does not have 3 numbers"),
        (b"the 1 2 3\n", r"none of the 4 tokens has a vector in .*some\.vec'; expected vectors of the capt"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(tmp_path, data, message):
    with pytest.raises(RequestError, match=message):
        read_vectors(written(tmp_path, data), VOCABULARY)


def test_no_file_and_no_gzip_are_refused(tmp_path):
    with pytest.raises(RequestError, match="which is no file; expected one of word vectors"):
        vectors_width(str(tmp_path / "nowhere.vec"))
    (tmp_path / "plain.gz").write_bytes(PLAIN)
    with pytest.raises(RequestError, match=r"plain\.gz' cannot be unpacked"):
        read_vectors(str(tmp_path / "plain.gz"), VOCABULARY)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(PLAIN)[:-9])
    with pytest.raises(RequestError, match=r"cut\.gz' cannot be unpacked"):
        read_vectors(str(tmp_path / "cut.gz"), VOCABULARY)


def test_words_that_have_a_vector_get_it_and_the_others_stay(tmp_path):
    vectors, embed = read_vectors(written(tmp_path, PLAIN), VOCABULARY), torch.nn.Embedding(8, 3)
    before = embed.weight.detach().clone()
    load_word_vectors(vectors, embed)
    expected = before.index_copy(0, torch.tensor([4, 5]), torch.tensor([[4.0, 5.0, 6.0], [7.0, 8.0, 9.5]]))
    assert embed.weight.detach().equal(expected)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_frozen_are_the_files_vectors_alone(tmp_path, decay):
    vectors, embed = read_vectors(written(tmp_path, PLAIN), VOCABULARY), torch.nn.Embedding(8, 3)
    optimizer = make_optimizer(embed, 0.1, decay)
    load_word_vectors(vectors, embed)
    freeze_word_vectors(vectors, embed, optimizer)
    before = embed.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        embed(torch.arange(8)).square().sum().backward()
        assert embed.weight.grad[4:6].eq(0).all()
        optimizer.step()
    moved = (embed.weight - before).ne(0).any(1)
    assert moved.tolist() == [True, True, True, True, False, False, True, True]
