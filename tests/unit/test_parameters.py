"""Parameters as data: each says what it means and where it comes from, and may be set by name."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
import sweep

from pyml.detectors import isolation
from pyml.forecasters import recurrent
from pyml.parameters import changed, described, parameter

ALL = [isolation.PARAMETERS, recurrent.PARAMETERS]


@dataclass(frozen=True, slots=True)
class Some:
    """A few."""

    count: int = parameter(3, "how many", "judgement")
    share: float = parameter(0.5, "how much", "tried from 0.1 to 0.9")
    spans: tuple[int, ...] = parameter((5, 15), "how long", "a paper")
    range: tuple[float, float] = parameter((3.0, 9.0), "from where to where", "a paper")


@pytest.mark.parametrize("parameters", ALL)
def test_each_parameter_has_a_meaning_and_a_source(parameters):
    rows = described(parameters)
    assert [name for name, *_ in rows] == list(type(parameters).__dataclass_fields__)
    for name, value, meaning, source in rows:
        assert isinstance(value, int | float | tuple), name
        assert len(meaning) > 10, name
        assert len(source) > 4, name
    assert len({meaning for _, _, meaning, _ in rows}) == len(rows)


@pytest.mark.parametrize("parameters", ALL)
def test_parameters_do_not_change(parameters):
    name = described(parameters)[0][0]
    with pytest.raises(FrozenInstanceError):
        setattr(parameters, name, 1)


def test_described_gives_the_value_in_force():
    rows = described(Some(count=4))
    assert rows[0] == ("count", 4, "how many", "judgement")
    assert [row[1] for row in rows] == [4, 0.5, (5, 15), (3.0, 9.0)]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "7", 7),
        ("share", "0.25", 0.25),
        ("share", "1", 1.0),
        ("share", "-1e-3", -0.001),
        ("spans", "(5, 60, 240)", (5, 60, 240)),
        ("spans", "(5,)", (5,)),
        ("range", "(2, 8.5)", (2.0, 8.5)),
    ],
)
def test_a_parameter_is_set_from_text(name, text, value):
    found = changed(Some(), {name: text})
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)
    others = [(one, before) for one, before, *_ in described(Some()) if one != name]
    assert [(one, getattr(found, one)) for one, _ in others] == others


def test_nothing_set_is_the_same():
    assert changed(Some(), {}) == Some()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("count", text) for text in ("0.5", "True", "many", "", "(1,)", "'3'", "1 +", "1; 2")),
        *(("share", text) for text in ("half", "True", "nan", "None", "[0.5]", "\0")),
        *(("spans", text) for text in ("5", "[5, 15]", "(5, 1.5)", "(5, 'a')", "()", "(5, True)")),
    ],
)
def test_a_text_that_is_no_such_value_is_refused(name, text):
    with pytest.raises(ValueError, match=f"{name} takes a value like"):
        changed(Some(), {name: text})


def test_a_name_that_no_parameter_has_is_refused():
    with pytest.raises(KeyError, match="colour"):
        changed(Some(), {"colour": "1"})


def test_the_command_line_sets_the_forests():
    found = sweep.parsed(["forest.subsample=128", "forest.windows=(5, 30)"])
    assert (found.subsample, found.windows) == (128, (5, 30))
    assert sweep.parsed([]) == isolation.PARAMETERS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("forest.trees=5", "no parameter forest.trees"),
        ("lstm.batch=5", "not of the form forest.NAME=VALUE"),
        ("forest.subsample", "not of the form"),
        ("forest.subsample=half", "subsample takes a value like 256, not 'half'"),
    ],
)
def test_the_command_line_says_what_is_wrong(given, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep.py", "--set", given])
    with pytest.raises(SystemExit) as caught:
        sweep.main()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_the_command_line_lists_each_parameter(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep.py", "--list", "--set", "forest.subsample=99"])
    sweep.main()
    told = " ".join(capsys.readouterr().out.split())
    for name, value, meaning, source in described(sweep.parsed(["forest.subsample=99"])):
        assert f"forest.{name} = {value} {meaning}. [{source}]" in told


def test_the_command_line_says_that_there_are_no_recordings(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["sweep.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit):
        sweep.main()
    assert "no smd/machine-*.csv.gz there" in capsys.readouterr().err
