"""How people write where a value stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyml.paths import Element, parsed, parts_of, written

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
SIGNS = st.text('ab."[]= \n', max_size=6)
KEYS = st.one_of(TEXT, SIGNS)
PARTS = st.lists(st.one_of(KEYS, st.builds(Element, KEYS, KEYS)), min_size=1, max_size=6)


@given(PARTS)
def test_what_is_written_is_parsed(parts):
    assert parsed(written(parts)) == tuple(parts)


@given(st.lists(st.text('ab "]=°%()', min_size=1).filter(lambda text: text[0] != '"'), min_size=1))
def test_a_path_without_the_new_signs_means_what_it_did(parts):
    path = ".".join(parts)
    assert parts_of(path) == tuple(parts)


@given(st.text('ab."[]='))
def test_any_text_is_parted(text):
    assert parts_of(text)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("system.cpuUsage", ("system", "cpuUsage")),
        ("sensors.0.value", ("sensors", "0", "value")),
        ("CPU Load (%).now", ("CPU Load (%)", "now")),
        ("a[0].b", ("a[0]", "b")),
        ('5" pipe.flow', ('5" pipe', "flow")),
        ('"my.key".value', ("my.key", "value")),
        ('sys."cpu ""x"""', ("sys", 'cpu "x"')),
        ('"".x', ("", "x")),
        ("sensors[name=t1].value", ("sensors", Element("name", "t1"), "value")),
        ("hosts[ip=10.0.0.1].cpu", ("hosts", Element("ip", "10.0.0.1"), "cpu")),
        ('s["a.b"="x ]"][id=3]', ("s", Element("a.b", "x ]"), Element("id", "3"))),
        ("[name=t1].value", (Element("name", "t1"), "value")),
    ],
)
def test_what_a_path_means(path, parts):
    assert parsed(path) == parts


@pytest.mark.parametrize(
    "path",
    ["", ".", "a..b", ".a", "a.", '"a', '"a"b', "a[b=c", "a[b=]", "a[b=c]d", '"a"[0]', "a.[b=c]"],
)
def test_what_is_no_path(path):
    assert parsed(path) is None
    assert parts_of(path) == tuple(path.split("."))
