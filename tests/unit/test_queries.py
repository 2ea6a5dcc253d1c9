"""The statements that the module sends."""

import re
from pathlib import Path

import pytest

from pyml import queries

ROOT = Path(__file__).parents[2]

USED = {
    name
    for path in (ROOT / "pyml").rglob("*.py")
    for name in re.findall(r"\bqueries\.([A-Z_]+)\b", path.read_text())
} - {"MOST_DIGITS"}


def test_each_statement_is_there_and_is_used():
    assert {name.lower() for name in USED} == set(queries._NAMED)


@pytest.mark.parametrize("name", sorted(USED))
def test_a_statement_says_the_type_of_each_of_its_parameters(name):
    query = getattr(queries, name)
    numbers = {int(number) for number in re.findall(r"\$(\d+)", query.text)}
    assert numbers == set(range(1, len(query.types) + 1))
    assert "@" not in query.text


def test_what_is_no_statement_is_no_attribute():
    with pytest.raises(AttributeError):
        queries.NOWHERE  # noqa: B018 (asked for on purpose)
