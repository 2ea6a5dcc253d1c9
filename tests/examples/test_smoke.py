"""`sql/smoke.sql` as a person runs it."""

import pytest

pytestmark = pytest.mark.slow  # the fleet takes long to make

STEPS = {  # and how many lines each has at least
    "Is all well?": 13,
    "Train an Isolation Forest": 1,
    "Train a forecast": 1,
    "Scan": 1,
    "Its signals": 4,
    "Trouble of the last week": 1,
    "Somebody sees to the newest (taken back)": 1,
    "What people know (taken back)": 2,
    "Single readings of the last day, the worst five": 5,
    "What comes next": 12,
    "The next days": 0,
    "When its limits are reached": 0,
    "The models in force": 2,
}


def test_it_goes_from_health_to_trouble_and_what_comes(fleet):
    ran = fleet.smoked
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    sections = dict(part.split("\n", 1) for part in ran.stdout.split("== ")[1:])
    assert list(sections) == list(STEPS)
    for name, least in STEPS.items():
        lines = sections[name].splitlines()
        tables = sum("-+-" in line for line in lines)
        assert sum("|" in line for line in lines) >= tables + least, sections[name]
        assert max(map(len, lines), default=0) <= 120, name
    assert "has stood at" in sections["Trouble of the last week"]
    rules = "SELECT (SELECT count(*) FROM ml_rule) + (SELECT count(*) FROM ml_quiet)"
    assert fleet.ask(rules) == 0
    well = sections["Is all well?"]
    assert well.count("| ok ") + well.count("| NO ") == fleet.ask(
        "SELECT count(*) FROM ml_doctor()"
    )


def test_without_a_device_it_says_how(fleet):
    ran = fleet.smoke()
    assert ran.returncode == 3
    assert "psql -v device=UUID -f sql/smoke.sql" in ran.stderr
