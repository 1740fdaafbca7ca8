"""What the tests stand on: an engine that could be had and was not is a failure, not one test less."""

from __future__ import annotations

import sys

import pytest

from tests.builders.fetched import fetch, need


def test_what_cannot_be_fetched_fails_the_test():
    with pytest.raises(pytest.fail.Exception, match=r"no engine: .* failed: no such version$"):
        fetch([sys.executable, "-c", "import sys; sys.exit('no such version')"], "engine")


def test_what_fetches_finds_its_environment():
    said = fetch([sys.executable, "-c", "import os; print(os.environ['PLACE'])"], "engine", PLACE="here")
    assert said == "here\n"


def test_only_a_tool_that_is_not_there_skips_it():
    with pytest.raises(
        pytest.skip.Exception, match="no engine: it needs no-such-tool, which is not installed"
    ):
        need("no-such-tool", "engine")
