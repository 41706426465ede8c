"""The table of slow tests names tests that there are."""

import re
from pathlib import Path

import pytest

from tests.conftest import SLOW

FILES = {path.name: path.read_text() for path in Path(__file__).parent.rglob("test_*.py")}


@pytest.mark.parametrize("pattern", SLOW)
def test_each_pattern_of_the_table_matches_a_test(pattern):
    file, _, test = pattern.removeprefix("apps/*").rpartition("::")
    name = re.match(r"[\w*]*", test)[0].replace("*", r"\w*")
    texts = [text for path, text in FILES.items() if re.fullmatch(file.replace("*", ".*"), path) or not file]
    assert any(re.search(rf"\b(?=test_){name}[(,]", text) for text in texts), "no such test"
