"""`sql/smoke.sql` as a person runs it."""

STEPS = {
    "Is all well?": 13,
    "Train an Isolation Forest": 1,
    "Anomalies of the last day, the worst five": 2,
    "Train a forecast": 1,
    "What comes next": 12,
    "The models in force": 2,
}


def test_it_goes_from_health_to_a_forecast(fleet):
    ran = fleet.smoked
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    sections = dict(part.split("\n", 1) for part in ran.stdout.split("== ")[1:])
    assert list(sections) == list(STEPS)
    for name, least in STEPS.items():
        lines = sections[name].splitlines()
        tables = sum("-+-" in line for line in lines)
        assert sum("|" in line for line in lines) >= tables + least, sections[name]
    well = sections["Is all well?"]
    assert well.count("| ok ") + well.count("| NO ") == fleet.ask(
        "SELECT count(*) FROM ml_doctor()"
    )


def test_without_a_device_it_says_how(fleet):
    ran = fleet.smoke()
    assert ran.returncode == 3
    assert "psql -v device=UUID -f sql/smoke.sql" in ran.stderr
